/* kl.c - what quantized weights cost: the mean Kullback-Leibler divergence of the next token's distribution, from the tiny target's
 * own weights in float to a file's as the CPU serves it (`--target-quant auto`), activations rounded and all.
 *
 * Teacher-forced over prompt and answer of every target line of golden/tiny.jsonl, F32 keys and values.  Beside each bar what
 * llama.cpp gets on the same file and text. */
#include "tests/lib/passes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 1024 };

/* D(p || q) of the two rows' softmax, in double. */
static double divergence(const float *p, const float *q, int n)
{
    double sum_p = 0, sum_q = 0, kl = 0;
    int top_p = passes_argmax(p, n), top_q = passes_argmax(q, n);
    for (int i = 0; i < n; i++) {
        sum_p += exp((double) p[i] - p[top_p]);
        sum_q += exp((double) q[i] - q[top_q]);
    }
    for (int i = 0; i < n; i++) {
        double log_p = (double) p[i] - p[top_p] - log(sum_p), log_q = (double) q[i] - q[top_q] - log(sum_q);
        kl += exp(log_p) * (log_p - log_q);
    }
    return kl;
}

static int append(const json_t *list, int32_t *ids, int n)
{
    size_t more = json_array_size(list);
    assert_in_range(n + (int) more, 1, TOKENS_MAX);
    for (size_t i = 0; i < more; i++)
        ids[n++] = (int32_t) json_integer_value(json_array_get(list, i));
    return n;
}

static void model_of(struct model **m, struct passes *p, const char *tail, int quant)
{
    struct err e;
    const char *path = passes_shared(tail);
    if (!path)
        skip();
    if (model_open(m, path, &e))
        fail_msg("%s", e.text);
    passes_open(p, *m, (struct passes_opts){.threads = 2, .kv_type = CPU_KV_F32, .quant = quant});
}

/* Sums the divergences of all rows of one text. */
static double over_text(struct passes *p, struct passes *q, const int32_t *ids, int n)
{
    size_t cells = (size_t) n * (size_t) p->vocab;
    float *a = malloc(cells * sizeof *a), *b = malloc(cells * sizeof *b);
    double sum = 0;
    assert_true(a && b);
    p->len = q->len = 0;
    passes_chunk(p, ids, n, a, 0);
    passes_chunk(q, ids, n, b, 0);
    for (int i = 0; i < n; i++)
        sum += divergence(a + i * p->vocab, b + i * p->vocab, p->vocab);
    free(a);
    free(b);
    return sum;
}

static void check(const char *name, double bar)
{
    struct model *m, *served;
    struct passes p, q;
    char tail[64], kept[200];
    size_t bytes;
    double sum = 0;
    long rows = 0;
    snprintf(tail, sizeof tail, "golden/gguf/%s/model.gguf", name);
    model_of(&m, &p, "tiny/target", CPU_QUANT_F32);
    model_of(&served, &q, tail, CPU_QUANT_STORED);
    const char *path = passes_shared("golden/tiny.jsonl");
    if (!path)
        skip();
    char *text = passes_file(path, &bytes), *rest = text;
    for (char *one; (one = strsep(&rest, "\n")) && *one;) {
        json_error_t e;
        json_t *o = json_loads(one, 0, &e);
        int32_t ids[TOKENS_MAX];
        assert_non_null(o);
        if (strcmp(json_string_value(json_object_get(o, "model")), "target") == 0) {
            int n = append(json_object_get(o, "ids"), ids, append(json_object_get(o, "prompt_ids"), ids, 0));
            sum += over_text(&p, &q, ids, n);
            rows += n;
        }
        json_decref(o);
    }
    cpu_quant_describe(served, CPU_QUANT_STORED, kept, sizeof kept);
    print_message("%s (%s): mean divergence %.3g over %ld rows, bar %.3g\n", name, kept, sum / (double) rows,
                  rows, bar);
    assert_in_range(rows, 1000, 1000000);
    assert_true(sum / (double) rows <= bar);
    passes_close(&p);
    passes_close(&q);
    model_close(m);
    model_close(served);
    free(text);
}

static void q8_0(void **state)
{
    (void) state;
    check("q8_0", 1.5e-4); /* llama.cpp 1.26e-4 */
}

static void q4_0(void **state)
{
    (void) state;
    check("q4_0", 1.05e-2); /* llama.cpp 8.72e-3 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(q8_0), cmocka_unit_test(q4_0)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
