/* tiny.c - both tiny models' greedy answers, token for token, as transformers gives them in float32.
 *
 * The prompt is one chunk, the answer goes one row at a time; stored weights, F32 keys and values.  All lines run on the
 * best instruction set here, the first few on the twin too.  On those few the other roads are walked as well and compared
 * bit for bit: one row at a time, trees in scattered slots, one to three threads. */
#include "tests/lib/passes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 1024, TWIN_LINES = 6 };

struct line {
    const char *model;
    int n_prompt, n_ids;
    int32_t prompt[TOKENS_MAX], ids[TOKENS_MAX];
};

static int read_ids(const json_t *list, int32_t *out)
{
    int n = (int) json_array_size(list);
    assert_in_range(n, 1, TOKENS_MAX);
    for (int i = 0; i < n; i++)
        out[i] = (int32_t) json_integer_value(json_array_get(list, (size_t) i));
    return n;
}

static json_t *read_line(const char *text, struct line *l)
{
    json_error_t e;
    json_t *o = json_loads(text, 0, &e);
    assert_non_null(o);
    l->model = json_string_value(json_object_get(o, "model"));
    l->n_prompt = read_ids(json_object_get(o, "prompt_ids"), l->prompt);
    l->n_ids = read_ids(json_object_get(o, "ids"), l->ids);
    return o;
}

static void answer(struct passes *p, const struct line *l)
{
    float *logits = malloc((size_t) l->n_prompt * (size_t) p->vocab * sizeof *logits);
    assert_non_null(logits);
    p->len = 0;
    passes_chunk(p, l->prompt, l->n_prompt, logits, 0);
    const float *last = logits + (l->n_prompt - 1) * p->vocab;
    for (int i = 0; i < l->n_ids; i++) {
        assert_int_equal(passes_argmax(last, p->vocab), l->ids[i]);
        passes_chunk(p, &l->ids[i], 1, logits, 0);
        last = logits;
    }
    free(logits);
}

/* prompt + answer, all rows' logits, by one chunk */
static float *by_chunk(struct passes *p, const int32_t *ids, int n)
{
    float *logits = malloc((size_t) n * (size_t) p->vocab * sizeof *logits);
    assert_non_null(logits);
    p->len = 0;
    passes_chunk(p, ids, n, logits, 0);
    return logits;
}

/* The same by trees of up to eight nodes: a true chain whose nodes lie in scattered slots, each with a wrong sibling;
 * then the chain is settled. */
static void by_trees(struct passes *p, const int32_t *ids, int n, const float *expected)
{
    float *logits = malloc(TREE_MAX * (size_t) p->vocab * sizeof *logits);
    assert_non_null(logits);
    p->len = 0;
    for (int at = 0; at < n;) {
        struct tree t;
        int32_t slot[TREE_MAX];
        int on[8], m = n - at < 8 ? n - at : 8;
        tree_init(&t, ids[at]);
        on[0] = 0;
        for (int d = 1; d < m; d++) {
            tree_add(&t, on[d - 1], (ids[at + d] + 1) % p->vocab, 0.5f, TREE_ORACLE, -1);
            on[d] = tree_add(&t, on[d - 1], ids[at + d], 0.5f, TREE_ORACLE, -1);
        }
        for (int i = 0; i < t.n; i++)
            slot[i] = (i * 59 + 17 + at * 3) % PASSES_SLOTS;
        passes_tree(p, &t, slot, logits);
        for (int d = 0; d < m; d++, at++) {
            assert_memory_equal(logits + on[d] * p->vocab, expected + (int64_t) at * p->vocab,
                                (size_t) p->vocab * sizeof *logits);
            passes_commit(p, slot[on[d]]);
        }
    }
    free(logits);
}

static void every_road(const struct model *m, const struct line *l, int kv_type, int quant)
{
    static int32_t ids[2 * TOKENS_MAX];
    int n = l->n_prompt + l->n_ids;
    memcpy(ids, l->prompt, (size_t) l->n_prompt * sizeof *ids);
    memcpy(ids + l->n_prompt, l->ids, (size_t) l->n_ids * sizeof *ids);
    float *expected = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct passes p;
        passes_open(&p, m, (struct passes_opts){.threads = threads, .quant = quant, .kv_type = kv_type});
        float *all = by_chunk(&p, ids, n), *one = malloc((size_t) p.vocab * sizeof *one);
        if (!expected)
            expected = all;
        assert_memory_equal(all, expected, (size_t) n * (size_t) p.vocab * sizeof *all);
        p.len = 0;
        for (int i = 0; i < n; i++) {
            passes_chunk(&p, &ids[i], 1, one, 0);
            assert_memory_equal(one, expected + (int64_t) i * p.vocab, (size_t) p.vocab * sizeof *one);
        }
        by_trees(&p, ids, n, expected);
        free(one);
        if (all != expected)
            free(all);
        passes_close(&p);
    }
    free(expected);
}

static void check(const char *name, const char *dir)
{
    struct err e;
    struct model *m;
    struct passes best, twin;
    struct line l;
    size_t bytes;
    const char *path = passes_shared(dir);
    if (!path)
        skip();
    if (model_open(&m, path, &e))
        fail_msg("%s", e.text);
    path = passes_shared("golden/tiny.jsonl");
    if (!path)
        skip();
    char *text = passes_file(path, &bytes), *rest = text;
    int stored = cpu_quant_stored(m), seen = 0;
    passes_open(&best, m, (struct passes_opts){.threads = 2, .kv_type = CPU_KV_F32, .quant = stored});
    passes_open(
        &twin, m,
        (struct passes_opts){.threads = 2, .kv_type = CPU_KV_F32, .quant = stored, .isa = passes_twin()});
    for (char *one; (one = strsep(&rest, "\n")) && *one;) {
        json_t *o = read_line(one, &l);
        if (strcmp(l.model, name) == 0) {
            answer(&best, &l);
            if (seen < TWIN_LINES)
                answer(&twin, &l);
            if (seen == 0) {
                every_road(m, &l, CPU_KV_BF16, stored);
                every_road(m, &l, CPU_KV_F32, CPU_QUANT_Q8);
            }
            seen++;
        }
        json_decref(o);
    }
    print_message("%s: %d answers\n", name, seen);
    assert_true(seen > 100);
    passes_close(&best);
    passes_close(&twin);
    model_close(m);
    free(text);
}

static void target_answers(void **state)
{
    (void) state;
    check("target", "tiny/target");
}

static void draft_answers(void **state)
{
    (void) state;
    check("draft", "tiny/draft");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(target_answers), cmocka_unit_test(draft_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
