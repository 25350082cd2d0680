/* equality.c - the promise: the text is a function of (target, prompt, parameters, seed) and of nothing else.
 *
 * The reference is drafting off, one client, one thread.  Every other arm must give the same ids, phases, finish and logit bits.
 *
 * equality [PATTERN [tiny|random|experts]]: the tests whose names match, on one of the pairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "model/model.h"
#include "tests/lib/gate.h"
#include "tests/lib/passes.h"

enum { N_MAX = 40, RESUME_STEP = 7, RESUMES_MAX = N_MAX * GATE_TOKENS_MAX / RESUME_STEP };

static struct gate_pair pair;
static struct gate_result *want[16]; /* of each gate_hows */
static struct gate_result *got;
static int N; /* prompts an arm: 40, fewer under a sanitizer */

static void run_arm(const char *arm, const struct engine_opts *o, int spec, int nodes, int depth, int n,
                    int at_once)
{
    struct gate_request req[N_MAX];
    for (int i = 0; i < n; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = spec, .nodes = nodes, .depth = depth};
    EACH_HOW(h)
    {
        char name[128];
        snprintf(name, sizeof name, "%s, %s, %s", pair.name, arm, gate_hows[h].name);
        gate_run(o, &pair, &gate_hows[h], req, n, at_once, got);
        int accepted = 0;
        for (int i = 0; i < n; i++) {
            gate_same(name, i, &want[h][i], &got[i], 0);
            accepted += got[i].figures.accepted;
        }
        print_message("  %-70s equal, %d accepted\n", name, accepted);
    }
}

static int make_room(void)
{
    N = gate_scale(N_MAX);
    got = calloc(RESUMES_MAX, sizeof *got);
    return !got;
}

static int set_up(void **state)
{
    struct gate_request req[N_MAX];
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    assert_int_equal(make_room(), 0);
    for (int i = 0; i < N; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_OFF};
    EACH_HOW(h)
    {
        want[h] = calloc(N_MAX, sizeof *want[h]);
        assert_non_null(want[h]);
        gate_run(&o, &pair, &gate_hows[h], req, N, 1, want[h]);
        for (int i = 0; i < N; i++)
            assert_int_equal(want[h][i].status, 0);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    EACH_HOW(h)
    {
        free(want[h]);
        want[h] = NULL;
    }
    free(got);
    gate_pair_free(&pair);
    return 0;
}

static int set_up_tiny(void **state)
{
    gate_tiny(&pair);
    return set_up(state);
}

/* No reference: each test brings its own. */
static int set_up_formats(void **state)
{
    (void) state;
    gate_tiny(&pair);
    return make_room();
}

static int set_up_experts(void **state)
{
    gate_experts(&pair);
    return set_up(state);
}

static int set_up_random(void **state)
{
    gate_random(&pair);
    return set_up(state);
}

/* --- arms --- */

static void test_trees(void **state)
{
    static const int nodes[] = {1, 2, 5, 16, 64};
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        char arm[32];
        snprintf(arm, sizeof arm, "%d nodes", nodes[i]);
        run_arm(arm, &o, ENGINE_SPEC_NODES, nodes[i], 12, N, 1);
    }
}

static void test_clients(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    run_arm("16 clients, off", &o, ENGINE_SPEC_OFF, 0, 0, N, 16);
    run_arm("16 clients, 16 nodes", &o, ENGINE_SPEC_NODES, 16, 8, N, 16);
}

/* Trees as they pay: what a clock decides never shows. */
static void test_by_cost(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    o.cost_model = 1;
    o.draft_nodes = 64;
    o.lookup = 1;
    run_arm("by cost", &o, ENGINE_SPEC_AUTO, 0, 0, N, 1);
    o.threads = 2;
    run_arm("by cost, 16 clients", &o, ENGINE_SPEC_AUTO, 0, 0, N, 16);
}

static void test_threads(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    o.threads = 2;
    run_arm("2 threads, off", &o, ENGINE_SPEC_OFF, 0, 0, N, 1);
    run_arm("2 threads, 16 nodes, 4 clients", &o, ENGINE_SPEC_NODES, 16, 8, N, 4);
    o.threads = 3;
    o.side_threads = 1; /* the draft has a side of the pool */
    o.pin = 1;
    run_arm("3 threads, 1 of the draft's own, 16 nodes, 4 clients", &o, ENGINE_SPEC_NODES, 16, 8, N, 4);
}

static void test_kernels(void **state)
{
    const int isa[] = {passes_twin(), CPU_ISA_AVX2, CPU_ISA_AVXVNNI, CPU_ISA_AVX512, CPU_ISA_VNNI};
    static const char *const names[] = {"twin", "avx2", "avxvnni", "avx512", "vnni"};
    struct engine_opts o = gate_opts(&pair);
    int ran = 0;
    (void) state;
    for (int i = 0; i < 5; i++) {
        struct cpu *c;
        struct err e;
        struct cpu_opts co = {.threads = 1, .isa = isa[i]};
        if (cpu_open(&c, &co, &e)) {
            print_message("  %s: %s\n", names[i], e.text);
            continue;
        }
        cpu_close(c);
        o.isa = isa[i];
        run_arm(names[i], &o, ENGINE_SPEC_NODES, 5, 4, i == 0 ? N / 10 + 1 : N, 4);
        ran++;
    }
    assert_in_range(ran, 1, 5);
}

static void test_cache(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    struct gate_request req[N_MAX];
    long cached = 0;
    (void) state;
    o.prefix_cache = 1;
    for (int i = 0; i < N; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_NODES, .nodes = 16, .depth = 8};
    EACH_HOW(h)
    {
        struct gate_engine *g = gate_open(&o);
        for (int warm = 0; warm < 2; warm++) {
            gate_run_on(g, &pair, &gate_hows[h], req, N, 2, got);
            for (int i = 0; i < N; i++) {
                gate_same(warm ? "cache warm" : "cache cold", i, &want[h][i], &got[i], 0);
                cached += got[i].figures.n_cached;
            }
        }
        gate_close(g);
    }
    print_message("  %ld prompt tokens came from the cache\n", cached);
    assert_in_range(cached, gate_scale(1000), 1000000);
}

/* The next turn of each conversation: its prompt is the last one, its answer, and more.  Pages that held the answer are shared. */
static void next_turns(const struct gate_result *last, struct gate_prompt *next)
{
    for (int i = 0; i < N; i++) {
        const struct gate_prompt *old = &pair.prompt[i], *more = &pair.prompt[(i + 1) % N];
        struct gate_prompt *p = &next[i];
        int rest = more->n < 40 ? more->n : 40;
        memcpy(p->id, old->id, (size_t) old->n * sizeof *p->id);
        memcpy(p->id + old->n, last[i].tok, (size_t) last[i].n * sizeof *p->id);
        p->n = old->n + last[i].n;
        memcpy(p->id + p->n, more->id + more->n - rest, (size_t) rest * sizeof *p->id);
        p->n += rest;
    }
}

static void test_turns(void **state)
{
    struct engine_opts cold = gate_opts(&pair), o = cold;
    struct gate_request req[N_MAX];
    struct gate_result *second = calloc(N_MAX, sizeof *second);
    struct gate_pair turn = pair;
    long cached = 0;
    int h = gate_how_next(-1, gate_n_hows);
    (void) state;
    assert_non_null(second);
    turn.prompt = calloc(N_MAX, sizeof *turn.prompt);
    assert_non_null(turn.prompt);
    next_turns(want[h], turn.prompt);
    for (int i = 0; i < N; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_OFF};
    gate_run(&cold, &turn, &gate_hows[h], req, N, 1, second);
    for (int i = 0; i < N; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_NODES, .nodes = 16, .depth = 8};
    o.prefix_cache = 1;
    struct gate_engine *g = gate_open(&o);
    gate_run_on(g, &pair, &gate_hows[h], req, N, 4, got);
    gate_run_on(g, &turn, &gate_hows[h], req, N, 4, got);
    for (int i = 0; i < N; i++) {
        gate_same("second turn", i, &second[i], &got[i], 0);
        cached += got[i].figures.n_cached;
    }
    gate_close(g);
    print_message("  second turns: %ld prompt tokens came from the cache\n", cached);
    assert_in_range(cached, gate_scale(1000), 1000000);
    free(second);
    free(turn.prompt);
}

static void test_preempted(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    int preempted = 0;
    (void) state;
    int pages = N >= 16 ? 24 : N + 3; /* far fewer than those at once would fill */
    o.kv_bytes = (int64_t) cpu_kv_page_bytes(pair.target, o.kv_type) * pages;
    o.ctx_max = 0;
    o.prompt_rows = 256; /* so that many hold pages at once */
    struct gate_request req[N_MAX];
    int n = N > 16 ? N : 16; /* with fewer prompts some are asked again: so many at once do not fit */
    for (int i = 0; i < n; i++)
        req[i] = (struct gate_request){.prompt = i % N, .spec = ENGINE_SPEC_NODES, .nodes = 8, .depth = 4};
    EACH_HOW(h)
    {
        gate_run(&o, &pair, &gate_hows[h], req, n, 16, got);
        for (int i = 0; i < n; i++) {
            gate_same("preempted", i, &want[h][i % N], &got[i], 0);
            preempted += got[i].figures.preempted;
        }
    }
    print_message("  preempted %d times\n", preempted);
    assert_in_range(preempted, 10, 100000);
}

/* Every few rounds one of those that run loses its pages. */
static void test_evicted(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    int evicted = 0;
    (void) state;
    o.evict_every = 5;
    o.prefix_cache = 1;
    struct gate_request req[N_MAX];
    for (int i = 0; i < N; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_NODES, .nodes = 8, .depth = 4};
    EACH_HOW(h)
    {
        gate_run(&o, &pair, &gate_hows[h], req, N, 8, got);
        for (int i = 0; i < N; i++) {
            gate_same("evicted every 5th round", i, &want[h][i], &got[i], 0);
            evicted += got[i].figures.preempted;
        }
    }
    print_message("  evicted %d times\n", evicted);
    assert_in_range(evicted, N, 100000);
}

/* Prompts in chunks of all sizes, in the passes of those that run. */
static void test_chunks(void **state)
{
    static const int rows[] = {1, 17, 0};
    struct engine_opts o = gate_opts(&pair);
    (void) state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char arm[48];
        o.prompt_rows = rows[i];
        snprintf(arm, sizeof arm, "%d prompt rows a round, 6 clients", rows[i]);
        run_arm(arm, &o, ENGINE_SPEC_NODES, 5, 4, N, 6);
    }
}

/* Four answers to one prompt are those that four requests with the same choices get. */
static void test_choices(void **state)
{
    enum { EACH = 4 };
    struct engine_opts alone = gate_opts(&pair), o = alone;
    struct gate_request req[N_MAX];
    struct gate_result *single = calloc(N_MAX * EACH, sizeof *single);
    int differ = 0, cached = 0;
    (void) state;
    assert_non_null(single);
    o.threads = 2;
    EACH_HOW(h)
    {
        for (int c = 0; c < EACH; c++) {
            for (int i = 0; i < N; i++)
                req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_OFF, .choice = 2 + c};
            gate_run(&alone, &pair, &gate_hows[h], req, N, 1, single + c * N);
        }
        for (int i = 0; i < N; i++)
            req[i] = (struct gate_request){
                .prompt = i, .spec = ENGINE_SPEC_NODES, .nodes = 8, .depth = 4, .n = EACH, .choice = 2};
        gate_run(&o, &pair, &gate_hows[h], req, N, 12, got);
        for (int k = 0; k < N * EACH; k++) {
            gate_same("four choices", k, &single[k % EACH * N + k / EACH], &got[k], 0);
            differ += got[k].n != got[k / EACH * EACH].n ||
                      memcmp(got[k].tok, got[k / EACH * EACH].tok, (size_t) got[k].n * 4) != 0;
            cached += got[k].figures.n_cached;
        }
    }
    print_message("  %d differ from the first, %d prompt tokens were shared\n", differ, cached);
    assert_in_range(differ, N, N_MAX * EACH * gate_n_hows);
    assert_in_range(cached, N * 10, 100000000);
    free(single);
}

/* A second engine goes on where the first one broke off. */
static void test_resumed(void **state)
{
    struct engine_opts o = gate_opts(&pair);
    struct gate_request *req = calloc(RESUMES_MAX, sizeof *req);
    (void) state;
    assert_non_null(req);
    EACH_HOW(h)
    {
        int n = 0;
        for (int i = 0; i < N; i++)
            for (int from = RESUME_STEP; from <= want[h][i].n; from += RESUME_STEP)
                req[n++] = (struct gate_request){i, ENGINE_SPEC_NODES, 8, 4, want[h][i].tok, from, 1, 0};
        gate_run(&o, &pair, &gate_hows[h], req, n, 16, got);
        for (int k = 0; k < n; k++)
            gate_same("resumed", k, &want[h][req[k].prompt], &got[k], req[k].n_resume);
        print_message("  %s: %d resumptions equal\n", gate_hows[h].name, n);
    }
    free(req);
}

/* The same weights in two formats: BF16 in safetensors and in GGUF, kept and rounded. */
static void test_gguf(void **state)
{
    static const int quants[] = {CPU_QUANT_Q8, CPU_QUANT_Q4, CPU_QUANT_BF16};
    struct engine_opts o = gate_opts(&pair), stored = o;
    struct gate_request req[N_MAX];
    struct gate_result *reference = calloc(N_MAX, sizeof *reference);
    struct model *m;
    struct err e;
    (void) state;
    const char *file = passes_shared("golden/gguf/bf16/model.gguf");
    assert_non_null(reference);
    if (!file) {
        free(reference);
        skip();
    }
    if (model_open(&m, file, &e))
        fail_msg("%s", e.text);
    for (size_t q = 0; q < sizeof quants / sizeof *quants; q++) {
        stored.target_quant = o.target_quant = quants[q];
        o.target = m;
        for (int i = 0; i < N; i++)
            req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_NODES, .nodes = 8, .depth = 4};
        EACH_HOW(h)
        {
            gate_run(&stored, &pair, &gate_hows[h], req, N, 4, reference);
            gate_run(&o, &pair, &gate_hows[h], req, N, 4, got);
            for (int i = 0; i < N; i++)
                gate_same("GGUF", i, &reference[i], &got[i], 0);
        }
        print_message("  %s: GGUF and safetensors equal\n", cpu_quant_name(quants[q]));
    }
    model_close(m);
    free(reference);
}

/* Budgets end inside trees, and the arms above must have met that. */
static void test_not_vacuous(void **state)
{
    int cut = 0, stopped = 0, lengths = 0;
    (void) state;
    EACH_HOW(h)
    for (int i = 0; i < N; i++) {
        cut += want[h][i].figures.cut;
        stopped += want[h][i].finish == ENGINE_FINISH_STOP;
        lengths += want[h][i].finish == ENGINE_FINISH_LENGTH;
    }
    print_message("  %d budgets cut in, %d stops, %d lengths\n", cut, stopped, lengths);
    assert_in_range(lengths, 10 * N / N_MAX, 10000);
    if (strcmp(pair.name, "tiny pair") == 0) {
        assert_in_range(cut, 20 * N / N_MAX, 10000);
        assert_in_range(stopped, 20 * N / N_MAX, 10000);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_vacuous), cmocka_unit_test(test_trees),     cmocka_unit_test(test_clients),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_kernels),   cmocka_unit_test(test_cache),
        cmocka_unit_test(test_turns),       cmocka_unit_test(test_preempted), cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_evicted),     cmocka_unit_test(test_chunks),    cmocka_unit_test(test_choices),
        cmocka_unit_test(test_by_cost),
    };
    const struct CMUnitTest formats[] = {cmocka_unit_test(test_gguf)};
    int failed = 0;
    if (argc < 3 || strcmp(argv[2], "tiny") == 0) {
        failed += cmocka_run_group_tests_name("gate: equality, tiny pair", tests, set_up_tiny, tear_down);
        failed += cmocka_run_group_tests_name("gate: equality, formats", formats, set_up_formats, tear_down);
    }
    if (argc < 3 || strcmp(argv[2], "random") == 0)
        failed += cmocka_run_group_tests_name("gate: equality, random pair", tests, set_up_random, tear_down);
    if (argc < 3 || strcmp(argv[2], "experts") == 0)
        failed += cmocka_run_group_tests_name("gate: equality, experts", tests, set_up_experts, tear_down);
    return failed;
}
