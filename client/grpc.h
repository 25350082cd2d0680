/* grpc.h - a small gRPC client: unary, server-streaming and bidirectional calls over one HTTP/2 connection (prior knowledge,
 * TCP or Unix socket), on nghttp2 and poll(2).
 *
 * Refuses: compressed replies (none are asked for), messages over GRPC_MESSAGE_MAX, TLS.
 *
 * One thread.  The socket is read and written only inside these functions, so a caller that is slow to print slows the
 * server by HTTP/2's own flow control: what waits here is bounded by the stream's window and one message.  Several calls may
 * be open on a connection. */
#ifndef CLIENT_GRPC_H
#define CLIENT_GRPC_H

#include <protobuf-c/protobuf-c.h>

#include "core/status.h"

enum {
    GRPC_MESSAGE_MAX = 4 << 20, /* bytes; gRPC's customary limit, far over any event */
    GRPC_CONNECT_MS = 5000,     /* customary patience for a connect */
};

struct grpc;      /* a connection */
struct grpc_call; /* one call on it */

/* Connects.  ST_INPUT, ST_UNAVAILABLE as dial_connect; ST_NOMEM. */
int grpc_open(struct grpc **out, const char *addr, int timeout_ms, struct err *e);
/* The same over a connected non-blocking socket, which is moved in: it is closed on failure too. */
int grpc_attach(struct grpc **out, int fd, const char *authority, struct err *e);
void grpc_close(struct grpc *g); /* NULL is fine.  Every call on it must have been freed */

/* While grpc_call_next waits, it also watches these and returns ST_AGAIN as soon as one is readable.  -1: none.  Borrowed. */
void grpc_watch(struct grpc *g, int fd, int also);

/* For a caller with a loop of its own over many connections: from here on grpc_call_next never waits but says ST_AGAIN where
 * nothing has come.  The loop polls grpc_fd for grpc_events (of poll(2); 0: the connection is gone, its calls will say so)
 * and calls grpc_pump when it is ready, which sends and reads what goes without waiting, then asks the calls. */
void grpc_no_wait(struct grpc *g);
int grpc_fd(const struct grpc *g);
short grpc_events(const struct grpc *g);
int grpc_takes_calls(
    const struct grpc *g); /* 0: it is gone, or the server said goodbye; calls that run may still end */
void grpc_pump(struct grpc *g);

/* Sends one request to `path` ("/package.Service/Method").  deadline_ms, 0: none, is told to the server and kept here too.
 * ST_NOMEM; ST_UNAVAILABLE: the connection is gone. */
int grpc_call_start(struct grpc *g, const char *path, const ProtobufCMessage *request, int deadline_ms,
                    struct grpc_call **out, struct err *e);

/* A bidirectional call: the same, but more requests may follow, while replies come. */
int grpc_call_open(struct grpc *g, const char *path, const ProtobufCMessage *request, int deadline_ms,
                   struct grpc_call **out, struct err *e);

/* One more request of such a call.  ST_NOMEM; ST_LIMIT: over GRPC_MESSAGE_MAX, or so much waits already; ST_UNAVAILABLE: the
 * call has ended, as grpc_call_next will say. */
int grpc_call_send(struct grpc_call *c, const ProtobufCMessage *request, struct err *e);

/* The next reply.  1: *out holds it, the caller's to free with protobuf_c_message_free_unpacked; 0: the call ended with
 * status OK; ST_AGAIN: a watched fd is readable, the call goes on; otherwise the call is over and e says why: what the
 * server answered, or that it went away.  grpc_call_code has gRPC's own number for it. */
int grpc_call_next(struct grpc_call *c, const ProtobufCMessageDescriptor *type, ProtobufCMessage **out,
                   struct err *e);

/* Resets the stream (RST_STREAM, CANCEL): the server stops working on it.  The next grpc_call_next says ST_CANCELLED. */
void grpc_call_cancel(struct grpc_call *c);

int grpc_call_code(const struct grpc_call *c); /* gRPC status, 0..16, once the call is over */
void grpc_call_free(struct grpc_call *c);      /* NULL is fine; a call that runs is cancelled first */

/* A unary call: exactly one reply, as above. */
int grpc_unary(struct grpc *g, const char *path, const ProtobufCMessage *request, int deadline_ms,
               const ProtobufCMessageDescriptor *type, ProtobufCMessage **out, struct err *e);

#endif
