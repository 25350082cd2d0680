/* flags.c - the daemon's flags: defaults, every kind of value, every kind of refusal. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "daemon/config.h"

enum { ARGS_MAX = 40 };

#define TEN "0123456789"
#define LONG_PATH                                                                                            \
    TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN "0123456" /* 107 bytes: a slash before them is too many */

/* Parses the '|'-separated flags. */
static int parse(const char *flags, struct daemon_config *c, struct err *e)
{
    static char text[1024], name[] = "outriderd";
    char *argv[ARGS_MAX] = {name};
    int argc = 1;
    snprintf(text, sizeof text, "%s", flags);
    for (char *p = strtok(text, "|"); p; p = strtok(NULL, "|"))
        argv[argc++] = p;
    return daemon_config_parse(c, argc, argv, e);
}

static void test_defaults(void **state)
{
    (void) state;
    struct daemon_config c;
    struct err e;
    assert_int_equal(parse("--target|m", &c, &e), 0);
    assert_string_equal(c.target, "m");
    assert_null(c.draft);
    assert_null(c.chat_template);
    assert_int_equal(c.n_listen, 1);
    assert_string_equal(c.listen[0], "127.0.0.1:8311");
    assert_int_equal(c.max_sessions, 64);
    assert_int_equal(c.thinking_budget, -1);
    assert_int_equal(c.max_message_bytes, 4 << 20);
    assert_int_equal(c.drain_timeout_ms, 30000);
    assert_int_equal(c.log_level, LOG_INFO);
    assert_int_equal(c.ready_fd, -1);
    assert_string_equal(c.kv, "bf16");
    assert_non_null(strstr(c.thinking_close_text, "\n</think>\n\n"));
}

static void test_values(void **state)
{
    (void) state;
    struct daemon_config c;
    struct err e;
    assert_int_equal(
        parse("--target=m|--draft|d|--listen|unix:/x|--listen=[::1]:0|--kv-bytes|2G|--draft-kv-bytes=3M|"
              "--max-message-bytes|64K|--max-header-bytes|2048|--drain-timeout|0.25|--threads|3|--isa|avx2|"
              "--draft-threads|0|--target-threads=3|--pin|off|--pack-cache|/"
              "c|--thinking-budget|-1|--log-level|debug|--"
              "target-quant|q8|--thinking-close-text|a=b</think>",
              &c, &e),
        0);
    assert_string_equal(c.draft, "d");
    assert_int_equal(c.n_listen, 2);
    assert_string_equal(c.listen[1], "[::1]:0");
    assert_true(c.kv_bytes == INT64_C(2) << 30 && c.draft_kv_bytes == 3 << 20);
    assert_true(c.max_message_bytes == 65536 && c.max_header_bytes == 2048);
    assert_int_equal(c.drain_timeout_ms, 250);
    assert_int_equal(c.log_level, LOG_DEBUG);
    assert_true(c.threads == 3 && c.target_threads == 3 && c.draft_threads == 0);
    assert_string_equal(c.pin, "off");
    assert_string_equal(c.pack_cache, "/c");
    assert_string_equal(c.target_quant, "q8");
    assert_string_equal(c.thinking_close_text, "a=b</think>");
}

static void test_refusals(void **state)
{
    (void) state;
    static const struct {
        const char *flags, *says;
    } list[] = {
        {"", "--target MODEL is required"},
        {"--target|m|--nope", "no flag '--nope'"},
        {"--target|m|extra", "no flag 'extra'"},
        {"--target", "--target needs a value"},
        {"--target=", "--target must not be empty"},
        {"--target|m|--threads|x", "--threads takes a whole number, not 'x'"},
        {"--target|m|--threads|3x", "--threads takes a whole number"},
        {"--target|m|--threads|4K", "--threads takes a whole number"},
        {"--target|m|--threads|257", "--threads must be in 0..256, not 257"},
        {"--target|m|--threads|99999999999999999999", "--threads takes"},
        {"--target|m|--draft-threads|-2", "--draft-threads must be in -1..255, not -2"},
        {"--target|m|--pin|on", "--pin must be one of auto|off, not 'on'"},
        {"--target|m|--kv-bytes|12Q", "--kv-bytes takes a size"},
        {"--target|m|--kv-bytes|K", "--kv-bytes takes a size"},
        {"--target|m|--kv-bytes|1KK", "--kv-bytes takes a size"},
        {"--target|m|--kv-bytes|9223372036854775807G", "--kv-bytes takes a size"},
        {"--target|m|--kv-bytes|5000G", "--kv-bytes must be in 0..4398046511104, not 5000G"},
        {"--target|m|--drain-timeout|-1", "--drain-timeout takes a number of seconds"},
        {"--target|m|--drain-timeout|soon", "--drain-timeout takes a number of seconds"},
        {"--target|m|--drain-timeout|nan", "--drain-timeout takes a number of seconds"},
        {"--target|m|--stall-timeout|0.01", "--stall-timeout must be in 0.1.."},
        {"--target|m|--isa|mmx", "--isa must be one of auto|twin|avx2|avxvnni|avx512|vnni, not 'mmx'"},
        {"--target|m|--isa|av", "--isa must be one of"},
        {"--target|m|--kv|", "--kv needs a value"},
        {"--target|m|--log-level|loud", "--log-level must be one of"},
        {"--target|m|--listen|8311", "--listen takes HOST:PORT or unix:PATH"},
        {"--target|m|--listen|unix:", "--listen takes"},
        {"--target|m|--listen|h:65536", "--listen takes a port in 0..65535, not '65536'"},
        {"--target|m|--listen|h:-1", "--listen takes a port in 0..65535, not '-1'"},
        {"--target|m|--listen|h:000001", "--listen takes a port"},
        {"--target|m|--listen|h:http", "--listen takes a port"},
        {"--target|m|--listen|unix:/" LONG_PATH, "--listen takes a socket path of at most 107 bytes"},
        {"--target|m|--help=1", "--help takes no value"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct daemon_config c;
        struct err e = {0};
        assert_int_equal(parse(list[i].flags, &c, &e), ST_INPUT);
        if (strncmp(e.text, list[i].says, strlen(list[i].says)) != 0)
            fail_msg("%s says '%s', not '%s'", list[i].flags, e.text, list[i].says);
    }
    struct daemon_config c;
    struct err e;
    char many[700] = "--target|m";
    for (int i = 0; i <= DAEMON_LISTEN_MAX; i++)
        strcat(many, "|--listen|h:1");
    assert_int_equal(parse(many, &c, &e), ST_INPUT);
}

static void test_help_names_what_parses(void **state)
{
    (void) state;
    struct daemon_config c;
    struct err e;
    assert_int_equal(parse("--help", &c, &e), 0);
    assert_true(c.help);
    assert_int_equal(parse("--version", &c, &e), 0);
    assert_true(c.version);
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    daemon_config_help(f);
    fclose(f);
    assert_non_null(strstr(text, "--max-header-bytes SIZE"));
    assert_non_null(strstr(text, "(default 127.0.0.1:8311)"));
    assert_non_null(strstr(text, "(default 64)"));
    free(text);
}

static void test_synthetic_acceptance(void **state)
{
    (void) state;
    struct daemon_config c;
    struct err e;
    assert_int_equal(parse("--target|m", &c, &e), 0);
    assert_int_equal(c.synthetic.n, 0);
    assert_int_equal(parse("--target|m|--draft|d|--synthetic-acceptance|.80,.75", &c, &e), 0);
    assert_true(c.synthetic.n == 2 && c.synthetic.rate[1] == 0.75f);
    assert_int_equal(parse("--target|m|--draft|d|--synthetic-acceptance|1.5", &c, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "rates in 0..1"));
    assert_int_equal(parse("--target|m|--synthetic-acceptance|.8", &c, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "needs --draft"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_help_names_what_parses),
        cmocka_unit_test(test_synthetic_acceptance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
