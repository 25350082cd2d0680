/* cost.c - see cost.h. */
#include "daemon/cost.h"

#include <math.h>

const int32_t cost_rows[COST_KNOTS] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512};

enum { FIRST = 3 }; /* samples that make a beginning */

static const double FOLLOW = 0.05;  /* of the drift, a sample */
static const double SETTLE = 0.01;  /* of what a knot was at the beginning: a bad one is forgotten */
static const double MOVE_MAX = 2;   /* times, that what was not measured follows what was */
static const double ROW_PART = 0.5; /* a curve of one knot: of its cost, what goes with the rows */

void cost_init(struct cost *c)
{
    *c = (struct cost){.drift = 1};
}

static double median(const struct cost_knot *k)
{
    double v[COST_SAMPLES] = {0};
    int n = k->n < COST_SAMPLES ? k->n : COST_SAMPLES;
    for (int i = 0; i < n; i++) {
        int j = i;
        for (; j > 0 && v[j - 1] > k->sample[i]; j--)
            v[j] = v[j - 1];
        v[j] = k->sample[i];
    }
    return v[(n - 1) / 2];
}

/* The measured knots around `rows`: *below and *above, -1 where there is none. */
static void around(const struct cost *c, int32_t rows, int *below, int *above)
{
    *below = *above = -1;
    for (int i = 0; i < COST_KNOTS; i++) {
        if (!c->knot[i].n)
            continue;
        if (cost_rows[i] <= rows)
            *below = i;
        else if (*above < 0)
            *above = i;
    }
}

/* What the knot's own rows take now, if noise were all there is to it. */
static double knot_ns(const struct cost *c, int i)
{
    const struct cost_knot *k = &c->knot[i];
    double moved = c->drift / k->drift;
    return k->value * (moved < 1 / MOVE_MAX ? 1 / MOVE_MAX : moved > MOVE_MAX ? MOVE_MAX : moved);
}

/* A stretch of the curve: what it rises by, in so many rows. */
struct slope {
    double ns, rows;
    int to; /* its last knot */
};

static int is_steeper(const struct slope *a, const struct slope *b)
{
    return a->ns * b->rows > b->ns * a->rows;
}

/* The curve through what was measured that never falls and never gets flatter: neighbours that say otherwise are averaged, so that
 * noise on one knot makes no row free and none dear. */
static void fit(struct cost *c)
{
    struct slope s[COST_KNOTS];
    int n = 0, last = -1, next;
    double least = HUGE_VAL;
    for (int i = COST_KNOTS - 1; i >= 0; i--)
        if (c->knot[i].n) {
            double ns = knot_ns(c, i);
            c->at[i] = least = ns < least ? ns : least;
        }
    for (int i = 0; i < COST_KNOTS; i++) {
        if (!c->knot[i].n)
            continue;
        if (last >= 0) {
            s[n++] = (struct slope){c->at[i] - c->at[last], cost_rows[i] - cost_rows[last], i};
            for (; n > 1 && is_steeper(&s[n - 2], &s[n - 1]); n--) {
                s[n - 2].ns += s[n - 1].ns;
                s[n - 2].rows += s[n - 1].rows;
                s[n - 2].to = i;
            }
        }
        last = i;
    }
    for (int i = 0, k = -1; i < COST_KNOTS; i++) {
        if (!c->knot[i].n)
            continue;
        if (k >= 0) {
            for (next = 0; s[next].to < i; next++)
                ;
            c->at[i] = c->at[k] + s[next].ns / s[next].rows * (cost_rows[i] - cost_rows[k]);
        }
        k = i;
    }
}

/* A line through two knots; through one: a fixed part and one that goes with the rows. */
static double line(const struct cost *c, int i, int j, int32_t rows)
{
    double ra = cost_rows[i];
    if (j < 0)
        return c->at[i] * (1 - ROW_PART + ROW_PART * rows / ra);
    return c->at[i] + (c->at[j] - c->at[i]) * (rows - ra) / (cost_rows[j] - ra);
}

/* The measured knot before i; -1: none. */
static int before(const struct cost *c, int i)
{
    do
        i--;
    while (i >= 0 && !c->knot[i].n);
    return i;
}

double cost_at(const struct cost *c, int32_t rows)
{
    int below, above, prev;
    around(c, rows, &below, &above);
    if (rows <= 0 || (below < 0 && above < 0))
        return 0;
    if (below < 0)
        return line(c, above, -1, rows);
    if (above >= 0)
        return line(c, below, above, rows);
    prev = before(c, below);
    return prev < 0 ? line(c, below, -1, rows) : line(c, prev, below, rows);
}

static int nearest(int32_t rows)
{
    int i = 0;
    while (i + 1 < COST_KNOTS && cost_rows[i + 1] - rows <= rows - cost_rows[i])
        i++;
    return i;
}

void cost_note(struct cost *c, int32_t rows, double ns)
{
    int i = nearest(rows);
    struct cost_knot *k = &c->knot[i];
    double here = cost_at(c, rows), scale = here > 0 ? cost_at(c, cost_rows[i]) / here : 1;
    k->sample[k->n++ % COST_SAMPLES] = ns * scale;
    k->value = median(k);
    if (k->n <= FIRST) {
        k->first = k->value / c->drift;
    } else {
        c->drift += FOLLOW * (k->value / k->first - c->drift);
        k->first += SETTLE * (k->value / c->drift - k->first);
    }
    k->drift = c->drift;
    fit(c);
}
