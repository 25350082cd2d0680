/* pool.c - persistent threads, spin barriers that fall back on a futex.
 *
 * A condition variable alone costs a system call and a wake of some 50 us a barrier; a pass has hundreds of barriers a
 * few microseconds apart.  So a waiter spins first.  It must not spin on: the daemon is idle most of the day, and a
 * thread that was scheduled away may hold the others up for milliseconds. */
#include "cpu/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

enum { SPIN = 600 };           /* pauses before parking: 10 to 30 us */
enum { MXCSR_PLAIN = 0x1f80 }; /* all exceptions masked, to nearest, FTZ and DAZ off */

/* A counter that threads wait on. */
struct gate {
    _Alignas(64) _Atomic uint32_t count;
    _Atomic uint32_t parked; /* threads in, or on their way into, the futex */
};

struct worker {
    struct cpu__pool *pool; /* borrows */
    pthread_t thread;
    int id;
};

struct cpu__pool {
    struct gate job;                       /* jobs started */
    struct gate phase;                     /* barriers passed */
    _Alignas(64) _Atomic uint32_t arrived; /* threads at the barrier */
    _Alignas(64) _Atomic int claimed;      /* pieces taken since the last barrier */
    _Alignas(64) cpu__pool_fn fn;          /* NULL: stop */
    void *arg;
    int n;
    int started;            /* workers that run: n - 1 but for a failed open */
    struct worker worker[]; /* (n - 1) */
};

/* A gate moves in two steps, and so does a waiter: the count changes, then `parked` is read; `parked` rises, then the
 * futex compares the count.  All four are sequentially consistent, so one side always sees the other. */
static void gate_open(struct gate *g)
{
    atomic_fetch_add(&g->count, 1);
    if (atomic_load(&g->parked))
        syscall(SYS_futex, &g->count, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void gate_wait(struct gate *g, uint32_t old)
{
    for (int i = 0; i < SPIN; i++) {
        if (atomic_load_explicit(&g->count, memory_order_acquire) != old)
            return;
        _mm_pause();
    }
    atomic_fetch_add(&g->parked, 1);
    while (atomic_load(&g->count) == old)
        syscall(SYS_futex, &g->count, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->parked, 1);
}

/* Read before every look at the gate: 4 KB, about as long as memory takes to answer once. */
enum { AHEAD_STEP = 4096 };

static void read_ahead(const struct gate *g, uint32_t old, const char *next, size_t bytes)
{
    for (size_t at = 0; at < bytes && atomic_load_explicit(&g->count, memory_order_acquire) == old;
         at += AHEAD_STEP)
        for (size_t i = at; i < bytes && i < at + AHEAD_STEP; i += 64)
            _mm_prefetch(next + i, _MM_HINT_T1);
}

void cpu__pool_sync_ahead(struct cpu__pool *p, const void *next, size_t bytes)
{
    uint32_t phase = atomic_load(&p->phase.count); /* cannot move on before this thread has arrived */
    if (atomic_fetch_add(&p->arrived, 1) + 1 < (uint32_t) p->n) {
        read_ahead(&p->phase, phase, next, bytes);
        gate_wait(&p->phase, phase);
        return;
    }
    atomic_store(&p->arrived, 0);
    atomic_store(&p->claimed, 0);
    gate_open(&p->phase);
}

void cpu__pool_sync(struct cpu__pool *p)
{
    cpu__pool_sync_ahead(p, NULL, 0);
}

int cpu__pool_claim(struct cpu__pool *p)
{
    return atomic_fetch_add_explicit(&p->claimed, 1, memory_order_relaxed);
}

int cpu__pool_threads(const struct cpu__pool *p)
{
    return p->n;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct cpu__pool *p = w->pool;
    for (uint32_t job = 0;; job++) {
        gate_wait(&p->job, job);
        if (!p->fn)
            return NULL;
        _mm_setcsr(MXCSR_PLAIN);
        p->fn(p->arg, w->id);
        cpu__pool_sync(p);
    }
}

void cpu__pool_run(struct cpu__pool *p, cpu__pool_fn fn, void *arg)
{
    p->fn = fn;
    p->arg = arg;
    gate_open(&p->job);
    _mm_setcsr(MXCSR_PLAIN);
    fn(arg, 0);
    cpu__pool_sync(p);
}

/* Workers take no signals: those are the main thread's. */
static int start(struct cpu__pool *p)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    while (rc == 0 && p->started < p->n - 1) {
        struct worker *w = &p->worker[p->started];
        w->pool = p;
        w->id = p->started + 1;
        rc = pthread_create(&w->thread, NULL, work, w);
        p->started += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int cpu__pool_open(struct cpu__pool **out, int n, struct err *e)
{
    *out = NULL;
    void *block;
    size_t bytes = sizeof(struct cpu__pool) + (size_t) (n - 1) * sizeof(struct worker);
    if (posix_memalign(&block, _Alignof(struct cpu__pool), bytes))
        return err_set(e, ST_NOMEM, "no memory for a pool of %d threads", n);
    struct cpu__pool *p = memset(block, 0, bytes);
    p->n = n;
    int rc = start(p);
    if (rc) {
        cpu__pool_close(p);
        return err_set(e, ST_NOMEM, "cannot start %d threads: %s; lower --threads or raise the process limit",
                       n, strerror(rc));
    }
    *out = p;
    return 0;
}

void cpu__pool_close(struct cpu__pool *p)
{
    if (!p)
        return;
    p->fn = NULL;
    gate_open(&p->job);
    for (int i = 0; i < p->started; i++)
        pthread_join(p->worker[i].thread, NULL);
    free(p);
}
