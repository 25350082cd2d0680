/* rows.c - pair test: quantize, rmsnorm, rope, silu_mul, add and add_scaled of every table against the twin, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/kerns.h"

static struct kern table[KERNS_MAX];
static int n_tables;

static float *get(int n)
{
    float *p = malloc(sizeof *p * (size_t) (n ? n : 1));
    assert_non_null(p);
    return p;
}

static float *numbers(int n, uint64_t *rng, int wild)
{
    float *p = get(n);
    for (int i = 0; i < n; i++)
        p[i] = wild ? kerns_wild(rng) : kerns_normal(rng);
    return p;
}

static float *copy(const float *p, int n)
{
    return memcpy(get(n), p, sizeof *p * (size_t) n);
}

static void same(const struct kern *k, const char *what, int n, const float *want, const float *got)
{
    long at = kerns_differ(want, got, (size_t) n);
    if (at >= 0)
        fail_msg("%s %s: n %d: element %ld is %a, the twin says %a", k->name, what, n, at, (double) got[at],
                 (double) want[at]);
}

struct quantized {
    int8_t *q;
    float *d;
    int32_t *sum;
};

static struct quantized quantized(const struct kern *k, const float *x, int n)
{
    struct quantized z = {malloc((size_t) n), get(n / 32), malloc((size_t) n / 32 * 4)};
    assert_true(z.q && z.sum);
    k->quantize(x, n, z.q, z.d, z.sum);
    return z;
}

static void drop(struct quantized *z)
{
    free(z->q);
    free(z->d);
    free(z->sum);
}

static void quantize_one(const float *x, int n)
{
    struct quantized want = quantized(&table[0], x, n);
    for (int i = 1; i < n_tables; i++) {
        struct quantized got = quantized(&table[i], x, n);
        same(&table[i], "quantize da", n / 32, want.d, got.d);
        assert_memory_equal(want.q, got.q, (size_t) n);
        assert_memory_equal(want.sum, got.sum, (size_t) n / 32 * 4);
        drop(&got);
    }
    drop(&want);
}

static void quantize(void **state)
{
    static const float odd[] = {
        0.0f,      -0.0f,     INFINITY,  -INFINITY, NAN,       0x1p-100f, 0x1.fffffep-101f,
        0x1p-149f, -0x1p127f, 0x1p-126f, 0x1p-101f, 0x1.fcp6f, 0x1p-99f};
    uint64_t rng = 1;
    (void) state;
    for (int i = 0; i < 300; i++) {
        int n = 32 * (1 + kerns_below(&rng, 40));
        float *x = numbers(n, &rng, i % 2);
        if (i % 3 == 0) /* something special, the largest or not, anywhere in a block */
            x[kerns_below(&rng, n)] = odd[kerns_below(&rng, sizeof odd / sizeof *odd)];
        quantize_one(x, n);
        free(x);
    }
    for (size_t i = 0; i < sizeof odd / sizeof *odd;
         i++) { /* blocks of one value alone, and of it and zeros */
        float x[64] = {0};
        for (int j = 0; j < 32; j++)
            x[j] = odd[i];
        x[32 + i] = odd[i];
        quantize_one(x, 64);
    }
}

/* Halves: q lies exactly between two integers, where only rounding to even agrees with the twin. */
static void quantize_ties(void **state)
{
    float x[32];
    (void) state;
    for (int i = 0; i < 32; i++)
        x[i] = (float) (i - 16) + 0.5f;
    x[31] = 127;
    quantize_one(x, 32);
}

static void rmsnorm(void **state)
{
    uint64_t rng = 2;
    (void) state;
    for (int i = 0; i < 400; i++) {
        int n = i < 70 ? i + 1 : 1 + kerns_below(&rng, 4096);
        float *x = numbers(n, &rng, i % 2), *w = numbers(n, &rng, 0), *want = get(n), *got = get(n);
        table[0].rmsnorm(x, w, n, 1e-6f, want);
        for (int j = 1; j < n_tables; j++) {
            table[j].rmsnorm(x, w, n, 1e-6f, got);
            same(&table[j], "rmsnorm", n, want, got);
        }
        memcpy(got, x, sizeof *x * (size_t) n); /* in place */
        table[n_tables - 1].rmsnorm(got, w, n, 1e-6f, got);
        same(&table[n_tables - 1], "rmsnorm in place", n, want, got);
        free(x), free(w), free(want), free(got);
    }
}

static void rope(void **state)
{
    uint64_t rng = 3;
    (void) state;
    for (int i = 0; i < 300; i++) {
        int n = 2 * (1 + (i < 130 ? i : kerns_below(&rng, 128)));
        float *x = numbers(n, &rng, i % 2), *c = numbers(n / 2, &rng, 0), *s = numbers(n / 2, &rng, 0);
        float *want = copy(x, n);
        table[0].rope(want, n, c, s);
        for (int j = 1; j < n_tables; j++) {
            float *got = copy(x, n);
            table[j].rope(got, n, c, s);
            same(&table[j], "rope", n, want, got);
            free(got);
        }
        free(x), free(c), free(s), free(want);
    }
}

static void silu_one(const float *gate, const float *up, int n)
{
    float *want = get(n), *got = get(n);
    table[0].silu_mul(gate, up, n, want);
    for (int j = 1; j < n_tables; j++) {
        table[j].silu_mul(gate, up, n, got);
        same(&table[j], "silu_mul", n, want, got);
    }
    free(want), free(got);
}

/* All exponents' bits by steps, so that every branch of exp is met: below -87, above 88, denormal, NaN, infinity. */
static void silu_sweep(void **state)
{
    enum { N = 4099 };
    uint64_t rng = 4;
    float *gate = get(N), *up = numbers(N, &rng, 0);
    (void) state;
    for (uint64_t bits = 0; bits < 1ull << 32; bits += 4096ull * 131) {
        for (int i = 0; i < N; i++) {
            uint32_t b = (uint32_t) (bits + (uint64_t) i * 131);
            memcpy(gate + i, &b, 4);
        }
        silu_one(gate, up, N);
    }
    free(gate), free(up);
}

static void silu_edges(void **state)
{
    static const float edge[] = {-87.0f, 87.0f,    88.0f,     -88.0f, 0.0f,
                                 -0.0f,  INFINITY, -INFINITY, NAN,    0x1p-149f};
    uint64_t rng = 5;
    float gate[90], *up = numbers(90, &rng, 1);
    (void) state;
    for (int i = 0; i < 90; i++) {
        float x = edge[i / 9];
        for (int step = 0; step < abs(i % 9 - 4); step++)
            x = nextafterf(x, i % 9 < 4 ? -1000.0f : 1000.0f);
        gate[i] = x;
    }
    for (int n = 1; n <= 90; n++)
        silu_one(gate, up, n);
    free(up);
}

static void add(void **state)
{
    uint64_t rng = 6;
    (void) state;
    for (int n = 1; n < 200; n++) {
        float *x = numbers(n, &rng, n % 2), *y = numbers(n, &rng, 1), *want = copy(x, n);
        table[0].add(want, y, n);
        for (int j = 1; j < n_tables; j++) {
            float *got = copy(x, n);
            table[j].add(got, y, n);
            same(&table[j], "add", n, want, got);
            free(got);
        }
        free(x), free(y), free(want);
    }
}

static void add_scaled(void **state)
{
    uint64_t rng = 7;
    (void) state;
    for (int n = 1; n < 200; n++) {
        float *x = numbers(n, &rng, n % 2), *y = numbers(n, &rng, n % 3 == 0), *want = copy(x, n);
        float by = n % 5 ? kerns_normal(&rng) : kerns_wild(&rng);
        table[0].add_scaled(want, y, by, n);
        for (int j = 1; j < n_tables; j++) {
            float *got = copy(x, n);
            table[j].add_scaled(got, y, by, n);
            same(&table[j], "add_scaled", n, want, got);
            free(got);
        }
        free(x), free(y), free(want);
    }
}

/* One stream and four, any distance apart, off any alignment but a word's. */
static void sift(void **state)
{
    enum { WORDS = 64 * 40 };
    static uint32_t word[WORDS];
    uint64_t rng = 8;
    (void) state;
    for (int i = 0; i < WORDS; i++)
        word[i] = (uint32_t) kerns_next(&rng);
    for (int n = 64; n <= 512; n += 64)
        for (int streams = 1; streams <= 4; streams += 3) {
            size_t stride = (size_t) kerns_below(&rng, (WORDS - n) / 4),
                   from = (size_t) kerns_below(&rng, 16);
            from = from + 3 * stride + (size_t) n > WORDS ? 0 : from;
            uint32_t want = table[0].sift(word + from, (size_t) n, stride, streams);
            for (int j = 1; j < n_tables; j++)
                assert_int_equal(table[j].sift(word + from, (size_t) n, stride, streams), want);
        }
    assert_int_equal(table[0].sift(word, 64, 64, 4), table[0].sift(word, 256, 0, 1));
}

enum { TIMED = 1024 };

static void run_entry(const struct kern *k, int entry, float *x, const float *y, float *out)
{
    int8_t q[TIMED];
    float d[TIMED / 32];
    int32_t sum[TIMED / 32];
    if (entry == 0)
        k->quantize(x, TIMED, q, d, sum);
    else if (entry == 1)
        k->rmsnorm(x, y, TIMED, 1e-6f, out);
    else if (entry == 2)
        k->rope(memcpy(out, x, sizeof *x * 128), 128, x, y);
    else if (entry == 3)
        k->silu_mul(x, y, TIMED, out);
    else if (entry == 4)
        k->add(out, y, TIMED);
    else
        k->add_scaled(out, y, 0.25f, TIMED);
}

static double seconds(const struct kern *k, int entry, float *x, const float *y, float *out)
{
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        double at = kerns_now();
        for (int j = 0; j < 10; j++)
            run_entry(k, entry, x, y, out);
        at = (kerns_now() - at) / 10;
        best = at < best ? at : best;
    }
    return best;
}

static void times(void **state)
{
    static const char *const name[] = {"quantize", "rmsnorm", "rope 128", "silu_mul", "add", "add_scaled"};
    uint64_t rng = 7;
    float *x = numbers(TIMED, &rng, 0), *y = numbers(TIMED, &rng, 0), *out = numbers(TIMED, &rng, 0);
    (void) state;
    for (int entry = 0; entry < 6; entry++) {
        double twin = seconds(&table[0], entry, x, y, out);
        printf("%-10s of 1024: twin %7.2f us", name[entry], twin * 1e6);
        for (int i = 1; i < n_tables; i++)
            printf("  %s x%.1f", table[i].name, twin / seconds(&table[i], entry, x, y, out));
        printf("\n");
    }
    free(x), free(y), free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantize), cmocka_unit_test(quantize_ties), cmocka_unit_test(rmsnorm),
        cmocka_unit_test(rope),     cmocka_unit_test(silu_sweep),    cmocka_unit_test(silu_edges),
        cmocka_unit_test(add),      cmocka_unit_test(add_scaled),    cmocka_unit_test(sift),
        cmocka_unit_test(times),
    };
    n_tables = kerns_list(table);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
