/* stream.cpp - streams, events and launches.
 *
 * A stream is a queue.  What is posted runs, by the schedule: forward, when somebody waits for it; reverse, at once; random, now and
 * then. */
#include "runtime.h"

#include <stdio.h>
#include <time.h>

namespace sim
{

static struct hostsim_stream default_stream = {{}, true, 0};
std::vector<struct hostsim_stream *> streams = {&default_stream};
static uint64_t last_seq;

struct hostsim_stream *stream_of(cudaStream_t s)
{
    return !s || s == cudaStreamLegacy ? &default_stream : s;
}

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

void drain(struct hostsim_stream *s, uint64_t upto)
{
    if (s->queue.empty() || s->queue.front().seq > upto)
        return;
    heap_open();
    while (!s->queue.empty() && s->queue.front().seq <= upto)
        run_front(s);
    heap_close();
}

void drain_all(void)
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

void post(struct hostsim_stream *s, struct op op)
{
    op.seq = ++last_seq;
    s->queue.push_back(std::move(op));
    if (schedule_order() == REVERSE)
        drain(s, ~(uint64_t) 0);
    else if (schedule_order() == RANDOM)
        run_some();
}

void post(struct hostsim_stream *s, std::function<cudaError_t()> run)
{
    struct op op = {};
    op.run = std::move(run);
    post(s, std::move(op));
}

static double clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec * 1e3 + (double) t.tv_nsec * 1e-6;
}

static cudaError_t launch_check(const char *name, const void *kernel, dim3 g, dim3 b, size_t smem)
{
    char text[400];
    uint64_t threads = (uint64_t) b.x * b.y * b.z;
    const size_t smem_most = smem_allowed_to(kernel);
    if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535 || !threads ||
        threads > THREADS_MAX || b.z > 64) {
        snprintf(text, sizeof text,
                 "launch of %s: grid (%u, %u, %u), block (%u, %u, %u) is outside what CUDA takes", name, g.x,
                 g.y, g.z, b.x, b.y, b.z);
        return refuse(cudaErrorInvalidConfiguration, text);
    }
    if (smem > smem_most) {
        snprintf(text, sizeof text,
                 "launch of %s: %zu bytes of dynamic shared memory, and %zu are allowed (launch_smem_max)",
                 name, smem, smem_most);
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

cudaError_t hostsim::launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t smem,
                            cudaStream_t stream, std::function<void()> body)
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
}
