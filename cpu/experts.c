/* experts.c - the steps of a layer with experts (Qwen3 MoE): a row's few experts stand in for one wide feed-forward block.
 *
 *     router | picks | places | gate, up, silu, [quantize] | down | weighted sum, + residual |
 *
 * Rows are grouped by expert, and each active expert's weights are read once a pass, whatever the batch.  Threads take pieces of
 * an expert's outputs: with few active experts each falls into several pieces, with many into one.
 *
 * Numerics (NUMERICS.md; transformers' Qwen3MoeTopKRouter).  The router is a F32 GEMM of the normed, unquantized row.  Of its
 * logits l: p_e = exp(l_e - max), S the plain sum of p over experts ascending, w_e = p_e / S; the picks are the n_used largest
 * l, ties by the lower id; with norm_topk each w is divided by the picks' plain sum, in their order.  The row's sum starts at 0
 * and takes fmaf(w, y, sum) pick by pick, largest logit first, whatever experts its neighbours chose; then it is added to
 * the residual stream.  Twin: this text with the twin's kernels; tests/unit/forward.c. */
#include "cpu/pass.h"

#include <string.h>

enum { SUM_WIDTH = 512 }; /* outputs of a row summed as one piece of work */

/* --- who goes where --- */

static void emit_router(struct pass *p, int r0, int r1, int o0, int width, const float *out)
{
    cpu__pass_copy(p->crew.router, p->crew.ldr, r0, r1, o0, width, out);
}

/* The largest logit not picked yet; NaN never is larger, so a row of them picks the first ids. */
static int best_left(const float *logit, int n, const int *pick, int n_picked)
{
    int best = -1;
    for (int e = 0; e < n; e++) {
        int taken = 0;
        for (int j = 0; j < n_picked; j++)
            taken |= pick[j] == e;
        if (!taken && (best < 0 || logit[e] > logit[best]))
            best = e;
    }
    return best;
}

static void pick_row(struct pass *p, int r)
{
    const struct moe *g = &p->w->config.moe;
    const float *logit = p->crew.router + r * p->crew.ldr;
    int *pick = p->crew.expert + r * g->n_used;
    float *weight = p->crew.weight + r * g->n_used, all = 0, picked = 0;
    for (int j = 0; j < g->n_used; j++)
        pick[j] = best_left(logit, g->n_experts, pick, j);
    for (int e = 0; e < g->n_experts; e++)
        all += cpu__exp(logit[e] - logit[pick[0]]);
    for (int j = 0; j < g->n_used; j++) {
        weight[j] = cpu__exp(logit[pick[j]] - logit[pick[0]]) / all;
        picked += weight[j];
    }
    for (int j = 0; j < g->n_used && g->norm_topk; j++)
        weight[j] /= picked;
}

#ifdef BREAK_EXPERTS_BATCH_ORDER /* a row's experts are added in the order in which the batch met them */
static void batch_order(struct crew *c, int r, int n_used)
{
    int *place = c->place + r * n_used;
    float *weight = c->weight + r * n_used;
    for (int i = 1; i < n_used; i++)
        for (int j = i; j > 0 && place[j] < place[j - 1]; j--) {
            int t = place[j];
            float w = weight[j];
            place[j] = place[j - 1];
            weight[j] = weight[j - 1];
            place[j - 1] = t;
            weight[j - 1] = w;
        }
}
#endif

/* Counts the picks of each expert, numbers the active ones, and hands out places. */
static void place_picks(struct pass *p)
{
    struct crew *c = &p->crew;
    int n_used = p->w->config.moe.n_used;
    c->n_active = 0;
    for (int e = 0; e < p->w->config.moe.n_experts; e++)
        c->rank[e] = -1;
    for (int i = 0; i < c->picks; i++) {
        int e = c->expert[i];
        if (c->rank[e] < 0) {
            c->rank[e] = c->n_active;
            c->from[c->n_active + 1] = 0;
            c->active[c->n_active++] = e;
        }
        c->from[c->rank[e] + 1]++;
    }
    c->from[0] = 0;
    for (int i = 0; i < c->n_active; i++)
        c->from[i + 1] += c->from[i];
    for (int i = 0; i < c->picks;
         i++) { /* `from` runs ahead by each expert's own picks, and is put back below */
        c->place[i] = c->from[c->rank[c->expert[i]]]++;
        c->row[c->place[i]] = i / n_used;
    }
    for (int i = c->n_active; i > 0; i--)
        c->from[i] = c->from[i - 1];
    c->from[0] = 0;
#ifdef BREAK_EXPERTS_BATCH_ORDER
    for (int r = 0; r < p->n; r++)
        batch_order(c, r, n_used);
#endif
}

/* Each place's input: a view of the quantized row, a copy of the float one. */
static void gather(struct pass *p, int place)
{
    struct crew *c = &p->crew;
    int row = c->row[place];
    c->x.q8[place] = p->a.q8[row];
    if (p->w->float_experts)
        memcpy(c->x.x + place * c->x.ld, p->a.x + row * p->a.ld,
               (size_t) p->w->config.hidden * sizeof *c->x.x);
}

static void step_route(struct pass *p, const struct cpu__layer *y, struct desk *d)
{
    struct cpu__pool *pool = p->w->cpu->pool;
    cpu__pass_matrix(p, &y->router, &p->a, p->n, d, emit_router);
    for (int r; (r = cpu__pool_claim(pool)) < p->n;)
        pick_row(p, r);
    cpu__pool_sync(pool);
    if (cpu__pool_claim(pool) == 0)
        place_picks(p);
    cpu__pool_sync(pool);
    for (int i; (i = cpu__pool_claim(pool)) < p->crew.picks;)
        gather(p, i);
    cpu__pool_sync(pool);
}

/* --- their work --- */

static void step_ffn(struct pass *p, const struct cpu__layer *y, struct desk *d)
{
    const struct crew *c = &p->crew;
    int pieces = cpu__pieces_each(&y->expert[0].gate, p->threads, c->n_active);
    cpu__desk_forget(d);
    for (int i; (i = cpu__pool_claim(p->w->cpu->pool)) < c->n_active * pieces;) {
        int at = i / pieces;
        cpu__pass_ffn(p, &y->expert[c->active[at]], pieces, i % pieces, &c->x, &c->f, c->from[at],
                      c->from[at + 1], d);
    }
    cpu__pool_sync(p->w->cpu->pool);
}

static void emit_down(struct pass *p, int r0, int r1, int o0, int width, const float *out)
{
    cpu__pass_copy(p->crew.y, p->crew.ldy, r0, r1, o0, width, out);
}

static void step_down(struct pass *p, const struct cpu__layer *y, struct desk *d)
{
    const struct crew *c = &p->crew;
    int pieces = cpu__pieces_each(&y->expert[0].down, p->threads, c->n_active);
    cpu__desk_forget(d);
    for (int i; (i = cpu__pool_claim(p->w->cpu->pool)) < c->n_active * pieces;) {
        int at = i / pieces;
        cpu__pass_piece(p, &y->expert[c->active[at]].down, pieces, i % pieces, &c->f, c->from[at],
                        c->from[at + 1], d, emit_down);
    }
    cpu__pool_sync(p->w->cpu->pool);
}

/* Outputs [at, at + n) of row r. */
static void sum_row(struct pass *p, int r, int at, int n)
{
    const struct kern *k = &p->w->cpu->kern;
    const struct crew *c = &p->crew;
    int n_used = p->w->config.moe.n_used;
    float sum[SUM_WIDTH] = {0};
    for (int j = r * n_used; j < (r + 1) * n_used; j++)
        k->add_scaled(sum, c->y + c->place[j] * c->ldy + at, c->weight[j], n);
    k->add(p->x + r * p->ldx + at, sum, n);
}

static void step_sum(struct pass *p)
{
    int hidden = p->w->config.hidden, pieces = (hidden + SUM_WIDTH - 1) / SUM_WIDTH;
    for (int i; (i = cpu__pool_claim(p->w->cpu->pool)) < p->n * pieces;) {
        int at = i % pieces * SUM_WIDTH;
        sum_row(p, i / pieces, at, min(SUM_WIDTH, hidden - at));
    }
    cpu__pool_sync(p->w->cpu->pool);
}

void cpu__pass_experts(struct pass *p, const struct cpu__layer *y, struct desk *d)
{
    step_route(p, y, d);
    step_ffn(p, y, d);
    step_down(p, y, d);
    step_sum(p);
}
