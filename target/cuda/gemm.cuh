/* gemm.cuh - the host side of the skinny GEMM (gemm.cu). */
#ifndef TARGET_CUDA_GEMM_CUH
#define TARGET_CUDA_GEMM_CUH

#include "target/cuda/num.cuh"

extern "C" {
#include "target/cuda/inside.h"
}

/* out[split][row][output] of `rows` rows of x, one after the other; or, with work, of the places that it lists. */
struct gemm {
    const char *w, *scale;
    int64_t w_bytes, scale_bytes; /* of one expert */
    int32_t tiles, steps, splits; /* steps: chunks of CUDA_CHUNK_K inputs */
    const bf16 *x;
    int64_t ldx;
    float *out;
    int64_t ldo, split_stride;
    int32_t rows;
    const int32_t *work; /* NULL: a dense matrix; else cuda_desk.work */
    const int32_t *row;  /* row of x of each place; NULL: a place's own number */
};

cudaError_t gemm_launch(const struct gemm *g, int format, int rows_at_once, int tiles_of_rows,
                        cudaStream_t stream);

#endif
