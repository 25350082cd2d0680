/* inside.h - what the files of target/cuda/ share: the open device, packed weights, the blob of a pass, the kernels' host side.
 *
 * C on the outside: backend.c and load.c are plain C and know no CUDA type; the .cu files are C plus templates.  Every call that
 * launches or copies is asynchronous on the device's one stream unless it says otherwise. */
#ifndef TARGET_CUDA_INSIDE_H
#define TARGET_CUDA_INSIDE_H

#include "target/internal.h"

enum {
    CUDA_TILE = 16, /* weight rows of one mma */
    CUDA_CHUNK_K =
        128, /* inputs between two barriers of a GEMM; what an FP8 scale covers; widths are padded to it */
    CUDA_ROWS = 64,    /* rows of one GEMM tile, and of one batch of attention */
    CUDA_KEYS = 64,    /* keys of one attention tile: a page */
    CUDA_CHUNK = 256,  /* keys of one chunk of attention over settled keys: part of the numerics */
    CUDA_TAIL = 128,   /* keys a row takes by its own list: 64..127, fewer at the beginning */
    CUDA_PROMPT = 256, /* rows of a library GEMM: chunks of prompts are cut at its multiples */
    CUDA_SPLITS_MAX = 8,
    CUDA_EXPERTS_MAX = 256, /* of a layer: one block counts them */
    CUDA_USED_MAX = 32,
};

/* --- device.cu: memory, copies, the stream, errors --- */

struct cuda_dev;

/* What a device was found to be. */
struct cuda_found {
    char name[64];
    int32_t capability; /* 90: sm_90 */
    int32_t processors;
    int64_t bytes, free; /* memory */
};

/* ST_UNSUPPORTED: no driver, no such device, or one older than the kernels are compiled for; e says which and what there is. */
int cuda__find(int32_t index, struct cuda_found *out, struct err *e);
int cuda__dev_open(struct cuda_dev **out, int32_t index, struct err *e);
/* Makes it the calling thread's device: who opened it and who posts to it are two threads. */
void cuda__dev_use(struct cuda_dev *d);
void cuda__dev_close(struct cuda_dev *d); /* NULL is fine; frees everything allocated on it */
void *cuda__dev_stream(struct cuda_dev *d);

/* Device memory, zeroed, 256 bytes aligned; owned by d.  NULL: none left, and e says how much was asked for and was free. */
void *cuda__alloc(struct cuda_dev *d, const char *what, size_t bytes, struct err *e);
/* Pinned host memory, likewise. */
void *cuda__alloc_host(struct cuda_dev *d, const char *what, size_t bytes, struct err *e);
/* Copies and waits: for opening. */
int cuda__put(struct cuda_dev *d, void *to, const void *from, size_t bytes, struct err *e);
int cuda__get(struct cuda_dev *d, void *to, const void *from, size_t bytes, struct err *e);
/* Posts a copy from pinned memory; errors are kept and come out of cuda__dev_wait. */
void cuda__post(struct cuda_dev *d, void *to, const void *from, size_t bytes);
/* Keeps the first failure of a launch (a cudaError_t), so that a pass is posted without a check a line. */
void cuda__note(struct cuda_dev *d, int error, const char *what);
/* Waits for everything posted.  0 or ST_DEVICE, ST_NOMEM: the first failure, once logged; it stays. */
int cuda__dev_wait(struct cuda_dev *d);

/* --- load.c: weights --- */

enum cuda_format { CUDA_BF16, CUDA_FP8, CUDA_Q8 };

/* One matrix, or one of every expert, packed for mma.m16n8k16 with the weights as its A operand.
 *
 *   w      [tile of 16 outputs][step][lane 32] of 16 bytes: what lane holds of A, in the order of its registers
 *          BF16: a step is 16 inputs, 8 values;  FP8 and Q8: a step is 32 inputs, 16 values, the first 16 inputs' first
 *   scale  FP8: float [tile][half 2][k_pad / 128], half: outputs 0..7 and 8..15 of the tile
 *          Q8: FP16 bits [tile][k_pad / 32][16] */
struct cuda_matrix {
    char *w;                      /* device */
    char *scale;                  /* device; NULL: BF16 */
    int32_t format;               /* enum cuda_format */
    int32_t n, k;                 /* outputs and inputs in use */
    int32_t tiles, k_pad;         /* of 16 outputs; k rounded up to CUDA_CHUNK_K */
    int32_t splits;               /* of k, a function of the shape alone */
    int64_t w_bytes, scale_bytes; /* of one expert's */
};

struct cuda_layer {
    float *attn_norm, *q_norm, *k_norm, *ffn_norm; /* device */
    struct cuda_matrix qkv;                        /* outputs: q, k, v, one after the other */
    struct cuda_matrix o;
    struct cuda_matrix
        gate_up; /* output 16 i + j: gate of 8 i + j, output 16 i + 8 + j: up of 8 i + j, j < 8; or of all experts */
    struct cuda_matrix down;
    float *router; /* device; (n_experts, hidden); NULL: a dense layer */
};

struct cuda_weights {
    struct cuda_layer *layer; /* owns; (n_layers) */
    uint16_t *embed;          /* device; BF16 (vocab, hidden) */
    float *norm;              /* device; (hidden) */
    struct cuda_matrix head;
    float *cosines, *sines; /* device; (ctx, head_dim / 2) */
    int64_t bytes;          /* on the device */
    char precision[16];     /* for the fingerprint */
};

/* Bytes that cuda__load will take, and what the matrices are kept as; no device needed. */
int cuda__plan(const struct model *m, int32_t quant, int32_t ctx, int64_t *bytes, struct err *e);
int cuda__load(struct cuda_weights *w, struct cuda_dev *d, const struct model *m, int32_t quant, int32_t ctx,
               struct err *e);
void cuda__unload(struct cuda_weights *w);

/* Packing alone, for tests: part i of n parts side by side (q, k, v), or two interleaved by eights. */
struct cuda_source {
    const struct tensor *part[3];
    int32_t n_parts;
    int32_t interleave; /* 1: parts 0 and 1 by eights */
};
void cuda__matrix_plan(struct cuda_matrix *m, const struct cuda_source *s, int32_t format);
int cuda__matrix_pack(const struct cuda_matrix *m, const struct cuda_source *s, char *w, char *scale,
                      struct err *e);
int32_t cuda__splits(int32_t tiles, int32_t k_pad);

/* --- make.cu: values for a model that is a shape alone --- */

enum cuda_made {
    CUDA_MADE_BF16,
    CUDA_MADE_FP8,
    CUDA_MADE_FP8_SCALE,
    CUDA_MADE_Q8,
    CUDA_MADE_Q8_SCALE,
    CUDA_MADE_FLOATS,
    CUDA_MADE_ONES
};
/* Posts it; bytes: whole words. */
void cuda__make(struct cuda_dev *d, int32_t kind, void *to, int64_t bytes);

/* --- lt.cu: prompts by cuBLASLt --- */

struct cuda_lt;

/* *out NULL and 0: the library is not there, or its table does not know the card, so prompts are read by the skinny GEMM. */
int cuda__lt_open(struct cuda_lt **out, const char *card, struct err *e);
void cuda__lt_close(struct cuda_lt *lt); /* NULL is fine */
size_t cuda__lt_version(const struct cuda_lt *lt);
/* Device memory, for matrices of at most `largest` values; owned by dev. */
int64_t cuda__lt_bytes(int64_t largest);
int cuda__lt_room(struct cuda_lt *lt, struct cuda_dev *dev, int64_t largest, struct err *e);

/* --- the blob: all that a pass needs to know, in one piece of pinned memory and at one place on the device --- */

struct cuda_row {
    int32_t tok, pos;
    int32_t item; /* whose */
    int32_t cell; /* where its key and value go: page * CUDA_KEYS + position in it */
    int32_t
        parent; /* row of the pass that stands before it in its tree; -1: what stands before it is settled */
};

struct cuda_item {
    int32_t first; /* row */
    int32_t len;   /* tokens settled before the pass */
    int32_t tree;  /* 1: rows lie in slots until they are settled */
    int32_t pages; /* where its page list begins */
};

/* Rows that attend together: they share pages. */
struct cuda_unit {
    int32_t item, row, n; /* n rows from row on; n * group <= CUDA_ROWS, or n is 1 */
};

/* Where its parts lie on the device. */
struct cuda_blob {
    const struct cuda_row *row;
    const struct cuda_item *item;
    const struct cuda_unit *unit;
    const int32_t *page; /* lists of pages, one an item */
    const int32_t *want; /* rows that want logits */
};

/* --- pass.cu and the kernels --- */

/* Sizes that every kernel asks for. */
struct cuda_shape {
    int32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, vocab, ffn;
    int32_t n_experts, n_used, moe_ffn, norm_topk;
    int32_t pages;      /* of the pool, those of slots included */
    int32_t chunks_max; /* of a whole context */
    float eps;
};

/* Where a pass works; all on the device. */
struct cuda_desk {
    float *x; /* (rows, hidden) residual stream */
    uint16_t *a, *o, *f,
        *e; /* what goes into a matrix, BF16: normed rows (rows, lda), attention (rows, ldo), silu(gate) * up
                              * (rows, ldf), the same of experts (rows n_used, lde).  Each has its own room, so that its
                              * padding stays zero */
    float *a_float;     /* (rows, hidden) the same before rounding, for the router; NULL: dense */
    uint16_t *q;        /* (rows, n_heads * head_dim) */
    float *part;        /* (splits, rows, outputs) sums of a GEMM */
    float *attn_ml;     /* (CUDA_ROWS, n_heads, chunks_max, 2) maximum and sum of a chunk */
    float *attn_o;      /* (CUDA_ROWS, n_heads, chunks_max, head_dim) */
    char *kv;           /* BF16 [layer][page][kv head][K|V][64][head_dim] */
    float *logits;      /* (logits_max, stride) */
    float *router;      /* (rows, n_experts) */
    int32_t *pick;      /* (rows, n_used) experts */
    float *pick_w;      /* (rows, n_used) */
    int32_t *place;     /* (rows, n_used) where a pick's rows lie, grouped by expert */
    int32_t *place_row; /* (rows * n_used) row of a place */
    int32_t *work;      /* 1 + 3 * works: how many, then expert, first place, places of each */
    struct path *path;  /* (items) where walks leave their paths */
    int32_t lda, ldo, ldf, lde;
    int64_t stride; /* of logits */
};

/* CUDA_ROWS rows that attend together. */
struct cuda_batch {
    int32_t unit, units; /* of the blob */
    int32_t chunks;      /* most chunks of settled keys that one of its rows has */
};

/* One pass, and what of it lies where. */
struct cuda_pass {
    struct cuda_dev *dev;
    const struct cuda_shape *shape;
    const struct cuda_weights *w;
    const struct cuda_desk *desk;
    struct cuda_blob blob;
    int32_t rows, items, want;      /* want: rows of logits */
    const struct cuda_batch *batch; /* host; (rows / CUDA_ROWS, rounded up) */
    struct cuda_lt *lt;             /* a chunk of a prompt, by the library; NULL: rows of a round */
    int32_t row0;                   /* with lt: where desk's rows begin among the CUDA_PROMPT of the call */
};

void cuda__pass(const struct cuda_pass *p);
/* The accepted nodes of every tree into its sequence's pages.  host: (items) paths on the device that came from the host, of which
 * those that are PATH_PENDING lie in desk->path; NULL: all do. */
void cuda__settle(const struct cuda_pass *p, const struct path *host);
/* First n positions of page `from` to page `to`, all layers. */
void cuda__page_copy(struct cuda_dev *dev, const struct cuda_shape *s, char *kv, int32_t to, int32_t from,
                     int32_t n);

#endif
