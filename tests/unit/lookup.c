/* lookup.c - guesses from the text itself, without a model: what is found, what it costs where it fails, rewinding, one tree. */
#include "draft/draft.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

enum { VOCAB = 1000, TEXT_MAX = 20000 };

static struct draft *draft;
static struct draw_params params = {
    .top_p = 1, .max_tokens = 1 << 30, .repetition = 1, .think = {-1, -1, -1, -1, NULL, 0}};
static uint64_t dice;

static int set_up(void **state)
{
    struct draft_opts o = {.vocab = VOCAB, .seqs_max = 4, .text_max = TEXT_MAX, .lookup = 1};
    struct err e;
    (void) state;
    dice = 9;
    return draft_open(&draft, &o, &e);
}

static int tear_down(void **state)
{
    (void) state;
    draft_close(draft);
    return 0;
}

static int32_t any_token(void)
{
    return (int32_t) ((synth_next(&dice) >> 33) % VOCAB);
}

static struct draft_seq *talk(const int32_t *tok, int n)
{
    struct draft_seq *s;
    assert_int_equal(draft_seq_new(draft, &s), 0);
    assert_int_equal(draft_feed(draft, s, tok, n), 0);
    return s;
}

static void propose(struct draft_seq *s, int32_t root, int nodes, struct tree *t)
{
    struct draw_state st = {.pos = 1, .matched = -1};
    struct draft_job j = {
        .seq = s, .root = root, .draw = &params, .state = &st, .nodes = nodes, .spine = 63, .tree = t};
    assert_int_equal(draft_propose(draft, &j, 1), 0);
    assert_int_equal(tree_check(t, VOCAB), 0);
}

/* The target says tok[0..n) after the root; returns how many of them the tree held. */
static int settle(struct draft_seq *s, const struct tree *t, const int32_t *tok)
{
    struct path p = {0};
    int at = 0, child;
    while ((child = tree_child(t, at, tok[p.n])) >= 0) {
        p.node[p.n++] = (int16_t) child;
        at = child;
    }
    p.next = tok[p.n];
    assert_int_equal(draft_settle(draft, s, t, &p), 0);
    return p.n;
}

/* Says text[from..to) and counts passes; *rows: guesses made. */
static int say(struct draft_seq *s, const int32_t *text, int from, int to, int nodes, int *rows)
{
    int passes = 0, at = from; /* text[at] is the root */
    *rows = 0;
    while (at < to - 1) {
        struct tree t;
        propose(s, text[at], nodes, &t);
        *rows += t.n - 1;
        at += 1 + settle(s, &t, text + at + 1);
        passes++;
    }
    return passes;
}

static void a_copied_text_goes_fast(void **state)
{
    static int32_t text[1300];
    int rows;
    (void) state;
    for (int i = 0; i < 600; i++)
        text[i] = text[600 + i] = any_token();
    for (int i = 1200; i < 1300; i++)
        text[i] = any_token();
    struct draft_seq *s = talk(text, 602);
    int passes = say(s, text, 602, 1200, 32, &rows);
    print_message("598 copied tokens in %d passes\n", passes);
    assert_in_range(passes, 15, 150);
    draft_seq_free(draft, s);
}

static void a_text_that_never_repeats_costs_little(void **state)
{
    static int32_t text[6100];
    int rows;
    (void) state;
    for (int i = 0; i < 6100; i++)
        text[i] = any_token() % 60; /* pairs come again, what follows them does not */
    struct draft_seq *s = talk(text, 2000);
    say(s, text, 2000, 3000, 16, &rows); /* learns */
    int passes = say(s, text, 3000, 6000, 16, &rows);
    print_message("3000 random tokens: %d passes, %d rows wasted\n", passes, rows);
    assert_in_range(rows, 0, passes / 5);
    draft_seq_free(draft, s);
}

static void a_loop_is_followed_past_its_own_end(void **state)
{
    int32_t text[40];
    struct tree t;
    (void) state;
    for (int i = 0; i < 40; i++)
        text[i] = 10 + i % 3;
    struct draft_seq *s = talk(text, 30);
    propose(s, text[30], 8, &t);
    assert_in_range(t.n, 2, 8);
    for (int i = 0; i < t.n; i++) {
        assert_int_equal(t.tok[i], text[30 + i]);
        assert_int_equal(t.parent[i], i - 1);
        assert_int_equal(t.source[i], i ? TREE_LOOKUP : TREE_ROOT);
    }
    draft_seq_free(draft, s);
}

/* After a rewind the index says what one says that never knew the rest. */
static void a_rewound_text_is_forgotten(void **state)
{
    static int32_t text[4000];
    (void) state;
    for (int i = 0; i < 4000; i++)
        text[i] = any_token() % 30;
    for (int round = 0; round < 40; round++) {
        int keep = 20 + (int) (synth_next(&dice) >> 40) % 3000;
        struct draft_seq *a = talk(text, 4000), *b = talk(text, keep);
        struct tree x, y;
        assert_int_equal(draft_rewind(draft, a, keep), 0);
        propose(a, text[keep], 8, &x);
        propose(b, text[keep], 8, &y);
        assert_int_equal(x.n, y.n);
        assert_memory_equal(x.tok, y.tok, (size_t) x.n * sizeof *x.tok);
        draft_seq_free(draft, a);
        draft_seq_free(draft, b);
    }
}

static void masked_tokens_are_not_proposed(void **state)
{
    static const int32_t banned[] = {12};
    int32_t text[40];
    struct tree t;
    (void) state;
    for (int i = 0; i < 40; i++)
        text[i] = 10 + i % 5;
    params.banned = banned;
    params.n_banned = 1;
    struct draft_seq *s = talk(text, 30);
    propose(s, 10, 8, &t);
    params.n_banned = 0;
    assert_int_equal(t.n, 2); /* 11, and 12 is banned */
    assert_int_equal(t.tok[1], 11);
    draft_seq_free(draft, s);
}

static void refuses_to_be_nothing(void **state)
{
    struct draft_opts o = {.vocab = VOCAB, .seqs_max = 4, .text_max = TEXT_MAX};
    struct draft *d;
    struct err e;
    (void) state;
    assert_int_equal(draft_open(&d, &o, &e), ST_INPUT);
    assert_null(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_copied_text_goes_fast, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_text_that_never_repeats_costs_little, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_loop_is_followed_past_its_own_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_rewound_text_is_forgotten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(masked_tokens_are_not_proposed, set_up, tear_down),
        cmocka_unit_test(refuses_to_be_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
