/* draw.h - what draft and verifier must do alike: parameters, keyed noise, masks, penalties and cuts, logprobs, the thinking budget.
 *
 * Everything here is a pure function of (parameters, state, logits).  The state is small plain data that is copied
 * down a tree's branches and stepped by one token at a time, so a guess sees exactly what its own path would have
 * made of it, and the committed text alone decides (DESIGN.md sections 1 and 5; NUMERICS.md "The draw"). */
#ifndef DRAW_DRAW_H
#define DRAW_DRAW_H

#include <stdint.h>

#include "core/status.h"
#include "draw/constraint.h"

enum {
    DRAW_BIAS_MAX = 1024, /* entries of logit_bias: others take 300; each costs a lookup a draw */
    DRAW_TOP_MAX = 20,    /* alternatives with their logprobs, as OpenAI's interface has it */
};

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
    float repetition;       /* 1: off; of every token of prompt and output */
    float presence;         /* 0: off; once for each token of the output */
    float frequency;        /* 0: off; for each time it is there */
    const int32_t *bias_id; /* ascending, no id twice */
    const float *bias;      /* (n_bias) added to the logits of bias_id */
    int32_t n_bias;
    int32_t logprobs;                         /* 1: every drawn token's logprob is wanted */
    int32_t top_logprobs;                     /* and of so many of the row's likeliest, 0..DRAW_TOP_MAX */
    int32_t processed;                        /* 1: also those of the distribution the token was drawn from */
    const struct draw_constraint *constraint; /* what the content may be; NULL: anything */
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
    int32_t at;         /* where the constraint stands */
    uint8_t phase;      /* enum draw_phase */
    uint8_t done;       /* enum draw_done */
    uint8_t cut;        /* 1: the budget closed the thinking */
    uint8_t mask_eos;   /* 1: end-of-text is masked for the next draw (after a forced close) */
    uint8_t may_think;  /* 1: nothing was said yet, and a constraint lets <think> come first */
    uint8_t may_break;  /* 1: the model has just closed its thinking: a constraint lets a blank line follow */
};

/* The tokens of a text and how often each is there: what penalties ask for.  A draw costs as much as there are distinct ones. */
struct draw_past;

/* Makes room for a text of so many tokens, prompt and output.  *out is NULL where p has no penalties.  ST_NOMEM. */
int draw_past_new(struct draw_past **out, const struct draw_params *p, int32_t room);
void draw_past_free(struct draw_past *past); /* NULL is fine */
/* Counts one more token of the prompt or (output 1) of the output; allocates nothing.  past NULL is fine. */
void draw_past_add(struct draw_past *past, int32_t tok, int output);

/* What penalties see at a row: the committed text (root included) and the guesses between root and row, which count as output. */
struct draw_seen {
    const struct draw_past *past; /* borrows, as branch; NULL: no penalties */
    const int32_t *branch;        /* (n_branch) the row's own token last */
    int32_t n_branch;
};

/* --- for who draws elsewhere by the same rules (a GPU) --- */

struct draw_count {
    int32_t tok;
    int32_t output; /* times in the output; 0: in the prompt alone */
};

/* The text's distinct tokens; none for NULL. */
int32_t draw_past_list(const struct draw_past *past, const struct draw_count **list);
/* Times tok is in the output; 0: none, or not in the text at all. */
int32_t draw_past_output(const struct draw_past *past, int32_t tok);

/* What parameters and state say of one draw.  Whatever else is said, banned ids cannot be drawn. */
struct draw_rules {
    float inv;                              /* what logits are multiplied by: fl(1 / T); 1 where cold */
    int32_t cold;                           /* 1: argmax; no cuts, no noise */
    int32_t mask_eos, mask_stop, mask_tool; /* 1: eos, stop, think.tool cannot be drawn */
    int32_t listed;          /* 1: nothing but these can, and of them only `allowed` where that is given: */
    int32_t constrained;     /* 0: `allowed` itself; 1: */
    struct draw_allowed may; /* these, which borrow from the constraint, */
    int32_t may_eos, may_open, may_blank; /* and, where 1, eos, think.open, */
    int32_t blank;                        /* and this id */
};
void draw_rules(const struct draw_params *p, const struct draw_state *s, struct draw_rules *out);

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

/* x_k = argmax_v [ l_v / T + G(seed, choice, k, v) ] over what masks and cuts leave, l after penalties and bias; the argmax of l
 * at T = 0; ties by the lower id.  logits: (vocab) raw, not changed.  seen: NULL without penalties.  ST_NONFINITE: a NaN, infinity
 * or 2^118 among them (with penalties or bias, 2^110); ST_INPUT: masks leave nothing. */
int draw_pick(const struct draw_params *p, const struct draw_state *s, const struct draw_seen *seen,
              const float *logits, int32_t vocab, struct draw_scratch *x, int32_t *tok);

/* The draft's side of the same dice: the k likeliest outcomes of draw_pick if `logits` were the target's, best first.
 * score: l / T + G (l alone at T = 0); prob: the softmax of l / T (T = 1 at T = 0), NULL where it is not wanted.
 * Returns how many, <= k. */
int draw_rank(const struct draw_params *p, const struct draw_state *s, const struct draw_seen *seen,
              const float *logits, int32_t vocab, struct draw_scratch *x, int k, int32_t *tok, float *score,
              float *prob);

/* 0: no draw at s gives tok, whatever the logits (bans, allowed sets, min_tokens, constraint). */
int draw_may(const struct draw_params *p, const struct draw_state *s, int32_t tok);

/* What a row of logits says of the token drawn there and of its likeliest ones. */
struct draw_logprobs {
    float logprob;   /* of the raw row: before masks, penalties, bias and temperature; NAN: not drawn */
    float processed; /* of the distribution it was drawn from; -inf: cut; NAN: not asked for */
    int32_t n;       /* alternatives */
    int32_t
        tok[DRAW_TOP_MAX];   /* by (raw logit descending, id ascending); the token itself may be among them */
    float top[DRAW_TOP_MAX]; /* their raw logprobs */
    float after[DRAW_TOP_MAX]; /* their processed ones; -inf: masked or cut; NAN: not asked for */
};

/* Fills *out for tok at a row that draw_pick has taken.  At T = 0 the processed distribution is 1 at the argmax. */
void draw_logprobs(const struct draw_params *p, const struct draw_state *s, const struct draw_seen *seen,
                   const float *logits, int32_t vocab, struct draw_scratch *x, int32_t tok,
                   struct draw_logprobs *out);
/* What is said of a token that was not drawn (closing text). */
void draw_logprobs_absent(struct draw_logprobs *out);

/* G(seed, choice, k, v): Gumbel noise from Philox4x32-10 (Salmon et al. 2011), to the bit of NUMERICS.md. */
float draw_noise(uint64_t seed, uint32_t choice, uint32_t k, uint32_t v);

/* The block cipher itself, for its published vectors. */
void draw_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
