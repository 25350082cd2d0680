/* attn.cuh - the host side of attention (attn.cu). */
#ifndef TARGET_CUDA_ATTN_CUH
#define TARGET_CUDA_ATTN_CUH

#include "target/cuda/num.cuh"

extern "C" {
#include "target/cuda/inside.h"
}

/* One batch of at most CUDA_ROWS rows of one layer. */
struct attn {
    const struct cuda_row *row;
    const struct cuda_item *item;
    const struct cuda_unit *unit; /* of the batch */
    const int32_t *pages;
    const bf16 *q, *kv; /* kv: of the layer */
    float *ml, *o;      /* partial results of the settled chunks, cuda_desk's attn_ml and attn_o */
    bf16 *out;          /* (rows, ldo) */
    int64_t ldo;
    int32_t row0, rows, units; /* of the batch */
    int32_t n_heads, n_kv_heads, chunks_max;
    int32_t chunks; /* most that a row of the batch has */
    float scale;    /* 1 / sqrt(head_dim) */
};

cudaError_t attn_launch(const struct attn *a, int head_dim, cudaStream_t s);

/* Keys below this are settled in every possible tree of a row at position pos (NUMERICS.md). */
HOST_DEVICE int attn_base(int pos)
{
    return pos < CUDA_KEYS - 1 ? 0 : (pos - (CUDA_KEYS - 1)) / CUDA_KEYS * CUDA_KEYS;
}

#endif
