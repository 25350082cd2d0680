/* matmul.c - which part of a matrix a thread takes at a time, and by which kernel.
 *
 * A piece is some neighbouring panels for all rows, so one read of the weights from memory feeds every row of a pass and
 * memory sees one long sequential stream a thread.  The pieces of a matrix are of almost equal size and a multiple of the
 * threads in number; small enough that a thread that lost its core for a while is made up for by the others, large enough
 * that packing the activations, which a kernel does once a call, does not show. */
#include "cpu/inside.h"

#include <cblas.h>
#include <string.h>

enum { PIECES_A_THREAD = 4 }; /* where the matrix allows */
enum { PAIRS_MIN = 3 };       /* of panels: two of the kernels' strips of three panels */

static int pairs_of(const struct cpu__matrix *m)
{
    return (m->panels + 1) / 2;
}

int cpu__pieces(const struct cpu__matrix *m, int threads, int blas)
{
    int most = (blas ? CPU__BLAS_PANELS : CPU__TILE_PANELS) / 2, pairs = pairs_of(m);
    int per = pairs / (threads * PIECES_A_THREAD);
    per = per > most ? most : per < PAIRS_MIN ? PAIRS_MIN : per;
    int pieces = cpu__round_up((pairs + per - 1) / per, threads);
    return pieces > pairs ? pairs : pieces;
}

int cpu__pieces_each(const struct cpu__matrix *m, int threads, int n)
{
    int pairs = pairs_of(m), most = pairs / PAIRS_MIN > 1 ? pairs / PAIRS_MIN : 1;
    int least = (pairs + CPU__TILE_PANELS / 2 - 1) / (CPU__TILE_PANELS / 2);
    int want = (threads * PIECES_A_THREAD + n - 1) / n;
    want = want > most ? most : want;
    return want < least ? least : want;
}

int cpu__piece_start(const struct cpu__matrix *m, int pieces, int i)
{
    return i == pieces ? m->panels : (int) ((int64_t) pairs_of(m) * i / pieces * 2);
}

/* Inputs [k0, k0 + k) of the panels: all of them, but for a broken build. */
static void multiply(const struct cpu *c, const struct cpu__matrix *m, const void *w, int panels, int k,
                     const struct q8_row *q8, const float *x, int64_t ldx, int rows, float *out, int64_t ldo,
                     struct gemm_room *room)
{
    switch (m->quant) {
    case CPU_QUANT_Q8:
        c->kern.gemm_q8(w, k, 0, panels, q8, rows, out, ldo, room);
        break;
    case CPU_QUANT_Q4:
        c->kern.gemm_q4(w, k, 0, panels, q8, rows, out, ldo, room);
        break;
    case CPU_QUANT_BF16:
        c->kern.gemm_bf16(w, k, 0, panels, x, ldx, rows, out, ldo);
        break;
    case CPU_QUANT_F16:
        c->kern.gemm_f16(w, k, 0, panels, x, ldx, rows, out, ldo);
        break;
    default:
        c->kern.gemm_f32(w, k, 0, panels, x, ldx, rows, out, ldo);
    }
}

#ifdef BREAK_SPLIT_SUM /* every sum over the inputs is cut into as many parts as there are threads */
static void multiply_split(const struct cpu *c, const struct cpu__matrix *m, int panel,
                           const struct cpu__rows *x, int r, float *out)
{
    int blocks = m->k_packed / Q8_BLOCK, parts = cpu__pool_threads(c->pool);
    size_t block_bytes = m->panel_bytes / (size_t) blocks;
    memset(out, 0, PANEL * sizeof *out);
    for (int i = 0; i < parts; i++) {
        int b0 = blocks * i / parts, b1 = blocks * (i + 1) / parts, at = b0 * Q8_BLOCK;
        int end = b1 == blocks ? m->k_packed : b1 * Q8_BLOCK;
        struct q8_row q = x->q8[r];
        q = (struct q8_row){q.q + at, q.d + b0, q.sum + b0};
        const char *w = (const char *) cpu__matrix_panel(m, panel) + (size_t) b0 * block_bytes;
        float part[PANEL];
        multiply(c, m, w, 1, end - at, &q, x->x + r * x->ld + at, x->ld, 1, part, PANEL, NULL);
        c->kern.add(out, part, PANEL);
    }
}
#endif

void cpu__matmul(const struct cpu *c, const struct cpu__matrix *m, int p0, int p1, const struct cpu__rows *x,
                 int r0, int r1, float *out, int64_t ldo, struct gemm_room *room)
{
#ifdef BREAK_SPLIT_SUM
    if (m->k_packed % Q8_BLOCK == 0) {
        for (int p = p0; p < p1; p++)
            for (int r = r0; r < r1; r++)
                multiply_split(c, m, p, x, r, out + (r - r0) * ldo + (p - p0) * PANEL);
        return;
    }
#endif
    multiply(c, m, cpu__matrix_panel(m, p0), p1 - p0, m->k_packed, x->q8 + r0, x->x + r0 * x->ld, x->ld,
             r1 - r0, out, ldo, room);
}

static void widen_q8(const struct q8_block *b, int k, float *out, int width)
{
    for (int i = 0; i < k; i++)
        for (int o = 0; o < PANEL; o++) {
            const struct q8_block *in = &b[i / Q8_BLOCK];
            int at = i % Q8_BLOCK;
            out[i * width + o] = (float) (in->w[at / 4][o][at % 4] - 128) * cpu__f16_to_f32(in->scale[o]);
        }
}

static void widen_q4(const struct q4_block *b, int k, float *out, int width)
{
    for (int i = 0; i < k; i++)
        for (int o = 0; o < PANEL; o++) {
            const struct q4_block *in = &b[i / Q8_BLOCK];
            int at = i % Q8_BLOCK, both = in->w[at / 8][o][at % 4];
            int q = (at % 8 < 4 ? both & 15 : both >> 4) - 8;
            out[i * width + o] = (float) q * cpu__f16_to_f32(in->scale[o]);
        }
}

static void widen_floats(const struct cpu__matrix *m, const void *w, float *out, int width)
{
    const uint16_t *half = w;
    for (int i = 0; i < m->k * PANEL; i++)
        out[i / PANEL * width + i % PANEL] = m->quant == CPU_QUANT_F32    ? ((const float *) w)[i]
                                             : m->quant == CPU_QUANT_BF16 ? cpu__bf16_to_f32(half[i])
                                                                          : cpu__f16_to_f32(half[i]);
}

void cpu__matmul_widen(const struct cpu__matrix *m, int p0, int p1, float *weights)
{
    int width = (p1 - p0) * PANEL;
    for (int p = p0; p < p1; p++) {
        const void *w = cpu__matrix_panel(m, p);
        float *out = weights + (p - p0) * PANEL;
        if (m->quant == CPU_QUANT_Q8)
            widen_q8(w, m->k, out, width);
        else if (m->quant == CPU_QUANT_Q4)
            widen_q4(w, m->k, out, width);
        else
            widen_floats(m, w, out, width);
    }
}

void cpu__matmul_blas(const float *weights, int k, int width, const struct cpu__rows *x, int r0, int r1,
                      float *out, int64_t ldo)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, r1 - r0, width, k, 1, x->x + r0 * x->ld,
                (blasint) x->ld, weights, width, 0, out, (blasint) ldo);
}
