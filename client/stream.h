/* stream.h - the answers of a call as they stream in: events are checked and added up.
 *
 * The stream must be Begin, any number of Deltas, an End for each answer, then status OK; text must be UTF-8.  Anything else is ST_WIRE.  After a
 * failure or a cancel, what came before stays readable: it is what a resumed request needs. */
#ifndef CLIENT_STREAM_H
#define CLIENT_STREAM_H

#include <stdint.h>

#include "client/grpc.h"
#include "client/words.h"
#include "outrider/v1/inference.pb-c.h"

enum { STREAM_ANSWERS_MAX = 8 };

struct stream_answer {
    struct words content, reasoning; /* all so far */
    int32_t *ids;                    /* owns; (n_ids) all token ids so far */
    size_t n_ids, cap_ids;
    Outrider__V1__Event *end;   /* owns; NULL: not come */
    Outrider__V1__Event **kept; /* own; (n_kept) its deltas, where they carry logprobs */
    size_t n_kept;
    int32_t closed_at; /* where the clock or the client closed its thinking; -1 */
};

struct stream {
    struct grpc_call *call;                          /* owns */
    size_t n, n_ended;                               /* answers asked for, and how many have had their End */
    struct stream_answer answer[STREAM_ANSWERS_MAX]; /* (n) by choice; most calls have answer[0] alone */
    Outrider__V1__Event *begin, *delta; /* own; NULL: not come; delta: the newest, or borrowed from `kept` */
    int delta_kept;
};

/* Starts the call.  a is zeroed here; stream_fini in any case.  Failures as grpc_call_start. */
int stream_chat(struct stream *a, struct grpc *g, const Outrider__V1__ChatRequest *r, int deadline_ms,
                struct err *e);
int stream_generate(struct stream *a, struct grpc *g, const Outrider__V1__GenerateRequest *r, int deadline_ms,
                    struct err *e);

/* A Chat that may be told to stop thinking while it answers. */
int stream_chat_open(struct stream *a, struct grpc *g, const Outrider__V1__ChatRequest *r, int deadline_ms,
                     struct err *e);
/* Thinking that runs is closed.  Failures as grpc_call_send. */
int stream_stop_thinking(struct stream *a, struct err *e);

/* The next event.  1: *event, borrowed until the next call; 0: the answer is complete; ST_AGAIN: a watched fd is readable;
 * otherwise it is over and e says why. */
int stream_next(struct stream *a, const Outrider__V1__Event **event, struct err *e);

void stream_cancel(struct stream *a);
void stream_fini(struct stream *a);

/* 1: each answer ended by itself or at its length, neither cancelled nor out of time. */
int stream_is_whole(const struct stream *a);

/* Never NULL: what has not come reads as zeros and empty strings; of answer[0].  Borrowed until stream_fini. */
const Outrider__V1__Begin *stream_begin(const struct stream *a);
const Outrider__V1__End *stream_end(const struct stream *a);
const Outrider__V1__Usage *stream_usage(const struct stream *a);
const Outrider__V1__Timings *stream_timings(const struct stream *a);
const Outrider__V1__SpeculationFigures *stream_speculation(const struct stream *a);

#endif
