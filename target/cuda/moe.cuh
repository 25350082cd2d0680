/* moe.cuh - the host side of moe.cu: who goes to which expert, and the sum of what they say. */
#ifndef TARGET_CUDA_MOE_CUH
#define TARGET_CUDA_MOE_CUH

#include "target/cuda/rows.cuh"

/* Picks of `rows` rows: router logits, experts and weights, places grouped by expert, work for the grouped GEMM. */
struct route {
    const float *x, *w; /* (rows, hidden) normed, not rounded; (n_experts, hidden) */
    float *logit;       /* (rows, n_experts) */
    int32_t *pick;      /* (rows, n_used), and so on: cuda_desk */
    float *pick_w;
    int32_t *place, *place_row, *work;
    int32_t hidden, n_experts, n_used, norm_topk;
};
cudaError_t route_launch(const struct route *r, int rows, cudaStream_t s);

/* x += the picks' outputs, in the row's own order. */
cudaError_t combine_launch(float *x, int hidden, const struct parts *y, const int32_t *place,
                           const float *pick_w, int n_used, int rows, cudaStream_t s);

#endif
