/* forward.c - the promise of cpu/cpu.h on random models of awkward shapes: a row's logits are the same bits by every road.
 *
 * Models: dense, with experts, mixed, with YaRN; weights of every type a checkpoint has, in every precision.
 *
 * Roads: one chunk, cut chunks, one row at a time, trees in scattered slots, many sequences in one batch, one to three
 * threads, every instruction set of this machine.  And an oracle in double bounds the error of the whole: 3e-6 of the
 * largest logit for stored weights and F32 keys (measured: 4e-7 to 1e-6). */
#include "tests/lib/oracle.h"
#include "tests/lib/passes.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_THREAD__ /* twenty times slower; it watches the twins only, so they take every road of two threads */
enum { N = 80, WATCHED = 1 };
#else
enum { N = 150, WATCHED = 0 }; /* three pages, the last begun */
#endif
enum { VOCAB = 333 };

/* hidden and ffn are no multiples of 32, vocab none of 16; three query heads a KV head */
static const struct config odd = {.n_layers = 2,
                                  .hidden = 72,
                                  .n_heads = 6,
                                  .n_kv_heads = 2,
                                  .head_dim = 20,
                                  .ffn = 176,
                                  .vocab = VOCAB,
                                  .ctx_max = 4096,
                                  .rope_theta = 1e6f,
                                  .rms_eps = 1e-6f,
                                  .tied = 1};
static const struct config even = {.n_layers = 2,
                                   .hidden = 128,
                                   .n_heads = 4,
                                   .n_kv_heads = 2,
                                   .head_dim = 64,
                                   .ffn = 256,
                                   .vocab = VOCAB,
                                   .ctx_max = 4096,
                                   .rope_theta = 1e4f,
                                   .rms_eps = 1e-6f};

/* experts of an odd width, fewer rows than experts at times; then dense and expert layers in turn, YaRN, unnormed weights */
static const struct config moe = {.n_layers = 2,
                                  .hidden = 72,
                                  .n_heads = 6,
                                  .n_kv_heads = 2,
                                  .head_dim = 20,
                                  .ffn = 176,
                                  .vocab = VOCAB,
                                  .ctx_max = 4096,
                                  .rope_theta = 1e6f,
                                  .rms_eps = 1e-6f,
                                  .moe = {7, 3, 40, 1, {1, 1}}};
static const struct config mixed = {.n_layers = 3,
                                    .hidden = 128,
                                    .n_heads = 4,
                                    .n_kv_heads = 2,
                                    .head_dim = 64,
                                    .ffn = 256,
                                    .vocab = VOCAB,
                                    .ctx_max = 4096,
                                    .rope_theta = 1e4f,
                                    .yarn = {4, 32, 1, 1.1386294f, 32, 1},
                                    .rms_eps = 1e-6f,
                                    .moe = {32, 8, 64, 0, {1, 0, 1}},
                                    .tied = 1};
/* widths that blocks of 256 divide */
static const struct config wide = {.n_layers = 2,
                                   .hidden = 256,
                                   .n_heads = 4,
                                   .n_kv_heads = 2,
                                   .head_dim = 64,
                                   .ffn = 256,
                                   .vocab = VOCAB,
                                   .ctx_max = 4096,
                                   .rope_theta = 1e6f,
                                   .rms_eps = 1e-6f,
                                   .moe = {8, 2, 256, 1, {0, 1}}};

static int32_t ids[N];
static float reference[N][VOCAB], got[N][VOCAB];

static int setup(void **state)
{
    (void) state;
    uint64_t seed = 99;
    for (int i = 0; i < N; i++)
        ids[i] = (int32_t) (synth_next(&seed) >> 33) % VOCAB;
    return 0;
}

static void same(int from, int n)
{
    assert_memory_equal(got[from], reference[from], (size_t) n * sizeof got[0]);
}

static void cut_chunks(struct passes *p)
{
    static const int cuts[] = {1, 16, 17, 33, 64, 19};
    p->len = 0;
    for (int i = 0, at = 0; at < N; at += cuts[i++])
        passes_chunk(p, ids + at, N - at < cuts[i] ? N - at : cuts[i], got[at], 0);
    same(0, N);
}

static void one_by_one(struct passes *p, int n)
{
    p->len = 0;
    for (int i = 0; i < n; i++)
        passes_chunk(p, ids + i, 1, got[i], 0);
    same(0, n);
}

/* A true chain of up to 20 nodes in scattered slots, every node with a wrong sibling before or after it. */
static void by_trees(struct passes *p, int from)
{
    static float logits[TREE_MAX][VOCAB];
    p->len = from;
    for (int at = from; at < N;) {
        struct tree t;
        int32_t slot[TREE_MAX];
        int on[20] = {0}, m = N - at < 20 ? N - at : 20;
        tree_init(&t, ids[at]);
        for (int d = 1; d < m; d++) {
            if (d % 2)
                tree_add(&t, on[d - 1], (ids[at + d] + 1) % VOCAB, 0.5f, TREE_ORACLE, -1);
            on[d] = tree_add(&t, on[d - 1], ids[at + d], 0.5f, TREE_ORACLE, -1);
            if (d % 3 == 0)
                tree_add(&t, on[d - 1], (ids[at + d] + 2) % VOCAB, 0.5f, TREE_ORACLE, -1);
        }
        for (int i = 0; i < t.n; i++)
            slot[i] = (i * 59 + 17 + at * 3) % PASSES_SLOTS;
        passes_tree(p, &t, slot, logits[0]);
        for (int d = 0; d < m; d++, at++) {
            memcpy(got[at], logits[on[d]], sizeof got[0]);
            passes_commit(p, slot[on[d]]);
        }
    }
    same(from, N - from);
}

/* Two sequences with pages of their own in one batch, rows mixed, only some of which want logits. */
static void beside_another(struct passes *p)
{
    static struct cpu_row row[2 * N];
    int32_t other[PASSES_PAGES], n = 0;
    for (int i = 0; i < PASSES_PAGES; i++)
        other[i] = p->page[PASSES_PAGES - 1 - i];
    for (int i = 0; i < N; i++) {
        row[n++] = (struct cpu_row){.tok = ids[N - 1 - i], .pos = i, .page = other, .slot = -1, .logits = -1};
        row[n++] = (struct cpu_row){
            .tok = ids[i], .pos = i, .page = p->page, .slot = -1, .logits = i % 3 ? N - 1 - i : -1};
    }
    memset(got, 0, sizeof got);
    assert_int_equal(cpu_forward(p->weights, p->kv, row, n, got[0], VOCAB, 0), 0);
    for (int i = 0; i < N; i++)
        if (i % 3)
            assert_memory_equal(got[N - 1 - i], reference[i], sizeof got[0]);
}

static int has_isa(int isa)
{
    struct cpu *c;
    int st = cpu_open(&c, &(struct cpu_opts){.threads = 1, .isa = isa}, NULL);
    cpu_close(c);
    return st == 0;
}

/* The slow roads on one thread and not on the twin, whose part is the reference. */
static void roads_of(const struct model *m, int quant, int kv_type)
{
    struct passes p;
    const int isas[] = {passes_twin(), CPU_ISA_AVX2, CPU_ISA_AVXVNNI, CPU_ISA_AVX512, CPU_ISA_VNNI};
    for (int i = 0; i < 5; i++)
        for (int isa = isas[i], twin = i == 0, threads = 1; has_isa(isa) && threads <= (twin ? 2 : 3);
             threads++) {
            int whole = !twin && threads == 1;
            passes_open(&p, m, (struct passes_opts){isa, threads, quant, kv_type, 0});
            passes_chunk(&p, ids, N, got[0], 0);
            if (twin && threads == 1)
                memcpy(reference, got, sizeof got);
            same(0, N);
            by_trees(&p, whole ? 0 : N - 30);
            if (whole)
                one_by_one(&p, N);
            if (threads == 2 && (!twin || WATCHED)) {
                cut_chunks(&p);
                beside_another(&p);
            }
            passes_close(&p);
        }
}

static void roads(const struct config *g, int type, int quant, int kv_type)
{
    struct model *m = synth_model_new(g, type, 5);
    roads_of(m, quant, kv_type);
    synth_model_free(m);
}

static void roads_f32(void **state)
{
    (void) state;
    roads(&odd, TENSOR_F32, CPU_QUANT_F32, CPU_KV_F32);
    roads(&odd, TENSOR_F32, CPU_QUANT_F32, CPU_KV_BF16);
}

static void roads_bf16(void **state)
{
    (void) state;
    roads(&odd, TENSOR_BF16, CPU_QUANT_BF16, CPU_KV_BF16);
    roads(&even, TENSOR_BF16, CPU_QUANT_BF16, CPU_KV_BF16);
}

static void roads_q8(void **state)
{
    (void) state;
    roads(&odd, TENSOR_F16, CPU_QUANT_Q8, CPU_KV_BF16);
    roads(&even, TENSOR_BF16, CPU_QUANT_Q8, CPU_KV_F32);
    roads(&even, TENSOR_BF16, CPU_QUANT_Q8, CPU_KV_BF16);
}

static void roads_q4(void **state)
{
    (void) state;
    roads(&odd, TENSOR_F32, CPU_QUANT_Q4, CPU_KV_BF16);
    roads(&even, TENSOR_Q4_0, CPU_QUANT_STORED, CPU_KV_BF16);
}

static void roads_f16(void **state)
{
    (void) state;
    roads(&odd, TENSOR_F16, CPU_QUANT_F16, CPU_KV_BF16);
}

static void roads_experts(void **state)
{
    (void) state;
    roads(&moe, TENSOR_F32, CPU_QUANT_F32, CPU_KV_F32);
    roads(&moe, TENSOR_BF16, CPU_QUANT_Q8, CPU_KV_BF16);
    roads(&moe, TENSOR_BF16, CPU_QUANT_Q4, CPU_KV_BF16);
}

static void roads_mixed_layers(void **state)
{
    (void) state;
    roads(&mixed, TENSOR_BF16, CPU_QUANT_BF16, CPU_KV_BF16);
    roads(&mixed, TENSOR_Q8_0, CPU_QUANT_STORED, CPU_KV_BF16);
    roads(&mixed, TENSOR_F8_E4M3, CPU_QUANT_STORED, CPU_KV_BF16);
}

static void roads_k_quants(void **state)
{
    (void) state;
    roads(&wide, TENSOR_Q4_K, CPU_QUANT_STORED, CPU_KV_BF16);
    roads(&wide, TENSOR_Q6_K, CPU_QUANT_F32, CPU_KV_BF16);
}

/* A model whose matrices differ: the second layer's experts and the output have a type of their own. */
static void roads_mixed_types(void **state)
{
    (void) state;
    struct model *m = synth_model_new(&wide, TENSOR_Q4_0, 5), *other = synth_model_new(&wide, TENSOR_F16, 6);
    const struct layer_tensors kept = m->layer[1];
    const struct tensor *head = m->head;
    m->layer[1].expert = other->layer[1].expert;
    m->layer[1].o = other->layer[1].o;
    m->head = other->head;
    assert_int_equal(cpu_quant_stored(m), CPU_QUANT_STORED);
    roads_of(m, CPU_QUANT_STORED, CPU_KV_BF16);
    m->layer[1] = kept;
    m->head = head;
    synth_model_free(m);
    synth_model_free(other);
}

/* Largest difference from the oracle over n rows, relative to its largest logit. */
static double error_over(int n, const struct config *g, int type, int quant, int kv_type, int flags)
{
    static double exact[N][VOCAB];
    struct model *m = synth_model_new(g, type, 5);
    struct passes p;
    double worst = 0, largest = 0;
    oracle_logits(m, ids, n, 0, exact[0]);
    passes_open(&p, m, (struct passes_opts){passes_twin(), 2, quant, kv_type, 0});
    passes_chunk(&p, ids, n, got[0], flags);
    passes_close(&p);
    synth_model_free(m);
    for (int i = 0; i < n; i++)
        for (int v = 0; v < VOCAB; v++) {
            worst = fmax(worst, fabs((double) got[i][v] - exact[i][v]));
            largest = fmax(largest, fabs(exact[i][v]));
        }
    print_message("weights %d, keys %d, flags %d: off by %.2g of the largest logit\n", quant, kv_type, flags,
                  worst / largest);
    return worst / largest;
}

static double error_of(const struct config *g, int type, int quant, int kv_type, int flags)
{
    return error_over(N, g, type, quant, kv_type, flags);
}

static void against_the_oracle(void **state)
{
    (void) state;
    assert_true(error_of(&odd, TENSOR_F32, CPU_QUANT_F32, CPU_KV_F32, 0) < 3e-6);
    assert_true(error_of(&odd, TENSOR_F16, CPU_QUANT_F32, CPU_KV_F32, 0) < 3e-6);
    assert_true(error_of(&even, TENSOR_BF16, CPU_QUANT_BF16, CPU_KV_F32, 0) < 3e-6);
    assert_true(error_of(&even, TENSOR_BF16, CPU_QUANT_BF16, CPU_KV_BF16, 0) < 2e-2);
    /* Q8 rounds weights and activations by up to 1 / 254 of their block's largest: a few percent at the end. */
    assert_true(error_of(&odd, TENSOR_F32, CPU_QUANT_Q8, CPU_KV_F32, 0) < 5e-2);
    assert_true(error_of(&even, TENSOR_BF16, CPU_QUANT_Q8, CPU_KV_BF16, 0) < 5e-2);
}

enum { FEW = 20 }; /* rows: the oracle decodes every weight anew for every row */

/* Every type widened to float: stored weights are the oracle's.  Kept in blocks, activations are rounded, too. */
static void every_type_against_the_oracle(void **state)
{
    (void) state;
    struct config dense = wide;
    dense.moe.n_experts = 0; /* rounding may change a pick, and then no bar holds */
    for (int type = TENSOR_F32; type < TENSOR_OTHER; type++) {
        int quant = cpu_quant_of(type), kept = quant != CPU_QUANT_Q8 && quant != CPU_QUANT_Q4;
        print_message("%s: ", tensor_type_name(type));
        assert_true(error_over(FEW, &wide, type, CPU_QUANT_F32, CPU_KV_F32, 0) < 3e-6);
        assert_true(error_over(FEW, &dense, type, CPU_QUANT_STORED, CPU_KV_F32, 0) < (kept ? 3e-6 : 5e-2));
    }
}

static void experts_and_yarn_against_the_oracle(void **state)
{
    (void) state;
    struct config g = mixed;
    assert_true(error_of(&moe, TENSOR_F32, CPU_QUANT_F32, CPU_KV_F32, 0) < 3e-6);
    assert_true(error_over(N < 90 ? N : 90, &g, TENSOR_BF16, CPU_QUANT_BF16, CPU_KV_F32, 0) < 3e-6);
    g.yarn.truncate = 0;
    g.moe.norm_topk = 1;
    assert_true(error_over(FEW, &g, TENSOR_F16, CPU_QUANT_F16, CPU_KV_F32, 0) < 3e-6);
}

/* By OpenBLAS the sums are in another order, and activations are not quantized. */
static void openblas_agrees(void **state)
{
    (void) state;
    assert_true(error_of(&odd, TENSOR_F32, CPU_QUANT_F32, CPU_KV_F32, CPU_FORWARD_BLAS) < 3e-6);
    assert_true(error_of(&even, TENSOR_BF16, CPU_QUANT_BF16, CPU_KV_F32, CPU_FORWARD_BLAS) < 3e-6);
    assert_true(error_of(&odd, TENSOR_F32, CPU_QUANT_Q8, CPU_KV_F32, CPU_FORWARD_BLAS) < 5e-2);
}

/* The output layer on its own gives a pass's logits to the bit, for the rows and the ids it is asked for and no others. */
static void head_alone(const struct config *g, int quant, int threads)
{
    static const struct cpu_range ranges[] = {{0, 32}, {48, 64}, {VOCAB / 16 * 16, VOCAB}};
    struct model *m = synth_model_new(g, TENSOR_F32, 5);
    struct passes p;
    struct cpu_head_row want[70];
    int n = 0;
    passes_open(&p, m, (struct passes_opts){CPU_ISA_AUTO, threads, quant, CPU_KV_BF16, 0});
    passes_chunk(&p, ids, 80, reference[0], 0);
    p.len = 0;
    memset(got, 0, sizeof got);
    passes_chunk(&p, ids, 80, got[0], CPU_FORWARD_NO_HEAD);
    for (int v = 0; v < VOCAB; v++)
        assert_true(got[79][v] == 0);
    for (int r = 79; r >= 10; r--) /* more than a tile, in another order */
        want[n] = (struct cpu_head_row){r, n}, n++;
    assert_int_equal(cpu_head(p.weights, want, n, ranges, 3, got[0], VOCAB), 0);
    for (int i = 0; i < n; i++)
        for (int v = 0; v < VOCAB; v++) {
            int in = v < 32 || (v >= 48 && v < 64) || v >= VOCAB / 16 * 16;
            assert_true(got[i][v] == (in ? reference[want[i].row][v] : 0));
        }
    passes_close(&p);
    synth_model_free(m);
}

static void heads_alone(void **state)
{
    (void) state;
    for (int threads = 1; threads <= 3; threads++)
        for (int quant = CPU_QUANT_F32; quant <= CPU_QUANT_Q4; quant++) {
            head_alone(&even, quant, threads);
            head_alone(&odd, quant, threads);
        }
}

/* A windowed draft: rows that start at position 64 see what the oracle would if the text began there, angles apart; so
 * shifting every position by a page leaves attention's scores as they were but for rounding of the angles. */
static void windows_see_their_part(void **state)
{
    (void) state;
    struct model *m = synth_model_new(&even, TENSOR_F32, 5);
    struct passes p;
    static struct cpu_row row[80];
    passes_open(&p, m, (struct passes_opts){CPU_ISA_AUTO, 2, CPU_QUANT_F32, CPU_KV_F32, 0});
    passes_chunk(&p, ids, 80, reference[0], 0);
    for (int i = 0; i < 80; i++)
        row[i] = (struct cpu_row){
            .tok = ids[i], .pos = 64 + i, .start = 64, .page = p.page + 8, .slot = -1, .logits = i};
    assert_int_equal(cpu_forward(p.weights, p.kv, row, 80, got[0], VOCAB, 0), 0);
    for (int i = 0; i < 80; i++)
        for (int v = 0; v < VOCAB; v++)
            assert_true(fabsf(got[i][v] - reference[i][v]) < 2e-4f);
    passes_close(&p);
    synth_model_free(m);
}

/* NaN anywhere in a row's past reaches its logits, and its neighbours' do not feel it. */
static void nan_stays_in_its_row(void **state)
{
    (void) state;
    struct model *m = synth_model_new(&even, TENSOR_F32, 5);
    struct passes p;
    uint32_t bits = 0x7fc00000;
    for (int quant = CPU_QUANT_F32; quant <= CPU_QUANT_Q8; quant += CPU_QUANT_Q8) {
        passes_open(&p, m, (struct passes_opts){CPU_ISA_AUTO, 2, quant, CPU_KV_BF16, 0});
        passes_chunk(&p, ids, 2, reference[0], 0);
        int other = ids[0] == 7 ? 8 : 7;
        char *poisoned = (char *) (uintptr_t) m->embed->data + (size_t) other * (size_t) even.hidden * 4;
        uint32_t kept;
        memcpy(&kept, poisoned, 4);
        memcpy(poisoned, &bits, 4);
        struct cpu_row row[2] = {{.tok = other, .page = p.page + 5, .slot = -1, .logits = 0},
                                 {.tok = ids[0], .page = p.page, .slot = -1, .logits = 1}};
        assert_int_equal(cpu_forward(p.weights, p.kv, row, 2, got[0], VOCAB, 0), 0);
        memcpy(poisoned, &kept, 4);
        for (int v = 0; v < VOCAB; v++)
            assert_true(isnan(got[0][v]));
        assert_memory_equal(got[1], reference[0], sizeof got[0]);
        passes_close(&p);
    }
    synth_model_free(m);
}

static void opening_refuses(void **state)
{
    (void) state;
    struct cpu *c;
    struct err e;
    assert_int_equal(cpu_open(&c, &(struct cpu_opts){.threads = 0}, &e), ST_INPUT);
    assert_int_equal(cpu_open(&c, &(struct cpu_opts){.threads = 1, .isa = 9}, &e), ST_INPUT);
    assert_null(c);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roads_f32),
        cmocka_unit_test(roads_bf16),
        cmocka_unit_test(roads_q8),
        cmocka_unit_test(roads_q4),
        cmocka_unit_test(roads_f16),
        cmocka_unit_test(roads_experts),
        cmocka_unit_test(roads_mixed_layers),
        cmocka_unit_test(roads_k_quants),
        cmocka_unit_test(roads_mixed_types),
        cmocka_unit_test(against_the_oracle),
        cmocka_unit_test(every_type_against_the_oracle),
        cmocka_unit_test(experts_and_yarn_against_the_oracle),
        cmocka_unit_test(openblas_agrees),
        cmocka_unit_test(heads_alone),
        cmocka_unit_test(windows_see_their_part),
        cmocka_unit_test(nan_stays_in_its_row),
        cmocka_unit_test(opening_refuses),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
