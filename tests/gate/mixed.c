/* mixed.c - everything at once: what each arm of the other gates changes alone is here changed together, at random.
 *
 * Requests of every sampling run side by side in one engine: one answer or several, trees of 1 to 64 nodes and 1 to 63 levels, the
 * draft, lookup and the prefix cache on, pages for a few, one preempted every few rounds, prompts read in chunks of any size, answers
 * that are resumed, parked, or cancelled on the way.  The reference is each answer alone, drafting off.  One that was cancelled is a
 * beginning of it.  At the end no page is held.
 *
 * The tiny pair's guesses are often right, and its texts short; the random pair's lie across position 1024, where the sums of the
 * attention start afresh.
 *
 * mixed [PATTERN]; MIXED_SEED=N: another mixture */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/tree.h"
#include "cpu/cpu.h"
#include "model/model.h"
#include "tests/lib/gate.h"
#include "tests/lib/synth.h"

enum { REQUESTS = 30, AT_ONCE = 10, RESUME_MAX = 60 };

static struct gate_pair pair;

/* One request, and its answers in both runs. */
struct asked {
    const struct gate_how *how;
    struct gate_request req;
    int priority, client;
    int cancel_at, park_at, unpark_at; /* tokens of its first answer; -1: never */
    int parked, cancelled, ended;
    int n_resume;
    int32_t resume[RESUME_MAX];
    struct gate_result want[ENGINE_CHOICES_MAX], got[ENGINE_CHOICES_MAX];
};

static struct asked *asked;
static uint64_t dice;
static int N;

static int below(int n)
{
    return (int) ((synth_next(&dice) >> 33) % (uint64_t) n);
}

static const struct gate_how *any_how(void)
{
    int h = below(gate_n_hows + GATE_EXTRAS);
    return h < gate_n_hows ? &gate_hows[h] : &gate_extras[h - gate_n_hows];
}

static int answers_of(const struct asked *a)
{
    return a->req.n ? a->req.n : 1;
}

static void ask(struct asked *a)
{
    static const int several[] = {0, 0, 0, 2, 3, 8};
    memset(a, 0, sizeof *a);
    a->how = any_how();
    a->req = (struct gate_request){.prompt = below(pair.n_prompts),
                                   .spec = below(5) ? ENGINE_SPEC_NODES : ENGINE_SPEC_AUTO,
                                   .nodes = 1 + below(TREE_MAX),
                                   .depth = below(TREE_MAX),
                                   .n = several[below(6)],
                                   .choice = below(3)};
    a->priority = below(5) - 2;
    a->client = below(3);
    a->cancel_at = below(8) ? -1 : below(30);
    a->park_at = below(6) ? -1 : below(20);
    a->unpark_at = below(60);
}

/* Each answer alone, without guesses; then some are made resumptions. */
static void find_wanted(struct gate_engine *g, struct asked *a)
{
    struct gate_request alone = {.prompt = a->req.prompt, .spec = ENGINE_SPEC_OFF};
    for (int c = 0; c < answers_of(a); c++) {
        alone.choice = a->req.choice + c;
        gate_run_on(g, &pair, a->how, &alone, 1, 1, &a->want[c]);
        assert_int_equal(a->want[c].status, 0);
    }
    if (a->req.n || below(3) || a->want[0].n < 2)
        return;
    a->n_resume = 1 + below(a->want[0].n - 1 < RESUME_MAX ? a->want[0].n - 1 : RESUME_MAX);
    memcpy(a->resume, a->want[0].tok, (size_t) a->n_resume * sizeof *a->resume);
    a->req.resume = a->resume;
    a->req.n_resume = a->n_resume;
}

static void start(struct engine *e, int i)
{
    struct asked *a = &asked[i];
    struct engine_request *r = gate_request_new(&pair, a->how, &a->req, i);
    r->id = (uint64_t) i;
    r->priority = a->priority;
    r->client = (uint64_t) a->client;
    assert_int_equal(engine_start(e, r), 0);
}

/* What its client does as the answer comes. */
static void steer(struct engine *e, int i, int tokens)
{
    struct asked *a = &asked[i];
    if (a->cancel_at >= 0 && tokens > a->cancel_at && !a->cancelled) {
        a->cancelled = 1;
        assert_int_equal(engine_cancel(e, (uint64_t) i), 0);
    }
    if (a->park_at >= 0 && a->got[0].n > a->park_at && !a->parked) {
        a->parked = 1;
        assert_int_equal(engine_park(e, (uint64_t) i), 0);
    }
}

static void unpark(struct engine *e, int all, int tokens)
{
    for (int i = 0; i < N; i++)
        if (asked[i].parked == 1 && (all || tokens % 64 >= asked[i].unpark_at)) {
            asked[i].parked = 2;
            assert_int_equal(engine_unpark(e, (uint64_t) i), 0);
        }
}

static void check(const char *arm, int i)
{
    struct asked *a = &asked[i];
    for (int c = 0; c < answers_of(a); c++) {
        struct gate_result *want = &a->want[c], *got = &a->got[c];
        if (a->cancelled && got->finish == ENGINE_FINISH_CANCELLED) {
            want->n = a->n_resume + got->n;
            want->finish = got->finish;
            want->figures = got->figures;
        }
        gate_same(arm, i, want, got, a->n_resume);
    }
}

static void check_pages(struct engine *e, const char *arm)
{
    struct engine_stats s;
    do /* told once the round of the last END is over */
        engine_stats(e, &s);
    while (s.running || s.waiting);
    if (s.pages_used)
        fail_msg("%s: %d pages are still held", arm, s.pages_used);
}

/* Returns how often an answer lost its pages. */
static int run(const char *arm, const struct engine_opts *o)
{
    struct engine_opts quiet = gate_opts(&pair);
    struct gate_engine *g = gate_open(&quiet);
    int started = 0, ended = 0, open = 0, tokens = 0, preempted = 0, accepted = 0, cancelled = 0, resumed = 0;
    for (int i = 0; i < N; i++) {
        ask(&asked[i]);
        find_wanted(g, &asked[i]);
    }
    gate_close(g);
    g = gate_open(o);
    struct engine *e = gate_engine(g);
    while (ended < N) {
        for (; started < N && open < AT_ONCE; started++, open++)
            start(e, started);
        struct engine_event *ev = engine_next(e);
        if (!ev) {
            unpark(e, 1, 0);
            gate_wait(g);
            continue;
        }
        int i = (int) ev->id, c = ev->choice, last = ev->last;
        tokens += ev->n;
        gate_take(&asked[i].got[c], ev);
        steer(e, i, asked[i].got[c].n);
        unpark(e, 0, tokens);
        ended += last;
        open -= last;
    }
    check_pages(e, arm);
    gate_close(g);
    for (int i = 0; i < N; i++) {
        check(arm, i);
        cancelled += asked[i].cancelled;
        resumed += asked[i].n_resume > 0;
        for (int c = 0; c < answers_of(&asked[i]); c++) {
            preempted += asked[i].got[c].figures.preempted;
            accepted += asked[i].got[c].figures.accepted;
        }
    }
    print_message("  %s: equal; %d tokens, %d accepted, %d preemptions, %d cancelled, %d resumed\n", arm,
                  tokens, accepted, preempted, cancelled, resumed);
    assert_in_range(accepted, N, 1000000);
    return preempted;
}

/* evict_every: whoever is evicted must be able to read its text again before its turn comes again. */
static const struct mixture {
    int prompt_rows, evict_every, sessions, contexts; /* contexts: pages for so many whole texts */
    int threads, cache, lookup, rows_max, draft_context;
} mixtures[] = {
    {256, 7, 4, 8, 1, 1, 1, 256, 1024},
    {0, 0, 6, 2, 2, 1, 0, 256, 256},
    {37, 97, 3, 4, 1, 0, 1, 64, 1024},
    {256, 5, 8, 3, 2, 1, 1, 512, 128},
};

static void runs(const char *name)
{
    int longest = 0, preempted = 0;
    for (int i = 0; i < pair.n_prompts; i++)
        longest = pair.prompt[i].n > longest ? pair.prompt[i].n : longest;
    int pages = (longest + 90 + TREE_MAX) / CPU_PAGE + 1;
    for (size_t k = 0; k < sizeof mixtures / sizeof *mixtures; k++) {
        const struct mixture *m = &mixtures[k];
        struct engine_opts o = gate_opts(&pair);
        char arm[96];
        o.prefix_cache = m->cache;
        o.lookup = m->lookup;
        o.prompt_rows = m->prompt_rows;
        o.threads = m->threads;
        o.evict_every = m->evict_every;
        o.sessions_max = m->sessions;
        o.rows_max = m->rows_max;
        o.ctx_max = pages * CPU_PAGE;
        o.kv_bytes = (int64_t) cpu_kv_page_bytes(pair.target, o.kv_type) * pages * m->contexts;
        o.draft_context = m->draft_context;
        snprintf(arm, sizeof arm, "%s, mixture %zu", name, k);
        preempted += run(arm, &o);
    }
    assert_in_range(preempted, N / 2, 1000000);
}

static int set_up(void **state)
{
    (void) state;
    const char *seed = getenv("MIXED_SEED");
    N = gate_scale(REQUESTS);
    dice = seed ? strtoull(seed, NULL, 10) * 2 + 1 : 20261127;
    asked = calloc((size_t) REQUESTS, sizeof *asked);
    return !asked;
}

static int tear_down(void **state)
{
    (void) state;
    free(asked);
    return 0;
}

static void test_tiny(void **state)
{
    (void) state;
    gate_tiny(&pair);
    runs("tiny pair");
    gate_pair_free(&pair);
}

static void test_experts(void **state)
{
    (void) state;
    gate_experts(&pair);
    runs("experts");
    gate_pair_free(&pair);
}

static void test_border_of_sums(void **state)
{
    (void) state;
    gate_long(&pair, 1024);
    runs("across 1024");
    gate_pair_free(&pair);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tiny, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_experts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_border_of_sums, set_up, tear_down),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("gate: everything at once", tests, NULL, NULL);
}
