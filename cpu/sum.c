/* sum.c - a sum over bytes that shows any change of one word for certain, and others with 2^-64.
 *
 * Eight lanes, each h = rotl((h ^ word) * P, 29): like FNV-1a (Fowler, Noll, Vo) on words, and one to one in h as in the word, so
 * that a difference never vanishes by itself; the rotation brings it down from the high bits, where a product would keep it.
 * As fast as memory. */
#include "cpu/inside.h"

#include <string.h>

enum {
    LANES = 8,
    AHEAD = 4096 /* bytes: the machine's own prefetching stops at each page of 4 KB */
};

static uint64_t step(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9e3779b97f4a7c15u; /* odd */
    return h << 29 | h >> 35;
}

static uint64_t word_at(const unsigned char *p, int i)
{
    uint64_t word;
    memcpy(&word, p + 8 * i, sizeof word);
    return word;
}

/* Lanes as variables: an array would be kept in memory, and each step wait for its store.  bytes: a multiple of a block. */
static void blocks(uint64_t h[LANES], const unsigned char *p, size_t bytes)
{
    uint64_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], i = h[7];
    for (const unsigned char *end = p + bytes; p < end; p += 8 * LANES) {
        __builtin_prefetch(p + AHEAD);
        a = step(a, word_at(p, 0));
        b = step(b, word_at(p, 1));
        c = step(c, word_at(p, 2));
        d = step(d, word_at(p, 3));
        e = step(e, word_at(p, 4));
        f = step(f, word_at(p, 5));
        g = step(g, word_at(p, 6));
        i = step(i, word_at(p, 7));
    }
    memcpy(h, (uint64_t[LANES]){a, b, c, d, e, f, g, i}, LANES * sizeof *h);
}

uint64_t cpu__sum(const void *data, size_t bytes)
{
    unsigned char tail[8 * LANES] = {0};
    uint64_t h[LANES], all = bytes;
    size_t whole = bytes / sizeof tail * sizeof tail;
    for (int i = 0; i < LANES; i++)
        h[i] = step((uint64_t) i, bytes);
    blocks(h, data, whole);
    memcpy(tail, (const unsigned char *) data + whole, bytes - whole);
    blocks(h, tail, sizeof tail);
    for (int i = 0; i < LANES; i++)
        all = step(all, h[i]);
    return step(all, all >> 32);
}
