/* answer.c - thread: engine (answer_new: loop).  See answer.h.
 *
 * Resumed tokens count as output everywhere: they are stepped through the same state as if they had been drawn here. */
#include "daemon/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t answer_clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

/* The next token of the output. */
static void say(struct answer *a, int32_t tok)
{
    a->text[a->n_text++] = tok;
    draw_past_add(a->past, tok, 1);
    draw_step(&a->draw, &a->state, tok);
}

static void replay(struct answer *a)
{
    const struct engine_request *r = a->req;
    draw_start(&a->draw, r->prompt, r->n_prompt, &a->state);
    for (int32_t i = 0; i < r->n_prompt; i++)
        draw_past_add(a->past, r->prompt[i], 0);
    for (int32_t i = 0; i <= r->n_resume && !a->state.done; i++) {
        if (i == r->closed_at)
            draw_close(&a->draw, &a->state);
        if (i < r->n_resume)
            say(a, r->resume[i]);
#ifdef BREAK_RESUME_UNCOUNTED /* the gate must see resumed tokens that are not counted as output */
        a->state.n_output = 0;
        a->state.n_thinking = 0;
#endif
    }
}

static void leave_family(struct answer *a)
{
    struct family *f = a->family;
    f->member[a->choice] = NULL;
    if (--f->n)
        return;
    engine_request_free(f->req);
    free(f);
}

void answer_free(struct answer *a)
{
    if (!a)
        return;
    engine_event_free(a->last);
    engine_event_free(a->unsent);
    leave_family(a);
    free(a->text);
    draw_past_free(a->past);
    free(a);
}

static struct answer *member_new(struct family *f, int32_t choice)
{
    const struct engine_request *req = f->req;
    int64_t room = (int64_t) req->n_prompt + req->n_resume + req->draw.max_tokens + TREE_MAX;
    struct answer *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->family = f;
    a->req = f->req;
    a->choice = choice;
    a->draw = req->draw;
#ifndef BREAK_CHOICE_KEY /* the gate must see answers that share their noise */
    a->draw.choice += choice;
#endif
    f->member[choice] = a;
    f->n++;
    a->last = calloc(1, sizeof *a->last);
    a->text = malloc((size_t) room * sizeof *a->text);
    if (!a->last || !a->text || draw_past_new(&a->past, &a->draw, (int32_t) room))
        return NULL; /* the family knows of it */
    memcpy(a->text, req->prompt, (size_t) req->n_prompt * sizeof *a->text);
    a->n_text = req->n_prompt;
    replay(a);
    a->figures.n_prompt = req->n_prompt;
    return a;
}

static struct engine_request *family_undo(struct family *f)
{
    struct engine_request *req = f->req;
    f->req = NULL;
    f->n++; /* so that it outlives its members */
    for (int i = 0; i < ENGINE_CHOICES_MAX; i++)
        answer_free(f->member[i]);
    free(f);
    return req;
}

struct answer *answer_new(struct engine_request *req)
{
    struct family *f = calloc(1, sizeof *f);
    struct answer *first = NULL, **at = &first;
    if (!f)
        return NULL;
    f->req = req;
    f->n_open = req->n;
    for (int32_t i = 0; i < req->n; i++, at = &(*at)->next)
        if (!(*at = member_new(f, i))) {
            family_undo(f);
            return NULL;
        }
    return first;
}

struct engine_request *answer_undo(struct answer *first)
{
    return family_undo(first->family);
}

/* --- events --- */

static void event_init(struct engine_event *e, const struct answer *a, int kind)
{
    e->id = a->req->id;
    e->kind = kind;
    e->choice = a->choice;
    e->matched = e->closed_at = -1;
}

static struct engine_event *event_new(const struct answer *a, int kind, int n, int hashes, int logprobs)
{
    struct engine_event *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    event_init(e, a, kind);
    if (n) {
        e->tok = malloc((size_t) n * sizeof *e->tok);
        e->phase = malloc((size_t) n);
        e->hash = hashes ? calloc((size_t) n, sizeof *e->hash) : NULL;
        e->logprobs = logprobs ? malloc((size_t) n * sizeof *e->logprobs) : NULL;
        if (!e->tok || !e->phase || (hashes && !e->hash) || (logprobs && !e->logprobs)) {
            engine_event_free(e);
            return NULL;
        }
    }
    return e;
}

void engine_event_free(struct engine_event *e)
{
    if (!e)
        return;
    free(e->tok);
    free(e->phase);
    free(e->hash);
    free(e->logprobs);
    free(e);
}

/* lp: NULL where the token was not drawn. */
static void append(struct answer *a, struct engine_event *e, int32_t tok, uint64_t hash,
                   const struct draw_logprobs *lp)
{
    if (e->logprobs && lp)
        e->logprobs[e->n] = *lp;
    else if (e->logprobs)
        draw_logprobs_absent(&e->logprobs[e->n]);
    if (e->hash)
        e->hash[e->n] = hash;
    e->tok[e->n] = tok;
    e->phase[e->n++] = a->state.phase;
    say(a, tok);
}

/* What is known to follow. */
static void append_forced(struct answer *a, struct engine_event *e)
{
    int32_t tok;
    while (!a->state.done && draw_forced(&a->draw, &a->state, &tok))
        append(a, e, tok, 0, NULL);
}

static void note_first_token(struct answer *a)
{
    if (a->figures.first_token_ns == 0)
        a->figures.first_token_ns = answer_clock_ns() - a->req->received_ns;
}

struct engine_event *answer_take(struct answer *a, const struct tree *tree, const struct path *path,
                                 const uint64_t *row_hash, const struct draw_logprobs *logprobs)
{
    struct engine_event *e =
        event_new(a, ENGINE_TOKENS, path->n + 1 + a->draw.think.n_closer, row_hash != NULL, logprobs != NULL);
    if (!e)
        return NULL;
    for (int32_t i = 0; i <= path->n; i++)
        append(a, e, i < path->n ? tree->tok[path->node[i]] : path->next, row_hash ? row_hash[i] : 0,
               logprobs ? &logprobs[i] : NULL);
    append_forced(a, e);
    note_first_token(a);
    return e;
}

int answer_must_close(const struct answer *a, uint64_t now)
{
    const struct engine_request *r = a->req;
    int late = r->thinking_deadline_ns && now - r->received_ns >= r->thinking_deadline_ns;
    return (a->close || late) && a->state.phase == DRAW_THINKING && !a->state.done && a->draw.think.n_closer;
}

struct engine_event *answer_close(struct answer *a)
{
    struct engine_event *e = event_new(a, ENGINE_TOKENS, a->draw.think.n_closer, 0, a->draw.logprobs);
    if (!e)
        return NULL;
    draw_close(&a->draw, &a->state);
    a->close = 0;
    e->closed_at = a->state.closed_at;
    append_forced(a, e);
    note_first_token(a);
    return e;
}

struct engine_event *answer_begin(const struct answer *a)
{
    struct engine_event *e = event_new(a, ENGINE_BEGIN, 0, 0, 0);
    if (e)
        e->figures = a->figures;
    return e;
}

int answer_is_over(const struct answer *a)
{
    return a->cancelled || a->failed || a->state.done;
}

/* What one request can do wrong that no door has seen; anything else speaks for itself. */
static const char *sentence(int st)
{
    if (st == ST_LIMIT)
        return "the prompt and max_tokens do not fit the context; send less or ask for less";
    if (st == ST_INPUT)
        return "a token id is outside the vocabulary, or the request's masks leave no token to draw";
    return status_text(st);
}

static const int finish_of[] = {[DRAW_GOING] = ENGINE_FINISH_CANCELLED,
                                [DRAW_STOP] = ENGINE_FINISH_STOP,
                                [DRAW_LENGTH] = ENGINE_FINISH_LENGTH};

struct engine_event *answer_end(struct answer *a, int st)
{
    struct engine_event *e = a->last;
    a->last = NULL;
    event_init(e, a, ENGINE_END);
    uint64_t now = answer_clock_ns();
    struct engine_figures *f = &a->figures;
    f->n_output = a->state.n_output;
    f->n_thinking = a->state.n_thinking;
    f->cut = a->state.cut;
    f->queue_ns = (a->admitted_ns ? a->admitted_ns : now) - a->req->received_ns;
    f->prefill_ns = a->admitted_ns ? (a->decoding_ns ? a->decoding_ns : now) - a->admitted_ns : 0;
    f->decode_ns = a->decoding_ns ? now - a->decoding_ns : 0;
    e->figures = *f;
    e->finish = st ? ENGINE_FINISH_ERROR : finish_of[a->state.done];
    e->matched = a->state.done == DRAW_STOP ? a->state.matched : -1;
    e->status = st;
    if (st)
        snprintf(e->text, sizeof e->text, "%s", sentence(st));
    return e;
}

/* --- requests --- */

struct engine_request *engine_request_new(void)
{
    struct engine_request *r = calloc(1, sizeof *r);
    if (r) {
        r->draw.repetition = 1;
        r->draw.think = (struct draw_think){.open = -1, .close = -1, .tool = -1, .budget = -1};
        r->closed_at = -1;
        r->n = 1;
    }
    return r;
}

void engine_request_free(struct engine_request *r)
{
    if (!r)
        return;
    free(r->prompt);
    free(r->resume);
    /* The request owns what its draw parameters point to; they are const for everybody else. */
    free((void *) r->draw.eos);
    free((void *) r->draw.stop);
    free((void *) r->draw.banned);
    free((void *) r->draw.allowed);
    free((void *) r->draw.bias_id);
    free((void *) r->draw.bias);
    draw_constraint_free((struct draw_constraint *) r->draw.constraint);
    free((void *) r->draw.think.closer);
    free(r);
}
