/* kern_vnni.c - the int8 GEMMs with vpdpbusd: offset-binary weights are its unsigned operand, activations its signed one.
 *
 * formula  out[r][o] = chain over blocks b of fmaf((float) isum(r, o, b), fl(dw[o, b] * da[r, b]), acc); kern.h
 * shapes   gemm.h with groups of up to 8 rows and strips of up to 3 panels: 24 sums, 3 weights, 1 activation in
 *          registers; one output a lane
 * bytes    each panel is read once for up to 64 rows: k / 32 * 544 bytes of Q8, 288 of Q4
 * numerics isum starts at -128 * sum(q), Q4: -8 * sum(q), what offset-binary weights add too much; a step adds 4 products
 *          of at most 255 * 128, so int32 is exact
 * twin     gemm_q8 and gemm_q4 in kern_twin.c; test tests/pair/gemm.c; tests/bench/kern.c measures it */
#include "cpu/gemm.h"

INLINE void settle(float *acc, __m512i sum, __m512 dw, __m512 da)
{
    __m512 f = _mm512_cvtepi32_ps(sum);
    _mm512_store_ps(acc, _mm512_fmadd_ps(f, _mm512_mul_ps(dw, da), _mm512_load_ps(acc)));
}

#define WEIGHTS(j, i) _mm512_loadu_si512(w + (N > j ? j : 0) * stride + 32 + i * 64)
#define SCALES(j)     _mm512_cvtph_ps(_mm256_loadu_si256((const void *) (w + (N > j ? j : 0) * stride)))
#define START(r)                                                                                             \
    __m512i s##r##0 = _mm512_set1_epi32(gemm_word(bias + r * 4)), s##r##1 = s##r##0, s##r##2 = s##r##0;
/* `at`: the four inputs' place in the block. */
#define DOT(r)                                                                                               \
    {                                                                                                        \
        __m512i q = _mm512_set1_epi32(gemm_word(x + r * 32 + at));                                           \
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
    INLINE void q8_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)         \
    {                                                                                                        \
        const uint8_t *bias = x + R * 32, *scale = x + R * 36;                                               \
        (void) n;                                                                                            \
        EACH_##R(START) _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++)                                  \
        {                                                                                                    \
            __m512i w0 = WEIGHTS(0, i), w1 = WEIGHTS(1, i), w2 = WEIGHTS(2, i);                              \
            const int at = i * 4;                                                                            \
            EACH_##R(DOT)                                                                                    \
        }                                                                                                    \
        __m512 d0 = SCALES(0), d1 = SCALES(1), d2 = SCALES(2);                                               \
        EACH_##R(SETTLE)                                                                                     \
    }                                                                                                        \
    GEMM_STRIP(strip8, q8, 544, GEMM_BYTE_BYTES, R, 1)                                                       \
    GEMM_STRIP(strip8, q8, 544, GEMM_BYTE_BYTES, R, 2)                                                       \
    GEMM_STRIP(strip8, q8, 544, GEMM_BYTE_BYTES, R, 3)
#define STRIPS8(R) [R] = {NULL, strip8_##R##_1, strip8_##R##_2, strip8_##R##_3}

/* Q4: low halves of a load are four inputs, high halves the next four. */
#define LOW(j, i)  _mm512_and_si512(WEIGHTS(j, i), half)
#define HIGH(j, i) _mm512_and_si512(_mm512_srli_epi16(WEIGHTS(j, i), 4), half)
#define HALVES(R, HALF, AT)                                                                                  \
    {                                                                                                        \
        __m512i w0 = HALF(0, i), w1 = HALF(1, i), w2 = HALF(2, i);                                           \
        const int at = AT;                                                                                   \
        EACH_##R(DOT)                                                                                        \
    }
#define BLOCK4(R)                                                                                            \
    INLINE void q4_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)         \
    {                                                                                                        \
        const uint8_t *bias = x + R * 32, *scale = x + R * 36;                                               \
        const __m512i half = _mm512_set1_epi8(15);                                                           \
        (void) n;                                                                                            \
        EACH_##R(START) _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++){                                 \
            HALVES(R, LOW, i * 8) HALVES(R, HIGH, i * 8 + 4)} __m512 d0 = SCALES(0),                         \
                                                                     d1 = SCALES(1), d2 = SCALES(2);         \
        EACH_##R(SETTLE)                                                                                     \
    }                                                                                                        \
    GEMM_STRIP(strip4, q4, 288, GEMM_BYTE_BYTES, R, 1)                                                       \
    GEMM_STRIP(strip4, q4, 288, GEMM_BYTE_BYTES, R, 2)                                                       \
    GEMM_STRIP(strip4, q4, 288, GEMM_BYTE_BYTES, R, 3)
#define STRIPS4(R) [R] = {NULL, strip4_##R##_1, strip4_##R##_2, strip4_##R##_3}

#define BOTH(R)                                                                                              \
    BLOCK(R)                                                                                                 \
    BLOCK4(R)
BOTH(1)
BOTH(2)
BOTH(3)
BOTH(4)
BOTH(5)
BOTH(6)
BOTH(7)
BOTH(8)

static void gemm_q8(const struct q8_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    static const struct gemm shape = {
        .group = 8,
        .side = 3,
        .block_bytes = sizeof(struct q8_block),
        .row_bytes = GEMM_BYTE_BYTES,
        .pack = gemm_pack_q8,
        .strip = {STRIPS8(1), STRIPS8(2), STRIPS8(3), STRIPS8(4), STRIPS8(5), STRIPS8(6), STRIPS8(7),
                  STRIPS8(8)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo, room);
}

static void gemm_q4(const struct q4_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    static const struct gemm shape = {
        .group = 8,
        .side = 3,
        .block_bytes = sizeof(struct q4_block),
        .row_bytes = GEMM_BYTE_BYTES,
        .pack = gemm_pack_q4,
        .strip = {STRIPS4(1), STRIPS4(2), STRIPS4(3), STRIPS4(4), STRIPS4(5), STRIPS4(6), STRIPS4(7),
                  STRIPS4(8)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo, room);
}

void cpu__kern_vnni(struct kern *k)
{
    k->name = "vnni";
    k->gemm_q8 = gemm_q8;
    k->gemm_q4 = gemm_q4;
}
