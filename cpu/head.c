/* head.c - the output layer on its own, over part of the vocabulary: for a draft, whose guesses seldom lie in the rest.
 *
 * Rows are those of the model's last pass, whose residual stream its scratch still holds.  The order of every sum is
 * cpu_forward's, so a logit is the same to the bit.  Thread: the caller of cpu_forward. */
#include "cpu/pass.h"

#include <string.h>

_Static_assert((int) CPU_PANEL == (int) PANEL, "what cpu.h says of panels");

struct heading {
    struct cpu_model *w;
    const struct cpu_head_row *row;
    int n;
    const struct cpu__head_room *room;
    int n_pieces;
    float *logits;
    int64_t stride;
};

static void norm_row(struct heading *h, int i)
{
    struct cpu_model *w = h->w;
    const struct kern *kern = &w->cpu->kern;
    const struct cpu__rows *a = &h->room->a;
    int hidden = w->config.hidden;
    float *to = a->x + i * a->ld;
    kern->rmsnorm(w->x + h->row[i].row * w->ldx, w->norm, hidden, w->config.rms_eps, to);
    if (!cpu__quant_is_int(w->head.quant))
        return;
    int64_t b = i * a->ld / Q8_BLOCK;
    int padded = cpu__round_up(hidden, Q8_BLOCK);
    memset(to + hidden, 0, (size_t) (padded - hidden) * sizeof *to);
    kern->quantize(to, padded, a->q + i * a->ld, a->d + b, a->sum + b);
}

static void take_piece(struct heading *h, const struct cpu__head_piece *piece, float *out)
{
    const struct cpu__matrix *m = &h->w->head;
    int width = min(piece->p1 * PANEL, m->n) - piece->p0 * PANEL;
    for (int r = 0, end; r < h->n; r = end) {
        end = min(r + CPU__TILE_ROWS, h->n);
        cpu__matmul(h->w->cpu, m, piece->p0, piece->p1, &h->room->a, r, end, out, CPU__TILE_WIDTH, NULL);
        for (int i = r; i < end; i++)
            memcpy(h->logits + h->row[i].logits * h->stride + piece->p0 * PANEL,
                   out + (i - r) * CPU__TILE_WIDTH, (size_t) width * sizeof *out);
    }
}

static void head_thread(void *arg, int thread)
{
    struct heading *h = arg;
    struct cpu__pool *pool = h->w->cpu->pool;
    for (int i; (i = cpu__pool_claim(pool)) < h->n;)
        norm_row(h, i);
    cpu__pool_sync(pool);
    for (int i; (i = cpu__pool_claim(pool)) < h->n_pieces;)
        take_piece(h, &h->room->piece[i], h->room->out + (size_t) thread * CPU__TILE_ROWS * CPU__TILE_WIDTH);
}

/* A range is cut where a thread's tile ends. */
static int cut_ranges(const struct cpu_range *range, int n_ranges, struct cpu__head_piece *piece)
{
    int n = 0;
    for (int i = 0; i < n_ranges; i++) {
        int end = (range[i].to + PANEL - 1) / PANEL;
        for (int p = range[i].from / PANEL; p < end; p += CPU__TILE_PANELS)
            piece[n++] = (struct cpu__head_piece){p, min(p + CPU__TILE_PANELS, end)};
    }
    return n;
}

int cpu_head(struct cpu_model *w, const struct cpu_head_row *row, int n, const struct cpu_range *range,
             int n_ranges, float *logits, int64_t stride)
{
    struct cpu__head_room room;
    int panels = w->head.panels, threads = cpu__pool_threads(w->cpu->pool);
    int most = panels / CPU__TILE_PANELS + 2 * n_ranges; /* each range has one short piece, or two */
    if (n == 0 || n_ranges == 0)
        return 0;
    if (cpu__head_scratch(w, n, threads, most, &room))
        return ST_NOMEM;
    struct heading h = {w, row, n, &room, cut_ranges(range, n_ranges, room.piece), logits, stride};
    cpu__pool_run(w->cpu->pool, head_thread, &h);
    return 0;
}
