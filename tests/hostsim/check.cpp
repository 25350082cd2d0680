/* check.cpp - what the checked lane sees of every access: bounds, alignment, reads of shared memory that nobody wrote, races.
 *
 * Sources compiled with -fsanitize=thread call __tsan_readN and __tsan_writeN before every access of theirs; these are those functions,
 * and the sanitizer's own runtime is not linked.  For every byte of device and shared memory the last writer and the last reader are
 * kept: block, thread, and how many barriers each had passed.  Two accesses, one of them a write, are ordered when
 *     they are of one thread; or a block barrier lies between; or they are of one warp and a __syncwarp lies between;
 *     or they are of different kernels or of the host.
 * Shuffles, votes, mma and ldmatrix are no memory barriers on a GPU: they order a read before a later write of their warp, for the read
 * is done when its lane comes by, but no write before a read.  A named barrier (bar_sync) counts as one of
 * the block: races past one are not seen.  Blocks of one kernel are ordered by nothing but atomics: once a block has done an atomic of
 * its own, it may read what others wrote (the last block adds up).  After 1023 block barriers a block,
 * after 1023 warp operations between two of them a lane is not checked. */
#include "sim.h"

#include <stdlib.h>
#include <sys/mman.h>

namespace sim
{

/* [block serial: 32][atomic: 1][several: 1][thread: 10][block epoch: 10][warp epoch: 10]; 0: nobody.  Several: other
 * lanes of the thread's warp too; thread MANY: threads of other warps too.  The warp epoch counts __syncwarp for a writer,
 * every warp operation for a reader. */
struct shadow {
    uint64_t writer, reader;
};

enum { HOST = 1, MANY = 1023, BLOCK_EPOCHS = 1023, WARP_EPOCHS = 1023 };

struct who {
    uint32_t serial, thread, block_epoch, warp_epoch;
    bool atomic, several;
};

static struct shadow *heap_shadow, *smem_shadow;
static bool active;        /* some access was seen: a checked build */
static uint32_t acquired;  /* serial of the last block that did an atomic */
static int look_unwritten; /* device memory too */

static uint64_t word(const struct who *w)
{
    return (uint64_t) w->serial << 32 | (uint64_t) w->atomic << 31 | (uint64_t) w->several << 30 |
           w->thread << 20 | w->block_epoch << 10 | w->warp_epoch;
}

static struct who unpack(uint64_t x)
{
    return {(uint32_t) (x >> 32), (uint32_t) x >> 20 & 1023, (uint32_t) x >> 10 & 1023,
            (uint32_t) x & 1023,  (x >> 31 & 1) != 0,        (x >> 30 & 1) != 0};
}

static struct shadow *map_shadow(size_t bytes)
{
    void *p = mmap(NULL, bytes * sizeof(struct shadow), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return (struct shadow *) p;
}

static struct shadow *shadow_of(const void *p)
{
    if (heap_near(p)) {
        if (!heap_shadow)
            heap_shadow = map_shadow((size_t) 1 << 38);
        return heap_shadow + ((const char *) p - heap_from);
    }
    if (!smem_shadow)
        smem_shadow = map_shadow(1 << 20);
    return smem_shadow + ((const char *) p - smem_from);
}

bool check_enabled(void)
{
    return active;
}

/* Does nothing order what w did there before what the running fiber does now? */
static bool unordered(const void *p, const struct who *w, uint32_t warp_epoch)
{
    if (w->serial < first_serial || w->serial == HOST)
        return false; /* another kernel, or the host */
    if (w->serial != block_serial)
        return heap_near(p) && acquired != block_serial; /* shared memory is every block's own */
    if ((w->thread == (uint32_t) now->index && !w->several) || w->block_epoch != block_epoch)
        return false;
    return w->thread == MANY || w->thread / WARP != (uint32_t) now->index / WARP ||
           w->warp_epoch == warp_epoch;
}

/* The same for the usual case, from the word alone: true is sure. */
static inline bool surely_ordered(uint64_t w)
{
    uint32_t serial = (uint32_t) (w >> 32);
    if (serial < first_serial)
        return true;
    return serial == block_serial &&
           ((w >> 10 & 1023) != block_epoch || (w >> 20 & 2047) == (uint32_t) now->index);
}

[[noreturn]] static void race(const void *p, const char *does, const struct who *w, const char *did)
{
    if (w->serial != block_serial)
        hostsim::fault("race: it %s %s, which another block of this kernel %s", does, describe(p).c_str(),
                       did);
    if (w->several)
        hostsim::fault("race: it %s %s, which several threads %s with no barrier between", does,
                       describe(p).c_str(), did);
    hostsim::fault("race: it %s %s, which thread %u of its block %s with no barrier between", does,
                   describe(p).c_str(), w->thread, did);
}

static bool watched(const void *p)
{
    return heap_near(p) || smem_near(p);
}

static bool epochs_fit(void)
{
    return block_epoch < BLOCK_EPOCHS && now->warp_epoch < WARP_EPOCHS && now->warp_meetings < WARP_EPOCHS;
}

static void check_bounds(const void *p, size_t n, const char *does)
{
    counters.checked++;
    if (heap_near(p) ? !heap_contains(p, n) : !smem_contains(p, n)) {
        fault_error = cudaErrorIllegalAddress;
        hostsim::fault("%s %zu bytes at %s", does, n, describe(p).c_str());
    }
}

static struct who self(bool atomic)
{
    return {block_serial, (uint32_t) now->index, block_epoch, now->warp_epoch, atomic, false};
}

static void read_byte(const char *p, struct shadow *s, const struct who *me)
{
    struct who w = unpack(s->writer), r = unpack(s->reader);
    bool written = heap_near(p) ? s->writer || !look_unwritten : w.serial == block_serial;
    if (!written)
        hostsim::fault("reads %s, which nobody wrote", describe(p).c_str());
    if (s->writer && unordered(p, &w, now->warp_epoch) && !(w.atomic && me->atomic))
        race(p, "reads", &w, "wrote");
    struct who keep = *me;
    keep.warp_epoch = now->warp_meetings;
    if (r.serial == block_serial && r.block_epoch == block_epoch) {
        bool one_warp = r.thread != MANY && r.thread / WARP == me->thread / WARP;
        if (!one_warp)
            keep.thread = MANY;
        keep.several =
            !one_warp || (r.warp_epoch == keep.warp_epoch && (r.several || r.thread != me->thread));
    }
    s->reader = word(&keep);
}

static void write_byte(const char *p, struct shadow *s, const struct who *me)
{
    struct who w = unpack(s->writer), r = unpack(s->reader);
    if (s->writer && unordered(p, &w, now->warp_epoch) && !(w.atomic && me->atomic))
        race(p, "writes", &w, "wrote");
    if (s->reader && unordered(p, &r, now->warp_meetings) && !(r.atomic && me->atomic))
        race(p, "writes", &r, "read");
    s->writer = word(me);
}

void check_read(const void *p, size_t n)
{
    if (!active || !now || !watched(p))
        return;
    check_bounds(p, n, "reads");
    if (!epochs_fit())
        return;
    struct who me = self(false), as_reader = me;
    as_reader.warp_epoch = now->warp_meetings;
    const uint64_t mine = word(&as_reader);
    const bool must_be_written = look_unwritten || !heap_near(p);
    struct shadow *s = shadow_of(p);
    for (size_t i = 0; i < n; i++) {
        const uint64_t reader = s[i].reader;
        bool plain = (!must_be_written || s[i].writer >> 32 == block_serial) && surely_ordered(s[i].writer);
        if (plain && (reader == mine || (reader ^ mine) >> 32))
            s[i].reader = mine;
        else if (!plain || (reader ^ mine) >> 10 & 1023 ||
                 (reader >> 20 & 1023) != MANY) /* else: of many already */
            read_byte((const char *) p + i, s + i, &me);
    }
}

void check_write(const void *p, size_t n)
{
    if (!active || !now || !watched(p))
        return;
    check_bounds(p, n, "writes");
    if (!epochs_fit())
        return;
    struct who me = self(false);
    const uint64_t mine = word(&me);
    struct shadow *s = shadow_of(p);
    for (size_t i = 0; i < n; i++) {
        if (surely_ordered(s[i].writer) && surely_ordered(s[i].reader))
            s[i].writer = mine;
        else
            write_byte((const char *) p + i, s + i, &me);
    }
}

/* Marks from outside kernels are kept in any build: nobody knows yet whether a checked kernel will come.  Off until one did would
 * call the first weights unwritten; that matters only with look_unwritten, which switches them on. */
void check_host_wrote(const void *p, size_t n)
{
    if ((!active && !look_unwritten) || !watched(p))
        return;
    struct who host = {HOST, 0, 0, 0, false, false};
    struct shadow *s = shadow_of(p);
    for (size_t i = 0; i < n; i++)
        s[i] = {word(&host), 0};
}

void check_forget(const void *p, size_t n)
{
    if (heap_shadow && heap_near(p))
        memset((void *) shadow_of(p), 0, n * sizeof(struct shadow));
}

/* From instrumented code, with the alignment the compiler relies on. */
static void instrumented(const void *p, size_t n, bool aligned, bool write)
{
    active = true;
    if (!watched(p))
        return;
    if (!now)
        hostsim::fault("%s %s; only kernels and copies may", write ? "writes" : "reads", describe(p).c_str());
    if (aligned && (uintptr_t) p % n) {
        fault_error = cudaErrorMisalignedAddress;
        hostsim::fault("%s %s: not aligned to %zu bytes", write ? "writes" : "reads", describe(p).c_str(), n);
    }
    (write ? check_write : check_read)(p, n);
}

} // namespace sim

using namespace sim;

void hostsim::atomic_note(const void *p, size_t bytes)
{
    if (!active || !now || !watched(p))
        return;
    check_bounds(p, bytes, "adds to");
    if (!epochs_fit())
        return;
    if (heap_near(p))
        acquired = block_serial;
    struct who me = self(true);
    struct shadow *s = shadow_of(p);
    for (size_t i = 0; i < bytes; i++) {
        read_byte((const char *) p + i, s + i, &me);
        write_byte((const char *) p + i, s + i, &me);
    }
}

void hostsim::fence_note(void)
{
}

extern "C" {

void hostsim_check_unwritten(int on)
{
    look_unwritten = on;
}

#define HOOKS(n)                                                                                             \
    void __tsan_read##n(void *p)                                                                             \
    {                                                                                                        \
        instrumented(p, n, true, false);                                                                     \
    }                                                                                                        \
    void __tsan_write##n(void *p)                                                                            \
    {                                                                                                        \
        instrumented(p, n, true, true);                                                                      \
    }                                                                                                        \
    void __tsan_unaligned_read##n(void *p)                                                                   \
    {                                                                                                        \
        instrumented(p, n, false, false);                                                                    \
    }                                                                                                        \
    void __tsan_unaligned_write##n(void *p)                                                                  \
    {                                                                                                        \
        instrumented(p, n, false, true);                                                                     \
    }                                                                                                        \
    void __tsan_volatile_read##n(void *p)                                                                    \
    {                                                                                                        \
        instrumented(p, n, true, false);                                                                     \
    }                                                                                                        \
    void __tsan_volatile_write##n(void *p)                                                                   \
    {                                                                                                        \
        instrumented(p, n, true, true);                                                                      \
    }

#define DECLARE(n)                                                                                           \
    void __tsan_read##n(void *);                                                                             \
    void __tsan_write##n(void *);                                                                            \
    void __tsan_unaligned_read##n(void *);                                                                   \
    void __tsan_unaligned_write##n(void *);                                                                  \
    void __tsan_volatile_read##n(void *);                                                                    \
    void __tsan_volatile_write##n(void *);

DECLARE(1)
DECLARE(2)
DECLARE(4)
DECLARE(8)
DECLARE(16)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *p, size_t n);
void __tsan_write_range(void *p, size_t n);
void __tsan_init(void);
void __tsan_func_entry(void *);
void __tsan_func_exit(void);
void __tsan_vptr_update(void **, void *);
void __tsan_vptr_read(void **);

void __tsan_read_range(void *p, size_t n)
{
    instrumented(p, n, false, false);
}

void __tsan_write_range(void *p, size_t n)
{
    instrumented(p, n, false, true);
}

void __tsan_init(void)
{
}

void __tsan_func_entry(void *)
{
}

void __tsan_func_exit(void)
{
}

void __tsan_vptr_update(void **, void *)
{
}

void __tsan_vptr_read(void **)
{
}
}
