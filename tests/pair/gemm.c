/* gemm.c - pair test: every gemm of every table against the twin, bit for bit, and their times side by side.
 *
 * Shapes are random and odd ones included, with panels [p0, p1) of a larger matrix; outputs outside must stay as they were.
 * Buffers are as long as the contract says and not a byte longer, so that a sanitizer build sees a read too far. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/inside.h"
#include "tests/lib/kerns.h"

enum kind { Q8, Q4, F32, BF16, F16, KINDS };
static const char *const kind_name[] = {"gemm_q8", "gemm_q4", "gemm_f32", "gemm_bf16", "gemm_f16"};

struct problem {
    int kind, k, panels, p0, p1, m;
    int64_t ldx, ldo;
    void *w;
    float *x;  /* (m, ldx) */
    int8_t *q; /* (m, k), and so on: rows quantized by the twin */
    float *d;
    int32_t *sum;
    struct q8_row *row; /* (m) */
};

static struct kern table[KERNS_MAX];
static int n_tables;

static void *get(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}

/* Weights: any byte, so int8 -128 too; scales of any finite FP16, denormals and negative ones too. */
static void fill_q8(struct problem *t, uint64_t *rng)
{
    size_t blocks = (size_t) t->panels * (size_t) t->k / Q8_BLOCK;
    struct q8_block *b = get(blocks * sizeof *b);
    int edge = kerns_below(rng, 4) == 0;
    for (size_t i = 0; i < blocks; i++) {
        for (int o = 0; o < PANEL; o++)
            b[i].scale[o] = (uint16_t) (kerns_below(rng, 0x7c00) | (kerns_below(rng, 2) << 15));
        for (size_t j = 0; j < sizeof b->w; j++)
            ((uint8_t *) b[i].w)[j] = edge ? (kerns_below(rng, 2) ? 255 : 0) : (uint8_t) kerns_next(rng);
    }
    t->w = b;
}

static void fill_q4(struct problem *t, uint64_t *rng)
{
    size_t blocks = (size_t) t->panels * (size_t) t->k / Q8_BLOCK;
    struct q4_block *b = get(blocks * sizeof *b);
    int edge = kerns_below(rng, 4) == 0;
    for (size_t i = 0; i < blocks; i++) {
        for (int o = 0; o < PANEL; o++)
            b[i].scale[o] = (uint16_t) (kerns_below(rng, 0x7c00) | (kerns_below(rng, 2) << 15));
        for (size_t j = 0; j < sizeof b->w; j++)
            ((uint8_t *) b[i].w)[j] = edge ? (kerns_below(rng, 2) ? 255 : 0) : (uint8_t) kerns_next(rng);
    }
    t->w = b;
}

static int blocks_of(int kind)
{
    return kind == Q8 || kind == Q4;
}

static void fill_float(struct problem *t, uint64_t *rng, int wild)
{
    size_t n = (size_t) t->panels * (size_t) t->k * PANEL;
    t->w = get(n * (t->kind == F32 ? 4 : 2));
    for (size_t i = 0; i < n; i++) {
        float v = wild ? kerns_wild(rng) : kerns_normal(rng);
        if (t->kind == F32)
            ((float *) t->w)[i] = v;
        else
            ((uint16_t *) t->w)[i] = t->kind == BF16 ? cpu__bf16_from_f32(v) : cpu__f16_from_f32(v);
    }
}

static void quantize_rows(struct problem *t, uint64_t *rng)
{
    size_t m = (size_t) t->m, k = (size_t) t->k;
    t->q = get(m * k);
    t->d = get(m * k / Q8_BLOCK * 4);
    t->sum = get(m * k / Q8_BLOCK * 4);
    for (size_t r = 0; r < m; r++) {
        t->row[r] = (struct q8_row){t->q + r * k, t->d + r * k / 32, t->sum + r * k / 32};
        table[0].quantize(t->x + (int64_t) r * t->ldx, t->k, t->q + r * k, t->d + r * k / 32,
                          t->sum + r * k / 32);
    }
    if (kerns_below(rng, 4) ==
        0) /* a block of all -127 or 127 against weights of -128: the largest sums there are */
        for (int i = 0; i < Q8_BLOCK; i++)
            t->q[i] = kerns_below(rng, 2) ? 127 : -127;
    t->sum[0] = 0;
    for (int i = 0; i < Q8_BLOCK; i++)
        t->sum[0] += t->q[i];
}

static struct problem make(int kind, int k, int panels, int m, uint64_t *rng, int wild)
{
    struct problem t = {.kind = kind, .k = k, .panels = panels, .m = m};
    t.p0 = kerns_below(rng, panels);
    t.p1 = t.p0 + 1 + kerns_below(rng, panels - t.p0);
    t.ldx = k + kerns_below(rng, 3);
    t.ldo = panels * PANEL + kerns_below(rng, 3);
    t.x = get(((size_t) (m - 1) * (size_t) t.ldx + (size_t) k) * 4);
    for (size_t i = 0; i < (size_t) (m - 1) * (size_t) t.ldx + (size_t) k; i++)
        t.x[i] = wild ? kerns_wild(rng) : kerns_normal(rng);
    t.row = get((size_t) m * sizeof *t.row);
    if (blocks_of(kind)) {
        (kind == Q8 ? fill_q8 : fill_q4)(&t, rng);
        quantize_rows(&t, rng);
    } else {
        fill_float(&t, rng, wild);
    }
    return t;
}

static void drop(struct problem *t)
{
    free(t->w);
    free(t->x);
    free(t->q);
    free(t->d);
    free(t->sum);
    free(t->row);
}

static size_t out_floats(const struct problem *t)
{
    return (size_t) (t->m - 1) * (size_t) t->ldo + (size_t) t->panels * PANEL;
}

/* Rows [r0, r0 + m) of the problem into their places of out. */
static void run_rows(const struct kern *k, const struct problem *t, int r0, int m, float *out,
                     struct gemm_room *room)
{
    out += r0 * t->ldo;
    if (t->kind == Q8)
        k->gemm_q8(t->w, t->k, t->p0, t->p1, t->row + r0, m, out, t->ldo, room);
    else if (t->kind == Q4)
        k->gemm_q4(t->w, t->k, t->p0, t->p1, t->row + r0, m, out, t->ldo, room);
    else if (t->kind == F32)
        k->gemm_f32(t->w, t->k, t->p0, t->p1, t->x + r0 * t->ldx, t->ldx, m, out, t->ldo);
    else
        (t->kind == BF16 ? k->gemm_bf16 : k->gemm_f16)(t->w, t->k, t->p0, t->p1, t->x + r0 * t->ldx, t->ldx,
                                                       m, out, t->ldo);
}

static float *blank(const struct problem *t)
{
    float *out = get(out_floats(t) * 4);
    for (size_t i = 0; i < out_floats(t); i++)
        out[i] = 12345.0f;
    return out;
}

static void expect(const struct kern *k, const struct problem *t, const float *want, const float *got)
{
    long at = kerns_differ(want, got, out_floats(t));
    if (at < 0)
        return;
    fail_msg("%s %s: k %d, panels [%d, %d) of %d, m %d: row %ld output %ld is %a, the twin says %a", k->name,
             kind_name[t->kind], t->k, t->p0, t->p1, t->panels, t->m, at / (long) t->ldo, at % (long) t->ldo,
             (double) got[at], (double) want[at]);
}

/* All rows at once; in two parts; the last row alone. */
static void check(const struct problem *t, uint64_t *rng)
{
    float *want = blank(t);
    run_rows(&table[0], t, 0, t->m, want, NULL);
    for (int i = 1; i < n_tables; i++) {
        int cut = kerns_below(rng, t->m);
        float *got = blank(t);
        run_rows(&table[i], t, 0, t->m, got, NULL);
        expect(&table[i], t, want, got);
        free(got);
        got = blank(t);
        run_rows(&table[i], t, 0, cut, got, NULL);
        run_rows(&table[i], t, cut, t->m - cut, got, NULL);
        run_rows(&table[i], t, t->m - 1, 1, got, NULL);
        expect(&table[i], t, want, got);
        free(got);
    }
    free(want);
}

static void try(int kind, int k, int panels, int m, uint64_t *rng, int wild)
{
    struct problem t = make(kind, k, panels, m, rng, wild);
    check(&t, rng);
    drop(&t);
}

static void every_row_count(void **state)
{
    uint64_t rng = 1;
    (void) state;
    for (int kind = 0; kind < KINDS; kind++)
        for (int m = 1; m <= 70; m++)
            try(kind, 96, 1 + m % 7, m, &rng, 0);
}

static void random_shapes(void **state)
{
    uint64_t rng = 2;
    (void) state;
    for (int kind = 0; kind < KINDS; kind++)
        for (int i = 0; i < 60; i++) {
            int k = blocks_of(kind) ? 32 * (1 + kerns_below(&rng, 40)) : 1 + kerns_below(&rng, 500);
            try(kind, k, 1 + kerns_below(&rng, 8), 1 + kerns_below(&rng, 40), &rng, i % 2);
        }
}

/* Long inputs: k is cut into stretches, and the outputs carry the sums from one to the next. */
static void long_inputs(void **state)
{
    uint64_t rng = 3;
    (void) state;
    for (int kind = 0; kind < KINDS; kind++) {
        try(kind, 4096, 3, 40, &rng, 0);
        try(kind, 12288, 1, 9, &rng, 1);
        try(kind, blocks_of(kind) ? 3072 : 3000, 4, 64, &rng, 0);
    }
    try(F32, 4095, 2, 7, &rng, 1);
    try(BF16, 33, 5, 17, &rng, 1);
    try(F16, 47, 4, 11, &rng, 1);
}

/* One room for all kernels and all calls of a problem, which must not meet what another packed; also one that is too small. */
static void rooms(void **state)
{
    enum { K = 1024, BYTES = 80 * K / 32 * 72 };
    uint64_t rng = 5;
    struct gemm_room room = {.packed = get(BYTES)};
    (void) state;
    for (int i = 0; i < 60; i++) {
        struct problem t = make(i % 2 ? Q8 : Q4, 32 * (1 + kerns_below(&rng, K / 32)), 5,
                                1 + kerns_below(&rng, 80), &rng, 0);
        float *want = blank(&t);
        run_rows(&table[0], &t, 0, t.m, want, NULL);
        room.rows = NULL;
        room.bytes = i % 5 ? BYTES : 100;
        for (int j = 1; j < n_tables; j++) {
            float *got = blank(&t);
            int cut = t.m / 2;
            run_rows(&table[j], &t, 0, cut, got, &room);
            run_rows(&table[j], &t, cut, t.m - cut, got, &room);
            expect(&table[j], &t, want, got);
            for (int again = 0; again < 2; again++) {
                run_rows(&table[j], &t, 0, t.m, got, &room);
                expect(&table[j], &t, want, got);
            }
            free(got);
        }
        free(want);
        drop(&t);
    }
    free(room.packed);
}

static double seconds(const struct kern *k, const struct problem *t, float *out)
{
    double best = 1e9;
    for (double end = kerns_now() + 2e-3; kerns_now() < end || best > 1;) {
        double at = kerns_now();
        run_rows(k, t, 0, t->m, out, NULL);
        at = kerns_now() - at;
        best = at < best ? at : best;
    }
    return best;
}

static void times(void **state)
{
    uint64_t rng = 4;
    (void) state;
    for (int kind = 0; kind < KINDS; kind++)
        for (int m = 1; m <= 16; m *= 4) {
            struct problem t = make(kind, 1024, 8, m, &rng, 0);
            t.p0 = 0, t.p1 = 8;
            float *out = blank(&t);
            double twin = seconds(&table[0], &t, out);
            printf("%-9s m %2d: twin %8.1f us", kind_name[kind], m, twin * 1e6);
            for (int i = 1; i < n_tables; i++)
                printf("  %s x%.1f", table[i].name, twin / seconds(&table[i], &t, out));
            printf("\n");
            free(out);
            drop(&t);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_row_count), cmocka_unit_test(random_shapes),
                                       cmocka_unit_test(long_inputs), cmocka_unit_test(rooms),
                                       cmocka_unit_test(times)};
    n_tables = kerns_list(table);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
