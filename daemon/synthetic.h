/* synthetic.h - guesses kept by a coin: real shapes timed with random weights, of which no two models agree on anything.
 *
 * Only where outriderd is started with --synthetic-acceptance: the text is then not the target's, and everything that is said of it
 * says so.  The rate of depth d counts along the top path, which is the chain of the draft model's own best guesses; what lies beside
 * it or deeper than the list is never kept.  A kept guess is made the target's word, so that walk, settling and calibration see what
 * they would see of a target that agrees as often.  A coin is a function of (seed, choice, position), as all dice are: runs with the
 * same trees repeat.
 *
 * Plain values; any thread. */
#ifndef DAEMON_SYNTHETIC_H
#define DAEMON_SYNTHETIC_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

struct draft_seq;
struct draw_params;
struct verifier_told;

enum {
    SYNTHETIC_MAX = 63,                 /* a tree is no deeper */
    SYNTHETIC_TEXT = 16 * SYNTHETIC_MAX /* bytes that synthetic_say takes at most */
};

struct synthetic {
    int32_t n; /* rates; 0: none, guesses are kept where the target says the same */
    float rate[SYNTHETIC_MAX];
};

/* ".80,.75,.70": rates in 0..1, the first of depth 1.  ST_INPUT. */
int synthetic_parse(struct synthetic *s, const char *text, struct err *e);
/* 1: the same rates. */
int synthetic_is(const struct synthetic *s, const float *rate, size_t n);
/* The rates as they are given. */
void synthetic_say(const struct synthetic *s, char *text, size_t bytes);
/* Appends to a fingerprint what keeps it from being taken for the target's own; nothing without rates. */
void synthetic_mark(const struct synthetic *s, char *fingerprint, size_t bytes);

/* 1: the coin for the token at pos, if it is guessed at this depth (1 and up), says to keep it. */
int synthetic_keeps(const struct synthetic *s, uint64_t seed, int32_t choice, int64_t pos, int32_t depth);
/* What the target is to say after the root, whose next token is at pos, of what was guessed. */
void synthetic_tell(const struct synthetic *s, const struct draft_seq *guess, const struct draw_params *draw,
                    int64_t pos, struct verifier_told *out);

#endif
