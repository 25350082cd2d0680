/* runtime.cpp - the device of the host lane's CUDA runtime: errors and injections, properties, memory, what tests ask for. */
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace sim
{

struct injection {
    int n;
    cudaError_t error;
};

static std::map<std::string, struct injection> injections;
static std::map<const void *, int> smem_allowed;
std::map<const char *, size_t> pinned;
cudaError_t lost = cudaSuccess;
static thread_local cudaError_t last_error = cudaSuccess;
static int n_devices = 1, capability = 90;

/* --- errors --- */

static const struct {
    cudaError_t error;
    const char *name, *text;
    bool lost;
} ERRORS[] = {
#define X(name, number, text, lost) {name, #name, text, lost != 0},
    HOSTSIM_ERRORS(X)
#undef X
};

static bool error_loses(cudaError_t e)
{
    for (const auto &x : ERRORS)
        if (x.error == e)
            return x.lost;
    return true;
}

cudaError_t give(cudaError_t e)
{
    if (e != cudaSuccess && e != cudaErrorNotReady)
        last_error = e;
    if (error_loses(e))
        lost = e;
    return e;
}

bool injected(const char *call, cudaError_t *e)
{
    auto i = injections.find(call);
    if (i == injections.end() || --i->second.n > 0)
        return false;
    *e = i->second.error;
    injections.erase(i);
    return true;
}

cudaError_t enter(const char *call)
{
    cudaError_t e;
    if (injected(call, &e))
        return e;
    if (n_devices <= 0)
        return n_devices ? cudaErrorInsufficientDriver : cudaErrorNoDevice;
    return lost;
}

cudaError_t refuse(cudaError_t e, const char *why)
{
    fprintf(stderr, "hostsim: %s\n", why);
    return give(e);
}

int smem_limit(void)
{
    return capability == 80 ? 163 * 1024 : capability == 86 || capability == 89 ? 99 * 1024 : SMEM_MAX;
}

size_t smem_allowed_to(const void *kernel)
{
    auto allowed = smem_allowed.find(kernel);
    return allowed == smem_allowed.end() ? (size_t) SMEM_DEFAULT : (size_t) allowed->second;
}

} // namespace sim

using namespace sim;

extern "C" {

const char *cudaGetErrorName(cudaError_t e)
{
    for (const auto &x : ERRORS)
        if (x.error == e)
            return x.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t e)
{
    for (const auto &x : ERRORS)
        if (x.error == e)
            return x.text;
    return "unrecognized error code";
}

cudaError_t cudaPeekAtLastError(void)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    return lost != cudaSuccess ? lost : last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return e;
}

/* --- devices --- */

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 0;
    ENTER("cudaGetDeviceCount");
    *n = n_devices;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    ENTER("cudaSetDevice");
    return give(device >= 0 && device < n_devices ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    ENTER("cudaGetDevice");
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    ENTER("cudaSetDeviceFlags");
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    ENTER("cudaGetDeviceProperties");
    if (device < 0 || device >= n_devices)
        return give(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "host lane");
    p->totalGlobalMem = heap_limit;
    p->sharedMemPerBlock = SMEM_DEFAULT;
    p->sharedMemPerBlockOptin = (size_t) smem_limit();
    p->sharedMemPerMultiprocessor = (size_t) smem_limit() + 1024;
    p->totalConstMem = 65536;
    p->regsPerBlock = 65536;
    p->warpSize = WARP;
    p->maxThreadsPerBlock = THREADS_MAX;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = capability / 10;
    p->minor = capability % 10;
    p->multiProcessorCount = 4;
    p->l2CacheSize = 1 << 20;
    p->maxThreadsPerMultiProcessor = 2048;
    p->memoryBusWidth = 64;
    p->canMapHostMemory = p->unifiedAddressing = p->concurrentKernels = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int device)
{
    struct cudaDeviceProp p;
    ENTER("cudaDeviceGetAttribute");
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess)
        return e;
    switch (what) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int) p.sharedMemPerBlock;
        break;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int) p.sharedMemPerBlockOptin;
        break;
    default:
        return give(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    ENTER("cudaDeviceSynchronize");
    drain_all();
    return give(lost);
}

cudaError_t cudaDeviceReset(void)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    for (struct hostsim_stream *s : streams)
        s->queue.clear();
    heap_free_all();
    lost = last_error = cudaSuccess;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *v)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    *v = n_devices < 0 ? 0 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    ENTER("cudaMemGetInfo");
    *free_bytes = heap_limit - heap_used;
    *total = heap_limit;
    return cudaSuccess;
}

cudaError_t hostsim_func_set(const void *kernel, enum cudaFuncAttribute what, int value)
{
    ENTER("cudaFuncSetAttribute");
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || value > smem_limit())
        return give(cudaErrorInvalidValue);
    smem_allowed[kernel] = value;
    return cudaSuccess;
}

cudaError_t hostsim_func_get(struct cudaFuncAttributes *a, const void *kernel)
{
    ENTER("cudaFuncGetAttributes");
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = THREADS_MAX;
    a->maxDynamicSharedSizeBytes = (int) smem_allowed_to(kernel);
    a->binaryVersion = a->ptxVersion = capability;
    return cudaSuccess;
}

/* --- memory --- */

cudaError_t hostsim_malloc(void **p, size_t n)
{
    *p = NULL;
    ENTER("cudaMalloc");
    if (!n)
        return cudaSuccess;
    *p = heap_alloc(n);
    return give(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *p)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    if (p)
        drain_all(); /* cudaFree waits for the device */
    if (p && !heap_free(p))
        return refuse(cudaErrorInvalidValue, ("cudaFree of " + describe(p)).c_str());
    return give(lost);
}

cudaError_t hostsim_host_alloc(void **p, size_t n, const char *call)
{
    *p = NULL;
    ENTER(call);
    size_t bytes = (n + 4095) / 4096 * 4096;
    void *q = mmap(NULL, bytes ? bytes : 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (q == MAP_FAILED)
        return give(cudaErrorMemoryAllocation);
    memset(q, POISON, n);
    pinned[(const char *) q] = n;
    *p = q;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    if (!p)
        return cudaSuccess;
    drain_all();
    auto i = pinned.find((const char *) p);
    if (i == pinned.end())
        return refuse(cudaErrorInvalidValue, ("cudaFreeHost of " + describe(p)).c_str());
    munmap(p, (i->second + 4095) / 4096 * 4096);
    pinned.erase(i);
    return give(lost);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    ENTER("cudaHostGetDevicePointer");
    *device = host;
    return give(is_pinned(host, 1) ? cudaSuccess : cudaErrorInvalidValue);
}

/* --- tests --- */

const char *hostsim_fault(void)
{
    return fault_text.c_str();
}

void hostsim_clear(void)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    fault_text.clear();
    injections.clear();
    lost = last_error = cudaSuccess;
}

void hostsim_inject(const char *call, int n, int error)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    injections[call] = {n, (cudaError_t) error};
}

void hostsim_machine(int devices, size_t memory, int cc)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    n_devices = devices;
    heap_limit = memory;
    capability = cc;
}

void hostsim_counters(struct hostsim_figures *out)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    *out = counters;
    out->used = heap_used;
    out->used_max = heap_used_max;
}
}
