/* conn.h - one socket: bytes in, one write a tick out.  Loop thread.
 *
 * The first bytes decide: HTTP/2 with prior knowledge goes on to h2.c, HTTP/1 gets a short plain answer, anything else
 * is closed.  At most one write is under way; while the peer takes nothing, nothing more is pulled from the streams, so
 * what a slow reader leaves is bounded by CONN_OUT_BYTES here and by each stream's own limit. */
#ifndef DAEMON_CONN_H
#define DAEMON_CONN_H

#include <uv.h>

#include "core/buf.h"

struct alarm;
struct h2;
struct loop;

enum { CONN_OUT_BYTES = 128 * 1024 }; /* gathered for one write */

struct conn {
    struct conn *prev, *next;  /* loop's list */
    struct conn *touched_next; /* loop's list of connections to flush */
    struct loop *loop;         /* borrows */
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    struct h2 *h2;     /* owns; NULL before the preface was seen */
    int32_t n_preface; /* bytes of the preface seen so far */
    int32_t touched;   /* 1: on the loop's list */
    int32_t closing;   /* 1: uv_close was called */
    int32_t lingering; /* 1: answered and shut down; what still comes is dropped */
    int32_t writing;   /* 1: out is being written */
    size_t left_bytes; /* of out, when the stall alarm was set */
    struct buf out;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct alarm *hello_alarm; /* until the handshake is done */
    struct alarm *stall_alarm; /* while out cannot be written */
    struct alarm *alive_alarm; /* --keepalive-time, then --keepalive-timeout */
    uint64_t heard_ms;         /* when the peer last sent anything */
    int32_t asked;             /* 1: a ping of ours is unanswered */
};

/* Accepts from listener.  Failures are logged, nothing is left. */
void conn_accept(struct loop *l, uv_stream_t *listener, int is_tcp);

void conn_touch(struct conn *c); /* there is something to write: flush it this tick */
void conn_flush(struct conn *c);
void conn_drain(struct conn *c, int final); /* two-phase GOAWAY: first the notice, then the last id */
void conn_close(struct conn *c);            /* at once; its streams are cancelled */

#endif
