/* attn.cu - attention in two kernels: settled keys in shared tiles, then each row's own last keys and the merge.
 *
 * For a row at position k let B = 64 floor(max(0, k - 63) / 64).  A tree is at most 64 deep, so keys below B are settled in every
 * possible tree: they are taken in tiles of 64, chunk by chunk, for all rows of a sequence together, and a tile is either all of
 * a row's or none of it.  The last 64 to 127 keys are taken per row, in order of position, wherever they lie: in pages or, of a
 * tree in flight, in slots.  So neither tree, nor slots, nor batch mates can be seen in a row's bits. */
#include "target/cuda/attn.cuh"

enum { WARPS = 4, THREADS = WARPS * 32, TILES = CUDA_CHUNK / CUDA_KEYS };

/* --- settled keys --- */

/* Row i of the block: query head i % group of row i / group of its unit. */
struct place {
    int row, head, base; /* base 0: no such row, it sees nothing */
};

DEVICE place place_of(const struct attn *a, const struct cuda_unit *u, int i)
{
    int group = a->n_heads / a->n_kv_heads, r = i / group;
    if (r >= u->n)
        return {0, 0, 0};
    return {u->row + r, (int) blockIdx.y * group + i % group, attn_base(a->row[u->row + r].pos)};
}

/* 64 rows of D values, padded so that eight rows of an ldmatrix lie in different banks. */
template <int D> DEVICE void stage_tile(const bf16 *from, bf16 *to)
{
    for (int i = threadIdx.x; i < CUDA_KEYS * D / 8; i += THREADS)
        cp_async16(to + i / (D / 8) * (D + 8) + i % (D / 8) * 8, from + i * 8);
}

template <int D> DEVICE void stage_q(const struct attn *a, const struct cuda_unit *u, bf16 *to)
{
    for (int i = threadIdx.x; i < CUDA_ROWS * D / 8; i += THREADS) {
        place p = place_of(a, u, i / (D / 8));
        cp_async16_zfill(to + i / (D / 8) * (D + 8) + i % (D / 8) * 8,
                         a->q + ((int64_t) p.row * a->n_heads + p.head) * D + i % (D / 8) * 8,
                         p.base ? 16 : 0);
    }
}

/* A warp's 16 rows: its scores of one tile, and what it has gathered of a chunk. */
template <int D> struct rows16 {
    uint32_t q[D / 16][4];
    float o[D / 8][4];
    float m[2], l[2]; /* of rows g and g + 8 */
};

template <int D> DEVICE void scores(const rows16<D> *w, const bf16 *k, float s[8][4])
{
    int lane = lane_id();
    for (int j = 0; j < 8; j++) {
        for (int i = 0; i < 4; i++)
            s[j][i] = 0;
#pragma unroll
        for (int d = 0; d < D / 16; d += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, k + (j * 8 + lane % 8) * (D + 8) + d * 16 + lane / 8 * 8);
            mma_m16n8k16_bf16(s[j], w->q[d], b);
            mma_m16n8k16_bf16(s[j], w->q[d + 1], b + 2);
        }
    }
}

DEVICE float quad_sum(float x)
{
    x += __shfl_xor_sync(WARP_ALL, x, 1);
    return x + __shfl_xor_sync(WARP_ALL, x, 2);
}

DEVICE float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(WARP_ALL, x, 1));
    return fmaxf(x, __shfl_xor_sync(WARP_ALL, x, 2));
}

/* Scores to weights; half: row g or g + 8; live 0: the tile is not this row's, nothing changes.  Returns what the sums so far are
 * multiplied by. */
template <int D> DEVICE float soften(rows16<D> *w, int half, int live, float scale, float s[8][4])
{
    float top = -INFINITY, sum = 0;
    for (int j = 0; j < 8; j++)
        for (int i = 2 * half; i < 2 * half + 2; i++) {
            s[j][i] *= scale;
            top = fmaxf(top, s[j][i]);
        }
    top = fmaxf(w->m[half], quad_max(top));
    float alpha = exp_fixed(w->m[half] - top);
    for (int j = 0; j < 8; j++)
        for (int i = 2 * half; i < 2 * half + 2; i++) {
            s[j][i] = exp_fixed(s[j][i] - top);
            sum += s[j][i];
        }
    sum = quad_sum(sum);
    if (!live)
        return 1;
    w->m[half] = top;
    w->l[half] = fmaf(w->l[half], alpha, sum);
    return alpha;
}

template <int D>
DEVICE void gather(rows16<D> *w, const float s[8][4], const bf16 *v, const float alpha[2], const int live[2])
{
    int lane = lane_id();
    uint32_t p[4][4];
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 4; i++) {
            const float *x = s[2 * k + i / 2] + i % 2 * 2;
            p[k][i] = bf16x2_from_floats(x[0], x[1]);
        }
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
        float sum[2][4] = {};
        for (int k = 0; k < 4; k++) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, v + (k * 16 + lane % 16) * (D + 8) + j * 8 + lane / 16 * 8);
            mma_m16n8k16_bf16(sum[0], p[k], b);
            mma_m16n8k16_bf16(sum[1], p[k], b + 2);
        }
        for (int i = 0; i < 8; i++) {
            float *o = &w->o[j + i / 4][i % 4];
            *o = live[i % 4 / 2] ? fmaf(*o, alpha[i % 4 / 2], sum[i / 4][i % 4]) : *o;
        }
    }
}

template <int D> DEVICE void store_chunk(const struct attn *a, const rows16<D> *w, const place p[2])
{
    int t = lane_id() % 4;
    for (int half = 0; half < 2; half++) {
        if (p[half].base <= (int) blockIdx.x * CUDA_CHUNK)
            continue;
        int64_t at =
            ((int64_t) (p[half].row - a->row0) * a->n_heads + p[half].head) * a->chunks_max + blockIdx.x;
        if (t == 0) {
            a->ml[2 * at] = w->m[half];
            a->ml[2 * at + 1] = w->l[half];
        }
        for (int j = 0; j < D / 8; j++)
            for (int i = 0; i < 2; i++)
                a->o[at * D + j * 8 + 2 * t + i] = w->o[j][2 * half + i];
    }
}

/* Formula   of the keys of one chunk below B: m = max s, l = sum exp(s - m), o = sum exp(s - m) v;  s = q k / sqrt(D)
 * Shapes    q BF16 (rows, n_heads, D); kv [page][kv head][K|V][64][D]; o (rows, n_heads, chunks, D)
 * Launch    (chunks of 256 keys, kv heads, units of <= 64 query rows) blocks of 4 warps, 16 query rows each; Q, K, V in shared memory
 * Bytes     the chunk's keys and values once a unit
 * Numerics  tiles of 64 keys ascending; s: mma over d ascending; a tile's sum of exp: pairs of keys (2t, 2t + 1) of each eight
 *           ascending, then the butterfly over t; l = fmaf(l, exp(m - m'), sum); weights rounded to BF16; o = fmaf(o, exp(m - m'),
 *           mma over the tile's keys ascending).  A row of an mma knows nothing of its neighbours
 * Twin      attn_twin in tests/cuda/kernels.cu
 * Test      tests/cuda/kernels.cu: test_attn */
template <int D> __global__ void __launch_bounds__(THREADS) settled_kernel(struct attn a)
{
    DYN_SMEM(bf16, q);
    bf16 *k = q + CUDA_ROWS * (D + 8), *v = k + CUDA_KEYS * (D + 8);
    const struct cuda_unit u = a.unit[blockIdx.z];
    const struct cuda_item it = a.item[u.item];
    const int first = blockIdx.x * TILES;
    int most = 0;
    for (int i = 0; i < u.n; i++)
        most = max(most, min(first + TILES, attn_base(a.row[u.row + i].pos) / CUDA_KEYS));
    if (first >= most)
        return;
    stage_q<D>(&a, &u, q);
    int i = warp_id() * 16 + lane_id() / 4;
    const place p[2] = {place_of(&a, &u, i), place_of(&a, &u, i + 8)};
    rows16<D> w = {};
    w.m[0] = w.m[1] = -INFINITY;
    for (int t = first; t < most; t++) {
        int64_t at = ((int64_t) a.pages[it.pages + t] * a.n_kv_heads + blockIdx.y) * 2 * CUDA_KEYS * D;
        stage_tile<D>(a.kv + at, k);
        cp_async_commit();
        stage_tile<D>(a.kv + at + CUDA_KEYS * D, v);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (t == first)
            for (int d = 0; d < D / 16; d++)
                ldmatrix_x4(w.q[d],
                            q + (warp_id() * 16 + lane_id() % 16) * (D + 8) + d * 16 + lane_id() / 16 * 8);
        float s[8][4];
        const int live[2] = {p[0].base > t * CUDA_KEYS, p[1].base > t * CUDA_KEYS};
        scores<D>(&w, k, s);
        const float alpha[2] = {soften<D>(&w, 0, live[0], a.scale, s), soften<D>(&w, 1, live[1], a.scale, s)};
        cp_async_wait<0>();
        __syncthreads();
        gather<D>(&w, s, v, alpha, live);
        __syncthreads();
    }
    store_chunk<D>(&a, &w, p);
}

/* --- the row's own last keys, and the merge --- */

/* Where the keys at positions base .. pos lie, by position. */
DEVICE void list_tail(const struct attn *a, int r, int base, int32_t *cell)
{
    const struct cuda_row row = a->row[r];
    const struct cuda_item it = a->item[row.item];
    const int settled = it.tree ? it.len : row.pos + 1; /* positions below it lie in pages */
    for (int pos = base + threadIdx.x; pos < settled; pos += THREADS) {
        int page = pos / CUDA_KEYS;
#ifdef BREAK_CUDA_PAGE_OFF
        page += page > 0 && page == base / CUDA_KEYS ? -1 : 0;
#endif
        cell[pos - base] = a->pages[it.pages + page] * CUDA_KEYS + pos % CUDA_KEYS;
    }
    if (!it.tree || threadIdx.x)
        return;
    int at = r;
    for (int pos = row.pos; pos >= settled; pos--) {
        cell[pos - base] = a->row[at].cell;
        at = a->row[at].parent;
#ifdef BREAK_CUDA_ANCESTOR_OFF
        at += at > it.first && pos == row.pos ? -1 : 0;
#endif
    }
#ifdef BREAK_CUDA_TAIL_SLOT_ORDER
    for (int i = settled - base; i <= row.pos - base; i++)
        for (int j = i; j > settled - base && cell[j] < cell[j - 1]; j--) {
            int32_t c = cell[j];
            cell[j] = cell[j - 1];
            cell[j - 1] = c;
        }
#endif
}

template <int D> DEVICE float dot(const float *q, const bf16 *k)
{
    float s = 0;
    for (int d = 0; d < D; d += 8) {
        uint4 v = ld16(k + d);
        const uint32_t two[4] = {v.x, v.y, v.z, v.w};
        for (int i = 0; i < 4; i++) {
            s = fmaf(q[d + 2 * i], bf16x2_lo(two[i]), s);
            s = fmaf(q[d + 2 * i + 1], bf16x2_hi(two[i]), s);
        }
    }
    return s;
}

/* What the chunks of a row's head gave, joined with its tail's (m, l, and o of value d); thread d writes out[d]. */
template <int D>
DEVICE void merge(const struct attn *a, int64_t at, int chunks, float m, float l, float o, bf16 *out)
{
    float top = m;
    for (int c = 0; c < chunks; c++)
        top = fmaxf(top, a->ml[2 * (at + c)]);
    float sum = 0, value = 0;
    for (int c = 0; c < chunks; c++) {
        float by = exp_fixed(a->ml[2 * (at + c)] - top);
        sum = fmaf(by, a->ml[2 * (at + c) + 1], sum);
        value = fmaf(by, a->o[(at + c) * D + threadIdx.x], value);
    }
    float by = exp_fixed(m - top);
    sum = fmaf(by, l, sum);
    value = fmaf(by, o, value);
    out[threadIdx.x] = float_to_bf16(value / sum);
}

/* Formula   the same over the keys at positions B .. k, joined with the chunks': o = sum_i exp(m_i - M) o_i / sum_i exp(m_i - M) l_i
 * Shapes    q, kv as above; out BF16 (rows, n_heads D)
 * Launch    (rows, kv heads) blocks of 128 threads; a thread a key, then a thread a value
 * Bytes     up to 127 keys and values a row and kv head, mostly from the second-level cache
 * Numerics  s: fmaf over d ascending; sum of exp: key B + i in thread i, butterfly, warps ascending; o: fmaf over positions
 *           ascending, in float; joined: chunks ascending, the tail last
 * Twin      attn_twin in tests/cuda/kernels.cu
 * Test      tests/cuda/kernels.cu: test_attn */
template <int D> __global__ void __launch_bounds__(THREADS) tail_kernel(struct attn a)
{
    SMEM(int32_t, cell, [CUDA_TAIL]);
    SMEM(float, q, [D]);
    SMEM(float, weight, [CUDA_TAIL]);
    SMEM(float, room, [2][WARPS]);
    const int r = a.row0 + blockIdx.x, group = a.n_heads / a.n_kv_heads, pos = a.row[r].pos,
              base = attn_base(pos);
    int keys = pos - base + 1;
#ifdef BREAK_CUDA_STALE_KEY
    keys += a.item[a.row[r].item].tree && keys < CUDA_TAIL;
#endif
    list_tail(&a, r, base, cell);
#ifdef BREAK_CUDA_STALE_KEY
    if (threadIdx.x == 0 && keys > pos - base + 1)
        cell[keys - 1] =
            a.pages[a.item[a.row[r].item].pages + pos / CUDA_KEYS] * CUDA_KEYS + (pos + 1) % CUDA_KEYS;
#endif
    __syncthreads();
    const bf16 *kv = a.kv + (int64_t) blockIdx.y * 2 * CUDA_KEYS * D;
    const int64_t page = (int64_t) a.n_kv_heads * 2 * CUDA_KEYS * D;
    for (int g = 0; g < group; g++) {
        int head = blockIdx.y * group + g, i = threadIdx.x;
        if (i < D)
            q[i] = bf16_to_float(a.q[((int64_t) r * a.n_heads + head) * D + i]);
        __syncthreads();
        float s = -INFINITY;
        if (i < keys)
            s = dot<D>(q, kv + cell[i] / CUDA_KEYS * page + cell[i] % CUDA_KEYS * D) * a.scale;
        float m = block_max<WARPS>(s, room[0]), e = i < keys ? exp_fixed(s - m) : 0;
        weight[i] = e;
        float l = block_sum<WARPS>(e, room[1]), o = 0;
        if (i < D) {
            for (int j = 0; j < keys; j++)
                o = fmaf(
                    weight[j],
                    bf16_to_float(kv[cell[j] / CUDA_KEYS * page + (CUDA_KEYS + cell[j] % CUDA_KEYS) * D + i]),
                    o);
            merge<D>(&a, ((int64_t) blockIdx.x * a.n_heads + head) * a.chunks_max,
                     (base + CUDA_CHUNK - 1) / CUDA_CHUNK, m, l, o, a.out + r * a.ldo + head * D);
        }
        __syncthreads();
    }
}

template <int D> static cudaError_t launch(const struct attn *a, cudaStream_t s)
{
    const size_t smem = (size_t) (CUDA_ROWS + 2 * CUDA_KEYS) * (D + 8) * sizeof(bf16);
    if (a->units && a->chunks) {
        cudaError_t st = launch_smem_max(settled_kernel<D>, smem);
        if (st == cudaSuccess)
            st = LAUNCH((settled_kernel<D>), dim3(a->chunks, a->n_kv_heads, a->units), THREADS, smem, s, *a);
        if (st != cudaSuccess)
            return st;
    }
    return LAUNCH((tail_kernel<D>), dim3(a->rows, a->n_kv_heads), THREADS, 0, s, *a);
}

cudaError_t attn_launch(const struct attn *a, int head_dim, cudaStream_t s)
{
    return head_dim == 128 ? launch<128>(a, s) : launch<64>(a, s);
}
