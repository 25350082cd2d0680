/* stop.c - stop strings across token borders: real answers of the tiny pair, stopped at strings cut out of their own content.
 *
 * What must come of it is found here by searching the whole content.  The answer is then fed to the stream's text in pushes of 1 to 64
 * tokens (an engine that ran on by little or by much), whole and resumed in its middle: after every push nothing of the match has
 * been sent, and at the end text and ids are the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/text.h"
#include "tests/lib/gate.h"

enum { PROMPTS = 10, MAX_TOKENS = 120, TEXT_MAX = 8192, STOP_MAX = 12 };

static struct gate_pair pair;
static struct gate_result *got;
static struct tokenizer *tok;

/* Content as one piece of text, and where each token's own ends. */
struct content {
    char text[TEXT_MAX];
    int n;
    int end[GATE_TOKENS_MAX]; /* [i]: bytes of content after token i */
};

struct said {
    char text[TEXT_MAX]; /* content */
    int n, n_ids, stopped;
};

/* chat: what follows the thinking, without the newlines after it. */
static int content_of(const struct gate_result *r, int chat, struct content *c)
{
    int thinking = chat, skip = 0;
    for (int i = 0; i < r->n && r->tok[i] != pair.think.open && !chat; i++)
        thinking = 0;
    c->n = 0;
    for (int i = 0; i < r->n; i++) {
        size_t n = 0;
        const char *p = tokenizer_bytes(tok, r->tok[i], &n);
        if (tokenizer_is_special(tok, r->tok[i]) || (chat && (thinking || r->tok[i] == pair.think.close)))
            n = 0;
        if (chat && r->tok[i] == pair.think.close) {
            thinking = 0;
            skip = 1;
        }
        for (size_t k = 0; k < n; k++) {
            if (skip && p[k] == '\n')
                continue;
            skip = 0;
            if (p[k] & 0x80)
                return 0; /* half characters are text.c's affair, and its own test's */
            c->text[c->n++] = p[k];
        }
        c->end[i] = c->n;
    }
    return !thinking && c->n > STOP_MAX;
}

static void take(struct said *s, struct text_out *out, const struct content *c, int allowed)
{
    for (size_t i = 0; i < text_out_count(out); i++) {
        struct text_delta d = text_out_at(out, i);
        if (d.n[TEXT_CONTENT])
            memcpy(s->text + s->n, out->text[TEXT_CONTENT].p + d.at[TEXT_CONTENT], d.n[TEXT_CONTENT]);
        s->n += (int) d.n[TEXT_CONTENT];
        s->n_ids += (int) d.id_n;
    }
    text_out_clear(out);
    if (s->n > allowed || memcmp(s->text, c->text, (size_t) s->n) != 0)
        fail_msg("'%.*s' was sent; only '%.*s' may be", s->n, s->text, allowed, c->text);
}

/* Feeds r in pushes of `step`; after `cut` tokens were sent, if it is not 0, the rest goes to a resumed stream. */
static void feed(const struct gate_result *r, int chat, const struct stops *stops, int step, int cut,
                 const struct content *c, int allowed, struct said *s)
{
    struct text t;
    struct text_out out = {0};
    const int32_t *prompt = chat ? &pair.think.open : NULL;
    *s = (struct said){.n = 0};
    text_init(&t, tok, &pair.think, chat, stops, prompt, prompt != NULL);
    for (int i = 0; i < r->n; i += step) {
        if (cut && s->n_ids >= cut && t.stopped < 0) {
            cut = 0;
            text_fini(&t);
            text_init(&t, tok, &pair.think, chat, stops, prompt, prompt != NULL);
            assert_int_equal(text_skip(&t, r->tok, (size_t) s->n_ids, &out), 0);
            i = s->n_ids;
        }
        assert_int_equal(text_push(&t, r->tok + i, (size_t) (r->n - i < step ? r->n - i : step), &out), 0);
        take(s, &out, c, allowed);
    }
    assert_int_equal(text_end(&t, 1, &out), 0);
    take(s, &out, c, allowed);
    s->stopped = t.stopped;
    text_fini(&t);
    text_out_free(&out);
}

/* Where the first match of word ends, or -1. */
static int match_end(const struct content *c, const char *word)
{
    const char *p = memmem(c->text, (size_t) c->n, word, strlen(word));
    return p ? (int) (p - c->text) + (int) strlen(word) : -1;
}

/* Both words are looked for; `other` NULL: one alone. */
static void stop_at(const struct gate_result *r, int chat, const struct content *c, const char *word,
                    const char *other)
{
    static const int steps[] = {1, 2, 7, 64};
    const char *const words[] = {word, other};
    struct stops *stops;
    struct err e;
    struct said s;
    int a = match_end(c, word), b = other ? match_end(c, other) : -1;
    int second = b >= 0 && (b < a || (b == a && strlen(other) > strlen(word)));
    int end = second ? b : a, allowed = end - (int) strlen(words[second]), ids = 0;
    while (c->end[ids] < end)
        ids++;
    ids++;
    assert_int_equal(stops_new(&stops, words, other ? 2 : 1, &e), 0);
    for (size_t i = 0; i < 2 * sizeof steps / sizeof *steps; i++) {
        feed(r, chat, stops, steps[i / 2], i % 2 ? 1 + ids / 2 : 0, c, allowed, &s);
        assert_int_equal(s.stopped, second);
        if (s.n != allowed || s.n_ids != ids)
            fail_msg("stop '%s': %d bytes and %d ids, not %d and %d", words[second], s.n, s.n_ids, allowed,
                     ids);
    }
    stops_free(stops);
}

static int stop_all(const struct gate_result *r, int chat)
{
    struct content c;
    int n = 0;
    if (!content_of(r, chat, &c))
        return 0;
    for (int at = 0; at + STOP_MAX < c.n; at += 3, n++) {
        char word[STOP_MAX + 1] = {0}, other[STOP_MAX + 1] = {0};
        memcpy(word, c.text + at, (size_t) (1 + at % STOP_MAX));
        memcpy(other, c.text + at / 2, (size_t) (1 + at % 5));
        stop_at(r, chat, &c, word, NULL);
        stop_at(r, chat, &c, word, other);
    }
    return n;
}

static void test_never_in_part(void **state)
{
    (void) state;
    struct gate_how how = {.name = "stop",
                           .temperature = 0.8f,
                           .top_p = 1,
                           .max_tokens = MAX_TOKENS,
                           .budget = 60,
                           .seed = 7000};
    struct engine_opts o = gate_opts(&pair);
    struct gate_request req[PROMPTS];
    int n = 0;
    for (int i = 0; i < PROMPTS; i++)
        req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_NODES, .nodes = 64, .depth = 16};
    gate_run(&o, &pair, &how, req, PROMPTS, 4, got);
    for (int i = 0; i < PROMPTS; i++)
        n += stop_all(&got[i], 0) + stop_all(&got[i], 1);
    print_message("  %d pairs of strings\n", n);
    assert_in_range(n, 100, 1000000);
}

static int set_up(void **state)
{
    (void) state;
    struct err e;
    gate_tiny(&pair);
    got = calloc(PROMPTS, sizeof *got);
    return !got || tokenizer_open(&tok, "assets/tiny/target", &e);
}

static int tear_down(void **state)
{
    (void) state;
    free(got);
    tokenizer_close(tok);
    gate_pair_free(&pair);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_never_in_part)};
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("gate: stop strings", tests, set_up, tear_down);
}
