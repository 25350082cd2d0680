/* bench_html.c - the page of `outrider bench --html`.
 *
 * XHTML, so that any XML reader takes it too.  Everything foreign (the server's words, paths) passes escape(). */
#include "client/bench_report.h"

#include "client/bench_plot.h"
#include "client/report.h"
#include "client/words.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char style[] =
    ":root{color-scheme:light "
    "dark;--back:#fff;--text:#1c2024;--dim:#606870;--rule:#d8dce0;--s0:#1f62d0;--s1:#c2500a}\n"
    "@media (prefers-color-scheme:dark){:root{--back:#14171a;--text:#e4e7ea;--dim:#98a0a8;--rule:#343a40;"
    "--s0:#7fb0ff;--s1:#ffa259}}\n"
    "body{background:var(--back);color:var(--text);font:15px/1.5 "
    "system-ui,sans-serif;max-width:80rem;margin:2rem "
    "auto;padding:0 1rem}\n"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}p,dd{color:var(--text)}.dim{color:var(--dim)}\n"
    "table{border-collapse:collapse}th,td{padding:.2rem .8rem;text-align:right;border-bottom:1px solid "
    "var(--rule);"
    "font-variant-numeric:tabular-nums}th:first-child,td:first-child{text-align:left}\n"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}\n"
    "figure{margin:0}svg{width:100%;height:auto}svg text{fill:var(--dim);font-size:12px}svg "
    ".title{fill:var(--text);font-size:14px;font-weight:600}\n"
    ".axis{stroke:var(--dim);fill:none}.grid{stroke:var(--rule);fill:none}.line{fill:none;stroke-width:2}\n"
    "rect.s0{fill:var(--s0)}rect.s1{fill:var(--s1)}.line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1)}\n";

/* Foreign text: what XML has no place for becomes U+FFFD. */
static void escape(FILE *to, const char *p)
{
    size_t n = strlen(p);
    while (n) {
        unsigned code = 0;
        size_t used = words_char(p, n, &code);
        if (code == '<' || code == '>' || code == '&' || code == '"')
            fprintf(to, "&#%u;", code);
        else if (used == 0 || (code < ' ' && code != '\t' && code != '\n') || code == 0xFFFE ||
                 code == 0xFFFF)
            fputs("&#65533;", to);
        else
            fwrite(p, 1, used, to);
        p += used ? used : 1;
        n -= used ? used : 1;
    }
}

static void pair(FILE *to, const char *name, const char *value)
{
    fprintf(to, "<tr><td>%s</td><td>", name);
    escape(to, value);
    fputs("</td></tr>\n", to);
}

static void what(FILE *to, const struct bench_outcome *o)
{
    const struct bench_plan *p = &o->plan;
    char line[160];
    fputs("<table>\n", to);
    pair(to, "model", o->model->name);
    pair(to, "draft", o->model->draft[0] ? o->model->draft : "none");
    pair(to, "device", o->model->device);
    pair(to, "fingerprint", o->model->fingerprint);
    pair(to, "server", p->server);
    bench_report_load(p, line, sizeof line);
    pair(to, "load", line);
    snprintf(line, sizeof line, "%d tokens in, %d out", p->n_prompt, p->n_output);
    pair(to, p->dataset ? "dataset" : "synthetic", p->dataset ? p->dataset : line);
    snprintf(line, sizeof line, "%d, after %d to warm up; seed %" PRIu64, p->n_requests, p->n_warmup,
             p->seed);
    pair(to, "requests", line);
    snprintf(line, sizeof line, "%.2f%% of a core; longest turn %.2f ms; waited %.1f ms for a core",
             o->wall_s > 0 ? 100 * o->cpu_s / o->wall_s : 0, (double) o->client.turn_max_ns / 1e6,
             fmax(0, o->waited_s * 1e3));
    pair(to, "client", line);
    fputs("</table>\n", to);
}

/* --- figures --- */

static void figure_row(FILE *to, const char *name, const struct bench_outcome *o,
                       double (*of)(const struct bench_figures *))
{
    fprintf(to, "<tr><td>%s</td>", name);
    for (size_t i = 0; i < o->n_modes; i++)
        fprintf(to, "<td>%.6g</td>", of(&o->mode[i].f));
    fputs("</tr>\n", to);
}

static double complete(const struct bench_figures *f)
{
    return (double) f->n_ok;
}

static double failed(const struct bench_figures *f)
{
    return (double) f->n_failed;
}

static double unfinished(const struct bench_figures *f)
{
    return (double) (f->n_cut + f->n_not_sent);
}

static double seconds(const struct bench_figures *f)
{
    return f->seconds;
}

static double output_tokens(const struct bench_figures *f)
{
    return (double) f->output_tokens;
}

static double cached_tokens(const struct bench_figures *f)
{
    return (double) f->cached_tokens;
}

static double goodput(const struct bench_figures *f)
{
    return f->seconds > 0 ? (double) f->n_good / f->seconds : 0;
}

static void figures(FILE *to, const struct bench_outcome *o)
{
    const struct bench_slo *slo = &o->plan.slo;
    fputs("<table>\n<tr><th></th>", to);
    for (size_t i = 0; i < o->n_modes; i++)
        fprintf(to, "<th>%s</th>", o->mode[i].label);
    fputs("</tr>\n", to);
    figure_row(to, "complete", o, complete);
    figure_row(to, "failed", o, failed);
    figure_row(to, "interrupted or not sent", o, unfinished);
    figure_row(to, "seconds", o, seconds);
    figure_row(to, "output tokens", o, output_tokens);
    figure_row(to, "prompt tokens from the cache", o, cached_tokens);
    figure_row(to, "tokens/s", o, bench_tokens_per_s);
    figure_row(to, "requests/s", o, bench_requests_per_s);
    figure_row(to, "tokens a target pass", o, bench_tokens_per_pass);
    if (slo->ttft_ms > 0 || slo->tpot_ms > 0 || slo->e2e_ms > 0)
        figure_row(to, "goodput, requests/s", o, goodput);
    fputs("</table>\n", to);
}

static void latencies(FILE *to, const struct bench_outcome *o)
{
    static const char *const name[] = {"TTFT", "TPOT", "chunk gap", "end to end", "sent late"};
    fputs("<table>\n<tr><th>ms</th><th>speculation</th><th>n</th><th>mean</th><th>p50</th><th>p90</"
          "th><th>p99</th>"
          "<th>max</th></tr>\n",
          to);
    for (int l = 0; l < BENCH_N_LATENCIES; l++)
        for (size_t i = 0; i < o->n_modes; i++) {
            const struct bench_summary *s = &o->mode[i].f.summary[l];
            if (s->n)
                fprintf(
                    to,
                    "<tr><td>%s</td><td>%s</td><td>%zu</td><td>%.2f</td><td>%.2f</td><td>%.2f</td><td>%.2f</"
                    "td><td>%.2f</td></tr>\n",
                    name[l], o->mode[i].label, s->n, s->mean, s->p50, s->p90, s->p99, s->max);
        }
    fputs("</table>\n", to);
}

static void pairs(FILE *to, const struct bench_outcome *o)
{
    const struct bench_ratio *t = &o->tokens_per_s, *r = o->faster;
    if (o->n_modes < 2)
        return;
    fprintf(to,
            "<h2>%s against %s</h2>\n<p>Medians of pairs over the same requests; above 1, %s is faster.  "
            "Tokens/s "
            "<b>%.3f</b> (%zu pairs, %.3f to %.3f), TPOT %.3f, end to end %.3f, TTFT %.3f.  %zu of %zu "
            "answers are the "
            "same in both.</p>\n",
            o->mode[0].label, o->mode[1].label, o->mode[0].label, t->median, t->n, t->min, t->max,
            r[BENCH_BY_TPOT].median, r[BENCH_BY_E2E].median, r[BENCH_BY_TTFT].median,
            o->n_compared - o->n_differ, o->n_compared);
}

static void errors(FILE *to, const struct bench_outcome *o)
{
    for (size_t i = 0; i < o->n_modes; i++) {
        const struct bench_figures *f = &o->mode[i].f;
        if (!f->n_failed)
            continue;
        fprintf(to, "<h2>Errors, %s</h2>\n<table>\n", o->mode[i].label);
        for (int code = 0; code < GRPC_N_CODES; code++)
            if (f->n_code[code])
                fprintf(to, "<tr><td>%s</td><td>%zu</td></tr>\n", grpc_code_name(code), f->n_code[code]);
        fputs("</table>\n<p>The first: ", to);
        escape(to, f->error ? f->error : "");
        fputs("</p>\n", to);
    }
}

static void synthetic(FILE *to, const struct bench_outcome *o)
{
    char text[512];
    if (report_synthetic_of(o->model->defaults, text, sizeof text))
        fprintf(to, "<p><strong>%s</strong></p>\n", text);
}

/* --- plots --- */

static void plot_latency(FILE *to, const struct bench_outcome *o, enum bench_latency which, const char *title)
{
    struct bench_series s[BENCH_MODES_MAX];
    for (size_t i = 0; i < o->n_modes; i++)
        s[i] = (struct bench_series){o->mode[i].label, o->mode[i].f.latency[which].v,
                                     o->mode[i].f.latency[which].n};
    bench_plot_cdf(to, title, "ms, logarithmic", s, o->n_modes);
}

static void plot_depths(FILE *to, const struct bench_outcome *o)
{
    double v[BENCH_MODES_MAX][BENCH_DEPTHS_MAX];
    struct bench_series s[BENCH_MODES_MAX];
    size_t n = 0; /* modes that drafted, which are the first ones */
    for (size_t i = 0; i < o->n_modes && o->mode[i].f.n_depths; i++, n++) {
        const struct bench_figures *f = &o->mode[i].f;
        for (int32_t d = 0; d < f->n_depths; d++)
            v[i][d] = f->passes ? (double) f->accepted_by_depth[d] / (double) f->passes : 0;
        s[i] = (struct bench_series){o->mode[i].label, v[i], (size_t) f->n_depths};
    }
    bench_plot_bars(to, "Acceptance by depth: tokens accepted a pass", "depth", s, n);
}

static void plot_over_time(FILE *to, const struct bench_outcome *o)
{
    double v[BENCH_MODES_MAX][BENCH_BINS], width[BENCH_MODES_MAX];
    struct bench_series s[BENCH_MODES_MAX];
    for (size_t i = 0; i < o->n_modes; i++) {
        const struct bench_figures *f = &o->mode[i].f;
        width[i] = f->bin_s;
        for (size_t k = 0; k < f->n_bins; k++) {
            double to_end = f->seconds - (double) k * f->bin_s;
            v[i][k] = f->bin_tokens[k] / (k + 1 < f->n_bins ? f->bin_s : fmax(to_end, 1e-3));
        }
        s[i] = (struct bench_series){o->mode[i].label, v[i], f->n_bins};
    }
    bench_plot_steps(to, "Tokens/s over time", "seconds of the mode's own time", s, o->n_modes, width);
}

void bench_report_html(const struct bench_outcome *o, FILE *to)
{
    fputs("<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta "
          "charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width\"/>\n<title>outrider "
          "bench: ",
          to);
    escape(to, o->model->name);
    fprintf(to, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<h1>outrider bench: ", style);
    escape(to, o->model->name);
    fprintf(to, "</h1>\n<p class=\"dim\">%s%s</p>\n", o->date, o->interrupted ? "; interrupted" : "");
    synthetic(to, o);
    what(to, o);
    pairs(to, o);
    fputs("<h2>Figures</h2>\n", to);
    figures(to, o);
    fputs("<h2>Latency</h2>\n", to);
    latencies(to, o);
    fprintf(
        to,
        "<p class=\"dim\">Of complete answers, from the time %s.  TPOT is (last chunk - first chunk) / "
        "(tokens - "
        "1); a chunk may carry several tokens.  Percentiles are nearest ranks.</p>\n<div class=\"plots\">\n",
        o->plan.n_clients ? "sent" : "scheduled");
    plot_latency(to, o, BENCH_TTFT, "TTFT: share of answers");
    plot_latency(to, o, BENCH_TPOT, "TPOT: share of answers");
    plot_latency(to, o, BENCH_GAP, "Chunk gap: share of gaps");
    plot_depths(to, o);
    plot_over_time(to, o);
    fputs("</div>\n", to);
    errors(to, o);
    fputs("</body>\n</html>\n", to);
}
