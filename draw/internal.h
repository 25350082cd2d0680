/* internal.h - what the files of draw/ share. */
#ifndef DRAW_INTERNAL_H
#define DRAW_INTERNAL_H

#include "draw/draw.h"

/* The four words of counter (v4, k, choice): tokens 4 v4 .. 4 v4 + 3. */
void draw__words(uint64_t seed, uint32_t choice, uint32_t k, uint32_t v4, uint32_t out[4]);

enum { DRAW__LANES = 32 };

/* The same of DRAW__LANES counters from v4 on, as loops that go into vectors. */
void draw__words_block(uint64_t seed, uint32_t choice, uint32_t k, uint32_t v4,
                       uint32_t out[4 * DRAW__LANES]);

/* G of one word. */
float draw__gumbel(uint32_t x);

/* The same bound for every word with x's leading zeros: -log(1 - w) >= w >= 2^-(z + 1), so G <= (z + 1) ln 2.  Rounded up.
 * Nearly every token is out of the race by this alone, and no logarithm is taken for it. */
static inline float draw__gumbel_bound(uint32_t x)
{
    return (float) ((x ? __builtin_clz(x) : 32) + 1) * 0.6931473f;
}

/* 1: tok is in the ascending list. */
int draw__has(const int32_t *list, int32_t n, int32_t tok);

#endif
