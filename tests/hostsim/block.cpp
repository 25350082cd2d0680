/* block.cpp - runs the blocks of a kernel: ready fibers by the schedule, barriers, and what is said when nobody can go on.
 *
 * A thread runs until it needs others: at a block barrier until all threads that live are there, at a warp operation until all
 * lanes of its mask are.  Threads that ended count as absent at a warp operation, as on a GPU; at a block barrier they are a fault. */
#include "sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace sim
{

enum { BARRIERS = 16 };

struct barrier {
    int arrived, expected; /* expected: 0 unless bar_sync says */
    int votes;
};

struct fiber *now;
struct fiber fibers[THREADS_MAX];
const struct launch *launching;
uint32_t block_serial = 1, first_serial, block_epoch; /* 1 stands for the host: check.cpp */
struct hostsim_figures counters;

static struct warp warps[THREADS_MAX / WARP];
static struct barrier barriers[BARRIERS];
static uint64_t ready[THREADS_MAX / 64];
static int n_threads, n_live, vote_result;
static struct context outside;
static sigjmp_buf faulted;

/* --- faults --- */

static void say_where(char *text, size_t n)
{
    int at = snprintf(text, n, "kernel %s", launching->name.c_str());
    if (now)
        snprintf(text + at, n - (size_t) at, ", block (%u, %u, %u), thread (%u, %u, %u)", blockIdx.x,
                 blockIdx.y, blockIdx.z, now->thread.x, now->thread.y, now->thread.z);
}

} // namespace sim

void hostsim::fault(const char *fmt, ...)
{
    char where[512], why[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    if (!sim::launching) {
        fprintf(stderr, "hostsim: host code: %s\n", why);
        abort();
    }
    sim::say_where(where, sizeof where);
    sim::fault_set(std::string(where) + ", schedule " + hostsim_schedule_name() + ": " + why);
    siglongjmp(sim::faulted, 1);
}

namespace sim
{

/* --- scheduling --- */

static void make_ready(int i)
{
    ready[i / 64] |= (uint64_t) 1 << i % 64;
}

static int ready_from(int first)
{
    const int words = (n_threads + 63) / 64;
    for (int k = 0; k <= words; k++) {
        int w = (first / 64 + k) % words;
        uint64_t bits = ready[w];
        if (k == 0)
            bits &= ~(uint64_t) 0 << first % 64;
        if (bits)
            return w * 64 + __builtin_ctzll(bits);
    }
    return -1;
}

static int ready_first(void)
{
    for (int w = 0; w < (n_threads + 63) / 64; w++)
        if (ready[w])
            return w * 64 + __builtin_ctzll(ready[w]);
    return -1;
}

static int ready_last(void)
{
    for (int w = (n_threads + 63) / 64 - 1; w >= 0; w--)
        if (ready[w])
            return w * 64 + 63 - __builtin_clzll(ready[w]);
    return -1;
}

static enum order order;

static int pick(void)
{
    if (order == FORWARD)
        return ready_first();
    if (order == REVERSE)
        return ready_last();
    return ready_from((int) schedule_random((uint32_t) n_threads));
}

[[noreturn]] static void deadlock(void)
{
    int shown = 0;
    std::string text = "nobody can go on:";
    const char *last = NULL;
    for (int i = 0; i < n_threads && shown < 6; i++) {
        const char *what = fibers[i].done ? "ended" : fibers[i].waits_for;
        if (what == last)
            continue;
        char line[128];
        snprintf(line, sizeof line, "%s threads from %d %s %s", shown ? ";" : "", i,
                 fibers[i].done ? "have" : "wait at", what);
        text += line;
        last = what;
        shown++;
    }
    now = NULL;
    hostsim::fault("%s; a barrier or warp operation was not reached by all", text.c_str());
}

/* Hands the processor on; returns when this fiber is chosen again. */
static void next(void)
{
    struct fiber *self = now;
    int i = pick();
    if (i < 0)
        deadlock();
    ready[i / 64] &= ~((uint64_t) 1 << i % 64);
    struct fiber *to = &fibers[i];
    if (to == self)
        return;
    counters.switches++;
    now = to;
    threadIdx = to->thread;
    context_switch(&self->context, &to->context);
}

static void wait_for(const char *what)
{
    now->waits_for = what;
    next();
}

/* --- warps --- */

static struct warp *own_warp(void)
{
    return &warps[now->index / WARP];
}

static void warp_finish(struct warp *w, struct warp_op *op)
{
    int base = (int) (w - warps) * WARP;
    op->perform(&fibers[base], op->arrived);
    for (uint32_t left = op->arrived; left; left &= left - 1) {
        fibers[base + __builtin_ctz(left)].warp_meetings++;
        make_ready(base + __builtin_ctz(left));
    }
    *op = w->open[--w->n_open];
}

void warp_collective(const char *name, void (*perform)(struct fiber *lanes, uint32_t mask), uint32_t mask,
                     bool whole)
{
    struct warp *w = own_warp();
    uint32_t self = 1u << now->index % WARP;
    struct warp_op *op = NULL;
    if (!(mask & self))
        hostsim::fault("%s: lane %d is not in its own mask %08x", name, now->index % WARP, mask);
    if (whole && w->live != 0xffffffffu)
        hostsim::fault("%s needs all 32 lanes, and only those of mask %08x are alive", name, w->live);
    for (int i = 0; i < w->n_open; i++) {
        struct warp_op *o = &w->open[i];
        if (o->perform == perform && o->mask == mask)
            op = o;
        else if (o->mask & self)
            hostsim::fault(
                "lane %d is at %s with mask %08x, while lanes %08x wait for it at %s with mask %08x",
                now->index % WARP, name, mask, o->arrived, o->name, o->mask);
    }
    if (!op) {
        op = &w->open[w->n_open++];
        op->name = name;
        op->perform = perform;
        op->mask = mask;
        op->arrived = 0;
        op->whole = whole;
    }
    op->arrived |= self;
    if (op->arrived == (op->mask & w->live))
        warp_finish(w, op);
    wait_for(name);
}

/* --- block barriers --- */

static void barrier_open(int id)
{
    struct barrier *b = &barriers[id];
    for (int i = 0; i < n_threads; i++) {
        if (fibers[i].waits_at != id)
            continue;
        fibers[i].waits_at = -1;
        fibers[i].warp_epoch = fibers[i].warp_meetings = 0;
        make_ready(i);
    }
    if (id == 0)
        vote_result = b->votes;
    b->arrived = b->votes = b->expected = 0;
    block_epoch++;
}

} // namespace sim

int hostsim::block_sync(enum block_vote vote, int predicate)
{
    struct sim::barrier *b = &sim::barriers[0];
    if (sim::n_live < sim::n_threads)
        fault("__syncthreads after %d of the block's %d threads have ended", sim::n_threads - sim::n_live,
              sim::n_threads);
    sim::now->waits_at = 0;
    b->votes += predicate;
    if (++b->arrived == sim::n_threads)
        sim::barrier_open(0);
    sim::wait_for("__syncthreads");
    /* The next barrier cannot complete before this thread has read the result. */
    int n = sim::vote_result;
    return vote == VOTE_AND ? n == sim::n_threads : vote == VOTE_OR ? n > 0 : n;
}

void hostsim::bar_sync(int id, int n)
{
    static const char *const names[sim::BARRIERS] = {
        "bar_sync 0",  "bar_sync 1",  "bar_sync 2",  "bar_sync 3", "bar_sync 4",  "bar_sync 5",
        "bar_sync 6",  "bar_sync 7",  "bar_sync 8",  "bar_sync 9", "bar_sync 10", "bar_sync 11",
        "bar_sync 12", "bar_sync 13", "bar_sync 14", "bar_sync 15"};
    if (id < 1 || id >= sim::BARRIERS || n < 1 || n > sim::n_threads || n % sim::WARP)
        fault("bar_sync(%d, %d): barriers 1 to 15, a multiple of 32 threads up to the block's %d", id, n,
              sim::n_threads);
    struct sim::barrier *b = &sim::barriers[id];
    if (b->arrived && b->expected != n)
        fault("bar_sync(%d, %d): others wait there for %d threads", id, n, b->expected);
    b->expected = n;
    sim::now->waits_at = id;
    if (++b->arrived == n)
        sim::barrier_open(id);
    sim::wait_for(names[id]);
}

uint32_t hostsim::active_mask(void)
{
    return sim::own_warp()->live;
}

namespace sim
{

/* --- blocks --- */

/* A lane that ended is not waited for any longer. */
static void leave_warp(void)
{
    struct warp *w = own_warp();
    w->live &= ~(1u << now->index % WARP);
    for (int i = w->n_open - 1; i >= 0; i--) {
        if (w->open[i].whole)
            hostsim::fault("lane %d ended while others wait for it at %s", now->index % WARP,
                           w->open[i].name);
        if (w->open[i].arrived == (w->open[i].mask & w->live))
            warp_finish(w, &w->open[i]);
    }
}

static void fiber_main(void)
{
    launching->body();
    now->done = true;
    leave_warp();
    if (barriers[0].arrived)
        hostsim::fault("the thread ended while %d threads wait at __syncthreads", barriers[0].arrived);
    if (--n_live) {
        next();
    } else {
        struct context *self = &now->context;
        now = NULL;
        context_switch(self, &outside);
    }
    abort(); /* a fiber that is done is never ready */
}

static void fiber_begin(int i)
{
    struct fiber *f = &fibers[i];
    unsigned x = launching->block.x, y = launching->block.y, t = (unsigned) i;
    f->thread = make_uint3(t % x, t / x % y, t / x / y);
    f->index = i;
    f->waits_at = -1;
    f->done = false;
    f->waits_for = "nothing";
    f->group = 0;
    f->warp_epoch = f->warp_meetings = 0;
    if (!f->copies)
        f->copies = new std::vector<struct copy>;
    f->copies->clear();
    context_make(&f->context, i, fiber_main);
    make_ready(i);
}

static void block_begin(void)
{
    n_threads = n_live = (int) (launching->block.x * launching->block.y * launching->block.z);
    memset(ready, 0, sizeof ready);
    memset(barriers, 0, sizeof barriers);
    for (int i = 0; i < n_threads; i += WARP) {
        int n = n_threads - i;
        warps[i / WARP].live = n >= WARP ? 0xffffffffu : (1u << n) - 1;
        warps[i / WARP].n_open = 0;
    }
    for (int i = 0; i < n_threads; i++)
        fiber_begin(i);
    block_epoch = 0;
    block_serial++;
    counters.blocks++;
    smem_begin(launching->smem);
}

static void block_run(uint64_t number)
{
    const dim3 &g = launching->grid;
    blockIdx = make_uint3((unsigned) (number % g.x), (unsigned) (number / g.x % g.y),
                          (unsigned) (number / g.x / g.y));
    block_begin();
    int i = pick();
    ready[i / 64] &= ~((uint64_t) 1 << i % 64);
    now = &fibers[i];
    threadIdx = now->thread;
    context_switch(&outside, &now->context);
    smem_end();
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
    return b ? gcd(b, a % b) : a;
}

/* All blocks: ascending, descending, or by a permutation without a table, an affine map. */
static void blocks_run(uint64_t n)
{
    uint64_t step = 1, start = 0;
    if (order == RANDOM) {
        start = schedule_random(n > 0xffffffffu ? 0xffffffffu : (uint32_t) n);
        do
            step = 1 + schedule_random(0x7fffffff);
        while (gcd(step, n) != 1);
    }
    for (uint64_t i = 0; i < n; i++)
        block_run(order == REVERSE ? n - 1 - i : (uint64_t) (((unsigned __int128) i * step + start) % n));
}

bool run_kernel(const struct launch *l)
{
    order = schedule_order();
    launching = l;
    blockDim = l->block;
    gridDim = l->grid;
    first_serial = block_serial + 1;
    counters.kernels++;
    fault_arm();
    heap_open();
    volatile bool ok = true;
    if (sigsetjmp(faulted, 0) == 0)
        blocks_run((uint64_t) l->grid.x * l->grid.y * l->grid.z);
    else
        ok = false;
    now = NULL;
    launching = NULL;
    heap_close();
    fault_disarm();
    return ok;
}

} // namespace sim
