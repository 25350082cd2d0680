/* nfc.c - Unicode normal form C, by utf8proc's tables.
 *
 * Text below U+0300 is NFC as it stands, and none of it ever composes with what comes before it.  So only stretches of
 * higher characters are normalised, each with the one low character before it.
 *
 * utf8proc_decompose orders combining marks by swapping neighbours, which takes quadratic time on a hostile run of marks
 * (a megabyte: minutes).  The order is made here instead, by counting; decomposition and composition are utf8proc's.
 *
 * Hugging Face normalises by the tables of Unicode 9 and passes younger characters as they are.  The ones for which that
 * shows (marks with a combining class, characters that decompose, and what they decompose to) are listed here, and with them
 * U+11A7, which utf8proc 2.8 loses behind a Hangul syllable.  Nothing is reordered or composed across them.  Found by
 * comparing every character with tokenizers 0.23. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_impl.h"
#include "model/utf8.h"

enum {
    FIRST_HIGH = 0x300,     /* the first combining mark */
    FIRST_HIGH_BYTE = 0xcc, /* leads U+0300..U+033F; everything below U+0300 has a smaller lead */
    DECOMPOSED_MAX = 18,    /* code points one character becomes at most, in any form */
    SMALL_RUN = 24,         /* marks up to which insertion beats counting */
    CLASSES = 256,          /* canonical combining classes */
};

/* Passed as they are; ascending. */
static const struct {
    uint32_t from, to;
} apart[] = {
    {0x5c8, 0x5c9},     {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x11a7, 0x11a7},   {0x1715, 0x1715},
    {0x1abf, 0x1af0},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x105c9, 0x105c9}, {0x105d2, 0x105d2},
    {0x105da, 0x105da}, {0x105e4, 0x105e4}, {0x10d24, 0x10d27}, {0x10d69, 0x10d6d}, {0x10eab, 0x10eac},
    {0x10ecb, 0x10ecf}, {0x10ef0, 0x10efb}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x11383, 0x11383}, {0x11385, 0x11385}, {0x1138e, 0x1138e},
    {0x11391, 0x11391}, {0x113b8, 0x113b8}, {0x113bb, 0x113bb}, {0x113c2, 0x113c2}, {0x113c5, 0x113c5},
    {0x113c7, 0x113c9}, {0x113ce, 0x113d0}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930},
    {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
    {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x1611e, 0x16129}, {0x1612f, 0x1612f}, {0x16d67, 0x16d6a}, {0x16ff0, 0x16ff1},
    {0x1d127, 0x1d128}, {0x1d250, 0x1d252}, {0x1d25b, 0x1d25c}, {0x1d25f, 0x1d25f}, {0x1d280, 0x1d281},
    {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    {0x1e5ee, 0x1e5ef}, {0x1e6e3, 0x1e6e3}, {0x1e6e6, 0x1e6e6}, {0x1e6ee, 0x1e6ef}, {0x1e6f5, 0x1e6f5},
};

struct points {
    utf8proc_int32_t *c; /* owns; (n) */
    size_t n, cap;
};

static int points_room(struct points *s, size_t more)
{
    if (more <= s->cap - s->n)
        return 0;
    size_t cap = s->cap * 2 + more + 64;
    utf8proc_int32_t *c = realloc(s->c, cap * sizeof *c);
    if (!c)
        return ST_NOMEM;
    s->c = c;
    s->cap = cap;
    return 0;
}

static int mark_class(utf8proc_int32_t c)
{
    return c < FIRST_HIGH ? 0 : utf8proc_get_property(c)->combining_class;
}

static int decompose(struct points *s, const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        int len, boundary = 0;
        if (points_room(s, DECOMPOSED_MAX) < 0)
            return ST_NOMEM;
        utf8proc_int32_t c = (utf8proc_int32_t) utf8_get(p + i, &len);
        utf8proc_ssize_t k = utf8proc_decompose_char(c, s->c + s->n, DECOMPOSED_MAX,
                                                     UTF8PROC_STABLE | UTF8PROC_COMPOSE, &boundary);
        if (k < 0 || k > DECOMPOSED_MAX)
            return ST_INPUT;
        s->n += (size_t) k;
        i += (size_t) len;
    }
    return 0;
}

static void order_small(utf8proc_int32_t *c, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        utf8proc_int32_t x = c[i];
        int class = mark_class(x);
        size_t j = i;
        for (; j > 0 && mark_class(c[j - 1]) > class; j--)
            c[j] = c[j - 1];
        c[j] = x;
    }
}

static int order_large(utf8proc_int32_t *c, size_t n)
{
    size_t at[CLASSES + 1] = {0};
    utf8proc_int32_t *copy = malloc(n * sizeof *copy);
    if (!copy)
        return ST_NOMEM;
    memcpy(copy, c, n * sizeof *c);
    for (size_t i = 0; i < n; i++)
        at[mark_class(copy[i]) + 1]++;
    for (int k = 0; k < CLASSES; k++)
        at[k + 1] += at[k];
    for (size_t i = 0; i < n; i++)
        c[at[mark_class(copy[i])]++] = copy[i];
    free(copy);
    return 0;
}

/* Sorts every run of marks by combining class; equal ones keep their order. */
static int order(struct points *s)
{
    for (size_t i = 0; i < s->n;) {
        size_t from = i;
        while (i < s->n && mark_class(s->c[i]) != 0)
            i++;
        if (i - from > SMALL_RUN) {
            if (order_large(s->c + from, i - from) < 0)
                return ST_NOMEM;
        } else if (i - from > 1) {
            order_small(s->c + from, i - from);
        }
        i += i == from;
    }
    return 0;
}

static int normalise(struct points *s, struct jout *out, const char *p, size_t n)
{
    char utf8[4];
    s->n = 0;
    int st = decompose(s, p, n);
    if (st == 0)
        st = order(s);
    if (st < 0)
        return st;
    utf8proc_ssize_t m =
        utf8proc_normalize_utf32(s->c, (utf8proc_ssize_t) s->n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (m < 0)
        return ST_INPUT;
    for (utf8proc_ssize_t i = 0; i < m; i++)
        jout_add(out, utf8, (size_t) utf8_put((uint32_t) s->c[i], utf8));
    return out->status;
}

static int is_apart(uint32_t c)
{
    size_t low = 0, high = sizeof apart / sizeof *apart;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > apart[mid].to)
            low = mid + 1;
        else
            high = mid;
    }
    return low < sizeof apart / sizeof *apart && c >= apart[low].from;
}

/* A stretch, cut at the characters that pass as they are. */
static int normalise_stretch(struct points *s, struct jout *out, const char *p, size_t n)
{
    size_t from = 0, i = 0;
    int st = 0, len;
    for (; st == 0 && i < n; i += (size_t) len) {
        if (!is_apart(utf8_get(p + i, &len)))
            continue;
        st = normalise(s, out, p + from, i - from);
        jout_add(out, p + i, (size_t) len);
        from = i + (size_t) len;
    }
    return st < 0 ? st : normalise(s, out, p + from, n - from);
}

static size_t find_high(const char *p, size_t i, size_t n)
{
    while (i < n && (unsigned char) p[i] < FIRST_HIGH_BYTE)
        i++;
    return i;
}

/* The end of the stretch of high characters at i. */
static size_t find_low(const char *p, size_t i, size_t n)
{
    while (i < n && (unsigned char) p[i] >= FIRST_HIGH_BYTE) {
        int len;
        utf8_get(p + i, &len);
        i += (size_t) len;
    }
    return i;
}

/* The start of the character before i, not before from. */
static size_t step_back(const char *p, size_t from, size_t i)
{
    if (i == from)
        return i;
    i--;
    while (i > from && ((unsigned char) p[i] & 0xc0) == 0x80)
        i--;
    return i;
}

int tokenizer__nfc(struct encoder *c, const char *p, size_t n, const char **out, size_t *out_n)
{
    size_t high = find_high(p, 0, n), done = 0;
    *out = p;
    *out_n = n;
    if (high == n)
        return 0;
    struct points s = {0};
    int st = 0;
    c->nfc.n = 0;
    while (st == 0 && high < n) {
        size_t from = step_back(p, done, high), to = find_low(p, high, n);
        jout_add(&c->nfc, p + done, from - done);
        st = normalise_stretch(&s, &c->nfc, p + from, to - from);
        done = to;
        high = find_high(p, done, n);
    }
    jout_add(&c->nfc, p + done, n - done);
    free(s.c);
    *out = c->nfc.p;
    *out_n = c->nfc.n;
    return st < 0 ? st : c->nfc.status;
}
