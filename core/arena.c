/* arena.c - bump allocation in blocks of at least BLOCK_BYTES. */
#include "core/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 4096, ALIGN = 16 };

struct arena_block {
    struct arena_block *next;
    size_t used, size; /* of data, bytes */
    _Alignas(16) unsigned char data[];
};

void arena_init(struct arena *a, size_t cap_bytes)
{
    *a = (struct arena){.cap_bytes = cap_bytes};
}

void arena_fini(struct arena *a)
{
    while (a->head) {
        struct arena_block *b = a->head;
        a->head = b->next;
        free(b);
    }
    a->used_bytes = 0;
}

void *arena_get(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes == 0)
        bytes = ALIGN;
    if (a->cap_bytes && (bytes > a->cap_bytes || a->used_bytes > a->cap_bytes - bytes))
        return NULL;
    struct arena_block *b = a->head;
    if (!b || b->size - b->used < bytes) {
        size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        b = calloc(1, sizeof *b + size);
        if (!b)
            return NULL;
        b->size = size;
        b->next = a->head;
        a->head = b;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    a->used_bytes += bytes;
    return p;
}

char *arena_copy(struct arena *a, const void *p, size_t n)
{
    char *s = n < SIZE_MAX ? arena_get(a, n + 1) : NULL;
    if (s && n)
        memcpy(s, p, n);
    return s;
}
