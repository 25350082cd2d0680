/* spine.c - lookup and model in one tree: before the model has read the text, and after; what was accepted keeps its KV. */
#include "draft/draft.h"
#include "tests/lib/small.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

enum { TOP = 4, PROMPT_ROWS = 16, TEXT_MAX = 400 };

static struct small small;
static struct draft *draft;
static uint64_t dice;
static const struct draw_params params = {
    .top_p = 1, .max_tokens = 1 << 30, .repetition = 1, .think = {-1, -1, -1, -1, NULL, 0}};

static int set_up(void **state)
{
    struct err e;
    (void) state;
    dice = 31;
    small_open(&small, 3);
    struct draft_opts o = {.cpu = small.cpu,
                           .weights = small.weights,
                           .model = small.model,
                           .lookup = 1,
                           .vocab = SMALL_VOCAB,
                           .seqs_max = 4,
                           .context =
                               SMALL_CTX, /* no window slides: a fresh sequence sees what an old one saw */
                           .text_max = TEXT_MAX,
                           .top = TOP,
                           .prompt_rows = PROMPT_ROWS,
                           .kv_bytes = 64 << 20};
    return draft_open(&draft, &o, &e);
}

static int tear_down(void **state)
{
    (void) state;
    draft_close(draft);
    small_close(&small);
    return 0;
}

static struct draft_seq *talk(const int32_t *tok, int n)
{
    struct draft_seq *s;
    assert_int_equal(draft_seq_new(draft, &s), 0);
    assert_int_equal(draft_feed(draft, s, tok, n), 0);
    return s;
}

static void propose(struct draft_seq *s, int32_t root, int nodes, int depth, int spine, struct tree *t)
{
    struct draw_state st = {.pos = 1, .matched = -1};
    struct draft_job j = {.seq = s,
                          .root = root,
                          .draw = &params,
                          .state = &st,
                          .nodes = nodes,
                          .depth = depth,
                          .spine = spine,
                          .read = 1 << 20,
                          .tree = t};
    assert_int_equal(draft_propose(draft, &j, 1), 0);
    assert_int_equal(tree_check(t, SMALL_VOCAB), 0);
    assert_in_range(t->n, 1, nodes);
}

static void catch_up(struct draft_seq *s, int n)
{
    struct tree t;
    for (int i = 0; i <= n / PROMPT_ROWS; i++)
        propose(s, 1, 1, 0, 0, &t);
}

static int count(const struct tree *t, int source)
{
    int n = 0;
    for (int i = 0; i < t->n; i++)
        n += t->source[i] == source;
    return n;
}

/* A text that says the same 40 tokens again and again. */
static void repeat(int32_t *text, int n)
{
    for (int i = 0; i < n; i++)
        text[i] = i < 40 ? small_token(&dice) : text[i - 40];
}

static void lookup_does_not_wait_for_the_model(void **state)
{
    int32_t text[200];
    struct tree t;
    (void) state;
    repeat(text, 200);
    struct draft_seq *s = talk(text, 150);
    propose(s, text[150], 16, 6, 6, &t);
    assert_int_equal(count(&t, TREE_MODEL), 0);
    assert_in_range(count(&t, TREE_LOOKUP), 1, 6);
    for (int i = 0; i < t.n; i++)
        assert_int_equal(t.tok[i], text[150 + i]);
    draft_seq_free(draft, s);
}

/* The walk that keeps the tree's nodes which say text[0], text[1], ... */
static int follow(const struct tree *t, const int32_t *text, struct path *p)
{
    int at = 0, child;
    *p = (struct path){0};
    while ((child = tree_child(t, at, text[p->n])) >= 0) {
        p->node[p->n++] = (int16_t) child;
        at = child;
    }
    p->next = text[p->n];
    return p->n;
}

/* The model's children of the root: what it makes of the text it has read. */
static int ranked(struct draft_seq *s, int32_t root, int32_t *tok)
{
    struct tree t;
    int n = 0;
    propose(s, root, TREE_MAX, 1, 0, &t);
    for (int i = 1; i < t.n; i++)
        tok[n++] = t.tok[i];
    return n;
}

static void both_grow_one_tree_and_keep_what_was_accepted(void **state)
{
    int32_t text[TEXT_MAX];
    long spine = 0, model = 0;
    (void) state;
    repeat(text, TEXT_MAX);
    struct draft_seq *s = talk(text, 60);
    catch_up(s, 60);
    for (int at = 60; at < TEXT_MAX - TREE_MAX;) {
        struct tree t;
        struct path p;
        int32_t a[TOP], b[TOP];
        propose(s, text[at], 24, 6, 20, &t);
        spine += count(&t, TREE_LOOKUP);
        model += count(&t, TREE_MODEL);
        at += 1 + follow(&t, text + at + 1, &p);
        assert_int_equal(draft_settle(draft, s, &t, &p), 0);
        struct draft_seq *fresh = talk(text, at);
        catch_up(fresh, at);
        int n = ranked(s, text[at], a), m = ranked(fresh, text[at], b);
        assert_int_equal(n, m);
        assert_in_range(n, 1, TOP);
        assert_memory_equal(a, b, (size_t) n * sizeof *a);
        draft_seq_free(draft, fresh);
    }
    print_message("%ld nodes by lookup, %ld by the model\n", spine, model);
    assert_in_range(spine, 20, 100000);
    assert_in_range(model, 20, 100000);
    draft_seq_free(draft, s);
}

/* Where both say the same it is one node, and it counts as the model's, which has read it or can.  Texts are made until the word
 * that followed last time is one of the model's own. */
static void they_share_a_node_where_they_agree(void **state)
{
    int shared = 0;
    (void) state;
    for (int round = 0; round < 60; round++) {
        int32_t text[120], own[TOP];
        struct tree t;
        repeat(text, 120);
        struct draft_seq *s = talk(text, 81);
        catch_up(s, 81);
        int n = ranked(s, text[81], own), agree = 0;
        for (int i = 0; i < n; i++)
            agree |= own[i] == text[82];
        propose(s, text[81], 24, 1, 4, &t);
        int child = tree_child(&t, 0, text[82]);
        if (agree) {
            assert_true(child > 0);
            assert_int_equal(t.source[child], TREE_MODEL);
            shared++;
        } else if (child > 0) {
            assert_int_equal(t.source[child], TREE_LOOKUP);
        }
        draft_seq_free(draft, s);
    }
    assert_in_range(shared, 1, 59);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lookup_does_not_wait_for_the_model, set_up, tear_down),
        cmocka_unit_test_setup_teardown(both_grow_one_tree_and_keep_what_was_accepted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(they_share_a_node_where_they_agree, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
