/* zip.c - compressed messages: there and back, cut, spoilt, and larger than they may be. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/zip.h"

enum { BYTES = 100000 };

static uint8_t plain[BYTES];

static int fill(void **state)
{
    (void) state;
    for (int i = 0; i < BYTES; i++)
        plain[i] = (uint8_t) ((uint32_t) i * (uint32_t) i >> 7);
    return 0;
}

static void test_there_and_back(void **state)
{
    (void) state;
    struct err e;
    for (int zip = ZIP_GZIP; zip <= ZIP_DEFLATE; zip++) {
        struct buf small = {0}, back = {0};
        assert_int_equal(zip_deflate(zip, plain, BYTES, &small), 1);
        assert_true(buf_len(&small) < BYTES);
        assert_int_equal(zip_inflate(zip, buf_front(&small), buf_len(&small), BYTES, &back, &e), 0);
        assert_int_equal(buf_len(&back), BYTES);
        assert_memory_equal(buf_front(&back), plain, BYTES);
        buf_free(&back);
        assert_int_equal(zip_inflate(zip, buf_front(&small), buf_len(&small), BYTES - 1, &back, &e),
                         ST_LIMIT);
        assert_true(buf_len(&back) <= BYTES - 1);
        buf_free(&back);
        for (size_t n = 1; n < buf_len(&small); n += buf_len(&small) / 50 + 1) {
            assert_int_equal(zip_inflate(zip, buf_front(&small), n, BYTES, &back, &e), ST_WIRE);
            buf_free(&back);
        }
        assert_int_equal(buf_append(&small, "x", 1), 0);
        assert_int_equal(zip_inflate(zip, buf_front(&small), buf_len(&small), BYTES, &back, &e), ST_WIRE);
        buf_free(&back);
        buf_free(&small);
    }
}

static void test_not_worth_it(void **state)
{
    (void) state;
    struct buf small = {0};
    uint8_t noise[4096];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof noise; i++) {
        x = x * 1664525u + 1013904223u;
        noise[i] = (uint8_t) (x >> 24);
    }
    assert_int_equal(zip_deflate(ZIP_GZIP, noise, sizeof noise, &small), 0);
    assert_int_equal(zip_deflate(ZIP_GZIP, plain, ZIP_WORTH_BYTES - 1, &small), 0);
    assert_int_equal(buf_len(&small), 0);
    buf_free(&small);
}

static void test_the_wrong_format(void **state)
{
    (void) state;
    struct buf small = {0}, back = {0};
    struct err e;
    assert_int_equal(zip_deflate(ZIP_GZIP, plain, BYTES, &small), 1);
    assert_int_equal(zip_inflate(ZIP_DEFLATE, buf_front(&small), buf_len(&small), BYTES, &back, &e), ST_WIRE);
    assert_int_equal(zip_inflate(ZIP_GZIP, plain, 100, BYTES, &back, &e), ST_WIRE);
    assert_int_equal(zip_inflate(ZIP_GZIP, plain, 0, BYTES, &back, &e), 0);
    assert_int_equal(buf_len(&back), 0);
    buf_free(&small);
    buf_free(&back);
}

static void test_names(void **state)
{
    (void) state;
    static const char list[] = "identity , gzip,br, deflate";
    assert_int_equal(zip_parse("gzip", 4), ZIP_GZIP);
    assert_int_equal(zip_parse("gzip2", 5), ZIP_UNKNOWN);
    assert_int_equal(zip_accepted(list, sizeof list - 1),
                     1 << ZIP_IDENTITY | 1 << ZIP_GZIP | 1 << ZIP_DEFLATE);
    assert_int_equal(zip_accepted("", 0), 0);
    assert_int_equal(zip_accepted(",,", 2), 0);
    assert_string_equal(zip_name(ZIP_DEFLATE), "deflate");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_there_and_back),
                                       cmocka_unit_test(test_not_worth_it),
                                       cmocka_unit_test(test_the_wrong_format), cmocka_unit_test(test_names)};
    return cmocka_run_group_tests_name("compressed messages", tests, fill, NULL);
}
