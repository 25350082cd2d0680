/* kern_twin.c - the specification of every kernel: obvious C, float, in NUMERICS.md's order.
 *
 * Each SIMD entry equals the one here bit for bit.  From libm only sqrtf, fmaf and rintf, which IEEE 754 defines to the
 * last bit.  Slow on purpose: nothing here is reordered for speed.  Any thread; no state. */
#include "cpu/kern.h"

#include <math.h>

static float float_of(uint32_t bits)
{
    union {
        uint32_t u;
        float f;
    } v = {.u = bits};
    return v.f;
}

static uint32_t bits_of(float f)
{
    union {
        float f;
        uint32_t u;
    } v = {.f = f};
    return v.u;
}

float cpu__exp(float x)
{
    if (x != x)
        return x;
    if (x < EXP_MIN)
        return 0;
    float t = x > EXP_MAX ? EXP_MAX : x;
    float n = rintf(t * EXP_LOG2E);
    float r = fmaf(n, -EXP_LN2_LO, fmaf(n, -EXP_LN2_HI, t));
    float p = EXP_C7;
    p = fmaf(p, r, EXP_C6);
    p = fmaf(p, r, EXP_C5);
    p = fmaf(p, r, EXP_C4);
    p = fmaf(p, r, EXP_C3);
    p = fmaf(p, r, EXP_C2);
    p = fmaf(p, r, 1);
    p = fmaf(p, r, 1);
    return p * float_of((uint32_t) ((int32_t) n + 127) << 23);
}

/* Folds 16 partial sums 8-4-2-1: lane j += lane j + 8, then + 4, + 2, + 1. */
static float fold(float *lane)
{
    for (int w = 8; w > 0; w /= 2)
        for (int j = 0; j < w; j++)
            lane[j] += lane[j + w];
    return lane[0];
}

/* Exact sums of one block's products, an output each. */
static void dot_block(const struct q8_block *b, const int8_t *q, int32_t sum[PANEL])
{
    for (int o = 0; o < PANEL; o++)
        sum[o] = 0;
    for (int i = 0; i < Q8_BLOCK; i += 4)
        for (int o = 0; o < PANEL; o++)
            for (int j = 0; j < 4; j++)
                sum[o] += (b->w[i / 4][o][j] - 128) * q[i + j];
}

static void gemm_q8(const struct q8_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    int blocks = k / Q8_BLOCK;
    int32_t isum[PANEL];
    (void) room;
    for (int p = p0; p < p1; p++)
        for (int r = 0; r < m; r++) {
            const struct q8_block *b = w + (size_t) p * (size_t) blocks;
            float acc[PANEL] = {0};
            for (int i = 0; i < blocks; i++) {
                dot_block(&b[i], x[r].q + i * Q8_BLOCK, isum);
                for (int o = 0; o < PANEL; o++) {
                    float s = cpu__f16_to_f32(b[i].scale[o]) * x[r].d[i];
                    acc[o] = fmaf((float) isum[o], s, acc[o]);
                }
            }
            for (int o = 0; o < PANEL; o++)
                out[r * ldo + p * PANEL + o] = acc[o];
        }
}

static void dot_halves(const struct q4_block *b, const int8_t *q, int32_t sum[PANEL])
{
    for (int o = 0; o < PANEL; o++)
        sum[o] = 0;
    for (int i = 0; i < Q8_BLOCK; i += 8)
        for (int o = 0; o < PANEL; o++)
            for (int j = 0; j < 4; j++) {
                int both = b->w[i / 8][o][j];
                sum[o] += ((both & 15) - 8) * q[i + j] + ((both >> 4) - 8) * q[i + 4 + j];
            }
}

static void gemm_q4(const struct q4_block *w, int k, int p0, int p1, const struct q8_row *x, int m,
                    float *out, int64_t ldo, struct gemm_room *room)
{
    int blocks = k / Q8_BLOCK;
    int32_t isum[PANEL];
    (void) room;
    for (int p = p0; p < p1; p++)
        for (int r = 0; r < m; r++) {
            const struct q4_block *b = w + (size_t) p * (size_t) blocks;
            float acc[PANEL] = {0};
            for (int i = 0; i < blocks; i++) {
                dot_halves(&b[i], x[r].q + i * Q8_BLOCK, isum);
                for (int o = 0; o < PANEL; o++) {
                    float s = cpu__f16_to_f32(b[i].scale[o]) * x[r].d[i];
                    acc[o] = fmaf((float) isum[o], s, acc[o]);
                }
            }
            for (int o = 0; o < PANEL; o++)
                out[r * ldo + p * PANEL + o] = acc[o];
        }
}

static void gemm_f32(const float *w, int k, int p0, int p1, const float *x, int64_t ldx, int m, float *out,
                     int64_t ldo)
{
    for (int p = p0; p < p1; p++)
        for (int r = 0; r < m; r++) {
            const float *panel = w + (size_t) p * (size_t) k * PANEL;
            float acc[PANEL] = {0};
            for (int i = 0; i < k; i++)
                for (int o = 0; o < PANEL; o++)
                    acc[o] = fmaf(panel[(size_t) i * PANEL + (size_t) o], x[r * ldx + i], acc[o]);
            for (int o = 0; o < PANEL; o++)
                out[r * ldo + p * PANEL + o] = acc[o];
        }
}

/* 16-bit floats of either kind. */
static void gemm_half(const uint16_t *w, int k, int p0, int p1, const float *x, int64_t ldx, int m,
                      float *out, int64_t ldo, float (*widen)(uint16_t))
{
    for (int p = p0; p < p1; p++)
        for (int r = 0; r < m; r++) {
            const uint16_t *panel = w + (size_t) p * (size_t) k * PANEL;
            float acc[PANEL] = {0};
            for (int i = 0; i < k; i++)
                for (int o = 0; o < PANEL; o++)
                    acc[o] = fmaf(widen(panel[(size_t) i * PANEL + (size_t) o]), x[r * ldx + i], acc[o]);
            for (int o = 0; o < PANEL; o++)
                out[r * ldo + p * PANEL + o] = acc[o];
        }
}

static void gemm_bf16(const uint16_t *w, int k, int p0, int p1, const float *x, int64_t ldx, int m,
                      float *out, int64_t ldo)
{
    gemm_half(w, k, p0, p1, x, ldx, m, out, ldo, cpu__bf16_to_f32);
}

static void gemm_f16(const uint16_t *w, int k, int p0, int p1, const float *x, int64_t ldx, int m, float *out,
                     int64_t ldo)
{
    gemm_half(w, k, p0, p1, x, ldx, m, out, ldo, cpu__f16_to_f32);
}

static void quantize_block(const float *x, int8_t *q, float *d, int32_t *sum)
{
    uint32_t top = 0;
    for (int i = 0; i < Q8_BLOCK; i++) {
        uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        top = u > top ? u : top;
    }
    float amax = float_of(top);
    int dead = top >= 0x7f800000u || amax < Q8_TINY;
    float inv = dead ? 0 : 127 / amax;
    *d = top >= 0x7f800000u ? float_of(Q8_NAN) : dead ? 0 : amax / 127;
    *sum = 0;
    for (int i = 0; i < Q8_BLOCK; i++) {
        q[i] = dead ? 0 : (int8_t) rintf(x[i] * inv);
        *sum += q[i];
    }
}

static void quantize(const float *x, int k, int8_t *q, float *d, int32_t *sum)
{
    for (int b = 0; b < k / Q8_BLOCK; b++)
        quantize_block(x + b * Q8_BLOCK, q + b * Q8_BLOCK, d + b, sum + b);
}

static void rmsnorm(const float *x, const float *w, int n, float eps, float *out)
{
    float lane[16] = {0};
    for (int i = 0; i < n; i++)
        lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    float mean = fold(lane) / (float) n;
    float scale = 1 / sqrtf(mean + eps);
    for (int i = 0; i < n; i++)
        out[i] = x[i] * scale * w[i];
}

static void rope(float *x, int head_dim, const float *cosines, const float *sines)
{
    int half = head_dim / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], c = cosines[i], s = sines[i];
        x[i] = fmaf(-b, s, a * c);
        x[i + half] = fmaf(b, c, a * s);
    }
}

static void silu_mul(const float *gate, const float *up, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = gate[i] / (1 + cpu__exp(-gate[i])) * up[i];
}

static void add(float *x, const float *y, int n)
{
    for (int i = 0; i < n; i++)
        x[i] += y[i];
}

static void add_scaled(float *x, const float *y, float by, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = fmaf(by, y[i], x[i]);
}

/* --- attention: one text for both KV types --- */

static float element(const void *p, int64_t i, int bf16)
{
    return bf16 ? cpu__bf16_to_f32(((const uint16_t *) p)[i]) : ((const float *) p)[i];
}

/* Keys in pages come first, then the tail: key j of n is at position start + j. */
static float key(const struct attn_job *j, int at, int d, int bf16)
{
    int settled = j->pos - j->start + 1 - j->n_tail;
    if (at >= settled)
        return element(j->k_tail[at - settled], d, bf16);
    return element(j->k_page[at / 64], (int64_t) d * 64 + at % 64, bf16);
}

static float value(const struct attn_job *j, int at, int d, int bf16)
{
    int settled = j->pos - j->start + 1 - j->n_tail;
    if (at >= settled)
        return element(j->v_tail[at - settled], d, bf16);
    return element(j->v_page[at / 64], (int64_t) (at % 64) * j->head_dim + d, bf16);
}

/* Scores of one query head, turned into p = exp(score - m); returns the sum of p. */
static float weigh(const struct attn_job *j, const float *q, float *p, int bf16)
{
    int n = j->pos - j->start + 1;
    float scale = 1 / sqrtf((float) j->head_dim), m = -INFINITY, lane[16] = {0};
    for (int i = 0; i < n; i++) {
        float acc = 0;
        for (int d = 0; d < j->head_dim; d++)
            acc = fmaf(q[d], key(j, i, d, bf16), acc);
        p[i] = acc * scale;
        m = p[i] > m ? p[i] : m;
    }
    for (int i = 0; i < n; i++) {
        p[i] = cpu__exp(p[i] - m);
        lane[(j->start + i) % 16] += p[i];
    }
    return fold(lane);
}

static float blend(const struct attn_job *j, const float *p, int d, int bf16)
{
    int n = j->pos - j->start + 1;
    float total = 0;
    for (int i = 0; i < n;) {
        int end = (j->start + i) / ATTN_CHUNK * ATTN_CHUNK + ATTN_CHUNK - j->start;
        float acc = 0;
        for (; i < n && i < end; i++)
            acc = fmaf(p[i], value(j, i, d, bf16), acc);
        total += acc;
    }
    return total;
}

static void attn(const struct attn_job *j, int bf16)
{
    int64_t ld = (j->pos - j->start + 16) / 16 * 16;
    for (int g = 0; g < j->group; g++) {
        float *p = j->score + g * ld;
        float sum = weigh(j, j->q + g * j->head_dim, p, bf16);
        for (int d = 0; d < j->head_dim; d++)
            j->out[g * j->head_dim + d] = blend(j, p, d, bf16) / sum;
    }
}

static void attn_bf16(const struct attn_job *j, int n)
{
    for (int i = 0; i < n; i++)
        attn(&j[i], 1);
}

static void attn_f32(const struct attn_job *j, int n)
{
    for (int i = 0; i < n; i++)
        attn(&j[i], 0);
}

static uint32_t sift(const uint32_t *p, size_t n, size_t stride, int streams)
{
    uint32_t all = 0;
    for (int s = 0; s < streams; s++)
        for (size_t i = 0; i < n; i++)
            all ^= p[(size_t) s * stride + i];
    return all;
}

void cpu__kern_twin(struct kern *k)
{
    *k = (struct kern){.name = "twin",
                       .gemm_q8 = gemm_q8,
                       .gemm_q4 = gemm_q4,
                       .gemm_f32 = gemm_f32,
                       .gemm_bf16 = gemm_bf16,
                       .gemm_f16 = gemm_f16,
                       .quantize = quantize,
                       .rmsnorm = rmsnorm,
                       .rope = rope,
                       .silu_mul = silu_mul,
                       .add = add,
                       .add_scaled = add_scaled,
                       .attn_bf16 = attn_bf16,
                       .attn_f32 = attn_f32,
                       .sift = sift};
}
