/* cpu.h - a Qwen3 forward pass on the CPU: weights in panels, paged KV, a batch of rows of many sequences.
 *
 * Shared by the draft and by the CPU target.  Each row carries its own path: settled positions in its sequence's
 * pages, then its in-flight ancestors in slots, then itself.  Every sum runs in NUMERICS.md's order over that path, so
 * a row's logits do not depend on its neighbours in the batch, on the slots its ancestors sit in, on the thread count
 * or on the instruction set: every kernel equals its plain C twin bit for bit.
 *
 * Thread: one thread at a time may call cpu_forward on one struct cpu; the pool's threads live inside. */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include <stdint.h>

#include "core/status.h"
#include "model/model.h"

enum { CPU_PAGE = 64 }; /* positions a KV page; also the GPU's, so that prefix keys agree */

/* TWIN_FMA: the twins compiled for AVX2 and FMA; never the best, and many times faster than TWIN where whole engines run on it. */
/* Otherwise auto is the last one the machine has. */
enum cpu_isa {
    CPU_ISA_AUTO,
    CPU_ISA_TWIN,
    CPU_ISA_AVX2,
    CPU_ISA_AVXVNNI,
    CPU_ISA_AVX512,
    CPU_ISA_VNNI,
    CPU_ISA_TWIN_FMA
};
/* What a matrix is kept as.  Q8: blocks of 32 inputs, FP16 scale, int8 (Q8_0); Q4: likewise with 4 bits (Q4_0). */
enum cpu_quant {
    CPU_QUANT_F32,
    CPU_QUANT_BF16,
    CPU_QUANT_Q8,
    CPU_QUANT_F16,
    CPU_QUANT_Q4,
    CPU_QUANT_STORED /* each matrix as cpu_quant_of its own type */
};
enum cpu_kv_type { CPU_KV_BF16, CPU_KV_F32 };

/* --- where this process may compute --- */

struct cpu_room {
    int processors; /* of its affinity mask */
    int cores;      /* those, siblings on one core counted once */
    int nodes;      /* of memory, that these cores belong to */
    int quota; /* processors' worth of time its cgroups allow, rounded down to 1 at least; INT_MAX: no limit */
    int64_t bytes; /* of memory, likewise; INT64_MAX: no limit */
};

void cpu_room(struct cpu_room *out);

/* --- a pool of threads and the kernel table for this machine --- */

struct cpu;

enum { CPU_THREADS_MAX = 256 }; /* more than any socket has; a barrier counts on all of them being runnable */

struct cpu_opts {
    int threads; /* 1..CPU_THREADS_MAX; the caller's thread is one of them */
    int isa;     /* enum cpu_isa; one this machine lacks is refused (ST_UNSUPPORTED) */
    int side;    /* of these threads, for cpu_side when the two are apart; 0..threads - 1, 0: no side */
    int pin; /* 1: each to a processor that no other pinned pool of this machine has; none, where too few are left */
};

int cpu_open(struct cpu **out, const struct cpu_opts *o, struct err *e);
void cpu_close(struct cpu *c); /* and with it its side; NULL is fine */

/* 1: OpenBLAS knows this processor.  One that is newer than the library is taken for one without AVX2, four times slower than the
 * kernels here: 0, and the log says what helps. */
int cpu_blas_fits(const struct cpu *c);

/* The same threads for a second caller; borrows from c; NULL: none.  Together (at first) the passes of both take all threads,
 * and the callers take turns.  Apart, c has threads - side of them and its side the others: two threads may compute at once. */
struct cpu *cpu_side(struct cpu *c);
void cpu_apart(struct cpu *c, int apart); /* while neither computes */
int cpu_pinned(const struct cpu *c);      /* 1: its threads are */
/* Pins the calling thread to where c's caller belongs (a side's: when they are apart); nothing where threads are not pinned. */
void cpu_home(const struct cpu *c);
const char *cpu_isa_name(const struct cpu *c); /* "twin", "avx2", "avxvnni", "avx512", "vnni", "twin-fma" */
int cpu_isa_find(const char *name);            /* enum cpu_isa, "auto" too, or -1 */

/* --- weights, packed once into the kernels' layout --- */

struct cpu_model;

/* Packs m's matrices as `quant` (norms and routers stay float; embedding rows are read as stored).  Q8_0 tensors as Q8 and
 * Q4_0 ones as Q4 keep their bits.  Borrows c and m until close. */
int cpu_model_open(struct cpu_model **out, struct cpu *c, const struct model *m, int quant, struct err *e);
/* The same, with the panels from a file in dir where an earlier start has left them, and left there where none has: beside the
 * work, in a thread of its own.  Nothing that goes wrong with it is an error; the log says what was done.  Borrows dir for the call. */
int cpu_model_open_cached(struct cpu_model **out, struct cpu *c, const struct model *m, int quant,
                          const char *dir, struct err *e);
void cpu_model_close(struct cpu_model *w); /* NULL is fine */
size_t cpu_model_bytes(
    const struct cpu_model *w); /* packed weights a pass over one row reads, output layer included */

size_t cpu_head_bytes(const struct cpu_model *w); /* of them, the output layer's */

/* What a tensor of this type (enum tensor_type) is kept as: itself where there is such a kernel; FP8, Q4_K and Q6_K as Q8. */
int cpu_quant_of(int tensor_type);
/* `--*-quant auto`: what cpu_quant_of says of every matrix; CPU_QUANT_STORED where they differ (a Q4_0 file with a Q6_K
 * embedding, an FP8 checkpoint with a BF16 head). */
int cpu_quant_stored(const struct model *m);
const char *cpu_quant_name(int quant); /* "f32", "bf16", "q8", "f16", "q4", "stored" */
int cpu_quant_find(const char *name);  /* enum cpu_quant, or -1 */
/* One line for the log: how many matrices of which type are kept as what. */
void cpu_quant_describe(const struct model *m, int quant, char *text, size_t bytes);

/* --- what another backend makes its weights of, to the same bits --- */

enum { CPU_Q8_BLOCK = 32 /* inputs that share a scale */, CPU_HEAD_DIM_MAX = 512 };

/* Row `row` of a tensor of any type but TENSOR_OTHER, widened to float; a vector is one row. */
void cpu_tensor_row(const struct tensor *t, int64_t row, float *out);
/* Q8: the block's FP16 scale and values.  0, or not 0 where a value is not finite or the scale overflows. */
int cpu_q8_block(const float x[CPU_Q8_BLOCK], uint16_t *scale, int8_t q[CPU_Q8_BLOCK]);
/* Cosines and sines of positions [pos, pos + n), (n, head_dim / 2) each; head_dim <= CPU_HEAD_DIM_MAX. */
void cpu_rope_table(const struct config *g, int pos, int n, float *cosines, float *sines);

/* --- KV: pages for settled positions, slots for in-flight ones --- */

struct cpu_kv;

/* Allocates n_pages pages and n_slots slots of every layer of m.  Page contents: K d-major (key = lane), V row-major.
 * Pages carry no owner here: who counts references (target/pages.c, draft/seq.c) hands out the numbers. */
int cpu_kv_open(struct cpu_kv **out, const struct model *m, int type, int n_pages, int n_slots,
                struct err *e);
void cpu_kv_close(struct cpu_kv *kv);                      /* NULL is fine */
size_t cpu_kv_page_bytes(const struct model *m, int type); /* of one page, all layers, K and V */

/* Settles one in-flight row: copies slot's K and V to position `at` (0..CPU_PAGE-1) of page, all layers. */
void cpu_kv_commit(struct cpu_kv *kv, int page, int at, int slot);
/* Copies the first n positions of page `from` to page `to`, all layers (fork: the half-filled last page). */
void cpu_kv_copy(struct cpu_kv *kv, int to, int from, int n);

/* --- the pass --- */

struct cpu_row {
    int32_t tok;   /* token id, [0, vocab) */
    int32_t pos;   /* position in its sequence; the angle of its rotation */
    int32_t start; /* first position this row may see, multiple of CPU_PAGE (0 but for a windowed draft) */
    const int32_t *page; /* page[i] holds positions start + i * CPU_PAGE ...; borrowed for the call */
    int32_t n_tail; /* in-flight ancestors, 0..TREE_MAX - 1; settled keys are start .. pos - n_tail - 1 */
    const int32_t *tail; /* their slots, oldest first; borrowed for the call */
    int32_t slot;   /* where this row's own K and V go; -1: to its page at pos (a settled row, n_tail == 0) */
    int32_t logits; /* row of `logits` to write, or -1: none wanted (no output layer for this row) */
};

enum cpu_forward_flags {
    CPU_FORWARD_BLAS = 1, /* draft only: matrices of long batches by OpenBLAS; the result is not the twin's */
    CPU_FORWARD_NO_HEAD = 2, /* no logits: cpu_head follows */
};

/* One forward pass for n rows (any n; tiled inside).  All rows' K and V are written, layer by layer, before any row
 * attends, so a row may name ancestors of the same batch, or earlier rows of its own prompt chunk.
 * logits: float32, row r at r * stride, stride >= vocab; NULL if no row wants any.
 * 0, or ST_NOMEM (scratch grows with n and is kept). */
int cpu_forward(struct cpu_model *w, struct cpu_kv *kv, const struct cpu_row *row, int n, float *logits,
                int64_t stride, int flags);

/* --- what the machine can read, the limit of a pass over few rows --- */

struct cpu_bandwidth;

/* A stretch a thread; stretches of 256 KB in turn; four prefetched streams a thread. */
enum cpu_read_pattern { CPU_READ_STRETCH, CPU_READ_TURNS, CPU_READ_STREAMS, CPU_READ_PATTERNS };

/* Takes a block of so many bytes, which should be several times the largest cache.  Borrows c until close. */
int cpu_bandwidth_open(struct cpu_bandwidth **out, struct cpu *c, size_t bytes, struct err *e);
void cpu_bandwidth_close(struct cpu_bandwidth *b); /* NULL is fine */
void cpu_bandwidth_round(struct cpu_bandwidth *b); /* reads the block once in each pattern, on all threads */
/* (CPU_READ_PATTERNS) GB/s of each pattern's best round so far; borrowed until close. */
const double *cpu_bandwidth_gbs(const struct cpu_bandwidth *b);

/* --- the output layer over part of the vocabulary --- */

enum { CPU_PANEL = 16 };

struct cpu_range {
    int32_t from, to; /* ids, multiples of CPU_PANEL; `to` may be the vocabulary's end, too */
};

struct cpu_head_row {
    int32_t row;    /* of the model's last cpu_forward */
    int32_t logits; /* row of `logits` to write */
};

/* Logits of these rows for the ids of these ranges, which do not overlap: as cpu_forward gives them, to the bit.  Others are left
 * as they are.  0, or ST_NOMEM. */
int cpu_head(struct cpu_model *w, const struct cpu_head_row *row, int n, const struct cpu_range *range,
             int n_ranges, float *logits, int64_t stride);

#endif
