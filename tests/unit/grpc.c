/* grpc.c - gRPC's words: timeouts, percent-encoding, content types, prefixes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "core/status.h"
#include "daemon/grpc.h"

static void test_timeout(void **state)
{
    (void) state;
    static const struct {
        const char *text;
        uint64_t ns;
    } good[] = {
        {"1n", 1},
        {"0S", 0},
        {"20u", 20000},
        {"300m", 300000000},
        {"2S", 2000000000},
        {"1M", UINT64_C(60000000000)},
        {"1H", UINT64_C(3600000000000)},
        {"99999999H", INT64_MAX},
        {"00000001S", 1000000000},
    };
    static const char *const bad[] = {"", "S", "1", "1s", "1 S", "-1S", "1.5S", "123456789S", "1SS", "x1S"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t ns = 77;
        assert_int_equal(grpc_timeout_parse(good[i].text, strlen(good[i].text), &ns), 0);
        assert_true(ns == good[i].ns);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t ns;
        assert_int_equal(grpc_timeout_parse(bad[i], strlen(bad[i]), &ns), ST_INPUT);
    }
}

static void encodes(const char *text, const char *want)
{
    char out[GRPC_MESSAGE_MAX + 1];
    assert_int_equal(grpc_message_encode(text, out), strlen(want));
    assert_string_equal(out, want);
}

static void test_message(void **state)
{
    (void) state;
    encodes("", "");
    encodes("plain ~ text!", "plain ~ text!");
    encodes("100%", "100%25");
    encodes("a\nb\x7f", "a%0Ab%7F");
    encodes("ä🎉", "%C3%A4%F0%9F%8E%89");
    encodes("a\xff"
            "b\xc3",
            "a%EF%BF%BDb%EF%BF%BD"); /* what is sent is UTF-8 in any case */
    encodes("'\xf0\x9f\x8e' \xed\xa0\x80", "'%EF%BF%BD' %EF%BF%BD%EF%BF%BD%EF%BF%BD");
    char text[4000], out[GRPC_MESSAGE_MAX + 1];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    assert_int_equal(grpc_message_encode(text, out), GRPC_MESSAGE_MAX);
    memcpy(text + GRPC_MESSAGE_MAX - 5, "ä", 2); /* six encoded bytes: one too many */
    assert_int_equal(grpc_message_encode(text, out), GRPC_MESSAGE_MAX - 5);
}

static void test_content_type(void **state)
{
    (void) state;
    static const char *const good[] = {"application/grpc", "application/grpc+proto",
                                       "application/grpc;charset=utf-8", "application/grpc+proto; x=y"};
    static const char *const bad[] = {"",
                                      "application/grp",
                                      "application/grpc+json",
                                      "application/grpc-web",
                                      "application/grpcx",
                                      "text/plain",
                                      "application/grpc+protobuf"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(grpc_content_type_ok(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(grpc_content_type_ok(bad[i], strlen(bad[i])));
}

static void test_prefix(void **state)
{
    (void) state;
    uint8_t p[GRPC_PREFIX_BYTES];
    grpc_prefix_put(p, 0, 0x01020304);
    assert_memory_equal(p, "\0\1\2\3\4", 5);
    assert_int_equal(grpc_prefix_bytes(p), 0x01020304);
    grpc_prefix_put(p, 1, UINT32_MAX);
    assert_int_equal(p[0], 1);
    assert_true(grpc_prefix_bytes(p) == UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_message),
        cmocka_unit_test(test_content_type),
        cmocka_unit_test(test_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
