/* make.cu - values made up on the device, for a model that is a shape alone (its tensors have no data): timing at any size without a
 * file, and without minutes of packing.  Files never have such tensors. */
#include "core/cuda/launch.h"
#include "target/cuda/num.cuh"

extern "C" {
#include "target/cuda/inside.h"
}

enum { THREADS = 256, BLOCKS = 2048 };

DEVICE uint32_t mixed(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    return (uint32_t) (z ^ z >> 31);
}

/* Magnitudes of a trained model's weights, about 0.02, so that logits stay finite. */
DEVICE uint32_t word_of(uint32_t h, int kind)
{
    switch (kind) {
    case CUDA_MADE_BF16: /* 2^-8 .. 2^-4 */
        return (h & 0x81ff81ffu) + 0x3b803b80u;
    case CUDA_MADE_FP8: /* 0.25 .. 0.94 */
        return (h & 0x8f8f8f8fu) + 0x28282828u;
    case CUDA_MADE_FP8_SCALE:
        return float_bits(0.04f);
    case CUDA_MADE_Q8:
        return h & 0xbfbfbfbfu; /* not -128 */
    case CUDA_MADE_Q8_SCALE:    /* FP16's 0.0003 */
        return 0x0d000d00u;
    case CUDA_MADE_FLOATS:
        return (h & 0x80ffffffu) | 0x3c000000u;
    default:
        return float_bits(1);
    }
}

/* Formula   word i = mixed(i) cut to what `kind` holds
 * Shapes    (words)
 * Launch    BLOCKS, each every BLOCKS-th
 * Bytes     4 a word
 * Numerics  none: values without a meaning
 * Twin      none
 * Test      tests/bench/gpu.py --lane */
__global__ void __launch_bounds__(THREADS) make_kernel(uint32_t *to, int64_t words, int kind)
{
    for (int64_t i = (int64_t) blockIdx.x * THREADS + threadIdx.x; i < words;
         i += (int64_t) gridDim.x * THREADS)
        to[i] = word_of(mixed((uint64_t) i), kind);
}

extern "C" void cuda__make(struct cuda_dev *d, int32_t kind, void *to, int64_t bytes)
{
    const int64_t most = BLOCKS, words = bytes / 4, blocks = (words + THREADS - 1) / THREADS;
    if (words)
        cuda__note(d,
                   LAUNCH(make_kernel, (unsigned) (blocks < most ? blocks : most), THREADS, 0,
                          (cudaStream_t) cuda__dev_stream(d), (uint32_t *) to, words, (int) kind),
                   "making weights up");
}
