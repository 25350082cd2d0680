/* ring.c - single producer, single consumer.
 *
 * "Was empty" must not be missed: the producer publishes its item, then reads head; the consumer publishes head,
 * then reads tail.  Both pairs are sequentially consistent, so at least one side sees the other's step: either the
 * producer finds the ring empty and wakes, or the consumer finds the item before it goes to sleep.  "Is full" is read
 * the same way, for a producer that leaves a note to be woken and looks once more. */
#include "core/ring.h"
#include "core/status.h"

#include <stdlib.h>

enum { CAP_MAX = 1 << 30 }; /* slots: half of what the counters hold apart */

int ring_init(struct ring *r, uint32_t cap)
{
    uint32_t c = 2;
    while (c < cap && c < CAP_MAX)
        c *= 2;
    r->slot = c < cap ? NULL : calloc(c, sizeof *r->slot);
    r->cap = c;
    atomic_init(&r->head, 0);
    atomic_init(&r->tail, 0);
    return r->slot ? 0 : ST_NOMEM;
}

void ring_fini(struct ring *r)
{
    free(r->slot);
    r->slot = NULL;
}

int ring_push(struct ring *r, void *p)
{
    uint32_t t = atomic_load_explicit(&r->tail, memory_order_relaxed);
    if (t - atomic_load(&r->head) == r->cap)
        return ST_AGAIN;
    r->slot[t & (r->cap - 1)] = p;
    atomic_store(&r->tail, t + 1);
    return atomic_load(&r->head) == t;
}

void *ring_pop(struct ring *r)
{
    uint32_t h = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (atomic_load(&r->tail) == h)
        return NULL;
    void *p = r->slot[h & (r->cap - 1)];
    atomic_store(&r->head, h + 1);
    return p;
}
