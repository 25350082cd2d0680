/* math.c - our own exp, sin and cos against libm, and the rotation's tables against their definition. */
#include "cpu/kern.h"
#include "cpu/math.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>

static void float_exp(void **state)
{
    (void) state;
    double worst = 0;
    for (float x = -87; x <= 88; x += 0.0011f) {
        double e = exp(x), ulp = ldexp(1, ilogb(e) - 23);
        worst = fmax(worst, fabs(cpu__exp(x) - e) / ulp);
    }
    print_message("cpu__exp: off by %.3f ulp at most\n", worst);
    assert_true(worst < 1);
    assert_true(cpu__exp(0) == 1);
    assert_true(cpu__exp(-87.00001f) == 0 && !signbit(cpu__exp(-87.00001f)));
    assert_true(cpu__exp(-INFINITY) == 0);
    assert_true(cpu__exp(89) == cpu__exp(88) && cpu__exp(INFINITY) == cpu__exp(88));
    assert_true(isnan(cpu__exp(NAN)));
}

static void double_sincos(void **state)
{
    (void) state;
    double s, c;
    for (double x = 0; x < 262144; x += 0.9173) {
        cpu__math_sincos(x, &s, &c);
        assert_true(fabs(s - sin(x)) < 3e-16 && fabs(c - cos(x)) < 3e-16);
    }
    for (int n = -1000; n < 1000; n++) { /* beside multiples of pi / 2, where one of the two is tiny */
        double x = (float) (n * 1.5707963267948966);
        cpu__math_sincos(x, &s, &c);
        assert_true(fabs(s - sin(x)) <= 4e-16 * fabs(sin(x)) && fabs(c - cos(x)) <= 4e-16 * fabs(cos(x)));
    }
}

/* theta^(2i/d) is rounded once, so the double result must round as the true one does; libm's double serves as that. */
static void rope_freqs(void **state)
{
    (void) state;
    static const float thetas[] = {10000, 1e6f, 5e6f};
    static const int dims[] = {2, 32, 64, 80, 128, 256};
    for (int t = 0; t < 3; t++)
        for (int d = 0; d < 6; d++) {
            float inv[128];
            cpu__rope_freqs(&(struct config){.rope_theta = thetas[t], .head_dim = dims[d]}, inv);
            for (int i = 0; i < dims[d] / 2; i++) {
                float power = (float) pow(thetas[t], (float) (2 * i) / (float) dims[d]);
                assert_true(inv[i] == 1 / power);
            }
        }
}

/* Against the formula in libm's double: kept below the ramp, slowed by the factor above it, between the two in between. */
static void rope_yarn(void **state)
{
    (void) state;
    struct config g = {.rope_theta = 1e6f, .head_dim = 128, .yarn = {4, 32, 1, 1.13862944f, 32768, 1}},
                  plain = g;
    float inv[64], was[64], c[64], s[64], c1[64], s1[64];
    plain.yarn.factor = 0;
    cpu__rope_freqs(&g, inv);
    cpu__rope_freqs(&plain, was);
    double low = floor(128 * log(32768 / (32 * 2 * M_PI)) / (2 * log(1e6)));
    double high = ceil(128 * log(32768 / (2 * M_PI)) / (2 * log(1e6)));
    assert_true(low == 23 && high == 40);
    for (int i = 0; i < 64; i++) {
        double r = fmin(fmax((i - low) / (high - low), 0), 1);
        assert_true(fabs(inv[i] / (was[i] * (1 - r) + was[i] / 4 * r) - 1) < 4e-7);
        assert_true(i > low || inv[i] == was[i]);
        assert_true(i < high || inv[i] == was[i] / 4);
    }
    cpu__rope_angles(inv, 64, 131071, 1, c1, s1);
    cpu__rope_angles(inv, 64, 131071, g.yarn.attention_factor, c, s);
    for (int i = 0; i < 64; i++) {
        assert_true(c[i] == c1[i] * g.yarn.attention_factor && s[i] == s1[i] * g.yarn.attention_factor);
        assert_true(fabs(c1[i] - cos(131071.0f * inv[i])) < 1e-7);
    }
}

static void rope_angles(void **state)
{
    (void) state;
    float inv[64], c[64], s[64];
    cpu__rope_freqs(&(struct config){.rope_theta = 1e6f, .head_dim = 128}, inv);
    for (int pos = 0; pos < 262144; pos += 997) {
        cpu__rope_angles(inv, 64, pos, 1, c, s);
        for (int i = 0; i < 64; i++) {
            float angle = (float) pos * inv[i];
            assert_true(c[i] == (float) cos(angle) && s[i] == (float) sin(angle));
        }
    }
}

static void half_floats(void **state)
{
    (void) state;
    assert_true(cpu__f16_to_f32(0x3c00) == 1 && cpu__f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(cpu__f16_to_f32(0x03ff) == 0x1.ff8p-15f && cpu__f16_to_f32(0xfbff) == -65504);
    assert_true(isinf(cpu__f16_to_f32(0x7c00)) && isnan(cpu__f16_to_f32(0x7e00)));
    assert_int_equal(cpu__bf16_from_f32(1 + 0x1p-8f), 0x3f80);   /* a tie goes to even */
    assert_int_equal(cpu__bf16_from_f32(1 + 0x1.8p-7f), 0x3f82); /* likewise, upward */
    assert_int_equal(cpu__bf16_from_f32(3.4e38f), 0x7f80);       /* past the largest */
    assert_true(isnan(cpu__bf16_to_f32(cpu__bf16_from_f32(NAN))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(float_exp),   cmocka_unit_test(double_sincos),
                                       cmocka_unit_test(rope_freqs),  cmocka_unit_test(rope_yarn),
                                       cmocka_unit_test(rope_angles), cmocka_unit_test(half_floats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
