/* kern_avxvnni.c - the int8 GEMMs with the 256-bit vpdpbusd of AVX-VNNI, for machines that have it and no AVX-512.
 *
 * formula  as kern_vnni.c's
 * shapes   gemm.h with groups of up to 6 rows and one panel, two registers wide: 12 sums, 2 weights, 1 activation, 1 mask
 * bytes    each panel is read once for up to 64 rows: k / 32 * 544 bytes of Q8, 288 of Q4
 * numerics as kern_vnni.c's: int32 is exact
 * twin     gemm_q8 and gemm_q4 in kern_twin.c; test tests/pair/gemm.c; everything else is kern_avx2.c's */
#include "cpu/gemm.h"

INLINE void settle(float *acc, __m256i sum, __m256 dw, __m256 da)
{
    __m256 f = _mm256_cvtepi32_ps(sum);
    _mm256_store_ps(acc, _mm256_fmadd_ps(f, _mm256_mul_ps(dw, da), _mm256_load_ps(acc)));
}

#define WEIGHTS(i) _mm256_loadu_si256((const void *) (w + 32 + i))
#define SCALES(i)  _mm256_cvtph_ps(_mm_loadu_si128((const void *) (w + i)))
#define START(r)   __m256i l##r = _mm256_set1_epi32(gemm_word(bias + r * 4)), h##r = l##r;
/* `at`: the four inputs' place in the block. */
#define DOT(r)                                                                                               \
    {                                                                                                        \
        __m256i q = _mm256_set1_epi32(gemm_word(x + r * 32 + at));                                           \
        l##r = _mm256_dpbusd_avx_epi32(l##r, wl, q);                                                         \
        h##r = _mm256_dpbusd_avx_epi32(h##r, wh, q);                                                         \
    }
#define SETTLE(r)                                                                                            \
    {                                                                                                        \
        __m256 da = _mm256_set1_ps(gemm_float(scale + r * 4));                                               \
        settle(acc + r * PANEL, l##r, dl, da);                                                               \
        settle(acc + r * PANEL + 8, h##r, dh, da);                                                           \
    }
#define BLOCK(R)                                                                                             \
    INLINE void q8_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)         \
    {                                                                                                        \
        const uint8_t *bias = x + R * 32, *scale = x + R * 36;                                               \
        (void) stride, (void) n, (void) N;                                                                   \
        EACH_##R(START) _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++)                                  \
        {                                                                                                    \
            __m256i wl = WEIGHTS(i * 64), wh = WEIGHTS(i * 64 + 32);                                         \
            const int at = i * 4;                                                                            \
            EACH_##R(DOT)                                                                                    \
        }                                                                                                    \
        __m256 dl = SCALES(0), dh = SCALES(16);                                                              \
        EACH_##R(SETTLE)                                                                                     \
    }                                                                                                        \
    GEMM_STRIP(strip8, q8, 544, GEMM_BYTE_BYTES, R, 1)
#define STRIPS8(R) [R] = {NULL, strip8_##R##_1}

/* Q4: low halves of a load are four inputs, high halves the next four. */
#define BLOCK4(R)                                                                                            \
    INLINE void q4_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)         \
    {                                                                                                        \
        const uint8_t *bias = x + R * 32, *scale = x + R * 36;                                               \
        const __m256i half = _mm256_set1_epi8(15);                                                           \
        (void) stride, (void) n, (void) N;                                                                   \
        EACH_##R(START) _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)                                  \
        {                                                                                                    \
            __m256i wl = _mm256_and_si256(WEIGHTS(i * 64), half),                                            \
                    wh = _mm256_and_si256(WEIGHTS(i * 64 + 32), half);                                       \
            int at = i * 8;                                                                                  \
            EACH_##R(DOT) wl = _mm256_and_si256(_mm256_srli_epi16(WEIGHTS(i * 64), 4), half);                \
            wh = _mm256_and_si256(_mm256_srli_epi16(WEIGHTS(i * 64 + 32), 4), half);                         \
            at += 4;                                                                                         \
            EACH_##R(DOT)                                                                                    \
        }                                                                                                    \
        __m256 dl = SCALES(0), dh = SCALES(16);                                                              \
        EACH_##R(SETTLE)                                                                                     \
    }                                                                                                        \
    GEMM_STRIP(strip4, q4, 288, GEMM_BYTE_BYTES, R, 1)
#define STRIPS4(R) [R] = {NULL, strip4_##R##_1}

#define BOTH(R)                                                                                              \
    BLOCK(R)                                                                                                 \
    BLOCK4(R)
BOTH(1)
BOTH(2)
BOTH(3)
BOTH(4)
BOTH(5)
BOTH(6)

static void gemm_q8(const struct q8_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    static const struct gemm shape = {
        .group = 6,
        .side = 1,
        .block_bytes = sizeof(struct q8_block),
        .row_bytes = GEMM_BYTE_BYTES,
        .pack = gemm_pack_q8,
        .strip = {STRIPS8(1), STRIPS8(2), STRIPS8(3), STRIPS8(4), STRIPS8(5), STRIPS8(6)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo, room);
}

static void gemm_q4(const struct q4_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    static const struct gemm shape = {
        .group = 6,
        .side = 1,
        .block_bytes = sizeof(struct q4_block),
        .row_bytes = GEMM_BYTE_BYTES,
        .pack = gemm_pack_q4,
        .strip = {STRIPS4(1), STRIPS4(2), STRIPS4(3), STRIPS4(4), STRIPS4(5), STRIPS4(6)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo, room);
}

void cpu__kern_avxvnni(struct kern *k)
{
    k->name = "avxvnni";
    k->gemm_q8 = gemm_q8;
    k->gemm_q4 = gemm_q4;
}
