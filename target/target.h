/* target.h - the truth: one large model on one device, scoring the trees of all clients in one pass.
 *
 * A sequence's settled tokens are those in its KV; the newest token of the text is not among them, it is the root of
 * the next tree.  Work goes in three steps that only the last blocks on:
 *
 *     target_submit(batch)  ->  verifier_submit(logits views)  ->  target_settle(paths)  ->  target_wait
 *
 * so that logits and paths may stay on a device.  A row's logits depend on its own path only, never on its
 * neighbours, the slots of its ancestors, the thread count or the cache (DESIGN.md section 1).
 *
 * Thread: the engine thread.  Nothing here calls back.  Reserved, not built: feature rows of named layers, device lists. */
#ifndef TARGET_TARGET_H
#define TARGET_TARGET_H

#include <stdint.h>

#include "core/logits.h"
#include "core/status.h"
#include "core/tree.h"

struct cpu;
struct cpu_model;
struct model;
struct target;
struct target_seq;

struct target_opts {
    int32_t cuda;              /* 0: the CPU; 1 + N: CUDA device N */
    struct cpu *cpu;           /* CPU backend: threads and kernels; borrows until close */
    struct cpu_model *weights; /* CPU backend: packed weights; borrows until close */
    const struct model *model; /* borrows until close */
    const char
        *fingerprint_extra; /* options outside the target that change bits (the closing text); may be NULL */
    int32_t vocab;          /* ids in use: logits are shown for these only */
    int32_t kv_type;        /* enum cpu_kv_type */
    int32_t quant;          /* enum cpu_quant, for the fingerprint */
    int32_t ctx_max;        /* tokens a sequence; 0: the model's own, or as many as kv_bytes hold */
    int32_t rows_max;       /* rows a pass, all items together */
    int32_t logits_max;     /* rows of a pass that may want logits; they are what memory is spent on */
    int64_t kv_bytes;       /* memory for pages; CUDA, 0: what the device has left */
    int32_t prefix_cache;   /* 1: share whole pages between sequences */
};

struct target_info {
    int32_t vocab, ctx_max, page; /* page: positions a KV page */
    int32_t rows_max, logits_max;
    int32_t pages;        /* in the pool */
    char fingerprint[96]; /* numerics version, weights, precision, KV type, backend, kernel family, options */
    char device[64];      /* "cpu (avx512, 2 threads)", "cuda:0 (NVIDIA H200)" */
};

struct target_usage {
    int32_t pages_free, pages_cached, pages_used; /* cached: held by the prefix cache alone */
};

enum target_kind {
    TARGET_PROMPT, /* rows of a prompt chunk; no logits; settled at once */
    TARGET_KNOWN,  /* replayed or forced tokens; the last row's logits, or none; settled at once */
    TARGET_TREE    /* logits of every node; without target_settle before target_wait nothing of it is kept */
};

struct target_item {
    struct target_seq *seq;
    int32_t kind;            /* enum target_kind */
    int32_t n;               /* PROMPT, KNOWN: tokens */
    const int32_t *tok;      /* PROMPT, KNOWN: (n); borrowed until target_wait */
    const struct tree *tree; /* TREE; borrowed until target_wait */
    int32_t want_logits;     /* KNOWN: 1: the last row's logits */
    struct logits logits;    /* out; the rows are borrowed until the next target_submit */
};

/* name: "cpu", "cuda:N", or "auto": the first CUDA device that serves, else the CPU.  *cuda as target_opts has it; why: a sentence, also
 * on success.  ST_INPUT: another name; ST_UNSUPPORTED: no such device, or no CUDA in this build. */
int target_device_find(const char *name, int32_t *cuda, struct err *why);

/* On failure *out is NULL and e says what was needed and what was there. */
int target_open(struct target **out, const struct target_opts *o, struct err *e);
void target_close(struct target *t); /* NULL is fine; sequences must be freed before */
void target_describe(const struct target *t, struct target_info *out);
void target_usage(const struct target *t, struct target_usage *out);

/* A sequence that will hold these tokens: attaches the longest cached prefix of tok[0..n) in whole pages (never all n:
 * the last is a root) and takes no other page.  *cached: tokens already settled by that.  adapter: 0. */
int target_seq_new(struct target *t, const int32_t *tok, int32_t n, int32_t adapter, struct target_seq **out,
                   int32_t *cached);

/* A second sequence with the same settled tokens; shares the whole pages, copies the last.  ST_AGAIN: out of pages. */
int target_seq_fork(struct target *t, const struct target_seq *from, struct target_seq **out);

/* Preemption: gives every page back; the sequence stays, with nothing settled, and re-attaches what is cached of tok[0..n). */
int target_seq_drop(struct target *t, struct target_seq *s);
int target_seq_attach(struct target *t, struct target_seq *s, const int32_t *tok, int32_t n, int32_t *cached);
void target_seq_free(struct target *t, struct target_seq *s); /* NULL is fine */
int32_t target_seq_len(const struct target_seq *s);           /* settled tokens, as of the last target_wait */

/* Posts one pass over all items; a sequence may appear once.  0; ST_AGAIN: out of pages, nothing was changed, *which is
 * the first item that did not fit; ST_LIMIT: over rows_max, logits_max or ctx_max, likewise; ST_INPUT: a bad tree or id. */
int target_submit(struct target *t, struct target_item *item, int n, int *which);

/* Posts the settling of what was submitted: of each TREE item root and path[i]'s nodes are kept and the rest dropped.
 * path: (n), as in submit; entries of other kinds are not read.  Read only when the work runs: it may not be filled yet. */
int target_settle(struct target *t, const struct path *path, int n);

/* Runs or waits for everything posted.  Afterwards each sequence has grown by its chunk, or by 1 + path[i].n. */
int target_wait(struct target *t);

/* Forgets all settled tokens after the first len.  A shared page that is cut is copied: ST_AGAIN when there is none. */
int target_rewind(struct target *t, struct target_seq *s, int32_t len);

#endif
