/* warp.cpp - what a warp does together: the last lane to arrive computes for all. */
#include "sim.h"

namespace sim
{

static int lowest(uint32_t mask)
{
    return __builtin_ctz(mask);
}

/* i: each lane of mask, ascending */
#define LANES(i, mask)                                                                                       \
    for (uint32_t i##_left = (mask), i; i##_left && (i = (uint32_t) lowest(i##_left), 1);                    \
         i##_left &= i##_left - 1)

static void perform_sync(struct fiber *lanes, uint32_t mask)
{
    LANES(i, mask)
    lanes[i].warp_epoch++;
}

static void perform_ballot(struct fiber *lanes, uint32_t mask)
{
    uint32_t votes = 0;
    LANES(i, mask)
    votes |= (uint32_t) (lanes[i].arg != 0) << i;
    LANES(i, mask)
    *(uint32_t *) lanes[i].out = votes;
}

static void perform_match(struct fiber *lanes, uint32_t mask)
{
    LANES(i, mask)
    {
        uint32_t same = 0;
        LANES(j, mask)
        same |= (uint32_t) (*(const uint64_t *) lanes[i].in == *(const uint64_t *) lanes[j].in) << j;
        *(uint32_t *) lanes[i].out = same;
    }
}

/* A lane's source; its own where the shuffle would leave the segment of `width` lanes. */
static int shuffle_source(enum hostsim::warp_shuffle kind, int lane, int arg, int width)
{
    int first = lane & ~(width - 1), last = first + width - 1, from;
    switch (kind) {
    case hostsim::SHUFFLE_IDX:
        return first | (arg & (width - 1));
    case hostsim::SHUFFLE_UP:
        from = lane - arg;
        return from < first ? lane : from;
    case hostsim::SHUFFLE_DOWN:
        from = lane + arg;
        return from > last ? lane : from;
    default:
        from = lane ^ arg;
        return from > last ? lane : from;
    }
}

/* What an absent lane would give is undefined: the poison. */
static void shuffle(enum hostsim::warp_shuffle kind, struct fiber *lanes, uint32_t mask)
{
    LANES(i, mask)
    {
        int from = shuffle_source(kind, (int) i, lanes[i].arg, lanes[i].width);
        *(uint64_t *) lanes[i].out = mask >> from & 1 ? *(const uint64_t *) lanes[from].in : ~(uint64_t) 0;
    }
}

static void perform_idx(struct fiber *lanes, uint32_t mask)
{
    shuffle(hostsim::SHUFFLE_IDX, lanes, mask);
}

static void perform_up(struct fiber *lanes, uint32_t mask)
{
    shuffle(hostsim::SHUFFLE_UP, lanes, mask);
}

static void perform_down(struct fiber *lanes, uint32_t mask)
{
    shuffle(hostsim::SHUFFLE_DOWN, lanes, mask);
}

static void perform_xor(struct fiber *lanes, uint32_t mask)
{
    shuffle(hostsim::SHUFFLE_XOR, lanes, mask);
}

static int64_t reduce(enum hostsim::warp_reduce kind, int64_t a, int64_t b)
{
    switch (kind) {
    case hostsim::REDUCE_ADD:
        return a + b;
    case hostsim::REDUCE_MIN:
        return a < b ? a : b;
    case hostsim::REDUCE_MAX:
        return a > b ? a : b;
    case hostsim::REDUCE_AND:
        return a & b;
    case hostsim::REDUCE_OR:
        return a | b;
    default:
        return a ^ b;
    }
}

static void perform_reduce(struct fiber *lanes, uint32_t mask)
{
    int first = lowest(mask);
    int64_t r = *(const int64_t *) lanes[first].in;
    LANES(i, mask & (mask - 1))
    r = reduce((enum hostsim::warp_reduce) lanes[first].arg, r, *(const int64_t *) lanes[i].in);
    LANES(i, mask)
    *(int64_t *) lanes[i].out = r;
}

/* --- tensor cores --- */

struct mma {
    float *d;
    const uint32_t *a, *b;
};

static float half_low(uint32_t x)
{
    return __uint_as_float(x << 16);
}

static float half_high(uint32_t x)
{
    return __uint_as_float(x & 0xffff0000u);
}

typedef float row8 __attribute__((vector_size(32)));

struct mma_tiles {
    float a[16][16], c[16][8];
    row8 b[16];
};

static void mma_gather(struct mma_tiles *m, struct fiber *lanes)
{
    for (int l = 0; l < WARP; l++) {
        const struct mma *p = (const struct mma *) lanes[l].in;
        int g = l / 4, t = 2 * (l % 4);
        for (int i = 0; i < 4; i++) {
            float *row = &m->a[g + 8 * (i & 1)][t + 8 * (i >> 1)];
            row[0] = half_low(p->a[i]);
            row[1] = half_high(p->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            m->b[t + 8 * i][g] = half_low(p->b[i]);
            m->b[t + 8 * i + 1][g] = half_high(p->b[i]);
        }
        for (int i = 0; i < 4; i++)
            m->c[g + 8 * (i >> 1)][t + (i & 1)] = p->d[i];
    }
}

/* A product of two bf16 is exact in float, so a fused multiply-add would give the same bits (subnormal products aside, and those
 * alike on every machine, as nothing is fused). */
#if defined(__x86_64__)
__attribute__((target_clones("default", "avx2")))
#endif
static void
mma_compute(struct mma_tiles *m)
{
    for (int i = 0; i < 16; i++) {
        row8 c;
        memcpy(&c, m->c[i], sizeof c);
        for (int k = 0; k < 16; k++)
            c += m->a[i][k] * m->b[k];
        memcpy(m->c[i], &c, sizeof c);
    }
}

static void perform_mma(struct fiber *lanes, uint32_t)
{
    struct mma_tiles m;
    mma_gather(&m, lanes);
    mma_compute(&m);
    for (int l = 0; l < WARP; l++)
        for (int i = 0; i < 4; i++)
            ((const struct mma *) lanes[l].in)->d[i] = m.c[l / 4 + 8 * (i >> 1)][2 * (l % 4) + (i & 1)];
}

/* arg: matrices; width: 1 transposed */
static void perform_ldmatrix(struct fiber *lanes, uint32_t)
{
    int n = lanes[0].arg, transposed = lanes[0].width;
    for (int m = 0; m < n; m++) {
        uint16_t x[8][8];
        for (int r = 0; r < 8; r++)
            memcpy(x[r], lanes[8 * m + r].in, 16);
        for (int l = 0; l < WARP; l++) {
            int g = l / 4, t = 2 * (l % 4);
            uint32_t lo = transposed ? x[t][g] : x[g][t], hi = transposed ? x[t + 1][g] : x[g][t + 1];
            ((uint32_t *) lanes[l].out)[m] = lo | hi << 16;
        }
    }
}

static void bring(const void *in, void *out, int arg, int width)
{
    now->in = in;
    now->out = out;
    now->arg = arg;
    now->width = width;
}

/* --- asynchronous copies --- */

static void copy_perform(const struct copy *c)
{
    check_read(c->src, (size_t) c->from_global);
    memcpy(c->dst, c->src, (size_t) c->from_global);
    memset((char *) c->dst + c->from_global, 0, (size_t) (c->bytes - c->from_global));
    check_write(c->dst, (size_t) c->bytes);
}

} // namespace sim

using namespace sim;

void hostsim::warp_sync(uint32_t mask)
{
    warp_collective("__syncwarp", perform_sync, mask, false);
}

uint32_t hostsim::warp_ballot(uint32_t mask, int predicate)
{
    uint32_t r;
    bring(NULL, &r, predicate, 0);
    warp_collective("__ballot_sync", perform_ballot, mask, false);
    return r;
}

uint32_t hostsim::warp_match(uint32_t mask, uint64_t value)
{
    uint32_t r;
    bring(&value, &r, 0, 0);
    warp_collective("__match_any_sync", perform_match, mask, false);
    return r;
}

uint64_t hostsim::warp_shuffle(enum warp_shuffle kind, uint32_t mask, uint64_t value, int lane, int width)
{
    static const struct {
        const char *name;
        void (*perform)(struct fiber *lanes, uint32_t mask);
    } kinds[] = {{"__shfl_sync", perform_idx},
                 {"__shfl_up_sync", perform_up},
                 {"__shfl_down_sync", perform_down},
                 {"__shfl_xor_sync", perform_xor}};
    uint64_t r;
    if (width < 1 || width > WARP || (width & (width - 1)))
        fault("%s: width %d is not a power of two up to 32", kinds[kind].name, width);
    bring(&value, &r, lane, width);
    warp_collective(kinds[kind].name, kinds[kind].perform, mask, false);
    return r;
}

int64_t hostsim::warp_reduce(enum warp_reduce kind, uint32_t mask, int64_t value)
{
    int64_t r;
    bring(&value, &r, kind, 0);
    warp_collective("__reduce_sync", perform_reduce, mask, false);
    return r;
}

void hostsim::mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    struct mma m = {d, a, b};
    bring(&m, NULL, 0, 0);
    warp_collective("mma.m16n8k16", perform_mma, 0xffffffffu, true);
}

void hostsim::ldmatrix(uint32_t *r, const void *row, int matrices, int transposed)
{
    check_access(row, 16, "ldmatrix");
    if (now->index % WARP < 8 * matrices) {
        if (!smem_contains(row, 16))
            fault("ldmatrix reads %s; it reads shared memory", describe(row).c_str());
        check_read(row, 16);
    }
    bring(row, r, matrices, transposed);
    warp_collective("ldmatrix", perform_ldmatrix, 0xffffffffu, true);
}

void hostsim::cp_async(void *smem, const void *global, int bytes, int from_global)
{
    check_access(smem, (size_t) bytes, "cp.async, to");
    check_access(global, (size_t) bytes, "cp.async, from");
    if (from_global < 0 || from_global > bytes)
        fault("cp.async of %d bytes with %d from global memory", bytes, from_global);
    if (!smem_contains(smem, (size_t) bytes))
        fault("cp.async writes %s; it writes shared memory", describe(smem).c_str());
    if (from_global && !heap_contains(global, (size_t) from_global))
        fault("cp.async reads %d bytes at %s; it reads device memory", from_global, describe(global).c_str());
    check_write(smem, (size_t) bytes);
    memset(smem, POISON, (size_t) bytes);
    now->copies->push_back({smem, global, bytes, from_global, now->group});
}

void hostsim::cp_async_commit(void)
{
    now->group++;
}

/* Groups are numbered from 0; all but the `pending` newest committed ones are done. */
void hostsim::cp_async_wait(int pending)
{
    std::vector<struct copy> &v = *now->copies;
    size_t n = 0;
    while (n < v.size() && v[n].group + (unsigned) pending < now->group)
        copy_perform(&v[n++]);
    v.erase(v.begin(), v.begin() + (ptrdiff_t) n);
}

void hostsim::check_access(const void *p, size_t bytes, const char *what)
{
    if ((uintptr_t) p % bytes)
        fault("%s of %s: not aligned to %zu bytes", what, describe(p).c_str(), bytes);
}

uint32_t hostsim::load_acquire(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

void hostsim::store_release(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
