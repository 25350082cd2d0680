/* passes.h - one sequence over cpu/: a model opened, a KV cache, and the three ways to feed it (a chunk, one row at a time,
 * a tree in slots).  For tests; fails the running test where a call fails. */
#ifndef TESTS_LIB_PASSES_H
#define TESTS_LIB_PASSES_H

#include "core/tree.h"
#include "cpu/cpu.h"

enum { PASSES_PAGES = 64, PASSES_SLOTS = 128 };

struct passes {
    const struct model *model; /* borrows */
    struct cpu *cpu;
    struct cpu_model *weights;
    struct cpu_kv *kv;
    int32_t page[PASSES_PAGES];
    int len; /* settled positions */
    int vocab;
};

struct passes_opts {
    int isa, threads, quant, kv_type, flags;
};

/* The twins at their fastest here: CPU_ISA_TWIN_FMA, or CPU_ISA_TWIN where there is no FMA.  Equal: tests/pair. */
int passes_twin(void);

void passes_open(struct passes *p, const struct model *m, struct passes_opts o);
void passes_close(struct passes *p);

/* Settles n tokens as one chunk.  logits: (n, vocab) of every row, or NULL. */
void passes_chunk(struct passes *p, const int32_t *ids, int n, float *logits, int flags);

/* Scores a tree whose node i lies in slot[i], below the settled positions; nothing is settled.  logits: (t->n, vocab). */
void passes_tree(struct passes *p, const struct tree *t, const int32_t *slot, float *logits);

/* Settles a node's slot at the next position. */
void passes_commit(struct passes *p, int32_t slot);

int passes_argmax(const float *row, int vocab); /* ties by the lower id */

/* OUTRIDER_SHARED/tail, by default ../shared/tail, in static storage; NULL, with a line saying so, where it is missing. */
const char *passes_shared(const char *tail);

/* Reads a whole file, NUL-terminated; fails the test where it cannot.  The caller frees. */
char *passes_file(const char *path, size_t *bytes);

#endif
