/* text.h - a growing string. */
#ifndef CLIENT_TEXT_H
#define CLIENT_TEXT_H

#include <stddef.h>

#include "core/status.h"

/* Zero-initialise; free(p) when done.  Always NUL-terminated once something was added. */
struct text {
    char *p; /* owns; NULL while empty */
    size_t n, cap;
};

int text_add(struct text *t, const char *p, size_t n); /* ST_NOMEM: t is unchanged */
const char *text_str(const struct text *t);            /* "" while empty */

/* All of a file descriptor, at most `limit` bytes.  ST_LIMIT: there is more; ST_IO: errno tells. */
int text_read(struct text *t, int fd, size_t limit);

/* Bytes of the well-formed UTF-8 character (Unicode 15, table 3-7) at p, 0: there is none; *code is its number. */
size_t text_char(const char *p, size_t n, unsigned *code);

/* Offset of the first byte that is not well-formed UTF-8, or n. */
size_t text_check(const char *p, size_t n);

#endif
