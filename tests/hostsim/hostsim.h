/* hostsim.h - the host lane: CUDA kernels as plain C++ on the CPU, one fiber a CUDA thread, one block at a time.
 *
 * What it is for: finding, without a GPU, what a GPU would forgive on most days.  A block's fibers run one after the other,
 * each as far as it can go, in the order of the schedule; whoever needs a barrier and has none reads memory that was not
 * written yet, and that memory is poisoned (every byte 0xff: NaN in every float type, -1 in every int).
 *   - Warp functions are barriers of the warp; the last lane to arrive computes for all.  mma and ldmatrix have the fragment
 *     layouts of the PTX ISA (core/cuda/ptx.cuh).
 *   - cp.async only takes a note, and poisons the destination; the copy is done by cp_async_wait.
 *   - Shared memory is poisoned at the start of every block, device memory by cudaMalloc and cudaFree.
 *   - Every allocation on the device has inaccessible pages around it; host code that touches device memory faults.
 *   - Streams are queues; what is posted runs as late as allowed, as early as possible, or in between (by the schedule).
 *   - A fault in a kernel (a thread left behind at a barrier, a wild address, a misaligned vector, ...) ends the launch with a
 *     sentence on stderr, and the device stays lost, as on a GPU, until cudaDeviceReset.
 * Sources compiled with -fsanitize=thread (without linking its runtime) call check.cpp on every access: bounds to the byte,
 * reads of what was never written, and races: two accesses, one of them a write, with no barrier between.
 *
 * What it is not: registers, occupancy, timing, memory models weaker than a barrier, blocks that wait for each other.
 * Arithmetic: IEEE float, mma adds its products k ascending; a GPU rounds tensor core sums otherwise.
 *
 * Threads: one lock around everything; blocks never run in parallel. */
#ifndef HOSTSIM_H
#define HOSTSIM_H

#include <stddef.h>
#include <stdint.h>

#include <functional>

#include "vector_types.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace hostsim
{

/* --- called by kernels; everything here is for the running fiber --- */

/* The block's array for one SMEM declaration; `key` is its identity.  Poisoned when the first thread of a block comes by. */
void *smem_static(const void *key, size_t bytes, size_t align, const char *name);
void *smem_dynamic(void);

/* Ends the launch: the thread, where it is, and the sentence. */
[[noreturn]] __attribute__((format(printf, 1, 2))) void fault(const char *fmt, ...);

enum block_vote { VOTE_NONE, VOTE_COUNT, VOTE_AND, VOTE_OR };
int block_sync(enum block_vote vote, int predicate);
void bar_sync(int id, int n);

enum warp_shuffle { SHUFFLE_IDX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR };
enum warp_reduce { REDUCE_ADD, REDUCE_MIN, REDUCE_MAX, REDUCE_AND, REDUCE_OR, REDUCE_XOR };
void warp_sync(uint32_t mask);
uint32_t warp_ballot(uint32_t mask, int predicate);
uint32_t warp_match(uint32_t mask, uint64_t value);
uint64_t warp_shuffle(enum warp_shuffle kind, uint32_t mask, uint64_t value, int lane, int width);
int64_t warp_reduce(enum warp_reduce kind, uint32_t mask, int64_t value);
uint32_t active_mask(void);

void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void ldmatrix(uint32_t *r, const void *row, int matrices, int transposed);

void cp_async(void *smem, const void *global, int bytes, int from_global);
void cp_async_commit(void);
void cp_async_wait(int pending);

/* Faults unless p is `bytes`-aligned. */
void check_access(const void *p, size_t bytes, const char *what);

/* Called by every atomic and fence, for the race check. */
void atomic_note(const void *p, size_t bytes);
void fence_note(void);
uint32_t load_acquire(const uint32_t *p);
void store_release(uint32_t *p, uint32_t v);

/* --- called by LAUNCH --- */

template <typename... P, typename... A> std::function<void()> bind(void (*kernel)(P...), A... args)
{
    return [=] { kernel(args...); };
}

} // namespace hostsim

/* --- called by tests --- */

extern "C" {
/* "forward" (lowest thread, block and latest stream work first), "reverse", "random:SEED".  Default: $HOSTSIM_SCHED, forward.
 * 0, or -1 for an unknown word. */
int hostsim_schedule(const char *name);
const char *hostsim_schedule_name(void);

/* The last fault's sentence, "" for none; kept until hostsim_clear, which also un-loses the device and every injection. */
const char *hostsim_fault(void);
void hostsim_clear(void);

/* The n-th next call (1: the very next) of that runtime function fails with the error: "cudaMalloc", "cudaMemcpyAsync", ..., or
 * "kernel": the n-th kernel fails while it runs.  What spoils a context on a GPU spoils it here. */
void hostsim_inject(const char *call, int n, int error);

/* The machine: number of devices (0: none; -1: no driver), memory in bytes, compute capability as 10 major + minor. */
void hostsim_machine(int devices, size_t memory, int capability);

/* In a checked build: also fault on reads of device memory that nobody wrote.  Before the first cudaMalloc. */
void hostsim_check_unwritten(int on);

struct hostsim_figures {
    unsigned long long kernels, blocks, switches, faults, bytes_to_device, bytes_to_host, copies_to_device,
        copies_to_host;
    unsigned long long most_to_host; /* bytes of the largest copy */
    unsigned long long checked;      /* accesses seen by check.cpp: 0 in a build without it */
    size_t used, used_max;           /* device memory */
};
void hostsim_counters(struct hostsim_figures *out);
}

#endif
