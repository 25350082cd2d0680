/* rows.cuh - the host side of rows.cu: what happens to rows between two matrices. */
#ifndef TARGET_CUDA_ROWS_CUH
#define TARGET_CUDA_ROWS_CUH

#include "target/cuda/num.cuh"

extern "C" {
#include "target/cuda/inside.h"
}

/* Sums of a GEMM as they lie: split s of row r at part + s * stride + r * ld. */
struct parts {
    const float *part;
    int64_t stride, ld;
    int32_t splits; /* 0: none */
};

cudaError_t embed_launch(const struct cuda_row *row, int n, const bf16 *table, int hidden, float *x,
                         cudaStream_t s);

struct norm {
    float *x; /* (rows, hidden); gets the parts added first */
    struct parts add;
    const int32_t *from; /* row of x of each row of a; NULL: its own */
    const float *weight;
    bf16 *a;
    float *a_float; /* NULL: not wanted */
    int64_t lda;
    int32_t hidden;
    float eps;
};
cudaError_t norm_launch(const struct norm *n, int rows, cudaStream_t s);
/* x += parts, and no norm. */
cudaError_t residual_launch(float *x, int hidden, const struct parts *add, int rows, cudaStream_t s);

struct heads {
    struct parts qkv;
    const struct cuda_row *row;
    const float *q_norm, *k_norm, *cosines, *sines;
    bf16 *q, *kv; /* kv: of this layer */
    int32_t n_heads, n_kv_heads, head_dim;
    float eps;
};
cudaError_t heads_launch(const struct heads *h, int rows, cudaStream_t s);

/* a[r][i] = silu(gate) * up of parts interleaved by eights. */
cudaError_t silu_launch(const struct parts *gate_up, int ffn, bf16 *a, int64_t lda, int rows, cudaStream_t s);

#endif
