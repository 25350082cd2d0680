/* kern_vnni.c - the int8 GEMM with vpdpbusd: offset-binary weights are its unsigned operand, activations its signed one.
 *
 * formula  out[r][o] = chain over blocks b of fmaf((float) isum(r, o, b), fl(dw[o, b] * da[r, b]), acc); kern.h
 * shapes   gemm.h with groups of up to 8 rows and strips of up to 3 panels: 24 sums, 3 weights, 1 activation in
 *          registers; one output a lane
 * bytes    each panel is read once for up to 64 rows: k / 32 * 544 bytes
 * numerics isum starts at -128 * sum(q), what offset-binary weights add too much; a step adds 4 products of at most
 *          255 * 128, so int32 is exact
 * twin     gemm_q8 in kern_twin.c; test tests/pair/gemm.c; tests/bench/kern.c measures it */
#include "cpu/gemm.h"

enum { ROW_BYTES = 40 }; /* of one row's packed block: R rows of q (32 bytes), then R biases, then R scales */

static void pack(uint8_t *to, int64_t step, const struct gemm_x *x, int row, int r, int R, int k0, int n)
{
    const struct q8_row *q = x->q + row;
    for (int b = k0 / 32; b < (k0 + n) / 32; b++, to += step) {
        int32_t bias = -128 * q->sum[b];
        memcpy(to + r * 32, q->q + b * 32, 32);
        memcpy(to + R * 32 + r * 4, &bias, 4);
        memcpy(to + R * 36 + r * 4, &q->d[b], 4);
    }
}

INLINE void settle(float *acc, __m512i sum, __m512 dw, __m512 da)
{
    __m512 f = _mm512_cvtepi32_ps(sum);
    _mm512_store_ps(acc, _mm512_fmadd_ps(f, _mm512_mul_ps(dw, da), _mm512_load_ps(acc)));
}

#define WEIGHTS(j, i) _mm512_loadu_si512(w + (N > j ? j : 0) * stride + 32 + i * 64)
#define SCALES(j)     _mm512_cvtph_ps(_mm256_loadu_si256((const void *) (w + (N > j ? j : 0) * stride)))
#define START(r)                                                                                             \
    __m512i s##r##0 = _mm512_set1_epi32(gemm_word(bias + r * 4)), s##r##1 = s##r##0, s##r##2 = s##r##0;
#define DOT(r)                                                                                               \
    {                                                                                                        \
        __m512i q = _mm512_set1_epi32(gemm_word(x + r * 32 + i * 4));                                        \
        s##r##0 = _mm512_dpbusd_epi32(s##r##0, w0, q);                                                       \
        if (N > 1)                                                                                           \
            s##r##1 = _mm512_dpbusd_epi32(s##r##1, w1, q);                                                   \
        if (N > 2)                                                                                           \
            s##r##2 = _mm512_dpbusd_epi32(s##r##2, w2, q);                                                   \
    }
#define SETTLE(r)                                                                                            \
    {                                                                                                        \
        __m512 da = _mm512_set1_ps(gemm_float(scale + r * 4));                                               \
        settle(acc + r * N * PANEL, s##r##0, d0, da);                                                        \
        if (N > 1)                                                                                           \
            settle(acc + r * N * PANEL + PANEL, s##r##1, d1, da);                                            \
        if (N > 2)                                                                                           \
            settle(acc + r * N * PANEL + PANEL * 2, s##r##2, d2, da);                                        \
    }
#define BLOCK(R)                                                                                             \
    INLINE void block_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)      \
    {                                                                                                        \
        const uint8_t *bias = x + R * 32, *scale = x + R * 36;                                               \
        (void) n;                                                                                            \
        EACH_##R(START) _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++)                                  \
        {                                                                                                    \
            __m512i w0 = WEIGHTS(0, i), w1 = WEIGHTS(1, i), w2 = WEIGHTS(2, i);                              \
            EACH_##R(DOT)                                                                                    \
        }                                                                                                    \
        __m512 d0 = SCALES(0), d1 = SCALES(1), d2 = SCALES(2);                                               \
        EACH_##R(SETTLE)                                                                                     \
    }                                                                                                        \
    GEMM_STRIP(strip, block, 544, ROW_BYTES, R, 1)                                                           \
    GEMM_STRIP(strip, block, 544, ROW_BYTES, R, 2)                                                           \
    GEMM_STRIP(strip, block, 544, ROW_BYTES, R, 3)
#define STRIPS(R) [R] = {NULL, strip_##R##_1, strip_##R##_2, strip_##R##_3}

BLOCK(1)
BLOCK(2)
BLOCK(3)
BLOCK(4)
BLOCK(5)
BLOCK(6)
BLOCK(7)
BLOCK(8)

static void gemm_q8(const struct q8_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo)
{
    static const struct gemm shape = {
        .group = 8,
        .side = 3,
        .block_bytes = sizeof(struct q8_block),
        .row_bytes = ROW_BYTES,
        .pack = pack,
        .strip = {STRIPS(1), STRIPS(2), STRIPS(3), STRIPS(4), STRIPS(5), STRIPS(6), STRIPS(7), STRIPS(8)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo);
}

void cpu__kern_vnni(struct kern *k)
{
    k->name = "vnni";
    k->gemm_q8 = gemm_q8;
}
