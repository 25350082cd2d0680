/* tree.c - the rules of core/tree.h: adding, looking down, trimming against an obvious sort, and every rule of tree_check broken
 * once. */
#include "core/tree.h"
#include "core/status.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { VOCAB = 1000, ROUNDS = 400 };

static uint32_t dice(uint64_t *state, uint32_t n)
{
    return (uint32_t) (synth_next(state) >> 33) % n;
}

/* Confidences of a few values only, so that products tie often. */
static void random_tree(struct tree *t, uint64_t *state)
{
    static const float conf[] = {0, 0.25f, 0.5f, 0.5f, 1};
    int n = 1 + (int) dice(state, TREE_MAX);
    tree_init(t, (int32_t) dice(state, VOCAB));
    while (t->n < n) {
        int parent = (int) dice(state, (uint32_t) t->n), tok = (int) dice(state, VOCAB);
        if (tree_child(t, parent, tok) < 0)
            tree_add(t, parent, tok, conf[dice(state, 5)], TREE_MODEL, 1000 + t->n);
    }
}

static void adds_and_looks_down(void **state)
{
    struct tree t;
    (void) state;
    tree_init(&t, 7);
    assert_int_equal(t.n, 1);
    assert_int_equal(t.parent[0], -1);
    assert_int_equal(tree_check(&t, 8), 0);
    int a = tree_add(&t, 0, 3, 0.5f, TREE_MODEL, 40), b = tree_add(&t, 0, 4, 0.25f, TREE_LOOKUP, -1);
    int c = tree_add(&t, a, 3, 0.125f, TREE_ORACLE, 41);
    assert_int_equal(a, 1);
    assert_int_equal(t.depth[c], 2);
    assert_int_equal(t.source[b], TREE_LOOKUP);
    assert_int_equal(t.ref[c], 41);
    assert_int_equal(tree_child(&t, 0, 4), b);
    assert_int_equal(tree_child(&t, 0, 5), -1);
    assert_int_equal(tree_child(&t, a, 3), c);
    assert_int_equal(tree_child(&t, b, 3), -1);
    assert_int_equal(tree_check(&t, 8), 0);
}

static void is_full_at_64(void **state)
{
    struct tree t;
    (void) state;
    tree_init(&t, 0);
    for (int i = 1; i < TREE_MAX; i++)
        assert_int_equal(tree_add(&t, i - 1, i, 1, TREE_MODEL, i), i);
    struct tree before = t;
    assert_int_equal(tree_add(&t, 0, 99, 1, TREE_MODEL, 0), ST_LIMIT);
    assert_memory_equal(&t, &before, sizeof t);
    assert_int_equal(t.depth[TREE_MAX - 1], TREE_MAX - 1);
    assert_int_equal(tree_check(&t, TREE_MAX), 0);
}

/* Whether node i is among the best `most` of the guesses: fewer than `most` stand before it. */
static int among_best(const struct tree *t, const float *alive, int i, int most)
{
    int ahead = 0;
    for (int j = 1; j < t->n; j++)
        ahead += alive[j] > alive[i] || (alive[j] == alive[i] && j < i);
    return ahead < most;
}

static void check_trimmed(const struct tree *t, const struct tree *cut, int budget)
{
    float alive[TREE_MAX] = {1};
    int to[TREE_MAX] = {0}, n = 1;
    for (int i = 1; i < t->n; i++) {
        alive[i] = alive[t->parent[i]] * t->conf[i];
        to[i] = -1;
    }
    for (int i = 1; i < t->n; i++) {
        if (!among_best(t, alive, i, budget - 1))
            continue;
        to[i] = n;
        assert_int_equal(cut->tok[n], t->tok[i]);
        assert_int_equal(cut->parent[n], to[t->parent[i]]);
        assert_int_equal(cut->depth[n], t->depth[i]);
        assert_true(cut->conf[n] == t->conf[i]);
        assert_int_equal(cut->source[n], t->source[i]);
        assert_int_equal(cut->ref[n], t->ref[i]);
        n++;
    }
    assert_int_equal(cut->n, n);
    assert_int_equal(cut->tok[0], t->tok[0]);
}

static void trims_to_the_likeliest(void **state)
{
    uint64_t seed = 11;
    (void) state;
    for (int i = 0; i < ROUNDS; i++) {
        struct tree t, cut;
        random_tree(&t, &seed);
        assert_int_equal(tree_check(&t, VOCAB), 0);
        int budget = (int) dice(&seed, TREE_MAX + 4);
        cut = t;
        tree_trim(&cut, budget);
        check_trimmed(&t, &cut, budget < 1 ? 1 : budget);
        assert_int_equal(tree_check(&cut, VOCAB), 0);
    }
}

static struct tree good(void)
{
    struct tree t;
    tree_init(&t, 0);
    tree_add(&t, 0, 1, 0.5f, TREE_MODEL, 0);
    tree_add(&t, 1, 2, 0.5f, TREE_MODEL, 1);
    tree_add(&t, 0, 3, 1, TREE_MODEL, 2);
    return t;
}

#define REFUSED(change)                                                                                      \
    do {                                                                                                     \
        struct tree t = good();                                                                              \
        assert_int_equal(tree_check(&t, 4), 0);                                                              \
        change;                                                                                              \
        assert_int_equal(tree_check(&t, 4), ST_INPUT);                                                       \
    } while (0)

static void refuses_every_broken_rule(void **state)
{
    (void) state;
    REFUSED(t.n = 0);
    REFUSED(t.n = TREE_MAX + 1);
    REFUSED(t.n = -1);
    REFUSED(t.parent[0] = 0);
    REFUSED(t.depth[0] = 1);
    REFUSED(t.parent[1] = 1); /* itself */
    REFUSED(t.parent[1] = 2); /* behind it */
    REFUSED(t.parent[1] = -1);
    REFUSED(t.depth[2] = 1);
    REFUSED(t.depth[3] = 2);
    REFUSED(t.tok[0] = -1);
    REFUSED(t.tok[2] = 4);
    REFUSED(t.tok[3] = 1); /* two siblings alike */
    REFUSED(t.conf[1] = 1.5f);
    REFUSED(t.conf[1] = -0.1f);
    REFUSED(t.conf[1] = __builtin_nanf(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(adds_and_looks_down), cmocka_unit_test(is_full_at_64),
                                       cmocka_unit_test(trims_to_the_likeliest),
                                       cmocka_unit_test(refuses_every_broken_rule)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
