/* kern.c - what a GEMM costs by rows, against the read bandwidth of the same memory.
 *
 *     kern [--mb N] [--k N] [--isa NAME] [--kind q8|q4|bf16|f32] [--rounds N]
 *
 * A weight set larger than the last-level cache, cut into matrices of 192 panels; each thread takes half of every
 * matrix's panels.  A round runs the probe (a plain sum over the same bytes) and every row count once, so that what else
 * the machine does falls on all of them; the least of all rounds counts.  One JSON object: for one and two threads the
 * probe's GB/s and, by rows, ms, GB/s, ns a block (32 inputs of 16 outputs) and the ratio to one row.
 *
 * Figures of one run compare; figures of two runs on a shared machine do not. */
#include "tests/lib/kerns.h"

#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PANELS = 192, THREADS = 2, ROWS_MAX = 16, HUGE_PAGE = 2 << 20 };

static const int row_counts[] = {1, 2, 4, 8, 12, 16};
enum { COUNTS = sizeof row_counts / sizeof *row_counts };

struct bench {
    struct kern kern;
    int kind; /* 'q' (Q8), '4' (Q4), 'b' or 'f' */
    int k, matrices;
    size_t bytes, block_bytes;
    uint8_t *w;
    float *x; /* (ROWS_MAX, k) */
    int8_t *q;
    float *d;
    int32_t *sum;
    struct q8_row row[ROWS_MAX];
    float *out; /* (ROWS_MAX, PANELS * PANEL) */
};

struct part {
    const struct bench *b;
    int rows; /* 0: the probe */
    int thread, threads;
    pthread_barrier_t *start;
    double seconds;
    uint64_t seen;
};

static uint64_t probe(const uint8_t *from, size_t bytes)
{
    const uint64_t *p = (const uint64_t *) from;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i + 4 <= bytes / 8; i += 4)
        a += p[i], b += p[i + 1], c += p[i + 2], d += p[i + 3];
    return a + b + c + d;
}

static void multiply(const struct bench *b, const uint8_t *w, int p0, int p1, int rows)
{
    int64_t ldo = PANELS * PANEL;
    if (b->kind == 'q')
        b->kern.gemm_q8((const void *) w, b->k, p0, p1, b->row, rows, b->out, ldo, NULL);
    else if (b->kind == '4')
        b->kern.gemm_q4((const void *) w, b->k, p0, p1, b->row, rows, b->out, ldo, NULL);
    else if (b->kind == 'b')
        b->kern.gemm_bf16((const void *) w, b->k, p0, p1, b->x, b->k, rows, b->out, ldo);
    else
        b->kern.gemm_f32((const void *) w, b->k, p0, p1, b->x, b->k, rows, b->out, ldo);
}

static void *work(void *arg)
{
    struct part *t = arg;
    const struct bench *b = t->b;
    size_t matrix = b->bytes / (size_t) b->matrices;
    pthread_barrier_wait(t->start);
    double at = kerns_now();
    if (t->rows == 0)
        t->seen =
            probe(b->w + b->bytes / (size_t) t->threads * (size_t) t->thread, b->bytes / (size_t) t->threads);
    for (int i = 0; t->rows && i < b->matrices; i++)
        multiply(b, b->w + matrix * (size_t) i, PANELS * t->thread / t->threads,
                 PANELS * (t->thread + 1) / t->threads, t->rows);
    pthread_barrier_wait(t->start);
    t->seconds = kerns_now() - at;
    return NULL;
}

/* The caller is thread 0: a clock read by a thread that has to wait for a core measures the wait. */
static double seconds(const struct bench *b, int rows, int threads)
{
    pthread_barrier_t start;
    pthread_t id[THREADS];
    struct part part[THREADS];
    pthread_barrier_init(&start, NULL, (unsigned) threads);
    for (int i = 0; i < threads; i++) {
        part[i] = (struct part){b, rows, i, threads, &start, 0, 0};
        if (i && pthread_create(&id[i], NULL, work, &part[i]))
            abort();
    }
    work(&part[0]);
    for (int i = 1; i < threads; i++)
        pthread_join(id[i], NULL);
    pthread_barrier_destroy(&start);
    return part[0].seconds;
}

static void *get(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, HUGE_PAGE, bytes)) {
        fprintf(stderr, "kern: no memory for %zu bytes; give a smaller --mb\n", bytes);
        exit(1);
    }
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static void fill(struct bench *b, size_t mb)
{
    uint64_t rng = 1;
    size_t matrix = (size_t) PANELS * (size_t) (b->k / 32) * b->block_bytes;
    b->matrices = (int) ((mb << 20) / matrix) + 1;
    b->bytes = matrix * (size_t) b->matrices;
    b->w = get(b->bytes);
    /* Floats of 1 to 2, either sign, as BF16 and as F32: denormals cost a hundred times as much. */
    for (size_t i = 0; i < b->bytes / 8; i++)
        ((uint64_t *) (void *) b->w)[i] = (kerns_next(&rng) & 0x807f807f807f807full) | 0x3f803f803f803f80ull;
    for (size_t i = 0; (b->kind == 'q' || b->kind == '4') && i < b->bytes / b->block_bytes; i++)
        for (int o = 0; o < PANEL; o++) /* a block of either kind begins with its scales */
            ((uint16_t *) (void *) (b->w + i * b->block_bytes))[o] = 0x1c00; /* 2^-8 */
    size_t cells = (size_t) (ROWS_MAX * b->k);
    b->x = get(cells * 4), b->q = get(cells), b->d = get(cells / 8), b->sum = get(cells / 8);
    b->out = get(sizeof(float) * ROWS_MAX * PANELS * PANEL);
    for (size_t i = 0; i < cells; i++)
        b->x[i] = kerns_normal(&rng);
    for (int r = 0; r < ROWS_MAX; r++) {
        int blocks = b->k / 32;
        b->row[r] = (struct q8_row){b->q + r * b->k, b->d + r * blocks, b->sum + r * blocks};
        b->kern.quantize(b->x + r * b->k, b->k, b->q + r * b->k, b->d + r * blocks, b->sum + r * blocks);
    }
}

static void report(const struct bench *b, int threads, int rounds)
{
    double best[COUNTS + 1];
    for (int i = 0; i <= COUNTS; i++)
        best[i] = 1e9;
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i <= COUNTS; i++) {
            double s = seconds(b, i ? row_counts[i - 1] : 0, threads);
            best[i] = s < best[i] ? s : best[i];
        }
    double gb = (double) b->bytes * 1e-9, blocks = (double) (b->bytes / b->block_bytes);
    printf("\"%d\":{\"read_gbs\":%.2f,\"rows\":{", threads, gb / best[0]);
    for (int i = 1; i <= COUNTS; i++)
        printf("%s\"%d\":{\"ms\":%.2f,\"gbs\":%.2f,\"ns_block\":%.2f,\"ratio\":%.2f}", i > 1 ? "," : "",
               row_counts[i - 1], best[i] * 1e3, gb / best[i], best[i] * 1e9 / blocks, best[i] / best[1]);
    printf("}}");
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"mb", 1, 0, 'm'},   {"k", 1, 0, 'k'},      {"isa", 1, 0, 'i'},
                                            {"kind", 1, 0, 't'}, {"rounds", 1, 0, 'r'}, {0}};
    struct bench b = {.k = 1024, .kind = 'q'};
    struct kern table[KERNS_MAX];
    int mb = 600, rounds = 5, n = kerns_list(table), c;
    const char *isa = table[n - 1].name;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == '?')
            return 1;
        if (c == 'm')
            mb = atoi(optarg);
        else if (c == 'k')
            b.k = atoi(optarg);
        else if (c == 'i')
            isa = optarg;
        else if (c == 't')
            b.kind = strcmp(optarg, "q4") == 0 ? '4' : *optarg;
        else
            rounds = atoi(optarg);
    }
    for (int i = 0; i < n; i++)
        if (!strcmp(table[i].name, isa))
            b.kern = table[i];
    if (!b.kern.name || b.k < 32 || b.k % 32 || mb < 1 || rounds < 1 || !strchr("q4bf", b.kind)) {
        fprintf(stderr,
                "kern: wants --isa of this machine, --k a multiple of 32, --kind q8, q4, bf16 or f32\n");
        return 1;
    }
    b.block_bytes = b.kind == 'q'   ? sizeof(struct q8_block)
                    : b.kind == '4' ? sizeof(struct q4_block)
                    : b.kind == 'b' ? 1024
                                    : 2048;
    fill(&b, (size_t) mb);
    printf("{\"isa\":\"%s\",\"kind\":\"%c\",\"k\":%d,\"mb\":%.1f,\"threads\":{", isa, b.kind, b.k,
           (double) b.bytes / 1e6);
    report(&b, 1, rounds);
    printf(",");
    report(&b, 2, rounds);
    printf("}}\n");
    return 0;
}
