/* lt.cuh - prompts by cuBLASLt, where the table knows the card and the library (lt.cu). */
#ifndef TARGET_CUDA_LT_CUH
#define TARGET_CUDA_LT_CUH

#include "target/cuda/rows.cuh"

/* CUDA_PROMPT rows of x times m, all of them, into out (CUDA_PROMPT, outputs). */
cudaError_t lt_matrix(struct cuda_lt *lt, const struct cuda_matrix *m, const bf16 *x, int64_t ldx, float *out,
                      cudaStream_t s);
/* The matrix row by row, BF16 (outputs, k_pad). */
cudaError_t lt_unpack(const struct cuda_matrix *m, bf16 *out, cudaStream_t s);

#endif
