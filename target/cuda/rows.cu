/* rows.cu - embedding, residual and RMSNorm, heads (norm, rotation, KV), SiLU: a block or a warp a row. */
#include "target/cuda/rows.cuh"

enum { WARPS = 8, THREADS = WARPS * 32 };

/* Formula   x[r] = table[tok[r]]
 * Shapes    table BF16 (vocab, hidden); x float (rows, hidden)
 * Launch    a block a row
 * Bytes     6 a value
 * Numerics  widened, no arithmetic
 * Twin      cpu_tensor_row
 * Test      tests/cuda/kernels.cu: test_rows */
__global__ void __launch_bounds__(THREADS)
    embed_kernel(const struct cuda_row *row, const bf16 *table, int hidden, float *x)
{
    int64_t r = blockIdx.x, tok = row[r].tok;
    for (int i = threadIdx.x; i < hidden; i += THREADS)
        x[r * hidden + i] = bf16_to_float(table[tok * hidden + i]);
}

cudaError_t embed_launch(const struct cuda_row *row, int n, const bf16 *table, int hidden, float *x,
                         cudaStream_t s)
{
    return LAUNCH(embed_kernel, n, THREADS, 0, s, row, table, hidden, x);
}

/* Formula   x += sum of the splits; a = x / sqrt(mean x^2 + eps) * weight
 * Shapes    x float (rows, hidden), a BF16 (rows, lda)
 * Launch    a block a row of a
 * Bytes     the row once or twice, its parts once
 * Numerics  splits ascending, then one add to x; squares: value i in thread i mod 256, fmaf ascending, warps by butterfly, then
 *           ascending; 1 / sqrtf by IEEE operations; (x * scale) * weight; rounded to BF16 at the end
 * Twin      norm_twin in tests/cuda/kernels.cu
 * Test      tests/cuda/kernels.cu: test_rows */
__global__ void __launch_bounds__(THREADS) norm_kernel(struct norm n)
{
    SMEM(float, room, [WARPS]);
    int64_t to = blockIdx.x, r = n.from ? n.from[to] : to;
    float *x = n.x + r * n.hidden, squares = 0;
    for (int i = threadIdx.x; i < n.hidden; i += THREADS) {
        if (n.add.splits)
            x[i] += parts_sum(n.add.part, n.add.splits, n.add.stride, r * n.add.ld + i);
        squares = fmaf(x[i], x[i], squares);
    }
    float mean = block_sum<WARPS>(squares, room) / (float) n.hidden, scale = 1 / sqrtf(mean + n.eps);
    for (int i = threadIdx.x; i < n.hidden; i += THREADS) {
        float y = x[i] * scale * n.weight[i];
        n.a[to * n.lda + i] = float_to_bf16(y);
        if (n.a_float)
            n.a_float[to * n.hidden + i] = y;
    }
}

cudaError_t norm_launch(const struct norm *n, int rows, cudaStream_t s)
{
    return LAUNCH(norm_kernel, rows, THREADS, 0, s, *n);
}

/* Formula   x += sum of the splits
 * Shapes    as norm_kernel
 * Launch    a block a row
 * Bytes     8 a value, 4 a split
 * Numerics  as norm_kernel
 * Twin      norm_twin
 * Test      tests/cuda/kernels.cu: test_rows */
__global__ void __launch_bounds__(THREADS) residual_kernel(float *x, int hidden, struct parts add)
{
    int64_t r = blockIdx.x;
    for (int i = threadIdx.x; i < hidden; i += THREADS)
        x[r * hidden + i] += parts_sum(add.part, add.splits, add.stride, r * add.ld + i);
}

cudaError_t residual_launch(float *x, int hidden, const struct parts *add, int rows, cudaStream_t s)
{
    return LAUNCH(residual_kernel, rows, THREADS, 0, s, x, hidden, *add);
}

/* One head of a row in a warp: value 32 j + lane in register j. */
template <int D> struct head {
    float v[D / 32];
};

template <int D> DEVICE head<D> head_load(const struct parts *p, int64_t at)
{
    head<D> h;
    for (int j = 0; j < D / 32; j++)
        h.v[j] = parts_sum(p->part, p->splits, p->stride, at + j * 32 + lane_id());
    return h;
}

template <int D> DEVICE void head_norm(head<D> *h, const float *weight, float eps)
{
    float squares = 0;
    for (int j = 0; j < D / 32; j++)
        squares = fmaf(h->v[j], h->v[j], squares);
    float scale = 1 / sqrtf(warp_sum(squares) / (float) D + eps);
    for (int j = 0; j < D / 32; j++)
        h->v[j] = h->v[j] * scale * weight[j * 32 + lane_id()];
}

/* Halves (i, i + D / 2) lie in one lane. */
template <int D> DEVICE void head_rotate(head<D> *h, const float *cosines, const float *sines)
{
    for (int j = 0; j < D / 64; j++) {
        float a = h->v[j], b = h->v[j + D / 64], c = cosines[j * 32 + lane_id()],
              s = sines[j * 32 + lane_id()];
        h->v[j] = fmaf(-b, s, a * c);
        h->v[j + D / 64] = fmaf(b, c, a * s);
    }
}

template <int D> DEVICE void head_store(const head<D> *h, bf16 *to)
{
    for (int j = 0; j < D / 32; j++)
        to[j * 32 + lane_id()] = float_to_bf16(h->v[j]);
}

/* Formula   q, k: RMSNorm a head, rotation by the position; v as it is; all rounded to BF16; k and v to the row's cell
 * Shapes    parts (splits, rows, (n_heads + 2 n_kv_heads) D); q (rows, n_heads D); kv [page][kv head][K|V][64][D]
 * Launch    a warp a head of a row, WARPS of them a block
 * Bytes     what comes in, and half of it out
 * Numerics  splits ascending; squares: fmaf over value 32 j + lane, j ascending, then the butterfly; rotation as NUMERICS.md's RoPE
 * Twin      heads_twin in tests/cuda/kernels.cu
 * Test      tests/cuda/kernels.cu: test_heads */
template <int D> __global__ void __launch_bounds__(THREADS) heads_kernel(struct heads p, int rows)
{
    const int per_row = p.n_heads + 2 * p.n_kv_heads;
    int64_t i = (int64_t) blockIdx.x * WARPS + warp_id(), r = i / per_row;
    int at = (int) (i % per_row), kind = at < p.n_heads ? 0 : at < p.n_heads + p.n_kv_heads ? 1 : 2;
    if (r >= rows)
        return;
    const struct cuda_row row = p.row[r];
    head<D> h = head_load<D>(&p.qkv, r * p.qkv.ld + at * D);
    if (kind < 2) {
        head_norm<D>(&h, kind ? p.k_norm : p.q_norm, p.eps);
        head_rotate<D>(&h, p.cosines + (int64_t) row.pos * (D / 2), p.sines + (int64_t) row.pos * (D / 2));
    }
    if (kind == 0) {
        head_store<D>(&h, p.q + (r * p.n_heads + at) * D);
        return;
    }
    int64_t page = row.cell / CUDA_KEYS, kv_head = at - p.n_heads - (kind == 2 ? p.n_kv_heads : 0);
    head_store<D>(
        &h,
        p.kv + (((page * p.n_kv_heads + kv_head) * 2 + (kind == 2)) * CUDA_KEYS + row.cell % CUDA_KEYS) * D);
}

cudaError_t heads_launch(const struct heads *h, int rows, cudaStream_t s)
{
    int blocks = (rows * (h->n_heads + 2 * h->n_kv_heads) + WARPS - 1) / WARPS;
    return h->head_dim == 128 ? LAUNCH(heads_kernel<128>, blocks, THREADS, 0, s, *h, rows)
                              : LAUNCH(heads_kernel<64>, blocks, THREADS, 0, s, *h, rows);
}

/* Formula   a = silu(gate) * up, silu(x) = x / (1 + exp(-x))
 * Shapes    parts (splits, rows, 2 ffn) interleaved by eights; a BF16 (rows, lda)
 * Launch    (blocks of 256 outputs, rows)
 * Bytes     8 a split in, 2 out
 * Numerics  splits ascending; exp_fixed; IEEE division; rounded to BF16 at the end
 * Twin      silu_twin in tests/cuda/kernels.cu
 * Test      tests/cuda/kernels.cu: test_rows */
__global__ void __launch_bounds__(THREADS) silu_kernel(struct parts p, int ffn, bf16 *a, int64_t lda)
{
    int64_t r = blockIdx.y;
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= ffn)
        return;
    int64_t at = r * p.ld + i / 8 * 16 + i % 8;
    float gate = parts_sum(p.part, p.splits, p.stride, at),
          up = parts_sum(p.part, p.splits, p.stride, at + 8);
    a[r * lda + i] = float_to_bf16(gate / (1 + exp_fixed(-gate)) * up);
}

cudaError_t silu_launch(const struct parts *gate_up, int ffn, bf16 *a, int64_t lda, int rows, cudaStream_t s)
{
    return LAUNCH(silu_kernel, dim3((ffn + THREADS - 1) / THREADS, rows), THREADS, 0, s, *gate_up, ffn, a,
                  lda);
}
