/* utf8.c - well-formed UTF-8, checked, stepped through, and held back until it is whole.
 *
 * Pure functions on the caller's memory.  Replacement is by maximal subparts, as Python's bytes.decode(errors="replace")
 * and Rust's from_utf8_lossy do, so that a stream cut anywhere gives the text those would give of the whole. */
#include "model/utf8.h"

#include <string.h>

#include "model/tokenizer.h"

#define HIGH_BITS UINT64_C(0x8080808080808080)

static const char replacement[3] = "\xef\xbf\xbd"; /* U+FFFD */

/* Bytes that must follow lead byte b, and the range of the first of them; -1: b leads nothing. */
static int tail_of(unsigned char b, unsigned char *lo, unsigned char *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (b < 0xc2 || b > 0xf4)
        return -1;
    if (b < 0xe0)
        return 1;
    if (b < 0xf0) {
        if (b == 0xe0)
            *lo = 0xa0;
        if (b == 0xed)
            *hi = 0x9f;
        return 2;
    }
    if (b == 0xf0)
        *lo = 0x90;
    if (b == 0xf4)
        *hi = 0x8f;
    return 3;
}

enum utf8_kind utf8_step(const char *p, size_t n, int *len)
{
    const unsigned char *s = (const unsigned char *) p;
    unsigned char lo, hi;
    *len = 1;
    if (s[0] < 0x80)
        return UTF8_WHOLE;
    int tail = tail_of(s[0], &lo, &hi);
    if (tail < 0)
        return UTF8_BAD;
    for (int i = 1; i <= tail; i++) {
        *len = i;
        if ((size_t) i >= n)
            return UTF8_PARTIAL;
        if (s[i] < lo || s[i] > hi)
            return UTF8_BAD;
        lo = 0x80;
        hi = 0xbf;
    }
    *len = tail + 1;
    return UTF8_WHOLE;
}

size_t utf8_check(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= sizeof eight) {
            memcpy(&eight, p + i, sizeof eight);
            if (!(eight & HIGH_BITS)) {
                i += sizeof eight;
                continue;
            }
        }
        int len;
        if (utf8_step(p + i, n - i, &len) != UTF8_WHOLE)
            return i;
        i += (size_t) len;
    }
    return n;
}

uint32_t utf8_get(const char *p, int *len)
{
    const unsigned char *s = (const unsigned char *) p;
    if (s[0] < 0x80) {
        *len = 1;
        return s[0];
    }
    *len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    uint32_t c = s[0] & (0x7fu >> *len);
    for (int i = 1; i < *len; i++)
        c = c << 6 | (s[i] & 0x3fu);
    return c;
}

int utf8_put(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char) c;
        return 1;
    }
    int len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, c >>= 6)
        out[i] = (char) (0x80 | (c & 0x3f));
    out[0] = (char) (0xf00u >> len | c);
    return len;
}

static size_t put_bytes(char *out, const void *p, size_t n)
{
    memcpy(out, p, n);
    return n;
}

/* Adds one byte to what is held and writes what that settles.  Returns 0 when the byte itself was not taken: it cannot
 * follow what was held, which became a replacement. */
static int hold_byte(struct utf8_hold *h, char byte, char *out, size_t *n)
{
    char with[4];
    int len;
    memcpy(with, h->held, (size_t) h->n);
    with[h->n] = byte;
    switch (utf8_step(with, (size_t) h->n + 1, &len)) {
    case UTF8_WHOLE:
        *n += put_bytes(out + *n, with, (size_t) len);
        h->n = 0;
        return 1;
    case UTF8_PARTIAL:
        memcpy(h->held, with, (size_t) len);
        h->n = len;
        return 1;
    case UTF8_BAD:
        break;
    }
    *n += put_bytes(out + *n, replacement, sizeof replacement);
    h->n = 0;
    return 0;
}

size_t utf8_hold_push(struct utf8_hold *h, const char *p, size_t bytes, int last, char *out)
{
    size_t n = 0, i = 0;
    while (h->n && i < bytes)
        i += (size_t) hold_byte(h, p[i], out, &n);
    while (i < bytes) {
        int len;
        enum utf8_kind kind = utf8_step(p + i, bytes - i, &len);
        if (kind == UTF8_WHOLE) {
            n += put_bytes(out + n, p + i, (size_t) len);
        } else if (kind == UTF8_BAD) {
            n += put_bytes(out + n, replacement, sizeof replacement);
        } else {
            memcpy(h->held, p + i, (size_t) len);
            h->n = len;
        }
        i += (size_t) len;
    }
    if (last && h->n) {
        n += put_bytes(out + n, replacement, sizeof replacement);
        h->n = 0;
    }
    return n;
}
