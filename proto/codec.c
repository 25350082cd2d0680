/* codec.c - Chat, Generate and their events: conversion between the plain structs and protobuf-c's.  The rest: facts.c.
 *
 * Strings and id lists are not copied a second time: the plain structs point into what protobuf-c unpacked, and that
 * lies in the arena too.  Encoding builds protobuf-c's structs on the stack, pointing into the plain ones. */
#include "proto/codec.h"
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>

/* --- unpacking into an arena --- */

struct meter {
    struct arena *arena;
    int failed; /* 1: the arena refused */
};

static void *meter_alloc(void *data, size_t bytes)
{
    struct meter *m = data;
    void *p = arena_get(m->arena, bytes);
    if (!p)
        m->failed = 1;
    return p;
}

static void meter_free(void *data, void *p)
{
    (void) data;
    (void) p; /* the arena dies as a whole */
}

int proto__unpack(const ProtobufCMessageDescriptor *d, const void *p, size_t n, struct arena *a, void *out,
                  struct err *e)
{
    int st = proto__scan(d, p, n, e);
    if (st)
        return st;
    struct meter m = {a, 0};
    ProtobufCAllocator alloc = {meter_alloc, meter_free, &m};
    ProtobufCMessage *msg = protobuf_c_message_unpack(d, &alloc, n, p);
    if (!msg && m.failed)
        return err_set(e, ST_LIMIT, "%s needs more than %zu bytes of memory once decoded", d->short_name,
                       a->cap_bytes);
    if (!msg)
        return err_set(e, ST_WIRE, "malformed protobuf in %s", d->name);
    *(ProtobufCMessage **) out = msg;
    return 0;
}

int proto__too_much(struct err *e)
{
    return err_set(e, ST_LIMIT, "the message needs too much memory once decoded");
}

/* --- requests: from protobuf-c --- */

static struct proto_strings strings(size_t n, char **s)
{
    return (struct proto_strings){n, (const char *const *) s};
}

static void sampling_from(const Outrider__V1__Sampling *m, struct proto_sampling *s)
{
    if (!m)
        return;
    s->has_temperature = m->temperature__case == OUTRIDER__V1__SAMPLING__TEMPERATURE__TEMPERATURE;
    s->temperature = m->temperature;
    s->has_top_k = m->top_k__case == OUTRIDER__V1__SAMPLING__TOP_K__TOP_K;
    s->top_k = m->top_k;
    s->has_top_p = m->top_p__case == OUTRIDER__V1__SAMPLING__TOP_P__TOP_P;
    s->top_p = m->top_p;
    s->has_min_p = m->min_p__case == OUTRIDER__V1__SAMPLING__MIN_P__MIN_P;
    s->min_p = m->min_p;
    s->has_seed = m->seed__case == OUTRIDER__V1__SAMPLING__SEED__SEED;
    s->seed = m->seed;
    s->has_min_tokens = m->min_tokens__case == OUTRIDER__V1__SAMPLING__MIN_TOKENS__MIN_TOKENS;
    s->min_tokens = m->min_tokens;
    s->banned = (struct proto_ids){m->n_banned_token_ids, m->banned_token_ids};
    s->allowed = (struct proto_ids){m->n_allowed_token_ids, m->allowed_token_ids};
    s->has_repetition =
        m->repetition_penalty__case == OUTRIDER__V1__SAMPLING__REPETITION_PENALTY__REPETITION_PENALTY;
    s->repetition = m->repetition_penalty;
    s->has_presence = m->presence_penalty__case == OUTRIDER__V1__SAMPLING__PRESENCE_PENALTY__PRESENCE_PENALTY;
    s->presence = m->presence_penalty;
    s->has_frequency =
        m->frequency_penalty__case == OUTRIDER__V1__SAMPLING__FREQUENCY_PENALTY__FREQUENCY_PENALTY;
    s->frequency = m->frequency_penalty;
    s->has_n = m->n__case == OUTRIDER__V1__SAMPLING__N__N;
    s->n = m->n;
    s->has_logprobs = m->logprobs != NULL;
    s->logprobs_top = m->logprobs ? m->logprobs->top : 0;
    s->logprobs_processed = m->logprobs && m->logprobs->processed;
    const Outrider__V1__Constraint *c = m->constraint;
    s->has_choices = c && c->kind_case == OUTRIDER__V1__CONSTRAINT__KIND_CHOICES;
    if (s->has_choices)
        s->choices = strings(c->choices->n_choice, c->choices->choice);
}

static int bias_from(const Outrider__V1__Sampling *m, struct arena *a, struct proto_sampling *s)
{
    s->n_bias = m ? m->n_logit_bias : 0;
    struct proto_bias *to = arena_get(a, s->n_bias * sizeof *to);
    for (size_t i = 0; to && i < s->n_bias; i++)
        to[i] = (struct proto_bias){m->logit_bias[i]->token, m->logit_bias[i]->bias};
    s->bias = to;
    return to ? 0 : ST_LIMIT;
}

static void stopping_from(const Outrider__V1__Stopping *m, struct proto_stopping *s)
{
    if (!m)
        return;
    s->has_max_tokens = m->max_tokens__case == OUTRIDER__V1__STOPPING__MAX_TOKENS__MAX_TOKENS;
    s->max_tokens = m->max_tokens;
    s->stop = (struct proto_ids){m->n_stop_token_ids, m->stop_token_ids};
    s->stop_string = strings(m->n_stop, m->stop);
    s->ignore_eos = m->ignore_eos != 0;
}

static void thinking_from(const Outrider__V1__Thinking *m, struct proto_thinking *t)
{
    if (!m)
        return;
    t->has_enabled = m->enabled__case == OUTRIDER__V1__THINKING__ENABLED__ENABLED;
    t->enabled = m->enabled != 0;
    t->has_budget = m->budget__case == OUTRIDER__V1__THINKING__BUDGET__BUDGET;
    t->budget = m->budget;
    t->has_deadline = m->deadline_ms__case == OUTRIDER__V1__THINKING__DEADLINE_MS__DEADLINE_MS;
    t->deadline_ms = m->deadline_ms;
}

static void speculation_from(const Outrider__V1__Speculation *m, struct proto_speculation *s)
{
    if (m)
        *s = (struct proto_speculation){(int32_t) m->mode, m->nodes, m->depth, m->n_synthetic_acceptance,
                                        m->synthetic_acceptance};
}

static void resume_from(const Outrider__V1__Resume *m, struct proto_resume *r)
{
    r->fingerprint = "";
    if (m)
        *r = (struct proto_resume){1,
                                   {m->n_tokens, m->tokens},
                                   m->fingerprint,
                                   m->closed_at__case == OUTRIDER__V1__RESUME__CLOSED_AT__CLOSED_AT,
                                   m->closed_at,
                                   m->choice};
}

int proto__messages_from(size_t n, Outrider__V1__Message *const *from, struct arena *a,
                         struct proto_request *out)
{
    struct proto_message *to = arena_get(a, n * sizeof *to);
    if (!to)
        return ST_LIMIT;
    for (size_t i = 0; i < n; i++) {
        const Outrider__V1__Message *f = from[i];
        struct proto_call *call = arena_get(a, f->n_tool_calls * sizeof *call);
        if (!call)
            return ST_LIMIT;
        for (size_t j = 0; j < f->n_tool_calls; j++)
            call[j] = (struct proto_call){f->tool_calls[j]->id, f->tool_calls[j]->name,
                                          f->tool_calls[j]->arguments_json};
        to[i] = (struct proto_message){
            f->role, f->content, f->reasoning_content, f->tool_call_id, f->n_tool_calls, call,
        };
    }
    out->message = to;
    out->n_messages = n;
    return 0;
}

static int chat_from(const Outrider__V1__ChatRequest *m, struct arena *a, struct proto_request *out,
                     struct err *e)
{
    *out = (struct proto_request){.prompt = PROTO_PROMPT_CHAT,
                                  .n_tools = m->n_tools_json,
                                  .tool = (const char *const *) m->tools_json,
                                  .continue_final = m->continue_final_message != 0,
                                  .request_id = m->request_id,
                                  .model = m->model,
                                  .fingerprint = m->fingerprint,
                                  .priority = m->priority};
    sampling_from(m->sampling, &out->sampling);
    stopping_from(m->stopping, &out->stopping);
    thinking_from(m->thinking, &out->thinking);
    speculation_from(m->speculation, &out->speculation);
    resume_from(m->resume, &out->resume);
    if (bias_from(m->sampling, a, &out->sampling) || proto__messages_from(m->n_messages, m->messages, a, out))
        return proto__too_much(e);
    return 0;
}

int proto_chat_decode(const void *p, size_t n, struct arena *a, struct proto_request *out, struct err *e)
{
    Outrider__V1__ChatRequest *m;
    int st = proto__unpack(&outrider__v1__chat_request__descriptor, p, n, a, &m, e);
    return st ? st : chat_from(m, a, out, e);
}

int proto_control_decode(const void *p, size_t n, struct arena *a, int *kind, struct proto_request *out,
                         struct err *e)
{
    Outrider__V1__ChatControl *m;
    int st = proto__unpack(&outrider__v1__chat_control__descriptor, p, n, a, &m, e);
    if (st)
        return st;
    switch (m->control_case) {
    case OUTRIDER__V1__CHAT_CONTROL__CONTROL_REQUEST:
        *kind = PROTO_CONTROL_REQUEST;
        return chat_from(m->request, a, out, e);
    case OUTRIDER__V1__CHAT_CONTROL__CONTROL_CANCEL:
        *kind = PROTO_CONTROL_CANCEL;
        return 0;
    case OUTRIDER__V1__CHAT_CONTROL__CONTROL_STOP_THINKING:
        *kind = PROTO_CONTROL_STOP_THINKING;
        return 0;
    default:
        *kind = PROTO_CONTROL_NONE;
        return 0;
    }
}

int proto_generate_decode(const void *p, size_t n, struct arena *a, struct proto_request *out, struct err *e)
{
    Outrider__V1__GenerateRequest *m;
    int st = proto__unpack(&outrider__v1__generate_request__descriptor, p, n, a, &m, e);
    if (st)
        return st;
    *out = (struct proto_request){.request_id = m->request_id,
                                  .model = m->model,
                                  .fingerprint = m->fingerprint,
                                  .priority = m->priority};
    if (m->prompt_case == OUTRIDER__V1__GENERATE_REQUEST__PROMPT_TEXT) {
        out->prompt = PROTO_PROMPT_TEXT;
        out->text = m->text;
    } else if (m->prompt_case == OUTRIDER__V1__GENERATE_REQUEST__PROMPT_TOKENS) {
        out->prompt = PROTO_PROMPT_TOKENS;
        out->tokens = (struct proto_ids){m->tokens->n_ids, m->tokens->ids};
    }
    sampling_from(m->sampling, &out->sampling);
    stopping_from(m->stopping, &out->stopping);
    thinking_from(m->thinking, &out->thinking);
    speculation_from(m->speculation, &out->speculation);
    resume_from(m->resume, &out->resume);
    return bias_from(m->sampling, a, &out->sampling) ? proto__too_much(e) : 0;
}

/* --- to protobuf-c --- */

char *proto__str(const char *s)
{
    return (char *) (s ? s : ""); /* protobuf-c's structs are not const; packing only reads */
}

static int32_t *ids(const struct proto_ids *l)
{
    return (int32_t *) l->id; /* likewise */
}

int proto__pack(const ProtobufCMessage *m, struct buf *out)
{
    uint8_t *p = buf_reserve(out, protobuf_c_message_get_packed_size(m) + 1);
    if (!p)
        return ST_NOMEM;
    out->n += protobuf_c_message_pack(m, p);
    return 0;
}

void proto__resolved_to(const struct proto_resolved *r, Outrider__V1__Resolved *m)
{
    *m = (Outrider__V1__Resolved) OUTRIDER__V1__RESOLVED__INIT;
    m->temperature = r->temperature;
    m->top_k = r->top_k;
    m->top_p = r->top_p;
    m->min_p = r->min_p;
    m->min_tokens = r->min_tokens;
    m->max_tokens = r->max_tokens;
    m->thinking = r->thinking;
    m->thinking_budget = r->thinking_budget;
    m->n_eos_token_ids = r->eos.n;
    m->eos_token_ids = ids(&r->eos);
    m->repetition_penalty = r->repetition;
    m->presence_penalty = r->presence;
    m->frequency_penalty = r->frequency;
    m->n = r->n;
    m->thinking_deadline_ms = r->deadline_ms;
    m->priority = r->priority;
    m->n_synthetic_acceptance = r->n_synthetic;
    m->synthetic_acceptance = (float *) r->synthetic; /* packing only reads */
}

static int begin_encode(const struct proto_begin *b, struct buf *out)
{
    Outrider__V1__Event event = OUTRIDER__V1__EVENT__INIT;
    Outrider__V1__Begin m = OUTRIDER__V1__BEGIN__INIT;
    Outrider__V1__Resolved resolved;
    proto__resolved_to(&b->resolved, &resolved);
    m.request_id = proto__str(b->request_id);
    m.seed = b->seed;
    m.fingerprint = proto__str(b->fingerprint);
    m.prompt_tokens = b->prompt_tokens;
    m.cached_tokens = b->cached_tokens;
    m.resolved = &resolved;
    event.event_case = OUTRIDER__V1__EVENT__EVENT_BEGIN;
    event.begin = &m;
    return proto__pack(&event.base, out);
}

static void matched_to(const struct proto_end *n, Outrider__V1__End *m)
{
    if (n->matched == PROTO_MATCHED_STOP) {
        m->matched_case = OUTRIDER__V1__END__MATCHED_STOP_TOKEN_ID;
        m->stop_token_id = n->matched_id;
    } else if (n->matched == PROTO_MATCHED_EOS) {
        m->matched_case = OUTRIDER__V1__END__MATCHED_EOS_TOKEN_ID;
        m->eos_token_id = n->matched_id;
    } else if (n->matched == PROTO_MATCHED_STRING) {
        m->matched_case = OUTRIDER__V1__END__MATCHED_STOP_STRING;
        m->stop_string = proto__str(n->matched_string);
    }
}

static int end_encode(const struct proto_end *n, struct buf *out)
{
    Outrider__V1__Event event = OUTRIDER__V1__EVENT__INIT;
    Outrider__V1__End m = OUTRIDER__V1__END__INIT;
    Outrider__V1__Usage usage = OUTRIDER__V1__USAGE__INIT;
    Outrider__V1__Timings timings = OUTRIDER__V1__TIMINGS__INIT;
    Outrider__V1__SpeculationFigures spec = OUTRIDER__V1__SPECULATION_FIGURES__INIT;
    m.choice = n->choice;
    m.finish = (Outrider__V1__End__Finish) n->finish;
    matched_to(n, &m);
    m.thinking_cut = n->thinking_cut;
    if (n->has_closed) {
        m.closed_at__case = OUTRIDER__V1__END__CLOSED_AT__CLOSED_AT;
        m.closed_at = n->closed_at;
    }
    m.seed = n->seed;
    usage.prompt_tokens = n->prompt_tokens;
    usage.completion_tokens = n->completion_tokens;
    usage.reasoning_tokens = n->reasoning_tokens;
    usage.cached_tokens = n->cached_tokens;
    timings.queue_ms = n->queue_ms;
    timings.prefill_ms = n->prefill_ms;
    timings.decode_ms = n->decode_ms;
    timings.first_token_ms = n->first_token_ms;
    spec.passes = n->passes;
    spec.drafted = n->drafted;
    spec.accepted = n->accepted;
    spec.preemptions = n->preemptions;
    spec.synthetic = n->synthetic;
    spec.n_drafted_by_depth = n->drafted_by_depth.n;
    spec.drafted_by_depth = ids(&n->drafted_by_depth);
    spec.n_accepted_by_depth = n->accepted_by_depth.n;
    spec.accepted_by_depth = ids(&n->accepted_by_depth);
    m.usage = &usage;
    m.timings = &timings;
    m.speculation = &spec;
    event.event_case = OUTRIDER__V1__EVENT__EVENT_END;
    event.end = &m;
    return proto__pack(&event.base, out);
}

int proto_event_encode(const struct proto_event *ev, struct buf *out)
{
    switch (ev->kind) {
    case PROTO_EVENT_BEGIN:
        return begin_encode(&ev->u.begin, out);
    case PROTO_EVENT_DELTA:
        return proto__delta_encode(&ev->u.delta, out);
    case PROTO_EVENT_END:
        return end_encode(&ev->u.end, out);
    default:
        return 0; /* an Event with nothing in it is zero bytes */
    }
}
