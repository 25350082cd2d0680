/* moe.cu - a layer with experts: router, picks, places grouped by expert, the weighted sum.
 *
 * No atomics: places are counted by one block, a thread an expert, so that the grouping is the same in every run; a row's sum
 * does not depend on it in any case. */
#include "target/cuda/moe.cuh"

enum { WARPS = 8, THREADS = WARPS * 32 };

/* Formula   logit[r][e] = sum_k x[r][k] w[e][k]
 * Shapes    x float (rows, hidden), w float (n_experts, hidden)
 * Launch    (experts / 8, rows) blocks of 8 warps, a warp an output
 * Bytes     w once a row, from the second-level cache
 * Numerics  input 32 j + lane in lane, fmaf, j ascending; the butterfly
 * Twin      router_twin in tests/cuda/kernels.cu
 * Test      tests/cuda/kernels.cu: test_moe */
__global__ void __launch_bounds__(THREADS) router_kernel(struct route p)
{
    int64_t r = blockIdx.y, e = blockIdx.x * WARPS + warp_id();
    if (e >= p.n_experts)
        return;
    float s = 0;
    for (int k = lane_id(); k < p.hidden; k += 32)
        s = fmaf(p.x[r * p.hidden + k], p.w[e * p.hidden + k], s);
    s = warp_sum(s);
    if (lane_id() == 0)
        p.logit[r * p.n_experts + e] = s;
}

DEVICE int ahead(float a, int i, float b, int j)
{
    return a > b || (a == b && i < j);
}

/* The largest logit of a warp's row that was not picked yet, ties by the lower id; NaN counts least.  taken: not 0 where it was. */
DEVICE int best_left(const float *logit, const float *taken, int n)
{
    float best = -INFINITY;
    int id = n;
    for (int e = lane_id(); e < n; e += 32) {
        float x = logit[e] == logit[e] ? logit[e] : -INFINITY;
        if (taken[e] == 0 && (id == n || ahead(x, e, best, id))) {
            best = x;
            id = e;
        }
    }
    for (int i = 16; i > 0; i >>= 1) {
        float x = __shfl_xor_sync(WARP_ALL, best, i);
        int e = __shfl_xor_sync(WARP_ALL, id, i);
        if (e < n && (id == n || ahead(x, e, best, id))) {
            best = x;
            id = e;
        }
    }
    return id;
}

/* Formula   the n_used largest logits; w = softmax over all experts of them, with norm_topk divided by their sum
 * Shapes    pick, pick_w (rows, n_used)
 * Launch    a warp a row, 8 a block
 * Bytes     the logits
 * Numerics  exp_fixed(l - max); the sum over experts ascending, plain adds; IEEE divisions; the picks' sum in their order
 * Twin      router_twin
 * Test      tests/cuda/kernels.cu: test_moe */
__global__ void __launch_bounds__(THREADS) pick_kernel(struct route p, int rows)
{
    SMEM(float, logits, [WARPS][CUDA_EXPERTS_MAX]);
    SMEM(float, takens, [WARPS][CUDA_EXPERTS_MAX]);
    SMEM(int, picks, [WARPS][CUDA_USED_MAX]);
    int64_t r = (int64_t) blockIdx.x * WARPS + warp_id();
    float *logit = logits[warp_id()], *taken = takens[warp_id()];
    int *pick = picks[warp_id()], n = p.n_experts;
    if (r >= rows)
        return;
    for (int e = lane_id(); e < n; e += 32) {
        logit[e] = p.logit[r * n + e];
        taken[e] = 0;
    }
    __syncwarp(); /* best_left's shuffles order no writes: lane 0 will write what another lane wrote */
    for (int j = 0; j < p.n_used; j++) {
        int e = best_left(logit, taken, n);
        if (lane_id() == 0) {
            pick[j] = e;
            taken[e] = 1;
        }
#ifndef BREAK_CUDA_SYNCWARP
        __syncwarp();
#endif
    }
    float top = logit[pick[0]];
    for (int e = lane_id(); e < n; e += 32)
        taken[e] = exp_fixed(logit[e] - top);
    __syncwarp();
    if (lane_id())
        return;
    float all = 0, picked = 0;
    for (int e = 0; e < n; e++)
        all += taken[e];
    for (int j = 0; j < p.n_used; j++)
        picked += taken[pick[j]] / all;
    for (int j = 0; j < p.n_used; j++) {
        float w = taken[pick[j]] / all;
        p.pick[r * p.n_used + j] = pick[j];
        p.pick_w[r * p.n_used + j] = p.norm_topk ? w / picked : w;
    }
}

/* Formula   places of equal experts side by side, in order of rows; work: (expert, first place, at most CUDA_ROWS of them)
 * Shapes    place (rows, n_used), place_row (rows n_used), work 1 + 3 (n_experts + rows n_used / CUDA_ROWS)
 * Launch    one block, a thread an expert
 * Bytes     the picks, twice a thread
 * Numerics  integers
 * Twin      none: any grouping gives the same rows
 * Test      tests/cuda/kernels.cu: test_moe */
__global__ void __launch_bounds__(CUDA_EXPERTS_MAX) place_kernel(struct route p, int rows)
{
    SMEM(int, count, [CUDA_EXPERTS_MAX]);
    SMEM(int, from, [CUDA_EXPERTS_MAX]);
    const int e = threadIdx.x, n = rows * p.n_used;
    int mine = 0;
    for (int i = 0; i < n; i++)
        mine += p.pick[i] == e;
    count[e] = mine;
    __syncthreads();
    if (e == 0) {
        int at = 0, works = 0;
        for (int i = 0; i < p.n_experts; i++) {
            from[i] = at;
            for (int c = 0; c < count[i]; c += CUDA_ROWS) {
                int32_t *w = p.work + 1 + 3 * works++;
                w[0] = i;
                w[1] = at + c;
                w[2] = min(CUDA_ROWS, count[i] - c);
            }
            at += count[i];
        }
        p.work[0] = works;
    }
    __syncthreads();
    if (e >= p.n_experts)
        return;
    int at = from[e];
    for (int i = 0; i < n && mine; i++)
        if (p.pick[i] == e) {
            p.place[i] = at;
            p.place_row[at++] = i / p.n_used;
        }
}

cudaError_t route_launch(const struct route *r, int rows, cudaStream_t s)
{
    cudaError_t st = LAUNCH(router_kernel, dim3((r->n_experts + WARPS - 1) / WARPS, rows), THREADS, 0, s, *r);
    if (st == cudaSuccess)
        st = LAUNCH(pick_kernel, (rows + WARPS - 1) / WARPS, THREADS, 0, s, *r, rows);
    if (st == cudaSuccess)
        st = LAUNCH(place_kernel, 1, CUDA_EXPERTS_MAX, 0, s, *r, rows);
    return st;
}

/* Formula   x[r] += sum_j pick_w[r][j] y[place[r][j]]
 * Shapes    y parts (splits, places, hidden)
 * Launch    (blocks of 256 outputs, rows)
 * Bytes     n_used values in, 8 for x
 * Numerics  splits ascending; from 0, fmaf pick by pick, the largest logit first; one add to x
 * Twin      combine_twin in tests/cuda/kernels.cu
 * Test      tests/cuda/kernels.cu: test_moe */
__global__ void __launch_bounds__(THREADS)
    combine_kernel(float *x, int hidden, struct parts y, const int32_t *place, const float *pick_w,
                   int n_used)
{
    int64_t r = blockIdx.y;
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= hidden)
        return;
    float sum = 0;
    for (int j = 0; j < n_used; j++)
        sum = fmaf(pick_w[r * n_used + j],
                   parts_sum(y.part, y.splits, y.stride, place[r * n_used + j] * y.ld + i), sum);
    x[r * hidden + i] += sum;
}

cudaError_t combine_launch(float *x, int hidden, const struct parts *y, const int32_t *place,
                           const float *pick_w, int n_used, int rows, cudaStream_t s)
{
    return LAUNCH(combine_kernel, dim3((hidden + THREADS - 1) / THREADS, rows), THREADS, 0, s, x, hidden, *y,
                  place, pick_w, n_used);
}
