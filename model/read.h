/* read.h - what the files of model/ share: a file mapped read-only, JSON parsed strictly, words for refusals.
 *
 * Internal to the folder.  A file that shrinks while it is mapped is out of scope: checkpoints are not written to
 * while they are served. */
#ifndef MODEL_READ_H
#define MODEL_READ_H

#include <jansson.h>
#include <stddef.h>

#include "core/status.h"
#include "model/config.h"
#include "model/gguf.h"
#include "model/safetensors.h"

/* The longest JSON text taken.  The largest official index (Qwen3-235B-A22B, 37,000 tensors) has 4 MB; the worst text, a
 * list of empty objects, takes 80 times its size when parsed, so hostile files stay below 1.3 GB. */
enum { MODEL_JSON_MAX = 16 << 20 };

/* Printable words from outside bytes, cut to fit a sentence: control characters become '?'.  Used as a temporary:
 * model__quote(s).s */
struct model__text {
    char s[120];
};
struct model__text model__quote(const char *s);
struct model__text
model__show(const json_t *v); /* a scalar as JSON text; "an object", "an array"; NULL: "missing" */

/* What the system says of a file: all of it is the same while nobody has touched the file. */
struct model__stamp {
    uint64_t device, inode, bytes;
    int64_t modified_ns, changed_ns; /* CLOCK_REALTIME; a tool can set the first, not the second */
};

/* A file in memory. */
struct model__file {
    char label[200];  /* DIR/NAME for sentences, its head cut when it is long */
    const void *data; /* (bytes) */
    size_t bytes;
    int mapped;                /* 1: close unmaps; 0: borrowed memory (fuzzing) */
    struct model__stamp stamp; /* zeros: borrowed memory */
};

/* Maps DIR/NAME, or the path NAME where dir is NULL.  ST_NOTFOUND: not there; ST_IO: not readable, not a regular file; ST_FORMAT: empty. */
int model__file_open(struct model__file *f, const char *dir, const char *name, struct err *e);
/* The same for a file that must be there: ST_IO when it is not. */
int model__file_need(struct model__file *f, const char *dir, const char *name, struct err *e);
void model__file_close(struct model__file *f);

/* 1: DIR/NAME is there (whatever it is). */
int model__file_exists(const char *dir, const char *name);

/* One JSON object, duplicate keys refused, nothing after it.  The caller owns *out.  jansson bounds the depth (2048) and
 * hashes keys with a random seed.  ST_FORMAT. */
int model__json_object(json_t **out, const char *label, const void *text, size_t bytes, struct err *e);

/* The files an open checkpoint lies in. */
int safetensors__n_files(const struct safetensors *s);
const struct model__file *safetensors__file(const struct safetensors *s, int i);
const struct model__file *gguf__file(const struct gguf *g);

/* --- the same checks on memory instead of files: what the public calls are made of, and what is fuzzed --- */

/* p: (bytes) the contents of one model.safetensors; borrowed until safetensors_close. */
int safetensors__open_bytes(struct safetensors **out, const void *p, size_t bytes, struct err *e);

/* p: (bytes) the contents of a .gguf file; borrowed until gguf_close. */
int gguf__open_bytes(struct gguf **out, const void *p, size_t bytes, struct err *e);

/* gen: generation_config.json; its data is NULL where the file is missing. */
int config__parse(struct config *c, struct gen_config *g, const struct model__file *config,
                  const struct model__file *gen, struct err *e);

#endif
