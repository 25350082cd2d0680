/* synth.c - the shapes, the regions and the tensors of a synthetic model.  See synth.h. */
#include "model/synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/arena.h"
#include "model/parts.h"
#include "model/read.h"

enum {
    VOCAB = 151936,
    CTX = 40960,
    EOS = 151645,
    PAD = 151643,
    WINDOWS = 1 << 16,      /* places a tensor may begin at: even 36,000 experts seldom share one */
    WINDOW_BYTES = 34 * 16, /* whole Q8_0 blocks, and a multiple of 32 */
};

static const struct {
    const char *name;
    int32_t layers, hidden, heads, kv_heads, ffn, tied, moe_ffn;
} shapes[] = {
    {"0.6b", 28, 1024, 16, 8, 3072, 1, 0},      {"1.7b", 28, 2048, 16, 8, 6144, 1, 0},
    {"4b", 36, 2560, 32, 8, 9728, 1, 0},        {"8b", 36, 4096, 32, 8, 12288, 0, 0},
    {"14b", 40, 5120, 40, 8, 17408, 0, 0},      {"32b", 64, 5120, 64, 8, 25600, 0, 0},
    {"30b-a3b", 48, 2048, 32, 4, 6144, 0, 768}, {"235b-a22b", 94, 4096, 64, 4, 12288, 0, 1536},
};

enum { SHAPES = sizeof shapes / sizeof *shapes };

static const char *const dtypes[] = {[SYNTH_BF16] = "bf16", [SYNTH_Q8] = "q8", [SYNTH_FP8] = "fp8"};

enum { DTYPES = sizeof dtypes / sizeof *dtypes };

/* --- names --- */

static int find_word(const char *const *list, size_t stride, int n, const char *word, size_t len)
{
    for (int i = 0; i < n; i++) {
        const char *s = *(const char *const *) ((const char *) list + (size_t) i * stride);
        if (strlen(s) == len && memcmp(s, word, len) == 0)
            return i;
    }
    return -1;
}

static int parse_number(const char *p, size_t n, uint64_t max, uint64_t *out)
{
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++)
        if (p[i] < '0' || p[i] > '9' || __builtin_mul_overflow(x, 10u, &x) ||
            __builtin_add_overflow(x, (uint64_t) (p[i] - '0'), &x))
            return 0;
    *out = x;
    return n > 0 && x <= max;
}

/* One "key=value"; 0: it is none. */
static int parse_option(struct synth_shape *s, const char *p, size_t n)
{
    uint64_t x;
    if (n > 7 && memcmp(p, "layers=", 7) == 0 && parse_number(p + 7, n - 7, CONFIG_LAYERS_MAX, &x) && x > 0) {
        s->n_layers = (int32_t) x;
        return 1;
    }
    if (n > 5 && memcmp(p, "seed=", 5) == 0)
        return parse_number(p + 5, n - 5, UINT64_MAX, &s->seed);
    if (n > 6 && memcmp(p, "dtype=", 6) == 0)
        return (s->dtype = find_word(dtypes, sizeof *dtypes, DTYPES, p + 6, n - 6)) >= 0;
    return 0;
}

int synth_parse(struct synth_shape *s, const char *words, struct err *e)
{
    size_t n = strcspn(words, ":");
    *s = (struct synth_shape){.which = find_word(&shapes[0].name, sizeof *shapes, SHAPES, words, n)};
    if (s->which < 0)
        return err_set(e, ST_INPUT,
                       "synth:%s: no such shape; expected 0.6b, 1.7b, 4b, 8b, 14b, 32b, 30b-a3b or 235b-a22b",
                       model__quote(words).s);
    s->n_layers = shapes[s->which].layers;
    for (const char *p = words + n; *p; p += n) {
        n = strcspn(++p, ":");
        if (!parse_option(s, p, n))
            return err_set(e, ST_INPUT,
                           "synth:%s: expected :layers=N (1 to %d), :dtype=bf16|q8|fp8 or :seed=S after it",
                           model__quote(words).s, CONFIG_LAYERS_MAX);
    }
    return 0;
}

void synth_config(const struct synth_shape *s, struct config *c, struct gen_config *g)
{
    *c = (struct config){.n_layers = s->n_layers,
                         .hidden = shapes[s->which].hidden,
                         .n_heads = shapes[s->which].heads,
                         .n_kv_heads = shapes[s->which].kv_heads,
                         .head_dim = 128,
                         .ffn = shapes[s->which].ffn,
                         .vocab = VOCAB,
                         .ctx_max = CTX,
                         .rope_theta = 1e6f,
                         .rms_eps = 1e-6f,
                         .tied = shapes[s->which].tied,
                         .fp8 = s->dtype == SYNTH_FP8};
    if (s->dtype != SYNTH_Q8)
        strcpy(c->dtype, "bfloat16");
    if (shapes[s->which].moe_ffn) {
        c->moe = (struct moe){.n_experts = 128, .n_used = 8, .ffn = shapes[s->which].moe_ffn, .norm_topk = 1};
        memset(c->moe.layer, 1, (size_t) c->n_layers);
    }
    *g = (struct gen_config){.n_eos = 2,
                             .eos = {EOS, PAD},
                             .has_temperature = 1,
                             .temperature = 0.6f,
                             .has_top_k = 1,
                             .top_k = 20,
                             .has_top_p = 1,
                             .top_p = 0.95f,
                             .repetition_penalty = 1};
}

/* --- random bytes --- */

enum kind { WEIGHT_BF16, WEIGHT_F32, WEIGHT_F8, WEIGHT_Q8, SCALE_BF16, NORM_BF16, NORM_F32, KINDS };

struct region {
    unsigned char *p; /* owns (mmap); (bytes); NULL: no tensor of this kind */
    size_t bytes;
};

struct synth {
    struct synth_shape shape;
    struct config config;
    struct arena names;
    struct region region[KINDS];
    struct tensor *tensor; /* owns; (n), sorted by name once open */
    int *kind;             /* owns; (n), enum kind of each, in the order they were listed */
    int n, cap;
};

/* SplitMix64's mixer at counter i. */
static inline uint64_t mix(uint64_t seed, uint64_t i)
{
    uint64_t x = seed + (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

#define LIMIT 0.0346410162f /* 0.02 sqrt(3): uniform in +-LIMIT has the standard deviation 0.02 */

static float uniform(uint64_t bits)
{
    return (float) (int16_t) bits * (LIMIT / 32768);
}

static uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Each fills n bytes (a multiple of 8, but for Q8_0: whole blocks). */

static void fill_bf16(unsigned char *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n / 8; i++) {
        uint64_t r = mix(seed, i);
        uint16_t w[4];
        for (int k = 0; k < 4; k++)
            w[k] = to_bf16(uniform(r >> 16 * k));
        memcpy(p + 8 * i, w, 8);
    }
}

static void fill_f32(unsigned char *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n / 8; i++) {
        uint64_t r = mix(seed, i);
        float w[2] = {uniform(r), uniform(r >> 32)};
        memcpy(p + 8 * i, w, 8);
    }
}

/* Any code but the two NaNs: root mean square 101. */
static void fill_f8(unsigned char *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n / 8; i++) {
        uint64_t r = mix(seed, i);
        for (int k = 0; k < 8; k++) {
            unsigned char b = (unsigned char) (r >> 8 * k);
            p[8 * i + (size_t) k] = (b & 0x7f) == 0x7f ? 0 : b;
        }
    }
}

/* d is FP16 from 0.000259 to 0.000275, times at most 127: LIMIT. */
static void fill_q8(unsigned char *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n / 34; i++, p += 34) {
        uint64_t r = mix(seed, 5 * i);
        p[0] = (unsigned char) (0x40 | (r & 0x3f));
        p[1] = 0x0c;
        for (size_t k = 0; k < 4; k++) {
            uint64_t q = mix(seed, 5 * i + 1 + k);
            memcpy(p + 2 + 8 * k, &q, 8);
        }
        for (int k = 2; k < 34; k++)
            p[k] = p[k] == 0x80 ? 0x81 : p[k]; /* -127 to 127, as quantizers give them */
    }
}

static void fill_words(unsigned char *p, size_t n, uint64_t seed, uint16_t base, unsigned mask)
{
    for (size_t i = 0; i < n / 2; i++) {
        uint16_t w = (uint16_t) (base + (mix(seed, i) & mask));
        memcpy(p + 2 * i, &w, 2);
    }
}

static void fill_norm_f32(unsigned char *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n / 4; i++) {
        uint32_t w = 0x3f700000u + (uint32_t) (mix(seed, i) & 0x1fffff);
        memcpy(p + 4 * i, &w, 4);
    }
}

static void fill(int kind, struct region *r, uint64_t seed)
{
    seed = mix(seed, UINT64_MAX - (uint64_t) kind);
    switch (kind) {
    case WEIGHT_BF16:
        fill_bf16(r->p, r->bytes, seed);
        break;
    case WEIGHT_F32:
        fill_f32(r->p, r->bytes, seed);
        break;
    case WEIGHT_F8:
        fill_f8(r->p, r->bytes, seed);
        break;
    case WEIGHT_Q8:
        fill_q8(r->p, r->bytes, seed);
        break;
    case SCALE_BF16:
        fill_words(r->p, r->bytes, seed, 0x3940, 31); /* 1.83e-4 to 2.13e-4: 0.02 over fill_f8's 101 */
        break;
    case NORM_BF16:
        fill_words(r->p, r->bytes, seed, 0x3f70, 31); /* 0.94 to 1.12 */
        break;
    default:
        fill_norm_f32(r->p, r->bytes, seed);
    }
}

/* --- tensors --- */

static const struct {
    int type;
    const char *dtype;
} stored[KINDS] = {
    [WEIGHT_BF16] = {TENSOR_BF16, "BF16"},     [WEIGHT_F32] = {TENSOR_F32, "F32"},
    [WEIGHT_F8] = {TENSOR_F8_E4M3, "F8_E4M3"}, [WEIGHT_Q8] = {TENSOR_Q8_0, "Q8_0"},
    [SCALE_BF16] = {TENSOR_BF16, "BF16"},      [NORM_BF16] = {TENSOR_BF16, "BF16"},
    [NORM_F32] = {TENSOR_F32, "F32"},
};

static int kind_of(const struct synth *s, int role)
{
    int q8 = s->shape.dtype == SYNTH_Q8;
    if (role == PART_NORM)
        return q8 ? NORM_F32 : NORM_BF16;
    if (role == PART_ROUTER)
        return q8 ? WEIGHT_F32 : WEIGHT_BF16;
    if (q8)
        return WEIGHT_Q8;
    return s->shape.dtype == SYNTH_FP8 && role == PART_LINEAR ? WEIGHT_F8 : WEIGHT_BF16;
}

static int grow(struct synth *s)
{
    if (s->n < s->cap)
        return 0;
    int cap = s->cap ? 2 * s->cap : 1024;
    struct tensor *t = realloc(s->tensor, (size_t) cap * sizeof *t);
    if (t)
        s->tensor = t;
    int *k = realloc(s->kind, (size_t) cap * sizeof *k);
    if (k)
        s->kind = k;
    if (t && k)
        s->cap = cap;
    return t && k ? 0 : ST_NOMEM;
}

/* `stack` 0: a matrix or vector; else that many of them in one tensor. */
static int list_tensor(struct synth *s, const char *name, int kind, int64_t stack, int64_t rows, int64_t cols)
{
    if (grow(s) < 0)
        return ST_NOMEM;
    struct tensor *t = &s->tensor[s->n];
    int64_t dim[3] = {rows, cols, 0}, all = rows * (cols ? cols : 1) * (stack ? stack : 1);
    *t = (struct tensor){
        .file = "memory", .type = stored[kind].type, .n_dims = (stack != 0) + 1 + (cols != 0)};
    strcpy(t->dtype, stored[kind].dtype);
    if (stack)
        t->dim[0] = stack;
    memcpy(t->dim + (stack != 0), dim, 2 * sizeof *dim);
    t->bytes = (size_t) (all / tensor_block(t->type)) * tensor_block_bytes(t->type);
    t->name = arena_copy(&s->names, name, strlen(name));
    s->kind[s->n] = kind;
    if (t->bytes > s->region[kind].bytes)
        s->region[kind].bytes = t->bytes;
    s->n++;
    return t->name ? 0 : ST_NOMEM;
}

static int list_part(struct synth *s, const struct part *p, int layer, int expert, int64_t stack)
{
    int kind = kind_of(s, p->role), q8 = s->shape.dtype == SYNTH_Q8;
    struct part_name name = q8 ? part_name_gguf(p, layer) : part_name_hf(p, layer, expert);
    int st = list_tensor(s, name.s, kind, stack, p->rows, p->cols);
    if (st || kind != WEIGHT_F8)
        return st;
    char scale[PARTS_NAME_MAX + 16];
    snprintf(scale, sizeof scale, "%s_scale_inv", name.s);
    return list_tensor(s, scale, SCALE_BF16, 0, (p->rows + TENSOR_SCALE_BLOCK - 1) / TENSOR_SCALE_BLOCK,
                       (p->cols + TENSOR_SCALE_BLOCK - 1) / TENSOR_SCALE_BLOCK);
}

static int list_experts(struct synth *s, int layer)
{
    struct part p[PARTS_EXPERT];
    int n = s->config.moe.n_experts, st = 0, stacked = s->shape.dtype == SYNTH_Q8;
    parts_of_expert(&s->config, p);
    for (int k = 0; !st && k < PARTS_EXPERT; k++) {
        if (stacked)
            st = list_part(s, &p[k], layer, -1, n);
        for (int j = 0; !st && !stacked && j < n; j++)
            st = list_part(s, &p[k], layer, j, 0);
    }
    return st;
}

static int list_all(struct synth *s)
{
    struct part p[PARTS_LAYER_MAX];
    int n = parts_of_model(&s->config, p), st = 0;
    for (int k = 0; !st && k < n; k++)
        st = list_part(s, &p[k], -1, -1, 0);
    for (int i = 0; !st && i < s->config.n_layers; i++) {
        n = parts_of_layer(&s->config, i, p);
        for (int k = 0; !st && k < n; k++)
            st = list_part(s, &p[k], i, -1, 0);
        if (!st && parts_has_experts(&s->config, i))
            st = list_experts(s, i);
    }
    return st;
}

static int fill_regions(struct synth *s)
{
    for (int k = 0; k < KINDS; k++) {
        struct region *r = &s->region[k];
        if (!r->bytes)
            continue;
        r->bytes =
            (r->bytes + WINDOW_BYTES - 1) / WINDOW_BYTES * WINDOW_BYTES + (size_t) WINDOWS * WINDOW_BYTES;
        void *p =
            mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            return ST_NOMEM;
        r->p = p;
        fill(k, r, s->shape.seed);
    }
    return 0;
}

static uint64_t name_hash(const char *s)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *s; s++)
        h = (h ^ (unsigned char) *s) * UINT64_C(0x100000001b3);
    return h;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *) a)->name, ((const struct tensor *) b)->name);
}

static void place_tensors(struct synth *s)
{
    for (int i = 0; i < s->n; i++) {
        struct tensor *t = &s->tensor[i];
        uint64_t window = mix(s->shape.seed, name_hash(t->name)) % WINDOWS;
        t->data = s->region[s->kind[i]].p + window * WINDOW_BYTES;
    }
    qsort(s->tensor, (size_t) s->n, sizeof *s->tensor, by_name);
    for (int i = 0; i < s->n; i++)
        if (s->tensor[i].type == TENSOR_F8_E4M3) {
            char name[PARTS_NAME_MAX + 16];
            snprintf(name, sizeof name, "%s_scale_inv", s->tensor[i].name);
            s->tensor[i].scale = tensor_find(s->tensor, s->n, name);
        }
}

/* --- the border --- */

int synth_open(struct synth **out, const struct synth_shape *shape, struct err *e)
{
    struct gen_config g;
    *out = NULL;
    struct synth *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, ST_NOMEM, "out of memory");
    s->shape = *shape;
    synth_config(shape, &s->config, &g);
    arena_init(&s->names, 0);
    if (list_all(s) < 0 || fill_regions(s) < 0) {
        synth_close(s);
        return err_set(e, ST_NOMEM, "synth:%s: out of memory for its random weights",
                       shapes[shape->which].name);
    }
    place_tensors(s);
    *out = s;
    return 0;
}

void synth_close(struct synth *s)
{
    if (!s)
        return;
    for (int k = 0; k < KINDS; k++)
        if (s->region[k].p)
            munmap(s->region[k].p, s->region[k].bytes);
    free(s->tensor);
    free(s->kind);
    arena_fini(&s->names);
    free(s);
}

int synth_is_gguf(const struct synth *s)
{
    return s->shape.dtype == SYNTH_Q8;
}

int synth_count(const struct synth *s)
{
    return s->n;
}

const struct tensor *synth_tensors(const struct synth *s)
{
    return s->tensor;
}
