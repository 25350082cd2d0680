/* codec.h - the server's side of outrider.v1 and grpc.health.v1: requests from bytes, answers to bytes.
 *
 * No sockets, no threads, no framing: a message's bytes go in or come out, as plain structs.  The daemon never sees
 * protobuf-c.  Decoding puts everything into the caller's arena, whose cap bounds what hostile bytes can allocate.
 *
 * Refused: malformed bytes (ST_WIRE); a string with a NUL byte or with invalid UTF-8 (ST_INPUT, e names field and
 * offset: protobuf-c would cut the one and pass on the other); more memory than the arena may hand out (ST_LIMIT).
 * Unknown fields are skipped. */
#ifndef PROTO_CODEC_H
#define PROTO_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/buf.h"
#include "core/status.h"

struct proto_ids {
    size_t n;
    const int32_t *id;
};

struct proto_call {
    const char *id, *name, *arguments; /* never NULL; arguments: a JSON object's text */
};

struct proto_message {
    const char *role, *content, *reasoning, *call_id; /* never NULL; absent is "" */
    size_t n_calls;
    const struct proto_call *call;
};

struct proto_strings {
    size_t n;
    const char *const *s; /* each NUL-terminated */
};

struct proto_bias {
    int32_t token;
    float bias;
};

struct proto_sampling {
    int32_t has_temperature, has_top_k, has_top_p, has_min_p, has_seed, has_min_tokens; /* 0: left unset */
    int32_t has_repetition, has_presence, has_frequency, has_n;                         /* likewise */
    float temperature;
    int32_t top_k;
    float top_p, min_p;
    uint64_t seed;
    int32_t min_tokens;
    struct proto_ids banned, allowed;
    float repetition, presence, frequency;
    int32_t n;
    size_t n_bias;
    const struct proto_bias *bias;
    int32_t has_logprobs, logprobs_top, logprobs_processed;
    int32_t has_choices; /* the constraint: the content is one of these strings */
    struct proto_strings choices;
};

struct proto_stopping {
    int32_t has_max_tokens, max_tokens;
    struct proto_ids stop;
    struct proto_strings stop_string;
    int32_t ignore_eos;
};

struct proto_thinking {
    int32_t has_enabled, enabled;
    int32_t has_budget, budget;
    int32_t has_deadline, deadline_ms;
};

enum proto_spec { PROTO_SPEC_AUTO, PROTO_SPEC_OFF, PROTO_SPEC_NODES };

struct proto_speculation {
    int32_t mode; /* enum proto_spec, or another number the client sent */
    int32_t nodes, depth;
    size_t n_synthetic; /* rates the request insists on; 0: it does not */
    const float *synthetic;
};

struct proto_resume {
    int32_t given; /* 0: the field is absent */
    struct proto_ids tokens;
    const char *fingerprint;
    int32_t has_closed, closed_at;
    int32_t choice;
};

enum proto_prompt { PROTO_PROMPT_NONE, PROTO_PROMPT_CHAT, PROTO_PROMPT_TEXT, PROTO_PROMPT_TOKENS };

/* ChatRequest and GenerateRequest. */
struct proto_request {
    int32_t prompt; /* enum proto_prompt; which of the next three groups counts */

    size_t n_messages; /* CHAT */
    const struct proto_message *message;
    size_t n_tools;
    const char *const *tool;
    int32_t continue_final;

    const char *text; /* TEXT */

    struct proto_ids tokens; /* TOKENS */

    struct proto_sampling sampling;
    struct proto_stopping stopping;
    struct proto_thinking thinking;
    struct proto_speculation speculation;
    struct proto_resume resume;
    const char *request_id, *model, *fingerprint; /* never NULL */
    int32_t priority;
};

/* ChatControl. */
enum proto_control {
    PROTO_CONTROL_NONE,
    PROTO_CONTROL_REQUEST,
    PROTO_CONTROL_CANCEL,
    PROTO_CONTROL_STOP_THINKING
};

/* TokenizeRequest: text (prompt TEXT) or a conversation (prompt CHAT), in the fields of a proto_request. */
struct proto_tokenize {
    struct proto_request request;
    int32_t allow_special;
    int32_t enable_thinking; /* -1: as the template has it */
    int32_t add_generation_prompt;
};

struct proto_detokenize {
    struct proto_ids ids;
    int32_t skip_special;
};

struct proto_resolved {
    float temperature;
    int32_t top_k;
    float top_p, min_p;
    int32_t min_tokens, max_tokens;
    int32_t thinking, thinking_budget;
    struct proto_ids eos;
    float repetition, presence, frequency;
    int32_t n, deadline_ms, priority;
    size_t n_synthetic; /* rates of synthetic acceptance; 0: none */
    const float *synthetic;
};

struct proto_begin {
    const char *request_id, *fingerprint;
    uint64_t seed;
    int32_t prompt_tokens, cached_tokens;
    struct proto_resolved resolved;
};

enum { PROTO_LOGPROBS_TOP_MAX = 20 };

struct proto_logprob {
    int32_t drawn;         /* 0: the token was not drawn and has none */
    int32_t has_processed; /* 1: so have all of top */
    float logprob, processed;
    int32_t n_top;
    int32_t top[PROTO_LOGPROBS_TOP_MAX]; /* likeliest first */
    float top_logprob[PROTO_LOGPROBS_TOP_MAX], top_processed[PROTO_LOGPROBS_TOP_MAX];
};

struct proto_delta {
    int32_t choice;
    const char *content, *reasoning; /* UTF-8, and a model may say NUL: the lengths count */
    size_t content_bytes, reasoning_bytes;
    struct proto_ids tokens;
    const struct proto_logprob *logprob; /* (tokens.n), or NULL */
    int32_t has_closed, closed_at;
};

enum proto_finish {
    PROTO_FINISH_UNSPECIFIED,
    PROTO_FINISH_STOP,
    PROTO_FINISH_LENGTH,
    PROTO_FINISH_CANCELLED,
    PROTO_FINISH_DEADLINE
};
enum proto_matched { PROTO_MATCHED_NONE, PROTO_MATCHED_STOP, PROTO_MATCHED_EOS, PROTO_MATCHED_STRING };

struct proto_end {
    int32_t choice;
    int32_t finish;              /* enum proto_finish */
    int32_t matched, matched_id; /* enum proto_matched */
    const char *matched_string;  /* PROTO_MATCHED_STRING */
    int32_t thinking_cut;
    int32_t has_closed, closed_at;
    int32_t prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens;
    double queue_ms, prefill_ms, decode_ms, first_token_ms;
    int32_t passes, drafted, accepted, preemptions;
    int32_t synthetic; /* 1: kept by a coin */
    struct proto_ids drafted_by_depth, accepted_by_depth;
    uint64_t seed;
};

enum proto_event_kind { PROTO_EVENT_NONE, PROTO_EVENT_BEGIN, PROTO_EVENT_DELTA, PROTO_EVENT_END };

struct proto_event {
    int32_t kind; /* enum proto_event_kind */
    union {
        struct proto_begin begin;
        struct proto_delta delta;
        struct proto_end end;
    } u;
};

struct proto_model {
    const char *name, *fingerprint, *device, *version, *draft, *template_name, *tokenizer_hash;
    int32_t context_max, vocab, sessions_max, queue_max;
    struct proto_resolved defaults;
};

enum { PROTO_STATS_DEPTHS = 64, PROTO_STATS_COSTS = 8 };

struct proto_drafting {
    int32_t n_costs;
    int32_t rows[PROTO_STATS_COSTS];
    double target_ms[PROTO_STATS_COSTS], level_ms[PROTO_STATS_COSTS]; /* 0: not known, not sent */
    double overhead_ms, speedup;
    uint64_t drafted, looked_up, no_gain, owed, rested, measured, waited, probes, levels;
    const char *why;
};

/* inference.proto's Stats, field by field. */
struct proto_stats {
    double uptime_s;
    uint64_t received, stop, length, cancelled, deadline, failed, refused;
    int32_t active, waiting, parked;
    uint64_t prompt, cached, output, drafted, accepted;
    uint64_t drafted_at[PROTO_STATS_DEPTHS], accepted_at[PROTO_STATS_DEPTHS];
    uint64_t drafted_model, accepted_model, drafted_lookup, accepted_lookup;
    uint64_t rows, passes, preemptions;
    int64_t pages_used, pages_cached, pages_free;
    int32_t connections, streams;
    int64_t rss_bytes;
    const struct proto_drafting *drafting; /* NULL: unset */
    size_t n_synthetic;                    /* rates of synthetic acceptance; 0: none */
    const float *synthetic;
};

enum proto_health {
    PROTO_HEALTH_UNKNOWN,
    PROTO_HEALTH_SERVING,
    PROTO_HEALTH_NOT_SERVING,
    PROTO_HEALTH_SERVICE_UNKNOWN
};

/* --- requests: 0, ST_WIRE, ST_INPUT, ST_LIMIT; everything in *out lives in a --- */
int proto_chat_decode(const void *p, size_t n, struct arena *a, struct proto_request *out, struct err *e);
int proto_generate_decode(const void *p, size_t n, struct arena *a, struct proto_request *out, struct err *e);
int proto_get_model_decode(const void *p, size_t n, struct arena *a, struct err *e);
int proto_health_decode(const void *p, size_t n, struct arena *a, const char **service, struct err *e);
/* *kind: enum proto_control; *out: a request's. */
int proto_control_decode(const void *p, size_t n, struct arena *a, int *kind, struct proto_request *out,
                         struct err *e);
int proto_tokenize_decode(const void *p, size_t n, struct arena *a, struct proto_tokenize *out,
                          struct err *e);
int proto_detokenize_decode(const void *p, size_t n, struct arena *a, struct proto_detokenize *out,
                            struct err *e);
int proto_get_stats_decode(const void *p, size_t n, struct arena *a, struct err *e);
int proto_watch_stats_decode(const void *p, size_t n, struct arena *a, int32_t *interval_ms, struct err *e);

/* --- the other way: appended to out; 0 or ST_NOMEM --- */
int proto_event_encode(const struct proto_event *ev, struct buf *out);
int proto_model_encode(const struct proto_model *m, struct buf *out);
int proto_health_encode(int status, struct buf *out);                  /* enum proto_health */
int proto_tokens_encode(const struct proto_ids *ids, struct buf *out); /* TokenizeReply */
int proto_text_encode(const char *text, size_t n, struct buf *out);    /* DetokenizeReply; n bytes of UTF-8 */
int proto_stats_encode(const struct proto_stats *s, struct buf *out);

#endif
