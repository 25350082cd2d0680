/* stops.c - the matcher of stop strings: against a search of the whole text, on a small alphabet where matches overlap. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/stop.h"

enum { ROUNDS = 20000, TEXT_MAX = 24, WORD_MAX = 5 };

static uint32_t dice = 12345;

static int roll(int n)
{
    dice = dice * 1664525u + 1013904223u;
    return (int) ((dice >> 8) % (uint32_t) n);
}

static void word(char *out, int most)
{
    int n = 1 + roll(most);
    for (int i = 0; i < n; i++)
        out[i] = "ab"[roll(2)];
    out[n] = 0;
}

/* Bytes up to the end of the first match, and which; 0: none. */
static size_t search(const char *text, char words[][WORD_MAX + 1], int n, int *which)
{
    for (size_t end = 1; end <= strlen(text); end++) {
        *which = -1;
        for (int i = 0; i < n; i++) {
            size_t len = strlen(words[i]);
            if (len <= end && memcmp(text + end - len, words[i], len) == 0 &&
                (*which < 0 || len > strlen(words[*which])))
                *which = i;
        }
        if (*which >= 0)
            return end;
    }
    return 0;
}

/* The longest end of text[0..n) that is a beginning, and not the whole, of a word. */
static size_t pending(const char *text, size_t n, char words[][WORD_MAX + 1], int n_words)
{
    for (size_t len = n; len > 0; len--)
        for (int i = 0; i < n_words; i++)
            if (len < strlen(words[i]) && memcmp(text + n - len, words[i], len) == 0)
                return len;
    return 0;
}

static void test_as_a_search_finds(void **state)
{
    (void) state;
    int found = 0;
    for (int round = 0; round < ROUNDS; round++) {
        char words[3][WORD_MAX + 1], text[TEXT_MAX + 1];
        int n = 1 + roll(3), want;
        const char *list[3];
        struct stops *w;
        struct stop_state s = {{0}};
        struct err e;
        for (int i = 0; i < n; i++) {
            word(words[i], WORD_MAX);
            list[i] = words[i];
        }
        word(text, TEXT_MAX);
        assert_int_equal(stops_new(&w, list, (size_t) n, &e), 0);
        size_t end = search(text, words, n, &want), at = 0;
        int which = -1;
        while (text[at] && which < 0) {
            which = stop_push(w, &s, (uint8_t) text[at++]);
            if (which < 0)
                assert_int_equal(stop_pending(w, &s), pending(text, at, words, n));
        }
        assert_int_equal(which >= 0, end > 0);
        if (which >= 0) {
            assert_int_equal(at, end);
            assert_string_equal(stops_word(w, which), words[want]);
            assert_int_equal(stops_bytes(w, which), strlen(words[want]));
            found++;
        }
        stops_free(w);
    }
    assert_in_range(found, ROUNDS / 4, ROUNDS);
}

static void test_what_is_refused(void **state)
{
    (void) state;
    static char longest[STOP_BYTES_MAX + 2];
    const char *many[STOP_STRINGS_MAX + 1];
    struct stops *w;
    struct err e;
    memset(longest, 'x', sizeof longest - 1);
    for (int i = 0; i <= STOP_STRINGS_MAX; i++)
        many[i] = "x";
    assert_int_equal(stops_new(&w, many, STOP_STRINGS_MAX + 1, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "17 strings"));
    assert_int_equal(stops_new(&w, (const char *[]){"a", ""}, 2, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "stop[1] has 0 bytes"));
    assert_int_equal(stops_new(&w, (const char *[]){longest}, 1, &e), ST_INPUT);
    assert_int_equal(stops_new(&w, (const char *[]){longest + 1}, 1, &e), 0);
    stops_free(w);
    assert_int_equal(stops_new(&w, NULL, 0, &e), 0);
    assert_null(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_a_search_finds),
                                       cmocka_unit_test(test_what_is_refused)};
    return cmocka_run_group_tests_name("stop strings", tests, NULL, NULL);
}
