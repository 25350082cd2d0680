/* penalty.c - penalties and bias against values worked out by hand, in NUMERICS.md's order; what a branch sees; counts. */
#include "draw/draw.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

enum { V = 8 };

static struct draw_params base(void)
{
    return (struct draw_params){
        .temperature = 1, .top_p = 1, .max_tokens = 100, .repetition = 1, .think = {-1, -1, -1, -1, NULL, 0}};
}

/* The values behind the draw: draw_rank's scores at T = 0 are the adjusted logits. */
static void adjusted(struct draw_params p, const struct draw_past *past, const int32_t *branch, int n_branch,
                     const float *l, float *out)
{
    struct draw_scratch *x = draw_scratch_new(V);
    struct draw_state s = {.pos = 3, .matched = -1};
    struct draw_seen seen = {past, branch, n_branch};
    int32_t tok[V];
    float score[V];
    assert_non_null(x);
    p.temperature = 0;
    int n = draw_rank(&p, &s, &seen, l, V, x, V, tok, score, NULL);
    for (int i = 0; i < V; i++)
        out[i] = -INFINITY;
    for (int i = 0; i < n; i++)
        out[tok[i]] = score[i];
    draw_scratch_free(x);
}

static const float logits[V] = {4, -4, 3, -3, 2, -2, 1, 0};

/* Prompt 0 1 2; output 2 3 3. */
static struct draw_past *past_of(const struct draw_params *p)
{
    struct draw_past *past;
    assert_int_equal(draw_past_new(&past, p, 16), 0);
    for (int32_t t = 0; t < 3; t++)
        draw_past_add(past, t, 0);
    draw_past_add(past, 2, 1);
    draw_past_add(past, 3, 1);
    draw_past_add(past, 3, 1);
    return past;
}

static void each_rule_by_hand(void **state)
{
    static const int32_t bias_id[] = {0, 5, 7};
    static const float bias[] = {-1, 10, 0.5f};
    static const struct {
        float repetition, presence, frequency;
        int bias;
        float want[V];
    } cases[] = {
        {2, 0, 0, 0, {2, -8, 1.5f, -6, 2, -2, 1, 0}},           /* positive divided, negative multiplied */
        {1, 0.5f, 0, 0, {4, -4, 2.5f, -3.5f, 2, -2, 1, 0}},     /* output only, once */
        {1, 0, 0.25f, 0, {4, -4, 2.75f, -3.5f, 2, -2, 1, 0}},   /* output only, each time */
        {2, 0.5f, 0.25f, 1, {1, -8, 0.75f, -7, 2, 8, 1, 0.5f}}, /* in order: 3/2 - .5 - .25; -3*2 - .5 - .5 */
        {0.5f, -1, 0, 0, {8, -2, 7, -0.5f, 2, -2, 1, 0}},
    };
    (void) state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct draw_params p = base();
        float got[V];
        p.repetition = cases[i].repetition;
        p.presence = cases[i].presence;
        p.frequency = cases[i].frequency;
        if (cases[i].bias) {
            p.bias_id = bias_id;
            p.bias = bias;
            p.n_bias = 3;
        }
        struct draw_past *past = past_of(&p);
        assert_non_null(past);
        adjusted(p, past, NULL, 0, logits, got);
        for (int v = 0; v < V; v++)
            if (got[v] != cases[i].want[v])
                fail_msg("case %zu, id %d: %g, not %g", i, v, (double) got[v], (double) cases[i].want[v]);
        draw_past_free(past);
    }
}

/* A branch's tokens count as output, for this row alone. */
static void a_branch_counts_as_output(void **state)
{
    static const int32_t branch[] = {3, 6, 6};
    static const float want[V] = {4, -4, 2.25f, -4.25f, 2, -2, 0, 0}; /* 3: three times; 6: twice; 2: once */
    struct draw_params p = base();
    float got[V];
    (void) state;
    p.presence = 0.5f;
    p.frequency = 0.25f;
    struct draw_past *past = past_of(&p);
    adjusted(p, past, branch, 3, logits, got);
    for (int v = 0; v < V; v++)
        assert_true(got[v] == want[v]);
    adjusted(p, past, NULL, 0, logits, got);
    assert_true(got[6] == 1);
    draw_past_free(past);
}

static void masks_stand_above_bias(void **state)
{
    static const int32_t banned[] = {5}, bias_id[] = {5};
    static const float bias[] = {100};
    struct draw_params p = base();
    float got[V];
    (void) state;
    p.banned = banned;
    p.n_banned = 1;
    p.bias_id = bias_id;
    p.bias = bias;
    p.n_bias = 1;
    adjusted(p, NULL, NULL, 0, logits, got);
    assert_true(got[5] == -INFINITY);
    p.n_banned = 0;
    adjusted(p, NULL, NULL, 0, logits, got);
    assert_true(got[5] == 98);
}

/* Thousands of random tokens against plain counting; ids that no vocabulary has are counted and harm nothing. */
static void counts_like_an_array(void **state)
{
    enum { N = 3000, IDS = 700 };
    static int count[IDS];
    static float l[IDS], score[64];
    struct draw_params p = base();
    struct draw_past *past;
    struct draw_scratch *x = draw_scratch_new(IDS);
    struct draw_state s = {.pos = 3, .matched = -1};
    uint64_t dice = 5;
    int32_t tok[64];
    (void) state;
    p.frequency = 1;
    p.temperature = 0;
    assert_int_equal(draw_past_new(&past, &p, N + 2), 0);
    draw_past_add(past, -5, 1);
    draw_past_add(past, 1 << 30, 0);
    for (int i = 0; i < N; i++) {
        int32_t t = (int32_t) ((synth_next(&dice) >> 33) % IDS);
        draw_past_add(past, t, i % 3 != 0);
        count[t] += i % 3 != 0;
    }
    struct draw_seen seen = {past, NULL, 0};
    int n = draw_rank(&p, &s, &seen, l, IDS, x, 64, tok, score, NULL);
    assert_int_equal(n, 64);
    for (int i = 0; i < n; i++)
        assert_true(score[i] == -(float) count[tok[i]]);
    for (int v = 0; v < IDS; v++)
        assert_true(-(float) count[v] <= score[0]);
    draw_past_free(past);
    draw_scratch_free(x);
}

static void nothing_is_kept_without_penalties(void **state)
{
    struct draw_params p = base();
    struct draw_past *past;
    (void) state;
    assert_int_equal(draw_past_new(&past, &p, 16), 0);
    assert_null(past);
    draw_past_add(past, 1, 1);
    draw_past_free(past);
}

static void refuses_values_out_of_range(void **state)
{
    static const int32_t twice[] = {4, 4}, outside[] = {8};
    static const float one[] = {1, 1}, large[] = {101, 0};
    struct draw_params good = base(), p;
    struct err e;
    (void) state;
#define REFUSED(change, sentence)                                                                            \
    do {                                                                                                     \
        p = good;                                                                                            \
        change;                                                                                              \
        assert_int_equal(draw_check(&p, V, &e), ST_INPUT);                                                   \
        assert_string_equal(e.text, sentence);                                                               \
    } while (0)
    assert_int_equal(draw_check(&good, V, &e), 0);
    REFUSED(p.repetition = 0, "repetition_penalty must be above 0, in 0.01..100 (1: off), not 0");
    REFUSED(p.repetition = NAN, "repetition_penalty must be above 0, in 0.01..100 (1: off), not nan");
    REFUSED(p.presence = 2.5f, "presence_penalty must be in -2..2, not 2.5");
    REFUSED(p.frequency = -3, "frequency_penalty must be in -2..2, not -3");
    REFUSED((p.bias_id = twice, p.bias = one, p.n_bias = 2),
            "logit_bias: ids must ascend, each once, but 4 follows 4");
    REFUSED((p.bias_id = outside, p.bias = one, p.n_bias = 1),
            "logit_bias: token id 8 is outside the vocabulary, 0..7");
    REFUSED((p.bias_id = twice, p.bias = large, p.n_bias = 1),
            "logit_bias of id 4 must be in -100..100, not 101");
    REFUSED(p.n_bias = DRAW_BIAS_MAX + 1, "logit_bias: at most 1024 ids, not 1025");
    REFUSED((p.logprobs = 1, p.top_logprobs = 21), "top_logprobs must be in 0..20, not 21");
    REFUSED(p.top_logprobs = 3, "top_logprobs and processed logprobs need logprobs to be on");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_rule_by_hand),
                                       cmocka_unit_test(a_branch_counts_as_output),
                                       cmocka_unit_test(masks_stand_above_bias),
                                       cmocka_unit_test(counts_like_an_array),
                                       cmocka_unit_test(nothing_is_kept_without_penalties),
                                       cmocka_unit_test(refuses_values_out_of_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
