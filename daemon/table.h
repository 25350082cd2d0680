/* table.h - sessions by the engine's handle.  Loop thread.
 *
 * A handle is slot + generation * cap, so an event of a session that has gone finds nothing, never its successor. */
#ifndef DAEMON_TABLE_H
#define DAEMON_TABLE_H

#include <stdint.h>

struct session;

struct table {
    struct table_slot {
        struct session *session; /* borrows; NULL: free */
        uint64_t generation;
    } * slot;            /* owns; (cap) */
    uint32_t *free_slot; /* owns; (n_free) */
    uint32_t cap, n_free;
};

int table_init(struct table *t, uint32_t cap); /* ST_NOMEM */
void table_fini(struct table *t);

int table_add(struct table *t, struct session *s);              /* sets s->id; ST_LIMIT: full */
struct session *table_find(const struct table *t, uint64_t id); /* NULL: gone */
void table_del(struct table *t, uint64_t id);

#endif
