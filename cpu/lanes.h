/* lanes.h - every float kernel, written once over v16: 16 float lanes, one zmm or two ymm.
 *
 * A template: kern_avx2.c and kern_avx512.c define v16, its operations and the tile sizes, then include this file.
 * 16 lanes on both, because the orders of NUMERICS.md have 16 partial sums.
 *
 * formula, numerics, twin: kern.h and kern_twin.c, entry by entry; tests tests/pair/{gemm,rows,attn}.c
 *
 * Expected of the including file:
 *   v16, v_zero v_set v_load v_store v_loadn v_storen v_add v_sub v_mul v_div v_neg v_round
 *   v_fma(a, b, c) a b + c; v_fnma(a, b, c) -a b + c; v_min, v_max: the second operand where either is NaN
 *   v_loador(p, n, other): lanes from n on are other's; v_first(v, n): lanes from n on are 0
 *   v_pow2(n): 2^n of integral lanes; v_cut(p, x, bound): +0 where x < bound, else p
 *   v_bf16(p): 16 bf16 widened; v_turn_*: see attention below
 *   v_top(x): largest bit pattern of 32 |x|; v_quantize(x, inv, q): 32 q and their sum
 *   FLOAT_GROUP, FLOAT_SIDE, FLOAT_ROWS(X), FLOAT_STRIPS(...): tile of the float GEMMs
 *   HEADS, WIDE: heads and keys (or elements of V) of attention's tile */
#ifndef CPU_LANES_H
#define CPU_LANES_H

#include <math.h>

#include "cpu/gemm.h"

/* --- F32 and BF16 GEMM: gemm.h's strips with the sums of R rows and N panels in registers --- */

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
    FLOAT_STRIPS(f32, block_f32, 2048, FLOAT_ROW_BYTES, R)                                                   \
    FLOAT_STRIPS(bf16, block_bf16, 1024, FLOAT_ROW_BYTES, R)
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
    v16 a##h##0 = v_load(acc + h * WIDE), a##h##1 = v_load(acc + h * WIDE + 16),                             \
        a##h##2 = v_load(acc + h * WIDE + WIDE - 32), a##h##3 = v_load(acc + h * WIDE + WIDE - 16);
#define OUT_STEP(h)                                                                                          \
    {                                                                                                        \
        v16 q = v_set(a[h * lda + i]);                                                                       \
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

/* acc: (H, WIDE); a: head h at h * lda; b: row i at i * ldb. */
#define OUTER(NAME, T, PAIR, H)                                                                              \
    static void NAME##_##H(float *acc, const float *a, int64_t lda, const T *b, int64_t ldb, int n)          \
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
    static void NAME(int heads, float *acc, const float *a, int64_t lda, const T *b, int64_t ldb, int n)     \
    {                                                                                                        \
        static void (*const fn[])(float *, const float *, int64_t, const T *, int64_t,                       \
                                  int) = {NULL, ATTN_TABLE(NAME)};                                           \
        fn[heads](acc, a, lda, b, ldb, n);                                                                   \
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

/* Some heads of a job: q, score and out of the first of them. */
struct heads {
    const struct attn_job *j;
    const float *q;
    float *score, *out;
    int n;       /* of them, 1..HEADS */
    int keys;    /* n of the job */
    int settled; /* keys in pages */
    int64_t ld;  /* between the scores of two heads */
};

/* Scores of `n` keys from key `at` on: acc times the scale. */
static void put_scores(const struct heads *s, const float *acc, int at, int n)
{
    v16 scale = v_set(1 / sqrtf((float) s->j->head_dim));
    for (int h = 0; h < s->n; h++, acc += WIDE) {
        float *to = s->score + h * s->ld + at;
        int i = 0;
        for (; i + 16 <= n; i += 16)
            v_store(to + i, v_mul(v_load(acc + i), scale));
        if (i < n)
            v_storen(to + i, v_mul(v_load(acc + i), scale), n - i);
    }
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

#define ATTENTION(K, T)                                                                                      \
    static void score_pages_##K(const struct heads *s)                                                       \
    {                                                                                                        \
        int dim = s->j->head_dim;                                                                            \
        for (int at = 0; at < s->settled; at += WIDE) {                                                      \
            float acc[HEADS * WIDE] = {0};                                                                   \
            const T *page = (const T *) s->j->k_page[at / 64] + at % 64;                                     \
            outer_##K(s->n, acc, s->q, dim, page, 64, dim);                                                  \
            for (int h = 0; h < s->n; h++)                                                                   \
                order_##K(acc + h * WIDE);                                                                   \
            put_scores(s, acc, at, s->settled - at < WIDE ? s->settled - at : WIDE);                         \
        }                                                                                                    \
    }                                                                                                        \
    static void score_tail_##K(const struct heads *s)                                                        \
    {                                                                                                        \
        int dim = s->j->head_dim;                                                                            \
        float turned[TURN * WIDE];                                                                           \
        if (s->keys > s->settled) /* lanes without a key */                                                  \
            memset(turned, 0, sizeof turned);                                                                \
        for (int at = s->settled; at < s->keys; at += WIDE) {                                                \
            int n = s->keys - at < WIDE ? s->keys - at : WIDE;                                               \
            float acc[HEADS * WIDE] = {0};                                                                   \
            for (int d = 0; d < dim; d += TURN) {                                                            \
                int nd = dim - d < TURN ? dim - d : TURN;                                                    \
                turn_##K(turned, s->j->k_tail + (at - s->settled), n, d, nd);                                \
                outer_f32(s->n, acc, s->q + d, dim, turned, WIDE, nd);                                       \
            }                                                                                                \
            put_scores(s, acc, at, n);                                                                       \
        }                                                                                                    \
    }                                                                                                        \
    /* acc += p V over keys [at, at + n), rows ld apart, `wide` of their elements. */                        \
    static void blend_rows_##K(const struct heads *s, float *acc, int at, const T *v, int64_t ld, int n,     \
                               int wide)                                                                     \
    {                                                                                                        \
        T part[64 * WIDE];                                                                                   \
        if (wide < WIDE) {                                                                                   \
            memset(part, 0, sizeof(T) * WIDE * (size_t) n);                                                  \
            for (int i = 0; i < n; i++)                                                                      \
                memcpy(part + i * WIDE, v + i * ld, sizeof(T) * (size_t) wide);                              \
            v = part;                                                                                        \
            ld = WIDE;                                                                                       \
        }                                                                                                    \
        outer_##K(s->n, acc, s->score + at, s->ld, v, ld, n);                                                \
    }                                                                                                        \
    /* One chunk's keys [at, end) of elements [d, d + wide). */                                              \
    static void blend_chunk_##K(const struct heads *s, float *acc, int at, int end, int d, int wide)         \
    {                                                                                                        \
        int dim = s->j->head_dim;                                                                            \
        while (at < end && at < s->settled) {                                                                \
            int page_end = at / 64 * 64 + 64, stop = end < s->settled ? end : s->settled;                    \
            int n = (page_end < stop ? page_end : stop) - at;                                                \
            blend_rows_##K(s, acc, at, (const T *) s->j->v_page[at / 64] + at % 64 * dim + d, dim, n, wide); \
            at += n;                                                                                         \
        }                                                                                                    \
        for (; at < end; at++)                                                                               \
            blend_rows_##K(s, acc, at, (const T *) s->j->v_tail[at - s->settled] + d, dim, 1, wide);         \
    }                                                                                                        \
    static void blend_##K(const struct heads *s, const float *sum, int d, int wide)                          \
    {                                                                                                        \
        float total[HEADS * WIDE] = {0};                                                                     \
        for (int at = 0, end; at < s->keys; at = end) {                                                      \
            float acc[HEADS * WIDE] = {0};                                                                   \
            end = (s->j->start + at) / ATTN_CHUNK * ATTN_CHUNK + ATTN_CHUNK - s->j->start;                   \
            end = end < s->keys ? end : s->keys;                                                             \
            blend_chunk_##K(s, acc, at, end, d, wide);                                                       \
            add(total, acc, s->n *WIDE);                                                                     \
        }                                                                                                    \
        for (int h = 0; h < s->n; h++) {                                                                     \
            order_##K(total + h * WIDE);                                                                     \
            for (int i = 0; i < wide; i++)                                                                   \
                s->out[h * s->j->head_dim + d + i] = total[h * WIDE + i] / sum[h];                           \
        }                                                                                                    \
    }                                                                                                        \
    static void attend_##K(const struct heads *s)                                                            \
    {                                                                                                        \
        float sum[HEADS];                                                                                    \
        int dim = s->j->head_dim;                                                                            \
        score_pages_##K(s);                                                                                  \
        score_tail_##K(s);                                                                                   \
        for (int h = 0; h < s->n; h++)                                                                       \
            sum[h] = weigh(s->score + h * s->ld, s->keys);                                                   \
        for (int d = 0; d < dim; d += WIDE)                                                                  \
            blend_##K(s, sum, d, dim - d < WIDE ? dim - d : WIDE);                                           \
    }                                                                                                        \
    static void attn_##K(const struct attn_job *j)                                                           \
    {                                                                                                        \
        int keys = j->pos - j->start + 1, parts = (j->group + HEADS - 1) / HEADS;                            \
        int64_t ld = (keys + 15) / 16 * 16;                                                                  \
        for (int i = 0; i < parts; i++) {                                                                    \
            int h = j->group * i / parts, n = j->group * (i + 1) / parts - h;                                \
            struct heads s = {j,                                                                             \
                              j->q + h * j->head_dim,                                                        \
                              j->score + h * ld,                                                             \
                              j->out + h * j->head_dim,                                                      \
                              n,                                                                             \
                              keys,                                                                          \
                              keys - j->n_tail,                                                              \
                              ld};                                                                           \
            attend_##K(&s);                                                                                  \
        }                                                                                                    \
    }
ATTENTION(bf16, uint16_t)
ATTENTION(f32, float)

/* Everything above, over the entries already there. */
static void lanes_fill(struct kern *k)
{
    k->gemm_f32 = gemm_f32;
    k->gemm_bf16 = gemm_bf16;
    k->quantize = quantize;
    k->rmsnorm = rmsnorm;
    k->rope = rope;
    k->silu_mul = silu_mul;
    k->add = add;
    k->attn_bf16 = attn_bf16;
    k->attn_f32 = attn_f32;
}

#endif
