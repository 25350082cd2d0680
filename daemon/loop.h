/* loop.h - the loop thread: listeners, signals, drain, and what all connections share.
 *
 * Everything in here belongs to the loop thread.  The engine thread touches one thing, loop_wake.  Nothing runs while
 * nothing happens, but for a ping to a connection that has been silent for --keepalive-time. */
#ifndef DAEMON_LOOP_H
#define DAEMON_LOOP_H

#include <uv.h>

#include "daemon/health.h"
#include "daemon/served.h"
#include "daemon/table.h"
#include "daemon/text.h"

struct alarm;
struct conn;
struct listener;

enum {
    LOOP_READ_BYTES = 64 * 1024,           /* one read(2); shared by all connections */
    LOOP_WORK_MAX = 64,                    /* prompts being tokenized on workers at once */
    LOOP_BUFFERED_MAX = 256 * 1024 * 1024, /* bytes of unfinished request messages, all streams together */
};

enum loop_drain { LOOP_RUNNING, LOOP_DRAINING, LOOP_CUTTING }; /* CUTTING: the drain timeout has passed */

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_prepare_t prepare; /* before each poll: one flush a connection that was touched */
    uv_signal_t signal[2];
    const struct daemon_config *config; /* borrows, as served */
    const struct served *served;

    struct listener *listeners; /* owns */
    struct conn *conns;         /* owns; list */
    struct conn *touched;       /* of these, to be flushed */
    int32_t n_conns;
    uint64_t clients; /* HTTP/2 connections so far */
    int32_t n_calls;  /* RPCs that run, health watches apart */
    int32_t n_work;
    int64_t buffered_bytes;

    struct table table;
    uint64_t started_ns;
    struct proto_stats sums; /* what the loop counts: requests and tokens */
    uint64_t answer_ns;      /* an answer's time with the engine, running mean; 0: none yet */
    int32_t retries;         /* 1: the engine's inbox was full, commands are to be repeated */
    struct alarm *retry_alarm;
    struct text_out text; /* scratch of the event being handled */
    struct health health;

    int32_t drain; /* enum loop_drain */
    struct alarm *drain_alarm;
    int32_t exit_status;
    char read_buffer[LOOP_READ_BYTES];
};

/* Prepares the loop; served must be joined to its engine before loop_run. */
int loop_init(struct loop *l, const struct daemon_config *c, const struct served *served, struct err *e);
/* Closes every connection and listener; what runs is cancelled.  To be called before the engine closes. */
void loop_disconnect(struct loop *l);
void loop_fini(struct loop *l);

/* Whether the TCP addresses of the configuration can be had, now: before weights are read for minutes in vain.  ST_IO. */
int loop_probe(struct loop *l, struct err *e);

/* Binds and listens on every address of the configuration and logs each.  From here on SIGTERM and SIGINT drain; before, while
 * weights are read for minutes, there is nothing to drain and they end the process.  ST_IO: one cannot be had; e says which. */
int loop_listen(struct loop *l, struct err *e);

/* Serves until a drain has ended.  The exit status: 0 after a drain, 1 when a second signal stopped it or a device was lost. */
int loop_run(struct loop *l);

/* Any thread: the engine has events.  arg: struct loop *. */
void loop_wake(void *arg);

/* Begins to drain, as SIGTERM does. */
void loop_drain(struct loop *l);
/* The engine is lost for good (a device's context, which only a new process can have again): drains, and ends with status 1. */
void loop_fail(struct loop *l);
/* Sends s->parked and s->cancelled to the engine; repeated later where its inbox is full. */
void loop_tell_engine(struct loop *l, struct session *s);

#endif
