/* draw.cu - what comes before the cuts, and the race after them: draw/prepare.c and draw/pick.c for every node at once. */
#include "verifier/cuda/draw.cuh"

DEVICE bool is_drawn(const struct draw_view *v, int node)
{
    return v->node[node].flags & NODE_DRAWN;
}

/* Formula   value = logit / T, or -inf where only listed ids can be drawn; bad: a logit not finite, or beyond 2^118 (2^110 with bias
 *           or penalties)
 * Shapes    logits and value (nodes, vocab)
 * Launch    (blocks of 1024 ids, nodes)
 * Bytes     8 a value
 * Numerics  one multiplication by fl(1 / T)
 * Twin      draw__prepare, draw__all_finite
 * Test      tests/cuda/draw.cu */
__global__ void __launch_bounds__(DRAW_THREADS) value_kernel(struct draw_view v)
{
    const int node = blockIdx.y;
    const struct draw_node n = v.node[node];
    const struct draw_job *j = &v.job[n.job];
    const uint32_t too_large = j->bias.n || j->penalised ? 0x76800000u : 0x7a800000u;
    const float *l = row_of(&v, node);
    int bad = 0;
    if (!(n.flags & NODE_DRAWN))
        return;
    for (int i = blockIdx.x * 1024 + threadIdx.x; i < min((int) (blockIdx.x + 1) * 1024, v.vocab);
         i += DRAW_THREADS) {
        bad |= (float_bits(l[i]) & 0x7fffffffu) >= too_large;
        v.value[node * v.ld + i] = n.flags & NODE_LISTED ? -INFINITY : l[i] * j->inv;
    }
    if (bad)
        atomicOr(&v.bad[node], 1);
}

/* --- lists: one block a node, one list after the other --- */

struct editor {
    const struct draw_view *v;
    const struct draw_job *j;
    const float *l;
    float *value;
    int32_t vocab;
};

DEVICE bool in_allowed(const struct editor *e, int tok)
{
    return !e->j->allowed.n || list_find(e->v, e->j->allowed, tok) >= 0;
}

DEVICE void unmask_one(const struct editor *e, int tok)
{
    if (tok >= 0 && tok < e->vocab && in_allowed(e, tok))
        e->value[tok] = e->l[tok] * e->j->inv;
}

DEVICE void unmask(const struct editor *e, struct draw_list list)
{
    for (int i = threadIdx.x; i < list.n; i += DRAW_THREADS)
        unmask_one(e, list_of(e->v, list)[i]);
}

DEVICE void mask(const struct editor *e, struct draw_list list)
{
    for (int i = threadIdx.x; i < list.n; i += DRAW_THREADS)
        if (list_of(e->v, list)[i] < e->vocab)
            e->value[list_of(e->v, list)[i]] = -INFINITY;
}

DEVICE float bias_of(const struct editor *e, int tok)
{
    int i = list_find(e->v, e->j->bias, tok);
    return i < 0 ? 0 : bits_float((uint32_t) list_of(e->v, e->j->bias_value)[i]);
}

/* draw/prepare.c's adjust: output is how often the text's output and the branch hold it. */
DEVICE void adjust(const struct editor *e, int tok, int output)
{
    if (tok < 0 || tok >= e->vocab || !(e->value[tok] > -INFINITY))
        return;
    float x = e->l[tok];
    x = x < 0 ? x * e->j->repetition : x / e->j->repetition;
    if (output > 0) {
        x -= e->j->presence;
        x -= e->j->frequency * (float) output;
    }
    e->value[tok] = (x + bias_of(e, tok)) * e->j->inv;
}

/* One thread an ancestor: those that were guessed, the node itself among them; a token that stands there twice, once. */
DEVICE void adjust_branch(const struct editor *e, int node)
{
    int at = node, step = 0;
    for (; at >= 0 && e->v->node[at].parent >= 0 && step < (int) threadIdx.x; step++)
        at = e->v->node[at].parent;
    if (at < 0 || e->v->node[at].parent < 0)
        return;
    int tok = e->v->node[at].tok, output = e->v->node[at].past;
    for (int other = node; other != at; other = e->v->node[other].parent)
        if (e->v->node[other].tok == tok)
            return; /* its thread does it */
    for (int other = node; e->v->node[other].parent >= 0; other = e->v->node[other].parent)
        output += e->v->node[other].tok == tok;
    adjust(e, tok, output);
}

/* Formula   lists in their order (draw/prepare.c): what may be drawn at all, masks, bias, penalties of the text, of the branch
 * Shapes    value (nodes, vocab)
 * Launch    a block a node
 * Bytes     as many values as the lists have
 * Numerics  draw/prepare.c's, a float operation each
 * Twin      draw__prepare
 * Test      tests/cuda/draw.cu */
__global__ void __launch_bounds__(DRAW_THREADS) edit_kernel(struct draw_view v)
{
    const int node = blockIdx.x;
    const struct draw_node n = v.node[node];
    const struct draw_job *j = &v.job[n.job];
    const struct editor e = {&v, j, row_of(&v, node), v.value + node * v.ld, v.vocab};
    if (!(n.flags & NODE_DRAWN))
        return;
    if (n.flags & NODE_CONSTRAINED) {
        unmask(&e, n.may);
        if (n.flags & NODE_MAY_EOS)
            unmask(&e, j->eos);
        if (threadIdx.x == 0 && n.flags & NODE_MAY_OPEN)
            unmask_one(&e, j->open);
        if (threadIdx.x == 1 && n.flags & NODE_MAY_BLANK)
            unmask_one(&e, j->blank);
    } else if (n.flags & NODE_LISTED) {
        unmask(&e, j->allowed);
    }
    __syncthreads();
    mask(&e, j->banned);
    if (n.flags & NODE_MASK_EOS)
        mask(&e, j->eos);
    if (n.flags & NODE_MASK_STOP)
        mask(&e, j->stop);
    if (threadIdx.x == 0 && n.flags & NODE_MASK_TOOL && j->tool < v.vocab)
        e.value[j->tool] = -INFINITY;
    __syncthreads();
    for (int i = threadIdx.x; i < j->bias.n; i += DRAW_THREADS) {
        int tok = list_of(&v, j->bias)[i];
        if (tok < v.vocab && e.value[tok] > -INFINITY)
            e.value[tok] = (e.l[tok] + bits_float((uint32_t) list_of(&v, j->bias_value)[i])) * j->inv;
    }
    if (!j->penalised)
        return;
    __syncthreads();
    for (int i = threadIdx.x; i < j->past.n; i += DRAW_THREADS)
        adjust(&e, list_of(&v, j->past)[i], list_of(&v, j->past_output)[i]);
    __syncthreads();
    adjust_branch(&e, node);
}

cudaError_t draw_launch(const struct draw_view *v, cudaStream_t s)
{
    cudaError_t st = LAUNCH(value_kernel, dim3((v->vocab + 1023) / 1024, v->nodes), DRAW_THREADS, 0, s, *v);
    return st == cudaSuccess ? LAUNCH(edit_kernel, v->nodes, DRAW_THREADS, 0, s, *v) : st;
}

/* --- the race --- */

DEVICE void enter(const struct draw_job *j, uint32_t pos, int id, float x, struct best *b)
{
    if (!j->cold) {
        uint32_t word = dice_word(j->seed_lo, j->seed_hi, (uint32_t) j->choice, pos, (uint32_t) id);
        if (b->id >= 0 && x + dice_gumbel_bound(word) < b->score)
            return;
        x += dice_gumbel(word);
    }
    struct best mine = {x, id};
    if (is_ahead(mine, *b))
        *b = mine;
}

DEVICE bool is_other(const struct draw_view *v, const struct draw_job *j, int id)
{
    for (int i = 0; i < j->others.n; i++)
        if (list_of(v, j->others)[i] == id)
            return true;
    return false;
}

/* Formula   of each share of a row: argmax of value + G(seed, choice, k, v), ties by the lower id; without G where cold
 * Shapes    value (nodes, vocab); race, race_id (nodes, RACES)
 * Launch    (races, nodes)
 * Bytes     4 a value
 * Numerics  one addition a value; NUMERICS.md's noise
 * Twin      draw_pick
 * Test      tests/cuda/draw.cu */
__global__ void __launch_bounds__(DRAW_THREADS) race_kernel(struct draw_view v)
{
    SMEM(struct best, room, [DRAW_WARPS]);
    const int node = blockIdx.y, each = (v.vocab + v.races - 1) / v.races,
              end = min((int) (blockIdx.x + 1) * each, v.vocab);
    const struct draw_job *j = &v.job[v.node[node].job];
    if (!is_drawn(&v, node))
        return;
    struct best b = {0, -1};
    for (int i = blockIdx.x * each + threadIdx.x; i < end; i += DRAW_THREADS) {
        float x = v.value[node * v.ld + i];
        if (x > -INFINITY && !(v.node[node].flags & NODE_OTHERS && is_other(&v, j, i)))
            enter(j, v.node[node].pos, i, x, &b);
    }
    b = block_best(b, room);
    if (threadIdx.x)
        return;
    v.race[node * RACES + blockIdx.x] = b.score;
    v.race_id[node * RACES + blockIdx.x] = b.id;
}

/* The job's others alone, where nothing but them can be drawn: a lane each. */
DEVICE struct best best_other(const struct draw_view *v, int node)
{
    const struct draw_job *j = &v->job[v->node[node].job];
    struct best b = {0, -1};
    int id = (int) threadIdx.x < j->others.n ? list_of(v, j->others)[threadIdx.x] : -1;
    if (id >= 0 && id < v->vocab && v->value[node * v->ld + id] > -INFINITY)
        enter(j, v->node[node].pos, id, v->value[node * v->ld + id], &b);
    return warp_best(b);
}

/* The best of a row's shares, or what was told: a warp a node. */
__global__ void __launch_bounds__(RACES) finish_kernel(struct draw_view v)
{
    const int node = blockIdx.x, i = node * RACES + (int) threadIdx.x;
    if (!is_drawn(&v, node))
        return;
    struct best mine = {0, -1};
    if ((int) threadIdx.x < v.races)
        mine = {v.race[i], v.race_id[i]};
    struct best b = warp_best(mine);
    if (b.id < 0 && v.node[node].flags & NODE_OTHERS)
        b = best_other(&v, node);
    if (b.id >= 0 && v.node[node].told >= 0)
        b.id = v.node[node].told;
    if (threadIdx.x == 0)
        v.drawn[node] = v.bad[node] ? (int32_t) ST_NONFINITE : b.id < 0 ? (int32_t) ST_INPUT : b.id;
}

cudaError_t race_launch(const struct draw_view *v, cudaStream_t s)
{
    cudaError_t st = LAUNCH(race_kernel, dim3(v->races, v->nodes), DRAW_THREADS, 0, s, *v);
    return st == cudaSuccess ? LAUNCH(finish_kernel, v->nodes, RACES, 0, s, *v) : st;
}
