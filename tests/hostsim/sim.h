/* sim.h - what the files of the host lane share. */
#ifndef HOSTSIM_SIM_H
#define HOSTSIM_SIM_H

#include "cuda_runtime.h"

#include <mutex>
#include <string>
#include <vector>

namespace sim
{

enum { WARP = 32, THREADS_MAX = 1024, POISON = 0xff, SMEM_MAX = 227 * 1024, SMEM_DEFAULT = 48 * 1024 };

/* One lock around the whole simulator; API calls take it. */
extern std::recursive_mutex lock;

/* --- fiber.cpp: stacks and switching --- */

struct context {
    void *sp;
};
void context_switch(struct context *from, const struct context *to);
/* Prepares a context that calls entry() on the stack of that number; entry never returns.  The same stack may be prepared again. */
void context_make(struct context *c, int number, void (*entry)(void));
/* Is p in the guard below one of the stacks? */
bool stack_overflowed(const void *p);

/* --- schedule.cpp --- */

enum order { FORWARD, REVERSE, RANDOM };
enum order schedule_order(void);
uint32_t schedule_random(uint32_t n); /* 0..n-1 */

/* --- block.cpp --- */

struct copy { /* a cp.async under way */
    void *dst;
    const void *src;
    int bytes, from_global;
    unsigned group;
};

struct fiber {
    struct context context;
    uint3 thread;
    int index;    /* in the block */
    int waits_at; /* barrier 0..15, or -1 */
    bool done;
    const char *waits_for; /* for the report of a deadlock */
    /* the warp operation in flight: what this lane brings, and where the result goes */
    const void *in;
    void *out;
    int arg, width;
    std::vector<struct copy> *copies;
    unsigned group;
    uint32_t warp_epoch;    /* since the last block barrier: __syncwarp passed by this lane; check.cpp */
    uint32_t warp_meetings; /* likewise: all warp operations */
};

struct warp_op { /* an operation that some lanes have reached */
    const char *name;
    void (*perform)(struct fiber *lanes, uint32_t mask);
    uint32_t mask, arrived;
    bool whole; /* no lane may be missing */
};

struct warp {
    uint32_t live;
    int n_open;
    struct warp_op open[WARP];
};

struct launch {
    std::string name;
    dim3 grid, block;
    size_t smem;
    std::function<void()> body;
};

/* The running block.  One at a time. */
extern struct fiber *now; /* NULL: host code runs */
extern struct fiber fibers[THREADS_MAX];
extern const struct launch *launching;
extern uint32_t block_serial; /* of the running block, since the process began; from 2 */
extern uint32_t first_serial; /* of the running kernel's first block */
extern uint32_t block_epoch;  /* block barriers opened since the running block began */

/* Runs all blocks of a kernel.  false: a fault, whose sentence is in fault_text. */
bool run_kernel(const struct launch *l);

/* Called by a lane: waits until all live lanes of mask have called the same, then the last one performs it.  whole: all 32 lanes must. */
void warp_collective(const char *name, void (*perform)(struct fiber *lanes, uint32_t mask), uint32_t mask,
                     bool whole);

/* Where p points, for a sentence: "12 bytes past the end of device memory of 4096 bytes". */
std::string describe(const void *p);

/* --- smem: shared memory of the running block --- */

void smem_begin(size_t dynamic);
void smem_end(void);                         /* faults when a canary between two arrays was written over */
bool smem_contains(const void *p, size_t n); /* wholly inside one array of the running block */
extern const char *smem_from, *smem_to;      /* where all of it lies */
size_t smem_static_bytes(void);
std::string smem_describe(const void *p);

/* --- heap.cpp: device memory --- */

void *heap_alloc(size_t n); /* NULL: none left */
bool heap_free(void *p);
void heap_free_all(void);
void heap_open(void); /* accessible, for a kernel or a copy; nests */
void heap_close(void);
extern const char *heap_from, *heap_to;      /* where all of it lies, guards and what was freed too */
bool heap_contains(const void *p, size_t n); /* wholly inside one live allocation */
std::string heap_describe(const void *p);
bool heap_canaries(std::string *bad); /* false: bytes around an allocation were written */
extern size_t heap_used, heap_used_max, heap_limit;

/* --- runtime.cpp --- */

/* Posts work of a library to a stream. */
cudaError_t stream_post(cudaStream_t s, const char *call, std::function<cudaError_t()> run);

static inline bool smem_near(const void *p)
{
    return (const char *) p >= smem_from && (const char *) p < smem_to;
}

static inline bool heap_near(const void *p)
{
    return (const char *) p >= heap_from && (const char *) p < heap_to;
}

/* --- fault.cpp --- */

void fault_arm(void); /* wild addresses become faults between arm and disarm */
void fault_disarm(void);
void fault_set(const std::string &sentence);
extern std::string fault_text;
extern int fault_error; /* cudaError of the last fault */

/* --- check.cpp: shadow of who wrote and read what --- */

void check_host_wrote(const void *p, size_t n); /* copies, memset */
void check_forget(const void *p, size_t n);     /* freed, or freshly allocated: not written */
void check_write(const void *p, size_t n);      /* by the running fiber: cp.async */
void check_read(const void *p, size_t n);
bool check_enabled(void);

extern struct hostsim_figures counters;

} // namespace sim

#endif
