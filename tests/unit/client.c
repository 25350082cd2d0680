/* client.c - the client's small parts: codes, percent-decoding, UTF-8, what a terminal is spared, addresses, flags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/dial.h"
#include "client/grpc_code.h"
#include "client/options.h"
#include "client/show.h"
#include "client/words.h"

static void codes_agree_with_the_house(void **state)
{
    (void) state;
    for (int code = 0; code < GRPC_N_CODES; code++)
        assert_true(grpc_code_name(code)[0] && (grpc_code_status(code) == 0) == (code == 0));
    /* what the daemon makes of a status, the client reads back as that status or one of the same meaning */
    const int own[] = {ST_CANCELLED, ST_INPUT,        ST_LIMIT,       ST_UNSUPPORTED, ST_NOTFOUND,
                       ST_DEADLINE,  ST_PRECONDITION, ST_UNAVAILABLE, ST_WIRE};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        assert_int_equal(grpc_code_status(status_grpc(own[i])), own[i]);
}

static void broken_calls_have_codes(void **state)
{
    (void) state;
    const uint32_t reset[][2] = {{0, 13}, {1, 13}, {2, 13}, {3, 13}, {7, 14},
                                 {8, 1},  {11, 8}, {12, 7}, {99, 13}};
    const int http[][2] = {{400, 13}, {401, 16}, {403, 7}, {404, 12}, {429, 14}, {502, 14},
                           {503, 14}, {504, 14}, {200, 2}, {500, 2},  {0, 2}};
    for (size_t i = 0; i < sizeof reset / sizeof *reset; i++)
        assert_int_equal(grpc_code_of_reset(reset[i][0]), reset[i][1]);
    for (size_t i = 0; i < sizeof http / sizeof *http; i++)
        assert_int_equal(grpc_code_of_http(http[i][0]), http[i][1]);
}

static void messages_are_decoded_leniently(void **state)
{
    (void) state;
    const char *cases[][2] = {{"", ""},         {"plain", "plain"}, {"a%20b", "a b"},  {"%C3%a4", "\xc3\xa4"},
                              {"100%", "100%"}, {"%4", "%4"},       {"%zz", "%zz"},    {"%%41", "%A"},
                              {"a%00b", "a?b"}, {"%41%42%", "AB%"}, {"%4g%41", "%4gA"}};
    char out[16];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        grpc_code_message((const uint8_t *) cases[i][0], strlen(cases[i][0]), out, sizeof out);
        assert_string_equal(out, cases[i][1]);
    }
    grpc_code_message((const uint8_t *) "%41%42%43%44", 12, out, 4);
    assert_string_equal(out, "ABC");
}

static void words_grow_and_know_utf8(void **state)
{
    (void) state;
    struct words w = {0};
    assert_string_equal(words_str(&w), "");
    for (int i = 0; i < 1000; i++)
        assert_int_equal(words_add(&w, "\xe4\xb8\x96", 3), 0);
    assert_int_equal(w.n, 3000);
    assert_int_equal(strlen(w.p), 3000);
    assert_int_equal(words_check(w.p, w.n), 3000);
    assert_int_equal(words_check(w.p, 2999), 2997);
    free(w.p);
    const char *bad[] = {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80", "\xe4\xb8"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(words_check(bad[i], strlen(bad[i])), 0);
}

static char *shown(int terminal, const char *reasoning, const char *content)
{
    static char buf[512];
    memset(buf, 0, sizeof buf);
    FILE *to = tmpfile();
    struct show s;
    assert_non_null(to);
    show_init(&s, to);
    s.terminal = s.laid_out = terminal;
    show_answer(&s);
    show_delta(&s, reasoning, "");
    show_delta(&s, "", content);
    show_break(&s);
    rewind(to);
    assert_true(fread(buf, 1, sizeof buf - 1, to) < sizeof buf - 1);
    fclose(to);
    return buf;
}

static void a_terminal_obeys_nobody_else(void **state)
{
    (void) state;
    assert_string_equal(shown(1, "", "a\x1b[2Jb\x07\r\x7f"), "a\\x1b[2Jb\\x07\\x0d\\x7f\n");
    assert_string_equal(shown(1, "",
                              "\xc2\x9b"
                              "31m\xe2\x80\xae"
                              "x\xff\n"),
                        "\\u009b31m\\u202ex\\xff\n");
    assert_string_equal(shown(1, "", "tab\tand \xe4\xb8\x96\n"), "tab\tand \xe4\xb8\x96\n");
    assert_string_equal(shown(0, "", "a\x1b[2Jb"), "a\x1b[2Jb\n");
}

static void answers_are_laid_out(void **state)
{
    (void) state;
    assert_string_equal(shown(1, "\nwhy\n", "\n\nso"), "\033[2mwhy\n\033[0m\nso\n");
    assert_string_equal(shown(1, "why", "so"), "\033[2mwhy\033[0m\n\nso\n");
    assert_string_equal(shown(0, "why", "\n\nso"), "\n\nso\n");
}

static void addresses_are_checked(void **state)
{
    (void) state;
    const char *bad[] = {"", ":", "host", "host:", ":1", "::1", "[]:1", "unix:", "1.2.3.4:port", "a:b:1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        assert_int_equal(dial_connect(bad[i], 100, &e), ST_INPUT);
        assert_true(e.text[0]);
    }
}

static void numbers_are_numbers(void **state)
{
    (void) state;
    int32_t n;
    uint64_t u;
    float f;
    struct err e;
    assert_int_equal(options_int("-3", "x", -3, 3, &n, &e), 0);
    assert_int_equal(n, -3);
    const char *bad_int[] = {"", " ", "4", "-4", "1x", "0x1", "99999999999999999999", "1 "};
    for (size_t i = 0; i < sizeof bad_int / sizeof *bad_int; i++)
        assert_int_equal(options_int(bad_int[i], "x", -3, 3, &n, &e), ST_INPUT);
    assert_int_equal(options_u64("18446744073709551615", "x", &u, &e), 0);
    assert_true(u == UINT64_MAX);
    const char *bad_u64[] = {"", "-1", "+1", " 1", "18446744073709551616", "1."};
    for (size_t i = 0; i < sizeof bad_u64 / sizeof *bad_u64; i++)
        assert_int_equal(options_u64(bad_u64[i], "x", &u, &e), ST_INPUT);
    const char *bad_float[] = {"", "nan", "inf", "1e99", "1,5", "x"};
    for (size_t i = 0; i < sizeof bad_float / sizeof *bad_float; i++)
        assert_int_equal(options_float(bad_float[i], "x", &f, &e), ST_INPUT);
}

static void id_lists(void **state)
{
    (void) state;
    int32_t *ids = NULL;
    size_t n = 0;
    struct err e;
    assert_int_equal(options_ids("1,22", "x", &ids, &n, &e), 0);
    assert_int_equal(options_ids("2147483647", "x", &ids, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_true(ids[0] == 1 && ids[1] == 22 && ids[2] == INT32_MAX);
    const char *bad[] = {"", ",", "1,", ",1", "1,,2", "-1", "2147483648", "1 2", "1;2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(options_ids(bad[i], "x", &ids, &n, &e), ST_INPUT);
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_agree_with_the_house),
        cmocka_unit_test(broken_calls_have_codes),
        cmocka_unit_test(messages_are_decoded_leniently),
        cmocka_unit_test(words_grow_and_know_utf8),
        cmocka_unit_test(a_terminal_obeys_nobody_else),
        cmocka_unit_test(answers_are_laid_out),
        cmocka_unit_test(addresses_are_checked),
        cmocka_unit_test(numbers_are_numbers),
        cmocka_unit_test(id_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
