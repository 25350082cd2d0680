/* oracle.c - the model as its paper writes it down: no cache, no panels, no order of sums that anyone relies on.
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

static double weight(const struct tensor *t, int64_t i)
{
    if (t->type == TENSOR_F32) {
        float f;
        memcpy(&f, (const char *) t->data + i * 4, 4);
        return f;
    }
    uint16_t h;
    memcpy(&h, (const char *) t->data + i * 2, 2);
    if (t->type == TENSOR_BF16) {
        uint32_t u = (uint32_t) h << 16;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
    int e = h >> 10 & 31, f = h & 1023;
    double v = e ? ldexp(1024 + f, e - 25) : ldexp(f, -24);
    return h & 0x8000 ? -v : v;
}

/* y (rows of t) = t x */
static void times(const struct tensor *t, const double *x, double *y)
{
    for (int64_t o = 0; o < t->dim[0]; o++) {
        double sum = 0;
        for (int64_t i = 0; i < t->dim[1]; i++)
            sum += weight(t, o * t->dim[1] + i) * x[i];
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

static void rotate(double *x, int d, float theta, int pos)
{
    for (int i = 0; i < d / 2; i++) {
        float inv = 1 / (float) pow(theta, (float) (2 * i) / (float) d);
        float angle = (float) pos * inv;
        double c = cos(angle), s = sin(angle), a = x[i], b = x[i + d / 2];
        x[i] = a * c - b * s;
        x[i + d / 2] = b * c + a * s;
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

static void attention(const struct config *g, const struct layer_tensors *y, double *x, int n)
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
            rotate(head, d, g->rope_theta, r);
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

static void ffn(const struct config *g, const struct layer_tensors *y, double *x)
{
    double *in = doubles((size_t) g->hidden), *a = doubles((size_t) g->ffn), *b = doubles((size_t) g->ffn);
    norm(y->ffn_norm, x, g->hidden, g->rms_eps, in);
    times(y->gate, in, a);
    times(y->up, in, b);
    for (int i = 0; i < g->ffn; i++)
        a[i] = a[i] / (1 + exp(-a[i])) * b[i];
    times(y->down, a, in);
    for (int i = 0; i < g->hidden; i++)
        x[i] += in[i];
    free(in), free(a), free(b);
}

void oracle_logits(const struct model *m, const int32_t *ids, int n, double *logits)
{
    const struct config *g = &m->config;
    double *x = doubles((size_t) n * (size_t) g->hidden), *last = doubles((size_t) g->hidden);
    for (int r = 0; r < n; r++)
        for (int i = 0; i < g->hidden; i++)
            x[r * g->hidden + i] = weight(m->embed, (int64_t) ids[r] * g->hidden + i);
    for (int l = 0; l < g->n_layers; l++) {
        attention(g, &m->layer[l], x, n);
        for (int r = 0; r < n; r++)
            ffn(g, &m->layer[l], x + r * g->hidden);
    }
    for (int r = 0; r < n; r++) {
        norm(m->norm, x + r * g->hidden, g->hidden, g->rms_eps, last);
        times(m->head, last, logits + (int64_t) r * g->vocab);
    }
    free(x), free(last);
}
