/* round.c - thread: engine.  Reads as the sentence it is:
 *
 *     fill -> plan -> draft_begin [-> draft_grow] ... -> draft_finish -> trim ->
 *         target_submit -> verifier_submit -> target_settle -> target_wait -> take
 *
 * It decides nothing about policy (sched.c did, and plan.c) and knows nothing of clients (engine.c does).  The accepted path is the one thing
 * that flows back, and it flows back here only.  "Drafting off" is a tree of one node through the same code. */
#include "daemon/round.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "cpu/cpu.h"
#include "draft/draft.h"
#include "target/target.h"
#include "verifier/verifier.h"

enum {
    DRAFT_PROMPT_ROWS = 256,
    MEASURE_NS =
        300000000, /* at the start, for passes that show what they cost; a large model takes three of each kind */
};

struct round {
    struct engine_opts opts;
    struct cpu *cpu;       /* owns, as all below but the next */
    struct cpu *draft_cpu; /* cpu's side, or cpu itself: the two then take turns */
    struct cpu_model *target_weights, *draft_weights;
    struct target *target;
    struct draft *draft; /* NULL: none */
    struct verifier *verifier;
    struct target_info info;
    struct tree *tree; /* (sessions_max) of this round, as all below */
    struct path *path;
    struct draft_job *guess;
    struct plan_session *session; /* of those that run, in their order */
    struct tree **guessed;        /* their trees */
    int32_t *nodes, *tokens;      /* likewise: nodes the target is to see, tokens that came */
    struct target_item *item;
    struct verifier_job *walk;
    struct verifier_told *told;     /* under synthetic acceptance; else NULL */
    uint64_t *row_hash;             /* (sessions_max, TREE_MAX) */
    struct draw_logprobs *logprobs; /* (sessions_max, TREE_MAX) */
    int n_guess, n_walk, n_sessions;
    int n_measured;       /* round_measure's steps */
    uint64_t measured_ns; /* and what they took */
    int32_t pace;         /* tokens a draft reads of a text it is far behind in */
    uint64_t ended_ns;    /* the round before; 0: none */
    struct plan plan;
    struct round_figures figures;
};

/* Under which guesses are kept by a coin; n 0: none. */
static const struct synthetic *rates_of(const struct round *r)
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
    r->told = rates_of(r)->n ? calloc(n, sizeof *r->told) : NULL;
    if (!r->session || !r->guessed || !r->nodes || !r->tokens || (rates_of(r)->n && !r->told))
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
                           /* integer kernels outrun sgemm */
                           .blas = o->draft_quant == CPU_QUANT_F32 || o->draft_quant == CPU_QUANT_BF16 ||
                                   o->draft_quant == CPU_QUANT_F16,
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
    if (warm)
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
    if (warm)
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
    if (a->state.n_output > 0)
        plan_note_answer(&r->plan, a->state.n_output);
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
    if (answer_is_over(a))
        return; /* only its last event is still to leave */
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

/* How its tree is chosen. */
static int mode_of(const struct round *r, const struct answer *a)
{
    int spec = a->req->spec;
    if (!a->guess || spec == ENGINE_SPEC_OFF)
        return PLAN_OFF;
    return spec == ENGINE_SPEC_AUTO && r->opts.cost_model ? PLAN_AUTO : PLAN_FIXED;
}

/* How large a tree this answer may have: in PLAN_FIXED a like share of the rows. */
static int32_t nodes_of(const struct round *r, const struct answer *a, int n_trees)
{
    int32_t share = r->opts.rows_max / n_trees, nodes = nodes_wanted(r, a->req), mode = mode_of(r, a);
    int32_t left = a->draw.max_tokens - a->state.n_output; /* a guess after the last token is wasted */
    if (mode == PLAN_OFF || left <= 1 || (mode == PLAN_AUTO && a->state.n_output == 0))
        return 1; /* AUTO: the first token waits for nothing */
    return nodes < share || mode == PLAN_AUTO ? nodes : share;
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

/* Of a draft that always guesses: what it may read now of the text it is behind in. */
static int32_t read_along(const struct round *r, const struct answer *a)
{
    int32_t n = draft_unread(r->draft, a->guess);
    return n <= TREE_MAX || n < r->pace ? n : r->pace;
}

/* The answer to the planner's questions. */
static void fill_session(struct round *r, const struct answer *a, struct plan_session *s,
                         struct plan_account *account)
{
    int warm = a->draw.temperature >= 1e-3f;
    *s = (struct plan_session){.mode = mode_of(r, a),
                               .left = a->draw.max_tokens - a->state.n_output,
                               .given = a->state.n_output,
                               .account = account};
    if (s->mode == PLAN_OFF)
        return;
    s->depth = r->opts.draft ? depth_of(r, a) : 0;
    s->hope = draft_hope(r->draft, a->guess, warm);
    s->unread = draft_unread(r->draft, a->guess);
}

static struct draft_job job_of(struct round *r, const struct answer *a, int i)
{
    return (struct draft_job){.seq = a->guess,
                              .root = a->text[a->n_text - 1],
                              .draw = &a->draw,
                              .state = &a->state,
                              .past = a->past,
                              .nodes = 1,
                              .tree = &r->tree[i]};
}

/* What session s is to guess; a root alone, with nothing to read, is no job. */
static void fill_guess(struct round *r, const struct answer *a, const struct plan_session *s, int i)
{
    struct draft_job j = job_of(r, a, i);
    j.nodes = s->mode == PLAN_AUTO && plan_is_plain(&r->plan) ? 1 : s->nodes;
    j.depth = s->draft ? s->depth : 0;
    j.spine = spine_of(a);
    j.read = s->mode == PLAN_FIXED ? read_along(r, a) : s->read;
    j.floor = s->mode == PLAN_AUTO ? plan_floor(&r->plan) : 0;
    if (j.nodes > 1 || j.read > 0)
        r->guess[r->n_guess++] = j;
}

/* Trees for those that run, rows for those that read; returns the rows.  *waiting: 1: somebody will soon have read its prompt. */
static int32_t fill_items(struct round *r, struct answer **a, int n, int *waiting)
{
    int n_trees = 0;
    *waiting = 0;
    int32_t beside = 0;
    r->n_guess = r->n_walk = r->n_sessions = 0;
    for (int i = 0; i < n; i++)
        n_trees += round_unread(a[i]) == 0;
    for (int i = 0; i < n; i++) {
        if (round_unread(a[i])) {
            fill_known(a[i], &r->item[i]);
            beside += r->item[i].n;
            *waiting |= !a[i]->state.n_output && round_unread(a[i]) <= ROUND_PROMPT_ROWS;
            continue;
        }
        int k = r->n_sessions++;
        fill_tree(r, a[i], i);
        fill_session(r, a[i], &r->session[k], &a[i]->account);
        r->session[k].nodes = nodes_of(r, a[i], n_trees);
        r->guessed[k] = &r->tree[i];
    }
    return beside;
}

static void fill(struct round *r, struct answer **a, int n)
{
    int waiting;
    int32_t beside = fill_items(r, a, n, &waiting);
    plan_begin(&r->plan, r->session, r->n_sessions, beside, waiting);
    for (int i = 0, k = 0; i < n; i++) {
        if (r->item[i].kind == TARGET_TREE) {
            if (a[i]->guess)
                fill_guess(r, a[i], &r->session[k], i);
            k++;
        } else if (mode_of(r, a[i]) == PLAN_FIXED) {
            struct draft_job j = job_of(r, a[i], i);
            j.read = read_along(r, a[i]);
            r->guess[r->n_guess++] = j;
        }
    }
}

/* --- guessing --- */

static int has_fixed(const struct round *r)
{
    for (int i = 0; i < r->n_sessions; i++)
        if (r->session[i].mode == PLAN_FIXED)
            return 1;
    return 0;
}

/* Level by level, while the next one pays. */
static int guess(struct round *r)
{
    struct draft_pass pass;
    int fixed = has_fixed(r);
    uint64_t start = answer_clock_ns(), end;
    int st = draft_begin(r->draft, r->guess, r->n_guess, &pass);
    while (!st) {
        end = answer_clock_ns();
        plan_note_level(&r->plan, pass.rows, pass.unread, (double) (end - start));
        start = end;
        draft_offer(r->draft, r->guess, r->n_guess, &pass);
        if (!pass.rows || !(fixed || plan_level(&r->plan, pass.rows, pass.gain)))
            break;
        st = draft_grow(r->draft);
    }
    if (!st)
        draft_finish(r->draft, r->guess, r->n_guess);
    return st;
}

/* Synthetic acceptance: coins decide which guesses the target agrees with. */
static void tell(struct round *r, struct answer **a, int n)
{
    for (int i = 0, k = 0; i < n && r->told; i++) {
        if (r->item[i].kind != TARGET_TREE)
            continue;
        struct verifier_job *walk = &r->walk[k++];
        if (!a[i]->guess)
            continue;
        synthetic_tell(rates_of(r), a[i]->guess, &a[i]->draw, a[i]->state.pos, &r->told[i]);
        walk->told = &r->told[i];
    }
}

static void trim(struct round *r)
{
    plan_trim(&r->plan, r->guessed, r->nodes);
    for (int i = 0; i < r->n_sessions; i++)
        if (r->nodes[i] < r->guessed[i]->n)
            tree_trim(r->guessed[i], r->nodes[i]);
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

static int32_t note_pass(struct round *r, int n)
{
    int32_t rows = 0;
    r->figures.passes++;
    for (int i = 0; i < n; i++)
        if (r->item[i].kind == TARGET_TREE) {
            r->figures.tree_rows += r->tree[i].n;
            rows += r->tree[i].n;
        } else {
            r->figures.prompt_rows += r->item[i].n;
            rows += r->item[i].n;
        }
    return rows;
}

static int score(struct round *r, int n, int *which)
{
    int st = target_submit(r->target, r->item, n, which);
    if (!st)
        st = verifier_submit(r->verifier, r->walk, r->n_walk);
    if (!st)
        st = target_settle(r->target, r->path, n);
    return st ? st : target_wait(r->target);
}

/* Of the time between two rounds, what belongs to this one: not the engine's sleep. */
static uint64_t began_ns(const struct round *r, uint64_t now)
{
    uint64_t most = (uint64_t) (r->plan.off_ns / 2);
    return r->ended_ns && now - r->ended_ns < most ? r->ended_ns : now;
}

int round_run(struct round *r, struct answer **a, int n, struct engine_event **out, int *status, int *which)
{
    uint64_t now = answer_clock_ns(), began = began_ns(r, now);
    fill(r, a, n);
    int st = r->n_guess ? guess(r) : 0;
    if (st)
        return st;
    tell(r, a, n);
    trim(r);
    uint64_t submitted = answer_clock_ns(), waited;
    st = score(r, n, which);
    if (st)
        return st;
    waited = answer_clock_ns();
    int32_t rows = note_pass(r, n);
    for (int i = 0, k = 0; i < n; i++) {
        out[i] = NULL;
        status[i] = 0;
        if (r->item[i].kind != TARGET_TREE)
            continue;
        if (!a[i]->decoding_ns)
            a[i]->decoding_ns = now;
        r->tokens[k++] = 1 + r->path[i].n;
        out[i] = take(r, a[i], i, &status[i]);
    }
    r->ended_ns = answer_clock_ns();
    plan_note(&r->plan, rows, (double) (waited - submitted), (double) (r->ended_ns - began), r->tokens);
    return 0;
}
