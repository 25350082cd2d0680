/* draw.cuh - the host side of draw.cu, cut.cu and walk.cu: a plan on the device, and the launches that carry it out. */
#ifndef VERIFIER_CUDA_DRAW_CUH
#define VERIFIER_CUDA_DRAW_CUH

#include "verifier/cuda/dice.cuh"

extern "C" {
#include "verifier/cuda/inside.h"
}

enum {
    DRAW_THREADS = 256,
    DRAW_WARPS = DRAW_THREADS / 32,
    RACES = 32,      /* at most so many blocks share a row's race */
    RACE_IDS = 256,  /* at least so many ids a block */
    CUT_SLOTS = 16,  /* rows sorted at once; each takes four vocabularies of room */
    TOP_K_SHORT = 64 /* up to here the best are taken one by one */
};

/* A plan as kernels see it; all on the device. */
struct draw_view {
    const struct draw_job *job;
    const struct draw_node *node;
    const int32_t *ints;
    int32_t jobs, nodes, vocab;
    int32_t largest; /* nodes of the largest tree */
    int32_t races;   /* shares of a row: at most RACES */
    float *
        value; /* (nodes, ld) logits after masks, penalties, bias and temperature; after cuts -inf where cut */
    int64_t ld;
    int32_t *bad;     /* (nodes) not 0: not finite */
    float *race;      /* (nodes, RACES) best score of each share of the row */
    int32_t *race_id; /* likewise; -1: none */
    int32_t *drawn;   /* (nodes) token or status */
    uint32_t *key;    /* (CUT_SLOTS, 2, vocab) room to sort, as below */
    int32_t *id;
    char *out;
};

DEVICE const int32_t *list_of(const struct draw_view *v, struct draw_list l)
{
    return v->ints + l.at;
}

/* Where tok is in the ascending list; -1: it is not. */
DEVICE int list_find(const struct draw_view *v, struct draw_list l, int tok)
{
    const int32_t *list = list_of(v, l);
    int lo = 0, hi = l.n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (list[mid] < tok)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < l.n && list[lo] == tok ? lo : -1;
}

DEVICE const float *row_of(const struct draw_view *v, int node)
{
    const struct draw_job *j = &v->job[v->node[node].job];
    return j->logits + (node - j->first) * j->stride;
}

/* --- the best of a row, by a block --- */

struct best {
    float score;
    int32_t id; /* -1: none */
};

DEVICE bool is_ahead(struct best a, struct best b)
{
    return a.id >= 0 && (b.id < 0 || a.score > b.score || (a.score == b.score && a.id < b.id));
}

DEVICE struct best warp_best(struct best b)
{
    for (int i = 16; i > 0; i >>= 1) {
        struct best o;
        o.score = __shfl_xor_sync(WARP_ALL, b.score, i);
        o.id = __shfl_xor_sync(WARP_ALL, b.id, i);
        if (is_ahead(o, b))
            b = o;
    }
    return b;
}

/* Of all threads of a block of DRAW_THREADS, the same in each.  room: DRAW_WARPS; free again after the call. */
DEVICE struct best block_best(struct best b, struct best *room)
{
    b = warp_best(b);
    if (lane_id() == 0)
        room[warp_id()] = b;
    __syncthreads();
    b = room[0];
    for (int i = 1; i < DRAW_WARPS; i++)
        if (is_ahead(room[i], b))
            b = room[i];
    __syncthreads();
    return b;
}

/* The next of value[0..n) behind `last` in the order (value descending, id ascending); last.id -1: the first; -inf is not there. */
DEVICE struct best block_next(const float *value, int n, struct best last, struct best *room)
{
    struct best mine = {0, -1};
    for (int i = threadIdx.x; i < n; i += DRAW_THREADS) {
        struct best x = {value[i], i};
        if (x.score > -INFINITY && (last.id < 0 || is_ahead(last, x)) && x.id != last.id && is_ahead(x, mine))
            mine = x;
    }
    return block_best(mine, room);
}

cudaError_t draw_launch(const struct draw_view *v, cudaStream_t s);
cudaError_t cut_launch(const struct draw_view *v, cudaStream_t s);
cudaError_t race_launch(const struct draw_view *v, cudaStream_t s);
cudaError_t walk_launch(const struct draw_view *v, cudaStream_t s);
cudaError_t hash_launch(const struct draw_view *v, cudaStream_t s);
cudaError_t logprob_launch(const struct draw_view *v, cudaStream_t s);

#endif
