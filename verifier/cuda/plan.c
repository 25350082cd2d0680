/* plan.c - the host's share of a draw on a device: what each node's draw depends on besides its logits, and what comes of it.
 *
 * A node's state is its parent's, stepped by its own token (draw_step): the walk never stands at a node whose token it has not
 * drawn, so what is told here is what the specification would find there. */
#include "verifier/cuda/inside.h"

#include <stdlib.h>
#include <string.h>

enum { PATH_HEAD = 8, ALIGN = 8 };

static int32_t up(int32_t n, int32_t to)
{
    return (n + to - 1) / to * to;
}

static int grow(void **p, int32_t *room, int32_t n, size_t size)
{
    if (n <= *room)
        return 0;
    int32_t more = n + n / 2 + 64;
    void *q = realloc(*p, (size_t) more * size);
    if (!q)
        return ST_NOMEM;
    *p = q;
    *room = more;
    return 0;
}

/* Room for n more integers; out: where they begin. */
static int add_ints(struct draw_plan *p, int32_t n, struct draw_list *out)
{
    void *ints = p->ints;
    int st = grow(&ints, &p->ints_room, p->n_ints + n, sizeof *p->ints);
    p->ints = ints;
    *out = (struct draw_list){p->n_ints, n};
    p->n_ints += st ? 0 : n;
    return st;
}

static int add_list(struct draw_plan *p, const void *list, int32_t n, struct draw_list *out)
{
    int st = add_ints(p, n, out);
    if (!st && n)
        memcpy(p->ints + out->at, list, (size_t) n * sizeof *p->ints);
    return st;
}

static int add_past(struct draw_plan *p, const struct draw_past *past, struct draw_job *to)
{
    const struct draw_count *list;
    int32_t n = draw_past_list(past, &list);
    int st = add_ints(p, n, &to->past);
    if (!st)
        st = add_ints(p, n, &to->past_output);
    for (int32_t i = 0; i < n && !st; i++) {
        p->ints[to->past.at + i] = list[i].tok;
        p->ints[to->past_output.at + i] = list[i].output;
    }
    return st;
}

static int add_lists(struct draw_plan *p, const struct verifier_job *j, struct draw_job *to)
{
    const struct draw_params *d = j->draw;
    int st = add_list(p, d->banned, d->n_banned, &to->banned);
    if (!st)
        st = add_list(p, d->eos, d->n_eos, &to->eos);
    if (!st)
        st = add_list(p, d->stop, d->n_stop, &to->stop);
    if (!st)
        st = add_list(p, d->allowed, d->n_allowed, &to->allowed);
    if (!st)
        st = add_list(p, d->bias_id, d->n_bias, &to->bias);
    if (!st)
        st = add_list(p, d->bias, d->n_bias, &to->bias_value);
    if (!st && j->told)
        st = add_list(p, j->told->other, j->told->n_other, &to->others);
    return st ? st : add_past(p, j->past, to);
}

/* What is told of the draw at node i, for timing alone: verifier/walk.c's told_here and none_of_others. */
static void add_told(struct draw_node *n, const struct verifier_job *j, int i, const struct draw_state *s)
{
    int32_t kept = j->tree->depth[i], tok = kept < j->told->n ? j->told->tok[kept] : -1;
    if (tok >= 0 && draw_may(j->draw, s, tok)) {
        n->told = tok;
        return;
    }
    n->flags |= NODE_ENDS | (kept == j->told->n ? NODE_OTHERS : 0);
}

static int add_node(struct draw_plan *p, const struct verifier_job *j, int i, const struct draw_state *s,
                    int reached)
{
    struct draw_node *n = &p->node[p->nodes];
    struct draw_rules r;
    const struct tree *t = j->tree;
    *n = (struct draw_node){.job = p->jobs,
                            .parent = i ? p->nodes - i + t->parent[i] : -1,
                            .tok = t->tok[i],
                            .forced = -1,
                            .told = -1,
                            .pos = (uint32_t) s->pos,
                            .past = draw_past_output(j->past, t->tok[i])};
    p->nodes++;
    if (i && (!reached || s->done)) {
        n->flags = NODE_DONE;
        return 0;
    }
    if (draw_forced(j->draw, s, &n->forced))
        return 0;
    draw_rules(j->draw, s, &r);
    n->flags = NODE_DRAWN | (r.mask_eos ? NODE_MASK_EOS : 0) | (r.mask_stop ? NODE_MASK_STOP : 0) |
               (r.mask_tool ? NODE_MASK_TOOL : 0) | (r.listed ? NODE_LISTED : 0) |
               (r.constrained ? NODE_CONSTRAINED : 0) | (r.may_eos ? NODE_MAY_EOS : 0) |
               (r.may_open ? NODE_MAY_OPEN : 0) | (r.may_blank ? NODE_MAY_BLANK : 0);
    if (j->told)
        add_told(n, j, i, s);
    return add_list(p, r.may.tok, r.may.n, &n->may);
}

static int add_nodes(struct draw_plan *p, const struct verifier_job *j)
{
    const struct tree *t = j->tree;
    struct draw_state state[TREE_MAX];
    int reached[TREE_MAX], st = 0, first = p->nodes;
    void *node = p->node;
    if (grow(&node, &p->nodes_room, p->nodes + t->n, sizeof *p->node))
        return ST_NOMEM;
    p->node = node;
    for (int i = 0; i < t->n && !st; i++) {
        state[i] = i ? state[t->parent[i]] : *j->state;
        reached[i] = !i || (p->node[first + t->parent[i]].flags & NODE_DRAWN);
        if (i && reached[i])
            draw_step(j->draw, &state[i], t->tok[i]);
        st = add_node(p, j, i, &state[i], reached[i]);
    }
    return st;
}

static int add_job(struct draw_plan *p, const struct verifier_job *j)
{
    const struct draw_params *d = j->draw;
    struct draw_rules r;
    struct draw_job *to = &p->job[p->jobs];
    draw_rules(d, j->state, &r);
    *to = (struct draw_job){.logits = j->logits->row,
                            .path = j->logits->path,
                            .stride = j->logits->stride,
                            .top_p = d->top_p,
                            .first = p->nodes,
                            .n = j->tree->n,
                            .inv = r.inv,
                            .min_p = d->min_p,
                            .repetition = d->repetition,
                            .presence = d->presence,
                            .frequency = d->frequency,
                            .cold = r.cold,
                            .top_k = d->top_k,
                            .cut = !r.cold && (d->top_k > 0 || d->top_p < 1 || d->min_p > 0),
                            .choice = d->choice,
                            .seed_lo = (uint32_t) d->seed,
                            .seed_hi = (uint32_t) (d->seed >> 32),
                            .penalised = j->past != NULL,
                            .tool = d->think.tool,
                            .open = d->think.open,
                            .blank = d->constraint ? draw_constraint_blank(d->constraint) : -1,
                            .out = p->path_bytes,
                            .hash = -1,
                            .logprob = -1,
                            .n_top = d->top_logprobs,
                            .processed = d->processed};
    p->path_bytes += PATH_HEAD + up(to->n - 1, ALIGN);
    p->cuts |= to->cut;
    int st = add_lists(p, j, to);
    if (!st)
        st = add_nodes(p, j);
    p->jobs++;
    return st;
}

/* Hashes and logprobs lie behind the paths: a round without them is a few bytes a job. */
static void place_extras(struct draw_plan *p, const struct verifier_job *job)
{
    p->out_bytes = p->path_bytes;
    for (int i = 0; i < p->jobs; i++) {
        struct draw_job *j = &p->job[i];
        if (job[i].row_hash) {
            j->hash = p->out_bytes;
            p->out_bytes += j->n * (int32_t) sizeof(uint64_t);
            p->hashes = 1;
        }
        if (job[i].logprobs && job[i].draw->logprobs) {
            j->logprob = p->out_bytes;
            p->out_bytes += up(j->n * (int32_t) sizeof(struct draw_logprobs), ALIGN);
            p->logprobs = 1;
        }
    }
}

int verifier__plan(struct draw_plan *p, const struct verifier_job *job, int n)
{
    void *jobs = p->job;
    int st = grow(&jobs, &p->jobs_room, n, sizeof *p->job);
    p->job = jobs;
    p->jobs = p->nodes = p->n_ints = 0;
    p->cuts = p->hashes = p->logprobs = 0;
    p->path_bytes = p->out_bytes = 0;
    for (int i = 0; i < n && !st; i++)
        st = add_job(p, &job[i]);
    place_extras(p, job);
    return st;
}

void verifier__plan_fini(struct draw_plan *p)
{
    free(p->job);
    free(p->node);
    free(p->ints);
    *p = (struct draw_plan){0};
}

/* --- what came back: next, then kept guesses or a status, then a byte a guess --- */

static void unpack_path(const struct draw_job *j, const char *out, struct path *path)
{
    int32_t head[2];
    memcpy(head, out + j->out, sizeof head);
    *path = (struct path){.next = head[0]};
    if (head[1] < 0) {
        path->status = head[1];
        return;
    }
    path->n = head[1];
    for (int32_t i = 0; i < path->n; i++)
        path->node[i] = (unsigned char) out[j->out + PATH_HEAD + i];
}

void verifier__unpack(const struct draw_plan *p, const struct verifier_job *job, const char *out)
{
    for (int i = 0; i < p->jobs; i++) {
        const struct draw_job *j = &p->job[i];
        unpack_path(j, out, job[i].path);
        size_t drawn = (size_t) job[i].path->n + 1;
        drawn = drawn < (size_t) j->n ? drawn : (size_t) j->n;
        if (j->hash >= 0)
            memcpy(job[i].row_hash, out + j->hash, drawn * sizeof(uint64_t));
        if (j->logprob >= 0)
            memcpy(job[i].logprobs, out + j->logprob, drawn * sizeof(struct draw_logprobs));
    }
}
