/* pass.h - what the files of a forward pass share: its state, its scratch, and the steps that both dense layers and experts take.
 *
 * forward.c runs the steps, scratch.c cuts their memory, experts.c has the steps of a layer with experts.  Internal to these. */
#ifndef CPU_PASS_H
#define CPU_PASS_H

#include "core/tree.h"
#include "cpu/inside.h"

/* Attention tasks: neighbouring rows of one sequence, so that its pages are read once for all of them. */
enum {
    ATTEND_ROWS = 16,         /* rows a task, at most */
    ATTEND_BYTES = 1 << 20,   /* memory for their scores, unless one row alone needs more */
    ATTEND_TASKS_A_THREAD = 4 /* at least, while there are rows: a thread that lost its core is made up for */
};

enum {
    OWN_ROWS =
        8, /* rows up to which every thread norms all of them for itself: cheaper than to wait for one another */
    ROOMS = 8,          /* tiles of rows kept as a kernel packed them: 512 rows of a prompt */
    ROOM_ROW_BYTES = 72 /* of a block of a row there: the most any kernel takes (gemm.h) */
};

/* What one thread works in. */
struct desk {
    int thread;
    int begun;                    /* 1: it has taken its first piece of this step */
    struct cpu__rows own;         /* (OWN_ROWS) normed rows */
    struct gemm_room room[ROOMS]; /* of the step's input, by tile of rows */
    float *out, *second; /* (tile rows, CPU__TILE_WIDTH) outputs of one piece; second: `up` beside `gate` */
    float *weights;      /* BLAS: (widest k, CPU__BLAS_PANELS * PANEL) */
    float *score;        /* (attend_rows, group, score_ld) */
    const void **k_page, **v_page; /* (longest row's pages) */
    const void *k_tail[ATTEND_ROWS][TREE_MAX], *v_tail[ATTEND_ROWS][TREE_MAX];
};

/* Which row goes to which experts, anew in every layer.  A row's picks, n_used of them, stand in the order its sum takes.  Places
 * are numbered so that the rows of one expert are neighbours: place p is some pick of some row. */
struct crew {
    int picks; /* n * n_used */
    int64_t ldr, ldy;
    float *router; /* (n, ldr) the router's logits */
    int *expert;   /* (n, n_used) by logit descending, then id ascending */
    float *weight; /* (n, n_used) */
    int *place;    /* (n, n_used) */
    int *row;      /* (picks) of each place */
    int *active;   /* (n_experts) those picked at all, in the order in which the rows first name them */
    int *from;     /* (n_experts + 1) first place of active[i] */
    int n_active;
    int *rank;          /* (n_experts) its index in `active` */
    struct cpu__rows x; /* (picks) each place's input: views of quantized rows, copies of float ones */
    struct cpu__rows f; /* (picks) silu(gate) * up */
    float *y;           /* (picks, ldy) each place's output */
};

struct pass {
    struct cpu_model *w;
    struct cpu_kv *kv;
    const struct cpu_row *row;
    float *logits;
    int64_t stride;
    int n;
    int threads;
    int blas;        /* 1: matrices by OpenBLAS */
    int q8;          /* 1: rows are quantized, for some matrix takes them so */
    int tile_rows;   /* rows a matrix product takes at a time */
    int rooms;       /* of a desk that have memory */
    int by_head;     /* 1: a thread takes whole KV heads, from norm to quantized output */
    int group;       /* query heads a KV head */
    int score_ld;    /* the longest row's keys, rounded up to 16 */
    int attend_rows; /* most rows an attention task takes */
    int n_tasks;     /* attention tasks a KV head */
    int *task;       /* (n_tasks + 1) first row of each */
    int n_want;      /* rows that want logits */
    int *want;       /* (n_want) which */
    int64_t ldx, ldq, ldk;
    float *x;               /* (n, ldx) residual stream */
    float *q;               /* (n, ldq) queries of all heads */
    float *k, *v;           /* (n, ldk) */
    float *cosines, *sines; /* (n, head_dim / 2) */
    struct cpu__rows a;     /* (n) normed rows, then what attention gives */
    struct cpu__rows f;     /* (n) silu(gate) * up of a dense layer */
    struct desk *desk;      /* (threads) */
    struct crew crew;       /* of a model with experts */
};

static inline int min(int a, int b)
{
    return a < b ? a : b;
}

static inline int max(int a, int b)
{
    return a > b ? a : b;
}

/* --- scratch.c --- */

/* Points everything p needs into the model's scratch, which grows; needs n, threads, blas, tile_rows and what plan_attention
 * measured.  ST_NOMEM. */
int cpu__pass_scratch(struct pass *p);

struct cpu__head_piece {
    int p0, p1; /* panels */
};

/* What cpu_head works in. */
struct cpu__head_room {
    struct cpu__rows a;            /* (n) normed rows */
    float *out;                    /* (threads, CPU__TILE_ROWS, CPU__TILE_WIDTH) */
    struct cpu__head_piece *piece; /* (pieces) */
};

int cpu__head_scratch(struct cpu_model *w, int n, int threads, int pieces, struct cpu__head_room *out);

/* --- forward.c --- */

/* What becomes of a tile of outputs: rows [r0, r1), outputs from o0, `width` of them (padding left out). */
typedef void (*emit_fn)(struct pass *p, int r0, int r1, int o0, int width, const float *out);

/* Piece i of `pieces` of a matrix for rows [r0, r1) of x. */
void cpu__pass_piece(struct pass *p, const struct cpu__matrix *m, int pieces, int i,
                     const struct cpu__rows *x, int r0, int r1, struct desk *d, emit_fn emit);
/* The whole matrix for rows [0, n): all threads, then a barrier. */
void cpu__pass_matrix(struct pass *p, const struct cpu__matrix *m, const struct cpu__rows *x, int n,
                      struct desk *d, emit_fn emit);
/* Piece i of gate, up and silu(gate) * up for rows [r0, r1) of x, into the same rows of `to`. */
void cpu__pass_ffn(struct pass *p, const struct cpu__ffn *f, int pieces, int i, const struct cpu__rows *x,
                   const struct cpu__rows *to, int r0, int r1, struct desk *d);
/* Whatever its rooms hold is no longer what the rows are: at the head of every step that multiplies. */
void cpu__desk_forget(struct desk *d);
/* Rows [r0, r1) of a tile into a matrix of outputs. */
void cpu__pass_copy(float *to, int64_t ld, int r0, int r1, int o0, int width, const float *out);

/* --- experts.c --- */

/* router -> picks -> places -> gate, up, silu -> down -> weighted sum, onto the residual stream; p->a holds the normed rows. */
void cpu__pass_experts(struct pass *p, const struct cpu__layer *y, struct desk *d);

#endif
