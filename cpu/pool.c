/* pool.c - persistent threads, spin barriers that fall back on a futex.
 *
 * A condition variable alone costs a system call and a wake of some 50 us a barrier; a pass has hundreds of barriers a
 * few microseconds apart.  So a waiter spins first.  It must not spin on: the daemon is idle most of the day, and a
 * thread that was scheduled away may hold the others up for milliseconds. */
#include "cpu/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

enum {
    SPIN = 40000, /* looks before parking: some 60 us */
    PAUSE_EVERY =
        64 /* looks.  A tight loop of pauses makes a hypervisor take the core away (pause-loop exiting): each barrier
                        then costs 12 us, a pass of a small model five times what it takes */
};
enum { MXCSR_PLAIN = 0x1f80 }; /* all exceptions masked, to nearest, FTZ and DAZ off */

/* A counter that threads wait on. */
struct gate {
    _Alignas(64) _Atomic uint32_t count;
    _Atomic uint32_t parked; /* threads in, or on their way into, the futex */
};

/* Workers by whose they are when the pools are apart; the spare one's place has the side's caller then. */
enum { GROUP_MAIN, GROUP_SIDE, GROUP_SPARE, GROUPS };

struct group {
    struct gate job;                     /* jobs started */
    _Alignas(64) struct cpu__pool *pool; /* borrows; whose job it is; NULL: stop */
    int n;                               /* workers */
};

struct worker {
    struct group *group; /* borrows */
    pthread_t thread;
    int id; /* 1 ..: of a job that all take part in */
};

struct cpu__pool {
    struct gate phase;                     /* barriers passed */
    _Alignas(64) _Atomic uint32_t arrived; /* threads at the barrier */
    _Alignas(64) _Atomic int claimed;      /* pieces taken since the last barrier */
    _Alignas(64) cpu__pool_fn fn;
    void *arg;
    struct crowd *crowd; /* borrows */
    int n;               /* threads of a job, the caller's included */
    int from;            /* what its workers' ids are counted from */
    int groups;          /* bit g: group g takes part */
};

/* The threads, and the two pools that they serve: one block, so that a worker on its way out of a barrier finds it there. */
struct crowd {
    struct cpu__pool main, side;
    struct group group[GROUPS];
    int n, n_side;
    int started;            /* workers that run: n - 1 but for a failed open */
    struct worker worker[]; /* (n - 1), by group */
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
        if (i % PAUSE_EVERY == PAUSE_EVERY - 1)
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
    uint32_t n =
        (uint32_t) p->n; /* once this thread has arrived, the caller may go on and set the pools apart */
    if (atomic_fetch_add(&p->arrived, 1) + 1 < n) {
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
    for (uint32_t job = 0;; job++) {
        gate_wait(&w->group->job, job);
        struct cpu__pool *p = w->group->pool;
        if (!p)
            return NULL;
        _mm_setcsr(MXCSR_PLAIN);
        p->fn(p->arg, w->id - p->from);
        cpu__pool_sync(p);
    }
}

static void call(struct crowd *c, int groups, struct cpu__pool *p)
{
    for (int g = 0; g < GROUPS; g++)
        if ((groups >> g & 1) && c->group[g].n) {
            c->group[g].pool = p;
            gate_open(&c->group[g].job);
        }
}

void cpu__pool_run(struct cpu__pool *p, cpu__pool_fn fn, void *arg)
{
    p->fn = fn;
    p->arg = arg;
    call(p->crowd, p->groups, p);
    _mm_setcsr(MXCSR_PLAIN);
    fn(arg, 0);
    cpu__pool_sync(p);
}

void cpu__pool_apart(struct cpu__pool *p, int apart)
{
    struct crowd *c = p->crowd;
    int all = (1 << GROUPS) - 1;
    c->main.n = apart ? c->n - c->n_side : c->n;
    c->main.groups = apart ? 1 << GROUP_MAIN : all;
    c->side.n = apart ? c->n_side : c->n;
    c->side.groups = apart ? 1 << GROUP_SIDE : all;
    c->side.from = apart ? c->group[GROUP_MAIN].n : 0;
}

struct cpu__pool *cpu__pool_side(struct cpu__pool *p)
{
    return p->crowd->n_side ? &p->crowd->side : NULL;
}

/* A processor that left this process's mask since it was read: the thread runs where the system likes. */
static void pin(pthread_t thread, int processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    pthread_setaffinity_np(thread, sizeof one, &one);
}

void cpu__pool_pin_caller(int processor)
{
    pin(pthread_self(), processor);
}

/* Workers take no signals: those are the main thread's. */
static int start(struct crowd *c, const int *place)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0, g = 0, end = c->group[0].n;
    while (rc == 0 && c->started < c->n - 1) {
        while (c->started == end)
            end += c->group[++g].n;
        struct worker *w = &c->worker[c->started];
        w->group = &c->group[g];
        w->id = c->started + 1;
        rc = pthread_create(&w->thread, NULL, work, w);
        c->started += rc == 0;
        if (rc == 0 && place)
            pin(w->thread, place[w->id]);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int cpu__pool_open(struct cpu__pool **out, const struct cpu__pool_opts *o, struct err *e)
{
    *out = NULL;
    void *block;
    size_t bytes = sizeof(struct crowd) + (size_t) (o->threads - 1) * sizeof(struct worker);
    if (posix_memalign(&block, _Alignof(struct crowd), bytes))
        return err_set(e, ST_NOMEM, "no memory for a pool of %d threads", o->threads);
    struct crowd *c = memset(block, 0, bytes);
    c->n = o->threads;
    c->n_side = o->side;
    c->main.crowd = c->side.crowd = c;
    c->group[GROUP_MAIN].n = o->threads - o->side - 1;
    c->group[GROUP_SIDE].n = o->side ? o->side - 1 : 0;
    c->group[GROUP_SPARE].n = o->side ? 1 : 0;
    cpu__pool_apart(&c->main, 0);
    int rc = start(c, o->place);
    if (rc) {
        cpu__pool_close(&c->main);
        return err_set(e, ST_NOMEM, "cannot start %d threads: %s; lower --threads or raise the process limit",
                       o->threads, strerror(rc));
    }
    *out = &c->main;
    return 0;
}

void cpu__pool_close(struct cpu__pool *p)
{
    if (!p)
        return;
    struct crowd *c = p->crowd;
    call(c, (1 << GROUPS) - 1, NULL);
    for (int i = 0; i < c->started; i++)
        pthread_join(c->worker[i].thread, NULL);
    free(c);
}
