/* weights.c - a model's matrices, packed; its norms and rotation frequencies, as floats. */
#include "cpu/inside.h"
#include "cpu/math.h"

#include <stdlib.h>

enum {
    ROPE_POSITIONS = 4096
}; /* 2 MiB at 128 dimensions a head; a draft's row would spend a tenth of its time on sines */

int cpu_quant_stored(const struct model *m)
{
    return m->layer[0].q->type == TENSOR_BF16 ? CPU_QUANT_BF16 : CPU_QUANT_F32;
}

static int read_norm(float **out, const struct tensor *t, struct err *e)
{
    if (t->type != TENSOR_F32 && t->type != TENSOR_BF16 && t->type != TENSOR_F16)
        return err_set(e, ST_UNSUPPORTED, "%s: tensor %s is %s; expected F32, BF16 or F16", t->file, t->name,
                       t->dtype);
    *out = malloc((size_t) t->dim[0] * sizeof **out);
    if (!*out)
        return err_set(e, ST_NOMEM, "no memory for %s", t->name);
    cpu__tensor_read(t, 0, (int) t->dim[0], *out);
    return 0;
}

static int open_layer(struct cpu_model *w, int l, struct err *e)
{
    const struct layer_tensors *t = &w->model->layer[l];
    struct cpu__layer *y = &w->layer[l];
    struct {
        struct cpu__matrix *to;
        const struct tensor *from;
    } matrix[] = {{&y->q, t->q},       {&y->k, t->k},   {&y->v, t->v},      {&y->o, t->o},
                  {&y->gate, t->gate}, {&y->up, t->up}, {&y->down, t->down}};
    int st = read_norm(&y->attn_norm, t->attn_norm, e);
    if (st == 0)
        st = read_norm(&y->q_norm, t->q_norm, e);
    if (st == 0)
        st = read_norm(&y->k_norm, t->k_norm, e);
    if (st == 0)
        st = read_norm(&y->ffn_norm, t->ffn_norm, e);
    for (size_t i = 0; i < sizeof matrix / sizeof *matrix && st == 0; i++)
        st = cpu__matrix_pack(matrix[i].to, w->cpu, matrix[i].from, w->quant, e);
    return st;
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
    cpu__rope_freqs(g->rope_theta, g->head_dim, w->inv_freq);
    for (int pos = 0; pos < n; pos++)
        cpu__rope_angles(w->inv_freq, half, pos, w->cosines + (size_t) pos * (size_t) half,
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
        st = cpu__matrix_pack(&w->head, w->cpu, w->model->head, w->quant, e);
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
    struct cpu__matrix *m[] = {&y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down};
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

size_t cpu_model_bytes(const struct cpu_model *w)
{
    size_t sum = cpu__matrix_bytes(&w->head);
    for (int l = 0; l < w->config.n_layers; l++) {
        const struct cpu__layer *y = &w->layer[l];
        const struct cpu__matrix *m[] = {&y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down};
        for (size_t i = 0; i < sizeof m / sizeof *m; i++)
            sum += cpu__matrix_bytes(m[i]);
    }
    return sum;
}
