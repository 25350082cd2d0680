/* cublaslt.cpp - cuBLASLt's matmul as one plain GEMM, run in stream order.
 *
 * Every output is one float sum over k ascending, a multiplication and an addition at a time, whatever the shape: rows do not depend on
 * their neighbours, as of a library algorithm that is held fixed. */
#include "cublasLt.h"
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

struct hostsim_layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t order;
};

struct hostsim_matmul {
    int32_t transposed[2]; /* A, B */
};

struct hostsim_preference {
    uint64_t workspace;
};

namespace sim
{

enum { ALGORITHMS = 4, CONFIGS = 9, M_STEP = 16, N_STEP = 4 };

struct matrix {
    const char *data;
    struct hostsim_layout layout;
    bool transposed;
};

static uint64_t op_rows(const struct matrix *x)
{
    return x->transposed ? x->layout.cols : x->layout.rows;
}

static uint64_t op_cols(const struct matrix *x)
{
    return x->transposed ? x->layout.rows : x->layout.cols;
}

static size_t element_bytes(cudaDataType t)
{
    return t == CUDA_R_32F ? 4 : t == CUDA_R_16BF ? 2 : 0;
}

static size_t matrix_bytes(const struct hostsim_layout *l)
{
    uint64_t lines = l->order == CUBLASLT_ORDER_COL ? l->cols : l->rows,
             length = l->order == CUBLASLT_ORDER_COL ? l->rows : l->cols;
    return lines ? ((lines - 1) * (uint64_t) l->ld + length) * element_bytes(l->type) : 0;
}

static size_t element_at(const struct hostsim_layout *l, uint64_t row, uint64_t col)
{
    uint64_t i = l->order == CUBLASLT_ORDER_COL ? col * (uint64_t) l->ld + row : row * (uint64_t) l->ld + col;
    return (size_t) i * element_bytes(l->type);
}

static float element_get(const struct matrix *x, uint64_t row, uint64_t col)
{
    const char *p =
        x->data + (x->transposed ? element_at(&x->layout, col, row) : element_at(&x->layout, row, col));
    if (x->layout.type == CUDA_R_32F)
        return *(const float *) p;
    return __uint_as_float((uint32_t) * (const uint16_t *) p << 16);
}

static void element_set(char *p, cudaDataType type, float v)
{
    uint32_t u = __float_as_uint(v);
    if (type == CUDA_R_32F)
        *(float *) p = v;
    else if ((u & 0x7fffffffu) > 0x7f800000u)
        *(uint16_t *) p = (uint16_t) (u >> 16 | 0x40);
    else
        *(uint16_t *) p = (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

typedef float row8 __attribute__((vector_size(32)));

/* a: (k, M_STEP), b: (k, N_STEP), sums: (N_STEP, M_STEP) */
#if defined(__x86_64__)
__attribute__((target_clones("default", "avx2")))
#endif
static void
tile(float *sums, const float *a, const float *b, uint64_t k)
{
    row8 s[N_STEP][2] = {};
    for (uint64_t i = 0; i < k; i++) {
        row8 a0, a1;
        memcpy(&a0, a + M_STEP * i, sizeof a0);
        memcpy(&a1, a + M_STEP * i + 8, sizeof a1);
        for (int j = 0; j < N_STEP; j++) {
            s[j][0] += a0 * b[N_STEP * i + (uint64_t) j];
            s[j][1] += a1 * b[N_STEP * i + (uint64_t) j];
        }
    }
    memcpy(sums, s, sizeof s);
}

/* Lines of `step` elements for every k; zeros outside. */
static std::vector<float> pack(const struct matrix *x, bool by_rows, uint64_t first, uint64_t step,
                               uint64_t k)
{
    std::vector<float> p(step * k);
    uint64_t n = by_rows ? op_rows(x) : op_cols(x);
    for (uint64_t j = 0; j < step && first + j < n; j++)
        for (uint64_t i = 0; i < k; i++)
            p[i * step + j] = by_rows ? element_get(x, first + j, i) : element_get(x, i, first + j);
    return p;
}

struct gemm {
    struct matrix a, b, c;
    char *d;
    struct hostsim_layout dl;
    float alpha, beta;
};

static void store(const struct gemm *g, const float *sums, uint64_t m0, uint64_t n0)
{
    for (uint64_t j = 0; j < N_STEP && n0 + j < g->dl.cols; j++)
        for (uint64_t i = 0; i < M_STEP && m0 + i < g->dl.rows; i++) {
            float v = g->alpha * sums[j * M_STEP + i];
            if (g->beta != 0)
                v += g->beta * element_get(&g->c, m0 + i, n0 + j);
            element_set(g->d + element_at(&g->dl, m0 + i, n0 + j), g->dl.type, v);
        }
}

static void gemm_run(const struct gemm *g)
{
    const uint64_t k = op_cols(&g->a);
    std::vector<std::vector<float>> b;
    float sums[N_STEP * M_STEP];
    for (uint64_t n = 0; n < g->dl.cols; n += N_STEP)
        b.push_back(pack(&g->b, false, n, N_STEP, k));
    for (uint64_t m = 0; m < g->dl.rows; m += M_STEP) {
        std::vector<float> a = pack(&g->a, true, m, M_STEP, k);
        for (uint64_t n = 0; n < g->dl.cols; n += N_STEP) {
            tile(sums, a.data(), b[n / N_STEP].data(), k);
            store(g, sums, m, n);
        }
    }
}

static bool inside(const void *p, const struct hostsim_layout *l, const char *which)
{
    if (heap_contains(p, matrix_bytes(l)))
        return true;
    fault_set(std::string("cublasLtMatmul: ") + which + " of " + std::to_string(l->rows) + " x " +
              std::to_string(l->cols) + " starts at " + describe(p));
    return false;
}

static cudaError_t gemm_start(const struct gemm *g)
{
    if (!inside(g->a.data, &g->a.layout, "A") || !inside(g->b.data, &g->b.layout, "B") ||
        !inside(g->d, &g->dl, "D") || (g->beta != 0 && !inside(g->c.data, &g->c.layout, "C")))
        return cudaErrorIllegalAddress;
    check_read(g->a.data, matrix_bytes(&g->a.layout));
    check_read(g->b.data, matrix_bytes(&g->b.layout));
    gemm_run(g);
    check_host_wrote(g->d, matrix_bytes(&g->dl));
    return cudaSuccess;
}

static bool layout_valid(const struct hostsim_layout *l)
{
    return element_bytes(l->type) && l->rows && l->cols &&
           l->ld >= (int64_t) (l->order == CUBLASLT_ORDER_COL ? l->rows : l->cols);
}

static bool shapes_fit(const struct hostsim_matmul *op, const struct hostsim_layout *al,
                       const struct hostsim_layout *bl, const struct hostsim_layout *cl,
                       const struct hostsim_layout *dl)
{
    struct matrix a = {NULL, *al, op->transposed[0] != 0}, b = {NULL, *bl, op->transposed[1] != 0};
    return layout_valid(al) && layout_valid(bl) && layout_valid(cl) && layout_valid(dl) &&
           op_cols(&a) == op_rows(&b) && op_rows(&a) == dl->rows && op_cols(&b) == dl->cols &&
           cl->rows == dl->rows && cl->cols == dl->cols && al->type == bl->type;
}

static cublasLtMatmulAlgo_t algorithm(int id)
{
    cublasLtMatmulAlgo_t a = {};
    uint32_t first = (uint32_t) id;
    memcpy(a.data, &first, sizeof first);
    return a;
}

} // namespace sim

using namespace sim;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    int n;
    if (cudaGetDeviceCount(&n) != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *h = (cublasLtHandle_t) malloc(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    free(h);
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
    return CUBLAS_VERSION;
}

size_t cublasLtGetCudartVersion(void)
{
    return CUDART_VERSION;
}

const char *cublasLtGetStatusName(cublasStatus_t s)
{
    switch (s) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    }
}

const char *cublasLtGetStatusString(cublasStatus_t s)
{
    return cublasLtGetStatusName(s);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld)
{
    *l = new hostsim_layout{type, rows, cols, ld, CUBLASLT_ORDER_COL};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    delete l;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t what, const void *buf,
                                                size_t n)
{
    const struct {
        void *at;
        size_t bytes;
    } fields[] = {{&l->type, 4}, {&l->order, 4}, {&l->rows, 8}, {&l->cols, 8}, {&l->ld, 8}};
    if ((size_t) what >= sizeof fields / sizeof fields[0] || n != fields[what].bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(fields[what].at, buf, n);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    if ((compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC) || scale != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    *d = new hostsim_matmul{{CUBLAS_OP_N, CUBLAS_OP_N}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    delete d;
    return CUBLAS_STATUS_SUCCESS;
}

/* Transpositions are kept; of the rest only what changes nothing is taken. */
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what,
                                              const void *buf, size_t n)
{
    int32_t v;
    if (n != sizeof v)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&v, buf, n);
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
    case CUBLASLT_MATMUL_DESC_TRANSB:
        d->transposed[what == CUBLASLT_MATMUL_DESC_TRANSB] = v;
        return v == CUBLAS_OP_N || v == CUBLAS_OP_T ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return v == CUBLASLT_EPILOGUE_DEFAULT ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return v == CUBLASLT_POINTER_MODE_HOST ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET:
        return CUBLAS_STATUS_SUCCESS;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = new hostsim_preference{0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *buf, size_t n)
{
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && n == sizeof p->workspace)
        memcpy(&p->workspace, buf, n);
    return n == 4 || n == 8 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t op, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    uint32_t id;
    memcpy(&id, algo->data, sizeof id);
    if (!shapes_fit(op, a, b, c, d))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (id >= ALGORITHMS)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    memset(result, 0, sizeof *result);
    result->algo = *algo;
    result->wavesCount = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t op,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int asked,
                                              cublasLtMatmulHeuristicResult_t results[], int *given)
{
    *given = 0;
    for (int i = 0; i < asked && i < ALGORITHMS; i++) {
        cublasLtMatmulAlgo_t x = algorithm(i);
        cublasStatus_t s = cublasLtMatmulAlgoCheck(h, op, a, b, c, d, &x, &results[i]);
        if (s != CUBLAS_STATUS_SUCCESS)
            return s;
        ++*given;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetIds(cublasLtHandle_t, cublasComputeType_t, cudaDataType_t, cudaDataType_t,
                                        cudaDataType_t, cudaDataType_t, cudaDataType_t, int asked, int ids[],
                                        int *given)
{
    for (*given = 0; *given < asked && *given < ALGORITHMS; ++*given)
        ids[*given] = *given;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t, cublasComputeType_t, cudaDataType_t, cudaDataType_t,
                                      cudaDataType_t, cudaDataType_t, cudaDataType_t, int id,
                                      cublasLtMatmulAlgo_t *algo)
{
    *algo = algorithm(id);
    return id >= 0 && id < ALGORITHMS ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what,
                                                    const void *buf, size_t n)
{
    if ((int) what < 0 || (int) what >= CONFIGS || n > 4)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy((char *) algo->data + 4 * what, buf, n);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what, void *buf,
                                                    size_t n, size_t *written)
{
    if ((int) what < 0 || (int) what >= CONFIGS || n > 4)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(buf, (const char *) algo->data + 4 * what, n);
    if (written)
        *written = n;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t op, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t al, const void *b, cublasLtMatrixLayout_t bl,
                              const void *beta, const void *c, cublasLtMatrixLayout_t cl, void *d,
                              cublasLtMatrixLayout_t dl, const cublasLtMatmulAlgo_t *algo, void *, size_t,
                              cudaStream_t stream)
{
    cublasLtMatmulHeuristicResult_t r;
    cublasLtMatmulAlgo_t any = algorithm(0);
    cublasStatus_t s = cublasLtMatmulAlgoCheck(h, op, al, bl, cl, dl, algo ? algo : &any, &r);
    if (s != CUBLAS_STATUS_SUCCESS)
        return s;
    struct gemm g = {{(const char *) a, *al, op->transposed[0] != 0},
                     {(const char *) b, *bl, op->transposed[1] != 0},
                     {(const char *) c, *cl, false},
                     (char *) d,
                     *dl,
                     *(const float *) alpha,
                     *(const float *) beta};
    return stream_post(stream, "cublasLtMatmul", [g] { return gemm_start(&g); }) == cudaSuccess
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}
}
