/* gemm.h - how every SIMD GEMM walks its panels; each kernel file brings the block that does the sums.
 *
 * Rows are cut into groups of equal size R (at most 8), panels into strips of N (at most 3) side by side.  A block is
 * 32 inputs of one strip: kernels hold its R x N sums in registers, so a broadcast of one activation serves N
 * panels and a read of weights serves R rows.  A block goes through all groups before the next is touched: memory
 * is read once, evenly, for up to GEMM_ROWS rows.  Accumulators wait in a small array between blocks, which costs
 * one load and one store per row, panel and block and loses no bit.
 *
 * Activations are packed first, block by block in the order the kernel wants them, so that one pointer with constant
 * offsets reaches all rows.  A caller that comes with the same rows again lends a room to keep them in (kern.h).  k is cut
 * where a packed stretch would outgrow GEMM_PACKED, or GEMM_KEPT of a room; the outputs then carry the accumulators from
 * one stretch to the next.
 *
 * Tried and dropped: one panel at a time with up to 16 rows and their accumulators in registers.  Each vpdpbusd then has
 * a 64-byte load of its own, and cores that load 64 bytes once a cycle are bound by that.
 *
 * Any thread; no state but GEMM_PACKED + 14 KB of stack. */
#ifndef CPU_GEMM_H
#define CPU_GEMM_H

#include <immintrin.h>
#include <string.h>

#include "cpu/kern.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    GEMM_ROWS = 64,      /* rows packed at a time; more would push the packed activations out of L2 */
    GEMM_PACKED = 81920, /* bytes of packed activations: 64 rows x 1024 inputs of Q8 */
    GEMM_KEPT = 262144,  /* bytes of kept ones read for one strip: half of a small L2 */
    GEMM_AHEAD = 2176, /* bytes prefetched ahead in each panel: past a page's end, where the hardware stops */
    GEMM_SIDE = 3,     /* most panels in a strip */
};

/* Activations: quantized rows, or float rows ldf apart. */
struct gemm_x {
    const struct q8_row *q;
    const float *f;
    int64_t ldf;
};

/* One strip: k inputs of N panels `stride` bytes apart, for all groups of R rows; acc: (groups, R, N, PANEL). */
typedef void gemm_strip(const uint8_t *w, int64_t stride, int k, const uint8_t *x, int groups, float *acc);

struct gemm {
    int group;       /* most rows in a group */
    int side;        /* most panels in a strip */
    int block_bytes; /* of one panel's block */
    int row_bytes;   /* of one row's packed block */
    /* Row `row` of x, inputs [k0, k0 + n), as row r of R; the next block lies `step` bytes on. */
    void (*pack)(uint8_t *to, int64_t step, const struct gemm_x *x, int row, int r, int R, int k0, int n);
    gemm_strip *strip[9][GEMM_SIDE + 1]; /* [R][N] */
};

/* Lines [from, to) of a block of N panels, into L2: the misses that L1 keeps track of are too few for all that is under way. */
INLINE void gemm_prefetch(const uint8_t *w, int64_t stride, int from, int to, int N)
{
    for (int i = from; i < to; i++)
#pragma GCC unroll 3
        for (int j = 0; j < N; j++)
            _mm_prefetch((const char *) (w + j * stride + i * 64), _MM_HINT_T1);
}

/* The prefetch pointer runs ahead in the same panels and, near their end, starts on the next strip's.  Each group asks for its
 * share of a block's lines: all at once would be more than the core can have under way, and the sums would wait. */
#define GEMM_STRIP(NAME, SUMS, BYTES, ROW_BYTES, R, N)                                                       \
    static void NAME##_##R##_##N(const uint8_t *w, int64_t stride, int k, const uint8_t *x, int groups,      \
                                 float *acc)                                                                 \
    {                                                                                                        \
        int blocks = (k + 31) / 32, most = GEMM_AHEAD / BYTES, ahead = blocks < most ? blocks : most;        \
        int lines = (BYTES + 63) / 64, share = (lines + groups - 1) / groups;                                \
        const uint8_t *next = w + N * stride, *pf = w + ahead * BYTES;                                       \
        for (int b = 0; b < blocks; b++) {                                                                   \
            if (b == blocks - ahead)                                                                         \
                pf = next;                                                                                   \
            for (int g = 0, line = 0; g < groups; g++, line += share) {                                      \
                int to = line + share < lines ? line + share : lines;                                        \
                gemm_prefetch(pf, stride, line, to, N);                                                      \
                SUMS##_##R(w, stride, k - b * 32 < 32 ? k - b * 32 : 32, x + g * R * ROW_BYTES, N,           \
                           acc + g * R * N * PANEL);                                                         \
            }                                                                                                \
            w += BYTES;                                                                                      \
            pf += BYTES;                                                                                     \
            x += groups * R * ROW_BYTES;                                                                     \
        }                                                                                                    \
    }

/* Straight-line code for R rows: arrays indexed by unrolled loops stay in memory with clang. */
#define EACH_1(X) X(0)
#define EACH_2(X) EACH_1(X) X(1)
#define EACH_3(X) EACH_2(X) X(2)
#define EACH_4(X) EACH_3(X) X(3)
#define EACH_5(X) EACH_4(X) X(4)
#define EACH_6(X) EACH_5(X) X(5)
#define EACH_7(X) EACH_6(X) X(6)
#define EACH_8(X) EACH_7(X) X(7)

/* The n panels of one row.  Written out: gcc makes a string instruction of a loop, a tenth of a pass in all. */
INLINE void gemm_copy(float *to, const float *from, int n)
{
    memcpy(to, from, sizeof(float) * PANEL);
    if (n > 1)
        memcpy(to + PANEL, from + PANEL, sizeof(float) * PANEL);
    if (n > 2)
        memcpy(to + PANEL * 2, from + PANEL * 2, sizeof(float) * PANEL);
}

/* acc[row][panel] <- out, or 0 where a sum starts (out is NULL) or a row only fills up its group. */
static void gemm_load(float *acc, const float *out, int64_t ldo, int rows, int m, int n)
{
    static const float zero[GEMM_SIDE * PANEL];
    for (int r = 0; r < rows; r++)
        gemm_copy(acc + r * n * PANEL, out && r < m ? out + r * ldo : zero, n);
}

static void gemm_store(const float *acc, float *out, int64_t ldo, int m, int n)
{
    for (int r = 0; r < m; r++)
        gemm_copy(out + r * ldo, acc + r * n * PANEL, n);
}

/* Inputs [k0, k0 + n) of all rows, blocks `step` bytes apart. */
static void gemm_pack(const struct gemm *g, uint8_t *to, int64_t step, const struct gemm_x *x, int row0,
                      int m, int R, int rows, int k0, int n)
{
    for (int r = 0; r < rows; r++)
        g->pack(to + r / R * R * g->row_bytes, step, x, row0 + (r < m ? r : m - 1), r % R, R, k0, n);
}

/* The rows as the room has them, packed now if it has others; NULL where it cannot hold them. */
static const uint8_t *gemm_kept(const struct gemm *g, struct gemm_room *room, int64_t step,
                                const struct gemm_x *x, int m, int R, int rows, int k)
{
    if (!room || (int64_t) room->bytes < (k + 31) / 32 * step)
        return NULL;
    if (room->rows != x->q || room->how != g->pack || room->m != m || room->k != k) {
        gemm_pack(g, room->packed, step, x, 0, m, R, rows, 0, k);
        room->rows = x->q;
        room->how = (const void *) g->pack;
        room->m = m;
        room->k = k;
    }
    return room->packed;
}

static void gemm_rows(const struct gemm *g, const uint8_t *w, int k, int p0, int p1, const struct gemm_x *x,
                      int row0, int m, float *out, int64_t ldo, struct gemm_room *room)
{
    _Alignas(64) uint8_t packed[GEMM_PACKED];
    _Alignas(64) float acc[(GEMM_ROWS + 8) * GEMM_SIDE * PANEL];
    int groups = (m + g->group - 1) / g->group, R = (m + groups - 1) / groups, rows = groups * R;
    int64_t panel = (int64_t) k * g->block_bytes / 32, step = (int64_t) rows * g->row_bytes;
    const uint8_t *kept = gemm_kept(g, room, step, x, m, R, rows, k);
    int reach = (int) ((kept ? GEMM_KEPT : GEMM_PACKED) / step) * 32;
    for (int k0 = 0; k0 < k; k0 += reach) {
        int n = k - k0 < reach ? k - k0 : reach;
        const uint8_t *in = kept ? kept + k0 / 32 * step : packed;
        if (!kept)
            gemm_pack(g, packed, step, x, row0, m, R, rows, k0, n);
        for (int p = p0, side; p < p1; p += side) {
            side = p1 - p < g->side ? p1 - p : g->side;
            gemm_load(acc, k0 ? out + p * PANEL : NULL, ldo, rows, m, side);
            g->strip[R][side](w + p * panel + (int64_t) k0 * g->block_bytes / 32, panel, n, in, groups, acc);
            gemm_store(acc, out + p * PANEL, ldo, m, side);
        }
    }
}

/* A room holds the rows of one call of at most GEMM_ROWS. */
static void gemm_run(const struct gemm *g, const void *w, int k, int p0, int p1, const struct gemm_x *x,
                     int m, float *out, int64_t ldo, struct gemm_room *room)
{
    if (m > GEMM_ROWS)
        room = NULL;
    for (int r = 0; r < m; r += GEMM_ROWS)
        gemm_rows(g, w, k, p0, p1, x, r, m - r < GEMM_ROWS ? m - r : GEMM_ROWS, out + r * ldo, ldo, room);
}

/* Four bytes of the packed activations. */
INLINE int32_t gemm_word(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}

INLINE float gemm_float(const uint8_t *p)
{
    float v;
    memcpy(&v, p, 4);
    return v;
}

/* For kernels that multiply bytes.  Of one row's block: 32 int8, then R biases (-offset * sum), then R scales. */
enum { GEMM_BYTE_BYTES = 40 };

INLINE void gemm_pack_bytes(uint8_t *to, int64_t step, const struct gemm_x *x, int row, int r, int R, int k0,
                            int n, int offset)
{
    const struct q8_row *q = x->q + row;
    for (int b = k0 / 32; b < (k0 + n) / 32; b++, to += step) {
        int32_t bias = -offset * q->sum[b];
        memcpy(to + r * 32, q->q + b * 32, 32);
        memcpy(to + R * 32 + r * 4, &bias, 4);
        memcpy(to + R * 36 + r * 4, &q->d[b], 4);
    }
}

static inline void gemm_pack_q8(uint8_t *to, int64_t step, const struct gemm_x *x, int row, int r, int R,
                                int k0, int n)
{
    gemm_pack_bytes(to, step, x, row, r, R, k0, n, 128);
}

/* For 4-bit weights. */
static inline void gemm_pack_q4(uint8_t *to, int64_t step, const struct gemm_x *x, int row, int r, int R,
                                int k0, int n)
{
    gemm_pack_bytes(to, step, x, row, r, R, k0, n, 8);
}

/* For kernels that multiply 16-bit pairs.  Of one row's block: 32 int8 as the pairs (0, 2), (1, 3) of every four, which
 * even and odd bytes of a weight's dword are multiplied with; then R biases (-128 * sum), then R scales. */
enum { GEMM_PAIR_BYTES = 72 };

static inline void gemm_pack_pairs(uint8_t *to, int64_t step, const struct gemm_x *x, int row, int r, int R,
                                   int k0, int n)
{
    const struct q8_row *q = x->q + row;
    for (int b = k0 / 32; b < (k0 + n) / 32; b++, to += step) {
        int32_t bias = -128 * q->sum[b];
        for (int i = 0; i < 32; i += 16) {
            __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *) (q->q + b * 32 + i)));
            v = _mm256_shufflelo_epi16(_mm256_shufflehi_epi16(v, 0xd8), 0xd8); /* 0 1 2 3 -> 0 2 1 3 */
            _mm256_storeu_si256((void *) (to + r * 64 + i * 2), v);
        }
        memcpy(to + R * 64 + r * 4, &bias, 4);
        memcpy(to + R * 68 + r * 4, &q->d[b], 4);
    }
}

#endif
