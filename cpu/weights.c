/* weights.c - a model's matrices, packed; its norms and rotation frequencies, as floats. */
#include "cpu/inside.h"
#include "cpu/math.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROPE_POSITIONS = 4096
}; /* 2 MiB at 128 dimensions a head; a draft's row would spend a tenth of its time on sines */

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
    cpu__tensor_row(t, 0, *out);
    return 0;
}

static int pack(struct cpu_model *w, struct cpu__matrix *to, const struct tensor *from, struct err *e)
{
    int st = cpu__matrix_pack(to, w->cpu, from, w->quant, e);
    w->int_matrices |= cpu__quant_is_int(to->quant);
    return st;
}

static int open_dense(struct cpu_model *w, struct cpu__ffn *f, const struct layer_tensors *t, struct err *e)
{
    int st = pack(w, &f->gate, t->gate, e);
    if (st == 0)
        st = pack(w, &f->up, t->up, e);
    if (st == 0)
        st = pack(w, &f->down, t->down, e);
    return st;
}

enum { PER_EXPERT = 3 };

static void expert_matrices(struct cpu__ffn *f, struct cpu__matrix *m[PER_EXPERT])
{
    m[0] = &f->gate;
    m[1] = &f->up;
    m[2] = &f->down;
}

/* Sizes of all experts of a layer, then their places in one block. */
static int place_experts(struct cpu_model *w, struct cpu__layer *y, const struct layer_tensors *t,
                         struct err *e)
{
    struct cpu__matrix *m[PER_EXPERT];
    size_t bytes = 0;
    int n = w->config.moe.n_experts;
    y->expert = calloc((size_t) n, sizeof *y->expert);
    if (!y->expert)
        return err_set(e, ST_NOMEM, "no memory for %d experts", n);
    for (int i = 0; i < n; i++) {
        cpu__matrix_plan(&y->expert[i].gate, t->expert[i].gate, w->quant);
        cpu__matrix_plan(&y->expert[i].up, t->expert[i].up, w->quant);
        cpu__matrix_plan(&y->expert[i].down, t->expert[i].down, w->quant);
        expert_matrices(&y->expert[i], m);
        for (int j = 0; j < PER_EXPERT; j++)
            bytes += cpu__matrix_bytes(m[j]);
    }
    y->experts = cpu__pages_new(bytes);
    if (!y->experts)
        return err_set(e, ST_NOMEM, "no memory for %zu bytes of experts; a smaller precision needs less",
                       bytes);
    char *at = y->experts;
    for (int i = 0; i < n; i++) {
        expert_matrices(&y->expert[i], m);
        for (int j = 0; j < PER_EXPERT; j++) {
            m[j]->w = at;
            at += cpu__matrix_bytes(m[j]);
        }
    }
    return 0;
}

static int open_experts(struct cpu_model *w, struct cpu__layer *y, const struct layer_tensors *t,
                        struct err *e)
{
    int st = cpu__matrix_pack(&y->router, w->cpu, t->router, CPU_QUANT_F32, e);
    if (st == 0)
        st = place_experts(w, y, t, e);
    for (int i = 0; i < w->config.moe.n_experts && st == 0; i++) {
        const struct tensor *from[PER_EXPERT] = {t->expert[i].gate, t->expert[i].up, t->expert[i].down};
        struct cpu__matrix *m[PER_EXPERT];
        expert_matrices(&y->expert[i], m);
        for (int j = 0; j < PER_EXPERT && st == 0; j++) {
            st = cpu__matrix_fill(m[j], w->cpu, from[j], e);
            w->int_matrices |= cpu__quant_is_int(m[j]->quant);
            w->float_experts |= !cpu__quant_is_int(m[j]->quant);
        }
    }
    return st;
}

static int open_layer(struct cpu_model *w, int l, struct err *e)
{
    const struct layer_tensors *t = &w->model->layer[l];
    struct cpu__layer *y = &w->layer[l];
    struct {
        struct cpu__matrix *to;
        const struct tensor *from;
    } matrix[] = {{&y->q, t->q}, {&y->k, t->k}, {&y->v, t->v}, {&y->o, t->o}};
    int st = read_norm(&y->attn_norm, t->attn_norm, e);
    if (st == 0)
        st = read_norm(&y->q_norm, t->q_norm, e);
    if (st == 0)
        st = read_norm(&y->k_norm, t->k_norm, e);
    if (st == 0)
        st = read_norm(&y->ffn_norm, t->ffn_norm, e);
    for (size_t i = 0; i < sizeof matrix / sizeof *matrix && st == 0; i++)
        st = pack(w, matrix[i].to, matrix[i].from, e);
    if (st)
        return st;
    return t->router ? open_experts(w, y, t, e) : open_dense(w, &y->ffn, t, e);
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
    for (int pos = 0; pos < n; pos++)
        cpu__rope_angles(w->inv_freq, half, pos, w->rope_factor, w->cosines + (size_t) pos * (size_t) half,
                         w->sines + (size_t) pos * (size_t) half);
    return 0;
}

static int open_all(struct cpu_model *w, struct err *e)
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
        st = pack(w, &w->head, w->model->head, e);
    return st;
}

int cpu_model_open(struct cpu_model **out, struct cpu *c, const struct model *m, int quant, struct err *e)
{
    *out = NULL;
    struct cpu_model *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(e, ST_NOMEM, "no memory for a model");
    w->cpu = c;
    w->model = m;
    w->config = m->config;
    w->quant = quant;
    int st = open_all(w, e);
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
    free(y->experts);
    struct cpu__matrix *m[] = {&y->q,        &y->k,      &y->v,        &y->o,
                               &y->ffn.gate, &y->ffn.up, &y->ffn.down, &y->router};
    for (size_t i = 0; i < sizeof m / sizeof *m; i++)
        cpu__matrix_free(m[i]);
}

void cpu_model_close(struct cpu_model *w)
{
    if (!w)
        return;
    for (int l = 0; w->layer && l < w->config.n_layers; l++)
        close_layer(&w->layer[l]);
    free(w->layer);
    cpu__matrix_free(&w->head);
    free(w->norm);
    free(w->inv_freq);
    free(w->cosines);
    free(w->sines);
    free(w->scratch);
    free(w);
}

/* A row's experts are some of all, which have one size unless the file says otherwise of some. */
static size_t expert_bytes(const struct moe *g, const struct cpu__layer *y)
{
    size_t all = 0;
    for (int i = 0; i < g->n_experts; i++) {
        struct cpu__matrix *m[PER_EXPERT];
        expert_matrices(&y->expert[i], m);
        for (int j = 0; j < PER_EXPERT; j++)
            all += cpu__matrix_bytes(m[j]);
    }
    return all / (size_t) g->n_experts * (size_t) g->n_used;
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
