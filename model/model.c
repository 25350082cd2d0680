/* model.c - a checkpoint, opened: every tensor of a Qwen3 found, with its exact shape and type.
 *
 * The tables below are the architecture, in the spelling of Hugging Face and of GGUF.  What they do not name is refused: a bias
 * or a 29th layer that were passed over would change the words without a sign.  Left out on purpose: the lm_head.weight that
 * tied checkpoints store (Qwen3-0.6B does), and the rotary_emb.inv_freq buffers of old files.
 *
 * GGUF stacks the experts of a layer in one tensor; each expert becomes a view of its part, so that nobody else need know. */
#include "model/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/parts.h"
#include "model/read.h"
#include "model/source.h"

enum { HASH_SAMPLE = 4096 }; /* bytes of each tensor's head, middle and tail that enter weights_hash */

/* One tensor a model must have. */
struct want {
    int role;         /* enum part_role */
    const char *name; /* in the files' spelling */
    int n_dims;
    int64_t dim[3];
};

/* A model being opened. */
struct opening {
    struct model *m;
    unsigned char *used; /* owns; (m->n_tensors), 1: found */
    int stacked;         /* 1: names are GGUF's, and experts are stacked */
    struct err *e;
};

/* The file a tensor lies in, for sentences. */
struct place {
    char s[300];
};

static struct place place_of(const struct model *m, const struct tensor *t)
{
    struct place p;
    if (m->safetensors)
        snprintf(p.s, sizeof p.s, "%.200s/%.90s", m->dir, t->file);
    else
        snprintf(p.s, sizeof p.s, "%.290s", m->dir);
    return p;
}

static const char *source_of_shapes(const struct model *m)
{
    return m->gguf ? "the metadata" : "config.json";
}

static const char *config_dtype(int type)
{
    return type == TENSOR_BF16 ? "bfloat16" : type == TENSOR_F16 ? "float16" : "float32";
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

static int check_shape(const struct opening *o, const struct tensor *t, const struct want *w)
{
    if (t->n_dims == w->n_dims && memcmp(t->dim, w->dim, (size_t) w->n_dims * sizeof *w->dim) == 0)
        return 0;
    return err_set(o->e, ST_FORMAT, "%s: tensor '%s' has shape %s; %s makes it %s", place_of(o->m, t).s,
                   w->name, shape_text(t->dim, t->n_dims).s, source_of_shapes(o->m),
                   shape_text(w->dim, w->n_dims).s);
}

/* --- types --- */

static int is_plain(int type)
{
    return type == TENSOR_F32 || type == TENSOR_BF16 || type == TENSOR_F16;
}

static int wrong_type(const struct opening *o, const struct tensor *t, const char *expected)
{
    return err_set(o->e, ST_UNSUPPORTED,
                   "%s: tensor '%s' has dtype %s, which is not served here; expected %s", place_of(o->m, t).s,
                   model__quote(t->name).s, t->dtype, expected);
}

/* One factor a block of 128 x 128, rounded up. */
static int check_scale(const struct opening *o, const struct tensor *t)
{
    const struct tensor *s = t->scale;
    int64_t want[2] = {(t->dim[0] + TENSOR_SCALE_BLOCK - 1) / TENSOR_SCALE_BLOCK,
                       (t->dim[1] + TENSOR_SCALE_BLOCK - 1) / TENSOR_SCALE_BLOCK};
    if (!s)
        return err_set(o->e, ST_FORMAT,
                       "%s: tensor '%s' is F8_E4M3, but '%s_scale_inv' is missing; expected shape %s",
                       place_of(o->m, t).s, t->name, t->name, shape_text(want, 2).s);
    if (s->type != TENSOR_F32 && s->type != TENSOR_BF16)
        return wrong_type(o, s, "F32 or BF16");
    if (s->n_dims != 2 || memcmp(s->dim, want, sizeof want) != 0)
        return err_set(o->e, ST_FORMAT, "%s: tensor '%s' has shape %s; its weights of shape %s make it %s",
                       place_of(o->m, s).s, s->name, shape_text(s->dim, s->n_dims).s, shape_text(t->dim, 2).s,
                       shape_text(want, 2).s);
    o->used[s - o->m->tensor] = 1;
    return 0;
}

/* Matrices of safetensors have one dtype, config.json's, but for FP8. */
static int check_dtype(const struct opening *o, const struct tensor *t)
{
    struct config *c = &o->m->config;
    const char *stored = config_dtype(t->type);
    if (!c->dtype[0])
        strcpy(c->dtype, stored);
    if (strcmp(c->dtype, stored) == 0)
        return 0;
    return err_set(o->e, ST_FORMAT,
                   "%s: tensor '%s' has dtype %s; expected %s, like config.json and the embedding",
                   place_of(o->m, t).s, t->name, t->dtype,
                   strcmp(c->dtype, "float32") == 0   ? "F32"
                   : strcmp(c->dtype, "float16") == 0 ? "F16"
                                                      : "BF16");
}

static int check_type(const struct opening *o, const struct tensor *t, int role)
{
    const struct model *m = o->m;
    int fp8 = t->type == TENSOR_F8_E4M3 && role == PART_LINEAR;
    if (role == PART_NORM || role == PART_ROUTER)
        return is_plain(t->type) ? 0 : wrong_type(o, t, "F32, BF16 or F16");
    if (o->stacked)
        return 0; /* gguf.c takes no type that is not served */
    if (fp8 && m->config.fp8)
        return check_scale(o, t);
    if (fp8)
        return err_set(o->e, ST_FORMAT,
                       "%s: tensor '%s' is F8_E4M3, but config.json has no quantization_config of FP8",
                       place_of(m, t).s, t->name);
    if (is_plain(t->type))
        return check_dtype(o, t);
    return wrong_type(o, t, role == PART_LINEAR ? "F32, BF16, F16 or F8_E4M3" : "F32, BF16 or F16");
}

static int find(struct opening *o, const struct want *w, const struct tensor **out)
{
    const struct model *m = o->m;
    const struct tensor *t = tensor_find(m->tensor, m->n_tensors, w->name);
    if (!t)
        return err_set(o->e, ST_FORMAT, "%s: tensor '%s' is missing%s; expected shape %s", m->dir, w->name,
                       m->safetensors ? " from the safetensors files" : "", shape_text(w->dim, w->n_dims).s);
    int st = check_shape(o, t, w);
    if (!st)
        st = check_type(o, t, w->role);
    o->used[t - m->tensor] = 1;
    *out = t;
    return st;
}

/* --- the architecture --- */

/* The pointer of part p in struct x. */
static const struct tensor **slot(void *x, const struct part *p)
{
    return (const struct tensor **) ((char *) x + p->at);
}

static int find_part(struct opening *o, const struct part *p, int layer, int expert, void *into)
{
    struct part_name name = o->stacked ? part_name_gguf(p, layer) : part_name_hf(p, layer, expert);
    struct want w = {p->role, name.s, p->cols ? 2 : 1, {p->rows, p->cols}};
    return find(o, &w, slot(into, p));
}

/* Expert j of a stack: its rows and columns, nothing copied. */
static struct tensor slice(const struct tensor *stack, int j)
{
    struct tensor t = *stack;
    t.bytes = stack->bytes / (size_t) stack->dim[0];
    t.data = (const unsigned char *) stack->data + (size_t) j * t.bytes;
    t.n_dims = 2;
    t.dim[0] = stack->dim[1];
    t.dim[1] = stack->dim[2];
    t.dim[2] = 0;
    return t;
}

/* One matrix of all experts; view: (n_experts). */
static int find_stack(struct opening *o, const struct part *p, int layer, struct tensor *view,
                      struct expert_tensors *x)
{
    const struct tensor *stack;
    int n = o->m->config.moe.n_experts;
    struct part_name name = part_name_gguf(p, layer);
    struct want w = {p->role, name.s, 3, {n, p->rows, p->cols}};
    int st = find(o, &w, &stack);
    for (int j = 0; !st && j < n; j++) {
        view[j] = slice(stack, j);
        *slot(&x[j], p) = &view[j];
    }
    return st;
}

static int find_experts(struct opening *o, int layer)
{
    struct model *m = o->m;
    size_t n = (size_t) m->config.moe.n_experts;
    struct expert_tensors *x = &m->expert[(size_t) layer * n];
    struct part p[PARTS_EXPERT];
    int st = 0;
    parts_of_expert(&m->config, p);
    for (size_t k = 0; !st && k < PARTS_EXPERT; k++) {
        if (o->stacked)
            st = find_stack(o, &p[k], layer, &m->view[((size_t) layer * PARTS_EXPERT + k) * n], x);
        for (size_t j = 0; !st && !o->stacked && j < n; j++)
            st = find_part(o, &p[k], layer, (int) j, &x[j]);
    }
    m->layer[layer].expert = x;
    return st;
}

static int find_layer(struct opening *o, int layer)
{
    struct part p[PARTS_LAYER_MAX];
    int n = parts_of_layer(&o->m->config, layer, p), st = 0;
    for (int k = 0; !st && k < n; k++)
        st = find_part(o, &p[k], layer, -1, &o->m->layer[layer]);
    return st || !parts_has_experts(&o->m->config, layer) ? st : find_experts(o, layer);
}

static int find_all(struct opening *o)
{
    struct model *m = o->m;
    struct part p[PARTS_MODEL_MAX];
    int n = parts_of_model(&m->config, p), st = 0;
    for (int k = 0; !st && k < n; k++)
        st = find_part(o, &p[k], -1, -1, m);
    if (m->config.tied)
        m->head = m->embed;
    for (int i = 0; !st && i < m->config.n_layers; i++)
        st = find_layer(o, i);
    return st;
}

/* --- what else the files hold --- */

int model_leaves_out(const struct model *m, const struct tensor *t)
{
    const char *suffix = ".rotary_emb.inv_freq";
    size_t n = strlen(t->name), k = strlen(suffix);
    return m->safetensors && ((m->config.tied && strcmp(t->name, "lm_head.weight") == 0) ||
                              (n > k && strcmp(t->name + n - k, suffix) == 0));
}

/* Every tensor is one that find_all has found, or one left out on purpose. */
static int check_others(const struct opening *o)
{
    const struct model *m = o->m;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensor[i];
        if (!o->used[i] && !model_leaves_out(m, t))
            return err_set(
                o->e, ST_FORMAT, "%s: tensor '%s' is no part of the %s Qwen3 of %d layers that %s describes",
                place_of(m, t).s, model__quote(t->name).s, m->config.moe.n_experts ? "MoE" : "dense",
                m->config.n_layers, source_of_shapes(m));
    }
    return 0;
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

static uint64_t hash_yarn(uint64_t h, const struct yarn *y)
{
    const float v[] = {y->factor, y->beta_fast, y->beta_slow, y->attention_factor};
    h = hash_bytes(h, "yarn", 5);
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        h = hash_float(h, v[i]);
    return hash_int(hash_int(h, (uint64_t) y->original_ctx), (uint64_t) y->truncate);
}

static uint64_t hash_moe(uint64_t h, const struct moe *x, int n_layers)
{
    const int32_t v[] = {x->n_experts, x->n_used, x->ffn, x->norm_topk};
    h = hash_bytes(h, "moe", 4);
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        h = hash_int(h, (uint64_t) v[i]);
    return hash_bytes(h, x->layer, (size_t) n_layers);
}

/* YaRN and experts enter only where there are any: the hash of a plain dense model is what it was before they were served. */
static uint64_t hash_config(uint64_t h, const struct config *c)
{
    const int32_t v[] = {c->n_layers, c->hidden, c->n_heads, c->n_kv_heads, c->head_dim,
                         c->ffn,      c->vocab,  c->ctx_max, c->tied};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        h = hash_int(h, (uint64_t) v[i]);
    h = hash_float(hash_float(h, c->rope_theta), c->rms_eps);
    h = c->yarn.factor > 0 ? hash_yarn(h, &c->yarn) : h;
    return c->moe.n_experts ? hash_moe(h, &c->moe, c->n_layers) : h;
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
    for (int i = 0; i < m->n_tensors; i++)
        if (!model_leaves_out(m, &m->tensor[i]))
            h = hash_tensor(h, &m->tensor[i]);
    return h;
}

/* --- stamp: what the system says of the files --- */

static void stamp_file(struct model *m, const struct model__file *f)
{
    const struct model__stamp *s = &f->stamp;
    const uint64_t v[] = {s->device, s->inode, s->bytes, (uint64_t) s->modified_ns, (uint64_t) s->changed_ns};
    if (!f->mapped)
        return;
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        m->stamp = hash_int(m->stamp, v[i]);
    m->changed_ns = s->changed_ns > m->changed_ns ? s->changed_ns : m->changed_ns;
}

static void stamp_files(struct model *m)
{
    int n = m->safetensors ? safetensors__n_files(m->safetensors) : m->gguf != NULL;
    for (int i = 0; i < n; i++)
        stamp_file(m, m->gguf ? gguf__file(m->gguf) : safetensors__file(m->safetensors, i));
}

/* --- opening --- */

static int open_directory(struct model *m, const char *dir, struct err *e)
{
    int st = config_load(&m->config, &m->gen, dir, e);
    if (!st)
        st = safetensors_open(&m->safetensors, dir, e);
    if (st)
        return st;
    m->tensor = safetensors_tensors(m->safetensors);
    m->n_tensors = safetensors_count(m->safetensors);
    return 0;
}

static int open_gguf(struct model *m, const char *path, struct err *e)
{
    int st = gguf_open(&m->gguf, path, e);
    if (!st)
        st = gguf_config(&m->config, &m->gen, m->gguf, e);
    if (st)
        return st;
    m->tensor = gguf_tensors(m->gguf);
    m->n_tensors = gguf_count(m->gguf);
    return 0;
}

static int open_synth(struct model *m, const char *words, struct err *e)
{
    struct synth_shape shape;
    int st = synth_parse(&shape, words, e);
    if (!st)
        st = synth_open(&m->synth, &shape, e);
    if (st)
        return st;
    synth_config(&shape, &m->config, &m->gen);
    m->tensor = synth_tensors(m->synth);
    m->n_tensors = synth_count(m->synth);
    return 0;
}

static int open_source(struct model *m, const char *name, struct err *e)
{
    struct source s;
    int st = source_find(&s, name, e);
    if (st)
        return st;
    if (!(m->dir = strdup(s.kind == SOURCE_SYNTH ? name : s.path)))
        return err_set(e, ST_NOMEM, "out of memory");
    return s.kind == SOURCE_DIR    ? open_directory(m, s.path, e)
           : s.kind == SOURCE_GGUF ? open_gguf(m, s.path, e)
                                   : open_synth(m, s.path, e);
}

static int new_tables(struct opening *o)
{
    struct model *m = o->m;
    size_t layers = (size_t) m->config.n_layers, experts = layers * (size_t) m->config.moe.n_experts;
    m->layer = calloc(layers, sizeof *m->layer);
    o->used = calloc((size_t) m->n_tensors + 1, 1);
    if (experts)
        m->expert = calloc(experts, sizeof *m->expert);
    if (experts && o->stacked)
        m->view = calloc(experts * PARTS_EXPERT, sizeof *m->view);
    if (m->layer && o->used && (!experts || (m->expert && (m->view || !o->stacked))))
        return 0;
    return err_set(o->e, ST_NOMEM, "%s: out of memory", m->dir);
}

static int open_all(struct model *m, const char *name, struct err *e)
{
    struct opening o = {.m = m, .e = e};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    m->opened_ns = (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
    int st = open_source(m, name, e);
    o.stacked = m->gguf || (m->synth && synth_is_gguf(m->synth));
    if (!st)
        st = new_tables(&o);
    if (!st)
        st = find_all(&o);
    if (!st)
        st = check_others(&o);
    if (!st)
        m->weights_hash = hash_model(m);
    if (!st)
        stamp_files(m);
    free(o.used);
    return st;
}

int model_open(struct model **out, const char *name, struct err *e)
{
    *out = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(e, ST_NOMEM, "out of memory");
    int st = open_all(m, name, e);
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
    safetensors_close(m->safetensors);
    gguf_close(m->gguf);
    synth_close(m->synth);
    free(m->view);
    free(m->expert);
    free(m->layer);
    free(m->dir);
    free(m);
}
