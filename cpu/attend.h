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
 * order_bf16 puts them right once, at the end of a sum.  Where many heads meet a page, it is widened to floats once, in L1, for
 * all of them: the widening would take a fifth of the multiplying. */

enum { TURN = 32 };  /* inputs of the tail keys turned at a time */
enum { AHEAD = 16 }; /* rows of b prefetched ahead: hardware stops at every 4 KB, a page's head is 16 KB */

INLINE void ahead(const void *row, int bytes)
{
#pragma GCC unroll 4
    for (int i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *) row + i, _MM_HINT_T0);
}

#define OUT_LOAD(h)                                                                                          \
    const float *a##h = a[h];                                                                                \
    v16 a##h##0 = v_load(acc + h * WIDE), a##h##1 = v_load(acc + h * WIDE + 16),                             \
        a##h##2 = v_load(acc + h * WIDE + WIDE - 32), a##h##3 = v_load(acc + h * WIDE + WIDE - 16);
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

/* acc: (H, WIDE); a: (H) pointers to n factors each; b: row i at i * ldb, prefetched where it is FAR. */
#define OUTER(NAME, T, PAIR, FAR, H)                                                                         \
    static void NAME##_##H(float *acc, const float *const *a, const T *b, int64_t ldb, int n)                \
    {                                                                                                        \
        EACH_##H(OUT_LOAD) for (int i = 0; i < n; i++, b += ldb)                                             \
        {                                                                                                    \
            v16 b0, b1, b2, b3;                                                                              \
            if (FAR)                                                                                         \
                ahead(b + AHEAD * ldb, WIDE * (int) sizeof(T));                                              \
            PAIR(b, &b0, &b1);                                                                               \
            PAIR(b + WIDE - 32, &b2, &b3);                                                                   \
            EACH_##H(OUT_STEP)                                                                               \
        }                                                                                                    \
        EACH_##H(OUT_STORE)                                                                                  \
    }
#define OUTERS(H)                                                                                            \
    OUTER(outer_bf16, uint16_t, v_pair_bf16, 1, H)                                                           \
    OUTER(outer_f32, float, v_pair_f32, 1, H)                                                                \
    OUTER(outer_near, float, v_pair_f32, 0, H)
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
OUTER_CALL(outer_near, float)

static void order_bf16(float *lane)
{
    for (int i = 0; i < WIDE; i += 32)
        v_unpair(lane + i);
}

static void order_f32(float *lane)
{
    (void) lane;
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

/* Rows of `wide` elements, ld apart, as floats in their own order, WIDE apart. */
#define WIDEN_ROWS(K, T, WIDEN)                                                                              \
    static void widen_##K(float *to, const T *from, int64_t ld, int n, int wide)                             \
    {                                                                                                        \
        for (int i = 0; i < n; i++, from += ld, to += WIDE) {                                                \
            int l = 0;                                                                                       \
            ahead(from + AHEAD * ld, WIDE * (int) sizeof(T));                                                \
            for (; l + 16 <= wide; l += 16)                                                                  \
                v_store(to + l, WIDEN(from + l));                                                            \
            for (; l < WIDE; l++)                                                                            \
                to[l] = l < wide ? one_##K(from + l) : 0;                                                    \
        }                                                                                                    \
    }
WIDEN_ROWS(bf16, uint16_t, v_bf16)
WIDEN_ROWS(f32, float, v_load)

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
    int plain; /* 1: what a page has is widened once for all heads, and lanes stand in their own order */
    int keys, settled; /* the most of any */
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

/* Scores of n keys from key `at` on: acc times the scale. */
static void put_scores(const struct seeker *s, float scale, const float *acc, int at, int n)
{
    float *to = s->score + at;
    int i = 0;
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
    v16 top = v_set(-INFINITY), lane = v_zero();
    int i = 0, whole = n & ~15;
    for (; i < whole; i += 16)
        top = v_max(v_load(p + i), top);
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

#define ATTENTION(K, T)                                                                                             \
    /* Scores of the WIDE keys of a page from key `at` on, for heads [h, h + n). */                                 \
    static void score_block_##K(const struct crowd *c, int h, int n, int at, const T *page, float scale)            \
    {                                                                                                               \
        float acc[HEADS * WIDE] = {0};                                                                              \
        const float *q[HEADS];                                                                                      \
        int seen = 0;                                                                                               \
        for (int i = 0; i < n; i++) {                                                                               \
            q[i] = c->s[h + i].q;                                                                                   \
            seen |= c->s[h + i].settled > at;                                                                       \
        }                                                                                                           \
        if (!seen)                                                                                                  \
            return;                                                                                                 \
        outer_##K(n, acc, q, page, 64, c->dim);                                                                     \
        for (int i = 0; i < n; i++) {                                                                               \
            order_##K(acc + i * WIDE);                                                                              \
            put_scores(&c->s[h + i], scale, acc + i * WIDE, at, between(c->s[h + i].settled - at, 0, WIDE));        \
        }                                                                                                           \
    }                                                                                                               \
    static void score_pages_##K(const struct crowd *c, float scale)                                                 \
    {                                                                                                               \
        for (int at = 0; at < c->settled; at += WIDE) {                                                             \
            const T *page = (const T *) c->widest->k_page[at / 64] + at % 64;                                       \
            for (int h = 0; h < c->n; h += HEADS)                                                                   \
                score_block_##K(c, h, c->n - h < HEADS ? c->n - h : HEADS, at, page, scale);                        \
        }                                                                                                           \
    }                                                                                                               \
    /* The same for all heads, WIDE inputs of the keys at a time, which stay in L1 as floats. */                    \
    static void score_plain_##K(const struct crowd *c, float scale)                                                 \
    {                                                                                                               \
        float acc[CROWD * WIDE], near[WIDE * WIDE];                                                                 \
        for (int at = 0; at < c->settled; at += WIDE) {                                                             \
            const T *page = (const T *) c->widest->k_page[at / 64] + at % 64;                                       \
            memset(acc, 0, sizeof(float) * WIDE * (size_t) c->n);                                                   \
            for (int d = 0; d < c->dim; d += WIDE) {                                                                \
                int nd = c->dim - d < WIDE ? c->dim - d : WIDE;                                                     \
                widen_##K(near, page + d * 64, 64, nd, WIDE);                                                       \
                for (int h = 0, m; h < c->n; h += m) {                                                              \
                    const float *q[HEADS];                                                                          \
                    m = c->n - h < HEADS ? c->n - h : HEADS;                                                        \
                    for (int i = 0; i < m; i++)                                                                     \
                        q[i] = c->s[h + i].q + d;                                                                   \
                    outer_near(m, acc + h * WIDE, q, near, WIDE, nd);                                               \
                }                                                                                                   \
            }                                                                                                       \
            for (int h = 0; h < c->n; h++)                                                                          \
                put_scores(&c->s[h], scale, acc + h * WIDE, at, between(c->s[h].settled - at, 0, WIDE));            \
        }                                                                                                           \
    }                                                                                                               \
    /* Tail keys of one job, for its heads [h, h + n).  turned: (TURN, WIDE), numbers in every lane. */             \
    static void score_tail_##K(const struct crowd *c, int h, int n, float scale, float *turned)                     \
    {                                                                                                               \
        const struct seeker *s = &c->s[h];                                                                          \
        for (int at = s->settled; at < s->keys; at += WIDE) {                                                       \
            int keys = s->keys - at < WIDE ? s->keys - at : WIDE;                                                   \
            float acc[HEADS * WIDE] = {0};                                                                          \
            for (int d = 0; d < c->dim; d += TURN) {                                                                \
                int nd = c->dim - d < TURN ? c->dim - d : TURN;                                                     \
                const float *q[HEADS];                                                                              \
                for (int i = 0; i < n; i++)                                                                         \
                    q[i] = s[i].q + d;                                                                              \
                turn_##K(turned, s->j->k_tail + (at - s->settled), keys, d, nd);                                    \
                outer_f32(n, acc, q, turned, WIDE, nd);                                                             \
            }                                                                                                       \
            for (int i = 0; i < n; i++)                                                                             \
                put_scores(&s[i], scale, acc + i * WIDE, at, keys);                                                 \
        }                                                                                                           \
    }                                                                                                               \
    /* Rows of V, `wide` of their elements, side by side and filled up with zeros. */                               \
    static const T *gather_##K(T *to, const void *const *row, const T *v, int64_t ld, int n, int d,                 \
                               int wide)                                                                            \
    {                                                                                                               \
        if (wide < WIDE)                                                                                            \
            memset(to, 0, sizeof(T) * WIDE * (size_t) n);                                                           \
        for (int i = 0; i < n; i++)                                                                                 \
            memcpy(to + i * WIDE, row ? (const T *) row[i] + d : v + i * ld, sizeof(T) * (size_t) wide);            \
        return to;                                                                                                  \
    }                                                                                                               \
    /* acc += p v for rows [at, at + n) of v, or of the same as floats where the crowd is plain. */                 \
    static void blend_rows_##K(const struct crowd *c, int heads, float *acc, const float *const *p,                 \
                               const T *v, int64_t ld, const float *near, int at, int n)                            \
    {                                                                                                               \
        if (n && c->plain)                                                                                          \
            outer_near(heads, acc, p, near + at * WIDE, WIDE, n);                                                   \
        else if (n)                                                                                                 \
            outer_##K(heads, acc, p, v + at * ld, ld, n);                                                           \
    }                                                                                                               \
    /* acc += p V over keys [at, at + n) of one page: what all heads of a tile see at once, the rest one by one. */ \
    static void blend_page_##K(const struct crowd *c, float *acc, int at, int n, int d, int wide)                   \
    {                                                                                                               \
        T part[64 * WIDE];                                                                                          \
        float near[64 * WIDE];                                                                                      \
        int64_t ld = c->dim;                                                                                        \
        const T *v = (const T *) c->widest->v_page[at / 64] + at % 64 * ld + d;                                     \
        if (c->plain) {                                                                                             \
            widen_##K(near, v, ld, n, wide);                                                                        \
        } else if (wide < WIDE) {                                                                                   \
            v = gather_##K(part, NULL, v, ld, n, d, wide);                                                          \
            ld = WIDE;                                                                                              \
        }                                                                                                           \
        for (int h = 0, m; h < c->n; h += m) {                                                                      \
            const float *p[HEADS];                                                                                  \
            int all = n;                                                                                            \
            m = c->n - h < HEADS ? c->n - h : HEADS;                                                                \
            for (int i = 0; i < m; i++) {                                                                           \
                p[i] = c->s[h + i].score + at;                                                                      \
                all = between(c->s[h + i].settled - at, 0, all);                                                    \
            }                                                                                                       \
            blend_rows_##K(c, m, acc + h * WIDE, p, v, ld, near, 0, all);                                           \
            for (int i = 0; i < m; i++) {                                                                           \
                const float *rest = p[i] + all;                                                                     \
                int more = between(c->s[h + i].settled - at, 0, n) - all;                                           \
                blend_rows_##K(c, 1, acc + (h + i) * WIDE, &rest, v, ld, near, all, more);                          \
            }                                                                                                       \
        }                                                                                                           \
    }                                                                                                               \
    /* acc += p V over the tail keys of [at, end), job by job. */                                                   \
    static void blend_tails_##K(const struct crowd *c, float *acc, int at, int end, int d, int wide)                \
    {                                                                                                               \
        T part[64 * WIDE];                                                                                          \
        float near[64 * WIDE];                                                                                      \
        for (int h = 0, m; h < c->n; h += m) {                                                                      \
            const struct seeker *s = &c->s[h];                                                                      \
            const float *p[HEADS];                                                                                  \
            int from = s->settled > at ? s->settled : at, n = (s->keys < end ? s->keys : end) - from;               \
            m = siblings(c, h);                                                                                     \
            for (; n > 0; n -= 64, from += 64) {                                                                    \
                int rows = n < 64 ? n : 64;                                                                         \
                for (int i = 0; i < m; i++)                                                                         \
                    p[i] = s[i].score + from;                                                                       \
                const T *v = gather_##K(part, s->j->v_tail + (from - s->settled), NULL, 0, rows, d, wide);          \
                if (c->plain)                                                                                       \
                    widen_##K(near, v, WIDE, rows, WIDE);                                                           \
                blend_rows_##K(c, m, acc + h * WIDE, p, v, WIDE, near, 0, rows);                                    \
            }                                                                                                       \
        }                                                                                                           \
    }                                                                                                               \
    static void blend_##K(const struct crowd *c, int d, int wide)                                                   \
    {                                                                                                               \
        float total[CROWD * WIDE] = {0}, acc[CROWD * WIDE];                                                         \
        for (int at = 0, end; at < c->keys; at = end) {                                                             \
            end = (c->start + at) / ATTN_CHUNK * ATTN_CHUNK + ATTN_CHUNK - c->start;                                \
            end = end < c->keys ? end : c->keys;                                                                    \
            memset(acc, 0, sizeof(float) * WIDE * (size_t) c->n);                                                   \
            for (int i = at, n; i < end && i < c->settled; i += n) {                                                \
                int stop = end < c->settled ? end : c->settled, page = i / 64 * 64 + 64;                            \
                n = (page < stop ? page : stop) - i;                                                                \
                blend_page_##K(c, acc, i, n, d, wide);                                                              \
            }                                                                                                       \
            blend_tails_##K(c, acc, at, end, d, wide);                                                              \
            add(total, acc, c->n *WIDE);                                                                            \
        }                                                                                                           \
        for (int h = 0; h < c->n; h++) {                                                                            \
            if (!c->plain)                                                                                          \
                order_##K(total + h * WIDE);                                                                        \
            for (int i = 0; i < wide; i++)                                                                          \
                c->s[h].out[d + i] = total[h * WIDE + i] / c->s[h].sum;                                             \
        }                                                                                                           \
    }                                                                                                               \
    static void attend_##K(struct crowd *c)                                                                         \
    {                                                                                                               \
        float scale = 1 / sqrtf((float) c->dim), turned[TURN * WIDE];                                               \
        c->plain = sizeof(T) < sizeof(float) && c->n > HEADS;                                                       \
        if (c->plain)                                                                                               \
            score_plain_##K(c, scale);                                                                              \
        else                                                                                                        \
            score_pages_##K(c, scale);                                                                              \
        if (c->keys > c->s[0].settled || c->n > 1)                                                                  \
            memset(turned, 0, sizeof turned);                                                                       \
        for (int h = 0, m; h < c->n; h += m) {                                                                      \
            m = siblings(c, h);                                                                                     \
            score_tail_##K(c, h, m, scale, turned);                                                                 \
        }                                                                                                           \
        for (int h = 0; h < c->n; h++)                                                                              \
            c->s[h].sum = weigh(c->s[h].score, c->s[h].keys);                                                       \
        for (int d = 0; d < c->dim; d += WIDE)                                                                      \
            blend_##K(c, d, c->dim - d < WIDE ? c->dim - d : WIDE);                                                 \
    }                                                                                                               \
    static void attn_##K(const struct attn_job *j, int n)                                                           \
    {                                                                                                               \
        struct crowd c;                                                                                             \
        c.n = 0;                                                                                                    \
        for (int i = 0; i < n; i++)                                                                                 \
            for (int h = 0; h < j[i].group; h++) {                                                                  \
                join(&c, &j[i], h);                                                                                 \
                if (c.n == CROWD || (i == n - 1 && h == j[i].group - 1)) {                                          \
                    attend_##K(&c);                                                                                 \
                    c.n = 0;                                                                                        \
                }                                                                                                   \
            }                                                                                                       \
    }
ATTENTION(bf16, uint16_t)
ATTENTION(f32, float)

#endif
