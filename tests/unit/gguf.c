/* gguf.c - GGUF files: container, metadata, tokenizer and tensors read, and one case for each refusal. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "model/read.h"
#include "model/template.h"
#include "model/tokenizer_impl.h"
#include "tests/lib/checkpoint.h"
#include "tests/lib/ggufile.h"

/* --- the container, in memory --- */

static void must_refuse(struct ggufile *g, int status, const char *words)
{
    struct jout file;
    struct gguf *x = (struct gguf *) &file;
    struct err e = {0};
    ggufile_bytes(g, &file);
    int st = gguf__open_bytes(&x, file.p, file.n, &e);
    const char *lacks = checkpoint_lacks(&e, words);
    if (st != status)
        fail_msg("%s, expected %s with '%s': %s", status_name(st), status_name(status), words, e.text);
    if (lacks)
        fail_msg("no '%s' in: %s", lacks, e.text);
    assert_null(x);
    jout_free(&file);
}

static void small(struct ggufile *g, int moe)
{
    *g = (struct ggufile){0};
    ggufile_small_meta(g, moe ? "qwen3moe" : "qwen3");
    if (moe) {
        ggufile_int(g, "qwen3moe.expert_count", 4);
        ggufile_int(g, "qwen3moe.expert_used_count", 2);
        ggufile_int(g, "qwen3moe.expert_feed_forward_length", 32);
    }
    ggufile_small_tokens(g);
    ggufile_small_tensors(g, moe);
}

static void every_value_is_read(void **state)
{
    (void) state;
    struct ggufile g = {.version = 2};
    struct jout file;
    struct gguf *x;
    struct err e = {0};
    int64_t i;
    double d;
    size_t n, at = 0;
    static const struct {
        int type, bytes;
        uint64_t stored;
        int64_t value;
    } ints[] = {{GGUF_U8, 1, 0xff, 255},       {GGUF_I8, 1, 0xff, -1}, {GGUF_U16, 2, 0xffff, 65535},
                {GGUF_I16, 2, 0x8000, -32768}, {GGUF_I32, 4, 1, 1},    {GGUF_U64, 8, 1 << 30, 1 << 30},
                {GGUF_I64, 8, UINT64_MAX, -1}};
    for (size_t k = 0; k < sizeof ints / sizeof *ints; k++) {
        char key[8];
        snprintf(key, sizeof key, "i%zu", k);
        ggufile_key(&g, key, (uint32_t) ints[k].type);
        ggufile_le(&g.meta, ints[k].stored, ints[k].bytes);
    }
    ggufile_float(&g, "f", 0.5f);
    ggufile_key(&g, "d", GGUF_F64);
    d = -2.5;
    jout_add(&g.meta, &d, 8);
    ggufile_text(&g, "s", "hello");
    ggufile_list(&g, "list", GGUF_STRING, 2);
    ggufile_string(&g.meta, "a", 1);
    ggufile_string(&g.meta, "bc", 2);
    ggufile_key(&g, "huge", GGUF_U64);
    ggufile_le(&g.meta, UINT64_MAX, 8);
    ggufile_bytes(&g, &file);
    if (gguf__open_bytes(&x, file.p, file.n, &e))
        fail_msg("%s", e.text);
    for (size_t k = 0; k < sizeof ints / sizeof *ints; k++) {
        char key[8];
        snprintf(key, sizeof key, "i%zu", k);
        assert_true(gguf_int(gguf_get(x, key), &i) && i == ints[k].value);
        assert_false(gguf_number(gguf_get(x, key), &d));
    }
    assert_true(gguf_number(gguf_get(x, "f"), &d) && d == 0.5);
    assert_true(gguf_number(gguf_get(x, "d"), &d) && d == -2.5);
    assert_memory_equal(gguf_string(gguf_get(x, "s"), &n), "hello", 5);
    assert_int_equal(n, 5);
    assert_false(gguf_int(gguf_get(x, "s"), &i));
    assert_false(gguf_int(gguf_get(x, "huge"), &i)); /* does not fit 63 bits */
    assert_null(gguf_string(gguf_get(x, "list"), &n));
    assert_memory_equal(gguf_next(gguf_get(x, "list"), &at, &n), "a", 1);
    assert_memory_equal(gguf_next(gguf_get(x, "list"), &at, &n), "bc", 2);
    assert_null(gguf_get(x, "absent"));
    gguf_close(x);
    jout_free(&file);
}

static void refuses_heads(void **state)
{
    (void) state;
    static const struct {
        uint32_t version;
        int status;
        const char *words;
    } list[] = {{1, ST_UNSUPPORTED, "version 1|expected 2 or 3"},
                {4, ST_UNSUPPORTED, "version 4"},
                {0x03000000, ST_UNSUPPORTED, "big-endian|little-endian"},
                {0x02000000, ST_UNSUPPORTED, "big-endian"}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        must_refuse(&(struct ggufile){.version = list[i].version}, list[i].status, list[i].words);
    must_refuse(&(struct ggufile){.n_meta = 1}, ST_FORMAT, "claims 1 keys in 0 bytes");
    must_refuse(&(struct ggufile){.n_meta = UINT64_MAX}, ST_FORMAT, "18446744073709551615 keys|at most 4096");
    struct ggufile g = {0};
    g.n_tensors = UINT64_MAX;
    must_refuse(&g, ST_FORMAT, "18446744073709551615 tensors|at most 65536");
    struct err e = {0};
    struct gguf *x;
    assert_int_equal(gguf__open_bytes(&x, "GGU", 3, &e), ST_FORMAT);
    assert_int_equal(gguf__open_bytes(&x, "PK\3\4.......", 11, &e), ST_FORMAT);
    assert_null(checkpoint_lacks(&e, "expected a GGUF file"));
}

/* One key of raw bytes a case: type, then what follows. */
static void refuses_values(void **state)
{
    (void) state;
    static const struct {
        uint32_t type;
        const char *bytes;
        size_t n;
        int status;
        const char *words;
    } list[] = {
        {13, "", 0, ST_FORMAT, "key 'k'|type 13|0 to 12"},
        {GGUF_U32, "\1\2\3", 3, ST_FORMAT, "truncated|k"},
        {GGUF_BOOL, "\2", 1, ST_FORMAT, "key 'k'|boolean 2"},
        {GGUF_STRING, "\1\0\0\0", 4, ST_FORMAT, "truncated|length"},
        {GGUF_STRING, "\1\0\0\0\0\0\0\0", 8, ST_FORMAT, "truncated|a string"},
        {GGUF_STRING, "\377\377\377\377\377\377\377\377a", 9, ST_FORMAT, "truncated|a string"},
        {GGUF_ARRAY, "\15\0\0\0\0\0\0\0\0\0\0\0", 12, ST_FORMAT, "type 13"},
        {GGUF_ARRAY, "\11\0\0\0\0\0\0\0\0\0\0\0", 12, ST_UNSUPPORTED, "list of lists"},
        {GGUF_ARRAY, "\4\0\0\0\377\377\377\377\377\377\377\377", 12, ST_FORMAT, "truncated"},
        {GGUF_ARRAY, "\4\0\0\0\1\0\0\0\0\0\0\0\1\2\3", 15, ST_FORMAT, "truncated"},
        {GGUF_ARRAY, "\12\0\0\0\1\0\0\0\0\0\0\40\1\2\3", 15, ST_FORMAT, "truncated"}, /* times 8 overflows */
        {GGUF_ARRAY, "\10\0\0\0\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, ST_FORMAT, "truncated|length"},
        {GGUF_ARRAY, "\7\0\0\0\2\0\0\0\0\0\0\0\1\2", 14, ST_FORMAT, "boolean 2"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct ggufile g = {0};
        ggufile_key(&g, "k", list[i].type);
        jout_add(&g.meta, list[i].bytes, list[i].n);
        must_refuse(&g, list[i].status, list[i].words);
    }
}

static void refuses_keys(void **state)
{
    (void) state;
    char name[600];
    struct ggufile g = {0};
    ggufile_int(&g, "twice", 1);
    ggufile_int(&g, "twice", 2);
    must_refuse(&g, ST_FORMAT, "key 'twice'|given twice");
    g = (struct ggufile){0};
    ggufile_int(&g, "", 1);
    must_refuse(&g, ST_FORMAT, "a key has 0 bytes|1 to 512");
    g = (struct ggufile){0};
    ggufile_int(&g, "a\x1b", 1);
    must_refuse(&g, ST_FORMAT, "0x1b|control");
    memset(name, 'x', sizeof name);
    name[513] = 0;
    g = (struct ggufile){0};
    ggufile_int(&g, name, 1);
    must_refuse(&g, ST_FORMAT, "has 513 bytes");
    g = (struct ggufile){0};
    ggufile_int(&g, "split.count", 3);
    must_refuse(&g, ST_UNSUPPORTED, "split|--merge");
    static const uint32_t align[] = {0, 4, 24, 1 << 21};
    for (size_t i = 0; i < sizeof align / sizeof *align; i++) {
        g = (struct ggufile){0};
        ggufile_int(&g, "general.alignment", align[i]);
        must_refuse(&g, ST_FORMAT, "general.alignment|power of two");
    }
    g = (struct ggufile){0};
    ggufile_text(&g, "general.alignment", "32");
    must_refuse(&g, ST_FORMAT, "general.alignment");
}

static void refuses_tensors(void **state)
{
    (void) state;
    static const struct {
        uint32_t type;
        int n_dims;
        int64_t dim[5];
        uint64_t bytes;
        int64_t shift;
        int status;
        const char *words;
    } list[] = {
        {0, 0, {0}, 0, 0, ST_FORMAT, "'t'|has 0 dimensions|1 to 4"},
        {0, 5, {1, 1, 1, 1, 1}, 4, 0, ST_FORMAT, "has 5 dimensions"},
        {0, 2, {0, 8}, 0, 0, ST_FORMAT, "sizes are no product"},
        {0, 2, {INT64_C(1) << 40, INT64_C(1) << 40}, 0, 0, ST_FORMAT, "sizes are no product"},
        {0, 1, {-1}, 0, 0, ST_FORMAT, "sizes are no product"},
        {0, 1, {INT64_C(1) << 40}, 32, 0, ST_FORMAT, "larger than the file"},
        {GGUFILE_Q6_K, 2, {INT64_C(1) << 30, 1 << 20}, 32, 0, ST_FORMAT, "larger than the file"},
        {99, 1, {8}, 32, 0, ST_FORMAT, "unknown type 99"},
        {4, 1, {8}, 32, 0, ST_FORMAT, "unknown type 4"},
        {GGUFILE_Q5_K,
         2,
         {1, 256},
         176,
         0,
         ST_UNSUPPORTED,
         "type Q5_K|expected F32, F16, BF16, Q8_0, Q4_0, Q4_K or Q6_K"},
        {GGUFILE_Q8_0, 2, {2, 48}, 102, 0, ST_FORMAT, "rows of 48|multiple of 32"},
        {GGUFILE_Q6_K, 2, {2, 128}, 210, 0, ST_FORMAT, "rows of 128|multiple of 256"},
        {0, 1, {8}, 32, 32, ST_FORMAT, "begins at byte 32|expected 0"},
        {0, 1, {8}, 32, -32, ST_FORMAT, "begins at byte 18446744073709551584|expected 0"},
        {0, 1, {16}, 32, 0, ST_FORMAT, "ends behind the end of the file"},
        {0, 1, {8}, 64, 0, ST_FORMAT, "holds 64 bytes of data; its tensors end at 32"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct ggufile g = {.shift_next = list[i].shift};
        ggufile_tensor(&g, "t", list[i].type, list[i].n_dims, list[i].dim, list[i].bytes);
        must_refuse(&g, list[i].status, list[i].words);
    }
    struct ggufile g = {0};
    for (int i = 0; i < 2; i++)
        ggufile_tensor(&g, "t", GGUFILE_F32, 1, (int64_t[]){8}, 32);
    must_refuse(&g, ST_FORMAT, "'t'|listed twice");
}

/* A file may end with the last tensor or with its padding, and nowhere else; a head cut anywhere is refused. */
static void every_truncation_is_refused(void **state)
{
    (void) state;
    struct ggufile g;
    struct jout file;
    small(&g, 1);
    ggufile_bytes(&g, &file);
    for (size_t n = 0; n < file.n; n += n < file.n - 400 ? 7 : 1) {
        struct gguf *x;
        struct err e = {0};
        char *copy = malloc(n + 1); /* its own memory, so that a sanitizer sees a byte too many */
        memcpy(copy, file.p, n);
        int st = gguf__open_bytes(&x, copy, n, &e);
        if (st == 0)
            fail_msg("%zu of %zu bytes were taken", n, file.n);
        assert_null(x);
        free(copy);
    }
    jout_free(&file);
}

/* --- a model --- */

static char *write_model(struct ggufile *g)
{
    struct jout file;
    char *dir = checkpoint_dir_new();
    ggufile_bytes(g, &file);
    checkpoint_write(dir, "model.gguf", file.p, file.n);
    jout_free(&file);
    return dir;
}

static void model_refuses(struct ggufile *g, int status, const char *words)
{
    char *dir = write_model(g);
    struct model *m;
    struct err e = {0};
    int st = model_open(&m, dir, &e);
    const char *lacks = checkpoint_lacks(&e, words);
    if (st != status || lacks)
        fail_msg("%s, expected %s with '%s': %s", status_name(st), status_name(status), words, e.text);
    checkpoint_dir_free(dir);
}

static struct model *must_open(const char *dir)
{
    struct model *m;
    struct err e = {0};
    if (model_open(&m, dir, &e))
        fail_msg("%s", e.text);
    return m;
}

static void opens_a_dense_model(void **state)
{
    (void) state;
    struct ggufile g;
    small(&g, 0);
    char *dir = write_model(&g);
    struct model *m = must_open(dir);
    assert_true(m->config.tied && m->config.vocab == 261 && m->config.hidden == 32 &&
                m->config.head_dim == 16);
    assert_true(m->config.rope_theta == 10000 && m->config.ctx_max == 64 && m->config.n_heads == 2);
    assert_true(m->gen.n_eos == 1 && m->gen.eos[0] == 258);
    assert_string_equal(m->layer[0].q->name, "blk.0.attn_q.weight");
    assert_int_equal(m->layer[0].q->type, TENSOR_Q8_0);
    assert_true(m->layer[0].down->dim[0] == 32 && m->layer[0].down->dim[1] == 64);
    assert_string_equal(m->norm->file, "model.gguf");
    model_close(m);
    checkpoint_dir_free(dir);
}

/* Experts are views of the stack: one after another, nothing copied. */
static void experts_are_cut_from_stacks(void **state)
{
    (void) state;
    struct ggufile g;
    small(&g, 1);
    char *dir = write_model(&g);
    struct model *m = must_open(dir);
    const struct layer_tensors *l = &m->layer[0];
    const struct tensor *stack = tensor_find(m->tensor, m->n_tensors, "blk.0.ffn_up_exps.weight");
    assert_true(m->config.moe.n_experts == 4 && m->config.moe.n_used == 2 && m->config.moe.norm_topk == 1);
    assert_null(l->gate);
    assert_int_equal(l->router->dim[0], 4);
    for (int j = 0; j < 4; j++) {
        const struct tensor *t = l->expert[j].up;
        assert_true(t->n_dims == 2 && t->dim[0] == 32 && t->dim[1] == 32 && t->bytes == 32 * 34);
        assert_ptr_equal(t->data, (const char *) stack->data + j * 32 * 34);
    }
    model_close(m);
    checkpoint_dir_free(dir);
}

static void refuses_models(void **state)
{
    (void) state;
    struct ggufile g = {0};
    ggufile_small_meta(&g, "llama");
    model_refuses(&g, ST_UNSUPPORTED, "general.architecture is \"llama\"|\"qwen3\" or \"qwen3moe\"");
    g = (struct ggufile){0};
    model_refuses(&g, ST_FORMAT, "general.architecture is missing");
    g = (struct ggufile){0};
    ggufile_small_meta(&g, "qwen3");
    model_refuses(&g, ST_FORMAT, "token_embd.weight|missing");
    small(&g, 0);
    ggufile_tensor(&g, "blk.0.attn_q.bias", GGUFILE_F32, 1, (int64_t[]){32}, 128);
    model_refuses(&g, ST_FORMAT, "blk.0.attn_q.bias|no part of the dense Qwen3 of 1 layers|metadata");
    small(&g, 0);
    ggufile_tensor(&g, "output.weight", GGUFILE_F32, 2, (int64_t[]){260, 32}, 260 * 128);
    model_refuses(&g, ST_FORMAT, "output.weight|[260, 32]|[261, 32]");
    g = (struct ggufile){0};
    ggufile_small_meta(&g, "qwen3moe");
    ggufile_small_tensors(&g, 1);
    model_refuses(&g, ST_FORMAT, "qwen3moe.expert_count is missing");
}

/* One more key a case. */
static void refuses_metadata(void **state)
{
    (void) state;
    static const struct {
        const char *key;
        uint32_t v;
        int status;
        const char *words;
    } list[] = {
        {"qwen3.attention.sliding_window", 4096, ST_UNSUPPORTED, "sliding window"},
        {"qwen3.attention.value_length", 32, ST_UNSUPPORTED, "is 32|expected 16"},
        {"qwen3.rope.dimension_count", 8, ST_UNSUPPORTED, "partial rotation|expected 16"},
        {"qwen3.expert_count", 8, ST_UNSUPPORTED, "experts in a dense model"},
        {"qwen3.vocab_size", 300, ST_FORMAT, "is 300|has 261 rows"},
        {"general.quantization_version", 3, ST_UNSUPPORTED, "is 3|expected 2"},
        {"general.type", 1, ST_UNSUPPORTED, "\"model\""},
        {"qwen3.rope.scaling.type", 1, ST_UNSUPPORTED, "kind of scaling"},
        {"tokenizer.ggml.eot_token_id", 261, ST_FORMAT, "is 261|to 260"},
        {"general.sampling.temp", 1, ST_FORMAT, "expected a number"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct ggufile g;
        small(&g, 0);
        ggufile_int(&g, list[i].key, list[i].v);
        model_refuses(&g, list[i].status, list[i].words);
    }
}

static void reads_yarn_and_sampling(void **state)
{
    (void) state;
    struct ggufile g;
    struct config c;
    struct gen_config gen;
    struct err e = {0};
    small(&g, 0);
    ggufile_text(&g, "qwen3.rope.scaling.type", "yarn");
    ggufile_float(&g, "qwen3.rope.scaling.factor", 4);
    ggufile_int(&g, "qwen3.rope.scaling.original_context_length", 32);
    ggufile_float(&g, "general.sampling.temp", 0.7f);
    ggufile_float(&g, "general.sampling.penalty_repeat", 1.1f);
    char *dir = write_model(&g);
    if (config_load(&c, &gen, dir, &e))
        fail_msg("%s", e.text);
    assert_true(c.yarn.factor == 4 && c.yarn.original_ctx == 32 && c.yarn.attention_factor == 1.1386294f);
    assert_int_equal(c.ctx_max, 128);
    assert_true(gen.has_temperature && gen.temperature == 0.7f && !gen.has_top_k);
    assert_true(gen.has_repetition_penalty && gen.repetition_penalty == 1.1f);
    checkpoint_dir_free(dir);
}

/* --- text --- */

static void reads_the_tokenizer(void **state)
{
    (void) state;
    struct ggufile g;
    struct tokenizer *t;
    struct tokens ids = {0};
    struct err e = {0};
    small(&g, 0);
    char *dir = write_model(&g);
    if (tokenizer_open(&t, dir, &e))
        fail_msg("%s", e.text);
    assert_int_equal(tokenizer_count(t), 260); /* the padding token is none */
    assert_int_equal(tokenizer_added(t, "<think>"), 259);
    assert_true(tokenizer_is_special(t, 258) && !tokenizer_is_special(t, 259));
    assert_int_equal(tokenizer_encode(t, "the<think>", 10, TOKENIZER_ADDED, &ids, &e), 0);
    assert_true(ids.n == 2 && ids.id[0] == 257 && ids.id[1] == 259);
    free(ids.id);
    tokenizer_close(t);
    checkpoint_dir_free(dir);
}

/* A tokenizer's file with one thing changed. */
static void tokenizer_refuses(struct ggufile *g, int status, const char *words)
{
    char *dir = write_model(g);
    struct tokenizer *t;
    struct err e = {0};
    int st = tokenizer_open(&t, dir, &e);
    const char *lacks = checkpoint_lacks(&e, words);
    if (st != status || lacks)
        fail_msg("%s, expected %s with '%s': %s", status_name(st), status_name(status), words, e.text);
    assert_null(t);
    checkpoint_dir_free(dir);
}

static void head_of_tokenizer(struct ggufile *g, const char *model, const char *pre)
{
    *g = (struct ggufile){0};
    ggufile_text(g, "tokenizer.ggml.model", model);
    ggufile_text(g, "tokenizer.ggml.pre", pre);
}

static void put_lists(struct ggufile *g, const char *token, uint32_t type, const char *merge)
{
    ggufile_list(g, "tokenizer.ggml.tokens", GGUF_STRING, 1);
    ggufile_string(&g->meta, token, strlen(token));
    ggufile_list(g, "tokenizer.ggml.token_type", GGUF_I32, 1);
    ggufile_le(&g->meta, type, 4);
    ggufile_list(g, "tokenizer.ggml.merges", GGUF_STRING, merge != NULL);
    if (merge)
        ggufile_string(&g->meta, merge, strlen(merge));
}

static void refuses_tokenizers(void **state)
{
    (void) state;
    struct ggufile g = {0};
    tokenizer_refuses(&g, ST_NOTFOUND, "no tokenizer|tokenizer.ggml");
    head_of_tokenizer(&g, "llama", "qwen2");
    tokenizer_refuses(&g, ST_UNSUPPORTED, "tokenizer.ggml.model is llama|\"gpt2\"");
    head_of_tokenizer(&g, "gpt2", "qwen35");
    tokenizer_refuses(&g, ST_UNSUPPORTED, "tokenizer.ggml.pre is qwen35|\"qwen2\"");
    head_of_tokenizer(&g, "gpt2", "qwen2");
    ggufile_bool(&g, "tokenizer.ggml.add_bos_token", 1);
    tokenizer_refuses(&g, ST_UNSUPPORTED, "add_bos_token|off");
    head_of_tokenizer(&g, "gpt2", "qwen2");
    tokenizer_refuses(&g, ST_FORMAT, "tokens is missing");
    head_of_tokenizer(&g, "gpt2", "qwen2");
    ggufile_int(&g, "tokenizer.ggml.tokens", 1);
    tokenizer_refuses(&g, ST_FORMAT, "tokens is of another type|list of strings");
    head_of_tokenizer(&g, "gpt2", "qwen2");
    put_lists(&g, "a", 6, NULL);
    tokenizer_refuses(&g, ST_UNSUPPORTED, "token 0|type 6");
    head_of_tokenizer(&g, "gpt2", "qwen2");
    put_lists(&g, "\xff", 1, NULL);
    tokenizer_refuses(&g, ST_FORMAT, "token 0|byte-level BPE");
    head_of_tokenizer(&g, "gpt2", "qwen2");
    put_lists(&g, "a b", 1, NULL);
    tokenizer_refuses(&g, ST_FORMAT, "token 0|byte-level BPE");
    head_of_tokenizer(&g, "gpt2", "qwen2");
    put_lists(&g, "a", 1, NULL);
    tokenizer_refuses(&g, ST_FORMAT, "no token for the byte");
    head_of_tokenizer(&g, "gpt2", "qwen2");
    put_lists(&g, "a", 5, NULL);
    ggufile_list(&g, "tokenizer.ggml.scores", GGUF_F32, 0);
    tokenizer_refuses(&g, ST_FORMAT, "no token for the byte");
}

static void refuses_merges(void **state)
{
    (void) state;
    static const char *const merges[] = {"th", "t h e", "\xff h", "t \xe2\x82\xac", " h", "t ", "q h"};
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        struct ggufile g = {0};
        ggufile_small_tokens(&g);
        /* The two good merges are the last list but one key: its items are replaced by writing the file anew. */
        struct jout *o = &g.meta;
        const char *at = memmem(o->p, o->n, "tokenizer.ggml.merges", 21);
        assert_non_null(at);
        o->n = (size_t) (at - o->p) - 8;
        g.n_meta -= 2;
        ggufile_list(&g, "tokenizer.ggml.merges", GGUF_STRING, 1);
        ggufile_string(&g.meta, merges[i], strlen(merges[i]));
        tokenizer_refuses(&g, ST_FORMAT, "merge 0");
    }
}

static void finds_the_template(void **state)
{
    (void) state;
    static const struct {
        const char *text;
        int status, which;
    } list[] = {{SYNTH_TEMPLATE, 0, CHAT_TEMPLATE_QWEN3},
                {"{{ messages }}", ST_UNSUPPORTED, CHAT_TEMPLATE_NONE},
                {NULL, 0, CHAT_TEMPLATE_NONE}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct ggufile g;
        struct err e = {0};
        int which;
        small(&g, 0);
        if (list[i].text)
            ggufile_text(&g, "tokenizer.chat_template", list[i].text);
        char *dir = write_model(&g);
        assert_int_equal(template_detect(dir, &which, &e), list[i].status);
        assert_int_equal(which, list[i].which);
        checkpoint_dir_free(dir);
    }
}

/* --- the shared files --- */

/* llama.cpp wrote them from the tiny target: its ids, its end of text, its template. */
static void shared_files_are_the_tiny_target(void **state)
{
    (void) state;
    static const char *const list[] = {"bf16", "q8_0", "q4_0", "q4_k_m", "q6_k"};
    struct tokenizer *tiny, *t;
    struct config c, want;
    struct gen_config gen, want_gen;
    struct err e = {0};
    const char *dir = checkpoint_shared("tiny/target");
    if (!dir)
        skip();
    assert_int_equal(tokenizer_open(&tiny, dir, &e), 0);
    assert_int_equal(config_load(&want, &want_gen, dir, &e), 0);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char name[64];
        int which;
        snprintf(name, sizeof name, "golden/gguf/%s/model.gguf", list[i]);
        if (!(dir = checkpoint_shared(name)))
            skip();
        if (tokenizer_open(&t, dir, &e) || tokenizer_compare(tiny, t, &e) || config_load(&c, &gen, dir, &e))
            fail_msg("%s", e.text);
        assert_true(tokenizer_hash(t) == tokenizer_hash(tiny));
        assert_true(c.n_layers == want.n_layers && c.hidden == want.hidden && c.vocab == want.vocab &&
                    c.ffn == want.ffn && c.head_dim == want.head_dim && c.rope_theta == want.rope_theta &&
                    c.rms_eps == want.rms_eps && c.tied == want.tied && c.ctx_max == want.ctx_max);
        assert_int_equal(gen.n_eos, want_gen.n_eos);
        assert_memory_equal(gen.eos, want_gen.eos, (size_t) gen.n_eos * sizeof *gen.eos);
        assert_int_equal(template_detect(dir, &which, &e), 0);
        assert_int_equal(which, CHAT_TEMPLATE_QWEN3);
        tokenizer_close(t);
    }
    tokenizer_close(tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_read),     cmocka_unit_test(refuses_heads),
        cmocka_unit_test(refuses_values),          cmocka_unit_test(refuses_keys),
        cmocka_unit_test(refuses_tensors),         cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(opens_a_dense_model),     cmocka_unit_test(experts_are_cut_from_stacks),
        cmocka_unit_test(refuses_models),          cmocka_unit_test(refuses_metadata),
        cmocka_unit_test(reads_yarn_and_sampling), cmocka_unit_test(reads_the_tokenizer),
        cmocka_unit_test(refuses_tokenizers),      cmocka_unit_test(refuses_merges),
        cmocka_unit_test(finds_the_template),      cmocka_unit_test(shared_files_are_the_tiny_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
