/* kerns.h - what pair tests and kernel benchmarks share: the tables this machine can run, numbers, bits, a clock. */
#ifndef TESTS_KERNS_H
#define TESTS_KERNS_H

#include <stddef.h>
#include <stdint.h>

#include "cpu/kern.h"

enum { KERNS_MAX = 6 };

/* Fills out with twin, its FMA build, avx2, avxvnni, avx512 and vnni, as far as this machine goes, each over the one before.
 * Returns how many;
 * out[0] is the twin.  Prints a skip for each it lacks. */
int kerns_list(struct kern out[KERNS_MAX]);

/* xorshift64*: the same numbers everywhere. */
uint64_t kerns_next(uint64_t *state);
int kerns_below(uint64_t *state, int n); /* [0, n) */
float kerns_normal(uint64_t *state);     /* roughly N(0, 1) */

/* A float to break kernels with: zeros of both signs, denormals, tiny, huge and ordinary values; always finite. */
float kerns_wild(uint64_t *state);

/* The first index at which bits differ, or -1.  Two NaNs are equal: NUMERICS.md leaves the payload open. */
long kerns_differ(const float *a, const float *b, size_t n);

double kerns_now(void); /* seconds, monotonic */

#endif
