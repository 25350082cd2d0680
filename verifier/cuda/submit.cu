/* submit.cu - the host side of a walk on the device: plan in, launches, outcome back when the stream has run.
 *
 * Memory grows with the rows of a round and is kept.  The stream is the target's, found in the view of the logits; the outcome is
 * unpacked by work that the target runs after it (struct device_queue).  Thread: the engine thread. */
#include "verifier/cuda/draw.cuh"

#include <stdlib.h>
#include <string.h>

extern "C" {
#include "core/log.h"
#include "core/queue.h"
}

struct room {
    void *p;
    size_t bytes;
};

struct verifier_cuda {
    int32_t vocab, jobs_max, n;
    struct draw_plan plan;             /* owns */
    struct verifier_job *job;          /* owns; (jobs_max) a copy of what was submitted */
    struct room in, out;               /* own; pinned */
    struct room in_device, out_device; /* own; device, as all below */
    struct room value, bad, race, race_id, drawn, key, id;
};

extern "C" int verifier__cuda_open(struct verifier_cuda **out, int32_t vocab, int32_t jobs_max)
{
    struct verifier_cuda *v = (struct verifier_cuda *) calloc(1, sizeof *v);
    *out = v;
    if (!v)
        return ST_NOMEM;
    v->vocab = vocab;
    v->jobs_max = jobs_max;
    v->job = (struct verifier_job *) calloc((size_t) jobs_max, sizeof *v->job);
    if (v->job)
        return 0;
    verifier__cuda_close(v);
    *out = NULL;
    return ST_NOMEM;
}

extern "C" void verifier__cuda_close(struct verifier_cuda *v)
{
    if (!v)
        return;
    cudaFreeHost(v->in.p);
    cudaFreeHost(v->out.p);
    struct room *all[] = {&v->in_device, &v->out_device, &v->value, &v->bad, &v->race,
                          &v->race_id,   &v->drawn,      &v->key,   &v->id};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cudaFree(all[i]->p);
    verifier__plan_fini(&v->plan);
    free(v->job);
    free(v);
}

/* What was there is not kept. */
static int grow(struct room *r, size_t bytes, int pinned)
{
    struct err e;
    if (bytes <= r->bytes)
        return 0;
    bytes += bytes / 4;
    cudaError_t st = pinned ? cudaFreeHost(r->p) : cudaFree(r->p);
    *r = {NULL, 0};
    if (st == cudaSuccess)
        st = pinned ? cudaMallocHost(&r->p, bytes) : cudaMalloc(&r->p, bytes);
    int status = cuda_status(st, "memory to draw in", &e);
    if (status)
        log_error("CUDA: %s: %zu bytes", e.text, bytes);
    else
        r->bytes = bytes;
    return status;
}

/* Bytes of the plan's three parts in one piece. */
static size_t plan_bytes(const struct draw_plan *p, size_t at[3])
{
    at[0] = 0;
    at[1] = (size_t) p->jobs * sizeof *p->job;
    at[2] = at[1] + ((size_t) p->nodes * sizeof *p->node + 15) / 16 * 16;
    return at[2] + (size_t) p->n_ints * sizeof *p->ints;
}

static int make_room(struct verifier_cuda *v)
{
    const struct draw_plan *p = &v->plan;
    size_t at[3], bytes = plan_bytes(p, at), nodes = (size_t) p->nodes,
                  sorted = p->cuts ? (size_t) CUT_SLOTS * 2 * 4 : 0;
    struct {
        struct room *room;
        size_t bytes;
        int pinned;
    } all[] = {{&v->in, bytes, 1},
               {&v->out, (size_t) p->out_bytes, 1},
               {&v->in_device, bytes, 0},
               {&v->out_device, (size_t) p->out_bytes, 0},
               {&v->value, nodes * (size_t) v->vocab * sizeof(float), 0},
               {&v->bad, nodes * 4, 0},
               {&v->race, nodes * RACES * sizeof(float), 0},
               {&v->race_id, nodes * RACES * 4, 0},
               {&v->drawn, nodes * 4, 0},
               {&v->key, sorted * (size_t) v->vocab, 0},
               {&v->id, sorted * (size_t) v->vocab, 0}};
    int st = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all && !st; i++)
        st = grow(all[i].room, all[i].bytes, all[i].pinned);
    return st;
}

static int32_t largest_of(const struct draw_plan *p)
{
    int32_t n = 1;
    for (int i = 0; i < p->jobs; i++)
        n = p->job[i].n > n ? p->job[i].n : n;
    return n;
}

static int32_t races_of(int32_t vocab)
{
    int32_t n = (vocab + RACE_IDS - 1) / RACE_IDS;
    return n < RACES ? n : RACES;
}

static struct draw_view view_of(const struct verifier_cuda *v)
{
    const struct draw_plan *p = &v->plan;
    const char *in = (const char *) v->in_device.p;
    size_t at[3];
    plan_bytes(p, at);
    return {.job = (const struct draw_job *) (in + at[0]),
            .node = (const struct draw_node *) (in + at[1]),
            .ints = (const int32_t *) (in + at[2]),
            .jobs = p->jobs,
            .nodes = p->nodes,
            .vocab = v->vocab,
            .largest = largest_of(p),
            .races = races_of(v->vocab),
            .value = (float *) v->value.p,
            .ld = v->vocab,
            .bad = (int32_t *) v->bad.p,
            .race = (float *) v->race.p,
            .race_id = (int32_t *) v->race_id.p,
            .drawn = (int32_t *) v->drawn.p,
            .key = (uint32_t *) v->key.p,
            .id = (int32_t *) v->id.p,
            .out = (char *) v->out_device.p};
}

static void pack_plan(const struct draw_plan *p, char *to)
{
    size_t at[3];
    plan_bytes(p, at);
    memcpy(to + at[0], p->job, (size_t) p->jobs * sizeof *p->job);
    memcpy(to + at[1], p->node, (size_t) p->nodes * sizeof *p->node);
    if (p->n_ints)
        memcpy(to + at[2], p->ints, (size_t) p->n_ints * sizeof *p->ints);
}

static cudaError_t post(struct verifier_cuda *v, cudaStream_t s)
{
    const struct draw_plan *p = &v->plan;
    const struct draw_view view = view_of(v);
    size_t at[3], bytes = plan_bytes(p, at);
    pack_plan(p, (char *) v->in.p);
    cudaError_t st = cudaMemcpyAsync(v->in_device.p, v->in.p, bytes, cudaMemcpyHostToDevice, s);
    if (st == cudaSuccess)
        st = cudaMemsetAsync(v->bad.p, 0, (size_t) p->nodes * 4, s);
    if (st == cudaSuccess)
        st = cudaMemsetAsync(v->out_device.p, 0, (size_t) p->out_bytes, s);
    if (st == cudaSuccess)
        st = draw_launch(&view, s);
    if (st == cudaSuccess && p->cuts)
        st = cut_launch(&view, s);
    if (st == cudaSuccess)
        st = race_launch(&view, s);
    if (st == cudaSuccess)
        st = walk_launch(&view, s);
    if (st == cudaSuccess && p->hashes)
        st = hash_launch(&view, s);
    if (st == cudaSuccess && p->logprobs)
        st = logprob_launch(&view, s);
    return st == cudaSuccess
               ? cudaMemcpyAsync(v->out.p, v->out_device.p, (size_t) p->out_bytes, cudaMemcpyDeviceToHost, s)
               : st;
}

static int unpack(void *arg)
{
    struct verifier_cuda *v = (struct verifier_cuda *) arg;
    verifier__unpack(&v->plan, v->job, (const char *) v->out.p);
    return 0;
}

extern "C" int verifier__cuda_submit(struct verifier_cuda *v, const struct verifier_job *job, int n)
{
    const struct device_queue *q = (const struct device_queue *) job[0].logits->queue;
    struct err e;
    int st = verifier__plan(&v->plan, job, n);
    if (!st)
        st = make_room(v);
    if (st)
        return st;
    memcpy(v->job, job, (size_t) n * sizeof *job);
    st = cuda_status(post(v, (cudaStream_t) q->stream), "drawing", &e);
    if (st) {
        log_error("CUDA: %s", e.text);
        return ST_DEVICE;
    }
    for (int i = 0; i < n; i++)
        *job[i].path = {.n = 0, .node = {}, .next = -1, .status = PATH_PENDING};
    return queue_post(q->after, unpack, v);
}
