/* distribution.c - the law of what comes out is the target's, whatever was guessed.
 *
 * A toy vocabulary of 8 with a known p after every pair of tokens; trees of several kinds, some made by the very dice of the draw
 * with wrong logits; 100,000 texts of three tokens through the real verifier; chi-square of their joint law (512 cells). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/queue.h"
#include "tests/lib/synth.h"
#include "verifier/verifier.h"

enum { V = 8, TEXTS = 100000, LENGTH = 3, STRIDE = 16 };

static float table[V][V][V]; /* logits after (second last, last) */

static void table_init(void)
{
    uint64_t dice = 7;
    for (int i = 0; i < V * V * V; i++)
        (&table[0][0][0])[i] = 2 * synth_uniform(&dice);
}

/* --- the law, by the definition, in double --- */

static void law(const struct draw_params *p, const float *l, double *out)
{
    int order[V];
    double sum = 0, kept = 0, w[V];
    for (int i = 0; i < V; i++)
        order[i] = i;
    for (int i = 0; i < V; i++)
        for (int j = i + 1; j < V; j++)
            if (l[order[j]] > l[order[i]]) {
                int t = order[i];
                order[i] = order[j];
                order[j] = t;
            }
    int n = p->top_k > 0 && p->top_k < V ? p->top_k : V;
    for (int i = 0; i < n; i++)
        sum += w[i] = exp((double) (l[order[i]] - l[order[0]]) / (double) p->temperature);
    memset(out, 0, V * sizeof *out);
    double share = 0;
    for (int i = 0; i < n && (i == 0 || (share < p->top_p * sum && w[i] >= p->min_p)); i++) {
        share += w[i];
        kept += out[order[i]] = w[i];
    }
    for (int i = 0; i < V; i++)
        out[i] /= kept;
}

/* --- trees --- */

enum kind { ALONE, RANDOM, CHAIN_OF_BEST, ALL_CHILDREN, SHARED_DICE, N_KINDS };
static const char *const kind_names[] = {"root alone", "random", "chain of the likeliest", "all children",
                                         "shared dice, wrong logits"};

struct text {
    int32_t tok[LENGTH + TREE_MAX + 3]; /* two tokens of prompt first */
    int n;
};

static const float *row_after(int32_t a, int32_t b)
{
    return table[a][b];
}

static void rows_of(const struct tree *t, const struct text *x, float *row)
{
    for (int i = 0; i < t->n; i++) {
        int32_t before = t->parent[i] >= 0 ? t->tok[t->parent[i]] : x->tok[x->n - 2];
        memcpy(row + i * STRIDE, row_after(before, t->tok[i]), V * sizeof *row);
    }
}

static int best_of(const float *l)
{
    int b = 0;
    for (int i = 1; i < V; i++)
        b = l[i] > l[b] ? i : b;
    return b;
}

static void grow(enum kind kind, struct tree *t, const struct text *x, const struct draw_params *p,
                 const struct draw_state *s, struct draw_scratch *scratch, uint64_t *dice)
{
    tree_init(t, x->tok[x->n - 1]);
    if (kind == RANDOM) {
        int want = 2 + (int) (synth_next(dice) >> 60);
        for (int tries = 0; tries < 40 && t->n < want; tries++) {
            int parent = (int) ((synth_next(dice) >> 40) % (uint64_t) t->n);
            int32_t tok = (int32_t) (synth_next(dice) >> 61);
            if (tree_child(t, parent, tok) < 0)
                tree_add(t, parent, tok, 0.5f, TREE_MODEL, -1);
        }
    }
    for (int i = 0; kind == CHAIN_OF_BEST && i < 4; i++)
        tree_add(t, i, best_of(row_after(i ? t->tok[i - 1] : x->tok[x->n - 2], t->tok[i])), 0.5f, TREE_MODEL,
                 -1);
    for (int v = 0; kind == ALL_CHILDREN && v < V; v++)
        tree_add(t, 0, v, 0.1f, TREE_MODEL, -1);
    if (kind == SHARED_DICE) {
        float wrong[V], score[3], prob[3];
        int32_t tok[3];
        for (int v = 0; v < V; v++)
            wrong[v] = 0.6f * row_after(x->tok[x->n - 2], t->tok[0])[v] + 0.3f * (float) (v % 3);
        int n = draw_rank(p, s, NULL, wrong, V, scratch, 3, tok, score, prob);
        for (int i = 0; i < n; i++)
            tree_add(t, 0, tok[i], 0.5f, TREE_MODEL, -1);
    }
}

/* --- one text --- */

struct machine {
    struct verifier *verifier;
    struct queue *queue;
    struct draw_scratch *scratch;
    uint64_t dice;
    long accepted;
};

static void speak(struct machine *m, enum kind kind, const struct draw_params *p, struct text *x)
{
    struct draw_state s;
    x->tok[0] = 3;
    x->tok[1] = 5;
    x->n = 2;
    draw_start(p, x->tok, x->n, &s);
    while (x->n < LENGTH + 2) {
        struct tree t;
        struct path path;
        float row[TREE_MAX * STRIDE];
        grow(kind, &t, x, p, &s, m->scratch, &m->dice);
        rows_of(&t, x, row);
        struct logits l = {row, t.n, V, STRIDE, MEM_HOST, m->queue, NULL};
        struct verifier_job job = {.tree = &t, .logits = &l, .draw = p, .state = &s, .path = &path};
        assert_int_equal(verifier_submit(m->verifier, &job, 1), 0);
        assert_int_equal(queue_wait(m->queue), 0);
        assert_int_equal(path.status, 0);
        m->accepted += path.n;
        for (int i = 0; i <= path.n; i++) {
            int32_t tok = i < path.n ? t.tok[path.node[i]] : path.next;
            x->tok[x->n++] = tok;
            draw_step(p, &s, tok);
        }
    }
}

static double chi_square(const long *count, const struct draw_params *p, int *cells)
{
    double a[V], b[V], c[V], chi = 0;
    *cells = 0;
    law(p, row_after(3, 5), a);
    for (int i = 0; i < V; i++) {
        law(p, row_after(5, i), b);
        for (int j = 0; j < V; j++) {
            law(p, row_after(i, j), c);
            for (int k = 0; k < V; k++) {
                double want = TEXTS * a[i] * b[j] * c[k];
                long got = count[(i * V + j) * V + k];
                if (want == 0)
                    assert_int_equal(got, 0);
                else if (want >= 5 && ++*cells)
                    chi += (got - want) * (got - want) / want;
            }
        }
    }
    return chi;
}

static void check_law(const char *name, struct draw_params p)
{
    struct machine m = {.queue = queue_new(4), .scratch = draw_scratch_new(V), .dice = 99};
    struct err e;
    long *count = malloc(V * V * V * sizeof *count);
    assert_int_equal(verifier_open(&m.verifier, V, 4, &e), 0);
    p.max_tokens = 1000;
    p.think = (struct draw_think){-1, -1, -1, -1, NULL, 0};
    for (int kind = 0; kind < N_KINDS; kind++) {
        memset(count, 0, V * V * V * sizeof *count);
        m.accepted = 0;
        for (int i = 0; i < TEXTS; i++) {
            struct text x;
            p.seed = (uint64_t) i * 0x9E3779B97F4A7C15u + (uint64_t) kind;
            speak(&m, (enum kind) kind, &p, &x);
            count[(x.tok[2] * V + x.tok[3]) * V + x.tok[4]]++;
        }
        int cells;
        double chi = chi_square(count, &p, &cells);
        double df = cells - 1, limit = df + 5 * sqrt(2 * df) + 10; /* about one in a million */
        print_message("  %s, %s: chi-square %.1f over %d cells (limit %.0f), %ld accepted\n", name,
                      kind_names[kind], chi, cells, limit, m.accepted);
        assert_true(cells > 20);
        assert_true(chi < limit);
        if (kind != ALONE)
            assert_true(m.accepted > TEXTS / 20);
    }
    free(count);
    verifier_close(m.verifier);
    draw_scratch_free(m.scratch);
    queue_free(m.queue);
}

static void test_plain(void **state)
{
    (void) state;
    check_law("T 1", (struct draw_params){.temperature = 1, .top_p = 1});
}

static void test_cuts(void **state)
{
    (void) state;
    check_law("T 0.7 top_k 6 top_p 0.95",
              (struct draw_params){.temperature = 0.7f, .top_k = 6, .top_p = 0.95f});
    check_law("T 1.3 top_p 0.8 min_p 0.05",
              (struct draw_params){.temperature = 1.3f, .top_p = 0.8f, .min_p = 0.05f});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_cuts)};
    table_init();
    return cmocka_run_group_tests_name("gate: distribution", tests, NULL, NULL);
}
