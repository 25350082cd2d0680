/* text.c - files and lines for the text tests. */
#include "tests/lib/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *text_shared(const char *name)
{
    static char path[4096];
    const char *dir = getenv("OUTRIDER_SHARED");
    snprintf(path, sizeof path, "%s/%s", dir ? dir : "../shared", name);
    return path;
}

char *text_read(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    size_t cap = 1 << 16;
    char *p = malloc(cap + 1);
    *bytes = 0;
    while (p) {
        *bytes += fread(p + *bytes, 1, cap - *bytes, f);
        if (*bytes < cap)
            break;
        cap *= 2;
        p = realloc(p, cap + 1);
    }
    if (p)
        p[*bytes] = '\0';
    fclose(f);
    return p;
}

void text_write(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0) {
        perror(path);
        abort();
    }
}

int text_line(const char *text, size_t n, size_t *at, const char **line, size_t *len)
{
    if (*at >= n)
        return 0;
    const char *end = memchr(text + *at, '\n', n - *at);
    *line = text + *at;
    *len = end ? (size_t) (end - *line) : n - *at;
    *at += *len + (end != NULL);
    return 1;
}
