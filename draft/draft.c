/* draft.c - trees grown best-first, one level of all sessions in one pass.
 *
 * A guess's children are ranked by the target's own dice (draw_rank: log q(v) + G(seed, choice, k, v)), and weighed by calibrated
 * confidence.  A level reads, of every job, the unread guesses likeliest to be part of the final tree; reading a guess gives its
 * children.  The tree is the likeliest `nodes` of all that were weighed.  Whether a level is worth its time the caller decides:
 * what it may bring is offered, and read or not.
 *
 * A model trained for it (config.h, `parallel`) says all levels in one pass: behind the root and as many tokens that stand for those
 * not known yet.  What it says of a level is then one list, whatever was guessed before, and trees are made of these lists.  What
 * was kept of them it reads as text before the next root.
 *
 * Sources of the scheme: best-first trees and pruning by path probability, EAGLE-2 (Li et al. 2024) and OPT-Tree (Wang et al. 2024);
 * Gumbel coupling, Daliri, Musco, Suresh 2024; guesses in parallel, PARD (An et al. 2025). */
#include "draft/internal.h"

#include <stdlib.h>
#include <string.h>

static const float SPINE_ALIVE_MIN =
    0.06f; /* a looked-up guess less likely is not worth a row of the target's pass */

enum {
    LEVEL_ROWS = 128, /* rows of a level that want logits, all jobs together: what memory is spent on */
    WIDTH_MAX = 8,    /* guesses of one job read a level */
    SLOTS_PER_SEQ = 64,
    SLOTS_MAX = 1024,
    BLAS_ROWS =
        256, /* portions of a prompt from here on go through OpenBLAS, if it is on: below, the kernels here are faster, and from there on slower by 1 to 3% (BENCH.md) */
};

static const float ALIVE_MIN = 0.01f; /* a guess less likely than this is not worth a row */
static const float FIRST_HOPE = 0.6f; /* before anything was guessed */
/* A guess so much less likely than the level's best waits: the floor rises by what this level brings, and a later one may read
 * it.  0.1 saves a fifth of the rows of 8 nodes and a twentieth of those of 32, and no acceptance; 0.4 costs some. */
static const float LEVEL_RATIO = 0.1f;
static const float SPINE_HOPELESS =
    0.25f; /* of the floor: a guess of lookup so little likely is left out, with what follows it */

struct level_row {
    struct draft_job *job;
    int32_t cand; /* -1: the root */
    int32_t row;  /* of the pass */
    int32_t
        ahead; /* tokens not known yet between the root and what follows this row; the rows of a job lie together */
};

/* --- open --- */

/* Lookup needs no weights, no KV, no logits. */
static int open_alone(struct draft **out, const struct draft_opts *o, struct err *e)
{
    if (!o->lookup)
        return err_set(e, ST_INPUT, "a draft needs a model, or lookup, or both");
    struct draft *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(e, ST_NOMEM, "out of memory opening the lookup");
    d->opts = *o;
    draft__calib_init(&d->calib);
    d->hope[0] = d->hope[1] = FIRST_HOPE;
    *out = d;
    return 0;
}

int draft_open(struct draft **out, const struct draft_opts *o, struct err *e)
{
    *out = NULL;
    if (o->text_max < 1)
        return err_set(e, ST_INPUT, "text_max must be at least 1, not %d", o->text_max);
    if (!o->model)
        return open_alone(out, o, e);
    if (o->context < 2 * CPU_PAGE)
        return err_set(e, ST_INPUT, "--draft-context must be at least %d tokens, not %d", 2 * CPU_PAGE,
                       o->context);
    if (o->vocab < 1 || o->vocab > o->model->config.vocab)
        return err_set(e, ST_INPUT, "a vocabulary of %d ids: the draft has rows for 1..%d", o->vocab,
                       o->model->config.vocab);
    if (o->head < -1 || o->head > o->vocab)
        return err_set(e, ST_INPUT, "--draft-head must be in 0..%d ids, or auto, not %d", o->vocab, o->head);
    if (o->top < 1 || o->top > TOP_MAX)
        return err_set(e, ST_INPUT, "--draft-top must be in 1..%d, not %d", TOP_MAX, o->top);
    struct draft *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(e, ST_NOMEM, "out of memory opening the draft");
    d->opts = *o;
    int64_t page_bytes = (int64_t) cpu_kv_page_bytes(o->model, CPU_KV_BF16);
    d->pages_cap = (o->context + CPU_PAGE - 1) / CPU_PAGE;
    int64_t pages = o->kv_bytes / page_bytes, most = (int64_t) o->seqs_max * d->pages_cap;
    d->n_pages = d->n_free_pages = (int32_t) (pages < most ? pages : most);
    d->n_slots = d->n_free_slots =
        o->seqs_max * SLOTS_PER_SEQ < SLOTS_MAX ? o->seqs_max * SLOTS_PER_SEQ : SLOTS_MAX;
    d->rows_cap = o->prompt_rows + o->seqs_max + LEVEL_ROWS;
    d->stride = ((int64_t) o->model->config.vocab + 15) / 16 * 16;
    d->free_page = malloc((size_t) (d->n_pages + 1) * sizeof *d->free_page);
    d->free_slot = malloc((size_t) d->n_slots * sizeof *d->free_slot);
    d->scratch = draw_scratch_new(o->vocab);
    d->row = malloc((size_t) d->rows_cap * sizeof *d->row);
    d->tail = malloc((size_t) LEVEL_ROWS * TREE_MAX * sizeof *d->tail);
    d->level = malloc(LEVEL_ROWS * sizeof *d->level);
    d->logits = malloc((size_t) LEVEL_ROWS * (size_t) d->stride * sizeof *d->logits);
    d->ranked = malloc(LEVEL_ROWS * sizeof *d->ranked);
    int st = 0;
    if (d->n_pages < d->pages_cap)
        st =
            err_set(e, ST_LIMIT,
                    "--draft-kv-bytes %lld is too little for one sequence: %d pages of %lld bytes are needed",
                    (long long) o->kv_bytes, d->pages_cap, (long long) page_bytes);
    else if (!d->free_page || !d->free_slot || !d->scratch || !d->row || !d->tail || !d->level ||
             !d->logits || !d->ranked || draft__head_init(d))
        st = err_set(e, ST_NOMEM, "out of memory opening the draft");
    else
        st = cpu_kv_open(&d->kv, o->model, CPU_KV_BF16, d->n_pages, d->n_slots, e);
    if (st) {
        draft_close(d);
        return st;
    }
    for (int32_t i = 0; i < d->n_pages; i++)
        d->free_page[i] = d->n_pages - 1 - i;
    for (int32_t i = 0; i < d->n_slots; i++)
        d->free_slot[i] = i;
    d->parallel = o->model->config.parallel;
    draft__calib_init(&d->calib);
    d->hope[0] = d->hope[1] = FIRST_HOPE;
    *out = d;
    return 0;
}

void draft_close(struct draft *d)
{
    if (!d)
        return;
    draft__seqs_fini(d);
    cpu_kv_close(d->kv);
    draw_scratch_free(d->scratch);
    free(d->free_page);
    free(d->free_slot);
    free(d->row);
    free(d->tail);
    free(d->level);
    free(d->logits);
    free(d->ranked);
    draft__head_fini(d);
    free(d);
}

/* --- weighing --- */

static int is_warm(const struct draft_job *job)
{
    return job->draw->temperature >= 1e-3f;
}

/* The guesses between the root and candidate c, c last. */
static int32_t branch_of(const struct draft_seq *s, int32_t c, int32_t *tok)
{
    int32_t n = c < 0 ? 0 : s->cand[c].depth;
    for (int32_t i = n - 1; i >= 0; i--, c = s->cand[c].parent)
        tok[i] = s->cand[c].tok;
    return n;
}

/* The spine's guess below parent, whose next one follows it in the list; -1: none. */
static int32_t spine_below(const struct draft_seq *s, int32_t parent)
{
    return parent + 1 < s->n_spine ? parent + 1 : -1;
}

/* Gives the spine's guess c a new confidence; what hangs below it on the spine gets likelier or less likely with it. */
static void reweigh(struct draft_seq *s, int32_t c, float conf)
{
    s->cand[c].conf = conf;
    for (; c < s->n_spine; c++)
        s->cand[c].alive = (c ? s->cand[c - 1].alive : 1) * s->cand[c].conf;
}

/* The model has ranked the children of the spine's guess c's parent: at n_rank or not at all (-1). */
static void judge_spine(struct draft *d, struct draft_seq *s, int32_t c, int rank, const struct cand *model)
{
    struct cand *k = &s->cand[c];
    k->spine.verdict = rank == 0 ? SPINE_BEST : rank > 0 ? SPINE_RANKED : SPINE_MISSED;
    float conf = draft__spine_conf(&d->calib, k->spine);
    if (rank >= 0) {
        k->ranked = 1;
        k->key = model->key;
        conf = conf > model->conf ? conf : model->conf;
    }
    reweigh(s, c, conf);
}

/* Where a row's children are drawn. */
struct place {
    struct draw_state state;
    int32_t branch[TREE_MAX], n; /* guesses between the root and there */
};

static void place_at(struct place *p, const struct draft_job *job, int32_t c)
{
    p->state = c < 0 ? *job->state : job->seq->cand[c].state;
    p->n = branch_of(job->seq, c, p->branch);
}

/* What the model says of the children there. */
static void rank(struct draft *d, const struct draft_job *job, const struct place *at, const float *logits,
                 struct ranked *r)
{
    int32_t forced;
    r->n = 0;
    if (at->state.done || draw_forced(job->draw, &at->state, &forced))
        return; /* nothing is drawn after this node */
    struct draw_seen seen = {job->past, at->branch, job->past ? at->n : 0};
    r->n = draw_rank(job->draw, &at->state, &seen, logits, d->opts.vocab, d->scratch, d->opts.top, r->tok,
                     r->score, is_warm(job) ? NULL : r->prob);
}

static int32_t depth_below(const struct draft_job *job, int32_t parent)
{
    return parent < 0 ? 1 : job->seq->cand[parent].depth + 1;
}

static struct calib_key key_of(const struct draft_job *job, int32_t depth, const struct ranked *r, int i)
{
    return draft__calib_key(is_warm(job), depth, i, r->score, r->prob, r->n);
}

static void add_children(struct draft *d, struct draft_job *job, int32_t parent, const struct ranked *r)
{
    struct draft_seq *s = job->seq;
    const struct draw_state *at = parent < 0 ? job->state : &s->cand[parent].state;
    float alive = parent < 0 ? 1 : s->cand[parent].alive;
    int32_t forced, spine = spine_below(s, parent), depth = depth_below(job, parent);
    if (parent >= 0)
        s->cand[parent].opened = 1;
    if (at->done || draw_forced(job->draw, at, &forced))
        return;
    for (int i = 0; i < r->n && s->n_cand < CAND_MAX; i++) {
        struct cand *c = &s->cand[s->n_cand], shared;
        if (spine >= 0 && r->tok[i] == s->cand[spine].tok) { /* one node for both */
            shared.key = key_of(job, depth, r, i);
            shared.conf = draft__calib_conf(&d->calib, shared.key);
            judge_spine(d, s, spine, i, &shared);
            spine = -1;
            continue;
        }
        *c = (struct cand){
            .tok = r->tok[i], .parent = parent, .depth = depth, .slot = -1, .ranked = 1, .state = *at};
        c->key = key_of(job, depth, r, i);
        c->conf = draft__calib_conf(&d->calib, c->key);
        c->alive = alive * c->conf;
        if (c->alive < ALIVE_MIN)
            continue;
        if (d->parallel && !draw_may(job->draw, at, r->tok[i]))
            continue; /* it was ranked behind another node */
        draw_step(job->draw, &c->state, r->tok[i]);
        s->n_cand++;
    }
    if (spine >= 0)
        judge_spine(d, s, spine, -1, NULL);
}

/* What lookup says, as candidates 0 .. n_spine - 1, before the model speaks. */
static void add_spine(struct draft *d, struct draft_job *job)
{
    struct draft_seq *s = job->seq;
    int32_t guess[TREE_MAX], len, forced;
    int32_t most = job->nodes - 1 < job->spine ? job->nodes - 1 : job->spine;
    struct draw_state at = *job->state;
    int32_t n = d->opts.lookup && most > 0
                    ? draft__lookup_find(&s->lookup, s->tok, s->n_tok, job->root, most, guess, &len)
                    : 0;
    float alive = 1;
    for (int32_t i = 0; i < n && !at.done && alive >= SPINE_HOPELESS * job->floor; i++) {
        if (draw_forced(job->draw, &at, &forced) || !draw_may(job->draw, &at, guess[i]))
            break;
        struct spine_key key = draft__spine_key(SPINE_UNSEEN, s->luck, len + i);
        float conf = draft__spine_conf(&d->calib, key);
        draw_step(job->draw, &at, guess[i]);
        s->cand[i] = (struct cand){.tok = guess[i],
                                   .parent = i - 1,
                                   .depth = i + 1,
                                   .slot = -1,
                                   .conf = conf,
                                   .alive = alive *= conf,
                                   .spine = key,
                                   .state = at};
        s->n_cand = s->n_spine = i + 1;
    }
}

/* --- reading --- */

static struct cpu_row settled_row(const struct draft_seq *s, int32_t tok, int32_t pos)
{
    return (struct cpu_row){
        .tok = tok, .pos = pos, .start = s->start, .page = s->page, .slot = -1, .logits = -1};
}

/* Notes rows for what the job's sequence has not read yet, at most *room of them.  1: the sequence is level with its text. */
static int add_unread(struct draft *d, const struct draft_job *job, int32_t *n_rows, int32_t *room)
{
    struct draft_seq *s = job->seq;
    int32_t n = s->n_tok - s->n_kv, most = job->read < *room ? job->read : *room;
    n = n < most ? n : most;
    for (int32_t i = 0; i < n; i++, s->n_kv++)
        d->row[(*n_rows)++] = settled_row(s, s->tok[s->n_kv], s->n_kv);
    *room -= n;
    return s->n_kv == s->n_tok;
}

static int wants_guesses(const struct draft_job *job)
{
    return job->nodes > 1 && !job->state->done;
}

/* After a root, the tokens not known yet, each of which sees those before it: the model was trained to say behind the i-th what
 * follows the root and i others.  Their KV is worth nothing to any other pass. */
static int32_t add_unknown(struct draft *d, struct draft_job *job, int most, int32_t n_level, int32_t *n_rows)
{
    const struct draft_seq *s = job->seq;
    int32_t levels = job->depth < most ? job->depth : most;
    for (int32_t i = 1; i < levels && n_level < LEVEL_ROWS && d->n_free_slots > 0; i++) {
        int32_t *tail = d->tail + (int64_t) n_level * TREE_MAX;
        for (int32_t k = 1; k < i; k++)
            tail[k - 1] = d->row[*n_rows - i + k].slot;
        d->row[*n_rows] = (struct cpu_row){.tok = d->opts.model->config.pard_token,
                                           .pos = s->n_tok + i,
                                           .start = s->start,
                                           .page = s->page,
                                           .n_tail = i - 1,
                                           .tail = tail,
                                           .slot = d->free_slot[--d->n_free_slots],
                                           .logits = n_level};
        d->level[n_level++] = (struct level_row){job, -1, (*n_rows)++, i};
    }
    return n_level;
}

static void unknown_back(struct draft *d, int32_t n_level)
{
    for (int32_t i = n_level - 1; i >= 0; i--)
        if (d->level[i].ahead)
            d->free_slot[d->n_free_slots++] = d->row[d->level[i].row].slot;
}

/* The first pass: unread text, and the roots of those that are level and want guesses.  Returns the roots. */
static int add_roots(struct draft *d, struct draft_job *job, int n, int32_t *n_rows)
{
    int32_t room = d->opts.prompt_rows, n_level = 0;
    *n_rows = 0;
    for (int i = 0; i < n; i++) {
        struct draft_seq *s = job[i].seq;
        int wants = wants_guesses(&job[i]) && job[i].depth > 0;
        if (!d->opts.model || (!wants && !job[i].read) ||
            draft__seq_window(d, s, s->n_tok + (wants ? job[i].depth : 0)))
            continue;
        if (!add_unread(d, &job[i], n_rows, &room) || !wants || n_level == LEVEL_ROWS)
            continue;
        s->root_read = 1;
        struct cpu_row r = settled_row(s, job[i].root, s->n_tok);
        r.logits = n_level;
        d->level[n_level++] = (struct level_row){&job[i], -1, *n_rows, 0};
        d->row[(*n_rows)++] = r;
        if (d->parallel)
            n_level = add_unknown(d, &job[i], LEVEL_ROWS / n, n_level, n_rows);
    }
    return n_level;
}

/* The floor a guess must reach to be among the `nodes` - 1 likeliest of the job; 0 while there are fewer. */
static float floor_of(const struct draft_job *job)
{
    const struct draft_seq *s = job->seq;
    float best[TREE_MAX];
    int n = 0, most = job->nodes - 1;
    if (most < 1)
        return 1;
    for (int32_t i = 0; i < s->n_cand; i++) {
        float a = s->cand[i].alive;
        if (n == most && a <= best[n - 1])
            continue;
        int j = n < most ? n++ : n - 1;
        for (; j > 0 && best[j - 1] < a; j--)
            best[j] = best[j - 1];
        best[j] = a;
    }
    return n == most ? best[n - 1] : 0;
}

/* What is to be gained below a guess, if it is read. */
static float gain_of(const struct draft *d, const struct draft_job *job, const struct cand *c)
{
    return c->alive * draft__child_conf(&d->calib, is_warm(job), c->depth, c->conf);
}

/* The likeliest guess of the job not read yet that can still matter; -1: none. */
static int32_t best_unread(const struct draft *d, const struct draft_job *job, float floor)
{
    const struct draft_seq *s = job->seq;
    int32_t best = -1;
    for (int32_t i = 0; i < s->n_cand; i++) {
        const struct cand *c = &s->cand[i];
        if (c->slot >= 0 || c->depth >= job->depth || c->state.done || c->alive < floor ||
            c->alive < ALIVE_MIN)
            continue;
        if (c->parent >= 0 && s->cand[c->parent].slot < 0)
            continue; /* its branch was not read */
        if ((best < 0 || c->alive > s->cand[best].alive) && gain_of(d, job, c) >= job->floor)
            best = i;
    }
    return best;
}

static void add_guess(struct draft *d, struct draft_job *job, int32_t cand, int32_t n_level)
{
    struct draft_seq *s = job->seq;
    struct cand *c = &s->cand[cand];
    int32_t *tail = d->tail + (int64_t) n_level * TREE_MAX;
    int32_t n_tail = c->depth - 1; /* the root lies in a page */
    for (int32_t j = c->parent, k = n_tail - 1; j >= 0; j = s->cand[j].parent, k--)
        tail[k] = s->cand[j].slot;
    c->slot = d->free_slot[--d->n_free_slots];
    d->row[n_level] = (struct cpu_row){.tok = c->tok,
                                       .pos = s->n_tok + c->depth,
                                       .start = s->start,
                                       .page = s->page,
                                       .n_tail = n_tail,
                                       .tail = tail,
                                       .slot = c->slot,
                                       .logits = n_level};
    d->level[n_level] = (struct level_row){job, cand, n_level, 0};
}

/* Rows of the next level, of every job whose root was read; *gain: what they may bring. */
static int add_level(struct draft *d, struct draft_job *job, int n, float *gain)
{
    int32_t n_level = 0;
    for (int i = 0; i < n; i++) {
        const struct draft_seq *s = job[i].seq;
        if (!s->root_read)
            continue;
        float floor = floor_of(&job[i]);
        for (int k = 0; k < d->width && n_level < LEVEL_ROWS && d->n_free_slots > 0; k++) {
            int32_t c = best_unread(d, &job[i], floor);
            if (c < 0)
                break;
            if (k == 0 && floor < LEVEL_RATIO * s->cand[c].alive)
                floor = LEVEL_RATIO * s->cand[c].alive;
            *gain += gain_of(d, &job[i], &s->cand[c]);
            add_guess(d, &job[i], c, n_level++);
        }
    }
    return n_level;
}

/* What was offered and not read is as it was. */
static void withdraw(struct draft *d)
{
    while (d->n_offered > 0) {
        const struct level_row *l = &d->level[--d->n_offered];
        struct cand *c = &l->job->seq->cand[l->cand];
        d->free_slot[d->n_free_slots++] = c->slot;
        c->slot = -1;
    }
}

/* The likeliest nodes - 1 guesses become the tree; parents were weighed before their children. */
static void fill_tree(struct draft_job *job)
{
    struct draft_seq *s = job->seq;
    float floor = floor_of(job);
    int16_t node[CAND_MAX];
    for (int32_t i = 0; i < s->n_cand && job->tree->n < job->nodes; i++) {
        struct cand *c = &s->cand[i];
        int parent = c->parent < 0 ? 0 : node[c->parent];
        int source = c->ranked ? TREE_MODEL : TREE_LOOKUP;
        node[i] = -1;
        if (c->alive >= floor && parent >= 0 && (c->ranked || c->alive >= SPINE_ALIVE_MIN))
            node[i] = (int16_t) tree_add(job->tree, parent, c->tok, c->conf, source, i);
    }
}

/* On behind the likeliest guess that ends nothing. */
static void go_on(struct place *p, const struct draft_job *job, const struct ranked *r)
{
    struct draw_state next = p->state;
    for (int i = 0; i < r->n; i++) {
        next = p->state;
        draw_step(job->draw, &next, r->tok[i]);
        if (next.done)
            continue;
        p->branch[p->n++] = r->tok[i];
        break;
    }
    p->state = next;
    p->state.done |= r->n == 0;
}

static void rank_level(struct draft *d, int32_t n)
{
    static const struct place nowhere;
    struct place at = nowhere;
    for (int32_t i = 0; i < n; i++) {
        const struct level_row *l = &d->level[i];
        if (l->ahead)
            go_on(&at, l->job, &d->ranked[i - 1]);
        else
            place_at(&at, l->job, l->cand);
        rank(d, l->job, &at, d->logits + i * d->stride, &d->ranked[i]);
    }
}

/* A job that may say few ids, whichever they are, is served from all of them. */
static int is_choosy(const struct draft *d, int32_t n_level)
{
    for (int32_t i = 0; i < n_level; i++)
        if (d->level[i].job->draw->constraint || d->level[i].job->draw->n_allowed)
            return 1;
    return 0;
}

static int widens(const struct draft *d, int32_t n)
{
    float alive[LEVEL_ROWS], conf[LEVEL_ROWS];
    int k = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct level_row *l = &d->level[i];
        if (!d->ranked[i].n)
            continue;
        alive[k] = l->ahead && k ? alive[k - 1] * conf[k - 1]
                   : l->cand < 0 ? 1
                                 : l->job->seq->cand[l->cand].alive;
        int32_t depth = depth_below(l->job, l->cand) + l->ahead;
        conf[k++] = draft__calib_conf(&d->calib, key_of(l->job, depth, &d->ranked[i], 0));
    }
    return draft__head_widens(d, alive, conf, k);
}

/* From the frequent ids, and where that is too little from all. */
static int rank_narrow(struct draft *d, int32_t n)
{
    struct cpu_head_row row[LEVEL_ROWS] = {{0}};
    for (int32_t i = 0; i < n; i++)
        row[i] = (struct cpu_head_row){d->level[i].row, i};
    int st = draft__head_part(d, row, n);
    if (st)
        return st;
    rank_level(d, n);
    if (!widens(d, n))
        return 0;
    st = draft__head_rest(d, row, n);
    if (!st)
        rank_level(d, n);
    draft__head_clear(d, n);
    return st;
}

/* A level's guesses are the same behind every guess of the level before: the tree opens its likeliest nodes, one by one, as far
 * as levels go and while that may change it. */
static void open_levels(struct draft *d, struct draft_job *job, const struct ranked *r, int32_t levels)
{
    const struct draft_seq *s = job->seq;
    add_children(d, job, -1, r);
    for (;;) {
        float floor = floor_of(job);
        int32_t best = -1;
        for (int32_t i = 0; i < s->n_cand; i++) {
            const struct cand *c = &s->cand[i];
            if (c->opened || c->depth >= levels || c->alive < floor || c->alive < ALIVE_MIN ||
                (c->parent >= 0 && !s->cand[c->parent].opened))
                continue;
            if (best < 0 || c->alive > s->cand[best].alive)
                best = i;
        }
        if (best < 0)
            return;
        add_children(d, job, best, &r[s->cand[best].depth]);
    }
}

static void weigh(struct draft *d, int32_t n_level)
{
    for (int32_t i = 0, next; i < n_level; i = next) {
        next = i + 1;
        while (next < n_level && d->level[next].ahead)
            next++;
        if (d->parallel)
            open_levels(d, d->level[i].job, &d->ranked[i], next - i);
        else
            add_children(d, d->level[i].job, d->level[i].cand, &d->ranked[i]);
    }
}

static int run_level(struct draft *d, int32_t n_rows, int32_t n_level)
{
    int blas = d->opts.blas && n_rows - n_level >= BLAS_ROWS;
    int narrow = n_level > 0 && !is_choosy(d, n_level) && draft__head_narrow(d);
    int st = cpu_forward(d->opts.weights, d->kv, d->row, n_rows, d->logits, d->stride,
                         (blas ? CPU_FORWARD_BLAS : 0) | (narrow ? CPU_FORWARD_NO_HEAD : 0));
    if (!st && narrow)
        st = rank_narrow(d, n_level);
    else if (!st)
        rank_level(d, n_level);
    if (!narrow && n_level)
        d->head.n_clear = 0; /* rows of logits hold all again */
    unknown_back(d, n_level);
    if (!st)
        weigh(d, n_level);
    return st;
}

int draft_begin(struct draft *d, struct draft_job *job, int n, struct draft_pass *did)
{
    int32_t n_rows;
    d->n_offered = 0;
    for (int i = 0; i < n; i++) {
        draft__slots_back(d, job[i].seq);
        job[i].seq->root_read = 0;
        tree_init(job[i].tree, job[i].root);
        if (wants_guesses(&job[i]))
            add_spine(d, &job[i]);
    }
    int n_level = add_roots(d, job, n, &n_rows);
    d->width = n_level ? LEVEL_ROWS / n_level : 1;
    d->width = d->width < 1 ? 1 : d->width > WIDTH_MAX ? WIDTH_MAX : d->width;
    *did = (struct draft_pass){.rows = n_rows, .unread = n_rows - n_level};
    return n_rows ? run_level(d, n_rows, n_level) : 0;
}

void draft_offer(struct draft *d, struct draft_job *job, int n, struct draft_pass *next)
{
    *next = (struct draft_pass){0};
    withdraw(d);
    if (!d->parallel)
        next->rows = d->n_offered = add_level(d, job, n, &next->gain);
}

int draft_grow(struct draft *d)
{
    int32_t rows = d->n_offered;
    d->n_offered = 0;
    return rows ? run_level(d, rows, rows) : 0;
}

void draft_finish(struct draft *d, struct draft_job *job, int n)
{
    withdraw(d);
    for (int i = 0; i < n; i++)
        if (job[i].nodes > 1)
            fill_tree(&job[i]);
}

int32_t draft_weighed(const struct draft_seq *s, int32_t at, int32_t *best, int32_t *tok, int32_t most)
{
    int32_t n = 0;
    *best = -1;
    for (int32_t i = at + 1; i < s->n_cand && n < most; i++) {
        const struct cand *c = &s->cand[i];
        if (c->parent != at)
            continue;
        tok[n++] = c->tok;
        if (c->ranked && c->key.rank == 0) {
            *best = i;
            tok[n - 1] = tok[0];
            tok[0] = c->tok;
        }
    }
    return n;
}

int draft_propose(struct draft *d, struct draft_job *job, int n)
{
    struct draft_pass pass;
    int st = draft_begin(d, job, n, &pass);
    for (draft_offer(d, job, n, &pass); !st && pass.rows; draft_offer(d, job, n, &pass))
        st = draft_grow(d);
    if (!st)
        draft_finish(d, job, n);
    return st;
}
