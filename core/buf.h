/* buf.h - bytes that grow at the end and are taken from the front.
 *
 * Zero-initialise; buf_free when done.  Not thread-safe: one owner at a time. */
#ifndef CORE_BUF_H
#define CORE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *p; /* owns */
    size_t at;  /* the first byte not taken yet */
    size_t n;   /* one past the last byte written; n - at bytes are inside */
    size_t cap;
};

void buf_free(struct buf *b); /* back to zero */

/* Makes room for `bytes` more and returns where they go; buf.n is not moved.  NULL: out of memory. */
uint8_t *buf_reserve(struct buf *b, size_t bytes);

/* 0, or ST_NOMEM with nothing changed. */
int buf_append(struct buf *b, const void *p, size_t bytes);

/* Takes up to `bytes` from the front into out; returns how many. */
size_t buf_take(struct buf *b, void *out, size_t bytes);

static inline size_t buf_len(const struct buf *b)
{
    return b->n - b->at;
}

/* The bytes inside; never NULL. */
static inline const uint8_t *buf_front(const struct buf *b)
{
    return b->p ? b->p + b->at : (const uint8_t *) "";
}

#endif
