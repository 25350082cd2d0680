/* gguf.c - fuzz: the bytes of one .gguf file.  What is accepted must lie inside the file; configuration, tokenizer and template text
 * are then read from it, or refused with a sentence. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/read.h"
#include "model/tokenizer_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct gguf *file;
static const uint8_t *from;
static size_t bytes;

static void check(int ok)
{
    if (!ok)
        abort();
}

static void inside(const void *p, size_t n)
{
    const uint8_t *at = p;
    check(at >= from && at <= from + bytes && n <= (size_t) (from + bytes - at));
}

static void check_tensors(void)
{
    const struct tensor *t = gguf_tensors(file);
    for (int i = 0; i < gguf_count(file); i++) {
        inside(t[i].data, t[i].bytes);
        check(tensor_find(t, gguf_count(file), t[i].name) == &t[i]);
        check(t[i].n_dims >= 1 && t[i].dim[t[i].n_dims - 1] % tensor_block(t[i].type) == 0);
    }
}

/* The keys that the readers below do not touch, as well. */
static void check_value(const char *key)
{
    const struct gguf_value *v = gguf_get(file, key);
    size_t at = 0, n;
    if (!v)
        return;
    inside(v->p, v->bytes);
    for (uint64_t i = 0; v->type == GGUF_STRING && i < v->n; i++) {
        const char *s = gguf_next(v, &at, &n);
        inside(s, n);
    }
}

static void check_config(void)
{
    struct config c;
    struct gen_config g;
    struct err e = {0};
    int st = gguf_config(&c, &g, file, &e);
    if (st) {
        check(e.status == st && e.text[0]);
        return;
    }
    check(c.n_layers >= 1 && c.n_layers <= CONFIG_LAYERS_MAX && c.vocab >= 1 && c.ctx_max >= 1 &&
          c.rope_theta > 0);
    check(c.n_heads % c.n_kv_heads == 0 && c.head_dim % 2 == 0 && c.rms_eps > 0);
    check(c.moe.n_experts == 0 || (c.moe.n_used >= 1 && c.moe.n_used <= c.moe.n_experts && c.moe.ffn >= 1));
    check(c.yarn.factor == 0 ||
          (c.yarn.factor > 1 && c.yarn.original_ctx >= 1 && c.yarn.attention_factor > 0));
    check(g.n_eos <= CONFIG_EOS_MAX);
    for (int i = 0; i < g.n_eos; i++)
        check(g.eos[i] >= 0 && g.eos[i] < c.vocab);
}

static void check_tokenizer(void)
{
    struct tokenizer *t;
    struct tokens ids = {0};
    struct err e = {0};
    int st = tokenizer__open_gguf(&t, file, &e);
    if (st) {
        check(!t && e.status == st && e.text[0]);
        return;
    }
    check(tokenizer_encode(t, "the <think> \xc3\xa9", 14, TOKENIZER_ADDED, &ids, &e) == 0);
    for (size_t i = 0; i < ids.n; i++)
        check(ids.id[i] >= 0 && ids.id[i] < tokenizer_count(t));
    free(ids.id);
    tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct err e = {0};
    int st = gguf__open_bytes(&g, data, size, &e);
    if (st) {
        check(!g && e.status == st && strstr(e.text, "model.gguf"));
        return 0;
    }
    file = g;
    from = data;
    bytes = size;
    check_tensors();
    check_value("general.name");
    check_value("tokenizer.ggml.tokens");
    check_value("tokenizer.ggml.merges");
    check_config();
    check_tokenizer();
    gguf_close(g);
    return 0;
}
