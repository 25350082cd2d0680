/* pack.c - weights from tensors into panels (kern.h), once, at open.
 *
 * F32 and BF16 targets: each value rounded to nearest even where it does not fit; a BF16 checkpoint as BF16 and a F32
 * or F16 one as F32 are exact.
 *
 * Q8 target, for each output and block of 32 inputs:
 *     d = fp16(amax / 127), round to nearest even;  q = rint(x / d) clamped to [-127, 127];  d = 0 makes every q 0
 * The division is by the stored, rounded d, so that an element is off by at most d / 2.  (Blocks with amax below 5e-4, where d
 * is a short subnormal, may be clipped by more.)  A width that is no multiple of 32 is padded with zero weights (and the
 * activations with zeros), which add exact zeros to the integer sums.
 *
 * Refuses: types without float values; for Q8 also NaN, infinity and blocks whose amax / 127 overflows FP16. */
#include "cpu/inside.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 }; /* weights are streamed: large pages spare the TLB */

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

void cpu__tensor_read(const struct tensor *t, int64_t at, int n, float *out)
{
    if (t->type == TENSOR_F32) {
        memcpy(out, (const char *) t->data + at * 4, (size_t) n * sizeof *out);
        return;
    }
    const char *from = (const char *) t->data + at * 2; /* not always aligned in the file */
    for (int i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, sizeof h);
        out[i] = t->type == TENSOR_BF16 ? cpu__bf16_to_f32(h) : cpu__f16_to_f32(h);
    }
}

enum { PACK_FINE, PACK_NONFINITE, PACK_RANGE };

struct packing {
    struct cpu *cpu;
    const struct tensor *tensor;
    struct cpu__matrix *m;
    float *rows;       /* (threads, PANEL, k_packed) */
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

static int pack_q8_block(const float *x, int o, struct q8_block *b)
{
    float amax = 0;
    for (int i = 0; i < Q8_BLOCK; i++) {
        if (!isfinite(x[i]))
            return PACK_NONFINITE;
        float abs = fabsf(x[i]);
        amax = abs > amax ? abs : amax;
    }
    b->scale[o] = cpu__f16_from_f32(amax / 127);
    float d = cpu__f16_to_f32(b->scale[o]);
    if (!isfinite(d))
        return PACK_RANGE;
    for (int i = 0; i < Q8_BLOCK; i++) {
        float q = d > 0 ? rintf(x[i] / d) : 0;
        q = q > 127 ? 127 : q < -127 ? -127 : q;
        b->w[i / 4][o][i % 4] = (uint8_t) ((int) q + 128);
    }
    return PACK_FINE;
}

static int pack_q8(const float *rows, int k, struct q8_block *panel)
{
    int fault = PACK_FINE;
    for (int o = 0; o < PANEL; o++)
        for (int b = 0; b < k / Q8_BLOCK; b++) {
            int bad = pack_q8_block(rows + (size_t) o * (size_t) k + (size_t) b * Q8_BLOCK, o, &panel[b]);
            fault = bad ? bad : fault;
        }
    return fault;
}

static void pack_panel(struct packing *p, int panel, float *rows)
{
    struct cpu__matrix *m = p->m;
    memset(rows, 0, (size_t) PANEL * (size_t) m->k_packed * sizeof *rows);
    for (int o = 0; o < PANEL && panel * PANEL + o < m->n; o++)
        cpu__tensor_read(p->tensor, (int64_t) (panel * PANEL + o) * m->k, m->k,
                         rows + (size_t) o * (size_t) m->k_packed);
    void *to = (char *) m->w + (size_t) panel * m->panel_bytes;
    int fault = PACK_FINE;
    if (m->quant == CPU_QUANT_F32)
        pack_f32(rows, m->k_packed, to);
    else if (m->quant == CPU_QUANT_BF16)
        pack_bf16(rows, m->k_packed, to);
    else
        fault = pack_q8(rows, m->k_packed, to);
    if (fault)
        atomic_store(&p->fault, fault);
}

static void pack_thread(void *arg, int thread)
{
    struct packing *p = arg;
    float *rows = p->rows + (size_t) thread * PANEL * (size_t) p->m->k_packed;
    for (int panel; (panel = cpu__pool_claim(p->cpu->pool)) < p->m->panels;)
        pack_panel(p, panel, rows);
}

static size_t panel_bytes(int quant, int k_packed)
{
    size_t k = (size_t) k_packed;
    if (quant == CPU_QUANT_Q8)
        return k / Q8_BLOCK * sizeof(struct q8_block);
    return k * PANEL * (quant == CPU_QUANT_F32 ? sizeof(float) : sizeof(uint16_t));
}

static void *get_pages(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, bytes >= HUGE_PAGE ? HUGE_PAGE : 64, bytes))
        return NULL;
    if (bytes >= HUGE_PAGE)
        madvise(p, bytes, MADV_HUGEPAGE); /* a wish: fine if refused */
    return p;
}

static int fault_err(const struct tensor *t, int fault, struct err *e)
{
    return err_set(e, ST_UNSUPPORTED, "%s: tensor %s holds %s, which Q8 cannot store; use --quant stored",
                   t->file, t->name, fault == PACK_RANGE ? "values beyond 127 * 65504" : "NaN or infinity");
}

int cpu__matrix_pack(struct cpu__matrix *m, struct cpu *c, const struct tensor *t, int quant, struct err *e)
{
    if (t->type != TENSOR_F32 && t->type != TENSOR_BF16 && t->type != TENSOR_F16)
        return err_set(e, ST_UNSUPPORTED, "%s: tensor %s is %s; expected F32, BF16 or F16", t->file, t->name,
                       t->dtype);
    *m = (struct cpu__matrix){.quant = quant, .n = (int) t->dim[0], .k = (int) t->dim[1]};
    m->k_packed = quant == CPU_QUANT_Q8 ? cpu__round_up(m->k, Q8_BLOCK) : m->k;
    m->panels = cpu__round_up(m->n, PANEL) / PANEL;
    m->panel_bytes = panel_bytes(quant, m->k_packed);
    struct packing p = {.cpu = c, .tensor = t, .m = m};
    size_t row_floats = (size_t) PANEL * (size_t) m->k_packed * (size_t) cpu__pool_threads(c->pool);
    m->w = get_pages(cpu__matrix_bytes(m));
    p.rows = malloc(row_floats * sizeof *p.rows);
    if (m->w && p.rows)
        cpu__pool_run(c->pool, pack_thread, &p);
    int ok = m->w && p.rows;
    free(p.rows);
    if (!ok)
        return err_set(e, ST_NOMEM, "no memory for the %zu bytes of %s; a smaller --quant needs less",
                       cpu__matrix_bytes(m), t->name);
    return p.fault ? fault_err(t, p.fault, e) : 0;
}

void cpu__matrix_free(struct cpu__matrix *m)
{
    free(m->w);
    m->w = NULL;
}
