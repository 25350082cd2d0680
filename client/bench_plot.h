/* bench_plot.h - plots as inline SVG: plain shapes, coloured by the page's style sheet (classes s0, s1; axis, grid), so that
 * they follow the reader's light or dark scheme.  Pure but for the FILE. */
#ifndef CLIENT_BENCH_PLOT_H
#define CLIENT_BENCH_PLOT_H

#include <stddef.h>
#include <stdio.h>

/* One curve or one row of bars. */
struct bench_series {
    const char *label; /* borrowed; markup-safe */
    const double *v;   /* borrowed; (n) */
    size_t n;
};

/* Share of values at or below x, x on a logarithmic axis.  v ascending; empty series are left out. */
void bench_plot_cdf(FILE *to, const char *title, const char *unit, const struct bench_series *s, size_t n);

/* Bars from 0 at places 1, 2, ...; series side by side. */
void bench_plot_bars(FILE *to, const char *title, const char *unit, const struct bench_series *s, size_t n);

/* A value for each interval of `width` along x from 0; series i has a width of its own. */
void bench_plot_steps(FILE *to, const char *title, const char *unit, const struct bench_series *s, size_t n,
                      const double *width);

#endif
