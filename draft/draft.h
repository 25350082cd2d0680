/* draft.h - guesses, on the CPU: of a small model, of the text's own repetitions, or of both in one tree.
 *
 * A struct draft is one small model, or none; a draft_seq is what it remembers of one conversation.  Wrong guesses cost time and
 * nothing else: its numbers cannot reach the text, and no caller may rely on their quality.
 *
 * A tree is grown level by level, and after each the caller says whether the next is worth its time:
 *
 *     draft_begin -> [draft_offer -> draft_grow] ... -> draft_finish
 *
 * draft_feed only notes tokens; the model reads them in portions when a job allows it.  Until a sequence has caught up it proposes
 * what lookup finds, or its root alone.  The model sees at most the last `context` tokens, at their true positions.
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
    const struct model *
        model; /* NULL: lookup alone; weights, context, top, head, prompt_rows, blas and kv_bytes are not read */
    int32_t lookup;   /* 1: guesses by lookup, too */
    int32_t vocab;    /* ids in use */
    int32_t seqs_max; /* sequences at once */
    int32_t context;  /* most tokens it looks back on, > 0 */
    int32_t text_max; /* most tokens noted of a sequence, > 0 */
    int32_t top;      /* children a node, 1..16 */
    int32_t
        head; /* ids of the output layer that are always computed, the first; 0: all; -1: as many as pay */
    int32_t prompt_rows; /* most tokens of texts it reads a call, all sequences together */
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
    int32_t read;      /* in: most tokens of its text the model may read now; level with it, it guesses */
    float floor;       /* in: a guess below which less than this is to be gained is not read; 0: no floor */
    struct tree *tree; /* out, by draft_finish */
};

/* One pass of the model. */
struct draft_pass {
    int32_t rows;   /* 0: there is nothing to read */
    int32_t unread; /* of them, text that was not read before: no guesses come of it */
    float gain;     /* tokens that may be kept of what it brings */
};

/* On failure *out is NULL and e says why. */
int draft_open(struct draft **out, const struct draft_opts *o, struct err *e);
void draft_close(struct draft *d); /* NULL is fine */

int draft_seq_new(struct draft *d, struct draft_seq **out); /* ST_LIMIT: seqs_max reached */
void draft_seq_free(struct draft *d, struct draft_seq *s);  /* NULL is fine */

/* Notes n settled tokens that follow those already noted (a prompt, forced or replayed tokens).  ST_LIMIT: over text_max. */
int draft_feed(struct draft *d, struct draft_seq *s, const int32_t *tok, int32_t n);

/* Tokens the model has to read before it can guess; 0 without a model. */
int32_t draft_unread(const struct draft *d, const struct draft_seq *s);
/* How likely the token after the root is among what the model would guess, as this text went of late, or texts did; 0 without a
 * model.  warm: 1 at a temperature above 0. */
float draft_hope(const struct draft *d, const struct draft_seq *s, int warm);

/* Begins the trees of these jobs, of which a sequence may have one: looks guesses up, reads text and the roots of those that are
 * level with theirs, in one pass; *did says of how many rows.  What was begun before is forgotten. */
int draft_begin(struct draft *d, struct draft_job *job, int n, struct draft_pass *did);
/* The level that would come next: of every job the unread guesses likeliest to be part of the tree. */
void draft_offer(struct draft *d, struct draft_job *job, int n, struct draft_pass *next);
/* Reads what was offered; the jobs are as they were then. */
int draft_grow(struct draft *d);
/* Fills the trees with the likeliest of all that was weighed. */
void draft_finish(struct draft *d, struct draft_job *job, int n);

/* Of the trees begun last: the tokens weighed below the guess `at` (-1: the root), at most `most` of them, whether or not the tree has
 * room for them.  *best: the model's own likeliest guess there, whose token is tok[0]; -1: it made none.  For timing by given rates. */
int32_t draft_weighed(const struct draft_seq *s, int32_t at, int32_t *best, int32_t *tok, int32_t most);

/* All of it, with every level there is. */
int draft_propose(struct draft *d, struct draft_job *job, int n);

/* The walk's verdict on the tree that was finished last (it may have been trimmed since): root and path are noted as settled,
 * accepted nodes keep their KV, and confidence is calibrated by what was kept. */
int draft_settle(struct draft *d, struct draft_seq *s, const struct tree *tree, const struct path *path);

/* Forgets everything after the first len noted tokens. */
int draft_rewind(struct draft *d, struct draft_seq *s, int32_t len);

#endif
