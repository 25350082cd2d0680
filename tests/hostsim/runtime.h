/* runtime.h - what the files of the CUDA runtime share: the head of every call, and the streams. */
#ifndef HOSTSIM_RUNTIME_H
#define HOSTSIM_RUNTIME_H

#include "sim.h"

#include <deque>
#include <map>

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

/* --- runtime.cpp --- */

extern cudaError_t lost;                      /* what the device was lost by */
extern std::map<const char *, size_t> pinned; /* host memory of the runtime */

cudaError_t enter(const char *call);
cudaError_t give(cudaError_t e); /* keeps it as the last error, and the device lost by it */
cudaError_t refuse(cudaError_t e, const char *why);
bool injected(const char *call, cudaError_t *e);
int smem_limit(void);
size_t smem_allowed_to(const void *kernel);

/* The head of every call: one lock, what was injected, and that a lost device answers nothing else. */
#define ENTER(call)                                                                                          \
    std::lock_guard<std::recursive_mutex> guard(sim::lock);                                                  \
    cudaError_t early_ = sim::enter(call);                                                                   \
    if (early_ != cudaSuccess)                                                                               \
    return sim::give(early_)

/* --- stream.cpp --- */

extern std::vector<struct hostsim_stream *> streams; /* the default stream first */

struct hostsim_stream *stream_of(cudaStream_t s);
void post(struct hostsim_stream *s, struct op op);
void post(struct hostsim_stream *s, std::function<cudaError_t()> run);
void drain(struct hostsim_stream *s, uint64_t upto); /* runs what was posted up to that number */
void drain_all(void);

/* --- copy.cpp --- */

bool is_pinned(const void *p, size_t n); /* wholly inside one piece of the runtime's host memory */

} // namespace sim

#endif
