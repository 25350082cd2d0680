/* constraint.c - a choice among strings: every tokenization and no other text; where it ends; how it stands to thinking. */
#include "draw/draw.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

/* Ids: a b c ab bc abc "\n\n" xyz, eos, <think>, </think>, <tool_call>. */
enum { A, B, C, AB, BC, ABC, BLANK, XYZ, EOS, OPEN, CLOSE, TOOL, V };
static const char *const spelled[V] = {"a", "b", "c", "ab", "bc", "abc", "\n\n", "xyz", "", "", "", ""};

static struct draw_vocab *vocab;

static int set_up(void **state)
{
    size_t len[V];
    struct err e;
    (void) state;
    for (int i = 0; i < V; i++)
        len[i] = strlen(spelled[i]);
    return draw_vocab_new(&vocab, spelled, len, V, &e);
}

static int tear_down(void **state)
{
    (void) state;
    draw_vocab_free(vocab);
    return 0;
}

static int choice_of(struct draw_constraint **c, const char *const *text, int n, struct err *e)
{
    size_t bytes[DRAW_CHOICES_MAX + 1];
    for (int i = 0; i < n && i <= DRAW_CHOICES_MAX; i++)
        bytes[i] = strlen(text[i]);
    return draw_constraint_choice(c, vocab, text, bytes, n, e);
}

/* Counts the ways from state to an end, checking that each spells one of the strings. */
static int walk(const struct draw_constraint *c, int32_t state, char *said, const char *const *text, int n)
{
    struct draw_allowed a;
    int ways = 0;
    draw_constraint_allowed(c, state, &a);
    if (a.complete) {
        int known = 0;
        for (int i = 0; i < n; i++)
            known += strcmp(said, text[i]) == 0;
        assert_int_equal(known, 1);
        ways++;
    }
    for (int32_t i = 0; i < a.n; i++) {
        size_t len = strlen(said);
        assert_true(i == 0 || a.tok[i] > a.tok[i - 1]);
        strcat(said, spelled[a.tok[i]]);
        ways += walk(c, draw_constraint_step(c, state, a.tok[i]), said, text, n);
        said[len] = 0;
    }
    return ways;
}

static void every_tokenization_and_no_other_text(void **state)
{
    static const char *const text[] = {"abc", "ab", "cab", "aa"};
    struct draw_constraint *c;
    struct err e;
    char said[64] = "";
    (void) state;
    assert_int_equal(choice_of(&c, text, 4, &e), 0);
    /* abc: a b c, a bc, ab c, abc; ab: a b, ab; cab: c a b, c ab; aa: a a */
    assert_int_equal(walk(c, 0, said, text, 4), 4 + 2 + 2 + 1);
    assert_int_equal(draw_constraint_step(c, 0, XYZ), -1);
    assert_int_equal(draw_constraint_step(c, -1, A), -1);
    assert_int_equal(draw_constraint_needs_end(c), 1);
    draw_constraint_free(c);
}

static struct draw_params params(const struct draw_constraint *c)
{
    static const int32_t eos[] = {EOS};
    return (struct draw_params){.top_p = 1,
                                .repetition = 1,
                                .max_tokens = 50,
                                .eos = eos,
                                .n_eos = 1,
                                .constraint = c,
                                .think = {OPEN, CLOSE, TOOL, -1, NULL, 0}};
}

/* What may be drawn at s, as a set of bits: by draw_may, and by drawing with one id far ahead. */
static unsigned allowed(const struct draw_params *p, const struct draw_state *s)
{
    struct draw_scratch *x = draw_scratch_new(V);
    unsigned set = 0;
    for (int32_t v = 0; v < V; v++) {
        float l[V] = {0};
        int32_t tok = -1;
        l[v] = 50;
        assert_int_equal(draw_pick(p, s, NULL, l, V, x, &tok), 0);
        set |= (tok == v ? 1u : 0) << v;
        assert_int_equal(draw_may(p, s, v), tok == v);
    }
    draw_scratch_free(x);
    return set;
}

#define BIT(x) (1u << (x))

static void ends_where_nothing_can_follow(void **state)
{
    static const char *const text[] = {"ab", "abc"};
    static const int32_t prompt[] = {A, CLOSE, BLANK}; /* thinking is off */
    struct draw_constraint *c;
    struct draw_state s, t;
    struct err e;
    (void) state;
    assert_int_equal(choice_of(&c, text, 2, &e), 0);
    struct draw_params p = params(c);
    assert_int_equal(draw_check(&p, V, &e), 0);
    draw_start(&p, prompt, 3, &s);
    assert_int_equal(allowed(&p, &s), BIT(A) | BIT(AB) | BIT(ABC));
    t = s;
    draw_step(&p, &t, ABC);
    assert_int_equal(t.done, DRAW_STOP);
    assert_int_equal(t.matched, -1);
    draw_step(&p, &s, AB);
    assert_int_equal(s.done, DRAW_GOING);
    assert_int_equal(allowed(&p, &s), BIT(C) | BIT(EOS));
    t = s;
    draw_step(&p, &t, EOS);
    assert_int_equal(t.done, DRAW_STOP);
    assert_int_equal(t.matched, EOS);
    draw_step(&p, &s, C);
    assert_int_equal(s.done, DRAW_STOP);
    p.ignore_eos = 1;
    assert_int_equal(draw_check(&p, V, &e), ST_INPUT);
    draw_constraint_free(c);
}

static void thinking_is_free(void **state)
{
    static const char *const text[] = {"c"};
    static const int32_t prompt[] = {A};
    struct draw_constraint *c;
    struct draw_state s;
    struct err e;
    (void) state;
    assert_int_equal(choice_of(&c, text, 1, &e), 0);
    struct draw_params p = params(c);
    draw_start(&p, prompt, 1, &s);
    assert_int_equal(allowed(&p, &s), BIT(C) | BIT(OPEN));
    draw_step(&p, &s, OPEN);
    assert_int_equal(allowed(&p, &s), (BIT(V) - 1) & ~(BIT(EOS) | BIT(TOOL)));
    draw_step(&p, &s, XYZ);
    draw_step(&p, &s, CLOSE);
    assert_int_equal(allowed(&p, &s), BIT(C) | BIT(BLANK));
    draw_step(&p, &s, BLANK);
    assert_int_equal(allowed(&p, &s), BIT(C));
    draw_step(&p, &s, C);
    assert_int_equal(s.done, DRAW_STOP);
    p.think.budget = 0;
    draw_start(&p, prompt, 1, &s);
    assert_int_equal(allowed(&p, &s), BIT(C));
    draw_constraint_free(c);
}

/* A resumed text may have left what is allowed: then nothing can be drawn, which the request hears. */
static void a_text_that_left_ends_the_request(void **state)
{
    static const char *const text[] = {"c"};
    static const int32_t prompt[] = {A};
    static const float l[V] = {0};
    struct draw_scratch *x = draw_scratch_new(V);
    struct draw_constraint *c;
    struct draw_state s;
    struct err e;
    int32_t tok;
    (void) state;
    assert_int_equal(choice_of(&c, text, 1, &e), 0);
    struct draw_params p = params(c);
    draw_start(&p, prompt, 1, &s);
    draw_step(&p, &s, XYZ);
    assert_int_equal(draw_pick(&p, &s, NULL, l, V, x, &tok), ST_INPUT);
    draw_scratch_free(x);
    draw_constraint_free(c);
}

static void refuses_what_cannot_be(void **state)
{
    static const char *const empty[] = {"a", ""}, *const unspelled[] = {"a", "ax"};
    static const char *many[DRAW_CHOICES_MAX + 1];
    static char large[DRAW_CHOICE_BYTES_MAX + 2];
    const char *one = large;
    struct draw_constraint *c;
    struct err e;
    (void) state;
    for (int i = 0; i <= DRAW_CHOICES_MAX; i++)
        many[i] = "a";
    memset(large, 'a', sizeof large - 1);
    assert_int_equal(choice_of(&c, empty, 2, &e), ST_INPUT);
    assert_string_equal(e.text, "choices: string 1 is empty; each must have at least one character");
    assert_int_equal(choice_of(&c, unspelled, 2, &e), ST_INPUT);
    assert_string_equal(e.text, "choices: no tokens of this vocabulary spell string 1");
    assert_int_equal(choice_of(&c, many, 0, &e), ST_INPUT);
    assert_int_equal(choice_of(&c, many, DRAW_CHOICES_MAX + 1, &e), ST_INPUT);
    assert_string_equal(e.text, "choices: between 1 and 512 strings, not 513");
    assert_int_equal(choice_of(&c, &one, 1, &e), ST_INPUT);
    assert_string_equal(e.text, "choices: at most 32768 bytes in all, string 0 goes beyond them");
    assert_null(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tokenization_and_no_other_text),
        cmocka_unit_test(ends_where_nothing_can_follow), cmocka_unit_test(thinking_is_free),
        cmocka_unit_test(a_text_that_left_ends_the_request), cmocka_unit_test(refuses_what_cannot_be)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
