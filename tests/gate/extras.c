/* extras.c - the promise for the whole draw: penalties, bias, logprobs, constraints, and guesses by lookup.
 *
 * The reference is drafting off, one client.  Trees of several sizes, many clients, resumption, lookup beside the draft, and lookup
 * alone must give the same ids, phases, finish, logit bits and logprob bits.  Trees that hold the true text: tests/gate/oracle.c.
 *
 * extras [PATTERN [tiny|random]] */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/model.h"
#include "tests/lib/gate.h"

enum { N_MAX = 24, RESUME_STEP = 9, RESUMES_MAX = N_MAX * GATE_TOKENS_MAX / RESUME_STEP };

enum { HOWS = GATE_EXTRAS };

static struct gate_pair pair;
static struct gate_result *want[HOWS], *got;
static int N;

/* What became of the guesses of an arm, all samplings together. */
static long run_arm(const char *arm, const struct engine_opts *o, int spec, int nodes, int depth, int at_once)
{
    struct gate_request req[N_MAX];
    long accepted = 0;
    for (int i = 0; i < N; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = spec, .nodes = nodes, .depth = depth};
    EACH_EXTRA(h)
    {
        char name[128];
        snprintf(name, sizeof name, "%s, %s, %s", pair.name, arm, gate_extras[h].name);
        gate_run(o, &pair, &gate_extras[h], req, N, at_once, got);
        for (int i = 0; i < N; i++) {
            gate_same(name, i, &want[h][i], &got[i], 0);
            accepted += got[i].figures.accepted;
        }
    }
    print_message("  %s: equal, %ld accepted\n", arm, accepted);
    return accepted;
}

static int set_up(void **state)
{
    struct gate_request req[N_MAX];
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    N = gate_scale(N_MAX);
    got = calloc(RESUMES_MAX, sizeof *got);
    assert_non_null(got);
    for (int i = 0; i < N; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_OFF};
    EACH_EXTRA(h)
    {
        want[h] = calloc(N_MAX, sizeof *want[h]);
        assert_non_null(want[h]);
        gate_run(&o, &pair, &gate_extras[h], req, N, 1, want[h]);
        for (int i = 0; i < N; i++)
            assert_int_equal(want[h][i].status, 0);
    }
    return 0;
}

static int set_up_tiny(void **state)
{
    gate_tiny(&pair);
    return set_up(state);
}

static int set_up_random(void **state)
{
    gate_random(&pair);
    return set_up(state);
}

static int tear_down(void **state)
{
    (void) state;
    EACH_EXTRA(h)
    free(want[h]);
    free(got);
    gate_pair_free(&pair);
    return 0;
}

static void test_drafting(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    assert_in_range(run_arm("4 nodes", &o, ENGINE_SPEC_NODES, 4, 3, 1), 100 * N / N_MAX, 1000000);
    assert_in_range(run_arm("16 nodes, 16 clients", &o, ENGINE_SPEC_NODES, 16, 8, 16), 100 * N / N_MAX,
                    1000000);
    run_arm("64 nodes", &o, ENGINE_SPEC_NODES, 64, 12, 4);
    o.draft_head = o.vocab / 4;
    run_arm("16 nodes from a quarter of the vocabulary", &o, ENGINE_SPEC_NODES, 16, 8, 4);
    struct model parallel =
        *o.draft; /* the same weights, to which an unknown token means nothing: only first guesses are good */
    parallel.config.parallel = 1;
    parallel.config.pard_token = parallel.config.vocab - 1;
    o.draft = &parallel;
    assert_in_range(run_arm("16 nodes in one pass", &o, ENGINE_SPEC_NODES, 16, 8, 4), 50 * N / N_MAX,
                    1000000);
}

static void test_lookup(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    long draft = run_arm("draft alone, 16 nodes", &o, ENGINE_SPEC_NODES, 16, 8, 4);
    o.lookup = 1;
    long both = run_arm("draft and lookup, 16 nodes", &o, ENGINE_SPEC_NODES, 16, 8, 4);
    assert_true(both * 100 >=
                draft * 90); /* what lookup wastes, and what a draft misread through it would lose */
    o.draft = NULL;
    long alone = run_arm("lookup alone, 8 nodes", &o, ENGINE_SPEC_NODES, 8, 0, 1);
    if (strcmp(pair.name, "tiny pair") == 0) /* the random pair's words never come again */
        assert_in_range(alone, 20 * N / N_MAX, 1000000);
    run_arm("lookup alone, 64 nodes, 16 clients", &o, ENGINE_SPEC_NODES, 64, 40, 16);
}

static void test_resumed(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    struct gate_request *req = calloc(RESUMES_MAX, sizeof *req);
    (void) state;
    assert_non_null(req);
    o.lookup = 1;
    EACH_EXTRA(h)
    {
        int n = 0;
        for (int i = 0; i < N; i++)
            for (int from = RESUME_STEP; from <= want[h][i].n; from += RESUME_STEP)
                req[n++] = (struct gate_request){i, ENGINE_SPEC_NODES, 8, 4, want[h][i].tok, from, 1, 0};
        gate_run(&o, &pair, &gate_extras[h], req, n, 16, got);
        for (int k = 0; k < n; k++)
            gate_same(gate_extras[h].name, k, &want[h][req[k].prompt], &got[k], req[k].n_resume);
        print_message("  %s: %d resumptions equal\n", gate_extras[h].name, n);
    }
    free(req);
}

/* Four answers to one prompt, side by side: each is what it would be alone, and they differ. */
static void test_choices(void **state)
{
    enum { CHOICES = 4 };
    struct gate_how how = {"T 1, four answers", .temperature = 1, .top_p = 1,
                           .max_tokens = 40,    .budget = -1,     .seed = 7};
    struct gate_request req[CHOICES], one;
    struct gate_result *alone = calloc(1, sizeof *alone);
    struct engine_opts o = gate_opts(&pair);
    int differ = 0;
    (void) state;
    assert_non_null(alone);
    for (int p = 0; p < N; p++) {
        for (int c = 0; c < CHOICES; c++)
            req[c] = (struct gate_request){
                .prompt = p, .spec = ENGINE_SPEC_NODES, .nodes = 8, .depth = 4, .choice = c};
        gate_run(&o, &pair, &how, req, CHOICES, CHOICES, got);
        one = (struct gate_request){.prompt = p, .spec = ENGINE_SPEC_OFF, .choice = 1};
        gate_run(&o, &pair, &how, &one, 1, 1, alone);
        gate_same("choice 1", p, alone, &got[1], 0);
        differ +=
            got[0].n != got[1].n || memcmp(got[0].tok, got[1].tok, (size_t) got[0].n * sizeof *got[0].tok);
    }
    free(alone);
    assert_in_range(differ, N > 8, N); /* a few prompts may have one likely answer */
}

/* Texts that penalties change, of those drawn without them. */
static int count_changed(int h)
{
    struct gate_how plain = gate_extras[h];
    struct gate_request req[N_MAX];
    struct engine_opts o = gate_opts(&pair);
    int differ = 0;
    plain.repetition = plain.presence = plain.frequency = 0;
    for (int i = 0; i < N; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_OFF};
    gate_run(&o, &pair, &plain, req, N, 16, got);
    for (int i = 0; i < N; i++)
        differ += got[i].n != want[h][i].n ||
                  memcmp(got[i].tok, want[h][i].tok, (size_t) got[i].n * sizeof *got[i].tok);
    return differ;
}

static void test_not_vacuous(void **state)
{
    int differ = 0, stopped = 0, answers = 0, undrawn = 0;
    (void) state;
    for (int h = 0; h < 3; h++)
        differ += count_changed(h);
    EACH_EXTRA(h)
    for (int i = 0; i < N; i++) {
        undrawn += want[h][i].undrawn;
        stopped += gate_extras[h].constrain && want[h][i].finish == ENGINE_FINISH_STOP;
        answers += gate_extras[h].constrain;
    }
    print_message("  %d of %d texts changed by penalties; %d of %d choices made; %d tokens not drawn\n",
                  differ, 3 * N, stopped, answers, undrawn);
    assert_in_range(differ, N / 2, 3 * N);
    assert_in_range(stopped, answers * 3 / 4, answers);
    if (strcmp(pair.name, "tiny pair") == 0)
        assert_in_range(undrawn, 1, 1000000);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_not_vacuous), cmocka_unit_test(test_drafting),
                                       cmocka_unit_test(test_lookup), cmocka_unit_test(test_resumed),
                                       cmocka_unit_test(test_choices)};
    int failed = 0;
    if (argc < 3 || strcmp(argv[2], "tiny") == 0)
        failed +=
            cmocka_run_group_tests_name("gate: the whole draw, tiny pair", tests, set_up_tiny, tear_down);
    if (argc < 3 || strcmp(argv[2], "random") == 0)
        failed +=
            cmocka_run_group_tests_name("gate: the whole draw, random pair", tests, set_up_random, tear_down);
    return failed;
}
