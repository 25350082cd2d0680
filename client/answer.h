/* answer.h - one answer as it streams in: events are checked and added up.
 *
 * The stream must be Begin, any number of Deltas, End, then status OK; text must be UTF-8.  Anything else is ST_WIRE.  After a
 * failure or a cancel, what came before stays readable: it is what a resumed request needs. */
#ifndef CLIENT_ANSWER_H
#define CLIENT_ANSWER_H

#include <stdint.h>

#include "client/grpc.h"
#include "client/text.h"
#include "outrider/v1/inference.pb-c.h"

struct answer {
    struct grpc_call *call;         /* owns */
    struct text content, reasoning; /* all so far */
    int32_t *ids;                   /* owns; (n_ids) all token ids so far */
    size_t n_ids, cap_ids;
    Outrider__V1__Event *begin, *delta, *end; /* own; NULL: not come; delta: the newest */
};

/* Starts the call.  a is zeroed here; answer_fini in any case.  Failures as grpc_call_start. */
int answer_chat(struct answer *a, struct grpc *g, const Outrider__V1__ChatRequest *r, int deadline_ms,
                struct err *e);
int answer_generate(struct answer *a, struct grpc *g, const Outrider__V1__GenerateRequest *r, int deadline_ms,
                    struct err *e);

/* The next event.  1: *event, borrowed until the next call; 0: the answer is complete; ST_AGAIN: the watched fd is readable;
 * otherwise it is over and e says why. */
int answer_next(struct answer *a, const Outrider__V1__Event **event, struct err *e);

void answer_cancel(struct answer *a);
void answer_fini(struct answer *a);

/* 1: it ended by itself or at its length, neither cancelled nor out of time. */
int answer_is_whole(const struct answer *a);

/* Never NULL: what has not come reads as zeros and empty strings.  Borrowed until answer_fini. */
const Outrider__V1__Begin *answer_begin(const struct answer *a);
const Outrider__V1__End *answer_end(const struct answer *a);
const Outrider__V1__Usage *answer_usage(const struct answer *a);
const Outrider__V1__Timings *answer_timings(const struct answer *a);
const Outrider__V1__SpeculationFigures *answer_speculation(const struct answer *a);

#endif
