/* round_inside.h - what round.c and round_open.c share. */
#ifndef DAEMON_ROUND_INSIDE_H
#define DAEMON_ROUND_INSIDE_H

#include "daemon/round.h"

#include "cpu/cpu.h"
#include "draft/draft.h"
#include "target/target.h"
#include "verifier/verifier.h"

struct round {
    struct engine_opts opts;
    struct cpu *cpu;       /* owns, as all below but the next */
    struct cpu *draft_cpu; /* cpu's side, or cpu itself: the two then take turns */
    struct cpu_model *target_weights, *draft_weights;
    struct target *target;
    struct draft *draft; /* NULL: none */
    struct verifier *verifier;
    struct target_info info;
    struct tree *tree; /* (sessions_max) of this round, as all below */
    struct path *path;
    struct draft_job *guess;
    struct plan_session *session; /* of those that run, in their order */
    struct tree **guessed;        /* their trees */
    int32_t *nodes, *tokens;      /* likewise: nodes the target is to see, tokens that came */
    struct target_item *item;
    struct verifier_job *walk;
    struct verifier_told *told;     /* under synthetic acceptance; else NULL */
    uint64_t *row_hash;             /* (sessions_max, TREE_MAX) */
    struct draw_logprobs *logprobs; /* (sessions_max, TREE_MAX) */
    int n_guess, n_walk, n_sessions;
    int n_measured;       /* round_measure's steps */
    uint64_t measured_ns; /* and what they took */
    int32_t pace;         /* tokens a draft reads of a text it is far behind in */
    uint64_t ended_ns;    /* the round before; 0: none */
    struct plan plan;
    struct round_figures figures;
};

/* Rates by which guesses are kept by a coin; n 0: none. */
const struct synthetic *round__rates(const struct round *r);

#endif
