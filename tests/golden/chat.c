/* chat.c - the chat template against transformers' renderer, on every golden conversation under both templates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

#include "model/jdoc.h"
#include "model/template.h"
#include "tests/lib/text.h"

static void check_line(int which, const struct jnode *root, const char *line, size_t len, size_t number)
{
    struct arena a;
    struct chat c;
    struct pieces p;
    struct err e = {0};
    struct jout got = {0};
    const struct jnode *want = jnode_get(root, "text");
    arena_init(&a, 0);
    if (template_from_json(line, len, &a, &c, &e) < 0 || template_render(which, &c, &a, &p, &e) < 0)
        fail_msg("line %zu: %s", number, e.text);
    for (size_t i = 0; i < p.n; i++)
        jout_add(&got, p.p[i].text, p.p[i].bytes);
    if (got.n != want->bytes || memcmp(got.p, want->text, got.n) != 0)
        fail_msg("line %zu: rendered\n%.*s\nexpected\n%.*s", number, (int) got.n, got.p, (int) want->bytes,
                 want->text);
    jout_free(&got);
    arena_fini(&a);
}

static void renders_like_transformers(void **state)
{
    (void) state;
    size_t n, at = 0, len, number = 0, checked[2] = {0};
    const char *line;
    char *text = text_read(text_shared("golden/chat.jsonl"), &n);
    if (!text) {
        print_message("skipped: %s is not there (OUTRIDER_SHARED)\n", text_shared("golden/chat.jsonl"));
        skip();
    }
    while (text_line(text, n, &at, &line, &len)) {
        struct jdoc d;
        struct err e = {0};
        number++;
        if (jdoc_parse(&d, line, len, &e) < 0)
            fail_msg("line %zu: %s", number, e.text);
        int thinking = jnode_is(jnode_get(d.node, "template"), "thinking-2507");
        assert_true(thinking || jnode_is(jnode_get(d.node, "template"), "qwen3"));
        check_line(thinking ? CHAT_TEMPLATE_THINKING_2507 : CHAT_TEMPLATE_QWEN3, d.node, line, len, number);
        checked[thinking]++;
        jdoc_free(&d);
    }
    free(text);
    assert_int_equal(checked[0], 800);
    assert_int_equal(checked[1], 800);
}

static void official_templates_are_known(void **state)
{
    (void) state;
    static const char *const dir[] = {"qwen3", "tiny/target", "tiny/draft"};
    for (size_t i = 0; i < sizeof dir / sizeof *dir; i++) {
        int which;
        struct err e = {0};
        if (access(text_shared(dir[i]), R_OK) != 0) {
            print_message("skipped: %s is not there (OUTRIDER_SHARED)\n", text_shared(dir[i]));
            skip();
        }
        if (template_detect(text_shared(dir[i]), &which, &e) < 0)
            fail_msg("%s", e.text);
        assert_int_equal(which, CHAT_TEMPLATE_QWEN3);
    }
}

/* Thinking-2507's text, as a file of its own and inside tokenizer_config.json. */
static void thinking_2507_is_known(void **state)
{
    (void) state;
    size_t n;
    struct jout config = {0};
    char dir[] = "/tmp/outrider-chat-XXXXXX", path[64];
    char *text = text_read(text_shared("qwen3/chat_template_thinking-2507.jinja"), &n);
    if (!text) {
        print_message("skipped: %s is not there (OUTRIDER_SHARED)\n", text_shared("qwen3"));
        skip();
    }
    assert_non_null(mkdtemp(dir));
    jout_str(&config, "{\"chat_template\": ");
    jout_quote(&config, text, n);
    jout_str(&config, "}");
    for (int i = 0; i < 2; i++) {
        int which;
        struct err e = {0};
        snprintf(path, sizeof path, "%s/%s", dir, i ? "tokenizer_config.json" : "chat_template.jinja");
        text_write(path, i ? config.p : text, i ? config.n : n);
        int st = template_detect(dir, &which, &e);
        unlink(path);
        if (st < 0)
            fail_msg("%s", e.text);
        assert_int_equal(which, CHAT_TEMPLATE_THINKING_2507);
    }
    rmdir(dir);
    jout_free(&config);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_like_transformers),
        cmocka_unit_test(official_templates_are_known),
        cmocka_unit_test(thinking_2507_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
