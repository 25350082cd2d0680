/* model.c - a checkpoint directory, opened: every tensor of a dense Qwen3 found, with its exact shape and type.
 *
 * The table below is the architecture.  What it does not name is refused: a bias or a 29th layer that were passed over
 * would change the words without a sign.  Left out on purpose: the lm_head.weight that tied checkpoints store
 * (Qwen3-0.6B does), and the rotary_emb.inv_freq buffers of old files.
 *
 * Matrices have the dtype config.json states (the kernels are chosen by it); norms may be BF16 or F32 beside either. */
#include "model/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/read.h"

enum { HASH_SAMPLE = 4096 }; /* bytes of each tensor's head, middle and tail that enter weights_hash */

/* One tensor a model must have. */
struct want {
    const char *name;
    int64_t rows, cols; /* cols 0: a vector of `rows` */
};

static const char *config_dtype(int type)
{
    return type == TENSOR_BF16 ? "bfloat16" : "float32";
}

static struct model__text shape_text(const int64_t *dim, int n)
{
    struct model__text t;
    int at = snprintf(t.s, sizeof t.s, "[");
    for (int i = 0; i < n && at < (int) sizeof t.s; i++)
        at += snprintf(t.s + at, sizeof t.s - (size_t) at, "%s%" PRId64, i ? ", " : "", dim[i]);
    if (at < (int) sizeof t.s)
        snprintf(t.s + at, sizeof t.s - (size_t) at, "]");
    return t;
}

static int check_shape(const struct model *m, const struct tensor *t, const struct want *w, struct err *e)
{
    int64_t want[2] = {w->rows, w->cols};
    int n = w->cols ? 2 : 1;
    if (t->n_dims == n && memcmp(t->dim, want, (size_t) n * sizeof *want) == 0)
        return 0;
    return err_set(e, ST_FORMAT, "%s/%s: tensor '%s' has shape %s; config.json makes it %s", m->dir, t->file,
                   w->name, shape_text(t->dim, t->n_dims).s, shape_text(want, n).s);
}

static int check_type(struct model *m, const struct tensor *t, const struct want *w, struct err *e)
{
    if (t->type != TENSOR_F32 && t->type != TENSOR_BF16)
        return err_set(e, ST_UNSUPPORTED,
                       "%s/%s: tensor '%s' has dtype %s, which is not served yet; expected F32 or BF16",
                       m->dir, t->file, w->name, t->dtype);
    if (!w->cols)
        return 0;
    const char *stored = config_dtype(t->type);
    if (!m->config.dtype[0])
        strcpy(m->config.dtype, stored);
    if (strcmp(m->config.dtype, stored) != 0)
        return err_set(e, ST_FORMAT,
                       "%s/%s: tensor '%s' has dtype %s; expected %s, like config.json and the embedding",
                       m->dir, t->file, w->name, t->dtype, strcmp(stored, "float32") == 0 ? "BF16" : "F32");
    return 0;
}

static int find(struct model *m, const struct want *w, const struct tensor **out, struct err *e)
{
    const struct tensor *t = safetensors_find(m->tensors, w->name);
    if (!t) {
        int64_t want[2] = {w->rows, w->cols};
        return err_set(e, ST_FORMAT,
                       "%s: tensor '%s' is missing from the safetensors files; expected shape %s", m->dir,
                       w->name, shape_text(want, w->cols ? 2 : 1).s);
    }
    int st = check_shape(m, t, w, e);
    if (!st)
        st = check_type(m, t, w, e);
    *out = t;
    return st;
}

static int find_layer(struct model *m, int i, struct err *e)
{
    const struct config *c = &m->config;
    struct layer_tensors *l = &m->layer[i];
    int64_t q = (int64_t) c->n_heads * c->head_dim, kv = (int64_t) c->n_kv_heads * c->head_dim;
    const struct {
        const struct tensor **out;
        const char *name;
        int64_t rows, cols;
    } list[] = {
        {&l->attn_norm, "input_layernorm", c->hidden, 0},
        {&l->q, "self_attn.q_proj", q, c->hidden},
        {&l->k, "self_attn.k_proj", kv, c->hidden},
        {&l->v, "self_attn.v_proj", kv, c->hidden},
        {&l->q_norm, "self_attn.q_norm", c->head_dim, 0},
        {&l->k_norm, "self_attn.k_norm", c->head_dim, 0},
        {&l->o, "self_attn.o_proj", c->hidden, q},
        {&l->ffn_norm, "post_attention_layernorm", c->hidden, 0},
        {&l->gate, "mlp.gate_proj", c->ffn, c->hidden},
        {&l->up, "mlp.up_proj", c->ffn, c->hidden},
        {&l->down, "mlp.down_proj", c->hidden, c->ffn},
    };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, list[k].name);
        struct want w = {name, list[k].rows, list[k].cols};
        int st = find(m, &w, list[k].out, e);
        if (st)
            return st;
    }
    return 0;
}

static int find_all(struct model *m, struct err *e)
{
    const struct config *c = &m->config;
    const struct want embed = {"model.embed_tokens.weight", c->vocab, c->hidden},
                      norm = {"model.norm.weight", c->hidden, 0},
                      head = {"lm_head.weight", c->vocab, c->hidden};
    int st = find(m, &embed, &m->embed, e);
    m->head = m->embed;
    if (!st)
        st = find(m, &norm, &m->norm, e);
    if (!st && !c->tied)
        st = find(m, &head, &m->head, e);
    for (int i = 0; !st && i < c->n_layers; i++)
        st = find_layer(m, i, e);
    return st;
}

/* --- what else the files hold --- */

static int is_left_out(const struct model *m, const char *name)
{
    const char *suffix = ".rotary_emb.inv_freq";
    size_t n = strlen(name), k = strlen(suffix);
    return (m->config.tied && strcmp(name, "lm_head.weight") == 0) ||
           (n > k && strcmp(name + n - k, suffix) == 0);
}

static int by_address(const void *a, const void *b)
{
    const struct tensor *x = *(const struct tensor *const *) a, *y = *(const struct tensor *const *) b;
    return (x > y) - (x < y);
}

/* Every tensor is one that find_all has found, or one left out on purpose. */
static int check_others(const struct model *m, struct err *e)
{
    enum { PER_LAYER = sizeof(struct layer_tensors) / sizeof(struct tensor *) };
    const struct tensor **used = calloc((size_t) m->config.n_layers * PER_LAYER + 3, sizeof *used);
    size_t n = 0;
    if (!used)
        return err_set(e, ST_NOMEM, "%s: out of memory", m->dir);
    used[n++] = m->embed;
    used[n++] = m->norm;
    used[n++] = m->head;
    memcpy(used + n, m->layer, (size_t) m->config.n_layers * sizeof *m->layer);
    n += (size_t) m->config.n_layers * PER_LAYER;
    qsort(used, n, sizeof *used, by_address);
    int st = 0;
    for (int i = 0; !st && i < safetensors_count(m->tensors); i++) {
        const struct tensor *t = safetensors_at(m->tensors, i);
        if (!bsearch(&t, used, n, sizeof *used, by_address) && !is_left_out(m, t->name))
            st = err_set(
                e, ST_FORMAT,
                "%s/%s: tensor '%s' is no part of the dense Qwen3 of %d layers that config.json describes",
                m->dir, t->file, model__quote(t->name).s, m->config.n_layers);
    }
    free(used);
    return st;
}

/* --- weights_hash: FNV-1a, 64 bits (Fowler, Noll, Vo) --- */

static uint64_t hash_bytes(uint64_t h, const void *p, size_t n)
{
    const unsigned char *b = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

/* Byte order is fixed, so that the hash is the same everywhere. */
static uint64_t hash_int(uint64_t h, uint64_t x)
{
    unsigned char b[8];
    for (int i = 0; i < 8; i++)
        b[i] = (unsigned char) (x >> 8 * i);
    return hash_bytes(h, b, sizeof b);
}

static uint64_t hash_float(uint64_t h, float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return hash_int(h, u);
}

static uint64_t hash_config(uint64_t h, const struct config *c)
{
    const int32_t v[] = {c->n_layers, c->hidden, c->n_heads, c->n_kv_heads, c->head_dim,
                         c->ffn,      c->vocab,  c->ctx_max, c->tied};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        h = hash_int(h, (uint64_t) v[i]);
    return hash_float(hash_float(h, c->rope_theta), c->rms_eps);
}

static uint64_t hash_tensor(uint64_t h, const struct tensor *t)
{
    size_t n = t->bytes < HASH_SAMPLE ? t->bytes : HASH_SAMPLE;
    const unsigned char *p = t->data;
    h = hash_bytes(h, t->name, strlen(t->name) + 1);
    h = hash_bytes(h, t->dtype, strlen(t->dtype) + 1);
    h = hash_int(h, (uint64_t) t->n_dims);
    for (int i = 0; i < t->n_dims; i++)
        h = hash_int(h, (uint64_t) t->dim[i]);
    h = hash_bytes(h, p, n);
    h = hash_bytes(h, p + (t->bytes - n) / 2, n);
    return hash_bytes(h, p + t->bytes - n, n);
}

/* Of what shapes the words: neither the split into files nor a tensor left out changes it. */
static uint64_t hash_model(const struct model *m)
{
    uint64_t h = hash_config(0xcbf29ce484222325u, &m->config);
    for (int i = 0; i < safetensors_count(m->tensors); i++)
        if (!is_left_out(m, safetensors_at(m->tensors, i)->name))
            h = hash_tensor(h, safetensors_at(m->tensors, i));
    return h;
}

static int open_all(struct model *m, const char *dir, struct err *e)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    if (!(m->dir = strndup(dir, n)))
        return err_set(e, ST_NOMEM, "out of memory");
    int st = config_load(&m->config, &m->gen, m->dir, e);
    if (!st)
        st = safetensors_open(&m->tensors, m->dir, e);
    if (st)
        return st;
    m->layer = calloc((size_t) m->config.n_layers, sizeof *m->layer);
    if (!m->layer)
        return err_set(e, ST_NOMEM, "%s: out of memory", m->dir);
    st = find_all(m, e);
    if (!st)
        st = check_others(m, e);
    if (!st)
        m->weights_hash = hash_model(m);
    return st;
}

int model_open(struct model **out, const char *dir, struct err *e)
{
    *out = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(e, ST_NOMEM, "out of memory");
    int st = open_all(m, dir, e);
    if (st) {
        model_close(m);
        return st;
    }
    *out = m;
    return 0;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    safetensors_close(m->tensors);
    free(m->layer);
    free(m->dir);
    free(m);
}
