/* cuda_runtime.h - of the host lane: the part of the CUDA runtime that target/cuda uses, under its own name. */
#ifndef HOSTSIM_CUDA_RUNTIME_H
#define HOSTSIM_CUDA_RUNTIME_H

#include "builtins.h"
#include "library_types.h"

#define CUDART_VERSION 12000

/* name, CUDA's number, sentence, 1: the context is lost by it */
#define HOSTSIM_ERRORS(X)                                                                                    \
    X(cudaSuccess, 0, "no error", 0)                                                                         \
    X(cudaErrorInvalidValue, 1, "invalid argument", 0)                                                       \
    X(cudaErrorMemoryAllocation, 2, "out of memory", 0)                                                      \
    X(cudaErrorInitializationError, 3, "initialization error", 0)                                            \
    X(cudaErrorInvalidConfiguration, 9, "invalid configuration argument", 0)                                 \
    X(cudaErrorInvalidMemcpyDirection, 21, "invalid copy direction for memcpy", 0)                           \
    X(cudaErrorInsufficientDriver, 35, "CUDA driver version is insufficient for CUDA runtime version", 0)    \
    X(cudaErrorInvalidDeviceFunction, 98, "invalid device function", 0)                                      \
    X(cudaErrorNoDevice, 100, "no CUDA-capable device is detected", 0)                                       \
    X(cudaErrorInvalidDevice, 101, "invalid device ordinal", 0)                                              \
    X(cudaErrorNoKernelImageForDevice, 209, "no kernel image is available for execution on the device", 0)   \
    X(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered", 1)                              \
    X(cudaErrorInvalidResourceHandle, 400, "invalid resource handle", 0)                                     \
    X(cudaErrorNotReady, 600, "device not ready", 0)                                                         \
    X(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered", 1)                           \
    X(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated", 1)                             \
    X(cudaErrorMisalignedAddress, 716, "misaligned address", 1)                                              \
    X(cudaErrorLaunchFailure, 719, "unspecified launch failure", 1)                                          \
    X(cudaErrorNotSupported, 801, "operation not supported", 0)                                              \
    X(cudaErrorUnknown, 999, "unknown error", 1)

enum cudaError {
#define X(name, number, text, lost) name = number,
    HOSTSIM_ERRORS(X)
#undef X
};
typedef enum cudaError cudaError_t;

typedef struct hostsim_stream *cudaStream_t;
typedef struct hostsim_event *cudaEvent_t;
typedef void (*cudaHostFn_t)(void *);

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

#define cudaStreamDefault              0u
#define cudaStreamNonBlocking          1u
#define cudaStreamLegacy               ((cudaStream_t) 1)
#define cudaEventDefault               0u
#define cudaEventBlockingSync          1u
#define cudaEventDisableTiming         2u
#define cudaHostAllocDefault           0u
#define cudaHostAllocPortable          1u
#define cudaHostAllocMapped            2u
#define cudaHostAllocWriteCombined     4u
#define cudaDeviceScheduleAuto         0u
#define cudaDeviceScheduleSpin         1u
#define cudaDeviceScheduleYield        2u
#define cudaDeviceScheduleBlockingSync 4u
#define cudaDeviceMapHost              8u

struct cudaDeviceProp {
    char name[256];
    struct {
        char bytes[16];
    } uuid;
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor,
        totalConstMem;
    int regsPerBlock, warpSize, maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3];
    int major, minor, multiProcessorCount, l2CacheSize, maxThreadsPerMultiProcessor, memoryBusWidth;
    int integrated, canMapHostMemory, unifiedAddressing, concurrentKernels, ECCEnabled, cooperativeLaunch;
    int pciBusID, pciDeviceID, pciDomainID;
};

struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, maxDynamicSharedSizeBytes;
};

extern "C" {
const char *cudaGetErrorName(cudaError_t e);
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDeviceFlags(unsigned flags);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaDriverGetVersion(int *v);
cudaError_t cudaRuntimeGetVersion(int *v);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);

cudaError_t cudaFree(void *p);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s = 0);
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t s = 0);
cudaError_t cudaMemset(void *p, int value, size_t n);
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s = 0);

cudaError_t cudaStreamCreate(cudaStream_t *s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *arg);
cudaError_t cudaEventCreate(cudaEvent_t *e);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s = 0);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

cudaError_t hostsim_malloc(void **p, size_t n);
cudaError_t hostsim_host_alloc(void **p, size_t n, const char *call);
cudaError_t hostsim_func_set(const void *kernel, enum cudaFuncAttribute what, int value);
cudaError_t hostsim_func_get(struct cudaFuncAttributes *a, const void *kernel);
}

template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t n)
{
    return hostsim_malloc((void **) p, n);
}
template <typename T> static inline cudaError_t cudaMallocHost(T **p, size_t n, unsigned = 0)
{
    return hostsim_host_alloc((void **) p, n, "cudaMallocHost");
}
template <typename T> static inline cudaError_t cudaHostAlloc(T **p, size_t n, unsigned)
{
    return hostsim_host_alloc((void **) p, n, "cudaHostAlloc");
}
template <typename F>
static inline cudaError_t cudaFuncSetAttribute(F *kernel, enum cudaFuncAttribute what, int value)
{
    return hostsim_func_set((const void *) kernel, what, value);
}
template <typename F> static inline cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, F *kernel)
{
    return hostsim_func_get(a, (const void *) kernel);
}
/* __constant__ and __device__ variables are ordinary ones here; the copy is immediate. */
template <typename T>
static inline cudaError_t cudaMemcpyToSymbol(T &symbol, const void *src, size_t n, size_t offset = 0,
                                             enum cudaMemcpyKind = cudaMemcpyHostToDevice)
{
    if (offset + n > sizeof symbol)
        return cudaErrorInvalidValue;
    memcpy((char *) &symbol + offset, src, n);
    return cudaSuccess;
}

namespace hostsim
{
cudaError_t launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t smem,
                   cudaStream_t stream, std::function<void()> body);
}

#endif
