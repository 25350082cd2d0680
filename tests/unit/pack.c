/* pack.c - weights in panels: exact where they should be, Q8 within half a step of its scale, Q4 as ggml quantizes. */
#include "cpu/inside.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

enum { ROWS = 37, WIDTH = 72 }; /* neither a multiple of 16 nor of 32 */

static struct cpu *cpu;

static int setup(void **state)
{
    (void) state;
    return cpu_open(&cpu, &(struct cpu_opts){.threads = 3, .isa = CPU_ISA_TWIN}, NULL);
}

static int teardown(void **state)
{
    (void) state;
    cpu_close(cpu);
    return 0;
}

static struct tensor tensor_of(const void *data, int type)
{
    return (struct tensor){
        .name = "t", .file = "f", .type = type, .n_dims = 2, .dim = {ROWS, WIDTH}, .data = data};
}

static void fill(float *w)
{
    uint64_t state = 7;
    for (int i = 0; i < ROWS * WIDTH; i++)
        w[i] = synth_uniform(&state) * 0.05f;
}

static struct cpu__matrix pack(const struct tensor *t, int quant)
{
    struct cpu__matrix m;
    struct err e = {0};
    if (cpu__matrix_pack(&m, cpu, t, quant, &e))
        fail_msg("%s", e.text);
    assert_int_equal(m.panels, 3);
    assert_int_equal(m.k_packed, cpu__quant_is_int(m.quant) ? 96 : WIDTH);
    return m;
}

static void floats_are_exact(void **state)
{
    (void) state;
    float w[ROWS * WIDTH];
    uint16_t h[ROWS * WIDTH];
    fill(w);
    for (int i = 0; i < ROWS * WIDTH; i++)
        h[i] = cpu__bf16_from_f32(w[i]);
    struct tensor tf = tensor_of(w, TENSOR_F32), tb = tensor_of(h, TENSOR_BF16);
    struct cpu__matrix f = pack(&tf, CPU_QUANT_F32), b = pack(&tb, CPU_QUANT_BF16),
                       fb = pack(&tf, CPU_QUANT_BF16);
    for (int o = 0; o < 48; o++)
        for (int i = 0; i < WIDTH; i++) {
            int at = (o / 16 * WIDTH + i) * 16 + o % 16;
            assert_true(((float *) f.w)[at] == (o < ROWS ? w[o * WIDTH + i] : 0));
            assert_int_equal(((uint16_t *) b.w)[at], o < ROWS ? h[o * WIDTH + i] : 0);
            assert_int_equal(((uint16_t *) fb.w)[at], ((uint16_t *) b.w)[at]);
        }
    cpu__matrix_free(&f);
    cpu__matrix_free(&b);
    cpu__matrix_free(&fb);
}

static void unaligned_tensors_are_read(void **state)
{
    (void) state;
    unsigned char raw[1 + 2 * sizeof(float)];
    float w[2] = {1.5f, -2.25f}, out[2];
    memcpy(raw + 1, w, sizeof w);
    struct tensor t = {.type = TENSOR_F32, .n_dims = 1, .dim = {2}, .data = raw + 1};
    cpu_tensor_row(&t, 0, out);
    assert_memory_equal(out, w, sizeof w);
    uint16_t h[2] = {0x3e00, 0xc080}; /* 1.5, -2.25 in FP16 */
    memcpy(raw + 1, h, sizeof h);
    t.type = TENSOR_F16;
    cpu_tensor_row(&t, 0, out);
    assert_memory_equal(out, w, sizeof w);
    t = (struct tensor){.type = TENSOR_F16, .n_dims = 2, .dim = {2, 1}, .data = raw + 1};
    cpu_tensor_row(&t, 1, out);
    assert_true(out[0] == -2.25f);
}

static void q8_is_within_half_a_step(void **state)
{
    (void) state;
    float w[ROWS * WIDTH];
    fill(w);
    memset(w + 3 * WIDTH, 0, 40 * sizeof *w); /* a block of zeros and a part of one */
    struct tensor t = tensor_of(w, TENSOR_F32);
    struct cpu__matrix m = pack(&t, CPU_QUANT_Q8);
    for (int o = 0; o < 48; o++)
        for (int i = 0; i < 96; i++) {
            const struct q8_block *b = (const struct q8_block *) m.w + o / 16 * 3 + i / 32;
            float d = cpu__f16_to_f32(b->scale[o % 16]);
            int q = b->w[i % 32 / 4][o % 16][i % 4] - 128;
            float x = o < ROWS && i < WIDTH ? w[o * WIDTH + i] : 0;
            assert_in_range(q + 127, 0, 254);
            assert_true(fabsf((float) q * d - x) <= d * 0.5001f);
            assert_true(x != 0 || q == 0);
        }
    assert_int_equal(((struct q8_block *) m.w)[0].scale[3], 0);
    cpu__matrix_free(&m);
}

/* What a panel of blocks holds for output o, input i: the bits of its scale and its integer. */
static void held(const struct cpu__matrix *m, int o, int i, uint16_t *scale, int *q)
{
    int at = i % 32;
    if (m->quant == CPU_QUANT_Q8) {
        const struct q8_block *b = (const struct q8_block *) cpu__matrix_panel(m, o / 16) + i / 32;
        *scale = b->scale[o % 16];
        *q = b->w[at / 4][o % 16][at % 4] - 128;
    } else {
        const struct q4_block *b = (const struct q4_block *) cpu__matrix_panel(m, o / 16) + i / 32;
        int both = b->w[at / 8][o % 16][at % 4];
        *scale = b->scale[o % 16];
        *q = (at % 8 < 4 ? both & 15 : both >> 4) - 8;
    }
}

enum { BLOCK_ROWS = 37, BLOCK_WIDTH = 96 };

static void fill_blocks(uint8_t *p, size_t bytes)
{
    uint64_t state = 11;
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t) (synth_next(&state) >> 56);
}

/* Any bits at all, odd scales and -128 too. */
static void stored_blocks_keep_their_bits(void **state)
{
    (void) state;
    static uint8_t raw[BLOCK_ROWS * 3 * 34];
    fill_blocks(raw, sizeof raw);
    for (int four = 0; four < 2; four++) {
        int bytes = four ? 18 : 34, q;
        struct tensor t = {.name = "t",
                           .file = "f",
                           .type = four ? TENSOR_Q4_0 : TENSOR_Q8_0,
                           .n_dims = 2,
                           .dim = {BLOCK_ROWS, BLOCK_WIDTH},
                           .data = raw};
        struct cpu__matrix m = pack(&t, CPU_QUANT_STORED);
        assert_int_equal(m.quant, four ? CPU_QUANT_Q4 : CPU_QUANT_Q8);
        for (int o = 0; o < 48; o++)
            for (int i = 0; i < BLOCK_WIDTH; i++) {
                const uint8_t *b = raw + (o * 3 + i / 32) * bytes;
                uint16_t scale, want;
                int at = i % 32;
                held(&m, o, i, &scale, &q);
                if (o >= BLOCK_ROWS) {
                    assert_true(scale == 0 && q == 0);
                    continue;
                }
                memcpy(&want, b, 2);
                assert_int_equal(scale, want);
                assert_int_equal(q, four ? (at < 16 ? b[2 + at] & 15 : b[2 + at - 16] >> 4) - 8
                                         : (int8_t) b[2 + at]);
            }
        cpu__matrix_free(&m);
    }
}

/* ggml's quantize_row_q4_0_ref, in its own words: scale from the value of the largest magnitude, which becomes -8. */
static void ggml_q4_0(const float *x, uint8_t *block)
{
    float amax = 0, most = 0;
    for (int i = 0; i < 32; i++)
        if (amax < fabsf(x[i])) {
            amax = fabsf(x[i]);
            most = x[i];
        }
    float d = most / -8, id = d != 0 ? 1 / d : 0;
    uint16_t h = cpu__f16_from_f32(d);
    memcpy(block, &h, 2);
    for (int i = 0; i < 16; i++) {
        float a = x[i] * id, b = x[i + 16] * id;
        int low = (int8_t) (a + 8.5f), high = (int8_t) (b + 8.5f);
        block[2 + i] = (uint8_t) ((low < 15 ? low : 15) | (high < 15 ? high : 15) << 4);
    }
}

static void q4_is_ggmls(void **state)
{
    (void) state;
    static float w[BLOCK_ROWS * BLOCK_WIDTH];
    static uint8_t blocks[BLOCK_ROWS * 3 * 18];
    uint64_t seed = 13;
    for (int i = 0; i < BLOCK_ROWS * BLOCK_WIDTH; i++)
        w[i] = synth_uniform(&seed) * (i % 7 ? 0.05f : 0.1f);
    memset(w + 100, 0, 80 * sizeof *w);
    w[40] = 0.1f; /* a tie of magnitudes: the first one counts */
    w[45] = -0.1f;
    for (int b = 0; b < BLOCK_ROWS * 3; b++)
        ggml_q4_0(w + b * 32, blocks + b * 18);
    struct tensor floats = {.name = "t",
                            .file = "f",
                            .type = TENSOR_F32,
                            .n_dims = 2,
                            .dim = {BLOCK_ROWS, BLOCK_WIDTH},
                            .data = w};
    struct tensor stored = floats;
    stored.type = TENSOR_Q4_0;
    stored.data = blocks;
    struct cpu__matrix a = pack(&floats, CPU_QUANT_Q4), b = pack(&stored, CPU_QUANT_Q4);
    for (int o = 0; o < BLOCK_ROWS; o++)
        for (int i = 0; i < BLOCK_WIDTH; i++) {
            uint16_t da, db;
            int qa, qb;
            held(&a, o, i, &da, &qa);
            held(&b, o, i, &db, &qb);
            assert_int_equal(da, db);
            assert_int_equal(qa, qb);
            assert_true(fabsf((float) qa * cpu__f16_to_f32(da) - w[o * BLOCK_WIDTH + i]) <=
                        1.01f * fabsf(cpu__f16_to_f32(da)));
        }
    cpu__matrix_free(&a);
    cpu__matrix_free(&b);
}

static void precisions_have_names(void **state)
{
    (void) state;
    char text[200];
    for (int quant = 0; quant <= CPU_QUANT_STORED; quant++)
        assert_int_equal(cpu_quant_find(cpu_quant_name(quant)), quant);
    assert_int_equal(cpu_quant_find("q9"), -1);
    static const struct config shape = {.n_layers = 2,
                                        .hidden = 32,
                                        .n_heads = 1,
                                        .n_kv_heads = 1,
                                        .head_dim = 32,
                                        .ffn = 32,
                                        .vocab = 32,
                                        .ctx_max = 32,
                                        .rope_theta = 1e4f,
                                        .rms_eps = 1e-6f,
                                        .moe = {4, 2, 32, 1, {0, 1}}};
    struct model *m = synth_model_new(&shape, TENSOR_Q4_0, 1),
                 *other = synth_model_new(&shape, TENSOR_F8_E4M3, 1);
    assert_int_equal(cpu_quant_stored(m), CPU_QUANT_Q4);
    assert_int_equal(cpu_quant_stored(other), CPU_QUANT_Q8);
    const struct tensor *head = m->head;
    m->head = other->head;
    assert_int_equal(cpu_quant_stored(m), CPU_QUANT_STORED);
    cpu_quant_describe(m, CPU_QUANT_STORED, text, sizeof text);
    assert_string_equal(text, "1 of F8_E4M3 as q8, 23 of Q4_0 as q4");
    cpu_quant_describe(m, CPU_QUANT_BF16, text, sizeof text);
    assert_string_equal(text, "1 of F8_E4M3 as bf16, 23 of Q4_0 as bf16");
    cpu_quant_describe(m, CPU_QUANT_BF16, text, 9);
    assert_string_equal(text, "1 of F8_");
    m->head = head;
    synth_model_free(m);
    synth_model_free(other);
}

static void refused_as(int quant, float bad, const char *word)
{
    float w[ROWS * WIDTH];
    struct cpu__matrix m;
    struct err e = {0};
    fill(w);
    w[36 * WIDTH + 71] = bad;
    struct tensor t = tensor_of(w, TENSOR_F32);
    assert_int_equal(cpu__matrix_pack(&m, cpu, &t, quant, &e), ST_UNSUPPORTED);
    assert_non_null(strstr(e.text, word));
    assert_non_null(strstr(e.text, cpu_quant_name(quant)));
    cpu__matrix_free(&m);
}

static void what_cannot_be_held_is_refused(void **state)
{
    (void) state;
    for (int quant = CPU_QUANT_Q8; quant <= CPU_QUANT_Q4; quant += CPU_QUANT_Q4 - CPU_QUANT_Q8) {
        refused_as(quant, NAN, "NaN");
        refused_as(quant, INFINITY, "NaN");
        refused_as(quant, 1e7f, "65504");
    }
    refused_as(CPU_QUANT_F16, 65520, "65504");
}

static void fp16_rounds_to_even(void **state)
{
    (void) state;
    for (uint32_t h = 0; h < 0x7c00; h++) { /* every finite value, and the points between it and the next */
        float a = cpu__f16_to_f32((uint16_t) h),
              b = h == 0x7bff ? 65536 : cpu__f16_to_f32((uint16_t) (h + 1));
        float mid = a + (b - a) / 2;
        assert_int_equal(cpu__f16_from_f32(a), h);
        assert_int_equal(cpu__f16_from_f32(-a), h | 0x8000);
        assert_int_equal(cpu__f16_from_f32(mid), h + (h & 1));
        assert_int_equal(cpu__f16_from_f32(nextafterf(mid, 0)), h);
        assert_int_equal(cpu__f16_from_f32(nextafterf(mid, INFINITY)), h + 1);
    }
    assert_int_equal(cpu__f16_from_f32(1e30f), 0x7c00);
    assert_int_equal(cpu__f16_from_f32(NAN) & 0x7e00, 0x7e00);
}

/* One row of activations times packed Q8 weights, against the same sum in double. */
static void q8_products(void **state)
{
    (void) state;
    float w[ROWS * WIDTH], x[96] = {0}, out[48];
    fill(w);
    uint64_t seed = 3;
    for (int i = 0; i < WIDTH; i++)
        x[i] = synth_uniform(&seed);
    struct tensor t = tensor_of(w, TENSOR_F32);
    struct cpu__matrix m = pack(&t, CPU_QUANT_Q8);
    int8_t q[96];
    float d[3];
    int32_t sum[3];
    struct q8_row row = {q, d, sum};
    cpu->kern.quantize(x, 96, q, d, sum);
    cpu->kern.gemm_q8(m.w, 96, 0, 3, &row, 1, out, 48, NULL);
    for (int o = 0; o < 48; o++) {
        double exact = 0;
        for (int i = 0; i < 96; i++) {
            const struct q8_block *b = (const struct q8_block *) m.w + o / 16 * 3 + i / 32;
            exact += (double) (b->w[i % 32 / 4][o % 16][i % 4] - 128) *
                     (double) cpu__f16_to_f32(b->scale[o % 16]) * q[i] * (double) d[i / 32];
        }
        assert_true(fabs(out[o] - exact) < 1e-6);
        if (o >= ROWS)
            assert_true(out[o] == 0);
    }
    cpu__matrix_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_are_exact),
        cmocka_unit_test(unaligned_tensors_are_read),
        cmocka_unit_test(q8_is_within_half_a_step),
        cmocka_unit_test(stored_blocks_keep_their_bits),
        cmocka_unit_test(q4_is_ggmls),
        cmocka_unit_test(precisions_have_names),
        cmocka_unit_test(what_cannot_be_held_is_refused),
        cmocka_unit_test(fp16_rounds_to_even),
        cmocka_unit_test(q8_products),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
