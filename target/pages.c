/* pages.c - reference counts of KV pages, and the prefix cache over whole ones.
 *
 * A published page is known by (serial of the page before it, its 64 tokens), compared in full: the chain of serials is exact,
 * so two texts share a page only if every token up to its end is the same.  No hash decides; it only finds the bucket.
 * Pages that nobody holds stay published until their room is needed, the longest unused first; sequences give their pages back
 * last page first, so a chain is evicted from its end. */
#include "target/internal.h"

#include <stdlib.h>
#include <string.h>

int target__pages_init(struct pages *p, int32_t n)
{
    *p = (struct pages){.n = n, .n_free = n, .newest = -1, .oldest = -1, .n_buckets = 16};
    while (p->n_buckets < n)
        p->n_buckets *= 2;
    p->free_list = malloc((size_t) n * sizeof *p->free_list);
    p->info = calloc((size_t) n, sizeof *p->info);
    p->bucket = malloc((size_t) p->n_buckets * sizeof *p->bucket);
    if (!p->free_list || !p->info || !p->bucket) {
        target__pages_fini(p);
        return ST_NOMEM;
    }
    for (int32_t i = 0; i < n; i++)
        p->free_list[i] = n - 1 - i;
    for (int32_t i = 0; i < p->n_buckets; i++)
        p->bucket[i] = -1;
    return 0;
}

void target__pages_fini(struct pages *p)
{
    free(p->free_list);
    free(p->info);
    free(p->bucket);
    *p = (struct pages){0};
}

int32_t target__pages_available(const struct pages *p)
{
    return p->n_free + p->n_idle;
}

static int32_t bucket_of(const struct pages *p, uint64_t parent, const int32_t *tok)
{
    uint64_t h = parent * 0x9E3779B97F4A7C15u + 1;
#ifdef BREAK_PAGE_UNFINISHED /* an unfinished page must be found by those who share its beginning */
    int32_t n = 1;
#else
    int32_t n = TARGET_PAGE;
#endif
    for (int32_t i = 0; i < n; i++)
        h = (h ^ (uint32_t) tok[i]) * 0x100000001B3u;
    return (int32_t) ((h >> 32) & (uint64_t) (p->n_buckets - 1));
}

/* --- the list of idle pages --- */

static void idle_unlink(struct pages *p, int32_t page)
{
    struct page_info *i = &p->info[page];
    if (i->newer >= 0)
        p->info[i->newer].older = i->older;
    else
        p->newest = i->older;
    if (i->older >= 0)
        p->info[i->older].newer = i->newer;
    else
        p->oldest = i->newer;
    p->n_idle--;
}

static void idle_link(struct pages *p, int32_t page)
{
    struct page_info *i = &p->info[page];
    i->newer = -1;
    i->older = p->newest;
    if (p->newest >= 0)
        p->info[p->newest].newer = page;
    p->newest = page;
    if (p->oldest < 0)
        p->oldest = page;
    p->n_idle++;
}

static void unpublish(struct pages *p, int32_t page)
{
    struct page_info *i = &p->info[page];
    int32_t *at = &p->bucket[bucket_of(p, i->parent, i->tok)];
    while (*at != page)
        at = &p->info[*at].chain;
    *at = i->chain;
    i->serial = 0;
}

/* --- references --- */

int32_t target__page_get(struct pages *p)
{
    int32_t page = p->oldest;
    if (p->n_free > 0) {
        page = p->free_list[--p->n_free];
    } else if (page >= 0) {
        idle_unlink(p, page);
        unpublish(p, page);
    }
    if (page >= 0)
        p->info[page].refs = 1;
    return page;
}

void target__page_ref(struct pages *p, int32_t page)
{
    if (p->info[page].refs++ == 0)
        idle_unlink(p, page);
}

void target__page_put(struct pages *p, int32_t page)
{
    if (--p->info[page].refs > 0)
        return;
    if (p->info[page].serial)
        idle_link(p, page);
    else
        p->free_list[p->n_free++] = page;
}

/* --- the cache --- */

static int same_tokens(const int32_t *held, const int32_t *tok)
{
#ifdef BREAK_PAGE_UNFINISHED /* -1: not computed yet when the page was published */
    for (int32_t i = 0; i < TARGET_PAGE; i++)
        if (held[i] != tok[i] && held[i] != -1)
            return 0;
    return 1;
#else
    return memcmp(held, tok, TARGET_PAGE * sizeof *tok) == 0;
#endif
}

int32_t target__page_find(const struct pages *p, uint64_t parent, const int32_t *tok)
{
    int32_t page = p->bucket[bucket_of(p, parent, tok)];
    while (page >= 0 && !(p->info[page].parent == parent && same_tokens(p->info[page].tok, tok)))
        page = p->info[page].chain;
    return page;
}

uint64_t target__page_publish(struct pages *p, int32_t page, uint64_t parent, const int32_t *tok)
{
    int32_t known = target__page_find(p, parent, tok);
    if (known >= 0)
        return p->info[known].serial;
    struct page_info *i = &p->info[page];
    i->serial = ++p->serial;
    i->parent = parent;
    memcpy(i->tok, tok, sizeof i->tok);
    int32_t *bucket = &p->bucket[bucket_of(p, parent, tok)];
    i->chain = *bucket;
    *bucket = page;
    return i->serial;
}
