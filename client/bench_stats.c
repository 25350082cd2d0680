/* bench_stats.c - see bench_stats.h. */
#include "client/bench_stats.h"

#include <math.h>
#include <stdlib.h>

int bench_list_add(struct bench_list *l, double v)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        double *p = realloc(l->v, cap * sizeof *p);
        if (!p)
            return ST_NOMEM;
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = v;
    return 0;
}

static int ascending(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

void bench_list_sort(struct bench_list *l)
{
    if (l->n)
        qsort(l->v, l->n, sizeof *l->v, ascending);
}

double bench_percentile(const double *sorted, size_t n, double p)
{
    /* 1e-9: 99 / 100 * 200 is a little over 198 in binary, and would take the 199th */
    size_t rank = (size_t) ceil(p / 100 * (double) n - 1e-9);
    return sorted[rank < 1 ? 0 : rank > n ? n - 1 : rank - 1];
}

struct bench_summary bench_summarize(struct bench_list *l)
{
    struct bench_summary s = {.n = l->n};
    if (l->n == 0)
        return s;
    bench_list_sort(l);
    double sum = 0;
    for (size_t i = 0; i < l->n; i++)
        sum += l->v[i];
    s.mean = sum / (double) l->n;
    s.min = l->v[0];
    s.p50 = bench_percentile(l->v, l->n, 50);
    s.p90 = bench_percentile(l->v, l->n, 90);
    s.p99 = bench_percentile(l->v, l->n, 99);
    s.max = l->v[l->n - 1];
    return s;
}

double bench_median(struct bench_list *l)
{
    if (l->n == 0)
        return 0;
    bench_list_sort(l);
    return (l->v[(l->n - 1) / 2] + l->v[l->n / 2]) / 2;
}

/* The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection that spreads every bit over all. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint64_t bench_random(uint64_t seed, uint64_t stream, uint64_t index)
{
    const uint64_t step = 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: SplitMix64's increment */
    return mix(mix(mix(seed + step) + stream * step) + (index + 1) * step);
}

void bench_schedule(int64_t *due_ns, size_t n, double rate, int poisson, uint64_t seed, size_t first)
{
    double t = 0;
    for (size_t i = 0; i < n; i++) {
        due_ns[i] = llround((poisson ? t : (double) i / rate) * 1e9);
        /* u in (0, 1], so that the logarithm is finite; -ln(u) / rate is exponential with mean 1 / rate */
        double u = (double) ((bench_random(seed, BENCH_STREAM_ARRIVAL, first + i) >> 11) + 1) * 0x1p-53;
        t -= log(u) / rate;
    }
}
