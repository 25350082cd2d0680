/* ring.h - a bounded queue of pointers from one thread to one other: the only road between loop and engine.
 *
 * One producer, one consumer, no locks (C11 atomics).  What is pushed is moved: the producer must not touch it
 * again.  ring_push says when the ring was empty, so that the reader is woken only then. */
#ifndef CORE_RING_H
#define CORE_RING_H

#include <stdatomic.h>
#include <stdint.h>

struct ring {
    void **slot;                        /* owns; (cap) */
    uint32_t cap;                       /* power of two */
    _Alignas(64) _Atomic uint32_t head; /* next to pop; written by the consumer */
    _Alignas(64) _Atomic uint32_t tail; /* next to push; written by the producer */
};

/* cap is rounded up to a power of two.  ST_NOMEM on failure. */
int ring_init(struct ring *r, uint32_t cap);
void ring_fini(struct ring *r); /* what is still inside is not freed */

/* Moves p in.  1: the ring was seen empty, wake the reader; 0: pushed; ST_AGAIN: full, p stays the caller's. */
int ring_push(struct ring *r, void *p);

/* Moves the oldest out; NULL when empty. */
void *ring_pop(struct ring *r);

#endif
