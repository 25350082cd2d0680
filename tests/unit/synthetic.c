/* synthetic.c - synthetic models: their names, shapes and weights, and that what is written opens to the same. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <getopt.h>

#include "client/cmd.h"
#include "model/model.h"
#include "model/template.h"
#include "tests/lib/checkpoint.h"

static void names(void **state)
{
    (void) state;
    struct synth_shape s;
    struct err e = {0};
    assert_int_equal(synth_parse(&s, "8b", &e), 0);
    assert_true(s.n_layers == 36 && s.dtype == SYNTH_BF16 && s.seed == 0);
    assert_int_equal(synth_parse(&s, "30b-a3b:layers=2:dtype=q8:seed=18446744073709551615", &e), 0);
    assert_true(s.n_layers == 2 && s.dtype == SYNTH_Q8 && s.seed == UINT64_MAX);
    static const char *const bad[] = {"",
                                      "7b",
                                      "8b:",
                                      "8b:layers=0",
                                      "8b:layers=1025",
                                      "8b:layers=",
                                      "8b:layers=-1",
                                      "8b:dtype=f32",
                                      "8b:seed=x",
                                      "8b:colour=red",
                                      "8b::seed=1",
                                      "8B",
                                      "8b:layers=1 ",
                                      "8b:seed=18446744073709551616"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (synth_parse(&s, bad[i], &e) != ST_INPUT)
            fail_msg("'%s' was taken", bad[i]);
    struct model *m;
    assert_int_equal(model_open(&m, "synth:7b", &e), ST_INPUT);
    assert_null(checkpoint_lacks(&e, "synth:7b|no such shape|30b-a3b"));
}

/* Parameters of the real models, the embedding counted once where it is tied (facts on Qwen's model cards). */
static void shapes_are_the_real_ones(void **state)
{
    (void) state;
    static const struct {
        const char *name;
        int64_t parameters;
    } list[] = {
        {"0.6b", 596049920},  {"1.7b", 1720574976}, {"4b", 4022468096},       {"8b", 8190735360},
        {"14b", 14768307200}, {"32b", 32762123264}, {"30b-a3b", 30532122624}, {"235b-a22b", 235093634560},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct synth_shape s;
        struct config c;
        struct gen_config g;
        assert_int_equal(synth_parse(&s, list[i].name, NULL), 0);
        synth_config(&s, &c, &g);
        int64_t q = (int64_t) c.n_heads * c.head_dim, kv = (int64_t) c.n_kv_heads * c.head_dim, h = c.hidden;
        int64_t attention = 2 * q * h + 2 * kv * h + 2 * h + 2 * c.head_dim, ffn = (int64_t) 3 * h * c.ffn;
        if (c.moe.n_experts)
            ffn = c.moe.n_experts * ((int64_t) 3 * h * c.moe.ffn + h);
        int64_t all = c.n_layers * (attention + ffn) + h + c.vocab * h * (c.tied ? 1 : 2);
        assert_true(all == list[i].parameters);
        assert_true(g.n_eos == 2 && g.eos[0] == 151645 && g.eos[1] == 151643);
    }
}

static struct model *must_open(const char *name)
{
    struct model *m;
    struct err e = {0};
    if (model_open(&m, name, &e))
        fail_msg("%s", e.text);
    return m;
}

/* Every value finite and small, spread as it should be, and no two tensors alike. */
static void weights_are_sane(void **state)
{
    (void) state;
    struct model *m = must_open("synth:0.6b:layers=2");
    const uint16_t *w = m->layer[0].gate->data;
    double sum = 0, squares = 0;
    enum { N = 1 << 18 };
    for (int i = 0; i < N; i++) {
        uint32_t u = (uint32_t) w[i] << 16;
        float f;
        memcpy(&f, &u, sizeof f);
        assert_true(fabsf(f) < 0.035f);
        sum += (double) f;
        squares += (double) f * (double) f;
    }
    assert_true(fabs(sum / N) < 2e-4 && fabs(sqrt(squares / N) - 0.02) < 2e-4);
    assert_memory_not_equal(w, m->layer[1].gate->data, 4096);
    assert_memory_not_equal(w, m->layer[0].up->data, 4096);
    uint64_t h = m->weights_hash;
    model_close(m);
    m = must_open("synth:0.6b:layers=2:seed=1");
    assert_true(m->weights_hash != h);
    model_close(m);
}

/* As files: the same weights, configuration, tokenizer and template. */
static void same_when_written(const char *words)
{
    char name[80], dir[600], *tmp = checkpoint_dir_new();
    struct synth_shape s;
    struct tokenizer *a = NULL, *b = NULL;
    struct err e = {0};
    int which;
    snprintf(name, sizeof name, "synth:%s", words);
    snprintf(dir, sizeof dir, "%s/model", tmp);
    assert_int_equal(synth_parse(&s, words, &e), 0);
    if (synth_write(&s, dir, &e))
        fail_msg("%s", e.text);
    assert_int_equal(synth_write(&s, dir, &e), ST_PRECONDITION); /* nothing is overwritten */
    struct model *x = must_open(name), *y = must_open(dir);
    assert_true(x->weights_hash == y->weights_hash);
    assert_memory_equal(&x->config, &y->config, sizeof x->config);
    assert_memory_equal(&x->gen, &y->gen, sizeof x->gen);
    assert_int_equal(x->n_tensors, y->n_tensors);
    if (tokenizer_open(&a, name, &e) || tokenizer_open(&b, dir, &e) || tokenizer_compare(a, b, &e))
        fail_msg("%s", e.text);
    assert_true(tokenizer_hash(a) == tokenizer_hash(b));
    assert_int_equal(template_detect(dir, &which, &e), 0);
    assert_int_equal(which, CHAT_TEMPLATE_QWEN3);
    tokenizer_close(a);
    tokenizer_close(b);
    model_close(x);
    model_close(y);
    checkpoint_dir_free(strdup(dir));
    checkpoint_dir_free(tmp);
}

/* FP8 holds BF16 tensors, too: embedding, norms, scales. */
static void fp8_as_files(void **state)
{
    (void) state;
    same_when_written("0.6b:layers=1:dtype=fp8");
}

static void q8_as_a_file(void **state)
{
    (void) state;
    same_when_written("0.6b:layers=1:dtype=q8:seed=3");
}

/* Qwen3's ids where they matter, all bytes, and nothing without bytes below the padding. */
static void the_tokenizer(void **state)
{
    (void) state;
    struct tokenizer *t;
    struct tokens ids = {0};
    struct err e = {0};
    static const char text[] = "The quick brown fox, 123!\n\n\xe4\xbd\xa0<think>";
    assert_int_equal(tokenizer_open(&t, "synth:0.6b", &e), 0);
    assert_int_equal(tokenizer_count(t), 151669);
    assert_int_equal(tokenizer_added(t, "<|endoftext|>"), 151643);
    assert_int_equal(tokenizer_added(t, "<|im_end|>"), 151645);
    assert_int_equal(tokenizer_added(t, "<tool_call>"), 151657);
    assert_int_equal(tokenizer_added(t, "<think>"), 151667);
    assert_int_equal(tokenizer_added(t, "</think>"), 151668);
    assert_true(tokenizer_is_special(t, 151645) && !tokenizer_is_special(t, 151668));
    for (int32_t id = 0; id < tokenizer_count(t); id++) {
        size_t n;
        assert_non_null(tokenizer_bytes(t, id, &n));
    }
    assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, TOKENIZER_ADDED, &ids, &e), 0);
    char back[sizeof text] = "";
    size_t at = 0;
    for (size_t i = 0; i < ids.n; i++) {
        size_t n;
        const char *p = tokenizer_bytes(t, ids.id[i], &n);
        assert_true(at + n < sizeof back);
        memcpy(back + at, p, n);
        at += n;
    }
    assert_string_equal(back, text);
    assert_int_equal(ids.id[ids.n - 1], 151667);
    assert_true(ids.n < sizeof text - 8); /* words are merged */
    free(ids.id);
    tokenizer_close(t);
}

static int command(const char *a, const char *b, const char *c, const char *d, const char *e)
{
    char name[] = "synth";
    char *argv[] = {name,
                    (char *) (uintptr_t) a,
                    (char *) (uintptr_t) b,
                    (char *) (uintptr_t) c,
                    (char *) (uintptr_t) d,
                    (char *) (uintptr_t) e,
                    NULL};
    int n = 1;
    while (argv[n])
        n++;
    optind = 0; /* getopt starts anew */
    return cmd_synth(n, argv);
}

static void the_command(void **state)
{
    (void) state;
    char *dir = checkpoint_dir_new();
    assert_int_equal(command("--help", NULL, NULL, NULL, NULL), EXIT_DONE);
    assert_int_equal(command(dir, NULL, NULL, NULL, NULL), EXIT_USAGE);
    assert_int_equal(command("--like", "8b", NULL, NULL, NULL), EXIT_USAGE);
    assert_int_equal(command("--like", "7b", dir, NULL, NULL), EXIT_USAGE);
    assert_int_equal(command("--like", "8b", "--layers", "many", dir), EXIT_USAGE);
    assert_int_equal(command("--like", "8b", "--colour", dir, NULL), EXIT_USAGE);
    assert_int_equal(command("--like", "8b:seed=1:layers=1", "/nonexistent/there", NULL, NULL), EXIT_FAILED);
    checkpoint_text(dir, "config.json", "{}");
    assert_int_equal(command("--like", "8b", dir, NULL, NULL), EXIT_FAILED); /* something is there */
    checkpoint_dir_free(dir);
    dir = checkpoint_dir_new();
    assert_int_equal(command("--like=0.6b", "--layers=1", "--dtype=q8", "--seed=3", dir), EXIT_DONE);
    struct model *x = must_open("synth:0.6b:layers=1:dtype=q8:seed=3"), *y = must_open(dir);
    assert_true(x->weights_hash == y->weights_hash);
    model_close(x);
    model_close(y);
    checkpoint_dir_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(shapes_are_the_real_ones),
        cmocka_unit_test(weights_are_sane),
        cmocka_unit_test(fp8_as_files),
        cmocka_unit_test(q8_as_a_file),
        cmocka_unit_test(the_command),
        cmocka_unit_test(the_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
