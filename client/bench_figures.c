/* bench_figures.c - see bench_figures.h. */
#include "client/bench_figures.h"

#include <math.h>
#include <stdlib.h>

const char *const bench_latency_name[BENCH_N_LATENCIES] = {"ttft_ms", "tpot_ms", "chunk_gap_ms", "e2e_ms",
                                                           "send_late_ms"};

/* --- of a request --- */

static double ms(int64_t ns)
{
    return (double) ns / 1e6;
}

double bench_ttft_ms(const struct bench_record *r)
{
    return r->n_chunks ? ms(r->chunk[0].at_ns - r->due_ns) : -1;
}

double bench_tpot_ms(const struct bench_record *r)
{
    if (r->n_tokens < 2)
        return -1;
    return ms(r->chunk[r->n_chunks - 1].at_ns - r->chunk[0].at_ns) / (double) (r->n_tokens - 1);
}

double bench_e2e_ms(const struct bench_record *r)
{
    return r->n_chunks ? ms(r->chunk[r->n_chunks - 1].at_ns - r->due_ns) : -1;
}

static int add_known(struct bench_list *l, double v)
{
    return v < 0 ? 0 : bench_list_add(l, v);
}

static int add_latencies(struct bench_figures *f, const struct bench_record *r)
{
    int st = add_known(&f->latency[BENCH_TTFT], bench_ttft_ms(r));
    if (st == 0)
        st = add_known(&f->latency[BENCH_TPOT], bench_tpot_ms(r));
    if (st == 0)
        st = add_known(&f->latency[BENCH_E2E], bench_e2e_ms(r));
    if (st == 0)
        st = bench_list_add(&f->latency[BENCH_LATE], ms(r->sent_ns - r->due_ns));
    for (size_t i = 1; st == 0 && i < r->n_chunks; i++)
        st = bench_list_add(&f->latency[BENCH_GAP], ms(r->chunk[i].at_ns - r->chunk[i - 1].at_ns));
    return st;
}

/* An answer too short to have a TPOT keeps its limit; one without a token keeps none. */
static int is_good(const struct bench_record *r, const struct bench_slo *slo)
{
    return r->n_chunks && (slo->ttft_ms == 0 || bench_ttft_ms(r) <= slo->ttft_ms) &&
           (slo->tpot_ms == 0 || bench_tpot_ms(r) <= slo->tpot_ms) &&
           (slo->e2e_ms == 0 || bench_e2e_ms(r) <= slo->e2e_ms);
}

static int add_complete(struct bench_figures *f, const struct bench_record *r, const struct bench_slo *slo)
{
    f->n_ok++;
    f->n_stop += r->finish == OUTRIDER__V1__END__FINISH__STOP;
    f->n_length += r->finish == OUTRIDER__V1__END__FINISH__LENGTH;
    f->passes += r->passes;
    f->drafted += r->drafted;
    f->accepted += r->accepted;
    f->preemptions += r->preemptions;
    f->n_good += (size_t) is_good(r, slo);
    return add_latencies(f, r);
}

/* --- of a set --- */

/* A width of 1, 2 or 5 times a power of ten that cuts `seconds` into at most BENCH_BINS. */
static double bin_width(double seconds)
{
    const double step[] = {1, 2, 5};
    for (double unit = 1e-3;; unit *= 10)
        for (size_t i = 0; i < sizeof step / sizeof *step; i++)
            if (step[i] * unit * BENCH_BINS >= seconds)
                return step[i] * unit;
}

static void add_bins(struct bench_figures *f, const struct bench_record *r)
{
    int64_t width_ns = llround(f->bin_s * 1e9);
    for (size_t i = 0; i < r->n_chunks; i++) {
        size_t bin = (size_t) (r->chunk[i].at_ns / width_ns);
        f->bin_tokens[bin < f->n_bins ? bin : f->n_bins - 1] += r->chunk[i].n_tokens;
    }
}

static int add_record(struct bench_figures *f, const struct bench_record *r, const struct bench_slo *slo)
{
    if (r->state == BENCH_NOT_SENT) {
        f->n_not_sent++;
        return 0;
    }
    f->prompt_tokens += r->prompt_tokens;
    f->cached_tokens += r->cached_tokens;
    f->output_tokens += r->n_tokens;
    f->n_chunks += (int64_t) r->n_chunks;
    add_bins(f, r);
    if (r->state == BENCH_OK)
        return add_complete(f, r, slo);
    if (r->state == BENCH_CUT) {
        f->n_cut++;
        return 0;
    }
    f->n_failed++;
    f->n_code[r->code]++;
    if (!f->error)
        f->error = r->error;
    return 0;
}

int bench_figures_make(struct bench_figures *f, const struct bench_set *set, const struct bench_slo *slo,
                       struct err *e)
{
    *f = (struct bench_figures){
        .seconds = (double) set->clock_ns / 1e9,
        .n_depths = set->n_depths,
        .drafted_by_depth = set->drafted,
        .accepted_by_depth = set->accepted,
    };
    f->bin_s = bin_width(f->seconds);
    f->n_bins = (size_t) fmax(1, floor(f->seconds / f->bin_s));
    for (size_t i = 0; i < set->n; i++)
        if (add_record(f, &set->record[i], slo))
            return err_set(e, ST_NOMEM, "out of memory for the times of %zu requests", set->n);
    for (int i = 0; i < BENCH_N_LATENCIES; i++)
        f->summary[i] = bench_summarize(&f->latency[i]);
    return 0;
}

void bench_figures_fini(struct bench_figures *f)
{
    for (int i = 0; i < BENCH_N_LATENCIES; i++) {
        free(f->latency[i].v);
        f->latency[i] = (struct bench_list){0};
    }
}

double bench_tokens_per_s(const struct bench_figures *f)
{
    return f->seconds > 0 ? (double) f->output_tokens / f->seconds : 0;
}

double bench_requests_per_s(const struct bench_figures *f)
{
    return f->seconds > 0 ? (double) f->n_ok / f->seconds : 0;
}

double bench_tokens_per_pass(const struct bench_figures *f)
{
    return f->passes > 0 ? 1 + (double) f->accepted / (double) f->passes : 0;
}

/* --- of two sets --- */

struct bench_ratio bench_ratio_of(struct bench_list *l)
{
    struct bench_ratio r = {.n = l->n, .median = bench_median(l)};
    if (l->n) {
        r.min = l->v[0];
        r.max = l->v[l->n - 1];
    }
    return r;
}

static double time_of(const struct bench_record *r, enum bench_compare by)
{
    return by == BENCH_BY_TTFT ? bench_ttft_ms(r) : by == BENCH_BY_TPOT ? bench_tpot_ms(r) : bench_e2e_ms(r);
}

static int both_complete(const struct bench_set *on, const struct bench_set *off, size_t i)
{
    return i < off->n && on->record[i].state == BENCH_OK && off->record[i].state == BENCH_OK;
}

int bench_compare(const struct bench_set *on, const struct bench_set *off, enum bench_compare by,
                  struct bench_ratio *out, struct err *e)
{
    struct bench_list l = {0};
    int st = 0;
    for (size_t i = 0; i < on->n && st == 0; i++) {
        if (!both_complete(on, off, i))
            continue;
        double a = time_of(&on->record[i], by), b = time_of(&off->record[i], by);
        if (a > 0 && b > 0)
            st = bench_list_add(&l, b / a);
    }
    *out = bench_ratio_of(&l);
    free(l.v);
    return st ? err_set(e, st, "out of memory for %zu pairs", on->n) : 0;
}

size_t bench_compare_answers(const struct bench_set *on, const struct bench_set *off, size_t *n_differ)
{
    size_t n = 0;
    *n_differ = 0;
    for (size_t i = 0; i < on->n; i++) {
        if (!both_complete(on, off, i))
            continue;
        n++;
        *n_differ +=
            on->record[i].hash != off->record[i].hash || on->record[i].n_tokens != off->record[i].n_tokens;
    }
    return n;
}
