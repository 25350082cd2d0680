/* lanes.h - every float kernel, written once over v16: 16 float lanes, one zmm or two ymm.
 *
 * A template: kern_avx2.c and kern_avx512.c define v16, its operations and the tile sizes, then include this file.
 * 16 lanes on both, because the orders of NUMERICS.md have 16 partial sums.
 *
 * formula, numerics, twin: kern.h and kern_twin.c, entry by entry; tests tests/pair/{gemm,rows,attn}.c
 *
 * Expected of the including file:
 *   v16, v_zero v_set v_load v_store v_loadn v_storen v_add v_sub v_mul v_div v_neg v_round
 *   v_xor: of the bits; v_fma(a, b, c) a b + c; v_fnma(a, b, c) -a b + c; v_min, v_max: the second operand where either is NaN
 *   v_loador(p, n, other): lanes from n on are other's; v_first(v, n): lanes from n on are 0
 *   v_pow2(n): 2^n of integral lanes; v_cut(p, x, bound): +0 where x < bound, else p
 *   v_bf16(p), v_f16(p): 16 bf16 or FP16 widened; v_turn_*: see attention below
 *   v_top(x): largest bit pattern of 32 |x|; v_quantize(x, inv, q): 32 q and their sum
 *   FLOAT_GROUP, FLOAT_SIDE, FLOAT_ROWS(X), FLOAT_STRIPS(...): tile of the float GEMMs
 *   HEADS, WIDE: heads and keys (or elements of V) of attention's tile */
#ifndef CPU_LANES_H
#define CPU_LANES_H

#include <math.h>

#include "cpu/gemm.h"

/* --- F32, BF16 and F16 GEMM: gemm.h's strips with the sums of R rows and N panels in registers --- */

enum { FLOAT_ROW_BYTES = 128 }; /* of one row's packed block: 32 inputs, the rows of a group side by side */

static void pack_float(uint8_t *to, int64_t step, const struct gemm_x *x, int row, int r, int R, int k0,
                       int n)
{
    const float *from = x->f + row * x->ldf + k0;
    for (int b = 0; b < n; b += 32, to += step)
        for (int i = b; i < n && i < b + 32; i++)
            memcpy(to + ((i - b) * R + r) * 4, &from[i], 4);
}

#define SUM_LOAD(r)                                                                                          \
    v16 s##r##0 = v_load(acc + r * N * PANEL), s##r##1 = N > 1 ? v_load(acc + r * N * PANEL + 16) : s##r##0, \
        s##r##2 = N > 2 ? v_load(acc + r * N * PANEL + 32) : s##r##0;
#define SUM_STEP(r)                                                                                          \
    {                                                                                                        \
        v16 a = v_set(gemm_float(x + (i * R + r) * 4));                                                      \
        s##r##0 = v_fma(w0, a, s##r##0);                                                                     \
        if (N > 1)                                                                                           \
            s##r##1 = v_fma(w1, a, s##r##1);                                                                 \
        if (N > 2)                                                                                           \
            s##r##2 = v_fma(w2, a, s##r##2);                                                                 \
    }
#define SUM_STORE(r)                                                                                         \
    v_store(acc + r * N * PANEL, s##r##0);                                                                   \
    if (N > 1)                                                                                               \
        v_store(acc + r * N * PANEL + 16, s##r##1);                                                          \
    if (N > 2)                                                                                               \
        v_store(acc + r * N * PANEL + 32, s##r##2);

#define FLOAT_BLOCK(NAME, T, WIDEN, ROWS)                                                                    \
    INLINE void NAME##_##ROWS(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)  \
    {                                                                                                        \
        enum { R = ROWS };                                                                                   \
        const T *p0 = (const T *) w, *p1 = (const T *) (w + (N > 1 ? stride : 0));                           \
        const T *p2 = (const T *) (w + (N > 2 ? 2 * stride : 0));                                            \
        EACH_##ROWS(SUM_LOAD) _Pragma("GCC unroll 4") for (int i = 0; i < n; i++)                            \
        {                                                                                                    \
            v16 w0 = WIDEN(p0 + i * PANEL), w1 = WIDEN(p1 + i * PANEL), w2 = WIDEN(p2 + i * PANEL);          \
            EACH_##ROWS(SUM_STEP)                                                                            \
        }                                                                                                    \
        EACH_##ROWS(SUM_STORE)                                                                               \
    }
#define FLOAT_BLOCKS(R)                                                                                      \
    FLOAT_BLOCK(block_f32, float, v_load, R)                                                                 \
    FLOAT_BLOCK(block_bf16, uint16_t, v_bf16, R)                                                             \
    FLOAT_BLOCK(block_f16, uint16_t, v_f16, R)                                                               \
    FLOAT_STRIPS(f32, block_f32, 2048, FLOAT_ROW_BYTES, R)                                                   \
    FLOAT_STRIPS(bf16, block_bf16, 1024, FLOAT_ROW_BYTES, R)                                                 \
    FLOAT_STRIPS(f16, block_f16, 1024, FLOAT_ROW_BYTES, R)
FLOAT_ROWS(FLOAT_BLOCKS)

static void gemm_f32(const float *w, int k, int p0, int p1, const float *x, int64_t ldx, int m, float *out,
                     int64_t ldo)
{
    static const struct gemm shape = {.group = FLOAT_GROUP,
                                      .side = FLOAT_SIDE,
                                      .block_bytes = 32 * PANEL * sizeof(float),
                                      .row_bytes = FLOAT_ROW_BYTES,
                                      .pack = pack_float,
                                      .strip = {FLOAT_TABLE(f32)}};
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.f = x, .ldf = ldx}, m, out, ldo);
}

static void gemm_bf16(const uint16_t *w, int k, int p0, int p1, const float *x, int64_t ldx, int m,
                      float *out, int64_t ldo)
{
    static const struct gemm shape = {.group = FLOAT_GROUP,
                                      .side = FLOAT_SIDE,
                                      .block_bytes = 32 * PANEL * sizeof(uint16_t),
                                      .row_bytes = FLOAT_ROW_BYTES,
                                      .pack = pack_float,
                                      .strip = {FLOAT_TABLE(bf16)}};
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.f = x, .ldf = ldx}, m, out, ldo);
}

static void gemm_f16(const uint16_t *w, int k, int p0, int p1, const float *x, int64_t ldx, int m, float *out,
                     int64_t ldo)
{
    static const struct gemm shape = {.group = FLOAT_GROUP,
                                      .side = FLOAT_SIDE,
                                      .block_bytes = 32 * PANEL * sizeof(uint16_t),
                                      .row_bytes = FLOAT_ROW_BYTES,
                                      .pack = pack_float,
                                      .strip = {FLOAT_TABLE(f16)}};
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.f = x, .ldf = ldx}, m, out, ldo);
}

/* --- one row at a time --- */

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static void quantize(const float *x, int k, int8_t *q, float *d, int32_t *sum)
{
    for (int b = 0; b < k / Q8_BLOCK; b++, x += Q8_BLOCK, q += Q8_BLOCK) {
        uint32_t top = v_top(x);
        float amax = float_of(top);
        if (top >= 0x7f800000u || amax < Q8_TINY) {
            memset(q, 0, Q8_BLOCK);
            d[b] = top >= 0x7f800000u ? float_of(Q8_NAN) : 0;
            sum[b] = 0;
            continue;
        }
        d[b] = amax / 127;
        sum[b] = v_quantize(x, 127 / amax, q);
    }
}

/* fold: 16 partial sums 8-4-2-1, as the twin's. */
static void rmsnorm(const float *x, const float *w, int n, float eps, float *out)
{
    v16 lane = v_zero();
    int i = 0;
    for (; i + 16 <= n; i += 16)
        lane = v_fma(v_load(x + i), v_load(x + i), lane);
    if (i < n) /* lanes from n on get fmaf(0, 0, sum), which a sum of squares, never -0, does not feel */
        lane = v_fma(v_loadn(x + i, n - i), v_loadn(x + i, n - i), lane);
    v16 scale = v_set(1 / sqrtf(v_fold(lane) / (float) n + eps));
    for (i = 0; i + 16 <= n; i += 16)
        v_store(out + i, v_mul(v_mul(v_load(x + i), scale), v_load(w + i)));
    if (i < n)
        v_storen(out + i, v_mul(v_mul(v_loadn(x + i, n - i), scale), v_loadn(w + i, n - i)), n - i);
}

static void rope(float *x, int head_dim, const float *cosines, const float *sines)
{
    int half = head_dim / 2;
    int i = 0;
    for (; i + 16 <= half; i += 16) {
        v16 a = v_load(x + i), b = v_load(x + i + half), c = v_load(cosines + i), s = v_load(sines + i);
        v_store(x + i, v_fnma(b, s, v_mul(a, c)));
        v_store(x + i + half, v_fma(b, c, v_mul(a, s)));
    }
    if (i < half) {
        int n = half - i;
        v16 a = v_loadn(x + i, n), b = v_loadn(x + i + half, n);
        v16 c = v_loadn(cosines + i, n), s = v_loadn(sines + i, n);
        v_storen(x + i, v_fnma(b, s, v_mul(a, c)), n);
        v_storen(x + i + half, v_fma(b, c, v_mul(a, s)), n);
    }
}

/* cpu__exp, operation by operation. */
INLINE v16 v_exp(v16 x)
{
    v16 t = v_min(v_set(EXP_MAX), x);
    v16 n = v_round(v_mul(t, v_set(EXP_LOG2E)));
    v16 r = v_fma(n, v_set(-EXP_LN2_LO), v_fma(n, v_set(-EXP_LN2_HI), t));
    v16 p = v_set(EXP_C7);
    p = v_fma(p, r, v_set(EXP_C6));
    p = v_fma(p, r, v_set(EXP_C5));
    p = v_fma(p, r, v_set(EXP_C4));
    p = v_fma(p, r, v_set(EXP_C3));
    p = v_fma(p, r, v_set(EXP_C2));
    p = v_fma(p, r, v_set(1));
    p = v_fma(p, r, v_set(1));
    return v_cut(v_mul(p, v_pow2(n)), x, v_set(EXP_MIN));
}

INLINE v16 v_silu_mul(v16 gate, v16 up)
{
    return v_mul(v_div(gate, v_add(v_set(1), v_exp(v_neg(gate)))), up);
}

static void silu_mul(const float *gate, const float *up, int n, float *out)
{
    int i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(out + i, v_silu_mul(v_load(gate + i), v_load(up + i)));
    if (i < n)
        v_storen(out + i, v_silu_mul(v_loadn(gate + i, n - i), v_loadn(up + i, n - i)), n - i);
}

static void add(float *x, const float *y, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(x + i, v_add(v_load(x + i), v_load(y + i)));
    if (i < n)
        v_storen(x + i, v_add(v_loadn(x + i, n - i), v_loadn(y + i, n - i)), n - i);
}

static void add_scaled(float *x, const float *y, float by, int n)
{
    v16 factor = v_set(by);
    int i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(x + i, v_fma(factor, v_load(y + i), v_load(x + i)));
    if (i < n)
        v_storen(x + i, v_fma(factor, v_loadn(y + i, n - i), v_loadn(x + i, n - i)), n - i);
}

/* --- what memory gives --- */

enum { SIFT_AHEAD = 512 }; /* words prefetched ahead in each of several streams */

INLINE v16 sift_line(v16 a, const uint32_t *p)
{
    return v_xor(a, v_load((const float *) (const void *) p));
}

static uint32_t sift(const uint32_t *p, size_t n, size_t stride, int streams)
{
    v16 a = v_zero(), b = v_zero(), c = v_zero(), d = v_zero();
    uint32_t word[PANEL], all = 0;
    for (size_t i = 0; i < n; i += 64)
        for (int s = 0; s < streams; s++) {
            const uint32_t *at = p + (size_t) s * stride + i;
            for (int j = 0; streams > 1 && j < 64; j += 16)
                _mm_prefetch((const char *) (at + j + SIFT_AHEAD), _MM_HINT_T0);
            a = sift_line(a, at);
            b = sift_line(b, at + 16);
            c = sift_line(c, at + 32);
            d = sift_line(d, at + 48);
        }
    v_store((float *) (void *) word, v_xor(v_xor(a, b), v_xor(c, d)));
    for (int i = 0; i < PANEL; i++)
        all ^= word[i];
    return all;
}

/* --- attention ---
 *
 * Scores and output are the same sum of outer products: acc[head][lane] = fma(a[head][i], b[i][lane], acc), i ascending.
 * For scores i is d, lanes are keys and b is a d-major page; for the output i is the position, lanes are d and b are
 * rows of V.  Tail keys lie the other way round and are turned into a d-major scratch first.
 *
 * The lanes of a BF16 accumulator stand in the order in which pairs of them are widest to load (evens, odds);
 * order_bf16 puts them right once, at the end of a sum. */

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

/* acc: (H, WIDE); a: (H) pointers to n factors each; b: row i at i * ldb. */
#define OUTER(NAME, T, PAIR, H)                                                                              \
    static void NAME##_##H(float *acc, const float *const *a, const T *b, int64_t ldb, int n)                \
    {                                                                                                        \
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
#define OUTERS(H) OUTER(outer_bf16, uint16_t, v_pair_bf16, H) OUTER(outer_f32, float, v_pair_f32, H)
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
    /* acc += p V over keys [at, at + n) of one page: what all heads of a tile see at once, the rest one by one. */ \
    static void blend_page_##K(const struct crowd *c, float *acc, int at, int n, int d, int wide)                   \
    {                                                                                                               \
        T part[64 * WIDE];                                                                                          \
        int64_t ld = c->dim;                                                                                        \
        const T *v = (const T *) c->widest->v_page[at / 64] + at % 64 * ld + d;                                     \
        if (wide < WIDE) {                                                                                          \
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
            if (all)                                                                                                \
                outer_##K(m, acc + h * WIDE, p, v, ld, all);                                                        \
            for (int i = 0; i < m; i++) {                                                                           \
                int more = between(c->s[h + i].settled - at, 0, n) - all;                                           \
                const float *rest = p[i] + all;                                                                     \
                if (more)                                                                                           \
                    outer_##K(1, acc + (h + i) * WIDE, &rest, v + all * ld, ld, more);                              \
            }                                                                                                       \
        }                                                                                                           \
    }                                                                                                               \
    /* acc += p V over the tail keys of [at, end), job by job. */                                                   \
    static void blend_tails_##K(const struct crowd *c, float *acc, int at, int end, int d, int wide)                \
    {                                                                                                               \
        T part[64 * WIDE];                                                                                          \
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
                outer_##K(m, acc + h * WIDE, p, v, WIDE, rows);                                                     \
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
            order_##K(total + h * WIDE);                                                                            \
            for (int i = 0; i < wide; i++)                                                                          \
                c->s[h].out[d + i] = total[h * WIDE + i] / c->s[h].sum;                                             \
        }                                                                                                           \
    }                                                                                                               \
    static void attend_##K(struct crowd *c)                                                                         \
    {                                                                                                               \
        float scale = 1 / sqrtf((float) c->dim), turned[TURN * WIDE];                                               \
        score_pages_##K(c, scale);                                                                                  \
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

/* Everything above, over the entries already there. */
static void lanes_fill(struct kern *k)
{
    k->gemm_f32 = gemm_f32;
    k->gemm_bf16 = gemm_bf16;
    k->gemm_f16 = gemm_f16;
    k->quantize = quantize;
    k->rmsnorm = rmsnorm;
    k->rope = rope;
    k->silu_mul = silu_mul;
    k->add = add;
    k->add_scaled = add_scaled;
    k->attn_bf16 = attn_bf16;
    k->attn_f32 = attn_f32;
    k->sift = sift;
}

#endif
