/* walk.c - the specification of the verifier, in host memory.
 *
 * At each node: is the next token known (closing text)? then it ends the path.  Else draw from the target's row; step the state by
 * what was drawn; go on below the child that holds it, unless the text ended there.  A walk reads the rows it visits and no other. */
#include "core/math.h"
#include "core/queue.h"
#include "verifier/internal.h"

#include <stdlib.h>
#include <string.h>

struct verifier {
    struct draw_scratch *scratch; /* owns */
    struct verifier_cuda *cuda;   /* owns; NULL until rows come from a device */
    struct verifier_job *job;     /* owns; (jobs_max) a copy of what was submitted */
    int32_t n, jobs_max, vocab;
};

int verifier_open(struct verifier **out, int32_t vocab, int32_t jobs_max, struct err *e)
{
    struct verifier *v = calloc(1, sizeof *v);
    *out = NULL;
    if (v) {
        v->vocab = vocab;
        v->jobs_max = jobs_max;
        v->scratch = draw_scratch_new(vocab);
        v->job = calloc((size_t) jobs_max, sizeof *v->job);
    }
    if (!v || !v->scratch || !v->job) {
        verifier_close(v);
        return err_set(e, ST_NOMEM, "out of memory opening the verifier for %d jobs", jobs_max);
    }
    *out = v;
    return 0;
}

void verifier_close(struct verifier *v)
{
    if (!v)
        return;
    verifier__cuda_close(v->cuda);
    draw_scratch_free(v->scratch);
    free(v->job);
    free(v);
}

/* A hash of raw bits, eight bytes a step: equal rows have equal hashes, and one flipped bit does not. */
static uint64_t hash_row(const float *row, int32_t n)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ (uint64_t) n;
    for (int32_t i = 0; i < n; i += 2) {
        uint64_t two = 0;
        memcpy(&two, row + i, i + 1 < n ? 8 : 4);
        h = (h ^ two) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    return h ? h : 1; /* 0 says "not drawn" */
}

static const float *row_of(const struct logits *l, int node)
{
    return (const float *) l->row + node * l->stride;
}

/* The walk so far: where it stands, and what penalties see there. */
struct stand {
    struct draw_state state;
    int32_t branch[TREE_MAX]; /* guesses kept */
    struct draw_seen seen;
    int node;
};

#ifdef BREAK_SIBLING_COUNTED /* the gate must see a sibling's token counted in a penalty */
static void see(struct stand *at, const struct tree *t, int32_t n)
{
    (void) n;
    for (int i = 1; i <= at->node; i++)
        at->branch[i - 1] = t->tok[i];
    at->seen.n_branch = at->node;
}
#else
static void see(struct stand *at, const struct tree *t, int32_t n)
{
    if (at->node > 0)
        at->branch[n - 1] = t->tok[at->node];
    at->seen.n_branch = n;
}
#endif

/* Logprobs of the target's own row, after tok was drawn from it by `key`. */
static void note_logprobs(struct verifier *v, const struct verifier_job *j, const struct stand *at,
                          const struct draw_state *key, int32_t tok)
{
    struct draw_logprobs *out = &j->logprobs[j->path->n];
    draw_logprobs(j->draw, key, &at->seen, row_of(j->logits, at->node), v->vocab, v->scratch, tok, out);
#ifdef BREAK_DRAFT_LOGPROB /* the gate must see the draft's figure in the place of the target's */
    int guess = tree_child(j->tree, at->node, tok);
    if (guess > 0)
        out->logprob = (float) math_log((double) j->tree->conf[guess] + 1e-9);
#endif
}

/* What was told of the draw after the guesses kept so far; -1: nothing. */
static int32_t told_here(const struct verifier_job *j, const struct draw_state *s)
{
    int32_t n = j->path->n, tok = n < j->told->n ? j->told->tok[n] : -1;
    return tok >= 0 && draw_may(j->draw, s, tok) ? tok : -1;
}

static int is_other(const struct verifier_told *t, int32_t tok)
{
    for (int32_t i = 0; i < t->n_other; i++)
        if (t->other[i] == tok)
            return 1;
    return 0;
}

/* The likeliest outcome of the draw that is none of those: tok itself, but where the target happens to say one of them. */
static int32_t none_of_others(struct verifier *v, const struct verifier_job *j, const struct stand *at,
                              const struct draw_state *key, int32_t tok)
{
    int32_t best[VERIFIER_OTHER_MAX + 1];
    float score[VERIFIER_OTHER_MAX + 1];
    if (j->path->n != j->told->n || !is_other(j->told, tok))
        return tok;
    int n = draw_rank(j->draw, key, &at->seen, row_of(j->logits, at->node), v->vocab, v->scratch,
                      j->told->n_other + 1, best, score, NULL);
    for (int i = 0; i < n; i++)
        if (!is_other(j->told, best[i]))
            return best[i];
    return tok;
}

/* One draw at `node`.  1: the path ends with *tok; 0: it goes on at the returned child; negative: status. */
static int draw_at(struct verifier *v, const struct verifier_job *j, struct stand *at, int32_t *tok,
                   int *child)
{
    struct draw_state key = at->state;
#ifdef BREAK_DRAW_BY_DEPTH /* the gate must see noise keyed by the depth in the tree instead of the position */
    key.pos = j->tree->depth[at->node];
#endif
    int st = draw_pick(j->draw, &key, &at->seen, row_of(j->logits, at->node), v->vocab, v->scratch, tok);
    if (st)
        return st;
    int32_t told = j->told ? told_here(j, &key) : -1;
    if (j->told)
        *tok = told >= 0 ? told : none_of_others(v, j, at, &key, *tok);
    if (j->logprobs && j->draw->logprobs)
        note_logprobs(v, j, at, &key, *tok);
    draw_step(j->draw, &at->state, *tok);
    *child = j->told && told < 0 ? -1 : tree_child(j->tree, at->node, *tok);
    return at->state.done || *child < 0;
}

static void walk(struct verifier *v, const struct verifier_job *j)
{
    struct stand at = {.state = *j->state};
    struct path *p = j->path;
    p->n = 0;
    p->status = 0;
    p->next = -1;
    int child = 0, end = 0;
    at.seen = (struct draw_seen){j->past, at.branch, 0};
    while (!end) {
        if (j->row_hash)
            j->row_hash[p->n] = 0;
        if (j->logprobs && j->draw->logprobs)
            draw_logprobs_absent(&j->logprobs[p->n]);
        if (draw_forced(j->draw, &at.state, &p->next))
            return;
        if (j->row_hash)
            j->row_hash[p->n] = hash_row(row_of(j->logits, at.node), v->vocab);
        see(&at, j->tree, p->n);
        end = draw_at(v, j, &at, &p->next, &child);
        if (end < 0) {
            *p = (struct path){.status = end, .next = -1};
            return;
        }
        if (!end) {
            p->node[p->n++] = (int16_t) child;
            at.node = child;
        }
    }
#ifdef BREAK_WALK_EXTRA /* the gate must see one token too many accepted */
    for (int i = at.node + 1; i < j->tree->n && !at.state.done; i++)
        if (j->tree->parent[i] == at.node) {
            p->node[p->n++] = (int16_t) i;
            break;
        }
#endif
}

static int run(void *arg)
{
    struct verifier *v = arg;
    for (int i = 0; i < v->n; i++)
        walk(v, &v->job[i]);
    return 0;
}

static int submit_cuda(struct verifier *v, struct verifier_job *job, int n)
{
    int st = v->cuda ? 0 : verifier__cuda_open(&v->cuda, v->vocab, v->jobs_max);
    return st ? st : verifier__cuda_submit(v->cuda, job, n);
}

int verifier_submit(struct verifier *v, struct verifier_job *job, int n)
{
    if (n > v->jobs_max)
        return ST_LIMIT;
    if (n == 0)
        return 0;
    if (job[0].logits->mem == MEM_DEVICE)
        return submit_cuda(v, job, n);
    memcpy(v->job, job, (size_t) n * sizeof *job);
    v->n = n;
    return queue_post(job[0].logits->queue, run, v);
}
