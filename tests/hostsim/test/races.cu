/* races.cu - planted faults of synchronization and order, each beside the kernel that is right: the right one gives the same under every
 * schedule, the broken one is found under at least one, by a wrong result or by a fault.  Those that no schedule can show, because some
 * other barrier happens to stand in the way, are found by the checked build, and the test says so.
 *
 * A found fault prints the schedules that found it. */
#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"
#include "tests/hostsim/test/lane.h"

#include <string.h>

enum { THREADS = 128, N = 1024, ROWS = 16, ROW = 8 };

/* --- kernels: BROKEN leaves something out --- */

/* Neighbours exchange through shared memory, one warp. */
template <int BROKEN> __global__ void no_syncwarp(const float *in, float *out)
{
    SMEM(float, s, [32]);
    int i = (int) threadIdx.x;
    s[i] = in[i];
    if (!BROKEN)
        __syncwarp();
    out[i] = s[31 - i] * 2;
}

/* The same with a shuffle where the barrier should be: it brings the lanes together and orders no memory. */
template <int BROKEN> __global__ void shuffle_for_syncwarp(const float *in, float *out)
{
    SMEM(float, s, [32]);
    int i = (int) threadIdx.x;
    s[i] = in[i];
    if (BROKEN)
        (void) __shfl_xor_sync(WARP_ALL, i, 1);
    else
        __syncwarp();
    out[i] = s[31 - i] * 2;
}

/* What all lanes read, one lane writes after they have met: right without a barrier, for the vote is made of what was read. */
template <int BROKEN> __global__ void read_vote_write(const float *in, float *out)
{
    SMEM(float, s, [1]);
    int i = (int) threadIdx.x;
    if (i == 0)
        s[0] = in[0];
    __syncwarp();
    int all = BROKEN ? s[0] == in[0] : __all_sync(WARP_ALL, s[0] == in[0]);
    if (i == 0)
        s[0] += 7 - in[0];
    __syncwarp();
    out[i] = s[0] * (float) all;
}

/* Reversal within a block. */
template <int BROKEN> __global__ void no_syncthreads(const float *in, float *out)
{
    SMEM(float, s, [THREADS]);
    int i = (int) threadIdx.x;
    s[i] = in[i];
    if (!BROKEN)
        __syncthreads();
    out[i] = s[THREADS - 1 - i] * 2;
}

/* A loop over tiles with one buffer: the second barrier keeps the next tile from overwriting what others still read. */
template <int BROKEN> __global__ void no_second_barrier(const float *in, float *out)
{
    SMEM(float, s, [THREADS]);
    int i = (int) threadIdx.x;
    float sum = 0;
    for (int tile = 0; tile < 4; tile++) {
        s[i] = in[tile * THREADS + i];
        __syncthreads();
        sum += s[(i + 37) % THREADS];
        if (!BROKEN)
            __syncthreads();
    }
    out[i] = sum;
}

/* A pipeline of two stages; BROKEN 1: no wait at all, 2: waits for one group too few. */
template <int BROKEN> __global__ void no_wait(const float *in, float *out)
{
    DYN_SMEM(float, s); /* (2, THREADS) */
    int i = (int) threadIdx.x;
    float sum = 0;
    if (i < THREADS / 4)
        cp_async16(s + 4 * i, in + 4 * i);
    cp_async_commit();
    for (int tile = 0; tile < 4; tile++) {
        if (tile < 3 && i < THREADS / 4)
            cp_async16(s + (tile + 1) % 2 * THREADS + 4 * i, in + (tile + 1) * THREADS + 4 * i);
        cp_async_commit();
        if (BROKEN == 0)
            cp_async_wait<1>();
        if (BROKEN == 2)
            cp_async_wait<2>();
        __syncthreads();
        sum += s[tile % 2 * THREADS + (i + 37) % THREADS];
        __syncthreads();
    }
    out[i] = sum;
}

/* Waits for its own copies, but for nobody else's. */
template <int BROKEN> __global__ void wait_without_barrier(const float *in, float *out)
{
    DYN_SMEM(float, s);
    int i = (int) threadIdx.x;
    if (i < THREADS / 4)
        cp_async16(s + 4 * i, in + 4 * i);
    cp_async_commit();
    cp_async_wait<0>();
    if (!BROKEN)
        __syncthreads();
    out[i] = s[THREADS - 1 - i];
}

/* One row too few. */
template <int BROKEN> __global__ void unwritten_row(const float *in, float *out)
{
    int row = (int) blockIdx.x;
    if (row < THREADS / ROW - BROKEN)
        out[row * ROW + (int) threadIdx.x % ROW] = in[row * ROW + (int) threadIdx.x % ROW];
}

/* Rows move to the front, in place; BROKEN: descending, so that a row is overwritten before it moved. */
template <int BROKEN> __global__ void compaction_order(const float *in, float *out)
{
    int i = (int) threadIdx.x;
    for (int r = 0; r < ROWS; r++)
        out[r * ROW + i] = in[r * ROW + i];
    __syncthreads();
    for (int step = 0; step < ROWS / 2; step++) {
        int r = BROKEN ? ROWS / 2 - 1 - step : step;
        out[r * ROW + i] = out[2 * r * ROW + i];
    }
}

/* The last row goes behind the end. */
template <int BROKEN> __global__ void out_of_bounds(const float *in, float *out)
{
    int i = (int) threadIdx.x;
    for (int r = 0; r < ROWS; r++)
        out[(r + BROKEN) * ROW + i] = in[r * ROW + i];
    if (BROKEN)
        out[i] = in[i];
}

/* Every block adds up its part, the last to finish adds the parts in order.  BROKEN: the first to come adds them. */
template <int BROKEN> __global__ void last_block(const float *in, float *out, float *part, unsigned *counter)
{
    SMEM(unsigned, order, );
    if (threadIdx.x == 0) {
        float sum = 0;
        for (int i = 0; i < THREADS; i++)
            sum += in[blockIdx.x * THREADS + i];
        part[blockIdx.x] = sum;
        __threadfence();
        order = atomicAdd(counter, 1u);
    }
    __syncthreads();
    if (order == (BROKEN ? 0 : gridDim.x - 1) && threadIdx.x == 0) {
        float sum = 0;
        for (unsigned b = 0; b < gridDim.x; b++)
            sum += part[b];
        out[0] = sum;
    }
}

/* Two blocks write the same place; BROKEN 2: the same value too. */
template <int BROKEN> __global__ void blocks_collide(const float *in, float *out)
{
    int i = (int) (blockIdx.x * 32 + threadIdx.x);
    out[BROKEN == 1 ? i % 32 : i] = in[i];
    if (BROKEN == 2)
        out[i % 32] = in[i % 32];
}

__global__ void slow_copy(const float *in, float *out, int n)
{
    for (int i = (int) threadIdx.x; i < n; i += (int) blockDim.x)
        out[i] = in[i];
}

/* --- one kernel under every schedule --- */

typedef cudaError_t (*start_fn)(const float *in, float *out);

static float host_in[N], want[N], got[N];

static const float *fill(void)
{
    float *in;
    for (int i = 0; i < N; i++)
        host_in[i] = (float) (i * 7 % 101) - 50;
    must(cudaMalloc(&in, sizeof host_in));
    must(cudaMemcpy(in, host_in, sizeof host_in, cudaMemcpyHostToDevice));
    return in;
}

/* 1: right; 0: a wrong result; -1: a fault. */
static int run(start_fn start, const float *in, int n)
{
    float *out;
    must(cudaMalloc(&out, (size_t) n * sizeof(float)));
    cudaError_t e = start(in, out);
    if (e == cudaSuccess)
        e = cudaMemcpy(got, out, (size_t) n * sizeof(float), cudaMemcpyDeviceToHost);
    if (e != cudaSuccess)
        hostsim_clear();
    must(cudaFree(out));
    return e != cudaSuccess ? -1 : !memcmp(got, want, (size_t) n * sizeof(float));
}

static bool is_checked(void)
{
    struct hostsim_figures f;
    hostsim_counters(&f);
    return f.checked != 0;
}

/* by_check: only the checked build can see it. */
static void planted(const char *name, start_fn right, start_fn broken, int n, bool by_check)
{
    const float *in = fill();
    int found = 0;
    EACH_SCHEDULE
    assert_int_equal(run(right, in, n), 1);
    printf("%s: found by", name);
    EACH_SCHEDULE
    {
        int r = run(broken, in, n);
        if (r != 1)
            printf(" %s%s", hostsim_schedule_name(), r < 0 ? "(fault)" : "");
        found += r != 1;
    }
    printf(found ? "\n" : " nothing\n");
    must(cudaFree((void *) in));
    if (by_check && !is_checked())
        assert_int_equal(found, 0); /* else it is not what this is for */
    else
        assert_true(found > 0);
}

#define PLANT(kernel, broken, grid, block, smem, n, by_check)                                                \
    planted(                                                                                                 \
        #kernel " " #broken,                                                                                 \
        [](const float *in, float *out) { return LAUNCH((kernel<0>), grid, block, smem, 0, in, out); },      \
        [](const float *in, float *out) { return LAUNCH((kernel<broken>), grid, block, smem, 0, in, out); }, \
        n, by_check)

static void test_syncwarp(void **)
{
    for (int i = 0; i < 32; i++)
        want[i] = ((float) ((31 - i) * 7 % 101) - 50) * 2;
    PLANT(no_syncwarp, 1, 1, 32, 0, 32, false);
    PLANT(shuffle_for_syncwarp, 1, 1, 32, 0, 32, true);
    for (int i = 0; i < 32; i++)
        want[i] = 7;
    PLANT(read_vote_write, 1, 1, 32, 0, 32, false);
}

static void test_syncthreads(void **)
{
    fill();
    for (int i = 0; i < THREADS; i++)
        want[i] = host_in[THREADS - 1 - i] * 2;
    PLANT(no_syncthreads, 1, 1, THREADS, 0, THREADS, false);
    for (int i = 0; i < THREADS; i++) {
        want[i] = 0;
        for (int t = 0; t < 4; t++)
            want[i] += host_in[t * THREADS + (i + 37) % THREADS];
    }
    PLANT(no_second_barrier, 1, 1, THREADS, 0, THREADS, false);
}

static void test_wait_group(void **)
{
    fill();
    for (int i = 0; i < THREADS; i++) {
        want[i] = 0;
        for (int t = 0; t < 4; t++)
            want[i] += host_in[t * THREADS + (i + 37) % THREADS];
    }
    PLANT(no_wait, 1, 1, THREADS, 2 * THREADS * 4, THREADS, false);
    PLANT(no_wait, 2, 1, THREADS, 2 * THREADS * 4, THREADS, false);
    for (int i = 0; i < THREADS; i++)
        want[i] = host_in[THREADS - 1 - i];
    PLANT(wait_without_barrier, 1, 1, THREADS, THREADS * 4, THREADS, false);
}

static void test_rows(void **)
{
    fill();
    memcpy(want, host_in, sizeof want);
    PLANT(unwritten_row, 1, THREADS / ROW, ROW, 0, THREADS, false);
    PLANT(out_of_bounds, 1, 1, ROW, 0, ROWS * ROW, false);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < ROW; i++)
            want[r * ROW + i] = host_in[(r < ROWS / 2 ? 2 * r : r) * ROW + i];
    PLANT(compaction_order, 1, 1, ROW, 0, ROWS * ROW, false);
}

template <int BROKEN> static cudaError_t start_last_block(const float *in, float *out)
{
    float *part;
    unsigned *counter;
    must(cudaMalloc(&part, 8 * sizeof(float)));
    must(cudaMalloc(&counter, sizeof *counter));
    must(cudaMemset(counter, 0, sizeof *counter));
    must(LAUNCH((last_block<BROKEN>), 8, 32, 0, 0, in, out, part, counter));
    cudaError_t e = cudaDeviceSynchronize();
    cudaFree(part);
    cudaFree(counter);
    return e;
}

static void test_blocks(void **)
{
    fill();
    want[0] = 0;
    for (int b = 0; b < 8; b++) {
        float sum = 0;
        for (int i = 0; i < THREADS; i++)
            sum += host_in[b * THREADS + i];
        want[0] += sum;
    }
    planted("last_block 1", start_last_block<0>, start_last_block<1>, 1, false);
    for (int i = 0; i < 64; i++)
        want[i] = host_in[i];
    PLANT(blocks_collide, 1, 2, 32, 0, 64, false);
    PLANT(blocks_collide, 2, 2, 32, 0, 64, true);
}

/* --- streams --- */

/* Reads the result before, or after, it waited. */
template <int BROKEN> static cudaError_t start_host_reads(const float *in, float *out)
{
    float *pinned;
    cudaStream_t s;
    must(cudaStreamCreate(&s));
    must(cudaMallocHost(&pinned, N * sizeof(float)));
    cudaError_t e = cudaMemcpyAsync(pinned, in, N * sizeof(float), cudaMemcpyDeviceToHost, s);
    if (!BROKEN)
        e = cudaStreamSynchronize(s);
    float first = pinned[0];
    must(cudaStreamSynchronize(s));
    e = cudaMemcpy(out, &first, sizeof first, cudaMemcpyHostToDevice);
    must(cudaFreeHost(pinned));
    must(cudaStreamDestroy(s));
    return e;
}

/* Writes a pinned buffer anew while a copy from it is under way. */
template <int BROKEN> static cudaError_t start_host_writes(const float *, float *out)
{
    float *pinned;
    cudaStream_t s;
    must(cudaStreamCreate(&s));
    must(cudaMallocHost(&pinned, sizeof(float)));
    *pinned = host_in[0];
    cudaError_t e = cudaMemcpyAsync(out, pinned, sizeof(float), cudaMemcpyHostToDevice, s);
    if (!BROKEN)
        e = cudaStreamSynchronize(s);
    *pinned = 12345;
    must(cudaStreamSynchronize(s));
    must(cudaFreeHost(pinned));
    must(cudaStreamDestroy(s));
    return e;
}

/* One stream makes what another reads. */
template <int BROKEN> static cudaError_t start_two_streams(const float *in, float *out)
{
    float *mid;
    cudaStream_t a, b;
    cudaEvent_t made;
    must(cudaMalloc(&mid, N * sizeof(float)));
    must(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    must(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    must(cudaEventCreate(&made));
    must(LAUNCH(slow_copy, 1, 32, 0, a, in, mid, N));
    must(cudaEventRecord(made, a));
    if (!BROKEN)
        must(cudaStreamWaitEvent(b, made));
    must(LAUNCH(slow_copy, 1, 32, 0, b, (const float *) mid, out, 1));
    cudaError_t e = cudaStreamSynchronize(b);
    must(cudaStreamDestroy(a));
    must(cudaStreamDestroy(b));
    must(cudaEventDestroy(made));
    must(cudaFree(mid));
    return e;
}

static void test_streams(void **)
{
    fill();
    want[0] = host_in[0];
    planted("host_reads 1", start_host_reads<0>, start_host_reads<1>, 1, false);
    planted("host_writes 1", start_host_writes<0>, start_host_writes<1>, 1, false);
    planted("two_streams 1", start_two_streams<0>, start_two_streams<1>, 1, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_syncwarp),   cmocka_unit_test(test_syncthreads),
                                       cmocka_unit_test(test_wait_group), cmocka_unit_test(test_rows),
                                       cmocka_unit_test(test_blocks),     cmocka_unit_test(test_streams)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
