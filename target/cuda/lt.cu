/* lt.cu - the matrices of prompts by cuBLASLt: always CUDA_PROMPT rows a call, by an algorithm that a table names.
 *
 * The algorithm decides bits, so it comes from a table in this source, keyed by library version and card, never from a timing or the
 * library's own heuristic of the day.  A card or version that the table does not know reads prompts by the skinny GEMM; the fingerprint
 * says which (backend.c).  A row always lies at its position modulo CUDA_PROMPT, so that its bits do not depend on how the scheduler
 * cut the prompt.  Split K and stream K are not in the table: every row of a tile has the same order.
 *
 * The library takes plain BF16 matrices, so each is unpacked before its call into one room for the largest: read once and written once
 * more than would be needed.
 *
 * The library is looked for when it is needed and not linked: a machine without it can serve. */
#include "target/cuda/lt.cuh"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>
#ifndef HOSTSIM
#include <dlfcn.h>
#endif

extern "C" {
#include "target/cuda/inside.h"
}

enum { WARPS = 4, THREADS = WARPS * 32 };
static const size_t WORKSPACE = 32 << 20; /* what the library asks for on Hopper */

/* --- the table --- */

struct algorithm {
    size_t version;   /* cublasLtGetVersion; 1: the host lane's stand-in */
    const char *card; /* cudaDeviceProp.name and capability */
    int id, tile, stages, swizzle, custom, inner, cluster;
};

/* One line a card and library version, filled in by measurement on that card; see docs/NUMERICS.md. */
static const struct algorithm table[] = {
    {1, "host lane sm_90", 0, 0, 0, 0, 0, 0, 0},
};

static const struct algorithm *find(size_t version, const char *card)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].version == version && strcmp(card, table[i].card) == 0)
            return &table[i];
    return NULL;
}

/* --- the library --- */

#define LT_CALLS(X)                                                                                          \
    X(Create)                                                                                                \
    X(Destroy)                                                                                               \
    X(GetVersion)                                                                                            \
    X(MatrixLayoutCreate)                                                                                    \
    X(MatrixLayoutDestroy)                                                                                   \
    X(MatmulDescCreate)                                                                                      \
    X(MatmulDescDestroy) X(MatmulDescSetAttribute) X(MatmulAlgoInit) X(MatmulAlgoConfigSetAttribute) X(Matmul)

struct calls {
#define X(name) decltype(&cublasLt##name) name;
    LT_CALLS(X)
#undef X
};

struct cuda_lt {
    struct calls call;
    void *library; /* NULL: linked */
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t op;
    cublasLtMatmulAlgo_t algo;
    bf16 *room; /* device, as the next; the largest matrix, unpacked */
    void *workspace;
    size_t version;
};

#ifdef HOSTSIM
static int load(struct cuda_lt *lt)
{
#define X(name) lt->call.name = cublasLt##name;
    LT_CALLS(X)
#undef X
    return 1;
}

static void unload(struct cuda_lt *)
{
}
#else
#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)

/* 0: it is not there, or is not whole. */
static int load(struct cuda_lt *lt)
{
    int whole = 1;
    lt->library = dlopen("libcublasLt.so." TEXT(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    if (!lt->library)
        return 0;
#define X(name)                                                                                              \
    lt->call.name = (decltype(lt->call.name)) dlsym(lt->library, "cublasLt" #name);                          \
    whole &= lt->call.name != NULL;
    LT_CALLS(X)
#undef X
    return whole;
}

static void unload(struct cuda_lt *lt)
{
    if (lt->library)
        dlclose(lt->library);
}
#endif

static int set(struct cuda_lt *lt, cublasLtMatmulAlgoConfigAttributes_t what, int value)
{
    uint16_t half = (uint16_t) value; /* the last two are 16 bits wide */
    int narrow = what == CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID || what == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID;
    return lt->call.MatmulAlgoConfigSetAttribute(&lt->algo, what, narrow ? (void *) &half : &value,
                                                 narrow ? sizeof half : sizeof value);
}

static int choose(struct cuda_lt *lt, const struct algorithm *a)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    int bad = lt->call.Create(&lt->handle) ||
              lt->call.MatmulDescCreate(&lt->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
              lt->call.MatmulDescSetAttribute(lt->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed) ||
              lt->call.MatmulAlgoInit(lt->handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF,
                                      CUDA_R_32F, CUDA_R_32F, a->id, &lt->algo);
    return bad || set(lt, CUBLASLT_ALGO_CONFIG_TILE_ID, a->tile) ||
           set(lt, CUBLASLT_ALGO_CONFIG_STAGES_ID, a->stages) ||
           set(lt, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 1) ||
           set(lt, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, CUBLASLT_REDUCTION_SCHEME_NONE) ||
           set(lt, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, a->swizzle) ||
           set(lt, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, a->custom) ||
           set(lt, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, a->inner) ||
           set(lt, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, a->cluster);
}

extern "C" int cuda__lt_open(struct cuda_lt **out, const char *card, struct err *e)
{
    struct cuda_lt *lt = (struct cuda_lt *) calloc(1, sizeof *lt);
    *out = NULL;
    if (!lt)
        return err_set(e, ST_NOMEM, "out of memory opening cuBLASLt");
    const struct algorithm *a = load(lt) ? find(lt->call.GetVersion(), card) : NULL;
    if (!a) {
        unload(lt);
        free(lt);
        return 0;
    }
    lt->version = a->version;
    if (choose(lt, a)) {
        cuda__lt_close(lt);
        return err_set(e, ST_UNSUPPORTED,
                       "cuBLASLt %zu does not take the algorithm that this build's table has for %s",
                       a->version, card);
    }
    *out = lt;
    return 0;
}

extern "C" void cuda__lt_close(struct cuda_lt *lt)
{
    if (!lt)
        return;
    if (lt->op)
        lt->call.MatmulDescDestroy(lt->op);
    if (lt->handle)
        lt->call.Destroy(lt->handle);
    unload(lt);
    free(lt);
}

extern "C" size_t cuda__lt_version(const struct cuda_lt *lt)
{
    return lt->version;
}

extern "C" int64_t cuda__lt_bytes(int64_t largest)
{
    return largest * (int64_t) sizeof(bf16) + (int64_t) WORKSPACE;
}

extern "C" int cuda__lt_room(struct cuda_lt *lt, struct cuda_dev *dev, int64_t largest, struct err *e)
{
    lt->room = (bf16 *) cuda__alloc(dev, "an unpacked matrix", (size_t) largest * sizeof(bf16), e);
    lt->workspace = lt->room ? cuda__alloc(dev, "cuBLASLt's workspace", WORKSPACE, e) : NULL;
    return lt->workspace ? 0 : ST_NOMEM;
}

/* --- unpacking --- */

/* Formula   out[o][k] = w, for FP8 and Q8 times its scale, rounded to BF16
 * Shapes    w packed as cuda_matrix says; out BF16 (tiles 16, k_pad)
 * Launch    (chunks of 128 inputs, tiles) blocks of 4 warps, a warp a step of 16 or 32 inputs
 * Bytes     the matrix in, 2 a value out
 * Numerics  one multiplication, rounded to nearest even
 * Twin      cpu_tensor_row, rounded
 * Test      tests/cuda/kernels.cu: test_unpack */
template <int FORMAT>
__global__ void __launch_bounds__(THREADS) unpack_kernel(struct cuda_matrix m, bf16 *out)
{
    const int inputs = FORMAT == CUDA_BF16 ? 16 : 32, steps = CUDA_CHUNK_K / inputs,
              chunks = m.k_pad / CUDA_CHUNK_K;
    const int g = lane_id() / 4, t = lane_id() % 4;
    const int64_t tile = blockIdx.y;
    for (int s = warp_id(); s < steps; s += WARPS) {
        const char *from = m.w + ((tile * chunks + blockIdx.x) * steps + s) * 512 + lane_id() * 16;
        for (int i = 0; i < inputs / 2; i++) {
            int o = g + i % 4 / 2 * 8, k = i / 8 * 16 + i % 8 / 4 * 8 + 2 * t + i % 2;
            bf16 v;
            if (FORMAT == CUDA_BF16) {
                v = ((const bf16 *) from)[i];
            } else if (FORMAT == CUDA_FP8) {
                float by = ((const float *) m.scale)[(tile * 2 + o / 8) * chunks + blockIdx.x];
                v = float_to_bf16(e4m3_to_float(((const e4m3 *) from)[i]) * by);
            } else {
                uint16_t by =
                    ((const uint16_t *) m.scale)[((tile * chunks + blockIdx.x) * steps + s) * CUDA_TILE + o];
                v = float_to_bf16((float) ((const int8_t *) from)[i] * half_to_float(by));
            }
            out[(tile * CUDA_TILE + o) * m.k_pad + blockIdx.x * CUDA_CHUNK_K + s * inputs + k] = v;
        }
    }
}

cudaError_t lt_unpack(const struct cuda_matrix *m, bf16 *out, cudaStream_t s)
{
    dim3 grid(m->k_pad / CUDA_CHUNK_K, m->tiles);
    if (m->format == CUDA_BF16)
        return LAUNCH((unpack_kernel<CUDA_BF16>), grid, THREADS, 0, s, *m, out);
    if (m->format == CUDA_FP8)
        return LAUNCH((unpack_kernel<CUDA_FP8>), grid, THREADS, 0, s, *m, out);
    return LAUNCH((unpack_kernel<CUDA_Q8>), grid, THREADS, 0, s, *m, out);
}

/* Column-major, as the library sees it: out' (n, rows) = w' (k, n) transposed times x' (k, rows). */
static int multiply(struct cuda_lt *lt, const struct cuda_matrix *m, const bf16 *x, int64_t ldx, float *out,
                    cudaStream_t s)
{
    const float one = 1, zero = 0;
    uint64_t n = (uint64_t) m->tiles * CUDA_TILE, k = (uint64_t) m->k_pad;
    cublasLtMatrixLayout_t a = NULL, b = NULL, d = NULL;
    int bad = lt->call.MatrixLayoutCreate(&a, CUDA_R_16BF, k, n, (int64_t) k) ||
              lt->call.MatrixLayoutCreate(&b, CUDA_R_16BF, k, CUDA_PROMPT, ldx) ||
              lt->call.MatrixLayoutCreate(&d, CUDA_R_32F, n, CUDA_PROMPT, (int64_t) n) ||
              lt->call.Matmul(lt->handle, lt->op, &one, lt->room, a, x, b, &zero, out, d, out, d, &lt->algo,
                              lt->workspace, WORKSPACE, s);
    if (a)
        lt->call.MatrixLayoutDestroy(a);
    if (b)
        lt->call.MatrixLayoutDestroy(b);
    if (d)
        lt->call.MatrixLayoutDestroy(d);
    return bad;
}

cudaError_t lt_matrix(struct cuda_lt *lt, const struct cuda_matrix *m, const bf16 *x, int64_t ldx, float *out,
                      cudaStream_t s)
{
    cudaError_t st = lt_unpack(m, lt->room, s);
    return st == cudaSuccess && multiply(lt, m, x, ldx, out, s) ? cudaErrorUnknown : st;
}
