/* bench_plot.c - see bench_plot.h. */
#include "client/bench_plot.h"

#include <math.h>

/* In SVG's user units; the page scales the whole. */
enum {
    WIDTH = 600,
    HEIGHT = 280,
    LEFT = 56,
    RIGHT = 16,
    TOP = 40,
    BOTTOM = 40,
    INNER_W = WIDTH - LEFT - RIGHT,
    INNER_H = HEIGHT - TOP - BOTTOM,
    LEGEND = 64,      /* of each name in it */
    POINTS_MAX = 400, /* of a curve: more than the eye tells apart */
    TICKS = 6,        /* of a linear axis, about */
};

#define LEAST 0.01 /* ms; what is shorter, two chunks of one read, is drawn here */

struct axis {
    double lo, hi;
    int logarithmic;
};

static double place(const struct axis *a, double v)
{
    if (a->logarithmic)
        return log(fmax(v, a->lo) / a->lo) / log(a->hi / a->lo);
    return (v - a->lo) / (a->hi - a->lo);
}

static double at_x(const struct axis *a, double v)
{
    return LEFT + place(a, v) * INNER_W;
}

static double at_y(const struct axis *a, double v)
{
    return TOP + (1 - place(a, v)) * INNER_H;
}

static void open_plot(FILE *to, const char *title, const struct bench_series *s, size_t n)
{
    fprintf(to, "<figure><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", WIDTH, HEIGHT, title);
    fprintf(to, "<text class=\"title\" x=\"%d\" y=\"18\">%s</text>\n", LEFT, title);
    for (size_t i = 0; n > 1 && i < n; i++) { /* the legend, at the right */
        int x = WIDTH - RIGHT - LEGEND * (int) (n - i);
        fprintf(to, "<rect class=\"s%zu\" x=\"%d\" y=\"9\" width=\"10\" height=\"10\"/>", i, x);
        fprintf(to, "<text x=\"%d\" y=\"18\">%s</text>\n", x + 15, s[i].label);
    }
}

static void close_plot(FILE *to, const char *unit)
{
    fprintf(to, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, TOP + INNER_H, WIDTH - RIGHT);
    fprintf(to, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n</svg></figure>\n", WIDTH - RIGHT,
            HEIGHT - 6, unit);
}

static void tick_x(FILE *to, const struct axis *a, double v)
{
    double x = at_x(a, v);
    fprintf(to,
            "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" "
            "text-anchor=\"middle\">%g</text>\n",
            x, TOP, TOP + INNER_H, x, TOP + INNER_H + 16, v);
}

static void tick_y(FILE *to, const struct axis *a, double v)
{
    double y = at_y(a, v);
    fprintf(
        to,
        "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
        LEFT, y, WIDTH - RIGHT, LEFT - 6, y + 4, v);
}

/* A round step that cuts `span` into about TICKS. */
static double step_of(double span)
{
    double unit = pow(10, floor(log10(span / TICKS)));
    double rest = span / TICKS / unit;
    return unit * (rest <= 1 ? 1 : rest <= 2 ? 2 : rest <= 5 ? 5 : 10);
}

/* Ticks at k * step, so that no sum of roundings creeps in.  hi is moved up to the last one if the axis may grow. */
static void linear_ticks(FILE *to, struct axis *a, int grow,
                         void (*tick)(FILE *, const struct axis *, double))
{
    double step = step_of(a->hi);
    int n = (int) (grow ? ceil(a->hi / step - 1e-9) : floor(a->hi / step + 1e-9));
    if (grow)
        a->hi = n * step;
    for (int k = 0; k <= n; k++)
        tick(to, a, k * step);
}

/* 1, 2, 5 times the powers of ten; over more than three decades the powers alone. */
static void log_ticks(FILE *to, const struct axis *a)
{
    const double at[] = {1, 2, 5};
    size_t n = a->hi / a->lo > 1000 ? 1 : 3;
    for (double unit = pow(10, floor(log10(a->lo))); unit <= a->hi; unit *= 10)
        for (size_t i = 0; i < n; i++)
            if (at[i] * unit >= a->lo * 0.999 && at[i] * unit <= a->hi * 1.001)
                tick_x(to, a, at[i] * unit);
}

/* The next value of 1, 2, 5 times a power of ten at or beyond v, downwards or upwards. */
static double round_out(double v, int up)
{
    const double at[] = {1, 2, 5, 10};
    double unit = pow(10, floor(log10(v)));
    for (int i = 0; up && i < 4; i++)
        if (at[i] * unit >= v)
            return at[i] * unit;
    for (int i = 3; i >= 0; i--)
        if (at[i] * unit <= v)
            return at[i] * unit;
    return unit;
}

static double greatest(const struct bench_series *s, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < s[i].n; k++)
            most = fmax(most, s[i].v[k]);
    return most > 0 ? most : 1;
}

static void curve(FILE *to, const struct bench_series *s, size_t number, const struct axis *x,
                  const struct axis *y)
{
    size_t points = s->n < POINTS_MAX ? s->n : POINTS_MAX;
    fprintf(to, "<path class=\"line s%zu\" d=\"M%.1f %.1f", number, at_x(x, s->v[0]), at_y(y, 0));
    for (size_t p = 0; p < points; p++) {
        size_t i = (p + 1) * s->n / points - 1; /* the last point is the last value */
        fprintf(to, "H%.1fV%.1f", at_x(x, s->v[i]), at_y(y, (double) (i + 1) / (double) s->n));
    }
    fprintf(to, "\"><title>%s</title></path>\n", s->label);
}

void bench_plot_cdf(FILE *to, const char *title, const char *unit, const struct bench_series *s, size_t n)
{
    double lo = INFINITY, hi = LEAST;
    for (size_t i = 0; i < n; i++)
        if (s[i].n) {
            lo = fmin(lo, fmax(s[i].v[0], LEAST));
            hi = fmax(hi, s[i].v[s[i].n - 1]);
        }
    if (isinf(lo))
        return;
    struct axis x = {round_out(lo, 0), round_out(hi * 1.01, 1), 1}, y = {0, 1, 0};
    open_plot(to, title, s, n);
    log_ticks(to, &x);
    linear_ticks(to, &y, 0, tick_y);
    for (size_t i = 0; i < n; i++)
        if (s[i].n)
            curve(to, &s[i], i, &x, &y);
    close_plot(to, unit);
}

void bench_plot_bars(FILE *to, const char *title, const char *unit, const struct bench_series *s, size_t n)
{
    struct axis y = {0, greatest(s, n), 0};
    size_t places = 0;
    for (size_t i = 0; i < n; i++)
        places = s[i].n > places ? s[i].n : places;
    if (places == 0)
        return;
    open_plot(to, title, s, n);
    linear_ticks(to, &y, 1, tick_y);
    double slot = (double) INNER_W / (double) places, bar = slot * 0.8 / (double) n;
    for (size_t k = 0; k < places; k++) {
        double x = LEFT + ((double) k + 0.1) * slot;
        for (size_t i = 0; i < n; i++)
            if (k < s[i].n)
                fprintf(to,
                        "<rect class=\"s%zu\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
                        "height=\"%.1f\"><title>%s, %zu: "
                        "%.3g</title></rect>\n",
                        i, x + (double) i * bar, at_y(&y, s[i].v[k]), bar * 0.95,
                        TOP + INNER_H - at_y(&y, s[i].v[k]), s[i].label, k + 1, s[i].v[k]);
        if (places <= 16 || k % 4 == 3)
            fprintf(to, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%zu</text>\n", x + slot * 0.4,
                    TOP + INNER_H + 16, k + 1);
    }
    close_plot(to, unit);
}

void bench_plot_steps(FILE *to, const char *title, const char *unit, const struct bench_series *s, size_t n,
                      const double *width)
{
    struct axis x = {0, 0, 0}, y = {0, greatest(s, n), 0};
    for (size_t i = 0; i < n; i++)
        x.hi = fmax(x.hi, (double) s[i].n * width[i]);
    if (x.hi <= 0)
        return;
    open_plot(to, title, s, n);
    linear_ticks(to, &y, 1, tick_y);
    linear_ticks(to, &x, 0, tick_x);
    for (size_t i = 0; i < n; i++) {
        fprintf(to, "<path class=\"line s%zu\" d=\"M%d %.1f", i, LEFT, at_y(&y, 0));
        for (size_t k = 0; k < s[i].n; k++)
            fprintf(to, "V%.1fH%.1f", at_y(&y, s[i].v[k]), at_x(&x, (double) (k + 1) * width[i]));
        fprintf(to, "\"><title>%s</title></path>\n", s[i].label);
    }
    close_plot(to, unit);
}
