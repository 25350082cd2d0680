/* blaslt.cu - the host lane's cuBLASLt (and, on a GPU, cuBLASLt itself): layouts, transpositions and types against a sum in double, and
 * rows that do not see their neighbours. */
#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"
#include "tests/hostsim/test/lane.h"

#include <cublasLt.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Multiples of 8, as cuBLASLt wants for BF16. */
enum { M = 40, N = 24, K = 72, LD = 80 };

#define must_blas(call) assert_int_equal((call), CUBLAS_STATUS_SUCCESS)

struct matrix {
    bf16 *host, *dev;
    int rows, cols, transposed, row_major;
};

static float at(const struct matrix *x, int r, int c)
{
    int row = x->transposed ? c : r, col = x->transposed ? r : c;
    return bf16_to_float(x->host[x->row_major ? row * LD + col : col * LD + row]);
}

static void matrix_new(struct matrix *x, int rows, int cols, int transposed, int row_major, uint32_t seed)
{
    size_t n = LD * LD;
    x->rows = transposed ? cols : rows;
    x->cols = transposed ? rows : cols;
    x->transposed = transposed;
    x->row_major = row_major;
    x->host = (bf16 *) malloc(n * sizeof(bf16));
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x->host[i] = float_to_bf16((float) (seed >> 20) / 2048.0f - 1.0f);
    }
    must(cudaMalloc(&x->dev, n * sizeof(bf16)));
    must(cudaMemcpy(x->dev, x->host, n * sizeof(bf16), cudaMemcpyHostToDevice));
}

static void matrix_free(struct matrix *x)
{
    must(cudaFree(x->dev));
    free(x->host);
}

static cublasLtMatrixLayout_t layout(cudaDataType type, int rows, int cols, int row_major)
{
    cublasLtMatrixLayout_t l;
    int32_t order = row_major ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL;
    must_blas(cublasLtMatrixLayoutCreate(&l, type, (uint64_t) rows, (uint64_t) cols, LD));
    must_blas(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order));
    return l;
}

static void multiply(const struct matrix *a, const struct matrix *b, float *d, int n, float alpha, float beta)
{
    cublasLtHandle_t h;
    cublasLtMatmulDesc_t op;
    int32_t ta = a->transposed ? CUBLAS_OP_T : CUBLAS_OP_N, tb = b->transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    must_blas(cublasLtCreate(&h));
    must_blas(cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    must_blas(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
    must_blas(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
    cublasLtMatrixLayout_t la = layout(CUDA_R_16BF, a->rows, a->cols, a->row_major);
    cublasLtMatrixLayout_t lb =
        layout(CUDA_R_16BF, b->transposed ? n : b->rows, b->transposed ? b->cols : n, b->row_major);
    cublasLtMatrixLayout_t ld = layout(CUDA_R_32F, M, n, 0);
    cublasLtMatmulPreference_t p;
    cublasLtMatmulHeuristicResult_t r[1];
    int found = 0;
    must_blas(cublasLtMatmulPreferenceCreate(&p));
    must_blas(cublasLtMatmulAlgoGetHeuristic(h, op, la, lb, ld, ld, p, 1, r, &found));
    assert_int_equal(found, 1);
    must_blas(
        cublasLtMatmul(h, op, &alpha, a->dev, la, b->dev, lb, &beta, d, ld, d, ld, &r[0].algo, NULL, 0, 0));
    must(cudaDeviceSynchronize());
    cublasLtMatmulPreferenceDestroy(p);
    cublasLtMatrixLayoutDestroy(la);
    cublasLtMatrixLayoutDestroy(lb);
    cublasLtMatrixLayoutDestroy(ld);
    cublasLtMatmulDescDestroy(op);
    cublasLtDestroy(h);
}

static void check_product(int ta, int tb, int row_major)
{
    static float got[N * LD], before[N * LD];
    struct matrix a, b;
    float *d;
    matrix_new(&a, M, K, ta, row_major, 3);
    matrix_new(&b, K, N, tb, row_major, 4);
    must(cudaMalloc(&d, sizeof got));
    for (int i = 0; i < N * LD; i++)
        before[i] = (float) (i % 13);
    must(cudaMemcpy(d, before, sizeof before, cudaMemcpyHostToDevice));
    multiply(&a, &b, d, N, 0.5f, 2.0f);
    must(cudaMemcpy(got, d, sizeof got, cudaMemcpyDeviceToHost));
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double want = 0;
            for (int k = 0; k < K; k++)
                want += (double) at(&a, m, k) * (double) at(&b, k, n);
            assert_true(fabs(0.5 * want + 2.0 * before[n * LD + m] - got[n * LD + m]) < 1e-4);
        }
    assert_true(got[M] == before[M]); /* between columns nothing is written */
    must(cudaFree(d));
    matrix_free(&a);
    matrix_free(&b);
}

static void test_products(void **)
{
    EACH_SCHEDULE
    for (int i = 0; i < 8; i++)
        check_product(i & 1, i >> 1 & 1, i >> 2);
}

#ifdef HOSTSIM
static void test_refusals(void **)
{
    struct matrix a, b;
    float *d;
    matrix_new(&a, M, K, 1, 0, 5);
    matrix_new(&b, K, N, 0, 0, 6);
    must(cudaMalloc(&d, (LD * (N - 1) + M) * sizeof(float) - 4)); /* one element short */
    cublasLtHandle_t h;
    cublasLtMatmulDesc_t op;
    int32_t t = CUBLAS_OP_T;
    float one = 1, zero = 0;
    must_blas(cublasLtCreate(&h));
    must_blas(cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    must_blas(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t));
    cublasLtMatrixLayout_t la = layout(CUDA_R_16BF, K, M, 0), lb = layout(CUDA_R_16BF, K, N, 0),
                           ld = layout(CUDA_R_32F, M, N, 0);
    cublasLtMatrixLayout_t wrong = layout(CUDA_R_16BF, K - 8, N, 0);
    assert_int_equal(
        cublasLtMatmul(h, op, &one, a.dev, la, b.dev, wrong, &zero, d, ld, d, ld, NULL, NULL, 0, 0),
        CUBLAS_STATUS_INVALID_VALUE);
    must_blas(cublasLtMatmul(h, op, &one, a.dev, la, b.dev, lb, &zero, d, ld, d, ld, NULL, NULL, 0, 0));
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    assert_non_null(strstr(hostsim_fault(), "cublasLtMatmul: D of 40 x 24"));
    hostsim_clear();
    cublasLtMatrixLayoutDestroy(la);
    cublasLtMatrixLayoutDestroy(lb);
    cublasLtMatrixLayoutDestroy(ld);
    cublasLtMatrixLayoutDestroy(wrong);
    cublasLtMatmulDescDestroy(op);
    cublasLtDestroy(h);
    must(cudaFree(d));
    matrix_free(&a);
    matrix_free(&b);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
#ifdef HOSTSIM
        cmocka_unit_test(test_refusals),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
