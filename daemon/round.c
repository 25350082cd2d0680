/* round.c - thread: engine.  Reads as the sentence it is:
 *
 *     fill -> draft_propose -> target_submit -> verifier_submit -> target_settle -> target_wait -> take
 *
 * It decides nothing about policy (sched.c did) and knows nothing of clients (engine.c does).  The accepted path is the one thing
 * that flows back, and it flows back here only.  "Drafting off" is a tree of one node through the same code. */
#include "daemon/round.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "draft/draft.h"
#include "target/target.h"
#include "verifier/verifier.h"

enum {
    DRAFT_PROMPT_ROWS = 256,
};

struct round {
    struct engine_opts opts;
    struct cpu *cpu; /* owns, as all below */
    struct cpu_model *target_weights, *draft_weights;
    struct target *target;
    struct draft *draft; /* NULL: none */
    struct verifier *verifier;
    struct target_info info;
    struct tree *tree; /* (sessions_max) of this round, as all below */
    struct path *path;
    struct draft_job *guess;
    struct target_item *item;
    struct verifier_job *walk;
    uint64_t *row_hash;             /* (sessions_max, TREE_MAX) */
    struct draw_logprobs *logprobs; /* (sessions_max, TREE_MAX) */
    int n_guess, n_walk;
    struct round_figures figures;
};

/* --- open --- */

static int open_arrays(struct round *r, struct err *e)
{
    size_t n = (size_t) r->opts.sessions_max;
    r->tree = calloc(n, sizeof *r->tree);
    r->path = calloc(n, sizeof *r->path);
    r->guess = calloc(n, sizeof *r->guess);
    r->item = calloc(n, sizeof *r->item);
    r->walk = calloc(n, sizeof *r->walk);
    r->row_hash = calloc(n * TREE_MAX, sizeof *r->row_hash);
    r->logprobs = calloc(n * TREE_MAX, sizeof *r->logprobs);
    if (!r->logprobs || !r->tree || !r->path || !r->guess || !r->item || !r->walk || !r->row_hash)
        return err_set(e, ST_NOMEM, "out of memory for %d sessions", r->opts.sessions_max);
    return 0;
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
    int st = o->cuda ? 0 : cpu_model_open(&r->target_weights, r->cpu, o->target, o->target_quant, e);
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
    struct draft_opts d = {.cpu = r->cpu,
                           .model = o->draft,
                           .vocab = o->vocab,
                           .seqs_max = o->sessions_max,
                           .context = o->draft_context,
                           .text_max = r->info.ctx_max,
                           .top = o->draft_top,
                           .lookup = o->lookup,
                           .prompt_rows = DRAFT_PROMPT_ROWS,
                           /* integer kernels outrun sgemm */
                           .blas = o->draft_quant == CPU_QUANT_F32 || o->draft_quant == CPU_QUANT_BF16 ||
                                   o->draft_quant == CPU_QUANT_F16,
                           .kv_bytes = o->draft_kv_bytes};
    int st = o->draft ? cpu_model_open(&r->draft_weights, r->cpu, o->draft, o->draft_quant, e) : 0;
    d.weights = r->draft_weights;
    if (!st)
        st = draft_open(&r->draft, &d, e);
    return st;
}

void round_pace_draft(struct round *r, int32_t rows)
{
    if (r->draft)
        draft_pace(r->draft, rows < DRAFT_PROMPT_ROWS ? rows : DRAFT_PROMPT_ROWS);
}

int round_open(struct round **out, const struct engine_opts *o, struct err *e)
{
    *out = NULL;
    if (o->sessions_max < 1)
        return err_set(e, ST_INPUT, "--max-sessions must be at least 1, not %d", o->sessions_max);
    if (o->rows_max < o->sessions_max)
        return err_set(
            e, ST_INPUT,
            "--max-rows %d must be at least --max-sessions %d: every session takes part in every round",
            o->rows_max, o->sessions_max);
    struct round *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(e, ST_NOMEM, "out of memory opening the engine");
    r->opts = *o;
    struct cpu_opts c = {.threads = o->threads, .isa = o->isa};
    int st = open_arrays(r, e);
    if (!st)
        st = cpu_open(&r->cpu, &c, e);
    if (!st)
        st = open_target(r, e);
    if (!st)
        st = open_draft(r, e);
    if (!st)
        st = verifier_open(&r->verifier, o->vocab, o->sessions_max, e);
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
    free(r->item);
    free(r->walk);
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
                                .has_draft = r->opts.draft != NULL};
    memcpy(out->fingerprint, r->info.fingerprint, sizeof out->fingerprint);
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

/* --- answers come and go --- */

static int check_ids(const struct round *r, const int32_t *tok, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (tok[i] < 0 || tok[i] >= r->info.vocab)
            return ST_INPUT;
    return 0;
}

/* One bad request must not end a pass, and with it the engine. */
static int check_request(const struct round *r, const struct answer *a)
{
    const struct engine_request *q = a->req;
    if (q->n_prompt < 1 || (int64_t) q->n_prompt + q->draw.max_tokens > r->info.ctx_max)
        return ST_LIMIT;
    return check_ids(r, a->text, a->n_text);
}

int32_t round_unread(const struct answer *a)
{
    return a->n_text - 1 - target_seq_len(a->seq);
}

int round_has_prompt(const struct answer *a)
{
    return a->seq && !a->evicted && target_seq_len(a->seq) >= a->req->n_prompt - 1;
}

/* The prompt's pages of another answer to it.  0 where there is none, or no page for the last, unfinished one. */
static int seq_from_family(struct round *r, struct answer *a)
{
    const struct family *f = a->family;
    int i = 0;
    while (i < ENGINE_CHOICES_MAX && !(f->member[i] && round_has_prompt(f->member[i])))
        i++;
    if (i == ENGINE_CHOICES_MAX || target_seq_fork(r->target, f->member[i]->seq, &a->seq))
        return 0;
    a->figures.n_cached = a->req->n_prompt - 1;
    if (target_rewind(r->target, a->seq, a->figures.n_cached) == 0)
        return 1;
    target_seq_free(r->target, a->seq);
    a->seq = NULL;
    return 0;
}

/* The largest tree it asks for. */
static int32_t nodes_wanted(const struct round *r, const struct engine_request *q)
{
    if (q->spec == ENGINE_SPEC_OFF)
        return 1;
    return q->spec == ENGINE_SPEC_NODES ? q->spec_nodes : r->opts.draft_nodes;
}

int round_admit(struct round *r, struct answer *a)
{
    int st = check_request(r, a);
    if (!st && !seq_from_family(r, a))
        st = target_seq_new(r->target, a->text, a->n_text, 0, &a->seq, &a->figures.n_cached);
    if (!st && r->draft && nodes_wanted(r, a->req) > 1) /* a root alone needs no draft that reads along */
        st = draft_seq_new(r->draft, &a->guess);
    if (!st && a->guess)
        st = draft_feed(r->draft, a->guess, a->text, a->n_text - 1);
    a->n_noted = a->n_text - 1;
    if (st)
        round_dismiss(r, a);
    return st;
}

int round_text_grew(struct round *r, struct answer *a)
{
    int32_t from = a->n_noted, n = a->n_text - 1 - from;
    a->n_noted = a->n_text - 1;
    return a->guess && n > 0 ? draft_feed(r->draft, a->guess, a->text + from, n) : 0;
}

void round_dismiss(struct round *r, struct answer *a)
{
    target_seq_free(r->target, a->seq);
    a->seq = NULL;
    if (r->draft)
        draft_seq_free(r->draft, a->guess);
    a->guess = NULL;
}

void round_evict(struct round *r, struct answer *a)
{
    target_seq_drop(r->target, a->seq);
    a->evicted = 1;
    a->figures.preempted++;
    r->figures.preemptions++;
}

int round_readmit(struct round *r, struct answer *a)
{
    int32_t cached;
    a->evicted = 0;
    return target_seq_attach(r->target, a->seq, a->text, a->n_text, &cached);
}

/* --- the round --- */

/* Rows of an answer that is not level with its text: a chunk of its prompt, or known output; as many as the scheduler says. */
static void fill_known(struct answer *a, struct target_item *it)
{
    int32_t len = target_seq_len(a->seq),
            prompt = a->req->n_prompt - 1; /* the prompt's last token is a root, or known */
    int32_t end = len < prompt ? prompt : a->n_text - 1, n = a->rows;
    *it = (struct target_item){.seq = a->seq,
                               .kind = len < prompt ? TARGET_PROMPT : TARGET_KNOWN,
                               .tok = a->text + len,
                               .n = end - len < n ? end - len : n};
}

/* How large a tree this answer may have: a like share of the rows. */
static int32_t nodes_of(const struct round *r, const struct answer *a, int n_trees)
{
    int32_t share = r->opts.rows_max / n_trees, nodes = nodes_wanted(r, a->req);
    int32_t left = a->draw.max_tokens - a->state.n_output; /* a guess after the last token is wasted */
    if (!a->guess || left <= 1)
        return 1;
    return nodes < share ? nodes : share;
}

static int32_t depth_of(const struct round *r, const struct answer *a)
{
    int32_t depth = a->req->spec_depth > 0 ? a->req->spec_depth : r->opts.draft_depth;
    int32_t left = a->draw.max_tokens - a->state.n_output - 1;
    return depth < left ? depth : left;
}

/* What is looked up costs nothing but rows: only the client's own wish and the answer's end limit its depth. */
static int32_t spine_of(const struct answer *a)
{
    int32_t depth = a->req->spec_depth > 0 ? a->req->spec_depth : TREE_MAX - 1;
    int32_t left = a->req->draw.max_tokens - a->state.n_output - 1;
    return depth < left ? depth : left;
}

static void fill_tree(struct round *r, struct answer *a, int i)
{
    tree_init(&r->tree[i], a->text[a->n_text - 1]);
    r->item[i] = (struct target_item){.seq = a->seq, .kind = TARGET_TREE, .tree = &r->tree[i]};
    r->walk[r->n_walk++] =
        (struct verifier_job){.tree = &r->tree[i],
                              .logits = &r->item[i].logits,
                              .draw = &a->draw,
                              .state = &a->state,
                              .past = a->past,
                              .path = &r->path[i],
                              .row_hash = r->opts.hash_rows ? r->row_hash + (size_t) i * TREE_MAX : NULL,
                              .logprobs = r->logprobs + (size_t) i * TREE_MAX};
}

/* Guesses for a tree, or, with one node, nothing but the draft's own reading of the text beside the target's. */
static void fill_guess(struct round *r, struct answer *a, int i, int32_t nodes)
{
    r->guess[r->n_guess++] = (struct draft_job){.seq = a->guess,
                                                .root = a->text[a->n_text - 1],
                                                .draw = &a->draw,
                                                .state = &a->state,
                                                .past = a->past,
                                                .nodes = nodes,
                                                .depth = depth_of(r, a),
                                                .spine = spine_of(a),
                                                .tree = &r->tree[i]};
}

static void fill(struct round *r, struct answer **a, int n)
{
    int n_trees = 0;
    r->n_guess = r->n_walk = 0;
    for (int i = 0; i < n; i++)
        n_trees += round_unread(a[i]) == 0;
    for (int i = 0; i < n; i++) {
        int level = round_unread(a[i]) == 0;
        if (level)
            fill_tree(r, a[i], i);
        else
            fill_known(a[i], &r->item[i]);
        if (a[i]->guess)
            fill_guess(r, a[i], i, level ? nodes_of(r, a[i], n_trees) : 1);
    }
}

static void note_figures(struct round *r, struct answer *a, const struct tree *t, const struct path *p)
{
    struct engine_figures *f = &a->figures;
    f->passes++;
    f->drafted += t->n - 1;
    f->accepted += p->n;
    for (int i = 1; i < t->n; i++) {
        f->drafted_at[t->depth[i] - 1]++;
        r->figures.drafted_at[t->depth[i] - 1]++;
        r->figures.drafted[t->source[i]]++;
    }
    for (int i = 0; i < p->n; i++) {
        f->accepted_at[i]++;
        r->figures.accepted_at[i]++;
        r->figures.accepted[t->source[p->node[i]]]++;
    }
}

/* The verdict, and what followed it without a draw (closing text). */
static int tell_draft(struct round *r, struct answer *a, const struct tree *t, const struct path *p)
{
    int st = draft_settle(r->draft, a->guess, t, p);
    a->n_noted += 1 + p->n;
    return st ? st : round_text_grew(r, a);
}

/* The walk's verdict goes into the text, and back to the draft. */
static struct engine_event *take(struct round *r, struct answer *a, int i, int *status)
{
    const struct path *p = &r->path[i];
    *status = p->status;
    if (p->status)
        return NULL;
    note_figures(r, a, &r->tree[i], p);
    const uint64_t *hash = r->opts.hash_rows ? r->row_hash + (size_t) i * TREE_MAX : NULL;
    const struct draw_logprobs *lp = a->req->draw.logprobs ? r->logprobs + (size_t) i * TREE_MAX : NULL;
    struct engine_event *e = answer_take(a, &r->tree[i], p, hash, lp);
    if (!e)
        *status = ST_NOMEM;
    else if (a->guess)
        *status = tell_draft(r, a, &r->tree[i], p);
    if (*status) {
        engine_event_free(e);
        return NULL;
    }
    return e;
}

static void note_pass(struct round *r, int n)
{
    r->figures.passes++;
    for (int i = 0; i < n; i++)
        if (r->item[i].kind == TARGET_TREE)
            r->figures.tree_rows += r->tree[i].n;
        else
            r->figures.prompt_rows += r->item[i].n;
}

int round_run(struct round *r, struct answer **a, int n, struct engine_event **out, int *status, int *which)
{
    uint64_t now = answer_clock_ns();
    fill(r, a, n);
    int st = r->n_guess ? draft_propose(r->draft, r->guess, r->n_guess) : 0;
    if (st)
        return st;
    st = target_submit(r->target, r->item, n, which);
    if (!st)
        st = verifier_submit(r->verifier, r->walk, r->n_walk);
    if (!st)
        st = target_settle(r->target, r->path, n);
    if (!st)
        st = target_wait(r->target);
    if (!st)
        note_pass(r, n);
    for (int i = 0; i < n && !st; i++) {
        out[i] = NULL;
        status[i] = 0;
        if (r->item[i].kind != TARGET_TREE)
            continue;
        if (!a[i]->decoding_ns)
            a[i]->decoding_ns = now;
        out[i] = take(r, a[i], i, &status[i]);
    }
    return st;
}
