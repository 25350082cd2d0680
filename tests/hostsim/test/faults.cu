/* faults.cu - every fault the host lane promises to see, on a kernel that has it: the launch ends, the sentence says what and where, the
 * device is lost until it is reset, and the next kernel runs as if nothing had been. */
#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"
#include "tests/hostsim/test/lane.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 256 };

/* --- kernels, each with one fault --- */

__global__ void fine(float *x)
{
    SMEM(float, s, [N]);
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[N - 1 - threadIdx.x];
}

__global__ void divergent(float *x)
{
    if (threadIdx.x < 100)
        __syncthreads();
    x[threadIdx.x] = 1;
}

__global__ void left_early(float *x)
{
    if (threadIdx.x == 77)
        return;
    __syncthreads();
    x[threadIdx.x] = 1;
}

__global__ void lane_missing(float *x)
{
    float *own = x + threadIdx.x;
    if (threadIdx.x % 32 != 31)
        *own = __shfl_sync(WARP_ALL, *own, 0);
    else
        __syncthreads();
}

__global__ void two_intrinsics(float *x)
{
    float *own = x + threadIdx.x;
    if (threadIdx.x % 2)
        *own = __shfl_xor_sync(WARP_ALL, *own, 1);
    else
        *own = (float) __ballot_sync(WARP_ALL, 1);
}

__global__ void not_in_mask(float *x)
{
    x[threadIdx.x] = __shfl_sync(0xffu, 1.0f, 0);
}

__global__ void mma_in_part(float *x)
{
    float d[4] = {};
    uint32_t a[4] = {}, b[2] = {};
    if (threadIdx.x % 32 < 16)
        return;
    mma_m16n8k16_bf16(d, a, b);
    x[threadIdx.x] = d[0];
}

__global__ void past_end(float *x, int by)
{
    x[threadIdx.x + by] = 1;
}

__global__ void before_start(float *x)
{
    x[(int) threadIdx.x - 1024] = 1;
}

__global__ void misaligned(float *x)
{
    st16(x + 1, ld16(x + 1));
}

__global__ void smem_past_end(float *x, int at)
{
    SMEM(float, s, [8]);
    float *p = s;
    if (threadIdx.x < 8)
        s[threadIdx.x] = 1;
    if (threadIdx.x == 8)
        p[at] = 1;
    x[threadIdx.x] = 1;
}

__global__ void smem_dynamic_past_end(float *x, int at)
{
    DYN_SMEM(float, s);
    s[at] = 1;
    x[threadIdx.x] = 1;
}

__global__ void ldmatrix_from_global(float *x)
{
    uint32_t r[4];
    ldmatrix_x4(r, x);
    x[threadIdx.x] = (float) r[0];
}

__global__ void cp_async_from_smem(float *x)
{
    SMEM(uint4, s, [64]);
    s[32 + threadIdx.x] = make_uint4(0, 0, 0, 0);
    cp_async16(s + threadIdx.x, s + 32 + threadIdx.x);
    x[threadIdx.x] = 1;
}

__global__ void deep(float *x, int n)
{
    volatile char big[70000];
    for (int i = n - 1; i >= 0; i -= 512)
        big[i] = 1;
    x[0] = big[0];
}

__global__ void divides(int *x)
{
    x[1] = 5 / x[0];
}

__global__ void trap(float *)
{
    __trap();
}

/* --- the test of one --- */

static void expect_fault(const char *phrase, float *x)
{
    assert_true(cudaDeviceSynchronize() != cudaSuccess);
    if (!strstr(hostsim_fault(), phrase)) {
        printf("\"%s\" does not contain \"%s\"\n", hostsim_fault(), phrase);
        fail();
    }
    assert_true(LAUNCH(fine, 1, N, 0, 0, x) != cudaSuccess); /* lost */
    hostsim_clear();
    must(LAUNCH(fine, 1, N, 0, 0, x));
    must(cudaDeviceSynchronize());
}

#define EXPECT(phrase, x, launch)                                                                            \
    EACH_SCHEDULE                                                                                            \
    {                                                                                                        \
        cudaError_t e_ = (launch); /* in the reverse schedule it runs at once, and still gives success */    \
        assert_int_equal(e_, cudaSuccess);                                                                   \
        expect_fault(phrase, x);                                                                             \
    }

static float *array(int n)
{
    float *x;
    must(cudaMalloc(&x, (size_t) n * 4));
    must(cudaMemset(x, 0, (size_t) n * 4));
    return x;
}

static void test_barriers(void **)
{
    float *x = array(N);
    EXPECT("__syncthreads", x, LAUNCH(divergent, 1, 128, 0, 0, x))
    EXPECT("__syncthreads", x, LAUNCH(left_early, 1, 128, 0, 0, x))
    must(cudaFree(x));
}

static void test_warps(void **)
{
    float *x = array(N);
    EXPECT("nobody can go on", x, LAUNCH(lane_missing, 1, 64, 0, 0, x))
    EXPECT("while lanes", x, LAUNCH(two_intrinsics, 1, 32, 0, 0, x))
    EXPECT("not in its own mask 000000ff", x, LAUNCH(not_in_mask, 1, 32, 0, 0, x))
    EXPECT("mma.m16n8k16", x, LAUNCH(mma_in_part, 1, 32, 0, 0, x))
    must(cudaFree(x));
}

static void test_addresses(void **)
{
    float *x = array(N), *small = array(25), *gone;
    EXPECT("past the end of device memory of 1024 bytes", x, LAUNCH(past_end, 1, 32, 0, 0, x, N))
    EXPECT("device memory of 100 bytes", x,
           LAUNCH(past_end, 1, 32, 0, 0, small, 0)) /* 28 bytes too many, within the rounding */
    EXPECT("before device memory", x, LAUNCH(before_start, 1, 32, 0, 0, x))
    EXPECT("not aligned to 16 bytes", x, LAUNCH(misaligned, 1, 1, 0, 0, x))
    EXPECT("division by zero", x, LAUNCH(divides, 1, 1, 0, 0, (int *) x))
    EXPECT("the thread's own stack", x, LAUNCH(deep, 1, 1, 0, 0, x, 70000))
    EXPECT("__trap()", x, LAUNCH(trap, 1, 1, 0, 0, x))
    EACH_SCHEDULE
    {
        gone = array(N);
        must(cudaFree(gone));
        must(LAUNCH(past_end, 1, 32, 0, 0, gone, 0));
        expect_fault("device memory of 1024 bytes, which was freed", x);
    }
    must(cudaFree(x));
    must(cudaFree(array(3)));
}

static void test_shared(void **)
{
    float *x = array(N);
    EXPECT("shared array s[32 bytes]", x, LAUNCH(smem_past_end, 1, 32, 0, 0, x, 8))
    EXPECT("shared array s[32 bytes]", x, LAUNCH(smem_past_end, 1, 32, 0, 0, x, -1))
    EXPECT("byte 1024 of the 1024 of dynamic shared memory", x,
           LAUNCH(smem_dynamic_past_end, 1, 1, 1024, 0, x, 256))
    EXPECT("ldmatrix reads byte", x, LAUNCH(ldmatrix_from_global, 1, 32, 0, 0, x))
    EXPECT("it reads device memory", x, LAUNCH(cp_async_from_smem, 1, 32, 0, 0, x))
    must(cudaFree(x));
}

/* --- what host code does wrong --- */

static void test_calls(void **)
{
    float *x = array(N), host[N];
    assert_int_equal(LAUNCH(fine, 1, 1025, 0, 0, x), cudaErrorInvalidConfiguration);
    assert_int_equal(LAUNCH(fine, dim3(1, 65536), 1, 0, 0, x), cudaErrorInvalidConfiguration);
    assert_int_equal(LAUNCH(fine, 0, 1, 0, 0, x), cudaErrorInvalidConfiguration);
    assert_int_equal(LAUNCH(fine, 1, N, 48 * 1024 + 1, 0, x), cudaErrorInvalidValue);
    must(launch_smem_max(fine, 100 * 1024));
    must(LAUNCH(fine, 1, N, 100 * 1024, 0, x));
    assert_int_equal(launch_smem_max(fine, 228 * 1024), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(host, x, N * 4 + 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(host, x, N * 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(x + 1, 0, N * 4), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(x + 1), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess); /* none of it loses the device */
    must(cudaFree(x));
}

static void test_host_touches_device(void **)
{
    float *x = array(N);
    must(cudaDeviceSynchronize());
    int status;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        x[0] = 1;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    must(cudaFree(x));
}

static void test_injections(void **)
{
    float *x = array(N);
    size_t free_bytes, total, before;
    int n;
    hostsim_machine(1, 1 << 20, 90);
    EACH_SCHEDULE
    {
        hostsim_inject("kernel", 2, cudaErrorECCUncorrectable);
        LAUNCH(fine, 1, N, 0, 0, x);
        LAUNCH(fine, 1, N, 0, 0, x);
        assert_int_equal(cudaDeviceSynchronize(), cudaErrorECCUncorrectable);
        assert_int_equal(cudaMemset(x, 0, 4), cudaErrorECCUncorrectable);
        hostsim_clear();
    }
    hostsim_inject("cudaMalloc", 2, cudaErrorMemoryAllocation);
    float *a = NULL, *b = NULL;
    assert_int_equal(cudaMalloc(&a, 64), cudaSuccess);
    assert_int_equal(cudaMalloc(&b, 64), cudaErrorMemoryAllocation);
    assert_int_equal(cudaMalloc(&b, 64), cudaSuccess);
    must(cudaFree(a));
    must(cudaFree(b));
    must(cudaMemGetInfo(&before, &total));
    assert_int_equal(cudaMalloc(&a, total), cudaErrorMemoryAllocation);
    must(cudaMalloc(&a, before));
    must(cudaMemGetInfo(&free_bytes, &total));
    assert_int_equal(free_bytes, 0);
    must(cudaFree(a));
    hostsim_machine(0, total, 90);
    assert_int_equal(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    hostsim_machine(-1, total, 90);
    assert_int_equal(cudaGetDeviceCount(&n), cudaErrorInsufficientDriver);
    hostsim_machine(1, total, 80);
    cudaGetLastError();
    assert_int_equal(launch_smem_max(fine, 164 * 1024), cudaErrorInvalidValue);
    hostsim_machine(1, total, 90);
    must(cudaFree(x));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_barriers),  cmocka_unit_test(test_warps),
        cmocka_unit_test(test_addresses), cmocka_unit_test(test_shared),
        cmocka_unit_test(test_calls),     cmocka_unit_test(test_host_touches_device),
        cmocka_unit_test(test_injections)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
