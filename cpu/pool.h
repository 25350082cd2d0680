/* pool.h - the threads that compute a pass together.
 *
 * cpu__pool_run hands one function to every thread, the caller's included; inside it the threads take pieces of work by
 * number (cpu__pool_claim) and meet at barriers (cpu__pool_sync).  Which thread takes which piece is chance and must not
 * matter: pieces are outputs, never parts of a sum.  A thread that waits spins for some tens of microseconds, then parks:
 * an idle pool uses no CPU.
 *
 * Thread: one thread at a time calls cpu__pool_run; it owns the pool. */
#ifndef CPU_POOL_H
#define CPU_POOL_H

#include "core/status.h"

struct cpu__pool;

typedef void (*cpu__pool_fn)(void *arg, int thread); /* thread: 0 (the caller's) .. n - 1 */

/* n threads in all, n - 1 of them started here.  ST_NOMEM; *out is NULL then. */
int cpu__pool_open(struct cpu__pool **out, int n, struct err *e);
void cpu__pool_close(struct cpu__pool *p); /* NULL is fine */
int cpu__pool_threads(const struct cpu__pool *p);

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
