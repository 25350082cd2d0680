/* grpc.c - calls on nghttp2's client session, pulled by poll(2).
 *
 * nghttp2's callbacks only file what came under its call; every decision is taken in grpc_call_next.  A connection that broke
 * is remembered with its reason (g->dead, g->why), and each call on it ends with that. */
#include "client/grpc.h"

#include "client/dial.h"
#include "client/grpc_code.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PREFIX_BYTES = 5,   /* gRPC's frame: compressed flag, 32-bit length */
    READ_BYTES = 16384, /* one HTTP/2 frame */
    WHY_BYTES = 256,
    MESSAGE_BYTES = 400,     /* of grpc-message kept; struct err has 496 for the whole sentence */
    PEEK_BYTES = 5,          /* of the peer's first bytes, to tell HTTP/1 */
    DEADLINE_GRACE_MS = 500, /* the server's own last event (with usage) may still come after the deadline */
    STATUS_UNSET = -1,
};

struct grpc {
    nghttp2_session *h2;     /* owns */
    int fd;                  /* owns */
    int watch[2];            /* borrowed; -1: none */
    int no_wait;             /* 1: grpc_call_next says ST_AGAIN rather than wait */
    int dead;                /* 1: nothing more can be sent or received */
    char why[WHY_BYTES];     /* what broke it, or nghttp2's complaint on its way to breaking */
    char authority[128];     /* "" over a Unix socket */
    const uint8_t *tx;       /* nghttp2's: bytes not yet sent */
    size_t n_tx;             /* bytes */
    char peek[PEEK_BYTES];   /* the first bytes received */
    size_t n_peek;           /* bytes */
    struct grpc_call *calls; /* borrowed: open calls, newest first */
};

struct grpc_call {
    struct grpc *g; /* borrowed */
    struct grpc_call *next;
    int32_t stream;              /* HTTP/2 stream id */
    uint8_t *request;            /* owns; (n_request) framed, of which `sent` are on their way */
    size_t n_request, sent;      /* bytes */
    int open;                    /* 1: more requests may follow */
    uint8_t *in;                 /* owns; (n_in) received, of which `at` are used up */
    size_t n_in, at, cap;        /* bytes */
    size_t held;                 /* bytes received and not yet given back to flow control */
    int64_t deadline_ms;         /* monotonic; 0: none */
    int http;                    /* :status; 0: not come yet */
    int is_grpc;                 /* content-type says so */
    int status;                  /* grpc-status, or STATUS_UNSET */
    char message[MESSAGE_BYTES]; /* grpc-message, decoded */
    int ended;                   /* 1: the server has said its last word */
    int closed;                  /* 1: the stream is over, on both sides */
    uint32_t reset;              /* HTTP/2 error code it closed with */
    int cancelled;               /* 1: by grpc_call_cancel */
    int over;                    /* 1: code and the last error are settled */
    int code;                    /* gRPC status once over */
};

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* --- what comes in --- */

static struct grpc_call *find_call(struct grpc *g, int32_t stream)
{
    struct grpc_call *c = g->calls;
    while (c && c->stream != stream)
        c = c->next;
    return c;
}

static int parse_small(const uint8_t *p, size_t n)
{
    int v = 0;
    if (n == 0 || n > 3)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -1;
        v = v * 10 + (p[i] - '0');
    }
    return v;
}

static int header_is(const uint8_t *name, size_t n, const char *want)
{
    return n == strlen(want) && memcmp(name, want, n) == 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t n_name,
                     const uint8_t *value, size_t n_value, uint8_t flags, void *user)
{
    (void) h2, (void) flags;
    struct grpc_call *c = find_call(user, frame->hd.stream_id);
    if (!c)
        return 0;
    if (header_is(name, n_name, ":status"))
        c->http = parse_small(value, n_value);
    else if (header_is(name, n_name, "content-type"))
        c->is_grpc = n_value >= 16 && strncasecmp((const char *) value, "application/grpc", 16) == 0;
    else if (header_is(name, n_name, "grpc-status"))
        c->status = parse_small(value, n_value);
    else if (header_is(name, n_name, "grpc-message"))
        grpc_code_message(value, n_value, c->message, sizeof c->message);
    return 0;
}

/* Makes room for n more bytes behind n_in, first by dropping what is used up. */
static int reserve(struct grpc_call *c, size_t n)
{
    if (c->at) {
        memmove(c->in, c->in + c->at, c->n_in - c->at);
        c->n_in -= c->at;
        c->at = 0;
    }
    if (c->cap - c->n_in >= n)
        return 0;
    size_t cap = (c->n_in + n) * 2;
    uint8_t *in = realloc(c->in, cap);
    if (!in)
        return ST_NOMEM;
    c->in = in;
    c->cap = cap;
    return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t stream, const uint8_t *p, size_t n, void *user)
{
    (void) flags;
    struct grpc_call *c = find_call(user, stream);
    nghttp2_session_consume_connection(h2, n);
    if (!c || c->cancelled)
        return 0;
    if (reserve(c, n))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    memcpy(c->in + c->n_in, p, n);
    c->n_in += n;
    c->held += n;
    return 0;
}

static int on_close(nghttp2_session *h2, int32_t stream, uint32_t code, void *user)
{
    (void) h2;
    struct grpc_call *c = find_call(user, stream);
    if (c) {
        c->ended = c->closed = 1;
        c->reset = code;
    }
    return 0;
}

/* A request that could not be sent any more: after the server's GOAWAY. */
static int on_not_sent(nghttp2_session *h2, const nghttp2_frame *frame, int code, void *user)
{
    (void) code;
    return frame->hd.type == NGHTTP2_HEADERS ? on_close(h2, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM, user)
                                             : 0;
}

static int on_complaint(nghttp2_session *h2, int code, const char *msg, size_t n, void *user)
{
    (void) h2, (void) code;
    struct grpc *g = user;
    snprintf(g->why, sizeof g->why, "%.*s", (int) n, msg);
    return 0;
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    (void) h2;
    struct grpc *g = user;
    struct grpc_call *c = find_call(g, frame->hd.stream_id);
    if (c && (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        c->ended = 1; /* while this side is open the stream is not closed by it */
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        const nghttp2_goaway *f = &frame->goaway;
        snprintf(g->why, sizeof g->why, "it said goodbye: %s%s%.*s", nghttp2_http2_strerror(f->error_code),
                 f->opaque_data_len ? ", " : "", (int) (f->opaque_data_len < 100 ? f->opaque_data_len : 100),
                 (const char *) f->opaque_data);
    }
    return 0;
}

/* --- the socket --- */

__attribute__((format(printf, 2, 3))) static void die(struct grpc *g, const char *fmt, ...)
{
    if (g->dead)
        return;
    g->dead = 1;
    if (g->why[0]) /* the peer's or nghttp2's own reason says more */
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->why, sizeof g->why, fmt, ap);
    va_end(ap);
}

/* Sends what can be sent now. */
static void flush_out(struct grpc *g)
{
    while (!g->dead) {
        if (g->n_tx == 0) {
            ssize_t n = nghttp2_session_mem_send(g->h2, &g->tx);
            if (n < 0)
                die(g, "%s", nghttp2_strerror((int) n));
            if (n <= 0)
                return;
            g->n_tx = (size_t) n;
        }
        ssize_t n = send(g->fd, g->tx, g->n_tx, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) /* what the peer still said before is worth reading: the read side decides */
            n = (ssize_t) g->n_tx;
        g->tx += n;
        g->n_tx -= (size_t) n;
    }
}

static int speaks_http1(const struct grpc *g)
{
    return g->n_peek == PEEK_BYTES && memcmp(g->peek, "HTTP/", PEEK_BYTES) == 0;
}

static void read_in(struct grpc *g)
{
    uint8_t buf[READ_BYTES];
    ssize_t n = recv(g->fd, buf, sizeof buf, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        die(g, "%s", strerror(errno));
        return;
    }
    if (n == 0) {
        die(g, "it closed the connection");
        return;
    }
    for (ssize_t i = 0; i < n && g->n_peek < PEEK_BYTES; i++)
        g->peek[g->n_peek++] = (char) buf[i];
    ssize_t used = speaks_http1(g) ? NGHTTP2_ERR_PROTO : nghttp2_session_mem_recv(g->h2, buf, (size_t) n);
    if (speaks_http1(g))
        snprintf(g->why, sizeof g->why, "it speaks HTTP/1, not gRPC; is it an outriderd?");
    if (used < 0)
        die(g, "%s", nghttp2_strerror((int) used));
}

/* One turn: sends, waits for bytes, the watched fd or the deadline, receives.  0, ST_AGAIN (also where nobody may wait) or
 * ST_DEADLINE. */
static int turn(struct grpc *g, int64_t deadline_ms)
{
    flush_out(g);
    if (!nghttp2_session_want_read(g->h2) && !nghttp2_session_want_write(g->h2))
        die(g, "the HTTP/2 session ended");
    if (g->dead)
        return 0;
    int64_t left = deadline_ms ? deadline_ms - now_ms() : -1;
    if (deadline_ms && left <= 0)
        return ST_DEADLINE;
    if (g->no_wait)
        return ST_AGAIN;
    struct pollfd p[3] = {
        {.fd = g->fd, .events = (short) (g->n_tx ? POLLIN | POLLOUT : POLLIN)},
        {.fd = g->watch[0], .events = POLLIN}, /* poll ignores a negative fd */
        {.fd = g->watch[1], .events = POLLIN},
    };
    int n = poll(p, 3, left > INT32_MAX ? INT32_MAX : (int) left);
    if (n < 0) /* a signal: nothing to do here, the watched fds tell what matters */
        return 0;
    if (p[1].revents || p[2].revents)
        return ST_AGAIN;
    if (p[0].revents & (POLLIN | POLLHUP | POLLERR))
        read_in(g);
    return 0;
}

/* --- connection --- */

static int session_new(struct grpc *g)
{
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *opt = NULL;
    int rc = nghttp2_session_callbacks_new(&cb) || nghttp2_option_new(&opt);
    if (rc == 0) {
        nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
        nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_not_sent);
        nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
        nghttp2_session_callbacks_set_error_callback2(cb, on_complaint);
        nghttp2_option_set_no_auto_window_update(opt, 1);
        const nghttp2_settings_entry no_push = {NGHTTP2_SETTINGS_ENABLE_PUSH, 0};
        rc = nghttp2_session_client_new2(&g->h2, cb, g, opt) ||
             nghttp2_submit_settings(g->h2, NGHTTP2_FLAG_NONE, &no_push, 1);
    }
    nghttp2_option_del(opt);
    nghttp2_session_callbacks_del(cb);
    return rc ? ST_NOMEM : 0;
}

int grpc_attach(struct grpc **out, int fd, const char *authority, struct err *e)
{
    struct grpc *g = calloc(1, sizeof *g);
    if (!g) {
        close(fd);
        return err_set(e, ST_NOMEM, "out of memory for a connection");
    }
    g->fd = fd;
    g->watch[0] = g->watch[1] = -1;
    snprintf(g->authority, sizeof g->authority, "%s", authority);
    if (session_new(g)) {
        grpc_close(g);
        return err_set(e, ST_NOMEM, "out of memory for an HTTP/2 session");
    }
    *out = g;
    return 0;
}

int grpc_open(struct grpc **out, const char *addr, int timeout_ms, struct err *e)
{
    int fd = dial_connect(addr, timeout_ms, e);
    if (fd < 0)
        return fd;
    return grpc_attach(out, fd, strncmp(addr, "unix:", 5) == 0 ? "localhost" : addr, e);
}

void grpc_close(struct grpc *g)
{
    if (!g)
        return;
    if (g->h2 && !g->dead) {
        nghttp2_session_terminate_session(g->h2, NGHTTP2_NO_ERROR);
        flush_out(g);
    }
    nghttp2_session_del(g->h2);
    close(g->fd);
    free(g);
}

void grpc_watch(struct grpc *g, int fd, int also)
{
    g->watch[0] = fd;
    g->watch[1] = also;
}

void grpc_no_wait(struct grpc *g)
{
    g->no_wait = 1;
}

int grpc_fd(const struct grpc *g)
{
    return g->fd;
}

short grpc_events(const struct grpc *g)
{
    return (short) (g->dead ? 0 : g->n_tx ? POLLIN | POLLOUT : POLLIN);
}

int grpc_takes_calls(const struct grpc *g)
{
    return !g->dead && nghttp2_session_check_request_allowed(g->h2);
}

void grpc_pump(struct grpc *g)
{
    flush_out(g);
    if (!g->dead)
        read_in(g);
    flush_out(g);
}

/* --- a call --- */

static ssize_t read_request(nghttp2_session *h2, int32_t stream, uint8_t *buf, size_t cap, uint32_t *flags,
                            nghttp2_data_source *source, void *user)
{
    (void) h2, (void) source;
    struct grpc_call *c =
        find_call(user, stream); /* not by pointer: the call may have been freed before all was sent */
    if (!c)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    size_t n = c->n_request - c->sent;
    if (n > cap)
        n = cap;
    if (n)
        memcpy(buf, c->request + c->sent, n);
    c->sent += n;
    if (c->sent < c->n_request)
        return (ssize_t) n;
    if (!c->open)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    else if (n == 0)
        return NGHTTP2_ERR_DEFERRED;
    return (ssize_t) n;
}

/* Puts a request behind those that are still to be sent. */
static int frame_request(struct grpc_call *c, const ProtobufCMessage *request, struct err *e)
{
    size_t n = protobuf_c_message_get_packed_size(request), left = c->n_request - c->sent;
    if (n > GRPC_MESSAGE_MAX)
        return err_set(e, ST_LIMIT, "the request has %zu bytes; at most %d can be sent", n, GRPC_MESSAGE_MAX);
    if (left > GRPC_MESSAGE_MAX)
        return err_set(e, ST_LIMIT, "%zu bytes of requests wait for the server to take them", left);
    uint8_t *p = malloc(left + PREFIX_BYTES + n);
    if (!p)
        return err_set(e, ST_NOMEM, "out of memory for a request of %zu bytes", n);
    if (left)
        memcpy(p, c->request + c->sent, left);
    free(c->request);
    c->request = p;
    c->n_request = left + PREFIX_BYTES + n;
    c->sent = 0;
    p += left;
    p[0] = 0;
    for (int i = 0; i < 4; i++)
        p[1 + i] = (uint8_t) (n >> (24 - 8 * i));
    protobuf_c_message_pack(request, p + PREFIX_BYTES);
    return 0;
}

static nghttp2_nv header(const char *name, const char *value)
{
    /* nghttp2 copies both; its struct is not const only for the sake of NO_COPY */
    return (nghttp2_nv){(uint8_t *) (uintptr_t) name, (uint8_t *) (uintptr_t) value, strlen(name),
                        strlen(value), NGHTTP2_NV_FLAG_NONE};
}

static int32_t submit(struct grpc_call *c, const char *path, int deadline_ms)
{
    char timeout[16];
    snprintf(timeout, sizeof timeout, "%dm", deadline_ms < 99999999 ? deadline_ms : 99999999); /* 8 digits */
    nghttp2_nv h[8] = {
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", c->g->authority),
        header("te", "trailers"),
        header("content-type", "application/grpc"),
        header("user-agent", "outrider"),
    };
    size_t n = 7;
    if (deadline_ms)
        h[n++] = header("grpc-timeout", timeout);
    nghttp2_data_provider body = {.read_callback = read_request};
    return nghttp2_submit_request(c->g->h2, NULL, h, n, &body, NULL);
}

static int gone(const struct grpc *g, struct err *e)
{
    return err_set(e, ST_UNAVAILABLE, "the server went away before it had answered (%s)", g->why);
}

static int start(struct grpc *g, const char *path, const ProtobufCMessage *request, int open, int deadline_ms,
                 struct grpc_call **out, struct err *e)
{
    if (g->dead)
        return gone(g, e);
    struct grpc_call *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, ST_NOMEM, "out of memory for a call");
    c->g = g;
    c->open = open;
    c->status = STATUS_UNSET;
    int st = frame_request(c, request, e);
    if (st == 0 && (c->stream = submit(c, path, deadline_ms)) < 0)
        st = err_set(e, ST_UNAVAILABLE, "the request cannot be sent: %s", nghttp2_strerror(c->stream));
    if (st) {
        free(c->request);
        free(c);
        return st;
    }
    if (deadline_ms)
        c->deadline_ms = now_ms() + deadline_ms + DEADLINE_GRACE_MS;
    c->next = g->calls;
    g->calls = c;
    flush_out(g);
    *out = c;
    return 0;
}

int grpc_call_start(struct grpc *g, const char *path, const ProtobufCMessage *request, int deadline_ms,
                    struct grpc_call **out, struct err *e)
{
    return start(g, path, request, 0, deadline_ms, out, e);
}

int grpc_call_open(struct grpc *g, const char *path, const ProtobufCMessage *request, int deadline_ms,
                   struct grpc_call **out, struct err *e)
{
    return start(g, path, request, 1, deadline_ms, out, e);
}

int grpc_call_send(struct grpc_call *c, const ProtobufCMessage *request, struct err *e)
{
    if (c->over || c->ended || !c->open || c->g->dead) /* grpc_call_next knows why */
        return err_set(e, ST_UNAVAILABLE, "the call takes no more requests");
    int st = frame_request(c, request, e);
    if (st)
        return st;
    nghttp2_session_resume_data(c->g->h2, c->stream); /* fails where bytes already wait for the window */
    flush_out(c->g);
    return 0;
}

/* 1: a whole message lies at in + at + PREFIX_BYTES, *n bytes; 0: not yet; negative: what came is no gRPC message. */
static int whole_message(const struct grpc_call *c, size_t *n, struct err *e)
{
    size_t have = c->n_in - c->at;
    if (have < PREFIX_BYTES)
        return 0;
    const uint8_t *p = c->in + c->at;
    if (p[0] != 0)
        return err_set(e, ST_WIRE, "the server sent a compressed message (flag %d); none was asked for",
                       p[0]);
    *n = (size_t) p[1] << 24 | (size_t) p[2] << 16 | (size_t) p[3] << 8 | p[4];
    if (*n > GRPC_MESSAGE_MAX)
        return err_set(e, ST_WIRE, "the server sent a message of %zu bytes; at most %d are taken", *n,
                       GRPC_MESSAGE_MAX);
    return have - PREFIX_BYTES >= *n;
}

static int unpack(struct grpc_call *c, size_t n, const ProtobufCMessageDescriptor *type,
                  ProtobufCMessage **out, struct err *e)
{
    *out = protobuf_c_message_unpack(type, NULL, n, c->in + c->at + PREFIX_BYTES);
    c->at += PREFIX_BYTES + n;
    if (*out)
        return 1;
    return err_set(e, ST_WIRE,
                   "the server sent %zu bytes that are no %s; do client and server belong together?", n,
                   type->name);
}

/* An ended stream: how did it end? */
static int call_end(struct grpc_call *c, struct err *e)
{
    if (c->status == 0 && c->at < c->n_in)
        return err_set(e, ST_WIRE, "the stream ended in the middle of a message");
    if (c->status >= 0) {
        c->code = c->status < GRPC_N_CODES ? c->status : GRPC_UNKNOWN;
        if (c->code == 0)
            return 0;
        return err_set(e, grpc_code_status(c->code), "the server answered %s%s%s", grpc_code_name(c->code),
                       c->message[0] ? ": " : "", c->message);
    }
    if (c->reset) {
        c->code = grpc_code_of_reset(c->reset);
        return err_set(e, grpc_code_status(c->code), "the server broke off the stream (%s%s%s)",
                       nghttp2_http2_strerror(c->reset), c->g->why[0] ? "; " : "", c->g->why);
    }
    if (c->http != 200 || !c->is_grpc) {
        c->code = grpc_code_of_http(c->http);
        return err_set(e, grpc_code_status(c->code),
                       "the server answered HTTP %d, not gRPC; is it an outriderd?", c->http);
    }
    return err_set(e, ST_WIRE, "the server ended the stream without a grpc-status");
}

/* Waits until there is a message or an end.  As grpc_call_next. */
static int call_wait(struct grpc_call *c, const ProtobufCMessageDescriptor *type, ProtobufCMessage **out,
                     struct err *e)
{
    for (;;) {
        size_t n = 0;
        int st = whole_message(c, &n, e);
        if (st)
            return st > 0 ? unpack(c, n, type, out, e) : st;
        if (c->ended)
            return call_end(c, e);
        if (c->g->dead) {
            c->code = GRPC_UNAVAILABLE;
            return gone(c->g, e);
        }
        nghttp2_session_consume_stream(c->g->h2, c->stream, c->held);
        c->held = 0;
        st = turn(c->g, c->deadline_ms);
        if (st == ST_AGAIN)
            return err_set(e, ST_AGAIN, "interrupted");
        if (st == ST_DEADLINE) {
            c->code = GRPC_DEADLINE;
            return err_set(e, ST_DEADLINE, "no answer within the deadline");
        }
    }
}

int grpc_call_next(struct grpc_call *c, const ProtobufCMessageDescriptor *type, ProtobufCMessage **out,
                   struct err *e)
{
    if (c->over)
        return c->code ? err_set(e, grpc_code_status(c->code), "the call is over") : 0;
    c->code = GRPC_INTERNAL;
    int st = call_wait(c, type, out, e);
    if (st == 1 || st == ST_AGAIN)
        return st;
    c->over = 1;
    if (st < 0 && !c->closed)
        grpc_call_cancel(c);
    return st;
}

void grpc_call_cancel(struct grpc_call *c)
{
    if (!c->over) {
        c->over = 1;
        c->code = GRPC_CANCELLED;
    }
    c->cancelled = 1;
    if (c->closed || c->g->dead)
        return;
    nghttp2_submit_rst_stream(c->g->h2, NGHTTP2_FLAG_NONE, c->stream, NGHTTP2_CANCEL);
    flush_out(c->g);
}

int grpc_call_code(const struct grpc_call *c)
{
    return c->code;
}

void grpc_call_free(struct grpc_call *c)
{
    if (!c)
        return;
    if (!c->closed)
        grpc_call_cancel(c);
    struct grpc_call **at = &c->g->calls;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    free(c->request);
    free(c->in);
    free(c);
}

int grpc_unary(struct grpc *g, const char *path, const ProtobufCMessage *request, int deadline_ms,
               const ProtobufCMessageDescriptor *type, ProtobufCMessage **out, struct err *e)
{
    struct grpc_call *c;
    int st = grpc_call_start(g, path, request, deadline_ms, &c, e);
    if (st)
        return st;
    *out = NULL;
    ProtobufCMessage *more = NULL;
    st = grpc_call_next(c, type, out, e);
    if (st == 0)
        st = err_set(e, ST_WIRE, "the server ended the call without a reply");
    else if (st == 1)
        st = grpc_call_next(c, type, &more, e);
    if (st == 1) {
        protobuf_c_message_free_unpacked(more, NULL);
        st = err_set(e, ST_WIRE, "the server sent more than one reply to a call that has one");
    }
    if (st && *out) {
        protobuf_c_message_free_unpacked(*out, NULL);
        *out = NULL;
    }
    grpc_call_free(c);
    return st;
}
