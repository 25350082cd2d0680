/* warp.cu - the host lane's warp operations and fragment layouts against their plain meaning, under every kind of schedule.
 * Nothing here is of the host lane alone: the same program passes on a GPU, which proves the layouts. */
#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"
#include "tests/hostsim/test/lane.h"

enum { M = 16, N = 8, K = 16 };

struct rng {
    uint32_t state;
};

static uint32_t rng_next(struct rng *r)
{
    r->state = r->state * 1664525u + 1013904223u;
    return r->state >> 8;
}

static bf16 rng_bf16(struct rng *r)
{
    return float_to_bf16(((float) (rng_next(r) % 2001) - 1000.0f) / 256.0f);
}

/* --- exchange --- */

__global__ void exchange(uint32_t *out)
{
    uint32_t lane = (uint32_t) lane_id(), v = 100 + lane, *o = out + 32 * 12 * blockIdx.x + lane;
    o[0 * 32] = __shfl_sync(WARP_ALL, v, 5);
    o[1 * 32] = __shfl_sync(WARP_ALL, v, 9, 8);
    o[2 * 32] = __shfl_up_sync(WARP_ALL, v, 3);
    o[3 * 32] = __shfl_down_sync(WARP_ALL, v, 3, 16);
    o[4 * 32] = __shfl_xor_sync(WARP_ALL, v, 6);
    o[5 * 32] = __ballot_sync(WARP_ALL, lane % 3 == 0);
    o[6 * 32] = (uint32_t) __any_sync(WARP_ALL, lane == 7) | (uint32_t) __all_sync(WARP_ALL, lane < 32) << 1 |
                (uint32_t) __all_sync(WARP_ALL, lane < 31) << 2;
    o[7 * 32] = __reduce_add_sync(WARP_ALL, v);
    o[8 * 32] = __reduce_max_sync(WARP_ALL, v);
    o[9 * 32] = (uint32_t) warp_sum((float) v);
    o[10 * 32] = (uint32_t) warp_max((float) v);
    uint32_t half = lane < 16 ? 0xffffu : 0xffff0000u; /* two halves, each by itself */
    if (lane < 16)
        o[11 * 32] = __ballot_sync(half, lane & 1);
    else
        o[11 * 32] = __ballot_sync(half, lane & 2);
}

static void check_exchange(const uint32_t *o, uint32_t l)
{
    assert_int_equal(o[0 * 32 + l], 105);
    assert_int_equal(o[1 * 32 + l], 100 + (l & 24) + 1);
    assert_int_equal(o[2 * 32 + l], 100 + (l < 3 ? l : l - 3));
    assert_int_equal(o[3 * 32 + l], 100 + ((l & 15) + 3 > 15 ? l : l + 3));
    assert_int_equal(o[4 * 32 + l], 100 + (l ^ 6));
    assert_int_equal(o[5 * 32 + l], 0x49249249u);
    assert_int_equal(o[6 * 32 + l], 3);
    assert_int_equal(o[7 * 32 + l], 3200 + 496);
    assert_int_equal(o[8 * 32 + l], 131);
    assert_int_equal(o[9 * 32 + l], 3200 + 496);
    assert_int_equal(o[10 * 32 + l], 131);
    assert_int_equal(o[11 * 32 + l], l < 16 ? 0xaaaau : 0xcccc0000u);
}

static void test_exchange(void **)
{
    enum { BLOCKS = 3, BYTES = BLOCKS * 12 * 32 * 4 };
    static uint32_t host[BYTES / 4];
    uint32_t *dev;
    must(cudaMalloc(&dev, BYTES));
    EACH_SCHEDULE
    {
        must(cudaMemset(dev, 0, BYTES));
        must(LAUNCH(exchange, BLOCKS, 32, 0, 0, dev));
        must(cudaMemcpy(host, dev, BYTES, cudaMemcpyDeviceToHost));
        for (uint32_t b = 0; b < BLOCKS; b++)
            for (uint32_t l = 0; l < 32; l++)
                check_exchange(host + b * 12 * 32, l);
    }
    must(cudaFree(dev));
}

/* --- tensor cores --- */

/* Fragments by ldmatrix, as a kernel loads them: A row-major; B once as rows of k (transposed load), once as rows of n. */
__global__ void tile(const bf16 *a, const bf16 *b, const bf16 *b_by_column, float *c)
{
    SMEM(uint4, sa, [M * K / 8]);
    SMEM(uint4, sb, [K * N / 8]);
    SMEM(uint4, sbt, [N * K / 8]);
    int l = lane_id(), g = l / 4, t = l % 4;
    sa[l] = ld16(a + 8 * l);
    if (l < 16) {
        sb[l] = ld16(b + 8 * l);
        sbt[l] = ld16(b_by_column + 8 * l);
    }
    __syncwarp();
    uint32_t fa[4], fb[2], fbt[2];
    ldmatrix_x4(fa, (const bf16 *) sa + (l % 16) * K + 8 * (l / 16));
    ldmatrix_x2_trans(fb, (const bf16 *) sb + (l % 16) * N);
    ldmatrix_x2(fbt, (const bf16 *) sbt + (l % 8) * K + 8 * (l / 8 % 2));
    float d[4] = {1, 1, 1, 1};
    mma_m16n8k16_bf16(d, fa, fb);
    if (fb[0] != fbt[0] || fb[1] != fbt[1])
        d[0] = 1e9f;
    c[g * N + 2 * t] = d[0];
    c[g * N + 2 * t + 1] = d[1];
    c[(g + 8) * N + 2 * t] = d[2];
    c[(g + 8) * N + 2 * t + 1] = d[3];
}

static void test_tile(void **)
{
    bf16 a[M * K], b[K * N], bt[N * K], *da, *db, *dbt;
    float c[M * N], *dc;
    struct rng r = {7};
    for (int i = 0; i < M * K; i++)
        a[i] = rng_bf16(&r);
    for (int i = 0; i < K * N; i++)
        bt[i % N * K + i / N] = b[i] = rng_bf16(&r);
    must(cudaMalloc(&da, sizeof a));
    must(cudaMalloc(&db, sizeof b));
    must(cudaMalloc(&dbt, sizeof bt));
    must(cudaMalloc(&dc, sizeof c));
    must(cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice));
    must(cudaMemcpy(db, b, sizeof b, cudaMemcpyHostToDevice));
    must(cudaMemcpy(dbt, bt, sizeof bt, cudaMemcpyHostToDevice));
    EACH_SCHEDULE
    {
        must(LAUNCH(tile, 1, 32, 0, 0, da, db, dbt, dc));
        must(cudaMemcpy(c, dc, sizeof c, cudaMemcpyDeviceToHost));
        for (int i = 0; i < M * N; i++) {
            double want = 1, size = 1;
            for (int k = 0; k < K; k++) {
                double p =
                    (double) bf16_to_float(a[i / N * K + k]) * (double) bf16_to_float(b[k * N + i % N]);
                want += p;
                size += p < 0 ? -p : p;
            }
            assert_true(fabs((double) c[i] - want) <= size * 1e-6);
        }
    }
    must(cudaFree(da));
    must(cudaFree(db));
    must(cudaFree(dbt));
    must(cudaFree(dc));
}

/* Every element of four matrices, by its number: the layout itself. */
__global__ void matrices(uint32_t *out)
{
    SMEM(uint16_t, m, [4][8][8]);
    int l = lane_id();
    for (int i = l; i < 256; i += 32)
        m[i / 64][i / 8 % 8][i % 8] = (uint16_t) i;
    __syncwarp();
    uint32_t r[4], t[4];
    ldmatrix_x4(r, m[l / 8][l % 8]);
    ldmatrix_x4_trans(t, m[l / 8][l % 8]);
    for (int i = 0; i < 4; i++) {
        out[(i * 32 + l) * 2] = r[i];
        out[(i * 32 + l) * 2 + 1] = t[i];
    }
}

static void test_matrices(void **)
{
    uint32_t out[4 * 32 * 2], *dev;
    must(cudaMalloc(&dev, sizeof out));
    EACH_SCHEDULE
    {
        must(LAUNCH(matrices, 1, 32, 0, 0, dev));
        must(cudaMemcpy(out, dev, sizeof out, cudaMemcpyDeviceToHost));
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t l = 0; l < 32; l++) {
                uint32_t g = l / 4, t = l % 4, plain = i * 64 + g * 8 + 2 * t,
                         across = i * 64 + 2 * t * 8 + g;
                assert_int_equal(out[(i * 32 + l) * 2], plain | (plain + 1) << 16);
                assert_int_equal(out[(i * 32 + l) * 2 + 1], across | (across + 8) << 16);
            }
    }
    must(cudaFree(dev));
}

/* --- element types --- */

__global__ void convert(float *single, uint32_t *packed)
{
    int i = (int) threadIdx.x;
    e4m3 x = {(uint8_t) i};
    single[i] = e4m3_to_float(x);
    if (i < 64)
        e4m3x4_to_bf16x4((uint32_t) (4 * i) * 0x01010101u + 0x03020100u, packed + 2 * i);
}

static float e4m3_meaning(int x)
{
    int e = x >> 3 & 15, m = x & 7;
    float v = e ? ldexpf((float) (8 + m), e - 10) : ldexpf((float) m, -9);
    return x & 0x80 ? -v : v;
}

static void test_convert(void **)
{
    float single[256], *ds;
    uint32_t packed[128], *dp;
    must(cudaMalloc(&ds, sizeof single));
    must(cudaMalloc(&dp, sizeof packed));
    must(LAUNCH(convert, 1, 256, 0, 0, ds, dp));
    must(cudaMemcpy(single, ds, sizeof single, cudaMemcpyDeviceToHost));
    must(cudaMemcpy(packed, dp, sizeof packed, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 256; i++) {
        uint32_t half = packed[i / 2] >> 16 * (i & 1) & 0xffffu;
        if ((i & 127) == 127) {
            assert_true(single[i] != single[i]);
            continue;
        }
        assert_int_equal(float_bits(single[i]), float_bits(e4m3_meaning(i)));
        assert_int_equal(half << 16, float_bits(e4m3_meaning(i)));
    }
    for (uint32_t u = 0; u < 65536; u++) {
        bf16 x = {(uint16_t) u};
        float f = bf16_to_float(x);
        if (f == f)
            assert_int_equal(float_to_bf16(f).bits, u);
    }
    assert_int_equal(float_to_bf16(bits_float(0x3f808000u)).bits, 0x3f80); /* a tie goes to the even one */
    assert_int_equal(float_to_bf16(bits_float(0x3f818000u)).bits, 0x3f82);
    must(cudaFree(ds));
    must(cudaFree(dp));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exchange), cmocka_unit_test(test_tile),
                                       cmocka_unit_test(test_matrices), cmocka_unit_test(test_convert)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
