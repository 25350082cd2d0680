/* draft.h - guesses, on the CPU: of a small model, of the text's own repetitions, or of both in one tree.
 *
 * A struct draft is one small model, or none; a draft_seq is what it remembers of one conversation.  Wrong guesses cost time and
 * nothing else: its numbers cannot reach the text, and no caller may rely on their quality.
 *
 * The draft reads prompts too, beside the target: draft_feed only notes tokens, draft_propose reads them in portions.  Until
 * a sequence has caught up it proposes what lookup finds, or its root alone.  The model sees at most the last `context` tokens, at their true positions.
 *
 * Thread: the engine thread.  Nothing here calls back, logs, or allocates between draft_seq_new and draft_seq_free. */
#ifndef DRAFT_DRAFT_H
#define DRAFT_DRAFT_H

#include "core/status.h"
#include "core/tree.h"
#include "draw/draw.h"

struct cpu;
struct cpu_model;
struct model;
struct draft;
struct draft_seq;

struct draft_opts {
    struct cpu *cpu; /* borrows until close, as weights and model */
    struct cpu_model *weights;
    const struct model
        *model; /* NULL: lookup alone; weights, context, top, prompt_rows, blas and kv_bytes are not read */
    int32_t lookup;      /* 1: guesses by lookup, too */
    int32_t vocab;       /* ids in use */
    int32_t seqs_max;    /* sequences at once */
    int32_t context;     /* most tokens it looks back on, > 0 */
    int32_t text_max;    /* most tokens noted of a sequence, > 0 */
    int32_t top;         /* children a node, 1..16 */
    int32_t prompt_rows; /* prompt tokens it reads a call, all sequences together */
    int32_t
        blas; /* 1: long portions of a prompt go through OpenBLAS, which pays for weights kept as floats */
    int64_t kv_bytes; /* memory for pages */
};

struct draft_job {
    struct draft_seq *seq;          /* in: borrowed for the call */
    int32_t root;                   /* in: newest token of the text, not yet fed */
    const struct draw_params *draw; /* in */
    const struct draw_state *state; /* in: after the root token */
    const struct draw_past *past;   /* in: of the text up to the root token; NULL: no penalties */
    int32_t nodes;                  /* in: most nodes wanted, root included, 1..TREE_MAX; 1: do not draft */
    int32_t depth;                  /* in: deepest level wanted, 0..TREE_MAX - 1 */
    int32_t spine;                  /* in: deepest level wanted of lookup, 0..TREE_MAX - 1 */
    struct tree *tree;              /* out */
};

/* On failure *out is NULL and e says why. */
int draft_open(struct draft **out, const struct draft_opts *o, struct err *e);
void draft_close(struct draft *d); /* NULL is fine */

int draft_seq_new(struct draft *d, struct draft_seq **out); /* ST_LIMIT: seqs_max reached */
void draft_seq_free(struct draft *d, struct draft_seq *s);  /* NULL is fine */

/* From now on a call reads at most `rows` tokens of sequences that are more than a tree behind, 0..prompt_rows, all together. */
void draft_pace(struct draft *d, int32_t rows);

/* Notes n settled tokens that follow those already noted (a prompt, forced or replayed tokens).  ST_LIMIT: over text_max. */
int draft_feed(struct draft *d, struct draft_seq *s, const int32_t *tok, int32_t n);

/* Fills every job's tree: best-first by calibrated confidence, one level of all jobs in one pass. */
int draft_propose(struct draft *d, struct draft_job *job, int n);

/* The walk's verdict on the tree of the last propose (it may have been trimmed since): root and path are noted as settled,
 * accepted nodes keep their KV, and confidence is calibrated by what was kept. */
int draft_settle(struct draft *d, struct draft_seq *s, const struct tree *tree, const struct path *path);

/* Forgets everything after the first len noted tokens. */
int draft_rewind(struct draft *d, struct draft_seq *s, int32_t len);

#endif
