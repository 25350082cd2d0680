/* rpc_inside.h - what rpc.c (the stream: headers, message, alarms) and rpc_inference.c (Chat and Generate: the session) share. */
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

enum rpc_method { RPC_UNKNOWN, RPC_CHAT, RPC_GENERATE, RPC_GET_MODEL, RPC_HEALTH_CHECK, RPC_HEALTH_WATCH };

struct alarm;
struct work;

struct rpc {
    struct rpc *prev, *next; /* h2's list */
    struct h2 *h;
    struct reply reply;
    struct alarm *deadline_alarm, *request_alarm, *stall_alarm;
    uint64_t received_ns;

    /* headers */
    size_t header_bytes;
    int32_t method; /* enum rpc_method */
    int32_t is_root, is_post, is_grpc;
    int32_t bad_timeout, has_timeout, compressed, too_large; /* too_large: its headers */
    uint64_t timeout_ns;

    /* message */
    uint8_t prefix[GRPC_PREFIX_BYTES];
    int32_t n_prefix, n_messages;
    uint32_t body_bytes; /* announced */
    struct buf body;
    int32_t half_closed;

    /* answer */
    struct session *session; /* Chat and Generate; NULL before and after */
    struct work *work;       /* while the session is read on a worker */
    int32_t expired;         /* the deadline has passed */
    int32_t watch;           /* Health.Watch */
    char *service;           /* owns; of Health.Watch */
    int32_t health;          /* enum proto_health last sent */
    uint64_t stall_taken;    /* reply.taken when the stall alarm was set */
};

/* Status and sentence; what was buffered and the alarms go. */
void rpc__finish(struct rpc *r, int code, const char *message);
/* No memory for an answer, or a client that takes none: RST_STREAM. */
void rpc__give_up(struct rpc *r);
void rpc__body_drop(struct rpc *r);

/* The message of a Chat or Generate call is complete. */
void rpc__inference(struct rpc *r);
/* The call needs its session no more; the engine may still have it. */
void rpc__leave_session(struct rpc *r);

#endif
