/* rpc.c - see rpc.h.  A call goes: headers -> messages -> its method, found in the table of services. */
#include "daemon/rpc.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "daemon/alarm.h"
#include "daemon/conn.h"
#include "daemon/rpc_inside.h"
#include "daemon/zip.h"

enum {
    HEADER_OVERHEAD = 32, /* a header's cost beside its bytes (RFC 9113 section 6.5.2) */
};

/* --- life --- */

/* Until a header block is whole no other frame may come on its connection, which therefore ends with it. */
static void on_headers_timeout(void *arg)
{
    const struct rpc *r = arg;
    h2_calm(r->h, "headers_timeout");
}

struct rpc *rpc_new(struct h2 *h, int32_t stream)
{
    struct rpc *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->h = h;
    r->received_ns = uv_hrtime();
    reply_init(&r->reply, h->session, stream);
    r->next = h->rpcs;
    if (h->rpcs)
        h->rpcs->prev = r;
    h->rpcs = r;
    h->loop->n_calls++;
    alarm_set(&h->loop->uv, &r->request_alarm, (uint64_t) h->loop->config->request_timeout_ms,
              on_headers_timeout, r);
    return r;
}

static void leave(struct rpc *r)
{
    if (r->call && r->method->kind->leave)
        r->method->kind->leave(r);
    r->call = NULL;
}

void rpc__body_drop(struct rpc *r)
{
    r->h->loop->buffered_bytes -= (int64_t) buf_len(&r->body);
    buf_free(&r->body);
}

void rpc_closed(struct rpc *r)
{
    struct h2 *h = r->h;
    if (!r->reply.sent)
        h2_count_cancel(h);
    leave(r);
    alarm_clear(&r->deadline_alarm);
    alarm_clear(&r->request_alarm);
    alarm_clear(&r->stall_alarm);
    if (r->prev)
        r->prev->next = r->next;
    else
        h->rpcs = r->next;
    if (r->next)
        r->next->prev = r->prev;
    h->loop->n_calls -= !r->watch;
    rpc__body_drop(r);
    reply_fini(&r->reply);
    free(r);
}

int rpc_end_sent(struct rpc *r)
{
    r->reply.sent = 1;
    return r->half_closed;
}

void rpc__finish(struct rpc *r, int code, const char *message)
{
    leave(r);
    reply_finish(&r->reply, code, message);
    alarm_clear(&r->request_alarm);
    alarm_clear(&r->deadline_alarm);
    rpc__body_drop(r);
    h2_touch(r->h);
}

void rpc__give_up(struct rpc *r)
{
    reply_abort(&r->reply);
    leave(r);
    h2_touch(r->h);
}

void rpc__is_watch(struct rpc *r)
{
    r->h->loop->n_calls -= !r->watch;
    r->watch = 1;
}

int rpc__send(struct rpc *r, int (*encode)(const void *what, struct buf *out), const void *what)
{
    size_t mark;
    int st = reply_message_begin(&r->reply, &mark);
    if (!st)
        st = encode(what, &r->reply.out);
    if (!st)
        st = reply_message_end(&r->reply, mark);
    if (st)
        rpc__give_up(r);
    h2_touch(r->h);
    return st;
}

void rpc__answer(struct rpc *r, int (*encode)(const void *what, struct buf *out), const void *what)
{
    if (reply_start(&r->reply))
        rpc__give_up(r);
    else if (rpc__send(r, encode, what) == 0)
        rpc__finish(r, GRPC_OK, "");
}

/* --- headers --- */

static int is(const char *p, size_t n, const char *word)
{
    return strlen(word) == n && memcmp(p, word, n) == 0;
}

/* "/package.Service/Method", or NULL. */
static const struct rpc_method *method_of(const char *path, size_t n)
{
    const char *slash = n && path[0] == '/' ? memchr(path + 1, '/', n - 1) : NULL;
    if (!slash)
        return NULL;
    for (const struct rpc_service *const *s = rpc_services; *s; s++) {
        if (!is(path + 1, (size_t) (slash - path) - 1, (*s)->name))
            continue;
        for (size_t i = 0; i < (*s)->n_methods; i++)
            if (is(slash + 1, (size_t) (path + n - slash) - 1, (*s)->method[i].name))
                return &(*s)->method[i];
    }
    return NULL;
}

void rpc_header(struct rpc *r, const char *name, size_t n_name, const char *value, size_t n)
{
    r->header_bytes += n_name + n + HEADER_OVERHEAD;
    if ((int64_t) r->header_bytes > r->h->loop->config->max_header_bytes)
        r->too_large = 1;
    if (r->too_large)
        return;
    if (is(name, n_name, ":path")) {
        r->is_root = is(value, n, "/");
        r->method = method_of(value, n);
    } else if (is(name, n_name, ":method")) {
        r->is_post = is(value, n, "POST");
    } else if (is(name, n_name, "content-type")) {
        r->is_grpc = grpc_content_type_ok(value, n);
    } else if (is(name, n_name, "grpc-encoding")) {
        r->encoding = zip_parse(value, n);
    } else if (is(name, n_name, "grpc-accept-encoding")) {
        r->accepts |= zip_accepted(value, n);
    } else if (is(name, n_name, "grpc-timeout")) {
        r->has_timeout = 1;
        r->bad_timeout = grpc_timeout_parse(value, n, &r->timeout_ns) != 0;
    } else if (r->method && r->method->kind && r->method->kind->header) {
        r->method->kind->header(r, name, n_name, value, n);
    }
}

static void refuse(struct rpc *r, const char *http_status, int code, const char *message)
{
    reply_refuse(&r->reply, http_status, code, message);
    h2_touch(r->h);
}

static int cancel(struct rpc *r)
{
    return r->call && r->method->kind->cancel && r->method->kind->cancel(r);
}

static void on_deadline(void *arg)
{
    struct rpc *r = arg;
    r->expired = 1;
    if (cancel(r))
        return;
    rpc__finish(r, GRPC_DEADLINE_EXCEEDED, "deadline exceeded");
}

static void on_request_timeout(void *arg)
{
    rpc__finish(arg, GRPC_DEADLINE_EXCEEDED,
                "the request message did not arrive in time (--request-timeout)");
}

static void set_alarms(struct rpc *r)
{
    struct loop *l = r->h->loop;
    if (!r->half_closed)
        alarm_set(&l->uv, &r->request_alarm, (uint64_t) l->config->request_timeout_ms, on_request_timeout, r);
    if (r->has_timeout)
        alarm_set(&l->uv, &r->deadline_alarm, (r->timeout_ns + 999999) / 1000000, on_deadline, r);
}

void rpc_headers_done(struct rpc *r)
{
    alarm_clear(&r->request_alarm);
    if (r->too_large)
        refuse(r, "431", GRPC_RESOURCE_EXHAUSTED,
               "the request's headers are over the limit (--max-header-bytes)");
    else if (!r->is_grpc && r->is_root)
        reply_plain(&r->reply, "200", "outriderd: gRPC (outrider.v1.Inference, grpc.health.v1.Health)\n");
    else if (!r->is_grpc)
        refuse(r, "415", GRPC_INVALID_ARGUMENT,
               "content-type must be application/grpc or application/grpc+proto");
    else if (!r->is_post)
        refuse(r, "405", GRPC_INTERNAL, ":method must be POST");
    else if (!r->method)
        rpc__finish(r, GRPC_UNIMPLEMENTED,
                    "no such service or method; server reflection lists what is served");
    else if (r->encoding == ZIP_UNKNOWN)
        rpc__finish(r, GRPC_UNIMPLEMENTED, "grpc-encoding must be one of " ZIP_ACCEPTED);
    else if (r->bad_timeout)
        refuse(r, "400", GRPC_INTERNAL,
               "malformed grpc-timeout; 1 to 8 digits and a unit of H, M, S, m, u or n are expected");
    else if (r->has_timeout && r->timeout_ns == 0)
        rpc__finish(r, GRPC_DEADLINE_EXCEEDED, "the deadline had passed when the request arrived");
    else
        set_alarms(r);
    if (r->accepts & 1u << r->encoding) /* who compresses is answered in kind */
        r->reply.encoding = r->reply.squeeze = r->encoding;
    h2_touch(r->h);
}

/* --- messages --- */

static void prefix_done(struct rpc *r)
{
    struct loop *l = r->h->loop;
    r->body_bytes = grpc_prefix_bytes(r->prefix);
    struct err e;
    if (r->prefix[0] > 1)
        rpc__finish(r, GRPC_INTERNAL, "the first byte of a message must be 0 or 1 (compressed)");
    else if (r->prefix[0] && r->encoding == ZIP_IDENTITY)
        rpc__finish(r, GRPC_INTERNAL, "the message is flagged as compressed, but no grpc-encoding was given");
    else if (r->n_messages > 0 && !r->method->client_streams)
        rpc__finish(r, GRPC_UNIMPLEMENTED, "this method takes one message, and more came");
    else if (r->body_bytes > (uint64_t) l->config->max_message_bytes) {
        err_set(&e, ST_LIMIT, "the message has %u bytes, the limit is %lld (--max-message-bytes)",
                r->body_bytes, (long long) l->config->max_message_bytes);
        rpc__finish(r, GRPC_RESOURCE_EXHAUSTED, e.text);
    }
}

/* The whole message goes to the method. */
static void deliver(struct rpc *r)
{
    struct buf plain = {0};
    struct err e;
    if (!r->prefix[0]) {
        r->method->message(r, buf_front(&r->body), buf_len(&r->body));
        return;
    }
    int st = zip_inflate(r->encoding, buf_front(&r->body), buf_len(&r->body),
                         (size_t) r->h->loop->config->max_message_bytes, &plain, &e);
    if (st)
        rpc__finish(r, status_grpc(st), e.text);
    else
        r->method->message(r, buf_front(&plain), buf_len(&plain));
    buf_free(&plain);
}

static void message_done(struct rpc *r)
{
    r->n_messages++;
    if (!r->method->client_streams)
        return; /* the client's end is still to come */
    alarm_clear(&r->request_alarm);
    if (r->method->client_streams == RPC_MANY &&
        (int64_t) reply_unsent(&r->reply) > r->h->loop->config->max_unsent_bytes) {
        rpc__finish(r, GRPC_RESOURCE_EXHAUSTED, "answers wait to be read; read them before asking on");
        return;
    }
    deliver(r);
    rpc__body_drop(r);
    r->n_prefix = 0;
    h2_touch(r->h);
}

/* Takes bytes of the prefix or of the body; returns how many. */
static size_t take(struct rpc *r, const uint8_t *p, size_t n)
{
    struct loop *l = r->h->loop;
    if (r->n_prefix < GRPC_PREFIX_BYTES) {
        r->prefix[r->n_prefix++] = *p;
        if (r->n_prefix == GRPC_PREFIX_BYTES)
            prefix_done(r);
        return 1;
    }
    size_t want = r->body_bytes - buf_len(&r->body), got = n < want ? n : want;
    if (l->buffered_bytes + (int64_t) got > LOOP_BUFFERED_MAX || (got && buf_append(&r->body, p, got))) {
        rpc__finish(r, GRPC_RESOURCE_EXHAUSTED,
                    "too many large requests are arriving at once; try again later");
        return n;
    }
    l->buffered_bytes += (int64_t) got;
    return got;
}

void rpc_data(struct rpc *r, const uint8_t *p, size_t n)
{
    while (n && !r->reply.finished) {
        if (r->n_prefix == GRPC_PREFIX_BYTES && r->n_messages && !r->method->client_streams)
            r->n_prefix = 0; /* another message, which prefix_done refuses */
        size_t got = take(r, p, n);
        p += got;
        n -= got;
        if (!r->reply.finished && r->n_prefix == GRPC_PREFIX_BYTES && buf_len(&r->body) == r->body_bytes)
            message_done(r);
    }
}

void rpc_half_closed(struct rpc *r)
{
    r->half_closed = 1;
    alarm_clear(&r->request_alarm);
    if (r->reply.finished)
        return;
    if (r->n_prefix < GRPC_PREFIX_BYTES ? r->n_prefix > 0 : buf_len(&r->body) < r->body_bytes) {
        rpc__finish(r, GRPC_INTERNAL, "the stream ended in the middle of a message");
    } else if (r->method->client_streams) {
        r->method->half_closed(r);
    } else if (r->n_messages == 0) {
        rpc__finish(r, GRPC_UNIMPLEMENTED, "this method takes one message, and none came");
    } else {
        deliver(r);
        rpc__body_drop(r);
    }
    h2_touch(r->h);
}

/* --- slow readers --- */

static void watch_reader(struct rpc *r);

static void on_stall(void *arg)
{
    struct rpc *r = arg;
    if (reply_unsent(&r->reply) == 0)
        return; /* rpc_sent sets the next one */
    if (r->reply.taken != r->stall_taken) {
        watch_reader(r); /* nothing else may ever happen on this connection */
        return;
    }
    log_warn("a client took nothing for %lld ms; its stream is cut off",
             (long long) r->h->loop->config->stall_timeout_ms);
    rpc__give_up(r);
}

static void watch_reader(struct rpc *r)
{
    struct loop *l = r->h->loop;
    r->stall_taken = r->reply.taken;
    alarm_set(&l->uv, &r->stall_alarm, (uint64_t) l->config->stall_timeout_ms, on_stall, r);
}

void rpc_sent(struct h2 *h)
{
    for (struct rpc *r = h->rpcs; r; r = r->next) {
        size_t unsent = reply_unsent(&r->reply);
        if (unsent && !r->stall_alarm)
            watch_reader(r);
        if (r->call && r->method->kind->sent)
            r->method->kind->sent(r, unsent);
    }
}

/* --- for all calls --- */

static void each(struct loop *l, void (*fn)(struct rpc *r))
{
    for (struct conn *c = l->conns; c; c = c->next)
        for (struct rpc *r = c->h2 ? c->h2->rpcs : NULL, *next; r; r = next) {
            next = r->next;
            fn(r);
        }
}

static void tell_health(struct rpc *r)
{
    if (r->call && r->method->kind->health && !r->reply.finished)
        r->method->kind->health(r);
}

void rpc_health_changed(struct loop *l)
{
    each(l, tell_health);
}

static void cut(struct rpc *r)
{
    if (r->reply.finished || cancel(r))
        return;
    rpc__finish(r, GRPC_UNAVAILABLE, "the daemon is shutting down");
}

void rpc_cut(struct loop *l)
{
    each(l, cut);
}

static void end_watch(struct rpc *r)
{
    if (!r->watch || r->reply.finished)
        return;
    rpc__finish(r, GRPC_UNAVAILABLE, "the daemon is shutting down");
}

void rpc_end_watches(struct loop *l)
{
    each(l, end_watch);
}
