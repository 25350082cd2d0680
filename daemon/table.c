/* table.c - see table.h. */
#include "daemon/table.h"

#include <stdlib.h>

#include "core/status.h"
#include "daemon/session.h"

int table_init(struct table *t, uint32_t cap)
{
    t->cap = t->n_free = cap;
    t->slot = calloc(cap, sizeof *t->slot);
    t->free_slot = calloc(cap, sizeof *t->free_slot);
    if (!t->slot || !t->free_slot) {
        table_fini(t);
        return ST_NOMEM;
    }
    for (uint32_t i = 0; i < cap; i++)
        t->free_slot[i] = cap - 1 - i;
    return 0;
}

void table_fini(struct table *t)
{
    free(t->slot);
    free(t->free_slot);
    *t = (struct table){0};
}

int table_add(struct table *t, struct session *s)
{
    if (t->n_free == 0)
        return ST_LIMIT;
    uint32_t i = t->free_slot[--t->n_free];
    t->slot[i].session = s;
    s->id = ++t->slot[i].generation * t->cap + i;
    return 0;
}

struct session *table_find(const struct table *t, uint64_t id)
{
    const struct table_slot *s = &t->slot[id % t->cap];
    return s->generation == id / t->cap ? s->session : NULL;
}

void table_del(struct table *t, uint64_t id)
{
    if (!table_find(t, id))
        return;
    t->slot[id % t->cap].session = NULL;
    t->free_slot[t->n_free++] = (uint32_t) (id % t->cap);
}
