/* matmul.c - the pieces of a matrix cover it once, and OpenBLAS on widened weights gives what the kernels give. */
#include "cpu/inside.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Pieces of many matrices side by side: enough for the threads, none wider than a tile. */
static void pieces_of_many(void **state)
{
    (void) state;
    for (int panels = 1; panels < 200; panels++)
        for (int n = 1; n <= 128; n *= 2)
            for (int threads = 1; threads <= 64; threads *= 4) {
                struct cpu__matrix m = {.panels = panels};
                int pieces = cpu__pieces_each(&m, threads, n), pairs = (panels + 1) / 2;
                assert_true(pieces * n >= threads || pieces * 3 + 3 > pairs);
                for (int i = 0; i < pieces; i++) {
                    int from = cpu__piece_start(&m, pieces, i), to = cpu__piece_start(&m, pieces, i + 1);
                    assert_true(from < to && to - from <= CPU__TILE_PANELS && from % 2 == 0);
                }
            }
}

static void pieces_cover_a_matrix(void **state)
{
    (void) state;
    for (int panels = 1; panels < 400; panels++)
        for (int threads = 1; threads <= 64; threads *= 2)
            for (int blas = 0; blas < 2; blas++) {
                struct cpu__matrix m = {.panels = panels};
                int n = cpu__pieces(&m, threads, blas), most = blas ? CPU__BLAS_PANELS : CPU__TILE_PANELS;
                assert_int_equal(cpu__piece_start(&m, n, 0), 0);
                assert_int_equal(cpu__piece_start(&m, n, n), panels);
                for (int i = 0; i < n; i++) {
                    int from = cpu__piece_start(&m, n, i), to = cpu__piece_start(&m, n, i + 1);
                    assert_true(from < to && to - from <= most && from % 2 == 0);
                }
            }
    struct cpu__matrix head = {.panels = 151936 / PANEL};
    int n = cpu__pieces(&head, 2, 0);
    assert_int_equal(n % 2, 0);
    for (int i = 0; i < n; i++)
        assert_in_range(cpu__piece_start(&head, n, i + 1) - cpu__piece_start(&head, n, i), 2,
                        CPU__TILE_PANELS);
}

enum { ROWS = 5, OUT = 70, WIDTH = 50, LD = 64 };

static void widened_weights_multiply_alike(void **state)
{
    (void) state;
    struct cpu *c;
    struct err e;
    uint64_t seed = 12;
    static float w[OUT * WIDTH], x[ROWS * LD], wide[LD * 80], a[ROWS * 80], b[ROWS * 80];
    struct cpu__rows rows = {.ld = LD, .x = x};
    struct tensor t = {
        .name = "t", .file = "f", .type = TENSOR_F32, .n_dims = 2, .dim = {OUT, WIDTH}, .data = w};
    assert_int_equal(cpu_open(&c, &(struct cpu_opts){.threads = 1}, &e), 0);
    for (int i = 0; i < OUT * WIDTH; i++)
        w[i] = synth_uniform(&seed);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < WIDTH; i++)
            x[r * LD + i] = synth_uniform(&seed);
    for (int quant = CPU_QUANT_F32; quant < CPU_QUANT_STORED; quant++) {
        struct cpu__matrix m, f;
        assert_int_equal(cpu__matrix_pack(&m, c, &t, quant, &e), 0);
        cpu__matmul_widen(&m, 1, 4, wide);
        cpu__matmul_blas(wide, WIDTH, 48, &rows, 1, ROWS, a, 80);
        float stored[OUT * WIDTH]; /* what the panels hold, read back one output at a time */
        for (int o = 16; o < 64; o++)
            for (int i = 0; i < WIDTH; i++)
                stored[o * WIDTH + i] = wide[i * 48 + o - 16];
        struct tensor ts = t;
        ts.data = stored;
        memset(stored, 0, 16 * WIDTH * sizeof *stored);
        memset(stored + 64 * WIDTH, 0, (OUT - 64) * WIDTH * sizeof *stored);
        assert_int_equal(cpu__matrix_pack(&f, c, &ts, CPU_QUANT_F32, &e), 0);
        cpu__matmul(c, &f, 1, 4, &rows, 1, ROWS, b, 80, NULL);
        for (int r = 0; r < ROWS - 1; r++)
            for (int o = 0; o < 48; o++) {
                assert_true(fabsf(a[r * 80 + o] - b[r * 80 + o]) < 2e-5f);
                static const float steps[] = {[CPU_QUANT_Q8] = 1.0f / 250,
                                              [CPU_QUANT_BF16] = 0x1p-8f,
                                              [CPU_QUANT_F16] = 0x1p-11f,
                                              [CPU_QUANT_Q4] = 1.0f / 7.9f};
                float step = steps[quant];
                for (int i = 0; i < WIDTH; i++)
                    assert_true(fabsf(stored[(o + 16) * WIDTH + i] - w[(o + 16) * WIDTH + i]) <= step);
            }
        cpu__matrix_free(&m);
        cpu__matrix_free(&f);
    }
    cpu_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces_cover_a_matrix),
                                       cmocka_unit_test(pieces_of_many),
                                       cmocka_unit_test(widened_weights_multiply_alike)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
