/* facts.c - the messages of the small methods: GetModel, Tokenize, Detokenize, GetStats, WatchStats, health.  See codec.c. */
#include <stdlib.h>
#include <string.h>

#include "grpc/health/v1/health.pb-c.h"
#include "proto/codec.h"
#include "proto/wire.h"

int proto_get_model_decode(const void *p, size_t n, struct arena *a, struct err *e)
{
    Outrider__V1__GetModelRequest *m;
    return proto__unpack(&outrider__v1__get_model_request__descriptor, p, n, a, &m, e);
}

int proto_health_decode(const void *p, size_t n, struct arena *a, const char **service, struct err *e)
{
    Grpc__Health__V1__HealthCheckRequest *m;
    int st = proto__unpack(&grpc__health__v1__health_check_request__descriptor, p, n, a, &m, e);
    if (st == 0)
        *service = m->service;
    return st;
}

int proto_get_stats_decode(const void *p, size_t n, struct arena *a, struct err *e)
{
    Outrider__V1__GetStatsRequest *m;
    return proto__unpack(&outrider__v1__get_stats_request__descriptor, p, n, a, &m, e);
}

int proto_watch_stats_decode(const void *p, size_t n, struct arena *a, int32_t *interval_ms, struct err *e)
{
    Outrider__V1__WatchStatsRequest *m;
    int st = proto__unpack(&outrider__v1__watch_stats_request__descriptor, p, n, a, &m, e);
    if (st == 0)
        *interval_ms = m->interval_ms;
    return st;
}

static int tokenize_chat_from(const Outrider__V1__TokenizeChat *c, struct arena *a,
                              struct proto_tokenize *out, struct err *e)
{
    struct proto_request *r = &out->request;
    r->prompt = PROTO_PROMPT_CHAT;
    r->n_tools = c->n_tools_json;
    r->tool = (const char *const *) c->tools_json;
    r->continue_final = c->continue_final_message != 0;
    out->add_generation_prompt = c->add_generation_prompt != 0;
    if (c->enable_thinking__case == OUTRIDER__V1__TOKENIZE_CHAT__ENABLE_THINKING__ENABLE_THINKING)
        out->enable_thinking = c->enable_thinking != 0;
    return proto__messages_from(c->n_messages, c->messages, a, r) ? proto__too_much(e) : 0;
}

int proto_tokenize_decode(const void *p, size_t n, struct arena *a, struct proto_tokenize *out, struct err *e)
{
    Outrider__V1__TokenizeRequest *m;
    int st = proto__unpack(&outrider__v1__tokenize_request__descriptor, p, n, a, &m, e);
    if (st)
        return st;
    *out = (struct proto_tokenize){.allow_special = m->allow_special != 0, .enable_thinking = -1};
    if (m->input_case == OUTRIDER__V1__TOKENIZE_REQUEST__INPUT_CHAT)
        return tokenize_chat_from(m->chat, a, out, e);
    if (m->input_case == OUTRIDER__V1__TOKENIZE_REQUEST__INPUT_TEXT) {
        out->request.prompt = PROTO_PROMPT_TEXT;
        out->request.text = m->text;
    }
    return 0;
}

int proto_detokenize_decode(const void *p, size_t n, struct arena *a, struct proto_detokenize *out,
                            struct err *e)
{
    Outrider__V1__DetokenizeRequest *m;
    int st = proto__unpack(&outrider__v1__detokenize_request__descriptor, p, n, a, &m, e);
    if (st == 0)
        *out = (struct proto_detokenize){{m->n_ids, m->ids}, m->skip_special != 0};
    return st;
}

/* --- to protobuf-c --- */

int proto_model_encode(const struct proto_model *f, struct buf *out)
{
    Outrider__V1__Model m = OUTRIDER__V1__MODEL__INIT;
    Outrider__V1__Resolved defaults;
    proto__resolved_to(&f->defaults, &defaults);
    m.name = proto__str(f->name);
    m.fingerprint = proto__str(f->fingerprint);
    m.device = proto__str(f->device);
    m.version = proto__str(f->version);
    m.context_max = f->context_max;
    m.vocab = f->vocab;
    m.sessions_max = f->sessions_max;
    m.queue_max = f->queue_max;
    m.draft = proto__str(f->draft);
    m.defaults = &defaults;
    m.template_ = proto__str(f->template_name);
    m.tokenizer_hash = proto__str(f->tokenizer_hash);
    return proto__pack(&m.base, out);
}

int proto_health_encode(int status, struct buf *out)
{
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    m.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus) status;
    return proto__pack(&m.base, out);
}

int proto_tokens_encode(const struct proto_ids *ids, struct buf *out)
{
    Outrider__V1__TokenizeReply m = OUTRIDER__V1__TOKENIZE_REPLY__INIT;
    m.n_ids = ids->n;
    m.ids = (int32_t *) ids->id; /* packing only reads */
    m.count = (int32_t) ids->n;
    return proto__pack(&m.base, out);
}

int proto_text_encode(const char *text, size_t n, struct buf *out)
{
    return proto__bytes_encode(1, text, n, out); /* DetokenizeReply.text; it may hold NUL */
}

/* Entries up to the deepest that is not 0. */
static size_t depths(const uint64_t *at)
{
    size_t n = PROTO_STATS_DEPTHS;
    while (n && at[n - 1] == 0)
        n--;
    return n;
}

/* The costs that are known; `at` and `list` hold them.  Returns how many. */
static size_t costs(const struct proto_drafting *d, const double *ms, Outrider__V1__PassCost *at,
                    Outrider__V1__PassCost **list)
{
    size_t n = 0;
    for (int i = 0; i < d->n_costs; i++) {
        if (!(ms[i] > 0))
            continue;
        outrider__v1__pass_cost__init(&at[n]);
        at[n].rows = d->rows[i];
        at[n].ms = ms[i];
        list[n] = &at[n];
        n++;
    }
    return n;
}

static void fill_drafting(const struct proto_drafting *d, Outrider__V1__Drafting *m)
{
    m->overhead_ms = d->overhead_ms;
    m->speedup = d->speedup;
    m->rounds_drafted = d->drafted;
    m->rounds_looked_up = d->looked_up;
    m->rounds_no_gain = d->no_gain;
    m->rounds_owed = d->owed;
    m->rounds_rested = d->rested;
    m->rounds_measured = d->measured;
    m->rounds_waited = d->waited;
    m->probes = d->probes;
    m->levels = d->levels;
    m->why = (char *) d->why; /* packing only reads */
}

int proto_stats_encode(const struct proto_stats *s, struct buf *out)
{
    Outrider__V1__RequestCounts r = OUTRIDER__V1__REQUEST_COUNTS__INIT;
    Outrider__V1__Stats m = OUTRIDER__V1__STATS__INIT;
    r.received = s->received;
    r.stop = s->stop;
    r.length = s->length;
    r.cancelled = s->cancelled;
    r.deadline = s->deadline;
    r.failed = s->failed;
    r.refused = s->refused;
    m.uptime_s = s->uptime_s;
    m.requests = &r;
    m.sessions_active = s->active;
    m.sessions_waiting = s->waiting;
    m.sessions_parked = s->parked;
    m.prompt_tokens = s->prompt;
    m.cached_tokens = s->cached;
    m.output_tokens = s->output;
    m.drafted_tokens = s->drafted;
    m.accepted_tokens = s->accepted;
    m.n_drafted_by_depth = depths(s->drafted_at);
    m.drafted_by_depth = (uint64_t *) s->drafted_at; /* packing only reads */
    m.n_accepted_by_depth = depths(s->accepted_at);
    m.accepted_by_depth = (uint64_t *) s->accepted_at;
    m.drafted_by_model = s->drafted_model;
    m.accepted_by_model = s->accepted_model;
    m.drafted_by_lookup = s->drafted_lookup;
    m.accepted_by_lookup = s->accepted_lookup;
    m.rows = s->rows;
    m.passes = s->passes;
    m.preemptions = s->preemptions;
    m.pages_used = s->pages_used;
    m.pages_cached = s->pages_cached;
    m.pages_free = s->pages_free;
    m.connections = s->connections;
    m.streams = s->streams;
    m.rss_bytes = s->rss_bytes;
    m.n_synthetic_acceptance = s->n_synthetic;
    m.synthetic_acceptance = (float *) s->synthetic; /* likewise */
    Outrider__V1__PassCost at[2][PROTO_STATS_COSTS], *list[2][PROTO_STATS_COSTS];
    Outrider__V1__Drafting drafting = OUTRIDER__V1__DRAFTING__INIT;
    if (s->drafting) {
        fill_drafting(s->drafting, &drafting);
        drafting.target = list[0];
        drafting.n_target = costs(s->drafting, s->drafting->target_ms, at[0], list[0]);
        drafting.level = list[1];
        drafting.n_level = costs(s->drafting, s->drafting->level_ms, at[1], list[1]);
        m.drafting = &drafting;
    }
    return proto__pack(&m.base, out);
}
