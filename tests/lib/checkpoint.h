/* checkpoint.h - checkpoints that a test writes for itself: a directory, its files, and small Qwen3 models.
 *
 * Test code: what cannot be written ends the program. */
#ifndef TESTS_LIB_CHECKPOINT_H
#define TESTS_LIB_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

char *checkpoint_dir_new(void);      /* below TMPDIR or /tmp; moves to the caller */
void checkpoint_dir_free(char *dir); /* removes its files and itself */

void checkpoint_write(const char *dir, const char *name, const void *p, size_t bytes);
void checkpoint_text(const char *dir, const char *name, const char *text);

/* A safetensors file of a header as it stands and `bytes` of data, byte i being (unsigned char) i. */
void checkpoint_raw(const char *dir, const char *name, const char *header, size_t bytes);

/* One tensor of a file to be written. */
struct checkpoint_tensor {
    char name[96];
    char dtype[8];  /* "F32", "BF16", ...; "" leaves the tensor out */
    int64_t dim[3]; /* 0 from n_dims on */
    int n_dims;
};

/* The tensors of a Qwen3 of one layer: hidden 8, 2 heads of 6, 1 key/value head, ffn 12, vocab 10.  F32, lm_head included.
 * Returns their number. */
enum { CHECKPOINT_TENSORS = 14 };
int checkpoint_tensors(struct checkpoint_tensor t[CHECKPOINT_TENSORS]);
extern const char checkpoint_config[]; /* its config.json, tied */

/* Writes tensors [0, n) as a safetensors file; each tensor's data follows from its name and `salt` alone. */
void checkpoint_tensors_write(const char *dir, const char *name, const struct checkpoint_tensor *t, int n,
                              unsigned salt);

/* The first of the '|'-separated words that the sentence lacks (static storage), or NULL when all are there. */
const char *checkpoint_lacks(const struct err *e, const char *words);

/* DIR of shared files: OUTRIDER_SHARED or ../shared, then `sub`.  Static storage; NULL when it is not there (and says so on
 * stderr). */
const char *checkpoint_shared(const char *sub);

#endif
