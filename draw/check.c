/* check.c - sampling parameters at the door: each refusal names field, expected and found. */
#include "draw/internal.h"

#include <math.h>

/* Wider than anybody uses (1.0 to 1.3), and narrow enough for floats. */
static const float REPETITION_MIN = 0.01f, REPETITION_MAX = 100;

static int check_list(const char *name, const int32_t *list, int32_t n, int32_t vocab, struct err *e)
{
    for (int32_t i = 0; i < n; i++)
        if (list[i] < 0 || list[i] >= vocab)
            return err_set(e, ST_INPUT, "%s: token id %d is outside the vocabulary, 0..%d", name, list[i],
                           vocab - 1);
    return 0;
}

/* Whether some id stays drawable once masks are on; eos, stop: whether those ids are masked too. */
static int leaves_something(const struct draw_params *p, int32_t vocab, int eos, int stop)
{
    int32_t n = p->n_allowed ? p->n_allowed : vocab;
    for (int32_t i = 0; i < n; i++) {
        int32_t v = p->n_allowed ? p->allowed[i] : i;
        if (draw__has(p->banned, p->n_banned, v))
            continue;
        if ((eos && draw__has(p->eos, p->n_eos, v)) || (stop && draw__has(p->stop, p->n_stop, v)))
            continue;
        return 1;
    }
    return 0;
}

/* Each within the range of the interfaces it comes from; repetition so that no logit can become infinite. */
static int check_penalties(const struct draw_params *p, struct err *e)
{
    if (!(p->repetition >= REPETITION_MIN && p->repetition <= REPETITION_MAX))
        return err_set(e, ST_INPUT, "repetition_penalty must be above 0, in %g..%g (1: off), not %g",
                       (double) REPETITION_MIN, (double) REPETITION_MAX, (double) p->repetition);
    if (!(p->presence >= -2 && p->presence <= 2))
        return err_set(e, ST_INPUT, "presence_penalty must be in -2..2, not %g", (double) p->presence);
    if (!(p->frequency >= -2 && p->frequency <= 2))
        return err_set(e, ST_INPUT, "frequency_penalty must be in -2..2, not %g", (double) p->frequency);
    return 0;
}

static int check_bias(const struct draw_params *p, int32_t vocab, struct err *e)
{
    if (p->n_bias < 0 || p->n_bias > DRAW_BIAS_MAX)
        return err_set(e, ST_INPUT, "logit_bias: at most %d ids, not %d", DRAW_BIAS_MAX, p->n_bias);
    int st = check_list("logit_bias", p->bias_id, p->n_bias, vocab, e);
    for (int32_t i = 0; i < p->n_bias && !st; i++) {
        if (i && p->bias_id[i] <= p->bias_id[i - 1])
            st = err_set(e, ST_INPUT, "logit_bias: ids must ascend, each once, but %d follows %d",
                         p->bias_id[i], p->bias_id[i - 1]);
        else if (!(p->bias[i] >= -100 && p->bias[i] <= 100))
            st = err_set(e, ST_INPUT, "logit_bias of id %d must be in -100..100, not %g", p->bias_id[i],
                         (double) p->bias[i]);
    }
    return st;
}

/* The newer fields: penalties, bias, logprobs, constraint. */
static int check_rest(const struct draw_params *p, int32_t vocab, struct err *e)
{
    int st = check_penalties(p, e);
    if (!st)
        st = check_bias(p, vocab, e);
    if (st)
        return st;
    if (p->top_logprobs < 0 || p->top_logprobs > DRAW_TOP_MAX)
        return err_set(e, ST_INPUT, "top_logprobs must be in 0..%d, not %d", DRAW_TOP_MAX, p->top_logprobs);
    if ((p->top_logprobs || p->processed) && !p->logprobs)
        return err_set(e, ST_INPUT, "top_logprobs and processed logprobs need logprobs to be on");
    if (p->constraint && draw_constraint_needs_end(p->constraint) && (p->ignore_eos || !p->n_eos))
        return err_set(e, ST_INPUT,
                       "choices: one is the beginning of another, and with ignore_eos no token could end the "
                       "shorter one; leave ignore_eos off");
    return 0;
}

int draw_check(const struct draw_params *p, int32_t vocab, struct err *e)
{
    if (!(p->temperature >= 0) || !isfinite(p->temperature))
        return err_set(e, ST_INPUT, "temperature must be a finite number >= 0, not %g",
                       (double) p->temperature);
    if (p->top_k < 0)
        return err_set(e, ST_INPUT, "top_k must be >= 0 (0: off), not %d", p->top_k);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return err_set(e, ST_INPUT, "top_p must be above 0 and at most 1, not %g", (double) p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return err_set(e, ST_INPUT, "min_p must be in 0..1, not %g", (double) p->min_p);
    if (p->max_tokens < 1)
        return err_set(e, ST_INPUT, "max_tokens must be at least 1, not %d", p->max_tokens);
    if (p->min_tokens < 0 || p->min_tokens > p->max_tokens)
        return err_set(e, ST_INPUT, "min_tokens must be in 0..max_tokens (%d), not %d", p->max_tokens,
                       p->min_tokens);
    if (p->think.budget < -1)
        return err_set(e, ST_INPUT, "thinking budget must be >= 0, or -1 for no limit, not %d",
                       p->think.budget);
    if (p->choice < 0)
        return err_set(e, ST_INPUT, "choice must be >= 0, not %d", p->choice);
    int st = check_list("stop_token_ids", p->stop, p->n_stop, vocab, e);
    if (!st)
        st = check_list("banned_token_ids", p->banned, p->n_banned, vocab, e);
    if (!st)
        st = check_list("allowed_token_ids", p->allowed, p->n_allowed, vocab, e);
    if (!st)
        st = check_rest(p, vocab, e);
    if (st)
        return st;
    if (!leaves_something(p, vocab, 0, 0))
        return err_set(e, ST_INPUT, "allowed_token_ids and banned_token_ids leave no token to draw");
    int early = p->min_tokens > 0, closes = p->think.budget >= 0 && p->think.n_closer > 0;
    if ((early || closes) && !leaves_something(p, vocab, 1, early))
        return err_set(
            e, ST_INPUT,
            "allowed_token_ids and banned_token_ids leave only ids that end the text, which min_tokens or a "
            "thinking budget masks; allow another id");
    return 0;
}
