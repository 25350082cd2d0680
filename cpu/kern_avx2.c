/* kern_avx2.c - the kernels for AVX2, FMA and F16C: v16 is two ymm, the int8 GEMM multiplies 16-bit pairs,
 * the 4-bit one bytes.
 *
 * Everything but gemm_q8 and gemm_q4 is lanes.h.  These:
 * formula  as kern_avx512.c's: even and odd bytes of offset-binary weights are 16-bit pairs for vpmaddwd
 * shapes   gemm.h with groups of up to 4 rows and one panel: 8 sums, 4 weights, 2 activations in 16 registers
 * numerics a pair adds at most 2 * 255 * 128 to a sum that starts at -128 * sum(q): exact.  vpmaddubsw saturates with
 *          offset-binary weights; with abs and sign operands it takes as many instructions.  gemm_q4 takes
 *          it: halves of 0..15 do not saturate, and a block's 16 * 15 * 127 a lane fits 16 bits
 * twin     kern_twin.c; tests tests/pair */
#include "cpu/gemm.h"

typedef struct {
    __m256 l, h; /* lanes 0..7 and 8..15 */
} v16;

INLINE v16 v_both(__m256 l, __m256 h)
{
    return (v16){l, h};
}

INLINE v16 v_zero(void)
{
    return v_both(_mm256_setzero_ps(), _mm256_setzero_ps());
}

INLINE v16 v_set(float x)
{
    return v_both(_mm256_set1_ps(x), _mm256_set1_ps(x));
}

INLINE v16 v_load(const float *p)
{
    return v_both(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

INLINE void v_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.l);
    _mm256_storeu_ps(p + 8, a.h);
}

/* All ones in lanes below n, of lanes at, at + 1, ... */
INLINE __m256i v_mask(int n, int at)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - at), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE v16 v_first(v16 a, int n)
{
    return v_both(_mm256_and_ps(a.l, _mm256_castsi256_ps(v_mask(n, 0))),
                  _mm256_and_ps(a.h, _mm256_castsi256_ps(v_mask(n, 8))));
}

INLINE v16 v_loadn(const float *p, int n)
{
    return v_both(_mm256_maskload_ps(p, v_mask(n, 0)), _mm256_maskload_ps(p + 8, v_mask(n, 8)));
}

INLINE v16 v_loador(const float *p, int n, v16 other)
{
    v16 a = v_loadn(p, n);
    return v_both(_mm256_blendv_ps(other.l, a.l, _mm256_castsi256_ps(v_mask(n, 0))),
                  _mm256_blendv_ps(other.h, a.h, _mm256_castsi256_ps(v_mask(n, 8))));
}

INLINE void v_storen(float *p, v16 a, int n)
{
    _mm256_maskstore_ps(p, v_mask(n, 0), a.l);
    _mm256_maskstore_ps(p + 8, v_mask(n, 8), a.h);
}

#define EACH_HALF(NAME, OP)                                                                                  \
    INLINE v16 NAME(v16 a, v16 b)                                                                            \
    {                                                                                                        \
        return v_both(OP(a.l, b.l), OP(a.h, b.h));                                                           \
    }
EACH_HALF(v_add, _mm256_add_ps)
EACH_HALF(v_sub, _mm256_sub_ps)
EACH_HALF(v_mul, _mm256_mul_ps)
EACH_HALF(v_div, _mm256_div_ps)
EACH_HALF(v_min, _mm256_min_ps)
EACH_HALF(v_max, _mm256_max_ps)
EACH_HALF(v_xor, _mm256_xor_ps)

INLINE v16 v_neg(v16 a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return v_both(_mm256_xor_ps(a.l, sign), _mm256_xor_ps(a.h, sign));
}

INLINE v16 v_round(v16 a)
{
    return v_both(_mm256_round_ps(a.l, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                  _mm256_round_ps(a.h, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return v_both(_mm256_fmadd_ps(a.l, b.l, c.l), _mm256_fmadd_ps(a.h, b.h, c.h));
}

INLINE v16 v_fnma(v16 a, v16 b, v16 c)
{
    return v_both(_mm256_fnmadd_ps(a.l, b.l, c.l), _mm256_fnmadd_ps(a.h, b.h, c.h));
}

INLINE __m256 pow2_half(__m256 n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}

INLINE v16 v_pow2(v16 n)
{
    return v_both(pow2_half(n.l), pow2_half(n.h));
}

INLINE v16 v_cut(v16 p, v16 x, v16 bound)
{
    return v_both(_mm256_and_ps(p.l, _mm256_cmp_ps(x.l, bound.l, _CMP_NLT_UQ)),
                  _mm256_and_ps(p.h, _mm256_cmp_ps(x.h, bound.h, _CMP_NLT_UQ)));
}

/* 8-4-2-1, as the twin's fold. */
INLINE float v_fold(v16 a)
{
    __m256 e = _mm256_add_ps(a.l, a.h);
    __m128 f = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    f = _mm_add_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_add_ss(f, _mm_shuffle_ps(f, f, 1)));
}

INLINE float v_highest(v16 a)
{
    __m256 e = _mm256_max_ps(a.l, a.h);
    __m128 f = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    f = _mm_max_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_max_ss(f, _mm_shuffle_ps(f, f, 1)));
}

INLINE __m256 bf16_half(const uint16_t *p)
{
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *) p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

INLINE v16 v_bf16(const uint16_t *p)
{
    return v_both(bf16_half(p), bf16_half(p + 8));
}

INLINE v16 v_f16(const uint16_t *p)
{
    return v_both(_mm256_cvtph_ps(_mm_loadu_si128((const void *) p)),
                  _mm256_cvtph_ps(_mm_loadu_si128((const void *) (p + 8))));
}

/* 16 bf16: evens in the low half, odds in the high one. */
INLINE v16 bf16_split(const uint16_t *p)
{
    __m256i w = _mm256_loadu_si256((const void *) p);
    return v_both(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                  _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int) 0xffff0000u))));
}

INLINE void v_pair_bf16(const uint16_t *p, v16 *a, v16 *b)
{
    *a = bf16_split(p);
    *b = bf16_split(p + 16);
}

INLINE void v_pair_f32(const float *p, v16 *a, v16 *b)
{
    *a = v_load(p);
    *b = v_load(p + 16);
}

INLINE v16 v_join(v16 a)
{
    __m256 low = _mm256_unpacklo_ps(a.l, a.h), high = _mm256_unpackhi_ps(a.l, a.h);
    return v_both(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

/* 32 lanes, each 16 as bf16_split left them, to their own order. */
INLINE void v_unpair(v16 *a, v16 *b)
{
    *a = v_join(*a);
    *b = v_join(*b);
}

INLINE uint32_t v_top(const float *x)
{
    __m256i bits = _mm256_set1_epi32(0x7fffffff), top = _mm256_setzero_si256();
    for (int i = 0; i < 32; i += 8)
        top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_loadu_si256((const void *) (x + i)), bits));
    __m128i t = _mm_max_epu32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    t = _mm_max_epu32(t, _mm_shuffle_epi32(t, 0x4e));
    return (uint32_t) _mm_cvtsi128_si32(_mm_max_epu32(t, _mm_shuffle_epi32(t, 0xb1)));
}

INLINE int32_t v_quantize(const float *x, float inv, int8_t *q)
{
    __m256i v[4], sum = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i * 8), _mm256_set1_ps(inv)));
        sum = _mm256_add_epi32(sum, v[i]);
    }
    __m256i b = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    _mm256_storeu_si256((void *) q,
                        _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

#define FLOAT_ROWS(X)                                  X(1) X(2) X(3) X(4) X(5) X(6)
#define FLOAT_STRIPS(NAME, BLOCK, BYTES, ROW_BYTES, R) GEMM_STRIP(NAME, BLOCK, BYTES, ROW_BYTES, R, 1)
#define FLOAT_ROW(NAME, R)                             [R] = {NULL, NAME##_##R##_1}
#define FLOAT_TABLE(NAME)                                                                                    \
    FLOAT_ROW(NAME, 1), FLOAT_ROW(NAME, 2), FLOAT_ROW(NAME, 3), FLOAT_ROW(NAME, 4), FLOAT_ROW(NAME, 5),      \
        FLOAT_ROW(NAME, 6)
#define ATTN_HEADS(X)    X(1) X(2)
#define ATTN_TABLE(NAME) NAME##_1, NAME##_2

enum { FLOAT_GROUP = 6, FLOAT_SIDE = 1, HEADS = 2, WIDE = 32 };

#include "cpu/lanes.h"

/* --- int8 --- */

INLINE void settle(float *acc, __m256i sum, __m256 dw, __m256 da)
{
    __m256 f = _mm256_cvtepi32_ps(sum);
    _mm256_store_ps(acc, _mm256_fmadd_ps(f, _mm256_mul_ps(dw, da), _mm256_load_ps(acc)));
}

#define WEIGHTS(i) _mm256_loadu_si256((const void *) (w + 32 + i))
#define SCALES(i)  _mm256_cvtph_ps(_mm_loadu_si128((const void *) (w + i)))
#define START(r)   __m256i l##r = _mm256_set1_epi32(gemm_word(bias + r * 4)), h##r = l##r;
/* Even bytes with `at` 0, then odd ones with 4: two weights at a time, or the sums do not stay in registers. */
#define DOT(r)                                                                                               \
    {                                                                                                        \
        __m256i q = _mm256_set1_epi32(gemm_word(x + r * 64 + i * 8 + at));                                   \
        l##r = _mm256_add_epi32(l##r, _mm256_madd_epi16(wl, q));                                             \
        h##r = _mm256_add_epi32(h##r, _mm256_madd_epi16(wh, q));                                             \
    }
#define SETTLE(r)                                                                                            \
    {                                                                                                        \
        __m256 da = _mm256_set1_ps(gemm_float(scale + r * 4));                                               \
        settle(acc + r * PANEL, l##r, dl, da);                                                               \
        settle(acc + r * PANEL + 8, h##r, dh, da);                                                           \
    }
/* The loop over i stays a loop: unrolled, gcc reassociates the sums, computes all products first and spills them. */
#define BLOCK(R)                                                                                             \
    INLINE void block_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)      \
    {                                                                                                        \
        const uint8_t *bias = x + R * 64, *scale = x + R * 68;                                               \
        const __m256i low = _mm256_set1_epi16(0xff);                                                         \
        (void) stride, (void) n, (void) N;                                                                   \
        EACH_##R(START) _Pragma("GCC unroll 1") for (int i = 0; i < 8; i++)                                  \
        {                                                                                                    \
            __m256i wl = _mm256_and_si256(WEIGHTS(i * 64), low),                                             \
                    wh = _mm256_and_si256(WEIGHTS(i * 64 + 32), low);                                        \
            int at = 0;                                                                                      \
            EACH_##R(DOT) wl = _mm256_srli_epi16(WEIGHTS(i * 64), 8);                                        \
            wh = _mm256_srli_epi16(WEIGHTS(i * 64 + 32), 8);                                                 \
            at = 4;                                                                                          \
            EACH_##R(DOT)                                                                                    \
        }                                                                                                    \
        __m256 dl = SCALES(0), dh = SCALES(16);                                                              \
        EACH_##R(SETTLE)                                                                                     \
    }                                                                                                        \
    GEMM_STRIP(strip, block, 544, GEMM_PAIR_BYTES, R, 1)
#define STRIPS(R) [R] = {NULL, strip_##R##_1}

BLOCK(1)
BLOCK(2)
BLOCK(3)
BLOCK(4)

static void gemm_q8(const struct q8_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    static const struct gemm shape = {
        .group = 4,
        .side = 1,
        .block_bytes = sizeof(struct q8_block),
        .row_bytes = GEMM_PAIR_BYTES,
        .pack = gemm_pack_pairs,
        .strip = {STRIPS(1), STRIPS(2), STRIPS(3), STRIPS(4)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo, room);
}

/* --- 4-bit --- */

#define ZERO(r) __m256i l##r = _mm256_setzero_si256(), h##r = l##r;
#define DOT4(r)                                                                                              \
    {                                                                                                        \
        __m256i q = _mm256_set1_epi32(gemm_word(x + r * 32 + at));                                           \
        l##r = _mm256_add_epi16(l##r, _mm256_maddubs_epi16(wl, q));                                          \
        h##r = _mm256_add_epi16(h##r, _mm256_maddubs_epi16(wh, q));                                          \
    }
#define WIDEN4(r)                                                                                            \
    {                                                                                                        \
        __m256i start = _mm256_set1_epi32(gemm_word(bias + r * 4)), one = _mm256_set1_epi16(1);              \
        l##r = _mm256_add_epi32(start, _mm256_madd_epi16(l##r, one));                                        \
        h##r = _mm256_add_epi32(start, _mm256_madd_epi16(h##r, one));                                        \
    }
#define BLOCK4(R)                                                                                            \
    INLINE void block4_##R(const uint8_t *w, int64_t stride, int n, const uint8_t *x, int N, float *acc)     \
    {                                                                                                        \
        const uint8_t *bias = x + R * 32, *scale = x + R * 36;                                               \
        const __m256i half = _mm256_set1_epi8(15);                                                           \
        (void) stride, (void) n, (void) N;                                                                   \
        EACH_##R(ZERO) _Pragma("GCC unroll 1") for (int i = 0; i < 4; i++)                                   \
        {                                                                                                    \
            __m256i wl = _mm256_and_si256(WEIGHTS(i * 64), half),                                            \
                    wh = _mm256_and_si256(WEIGHTS(i * 64 + 32), half);                                       \
            int at = i * 8;                                                                                  \
            EACH_##R(DOT4) wl = _mm256_and_si256(_mm256_srli_epi16(WEIGHTS(i * 64), 4), half);               \
            wh = _mm256_and_si256(_mm256_srli_epi16(WEIGHTS(i * 64 + 32), 4), half);                         \
            at += 4;                                                                                         \
            EACH_##R(DOT4)                                                                                   \
        }                                                                                                    \
        __m256 dl = SCALES(0), dh = SCALES(16);                                                              \
        EACH_##R(WIDEN4) EACH_##R(SETTLE)                                                                    \
    }                                                                                                        \
    GEMM_STRIP(strip4, block4, 288, GEMM_BYTE_BYTES, R, 1)
#define STRIPS4(R) [R] = {NULL, strip4_##R##_1}

BLOCK4(1)
BLOCK4(2)
BLOCK4(3)
BLOCK4(4)

static void gemm_q4(const struct q4_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    static const struct gemm shape = {
        .group = 4,
        .side = 1,
        .block_bytes = sizeof(struct q4_block),
        .row_bytes = GEMM_BYTE_BYTES,
        .pack = gemm_pack_q4,
        .strip = {STRIPS4(1), STRIPS4(2), STRIPS4(3), STRIPS4(4)},
    };
    gemm_run(&shape, w, k, p0, p1, &(struct gemm_x){.q = x}, m, out, ldo, room);
}

void cpu__kern_avx2(struct kern *k)
{
    lanes_fill(k);
    k->name = "avx2";
    k->gemm_q8 = gemm_q8;
    k->gemm_q4 = gemm_q4;
}
