/* round_open.c - thread: engine.  A round's parts, from opening to closing, and what passes cost before anybody waits for one. */
#include "daemon/round_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

enum {
    DRAFT_PROMPT_ROWS = 256,
    MEASURE_NS =
        300000000, /* at the start, for passes that show what they cost; a large model takes three of each kind */
};
const struct synthetic *round__rates(const struct round *r)
{
#ifdef BREAK_COIN_UNASKED /* the gate must see guesses kept that the target does not say */
    static const struct synthetic unasked = {2, {0.8f, 0.8f}};
    return &unasked;
#endif
    return &r->opts.synthetic;
}

/* --- open --- */

static int open_arrays(struct round *r, struct err *e)
{
    size_t n = (size_t) r->opts.sessions_max;
    r->tree = calloc(n, sizeof *r->tree);
    r->path = calloc(n, sizeof *r->path);
    r->guess = calloc(n, sizeof *r->guess);
    r->session = calloc(n, sizeof *r->session);
    r->guessed = calloc(n, sizeof *r->guessed);
    r->nodes = calloc(n, sizeof *r->nodes);
    r->tokens = calloc(n, sizeof *r->tokens);
    r->item = calloc(n, sizeof *r->item);
    r->walk = calloc(n, sizeof *r->walk);
    r->row_hash = calloc(n * TREE_MAX, sizeof *r->row_hash);
    r->logprobs = calloc(n * TREE_MAX, sizeof *r->logprobs);
    r->told = round__rates(r)->n ? calloc(n, sizeof *r->told) : NULL;
    if (!r->session || !r->guessed || !r->nodes || !r->tokens || (round__rates(r)->n && !r->told))
        return err_set(e, ST_NOMEM, "out of memory for %d sessions", r->opts.sessions_max);
    if (!r->logprobs || !r->tree || !r->path || !r->guess || !r->item || !r->walk || !r->row_hash)
        return err_set(e, ST_NOMEM, "out of memory for %d sessions", r->opts.sessions_max);
    return 0;
}

static int open_cpu(struct round *r, struct err *e)
{
    const struct engine_opts *o = &r->opts;
    struct cpu_opts c = {
        .threads = o->threads, .isa = o->isa, .side = o->draft ? o->side_threads : 0, .pin = o->pin};
    int st = cpu_open(&r->cpu, &c, e);
    if (st)
        return st;
    r->draft_cpu = cpu_side(r->cpu) ? cpu_side(r->cpu) : r->cpu;
    if (o->pin && !cpu_pinned(r->cpu))
        log_info("threads are not pinned: fewer than %d cores are free of other daemons' pinned ones",
                 o->threads);
    return 0;
}

void round_settle(const struct round *r)
{
    cpu_home(r->cpu);
}

static int open_target(struct round *r, struct err *e)
{
    const struct engine_opts *o = &r->opts;
    struct target_opts t = {.cuda = o->cuda,
                            .cpu = r->cpu,
                            .model = o->target,
                            .fingerprint_extra = o->closing_text,
                            .vocab = o->vocab,
                            .kv_type = o->kv_type,
                            .quant = o->target_quant,
                            .ctx_max = o->ctx_max,
                            .rows_max = o->rows_max + ROUND_PROMPT_ROWS,
                            .logits_max = o->rows_max,
                            .kv_bytes = o->kv_bytes,
                            .prefix_cache = o->prefix_cache};
    int st = o->cuda ? 0
                     : cpu_model_open_cached(&r->target_weights, r->cpu, o->target, o->target_quant,
                                             o->pack_cache, e);
    t.weights = r->target_weights;
    if (!st)
        st = target_open(&r->target, &t, e);
    if (!st)
        target_describe(r->target, &r->info);
    return st;
}

static int open_draft(struct round *r, struct err *e)
{
    const struct engine_opts *o = &r->opts;
    if (!o->draft && !o->lookup)
        return 0;
    struct draft_opts d = {.cpu = r->draft_cpu,
                           .model = o->draft,
                           .vocab = o->vocab,
                           .seqs_max = o->sessions_max,
                           .context = o->draft_context,
                           .text_max = r->info.ctx_max,
                           .top = o->draft_top,
                           .head = o->draft_head,
                           .lookup = o->lookup,
                           .prompt_rows = DRAFT_PROMPT_ROWS,
                           .blas = (o->draft_quant == CPU_QUANT_F32 || o->draft_quant == CPU_QUANT_BF16 ||
                                    o->draft_quant == CPU_QUANT_F16) &&
                                   cpu_blas_fits(r->draft_cpu),
                           .kv_bytes = o->draft_kv_bytes};
    int st = o->draft ? cpu_model_open_cached(&r->draft_weights, r->draft_cpu, o->draft, o->draft_quant,
                                              o->pack_cache, e)
                      : 0;
    d.weights = r->draft_weights;
    if (o->draft && o->draft->config.parallel)
        log_info("the draft guesses in one pass (pard_token %d)", o->draft->config.pard_token);
    if (!st)
        st = draft_open(&r->draft, &d, e);
    return st;
}

/* --- what passes cost, while nobody waits for one --- */

static double since_ns(uint64_t start)
{
    return (double) (answer_clock_ns() - start);
}

/* One pass of the target over a chain of so many nodes, of which nothing is kept. */
static int measure_target(struct round *r, struct target_seq *s, int32_t rows, int warm)
{
    struct tree *t = &r->tree[0];
    struct target_item it = {.seq = s, .kind = TARGET_TREE, .tree = t};
    tree_init(t, 0);
    for (int i = 1; i < rows; i++)
        tree_add(t, i - 1, 0, 1, TREE_ROOT, -1);
    uint64_t start = answer_clock_ns();
    int st = target_submit(r->target, &it, 1, NULL);
    st = st ? st : target_wait(r->target);
    if (warm && !st)
        cost_note(&r->plan.target, rows, since_ns(start));
    return st;
}

/* One of the draft over text of so many tokens and a root. */
static int measure_level(struct round *r, struct draft_seq *s, int32_t rows, int warm)
{
    static const struct draw_params draw = {
        .top_p = 1, .repetition = 1, .max_tokens = 2, .think = {-1, -1, -1, -1, NULL, 0}};
    static const struct draw_state state = {.pos = 1, .matched = -1};
    static const int32_t text[TREE_MAX];
    struct draft_pass did;
    struct draft_job j = {
        .seq = s, .draw = &draw, .state = &state, .nodes = 2, .depth = 1, .read = rows, .tree = &r->tree[0]};
    int st = draft_rewind(r->draft, s, 0);
    st = st ? st : draft_feed(r->draft, s, text, rows - 1);
    uint64_t start = answer_clock_ns();
    st = st ? st : draft_begin(r->draft, &j, 1, &did);
    if (warm && !st && did.rows == rows)
        cost_note(&r->plan.level, rows, since_ns(start));
    return st;
}

int round_measure(struct round *r)
{
    static const int32_t rows[] = {1, 8, 32, 2, 16, 4, 64}, text[1];
    enum { SIZES = sizeof rows / sizeof *rows, LEAST = 4, PASSES = 1 + 3 * SIZES };
    int i = r->n_measured;
    struct target_seq *t;
    struct draft_seq *d = NULL;
    int32_t cached;
    if (!r->plan.by_cost || i == PASSES || (i >= LEAST && r->measured_ns > MEASURE_NS))
        return 0;
    uint64_t start = answer_clock_ns();
    int32_t n = rows[(i + SIZES - 1) % SIZES];
    int st = target_seq_new(r->target, text, 1, 0, &t, &cached);
    if (st)
        return st;
    st = measure_target(r, t, n, i > 0); /* the first one warms */
    if (!st && r->opts.draft)
        st = draft_seq_new(r->draft, &d);
    if (!st && d)
        st = measure_level(r, d, n, i > 0);
    target_seq_free(r->target, t);
    if (d)
        draft_seq_free(r->draft, d);
    r->n_measured++;
    r->measured_ns += answer_clock_ns() - start;
    return st == ST_AGAIN || st == ST_LIMIT ? 0 : st ? st : 1; /* no room for it now */
}

void round_pace_draft(struct round *r, int32_t rows)
{
    r->pace = rows;
}

const struct plan *round_plan(const struct round *r)
{
    return &r->plan;
}

int round_open(struct round **out, const struct engine_opts *o, struct err *e)
{
    *out = NULL;
    if (o->sessions_max < 1)
        return err_set(e, ST_INPUT, "--max-sessions must be at least 1, not %d", o->sessions_max);
    if (o->synthetic.n && !o->draft)
        return err_set(e, ST_INPUT,
                       "--synthetic-acceptance needs --draft: its rates are those of the draft model's "
                       "guesses");
    if (o->rows_max < o->sessions_max)
        return err_set(
            e, ST_INPUT,
            "--max-rows %d must be at least --max-sessions %d: every session takes part in every round",
            o->rows_max, o->sessions_max);
    struct round *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(e, ST_NOMEM, "out of memory opening the engine");
    r->opts = *o;
    r->pace = DRAFT_PROMPT_ROWS;
    plan_init(&r->plan, o->rows_max);
    int st = open_arrays(r, e);
    if (!st)
        st = open_cpu(r, e);
    if (!st)
        st = open_target(r, e);
    if (!st)
        st = open_draft(r, e);
    if (!st)
        st = verifier_open(&r->verifier, o->vocab, o->sessions_max, e);
    r->plan.by_cost = o->cost_model && r->draft;
    r->plan.parallel = o->draft && o->draft->config.parallel;
    if (st) {
        round_close(r);
        return st;
    }
    *out = r;
    return 0;
}

void round_close(struct round *r)
{
    if (!r)
        return;
    verifier_close(r->verifier);
    draft_close(r->draft);
    target_close(r->target);
    cpu_model_close(r->draft_weights);
    cpu_model_close(r->target_weights);
    cpu_close(r->cpu);
    free(r->tree);
    free(r->path);
    free(r->guess);
    free(r->session);
    free(r->guessed);
    free(r->nodes);
    free(r->tokens);
    free(r->item);
    free(r->walk);
    free(r->told);
    free(r->row_hash);
    free(r->logprobs);
    free(r);
}

void round_describe(const struct round *r, struct engine_info *out)
{
    *out = (struct engine_info){.ctx_max = r->info.ctx_max,
                                .vocab = r->info.vocab,
                                .sessions_max = r->opts.sessions_max,
                                .queue_max = r->opts.queue_max,
                                .has_draft = r->opts.draft != NULL,
                                .synthetic = r->opts.synthetic};
    snprintf(out->fingerprint, sizeof out->fingerprint, "%s", r->info.fingerprint);
    synthetic_mark(&r->opts.synthetic, out->fingerprint, sizeof out->fingerprint);
    snprintf(out->device, sizeof out->device, "%s", r->info.device);
}

void round_pages(const struct round *r, struct round_pages *out)
{
    struct target_usage u;
    target_usage(r->target, &u);
    *out = (struct round_pages){r->info.page, u.pages_free + u.pages_cached, r->info.pages, u.pages_cached};
}

int32_t round_holds(const struct round *r, const struct answer *a)
{
    return a->seq ? (target_seq_len(a->seq) + r->info.page - 1) / r->info.page : 0;
}

const struct round_figures *round_figures(const struct round *r)
{
    return &r->figures;
}
