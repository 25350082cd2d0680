/* backend.cu - the whole CUDA backend behind target.h against the CPU's, on small random models; and against itself, to the bit.
 *
 * The tolerance: activations are rounded to BF16 between matrices, which the CPU does not do, so logits differ by about 2^-8 of
 * their spread a layer; rows must agree within 4% of the row's largest magnitude, and a wrong key, page or norm is far beyond it. */
#include "core/cuda/launch.h"
#include "tests/hostsim/test/lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "cpu/cpu.h"
#include "target/target.h"
#include "tests/lib/small.h"
#include "tests/lib/synth.h"
}

enum { VOCAB = 301, CTX = 768, ROWS = 360, LOGITS = 128, PAGES = 40, ROUNDS = 3 };
static const float TOLERANCE = 0.04f;

static struct config shape_of(int experts, int head_dim)
{
    struct config c = {};
    c.n_layers = 2;
    c.hidden = 136;
    c.n_heads = 4;
    c.n_kv_heads = 2;
    c.head_dim = head_dim;
    c.ffn = 200;
    c.vocab = VOCAB + 3;
    c.ctx_max = CTX;
    c.rope_theta = 1e5f;
    c.rms_eps = 1e-6f;
    if (experts) {
        c.moe.n_experts = 9;
        c.moe.n_used = 9; /* all: which of two near ones a row takes is decided by its last bits */
        c.moe.ffn = 72;
        c.moe.norm_topk = 1;
        c.moe.layer[0] = c.moe.layer[1] = 1;
    }
    return c;
}

struct world {
    struct model *model;
    struct cpu *cpu;
    struct cpu_model *weights;
    struct target *target[2]; /* CPU, CUDA */
};

static struct target *open_one(const struct world *w, int cuda, int quant)
{
    struct err e = {};
    struct target_opts o = {};
    struct target *t;
    o.cuda = cuda;
    o.cpu = w->cpu;
    o.weights = w->weights;
    o.model = w->model;
    o.vocab = VOCAB;
    o.quant = quant;
    o.ctx_max = CTX;
    o.rows_max = ROWS;
    o.logits_max = LOGITS;
    o.kv_bytes = PAGES * (int64_t) cpu_kv_page_bytes(w->model, CPU_KV_BF16);
    if (target_open(&t, &o, &e))
        fail_msg("%s", e.text);
    return t;
}

static void world_open(struct world *w, const struct config *shape, int type)
{
    struct err e = {};
    struct cpu_opts o = {};
    o.threads = 1;
    w->model = synth_model_new(shape, type, 5);
    int quant = CPU_QUANT_F32; /* the weights as they are, without the CPU's rounding of activations */
    if (cpu_open(&w->cpu, &o, &e) || cpu_model_open(&w->weights, w->cpu, w->model, quant, &e))
        fail_msg("%s", e.text);
    w->target[0] = open_one(w, 0, quant);
    w->target[1] = open_one(w, 1, CPU_QUANT_STORED);
}

static void world_close(struct world *w)
{
    target_close(w->target[0]);
    target_close(w->target[1]);
    cpu_model_close(w->weights);
    cpu_close(w->cpu);
    synth_model_free(w->model);
}

/* Row i of what an item was given, on the host. */
static void read_row(const struct logits *l, int i, float *out)
{
    const float *row = (const float *) l->row + i * l->stride;
    if (l->mem == MEM_HOST)
        memcpy(out, row, VOCAB * sizeof *out);
    else
        must(cudaMemcpy(out, row, VOCAB * sizeof *out, cudaMemcpyDeviceToHost));
}

static float compare(const struct logits *a, const struct logits *b)
{
    static float x[VOCAB], y[VOCAB];
    float worst = 0;
    assert_int_equal(a->rows, b->rows);
    for (int i = 0; i < a->rows; i++) {
        float most = 0, off = 0;
        read_row(a, i, x);
        read_row(b, i, y);
        for (int v = 0; v < VOCAB; v++) {
            most = fmaxf(most, fabsf(x[v]));
            off = x[v] == y[v] ? off : fmaxf(off, fabsf(x[v] - y[v]));
            assert_true(y[v] == y[v]);
        }
        worst = fmaxf(worst, off / most);
    }
    return worst;
}

static void wait(struct target *t)
{
    assert_int_equal(target_wait(t), 0);
}

/* The same prompt, trees and paths through both targets. */
static void run(struct world *w, int n_prompt, uint64_t seed)
{
    static int32_t prompt[CTX];
    struct target_seq *seq[2];
    uint64_t dice = seed;
    int32_t cached;
    float worst = 0;
    for (int i = 0; i < n_prompt; i++)
        prompt[i] = small_token(&dice);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(target_seq_new(w->target[i], prompt, n_prompt + 1, 0, &seq[i], &cached), 0);
        struct target_item it = {};
        it.seq = seq[i];
        it.kind = TARGET_PROMPT;
        it.n = n_prompt;
        it.tok = prompt;
        assert_int_equal(target_submit(w->target[i], &it, 1, NULL), 0);
        wait(w->target[i]);
    }
    for (int r = 0; r < ROUNDS; r++) {
        struct tree tree;
        struct path path;
        struct logits view[2];
        small_tree(&tree, small_token(&dice), 1 + (int) small_dice(&dice, 30), 10, &dice);
        small_path(&tree, &path, &dice);
        for (int i = 0; i < 2; i++) {
            struct target_item it = {};
            it.seq = seq[i];
            it.kind = TARGET_TREE;
            it.tree = &tree;
            assert_int_equal(target_submit(w->target[i], &it, 1, NULL), 0);
            assert_int_equal(target_settle(w->target[i], &path, 1), 0);
            wait(w->target[i]);
            view[i] = it.logits;
        }
        worst = fmaxf(worst, compare(&view[0], &view[1]));
        assert_int_equal(target_seq_len(seq[0]), target_seq_len(seq[1]));
    }
    for (int i = 0; i < 2; i++)
        target_seq_free(w->target[i], seq[i]);
    printf("  prompt of %d: off by %.4f of the largest logit\n", n_prompt, (double) worst);
    assert_true(worst < TOLERANCE);
}

#ifdef __SANITIZE_THREAD__ /* the checked lane */
static const int one_prompt[] = {70, 0}, prompts[] = {70, 0};
#else
static const int one_prompt[] = {130, 0}, prompts[] = {1, 130, 330, 0};
#endif

static void against_cpu(int experts, int head_dim, int type, const int *lengths)
{
    struct world w;
    struct config c = shape_of(experts, head_dim);
    if (type == TENSOR_Q8_0) {
        c.hidden = 160;
        c.ffn = 192;
        c.moe.ffn = 96;
    }
    world_open(&w, &c, type);
    for (int i = 0; lengths[i]; i++)
        run(&w, lengths[i], 7 + (uint64_t) i);
    world_close(&w);
}

static void test_dense_bf16(void **)
{
    against_cpu(0, 64, TENSOR_BF16, prompts);
}

#ifdef HOSTSIM
/* A card that no table knows reads prompts by its own kernels. */
static void test_unknown_card(void **)
{
    hostsim_machine(1, (size_t) 1 << 30, 80);
    against_cpu(0, 64, TENSOR_BF16, one_prompt);
    hostsim_machine(1, (size_t) 1 << 30, 90);
}
#endif
static void test_heads_of_128(void **)
{
    against_cpu(0, 128, TENSOR_BF16, one_prompt);
}
static void test_dense_q8(void **)
{
    against_cpu(0, 64, TENSOR_Q8_0, one_prompt);
}
static void test_dense_fp8(void **)
{
    against_cpu(0, 64, TENSOR_F8_E4M3, one_prompt);
}
static void test_experts(void **)
{
    against_cpu(1, 64, TENSOR_BF16, one_prompt);
}
static void test_experts_q8(void **)
{
    against_cpu(1, 64, TENSOR_Q8_0, one_prompt);
}
static void test_experts_fp8(void **)
{
    against_cpu(1, 64, TENSOR_F8_E4M3, one_prompt);
}

#ifdef HOSTSIM
static int opens(const struct world *w, int64_t kv_bytes, struct err *e)
{
    struct target_opts o = {};
    struct target *t;
    o.cuda = 1;
    o.model = w->model;
    o.vocab = VOCAB;
    o.quant = CPU_QUANT_STORED;
    o.ctx_max = CTX;
    o.rows_max = ROWS;
    o.logits_max = LOGITS;
    o.kv_bytes = kv_bytes;
    int st = target_open(&t, &o, e);
    if (!st)
        target_close(t);
    return st;
}

static void says(const struct err *e, const char *word)
{
    if (!strstr(e->text, word))
        fail_msg("no '%s' in: %s", word, e->text);
}

/* What is missing is said in a sentence: driver, device, memory. */
static void test_refusals(void **)
{
    struct world w;
    struct err e = {};
    int32_t cuda;
    const size_t room = (size_t) 192 << 20;
    struct config c = shape_of(0, 64);
    hostsim_machine(1, room, 90);
    world_open(&w, &c, TENSOR_BF16);
    assert_int_equal(opens(&w, 8 << 20, &e), 0);
    assert_int_equal(opens(&w, 0, &e), 0); /* pages take what is left */
    assert_int_equal(opens(&w, INT64_C(2) << 30, &e), ST_NOMEM);
    says(&e, "are needed");
    says(&e, "are free");
    hostsim_machine(1, 4 << 20, 90);
    assert_int_equal(opens(&w, 0, &e), ST_NOMEM);
    says(&e, "are free");
    hostsim_machine(0, room, 90);
    assert_int_equal(opens(&w, 8 << 20, &e), ST_UNSUPPORTED);
    says(&e, "--device cpu");
    assert_int_equal(target_device_find("cuda:0", &cuda, &e), ST_UNSUPPORTED);
    assert_int_equal(target_device_find("auto", &cuda, &e), 0);
    assert_int_equal(cuda, 0);
    hostsim_machine(-1, room, 90);
    assert_int_equal(opens(&w, 8 << 20, &e), ST_UNSUPPORTED);
    says(&e, "driver");
    hostsim_machine(1, room, 75);
    assert_int_equal(opens(&w, 8 << 20, &e), ST_UNSUPPORTED);
    says(&e, "7.5");
    hostsim_machine(1, room, 90);
    assert_int_equal(target_device_find("auto", &cuda, &e), 0);
    assert_int_equal(cuda, 1);
    assert_int_equal(target_device_find("cuda:x", &cuda, &e), ST_INPUT);
    hostsim_machine(1, (size_t) 1 << 30, 90);
    world_close(&w);
}

/* A kernel that fails ends the pass with a fatal status, and so does everything after it. */
static void test_device_error(void **)
{
    struct world w;
    struct target_seq *seq;
    struct target_item it = {};
    struct tree tree;
    int32_t cached, prompt[] = {1, 2, 3};
    struct config c = shape_of(0, 64);
    world_open(&w, &c, TENSOR_BF16);
    assert_int_equal(target_seq_new(w.target[1], prompt, 3, 0, &seq, &cached), 0);
    tree_init(&tree, 1);
    it.seq = seq;
    it.kind = TARGET_TREE;
    it.tree = &tree;
    hostsim_inject("kernel", 5, cudaErrorLaunchFailure);
    for (int i = 0; i < 2; i++) {
        int st = target_submit(w.target[1], &it, 1, NULL);
        assert_int_equal(st ? st : target_wait(w.target[1]), ST_DEVICE);
        assert_int_equal(target_seq_len(seq), 0);
    }
    target_seq_free(w.target[1], seq);
    hostsim_clear();
    world_close(&w);
}
#endif

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
#ifdef HOSTSIM
        cmocka_unit_test(test_unknown_card), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_device_error),
#endif
        cmocka_unit_test(test_dense_bf16),   cmocka_unit_test(test_heads_of_128),
        cmocka_unit_test(test_dense_q8),     cmocka_unit_test(test_dense_fp8),
        cmocka_unit_test(test_experts),      cmocka_unit_test(test_experts_q8),
        cmocka_unit_test(test_experts_fp8)};
    return cmocka_run_group_tests_name("CUDA backend", tests, NULL, NULL);
}
