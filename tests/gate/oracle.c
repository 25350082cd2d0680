/* oracle.c - guesses that really are accepted: the true text planted among decoys, at random slots.
 *
 * This program brings its own draft (the functions of draft/draft.h below take the archive's place at link time): it knows the
 * reference texts, finds the one a sequence is on, and hands out trees whose true path runs through random slots, is cut short
 * or goes wrong at random.  Ids, phases and logit bits must equal the reference all the same.
 *
 * oracle [PATTERN [tiny|random|experts]] */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "draft/draft.h"
#include "tests/lib/gate.h"
#include "tests/lib/synth.h"

enum { N_MAX = 40, TEXT_MAX = GATE_PROMPT_MAX + GATE_TOKENS_MAX };

static struct gate_pair pair;
enum { HOWS_MAX = 16 };
static struct gate_result *reference[HOWS_MAX]; /* of each sampling, made when a test first asks */
static struct gate_result *want, *got;          /* want: the one of how */
static const struct gate_how *how;
static int N; /* prompts an arm: 40, fewer under a sanitizer */

/* What became of the guesses. */
static struct {
    long tokens, accepted, elsewhere; /* elsewhere: accepted at a slot other than the depth */
    int largest, deepest;             /* tree; path: of all samplings */
} seen;

/* --- a draft that knows the answer --- */

struct draft {
    uint64_t dice;
};

struct draft_seq {
    int32_t tok[TEXT_MAX];
    int32_t n;
};

int draft_open(struct draft **out, const struct draft_opts *o, struct err *e)
{
    (void) o;
    (void) e;
    *out = calloc(1, sizeof **out);
    (*out)->dice = 42;
    return 0;
}

void draft_close(struct draft *d)
{
    free(d);
}

int draft_seq_new(struct draft *d, struct draft_seq **out)
{
    (void) d;
    *out = calloc(1, sizeof **out);
    return 0;
}

void draft_seq_free(struct draft *d, struct draft_seq *s)
{
    (void) d;
    free(s);
}

int draft_feed(struct draft *d, struct draft_seq *s, const int32_t *tok, int32_t n)
{
    (void) d;
    memcpy(s->tok + s->n, tok, (size_t) n * sizeof *tok);
    s->n += n;
    return 0;
}

int32_t draft_unread(const struct draft *d, const struct draft_seq *s)
{
    (void) d;
    (void) s;
    return 0;
}

float draft_hope(const struct draft *d, const struct draft_seq *s, int warm)
{
    (void) d;
    (void) s;
    (void) warm;
    return 1;
}

int draft_rewind(struct draft *d, struct draft_seq *s, int32_t len)
{
    (void) d;
    s->n = len;
    return 0;
}

/* For made-up acceptance alone, which no gate has. */
int32_t draft_weighed(const struct draft_seq *s, int32_t at, int32_t *best, int32_t *tok, int32_t most)
{
    (void) s, (void) at, (void) best, (void) tok, (void) most;
    abort();
}

static int below(struct draft *d, int n)
{
    return (int) ((synth_next(&d->dice) >> 33) % (uint64_t) n);
}

/* The reference text this sequence and root are the beginning of: what follows, and how much of it. */
static int future(const struct draft_seq *s, int32_t root, const int32_t **next)
{
    for (int i = 0; i < N; i++) {
        int prompt = pair.prompt[i].n, out = s->n + 1 - prompt;
        if (out < 0 || out > want[i].n ||
            memcmp(s->tok, pair.prompt[i].id, (size_t) (out ? prompt : prompt - 1) * 4))
            continue;
        if (out ? memcmp(s->tok + prompt, want[i].tok, (size_t) (out - 1) * 4) || want[i].tok[out - 1] != root
                : pair.prompt[i].id[prompt - 1] != root)
            continue;
        *next = want[i].tok + out;
        return want[i].n - out;
    }
    return 0;
}

static void plant(struct draft *d, struct draft_job *j, const int32_t *next, int n)
{
    struct tree *t = j->tree;
    int at = 0, planted = 0, goal = n ? 1 + below(d, n < j->depth ? n : j->depth) : 0;
    while (t->n < j->nodes) {
        int true_next = planted < goal && below(d, 3) == 0;
        int parent = true_next ? at : below(d, t->n);
        int32_t tok = true_next ? next[planted] : below(d, pair.vocab);
        int there = tree_child(t, parent, tok);
        if (t->depth[parent] >= j->depth || (there >= 0 && !true_next))
            continue;
        int node = there >= 0 ? there : tree_add(t, parent, tok, 0.5f, TREE_ORACLE, -1);
        if (true_next) {
            at = node;
            planted++;
        }
    }
}

int draft_begin(struct draft *d, struct draft_job *job, int n, struct draft_pass *did)
{
    *did = (struct draft_pass){0};
    for (int i = 0; i < n; i++) {
        const int32_t *next = NULL;
        tree_init(job[i].tree, job[i].root);
        int left = future(job[i].seq, job[i].root, &next);
        if (job[i].nodes > 1 && job[i].depth > 0)
            plant(d, &job[i], next, left);
    }
    return 0;
}

void draft_offer(struct draft *d, struct draft_job *job, int n, struct draft_pass *next)
{
    (void) d;
    (void) job;
    (void) n;
    *next = (struct draft_pass){0};
}

int draft_grow(struct draft *d)
{
    (void) d;
    return 0;
}

void draft_finish(struct draft *d, struct draft_job *job, int n)
{
    (void) d;
    (void) job;
    (void) n;
}

int draft_settle(struct draft *d, struct draft_seq *s, const struct tree *tree, const struct path *path)
{
    seen.tokens += path->n + 1;
    seen.accepted += path->n;
    seen.largest = tree->n > seen.largest ? tree->n : seen.largest;
    seen.deepest = path->n > seen.deepest ? path->n : seen.deepest;
    draft_feed(d, s, tree->tok, 1);
    for (int i = 0; i < path->n; i++) {
        seen.elsewhere += path->node[i] != tree->depth[path->node[i]];
        draft_feed(d, s, &tree->tok[path->node[i]], 1);
    }
    return 0;
}

/* --- the gate --- */

static int set_up(void (*make)(struct gate_pair *))
{
    make(&pair);
    N = gate_scale(N_MAX);
    got = calloc(N_MAX, sizeof *got);
    return !got;
}

static int set_up_tiny(void **state)
{
    (void) state;
    return set_up(gate_tiny);
}

static int set_up_random(void **state)
{
    (void) state;
    return set_up(gate_random);
}

static int set_up_experts(void **state)
{
    (void) state;
    return set_up(gate_experts);
}

static int tear_down(void **state)
{
    (void) state;
    for (int h = 0; h < HOWS_MAX; h++) {
        free(reference[h]);
        reference[h] = NULL;
    }
    free(got);
    gate_pair_free(&pair);
    return 0;
}

/* Sampling h, and what it says with drafting off, one client and one thread. */
static void refer(int h)
{
    struct engine_opts o = gate_opts(&pair);
    struct gate_request req[N_MAX];
    how = h < gate_n_hows ? &gate_hows[h] : &gate_extras[h - gate_n_hows];
    if (!reference[h]) {
        reference[h] = calloc(N_MAX, sizeof *want);
        assert_non_null(reference[h]);
        for (int i = 0; i < N; i++)
            req[i] = (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_OFF};
        gate_run(&o, &pair, how, req, N, 1, reference[h]);
    }
    want = reference[h];
}

static void run(int nodes, int depth, int at_once, int threads)
{
    struct engine_opts o = gate_opts(&pair);
    struct gate_request req[N_MAX];
    o.threads = threads;
    memset(&seen, 0, sizeof seen);
    EACH_HOW_AND_EXTRA(h)
    {
        refer(h);
        for (int i = 0; i < N; i++)
            req[i] =
                (struct gate_request){.prompt = i, .spec = ENGINE_SPEC_NODES, .nodes = nodes, .depth = depth};
        seen.tokens = seen.accepted = seen.elsewhere = 0;
        gate_run(&o, &pair, how, req, N, at_once, got);
        for (int i = 0; i < N; i++)
            gate_same(how->name, i, &want[i], &got[i], 0);
        print_message(
            "  %s: %d nodes, %d at once: of %ld tokens %ld accepted guesses, %ld of them at slot != depth\n",
            how->name, nodes, at_once, seen.tokens, seen.accepted, seen.elsewhere);
        assert_true(seen.accepted * 100 >= seen.tokens * 30);
        assert_true(seen.elsewhere * 100 >= seen.accepted * 20);
    }
}

static void test_16_nodes(void **state)
{
    (void) state;
    run(16, 12, 1, 1);
}

static void test_16_clients(void **state)
{
    (void) state;
    run(16, 12, 16, 2);
}

/* Four at once: the rows of a pass are enough for four such trees. */
static void test_64_nodes(void **state)
{
    (void) state;
    run(TREE_MAX, TREE_MAX - 1, 4, 2);
    assert_true(seen.largest == TREE_MAX && seen.deepest > gate_tokens(36) / 3);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_16_nodes), cmocka_unit_test(test_16_clients),
                                       cmocka_unit_test(test_64_nodes)};
    int failed = 0;
    if (argc < 3 || strcmp(argv[2], "tiny") == 0)
        failed += cmocka_run_group_tests_name("gate: oracle trees, tiny pair", tests, set_up_tiny, tear_down);
    if (argc < 3 || strcmp(argv[2], "random") == 0)
        failed +=
            cmocka_run_group_tests_name("gate: oracle trees, random pair", tests, set_up_random, tear_down);
    if (argc < 3 || strcmp(argv[2], "experts") == 0)
        failed +=
            cmocka_run_group_tests_name("gate: oracle trees, experts", tests, set_up_experts, tear_down);
    return failed;
}
