/* budget.c - thinking budgets 1..80 on ten prompts, with 64-node trees: never one token over, always an answer.
 *
 * The count is made here from the ids alone, not from what the engine says of itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/gate.h"

enum { BUDGET_MAX = 80, PROMPTS = 10, MAX_TOKENS = 200 };

static struct gate_pair pair;
static struct gate_result *got;

/* Tokens between <think> and </think> (or the closing text), and where the answer begins. */
static int count_thinking(const struct gate_result *r, int *answer, int *closed)
{
    const struct draw_think *t = &pair.think;
    int open = 0, n = 0;
    *closed = 0;
    while (open < r->n && r->tok[open] != t->open)
        open++;
    int i = open + 1;
    for (; i < r->n && r->tok[i] != t->close; i++, n++)
        if (i + t->n_closer <= r->n &&
            memcmp(r->tok + i, t->closer, (size_t) t->n_closer * sizeof *t->closer) == 0) {
            *answer = i + t->n_closer;
            *closed = 1;
            return n;
        }
    *answer = i + 1;
    return open < r->n ? n : 0;
}

static void check(const struct gate_result *r, int budget, int i, int *cuts)
{
    int answer, closed, n = count_thinking(r, &answer, &closed);
    if (n > budget)
        fail_msg("budget %d, prompt %d: %d tokens of thinking", budget, i, n);
    if (n != r->figures.n_thinking || closed != r->figures.cut)
        fail_msg("budget %d, prompt %d: %d tokens of thinking and cut %d, but the engine says %d and %d",
                 budget, i, n, closed, r->figures.n_thinking, r->figures.cut);
    if (closed && n != budget)
        fail_msg("budget %d, prompt %d: closed after %d tokens", budget, i, n);
    if (answer >= r->n || r->tok[answer] == pair.eos[0] || r->tok[answer] == pair.eos[1])
        fail_msg("budget %d, prompt %d: no answer after the thinking", budget, i);
    *cuts += closed;
}

static void run(float temperature)
{
    struct engine_opts o = gate_opts(&pair);
    struct gate_request req[PROMPTS];
    int n = 0, cuts = 0, step = 80 / gate_scale(80);
    for (int i = 0; n < PROMPTS; i++)
        if (pair.prompt[i].id[pair.prompt[i].n - 2] != pair.think.close) /* thinking on */
            req[n++] =
                (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_NODES, .nodes = 64, .depth = 16};
    for (int budget = 1; budget <= BUDGET_MAX; budget += step) {
        struct gate_how how = {"budget", temperature, 1, 0, 0, MAX_TOKENS, 0, budget, .seed = 9000};
        gate_run(&o, &pair, &how, req, PROMPTS, 4, got);
        for (int i = 0; i < PROMPTS; i++)
            check(&got[i], budget, i, &cuts);
    }
    print_message("  T %.1f: %d cuts\n", (double) temperature, cuts);
    assert_in_range(cuts, 10, 100000);
}

static void test_never_over(void **state)
{
    (void) state;
    run(0);
    run(0.8f);
}

static int set_up(void **state)
{
    (void) state;
    gate_tiny(&pair);
    got = calloc(PROMPTS, sizeof *got);
    return !got;
}

static int tear_down(void **state)
{
    (void) state;
    free(got);
    gate_pair_free(&pair);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_never_over)};
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("gate: thinking budget", tests, set_up, tear_down);
}
