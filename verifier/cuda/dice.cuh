/* dice.cuh - the arithmetic of the draw to the bit of draw/ and core/math.c: noise, logarithms, exponentials. */
#ifndef VERIFIER_CUDA_DICE_CUH
#define VERIFIER_CUDA_DICE_CUH

#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"

HOST_DEVICE uint64_t double_bits(double x)
{
    union {
        double f;
        uint64_t u;
    } v;
    v.f = x;
    return v.u;
}

HOST_DEVICE double bits_double(uint64_t u)
{
    union {
        uint64_t u;
        double f;
    } v;
    v.u = u;
    return v.f;
}

/* core/math.c: math_log, for finite x > 0. */
DEVICE double dice_log(double x)
{
    const double ln2_hi = 0x1.62e42fefa3800p-1, ln2_lo = 0x1.ef35793c76730p-45;
    uint64_t u = double_bits(x);
    int e = 0;
    if (u >> 52 == 0) {
        x *= 0x1p54;
        e = -54;
        u = double_bits(x);
    }
    e += (int) (u >> 52) - 1023;
    double m = bits_double((u & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    if (m >= 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        e++;
    }
    double f = m - 1, s = f / (2 + f), z = s * s, p = 1.0 / 23;
    for (int k = 21; k >= 3; k -= 2)
        p = fma(p, z, 1.0 / k);
    double tail = 2 * s * z * p;
    return fma((double) e, ln2_hi, fma((double) e, ln2_lo, tail) + 2 * s);
}

/* core/math.c: math_exp, for x <= 709. */
DEVICE double dice_exp(double x)
{
    const double ln2_hi = 0x1.62e42fefa3800p-1, ln2_lo = 0x1.ef35793c76730p-45;
    if (x < -700)
        return 0;
    double n = rint(x * 0x1.71547652b82fep+0), r = fma(-n, ln2_lo, fma(-n, ln2_hi, x));
    double p = 1.0 / 6227020800.0;
    p = fma(p, r, 1.0 / 479001600);
    p = fma(p, r, 1.0 / 39916800);
    p = fma(p, r, 1.0 / 3628800);
    p = fma(p, r, 1.0 / 362880);
    p = fma(p, r, 1.0 / 40320);
    p = fma(p, r, 1.0 / 5040);
    p = fma(p, r, 1.0 / 720);
    p = fma(p, r, 1.0 / 120);
    p = fma(p, r, 1.0 / 24);
    p = fma(p, r, 1.0 / 6);
    p = fma(p, r, 1.0 / 2);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    return p * bits_double((uint64_t) ((int64_t) n + 1023) << 52);
}

/* draw/logprob.c: exp_down, plain multiplications and additions, x <= 0. */
DEVICE double dice_exp_down(double x)
{
    const double magic = 0x1.8p52, log2_e = 0x1.71547652b82fep+0;
    const double ln2_hi = 0x1.62e42fefa3800p-1, ln2_lo = 0x1.ef35793c76730p-45;
    double c = x < -700 ? -700 : x, t = c * log2_e + magic, n = t - magic, r = (c - n * ln2_hi) - n * ln2_lo;
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
    return x < -700 ? 0 : p * bits_double((double_bits(t) + 1023) << 52);
}

/* Philox4x32-10, word v mod 4 of counter (v / 4, k, choice, "outr"): draw/noise.c. */
DEVICE uint32_t dice_word(uint32_t k0, uint32_t k1, uint32_t choice, uint32_t k, uint32_t v)
{
    uint32_t c0 = v / 4, c1 = k, c2 = choice, c3 = 0x6f757472u;
    for (int i = 0; i < 10; i++) {
        uint64_t a = (uint64_t) 0xD2511F53u * c0, b = (uint64_t) 0xCD9E8D57u * c2;
        c0 = (uint32_t) (b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t) b;
        c2 = (uint32_t) (a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t) a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return v % 4 == 0 ? c0 : v % 4 == 1 ? c1 : v % 4 == 2 ? c2 : c3;
}

DEVICE float dice_gumbel(uint32_t x)
{
    float w = fminf(fmaf((float) x, 0x1p-32f, 0x1p-33f), 1 - 0x1p-24f);
    return (float) -dice_log(-dice_log(1 - (double) w));
}

/* No gumbel of a word with so many leading zeros is more: draw/internal.h. */
DEVICE float dice_gumbel_bound(uint32_t x)
{
    return (float) ((x ? __clz((int) x) : 32) + 1) * 0.6931473f;
}

#endif
