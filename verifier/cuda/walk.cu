/* walk.cu - the walk itself, hashes and logprobs of the rows it drew from: verifier/walk.c on the device. */
#include "verifier/cuda/draw.cuh"

enum { PATH_HEAD = 8 };

DEVICE int child_of(const struct draw_view *v, const struct draw_job *j, int at, int tok)
{
    for (int i = at + 1; i < j->first + j->n; i++)
        if (v->node[i].parent == at && v->node[i].tok == tok)
            return i;
    return -1;
}

/* Formula   down from the root while a child holds what was drawn and the text does not end there
 * Shapes    drawn (nodes) -> a path a job, in target_settle's place and, packed, in the outcome
 * Launch    a thread a job
 * Bytes     a few integers a node
 * Numerics  integers
 * Twin      verifier/walk.c
 * Test      tests/cuda/draw.cu */
__global__ void __launch_bounds__(32) walk_kernel(struct draw_view v)
{
    const int i = blockIdx.x * 32 + threadIdx.x;
    if (i >= v.jobs)
        return;
    const struct draw_job *j = &v.job[i];
    struct path *p = j->path;
    unsigned char *guess = (unsigned char *) v.out + j->out + PATH_HEAD;
    int at = j->first, n = 0, next = -1, status = 0;
    for (;;) {
        const struct draw_node *here = &v.node[at];
        next = here->flags & NODE_DRAWN ? v.drawn[at] : here->forced;
        if (here->flags & NODE_DRAWN && next < 0) {
            status = next;
            next = -1;
            n = 0;
            break;
        }
        int child = here->flags & NODE_DRAWN && !(here->flags & NODE_ENDS) ? child_of(&v, j, at, next) : -1;
        if (child < 0 || v.node[child].flags & NODE_DONE)
            break;
        p->node[n] = (int16_t) (child - j->first);
        guess[n++] = (unsigned char) (child - j->first);
        at = child;
    }
    p->n = n;
    p->next = next;
    p->status = status;
    int32_t *head = (int32_t *) (v.out + j->out);
    head[0] = next;
    head[1] = status ? status : n;
}

cudaError_t walk_launch(const struct draw_view *v, cudaStream_t s)
{
    return LAUNCH(walk_kernel, (v->jobs + 31) / 32, 32, 0, s, *v);
}

/* The node that the i-th row of a job's path was drawn at; -1: there is none, or its token was known. */
DEVICE int node_drawn(const struct draw_view *v, const struct draw_job *j, int i)
{
    if (i > j->path->n || j->path->status)
        return -1;
    int node = j->first + (i ? j->path->node[i - 1] : 0);
    return v->node[node].flags & NODE_DRAWN ? node : -1;
}

/* Formula   verifier/walk.c's hash_row of every row drawn from; 0 of others
 * Shapes    (nodes) 64-bit hashes in the outcome
 * Launch    (jobs, nodes of the largest tree) single threads: one value depends on the one before it; for tests, and for who asks
 * Bytes     the rows drawn from
 * Numerics  integers over raw bits
 * Twin      verifier/walk.c: hash_row
 * Test      tests/cuda/draw.cu */
__global__ void hash_kernel(struct draw_view v)
{
    const struct draw_job *j = &v.job[blockIdx.x];
    const int i = blockIdx.y;
    if (j->hash < 0 || i >= j->n)
        return;
    int node = node_drawn(&v, j, i);
    uint64_t h = 0;
    if (node >= 0) {
        const float *row = row_of(&v, node);
        h = 0x9E3779B97F4A7C15u ^ (uint64_t) v.vocab;
        for (int k = 0; k < v.vocab; k += 2) {
            uint64_t two = (uint64_t) float_bits(row[k]) |
                           (k + 1 < v.vocab ? (uint64_t) float_bits(row[k + 1]) << 32 : 0);
            h = (h ^ two) * 0xff51afd7ed558ccdu;
            h ^= h >> 32;
        }
        h = h ? h : 1;
    }
    ((uint64_t *) (v.out + j->hash))[i] = h;
}

cudaError_t hash_launch(const struct draw_view *v, cudaStream_t s)
{
    return LAUNCH(hash_kernel, dim3(v->jobs, v->largest), 1, 0, s, *v);
}

/* --- logprobs --- */

enum { LANES = 16 };

struct summed {
    float top;        /* the maximum */
    double log_total; /* log of the sum of exp(value - top) */
};

/* Of value[0..n), or, with `only` >= 0, of that one value alone.  16 partial sums by id mod 16, ascending, folded 8-4-2-1: the
 * exponentials by all threads, each sum by one. */
DEVICE struct summed sum_row(const float *value, int n, int only, struct best *room, double *w, double *part)
{
    const int t = threadIdx.x;
    struct best none = {0, -1};
    float top = only >= 0 ? value[only] : block_next(value, n, none, room).score;
    double mine = 0;
    for (int from = 0; from < n; from += DRAW_THREADS) {
        int i = from + t;
        bool counts = i < n && (only < 0 || i == only);
        w[t] = counts ? dice_exp_down((double) value[i] - (double) top) : 0;
        __syncthreads();
        for (int k = 0; t < LANES && k < DRAW_THREADS / LANES; k++)
            if (from + k * LANES + t < n)
                mine += w[k * LANES + t];
        __syncthreads();
    }
    if (t < LANES)
        part[t] = mine;
    __syncthreads();
    for (int half = LANES / 2; half > 0; half /= 2) {
        if (t < half)
            part[t] += part[t + half];
        __syncthreads();
    }
    struct summed s = {top, dice_log(part[0])};
    __syncthreads();
    return s;
}

DEVICE float logprob_of(float l, struct summed s)
{
    return l > -INFINITY ? (float) (((double) l - (double) s.top) - s.log_total) : -INFINITY;
}

DEVICE void logprobs_absent(struct draw_logprobs *out)
{
    const float nan = bits_float(0x7fc00000u);
    for (int i = threadIdx.x; i < DRAW_TOP_MAX; i += DRAW_THREADS) {
        out->top[i] = out->after[i] = nan;
        out->tok[i] = 0;
    }
    if (threadIdx.x)
        return;
    out->logprob = out->processed = nan;
    out->n = 0;
}

/* Formula   log softmax of the raw row at the token drawn and at the n_top largest; likewise of the processed row
 * Shapes    (nodes) struct draw_logprobs in the outcome
 * Launch    (jobs, nodes of the largest tree) blocks
 * Bytes     the rows drawn from, 2 + n_top times
 * Numerics  draw/logprob.c's
 * Twin      draw_logprobs
 * Test      tests/cuda/draw.cu */
__global__ void __launch_bounds__(DRAW_THREADS) logprob_kernel(struct draw_view v)
{
    SMEM(struct best, room, [DRAW_WARPS]);
    SMEM(double, w, [DRAW_THREADS]);
    SMEM(double, part, [LANES]);
    const struct draw_job *j = &v.job[blockIdx.x];
    const int i = blockIdx.y, first = threadIdx.x == 0;
    if (j->logprob < 0 || i >= j->n)
        return;
    struct draw_logprobs *out = (struct draw_logprobs *) (v.out + j->logprob) + i;
    logprobs_absent(out);
    __syncthreads();
    int node = node_drawn(&v, j, i);
    if (node < 0)
        return;
    const float *l = row_of(&v, node), *value = v.value + node * v.ld;
    const int tok = v.drawn[node];
    struct summed s = sum_row(l, v.vocab, -1, room, w, part), after = s;
    if (j->processed)
        after = sum_row(value, v.vocab, j->cold ? tok : -1, room, w, part);
    if (first) {
        out->logprob = logprob_of(l[tok], s);
        if (j->processed)
            out->processed = logprob_of(value[tok], after);
    }
    struct best last = {0, -1};
    for (int k = 0; k < j->n_top; k++) {
        last = block_next(l, v.vocab, last, room);
        if (last.id < 0)
            break;
        if (!first)
            continue;
        out->n = k + 1;
        out->tok[k] = last.id;
        out->top[k] = logprob_of(last.score, s);
        if (j->processed)
            out->after[k] = j->cold && last.id != tok ? -INFINITY : logprob_of(value[last.id], after);
    }
}

cudaError_t logprob_launch(const struct draw_view *v, cudaStream_t s)
{
    return LAUNCH(logprob_kernel, dim3(v->jobs, v->largest), DRAW_THREADS, 0, s, *v);
}
