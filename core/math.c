/* math.c - argument reduction and Taylor series, each term one fma.
 *
 *   log x = e ln 2 + 2 atanh s,  x = 2^e m, m in [sqrt(1/2), sqrt(2)), s = (m - 1) / (m + 1), |s| < 0.1716
 *   exp x = 2^n exp r,           n = rint(x / ln 2), r = x - n ln 2, |r| < 0.3466
 *
 * Both series are cut where the next term is below 2^-56 of the sum.
 *
 * Built twice: as it is, and by math_fma.c for machines with FMA, where fma is an instruction and not a call. */
#include "core/math.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef MATH_FMA
#define BUILD(name) name##_fma
#else
#define BUILD(name) name##_plain
#endif

static const double LN2_HI = 0x1.62e42fefa3800p-1; /* ln 2 in 40 bits: e * LN2_HI is exact */
static const double LN2_LO = 0x1.ef35793c76730p-45;

static const double inverse_factorial[] = {
    1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
    1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0,
};

static const double inverse_odd[] = {1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                                     1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3};

double BUILD(math__log)(double x)
{
    uint64_t u;
    int e = 0;
    memcpy(&u, &x, sizeof u);
    if (u >> 52 == 0) { /* denormal */
        x *= 0x1p54;
        e = -54;
        memcpy(&u, &x, sizeof u);
    }
    e += (int) (u >> 52) - 1023;
    u = (u & 0x000fffffffffffff) | 0x3ff0000000000000;
    double m;
    memcpy(&m, &u, sizeof m);
    if (m >= 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        e++;
    }
    double f = m - 1;
    double s = f / (2 + f);
    double z = s * s;
    double p = inverse_odd[0];
    for (int k = 1; k < 11; k++)
        p = fma(p, z, inverse_odd[k]);
    double tail = 2 * s * z * p; /* 2 atanh s - 2 s */
    return fma((double) e, LN2_HI, fma((double) e, LN2_LO, tail) + 2 * s);
}

double BUILD(math__exp)(double x)
{
    if (x < -700)
        return 0;
    if (x > 709)
        return INFINITY;
    double n = rint(x * 0x1.71547652b82fep+0);
    double r = fma(-n, LN2_LO, fma(-n, LN2_HI, x));
    double p = inverse_factorial[13];
    for (int k = 12; k >= 0; k--)
        p = fma(p, r, inverse_factorial[k]);
    uint64_t u = (uint64_t) ((int64_t) n + 1023) << 52;
    double scale;
    memcpy(&scale, &u, sizeof scale);
    return p * scale;
}

#ifndef MATH_FMA

double math_log(double x)
{
    return __builtin_cpu_supports("fma") ? math__log_fma(x) : math__log_plain(x);
}

double math_exp(double x)
{
    return __builtin_cpu_supports("fma") ? math__exp_fma(x) : math__exp_plain(x);
}

#endif
