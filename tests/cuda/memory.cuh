/* memory.cuh - what tests of kernels share: values on both sides, and nearness. */
#ifndef TESTS_CUDA_MEMORY_CUH
#define TESTS_CUDA_MEMORY_CUH

#include "core/cuda/ptx.cuh"
#include "tests/hostsim/test/lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "tests/lib/small.h"
#include "tests/lib/synth.h"
}

static const double BF16_STEP = 0x1p-8;

/* --- memory on the device --- */

template <typename T> static T *device_new(const T *from, size_t n)
{
    T *p;
    must(cudaMalloc(&p, n * sizeof *p));
    if (from)
        must(cudaMemcpy(p, from, n * sizeof *p, cudaMemcpyHostToDevice));
    return p;
}

template <typename T> static void device_read(T *to, const T *from, size_t n)
{
    must(cudaMemcpy(to, from, n * sizeof *to, cudaMemcpyDeviceToHost));
}

template <typename T> static T *host_new(size_t n)
{
    T *p = (T *) calloc(n, sizeof *p);
    assert_non_null(p);
    return p;
}

static float *floats_new(size_t n, uint64_t *dice)
{
    float *p = host_new<float>(n);
    for (size_t i = 0; i < n; i++)
        p[i] = synth_uniform(dice);
    return p;
}

static bf16 *bf16s_new(size_t n, uint64_t *dice)
{
    bf16 *p = host_new<bf16>(n);
    for (size_t i = 0; i < n; i++)
        p[i] = float_to_bf16(synth_uniform(dice));
    return p;
}

static void near_to(double want, double got, double within, const char *what, int i)
{
    if (!(fabs(want - got) <= within))
        fail_msg("%s %d: %.9g, not %.9g (within %.3g)", what, i, got, want, within);
}

#endif
