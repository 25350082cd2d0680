/* math.c - Taylor series after range reduction, by fma: a handful of values a row, so plain beats fast.
 *
 * Reference for the float steps of cpu__rope_*: transformers' compute_default_rope_parameters and Qwen3RotaryEmbedding
 * (inv_freq and the angle are float tensors there). */
#include "cpu/math.h"

#include <math.h>
#include <stdint.h>

#include "core/math.h"
#include "cpu/cpu.h"

#define HALFPI_0    0x1.921fb54442d18p+0
#define HALFPI_1    0x1.1a62633145c07p-54
#define HALFPI_2    -0x1.f1976b7ed8fbcp-110
#define TWO_PI      0x1.921fb54442d18p+2
#define TWO_OVER_PI 0x1.45f306dc9c883p-1

/* 1 / (i (i - 1)): each term of a series from the one before it. */
#define STEP(i) (1.0 / ((i) * ((i) -1)))

/* On [-pi/4, pi/4]: sin r = r - r^3 / 3! + ..., terms to r^19. */
static double sine_near_0(double r)
{
    static const double step[] = {STEP(19), STEP(17), STEP(15), STEP(13), STEP(11),
                                  STEP(9),  STEP(7),  STEP(5),  STEP(3)};
    double r2 = r * r, p = 0;
    for (int i = 0; i < 9; i++)
        p = fma(p, -r2, 1) * step[i];
    return fma(-r2 * r, p, r);
}

/* cos r = 1 - r^2 / 2! + ..., terms to r^20. */
static double cosine_near_0(double r)
{
    static const double step[] = {STEP(20), STEP(18), STEP(16), STEP(14), STEP(12),
                                  STEP(10), STEP(8),  STEP(6),  STEP(4),  STEP(2)};
    double r2 = r * r, p = 1;
    for (int i = 0; i < 10; i++)
        p = fma(-r2 * step[i], p, 1);
    return p;
}

void cpu__math_sincos(double x, double *sine, double *cosine)
{
    double n = rint(x * TWO_OVER_PI);
    double r = fma(-n, HALFPI_2, fma(-n, HALFPI_1, fma(-n, HALFPI_0, x)));
    double s = sine_near_0(r), c = cosine_near_0(r);
    switch ((int64_t) n & 3) {
    case 0:
        *sine = s, *cosine = c;
        break;
    case 1:
        *sine = c, *cosine = -s;
        break;
    case 2:
        *sine = -s, *cosine = -c;
        break;
    default:
        *sine = -c, *cosine = s;
    }
}

/* YaRN (Peng et al. 2023): the dimension whose wavelength fits the original context `turns` times,
 *     d ln(L / (2 pi turns)) / (2 ln theta). */
static double yarn_dimension(const struct config *g, double turns)
{
    double ratio = g->yarn.original_ctx / (turns * TWO_PI);
    return g->head_dim * math_log(ratio) / (2 * math_log(g->rope_theta));
}

/* Dimensions up to `low` keep their frequency, from low + span on they are slowed down by the factor, between lies a ramp. */
struct ramp {
    float low, span;
};

static struct ramp yarn_ramp(const struct config *g)
{
    double low = yarn_dimension(g, g->yarn.beta_fast), high = yarn_dimension(g, g->yarn.beta_slow);
    if (g->yarn.truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low < 0 ? 0 : low;
    high = high > g->head_dim - 1 ? g->head_dim - 1 : high;
    if (low == high)
        high += 0.001; /* the reference's way round a division by 0 */
    return (struct ramp){(float) low, (float) (high - low)};
}

static float yarn_stretch(struct ramp r, float factor, int i, float power)
{
    float slow = ((float) i - r.low) / r.span;
    slow = slow < 0 ? 0 : slow > 1 ? 1 : slow;
    float kept = 1 - slow;
    return 1 / (factor * power) * (1 - kept) + 1 / power * kept;
}

void cpu__rope_freqs(const struct config *g, float *inv_freq)
{
    double log_theta = math_log(g->rope_theta);
    int yarn = g->yarn.factor > 0;
    struct ramp r = yarn ? yarn_ramp(g) : (struct ramp){0};
    for (int i = 0; i < g->head_dim / 2; i++) {
        float exponent = (float) (2 * i) / (float) g->head_dim;
        float power = (float) math_exp(exponent * log_theta);
        inv_freq[i] = yarn ? yarn_stretch(r, g->yarn.factor, i, power) : 1 / power;
    }
}

void cpu__rope_angles(const float *inv_freq, int half, int pos, float factor, float *cosines, float *sines)
{
    for (int i = 0; i < half; i++) {
        float angle = (float) pos * inv_freq[i];
        double s, c;
        cpu__math_sincos(angle, &s, &c);
        cosines[i] = (float) c * factor;
        sines[i] = (float) s * factor;
    }
}

void cpu_rope_table(const struct config *g, int pos, int n, float *cosines, float *sines)
{
    float inv_freq[CPU_HEAD_DIM_MAX / 2], factor = g->yarn.factor > 0 ? g->yarn.attention_factor : 1;
    int half = g->head_dim / 2;
    cpu__rope_freqs(g, inv_freq);
    for (int i = 0; i < n; i++)
        cpu__rope_angles(inv_freq, half, pos + i, factor, cosines + (int64_t) i * half,
                         sines + (int64_t) i * half);
}
