/* oracle.c - the model as its paper writes it down: no keys kept, no panels, no order of sums that anyone relies on.
 *
 * Only the rotation's angle follows the reference's float steps (inv_freq and pos * inv_freq are float32 there): it is part
 * of the model's definition, not an error.  Source: transformers modeling_qwen3.py. */
#include "tests/lib/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double *doubles(size_t n)
{
    double *p = calloc(n ? n : 1, sizeof *p);
    if (!p) {
        fprintf(stderr, "oracle: out of memory\n");
        abort();
    }
    return p;
}

static double half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    int e = h >> 10 & 31, f = h & 1023;
    double v = e ? ldexp(1024 + f, e - 25) : ldexp(f, -24);
    return h & 0x8000 ? -v : v;
}

static double bfloat(const uint8_t *p)
{
    uint32_t u = (uint32_t) p[1] << 24 | (uint32_t) p[0] << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Element i of a block of 256 in Q4_K: 6-bit scales and minima in 12 bytes, 8 groups of 32. */
static double q4_k(const uint8_t *b, int i)
{
    const uint8_t *s = b + 4, *q = b + 16;
    int g = i / 32, byte = g / 2 * 32 + i % 32, v = g % 2 ? q[byte] / 16 : q[byte] % 16;
    int scale = g < 4 ? s[g] % 64 : s[g + 4] % 16 + s[g - 4] / 64 * 16;
    int min = g < 4 ? s[g + 4] % 64 : s[g + 4] / 16 + s[g] / 64 * 16;
    return half(b) * scale * v - half(b + 2) * min;
}

/* Of a block of 256 in Q6_K: two halves of 128, each of four runs of 32. */
static double q6_k(const uint8_t *b, int i)
{
    int part = i / 128, run = i % 128 / 32, at = i % 32;
    int low = b[part * 64 + run % 2 * 32 + at], high = b[128 + part * 32 + at];
    int v = (run < 2 ? low % 16 : low / 16) + (high >> 2 * run) % 4 * 16 - 32;
    return half(b + 208) * (int8_t) b[192 + i / 16] * v;
}

static double f8(const struct tensor *t, int64_t i)
{
    int64_t row = i / t->dim[1], col = i % t->dim[1];
    int b = ((const uint8_t *) t->data)[i], e = b / 8 % 16, f = b % 8;
    double v = e ? ldexp(8 + f, e - 10) : ldexp(f, -9);
    const uint8_t *scale = (const uint8_t *) t->scale->data;
    return (b & 128 ? -v : v) * bfloat(scale + 2 * (row / 128 * t->scale->dim[1] + col / 128));
}

static double weight(const struct tensor *t, int64_t i)
{
    const uint8_t *p =
        (const uint8_t *) t->data + i / tensor_block(t->type) * (int64_t) tensor_block_bytes(t->type);
    int at = (int) (i % tensor_block(t->type));
    float f;
    switch (t->type) {
    case TENSOR_F32:
        memcpy(&f, p, 4);
        return f;
    case TENSOR_BF16:
        return bfloat(p);
    case TENSOR_F16:
        return half(p);
    case TENSOR_F8_E4M3:
        return f8(t, i);
    case TENSOR_Q8_0:
        return half(p) * (int8_t) p[2 + at];
    case TENSOR_Q4_0:
        return half(p) * ((at < 16 ? p[2 + at] % 16 : p[2 + at - 16] / 16) - 8);
    case TENSOR_Q4_K:
        return q4_k(p, at);
    default:
        return q6_k(p, at);
    }
}

/* Matrices that a call of oracle_logits() has met: each is decoded once, not once a row. */
struct matrix {
    const struct tensor *of;
    double *w;
    struct matrix *next;
};
static struct matrix *met;

static const double *matrix(const struct tensor *t)
{
    for (struct matrix *m = met; m; m = m->next)
        if (m->of == t)
            return m->w;
    struct matrix *m = calloc(1, sizeof *m);
    int64_t n = t->dim[0] * t->dim[1];
    if (!m)
        abort();
    *m = (struct matrix){t, doubles((size_t) n), met};
    for (int64_t i = 0; i < n; i++)
        m->w[i] = weight(t, i);
    met = m;
    return m->w;
}

static void forget(void)
{
    while (met) {
        struct matrix *m = met;
        met = m->next;
        free(m->w);
        free(m);
    }
}

/* y (rows of t) = t x */
static void times(const struct tensor *t, const double *x, double *y)
{
    const double *w = matrix(t);
    for (int64_t o = 0; o < t->dim[0]; o++) {
        double sum = 0;
        for (int64_t i = 0; i < t->dim[1]; i++)
            sum += w[o * t->dim[1] + i] * x[i];
        y[o] = sum;
    }
}

static void norm(const struct tensor *w, const double *x, int n, double eps, double *y)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / n + eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * scale * weight(w, i);
}

/* YaRN: how far dimension i is slowed down, 0 to 1. */
static float ramp(const struct config *g, int i)
{
    const struct yarn *y = &g->yarn;
    double turn[2] = {y->beta_fast, y->beta_slow}, bound[2];
    for (int k = 0; k < 2; k++)
        bound[k] = g->head_dim * log(y->original_ctx / (turn[k] * 2 * 3.14159265358979323846)) /
                   (2 * log(g->rope_theta));
    double low = fmax(y->truncate ? floor(bound[0]) : bound[0], 0);
    double high = fmin(y->truncate ? ceil(bound[1]) : bound[1], g->head_dim - 1);
    if (low == high)
        high += 0.001;
    float r = ((float) i - (float) low) / (float) (high - low);
    return fminf(fmaxf(r, 0), 1);
}

static float frequency(const struct config *g, int i)
{
    float power = (float) pow(g->rope_theta, (float) (2 * i) / (float) g->head_dim);
    if (g->yarn.factor == 0)
        return 1 / power;
    float kept = 1 - ramp(g, i);
    return 1 / (g->yarn.factor * power) * (1 - kept) + 1 / power * kept;
}

static void rotate(const struct config *g, double *x, int pos)
{
    int half_dim = g->head_dim / 2;
    double factor = g->yarn.factor > 0 ? g->yarn.attention_factor : 1;
    for (int i = 0; i < half_dim; i++) {
        float angle = (float) pos * frequency(g, i);
        double c = cos(angle) * factor, s = sin(angle) * factor, a = x[i], b = x[i + half_dim];
        x[i] = a * c - b * s;
        x[i + half_dim] = b * c + a * s;
    }
}

/* One query head over keys and values 0..pos of its KV head; rows are `stride` apart. */
static void attend(const double *q, const double *k, const double *v, int pos, int d, int stride, double *out)
{
    double *p = doubles((size_t) pos + 1), top = -INFINITY, sum = 0;
    for (int j = 0; j <= pos; j++) {
        for (int i = 0; i < d; i++)
            p[j] += q[i] * k[j * stride + i];
        p[j] /= sqrt(d);
        top = fmax(top, p[j]);
    }
    for (int j = 0; j <= pos; j++)
        sum += p[j] = exp(p[j] - top);
    for (int i = 0; i < d; i++) {
        out[i] = 0;
        for (int j = 0; j <= pos; j++)
            out[i] += p[j] * v[j * stride + i] / sum;
    }
    free(p);
}

static void round_bf16(double *x, int n)
{
    for (int i = 0; i < n; i++) {
        float f = (float) x[i];
        uint32_t u;
        memcpy(&u, &f, 4);
        u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
        memcpy(&f, &u, 4);
        x[i] = f;
    }
}

static void attention(const struct config *g, const struct layer_tensors *y, int round_kv, double *x, int n)
{
    int d = g->head_dim, wq = g->n_heads * d, wk = g->n_kv_heads * d, group = g->n_heads / g->n_kv_heads;
    size_t rows = (size_t) n;
    double *in = doubles((size_t) g->hidden), *q = doubles(rows * (size_t) wq),
           *k = doubles(rows * (size_t) wk);
    double *v = doubles(rows * (size_t) wk), *a = doubles((size_t) wq);
    for (int r = 0; r < n; r++) {
        norm(y->attn_norm, x + r * g->hidden, g->hidden, g->rms_eps, in);
        times(y->q, in, q + r * wq);
        times(y->k, in, k + r * wk);
        times(y->v, in, v + r * wk);
        for (int h = 0; h < g->n_heads + g->n_kv_heads; h++) {
            double *head = h < g->n_heads ? q + r * wq + h * d : k + r * wk + (h - g->n_heads) * d;
            norm(h < g->n_heads ? y->q_norm : y->k_norm, head, d, g->rms_eps, head);
            rotate(g, head, r);
        }
        if (round_kv) {
            round_bf16(k + r * wk, wk);
            round_bf16(v + r * wk, wk);
        }
    }
    for (int r = 0; r < n; r++) {
        for (int h = 0; h < g->n_heads; h++)
            attend(q + r * wq + h * d, k + h / group * d, v + h / group * d, r, d, wk, a + h * d);
        times(y->o, a, in);
        for (int i = 0; i < g->hidden; i++)
            x[r * g->hidden + i] += in[i];
    }
    free(in), free(q), free(k), free(v), free(a);
}

/* out += by * down(silu(gate in) * (up in)) */
static void block(const struct tensor *gate, const struct tensor *up, const struct tensor *down,
                  const double *in, double by, double *out)
{
    int64_t wide = gate->dim[0], h = gate->dim[1];
    double *a = doubles((size_t) wide), *b = doubles((size_t) wide), *y = doubles((size_t) h);
    times(gate, in, a);
    times(up, in, b);
    for (int64_t i = 0; i < wide; i++)
        a[i] = a[i] / (1 + exp(-a[i])) * b[i];
    times(down, a, y);
    for (int64_t i = 0; i < h; i++)
        out[i] += by * y[i];
    free(a), free(b), free(y);
}

static void experts(const struct config *g, const struct layer_tensors *y, const double *in, double *out)
{
    int n = g->moe.n_experts;
    double *p = doubles((size_t) n), sum = 0, kept = 0, *w = doubles((size_t) g->moe.n_used);
    int *pick = calloc((size_t) n, sizeof *pick);
    times(y->router, in, p);
    for (int e = 0; e < n; e++)
        sum += p[e] = exp(p[e]);
    for (int j = 0; pick && j < g->moe.n_used; j++) {
        for (int e = 1; e < n; e++)
            pick[j] = p[e] > p[pick[j]] ? e : pick[j];
        kept += w[j] = p[pick[j]] / sum;
        p[pick[j]] = -1;
    }
    for (int j = 0; pick && j < g->moe.n_used; j++) {
        const struct expert_tensors *x = &y->expert[pick[j]];
        block(x->gate, x->up, x->down, in, g->moe.norm_topk ? w[j] / kept : w[j], out);
    }
    free(p), free(w), free(pick);
}

static void ffn(const struct config *g, const struct layer_tensors *y, double *x)
{
    double *in = doubles((size_t) g->hidden);
    norm(y->ffn_norm, x, g->hidden, g->rms_eps, in);
    if (y->router)
        experts(g, y, in, x);
    else
        block(y->gate, y->up, y->down, in, 1, x);
    free(in);
}

void oracle_logits(const struct model *m, const int32_t *ids, int n, int round_kv, double *logits)
{
    const struct config *g = &m->config;
    double *x = doubles((size_t) n * (size_t) g->hidden), *last = doubles((size_t) g->hidden);
    for (int r = 0; r < n; r++)
        for (int i = 0; i < g->hidden; i++)
            x[r * g->hidden + i] = weight(m->embed, (int64_t) ids[r] * g->hidden + i);
    for (int l = 0; l < g->n_layers; l++) {
        attention(g, &m->layer[l], round_kv, x, n);
        for (int r = 0; r < n; r++)
            ffn(g, &m->layer[l], x + r * g->hidden);
    }
    for (int r = 0; r < n; r++) {
        norm(m->norm, x + r * g->hidden, g->hidden, g->rms_eps, last);
        times(m->head, last, logits + (int64_t) r * g->vocab);
    }
    forget();
    free(x), free(last);
}
