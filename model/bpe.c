/* bpe.c - byte-level BPE of one word: the pair of lowest rank first, the leftmost of equals, until no pair merges.
 *
 * A word that is a token whole needs a lookup only (TOK_WHOLE says for which tokens that is the same).  Short words merge in
 * arrays, by scanning for the lowest rank; long ones in a linked list with a heap of (rank, position), O(n log n): a
 * megabyte of one letter is one word to Qwen's pattern.  Stale heap entries are not removed but recognised: the pair at
 * that position has another rank by then.
 *
 * Source: Sennrich, Haddow, Birch 2016; the tie rule is that of Hugging Face tokenizers' Word::merge_all. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_impl.h"

enum { SHORT_WORD = 64 }; /* bytes up to which scanning beats the heap */

static const int32_t NO_RANK = INT32_MAX;

static uint32_t pair_hash(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t) (uint32_t) left << 32 | (uint32_t) right) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t) (h >> 32);
}

/* Rank of the merge of (left, right) and what it gives; NO_RANK: they do not merge. */
static int32_t pair_rank(const struct tokenizer *t, int32_t left, int32_t right, int32_t *to)
{
    for (uint32_t i = pair_hash(left, right) & t->slot_mask;; i = (i + 1) & t->slot_mask) {
        const struct merge_slot *s = t->slot + i;
        if (s->rank < 0)
            return NO_RANK;
        if (s->left == left && s->right == right) {
            *to = s->to;
            return s->rank;
        }
    }
}

int tokenizer__slot(struct tokenizer *t, int32_t left, int32_t right, int32_t rank, int32_t to)
{
    uint32_t i = pair_hash(left, right) & t->slot_mask;
    for (; t->slot[i].rank >= 0; i = (i + 1) & t->slot_mask)
        if (t->slot[i].left == left && t->slot[i].right == right)
            return 0;
    t->slot[i] = (struct merge_slot){left, right, rank, to};
    return 1;
}

static size_t merge_short(const struct tokenizer *t, const char *p, size_t n, int32_t *id)
{
    int32_t rank[SHORT_WORD], to[SHORT_WORD]; /* of the pair (i, i + 1) */
    for (size_t i = 0; i < n; i++)
        id[i] = t->byte_id[(unsigned char) p[i]];
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = pair_rank(t, id[i], id[i + 1], to + i);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        id[best] = to[best];
        size_t tail = n - best - 2; /* ids behind the pair; the last of them starts no pair */
        memmove(id + best + 1, id + best + 2, tail * sizeof *id);
        if (tail > 0) {
            memmove(rank + best + 1, rank + best + 2, (tail - 1) * sizeof *rank);
            memmove(to + best + 1, to + best + 2, (tail - 1) * sizeof *to);
            rank[best] = pair_rank(t, id[best], id[best + 1], to + best);
        }
        n--;
        if (best > 0)
            rank[best - 1] = pair_rank(t, id[best - 1], id[best], to + best - 1);
    }
    return n;
}

/* The scratch of a long word.  Positions are byte offsets of each symbol's first byte. */
struct long_word {
    int32_t *prev, *next; /* (n) neighbouring symbols, -1: none */
    int32_t *rank, *to;   /* (n) of the pair that starts here; NO_RANK once it is gone */
    uint64_t *heap;       /* (2 n) rank << 32 | position, smallest on top */
    size_t n_heap;
};

static void heap_down(struct long_word *w, size_t i)
{
    uint64_t x = w->heap[i];
    for (;;) {
        size_t kid = 2 * i + 1;
        if (kid >= w->n_heap)
            break;
        if (kid + 1 < w->n_heap && w->heap[kid + 1] < w->heap[kid])
            kid++;
        if (w->heap[kid] >= x)
            break;
        w->heap[i] = w->heap[kid];
        i = kid;
    }
    w->heap[i] = x;
}

static void heap_push(struct long_word *w, int32_t rank, int32_t pos)
{
    uint64_t x = (uint64_t) (uint32_t) rank << 32 | (uint32_t) pos;
    size_t i = w->n_heap++;
    for (; i > 0 && w->heap[(i - 1) / 2] > x; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
}

static uint64_t heap_pop(struct long_word *w)
{
    uint64_t top = w->heap[0];
    w->heap[0] = w->heap[--w->n_heap];
    if (w->n_heap)
        heap_down(w, 0);
    return top;
}

static void long_start(const struct tokenizer *t, struct long_word *w, const char *p, int32_t n, int32_t *id)
{
    for (int32_t i = 0; i < n; i++) {
        id[i] = t->byte_id[(unsigned char) p[i]];
        w->prev[i] = i - 1;
        w->next[i] = i + 1 < n ? i + 1 : -1;
    }
    w->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        w->rank[i] = i + 1 < n ? pair_rank(t, id[i], id[i + 1], w->to + i) : NO_RANK;
        if (w->rank[i] != NO_RANK)
            w->heap[w->n_heap++] = (uint64_t) (uint32_t) w->rank[i] << 32 | (uint32_t) i;
    }
    for (size_t i = w->n_heap / 2; i-- > 0;)
        heap_down(w, i);
}

static void pair_again(const struct tokenizer *t, struct long_word *w, const int32_t *id, int32_t i)
{
    w->rank[i] = w->next[i] < 0 ? NO_RANK : pair_rank(t, id[i], id[w->next[i]], w->to + i);
    if (w->rank[i] != NO_RANK)
        heap_push(w, w->rank[i], i);
}

static size_t merge_long(const struct tokenizer *t, struct long_word *w, const char *p, int32_t n,
                         int32_t *id)
{
    long_start(t, w, p, n, id);
    while (w->n_heap) {
        uint64_t top = heap_pop(w);
        int32_t i = (int32_t) (uint32_t) top;
        if (w->rank[i] != (int32_t) (top >> 32))
            continue;
        int32_t gone = w->next[i];
        id[i] = w->to[i];
        w->next[i] = w->next[gone];
        if (w->next[i] >= 0)
            w->prev[w->next[i]] = i;
        w->rank[gone] = NO_RANK;
        pair_again(t, w, id, i);
        if (w->prev[i] >= 0)
            pair_again(t, w, id, w->prev[i]);
    }
    size_t count = 0;
    for (int32_t i = 0; i >= 0; i = w->next[i])
        id[count++] = id[i];
    return count;
}

int tokenizer__merge_bytes(const struct tokenizer *t, void **scratch, size_t *scratch_bytes, const char *p,
                           size_t n, int32_t *id, size_t *count)
{
    if (n <= SHORT_WORD) {
        *count = merge_short(t, p, n, id);
        return 0;
    }
    size_t need = n * (2 * sizeof(uint64_t) + 4 * sizeof(int32_t));
    if (need > *scratch_bytes) {
        void *q = realloc(*scratch, need);
        if (!q)
            return ST_NOMEM;
        *scratch = q;
        *scratch_bytes = need;
    }
    uint64_t *heap = *scratch;
    int32_t *ints = (int32_t *) (heap + 2 * n);
    struct long_word w = {ints, ints + n, ints + 2 * n, ints + 3 * n, heap, 0};
    *count = merge_long(t, &w, p, (int32_t) n, id);
    return 0;
}

int tokenizer__word(struct encoder *c, const char *p, size_t n)
{
    const struct tokenizer *t = c->t;
    int32_t whole = n <= TOKENIZER_TOKEN_BYTES_MAX ? tokenizer__find(t, p, n) : -1;
    int direct = whole >= 0 && (t->tok[whole].flags & TOK_WHOLE);
    if (tokenizer__reserve(c->out, direct ? 1 : n) < 0)
        return ST_NOMEM;
    if (direct) {
        c->out->id[c->out->n++] = whole;
        return 0;
    }
    size_t count;
    int st = tokenizer__merge_bytes(t, &c->scratch, &c->scratch_bytes, p, n, c->out->id + c->out->n, &count);
    if (st == 0)
        c->out->n += count;
    return st;
}
