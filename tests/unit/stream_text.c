/* stream_text.c - output ids to text: the rules one by one, then random streams against a reader that sees them whole, cut
 * and resumed at every token. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/text.h"

#define TARGET "assets/tiny/target"

enum { IDS_MAX = 256, TEXT_MAX = 8192 };

static struct tokenizer *tok;
static struct draw_think think;
static int32_t eos;

struct said {
    char text[2][TEXT_MAX]; /* by kind */
    size_t n[2];
    int32_t id[IDS_MAX];
    size_t n_ids;
};

static int open_tokenizer(void **state)
{
    (void) state;
    struct err e;
    if (tokenizer_open(&tok, TARGET, &e))
        return 0; /* the tests skip */
    think = (struct draw_think){.open = tokenizer_added(tok, "<think>"),
                                .close = tokenizer_added(tok, "</think>"),
                                .tool = tokenizer_added(tok, "<tool_call>")};
    eos = tokenizer_added(tok, "<|im_end|>");
    assert_true(think.open >= 0 && think.close >= 0 && think.tool >= 0 && eos >= 0);
    return 0;
}

static int close_tokenizer(void **state)
{
    (void) state;
    tokenizer_close(tok);
    return 0;
}

static void need_tokenizer(void)
{
    if (!tok) {
        print_message("skipped: " TARGET " is not there\n");
        skip();
    }
}

/* Takes what was put out; every delta but the last has text. */
static void take(struct said *s, struct text_out *out)
{
    for (size_t i = 0; i < text_out_count(out); i++) {
        struct text_delta d = text_out_at(out, i);
        for (int k = 0; k < 2; k++) {
            if (!d.n[k])
                continue;
            assert_true(s->n[k] + d.n[k] < TEXT_MAX);
            memcpy(s->text[k] + s->n[k], out->text[k].p + d.at[k], d.n[k]);
            s->n[k] += d.n[k];
        }
        assert_true(s->n_ids + d.id_n <= IDS_MAX);
        memcpy(s->id + s->n_ids, out->ids.p + d.id_at * sizeof(int32_t), d.id_n * sizeof(int32_t));
        s->n_ids += d.id_n;
        assert_true(d.n[0] + d.n[1] > 0 || i + 1 == text_out_count(out));
    }
    text_out_clear(out);
}

static void push_in_steps(struct text *t, const int32_t *id, size_t n, size_t step, struct said *s,
                          struct text_out *out)
{
    for (size_t i = 0; i < n; i += step) {
        assert_int_equal(text_push(t, id + i, n - i < step ? n - i : step, out), 0);
        take(s, out);
    }
}

static struct said whole_run(int chat, const int32_t *prompt, size_t n_prompt, const int32_t *id, size_t n,
                             size_t step)
{
    struct said s = {0};
    struct text t;
    struct text_out out = {0};
    text_init(&t, tok, &think, chat, NULL, prompt, n_prompt);
    push_in_steps(&t, id, n, step, &s, &out);
    assert_int_equal(text_end(&t, 1, &out), 0);
    take(&s, &out);
    text_fini(&t);
    text_out_free(&out);
    return s;
}

static void same(const struct said *a, const struct said *b)
{
    for (int k = 0; k < 2; k++) {
        assert_int_equal(a->n[k], b->n[k]);
        assert_memory_equal(a->text[k], b->text[k], a->n[k]);
    }
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->id, b->id, a->n_ids * sizeof *a->id);
}

static struct tokens encode(const char *text, int flags)
{
    struct tokens t = {0};
    struct err e;
    assert_int_equal(tokenizer_encode(tok, text, strlen(text), flags, &t, &e), 0);
    return t;
}

/* What a stream of these words (tags recognised) says in Chat. */
static void says_after(const char *prompt, const char *words, const char *reasoning, const char *content)
{
    struct tokens p = encode(prompt, TOKENIZER_ADDED), t = encode(words, TOKENIZER_ADDED);
    struct said s = whole_run(1, p.id, p.n, t.id, t.n, 1);
    assert_string_equal(s.text[TEXT_REASONING], reasoning);
    assert_string_equal(s.text[TEXT_CONTENT], content);
    assert_int_equal(s.n_ids, t.n);
    assert_memory_equal(s.id, t.id, t.n * sizeof *t.id);
    free(p.id);
    free(t.id);
}

static void test_chat_rules(void **state)
{
    (void) state;
    need_tokenizer();
    says_after("", "hello", "", "hello");
    says_after("", "<think>\nfoo\n\nbar\n</think>\n\nanswer\n", "foo\n\nbar", "answer\n");
    says_after("", "<think>\n\n</think>\n\nanswer", "", "answer");
    says_after("", "\n\nhello\n", "", "\n\nhello\n");
    says_after("", "<think>no end\n\n", "no end\n\n", "");
    says_after("", "a\n</think>\n\nb", "", "a\nb");
    says_after("", "<think>a<think>\nb\n</think>c", "ab", "c");
    says_after("", "<think>a\n<tool_call>\n{}\n</tool_call>", "a\n", "<tool_call>\n{}\n</tool_call>");
    says_after("", "x<tool_call>{}", "", "x<tool_call>{}");
    says_after("", "<think>a</think>b<think>c\n</think>\nd", "ac", "bd");
    says_after("", "hi<|im_end|>", "", "hi");
    says_after("", "hi<|im_end|><|im_start|> there", "", "hi there");
    says_after("", "<think>\n\n\n</think>\n\n\n", "", "");
}

static void test_prompt_decides_how_it_begins(void **state)
{
    (void) state;
    need_tokenizer();
    says_after("<|im_start|>assistant\n<think>\n", "\nfoo\n</think>\n\nbar", "foo", "bar");
    says_after("<|im_start|>assistant\n<think>\nI see", "\n\nfoo", "\n\nfoo", "");
    says_after("<think>x</think>y<|im_start|>assistant\n", "\nfoo", "", "\nfoo");
    says_after("<|im_start|>assistant\n<think>\n\n</think>\n\n", "\n\nfoo", "", "foo");
}

static void test_generate_is_raw(void **state)
{
    (void) state;
    need_tokenizer();
    const char *words = "<think>\n\na\n</think>\n\nb<tool_call><|im_end|>c\n";
    struct tokens t = encode(words, TOKENIZER_ADDED);
    struct said s = whole_run(0, t.id, t.n, t.id, t.n, 1);
    assert_string_equal(s.text[TEXT_CONTENT], "<think>\n\na\n</think>\n\nb<tool_call>c\n");
    assert_int_equal(s.n[TEXT_REASONING], 0);
    assert_int_equal(s.n_ids, t.n);
    free(t.id);
}

/* The id of a token that is this one byte. */
static int32_t byte_id(unsigned char b)
{
    for (int32_t i = 0; i < tokenizer_count(tok); i++) {
        size_t n;
        const char *p = tokenizer_bytes(tok, i, &n);
        if (n == 1 && (unsigned char) p[0] == b)
            return i;
    }
    fail_msg("no token for byte %02x", b);
    return -1;
}

static void test_characters_are_whole(void **state)
{
    (void) state;
    need_tokenizer();
    int32_t x = byte_id('x'), e4 = byte_id(0xe4), bd = byte_id(0xbd), a0 = byte_id(0xa0), nul = byte_id(0),
            nl = byte_id('\n');
    struct text t;
    struct text_out out = {0};
    text_init(&t, tok, &think, 0, NULL, NULL, 0);
    assert_int_equal(text_push(&t, (int32_t[]){x, e4, bd}, 3, &out), 0);
    struct text_delta d = text_out_at(&out, 0);
    assert_int_equal(text_out_count(&out), 1);
    assert_int_equal(d.n[TEXT_CONTENT], 1);
    assert_int_equal(d.id_n, 1); /* the other two wait with their bytes */
    text_out_clear(&out);
    assert_int_equal(text_push(&t, (int32_t[]){a0}, 1, &out), 0);
    d = text_out_at(&out, 0);
    assert_int_equal(d.id_n, 3);
    assert_memory_equal(out.text[TEXT_CONTENT].p, "\xe4\xbd\xa0", 3);
    text_fini(&t);
    text_out_free(&out);

    struct said s = whole_run(0, NULL, 0, (int32_t[]){e4, bd, x, nul, x, e4}, 6, 6);
    assert_int_equal(s.n[TEXT_CONTENT], 3 + 1 + 1 + 1 + 3);
    assert_memory_equal(s.text[TEXT_CONTENT], "\xef\xbf\xbdx\0x\xef\xbf\xbd", 9);
    /* The cut of a budget splits a character: the closing text begins with a newline. */
    s = whole_run(1, NULL, 0, (int32_t[]){think.open, x, e4, bd, nl, x, nl, think.close, nl, x}, 10, 1);
    assert_string_equal(s.text[TEXT_REASONING], "x\xef\xbf\xbd\nx");
    assert_string_equal(s.text[TEXT_CONTENT], "x");
    s = whole_run(1, NULL, 0, (int32_t[]){think.open, x, e4, think.close, bd, x}, 6, 1);
    assert_string_equal(s.text[TEXT_REASONING], "x\xef\xbf\xbd");
    assert_string_equal(s.text[TEXT_CONTENT], "\xef\xbf\xbdx");
}

static void test_a_stream_cut_short_keeps_back_what_is_open(void **state)
{
    (void) state;
    need_tokenizer();
    int32_t id[] = {think.open, byte_id('x'), byte_id('\n')};
    struct said s = {0};
    struct text t;
    struct text_out out = {0};
    text_init(&t, tok, &think, 1, NULL, NULL, 0);
    push_in_steps(&t, id, 3, 1, &s, &out);
    assert_int_equal(text_end(&t, 0, &out), 0);
    take(&s, &out);
    assert_string_equal(s.text[TEXT_REASONING], "x"); /* the newline may yet stand before </think> */
    assert_int_equal(s.n_ids, 3);
    text_fini(&t);
    text_out_free(&out);
}

/* --- random streams --- */

static uint32_t seed;

static uint32_t random_below(uint32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
}

/* A stream in which every rule has something to do. */
static size_t random_ids(int32_t *id)
{
    size_t n = 1 + random_below(40);
    const int32_t odd[] = {think.open,    think.close,   think.tool,    eos,           byte_id('\n'),
                           byte_id('\n'), byte_id(0xe4), byte_id(0xbd), byte_id(0xa0), byte_id(0xf0),
                           byte_id(0x9f), byte_id('a'),  byte_id(0xff), byte_id(0)};
    for (size_t i = 0; i < n; i++)
        id[i] = random_below(4) ? odd[random_below(sizeof odd / sizeof *odd)]
                                : (int32_t) random_below((uint32_t) tokenizer_count(tok));
    return n;
}

struct segment {
    int kind, fresh;
    char raw[TEXT_MAX];
    size_t n;
};

/* Ends a segment: decoded whole, trimmed, appended to what was said. */
static void segment_end(struct segment *g, int strip_end, struct said *s)
{
    static char text[3 * TEXT_MAX];
    struct utf8_hold h = {0};
    size_t n = utf8_hold_push(&h, g->raw, g->n, 1, text), at = 0;
    while (g->fresh && at < n && text[at] == '\n')
        at++;
    while (strip_end && n > at && text[n - 1] == '\n')
        n--;
    memcpy(s->text[g->kind] + s->n[g->kind], text + at, n - at);
    s->n[g->kind] += n - at;
    g->n = 0;
}

/* The rules of text.h for a stream that is known whole. */
static struct said read_whole(int chat, const int32_t *id, size_t n)
{
    struct said s = {0};
    static struct segment g;
    g = (struct segment){.kind = TEXT_CONTENT};
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        const char *p = tokenizer_bytes(tok, id[i], &bytes);
        int ends =
            id[i] == think.open || id[i] == think.close || (id[i] == think.tool && g.kind == TEXT_REASONING);
        s.id[s.n_ids++] = id[i];
        if (chat && ends) {
            segment_end(&g, id[i] == think.close && g.kind == TEXT_REASONING, &s);
            g.kind = id[i] == think.open ? TEXT_REASONING : TEXT_CONTENT;
            g.fresh = id[i] != think.tool;
        }
        if (!(chat && (id[i] == think.open || id[i] == think.close)) && !tokenizer_is_special(tok, id[i])) {
            memcpy(g.raw + g.n, p, bytes);
            g.n += bytes;
        }
    }
    segment_end(&g, 0, &s);
    return s;
}

/* Breaks off after k tokens and resumes from `given` of them. */
static struct said broken_run(int chat, const int32_t *id, size_t n, size_t k, int all_given)
{
    struct said s = {0};
    struct text t;
    struct text_out out = {0};
    text_init(&t, tok, &think, chat, NULL, NULL, 0);
    push_in_steps(&t, id, k, 1, &s, &out);
    text_fini(&t);
    size_t given = all_given ? k : s.n_ids; /* a client has the ids that came, or an engine's count of them */
    if (all_given) {
        memcpy(s.id, id, k * sizeof *id);
        s.n_ids = k;
    }
    text_init(&t, tok, &think, chat, NULL, NULL, 0);
    assert_int_equal(text_skip(&t, id, given, &out), 0);
    assert_int_equal(text_out_count(&out), 0);
    push_in_steps(&t, id + given, n - given, 3, &s, &out);
    assert_int_equal(text_end(&t, 1, &out), 0);
    take(&s, &out);
    text_fini(&t);
    text_out_free(&out);
    return s;
}

static void test_random_streams_cut_anywhere(void **state)
{
    (void) state;
    need_tokenizer();
    seed = 1;
    for (int round = 0; round < 1500; round++) {
        int32_t id[IDS_MAX];
        size_t n = random_ids(id);
        int chat = round % 3 != 0;
        struct said want = read_whole(chat, id, n);
        for (size_t step = 1; step <= n; step += 1 + step / 2) {
            struct said got = whole_run(chat, NULL, 0, id, n, step);
            same(&got, &want);
        }
        for (size_t k = 0; k <= n; k++) {
            struct said got = broken_run(chat, id, n, k, 0);
            same(&got, &want);
            got = broken_run(chat, id, n, k, 1);
            same(&got, &want);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_rules),
        cmocka_unit_test(test_prompt_decides_how_it_begins),
        cmocka_unit_test(test_generate_is_raw),
        cmocka_unit_test(test_characters_are_whole),
        cmocka_unit_test(test_a_stream_cut_short_keeps_back_what_is_open),
        cmocka_unit_test(test_random_streams_cut_anywhere),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
