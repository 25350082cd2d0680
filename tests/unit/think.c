/* think.c - what committed tokens make of a request (DESIGN.md section 5): thinking budgets, forced closing, stops and lengths.
 *
 * A run feeds the state what a model would have drawn, and takes the closing text where the state forces it, as verifier and engine
 * do; its record is one letter a token: t thinking, o outside, c forced, and how it ended. */
#include "draw/draw.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

enum { OPEN = 50, CLOSE = 51, TOOL = 52, EOS = 60, STOP = 61, WORD = 1, VOCAB = 100, CLOSER = 3 };

static const int32_t closer[CLOSER] = {70, CLOSE, 71};
static const int32_t eos[] = {EOS}, stop[] = {STOP};

static struct draw_params params(int budget)
{
    return (struct draw_params){.top_p = 1,
                                .max_tokens = 100,
                                .eos = eos,
                                .n_eos = 1,
                                .stop = stop,
                                .n_stop = 1,
                                .think = {OPEN, CLOSE, TOOL, budget, closer, CLOSER}};
}

struct run {
    struct draw_state s;
    char record[200];
};

/* drawn: what the model says, in order; used up, it says WORD for ever. */
static struct run play_from(const struct draw_params *p, struct draw_state s, const int32_t *drawn, int n)
{
    struct run r = {.s = s};
    int at = 0, len = 0;
    while (!r.s.done && len < 150) {
        int32_t tok;
        int thinking = r.s.phase == DRAW_THINKING;
        int forced = draw_forced(p, &r.s, &tok);
        if (!forced)
            tok = at < n ? drawn[at++] : WORD;
        draw_step(p, &r.s, tok);
        r.record[len++] = forced ? 'c' : thinking ? 't' : 'o';
        if (at == n && r.s.phase != DRAW_CLOSING && !draw_forced(p, &r.s, &tok))
            break;
    }
    assert_int_equal(r.s.n_output, len);
    return r;
}

static struct run play(const struct draw_params *p, const int32_t *prompt, int n_prompt, const int32_t *drawn,
                       int n)
{
    struct draw_state s;
    draw_start(p, prompt, n_prompt, &s);
    assert_int_equal(s.pos, n_prompt);
    struct run r = play_from(p, s, drawn, n);
    assert_int_equal(r.s.pos, n_prompt + r.s.n_output);
    return r;
}

#define TOKENS(...) (const int32_t[]){__VA_ARGS__}, (int) (sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void check(const struct run *r, const char *record, int n_thinking, int cut, int phase)
{
    assert_string_equal(r->record, record);
    assert_int_equal(r->s.n_thinking, n_thinking);
    assert_int_equal(r->s.cut, cut);
    assert_int_equal(r->s.phase, phase);
}

/* --- the prompt --- */

static void the_prompts_last_mark_decides(void **state)
{
    static const struct {
        int32_t prompt[5];
        int n, phase;
    } known[] = {{{WORD}, 1, DRAW_PLAIN},
                 {{WORD, OPEN}, 2, DRAW_THINKING},
                 {{WORD, OPEN, WORD}, 3, DRAW_THINKING},
                 {{WORD, OPEN, WORD, CLOSE}, 4, DRAW_PLAIN},
                 {{OPEN, WORD, CLOSE, WORD, OPEN}, 5, DRAW_THINKING},
                 {{CLOSE, OPEN, CLOSE, WORD, WORD}, 5, DRAW_PLAIN},
                 {{OPEN}, 1, DRAW_THINKING}};
    (void) state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct draw_params p = params(-1);
        struct draw_state s;
        draw_start(&p, known[i].prompt, known[i].n, &s);
        assert_int_equal(s.phase, known[i].phase);
        assert_int_equal(s.pos, known[i].n);
        assert_int_equal(s.matched, -1);
        assert_int_equal(s.n_output + s.n_thinking + s.done + s.cut + s.mask_eos, 0);
        p.think = (struct draw_think){-1, -1, -1, -1, NULL, 0}; /* a model that does not think */
        draw_start(&p, known[i].prompt, known[i].n, &s);
        assert_int_equal(s.phase, DRAW_PLAIN);
    }
}

/* --- budgets --- */

static void budget_0_closes_at_once(void **state)
{
    struct draw_params p = params(0);
    (void) state;
    struct run r = play(&p, TOKENS(WORD, OPEN), TOKENS(WORD, WORD));
    check(&r, "cccoo", 0, 1, DRAW_PLAIN);
    r = play(&p, TOKENS(WORD), TOKENS(OPEN, WORD)); /* the model opens it itself */
    check(&r, "occco", 0, 1, DRAW_PLAIN);
}

static void budget_n_is_never_exceeded(void **state)
{
    (void) state;
    for (int budget = 1; budget < 9; budget++) {
        struct draw_params p = params(budget);
        int32_t words[20];
        char want[40] = {0};
        for (int i = 0; i < 20; i++)
            words[i] = WORD;
        memset(want, 't', (size_t) budget);
        strcat(want, "cccoo");
        struct run r = play(&p, TOKENS(OPEN), words, budget + 2);
        check(&r, want, budget, 1, DRAW_PLAIN);
    }
}

static void no_budget_never_closes(void **state)
{
    struct draw_params p = params(-1);
    int32_t words[90];
    (void) state;
    for (int i = 0; i < 90; i++)
        words[i] = WORD;
    struct run r = play(&p, TOKENS(OPEN), words, 90);
    assert_null(strchr(r.record, 'c'));
    check(&r, r.record, 90, 0, DRAW_THINKING);
    p = params(5); /* a budget, and no text to close with */
    p.think.n_closer = 0;
    r = play(&p, TOKENS(OPEN), words, 90);
    check(&r, r.record, 90, 0, DRAW_THINKING);
}

static void the_model_closes_within_its_budget(void **state)
{
    struct draw_params p = params(4);
    (void) state;
    struct run r = play(&p, TOKENS(OPEN), TOKENS(WORD, WORD, CLOSE, WORD, EOS));
    check(&r, "tttoo", 2, 0, DRAW_PLAIN); /* neither mark is counted */
    assert_int_equal(r.s.done, DRAW_STOP);
    r = play(&p, TOKENS(WORD), TOKENS(CLOSE, WORD)); /* a mark outside means nothing */
    check(&r, "oo", 0, 0, DRAW_PLAIN);
    r = play(&p, TOKENS(OPEN), TOKENS(WORD, OPEN, WORD, WORD)); /* an inner <think> is a word */
    check(&r, "ttttccc", 4, 1, DRAW_PLAIN);
}

static void a_tool_call_ends_thinking(void **state)
{
    struct draw_params p = params(4);
    (void) state;
    struct run r = play(&p, TOKENS(OPEN), TOKENS(WORD, TOOL, WORD, WORD, WORD, WORD, WORD));
    check(&r, "ttooooo", 1, 0, DRAW_PLAIN);
    p.think.tool = -1;
    r = play(&p, TOKENS(OPEN), TOKENS(WORD, TOOL, WORD, WORD));
    check(&r, "ttttccc", 4, 1, DRAW_PLAIN);
}

static void a_later_think_counts_on(void **state)
{
    struct draw_params p = params(3);
    (void) state;
    struct run r = play(&p, TOKENS(OPEN), TOKENS(WORD, WORD, CLOSE, WORD, OPEN, WORD, WORD, WORD));
    check(&r, "tttootcccoo", 3, 1, DRAW_PLAIN);
    r = play(&p, TOKENS(OPEN), TOKENS(WORD, WORD, WORD, OPEN, WORD)); /* used up: closed again at once */
    check(&r, "tttcccoccco", 3, 1, DRAW_PLAIN);
}

/* --- after a forced close --- */

static int eos_is_drawable(const struct draw_params *p, const struct draw_state *s)
{
    float logits[VOCAB] = {[EOS] = 9, [WORD] = 1};
    struct draw_scratch *x = draw_scratch_new(VOCAB);
    int32_t tok = -1;
    assert_non_null(x);
    assert_int_equal(draw_pick(p, s, NULL, logits, VOCAB, x, &tok), 0);
    draw_scratch_free(x);
    assert_true(tok == EOS || tok == WORD);
    return tok == EOS;
}

static void a_forced_close_masks_the_end_for_one_draw(void **state)
{
    struct draw_params p = params(1);
    (void) state;
    struct run r = play(&p, TOKENS(OPEN), TOKENS(WORD));
    check(&r, "tccc", 1, 1, DRAW_PLAIN);
    assert_int_equal(r.s.mask_eos, 1);
    assert_false(eos_is_drawable(&p, &r.s));
    draw_step(&p, &r.s, WORD);
    assert_int_equal(r.s.mask_eos, 0);
    assert_true(eos_is_drawable(&p, &r.s));
    p = params(4); /* one the model made itself masks nothing */
    r = play(&p, TOKENS(OPEN), TOKENS(WORD, CLOSE));
    assert_true(eos_is_drawable(&p, &r.s));
}

/* --- ends --- */

static void ends_at_a_stop(void **state)
{
    struct draw_params p = params(-1);
    (void) state;
    struct run r = play(&p, TOKENS(WORD), TOKENS(WORD, EOS, WORD));
    check(&r, "oo", 0, 0, DRAW_PLAIN);
    assert_int_equal(r.s.done, DRAW_STOP);
    assert_int_equal(r.s.matched, EOS);
    r = play(&p, TOKENS(WORD), TOKENS(STOP, WORD));
    assert_int_equal(r.s.done, DRAW_STOP);
    assert_int_equal(r.s.matched, STOP);
    p.ignore_eos = 1;
    r = play(&p, TOKENS(WORD), TOKENS(EOS, EOS, STOP, WORD));
    check(&r, "ooo", 0, 0, DRAW_PLAIN);
    assert_int_equal(r.s.matched, STOP);
    p = params(-1); /* in the middle of a thought: that token is no thought */
    r = play(&p, TOKENS(OPEN), TOKENS(WORD, WORD, EOS));
    check(&r, "ttt", 2, 0, DRAW_THINKING);
    assert_int_equal(r.s.done, DRAW_STOP);
}

static void ends_at_its_length(void **state)
{
    struct draw_params p = params(-1);
    (void) state;
    p.max_tokens = 3;
    struct run r = play(&p, TOKENS(WORD), TOKENS(WORD, WORD, WORD, WORD));
    check(&r, "ooo", 0, 0, DRAW_PLAIN);
    assert_int_equal(r.s.done, DRAW_LENGTH);
    assert_int_equal(r.s.matched, -1);
    r = play(&p, TOKENS(WORD), TOKENS(WORD, WORD, EOS)); /* both at once: it stopped */
    assert_int_equal(r.s.done, DRAW_STOP);
    p.max_tokens = 1;
    r = play(&p, TOKENS(WORD), TOKENS(WORD, WORD));
    check(&r, "o", 0, 0, DRAW_PLAIN);
}

static void ends_at_its_length_inside_the_closing_text(void **state)
{
    struct draw_params p = params(2);
    (void) state;
    for (int most = 3; most <= 5; most++) {
        char want[8] = "ttccc";
        want[most] = 0;
        p.max_tokens = most;
        struct run r = play(&p, TOKENS(OPEN), TOKENS(WORD, WORD, WORD));
        check(&r, want, 2, 1, most < 5 ? DRAW_CLOSING : DRAW_PLAIN);
        assert_int_equal(r.s.done, DRAW_LENGTH);
    }
    p.max_tokens = 2; /* spent to the token: nothing is closed any more */
    struct run r = play(&p, TOKENS(OPEN), TOKENS(WORD, WORD, WORD));
    check(&r, "tt", 2, 0, DRAW_THINKING);
}

static void min_tokens_masks_every_end(void **state)
{
    struct draw_params p = params(-1);
    struct draw_state s;
    float logits[VOCAB] = {[EOS] = 9, [STOP] = 8, [WORD] = 1};
    struct draw_scratch *x = draw_scratch_new(VOCAB);
    int32_t want[] = {WORD, WORD, WORD, EOS}, tok;
    (void) state;
    assert_non_null(x);
    p.min_tokens = 3;
    draw_start(&p, TOKENS(WORD), &s);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s.done, DRAW_GOING);
        assert_int_equal(draw_pick(&p, &s, NULL, logits, VOCAB, x, &tok), 0);
        assert_int_equal(tok, want[i]);
        draw_step(&p, &s, tok);
    }
    assert_int_equal(s.done, DRAW_STOP);
    draw_scratch_free(x);
}

static int same(const struct draw_state *a, const struct draw_state *b)
{
    return a->pos == b->pos && a->n_output == b->n_output && a->n_thinking == b->n_thinking &&
           a->closer_at == b->closer_at && a->matched == b->matched && a->phase == b->phase &&
           a->done == b->done && a->cut == b->cut && a->mask_eos == b->mask_eos;
}

/* Resuming steps through the same tokens: the state is the same wherever the text was cut. */
static void a_state_can_be_rebuilt_anywhere(void **state)
{
    struct draw_params p = params(3);
    static const int32_t text[] = {WORD, WORD, CLOSE, WORD, OPEN,  WORD, 70,   CLOSE,
                                   71,   WORD, OPEN,  70,   CLOSE, 71,   WORD, EOS};
    enum { N = sizeof text / sizeof *text };
    struct draw_state at[N + 1], s;
    (void) state;
    draw_start(&p, TOKENS(OPEN), &at[0]);
    for (int i = 0; i < N; i++) {
        int32_t known;
        if (draw_forced(&p, &at[i], &known))
            assert_int_equal(known, text[i]);
        at[i + 1] = at[i];
        draw_step(&p, &at[i + 1], text[i]);
    }
    assert_int_equal(at[N].done, DRAW_STOP);
    assert_int_equal(at[N].n_thinking, 3);
    for (int cut = 0; cut <= N; cut++) {
        draw_start(&p, TOKENS(OPEN), &s);
        for (int i = 0; i < cut; i++)
            draw_step(&p, &s, text[i]);
        assert_true(same(&s, &at[cut]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_prompts_last_mark_decides),
                                       cmocka_unit_test(budget_0_closes_at_once),
                                       cmocka_unit_test(budget_n_is_never_exceeded),
                                       cmocka_unit_test(no_budget_never_closes),
                                       cmocka_unit_test(the_model_closes_within_its_budget),
                                       cmocka_unit_test(a_tool_call_ends_thinking),
                                       cmocka_unit_test(a_later_think_counts_on),
                                       cmocka_unit_test(a_forced_close_masks_the_end_for_one_draw),
                                       cmocka_unit_test(ends_at_a_stop),
                                       cmocka_unit_test(ends_at_its_length),
                                       cmocka_unit_test(ends_at_its_length_inside_the_closing_text),
                                       cmocka_unit_test(min_tokens_masks_every_end),
                                       cmocka_unit_test(a_state_can_be_rebuilt_anywhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
