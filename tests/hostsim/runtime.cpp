/* runtime.cpp - streams, events, copies and the device of the host lane's CUDA runtime.
 *
 * A stream is a queue.  What is posted runs, by the schedule: forward, when somebody waits for it; reverse, at once; random, now and
 * then.  A copy to the host poisons its pinned destination when it is posted, so that reading before waiting shows.  From pageable
 * memory a copy is staged at once, into pageable memory it waits, as CUDA does. */
#include "sim.h"

#include <deque>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

struct hostsim_event {
    struct hostsim_stream *stream;
    uint64_t seq; /* of the last record; 0: never recorded */
    double ms;    /* when it ran */
    bool done;
};

namespace sim
{

struct op {
    uint64_t seq;
    std::function<cudaError_t()> run;
    const void *host_source; /* a pinned buffer still to be read */
    size_t host_bytes;
    struct hostsim_event *waits;
    uint64_t waits_seq;
};

} // namespace sim

struct hostsim_stream {
    std::deque<sim::op> queue;
    bool blocking; /* in order with the default stream */
    uint64_t done; /* seq of the last op that ran */
};

namespace sim
{

struct injection {
    int n;
    cudaError_t error;
};

static struct hostsim_stream default_stream = {{}, true, 0};
static std::vector<struct hostsim_stream *> streams = {&default_stream};
static std::map<std::string, struct injection> injections;
static std::map<const char *, size_t> pinned;
static std::map<const void *, int> smem_allowed;
static uint64_t last_seq;
static cudaError_t lost = cudaSuccess;
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

static cudaError_t give(cudaError_t e)
{
    if (e != cudaSuccess && e != cudaErrorNotReady)
        last_error = e;
    if (error_loses(e))
        lost = e;
    return e;
}

static bool injected(const char *call, cudaError_t *e)
{
    auto i = injections.find(call);
    if (i == injections.end() || --i->second.n > 0)
        return false;
    *e = i->second.error;
    injections.erase(i);
    return true;
}

/* The head of every call: one lock, what was injected, and that a lost device answers nothing else. */
#define ENTER(call)                                                                                          \
    std::lock_guard<std::recursive_mutex> guard(sim::lock);                                                  \
    cudaError_t early_ = sim::enter(call);                                                                   \
    if (early_ != cudaSuccess)                                                                               \
    return sim::give(early_)

static cudaError_t enter(const char *call)
{
    cudaError_t e;
    if (injected(call, &e))
        return e;
    if (n_devices <= 0)
        return n_devices ? cudaErrorInsufficientDriver : cudaErrorNoDevice;
    return lost;
}

static cudaError_t refuse(cudaError_t e, const char *why)
{
    fprintf(stderr, "hostsim: %s\n", why);
    return give(e);
}

/* --- streams --- */

static struct hostsim_stream *stream_of(cudaStream_t s)
{
    return !s || s == cudaStreamLegacy ? &default_stream : s;
}

static void drain(struct hostsim_stream *s, uint64_t upto);

/* What must run before an op of this stream: the default stream and the blocking ones keep one order. */
static void drain_before(struct hostsim_stream *s, uint64_t seq)
{
    if (!s->blocking)
        return;
    if (s != &default_stream) {
        drain(&default_stream, seq - 1);
        return;
    }
    for (struct hostsim_stream *o : streams)
        if (o != s && o->blocking)
            drain(o, seq - 1);
}

static void run_front(struct hostsim_stream *s)
{
    struct op op = std::move(s->queue.front());
    s->queue.pop_front();
    drain_before(s, op.seq);
    if (op.waits && !(op.waits->done && op.waits->seq == op.waits_seq))
        drain(op.waits->stream, op.waits_seq);
    if (op.run && lost == cudaSuccess) {
        cudaError_t e = op.run();
        if (e != cudaSuccess)
            lost = e;
    }
    s->done = op.seq;
}

static void drain(struct hostsim_stream *s, uint64_t upto)
{
    if (s->queue.empty() || s->queue.front().seq > upto)
        return;
    heap_open();
    while (!s->queue.empty() && s->queue.front().seq <= upto)
        run_front(s);
    heap_close();
}

static void drain_all(void)
{
    for (size_t i = 0; i < streams.size(); i++)
        drain(streams[i], ~(uint64_t) 0);
    std::string bad;
    if (lost == cudaSuccess && !heap_canaries(&bad)) {
        fault_set(bad);
        lost = cudaErrorIllegalAddress;
    }
}

static void run_some(void)
{
    for (uint32_t n = schedule_random(4); n; n--) {
        struct hostsim_stream *s = streams[schedule_random((uint32_t) streams.size())];
        if (!s->queue.empty())
            drain(s, s->queue.front().seq);
    }
}

static void post(struct hostsim_stream *s, struct op op)
{
    op.seq = ++last_seq;
    s->queue.push_back(std::move(op));
    if (schedule_order() == REVERSE)
        drain(s, ~(uint64_t) 0);
    else if (schedule_order() == RANDOM)
        run_some();
}

static void post(struct hostsim_stream *s, std::function<cudaError_t()> run)
{
    struct op op = {};
    op.run = std::move(run);
    post(s, std::move(op));
}

/* --- copies --- */

static bool is_pinned(const void *p, size_t n)
{
    auto i = pinned.upper_bound((const char *) p);
    if (i == pinned.begin())
        return false;
    --i;
    return (const char *) p + n <= i->first + i->second;
}

static bool is_read_later(const void *p, size_t n)
{
    for (const struct hostsim_stream *s : streams)
        for (const struct op &op : s->queue)
            if (op.host_source && (const char *) op.host_source < (const char *) p + n &&
                (const char *) p < (const char *) op.host_source + op.host_bytes)
                return true;
    return false;
}

static cudaError_t copy_check(const void *dst, const void *src, size_t n, enum cudaMemcpyKind kind, bool *to, bool *from)
{
    char text[400];
    *to = heap_near(dst);
    *from = heap_near(src);
    bool want_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool want_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if ((kind != cudaMemcpyDefault && (want_to != *to || want_from != *from)) || (*to && !heap_contains(dst, n)) ||
        (*from && !heap_contains(src, n))) {
        snprintf(text, sizeof text, "a copy of %zu bytes, kind %d, to %s from %s", n, (int) kind, describe(dst).c_str(),
                 describe(src).c_str());
        return refuse(cudaErrorInvalidValue, text);
    }
    return cudaSuccess;
}

static void count_copy(size_t n, bool to, bool from)
{
    if (to && !from) {
        counters.bytes_to_device += n;
        counters.copies_to_device++;
    } else if (from && !to) {
        counters.bytes_to_host += n;
        counters.copies_to_host++;
    }
}

static void copy_now(void *dst, const void *src, size_t n, bool to, bool from)
{
    heap_open();
    if (from)
        check_read(src, n);
    memcpy(dst, src, n);
    if (to)
        check_host_wrote(dst, n);
    heap_close();
}

static cudaError_t copy_post(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind, struct hostsim_stream *s)
{
    bool to, from;
    if (!n)
        return cudaSuccess;
    cudaError_t e = copy_check(dst, src, n, kind, &to, &from);
    if (e != cudaSuccess)
        return e;
    count_copy(n, to, from);
    struct op op = {};
    op.run = [=] {
        copy_now(dst, src, n, to, from);
        return cudaSuccess;
    };
    if (to && !from && !is_pinned(src, n)) {
        std::vector<char> staged((const char *) src, (const char *) src + n);
        op.run = [=] {
            copy_now(dst, staged.data(), n, true, false);
            return cudaSuccess;
        };
    } else if (to && !from) {
        op.host_source = src;
        op.host_bytes = n;
    } else if (from && !to && is_pinned(dst, n) && !is_read_later(dst, n)) {
        memset(dst, POISON, n);
    }
    post(s, std::move(op));
    if (from && !to && !is_pinned(dst, n))
        drain(s, ~(uint64_t) 0);
    return give(lost);
}

static double clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec * 1e3 + (double) t.tv_nsec * 1e-6;
}

static int smem_limit(void)
{
    return capability == 80 ? 163 * 1024 : capability == 86 || capability == 89 ? 99 * 1024 : SMEM_MAX;
}

static cudaError_t launch_check(const char *name, const void *kernel, dim3 g, dim3 b, size_t smem)
{
    char text[400];
    uint64_t threads = (uint64_t) b.x * b.y * b.z;
    auto allowed = smem_allowed.find(kernel);
    size_t smem_most = allowed == smem_allowed.end() ? (size_t) SMEM_DEFAULT : (size_t) allowed->second;
    if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535 || !threads || threads > THREADS_MAX || b.z > 64) {
        snprintf(text, sizeof text, "launch of %s: grid (%u, %u, %u), block (%u, %u, %u) is outside what CUDA takes", name, g.x, g.y,
                 g.z, b.x, b.y, b.z);
        return refuse(cudaErrorInvalidConfiguration, text);
    }
    if (smem > smem_most) {
        snprintf(text, sizeof text, "launch of %s: %zu bytes of dynamic shared memory, and %zu are allowed (launch_smem_max)", name,
                 smem, smem_most);
        return refuse(cudaErrorInvalidValue, text);
    }
    return cudaSuccess;
}

static cudaError_t run_launch(const struct launch *l)
{
    cudaError_t e;
    if (injected("kernel", &e))
        return e;
    return run_kernel(l) ? cudaSuccess : (cudaError_t) fault_error;
}

} // namespace sim

using namespace sim;

cudaError_t hostsim::launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                            std::function<void()> body)
{
    ENTER("launch");
    cudaError_t e = launch_check(name, kernel, grid, block, smem);
    if (e != cudaSuccess)
        return e;
    struct launch l = {name, grid, block, smem, std::move(body)};
    post(stream_of(stream), [l] { return run_launch(&l); });
    return cudaSuccess;
}

cudaError_t sim::stream_post(cudaStream_t s, const char *call, std::function<cudaError_t()> run)
{
    ENTER(call);
    post(stream_of(s), std::move(run));
    return cudaSuccess;
}

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
    auto allowed = smem_allowed.find(kernel);
    a->maxThreadsPerBlock = THREADS_MAX;
    a->maxDynamicSharedSizeBytes = allowed == smem_allowed.end() ? SMEM_DEFAULT : allowed->second;
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

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind, cudaStream_t s)
{
    ENTER("cudaMemcpyAsync");
    return copy_post(dst, src, n, kind, stream_of(s));
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind)
{
    ENTER("cudaMemcpy");
    cudaError_t e = copy_post(dst, src, n, kind, &default_stream);
    drain(&default_stream, ~(uint64_t) 0);
    return e != cudaSuccess ? e : give(lost);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t s)
{
    ENTER("cudaMemcpy2DAsync");
    for (size_t i = 0; i < height; i++) {
        cudaError_t e = copy_post((char *) dst + i * dst_pitch, (const char *) src + i * src_pitch, width, kind, stream_of(s));
        if (e != cudaSuccess)
            return e;
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s)
{
    ENTER("cudaMemsetAsync");
    if (!n)
        return cudaSuccess;
    if (!heap_contains(p, n))
        return refuse(cudaErrorInvalidValue, ("cudaMemset of " + std::to_string(n) + " bytes at " + describe(p)).c_str());
    post(stream_of(s), [=] {
        memset(p, value, n);
        check_host_wrote(p, n);
        return cudaSuccess;
    });
    return cudaSuccess;
}

cudaError_t cudaMemset(void *p, int value, size_t n)
{
    return cudaMemsetAsync(p, value, n, 0);
}

/* --- streams and events --- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    *s = NULL;
    ENTER("cudaStreamCreate");
    *s = new hostsim_stream{{}, !(flags & cudaStreamNonBlocking), 0};
    streams.push_back(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    return cudaStreamCreateWithFlags(s, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(s, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    for (size_t i = 1; i < streams.size(); i++) {
        if (streams[i] != s)
            continue;
        drain(s, ~(uint64_t) 0);
        streams.erase(streams.begin() + (ptrdiff_t) i);
        delete s;
        return give(lost);
    }
    return give(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    ENTER("cudaStreamSynchronize");
    drain(stream_of(s), ~(uint64_t) 0);
    return give(lost);
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    ENTER("cudaStreamQuery");
    struct hostsim_stream *q = stream_of(s);
    if (!q->queue.empty())
        drain(q, q->queue.front().seq); /* whoever polls gets on */
    return give(lost != cudaSuccess ? lost : q->queue.empty() ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    ENTER("cudaStreamWaitEvent");
    struct op op = {};
    if (!e->seq)
        return cudaSuccess;
    op.waits = e;
    op.waits_seq = e->seq;
    post(stream_of(s), std::move(op));
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *arg)
{
    ENTER("cudaLaunchHostFunc");
    post(stream_of(s), [=] {
        f(arg);
        return cudaSuccess;
    });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = NULL;
    ENTER("cudaEventCreate");
    *e = new hostsim_event{NULL, 0, 0, true};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    return cudaEventCreateWithFlags(e, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    drain_all(); /* somebody may wait for it */
    delete e;
    return give(lost);
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    ENTER("cudaEventRecord");
    if (!e)
        return give(cudaErrorInvalidResourceHandle);
    e->stream = stream_of(s);
    e->seq = last_seq + 1;
    e->done = false;
    uint64_t seq = e->seq;
    post(e->stream, [e, seq] {
        if (e->seq == seq) {
            e->done = true;
            e->ms = clock_ms();
        }
        return cudaSuccess;
    });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    ENTER("cudaEventSynchronize");
    if (e->stream && !e->done)
        drain(e->stream, e->seq);
    return give(lost);
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    ENTER("cudaEventQuery");
    if (e->stream && !e->done && !e->stream->queue.empty())
        drain(e->stream, e->stream->queue.front().seq);
    return give(lost != cudaSuccess ? lost : e->done ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    ENTER("cudaEventElapsedTime");
    if (!from->done || !to->done)
        return give(cudaErrorNotReady);
    *ms = (float) (to->ms - from->ms);
    return cudaSuccess;
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
