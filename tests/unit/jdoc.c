/* jdoc.c - the JSON reader's shapes and refusals, and writing against Python's json module. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "model/jdoc.h"

/* json.dumps(json.loads(in), ensure_ascii=False) of Python 3.11. */
static const struct {
    const char *in, *out;
} rewritten[] = {
    {"0", "0"},
    {"-0", "0"},
    {"1", "1"},
    {"-17", "-17"},
    {"12345678901234567890123456789012345678901234567890",
     "12345678901234567890123456789012345678901234567890"},
    {"1.0", "1.0"},
    {"-0.0", "-0.0"},
    {"0.1", "0.1"},
    {"1e0", "1.0"},
    {"1E5", "100000.0"},
    {"1e15", "1000000000000000.0"},
    {"1e16", "1e+16"},
    {"1e+16", "1e+16"},
    {"123456789012345678.0", "1.2345678901234568e+17"},
    {"1234567890123456.0", "1234567890123456.0"},
    {"9007199254740993.0", "9007199254740992.0"},
    {"0.0001", "0.0001"},
    {"0.00001", "1e-05"},
    {"1e-7", "1e-07"},
    {"1.5e-10", "1.5e-10"},
    {"5e-324", "5e-324"},
    {"1.7976931348623157e308", "1.7976931348623157e+308"},
    {"1e400", "Infinity"},
    {"-1e400", "-Infinity"},
    {"1e-400", "0.0"},
    {"2.2250738585072014e-308", "2.2250738585072014e-308"},
    {"5.684341886080801486968994140625e-14", "5.684341886080802e-14"},
    {"9.5367431640625e-07", "9.5367431640625e-07"},
    {"100000000000000000000.0", "1e+20"},
    {"0.30000000000000004", "0.30000000000000004"},
    {"3.14159265358979323846", "3.141592653589793"},
    {"1e22", "1e+22"},
    {"1e23", "1e+23"},
    {"4.35", "4.35"},
    {"2.5", "2.5"},
    {"12345.6789e-3", "12.3456789"},
    {"4.940656458412465441765687928682213723651e-324", "5e-324"},
    {"9.007199254740992e15", "9007199254740992.0"},
    {"9.999999999999999e15", "1e+16"},
    {"99999999999999999.0", "1e+17"},
    {"6.123233995736766e-17", "6.123233995736766e-17"},
    {"\"a\\/b\\u00e9\\ud83d\\ude00\\u0000\\u001f\\u007f\\b\\f\\n\\r\\t\\\"\\\\\"",
     "\"a/b\xc3\xa9\xf0\x9f\x98\x80\\u0000\\u001f\x7f\\b\\f\\n\\r\\t\\\"\\\\\""},
    {"{}", "{}"},
    {"[]", "[]"},
    {"{ \"b\" :1 , \"a\":[1,2 , {}], \"c\":null,\"\":true}",
     "{\"b\": 1, \"a\": [1, 2, {}], \"c\": null, \"\": true}"},
    {"[[],{},[{}]]", "[[], {}, [{}]]"},
    {" [ 1.50 , -0.0e5 ] ", "[1.5, -0.0]"},
    {"\"\\u2028 \\u00ff <>&'\"", "\"\xe2\x80\xa8 \xc3\xbf <>&'\""},
};

static void writes_like_python(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof rewritten / sizeof *rewritten; i++) {
        struct jdoc d;
        struct jout o = {0};
        struct err e = {0};
        if (jdoc_parse(&d, rewritten[i].in, strlen(rewritten[i].in), &e) < 0)
            fail_msg("%s: %s", rewritten[i].in, e.text);
        jout_node(&o, d.node);
        jout_add(&o, "", 1);
        assert_string_equal(o.p, rewritten[i].out);
        jout_free(&o);
        jdoc_free(&d);
    }
}

static uint64_t next_random(uint64_t *x)
{
    return *x = *x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
}

/* A quarter of them powers of two, a quarter of everyday size. */
static double random_double(uint64_t *x, int i)
{
    uint64_t a = next_random(x), bits = (next_random(x) >> 32 << 32) | a >> 32;
    double v;
    if (i % 4 == 0)
        bits &= UINT64_C(0x7ff0000000000000);
    if (i % 4 == 1)
        bits = (bits & UINT64_C(0x800fffffffffffff)) | (1023 + (a >> 40) % 60) << 52;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* 199,939 doubles, printed: the hash of what Python 3.11's repr gives for the same ones. */
static void floats_print_like_repr(void **state)
{
    (void) state;
    uint64_t x = 99, h = UINT64_C(0xcbf29ce484222325);
    int n = 0;
    for (int i = 0; i < 200000; i++) {
        double v = random_double(&x, i);
        struct jout o = {0};
        char text[40];
        if (!isfinite(v))
            continue;
        struct jnode node = {.text = text, .type = JNODE_NUMBER};
        node.bytes = (uint32_t) snprintf(text, sizeof text, "%.17e", v);
        jout_node(&o, &node);
        for (size_t k = 0; k < o.n; k++)
            h = (h ^ (unsigned char) o.p[k]) * UINT64_C(0x100000001b3);
        jout_free(&o);
        n++;
    }
    assert_int_equal(n, 199939);
    assert_true(h == UINT64_C(0x7a1d7939ea73d951));
}

static const struct {
    const char *in, *why;
} refused[] = {
    {"", "ends at byte 0"},
    {"  ", "ends at byte 2"},
    {"{", "a key in double quotes"},
    {"{\"a\"", "':'"},
    {"{\"a\":1", "',' or '}'"},
    {"{\"a\":1,}", "a key in double quotes"},
    {"{a:1}", "a key in double quotes"},
    {"[1,]", "a value"},
    {"[1 2]", "',' or ']'"},
    {"[1", "',' or ']'"},
    {"01", "nothing after the value"},
    {"-", "a digit"},
    {"+1", "a value"},
    {".5", "a value"},
    {"1.", "a digit"},
    {"1e", "a digit"},
    {"NaN", "a value"},
    {"Infinity", "a value"},
    {"nul", "a value"},
    {"true false", "nothing after the value"},
    {"\"abc", "the end of a string"},
    {"\"a\nb\"", "the end of a string"},
    {"\"\\x\"", "one of"},
    {"\"\\", "one of"},
    {"\"\\u12\"", "four hexadecimal digits"},
    {"\"\\ud800\"", "half a one"},
    {"\"\\ud800\\u0041\"", "half a one"},
    {"\"\\udc00\"", "half a one"},
    {"\"\xff\"", "not UTF-8 at byte 1"},
    {"\"\xed\xa0\x80\"", "not UTF-8 at byte 1"},
    {"{\"a\":1,\"b\":2,\"a\":3}", "\"a\" twice"},
    {"{\"a\":1,\"\\u0061\":3}", "\"a\" twice"},
    {"[{\"x\":{\"k\":1,\"k\":1}}]", "\"k\" twice"},
};

static void malformed_texts_are_refused(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct jdoc d;
        struct err e = {0};
        if (jdoc_parse(&d, refused[i].in, strlen(refused[i].in), &e) != ST_FORMAT)
            fail_msg("taken: %s", refused[i].in);
        if (!strstr(e.text, refused[i].why))
            fail_msg("%s: \"%s\" does not say \"%s\"", refused[i].in, e.text, refused[i].why);
        assert_null(d.node);
    }
}

static void depth_is_bounded(void **state)
{
    (void) state;
    char text[2 * JDOC_DEPTH_MAX + 2];
    struct jdoc d;
    struct err e = {0};
    memset(text, '[', JDOC_DEPTH_MAX);
    memset(text + JDOC_DEPTH_MAX, ']', JDOC_DEPTH_MAX);
    assert_int_equal(jdoc_parse(&d, text, 2 * JDOC_DEPTH_MAX, &e), 0);
    assert_int_equal(d.node->span, JDOC_DEPTH_MAX);
    jdoc_free(&d);
    memset(text, '[', sizeof text);
    assert_int_equal(jdoc_parse(&d, text, sizeof text, &e), ST_LIMIT);
}

static void a_key_among_many_is_found_twice(void **state)
{
    (void) state;
    struct jout o = {0};
    struct jdoc d;
    struct err e = {0};
    jout_str(&o, "{");
    for (int i = 0; i < 1000; i++) {
        jout_str(&o, "\"k");
        jout_int(&o, i);
        jout_str(&o, "\": 1, ");
    }
    size_t n = o.n;
    jout_str(&o, "\"last\": 2}");
    assert_int_equal(jdoc_parse(&d, o.p, o.n, &e), 0);
    assert_int_equal(d.node->n, 1001);
    jdoc_free(&d);
    o.n = n;
    jout_str(&o, "\"k500\": 2}");
    assert_int_equal(jdoc_parse(&d, o.p, o.n, &e), ST_FORMAT);
    assert_non_null(strstr(e.text, "\"k500\" twice"));
    jout_free(&o);
}

enum { CROWD = 8192 };

static uint64_t fnv(uint64_t h, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char) s[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* An object of CROWD keys; chosen: their FNV-1a hashes fall into one place of a table of twice their number. */
static struct jout crowd(int chosen)
{
    static const char digit[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-";
    struct jout o = {0};
    int n = 0;
    jout_str(&o, "{");
    for (int i = 0; n < CROWD; i++) {
        char key[12];
        snprintf(key, sizeof key, "%08d", i);
        uint64_t head = fnv(UINT64_C(0xcbf29ce484222325), key, 8);
        for (int j = 0; j < 262144 && n < CROWD; j++) {
            key[8] = digit[j & 63];
            key[9] = digit[j >> 6 & 63];
            key[10] = digit[j >> 12];
            uint64_t h = fnv(head, key + 8, 3);
            if (chosen && ((h ^ h >> 29) & (2 * CROWD - 1)) != 0)
                continue;
            jout_str(&o, n++ ? ", " : "");
            jout_quote(&o, key, 11);
            jout_str(&o, ": 0");
        }
    }
    jout_str(&o, "}");
    return o;
}

static double seconds_to_read(const struct jout *o)
{
    struct timespec t0, t1;
    struct jdoc d;
    struct err e = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t0);
    int st = jdoc_parse(&d, o->p, o->n, &e);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t1);
    assert_int_equal(st, 0);
    assert_int_equal(d.node->n, CROWD);
    jdoc_free(&d);
    return (double) (t1.tv_sec - t0.tv_sec) + (double) (t1.tv_nsec - t0.tv_nsec) / 1e9;
}

/* A request whose keys were chosen to collide must not hold a thread up. */
static void chosen_keys_cost_no_more(void **state)
{
    (void) state;
    struct jout any = crowd(0), chosen = crowd(1);
    double plain = 1, worst = 1;
    for (int i = 0; i < 5; i++) {
        plain = fmin(plain, seconds_to_read(&any));
        worst = fmin(worst, seconds_to_read(&chosen));
    }
    print_message("%d keys: %.2f ms, chosen ones %.2f ms\n", CROWD, plain * 1e3, worst * 1e3);
    assert_true(worst < 5 * plain);
    jout_free(&any);
    jout_free(&chosen);
}

static void nodes_lead_through_the_text(void **state)
{
    (void) state;
    static const char text[] =
        " {\"a\": [1, {\"x\": \"y\\n\"}, -20], \"b\": null, \"c\": 9223372036854775807} ";
    struct jdoc d;
    struct err e = {0};
    int64_t v;
    assert_int_equal(jdoc_parse(&d, text, sizeof text - 1, &e), 0);
    const struct jnode *a = jnode_get(d.node, "a"), *x = jnode_first(a);
    assert_int_equal(a->n, 3);
    assert_int_equal(a->bytes, strlen("[1, {\"x\": \"y\\n\"}, -20]"));
    assert_true(jnode_int(x, &v) && v == 1);
    x = jnode_next(x);
    assert_true(jnode_is(jnode_get(x, "x"), "y\n"));
    x = jnode_next(x);
    assert_true(jnode_int(x, &v) && v == -20);
    assert_int_equal(jnode_get(d.node, "b")->type, JNODE_NULL);
    assert_false(jnode_int(jnode_get(d.node, "c"), &v)); /* nineteen digits: beyond what is taken for an id */
    assert_null(jnode_get(d.node, "d"));
    assert_null(jnode_get(a, "x"));
    assert_null(jnode_get(NULL, "x"));
    jdoc_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_like_python),
        cmocka_unit_test(floats_print_like_repr),
        cmocka_unit_test(malformed_texts_are_refused),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(a_key_among_many_is_found_twice),
        cmocka_unit_test(chosen_keys_cost_no_more),
        cmocka_unit_test(nodes_lead_through_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
