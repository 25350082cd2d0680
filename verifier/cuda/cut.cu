/* cut.cu - top_k, top_p, min_p: what they leave is a beginning of the order (value descending, id ascending), so all that a cut has to
 * find is the last one it keeps; everything behind becomes -inf.
 *
 * top_k up to 64 takes the best one by one.  Else the row is sorted, a block a row: plain, and slow for a vocabulary of 150000 (it is
 * read eight times by 256 threads); who asks for top_p without top_k waits for it. */
#include "verifier/cuda/draw.cuh"

DEVICE double weight_of(float value, float top)
{
    return dice_exp((double) (value - top));
}

/* Cuts the ids 0..n) of the order, whose weights are w (in shared memory, by thread 0): draw/pick.c's cut_top_k.  Returns how many stay. */
DEVICE int cut_short(const double *w, int n, double top_p, float min_p)
{
    if (top_p < 1) {
        double total = 0, sum = 0;
        int kept = 0;
        for (int i = 0; i < n; i++)
            total += w[i];
        while (kept < n && sum < top_p * total)
            sum += w[kept++];
        n = kept;
    }
    while (n > 1 && w[n - 1] < min_p)
        n--;
    return n;
}

/* Everything behind `last` is cut. */
DEVICE void drop_behind(float *value, int n, struct best last)
{
    for (int i = threadIdx.x; i < n; i += DRAW_THREADS) {
        struct best x = {value[i], i};
        if (is_ahead(last, x))
            value[i] = -INFINITY;
    }
}

/* Formula   the top_k best one by one, of them top_p's share and min_p's
 * Shapes    value (nodes, vocab)
 * Launch    a block a node
 * Bytes     4 top_k a value, from the second-level cache
 * Numerics  weights exp(value - maximum) in double, sums sequential in the order of the cut
 * Twin      draw/pick.c: cut_top_k
 * Test      tests/cuda/draw.cu */
__global__ void __launch_bounds__(DRAW_THREADS) short_kernel(struct draw_view v)
{
    SMEM(struct best, room, [DRAW_WARPS]);
    SMEM(double, w, [TOP_K_SHORT]);
    SMEM(struct best, best, [TOP_K_SHORT]);
    SMEM(int, kept, [1]);
    const int node = blockIdx.x;
    const struct draw_job *j = &v.job[v.node[node].job];
    float *value = v.value + node * v.ld;
    if (!(v.node[node].flags & NODE_DRAWN) || v.bad[node] || !j->cut || j->top_k < 1 ||
        j->top_k > TOP_K_SHORT)
        return;
    struct best last = {0, -1}, top = {0, -1};
    int n = 0;
    while (n < j->top_k) {
        struct best b = block_next(value, v.vocab, last, room);
        if (b.id < 0)
            break;
        top = n ? top : b;
        if (threadIdx.x == 0) {
            best[n] = b;
            w[n] = weight_of(b.score, top.score);
        }
        n++;
        last = b;
    }
    if (n == 0)
        return;
    if (threadIdx.x == 0)
        kept[0] = cut_short(w, n, j->top_p, j->min_p);
    __syncthreads();
    drop_behind(value, v.vocab, best[kept[0] - 1]);
}

/* --- sorting --- */

/* The order of floats as that of integers, turned round: the largest value is the smallest key. */
DEVICE uint32_t key_of(float x)
{
    uint32_t u = float_bits(x == 0 ? 0 : x); /* -0 and +0 are equal */
    return ~(u & 0x80000000u ? ~u : u | 0x80000000u);
}

enum { DIGITS = 16, PASSES = 8 };

/* Thread t's share of n. */
DEVICE int share(int t, int n)
{
    return (int) ((int64_t) n * t / DRAW_THREADS);
}

/* One stable pass by four bits.  count: (DIGITS, DRAW_THREADS). */
DEVICE void sort_pass(const uint32_t *key, const int32_t *id, uint32_t *to_key, int32_t *to_id, int n,
                      int shift, int *count)
{
    const int t = threadIdx.x;
    for (int d = 0; d < DIGITS; d++)
        count[d * DRAW_THREADS + t] = 0;
    for (int i = share(t, n); i < share(t + 1, n); i++)
        count[(key[i] >> shift) % DIGITS * DRAW_THREADS + t]++;
    __syncthreads();
    if (t == 0)
        for (int i = 0, at = 0; i < DIGITS * DRAW_THREADS; i++) {
            int c = count[i];
            count[i] = at;
            at += c;
        }
    __syncthreads();
    for (int i = share(t, n); i < share(t + 1, n); i++) {
        int at = count[(key[i] >> shift) % DIGITS * DRAW_THREADS + t]++;
        to_key[at] = key[i];
        to_id[at] = id[i];
    }
    __syncthreads();
}

/* The row's ids that are not masked, best first, into id; returns how many.  key, id: two halves of n each, sorted into the first. */
DEVICE int sort_row(const float *value, int n, uint32_t *key, int32_t *id, int *count)
{
    SMEM(int, found, [DRAW_THREADS]);
    const int t = threadIdx.x;
    int mine = 0, at = 0, all = 0;
    for (int i = share(t, n); i < share(t + 1, n); i++)
        mine += value[i] > -INFINITY;
    found[t] = mine;
    __syncthreads();
    for (int i = 0; i < DRAW_THREADS; i++) {
        at += i < t ? found[i] : 0;
        all += found[i];
    }
    for (int i = share(t, n); i < share(t + 1, n); i++)
        if (value[i] > -INFINITY) {
            key[at] = key_of(value[i]);
            id[at++] = i;
        }
    __syncthreads();
    for (int p = 0; p < PASSES; p += 2) {
        sort_pass(key, id, key + n, id + n, all, 4 * p, count);
        sort_pass(key + n, id + n, key, id, all, 4 * p + 4, count);
    }
    return all;
}

/* The sum of exp(value - top) over all ids that are not masked, ascending: weights by all threads, the sum by the first. */
DEVICE double total_of(const float *value, int n, float top, double *w)
{
    double sum = 0;
    for (int from = 0; from < n; from += DRAW_THREADS) {
        int i = from + threadIdx.x;
        w[threadIdx.x] = i < n && value[i] > -INFINITY ? weight_of(value[i], top) : 0;
        __syncthreads();
        for (int k = 0; threadIdx.x == 0 && k < min(DRAW_THREADS, n - from); k++)
            if (value[from + k] > -INFINITY)
                sum += w[k];
        __syncthreads();
    }
    return sum;
}

/* How many of the order stay where top_k is off: draw/pick.c's cut_open.  Thread 0 knows. */
DEVICE int cut_open(const struct draw_job *j, const float *value, const int32_t *id, int n, double limit,
                    double *w)
{
    SMEM(int, over, [1]);
    double sum = 0;
    int kept = 0;
    float top = value[id[0]];
    for (int from = 0; from < n; from += DRAW_THREADS) {
        int i = from + threadIdx.x, here = min(DRAW_THREADS, n - from);
        if (i < n)
            w[threadIdx.x] = weight_of(value[id[i]], top);
        __syncthreads();
        if (threadIdx.x == 0) {
            int k = 0;
            while (k < here && sum < limit && !(kept && w[k] < j->min_p)) {
                sum += w[k++];
                kept++;
            }
            over[0] = k < here;
        }
        __syncthreads();
        int stop = over[0];
        __syncthreads();
        if (stop)
            break;
    }
    return kept;
}

/* The same where top_k is on and long.  Thread 0 knows. */
DEVICE int cut_long(const struct draw_job *j, const float *value, const int32_t *id, int n)
{
    if (threadIdx.x)
        return 0;
    float top = value[id[0]];
    if (j->top_p < 1) {
        double total = 0, sum = 0;
        int kept = 0;
        for (int i = 0; i < n; i++)
            total += weight_of(value[id[i]], top);
        while (kept < n && sum < j->top_p * total)
            sum += weight_of(value[id[kept++]], top);
        n = kept;
    }
    while (n > 1 && weight_of(value[id[n - 1]], top) < j->min_p)
        n--;
    return n;
}

/* Formula   top_p's share of all that is not masked and min_p's floor, or a top_k above 64 and then these of what it leaves
 * Shapes    value (nodes, vocab)
 * Launch    a block a node of a group of CUT_SLOTS
 * Bytes     the row about twenty times
 * Numerics  the total over ids ascending (with top_k: in the order of the cut), sums sequential, in double
 * Twin      draw/pick.c: cut_open, cut_top_k
 * Test      tests/cuda/draw.cu */
__global__ void __launch_bounds__(DRAW_THREADS) sorted_kernel(struct draw_view v, int first)
{
    SMEM(int, count, [DIGITS * DRAW_THREADS]);
    SMEM(double, w, [DRAW_THREADS]);
    SMEM(int, kept, [1]);
    const int node = first + blockIdx.x;
    const struct draw_job *j = &v.job[v.node[node].job];
    float *value = v.value + node * v.ld;
    if (!(v.node[node].flags & NODE_DRAWN) || v.bad[node] || !j->cut ||
        (j->top_k > 0 && j->top_k <= TOP_K_SHORT))
        return;
    uint32_t *key = v.key + (int64_t) blockIdx.x * 2 * v.vocab;
    int32_t *id = v.id + (int64_t) blockIdx.x * 2 * v.vocab;
    int n = sort_row(value, v.vocab, key, id, count), keep;
    if (n == 0)
        return;
    if (j->top_k > 0) {
        keep = cut_long(j, value, id, min(n, j->top_k));
    } else {
        double total = j->top_p < 1 ? total_of(value, v.vocab, value[id[0]], w) : 0;
        keep = cut_open(j, value, id, n, j->top_p < 1 ? j->top_p * total : (double) INFINITY, w);
    }
    if (threadIdx.x == 0)
        kept[0] = keep;
    __syncthreads();
    struct best last = {value[id[kept[0] - 1]], id[kept[0] - 1]};
    __syncthreads();
    drop_behind(value, v.vocab, last);
}

cudaError_t cut_launch(const struct draw_view *v, cudaStream_t s)
{
    cudaError_t st = LAUNCH(short_kernel, v->nodes, DRAW_THREADS, 0, s, *v);
    for (int i = 0; i < v->nodes && st == cudaSuccess; i += CUT_SLOTS)
        st = LAUNCH(sorted_kernel, v->nodes - i < CUT_SLOTS ? v->nodes - i : CUT_SLOTS, DRAW_THREADS, 0, s,
                    *v, i);
    return st;
}
