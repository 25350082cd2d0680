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

static uint16_t half(float x)
{
    uint16_t h;
    store(&h, 0, TENSOR_F16, x);
    return h;
}

/* One block of random bits; `spread`: about the largest value it stands for. */
static void store_block(uint8_t *b, int type, float spread, uint64_t *state)
{
    size_t n = tensor_block_bytes(type);
    for (size_t i = 0; i < n; i++)
        b[i] = (uint8_t) (synth_next(state) >> 56);
    float about = spread * (1 + 0.5f * synth_uniform(state));
    uint16_t d = half(about / (type == TENSOR_Q8_0   ? 127
                               : type == TENSOR_Q4_0 ? 8
                               : type == TENSOR_Q4_K ? 63 * 8
                                                     : 31 * 32)),
             min = half(about / 63);
    for (int i = 192; type == TENSOR_Q6_K && i < 208; i++)
        b[i] &= 31; /* of its scales: else d is no normal FP16 */
    memcpy(b + (type == TENSOR_Q6_K ? 208 : 0), &d, 2);
    if (type == TENSOR_Q4_K)
        memcpy(b + 2, &min, 2);
}

static void *blocks_new(int type, int64_t rows, int64_t cols, float spread, uint64_t *state)
{
    size_t n = (size_t) (rows * cols / tensor_block(type)), bytes = tensor_block_bytes(type);
    uint8_t *p = must(malloc(n * bytes));
    for (size_t i = 0; i < n; i++)
        store_block(p + i * bytes, type, spread, state);
    return p;
}

static void *floats_new(int type, int64_t rows, int64_t cols, float spread, uint64_t *state)
{
    int64_t n = rows * (cols ? cols : 1);
    void *data = must(malloc((size_t) n * tensor_block_bytes(type)));
    for (int64_t i = 0; i < n; i++)
        store(data, i, type, (cols ? 0 : 1) + spread * synth_uniform(state));
    return data;
}

/* Any byte but NaN's two. */
static void *f8_new(int64_t rows, int64_t cols, uint64_t *state)
{
    uint8_t *p = must(malloc((size_t) (rows * cols)));
    for (int64_t i = 0; i < rows * cols; i++) {
        p[i] = (uint8_t) (synth_next(state) >> 56);
        p[i] = (p[i] & 0x7f) == 0x7f ? 0 : p[i];
    }
    return p;
}

static const struct tensor *tensor_of(int type, int64_t rows, int64_t cols, void *data,
                                      const struct tensor *scale)
{
    struct tensor *t = must(calloc(1, sizeof *t));
    int64_t n = rows * (cols ? cols : 1);
    *t = (struct tensor){.name = "synthetic",
                         .file = "memory",
                         .type = type,
                         .n_dims = cols ? 2 : 1,
                         .dim = {rows, cols},
                         .data = data,
                         .bytes = (size_t) (n / tensor_block(type)) * tensor_block_bytes(type),
                         .scale = scale};
    return t;
}

/* rows x cols, or a norm's vector where cols is 0: that is a float's where `type` is none.  state NULL: no data. */
static const struct tensor *tensor_new(int type, int64_t rows, int64_t cols, uint64_t *state)
{
    if (!state)
        return tensor_of(cols ? type : TENSOR_F32, rows, cols, NULL, NULL);
    float spread = cols ? sqrtf(3.0f / (float) cols) : 0.3f;
    int is_float = type == TENSOR_F32 || type == TENSOR_BF16 || type == TENSOR_F16;
    if (is_float || !cols) {
        int kind = is_float ? type : TENSOR_F32;
        return tensor_of(kind, rows, cols, floats_new(kind, rows, cols, spread, state), NULL);
    }
    if (type != TENSOR_F8_E4M3)
        return tensor_of(type, rows, cols, blocks_new(type, rows, cols, spread, state), NULL);
    int64_t down = (rows + TENSOR_SCALE_BLOCK - 1) / TENSOR_SCALE_BLOCK;
    int64_t across = (cols + TENSOR_SCALE_BLOCK - 1) / TENSOR_SCALE_BLOCK;
    uint16_t *factor = must(malloc((size_t) (down * across) * sizeof *factor));
    for (int64_t i = 0; i < down * across; i++)
        store(factor, i, TENSOR_BF16, spread / 120 * (1 + 0.5f * synth_uniform(state)));
    const struct tensor *scale = tensor_of(TENSOR_BF16, down, across, factor, NULL);
    return tensor_of(type, rows, cols, f8_new(rows, cols, state), scale);
}

static void tensor_free(const struct tensor *t)
{
    if (!t)
        return;
    tensor_free(t->scale);
    free((void *) (uintptr_t) t->data);
    free((void *) (uintptr_t) t);
}

static struct expert_tensors *experts_new(const struct config *g, int type, uint64_t *state)
{
    struct expert_tensors *x = must(calloc((size_t) g->moe.n_experts, sizeof *x));
    for (int i = 0; i < g->moe.n_experts; i++)
        x[i] = (struct expert_tensors){.gate = tensor_new(type, g->moe.ffn, g->hidden, state),
                                       .up = tensor_new(type, g->moe.ffn, g->hidden, state),
                                       .down = tensor_new(type, g->hidden, g->moe.ffn, state)};
    return x;
}

static void ffn_new(struct layer_tensors *y, const struct config *g, int layer, int type, uint64_t *state)
{
    int64_t h = g->hidden;
    if (g->moe.n_experts && g->moe.layer[layer]) {
        int block = tensor_block(type) > 1 || type == TENSOR_F8_E4M3;
        y->router = tensor_new(block ? TENSOR_F32 : type, g->moe.n_experts, h, state);
        y->expert = experts_new(g, type, state);
        return;
    }
    y->gate = tensor_new(type, g->ffn, h, state);
    y->up = tensor_new(type, g->ffn, h, state);
    y->down = tensor_new(type, h, g->ffn, state);
}

static struct model *model_new(const struct config *g, int type, uint64_t *state)
{
    struct model *m = must(calloc(1, sizeof *m));
    int64_t h = g->hidden, q = (int64_t) g->n_heads * g->head_dim, kv = (int64_t) g->n_kv_heads * g->head_dim;
    m->config = *g;
    m->embed = tensor_new(type, g->vocab, h, state);
    m->head = g->tied ? m->embed : tensor_new(type, g->vocab, h, state);
    m->norm = tensor_new(type, h, 0, state);
    m->layer = must(calloc((size_t) g->n_layers, sizeof *m->layer));
    for (int l = 0; l < g->n_layers; l++) {
        m->layer[l] = (struct layer_tensors){.attn_norm = tensor_new(type, h, 0, state),
                                             .q = tensor_new(type, q, h, state),
                                             .k = tensor_new(type, kv, h, state),
                                             .v = tensor_new(type, kv, h, state),
                                             .q_norm = tensor_new(type, g->head_dim, 0, state),
                                             .k_norm = tensor_new(type, g->head_dim, 0, state),
                                             .o = tensor_new(type, h, q, state),
                                             .ffn_norm = tensor_new(type, h, 0, state)};
        ffn_new(&m->layer[l], g, l, type, state);
    }
    return m;
}

struct model *synth_model_new(const struct config *g, int type, uint64_t seed)
{
    uint64_t state = seed * 2 + 1;
    return model_new(g, type, &state);
}

struct model *synth_model_shape(const struct config *g, int type)
{
    return model_new(g, type, NULL);
}

void synth_model_free(struct model *m)
{
    for (int l = 0; l < m->config.n_layers; l++) {
        const struct layer_tensors *y = &m->layer[l];
        const struct tensor *all[] = {y->attn_norm, y->q,        y->k,    y->v,  y->q_norm, y->k_norm,
                                      y->o,         y->ffn_norm, y->gate, y->up, y->down,   y->router};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            tensor_free(all[i]);
        for (int i = 0; y->expert && i < m->config.moe.n_experts; i++) {
            tensor_free(y->expert[i].gate);
            tensor_free(y->expert[i].up);
            tensor_free(y->expert[i].down);
        }
        free((void *) (uintptr_t) y->expert);
    }
    if (m->head != m->embed)
        tensor_free(m->head);
    tensor_free(m->embed);
    tensor_free(m->norm);
    free(m->layer);
    free(m);
}
