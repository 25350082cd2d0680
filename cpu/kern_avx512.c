/* kern_avx512.c - the kernels for AVX-512 F, BW, DQ, VL: v16 is one zmm, the int8 GEMM multiplies 16-bit pairs, the
 * 4-bit one bytes.
 *
 * Everything but gemm_q8 and gemm_q4 is lanes.h.  These, for machines without VNNI:
 * formula  as kern_vnni.c's; a dword of four offset-binary weights is split into its even and odd bytes, two 16-bit
 *          pairs that vpmaddwd multiplies with activations packed the same way
 * shapes   gemm.h with groups of up to 8 rows and strips of up to 2 panels
 * numerics a pair adds at most 2 * 255 * 128 to a sum that starts at -128 * sum(q): exact.  vpmaddubsw is one
 *          instruction less but saturates with offset-binary weights; not with halves of 0..15, whose
 *          products of a whole block, 16 * 15 * 127 a lane, fit 16 bits: gemm_q4 widens once a block
 * twin     kern_twin.c; tests tests/pair */
#include "cpu/gemm.h"

typedef __m512 v16;

INLINE v16 v_zero(void)
{
    return _mm512_setzero_ps();
}

INLINE v16 v_set(float x)
{
    return _mm512_set1_ps(x);
}

INLINE v16 v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

INLINE void v_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}

INLINE __mmask16 v_mask(int n)
{
    return (__mmask16) ((1u << n) - 1);
}

INLINE v16 v_loadn(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(v_mask(n), p);
}

INLINE v16 v_loador(const float *p, int n, v16 other)
{
    return _mm512_mask_loadu_ps(other, v_mask(n), p);
}

INLINE void v_storen(float *p, v16 a, int n)
{
    _mm512_mask_storeu_ps(p, v_mask(n), a);
}

INLINE v16 v_first(v16 a, int n)
{
    return _mm512_maskz_mov_ps(v_mask(n), a);
}

INLINE v16 v_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

INLINE v16 v_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

INLINE v16 v_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

INLINE v16 v_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

INLINE v16 v_neg(v16 a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

INLINE v16 v_xor(v16 a, v16 b)
{
    return _mm512_xor_ps(a, b);
}

INLINE v16 v_round(v16 a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE v16 v_fnma(v16 a, v16 b, v16 c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

INLINE v16 v_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

INLINE v16 v_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

INLINE v16 v_pow2(v16 n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}

INLINE v16 v_cut(v16 p, v16 x, v16 bound)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), p);
}

/* 8-4-2-1, as the twin's fold. */
INLINE float v_fold(v16 a)
{
    __m256 e = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 f = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    f = _mm_add_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_add_ss(f, _mm_shuffle_ps(f, f, 1)));
}

INLINE float v_highest(v16 a)
{
    return _mm512_reduce_max_ps(a);
}

INLINE v16 v_bf16(const uint16_t *p)
{
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *) p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

INLINE v16 v_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *) p));
}

/* 32 bf16: evens in a, odds in b. */
INLINE void v_pair_bf16(const uint16_t *p, v16 *a, v16 *b)
{
    __m512i w = _mm512_loadu_si512(p);
    __asm__("" : "+v"(w)); /* one load, not one folded into each of the two */
    *a = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
    *b = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int) 0xffff0000u)));
}

INLINE void v_pair_f32(const float *p, v16 *a, v16 *b)
{
    *a = v_load(p);
    *b = v_load(p + 16);
}

/* 32 lanes from evens and odds to their own order. */
INLINE void v_unpair(v16 *a, v16 *b)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    v16 even = *a;
    *a = _mm512_permutex2var_ps(even, low, *b);
    *b = _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), *b);
}

INLINE uint32_t v_top(const float *x)
{
    __m512i a = _mm512_castps_si512(_mm512_abs_ps(v_load(x))),
            b = _mm512_castps_si512(_mm512_abs_ps(v_load(x + 16)));
    return _mm512_reduce_max_epu32(_mm512_max_epu32(a, b));
}

INLINE int32_t v_quantize(const float *x, float inv, int8_t *q)
{
    __m512i a = _mm512_cvtps_epi32(v_mul(v_load(x), v_set(inv)));
    __m512i b = _mm512_cvtps_epi32(v_mul(v_load(x + 16), v_set(inv)));
    _mm_storeu_si128((void *) q, _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128((void *) (q + 16), _mm512_cvtepi32_epi8(b));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

#define FLOAT_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#define FLOAT_STRIPS(NAME, BLOCK, BYTES, ROW_BYTES, R)                                                       \
    GEMM_STRIP(NAME, BLOCK, BYTES, ROW_BYTES, R, 1)                                                          \
    GEMM_STRIP(NAME, BLOCK, BYTES, ROW_BYTES, R, 2)                                                          \
    GEMM_STRIP(NAME, BLOCK, BYTES, ROW_BYTES, R, 3)
#define FLOAT_ROW(NAME, R) [R] = {NULL, NAME##_##R##_1, NAME##_##R##_2, NAME##_##R##_3}
#define FLOAT_TABLE(NAME)                                                                                    \
    FLOAT_ROW(NAME, 1), FLOAT_ROW(NAME, 2), FLOAT_ROW(NAME, 3), FLOAT_ROW(NAME, 4), FLOAT_ROW(NAME, 5),      \
        FLOAT_ROW(NAME, 6), FLOAT_ROW(NAME, 7), FLOAT_ROW(NAME, 8)
#define ATTN_HEADS(X)    X(1) X(2) X(3) X(4)
#define ATTN_TABLE(NAME) NAME##_1, NAME##_2, NAME##_3, NAME##_4

enum { FLOAT_GROUP = 8, FLOAT_SIDE = 3, HEADS = 4, WIDE = 64 };

#include "cpu/lanes.h"

/* --- int8 --- */

INLINE __m512i pair(__m512i sum, __m512i w, __m512i q)
{
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, q));
}

INLINE void settle(float *acc, __m512i sum, __m512 dw, __m512 da)
{
    __m512 f = _mm512_cvtepi32_ps(sum);
    _mm512_store_ps(acc, _mm512_fmadd_ps(f, _mm512_mul_ps(dw, da), _mm512_load_ps(acc)));
}

#define WEIGHTS(j, i) _mm512_loadu_si512(w + (N > j ? j : 0) * stride + 32 + i * 64)
#define SCALES(j)     _mm512_cvtph_ps(_mm256_loadu_si256((const void *) (w + (N > j ? j : 0) * stride)))
#define START(r)      __m512i s##r##0 = _mm512_set1_epi32(gemm_word(bias + r * 4)), s##r##1 = s##r##0;
#define DOT(r)                                                                                               \
    {                                                                                                        \
        __m512i qe = _mm512_set1_epi32(gemm_word(x + r * 64 + i * 8));                                       \
        __m512i qo = _mm512_set1_epi32(gemm_word(x + r * 64 + i * 8 + 4));                                   \
        s##r##0 = pair(pair(s##r##0, e0, qe), o0, qo);                                                       \
        if (N > 1)                                                                                           \
            s##r##1 = pair(pair(s##r##1, e1, qe), o1, qo);                                                   \
    }
#define SETTLE(r)                                                                                            \
    {                                                                                                        \
        __m512 da = _mm512_set1_ps(gemm_float(scale + r * 4));                                               \
        settle(acc + r * N * PANEL, s##r##0, d0, da);                                                        \
        if (N > 1)                                                                                           \
            settle(acc + r * N * PANEL + PANEL, s##r##1, d1, da);                                            \
    }
/* The loop over i stays a loop: unrolled, gcc reassociates the sums, computes all products first and spills them. */
#define BLOCK(R)                                                                                             \
    INLINE void block_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)      \
    {                                                                                                        \
        const uint8_t *bias = x + R * 64, *scale = x + R * 68;                                               \
        const __m512i low = _mm512_set1_epi16(0xff);                                                         \
        (void) n;                                                                                            \
        EACH_##R(START) _Pragma("GCC unroll 1") for (int i = 0; i < 8; i++)                                  \
        {                                                                                                    \
            __m512i w0 = WEIGHTS(0, i), w1 = WEIGHTS(1, i);                                                  \
            __m512i e0 = _mm512_and_si512(w0, low), e1 = _mm512_and_si512(w1, low);                          \
            __m512i o0 = _mm512_srli_epi16(w0, 8), o1 = _mm512_srli_epi16(w1, 8);                            \
            EACH_##R(DOT)                                                                                    \
        }                                                                                                    \
        __m512 d0 = SCALES(0), d1 = SCALES(1);                                                               \
        EACH_##R(SETTLE)                                                                                     \
    }                                                                                                        \
    GEMM_STRIP(strip, block, 544, GEMM_PAIR_BYTES, R, 1)                                                     \
    GEMM_STRIP(strip, block, 544, GEMM_PAIR_BYTES, R, 2)
#define STRIPS(R) [R] = {NULL, strip_##R##_1, strip_##R##_2}

BLOCK(1)
BLOCK(2)
BLOCK(3)
BLOCK(4)
BLOCK(5)
BLOCK(6)
BLOCK(7)
BLOCK(8)

static void gemm_q8(const struct q8_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    static const struct gemm shape = {
        .group = 8,
        .side = 2,
        .block_bytes = sizeof(struct q8_block),
        .row_bytes = GEMM_PAIR_BYTES,
        .pack = gemm_pack_pairs,
        .strip = {STRIPS(1), STRIPS(2), STRIPS(3), STRIPS(4), STRIPS(5), STRIPS(6), STRIPS(7), STRIPS(8)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo, room);
}

/* --- 4-bit --- */

#define ZERO(r) __m512i s##r##0 = _mm512_setzero_si512(), s##r##1 = s##r##0;
#define DOT4(r)                                                                                              \
    {                                                                                                        \
        __m512i q = _mm512_set1_epi32(gemm_word(x + r * 32 + at));                                           \
        s##r##0 = _mm512_add_epi16(s##r##0, _mm512_maddubs_epi16(w0, q));                                    \
        if (N > 1)                                                                                           \
            s##r##1 = _mm512_add_epi16(s##r##1, _mm512_maddubs_epi16(w1, q));                                \
    }
#define WIDEN4(r)                                                                                            \
    {                                                                                                        \
        __m512i start = _mm512_set1_epi32(gemm_word(bias + r * 4)), one = _mm512_set1_epi16(1);              \
        s##r##0 = pair(start, s##r##0, one);                                                                 \
        if (N > 1)                                                                                           \
            s##r##1 = pair(start, s##r##1, one);                                                             \
    }
#define BLOCK4(R)                                                                                            \
    INLINE void block4_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)     \
    {                                                                                                        \
        const uint8_t *bias = x + R * 32, *scale = x + R * 36;                                               \
        const __m512i half = _mm512_set1_epi8(15);                                                           \
        (void) n;                                                                                            \
        EACH_##R(ZERO) _Pragma("GCC unroll 1") for (int i = 0; i < 4; i++)                                   \
        {                                                                                                    \
            __m512i w0 = _mm512_and_si512(WEIGHTS(0, i), half);                                              \
            __m512i w1 = _mm512_and_si512(WEIGHTS(1, i), half);                                              \
            int at = i * 8;                                                                                  \
            EACH_##R(DOT4) w0 = _mm512_and_si512(_mm512_srli_epi16(WEIGHTS(0, i), 4), half);                 \
            w1 = _mm512_and_si512(_mm512_srli_epi16(WEIGHTS(1, i), 4), half);                                \
            at += 4;                                                                                         \
            EACH_##R(DOT4)                                                                                   \
        }                                                                                                    \
        __m512 d0 = SCALES(0), d1 = SCALES(1);                                                               \
        EACH_##R(WIDEN4) EACH_##R(SETTLE)                                                                    \
    }                                                                                                        \
    GEMM_STRIP(strip4, block4, 288, GEMM_BYTE_BYTES, R, 1)                                                   \
    GEMM_STRIP(strip4, block4, 288, GEMM_BYTE_BYTES, R, 2)
#define STRIPS4(R) [R] = {NULL, strip4_##R##_1, strip4_##R##_2}

BLOCK4(1)
BLOCK4(2)
BLOCK4(3)
BLOCK4(4)
BLOCK4(5)
BLOCK4(6)
BLOCK4(7)
BLOCK4(8)

static void gemm_q4(const struct q4_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    static const struct gemm shape = {
        .group = 8,
        .side = 2,
        .block_bytes = sizeof(struct q4_block),
        .row_bytes = GEMM_BYTE_BYTES,
        .pack = gemm_pack_q4,
        .strip = {STRIPS4(1), STRIPS4(2), STRIPS4(3), STRIPS4(4), STRIPS4(5), STRIPS4(6), STRIPS4(7),
                  STRIPS4(8)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo, room);
}

void cpu__kern_avx512(struct kern *k)
{
    lanes_fill(k);
    k->name = "avx512";
    k->gemm_q8 = gemm_q8;
    k->gemm_q4 = gemm_q4;
}
