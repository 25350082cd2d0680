/* draft_head.c - guesses from part of the output layer: from the ids they should come from and no others, as good as whole ones where
 * they are widened, and given up where texts hold what is missing. */
#include "draft/internal.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { VOCAB = 9003, LIMIT = 120, ROUNDED = 128, TAIL = (VOCAB - 64) / 16 * 16, TEXT_MAX = 20000, TOP = 4 };

static const struct config shape = {.n_layers = 1,
                                    .hidden = 32,
                                    .n_heads = 2,
                                    .n_kv_heads = 1,
                                    .head_dim = 16,
                                    .ffn = 32,
                                    .vocab = VOCAB + 5,
                                    .ctx_max = 512,
                                    .rope_theta = 1e4f,
                                    .rms_eps = 1e-6f,
                                    .tied = 1};
static struct model *model;
static struct cpu *cpu;
static struct cpu_model *weights;
static uint64_t seed = 3;

static int setup(void **state)
{
    (void) state;
    struct cpu_opts o = {.threads = 2, .isa = CPU_ISA_AUTO};
    model = synth_model_new(&shape, TENSOR_F32, 9);
    return cpu_open(&cpu, &o, NULL) || cpu_model_open(&weights, cpu, model, CPU_QUANT_Q8, NULL);
}

static int teardown(void **state)
{
    (void) state;
    cpu_model_close(weights);
    cpu_close(cpu);
    synth_model_free(model);
    return 0;
}

static struct draft *open_draft(int32_t head)
{
    struct draft *d;
    struct err e = {0};
    struct draft_opts o = {.cpu = cpu,
                           .weights = weights,
                           .model = model,
                           .vocab = VOCAB,
                           .seqs_max = 2,
                           .context = 128,
                           .text_max = TEXT_MAX,
                           .top = TOP,
                           .head = head,
                           .prompt_rows = 64,
                           .kv_bytes = 1 << 20};
    if (draft_open(&d, &o, &e))
        fail_msg("%s", e.text);
    return d;
}

static int32_t any_token(void)
{
    return (int32_t) ((synth_next(&seed) >> 33) % VOCAB);
}

static const struct draw_state begun = {.pos = 1, .matched = -1};

static void propose(struct draft *d, struct draft_seq *s, int32_t root, float temperature, int depth,
                    struct tree *t)
{
    struct draw_params draw = {.top_p = 1,
                               .max_tokens = 1 << 30,
                               .repetition = 1,
                               .temperature = temperature,
                               .seed = 7,
                               .think = {-1, -1, -1, -1, NULL, 0}};
    struct draw_state at = begun;
    at.pos = s->n_tok + 1;
    struct draft_job j = {.seq = s,
                          .root = root,
                          .draw = &draw,
                          .state = &at,
                          .nodes = 24,
                          .depth = depth,
                          .read = 1 << 20,
                          .tree = t};
    do
        assert_int_equal(draft_propose(d, &j, 1), 0);
    while (t->n < 2);
    assert_int_equal(tree_check(t, VOCAB), 0);
}

/* The same share of what is said was missing, whatever the confidence. */
static void believe(struct draft *d, double misses)
{
    for (int b = 0; b < CONF_BINS; b++) {
        d->head.trials[b] = 100;
        d->head.misses[b] = 100 * misses;
    }
}

static int may_be(const uint8_t *noted, int32_t tok)
{
    return tok < ROUNDED || tok >= TAIL || noted[tok / 16];
}

/* Rounds that widen and rounds that do not, by turns: nothing of the one may be left for the other. */
static void guesses_come_from_the_part(void **state)
{
    static uint8_t noted[VOCAB / 16 + 1];
    (void) state;
    struct draft *whole = open_draft(0), *part = open_draft(LIMIT);
    struct draft_seq *a, *b;
    struct tree t, u;
    int outside = 0, likelier = 0;
    assert_int_equal(draft_seq_new(whole, &a), 0);
    assert_int_equal(draft_seq_new(part, &b), 0);
    for (int round = 0; round < 60; round++) {
        int32_t text[3] = {any_token(), any_token(), any_token()}, root = any_token();
        int wide = round % 3 == 1;
        float temperature = round % 2 ? 1.0f : 0.0f;
        for (int i = 0; i < 3; i++)
            noted[text[i] / 16] = 1;
        assert_int_equal(draft_feed(whole, a, text, 3), 0);
        assert_int_equal(draft_feed(part, b, text, 3), 0);
        believe(part, wide ? 1 : 0);
        propose(whole, a, root, temperature, 6, &t);
        propose(part, b, root, temperature, 6, &u);
        if (wide) {
            assert_int_equal(t.n, u.n);
            assert_memory_equal(t.tok, u.tok, (size_t) t.n * sizeof *t.tok);
            assert_memory_equal(t.parent, u.parent, (size_t) t.n * sizeof *t.parent);
        }
        for (int i = 1; i < u.n; i++)
            assert_true(wide || may_be(noted, u.tok[i]));
        for (int i = 1; i < t.n; i++)
            outside += !may_be(noted, t.tok[i]);
        likelier += t.n != u.n || memcmp(t.tok, u.tok, (size_t) t.n * sizeof *t.tok) != 0;
    }
    assert_true(outside > 100 && likelier > 20); /* of a random model nearly all lie outside */
    draft_seq_free(whole, a);
    draft_seq_free(part, b);
    draft_close(whole);
    draft_close(part);
}

/* What the part ranks is what the whole ranks once the others are masked. */
static void the_part_is_ranked_as_masked(void **state)
{
    (void) state;
    struct draft *whole = open_draft(0), *part = open_draft(LIMIT);
    struct draft_seq *a, *b;
    struct draw_scratch *x = draw_scratch_new(VOCAB);
    int32_t text[5] = {4000, 4001, 70, 8000, 9}, tok[TOP];
    float score[TOP], *l = malloc(VOCAB * sizeof *l);
    struct tree t;
    assert_non_null(x);
    assert_non_null(l);
    assert_int_equal(draft_seq_new(whole, &a), 0);
    assert_int_equal(draft_seq_new(part, &b), 0);
    assert_int_equal(draft_feed(whole, a, text, 5), 0);
    assert_int_equal(draft_feed(part, b, text, 5), 0);
    believe(part, 0);
    propose(whole, a, 17, 1, 1, &t);
    for (int32_t v = 0; v < VOCAB; v++)
        l[v] = v < ROUNDED || v >= TAIL || v / 16 == 250 || v / 16 == 500 ? whole->logits[v] : -1e30f;
    struct draw_params draw = {.top_p = 1, .repetition = 1, .temperature = 1, .seed = 7, .max_tokens = 9};
    struct draw_state at = begun;
    draw.think = (struct draw_think){-1, -1, -1, -1, NULL, 0};
    at.pos = 6;
    assert_int_equal(draw_rank(&draw, &at, NULL, l, VOCAB, x, TOP, tok, score, NULL), TOP);
    propose(part, b, 17, 1, 1, &t);
    assert_memory_equal(part->logits, l, VOCAB * sizeof *l);
    assert_memory_equal(part->ranked[0].tok, tok, sizeof tok);
    assert_memory_equal(part->ranked[0].score, score, sizeof score);
    draw_scratch_free(x);
    free(l);
    draft_seq_free(whole, a);
    draft_seq_free(part, b);
    draft_close(whole);
    draft_close(part);
}

/* Every id is in one of the ranges, once; those noted last stay. */
static void ranges_cover_the_vocabulary(void **state)
{
    static uint8_t times[VOCAB];
    (void) state;
    struct draft *d = open_draft(LIMIT);
    struct draft_seq *s;
    assert_int_equal(draft_seq_new(d, &s), 0);
    for (int32_t v = VOCAB - 1, n = 0; v >= 0; v--, n++) {
        assert_int_equal(draft_feed(d, s, &v, 1), 0);
        if (n % 500)
            continue;
        assert_int_equal(draft__head_narrow(d), 1);
        memset(times, 0, sizeof times);
        for (int i = 0; i < d->head.n_part; i++)
            for (int32_t u = d->head.part[i].from; u < d->head.part[i].to; u++)
                times[u]++;
        for (int32_t u = v; u < VOCAB && u < v + 1000; u++)
            assert_int_equal(times[u], 1);
        int32_t rest = 0;
        for (int i = 0; i < d->head.n_rest; i++)
            for (int32_t u = d->head.rest[i].from; u < d->head.rest[i].to; u++, rest++)
                times[u]++;
        assert_int_equal(rest, d->head.absent);
        for (int32_t u = 0; u < VOCAB; u++)
            assert_int_equal(times[u], 1);
    }
    assert_int_equal(d->head.n_hot, HEAD_HOT); /* more were noted */
    draft_seq_free(d, s);
    draft_close(d);
}

static void experience_decides(void **state)
{
    (void) state;
    struct draft *d = open_draft(LIMIT), *small = open_draft(-1), *all = open_draft(VOCAB);
    d->head.by_experience = 1;
    assert_int_equal(draft__head_narrow(small), 0); /* a vocabulary that is no burden */
    assert_int_equal(draft__head_narrow(all), 0);
    assert_int_equal(draft__head_narrow(d), 1);
    for (int i = 0; i < 1000; i++)
        draft__head_judge(d, 0.5f, 5000);
    assert_int_equal(draft__head_narrow(d), 0);
    for (int i = 0; i < 20000; i++)
        draft__head_judge(d, 0.5f, i % 2 ? 5 : VOCAB - 1);
    assert_int_equal(draft__head_narrow(d), 1);
    draft_close(d);
    draft_close(small);
    draft_close(all);
}

static void unsure_guesses_are_widened(void **state)
{
    (void) state;
    struct draft *d = open_draft(LIMIT);
    const float alive[2] = {1, 1}, sure[2] = {0.95f, 0.9f}, unsure[2] = {0.05f, 0.1f};
    assert_int_equal(draft__head_narrow(d), 1);
    for (int i = 0; i < 2000; i++) {
        draft__head_judge(d, 0.95f, 5);
        draft__head_judge(d, 0.05f, i % 2 ? 5 : 5000);
    }
    assert_int_equal(draft__head_widens(d, alive, sure, 2), 0);
    assert_int_equal(draft__head_widens(d, alive, unsure, 2), 1);
    draft_close(d);
}

static void refuses_more_than_there_are(void **state)
{
    (void) state;
    struct draft *d;
    struct err e;
    struct draft_opts o = {.weights = weights, .model = model, .vocab = VOCAB, .context = 128, .text_max = 9};
    o.head = VOCAB + 1;
    assert_int_equal(draft_open(&d, &o, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "--draft-head must be in 0..9003"));
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guesses_come_from_the_part),  cmocka_unit_test(the_part_is_ranked_as_masked),
        cmocka_unit_test(ranges_cover_the_vocabulary), cmocka_unit_test(experience_decides),
        cmocka_unit_test(unsure_guesses_are_widened),  cmocka_unit_test(refuses_more_than_there_are),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
