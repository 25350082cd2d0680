/* pace.c - see pace.h. */
#include "daemon/pace.h"

enum {
    FIRST_ROWS = 8, /* while their cost is not known */
    LEAST_ROWS = 4, /* a prompt always gets on */
    MEASURE = 16    /* one round in so many reads nothing */
};

/* Of a round, by what it reads.  Twice as long is what a user may notice. */
static const double SLOWDOWN = 0.6;
static const double FOLLOW = 0.25; /* how fast a mean follows what is new */

static double follow(double mean, double x)
{
    return mean > 0 ? mean + FOLLOW * (x - mean) : x;
}

int32_t pace_rows(struct pace *p, int readers, int running, int32_t most)
{
    if (p->plain_ns <= 0 || p->reading >= MEASURE)
        return 0;
    if (p->row_ns <= 0)
        return FIRST_ROWS < most ? FIRST_ROWS : most;
    double share = readers > running ? (double) readers / running : 1;
    double rows = SLOWDOWN * share * p->plain_ns / p->row_ns;
    return rows < LEAST_ROWS ? LEAST_ROWS : rows > most ? most : (int32_t) rows;
}

void pace_note(struct pace *p, int32_t prompt_rows, uint64_t ns)
{
    if (prompt_rows == 0) {
        p->reading = 0;
        p->plain_ns = follow(p->plain_ns, (double) ns);
        return;
    }
    p->reading++;
    if (p->plain_ns <= 0)
        return;
    /* Less than nothing is noise; a row that costs nothing would be followed by a pass that takes for ever. */
    double extra = ((double) ns - p->plain_ns) / prompt_rows, least = p->plain_ns / 256;
    p->row_ns = follow(p->row_ns, extra > least ? extra : least);
}
