/* smem.cpp - shared memory of the running block: poisoned at its start, canaries between static arrays, an inaccessible page behind
 * the dynamic part. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace sim
{

enum {
    PAGE = 4096,
    STATIC_BYTES = 64 * 1024,
    DYNAMIC_BYTES = (SMEM_MAX + PAGE - 1) / PAGE * PAGE,
    CANARY = 0xa5,
    GAP = 64,
    ALIGN = 128,
    ARRAYS = 32
};

struct array {
    const void *key;
    const char *name;
    char *at;
    size_t bytes;
};

const char *smem_from, *smem_to;
static char *region, *statics, *dynamic_end; /* [statics | guard | dynamic | guard] */
static struct array arrays[ARRAYS];
static int n_arrays;
static size_t static_used;
static char *dynamic_at;
static size_t dynamic_bytes;

static void region_open(void)
{
    const size_t all = STATIC_BYTES + PAGE + DYNAMIC_BYTES + PAGE;
    region =
        (char *) mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED)
        abort();
    smem_from = region;
    smem_to = region + all;
    statics = region;
    dynamic_end = region + STATIC_BYTES + PAGE + DYNAMIC_BYTES;
    mprotect(region + STATIC_BYTES, PAGE, PROT_NONE);
    mprotect(dynamic_end, PAGE, PROT_NONE);
}

void smem_begin(size_t dynamic)
{
    if (!region)
        region_open();
    n_arrays = 0;
    static_used = 0;
    dynamic_bytes = dynamic;
    size_t taken = (dynamic + ALIGN - 1) / ALIGN * ALIGN;
    dynamic_at = dynamic_end - taken;
    memset(dynamic_at, POISON, dynamic);
    memset(dynamic_at + dynamic, CANARY, taken - dynamic);
}

static bool canary_kept(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char) p[i] != CANARY)
            return false;
    return true;
}

void smem_end(void)
{
    for (int i = 0; i < n_arrays; i++)
        if (!canary_kept(arrays[i].at - GAP, GAP) || !canary_kept(arrays[i].at + arrays[i].bytes, GAP))
            hostsim::fault("bytes beside shared array %s[%zu bytes] were written", arrays[i].name,
                           arrays[i].bytes);
    if (!canary_kept(dynamic_at + dynamic_bytes, (size_t) (dynamic_end - dynamic_at) - dynamic_bytes))
        hostsim::fault("bytes behind the %zu of dynamic shared memory were written", dynamic_bytes);
}

static bool within(const void *p, size_t n, const char *at, size_t bytes)
{
    return (const char *) p >= at && n <= bytes && (size_t) ((const char *) p - at) <= bytes - n;
}

bool smem_contains(const void *p, size_t n)
{
    if (within(p, n, dynamic_at, dynamic_bytes))
        return true;
    for (int i = 0; i < n_arrays; i++)
        if (within(p, n, arrays[i].at, arrays[i].bytes))
            return true;
    return false;
}

size_t smem_static_bytes(void)
{
    size_t n = 0;
    for (int i = 0; i < n_arrays; i++)
        n += arrays[i].bytes;
    return n;
}

std::string smem_describe(const void *p)
{
    char text[200];
    const char *c = (const char *) p;
    for (int i = 0; i < n_arrays; i++)
        if (c >= arrays[i].at - GAP && c < arrays[i].at + arrays[i].bytes + GAP) {
            snprintf(text, sizeof text, "byte %td of shared array %s[%zu bytes]", c - arrays[i].at,
                     arrays[i].name, arrays[i].bytes);
            return text;
        }
    snprintf(text, sizeof text, "byte %td of the %zu of dynamic shared memory", c - dynamic_at,
             dynamic_bytes);
    return text;
}

} // namespace sim

using namespace sim;

void *hostsim::smem_static(const void *key, size_t bytes, size_t align, const char *name)
{
    for (int i = 0; i < n_arrays; i++)
        if (arrays[i].key == key)
            return arrays[i].at;
    size_t at = (static_used + GAP + (align > 16 ? align : 16) - 1) / (align > 16 ? align : 16) *
                (align > 16 ? align : 16);
    if (n_arrays == ARRAYS || smem_static_bytes() + bytes > SMEM_DEFAULT || at + bytes + GAP > STATIC_BYTES)
        fault("static shared memory of more than %d arrays or %d bytes with %s[%zu bytes]", ARRAYS,
              SMEM_DEFAULT, name, bytes);
    static_used = at + bytes;
    arrays[n_arrays++] = {key, name, statics + at, bytes};
    memset(statics + at - GAP, CANARY, GAP);
    memset(statics + at, POISON, bytes);
    memset(statics + at + bytes, CANARY, GAP);
    return statics + at;
}

void *hostsim::smem_dynamic(void)
{
    return dynamic_at;
}
