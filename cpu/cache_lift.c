/* cache_lift.c - panels that were mapped from a file, moved into huge pages while they are in use.
 *
 * A mapped file has pages of 4 KB, and a pass that streams through them loses some 7% to the TLB.  So a thread of low priority copies
 * a piece at a time into huge pages and puts them in the file's place with one mremap: the address and the bytes stay the same,
 * and who reads there meanwhile waits for the call at most.  Where memory is short the rest stays as it is. */
#include "cpu/cache.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/log.h"

enum { HUGE_PAGE = 2 << 20, PIECE = 64 << 20, NICE = 10 };

struct cpu__lift {
    pthread_t thread;
    const struct cpu__panels *panels; /* borrows */
    _Atomic int stop, done;
    size_t lifted; /* bytes; the thread's until it is done */
};

/* Memory of huge pages that begins on one; what lies before and behind is given back. */
static char *new_piece(size_t bytes)
{
    char *map = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t) map % HUGE_PAGE) % HUGE_PAGE;
    if (before)
        munmap(map, before);
    munmap(map + before + bytes, HUGE_PAGE - before);
    madvise(map + before, bytes, MADV_HUGEPAGE); /* a wish: fine if refused */
    return map + before;
}

static int lift(char *at, size_t bytes)
{
    size_t page = (size_t) sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    char *to = new_piece(whole);
    if (!to)
        return ST_NOMEM;
    memcpy(to, at, bytes);
    if (mprotect(to, whole, PROT_READ) == 0 &&
        mremap(to, whole, whole, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED)
        return 0;
    munmap(to, whole);
    return ST_NOMEM;
}

static void *work(void *arg)
{
    struct cpu__lift *l = arg;
    size_t bytes = l->panels->bytes;
    int st = 0;
    setpriority(PRIO_PROCESS, (id_t) gettid(), NICE); /* of this thread: others come first */
    while (l->lifted < bytes && !st && !atomic_load(&l->stop)) {
        size_t left = bytes - l->lifted, n = left < PIECE ? left : PIECE;
        st = lift(l->panels->base + l->lifted, n);
        l->lifted += st ? 0 : n;
    }
    log_debug("pack cache: %zu of %zu MB are in huge pages now", l->lifted / 1000000, bytes / 1000000);
    atomic_store(&l->done, 1);
    return NULL;
}

struct cpu__lift *cpu__cache_lift(const struct cpu__panels *p)
{
    sigset_t all, before;
    struct cpu__lift *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->panels = p;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&l->thread, NULL, work, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!rc)
        return l;
    free(l);
    return NULL;
}

size_t cpu__cache_lifted(const struct cpu__lift *l)
{
    return atomic_load(&l->done) ? l->lifted : 0;
}

void cpu__cache_lift_stop(struct cpu__lift *l)
{
    if (!l)
        return;
    atomic_store(&l->stop, 1);
    pthread_join(l->thread, NULL);
    free(l);
}
