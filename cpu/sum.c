/* sum.c - a sum over bytes that shows any change of one word for certain, and others with 2^-64.
 *
 * Eight lanes, each h = rotl((h ^ word) * P, 29): like FNV-1a (Fowler, Noll, Vo) on words, and one to one in h as in the word, so
 * that a difference never vanishes by itself; the rotation brings it down from the high bits, where a product would keep it.
 * As fast as memory. */
#include "cpu/inside.h"

#include <string.h>

enum { LANES = 8 };

static uint64_t step(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9e3779b97f4a7c15u; /* odd */
    return h << 29 | h >> 35;
}

static void block(uint64_t h[LANES], const unsigned char *p)
{
    for (int i = 0; i < LANES; i++) {
        uint64_t word;
        memcpy(&word, p + 8 * i, sizeof word);
        h[i] = step(h[i], word);
    }
}

uint64_t cpu__sum(const void *data, size_t bytes)
{
    const unsigned char *p = data;
    unsigned char tail[8 * LANES] = {0};
    uint64_t h[LANES], all = bytes;
    size_t at = 0;
    for (int i = 0; i < LANES; i++)
        h[i] = step((uint64_t) i, bytes);
    for (; at + sizeof tail <= bytes; at += sizeof tail)
        block(h, p + at);
    memcpy(tail, p + at, bytes - at);
    block(h, tail);
    for (int i = 0; i < LANES; i++)
        all = step(all, h[i]);
    return step(all, all >> 32);
}
