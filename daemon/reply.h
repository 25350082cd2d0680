/* reply.h - the sending half of a stream: headers, messages, trailers, and how much of it waits.  Loop thread.
 *
 * Trailers go out inside the data callback (nghttp2 sends HEADERS before DATA: trailers submitted elsewhere would overtake
 * what is queued).  Bytes that the client does not take stay here; the owner looks at reply_unsent. */
#ifndef DAEMON_REPLY_H
#define DAEMON_REPLY_H

#include <stdint.h>

#include "core/buf.h"
#include "daemon/grpc.h"

struct nghttp2_session;

struct reply {
    struct nghttp2_session *session; /* borrows */
    int32_t stream;
    int32_t started;  /* headers were submitted */
    int32_t finished; /* no more messages: status and message below go out as trailers */
    int32_t deferred; /* nghttp2 waits for reply_message or reply_finish */
    int32_t sent;     /* the frame that ends the stream has left, or RST_STREAM was chosen */
    int32_t status;   /* enum grpc_code */
    char message[GRPC_MESSAGE_MAX + 1]; /* percent-encoded */
    uint64_t taken;                     /* bytes the connection has taken so far */
    int32_t encoding;                   /* enum zip: announced by reply_start */
    int32_t squeeze;                    /* enum zip, this or identity: of the messages from here on */
    struct buf out;
    struct buf extra[2]; /* enum reply_extra: name NUL value NUL, one after the other */
};

enum reply_extra { REPLY_HEADER, REPLY_TRAILER };

void reply_init(struct reply *r, struct nghttp2_session *session, int32_t stream);
void reply_fini(struct reply *r);

/* Sends the response headers now, before the first message.  0, or ST_NOMEM. */
int reply_start(struct reply *r);

/* One more header before reply_start, or trailer before reply_finish.  value: no NUL.  0, or ST_NOMEM. */
int reply_add(struct reply *r, enum reply_extra where, const char *name, const char *value, size_t n);

/* The next message's bytes are appended to r->out between these two.  0, or ST_NOMEM. */
int reply_message_begin(struct reply *r, size_t *mark);
int reply_message_end(struct reply *r, size_t mark);

/* Ends the stream: trailers after what waits, or one HEADERS frame where nothing was started. */
void reply_finish(struct reply *r, int status, const char *message);
/* The same with another HTTP status, for what is not gRPC or not to be served: only before reply_start. */
void reply_refuse(struct reply *r, const char *http_status, int status, const char *message);
/* A plain text over HTTP/2 for those who speak no gRPC. */
void reply_plain(struct reply *r, const char *http_status, const char *text);
/* RST_STREAM: the client takes nothing, so no trailers would arrive. */
void reply_abort(struct reply *r);

static inline size_t reply_unsent(const struct reply *r)
{
    return buf_len(&r->out);
}

#endif
