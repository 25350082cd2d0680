/* ggufile.h - GGUF files that a test writes for itself, also wrong ones: every count, type and offset can be set against the rules.
 *
 * Zero-initialise; the builder's calls append.  Test code: out of memory ends the program. */
#ifndef TESTS_LIB_GGUFILE_H
#define TESTS_LIB_GGUFILE_H

#include <stdint.h>

#include "model/gguf.h"
#include "model/jdoc.h"

enum {
    GGUFILE_F32 = 0,
    GGUFILE_F16 = 1,
    GGUFILE_Q8_0 = 8,
    GGUFILE_Q5_K = 13,
    GGUFILE_Q6_K = 14
}; /* ggml's numbers */

struct ggufile {
    struct jout meta, table; /* own */
    uint64_t n_meta, n_tensors, data;
    uint32_t version;   /* 0: 3 */
    uint64_t align;     /* 0: 32 */
    int64_t shift_next; /* added to the next tensor's offset: wrong where it is not 0 */
};

void ggufile_le(struct jout *o, uint64_t x, int bytes);
void ggufile_string(struct jout *o, const char *s, size_t n);

void ggufile_key(struct ggufile *g, const char *key, uint32_t type);
void ggufile_int(struct ggufile *g, const char *key, uint32_t v);
void ggufile_float(struct ggufile *g, const char *key, float v);
void ggufile_bool(struct ggufile *g, const char *key, int v);
void ggufile_text(struct ggufile *g, const char *key, const char *v);
void ggufile_list(struct ggufile *g, const char *key, uint32_t type,
                  uint64_t n); /* items follow in g->meta */

/* dim: outermost first; its data is `bytes` bytes, byte i being (unsigned char) i / 2, padded. */
void ggufile_tensor(struct ggufile *g, const char *name, uint32_t type, int n_dims, const int64_t *dim,
                    uint64_t bytes);

void ggufile_bytes(struct ggufile *g, struct jout *out); /* the whole file; frees the builder */

/* A small whole model: one layer, hidden 32, 2 heads of 16 and one for keys and values, 261 tokens: bytes in order, two merges
 * ("t" "h", "th" "e"), "<|im_end|>" (control), "<think>" (user-defined) and a padding token. */
void ggufile_small_meta(struct ggufile *g, const char *arch);
void ggufile_small_tokens(struct ggufile *g);
void ggufile_small_tensors(struct ggufile *g, int moe); /* moe: four experts of width 32, two used */

#endif
