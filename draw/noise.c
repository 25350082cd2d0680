/* noise.c - Philox4x32-10 and the Gumbel noise made of it.
 *
 *   key = the 64-bit seed, low word first; counter = (v / 4, k, choice, 0x6f757472 "outr"); word v mod 4 is x
 *   w = min((x + 0.5) * 2^-32, 1 - 2^-24) in float, one fma;  G = fl(-log(-log(1 - w)))
 *
 * 1 - w and both logarithms are taken in double: w may be as small as 2^-33, and log1p of it must keep its figures.
 * Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). */
#include "draw/internal.h"

#include <math.h>

#include "core/math.h"

enum { ROUNDS = 10, DOMAIN = 0x6f757472 };

void draw_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t a = (uint64_t) 0xD2511F53u * c0;
        uint64_t b = (uint64_t) 0xCD9E8D57u * c2;
        c0 = (uint32_t) (b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t) b;
        c2 = (uint32_t) (a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t) a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void draw__words(uint64_t seed, uint32_t choice, uint32_t k, uint32_t v4, uint32_t out[4])
{
    const uint32_t counter[4] = {v4, k, choice, DOMAIN};
    const uint32_t key[2] = {(uint32_t) seed, (uint32_t) (seed >> 32)};
    draw_philox(counter, key, out);
}

void draw__words_block(uint64_t seed, uint32_t choice, uint32_t k, uint32_t v4, uint32_t out[4 * DRAW__LANES])
{
    uint32_t c0[DRAW__LANES], c1[DRAW__LANES], c2[DRAW__LANES], c3[DRAW__LANES];
    uint32_t k0 = (uint32_t) seed, k1 = (uint32_t) (seed >> 32);
    for (uint32_t i = 0; i < DRAW__LANES; i++) {
        c0[i] = v4 + i;
        c1[i] = k;
        c2[i] = choice;
        c3[i] = DOMAIN;
    }
    for (int round = 0; round < ROUNDS; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int i = 0; i < DRAW__LANES; i++) {
            uint64_t a = (uint64_t) 0xD2511F53u * c0[i], b = (uint64_t) 0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t) (b >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t) b;
            c2[i] = (uint32_t) (a >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t) a;
        }
    for (int i = 0; i < DRAW__LANES; i++) {
        out[4 * i] = c0[i];
        out[4 * i + 1] = c1[i];
        out[4 * i + 2] = c2[i];
        out[4 * i + 3] = c3[i];
    }
}

float draw__gumbel(uint32_t x)
{
    float w = fminf(fmaf((float) x, 0x1p-32f, 0x1p-33f), 1 - 0x1p-24f);
    return (float) -math_log(-math_log(1 - (double) w));
}

float draw_noise(uint64_t seed, uint32_t choice, uint32_t k, uint32_t v)
{
    uint32_t word[4];
    draw__words(seed, choice, k, v / 4, word);
    return draw__gumbel(word[v % 4]);
}
