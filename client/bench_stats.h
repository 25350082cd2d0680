/* bench_stats.h - the arithmetic of `outrider bench`: numbers in, numbers out, no clock, no socket.
 *
 * A percentile is the nearest rank: the smallest value that at least p per cent of all values do not exceed; it is a value
 * that was measured, never one between two.  Randomness is a function of (seed, stream, index) alone, so that a schedule or a
 * prompt is the same on every machine and whichever of them is made first. */
#ifndef CLIENT_BENCH_STATS_H
#define CLIENT_BENCH_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* Zero-initialise; free(v). */
struct bench_list {
    double *v; /* owns; (n) */
    size_t n, cap;
};

int bench_list_add(struct bench_list *l, double v); /* ST_NOMEM: unchanged */
void bench_list_sort(struct bench_list *l);         /* ascending */

/* p in (0, 100], n > 0 values in ascending order. */
double bench_percentile(const double *sorted, size_t n, double p);

/* All zeros when n is 0. */
struct bench_summary {
    size_t n;
    double mean, min, p50, p90, p99, max;
};

/* Sorts l. */
struct bench_summary bench_summarize(struct bench_list *l);

/* Middle value of l, which it sorts; of two middle ones their mean; 0 when there is none. */
double bench_median(struct bench_list *l);

/* Streams of randomness under one seed. */
enum { BENCH_STREAM_ARRIVAL = 1, BENCH_STREAM_TOKEN = 2 };

uint64_t bench_random(uint64_t seed, uint64_t stream, uint64_t index);

/* Arrival times of an open loop in ns from its start, the first at 0: n of them at `rate` a second, evenly spaced, or with
 * exponential gaps (poisson) that depend on seed and on the request's number, `first` for the first, alone.  rate > 0. */
void bench_schedule(int64_t *due_ns, size_t n, double rate, int poisson, uint64_t seed, size_t first);

#endif
