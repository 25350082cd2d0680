/* draft_parallel.c - a model that guesses several tokens in one pass (PARD): its lists are what a plain pass over text, root and
 * unknown tokens gives, its trees the likeliest that can be made of these lists, and nothing of a pass is left for the next. */
#include "draft/internal.h"
#include "tests/lib/small.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 400, UNKNOWN = SMALL_VOCAB + 1, TOP = 3, DEPTH = 5, PATHS_MAX = 1000 };

static struct small small;
static uint64_t seed = 11;

static int setup(void **state)
{
    (void) state;
    small_open(&small, 4);
    small.model->config.parallel = 1;
    small.model->config.pard_token = UNKNOWN;
    return 0;
}

static int teardown(void **state)
{
    (void) state;
    small_close(&small);
    return 0;
}

static struct draft *open_draft(int lookup, int portion)
{
    struct draft *d;
    struct err e = {0};
    struct draft_opts o = {.cpu = small.cpu,
                           .weights = small.weights,
                           .model = small.model,
                           .lookup = lookup,
                           .vocab = SMALL_VOCAB,
                           .seqs_max = 4,
                           .context = 256,
                           .text_max = TEXT_MAX,
                           .top = TOP,
                           .prompt_rows = portion,
                           .kv_bytes = 16 * (int64_t) cpu_kv_page_bytes(small.model, CPU_KV_BF16)};
    if (draft_open(&d, &o, &e))
        fail_msg("%s", e.text);
    return d;
}

/* --- the reference: one pass over everything, all in pages --- */

struct lists {
    int32_t tok[DEPTH][TOP];
    float conf[DEPTH][TOP];
};

static void plain_pass(const int32_t *text, int n, int32_t root, float *logits)
{
    static const int32_t page[] = {0, 1, 2, 3};
    static struct cpu_row row[256];
    struct cpu_kv *kv;
    assert_int_equal(cpu_kv_open(&kv, small.model, CPU_KV_BF16, 4, 1, NULL), 0);
    for (int i = 0; i < n + DEPTH; i++)
        row[i] = (struct cpu_row){.tok = i < n    ? text[i]
                                         : i == n ? root
                                                  : UNKNOWN,
                                  .pos = i,
                                  .page = page,
                                  .slot = -1,
                                  .logits = i < n ? -1 : i - n};
    assert_int_equal(
        cpu_forward(small.weights, kv, row, n + DEPTH, logits, small.model->config.vocab + 16, 0), 0);
    cpu_kv_close(kv);
}

static void plain_lists(const struct draft *d, const int32_t *text, int n, int32_t root,
                        const struct draw_params *draw, struct lists *out)
{
    static float logits[DEPTH * (SMALL_VOCAB + 64)];
    struct draw_scratch *x = draw_scratch_new(SMALL_VOCAB);
    int warm = draw->temperature > 0;
    assert_non_null(x);
    plain_pass(text, n, root, logits);
    for (int k = 0; k < DEPTH; k++) {
        struct draw_state at = {.pos = n + 1 + k, .matched = -1};
        float score[TOP], prob[TOP];
        assert_int_equal(draw_rank(draw, &at, NULL, logits + k * (small.model->config.vocab + 16),
                                   SMALL_VOCAB, x, TOP, out->tok[k], score, warm ? NULL : prob),
                         TOP);
        for (int i = 0; i < TOP; i++)
            out->conf[k][i] =
                draft__calib_conf(&d->calib, draft__calib_key(warm, k + 1, i, score, prob, TOP));
    }
    draw_scratch_free(x);
}

/* How likely every path through the lists is. */
static int all_paths(const struct lists *l, int depth, float alive, float *out, int n)
{
    for (int i = 0; depth < DEPTH && i < TOP; i++) {
        float a = alive * l->conf[depth][i];
        if (a >= 0.01f) {
            out[n++] = a;
            n = all_paths(l, depth + 1, a, out, n);
        }
    }
    return n;
}

static int down(const void *a, const void *b)
{
    float x = *(const float *) a, y = *(const float *) b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void check_tree(const struct tree *t, const struct lists *l, int nodes)
{
    static float alive[PATHS_MAX];
    float mine[TREE_MAX] = {1};
    int n = all_paths(l, 0, 1, alive, 0);
    qsort(alive, (size_t) n, sizeof *alive, down);
    assert_int_equal(tree_check(t, SMALL_VOCAB), 0);
    assert_int_equal(t->n, n + 1 < nodes ? n + 1 : nodes);
    for (int i = 1; i < t->n; i++) {
        int k = t->depth[i] - 1, at = 0;
        while (at < TOP && l->tok[k][at] != t->tok[i])
            at++;
        assert_in_range(at, 0, TOP - 1);
        assert_true(t->conf[i] == l->conf[k][at]);
        mine[i] = mine[t->parent[i]] * t->conf[i];
    }
    qsort(mine + 1, (size_t) t->n - 1, sizeof *mine, down);
    for (int i = 1; i < t->n; i++)
        assert_true(fabsf(mine[i] - alive[i - 1]) < 1e-6f);
}

/* --- a conversation --- */

struct talk {
    struct draft_seq *seq;
    struct draw_params draw;
    struct draw_state state;
    int32_t tok[TEXT_MAX], root;
    int n;
    struct tree tree;
};

static void talk_new(struct draft *d, struct talk *t, int n, float temperature)
{
    *t = (struct talk){.root = small_token(&seed), .n = n};
    t->draw = (struct draw_params){.top_p = 1,
                                   .max_tokens = 1 << 30,
                                   .repetition = 1,
                                   .temperature = temperature,
                                   .seed = 7,
                                   .think = {-1, -1, -1, -1, NULL, 0}};
    for (int i = 0; i < n; i++)
        t->tok[i] = small_token(&seed);
    assert_int_equal(draft_seq_new(d, &t->seq), 0);
    assert_int_equal(draft_feed(d, t->seq, t->tok, n), 0);
}

static struct draft_job job_of(struct talk *t, int nodes, int depth)
{
    t->state = (struct draw_state){.pos = t->n + 1, .matched = -1};
    return (struct draft_job){.seq = t->seq,
                              .root = t->root,
                              .draw = &t->draw,
                              .state = &t->state,
                              .nodes = nodes,
                              .depth = depth,
                              .spine = depth,
                              .read = 1 << 20,
                              .tree = &t->tree};
}

static void settle(struct draft *d, struct talk *t)
{
    struct path p;
    small_path(&t->tree, &p, &seed);
    t->tok[t->n++] = t->root;
    for (int i = 0; i < p.n; i++)
        t->tok[t->n++] = t->tree.tok[p.node[i]];
    assert_int_equal(draft_settle(d, t->seq, &t->tree, &p), 0);
    t->root = p.next;
}

static void one_pass_gives_the_likeliest_tree(void **state)
{
    static const int nodes[] = {2, 3, 8, 24, 64};
    static struct talk t;
    static struct lists l;
    (void) state;
    for (int round = 0; round < 20; round++) {
        struct draft *d = open_draft(0, 20); /* its calibration is the prior */
        struct draft_pass did, next;
        talk_new(d, &t, 3 + round * 9, round % 2 ? 0.8f : 0.0f);
        struct draft_job j = job_of(&t, nodes[round % 5], DEPTH);
        do
            assert_int_equal(draft_begin(d, &j, 1, &did), 0);
        while (did.rows == did.unread);
        assert_int_equal(did.rows - did.unread, DEPTH);
        draft_offer(d, &j, 1, &next);
        assert_int_equal(next.rows, 0); /* there is nothing left to read */
        draft_finish(d, &j, 1);
        plain_lists(d, t.tok, t.n, t.root, &t.draw, &l);
        check_tree(&t.tree, &l, nodes[round % 5]);
        assert_int_equal(d->n_free_slots, d->n_slots);
        draft_seq_free(d, t.seq);
        draft_close(d);
    }
}

/* Whatever was kept, the next tree is the one a fresh sequence of the same text has, beside others in one pass, too. */
static void nothing_is_left_behind(void **state)
{
    static struct talk t[3], fresh;
    (void) state;
    for (int lookup = 0; lookup < 2; lookup++) {
        struct draft *d = open_draft(lookup, 300);
        int kept = 0;
        for (int i = 0; i < 3; i++)
            talk_new(d, &t[i], 20 + 17 * i, 0.5f * (float) i);
        for (int round = 0; round < 30; round++) {
            struct draft_job j[4];
            fresh = t[round % 3];
            assert_int_equal(draft_seq_new(d, &fresh.seq), 0);
            assert_int_equal(draft_feed(d, fresh.seq, fresh.tok, fresh.n), 0);
            fresh.seq->luck = t[round % 3].seq->luck;
            for (int i = 0; i < 4; i++)
                j[i] = job_of(i < 3 ? &t[i] : &fresh, 20, 4 + i % 3);
            j[3].depth = j[round % 3].depth;
            j[3].spine = j[round % 3].spine;
            while (draft_unread(d, fresh.seq)) {
                j[3].nodes = 1;
                assert_int_equal(draft_propose(d, &j[3], 1), 0);
            }
            j[3].nodes = 20;
            assert_int_equal(draft_propose(d, j, 4), 0);
            assert_int_equal(d->n_free_slots, d->n_slots);
            const struct tree *a = &t[round % 3].tree, *b = &fresh.tree;
            assert_int_equal(a->n, b->n);
            assert_memory_equal(a->tok, b->tok, (size_t) a->n * sizeof *a->tok);
            assert_memory_equal(a->parent, b->parent, (size_t) a->n * sizeof *a->parent);
            draft_seq_free(d, fresh.seq);
            for (int i = 0; i < 3; i++) {
                int before = t[i].n;
                settle(d, &t[i]);
                kept += t[i].n - before - 1;
            }
        }
        assert_true(kept > 30);
        for (int i = 0; i < 3; i++)
            draft_seq_free(d, t[i].seq);
        draft_close(d);
    }
}

/* Where nothing is drawn, or what may be drawn depends on the branch, its trees keep to that. */
static void trees_keep_their_limits(void **state)
{
    static const int32_t closer[] = {5, 6};
    static struct talk t;
    (void) state;
    struct draft *d = open_draft(0, 300);
    talk_new(d, &t, 10, 0);
    struct draft_job j = job_of(&t, 64, 12);
    t.draw.think = (struct draw_think){50, 51, -1, 2, closer, 2};
    t.state.phase = DRAW_THINKING;
    assert_int_equal(draft_propose(d, &j, 1), 0);
    int deepest = 0;
    for (int i = 0; i < t.tree.n; i++)
        deepest = t.tree.depth[i] > deepest ? t.tree.depth[i] : deepest;
    assert_in_range(deepest, 1, 2); /* two thoughts are left: the third level is known text */
    t.draw.think.budget = -1;
    t.draw.max_tokens = 3;
    t.state.n_output = 1;
    assert_int_equal(draft_propose(d, &j, 1), 0);
    for (int i = 0; i < t.tree.n; i++)
        assert_in_range(t.tree.depth[i], 0, 2);
    draft_seq_free(d, t.seq);
    draft_close(d);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_pass_gives_the_likeliest_tree),
        cmocka_unit_test(nothing_is_left_behind),
        cmocka_unit_test(trees_keep_their_limits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
