/* engine.h - the border between the loop thread (sockets, text) and the engine thread (ids, rounds).
 *
 * Messages are moved through two rings: what is posted belongs to the engine, what engine_next returns belongs to the
 * caller.  Text never enters the engine; ids never leave it unclassified.  The engine never waits for a client, the loop
 * never for the engine: a full inbox refuses at once.
 *
 * tests/daemon/fake_engine.c implements this header without a model. */
#ifndef DAEMON_ENGINE_H
#define DAEMON_ENGINE_H

#include <stdint.h>

#include "core/status.h"
#include "daemon/synthetic.h"
#include "draw/draw.h"

struct engine;
struct model;

/* Plain values; everything pointed to is borrowed until engine_close. */
struct engine_opts {
    const struct model *target;
    const struct model *draft;         /* NULL: no draft model */
    int32_t vocab;                     /* ids in use by the tokenizer both share */
    const char *closing_text;          /* of the thinking budget: part of the fingerprint */
    int32_t target_quant, draft_quant; /* enum cpu_quant */
    int32_t cuda;                      /* where the target runs: target_opts.cuda */
    int32_t threads, isa;              /* of cpu/cpu.h */
    int32_t side_threads;   /* of these, the draft's while the target computes; 0: they take turns */
    int32_t pin;            /* 1: threads are pinned where processors are free */
    const char *pack_cache; /* NULL: packed weights are kept nowhere */
    int32_t kv_type;        /* enum cpu_kv_type, of the target */
    int64_t kv_bytes, draft_kv_bytes;
    int32_t draft_context, draft_nodes, draft_depth, draft_top, draft_head;
    int32_t
        cost_model; /* 1: requests in AUTO are drafted for as pays (plan.h), within draft_nodes and draft_depth; 0: always */
    int32_t sessions_max, queue_max;
    int32_t rows_max;     /* rows of a target pass */
    int32_t ctx_max;      /* 0: the model's */
    int32_t prefix_cache; /* 1: share whole pages between sequences */
    int32_t lookup;       /* 1: guesses are looked up in the text, too; alone where there is no draft */
    struct synthetic
        synthetic;     /* rates by which guesses of the draft are kept, for timing alone; n 0: none */
    int32_t hash_rows; /* 1: every event carries hashes of the logits its tokens were drawn from */
    int32_t
        prompt_rows; /* prompt tokens read a round beside running answers; 0: as many as slow them little */
    int32_t evict_every; /* tests: after so many rounds one running answer gives its pages back; 0: never */
};

struct engine_info {
    char fingerprint[128]; /* the target's, and the mark of synthetic acceptance */
    char device[64];
    int32_t ctx_max;            /* tokens, prompt + output */
    int32_t vocab;              /* ids in use */
    int32_t sessions_max;       /* running at once; more wait */
    int32_t queue_max;          /* waiting at once; more are refused */
    int32_t has_draft;          /* a draft model */
    struct synthetic synthetic; /* n > 0: what is said is not the target's */
};

/* --- loop -> engine --- */

enum { ENGINE_CHOICES_MAX = 8, ENGINE_PRIORITY_MAX = 100 };

enum engine_spec { ENGINE_SPEC_AUTO, ENGINE_SPEC_OFF, ENGINE_SPEC_NODES };

/* One prompt and the n answers wanted to it.  One malloc'd block graph: engine_request_free frees it all. */
struct engine_request {
    uint64_t id;     /* the loop's handle: unique while it lives */
    int32_t *prompt; /* owns; (n_prompt), at least 1 */
    int32_t n_prompt;
    int32_t *resume; /* owns; (n_resume): tokens already given; they count as output everywhere */
    int32_t n_resume;
    int32_t
        closed_at; /* output tokens before the text resumed was closed from outside (event's closed_at); -1: it was not */
    int32_t
        n; /* answers, 1..ENGINE_CHOICES_MAX; answer i draws with choice draw.choice + i.  1 where it resumes */
    int32_t priority;              /* -ENGINE_PRIORITY_MAX..: higher is admitted sooner and preempted later */
    uint64_t client;               /* whose it is: of equal priority, who has the fewest running goes first */
    uint64_t thinking_deadline_ns; /* thinking is closed so long after received_ns; 0: never */
    struct draw_params draw;       /* every pointer in it is owned (malloc) by the request */
    int32_t spec;                  /* enum engine_spec */
    int32_t spec_nodes;            /* ENGINE_SPEC_NODES: tree size, root included, 1..TREE_MAX */
    int32_t spec_depth;            /* 1..TREE_MAX - 1; 0: the server's */
    uint64_t received_ns;          /* CLOCK_MONOTONIC when the request was read */
};

/* Zeroed but for ids of -1, n of 1 and repetition 1; NULL: out of memory. */
struct engine_request *engine_request_new(void);
void engine_request_free(struct engine_request *r); /* NULL is fine */

/* --- engine -> loop --- */

enum engine_event_kind {
    ENGINE_BEGIN,  /* the first answer was admitted: cached tokens are known; none where that ends before */
    ENGINE_TOKENS, /* new output tokens of an answer */
    ENGINE_END,    /* the last event of an answer, always exactly one unless it was refused by engine_start */
};

enum engine_finish { ENGINE_FINISH_STOP, ENGINE_FINISH_LENGTH, ENGINE_FINISH_CANCELLED, ENGINE_FINISH_ERROR };

enum { ENGINE_DEPTH_MAX = 64, ENGINE_SOURCES = 4 };

struct engine_figures {
    int32_t n_prompt, n_cached, n_output, n_thinking;         /* tokens */
    int32_t cut;                                              /* 1: the thinking budget closed the thinking */
    uint64_t queue_ns, prefill_ns, decode_ns, first_token_ns; /* first_token_ns: from received_ns */
    int32_t passes;                                           /* target passes that drew for this request */
    int32_t drafted, accepted;                                /* tokens */
    int32_t drafted_at[ENGINE_DEPTH_MAX], accepted_at[ENGINE_DEPTH_MAX]; /* [d]: at depth d + 1 */
    int32_t preempted;                                                   /* times */
};

struct engine_event {
    uint64_t id;
    int32_t kind;      /* enum engine_event_kind */
    int32_t choice;    /* which of the request's n answers, 0.. */
    int32_t last;      /* END: 1: no event of this id follows */
    int32_t closed_at; /* TOKENS: the thinking was closed from outside after so many output tokens; else -1 */
    int32_t n;         /* TOKENS: how many */
    int32_t *tok;      /* TOKENS: owns; (n) */
    uint8_t *phase;    /* TOKENS: owns; (n) enum draw_phase the state was in BEFORE the token */
    uint64_t
        *hash; /* TOKENS: owns, or NULL; (n) hash of the logits row the token was drawn from, 0: not drawn */
    struct draw_logprobs *logprobs; /* TOKENS: owns; (n) where the request wants them, else NULL */
    int32_t finish;                 /* END: enum engine_finish */
    int32_t status;                 /* END with ENGINE_FINISH_ERROR: why */
    char text[256];                 /* END with ENGINE_FINISH_ERROR: the sentence for the client */
    int32_t matched;                /* END with ENGINE_FINISH_STOP: the id that matched */
    struct engine_figures figures;  /* BEGIN (n_prompt, n_cached), END */
};

void engine_event_free(struct engine_event *e); /* NULL is fine */

/* Called by the engine thread when the outbox goes from empty to non-empty; must only wake (uv_async_send). */
typedef void (*engine_wake_fn)(void *arg);

/* Loop thread.  Moves r in.  0; ST_LIMIT: sessions and queue are full, r stays the caller's; ST_UNAVAILABLE: the engine
 * has failed, likewise; ST_NOMEM, likewise.  Not more than a context, and ids of the vocabulary, are asked for; else the answer ends with ERROR. */
int engine_start(struct engine *e, struct engine_request *r);
/* These five: 0; ST_AGAIN (the inbox is full) or ST_NOMEM: not taken, say it again later.  An id that is not there is no mistake:
 * it has ended.
 * Stops the work on id within one round; the ENDs follow (CANCELLED, unless they had ended already). */
int engine_cancel(struct engine *e, uint64_t id);
int engine_cancel_choice(struct engine *e, uint64_t id, int32_t choice);
/* Closes the thinking now, as the deadline does; nothing happens to an answer that is not thinking. */
int engine_close_thinking(struct engine *e, uint64_t id);
/* A slow reader: the answer is left out of rounds until it is unparked, and keeps its pages as long as nobody needs them. */
int engine_park(struct engine *e, uint64_t id);
int engine_unpark(struct engine *e, uint64_t id);

/* Loop thread.  The next event, now the caller's; NULL: none. */
struct engine_event *engine_next(struct engine *e);

void engine_describe(const struct engine *e, struct engine_info *out);

enum { ENGINE_COSTS = 7, ENGINE_REASONS = 7 };

/* What AUTO believes of costs and has chosen (plan.h). */
struct engine_drafting {
    int32_t by_cost; /* 0: nothing is, and the rest is not to be read */
    int32_t rows[ENGINE_COSTS];
    double target_ms[ENGINE_COSTS], level_ms[ENGINE_COSTS]; /* a pass over rows[i] rows; 0: not known */
    double overhead_ms, speedup;
    int64_t rounds[ENGINE_REASONS]; /* enum plan_reason */
    int64_t probes, levels;
    char why[256]; /* of the newest round, a sentence */
};

/* Sums since the start, and how things stand, as of the newest round. */
struct engine_stats {
    int32_t running, reading, waiting, parked,
        evicted; /* answers; running: all that are admitted; reading: their prompt */
    int32_t pages_free, pages_cached, pages_used; /* of the target; cached: held by the prefix cache alone */
    int64_t passes, rows; /* passes of the target; rows they scored, prompt rows included */
    int64_t prompt_rows;  /* of these, read from prompts (again, after a preemption) */
    int64_t preemptions;
    int64_t drafted[ENGINE_SOURCES], accepted[ENGINE_SOURCES];           /* by enum tree_source */
    int64_t drafted_at[ENGINE_DEPTH_MAX], accepted_at[ENGINE_DEPTH_MAX]; /* [d]: at depth d + 1 */
    struct engine_drafting drafting;
};

/* Any thread. */
void engine_stats(struct engine *e, struct engine_stats *out);

/* Opens target, draft and verifier, packs weights, starts the thread.  On failure *out is NULL and e says why. */
int engine_open(struct engine **out, const struct engine_opts *o, engine_wake_fn wake, void *arg,
                struct err *e);

/* Stops the thread after the current round.  What still runs gets no further event. */
void engine_close(struct engine *e); /* NULL is fine */

#endif
