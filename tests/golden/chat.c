/* chat.c - the chat template against transformers' renderer, on every golden conversation under Qwen3's template. */
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

static void check_line(const struct jnode *root, const char *line, size_t len, size_t number)
{
    struct arena a;
    struct chat c;
    struct pieces p;
    struct err e = {0};
    struct jout got = {0};
    const struct jnode *want = jnode_get(root, "text");
    arena_init(&a, 0);
    if (template_from_json(line, len, &a, &c, &e) < 0 ||
        template_render(CHAT_TEMPLATE_QWEN3, &c, &a, &p, &e) < 0)
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
    size_t n, at = 0, len, number = 0, checked = 0;
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
        if (jnode_is(jnode_get(d.node, "template"), "qwen3")) {
            check_line(d.node, line, len, number);
            checked++;
        }
        jdoc_free(&d);
    }
    free(text);
    assert_int_equal(checked, 800);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_like_transformers),
        cmocka_unit_test(official_templates_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
