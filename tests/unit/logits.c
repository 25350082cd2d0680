/* logits.c - `outrider logits`: exit statuses, what a line gives, and its raw rows against the oracle in double. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cmd.h"
#include "tests/lib/checkpoint.h"
#include "tests/lib/oracle.h"
#include "tests/lib/synth.h"

enum { VOCAB = 50, N = 100 }; /* N: more than a pass of the command takes */

static const struct config shape = {.n_layers = 1,
                                    .hidden = 24,
                                    .n_heads = 2,
                                    .n_kv_heads = 1,
                                    .head_dim = 8,
                                    .ffn = 40,
                                    .vocab = VOCAB,
                                    .ctx_max = 128,
                                    .rope_theta = 10000,
                                    .rms_eps = 1e-6f,
                                    .tied = 1};

static char *dir, raw_path[600], out[1 << 20], said[1 << 14];
static struct model *model;
static int32_t ids[N];

/* --- a checkpoint on disk --- */

static void describe(json_t *header, const char *name, const struct tensor *t, size_t *at, FILE *data)
{
    json_t *dims = json_array();
    for (int i = 0; i < t->n_dims; i++)
        json_array_append_new(dims, json_integer(t->dim[i]));
    json_object_set_new(header, name,
                        json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", dims, "data_offsets",
                                  (json_int_t) *at, (json_int_t) (*at + t->bytes)));
    *at += t->bytes;
    assert_int_equal(fwrite(t->data, 1, t->bytes, data), t->bytes);
}

static void write_checkpoint(void)
{
    const struct layer_tensors *y = &model->layer[0];
    const struct {
        const char *name;
        const struct tensor *t;
    } all[] = {{"model.embed_tokens.weight", model->embed},
               {"model.norm.weight", model->norm},
               {"model.layers.0.input_layernorm.weight", y->attn_norm},
               {"model.layers.0.self_attn.q_proj.weight", y->q},
               {"model.layers.0.self_attn.k_proj.weight", y->k},
               {"model.layers.0.self_attn.v_proj.weight", y->v},
               {"model.layers.0.self_attn.q_norm.weight", y->q_norm},
               {"model.layers.0.self_attn.k_norm.weight", y->k_norm},
               {"model.layers.0.self_attn.o_proj.weight", y->o},
               {"model.layers.0.post_attention_layernorm.weight", y->ffn_norm},
               {"model.layers.0.mlp.gate_proj.weight", y->gate},
               {"model.layers.0.mlp.up_proj.weight", y->up},
               {"model.layers.0.mlp.down_proj.weight", y->down}};
    json_t *header = json_object();
    char *data, *file;
    size_t bytes, at = 0;
    FILE *d = open_memstream(&data, &bytes);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        describe(header, all[i].name, all[i].t, &at, d);
    fclose(d);
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t len = (strlen(text) + 7) / 8 * 8; /* padded with spaces, so that the data is aligned */
    file = malloc(8 + len + bytes);
    assert_non_null(file);
    memcpy(file, &len, 8);
    memset(file + 8, ' ', len);
    memcpy(file + 8, text, strlen(text));
    memcpy(file + 8 + len, data, bytes);
    checkpoint_write(dir, "model.safetensors", file, 8 + len + bytes);
    checkpoint_text(
        dir, "config.json",
        "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"hidden_act\":\"silu\","
        "\"attention_bias\":false,\"num_hidden_layers\":1,\"hidden_size\":24,\"num_attention_heads\":2,"
        "\"num_key_value_heads\":1,\"head_dim\":8,\"intermediate_size\":40,\"vocab_size\":50,"
        "\"max_position_embeddings\":128,\"rope_theta\":10000.0,\"rms_norm_eps\":1e-06,"
        "\"tie_word_embeddings\":true,\"torch_dtype\":\"float32\",\"eos_token_id\":9}");
    json_decref(header);
    free(text);
    free(data);
    free(file);
}

static int setup(void **state)
{
    (void) state;
    uint64_t seed = 4;
    for (int i = 0; i < N; i++)
        ids[i] = (int32_t) (synth_next(&seed) >> 33) % VOCAB;
    model = synth_model_new(&shape, TENSOR_F32, 8);
    dir = checkpoint_dir_new();
    write_checkpoint();
    snprintf(raw_path, sizeof raw_path, "%s/raw.f32", dir);
    return 0;
}

static int teardown(void **state)
{
    (void) state;
    synth_model_free(model);
    checkpoint_dir_free(dir);
    return 0;
}

/* --- running the command --- */

static void slurp(FILE *f, char *to, size_t cap)
{
    rewind(f);
    to[fread(to, 1, cap - 1, f)] = 0;
    fclose(f);
}

/* Runs the command on `input` with the space-separated arguments. */
static int run(const char *input, const char *arguments)
{
    char text[1024], *argv[32] = {(char *) "logits"}, *rest = text;
    int argc = 1, saved[3];
    FILE *file[3] = {tmpfile(), tmpfile(), tmpfile()};
    snprintf(text, sizeof text, "%s", arguments);
    for (char *word; (word = strsep(&rest, " "));)
        argv[argc++] = word;
    fputs(input, file[0]);
    rewind(file[0]);
    fflush(stdout);
    for (int i = 0; i < 3; i++) {
        saved[i] = dup(i);
        dup2(fileno(file[i]), i);
    }
    clearerr(stdin);
    int rc = cmd_logits(argc, argv);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    fclose(file[0]);
    slurp(file[1], out, sizeof out);
    slurp(file[2], said, sizeof said);
    return rc;
}

static int run_model(const char *input, const char *more)
{
    char arguments[900];
    snprintf(arguments, sizeof arguments, "--model %s --jsonl --threads 2%s%s", dir, *more ? " " : "", more);
    return run(input, arguments);
}

static json_t *line_at(int n)
{
    const char *p = out;
    for (; n > 0 && p; n--)
        p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL;
    json_t *v = p ? json_loads(p, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    if (!v)
        fail_msg("no such line in: %s", out);
    return v;
}

static const char *given(int n)
{
    static char text[N * 4 + 32];
    size_t at = (size_t) sprintf(text, "{\"ids\":[");
    for (int i = 0; i < n; i++)
        at += (size_t) sprintf(text + at, "%s%d", i ? "," : "", ids[i]);
    sprintf(text + at, "]}\n");
    return text;
}

/* --- tests --- */

static void bad_usage(void **state)
{
    (void) state;
    assert_int_equal(run("", "--help"), 0);
    assert_non_null(strstr(out, "usage: outrider logits"));
    assert_int_equal(run("", "--jsonl"), 2);
    assert_non_null(strstr(said, "--model"));
    static const char *const bad[] = {"--quant q9", "--kv f16", "--threads 0", "--threads 2x", "--isa sse",
                                      "--top 0",    "--rows 3", "--greedy -1", "--unknown",    "extra"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(run_model("", bad[i]), 2);
    assert_int_equal(run("", "--model . --top 3"), 2);
    assert_non_null(strstr(said, "--jsonl"));
}

static void no_model(void **state)
{
    (void) state;
    assert_int_equal(run("", "--model /nowhere/at/all --jsonl"), 1);
    assert_non_null(strstr(said, "/nowhere/at/all"));
    assert_string_equal(out, "");
}

static void raw_rows_match_the_oracle(void **state)
{
    (void) state;
    static double exact[N][VOCAB];
    static float raw[N + 1][VOCAB];
    char more[700];
    snprintf(more, sizeof more, "--raw %s --rows all --top %d", raw_path, VOCAB);
    int rc = run_model(given(N), more);
    if (rc)
        fail_msg("status %d: %s", rc, said);
    FILE *f = fopen(raw_path, "rb");
    assert_int_equal(fread(raw, sizeof raw[0], N + 1, f), N);
    fclose(f);
    oracle_logits(model, ids, N, 0, exact[0]);
    json_t *line = line_at(0), *rows = json_object_get(line, "rows");
    assert_int_equal(json_array_size(rows), N);
    for (int i = 0; i < N; i++) {
        json_t *row = json_array_get(rows, (size_t) i), *top = json_object_get(row, "top");
        assert_int_equal(json_integer_value(json_object_get(row, "row")), i);
        for (int v = 0; v < VOCAB; v++)
            assert_true(fabs(raw[i][v] - exact[i][v]) < 2e-5);
        for (int r = 0; r < VOCAB; r++) { /* falling logits, each beside its id */
            json_t *pair = json_array_get(top, (size_t) r), *next = json_array_get(top, (size_t) r + 1);
            int id = (int) json_integer_value(json_array_get(pair, 0));
            assert_true((float) json_real_value(json_array_get(pair, 1)) == raw[i][id]);
            assert_true(!next ||
                        json_real_value(json_array_get(pair, 1)) >= json_real_value(json_array_get(next, 1)));
        }
    }
    json_decref(line);
}

static void greedy_feeds_its_own_words(void **state)
{
    (void) state;
    assert_int_equal(run_model(given(66), "--greedy 5 --top 1"), 0);
    json_t *line = line_at(0), *greedy = json_object_get(line, "greedy");
    assert_int_equal(json_array_size(greedy), 5);
    assert_int_equal(json_array_size(json_object_get(line, "rows")), 1);
    char text[N * 4 + 64], *end = text + sprintf(text, "%s", given(66)) - 3;
    for (size_t i = 0; i < 5;
         i++) { /* each is the likeliest token after the ids with those before it appended */
        json_int_t tok = json_integer_value(json_array_get(greedy, i));
        assert_int_equal(run_model(text, "--top 1"), 0);
        json_t *once = line_at(0), *row = json_array_get(json_object_get(once, "rows"), 0);
        json_t *best = json_array_get(json_array_get(json_object_get(row, "top"), 0), 0);
        assert_int_equal(json_integer_value(best), tok);
        assert_int_equal(json_integer_value(json_object_get(row, "row")), 65 + i);
        json_decref(once);
        end += sprintf(end, ",%d]}\n", (int) tok) - 3;
    }
    json_decref(line);
}

static void bad_lines_do_not_end_it(void **state)
{
    (void) state;
    static const char *const bad[] = {"words",
                                      "[]",
                                      "{}",
                                      "{\"ids\":[]}",
                                      "{\"ids\":[50]}",
                                      "{\"ids\":[-1]}",
                                      "{\"ids\":5}",
                                      "{\"ids\":[1.5]}",
                                      "",
                                      "{\"ids\":[1],\"ids\":[2]}"};
    enum { BAD = sizeof bad / sizeof *bad };
    char text[1024] = "";
    for (int i = 0; i < BAD; i++)
        sprintf(text + strlen(text), "%s\n", bad[i]);
    strcat(text, "{\"ids\":[1]}");
    assert_int_equal(run_model(text, "--quant q8 --kv bf16"), 1);
    for (int i = 0; i < BAD; i++) {
        json_t *line = line_at(i);
        assert_int_equal(json_integer_value(json_object_get(line, "line")), i + 1);
        assert_true(json_string_length(json_object_get(line, "error")) > 10);
        json_decref(line);
    }
    json_t *line = line_at(BAD);
    assert_int_equal(json_integer_value(json_object_get(line, "n")), 1);
    json_decref(line);
    assert_int_equal(run_model(given(N), "--greedy 29"), 1); /* 129 positions of a context of 128 */
    assert_non_null(strstr(out, "128"));
}

/* Random bytes as weights: some are NaN, and so are the logits. */
static void non_finite_logits_are_an_error(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *wild = checkpoint_dir_new(), arguments[700];
    checkpoint_text(wild, "config.json", checkpoint_config);
    checkpoint_tensors_write(wild, "model.safetensors", t, checkpoint_tensors(t), 0);
    snprintf(arguments, sizeof arguments, "--model %s --jsonl", wild);
    assert_int_equal(run("{\"ids\":[1,2,3]}\n", arguments), 1);
    assert_non_null(strstr(out, "not all finite"));
    checkpoint_dir_free(wild);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_usage),
        cmocka_unit_test(no_model),
        cmocka_unit_test(raw_rows_match_the_oracle),
        cmocka_unit_test(greedy_feeds_its_own_words),
        cmocka_unit_test(bad_lines_do_not_end_it),
        cmocka_unit_test(non_finite_logits_are_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
