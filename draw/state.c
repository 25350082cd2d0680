/* state.c - what the committed tokens make of a request: thinking budget, stops, lengths (DESIGN.md section 5).
 *
 * draw_step is the one place that knows the rules; verifier, draft and resume all go through it. */
#include "draw/internal.h"

int32_t draw__at(const int32_t *list, int32_t n, int32_t tok)
{
    int32_t lo = 0, hi = n;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (list[mid] < tok)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && list[lo] == tok ? lo : -1;
}

int draw__has(const int32_t *list, int32_t n, int32_t tok)
{
    return draw__at(list, n, tok) >= 0;
}

/* A constrained answer may open with its thinking, unless the prompt's last words closed it ("</think>\n\n"). */
static int may_think(const struct draw_params *p, const int32_t *prompt, int32_t n_prompt)
{
    if (!p->constraint || p->think.open < 0 || p->think.budget == 0)
        return 0;
    for (int32_t i = n_prompt - 1; i >= 0 && i >= n_prompt - 2; i--)
        if (prompt[i] == p->think.close)
            return 0;
    return 1;
}

void draw_start(const struct draw_params *p, const int32_t *prompt, int32_t n_prompt, struct draw_state *s)
{
    *s = (struct draw_state){.pos = n_prompt, .matched = -1, .closed_at = -1};
    const struct draw_think *t = &p->think;
    for (int32_t i = n_prompt - 1; i >= 0 && t->open >= 0; i--) {
        if (prompt[i] == t->open)
            s->phase = DRAW_THINKING;
        if (prompt[i] == t->open || prompt[i] == t->close)
            break;
    }
    s->may_think = (uint8_t) (s->phase == DRAW_PLAIN && may_think(p, prompt, n_prompt));
}

/* The budget is used up: no further draw, the closing text follows. */
static int budget_spent(const struct draw_params *p, const struct draw_state *s)
{
    const struct draw_think *t = &p->think;
#ifdef BREAK_BUDGET_LATE /* the gate must see one thinking token too many */
    return s->phase == DRAW_THINKING && t->budget >= 0 && s->n_thinking > t->budget && t->n_closer > 0;
#else
    return s->phase == DRAW_THINKING && t->budget >= 0 && s->n_thinking >= t->budget && t->n_closer > 0;
#endif
}

int draw_forced(const struct draw_params *p, const struct draw_state *s, int32_t *tok)
{
    if (s->phase == DRAW_CLOSING)
        *tok = p->think.closer[s->closer_at];
    else if (budget_spent(p, s))
        *tok = p->think.closer[0];
    else
        return 0;
    return 1;
}

int draw_close(const struct draw_params *p, struct draw_state *s)
{
    if (s->phase != DRAW_THINKING || s->done || p->think.n_closer == 0)
        return 0;
    s->phase = DRAW_CLOSING;
    s->closer_at = 0;
    s->closed_at = s->n_output;
    return 1;
}

static void step_closing(const struct draw_params *p, struct draw_state *s)
{
    s->cut |= s->phase == DRAW_THINKING;
    s->phase = DRAW_CLOSING;
    s->may_think = 0;
    s->closer_at++;
    if (s->closer_at == p->think.n_closer) {
        s->phase = DRAW_PLAIN;
        s->closer_at = 0;
        s->mask_eos = 1; /* so that there is an answer */
    }
}

/* A token of the content, where that is constrained.  The text ends where nothing can follow. */
static void step_content(const struct draw_params *p, struct draw_state *s, int32_t tok)
{
    struct draw_allowed a;
    draw_constraint_allowed(p->constraint, s->at, &a);
    if (s->may_break && tok == draw_constraint_blank(p->constraint) && !draw__has(a.tok, a.n, tok))
        return;
    s->at = draw_constraint_step(p->constraint, s->at, tok);
    draw_constraint_allowed(p->constraint, s->at, &a);
    if (a.complete && a.n == 0)
        s->done = DRAW_STOP;
}

static void step_drawn(const struct draw_params *p, struct draw_state *s, int32_t tok)
{
    const struct draw_think *t = &p->think;
    s->mask_eos = 0;
    if (!p->ignore_eos && draw__has(p->eos, p->n_eos, tok))
        s->done = DRAW_STOP;
    if (draw__has(p->stop, p->n_stop, tok))
        s->done = DRAW_STOP;
    if (s->done)
        s->matched = tok;
    int closes = 0;
    if (s->phase == DRAW_PLAIN && tok >= 0 && tok == t->open)
        s->phase = DRAW_THINKING;
    else if (s->phase == DRAW_PLAIN && p->constraint && !s->done)
        step_content(p, s, tok);
    else if (s->phase == DRAW_THINKING && (tok == t->close || tok == t->tool)) {
        s->phase = DRAW_PLAIN; /* the model closed it itself, or calls a tool from inside */
        closes = tok == t->close;
    } else if (s->phase == DRAW_THINKING && !s->done)
        s->n_thinking++;
    s->may_think = 0;
    s->may_break = (uint8_t) (closes && p->constraint);
}

void draw_step(const struct draw_params *p, struct draw_state *s, int32_t tok)
{
    int32_t known;
    if (draw_forced(p, s, &known))
        step_closing(p, s);
    else
        step_drawn(p, s, tok);
    s->pos++;
    s->n_output++;
    if (!s->done && s->n_output >= p->max_tokens)
        s->done = DRAW_LENGTH;
}
