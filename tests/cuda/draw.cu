/* draw.cu - the verifier's twin on a device against its specification, to the bit: paths, hashes of rows, logprobs, for every kind of
 * parameter, on random trees and rows full of ties: each kind under the first schedule and one more. */
#include "core/cuda/launch.h"
#include "tests/hostsim/test/lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "core/queue.h"
#include "tests/lib/small.h"
#include "tests/lib/synth.h"
#include "verifier/verifier.h"
}

#ifdef HOSTSIM
enum { JOBS = 3, ROUNDS = 1, NODES = 16 };
#else
enum { JOBS = 5, ROUNDS = 12, NODES = 40 };
#endif

enum {
    VOCAB = 301,
    STRIDE = 304,
    EOS = 7,
    STOP = 9,
    OPEN = 15,
    CLOSE = 16,
    TOOL = 17,
    BLANK = 18,
    TEXT = 40
};

static const int32_t eos[] = {EOS, 200}, stop[] = {STOP}, closer[] = {30, CLOSE, 31}, banned[] = {3, 50, 250},
                     allowed[] = {1,  2,  3,  4,  5,  6,   7,   8,   9,   15,  16, 20,
                                  21, 22, 23, 24, 25, 100, 101, 102, 103, 104, 105};
static const int32_t bias_id[] = {2, 20, 50, 101, 299};
static const float bias[] = {3, -4.5f, 50, 1.25f, 0.5f};

struct how {
    const char *name;
    float temperature;
    int top_k;
    float top_p, min_p, repetition, presence, frequency;
    int lists; /* 1: banned, 2: allowed, 4: bias, 8: stop ids, min_tokens, 16: a constraint, 32: a thinking budget, 64: told */
};

static const struct how hows[] = {
    {"greedy", 0, 0, 1, 0, 1, 0, 0, 0},
    {"T 1", 1, 0, 1, 0, 1, 0, 0, 0},
    {"T 0.6, top_k 20, top_p 0.95", 0.6f, 20, 0.95f, 0, 1, 0, 0, 0},
    {"T 1, top_k 1", 1, 1, 1, 0, 1, 0, 0, 1},
    {"T 1.3, top_k 100, top_p 0.9, min_p 0.01", 1.3f, 100, 0.9f, 0.01f, 1, 0, 0, 0},
    {"T 1, top_p 0.9", 1, 0, 0.9f, 0, 1, 0, 0, 8},
    {"T 1, top_p 0.999, all penalties", 1, 0, 0.999f, 0, 1.3f, 0.5f, 0.7f, 4},
    {"T 0.8, min_p 0.05", 0.8f, 0, 1, 0.05f, 1, 0, 0, 2},
    {"T 1, top_k 400, min_p 0.3", 1, 400, 1, 0.3f, 1, 0, 0, 1},
    {"greedy, penalties, bias", 0, 0, 1, 0, 2, 1, -0.5f, 4 | 1},
    {"T 1, bias, budget", 1, 0, 1, 0, 1, 0, 0, 4 | 32},
    {"T 1, allowed, budget, top_k 5", 1, 5, 1, 0, 1.1f, 0, 0, 2 | 32},
    {"T 1, constraint", 1, 0, 1, 0, 1, 0, 0, 16},
    {"greedy, constraint, penalties, budget", 0, 0, 1, 0, 1.2f, 0.3f, 0, 16 | 32},
    {"T 1, told", 1, 0, 1, 0, 1, 0, 0, 64},
    {"greedy, told, allowed, budget", 0, 0, 1, 0, 1, 0, 0, 64 | 2 | 32},
    {"T 0.7, top_k 9, told", 0.7f, 9, 1, 0, 1, 0, 0, 64},
};

struct desk {
    struct tree tree;
    struct logits host, device;
    struct draw_params draw;
    struct draw_state state;
    struct draw_past *past;
    struct verifier_told told;
    int has_told;
    struct path path[2];
    uint64_t hash[2][TREE_MAX];
    struct draw_logprobs lp[2][TREE_MAX];
    int32_t text[TEXT];
    float row[TREE_MAX * STRIDE];
};

static struct draw_vocab *spelled;
static struct draw_constraint *choice;

static void words_open(void)
{
    static char text[VOCAB][4];
    static const char *const strings[] = {"abc", "abcabc", "cab", "b"};
    static const size_t lengths[] = {3, 6, 3, 1};
    const char *bytes[VOCAB];
    size_t len[VOCAB];
    struct err e = {};
    for (int v = 0; v < VOCAB; v++) {
        bytes[v] = text[v];
        len[v] = v >= 40 && v < 140 ? 1 + (size_t) v % 3 : v == BLANK ? 2 : 0;
        for (size_t i = 0; i < len[v]; i++)
            text[v][i] = v == BLANK ? '\n' : (char) ('a' + v / (i == 0 ? 3 : i == 1 ? 9 : 27) % 3);
    }
    if (draw_vocab_new(&spelled, bytes, len, VOCAB, &e) ||
        draw_constraint_choice(&choice, spelled, strings, lengths, 4, &e))
        fail_msg("%s", e.text);
}

static void params(struct draw_params *d, const struct how *h, uint64_t seed)
{
    *d = {};
    d->temperature = h->temperature;
    d->top_k = h->top_k;
    d->top_p = h->top_p;
    d->min_p = h->min_p;
    d->seed = seed * 0x9E3779B97F4A7C15u;
    d->choice = (int32_t) seed % 3;
    d->max_tokens = 9;
    d->eos = eos;
    d->n_eos = 2;
    d->repetition = h->repetition;
    d->presence = h->presence;
    d->frequency = h->frequency;
    d->logprobs = d->processed = 1;
    d->top_logprobs = (int32_t) seed % 6;
    d->think = {OPEN, CLOSE, TOOL, h->lists & 32 ? 2 : -1, closer, 3};
    if (h->lists & 1) {
        d->banned = banned;
        d->n_banned = 3;
    }
    if (h->lists & 2) {
        d->allowed = allowed;
        d->n_allowed = (int32_t) (sizeof allowed / sizeof *allowed);
    }
    if (h->lists & 4) {
        d->bias_id = bias_id;
        d->bias = bias;
        d->n_bias = 5;
    }
    if (h->lists & 8) {
        d->stop = stop;
        d->n_stop = 1;
        d->min_tokens = 4;
    }
    d->constraint = h->lists & 16 ? choice : NULL;
}

/* Tokens that are drawn often: of allowed, of the constraint, special ones. */
static int32_t token(uint64_t *dice)
{
    static const int32_t liked[] = {EOS, STOP, OPEN, CLOSE, TOOL, 2, 20, 50, 101, 41, 42, 43, 44, 45, 46};
    uint32_t n = (uint32_t) (sizeof liked / sizeof *liked);
    return small_dice(dice, 3) ? liked[small_dice(dice, n)] : (int32_t) small_dice(dice, VOCAB);
}

/* Rows of few distinct values, so that there are ties; the tokens of a node's children are likely. */
static void fill_rows(struct desk *d, uint64_t *dice)
{
    for (int i = 0; i < d->tree.n; i++) {
        float *row = d->row + i * STRIDE;
        for (int v = 0; v < STRIDE; v++)
            row[v] = v < VOCAB ? (float) small_dice(dice, 40) / 8 - 2 : NAN;
        for (int c = i + 1; c < d->tree.n; c++)
            if (d->tree.parent[c] == i)
                row[d->tree.tok[c]] += 7;
    }
}

/* A way down the tree, sometimes with a word that is no child there; its last node's children are not to be said next. */
static void tell(struct desk *d, uint64_t *dice)
{
    struct path p;
    d->told = {};
    small_path(&d->tree, &p, dice);
    for (int i = 0; i < p.n; i++)
        d->told.tok[d->told.n++] = small_dice(dice, 8) ? d->tree.tok[p.node[i]] : token(dice);
    int last = p.n ? p.node[p.n - 1] : 0;
    for (int i = last + 1; i < d->tree.n && d->told.n_other < VERIFIER_OTHER_MAX; i++)
        if (d->tree.parent[i] == last)
            d->told.other[d->told.n_other++] = d->tree.tok[i];
}

static void desk_init(struct desk *d, const struct how *h, uint64_t *dice)
{
    params(&d->draw, h, small_dice(dice, 1000));
    tree_init(&d->tree, token(dice));
    for (int i = 1, n = 1 + (int) small_dice(dice, NODES); i < n; i++) {
        int parent = (int) small_dice(dice, (uint32_t) d->tree.n);
        int32_t tok = token(dice);
        if (tree_child(&d->tree, parent, tok) < 0)
            tree_add(&d->tree, parent, tok, 0.5f, TREE_ORACLE, -1);
    }
    fill_rows(d, dice);
    d->has_told = (h->lists & 64) != 0;
    tell(d, dice);
    for (int i = 0; i < TEXT; i++)
        d->text[i] = token(dice);
    if (small_dice(dice, 2))
        d->text[TEXT - 4] = OPEN;
    d->text[TEXT - 1] = d->tree.tok[0];
    int n_prompt = TEXT - 3;
    draw_start(&d->draw, d->text, n_prompt, &d->state);
    assert_int_equal(draw_past_new(&d->past, &d->draw, TEXT + 64), 0);
    for (int i = 0; i < TEXT; i++) {
        draw_past_add(d->past, d->text[i], i >= n_prompt);
        if (i >= n_prompt && !d->state.done)
            draw_step(&d->draw, &d->state, d->text[i]);
    }
    d->state.done = 0;
}

static struct verifier_job job_of(struct desk *d, int device)
{
    struct verifier_job j = {};
    memset(&d->path[device], 0x55, sizeof d->path[device]);
    memset(d->hash[device], 0x55, sizeof d->hash[device]);
    memset(d->lp[device], 0x55, sizeof d->lp[device]);
    j.tree = &d->tree;
    j.logits = device ? &d->device : &d->host;
    j.draw = &d->draw;
    j.state = &d->state;
    j.past = d->past;
    j.path = &d->path[device];
    j.row_hash = d->hash[device];
    j.logprobs = d->lp[device];
    j.told = d->has_told ? &d->told : NULL;
    return j;
}

static void same(const struct desk *d, const char *name, long *kept)
{
    const struct path *a = &d->path[0], *b = &d->path[1];
    if (a->status != b->status || a->n != b->n || a->next != b->next ||
        memcmp(a->node, b->node, (size_t) a->n * sizeof *a->node))
        fail_msg("%s: path of %d then %d (status %d), not %d then %d (status %d)", name, b->n, b->next,
                 b->status, a->n, a->next, a->status);
    if (a->status)
        return;
    *kept += a->n;
    size_t rows = (size_t) a->n + 1;
    if (memcmp(d->hash[0], d->hash[1], rows * sizeof *d->hash[0]))
        fail_msg("%s: other hashes", name);
    if (memcmp(d->lp[0], d->lp[1], rows * sizeof *d->lp[0]))
        fail_msg("%s: other logprobs", name);
}

static void round_of(struct verifier *v[2], const struct how *h, uint64_t *dice, long *kept)
{
    static struct desk desk[JOBS];
    struct verifier_job job[2][JOBS];
    struct queue *queue = queue_new(8), *after = queue_new(8);
    cudaStream_t stream;
    must(cudaStreamCreate(&stream));
    struct device_queue dq = {stream, after};
    struct path *path;
    float *row;
    must(cudaMalloc(&path, JOBS * sizeof *path));
    must(cudaMalloc(&row, sizeof desk->row * JOBS));
    for (int i = 0; i < JOBS; i++) {
        struct desk *d = &desk[i];
        desk_init(d, h, dice);
        if (i == 1 && small_dice(dice, 3) == 0)
            d->row[small_dice(dice, (uint32_t) d->tree.n) * STRIDE + small_dice(dice, VOCAB)] =
                small_dice(dice, 2) ? NAN : INFINITY;
        must(cudaMemcpy(row + i * TREE_MAX * STRIDE, d->row, sizeof d->row, cudaMemcpyHostToDevice));
        d->host = {d->row, d->tree.n, VOCAB, STRIDE, MEM_HOST, queue, NULL};
        d->device = {row + i * TREE_MAX * STRIDE, d->tree.n, VOCAB, STRIDE, MEM_DEVICE, &dq, path + i};
        job[0][i] = job_of(d, 0);
        job[1][i] = job_of(d, 1);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(verifier_submit(v[i], job[i], JOBS), 0);
    assert_int_equal(queue_wait(queue), 0);
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(desk[i].path[1].status, PATH_PENDING);
    must(cudaStreamSynchronize(stream));
    assert_int_equal(queue_wait(after), 0);
    for (int i = 0; i < JOBS; i++) {
        struct path there;
        same(&desk[i], h->name, kept);
        must(cudaMemcpy(&there, path + i, sizeof there,
                        cudaMemcpyDeviceToHost)); /* what target_settle reads */
        assert_int_equal(there.n, desk[i].path[0].n);
        assert_memory_equal(there.node, desk[i].path[0].node, (size_t) there.n * sizeof *there.node);
        draw_past_free(desk[i].past);
    }
    must(cudaFree(path));
    must(cudaFree(row));
    must(cudaStreamDestroy(stream));
    queue_free(queue);
    queue_free(after);
}

static void test_same_as_specified(void **)
{
    long kept = 0;
    words_open();
    EACH_SCHEDULE
    {
        struct verifier *v[2];
        struct err e = {};
        uint64_t dice = 5 + (uint64_t) schedule_;
        assert_int_equal(verifier_open(&v[0], VOCAB, JOBS, &e), 0);
        assert_int_equal(verifier_open(&v[1], VOCAB, JOBS, &e), 0);
        for (int h = 0; h < (int) (sizeof hows / sizeof *hows); h++)
            for (int i = 0; i < ROUNDS && (!schedule_ || h % N_SCHEDULES == schedule_); i++)
                round_of(v, &hows[h], &dice, &kept);
        verifier_close(v[0]);
        verifier_close(v[1]);
    }
    printf("  %ld guesses kept\n", kept);
    assert_true(kept > 30);
    draw_constraint_free(choice);
    draw_vocab_free(spelled);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_as_specified)};
    return cmocka_run_group_tests_name("CUDA verifier", tests, NULL, NULL);
}
