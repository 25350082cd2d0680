/* inspect.c - `outrider inspect`: exit statuses, and the figures of the JSON against sums made here. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cmd.h"
#include "tests/lib/checkpoint.h"

static char out[1 << 16], said[4096]; /* what the last run wrote to stdout and stderr */

static void slurp(FILE *f, int fd, int saved, char *to, size_t cap)
{
    fflush(fd == STDOUT_FILENO ? stdout : stderr);
    dup2(saved, fd);
    close(saved);
    rewind(f);
    to[fread(to, 1, cap - 1, f)] = 0;
    fclose(f);
}

/* Runs the command with up to three arguments (NULL: none). */
static int run(const char *a, const char *b, const char *c)
{
    char *argv[] = {(char *) "inspect", (char *) a, (char *) b, (char *) c, NULL};
    int argc = 1;
    while (argv[argc])
        argc++;
    FILE *o = tmpfile(), *e = tmpfile();
    fflush(stdout);
    int saved_o = dup(STDOUT_FILENO), saved_e = dup(STDERR_FILENO);
    dup2(fileno(o), STDOUT_FILENO);
    dup2(fileno(e), STDERR_FILENO);
    int rc = cmd_inspect(argc, argv);
    slurp(o, STDOUT_FILENO, saved_o, out, sizeof out);
    slurp(e, STDERR_FILENO, saved_e, said, sizeof said);
    return rc;
}

static json_t *report(void)
{
    json_error_t e;
    json_t *v = json_loads(out, JSON_REJECT_DUPLICATES, &e);
    if (!v)
        fail_msg("%s in: %s", e.text, out);
    return v;
}

static json_int_t number(json_t *o, const char *a, const char *b)
{
    json_t *v = json_object_get(o, a);
    if (b)
        v = json_object_get(v, b);
    if (!json_is_integer(v))
        fail_msg("%s %s is no integer", a, b ? b : "");
    return json_integer_value(v);
}

static char *good_new(void)
{
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    char *dir = checkpoint_dir_new();
    checkpoint_text(dir, "config.json", checkpoint_config);
    checkpoint_tensors_write(dir, "model.safetensors", t, checkpoint_tensors(t), 0);
    return dir;
}

static void usage(void **state)
{
    (void) state;
    assert_int_equal(run("--help", NULL, NULL), 0);
    assert_non_null(strstr(out, "usage: outrider inspect MODEL"));
    assert_int_equal(run(NULL, NULL, NULL), 2);
    assert_non_null(strstr(said, "no MODEL"));
    assert_int_equal(run("x", "--bogus", NULL), 2);
    assert_non_null(strstr(said, "'--bogus'"));
    assert_int_equal(run("x", "y", NULL), 2);
    assert_non_null(strstr(said, "'y'"));
    assert_string_equal(out, "");
}

static void figures(void **state)
{
    (void) state;
    struct checkpoint_tensor t[CHECKPOINT_TENSORS];
    int64_t matrices = 0, norms = 0;
    for (int i = 0, n = checkpoint_tensors(t) - 1; i < n; i++) /* the last, lm_head, is left out: tied */
        *(t[i].n_dims == 2 ? &matrices : &norms) += t[i].dim[0] * (t[i].n_dims == 2 ? t[i].dim[1] : 1);
    char *dir = good_new();
    assert_int_equal(run(dir, "--json", "--tensors"), 0);
    assert_string_equal(said, "");
    json_t *r = report(), *w = json_object_get(r, "weights"), *kinds = json_object_get(w, "kinds");
    assert_int_equal(number(w, "parameters", NULL), matrices + norms);
    assert_int_equal(number(w, "tensors", NULL), CHECKPOINT_TENSORS);
    assert_int_equal(number(w, "files", NULL), 1);
    assert_int_equal(number(w, "bytes_on_disk", NULL), 4 * (matrices + norms + 80));
    assert_int_equal(number(w, "bytes_packed", "f32"), 4 * (matrices + norms));
    assert_int_equal(number(w, "bytes_packed", "bf16"), 2 * matrices + 4 * norms);
    assert_int_equal(number(w, "bytes_packed", "q8"), matrices * 34 / 32 + 4 * norms);
    assert_int_equal(number(w, "kv_bytes_per_token", "bf16"), 2 * 1 * 1 * 6 * 2);
    assert_int_equal(number(w, "kv_bytes_per_token", "f32"), 2 * 1 * 1 * 6 * 4);
    assert_int_equal(number(kinds, "norms", "parameters"), norms);
    assert_int_equal(number(kinds, "attention", "count"), 4);
    assert_int_equal(number(kinds, "feed-forward", "count"), 3);
    assert_int_equal(number(kinds, "left out", "count"), 1);
    assert_int_equal(number(json_object_get(r, "config"), "head_dim", NULL), 6);
    assert_int_equal(json_array_size(json_object_get(r, "tensors")), CHECKPOINT_TENSORS);
    assert_int_equal(json_array_size(json_object_get(r, "refused")), 0);
    assert_true(json_is_null(json_object_get(r, "tokenizer_ids")));
    assert_true(json_is_null(json_object_get(r, "chat_template")));
    json_decref(r);
    assert_int_equal(run(dir, "--tensors", NULL), 0);
    assert_non_null(
        strstr(out, "model.layers.0.mlp.down_proj.weight  F32 [8, 12]  384 bytes  model.safetensors"));
    checkpoint_dir_free(dir);
}

static void refusals(void **state)
{
    (void) state;
    char *dir = checkpoint_dir_new();
    checkpoint_text(dir, "config.json", checkpoint_config);
    assert_int_equal(run(dir, "--json", NULL), 1);
    json_t *r = report(), *first = json_array_get(json_object_get(r, "refused"), 0);
    assert_true(json_is_object(json_object_get(r, "config"))); /* what can be read is shown */
    assert_true(json_is_null(json_object_get(r, "weights")));
    assert_string_equal(json_string_value(json_object_get(first, "status")), "ST_IO");
    assert_non_null(strstr(said, json_string_value(json_object_get(first, "text"))));
    json_decref(r);
    checkpoint_text(dir, "config.json", "{\"model_type\":\"llama\"}");
    assert_int_equal(run(dir, NULL, NULL), 1);
    assert_non_null(strstr(said, "refused: "));
    assert_non_null(strstr(said, "this architecture is not served"));
    checkpoint_dir_free(dir);
    assert_int_equal(run("/nonexistent/\xff", "--json", NULL), 1); /* no UTF-8: still JSON */
    json_decref(report());
}

static void broken_text_files(void **state)
{
    (void) state;
    char *dir = good_new();
    checkpoint_text(dir, "tokenizer.json", "{");
    assert_int_equal(run(dir, NULL, NULL), 1);
    assert_non_null(strstr(said, "tokenizer.json"));
    assert_non_null(strstr(out, "weights hash")); /* the weights are shown all the same */
    checkpoint_dir_free(dir);
}

static void the_tiny_target(void **state)
{
    (void) state;
    const char *dir = checkpoint_shared("tiny/target");
    if (!dir)
        skip();
    assert_int_equal(run(dir, "--json", NULL), 0);
    json_t *r = report();
    assert_int_equal(number(r, "tokenizer_ids", NULL), 905);
    assert_string_equal(json_string_value(json_object_get(r, "chat_template")), "qwen3");
    assert_int_equal(number(r, "weights", "parameters"), 3380224);
    json_decref(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usage),           cmocka_unit_test(figures),
        cmocka_unit_test(refusals),        cmocka_unit_test(broken_text_files),
        cmocka_unit_test(the_tiny_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
