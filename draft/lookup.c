/* lookup.c - what followed the last time these words were said: matches of the text's end in the text itself.
 *
 * Three tables, of the last 5, 2 and 1 tokens at each position, each a chain of positions with the same hash (as in LZ77).  The
 * newest few of the long chain, then of the shorter ones, are compared backward; the longest match wins, ties the newest.  A token
 * costs three insertions, a lookup at most 3 * TRIES * MATCH_MAX comparisons, however long the text; memory is at most nine
 * integers a token of room.  (Prompt lookup decoding, Saxena 2023.)  A suffix automaton finds the longest match of all; on source
 * code and prose that is right no more often (BENCH.md), takes several times the memory, and cannot forget a rewound end. */
#include "draft/internal.h"

#include <stdlib.h>

enum { TRIES = 8, MATCH_MAX = 32 };

static const int gram_len[LOOKUP_GRAMS] = {5, 2, 1};

int draft__lookup_init(struct lookup *u, int32_t room)
{
    uint32_t slots = 256;
    while (slots < (uint32_t) room && slots < 1u << 24)
        slots *= 2;
    u->mask = slots - 1;
    for (int g = 0; g < LOOKUP_GRAMS; g++) {
        u->head[g] = calloc(slots, sizeof *u->head[g]); /* untouched pages cost nothing */
        u->prev[g] = malloc((size_t) room * sizeof *u->prev[g]);
        if (!u->head[g] || !u->prev[g])
            return ST_NOMEM;
    }
    return 0;
}

void draft__lookup_fini(struct lookup *u)
{
    for (int g = 0; g < LOOKUP_GRAMS; g++) {
        free(u->head[g]);
        free(u->prev[g]);
    }
}

/* Token i of the text and what follows it: the root, then the guesses made so far. */
struct view {
    const int32_t *tok;
    int32_t n, root;
    const int32_t *guess;
};

static int32_t at(const struct view *w, int32_t i)
{
    return i < w->n ? w->tok[i] : i == w->n ? w->root : w->guess[i - w->n - 1];
}

static uint32_t slot_of(const struct lookup *u, const struct view *w, int32_t end, int len)
{
    uint32_t h = 0;
    for (int32_t i = end - len + 1; i <= end; i++)
        h = (h ^ (uint32_t) at(w, i)) * 0x9E3779B1u ^ h >> 15;
    return (h ^ h >> 16) & u->mask;
}

void draft__lookup_add(struct lookup *u, const int32_t *tok, int32_t pos)
{
    const struct view w = {.tok = tok, .n = pos + 1};
    for (int g = 0; g < LOOKUP_GRAMS; g++) {
        if (pos < gram_len[g] - 1)
            continue;
        int32_t *head = &u->head[g][slot_of(u, &w, pos, gram_len[g])];
        u->prev[g][pos] = *head;
        *head = pos + 1;
    }
}

/* Forgets the newest position; its token must still be there. */
void draft__lookup_drop(struct lookup *u, const int32_t *tok, int32_t pos)
{
    const struct view w = {.tok = tok, .n = pos + 1};
    for (int g = 0; g < LOOKUP_GRAMS; g++)
        if (pos >= gram_len[g] - 1)
            u->head[g][slot_of(u, &w, pos, gram_len[g])] = u->prev[g][pos];
}

static int32_t match_len(const struct view *w, int32_t end)
{
    int32_t n = 0;
    while (n < MATCH_MAX && n <= end && at(w, end - n) == at(w, w->n - n))
        n++;
    return n;
}

/* Where the longest match ends, and how long it is; 0: none. */
static int32_t longest(const struct lookup *u, const struct view *w, int32_t *end)
{
    int32_t best = 0;
    for (int g = 0; g < LOOKUP_GRAMS && best < gram_len[g]; g++) {
        if (w->n < gram_len[g])
            continue;
        int32_t p = u->head[g][slot_of(u, w, w->n, gram_len[g])];
        for (int t = 0; p > 0 && t < TRIES && best < MATCH_MAX; t++, p = u->prev[g][p - 1]) {
            int32_t n = match_len(w, p - 1);
            if (n > best) {
                best = n;
                *end = p - 1;
            }
        }
        if (best < gram_len[g]) /* another text with the same hash */
            best = 0;
    }
    return best;
}

int32_t draft__lookup_find(const struct lookup *u, const int32_t *tok, int32_t n, int32_t root, int32_t most,
                           int32_t *guess, int32_t *len)
{
    const struct view w = {tok, n, root, guess};
    int32_t end = 0;
    *len = longest(u, &w, &end);
    for (int32_t i = 0; i < most && *len; i++)
        guess[i] = at(&w, end + 1 + i);
    return *len ? most : 0;
}
