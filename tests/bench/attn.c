/* attn.c - attention against this machine's multiply-adds: rows of one sequence over a long context, all KV heads, two threads.
 *
 *     attn [--context N] [--isa NAME] [--threads N] [--rounds N]
 *
 * The 0.6B shape: 8 KV heads of two query heads each, 128 dimensions, BF16 keys and values, LAYERS layers of them so that no
 * cache keeps them.  A thread takes KV heads.  A round runs the peak (chains of fmaf in registers, by the widest kernels' own
 * width) and every row count once; the least of all rounds counts.  JSON: GFMA/s of the peak, and by rows ms a layer, the ratio
 * to one row, GFMA/s and their share of the peak. */
#include "tests/lib/kerns.h"

#include <getopt.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    HEADS = 8,
    GROUP = 2,
    DIM = 128,
    PAGE = 64,
    LAYERS = 6,
    THREADS_MAX = 64,
    ROWS_MAX = 16,
    HUGE_PAGE = 2 << 20
};

static const int row_counts[] = {1, 2, 4, 8, 16};
enum { COUNTS = sizeof row_counts / sizeof *row_counts };

struct bench {
    struct kern kern;
    int context, threads, pages, ld;
    uint16_t *kv;    /* (LAYERS, 2, HEADS, pages, PAGE * DIM) */
    float *q, *out;  /* (ROWS_MAX, HEADS, GROUP, DIM) */
    float *score;    /* (threads, ROWS_MAX, GROUP, ld) */
    const void **at; /* (threads, 2, pages) */
};

struct part {
    const struct bench *b;
    int rows, thread; /* rows 0: the peak */
    pthread_barrier_t *start;
    double seconds, gfma;
};

static const uint16_t *part_of(const struct bench *b, int layer, int values, int head, int page)
{
    size_t at =
        (((size_t) layer * 2 + (size_t) values) * HEADS + (size_t) head) * (size_t) b->pages + (size_t) page;
    return b->kv + at * PAGE * DIM;
}

static void attend(const struct bench *b, int layer, int head, int rows, int thread)
{
    struct attn_job job[ROWS_MAX];
    const void **k = b->at + (size_t) thread * 2 * (size_t) b->pages, **v = k + b->pages;
    for (int i = 0; i < b->pages; i++) {
        k[i] = part_of(b, layer, 0, head, i);
        v[i] = part_of(b, layer, 1, head, i);
    }
    for (int r = 0; r < rows; r++) {
        size_t at = ((size_t) r * HEADS + (size_t) head) * GROUP * DIM;
        job[r] = (struct attn_job){.q = b->q + at,
                                   .out = b->out + at,
                                   .group = GROUP,
                                   .head_dim = DIM,
                                   .pos = b->context - ROWS_MAX + r,
                                   .k_page = k,
                                   .v_page = v,
                                   .score = b->score + ((size_t) thread * ROWS_MAX + (size_t) r) * GROUP *
                                                           (size_t) b->ld};
    }
    b->kern.attn_bf16(job, rows);
}

/* Twelve chains, enough for two ports and a latency of four or five; by the compiler's own vectors. */
#define CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
enum { PEAK_STEPS = 4000000 };
#define PEAK(NAME, TARGET, T, SET, FMA, LANES)                                                               \
    __attribute__((target(TARGET))) static double NAME(void)                                                 \
    {                                                                                                        \
        CHAINS(T) T##_ m = SET(0.999f), a = SET(0.001f);                                                     \
        double at = kerns_now();                                                                             \
        for (int i = 0; i < PEAK_STEPS; i++) {                                                               \
            CHAINS(FMA)                                                                                      \
        }                                                                                                    \
        return 12.0 * LANES * PEAK_STEPS * 1e-9 / (kerns_now() - at);                                        \
    }
typedef __m512 Z_;
typedef __m256 Y_;
#define Z(i)  __m512 s##i = _mm512_set1_ps(1);
#define Y(i)  __m256 s##i = _mm256_set1_ps(1);
#define FZ(i) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+v"(s##i) : "v"(m), "v"(a));
#define FY(i) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+x"(s##i) : "x"(m), "x"(a));
PEAK(peak_zmm, "avx512f", Z, _mm512_set1_ps, FZ, 16)
PEAK(peak_ymm, "avx2,fma", Y, _mm256_set1_ps, FY, 8)

static void *work(void *arg)
{
    struct part *t = arg;
    const struct bench *b = t->b;
    pthread_barrier_wait(t->start);
    double at = kerns_now();
    if (t->rows == 0)
        t->gfma = strcmp(b->kern.name, "avx512") && strcmp(b->kern.name, "vnni") ? peak_ymm() : peak_zmm();
    for (int l = 0; t->rows && l < LAYERS; l++)
        for (int h = HEADS * t->thread / b->threads; h < HEADS * (t->thread + 1) / b->threads; h++)
            attend(b, l, h, t->rows, t->thread);
    pthread_barrier_wait(t->start);
    t->seconds = kerns_now() - at;
    return NULL;
}

static struct part run(const struct bench *b, int rows)
{
    pthread_barrier_t start;
    pthread_t id[THREADS_MAX];
    struct part part[THREADS_MAX];
    pthread_barrier_init(&start, NULL, (unsigned) b->threads);
    for (int i = 0; i < b->threads; i++) {
        part[i] = (struct part){.b = b, .rows = rows, .thread = i, .start = &start};
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(i, &one);
        if (i && pthread_create(&id[i], NULL, work, &part[i]))
            abort();
        pthread_setaffinity_np(i ? id[i] : pthread_self(), sizeof one,
                               &one); /* refused: it runs where it may */
    }
    work(&part[0]);
    for (int i = 1; i < b->threads; i++) {
        pthread_join(id[i], NULL);
        part[0].gfma += part[i].gfma;
    }
    pthread_barrier_destroy(&start);
    return part[0];
}

static void *get(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, HUGE_PAGE, bytes)) {
        fprintf(stderr, "attn: no memory for %zu bytes; give a smaller --context\n", bytes);
        exit(1);
    }
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static void fill(struct bench *b)
{
    uint64_t rng = 1;
    b->pages = (b->context + PAGE - 1) / PAGE;
    b->ld = b->pages * PAGE;
    size_t cells = (size_t) LAYERS * 2 * HEADS * (size_t) b->pages * PAGE * DIM,
           n = ROWS_MAX * HEADS * GROUP * DIM;
    b->kv = get(cells * sizeof *b->kv);
    for (size_t i = 0; i < cells / 4; i++) /* 0.5 to 2 of either sign */
        ((uint64_t *) (void *) b->kv)[i] = (kerns_next(&rng) & 0x807f807f807f807full) | 0x3f003f003f003f00ull;
    b->q = get(n * sizeof *b->q);
    b->out = get(n * sizeof *b->out);
    for (size_t i = 0; i < n; i++)
        b->q[i] = kerns_normal(&rng) / 8;
    b->score = get((size_t) b->threads * ROWS_MAX * GROUP * (size_t) b->ld * sizeof *b->score);
    b->at = get((size_t) b->threads * 2 * (size_t) b->pages * sizeof *b->at);
}

static void report(const struct bench *b, int rounds)
{
    double best[COUNTS], peak = 0;
    for (int i = 0; i < COUNTS; i++)
        best[i] = 1e9;
    for (int r = 0; r < rounds; r++) {
        struct part p = run(b, 0);
        peak = p.gfma > peak ? p.gfma : peak;
        for (int i = 0; i < COUNTS; i++) {
            p = run(b, row_counts[i]);
            best[i] = p.seconds < best[i] ? p.seconds : best[i];
        }
    }
    printf("{\"isa\":\"%s\",\"context\":%d,\"threads\":%d,\"peak_gfma\":%.1f,\"rows\":{", b->kern.name,
           b->context, b->threads, peak);
    for (int i = 0; i < COUNTS; i++) {
        double fma = 2.0 * row_counts[i] * HEADS * GROUP * DIM * b->context * LAYERS;
        double bytes = 4.0 * HEADS * DIM * b->context * LAYERS;
        printf("%s\"%d\":{\"ms\":%.3f,\"ratio\":%.2f,\"gfma\":%.1f,\"of_peak\":%.3f,\"gbs\":%.2f}",
               i ? "," : "", row_counts[i], best[i] * 1e3 / LAYERS, best[i] / best[0], fma * 1e-9 / best[i],
               fma * 1e-9 / best[i] / peak, bytes * 1e-9 / best[i]);
    }
    printf("}}\n");
}

int main(int argc, char **argv)
{
    static const struct option list[] = {
        {"context", 1, 0, 'c'}, {"isa", 1, 0, 'i'}, {"threads", 1, 0, 't'}, {"rounds", 1, 0, 'r'}, {0}};
    struct bench b = {.context = 8192, .threads = 2};
    struct kern table[KERNS_MAX];
    int n = kerns_list(table), rounds = 8;
    b.kern = table[n - 1];
    for (int c; (c = getopt_long(argc, argv, "", list, NULL)) != -1;) {
        if (c == 'c')
            b.context = atoi(optarg);
        else if (c == 't')
            b.threads = atoi(optarg);
        else if (c == 'r')
            rounds = atoi(optarg);
        for (int i = 0; c == 'i' && i < n; i++)
            if (strcmp(table[i].name, optarg) == 0)
                b.kern = table[i];
    }
    if (b.context < PAGE || b.threads < 1 || b.threads > HEADS) {
        fprintf(stderr, "attn: --context from 64 on, --threads 1 to %d\n", HEADS);
        return 2;
    }
    fill(&b);
    report(&b, rounds);
    return 0;
}
