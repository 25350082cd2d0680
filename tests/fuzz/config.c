/* config.c - fuzz: config.json, then a zero byte, then generation_config.json (no zero byte: that file is missing).  What
 * is accepted must keep every bound that later code relies on. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/read.h"
#include "tests/lib/json_mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t cap);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t cap, unsigned seed);

/* One in four blind; else one of the two texts, as JSON. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t cap, unsigned seed)
{
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t) (zero - data) : size, tail = size - n, len;
    if (seed % 4 == 0)
        return LLVMFuzzerMutate(data, size, cap);
    if (zero && seed % 4 == 1) {
        len = json_mutate(data + n + 1, tail - 1, cap - n - 1, seed);
        return len ? n + 1 + len : size;
    }
    uint8_t *gen = malloc(tail + 1);
    memcpy(gen, data + n, tail);
    len = json_mutate(data, n, cap - tail, seed);
    if (len)
        memcpy(data + len, gen, tail);
    free(gen);
    return len ? len + tail : size;
}

static void check(const struct config *c, const struct gen_config *g)
{
    int good = c->n_layers >= 1 && c->n_layers <= CONFIG_LAYERS_MAX && c->hidden >= 1 && c->ffn >= 1 &&
               c->vocab >= 1 && c->ctx_max >= 1 && c->n_kv_heads >= 1 && c->n_heads % c->n_kv_heads == 0 &&
               c->head_dim >= 2 && c->head_dim <= 256 && c->head_dim % 2 == 0 && c->rope_theta > 0 &&
               c->rms_eps > 0;
    good &= (int64_t) c->n_heads * c->head_dim < INT32_MAX && (int64_t) c->vocab * c->hidden < INT64_MAX / 16;
    good &=
        g->n_eos >= 0 && g->n_eos <= CONFIG_EOS_MAX && g->temperature >= 0 && g->top_k >= 0 && g->top_p <= 1;
    good &= !g->has_top_p || g->top_p > 0;
    good &= g->repetition_penalty > 0 && g->repetition_penalty <= 100;
    const struct moe *m = &c->moe;
    good &= m->n_experts == 0 || (m->n_used >= 1 && m->n_used <= m->n_experts && m->ffn >= 1);
    const struct yarn *y = &c->yarn;
    good &= y->factor == 0 || (y->factor > 1 && y->original_ctx >= 1 && y->beta_fast >= y->beta_slow &&
                               y->beta_slow > 0 && y->attention_factor > 0);
    for (int i = 0; good && i < g->n_eos; i++)
        good = g->eos[i] >= 0 && g->eos[i] < c->vocab;
    if (!good)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t) (zero - data) : size;
    struct model__file config = {.label = "config.json", .data = data, .bytes = n};
    struct model__file gen = {.label = "generation_config.json"};
    struct config c;
    struct gen_config g;
    struct err e = {0};
    if (zero) {
        gen.data = zero + 1;
        gen.bytes = size - n - 1;
    }
    int st = config__parse(&c, &g, &config, &gen, &e);
    if (st && (e.status != st || !strstr(e.text, "config.json")))
        abort();
    if (!st)
        check(&c, &g);
    return 0;
}
