/* launch.h - how a kernel is declared, launched and checked, the same source for nvcc and for the host lane.
 *
 * The host lane (tests/hostsim) compiles the same .cu files with g++ and runs them on the CPU, so kernels use C plus
 * templates on the element type, the CUDA builtins (threadIdx, __syncthreads, __shfl_xor_sync, atomicAdd, ...), and for
 * everything else ptx.cuh:
 *
 *   - never <<<>>>: LAUNCH(kernel, grid, block, shared bytes, stream, arguments...), a kernel with template arguments in
 *     parentheses: LAUNCH((gemm<bf16, 4>), ...).  It gives a cudaError_t.  Grid and block are dim3 or int.
 *   - never __shared__ as such: SMEM(float, tile, [16][32]) declares a static array (SMEM(int, n, ) a scalar), and
 *     DYN_SMEM(float, buf) names the launch's dynamic shared memory, 128 bytes aligned.
 *   - dynamic shared memory over 48 KB is allowed once a kernel by launch_smem_max(kernel, bytes).
 *   - no warp is implicitly in step, no lane sees another's write without __syncwarp or __syncthreads between.
 *
 * nvcc compiles with -fmad=false: a fused multiply-add is written fmaf, as on the CPU. */
#ifndef CORE_CUDA_LAUNCH_H
#define CORE_CUDA_LAUNCH_H

#include <cuda_runtime.h>

#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "core/status.h"
}

#ifdef HOSTSIM

#define SMEM(type, name, dims)                                                                               \
    typedef type name##_smem_type dims;                                                                      \
    static char name##_smem_key;                                                                             \
    name##_smem_type &name = *(name##_smem_type *) hostsim::smem_static(                                     \
        &name##_smem_key, sizeof(name##_smem_type), alignof(name##_smem_type), #name)
#define DYN_SMEM(type, name) type *name = (type *) hostsim::smem_dynamic()

template <typename... P, typename... A>
static inline cudaError_t launch_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                                        size_t smem, cudaStream_t stream, A... args)
{
    return hostsim::launch(name, (const void *) kernel, grid, block, smem, stream,
                           hostsim::bind(kernel, ((P) args)...));
}

#else

#define SMEM(type, name, dims) __shared__ type name dims
#define DYN_SMEM(type, name)                                                                                 \
    extern __shared__ __align__(128) unsigned char launch_dyn_smem[];                                        \
    type *name = (type *) launch_dyn_smem

template <typename... P, typename... A>
static inline cudaError_t launch_kernel(const char *, void (*kernel)(P...), dim3 grid, dim3 block,
                                        size_t smem, cudaStream_t stream, A... args)
{
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = smem;
    c.stream = stream;
    return cudaLaunchKernelEx(&c, kernel, ((P) args)...);
}

#endif

#define LAUNCH(kernel, grid, block, smem, stream, ...)                                                       \
    launch_kernel(#kernel, kernel, dim3(grid), dim3(block), (size_t) (smem), stream, ##__VA_ARGS__)

/* Allows `kernel` that much dynamic shared memory a block; needed once over 48 KB. */
template <typename... P> static inline cudaError_t launch_smem_max(void (*kernel)(P...), size_t bytes)
{
    return cudaFuncSetAttribute((const void *) kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int) bytes);
}

/* 0, or the status of a CUDA failure with its sentence in er (which may be NULL): ST_NOMEM when memory ran out, ST_DEVICE for
 * everything else, after which the context is lost. */
static inline int cuda_status(cudaError_t e, const char *what, struct err *er)
{
    if (e == cudaSuccess)
        return ST_OK;
    return err_set(er, e == cudaErrorMemoryAllocation ? ST_NOMEM : ST_DEVICE, "%s: %s (%s)", what,
                   cudaGetErrorString(e), cudaGetErrorName(e));
}

/* Inside a function that returns a status: returns at the first failure.  `er` as in cuda_status. */
#define CUDA_TRY(er, call)                                                                                   \
    do {                                                                                                     \
        int try_status_ = cuda_status((call), #call, (er));                                                  \
        if (try_status_)                                                                                     \
            return try_status_;                                                                              \
    } while (0)

#endif
