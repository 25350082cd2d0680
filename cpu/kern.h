/* kern.h - the kernel table of cpu/: plain C twin, then AVX2, AVX-512, VNNI override what they do better.
 *
 * Internal to the folder.  Every entry equals its twin in kern_twin.c bit for bit (tests/pair), for any m, any split of
 * outputs and any split of rows.  The orders are NUMERICS.md's; each field's comment repeats its own.
 *
 * Panels.  A matrix of n outputs by k inputs is cut into panels of PANEL outputs (the last one padded with zeros); inside a
 * panel the lane is the output, so one accumulator an output is one lane, and one read of the panel feeds every row.
 *   F32   float    [panel][k][16]
 *   BF16  uint16_t [panel][k][16]                     (widened by << 16)
 *   F16   uint16_t [panel][k][16]                     (widened exactly)
 *   Q8    blocks   [panel][k / 32] of struct q8_block (k a multiple of 32; see pack.c for the rest)
 *   Q4    blocks   [panel][k / 32] of struct q4_block (likewise) */
#ifndef CPU_KERN_H
#define CPU_KERN_H

#include <stddef.h>
#include <stdint.h>

enum { PANEL = 16, Q8_BLOCK = 32, ATTN_CHUNK = 1024 };

/* 32 inputs of 16 outputs.  Weights are offset-binary (w + 128), so that vpdpbusd takes them as its unsigned operand; four
 * consecutive inputs of an output lie side by side. */
struct q8_block {
    uint16_t scale[16];  /* dw, FP16, one an output */
    uint8_t w[8][16][4]; /* [input / 4][output][input % 4] */
};

/* The same of 4-bit weights: inputs 8 i .. 8 i + 3 in the low halves of a dword, 8 i + 4 .. 8 i + 7 in the high ones, so that
 * one load gives two dwords of unsigned bytes by a mask and a shift.  A half stands for its value - 8. */
struct q4_block {
    uint16_t scale[16];  /* dw, FP16, one an output */
    uint8_t w[4][16][4]; /* [input / 8][output][input % 4] */
};

#define Q8_TINY 0x1p-100f
#define Q8_NAN  0x7fc00000u /* bits */

/* One row of activations, quantized by blocks of 32: amax exact (the largest bit pattern of |x| as an integer, so NaN
 * and infinity win); q = rint(x * fl(127 / amax)); da = fl(amax / 127).  q and da are 0 where amax < Q8_TINY, whose
 * reciprocal would overflow.  Where amax is not finite q is 0 and da is Q8_NAN, so every output turns NaN and the
 * request ends (NUMERICS.md) instead of going on with garbage. */
struct q8_row {
    const int8_t *q; /* (k) */
    const float *d;  /* (k / 32) da */
    const int32_t *
        sum; /* (k / 32) sum of q over the block; 128 or 8 * sum is what offset-binary weights add too much */
};

/* Memory of the caller's in which an int8 GEMM keeps the rows as it packed them, so that the next call with the same rows and
 * this room need not pack them again.  The caller sets `rows` to NULL whenever what the rows hold has changed. */
struct gemm_room {
    const struct q8_row *rows; /* whose; NULL: nobody's yet */
    const void *how;           /* the kernel's own mark of its layout */
    int m, k;
    size_t bytes; /* of `packed`; too few: the rows are packed at every call, as without a room */
    uint8_t *packed;
};

/* What attention needs for one row and one KV head: `group` query heads share the keys. */
struct attn_job {
    const float *q; /* (group, head_dim), rotated */
    float *out;     /* (group, head_dim) */
    int32_t group, head_dim;
    int32_t start;             /* first position seen; multiple of CPU_PAGE */
    int32_t pos;               /* own position; n = pos - start + 1 keys in all */
    int32_t n_tail;            /* in-flight keys at the end, the row's own included when it lies in a slot */
    const void *const *k_page; /* page i: keys start + 64 i ..., [head_dim][64] elements of the KV type */
    const void *const *v_page; /* page i: [64][head_dim] */
    const void *const *k_tail; /* (n_tail) each [head_dim], oldest first */
    const void *const *v_tail; /* (n_tail) each [head_dim] */
    float *score;              /* scratch, (group, n rounded up to 16) */
};

struct kern {
    const char *name;

    /* out[r * ldo + o] for outputs of panels [p0, p1) and rows [0, m): acc = fmaf((float) isum, fl(dw * da), acc) with
     * blocks ascending, from 0; isum the exact int32 sum over the block of w * q.  room: NULL, or as above. */
    void (*gemm_q8)(const struct q8_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room);
    void (*gemm_q4)(const struct q4_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room);
    /* acc = fmaf(w, x, acc), k ascending, from 0; x: row r at r * ldx.  Outputs as above. */
    void (*gemm_f32)(const float *w, int k, int p0, int p1, const float *x, int64_t ldx, int m, float *out,
                     int64_t ldo);
    void (*gemm_bf16)(const uint16_t *w, int k, int p0, int p1, const float *x, int64_t ldx, int m,
                      float *out, int64_t ldo);
    void (*gemm_f16)(const uint16_t *w, int k, int p0, int p1, const float *x, int64_t ldx, int m, float *out,
                     int64_t ldo);
    /* One row into q, d and sum as struct q8_row says. */
    void (*quantize)(const float *x, int k, int8_t *q, float *d, int32_t *sum);

    /* RMSNorm: 16 partial sums of x^2, element i in lane i mod 16, fmaf ascending, folded 8-4-2-1 (lane j += lane j + 8, ...);
     * then out = fl(fl(x * fl(1 / sqrtf(fl(fl(sum / n) + eps)))) * w). */
    void (*rmsnorm)(const float *x, const float *w, int n, float eps, float *out); /* out may be x */
    /* Rotation of one head in place, halves (i, i + d/2): a' = fmaf(-b, s, fl(a c)), b' = fmaf(b, c, fl(a s)). */
    void (*rope)(float *x, int head_dim, const float *cosines, const float *sines);
    /* out[i] = fl(silu(gate[i]) * up[i]); silu(x) = x / (1 + exp(-x)) by IEEE division, exp as kern_exp. */
    void (*silu_mul)(const float *gate, const float *up, int n, float *out);
    void (*add)(float *x, const float *y, int n);                  /* x[i] = fl(x[i] + y[i]) */
    void (*add_scaled)(float *x, const float *y, float by, int n); /* x[i] = fmaf(by, y[i], x[i]) */

    /* score j: fmaf(q, k, acc) over d ascending from 0, then * fl(1 / sqrtf(head_dim)); m: the true maximum, from
     * -infinity, NaN passed over; p = exp(fl(score - m)); sum of p: 16 partial sums by absolute position mod 16, plain
     * adds ascending, folded 8-4-2-1; output d: fmaf(p, v, acc) over positions ascending, restarted from 0 at every
     * absolute multiple of ATTN_CHUNK; each chunk is added to a total that starts at +0, the only chunk too (-0 turns
     * +0); then divided by the sum.
     * n jobs of one KV head: their start, group and head_dim are equal, and where two of them have a page i it is the
     * same one, so that a page read once serves all of them. */
    void (*attn_bf16)(const struct attn_job *j, int n);
    void (*attn_f32)(const struct attn_job *j, int n);

    /* The exclusive or of n words (a multiple of 64) in each of `streams` places (1 or 4), `stride` words apart, read in step:
     * what a machine can read, and no more.  bandwidth.c. */
    uint32_t (*sift)(const uint32_t *p, size_t n, size_t stride, int streams);
};

/* Each fills in its own entries over those already there. */
void cpu__kern_twin(struct kern *k);
void cpu__kern_twin_fma(struct kern *k); /* needs what AVX2 needs; for gates: many times faster */
void cpu__kern_avx2(struct kern *k);     /* needs AVX2, FMA, F16C */
void cpu__kern_avxvnni(struct kern *k); /* over avx2's: needs AVX-VNNI, which machines without AVX-512 have */
void cpu__kern_avx512(struct kern *k);  /* needs AVX-512 F, BW, DQ, VL */
void cpu__kern_vnni(struct kern *k);    /* needs AVX-512 VNNI */

/* exp as NUMERICS.md orders it, to the bit the same in every kernel file:
 *   NaN -> NaN (payload open); x < EXP_MIN -> +0; t = x > EXP_MAX ? EXP_MAX : x
 *   n = rintf(fl(t * EXP_LOG2E)); r = fmaf(n, -EXP_LN2_HI, t); r = fmaf(n, -EXP_LN2_LO, r)
 *   p = EXP_C7; p = fmaf(p, r, c) for c = C6, C5, C4, C3, C2, 1, 1; times 2^n, always a normal number's exponent
 * The coefficients interpolate (e^r - 1 - r) / r^2 at six Chebyshev nodes of [-ln2 / 2, ln2 / 2], rounded to float; the whole
 * is within 1 ulp (tests/unit/math.c).  x <= 0 in attention; any x in SiLU. */
float cpu__exp(float x);

#define EXP_MIN    (-87.0f)
#define EXP_MAX    88.0f
#define EXP_LOG2E  0x1.715476p+0f
#define EXP_LN2_HI 0x1.62e4p-1f    /* 15 bits: n * hi is exact */
#define EXP_LN2_LO 0x1.7f7d1cp-20f /* ln 2 - hi */
#define EXP_C7     0x1.a124f2p-13f
#define EXP_C6     0x1.6d4324p-10f
#define EXP_C5     0x1.1110ep-7f
#define EXP_C4     0x1.5554eap-5f
#define EXP_C3     0x1.555556p-3f
#define EXP_C2     0x1p-1f

/* FP16 to float, exact; subnormals included. */
static inline float cpu__f16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v, magic = {.u = 113u << 23};
    uint32_t exp = h & 0x7c00u;
    v.u = (uint32_t) (h & 0x7fffu) << 13;
    if (exp == 0x7c00u) {
        v.u += (uint32_t) (255 - 31) << 23;
    } else if (exp == 0) {
        v.u += 113u << 23;
        v.f -= magic.f;
    } else {
        v.u += (uint32_t) (127 - 15) << 23;
    }
    v.u |= (uint32_t) (h & 0x8000u) << 16;
    return v.f;
}

static inline float cpu__bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t) h << 16};
    return v.f;
}

/* Integer round to nearest even; NaN stays NaN. */
static inline uint16_t cpu__bf16_from_f32(float f)
{
    union {
        float f;
        uint32_t u;
    } v = {.f = f};
    if ((v.u & 0x7fffffff) > 0x7f800000)
        return (uint16_t) (v.u >> 16 | 0x40);
    return (uint16_t) ((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

#endif
