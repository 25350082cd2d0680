/* cost.c - see cost.h. */
#include "daemon/cost.h"

#include <string.h>

const int32_t cost_rows[COST_KNOTS] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512};

enum { FIRST = 3 }; /* samples that make a beginning */

static const double FOLLOW = 0.05;  /* of the drift, a sample */
static const double MOVE_MAX = 2;   /* times, that what was not measured follows what was */
static const double ROW_PART = 0.5; /* a curve of one knot: of its cost, what goes with the rows */

void cost_init(struct cost *c)
{
    *c = (struct cost){.drift = 1};
}

/* What else a machine does makes passes longer, never shorter: a third from below. */
static double typical(const struct cost_knot *k)
{
    double v[COST_SAMPLES] = {0};
    int n = k->n < COST_SAMPLES ? k->n : COST_SAMPLES;
    for (int i = 0; i < n; i++) {
        int j = i;
        for (; j > 0 && v[j - 1] > k->sample[i]; j--)
            v[j] = v[j - 1];
        v[j] = k->sample[i];
    }
    return v[(n - 1) / 3];
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

/* What the knot's own rows take now. */
static double knot_ns(const struct cost *c, int i)
{
    const struct cost_knot *k = &c->knot[i];
    double moved = c->drift / k->drift;
    return k->value * (moved < 1 / MOVE_MAX ? 1 / MOVE_MAX : moved > MOVE_MAX ? MOVE_MAX : moved);
}

/* A line through two knots; through one: a fixed part and one that goes with the rows. */
static double line(const struct cost *c, int i, int j, int32_t rows)
{
    double a = knot_ns(c, i), b = j < 0 ? a : knot_ns(c, j), ra = cost_rows[i];
    if (j < 0)
        return a * (1 - ROW_PART + ROW_PART * rows / ra);
    b = b < a ? a : b;
    return a + (b - a) * (rows - ra) / (cost_rows[j] - ra);
}

/* The measured knot before i; -1: none. */
static int before(const struct cost *c, int i)
{
    do
        i--;
    while (i >= 0 && !c->knot[i].n);
    return i;
}

/* By the knots on both sides. */
static double drawn(const struct cost *c, int below, int above, int32_t rows)
{
    if (below < 0)
        return line(c, above, -1, rows);
    if (above >= 0)
        return line(c, below, above, rows);
    int prev = before(c, below);
    return prev < 0 ? line(c, below, -1, rows) : line(c, prev, below, rows);
}

double cost_at(const struct cost *c, int32_t rows)
{
    int below, above;
    around(c, rows, &below, &above);
    if (rows <= 0 || (below < 0 && above < 0))
        return 0;
    double at = drawn(c, below, above, rows);
    for (int i = above; i >= 0 && i < COST_KNOTS; i++) /* more rows never take less */
        if (c->knot[i].n && knot_ns(c, i) < at)
            at = knot_ns(c, i);
    return at;
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
    k->value = typical(k);
    if (k->n <= FIRST)
        k->first = k->value / c->drift;
    else
        c->drift += FOLLOW * (k->value / k->first - c->drift);
    k->drift = c->drift;
}
