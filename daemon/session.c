/* session.c - see session.h: a session's life and its events.  How a request becomes one: session_read.c. */
#include "daemon/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MESSAGE_BYTES =
        32, /* what the template writes around a message, however short: sixty thousand take a while */
    CHOICE_WORK =
        256, /* a choice's byte takes as long as so many of a prompt: blanks are spelled in many ways */
};

/* --- life --- */

struct session *session_new(const struct served *served, struct arena *a, const struct proto_request *r,
                            uint64_t client, uint64_t received_ns)
{
    struct session *s = calloc(1, sizeof *s);
    struct engine_request *er = engine_request_new();
    if (!s || !er) {
        free(s);
        engine_request_free(er);
        arena_fini(a);
        return NULL;
    }
    s->served = served;
    s->arena = *a;
    *a = (struct arena){0};
    s->request = *r;
    s->engine_request = er;
    er->received_ns = received_ns;
    er->client = client;
    s->is_chat = r->prompt == PROTO_PROMPT_CHAT;
    return s;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    engine_request_free(s->engine_request);
    arena_fini(&s->arena);
    for (int32_t i = 0; i < s->n; i++) {
        text_fini(&s->choice[i].text);
        buf_free(&s->choice[i].logprobs);
    }
    stops_free(s->stops);
    free(s->stop);
    free(s);
}

size_t session_prompt_bytes(const struct session *s)
{
    const struct proto_request *r = &s->request;
    size_t n = (r->tokens.n + r->sampling.banned.n + r->sampling.allowed.n + r->stopping.stop.n +
                r->resume.tokens.n) *
               sizeof(int32_t);
    for (size_t i = 0; i < r->sampling.choices.n; i++)
        n += CHOICE_WORK * strlen(r->sampling.choices.s[i]);
    if (r->prompt == PROTO_PROMPT_TEXT)
        return n + strlen(r->text);
    for (size_t i = 0; i < r->n_messages; i++) {
        const struct proto_message *m = &r->message[i];
        n += MESSAGE_BYTES + strlen(m->role) + strlen(m->content) + strlen(m->reasoning);
        for (size_t j = 0; j < m->n_calls; j++)
            n += strlen(m->call[j].name) + strlen(m->call[j].arguments);
    }
    for (size_t i = 0; i < r->n_tools; i++)
        n += strlen(r->tool[i]);
    return n;
}

/* --- events --- */

void session_begin(const struct session *s, const struct engine_event *ev, struct proto_begin *out)
{
    *out = (struct proto_begin){.request_id = s->request_id,
                                .fingerprint = s->served->info.fingerprint,
                                .seed = s->seed,
                                .prompt_tokens = s->n_prompt,
                                .cached_tokens = ev->figures.n_cached,
                                .resolved = s->resolved};
}

int session_stopped(const struct session *s, int32_t choice)
{
    return s->choice[choice].text.stopped >= 0;
}

/* What the engine made of tokens after a stop string counts nowhere. */
static void step(struct session *s, struct choice *c, const struct engine_event *ev, int32_t n)
{
    for (int32_t i = 0; s->stops && i < n; i++) {
        if (c->state.n_output == ev->closed_at)
            draw_close(&s->rules, &c->state);
        draw_step(&s->rules, &c->state, ev->tok[i]);
    }
}

_Static_assert((int) PROTO_LOGPROBS_TOP_MAX == (int) DRAW_TOP_MAX, "as many on the wire as are drawn");

static struct proto_logprob logprob_of(const struct draw_logprobs *l, int processed)
{
    struct proto_logprob to = {.drawn = !isnan(l->logprob),
                               .has_processed = processed,
                               .logprob = l->logprob,
                               .processed = l->processed,
                               .n_top = l->n};
    memcpy(to.top, l->tok, sizeof to.top);
    memcpy(to.top_logprob, l->top, sizeof to.top_logprob);
    memcpy(to.top_processed, l->after, sizeof to.top_processed);
    return to;
}

/* Those of n tokens that text has just taken. */
static int keep_logprobs(const struct session *s, struct choice *c, const struct engine_event *ev, int32_t n)
{
    for (int32_t i = 0; ev->logprobs && i < n; i++) {
        struct proto_logprob l = logprob_of(&ev->logprobs[i], s->processed);
        if (buf_append(&c->logprobs, &l, sizeof l))
            return ST_NOMEM;
    }
    return 0;
}

static int take_tokens(struct session *s, struct choice *c, const struct engine_event *ev,
                       struct text_out *out)
{
    int32_t before = c->text.n_taken;
    int st = text_push(&c->text, ev->tok, (size_t) ev->n, out);
    step(s, c, ev, c->text.n_taken - before);
    if (!st)
        st = keep_logprobs(s, c, ev, c->text.n_taken - before);
    if (ev->closed_at >= 0 && c->closed_at < 0 && (c->text.stopped < 0 || ev->closed_at < c->text.n_taken)) {
        c->closed_at = ev->closed_at;
        c->tell_closed = 1;
    }
    return st;
}

int session_tokens(struct session *s, const struct engine_event *ev, struct text_out *out)
{
    struct choice *c = &s->choice[ev->choice];
    int whole = ev->finish == ENGINE_FINISH_STOP || ev->finish == ENGINE_FINISH_LENGTH;
    text_out_clear(out);
    int st = ev->kind == ENGINE_TOKENS ? take_tokens(s, c, ev, out) : text_end(&c->text, whole, out);
    if (session_stopped(s, ev->choice))
        s->drop |= 1u << ev->choice;
    return st;
}

static const char *words(const struct text_out *out, const struct text_delta *d, int kind)
{
    return d->n[kind] ? (const char *) out->text[kind].p + d->at[kind] : "";
}

void session_delta(struct session *s, const struct engine_event *ev, const struct text_out *out, size_t i,
                   struct proto_delta *delta)
{
    struct choice *c = &s->choice[ev->choice];
    struct text_delta d = text_out_at(out, i);
    *delta = (struct proto_delta){
        .choice = s->first + ev->choice,
        .content = words(out, &d, TEXT_CONTENT),
        .content_bytes = d.n[TEXT_CONTENT],
        .reasoning = words(out, &d, TEXT_REASONING),
        .reasoning_bytes = d.n[TEXT_REASONING],
        .tokens = {d.id_n, d.id_n ? (const int32_t *) (const void *) out->ids.p + d.id_at : NULL},
        .has_closed = c->tell_closed,
        .closed_at = c->closed_at,
    };
    c->tell_closed = 0;
    if (buf_len(&c->logprobs)) {
        delta->logprob = (const struct proto_logprob *) (const void *) buf_front(&c->logprobs);
        c->logprobs.at += d.id_n * sizeof *delta->logprob;
    }
}

static int has(const int32_t *list, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return 1;
    return 0;
}

/* Entries up to the deepest that is not 0. */
static struct proto_ids by_depth(const int32_t *at)
{
    size_t n = ENGINE_DEPTH_MAX;
    while (n && at[n - 1] == 0)
        n--;
    return (struct proto_ids){n, at};
}

static void matched_id(const struct session *s, int32_t id, struct proto_end *out)
{
    const struct gen_config *g = &s->served->gen;
    out->matched_id = id;
    out->matched = has(s->stop, (size_t) s->n_stop, id) ? PROTO_MATCHED_STOP
                   : has(g->eos, (size_t) g->n_eos, id) ? PROTO_MATCHED_EOS
                                                        : PROTO_MATCHED_NONE;
}

void session_end(const struct session *s, const struct engine_event *ev, int finish, struct proto_end *out)
{
    const struct engine_figures *f = &ev->figures;
    const struct choice *c = &s->choice[ev->choice];
    int32_t which = s->first + ev->choice, stopped = session_stopped(s, ev->choice);
    *out = (struct proto_end){.choice = which,
                              .finish = finish,
                              .thinking_cut = stopped ? c->state.cut : f->cut,
                              .has_closed = c->closed_at >= 0,
                              .closed_at = c->closed_at,
                              .prompt_tokens = which == s->first ? s->n_prompt : 0,
                              .completion_tokens = stopped ? c->text.n_taken : f->n_output,
                              .reasoning_tokens = stopped ? c->state.n_thinking : f->n_thinking,
                              .cached_tokens = which == s->first ? f->n_cached : 0,
                              .queue_ms = (double) f->queue_ns / 1e6,
                              .prefill_ms = (double) f->prefill_ns / 1e6,
                              .decode_ms = (double) f->decode_ns / 1e6,
                              .first_token_ms = (double) f->first_token_ns / 1e6,
                              .passes = f->passes,
                              .drafted = f->drafted,
                              .accepted = f->accepted,
                              .preemptions = f->preempted,
                              .synthetic = s->served->info.synthetic.n > 0,
                              .drafted_by_depth = by_depth(f->drafted_at),
                              .accepted_by_depth = by_depth(f->accepted_at),
                              .seed = s->seed};
    if (stopped) {
        out->matched = PROTO_MATCHED_STRING;
        out->matched_string = stops_word(s->stops, c->text.stopped);
    } else if (finish == PROTO_FINISH_STOP) {
        matched_id(s, ev->matched, out);
    }
}
