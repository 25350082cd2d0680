/* attention.cu - heads, attention over pages and slots, and settling, against their plain meaning in double, within a stated tolerance,
 * under every schedule; and against themselves, to the bit, where slots must not show.
 *
 * Tolerances: what is rounded to BF16 is off by 2^-8 of itself. */
#include "target/cuda/attn.cuh"
#include "target/cuda/rows.cuh"
#include "tests/cuda/memory.cuh"

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

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_heads), cmocka_unit_test(test_attn),
                                       cmocka_unit_test(test_tail_order), cmocka_unit_test(test_settle)};
    return cmocka_run_group_tests_name("CUDA attention and pages", tests, NULL, NULL);
}
