/* cost.h - what a pass costs: nanoseconds by rows, T(M) of DESIGN.md section 9, as measured on this machine while it runs.
 *
 * A curve has knots at some row counts.  Each holds the median of its newest samples; between knots it is a straight line, and it
 * never falls nor gets flatter.  What is not measured for a while follows what is: a machine that gets slower, or texts that get longer, move all
 * knots alike.
 *
 * Thread: one.  Plain data, no clock of its own. */
#ifndef DAEMON_COST_H
#define DAEMON_COST_H

#include <stdint.h>

enum { COST_KNOTS = 18, COST_SAMPLES = 9 };

extern const int32_t cost_rows[COST_KNOTS];

struct cost_knot {
    double sample[COST_SAMPLES]; /* ns, a ring */
    int32_t n;                   /* ever noted */
    double value;                /* their median; 0: never measured */
    double first;                /* the value as it was at the beginning, or would have been */
    double drift;                /* the curve's when it was noted last */
};

struct cost {
    struct cost_knot knot[COST_KNOTS];
    double at[COST_KNOTS]; /* ns: the curve, where a knot was measured */
    double drift;          /* how much slower than at the beginning, by the knots that were noted of late */
};

void cost_init(struct cost *c);

/* A pass over so many rows (1 at least) took ns. */
void cost_note(struct cost *c, int32_t rows, double ns);

/* What a pass over so many rows takes; 0 rows cost nothing, and before the first sample everything is 0. */
double cost_at(const struct cost *c, int32_t rows);

#endif
