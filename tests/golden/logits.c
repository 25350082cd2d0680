/* logits.c - against transformers: random checkpoints and GGUF files, stored weights widened to float32.
 *
 * Bars, relative to the largest absolute logit of a checkpoint: 5e-5 with F32 keys and values, 2e-2 with BF16 ones.
 * Greedy continuations, one row at a time, are identical with F32 ones.
 *
 * A model with experts is no continuous function of its keys: where two experts' logits nearly tie, rounded keys pick the other
 * one, and the row (with what reads it) moves by more.  With BF16 keys, 19 rows of 20 are held to the bar there. */
#include "tests/lib/passes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct golden {
    struct model *model;
    char *text, *at; /* cases.txt */
    float *expected; /* logits.f32 */
    int cases;
    int rows, rows_off; /* compared; of them over the bar */
    float largest;      /* absolute logit of the checkpoint */
    char path[4096];
};

static int next_int(struct golden *g)
{
    return (int) strtol(g->at, &g->at, 10);
}

/* "WORD N id..." -> ids; returns N. */
static int next_list(struct golden *g, const char *word, int32_t *ids, int cap)
{
    g->at += strspn(g->at, " \n");
    assert_memory_equal(g->at, word, strlen(word));
    g->at += strlen(word);
    int n = next_int(g);
    assert_in_range(n, 0, cap);
    for (int i = 0; i < n; i++)
        ids[i] = next_int(g);
    return n;
}

static void golden_open(struct golden *g, const char *name)
{
    char tail[256];
    struct err e;
    size_t bytes;
    *g = (struct golden){0};
    int gguf = strncmp(name, "gguf/", 5) == 0;
    snprintf(tail, sizeof tail, "golden/%s%s", gguf ? "" : "logits/", name);
    const char *dir = passes_shared(tail);
    if (!dir)
        skip();
    snprintf(g->path, sizeof g->path, "%s%s", dir, gguf ? "/model.gguf" : "");
    if (model_open(&g->model, g->path, &e))
        fail_msg("%s", e.text);
    snprintf(g->path, sizeof g->path, "%s/logits.f32", dir);
    g->expected = (float *) (void *) passes_file(g->path, &bytes);
    for (size_t i = 0; i < bytes / sizeof(float); i++)
        g->largest = fmaxf(g->largest, fabsf(g->expected[i]));
    snprintf(g->path, sizeof g->path, "%s/cases.txt", dir);
    g->at = g->text = passes_file(g->path, &bytes);
    g->cases = next_int(g);
    assert_int_equal(next_int(g), g->model->config.vocab);
}

static void golden_close(struct golden *g)
{
    model_close(g->model);
    free(g->expected);
    free(g->text);
}

static float row_off(const float *got, const float *want, int vocab)
{
    float worst = 0;
    for (int v = 0; v < vocab; v++)
        worst = fmaxf(worst, fabsf(got[v] - want[v]));
    return worst;
}

/* Runs one case; returns the largest difference from `expected`, the kept rows of the case. */
static float run_case(struct golden *g, struct passes_opts o, float bar, const float **expected)
{
    static int32_t ids[4096], kept[4096], greedy[4096];
    int n = next_list(g, "ids", ids, 4096), rows = next_list(g, "rows", kept, 4096);
    int more = next_list(g, "greedy", greedy, 4096), vocab = g->model->config.vocab;
    struct passes p;
    passes_open(&p, g->model, o);
    float *logits = malloc((size_t) n * (size_t) vocab * sizeof *logits), worst = 0;
    assert_non_null(logits);
    passes_chunk(&p, ids, n, logits, o.flags);
    for (int r = 0; r < rows; r++) {
        float off = row_off(logits + kept[r] * vocab, *expected + r * vocab, vocab);
        worst = fmaxf(worst, off);
        g->rows++;
        g->rows_off += off > bar * g->largest;
    }
    *expected += (size_t) rows * (size_t) vocab;
    memmove(logits, logits + (n - 1) * vocab, (size_t) vocab * sizeof *logits);
    for (int i = 0; i < more && o.kv_type == CPU_KV_F32; i++) {
        assert_int_equal(passes_argmax(logits, vocab), greedy[i]);
        passes_chunk(&p, &greedy[i], 1, logits, 0);
    }
    free(logits);
    passes_close(&p);
    return worst;
}

/* A precision that holds stored values exactly. */
static int is_float(int quant)
{
    return quant == CPU_QUANT_F32 || quant == CPU_QUANT_BF16 || quant == CPU_QUANT_F16;
}

static void check(const char *name, struct passes_opts o, float bar)
{
    struct golden g;
    golden_open(&g, name);
    o.quant = is_float(cpu_quant_stored(g.model)) ? cpu_quant_stored(g.model) : CPU_QUANT_F32;
    const float *expected = g.expected;
    float worst = 0;
    for (int i = 0; i < g.cases; i++)
        worst = fmaxf(worst, run_case(&g, o, bar, &expected));
    print_message("%s: %s keys%s: off by %.2g of the largest logit, bar %.2g: %d of %d rows over it\n", name,
                  o.kv_type == CPU_KV_F32 ? "F32" : "BF16", o.flags ? ", OpenBLAS" : "",
                  (double) (worst / g.largest), (double) bar, g.rows_off, g.rows);
    if (g.model->config.moe.n_experts && o.kv_type == CPU_KV_BF16)
        assert_true(g.rows_off * 20 <= g.rows);
    else
        assert_true(worst <= bar * g.largest);
    golden_close(&g);
}

static const struct passes_opts f32 = {.threads = 2, .kv_type = CPU_KV_F32};
static const struct passes_opts bf16 = {.threads = 2, .kv_type = CPU_KV_BF16};
/* OpenBLAS sums in its own order and the draft's bar is loose, but F32 weights leave it little room. */
static const struct passes_opts blas = {.threads = 2, .kv_type = CPU_KV_F32, .flags = CPU_FORWARD_BLAS};

#define CASE(id, name)                                                                                       \
    static void id(void **state)                                                                             \
    {                                                                                                        \
        (void) state;                                                                                        \
        check(name, f32, 5e-5f);                                                                             \
        check(name, bf16, 2e-2f);                                                                            \
        check(name, blas, 5e-5f);                                                                            \
    }

CASE(dense_tied, "dense-tied")
CASE(dense_untied, "dense-untied")
CASE(dense_bf16, "dense-bf16")
CASE(sharded, "sharded")
CASE(long_context, "long")
CASE(dense_f16, "dense-f16")
CASE(fp8, "fp8")
CASE(yarn, "yarn")
CASE(yarn_4, "yarn-4")
CASE(moe, "moe")
CASE(moe_mixed, "moe-mixed")
CASE(gguf_bf16, "gguf/bf16")
CASE(gguf_q8_0, "gguf/q8_0")
CASE(gguf_q4_0, "gguf/q4_0")
CASE(gguf_q4_k_m, "gguf/q4_k_m")
CASE(gguf_q6_k, "gguf/q6_k")
CASE(gguf_moe_q8_0, "gguf/moe-q8_0")

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_tied), cmocka_unit_test(dense_untied),  cmocka_unit_test(dense_bf16),
        cmocka_unit_test(sharded),    cmocka_unit_test(long_context),  cmocka_unit_test(dense_f16),
        cmocka_unit_test(fp8),        cmocka_unit_test(yarn),          cmocka_unit_test(yarn_4),
        cmocka_unit_test(moe),        cmocka_unit_test(moe_mixed),     cmocka_unit_test(gguf_bf16),
        cmocka_unit_test(gguf_q8_0),  cmocka_unit_test(gguf_q4_0),     cmocka_unit_test(gguf_q4_k_m),
        cmocka_unit_test(gguf_q6_k),  cmocka_unit_test(gguf_moe_q8_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
