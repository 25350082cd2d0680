/* arena.h - memory that dies all at once: one arena a session, one a message being decoded.
 *
 * Blocks come from malloc and are freed together by arena_fini; single objects are never freed.  A cap bounds
 * the whole, so that hostile input cannot grow it without limit.  Not thread-safe: one owner at a time. */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *head; /* owns */
    size_t used_bytes;        /* handed out so far */
    size_t cap_bytes;         /* most it may hand out; 0: no cap */
};

void arena_init(struct arena *a, size_t cap_bytes);
void arena_fini(struct arena *a);

/* Zeroed memory, aligned to 16 bytes, owned by the arena; NULL when the cap or memory is exhausted. */
void *arena_get(struct arena *a, size_t bytes);

/* A NUL-terminated copy of n bytes; NULL as above. */
char *arena_copy(struct arena *a, const void *p, size_t n);

#endif
