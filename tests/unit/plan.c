/* plan.c - daemon/plan.h and daemon/cost.h against machines whose passes take what they are told to, and drafts that are right as
 * often as they are told to be. */
#include "daemon/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "tests/lib/synth.h"

/* --- costs --- */

static void costs_are_typical(void **state)
{
    struct cost c;
    (void) state;
    cost_init(&c);
    assert_true(cost_at(&c, 1) == 0 && cost_at(&c, 40) == 0);
    for (int i = 0; i < 30; i++) {
        cost_note(&c, 1, i % 4 ? 100 : 900); /* spikes do not show */
        cost_note(&c, 8, 200);
        cost_note(&c, 64, 1600);
    }
    assert_true(cost_at(&c, 0) == 0);
    assert_true(fabs(cost_at(&c, 1) - 100) < 1e-6);
    assert_true(fabs(cost_at(&c, 8) - 200) < 1e-6);
    assert_true(fabs(cost_at(&c, 36) - 900) < 1e-6); /* half the way from 8 to 64 */
    assert_true(cost_at(&c, 512) > 10000);           /* and on along the same line */
}

static void costs_never_fall(void **state)
{
    struct cost c;
    uint64_t dice = 5;
    (void) state;
    cost_init(&c);
    for (int i = 0; i < 5000; i++) {
        int32_t rows = 1 + (int32_t) (synth_next(&dice) >> 40) % 300;
        cost_note(&c, rows, (double) (synth_next(&dice) >> 44));
        double before = 0;
        for (int32_t r = 1; i % 100 == 0 && r < 600; r++) {
            double now = cost_at(&c, r);
            assert_true(now + 1e-3 >= before * (1 - 1e-12) && now < 1e12);
            before = now;
        }
    }
}

/* A machine that gets three times slower: the sizes that are not met follow those that are, and nothing runs away. */
static void costs_follow_what_is_measured(void **state)
{
    struct cost c;
    (void) state;
    cost_init(&c);
    for (int i = 0; i < 20; i++)
        for (int k = 0; k < 3; k++)
            cost_note(&c, 1 << (2 * k), 1000 * (1 + k));
    for (int i = 0; i < 500; i++)
        cost_note(&c, 1, 3000);
    assert_true(fabs(cost_at(&c, 1) - 3000) < 1);
    assert_true(fabs(cost_at(&c, 16) - 6000) <
                500);                /* what is not measured follows by a factor of two at most */
    for (int i = 0; i < 100000; i++) /* skewed noise on two sizes in turn */
        cost_note(&c, i % 2 ? 1 : 4, (i % 2 ? 1000 : 2000) * (i % 5 ? 1 : 4));
    assert_true(cost_at(&c, 16) > 1500 && cost_at(&c, 16) < 6000);
}

/* --- a machine, and sessions on it --- */

enum { SESSIONS = 16, VOCAB = 1000 };

struct machine {
    double pass, row;        /* ns of a target pass: pass + row * rows */
    double level, level_row; /* of the draft's */
    double overhead;
    double
        held_up; /* how often a round with guesses takes one and a half times its time, which no median shows */
    double right[SESSIONS]; /* how often a guess of the draft is right */
    int mode[SESSIONS], waiting;
    uint64_t dice;
    struct plan plan;
    struct plan_account account[SESSIONS];
    float hope[SESSIONS];
    int32_t unread[SESSIONS], given[SESSIONS];
    double ns, tokens[SESSIONS]; /* since the counts were reset */
    int levels, guesses, rounds;
};

static double pass_ns(const struct machine *m, int32_t rows)
{
    return m->pass + m->row * rows;
}

static double level_ns(const struct machine *m, int32_t rows)
{
    return m->level + m->level_row * rows;
}

static struct machine machine_of(double pass, double row, double level, double right)
{
    struct machine m = {
        .pass = pass, .row = row, .level = level, .level_row = level / 20, .overhead = 1e4, .dice = 9};
    for (int i = 0; i < SESSIONS; i++) {
        m.right[i] = right;
        m.mode[i] = PLAN_AUTO;
        m.hope[i] = 0.6f;
        m.given[i] = 100;
    }
    plan_init(&m.plan, 256);
    for (int i = 0; i < 9; i++)
        for (int32_t r = 1; r <= 64; r *= 2) {
            cost_note(&m.plan.target, r, pass_ns(&m, r));
            cost_note(&m.plan.level, r, level_ns(&m, r));
        }
    return m;
}

/* A level that costs more than its one guess is worth pays where it brings twelve. */
static void parallel_levels_cost_one_pass(void **state)
{
    (void) state;
    for (int parallel = 0; parallel < 2; parallel++) {
        struct machine m = machine_of(20e6, 0.1e6, 17e6, 0.7);
        struct plan_session s = {
            .mode = PLAN_AUTO, .nodes = 32, .depth = 12, .left = 500, .given = 100, .hope = 0.7f};
        s.account = &m.account[0];
        m.plan.parallel = parallel;
        plan_begin(&m.plan, &s, 1, 0, 0);
        assert_int_equal(s.draft, parallel);
    }
    struct machine m = machine_of(20e6, 0.1e6, 1e9, 0.7);
    struct plan_session s = {
        .mode = PLAN_AUTO, .nodes = 32, .depth = 12, .left = 500, .given = 100, .hope = 0.7f};
    s.account = &m.account[0];
    m.plan.parallel = 1;
    plan_begin(&m.plan, &s, 1, 0, 0);
    assert_int_equal(s.draft, 0);
}

static int chance(struct machine *m, double p)
{
    return (double) (synth_next(&m->dice) >> 11) * 0x1p-53 < p;
}

/* One round of n sessions that draft chains. */
static void play(struct machine *m, int n)
{
    struct plan_session s[SESSIONS];
    struct tree tree[SESSIONS], *list[SESSIONS];
    int32_t nodes[SESSIONS], tokens[SESSIONS], rows = 0, first = 0, text = 0;
    double ns = 0;
    for (int i = 0; i < n; i++) {
        s[i] = (struct plan_session){.mode = m->mode[i],
                                     .nodes = 32,
                                     .depth = 12,
                                     .hope = m->hope[i],
                                     .unread = m->unread[i],
                                     .left = 1000,
                                     .given = m->given[i],
                                     .account = &m->account[i]};
        tree_init(&tree[i], 0);
        list[i] = &tree[i];
    }
    plan_begin(&m->plan, s, n, 0, m->waiting);
    for (int i = 0; i < n; i++) {
        first += s[i].read + s[i].draft;
        text += s[i].read;
        m->unread[i] -= s[i].read;
        if (s[i].draft)
            tree_add(&tree[i], 0, 1, m->hope[i], TREE_MODEL, 0);
    }
    double looked =
        first ? level_ns(m, first) : 1000; /* where the model is not asked, lookup takes a microsecond */
    ns += looked;
    plan_note_level(&m->plan, first, text, looked);
    for (int level = 2; level < 12 && first; level++) {
        int32_t k = 0;
        float gain = 0;
        for (int i = 0; i < n; i++)
            if (tree[i].n == level) {
                k++;
                gain += powf(m->hope[i], (float) level);
            }
        if (!k || !(m->plan.fixed || plan_level(&m->plan, k, gain)))
            break;
        ns += level_ns(m, k);
        m->levels++;
        plan_note_level(&m->plan, k, 0, level_ns(m, k));
        for (int i = 0; i < n; i++)
            if (tree[i].n == level)
                tree_add(&tree[i], level - 1, level, m->hope[i], TREE_MODEL, 0);
    }
    plan_trim(&m->plan, list, nodes);
    for (int i = 0; i < n; i++) {
        assert_in_range(nodes[i], 1, tree[i].n);
        int kept = 0;
        while (kept + 1 < nodes[i] && chance(m, m->right[i]))
            kept++;
        if (s[i].draft)
            m->hope[i] +=
                0.1f * ((float) (kept > 0 || (nodes[i] < 2 && chance(m, m->right[i]))) - m->hope[i]);
        rows += nodes[i];
        m->guesses += nodes[i] - 1;
        tokens[i] = 1 + kept;
        m->tokens[i] += tokens[i];
        m->unread[i] += s[i].draft ? 1 : tokens[i];
        m->given[i] += tokens[i];
    }
    assert_in_range(rows, n, 256);
    double noise = chance(m, 0.05) ? 1.6 : 0.97 + 0.06 * (double) (synth_next(&m->dice) >> 11) * 0x1p-53;
    double target = pass_ns(m, rows) * noise;
    if (rows > n && chance(m, m->held_up))
        target += (ns + target) / 2;
    plan_note(&m->plan, rows, target, ns + target + m->overhead, tokens);
    m->ns += ns + target + m->overhead;
    m->rounds++;
}

/* Tokens of session i against those it would have without drafting, over so many rounds of n. */
static double rate(struct machine *m, int n, int rounds, int i)
{
    for (int k = 0; k < 300; k++)
        play(m, n);
    m->ns = 0;
    m->levels = m->guesses = m->rounds = 0;
    memset(m->tokens, 0, sizeof m->tokens);
    for (int k = 0; k < rounds; k++)
        play(m, n);
    /* the noise: 5% of passes at 1.6 */
    return m->tokens[i] / (m->ns / (pass_ns(m, n) * 1.03 + m->overhead));
}

static void a_cheap_good_draft_pays(void **state)
{
    (void) state;
    struct machine m = machine_of(300e6, 2e6, 15e6, 0.8);
    assert_true(rate(&m, 1, 2000, 0) > 2.1); /* the best chain there is gives 2.5 */
    struct machine many = machine_of(300e6, 2e6, 15e6, 0.8);
    assert_true(rate(&many, SESSIONS, 500, 3) > 1.35);
}

static void a_bad_or_dear_draft_costs_nothing(void **state)
{
    static const struct {
        double level, right;
    } bad[] = {{15e6, 0.02}, {150e6, 0.3}, {300e6, 0.6}, {900e6, 0.9}};
    (void) state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int n = 1; n <= SESSIONS; n *= 4) {
            struct machine m = machine_of(300e6, 2e6, bad[i].level, bad[i].right);
            assert_true(rate(&m, n, 3000, 0) > 0.98);
        }
}

/* What guesses seem to bring is lost in what they take beyond what a pass is seen to take. */
static void costs_that_no_median_shows(void **state)
{
    (void) state;
    for (int n = 1; n <= SESSIONS; n *= 4) {
        struct machine m = machine_of(1e6, 5e4, 1e5, 0.6);
        m.held_up = 0.4;
        double with = rate(&m, n, 6000, 0);
        print_message("  %d: %.3f\n", n, with);
        assert_true(with > 0.98);
        assert_true(n != 4 || m.plan.figures.rounds[PLAN_RESTED] > 1000); /* where it looked like a gain */
    }
}

/* One guess of lookup, which takes no pass of the draft's: nodes that are sent. */
static int32_t sent(float conf, double credit)
{
    struct machine m = machine_of(1e6, 5e4, 1e5, 0.6);
    struct plan_session s = {
        .mode = PLAN_AUTO, .nodes = 32, .depth = 12, .left = 500, .given = 100, .account = &m.account[0]};
    struct tree tree, *list = &tree;
    int32_t nodes, tokens = 1;
    m.account[0].credit = credit;
    tree_init(&tree, 0);
    tree_add(&tree, 0, 1, conf, TREE_LOOKUP, 0);
    plan_begin(&m.plan, &s, 1, 0, 0);
    assert_int_equal(s.draft, 0);
    plan_note_level(&m.plan, 0, 0, 1000);
    plan_trim(&m.plan, &list, &nodes);
    plan_note(&m.plan, nodes, 1e6, 1.1e6, &tokens);
    assert_int_equal(m.plan.figures.rounds[nodes > 1    ? PLAN_LOOKED
                                           : credit < 0 ? PLAN_OWED
                                                        : PLAN_NO_GAIN],
                     1);
    assert_int_equal(m.plan.unmeasured,
                     nodes > 1); /* a round in which nothing was found is one without guesses */
    return nodes;
}

/* A row takes 0.048 of what a token is worth: what brings little more than that is as likely to lose it. */
static void a_guess_of_lookup_must_bring_more_than_costs_are_known_by(void **state)
{
    (void) state;
    assert_int_equal(sent(0.03f, 0), 1);
    assert_int_equal(sent(0.06f, 0), 1);
    assert_int_equal(sent(0.1f, 0), 2);
    assert_int_equal(sent(0.9f, -10), 1); /* it is owed, and gets no guesses at all */
}

/* Of more guesses than are weighed against each other, the likeliest: whoever's they are. */
static void the_likeliest_of_many_guesses(void **state)
{
    enum { MANY = 40, ROWS = 30 };
    static struct tree tree[MANY];
    static struct plan_session s[MANY];
    struct tree *list[MANY];
    int32_t nodes[MANY];
    struct machine m = machine_of(1e9, 1e3, 1e3, 0.6);
    static struct plan_account account[MANY];
    (void) state;
    for (int i = 0; i < MANY; i++) {
        list[i] = &tree[i];
        tree_init(&tree[i], 0);
        for (int k = 1; k <= ROWS; k++)
            tree_add(&tree[i], 0, k, i == MANY - 1 ? 0.5f : 0.3f, TREE_LOOKUP, 0);
        s[i] = (struct plan_session){
            .mode = PLAN_AUTO, .nodes = 64, .left = 500, .given = 100, .account = &account[i]};
    }
    plan_begin(&m.plan, s, MANY, 0, 0);
    plan_note_level(&m.plan, 0, 0, 1000);
    plan_trim(&m.plan, list, nodes);
    assert_int_equal(nodes[MANY - 1], 1 + ROWS);
}

/* One that always has as many guesses as it asked for, and none of them right, keeps the others from none of theirs. */
static void the_wish_of_one_is_not_the_others_loss(void **state)
{
    struct machine m = machine_of(300e6, 1e6, 20e6, 0.9);
    (void) state;
    m.mode[0] = PLAN_FIXED;
    m.right[0] = 0;
    rate(&m, 4, 2000, 0);
    assert_true(m.tokens[0] == m.rounds);
    assert_true(m.tokens[1] > 1.5 * m.rounds);
    assert_int_equal(m.plan.figures.rounds[PLAN_OWED] + m.plan.figures.rounds[PLAN_RESTED], 0);
}

/* Where every row costs, as on a small model with many clients, no guess is worth its row. */
static void rows_that_cost_are_not_taken(void **state)
{
    (void) state;
    struct machine m = machine_of(1e5, 1e5, 2e4, 0.8);
    assert_true(rate(&m, SESSIONS, 2000, 0) > 0.98);
    assert_true(m.guesses < m.rounds * SESSIONS / 10);
}

/* One that cannot gain, among others that do, keeps its rate. */
static void nobody_pays_for_others(void **state)
{
    (void) state;
    for (int off = 0; off < 2; off++) {
        struct machine m = machine_of(300e6, 4e6, 60e6, 0.9);
        m.right[0] = 0;
        m.mode[0] = off ? PLAN_OFF : PLAN_AUTO;
        assert_true(rate(&m, 4, 6000, 0) > 0.96);
        assert_true(m.tokens[1] >= m.tokens[0]);
        assert_true(m.plan.figures.rounds[PLAN_OWED] > 0);
    }
}

/* A text that becomes easy is noticed though nothing was drafted for long, and one that becomes hard, too. */
static void follows_the_text(void **state)
{
    (void) state;
    struct machine m = machine_of(300e6, 2e6, 15e6, 0.02);
    rate(&m, 1, 1000, 0);
    assert_true(m.guesses < 100);
    m.right[0] = 0.9;
    rate(&m, 1, 1500, 0); /* it takes some rounds to see */
    assert_true(rate(&m, 1, 1000, 0) > 2);
    m.right[0] = 0.02;
    rate(&m, 1, 500, 0);
    assert_true(rate(&m, 1, 1000, 0) > 0.98);
}

/* A wrong idea of what a level costs ends with the first measured. */
static void follows_the_costs(void **state)
{
    (void) state;
    struct machine m = machine_of(300e6, 2e6, 15e6, 0.8);
    for (int32_t r = 1; r <= 64; r *= 2)
        for (int i = 0; i < 9; i++)
            cost_note(&m.plan.level, r, 150e6);
    rate(&m, 1, 6000, 0);
    assert_true(rate(&m, 1, 1000, 0) > 2);
}

/* The first tokens wait for nothing; a text far behind is read when much is still to come, and not otherwise. */
static void reading_is_an_investment(void **state)
{
    (void) state;
    struct machine m = machine_of(300e6, 2e6, 15e6, 0.8);
    m.given[0] = 0;
    m.unread[0] = 500;
    for (int i = 0; i < 4; i++) {
        play(&m, 1);
        assert_int_equal(m.unread[0], 501 + i);
    }
    for (int i = 0; i < 200; i++)
        play(&m, 1);
    assert_true(m.unread[0] < 16);
    struct machine poor = machine_of(3e6, 2e4, 150e6, 0.8); /* reading takes longer than all the rest */
    poor.unread[0] = 500;
    for (int i = 0; i < 50; i++)
        play(&poor, 1);
    assert_in_range(poor.unread[0], 500, 600);
}

/* While somebody waits for the beginning of an answer, rounds are no longer than without guesses. */
static void the_beginning_waits_for_nobody(void **state)
{
    (void) state;
    for (int how = 0; how < 2; how++) {
        struct machine m = machine_of(300e6, 2e6, 15e6, 0.9);
        rate(&m, 4, 100, 0);
        assert_true(m.guesses > 400);
        m.waiting = how == 0;
        m.guesses = m.levels = 0;
        for (int i = 0; i < 100; i++) {
            m.given[3] = how == 1 ? 0 : 100;
            play(&m, 4);
        }
        assert_int_equal(m.levels, 0);
        assert_int_equal(m.guesses, 0);
    }
}

static void says_why(void **state)
{
    char text[256];
    (void) state;
    struct machine m = machine_of(300e6, 2e6, 15e6, 0.8);
    plan_say(&m.plan, text, sizeof text);
    assert_string_equal(text, "nothing runs");
    rate(&m, 1, 10, 0);
    plan_say(&m.plan, text, sizeof text);
    assert_non_null(strstr(text, "1 of 1 sessions drafted"));
    struct machine bad = machine_of(300e6, 2e6, 900e6, 0.3);
    rate(&bad, 1, 10, 0);
    plan_say(&bad.plan, text, sizeof text);
    assert_non_null(strstr(text, "no guesses"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(costs_are_typical),
        cmocka_unit_test(costs_never_fall),
        cmocka_unit_test(parallel_levels_cost_one_pass),
        cmocka_unit_test(costs_follow_what_is_measured),
        cmocka_unit_test(a_cheap_good_draft_pays),
        cmocka_unit_test(a_bad_or_dear_draft_costs_nothing),
        cmocka_unit_test(costs_that_no_median_shows),
        cmocka_unit_test(a_guess_of_lookup_must_bring_more_than_costs_are_known_by),
        cmocka_unit_test(the_likeliest_of_many_guesses),
        cmocka_unit_test(the_wish_of_one_is_not_the_others_loss),
        cmocka_unit_test(rows_that_cost_are_not_taken),
        cmocka_unit_test(nobody_pays_for_others),
        cmocka_unit_test(follows_the_text),
        cmocka_unit_test(follows_the_costs),
        cmocka_unit_test(reading_is_an_investment),
        cmocka_unit_test(the_beginning_waits_for_nobody),
        cmocka_unit_test(says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
