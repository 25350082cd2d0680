/* draft.c - draft.h on a small random model: every tree is a tree and keeps its limits, nothing is lost on the way, and a sequence
 * that was fed, settled and rewound proposes what a fresh one of the same text does, to the bit. */
#include "draft/internal.h"
#include "tests/lib/small.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

enum {
    TEXT_MAX = 3000,
    SEQS = 4,
    PROMPT_ROWS = 20
}; /* portions too short for OpenBLAS: bits can be compared */

static struct small small;
static uint64_t seed = 1;

static int setup(void **state)
{
    (void) state;
    small_open(&small, 4);
    return 0;
}

static int teardown(void **state)
{
    (void) state;
    small_close(&small);
    return 0;
}

static struct draft_opts opts(int context, int seqs)
{
    int64_t page = (int64_t) cpu_kv_page_bytes(small.model, CPU_KV_BF16);
    return (struct draft_opts){.cpu = small.cpu,
                               .weights = small.weights,
                               .model = small.model,
                               .vocab = SMALL_VOCAB,
                               .seqs_max = seqs,
                               .context = context,
                               .text_max = TEXT_MAX,
                               .top = 4,
                               .prompt_rows = PROMPT_ROWS,
                               .kv_bytes = page * seqs * ((context + CPU_PAGE - 1) / CPU_PAGE)};
}

static struct draft *open_with(struct draft_opts o)
{
    struct draft *d;
    struct err e = {0};
    if (draft_open(&d, &o, &e))
        fail_msg("%s", e.text);
    return d;
}

/* --- one conversation --- */

struct talk {
    struct draft_seq *seq;
    struct draw_params draw;
    struct draw_state state; /* after the root */
    int32_t tok[TEXT_MAX];   /* noted tokens */
    int n;
    int32_t root;
    struct tree tree; /* of the last propose */
};

static void talk_new(struct draft *d, struct talk *t)
{
    *t = (struct talk){.root = small_token(&seed)};
    t->draw = (struct draw_params){
        .top_p = 1, .max_tokens = 1 << 30, .seed = 7, .think = {-1, -1, -1, -1, NULL, 0}};
    t->state = (struct draw_state){.pos = 1, .matched = -1};
    assert_int_equal(draft_seq_new(d, &t->seq), 0);
}

static void feed(struct draft *d, struct talk *t, int n)
{
    for (int i = 0; i < n; i++)
        t->tok[t->n + i] = small_token(&seed);
    assert_int_equal(draft_feed(d, t->seq, t->tok + t->n, n), 0);
    t->n += n;
    t->state.pos = t->n + 1;
}

static struct draft_job job_of(struct talk *t, int nodes, int depth)
{
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

static int deepest(const struct tree *t)
{
    int depth = 0;
    for (int i = 0; i < t->n; i++)
        depth = t->depth[i] > depth ? t->depth[i] : depth;
    return depth;
}

static void propose(struct draft *d, struct talk *t, int nodes, int depth)
{
    struct draft_job j = job_of(t, nodes, depth);
    assert_int_equal(draft_propose(d, &j, 1), 0);
    assert_int_equal(tree_check(&t->tree, SMALL_VOCAB), 0);
    assert_int_equal(t->tree.tok[0], t->root);
    assert_in_range(t->tree.n, 1, nodes < 1 ? 1 : nodes);
    assert_in_range(deepest(&t->tree), 0, depth < 0 ? 0 : depth);
}

/* Lets it read all it was fed. */
static void catch_up(struct draft *d, struct talk *t)
{
    for (int i = 0; i <= t->n / PROMPT_ROWS; i++) {
        propose(d, t, 1, 0);
        assert_int_equal(t->tree.n, 1);
    }
}

static void settle(struct draft *d, struct talk *t, const struct path *p)
{
    t->tok[t->n++] = t->root;
    for (int i = 0; i < p->n; i++)
        t->tok[t->n++] = t->tree.tok[p->node[i]];
    assert_int_equal(draft_settle(d, t->seq, &t->tree, p), 0);
    t->root = p->next;
    t->state.pos = t->n + 1;
}

static void settle_somehow(struct draft *d, struct talk *t)
{
    struct path p;
    small_path(&t->tree, &p, &seed);
    settle(d, t, &p);
}

/* Pages and slots are either free or somebody's. */
static void check_books(const struct draft *d, const struct talk *t, int n)
{
    int pages = d->n_free_pages, slots = d->n_free_slots;
    uint8_t seen[4096] = {0};
    for (int i = 0; i < d->n_free_pages; i++)
        assert_int_equal(seen[d->free_page[i]]++, 0);
    for (int i = 0; i < n; i++) {
        const struct draft_seq *s = t[i].seq;
        for (int k = 0; s && k < s->n_pages; k++)
            assert_int_equal(seen[s->page[k]]++, 0);
        pages += s ? s->n_pages : 0;
        for (int k = 0; s && k < s->n_cand; k++)
            slots += s->cand[k].slot >= 0;
    }
    assert_int_equal(pages, d->n_pages);
    assert_int_equal(slots, d->n_slots);
}

static void same_trees(const struct tree *a, const struct tree *b)
{
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++) {
        assert_int_equal(a->tok[i], b->tok[i]);
        assert_int_equal(a->parent[i], b->parent[i]);
        assert_int_equal(a->source[i], b->source[i]);
        assert_true(a->conf[i] == b->conf[i]);
    }
}

/* A fresh sequence of the same text, asked in the same call, proposes the same. */
static void check_as_fresh(struct draft *d, struct talk *t, int nodes, int depth)
{
    static struct talk fresh;
    fresh = *t;
    assert_int_equal(draft_seq_new(d, &fresh.seq), 0);
    assert_int_equal(draft_feed(d, fresh.seq, fresh.tok, fresh.n), 0);
    catch_up(d, &fresh);
    catch_up(d, t);
    struct draft_job j[] = {job_of(t, nodes, depth), job_of(&fresh, nodes, depth)};
    assert_int_equal(draft_propose(d, j, 2), 0);
    same_trees(&t->tree, &fresh.tree);
    draft_seq_free(d, fresh.seq);
}

/* --- opening --- */

static void refuses_options(void **state)
{
    struct draft *d;
    struct err e;
    (void) state;
#define REFUSED(change, st, words)                                                                           \
    do {                                                                                                     \
        struct draft_opts o = opts(256, 2);                                                                  \
        change;                                                                                              \
        assert_int_equal(draft_open(&d, &o, &e), st);                                                        \
        assert_null(d);                                                                                      \
        assert_non_null(strstr(e.text, words));                                                              \
    } while (0)
    REFUSED(o.context = 2 * CPU_PAGE - 1, ST_INPUT, "--draft-context must be at least 128");
    REFUSED(o.top = 0, ST_INPUT, "--draft-top must be in 1..16");
    REFUSED(o.top = 17, ST_INPUT, "--draft-top must be in 1..16");
    REFUSED(o.kv_bytes = 1, ST_LIMIT, "--draft-kv-bytes 1 is too little");
    REFUSED(o.vocab = SMALL_VOCAB + 4, ST_INPUT, "vocabulary");
    draft_close(NULL);
}

static void holds_so_many_sequences(void **state)
{
    struct draft *d = open_with(opts(256, 2));
    struct talk t[2];
    struct draft_seq *s;
    (void) state;
    talk_new(d, &t[0]);
    talk_new(d, &t[1]);
    assert_int_equal(draft_seq_new(d, &s), ST_LIMIT);
    assert_null(s);
    draft_seq_free(d, t[0].seq);
    draft_seq_free(d, NULL);
    talk_new(d, &t[0]);
    draft_seq_free(d, t[0].seq);
    draft_seq_free(d, t[1].seq);
    draft_close(d);
}

/* --- trees --- */

static void trees_keep_their_limits(void **state)
{
    static const int nodes[] = {1, 2, 3, 5, 16, 64}, depths[] = {0, 1, 2, 7, 20, 63};
    static const float temperatures[] = {0, 0.6f, 1.5f};
    static struct talk t;
    (void) state;
    for (int top = 1; top <= 16; top += 5) {
        struct draft_opts o = opts(256, 1);
        o.top = top;
        struct draft *d = open_with(o);
        talk_new(d, &t);
        feed(d, &t, 30);
        for (int i = 0; i < 6 * 6 * 3; i++) {
            t.draw.temperature = temperatures[i % 3];
            catch_up(d, &t);
            propose(d, &t, nodes[i / 3 % 6], depths[i / 18]);
            if (nodes[i / 3 % 6] > 1 && depths[i / 18] > 0)
                assert_in_range(t.tree.n, 2, 64);
            for (int k = 0; k < t.tree.n; k++) {
                int children = 0;
                for (int j = 1; j < t.tree.n; j++)
                    children += t.tree.parent[j] == k;
                assert_in_range(children, 0, top);
            }
            check_books(d, &t, 1);
            settle_somehow(d, &t);
            check_books(d, &t, 1);
        }
        draft_seq_free(d, t.seq);
        check_books(d, NULL, 0);
        draft_close(d);
    }
}

/* Jobs of one call keep each its own limits. */
static void jobs_keep_their_own_limits(void **state)
{
    static const struct {
        int nodes, depth;
    } want[SEQS] = {{1, 0}, {40, 2}, {5, 9}, {64, 12}};
    static struct talk t[SEQS];
    struct draft *d = open_with(opts(256, SEQS));
    struct draft_job j[SEQS];
    (void) state;
    for (int i = 0; i < SEQS; i++) {
        talk_new(d, &t[i]);
        feed(d, &t[i], 25);
        catch_up(d, &t[i]);
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < SEQS; i++) {
            t[i].draw.temperature = 0.4f * (float) (round % 3);
            j[i] = job_of(&t[i], want[i].nodes, want[i].depth);
        }
        assert_int_equal(draft_propose(d, j, SEQS), 0);
        check_books(d, t, SEQS);
        for (int i = 0; i < SEQS; i++) {
            assert_int_equal(tree_check(&t[i].tree, SMALL_VOCAB), 0);
            assert_in_range(t[i].tree.n, i ? 2 : 1, want[i].nodes);
            assert_in_range(deepest(&t[i].tree), 0, want[i].depth);
            settle_somehow(d, &t[i]);
        }
        for (int i = 0; i < SEQS; i++)
            catch_up(d, &t[i]);
    }
    for (int i = 0; i < SEQS; i++)
        draft_seq_free(d, t[i].seq);
    check_books(d, NULL, 0);
    draft_close(d);
}

/* The logits a target of the same weights has behind the talk's root. */
static const float *logits_behind(struct target *t, struct target_seq *s, const struct talk *x)
{
    static struct tree root;
    int32_t len = target_seq_len(s);
    struct target_item text = {.seq = s, .kind = TARGET_PROMPT, .tok = x->tok + len, .n = x->n - len};
    struct target_item it = {.seq = s, .kind = TARGET_TREE, .tree = &root};
    assert_int_equal(target_submit(t, &text, 1, NULL), 0);
    assert_int_equal(target_wait(t), 0);
    tree_init(&root, x->root);
    assert_int_equal(target_submit(t, &it, 1, NULL), 0);
    assert_int_equal(target_wait(t), 0);
    return it.logits.row;
}

/* With the target's own dice a draft that is the target guesses its very words, at any temperature. */
static void a_draft_that_is_the_target_guesses_its_words(void **state)
{
    static struct talk t;
    struct draft *d = open_with(opts(256, 1));
    struct target_opts o = small_target(&small, 8, 0);
    struct target *target;
    struct target_seq *s;
    struct draw_scratch *x = draw_scratch_new(SMALL_VOCAB);
    int32_t cached, want;
    (void) state;
    assert_non_null(x);
    assert_int_equal(target_open(&target, &o, NULL), 0);
    talk_new(d, &t);
    feed(d, &t, 30);
    assert_int_equal(target_seq_new(target, t.tok, t.n, 0, &s, &cached), 0);
    for (int i = 0; i < 30; i++) {
        t.draw.temperature = 0.5f * (float) (i % 3);
        t.draw.top_k = i % 4 == 3 ? 5 : 0;
        t.draw.choice = i;
        catch_up(d, &t);
        propose(d, &t, 2, 1);
        assert_int_equal(t.tree.n, 2);
        assert_int_equal(
            draw_pick(&t.draw, &t.state, NULL, logits_behind(target, s, &t), SMALL_VOCAB, x, &want), 0);
        assert_int_equal(t.tree.tok[1], want);
        settle(d, &t, &(struct path){.n = 1, .node = {1}, .next = small_token(&seed)});
    }
    target_seq_free(target, s);
    target_close(target);
    draw_scratch_free(x);
    draft_seq_free(d, t.seq);
    draft_close(d);
}

static void nothing_is_guessed_where_nothing_is_drawn(void **state)
{
    static const int32_t closer[] = {5, 6};
    static struct talk t;
    struct draft *d = open_with(opts(256, 1));
    (void) state;
    talk_new(d, &t);
    feed(d, &t, 10);
    catch_up(d, &t);
    struct draw_state going = t.state;
    t.state.done = DRAW_STOP;
    propose(d, &t, 16, 4);
    assert_int_equal(t.tree.n, 1);
    t.state = going;
    t.draw.think = (struct draw_think){50, 51, -1, 2, closer, 2};
    t.state.phase = DRAW_THINKING;
    propose(d, &t, 40, 10); /* two thoughts are left: the third level is known text */
    assert_in_range(deepest(&t.tree), 1, 2);
    t.state.n_thinking = 2;
    propose(d, &t, 16, 4);
    assert_int_equal(t.tree.n, 1);
    t.draw.think.budget = -1;
    t.draw.max_tokens = 3;
    t.state.n_output = 1;
    propose(d, &t, 40, 10); /* and two tokens are left of the whole */
    assert_in_range(deepest(&t.tree), 1, 2);
    draft_seq_free(d, t.seq);
    draft_close(d);
}

/* A prompt whose portions are long enough for OpenBLAS: the sums differ in their last bits, the guesses do not. */
static void a_long_prompt_by_openblas(void **state)
{
    enum { PORTION = 256 };
    static struct talk t[2];
    struct draft_opts o = opts(1024, 1);
    (void) state;
    o.prompt_rows = PORTION;
    for (int i = 0; i < 2; i++) {
        uint64_t at = seed;
        o.blas = i;
        struct draft *d = open_with(o);
        talk_new(d, &t[i]);
        feed(d, &t[i], 2 * PORTION);
        catch_up(d, &t[i]);
        propose(d, &t[i], 16, 4);
        assert_true(t[i].tree.n > 1);
        draft_seq_free(d, t[i].seq);
        draft_close(d);
        seed = i ? seed : at;
    }
    same_trees(&t[0].tree, &t[1].tree);
}

/* Until a sequence has read its prompt it proposes its root alone. */
static void reads_prompts_in_portions(void **state)
{
    static struct talk t[2];
    struct draft *d = open_with(opts(256, 2));
    (void) state;
    talk_new(d, &t[0]);
    talk_new(d, &t[1]);
    feed(d, &t[0], 3 * PROMPT_ROWS);
    feed(d, &t[1], PROMPT_ROWS);
    for (int call = 0; call < 4; call++) {
        struct draft_job j[] = {job_of(&t[0], 8, 3), job_of(&t[1], 8, 3)};
        assert_int_equal(draft_propose(d, j, 2), 0);
        assert_int_equal(t[0].tree.n > 1, call >= 2);
        assert_int_equal(t[1].tree.n > 1, call >= 3); /* all portions went to the elder one */
        assert_int_equal(t[0].seq->n_kv, call < 2 ? (call + 1) * PROMPT_ROWS : 3 * PROMPT_ROWS);
    }
    draft_seq_free(d, t[0].seq);
    draft_seq_free(d, t[1].seq);
    draft_close(d);
}

static void without_pages_the_root_stays_alone(void **state)
{
    static struct talk t[2];
    struct draft_opts o = opts(128, 2);
    o.kv_bytes = 3 * (int64_t) cpu_kv_page_bytes(small.model, CPU_KV_BF16); /* each would need two */
    struct draft *d = open_with(o);
    (void) state;
    talk_new(d, &t[0]);
    talk_new(d, &t[1]);
    feed(d, &t[0], 100);
    feed(d, &t[1], 180);
    catch_up(d, &t[0]);
    propose(d, &t[0], 8, 3);
    assert_in_range(t[0].tree.n, 2, 8);
    for (int i = 0; i < 12; i++)
        propose(d, &t[1], 8, 3);
    assert_int_equal(t[1].tree.n, 1);
    check_books(d, t, 2);
    settle_somehow(d, &t[1]); /* its text goes on all the same */
    propose(d, &t[0], 8, 3);
    assert_in_range(t[0].tree.n, 2, 8);
    draft_seq_free(d, t[0].seq);
    catch_up(d, &t[1]);
    propose(d, &t[1], 8, 3);
    assert_in_range(t[1].tree.n, 2, 8);
    draft_seq_free(d, t[1].seq);
    check_books(d, NULL, 0);
    draft_close(d);
}

/* A model that computes nonsense guesses nothing. */
static void nonsense_is_no_guess(void **state)
{
    static struct talk t;
    struct small broken;
    (void) state;
    small_open(&broken, 9);
    cpu_model_close(broken.weights);
    ((float *) (uintptr_t) broken.model->norm->data)[3] = NAN;
    struct err e;
    assert_int_equal(cpu_model_open(&broken.weights, broken.cpu, broken.model, CPU_QUANT_F32, &e), 0);
    struct draft_opts o = opts(256, 1);
    o.cpu = broken.cpu;
    o.model = broken.model;
    o.weights = broken.weights;
    struct draft *d = open_with(o);
    talk_new(d, &t);
    feed(d, &t, 10);
    catch_up(d, &t);
    propose(d, &t, 16, 4);
    assert_int_equal(t.tree.n, 1);
    draft_seq_free(d, t.seq);
    draft_close(d);
    small_close(&broken);
}

/* --- what is kept --- */

/* Accepted guesses that were read keep their KV, whatever else was cut off the tree. */
static void accepted_guesses_are_not_read_again(void **state)
{
    static struct talk t;
    struct draft *d = open_with(opts(256, 2));
    int kept = 0;
    (void) state;
    talk_new(d, &t);
    feed(d, &t, 30);
    catch_up(d, &t);
    for (int round = 0; round < 30; round++) {
        propose(d, &t, 24, 6);
        struct tree whole = t.tree;
        tree_trim(&t.tree, 12);
        for (int i = 1; i < t.tree.n; i++) { /* the handle still names the same guess */
            const struct cand *c = &t.seq->cand[t.tree.ref[i]];
            assert_int_equal(c->tok, t.tree.tok[i]);
            assert_int_equal(c->depth, t.tree.depth[i]);
        }
        assert_true(whole.n >= t.tree.n);
        struct path p = {.next = small_token(&seed)};
        int read = 1;
        for (int i = 1, at = 0; i < t.tree.n; i++)
            if (t.tree.parent[i] == at) { /* the first child, to the end */
                p.node[p.n++] = (int16_t) i;
                read += read == p.n && t.seq->cand[t.tree.ref[i]].slot >= 0;
                at = i;
            }
        int before = t.n;
        settle(d, &t, &p);
        assert_int_equal(t.seq->n_kv, before + read);
        kept += read - 1;
        catch_up(d, &t);
    }
    assert_in_range(kept, 20, 1000);
    check_as_fresh(d, &t, 20, 5);
    draft_seq_free(d, t.seq);
    draft_close(d);
}

static void one_step(struct draft *d, struct talk *t)
{
    switch (small_dice(&seed, 7)) {
    case 0:
        feed(d, t, 1 + (int) small_dice(&seed, 40));
        break;
    case 1:
        t->n = (int) small_dice(&seed, (uint32_t) t->n + 1);
        assert_int_equal(draft_rewind(d, t->seq, t->n), 0);
        t->state.pos = t->n + 1;
        break;
    case 2: /* asked, and asked again */
        propose(d, t, 1 + (int) small_dice(&seed, 64), (int) small_dice(&seed, 8));
        break;
    default:
        propose(d, t, 1 + (int) small_dice(&seed, 64), (int) small_dice(&seed, 8));
        if (small_dice(&seed, 2))
            tree_trim(&t->tree, 1 + (int) small_dice(&seed, 64));
        if (small_dice(&seed, 4) == 0) /* a guess from elsewhere */
            tree_add(&t->tree, 0, t->root, 0.5f, TREE_LOOKUP, -1);
        settle_somehow(d, t);
    }
}

static void any_mix_proposes_as_a_fresh_sequence(void **state)
{
    static struct talk t[SEQS];
    struct draft *d = open_with(opts(512, SEQS + 1));
    (void) state;
    seed = 77;
    for (int i = 0; i < SEQS; i++) {
        talk_new(d, &t[i]);
        t[i].draw.temperature = i % 2 ? 0.8f : 0;
    }
    for (int step = 0; step < 600; step++) {
        struct talk *x = &t[small_dice(&seed, SEQS)];
        if (x->n > 400) {
            assert_int_equal(draft_rewind(d, x->seq, x->n = 20), 0);
            x->state.pos = x->n + 1;
        }
        one_step(d, x);
        check_books(d, t, SEQS);
        assert_int_equal(x->seq->n_tok, x->n);
        assert_memory_equal(x->seq->tok, x->tok, (size_t) x->n * sizeof *x->tok);
        if (step % 5 == 0)
            check_as_fresh(d, x, 24, 5);
    }
    for (int i = 0; i < SEQS; i++)
        draft_seq_free(d, t[i].seq);
    check_books(d, NULL, 0);
    draft_close(d);
}

static void refuses_to_rewind_forward(void **state)
{
    static struct talk t;
    struct draft *d = open_with(opts(256, 1));
    (void) state;
    talk_new(d, &t);
    feed(d, &t, 10);
    assert_int_equal(draft_rewind(d, t.seq, 11), ST_INPUT);
    assert_int_equal(draft_rewind(d, t.seq, -1), ST_INPUT);
    assert_int_equal(draft_rewind(d, t.seq, 10), 0);
    draft_seq_free(d, t.seq);
    draft_close(d);
}

/* --- the window --- */

/* Texts that are alike in their last `context` tokens are alike. */
static void sees_the_last_tokens_only(void **state)
{
    static struct talk t[2];
    struct draft *d = open_with(opts(128, 2));
    (void) state;
    for (int n = 130; n < 500; n += 37) {
        talk_new(d, &t[0]);
        feed(d, &t[0], n);
        talk_new(d, &t[1]);
        feed(d, &t[1], n - 127); /* other tokens at the same positions */
        t[1].root = t[0].root;
        memcpy(t[1].tok + t[1].n, t[0].tok + t[1].n, 127 * sizeof *t[1].tok);
        assert_int_equal(draft_feed(d, t[1].seq, t[1].tok + t[1].n, 127), 0);
        t[1].n = n;
        t[1].state = t[0].state;
        for (int i = 0; i < 2; i++)
            catch_up(d, &t[i]);
        struct draft_job j[] = {job_of(&t[0], 30, 5), job_of(&t[1], 30, 5)};
        assert_int_equal(draft_propose(d, j, 2), 0);
        assert_in_range(t[0].tree.n, 2, 30);
        same_trees(&t[0].tree, &t[1].tree);
        draft_seq_free(d, t[0].seq);
        draft_seq_free(d, t[1].seq);
    }
    check_books(d, NULL, 0);
    draft_close(d);
}

static void the_window_slides_over_a_long_text(void **state)
{
    static struct talk t[2];
    struct draft *d = open_with(opts(128, 2));
    (void) state;
    talk_new(d, &t[0]);
    talk_new(d, &t[1]);
    while (t[0].n < 1200 || t[1].n < 1200)
        for (int i = 0; i < 2; i++) {
            if (t[i].n >= 1200)
                continue;
            if (small_dice(&seed, 20) == 0)
                feed(d, &t[i], 1 + (int) small_dice(&seed, 300));
            if (small_dice(&seed, 20) == 0) { /* anywhere, before the window too */
                t[i].n -= (int) small_dice(&seed, (uint32_t) (t[i].n < 300 ? t[i].n + 1 : 300));
                assert_int_equal(draft_rewind(d, t[i].seq, t[i].n), 0);
            }
            catch_up(d, &t[i]);
            propose(d, &t[i], 20, 1 + (int) small_dice(&seed, 20));
            assert_in_range(t[i].tree.n, 2, 20);
            const struct draft_seq *s = t[i].seq;
            assert_int_equal(s->start % CPU_PAGE, 0);
            assert_true(s->start <= s->n_kv && s->n_kv == s->n_tok);
            assert_true(s->n_tok + 1 - s->start <= 128 + 20); /* the window, as the deepest guess sees it */
            check_books(d, t, 2);
            settle_somehow(d, &t[i]);
        }
    draft_seq_free(d, t[0].seq);
    draft_seq_free(d, t[1].seq);
    check_books(d, NULL, 0);
    draft_close(d);
}

/* --- confidence --- */

static void confidence_follows_experience(void **state)
{
    struct calib c;
    float score[] = {5, 4.5f, 1}, prob[] = {0.6f, 0.3f, 0.01f};
    (void) state;
    draft__calib_init(&c);
    for (int warm = 0; warm < 2; warm++) {
        float before = 1;
        for (int rank = 0; rank < 3; rank++) { /* the prior: a lower rank is kept less often */
            struct calib_key k = draft__calib_key(warm, 1, rank, score, prob, 3);
            float conf = draft__calib_conf(&c, k);
            assert_true(conf > 0 && conf < before);
            before = conf;
        }
        struct calib_key k = draft__calib_key(warm, 1, 0, score, prob, 3);
        for (int i = 0; i < 10000; i++)
            draft__calib_note(&c, k, i % 4 != 0);
        assert_true(fabsf(draft__calib_conf(&c, k) - 0.75f) < 0.01f);
        for (int i = 0; i < 4000; i++) /* and old text fades */
            draft__calib_note(&c, k, 0);
        assert_true(draft__calib_conf(&c, k) < 0.2f);
        for (int i = 0; i < 100000; i++)
            draft__calib_note(&c, k, 1);
        assert_true(draft__calib_conf(&c, k) > 0.99f && draft__calib_conf(&c, k) <= 1);
    }
    float same[] = {3, 3}, none[] = {0, 0}, nan[] = {NAN, NAN};
    for (int warm = 0; warm < 2; warm++)
        for (int rank = 0; rank < 2; rank++) { /* whatever the figures, a bin */
            struct calib_key k = draft__calib_key(warm, 1, rank, same, none, 2);
            assert_in_range(k.gap, 0, GAP_BINS - 1);
            k = draft__calib_key(warm, 1, rank, nan, nan, 2);
            assert_in_range(k.gap, 0, GAP_BINS - 1);
            k = draft__calib_key(warm, 1, 0, same, same, 1);
            assert_in_range(k.gap, 0, GAP_BINS - 1);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(refuses_options),
                                       cmocka_unit_test(holds_so_many_sequences),
                                       cmocka_unit_test(trees_keep_their_limits),
                                       cmocka_unit_test(jobs_keep_their_own_limits),
                                       cmocka_unit_test(a_draft_that_is_the_target_guesses_its_words),
                                       cmocka_unit_test(nothing_is_guessed_where_nothing_is_drawn),
                                       cmocka_unit_test(a_long_prompt_by_openblas),
                                       cmocka_unit_test(reads_prompts_in_portions),
                                       cmocka_unit_test(without_pages_the_root_stays_alone),
                                       cmocka_unit_test(nonsense_is_no_guess),
                                       cmocka_unit_test(accepted_guesses_are_not_read_again),
                                       cmocka_unit_test(any_mix_proposes_as_a_fresh_sequence),
                                       cmocka_unit_test(refuses_to_rewind_forward),
                                       cmocka_unit_test(sees_the_last_tokens_only),
                                       cmocka_unit_test(the_window_slides_over_a_long_text),
                                       cmocka_unit_test(confidence_follows_experience)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
