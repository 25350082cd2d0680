/* rpc.c - see rpc.h.  A call goes: headers -> one message -> its method; Chat and Generate then follow their session. */
#include "daemon/rpc.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "daemon/alarm.h"
#include "daemon/conn.h"
#include "daemon/rpc_inside.h"

enum {
    HEADER_OVERHEAD = 32, /* a header's cost beside its bytes (RFC 9113 section 6.5.2) */
};

static const struct {
    const char *path;
    int method;
} methods[] = {
    {"/outrider.v1.Inference/Chat", RPC_CHAT},          {"/outrider.v1.Inference/Generate", RPC_GENERATE},
    {"/outrider.v1.Inference/GetModel", RPC_GET_MODEL}, {"/grpc.health.v1.Health/Check", RPC_HEALTH_CHECK},
    {"/grpc.health.v1.Health/Watch", RPC_HEALTH_WATCH},
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
    rpc__leave_session(r);
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
    free(r->service);
    free(r);
}

int rpc_end_sent(struct rpc *r)
{
    r->reply.sent = 1;
    return r->half_closed;
}

void rpc__finish(struct rpc *r, int code, const char *message)
{
    reply_finish(&r->reply, code, message);
    alarm_clear(&r->request_alarm);
    alarm_clear(&r->deadline_alarm);
    rpc__body_drop(r);
    h2_touch(r->h);
}

void rpc__give_up(struct rpc *r)
{
    reply_abort(&r->reply);
    rpc__leave_session(r);
    h2_touch(r->h);
}

/* --- headers --- */

static int is(const char *p, size_t n, const char *word)
{
    return strlen(word) == n && memcmp(p, word, n) == 0;
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
        for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
            if (is(value, n, methods[i].path))
                r->method = methods[i].method;
    } else if (is(name, n_name, ":method")) {
        r->is_post = is(value, n, "POST");
    } else if (is(name, n_name, "content-type")) {
        r->is_grpc = grpc_content_type_ok(value, n);
    } else if (is(name, n_name, "grpc-encoding")) {
        r->compressed = !is(value, n, "identity");
    } else if (is(name, n_name, "grpc-timeout")) {
        r->has_timeout = 1;
        r->bad_timeout = grpc_timeout_parse(value, n, &r->timeout_ns) != 0;
    }
}

static void refuse(struct rpc *r, const char *http_status, int code, const char *message)
{
    reply_refuse(&r->reply, http_status, code, message);
    h2_touch(r->h);
}

static void on_deadline(void *arg)
{
    struct rpc *r = arg;
    r->expired = 1;
    if (r->session && r->session->running) {
        r->session->cancelled = 1;
        loop_tell_engine(r->h->loop, r->session); /* its END ends the stream */
        return;
    }
    rpc__leave_session(r);
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
    else if (r->method == RPC_UNKNOWN)
        rpc__finish(r, GRPC_UNIMPLEMENTED,
                    "no such service or method; outrider.v1.Inference and grpc.health.v1.Health are served");
    else if (r->compressed)
        rpc__finish(r, GRPC_UNIMPLEMENTED,
                    "grpc-encoding must be identity; compressed requests are not served");
    else if (r->bad_timeout)
        refuse(r, "400", GRPC_INTERNAL,
               "malformed grpc-timeout; 1 to 8 digits and a unit of H, M, S, m, u or n are expected");
    else if (r->has_timeout && r->timeout_ns == 0)
        rpc__finish(r, GRPC_DEADLINE_EXCEEDED, "the deadline had passed when the request arrived");
    else
        set_alarms(r);
    h2_touch(r->h);
}

/* --- the request message --- */

static void prefix_done(struct rpc *r)
{
    struct loop *l = r->h->loop;
    r->body_bytes = grpc_prefix_bytes(r->prefix);
    struct err e;
    if (r->prefix[0] != 0)
        rpc__finish(r, GRPC_INTERNAL, "the message is flagged as compressed, but no grpc-encoding was given");
    else if (r->n_messages++ > 0)
        rpc__finish(r, GRPC_UNIMPLEMENTED, "this method takes one message, and more came");
    else if (r->body_bytes > (uint64_t) l->config->max_message_bytes) {
        err_set(&e, ST_LIMIT, "the message has %u bytes, the limit is %lld (--max-message-bytes)",
                r->body_bytes, (long long) l->config->max_message_bytes);
        rpc__finish(r, GRPC_RESOURCE_EXHAUSTED, e.text);
    }
}

void rpc_data(struct rpc *r, const uint8_t *p, size_t n)
{
    struct loop *l = r->h->loop;
    while (n && !r->reply.finished) {
        if (r->n_prefix < GRPC_PREFIX_BYTES) {
            r->prefix[r->n_prefix++] = *p++;
            n--;
            if (r->n_prefix == GRPC_PREFIX_BYTES)
                prefix_done(r);
            continue;
        }
        size_t want = r->body_bytes - buf_len(&r->body), got = n < want ? n : want;
        if (l->buffered_bytes + (int64_t) got > LOOP_BUFFERED_MAX || (got && buf_append(&r->body, p, got))) {
            rpc__finish(r, GRPC_RESOURCE_EXHAUSTED,
                        "too many large requests are arriving at once; try again later");
            return;
        }
        l->buffered_bytes += (int64_t) got;
        p += got;
        n -= got;
        if (got == want && n)
            r->n_prefix = 0; /* another message, which prefix_done refuses */
    }
}

/* --- the other methods --- */

static void call_get_model(struct rpc *r)
{
    const struct served *v = r->h->loop->served;
    struct arena a;
    struct err e;
    arena_init(&a, RPC_ARENA_SLACK);
    int st = proto_get_model_decode(buf_front(&r->body), buf_len(&r->body), &a, &e);
    arena_fini(&a);
    if (st) {
        rpc__finish(r, status_grpc(st), e.text);
        return;
    }
    struct proto_model m = {
        .name = v->name,
        .fingerprint = v->info.fingerprint,
        .device = v->info.device,
        .version = OUTRIDER_VERSION,
        .draft = v->draft_name,
        .template_name = template_name(v->chat_template),
        .tokenizer_hash = v->tokenizer_hash,
        .context_max = v->info.ctx_max,
        .vocab = v->info.vocab,
        .sessions_max = v->info.sessions_max,
        .queue_max = v->info.queue_max,
    };
    session_defaults(v, &m.defaults);
    size_t mark;
    if (reply_start(&r->reply) || reply_message_begin(&r->reply, &mark) ||
        proto_model_encode(&m, &r->reply.out)) {
        rpc__give_up(r);
        return;
    }
    reply_message_end(&r->reply, mark);
    rpc__finish(r, GRPC_OK, "");
}

static void send_health(struct rpc *r, int status)
{
    size_t mark;
    if (reply_message_begin(&r->reply, &mark) || proto_health_encode(status, &r->reply.out)) {
        rpc__give_up(r);
        return;
    }
    r->health = status;
    reply_message_end(&r->reply, mark);
    h2_touch(r->h);
}

static void health_answer(struct rpc *r, const char *service)
{
    struct loop *l = r->h->loop;
    int status = health_of(&l->health, service);
    if (r->method == RPC_HEALTH_CHECK && status == PROTO_HEALTH_SERVICE_UNKNOWN) {
        rpc__finish(r, GRPC_NOT_FOUND, "no such service; \"\" and \"outrider.v1.Inference\" are known");
        return;
    }
    if (reply_start(&r->reply)) {
        rpc__give_up(r);
        return;
    }
    send_health(r, status);
    if (r->method == RPC_HEALTH_CHECK) {
        rpc__finish(r, GRPC_OK, "");
        return;
    }
    r->watch = 1;
    l->n_calls--;
    r->service = strdup(service);
    if (!r->service)
        rpc__give_up(r);
}

static void call_health(struct rpc *r)
{
    struct arena a;
    struct err e;
    const char *service;
    arena_init(&a, RPC_ARENA_SLACK);
    int st = proto_health_decode(buf_front(&r->body), buf_len(&r->body), &a, &service, &e);
    if (st)
        rpc__finish(r, status_grpc(st), e.text);
    else
        health_answer(r, service);
    arena_fini(&a);
    rpc__body_drop(r);
}

void rpc_half_closed(struct rpc *r)
{
    r->half_closed = 1;
    alarm_clear(&r->request_alarm);
    if (r->reply.finished)
        return;
    if (r->n_prefix < GRPC_PREFIX_BYTES ? r->n_prefix > 0 : buf_len(&r->body) < r->body_bytes)
        rpc__finish(r, GRPC_INTERNAL, "the stream ended in the middle of a message");
    else if (r->n_messages == 0)
        rpc__finish(r, GRPC_UNIMPLEMENTED, "this method takes one message, and none came");
    else if (r->method == RPC_GET_MODEL)
        call_get_model(r);
    else if (r->method == RPC_CHAT || r->method == RPC_GENERATE)
        rpc__inference(r);
    else
        call_health(r);
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
    struct loop *l = h->loop;
    for (struct rpc *r = h->rpcs; r; r = r->next) {
        size_t unsent = reply_unsent(&r->reply);
        if (unsent && !r->stall_alarm)
            watch_reader(r);
        if (r->session && r->session->parked &&
            (int64_t) unsent <= l->config->max_unsent_bytes / RPC_UNSENT_PART) {
            r->session->parked = 0;
            loop_tell_engine(l, r->session);
        }
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
    if (!r->watch || r->reply.finished)
        return;
    int status = health_of(&r->h->loop->health, r->service);
    if (status != r->health)
        send_health(r, status);
}

void rpc_health_changed(struct loop *l)
{
    each(l, tell_health);
}

static void cut(struct rpc *r)
{
    if (r->session && r->session->running) {
        r->session->cancelled = 1;
        loop_tell_engine(r->h->loop, r->session);
    } else if (!r->reply.finished) {
        rpc__leave_session(r);
        rpc__finish(r, GRPC_UNAVAILABLE, "the daemon is shutting down");
    }
}

void rpc_cut(struct loop *l)
{
    each(l, cut);
}

static void end_watch(struct rpc *r)
{
    if (r->watch && !r->reply.finished)
        rpc__finish(r, GRPC_UNAVAILABLE, "the daemon is shutting down");
}

void rpc_end_watches(struct loop *l)
{
    each(l, end_watch);
}
