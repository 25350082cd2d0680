/* kernels.cu - matrices, norms, activations, experts: kernels of target/cuda/ against its plain meaning in double, within a stated tolerance, under every schedule;
 * and against itself, to the bit, where a row must not see how many others there are.
 *
 * Tolerances: sums of n products of floats in any order are off by at most n 2^-24 of the sum of their magnitudes, and what is
 * rounded to BF16 by 2^-8 of itself. */
#include "target/cuda/gemm.cuh"
#include "target/cuda/lt.cuh"
#include "target/cuda/moe.cuh"
#include "target/cuda/rows.cuh"
#include "tests/cuda/memory.cuh"

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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gemm_bf16), cmocka_unit_test(test_gemm_fp8),
                                       cmocka_unit_test(test_gemm_q8),   cmocka_unit_test(test_unpack),
                                       cmocka_unit_test(test_norm),      cmocka_unit_test(test_silu_embed),
                                       cmocka_unit_test(test_moe)};
    return cmocka_run_group_tests_name("CUDA kernels", tests, NULL, NULL);
}
