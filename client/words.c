/* words.c - see words.h. */
#include "client/words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

enum { READ_BYTES = 65536 };

int words_add(struct words *t, const char *p, size_t n)
{
    if (t->cap - t->n <= n) {
        size_t cap = (t->n + n + 1) * 2;
        char *q = realloc(t->p, cap);
        if (!q)
            return ST_NOMEM;
        t->p = q;
        t->cap = cap;
    }
    if (n)
        memcpy(t->p + t->n, p, n);
    t->n += n;
    t->p[t->n] = 0;
    return 0;
}

const char *words_str(const struct words *t)
{
    return t->p ? t->p : "";
}

int words_read(struct words *t, int fd, size_t limit)
{
    char buf[READ_BYTES];
    for (;;) {
        ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ST_IO;
        if (n == 0)
            return words_add(t, "", 0);
        if (t->n + (size_t) n > limit)
            return ST_LIMIT;
        if (words_add(t, buf, (size_t) n))
            return ST_NOMEM;
    }
}

size_t words_char(const char *p, size_t n, unsigned *code)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *) p, (utf8proc_ssize_t) n, &c);
    if (used <= 0)
        return 0;
    *code = (unsigned) c;
    return (size_t) used;
}

size_t words_check(const char *p, size_t n)
{
    size_t at = 0;
    unsigned code;
    while (at < n) {
        size_t used = words_char(p + at, n - at, &code);
        if (used == 0)
            break;
        at += used;
    }
    return at;
}
