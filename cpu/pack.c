/* pack.c - weights from tensors into panels (kern.h), once, at open.
 *
 * F32, BF16 and F16 targets: each value rounded to nearest even where it does not fit; a checkpoint of the same type, and
 * any as F32, is exact.
 *
 * Q8 target, for each output and block of 32 inputs:
 *     d = fp16(amax / 127), round to nearest even;  q = rint(x / d) clamped to [-127, 127];  d = 0 makes every q 0
 * The division is by the stored, rounded d, so that an element is off by at most d / 2.  (Blocks with amax below 5e-4, where d
 * is a short subnormal, may be clipped by more.)  A width that is no multiple of 32 is padded with zero weights (and the
 * activations with zeros), which add exact zeros to the integer sums.
 *
 * Q4 target, as ggml's quantize_row_q4_0_ref, so that a file of Q4_0 and this are the same weights:
 *     d = m / -8, m the first value of the largest magnitude;  q = min(15, trunc(fl(x * fl(1 / d)) + 8.5));  fp16(d) is stored
 *
 * Q8_0 tensors as Q8 and Q4_0 ones as Q4 are not computed at all: the bits of d and q move to their places.
 *
 * Memory: beside the panels, 16 rows of floats a thread; a tensor's file pages are given back when it is packed.
 *
 * Refuses: for Q8 and Q4 NaN, infinity and blocks whose d overflows FP16; for F16 finite values that overflow it. */
#include "cpu/inside.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    HUGE_PAGE = 2 << 20,     /* weights are streamed: large pages spare the TLB */
    LET_GO_BYTES = 128 << 20 /* of a tensor's file pages, that stay while it is packed */
};

uint16_t cpu__f16_from_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = u >> 16 & 0x8000, abs = u & 0x7fffffff;
    if (abs > 0x7f800000)
        return (uint16_t) (sign | 0x7e00);
    if (abs >= 0x477ff000) /* 65520: rounds past the largest FP16 */
        return (uint16_t) (sign | 0x7c00);
    if (abs >= 0x38800000) /* normal, at least 2^-14 */
        return (uint16_t) (sign | (abs - 0x38000000 + 0xfff + (abs >> 13 & 1)) >> 13);
    if (abs < 0x33000000) /* below 2^-25: half of the smallest subnormal */
        return (uint16_t) sign;
    uint32_t shift = 126 - (abs >> 23), mantissa = (abs & 0x7fffff) | 0x800000;
    uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    kept += rest > half || (rest == half && (kept & 1));
    return (uint16_t) (sign | kept);
}

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { PACK_FINE, PACK_NONFINITE, PACK_RANGE };

struct packing {
    struct cpu *cpu;
    const struct tensor *tensor;
    struct cpu__matrix *m;
    float *rows;       /* (threads, PANEL, k_packed) */
    uint64_t *sum;     /* (panels) of what each was packed from; NULL: not wanted */
    _Atomic int fault; /* the last of PACK_* that came up */
};

static void pack_f32(const float *rows, int k, float *panel)
{
    for (int i = 0; i < k; i++)
        for (int o = 0; o < PANEL; o++)
            panel[i * PANEL + o] = rows[(size_t) o * (size_t) k + (size_t) i];
}

static void pack_bf16(const float *rows, int k, uint16_t *panel)
{
    for (int i = 0; i < k; i++)
        for (int o = 0; o < PANEL; o++)
            panel[i * PANEL + o] = cpu__bf16_from_f32(rows[(size_t) o * (size_t) k + (size_t) i]);
}

static int pack_f16(const float *rows, int k, uint16_t *panel)
{
    int fault = PACK_FINE;
    for (int i = 0; i < k; i++)
        for (int o = 0; o < PANEL; o++) {
            float x = rows[(size_t) o * (size_t) k + (size_t) i];
            uint16_t h = cpu__f16_from_f32(x);
            panel[i * PANEL + o] = h;
            if ((h & 0x7fff) == 0x7c00 && isfinite(x))
                fault = PACK_RANGE;
        }
    return fault;
}

/* The largest |x| of a block; NaN where one is not finite.  As integers, so that the loop becomes vectors. */
ALWAYS_INLINE float amax_of(const float *x)
{
    union {
        uint32_t u;
        float f;
    } top = {.u = 0};
    for (int i = 0; i < Q8_BLOCK; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u &= 0x7fffffff;
        top.u = u > top.u ? u : top.u;
    }
    return top.u >= 0x7f800000 ? NAN : top.f;
}

/* rintf of |x| <= 127: a call for each value would take most of the packing. */
ALWAYS_INLINE int to_nearest(float x)
{
    const float big = 0x1.8p23f; /* its last bit counts 1 */
    return (int) (x + big - big);
}

ALWAYS_INLINE int q8_block(const float *x, uint16_t *scale, int8_t q[CPU_Q8_BLOCK])
{
    float amax = amax_of(x);
    if (isnan(amax))
        return PACK_NONFINITE;
    *scale = cpu__f16_from_f32(amax / 127);
    float d = cpu__f16_to_f32(*scale);
    if (!isfinite(d))
        return PACK_RANGE;
    float by = d > 0 ? d : INFINITY;
    for (int i = 0; i < Q8_BLOCK; i++) {
        float v = x[i] / by;
        v = v > 127 ? 127 : v < -127 ? -127 : v;
        q[i] = (int8_t) to_nearest(v);
    }
    return PACK_FINE;
}

int cpu_q8_block(const float x[CPU_Q8_BLOCK], uint16_t *scale, int8_t q[CPU_Q8_BLOCK])
{
    return q8_block(x, scale, q);
}

ALWAYS_INLINE int pack_q8_block(const float *x, int o, struct q8_block *b)
{
    int8_t q[Q8_BLOCK];
    int fault = q8_block(x, &b->scale[o], q);
    for (int i = 0; i < Q8_BLOCK && !fault; i += 4) {
        uint32_t four;
        memcpy(&four, q + i, sizeof four);
        four ^= 0x80808080; /* + 128 */
        memcpy(b->w[i / 4][o], &four, sizeof four);
    }
    return fault;
}

/* 32 halves of output o to their places: kern.h. */
ALWAYS_INLINE void put_halves(struct q4_block *b, int o, const uint8_t *half)
{
    for (int i = 0; i < Q8_BLOCK; i += 8)
        for (int j = 0; j < 4; j++)
            b->w[i / 8][o][j] = (uint8_t) (half[i + j] | half[i + 4 + j] << 4);
}

ALWAYS_INLINE int pack_q4_block(const float *x, int o, struct q4_block *b)
{
    uint8_t half[Q8_BLOCK];
    float amax = amax_of(x);
    if (isnan(amax))
        return PACK_NONFINITE;
    int first = 0;
    while (fabsf(x[first]) != amax)
        first++;
    float d = x[first] / -8, inverse = d != 0 ? 1 / d : 0;
    b->scale[o] = cpu__f16_from_f32(d);
    if ((b->scale[o] & 0x7fff) == 0x7c00)
        return PACK_RANGE;
    if (!isfinite(inverse)) /* d is far below what FP16 holds: the block is all zeros */
        inverse = 0;
    for (int i = 0; i < Q8_BLOCK; i++) {
        int q = (int) (x[i] * inverse + 8.5f);
        half[i] = (uint8_t) (q > 15 ? 15 : q);
    }
    put_halves(b, o, half);
    return PACK_FINE;
}

/* Rows of floats into blocks; either panel may be NULL. */
ALWAYS_INLINE int pack_blocks(const float *rows, int k, struct q8_block *q8, struct q4_block *q4)
{
    int fault = PACK_FINE;
    for (int o = 0; o < PANEL; o++)
        for (int b = 0; b < k / Q8_BLOCK; b++) {
            const float *x = rows + (size_t) o * (size_t) k + (size_t) b * Q8_BLOCK;
            int bad = q8 ? pack_q8_block(x, o, &q8[b]) : pack_q4_block(x, o, &q4[b]);
            fault = bad ? bad : fault;
        }
    return fault;
}

/* The same text for two instruction sets: no sum and no rounding in it depends on which. */
static int pack_blocks_plain(const float *rows, int k, struct q8_block *q8, struct q4_block *q4)
{
    return pack_blocks(rows, k, q8, q4);
}

__attribute__((target("avx2"))) static int pack_blocks_avx2(const float *rows, int k, struct q8_block *q8,
                                                            struct q4_block *q4)
{
    return pack_blocks(rows, k, q8, q4);
}

/* --- blocks kept as they are stored; row NULL: an output that only fills up its panel --- */

static void keep_q8(const uint8_t *row, int o, int blocks, struct q8_block *panel)
{
    static const uint8_t zero[34];
    for (int b = 0; b < blocks; b++) {
        const uint8_t *from = row ? row + b * 34 : zero;
        memcpy(&panel[b].scale[o], from, 2);
        for (int i = 0; i < Q8_BLOCK; i++)
            panel[b].w[i / 4][o][i % 4] = from[2 + i] ^ 0x80; /* offset binary */
    }
}

static void keep_q4(const uint8_t *row, int o, int blocks, struct q4_block *panel)
{
    static const uint8_t zero[18] = {0,    0,    0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88,
                                     0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88};
    uint8_t half[Q8_BLOCK];
    for (int b = 0; b < blocks; b++) {
        const uint8_t *from = row ? row + b * 18 : zero;
        memcpy(&panel[b].scale[o], from, 2);
        for (int i = 0; i < 16; i++) {
            half[i] = from[2 + i] & 15;
            half[i + 16] = from[2 + i] >> 4;
        }
        put_halves(&panel[b], o, half);
    }
}

static int is_kept(int type, int quant)
{
    return (type == TENSOR_Q8_0 && quant == CPU_QUANT_Q8) || (type == TENSOR_Q4_0 && quant == CPU_QUANT_Q4);
}

static void keep_panel(const struct packing *p, int panel, void *to)
{
    const struct tensor *t = p->tensor;
    int blocks = p->m->k / Q8_BLOCK;
    size_t bytes = (size_t) blocks * tensor_block_bytes(t->type);
    for (int o = 0; o < PANEL; o++) {
        size_t at = (size_t) (panel * PANEL + o);
        const uint8_t *row = at < (size_t) p->m->n ? (const uint8_t *) t->data + at * bytes : NULL;
        if (t->type == TENSOR_Q8_0)
            keep_q8(row, o, blocks, to);
        else
            keep_q4(row, o, blocks, to);
    }
}

static int pack_rows(const struct packing *p, const float *rows, void *to)
{
    const struct cpu__matrix *m = p->m;
    int (*blocks)(const float *, int, struct q8_block *, struct q4_block *) =
        p->cpu->isa >= CPU_ISA_AVX2 ? pack_blocks_avx2 : pack_blocks_plain;
    switch (m->quant) {
    case CPU_QUANT_F32:
        pack_f32(rows, m->k_packed, to);
        return PACK_FINE;
    case CPU_QUANT_BF16:
        pack_bf16(rows, m->k_packed, to);
        return PACK_FINE;
    case CPU_QUANT_F16:
        return pack_f16(rows, m->k_packed, to);
    case CPU_QUANT_Q8:
        return blocks(rows, m->k_packed, to, NULL);
    default:
        return blocks(rows, m->k_packed, NULL, to);
    }
}

static void pack_panel(struct packing *p, int panel, float *rows)
{
    struct cpu__matrix *m = p->m;
    void *to = (char *) m->w + (size_t) panel * m->panel_bytes;
    if (is_kept(p->tensor->type, m->quant)) {
        keep_panel(p, panel, to);
        return;
    }
    memset(rows, 0, (size_t) PANEL * (size_t) m->k_packed * sizeof *rows);
    for (int o = 0; o < PANEL && panel * PANEL + o < m->n; o++)
        cpu_tensor_row(p->tensor, panel * PANEL + o, rows + (size_t) o * (size_t) m->k_packed);
    int fault = pack_rows(p, rows, to);
    if (fault)
        atomic_store(&p->fault, fault);
}

static size_t row_bytes(const struct tensor *t)
{
    return (size_t) (t->dim[1] / tensor_block(t->type)) * tensor_block_bytes(t->type);
}

static uint64_t panel_source(const struct packing *p, int panel)
{
    int end = (panel + 1) * PANEL < p->m->n ? (panel + 1) * PANEL : p->m->n;
    size_t bytes = row_bytes(p->tensor), from = (size_t) panel * PANEL;
    return cpu__sum((const char *) p->tensor->data + from * bytes, ((size_t) end - from) * bytes);
}

/* Bytes from `at` on leave this process by the page: clean ones of a read-only mapping, which the page cache keeps. */
static void let_go(const struct tensor *t, size_t at, size_t bytes)
{
    uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE), from = (uintptr_t) t->data + at, to = from + bytes;
    from = (from + page - 1) / page * page;
    to = to / page * page;
    if (t->mapped && from < to)
        madvise((void *) from, to - from, MADV_DONTNEED);
}

void cpu__matrix_let_go(const struct tensor *t)
{
    let_go(t, 0, t->bytes);
}

/* A large tensor is let go while it is read.  A panel before this one that a thread still works on is read again from the page
 * cache. */
static void let_go_before(const struct packing *p, int panel)
{
    size_t bytes = row_bytes(p->tensor) * PANEL, every = LET_GO_BYTES / bytes + 1;
    if (panel && (size_t) panel % every == 0)
        let_go(p->tensor, ((size_t) panel - every) * bytes, every * bytes);
}

static void pack_thread(void *arg, int thread)
{
    struct packing *p = arg;
    float *rows = p->rows + (size_t) thread * PANEL * (size_t) p->m->k_packed;
    for (int panel; (panel = cpu__pool_claim(p->cpu->pool)) < p->m->panels;) {
        let_go_before(p, panel);
        pack_panel(p, panel, rows);
        if (p->sum)
            p->sum[panel] = panel_source(p, panel);
    }
}

static void source_thread(void *arg, int thread)
{
    struct packing *p = arg;
    (void) thread;
    for (int panel; (panel = cpu__pool_claim(p->cpu->pool)) < p->m->panels;) {
        let_go_before(p, panel);
        p->sum[panel] = panel_source(p, panel);
    }
}

/* Of all panels, and of the scales that FP8 values are multiplied by. */
static uint64_t source_of(const struct packing *p)
{
    uint64_t both[2] = {cpu__sum(p->sum, (size_t) p->m->panels * sizeof *p->sum), 0};
    const struct tensor *scale = p->tensor->scale;
    both[1] = scale ? cpu__sum(scale->data, scale->bytes) : 0;
    return cpu__sum(both, sizeof both);
}

static size_t panel_bytes(int quant, int k_packed)
{
    size_t k = (size_t) k_packed;
    switch (quant) {
    case CPU_QUANT_Q8:
        return k / Q8_BLOCK * sizeof(struct q8_block);
    case CPU_QUANT_Q4:
        return k / Q8_BLOCK * sizeof(struct q4_block);
    default:
        return k * PANEL * (quant == CPU_QUANT_F32 ? sizeof(float) : sizeof(uint16_t));
    }
}

static int fault_err(const struct tensor *t, int quant, int fault, struct err *e)
{
    const char *range = quant == CPU_QUANT_Q8   ? "values beyond 127 * 65504"
                        : quant == CPU_QUANT_Q4 ? "values beyond 8 * 65504"
                                                : "values beyond 65504";
    return err_set(e, ST_UNSUPPORTED,
                   "%s: tensor %s holds %s, which %s cannot store; choose another precision (f32 holds all)",
                   t->file, t->name, fault == PACK_RANGE ? range : "NaN or infinity", cpu_quant_name(quant));
}

void cpu__matrix_plan(struct cpu__matrix *m, const struct tensor *t, int quant)
{
    if (quant == CPU_QUANT_STORED)
        quant = cpu_quant_of(t->type);
    *m = (struct cpu__matrix){.quant = quant, .n = (int) t->dim[0], .k = (int) t->dim[1]};
    m->k_packed = cpu__quant_is_int(quant) ? cpu__round_up(m->k, Q8_BLOCK) : m->k;
    m->panels = cpu__round_up(m->n, PANEL) / PANEL;
    m->panel_bytes = panel_bytes(quant, m->k_packed);
}

int cpu__matrix_fill(struct cpu__matrix *m, struct cpu *c, const struct tensor *t, uint64_t *source,
                     struct err *e)
{
    struct packing p = {.cpu = c, .tensor = t, .m = m};
    size_t row_floats = (size_t) PANEL * (size_t) m->k_packed * (size_t) cpu__pool_threads(c->pool);
    p.rows = malloc(row_floats * sizeof *p.rows);
    p.sum = source ? malloc((size_t) m->panels * sizeof *p.sum) : NULL;
    int st = p.rows && (p.sum || !source) ? 0 : err_set(e, ST_NOMEM, "no memory to pack %s", t->name);
    if (!st)
        cpu__pool_run(c->pool, pack_thread, &p);
    if (!st && source)
        *source = source_of(&p);
    free(p.sum);
    free(p.rows);
    cpu__matrix_let_go(t);
    return p.fault ? fault_err(t, m->quant, p.fault, e) : st;
}

int cpu__matrix_source(const struct cpu__matrix *m, struct cpu *c, const struct tensor *t, uint64_t *source)
{
    struct cpu__matrix shape = *m;
    struct packing p = {.cpu = c, .tensor = t, .m = &shape};
    p.sum = malloc((size_t) m->panels * sizeof *p.sum);
    if (!p.sum)
        return ST_NOMEM;
    cpu__pool_run(c->pool, source_thread, &p);
    *source = source_of(&p);
    free(p.sum);
    cpu__matrix_let_go(t);
    return 0;
}

int cpu__panels_new(struct cpu__panels *p, size_t bytes, struct err *e)
{
    *p = (struct cpu__panels){.bytes = bytes, .map_bytes = bytes + HUGE_PAGE};
    p->map = mmap(NULL, p->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->map == MAP_FAILED) {
        *p = (struct cpu__panels){0};
        return err_set(e, ST_NOMEM, "no memory for %zu bytes of weights; a smaller precision needs less",
                       bytes);
    }
    p->base = (char *) (((uintptr_t) p->map + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    madvise(p->base, bytes, MADV_HUGEPAGE); /* a wish: fine if refused */
    return 0;
}

void cpu__panels_free(struct cpu__panels *p)
{
    if (p->map)
        munmap(p->map, p->map_bytes);
    *p = (struct cpu__panels){0};
}

/* For one matrix alone. */
int cpu__matrix_pack(struct cpu__matrix *m, struct cpu *c, const struct tensor *t, int quant, struct err *e)
{
    if (t->type == TENSOR_OTHER)
        return err_set(e, ST_UNSUPPORTED, "%s: tensor %s is %s, which has no float values", t->file, t->name,
                       t->dtype);
    cpu__matrix_plan(m, t, quant);
    if (posix_memalign(&m->w, 64, cpu__matrix_bytes(m))) {
        m->w = NULL;
        return err_set(e, ST_NOMEM, "no memory for the %zu bytes of %s; a smaller precision needs less",
                       cpu__matrix_bytes(m), t->name);
    }
    return cpu__matrix_fill(m, c, t, NULL, e);
}

void cpu__matrix_free(struct cpu__matrix *m)
{
    free(m->w);
    m->w = NULL;
}
