/* gguf_config.c - the metadata of a GGUF as the configuration of a Qwen3.
 *
 * Source: gguf-py's constants.py and llama.cpp's qwen3 and qwen3moe.  A key that llama.cpp would follow and this build does not
 * (another gating, a shared expert, a window) is refused by name; names, licences and file types are passed over.  Every layer
 * of a qwen3moe has experts, and their weights are divided by their sum unless the file says otherwise.
 *
 * End of text: eos_token_id and eot_token_id, and, as llama.cpp does, every control token spelt <|im_end|> or <|endoftext|>:
 * the file has room for one id where generation_config.json lists two. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/math.h"
#include "model/config_impl.h"

enum { TOKEN_CONTROL = 3 }; /* of tokenizer.ggml.token_type */

struct meta {
    const struct gguf *g;
    const char *arch;
    struct err *e;
};

struct key {
    char s[96];
};

/* "block_count" -> "qwen3.block_count"; what holds a dot in front stays as it is. */
static struct key key_of(const struct meta *m, const char *name)
{
    struct key k;
    if (strncmp(name, "general.", 8) == 0 || strncmp(name, "tokenizer.", 10) == 0)
        snprintf(k.s, sizeof k.s, "%s", name);
    else
        snprintf(k.s, sizeof k.s, "%s.%s", m->arch, name);
    return k;
}

static const struct gguf_value *get(const struct meta *m, const char *name)
{
    return gguf_get(m->g, key_of(m, name).s);
}

/* A value in words, printable. */
static struct model__text show(const struct gguf_value *v)
{
    struct model__text t;
    int64_t i;
    double x;
    size_t n;
    const char *s;
    if (!v)
        return model__quote("missing");
    if (v->is_array)
        snprintf(t.s, sizeof t.s, "a list of %" PRIu64, v->n);
    else if (gguf_int(v, &i))
        snprintf(t.s, sizeof t.s, "%" PRId64, i);
    else if (gguf_number(v, &x))
        snprintf(t.s, sizeof t.s, "%g", x);
    else if ((s = gguf_string(v, &n)))
        snprintf(t.s, sizeof t.s, "\"%.*s\"", (int) (n < 64 ? n : 64), s);
    else
        snprintf(t.s, sizeof t.s, "%s", v->p[0] ? "true" : "false");
    return model__quote(t.s);
}

static int refuse(const struct meta *m, const char *name, const char *expected)
{
    return err_set(m->e, ST_FORMAT, "%s: %s is %s; expected %s", gguf_label(m->g), key_of(m, name).s,
                   show(get(m, name)).s, expected);
}

static int not_served(const struct meta *m, const char *name, const char *what, const char *expected)
{
    return err_set(m->e, ST_UNSUPPORTED, "%s: %s is %s: %s is not served; expected %s", gguf_label(m->g),
                   key_of(m, name).s, show(get(m, name)).s, what, expected);
}

static int read_int(const struct meta *m, const char *name, int64_t lo, int64_t hi, int32_t *out)
{
    const struct gguf_value *v = get(m, name);
    int64_t x;
    char expected[80];
    if (v && gguf_int(v, &x) && x >= lo && x <= hi) {
        *out = (int32_t) x;
        return 0;
    }
    snprintf(expected, sizeof expected, "an integer from %" PRId64 " to %" PRId64, lo, hi);
    return refuse(m, name, expected);
}

/* lo <= value <= hi, and > lo when `above`. */
static int read_float(const struct meta *m, const char *name, double lo, int above, double hi, float *out)
{
    const struct gguf_value *v = get(m, name);
    double x;
    char expected[80];
    if (v && gguf_number(v, &x) && x >= lo && x <= hi && !(above && (float) x <= (float) lo)) {
        *out = (float) x;
        return 0;
    }
    snprintf(expected, sizeof expected, "a number %s %g and <= %g", above ? ">" : ">=", lo, hi);
    return refuse(m, name, expected);
}

static int is_text(const struct gguf_value *v, const char *text)
{
    size_t n;
    const char *s = v ? gguf_string(v, &n) : NULL;
    return s && n == strlen(text) && memcmp(s, text, n) == 0;
}

/* --- the model --- */

static int read_kind(struct meta *m, struct config *c)
{
    const struct gguf_value *v = gguf_get(m->g, "general.architecture"),
                            *type = gguf_get(m->g, "general.type");
    c->moe.n_experts = is_text(v, "qwen3moe");
    m->arch = c->moe.n_experts ? "qwen3moe" : "qwen3";
    if (!c->moe.n_experts && !is_text(v, "qwen3"))
        return err_set(
            m->e, v ? ST_UNSUPPORTED : ST_FORMAT,
            "%s: general.architecture is %s, which is not served; expected \"qwen3\" or \"qwen3moe\"",
            gguf_label(m->g), show(v).s);
    if (type && !is_text(type, "model"))
        return not_served(m, "general.type", "this kind of file", "\"model\"");
    return 0;
}

/* Integers that may only have one value; an absent one is fine. */
static int check_fixed(const struct meta *m, const struct config *c)
{
    const struct {
        const char *name;
        int64_t served;
        const char *what;
    } list[] = {
        {"attention.value_length", c->head_dim, "values wider than keys"},
        {"rope.dimension_count", c->head_dim, "partial rotation"},
        {"attention.sliding_window", 0, "a sliding window"},
        {"expert_shared_count", 0, "a shared expert"},
        {"expert_shared_feed_forward_length", 0, "a shared expert"},
        {"expert_gating_func", 1, "this gating of experts"},
        {"nextn_predict_layers", 0, "a layer that predicts further tokens"},
        {"general.quantization_version", 2, "this version of quantization"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const struct gguf_value *v = get(m, list[i].name);
        int64_t x;
        char expected[24];
        snprintf(expected, sizeof expected, "%" PRId64, list[i].served);
        if (v && !gguf_int(v, &x))
            return refuse(m, list[i].name, expected);
        if (v && x != list[i].served)
            return not_served(m, list[i].name, list[i].what, expected);
    }
    return 0;
}

static int read_sizes(const struct meta *m, struct config *c)
{
    const struct {
        const char *name;
        int32_t *out;
        int64_t lo, hi;
    } list[] = {
        {"block_count", &c->n_layers, 1, CONFIG_LAYERS_MAX},
        {"embedding_length", &c->hidden, 1, CONFIG_HIDDEN_MAX},
        {"attention.head_count", &c->n_heads, 1, CONFIG_HEADS_MAX},
        {"attention.head_count_kv", &c->n_kv_heads, 1, CONFIG_HEADS_MAX},
        {"attention.key_length", &c->head_dim, 2, CONFIG_HEAD_DIM_MAX},
        {"feed_forward_length", &c->ffn, 1, CONFIG_FFN_MAX},
        {"context_length", &c->ctx_max, 1, CONFIG_CTX_MAX},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        int st = read_int(m, list[i].name, list[i].lo, list[i].hi, list[i].out);
        if (st)
            return st;
    }
    int st = config__check(c, gguf_label(m->g), m->e);
    return st ? st : check_fixed(m, c);
}

/* The vocabulary and whether the output layer is the embedding: only the tensors tell. */
static int read_vocab(const struct meta *m, struct config *c)
{
    const struct tensor *embed = tensor_find(gguf_tensors(m->g), gguf_count(m->g), "token_embd.weight");
    int32_t rows;
    if (!embed || embed->n_dims != 2 || embed->dim[0] > CONFIG_VOCAB_MAX)
        return err_set(m->e, ST_FORMAT, "%s: tensor 'token_embd.weight' is %s; expected [vocabulary, %d]",
                       gguf_label(m->g), embed ? "of another shape" : "missing", c->hidden);
    c->vocab = (int32_t) embed->dim[0];
    c->tied = !tensor_find(gguf_tensors(m->g), gguf_count(m->g), "output.weight");
    if (!get(m, "vocab_size"))
        return 0;
    int st = read_int(m, "vocab_size", 1, CONFIG_VOCAB_MAX, &rows);
    if (!st && rows != c->vocab)
        st = err_set(m->e, ST_FORMAT, "%s: %s is %d; token_embd.weight has %d rows", gguf_label(m->g),
                     key_of(m, "vocab_size").s, rows, c->vocab);
    return st;
}

static int read_experts(const struct meta *m, struct config *c)
{
    const struct gguf_value *norm = get(m, "expert_weights_norm"), *scale = get(m, "expert_weights_scale");
    double x;
    if (!c->moe.n_experts)
        return get(m, "expert_count") ? not_served(m, "expert_count", "experts in a dense model", "none") : 0;
    int st = read_int(m, "expert_count", 1, CONFIG_EXPERTS_MAX, &c->moe.n_experts);
    if (!st)
        st = read_int(m, "expert_used_count", 1, c->moe.n_experts, &c->moe.n_used);
    if (!st)
        st = read_int(m, "expert_feed_forward_length", 1, CONFIG_FFN_MAX, &c->moe.ffn);
    if (st)
        return st;
    if (norm && (norm->is_array || norm->type != GGUF_BOOL))
        return refuse(m, "expert_weights_norm", "true or false");
    if (scale && (!gguf_number(scale, &x) || x != 1))
        return not_served(m, "expert_weights_scale", "a factor on the experts' weights", "1");
    c->moe.norm_topk = norm ? norm->p[0] : 1;
    memset(c->moe.layer, 1, (size_t) c->n_layers);
    return 0;
}

/* --- rotary positions --- */

static int maybe_float(const struct meta *m, const char *name, double hi, float *out)
{
    return get(m, name) ? read_float(m, name, 0, 1, hi, out) : 0;
}

/* llama.cpp sharpens by attn_factor on top of 0.1 ln(factor) + 1. */
static int read_yarn(const struct meta *m, struct config *c)
{
    struct yarn *y = &c->yarn;
    float attn = 1, ext = 1;
    *y = (struct yarn){.beta_fast = 32, .beta_slow = 1, .truncate = 1};
    int st = read_float(m, "rope.scaling.factor", 1, 1, 1024, &y->factor);
    if (!st && get(m, "rope.scaling.original_context_length"))
        st = read_int(m, "rope.scaling.original_context_length", 1, CONFIG_CTX_MAX, &y->original_ctx);
    if (!st)
        st = maybe_float(m, "rope.scaling.attn_factor", 100, &attn);
    if (!st)
        st = maybe_float(m, "rope.scaling.yarn_beta_fast", 1 << 20, &y->beta_fast);
    if (!st)
        st = maybe_float(m, "rope.scaling.yarn_beta_slow", 1 << 20, &y->beta_slow);
    if (!st)
        st = maybe_float(m, "rope.scaling.yarn_ext_factor", 100, &ext);
    if (!st &&
        (ext != 1 || get(m, "rope.scaling.yarn_log_multiplier") || get(m, "rope.scaling.yarn_attn_factor")))
        return err_set(
            m->e, ST_UNSUPPORTED,
            "%s: rope.scaling has yarn_ext_factor, yarn_log_multiplier or yarn_attn_factor, which are not "
            "served",
            gguf_label(m->g));
    if (!st && attn != 1)
        y->attention_factor = (float) ((double) attn * (0.1 * math_log((double) y->factor) + 1));
    return st ? st : config__yarn_finish(c, gguf_label(m->g), m->e);
}

static int read_rope(const struct meta *m, struct config *c)
{
    const struct gguf_value *type = get(m, "rope.scaling.type");
    int st = read_float(m, "rope.freq_base", 1, 0, 1e12, &c->rope_theta);
    if (st)
        return st;
    if (is_text(type, "yarn"))
        return read_yarn(m, c);
    if (type && !is_text(type, "none"))
        return not_served(m, "rope.scaling.type", "this kind of scaling", "\"none\" or \"yarn\"");
    return 0;
}

/* --- generation defaults --- */

static int add_eos(const struct meta *m, struct gen_config *g, int64_t id, int32_t vocab, const char *what)
{
    for (int i = 0; i < g->n_eos; i++)
        if (g->eos[i] == id)
            return 0;
    if (id < 0 || id >= vocab || g->n_eos == CONFIG_EOS_MAX)
        return err_set(m->e, ST_FORMAT,
                       "%s: %s gives the id %" PRId64 "; expected 0 to %d, and at most %d of them",
                       gguf_label(m->g), what, id, vocab - 1, CONFIG_EOS_MAX);
    g->eos[g->n_eos++] = (int32_t) id;
    return 0;
}

static int is_end(const char *s, size_t n)
{
    return (n == 10 && memcmp(s, "<|im_end|>", n) == 0) || (n == 13 && memcmp(s, "<|endoftext|>", n) == 0);
}

static int add_spelt(const struct meta *m, struct gen_config *g, int32_t vocab)
{
    const struct gguf_value *tokens = get(m, "tokenizer.ggml.tokens"),
                            *types = get(m, "tokenizer.ggml.token_type");
    size_t at = 0, n;
    if (!tokens || !tokens->is_array || tokens->type != GGUF_STRING || !types || !types->is_array ||
        types->type != GGUF_I32 || types->n != tokens->n)
        return 0; /* tokenizer_open says what is wrong with them */
    for (uint64_t i = 0; i < tokens->n; i++) {
        const char *s = gguf_next(tokens, &at, &n);
        int st = types->p[4 * i] == TOKEN_CONTROL && is_end(s, n)
                     ? add_eos(m, g, (int64_t) i, vocab, "a token")
                     : 0;
        if (st)
            return st;
    }
    return 0;
}

static int read_eos(const struct meta *m, struct gen_config *g, int32_t vocab)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id;
        if (!get(m, keys[i]))
            continue;
        int st = read_int(m, keys[i], 0, vocab - 1, &id);
        if (!st)
            st = add_eos(m, g, id, vocab, keys[i]);
        if (st)
            return st;
    }
    return add_spelt(m, g, vocab);
}

static int read_sampling(const struct meta *m, struct gen_config *g)
{
    int st = 0;
    g->has_temperature = get(m, "general.sampling.temp") != NULL;
    g->has_top_k = get(m, "general.sampling.top_k") != NULL;
    g->has_top_p = get(m, "general.sampling.top_p") != NULL;
    g->has_min_p = get(m, "general.sampling.min_p") != NULL;
    g->repetition_penalty = 1;
    if (g->has_temperature)
        st = read_float(m, "general.sampling.temp", 0, 0, 100, &g->temperature);
    if (!st && g->has_top_k)
        st = read_int(m, "general.sampling.top_k", 0, INT32_MAX, &g->top_k);
    if (!st && g->has_top_p)
        st = read_float(m, "general.sampling.top_p", 0, 1, 1, &g->top_p);
    if (!st && g->has_min_p)
        st = read_float(m, "general.sampling.min_p", 0, 0, 1, &g->min_p);
    if (!st)
        st = maybe_float(m, "general.sampling.penalty_repeat", 100, &g->repetition_penalty);
    g->has_repetition_penalty = g->repetition_penalty != 1;
    return st;
}

int gguf_config(struct config *c, struct gen_config *gen, const struct gguf *g, struct err *e)
{
    struct meta m = {.g = g, .e = e};
    *c = (struct config){0};
    *gen = (struct gen_config){0};
    int st = read_kind(&m, c);
    if (!st)
        st = read_sizes(&m, c);
    if (!st)
        st = read_vocab(&m, c);
    if (!st)
        st = read_experts(&m, c);
    if (!st)
        st = read_rope(&m, c);
    if (!st)
        st = read_float(&m, "attention.layer_norm_rms_epsilon", 0, 1, 0.1, &c->rms_eps);
    if (!st)
        st = read_sampling(&m, gen);
    return st ? st : read_eos(&m, gen, c->vocab);
}
