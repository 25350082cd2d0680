/* pick.c - cuts and the draw itself, of what prepare.c makes; the draft's ranking by the same dice.
 *
 * Order (NUMERICS.md): top_k -> top_p -> min_p -> draw.  top_k goes by (value descending, id
 * ascending); top_p follows that order with a sequential double sum of exp(value - maximum) until it reaches top_p times the
 * total, the total being summed over what top_k left, in order of id (with top_k on: in the order of the cut); at least one
 * stays.  min_p keeps exp(value - maximum) >= min_p.
 *
 * What is left after cuts is a short list; with no cuts the race runs over the whole vocabulary, begun by the ids that lead
 * without noise: what they cannot be reached from needs no noise, and a bound on the rest spares nearly every logarithm. */
#include "draw/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/math.h"

enum { RANK_MAX = 64 }; /* most outcomes draw_rank is asked for */

enum {
    BLOCK = 4 * DRAW__LANES, /* values looked at together */
    LANES = 16,              /* partial sums of a softmax */
    EXP_BITS = 0x42ae0000,   /* 87, as float bits: exp(-87) is 0 to the draft */
};

static const float NOISE_MAX =
    22.88f; /* G of w = 2^-33, the most there is, and what rounding adds to a sum of such size */

/* --- the race: the k best scores, ties by the lower id --- */

struct race {
    int k, n;
    int32_t tok[RANK_MAX];
    float score[RANK_MAX]; /* best first; -inf behind n */
};

static void race_init(struct race *r, int k)
{
    r->k = k;
    r->n = 0;
    for (int i = 0; i < k; i++)
        r->score[i] = -INFINITY;
}

static int ahead(float score, int32_t v, float other, int32_t u)
{
    return score > other || (score == other && v < u);
}

static void race_enter(struct race *r, int32_t v, float score)
{
    if (r->n == r->k && !ahead(score, v, r->score[r->k - 1], r->tok[r->k - 1]))
        return;
    int i = r->n < r->k ? r->n++ : r->k - 1;
    for (; i > 0 && ahead(score, v, r->score[i - 1], r->tok[i - 1]); i--) {
        r->tok[i] = r->tok[i - 1];
        r->score[i] = r->score[i - 1];
    }
    r->tok[i] = v;
    r->score[i] = score;
}

static int race_has(const struct race *r, int32_t v)
{
    for (int i = 0; i < r->n; i++)
        if (r->tok[i] == v)
            return 1;
    return 0;
}

static void race_cold(struct race *r, const float *value, int32_t vocab)
{
    for (int32_t v = 0; v < vocab; v++)
        if (value[v] > r->score[r->k - 1])
            race_enter(r, v, value[v]);
}

struct draw_scratch {
    int32_t vocab;
    struct race top; /* what top_k keeps, or what leads without noise */
    float *value;    /* (vocab) logits after masks, penalties, bias and temperature; -inf where masked */
    float *after;    /* (vocab) the same after cuts, for logprobs */
    int32_t *heap;   /* (vocab) ids */
};

struct draw_scratch *draw_scratch_new(int32_t vocab)
{
    struct draw_scratch *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->vocab = vocab;
    x->value = malloc((size_t) vocab * sizeof *x->value);
    x->heap = malloc((size_t) vocab * sizeof *x->heap);
    x->after = malloc((size_t) vocab * sizeof *x->after);
    if (!x->value || !x->heap || !x->after) {
        draw_scratch_free(x);
        return NULL;
    }
    return x;
}

void draw_scratch_free(struct draw_scratch *x)
{
    if (!x)
        return;
    free(x->value);
    free(x->heap);
    free(x->after);
    free(x);
}

static int32_t argmax(const float *value, int32_t n)
{
    int32_t best = -1;
    float top = -INFINITY;
    for (int32_t v = 0; v < n; v++)
        if (value[v] > top) {
            top = value[v];
            best = v;
        }
    return best;
}

/* --- cuts --- */

static int before(const float *value, int32_t a, int32_t b)
{
    return value[a] > value[b] || (value[a] == value[b] && a < b);
}

static void sift(const float *value, int32_t *h, int32_t n, int32_t i)
{
    for (;;) {
        int32_t top = i, l = 2 * i + 1, r = l + 1;
        if (l < n && before(value, h[l], h[top]))
            top = l;
        if (r < n && before(value, h[r], h[top]))
            top = r;
        if (top == i)
            return;
        int32_t t = h[i];
        h[i] = h[top];
        h[top] = t;
        i = top;
    }
}

/* Heap of every unmasked id, best at 0. */
static int32_t heap_make(const float *value, int32_t vocab, int32_t *h)
{
    int32_t n = 0;
    for (int32_t v = 0; v < vocab; v++)
        if (value[v] > -INFINITY)
            h[n++] = v;
    for (int32_t i = n / 2 - 1; i >= 0; i--)
        sift(value, h, n, i);
    return n;
}

/* Moves the best of h[0..n) to h[n - 1]: popped ids lie at the end, the first popped last. */
static void heap_pop(const float *value, int32_t *h, int32_t n)
{
    int32_t best = h[0];
    h[0] = h[n - 1];
    sift(value, h, n - 1, 0);
    h[n - 1] = best;
}

static double weight(const float *value, int32_t v, float top)
{
    return math_exp((double) (value[v] - top));
}

static double total_weight(const float *value, int32_t vocab, float top)
{
    double sum = 0;
    for (int32_t v = 0; v < vocab; v++)
        if (value[v] > -INFINITY)
            sum += weight(value, v, top);
    return sum;
}

/* The ids a cut keeps, best first. */
struct kept {
    const int32_t *id;
    int32_t n;
};

/* top_k on: the k best in order, then top_p of their own total, then min_p. */
static void cut_top_k(const struct draw_params *p, const float *value, struct kept *k)
{
    float top = value[k->id[0]];
    if (p->top_p < 1) {
        double total = 0, sum = 0;
        for (int32_t i = 0; i < k->n; i++)
            total += weight(value, k->id[i], top);
        int32_t n = 0;
        while (n < k->n && sum < p->top_p * total)
            sum += weight(value, k->id[n++], top);
        k->n = n;
    }
    while (k->n > 1 && weight(value, k->id[k->n - 1], top) < p->min_p)
        k->n--;
}

/* top_k off: ids leave the heap best first until top_p's share is reached or min_p's floor. */
static int32_t cut_open(const struct draw_params *p, const float *value, int32_t vocab, int32_t *h, int32_t n)
{
    float top = value[h[0]];
    double sum = 0, limit = p->top_p < 1 ? p->top_p * total_weight(value, vocab, top) : INFINITY;
    int32_t left = n;
    while (left > 0 && sum < limit) {
        double w = weight(value, h[0], top);
        if (left < n && w < p->min_p)
            break;
        heap_pop(value, h, left--);
        sum += w;
    }
    return n - left;
}

static void reverse(int32_t *a, int32_t n)
{
    for (int32_t i = 0, j = n - 1; i < j; i++, j--) {
        int32_t t = a[i];
        a[i] = a[j];
        a[j] = t;
    }
}

/* Applies top_k, top_p, min_p.  k->n is 0 when the masks left nothing. */
static void cut(const struct draw_params *p, int32_t vocab, struct draw_scratch *x, struct kept *k)
{
    const float *value = x->value;
    if (p->top_k > 0 && p->top_k <= RANK_MAX) { /* the usual case: one scan, no heap */
        race_init(&x->top, p->top_k);
        race_cold(&x->top, value, vocab);
        *k = (struct kept){x->top.tok, x->top.n};
        if (k->n)
            cut_top_k(p, value, k);
        return;
    }
    int32_t *h = x->heap, n = heap_make(value, vocab, h), taken = 0;
    if (n && p->top_k > 0)
        for (; taken < p->top_k && taken < n; taken++)
            heap_pop(value, h, n - taken);
    else if (n)
        taken = cut_open(p, value, vocab, h, n);
    reverse(h + n - taken, taken);
    *k = (struct kept){h + n - taken, taken};
    if (taken && p->top_k > 0)
        cut_top_k(p, value, k);
}

static int has_cuts(const struct draw_params *p)
{
    return p->top_k > 0 || p->top_p < 1 || p->min_p > 0;
}

static void race_list(struct race *r, const struct draw_params *p, uint32_t pos, const float *value,
                      const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        race_enter(r, ids[i],
                   value[ids[i]] + draw_noise(p->seed, (uint32_t) p->choice, pos, (uint32_t) ids[i]));
}

/* Whether noise may carry one of n values to `score`.  The sum is rounded as that with the noise itself, so it cannot be less
 * (a difference score - NOISE_MAX could round the other way).  A loop without branches, for vectors. */
static int any_reaches(const float *value, int n, float score)
{
    int any = 0;
    for (int i = 0; i < n; i++)
        any |= value[i] + NOISE_MAX >= score;
    return any;
}

/* Enters those of ids [v0, v0 + n) that noise may carry past the k best so far; `led` have entered already. */
static void race_block(struct race *r, const struct race *led, const struct draw_params *p, uint32_t pos,
                       const float *value, int32_t v0, int n)
{
    uint32_t word[BLOCK];
    draw__words_block(p->seed, (uint32_t) p->choice, pos, (uint32_t) v0 / 4, word);
    for (int i = 0; i < n; i++) {
        float x = value[v0 + i];
        if (x + draw__gumbel_bound(word[i]) < r->score[r->k - 1] || x == -INFINITY || race_has(led, v0 + i))
            continue;
        race_enter(r, v0 + i, x + draw__gumbel(word[i]));
    }
}

static void race_all(struct race *r, const struct draw_params *p, uint32_t pos, const float *value,
                     int32_t vocab, struct race *led)
{
    race_init(led, r->k);
    race_cold(led, value, vocab);
    race_list(r, p, pos, value, led->tok, led->n);
    for (int32_t v = 0; v < vocab; v += BLOCK) {
        int n = vocab - v < BLOCK
        ? vocab - v : BLOCK;
        if (any_reaches(value + v, n, r->score[r->k - 1]))
            race_block(r, led, p, pos, value, v, n);
    }
}

/* 0, or ST_INPUT: the masks left nothing. */
static int race_run(struct race *r, const struct draw_params *p, const struct draw_state *s, int32_t vocab,
                    struct draw_scratch *x)
{
    uint32_t pos = (uint32_t) s->pos;
    if (draw__is_cold(p)) {
        race_cold(r, x->value, vocab);
    } else if (has_cuts(p)) {
        struct kept kept;
        cut(p, vocab, x, &kept);
        race_list(r, p, pos, x->value, kept.id, kept.n);
    } else {
        race_all(r, p, pos, x->value, vocab, &x->top);
    }
    return r->n ? 0 : ST_INPUT;
}

int draw_pick(const struct draw_params *p, const struct draw_state *s, const struct draw_seen *seen,
              const float *logits, int32_t vocab, struct draw_scratch *x, int32_t *tok)
{
    if (!draw__all_finite(p, seen, logits, vocab))
        return ST_NONFINITE;
    struct race r;
    race_init(&r, 1);
    draw__prepare(p, s, seen, logits, vocab, x->value);
    int st = race_run(&r, p, s, vocab, x);
    if (!st)
        *tok = r.tok[0];
    return st;
}

int32_t draw__best(const float *l, int32_t vocab, int32_t k, int32_t *tok)
{
    struct race r;
    if (k == 0)
        return 0;
    race_init(&r, k);
    race_cold(&r, l, vocab);
    memcpy(tok, r.tok, (size_t) r.n * sizeof *tok);
    return r.n;
}

const float *draw__processed(const struct draw_params *p, const struct draw_state *s,
                             const struct draw_seen *seen, const float *l, int32_t vocab,
                             struct draw_scratch *x)
{
    struct kept kept = {0};
    int32_t best;
    draw__prepare(p, s, seen, l, vocab, x->value);
    if (draw__is_cold(p)) {
        best = argmax(x->value, vocab);
        kept = (struct kept){&best, best >= 0};
    } else if (has_cuts(p)) {
        cut(p, vocab, x, &kept);
    } else {
        return x->value;
    }
    for (int32_t v = 0; v < vocab; v++)
        x->after[v] = -INFINITY;
    for (int32_t i = 0; i < kept.n; i++)
        x->after[kept.id[i]] = x->value[kept.id[i]];
    return x->after;
}

/* exp(x) for x <= 0 to 3e-7: the draft's own figure, so libm's care is not needed, and this loop goes into vectors (a clamp of
 * the bits does, a comparison of floats would not).  2^-n by the exponent's bits, n the whole part of |x| log2(e); Taylor's
 * series of the rest, at most ln(2) / 2. */
static float quick_exp(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0x7fffffff;
    bits = bits > EXP_BITS ? EXP_BITS : bits;
    float y, scale;
    memcpy(&y, &bits, sizeof y);
    int32_t n = (int32_t) (y * 1.44269504f + 0.5f);
    float f = (float) n * 0.693147181f - y;
    uint32_t scale_bits = (uint32_t) (127 - n) << 23;
    memcpy(&scale, &scale_bits, sizeof scale);
    return scale *
           (1 + f * (1 + f * (0.5f + f * (1.f / 6 + f * (1.f / 24 + f * (1.f / 120 + f * (1.f / 720)))))));
}

/* The softmax at the race's ids. */
static void probabilities(const struct race *r, const float *value, int32_t vocab, float *prob)
{
    float top = value[argmax(value, vocab)], part[LANES] = {0}, sum = 0;
    int32_t v = 0;
    for (; v + LANES <= vocab; v += LANES)
        for (int i = 0; i < LANES; i++)
            part[i] += quick_exp(value[v + i] - top);
    for (; v < vocab; v++)
        sum += quick_exp(value[v] - top);
    for (int i = 0; i < LANES; i++)
        sum += part[i];
    for (int i = 0; i < r->n; i++)
        prob[i] = quick_exp(value[r->tok[i]] - top) / sum;
}

int draw_rank(const struct draw_params *p, const struct draw_state *s, const struct draw_seen *seen,
              const float *logits, int32_t vocab, struct draw_scratch *x, int k, int32_t *tok, float *score,
              float *prob)
{
    struct race r;
    race_init(&r, k < RANK_MAX ? k : RANK_MAX);
    if (!draw__all_finite(p, seen, logits, vocab))
        return 0; /* a guess that cannot be made is no guess */
    draw__prepare(p, s, seen, logits, vocab, x->value);
    if (race_run(&r, p, s, vocab, x))
        return 0;
    if (prob)
        probabilities(&r, x->value, vocab, prob);
    for (int i = 0; i < r.n; i++) {
        tok[i] = r.tok[i];
        score[i] = r.score[i];
    }
    return r.n;
}
