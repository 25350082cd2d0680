/* config.c - config.json and generation_config.json, field by field.
 *
 * Both spellings are read: rope_theta, rope_scaling, num_experts and torch_dtype (transformers 4, Qwen's own files),
 * rope_parameters, num_local_experts and dtype (transformers 5).  Where a file gives both, they must agree.  Absent (or null)
 * fields mean: head_dim is hidden_size / num_attention_heads, hidden_act silu, no bias, no window, untied, dtype the tensors'
 * own, every layer with experts where there are any; the shapes of the tensors prove such a guess right or wrong (model.c).
 * Every other field is required.
 *
 * Refused by name (ST_UNSUPPORTED): other architectures, rope types but the plain one and YaRN, quantized checkpoints but FP8
 * in blocks of 128 x 128, dtypes but BF16, F16 and F32, sliding windows, dual chunk attention, shared experts, biases, other
 * activations.  Each would change the words without a sign if it were passed over. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/config_impl.h"
#include "model/gguf.h"
#include "model/source.h"
#include "model/synth.h"

/* --- switches --- */

/* Switches that change the forward pass: only one position of each is served. */
static int check_switches(const struct config__doc *d, struct err *e)
{
    static const struct {
        const char *key;
        int served; /* also what an absent field means */
        const char *what;
    } list[] = {
        {"attention_bias", 0, "a bias in the attention projections"},
        {"qkv_bias", 0, "a bias in the attention projections"},
        {"mlp_bias", 0, "a bias in the feed-forward projections"},
        {"use_qk_norm", 1, "attention without q_norm and k_norm"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        int on, st = config__bool(d, list[i].key, list[i].served, &on, e);
        if (st)
            return st;
        if (on != list[i].served)
            return config__not_served(d, list[i].key, list[i].what, list[i].served ? "true" : "false", e);
    }
    return 0;
}

static int check_activation(const struct config__doc *d, struct err *e)
{
    const char *act;
    int st = config__string(d, "hidden_act", &act, e);
    if (!st && act && strcmp(act, "silu") != 0)
        st = config__not_served(d, "hidden_act", "this activation", "\"silu\"", e);
    return st;
}

static int check_layer_types(const struct config__doc *d, int n_layers, struct err *e)
{
    const json_t *list = config__field(d, "layer_types"), *v;
    size_t i;
    char expected[80];
    snprintf(expected, sizeof expected, "%d times \"full_attention\"", n_layers);
    if (list && json_array_size(list) != (size_t) n_layers)
        return err_set(e, ST_FORMAT, "%s: layer_types is %s of %zu; expected %s", d->label,
                       model__show(list).s, json_array_size(list), expected);
    json_array_foreach((json_t *) list, i, v)
    {
        if (!json_is_string(v))
            return err_set(e, ST_FORMAT, "%s: layer_types[%zu] is %s; expected %s", d->label, i,
                           model__show(v).s, expected);
        if (strcmp(json_string_value(v), "full_attention") != 0)
            return err_set(e, ST_UNSUPPORTED,
                           "%s: layer_types[%zu] is %s: such layers are not served yet; expected %s",
                           d->label, i, model__show(v).s, expected);
    }
    return 0;
}

/* transformers uses sliding_window only where use_sliding_window says so. */
static int check_attention(const struct config__doc *d, int n_layers, struct err *e)
{
    int window, st = config__bool(d, "use_sliding_window", 0, &window, e);
    if (st)
        return st;
    if (window && config__field(d, "sliding_window"))
        return config__not_served(d, "use_sliding_window", "a sliding window", "false", e);
    if (config__field(d, "dual_chunk_attention_config"))
        return config__not_served(d, "dual_chunk_attention_config", "dual chunk attention", "null", e);
    return check_layer_types(d, n_layers, e);
}

/* --- numbers --- */

static int read_sizes(const struct config__doc *d, struct config *c, struct err *e)
{
    const struct {
        const char *key;
        int32_t *out;
        int64_t hi;
    } list[] = {
        {"num_hidden_layers", &c->n_layers, CONFIG_LAYERS_MAX},
        {"hidden_size", &c->hidden, CONFIG_HIDDEN_MAX},
        {"num_attention_heads", &c->n_heads, CONFIG_HEADS_MAX},
        {"num_key_value_heads", &c->n_kv_heads, CONFIG_HEADS_MAX},
        {"intermediate_size", &c->ffn, CONFIG_FFN_MAX},
        {"vocab_size", &c->vocab, CONFIG_VOCAB_MAX},
        {"max_position_embeddings", &c->ctx_max, CONFIG_CTX_MAX},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        int st = config__int(d, list[i].key, 1, list[i].hi, list[i].out, e);
        if (st)
            return st;
    }
    return 0;
}

int config__check(const struct config *c, const char *label, struct err *e)
{
    if (c->n_heads % c->n_kv_heads)
        return err_set(
            e, ST_FORMAT,
            "%s: num_key_value_heads is %d; expected a divisor of num_attention_heads, which is %d", label,
            c->n_kv_heads, c->n_heads);
    if (c->head_dim % 2)
        return err_set(e, ST_FORMAT, "%s: head_dim is %d; expected an even number", label, c->head_dim);
    return 0;
}

static int read_head_dim(const struct config__doc *d, struct config *c, struct err *e)
{
    int st = 0;
    if (config__field(d, "head_dim"))
        st = config__int(d, "head_dim", 2, CONFIG_HEAD_DIM_MAX, &c->head_dim, e);
    else if (c->hidden % c->n_heads || c->hidden / c->n_heads < 2 ||
             c->hidden / c->n_heads > CONFIG_HEAD_DIM_MAX)
        return err_set(
            e, ST_FORMAT,
            "%s: head_dim is missing and hidden_size / num_attention_heads is %d / %d; expected a quotient "
            "from 2 to %d",
            d->label, c->hidden, c->n_heads, CONFIG_HEAD_DIM_MAX);
    else
        c->head_dim = c->hidden / c->n_heads;
    return st ? st : config__check(c, d->label, e);
}

static int read_dtype(const struct config__doc *d, struct config *c, struct err *e)
{
    const char *old, *new;
    int st = config__string(d, "torch_dtype", &old, e);
    if (!st)
        st = config__string(d, "dtype", &new, e);
    if (st)
        return st;
    if (old && new &&strcmp(old, new) != 0)
        return err_set(e, ST_FORMAT, "%s: dtype is \"%s\" but torch_dtype is \"%s\"; expected the same",
                       d->label, model__quote(new).s, model__quote(old).s);
    const char *s = new ? new : old;
    if (s && strcmp(s, "bfloat16") != 0 && strcmp(s, "float32") != 0 && strcmp(s, "float16") != 0)
        return config__not_served(d, new ? "dtype" : "torch_dtype", "this dtype",
                                  "\"bfloat16\", \"float16\" or \"float32\"", e);
    if (s)
        strcpy(c->dtype, s);
    return 0;
}

/* PARD's training adds pard_token to what the model said before; -1 is its word for none. */
static int read_parallel(const struct config__doc *d, struct config *c, struct err *e)
{
    int st = 0;
    int32_t token = -1;
    if (config__field(d, "pard_token"))
        st = config__int(d, "pard_token", -1, c->vocab - 1, &token, e);
    c->parallel = !st && token >= 0;
    c->pard_token = c->parallel ? token : 0;
    return st;
}

/* --- the files --- */

static int read_config(const struct config__doc *d, struct config *c, struct err *e)
{
    static int (*const checks[])(const struct config__doc *, struct err *) = {check_switches,
                                                                              check_activation};
    static int (*const reads[])(const struct config__doc *, struct config *, struct err *) = {
        config__read_kind,         read_sizes,        read_head_dim, config__read_experts,
        config__read_quantization, config__read_rope, read_dtype,    read_parallel,
    };
    int st = 0, tied = 0;
    for (size_t i = 0; !st && i < sizeof reads / sizeof *reads; i++)
        st = reads[i](d, c, e);
    for (size_t i = 0; !st && i < sizeof checks / sizeof *checks; i++)
        st = checks[i](d, e);
    if (!st)
        st = check_attention(d, c->n_layers, e);
    if (!st)
        st = config__float(d, "rms_norm_eps", 0, 1, 0.1, &c->rms_eps, e);
    if (!st)
        st = config__bool(d, "tie_word_embeddings", 0, &tied, e);
    c->tied = tied;
    return st;
}

int config__parse(struct config *c, struct gen_config *g, const struct model__file *config,
                  const struct model__file *gen, struct err *e)
{
    struct config__doc d = {.label = config->label}, dg = {.label = gen->label};
    *c = (struct config){0};
    *g = (struct gen_config){0};
    int st = model__json_object(&d.root, config->label, config->data, config->bytes, e);
    if (!st && gen->data)
        st = model__json_object(&dg.root, gen->label, gen->data, gen->bytes, e);
    if (!st)
        st = read_config(&d, c, e);
    if (!st)
        st = config__read_gen(dg.root ? &dg : &d, c->vocab, g, e);
    if (!st && dg.root && !g->n_eos)
        st = config__read_eos(&d, c->vocab, g, e);
    json_decref(d.root);
    json_decref(dg.root);
    return st;
}

/* A directory that is none, in words. */
static int check_dir(const char *dir, struct err *e)
{
    struct stat s;
    if (stat(dir, &s) != 0)
        return err_set(e, ST_IO, "%s: %s; expected a Hugging Face directory, a .gguf file or synth:SHAPE",
                       model__quote(dir).s, strerror(errno));
    return 0;
}

static int load_dir(struct config *c, struct gen_config *g, const char *dir, struct err *e)
{
    struct model__file config = {0}, gen = {0};
    int st = check_dir(dir, e);
    if (!st && !model__file_exists(dir, "config.json"))
        return err_set(
            e, ST_IO,
            "%s: holds no config.json; expected a Hugging Face directory (config.json, *.safetensors, "
            "tokenizer.json), a .gguf file or synth:SHAPE",
            model__quote(dir).s);
    if (!st)
        st = model__file_need(&config, dir, "config.json", e);
    if (!st && model__file_exists(dir, "generation_config.json"))
        st = model__file_need(&gen, dir, "generation_config.json", e);
    if (!st)
        st = config__parse(c, g, &config, &gen, e);
    model__file_close(&gen);
    model__file_close(&config);
    return st;
}

static int load_gguf(struct config *c, struct gen_config *g, const char *path, struct err *e)
{
    struct gguf *file;
    int st = gguf_open(&file, path, e);
    if (!st)
        st = gguf_config(c, g, file, e);
    gguf_close(file);
    return st;
}

int config_load(struct config *c, struct gen_config *g, const char *name, struct err *e)
{
    struct source s;
    struct synth_shape shape;
    int st = source_find(&s, name, e);
    if (st)
        return st;
    if (s.kind == SOURCE_GGUF)
        return load_gguf(c, g, s.path, e);
    if (s.kind == SOURCE_DIR)
        return load_dir(c, g, s.path, e);
    if (!(st = synth_parse(&shape, s.path, e)))
        synth_config(&shape, c, g);
    return st;
}
