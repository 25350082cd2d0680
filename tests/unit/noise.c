/* noise.c - the dice: Philox by its published vectors, Gumbel noise by pinned bits, its bound by trying. */
#include "core/math.h"
#include "draw/internal.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

/* Known answers of Random123 (kat_vectors, philox4x32 with 10 rounds). */
static void philox_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void) state;
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t out[4];
        draw_philox(kat[i].counter, kat[i].key, out);
        assert_memory_equal(out, kat[i].out, sizeof out);
    }
}

/* G(seed, choice, k, v), computed apart from this source in 60 decimal digits and rounded once to float.  Part of the numerics
 * version: whoever changes one of these changes every text. */
static const struct {
    uint64_t seed;
    uint32_t choice, k, v, bits;
} pinned[32] = {
    {0x0000000000000000, 0, 0, 0, 0xbe6daa2a},
    {0x0000000000000000, 0, 0, 1, 0xbf66befc},
    {0x0000000000000000, 0, 0, 2, 0xbd2365e8},
    {0x0000000000000000, 0, 0, 3, 0x40349a30},
    {0x0000000000000001, 0, 0, 0, 0x3f03dfda},
    {0x0000000000000000, 1, 0, 0, 0xbf32eb86},
    {0x0000000000000000, 0, 1, 0, 0x3f8f7d9c},
    {0x0000000000000000, 0, 0, 4, 0x3dc9061b},
    {0x0000000100000000, 0, 0, 0, 0x3f9090dc},
    {0xffffffffffffffff, 4294967295, 4294967295, 4294967295, 0x3f8b8887},
    {0x91b7584a2265b1f5, 0, 4096, 30911, 0xbe000ef4},
    {0xc2ce6f447ed4d57b, 7, 40959, 99513, 0xbdb1a964},
    {0x35bf992dc9e9c616, 0, 40959, 7431, 0x40a8cb04},
    {0xd5f4b3b2e4b06ce6, 7, 40959, 552, 0x3f812092},
    {0x7204e52db2221a58, 1, 777, 26798, 0x3f0f8df7},
    {0x51431193e6c3f339, 0, 12, 6670, 0x3e73f3db},
    {0x8a9a021ea648a7dd, 0, 40959, 56780, 0x3f758ad4},
    {0x6c0fd4f5f8130c42, 0, 131071, 58115, 0x3fdf5261},
    {0x701966a0c381e88f, 7, 131071, 61101, 0x3fa13bb9},
    {0x3b1a11df587fd280, 0, 40959, 75964, 0x3e64685b},
    {0x05805975ed2f89d9, 7, 131071, 26214, 0x3eab72b0},
    {0xa11d459a2f978d87, 1, 12, 87214, 0xbf10c926},
    {0xb8b333a8e5446dd4, 7, 131071, 49767, 0xbde7f037},
    {0x48beab134da98f1d, 7, 131071, 103115, 0x3f787ba5},
    {0xda71144896c8da19, 0, 40959, 63632, 0x3f01de2f},
    {0xcc22af58be6521cc, 7, 40959, 45352, 0x3f8c910a},
    {0x8c7e134f5dfbd3d1, 1, 12, 115071, 0xbe88c956},
    {0x82283d15a9ec0806, 0, 777, 136560, 0xbe828548},
    {0x64ac5db9d707107e, 1, 40959, 7752, 0x3f0631d0},
    {0x0b21fbac78255d68, 1, 131071, 151565, 0x3f6150f0},
    {0xa5ac06d864c2f2e3, 0, 777, 131658, 0xbf88ca2a},
    {0xfb695ffb3a1890c7, 0, 777, 141457, 0xbf2c7163},
};

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static void pinned_noise(void **state)
{
    (void) state;
    for (int i = 0; i < 32; i++) {
        float g = draw_noise(pinned[i].seed, pinned[i].choice, pinned[i].k, pinned[i].v);
        if (bits_of(g) != pinned[i].bits)
            fail_msg("value %d is %08x, not %08x", i, bits_of(g), pinned[i].bits);
    }
}

/* -log(-log(1 - w)) in long double; w itself is defined in float. */
static long double gumbel(uint32_t x)
{
    float w = fminf(fmaf((float) x, 0x1p-32f, 0x1p-33f), 1 - 0x1p-24f);
    return -logl(-log1pl(-(long double) w));
}

static float worst_ulp;

static void try_word(uint32_t x)
{
    float g = draw__gumbel(x), bound = draw__gumbel_bound(x);
    long double want = gumbel(x);
    float ulp =
        fmaxf(nextafterf(fabsf(g), INFINITY) - fabsf(g), 0x1p-40f); /* at 0 the double's own error stands */
    worst_ulp = fmaxf(worst_ulp, (float) fabsl(((long double) g - want) / ulp));
    if (!(g <= bound) || !isfinite(g))
        fail_msg("word %08x: noise %a, bound %a", x, (double) g, (double) bound);
}

/* Every power of two and its neighbours, the ends, and many words between, small ones (large noise) as often as others. */
static void noise_is_near_and_bounded(void **state)
{
    uint64_t dice = 3;
    (void) state;
    for (int i = 0; i < 32; i++)
        for (int j = -300; j <= 300; j++)
            try_word((uint32_t) ((1u << i) + (uint32_t) j));
    for (uint32_t i = 0; i < 70000; i++) {
        try_word(i);
        try_word(~i);
    }
    for (int i = 0; i < 400000; i++) {
        uint64_t u = synth_next(&dice);
        try_word((uint32_t) u >> (u >> 59));
    }
    print_message("noise: off by %.3f ulp at most\n", (double) worst_ulp);
    assert_true(worst_ulp < 0.501f);
    assert_true(draw__gumbel(0) < 22.9f && draw__gumbel(0) > 22.8f);
    assert_true(draw__gumbel(UINT32_MAX) > -2.9f);
    for (uint32_t x = 1; x < 5000; x++) /* more is rarer: noise falls with the word */
        assert_true(draw__gumbel(x) < draw__gumbel(x - 1));
}

/* The words of four neighbours are one block, and every coordinate matters. */
static void noise_is_keyed(void **state)
{
    uint32_t w[4];
    (void) state;
    draw__words(0x123456789abcdef0, 3, 77, 1000, w);
    for (uint32_t i = 0; i < 4; i++)
        assert_true(draw_noise(0x123456789abcdef0, 3, 77, 4000 + i) == draw__gumbel(w[i]));
    float g = draw_noise(9, 1, 2, 3);
    assert_true(g == draw_noise(9, 1, 2, 3));
    assert_true(g != draw_noise(8, 1, 2, 3) && g != draw_noise(9, 0, 2, 3) && g != draw_noise(9, 1, 1, 3) &&
                g != draw_noise(9, 1, 2, 2) && g != draw_noise(9 + (1ull << 32), 1, 2, 3));
}

/* Mean 0.5772, variance pi^2 / 6: the shape is the right one. */
static void noise_has_the_right_moments(void **state)
{
    double sum = 0, squares = 0;
    enum { N = 200000 };
    (void) state;
    for (uint32_t v = 0; v < N; v++) {
        double g = draw_noise(42, 0, 1, v);
        sum += g;
        squares += g * g;
    }
    double mean = sum / N, variance = squares / N - mean * mean;
    assert_true(fabs(mean - 0.57722) < 0.01);
    assert_true(fabs(variance - 1.64493) < 0.03);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(philox_known_answers), cmocka_unit_test(pinned_noise),
                                       cmocka_unit_test(noise_is_near_and_bounded),
                                       cmocka_unit_test(noise_is_keyed),
                                       cmocka_unit_test(noise_has_the_right_moments)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
