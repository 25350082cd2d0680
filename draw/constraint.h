/* constraint.h - what an answer's content may be: an automaton that reads tokens.
 *
 * Immutable data and one integer: a draw_constraint is shared by everybody who steps it, where it stands is a number in
 * draw_state.  So draft and verifier step it alike, each along its own path, level by level, and a text that is preempted or
 * resumed stands where it stood.  The first kind is a choice among given strings; a grammar can be another, behind the same two
 * questions: which tokens may follow here, and where does this token lead.
 *
 * The content only: nothing is constrained between <think> and </think>.  A model that thinks may open with <think>, unless its
 * prompt has closed the thinking already or the budget is 0; inside, end-of-text and <tool_call> are masked, so that content
 * follows; after a </think> of its own it may write one blank line ("\n\n", as the template does) before the content begins.
 *
 * Part of draw.h, which includes it. */
#ifndef DRAW_CONSTRAINT_H
#define DRAW_CONSTRAINT_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum {
    DRAW_CHOICES_MAX = 512,           /* strings of a choice: more is a grammar's work */
    DRAW_CHOICE_BYTES_MAX = 32 << 10, /* of all of them: states, which the loop thread builds at the door */
    DRAW_EDGES_MAX = 1 << 20,         /* (state, token) pairs: 8 MB */
};

struct tokenizer;
struct draw_vocab; /* ids in order of their bytes; immutable, any thread may read it */
struct draw_constraint;

/* bytes[v], len[v]: what id v spells, v < n, borrowed for the call; len 0: an id that spells nothing (added tokens), never part of
 * a choice.  ST_NOMEM. */
int draw_vocab_new(struct draw_vocab **out, const char *const *bytes, const size_t *len, int32_t n,
                   struct err *e);
/* The same for a tokenizer's own ids, added tokens left out.  Built once, at open. */
int draw_vocab_of(struct draw_vocab **out, const struct tokenizer *t, struct err *e);
void draw_vocab_free(struct draw_vocab *v); /* NULL is fine */

/* The content must be one of text[0..n), in any tokenization whose bytes spell it.  The text ends (DRAW_STOP) when one is complete;
 * where a longer one goes on from there, end-of-text may be drawn, too.  v is borrowed for the call.  ST_INPUT: no strings, too
 * many, an empty one, or one that no tokens spell; ST_NOMEM. */
int draw_constraint_choice(struct draw_constraint **out, const struct draw_vocab *v, const char *const *text,
                           const size_t *bytes, int32_t n, struct err *e);
void draw_constraint_free(struct draw_constraint *c); /* NULL is fine */

/* State 0 is the beginning; -1: the text has left what is allowed (a resumed one can). */
struct draw_allowed {
    const int32_t *tok; /* (n) ascending; borrows */
    int32_t n;
    int32_t complete; /* 1: the content may end here */
};
void draw_constraint_allowed(const struct draw_constraint *c, int32_t state, struct draw_allowed *out);
int32_t draw_constraint_step(const struct draw_constraint *c, int32_t state, int32_t tok);
/* 1: content may end where more could follow, so that an end-of-text id is needed to say which. */
int draw_constraint_needs_end(const struct draw_constraint *c);
int32_t draw_constraint_blank(const struct draw_constraint *c); /* the id that spells a blank line, or -1 */

#endif
