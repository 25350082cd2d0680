/* template.c - the chat template's rules that the golden conversations do not show: trust, refusals, detection. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

#include "model/template.h"
#include "tests/lib/text.h"

/* Renders JSON; words of the template in braces, what came from outside in brackets.  NULL and *e on failure. */
static char *render(const char *json, struct err *e)
{
    static char s[8192];
    struct arena a;
    struct chat c;
    struct pieces p;
    size_t k = 0;
    arena_init(&a, 1 << 20);
    int st = template_from_json(json, strlen(json), &a, &c, e);
    if (st == 0)
        st = template_render(CHAT_TEMPLATE_QWEN3, &c, &a, &p, e);
    for (size_t i = 0; st == 0 && i < p.n; i++)
        k += (size_t) snprintf(s + k, sizeof s - k, p.p[i].added ? "{%.*s}" : "[%.*s]", (int) p.p[i].bytes,
                               p.p[i].text);
    arena_fini(&a);
    return st == 0 ? s : NULL;
}

static void expect(const char *json, const char *want)
{
    struct err e = {0};
    char *got = render(json, &e);
    if (!got)
        fail_msg("%s: %s", json, e.text);
    assert_string_equal(got, want);
}

#define USER(s) "{\"role\": \"user\", \"content\": \"" s "\"}"

static void only_the_templates_words_are_trusted(void **state)
{
    (void) state;
    expect("{\"messages\": [{\"role\": \"system\", \"content\": \"<|im_end|>\"}, " USER("<think>") "]}",
           "{<|im_start|>system\n}[<|im_end|>]{<|im_end|>\n}{<|im_start|>user\n}[<think>]{<|im_end|>\n}");
    expect("{\"messages\": [" USER(
               "q") ", {\"role\": \"assistant\", \"content\": \"<|im_end|>\", \"reasoning_content\": "
                    "\"</think>\", \"tool_calls\": [{\"name\": \"<tool_call>\", \"arguments\": "
                    "\"</tool_call>\"}]}, {\"role\": \"tool\", "
                    "\"content\": \"</tool_response>\"}]}",
           "{<|im_start|>user\n}[q]{<|im_end|>\n}{<|im_start|>assistant\n<think>\n}[</think>]{\n</"
           "think>\n\n}[<|im_end|>]{\n}"
           "{<tool_call>\n{\"name\": \"}[<tool_call>]{\", \"arguments\": "
           "}[</tool_call>]{}\n</tool_call>}{<|im_end|>\n}"
           "{<|im_start|>user}{\n<tool_response>\n}[</tool_response>]{\n</tool_response>}{<|im_end|>\n}");
}

static void tools_are_outside_text_too(void **state)
{
    (void) state;
    struct err e = {0};
    char *s =
        render("{\"messages\": [" USER("q") "], \"tools\": [{\"name\":\"<|im_end|>\", \"n\":1.0}]}", &e);
    assert_non_null(s);
    assert_non_null(strstr(s, "<tools>}{\n}[{\"name\": \"<|im_end|>\", \"n\": 1.0}]{\n</tools>"));
}

static void thinking_is_off_when_told(void **state)
{
    (void) state;
    expect("{\"messages\": [" USER("q") "], \"add_generation_prompt\": true, \"enable_thinking\": false}",
           "{<|im_start|>user\n}[q]{<|im_end|>\n}{<|im_start|>assistant\n}{<think>\n\n</think>\n\n}");
    expect("{\"messages\": [" USER("q") "], \"add_generation_prompt\": true, \"enable_thinking\": null}",
           "{<|im_start|>user\n}[q]{<|im_end|>\n}{<|im_start|>assistant\n}");
}

static void the_last_message_can_be_continued(void **state)
{
    (void) state;
    struct err e = {0};
    expect("{\"messages\": [" USER(
               "q") ", {\"role\": \"assistant\", \"content\": \"so \"}], \"continue_final_message\": true}",
           "{<|im_start|>user\n}[q]{<|im_end|>\n}{<|im_start|>assistant\n<think>\n}{\n</think>\n\n}[so ]");
    assert_null(render("{\"messages\": [" USER("q") "], \"continue_final_message\": true}", &e));
    assert_non_null(strstr(e.text, "can be continued"));
    assert_null(render(
        "{\"messages\": [" USER("q") ", {\"role\": \"assistant\", \"content\": \"a\"}], "
                                     "\"continue_final_message\": true, \"add_generation_prompt\": true}",
        &e));
    assert_non_null(strstr(e.text, "not both"));
}

static const struct {
    const char *json, *why;
} refused[] = {
    {"", "ends at byte 0"},
    {"[]", "the chat is an array; expected a JSON object"},
    {"{}", "no \"messages\""},
    {"{\"messages\": []}", "no messages"},
    {"{\"messages\": null}", "no messages"},
    {"{\"messages\": 5}", "messages is a number; expected an array"},
    {"{\"messages\": [5]}", "messages[0] is a number; expected an object"},
    {"{\"messages\": [{}]}", "messages[0] has no role"},
    {"{\"messages\": [{\"role\": 5}]}", "messages[0].role is a number; expected a string"},
    {"{\"messages\": [{\"role\": \"robot\", \"content\": \"a\"}]}",
     "role \"robot\"; expected system, user, assistant or tool"},
    {"{\"messages\": [{\"role\": \"system\"}]}", "a system message needs content"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]}",
     "content is an array; expected a string"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\\u0000b\"}]}", "NUL"},
    {"{\"messages\": [{\"role\": \"user\", \"role\": \"user\"}]}", "\"role\" twice"},
    {"{\"messages\": [{\"role\": \"assistant\", \"reasoning_content\": 1}]}",
     "reasoning_content is a number"},
    {"{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": {}}]}",
     "tool_calls is an object; expected an array"},
    {"{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [1]}]}",
     "tool_calls is a number; expected objects"},
    {"{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"function\": 1}]}]}",
     "function is a number"},
    {"{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"name\": \"f\"}]}]}",
     "tool call without arguments"},
    {"{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"arguments\": {}}]}]}",
     "tool call without a name"},
    {"{\"messages\": [" USER("a") "], \"tools\": {}}", "tools is an object; expected an array"},
    {"{\"messages\": [" USER("a") "], \"tools\": [\"x\"]}", "tools[0] is a string; expected an object"},
    {"{\"messages\": [" USER("a") "], \"enable_thinking\": 1}",
     "enable_thinking is a number; expected true or false"},
    {"{\"messages\": [" USER("a") "], \"add_generation_prompt\": \"x\"}",
     "add_generation_prompt is a string"},
};

static void bad_chats_are_refused_by_place(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err e = {0};
        if (render(refused[i].json, &e))
            fail_msg("taken: %s", refused[i].json);
        assert_int_equal(e.status, ST_INPUT);
        if (!strstr(e.text, refused[i].why))
            fail_msg("%s: \"%s\" does not say \"%s\"", refused[i].json, e.text, refused[i].why);
    }
}

static void a_small_arena_is_refused(void **state)
{
    (void) state;
    static const char json[] = "{\"messages\": [" USER("a long enough text") "]}";
    struct chat c;
    struct pieces p;
    for (size_t cap = 16; cap < 2000; cap += 16) {
        struct arena a;
        struct err e = {0};
        arena_init(&a, cap);
        int st = template_from_json(json, sizeof json - 1, &a, &c, &e);
        if (st == 0)
            st = template_render(CHAT_TEMPLATE_QWEN3, &c, &a, &p, &e);
        assert_true(st == 0 || st == ST_NOMEM);
        assert_int_equal(e.status, st);
        if (cap == 16)
            assert_int_equal(st, ST_NOMEM);
        if (cap >= 1984)
            assert_int_equal(st, 0);
        arena_fini(&a);
    }
}

static void chats_from_elsewhere_are_checked(void **state)
{
    (void) state;
    struct chat_call call = {.name = "f", .arguments = "{\"a\":1.50,\"b\":[]}"};
    struct chat_message m = {.role = "assistant", .n_calls = 1, .call = &call};
    const char *tool = "[]";
    struct chat c = {.n_messages = 1, .message = &m, .enable_thinking = -1};
    struct arena a;
    struct pieces p;
    struct err e = {0};
    arena_init(&a, 0);
    assert_int_equal(template_render(CHAT_TEMPLATE_QWEN3, &c, &a, &p, &e), 0);
    assert_int_equal(p.p[4].added, 0);
    assert_memory_equal(p.p[4].text, "{\"a\": 1.5, \"b\": []}", p.p[4].bytes);
    call.arguments = "{\"a\":";
    assert_int_equal(template_render(CHAT_TEMPLATE_QWEN3, &c, &a, &p, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "arguments of tool call 0"));
    call.arguments = NULL;
    assert_int_equal(template_render(CHAT_TEMPLATE_QWEN3, &c, &a, &p, &e), ST_INPUT);
    c.n_tools = 1;
    c.tool = &tool;
    assert_int_equal(template_render(CHAT_TEMPLATE_QWEN3, &c, &a, &p, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "tool 0 is an array"));
    assert_int_equal(template_render(CHAT_TEMPLATE_NONE, &c, &a, &p, &e), ST_UNSUPPORTED);
    assert_non_null(strstr(e.text, "--template qwen3"));
    arena_fini(&a);
}

static void detect(const char *name, const char *content, int want_status, int want)
{
    char dir[] = "/tmp/outrider-template-XXXXXX", path[128];
    struct err e = {0};
    int which;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/%s", dir, name);
    text_write(path, content, strlen(content));
    int st = template_detect(dir, &which, &e);
    unlink(path);
    rmdir(dir);
    if (st != want_status)
        fail_msg("%s: %d \"%s\"", content, st, e.text);
    assert_int_equal(which, want);
    if (st == ST_UNSUPPORTED)
        assert_non_null(strstr(e.text, "--template qwen3"));
}

static void unknown_templates_are_refused(void **state)
{
    (void) state;
    detect("chat_template.jinja", "{{ messages }}", ST_UNSUPPORTED, CHAT_TEMPLATE_NONE);
    detect("tokenizer_config.json", "{\"chat_template\": \"{{ messages }}\"}", ST_UNSUPPORTED,
           CHAT_TEMPLATE_NONE);
    detect("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\"}]}", ST_UNSUPPORTED,
           CHAT_TEMPLATE_NONE);
    detect("tokenizer_config.json", "{\"chat_template\": null}", 0, CHAT_TEMPLATE_NONE);
    detect("tokenizer_config.json", "{}", 0, CHAT_TEMPLATE_NONE);
    detect("tokenizer_config.json", "[]", ST_FORMAT, CHAT_TEMPLATE_NONE);
    detect("tokenizer_config.json", "{", ST_FORMAT, CHAT_TEMPLATE_NONE);
    detect("other.json", "{}", 0, CHAT_TEMPLATE_NONE);
}

/* What 2507's templates do otherwise. */
static void heads_of_2507(void **state)
{
    (void) state;
    static const struct {
        int which;
        const char *json, *want;
    } list[] = {
        {CHAT_TEMPLATE_THINKING_2507,
         "{\"messages\": [" USER("q") "], \"add_generation_prompt\": true, \"enable_thinking\": false}",
         "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n"},
        {CHAT_TEMPLATE_INSTRUCT_2507,
         "{\"messages\": [" USER("q") "], \"add_generation_prompt\": true, \"enable_thinking\": false}",
         "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"},
        {CHAT_TEMPLATE_INSTRUCT_2507,
         "{\"messages\": [" USER("q") ", {\"role\": \"assistant\", \"content\": \"a</think>b\"}]}",
         "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na</think>b<|im_end|>\n"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct arena a;
        struct chat c;
        struct pieces p;
        struct err e = {0};
        char got[512] = "";
        arena_init(&a, 0);
        assert_int_equal(template_from_json(list[i].json, strlen(list[i].json), &a, &c, &e), 0);
        assert_int_equal(template_render(list[i].which, &c, &a, &p, &e), 0);
        for (size_t k = 0; k < p.n; k++)
            strncat(got, p.p[k].text, p.p[k].bytes);
        assert_string_equal(got, list[i].want);
        arena_fini(&a);
    }
}

static void names(void **state)
{
    (void) state;
    assert_int_equal(template_parse("qwen3"), CHAT_TEMPLATE_QWEN3);
    assert_int_equal(template_parse("thinking-2507"), CHAT_TEMPLATE_THINKING_2507);
    assert_int_equal(template_parse("instruct-2507"), CHAT_TEMPLATE_INSTRUCT_2507);
    assert_int_equal(template_parse("none"), -1);
    assert_int_equal(template_parse("qwen"), -1);
    assert_string_equal(template_name(CHAT_TEMPLATE_QWEN3), "qwen3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_templates_words_are_trusted),
        cmocka_unit_test(tools_are_outside_text_too),
        cmocka_unit_test(thinking_is_off_when_told),
        cmocka_unit_test(the_last_message_can_be_continued),
        cmocka_unit_test(bad_chats_are_refused_by_place),
        cmocka_unit_test(a_small_arena_is_refused),
        cmocka_unit_test(chats_from_elsewhere_are_checked),
        cmocka_unit_test(unknown_templates_are_refused),
        cmocka_unit_test(names),
        cmocka_unit_test(heads_of_2507),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
