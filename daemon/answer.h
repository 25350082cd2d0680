/* answer.h - thread: engine (answer_new: loop).  One answer being generated: its text so far, where it stands, what it cost.
 *
 * The text is prompt + output; all but its newest token (the next root) belong in the target's KV.  An answer is admitted,
 * reads its prompt in chunks, runs round by round, and ends with one END event, which is there from the start: memory that runs out
 * cannot lose it.  Nothing is allocated between admission and the end but the events that leave. */
#ifndef DAEMON_ANSWER_H
#define DAEMON_ANSWER_H

#include "core/tree.h"
#include "daemon/engine.h"
#include "daemon/plan.h"

struct target_seq;
struct draft_seq;

struct answer {
    struct family *family;      /* shares; the answers to one request, and the request */
    struct engine_request *req; /* the family's */
    int32_t choice;             /* which of the request's answers */
    struct draw_params draw;    /* the request's, but for the choice; its pointers are the request's */
    struct answer *next;        /* in the scheduler's list */
    int32_t *text;              /* owns; (n_text), room for all it may become */
    int32_t n_text;
    struct draw_state state; /* after the whole text */
    struct draw_past *past;  /* owns; counts of the whole text; NULL without penalties */
    struct target_seq *seq;  /* owned by the target; NULL while waiting */
    struct draft_seq *guess; /* owned by the draft; NULL: none */
    int32_t n_noted;         /* tokens of the text the draft knows of */
    struct plan_account account;
    int32_t parked, cancelled;
    int32_t rows;                /* of the current round: tokens it may read, set by the scheduler */
    int32_t close;               /* 1: its thinking is to be closed */
    int32_t evicted;             /* preempted: holds no pages, waits for them */
    int32_t failed;              /* negative status it must end with */
    int32_t ending;              /* its END was made; once sent it is gone */
    struct engine_event *last;   /* owns; room for its END, until that was made */
    struct engine_event *unsent; /* owns; did not fit into the outbox: no rounds until it does */
    struct engine_figures figures;
    uint64_t admitted_ns, decoding_ns; /* decoding_ns: start of the first pass that drew; 0: none yet */
};

uint64_t answer_clock_ns(void);

/* The answers to one request, of which some may have gone. */
struct family {
    struct engine_request *req; /* owns */
    struct answer *member[ENGINE_CHOICES_MAX];
    int32_t n;               /* members there */
    int32_t n_open;          /* answers whose END is still to come */
    int32_t admitted, begun; /* 1: the first one was admitted; its BEGIN has left */
};

/* The answers to req, linked by `next`; takes over req.  NULL: out of memory, req stays the caller's. */
struct answer *answer_new(struct engine_request *req);
/* NULL is fine; seq and guess must be given back before.  The last of a family takes the request with it. */
void answer_free(struct answer *a);
/* Of answers that were not taken: frees them, gives req back. */
struct engine_request *answer_undo(struct answer *first);

/* Takes in a walk: accepted tokens, then the next one, then closing text if the budget ran out.  Returns the event that tells of them
 * (NULL: out of memory).  row_hash, logprobs: as the verifier gives them, or NULL. */
struct engine_event *answer_take(struct answer *a, const struct tree *tree, const struct path *path,
                                 const uint64_t *row_hash, const struct draw_logprobs *logprobs);

/* 1: its thinking is to be closed, as things stand at `now`: the deadline has passed, or the client said so. */
int answer_must_close(const struct answer *a, uint64_t now);
/* Closes it: the event that tells of the closing text.  NULL: out of memory, nothing was changed. */
struct engine_event *answer_close(struct answer *a);

/* 1: it has stopped, failed or been cancelled; nothing but its END is left to be done. */
int answer_is_over(const struct answer *a);

/* Its last event, now the caller's, once: finish from the state, or CANCELLED, or ERROR with st (negative) and a sentence. */
struct engine_event *answer_end(struct answer *a, int st);

/* Its first event. */
struct engine_event *answer_begin(const struct answer *a);

#endif
