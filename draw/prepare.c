/* prepare.c - what comes before the cuts: masks, penalties, bias, temperature.
 *
 * Order (NUMERICS.md): masks -> repetition -> presence -> frequency -> logit_bias -> temperature, a float operation each:
 *
 *     x = l < 0 ? l * repetition : l / repetition      of tokens of prompt and output (Keskar et al. 2019, CTRL; Hugging Face's form)
 *     x = x - presence                                 of tokens of the output
 *     x = x - fl(frequency * count)                    likewise; count: how often in the output
 *     x = x + bias
 *     value = x * fl(1 / T)
 *
 * All but masks and temperature touch few ids: the text's distinct tokens, the branch's, and those with a bias. */
#include "draw/internal.h"

#include <math.h>
#include <string.h>

int draw__is_cold(const struct draw_params *p)
{
    static const float cold = 1e-3f; /* below this temperature: argmax */
    return p->temperature < cold;
}

/* NaN, infinity, or so large that what follows would make it infinity: 1 / T is at most 2^10, a penalty at most 2^7. */
int draw__all_finite(const struct draw_params *p, const struct draw_seen *seen, const float *l, int32_t n)
{
    uint32_t too_large = p->n_bias || (seen && seen->past) ? 0x76800000u : 0x7a800000u; /* 2^110, 2^118 */
    uint32_t bad = 0;
    for (int32_t v = 0; v < n; v++) {
        uint32_t u;
        memcpy(&u, l + v, sizeof u);
        bad |= (u & 0x7fffffffu) >= too_large;
    }
    return !bad;
}

/* --- masks --- */

static void mask_list(float *value, int32_t vocab, const int32_t *list, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (list[i] < vocab)
            value[list[i]] = -INFINITY;
}

static int is_early(const struct draw_params *p, const struct draw_state *s)
{
    return s->n_output < p->min_tokens;
}

static int constrained(const struct draw_params *p, const struct draw_state *s)
{
    return p->constraint && s->phase == DRAW_PLAIN;
}

/* Inside its thinking a constrained answer may not end, nor call a tool: content has to follow. */
static int must_go_on(const struct draw_params *p, const struct draw_state *s)
{
    return p->constraint && s->phase == DRAW_THINKING;
}

void draw_rules(const struct draw_params *p, const struct draw_state *s, struct draw_rules *out)
{
    *out = (struct draw_rules){.inv = draw__is_cold(p) ? 1.0f : 1.0f / p->temperature,
                               .cold = draw__is_cold(p),
                               .mask_eos = is_early(p, s) || s->mask_eos || must_go_on(p, s),
                               .mask_stop = is_early(p, s),
                               .mask_tool = must_go_on(p, s) && p->think.tool >= 0,
                               .constrained = constrained(p, s),
                               .listed = p->n_allowed || constrained(p, s)};
    if (!out->constrained)
        return;
    draw_constraint_allowed(p->constraint, s->at, &out->may);
    out->may_eos = out->may.complete && !p->ignore_eos;
    out->may_open = s->may_think;
    out->may_blank = s->may_break;
    out->blank = draw_constraint_blank(p->constraint);
}

static void mask(const struct draw_params *p, const struct draw_rules *r, int32_t vocab, float *value)
{
    mask_list(value, vocab, p->banned, p->n_banned);
    if (r->mask_eos)
        mask_list(value, vocab, p->eos, p->n_eos);
    if (r->mask_stop)
        mask_list(value, vocab, p->stop, p->n_stop);
    if (r->mask_tool)
        mask_list(value, vocab, &p->think.tool, 1);
}

static int in_allowed(const struct draw_params *p, int32_t tok)
{
    return !p->n_allowed || draw__has(p->allowed, p->n_allowed, tok);
}

static void unmask(const struct draw_params *p, const float *l, int32_t vocab, float inv, const int32_t *list,
                   int32_t n, float *value)
{
    for (int32_t i = 0; i < n; i++)
        if (list[i] >= 0 && list[i] < vocab && in_allowed(p, list[i]))
            value[list[i]] = l[list[i]] * inv;
}

static void unmask_constraint(const struct draw_params *p, const struct draw_rules *r, const float *l,
                              int32_t vocab, float *value)
{
    unmask(p, l, vocab, r->inv, r->may.tok, r->may.n, value);
    if (r->may_eos)
        unmask(p, l, vocab, r->inv, p->eos, p->n_eos, value);
    if (r->may_open)
        unmask(p, l, vocab, r->inv, &p->think.open, 1, value);
    if (r->may_blank)
        unmask(p, l, vocab, r->inv, &r->blank, 1, value);
}

static int constraint_may(const struct draw_params *p, const struct draw_state *s, int32_t tok)
{
    struct draw_allowed a;
    draw_constraint_allowed(p->constraint, s->at, &a);
    return draw__has(a.tok, a.n, tok) || (a.complete && !p->ignore_eos && draw__has(p->eos, p->n_eos, tok)) ||
           (s->may_think && tok == p->think.open) ||
           (s->may_break && tok == draw_constraint_blank(p->constraint));
}

int draw_may(const struct draw_params *p, const struct draw_state *s, int32_t tok)
{
    int ends = draw__has(p->eos, p->n_eos, tok);
    if (draw__has(p->banned, p->n_banned, tok) || !in_allowed(p, tok))
        return 0;
    if ((is_early(p, s) || s->mask_eos || must_go_on(p, s)) && ends)
        return 0;
    if (is_early(p, s) && draw__has(p->stop, p->n_stop, tok))
        return 0;
    if (must_go_on(p, s) && tok == p->think.tool)
        return 0;
    return !constrained(p, s) || constraint_may(p, s, tok);
}

/* --- penalties and bias --- */

/* One logit; output: how often the text's output and the branch hold it; -1: nowhere, nor does the prompt. */
static float adjust(const struct draw_params *p, float l, int32_t output, float bias)
{
    float x = l;
    if (output >= 0)
        x = x < 0 ? x * p->repetition : x / p->repetition;
    if (output > 0) {
        x -= p->presence;
        x -= p->frequency * (float) output;
    }
    return x + bias;
}

static float bias_of(const struct draw_params *p, int32_t tok)
{
    int32_t i = draw__at(p->bias_id, p->n_bias, tok);
    return i < 0 ? 0 : p->bias[i];
}

static void set(float *value, int32_t vocab, int32_t tok, float x)
{
    if (tok >= 0 && tok < vocab && value[tok] > -INFINITY)
        value[tok] = x;
}

static void adjust_branch(const struct draw_params *p, const struct draw_seen *seen, const float *l,
                          int32_t vocab, float inv, float *value)
{
    for (int32_t i = 0; i < seen->n_branch; i++) {
        int32_t tok = seen->branch[i];
        const struct draw_count *c = draw__past_find(seen->past, tok);
        int32_t output = c ? c->output : 0;
        for (int32_t j = 0; j < seen->n_branch; j++)
            output += seen->branch[j] == tok;
        if (tok >= 0 && tok < vocab)
            set(value, vocab, tok, adjust(p, l[tok], output, bias_of(p, tok)) * inv);
    }
}

static void adjust_past(const struct draw_params *p, const struct draw_seen *seen, const float *l,
                        int32_t vocab, float inv, float *value)
{
    const struct draw_count *list;
    int32_t n = draw_past_list(seen->past, &list);
    for (int32_t i = 0; i < n; i++)
        if (list[i].tok >= 0 && list[i].tok < vocab)
            set(value, vocab, list[i].tok,
                adjust(p, l[list[i].tok], list[i].output, bias_of(p, list[i].tok)) * inv);
}

void draw__prepare(const struct draw_params *p, const struct draw_state *s, const struct draw_seen *seen,
                   const float *l, int32_t vocab, float *value)
{
    struct draw_rules r;
    draw_rules(p, s, &r);
    float inv = r.inv;
    if (r.listed) {
        for (int32_t v = 0; v < vocab; v++)
            value[v] = -INFINITY;
        if (r.constrained)
            unmask_constraint(p, &r, l, vocab, value);
        else
            unmask(p, l, vocab, inv, p->allowed, p->n_allowed, value);
    } else {
        for (int32_t v = 0; v < vocab; v++)
            value[v] = l[v] * inv;
    }
    mask(p, &r, vocab, value);
    for (int32_t i = 0; i < p->n_bias; i++)
        if (p->bias_id[i] < vocab)
            set(value, vocab, p->bias_id[i], (l[p->bias_id[i]] + p->bias[i]) * inv);
    if (seen && seen->past) { /* these know of a bias, too, and write over it */
        adjust_past(p, seen, l, vocab, inv, value);
        adjust_branch(p, seen, l, vocab, inv, value);
    }
}
