/* sched.h - thread: engine.  Who waits, who runs, who must give way.
 *
 * Answers are admitted in order of arrival up to sessions_max; every ready one takes part in every round.  When pages run out the
 * youngest gives its own back (those parked for a slow reader first) and is computed again later; its text does not change.  Who
 * gave way comes back before anybody new is admitted, so that nobody starves.  An answer whose last event waits for the loop sits
 * rounds out, but keeps its place: nobody younger takes its pages for that. */
#ifndef DAEMON_SCHED_H
#define DAEMON_SCHED_H

#include "daemon/answer.h"
#include "daemon/round.h"

struct sched {
    struct round *round;          /* borrows */
    struct answer *first, **last; /* waiting, oldest first */
    struct answer **active;       /* owns the array; (sessions_max), oldest first */
    struct answer **chosen;       /* owns; (sessions_max) of the current round */
    struct engine_event **event;  /* owns; (sessions_max) */
    int *status;                  /* owns; (sessions_max) */
    int n_active, n_chosen, sessions_max;
};

int sched_init(struct sched *s, struct round *r, int sessions_max);
void sched_fini(struct sched *s); /* dismisses and frees every answer */

void sched_add(struct sched *s, struct answer *a); /* moves a in: it waits */
struct answer *sched_find(struct sched *s, uint64_t id);

/* 1: a round would do something now. */
int sched_can_run(const struct sched *s);

/* 1: sched_admit would take one in. */
int sched_can_admit(const struct sched *s);

/* Takes the oldest waiting answer in, if there is room; NULL: none.  *st: what round_admit said. */
struct answer *sched_admit(struct sched *s, int *st);

/* Takes a waiting answer out of the list (it was cancelled, or has nothing to run). */
void sched_unlist(struct sched *s, struct answer *a);

/* Takes an active answer's sequences back and forgets it; it is the caller's then. */
void sched_retire(struct sched *s, struct answer *a);

/* One round over all that are ready.  s->chosen[i], event[i], status[i], i < n_chosen, hold the outcome.  0, or a fatal status. */
int sched_round(struct sched *s);

#endif
