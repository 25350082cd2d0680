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
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.f = x, .ldf = ldx}, m, out, ldo, NULL);
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
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.f = x, .ldf = ldx}, m, out, ldo, NULL);
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
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.f = x, .ldf = ldx}, m, out, ldo, NULL);
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

#include "cpu/attend.h"

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
