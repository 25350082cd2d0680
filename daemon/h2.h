/* h2.h - one HTTP/2 connection without its socket: bytes in, bytes out.  Loop thread.
 *
 * nghttp2 does the framing; here are the limits it lacks (version 1.52): header bytes, resets that cancel unfinished work,
 * faults that make us send resets (MadeYouReset), idle pings, queued frames.  Its callbacks copy, append,
 * schedule and nothing more. */
#ifndef DAEMON_H2_H
#define DAEMON_H2_H

#include <stdint.h>

#include "core/buf.h"

struct conn;
struct loop;
struct nghttp2_session;
struct rpc;

/* Events of one kind in the current window of time; more than a limit of them end the connection. */
struct h2_count {
    uint64_t since_ms;
    uint32_t n;
};

struct h2 {
    struct nghttp2_session *session; /* owns */
    struct loop *loop;               /* borrows */
    struct conn *conn;               /* borrows; NULL where a test drives the bytes */
    struct rpc *rpcs;                /* owns; list */
    uint64_t client;                 /* no other connection's */
    int32_t greeted;                 /* 1: the client's SETTINGS have come */
    int32_t drain;                   /* 0, 1: notice sent, 2: last id sent */
    int32_t broken;                  /* 1: nothing more is read; what is queued is sent, then the end */
    struct h2_count cancels, invalid, pings;
};

struct h2 *h2_new(struct loop *l, struct conn *c); /* NULL: out of memory */
void h2_free(struct h2 *h);                        /* NULL is fine; streams are cancelled */

void h2_recv(struct h2 *h, const void *p, size_t n);
/* Appends frames to out until it holds `most` bytes or more.  0, or ST_NOMEM: close. */
int h2_send(struct h2 *h, struct buf *out, size_t most);
int h2_done(const struct h2 *h); /* 1: nothing left to read or write */

void h2_drain(struct h2 *h, int final);
/* Ends the connection: GOAWAY with ENHANCE_YOUR_CALM and `why`. */
void h2_calm(struct h2 *h, const char *why);
/* A stream was cancelled by the client before it had ended. */
void h2_count_cancel(struct h2 *h);
void h2_touch(struct h2 *h);
void h2_ping(struct h2 *h); /* any byte that comes back will do */

#endif
