/* alarm.c - see alarm.h. */
#include "daemon/alarm.h"

#include <stdlib.h>

struct alarm {
    uv_timer_t timer;
    struct alarm **slot; /* the holder's; NULL once cleared or rung */
    void (*fn)(void *arg);
    void *arg;
};

static void on_close(uv_handle_t *h)
{
    free(h->data);
}

void alarm_clear(struct alarm **slot)
{
    struct alarm *a = *slot;
    if (!a)
        return;
    *slot = NULL;
    uv_close((uv_handle_t *) &a->timer, on_close);
}

static void on_timer(uv_timer_t *t)
{
    struct alarm *a = t->data;
    void (*fn)(void *) = a->fn;
    void *arg = a->arg;
    alarm_clear(a->slot);
    fn(arg);
}

void alarm_set(uv_loop_t *loop, struct alarm **slot, uint64_t ms, void (*fn)(void *arg), void *arg)
{
    alarm_clear(slot);
    struct alarm *a = calloc(1, sizeof *a);
    if (!a)
        return;
    a->slot = slot;
    a->fn = fn;
    a->arg = arg;
    uv_timer_init(loop, &a->timer);
    a->timer.data = a;
    uv_timer_start(&a->timer, on_timer, ms, 0);
    *slot = a;
}
