/* buf.c - doubling growth; what was taken is overwritten when room is needed, and a large buffer that has become
 * empty is given back. */
#include "core/buf.h"
#include "core/status.h"

#include <stdlib.h>
#include <string.h>

enum { BUF_MIN = 256, BUF_KEEP = 16384 }; /* bytes; an empty buffer larger than BUF_KEEP is freed */

void buf_free(struct buf *b)
{
    free(b->p);
    *b = (struct buf){0};
}

uint8_t *buf_reserve(struct buf *b, size_t bytes)
{
    if (b->at && b->cap - b->n < bytes) {
        memmove(b->p, b->p + b->at, buf_len(b));
        b->n -= b->at;
        b->at = 0;
    }
    if (b->cap - b->n >= bytes && b->p)
        return b->p + b->n;
    if (bytes > SIZE_MAX / 4 || b->n > SIZE_MAX / 4)
        return NULL;
    size_t cap = b->cap ? b->cap : BUF_MIN;
    while (cap - b->n < bytes)
        cap *= 2;
    uint8_t *p = realloc(b->p, cap);
    if (!p)
        return NULL;
    b->p = p;
    b->cap = cap;
    return b->p + b->n;
}

int buf_append(struct buf *b, const void *p, size_t bytes)
{
    uint8_t *to = buf_reserve(b, bytes);
    if (!to)
        return ST_NOMEM;
    if (bytes)
        memcpy(to, p, bytes);
    b->n += bytes;
    return 0;
}

size_t buf_take(struct buf *b, void *out, size_t bytes)
{
    size_t n = buf_len(b) < bytes ? buf_len(b) : bytes;
    if (n)
        memcpy(out, b->p + b->at, n);
    b->at += n;
    if (b->at == b->n) {
        b->at = b->n = 0;
        if (b->cap > BUF_KEEP)
            buf_free(b);
    }
    return n;
}
