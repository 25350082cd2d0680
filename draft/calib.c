/* calib.c - confidence from experience: hits over trials in bins, with a prior that fades.
 *
 * The prior: cold, a guess of probability q is kept with probability q.  Warm, with shared dice the best guess is kept the surer
 * the wider its lead, and one that trails by g perturbed nats is kept about exp(-g) as often as the best. */
#include "draft/internal.h"

#include <math.h>

static const double PRIOR_WEIGHT = 6;
static const double FADE_AT = 2000; /* trials in a bin before all are halved */

static double prior(int warm, int rank, int gap)
{
    double g = (gap + 0.5) * (warm ? 0.35 : 0.25);
    if (!warm) /* bins of log odds: q = 1 / (1 + exp(-x)), x from 3 down to -3 */
        return 1 / (1 + exp(-(3 - g)));
    double lead = rank == 0 ? 1 - 0.5 * exp(-g) : 0.4 * exp(-g);
    return lead;
}

void draft__calib_init(struct calib *c)
{
    for (int w = 0; w < 2; w++)
        for (int r = 0; r < RANK_BINS; r++)
            for (int g = 0; g < GAP_BINS; g++) {
                c->trials[w][r][g] = PRIOR_WEIGHT;
                c->hits[w][r][g] = PRIOR_WEIGHT * prior(w, r, g);
            }
}

struct calib_key draft__calib_key(int warm, int rank, const float *score, const float *prob, int n)
{
    struct calib_key k = {(uint8_t) warm, (uint8_t) (rank < RANK_BINS ? rank : RANK_BINS - 1), 0};
    double g;
    if (!warm) {
        double q = prob[rank] < 1e-6f ? 1e-6 : prob[rank] > 0.999999f ? 0.999999 : prob[rank];
        g = (3 - log(q / (1 - q))) / 0.25;
    } else if (rank == 0) {
        g = n > 1 ? (score[0] - score[1]) / 0.35 : GAP_BINS;
    } else {
        g = (score[0] - score[rank]) / 0.35;
    }
    k.gap = (uint8_t) (g < 0 ? 0 : g < GAP_BINS ? g : GAP_BINS - 1);
    return k;
}

float draft__calib_conf(const struct calib *c, struct calib_key k)
{
    return (float) (c->hits[k.warm][k.rank][k.gap] / c->trials[k.warm][k.rank][k.gap]);
}

void draft__calib_note(struct calib *c, struct calib_key k, int kept)
{
    double *hits = &c->hits[k.warm][k.rank][k.gap], *trials = &c->trials[k.warm][k.rank][k.gap];
    *hits += kept != 0;
    *trials += 1;
    if (*trials > FADE_AT) {
        *hits /= 2;
        *trials /= 2;
    }
}
