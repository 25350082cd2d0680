/* round.c - thread: engine.  Reads as the sentence it is:
 *
 *     fill -> plan -> draft_begin [-> draft_grow] ... -> draft_finish -> trim ->
 *         target_submit -> verifier_submit -> target_settle -> target_wait -> take
 *
 * It decides nothing about policy (sched.c did, and plan.c) and knows nothing of clients (engine.c does).  The accepted path is the one thing
 * that flows back, and it flows back here only.  "Drafting off" is a tree of one node through the same code. */
#include "daemon/round_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

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
        synthetic_tell(round__rates(r), a[i]->guess, &a[i]->draw, a[i]->state.pos, &r->told[i]);
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
