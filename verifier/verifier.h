/* verifier.h - keeps exactly what the target would have said by itself.
 *
 * Rule (DESIGN.md section 1): at a node draw x = draw_pick(target's logits there).  If a child holds x, step down to it;
 * else stop, and x is the path's last word.  Every token that comes out was drawn from the target with noise keyed by its
 * own position, so neither the law nor a single word can depend on what was guessed.  The walk also ends where the text
 * does: at a stop, at max_tokens, and where the thinking budget runs out (the next token is then the first of the closing
 * text, not a draw).
 *
 * Penalties see the text and the branch walked so far; logprobs are of the target's rows, at the tokens drawn.
 *
 * walk.c is the specification.  Thread: the one that waits for the queue. */
#ifndef VERIFIER_VERIFIER_H
#define VERIFIER_VERIFIER_H

#include "core/logits.h"
#include "core/tree.h"
#include "draw/draw.h"

struct verifier;

enum { VERIFIER_OTHER_MAX = 32 };

/* Words put into the target's mouth, for timing alone (daemon/synthetic.h): the text is then not the target's. */
struct verifier_told {
    int32_t n;                         /* the walk's first n draws */
    int32_t tok[TREE_MAX];             /* say these, where masks let them */
    int32_t n_other;                   /* the next draw ends the walk, with none of */
    int32_t other[VERIFIER_OTHER_MAX]; /* these, where masks and cuts leave anything else */
};

struct verifier_job {
    const struct tree *tree;        /* in; all borrowed until the queue has run */
    const struct logits *logits;    /* in; row i belongs to node i */
    const struct draw_params *draw; /* in */
    const struct draw_state *state; /* in: after the root token */
    const struct draw_past *past;   /* in: of the text up to the root token; NULL: no penalties */
    struct path *path;              /* out: lies where target_settle reads it */
    uint64_t *
        row_hash; /* out, or NULL: hash of the raw bits of each drawn row's logits, path->n + 1 of them (0: not drawn) */
    struct draw_logprobs
        *logprobs; /* out, or NULL; likewise path->n + 1, where draw->logprobs; absent for closing text */
    const struct verifier_told *told; /* in; NULL: the target speaks for itself, as it must but for timing */
};

int verifier_open(struct verifier **out, int32_t vocab, int32_t jobs_max, struct err *e);
void verifier_close(struct verifier *v); /* NULL is fine */

/* Posts the walks behind the pass that makes their logits (job->logits->queue).  The result is there after target_wait.
 * A request whose logits are not finite gets path->status = ST_NONFINITE and n = 0; the others are not touched by it. */
int verifier_submit(struct verifier *v, struct verifier_job *job, int n);

#endif
