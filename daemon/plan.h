/* plan.h - who drafts in a round, how deep, and how many guesses the target sees: by measured cost, for the most tokens a second.
 *
 * Let n sessions run.  A round without guesses takes off = O + T(n) and gives n tokens.  A guess that is kept with probability p is
 * worth p tokens; a token is worth the time in which one comes anyway, off / (n * s), s: how many times as many as without guesses came of late.
 * A pass of the draft, and a row of the target's, is taken while what it brings is worth more than the time it takes: tokens a
 * second stop rising there (CaDDTree's greedy stop, with the worth of time in the place of the ratio, so that it holds from round to
 * round).  No guess at all is always a candidate.
 *
 * Nobody pays for others' guesses by cost: each session keeps an account of the tokens it got against those it would have got in the same time without
 * anybody's guesses.  Who falls behind by more than PLAN_FLOOR allows, and more than chance explains, is owed: no guesses
 * until the account is within that again.  Where all together fall behind, the estimates are wrong, and guesses rest.
 *
 * The beginning of an answer waits for nobody's guesses: while one that is about to begin reads the last of its prompt or draws its first tokens, a
 * round is no longer than without.
 *
 * Where no guess pays, one is made now and then all the same, for half a percent of the time, to see whether it would; and where all do, a round
 * without shows what that costs.
 *
 * Thread: engine.  Plain data, no clock of its own.  Nothing here can change a word. */
#ifndef DAEMON_PLAN_H
#define DAEMON_PLAN_H

#include <stddef.h>

#include "core/tree.h"
#include "daemon/cost.h"

#define PLAN_FLOOR 0.97 /* of its rate without drafting, every session keeps */

enum plan_mode {
    PLAN_OFF,  /* no guesses */
    PLAN_AUTO, /* as pays */
    PLAN_FIXED /* as many as were asked for, whatever they cost */
};

/* Of one session, from round to round. */
struct plan_account {
    double credit; /* tokens it is ahead of what it would have without drafting; fades */
    double
        luck; /* how far such figures stray by chance: squares of tokens against those expected, summed; fades likewise */
    double probed; /* when its model was last asked, in rounds */
};

/* Of all sessions together, while about so many run: when their account shows a loss, no guesses are made for a while, and for twice as long
 * each time until one shows a gain. */
struct plan_rest {
    struct plan_account account; /* a session's share */
    double until;                /* in rounds */
    double next;                 /* how long the next rest takes */
};

enum { PLAN_RESTS = 8 }; /* 1, 2, up to 4, 8, .. sessions */

/* One session that runs, in this round. */
struct plan_session {
    int32_t mode;                 /* in: enum plan_mode */
    int32_t nodes;                /* in: largest tree it may have, root included */
    int32_t depth;                /* in: deepest level that the draft's model may reach; 0: it has none */
    float hope;                   /* in: P(the token after the root is among what the draft would guess) */
    int32_t unread;               /* in: tokens the draft has to read before */
    int32_t left;                 /* in: most tokens still to come */
    int32_t given;                /* in: tokens that came; the first one does not wait for a draft in AUTO */
    struct plan_account *account; /* in, out */
    int32_t read;                 /* out: tokens the draft reads */
    int32_t draft;                /* out: 1: the draft's model guesses */
    float expect;                 /* between rounds' steps: tokens beyond the first */
};

enum plan_reason {
    PLAN_DRAFTED,  /* guesses of the model */
    PLAN_LOOKED,   /* of lookup alone */
    PLAN_NO_GAIN,  /* none would have paid */
    PLAN_OWED,     /* somebody was owed */
    PLAN_RESTED,   /* guesses had been a loss for all together */
    PLAN_MEASURED, /* a round without, to see what it takes */
    PLAN_WAITED,   /* somebody waits for the beginning of an answer */
    PLAN_REASONS
};

struct plan_figures {
    int64_t rounds[PLAN_REASONS]; /* with a session that runs, in AUTO */
    int64_t probes;               /* guesses made to see whether they would pay */
    int64_t levels;               /* passes of the draft that guessed */
};

struct plan {
    struct cost target, level; /* by rows; of one pass */
    double overhead_ns[2];     /* of a round beside its passes: without guesses, with */
    double right;              /* tokens that came of guesses against those expected, of late */
    double dear;               /* what guesses made rounds longer by against what was expected, of late */
    double extra_ns[2];        /* of which it is made: expected, and as it was */
    struct plan_rest rest[PLAN_RESTS];
    double bias;       /* what rounds without guesses took against what was expected of them, of late */
    int32_t rows_max;  /* of the target's pass, guesses and roots together */
    int32_t parallel;  /* 1: the draft's first pass brings all its levels, a row each */
    int32_t by_cost;   /* 1: there is something to plan: AUTO, and a draft or lookup */
    double speedup;    /* tokens against a round's without drafting, of late */
    double answer_len; /* tokens an answer, of late */
    double probe_ns;   /* what may be spent on seeing */
    double rounds;
    int32_t drafted_on; /* 1: the last round drafted; it takes more to begin than to go on */
    int32_t unmeasured; /* rounds since the last without guesses */
    struct plan_figures figures;
    /* of the current round */
    struct plan_session *s; /* borrowed from plan_begin to plan_note */
    int32_t n, beside;      /* sessions; rows of other kinds in the same pass */
    int32_t n_draft, n_rows;
    int32_t reason;       /* enum plan_reason */
    double off_ns, worth; /* worth: tokens a ns */
    int32_t passes;       /* of the draft's model */
    int32_t
        fixed; /* 1: somebody has as many guesses as it asked for; rounds then say nothing of those of others */
    double spent_ns;       /* by the draft */
    double foreseen_ns;    /* likewise, as its passes were expected to take */
    double best_net, gain; /* tokens: of the best look ahead; of what the target sees */
    int32_t n_levels;
};

void plan_init(struct plan *p, int32_t rows_max);

/* Decides for s[0..n) who reads and who guesses.  beside: rows the target reads beside them; waiting: 1: among those are the last
 * of a prompt.  s stays until plan_note. */
void plan_begin(struct plan *p, struct plan_session *s, int32_t n, int32_t beside, int waiting);

/* 1: no guess will be sent, wherever it comes from. */
int plan_is_plain(const struct plan *p);

/* The least gain for which a guess is worth a row of the draft's level: draft_job.floor of those in AUTO. */
float plan_floor(const struct plan *p);

/* 1: a level of so many rows that brings `gain` tokens is worth it. */
int plan_level(const struct plan *p, int32_t rows, float gain);

/* The draft's pass over so many rows, of which `unread` were text, took ns. */
void plan_note_level(struct plan *p, int32_t rows, int32_t unread, double ns);

/* nodes[i]: how many nodes of tree[i] the target is to see, root included: the likeliest. */
void plan_trim(struct plan *p, struct tree *const *tree, int32_t *nodes);

/* The round is over: the target's pass over so many rows took target_ns, the round round_ns from the end of the one before;
 * tokens[i]: that came of session i. */
void plan_note(struct plan *p, int32_t rows, double target_ns, double round_ns, const int32_t *tokens);

/* What was chosen last and why, in one sentence. */
void plan_say(const struct plan *p, char *text, size_t bytes);

/* An answer ended after so many tokens. */
void plan_note_answer(struct plan *p, int32_t tokens);

#endif
