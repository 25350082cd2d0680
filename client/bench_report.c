/* bench_report.c - see bench_report.h.  The server's words are made safe for a terminal, and checked by jansson for JSON. */
#include "client/bench_report.h"

#include "client/report.h"
#include "client/show.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { DIGITS = 9 }; /* of a JSON number: nanoseconds in a second */

static const char *const row_name[BENCH_N_LATENCIES] = {"TTFT", "TPOT", "chunk gap", "end to end",
                                                        "sent late"};
static const char *const state_name[] = {"not_sent", "ok", "failed", "interrupted"};
static const char *const compare_name[BENCH_N_COMPARES] = {"ttft", "tpot", "e2e"};

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

void bench_report_load(const struct bench_plan *p, char *out, size_t cap)
{
    const char *many = p->n_connections == 1 ? "" : "s";
    if (p->n_clients)
        snprintf(out, cap, "%d client%s on %d connection%s", p->n_clients, p->n_clients == 1 ? "" : "s",
                 p->n_connections, many);
    else
        snprintf(out, cap, "%g requests/s, %s, on %d connection%s", p->rate,
                 p->poisson ? "Poisson arrivals" : "evenly spaced", p->n_connections, many);
}

/* --- text --- */

static void say(struct show *s, const char *words)
{
    show_text(s, words, strlen(words), 0);
}

static void head(struct show *s, const struct bench_outcome *o)
{
    const struct bench_plan *p = &o->plan;
    char load[96], synthetic[512];
    if (report_synthetic_of(o->model->defaults, synthetic, sizeof synthetic))
        puts(synthetic);
    bench_report_load(p, load, sizeof load);
    say(s, o->model->name);
    printf(", draft ");
    say(s, o->model->draft[0] ? o->model->draft : "none");
    printf(", ");
    say(s, o->model->device);
    printf(", at ");
    say(s, p->server);
    printf("\n%s; %d requests", load, p->n_requests);
    if (p->n_warmup)
        printf(" after %d to warm up", p->n_warmup);
    if (p->dataset) {
        printf("; dataset ");
        say(s, p->dataset);
    } else {
        printf("; %d tokens in, %d out", p->n_prompt, p->n_output);
    }
    printf("; seed %" PRIu64 "\n", p->seed);
}

static void counts(struct show *s, const struct bench_figures *f)
{
    printf("%zu complete (%zu stopped, %zu at their length), %zu failed", f->n_ok, f->n_stop, f->n_length,
           f->n_failed);
    if (f->n_cut + f->n_not_sent)
        printf(", %zu interrupted, %zu not sent", f->n_cut, f->n_not_sent);
    printf("; %.2f s\n", f->seconds);
    for (int code = 0; code < GRPC_N_CODES; code++)
        if (f->n_code[code])
            printf("  %zu %s\n", f->n_code[code], grpc_code_name(code));
    if (f->error) {
        printf("  the first: ");
        say(s, f->error);
        putchar('\n');
    }
}

static void depths(const struct bench_figures *f)
{
    if (f->n_depths == 0 || f->passes == 0)
        return;
    printf("  accepted a pass, by depth");
    for (int32_t d = 0; d < f->n_depths; d++)
        printf(" %.2f", (double) f->accepted_by_depth[d] / (double) f->passes);
    putchar('\n');
}

static void latencies(const struct bench_plan *p, const struct bench_figures *f)
{
    printf("  %-12s%10s%10s%10s%10s%10s\n", "ms", "mean", "p50", "p90", "p99", "max");
    for (int i = 0; i < BENCH_N_LATENCIES; i++) {
        const struct bench_summary *q = &f->summary[i];
        if (q->n && (i != BENCH_LATE || !p->n_clients))
            printf("  %-12s%10.2f%10.2f%10.2f%10.2f%10.2f\n", row_name[i], q->mean, q->p50, q->p90, q->p99,
                   q->max);
    }
}

static int has_slo(const struct bench_slo *s)
{
    return s->ttft_ms > 0 || s->tpot_ms > 0 || s->e2e_ms > 0;
}

static void mode_text(struct show *s, const struct bench_plan *p, const struct bench_mode *m)
{
    const struct bench_figures *f = &m->f;
    printf("\nspeculation %s: ", m->label);
    counts(s, f);
    printf("  %.2f requests/s, %.2f tokens/s, %.2f tokens a pass, %.2f a chunk\n", bench_requests_per_s(f),
           bench_tokens_per_s(f), bench_tokens_per_pass(f),
           share((double) f->output_tokens, (double) f->n_chunks));
    printf("  %" PRId64 " prompt tokens (%" PRId64 " cached), %" PRId64 " output tokens, %" PRId64
           " preemptions\n",
           f->prompt_tokens, f->cached_tokens, f->output_tokens, f->preemptions);
    depths(f);
    if (has_slo(&p->slo))
        printf("  goodput %.2f requests/s: %zu of %zu kept the limits\n",
               share((double) f->n_good, f->seconds), f->n_good, f->n_ok + f->n_failed);
    latencies(p, f);
}

static void pairs_text(const struct bench_outcome *o)
{
    const struct bench_ratio *t = &o->tokens_per_s, *r = o->faster;
    printf("\n%s against %s, medians of pairs (above 1: %s is faster)\n", o->mode[0].label, o->mode[1].label,
           o->mode[0].label);
    printf("  tokens/s %.3f (%zu pairs, %.3f to %.3f)", t->median, t->n, t->min, t->max);
    printf("; TPOT %.3f, end to end %.3f, TTFT %.3f (%zu requests)\n", r[BENCH_BY_TPOT].median,
           r[BENCH_BY_E2E].median, r[BENCH_BY_TTFT].median, r[BENCH_BY_E2E].n);
    printf("  %zu of %zu answers are the same in both\n", o->n_compared - o->n_differ, o->n_compared);
}

static void client_text(const struct bench_outcome *o)
{
    printf("\nthe client took %.2f%% of a core, its longest turn %.2f ms", 100 * share(o->cpu_s, o->wall_s),
           (double) o->client.turn_max_ns / 1e6);
    if (o->waited_s >= 0)
        printf("; it waited %.1f ms for a core, %.2f ms a turn", o->waited_s * 1e3,
               share(o->waited_s * 1e3, (double) o->client.n_turns));
    putchar('\n');
}

int bench_report_text(const struct bench_outcome *o, struct err *e)
{
    struct show s;
    show_init(&s, stdout);
    head(&s, o);
    for (size_t i = 0; i < o->n_modes; i++)
        mode_text(&s, &o->plan, &o->mode[i]);
    if (o->n_modes == 2)
        pairs_text(o);
    client_text(o);
    if (fflush(stdout) || ferror(stdout))
        return err_set(e, ST_IO, "cannot write to standard output: %s", strerror(errno));
    return 0;
}

/* --- JSON --- */

static json_t *summary_json(const struct bench_summary *s)
{
    if (s->n == 0)
        return json_pack("{s:i, s:n, s:n, s:n, s:n, s:n, s:n}", "n", 0, "mean", "min", "p50", "p90", "p99",
                         "max");
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "n", (json_int_t) s->n, "mean", s->mean, "min",
                     s->min, "p50", s->p50, "p90", s->p90, "p99", s->p99, "max", s->max);
}

static json_t *depths_json(const struct bench_figures *f)
{
    json_t *list = json_array();
    for (int32_t d = 0; d < f->n_depths; d++) {
        double drafted = (double) f->drafted_by_depth[d], accepted = (double) f->accepted_by_depth[d];
        json_array_append_new(list, json_pack("{s:i, s:I, s:I, s:f, s:f}", "depth", d + 1, "drafted",
                                              (json_int_t) drafted, "accepted", (json_int_t) accepted,
                                              "per_drafted", share(accepted, drafted), "per_pass",
                                              share(accepted, (double) f->passes)));
    }
    return list;
}

static json_t *errors_json(const struct bench_figures *f)
{
    json_t *j = json_object();
    for (int code = 0; code < GRPC_N_CODES; code++)
        if (f->n_code[code])
            json_object_set_new(j, grpc_code_name(code), json_integer((json_int_t) f->n_code[code]));
    return j;
}

static json_t *limit_json(double ms)
{
    return ms > 0 ? json_real(ms) : json_null();
}

static json_t *goodput_json(const struct bench_slo *slo, const struct bench_figures *f)
{
    if (!has_slo(slo))
        return json_null();
    return json_pack("{s:o, s:o, s:o, s:I, s:f, s:f}", "ttft_ms", limit_json(slo->ttft_ms), "tpot_ms",
                     limit_json(slo->tpot_ms), "e2e_ms", limit_json(slo->e2e_ms), "requests",
                     (json_int_t) f->n_good, "requests_per_s", share((double) f->n_good, f->seconds), "share",
                     share((double) f->n_good, (double) (f->n_ok + f->n_failed)));
}

static json_t *over_time_json(const struct bench_figures *f)
{
    json_t *list = json_array();
    for (size_t i = 0; i < f->n_bins; i++)
        json_array_append_new(list, json_real(f->bin_tokens[i]));
    return json_pack("{s:f, s:o}", "bin_s", f->bin_s, "tokens", list);
}

static json_t *mode_json(const struct bench_plan *p, const struct bench_mode *m)
{
    const struct bench_figures *f = &m->f;
    json_t *j =
        json_pack("{s:s, s:f, s:{s:I, s:I, s:I, s:I}, s:o, s:s?, s:{s:I, s:I}}", "speculation", m->label,
                  "duration_s", f->seconds, "requests", "ok", (json_int_t) f->n_ok, "failed",
                  (json_int_t) f->n_failed, "interrupted", (json_int_t) f->n_cut, "not_sent",
                  (json_int_t) f->n_not_sent, "errors", errors_json(f), "first_error", f->error, "finish",
                  "stop", (json_int_t) f->n_stop, "length", (json_int_t) f->n_length);
    json_t *sums =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "prompt_tokens", (json_int_t) f->prompt_tokens,
                  "cached_tokens", (json_int_t) f->cached_tokens, "output_tokens",
                  (json_int_t) f->output_tokens, "chunks", (json_int_t) f->n_chunks, "passes",
                  (json_int_t) f->passes, "drafted", (json_int_t) f->drafted, "accepted",
                  (json_int_t) f->accepted, "preemptions", (json_int_t) f->preemptions);
    json_t *rates = json_pack(
        "{s:f, s:f, s:f, s:f, s:o, s:o, s:o}", "tokens_per_s", bench_tokens_per_s(f), "requests_per_s",
        bench_requests_per_s(f), "tokens_per_pass", bench_tokens_per_pass(f), "tokens_per_chunk",
        share((double) f->output_tokens, (double) f->n_chunks), "acceptance_by_depth", depths_json(f),
        "goodput", goodput_json(&p->slo, f), "over_time", over_time_json(f));
    json_object_update_new(j, sums);
    json_object_update_new(j, rates);
    for (int i = 0; j && i < BENCH_N_LATENCIES; i++)
        json_object_set_new(j, bench_latency_name[i], summary_json(&f->summary[i]));
    return j;
}

static json_t *ratio_json(const struct bench_ratio *r)
{
    return json_pack("{s:I, s:f, s:f, s:f}", "n", (json_int_t) r->n, "median", r->median, "min", r->min,
                     "max", r->max);
}

static json_t *pairs_json(const struct bench_outcome *o)
{
    if (o->n_modes < 2)
        return json_null();
    json_t *j = json_pack("{s:s, s:s, s:o, s:I, s:I}", "mode", o->mode[0].label, "against", o->mode[1].label,
                          "tokens_per_s", ratio_json(&o->tokens_per_s), "answers_compared",
                          (json_int_t) o->n_compared, "answers_differ", (json_int_t) o->n_differ);
    for (int i = 0; j && i < BENCH_N_COMPARES; i++)
        json_object_set_new(j, compare_name[i], ratio_json(&o->faster[i]));
    return j;
}

static json_t *load_json(const struct bench_plan *p)
{
    json_t *j = json_pack("{s:s, s:s?, s:i, s:i, s:i, s:o}", "loop", p->n_clients ? "closed" : "open",
                          "dataset", p->dataset, "requests", p->n_requests, "warmup", p->n_warmup,
                          "connections", p->n_connections, "seed", json_sprintf("%" PRIu64, p->seed));
    json_t *more = p->n_clients ? json_pack("{s:i}", "concurrency", p->n_clients)
                                : json_pack("{s:f, s:b}", "rate", p->rate, "poisson", p->poisson);
    json_object_update_new(j, more);
    if (!p->dataset)
        json_object_update_new(
            j, json_pack("{s:i, s:i}", "prompt_tokens", p->n_prompt, "output_tokens", p->n_output));
    return j;
}

static json_t *client_json(const struct bench_outcome *o)
{
    const struct bench_client *c = &o->client;
    return json_pack("{s:f, s:f, s:f, s:f, s:I, s:f, s:o}", "wall_s", o->wall_s, "cpu_s", o->cpu_s,
                     "cpu_share", share(o->cpu_s, o->wall_s), "busy_share",
                     share((double) c->busy_ns / 1e9, o->wall_s), "turns", (json_int_t) c->n_turns,
                     "turn_ms_max", (double) c->turn_max_ns / 1e6, "waited_s",
                     o->waited_s < 0 ? json_null() : json_real(o->waited_s));
}

static json_t *outcome_json(const struct bench_outcome *o)
{
    const Outrider__V1__Model *m = o->model;
    json_t *modes = json_array();
    for (size_t i = 0; i < o->n_modes; i++)
        json_array_append_new(modes, mode_json(&o->plan, &o->mode[i]));
    char synthetic[512];
    json_t *j = json_pack("{s:i, s:s, s:s, s:{s:s, s:s, s:s, s:s, s:s}, s:o, s:b, s:o, s:o, s:o}",
                          "outrider_bench", 1, "date", o->date, "server", o->plan.server, "model", "name",
                          m->name, "fingerprint", m->fingerprint, "device", m->device, "version", m->version,
                          "draft", m->draft, "load", load_json(&o->plan), "interrupted", o->interrupted,
                          "runs", modes, "pairs", pairs_json(o), "client", client_json(o));
    if (j && report_synthetic_of(m->defaults, synthetic, sizeof synthetic)) {
        json_t *model = report_model(m);
        json_object_set(j, "synthetic_acceptance", json_object_get(model, "synthetic_acceptance"));
        json_object_set_new(j, "warning", json_string(synthetic));
        json_decref(model);
    }
    return j;
}

/* Writes j as one line and frees it. */
static int dump(json_t *j, FILE *to, struct err *e)
{
    if (!j)
        return err_set(e, ST_NOMEM,
                       "the JSON cannot be made: out of memory, or the server sent text that is not UTF-8");
    int rc = json_dumpf(j, to, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS));
    json_decref(j);
    if (rc || fputc('\n', to) == EOF)
        return err_set(e, ST_IO, "cannot write the JSON: %s", strerror(errno));
    return 0;
}

int bench_report_json(const struct bench_outcome *o, struct err *e)
{
    int st = dump(outcome_json(o), stdout, e);
    if (st == 0 && fflush(stdout))
        st = err_set(e, ST_IO, "cannot write to standard output: %s", strerror(errno));
    return st;
}

/* --- a line a request --- */

static json_t *known(double ms)
{
    return ms < 0 ? json_null() : json_real(ms);
}

static json_t *chunks_json(const struct bench_record *r)
{
    json_t *list = json_array();
    for (size_t i = 0; i < r->n_chunks; i++)
        json_array_append_new(list,
                              json_pack("[f, i]", (double) r->chunk[i].at_ns / 1e6, r->chunk[i].n_tokens));
    return list;
}

static json_t *record_json(const struct bench_plan *p, const struct bench_mode *m,
                           const struct bench_record *r)
{
    json_t *j = json_pack("{s:I, s:s, s:s, s:o, s:s?, s:o, s:f, s:f, s:f}", "request", (json_int_t) r->index,
                          "speculation", m->label, "state", state_name[r->state], "status",
                          r->state == BENCH_CUT ? json_null() : json_string(grpc_code_name(r->code)), "error",
                          r->error, "seed", json_sprintf("%" PRIu64, p->seed + r->index), "due_ms",
                          (double) r->due_ns / 1e6, "sent_ms", (double) r->sent_ns / 1e6, "end_ms",
                          (double) r->end_ns / 1e6);
    json_t *times =
        json_pack("{s:o, s:o, s:o, s:o}", "ttft_ms", known(bench_ttft_ms(r)), "tpot_ms",
                  known(bench_tpot_ms(r)), "e2e_ms", known(bench_e2e_ms(r)), "chunks", chunks_json(r));
    json_t *sums =
        json_pack("{s:i, s:i, s:I, s:i, s:i, s:i, s:i}", "prompt_tokens", r->prompt_tokens, "cached_tokens",
                  r->cached_tokens, "output_tokens", (json_int_t) r->n_tokens, "passes", r->passes, "drafted",
                  r->drafted, "accepted", r->accepted, "preemptions", r->preemptions);
    json_object_update_new(j, times);
    json_object_update_new(j, sums);
    if (j && r->synthetic)
        json_object_set_new(j, "synthetic", json_true());
    return j;
}

int bench_report_requests(const struct bench_outcome *o, FILE *to, struct err *e)
{
    for (size_t i = 0; i < o->n_modes; i++) {
        const struct bench_mode *m = &o->mode[i];
        for (size_t k = 0; k < m->set.n; k++) {
            int st = m->set.record[k].state == BENCH_NOT_SENT
                         ? 0
                         : dump(record_json(&o->plan, m, &m->set.record[k]), to, e);
            if (st)
                return st;
        }
    }
    return 0;
}
