/* read.c - rows of a tensor, widened to float: what packing starts from and what an embedding is looked up in.
 *
 * Each format's own arithmetic, in float and in its order (ggml's dequantize_row_*, gguf-py's quants.py; for FP8, value times
 * the block's scale), so that a value is the same to the bit wherever it is read:
 *
 *     Q8_0  d * q                        Q4_0  d * (q - 8)
 *     Q4_K  fl(d * sc) * q - fl(dmin * m), 8 groups of 32 a block, sc and m of 6 bits
 *     Q6_K  fl(d * sc) * (q - 32), 16 groups of 16 a block
 *
 * Any thread.  Bytes are not always aligned in a file. */
#include "cpu/inside.h"

#include <string.h>

static uint16_t half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

static float f16_at(const uint8_t *p)
{
    return cpu__f16_to_f32(half_at(p));
}

static void read_bf16(const uint8_t *p, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = cpu__bf16_to_f32(half_at(p + 2 * i));
}

static void read_f16(const uint8_t *p, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = f16_at(p + 2 * i);
}

/* Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, 0x7f is NaN (Micikevicius et al. 2022). */
static float f8_e4m3(uint8_t b)
{
    int e = b >> 3 & 15, f = b & 7;
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t) (e + 120) << 23 | (uint32_t) f << 20};
    if (e == 0)
        v.f = (float) f * 0x1p-9f;
    if ((b & 0x7f) == 0x7f)
        v.u = 0x7fc00000;
    v.u |= (uint32_t) (b & 0x80) << 24;
    return v.f;
}

static void read_f8(const struct tensor *t, int64_t row, const uint8_t *p, int n, float *out)
{
    const struct tensor *s = t->scale;
    int64_t blocks = s->dim[1], at = row / TENSOR_SCALE_BLOCK * blocks;
    for (int b = 0; b < blocks; b++) {
        const uint8_t *from = (const uint8_t *) s->data + (at + b) * (s->type == TENSOR_F32 ? 4 : 2);
        int end = (b + 1) * TENSOR_SCALE_BLOCK < n ? (b + 1) * TENSOR_SCALE_BLOCK : n;
        float scale;
        if (s->type == TENSOR_F32)
            memcpy(&scale, from, sizeof scale);
        else
            read_bf16(from, 1, &scale);
        for (int i = b * TENSOR_SCALE_BLOCK; i < end; i++)
            out[i] = f8_e4m3(p[i]) * scale;
    }
}

static void read_q8_0(const uint8_t *p, int n, float *out)
{
    for (int b = 0; b < n / 32; b++, p += 34)
        for (int i = 0; i < 32; i++)
            out[b * 32 + i] = f16_at(p) * (float) (int8_t) p[2 + i];
}

static void read_q4_0(const uint8_t *p, int n, float *out)
{
    for (int b = 0; b < n / 32; b++, p += 18)
        for (int i = 0; i < 16; i++) {
            out[b * 32 + i] = f16_at(p) * (float) ((p[2 + i] & 15) - 8);
            out[b * 32 + i + 16] = f16_at(p) * (float) ((p[2 + i] >> 4) - 8);
        }
}

/* Group g's scale and minimum: 6 bits each.  Of the first four they lie in the low bits of bytes g and g + 4; of the others
 * the low 4 in a half of byte g + 4, the high 2 on top of the first four's. */
static void q4_k_scale(const uint8_t *s, int g, int *scale, int *min)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        *min = s[g + 4] >> 4 | s[g] >> 6 << 4;
    }
}

/* d, dmin, 12 bytes of scales, 128 of halves: bytes 32 j .. hold group 2 j below and 2 j + 1 above. */
static void read_q4_k(const uint8_t *p, int n, float *out)
{
    for (int b = 0; b < n / 256; b++, p += 144, out += 256)
        for (int g = 0; g < 8; g++) {
            int scale, min;
            q4_k_scale(p + 4, g, &scale, &min);
            float d = f16_at(p) * (float) scale, m = f16_at(p + 2) * (float) min;
            const uint8_t *q = p + 16 + g / 2 * 32;
            for (int i = 0; i < 32; i++)
                out[g * 32 + i] = d * (float) (g % 2 ? q[i] >> 4 : q[i] & 15) - m;
        }
}

/* 128 bytes of low halves, 64 of high pairs of bits, 16 int8 scales, d.  Of each 128 inputs, input i has its low half in byte
 * i mod 64, above from 64 on, and its high bits in byte i mod 32, at bit 2 (i / 32). */
static void read_q6_k(const uint8_t *p, int n, float *out)
{
    for (int b = 0; b < n / 256; b++, p += 210, out += 256)
        for (int i = 0; i < 256; i++) {
            int part = i / 128, at = i % 128;
            uint8_t low = p[part * 64 + at % 64], high = p[128 + part * 32 + at % 32];
            int q = (at < 64 ? low & 15 : low >> 4) | (high >> at / 32 * 2 & 3) << 4;
            float d = f16_at(p + 208) * (float) (int8_t) p[192 + i / 16];
            out[i] = d * (float) (q - 32);
        }
}

void cpu_tensor_row(const struct tensor *t, int64_t row, float *out)
{
    int n = (int) t->dim[t->n_dims - 1];
    size_t bytes = (size_t) (n / tensor_block(t->type)) * tensor_block_bytes(t->type);
    const uint8_t *p = (const uint8_t *) t->data + (size_t) row * bytes;
    switch (t->type) {
    case TENSOR_F32:
        memcpy(out, p, bytes);
        break;
    case TENSOR_BF16:
        read_bf16(p, n, out);
        break;
    case TENSOR_F16:
        read_f16(p, n, out);
        break;
    case TENSOR_F8_E4M3:
        read_f8(t, row, p, n, out);
        break;
    case TENSOR_Q8_0:
        read_q8_0(p, n, out);
        break;
    case TENSOR_Q4_0:
        read_q4_0(p, n, out);
        break;
    case TENSOR_Q4_K:
        read_q4_k(p, n, out);
        break;
    default:
        read_q6_k(p, n, out);
    }
}
