/* logprob.c - logprobs against long double sums: raw, and of what masks, penalties, temperature and cuts leave. */
#include "draw/draw.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { V_MAX = 1500, ROWS = 300 };

static uint64_t dice = 3;

static long double log_sum(const float *l, int n)
{
    long double m = -INFINITY, sum = 0;
    for (int v = 0; v < n; v++)
        m = l[v] > m ? l[v] : m;
    for (int v = 0; v < n; v++)
        sum += expl(l[v] - m);
    return m + logl(sum);
}

/* Within one rounding of a float of that size. */
static void near(float got, long double want)
{
    if (!(fabsl(got - want) <= 1e-9L + fabsl(want) * 6.1e-8L))
        fail_msg("%.9g, not %.12Lg", (double) got, want);
}

static void random_row(float *l, int n)
{
    float spread = (float) (1 + (synth_next(&dice) >> 60));
    for (int v = 0; v < n; v++)
        l[v] = spread * synth_uniform(&dice);
    if (synth_next(&dice) >> 63)
        l[n / 2] += 300; /* one that stands alone: others are tiny but not -inf */
}

static void raw_ones_are_exact(void **state)
{
    static float l[V_MAX];
    struct draw_logprobs out;
    (void) state;
    for (int i = 0; i < ROWS; i++) {
        int n = 1 + (int) (synth_next(&dice) >> 40) % V_MAX, asked = i % 21;
        struct draw_scratch *x = draw_scratch_new(n);
        struct draw_params p = {.top_p = 1, .repetition = 1, .logprobs = 1, .top_logprobs = asked};
        struct draw_state s = {.matched = -1};
        int32_t tok = (int32_t) (synth_next(&dice) >> 40) % n;
        random_row(l, n);
        draw_logprobs(&p, &s, NULL, l, n, x, tok, &out);
        long double all = log_sum(l, n);
        near(out.logprob, l[tok] - all);
        assert_true(isnan(out.processed));
        assert_int_equal(out.n, asked < n ? asked : n);
        for (int k = 0; k < out.n; k++) {
            near(out.top[k], l[out.tok[k]] - all);
            assert_true(isnan(out.after[k]));
            if (k)
                assert_true(l[out.tok[k]] < l[out.tok[k - 1]] || out.tok[k] > out.tok[k - 1]);
        }
        for (int v = 0, seen = 0; v < n && out.n; v++) { /* nobody likelier was left out */
            for (int k = 0; k < out.n; k++)
                seen += out.tok[k] == v;
            if (l[v] > l[out.tok[out.n - 1]])
                assert_true(seen > 0);
        }
        draw_scratch_free(x);
    }
}

/* Eight values, top_k 3, a ban and a bias: worked out beside it. */
static void processed_ones_follow_the_draw(void **state)
{
    static const float l[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const int32_t banned[] = {7}, bias_id[] = {0};
    static const float bias[] = {5.5f};
    struct draw_params p = {.temperature = 0.5f,
                            .top_k = 3,
                            .top_p = 1,
                            .repetition = 1,
                            .logprobs = 1,
                            .top_logprobs = 8,
                            .processed = 1,
                            .banned = banned,
                            .n_banned = 1,
                            .bias_id = bias_id,
                            .bias = bias,
                            .n_bias = 1};
    struct draw_scratch *x = draw_scratch_new(8);
    struct draw_state s = {.matched = -1};
    struct draw_logprobs out;
    static const float kept[] = {13, 14, 12}; /* ids 0 (6.5), 6 (7), 5 (6), over 0.5 */
    long double all = log_sum(kept, 3);
    (void) state;
    draw_logprobs(&p, &s, NULL, l, 8, x, 0, &out);
    near(out.processed, 13 - all);
    near(out.logprob, 1 - log_sum(l, 8));
    assert_int_equal(out.tok[0], 7);
    assert_true(out.after[0] == -INFINITY); /* banned */
    near(out.after[1], 14 - all);
    near(out.after[2], 12 - all);
    for (int k = 3; k < 7; k++)
        assert_true(out.after[k] == -INFINITY); /* cut */
    near(out.after[7], 13 - all);
    p.temperature = 0;
    draw_logprobs(&p, &s, NULL, l, 8, x, 6, &out);
    assert_true(out.processed == 0);
    assert_true(out.after[7] == -INFINITY);
    draw_scratch_free(x);
}

static void absent_ones_say_so(void **state)
{
    struct draw_logprobs out;
    (void) state;
    draw_logprobs_absent(&out);
    assert_true(isnan(out.logprob) && isnan(out.processed));
    assert_int_equal(out.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(raw_ones_are_exact),
                                       cmocka_unit_test(processed_ones_follow_the_draw),
                                       cmocka_unit_test(absent_ones_say_so)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
