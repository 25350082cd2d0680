/* round.h - thread: engine.  One step for a group of answers: guess, score, walk, settle.  The one place where draft, target and
 * verifier meet. */
#ifndef DAEMON_ROUND_H
#define DAEMON_ROUND_H

#include "daemon/answer.h"
#include "daemon/engine.h"

struct round;

enum {
    ROUND_PROMPT_ROWS = 256
}; /* most tokens read a round, all answers together: about what fills the cores */

/* Sums since it was opened. */
struct round_figures {
    int64_t passes, tree_rows, prompt_rows; /* of the target */
    int64_t preemptions;
    int64_t drafted[ENGINE_SOURCES], accepted[ENGINE_SOURCES];           /* by enum tree_source */
    int64_t drafted_at[ENGINE_DEPTH_MAX], accepted_at[ENGINE_DEPTH_MAX]; /* [d]: at depth d + 1 */
};

struct round_pages {
    int32_t page, free, in_all; /* positions a page; pages obtainable now; pages of the pool */
    int32_t cached;             /* of those free: what they hold may be found again */
};

/* Opens cpu pool, target, draft and verifier. */
int round_open(struct round **out, const struct engine_opts *o, struct err *e);
void round_settle(const struct round *r); /* by the thread that will run rounds, once */
void round_close(struct round *r);        /* NULL is fine; answers must have been dismissed */
void round_describe(const struct round *r, struct engine_info *out);
void round_pages(const struct round *r, struct round_pages *out);
int32_t round_holds(const struct round *r, const struct answer *a); /* pages of its text, shared ones too */

/* Tokens of the answer's text, its newest apart, that the target has not read: 0 of one that runs. */
int32_t round_unread(const struct answer *a);
/* 1: the answer has read its whole prompt; others to the same prompt can begin with what it has. */
int round_has_prompt(const struct answer *a);

const struct round_figures *round_figures(const struct round *r);

/* From now on a draft that always guesses reads at most so many tokens a round of texts it is far behind in. */
void round_pace_draft(struct round *r, int32_t rows);

/* Where there is nothing else to do: one step of measuring what passes cost.  1: there may be more; 0: that was all; or a fatal
 * status. */
int round_measure(struct round *r);

/* What is known of costs, and what came of it. */
const struct plan *round_plan(const struct round *r);

/* Gives the answer its sequences and attaches what is cached of its prompt, or what another of its family has read.  A negative status
 * is for this answer alone. */
int round_admit(struct round *r, struct answer *a);
/* Tells the draft of text that came without a walk. */
int round_text_grew(struct round *r, struct answer *a);
/* Takes sequences back; the answer stays. */
void round_dismiss(struct round *r, struct answer *a);
/* Preemption: pages back.  round_readmit attaches what is still cached; the rest is computed again. */
void round_evict(struct round *r, struct answer *a);
int round_readmit(struct round *r, struct answer *a);

/* One pass over a[0..n): of those that read, a[i]->rows tokens (1 at least); of those that run, their trees.  out[i]: the event of a[i] (moved to the
 * caller), or NULL; status[i]: 0, or why a[i] must end.  Returns 0; ST_AGAIN: out of pages, nothing was changed and *which did not
 * fit; or a fatal status. */
int round_run(struct round *r, struct answer **a, int n, struct engine_event **out, int *status, int *which);

#endif
