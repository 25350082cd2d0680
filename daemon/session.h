/* session.h - one answer: a request's words to an engine_request, the engine's ids to a stream's events.
 *
 * Knows no wire: gRPC today, HTTP later, both fill a proto_request and take events from here.  Refuses at the door with a
 * sentence (ST_INPUT, ST_NOTFOUND, ST_PRECONDITION) what cannot be served: unknown model, another fingerprint, bad
 * parameters, more tokens than the context holds.
 *
 * Loop thread, but for session_read, which touches the session alone and may run on a worker. */
#ifndef DAEMON_SESSION_H
#define DAEMON_SESSION_H

#include "core/arena.h"
#include "daemon/engine.h"
#include "daemon/served.h"
#include "daemon/text.h"
#include "proto/codec.h"

enum {
    SESSION_REQUEST_ID_MAX = 128,   /* bytes; it is echoed and logged */
    SESSION_LONG_BYTES = 64 * 1024, /* prompts from here on are tokenized on a worker: some ms of work */
};

/* One of a request's n answers. */
struct choice {
    struct text text;
    struct draw_state state; /* after the tokens text has taken; kept where there are stop strings */
    int32_t closed_at;       /* output tokens before the thinking was closed from outside; -1: it was not */
    int32_t tell_closed;     /* 1: the next delta says so */
    struct buf logprobs;     /* struct proto_logprob: of the ids that text has not given out yet */
};

struct session {
    uint64_t id;     /* the engine's handle; from the table */
    void *owner;     /* whose stream it is; NULL once that is gone */
    void *reading;   /* the work of the worker that has it: nobody else touches it; NULL: none */
    int32_t running; /* 1: the engine has it, until its END */
    int32_t parked, cancelled,
        close;     /* what the engine is to know; close: the thinking, now; 0 again once told */
    uint32_t drop; /* likewise: 1 << choice, answers that a stop string has ended */
    int32_t told_parked, told_cancelled; /* what it has been told */
    uint32_t told_drop;
    int32_t by_client; /* 1: cancelled by a message of the client's */
    int32_t begun;     /* 1: Begin has been sent */

    const struct served *served; /* borrows */
    struct arena arena;          /* owns the request until it is read */
    struct proto_request request;
    struct engine_request *engine_request; /* owns; NULL once the engine has it */

    char request_id[SESSION_REQUEST_ID_MAX + 1];
    uint64_t seed;
    int32_t is_chat;
    int32_t n_prompt;
    struct proto_resolved resolved; /* its eos ids borrow from served */
    int32_t *stop;                  /* owns; (n_stop) the client's stop ids, ascending */
    int32_t n_stop;
    struct stops *stops;      /* owns; NULL: none */
    struct draw_params rules; /* what steps choice.state; borrows from here and from served */
    int32_t first;            /* choice index of choice[0]: a resumed answer may be another than 0 */
    int32_t n;
    struct choice choice[ENGINE_CHOICES_MAX]; /* (n) */
    int32_t processed;                        /* 1: logprobs after cuts are wanted, too */
    int32_t code;                             /* gRPC status once all have ended, and its sentence */
    const char *message;
};

/* Moves the arena in, in which r lives; it is moved in any case.  client: whose it is, for fairness.  NULL: out of memory. */
struct session *session_new(const struct served *served, struct arena *a, const struct proto_request *r,
                            uint64_t client, uint64_t received_ns);
void session_free(struct session *s); /* NULL is fine */

size_t
session_prompt_bytes(const struct session *s); /* of text to render and tokenize, of ids to check and sort */

/* The parameters of a request that gives none. */
void session_defaults(const struct served *served, struct proto_resolved *out);

/* Checks, renders, tokenizes: afterwards s->engine_request is ready and the request's words are freed. */
int session_read(struct session *s, struct err *e);

/* A conversation through the template: what Chat's prompt is made of, and Tokenize's answer.  enable_thinking: -1 as the template
 * has it, 0, 1.  *out is the caller's to free. */
int session_render(const struct served *served, const struct proto_request *r, int enable_thinking,
                   int generation_prompt, struct arena *a, struct tokens *out, struct err *e);

/* Events, ready to be encoded; what they point to lives until the next call on s or out. */
void session_begin(const struct session *s, const struct engine_event *ev, struct proto_begin *out);
/* The text of TOKENS, or what was left of it at END.  Sets s->drop where a stop string ends the answer. */
int session_tokens(struct session *s, const struct engine_event *ev, struct text_out *out);
/* Delta i of out, each once and in order. */
void session_delta(struct session *s, const struct engine_event *ev, const struct text_out *out, size_t i,
                   struct proto_delta *delta);
/* finish: enum proto_finish, for what the engine does not know (deadline, stop strings). */
void session_end(const struct session *s, const struct engine_event *ev, int finish, struct proto_end *out);
int session_stopped(const struct session *s, int32_t choice); /* 1: a stop string has ended it */

#endif
