/* heap.cpp - device memory: every allocation ends at an inaccessible page and is never given out again, so that one byte too far
 * (beyond the rounding to 256, where canaries stand) and every use after cudaFree fault.  All of it is inaccessible while host code
 * runs. */
#include "sim.h"

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace sim
{

enum { PAGE = 4096, ROUND = 256, CANARY = 0xa5 };
static const size_t REGION = (size_t) 1 << 38;

struct allocation {
    char *at; /* aligned to ROUND */
    size_t bytes;
    char *pages; /* accessible ones; [pages, end) holds at..at+bytes rounded up */
    char *end;
    bool live;
};

const char *heap_from, *heap_to;
static char *region;
static size_t region_used;
static std::vector<struct allocation> all; /* ascending */
static int opened;
size_t heap_used, heap_used_max, heap_limit = (size_t) 1 << 30;

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void access(const struct allocation *a, int protection)
{
    if (mprotect(a->pages, (size_t) (a->end - a->pages), protection)) {
        perror("hostsim: mprotect of device memory");
        abort();
    }
}

static void canaries_write(const struct allocation *a)
{
    memset(a->pages, CANARY, (size_t) (a->at - a->pages));
    memset(a->at + a->bytes, CANARY, (size_t) (a->end - a->at) - a->bytes);
}

void *heap_alloc(size_t n)
{
    size_t bytes = round_up(n, ROUND), pages = round_up(bytes, PAGE);
    if (!region) {
        region = (char *) mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (region == MAP_FAILED)
            return NULL;
        heap_from = region;
        heap_to = region + REGION;
        region_used = PAGE;
    }
    if (bytes < n || heap_used + bytes > heap_limit || region_used + pages + 2 * PAGE > REGION)
        return NULL;
    char *first = region + region_used;
    struct allocation a = {first + pages - bytes, n, first, first + pages, true};
    region_used += pages + 2 * PAGE; /* one page behind this one, one before the next */
    access(&a, PROT_READ | PROT_WRITE);
    canaries_write(&a);
    memset(a.at, POISON, n);
    check_forget(a.at, n);
    if (!opened)
        access(&a, PROT_NONE);
    all.push_back(a);
    heap_used += bytes;
    heap_used_max = std::max(heap_used, heap_used_max);
    return a.at;
}

/* The allocation at or below p, dead ones too; NULL: p is below all. */
static struct allocation *find(const void *p)
{
    size_t lo = 0, hi = all.size();
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (all[mid].pages - PAGE <= (const char *) p)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo ? &all[lo - 1] : NULL;
}

static bool canaries_kept(const struct allocation *a)
{
    for (const char *p = a->pages; p < a->at; p++)
        if ((unsigned char) *p != CANARY)
            return false;
    for (const char *p = a->at + a->bytes; p < a->end; p++)
        if ((unsigned char) *p != CANARY)
            return false;
    return true;
}

bool heap_canaries(std::string *bad)
{
    char text[128];
    bool kept = true;
    heap_open();
    for (const struct allocation &a : all) {
        if (!a.live || canaries_kept(&a))
            continue;
        snprintf(text, sizeof text, "bytes beside device memory of %zu bytes were written", a.bytes);
        *bad = text;
        canaries_write(&a); /* told once */
        kept = false;
    }
    heap_close();
    return kept;
}

bool heap_free(void *p)
{
    struct allocation *a = heap_near(p) ? find(p) : NULL;
    if (!a || !a->live || a->at != p)
        return false;
    access(a, PROT_NONE);
    madvise(a->pages, (size_t) (a->end - a->pages), MADV_DONTNEED);
    check_forget(a->at, a->bytes);
    a->live = false;
    heap_used -= round_up(a->bytes, ROUND);
    return true;
}

void heap_free_all(void)
{
    for (struct allocation &a : all)
        if (a.live)
            heap_free(a.at);
}

void heap_open(void)
{
    if (opened++)
        return;
    for (const struct allocation &a : all)
        if (a.live)
            access(&a, PROT_READ | PROT_WRITE);
}

void heap_close(void)
{
    if (--opened)
        return;
    for (const struct allocation &a : all)
        if (a.live)
            access(&a, PROT_NONE);
}

bool heap_contains(const void *p, size_t n)
{
    static size_t last; /* neighbours are asked for together */
    const char *c = (const char *) p;
    if (!heap_near(p))
        return false;
    if (last >= all.size() || c < all[last].at || c >= all[last].at + all[last].bytes) {
        struct allocation *a = find(p);
        if (!a)
            return false;
        last = (size_t) (a - all.data());
    }
    const struct allocation *a = &all[last];
    return a->live && c >= a->at && n <= a->bytes && (size_t) (c - a->at) <= a->bytes - n;
}

std::string heap_describe(const void *p)
{
    char text[160];
    const char *c = (const char *) p;
    const struct allocation *a = find(p);
    if (!a)
        return "an address below all device memory";
    const char *freed = a->live ? "" : ", which was freed";
    if (c < a->at)
        snprintf(text, sizeof text, "%td bytes before device memory of %zu bytes%s", a->at - c, a->bytes,
                 freed);
    else if (c >= a->at + a->bytes)
        snprintf(text, sizeof text, "%td bytes past the end of device memory of %zu bytes%s",
                 c - a->at - (ptrdiff_t) a->bytes, a->bytes, freed);
    else
        snprintf(text, sizeof text, "byte %td of device memory of %zu bytes%s", c - a->at, a->bytes, freed);
    return text;
}

} // namespace sim
