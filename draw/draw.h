/* draw.h - what draft and verifier must do alike: parameters, keyed noise, masks and cuts, the thinking budget.
 *
 * Everything here is a pure function of (parameters, state, logits).  The state is small plain data that is copied
 * down a tree's branches and stepped by one token at a time, so a guess sees exactly what its own path would have
 * made of it, and the committed text alone decides (DESIGN.md sections 1 and 5; NUMERICS.md "The draw"). */
#ifndef DRAW_DRAW_H
#define DRAW_DRAW_H

#include <stdint.h>

#include "core/status.h"

/* Thinking, as token ids.  All -1 / 0 for a model without it. */
struct draw_think {
    int32_t open, close, tool; /* ids of <think>, </think>, <tool_call>; -1: no such token */
    int32_t budget;            /* most generated tokens between open and close; -1: no limit */
    const int32_t *closer;     /* the closing text as ids, </think> included; borrowed */
    int32_t n_closer;
};

struct draw_params {
    float temperature; /* >= 0; below 1e-3: argmax */
    int32_t top_k;     /* 0: off */
    float top_p;       /* (0, 1]; 1: off */
    float min_p;       /* [0, 1]; 0: off */
    uint64_t seed;
    int32_t choice;     /* which of n answers; keyed into the noise */
    int32_t min_tokens; /* eos and stop ids are masked before this many output tokens */
    int32_t max_tokens; /* >= 1 */
    int32_t ignore_eos; /* 1: eos ids do not end the text */
    const int32_t *eos; /* ascending; borrowed, as all below */
    int32_t n_eos;
    const int32_t *stop; /* the client's own stop ids, ascending */
    int32_t n_stop;
    const int32_t *banned; /* ascending */
    int32_t n_banned;
    const int32_t *allowed; /* ascending; n_allowed == 0: all */
    int32_t n_allowed;
    struct draw_think think;
};

enum draw_phase { DRAW_PLAIN, DRAW_THINKING, DRAW_CLOSING };
enum draw_done { DRAW_GOING, DRAW_STOP, DRAW_LENGTH };

/* What the committed tokens have made of a request.  Plain data; copy with =. */
struct draw_state {
    int64_t pos;        /* absolute position of the next token in prompt + output: the noise's k */
    int32_t n_output;   /* output tokens so far */
    int32_t n_thinking; /* of these, generated between <think> and </think>; what the budget counts */
    int32_t closer_at;  /* DRAW_CLOSING: the next of the closing tokens */
    int32_t matched;    /* the id that ended the text, or -1 */
    int32_t closed_at;  /* output tokens before draw_close closed the thinking, or -1 */
    uint8_t phase;      /* enum draw_phase */
    uint8_t done;       /* enum draw_done */
    uint8_t cut;        /* 1: the budget closed the thinking */
    uint8_t mask_eos;   /* 1: end-of-text is masked for the next draw (after a forced close) */
};

/* ST_INPUT with a sentence naming field, expected and found. */
int draw_check(const struct draw_params *p, int32_t vocab, struct err *e);

/* The state before the first output token.  The prompt's last <think> or </think> decides the phase. */
void draw_start(const struct draw_params *p, const int32_t *prompt, int32_t n_prompt, struct draw_state *s);

/* 1 and *tok when the next token is already known (closing text): nothing is drawn.  Not legal once s->done. */
int draw_forced(const struct draw_params *p, const struct draw_state *s, int32_t *tok);

/* Closes the thinking from outside (a clock, the client): from here the closing text is known.  1: it did; 0: the text is not
 * thinking, or nothing closes it.  The one thing that is no function of the tokens: who resumes the text must do it at closed_at. */
int draw_close(const struct draw_params *p, struct draw_state *s);

/* Moves past one committed (or, on a branch, supposed) token.  What a token counted as is seen by comparing states. */
void draw_step(const struct draw_params *p, struct draw_state *s, int32_t tok);

/* Working memory for one caller at a time. */
struct draw_scratch;
struct draw_scratch *draw_scratch_new(int32_t vocab); /* NULL: out of memory */
void draw_scratch_free(struct draw_scratch *x);       /* NULL is fine */

/* x_k = argmax_v [ l_v / T + G(seed, choice, k, v) ] over what masks and cuts leave; the argmax of l at T = 0; ties by
 * the lower id.  logits: (vocab) raw, not changed.  ST_NONFINITE: a NaN, infinity or 2^118 among them; ST_INPUT: masks leave nothing. */
int draw_pick(const struct draw_params *p, const struct draw_state *s, const float *logits, int32_t vocab,
              struct draw_scratch *x, int32_t *tok);

/* The draft's side of the same dice: the k likeliest outcomes of draw_pick if `logits` were the target's, best first.
 * score: l / T + G (l alone at T = 0); prob: the softmax of l / T (T = 1 at T = 0), NULL where it is not wanted.
 * Returns how many, <= k. */
int draw_rank(const struct draw_params *p, const struct draw_state *s, const float *logits, int32_t vocab,
              struct draw_scratch *x, int k, int32_t *tok, float *score, float *prob);

/* G(seed, choice, k, v): Gumbel noise from Philox4x32-10 (Salmon et al. 2011), to the bit of NUMERICS.md. */
float draw_noise(uint64_t seed, uint32_t choice, uint32_t k, uint32_t v);

/* The block cipher itself, for its published vectors. */
void draw_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
