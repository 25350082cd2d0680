/* logprob.c - what a row says of the tokens drawn there.
 *
 *     logprob(v) = fl( (l_v - m) - log sum_u exp(l_u - m) ),  m the maximum, all in double
 *
 * The sum: 16 partial sums by id mod 16, folded 8-4-2-1; exp by Cody and Waite's reduction and Taylor's series to the 12th power
 * in plain multiplications and additions, so that the loop goes into vectors on any x86-64 and gives the same bits there
 * (relative error below 1e-15).  Oracle: tests/unit/logprob.c, in long double. */
#include "draw/internal.h"

#include <math.h>
#include <string.h>

#include "core/math.h"

enum { LANES = 16 };

/* exp(x), x <= 0; exactly 0 below -700.  The magic number rounds x / ln 2 and leaves it in the low bits. */
static inline double exp_down(double x)
{
    static const double magic = 0x1.8p52, log2_e = 0x1.71547652b82fep+0;
    static const double ln2_hi = 0x1.62e42fefa3800p-1, ln2_lo = 0x1.ef35793c76730p-45;
    double c = x < -700 ? -700 : x;
    double t = c * log2_e + magic, n = t - magic;
    double r = (c - n * ln2_hi) - n * ln2_lo;
    double p = 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1;
    p = p * r + 1;
    uint64_t bits;
    double scale;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 1023) << 52;
    memcpy(&scale, &bits, sizeof scale);
    return x < -700 ? 0 : p * scale;
}

static float maximum(const float *l, int32_t n)
{
    float m = l[0];
    for (int32_t v = 1; v < n; v++)
        m = l[v] > m ? l[v] : m;
    return m;
}

/* log of the sum of exp(l - m) over n values; -inf ones count nothing. */
static double log_sum(const float *l, int32_t n, float m)
{
    double part[LANES] = {0};
    int32_t v = 0;
    for (; v + LANES <= n; v += LANES)
        for (int i = 0; i < LANES; i++)
            part[i] += exp_down((double) l[v + i] - (double) m);
    for (int i = 0; v + i < n; i++)
        part[i] += exp_down((double) l[v + i] - (double) m);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            part[i] += part[i + half];
    return math_log(part[0]);
}

static float logprob_of(float l, float m, double log_total)
{
    return l > -INFINITY ? (float) (((double) l - (double) m) - log_total) : -INFINITY;
}

static void raw(const struct draw_params *p, const float *l, int32_t vocab, int32_t tok,
                struct draw_logprobs *out)
{
    float m = maximum(l, vocab);
    double log_total = log_sum(l, vocab, m);
    out->logprob = logprob_of(l[tok], m, log_total);
    out->n = draw__best(l, vocab, p->top_logprobs, out->tok);
    for (int32_t i = 0; i < out->n; i++)
        out->top[i] = logprob_of(l[out->tok[i]], m, log_total);
}

void draw_logprobs(const struct draw_params *p, const struct draw_state *s, const struct draw_seen *seen,
                   const float *logits, int32_t vocab, struct draw_scratch *x, int32_t tok,
                   struct draw_logprobs *out)
{
    draw_logprobs_absent(out);
    raw(p, logits, vocab, tok, out);
    if (!p->processed)
        return;
    const float *value = draw__processed(p, s, seen, logits, vocab, x);
    float m = maximum(value, vocab);
    double log_total = log_sum(value, vocab, m);
    out->processed = logprob_of(value[tok], m, log_total);
    for (int32_t i = 0; i < out->n; i++)
        out->after[i] = logprob_of(value[out->tok[i]], m, log_total);
}

void draw_logprobs_absent(struct draw_logprobs *out)
{
    memset(out, 0, sizeof *out);
    out->logprob = out->processed = NAN;
    for (int i = 0; i < DRAW_TOP_MAX; i++)
        out->top[i] = out->after[i] = NAN;
}
