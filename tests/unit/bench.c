/* bench.c - the pure parts of `outrider bench`: percentiles, schedules, figures from records, datasets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/bench_figures.h"

#define MS (INT64_C(1000000))

static void near(double got, double want)
{
    if (!(got > want - 1e-9 && got < want + 1e-9))
        fail_msg("got %.12g, expected %.12g", got, want);
}

/* --- numbers --- */

static void percentiles_are_nearest_ranks(void **state)
{
    (void) state;
    double v[200];
    for (int i = 0; i < 200; i++)
        v[i] = i + 1;
    const struct {
        size_t n;
        double p, want;
    } cases[] = {{1, 50, 1},     {1, 99, 1},    {2, 50, 1},    {2, 51, 2},     {3, 50, 2},     {4, 50, 2},
                 {10, 90, 9},    {10, 91, 10},  {10, 99, 10},  {100, 99, 99},  {101, 99, 100}, {100, 1, 1},
                 {200, 99, 198}, {200, 0.5, 1}, {200, 0.6, 2}, {200, 100, 200}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        near(bench_percentile(v, cases[i].n, cases[i].p), cases[i].want);
}

/* The definition itself: the smallest value that at least p per cent do not exceed. */
static void percentiles_are_as_defined(void **state)
{
    (void) state;
    for (size_t n = 1; n < 60; n++) {
        double v[60];
        for (size_t i = 0; i < n; i++)
            v[i] = (double) i;
        for (int p = 1; p <= 100; p++) {
            size_t k = 0;
            while ((k + 1) * 100 < (size_t) p * n)
                k++;
            near(bench_percentile(v, n, p), v[k]);
        }
    }
}

static void summaries(void **state)
{
    (void) state;
    struct bench_list l = {0};
    assert_int_equal(bench_summarize(&l).n, 0);
    near(bench_median(&l), 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(bench_list_add(&l, (i * 37 + 5) % 1000), 0); /* each of 0..999 once */
    struct bench_summary s = bench_summarize(&l);
    assert_int_equal(s.n, 1000);
    near(s.mean, 499.5);
    near(s.min, 0);
    near(s.p50, 499);
    near(s.p90, 899);
    near(s.p99, 989);
    near(s.max, 999);
    near(bench_median(&l), 499.5);
    struct bench_ratio r = bench_ratio_of(&l);
    assert_int_equal(r.n, 1000);
    near(r.median, 499.5);
    near(r.min, 0);
    near(r.max, 999);
    free(l.v);
}

static void schedules_are_made_of_the_seed(void **state)
{
    (void) state;
    enum { N = 20000 };
    static int64_t a[N], b[N];
    bench_schedule(a, N, 50, 1, 7, 0);
    bench_schedule(b, N, 50, 1, 7, 0);
    assert_memory_equal(a, b, sizeof a);
    assert_int_equal(a[0], 0);
    double mean = (double) a[N - 1] / (N - 1) / 1e9, square = 0;
    for (int i = 1; i < N; i++) {
        double gap = (double) (a[i] - a[i - 1]) / 1e9;
        assert_true(gap >= 0);
        square += (gap - mean) * (gap - mean);
    }
    /* of an exponential both the mean and the standard deviation are 1 / rate; 20,000 gaps are within 3% of it */
    assert_true(mean > 0.0194 && mean < 0.0206);
    double variance = square / (N - 1) * 50 * 50;
    assert_true(variance > 0.94 && variance < 1.06);
    bench_schedule(b, N, 50, 1, 8, 0);
    assert_true(a[1] != b[1]);
    bench_schedule(b, 10, 50, 1, 7, 5); /* a later block has the gaps of its own requests */
    for (int i = 1; i < 10; i++)
        assert_true(llabs((b[i] - b[i - 1]) - (a[i + 5] - a[i + 4])) <= 1); /* rounding to ns */
}

static void even_schedules(void **state)
{
    (void) state;
    int64_t due[5];
    bench_schedule(due, 5, 4, 0, 1, 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(due[i], i * 250 * MS);
}

/* The same everywhere, always: what a seed measured once can be measured again. */
static void randomness_is_pinned(void **state)
{
    (void) state;
    assert_true(bench_random(1, BENCH_STREAM_ARRIVAL, 0) == UINT64_C(0xB18A02F46D8D86C3));
    assert_true(bench_random(1, BENCH_STREAM_TOKEN, 0) == UINT64_C(0x9EDBE9BD18AD781D));
    assert_true(bench_random(UINT64_MAX, BENCH_STREAM_TOKEN, UINT64_C(3) << 32 | 9) ==
                UINT64_C(0xA68002AB1977B0A5));
    int64_t due[3];
    bench_schedule(due, 3, 1, 1, 1, 0);
    assert_int_equal(due[1], 365986535);
    assert_int_equal(due[2], 394625915);
}

/* --- figures --- */

/* A complete answer with a chunk of `tokens` at each of the times. */
static void answer(struct bench_record *r, int64_t due, int64_t sent, const int *at, const int *tokens,
                   size_t n)
{
    *r = (struct bench_record){.state = BENCH_OK, .due_ns = due * MS, .sent_ns = sent * MS, .n_chunks = n};
    r->finish = OUTRIDER__V1__END__FINISH__LENGTH;
    r->chunk = calloc(n ? n : 1, sizeof *r->chunk);
    for (size_t i = 0; i < n; i++) {
        r->chunk[i] = (struct bench_chunk){.at_ns = at[i] * MS, .n_tokens = tokens[i]};
        r->n_tokens += tokens[i];
    }
    r->end_ns = n ? r->chunk[n - 1].at_ns : r->sent_ns;
    r->hash = (uint64_t) r->n_tokens;
    r->passes = 4;
    r->drafted = 20;
    r->accepted = 6;
    r->prompt_tokens = 10;
}

static void make_set(struct bench_set *s)
{
    assert_int_equal(bench_set_init(s, 6, NULL), 0);
    s->clock_ns = 2000 * MS;
    answer(&s->record[0], 0, 0, (const int[]){100, 150, 300}, (const int[]){1, 3, 1}, 3); /* TPOT 200 / 4 */
    answer(&s->record[1], 50, 90, (const int[]){1050, 1250}, (const int[]){2, 3}, 2);     /* TPOT 200 / 4 */
    answer(&s->record[2], 100, 100, (const int[]){1999}, (const int[]){1}, 1);            /* no TPOT */
    s->record[3] =
        (struct bench_record){.state = BENCH_FAILED, .code = GRPC_EXHAUSTED, .error = strdup("full")};
    answer(&s->record[4], 200, 200, (const int[]){700}, (const int[]){5}, 1);
    s->record[4].state = BENCH_CUT;
    s->n_depths = 2;
    s->drafted[0] = 12;
    s->accepted[0] = 9;
}

static void figures_add_up(void **state)
{
    (void) state;
    struct bench_set s;
    struct bench_figures f;
    make_set(&s);
    assert_int_equal(bench_figures_make(&f, &s, &(struct bench_slo){0}, NULL), 0);
    assert_int_equal(f.n_ok, 3);
    assert_int_equal(f.n_failed, 1);
    assert_int_equal(f.n_cut, 1);
    assert_int_equal(f.n_not_sent, 1);
    assert_int_equal(f.n_length, 3);
    assert_int_equal(f.n_code[GRPC_EXHAUSTED], 1);
    assert_string_equal(f.error, "full");
    assert_int_equal(f.output_tokens, 16); /* the interrupted one's too */
    assert_int_equal(f.prompt_tokens, 40);
    assert_int_equal(f.n_chunks, 7);
    near(f.seconds, 2);
    near(bench_tokens_per_s(&f), 8);
    near(bench_requests_per_s(&f), 1.5);
    near(bench_tokens_per_pass(&f), 1 + 18.0 / 12);
    assert_int_equal(f.summary[BENCH_TTFT].n, 3);
    near(f.summary[BENCH_TTFT].min, 100);
    near(f.summary[BENCH_TTFT].p50, 1000); /* from the time due, not from the time sent */
    near(f.summary[BENCH_TTFT].max, 1899);
    assert_int_equal(f.summary[BENCH_TPOT].n, 2);
    near(f.summary[BENCH_TPOT].mean, 50);
    assert_int_equal(f.summary[BENCH_GAP].n, 3); /* 50, 150, 200 */
    near(f.summary[BENCH_GAP].mean, 400.0 / 3);
    near(f.summary[BENCH_E2E].p50, 1200);
    near(f.summary[BENCH_LATE].max, 40);
    bench_figures_fini(&f);
    bench_set_fini(&s);
}

static void tokens_over_time(void **state)
{
    (void) state;
    struct bench_set s;
    struct bench_figures f;
    make_set(&s);
    assert_int_equal(bench_figures_make(&f, &s, &(struct bench_slo){0}, NULL), 0);
    near(f.bin_s, 0.05); /* 40 bins of 2 s; with 0.02 there were 100 */
    assert_int_equal(f.n_bins, 40);
    double sum = 0;
    for (size_t i = 0; i < f.n_bins; i++)
        sum += f.bin_tokens[i];
    near(sum, 16);
    near(f.bin_tokens[2], 1);
    near(f.bin_tokens[3], 3);
    near(f.bin_tokens[39], 1);
    bench_figures_fini(&f);
    bench_set_fini(&s);
}

static void goodput_keeps_all_limits(void **state)
{
    (void) state;
    const struct {
        struct bench_slo slo;
        size_t want;
    } cases[] = {{{0}, 3},
                 {{.ttft_ms = 1000}, 2},
                 {{.ttft_ms = 999}, 1},
                 {{.tpot_ms = 49}, 1}, /* the answer of one token has no TPOT to miss */
                 {{.tpot_ms = 50}, 3},
                 {{.e2e_ms = 1200}, 2},
                 {{.ttft_ms = 1000, .tpot_ms = 50, .e2e_ms = 300}, 1}};
    struct bench_set s;
    make_set(&s);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bench_figures f;
        assert_int_equal(bench_figures_make(&f, &s, &cases[i].slo, NULL), 0);
        assert_int_equal(f.n_good, cases[i].want);
        bench_figures_fini(&f);
    }
    bench_set_fini(&s);
}

static void nothing_is_no_trap(void **state)
{
    (void) state;
    struct bench_set s;
    struct bench_figures f;
    assert_int_equal(bench_set_init(&s, 0, NULL), 0);
    assert_int_equal(bench_figures_make(&f, &s, &(struct bench_slo){.ttft_ms = 1}, NULL), 0);
    near(bench_tokens_per_s(&f), 0);
    near(bench_requests_per_s(&f), 0);
    near(bench_tokens_per_pass(&f), 0);
    bench_figures_fini(&f);
    bench_set_fini(&s);
}

static void modes_are_compared_by_request(void **state)
{
    (void) state;
    struct bench_set on, off;
    struct bench_ratio r;
    size_t n_differ = 9;
    make_set(&on);
    make_set(&off);
    for (size_t i = 0; i < 3; i++) /* twice as slow */
        for (size_t k = 0; k < off.record[i].n_chunks; k++)
            off.record[i].chunk[k].at_ns = 2 * off.record[i].chunk[k].at_ns - off.record[i].due_ns;
    const size_t n[BENCH_N_COMPARES] = {3, 2, 3};
    for (int by = 0; by < BENCH_N_COMPARES; by++) {
        assert_int_equal(bench_compare(&on, &off, (enum bench_compare) by, &r, NULL), 0);
        assert_int_equal(r.n, n[by]);
        near(r.median, 2);
        near(r.min, 2);
        near(r.max, 2);
    }
    assert_int_equal(bench_compare_answers(&on, &off, &n_differ), 3);
    assert_int_equal(n_differ, 0);
    off.record[1].hash++;
    on.record[2].state = BENCH_FAILED;
    assert_int_equal(bench_compare_answers(&on, &off, &n_differ), 2);
    assert_int_equal(n_differ, 1);
    bench_set_fini(&on);
    bench_set_fini(&off);
}

/* --- datasets --- */

/* Loads `text` as a dataset; the sentence is left in e. */
static int load(struct bench_source *s, const char *text, int raw, struct err *e)
{
    char path[] = "/tmp/outrider-bench-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    *s = (struct bench_source){.raw = raw};
    int st = bench_source_load(s, path, e);
    unlink(path);
    return st;
}

static void good_datasets(void **state)
{
    (void) state;
    struct bench_source s;
    struct err e = {0};
    const char *text =
        "{\"prompt\": \"a\", \"id\": 7}\n\n  \r\n{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}, "
        "{\"role\": \"assistant\", \"content\": \"c\", \"reasoning_content\": \"d\"}], \"max_tokens\": 9}\n"
        "{\"prompt\": \"\"}\n{\"prompt\": \"x\"}\n{\"prompt\": \"no newline at the end\"}";
    assert_int_equal(load(&s, text, 0, &e), 0);
    assert_int_equal(s.n_lines, 5);
    bench_source_fini(&s);
}

static void bad_lines_are_named(void **state)
{
    (void) state;
    static const char *const bad[] = {
        "{\"prompt\": \"a\"",
        "[1]",
        "7",
        "{}",
        "{\"prompt\": 1}",
        "{\"prompt\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}",
        "{\"prompt\": \"a\", \"max_tokens\": 0}",
        "{\"prompt\": \"a\", \"max_tokens\": \"9\"}",
        "{\"messages\": []}",
        "{\"messages\": {}}",
        "{\"messages\": [{\"role\": \"user\"}]}",
        "{\"messages\": [7]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": null}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\", \"tool_calls\": []}]}",
        "{\"prompt\": \"\xff\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct bench_source s;
        struct err e = {0};
        char text[256];
        snprintf(text, sizeof text, "{\"prompt\": \"a\"}\n\n%s\n{\"prompt\": \"b\"}\n", bad[i]);
        assert_int_equal(load(&s, text, 0, &e), ST_INPUT);
        assert_non_null(strstr(e.text, " line 3: "));
        bench_source_fini(&s);
    }
}

static void what_else_is_refused(void **state)
{
    (void) state;
    struct bench_source s;
    struct err e = {0};
    assert_int_equal(load(&s, "\n \n", 0, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "no lines"));
    assert_int_equal(load(&s, "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n", 1, &e),
                     ST_INPUT);
    assert_non_null(strstr(e.text, "--raw"));
    bench_source_fini(&s);
    s = (struct bench_source){0};
    assert_int_equal(bench_source_load(&s, "/nonexistent/set.jsonl", &e), ST_IO);
    bench_source_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles_are_nearest_ranks),
        cmocka_unit_test(percentiles_are_as_defined),
        cmocka_unit_test(summaries),
        cmocka_unit_test(schedules_are_made_of_the_seed),
        cmocka_unit_test(even_schedules),
        cmocka_unit_test(randomness_is_pinned),
        cmocka_unit_test(figures_add_up),
        cmocka_unit_test(tokens_over_time),
        cmocka_unit_test(goodput_keeps_all_limits),
        cmocka_unit_test(nothing_is_no_trap),
        cmocka_unit_test(modes_are_compared_by_request),
        cmocka_unit_test(good_datasets),
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(what_else_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
