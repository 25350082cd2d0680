/* forward.c - the pass: every row of the batch through every layer.
 *
 * All threads run the whole of pass_thread; inside a step they take pieces of its outputs by number and meet at a barrier
 * before the next.  The steps of a layer:
 *
 *     norm -> [quantize] | q, k, v | head norms, rotation, K and V rounded and written | attention | [quantize] |
 *     o, + residual | norm -> [quantize] | gate, up, silu, [quantize] | down, + residual |
 *
 * or, where a layer has experts, experts.c's for the last two.  Few rows are normed by every thread for itself, and where there
 * are heads enough a thread takes one from its norm to its quantized output: five barriers of nine are left.
 *
 * K and V of ALL rows are written before any row attends: a row finds its ancestors of the same batch in their slots, and
 * earlier rows of its own chunk in their page, exactly as it would find them had they been settled long ago.
 *
 * The caller's rows are trusted: ids in range, pages and slots that exist, n_tail < TREE_MAX (target/ and draft/ check). */
#include "cpu/math.h"
#include "cpu/pass.h"

#include <string.h>

enum { AHEAD_BYTES = 192 << 10 }; /* read ahead by a waiting thread: less than a small L2 */

static int keys_of(const struct cpu_row *r)
{
    return r->pos - r->start + 1;
}

/* --- steps ---
 *
 * A thread's first piece of a step is the one of its own number, so that it can be read ahead; the others are taken in turn. */

static int take(const struct pass *p, struct desk *d)
{
    if (d->begun)
        return p->threads + cpu__pool_claim(p->w->cpu->pool);
    d->begun = 1;
    return d->thread;
}

static void meet(const struct pass *p, struct desk *d)
{
    d->begun = 0;
    cpu__pool_sync(p->w->cpu->pool);
}

/* The same; until the others have come, the thread's first piece of the next matrix is brought near. */
static void meet_before(const struct pass *p, struct desk *d, const struct cpu__matrix *next)
{
    int pieces = cpu__pieces(next, p->threads, p->blas);
    d->begun = 0;
    if (d->thread >= pieces || p->blas) {
        cpu__pool_sync(p->w->cpu->pool);
        return;
    }
    int p0 = cpu__piece_start(next, pieces, d->thread), p1 = cpu__piece_start(next, pieces, d->thread + 1);
    size_t bytes = (size_t) (p1 - p0) * next->panel_bytes;
    cpu__pool_sync_ahead(p->w->cpu->pool, cpu__matrix_panel(next, p0),
                         bytes < AHEAD_BYTES ? bytes : AHEAD_BYTES);
}

void cpu__desk_forget(struct desk *d)
{
    for (int i = 0; i < ROOMS; i++)
        d->room[i].rows = NULL;
}

/* --- rows --- */

static void quantize(const struct pass *p, struct cpu__rows *a, int r, int k)
{
    if (!p->q8)
        return;
    float *x = a->x + r * a->ld;
    int padded = cpu__round_up(k, Q8_BLOCK);
    memset(x + k, 0, (size_t) (padded - k) * sizeof *x);
    int64_t b = r * (a->ld / Q8_BLOCK);
    p->w->cpu->kern.quantize(x, padded, a->q + r * a->ld, a->d + b, a->sum + b);
}

/* The row's own copy of its angles: the heads' step reads them in the rows' order. */
static void angles(struct pass *p, int r)
{
    struct cpu_model *w = p->w;
    int half = w->config.head_dim / 2, pos = p->row[r].pos;
    float *c = p->cosines + r * half, *s = p->sines + r * half;
    if (pos >= w->rope_positions) {
        cpu__rope_angles(w->inv_freq, half, pos, w->rope_factor, c, s);
        return;
    }
    memcpy(c, w->cosines + (size_t) pos * (size_t) half, (size_t) half * sizeof *c);
    memcpy(s, w->sines + (size_t) pos * (size_t) half, (size_t) half * sizeof *s);
}

static void step_embed(struct pass *p, struct desk *d)
{
    struct cpu_model *w = p->w;
    for (int r; (r = take(p, d)) < p->n;) {
        cpu_tensor_row(w->model->embed, p->row[r].tok, p->x + r * p->ldx);
        angles(p, r);
    }
    meet_before(p, d, &w->layer[0].q);
}

static void norm_row(struct pass *p, struct cpu__rows *to, const float *weight, const int *which, int i)
{
    const float *x = p->x + (which ? which[i] : i) * p->ldx;
    int hidden = p->w->config.hidden;
    p->w->cpu->kern.rmsnorm(x, weight, hidden, p->w->config.rms_eps, to->x + i * to->ld);
    quantize(p, to, i, hidden);
}

/* Row i of a becomes the norm of row which[i] of the residual stream; all n in their order where which is NULL. */
static void step_norm(struct pass *p, struct desk *d, const float *weight, const int *which, int n)
{
    for (int i; (i = take(p, d)) < n;)
        norm_row(p, &p->a, weight, which, i);
    meet(p, d);
}

/* The same, for who only reads the rows: few of them each thread norms for itself, and need not wait. */
static const struct cpu__rows *norms(struct pass *p, struct desk *d, const float *weight, const int *which,
                                     int n)
{
    if (n > OWN_ROWS) {
        step_norm(p, d, weight, which, n);
        return &p->a;
    }
    for (int i = 0; i < n; i++)
        norm_row(p, &d->own, weight, which, i);
    return &d->own;
}

/* --- matrices --- */

static void product(const struct pass *p, const struct cpu__matrix *m, int p0, int p1,
                    const struct cpu__rows *x, int r0, int r1, struct desk *d, float *out, int64_t ldo,
                    int tile)
{
    if (p->blas)
        cpu__matmul_blas(d->weights, m->k, (p1 - p0) * PANEL, x, r0, r1, out, ldo);
    else
        cpu__matmul(p->w->cpu, m, p0, p1, x, r0, r1, out, ldo, tile < p->rooms ? &d->room[tile] : NULL);
}

void cpu__pass_piece(struct pass *p, const struct cpu__matrix *m, int pieces, int i,
                     const struct cpu__rows *x, int r0, int r1, struct desk *d, emit_fn emit)
{
    int p0 = cpu__piece_start(m, pieces, i), p1 = cpu__piece_start(m, pieces, i + 1);
    int width = min(p1 * PANEL, m->n) - p0 * PANEL;
    if (p->blas)
        cpu__matmul_widen(m, p0, p1, d->weights);
    for (int r = r0, end; r < r1; r = end) {
        end = min(r + p->tile_rows, r1);
        product(p, m, p0, p1, x, r, end, d, d->out, CPU__TILE_WIDTH, (r - r0) / p->tile_rows);
        emit(p, r, end, p0 * PANEL, width, d->out);
    }
}

static void multiply(struct pass *p, const struct cpu__matrix *m, const struct cpu__rows *x, int n,
                     struct desk *d, emit_fn emit)
{
    int pieces = cpu__pieces(m, p->threads, p->blas);
    cpu__desk_forget(d);
    for (int i; (i = take(p, d)) < pieces;)
        cpu__pass_piece(p, m, pieces, i, x, 0, n, d, emit);
}

void cpu__pass_matrix(struct pass *p, const struct cpu__matrix *m, const struct cpu__rows *x, int n,
                      struct desk *d, emit_fn emit)
{
    multiply(p, m, x, n, d, emit);
    meet(p, d);
}

void cpu__pass_copy(float *to, int64_t ld, int r0, int r1, int o0, int width, const float *out)
{
    for (int r = r0; r < r1; r++)
        memcpy(to + r * ld + o0, out + (r - r0) * CPU__TILE_WIDTH, (size_t) width * sizeof *to);
}

static void emit_q(struct pass *p, int r0, int r1, int o0, int width, const float *out)
{
    cpu__pass_copy(p->q, p->ldq, r0, r1, o0, width, out);
}

static void emit_k(struct pass *p, int r0, int r1, int o0, int width, const float *out)
{
    cpu__pass_copy(p->k, p->ldk, r0, r1, o0, width, out);
}

static void emit_v(struct pass *p, int r0, int r1, int o0, int width, const float *out)
{
    cpu__pass_copy(p->v, p->ldk, r0, r1, o0, width, out);
}

static void emit_residual(struct pass *p, int r0, int r1, int o0, int width, const float *out)
{
    for (int r = r0; r < r1; r++)
        p->w->cpu->kern.add(p->x + r * p->ldx + o0, out + (r - r0) * CPU__TILE_WIDTH, width);
}

static void emit_logits(struct pass *p, int r0, int r1, int o0, int width, const float *out)
{
    for (int r = r0; r < r1; r++)
        memcpy(p->logits + p->row[p->want[r]].logits * p->stride + o0, out + (r - r0) * CPU__TILE_WIDTH,
               (size_t) width * sizeof *out);
}

/* The same matrix: pieces without padding whose rows' logits lie side by side are written there by the kernel itself. */
static void step_logits(struct pass *p, const struct cpu__rows *x, struct desk *d)
{
    const struct cpu__matrix *m = &p->w->head;
    int pieces = cpu__pieces(m, p->threads, p->blas), first = p->row[p->want[0]].logits, direct = !p->blas;
    for (int r = 0; r < p->n_want; r++)
        direct &= p->row[p->want[r]].logits == first + r;
    cpu__desk_forget(d);
    for (int i; (i = take(p, d)) < pieces;) {
        int p0 = cpu__piece_start(m, pieces, i), p1 = cpu__piece_start(m, pieces, i + 1);
        if (!direct || p1 * PANEL > m->n) {
            cpu__pass_piece(p, m, pieces, i, x, 0, p->n_want, d, emit_logits);
            continue;
        }
        for (int r = 0; r < p->n_want; r += p->tile_rows)
            product(p, m, p0, p1, x, r, min(r + p->tile_rows, p->n_want), d,
                    p->logits + (first + r) * p->stride + p0 * PANEL, p->stride, r / p->tile_rows);
    }
    meet(p, d);
}

static void step_qkv(struct pass *p, const struct cpu__layer *y, const struct cpu__rows *x, struct desk *d)
{
    int q = cpu__pieces(&y->q, p->threads, p->blas), k = cpu__pieces(&y->k, p->threads, p->blas);
    int v = cpu__pieces(&y->v, p->threads, p->blas);
    cpu__desk_forget(d);
    for (int i; (i = take(p, d)) < q + k + v;) {
        if (i < q)
            cpu__pass_piece(p, &y->q, q, i, x, 0, p->n, d, emit_q);
        else if (i < q + k)
            cpu__pass_piece(p, &y->k, k, i - q, x, 0, p->n, d, emit_k);
        else
            cpu__pass_piece(p, &y->v, v, i - q - k, x, 0, p->n, d, emit_v);
    }
    meet_before(p, d, &y->o);
}

/* gate and up of the same outputs by the same thread, so that silu(gate) * up and, for Q8, whole blocks of it can follow at
 * once.  The last piece may end in half a block: the rest is zeros. */
static void ffn_rows(struct pass *p, const struct cpu__rows *to, int r0, int r1, int o0, int width,
                     const struct desk *d)
{
    const struct kern *k = &p->w->cpu->kern;
    int padded = cpu__round_up(width, Q8_BLOCK);
    for (int r = r0; r < r1; r++) {
        int64_t in = (r - r0) * CPU__TILE_WIDTH, at = r * to->ld + o0, b = at / Q8_BLOCK;
        k->silu_mul(d->out + in, d->second + in, width, to->x + at);
        if (!p->q8)
            continue;
        memset(to->x + at + width, 0, (size_t) (padded - width) * sizeof *to->x);
        k->quantize(to->x + at, padded, to->q + at, to->d + b, to->sum + b);
    }
}

void cpu__pass_ffn(struct pass *p, const struct cpu__ffn *f, int pieces, int i, const struct cpu__rows *x,
                   const struct cpu__rows *to, int r0, int r1, struct desk *d)
{
    const struct cpu__matrix *both[] = {&f->gate, &f->up};
    int p0 = cpu__piece_start(&f->gate, pieces, i), p1 = cpu__piece_start(&f->gate, pieces, i + 1);
    int width = min(p1 * PANEL, f->gate.n) - p0 * PANEL;
    for (int r = r0, end; r < r1; r = end) {
        end = min(r + p->tile_rows, r1);
        for (int j = 0; j < 2; j++) {
            if (p->blas)
                cpu__matmul_widen(both[j], p0, p1, d->weights);
            product(p, both[j], p0, p1, x, r, end, d, j ? d->second : d->out, CPU__TILE_WIDTH,
                    (r - r0) / p->tile_rows);
        }
        ffn_rows(p, to, r, end, p0 * PANEL, width, d);
    }
}

/* next: the matrix that follows. */
static void step_ffn(struct pass *p, const struct cpu__layer *y, const struct cpu__rows *x,
                     const struct cpu__matrix *next, struct desk *d)
{
    int pieces = cpu__pieces(&y->ffn.gate, p->threads, p->blas);
    cpu__desk_forget(d);
    for (int i; (i = take(p, d)) < pieces;)
        cpu__pass_ffn(p, &y->ffn, pieces, i, x, &p->f, 0, p->n, d);
    meet_before(p, d, &y->ffn.down);
    multiply(p, &y->ffn.down, &p->f, p->n, d, emit_residual);
    meet_before(p, d, next);
}

/* --- attention --- */

/* The query heads of one KV head, its key and its value: normed, rotated, rounded, written. */
static void finish_head(struct pass *p, const struct cpu__layer *y, int layer, int r, int h)
{
    const struct kern *kern = &p->w->cpu->kern;
    const struct config *g = &p->w->config;
    const struct cpu_row *row = &p->row[r];
    int hd = g->head_dim;
    const float *c = p->cosines + r * (hd / 2), *s = p->sines + r * (hd / 2);
    for (int i = 0; i < p->group; i++) {
        float *q = p->q + r * p->ldq + (h * p->group + i) * hd;
        kern->rmsnorm(q, y->q_norm, hd, g->rms_eps, q);
        kern->rope(q, hd, c, s);
    }
    float *k = p->k + r * p->ldk + h * hd, *v = p->v + r * p->ldk + h * hd;
    kern->rmsnorm(k, y->k_norm, hd, g->rms_eps, k);
    kern->rope(k, hd, c, s);
    int at = row->pos - row->start;
    if (row->slot >= 0)
        cpu__kv_put_slot(p->kv, row->slot, layer, h, k, v);
    else
        cpu__kv_put_page(p->kv, row->page[at / CPU_PAGE], at % CPU_PAGE, layer, h, k, v);
}

static void step_heads(struct pass *p, const struct cpu__layer *y, int layer, struct desk *d)
{
    int heads = p->w->config.n_kv_heads;
    for (int i; (i = take(p, d)) < p->n * heads;)
        finish_head(p, y, layer, i / heads, i % heads);
    meet(p, d);
}

#ifdef BREAK_TAIL_SLOT_ORDER /* the keys in flight are summed in order of slot number instead of depth */
static void sort_slots(int32_t *slot, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && slot[j] < slot[j - 1]; j--) {
            int32_t t = slot[j];
            slot[j] = slot[j - 1];
            slot[j - 1] = t;
        }
}
#endif

/* Slots of the row's ancestors, oldest first, then its own; returns how many. */
static int tail_of(const struct cpu_row *row, int32_t slot[TREE_MAX])
{
    int n = row->n_tail;
    if (n)
        memcpy(slot, row->tail, (size_t) n * sizeof *slot);
    if (row->slot >= 0)
        slot[n++] = row->slot;
#ifdef BREAK_TAIL_SLOT_ORDER
    sort_slots(slot, n);
#endif
    return n;
}

/* Slots into the desk's list i; returns how many. */
static int gather_tail(struct pass *p, int layer, int r, int h, struct desk *d, int i)
{
    int32_t slot[TREE_MAX];
    int n = tail_of(&p->row[r], slot);
    for (int t = 0; t < n; t++) {
        d->k_tail[i][t] = cpu__kv_slot_k(p->kv, slot[t], layer, h);
        d->v_tail[i][t] = cpu__kv_slot_v(p->kv, slot[t], layer, h);
    }
    return n;
}

/* One KV head of rows [r0, r1), which share their pages. */
static void attend(struct pass *p, int layer, int r0, int r1, int h, struct desk *d)
{
    const struct kern *kern = &p->w->cpu->kern;
    struct attn_job job[ATTEND_ROWS];
    int hd = p->w->config.head_dim, settled = 0;
    for (int r = r0; r < r1; r++) {
        const struct cpu_row *row = &p->row[r];
        int i = r - r0, n_tail = gather_tail(p, layer, r, h, d, i);
        job[i] = (struct attn_job){.q = p->q + r * p->ldq + h * p->group * hd,
                                   .out = p->a.x + r * p->a.ld + h * p->group * hd,
                                   .group = p->group,
                                   .head_dim = hd,
                                   .start = row->start,
                                   .pos = row->pos,
                                   .n_tail = n_tail,
                                   .k_page = d->k_page,
                                   .v_page = d->v_page,
                                   .k_tail = d->k_tail[i],
                                   .v_tail = d->v_tail[i],
                                   .score = d->score + (int64_t) i * p->group * p->score_ld};
        settled = max(settled, keys_of(row) - n_tail);
    }
    for (int i = 0; i * CPU_PAGE < settled; i++) {
        d->k_page[i] = cpu__kv_page_k(p->kv, p->row[r0].page[i], layer, h);
        d->v_page[i] = cpu__kv_page_v(p->kv, p->row[r0].page[i], layer, h);
    }
    if (p->kv->stored == CPU_KV_F32)
        kern->attn_f32(job, r1 - r0);
    else
        kern->attn_bf16(job, r1 - r0);
}

static void step_attend(struct pass *p, const struct cpu__layer *y, int layer, struct desk *d)
{
    int heads = p->w->config.n_kv_heads, width = p->w->config.n_heads * p->w->config.head_dim;
    step_heads(p, y, layer, d);
    for (int i; (i = take(p, d)) < p->n_tasks * heads;) {
        int task = i % p->n_tasks;
        attend(p, layer, p->task[task], p->task[task + 1], i / p->n_tasks, d);
    }
    if (p->q8) {
        meet(p, d);
        for (int r; (r = take(p, d)) < p->n;)
            quantize(p, &p->a, r, width);
    }
    meet_before(p, d, &y->o);
}

/* What one head's attention gives of row r, as the next matrix takes it. */
static void quantize_head(struct pass *p, int r, int h)
{
    int n = p->group * p->w->config.head_dim;
    int64_t at = r * p->a.ld + h * n, b = at / Q8_BLOCK;
    p->w->cpu->kern.quantize(p->a.x + at, n, p->a.q + at, p->a.d + b, p->a.sum + b);
}

/* The same with one barrier instead of three, where there are heads enough for all threads: no row's attention in one head
 * needs another head's keys. */
static void step_attend_by_head(struct pass *p, const struct cpu__layer *y, int layer, struct desk *d)
{
    for (int h; (h = take(p, d)) < p->w->config.n_kv_heads;) {
        for (int r = 0; r < p->n; r++)
            finish_head(p, y, layer, r, h);
        for (int t = 0; t < p->n_tasks; t++)
            attend(p, layer, p->task[t], p->task[t + 1], h, d);
        for (int r = 0; p->q8 && r < p->n; r++)
            quantize_head(p, r, h);
    }
    meet_before(p, d, &y->o);
}

/* How long the scores are and how many rows a task may take. */
static void plan_attention(struct pass *p)
{
    int keys = 0, heads = p->w->config.n_kv_heads;
    for (int r = 0; r < p->n; r++)
        keys = max(keys, keys_of(&p->row[r]));
    p->score_ld = cpu__round_up(keys, 16);
    int by_memory = (int) (ATTEND_BYTES / (sizeof(float) * (size_t) p->group * (size_t) p->score_ld));
    p->by_head =
        p->n <= TREE_MAX && heads >= 2 * p->threads && p->group * p->w->config.head_dim % Q8_BLOCK == 0;
    int by_threads = p->by_head ? ATTEND_ROWS : p->n * heads / (p->threads * ATTEND_TASKS_A_THREAD);
    p->attend_rows = max(1, min(ATTEND_ROWS, min(by_memory, by_threads)));
}

/* Neighbouring rows of one sequence form tasks; needs the scratch that plan_attention measured. */
static void cut_tasks(struct pass *p)
{
    for (int r = 0; r < p->n; r++) {
        const struct cpu_row *row = &p->row[r];
        int first = p->n_tasks ? p->task[p->n_tasks - 1] : 0;
        if (r && r - first < p->attend_rows && row->page == p->row[first].page &&
            row->start == p->row[first].start)
            continue;
        p->task[p->n_tasks++] = r;
    }
    p->task[p->n_tasks] = p->n;
}

/* --- all of it --- */

static void layer_thread(struct pass *p, int l, struct desk *d)
{
    const struct cpu__layer *y = &p->w->layer[l];
    const struct cpu__matrix *next = l + 1 < p->w->config.n_layers ? &p->w->layer[l + 1].q : &p->w->head;
    step_qkv(p, y, norms(p, d, y->attn_norm, NULL, p->n), d);
    (p->by_head ? step_attend_by_head : step_attend)(p, y, l, d);
    multiply(p, &y->o, &p->a, p->n, d, emit_residual);
    if (y->expert) {
        meet(p, d);
        step_norm(p, d, y->ffn_norm, NULL, p->n);
        cpu__pass_experts(p, y, d);
    } else {
        meet_before(p, d, &y->ffn.gate);
        step_ffn(p, y, norms(p, d, y->ffn_norm, NULL, p->n), next, d);
    }
}

static void pass_thread(void *arg, int thread)
{
    struct pass *p = arg;
    struct desk *d = &p->desk[thread];
    d->thread = thread;
    d->begun = 0;
    step_embed(p, d);
    for (int l = 0; l < p->w->config.n_layers; l++)
        layer_thread(p, l, d);
    if (p->n_want)
        step_logits(p, norms(p, d, p->w->norm, p->want, p->n_want), d);
}

int cpu_forward(struct cpu_model *w, struct cpu_kv *kv, const struct cpu_row *row, int n, float *logits,
                int64_t stride, int flags)
{
    if (n == 0)
        return 0;
    struct pass p = {.w = w, .kv = kv, .row = row, .n = n, .logits = logits, .stride = stride};
    p.threads = cpu__pool_threads(w->cpu->pool);
    /* An expert gets too few rows for sgemm to pay. */
    p.blas = (flags & CPU_FORWARD_BLAS) && n >= CPU__BLAS_MIN && !w->config.moe.n_experts;
    p.q8 = w->int_matrices && !p.blas;
    p.tile_rows = p.blas ? CPU__BLAS_ROWS : CPU__TILE_ROWS;
    p.rooms = p.q8 ? min((n + CPU__TILE_ROWS - 1) / CPU__TILE_ROWS, ROOMS) : 0;
    p.group = w->config.n_heads / w->config.n_kv_heads;
    plan_attention(&p);
    int st = cpu__pass_scratch(&p);
    if (st)
        return st;
    cut_tasks(&p);
    for (int r = 0; r < n; r++)
        if (row[r].logits >= 0 && !(flags & CPU_FORWARD_NO_HEAD))
            p.want[p.n_want++] = r;
    cpu__pool_run(w->cpu->pool, pass_thread, &p);
    w->x = p.x;
    w->ldx = p.ldx;
    return 0;
}
