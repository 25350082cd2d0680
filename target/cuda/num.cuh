/* num.cuh - the arithmetic kernels share: exp of one fixed order, FP16, sums over a block in one fixed order. */
#ifndef TARGET_CUDA_NUM_CUH
#define TARGET_CUDA_NUM_CUH

#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"

/* exp to the bit of the CPU's (cpu/kern.h states order and error): library code changes between toolkits, this does not.
 * NaN stays NaN; below -87 exactly +0; above 88 as 88. */
DEVICE float exp_fixed(float x)
{
    if (x != x)
        return x;
    if (x < -87.0f)
        return 0;
    float t = x > 88.0f ? 88.0f : x;
    float n = rintf(t * bits_float(0x3fb8aa3bu));
    float r = fmaf(n, -bits_float(0x3f317200u), t);
    r = fmaf(n, -bits_float(0x35bfbe8eu), r);
    float p = bits_float(0x39509279u);
    p = fmaf(p, r, bits_float(0x3ab6a192u));
    p = fmaf(p, r, bits_float(0x3c088870u));
    p = fmaf(p, r, bits_float(0x3d2aaa75u));
    p = fmaf(p, r, bits_float(0x3e2aaaabu));
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * bits_float((uint32_t) ((int32_t) n + 127) << 23);
}

/* FP16 bits to float, exact for every finite value, subnormals too. */
DEVICE float half_to_float(uint16_t h)
{
    float x = bits_float((uint32_t) (h & 0x7fffu) << 13) * bits_float(0x77800000u); /* 2^112 */
    return bits_float(float_bits(x) | (uint32_t) (h & 0x8000u) << 16);
}

/* Sum over a block of WARPS warps: in each warp the butterfly, then the warps' sums ascending.  The same bits in every thread.
 * `room`: WARPS floats of shared memory; may be used again after the next barrier. */
template <int WARPS> DEVICE float block_sum(float x, float *room)
{
    float s = warp_sum(x);
    if (lane_id() == 0)
        room[warp_id()] = s;
    __syncthreads();
    float all = room[0];
    for (int i = 1; i < WARPS; i++)
        all += room[i];
    return all;
}

template <int WARPS> DEVICE float block_max(float x, float *room)
{
    float m = warp_max(x);
    if (lane_id() == 0)
        room[warp_id()] = m;
    __syncthreads();
    float all = room[0];
    for (int i = 1; i < WARPS; i++)
        all = fmaxf(all, room[i]);
    return all;
}

/* One output of a GEMM: its splits added ascending. */
DEVICE float parts_sum(const float *part, int splits, int64_t split_stride, int64_t at)
{
    float s = part[at];
#ifdef BREAK_CUDA_SPLIT_ORDER
    for (int i = splits - 1; i > 0; i--)
#else
    for (int i = 1; i < splits; i++)
#endif
        s += part[(int64_t) i * split_stride + at];
    return s;
}

#endif
