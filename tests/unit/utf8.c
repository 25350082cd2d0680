/* utf8.c - the hold against a slow reference, over random bytes and cuts, and against Unicode's published vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "model/tokenizer.h"
#include "model/utf8.h"

enum { BYTES_MAX = 64, OUT_MAX = 3 * (BYTES_MAX + 3) + 3 };

/* The slow way: is p[0..n) one character?  Decoded by arithmetic, then checked by value. */
static int is_character(const unsigned char *p, size_t n)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (n == 1)
        return p[0] < 0x80;
    uint32_t lead = n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0, c = p[0];
    if ((c & (n == 2 ? 0xe0u : n == 3 ? 0xf0u : 0xf8u)) != lead)
        return 0;
    c -= lead;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c * 64 + (p[i] - 0x80u);
    }
    return c >= least[n] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
}

/* Can p[0..n) be completed to a character by more bytes?  Tries the border values of every range. */
static int is_head(const unsigned char *p, size_t n, size_t full)
{
    static const unsigned char border[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf};
    unsigned char c[4];
    if (n == full)
        return is_character(p, n);
    memcpy(c, p, n);
    for (size_t i = 0; i < sizeof border; i++) {
        c[n] = border[i];
        if (is_head(c, n + 1, full))
            return 1;
    }
    return 0;
}

static size_t reference(const unsigned char *p, size_t n, char *out)
{
    size_t k = 0, i = 0;
    while (i < n) {
        size_t whole = 0, head = 1;
        for (size_t len = 1; len <= 4 && i + len <= n; len++)
            if (is_character(p + i, len))
                whole = len;
        for (size_t len = 1; len < 4 && i + len <= n; len++)
            for (size_t full = len + 1; full <= 4; full++)
                if (is_head(p + i, len, full) && len > head)
                    head = len;
        memcpy(out + k, whole ? (const char *) p + i : "\xef\xbf\xbd", whole ? whole : 3);
        k += whole ? whole : 3;
        i += whole ? whole : head;
    }
    return k;
}

static uint32_t next_random(uint64_t *x)
{
    *x = *x * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t) (*x >> 33);
}

static unsigned char random_byte(uint64_t *x)
{
    static const unsigned char likely[] = {0x41, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc2,
                                           0xc1, 0xdf, 0xe0, 0xe1, 0xed, 0xee, 0xef, 0xf0,
                                           0xf1, 0xf3, 0xf4, 0xf5, 0xff, 0x00, 0x7f};
    return next_random(x) % 4 ? likely[next_random(x) % sizeof likely] : (unsigned char) next_random(x);
}

/* Pushes p in random cuts, some of them empty. */
static size_t push_in_cuts(const unsigned char *p, size_t n, uint64_t *x, char *out)
{
    struct utf8_hold h = {0};
    size_t k = 0, i = 0;
    while (i < n) {
        size_t cut = next_random(x) % 5;
        if (cut > n - i)
            cut = n - i;
        k += utf8_hold_push(&h, (const char *) p + i, cut, 0, out + k);
        assert_int_equal(utf8_check(out, k), k);
        assert_in_range(h.n, 0, 3);
        i += cut;
    }
    return k + utf8_hold_push(&h, "", 0, 1, out + k);
}

static void any_cut_gives_the_same_text(void **state)
{
    (void) state;
    uint64_t x = 7;
    for (int round = 0; round < 60000; round++) {
        unsigned char p[BYTES_MAX];
        char want[OUT_MAX], got[OUT_MAX];
        size_t n = next_random(&x) % 24;
        for (size_t i = 0; i < n; i++)
            p[i] = random_byte(&x);
        size_t n_want = reference(p, n, want), n_got = push_in_cuts(p, n, &x, got);
        assert_int_equal(n_got, n_want);
        assert_memory_equal(got, want, n_want);
    }
}

static void whole_text_passes_at_once(void **state)
{
    (void) state;
    struct utf8_hold h = {0};
    char out[OUT_MAX];
    assert_int_equal(utf8_hold_push(&h, "a\xc3\xa9\xe2\x82", 5, 0, out), 3);
    assert_memory_equal(out, "a\xc3\xa9", 3);
    assert_int_equal(h.n, 2);
    assert_int_equal(utf8_hold_push(&h, "\xac!", 2, 0, out), 4);
    assert_memory_equal(out, "\xe2\x82\xac!", 4);
    assert_int_equal(h.n, 0);
}

#define R "\xef\xbf\xbd"

/* Unicode 15, section 3.9, tables 3-8 to 3-11; and ends that are cut off, as Python 3.11 decodes them. */
static const struct {
    const char *in, *out;
} vectors[] = {
    {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A"},
    {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A"},
    {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B"},
    {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A"},
    {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", "a" R R R "b" R "c" R R "d"},
    {"\xf0\x9f\x98", R},
    {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
    {"\xe4\xbd\xa0\xe5\xa5", "\xe4\xbd\xa0" R},
};

static void published_vectors(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        struct utf8_hold h = {0};
        char out[OUT_MAX];
        size_t n = utf8_hold_push(&h, vectors[i].in, strlen(vectors[i].in), 1, out);
        assert_int_equal(n, strlen(vectors[i].out));
        assert_memory_equal(out, vectors[i].out, n);
    }
}

static void every_character_survives(void **state)
{
    (void) state;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char p[4];
        int len;
        if (c >= 0xd800 && c < 0xe000)
            continue;
        int n = utf8_put(c, p);
        assert_int_equal(utf8_check(p, (size_t) n), n);
        assert_true(is_character((unsigned char *) p, (size_t) n));
        assert_int_equal(utf8_get(p, &len), c);
        assert_int_equal(len, n);
    }
}

static void check_finds_the_first_bad_byte(void **state)
{
    (void) state;
    assert_int_equal(utf8_check("plain text of many bytes", 24), 24);
    assert_int_equal(utf8_check("plain text of many bytes\xff", 25), 24);
    assert_int_equal(utf8_check("0123456789\xe2\x82", 12), 10);
    assert_int_equal(utf8_check("\xc3\xa9\xed\xa0\x80", 5), 2);
    assert_int_equal(utf8_check("", 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_cut_gives_the_same_text),
        cmocka_unit_test(whole_text_passes_at_once),
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(every_character_survives),
        cmocka_unit_test(check_finds_the_first_bad_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
