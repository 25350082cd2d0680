/* gguf.h - a GGUF file, memory-mapped and checked before use: its metadata and its tensors.
 *
 * Source: ggml-org/ggml docs/gguf.md, versions 2 and 3, little-endian.  Every count, length, offset and alignment is checked
 * against the file before a byte of what it points at is used.  Names and shapes of tensors are the file's own; a stack of
 * experts is one tensor of three dimensions.  Immutable after open; any thread may read. */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "model/config.h"
#include "model/tensor.h"

struct gguf;

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

/* One value of the metadata; an array holds scalars or strings. */
struct gguf_value {
    const char *key;
    int type;     /* enum gguf_type; an array's: that of its items */
    int is_array; /* 1: n items lie at p one after another */
    uint64_t n;   /* items; 1 for a single value */
    const unsigned char
        *p; /* (bytes), little-endian, unaligned; a string is its 8-byte length and its characters */
    size_t bytes;
};

/* ST_IO; ST_FORMAT: malformed or truncated; ST_UNSUPPORTED: big-endian, version 1, one part of a split model, a tensor type
 * this build does not serve; ST_NOMEM.  *out is NULL on failure. */
int gguf_open(struct gguf **out, const char *path, struct err *e);
void gguf_close(struct gguf *g); /* NULL is fine */

const char *gguf_label(const struct gguf *g);                             /* its path, for sentences */
const struct gguf_value *gguf_get(const struct gguf *g, const char *key); /* NULL: no such key */
int gguf_int(const struct gguf_value *v, int64_t *out);                   /* 1: a single integer */
int gguf_number(const struct gguf_value *v, double *out);                 /* 1: a single float */
const char *gguf_string(const struct gguf_value *v, size_t *n);           /* NULL: not a single string */

/* The string of a list at *at (0 first), which moves on to the next. */
const char *gguf_next(const struct gguf_value *v, size_t *at, size_t *n);

int gguf_count(const struct gguf *g);
const struct tensor *gguf_tensors(const struct gguf *g); /* (gguf_count), sorted by name */

/* Configuration and generation defaults from the metadata of a qwen3 or qwen3moe.  As config_load. */
int gguf_config(struct config *c, struct gen_config *gen, const struct gguf *g, struct err *e);

#endif
