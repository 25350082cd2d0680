/* kv.cu - keys and values move: accepted rows from their slots into pages, and copies of pages. */
#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"

extern "C" {
#include "target/cuda/inside.h"
}

enum { THREADS = 256 };

/* One position of one layer, all heads, keys and values: 16 bytes a step. */
DEVICE void copy_cell(const struct cuda_shape *s, bf16 *layer, int64_t to, int64_t from)
{
    const int vectors = s->head_dim / 8, n = 2 * s->n_kv_heads * vectors;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        int64_t tile = i / vectors, page = 2 * s->n_kv_heads; /* K or V of a head; tiles of a page */
        int64_t a = ((to / CUDA_KEYS * page + tile) * CUDA_KEYS + to % CUDA_KEYS) * vectors + i % vectors;
        int64_t b = ((from / CUDA_KEYS * page + tile) * CUDA_KEYS + from % CUDA_KEYS) * vectors + i % vectors;
        st16(layer + a * 8, ld16(layer + b * 8));
    }
}

DEVICE bf16 *layer_of(const struct cuda_shape *s, bf16 *kv, int layer)
{
    return kv + (int64_t) layer * s->pages * s->n_kv_heads * 2 * CUDA_KEYS * s->head_dim;
}

/* Formula   position len + i of the sequence gets the key and value of the i-th row of its path: root, then the accepted nodes
 * Shapes    kv BF16 [layer][page][kv head][K|V][64][D]
 * Launch    (layers, items) blocks
 * Bytes     accepted rows, read and written once
 * Numerics  copies; slots and pages never overlap
 * Twin      cpu_kv_commit
 * Test      tests/cuda/kernels.cu: test_settle */
__global__ void __launch_bounds__(THREADS) settle_kernel(struct cuda_shape s, bf16 *kv, struct cuda_blob b,
                                                         const struct path *device, const struct path *host)
{
    const struct cuda_item it = b.item[blockIdx.y];
    const struct path *p =
        host && host[blockIdx.y].status != PATH_PENDING ? host + blockIdx.y : device + blockIdx.y;
    if (!it.tree)
        return;
    int n = p->n;
#ifdef BREAK_CUDA_COMPACT_BEYOND
    n++;
#endif
    for (int i = -1; i < n; i++) {
        int pos = it.len + i + 1, row = it.first + (i < 0 ? 0 : p->node[i]);
        int64_t to = (int64_t) b.page[it.pages + pos / CUDA_KEYS] * CUDA_KEYS + pos % CUDA_KEYS;
        copy_cell(&s, layer_of(&s, kv, blockIdx.x), to, b.row[row].cell);
    }
}

extern "C" void cuda__settle(const struct cuda_pass *p, const struct path *host)
{
    cuda__note(p->dev,
               LAUNCH(settle_kernel, dim3(p->shape->n_layers, p->items), THREADS, 0,
                      (cudaStream_t) cuda__dev_stream(p->dev), *p->shape, (bf16 *) p->desk->kv, p->blob,
                      p->desk->path, host),
               "settling");
}

/* Formula   positions [0, n) of page `to` = those of page `from`
 * Shapes    as settle_kernel
 * Launch    (layers, n) blocks
 * Bytes     n positions, read and written once
 * Numerics  copies
 * Twin      cpu_kv_copy
 * Test      tests/cuda/kernels.cu: test_settle */
__global__ void __launch_bounds__(THREADS)
    page_copy_kernel(struct cuda_shape s, bf16 *kv, int64_t to, int64_t from)
{
    copy_cell(&s, layer_of(&s, kv, blockIdx.x), to * CUDA_KEYS + blockIdx.y, from * CUDA_KEYS + blockIdx.y);
}

extern "C" void cuda__page_copy(struct cuda_dev *dev, const struct cuda_shape *s, char *kv, int32_t to,
                                int32_t from, int32_t n)
{
    cuda__note(dev,
               LAUNCH(page_copy_kernel, dim3(s->n_layers, n), THREADS, 0,
                      (cudaStream_t) cuda__dev_stream(dev), *s, (bf16 *) kv, (int64_t) to, (int64_t) from),
               "copying a page");
}
