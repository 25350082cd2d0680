/* words.h - a growing string. */
#ifndef CLIENT_WORDS_H
#define CLIENT_WORDS_H

#include <stddef.h>

#include "core/status.h"

/* Zero-initialise; free(p) when done.  Always NUL-terminated once something was added. */
struct words {
    char *p; /* owns; NULL while empty */
    size_t n, cap;
};

int words_add(struct words *t, const char *p, size_t n); /* ST_NOMEM: t is unchanged */
const char *words_str(const struct words *t);            /* "" while empty */

/* All of a file descriptor, at most `limit` bytes.  ST_LIMIT: there is more; ST_IO: errno tells. */
int words_read(struct words *t, int fd, size_t limit);

/* Bytes of the well-formed UTF-8 character (Unicode 15, table 3-7) at p, 0: there is none; *code is its number. */
size_t words_char(const char *p, size_t n, unsigned *code);

/* Offset of the first byte that is not well-formed UTF-8, or n. */
size_t words_check(const char *p, size_t n);

#endif
