/* kernels.cu - every kernel of target/cuda/ against its plain meaning in double, within a stated tolerance, under every schedule;
 * and against itself, to the bit, where a row must not see how many others there are.
 *
 * Tolerances: sums of n products of floats in any order are off by at most n 2^-24 of the sum of their magnitudes, and what is
 * rounded to BF16 by 2^-8 of itself. */
#include "target/cuda/attn.cuh"
#include "target/cuda/gemm.cuh"
#include "target/cuda/lt.cuh"
#include "target/cuda/moe.cuh"
#include "target/cuda/rows.cuh"
#include "tests/hostsim/test/lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "tests/lib/small.h"
#include "tests/lib/synth.h"
}

static const double BF16_STEP = 0x1p-8;

/* --- memory on the device --- */

template <typename T> static T *device_new(const T *from, size_t n)
{
    T *p;
    must(cudaMalloc(&p, n * sizeof *p));
    if (from)
        must(cudaMemcpy(p, from, n * sizeof *p, cudaMemcpyHostToDevice));
    return p;
}

template <typename T> static void device_read(T *to, const T *from, size_t n)
{
    must(cudaMemcpy(to, from, n * sizeof *to, cudaMemcpyDeviceToHost));
}

template <typename T> static T *host_new(size_t n)
{
    T *p = (T *) calloc(n, sizeof *p);
    assert_non_null(p);
    return p;
}

static float *floats_new(size_t n, uint64_t *dice)
{
    float *p = host_new<float>(n);
    for (size_t i = 0; i < n; i++)
        p[i] = synth_uniform(dice);
    return p;
}

static bf16 *bf16s_new(size_t n, uint64_t *dice)
{
    bf16 *p = host_new<bf16>(n);
    for (size_t i = 0; i < n; i++)
        p[i] = float_to_bf16(synth_uniform(dice));
    return p;
}

static void near_to(double want, double got, double within, const char *what, int i)
{
    if (!(fabs(want - got) <= within))
        fail_msg("%s %d: %.9g, not %.9g (within %.3g)", what, i, got, want, within);
}

/* --- gemm.cu --- */

struct weights {
    struct model *model; /* its head is the matrix */
    struct cuda_matrix m;
    char *w, *scale;
    float *line; /* (n, k) as floats */
};

static void weights_new(struct weights *w, int type, int format, int n, int k)
{
    struct config c = {};
    struct err e = {};
    c.n_layers = 0;
    c.hidden = k;
    c.vocab = n;
    c.n_heads = c.n_kv_heads = 1;
    c.head_dim = 64;
    w->model = synth_model_new(&c, type, 3);
    struct cuda_source s = {{w->model->head}, 1, 0};
    cuda__matrix_plan(&w->m, &s, format);
    char *host = host_new<char>((size_t) w->m.w_bytes),
         *scale = host_new<char>((size_t) w->m.scale_bytes + 1);
    if (cuda__matrix_pack(&w->m, &s, host, scale, &e))
        fail_msg("%s", e.text);
    w->w = device_new(host, (size_t) w->m.w_bytes);
    w->scale = device_new(scale, (size_t) w->m.scale_bytes + 1);
    w->line = host_new<float>((size_t) n * (size_t) k);
    for (int o = 0; o < n; o++)
        cpu_tensor_row(w->model->head, o, w->line + (size_t) o * (size_t) k);
    free(host);
    free(scale);
}

static void weights_free(struct weights *w)
{
    must(cudaFree(w->w));
    must(cudaFree(w->scale));
    free(w->line);
    synth_model_free(w->model);
}

/* Sums of rows [0, m) of x, with the splits added as parts_sum does. */
static void gemm_run(const struct weights *w, const bf16 *x, int m, float *out)
{
    int64_t ld = (int64_t) w->m.tiles * CUDA_TILE;
    float *part = device_new((float *) NULL, (size_t) (ld * m * w->m.splits)),
          *host = host_new<float>((size_t) (ld * m * w->m.splits));
    struct gemm g = {};
    g.w = w->w;
    g.scale = w->scale;
    g.tiles = w->m.tiles;
    g.steps = w->m.k_pad / CUDA_CHUNK_K;
    g.splits = w->m.splits;
    g.x = x;
    g.ldx = w->m.k_pad;
    g.out = part;
    g.ldo = ld;
    g.split_stride = ld * m;
    g.rows = m;
    must(gemm_launch(&g, w->m.format, m < CUDA_ROWS ? m : CUDA_ROWS, (m + CUDA_ROWS - 1) / CUDA_ROWS, 0));
    must(cudaDeviceSynchronize());
    device_read(host, part, (size_t) (ld * m * w->m.splits));
    for (int64_t i = 0; i < ld * m; i++) {
        out[i] = host[i];
        for (int s = 1; s < w->m.splits; s++)
            out[i] += host[s * ld * m + i];
    }
    must(cudaFree(part));
    free(host);
}

static void check_gemm(const struct weights *w, const bf16 *x, const float *out, int m)
{
    int64_t ld = (int64_t) w->m.tiles * CUDA_TILE;
    for (int r = 0; r < m; r++)
        for (int o = 0; o < w->m.n; o++) {
            double sum = 0, size = 0;
            for (int i = 0; i < w->m.k; i++) {
                double p = (double) bf16_to_float(x[(int64_t) r * w->m.k_pad + i]) *
                           (double) w->line[(int64_t) o * w->m.k + i];
                sum += p;
                size += fabs(p);
            }
            near_to(sum, out[r * ld + o], size * w->m.k * 0x1p-24, "output", o);
        }
}

static void gemm_case(int type, int format, int n, int k)
{
    static const int rows[] = {1, 7, 8, 9, 20, 33, 64, 70};
    enum { MOST = 70 };
    struct weights w;
    uint64_t dice = 11;
    weights_new(&w, type, format, n, k);
    size_t values = (size_t) MOST * (size_t) w.m.k_pad, outs = (size_t) MOST * (size_t) w.m.tiles * CUDA_TILE;
    bf16 *x = bf16s_new(values, &dice), *x_device = device_new(x, values);
    float *all = host_new<float>(outs), *some = host_new<float>(outs);
    gemm_run(&w, x_device, MOST, all);
    check_gemm(&w, x, all, MOST);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        gemm_run(&w, x_device, rows[i], some);
        assert_memory_equal(all, some, (size_t) rows[i] * (size_t) w.m.tiles * CUDA_TILE * sizeof *all);
    }
    must(cudaFree(x_device));
    free(x);
    free(all);
    free(some);
    weights_free(&w);
}

static void test_gemm_bf16(void **)
{
    EACH_SCHEDULE
    {
        gemm_case(TENSOR_BF16, CUDA_BF16, 72, 200);
        gemm_case(TENSOR_BF16, CUDA_BF16, 40, 1100);
    }
}

static void test_gemm_fp8(void **)
{
    EACH_SCHEDULE
    {
        gemm_case(TENSOR_F8_E4M3, CUDA_FP8, 72, 200);
        gemm_case(TENSOR_F8_E4M3, CUDA_FP8, 144, 600);
    }
}

static void test_gemm_q8(void **)
{
    EACH_SCHEDULE
    {
        gemm_case(TENSOR_Q8_0, CUDA_Q8, 72, 224);
        gemm_case(TENSOR_Q8_0, CUDA_Q8, 40, 1088);
    }
}

/* Unpacked, a matrix is what the CPU reads, rounded to BF16. */
static void unpack_case(int type, int format, int n, int k)
{
    struct weights w;
    weights_new(&w, type, format, n, k);
    struct cuda_matrix m = w.m;
    size_t values = (size_t) m.tiles * CUDA_TILE * (size_t) m.k_pad;
    bf16 *out = host_new<bf16>(values), *out_device = device_new((bf16 *) NULL, values);
    m.w = w.w;
    m.scale = w.scale;
    must(lt_unpack(&m, out_device, 0));
    must(cudaDeviceSynchronize());
    device_read(out, out_device, values);
    for (int o = 0; o < m.tiles * CUDA_TILE; o++)
        for (int i = 0; i < m.k_pad; i++) {
            float want = o < n && i < k ? w.line[(size_t) o * (size_t) k + (size_t) i] : 0;
            assert_int_equal(out[(size_t) o * (size_t) m.k_pad + (size_t) i].bits & 0x7fff,
                             float_to_bf16(want).bits & 0x7fff);
            assert_true(bf16_to_float(out[(size_t) o * (size_t) m.k_pad + (size_t) i]) ==
                        bf16_to_float(float_to_bf16(want)));
        }
    must(cudaFree(out_device));
    free(out);
    weights_free(&w);
}

static void test_unpack(void **)
{
    EACH_SCHEDULE
    {
        unpack_case(TENSOR_BF16, CUDA_BF16, 40, 200);
        unpack_case(TENSOR_F8_E4M3, CUDA_FP8, 144, 200);
        unpack_case(TENSOR_Q8_0, CUDA_Q8, 40, 224);
    }
}

/* --- rows.cu --- */

enum { R = 5, H = 300, LDH = 384, SPLITS = 3 };

static void test_norm(void **)
{
    EACH_SCHEDULE
    {
        uint64_t dice = 21;
        const int32_t from[3] = {4, 0, 2};
        float *x = floats_new(R * H, &dice), *part = floats_new(SPLITS * R * H, &dice),
              *weight = floats_new(H, &dice), *after = host_new<float>(R * H);
        bf16 *a = host_new<bf16>(R * LDH);
        struct norm n = {};
        n.x = device_new(x, R * H);
        n.add = {device_new(part, SPLITS * R * H), R * H, H, SPLITS};
        n.from = NULL;
        n.weight = device_new(weight, H);
        n.a = device_new(a, R * LDH);
        n.a_float = NULL;
        n.lda = LDH;
        n.hidden = H;
        n.eps = 1e-6f;
        must(norm_launch(&n, R, 0));
        must(cudaDeviceSynchronize());
        device_read(after, n.x, R * H);
        device_read(a, n.a, R * LDH);
        for (int r = 0; r < R; r++) {
            double squares = 0;
            for (int i = 0; i < H; i++) {
                float y = part[r * H + i];
                for (int s = 1; s < SPLITS; s++)
                    y += part[s * R * H + r * H + i];
                y = x[r * H + i] + y;
                assert_true(after[r * H + i] == y);
                squares += (double) y * y;
            }
            for (int i = 0; i < H; i++) {
                double want = after[r * H + i] / sqrt(squares / H + 1e-6) * weight[i];
                near_to(want, bf16_to_float(a[r * LDH + i]), fabs(want) * (BF16_STEP + 1e-5), "norm", i);
            }
            for (int i = H; i < LDH; i++)
                assert_int_equal(a[r * LDH + i].bits, 0);
        }
        bf16 *again = host_new<bf16>(R * LDH);
        n.add = {};
        n.from = device_new(from, 3);
        must(norm_launch(&n, 3, 0));
        must(cudaDeviceSynchronize());
        device_read(again, n.a, R * LDH);
        for (int i = 0; i < 3; i++)
            assert_memory_equal(again + i * LDH, a + from[i] * LDH, H * sizeof *a);
        free(x), free(part), free(weight), free(after), free(a), free(again);
        must(cudaFree(n.x));
        must(cudaFree((void *) n.weight));
        must(cudaFree(n.a));
        must(cudaFree((void *) n.from));
    }
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static void test_silu_embed(void **)
{
    EACH_SCHEDULE
    {
        enum { FFN = 270, LD = 544 };
        uint64_t dice = 31;
        float *part = floats_new(2 * R * LD, &dice), *x = host_new<float>(R * H);
        bf16 *a = host_new<bf16>(R * LDH), *table = bf16s_new(9 * H, &dice);
        for (int i = 0; i < 2 * R * LD; i++)
            part[i] *= 40;
        bf16 *a_device = device_new(a, R * LDH), *table_device = device_new(table, 9 * H);
        float *x_device = device_new(x, R * H), *part_device = device_new(part, 2 * R * LD);
        struct cuda_row row[R] = {};
        for (int r = 0; r < R; r++)
            row[r].tok = (r * 5 + 3) % 9;
        struct cuda_row *row_device = device_new(row, R);
        struct parts p = {part_device, R * LD, LD, 2};
        must(silu_launch(&p, FFN, a_device, LDH, R, 0));
        must(embed_launch(row_device, R, table_device, H, x_device, 0));
        must(cudaDeviceSynchronize());
        device_read(a, a_device, R * LDH);
        device_read(x, x_device, R * H);
        for (int r = 0; r < R; r++) {
            for (int i = 0; i < FFN; i++) {
                int at = r * LD + i / 8 * 16 + i % 8;
                double want = silu(part[at] + part[R * LD + at]) * (part[at + 8] + part[R * LD + at + 8]);
                near_to(want, bf16_to_float(a[r * LDH + i]), fabs(want) * (BF16_STEP + 1e-5) + 1e-30, "silu",
                        i);
            }
            for (int i = 0; i < H; i++)
                assert_true(x[r * H + i] == bf16_to_float(table[row[r].tok * H + i]));
        }
        free(part), free(x), free(a), free(table);
        must(cudaFree(a_device));
        must(cudaFree(table_device));
        must(cudaFree(x_device));
        must(cudaFree(part_device));
        must(cudaFree(row_device));
    }
}

/* --- heads, attention, settling: a small paged world --- */

enum { NH = 6, NKV = 2, LAYERS = 2, PAGES_MAX = 12, NODES = 14 };

struct paged {
    int d, len;
    bf16 *kv, *kv_device; /* [layer][page][kv head][K|V][64][d] */
    size_t values;
    struct cuda_row row[NODES];
    struct cuda_item item[1];
    struct cuda_unit unit[NODES];
    int32_t page[PAGES_MAX];
    int rows, units, chunks;
};

/* Pages in a shuffled order, the tree's rows in slots of the last page against the node order. */
static void paged_new(struct paged *p, int d, int len, uint64_t *dice)
{
    static const int32_t order[PAGES_MAX] = {3, 0, 7, 5, 9, 1, 8, 2, 6, 4, 10, 11};
    memset(p, 0, sizeof *p);
    p->d = d;
    p->len = len;
    p->values = (size_t) LAYERS * PAGES_MAX * NKV * 2 * CUDA_KEYS * (size_t) d;
    p->kv = bf16s_new(p->values, dice);
    p->kv_device = device_new(p->kv, p->values);
    memcpy(p->page, order, sizeof order);
    p->rows = NODES;
    p->item[0] = {0, len, 1, 0};
    int depth[NODES] = {};
    for (int i = 0; i < NODES; i++) {
        int parent = i ? (int) small_dice(dice, (uint32_t) i) : -1;
        depth[i] = i ? depth[parent] + 1 : 0;
        p->row[i] = {0, len + depth[i], 0, (PAGES_MAX - 1) * CUDA_KEYS + NODES - 1 - i, parent};
    }
    int each = CUDA_ROWS / (NH / NKV);
    for (int r = 0; r < NODES; r += each)
        p->unit[p->units++] = {0, r, NODES - r < each ? NODES - r : each};
    for (int i = 0; i < NODES; i++) {
        int n = (attn_base(p->row[i].pos) + CUDA_CHUNK - 1) / CUDA_CHUNK;
        p->chunks = n > p->chunks ? n : p->chunks;
    }
}

static void paged_free(struct paged *p)
{
    must(cudaFree(p->kv_device));
    free(p->kv);
}

static size_t cell_at(const struct paged *p, int layer, int head, int v, int cell)
{
    return ((((size_t) layer * PAGES_MAX + (size_t) (cell / CUDA_KEYS)) * NKV + (size_t) head) * 2 +
            (size_t) v) *
               CUDA_KEYS * (size_t) p->d +
           (size_t) (cell % CUDA_KEYS) * (size_t) p->d;
}

/* Where position pos of row r's own path lies. */
static int cell_of(const struct paged *p, int r, int pos)
{
    if (pos < p->len)
        return p->page[pos / CUDA_KEYS] * CUDA_KEYS + pos % CUDA_KEYS;
    while (p->row[r].pos > pos)
        r = p->row[r].parent;
    return p->row[r].cell;
}

static void attn_twin(const struct paged *p, const bf16 *q, int r, int h, double *out)
{
    int n = p->row[r].pos + 1, d = p->d;
    double *s = host_new<double>((size_t) n), top = -1e30, sum = 0;
    for (int k = 0; k < n; k++) {
        const bf16 *key = p->kv + cell_at(p, 1, h / (NH / NKV), 0, cell_of(p, r, k));
        for (int i = 0; i < d; i++)
            s[k] += (double) bf16_to_float(q[(r * NH + h) * d + i]) * (double) bf16_to_float(key[i]);
        s[k] /= sqrt((double) d);
        top = fmax(top, s[k]);
    }
    for (int i = 0; i < d; i++)
        out[i] = 0;
    for (int k = 0; k < n; k++) {
        const bf16 *value = p->kv + cell_at(p, 1, h / (NH / NKV), 1, cell_of(p, r, k));
        double w = exp(s[k] - top);
        sum += w;
        for (int i = 0; i < d; i++)
            out[i] += w * (double) bf16_to_float(value[i]);
    }
    for (int i = 0; i < d; i++)
        out[i] /= sum;
    free(s);
}

static void attn_run(const struct paged *p, const bf16 *q, bf16 *out)
{
    const int d = p->d;
    const size_t values = (size_t) NODES * NH * (size_t) d;
    struct attn a = {};
    a.row = device_new(p->row, NODES);
    a.item = device_new(p->item, 1);
    a.unit = device_new(p->unit, NODES);
    a.pages = device_new(p->page, PAGES_MAX);
    a.q = device_new(q, values);
    a.kv = p->kv_device + cell_at(p, 1, 0, 0, 0);
    a.chunks_max = 3;
    a.ml = device_new((float *) NULL, (size_t) CUDA_ROWS * NH * 3 * 2);
    a.o = device_new((float *) NULL, (size_t) CUDA_ROWS * NH * 3 * (size_t) d);
    a.out = device_new((bf16 *) NULL, values);
    a.ldo = NH * d;
    a.rows = NODES;
    a.units = p->units;
    a.n_heads = NH;
    a.n_kv_heads = NKV;
    a.chunks = p->chunks;
    a.scale = 1 / sqrtf((float) d);
    must(attn_launch(&a, d, 0));
    must(cudaDeviceSynchronize());
    device_read(out, a.out, values);
    const void *all[] = {a.row, a.item, a.unit, a.pages, a.q, a.ml, a.o, a.out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        must(cudaFree((void *) all[i]));
}

static void attn_case(int d, int len)
{
    struct paged p;
    uint64_t dice = 41 + (uint64_t) len;
    paged_new(&p, d, len, &dice);
    size_t values = (size_t) NODES * NH * (size_t) d;
    bf16 *q = bf16s_new(values, &dice), *out = host_new<bf16>(values);
    for (size_t i = 0; i < values; i++)
        q[i] = float_to_bf16(4 * bf16_to_float(q[i]));
    attn_run(&p, q, out);
    double want[128];
    for (int r = 0; r < NODES; r++)
        for (int h = 0; h < NH; h++) {
            attn_twin(&p, q, r, h, want);
            for (int i = 0; i < d; i++)
                near_to(want[i], bf16_to_float(out[(r * NH + h) * d + i]), BF16_STEP * (fabs(want[i]) + 0.5),
                        "attention", i);
        }
    free(q), free(out);
    paged_free(&p);
}

/* Rows i and j of the tree change slots, their keys and values with them. */
static void swap_slots(struct paged *p, int i, int j)
{
    for (int at = 0; at < LAYERS * NKV * 2; at++)
        for (int k = 0; k < p->d; k++) {
            bf16 *a = p->kv + cell_at(p, at / (NKV * 2), at / 2 % NKV, at % 2, p->row[i].cell) + k;
            bf16 *b = p->kv + cell_at(p, at / (NKV * 2), at / 2 % NKV, at % 2, p->row[j].cell) + k;
            bf16 c = *a;
            *a = *b;
            *b = c;
        }
    int32_t cell = p->row[i].cell;
    p->row[i].cell = p->row[j].cell;
    p->row[j].cell = cell;
}

/* A chain whose values cancel, so that the order of the sum shows through the rounding to BF16: other slots, the same bits. */
static void test_tail_order(void **)
{
    enum { D = 64 };
    EACH_SCHEDULE
    {
        struct paged p;
        uint64_t dice = 43;
        paged_new(&p, D, 20, &dice);
        size_t values = (size_t) NODES * NH * D;
        bf16 *q = host_new<bf16>(values), *one = host_new<bf16>(values), *other = host_new<bf16>(values);
        for (int i = 0; i < NODES; i++) {
            p.row[i].parent = i - 1;
            p.row[i].pos = 20 + i;
        }
        for (int i = 0; i < NKV * D; i++) { /* of the last row: a - b + b - a, large, among small ones */
            float x = (float) (1 + small_dice(&dice, 127)) * 0x1p14f,
                  y = (float) (1 + small_dice(&dice, 127)) * 0x1p14f;
            const float large[4] = {x, -y, y, -x};
            for (int k = 0; k < 4; k++)
                p.kv[cell_at(&p, 1, i / D, 1, p.row[k * 4].cell) + (size_t) (i % D)] =
                    float_to_bf16(large[k]);
        }
        must(cudaMemcpy(p.kv_device, p.kv, p.values * sizeof *p.kv, cudaMemcpyHostToDevice));
        attn_run(&p, q, one);
        for (int i = 0; i < NODES / 2; i++)
            swap_slots(&p, i, NODES - 1 - i);
        must(cudaMemcpy(p.kv_device, p.kv, p.values * sizeof *p.kv, cudaMemcpyHostToDevice));
        attn_run(&p, q, other);
        assert_memory_equal(one, other, values * sizeof *one);
        free(q), free(one), free(other);
        paged_free(&p);
    }
}

static void test_attn(void **)
{
    static const int lens[] = {0, 5, 63, 64, 125, 126, 190, 300, 579};
    EACH_SCHEDULE
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++)
        attn_case(i % 2 ? 128 : 64, lens[i]);
}

static void test_heads(void **)
{
    enum { D = 128, LD = (NH + 2 * NKV) * D, POSITIONS = 40 };
    EACH_SCHEDULE
    {
        struct paged p;
        uint64_t dice = 51;
        paged_new(&p, D, 20, &dice);
        struct config c = {};
        c.head_dim = D;
        c.rope_theta = 1e4f;
        c.ctx_max = POSITIONS;
        float *cosines = host_new<float>(POSITIONS * D / 2), *sines = host_new<float>(POSITIONS * D / 2);
        cpu_rope_table(&c, 0, POSITIONS, cosines, sines);
        float *part = floats_new(2 * NODES * LD, &dice), *qn = floats_new(D, &dice),
              *kn = floats_new(D, &dice);
        bf16 *q = host_new<bf16>(NODES * NH * D);
        struct heads h = {};
        h.qkv = {device_new(part, 2 * NODES * LD), NODES * LD, LD, 2};
        h.row = device_new(p.row, NODES);
        h.q_norm = device_new(qn, D);
        h.k_norm = device_new(kn, D);
        h.cosines = device_new(cosines, POSITIONS * D / 2);
        h.sines = device_new(sines, POSITIONS * D / 2);
        h.q = device_new(q, NODES * NH * D);
        h.kv = p.kv_device + cell_at(&p, 1, 0, 0, 0);
        h.n_heads = NH;
        h.n_kv_heads = NKV;
        h.head_dim = D;
        h.eps = 1e-6f;
        must(heads_launch(&h, NODES, 0));
        must(cudaDeviceSynchronize());
        device_read(q, h.q, NODES * NH * D);
        device_read(p.kv, p.kv_device, p.values);
        for (int r = 0; r < NODES; r++)
            for (int i = 0; i < NH + 2 * NKV; i++) {
                double x[D], squares = 0;
                int kind = i < NH ? 0 : i < NH + NKV ? 1 : 2, pos = p.row[r].pos;
                for (int k = 0; k < D; k++) {
                    x[k] = (double) part[r * LD + i * D + k] + (double) part[NODES * LD + r * LD + i * D + k];
                    squares += x[k] * x[k];
                }
                for (int k = 0; k < D && kind < 2; k++)
                    x[k] = x[k] / sqrt(squares / D + 1e-6) * (kind ? kn[k] : qn[k]);
                const bf16 *got = kind == 0 ? q + (r * NH + i) * D
                                            : p.kv + cell_at(&p, 1, (i - NH) % NKV, kind == 2, p.row[r].cell);
                for (int k = 0; k < D; k++) {
                    int half = k % (D / 2);
                    double a = x[half], b = x[half + D / 2], cs = cosines[pos * D / 2 + half],
                           sn = sines[pos * D / 2 + half];
                    double want = kind == 2 ? x[k] : k < D / 2 ? a * cs - b * sn : b * cs + a * sn;
                    near_to(want, bf16_to_float(got[k]), BF16_STEP * fabs(want) + 1e-5, "head", k);
                }
            }
        const void *all[] = {h.qkv.part, h.row, h.q_norm, h.k_norm, h.cosines, h.sines, h.q};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            must(cudaFree((void *) all[i]));
        free(cosines), free(sines), free(part), free(qn), free(kn), free(q);
        paged_free(&p);
    }
}

/* A path settles where it should, and nothing else changes. */
static void test_settle(void **)
{
    EACH_SCHEDULE
    {
        struct paged p;
        uint64_t dice = 61;
        struct err e = {};
        struct cuda_dev *dev;
        assert_int_equal(cuda__dev_open(&dev, 0, &e), 0);
        paged_new(&p, 64, 126, &dice);
        struct cuda_shape s = {};
        s.n_layers = LAYERS;
        s.n_kv_heads = NKV;
        s.head_dim = 64;
        s.pages = PAGES_MAX;
        struct path path = {};
        for (int i = 1, at = 0; i < NODES; i++)
            if (p.row[i].parent == at) {
                path.node[path.n++] = (int16_t) i;
                at = i;
            }
        struct cuda_desk d = {};
        d.kv = (char *) p.kv_device;
        d.path = device_new(&path, 1);
        struct cuda_pass pass = {};
        pass.dev = dev;
        pass.shape = &s;
        pass.desk = &d;
        pass.items = 1;
        pass.blob.row = device_new(p.row, NODES);
        pass.blob.item = device_new(p.item, 1);
        pass.blob.page = device_new(p.page, PAGES_MAX);
        cuda__settle(&pass, NULL);
        cuda__page_copy(dev, &s, (char *) p.kv_device, p.page[9], p.page[0], 17);
        assert_int_equal(cuda__dev_wait(dev), 0);
        bf16 *after = host_new<bf16>(p.values);
        device_read(after, p.kv_device, p.values);
        for (int layer = 0; layer < LAYERS; layer++)
            for (int h = 0; h < NKV; h++)
                for (int v = 0; v < 2; v++) {
                    for (int i = -1; i < path.n; i++) {
                        int pos = p.len + i + 1, to = p.page[pos / CUDA_KEYS] * CUDA_KEYS + pos % CUDA_KEYS;
                        memcpy(p.kv + cell_at(&p, layer, h, v, to),
                               p.kv + cell_at(&p, layer, h, v, p.row[i < 0 ? 0 : path.node[i]].cell),
                               64 * sizeof(bf16));
                    }
                    memcpy(p.kv + cell_at(&p, layer, h, v, p.page[9] * CUDA_KEYS),
                           p.kv + cell_at(&p, layer, h, v, p.page[0] * CUDA_KEYS), 17 * 64 * sizeof(bf16));
                }
        assert_memory_equal(after, p.kv, p.values * sizeof(bf16));
        must(cudaFree((void *) pass.blob.row));
        must(cudaFree((void *) pass.blob.item));
        must(cudaFree((void *) pass.blob.page));
        must(cudaFree(d.path));
        free(after);
        paged_free(&p);
        cuda__dev_close(dev);
    }
}

/* --- moe.cu --- */

static void test_moe(void **)
{
    enum { ROWS = 37, E = 40, USED = 5, HID = 100, NPLACES = ROWS * USED };
    EACH_SCHEDULE
    {
        uint64_t dice = 71;
        float *x = floats_new(ROWS * HID, &dice), *w = floats_new(E * HID, &dice),
              *logit = host_new<float>(ROWS * E), *pick_w = host_new<float>(NPLACES),
              *y = floats_new(2 * NPLACES * HID, &dice), *after = host_new<float>(ROWS * HID);
        int32_t *pick = host_new<int32_t>(NPLACES), *place = host_new<int32_t>(NPLACES),
                *place_row = host_new<int32_t>(NPLACES), *work = host_new<int32_t>(1 + 3 * (E + NPLACES));
        struct route r = {};
        r.x = device_new(x, ROWS * HID);
        r.w = device_new(w, E * HID);
        r.logit = device_new(logit, ROWS * E);
        r.pick = device_new(pick, NPLACES);
        r.pick_w = device_new(pick_w, NPLACES);
        r.place = device_new(place, NPLACES);
        r.place_row = device_new(place_row, NPLACES);
        r.work = device_new(work, 1 + 3 * (E + NPLACES));
        r.hidden = HID;
        r.n_experts = E;
        r.n_used = USED;
        r.norm_topk = 1;
        must(route_launch(&r, ROWS, 0));
        float *x2 = device_new(x, ROWS * HID), *y_device = device_new(y, 2 * NPLACES * HID);
        struct parts p = {y_device, NPLACES * HID, HID, 2};
        must(combine_launch(x2, HID, &p, r.place, r.pick_w, USED, ROWS, 0));
        must(cudaDeviceSynchronize());
        device_read(logit, r.logit, ROWS * E);
        device_read(pick, r.pick, NPLACES);
        device_read(pick_w, r.pick_w, NPLACES);
        device_read(place, r.place, NPLACES);
        device_read(place_row, r.place_row, NPLACES);
        device_read(work, r.work, 1 + 3 * (E + NPLACES));
        device_read(after, x2, ROWS * HID);
        int seen[NPLACES] = {}, covered = 0;
        for (int row = 0; row < ROWS; row++) {
            double all = 0, total = 0, most = -1e30;
            for (int e = 0; e < E; e++) {
                double want = 0;
                for (int k = 0; k < HID; k++)
                    want += (double) x[row * HID + k] * (double) w[e * HID + k];
                near_to(want, logit[row * E + e], 1e-4, "router", e);
                most = fmax(most, logit[row * E + e]);
            }
            for (int j = 0; j < USED; j++) { /* each pick is the largest of those left */
                for (int e = 0; e < E; e++) {
                    int taken = 0;
                    for (int i = 0; i <= j; i++)
                        taken |= pick[row * USED + i] == e;
                    float a = logit[row * E + e], b = logit[row * E + pick[row * USED + j]];
                    assert_true(taken || a < b || (a == b && e > pick[row * USED + j]));
                }
                total += exp(logit[row * E + pick[row * USED + j]] - most);
            }
            (void) all;
            for (int j = 0; j < USED; j++) {
                int at = place[row * USED + j];
                near_to(exp(logit[row * E + pick[row * USED + j]] - most) / total, pick_w[row * USED + j],
                        1e-5, "weight", j);
                assert_in_range(at, 0, NPLACES - 1);
                assert_int_equal(place_row[at], row);
                seen[at]++;
            }
            for (int i = 0; i < HID; i++) {
                double want = x[row * HID + i];
                for (int j = 0; j < USED; j++) {
                    int64_t at = (int64_t) place[row * USED + j] * HID + i;
                    want +=
                        (double) pick_w[row * USED + j] * ((double) y[at] + (double) y[NPLACES * HID + at]);
                }
                near_to(want, after[row * HID + i], 1e-5, "sum", i);
            }
        }
        for (int i = 0; i < NPLACES; i++)
            assert_int_equal(seen[i], 1);
        for (int i = 0; i < work[0]; i++) {
            const int32_t *k = work + 1 + 3 * i;
            assert_in_range(k[2], 1, CUDA_ROWS);
            for (int at = k[1]; at < k[1] + k[2]; at++) {
                int found = 0;
                for (int j = 0; j < USED; j++)
                    found |= pick[place_row[at] * USED + j] == k[0] && place[place_row[at] * USED + j] == at;
                assert_true(found);
                covered++;
            }
        }
        assert_int_equal(covered, NPLACES);
        const void *all[] = {r.x, r.w, r.logit, r.pick, r.pick_w, r.place, r.place_row, r.work, x2, y_device};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            must(cudaFree((void *) all[i]));
        free(x), free(w), free(logit), free(pick_w), free(y), free(after), free(pick), free(place),
            free(place_row), free(work);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm_bf16), cmocka_unit_test(test_gemm_fp8), cmocka_unit_test(test_gemm_q8),
        cmocka_unit_test(test_unpack),    cmocka_unit_test(test_norm),     cmocka_unit_test(test_silu_embed),
        cmocka_unit_test(test_heads),     cmocka_unit_test(test_attn),     cmocka_unit_test(test_tail_order),
        cmocka_unit_test(test_settle),    cmocka_unit_test(test_moe)};
    return cmocka_run_group_tests_name("CUDA kernels", tests, NULL, NULL);
}
