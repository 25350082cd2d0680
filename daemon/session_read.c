/* session_read.c - a request's words to an engine_request: see session.h.  The request is checked in the order a reader would:
 * which model, which target, which parameters, then the prompt, then whether both fit the context. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/tree.h"
#include "daemon/session.h"

enum { THINKING_DEADLINE_MAX_MS = 24 * 3600 * 1000 };

/* --- names --- */

static void make_request_id(char *out)
{
    uint8_t r[16];
    if (getrandom(r, sizeof r, 0) != (ssize_t) sizeof r)
        memset(r, 0, sizeof r);
    for (size_t i = 0; i < sizeof r; i++)
        snprintf(out + 2 * i, 3, "%02x", r[i]);
}

static int check_names(struct session *s, struct err *e)
{
    const struct proto_request *r = &s->request;
    const char *own = s->served->info.fingerprint;
    if (*r->model && strcmp(r->model, s->served->name) != 0)
        return err_set(e, ST_NOTFOUND, "model '%.200s' is not served here; '%s' is", r->model,
                       s->served->name);
    const char *theirs = *r->fingerprint ? r->fingerprint : r->resume.fingerprint;
    if (*r->fingerprint && r->resume.given && *r->resume.fingerprint && strcmp(r->fingerprint, own) == 0)
        theirs = r->resume.fingerprint;
    if (*theirs && strcmp(theirs, own) != 0)
        return err_set(e, ST_PRECONDITION,
                       "the request wants fingerprint '%.100s', this target has '%s': its text would differ",
                       theirs, own);
    if (s->served->info.synthetic.n && r->resume.given)
        return err_set(
            e, ST_PRECONDITION,
            "this daemon keeps guesses by a coin (--synthetic-acceptance): its texts depend on what was "
            "drafted, and none can be continued word for word");
    if (strlen(r->request_id) > SESSION_REQUEST_ID_MAX)
        return err_set(e, ST_INPUT, "request_id has %zu bytes, the limit is %d", strlen(r->request_id),
                       SESSION_REQUEST_ID_MAX);
    if (*r->request_id)
        snprintf(s->request_id, sizeof s->request_id, "%s", r->request_id);
    else
        make_request_id(s->request_id);
    return 0;
}

/* --- parameters --- */

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *) a, y = *(const int32_t *) b;
    return (x > y) - (x < y);
}

/* A sorted copy without repetitions; NULL where the list is empty. */
static int ids_copy(const int32_t *id, size_t n, const int32_t **out, int32_t *n_out, struct err *e)
{
    *n_out = 0;
    if (n == 0)
        return 0;
    int32_t *to = malloc(n * sizeof *to);
    if (!to)
        return err_set(e, ST_NOMEM, "out of memory");
    memcpy(to, id, n * sizeof *to);
    qsort(to, n, sizeof *to, ascending);
    for (size_t i = 0; i < n; i++)
        if (*n_out == 0 || to[*n_out - 1] != to[i])
            to[(*n_out)++] = to[i];
    *out = to;
    return 0;
}

void session_defaults(const struct served *served, struct proto_resolved *out)
{
    const struct gen_config *g = &served->gen;
    int thinks = served->think.open >= 0 && served->think.budget != 0 &&
                 template_thinking(served->chat_template) != TEMPLATE_THINKS_NEVER;
    *out = (struct proto_resolved){.temperature = g->has_temperature ? g->temperature : 1,
                                   .top_k = g->has_top_k ? g->top_k : 0,
                                   .top_p = g->has_top_p ? g->top_p : 1,
                                   .min_p = g->has_min_p ? g->min_p : 0,
                                   .max_tokens = served->info.ctx_max,
                                   .thinking = thinks,
                                   .thinking_budget = served->think.budget,
                                   .repetition = g->has_repetition_penalty ? g->repetition_penalty : 1,
                                   .n = 1,
                                   .eos = {(size_t) g->n_eos, g->eos},
                                   .n_synthetic = (size_t) served->info.synthetic.n,
                                   .synthetic = served->info.synthetic.rate};
}

static int resolve_sampling(struct session *s, struct err *e)
{
    const struct proto_sampling *r = &s->request.sampling;
    struct draw_params *d = &s->engine_request->draw;
    session_defaults(s->served, &s->resolved);
    d->temperature = r->has_temperature ? r->temperature : s->resolved.temperature;
    d->top_k = r->has_top_k ? r->top_k : s->resolved.top_k;
    d->top_p = r->has_top_p ? r->top_p : s->resolved.top_p;
    d->min_p = r->has_min_p ? r->min_p : s->resolved.min_p;
    d->min_tokens = r->has_min_tokens ? r->min_tokens : 0;
    d->choice = s->request.resume.choice;
    d->seed = r->seed;
    if (!r->has_seed && getrandom(&d->seed, sizeof d->seed, 0) != (ssize_t) sizeof d->seed)
        return err_set(e, ST_UNAVAILABLE, "no random seed could be had from the system; give sampling.seed");
    s->seed = d->seed;
    int st = ids_copy(r->banned.id, r->banned.n, &d->banned, &d->n_banned, e);
    if (!st)
        st = ids_copy(r->allowed.id, r->allowed.n, &d->allowed, &d->n_allowed, e);
    return st;
}

static int by_token(const void *a, const void *b)
{
    const struct proto_bias *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

/* Sorted, as the draw wants it; draw_check finds what is there twice. */
static int resolve_bias(struct session *s, struct err *e)
{
    const struct proto_sampling *r = &s->request.sampling;
    struct draw_params *d = &s->engine_request->draw;
    if (r->n_bias > DRAW_BIAS_MAX)
        return err_set(e, ST_INPUT, "logit_bias: at most %d ids, not %zu", DRAW_BIAS_MAX, r->n_bias);
    if (r->n_bias == 0)
        return 0;
    struct proto_bias *sorted = arena_get(&s->arena, r->n_bias * sizeof *sorted);
    int32_t *id = malloc(r->n_bias * sizeof *id);
    float *bias = malloc(r->n_bias * sizeof *bias);
    d->bias_id = id;
    d->bias = bias;
    if (!sorted || !id || !bias)
        return err_set(e, ST_NOMEM, "out of memory");
    memcpy(sorted, r->bias, r->n_bias * sizeof *sorted);
    qsort(sorted, r->n_bias, sizeof *sorted, by_token);
    for (size_t i = 0; i < r->n_bias; i++) {
        id[i] = sorted[i].token;
        bias[i] = sorted[i].bias;
    }
    d->n_bias = (int32_t) r->n_bias;
    return 0;
}

static int resolve_constraint(struct session *s, struct err *e)
{
    const struct proto_sampling *r = &s->request.sampling;
    struct draw_constraint *c = NULL;
    if (!r->has_choices)
        return 0;
    size_t *bytes = arena_get(&s->arena, r->choices.n * sizeof *bytes);
    if (!bytes || r->choices.n > INT32_MAX)
        return err_set(e, ST_LIMIT, "the choices need too much memory");
    for (size_t i = 0; i < r->choices.n; i++)
        bytes[i] = strlen(r->choices.s[i]);
    int st = draw_constraint_choice(&c, s->served->vocab, r->choices.s, bytes, (int32_t) r->choices.n, e);
    s->engine_request->draw.constraint = c;
    return st;
}

/* Penalties, bias, logprobs, constraint. */
static int resolve_shape(struct session *s, struct err *e)
{
    const struct proto_sampling *r = &s->request.sampling;
    struct draw_params *d = &s->engine_request->draw;
    d->repetition = r->has_repetition ? r->repetition : s->resolved.repetition;
    d->presence = r->has_presence ? r->presence : 0;
    d->frequency = r->has_frequency ? r->frequency : 0;
    d->logprobs = r->has_logprobs;
    d->top_logprobs = r->logprobs_top;
    d->processed = s->processed = r->logprobs_processed;
    int st = resolve_bias(s, e);
    return st ? st : resolve_constraint(s, e);
}

static int resolve_stopping(struct session *s, struct err *e)
{
    const struct proto_stopping *r = &s->request.stopping;
    const struct gen_config *g = &s->served->gen;
    struct draw_params *d = &s->engine_request->draw;
    const int32_t *own = NULL;
    d->ignore_eos = r->ignore_eos;
    int st = stops_new(&s->stops, r->stop_string.s, r->stop_string.n, e);
    if (!st)
        st = ids_copy(g->eos, (size_t) g->n_eos, &d->eos, &d->n_eos, e);
    if (!st)
        st = ids_copy(r->stop.id, r->stop.n, &d->stop, &d->n_stop, e);
    if (!st)
        st = ids_copy(d->stop, (size_t) d->n_stop, &own, &s->n_stop, e);
    s->stop = (int32_t *) own;
    return st;
}

/* Unset: the server's default.  0 turns thinking off: by the template's empty block, or, where every answer starts inside <think>,
 * by the closing text at once. */
static int resolve_thinking(struct session *s, struct err *e)
{
    const struct proto_thinking *r = &s->request.thinking;
    const struct draw_think *own = &s->served->think;
    struct draw_think *t = &s->engine_request->draw.think;
    if (r->has_enabled && !s->is_chat)
        return err_set(
            e, ST_INPUT,
            "thinking.enabled is for Chat: it chooses the template's form; Generate takes the prompt as is");
    int32_t budget = r->has_budget ? r->budget : own->budget;
    int thinks = s->is_chat ? template_thinking(s->served->chat_template) : TEMPLATE_THINKS_AS_ASKED;
    s->resolved.thinking =
        own->open >= 0 && thinks != TEMPLATE_THINKS_NEVER && budget != 0 && !(r->has_enabled && !r->enabled);
    if (thinks == TEMPLATE_THINKS_ALWAYS && r->has_enabled && !r->enabled && budget >= -1)
        budget = 0;
    s->resolved.thinking_budget = budget;
    t->budget = budget; /* draw_check judges it, also where the model cannot think */
    if (r->deadline_ms < 0 || r->deadline_ms > THINKING_DEADLINE_MAX_MS)
        return err_set(e, ST_INPUT, "thinking.deadline_ms must be in 0..%d, not %d", THINKING_DEADLINE_MAX_MS,
                       r->deadline_ms);
    s->resolved.deadline_ms = r->deadline_ms;
    s->engine_request->thinking_deadline_ns = (uint64_t) r->deadline_ms * 1000000;
    if (own->open < 0)
        return 0;
    t->open = own->open;
    t->close = own->close;
    t->tool = own->tool;
    int32_t *closer = malloc((size_t) own->n_closer * sizeof *closer);
    if (!closer)
        return err_set(e, ST_NOMEM, "out of memory");
    memcpy(closer, own->closer, (size_t) own->n_closer * sizeof *closer);
    t->closer = closer;
    t->n_closer = own->n_closer;
    return 0;
}

/* How many answers, and who goes first. */
static int resolve_answers(struct session *s, struct err *e)
{
    const struct proto_request *r = &s->request;
    struct engine_request *er = s->engine_request;
    int32_t n = r->sampling.has_n ? r->sampling.n : 1;
    if (n < 1 || n > ENGINE_CHOICES_MAX)
        return err_set(e, ST_INPUT, "sampling.n must be in 1..%d, not %d", ENGINE_CHOICES_MAX, n);
    if (n > s->served->info.sessions_max + s->served->info.queue_max)
        return err_set(e, ST_INPUT, "sampling.n is %d, and this daemon has places for %d answers in all", n,
                       s->served->info.sessions_max + s->served->info.queue_max);
    if (r->priority < -ENGINE_PRIORITY_MAX || r->priority > ENGINE_PRIORITY_MAX)
        return err_set(e, ST_INPUT, "priority must be in %d..%d, not %d", -ENGINE_PRIORITY_MAX,
                       ENGINE_PRIORITY_MAX, r->priority);
    if (r->resume.choice < 0 || r->resume.choice >= n)
        return err_set(e, ST_INPUT, "resume.choice is %d, and the request asks for %d answers (sampling.n)",
                       r->resume.choice, n);
    s->first = r->resume.choice;
    s->n = er->n = r->resume.given ? 1 : n;
    er->priority = r->priority;
    s->resolved.n = s->n;
    s->resolved.priority = r->priority;
    return 0;
}

/* Rates are the daemon's, which was started with them or without: a request can only insist on them. */
static int check_synthetic(const struct session *s, struct err *e)
{
    const struct proto_speculation *r = &s->request.speculation;
    const struct synthetic *own = &s->served->info.synthetic;
    char rates[SYNTHETIC_TEXT];
    if (r->n_synthetic == 0 || synthetic_is(own, r->synthetic, r->n_synthetic))
        return 0;
    synthetic_say(own, rates, sizeof rates);
    return err_set(
        e, ST_PRECONDITION,
        own->n ? "the request asks for other rates of synthetic acceptance than this daemon's (%s)"
               : "synthetic acceptance makes text that is not the target's; this daemon was not started "
                 "with --synthetic-acceptance, and gives the target's alone%s",
        rates);
}

static int resolve_speculation(struct session *s, struct err *e)
{
    const struct proto_speculation *r = &s->request.speculation;
    struct engine_request *er = s->engine_request;
    if (check_synthetic(s, e))
        return ST_PRECONDITION;
    if (r->mode < PROTO_SPEC_AUTO || r->mode > PROTO_SPEC_NODES)
        return err_set(e, ST_INPUT,
                       "speculation.mode %d is unknown; AUTO (0), OFF (1) and NODES (2) are known", r->mode);
    if (r->mode == PROTO_SPEC_NODES && (r->nodes < 1 || r->nodes > TREE_MAX))
        return err_set(e, ST_INPUT, "speculation.nodes must be in 1..%d, not %d", TREE_MAX, r->nodes);
    if (r->depth < 0 || r->depth >= TREE_MAX)
        return err_set(e, ST_INPUT, "speculation.depth must be in 0..%d, not %d", TREE_MAX - 1, r->depth);
    er->spec = r->mode == PROTO_SPEC_OFF     ? ENGINE_SPEC_OFF
               : r->mode == PROTO_SPEC_NODES ? ENGINE_SPEC_NODES
                                             : ENGINE_SPEC_AUTO;
    er->spec_nodes = r->nodes;
    er->spec_depth = r->depth;
    return 0;
}

/* --- prompt --- */

static int chat_messages(const struct proto_request *r, struct arena *a, struct chat_message *to,
                         struct err *e)
{
    for (size_t i = 0; i < r->n_messages; i++) {
        const struct proto_message *f = &r->message[i];
        struct chat_call *call = arena_get(a, f->n_calls * sizeof *call);
        if (!call)
            return err_set(e, ST_LIMIT, "the conversation needs too much memory");
        for (size_t j = 0; j < f->n_calls; j++) {
            call[j].name = f->call[j].name;
            call[j].arguments = *f->call[j].arguments ? f->call[j].arguments : "{}";
        }
        /* Absent and "" are one in proto3; the template takes "" reasoning for "there is some, and it is empty". */
        to[i] =
            (struct chat_message){f->role, f->content, *f->reasoning ? f->reasoning : NULL, f->n_calls, call};
    }
    return 0;
}

int session_render(const struct served *served, const struct proto_request *r, int enable_thinking,
                   int generation_prompt, struct arena *a, struct tokens *out, struct err *e)
{
    if (served->chat_template == CHAT_TEMPLATE_NONE)
        return err_set(e, ST_PRECONDITION,
                       "this model has no chat template; use Generate, or start outriderd with --template");
    if (r->n_messages == 0)
        return err_set(e, ST_INPUT, "messages is empty; at least one is needed");
    struct chat_message *message = arena_get(a, r->n_messages * sizeof *message);
    if (!message)
        return err_set(e, ST_LIMIT, "the conversation needs too much memory");
    int st = chat_messages(r, a, message, e);
    if (st)
        return st;
    struct chat c = {.n_messages = r->n_messages,
                     .message = message,
                     .n_tools = r->n_tools,
                     .tool = r->tool,
                     .enable_thinking = served->think.open < 0 ? -1 : enable_thinking,
                     .add_generation_prompt = generation_prompt,
                     .continue_final = r->continue_final};
    struct pieces p = {0};
    st = template_render(served->chat_template, &c, a, &p, e);
    return st ? st : tokenizer_encode_pieces(served->tokenizer, p.p, p.n, out, e);
}

static int read_chat(struct session *s, struct tokens *out, struct err *e)
{
    const struct proto_request *r = &s->request;
    int thinking = !s->resolved.thinking ? 0 : r->thinking.has_enabled ? 1 : -1;
    return session_render(s->served, r, thinking, !r->continue_final, &s->arena, out, e);
}

static int check_ids(const char *name, const int32_t *id, size_t n, int32_t vocab, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= vocab)
            return err_set(e, ST_INPUT, "%s[%zu] is %d; ids of this model are 0..%d", name, i, id[i],
                           vocab - 1);
    return 0;
}

static int copy_ids(const struct proto_ids *from, int32_t **to, int32_t *n, struct err *e)
{
    *to = malloc((from->n + 1) * sizeof **to);
    if (!*to || from->n > INT32_MAX)
        return err_set(e, ST_NOMEM, "out of memory");
    if (from->n)
        memcpy(*to, from->id, from->n * sizeof **to);
    *n = (int32_t) from->n;
    return 0;
}

static int read_prompt(struct session *s, struct err *e)
{
    const struct proto_request *r = &s->request;
    struct engine_request *er = s->engine_request;
    struct tokens t = {0};
    int st;
    if (r->prompt == PROTO_PROMPT_TOKENS) {
        st = check_ids("prompt.tokens", r->tokens.id, r->tokens.n, s->served->info.vocab, e);
        return st ? st : copy_ids(&r->tokens, &er->prompt, &er->n_prompt, e);
    }
    if (r->prompt == PROTO_PROMPT_NONE)
        return err_set(e, ST_INPUT, "prompt is not set; give text or tokens");
    st = s->is_chat
             ? read_chat(s, &t, e)
             : tokenizer_encode(s->served->tokenizer, r->text, strlen(r->text), TOKENIZER_ADDED, &t, e);
    er->prompt = t.id;
    er->n_prompt = (int32_t) t.n;
    return st;
}

/* --- what fits --- */

static int check_room(struct session *s, struct err *e)
{
    struct engine_request *er = s->engine_request;
    const struct proto_stopping *r = &s->request.stopping;
    int32_t ctx = s->served->info.ctx_max, room = ctx - er->n_prompt;
    if (er->n_prompt < 1)
        return err_set(e, ST_INPUT, "the prompt is empty; at least one token is needed");
    if (room < 1)
        return err_set(e, ST_INPUT,
                       "the prompt has %d tokens; the context holds %d, prompt and answer together",
                       er->n_prompt, ctx);
    if (r->has_max_tokens && r->max_tokens > room)
        return err_set(
            e, ST_INPUT,
            "a prompt of %d tokens and max_tokens %d do not fit the context of %d; at most %d are left",
            er->n_prompt, r->max_tokens, ctx, room);
    er->draw.max_tokens = r->has_max_tokens ? r->max_tokens : room;
    s->n_prompt = er->n_prompt;
    return 0;
}

static int ends_early(int32_t n, int32_t given, struct err *e)
{
    return err_set(e, ST_INPUT, "resume.tokens: the answer ends with token %d, and %d are given", n, given);
}

/* Resumed tokens must be a beginning of an answer, or a whole one: then its End is all that is left to send. */
static int read_resume(struct session *s, struct err *e)
{
    const struct proto_resume *r = &s->request.resume;
    struct engine_request *er = s->engine_request;
    er->closed_at = -1;
    if (!r->given)
        return 0;
    if (!s->request.sampling.has_seed)
        return err_set(e, ST_INPUT,
                       "resume needs sampling.seed: the one the first event of the broken stream reported");
    int st = check_ids("resume.tokens", r->tokens.id, r->tokens.n, s->served->info.vocab, e);
    if (!st)
        st = copy_ids(&r->tokens, &er->resume, &er->n_resume, e);
    if (st)
        return st;
    if (r->has_closed && (r->closed_at < 0 || r->closed_at > er->n_resume))
        return err_set(e, ST_INPUT, "resume.closed_at is %d, and %d tokens are given", r->closed_at,
                       er->n_resume);
    if (r->has_closed)
        er->closed_at = r->closed_at;
    struct draw_state state;
    draw_start(&er->draw, er->prompt, er->n_prompt, &state);
    for (int32_t i = 0; i <= er->n_resume; i++) {
        if (state.done && i < er->n_resume)
            return ends_early(i, er->n_resume, e);
        if (i == er->closed_at && !draw_close(&er->draw, &state))
            return err_set(
                e, ST_INPUT,
                "resume.closed_at is %d, where no thinking runs; give it as the broken stream did, "
                "with the same request",
                i);
        if (i < er->n_resume)
            draw_step(&er->draw, &state, er->resume[i]);
        if (state.at < 0)
            return err_set(e, ST_INPUT, "resume.tokens[%d] is %d, which the choices do not allow there", i,
                           er->resume[i]);
    }
    return 0;
}

/* What the engine's answers are followed with, once its own copy is gone. */
static void keep_rules(struct session *s)
{
    const struct draw_params *d = &s->engine_request->draw;
    const struct served *v = s->served;
    s->rules = (struct draw_params){.max_tokens = d->max_tokens,
                                    .ignore_eos = d->ignore_eos,
                                    .eos = v->gen.eos,
                                    .n_eos = v->gen.n_eos,
                                    .stop = s->stop,
                                    .n_stop = s->n_stop,
                                    .think = v->think};
    s->rules.think.budget = d->think.budget;
}

/* The resumed tokens pass unsaid. */
static int skip_resumed(struct session *s, struct choice *c, struct err *e)
{
    const struct engine_request *er = s->engine_request;
    struct text_out nothing = {0};
    int st = text_skip(&c->text, er->resume, (size_t) er->n_resume, &nothing);
    text_out_free(&nothing);
    if (st)
        return err_set(e, st, "out of memory");
    if (c->text.stopped >= 0 && c->text.n_taken < er->n_resume)
        return ends_early(c->text.n_taken, er->n_resume, e);
    s->drop = c->text.stopped >= 0; /* it is whole: its End is all that is left */
    for (int32_t i = 0; i <= er->n_resume; i++) {
        if (i == er->closed_at)
            draw_close(&s->rules, &c->state);
        if (i < er->n_resume)
            draw_step(&s->rules, &c->state, er->resume[i]);
    }
    return 0;
}

static int start_text(struct session *s, struct err *e)
{
    const struct engine_request *er = s->engine_request;
    keep_rules(s);
    for (int32_t i = 0; i < s->n; i++) {
        struct choice *c = &s->choice[i];
        text_init(&c->text, s->served->tokenizer, &s->served->think, s->is_chat, s->stops, er->prompt,
                  (size_t) er->n_prompt);
        draw_start(&s->rules, er->prompt, er->n_prompt, &c->state);
        c->closed_at = er->closed_at;
    }
    return skip_resumed(s, &s->choice[0], e);
}

static void report(struct session *s)
{
    const struct draw_params *d = &s->engine_request->draw;
    struct proto_resolved *r = &s->resolved;
    r->temperature = d->temperature;
    r->top_k = d->top_k;
    r->top_p = d->top_p;
    r->min_p = d->min_p;
    r->min_tokens = d->min_tokens;
    r->repetition = d->repetition;
    r->presence = d->presence;
    r->frequency = d->frequency;
    r->max_tokens = d->max_tokens;
}

int session_read(struct session *s, struct err *e)
{
    int st = check_names(s, e);
    if (!st)
        st = resolve_sampling(s, e);
    if (!st)
        st = resolve_shape(s, e);
    if (!st)
        st = resolve_stopping(s, e);
    if (!st)
        st = resolve_thinking(s, e);
    if (!st)
        st = resolve_answers(s, e);
    if (!st)
        st = resolve_speculation(s, e);
    if (!st)
        st = read_prompt(s, e);
    if (!st)
        st = check_room(s, e);
    if (!st)
        st = draw_check(&s->engine_request->draw, s->served->info.vocab, e);
    if (!st)
        st = read_resume(s, e);
    if (!st)
        st = start_text(s, e);
    if (st)
        return st;
    report(s);
    arena_fini(&s->arena);
    s->request = (struct proto_request){0};
    return 0;
}
