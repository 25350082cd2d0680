/* model.c - a checkpoint opened: every tensor found with its shape and type, or refused by name. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "tests/lib/checkpoint.h"

#define SINGLE "model.safetensors"
#define INDEX  "model.safetensors.index.json"

static struct model *must_open(const char *dir)
{
    struct model *m;
    struct err e = {0};
    if (model_open(&m, dir, &e))
        fail_msg("%s", e.text);
    return m;
}

static void must_refuse(const char *dir, int status, const char *words)
{
    struct model *m = (struct model *) &status;
    struct err e = {0};
    int st = model_open(&m, dir, &e);
    const char *lacks = checkpoint_lacks(&e, words);
    if (st != status)
        fail_msg("status %s, expected %s with '%s': %s", status_name(st), status_name(status), words, e.text);
    if (lacks)
        fail_msg("no '%s' in: %s", lacks, e.text);
    assert_int_equal(e.status, status);
    assert_null(m);
}

static struct checkpoint_tensor *named(struct checkpoint_tensor *t, const char *name)
{
    for (int i = 0; i < CHECKPOINT_TENSORS; i++)
        if (strcmp(t[i].name, name) == 0)
            return &t[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static uint64_t hash_of(const char *dir)
{
    struct model *m = must_open(dir);
    uint64_t h = m->weights_hash;
    model_close(m);
    return h;
}

/* config.json with one text replaced by another. */
static void config_replace(const char *dir, const char *from, const char *to)
{
    char text[2048];
    const char *at = strstr(checkpoint_config, from);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int) (at - checkpoint_config), checkpoint_config, to,
             at + strlen(from));
    checkpoint_text(dir, "config.json", text);
}

static void finds_every_tensor(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *dir = checkpoint_dir_new(), slashes[600];
    int n = checkpoint_tensors(t);
    checkpoint_text(dir, "config.json", checkpoint_config);
    checkpoint_tensors_write(dir, SINGLE, t, n - 1, 0);
    snprintf(slashes, sizeof slashes, "%s//", dir);
    struct model *m = must_open(slashes);
    const struct layer_tensors *l = &m->layer[0];
    assert_string_equal(m->dir, dir);
    assert_string_equal(m->embed->name, "model.embed_tokens.weight");
    assert_ptr_equal(m->head, m->embed);
    assert_string_equal(m->norm->name, "model.norm.weight");
    const struct tensor *got[] = {l->attn_norm, l->q,        l->k,    l->v,  l->q_norm, l->k_norm,
                                  l->o,         l->ffn_norm, l->gate, l->up, l->down};
    for (int i = 0; i < 11; i++) {
        assert_string_equal(got[i]->name, t[i + 1].name);
        assert_int_equal(got[i]->dim[0], t[i + 1].dim[0]);
        assert_int_equal(got[i]->n_dims, t[i + 1].n_dims);
    }
    model_close(m);
    checkpoint_dir_free(dir);
}

/* One changed tensor a case. */
static void refuses_tensors(void **state)
{
    (void) state;
    static const struct {
        const char *name;
        struct checkpoint_tensor as; /* dtype "": left out; its name, if any, replaces the tensor's */
        int status;
        const char *words; /* beside the tensor's name */
    } list[] = {
        {"model.embed_tokens.weight", {"", "", {0}, 0}, ST_FORMAT, "is missing|[10, 8]"},
        {"model.norm.weight", {"", "", {0}, 0}, ST_FORMAT, "is missing|[8]"},
        {"model.layers.0.input_layernorm.weight", {"", "", {0}, 0}, ST_FORMAT, "is missing|[8]"},
        {"model.layers.0.self_attn.q_norm.weight", {"", "", {0}, 0}, ST_FORMAT, "is missing|[6]"},
        {"model.layers.0.mlp.down_proj.weight", {"", "", {0}, 0}, ST_FORMAT, "is missing|[8, 12]"},
        {"model.embed_tokens.weight", {"", "F32", {9, 8}, 2}, ST_FORMAT, SINGLE "|[9, 8]|makes it [10, 8]"},
        {"model.layers.0.self_attn.q_proj.weight",
         {"", "F32", {8, 12}, 2},
         ST_FORMAT,
         SINGLE "|[8, 12]|[12, 8]"},
        {"model.layers.0.self_attn.k_proj.weight",
         {"", "F32", {12, 8}, 2},
         ST_FORMAT,
         SINGLE "|[12, 8]|[6, 8]"},
        {"model.layers.0.self_attn.v_proj.weight", {"", "F32", {48}, 1}, ST_FORMAT, SINGLE "|[48]|[6, 8]"},
        {"model.layers.0.self_attn.k_norm.weight",
         {"", "F32", {6, 1}, 2},
         ST_FORMAT,
         SINGLE "|[6, 1]|makes it [6]"},
        {"model.layers.0.self_attn.o_proj.weight",
         {"", "F32", {8, 12, 1}, 3},
         ST_FORMAT,
         SINGLE "|[8, 12, 1]|[8, 12]"},
        {"model.norm.weight", {"", "F32", {0}, 0}, ST_FORMAT, SINGLE "|shape []|makes it [8]"},
        {"model.layers.0.mlp.up_proj.weight", {"", "F16", {12, 8}, 2}, ST_FORMAT, SINGLE "|F16|expected F32"},
        {"model.layers.0.mlp.up_proj.weight",
         {"", "F8_E4M3", {12, 8}, 2},
         ST_FORMAT,
         SINGLE "|F8_E4M3|no quantization_config"},
        {"model.embed_tokens.weight",
         {"", "F8_E4M3", {10, 8}, 2},
         ST_UNSUPPORTED,
         SINGLE "|F8_E4M3|expected F32, BF16 or F16"},
        {"model.norm.weight", {"", "I32", {8}, 1}, ST_UNSUPPORTED, SINGLE "|I32|expected F32, BF16 or F16"},
        {"model.layers.0.mlp.up_proj.weight",
         {"", "I32", {12, 8}, 2},
         ST_UNSUPPORTED,
         SINGLE "|I32|or F8_E4M3"},
        {"model.layers.0.mlp.up_proj.weight",
         {"", "BF16", {12, 8}, 2},
         ST_FORMAT,
         SINGLE "|BF16|expected F32"},
        {"lm_head.weight",
         {"model.layers.1.input_layernorm.weight", "F32", {8}, 1},
         ST_FORMAT,
         SINGLE "|model.layers.1.input_layernorm.weight|no part of the dense Qwen3 of 1 layers"},
        {"lm_head.weight",
         {"model.layers.0.self_attn.q_proj.bias", "F32", {12}, 1},
         ST_FORMAT,
         SINGLE "|model.layers.0.self_attn.q_proj.bias|no part of"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct checkpoint_tensor t[CHECKPOINT_TENSORS];
        char *dir = checkpoint_dir_new();
        int n = checkpoint_tensors(t), renamed = list[i].as.name[0] != 0;
        struct checkpoint_tensor *x = named(t, list[i].name);
        *x = list[i].as;
        if (!renamed)
            strcpy(x->name, list[i].name);
        checkpoint_text(dir, "config.json", checkpoint_config);
        checkpoint_tensors_write(dir, SINGLE, t, n, 0);
        must_refuse(dir, list[i].status, renamed ? SINGLE : list[i].name);
        must_refuse(dir, list[i].status, list[i].words);
        checkpoint_dir_free(dir);
    }
}

static void tied_and_untied(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *dir = checkpoint_dir_new();
    int n = checkpoint_tensors(t);
    checkpoint_text(dir, "config.json", checkpoint_config);
    checkpoint_tensors_write(dir, SINGLE, t, n - 1, 0);
    uint64_t without = hash_of(dir);
    checkpoint_tensors_write(dir, SINGLE, t, n, 0);
    struct model *m = must_open(dir);
    assert_ptr_equal(m->head, m->embed); /* the stored lm_head.weight is left out */
    assert_true(m->weights_hash == without);
    model_close(m);
    config_replace(dir, "\"tie_word_embeddings\":true", "\"tie_word_embeddings\":false");
    m = must_open(dir);
    assert_string_equal(m->head->name, "lm_head.weight");
    assert_true(m->weights_hash != without);
    model_close(m);
    checkpoint_tensors_write(dir, SINGLE, t, n - 1, 0);
    must_refuse(dir, ST_FORMAT, "tensor 'lm_head.weight' is missing|[10, 8]");
    checkpoint_dir_free(dir);
}

/* Norms may be F32 beside BF16 matrices; the matrices decide the dtype where config.json leaves it open. */
static void dtypes(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *dir = checkpoint_dir_new();
    int n = checkpoint_tensors(t) - 1;
    for (int i = 0; i < n; i++)
        if (t[i].n_dims == 2)
            strcpy(t[i].dtype, "BF16");
    checkpoint_tensors_write(dir, SINGLE, t, n, 0);
    config_replace(dir, "\"torch_dtype\":\"float32\",", "");
    struct model *m = must_open(dir);
    assert_string_equal(m->config.dtype, "bfloat16");
    model_close(m);
    config_replace(dir, "\"float32\"", "\"bfloat16\"");
    model_close(must_open(dir));
    checkpoint_text(dir, "config.json", checkpoint_config);
    must_refuse(dir, ST_FORMAT, SINGLE "|model.embed_tokens.weight|BF16|expected F32|config.json");
    checkpoint_dir_free(dir);
}

static void absent_head_dim_is_checked_by_the_tensors(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *dir = checkpoint_dir_new();
    checkpoint_tensors_write(dir, SINGLE, t, checkpoint_tensors(t), 0);
    config_replace(dir, "\"head_dim\":6,", ""); /* 8 / 2 is 4 */
    must_refuse(dir, ST_FORMAT, "q_proj.weight|[12, 8]|[8, 8]");
    checkpoint_dir_free(dir);
}

static void hash_follows_the_weights(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *dir = checkpoint_dir_new();
    int n = checkpoint_tensors(t) - 1;
    checkpoint_text(dir, "config.json", checkpoint_config);
    checkpoint_tensors_write(dir, SINGLE, t, n, 0);
    uint64_t h = hash_of(dir);
    assert_true(hash_of(dir) == h);
    checkpoint_tensors_write(dir, SINGLE, t, n, 1);
    assert_true(hash_of(dir) != h);
    checkpoint_tensors_write(dir, SINGLE, t, n, 0);
    config_replace(dir, "10000.0", "10001.0");
    assert_true(hash_of(dir) != h);
    checkpoint_dir_free(dir);
}

/* Flips the byte at `at` of the data. */
static void flip(const char *dir, long at)
{
    char path[600];
    unsigned char head[8];
    snprintf(path, sizeof path, "%s/%s", dir, SINGLE);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fread(head, 1, 8, f), 8);
    at += 8 + (head[0] | head[1] << 8);
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 1, f);
    fclose(f);
}

/* Head, middle and tail of a tensor longer than three samples of 4096 bytes. */
static void hash_samples_long_tensors(void **state)
{
    (void) state;
    enum { VOCAB = 2000, BYTES = VOCAB * 8 * 4 };
    static const long places[] = {0, 4095, BYTES / 2, BYTES - 1};
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *dir = checkpoint_dir_new();
    int n = checkpoint_tensors(t) - 1;
    t[0].dim[0] = VOCAB;
    checkpoint_tensors_write(dir, SINGLE, t, n, 0);
    config_replace(dir, "\"vocab_size\":10,", "\"vocab_size\":2000,");
    uint64_t h = hash_of(dir);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        flip(dir, places[i]);
        assert_true(hash_of(dir) != h);
        flip(dir, places[i]);
        assert_true(hash_of(dir) == h);
    }
    checkpoint_dir_free(dir);
}

/* The split into files is no part of what the weights are. */
static void hash_ignores_the_split(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *one = checkpoint_dir_new(), *two = checkpoint_dir_new(), index[4096] = "{\"weight_map\":{";
    int n = checkpoint_tensors(t) - 1;
    checkpoint_text(one, "config.json", checkpoint_config);
    checkpoint_text(two, "config.json", checkpoint_config);
    checkpoint_tensors_write(one, SINGLE, t, n, 0);
    checkpoint_tensors_write(two, "1.safetensors", t, 5, 0);
    checkpoint_tensors_write(two, "2.safetensors", t + 5, n - 5, 0);
    for (int i = 0; i < n; i++)
        snprintf(index + strlen(index), sizeof index - strlen(index), "%s\"%s\":\"%d.safetensors\"",
                 i ? "," : "", t[i].name, i < 5 ? 1 : 2);
    strcat(index, "}}");
    checkpoint_text(two, INDEX, index);
    assert_true(hash_of(one) == hash_of(two));
    checkpoint_dir_free(one);
    checkpoint_dir_free(two);
}

static void opens_the_shared_checkpoints(void **state)
{
    (void) state;
    static const char *const list[] = {
        "golden/logits/dense-tied",
        "golden/logits/dense-untied",
        "golden/logits/dense-bf16",
        "golden/logits/sharded",
        "golden/logits/long",
        "golden/logits/dense-f16",
        "golden/logits/fp8",
        "golden/logits/yarn",
        "golden/logits/yarn-4",
        "golden/logits/moe",
        "golden/logits/moe-mixed",
        "golden/gguf/bf16",
        "golden/gguf/q8_0/model.gguf",
        "golden/gguf/q4_0",
        "golden/gguf/q4_k_m",
        "golden/gguf/q6_k",
        "golden/gguf/moe-q8_0",
        "tiny/target",
        "tiny/draft",
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const char *dir = checkpoint_shared(list[i]);
        if (!dir)
            skip();
        struct model *m = must_open(dir);
        assert_true((m->head == m->embed) == m->config.tied);
        assert_int_equal(m->embed->dim[0], m->config.vocab);
        model_close(m);
    }
}

/* --- FP8 --- */

/* A checkpoint whose up_proj is FP8 with this scale tensor (dtype "": none); dir is the caller's. */
static void write_fp8(const char *dir, struct checkpoint_tensor scale)
{
    struct checkpoint_tensor t[CHECKPOINT_TENSORS + 1];
    int n = checkpoint_tensors(t);
    strcpy(named(t, "model.layers.0.mlp.up_proj.weight")->dtype, "F8_E4M3");
    if (!scale.name[0])
        strcpy(scale.name, "model.layers.0.mlp.up_proj.weight_scale_inv");
    t[n] = scale;
    checkpoint_tensors_write(dir, SINGLE, t, scale.dtype[0] ? n + 1 : n, 0);
    config_replace(dir, "\"tie_word",
                   "\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]},"
                   "\"tie_word");
}

static void fp8_has_its_scales(void **state)
{
    (void) state;
    char *dir = checkpoint_dir_new();
    write_fp8(dir, (struct checkpoint_tensor){"", "BF16", {1, 1}, 2});
    struct model *m = must_open(dir);
    const struct tensor *up = m->layer[0].up;
    assert_int_equal(up->type, TENSOR_F8_E4M3);
    assert_non_null(up->scale);
    assert_string_equal(up->scale->name, "model.layers.0.mlp.up_proj.weight_scale_inv");
    assert_null(m->layer[0].down->scale);
    uint64_t h = m->weights_hash;
    model_close(m);
    write_fp8(dir, (struct checkpoint_tensor){"", "F32", {1, 1}, 2});
    assert_true(hash_of(dir) != h);
    checkpoint_dir_free(dir);
}

static void refuses_scales(void **state)
{
    (void) state;
    static const struct {
        struct checkpoint_tensor scale;
        int status;
        const char *words;
    } list[] = {
        {{"", "", {0}, 0}, ST_FORMAT, "up_proj.weight_scale_inv' is missing|[1, 1]"},
        {{"", "F32", {1, 2}, 2}, ST_FORMAT, "weight_scale_inv' has shape [1, 2]|[12, 8]|make it [1, 1]"},
        {{"", "F32", {1}, 1}, ST_FORMAT, "shape [1]|make it [1, 1]"},
        {{"", "I32", {1, 1}, 2}, ST_UNSUPPORTED, "I32|expected F32 or BF16"},
        {{"model.layers.0.mlp.down_proj.weight_scale_inv", "F32", {1, 1}, 2},
         ST_FORMAT,
         "up_proj.weight_scale_inv' is missing"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char *dir = checkpoint_dir_new();
        write_fp8(dir, list[i].scale);
        must_refuse(dir, list[i].status, list[i].words);
        checkpoint_dir_free(dir);
    }
}

/* --- experts --- */

enum { EXPERTS = 3, MOE_TENSORS = CHECKPOINT_TENSORS - 3 + 1 + 3 * EXPERTS };

/* The one-layer checkpoint with three experts of width 4 in place of its feed-forward. */
static int moe_tensors(struct checkpoint_tensor t[MOE_TENSORS])
{
    static const struct checkpoint_tensor shape[3] = {
        {"gate_proj", "F32", {4, 8}, 2}, {"up_proj", "F32", {4, 8}, 2}, {"down_proj", "F32", {8, 4}, 2}};
    struct checkpoint_tensor dense[CHECKPOINT_TENSORS];
    int n = 0, all = checkpoint_tensors(dense);
    for (int i = 0; i < all; i++)
        if (!strstr(dense[i].name, ".mlp."))
            t[n++] = dense[i];
    t[n++] = (struct checkpoint_tensor){"model.layers.0.mlp.gate.weight", "F32", {EXPERTS, 8}, 2};
    for (int j = 0; j < EXPERTS; j++)
        for (int k = 0; k < 3; k++) {
            t[n] = shape[k];
            snprintf(t[n].name, sizeof t[n].name, "model.layers.0.mlp.experts.%d.%.20s.weight", j,
                     shape[k].name);
            n++;
        }
    return n;
}

static void moe_config(const char *dir, const char *norm)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{\"model_type\":\"qwen3_moe\",\"num_experts\":%d,\"num_experts_per_tok\":2,\"moe_intermediate_"
             "size\":4,"
             "\"norm_topk_prob\":%s,\"architectures\":[\"Qwen3MoeForCausalLM\"]",
             EXPERTS, norm);
    json_t *o = json_loads(checkpoint_config, 0, NULL), *more;
    strcat(text, "}");
    more = json_loads(text, 0, NULL);
    assert_non_null(more);
    json_object_update(o, more);
    char *all = json_dumps(o, 0);
    checkpoint_text(dir, "config.json", all);
    free(all);
    json_decref(o);
    json_decref(more);
}

static void finds_experts(void **state)
{
    (void) state;
    struct checkpoint_tensor t[MOE_TENSORS];
    char *dir = checkpoint_dir_new();
    int n = moe_tensors(t);
    checkpoint_tensors_write(dir, SINGLE, t, n, 0);
    moe_config(dir, "true");
    struct model *m = must_open(dir);
    const struct layer_tensors *l = &m->layer[0];
    assert_null(l->gate);
    assert_string_equal(l->router->name, "model.layers.0.mlp.gate.weight");
    assert_string_equal(l->expert[2].down->name, "model.layers.0.mlp.experts.2.down_proj.weight");
    assert_string_equal(l->expert[1].gate->name, "model.layers.0.mlp.experts.1.gate_proj.weight");
    uint64_t h = m->weights_hash;
    model_close(m);
    moe_config(dir, "false");
    assert_true(hash_of(dir) != h); /* it changes the words, so it changes the hash */
    moe_config(dir, "true");
    checkpoint_tensors_write(dir, SINGLE, t, n - 1, 0);
    must_refuse(dir, ST_FORMAT, "experts.2.down_proj.weight' is missing|[8, 4]");
    strcpy(t[n - 1].name, "model.layers.0.mlp.experts.3.down_proj.weight");
    checkpoint_tensors_write(dir, SINGLE, t, n, 0);
    must_refuse(dir, ST_FORMAT, "experts.2.down_proj.weight' is missing");
    checkpoint_dir_free(dir);
}

/* --- YaRN --- */

static void hash_follows_yarn(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *dir = checkpoint_dir_new();
    checkpoint_tensors_write(dir, SINGLE, t, checkpoint_tensors(t), 0);
    static const char plain[] = "{\"type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":32}",
                      beta[] = "{\"type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":32,"
                               "\"beta_fast\":16}";
    static const char *const yarn[] = {"null", plain, beta};
    uint64_t h[3];
    for (int i = 0; i < 3; i++) {
        char to[200];
        snprintf(to, sizeof to, "\"rope_scaling\":%s,\"tie_word", yarn[i]);
        config_replace(dir, "\"tie_word", to);
        h[i] = hash_of(dir);
    }
    checkpoint_text(dir, "config.json", checkpoint_config);
    assert_true(h[0] == hash_of(dir) && h[0] != h[1] && h[1] != h[2] && h[0] != h[2]);
    checkpoint_dir_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_every_tensor),
        cmocka_unit_test(refuses_tensors),
        cmocka_unit_test(tied_and_untied),
        cmocka_unit_test(dtypes),
        cmocka_unit_test(absent_head_dim_is_checked_by_the_tensors),
        cmocka_unit_test(hash_follows_the_weights),
        cmocka_unit_test(hash_samples_long_tensors),
        cmocka_unit_test(hash_ignores_the_split),
        cmocka_unit_test(opens_the_shared_checkpoints),
        cmocka_unit_test(fp8_has_its_scales),
        cmocka_unit_test(refuses_scales),
        cmocka_unit_test(finds_experts),
        cmocka_unit_test(hash_follows_yarn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
