/* forward.c - T(M): milliseconds of one pass over M rows, the unit of cost everything else is planned with (DESIGN.md 9).
 *
 *     forward [--shape 0.6b|tiny|moe] [--quant q8|q4|f16|bf16|f32] [--isa NAME] [--threads N] [--context N] [--seconds S]
 *
 * moe: two layers of 30B-A3B with a small vocabulary; 8 of 128 experts a row.
 *
 * A random model in memory; M rows of one sequence, as a chain in slots below `context` settled positions, the output layer
 * on all rows: a tree's pass.  T is the median, and the best, of the passes that fit into S seconds, the sizes taking
 * turns.  The read bandwidth is measured beside it, by summing a block as large as the weights on as many threads. */
#include "core/tree.h"
#include "cpu/cpu.h"
#include "tests/lib/synth.h"

#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS_MAX = 32, PASSES_MAX = 4000, SLOTS = 64, THREADS_MAX = 256 };

static const struct config shapes[] = {
    {.n_layers = 28,
     .hidden = 1024,
     .n_heads = 16,
     .n_kv_heads = 8,
     .head_dim = 128,
     .ffn = 3072,
     .vocab = 151936,
     .ctx_max = 40960,
     .rope_theta = 1e6f,
     .rms_eps = 1e-6f,
     .tied = 1},
    {.n_layers = 4,
     .hidden = 256,
     .n_heads = 4,
     .n_kv_heads = 2,
     .head_dim = 64,
     .ffn = 768,
     .vocab = 1024,
     .ctx_max = 2048,
     .rope_theta = 1e6f,
     .rms_eps = 1e-6f,
     .tied = 1},
    {.n_layers = 2,
     .hidden = 2048,
     .n_heads = 32,
     .n_kv_heads = 4,
     .head_dim = 128,
     .ffn = 6144,
     .vocab = 1024,
     .ctx_max = 40960,
     .rope_theta = 1e6f,
     .rms_eps = 1e-6f,
     .moe = {128, 8, 768, 1, {1, 1}}},
};
static const char *const shape_name[] = {"0.6b", "tiny", "moe"};

struct bench {
    int shape, quant, isa, threads, context;
    double seconds;
    struct cpu *cpu;
    struct cpu_model *weights;
    struct cpu_kv *kv;
    int32_t *page;
    float *logits; /* (ROWS_MAX, vocab) */
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec * 1e3 + (double) t.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

/* --- read bandwidth --- */

struct share {
    const uint64_t *p;
    size_t n;
    uint64_t sum;
};

static void *add_up(void *arg)
{
    struct share *s = arg;
    uint64_t a[8] = {0};
    for (size_t i = 0; i + 8 <= s->n; i += 8)
        for (int j = 0; j < 8; j++)
            a[j] += s->p[i + (size_t) j];
    for (int j = 0; j < 8; j++)
        s->sum += a[j];
    return NULL;
}

/* GB/s; the best of five. */
static double read_bandwidth(size_t bytes, int threads)
{
    uint64_t *block = malloc(bytes);
    if (!block)
        return 0;
    memset(block, 1, bytes);
    double best = 1e9;
    for (int t = 0; t < 5; t++) {
        pthread_t id[THREADS_MAX];
        struct share share[THREADS_MAX];
        double start = now_ms();
        for (int i = 0; i < threads; i++) {
            size_t n = bytes / 8 / (size_t) threads;
            share[i] = (struct share){block + (size_t) i * n, n, 0};
            pthread_create(&id[i], NULL, add_up, &share[i]);
        }
        for (int i = 0; i < threads; i++)
            pthread_join(id[i], NULL);
        double ms = now_ms() - start;
        best = ms < best ? ms : best;
    }
    free(block);
    return (double) bytes / best / 1e6;
}

/* --- passes --- */

static int fill_context(struct bench *b)
{
    enum { CHUNK = 32 };
    struct cpu_row row[CHUNK];
    for (int at = 0; at < b->context; at += CHUNK) {
        int n = b->context - at < CHUNK ? b->context - at : CHUNK;
        for (int i = 0; i < n; i++)
            row[i] =
                (struct cpu_row){.tok = at + i, .pos = at + i, .page = b->page, .slot = -1, .logits = -1};
        int st = cpu_forward(b->weights, b->kv, row, n, NULL, 0, 0);
        if (st)
            return st;
    }
    return 0;
}

/* Milliseconds of one pass over m rows. */
static double time_pass(struct bench *b, int m)
{
    struct cpu_row row[ROWS_MAX];
    int32_t slot[ROWS_MAX];
    for (int i = 0; i < m; i++) {
        slot[i] = (i * 37 + 5) % SLOTS;
        row[i] = (struct cpu_row){.tok = 7 * i + 1,
                                  .pos = b->context + i,
                                  .page = b->page,
                                  .n_tail = i,
                                  .tail = slot,
                                  .slot = slot[i],
                                  .logits = i};
    }
    double start = now_ms();
    if (cpu_forward(b->weights, b->kv, row, m, b->logits, shapes[b->shape].vocab, 0))
        exit(1);
    return now_ms() - start;
}

static const int rows[] = {1, 2, 4, 8, 16, 32};
enum { SIZES = sizeof rows / sizeof *rows };

/* Fills ms[size] with sorted times.  The sizes take turns, so that what else the machine does strikes all of them. */
static int time_all(struct bench *b, double ms[SIZES][PASSES_MAX])
{
    int n = 0;
    double end = now_ms() + b->seconds * 1e3;
    for (int i = 0; i < SIZES; i++)
        time_pass(b, rows[i]);
    for (; n < PASSES_MAX && (n < 3 || now_ms() < end); n++)
        for (int i = 0; i < SIZES; i++)
            ms[i][n] = time_pass(b, rows[i]);
    for (int i = 0; i < SIZES; i++)
        qsort(ms[i], (size_t) n, sizeof ms[i][0], by_value);
    return n;
}

static int word(const char *value, const char *const *list, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(value, list[i]) == 0)
            return i;
    fprintf(stderr, "forward: '%s' is not known here\n", value);
    exit(2);
}

static void parse(struct bench *b, int argc, char **argv)
{
    static const char *const isa[] = {"auto", "twin", "avx2", "avx512", "vnni"};
    static const struct option list[] = {{"shape", 1, 0, 's'},
                                         {"quant", 1, 0, 'q'},
                                         {"isa", 1, 0, 'i'},
                                         {"threads", 1, 0, 't'},
                                         {"context", 1, 0, 'c'},
                                         {"seconds", 1, 0, 'd'},
                                         {0}};
    for (int c; (c = getopt_long(argc, argv, "", list, NULL)) != -1;) {
        switch (c) {
        case 's':
            b->shape = word(optarg, shape_name, 3);
            break;
        case 'q':
            b->quant = cpu_quant_find(optarg);
            if (b->quant < 0 || b->quant == CPU_QUANT_STORED) {
                fprintf(stderr, "forward: '%s' is not known here\n", optarg);
                exit(2);
            }
            break;
        case 'i':
            b->isa = word(optarg, isa, 5);
            break;
        case 't':
            b->threads = atoi(optarg);
            break;
        case 'c':
            b->context = atoi(optarg);
            break;
        case 'd':
            b->seconds = atof(optarg);
            break;
        default:
            exit(2);
        }
    }
}

static void report(struct bench *b)
{
    static double ms[SIZES][PASSES_MAX];
    size_t bytes = cpu_model_bytes(b->weights);
    double gbs = read_bandwidth(bytes, b->threads);
    int n = time_all(b, ms);
    printf(
        "{\"shape\":\"%s\",\"quant\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"context\":%d,\"weights_mb\":%.1f,"
        "\"read_gbs\":%.2f,\"limit_ms\":%.2f,\"passes\":%d,\"t\":{",
        shape_name[b->shape], cpu_quant_name(b->quant), cpu_isa_name(b->cpu), b->threads, b->context,
        (double) bytes / 1e6, gbs, (double) bytes / gbs / 1e6, n);
    for (int i = 0; i < SIZES; i++)
        printf("%s\"%d\":{\"ms\":%.3f,\"ratio\":%.2f,\"best_ms\":%.3f,\"best_ratio\":%.2f}", i ? "," : "",
               rows[i], ms[i][n / 2], ms[i][n / 2] / ms[0][n / 2], ms[i][0], ms[i][0] / ms[0][0]);
    printf("}}\n");
}

int main(int argc, char **argv)
{
    struct bench b = {.quant = CPU_QUANT_Q8, .threads = 2, .context = 128, .seconds = 10};
    struct err e = {0};
    parse(&b, argc, argv);
    const struct config *g = &shapes[b.shape];
    struct model *m = synth_model_new(g, TENSOR_BF16, 1);
    int pages = (b.context + ROWS_MAX) / CPU_PAGE + 1;
    int st = cpu_open(&b.cpu, &(struct cpu_opts){.threads = b.threads, .isa = b.isa}, &e);
    if (st == 0)
        st = cpu_model_open(&b.weights, b.cpu, m, b.quant, &e);
    if (st == 0)
        st = cpu_kv_open(&b.kv, m, CPU_KV_BF16, pages, SLOTS, &e);
    if (st) {
        fprintf(stderr, "forward: %s\n", e.text);
        return 1;
    }
    b.page = calloc((size_t) pages, sizeof *b.page);
    b.logits = malloc((size_t) ROWS_MAX * (size_t) g->vocab * sizeof *b.logits);
    if (!b.page || !b.logits)
        return 1;
    for (int i = 0; i < pages; i++)
        b.page[i] = i;
    if (fill_context(&b) == 0)
        report(&b);
    free(b.page);
    free(b.logits);
    cpu_kv_close(b.kv);
    cpu_model_close(b.weights);
    cpu_close(b.cpu);
    synth_model_free(m);
    return 0;
}
