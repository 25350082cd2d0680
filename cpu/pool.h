/* pool.h - the threads that compute a pass together.
 *
 * cpu__pool_run hands one function to every thread, the caller's included; inside it the threads take pieces of work by
 * number (cpu__pool_claim) and meet at barriers (cpu__pool_sync).  Which thread takes which piece is chance and must not
 * matter: pieces are outputs, never parts of a sum.  A thread that waits spins for some tens of microseconds, then parks:
 * an idle pool uses no CPU.
 *
 * One set of threads can serve two callers: `side` of the n belong to a second pool as well.  Together, either pool's jobs
 * take all threads, and the two callers take turns.  Apart, the first pool has n - side threads and the side pool `side`, its
 * own caller among them, and both may run at once; the one worker that stands for that caller when they are together then
 * sleeps.  No core ever has two threads to run.
 *
 * Thread: one thread at a time calls cpu__pool_run of one pool. */
#ifndef CPU_POOL_H
#define CPU_POOL_H

#include "core/status.h"

struct cpu__pool;

typedef void (*cpu__pool_fn)(void *arg, int thread); /* thread: 0 (the caller's) .. n - 1 */

struct cpu__pool_opts {
    int threads;      /* in all; threads - 1 of them are started here */
    int side;         /* of these, for the side pool; 0: there is none, else at least one is left */
    const int *place; /* (threads) processors they are pinned to, the callers apart; NULL: nowhere */
};

/* ST_NOMEM; *out is NULL then. */
int cpu__pool_open(struct cpu__pool **out, const struct cpu__pool_opts *o, struct err *e);
void cpu__pool_close(struct cpu__pool *p); /* the first pool, and with it the side's; NULL is fine */
struct cpu__pool *cpu__pool_side(struct cpu__pool *p); /* borrows from p; NULL: none */
void cpu__pool_apart(struct cpu__pool *p, int apart);  /* p: the first pool; while neither has a job */
void cpu__pool_pin_caller(int processor);              /* the calling thread */
int cpu__pool_threads(const struct cpu__pool *p);      /* that its next job will have */

/* Runs fn on every thread and returns when all are done.  Each starts with rounding to nearest and without flushing of
 * subnormals, whatever a library has left behind. */
void cpu__pool_run(struct cpu__pool *p, cpu__pool_fn fn, void *arg);

/* Inside fn: the next piece of work, 0, 1, ...; starts anew after every barrier. */
int cpu__pool_claim(struct cpu__pool *p);
/* Inside fn: waits for all; every thread must come.  What was written before is seen after. */
void cpu__pool_sync(struct cpu__pool *p);

/* The same; until the others have come, `bytes` at `next` are brought into this core's cache. */
void cpu__pool_sync_ahead(struct cpu__pool *p, const void *next, size_t bytes);

#endif
