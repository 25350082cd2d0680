/* load.c - a checkpoint's matrices into the device's layout (inside.h), once, at open.
 *
 * What is kept as what, by `--target-quant`:
 *     auto, stored   BF16, F16, F32 as BF16 (rounded to nearest even where they do not fit); FP8 as FP8; Q8_0 as Q8; Q4_0, Q4_K, Q6_K
 *                    as Q8, rounded as the CPU does it
 *     bf16, q8       every matrix as that
 * FP8 and Q8_0 keep their bits.  Embedding rows are BF16, norms and routers float.
 *
 * A tensor without data is a shape alone (for timing): make.cu makes its values up.
 *
 * One walk over the model does it all: dry it counts bytes, wet it packs and copies, so that plan and load cannot differ.
 * Refuses: f32, f16 and q4 as precisions; head sizes but 64 and 128; FP8's NaN. */
#include "target/cuda/inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 256, TILES_AT_ONCE = 64, POSITIONS_AT_ONCE = 1024 };

/* --- one matrix --- */

static int32_t up(int64_t n, int32_t to)
{
    return (int32_t) ((n + to - 1) / to * to);
}

/* Enough blocks for any card these kernels run on, and no split shorter than two chunks; a function of the shape alone. */
int32_t cuda__splits(int32_t tiles, int32_t k_pad)
{
    enum { BLOCKS = 256, TILES_A_BLOCK = 4 };
    int32_t splits = 1, blocks = (tiles + TILES_A_BLOCK - 1) / TILES_A_BLOCK;
    while (splits < CUDA_SPLITS_MAX && blocks * splits < BLOCKS && k_pad / CUDA_CHUNK_K >= 4 * splits)
        splits *= 2;
    return splits;
}

static int64_t outputs_of(const struct cuda_source *s)
{
    int64_t n = 0;
    if (s->interleave)
        return 2 * up(s->part[0]->dim[0], CUDA_TILE / 2);
    for (int32_t i = 0; i < s->n_parts; i++)
        n += s->part[i]->dim[0];
    return n;
}

void cuda__matrix_plan(struct cuda_matrix *m, const struct cuda_source *s, int32_t format)
{
    int64_t n = outputs_of(s), k = s->part[0]->dim[1];
    *m = (struct cuda_matrix){.format = format,
                              .n = (int32_t) n,
                              .k = (int32_t) k,
                              .tiles = up(n, CUDA_TILE) / CUDA_TILE,
                              .k_pad = up(k, CUDA_CHUNK_K)};
    int64_t values = (int64_t) m->tiles * CUDA_TILE * m->k_pad;
    m->splits = cuda__splits(m->tiles, m->k_pad);
    m->w_bytes = values * (format == CUDA_BF16 ? 2 : 1);
    m->scale_bytes = format == CUDA_FP8
                         ? (int64_t) m->tiles * 2 * (m->k_pad / CUDA_CHUNK_K) * (int64_t) sizeof(float)
                     : format == CUDA_Q8 ? values / CPU_Q8_BLOCK * 2
                                         : 0;
}

/* The tensor and row that output o is; NULL: it only fills up a tile. */
static const struct tensor *find_row(const struct cuda_source *s, int64_t o, int64_t *row)
{
    if (s->interleave) {
        const struct tensor *t = s->part[o % CUDA_TILE / (CUDA_TILE / 2)];
        *row = o / CUDA_TILE * (CUDA_TILE / 2) + o % (CUDA_TILE / 2);
        return *row < t->dim[0] ? t : NULL;
    }
    *row = o;
    for (int32_t i = 0; i < s->n_parts; i++) {
        if (*row < s->part[i]->dim[0])
            return s->part[i];
        *row -= s->part[i]->dim[0];
    }
    return NULL;
}

/* Where value (o, k) of a tile lies among a step's 16 lanes' worth: element, with `values` of them a lane. */
static int64_t place_of(int o, int k, int values)
{
    int lane = o % 8 * 4 + k % 8 / 2, at = k % 16 / 8 * 4 + o / 8 * 2 + k % 2;
    return (int64_t) (k / (2 * values)) * 32 * values + lane * values + k % (2 * values) / 16 * 8 + at;
}

static uint16_t bf16_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t) (u >> 16 | 0x40);
    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

enum { FINE, NAN_FOUND, RANGE };

static int pack_bf16(const struct tensor *t, int64_t row, int o, int32_t k, float *line, uint16_t *tile)
{
    cpu_tensor_row(t, row, line);
    for (int32_t i = 0; i < k; i++)
        tile[place_of(o, i, 8)] = bf16_of(line[i]);
    return FINE;
}

static int pack_fp8(const struct tensor *t, int64_t row, int o, int32_t k, uint8_t *tile, float *scale,
                    int32_t chunks)
{
    const uint8_t *from = (const uint8_t *) t->data + row * k;
    int fault = FINE;
    for (int32_t i = 0; i < k; i++) {
        tile[place_of(o, i, 16)] = from[i];
        fault |= (from[i] & 0x7f) == 0x7f;
    }
    const struct tensor *s = t->scale;
    for (int32_t c = 0; c < chunks && o % 8 == 0; c++) {
        int64_t at = row / TENSOR_SCALE_BLOCK * s->dim[1] + c;
        uint16_t h;
        uint32_t u = 0;
        if (s->type == TENSOR_F32) {
            memcpy(&u, (const char *) s->data + at * 4, 4);
        } else {
            memcpy(&h, (const char *) s->data + at * 2, 2);
            u = (uint32_t) h << 16;
        }
        memcpy(&scale[o / 8 * chunks + c], &u, 4);
    }
    return fault;
}

static int pack_q8(const struct tensor *t, int64_t row, int o, int32_t k, float *line, uint8_t *tile,
                   uint16_t *scale)
{
    enum { BLOCK = CPU_Q8_BLOCK, STORED = 2 + CPU_Q8_BLOCK };
    int8_t q[BLOCK];
    const uint8_t *from = (const uint8_t *) t->data + row * (k / BLOCK) * STORED;
    int fault = FINE, stored = t->type == TENSOR_Q8_0;
    if (!stored) {
        memset(line, 0, (size_t) up(k, BLOCK) * sizeof *line);
        cpu_tensor_row(t, row, line);
    }
    for (int32_t b = 0; b * BLOCK < k; b++) {
        uint16_t *d = &scale[b * CUDA_TILE + o];
        if (stored) {
            memcpy(d, from + b * STORED, 2);
            memcpy(q, from + b * STORED + 2, BLOCK);
        } else if (cpu_q8_block(line + b * BLOCK, d, q)) {
            fault = RANGE;
        }
        fault = (*d & 0x7c00) == 0x7c00 ? RANGE : fault;
        for (int i = 0; i < BLOCK && !fault; i++)
            tile[place_of(o, b * BLOCK + i, 16)] = (uint8_t) q[i];
    }
    return fault;
}

static int fault_said(const struct tensor *t, int fault, struct err *e)
{
    return err_set(
        e, ST_UNSUPPORTED, "%s: tensor %s has %s, which the GPU's kernels do not take", t->file, t->name,
        fault == NAN_FOUND ? "NaN among its FP8 values" : "values or scales beyond FP16's range, or NaN");
}

/* Tiles [first, first + n) into w and scale, which begin with the first of them. */
static int pack_tiles(const struct cuda_matrix *m, const struct cuda_source *s, int32_t first, int32_t n,
                      float *line, char *w, char *scale, struct err *e)
{
    int32_t chunks = m->k_pad / CUDA_CHUNK_K;
    int64_t w_tile = m->w_bytes / m->tiles, scale_tile = m->scale_bytes / m->tiles;
    memset(w, 0, (size_t) (w_tile * n));
    memset(scale, 0, (size_t) (scale_tile * n));
    for (int64_t o = 0; o < (int64_t) n * CUDA_TILE; o++) {
        int64_t row, t = o / CUDA_TILE;
        int in = (int) (o % CUDA_TILE), fault;
        const struct tensor *from = find_row(s, (int64_t) first * CUDA_TILE + o, &row);
        if (!from)
            continue;
        if (m->format == CUDA_BF16)
            fault = pack_bf16(from, row, in, m->k, line, (uint16_t *) (void *) (w + t * w_tile));
        else if (m->format == CUDA_FP8)
            fault = pack_fp8(from, row, in, m->k, (uint8_t *) w + t * w_tile,
                             (float *) (void *) (scale + t * scale_tile), chunks);
        else
            fault = pack_q8(from, row, in, m->k, line, (uint8_t *) w + t * w_tile,
                            (uint16_t *) (void *) (scale + t * scale_tile));
        if (fault)
            return fault_said(from, fault, e);
    }
    return 0;
}

int cuda__matrix_pack(const struct cuda_matrix *m, const struct cuda_source *s, char *w, char *scale,
                      struct err *e)
{
    float *line = malloc((size_t) m->k_pad * sizeof *line);
    int st = line ? pack_tiles(m, s, 0, m->tiles, line, w, scale, e)
                  : err_set(e, ST_NOMEM, "no memory to pack a matrix");
    free(line);
    return st;
}

/* --- a walk over the model --- */

struct walk {
    struct cuda_dev *dev; /* NULL: dry */
    char *base;
    int64_t at;
    int32_t quant;
    float *line; /* own, as all below; wet only */
    char *w, *scale;
    int64_t w_room, scale_room, k_room;
    int seen[3]; /* formats met */
};

static void *take(struct walk *x, int64_t bytes)
{
    void *p = x->base ? x->base + x->at : NULL;
    x->at += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

static int32_t format_of(const struct walk *x, const struct tensor *t)
{
    if (x->quant == CPU_QUANT_BF16)
        return CUDA_BF16;
    if (x->quant == CPU_QUANT_Q8)
        return CUDA_Q8;
    if (t->type == TENSOR_F8_E4M3)
        return CUDA_FP8;
    return cpu_quant_of(t->type) == CPU_QUANT_Q8 || cpu_quant_of(t->type) == CPU_QUANT_Q4 ? CUDA_Q8
                                                                                          : CUDA_BF16;
}

static int room_for(struct walk *x, int64_t w, int64_t scale, int32_t k, struct err *e)
{
    if (w <= x->w_room && scale <= x->scale_room && k <= x->k_room && x->line)
        return 0;
    free(x->line);
    free(x->w);
    free(x->scale);
    x->w_room = w > x->w_room ? w : x->w_room;
    x->scale_room = scale > x->scale_room ? scale : x->scale_room;
    x->k_room = k > x->k_room ? k : x->k_room;
    x->line = malloc((size_t) x->k_room * sizeof *x->line);
    x->w = malloc((size_t) x->w_room);
    x->scale = malloc((size_t) x->scale_room + 1);
    return x->line && x->w && x->scale ? 0 : err_set(e, ST_NOMEM, "no memory to pack weights for the GPU");
}

/* One matrix, or that of one expert, to its place. */
static int fill(struct walk *x, const struct cuda_matrix *m, const struct cuda_source *s, char *w,
                char *scale, struct err *e)
{
    int64_t w_tile = m->w_bytes / m->tiles, scale_tile = m->scale_bytes / m->tiles;
    int st = room_for(x, w_tile * TILES_AT_ONCE, scale_tile * TILES_AT_ONCE, m->k_pad, e);
    for (int32_t t = 0; t < m->tiles && !st; t += TILES_AT_ONCE) {
        int32_t n = m->tiles - t < TILES_AT_ONCE ? m->tiles - t : TILES_AT_ONCE;
        st = pack_tiles(m, s, t, n, x->line, x->w, x->scale, e);
        if (!st)
            st = cuda__put(x->dev, w + t * w_tile, x->w, (size_t) (n * w_tile), e);
        if (!st && scale)
            st = cuda__put(x->dev, scale + t * scale_tile, x->scale, (size_t) (n * scale_tile), e);
    }
    return st;
}

/* Of a shape alone. */
static void make(struct walk *x, const struct cuda_matrix *m, int32_t experts)
{
    static const int32_t
        values[] = {[CUDA_BF16] = CUDA_MADE_BF16, [CUDA_FP8] = CUDA_MADE_FP8, [CUDA_Q8] = CUDA_MADE_Q8},
        scales[] = {
            [CUDA_BF16] = CUDA_MADE_ONES, [CUDA_FP8] = CUDA_MADE_FP8_SCALE, [CUDA_Q8] = CUDA_MADE_Q8_SCALE};
    cuda__make(x->dev, values[m->format], m->w, m->w_bytes * experts);
    cuda__make(x->dev, scales[m->format], m->scale, m->scale_bytes * experts);
}

/* `experts` matrices of one shape, one behind the other: of each, the source. */
static int matrices(struct walk *x, struct cuda_matrix *m, const struct cuda_source *s, int32_t experts,
                    struct err *e)
{
    int32_t format = format_of(x, s[0].part[0]);
    int st = 0;
    for (int32_t i = 0; i < experts; i++)
        for (int32_t j = 0; j < s[i].n_parts; j++)
            if (format_of(x, s[i].part[j]) != format)
                format = CUDA_BF16; /* parts of several types: what can hold them all */
    cuda__matrix_plan(m, s, format);
    m->w = take(x, m->w_bytes * experts);
    m->scale = m->scale_bytes ? take(x, m->scale_bytes * experts) : NULL;
    x->seen[format] = 1;
    if (x->dev && !s[0].part[0]->data) {
        make(x, m, experts);
        return 0;
    }
    for (int32_t i = 0; i < experts && x->dev && !st; i++)
        st = fill(x, m, &s[i], m->w + i * m->w_bytes, m->scale ? m->scale + i * m->scale_bytes : NULL, e);
    return st;
}

static int floats(struct walk *x, float **out, const struct tensor *t, struct err *e)
{
    int64_t rows = t->n_dims == 2 ? t->dim[0] : 1, n = t->dim[t->n_dims - 1];
    *out = take(x, rows * n * (int64_t) sizeof(float));
    if (!x->dev)
        return 0;
    if (!t->data) {
        cuda__make(x->dev, rows > 1 ? CUDA_MADE_FLOATS : CUDA_MADE_ONES, *out,
                   rows * n * (int64_t) sizeof(float));
        return 0;
    }
    float *host = malloc((size_t) (rows * n) * sizeof *host);
    if (!host)
        return err_set(e, ST_NOMEM, "no memory for %s", t->name);
    for (int64_t r = 0; r < rows; r++)
        cpu_tensor_row(t, r, host + r * n);
    int st = cuda__put(x->dev, *out, host, (size_t) (rows * n) * sizeof *host, e);
    free(host);
    return st;
}

static int embedding(struct walk *x, uint16_t **out, const struct tensor *t, struct err *e)
{
    int64_t rows = t->dim[0], n = t->dim[1];
    *out = take(x, rows * n * 2);
    if (!x->dev)
        return 0;
    if (!t->data) {
        cuda__make(x->dev, CUDA_MADE_BF16, *out, rows * n * 2);
        return 0;
    }
    float *line = malloc((size_t) n * sizeof *line);
    uint16_t *host = malloc((size_t) n * CUDA_ROWS * sizeof *host);
    int st = line && host ? 0 : err_set(e, ST_NOMEM, "no memory for %s", t->name);
    for (int64_t r = 0; r < rows && !st; r += CUDA_ROWS) {
        int64_t m = rows - r < CUDA_ROWS ? rows - r : CUDA_ROWS;
        for (int64_t i = 0; i < m; i++) {
            cpu_tensor_row(t, r + i, line);
            for (int64_t j = 0; j < n; j++)
                host[i * n + j] = bf16_of(line[j]);
        }
        st = cuda__put(x->dev, *out + r * n, host, (size_t) (m * n) * 2, e);
    }
    free(line);
    free(host);
    return st;
}

static int angles(struct walk *x, struct cuda_weights *w, const struct config *g, int32_t ctx, struct err *e)
{
    int64_t half = g->head_dim / 2;
    w->cosines = take(x, ctx * half * (int64_t) sizeof(float));
    w->sines = take(x, ctx * half * (int64_t) sizeof(float));
    if (!x->dev)
        return 0;
    float *host = malloc((size_t) half * 2 * POSITIONS_AT_ONCE * sizeof *host);
    int st = host ? 0 : err_set(e, ST_NOMEM, "no memory for the angles of %d positions", POSITIONS_AT_ONCE);
    for (int32_t pos = 0; pos < ctx && !st; pos += POSITIONS_AT_ONCE) {
        int32_t n = ctx - pos < POSITIONS_AT_ONCE ? ctx - pos : POSITIONS_AT_ONCE;
        float *sines = host + half * POSITIONS_AT_ONCE;
        cpu_rope_table(g, pos, n, host, sines);
        st = cuda__put(x->dev, w->cosines + pos * half, host, (size_t) (n * half) * sizeof *host, e);
        if (!st)
            st = cuda__put(x->dev, w->sines + pos * half, sines, (size_t) (n * half) * sizeof *host, e);
    }
    free(host);
    return st;
}

static int experts(struct walk *x, struct cuda_layer *y, const struct layer_tensors *t, int32_t n,
                   struct err *e)
{
    struct cuda_source *both = calloc((size_t) n, sizeof *both), *down = calloc((size_t) n, sizeof *down);
    int st = both && down ? floats(x, &y->router, t->router, e)
                          : err_set(e, ST_NOMEM, "no memory for %d experts", n);
    for (int32_t i = 0; i < n && !st; i++) {
        both[i] = (struct cuda_source){{t->expert[i].gate, t->expert[i].up}, 2, 1};
        down[i] = (struct cuda_source){{t->expert[i].down}, 1, 0};
    }
    if (!st)
        st = matrices(x, &y->gate_up, both, n, e);
    if (!st)
        st = matrices(x, &y->down, down, n, e);
    free(both);
    free(down);
    return st;
}

static int layer(struct walk *x, struct cuda_layer *y, const struct layer_tensors *t, const struct config *g,
                 struct err *e)
{
    const struct cuda_source qkv = {{t->q, t->k, t->v}, 3, 0}, o = {{t->o}, 1, 0};
    const struct cuda_source both = {{t->gate, t->up}, 2, 1}, down = {{t->down}, 1, 0};
    int st = floats(x, &y->attn_norm, t->attn_norm, e);
    if (!st)
        st = floats(x, &y->q_norm, t->q_norm, e);
    if (!st)
        st = floats(x, &y->k_norm, t->k_norm, e);
    if (!st)
        st = floats(x, &y->ffn_norm, t->ffn_norm, e);
    if (!st)
        st = matrices(x, &y->qkv, &qkv, 1, e);
    if (!st)
        st = matrices(x, &y->o, &o, 1, e);
    if (st)
        return st;
    if (t->router)
        return experts(x, y, t, g->moe.n_experts, e);
    st = matrices(x, &y->gate_up, &both, 1, e);
    return st ? st : matrices(x, &y->down, &down, 1, e);
}

static int walk_model(struct walk *x, struct cuda_weights *w, const struct model *m, int32_t ctx,
                      struct err *e)
{
    const struct cuda_source head = {{m->head}, 1, 0};
    int st = embedding(x, &w->embed, m->embed, e);
    if (!st)
        st = floats(x, &w->norm, m->norm, e);
    if (!st)
        st = angles(x, w, &m->config, ctx, e);
    for (int32_t l = 0; l < m->config.n_layers && !st; l++)
        st = layer(x, &w->layer[l], &m->layer[l], &m->config, e);
    if (!st)
        st = matrices(x, &w->head, &head, 1, e);
    w->bytes = x->at;
    return st;
}

/* "bf16", "fp8", "q8", or of several, joined. */
static void name_precision(const struct walk *x, char *out, size_t bytes)
{
    static const char *const names[] = {"bf16", "fp8", "q8"};
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < 3 && at < bytes; i++)
        if (x->seen[i])
            at += (size_t) snprintf(out + at, bytes - at, "%s%s", at ? "+" : "", names[i]);
}

static int check(const struct model *m, int32_t quant, struct err *e)
{
    const struct config *g = &m->config;
    if (quant != CPU_QUANT_BF16 && quant != CPU_QUANT_Q8 && quant != CPU_QUANT_STORED)
        return err_set(
            e, ST_UNSUPPORTED,
            "--target-quant %s: on a GPU weights are kept as bf16 or q8, or auto: as stored, FP8 too",
            cpu_quant_name(quant));
    if (g->head_dim != 64 && g->head_dim != 128)
        return err_set(
            e, ST_UNSUPPORTED,
            "heads of %d values: the GPU's kernels are made for 64 and 128; --device cpu takes any",
            g->head_dim);
    if (g->n_heads / g->n_kv_heads > CUDA_ROWS)
        return err_set(e, ST_UNSUPPORTED, "%d query heads a KV head: the GPU's kernels take at most %d",
                       g->n_heads / g->n_kv_heads, CUDA_ROWS);
    if (g->moe.n_experts > CUDA_EXPERTS_MAX || g->moe.n_used > CUDA_USED_MAX)
        return err_set(e, ST_UNSUPPORTED,
                       "%d experts, %d of them used: the GPU's kernels take at most %d and %d",
                       g->moe.n_experts, g->moe.n_used, CUDA_EXPERTS_MAX, CUDA_USED_MAX);
    return 0;
}

static int run(struct walk *x, struct cuda_weights *w, const struct model *m, int32_t ctx, struct err *e)
{
    *w = (struct cuda_weights){.layer = calloc((size_t) m->config.n_layers, sizeof *w->layer)};
    if (!w->layer)
        return err_set(e, ST_NOMEM, "no memory for %d layers", m->config.n_layers);
    int st = walk_model(x, w, m, ctx, e);
    name_precision(x, w->precision, sizeof w->precision);
    free(x->line);
    free(x->w);
    free(x->scale);
    return st;
}

int cuda__plan(const struct model *m, int32_t quant, int32_t ctx, int64_t *bytes, struct err *e)
{
    struct walk dry = {.quant = quant};
    struct cuda_weights w;
    int st = check(m, quant, e);
    if (st)
        return st;
    st = run(&dry, &w, m, ctx, e);
    *bytes = w.bytes;
    cuda__unload(&w);
    return st;
}

int cuda__load(struct cuda_weights *w, struct cuda_dev *d, const struct model *m, int32_t quant, int32_t ctx,
               struct err *e)
{
    struct walk wet = {.dev = d, .quant = quant};
    int64_t bytes;
    int st = cuda__plan(m, quant, ctx, &bytes, e);
    if (st)
        return st;
    wet.base = cuda__alloc(d, "weights", (size_t) bytes, e);
    return wet.base ? run(&wet, w, m, ctx, e) : ST_NOMEM;
}

void cuda__unload(struct cuda_weights *w)
{
    free(w->layer);
    w->layer = NULL;
}
