/* pass.cu - one forward pass as a sequence of launches; reads like cpu/forward.c.
 *
 * Keys and values of all rows of a layer are written before any row attends.  A matrix leaves its splits' sums in desk->part, and
 * whoever comes next adds them up in order. */
#include "target/cuda/attn.cuh"
#include "target/cuda/gemm.cuh"
#include "target/cuda/lt.cuh"
#include "target/cuda/moe.cuh"
#include "target/cuda/rows.cuh"

#include <math.h>

static cudaStream_t stream_of(const struct cuda_pass *p)
{
    return (cudaStream_t) cuda__dev_stream(p->dev);
}

/* A matrix of a prompt's chunk: all CUDA_PROMPT rows of the call, of which desk's begin at row0. */
static struct parts matrix_lt(const struct cuda_pass *p, const struct cuda_matrix *m, const uint16_t *x,
                              int64_t ldx, const char *what)
{
    int64_t ld = (int64_t) m->tiles * CUDA_TILE;
    const bf16 *first = (const bf16 *) x - p->row0 * ldx;
    cuda__note(p->dev, lt_matrix(p->lt, m, first, ldx, p->desk->part, stream_of(p)), what);
    return {p->desk->part + p->row0 * ld, 0, ld, 1};
}

/* Into desk->part.  experts: the work and rows are theirs. */
static struct parts matrix(const struct cuda_pass *p, const struct cuda_matrix *m, const uint16_t *x,
                           int64_t ldx, int rows, int experts, const int32_t *row, const char *what)
{
    const struct cuda_shape *s = p->shape;
    if (p->lt && !experts)
        return matrix_lt(p, m, x, ldx, what);
    int at_once = rows < CUDA_ROWS ? rows : CUDA_ROWS, tiles = (rows + CUDA_ROWS - 1) / CUDA_ROWS;
    int places = experts ? rows * s->n_used : rows;
    struct gemm g = {.w = m->w,
                     .scale = m->scale,
                     .w_bytes = m->w_bytes,
                     .scale_bytes = m->scale_bytes,
                     .tiles = m->tiles,
                     .steps = m->k_pad / CUDA_CHUNK_K,
                     .splits = m->splits,
                     .x = (const bf16 *) x,
                     .ldx = ldx,
                     .out = p->desk->part,
                     .ldo = (int64_t) m->tiles * CUDA_TILE,
                     .split_stride = (int64_t) m->tiles * CUDA_TILE * places,
                     .rows = rows,
                     .work = experts ? p->desk->work : NULL,
                     .row = row};
    int works = s->n_experts + places / CUDA_ROWS;
    cuda__note(p->dev,
               gemm_launch(&g, m->format, at_once, experts ? (works < places ? works : places) : tiles,
                           stream_of(p)),
               what);
    return {g.out, g.split_stride, g.ldo, g.splits};
}

static void norm(const struct cuda_pass *p, const float *weight, const struct parts *add, int want_float)
{
    const struct cuda_desk *d = p->desk;
    struct norm n = {.x = d->x,
                     .add = add ? *add : parts{},
                     .from = NULL,
                     .weight = weight,
                     .a = (bf16 *) d->a,
                     .a_float = want_float ? d->a_float : NULL,
                     .lda = d->lda,
                     .hidden = p->shape->hidden,
                     .eps = p->shape->eps};
    cuda__note(p->dev, norm_launch(&n, p->rows, stream_of(p)), "a norm");
}

static bf16 *kv_of(const struct cuda_pass *p, int layer)
{
    const struct cuda_shape *s = p->shape;
    return (bf16 *) p->desk->kv + (int64_t) layer * s->pages * s->n_kv_heads * 2 * CUDA_KEYS * s->head_dim;
}

static void attend(const struct cuda_pass *p, int layer)
{
    const struct cuda_shape *s = p->shape;
    const struct cuda_desk *d = p->desk;
    for (int b = 0; b * CUDA_ROWS < p->rows; b++) {
        int left = p->rows - b * CUDA_ROWS;
        struct attn a = {.row = p->blob.row,
                         .item = p->blob.item,
                         .unit = p->blob.unit + p->batch[b].unit,
                         .pages = p->blob.page,
                         .q = (const bf16 *) d->q,
                         .kv = kv_of(p, layer),
                         .ml = d->attn_ml,
                         .o = d->attn_o,
                         .out = (bf16 *) d->o,
                         .ldo = d->ldo,
                         .row0 = b * CUDA_ROWS,
                         .rows = left < CUDA_ROWS ? left : CUDA_ROWS,
                         .units = p->batch[b].units,
                         .n_heads = s->n_heads,
                         .n_kv_heads = s->n_kv_heads,
                         .chunks_max = s->chunks_max,
                         .chunks = p->batch[b].chunks,
                         .scale = 1 / sqrtf((float) s->head_dim)};
        cuda__note(p->dev, attn_launch(&a, s->head_dim, stream_of(p)), "attention");
    }
}

static struct parts attention(const struct cuda_pass *p, const struct cuda_layer *y, int layer)
{
    const struct cuda_shape *s = p->shape;
    const struct cuda_desk *d = p->desk;
    struct heads h = {.qkv = matrix(p, &y->qkv, d->a, d->lda, p->rows, 0, NULL, "queries, keys and values"),
                      .row = p->blob.row,
                      .q_norm = y->q_norm,
                      .k_norm = y->k_norm,
                      .cosines = p->w->cosines,
                      .sines = p->w->sines,
                      .q = (bf16 *) d->q,
                      .kv = kv_of(p, layer),
                      .n_heads = s->n_heads,
                      .n_kv_heads = s->n_kv_heads,
                      .head_dim = s->head_dim,
                      .eps = s->eps};
    cuda__note(p->dev, heads_launch(&h, p->rows, stream_of(p)), "heads");
    attend(p, layer);
    return matrix(p, &y->o, d->o, d->ldo, p->rows, 0, NULL, "attention's output");
}

static struct parts dense(const struct cuda_pass *p, const struct cuda_layer *y)
{
    const struct cuda_desk *d = p->desk;
    struct parts both = matrix(p, &y->gate_up, d->a, d->lda, p->rows, 0, NULL, "gate and up");
    cuda__note(p->dev, silu_launch(&both, p->shape->ffn, (bf16 *) d->f, d->ldf, p->rows, stream_of(p)),
               "SiLU");
    return matrix(p, &y->down, d->f, d->ldf, p->rows, 0, NULL, "down");
}

static void experts(const struct cuda_pass *p, const struct cuda_layer *y)
{
    const struct cuda_shape *s = p->shape;
    const struct cuda_desk *d = p->desk;
    struct route r = {.x = d->a_float,
                      .w = y->router,
                      .logit = d->router,
                      .pick = d->pick,
                      .pick_w = d->pick_w,
                      .place = d->place,
                      .place_row = d->place_row,
                      .work = d->work,
                      .hidden = s->hidden,
                      .n_experts = s->n_experts,
                      .n_used = s->n_used,
                      .norm_topk = s->norm_topk};
    cuda__note(p->dev, route_launch(&r, p->rows, stream_of(p)), "the router");
    struct parts both =
        matrix(p, &y->gate_up, d->a, d->lda, p->rows, 1, d->place_row, "experts' gate and up");
    cuda__note(p->dev,
               silu_launch(&both, s->moe_ffn, (bf16 *) d->e, d->lde, p->rows * s->n_used, stream_of(p)),
               "SiLU");
    struct parts down = matrix(p, &y->down, d->e, d->lde, p->rows, 1, NULL, "experts' down");
    cuda__note(p->dev,
               combine_launch(d->x, s->hidden, &down, d->place, d->pick_w, s->n_used, p->rows, stream_of(p)),
               "experts' sum");
}

/* The rows that want logits, normed, times the output layer, straight into the logits. */
static void head(const struct cuda_pass *p)
{
    const struct cuda_shape *s = p->shape;
    const struct cuda_desk *d = p->desk;
    const struct cuda_matrix *m = &p->w->head;
    struct norm n = {.x = d->x,
                     .add = {},
                     .from = p->blob.want,
                     .weight = p->w->norm,
                     .a = (bf16 *) d->a,
                     .a_float = NULL,
                     .lda = d->lda,
                     .hidden = s->hidden,
                     .eps = s->eps};
    cuda__note(p->dev, norm_launch(&n, p->want, stream_of(p)), "the last norm");
    struct gemm g = {.w = m->w,
                     .scale = m->scale,
                     .w_bytes = m->w_bytes,
                     .scale_bytes = m->scale_bytes,
                     .tiles = m->tiles,
                     .steps = m->k_pad / CUDA_CHUNK_K,
                     .splits = 1,
                     .x = (const bf16 *) d->a,
                     .ldx = d->lda,
                     .out = d->logits,
                     .ldo = d->stride,
                     .split_stride = 0,
                     .rows = p->want,
                     .work = NULL,
                     .row = NULL};
    int at_once = p->want < CUDA_ROWS ? p->want : CUDA_ROWS;
    cuda__note(p->dev,
               gemm_launch(&g, m->format, at_once, (p->want + CUDA_ROWS - 1) / CUDA_ROWS, stream_of(p)),
               "the output layer");
}

extern "C" void cuda__pass(const struct cuda_pass *p)
{
    const struct cuda_desk *d = p->desk;
    const struct cuda_weights *w = p->w;
    struct parts add = {};
    cuda__note(
        p->dev,
        embed_launch(p->blob.row, p->rows, (const bf16 *) w->embed, p->shape->hidden, d->x, stream_of(p)),
        "embedding");
    for (int l = 0; l < p->shape->n_layers; l++) {
        const struct cuda_layer *y = &w->layer[l];
        norm(p, y->attn_norm, &add, 0);
        add = attention(p, y, l);
        norm(p, y->ffn_norm, &add, y->router != NULL);
        add = {};
        if (y->router)
            experts(p, y);
        else
            add = dense(p, y);
    }
    if (add.splits)
        cuda__note(p->dev, residual_launch(d->x, p->shape->hidden, &add, p->rows, stream_of(p)),
                   "the residual stream");
    if (p->want)
        head(p);
}
