/* sched.h - thread: engine.  Who waits, who runs, who must give way.
 *
 * Waiting: the highest priority first, to which waiting adds; of equals, who belongs to the client that has the fewest running, then
 * who came first.  Admitted: by priority, then by age; this is the order in which they get what is scarce.  When pages run out the
 * last gives its own back (those parked for a slow reader first) and is computed again later; its text does not change.  Who gave
 * way comes back before anybody new is admitted, so that nobody starves.  An answer whose
 * last event waits for the loop sits rounds out, but keeps its place: nobody behind it takes its pages for that.
 *
 * Every ready answer that runs takes part in every round.  Prompts share the rows that pace.h grants: half for the first, half for
 * the one with the least left, so that neither a long prompt nor many short ones starve.  The answers to one request share the reading
 * of their prompt: the others wait until the first has read it, and who came later may pass them meanwhile. */
#ifndef DAEMON_SCHED_H
#define DAEMON_SCHED_H

#include "daemon/answer.h"
#include "daemon/pace.h"
#include "daemon/round.h"

struct sched {
    struct round *round; /* borrows */
    struct pace pace;
    int32_t prompt_rows;           /* fixed rows of prompts beside those that run; 0: by pace */
    int32_t evict_every, n_rounds; /* engine_opts' */
    struct answer *first, **last;  /* waiting, in order of arrival */
    struct answer **active;      /* owns the array; (sessions_max), by priority, then in order of admission */
    struct answer **chosen;      /* owns; (sessions_max) of the current round */
    struct engine_event **event; /* owns; (sessions_max) */
    int *status;                 /* owns; (sessions_max) */
    int n_active, n_chosen, sessions_max;
};

int sched_init(struct sched *s, struct round *r, const struct engine_opts *o);
void sched_fini(struct sched *s); /* dismisses and frees every answer */

void sched_add(struct sched *s, struct answer *a); /* moves a in: it waits */
struct answer *sched_find(struct sched *s, uint64_t id);

/* 1: a round would do something now. */
int sched_can_run(const struct sched *s);

/* 1: sched_admit would take one in. */
int sched_can_admit(const struct sched *s);

/* Takes the waiting answer whose turn it is in, if there is room; NULL: none.  *st: what round_admit said. */
struct answer *sched_admit(struct sched *s, int *st);

/* Takes a waiting answer out of the list (it was cancelled, or has nothing to run). */
void sched_unlist(struct sched *s, struct answer *a);

/* Takes an active answer's sequences back and forgets it; it is the caller's then. */
void sched_retire(struct sched *s, struct answer *a);

/* How many run, read, wait, are parked or gave way. */
void sched_describe(const struct sched *s, struct engine_stats *out);

/* One round over all that are ready.  s->chosen[i], event[i], status[i], i < n_chosen, hold the outcome.  0, or a fatal status. */
int sched_round(struct sched *s);

#endif
