/* inside.h - what the files of cpu/ share: the open machine, packed matrices, pages.  Nobody outside includes it. */
#ifndef CPU_INSIDE_H
#define CPU_INSIDE_H

#include "cpu/cpu.h"
#include "cpu/kern.h"
#include "cpu/pool.h"

struct cpu {
    struct cpu__pool *pool; /* owns; of a side, borrows */
    struct kern kern;
    int isa;          /* enum cpu_isa, never CPU_ISA_AUTO */
    struct cpu *side; /* owns; NULL: none, or this is one */
    int place;        /* the caller's processor; -1: any */
    int *claim;       /* owns; (n_claims) descriptors that hold its processors */
    int n_claims;
};

/* --- pack.c: one weight matrix in panels --- */

struct cpu__matrix {
    void *w;      /* (panels) panels of `quant`, 64-byte aligned; a model's lie in its one block */
    int quant;    /* enum cpu_quant, never CPU_QUANT_STORED */
    int n, k;     /* outputs, inputs as the tensor has them */
    int k_packed; /* inputs a panel holds: k, for Q8 and Q4 rounded up to Q8_BLOCK */
    int panels;   /* of PANEL outputs, the last padded with zeros */
    size_t panel_bytes;
};

static inline int cpu__round_up(int n, int to)
{
    return (n + to - 1) / to * to;
}

static inline size_t cpu__matrix_bytes(const struct cpu__matrix *m)
{
    return (size_t) m->panels * m->panel_bytes;
}

static inline const void *cpu__matrix_panel(const struct cpu__matrix *m, int p)
{
    return (const char *) m->w + (size_t) p * m->panel_bytes;
}

static inline int cpu__quant_is_int(int quant)
{
    return quant == CPU_QUANT_Q8 || quant == CPU_QUANT_Q4;
}

/* ST_UNSUPPORTED: a tensor type without float values, or values `quant` cannot hold; ST_NOMEM. */
int cpu__matrix_pack(struct cpu__matrix *m, struct cpu *c, const struct tensor *t, int quant, struct err *e);
void cpu__matrix_free(struct cpu__matrix *m);

/* The same in two steps, for matrices that share one block of memory: sizes, then, with m->w set, the panels.  source: the sum of
 * what was packed, NULL: not wanted. */
void cpu__matrix_plan(struct cpu__matrix *m, const struct tensor *t, int quant);
int cpu__matrix_fill(struct cpu__matrix *m, struct cpu *c, const struct tensor *t, uint64_t *source,
                     struct err *e);
/* The file's pages leave this process (not the page cache): else a checkpoint would lie in memory twice. */
void cpu__matrix_let_go(const struct tensor *t);
/* That sum alone.  ST_NOMEM. */
int cpu__matrix_source(const struct cpu__matrix *m, struct cpu *c, const struct tensor *t, uint64_t *source);

/* --- sum.c --- */

uint64_t cpu__sum(const void *data, size_t bytes);

/* --- all panels of a model, in one block --- */

struct cpu__item {
    struct cpu__matrix *m;  /* borrows */
    const struct tensor *t; /* borrows */
    size_t at;              /* where its panels begin in the block */
};

struct cpu__panels {
    char *base; /* (bytes) 64-byte aligned */
    size_t bytes;
    void *map; /* owns; (map_bytes) the mapping it lies in */
    size_t map_bytes;
};

/* Memory for them, in huge pages.  ST_NOMEM. */
int cpu__panels_new(struct cpu__panels *p, size_t bytes, struct err *e);
void cpu__panels_free(struct cpu__panels *p);

uint16_t cpu__f16_from_f32(float f); /* to nearest even, overflow to infinity */

/* --- kv.c --- */

struct cpu_kv {
    char *
        page; /* owns; (n_pages)[layer]{ K [kv head][head_dim][CPU_PAGE], V [kv head][CPU_PAGE][head_dim] } */
    char *slot; /* owns; (n_slots)[layer]{ K [kv head][head_dim], V [kv head][head_dim] } */
    int type;   /* enum cpu_kv_type: what keys and values are rounded to */
    int stored; /* enum cpu_kv_type: what they lie in memory as; `type` but for a broken build */
    int n_pages, n_slots;
    int n_layers, n_kv_heads, head_dim;
    size_t element; /* bytes */
    size_t page_bytes, slot_bytes;
};

/* First element of one head's keys or values. */
void *cpu__kv_page_k(const struct cpu_kv *kv, int page, int layer, int head);
void *cpu__kv_page_v(const struct cpu_kv *kv, int page, int layer, int head);
void *cpu__kv_slot_k(const struct cpu_kv *kv, int slot, int layer, int head);
void *cpu__kv_slot_v(const struct cpu_kv *kv, int slot, int layer, int head);

/* Rounds one head's key and value (head_dim each) to the KV type and writes them. */
void cpu__kv_put_page(struct cpu_kv *kv, int page, int at, int layer, int head, const float *k,
                      const float *v);
void cpu__kv_put_slot(struct cpu_kv *kv, int slot, int layer, int head, const float *k, const float *v);

/* --- weights.c: a packed model --- */

struct cpu__ffn {
    struct cpu__matrix gate, up, down;
};

struct cpu__layer {
    float *attn_norm, *q_norm, *k_norm, *ffn_norm; /* own; (hidden), (head_dim), (head_dim), (hidden) */
    struct cpu__matrix q, k, v, o;
    struct cpu__ffn ffn;       /* of a dense layer */
    struct cpu__matrix router; /* F32; of a layer with experts */
    struct cpu__ffn *expert;   /* owns; (n_experts); NULL: a dense layer */
};

struct cpu_model {
    struct cpu *cpu;           /* borrows */
    const struct model *model; /* borrows */
    struct config config;
    int quant;                /* enum cpu_quant */
    int int_matrices;         /* 1: some take quantized rows */
    int float_experts;        /* 1: some expert takes float rows */
    struct cpu__layer *layer; /* owns; (n_layers) */
    struct cpu__item *item;   /* owns; (n_items) every matrix, in the order of the block */
    int n_items;
    struct cpu__panels panels;
    struct cpu__writer *writer; /* owns; NULL: nothing is being written to the pack cache */
    float *norm;                /* owns; (hidden) */
    struct cpu__matrix head;
    float *inv_freq;        /* owns; (head_dim / 2) */
    float rope_factor;      /* of cosines and sines: YaRN's attention factor, else 1 */
    int rope_positions;     /* whose angles are kept; later ones are computed when they are met */
    float *cosines, *sines; /* own; (rope_positions, head_dim / 2) */
    char *scratch;          /* owns; grows with the rows of a pass and is kept */
    size_t scratch_bytes;
    const float *x; /* (rows of the last pass, ldx) in scratch: its residual stream */
    int64_t ldx;
    char *head_scratch; /* owns; of cpu_head, likewise */
    size_t head_bytes;
};

/* --- matmul.c: a matrix times rows --- */

/* Rows of activations in whichever form the matrix's kernel takes. */
struct cpu__rows {
    int64_t ld;        /* elements from row to row of x and q; a multiple of Q8_BLOCK */
    float *x;          /* (rows, ld) */
    int8_t *q;         /* (rows, ld) */
    float *d;          /* (rows, ld / Q8_BLOCK) */
    int32_t *sum;      /* (rows, ld / Q8_BLOCK) */
    struct q8_row *q8; /* (rows) views of the three above */
};

enum {
    CPU__TILE_ROWS = 64,   /* rows a kernel call: as many as gemm.h reads a panel for at once */
    CPU__TILE_PANELS = 48, /* most panels a piece of work */
    CPU__TILE_WIDTH = CPU__TILE_PANELS * PANEL,
    CPU__BLAS_ROWS = 256,  /* rows an sgemm call */
    CPU__BLAS_PANELS = 16, /* panels of widened weights that stay in a core's own cache */
    CPU__BLAS_MIN = 32     /* rows of a pass below which widening the weights costs more than sgemm gains */
};

/* How many pieces of work a matrix falls into, and the first panel of piece i; piece `pieces` starts at m->panels.  Starts
 * are even, so that the blocks of 32 a piece's outputs form as Q8 inputs are whole. */
int cpu__pieces(const struct cpu__matrix *m, int threads, int blas);
int cpu__piece_start(const struct cpu__matrix *m, int pieces, int i);
/* The same for each of n matrices of this size that are worked on side by side: together enough for all threads, and each
 * no smaller than it must be, since the activations are packed anew for every piece. */
int cpu__pieces_each(const struct cpu__matrix *m, int threads, int n);

/* Outputs of panels [p0, p1) for rows [r0, r1): out[(r - r0) * ldo + o], o counted from panel p0.  room: kern.h's, or NULL. */
void cpu__matmul(const struct cpu *c, const struct cpu__matrix *m, int p0, int p1, const struct cpu__rows *x,
                 int r0, int r1, float *out, int64_t ldo, struct gemm_room *room);

/* The same by OpenBLAS on widened weights: (k, width), width = (p1 - p0) * PANEL. */
void cpu__matmul_widen(const struct cpu__matrix *m, int p0, int p1, float *weights);
void cpu__matmul_blas(const float *weights, int k, int width, const struct cpu__rows *x, int r0, int r1,
                      float *out, int64_t ldo);

#endif
