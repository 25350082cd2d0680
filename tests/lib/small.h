/* small.h - a random model small enough that thousands of passes take a moment, opened for the CPU: what tests of target and draft
 * stand on.  Fails the running test where something does not open. */
#ifndef TESTS_LIB_SMALL_H
#define TESTS_LIB_SMALL_H

#include "cpu/cpu.h"
#include "target/target.h"

enum { SMALL_VOCAB = 61, SMALL_CTX = 512 }; /* ids in use are fewer than the model's rows (SMALL_VOCAB + 3) */

struct small {
    struct model *model; /* owns, as all here */
    struct cpu *cpu;
    struct cpu_model *weights;
};

void small_open(struct small *s, uint64_t seed);
void small_close(struct small *s);

/* Options of a target over it: n_pages pages, prefix cache or not. */
struct target_opts small_target(const struct small *s, int n_pages, int prefix_cache);

uint32_t small_dice(uint64_t *state, uint32_t n); /* [0, n) */
int32_t small_token(uint64_t *state);             /* any id in use */

/* A tree of up to `nodes` random tokens, at most `depth` deep. */
void small_tree(struct tree *t, int32_t root, int nodes, int depth, uint64_t *state);
/* A random way down it. */
void small_path(const struct tree *t, struct path *p, uint64_t *state);

#endif
