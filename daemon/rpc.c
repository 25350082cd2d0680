/* rpc.c - see rpc.h.  A call goes: headers -> one message -> its method; Chat and Generate then follow their session. */
#include "daemon/rpc.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "daemon/alarm.h"
#include "daemon/conn.h"
#include "daemon/h2.h"
#include "daemon/loop.h"
#include "daemon/reply.h"
#include "daemon/session.h"

enum {
    UNSENT_HIGH =
        64 * 1024, /* bytes that wait for a client: above, its session is parked: 600 to 2000 tokens */
    UNSENT_LOW = 16 * 1024, /* from here it runs again */
    HEADER_OVERHEAD = 32,   /* a header's cost beside its bytes (RFC 9113 section 6.5.2) */
    ARENA_SLACK = 1 << 20,  /* a decoded message may take ARENA_TIMES the largest message and so much more */
    ARENA_TIMES = 8,
};

enum method {
    METHOD_UNKNOWN,
    METHOD_CHAT,
    METHOD_GENERATE,
    METHOD_GET_MODEL,
    METHOD_HEALTH_CHECK,
    METHOD_HEALTH_WATCH
};

static const struct {
    const char *path;
    int method;
} methods[] = {
    {"/outrider.v1.Inference/Chat", METHOD_CHAT},
    {"/outrider.v1.Inference/Generate", METHOD_GENERATE},
    {"/outrider.v1.Inference/GetModel", METHOD_GET_MODEL},
    {"/grpc.health.v1.Health/Check", METHOD_HEALTH_CHECK},
    {"/grpc.health.v1.Health/Watch", METHOD_HEALTH_WATCH},
};

struct work {
    uv_work_t uv;
    struct loop *loop;
    struct session *session; /* owns until the work is done */
    struct err err;
    int status;
};

struct rpc {
    struct rpc *prev, *next; /* h2's list */
    struct h2 *h;
    struct reply reply;
    struct alarm *deadline_alarm, *request_alarm, *stall_alarm;
    uint64_t received_ns;

    /* headers */
    size_t header_bytes;
    int32_t method; /* enum method */
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

/* --- life --- */

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
    return r;
}

static void body_drop(struct rpc *r)
{
    r->h->loop->buffered_bytes -= (int64_t) buf_len(&r->body);
    buf_free(&r->body);
}

static void session_drop(struct loop *l, struct session *s)
{
    table_del(&l->table, s->id);
    session_free(s);
}

/* The call needs its session no more; the engine may still have it. */
static void session_leave(struct rpc *r)
{
    struct session *s = r->session;
    r->session = NULL;
    if (!s)
        return;
    s->owner = NULL;
    if (s->reading) {
        uv_cancel(
            (uv_req_t *) &r->work->uv); /* fails if it runs already: then it finds no owner at its end */
        r->work = NULL;
    } else if (s->running) {
        s->cancelled = 1;
        loop_tell_engine(r->h->loop, s);
    } else {
        session_drop(r->h->loop, s);
    }
}

void rpc_closed(struct rpc *r)
{
    struct h2 *h = r->h;
    if (r->session && !r->reply.finished)
        h2_count_cancel(h);
    session_leave(r);
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
    body_drop(r);
    reply_fini(&r->reply);
    free(r->service);
    free(r);
}

int rpc_is_half_closed(const struct rpc *r)
{
    return r->half_closed;
}

static void finish(struct rpc *r, int code, const char *message)
{
    reply_finish(&r->reply, code, message);
    alarm_clear(&r->request_alarm);
    alarm_clear(&r->deadline_alarm);
    body_drop(r);
    h2_touch(r->h);
}

/* No memory for an answer, or a client that takes none. */
static void give_up(struct rpc *r)
{
    reply_abort(&r->reply);
    session_leave(r);
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
    session_leave(r);
    finish(r, GRPC_DEADLINE_EXCEEDED, "deadline exceeded");
}

static void on_request_timeout(void *arg)
{
    finish(arg, GRPC_DEADLINE_EXCEEDED, "the request message did not arrive in time (--request-timeout)");
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
    else if (r->method == METHOD_UNKNOWN)
        finish(r, GRPC_UNIMPLEMENTED,
               "no such service or method; outrider.v1.Inference and grpc.health.v1.Health are served");
    else if (r->compressed)
        finish(r, GRPC_UNIMPLEMENTED, "grpc-encoding must be identity; compressed requests are not served");
    else if (r->bad_timeout)
        refuse(r, "400", GRPC_INTERNAL,
               "malformed grpc-timeout; 1 to 8 digits and a unit of H, M, S, m, u or n are expected");
    else if (r->has_timeout && r->timeout_ns == 0)
        finish(r, GRPC_DEADLINE_EXCEEDED, "the deadline had passed when the request arrived");
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
        finish(r, GRPC_INTERNAL, "the message is flagged as compressed, but no grpc-encoding was given");
    else if (r->n_messages++ > 0)
        finish(r, GRPC_UNIMPLEMENTED, "this method takes one message, and more came");
    else if (r->body_bytes > (uint64_t) l->config->max_message_bytes) {
        err_set(&e, ST_LIMIT, "the message has %u bytes, the limit is %lld (--max-message-bytes)",
                r->body_bytes, (long long) l->config->max_message_bytes);
        finish(r, GRPC_RESOURCE_EXHAUSTED, e.text);
    } else if (l->buffered_bytes + r->body_bytes > LOOP_BUFFERED_MAX)
        finish(r, GRPC_RESOURCE_EXHAUSTED, "too many large requests are arriving at once; try again later");
}

void rpc_data(struct rpc *r, const uint8_t *p, size_t n)
{
    while (n && !r->reply.finished) {
        if (r->n_prefix < GRPC_PREFIX_BYTES) {
            r->prefix[r->n_prefix++] = *p++;
            n--;
            if (r->n_prefix == GRPC_PREFIX_BYTES)
                prefix_done(r);
            continue;
        }
        size_t want = r->body_bytes - buf_len(&r->body), got = n < want ? n : want;
        if (got && buf_append(&r->body, p, got)) {
            finish(r, GRPC_RESOURCE_EXHAUSTED, "out of memory");
            return;
        }
        r->h->loop->buffered_bytes += (int64_t) got;
        p += got;
        n -= got;
        if (got == want && n)
            r->n_prefix = 0; /* another message, which prefix_done refuses */
    }
}

/* --- Chat and Generate --- */

/* A message into the reply; on failure the stream is given up. */
static int send_event(struct rpc *r, const struct proto_event *ev)
{
    size_t mark;
    int st = reply_message_begin(&r->reply, &mark);
    if (!st)
        st = proto_event_encode(ev, &r->reply.out);
    if (st)
        give_up(r);
    else
        reply_message_end(&r->reply, mark);
    return st;
}

static void session_start(struct rpc *r, struct session *s)
{
    struct loop *l = r->h->loop;
    struct err e;
    s->engine_request->id = s->id;
    int st = engine_start(l->served->engine, s->engine_request);
    if (st == ST_LIMIT)
        err_set(&e, st, "all %d sessions are busy and all %d places of the queue are taken; try again later",
                l->served->info.sessions_max, l->served->info.queue_max);
    else if (st)
        err_set(&e, st, "the engine has stopped; restart outriderd");
    if (st == ST_UNAVAILABLE && l->health.serving) {
        l->health.serving = 0;
        rpc_health_changed(l);
    }
    if (st) {
        session_leave(r);
        finish(r, status_grpc(st), e.text);
        return;
    }
    s->engine_request = NULL;
    s->running = 1;
    if (reply_start(&r->reply))
        give_up(r);
    h2_touch(r->h);
}

static void session_was_read(struct rpc *r, int st, const struct err *e)
{
    if (st == 0) {
        session_start(r, r->session);
        return;
    }
    session_leave(r);
    finish(r, status_grpc(st), e->text);
}

static void on_work(uv_work_t *w)
{
    struct work *work = w->data;
    work->status = session_read(work->session, &work->err);
}

static void on_worked(uv_work_t *w, int status)
{
    struct work *work = w->data;
    struct session *s = work->session;
    struct rpc *r = s->owner;
    work->loop->n_work--;
    s->reading = 0;
    if (r) {
        r->work = NULL;
        session_was_read(r, status ? ST_CANCELLED : work->status, &work->err);
    } else {
        session_drop(work->loop, s);
    }
    free(work);
}

static void read_on_worker(struct rpc *r)
{
    struct loop *l = r->h->loop;
    struct work *work = l->n_work < LOOP_WORK_MAX ? calloc(1, sizeof *work) : NULL;
    if (!work) {
        session_leave(r);
        finish(r, GRPC_RESOURCE_EXHAUSTED,
               "too many long prompts are being tokenized at once; try again later");
        return;
    }
    work->uv.data = work;
    work->loop = l;
    work->session = r->session;
    r->session->reading = 1;
    r->work = work;
    l->n_work++;
    uv_queue_work(&l->uv, &work->uv, on_work, on_worked); /* fails only without a callback */
}

static void call_inference(struct rpc *r)
{
    struct loop *l = r->h->loop;
    struct arena a;
    struct proto_request q;
    struct err e;
    arena_init(&a, (size_t) l->config->max_message_bytes * ARENA_TIMES + ARENA_SLACK);
    const uint8_t *p = r->body.p + r->body.at;
    size_t n = buf_len(&r->body);
    int st = r->method == METHOD_CHAT ? proto_chat_decode(p, n, &a, &q, &e)
                                      : proto_generate_decode(p, n, &a, &q, &e);
    if (st) {
        arena_fini(&a);
        finish(r, status_grpc(st), e.text);
        return;
    }
    body_drop(r);
    struct session *s = session_new(l->served, &a, &q, r->received_ns);
    if (!s || table_add(&l->table, s)) {
        session_free(s);
        finish(r, GRPC_RESOURCE_EXHAUSTED, "too many requests are under way; try again later");
        return;
    }
    s->owner = r;
    r->session = s;
    if (session_prompt_bytes(s) >= SESSION_LONG_BYTES)
        read_on_worker(r);
    else
        session_was_read(r, session_read(s, &e), &e);
}

static void send_text(struct rpc *r, struct session *s, const struct engine_event *ev)
{
    struct text_out *out = &r->h->loop->text;
    if (session_tokens(s, ev, out)) {
        give_up(r);
        return;
    }
    for (size_t i = 0; i < text_out_count(out) && r->session; i++) {
        struct text_delta d = text_out_at(out, i);
        struct proto_event event = {.kind = PROTO_EVENT_DELTA};
        const char *text = (const char *) out->text.p + d.text_at;
        event.u.delta.tokens =
            (struct proto_ids){d.id_n, (const int32_t *) (const void *) out->ids.p + d.id_at};
        if (d.kind == TEXT_REASONING) {
            event.u.delta.reasoning = text;
            event.u.delta.reasoning_bytes = d.text_n;
        } else {
            event.u.delta.content = text;
            event.u.delta.content_bytes = d.text_n;
        }
        send_event(r, &event);
    }
}

static void send_begin(struct rpc *r, struct session *s, const struct engine_event *ev)
{
    struct proto_event event = {.kind = PROTO_EVENT_BEGIN};
    session_begin(s, ev, &event.u.begin);
    send_event(r, &event);
}

static void send_end(struct rpc *r, struct session *s, const struct engine_event *ev)
{
    struct loop *l = r->h->loop;
    struct proto_event event = {.kind = PROTO_EVENT_END};
    int code = GRPC_OK, proto = PROTO_FINISH_CANCELLED;
    const char *message = "";
    if (ev->finish == ENGINE_FINISH_STOP) {
        proto = PROTO_FINISH_STOP;
    } else if (ev->finish == ENGINE_FINISH_LENGTH) {
        proto = PROTO_FINISH_LENGTH;
    } else if (ev->finish == ENGINE_FINISH_ERROR) {
        finish(r, status_grpc(ev->status), ev->text);
        return;
    } else if (r->expired) {
        proto = PROTO_FINISH_DEADLINE;
        code = GRPC_DEADLINE_EXCEEDED;
        message = "deadline exceeded";
    } else {
        code = GRPC_UNAVAILABLE;
        message = l->drain ? "the daemon is shutting down; resume the answer elsewhere"
                           : "the answer was cancelled";
    }
    session_end(s, ev, proto, &event.u.end);
    if (send_event(r, &event) == 0)
        finish(r, code, message);
}

static void park_if_slow(struct rpc *r)
{
    struct session *s = r->session;
    if (!s || s->parked || reply_unsent(&r->reply) <= UNSENT_HIGH)
        return;
    s->parked = 1;
    loop_tell_engine(r->h->loop, s);
}

void rpc_engine_event(struct loop *l, struct session *s, struct engine_event *ev)
{
    struct rpc *r = s->owner;
    if (r && ev->kind == ENGINE_BEGIN)
        send_begin(r, s, ev);
    else if (r)
        send_text(r, s, ev);
    if (ev->kind == ENGINE_END) {
        if (s->owner)
            send_end(r, s, ev);
        log_debug("request %s: %d tokens of output after %d of prompt", s->request_id, ev->figures.n_output,
                  s->n_prompt);
        if (s->owner)
            r->session = NULL;
        session_drop(l, s);
    } else if (r) {
        park_if_slow(r);
    }
    if (r)
        h2_touch(r->h);
}

/* --- the other methods --- */

static void call_get_model(struct rpc *r)
{
    const struct served *v = r->h->loop->served;
    struct arena a;
    struct err e;
    arena_init(&a, ARENA_SLACK);
    int st = proto_get_model_decode(r->body.p + r->body.at, buf_len(&r->body), &a, &e);
    arena_fini(&a);
    if (st) {
        finish(r, status_grpc(st), e.text);
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
        give_up(r);
        return;
    }
    reply_message_end(&r->reply, mark);
    finish(r, GRPC_OK, "");
}

static void send_health(struct rpc *r, int status)
{
    size_t mark;
    if (reply_message_begin(&r->reply, &mark) || proto_health_encode(status, &r->reply.out)) {
        give_up(r);
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
    if (r->method == METHOD_HEALTH_CHECK && status == PROTO_HEALTH_SERVICE_UNKNOWN) {
        finish(r, GRPC_NOT_FOUND, "no such service; \"\" and \"outrider.v1.Inference\" are known");
        return;
    }
    if (reply_start(&r->reply)) {
        give_up(r);
        return;
    }
    send_health(r, status);
    if (r->method == METHOD_HEALTH_CHECK) {
        finish(r, GRPC_OK, "");
        return;
    }
    r->watch = 1;
    l->n_calls--;
    r->service = strdup(service);
    if (!r->service)
        give_up(r);
}

static void call_health(struct rpc *r)
{
    struct arena a;
    struct err e;
    const char *service;
    arena_init(&a, ARENA_SLACK);
    int st = proto_health_decode(r->body.p + r->body.at, buf_len(&r->body), &a, &service, &e);
    if (st)
        finish(r, status_grpc(st), e.text);
    else
        health_answer(r, service);
    arena_fini(&a);
    body_drop(r);
}

void rpc_half_closed(struct rpc *r)
{
    r->half_closed = 1;
    alarm_clear(&r->request_alarm);
    if (r->reply.finished)
        return;
    if (r->n_prefix < GRPC_PREFIX_BYTES ? r->n_prefix > 0 : buf_len(&r->body) < r->body_bytes)
        finish(r, GRPC_INTERNAL, "the stream ended in the middle of a message");
    else if (r->n_messages == 0)
        finish(r, GRPC_UNIMPLEMENTED, "this method takes one message, and none came");
    else if (r->method == METHOD_GET_MODEL)
        call_get_model(r);
    else if (r->method == METHOD_CHAT || r->method == METHOD_GENERATE)
        call_inference(r);
    else
        call_health(r);
    h2_touch(r->h);
}

/* --- slow readers --- */

static void on_stall(void *arg)
{
    struct rpc *r = arg;
    if (reply_unsent(&r->reply) == 0 || r->reply.taken != r->stall_taken)
        return; /* rpc_sent sets the next one */
    log_warn("a client took nothing for %lld ms; its stream is cut off",
             (long long) r->h->loop->config->stall_timeout_ms);
    give_up(r);
}

void rpc_sent(struct h2 *h)
{
    struct loop *l = h->loop;
    for (struct rpc *r = h->rpcs; r; r = r->next) {
        size_t unsent = reply_unsent(&r->reply);
        if (unsent && !r->stall_alarm) {
            r->stall_taken = r->reply.taken;
            alarm_set(&l->uv, &r->stall_alarm, (uint64_t) l->config->stall_timeout_ms, on_stall, r);
        }
        if (r->session && r->session->parked && unsent <= UNSENT_LOW) {
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
        session_leave(r);
        finish(r, GRPC_UNAVAILABLE, "the daemon is shutting down");
    }
}

void rpc_cut(struct loop *l)
{
    each(l, cut);
}

static void end_watch(struct rpc *r)
{
    if (r->watch && !r->reply.finished)
        finish(r, GRPC_UNAVAILABLE, "the daemon is shutting down");
}

void rpc_end_watches(struct loop *l)
{
    each(l, end_watch);
}
