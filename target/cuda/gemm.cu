/* gemm.cu - the skinny GEMM: one kernel for every number of rows from 1 to 64, more rows as tiles of 64. */
#include "target/cuda/gemm.cuh"

enum {
    WARPS = 4,
    LDX = CUDA_CHUNK_K + 8, /* 16 bytes of padding: the eight rows of an ldmatrix lie in different banks */
};

/* What one block works on. */
struct slab {
    const char *w, *scale;
    int32_t first, n; /* rows, or places */
};

DEVICE int slab_find(const struct gemm *g, struct slab *p)
{
    int z = blockIdx.z;
    if (!g->work) {
        *p = {g->w, g->scale, z * CUDA_ROWS, min(CUDA_ROWS, g->rows - z * CUDA_ROWS)};
        return 1;
    }
    if (z >= g->work[0])
        return 0;
    const int32_t *at = g->work + 1 + 3 * z;
    *p = {g->w + at[0] * g->w_bytes, g->scale + at[0] * g->scale_bytes, at[1], at[2]};
    return 1;
}

/* Columns [128 chunk, + 128) of the block's rows into shared memory; rows that are not there repeat the last one, whose products
 * nobody reads. */
DEVICE void stage(const struct gemm *g, const struct slab *p, int rows, int chunk, bf16 *to)
{
    const int vectors = CUDA_CHUNK_K / 8;
    for (int i = threadIdx.x; i < rows * vectors; i += WARPS * 32) {
        int r = i / vectors, c = i % vectors * 8, place = p->first + min(r, p->n - 1);
        int row = g->row ? g->row[place] : place;
        cp_async16(to + r * LDX + c, g->x + row * g->ldx + chunk * CUDA_CHUNK_K + c);
    }
    cp_async_commit();
}

/* B of inputs [k, k + 32) and rows [8 j, 8 j + 8): registers 0, 1 of the first 16 inputs, 2, 3 of the others. */
DEVICE void load_rows(const bf16 *x, int j, int k, uint32_t b[4])
{
    int lane = lane_id();
    ldmatrix_x4(b, x + (j * 8 + lane % 8) * LDX + k + lane / 8 * 8);
}

template <int NT> DEVICE void add_bf16(const char *w, const bf16 *x, float acc[NT][4])
{
    for (int k = 0; k < CUDA_CHUNK_K; k += 32) {
        uint4 lo = ld16_nc_evict_first(w + k / 16 * 512), hi = ld16_nc_evict_first(w + (k / 16 + 1) * 512);
        const uint32_t first[4] = {lo.x, lo.y, lo.z, lo.w}, second[4] = {hi.x, hi.y, hi.z, hi.w};
#pragma unroll
        for (int j = 0; j < NT; j++) {
            uint32_t b[4];
            load_rows(x, j, k, b);
            mma_m16n8k16_bf16(acc[j], first, b);
            mma_m16n8k16_bf16(acc[j], second, b + 2);
        }
    }
}

/* The whole chunk has one scale a half tile: its sum is made first and scaled once. */
template <int NT>
DEVICE void add_fp8(const char *w, float scale_lo, float scale_hi, const bf16 *x, float acc[NT][4])
{
    float sum[NT][4] = {};
    for (int k = 0; k < CUDA_CHUNK_K; k += 32) {
        uint4 v = ld16_nc_evict_first(w + k / 32 * 512);
        uint32_t first[4], second[4];
        e4m3x4_to_bf16x4(v.x, first);
        e4m3x4_to_bf16x4(v.y, first + 2);
        e4m3x4_to_bf16x4(v.z, second);
        e4m3x4_to_bf16x4(v.w, second + 2);
#pragma unroll
        for (int j = 0; j < NT; j++) {
            uint32_t b[4];
            load_rows(x, j, k, b);
            mma_m16n8k16_bf16(sum[j], first, b);
            mma_m16n8k16_bf16(sum[j], second, b + 2);
        }
    }
#pragma unroll
    for (int j = 0; j < NT; j++)
        for (int i = 0; i < 4; i++)
            acc[j][i] = fmaf(i < 2 ? scale_lo : scale_hi, sum[j][i], acc[j][i]);
}

/* Two int8 of a word to two bf16, exactly. */
DEVICE uint32_t two_int8(uint32_t x, int at)
{
    return bf16x2_from_floats((float) (int8_t) (x >> at), (float) (int8_t) (x >> (at + 8)));
}

/* 32 inputs have one scale an output. */
template <int NT> DEVICE void add_q8(const char *w, const uint16_t *scale, const bf16 *x, float acc[NT][4])
{
    int g = lane_id() / 4;
    for (int k = 0; k < CUDA_CHUNK_K; k += 32) {
        uint4 v = ld16_nc_evict_first(w + k / 32 * 512);
        float lo = half_to_float(scale[k / 32 * CUDA_TILE + g]),
              hi = half_to_float(scale[k / 32 * CUDA_TILE + g + 8]);
        const uint32_t first[4] = {two_int8(v.x, 0), two_int8(v.x, 16), two_int8(v.y, 0), two_int8(v.y, 16)};
        const uint32_t second[4] = {two_int8(v.z, 0), two_int8(v.z, 16), two_int8(v.w, 0), two_int8(v.w, 16)};
#pragma unroll
        for (int j = 0; j < NT; j++) {
            uint32_t b[4];
            float sum[4] = {};
            load_rows(x, j, k, b);
            mma_m16n8k16_bf16(sum, first, b);
            mma_m16n8k16_bf16(sum, second, b + 2);
            for (int i = 0; i < 4; i++)
                acc[j][i] = fmaf(i < 2 ? lo : hi, sum[i], acc[j][i]);
        }
    }
}

template <int FORMAT, int NT>
DEVICE void add_chunk(const struct gemm *g, const struct slab *p, int tile, int chunk, const bf16 *x,
                      float acc[NT][4])
{
    const int64_t steps = (int64_t) g->steps * (CUDA_CHUNK_K / (FORMAT == CUDA_BF16 ? 16 : 32));
    const char *w = p->w + (tile * steps + chunk * (CUDA_CHUNK_K / (FORMAT == CUDA_BF16 ? 16 : 32))) * 512 +
                    lane_id() * 16;
    if (FORMAT == CUDA_BF16) {
        add_bf16<NT>(w, x, acc);
    } else if (FORMAT == CUDA_FP8) {
        const float *s = (const float *) p->scale + (int64_t) tile * 2 * g->steps + chunk;
        add_fp8<NT>(w, s[0], s[g->steps], x, acc);
    } else {
        const uint16_t *s = (const uint16_t *) p->scale +
                            ((int64_t) tile * g->steps + chunk) * (CUDA_CHUNK_K / 32) * CUDA_TILE;
        add_q8<NT>(w, s, x, acc);
    }
}

/* Formula   out[split][r][o] = sum over the split's inputs k of w[o][k] x[r][k]
 * Shapes    w packed as cuda_matrix says; x (rows, k_pad) BF16; 8 NT rows a block
 * Launch    (tiles / 4, splits, tiles of rows or works) blocks of 4 warps; a warp: 16 outputs; 2 stages of x in shared memory
 * Bytes     the matrix once; x from the second-level cache
 * Numerics  chunks of 128 inputs ascending, in them steps of 16 by mma into one float accumulator an output; FP8: a chunk's sum
 *           apart, then fmaf by its scale; Q8: likewise 32 inputs.  A column of an mma knows nothing of its neighbours, so a
 *           row's bits do not depend on how many there are, nor on NT
 * Twin      gemm_twin in tests/cuda/kernels.cu
 * Test      tests/cuda/kernels.cu: test_gemm */
template <int FORMAT, int NT> __global__ void __launch_bounds__(WARPS * 32) gemm_kernel(struct gemm g)
{
    DYN_SMEM(bf16, x);
    struct slab p;
    if (!slab_find(&g, &p))
        return;
    const int size = NT * 8 * LDX, tile = blockIdx.x * WARPS + warp_id();
    const int per = (g.steps + g.splits - 1) / g.splits, c0 = blockIdx.y * per, c1 = min(c0 + per, g.steps);
    float acc[NT][4] = {};
    if (c0 < c1)
        stage(&g, &p, NT * 8, c0, x);
    for (int c = c0; c < c1; c++) {
        if (c + 1 < c1)
            stage(&g, &p, NT * 8, c + 1, x + (c + 1 - c0) % 2 * size);
        else
            cp_async_commit();
#ifndef BREAK_CUDA_WAIT_GROUP
        cp_async_wait<1>();
#endif
        __syncthreads();
        if (tile < g.tiles)
            add_chunk<FORMAT, NT>(&g, &p, tile, c, x + (c - c0) % 2 * size, acc);
#ifndef BREAK_CUDA_SYNCTHREADS
        __syncthreads();
#endif
    }
    if (tile >= g.tiles)
        return;
    int o = tile * CUDA_TILE + lane_id() / 4, r0 = lane_id() % 4 * 2;
    float *out = g.out + blockIdx.y * g.split_stride;
#ifdef BREAK_CUDA_ROW_UNWRITTEN
    p.n -= p.n > 1;
#endif
#pragma unroll
    for (int j = 0; j < NT; j++)
        for (int i = 0; i < 4; i++) {
            int r = j * 8 + r0 + i % 2;
            if (r < p.n)
                out[(p.first + r) * g.ldo + o + i / 2 * 8] = acc[j][i];
        }
}

template <int FORMAT, int NT> static cudaError_t launch(const struct gemm *g, int z, cudaStream_t stream)
{
    dim3 grid((g->tiles + WARPS - 1) / WARPS, g->splits, z);
    return LAUNCH((gemm_kernel<FORMAT, NT>), grid, WARPS * 32, 2 * NT * 8 * LDX * sizeof(bf16), stream, *g);
}

template <int FORMAT>
static cudaError_t launch_rows(const struct gemm *g, int rows, int z, cudaStream_t stream)
{
    if (rows <= 8)
        return launch<FORMAT, 1>(g, z, stream);
    if (rows <= 16)
        return launch<FORMAT, 2>(g, z, stream);
    if (rows <= 32)
        return launch<FORMAT, 4>(g, z, stream);
    return launch<FORMAT, 8>(g, z, stream);
}

/* rows_at_once: the most rows of a tile; z: tiles of rows, or works. */
cudaError_t gemm_launch(const struct gemm *g, int format, int rows_at_once, int z, cudaStream_t stream)
{
    if (format == CUDA_BF16)
        return launch_rows<CUDA_BF16>(g, rows_at_once, z, stream);
    if (format == CUDA_FP8)
        return launch_rows<CUDA_FP8>(g, rows_at_once, z, stream);
    return launch_rows<CUDA_Q8>(g, rows_at_once, z, stream);
}
