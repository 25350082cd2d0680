/* coins.c - synthetic acceptance: rates as given, by depth, along the top path alone; runs that repeat; nothing of it unasked. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "daemon/synthetic.h"
#include "tests/lib/rig.h"

enum { ANSWERS = 12, PROMPT = 20, TOKENS = 400, NODES = 40 };

static struct small other; /* a draft that agrees with the target on nothing */

static int setup(void **state)
{
    (void) state;
    small_open(&rig_small, 5);
    small_open(&other, 6);
    return 0;
}

static int teardown(void **state)
{
    (void) state;
    small_close(&rig_small);
    small_close(&other);
    return 0;
}

static struct synthetic rates(const char *text)
{
    struct synthetic s;
    struct err e;
    if (synthetic_parse(&s, text, &e))
        fail_msg("%s", e.text);
    return s;
}

/* --- words --- */

static void reads_rates(void **state)
{
    static const char *const bad[] = {"",     ",",     ".8,",    ",.8", ".8,,.7", "1.1",
                                      "-0.1", ".8 .7", ".8,.7x", "nan", "80%",    "inf"};
    char text[256];
    struct synthetic s = rates(".80,.75,0.7,1,0");
    struct err e;
    (void) state;
    assert_int_equal(s.n, 5);
    assert_true(s.rate[0] == 0.8f && s.rate[2] == 0.7f && s.rate[3] == 1 && s.rate[4] == 0);
    synthetic_say(&s, text, sizeof text);
    assert_string_equal(text, "0.8,0.75,0.7,1,0");
    const float same[] = {0.8f, 0.75f, 0.7f, 1, 0};
    assert_true(synthetic_is(&s, same, 5) && !synthetic_is(&s, same, 4));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(synthetic_parse(&s, bad[i], &e), ST_INPUT);
        assert_non_null(strstr(e.text, "rates in 0..1"));
    }
    char many[3 * SYNTHETIC_MAX + 3] = ".1";
    for (int i = 0; i < SYNTHETIC_MAX; i++)
        memcpy(many + strlen(many), ",.1", 4);
    assert_int_equal(synthetic_parse(&s, many, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "at most 63"));
}

static void marks_fingerprints(void **state)
{
    char a[64] = "n1", b[64] = "n1", none[64] = "n1";
    struct synthetic s = rates(".8"), t = rates(".8,.7"), u = {0};
    (void) state;
    synthetic_mark(&s, a, sizeof a);
    synthetic_mark(&t, b, sizeof b);
    synthetic_mark(&u, none, sizeof none);
    assert_true(strncmp(a, "n1-synthetic-", 13) == 0 && strlen(a) == 21);
    assert_true(strcmp(a, b) != 0);
    assert_string_equal(none, "n1");
}

/* --- coins --- */

static void about(double got, double want, double n)
{
    double limit = 4 * sqrt(want * (1 - want) / n) + 1e-9;
    if (fabs(got - want) > limit)
        fail_msg("a rate of %.4f in %.0f trials, expected %.4f +- %.4f", got, n, want, limit);
}

static void coins_fall_as_often_as_asked(void **state)
{
    enum { N = 100000 };
    struct synthetic s = rates(".80,.35,0,1");
    (void) state;
    for (int32_t d = 1; d <= s.n; d++) {
        int kept = 0, both = 0, last = 0;
        for (int64_t pos = 0; pos < N; pos++) {
            int now = synthetic_keeps(&s, 77, 0, pos, d);
            kept += now;
            both += now && last;
            last = now;
        }
        double rate = (double) s.rate[d - 1];
        about((double) kept / N, rate, N);
        about((double) both / (N - 1), rate * rate, N); /* neighbours know nothing of each other */
    }
    int same = 0;
    for (int64_t pos = 0; pos < N; pos++) { /* other seeds, other coins */
        assert_int_equal(synthetic_keeps(&s, 5, 0, pos, 1), synthetic_keeps(&s, 5, 0, pos, 1));
        same += synthetic_keeps(&s, 5, 0, pos, 2) == synthetic_keeps(&s, 6, 0, pos, 2);
        assert_int_equal(synthetic_keeps(&s, 5, 0, pos, 5), 0); /* deeper than the list */
        assert_int_equal(synthetic_keeps(&s, 5, 0, pos, 0), 0);
    }
    about((double) same / N, 0.35 * 0.35 + 0.65 * 0.65, N);
}

/* --- whole answers --- */

static struct engine_opts opts_of(const char *text, const struct small *draft)
{
    struct engine_opts o = rig_opts(4, ANSWERS);
    o.synthetic = text ? rates(text) : (struct synthetic){0};
    o.draft = draft->model;
    o.lookup = 1;
    o.rows_max = 256;
    return o;
}

/* All answers of one engine, asked in turn, by trees of NODES or as `spec` says. */
static struct rig *answers(struct engine_opts o, int spec, float temperature)
{
    struct rig *r = rig_open(o);
    for (int i = 0; i < ANSWERS; i++) {
        struct engine_request *q = rig_request(i, PROMPT, TOKENS);
        q->draw.temperature = temperature;
        q->spec = spec;
        q->spec_nodes = NODES;
        rig_start(r, q);
        RIG_UNTIL(r, r->seen[i].n_end);
        rig_whole(r, i, TOKENS);
    }
    return r;
}

/* kept[d]: guesses of depth d that were kept; kept[0]: passes in which there was something to keep. */
static void kept_by_depth(const struct rig *r, double *kept)
{
    for (int d = 0; d < ENGINE_DEPTH_MAX; d++)
        kept[d] = 0;
    for (int i = 0; i < ANSWERS; i++) {
        const struct engine_figures *f = &r->seen[i].figures;
        kept[0] += f->passes;
        for (int d = 1; d < ENGINE_DEPTH_MAX; d++)
            kept[d] += f->accepted_at[d - 1];
    }
}

/* Of a draft that always agrees and of one that never does: the rates are those that were given, and nothing deeper is kept. */
static void keeps_by_depth(void **state)
{
    static const double want[] = {0.8, 0.5, 0.65};
    enum { DEPTHS = sizeof want / sizeof *want };
    const struct small *const draft[] = {&rig_small, &other};
    (void) state;
    for (int which = 0; which < 4; which++) {
        double kept[ENGINE_DEPTH_MAX];
        struct rig *r = answers(opts_of(".8,.5,.65", draft[which % 2]), ENGINE_SPEC_NODES, which / 2 ? 1 : 0);
        kept_by_depth(r, kept);
        for (int d = 1; d <= DEPTHS; d++) /* of 400 tokens the last ones have no room for a guess */
            about(kept[d] / (kept[d - 1] - (d == 1 ? ANSWERS : 0)), want[d - 1], kept[d - 1]);
        for (int d = DEPTHS + 1; d < ENGINE_DEPTH_MAX; d++)
            assert_true(kept[d] == 0);
        rig_close(r);
    }
}

static void never_and_always(void **state)
{
    double kept[ENGINE_DEPTH_MAX];
    (void) state;
    struct rig *r = answers(opts_of("0", &rig_small), ENGINE_SPEC_NODES, 0);
    kept_by_depth(r, kept); /* the draft says what the target would: no matter */
    assert_true(kept[0] >= ANSWERS * (TOKENS - 1) && kept[1] == 0);
    rig_close(r);
    r = answers(opts_of("1,1", &other), ENGINE_SPEC_NODES, 1);
    kept_by_depth(r, kept); /* three tokens a pass, but for the first one of an answer and its end */
    assert_in_range((int) kept[0], ANSWERS * TOKENS / 3, ANSWERS * (TOKENS / 3 + 3));
    assert_true(kept[1] > 0 && kept[2] >= kept[1] - ANSWERS && kept[3] == 0);
    rig_close(r);
}

/* Confidence is calibrated by coins as by a target's word: trees of five nodes become the chain that is kept. */
static void trees_follow_the_coins(void **state)
{
    struct engine_opts o = opts_of("1,1,1,1", &other);
    struct rig *r = rig_open(o);
    (void) state;
    for (int i = 0; i < ANSWERS; i++) {
        struct engine_request *q = rig_request(i, PROMPT, TOKENS);
        q->spec = ENGINE_SPEC_NODES;
        q->spec_nodes = 5;
        rig_start(r, q);
        RIG_UNTIL(r, r->seen[i].n_end);
    }
    const struct engine_figures *f = &r->seen[ANSWERS - 1].figures;
    assert_true(f->accepted > 3.7 * f->passes);
    rig_close(r);
}

static void runs_repeat(void **state)
{
    static struct answer_seen seen[ANSWERS];
    (void) state;
    for (int turn = 0; turn < 2; turn++) {
        struct rig *r = answers(opts_of(".8,.75,.7", &other), ENGINE_SPEC_NODES, 1);
        for (int i = 0; i < ANSWERS && turn; i++) {
            assert_memory_equal(r->seen[i].tok, seen[i].tok, TOKENS * sizeof *seen[i].tok);
            assert_int_equal(r->seen[i].figures.accepted, seen[i].figures.accepted);
        }
        memcpy(seen, r->seen, sizeof seen);
        rig_close(r);
    }
}

/* Drafting off: the target's own words, as ever. */
static void off_is_the_target(void **state)
{
    struct rig *with = answers(opts_of(".8", &other), ENGINE_SPEC_OFF, 1);
    struct rig *without = answers(opts_of(NULL, &other), ENGINE_SPEC_NODES, 1);
    struct rig *coins = answers(opts_of(".8", &other), ENGINE_SPEC_NODES, 1);
    int differ = 0;
    (void) state;
    for (int i = 0; i < ANSWERS; i++) {
        assert_memory_equal(with->seen[i].tok, without->seen[i].tok, TOKENS * sizeof(int32_t));
        differ += memcmp(coins->seen[i].tok, without->seen[i].tok, TOKENS * sizeof(int32_t)) != 0;
    }
    assert_int_equal(differ, ANSWERS); /* and with it they are not, which is why it is said everywhere */
    rig_close(with);
    rig_close(without);
    rig_close(coins);
}

static void is_described(void **state)
{
    struct engine_info plain, coins;
    struct engine_opts o = opts_of(".8", &other);
    struct engine *e;
    struct err err;
    (void) state;
    struct rig *r = rig_open(o);
    engine_describe(r->engine, &coins);
    rig_close(r);
    o.synthetic.n = 0;
    r = rig_open(o);
    engine_describe(r->engine, &plain);
    rig_close(r);
    assert_true(coins.synthetic.n == 1 && plain.synthetic.n == 0);
    size_t n = strlen(plain.fingerprint);
    assert_true(strncmp(coins.fingerprint, plain.fingerprint, n) == 0 &&
                strncmp(coins.fingerprint + n, "-synthetic-", 11) == 0);
    o = opts_of(".8", &other);
    o.draft = NULL;
    assert_int_equal(engine_open(&e, &o, NULL, NULL, &err), ST_INPUT);
    assert_non_null(strstr(err.text, "needs --draft"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_rates),
        cmocka_unit_test(marks_fingerprints),
        cmocka_unit_test(coins_fall_as_often_as_asked),
        cmocka_unit_test(keeps_by_depth),
        cmocka_unit_test(never_and_always),
        cmocka_unit_test(trees_follow_the_coins),
        cmocka_unit_test(runs_repeat),
        cmocka_unit_test(off_is_the_target),
        cmocka_unit_test(is_described),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
