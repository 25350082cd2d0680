/* bandwidth.c - what this machine can read from memory: the limit that a pass over few rows is held against.
 *
 * A block too large for any cache is read whole by all threads, in three patterns, since no one of them is the best everywhere:
 * a stretch a thread; small stretches taken in turn, so that the threads are neighbours in memory; four streams a thread at
 * once, prefetched.  The reading is the kernels' widest loads and an exclusive or.  The least time of all rounds counts, of each
 * pattern, which is what a limit is; memory shared with other machines has better and worse moments. */
#include "cpu/inside.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TURN = 64 << 10 }; /* words of a stretch taken in turn: 256 KB */
enum { STEP = 4 * 64 };   /* words every share is a multiple of */

struct cpu_bandwidth {
    struct cpu *cpu;           /* borrows */
    struct cpu__panels memory; /* owns */
    uint32_t *block;           /* its words */
    size_t words;
    int pattern;
    uint32_t *seen; /* (threads) keeps the reads alive */
    double gbs[CPU_READ_PATTERNS];
};

/* Thread t's share of the words, in whole steps. */
static size_t share(const struct cpu_bandwidth *b, int t)
{
    size_t steps = b->words / STEP;
    return steps * (size_t) t / (size_t) cpu__pool_threads(b->cpu->pool) * STEP;
}

static void fill_thread(void *arg, int thread)
{
    struct cpu_bandwidth *b = arg;
    size_t from = share(b, thread), to = share(b, thread + 1);
    memset(b->block + from, thread + 1, (to - from) * sizeof *b->block);
}

static void read_thread(void *arg, int thread)
{
    struct cpu_bandwidth *b = arg;
    const struct kern *k = &b->cpu->kern;
    size_t from = share(b, thread), n = share(b, thread + 1) - from;
    uint32_t seen = 0;
    if (b->pattern == CPU_READ_STRETCH)
        seen = k->sift(b->block + from, n, 0, 1);
    else if (b->pattern == CPU_READ_STREAMS)
        seen = k->sift(b->block + from, n / 4, n / 4, 4);
    else
        for (size_t at; (at = (size_t) cpu__pool_claim(b->cpu->pool) * TURN) < b->words;)
            seen ^= k->sift(b->block + at, b->words - at < TURN ? b->words - at : TURN, 0, 1);
    b->seen[thread] = seen;
}

int cpu_bandwidth_open(struct cpu_bandwidth **out, struct cpu *c, size_t bytes, struct err *e)
{
    *out = NULL;
    struct cpu_bandwidth *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(e, ST_NOMEM, "no memory for a probe of the read bandwidth");
    b->cpu = c;
    b->words = bytes / sizeof *b->block / STEP * STEP;
    b->seen = calloc((size_t) cpu__pool_threads(c->pool), sizeof *b->seen);
    if (!b->seen || cpu__panels_new(&b->memory, b->words * sizeof *b->block, NULL)) {
        cpu_bandwidth_close(b);
        return err_set(e, ST_NOMEM, "no memory for the %zu bytes that the read bandwidth is probed with",
                       bytes);
    }
    b->block = (uint32_t *) (void *) b->memory.base;
    cpu__pool_run(c->pool, fill_thread, b);
    *out = b;
    return 0;
}

void cpu_bandwidth_close(struct cpu_bandwidth *b)
{
    if (!b)
        return;
    cpu__panels_free(&b->memory);
    free(b->seen);
    free(b);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

void cpu_bandwidth_round(struct cpu_bandwidth *b)
{
    for (b->pattern = 0; b->pattern < CPU_READ_PATTERNS; b->pattern++) {
        double at = now();
        cpu__pool_run(b->cpu->pool, read_thread, b);
        double gbs = (double) (b->words * sizeof *b->block) * 1e-9 / (now() - at);
        if (gbs > b->gbs[b->pattern])
            b->gbs[b->pattern] = gbs;
    }
}

const double *cpu_bandwidth_gbs(const struct cpu_bandwidth *b)
{
    return b->gbs;
}
