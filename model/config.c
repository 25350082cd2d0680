/* config.c - config.json and generation_config.json, field by field.
 *
 * Both spellings are read: rope_theta, rope_scaling and torch_dtype (transformers 4, Qwen's own files), rope_parameters
 * and dtype (transformers 5).  Where a file gives both, they must agree.  Absent (or null) fields mean: head_dim is
 * hidden_size / num_attention_heads, hidden_act silu, no bias, no window, untied, dtype the tensors' own; the shapes
 * of the tensors prove such a guess right or wrong (model.c).  Every other field is required.
 *
 * Refused by name (ST_UNSUPPORTED): other architectures, mixture of experts, rope types but the plain one, quantized
 * checkpoints, dtypes but BF16 and F32, sliding windows, dual chunk attention, biases, other activations, a repetition
 * penalty by default.  Each would change the words without a sign if it were passed over. */
#include "model/config.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/read.h"

/* Limits that keep every later product inside 63 bits, far above any Qwen3. */
enum {
    HIDDEN_MAX = 1 << 18,
    HEADS_MAX = 1 << 12,
    HEAD_DIM_MAX = 256, /* the attention kernels' scratch */
    FFN_MAX = 1 << 20,
    VOCAB_MAX = 1 << 24,
    CTX_MAX = 1 << 24, /* a float holds every position up to here exactly (NUMERICS.md, RoPE) */
};

struct doc {
    const char *label; /* the file, for sentences */
    json_t *root;      /* borrowed */
};

static const json_t *field(const struct doc *d, const char *key)
{
    const json_t *v = json_object_get(d->root, key);
    return json_is_null(v) ? NULL : v;
}

static int refuse(const struct doc *d, const char *key, const char *expected, struct err *e)
{
    return err_set(e, ST_FORMAT, "%s: %s is %s; expected %s", d->label, key,
                   model__show(json_object_get(d->root, key)).s, expected);
}

static int not_served(const struct doc *d, const char *key, const char *what, const char *expected,
                      struct err *e)
{
    return err_set(e, ST_UNSUPPORTED, "%s: %s is %s: %s is not served yet; expected %s", d->label, key,
                   model__show(json_object_get(d->root, key)).s, what, expected);
}

static int get_int(const struct doc *d, const char *key, int64_t lo, int64_t hi, int32_t *out, struct err *e)
{
    const json_t *v = field(d, key);
    if (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi) {
        char expected[80];
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long) lo, (long long) hi);
        return refuse(d, key, expected, e);
    }
    *out = (int32_t) json_integer_value(v);
    return 0;
}

/* lo <= value <= hi, and > lo when `above`. */
static int get_float(const struct doc *d, const char *key, double lo, int above, double hi, float *out,
                     struct err *e)
{
    const json_t *v = field(d, key);
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= lo) || !(x <= hi) || (above && (float) x <= (float) lo)) {
        char expected[80];
        snprintf(expected, sizeof expected, "a number %s %g and <= %g", above ? ">" : ">=", lo, hi);
        return refuse(d, key, expected, e);
    }
    *out = (float) x;
    return 0;
}

/* An absent or null field is `otherwise`. */
static int get_bool(const struct doc *d, const char *key, int otherwise, int *out, struct err *e)
{
    const json_t *v = field(d, key);
    *out = v ? json_is_true(v) : otherwise;
    if (v && !json_is_boolean(v))
        return refuse(d, key, "true or false", e);
    return 0;
}

/* NULL in *out for an absent or null field. */
static int get_string(const struct doc *d, const char *key, const char **out, struct err *e)
{
    const json_t *v = field(d, key);
    *out = json_string_value(v);
    if (v && !json_is_string(v))
        return refuse(d, key, "a string", e);
    return 0;
}

/* --- what kind of model it is --- */

static int check_model_type(const struct doc *d, struct err *e)
{
    const char *type;
    int st = get_string(d, "model_type", &type, e);
    if (st)
        return st;
    if (!type)
        return refuse(d, "model_type", "\"qwen3\"", e);
    if (strcmp(type, "qwen3_moe") == 0)
        return not_served(d, "model_type", "mixture of experts (MoE)", "\"qwen3\"", e);
    if (strcmp(type, "qwen3") != 0)
        return err_set(e, ST_UNSUPPORTED,
                       "%s: model_type is \"%s\": this architecture is not served; expected \"qwen3\"",
                       d->label, model__quote(type).s);
    return 0;
}

static int check_architecture(const struct doc *d, struct err *e)
{
    const json_t *list = field(d, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (json_array_size(list) != 1 || !name)
        return refuse(d, "architectures", "[\"Qwen3ForCausalLM\"]", e);
    if (strcmp(name, "Qwen3ForCausalLM") != 0)
        return err_set(e, ST_UNSUPPORTED,
                       "%s: architectures is [\"%s\"]%s, which is not served%s; expected "
                       "[\"Qwen3ForCausalLM\"]",
                       d->label, model__quote(name).s,
                       strcmp(name, "Qwen3MoeForCausalLM") == 0 ? ", mixture of experts (MoE)" : "",
                       strncmp(name, "Qwen3", 5) == 0 ? " yet" : "");
    return 0;
}

static int check_experts(const struct doc *d, struct err *e)
{
    static const char *const keys[] = {"num_experts", "num_local_experts"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = field(d, keys[i]);
        if (v && !(json_is_integer(v) && json_integer_value(v) == 0))
            return not_served(d, keys[i], "mixture of experts (MoE)", "no experts", e);
    }
    return 0;
}

static int check_quantization(const struct doc *d, struct err *e)
{
    const json_t *q = field(d, "quantization_config");
    if (!q)
        return 0;
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    return err_set(
        e, ST_UNSUPPORTED,
        "%s: quantization_config has quant_method %s: such checkpoints are not served yet; expected an "
        "unquantized one (BF16 or F32)",
        d->label, method ? model__quote(method).s : "missing");
}

/* Switches that change the forward pass: only one position of each is served. */
static int check_switches(const struct doc *d, struct err *e)
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
        int on, st = get_bool(d, list[i].key, list[i].served, &on, e);
        if (st)
            return st;
        if (on != list[i].served)
            return not_served(d, list[i].key, list[i].what, list[i].served ? "true" : "false", e);
    }
    return 0;
}

static int check_activation(const struct doc *d, struct err *e)
{
    const char *act;
    int st = get_string(d, "hidden_act", &act, e);
    if (!st && act && strcmp(act, "silu") != 0)
        st = not_served(d, "hidden_act", "this activation", "\"silu\"", e);
    return st;
}

static int check_layer_types(const struct doc *d, int n_layers, struct err *e)
{
    const json_t *list = field(d, "layer_types"), *v;
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
static int check_attention(const struct doc *d, int n_layers, struct err *e)
{
    int window, st = get_bool(d, "use_sliding_window", 0, &window, e);
    if (st)
        return st;
    if (window && field(d, "sliding_window"))
        return not_served(d, "use_sliding_window", "a sliding window", "false", e);
    if (field(d, "dual_chunk_attention_config"))
        return not_served(d, "dual_chunk_attention_config", "dual chunk attention", "null", e);
    return check_layer_types(d, n_layers, e);
}

/* --- numbers --- */

static int read_sizes(const struct doc *d, struct config *c, struct err *e)
{
    const struct {
        const char *key;
        int32_t *out;
        int64_t hi;
    } list[] = {
        {"num_hidden_layers", &c->n_layers, CONFIG_LAYERS_MAX},
        {"hidden_size", &c->hidden, HIDDEN_MAX},
        {"num_attention_heads", &c->n_heads, HEADS_MAX},
        {"num_key_value_heads", &c->n_kv_heads, HEADS_MAX},
        {"intermediate_size", &c->ffn, FFN_MAX},
        {"vocab_size", &c->vocab, VOCAB_MAX},
        {"max_position_embeddings", &c->ctx_max, CTX_MAX},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        int st = get_int(d, list[i].key, 1, list[i].hi, list[i].out, e);
        if (st)
            return st;
    }
    if (c->n_heads % c->n_kv_heads)
        return err_set(
            e, ST_FORMAT,
            "%s: num_key_value_heads is %d; expected a divisor of num_attention_heads, which is %d", d->label,
            c->n_kv_heads, c->n_heads);
    return 0;
}

static int read_head_dim(const struct doc *d, struct config *c, struct err *e)
{
    int st = 0;
    if (field(d, "head_dim"))
        st = get_int(d, "head_dim", 2, HEAD_DIM_MAX, &c->head_dim, e);
    else if (c->hidden % c->n_heads || c->hidden / c->n_heads < 2 || c->hidden / c->n_heads > HEAD_DIM_MAX)
        return err_set(
            e, ST_FORMAT,
            "%s: head_dim is missing and hidden_size / num_attention_heads is %d / %d; expected a quotient "
            "from 2 to %d",
            d->label, c->hidden, c->n_heads, HEAD_DIM_MAX);
    else
        c->head_dim = c->hidden / c->n_heads;
    if (!st && c->head_dim % 2)
        return err_set(e, ST_FORMAT, "%s: head_dim is %d; expected an even number", d->label, c->head_dim);
    return st;
}

static int read_dtype(const struct doc *d, struct config *c, struct err *e)
{
    const char *old, *new;
    int st = get_string(d, "torch_dtype", &old, e);
    if (!st)
        st = get_string(d, "dtype", &new, e);
    if (st)
        return st;
    if (old && new &&strcmp(old, new) != 0)
        return err_set(e, ST_FORMAT, "%s: dtype is \"%s\" but torch_dtype is \"%s\"; expected the same",
                       d->label, model__quote(new).s, model__quote(old).s);
    const char *s = new ? new : old;
    if (s && strcmp(s, "bfloat16") != 0 && strcmp(s, "float32") != 0)
        return not_served(d, new ? "dtype" : "torch_dtype",
                          strcmp(s, "float16") == 0      ? "F16"
                          : strncmp(s, "float8", 6) == 0 ? "FP8"
                                                         : "this dtype",
                          "\"bfloat16\" or \"float32\"", e);
    if (s)
        strcpy(c->dtype, s);
    return 0;
}

/* --- rotary positions --- */

static const char *rope_words(const char *type)
{
    static const struct {
        const char *type, *words;
    } list[] = {
        {"yarn", "YaRN"},         {"linear", "linear position scaling"}, {"dynamic", "dynamic NTK scaling"},
        {"longrope", "LongRoPE"}, {"llama3", "Llama 3 scaling"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcmp(type, list[i].type) == 0)
            return list[i].words;
    return "this rope type";
}

/* One of rope_scaling and rope_parameters: the plain type or none, all dimensions rotated. */
static int check_rope(const struct doc *d, const char *key, struct doc *rope, struct err *e)
{
    const json_t *v = field(d, key);
    rope->root = NULL;
    if (!v)
        return 0;
    if (!json_is_object(v))
        return refuse(d, key, "an object or null", e);
    rope->root = (json_t *) v;
    const char *type, *old;
    int st = get_string(rope, "rope_type", &type, e);
    if (!st)
        st = get_string(rope, "type", &old, e);
    if (st)
        return st;
    type = type ? type : old;
    if (type && strcmp(type, "default") != 0)
        return err_set(e, ST_UNSUPPORTED,
                       "%s has rope_type \"%s\": %s is not served yet; expected \"default\"", rope->label,
                       model__quote(type).s, rope_words(type));
    return 0;
}

/* Takes `key` from one more place, which must not contradict an earlier one (*n counts them).  Bounds as get_float's. */
static int merge_float(const struct doc *d, const char *key, double lo, int above, double hi, float *out,
                       int *n, struct err *e)
{
    float x;
    if (!d->root || !field(d, key))
        return 0;
    int st = get_float(d, key, lo, above, hi, &x, e);
    if (st)
        return st;
    if (*n && x != *out)
        return err_set(e, ST_FORMAT, "%s: %s is %g, but elsewhere in the file %g; expected the same",
                       d->label, key, (double) x, (double) *out);
    *out = x;
    ++*n;
    return 0;
}

/* A base below 1 would turn faster than a position a step: no model does, and its angles outgrow what sines are computed for. */
static int merge_rope(const struct doc *d, float *theta, int *n_theta, float *part, int *n_part,
                      struct err *e)
{
    int st = merge_float(d, "rope_theta", 1, 0, 1e12, theta, n_theta, e);
    return st ? st : merge_float(d, "partial_rotary_factor", 0, 1, 1, part, n_part, e);
}

static int read_rope(const struct doc *d, struct config *c, struct err *e)
{
    static const char *const keys[] = {"rope_parameters", "rope_scaling"};
    int n_theta = 0, n_part = 0;
    float part = 1;
    int st = merge_rope(d, &c->rope_theta, &n_theta, &part, &n_part, e);
    for (size_t i = 0; !st && i < 2; i++) {
        char label[256];
        struct doc rope = {.label = label};
        snprintf(label, sizeof label, "%s: %s", d->label, keys[i]);
        st = check_rope(d, keys[i], &rope, e);
        if (!st)
            st = merge_rope(&rope, &c->rope_theta, &n_theta, &part, &n_part, e);
    }
    if (!st && !n_theta)
        return refuse(d, "rope_theta", "a number >= 1, here or in rope_parameters", e);
    if (!st && part != 1)
        return err_set(e, ST_UNSUPPORTED,
                       "%s: partial_rotary_factor is %g: partial rotation is not served; expected 1",
                       d->label, (double) part);
    return st;
}

/* --- generation defaults --- */

static int read_eos(const struct doc *d, int32_t vocab, struct gen_config *g, struct err *e)
{
    const json_t *v = field(d, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : v ? 1 : 0;
    if (n > CONFIG_EOS_MAX || (json_is_array(v) && n == 0))
        return err_set(e, ST_FORMAT, "%s: eos_token_id lists %zu ids; expected 1 to %d", d->label, n,
                       CONFIG_EOS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return err_set(e, ST_FORMAT, "%s: eos_token_id is %s; expected ids from 0 to %d (vocab_size - 1)",
                           d->label, model__show(id).s, vocab - 1);
        g->eos[i] = (int32_t) json_integer_value(id);
    }
    g->n_eos = (int32_t) n;
    return 0;
}

static int read_sampling(const struct doc *d, struct gen_config *g, struct err *e)
{
    int sample, st = get_bool(d, "do_sample", 1, &sample, e);
    g->has_temperature = field(d, "temperature") != NULL;
    g->has_top_k = field(d, "top_k") != NULL;
    g->has_top_p = field(d, "top_p") != NULL;
    g->has_min_p = field(d, "min_p") != NULL;
    if (!st && g->has_temperature)
        st = get_float(d, "temperature", 0, 0, 100, &g->temperature, e);
    if (!st && g->has_top_k)
        st = get_int(d, "top_k", 0, INT32_MAX, &g->top_k, e);
    if (!st && g->has_top_p)
        st = get_float(d, "top_p", 0, 1, 1, &g->top_p, e);
    if (!st && g->has_min_p)
        st = get_float(d, "min_p", 0, 0, 1, &g->min_p, e);
    if (!st && !sample) {
        g->has_temperature = 1;
        g->temperature = 0;
    }
    return st;
}

static int check_penalty(const struct doc *d, struct err *e)
{
    const json_t *v = field(d, "repetition_penalty");
    if (v && !json_is_number(v))
        return refuse(d, "repetition_penalty", "a number", e);
    if (v && json_number_value(v) != 1)
        return not_served(d, "repetition_penalty", "a repetition penalty", "1.0", e);
    return 0;
}

static int read_gen(const struct doc *d, int32_t vocab, struct gen_config *g, struct err *e)
{
    int st = read_sampling(d, g, e);
    if (!st)
        st = check_penalty(d, e);
    return st ? st : read_eos(d, vocab, g, e);
}

/* --- the files --- */

static int read_config(const struct doc *d, struct config *c, struct err *e)
{
    static int (*const checks[])(const struct doc *, struct err *) = {
        check_model_type,   check_architecture, check_experts,
        check_quantization, check_switches,     check_activation,
    };
    static int (*const reads[])(const struct doc *, struct config *, struct err *) = {
        read_sizes,
        read_head_dim,
        read_rope,
        read_dtype,
    };
    int st = 0, tied = 0;
    for (size_t i = 0; !st && i < sizeof checks / sizeof *checks; i++)
        st = checks[i](d, e);
    for (size_t i = 0; !st && i < sizeof reads / sizeof *reads; i++)
        st = reads[i](d, c, e);
    if (!st)
        st = check_attention(d, c->n_layers, e);
    if (!st)
        st = get_float(d, "rms_norm_eps", 0, 1, 0.1, &c->rms_eps, e);
    if (!st)
        st = get_bool(d, "tie_word_embeddings", 0, &tied, e);
    c->tied = tied;
    return st;
}

int config__parse(struct config *c, struct gen_config *g, const struct model__file *config,
                  const struct model__file *gen, struct err *e)
{
    struct doc d = {.label = config->label}, dg = {.label = gen->label};
    *c = (struct config){0};
    *g = (struct gen_config){0};
    int st = model__json_object(&d.root, config->label, config->data, config->bytes, e);
    if (!st && gen->data)
        st = model__json_object(&dg.root, gen->label, gen->data, gen->bytes, e);
    if (!st)
        st = read_config(&d, c, e);
    if (!st)
        st = read_gen(dg.root ? &dg : &d, c->vocab, g, e);
    if (!st && dg.root && !g->n_eos)
        st = read_eos(&d, c->vocab, g, e);
    json_decref(d.root);
    json_decref(dg.root);
    return st;
}

static int is_gguf(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".gguf") == 0;
}

static int holds_gguf(const char *dir)
{
    DIR *d = opendir(dir);
    int found = 0;
    for (struct dirent *x; d && !found && (x = readdir(d));)
        found = is_gguf(x->d_name);
    if (d)
        closedir(d);
    return found;
}

/* A checkpoint is a directory with a config.json; what else it might be is refused by name. */
static int check_dir(const char *dir, struct err *e)
{
    struct stat s;
    struct model__text shown = model__quote(dir);
    if (stat(dir, &s) != 0)
        return err_set(e, ST_IO, "%s: %s; expected a Hugging Face directory", shown.s, strerror(errno));
    int gguf = S_ISDIR(s.st_mode) ? !model__file_exists(dir, "config.json") && holds_gguf(dir) : is_gguf(dir);
    if (gguf)
        return err_set(
            e, ST_UNSUPPORTED,
            "%s: GGUF is not served yet; expected a Hugging Face directory with config.json and safetensors",
            shown.s);
    if (!S_ISDIR(s.st_mode))
        return err_set(e, ST_IO, "%s: not a directory; expected a Hugging Face directory with config.json",
                       shown.s);
    return 0;
}

int config_load(struct config *c, struct gen_config *g, const char *dir, struct err *e)
{
    struct model__file config = {0}, gen = {0};
    int st = check_dir(dir, e);
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
