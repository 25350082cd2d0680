/* rpc_inference.c - Chat and Generate: a call follows its session, and the session outlives the call until the engine has
 * let go of it. */
#include <stdio.h>
#include <stdlib.h>

#include "core/log.h"
#include "daemon/rpc.h"
#include "daemon/rpc_inside.h"

enum {
    RETRY_MS = 1000, /* before any answer has ended */
    RETRY_MIN_MS = 100,
    RETRY_MAX_MS = 30000,
    MEAN_OF = 8, /* the running mean: about so many answers back */
};

struct work {
    uv_work_t uv;
    struct loop *loop;
    struct session *session; /* owns until the work is done */
    struct err err;
    int status;
};

static void session_drop(struct loop *l, struct session *s)
{
    table_del(&l->table, s->id);
    session_free(s);
}

/* The call needs its session no more; the engine may still have it. */
static void leave(struct rpc *r)
{
    struct session *s = r->call;
    s->owner = NULL;
    if (s->reading) {
        /* Fails if it runs already: then it finds no owner at its end. */
        struct work *work = s->reading;
        uv_cancel((uv_req_t *) &work->uv);
    } else if (s->running) {
        s->cancelled = 1;
        loop_tell_engine(r->h->loop, s);
    } else {
        session_drop(r->h->loop, s);
    }
}

/* The engine's END ends the stream. */
static int cancel(struct rpc *r)
{
    struct session *s = r->call;
    if (!s->running)
        return 0;
    s->cancelled = 1;
    loop_tell_engine(r->h->loop, s);
    return 1;
}

static void sent(struct rpc *r, size_t unsent)
{
    struct session *s = r->call;
    if (!s->parked || (int64_t) unsent > r->h->loop->config->max_unsent_bytes / RPC_UNSENT_PART)
        return;
    s->parked = 0;
    loop_tell_engine(r->h->loop, s);
}

static int encode_event(const void *ev, struct buf *out)
{
    return proto_event_encode(ev, out);
}

static int send_event(struct rpc *r, const struct proto_event *ev)
{
    return rpc__send(r, encode_event, ev);
}

static void engine_is_lost(struct loop *l)
{
    if (!l->health.serving)
        return;
    l->health.serving = 0;
    rpc_health_changed(l);
}

/* When a place may be free: the time in which one of the running answers ends. */
static uint64_t retry_ms(const struct loop *l)
{
    uint64_t ms = l->answer_ns / 1000000 / (uint64_t) l->served->info.sessions_max;
    if (l->answer_ns == 0)
        return RETRY_MS;
    return ms < RETRY_MIN_MS ? RETRY_MIN_MS : ms > RETRY_MAX_MS ? RETRY_MAX_MS : ms;
}

/* The hint of gRPC's retries (proposal A6); without memory for it the refusal goes without. */
static void hint_retry(struct rpc *r, uint64_t ms)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%llu", (unsigned long long) ms);
    reply_add(&r->reply, REPLY_TRAILER, "grpc-retry-pushback-ms", text, (size_t) n);
}

static void refuse_busy(struct rpc *r, const char *why)
{
    struct loop *l = r->h->loop;
    l->sums.refused++;
    hint_retry(r, retry_ms(l));
    rpc__finish(r, GRPC_RESOURCE_EXHAUSTED, why);
}

static void refuse_full(struct rpc *r, struct err *e)
{
    const struct loop *l = r->h->loop;
    uint64_t ms = retry_ms(l);
    hint_retry(r, ms);
    err_set(e, ST_LIMIT,
            "all %d sessions are busy and all %d places of the queue are taken; try again in %.1f s",
            l->served->info.sessions_max, l->served->info.queue_max, (double) ms / 1e3);
}

static void refuse_start(struct rpc *r, int st)
{
    struct loop *l = r->h->loop;
    struct err e;
    if (st == ST_LIMIT)
        refuse_full(r, &e);
    else if (st == ST_UNAVAILABLE)
        err_set(&e, st, "the engine has stopped; restart outriderd");
    else
        err_set(&e, st, "%s; try again later", status_text(st));
    if (st == ST_UNAVAILABLE)
        engine_is_lost(l);
    l->sums.refused++;
    rpc__finish(r, status_grpc(st), e.text);
}

static void send_whole(struct rpc *r, struct session *s);

static void session_start(struct rpc *r, struct session *s)
{
    if (s->drop) {
        send_whole(r, s);
        return;
    }
    s->engine_request->id = s->id;
    int st = engine_start(r->h->loop->served->engine, s->engine_request);
    if (st) {
        refuse_start(r, st);
        return;
    }
    s->engine_request = NULL;
    s->running = 1;
    if (reply_start(&r->reply))
        rpc__give_up(r);
    h2_touch(r->h);
}

static void session_was_read(struct rpc *r, int st, const struct err *e)
{
    if (st == 0) {
        session_start(r, r->call);
        return;
    }
    r->h->loop->sums.refused++;
    rpc__finish(r, status_grpc(st), e->text);
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
    s->reading = NULL;
    if (r) {
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
        refuse_busy(r, "too many long prompts are being tokenized at once; try again later");
        return;
    }
    work->uv.data = work;
    work->loop = l;
    work->session = r->call;
    work->session->reading = work;
    l->n_work++;
    uv_queue_work(&l->uv, &work->uv, on_work, on_worked); /* fails only without a callback */
}

/* Takes over the arena, in which q lives. */
static void session_open(struct rpc *r, struct arena *a, const struct proto_request *q)
{
    struct loop *l = r->h->loop;
    struct err e;
    l->sums.received++;
    struct session *s = session_new(l->served, a, q, r->h->client, r->received_ns);
    if (!s || table_add(&l->table, s)) {
        session_free(s);
        refuse_busy(r, "too many requests are under way; try again later");
        return;
    }
    s->owner = r;
    r->call = s;
    if (session_prompt_bytes(s) >= SESSION_LONG_BYTES)
        read_on_worker(r);
    else
        session_was_read(r, session_read(s, &e), &e);
}

static void arena_for(struct rpc *r, struct arena *a)
{
    arena_init(a, (size_t) r->h->loop->config->max_message_bytes * RPC_ARENA_TIMES + RPC_ARENA_SLACK);
}

static void infer(struct rpc *r, const uint8_t *p, size_t n,
                  int (*decode)(const void *, size_t, struct arena *, struct proto_request *, struct err *))
{
    struct arena a;
    struct proto_request q;
    struct err e;
    arena_for(r, &a);
    int st = decode(p, n, &a, &q, &e);
    if (st) {
        arena_fini(&a);
        rpc__finish(r, status_grpc(st), e.text);
        return;
    }
    rpc__body_drop(r);
    session_open(r, &a, &q);
}

static void chat(struct rpc *r, const uint8_t *p, size_t n)
{
    infer(r, p, n, proto_chat_decode);
}

static void generate(struct rpc *r, const uint8_t *p, size_t n)
{
    infer(r, p, n, proto_generate_decode);
}

/* --- ChatStream --- */

/* What may come after the request. */
static void steer(struct rpc *r, int kind)
{
    struct session *s = r->call;
    switch (kind) {
    case PROTO_CONTROL_CANCEL:
        if (cancel(r))
            s->by_client = 1;
        else
            rpc__finish(r, GRPC_OK, "");
        break;
    case PROTO_CONTROL_STOP_THINKING:
        s->close = s->running;
        loop_tell_engine(r->h->loop, s);
        break;
    case PROTO_CONTROL_REQUEST:
        rpc__finish(r, GRPC_INVALID_ARGUMENT, "the request was given already; one call, one answer");
        break;
    default:
        rpc__finish(r, GRPC_INVALID_ARGUMENT, "the message holds no control that is known here");
    }
}

static void control(struct rpc *r, const uint8_t *p, size_t n)
{
    struct arena a;
    struct proto_request q;
    struct err e;
    int kind;
    arena_for(r, &a);
    int st = proto_control_decode(p, n, &a, &kind, &q, &e);
    if (st) {
        rpc__finish(r, status_grpc(st), e.text);
    } else if (r->call) {
        steer(r, kind);
    } else if (kind == PROTO_CONTROL_REQUEST) {
        rpc__body_drop(r);
        session_open(r, &a, &q);
        return;
    } else {
        rpc__finish(r, GRPC_INVALID_ARGUMENT, "the first message must be the request");
    }
    arena_fini(&a);
}

/* The client steers no more; its answer goes on. */
static void control_closed(struct rpc *r)
{
    if (r->n_messages == 0)
        rpc__finish(r, GRPC_INVALID_ARGUMENT, "the stream ended before its request");
}

/* --- the answer --- */

static void send_text(struct rpc *r, struct session *s, const struct engine_event *ev)
{
    struct text_out *out = &r->h->loop->text;
    if (session_tokens(s, ev, out)) {
        rpc__give_up(r);
        return;
    }
    for (size_t i = 0; i < text_out_count(out) && r->call; i++) {
        struct proto_event event = {.kind = PROTO_EVENT_DELTA};
        session_delta(s, ev, out, i, &event.u.delta);
        send_event(r, &event);
    }
    if (r->call && s->drop & ~s->told_drop)
        loop_tell_engine(r->h->loop, s);
}

/* Once, before all else: also of an answer that ends in the queue. */
static void send_begin(struct rpc *r, struct session *s, const struct engine_event *ev)
{
    struct proto_event event = {.kind = PROTO_EVENT_BEGIN};
    if (s->begun)
        return;
    s->begun = 1;
    session_begin(s, ev, &event.u.begin);
    send_event(r, &event);
}

/* How an answer ended, enum proto_finish.  What the stream's own status will be is noted in s. */
static int finish_of(const struct rpc *r, struct session *s, const struct engine_event *ev)
{
    if (ev->finish == ENGINE_FINISH_STOP || session_stopped(s, ev->choice))
        return PROTO_FINISH_STOP;
    if (ev->finish == ENGINE_FINISH_LENGTH)
        return PROTO_FINISH_LENGTH;
    if (r->expired) {
        s->code = GRPC_DEADLINE_EXCEEDED;
        s->message = "deadline exceeded";
        return PROTO_FINISH_DEADLINE;
    }
    if (!s->by_client) {
        s->code = GRPC_UNAVAILABLE;
        s->message = r->h->loop->drain ? "the daemon is shutting down; resume the answer elsewhere"
                                       : "the answer was cancelled";
    }
    return PROTO_FINISH_CANCELLED;
}

/* Sums over all answers; who has left has cancelled. */
static void count_end(struct loop *l, struct session *s, const struct engine_event *ev, int finish)
{
    const struct engine_figures *f = &ev->figures;
    struct proto_stats *sum = &l->sums;
    uint64_t *const outcome[] = {[PROTO_FINISH_UNSPECIFIED] = &sum->failed,
                                 [PROTO_FINISH_STOP] = &sum->stop,
                                 [PROTO_FINISH_LENGTH] = &sum->length,
                                 [PROTO_FINISH_CANCELLED] = &sum->cancelled,
                                 [PROTO_FINISH_DEADLINE] = &sum->deadline};
    struct proto_end end;
    uint64_t took = f->prefill_ns + f->decode_ns;
    session_end(s, ev, finish, &end);
    ++*outcome[finish];
    sum->prompt += (uint64_t) end.prompt_tokens;
    sum->cached += (uint64_t) end.cached_tokens;
    sum->output += (uint64_t) end.completion_tokens;
    l->answer_ns = l->answer_ns ? l->answer_ns - l->answer_ns / MEAN_OF + took / MEAN_OF : took;
}

static int failed(const struct session *s, const struct engine_event *ev)
{
    return ev->finish == ENGINE_FINISH_ERROR && !session_stopped(s, ev->choice);
}

/* Where the engine is lost, the answer can be had from another one of the same fingerprint. */
static void send_fault(struct rpc *r, const struct engine_event *ev)
{
    struct err e;
    if (status_is_fatal(ev->status))
        err_set(&e, ev->status, "%s; resume with fingerprint %s", ev->text,
                r->h->loop->served->info.fingerprint);
    else
        err_set(&e, ev->status, "%s", ev->text);
    rpc__finish(r, status_grpc(ev->status), e.text);
}

static void send_end(struct rpc *r, struct session *s, const struct engine_event *ev, int finish)
{
    struct proto_event event = {.kind = PROTO_EVENT_END};
    if (failed(s, ev)) {
        send_fault(r, ev); /* one answer's fault ends them all */
        return;
    }
    session_end(s, ev, finish, &event.u.end);
    if (send_event(r, &event) == 0 && ev->last)
        rpc__finish(r, s->code, s->message ? s->message : "");
}

/* A client's word as a log line may show it: all but printable ASCII as \xNN.  out: 4 bytes each and a NUL. */
static const char *printable(const char *s, char *out)
{
    char *to = out;
    for (; *s; s++) {
        unsigned char b = (unsigned char) *s;
        if (b < 0x20 || b > 0x7e || b == '\\')
            to += sprintf(to, "\\x%02x", b);
        else
            *to++ = *s;
    }
    *to = 0;
    return out;
}

static void log_end(const struct session *s, const struct engine_event *ev)
{
    char id[4 * SESSION_REQUEST_ID_MAX + 1];
    log_debug("request %s: %d tokens of output after %d of prompt", printable(s->request_id, id),
              ev->figures.n_output, s->n_prompt);
}

static void park_if_slow(struct rpc *r)
{
    struct session *s = r->call;
    if (!s || s->parked || (int64_t) reply_unsent(&r->reply) <= r->h->loop->config->max_unsent_bytes)
        return;
    s->parked = 1;
    loop_tell_engine(r->h->loop, s);
}

static void end(struct loop *l, struct session *s, const struct engine_event *ev)
{
    struct rpc *r = s->owner;
    if (ev->finish == ENGINE_FINISH_ERROR && status_is_fatal(ev->status))
        engine_is_lost(l);
    if (ev->finish == ENGINE_FINISH_ERROR && ev->status == ST_DEVICE)
        loop_fail(l);
    if (r && ev->last)
        r->call = NULL; /* the engine has let go: nothing is left to be cancelled */
    int finish = failed(s, ev) ? PROTO_FINISH_UNSPECIFIED : r ? finish_of(r, s, ev) : PROTO_FINISH_CANCELLED;
    count_end(l, s, ev, finish);
    if (r)
        send_end(r, s, ev, finish);
    log_end(s, ev);
    if (ev->last)
        session_drop(l, s);
}

/* What was resumed ends with a stop string: there is nothing for the engine to do. */
static void send_whole(struct rpc *r, struct session *s)
{
    struct loop *l = r->h->loop;
    const struct engine_event begin = {.kind = ENGINE_BEGIN, .closed_at = -1};
    const struct engine_event last = {
        .kind = ENGINE_END, .finish = ENGINE_FINISH_STOP, .last = 1, .closed_at = -1, .matched = -1};
    if (reply_start(&r->reply)) {
        rpc__give_up(r);
        return;
    }
    send_begin(r, s, &begin);
    if (r->call)
        end(l, s, &last);
}

void rpc_engine_event(struct loop *l, struct session *s, struct engine_event *ev)
{
    struct rpc *r = s->owner;
    if (r && !failed(s, ev))
        send_begin(r, s, ev);
    if (r && ev->kind != ENGINE_BEGIN)
        send_text(r, s, ev);
    if (ev->kind == ENGINE_END)
        end(l, s, ev);
    else if (r)
        park_if_slow(r);
    if (r)
        h2_touch(r->h);
}

/* --- the service --- */

static const struct rpc_kind follows = {.leave = leave, .cancel = cancel, .sent = sent};

static const struct rpc_method methods[] = {
    {"Chat", RPC_ONE, chat, NULL, &follows},
    {"Generate", RPC_ONE, generate, NULL, &follows},
    {"ChatStream", RPC_STEERS, control, control_closed, &follows},
    {"GetModel", RPC_ONE, rpc__get_model, NULL, NULL},
    {"GetStats", RPC_ONE, rpc__get_stats, NULL, NULL},
    {"WatchStats", RPC_ONE, rpc__watch_stats, NULL, &rpc__stats_watches},
    {"Tokenize", RPC_ONE, rpc__tokenize, NULL, &rpc__tokenizing},
    {"Detokenize", RPC_ONE, rpc__detokenize, NULL, NULL},
};

const struct rpc_service rpc__inference_service = {"outrider.v1.Inference", sizeof methods / sizeof *methods,
                                                   methods};
