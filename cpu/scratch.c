/* scratch.c - the memory of a pass: one block, cut twice: first to count, then to use.
 *
 * The block belongs to the model, grows with the largest pass seen and is kept.  Thread: the caller of cpu_forward. */
#include "cpu/pass.h"

#include <stdlib.h>

struct cut {
    char *base; /* NULL: only count */
    size_t used;
};

static void *take(struct cut *c, size_t n, size_t size)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += (n * size + 63) / 64 * 64;
    return p;
}

static void cut_rows(struct cut *c, struct cpu__rows *a, size_t rows, int width)
{
    a->ld = cpu__round_up(width, Q8_BLOCK);
    size_t ld = (size_t) a->ld, blocks = ld / Q8_BLOCK;
    a->x = take(c, rows * ld, sizeof *a->x);
    a->q = take(c, rows * ld, sizeof *a->q);
    a->d = take(c, rows * blocks, sizeof *a->d);
    a->sum = take(c, rows * blocks, sizeof *a->sum);
    a->q8 = take(c, rows, sizeof *a->q8);
    for (size_t r = 0; c->base && r < rows; r++)
        a->q8[r] = (struct q8_row){a->q + r * ld, a->d + r * blocks, a->sum + r * blocks};
}

/* 0: every layer has experts, and the dense width that the configuration states is nobody's. */
static int dense_ffn(const struct config *g)
{
    for (int l = 0; l < g->n_layers; l++)
        if (!g->moe.n_experts || !g->moe.layer[l])
            return g->ffn;
    return 0;
}

static void cut_rooms(struct cut *c, struct desk *d, const struct pass *p, int k)
{
    size_t rows = (size_t) min(p->n, CPU__TILE_ROWS) + 8; /* a last group filled up */
    size_t bytes = rows * (size_t) (cpu__round_up(k, Q8_BLOCK) / Q8_BLOCK) * ROOM_ROW_BYTES;
    for (int i = 0; i < p->rooms; i++) {
        uint8_t *packed = take(c, bytes, 1);
        if (d)
            d->room[i] = (struct gemm_room){.bytes = bytes, .packed = packed};
    }
}

static void cut_desk(struct cut *c, struct desk *d, const struct pass *p)
{
    struct cpu__rows own;
    const struct config *g = &p->w->config;
    size_t tile = (size_t) p->tile_rows * CPU__TILE_WIDTH;
    size_t scores = (size_t) p->attend_rows * (size_t) p->group;
    size_t k = (size_t) max(max(g->hidden, g->n_heads * g->head_dim), dense_ffn(g));
    size_t pages = (size_t) cpu__round_up(p->score_ld, CPU_PAGE) / CPU_PAGE;
    float *out = take(c, tile, sizeof *out), *second = take(c, tile, sizeof *second);
    float *weights = take(c, p->blas ? k * CPU__BLAS_PANELS * PANEL : 0, sizeof *weights);
    float *score = take(c, scores * (size_t) p->score_ld, sizeof *score);
    const void **k_page = take(c, pages, sizeof *k_page), **v_page = take(c, pages, sizeof *v_page);
    cut_rows(c, &own, min(p->n, OWN_ROWS), g->hidden);
    cut_rooms(c, c->base ? d : NULL, p, max((int) k, g->moe.ffn));
    if (!c->base)
        return;
    d->own = own;
    d->out = out;
    d->second = second;
    d->weights = weights;
    d->score = score;
    d->k_page = k_page;
    d->v_page = v_page;
}

/* Float copies of the places' inputs only where some expert takes floats. */
static void cut_crew(struct cut *c, struct pass *p)
{
    const struct config *g = &p->w->config;
    struct crew *w = &p->crew;
    size_t n = (size_t) p->n, experts = (size_t) g->moe.n_experts, picks = n * (size_t) g->moe.n_used;
    w->picks = (int) picks;
    w->ldr = cpu__round_up(g->moe.n_experts, PANEL);
    w->ldy = cpu__round_up(g->hidden, PANEL);
    w->router = take(c, n * (size_t) w->ldr, sizeof *w->router);
    w->expert = take(c, picks, sizeof *w->expert);
    w->weight = take(c, picks, sizeof *w->weight);
    w->place = take(c, picks, sizeof *w->place);
    w->row = take(c, picks, sizeof *w->row);
    w->active = take(c, experts, sizeof *w->active);
    w->from = take(c, experts + 1, sizeof *w->from);
    w->rank = take(c, experts, sizeof *w->rank);
    w->x = (struct cpu__rows){.ld = p->a.ld};
    w->x.q8 = take(c, picks, sizeof *w->x.q8);
    w->x.x = take(c, p->w->float_experts ? picks * (size_t) w->x.ld : 0, sizeof *w->x.x);
    w->y = take(c, picks * (size_t) w->ldy, sizeof *w->y);
    cut_rows(c, &w->f, picks, g->moe.ffn);
}

static void cut_all(struct cut *c, struct pass *p)
{
    const struct config *g = &p->w->config;
    size_t n = (size_t) p->n, half = (size_t) g->head_dim / 2;
    p->ldx = cpu__round_up(g->hidden, PANEL);
    p->ldq = cpu__round_up(g->n_heads * g->head_dim, PANEL);
    p->ldk = cpu__round_up(g->n_kv_heads * g->head_dim, PANEL);
    p->want = take(c, n, sizeof *p->want);
    p->task = take(c, n + 1, sizeof *p->task);
    p->x = take(c, n * (size_t) p->ldx, sizeof *p->x);
    p->q = take(c, n * (size_t) p->ldq, sizeof *p->q);
    p->k = take(c, n * (size_t) p->ldk, sizeof *p->k);
    p->v = take(c, n * (size_t) p->ldk, sizeof *p->v);
    p->cosines = take(c, n * half, sizeof *p->cosines);
    p->sines = take(c, n * half, sizeof *p->sines);
    cut_rows(c, &p->a, n, max(g->hidden, g->n_heads * g->head_dim));
    cut_rows(c, &p->f, n, dense_ffn(g));
    if (g->moe.n_experts)
        cut_crew(c, p);
    p->desk = take(c, (size_t) p->threads, sizeof *p->desk);
    for (int t = 0; t < p->threads; t++)
        cut_desk(c, p->desk ? &p->desk[t] : NULL, p);
}

static int grow(char **scratch, size_t *bytes, size_t need)
{
    void *grown;
    if (need <= *bytes)
        return 0;
    if (posix_memalign(&grown, 64, need))
        return ST_NOMEM;
    free(*scratch);
    *scratch = grown;
    *bytes = need;
    return 0;
}

int cpu__pass_scratch(struct pass *p)
{
    struct cpu_model *w = p->w;
    struct cut c = {0};
    cut_all(&c, p);
    if (grow(&w->scratch, &w->scratch_bytes, c.used))
        return ST_NOMEM;
    c = (struct cut){.base = w->scratch};
    cut_all(&c, p);
    return 0;
}

static void cut_head(struct cut *c, const struct cpu_model *w, int n, int threads, int pieces,
                     struct cpu__head_room *room)
{
    size_t tile = (size_t) CPU__TILE_ROWS * CPU__TILE_WIDTH;
    cut_rows(c, &room->a, (size_t) n, w->config.hidden);
    room->out = take(c, (size_t) threads * tile, sizeof *room->out);
    room->piece = take(c, (size_t) pieces, sizeof *room->piece);
}

int cpu__head_scratch(struct cpu_model *w, int n, int threads, int pieces, struct cpu__head_room *out)
{
    struct cut c = {0};
    cut_head(&c, w, n, threads, pieces, out);
    if (grow(&w->head_scratch, &w->head_bytes, c.used))
        return ST_NOMEM;
    c = (struct cut){.base = w->head_scratch};
    cut_head(&c, w, n, threads, pieces, out);
    return 0;
}
