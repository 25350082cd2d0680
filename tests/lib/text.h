/* text.h - what the text tests share: files of ../shared, lines of them. */
#ifndef TESTS_LIB_TEXT_H
#define TESTS_LIB_TEXT_H

#include <stddef.h>

/* Path of NAME below OUTRIDER_SHARED (default ../shared).  Static storage, good until the next call. */
const char *text_shared(const char *name);

/* The whole file, NUL-terminated, to be freed; NULL where it cannot be read. */
char *text_read(const char *path, size_t *bytes);

/* Writes a file; fails the test where that does not work. */
void text_write(const char *path, const void *p, size_t n);

/* The next line of text (n bytes) at *at, without its end: 1, or 0 at the end of the text. */
int text_line(const char *text, size_t n, size_t *at, const char **line, size_t *len);

#endif
