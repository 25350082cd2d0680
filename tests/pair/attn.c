/* attn.c - pair test: attention of every table against the twin, bit for bit, and their times side by side.
 *
 * Pages are filled with NaN where no settled key lies: what leaks from there shows.  The same keys are also put into the
 * tail instead of pages: a row must get the same bits wherever its keys lie, and whichever rows it shares its pages with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/kerns.h"

enum { PAGE = 64 };

static struct kern table[KERNS_MAX];
static int n_tables;

/* A job and what it borrows.  key and value: (n, dim) floats, already rounded to the KV type. */
struct problem {
    struct attn_job job;
    int bf16, n, n_pages;
    float *q, *key, *value;
    void **k_page, **v_page, **k_tail, **v_tail;
};

static void *get(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}

static void put(void *to, int64_t i, float x, int bf16)
{
    if (bf16)
        ((uint16_t *) to)[i] = cpu__bf16_from_f32(x);
    else
        ((float *) to)[i] = x;
}

/* Lays keys [0, settled) out in pages and the rest as tail rows; everything else in the pages is NaN. */
static void lay_out(struct problem *t, int n_tail)
{
    int dim = t->job.head_dim, settled = t->n - n_tail;
    size_t size = t->bf16 ? 2 : 4;
    t->n_pages = (settled + PAGE - 1) / PAGE;
    t->k_page = get(sizeof(void *) * (size_t) t->n_pages);
    t->v_page = get(sizeof(void *) * (size_t) t->n_pages);
    for (int p = 0; p < t->n_pages; p++) {
        t->k_page[p] = get((size_t) (dim * PAGE) * size);
        t->v_page[p] = get((size_t) (dim * PAGE) * size);
        for (int at = 0; at < PAGE; at++)
            for (int d = 0; d < dim; d++) {
                int i = p * PAGE + at, there = i < settled;
                put(t->k_page[p], d * PAGE + at, there ? t->key[i * dim + d] : NAN, t->bf16);
                put(t->v_page[p], at * dim + d, there ? t->value[i * dim + d] : NAN, t->bf16);
            }
    }
    t->k_tail = get(sizeof(void *) * (size_t) n_tail);
    t->v_tail = get(sizeof(void *) * (size_t) n_tail);
    for (int i = 0; i < n_tail; i++) {
        t->k_tail[i] = get((size_t) dim * size);
        t->v_tail[i] = get((size_t) dim * size);
        for (int d = 0; d < dim; d++) {
            put(t->k_tail[i], d, t->key[(settled + i) * dim + d], t->bf16);
            put(t->v_tail[i], d, t->value[(settled + i) * dim + d], t->bf16);
        }
    }
    t->job.n_tail = n_tail;
    t->job.k_page = (const void *const *) t->k_page;
    t->job.v_page = (const void *const *) t->v_page;
    t->job.k_tail = (const void *const *) t->k_tail;
    t->job.v_tail = (const void *const *) t->v_tail;
}

static void take_down(struct problem *t)
{
    for (int i = 0; i < t->n_pages; i++)
        free(t->k_page[i]), free(t->v_page[i]);
    for (int i = 0; i < t->job.n_tail; i++)
        free(t->k_tail[i]), free(t->v_tail[i]);
    free(t->k_page), free(t->v_page), free(t->k_tail), free(t->v_tail);
}

static struct problem make(int bf16, int group, int dim, int start, int pos, uint64_t *rng, int wild)
{
    struct problem t = {.bf16 = bf16, .n = pos - start + 1};
    size_t cells = (size_t) t.n * (size_t) dim;
    t.job = (struct attn_job){.group = group, .head_dim = dim, .start = start, .pos = pos};
    t.q = get((size_t) (group * dim) * 4);
    t.key = get(cells * 4);
    t.value = get(cells * 4);
    for (int i = 0; i < group * dim; i++)
        t.q[i] = kerns_normal(rng) * (wild ? 8 : 1);
    for (size_t i = 0; i < cells; i++) {
        t.key[i] = wild && kerns_below(rng, 8) == 0 ? kerns_wild(rng) * 0x1p-38f : kerns_normal(rng);
        t.value[i] = wild ? kerns_wild(rng) * 0x1p-38f : kerns_normal(rng);
    }
    t.job.q = t.q;
    return t;
}

static float *attend(const struct kern *k, struct problem *t)
{
    size_t group = (size_t) t->job.group, padded = (size_t) (t->n + 15) / 16 * 16;
    t->job.score = get(group * padded * 4);
    t->job.out = get(group * (size_t) t->job.head_dim * 4);
    (t->bf16 ? k->attn_bf16 : k->attn_f32)(&t->job, 1);
    free(t->job.score);
    return t->job.out;
}

static void expect(const struct kern *k, const struct problem *t, const float *want, float *got)
{
    long at = kerns_differ(want, got, (size_t) (t->job.group * t->job.head_dim));
    if (at >= 0)
        fail_msg("%s %s: group %d, head_dim %d, positions %d..%d, tail %d: head %ld element %ld is %a, the "
                 "twin says %a",
                 k->name, t->bf16 ? "attn_bf16" : "attn_f32", t->job.group, t->job.head_dim, t->job.start,
                 t->job.pos, t->job.n_tail, at / t->job.head_dim, at % t->job.head_dim, (double) got[at],
                 (double) want[at]);
    free(got);
}

/* The same row with n_tail of its keys in flight, and with all of them (most 64) or none. */
static void check(struct problem *t, int n_tail)
{
    int tails[] = {n_tail, t->n < PAGE ? t->n : PAGE, 0};
    float *want = NULL;
    for (int i = 0; i < 3; i++) {
        lay_out(t, tails[i]);
        float *twin = attend(&table[0], t);
        if (want)
            expect(&table[0], t, want, twin);
        else
            want = twin;
        for (int j = 1; j < n_tables; j++)
            expect(&table[j], t, want, attend(&table[j], t));
        take_down(t);
    }
    free(want);
    free(t->q), free(t->key), free(t->value);
}

static void random_jobs(void **state)
{
    static const int dims[] = {128, 64, 80, 32, 2, 96, 128, 256, 50}, groups[] = {2, 1, 4, 5, 8, 2, 3, 16};
    uint64_t rng = 1;
    (void) state;
    for (int i = 0; i < 200; i++) {
        int start = kerns_below(&rng, 3) * PAGE, pos = start + kerns_below(&rng, 200);
        struct problem t = make(i % 2, groups[kerns_below(&rng, 8)], dims[kerns_below(&rng, 9)], start, pos,
                                &rng, i % 3 == 0);
        check(&t, 1 + kerns_below(&rng, t.n < PAGE ? t.n : PAGE));
    }
}

/* Rows of one sequence in one call, each with queries, a number of settled keys and a tail of its own, over one set of
 * pages: what each would get alone. */
static void crowds(void **state)
{
    enum { ROWS = 12, TAIL = 20 };
    static const int dims[] = {128, 64, 50, 256, 32}, groups[] = {2, 1, 5, 8, 3};
    uint64_t rng = 6;
    (void) state;
    for (int i = 0; i < 60; i++) {
        int start = kerns_below(&rng, 2) * 960, rows = 1 + kerns_below(&rng, ROWS), tree = i % 2;
        int group = groups[kerns_below(&rng, 5)], dim = dims[kerns_below(&rng, 5)],
            most = 1 + kerns_below(&rng, 150);
        struct problem t = make(i % 4 < 2, group, dim, start, start + most + TAIL - 1, &rng, 0);
        struct problem row[ROWS];
        struct attn_job job[ROWS];
        lay_out(&t, TAIL);
        for (int r = 0; r < rows;
             r++) { /* nodes of a tree, or a prompt chunk's rows with ever more settled keys */
            int settled = tree          ? most
                          : most > rows ? most - rows + r
                                        : most,
                tail = tree ? 1 + kerns_below(&rng, TAIL) : 0;
            row[r] = t;
            row[r].n = settled + tail;
            row[r].q = get((size_t) (group * dim) * 4);
            for (int d = 0; d < group * dim; d++)
                row[r].q[d] = kerns_normal(&rng);
            row[r].job.q = row[r].q;
            row[r].job.pos = start + settled + tail - 1;
            row[r].job.n_tail = tail;
        }
        for (int k = 0; k < n_tables; k++) {
            for (int r = 0; r < rows; r++) {
                job[r] = row[r].job;
                job[r].score = get((size_t) (group * (row[r].n + 15)) * 4);
                job[r].out = get((size_t) (group * dim) * 4);
            }
            (t.bf16 ? table[k].attn_bf16 : table[k].attn_f32)(job, rows);
            for (int r = 0; r < rows; r++) {
                float *alone = attend(&table[0], &row[r]);
                expect(&table[k], &row[r], alone, job[r].out);
                free(alone), free(job[r].score);
            }
        }
        for (int r = 0; r < rows; r++)
            free(row[r].q);
        take_down(&t);
        free(t.q), free(t.key), free(t.value);
    }
}

/* Positions across multiples of 1024, where the output's sums restart; the tail may lie across one. */
static void across_chunks(void **state)
{
    static const int at[][3] = {/* start, pos, tail */
                                {0, 1023, 3},    {0, 1024, 1},   {0, 1030, 20},     {960, 1100, 7},
                                {1024, 1090, 9}, {0, 2047, 64},  {0, 2060, 30},     {576, 3100, 12},
                                {1984, 2050, 0}, {64, 1024, 63}, {31744, 32800, 33}};
    uint64_t rng = 2;
    (void) state;
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            struct problem t =
                make(bf16, i % 2 ? 2 : 3, i % 3 ? 32 : 80, at[i][0], at[i][1], &rng, i % 2 == 0);
            check(&t, at[i][2]);
        }
}

/* Scores far apart, so that exp is exactly 0; values of -0, whose sum is +0 (NUMERICS.md); one key alone. */
static void edges(void **state)
{
    uint64_t rng = 3;
    (void) state;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct problem t = make(bf16, 4, 64, 0, 90, &rng, 0);
        for (int i = 0; i < 91 * 64; i++)
            t.key[i] *= 300;
        for (int i = 0; i < 91 * 64; i += 3)
            t.value[i] = -0.0f;
        for (int i = 0; i < 91; i++)
            t.value[i * 64 + 5] = -0.0f;
        check(&t, 5);
        t = make(bf16, 2, 128, 64, 64, &rng, 0);
        check(&t, 1);
    }
}

/* A key or value that is not finite must come out as the twin has it: NaN is never lost on the way. */
static void not_finite(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    uint64_t rng = 4;
    (void) state;
    for (int i = 0; i < 36; i++) {
        struct problem t = make(i % 2, 2, 32, 0, 70, &rng, 0);
        (i % 4 < 2 ? t.key : t.value)[kerns_below(&rng, 71 * 32)] = bad[i % 3];
        check(&t, 3);
    }
}

static double seconds(const struct kern *k, struct problem *t)
{
    double best = 1e9;
    for (double end = kerns_now() + 2e-3; kerns_now() < end || best > 1;) {
        double at = kerns_now();
        free(attend(k, t));
        at = kerns_now() - at;
        best = at < best ? at : best;
    }
    return best;
}

static void times(void **state)
{
    static const int shape[][3] = {
        /* group, pos, tail */ {2, 200, 1}, {2, 200, 8}, {2, 2000, 4}, {4, 1000, 4}, {5, 1000, 4}};
    uint64_t rng = 5;
    (void) state;
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
            struct problem t = make(bf16, shape[i][0], 128, 0, shape[i][1], &rng, 0);
            lay_out(&t, shape[i][2]);
            double twin = seconds(&table[0], &t);
            printf("%s group %d, %4d keys, tail %d: twin %7.0f us", bf16 ? "attn_bf16" : "attn_f32 ",
                   shape[i][0], t.n, shape[i][2], twin * 1e6);
            for (int j = 1; j < n_tables; j++) {
                double s = seconds(&table[j], &t);
                printf("  %s %.1f us x%.1f", table[j].name, s * 1e6, twin / s);
            }
            printf("\n");
            take_down(&t);
            free(t.q), free(t.key), free(t.value);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_jobs),   cmocka_unit_test(crowds),
                                       cmocka_unit_test(across_chunks), cmocka_unit_test(edges),
                                       cmocka_unit_test(not_finite),    cmocka_unit_test(times)};
    n_tables = kerns_list(table);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
