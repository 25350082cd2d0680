/* weights.c - a model's matrices, packed; its norms and rotation frequencies, as floats. */
#include "cpu/cache.h"
#include "cpu/inside.h"
#include "cpu/math.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROPE_POSITIONS =
        4096, /* 2 MiB at 128 dimensions a head; a draft's row would spend a tenth of its time on sines */
    ROPE_PIECE = 64, /* that a thread takes at a time */
};

/* --- precisions --- */

static const char *const quant_names[] = {"f32", "bf16", "q8", "f16", "q4", "stored"};

const char *cpu_quant_name(int quant)
{
    return quant_names[quant];
}

int cpu_quant_find(const char *name)
{
    for (int i = 0; i <= CPU_QUANT_STORED; i++)
        if (strcmp(name, quant_names[i]) == 0)
            return i;
    return -1;
}

int cpu_quant_of(int tensor_type)
{
    switch (tensor_type) {
    case TENSOR_F32:
        return CPU_QUANT_F32;
    case TENSOR_BF16:
        return CPU_QUANT_BF16;
    case TENSOR_F16:
        return CPU_QUANT_F16;
    case TENSOR_Q4_0:
        return CPU_QUANT_Q4;
    default:
        return CPU_QUANT_Q8;
    }
}

/* How many matrices of each type a pass multiplies by; routers, which stay float, left out. */
static void count_types(const struct model *m, int count[TENSOR_OTHER + 1])
{
    memset(count, 0, (TENSOR_OTHER + 1) * sizeof *count);
    count[m->head->type]++;
    for (int l = 0; l < m->config.n_layers; l++) {
        const struct layer_tensors *y = &m->layer[l];
        const struct tensor *all[] = {y->q, y->k, y->v, y->o, y->gate, y->up, y->down};
        for (int i = 0; i < (y->router ? 4 : 7); i++)
            count[all[i]->type]++;
        for (int e = 0; y->router && e < m->config.moe.n_experts; e++) {
            count[y->expert[e].gate->type]++;
            count[y->expert[e].up->type]++;
            count[y->expert[e].down->type]++;
        }
    }
}

int cpu_quant_stored(const struct model *m)
{
    int count[TENSOR_OTHER + 1], one = cpu_quant_of(m->head->type);
    count_types(m, count);
    for (int i = 0; i <= TENSOR_OTHER; i++)
        if (count[i] && cpu_quant_of(i) != one)
            return CPU_QUANT_STORED;
    return one;
}

void cpu_quant_describe(const struct model *m, int quant, char *text, size_t bytes)
{
    int count[TENSOR_OTHER + 1];
    size_t at = 0;
    count_types(m, count);
    text[0] = 0;
    for (int i = 0; i <= TENSOR_OTHER && at < bytes; i++) {
        int kept = quant == CPU_QUANT_STORED ? cpu_quant_of(i) : quant;
        if (count[i])
            at += (size_t) snprintf(text + at, bytes - at, "%s%d of %s as %s", at ? ", " : "", count[i],
                                    tensor_type_name(i), cpu_quant_name(kept));
    }
}

/* --- open --- */

static int read_norm(float **out, const struct tensor *t, struct err *e)
{
    if (t->type != TENSOR_F32 && t->type != TENSOR_BF16 && t->type != TENSOR_F16)
        return err_set(e, ST_UNSUPPORTED, "%s: tensor %s is %s; expected F32, BF16 or F16", t->file, t->name,
                       t->dtype);
    *out = malloc((size_t) t->dim[0] * sizeof **out);
    if (!*out)
        return err_set(e, ST_NOMEM, "no memory for %s", t->name);
    cpu_tensor_row(t, 0, *out);
    return 0;
}

/* --- every matrix, in the order of the block --- */

/* Counts only, while there is no list. */
static void list(struct cpu_model *w, struct cpu__matrix *m, const struct tensor *t, int quant)
{
    struct cpu__item *i = w->item ? &w->item[w->n_items] : NULL;
    w->n_items++;
    if (!i)
        return;
    *i = (struct cpu__item){.m = m, .t = t, .at = w->panels.bytes};
    cpu__matrix_plan(m, t, quant);
    w->panels.bytes += (cpu__matrix_bytes(m) + 63) / 64 * 64;
    w->int_matrices |= cpu__quant_is_int(m->quant);
}

static void list_ffn(struct cpu_model *w, struct cpu__ffn *f, const struct tensor *gate,
                     const struct tensor *up, const struct tensor *down)
{
    list(w, &f->gate, gate, w->quant);
    list(w, &f->up, up, w->quant);
    list(w, &f->down, down, w->quant);
}

static void list_layer(struct cpu_model *w, int l)
{
    const struct layer_tensors *t = &w->model->layer[l];
    struct cpu__layer *y = &w->layer[l];
    list(w, &y->q, t->q, w->quant);
    list(w, &y->k, t->k, w->quant);
    list(w, &y->v, t->v, w->quant);
    list(w, &y->o, t->o, w->quant);
    if (!t->router) {
        list_ffn(w, &y->ffn, t->gate, t->up, t->down);
        return;
    }
    list(w, &y->router, t->router, CPU_QUANT_F32);
    for (int i = 0; i < w->config.moe.n_experts; i++) {
        struct cpu__ffn *f = &y->expert[i];
        list_ffn(w, f, t->expert[i].gate, t->expert[i].up, t->expert[i].down);
        w->float_experts |= !cpu__quant_is_int(f->gate.quant) || !cpu__quant_is_int(f->up.quant) ||
                            !cpu__quant_is_int(f->down.quant);
    }
}

static void list_all(struct cpu_model *w)
{
    w->n_items = w->float_experts = 0;
    for (int l = 0; l < w->config.n_layers; l++)
        list_layer(w, l);
    list(w, &w->head, w->model->head, w->quant);
}

static int open_list(struct cpu_model *w, struct err *e)
{
    list_all(w);
    w->item = calloc((size_t) w->n_items, sizeof *w->item);
    if (!w->item)
        return err_set(e, ST_NOMEM, "no memory for %d matrices", w->n_items);
    list_all(w);
    return 0;
}

static void put_places(struct cpu_model *w)
{
    for (int i = 0; i < w->n_items; i++)
        w->item[i].m->w = w->panels.base + w->item[i].at;
}

/* source: (n_items) sums of what is packed; NULL: not wanted. */
static int pack_all(struct cpu_model *w, uint64_t *source, struct err *e)
{
    int st = cpu__panels_new(&w->panels, w->panels.bytes, e);
    if (!st)
        put_places(w);
    for (int i = 0; i < w->n_items && !st; i++)
        st = cpu__matrix_fill(w->item[i].m, w->cpu, w->item[i].t, source ? &source[i] : NULL, e);
    return st;
}

/* From the pack cache, or packed and then kept there. */
static int open_panels(struct cpu_model *w, const char *dir, struct err *e)
{
    struct cpu__cache_want want = {dir, w->model, w->item, w->n_items, w->panels.bytes, w->quant};
    for (int i = 0; i < w->n_items; i++)
        cpu__matrix_let_go(w->item[i].t); /* of which weights_hash took samples, a large page each time */
    if (dir && cpu__cache_load(&w->panels, w->cpu, &want)) {
        put_places(w);
        return 0;
    }
    uint64_t *source = dir ? malloc((size_t) w->n_items * sizeof *source) : NULL;
    int st = pack_all(w, source, e);
    if (!st && source)
        w->writer = cpu__cache_save(&want, &w->panels, source);
    free(source);
    return st;
}

static int open_layer(struct cpu_model *w, int l, struct err *e)
{
    const struct layer_tensors *t = &w->model->layer[l];
    struct cpu__layer *y = &w->layer[l];
    int st = read_norm(&y->attn_norm, t->attn_norm, e);
    if (st == 0)
        st = read_norm(&y->q_norm, t->q_norm, e);
    if (st == 0)
        st = read_norm(&y->k_norm, t->k_norm, e);
    if (st == 0)
        st = read_norm(&y->ffn_norm, t->ffn_norm, e);
    if (st || !t->router)
        return st;
    y->expert = calloc((size_t) w->config.moe.n_experts, sizeof *y->expert);
    return y->expert ? 0 : err_set(e, ST_NOMEM, "no memory for %d experts", w->config.moe.n_experts);
}

/* A tenth of a start from the pack cache, if one thread does it. */
static void rope_thread(void *arg, int thread)
{
    struct cpu_model *w = arg;
    int half = w->config.head_dim / 2;
    (void) thread;
    for (int i; (i = cpu__pool_claim(w->cpu->pool)) * ROPE_PIECE < w->rope_positions;)
        for (int pos = i * ROPE_PIECE; pos < (i + 1) * ROPE_PIECE && pos < w->rope_positions; pos++)
            cpu__rope_angles(w->inv_freq, half, pos, w->rope_factor,
                             w->cosines + (size_t) pos * (size_t) half,
                             w->sines + (size_t) pos * (size_t) half);
}

static int open_rope(struct cpu_model *w, struct err *e)
{
    const struct config *g = &w->config;
    int half = g->head_dim / 2, n = g->ctx_max < ROPE_POSITIONS ? g->ctx_max : ROPE_POSITIONS;
    size_t floats = (size_t) n * (size_t) half;
    w->inv_freq = malloc((size_t) half * sizeof *w->inv_freq);
    w->cosines = malloc(floats * sizeof *w->cosines);
    w->sines = malloc(floats * sizeof *w->sines);
    if (!w->inv_freq || !w->cosines || !w->sines)
        return err_set(e, ST_NOMEM, "no memory for the angles of %d positions", n);
    w->rope_positions = n;
    cpu__rope_freqs(g, w->inv_freq);
    w->rope_factor = g->yarn.factor > 0 ? g->yarn.attention_factor : 1;
    cpu__pool_run(w->cpu->pool, rope_thread, w);
    return 0;
}

static int open_all(struct cpu_model *w, const char *dir, struct err *e)
{
    const struct config *g = &w->config;
    w->layer = calloc((size_t) g->n_layers, sizeof *w->layer);
    if (!w->layer)
        return err_set(e, ST_NOMEM, "no memory for %d layers", g->n_layers);
    int st = open_rope(w, e);
    if (st == 0)
        st = read_norm(&w->norm, w->model->norm, e);
    for (int l = 0; l < g->n_layers && st == 0; l++)
        st = open_layer(w, l, e);
    if (st == 0)
        st = open_list(w, e);
    return st ? st : open_panels(w, dir, e);
}

int cpu_model_open(struct cpu_model **out, struct cpu *c, const struct model *m, int quant, struct err *e)
{
    return cpu_model_open_cached(out, c, m, quant, NULL, e);
}

int cpu_model_open_cached(struct cpu_model **out, struct cpu *c, const struct model *m, int quant,
                          const char *dir, struct err *e)
{
    *out = NULL;
    struct cpu_model *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(e, ST_NOMEM, "no memory for a model");
    w->cpu = c;
    w->model = m;
    w->config = m->config;
    w->quant = quant;
    int st = open_all(w, dir, e);
    if (st) {
        cpu_model_close(w);
        return st;
    }
    *out = w;
    return 0;
}

static void close_layer(struct cpu__layer *y)
{
    free(y->attn_norm);
    free(y->q_norm);
    free(y->k_norm);
    free(y->ffn_norm);
    free(y->expert);
}

void cpu_model_close(struct cpu_model *w)
{
    if (!w)
        return;
    for (int l = 0; w->layer && l < w->config.n_layers; l++)
        close_layer(&w->layer[l]);
    free(w->layer);
    cpu__cache_stop(w->writer);
    cpu__panels_free(&w->panels);
    free(w->item);
    free(w->norm);
    free(w->inv_freq);
    free(w->cosines);
    free(w->sines);
    free(w->scratch);
    free(w->head_scratch);
    free(w);
}

enum { PER_EXPERT = 3 };

/* A row's experts are some of all, which have one size unless the file says otherwise of some. */
static size_t expert_bytes(const struct moe *g, const struct cpu__layer *y)
{
    size_t all = 0;
    for (int i = 0; i < g->n_experts; i++) {
        const struct cpu__ffn *f = &y->expert[i];
        const struct cpu__matrix *m[PER_EXPERT] = {&f->gate, &f->up, &f->down};
        for (int j = 0; j < PER_EXPERT; j++)
            all += cpu__matrix_bytes(m[j]);
    }
    return all / (size_t) g->n_experts * (size_t) g->n_used;
}

size_t cpu_head_bytes(const struct cpu_model *w)
{
    return cpu__matrix_bytes(&w->head);
}

size_t cpu_model_bytes(const struct cpu_model *w)
{
    size_t sum = cpu__matrix_bytes(&w->head);
    for (int l = 0; l < w->config.n_layers; l++) {
        const struct cpu__layer *y = &w->layer[l];
        const struct cpu__matrix *m[] = {&y->q,        &y->k,      &y->v,        &y->o,
                                         &y->ffn.gate, &y->ffn.up, &y->ffn.down, &y->router};
        for (size_t i = 0; i < sizeof m / sizeof *m; i++)
            sum += cpu__matrix_bytes(m[i]);
        if (y->expert)
            sum += expert_bytes(&w->config.moe, y);
    }
    return sum;
}
