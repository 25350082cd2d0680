/* cmd_bench_forward.c - `outrider bench-forward --model M`: T(M), milliseconds of one pass over M rows, the unit of cost that
 * everything else is planned with (DESIGN.md section 9), held against what this machine can read and compute.
 *
 * Up to 64 rows are a tree's pass: a chain of in-flight rows in slots, above `context` settled positions, the output layer on
 * all of them, the draw left out.  More rows are a prompt's: settled rows written to pages, positions `context` and on, the
 * output layer on the last one alone.  The tokens are arbitrary; time does not depend on them but where rows choose experts.
 *
 * Sizes take turns, so that what else the machine does strikes all of them; T is the median.  The read bandwidth is probed
 * before, among and after the passes.  Offline; one thread calls, the pool's compute. */
#include "client/cmd.h"
#include "client/options.h"
#include "core/tree.h"
#include "cpu/cpu.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SIZES_MAX = 16,
    ROWS_MAX = 4096, /* of a prompt in one pass */
    CONTEXT_MAX = 131072,
    PASSES_MAX = 4000, /* a size */
    PASSES_MIN = 3,    /* however long they take */
    SECONDS_MAX = 3600,
    THREADS_MAX = 256,
    PROBE_ROUNDS = 10,
    PROBE_BYTES = 1 << 30
};

struct size {
    int rows;
    int n;      /* passes measured */
    double *ms; /* owns; (PASSES_MAX), sorted at the end */
};

struct bench {
    const char *model_name, *quant_name, *isa_name;
    int threads, context, seconds, json, help;
    int n_sizes;
    struct size size[SIZES_MAX];
    struct model *model;
    struct cpu *cpu;
    struct cpu_model *weights;
    struct cpu_kv *kv;
    struct cpu_bandwidth *probe;
    int probed;
    int32_t *page;       /* owns */
    struct cpu_row *row; /* owns; (ROWS_MAX) */
    float *logits;       /* owns; (TREE_MAX, vocab) */
};

static const char help[] =
    "usage: outrider bench-forward --model M [OPTIONS]\n\n"
    "Milliseconds of one pass over so many rows, on the CPU, without a daemon: tokens/s, GB/s and their "
    "share of what\n"
    "this machine can read, GOP/s.  Up to 64 rows: a tree's pass, output layer on all rows, the draw left "
    "out.  More: a\n"
    "prompt's, output layer on the last row.\n\n"
    "  --model M       a directory, a .gguf file or synth:SHAPE\n"
    "  --quant TYPE    weights: stored (default), f32, bf16, f16, q8, q4\n"
    "  --threads N     1 to 256 (default: the processors online)\n"
    "  --isa NAME      auto (default), twin, avx2, avxvnni, avx512, vnni\n"
    "  --rows LIST     default 1,2,4,8,16,32,64,512\n"
    "  --context C     settled positions before the rows (default 128)\n"
    "  --seconds S     how long to measure, at least three passes of each size (default 20)\n"
    "  --json          one JSON object instead of a table\n";

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec * 1e3 + (double) t.tv_nsec * 1e-6;
}

/* --- options --- */

static int add_rows(struct bench *b, const char *word, struct err *e)
{
    int32_t n;
    int st = options_int(word, "--rows", 1, ROWS_MAX, &n, e);
    if (st)
        return st;
    if (b->n_sizes == SIZES_MAX)
        return err_set(e, ST_INPUT, "--rows takes at most %d numbers", SIZES_MAX);
    b->size[b->n_sizes++].rows = n;
    return 0;
}

static int read_rows(struct bench *b, const char *list, struct err *e)
{
    char copy[256];
    int st = 0;
    if (strlen(list) >= sizeof copy)
        return err_set(e, ST_INPUT, "--rows '%.40s...' is too long; expected numbers and commas", list);
    strcpy(copy, list);
    b->n_sizes = 0;
    for (char *at = copy, *word; st == 0 && (word = strsep(&at, ","));)
        st = add_rows(b, word, e);
    return st;
}

static int read_option(struct bench *b, int c, struct err *e)
{
    int32_t *number = c == 't' ? &b->threads : c == 'c' ? &b->context : c == 's' ? &b->seconds : NULL;
    switch (c) {
    case 'm':
        b->model_name = optarg;
        return 0;
    case 'q':
        b->quant_name = optarg;
        return 0;
    case 'i':
        b->isa_name = optarg;
        return 0;
    case 'r':
        return read_rows(b, optarg, e);
    case 't':
        return options_int(optarg, "--threads", 1, THREADS_MAX, number, e);
    case 'c':
        return options_int(optarg, "--context", 0, CONTEXT_MAX, number, e);
    case 's':
        return options_int(optarg, "--seconds", 0, SECONDS_MAX, number, e);
    case 'j':
        b->json = 1;
        return 0;
    case 'h':
        b->help = 1;
        return 0;
    default:
        return err_set(e, ST_INPUT, "bad option");
    }
}

static int parse(struct bench *b, int argc, char **argv, struct err *e)
{
    static const struct option list[] = {{"model", 1, 0, 'm'},   {"quant", 1, 0, 'q'},
                                         {"isa", 1, 0, 'i'},     {"rows", 1, 0, 'r'},
                                         {"threads", 1, 0, 't'}, {"context", 1, 0, 'c'},
                                         {"seconds", 1, 0, 's'}, {"json", 0, 0, 'j'},
                                         {"help", 0, 0, 'h'},    {0}};
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    *b = (struct bench){.quant_name = "stored", .isa_name = "auto", .context = 128, .seconds = 20};
    b->threads = online < 1 ? 1 : online > THREADS_MAX ? THREADS_MAX : (int) online;
    int st = read_rows(b, "1,2,4,8,16,32,64,512", e);
    for (int c; st == 0 && (c = getopt_long(argc, argv, "h", list, NULL)) != -1;)
        st = read_option(b, c, e);
    if (st || b->help)
        return st;
    if (optind < argc)
        return err_set(e, ST_INPUT, "unexpected '%s'; expected options only", argv[optind]);
    if (!b->model_name)
        return err_set(e, ST_INPUT, "--model M is missing");
    if (cpu_quant_find(b->quant_name) < 0)
        return err_set(e, ST_INPUT, "--quant must be one of stored|f32|bf16|f16|q8|q4, not '%s'",
                       b->quant_name);
    if (cpu_isa_find(b->isa_name) < 0)
        return err_set(e, ST_INPUT, "--isa must be one of auto|twin|avx2|avxvnni|avx512|vnni, not '%s'",
                       b->isa_name);
    return 0;
}

/* --- what is measured --- */

static int prompt(int rows)
{
    return rows > TREE_MAX;
}

static int most_rows(const struct bench *b)
{
    int most = 0;
    for (int i = 0; i < b->n_sizes; i++)
        most = b->size[i].rows > most ? b->size[i].rows : most;
    return most;
}

/* Settled rows at positions from `at` on; the last one's logits or none. */
static int settle(struct bench *b, int at, int n, float *logits)
{
    for (int i = 0; i < n; i++)
        b->row[i] = (struct cpu_row){.tok = 7 * i % b->model->config.vocab,
                                     .pos = at + i,
                                     .page = b->page,
                                     .slot = -1,
                                     .logits = logits && i == n - 1 ? 0 : -1};
    return cpu_forward(b->weights, b->kv, b->row, n, logits, b->model->config.vocab, 0);
}

/* A chain in slots, scattered as a tree's would be. */
static int score(struct bench *b, int n)
{
    int32_t slot[TREE_MAX];
    for (int i = 0; i < n; i++) {
        slot[i] = (i * 37 + 5) % TREE_MAX;
        b->row[i] = (struct cpu_row){.tok = (7 * i + 1) % b->model->config.vocab,
                                     .pos = b->context + i,
                                     .page = b->page,
                                     .n_tail = i,
                                     .tail = slot,
                                     .slot = slot[i],
                                     .logits = i};
    }
    return cpu_forward(b->weights, b->kv, b->row, n, b->logits, b->model->config.vocab, 0);
}

static int pass(struct bench *b, int rows, double *ms)
{
    double at = now_ms();
    int st = prompt(rows) ? settle(b, b->context, rows, b->logits) : score(b, rows);
    *ms = now_ms() - at;
    return st;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static void probe(struct bench *b, int upto)
{
    for (; b->probed < upto; b->probed++)
        cpu_bandwidth_round(b->probe);
}

/* Rounds of all sizes until the time is up; a long prompt's pass is taken in every fourth round after the first three. */
static int measure(struct bench *b)
{
    double warm, start = now_ms(), share = 0;
    int st = 0;
    for (int i = 0; st == 0 && i < b->n_sizes; i++)
        st = pass(b, b->size[i].rows, &warm);
    for (int round = 0; st == 0 && round < PASSES_MAX && (round < PASSES_MIN || share < 1); round++) {
        for (int i = 0; st == 0 && i < b->n_sizes; i++) {
            struct size *s = &b->size[i];
            if (!prompt(s->rows) || round < PASSES_MIN || round % 4 == 0)
                st = pass(b, s->rows, &s->ms[s->n++]);
        }
        share = b->seconds ? (now_ms() - start) * 1e-3 / b->seconds : 1;
        probe(b, share < 1 ? (int) (share * PROBE_ROUNDS) : PROBE_ROUNDS);
    }
    probe(b, PROBE_ROUNDS);
    for (int i = 0; i < b->n_sizes; i++)
        qsort(b->size[i].ms, (size_t) b->size[i].n, sizeof *b->size[i].ms, by_value);
    return st;
}

static int fill_context(struct bench *b)
{
    enum { CHUNK = 256 };
    int st = 0;
    for (int at = 0; st == 0 && at < b->context; at += CHUNK)
        st = settle(b, at, b->context - at < CHUNK ? b->context - at : CHUNK, NULL);
    return st;
}

static int get_memory(struct bench *b, int pages, struct err *e)
{
    b->page = calloc((size_t) pages, sizeof *b->page);
    b->row = calloc(ROWS_MAX, sizeof *b->row);
    b->logits = malloc((size_t) TREE_MAX * (size_t) b->model->config.vocab * sizeof *b->logits);
    int lacks = !b->page || !b->row || !b->logits;
    for (int i = 0; i < b->n_sizes; i++)
        lacks |= !(b->size[i].ms = calloc(PASSES_MAX, sizeof(double)));
    if (lacks)
        return err_set(e, ST_NOMEM, "no memory for the rows and their logits");
    for (int i = 0; i < pages; i++)
        b->page[i] = i;
    return 0;
}

static int open_all(struct bench *b, struct err *e)
{
    int quant = cpu_quant_find(b->quant_name), last = b->context + most_rows(b);
    int pages = (last + CPU_PAGE) / CPU_PAGE;
    int st = model_open(&b->model, b->model_name, e);
    if (st == 0 && last > b->model->config.ctx_max)
        st = err_set(e, ST_INPUT, "--context %d and %d rows are more than the model's %d positions",
                     b->context, most_rows(b), b->model->config.ctx_max);
    if (st == 0)
        st = cpu_open(&b->cpu,
                      &(struct cpu_opts){.threads = b->threads, .isa = cpu_isa_find(b->isa_name), .pin = 1},
                      e);
    if (st == 0)
        cpu_home(b->cpu);
    if (st == 0)
        st = cpu_bandwidth_open(&b->probe, b->cpu, PROBE_BYTES, e);
    if (st == 0)
        st = cpu_model_open(&b->weights, b->cpu, b->model, quant, e);
    if (st == 0)
        st = cpu_kv_open(&b->kv, b->model, CPU_KV_BF16, pages, TREE_MAX, e);
    return st ? st : get_memory(b, pages, e);
}

static void close_all(struct bench *b)
{
    for (int i = 0; i < b->n_sizes; i++)
        free(b->size[i].ms);
    free(b->page);
    free(b->row);
    free(b->logits);
    cpu_kv_close(b->kv);
    cpu_model_close(b->weights);
    cpu_bandwidth_close(b->probe);
    cpu_close(b->cpu);
    model_close(b->model);
}

/* --- figures --- */

/* Multiply-adds a row: matrices without the output layer, the output layer, attention over the keys. */
struct work {
    double body, head, a_key;
};

static struct work work_of(const struct config *g)
{
    struct work w = {0};
    double hidden = g->hidden, heads = (double) g->n_heads * g->head_dim,
           kv = (double) g->n_kv_heads * g->head_dim;
    for (int l = 0; l < g->n_layers; l++) {
        int experts = g->moe.n_experts && g->moe.layer[l];
        double ffn = experts ? (double) g->moe.ffn * g->moe.n_used : g->ffn;
        w.body += hidden * (2 * heads + 2 * kv + 3 * ffn) + (experts ? hidden * g->moe.n_experts : 0);
    }
    w.head = hidden * g->vocab;
    w.a_key = 2 * heads * g->n_layers;
    return w;
}

struct figures {
    double ms, best_ms, ratio, tokens_s, gbs, share, gops;
    int has_gbs; /* bytes are known: experts beside the first row's are not */
};

static double best_gbs(const struct bench *b)
{
    const double *gbs = cpu_bandwidth_gbs(b->probe);
    double best = 0;
    for (int i = 0; i < CPU_READ_PATTERNS; i++)
        best = gbs[i] > best ? gbs[i] : best;
    return best;
}

static struct figures figures_of(const struct bench *b, const struct size *s, double base_ms)
{
    const struct config *g = &b->model->config;
    struct work w = work_of(g);
    double rows = s->rows, keys = b->context + (rows + 1) / 2; /* a row's, in the mean */
    double bytes = (double) cpu_model_bytes(b->weights);
    struct figures f = {
        .ms = s->ms[s->n / 2], .best_ms = s->ms[0], .has_gbs = !g->moe.n_experts || s->rows == 1};
    bytes += (double) cpu_kv_page_bytes(b->model, CPU_KV_BF16) / CPU_PAGE * b->context;
    f.ratio = f.ms / base_ms;
    f.tokens_s = rows * 1e3 / f.ms;
    f.gbs = bytes * 1e-6 / f.ms;
    f.share = f.gbs / best_gbs(b);
    f.gops = 2e-6 * (rows * (w.body + w.a_key * keys) + (prompt(s->rows) ? 1 : rows) * w.head) / f.ms;
    return f;
}

static json_t *size_json(const struct bench *b, const struct size *s)
{
    struct figures f = figures_of(b, s, b->size[0].ms[b->size[0].n / 2]);
    json_t *o = json_pack("{s:i, s:s, s:i, s:f, s:f, s:f, s:f, s:f}", "rows", s->rows, "kind",
                          prompt(s->rows) ? "prompt" : "tree", "passes", s->n, "ms", f.ms, "best_ms",
                          f.best_ms, "ratio", f.ratio, "tokens_s", f.tokens_s, "gops", f.gops);
    if (f.has_gbs) {
        json_object_set_new(o, "gbs", json_real(f.gbs));
        json_object_set_new(o, "of_read", json_real(f.share));
    }
    return o;
}

static void print_json(const struct bench *b)
{
    const double *gbs = cpu_bandwidth_gbs(b->probe);
    json_t *sizes = json_array();
    for (int i = 0; i < b->n_sizes; i++)
        json_array_append_new(sizes, size_json(b, &b->size[i]));
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:f, s:{s:f, s:f, s:f, s:f}, s:o}", "model", b->model_name,
                  "quant", b->quant_name, "isa", cpu_isa_name(b->cpu), "threads", b->threads, "context",
                  b->context, "weights_mb", (double) cpu_model_bytes(b->weights) * 1e-6, "read_gbs", "best",
                  best_gbs(b), "stretch", gbs[CPU_READ_STRETCH], "turns", gbs[CPU_READ_TURNS], "streams",
                  gbs[CPU_READ_STREAMS], "sizes", sizes);
    json_dumpf(o, stdout, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(5) | JSON_COMPACT);
    printf("\n");
    json_decref(o);
}

static void print_table(const struct bench *b)
{
    const double *gbs = cpu_bandwidth_gbs(b->probe);
    printf("%s, %s, %s, %d threads, context %d: %.1f MB of weights a pass\n", b->model_name, b->quant_name,
           cpu_isa_name(b->cpu), b->threads, b->context, (double) cpu_model_bytes(b->weights) * 1e-6);
    printf("this machine reads %.2f GB/s (a stretch a thread %.2f, in turns %.2f, four streams %.2f; best of "
           "%d)\n\n",
           best_gbs(b), gbs[CPU_READ_STRETCH], gbs[CPU_READ_TURNS], gbs[CPU_READ_STREAMS], PROBE_ROUNDS);
    printf("%6s %-7s %7s %9s %9s %7s %10s %7s %8s %8s\n", "rows", "kind", "passes", "ms", "best", "ratio",
           "tokens/s", "GB/s", "of read", "GOP/s");
    for (int i = 0; i < b->n_sizes; i++) {
        const struct size *s = &b->size[i];
        struct figures f = figures_of(b, s, b->size[0].ms[b->size[0].n / 2]);
        printf("%6d %-7s %7d %9.2f %9.2f %7.2f %10.1f ", s->rows, prompt(s->rows) ? "prompt" : "tree", s->n,
               f.ms, f.best_ms, f.ratio, f.tokens_s);
        if (f.has_gbs)
            printf("%7.2f %7.1f%% ", f.gbs, f.share * 100);
        else
            printf("%7s %8s ", "-", "-");
        printf("%8.1f\n", f.gops);
    }
}

int cmd_bench_forward(int argc, char **argv)
{
    struct bench b;
    struct err e = {0};
    if (parse(&b, argc, argv, &e)) {
        fprintf(stderr, "outrider bench-forward: %s\n\n%s", e.text, help);
        return EXIT_USAGE;
    }
    if (b.help) {
        fputs(help, stdout);
        return EXIT_DONE;
    }
    int st = open_all(&b, &e);
    if (st == 0 && ((st = fill_context(&b)) || (st = measure(&b))))
        err_set(&e, st, "a pass failed: %s", status_text(st));
    if (st)
        fprintf(stderr, "outrider bench-forward: %s\n", e.text);
    else
        (b.json ? print_json : print_table)(&b);
    close_all(&b);
    return st == 0 ? EXIT_DONE : st == ST_INPUT ? EXIT_USAGE : EXIT_FAILED;
}
