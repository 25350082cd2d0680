/* jdoc.h - a JSON text read into a flat list of nodes that still point at the text.
 *
 * Why not jansson: the chat template prints numbers as Python's json does, so 1.0 must stay apart from 1 and an integer of
 * forty digits must stay exact; jansson keeps neither.  And a tokenizer.json of 11 MB with 450,000 strings opens in a fifth
 * of the time.
 *
 * Nodes lie in preorder: an array's first item follows it directly, jnode_next() leads to the next one; an object's key is
 * followed by its value.  Strict RFC 8259: UTF-8 only, no lone surrogates, no duplicate keys, nothing after the value. */
#ifndef MODEL_JDOC_H
#define MODEL_JDOC_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum jnode_type {
    JNODE_NULL,
    JNODE_FALSE,
    JNODE_TRUE,
    JNODE_NUMBER,
    JNODE_STRING,
    JNODE_ARRAY,
    JNODE_OBJECT
};

struct jnode {
    const char *
        text; /* a string's characters, decoded (not NUL-terminated); otherwise the value as it was written */
    uint32_t bytes; /* of text */
    uint32_t n;     /* items of an array, members of an object */
    uint32_t span;  /* nodes it takes with all it contains, itself included */
    uint8_t type;   /* enum jnode_type */
};

struct jdoc {
    struct jnode *node; /* owns; (n); node[0] is the root */
    size_t n, cap;
    char *decoded; /* owns; strings that had escapes */
};

enum {
    JDOC_BYTES_MAX = 1 << 30, /* nodes count in 32 bits */
    JDOC_DEPTH_MAX = 128,     /* bounds the recursion; real schemas stay below 20 */
};

/* Reads text, which must outlive the document.  ST_FORMAT: malformed, e says where (byte offset) and what was expected;
 * ST_LIMIT; ST_NOMEM.  On failure d is empty. */
int jdoc_parse(struct jdoc *d, const char *text, size_t bytes, struct err *e);
void jdoc_free(struct jdoc *d); /* an empty one is fine */

static inline const struct jnode *jnode_first(const struct jnode *x)
{
    return x + 1;
}

static inline const struct jnode *jnode_next(const struct jnode *x)
{
    return x + x->span;
}

/* The value of key in object o; NULL: no such key, or o is no object. */
const struct jnode *jnode_get(const struct jnode *o, const char *key);

int jnode_is(const struct jnode *x, const char *s); /* 1: x is the string s */

const char *jnode_kind(const struct jnode *x); /* "a string", "an object"...; "nothing" for NULL */

/* 1: x is an integer of at most 18 characters, without fraction or exponent; *v is its value. */
int jnode_int(const struct jnode *x, int64_t *v);

/* --- text that grows: what JSON is written into --- */

struct jout {
    char *p; /* owns; (n); not NUL-terminated */
    size_t n, cap;
    int status; /* ST_NOMEM once it could not grow; what is written after that is dropped */
};

void jout_free(struct jout *o);
void jout_add(struct jout *o, const void *p, size_t n);
void jout_str(struct jout *o, const char *s);
void jout_int(struct jout *o, int64_t v);
void jout_quote(struct jout *o, const char *s,
                size_t n); /* a JSON string, as json.dumps(ensure_ascii=False) writes it */

/* x as Python's json.dumps(json.loads(text), ensure_ascii=False) writes it, which is what transformers' `tojson` does. */
void jout_node(struct jout *o, const struct jnode *x);

#endif
