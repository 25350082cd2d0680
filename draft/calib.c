/* calib.c - confidence from experience: hits over trials in bins, with a prior that fades.
 *
 * The prior: cold, a guess of probability q is kept with probability q.  Warm, with shared dice the best guess is kept the surer
 * the wider its lead, and one that trails by g perturbed nats is kept about exp(-g) as often as the best. */
#include "draft/internal.h"

#include <math.h>

static const double PRIOR_WEIGHT = 6;
static const double CHILD_PRIOR = 0.6;
static const double FADE_AT = 2000; /* trials in a bin before all are halved */

static double prior(int warm, int rank, int gap)
{
    double g = (gap + 0.5) * (warm ? 0.35 : 0.25);
    if (!warm) /* bins of log odds: q = 1 / (1 + exp(-x)), x from 3 down to -3 */
        return 1 / (1 + exp(-(3 - g)));
    double lead = rank == 0 ? 1 - 0.5 * exp(-g) : 0.4 * exp(-g);
    return lead;
}

/* Which bin a match of so many tokens falls into. */
static int len_bin(int32_t match)
{
    static const int32_t from[SPINE_BINS] = {0, 2, 3, 4, 5, 6, 8, 12, 16, 24};
    int b = SPINE_BINS - 1;
    while (b > 0 && match < from[b])
        b--;
    return b;
}

/* The longer the match and the better the luck, the surer; what the model would say itself is nearly sure, what it would not is
 * nearly hopeless. */
static double spine_prior(int verdict, int luck, int len)
{
    double p = (0.1 + 0.25 * luck) * (1 - 0.7 / (1 + len));
    return verdict == SPINE_BEST ? 0.85 : verdict == SPINE_MISSED ? 0.05 : p;
}

static void spine_init(struct calib *c)
{
    for (int v = 0; v < SPINE_VERDICTS; v++)
        for (int l = 0; l < LUCK_BINS; l++)
            for (int b = 0; b < SPINE_BINS; b++) {
                c->spine_trials[v][l][b] = PRIOR_WEIGHT;
                c->spine_hits[v][l][b] = PRIOR_WEIGHT * spine_prior(v, l, b);
            }
}

struct spine_key draft__spine_key(int verdict, float luck, int32_t match)
{
    int l = (int) (luck * LUCK_BINS);
    return (struct spine_key){(uint8_t) verdict, (uint8_t) (l < LUCK_BINS ? l : LUCK_BINS - 1),
                              (uint8_t) len_bin(match)};
}

float draft__spine_conf(const struct calib *c, struct spine_key k)
{
    return (float) (c->spine_hits[k.verdict][k.luck][k.len] / c->spine_trials[k.verdict][k.luck][k.len]);
}

static void note(double *hits, double *trials, int kept)
{
    *hits += kept != 0;
    *trials += 1;
    if (*trials > FADE_AT) {
        *hits /= 2;
        *trials /= 2;
    }
}

void draft__spine_note(struct calib *c, struct spine_key k, int kept)
{
    note(&c->spine_hits[k.verdict][k.luck][k.len], &c->spine_trials[k.verdict][k.luck][k.len], kept);
}

void draft__calib_init(struct calib *c)
{
    spine_init(c);
    for (int w = 0; w < 2; w++)
        for (int d = 0; d < DEPTH_BINS; d++) {
            for (int r = 0; r < RANK_BINS; r++)
                for (int g = 0; g < GAP_BINS; g++) {
                    c->trials[w][d][r][g] = PRIOR_WEIGHT;
                    c->hits[w][d][r][g] = PRIOR_WEIGHT * prior(w, r, g);
                }
            for (int b = 0; b < CONF_BINS; b++) {
                c->child_trials[w][d][b] = PRIOR_WEIGHT;
                c->child_hits[w][d][b] = PRIOR_WEIGHT * CHILD_PRIOR;
            }
        }
}

static int depth_bin(int depth)
{
    return depth <= 1 ? 0 : depth == 2 ? 1 : depth <= 4 ? 2 : DEPTH_BINS - 1;
}

int draft__conf_bin(float conf)
{
    int b = (int) (conf * CONF_BINS);
    return b < 0 ? 0 : b < CONF_BINS ? b : CONF_BINS - 1;
}

float draft__child_conf(const struct calib *c, int warm, int depth, float conf)
{
    int d = depth_bin(depth + 1), b = draft__conf_bin(conf);
    return (float) (c->child_hits[warm][d][b] / c->child_trials[warm][d][b]);
}

void draft__child_note(struct calib *c, int warm, int depth, float conf, int kept)
{
    int d = depth_bin(depth + 1), b = draft__conf_bin(conf);
    note(&c->child_hits[warm][d][b], &c->child_trials[warm][d][b], kept);
}

struct calib_key draft__calib_key(int warm, int depth, int rank, const float *score, const float *prob, int n)
{
    struct calib_key k = {(uint8_t) warm, (uint8_t) depth_bin(depth),
                          (uint8_t) (rank < RANK_BINS ? rank : RANK_BINS - 1), 0};
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
    return (float) (c->hits[k.warm][k.depth][k.rank][k.gap] / c->trials[k.warm][k.depth][k.rank][k.gap]);
}

void draft__calib_note(struct calib *c, struct calib_key k, int kept)
{
    note(&c->hits[k.warm][k.depth][k.rank][k.gap], &c->trials[k.warm][k.depth][k.rank][k.gap], kept);
}
