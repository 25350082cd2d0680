/* head.c - which rows of the output layer a guess is chosen from.
 *
 * A quarter of a 0.6B draft is its output layer, and texts use little of it.  Byte pair encoding numbers its merges by how often
 * they occurred, so low ids are the frequent ones (FR-Spec, Zhao et al. 2025, ranks by counts of a corpus, which no checkpoint
 * brings): ids below a limit, the last ones, which are the template's words, and, 16 at a time, those near ids that texts here
 * held of late.  The rest is computed where what is likely missing there is worth its time.
 *
 * Logits that are not computed are HEAD_ABSENT: no dice make them win. */
#include "draft/internal.h"

#include <stdlib.h>

static const float HEAD_ABSENT = -1e30f;

enum {
    HEAD_AUTO =
        32768, /* of Qwen3's ids: 93 to 95% of English prose and code, 96 to 98.5% with the panels noted */
    HEAD_TAIL = 64, /* ids at the end that are always there: added tokens */
    MISS_PRIOR = 100,
    MISS_FADE = 4000, /* judged guesses before all are halved */
};

static const double MISS_FIRST = 0.02;
/* A token missed ends a branch, which holds some two and a half more; drafting is about half of a round.  So the part of a level
 * that is spared must be five times the tokens missed. */
static const double MISS_COST = 5;

int draft__head_init(struct draft *d)
{
    struct head *h = &d->head;
    int32_t vocab = d->opts.vocab, limit = d->opts.head;
    if (limit < 0)
        limit = vocab >= 2 * HEAD_AUTO ? HEAD_AUTO : 0;
    h->by_experience = d->opts.head < 0;
    h->tail = (vocab - HEAD_TAIL) / CPU_PANEL * CPU_PANEL;
    h->limit = (limit + CPU_PANEL - 1) / CPU_PANEL * CPU_PANEL;
    if (limit == 0 || h->limit >= h->tail) { /* all of it */
        h->limit = 0;
        return 0;
    }
    h->stale = 1;
    h->seen = calloc((size_t) (vocab / CPU_PANEL + 1), sizeof *h->seen);
    for (int b = 0; b < CONF_BINS; b++) {
        h->trials[b] = MISS_PRIOR;
        h->misses[b] = MISS_PRIOR * MISS_FIRST;
    }
    return h->seen ? 0 : ST_NOMEM;
}

void draft__head_fini(struct draft *d)
{
    free(d->head.seen);
}

/* --- which ids --- */

static void clear(struct draft *d, int32_t row, int32_t from, int32_t to)
{
    float *l = d->logits + row * d->stride;
    for (int32_t v = from; v < to; v++)
        l[v] = HEAD_ABSENT;
}

/* The panel that was noted longest ago leaves. */
static void drop_oldest(struct draft *d)
{
    struct head *h = &d->head;
    int at = 0;
    for (int i = 1; i < h->n_hot; i++)
        if (h->seen[h->hot[i]] < h->seen[h->hot[at]])
            at = i;
    int32_t panel = h->hot[at];
    for (int32_t r = 0; r < h->n_clear; r++)
        clear(d, r, panel * CPU_PANEL, (panel + 1) * CPU_PANEL);
    h->seen[panel] = 0;
    h->hot[at] = h->hot[--h->n_hot];
}

void draft__head_note(struct draft *d, int32_t tok)
{
    struct head *h = &d->head;
    if (!h->limit || tok < h->limit || tok >= h->tail)
        return;
    int32_t panel = tok / CPU_PANEL;
    h->clock++;
    if (!h->seen[panel]) {
        if (h->n_hot == HEAD_HOT)
            drop_oldest(d);
        h->hot[h->n_hot++] = panel;
        h->stale = 1;
    }
    h->seen[panel] = h->clock;
}

static int has(const struct head *h, int32_t tok)
{
    return tok < h->limit || tok >= h->tail || h->seen[tok / CPU_PANEL];
}

static int ascending(const void *a, const void *b)
{
    return *(const int32_t *) a - *(const int32_t *) b;
}

/* What is computed and what is not, as ranges. */
static void cut(struct draft *d)
{
    struct head *h = &d->head;
    int32_t at = h->limit;
    qsort(h->hot, (size_t) h->n_hot, sizeof *h->hot, ascending);
    h->n_part = h->n_rest = 0;
    h->part[h->n_part++] = (struct cpu_range){0, h->limit};
    for (int i = 0; i < h->n_hot; i++) {
        int32_t from = h->hot[i] * CPU_PANEL;
        if (from == at) {
            h->part[h->n_part - 1].to = at += CPU_PANEL;
            continue;
        }
        h->rest[h->n_rest++] = (struct cpu_range){at, from};
        h->part[h->n_part++] = (struct cpu_range){from, from + CPU_PANEL};
        at = from + CPU_PANEL;
    }
    if (at < h->tail)
        h->rest[h->n_rest++] = (struct cpu_range){at, h->tail};
    h->part[h->n_part++] = (struct cpu_range){h->tail, d->opts.vocab};
    h->absent = 0;
    for (int i = 0; i < h->n_rest; i++)
        h->absent += h->rest[i].to - h->rest[i].from;
    h->stale = 0;
}

/* --- whether --- */

/* Of a pass over few rows, the part that is not read. */
static double spared(const struct draft *d)
{
    return (double) cpu_head_bytes(d->opts.weights) / (double) cpu_model_bytes(d->opts.weights) *
           d->head.absent / d->opts.vocab;
}

int draft__head_narrow(struct draft *d)
{
    struct head *h = &d->head;
    double misses = 0, trials = 0;
    if (!h->limit)
        return 0;
    if (h->stale)
        cut(d);
    for (int b = 0; b < CONF_BINS; b++) {
        misses += h->misses[b];
        trials += h->trials[b];
    }
    return !h->by_experience || MISS_COST * misses < spared(d) * trials;
}

void draft__head_judge(struct draft *d, float conf, int32_t said)
{
    struct head *h = &d->head;
    int b = draft__conf_bin(conf);
    if (!h->limit)
        return;
    h->misses[b] += !has(h, said);
    h->trials[b] += 1;
    if (h->trials[b] > MISS_FADE) {
        h->misses[b] /= 2;
        h->trials[b] /= 2;
    }
}

int draft__head_widens(const struct draft *d, const float *alive, const float *conf, int n)
{
    const struct head *h = &d->head;
    double missed = 0, kept = 0;
    for (int i = 0; i < n; i++) {
        int b = draft__conf_bin(conf[i]);
        missed += alive[i] * h->misses[b] / h->trials[b];
        kept += alive[i] * conf[i];
    }
    return missed > spared(d) * kept;
}

/* --- logits --- */

int draft__head_part(struct draft *d, const struct cpu_head_row *row, int n)
{
    struct head *h = &d->head;
    for (; h->n_clear < n; h->n_clear++)
        clear(d, h->n_clear, 0, (int32_t) d->stride);
    return cpu_head(d->opts.weights, row, n, h->part, h->n_part, d->logits, d->stride);
}

int draft__head_rest(struct draft *d, const struct cpu_head_row *row, int n)
{
    return cpu_head(d->opts.weights, row, n, d->head.rest, d->head.n_rest, d->logits, d->stride);
}

void draft__head_clear(struct draft *d, int n)
{
    for (int32_t r = 0; r < n; r++)
        for (int i = 0; i < d->head.n_rest; i++)
            clear(d, r, d->head.rest[i].from, d->head.rest[i].to);
}
