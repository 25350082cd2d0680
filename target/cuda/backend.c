/* backend.c - a GPU behind target.h: what a pass must know goes into one blob, the rest stays on the device.
 *
 * A tree's rows lie in slots while they are in flight: cells of extra pages behind the pool's own, so that page or slot is one kind
 * of address.  Slots are handed out against the node order, as on the CPU: a sum that followed them would be wrong in every tree.
 * Settling copies the accepted cells into the sequence's pages; the path it goes by lies where the walk left it, on the device.
 *
 * Nothing blocks but cuda_wait.  Thread: the engine thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/queue.h"
#include "target/cuda/inside.h"

enum { AFTER_CAP = 16, ALIGN = 16, ITEMS_MAX = 1024 };

/* Rows of one forward pass: those of the round, or a chunk of one prompt. */
struct stretch {
    int32_t first, n; /* rows */
    int32_t row0;     /* of a prompt's: its first position modulo CUDA_PROMPT */
    int32_t batch;    /* its first */
};

struct cuda_target {
    struct cuda_dev *dev;        /* owns; everything on the device is its */
    struct cuda_weights weights; /* owns */
    struct cuda_shape shape;
    struct cuda_desk desk;
    struct device_queue queue; /* after: owns */
    struct cuda_pass pass;     /* what was submitted last */
    char *blob;                /* pinned; (blob_room) */
    char *blob_device;         /* likewise */
    size_t blob_room;
    struct path *path, *path_device; /* pinned, device; (items_max) paths that the host knows */
    struct cuda_lt *lt;              /* owns; NULL: prompts ride with the round's rows */
    struct cuda_batch *batch;        /* owns; (rows_max + 1) */
    struct stretch *piece;           /* owns; (rows_max + 1) */
    int32_t rows_max, logits_max, items_max, pages; /* pages: of the pool */
    int32_t vocab;
};

/* --- how much memory it takes --- */

/* Rooms of struct cuda_desk, in bytes, and what they add up to. */
struct rooms {
    size_t x, a, o, f, e, a_float, q, part, attn_ml, attn_o, kv, logits, router, pick, pick_w, place,
        place_row, work, path, blob;
};

static int64_t up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

static int32_t items_of(const struct target_opts *o)
{
    return o->rows_max < ITEMS_MAX ? o->rows_max : ITEMS_MAX;
}

static void shape_of(struct cuda_shape *s, const struct target_opts *o, int32_t ctx, int32_t n_pages)
{
    const struct config *g = &o->model->config;
    *s = (struct cuda_shape){.n_layers = g->n_layers,
                             .hidden = g->hidden,
                             .n_heads = g->n_heads,
                             .n_kv_heads = g->n_kv_heads,
                             .head_dim = g->head_dim,
                             .vocab = g->vocab,
                             .ffn = g->ffn,
                             .n_experts = g->moe.n_experts,
                             .n_used = g->moe.n_experts ? g->moe.n_used : 1,
                             .moe_ffn = g->moe.ffn,
                             .norm_topk = g->moe.norm_topk,
                             .pages = n_pages + (o->logits_max + CUDA_KEYS - 1) / CUDA_KEYS,
                             .chunks_max = (ctx + CUDA_CHUNK - 1) / CUDA_CHUNK,
                             .eps = g->rms_eps};
}

static int64_t biggest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Floats a row that a matrix of n outputs and k inputs leaves in desk->part. */
static int64_t parts_of(int64_t n, int64_t k)
{
    int64_t outputs = up(n, CUDA_TILE);
    return outputs * cuda__splits((int32_t) (outputs / CUDA_TILE), (int32_t) up(k, CUDA_CHUNK_K));
}

static int64_t part_floats(const struct cuda_shape *s)
{
    int64_t heads = (int64_t) (s->n_heads + 2 * s->n_kv_heads) * s->head_dim,
            wide = (int64_t) s->n_heads * s->head_dim;
    int64_t most = biggest(parts_of(heads, s->hidden), parts_of(s->hidden, wide));
    most = biggest(most, biggest(parts_of(up(s->ffn, 8) * 2, s->hidden), parts_of(s->hidden, s->ffn)));
    if (s->n_experts)
        most = biggest(most, s->n_used * biggest(parts_of(up(s->moe_ffn, 8) * 2, s->hidden),
                                                 parts_of(s->hidden, s->moe_ffn)));
    return most;
}

/* Values of the largest matrix that the library may be given. */
static int64_t largest_of(const struct cuda_shape *s)
{
    int64_t in = up(s->hidden, CUDA_CHUNK_K), wide = up((int64_t) s->n_heads * s->head_dim, CUDA_CHUNK_K);
    int64_t most = biggest(up((int64_t) (s->n_heads + 2 * s->n_kv_heads) * s->head_dim, CUDA_TILE) * in,
                           up(s->hidden, CUDA_TILE) * wide);
    return biggest(most, biggest(up(up(s->ffn, 8) * 2, CUDA_TILE) * in,
                                 up(s->hidden, CUDA_TILE) * up(s->ffn, CUDA_CHUNK_K)));
}

/* The library's calls always have CUDA_PROMPT rows. */
static void rooms_of(struct rooms *r, const struct cuda_shape *s, const struct target_opts *o, int32_t ctx)
{
    const size_t rows = (size_t) (o->rows_max > CUDA_PROMPT ? o->rows_max : CUDA_PROMPT),
                 used = (size_t) s->n_used, heads = (size_t) s->n_heads, d = (size_t) s->head_dim;
    const size_t chunks = (size_t) CUDA_ROWS * heads * (size_t) s->chunks_max, items = (size_t) items_of(o);
    *r = (struct rooms){
        .x = rows * (size_t) s->hidden * 4,
        .a = rows * (size_t) up(s->hidden, CUDA_CHUNK_K) * 2,
        .o = rows * (size_t) up((int64_t) (heads * d), CUDA_CHUNK_K) * 2,
        .f = rows * (size_t) up(s->ffn, CUDA_CHUNK_K) * 2,
        .e = s->n_experts ? rows * used * (size_t) up(s->moe_ffn, CUDA_CHUNK_K) * 2 : 0,
        .a_float = s->n_experts ? rows * (size_t) s->hidden * 4 : 0,
        .q = rows * heads * d * 2,
        .part = rows * (size_t) part_floats(s) * 4,
        .attn_ml = chunks * 2 * 4,
        .attn_o = chunks * d * 4,
        .kv = (size_t) s->n_layers * (size_t) s->pages * (size_t) s->n_kv_heads * 2 * CUDA_KEYS * d * 2,
        .logits = (size_t) o->logits_max * (size_t) up(s->vocab, CUDA_TILE) * 4,
        .router = rows * (size_t) s->n_experts * 4,
        .pick = rows * used * 4,
        .pick_w = rows * used * 4,
        .place = rows * used * 4,
        .place_row = rows * used * 4,
        .work = (1 + 3 * ((size_t) s->n_experts + rows * used / CUDA_ROWS + 1)) * 4,
        .path = items * sizeof(struct path),
        .blob = rows * (sizeof(struct cuda_row) + sizeof(struct cuda_unit) + 4) +
                items * sizeof(struct cuda_item) +
                items * (size_t) ((ctx + TARGET_PAGE - 1) / TARGET_PAGE) * 4 + 8 * ALIGN,
    };
}

static int64_t sum_of(const struct rooms *r)
{
    return (int64_t) (r->x + r->a + r->o + r->f + r->e + r->a_float + r->q + r->part + r->attn_ml +
                      r->attn_o + r->kv + r->logits + r->router + r->pick + r->pick_w + r->place +
                      r->place_row + r->work + 2 * r->path + r->blob);
}

/* The verifier draws beside the logits: as much again, and a little for everything else. */
static int64_t verifier_bytes(const struct rooms *r)
{
    return (int64_t) r->logits + (INT64_C(64) << 20);
}

int target__cuda_room(const struct target_opts *o, int32_t ctx, int64_t *bytes, struct err *e)
{
    struct cuda_found found;
    struct cuda_shape s;
    struct rooms r;
    int64_t weights, need;
    int st = cuda__find(o->cuda - 1, &found, e);
    if (!st)
        st = cuda__plan(o->model, o->quant, ctx, &weights, e);
    if (st)
        return st;
    shape_of(&s, o, ctx, 0);
    rooms_of(&r, &s, o, ctx);
    need = weights + sum_of(&r) + verifier_bytes(&r) + cuda__lt_bytes(largest_of(&s));
    *bytes = (found.free - need) / 100 * 95;
    if (*bytes <= 0)
        return err_set(e, ST_NOMEM,
                       "cuda:%d (%s): the model and its passes need %lld MB of device memory and %lld MB are "
                       "free; a smaller "
                       "--target-quant, --max-rows or --ctx needs less",
                       o->cuda - 1, found.name, (long long) need >> 20, (long long) found.free >> 20);
    return 0;
}

/* --- open --- */

static int open_desk(struct cuda_target *c, const struct rooms *r, struct err *e)
{
    struct cuda_desk *d = &c->desk;
    struct {
        void *to;
        size_t bytes;
        const char *what;
    } all[] = {{&d->kv, r->kv, "KV pages"},
               {&d->logits, r->logits, "logits"},
               {&d->x, r->x, "the residual stream"},
               {&d->a, r->a, "normed rows"},
               {&d->o, r->o, "attention's rows"},
               {&d->f, r->f, "feed-forward rows"},
               {&d->e, r->e, "experts' rows"},
               {&d->a_float, r->a_float, "router rows"},
               {&d->q, r->q, "queries"},
               {&d->part, r->part, "sums of matrices"},
               {&d->attn_ml, r->attn_ml, "attention's sums"},
               {&d->attn_o, r->attn_o, "attention's chunks"},
               {&d->router, r->router, "router logits"},
               {&d->pick, r->pick, "picks"},
               {&d->pick_w, r->pick_w, "picks' weights"},
               {&d->place, r->place, "places"},
               {&d->place_row, r->place_row, "places' rows"},
               {&d->work, r->work, "experts' work"},
               {&d->path, r->path, "paths"},
               {&c->path_device, r->path, "paths from the host"},
               {&c->blob_device, r->blob, "the blob"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        void *p = all[i].bytes ? cuda__alloc(c->dev, all[i].what, all[i].bytes, e) : NULL;
        if (all[i].bytes && !p)
            return ST_NOMEM;
        memcpy(all[i].to, &p, sizeof p);
    }
    c->blob = cuda__alloc_host(c->dev, "the blob", r->blob, e);
    c->path = cuda__alloc_host(c->dev, "paths", r->path, e);
    c->blob_room = r->blob;
    return c->blob && c->path ? 0 : ST_NOMEM;
}

static int open_host(struct cuda_target *c, const struct target_opts *o, struct err *e)
{
    c->batch = calloc((size_t) o->rows_max + 1, sizeof *c->batch);
    c->piece = calloc((size_t) o->rows_max + 1, sizeof *c->piece);
    c->queue.after = queue_new(AFTER_CAP);
    if (!c->batch || !c->piece || !c->queue.after)
        return err_set(e, ST_NOMEM, "out of memory opening the CUDA target");
    c->queue.stream = cuda__dev_stream(c->dev);
    return 0;
}

/* Before anything is taken: one sentence with everything that is needed. */
static int check_memory(const struct target_opts *o, const struct rooms *r, const struct cuda_found *f,
                        int32_t ctx, struct err *e)
{
    int64_t weights, need;
    int st = cuda__plan(o->model, o->quant, ctx, &weights, e);
    if (st)
        return st;
    need = weights + sum_of(r) + verifier_bytes(r);
    if (need <= f->free)
        return 0;
    return err_set(e, ST_NOMEM,
                   "cuda:%d (%s): %lld MB of device memory are needed (weights %lld, KV pages %lld, passes "
                   "%lld) and %lld MB "
                   "are free; lower --kv-bytes, --ctx or --max-rows, or choose a smaller --target-quant",
                   o->cuda - 1, f->name, (long long) need >> 20, (long long) weights >> 20,
                   (long long) r->kv >> 20, (long long) (need - weights - (int64_t) r->kv) >> 20,
                   (long long) f->free >> 20);
}

static int open_all(struct cuda_target *c, const struct target_opts *o, const struct cuda_found *f,
                    int32_t ctx, int32_t n_pages, struct err *e)
{
    struct rooms r;
    shape_of(&c->shape, o, ctx, n_pages);
    rooms_of(&r, &c->shape, o, ctx);
    int st = check_memory(o, &r, f, ctx, e);
    if (!st)
        st = cuda__dev_open(&c->dev, o->cuda - 1, e);
    if (!st)
        st = open_host(c, o, e);
    if (!st)
        st = cuda__load(&c->weights, c->dev, o->model, o->quant, ctx, e);
    if (!st)
        st = open_desk(c, &r, e);
    char card[96];
    snprintf(card, sizeof card, "%s sm_%d", f->name, f->capability);
    if (!st)
        st = cuda__lt_open(&c->lt, card, e);
    if (!st && c->lt)
        st = cuda__lt_room(c->lt, c->dev, largest_of(&c->shape), e);
    c->desk.lda = (int32_t) up(c->shape.hidden, CUDA_CHUNK_K);
    c->desk.ldo = (int32_t) up((int64_t) c->shape.n_heads * c->shape.head_dim, CUDA_CHUNK_K);
    c->desk.ldf = (int32_t) up(c->shape.ffn, CUDA_CHUNK_K);
    c->desk.lde = (int32_t) up(c->shape.moe_ffn, CUDA_CHUNK_K);
    c->desk.stride = up(c->shape.vocab, CUDA_TILE);
    return st;
}

/* --- the blob --- */

static void *take(struct cuda_target *c, size_t *at, size_t bytes)
{
    void *p = c->blob + *at;
    *at += (size_t) up((int64_t) bytes, ALIGN);
    return p;
}

static int32_t base_of(int32_t pos)
{
    return pos < CUDA_KEYS - 1 ? 0 : (pos - (CUDA_KEYS - 1)) / CUDA_KEYS * CUDA_KEYS;
}

/* What one submit fills. */
struct filling {
    struct cuda_row *row;
    struct cuda_item *item;
    struct cuda_unit *unit;
    int32_t *want, *page;
    int32_t rows, units, wants, pages, slots, pieces, batches;
};

static int32_t cell_of(const struct target_item *it, int32_t pos)
{
    return it->seq->page[pos / TARGET_PAGE] * TARGET_PAGE + pos % TARGET_PAGE;
}

/* Tokens [from, to) of item i. */
static void fill_known(struct filling *f, const struct target_item *it, int32_t i, int32_t from, int32_t to)
{
    for (int32_t k = from; k < to; k++) {
        if (it->want_logits && k == it->n - 1)
            f->want[f->wants++] = f->rows;
        int32_t pos = it->seq->len + k;
        f->row[f->rows++] = (struct cuda_row){
            .tok = it->tok[k], .pos = pos, .item = i, .cell = cell_of(it, pos), .parent = -1};
    }
}

static void fill_tree(const struct cuda_target *c, struct filling *f, const struct target_item *it,
                      int32_t item)
{
    const struct tree *t = it->tree;
    int32_t first = f->rows;
    for (int32_t i = 0; i < t->n; i++) {
        f->want[f->wants++] = f->rows;
        f->row[f->rows++] = (struct cuda_row){.tok = t->tok[i],
                                              .pos = it->seq->len + t->depth[i],
                                              .item = item,
                                              .cell = c->pages * TARGET_PAGE + f->slots + t->n - 1 - i,
                                              .parent = i ? first + t->parent[i] : -1};
    }
    f->slots += t->n;
}

static void fill_item(const struct cuda_target *c, struct filling *f, struct target_item *it, int32_t i)
{
    f->item[i] = (struct cuda_item){
        .first = f->rows, .len = it->seq->len, .tree = it->kind == TARGET_TREE, .pages = f->pages};
    memcpy(f->page + f->pages, it->seq->page, (size_t) it->seq->n_pages * sizeof *f->page);
    f->pages += it->seq->n_pages;
    it->logits = (struct logits){.row = c->desk.logits + f->wants * c->desk.stride,
                                 .vocab = c->vocab,
                                 .stride = c->desk.stride,
                                 .mem = MEM_DEVICE,
                                 .queue = (void *) (uintptr_t) &c->queue,
                                 .path = c->desk.path + i};
}

/* Rows [r, end) of one item, whose settled tiles are read together; left out where there are none. */
static void fill_unit(const struct cuda_target *c, struct filling *f, int32_t first, int32_t r, int32_t end,
                      int32_t *chunks)
{
    int32_t base = 0, each = CUDA_ROWS / (c->shape.n_heads / c->shape.n_kv_heads);
    for (int32_t i = r; i < end; i++)
        base = base_of(f->row[i].pos) > base ? base_of(f->row[i].pos) : base;
    if (!base)
        return;
    int32_t n = (base + CUDA_CHUNK - 1) / CUDA_CHUNK;
    *chunks = n > *chunks ? n : *chunks;
    for (; r < end; r += each)
        f->unit[f->units++] = (struct cuda_unit){f->row[r].item, r - first, end - r < each ? end - r : each};
}

static void fill_batch(const struct cuda_target *c, struct filling *f, int32_t first, int32_t r, int32_t end)
{
    struct cuda_batch *b = &c->batch[f->batches++];
    *b = (struct cuda_batch){.unit = f->units};
    for (int32_t to; r < end; r = to) {
        for (to = r + 1; to < end && f->row[to].item == f->row[r].item; to++)
            ;
        fill_unit(c, f, first, r, to, &b->chunks);
    }
    b->units = f->units - b->unit;
}

/* Rows from `first` on become a pass of their own. */
static void fill_piece(const struct cuda_target *c, struct filling *f, int32_t first, int32_t row0)
{
    c->piece[f->pieces++] = (struct stretch){first, f->rows - first, row0, f->batches};
    for (int32_t r = first; r < f->rows; r += CUDA_ROWS)
        fill_batch(c, f, first, r, r + CUDA_ROWS < f->rows ? r + CUDA_ROWS : f->rows);
}

/* Trees and known tokens; prompts too, where the library does not read them. */
static int in_round(const struct cuda_target *c, const struct target_item *it)
{
    return it->kind != TARGET_PROMPT || !c->lt;
}

static void fill_round(const struct cuda_target *c, struct filling *f, struct target_item *item, int n)
{
    for (int i = 0; i < n; i++) {
        int32_t wants = f->wants;
        fill_item(c, f, &item[i], i);
        if (item[i].kind == TARGET_TREE)
            fill_tree(c, f, &item[i], i);
        else if (in_round(c, &item[i]))
            fill_known(f, &item[i], i, 0, item[i].n);
        item[i].logits.rows = f->wants - wants;
    }
    if (f->rows)
        fill_piece(c, f, 0, 0);
}

/* A prompt in chunks that end where positions are multiples of CUDA_PROMPT. */
static void fill_prompt(const struct cuda_target *c, struct filling *f, const struct target_item *it,
                        int32_t i)
{
    for (int32_t from = 0, to; from < it->n; from = to) {
        int32_t row0 = (it->seq->len + from) % CUDA_PROMPT, first = f->rows;
        to = from + CUDA_PROMPT - row0 < it->n ? from + CUDA_PROMPT - row0 : it->n;
        fill_known(f, it, i, from, to);
        fill_piece(c, f, first, row0);
    }
}

static int32_t rows_in(const struct target_item *item, int n)
{
    int32_t rows = 0;
    for (int i = 0; i < n; i++)
        rows += item[i].kind == TARGET_TREE ? item[i].tree->n : item[i].n;
    return rows;
}

/* Pages come last: their number is known when all else is there. */
static size_t fill(struct cuda_target *c, struct target_item *item, int n, struct filling *f)
{
    size_t at = 0, rows = (size_t) rows_in(item, n);
    f->row = take(c, &at, rows * sizeof *f->row);
    f->item = take(c, &at, (size_t) n * sizeof *f->item);
    f->unit = take(c, &at, rows * sizeof *f->unit);
    f->want = take(c, &at, rows * sizeof *f->want);
    f->page = (int32_t *) (void *) (c->blob + at);
    fill_round(c, f, item, n);
    for (int i = 0; i < n; i++)
        if (!in_round(c, &item[i]))
            fill_prompt(c, f, &item[i], i);
    return at + (size_t) f->pages * sizeof *f->page;
}

/* A place in the pinned blob, as seen on the device. */
static const void *seen(const struct cuda_target *c, const void *p)
{
    return c->blob_device + ((const char *) p - c->blob);
}

/* --- the border --- */

/* The desk of a prompt's chunk, whose rows lie at row0 of the call's. */
static struct cuda_desk desk_at(const struct cuda_target *c, int32_t row0)
{
    struct cuda_desk d = c->desk;
    const struct cuda_shape *s = &c->shape;
    d.x += (int64_t) row0 * s->hidden;
    d.a += (int64_t) row0 * d.lda;
    d.o += (int64_t) row0 * d.ldo;
    d.f += (int64_t) row0 * d.ldf;
    return d;
}

static void run_piece(struct cuda_target *c, const struct filling *f, const struct stretch *p, int n,
                      int prompt)
{
    struct cuda_desk desk = desk_at(c, prompt ? p->row0 : 0);
    const struct cuda_pass pass = {.dev = c->dev,
                                   .shape = &c->shape,
                                   .w = &c->weights,
                                   .desk = &desk,
                                   .blob = {seen(c, f->row + p->first), seen(c, f->item), seen(c, f->unit),
                                            seen(c, f->page), seen(c, f->want)},
                                   .rows = p->n,
                                   .items = n,
                                   .want = prompt ? 0 : f->wants,
                                   .batch = c->batch + p->batch,
                                   .lt = prompt ? c->lt : NULL,
                                   .row0 = p->row0};
    cuda__pass(&pass);
}

/* The round's rows are the first piece where there are any; settling needs where its rows lie and nothing else. */
static int cuda_submit(void *self, struct target_item *item, int n)
{
    struct cuda_target *c = self;
    struct filling f = {0};
    if (n > c->items_max)
        return ST_LIMIT;
    cuda__dev_use(c->dev);
    int round = 0;
    size_t bytes = fill(c, item, n, &f);
    for (int i = 0; i < n; i++)
        round |= in_round(c, &item[i]);
    c->pass = (struct cuda_pass){
        .dev = c->dev,
        .shape = &c->shape,
        .desk = &c->desk,
        .blob = {seen(c, f.row), seen(c, f.item), seen(c, f.unit), seen(c, f.page), seen(c, f.want)},
        .items = n};
    cuda__post(c->dev, c->blob_device, c->blob, bytes);
    for (int32_t i = 0; i < f.pieces; i++)
        run_piece(c, &f, &c->piece[i], n, i > 0 || !round);
    return 0;
}

/* Paths that a walk on the device made lie there already; others are sent after it. */
static int cuda_settle(void *self, struct target_item *item, const struct path *path, int n)
{
    struct cuda_target *c = self;
    int trees = 0, here = 0;
    for (int i = 0; i < n; i++) {
        trees += item[i].kind == TARGET_TREE;
        here += item[i].kind == TARGET_TREE && path[i].status != PATH_PENDING;
    }
    if (here) {
        memcpy(c->path, path, (size_t) n * sizeof *path);
        cuda__post(c->dev, c->path_device, c->path, (size_t) n * sizeof *path);
    }
    if (trees)
        cuda__settle(&c->pass, here ? c->path_device : NULL);
    return 0;
}

static int cuda_wait(void *self)
{
    struct cuda_target *c = self;
    int st = cuda__dev_wait(c->dev);
    return st ? st : queue_wait(c->queue.after);
}

static void cuda_page_copy(void *self, int32_t to, int32_t from, int32_t n)
{
    struct cuda_target *c = self;
    cuda__dev_use(c->dev);
    cuda__page_copy(c->dev, &c->shape, c->desk.kv, to, from, n);
}

static void cuda_target_close(void *self)
{
    struct cuda_target *c = self;
    if (!c)
        return;
    cuda__lt_close(c->lt);
    cuda__dev_close(c->dev);
    cuda__unload(&c->weights);
    queue_free(c->queue.after);
    free(c->batch);
    free(c->piece);
    free(c);
}

int target__cuda_find(int32_t index, char *name, size_t bytes, struct err *e)
{
    struct cuda_found f;
    int st = cuda__find(index, &f, e);
    if (!st)
        snprintf(name, bytes, "%.40s", f.name);
    return st;
}

int target__cuda_open(struct target_backend *b, const struct target_opts *o, int32_t ctx, int32_t n_pages,
                      struct err *e)
{
    struct cuda_found f;
    if (o->kv_type != CPU_KV_BF16)
        return err_set(e, ST_UNSUPPORTED,
                       "--kv f32: keys and values are BF16 on a GPU; --device cpu takes f32, too");
    int st = cuda__find(o->cuda - 1, &f, e);
    if (st)
        return st;
    struct cuda_target *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, ST_NOMEM, "out of memory opening the CUDA target");
    *b = (struct target_backend){
        c, cuda_submit, cuda_settle, cuda_wait, cuda_page_copy, cuda_target_close, .precision = ""};
    c->rows_max = o->rows_max;
    c->logits_max = o->logits_max;
    c->items_max = items_of(o);
    c->pages = n_pages;
    c->vocab = o->vocab;
    st = open_all(c, o, &f, ctx, n_pages, e);
    snprintf(b->precision, sizeof b->precision, "%s", c->weights.precision);
    if (c->lt)
        snprintf(b->family, sizeof b->family, "cuda%d-lt%zu", f.capability, cuda__lt_version(c->lt));
    else
        snprintf(b->family, sizeof b->family, "cuda%d", f.capability);
    b->two_paths = c->lt != NULL;
    snprintf(b->device, sizeof b->device, "cuda:%d (%.40s)", o->cuda - 1, f.name);
    return st;
}
