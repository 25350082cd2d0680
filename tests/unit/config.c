/* config.c - config.json and generation_config.json: what is read, and one case for each refusal. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "tests/lib/checkpoint.h"

struct loaded {
    int st;
    struct config c;
    struct gen_config g;
    struct err e;
};

/* Loads a directory of the two texts; NULL: that file is not written. */
static struct loaded load(const char *config, const char *gen)
{
    struct loaded l = {0};
    char *dir = checkpoint_dir_new();
    if (config)
        checkpoint_text(dir, "config.json", config);
    if (gen)
        checkpoint_text(dir, "generation_config.json", gen);
    l.st = config_load(&l.c, &l.g, dir, &l.e);
    checkpoint_dir_free(dir);
    return l;
}

/* The good config.json with `key` set to the JSON text `value`, or removed where that is NULL. */
static char *edited(const char *key, const char *value)
{
    json_t *o = json_loads(checkpoint_config, 0, NULL);
    if (value)
        json_object_set_new(o, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(o, key);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

static struct loaded load_edited(const char *key, const char *value, const char *gen)
{
    char *text = edited(key, value);
    struct loaded l = load(text, gen);
    free(text);
    return l;
}

static void must_refuse(const struct loaded *l, int status, const char *words)
{
    const char *lacks = checkpoint_lacks(&l->e, words);
    if (l->st != status)
        fail_msg("status %s, expected %s: %s", status_name(l->st), status_name(status), l->e.text);
    if (lacks)
        fail_msg("no '%s' in: %s", lacks, l->e.text);
    assert_int_equal(l->e.status, status);
}

static void reads_transformers_4(void **state)
{
    (void) state;
    struct loaded l = load(checkpoint_config, NULL);
    assert_int_equal(l.st, 0);
    assert_int_equal(l.c.n_layers, 1);
    assert_int_equal(l.c.hidden, 8);
    assert_int_equal(l.c.n_heads, 2);
    assert_int_equal(l.c.n_kv_heads, 1);
    assert_int_equal(l.c.head_dim, 6);
    assert_int_equal(l.c.ffn, 12);
    assert_int_equal(l.c.vocab, 10);
    assert_int_equal(l.c.ctx_max, 64);
    assert_true(l.c.rope_theta == 10000.0f);
    assert_true(l.c.rms_eps == 1e-6f);
    assert_int_equal(l.c.tied, 1);
    assert_string_equal(l.c.dtype, "float32");
    assert_int_equal(l.g.n_eos, 1);
    assert_int_equal(l.g.eos[0], 9);
    assert_int_equal(l.g.has_temperature | l.g.has_top_k | l.g.has_top_p | l.g.has_min_p, 0);
}

static void reads_transformers_5(void **state)
{
    (void) state;
    json_t *o = json_loads(checkpoint_config, 0, NULL);
    json_object_del(o, "rope_theta");
    json_object_del(o, "torch_dtype");
    json_object_set_new(o, "rope_parameters",
                        json_pack("{s:f, s:s}", "rope_theta", 5e6, "rope_type", "default"));
    json_object_set_new(o, "dtype", json_string("bfloat16"));
    json_object_set_new(o, "layer_types", json_pack("[s]", "full_attention"));
    char *text = json_dumps(o, 0);
    struct loaded l = load(text, NULL);
    assert_int_equal(l.st, 0);
    assert_true(l.c.rope_theta == 5e6f);
    assert_string_equal(l.c.dtype, "bfloat16");
    free(text);
    json_decref(o);
}

static void absent_fields_mean_what_transformers_takes(void **state)
{
    (void) state;
    struct loaded l = load_edited("head_dim", NULL, NULL);
    assert_int_equal(l.st, 0);
    assert_int_equal(l.c.head_dim, 4);
    l = load_edited("tie_word_embeddings", NULL, NULL);
    assert_int_equal(l.st, 0);
    assert_int_equal(l.c.tied, 0);
    l = load_edited("torch_dtype", NULL, NULL);
    assert_int_equal(l.st, 0);
    assert_string_equal(l.c.dtype, "");
    l = load_edited("hidden_act", NULL, NULL);
    assert_int_equal(l.st, 0);
    l = load_edited("eos_token_id", "null", NULL);
    assert_int_equal(l.st, 0);
    assert_int_equal(l.g.n_eos, 0);
}

/* A window that no layer uses, a plain rope_scaling, and null where a field is open are all fine. */
static void harmless_fields_are_taken(void **state)
{
    (void) state;
    static const char *const list[][2] = {
        {"sliding_window", "4096"},
        {"use_sliding_window", "true"},
        {"rope_scaling", "null"},
        {"rope_scaling", "{\"rope_type\":\"default\"}"},
        {"rope_scaling", "{\"type\":\"default\"}"},
        {"quantization_config", "null"},
        {"num_experts", "0"},
        {"partial_rotary_factor", "1.0"},
        {"use_qk_norm", "true"},
        {"rope_theta", "1000000"},
        {"layer_types", "null"},
        {"max_window_layers", "28"},
        {"pard_token", "-1"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct loaded l = load_edited(list[i][0], list[i][1], NULL);
        if (l.st)
            fail_msg("%s = %s: %s", list[i][0], list[i][1], l.e.text);
    }
}

static void reads_parallel_drafts(void **state)
{
    (void) state;
    struct loaded plain = load_edited("max_window_layers", "28", NULL);
    struct loaded none = load_edited("pard_token", "-1", NULL), pard = load_edited("pard_token", "9", NULL);
    assert_int_equal(plain.c.parallel, 0);
    assert_int_equal(none.c.parallel, 0);
    assert_int_equal(pard.c.parallel, 1);
    assert_int_equal(pard.c.pard_token, 9);
}

static void generation_config_wins(void **state)
{
    (void) state;
    struct loaded l = load(checkpoint_config,
                           "{\"do_sample\":true,\"temperature\":0.6,\"top_k\":20,\"top_p\":0.95,\"min_p\":0,"
                           "\"eos_token_id\":[3,9],\"repetition_penalty\":1.0}");
    assert_int_equal(l.st, 0);
    assert_int_equal(l.g.n_eos, 2);
    assert_int_equal(l.g.eos[0], 3);
    assert_int_equal(l.g.eos[1], 9);
    assert_true(l.g.has_temperature && l.g.has_top_k && l.g.has_top_p && l.g.has_min_p);
    assert_true(l.g.temperature == 0.6f && l.g.top_k == 20 && l.g.top_p == 0.95f && l.g.min_p == 0);
}

static void generation_defaults_left_open(void **state)
{
    (void) state;
    struct loaded l = load_edited("temperature", "0.5", "{\"top_p\":null}");
    assert_int_equal(l.st, 0);
    assert_int_equal(l.g.has_temperature, 0); /* the generation file is there, so config.json is not asked */
    assert_int_equal(l.g.has_top_p, 0);
    assert_int_equal(l.g.n_eos, 1); /* but for the end of text, which it leaves open */
    assert_int_equal(l.g.eos[0], 9);
    l = load_edited("temperature", "0.5", NULL);
    assert_int_equal(l.st, 0);
    assert_true(l.g.has_temperature && l.g.temperature == 0.5f);
    l = load(checkpoint_config, "{\"do_sample\":false,\"temperature\":0.6,\"top_p\":0.9}");
    assert_int_equal(l.st, 0);
    assert_true(l.g.has_temperature && l.g.temperature == 0);
    assert_true(l.g.has_top_p && l.g.top_p == 0.9f);
}

#define FP8(more)  "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]," more "}"
#define YARN(more) "{\"rope_type\":\"yarn\"," more "}"

/* One edited field of config.json a case. */
static void refuses_fields(void **state)
{
    (void) state;
    static const struct {
        const char *key, *value;
        int status;
        const char *words; /* beside the file's and the field's name */
    } list[] = {
        {"model_type", NULL, ST_FORMAT, "missing|\"qwen3\" or \"qwen3_moe\""},
        {"model_type", "3", ST_FORMAT, "is 3|expected a string"},
        {"model_type", "\"llama\"", ST_UNSUPPORTED, "\"llama\"|\"qwen3\" or \"qwen3_moe\""},

        {"architectures", NULL, ST_FORMAT, "missing|Qwen3ForCausalLM"},
        {"architectures", "\"Qwen3ForCausalLM\"", ST_FORMAT, "expected [\"Qwen3ForCausalLM\"]"},
        {"architectures", "[]", ST_FORMAT, "expected [\"Qwen3ForCausalLM\"]"},
        {"architectures", "[1]", ST_FORMAT, "expected [\"Qwen3ForCausalLM\"]"},
        {"architectures", "[\"LlamaForCausalLM\"]", ST_UNSUPPORTED, "LlamaForCausalLM|expected"},
        {"architectures", "[\"Qwen3MoeForCausalLM\"]", ST_UNSUPPORTED,
         "Qwen3MoeForCausalLM|with this model_type|expected [\"Qwen3ForCausalLM\"]"},
        {"num_experts", "128", ST_UNSUPPORTED, "128|experts in a dense model"},
        {"num_local_experts", "8", ST_UNSUPPORTED, "8|experts in a dense model"},
        {"quantization_config", "{\"quant_method\":\"fp8\"}", ST_UNSUPPORTED,
         "weight_block_size|missing|[128, 128]"},
        {"quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,64]}", ST_UNSUPPORTED,
         "[128, 64]|expected [128, 128]"},
        {"quantization_config", FP8("\"fmt\":\"e5m2\""), ST_UNSUPPORTED, "\"e5m2\"|expected \"e4m3\""},
        {"quantization_config", FP8("\"fmt\":8"), ST_FORMAT, "fmt is 8|expected a string"},
        {"quantization_config", FP8("\"activation_scheme\":\"static\""), ST_UNSUPPORTED,
         "\"static\"|expected \"dynamic\""},
        {"quantization_config", FP8("\"modules_to_not_convert\":\"lm_head\""), ST_FORMAT,
         "modules_to_not_convert|expected an array"},
        {"quantization_config", FP8("\"modules_to_not_convert\":[1]"), ST_FORMAT,
         "modules_to_not_convert[0] is 1"},
        {"quantization_config", "7", ST_FORMAT, "is 7|expected an object"},
        {"quantization_config", "{\"quant_method\":\"awq\"}", ST_UNSUPPORTED, "awq|expected"},
        {"quantization_config", "{}", ST_UNSUPPORTED, "quant_method"},
        {"attention_bias", "true", ST_UNSUPPORTED, "bias|expected false"},
        {"attention_bias", "0", ST_FORMAT, "is 0|expected true or false"},
        {"qkv_bias", "true", ST_UNSUPPORTED, "bias|expected false"},
        {"mlp_bias", "true", ST_UNSUPPORTED, "bias|expected false"},
        {"use_qk_norm", "false", ST_UNSUPPORTED, "q_norm|expected true"},
        {"hidden_act", "\"gelu\"", ST_UNSUPPORTED, "\"gelu\"|expected \"silu\""},
        {"hidden_act", "1", ST_FORMAT, "is 1|expected a string"},
        {"pard_token", "10", ST_FORMAT, "is 10|from -1 to 9"},
        {"pard_token", "true", ST_FORMAT, "expected an integer"},
        {"num_hidden_layers", NULL, ST_FORMAT, "missing|expected an integer from 1 to 1024"},
        {"num_hidden_layers", "0", ST_FORMAT, "is 0|expected an integer from 1"},
        {"num_hidden_layers", "-3", ST_FORMAT, "is -3"},
        {"num_hidden_layers", "1000000000", ST_FORMAT, "is 1000000000|to 1024"},
        {"num_hidden_layers", "9223372036854775807", ST_FORMAT, "is 9223372036854775807|to 1024"},
        {"num_hidden_layers", "1.0", ST_FORMAT, "is 1.0|expected an integer"},
        {"num_hidden_layers", "\"1\"", ST_FORMAT, "is \"1\"|expected an integer"},
        {"num_hidden_layers", "true", ST_FORMAT, "is true|expected an integer"},
        {"num_hidden_layers", "null", ST_FORMAT, "is null|expected an integer"},
        {"num_hidden_layers", "[1]", ST_FORMAT, "is an array|expected an integer"},
        {"hidden_size", "0", ST_FORMAT, "is 0|expected an integer from 1"},
        {"hidden_size", "2147483648", ST_FORMAT, "is 2147483648|expected"},
        {"num_attention_heads", "0", ST_FORMAT, "is 0"},
        {"num_attention_heads", "4097", ST_FORMAT, "is 4097|to 4096"},
        {"num_key_value_heads", NULL, ST_FORMAT, "missing"},
        {"num_key_value_heads", "3", ST_FORMAT, "is 3|divisor of num_attention_heads, which is 2"},
        {"intermediate_size", "0", ST_FORMAT, "is 0"},
        {"vocab_size", "16777217", ST_FORMAT, "is 16777217|to 16777216"},
        {"max_position_embeddings", "0", ST_FORMAT, "is 0"},
        {"head_dim", "5", ST_FORMAT, "is 5|even"},
        {"head_dim", "258", ST_FORMAT, "is 258|to 256"},
        {"head_dim", "0", ST_FORMAT, "is 0|from 2"},
        {"rope_theta", NULL, ST_FORMAT, "missing|rope_parameters"},
        {"rope_theta", "0", ST_FORMAT, "is 0|>= 1"},
        {"rope_theta", "-1.5", ST_FORMAT, "is -1.5|>= 1"},
        {"rope_theta", "1e-30", ST_FORMAT, "is 1e-30|>= 1"},
        {"rope_theta", "1e300", ST_FORMAT, "is 1e300|<="},
        {"rope_theta", "\"1e6\"", ST_FORMAT, "is \"1e6\"|expected a number"},
        {"rope_scaling", YARN("\"factor\":1"), ST_FORMAT, "factor is 1|> 1"},
        {"rope_scaling", YARN("\"factor\":1e9"), ST_FORMAT, "factor is|<= 1024"},
        {"rope_scaling", YARN("\"factor\":\"4\""), ST_FORMAT, "factor is \"4\"|expected a number"},
        {"rope_scaling", YARN("\"original_max_position_embeddings\":64"), ST_FORMAT, "factor is missing|> 1"},
        {"rope_scaling", YARN("\"factor\":2,\"original_max_position_embeddings\":0"), ST_FORMAT,
         "original_max_position_embeddings is 0"},
        {"rope_scaling", YARN("\"factor\":1024,\"original_max_position_embeddings\":16777216"), ST_FORMAT,
         "reaches position|at most 16777216"},
        {"rope_scaling", YARN("\"factor\":2,\"beta_fast\":0"), ST_FORMAT, "beta_fast is 0|> 0"},
        {"rope_scaling", YARN("\"factor\":2,\"beta_fast\":1,\"beta_slow\":2"), ST_FORMAT,
         "beta_fast is 1|beta_slow 2"},
        {"rope_scaling", YARN("\"factor\":2,\"truncate\":1"), ST_FORMAT, "truncate is 1|true or false"},
        {"rope_scaling", YARN("\"factor\":2,\"twist\":1"), ST_UNSUPPORTED, "twist is 1|field of YaRN"},
        {"rope_scaling", "{\"rope_type\":\"llama3\"}", ST_UNSUPPORTED, "Llama 3|\"default\" or \"yarn\""},
        {"rope_scaling", "{\"type\":\"linear\"}", ST_UNSUPPORTED, "linear"},
        {"rope_scaling", "{\"rope_type\":\"dynamic\"}", ST_UNSUPPORTED, "dynamic"},
        {"rope_scaling", "{\"rope_type\":\"spiral\"}", ST_UNSUPPORTED, "spiral|\"default\""},
        {"rope_scaling", "{\"rope_type\":7}", ST_FORMAT, "rope_type is 7|expected a string"},
        {"rope_scaling", "4", ST_FORMAT, "is 4|expected an object"},
        {"rope_parameters", "{\"rope_type\":\"yarn\"}", ST_FORMAT, "factor is missing"},
        {"rope_parameters", "{\"rope_theta\":500}", ST_FORMAT, "rope_theta is 500|10000|expected the same"},
        {"rope_parameters", "{\"rope_theta\":[]}", ST_FORMAT, "rope_theta is an array|expected a number"},
        {"partial_rotary_factor", "0.5", ST_UNSUPPORTED, "0.5|expected 1"},
        {"rms_norm_eps", NULL, ST_FORMAT, "missing"},
        {"rms_norm_eps", "0", ST_FORMAT, "is 0|> 0"},
        {"rms_norm_eps", "1e-60", ST_FORMAT, "> 0"},
        {"rms_norm_eps", "2", ST_FORMAT, "is 2|<= 0.1"},
        {"tie_word_embeddings", "\"yes\"", ST_FORMAT, "is \"yes\"|true or false"},

        {"torch_dtype", "\"float8_e4m3fn\"", ST_UNSUPPORTED, "\"bfloat16\", \"float16\" or \"float32\""},
        {"torch_dtype", "\"int8\"", ST_UNSUPPORTED, "\"int8\""},
        {"torch_dtype", "16", ST_FORMAT, "is 16|expected a string"},
        {"dtype", "\"bfloat16\"", ST_FORMAT, "\"bfloat16\"|torch_dtype is \"float32\""},
        {"dual_chunk_attention_config", "{\"chunk_size\":131072}", ST_UNSUPPORTED, "dual chunk attention"},
        {"use_sliding_window", "1", ST_FORMAT, "is 1|true or false"},
        {"layer_types", "[\"sliding_attention\"]", ST_UNSUPPORTED,
         "[0]|\"sliding_attention\"|full_attention"},
        {"layer_types", "[]", ST_FORMAT, "0|1 times"},
        {"layer_types", "\"full_attention\"", ST_FORMAT, "expected 1 times"},
        {"layer_types", "[0]", ST_FORMAT, "[0] is 0"},
        {"eos_token_id", "10", ST_FORMAT, "is 10|from 0 to 9"},
        {"eos_token_id", "-1", ST_FORMAT, "is -1"},
        {"eos_token_id", "\"</s>\"", ST_FORMAT, "</s>|ids"},
        {"eos_token_id", "[]", ST_FORMAT, "0 ids|1 to 16"},
        {"eos_token_id", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", ST_FORMAT, "17 ids|1 to 16"},
        {"temperature", "-0.1", ST_FORMAT, "is -0.1|>= 0"},
        {"repetition_penalty", "0", ST_FORMAT, "is 0|> 0"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct loaded l = load_edited(list[i].key, list[i].value, NULL);
        if (checkpoint_lacks(&l.e, list[i].key))
            fail_msg("no '%s' in: %s", list[i].key, l.e.text);
        must_refuse(&l, list[i].status, "/config.json: ");
        must_refuse(&l, list[i].status, list[i].words);
    }
}

static void refuses_generation_fields(void **state)
{
    (void) state;
    static const struct {
        const char *gen;
        int status;
        const char *words;
    } list[] = {
        {"{\"temperature\":-1}", ST_FORMAT, "temperature is -1|>= 0"},
        {"{\"temperature\":\"hot\"}", ST_FORMAT, "temperature is \"hot\"|expected a number"},
        {"{\"temperature\":1e9}", ST_FORMAT, "temperature is|<= 100"},
        {"{\"top_k\":-1}", ST_FORMAT, "top_k is -1|from 0"},
        {"{\"top_k\":0.5}", ST_FORMAT, "top_k is 0.5|integer"},
        {"{\"top_p\":0}", ST_FORMAT, "top_p is 0|> 0"},
        {"{\"top_p\":1.5}", ST_FORMAT, "top_p is 1.5|<= 1"},
        {"{\"min_p\":2}", ST_FORMAT, "min_p is 2|<= 1"},
        {"{\"do_sample\":1}", ST_FORMAT, "do_sample is 1|true or false"},
        {"{\"eos_token_id\":[1,99]}", ST_FORMAT, "eos_token_id is 99|from 0 to 9"},
        {"{\"repetition_penalty\":-1}", ST_FORMAT, "repetition_penalty is -1|> 0"},
        {"{\"repetition_penalty\":\"x\"}", ST_FORMAT, "repetition_penalty is \"x\"|expected a number"},
        {"{\"top_k\":1,\"top_k\":2}", ST_FORMAT, "malformed JSON|duplicate|top_k"},
        {"[]", ST_FORMAT, "array|expected an object"},
        {"{", ST_FORMAT, "malformed JSON at line 1"},
        {"", ST_FORMAT, "empty"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct loaded l = load(checkpoint_config, list[i].gen);
        must_refuse(&l, list[i].status, "/generation_config.json: ");
        must_refuse(&l, list[i].status, list[i].words);
    }
}

static void refuses_malformed_json(void **state)
{
    (void) state;
    static const struct {
        const char *text, *words;
    } list[] = {
        {"", "the file is empty"},
        {"   ", "malformed JSON"},
        {"[1]", "an array|expected an object"},
        {"7", "malformed JSON"},
        {"{\"model_type\":\"qwen3\"", "malformed JSON at line 1, column"},
        {"{\"model_type\":\"qwen3\"} x", "malformed JSON|end of file"},
        {"{\"a\":1,\"a\":1}", "duplicate|a"},
        {"{\"x\":{\"b\":1,\"b\":2}}", "duplicate|b"},
        {"{\"a\":NaN}", "malformed JSON"},
        {"{\"a\":99999999999999999999}", "malformed JSON|too big integer"},
        {"{\"a\":1e999}", "malformed JSON|overflow"},
        {"{\"a\":\"\xff\"}", "malformed JSON"},
        {"{\"a\":\"\\u0000\"}", "malformed JSON"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct loaded l = load(list[i].text, NULL);
        must_refuse(&l, ST_FORMAT, "/config.json: ");
        must_refuse(&l, ST_FORMAT, list[i].words);
    }
}

static void refuses_deep_and_long_json(void **state)
{
    (void) state;
    size_t n = (16 << 20) + 1;
    char *text = malloc(n + 1);
    memset(text, ' ', n);
    text[n] = 0;
    struct loaded l = load(text, NULL);
    must_refuse(&l, ST_FORMAT, "/config.json: |16777217 bytes|at most 16777216");
    memset(text, '[', 100000);
    text[100000] = 0;
    l = load(text, NULL);
    must_refuse(&l, ST_FORMAT, "/config.json: |malformed JSON|depth");
    free(text);
}

/* Fields that hold one another up. */
static void refuses_pairs(void **state)
{
    (void) state;
    static const struct {
        const char *text, *words;
        int status;
    } list[] = {
        {"\"use_sliding_window\":true,\"sliding_window\":4096", "use_sliding_window is true|sliding window",
         ST_UNSUPPORTED},
        {"\"rope_parameters\":{\"rope_theta\":10000.0,\"partial_rotary_factor\":0.25}",
         "partial_rotary_factor is 0.25", ST_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char text[2048];
        snprintf(text, sizeof text, "{%s,%s", list[i].text, checkpoint_config + 1);
        struct loaded l = load(text, NULL);
        must_refuse(&l, list[i].status, list[i].words);
    }
    char *text = edited("num_attention_heads", "3");
    json_t *o = json_loads(text, 0, NULL);
    json_object_del(o, "head_dim");
    free(text);
    text = json_dumps(o, 0);
    struct loaded l = load(text, NULL);
    must_refuse(&l, ST_FORMAT, "/config.json: |head_dim is missing|8 / 3");
    free(text);
    json_decref(o);
}

static void refuses_what_is_no_checkpoint(void **state)
{
    (void) state;
    struct loaded l = load(NULL, NULL);
    must_refuse(&l, ST_IO, "holds no config.json|expected a Hugging Face directory");
    struct err e = {0};
    assert_int_equal(config_load(&l.c, &l.g, "/nonexistent/checkpoint", &e), ST_IO);
    assert_null(checkpoint_lacks(&e, "/nonexistent/checkpoint|expected a Hugging Face directory"));
    char *dir = checkpoint_dir_new(), path[600];
    checkpoint_text(dir, "model.gguf", "GGUF");
    assert_int_equal(config_load(&l.c, &l.g, dir, &e), ST_FORMAT);
    assert_null(checkpoint_lacks(&e, "model.gguf|truncated|version"));
    checkpoint_text(dir, "other.gguf", "GGUF");
    assert_int_equal(config_load(&l.c, &l.g, dir, &e), ST_INPUT);
    assert_null(checkpoint_lacks(&e, "2 .gguf files|name one"));
    checkpoint_text(dir, "notes.txt", "x");
    snprintf(path, sizeof path, "%s/notes.txt", dir);
    assert_int_equal(config_load(&l.c, &l.g, path, &e), ST_FORMAT);
    assert_null(checkpoint_lacks(&e, "notes.txt|expected a GGUF file"));
    checkpoint_dir_free(dir);
}

/* --- experts --- */

static const char moe_keys[] =
    "\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"],"
    "\"num_experts_per_tok\":2,\"moe_intermediate_size\":6,\"norm_topk_prob\":true,"
    "\"num_hidden_layers\":6";

/* The good config.json as a mixture of six layers, with further keys, which win. */
static struct loaded load_moe(const char *more)
{
    char part[1024];
    json_t *o = json_loads(checkpoint_config, 0, NULL);
    for (int i = 0; i < 2; i++) {
        snprintf(part, sizeof part, "{%s}", i == 0 ? moe_keys : more);
        json_t *x = json_loads(part, 0, NULL);
        assert_non_null(x);
        json_object_update(o, x);
        json_decref(x);
    }
    char *text = json_dumps(o, 0);
    struct loaded l = load(text, NULL);
    free(text);
    json_decref(o);
    return l;
}

static void reads_experts(void **state)
{
    (void) state;
    static const struct {
        const char *more, *layers;
    } list[] = {
        {"\"num_experts\":4", "111111"},
        {"\"num_local_experts\":4", "111111"},
        {"\"num_experts\":4,\"num_local_experts\":4,\"shared_expert_intermediate_size\":0", "111111"},
        {"\"num_experts\":4,\"decoder_sparse_step\":2", "010101"},
        {"\"num_experts\":4,\"decoder_sparse_step\":3,\"mlp_only_layers\":[5]", "001000"},
        {"\"num_experts\":4,\"mlp_only_layers\":[0,3,3]", "011011"},
        {"\"num_experts\":4,\"mlp_only_layers\":null,\"decoder_sparse_step\":null", "111111"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct loaded l = load_moe(list[i].more);
        if (l.st)
            fail_msg("%s: %s", list[i].more, l.e.text);
        assert_true(l.c.moe.n_experts == 4 && l.c.moe.n_used == 2 && l.c.moe.ffn == 6 &&
                    l.c.moe.norm_topk == 1);
        for (int k = 0; k < 6; k++)
            assert_int_equal(l.c.moe.layer[k], list[i].layers[k] - '0');
    }
}

static void refuses_experts(void **state)
{
    (void) state;
    static const struct {
        const char *more, *words;
        int status;
    } list[] = {
        {"\"num_experts\":null", "num_local_experts is missing", ST_FORMAT},
        {"\"num_experts\":1025", "num_experts is 1025|to 1024", ST_FORMAT},
        {"\"num_experts\":4,\"num_local_experts\":8", "num_experts is 4|num_local_experts is 8", ST_FORMAT},
        {"\"num_experts\":4,\"num_experts_per_tok\":5", "num_experts_per_tok is 5|from 1 to 4", ST_FORMAT},
        {"\"num_experts\":4,\"num_experts_per_tok\":0", "num_experts_per_tok is 0", ST_FORMAT},
        {"\"num_experts\":4,\"moe_intermediate_size\":null", "moe_intermediate_size", ST_FORMAT},
        {"\"num_experts\":4,\"norm_topk_prob\":null", "norm_topk_prob|true or false", ST_FORMAT},
        {"\"num_experts\":4,\"decoder_sparse_step\":0", "decoder_sparse_step is 0", ST_FORMAT},
        {"\"num_experts\":4,\"mlp_only_layers\":[6]", "mlp_only_layers[0] is 6|from 0 to 5", ST_FORMAT},
        {"\"num_experts\":4,\"mlp_only_layers\":[-1]", "mlp_only_layers[0] is -1", ST_FORMAT},
        {"\"num_experts\":4,\"mlp_only_layers\":1", "mlp_only_layers is 1|an array", ST_FORMAT},
        {"\"num_experts\":4,\"shared_expert_intermediate_size\":512", "512|shared expert", ST_UNSUPPORTED},
        {"\"num_experts\":4,\"architectures\":[\"Qwen3ForCausalLM\"]", "Qwen3MoeForCausalLM", ST_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct loaded l = load_moe(list[i].more);
        must_refuse(&l, list[i].status, list[i].words);
    }
}

/* --- YaRN and FP8 --- */

static void reads_yarn(void **state)
{
    (void) state;
    struct loaded l =
        load_edited("rope_scaling", YARN("\"factor\":4.0,\"original_max_position_embeddings\":32"), NULL);
    assert_int_equal(l.st, 0);
    assert_true(l.c.yarn.factor == 4 && l.c.yarn.original_ctx == 32 && l.c.yarn.truncate == 1);
    assert_true(l.c.yarn.beta_fast == 32 && l.c.yarn.beta_slow == 1);
    assert_true(l.c.yarn.attention_factor == 1.1386294f); /* 0.1 ln 4 + 1 */
    assert_int_equal(l.c.ctx_max, 128);                   /* more than max_position_embeddings says */
    l = load_edited(
        "rope_scaling",
        "{\"type\":\"yarn\",\"factor\":2,\"attention_factor\":1.5,\"beta_fast\":16,\"beta_slow\":2,"
        "\"truncate\":false}",
        NULL);
    assert_int_equal(l.st, 0);
    assert_true(l.c.yarn.original_ctx == 64 && l.c.yarn.attention_factor == 1.5f && !l.c.yarn.truncate);
    assert_true(l.c.yarn.beta_fast == 16 && l.c.yarn.beta_slow == 2);
    l = load_edited("rope_scaling", YARN("\"original_max_position_embeddings\":16"), NULL);
    assert_int_equal(l.st, 0);
    assert_true(l.c.yarn.factor == 4); /* 64 / 16 */
    l = load_edited("rope_scaling", YARN("\"factor\":4,\"mscale\":0.5,\"mscale_all_dim\":1"), NULL);
    assert_int_equal(l.st, 0);
    assert_true(l.c.yarn.attention_factor > 0.9391f && l.c.yarn.attention_factor < 0.9392f);
    l = load_edited("rope_scaling", "{\"rope_type\":\"default\"}", NULL);
    assert_true(l.st == 0 && l.c.yarn.factor == 0 && l.c.ctx_max == 64);
}

static void both_spellings_of_yarn_agree(void **state)
{
    (void) state;
    char text[2048];
    struct loaded l;
    static const char *const second[] = {"4", "2"};
    for (int i = 0; i < 2; i++) {
        snprintf(
            text, sizeof text,
            "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4},\"rope_parameters\":{\"rope_type\":\"yarn\","
            "\"factor\":%s},%s",
            second[i], checkpoint_config + 1);
        l = load(text, NULL);
        if (i == 0)
            assert_true(l.st == 0 && l.c.yarn.factor == 4);
        else
            must_refuse(&l, ST_FORMAT, "scale positions differently");
    }
}

static void reads_fp8_f16_and_the_penalty(void **state)
{
    (void) state;
    struct loaded l = load_edited(
        "quantization_config",
        FP8("\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\",\"modules_to_not_convert\":[\"lm_head\"]"),
        NULL);
    assert_true(l.st == 0 && l.c.fp8 == 1);
    l = load_edited("torch_dtype", "\"float16\"", NULL);
    assert_int_equal(l.st, 0);
    assert_string_equal(l.c.dtype, "float16");
    l = load(checkpoint_config, "{\"repetition_penalty\":1.05}");
    assert_true(l.st == 0 && l.g.has_repetition_penalty && l.g.repetition_penalty == 1.05f);
    l = load(checkpoint_config, "{\"repetition_penalty\":1.0}");
    assert_true(l.st == 0 && !l.g.has_repetition_penalty && l.g.repetition_penalty == 1);
}

/* The 2507 models: a long context and another theta; Coder's extra keys change nothing. */
static void reads_2507(void **state)
{
    (void) state;
    char text[2048];
    struct loaded l = load_edited("max_position_embeddings", "262144", NULL);
    assert_true(l.st == 0 && l.c.ctx_max == 262144);
    l = load_edited("rope_theta", "10000000", NULL);
    assert_true(l.st == 0 && l.c.rope_theta == 1e7f);
    snprintf(text, sizeof text,
             "{\"qkv_bias\":false,\"use_qk_norm\":true,\"shared_expert_intermediate_size\":0,\"output_router_"
             "logits\":false,"
             "\"router_aux_loss_coef\":0.0,%s",
             checkpoint_config + 1);
    l = load(text, NULL);
    assert_int_equal(l.st, 0);
}

/* A name from outside must not carry control sequences into the sentence. */
static void sentences_are_printable(void **state)
{
    (void) state;
    struct loaded l = load_edited("model_type", "\"\\u001b[31mred\"", NULL);
    must_refuse(&l, ST_UNSUPPORTED, "model_type");
    for (const char *p = l.e.text; *p; p++)
        assert_true((unsigned char) *p >= 0x20);
    l = load_edited("architectures", "[\"\\u001b[31mred\"]", NULL);
    must_refuse(&l, ST_UNSUPPORTED, "?[31mred");
}

static void reads_qwens_own_file(void **state)
{
    (void) state;
    struct config c;
    struct gen_config g;
    struct err e = {0};
    const char *dir = checkpoint_shared("qwen3");
    if (!dir)
        skip();
    if (config_load(&c, &g, dir, &e))
        fail_msg("%s", e.text);
    assert_int_equal(c.n_layers, 28);
    assert_int_equal(c.hidden, 1024);
    assert_int_equal(c.n_heads, 16);
    assert_int_equal(c.n_kv_heads, 8);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.ffn, 3072);
    assert_int_equal(c.vocab, 151936);
    assert_int_equal(c.ctx_max, 40960);
    assert_true(c.rope_theta == 1e6f && c.tied);
    assert_int_equal(g.n_eos, 2);
    assert_int_equal(g.eos[0], 151645);
    assert_int_equal(g.eos[1], 151643);
    assert_true(g.temperature == 0.6f && g.top_k == 20 && g.top_p == 0.95f && !g.has_min_p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_transformers_4),
        cmocka_unit_test(reads_transformers_5),
        cmocka_unit_test(absent_fields_mean_what_transformers_takes),
        cmocka_unit_test(harmless_fields_are_taken),
        cmocka_unit_test(reads_parallel_drafts),
        cmocka_unit_test(generation_config_wins),
        cmocka_unit_test(generation_defaults_left_open),
        cmocka_unit_test(refuses_fields),
        cmocka_unit_test(refuses_generation_fields),
        cmocka_unit_test(refuses_malformed_json),
        cmocka_unit_test(refuses_deep_and_long_json),
        cmocka_unit_test(refuses_pairs),
        cmocka_unit_test(refuses_what_is_no_checkpoint),
        cmocka_unit_test(reads_experts),
        cmocka_unit_test(refuses_experts),
        cmocka_unit_test(reads_yarn),
        cmocka_unit_test(both_spellings_of_yarn_agree),
        cmocka_unit_test(reads_fp8_f16_and_the_penalty),
        cmocka_unit_test(reads_2507),
        cmocka_unit_test(sentences_are_printable),
        cmocka_unit_test(reads_qwens_own_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
