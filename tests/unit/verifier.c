/* verifier.c - the walk on hand-made logits: how far it goes, where it ends, what it says next, what it hashes, and that a bad row
 * spoils its own job only. */
#include "verifier/verifier.h"

#include "core/queue.h"
#include "tests/lib/small.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

enum { VOCAB = 21, STRIDE = 32, JOBS = 6, OPEN = 15, CLOSE = 16, EOS = 19 };

static const int32_t eos[] = {EOS};
static const int32_t closer[] = {7, CLOSE, 8};

/* One job: row i of its logits says say[i] (by far the largest). */
struct desk {
    struct tree tree;
    float row[TREE_MAX][STRIDE];
    struct logits logits;
    struct draw_params draw;
    struct draw_state state;
    struct path path;
    uint64_t hash[TREE_MAX];
};

static struct verifier *verifier;
static struct queue *queue;

static int setup(void **state)
{
    (void) state;
    queue = queue_new(8);
    return verifier_open(&verifier, VOCAB, JOBS, NULL) || !queue;
}

static int teardown(void **state)
{
    (void) state;
    verifier_close(verifier);
    verifier_close(NULL);
    queue_free(queue);
    return 0;
}

static void says(struct desk *d, int node, int32_t tok)
{
    for (int v = 0; v < STRIDE; v++)
        d->row[node][v] = v < VOCAB ? (float) (v % 5) : NAN; /* behind the ids in use nothing may be read */
    d->row[node][tok] = 100;
}

/* The chain 1 2 3 ... below the root, which the target agrees with; then it says 10. */
static void desk_init(struct desk *d, int chain)
{
    memset(d, 0, sizeof *d);
    tree_init(&d->tree, 0);
    for (int i = 1; i <= chain; i++)
        tree_add(&d->tree, i - 1, i, 1, TREE_ORACLE, -1);
    for (int i = 0; i <= chain; i++)
        says(d, i, i < chain ? i + 1 : 10);
    d->logits = (struct logits){d->row, chain + 1, VOCAB, STRIDE, MEM_HOST, queue, NULL};
    d->draw = (struct draw_params){
        .top_p = 1, .max_tokens = 1000, .eos = eos, .n_eos = 1, .think = {OPEN, CLOSE, -1, -1, closer, 3}};
    d->state = (struct draw_state){.pos = 50, .n_output = 3, .matched = -1};
}

static struct verifier_job job_of(struct desk *d)
{
    return (struct verifier_job){.tree = &d->tree,
                                 .logits = &d->logits,
                                 .draw = &d->draw,
                                 .state = &d->state,
                                 .path = &d->path,
                                 .row_hash = d->hash};
}

static void walk(struct desk *d)
{
    struct verifier_job j = job_of(d);
    struct draw_state before = d->state;
    memset(&d->path, 0x55, sizeof d->path);
    memset(d->hash, 0x55, sizeof d->hash);
    assert_int_equal(verifier_submit(verifier, &j, 1), 0);
    assert_int_equal(queue_wait(queue), 0);
    assert_memory_equal(&d->state, &before, sizeof before); /* the state is the caller's */
}

static void check(const struct desk *d, int n, int32_t next)
{
    assert_int_equal(d->path.status, 0);
    assert_int_equal(d->path.n, n);
    assert_int_equal(d->path.next, next);
    for (int i = 0; i < n; i++)
        assert_int_equal(d->path.node[i], i + 1);
    for (int i = 0; i < n; i++)
        assert_true(d->hash[i] != 0);
}

/* --- how far --- */

static void follows_what_the_target_says(void **state)
{
    struct desk d;
    (void) state;
    for (int chain = 0; chain < 8; chain++) {
        desk_init(&d, chain);
        walk(&d);
        check(&d, chain, 10);
        for (int wrong = 0; wrong < chain; wrong++) {
            desk_init(&d, chain);
            says(&d, wrong, 12);
            walk(&d);
            check(&d, wrong, 12);
            assert_true(d.hash[wrong] != 0);
        }
    }
}

/* 63 guesses of one token: every one is kept. */
static void goes_to_the_deepest_node(void **state)
{
    struct desk d;
    (void) state;
    desk_init(&d, 0);
    for (int i = 1; i < TREE_MAX; i++)
        tree_add(&d.tree, i - 1, 4, 1, TREE_ORACLE, -1);
    for (int i = 0; i < TREE_MAX; i++)
        says(&d, i, 4);
    d.logits.rows = TREE_MAX;
    walk(&d);
    check(&d, TREE_MAX - 1, 4);
    assert_true(d.hash[TREE_MAX - 1] == d.hash[0]);
}

static void takes_the_branch_that_was_said(void **state)
{
    struct desk d;
    (void) state;
    desk_init(&d, 0);
    int a = tree_add(&d.tree, 0, 4, 1, TREE_MODEL, -1), b = tree_add(&d.tree, 0, 5, 1, TREE_MODEL, -1);
    int under_a = tree_add(&d.tree, a, 5, 1, TREE_MODEL, -1),
        under_b = tree_add(&d.tree, b, 6, 1, TREE_MODEL, -1);
    says(&d, 0, 5);
    says(&d, a, 5);
    says(&d, b, 6);
    says(&d, under_a, 1);
    says(&d, under_b, 2);
    walk(&d);
    assert_int_equal(d.path.n, 2);
    assert_int_equal(d.path.node[0], b);
    assert_int_equal(d.path.node[1], under_b);
    assert_int_equal(d.path.next, 2);
}

/* Rows that are not visited are not read. */
static void reads_the_rows_it_visits_alone(void **state)
{
    struct desk d;
    (void) state;
    desk_init(&d, 3);
    says(&d, 1, 12);
    d.row[2][0] = d.row[3][0] = NAN;
    walk(&d);
    check(&d, 1, 12);
}

/* --- where it ends --- */

static void ends_at_a_stop(void **state)
{
    static const int32_t stop[] = {2};
    struct desk d;
    (void) state;
    desk_init(&d, 4);
    d.draw.stop = stop;
    d.draw.n_stop = 1;
    walk(&d);
    check(&d, 1, 2); /* 2 has a node, and is the last word all the same */
    desk_init(&d, 4);
    d.tree.tok[3] = EOS;
    says(&d, 2, EOS);
    walk(&d);
    check(&d, 2, EOS);
    d.draw.ignore_eos = 1;
    walk(&d);
    check(&d, 4, 10);
}

static void ends_at_max_tokens(void **state)
{
    struct desk d;
    (void) state;
    for (int left = 1; left < 7; left++) {
        desk_init(&d, 4);
        d.draw.max_tokens = d.state.n_output + left;
        walk(&d);
        check(&d, left <= 4 ? left - 1 : 4, left <= 4 ? left : 10);
    }
}

static void ends_where_the_closing_text_begins(void **state)
{
    struct desk d;
    (void) state;
    for (int budget = 0; budget < 6; budget++) {
        desk_init(&d, 4);
        d.state.phase = DRAW_THINKING;
        d.draw.think.budget = budget;
        walk(&d);
        int n = budget < 4 ? budget : 4;
        check(&d, n, budget <= 4 ? closer[0] : 10);
        assert_true((d.hash[n] == 0) == (budget <= 4)); /* what is forced is not drawn */
    }
    desk_init(&d, 4);
    d.state.phase = DRAW_CLOSING; /* in the middle of it: the next known one */
    d.state.closer_at = 2;
    walk(&d);
    check(&d, 0, closer[2]);
    assert_true(d.hash[0] == 0);
}

/* --- hashes --- */

static void hashes_every_bit_of_a_row(void **state)
{
    struct desk d;
    (void) state;
    desk_init(&d, 2);
    walk(&d);
    uint64_t before[3];
    memcpy(before, d.hash, sizeof before);
    assert_true(before[0] != before[1] && before[1] != before[2]);
    walk(&d);
    assert_memory_equal(d.hash, before, sizeof before);
    for (int v = 0; v < VOCAB; v++) {
        float kept = d.row[1][v];
        uint32_t u;
        memcpy(&u, &kept, sizeof u);
        u ^= 1; /* the last bit of one logit */
        memcpy(&d.row[1][v], &u, sizeof u);
        walk(&d);
        assert_true(d.hash[0] == before[0] && d.hash[1] != before[1] && d.hash[2] == before[2]);
        d.row[1][v] = kept;
    }
    d.row[1][VOCAB] = 1; /* padding is no part of it */
    walk(&d);
    assert_memory_equal(d.hash, before, sizeof before);
    struct verifier_job j = job_of(&d);
    j.row_hash = NULL; /* nobody asked */
    assert_int_equal(verifier_submit(verifier, &j, 1), 0);
    assert_int_equal(queue_wait(queue), 0);
    check(&d, 2, 10);
}

/* --- many jobs --- */

static void a_bad_row_spoils_its_own_job(void **state)
{
    static struct desk d[JOBS];
    struct verifier_job j[JOBS + 1];
    (void) state;
    for (int bad = 0; bad < JOBS; bad++)
        for (int row = 0; row < 3; row++) {
            for (int i = 0; i < JOBS; i++) {
                desk_init(&d[i], 3);
                says(&d[i], 3, 11 + i);
                j[i] = job_of(&d[i]);
            }
            d[bad].row[row][4] = row ? INFINITY : NAN;
            assert_int_equal(verifier_submit(verifier, j, JOBS), 0);
            assert_int_equal(queue_wait(queue), 0);
            for (int i = 0; i < JOBS; i++) {
                if (i != bad)
                    check(&d[i], 3, 11 + i);
                assert_int_equal(d[i].path.status, i == bad ? ST_NONFINITE : 0);
            }
            assert_int_equal(d[bad].path.n, 0);
            assert_int_equal(d[bad].path.next, -1);
        }
    desk_init(&d[0], 1); /* masks that leave nothing are that request's own trouble, too */
    d[0].draw.allowed = eos;
    d[0].draw.n_allowed = 1;
    d[0].draw.banned = eos;
    d[0].draw.n_banned = 1;
    walk(&d[0]);
    assert_int_equal(d[0].path.status, ST_INPUT);
    assert_int_equal(d[0].path.n, 0);
    j[JOBS] = j[0];
    assert_int_equal(verifier_submit(verifier, j, JOBS + 1), ST_LIMIT);
    assert_int_equal(verifier_submit(verifier, j, 0), 0);
    assert_int_equal(queue_wait(queue), 0);
}

/* Jobs are copied: the caller's array may go before the queue runs. */
static void jobs_may_go_before_the_walk(void **state)
{
    static struct desk d[2];
    struct verifier_job j[2];
    (void) state;
    for (int i = 0; i < 2; i++) {
        desk_init(&d[i], 2 + i);
        j[i] = job_of(&d[i]);
    }
    assert_int_equal(verifier_submit(verifier, j, 2), 0);
    memset(j, 0, sizeof j);
    assert_int_equal(queue_wait(queue), 0);
    check(&d[0], 2, 10);
    check(&d[1], 3, 10);
}

/* --- the promise --- */

static void random_rows(struct desk *d, uint64_t *seed)
{
    for (int i = 0; i < d->tree.n; i++)
        for (int v = 0; v < VOCAB; v++)
            d->row[i][v] = 0.25f * (float) small_dice(seed, 20);
}

/* What a walk says is what one draw after another would have said, with warm dice, whatever the tree. */
static void says_what_plain_drawing_says(void **state)
{
    static struct desk d;
    struct draw_scratch *x = draw_scratch_new(VOCAB);
    uint64_t seed = 12;
    int kept = 0;
    (void) state;
    assert_non_null(x);
    for (int round = 0; round < 3000; round++) {
        desk_init(&d, 0);
        while (d.tree.n < 40) {
            int parent = (int) small_dice(&seed, (uint32_t) d.tree.n), tok = (int) small_dice(&seed, VOCAB);
            if (tree_child(&d.tree, parent, tok) < 0)
                tree_add(&d.tree, parent, tok, 1, TREE_ORACLE, -1);
        }
        random_rows(&d, &seed);
        d.draw.temperature = round % 3 ? 0.7f : 0;
        d.draw.top_k = round % 5 ? 0 : 4;
        d.draw.max_tokens = d.state.n_output + 1 + (int) small_dice(&seed, 6);
        d.draw.seed = (uint64_t) round;
        d.draw.think.budget = (int) small_dice(&seed, 4);
        d.state.phase = (uint8_t) small_dice(&seed, 2);
        walk(&d);
        struct draw_state s = d.state;
        int32_t tok, at = 0;
        for (int i = 0; i <= d.path.n; i++) {
            assert_false(s.done);
            if (!draw_forced(&d.draw, &s, &tok))
                assert_int_equal(draw_pick(&d.draw, &s, NULL, d.row[at], VOCAB, x, &tok), 0);
            else
                assert_int_equal(i, d.path.n); /* what is forced is never a node */
            int said = i < d.path.n ? d.tree.tok[d.path.node[i]] : d.path.next;
            assert_int_equal(said, tok);
            if (i < d.path.n) {
                assert_int_equal(d.tree.parent[d.path.node[i]], at);
                at = d.path.node[i];
            }
            int drawn = !draw_forced(&d.draw, &s, &tok);
            draw_step(&d.draw, &s, said);
            if (i == d.path.n && drawn && !s.done)
                assert_int_equal(tree_child(&d.tree, at, said), -1); /* it went as far as it could */
        }
        kept += d.path.n;
    }
    assert_in_range(kept, 300, 100000);
    draw_scratch_free(x);
}

/* --- for timing alone: words put into its mouth --- */

static void walk_told(struct desk *d, const struct verifier_told *told)
{
    struct verifier_job j = job_of(d);
    j.told = told;
    memset(&d->path, 0x55, sizeof d->path);
    assert_int_equal(verifier_submit(verifier, &j, 1), 0);
    assert_int_equal(queue_wait(queue), 0);
}

/* The chain 1 2 3 4, of which the target says nothing: it says 12. */
static void desk_of_chain(struct desk *d)
{
    desk_init(d, 4);
    for (int i = 0; i <= 4; i++)
        says(d, i, 12);
}

static void says_what_it_is_told(void **state)
{
    struct desk d;
    (void) state;
    for (int32_t n = 0; n <= 4; n++) {
        struct verifier_told told = {.n = n, .tok = {1, 2, 3, 4}};
        desk_of_chain(&d);
        walk_told(&d, &told);
        check(&d, n, 12); /* then it speaks for itself, and the walk ends */
    }
    struct verifier_told beside = {.n = 2, .tok = {1, 9}}; /* 9 was cut off the tree */
    desk_of_chain(&d);
    walk_told(&d, &beside);
    check(&d, 1, 9);
}

/* Off the top path nothing is kept, even if the target says it; and what it then says is no guess. */
static void says_none_of_the_others(void **state)
{
    struct desk d;
    struct verifier_told told = {.n = 1, .tok = {1}, .n_other = 2, .other = {2, 12}};
    (void) state;
    desk_of_chain(&d);
    says(&d, 1, 2); /* then 12 and 17, by far */
    d.row[1][12] = 90;
    d.row[1][17] = 80;
    walk_told(&d, &told);
    check(&d, 1, 17);
    told.n_other = 0; /* not asked to avoid it: the walk ends all the same */
    walk_told(&d, &told);
    check(&d, 1, 2);
    static const int32_t allowed[] = {2}; /* nothing else is left: it is said, and not kept */
    told.n_other = 2;
    told.tok[0] = 2;
    told.n = 0;
    d.draw.allowed = allowed;
    d.draw.n_allowed = 1;
    walk_told(&d, &told);
    check(&d, 0, 2);
}

static void is_told_within_masks_and_ends(void **state)
{
    static const int32_t banned[] = {2}, stop[] = {3};
    struct verifier_told told = {.n = 4, .tok = {1, 2, 3, 4}};
    struct desk d;
    (void) state;
    desk_of_chain(&d);
    d.draw.banned = banned;
    d.draw.n_banned = 1;
    walk_told(&d, &told);
    check(&d, 1, 12);
    desk_of_chain(&d);
    d.draw.stop = stop;
    d.draw.n_stop = 1;
    walk_told(&d, &told);
    check(&d, 2, 3);
    desk_of_chain(&d);
    d.draw.max_tokens = d.state.n_output + 2;
    walk_told(&d, &told);
    check(&d, 1, 2);
    desk_of_chain(&d);
    d.state.phase = DRAW_THINKING;
    d.draw.think.budget = 2;
    walk_told(&d, &told);
    check(&d, 2, closer[0]);
    desk_of_chain(&d);
    d.row[2][3] = NAN; /* a row that is visited is read, whatever is said there */
    walk_told(&d, &told);
    assert_int_equal(d.path.status, ST_NONFINITE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(follows_what_the_target_says),
                                       cmocka_unit_test(goes_to_the_deepest_node),
                                       cmocka_unit_test(takes_the_branch_that_was_said),
                                       cmocka_unit_test(reads_the_rows_it_visits_alone),
                                       cmocka_unit_test(ends_at_a_stop),
                                       cmocka_unit_test(ends_at_max_tokens),
                                       cmocka_unit_test(ends_where_the_closing_text_begins),
                                       cmocka_unit_test(hashes_every_bit_of_a_row),
                                       cmocka_unit_test(a_bad_row_spoils_its_own_job),
                                       cmocka_unit_test(jobs_may_go_before_the_walk),
                                       cmocka_unit_test(says_what_plain_drawing_says),
                                       cmocka_unit_test(says_what_it_is_told),
                                       cmocka_unit_test(says_none_of_the_others),
                                       cmocka_unit_test(is_told_within_masks_and_ends)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
