/* explog.c - core/math.h against libm's long double: a last bit of difference here could change a drawn word, so what these two
 * give is fixed; how far they are from the truth is bounded by what core/math.h says. */
#include "core/math.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tests/lib/synth.h"

/* |got - want| in units of want's last place as a double. */
static double ulps(double got, long double want)
{
    if (want == 0)
        return got == 0 ? 0 : INFINITY;
    int e = ilogbl(want);
    return (double) (fabsl((long double) got - want) / ldexpl(1, (e < -1022 ? -1022 : e) - 52));
}

static double from_bits(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Both builds, where this machine can run both. */
static void same(double plain, double fused)
{
    assert_memory_equal(&plain, &fused, sizeof plain);
}

static int has_fma(void)
{
    return __builtin_cpu_supports("fma");
}

static double worst_log;

static void try_log(double x)
{
    same(math__log_plain(x), has_fma() ? math__log_fma(x) : math_log(x));
    worst_log = fmax(worst_log, ulps(math_log(x), logl((long double) x)));
}

static void log_is_near(void **state)
{
    uint64_t dice = 5;
    (void) state;
    for (int i = 0; i < 400000; i++) { /* every finite positive double is as likely */
        uint64_t u = synth_next(&dice) % 0x7ff0000000000000;
        try_log(from_bits(u ? u : 1));
    }
    for (int i = 1; i < 200000; i++) { /* around 1, where the logarithm crosses 0 */
        try_log(1 + i * 0x1p-18);
        try_log(1 - i * 0x1p-18 * 0.99);
        try_log(1 + i * DBL_EPSILON);
        try_log(1 - i * DBL_EPSILON / 2);
    }
    for (int i = 0; i < 4000; i++) { /* around the seams of the reduction */
        try_log(from_bits(0x3fe6a09e667f3bcdu - 2000 + (uint64_t) i));
        try_log(from_bits(0x3ff6a09e667f3bcdu - 2000 + (uint64_t) i));
        try_log(from_bits(1 + (uint64_t) i));                          /* the least denormals */
        try_log(from_bits(0x0010000000000000u - 2000 + (uint64_t) i)); /* and their end */
        try_log(from_bits(0x7fefffffffffffffu - (uint64_t) i));
    }
    print_message("math_log: off by %.3f ulp at most\n", worst_log);
    assert_true(worst_log < 2);
    assert_true(math_log(1) == 0);
}

static double worst_exp;

static void try_exp(double x)
{
    same(math__exp_plain(x), has_fma() ? math__exp_fma(x) : math_exp(x));
    worst_exp = fmax(worst_exp, ulps(math_exp(x), expl((long double) x)));
}

static void exp_is_near(void **state)
{
    uint64_t dice = 6;
    (void) state;
    for (double x = -700; x <= 709; x += 0.00317)
        try_exp(x);
    for (int i = 0; i < 200000; i++) {
        int tiny = (int) (synth_next(&dice) >> 58);
        try_exp(ldexp((double) synth_uniform(&dice), -tiny));
    }
    for (int n = -1009; n <= 1022; n++) /* beside the halves of ln 2, where the reduction turns over */
        for (int i = -2; i <= 2; i++)
            try_exp((n + 0.5) * 0.6931471805599453 + i * 1e-13);
    print_message("math_exp: off by %.3f ulp at most\n", worst_exp);
    assert_true(worst_exp < 1);
    assert_true(math_exp(0) == 1);
}

static void exp_ends_where_it_says(void **state)
{
    (void) state;
    assert_true(math_exp(-700) > 0);
    assert_true(math_exp(nextafter(-700, -INFINITY)) == 0);
    assert_true(math_exp(-INFINITY) == 0);
    assert_true(isfinite(math_exp(709)));
    assert_true(isinf(math_exp(nextafter(709, INFINITY))));
    assert_true(isinf(math_exp(INFINITY)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(log_is_near), cmocka_unit_test(exp_is_near),
                                       cmocka_unit_test(exp_ends_where_it_says)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
