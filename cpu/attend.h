/* attend.h - attention over v16, the second half of lanes.h, which includes it: the same template, the same expectations.
 *
 * formula, numerics, twin: kern.h and kern_twin.c; test tests/pair/attn.c; tests/bench/attn.c measures it */
#ifndef CPU_ATTEND_H
#define CPU_ATTEND_H

#include <math.h>
#include <string.h>

#include "cpu/gemm.h"

/* Scores and output are the same sum of outer products: acc[head][lane] = fma(a[head][i], b[i][lane], acc), i ascending.
 * For scores i is d, lanes are keys and b is a d-major page; for the output i is the position, lanes are d and b are
 * rows of V.  Tail keys lie the other way round and are turned into a d-major scratch first.
 *
 * The lanes of a BF16 accumulator stand in the order in which pairs of them are widest to load (evens, odds);
 * order() puts them right once, at the end of a sum.  Where many heads meet a page, it is widened to floats once, in L1, for
 * all of them: the widening would take a fifth of the multiplying.  While they multiply, what they meet next is brought to L2,
 * evenly: asked for only when it is widened, memory would wait for the multiplying and the multiplying for memory. */

enum { TURN = 32 };  /* inputs of the tail keys turned at a time */
enum { AHEAD = 16 }; /* rows of b prefetched ahead: hardware stops at every 4 KB, a page's head is 16 KB */

INLINE void ahead(const void *row, int bytes)
{
#pragma GCC unroll 4
    for (int i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *) row + i, _MM_HINT_T0);
}

/* Rows of WIDE BF16 elements that will be met soon, `step` bytes apart; at: NULL, none.  fresh: the sums start here. */
struct far {
    const char *at;
    int64_t step;
    int fresh;
};

enum { FAR_EVERY = 4 }; /* steps of the multiplying a row: FAR_EVERY tiles of heads bring all of them */

static const float nothing[HEADS * WIDE];

#define OUT_LOAD(h)                                                                                          \
    const float *a##h = a[h];                                                                                \
    v16 a##h##0 = v_load(from + h * WIDE), a##h##1 = v_load(from + h * WIDE + 16),                           \
        a##h##2 = v_load(from + h * WIDE + WIDE - 32), a##h##3 = v_load(from + h * WIDE + WIDE - 16);
#define OUT_STEP(h)                                                                                          \
    {                                                                                                        \
        v16 q = v_set(a##h[i]);                                                                              \
        a##h##0 = v_fma(q, b0, a##h##0);                                                                     \
        a##h##1 = v_fma(q, b1, a##h##1);                                                                     \
        if (WIDE > 32) {                                                                                     \
            a##h##2 = v_fma(q, b2, a##h##2);                                                                 \
            a##h##3 = v_fma(q, b3, a##h##3);                                                                 \
        }                                                                                                    \
    }
#define OUT_STORE(h)                                                                                         \
    v_store(acc + h * WIDE, a##h##0);                                                                        \
    v_store(acc + h * WIDE + 16, a##h##1);                                                                   \
    if (WIDE > 32) {                                                                                         \
        v_store(acc + h * WIDE + 32, a##h##2);                                                               \
        v_store(acc + h * WIDE + 48, a##h##3);                                                               \
    }

/* acc: (H, WIDE); a: (H) pointers to n factors each; b: row i at i * ldb, prefetched. */
#define OUTER(NAME, T, PAIR, H)                                                                              \
    static void NAME##_##H(float *acc, const float *const *a, const T *b, int64_t ldb, int n)                \
    {                                                                                                        \
        const float *from = acc;                                                                             \
        EACH_##H(OUT_LOAD) for (int i = 0; i < n; i++, b += ldb)                                             \
        {                                                                                                    \
            v16 b0, b1, b2, b3;                                                                              \
            ahead(b + AHEAD * ldb, WIDE * (int) sizeof(T));                                                  \
            PAIR(b, &b0, &b1);                                                                               \
            PAIR(b + WIDE - 32, &b2, &b3);                                                                   \
            EACH_##H(OUT_STEP)                                                                               \
        }                                                                                                    \
        EACH_##H(OUT_STORE)                                                                                  \
    }
/* The same of rows in L1, WIDE apart; every fourth step asks for a row of `far`. */
#define OUTER_NEAR(H)                                                                                        \
    static void outer_near_##H(float *acc, const float *const *a, const float *b, int n,                     \
                               const struct far *f)                                                          \
    {                                                                                                        \
        const char *far = f->at;                                                                             \
        const float *from = f->fresh ? nothing : acc;                                                        \
        EACH_##H(OUT_LOAD) _Pragma("GCC unroll 4") for (int i = 0; i < n; i++, b += WIDE)                    \
        {                                                                                                    \
            v16 b0, b1, b2, b3;                                                                              \
            if (i % FAR_EVERY == 0) {                                                                        \
                _mm_prefetch(far, _MM_HINT_T1);                                                              \
                if (WIDE > 32)                                                                               \
                    _mm_prefetch(far + 64, _MM_HINT_T1);                                                     \
                far += f->step;                                                                              \
            }                                                                                                \
            v_pair_f32(b, &b0, &b1);                                                                         \
            v_pair_f32(b + WIDE - 32, &b2, &b3);                                                             \
            EACH_##H(OUT_STEP)                                                                               \
        }                                                                                                    \
        EACH_##H(OUT_STORE)                                                                                  \
    }
#define OUTERS(H)                                                                                            \
    OUTER(outer_bf16, uint16_t, v_pair_bf16, H)                                                              \
    OUTER(outer_f32, float, v_pair_f32, H)                                                                   \
    OUTER_NEAR(H)
ATTN_HEADS(OUTERS)

#define OUTER_CALL(NAME, T)                                                                                  \
    static void NAME(int heads, float *acc, const float *const *a, const T *b, int64_t ldb, int n)           \
    {                                                                                                        \
        static void (*const fn[])(float *, const float *const *, const T *, int64_t,                         \
                                  int) = {NULL, ATTN_TABLE(NAME)};                                           \
        fn[heads](acc, a, b, ldb, n);                                                                        \
    }
OUTER_CALL(outer_bf16, uint16_t)
OUTER_CALL(outer_f32, float)

/* heads [h, h + heads) of a crowd that meets n rows, the share of `next` that is theirs to bring. */
static void outer_near(int h, int heads, float *acc, const float *const *a, const float *b, int n,
                       const struct far *next)
{
    static void (*const fn[])(float *, const float *const *, const float *, int,
                              const struct far *) = {NULL, ATTN_TABLE(outer_near)};
    int rows = (n + FAR_EVERY - 1) / FAR_EVERY;
    struct far f = {(const char *) b, 0, next->fresh};
    if (next->at && h / HEADS < FAR_EVERY)
        f = (struct far){next->at + h / HEADS * rows * next->step, next->step, next->fresh};
    fn[heads](acc, a, b, n, &f);
}

enum { ORDER_bf16 = 1, ORDER_f32 = 0 }; /* whether lanes of that type's sums stand in the order of pairs */

INLINE void order(float *lane)
{
    for (int i = 0; i < WIDE; i += 32) {
        v16 a = v_load(lane + i), b = v_load(lane + i + 16);
        v_unpair(&a, &b);
        v_store(lane + i, a);
        v_store(lane + i + 16, b);
    }
}

INLINE __m128 four_bf16(const uint16_t *p)
{
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *) p)), 16));
}

INLINE __m128 four_f32(const float *p)
{
    return _mm_loadu_ps(p);
}

INLINE float one_f32(const float *p)
{
    return *p;
}

INLINE float one_bf16(const uint16_t *p)
{
    return cpu__bf16_to_f32(*p);
}

/* Rows of `wide` elements, ld apart, filled up with zeros, as floats in the order of pairs, WIDE apart. */
#define WIDEN_ROWS(K, T)                                                                                     \
    static void widen_##K(float *to, const T *from, int64_t ld, int n, int wide)                             \
    {                                                                                                        \
        T last[32];                                                                                          \
        for (int i = 0; i < n; i++, from += ld, to += WIDE) {                                                \
            if (i + AHEAD < n)                                                                               \
                ahead(from + AHEAD * ld, WIDE * (int) sizeof(T));                                            \
            for (int l = 0; l < WIDE; l += 32) {                                                             \
                const T *at = from + l;                                                                      \
                v16 a, b;                                                                                    \
                if (l + 32 > wide) {                                                                         \
                    memset(last, 0, sizeof last);                                                            \
                    memcpy(last, at, sizeof(T) * (size_t) (wide > l ? wide - l : 0));                        \
                    at = last;                                                                               \
                }                                                                                            \
                v_pair_##K(at, &a, &b);                                                                      \
                v_store(to + l, a);                                                                          \
                v_store(to + l + 16, b);                                                                     \
            }                                                                                                \
        }                                                                                                    \
    }
WIDEN_ROWS(bf16, uint16_t)
WIDEN_ROWS(f32, float)

/* to[d][key] for inputs [d0, d0 + nd) of n <= WIDE rows. */
#define TURN_ROWS(K, T)                                                                                      \
    static void turn_##K(float *to, const void *const *row, int n, int d0, int nd)                           \
    {                                                                                                        \
        for (int j = 0; j < n; j += 4) {                                                                     \
            const T *r[4];                                                                                   \
            int d = 0;                                                                                       \
            for (int i = 0; i < 4; i++)                                                                      \
                r[i] = (const T *) row[j + i < n ? j + i : n - 1] + d0;                                      \
            for (; d + 4 <= nd; d += 4) {                                                                    \
                __m128 a = four_##K(r[0] + d), b = four_##K(r[1] + d), c = four_##K(r[2] + d);               \
                __m128 e = four_##K(r[3] + d);                                                               \
                _MM_TRANSPOSE4_PS(a, b, c, e);                                                               \
                _mm_storeu_ps(to + d * WIDE + j, a);                                                         \
                _mm_storeu_ps(to + (d + 1) * WIDE + j, b);                                                   \
                _mm_storeu_ps(to + (d + 2) * WIDE + j, c);                                                   \
                _mm_storeu_ps(to + (d + 3) * WIDE + j, e);                                                   \
            }                                                                                                \
            for (; d < nd; d++)                                                                              \
                for (int i = 0; i < 4; i++)                                                                  \
                    to[d * WIDE + j + i] = one_##K(r[i] + d);                                                \
        }                                                                                                    \
    }
TURN_ROWS(bf16, uint16_t)
TURN_ROWS(f32, float)

/* One query head of one job. */
struct seeker {
    const struct attn_job *j;
    const float *q; /* (head_dim) */
    float *score;   /* (keys rounded up to 16) */
    float *out;     /* (head_dim) */
    int keys;       /* it sees */
    int settled;    /* of them, in pages */
    float sum;      /* of its weights */
};

enum { CROWD = 32 }; /* heads at a time: their sums, two of WIDE floats a head, stay in L1 beside a page */

/* Heads that share pages: all those of one row and, as far as they fit, of its neighbours.  A page is met by all of them
 * before the next is touched. */
struct crowd {
    struct seeker s[CROWD];
    const struct attn_job *widest; /* with the most keys in pages: it names every page */
    int n;                         /* heads */
    int plain;                     /* 1: what a page has is widened once for all heads */
    int keys, settled;             /* the most of any */
    int start, dim;
};

/* The first `n` of heads h, h + 1, ... of the crowd that share a job with h: at most HEADS. */
static int siblings(const struct crowd *c, int h)
{
    int n = 1;
    while (n < HEADS && h + n < c->n && c->s[h + n].j == c->s[h].j)
        n++;
    return n;
}

/* Scores of n keys from key `at` on: acc times the scale; pairs: its lanes stand in their order, and are put right. */
INLINE void put_scores(const struct seeker *s, float scale, float *acc, int at, int n, int pairs)
{
    float *to = s->score + at;
    int i = 0;
    for (; n == WIDE && i < WIDE; i += 32) {
        v16 a = v_load(acc + i), b = v_load(acc + i + 16);
        if (pairs)
            v_unpair(&a, &b);
        v_store(to + i, v_mul(a, v_set(scale)));
        v_store(to + i + 16, v_mul(b, v_set(scale)));
    }
    if (i < n && pairs)
        order(acc);
    for (; i + 16 <= n; i += 16)
        v_store(to + i, v_mul(v_load(acc + i), v_set(scale)));
    if (i < n)
        v_storen(to + i, v_mul(v_load(acc + i), v_set(scale)), n - i);
}

INLINE int between(int x, int low, int high)
{
    return x < low ? low : x > high ? high : x;
}

/* exp(score - maximum) in place; returns their sum. */
static float weigh(float *p, int n)
{
    v16 top = v_set(-INFINITY), top1 = top, top2 = top, top3 = top, lane = v_zero();
    int i = 0, whole = n & ~15;
    for (; i + 64 <= n; i += 64) { /* four chains: one waits for itself */
        top = v_max(v_load(p + i), top);
        top1 = v_max(v_load(p + i + 16), top1);
        top2 = v_max(v_load(p + i + 32), top2);
        top3 = v_max(v_load(p + i + 48), top3);
    }
    for (; i < whole; i += 16)
        top = v_max(v_load(p + i), top);
    top = v_max(v_max(top, top1), v_max(top2, top3));
    if (i < n)
        top = v_max(v_loador(p + i, n - i, top), top);
    top = v_set(v_highest(top));
    for (i = 0; i < whole; i += 16) {
        v16 e = v_exp(v_sub(v_load(p + i), top));
        v_store(p + i, e);
        lane = v_add(lane, e);
    }
    if (i < n) {
        v16 e = v_first(v_exp(v_sub(v_loadn(p + i, n - i), top)), n - i);
        v_storen(p + i, e, n - i);
        lane = v_add(lane, e);
    }
    return v_fold(lane);
}

/* Adds head h of a job; the first one of a crowd says what all have in common. */
static void join(struct crowd *c, const struct attn_job *j, int h)
{
    int keys = j->pos - j->start + 1, settled = keys - j->n_tail;
    int64_t ld = (keys + 15) / 16 * 16;
    if (c->n == 0) {
        c->keys = c->settled = 0;
        c->start = j->start;
        c->dim = j->head_dim;
        c->widest = j;
    }
    if (settled > c->settled)
        c->widest = j;
    c->keys = keys > c->keys ? keys : c->keys;
    c->settled = settled > c->settled ? settled : c->settled;
    c->s[c->n++] = (struct seeker){.j = j,
                                   .q = j->q + h * j->head_dim,
                                   .score = j->score + h * ld,
                                   .out = j->out + h * j->head_dim,
                                   .keys = keys,
                                   .settled = settled};
}

#define ATTENTION(K, T)                                                                                                 \
    /* Scores of the WIDE keys of a page from key `at` on, for heads [h, h + n). */                                     \
    static void score_block_##K(const struct crowd *c, int h, int n, int at, const T *page, float scale)                \
    {                                                                                                                   \
        float acc[HEADS * WIDE] = {0};                                                                                  \
        const float *q[HEADS];                                                                                          \
        int seen = 0;                                                                                                   \
        for (int i = 0; i < n; i++) {                                                                                   \
            q[i] = c->s[h + i].q;                                                                                       \
            seen |= c->s[h + i].settled > at;                                                                           \
        }                                                                                                               \
        if (!seen)                                                                                                      \
            return;                                                                                                     \
        outer_##K(n, acc, q, page, 64, c->dim);                                                                         \
        for (int i = 0; i < n; i++)                                                                                     \
            put_scores(&c->s[h + i], scale, acc + i * WIDE, at, between(c->s[h + i].settled - at, 0, WIDE),             \
                       ORDER_##K);                                                                                      \
    }                                                                                                                   \
    static void score_pages_##K(const struct crowd *c, float scale)                                                     \
    {                                                                                                                   \
        for (int at = 0; at < c->settled; at += WIDE) {                                                                 \
            const T *page = (const T *) c->widest->k_page[at / 64] + at % 64;                                           \
            for (int h = 0; h < c->n; h += HEADS)                                                                       \
                score_block_##K(c, h, c->n - h < HEADS ? c->n - h : HEADS, at, page, scale);                            \
        }                                                                                                               \
    }                                                                                                                   \
    /* What score_plain meets after input d of the WIDE keys from `at` on. */                                           \
    static const char *next_keys_##K(const struct crowd *c, int at, int d)                                              \
    {                                                                                                                   \
        int more = d + WIDE < c->dim, key = more ? at : at + WIDE;                                                      \
        if (key >= c->settled)                                                                                          \
            return NULL;                                                                                                \
        return (const char *) ((const T *) c->widest->k_page[key / 64] + key % 64 +                                     \
                               (more ? (d + WIDE) * 64 : 0));                                                           \
    }                                                                                                                   \
    /* The same for all heads, WIDE inputs of the keys at a time, which stay in L1 as floats. */                        \
    static void score_plain_##K(const struct crowd *c, float scale)                                                     \
    {                                                                                                                   \
        float acc[CROWD * WIDE], near[WIDE * WIDE];                                                                     \
        for (int at = 0; at < c->settled; at += WIDE) {                                                                 \
            const T *page = (const T *) c->widest->k_page[at / 64] + at % 64;                                           \
            for (int d = 0; d < c->dim; d += WIDE) {                                                                    \
                int nd = c->dim - d < WIDE ? c->dim - d : WIDE;                                                         \
                struct far next = {next_keys_##K(c, at, d), 64 * (int) sizeof(T), d == 0};                              \
                widen_##K(near, page + d * 64, 64, nd, WIDE);                                                           \
                for (int h = 0, m; h < c->n; h += m) {                                                                  \
                    const float *q[HEADS];                                                                              \
                    m = c->n - h < HEADS ? c->n - h : HEADS;                                                            \
                    for (int i = 0; i < m; i++)                                                                         \
                        q[i] = c->s[h + i].q + d;                                                                       \
                    outer_near(h, m, acc + h * WIDE, q, near, nd, &next);                                               \
                }                                                                                                       \
            }                                                                                                           \
            for (int h = 0; h < c->n; h++)                                                                              \
                put_scores(&c->s[h], scale, acc + h * WIDE, at, between(c->s[h].settled - at, 0, WIDE),                 \
                           ORDER_##K);                                                                                  \
        }                                                                                                               \
    }                                                                                                                   \
    /* Tail keys of one job, for its heads [h, h + n).  turned: (TURN, WIDE), numbers in every lane. */                 \
    static void score_tail_##K(const struct crowd *c, int h, int n, float scale, float *turned)                         \
    {                                                                                                                   \
        const struct seeker *s = &c->s[h];                                                                              \
        for (int at = s->settled; at < s->keys; at += WIDE) {                                                           \
            int keys = s->keys - at < WIDE ? s->keys - at : WIDE;                                                       \
            float acc[HEADS * WIDE] = {0};                                                                              \
            for (int d = 0; d < c->dim; d += TURN) {                                                                    \
                int nd = c->dim - d < TURN ? c->dim - d : TURN;                                                         \
                const float *q[HEADS];                                                                                  \
                for (int i = 0; i < n; i++)                                                                             \
                    q[i] = s[i].q + d;                                                                                  \
                turn_##K(turned, s->j->k_tail + (at - s->settled), keys, d, nd);                                        \
                outer_f32(n, acc, q, turned, WIDE, nd);                                                                 \
            }                                                                                                           \
            for (int i = 0; i < n; i++)                                                                                 \
                put_scores(&s[i], scale, acc + i * WIDE, at, keys, 0);                                                  \
        }                                                                                                               \
    }                                                                                                                   \
    /* Rows of V, `wide` of their elements, side by side and filled up with zeros. */                                   \
    static const T *gather_##K(T *to, const void *const *row, const T *v, int64_t ld, int n, int d,                     \
                               int wide)                                                                                \
    {                                                                                                                   \
        if (wide < WIDE)                                                                                                \
            memset(to, 0, sizeof(T) * WIDE * (size_t) n);                                                               \
        for (int i = 0; i < n; i++) {                                                                                   \
            const T *from = row ? (const T *) row[i] + d : v + i * ld;                                                  \
            if (wide == WIDE) /* a length the compiler knows: no string instruction */                                  \
                memcpy(to + i * WIDE, from, sizeof(T) * WIDE);                                                          \
            else                                                                                                        \
                memcpy(to + i * WIDE, from, sizeof(T) * (size_t) wide);                                                 \
        }                                                                                                               \
        return to;                                                                                                      \
    }                                                                                                                   \
    /* What a plain crowd meets after the values of keys [at, end) in inputs d and on. */                               \
    static const char *next_values_##K(const struct crowd *c, int end, int d)                                           \
    {                                                                                                                   \
        int more = end < c->settled, from = more ? d : d + WIDE, key = more ? end : 0;                                  \
        if (from >= c->dim)                                                                                             \
            return NULL;                                                                                                \
        return (const char *) ((const T *) c->widest->v_page[key / 64] + key % 64 * c->dim + from);                     \
    }                                                                                                                   \
    /* acc += p v for rows [at, at + n) of v, or of the same as floats where the crowd is plain; of heads from h on. */ \
    static void blend_rows_##K(const struct crowd *c, int heads, float *acc, const float *const *p,                     \
                               const T *v, int64_t ld, const float *near, int at, int n, int h,                         \
                               const struct far *next)                                                                  \
    {                                                                                                                   \
        if (n && c->plain)                                                                                              \
            outer_near(h, heads, acc, p, near + at * WIDE, n, next);                                                    \
        else if (n)                                                                                                     \
            outer_##K(heads, acc, p, v + at * ld, ld, n);                                                               \
    }                                                                                                                   \
    /* acc += p V over keys [at, at + n) of one page: what all heads of a tile see at once, the rest one by one. */     \
    static void blend_page_##K(const struct crowd *c, float *acc, int at, int n, int d, int wide)                       \
    {                                                                                                                   \
        T part[64 * WIDE];                                                                                              \
        float near[64 * WIDE];                                                                                          \
        int64_t ld = c->dim;                                                                                            \
        const T *v = (const T *) c->widest->v_page[at / 64] + at % 64 * ld + d;                                         \
        struct far next = {next_values_##K(c, at + n, d), c->dim * (int) sizeof(T), 0}, none = {NULL, 0, 0};            \
        if (c->plain) {                                                                                                 \
            widen_##K(near, v, ld, n, wide);                                                                            \
        } else if (wide < WIDE) {                                                                                       \
            v = gather_##K(part, NULL, v, ld, n, d, wide);                                                              \
            ld = WIDE;                                                                                                  \
        }                                                                                                               \
        for (int h = 0, m; h < c->n; h += m) {                                                                          \
            const float *p[HEADS];                                                                                      \
            int all = n;                                                                                                \
            m = c->n - h < HEADS ? c->n - h : HEADS;                                                                    \
            for (int i = 0; i < m; i++) {                                                                               \
                p[i] = c->s[h + i].score + at;                                                                          \
                ahead(p[i] + n, 64 * (int) sizeof(float));                                                              \
                all = between(c->s[h + i].settled - at, 0, all);                                                        \
            }                                                                                                           \
            blend_rows_##K(c, m, acc + h * WIDE, p, v, ld, near, 0, all, h, &next);                                     \
            for (int i = 0; i < m; i++) {                                                                               \
                const float *rest = p[i] + all;                                                                         \
                int more = between(c->s[h + i].settled - at, 0, n) - all;                                               \
                blend_rows_##K(c, 1, acc + (h + i) * WIDE, &rest, v, ld, near, all, more, 0, &none);                    \
            }                                                                                                           \
        }                                                                                                               \
    }                                                                                                                   \
    /* acc += p V over the tail keys of [at, end), job by job. */                                                       \
    static void blend_tails_##K(const struct crowd *c, float *acc, int at, int end, int d, int wide)                    \
    {                                                                                                                   \
        T part[64 * WIDE];                                                                                              \
        float near[64 * WIDE];                                                                                          \
        struct far none = {NULL, 0, 0};                                                                                 \
        for (int h = 0, m; h < c->n; h += m) {                                                                          \
            const struct seeker *s = &c->s[h];                                                                          \
            const float *p[HEADS];                                                                                      \
            int from = s->settled > at ? s->settled : at, n = (s->keys < end ? s->keys : end) - from;                   \
            m = siblings(c, h);                                                                                         \
            for (; n > 0; n -= 64, from += 64) {                                                                        \
                int rows = n < 64 ? n : 64;                                                                             \
                for (int i = 0; i < m; i++)                                                                             \
                    p[i] = s[i].score + from;                                                                           \
                const T *v = gather_##K(part, s->j->v_tail + (from - s->settled), NULL, 0, rows, d, wide);              \
                if (c->plain)                                                                                           \
                    widen_##K(near, v, WIDE, rows, WIDE);                                                               \
                blend_rows_##K(c, m, acc + h * WIDE, p, v, WIDE, near, 0, rows, h, &none);                              \
            }                                                                                                           \
        }                                                                                                               \
    }                                                                                                                   \
    static void blend_##K(const struct crowd *c, int d, int wide)                                                       \
    {                                                                                                                   \
        float total[CROWD * WIDE] = {0}, acc[CROWD * WIDE];                                                             \
        for (int at = 0, end; at < c->keys; at = end) {                                                                 \
            end = (c->start + at) / ATTN_CHUNK * ATTN_CHUNK + ATTN_CHUNK - c->start;                                    \
            end = end < c->keys ? end : c->keys;                                                                        \
            memset(acc, 0, sizeof(float) * WIDE * (size_t) c->n);                                                       \
            for (int i = at, n; i < end && i < c->settled; i += n) {                                                    \
                int stop = end < c->settled ? end : c->settled, page = i / 64 * 64 + 64;                                \
                n = (page < stop ? page : stop) - i;                                                                    \
                blend_page_##K(c, acc, i, n, d, wide);                                                                  \
            }                                                                                                           \
            blend_tails_##K(c, acc, at, end, d, wide);                                                                  \
            add(total, acc, c->n *WIDE);                                                                                \
        }                                                                                                               \
        for (int h = 0; h < c->n; h++) {                                                                                \
            if (ORDER_##K)                                                                                              \
                order(total + h * WIDE);                                                                                \
            for (int i = 0; i < wide; i++)                                                                              \
                c->s[h].out[d + i] = total[h * WIDE + i] / c->s[h].sum;                                                 \
        }                                                                                                               \
    }                                                                                                                   \
    static void attend_##K(struct crowd *c)                                                                             \
    {                                                                                                                   \
        float scale = 1 / sqrtf((float) c->dim), turned[TURN * WIDE];                                                   \
        c->plain = sizeof(T) < sizeof(float) && c->n > HEADS;                                                           \
        if (c->plain)                                                                                                   \
            score_plain_##K(c, scale);                                                                                  \
        else                                                                                                            \
            score_pages_##K(c, scale);                                                                                  \
        if (c->keys > c->s[0].settled || c->n > 1)                                                                      \
            memset(turned, 0, sizeof turned);                                                                           \
        for (int h = 0, m; h < c->n; h += m) {                                                                          \
            m = siblings(c, h);                                                                                         \
            score_tail_##K(c, h, m, scale, turned);                                                                     \
        }                                                                                                               \
        for (int h = 0; h < c->n; h++)                                                                                  \
            c->s[h].sum = weigh(c->s[h].score, c->s[h].keys);                                                           \
        for (int d = 0; d < c->dim; d += WIDE)                                                                          \
            blend_##K(c, d, c->dim - d < WIDE ? c->dim - d : WIDE);                                                     \
    }                                                                                                                   \
    static void attn_##K(const struct attn_job *j, int n)                                                               \
    {                                                                                                                   \
        struct crowd c;                                                                                                 \
        c.n = 0;                                                                                                        \
        for (int i = 0; i < n; i++)                                                                                     \
            for (int h = 0; h < j[i].group; h++) {                                                                      \
                join(&c, &j[i], h);                                                                                     \
                if (c.n == CROWD || (i == n - 1 && h == j[i].group - 1)) {                                              \
                    attend_##K(&c);                                                                                     \
                    c.n = 0;                                                                                            \
                }                                                                                                       \
            }                                                                                                           \
    }
ATTENTION(bf16, uint16_t)
ATTENTION(f32, float)

#endif
