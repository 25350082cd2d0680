/* synth.c - matrices with the spread a trained model has (variance 1 / inputs), norms around 1. */
#include "tests/lib/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "synth: out of memory\n");
        abort();
    }
    return p;
}

uint64_t synth_next(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1d;
}

float synth_uniform(uint64_t *state)
{
    return (float) (int32_t) (synth_next(state) >> 32) * 0x1p-31f;
}

/* A float cut to what the type holds. */
static void store(void *data, int64_t i, int type, float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (type == TENSOR_F32)
        ((float *) data)[i] = x;
    else if (type == TENSOR_BF16)
        ((uint16_t *) data)[i] = (uint16_t) (u >> 16);
    else /* FP16 by truncation; values here are normal or 0 */
        ((uint16_t *) data)[i] =
            (u & 0x7fffffff) < 0x38800000
                ? 0
                : (uint16_t) ((u >> 16 & 0x8000) | (((u & 0x7fffffff) - 0x38000000) >> 13));
}

/* rows x cols, or a norm's vector where cols is 0. */
static const struct tensor *tensor_new(int type, int64_t rows, int64_t cols, uint64_t *state)
{
    struct tensor *t = must(calloc(1, sizeof *t));
    int64_t n = rows * (cols ? cols : 1);
    size_t element = type == TENSOR_F32 ? 4 : 2;
    void *data = must(malloc((size_t) n * element));
    float spread = cols ? sqrtf(3.0f / (float) cols) : 0.3f;
    for (int64_t i = 0; i < n; i++)
        store(data, i, type, (cols ? 0 : 1) + spread * synth_uniform(state));
    *t = (struct tensor){.name = "synthetic",
                         .file = "memory",
                         .type = type,
                         .n_dims = cols ? 2 : 1,
                         .dim = {rows, cols},
                         .data = data,
                         .bytes = (size_t) n * element};
    return t;
}

static void tensor_free(const struct tensor *t)
{
    free((void *) (uintptr_t) t->data);
    free((void *) (uintptr_t) t);
}

struct model *synth_model_new(const struct config *g, int type, uint64_t seed)
{
    struct model *m = must(calloc(1, sizeof *m));
    uint64_t state = seed * 2 + 1;
    int64_t h = g->hidden, q = (int64_t) g->n_heads * g->head_dim, kv = (int64_t) g->n_kv_heads * g->head_dim;
    m->config = *g;
    m->embed = tensor_new(type, g->vocab, h, &state);
    m->head = g->tied ? m->embed : tensor_new(type, g->vocab, h, &state);
    m->norm = tensor_new(type, h, 0, &state);
    m->layer = must(calloc((size_t) g->n_layers, sizeof *m->layer));
    for (int l = 0; l < g->n_layers; l++)
        m->layer[l] = (struct layer_tensors){.attn_norm = tensor_new(type, h, 0, &state),
                                             .q = tensor_new(type, q, h, &state),
                                             .k = tensor_new(type, kv, h, &state),
                                             .v = tensor_new(type, kv, h, &state),
                                             .q_norm = tensor_new(type, g->head_dim, 0, &state),
                                             .k_norm = tensor_new(type, g->head_dim, 0, &state),
                                             .o = tensor_new(type, h, q, &state),
                                             .ffn_norm = tensor_new(type, h, 0, &state),
                                             .gate = tensor_new(type, g->ffn, h, &state),
                                             .up = tensor_new(type, g->ffn, h, &state),
                                             .down = tensor_new(type, h, g->ffn, &state)};
    return m;
}

void synth_model_free(struct model *m)
{
    for (int l = 0; l < m->config.n_layers; l++) {
        const struct layer_tensors *y = &m->layer[l];
        const struct tensor *all[] = {y->attn_norm, y->q,        y->k,    y->v,  y->q_norm, y->k_norm,
                                      y->o,         y->ffn_norm, y->gate, y->up, y->down};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            tensor_free(all[i]);
    }
    if (m->head != m->embed)
        tensor_free(m->head);
    tensor_free(m->embed);
    tensor_free(m->norm);
    free(m->layer);
    free(m);
}
