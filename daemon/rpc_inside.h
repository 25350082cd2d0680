/* rpc_inside.h - what rpc.c (the stream: headers, messages, alarms) and the methods (rpc_*.c) share.
 *
 * A method is a row of a table: rpc.c knows none by name.  It hands over whole messages, decompressed; a method answers
 * through r->reply, ends with rpc__finish, and keeps its own things in r->call until its kind's leave(). */
#ifndef DAEMON_RPC_INSIDE_H
#define DAEMON_RPC_INSIDE_H

#include "daemon/h2.h"
#include "daemon/loop.h"
#include "daemon/reply.h"
#include "daemon/session.h"

enum {
    RPC_UNSENT_PART =
        4, /* a parked session runs again once so much of --max-unsent-bytes is left: a quarter */
    RPC_ARENA_SLACK =
        1 << 20, /* a decoded message may take RPC_ARENA_TIMES the largest message and so much more */
    RPC_ARENA_TIMES = 8,
};

struct alarm;
struct rpc;

/* What a call of some methods must hear beside its messages.  Any of them may be NULL. */
struct rpc_kind {
    /* The call is over: what r->call points to goes. */
    void (*leave)(struct rpc *r);
    /* Its deadline or the drain timeout has passed.  1: it comes to its end by itself and still has something to say; 0: it is
     * ended for it. */
    int (*cancel)(struct rpc *r);
    void (*sent)(struct rpc *r, size_t unsent); /* bytes have left, so many still wait */
    void (*health)(struct rpc *r);              /* l->health has changed */
    void (*header)(struct rpc *r, const char *name, size_t n_name, const char *value, size_t n_value);
};

enum rpc_streams {
    RPC_ONE,  /* exactly one message, given once the client has ended its side */
    RPC_MANY, /* any number, each given as it comes; refused while answers to earlier ones wait to be read */
    RPC_STEERS /* likewise, but those after the first ask for no answer of their own: heard however much waits */
};

struct rpc_method {
    const char *name;
    int32_t client_streams;                                     /* enum rpc_streams */
    void (*message)(struct rpc *r, const uint8_t *p, size_t n); /* p: until rpc__finish or the return */
    void (*half_closed)(struct rpc *r);                         /* client_streams: no more messages */
    const struct rpc_kind *kind;                                /* NULL: nothing to hear */
};

struct rpc_service {
    const char *name;
    size_t n_methods;
    const struct rpc_method *method;
};

/* All that is served; NULL ends it.  services.c has the daemon's; the test build brings its own, with one more. */
extern const struct rpc_service *const rpc_services[];
/* The daemon's services, each in its own file. */
extern const struct rpc_service rpc__inference_service, rpc__health_service, rpc__reflection_service,
    rpc__reflection_alpha_service;

struct rpc {
    struct rpc *prev, *next; /* h2's list */
    struct h2 *h;
    struct reply reply;
    struct alarm *deadline_alarm, *request_alarm, *stall_alarm;
    uint64_t received_ns;

    /* headers */
    size_t header_bytes;
    const struct rpc_method *method; /* NULL: unknown */
    int32_t is_root, is_post, is_grpc;
    int32_t bad_timeout, has_timeout, too_large; /* too_large: its headers */
    int32_t encoding;                            /* enum zip: of its messages */
    uint32_t accepts;                            /* what the client decompresses: bits 1 << enum zip */
    uint64_t timeout_ns;

    /* messages */
    uint8_t prefix[GRPC_PREFIX_BYTES];
    int32_t n_prefix, n_messages;
    uint32_t body_bytes; /* announced */
    struct buf body;
    int32_t half_closed;

    /* answer */
    void *call;           /* the method's own; NULL before and after */
    int32_t expired;      /* the deadline has passed */
    int32_t watch;        /* 1: stays open for its own sake; a drain does not wait for it */
    uint64_t stall_taken; /* reply.taken when the stall alarm was set */
};

/* Status and sentence; r->call, what was buffered and the alarms go. */
void rpc__finish(struct rpc *r, int code, const char *message);
/* No memory for an answer, or a client that takes none: RST_STREAM. */
void rpc__give_up(struct rpc *r);
void rpc__body_drop(struct rpc *r);
/* The call is one that stays open. */
void rpc__is_watch(struct rpc *r);

/* One message, encoded by encode(what, out), which returns 0 or ST_NOMEM.  On failure the stream is given up. */
int rpc__send(struct rpc *r, int (*encode)(const void *what, struct buf *out), const void *what);
/* The same as the only message of the answer: headers, it, status OK. */
void rpc__answer(struct rpc *r, int (*encode)(const void *what, struct buf *out), const void *what);

/* The methods that answer with one message about the model, in rpc_model.c. */
void rpc__get_model(struct rpc *r, const uint8_t *p, size_t n);
void rpc__tokenize(struct rpc *r, const uint8_t *p, size_t n);
void rpc__detokenize(struct rpc *r, const uint8_t *p, size_t n);
extern const struct rpc_kind rpc__tokenizing; /* of Tokenize */

/* In rpc_stats.c. */
void rpc__get_stats(struct rpc *r, const uint8_t *p, size_t n);
void rpc__watch_stats(struct rpc *r, const uint8_t *p, size_t n);
extern const struct rpc_kind rpc__stats_watches; /* of WatchStats */

#endif
