/* config_kind.c - what kind of Qwen3 config.json describes: dense or with experts, plain or FP8. */
#include <stdio.h>
#include <string.h>

#include "model/config_impl.h"

static const struct {
    const char *type, *architecture;
} kinds[] = {{"qwen3", "Qwen3ForCausalLM"}, {"qwen3_moe", "Qwen3MoeForCausalLM"}};

enum { DENSE, MOE, KINDS };

static int find_kind(const struct config__doc *d, int *out, struct err *e)
{
    const char *type;
    int st = config__string(d, "model_type", &type, e);
    if (st)
        return st;
    if (!type)
        return config__refuse(d, "model_type", "\"qwen3\" or \"qwen3_moe\"", e);
    for (*out = 0; *out < KINDS; ++*out)
        if (strcmp(type, kinds[*out].type) == 0)
            return 0;
    return err_set(
        e, ST_UNSUPPORTED,
        "%s: model_type is \"%s\": this architecture is not served; expected \"qwen3\" or \"qwen3_moe\"",
        d->label, model__quote(type).s);
}

int config__read_kind(const struct config__doc *d, struct config *c, struct err *e)
{
    int kind, st = find_kind(d, &kind, e);
    if (st)
        return st;
    const json_t *list = config__field(d, "architectures");
    const char *name = json_string_value(json_array_get(list, 0)), *want = kinds[kind].architecture;
    char expected[64];
    snprintf(expected, sizeof expected, "[\"%s\"]", want);
    if (json_array_size(list) != 1 || !name)
        return config__refuse(d, "architectures", expected, e);
    if (strcmp(name, want) != 0)
        return err_set(e, ST_UNSUPPORTED, "%s: architectures is [\"%s\"], which is not served%s; expected %s",
                       d->label, model__quote(name).s,
                       strncmp(name, "Qwen3", 5) == 0 ? " with this model_type" : "", expected);
    c->moe.n_experts = kind == MOE; /* config__read_experts counts them */
    return 0;
}

/* --- experts --- */

/* 1: key is there and neither null nor 0. */
static int is_set(const struct config__doc *d, const char *key)
{
    const json_t *v = config__field(d, key);
    return v && !(json_is_integer(v) && json_integer_value(v) == 0);
}

static int check_dense(const struct config__doc *d, struct err *e)
{
    static const char *const keys[] = {"num_experts", "num_local_experts"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (is_set(d, keys[i]))
            return config__not_served(d, keys[i], "experts in a dense model",
                                      "none, or model_type \"qwen3_moe\"", e);
    return 0;
}

/* transformers 4 and 5 spell it differently. */
static int read_count(const struct config__doc *d, int32_t *out, struct err *e)
{
    const char *key = config__field(d, "num_experts") ? "num_experts" : "num_local_experts";
    int32_t other;
    int st = config__int(d, key, 1, CONFIG_EXPERTS_MAX, out, e);
    if (st || !config__field(d, "num_local_experts"))
        return st;
    st = config__int(d, "num_local_experts", 1, CONFIG_EXPERTS_MAX, &other, e);
    if (!st && other != *out)
        st = err_set(e, ST_FORMAT, "%s: num_experts is %d but num_local_experts is %d; expected the same",
                     d->label, *out, other);
    return st;
}

/* Layer i has experts where (i + 1) divides by decoder_sparse_step and mlp_only_layers does not name it. */
static int read_layers(const struct config__doc *d, struct config *c, struct err *e)
{
    int32_t step = 1;
    const json_t *list = config__field(d, "mlp_only_layers"), *v;
    size_t k;
    int st = config__field(d, "decoder_sparse_step")
                 ? config__int(d, "decoder_sparse_step", 1, CONFIG_LAYERS_MAX, &step, e)
                 : 0;
    if (st)
        return st;
    if (list && !json_is_array(list))
        return config__refuse(d, "mlp_only_layers", "an array of layers", e);
    for (int i = 0; i < c->n_layers; i++)
        c->moe.layer[i] = (i + 1) % step == 0;
    json_array_foreach((json_t *) list, k, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= c->n_layers)
            return err_set(e, ST_FORMAT, "%s: mlp_only_layers[%zu] is %s; expected a layer from 0 to %d",
                           d->label, k, model__show(v).s, c->n_layers - 1);
        c->moe.layer[json_integer_value(v)] = 0;
    }
    return 0;
}

int config__read_experts(const struct config__doc *d, struct config *c, struct err *e)
{
    int norm;
    if (!c->moe.n_experts)
        return check_dense(d, e);
    if (is_set(d, "shared_expert_intermediate_size"))
        return config__not_served(d, "shared_expert_intermediate_size", "a shared expert", "0", e);
    int st = read_count(d, &c->moe.n_experts, e);
    if (!st)
        st = config__int(d, "num_experts_per_tok", 1, c->moe.n_experts, &c->moe.n_used, e);
    if (!st)
        st = config__int(d, "moe_intermediate_size", 1, CONFIG_FFN_MAX, &c->moe.ffn, e);
    if (!st && !config__field(d, "norm_topk_prob"))
        st = config__refuse(d, "norm_topk_prob", "true or false", e);
    if (!st)
        st = config__bool(d, "norm_topk_prob", 0, &norm, e);
    if (!st)
        c->moe.norm_topk = norm;
    return st ? st : read_layers(d, c, e);
}

/* --- FP8 --- */

static int check_block(const struct config__doc *q, struct err *e)
{
    const json_t *b = config__field(q, "weight_block_size");
    const json_int_t rows = json_integer_value(json_array_get(b, 0)),
                     cols = json_integer_value(json_array_get(b, 1));
    if (json_array_size(b) == 2 && rows == TENSOR_SCALE_BLOCK && cols == TENSOR_SCALE_BLOCK)
        return 0;
    if (json_array_size(b) != 2)
        return config__not_served(q, "weight_block_size", "one scale a tensor or a channel", "[128, 128]", e);
    return err_set(e, ST_UNSUPPORTED,
                   "%s: weight_block_size is [%lld, %lld]: such blocks are not served; expected [128, 128]",
                   q->label, (long long) rows, (long long) cols);
}

/* A stored F8 tensor and its scales say themselves what they are (model.c): the list is only checked for its form. */
static int check_list(const struct config__doc *q, const char *key, struct err *e)
{
    const json_t *list = config__field(q, key), *v;
    size_t i;
    if (list && !json_is_array(list))
        return config__refuse(q, key, "an array of module names", e);
    json_array_foreach((json_t *) list, i, v) if (!json_is_string(v)) return err_set(
        e, ST_FORMAT, "%s: %s[%zu] is %s; expected a module's name", q->label, key, i, model__show(v).s);
    return 0;
}

static int check_fp8(const struct config__doc *q, struct err *e)
{
    static const struct {
        const char *key, *served, *what;
    } list[] = {
        {"fmt", "e4m3", "this format"},
        {"activation_scheme", "dynamic", "activations with stored scales"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const char *s;
        int st = config__string(q, list[i].key, &s, e);
        if (st)
            return st;
        if (s && strcmp(s, list[i].served) != 0)
            return err_set(e, ST_UNSUPPORTED, "%s: %s is \"%s\": %s is not served; expected \"%s\"", q->label,
                           list[i].key, model__quote(s).s, list[i].what, list[i].served);
    }
    int st = check_block(q, e);
    if (!st)
        st = check_list(q, "modules_to_not_convert", e);
    return st ? st : check_list(q, "ignored_layers", e);
}

int config__read_quantization(const struct config__doc *d, struct config *c, struct err *e)
{
    char label[256];
    const json_t *v = config__field(d, "quantization_config");
    struct config__doc q = {.label = label, .root = (json_t *) v};
    if (!v)
        return 0;
    if (!json_is_object(v))
        return config__refuse(d, "quantization_config", "an object or null", e);
    snprintf(label, sizeof label, "%s: quantization_config", d->label);
    const char *method = json_string_value(config__field(&q, "quant_method"));
    if (!method || strcmp(method, "fp8") != 0)
        return err_set(
            e, ST_UNSUPPORTED,
            "%s has quant_method %s: such checkpoints are not served; expected \"fp8\", or an unquantized "
            "checkpoint",
            label, method ? model__quote(method).s : "missing");
    c->fp8 = 1;
    return check_fp8(&q, e);
}
