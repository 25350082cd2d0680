/* block.cu - blocks, barriers, votes, atomics and asynchronous copies of the host lane (and of a GPU: the program passes there too), and
 * what its schedules promise. */
#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"
#include "tests/hostsim/test/lane.h"

#include <string.h>

/* Every thread of every block writes its own number once. */
__global__ void places(int *out)
{
    int t = (int) (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
    int b = (int) (blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
    int n = (int) (blockDim.x * blockDim.y * blockDim.z);
    atomicAdd(out + b * n + t, 1 + lane_id() + 100 * warp_id());
}

static void test_places(void **)
{
    const dim3 grid(3, 2, 4), block(5, 4, 7); /* 140 threads: the last warp is not whole */
    enum { BLOCKS = 24, THREADS = 140 };
    static int got[BLOCKS * THREADS];
    int *out;
    must(cudaMalloc(&out, sizeof got));
    EACH_SCHEDULE
    {
        must(cudaMemset(out, 0, sizeof got));
        must(LAUNCH(places, grid, block, 0, 0, out));
        must(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost));
        for (int i = 0; i < BLOCKS * THREADS; i++)
            assert_int_equal(got[i], 1 + i % THREADS % 32 + 100 * (i % THREADS / 32));
    }
    must(cudaFree(out));
}

__global__ void votes(int *out)
{
    int i = (int) threadIdx.x, odd = i & 1;
    out[i * 4] = __syncthreads_count(odd);
    out[i * 4 + 1] = __syncthreads_and(i < 96) + 2 * __syncthreads_and(i < 95);
    out[i * 4 + 2] = __syncthreads_or(i == 95) + 2 * __syncthreads_or(i == 96);
    out[i * 4 + 3] = (int) __match_any_sync(WARP_ALL, i % 4);
}

static void test_votes(void **)
{
    enum { THREADS = 96 };
    int got[THREADS * 4], *out;
    must(cudaMalloc(&out, sizeof got));
    EACH_SCHEDULE
    {
        must(LAUNCH(votes, 1, THREADS, 0, 0, out));
        must(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost));
        for (int i = 0; i < THREADS; i++) {
            assert_int_equal(got[i * 4], THREADS / 2);
            assert_int_equal(got[i * 4 + 1], 1);
            assert_int_equal(got[i * 4 + 2], 1);
            assert_int_equal(got[i * 4 + 3], 0x11111111 << i % 4);
        }
    }
    must(cudaFree(out));
}

/* Two pairs of warps, each with a barrier of its own, pass a value back and forth a different number of times. */
__global__ void pairs(int *out)
{
    SMEM(int, s, [2][64]);
    int half = (int) threadIdx.x / 64, i = (int) threadIdx.x % 64, v = i;
    for (int round = 0; round < 3 + 2 * half; round++) {
        s[half][i] = v;
        bar_sync(1 + half, 64);
        v = s[half][(i + 33) % 64] + 1;
        bar_sync(1 + half, 64);
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = v;
}

static void test_pairs(void **)
{
    enum { BLOCKS = 3 };
    int got[BLOCKS * 128], *out;
    must(cudaMalloc(&out, sizeof got));
    EACH_SCHEDULE
    {
        must(LAUNCH(pairs, BLOCKS, 128, 0, 0, out));
        must(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost));
        for (int i = 0; i < BLOCKS * 128; i++) {
            int rounds = 3 + 2 * (i / 64 % 2);
            assert_int_equal(got[i], (i % 64 + 33 * rounds) % 64 + rounds);
        }
    }
    must(cudaFree(out));
}

/* A ring of asynchronous copies, three deep, with a ragged end. */
__global__ void ring(const float *in, float *out, int n)
{
    enum { TILE = 64, STAGES = 3 };
    DYN_SMEM(float, s);
    int i = (int) threadIdx.x, tiles = (n + TILE - 1) / TILE;
    float sum = 0;
    for (int t = 0; t < STAGES - 1 + tiles; t++) {
        int at = t * TILE + 4 * i;
        if (t < tiles && i < TILE / 4)
            cp_async16_zfill(s + t % STAGES * TILE + 4 * i, at < n ? in + at : in,
                             at < n ? min(16, 4 * (n - at)) : 0);
        cp_async_commit();
        cp_async_wait<STAGES - 1>();
        __syncthreads();
        if (t >= STAGES - 1)
            sum += s[(t - STAGES + 1) % STAGES * TILE + i];
        __syncthreads();
    }
    out[i] = sum;
}

static void test_ring(void **)
{
    enum { N = 64 * 9 + 26, THREADS = 64 };
    static float in[N], got[THREADS];
    float *di, *out;
    for (int i = 0; i < N; i++)
        in[i] = (float) (i % 37);
    must(cudaMalloc(&di, sizeof in));
    must(cudaMalloc(&out, sizeof got));
    must(cudaMemcpy(di, in, sizeof in, cudaMemcpyHostToDevice));
    EACH_SCHEDULE
    {
        must(LAUNCH(ring, 1, THREADS, 3 * 64 * sizeof(float), 0, (const float *) di, out, (int) N));
        must(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost));
        for (int i = 0; i < THREADS; i++) {
            float want = 0;
            for (int at = i; at < N; at += 64)
                want += in[at];
            assert_true(got[i] == want);
        }
    }
    must(cudaFree(di));
    must(cudaFree(out));
}

__global__ void counts(unsigned *c)
{
    atomicAdd(c, 2u);
    atomicMax(c + 1, threadIdx.x);
    atomicMin(c + 2, threadIdx.x + 5);
    atomicOr(c + 3, 1u << threadIdx.x % 32);
    atomicCAS(c + 4, 0u, 7u);
    atomicInc(c + 5, 9u);
}

static void test_atomics(void **)
{
    unsigned got[6] = {0, 0, 99, 0, 0, 0}, *c;
    must(cudaMalloc(&c, sizeof got));
    must(cudaMemcpy(c, got, sizeof got, cudaMemcpyHostToDevice));
    must(LAUNCH(counts, 5, 64, 0, 0, c));
    must(cudaMemcpy(got, c, sizeof got, cudaMemcpyDeviceToHost));
    assert_int_equal(got[0], 640);
    assert_int_equal(got[1], 63);
    assert_int_equal(got[2], 5);
    assert_int_equal(got[3], 0xffffffffu);
    assert_int_equal(got[4], 7);
    assert_int_equal(got[5], 320 % 10);
    must(cudaFree(c));
}

#ifdef HOSTSIM

/* The order in which threads and blocks come by. */
__global__ void arrivals(unsigned *next, unsigned *order)
{
    order[atomicAdd(next, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

enum { ARRIVALS = 8 * 64 };

static void arrive(const char *schedule, unsigned *order)
{
    unsigned *next, *d;
    assert_int_equal(hostsim_schedule(schedule), 0);
    must(cudaMalloc(&next, sizeof *next));
    must(cudaMalloc(&d, ARRIVALS * sizeof *d));
    must(cudaMemset(next, 0, sizeof *next));
    must(LAUNCH(arrivals, 8, 64, 0, 0, next, d));
    must(cudaMemcpy(order, d, ARRIVALS * sizeof *d, cudaMemcpyDeviceToHost));
    must(cudaFree(next));
    must(cudaFree(d));
}

static void test_schedules(void **)
{
    static unsigned a[ARRIVALS], b[ARRIVALS], seen[ARRIVALS];
    arrive("forward", a);
    arrive("reverse", b);
    for (unsigned i = 0; i < ARRIVALS; i++) {
        assert_int_equal(a[i], i);
        assert_int_equal(b[i], ARRIVALS - 1 - i);
    }
    arrive("random:3", a);
    arrive("random:3", b);
    assert_memory_equal(a, b, sizeof a);
    for (int i = 0; i < ARRIVALS; i++)
        assert_int_equal(seen[a[i]]++, 0);
    arrive("random:4", b);
    assert_memory_not_equal(a, b, sizeof a);
    assert_int_equal(hostsim_schedule("sideways"), -1);
    assert_int_equal(hostsim_schedule("random:"), -1);
    assert_string_equal(hostsim_schedule_name(), "random:4");
}

__global__ void unwritten(float *out)
{
    SMEM(float, s, [4]);
    DYN_SMEM(float, d);
    volatile float *p = s, *q = d;
    out[0] = p[3];
    out[1] = q[7];
}

static void test_poison(void **)
{
    float got[3], *out;
    must(cudaMalloc(&out, sizeof got));
    must(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost));
    assert_true(got[0] != got[0] && got[2] != got[2]);
    struct hostsim_figures f;
    hostsim_counters(&f);
    must(LAUNCH(unwritten, 1, 1, 32, 0, out));
    cudaError_t e = cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost);
    if (f.checked) {
        assert_int_equal(e, cudaErrorLaunchFailure);
        assert_non_null(strstr(hostsim_fault(), "which nobody wrote"));
        hostsim_clear();
    } else {
        assert_true(got[0] != got[0] && got[1] != got[1]);
    }
    must(cudaFree(out));
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),    cmocka_unit_test(test_votes),   cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_ring),      cmocka_unit_test(test_atomics),
#ifdef HOSTSIM
        cmocka_unit_test(test_schedules), cmocka_unit_test(test_poison),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
