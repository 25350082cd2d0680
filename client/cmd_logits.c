/* cmd_logits.c - `outrider logits --model DIR --jsonl`: logits of given ids, offline, on the CPU.
 *
 * One JSON object a line in ({"ids":[...]}), one out: {"n":..,"rows":[{"row":..,"top":[[id,logit],..]}],"greedy":[..]}.
 * --raw FILE takes every row of every line as little-endian float32.  A line that cannot be used gives {"line":..,
 * "error":..}, the command goes on and ends with status 1. */
#include "client/cmd.h"
#include "client/options.h"
#include "cpu/cpu.h"

#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 64 };     /* rows a pass: what logits are held for at a time */
enum { TOP_MAX = 1000 }; /* --top: a line of output stays readable by a person's tools */
enum { GREEDY_MAX = 1 << 20 };

struct wanted {
    const char *dir, *raw;
    int jsonl, help, quant, kv, threads, isa, top, all_rows, greedy;
};

struct work {
    struct wanted o;
    struct model *model;
    struct cpu *cpu;
    struct cpu_model *weights;
    FILE *raw;     /* NULL: not asked for */
    float *logits; /* (CHUNK, vocab) */
    int32_t vocab;
    long line;
};

static const char *const quants[] = {"f32", "bf16", "q8", "f16", "q4", "stored", NULL}; /* enum cpu_quant */
static const char *const kvs[] = {"bf16", "f32", NULL};                                 /* enum cpu_kv_type */
static const char *const isas[] = {"auto",   "twin", "avx2", "avxvnni",
                                   "avx512", "vnni", NULL}; /* enum cpu_isa */
static const char *const rows[] = {"last", "all", NULL};

static void usage(FILE *to)
{
    fprintf(to, "usage: outrider logits --model DIR --jsonl [OPTIONS] < ids.jsonl\n\n"
                "Reads {\"ids\":[...]} a line and prints the likeliest next tokens, offline, on the CPU.\n\n"
                "  --model DIR      checkpoint directory\n"
                "  --jsonl          one JSON object a line, in and out\n"
                "  --quant TYPE     weights: stored (default), f32, bf16, f16, q8, q4\n"
                "  --kv TYPE        keys and values: f32 (default), bf16\n"
                "  --threads N      1 to 256 (default: the processors online)\n"
                "  --isa NAME       auto (default), twin, avx2, avxvnni, avx512, vnni\n"
                "  --top K          likeliest tokens shown a row, 1 to 1000 (default 5)\n"
                "  --rows WHICH     rows shown: last (default), all\n"
                "  --raw FILE       write every row of every line, little-endian float32\n"
                "  --greedy N       continue each line by N tokens\n");
}

static int complain(const char *option, const char *value, const char *expected)
{
    fprintf(stderr, "outrider logits: %s %s: expected %s\n", option, value, expected);
    return -1;
}

static int word(const char *option, const char *value, const char *const *list, int *out)
{
    char all[64] = "";
    for (int i = 0; list[i]; i++) {
        if (strcmp(value, list[i]) == 0) {
            *out = i;
            return 0;
        }
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", list[i]);
    }
    return complain(option, value, all);
}

static int number(const char *option, const char *value, long min, long max, int *out)
{
    char *end, expected[64];
    long n = strtol(value, &end, 10);
    if (*value && !*end && n >= min && n <= max) {
        *out = (int) n;
        return 0;
    }
    snprintf(expected, sizeof expected, "a number from %ld to %ld", min, max);
    return complain(option, value, expected);
}

static int parse(int argc, char **argv, struct wanted *o)
{
    static const struct option list[] = {{"model", 1, 0, 'm'},  {"jsonl", 0, 0, 'j'},   {"quant", 1, 0, 'q'},
                                         {"kv", 1, 0, 'k'},     {"threads", 1, 0, 't'}, {"isa", 1, 0, 'i'},
                                         {"top", 1, 0, 'n'},    {"rows", 1, 0, 'r'},    {"raw", 1, 0, 'f'},
                                         {"greedy", 1, 0, 'g'}, {"help", 0, 0, 'h'},    {0}};
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    *o = (struct wanted){.quant = CPU_QUANT_STORED, .kv = CPU_KV_F32, .top = 5};
    o->threads = online < 1 ? 1 : online > CPU_THREADS_MAX ? CPU_THREADS_MAX : (int) online;
    int st = 0;
    optind = 0;
    struct err e = {0};
    int c;
    while (st == 0 && (st = options_flag(argc, argv, list, &c, &e)) == 0 && c) {
        switch (c) {
        case 'm':
            o->dir = optarg;
            break;
        case 'j':
            o->jsonl = 1;
            break;
        case 'q':
            st = word("--quant", optarg, quants, &o->quant);
            break;
        case 'k':
            st = word("--kv", optarg, kvs, &o->kv);
            break;
        case 't':
            st = number("--threads", optarg, 1, CPU_THREADS_MAX, &o->threads);
            break;
        case 'i':
            st = word("--isa", optarg, isas, &o->isa);
            break;
        case 'n':
            st = number("--top", optarg, 1, TOP_MAX, &o->top);
            break;
        case 'r':
            st = word("--rows", optarg, rows, &o->all_rows);
            break;
        case 'f':
            o->raw = optarg;
            break;
        case 'g':
            st = number("--greedy", optarg, 0, GREEDY_MAX, &o->greedy);
            break;
        default:
            o->help = 1;
        }
    }
    if (e.text[0]) {
        fprintf(stderr, "outrider logits: %s\n", e.text);
        return st;
    }
    if (st == 0 && optind < argc)
        st = complain("argument", argv[optind], "options only; ids come from standard input");
    if (st == 0 && !o->help && !o->dir)
        st = complain("--model", "(missing)", "a checkpoint directory");
    if (st == 0 && !o->help && !o->jsonl)
        st = complain("--jsonl", "(missing)", "it, as the one form of input there is");
    return st;
}

/* --- one line --- */

/* One sequence being fed. */
struct line {
    struct cpu_kv *kv; /* owns */
    int32_t *ids;      /* owns; (n) */
    int32_t *page;     /* owns */
    int n;             /* ids given */
    json_t *rows;      /* borrows */
};

/* The k likeliest of a row as [[id, logit], ...]; ties by the lower id. */
static json_t *top_of(const float *row, int32_t vocab, int k)
{
    int32_t best[TOP_MAX];
    int n = 0;
    for (int32_t v = 0; v < vocab; v++) {
        int at = n;
        while (at > 0 && row[v] > row[best[at - 1]])
            at--;
        if (at == k)
            continue;
        n += n < k;
        memmove(best + at + 1, best + at, (size_t) (n - at - 1) * sizeof *best);
        best[at] = v;
    }
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("[i, f]", best[i], (double) row[best[i]]));
    return list;
}

static int all_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

/* Shows and stores what was asked for of m rows that begin at position `at`; only the last row is shown unless all are. */
static int give_rows(struct work *w, struct line *l, int at, int m, const float *logits, struct err *e)
{
    if (w->raw && fwrite(logits, sizeof *logits * (size_t) w->vocab, (size_t) m, w->raw) != (size_t) m)
        return err_set(e, ST_IO, "%s: cannot write", w->o.raw);
    if (!all_finite(logits, (int64_t) m * w->vocab))
        return err_set(e, ST_NONFINITE, "logits of positions %d to %d are not all finite", at, at + m - 1);
    for (int r = 0; r < m; r++)
        if (w->o.all_rows || at + r == l->n - 1)
            json_array_append_new(l->rows,
                                  json_pack("{s:i, s:o}", "row", at + r, "top",
                                            top_of(logits + (int64_t) r * w->vocab, w->vocab, w->o.top)));
    return 0;
}

enum want { WANT_NONE, WANT_LAST, WANT_ALL };

/* Feeds m tokens at position `at`; the logits of all of them, or of the last alone, lie in w->logits after it. */
static int feed(struct work *w, struct line *l, const int32_t *ids, int at, int m, enum want want)
{
    struct cpu_row row[CHUNK];
    for (int i = 0; i < m; i++)
        row[i] = (struct cpu_row){.tok = ids[i],
                                  .pos = at + i,
                                  .page = l->page,
                                  .slot = -1,
                                  .logits = want == WANT_ALL                  ? i
                                            : want == WANT_LAST && i == m - 1 ? 0
                                                                              : -1};
    return cpu_forward(w->weights, l->kv, row, m, w->logits, w->vocab, 0);
}

static int feed_given(struct work *w, struct line *l, const float **last, struct err *e)
{
    int all = w->raw || w->o.all_rows;
    for (int at = 0, m; at < l->n; at += m) {
        m = l->n - at < CHUNK ? l->n - at : CHUNK;
        enum want want = all ? WANT_ALL : at + m == l->n ? WANT_LAST : WANT_NONE;
        int st = feed(w, l, l->ids + at, at, m, want), n = want == WANT_ALL ? m : want == WANT_LAST;
        if (st)
            return err_set(e, st, "no memory for a pass over %d rows", m);
        st = give_rows(w, l, at + m - n, n, w->logits, e);
        if (st)
            return st;
        *last = w->logits + (int64_t) (n ? n - 1 : 0) * w->vocab;
    }
    return 0;
}

static int32_t argmax(const float *row, int32_t vocab)
{
    int32_t best = 0;
    for (int32_t v = 1; v < vocab; v++)
        if (row[v] > row[best])
            best = v;
    return best;
}

static int feed_greedy(struct work *w, struct line *l, const float *last, json_t *out, struct err *e)
{
    for (int i = 0; i < w->o.greedy; i++) {
        if (!all_finite(last, w->vocab))
            return err_set(e, ST_NONFINITE, "logits of position %d are not all finite", l->n + i - 1);
        int32_t tok = argmax(last, w->vocab);
        json_array_append_new(out, json_integer(tok));
        if (i + 1 == w->o.greedy)
            break;
        if (feed(w, l, &tok, l->n + i, 1, WANT_LAST))
            return err_set(e, ST_NOMEM, "no memory for a pass");
        last = w->logits;
    }
    return 0;
}

static int read_ids(const struct work *w, const json_t *list, struct line *l, struct err *e)
{
    const struct config *g = &w->model->config;
    size_t n = json_array_size(list);
    if (n == 0)
        return err_set(e, ST_INPUT, "\"ids\" must be a list of at least one token id");
    if (n + (size_t) w->o.greedy > (size_t) g->ctx_max)
        return err_set(e, ST_LIMIT, "%zu ids and %d to come are over the model's context of %d", n,
                       w->o.greedy, g->ctx_max);
    l->n = (int) n;
    l->ids = calloc(n, sizeof *l->ids);
    if (!l->ids)
        return err_set(e, ST_NOMEM, "no memory for %zu ids", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t v = json_integer_value(id);
        if (!json_is_integer(id) || v < 0 || v >= g->vocab)
            return err_set(e, ST_INPUT, "\"ids\"[%zu] must be a whole number from 0 to %d", i, g->vocab - 1);
        l->ids[i] = (int32_t) v;
    }
    return 0;
}

static int open_line(const struct work *w, const json_t *in, struct line *l, struct err *e)
{
    int st = read_ids(w, json_object_get(in, "ids"), l, e);
    if (st)
        return st;
    int pages = (l->n + w->o.greedy + CPU_PAGE - 1) / CPU_PAGE;
    l->page = calloc((size_t) pages, sizeof *l->page);
    if (!l->page)
        return err_set(e, ST_NOMEM, "no memory for %d page numbers", pages);
    for (int i = 0; i < pages; i++)
        l->page[i] = i;
    return cpu_kv_open(&l->kv, w->model, w->o.kv, pages, 0, e);
}

static int run_line(struct work *w, const char *text, json_t *out, struct err *e)
{
    struct line l = {0};
    json_error_t je;
    const float *last = NULL;
    json_t *in = json_loads(text, JSON_REJECT_DUPLICATES, &je), *greedy = json_array();
    int st =
        in ? open_line(w, in, &l, e) : err_set(e, ST_INPUT, "not JSON: %s (column %d)", je.text, je.column);
    l.rows = json_array();
    if (st == 0)
        st = feed_given(w, &l, &last, e);
    if (st == 0)
        st = feed_greedy(w, &l, last, greedy, e);
    json_object_set_new(out, "n", json_integer(l.n));
    json_object_set(out, "rows", l.rows);
    if (w->o.greedy)
        json_object_set(out, "greedy", greedy);
    json_decref(in);
    json_decref(greedy);
    json_decref(l.rows);
    cpu_kv_close(l.kv);
    free(l.page);
    free(l.ids);
    return st;
}

/* --- all lines --- */

static int run_lines(struct work *w)
{
    char *text = NULL;
    size_t cap = 0;
    int failed = 0;
    while (getline(&text, &cap, stdin) >= 0) {
        struct err e = {0};
        json_t *out = json_object();
        w->line++;
        if (run_line(w, text, out, &e)) {
            json_decref(out);
            out = json_pack("{s:I, s:s}", "line", (json_int_t) w->line, "error", e.text);
            failed = 1;
        }
        json_dumpf(out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        fflush(stdout);
        json_decref(out);
    }
    free(text);
    return failed;
}

static int open_all(struct work *w, struct err *e)
{
    int st = model_open(&w->model, w->o.dir, e);
    if (st == 0)
        st = cpu_open(&w->cpu, &(struct cpu_opts){.threads = w->o.threads, .isa = w->o.isa}, e);
    if (st == 0)
        st = cpu_model_open(&w->weights, w->cpu, w->model, w->o.quant, e);
    if (st)
        return st;
    w->vocab = w->model->config.vocab;
    w->logits = malloc((size_t) CHUNK * (size_t) w->vocab * sizeof *w->logits);
    if (!w->logits)
        return err_set(e, ST_NOMEM, "no memory for %d rows of logits", CHUNK);
    if (w->o.raw && !(w->raw = fopen(w->o.raw, "wb")))
        return err_set(e, ST_IO, "%s: cannot be written", w->o.raw);
    return 0;
}

int cmd_logits(int argc, char **argv)
{
    struct work w = {0};
    struct err e = {0};
    int st = parse(argc, argv, &w.o);
    if (st == -1) /* its own complaint */
        fprintf(stderr, "`outrider logits --help` explains\n");
    if (st)
        return EXIT_USAGE;
    if (w.o.help) {
        usage(stdout);
        return EXIT_DONE;
    }
    int failed = open_all(&w, &e) != 0;
    if (failed)
        fprintf(stderr, "outrider logits: %s\n", e.text);
    else
        failed = run_lines(&w);
    if (w.raw && fclose(w.raw)) {
        fprintf(stderr, "outrider logits: %s: cannot write\n", w.o.raw);
        failed = 1;
    }
    free(w.logits);
    cpu_model_close(w.weights);
    cpu_close(w.cpu);
    model_close(w.model);
    return failed ? EXIT_FAILED : EXIT_DONE;
}
