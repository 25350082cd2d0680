/* test_service.c - grpc.testing.TestService over the daemon's own connections, so that gRPC's interop cases can be put to them.
 *
 * Part of the test build only, whose table of services this file holds.  What a stream still has to send is a queue of
 * ResponseParameters, each after its own pause. */
#include <stdlib.h>
#include <string.h>

#include "daemon/alarm.h"
#include "daemon/rpc_inside.h"
#include "daemon/zip.h"
#include "testing.pb-c.h"

enum { RESPONSE_MAX = 4 << 20, QUEUE_MAX = 256 };

struct stream {
    struct rpc *rpc;
    struct alarm *pause;
    Grpc__Testing__ResponseParameters *queue[QUEUE_MAX]; /* own what they point to */
    int at, n, paused, closed;
    int64_t received; /* bytes of payloads */
};

/* --- messages --- */

static void *unpack(struct rpc *r, const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n)
{
    void *m = protobuf_c_message_unpack(d, NULL, n, p);
    if (!m)
        rpc__finish(r, GRPC_INTERNAL, "malformed protobuf");
    return m;
}

static void drop(void *m)
{
    protobuf_c_message_free_unpacked(m, NULL);
}

static int encode(const void *what, struct buf *out)
{
    const ProtobufCMessage *m = what;
    uint8_t *to = buf_reserve(out, protobuf_c_message_get_packed_size(m) + 1);
    if (!to)
        return ST_NOMEM;
    out->n += protobuf_c_message_pack(m, to);
    return 0;
}

/* So many zeros; body NULL: out of memory, or more than is served. */
static Grpc__Testing__Payload payload_of(int32_t bytes)
{
    Grpc__Testing__Payload p = GRPC__TESTING__PAYLOAD__INIT;
    if (bytes < 0 || bytes > RESPONSE_MAX)
        return p;
    p.body.data = calloc((size_t) bytes + 1, 1);
    p.body.len = (size_t) bytes;
    return p;
}

/* What the client can decompress. */
static int zip_of(const struct rpc *r)
{
    return r->accepts & 1u << ZIP_GZIP      ? ZIP_GZIP
           : r->accepts & 1u << ZIP_DEFLATE ? ZIP_DEFLATE
                                            : ZIP_IDENTITY;
}

/* The answer as a whole may be compressed; each message says for itself.  Before the answer starts. */
static void announce(struct rpc *r)
{
    r->reply.encoding = zip_of(r);
    r->reply.squeeze = ZIP_IDENTITY;
}

static void choose(struct rpc *r, const Grpc__Testing__BoolValue *compressed)
{
    r->reply.squeeze = compressed && compressed->value ? r->reply.encoding : ZIP_IDENTITY;
}

/* 1: as expected, or nothing was. */
static int expected(struct rpc *r, const Grpc__Testing__BoolValue *compressed)
{
    if (!compressed || (r->prefix[0] != 0) == (compressed->value != 0))
        return 1;
    rpc__finish(r, GRPC_INVALID_ARGUMENT, "the message was not sent as expect_compressed says");
    return 0;
}

/* Metadata that the cases want back. */
static void echo(struct rpc *r, const char *name, size_t n_name, const char *value, size_t n)
{
    static const char initial[] = "x-grpc-test-echo-initial", trailing[] = "x-grpc-test-echo-trailing-bin";
    if (n_name == sizeof initial - 1 && memcmp(name, initial, n_name) == 0)
        reply_add(&r->reply, REPLY_HEADER, initial, value, n);
    else if (n_name == sizeof trailing - 1 && memcmp(name, trailing, n_name) == 0)
        reply_add(&r->reply, REPLY_TRAILER, trailing, value, n);
}

/* 1: the call has ended with the status asked for. */
static int ended(struct rpc *r, const Grpc__Testing__EchoStatus *s)
{
    if (s && s->code)
        rpc__finish(r, s->code, s->message);
    return s && s->code;
}

/* --- one message --- */

static void empty_call(struct rpc *r, const uint8_t *p, size_t n)
{
    Grpc__Testing__Empty *m = unpack(r, &grpc__testing__empty__descriptor, p, n);
    if (m)
        rpc__answer(r, encode, m);
    drop(m);
}

static void answer_unary(struct rpc *r, const Grpc__Testing__SimpleRequest *m)
{
    Grpc__Testing__SimpleResponse answer = GRPC__TESTING__SIMPLE_RESPONSE__INIT;
    Grpc__Testing__Payload payload = payload_of(m->response_size);
    answer.payload = &payload;
    announce(r);
    choose(r, m->response_compressed);
    if (!payload.body.data)
        rpc__finish(r, GRPC_INVALID_ARGUMENT, "response_size cannot be served");
    else if (reply_start(&r->reply))
        rpc__give_up(r);
    else if (!ended(r, m->response_status) && rpc__send(r, encode, &answer) == 0)
        rpc__finish(r, GRPC_OK, "");
    free(payload.body.data);
}

static void unary_call(struct rpc *r, const uint8_t *p, size_t n)
{
    Grpc__Testing__SimpleRequest *m = unpack(r, &grpc__testing__simple_request__descriptor, p, n);
    if (m && expected(r, m->expect_compressed))
        answer_unary(r, m);
    drop(m);
}

/* --- streams --- */

static struct stream *stream_of(struct rpc *r)
{
    struct stream *s = r->call;
    if (s)
        return s;
    s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->rpc = r;
    r->call = s;
    return s;
}

static void leave(struct rpc *r)
{
    struct stream *s = r->call;
    alarm_clear(&s->pause);
    while (s->at < s->n)
        drop(s->queue[s->at++]);
    free(s);
}

static void pump(struct stream *s);

static void on_pause(void *arg)
{
    struct stream *s = arg;
    s->paused = 1;
    pump(s);
}

static int send_one(struct rpc *r, const Grpc__Testing__ResponseParameters *q)
{
    Grpc__Testing__StreamingOutputCallResponse m = GRPC__TESTING__STREAMING_OUTPUT_CALL_RESPONSE__INIT;
    Grpc__Testing__Payload payload = payload_of(q->size);
    if (!payload.body.data) {
        rpc__finish(r, GRPC_INVALID_ARGUMENT, "size cannot be served");
        return ST_INPUT;
    }
    m.payload = &payload;
    choose(r, q->compressed);
    int st = rpc__send(r, encode, &m);
    free(payload.body.data);
    return st;
}

/* Sends what is due; ends the call once nothing is left on either side. */
static void pump(struct stream *s)
{
    struct rpc *r = s->rpc;
    while (s->at < s->n) {
        Grpc__Testing__ResponseParameters *q = s->queue[s->at];
        if (q->interval_us > 0 && !s->paused) {
            if (!s->pause)
                alarm_set(&r->h->loop->uv, &s->pause, ((uint64_t) q->interval_us + 999) / 1000, on_pause, s);
            return;
        }
        s->paused = 0;
        s->at++;
        int st = send_one(r, q);
        drop(q);
        if (st)
            return; /* s is gone */
    }
    s->at = s->n = 0;
    if (s->closed)
        rpc__finish(r, GRPC_OK, "");
}

/* Moves the message's parameters to the queue. */
static int queue_up(struct stream *s, Grpc__Testing__StreamingOutputCallRequest *m)
{
    if (s->n + (int) m->n_response_parameters > QUEUE_MAX) {
        rpc__finish(s->rpc, GRPC_RESOURCE_EXHAUSTED, "too many responses are asked for");
        return ST_LIMIT;
    }
    for (size_t i = 0; i < m->n_response_parameters; i++)
        s->queue[s->n++] = m->response_parameters[i];
    m->n_response_parameters = 0;
    return 0;
}

static void output(struct rpc *r, const uint8_t *p, size_t n, int closed)
{
    Grpc__Testing__StreamingOutputCallRequest *m =
        unpack(r, &grpc__testing__streaming_output_call_request__descriptor, p, n);
    if (!m)
        return;
    struct stream *s = stream_of(r);
    s->closed = closed;
    if (!r->reply.started) {
        announce(r);
        reply_start(&r->reply);
    }
    if (!ended(r, m->response_status) && queue_up(s, m) == 0)
        pump(s);
    drop(m);
}

static void streaming_output(struct rpc *r, const uint8_t *p, size_t n)
{
    output(r, p, n, 1);
}

static void full_duplex(struct rpc *r, const uint8_t *p, size_t n)
{
    output(r, p, n, 0);
}

static void full_duplex_closed(struct rpc *r)
{
    struct stream *s = stream_of(r);
    s->closed = 1;
    if (!r->reply.started)
        reply_start(&r->reply);
    pump(s);
}

static void streaming_input(struct rpc *r, const uint8_t *p, size_t n)
{
    Grpc__Testing__StreamingInputCallRequest *m =
        unpack(r, &grpc__testing__streaming_input_call_request__descriptor, p, n);
    if (m && expected(r, m->expect_compressed) && m->payload)
        stream_of(r)->received += (int64_t) m->payload->body.len;
    drop(m);
}

static void streaming_input_closed(struct rpc *r)
{
    Grpc__Testing__StreamingInputCallResponse m = GRPC__TESTING__STREAMING_INPUT_CALL_RESPONSE__INIT;
    m.aggregated_payload_size = (int32_t) stream_of(r)->received;
    rpc__answer(r, encode, &m);
}

/* --- the service --- */

static const struct rpc_kind unary = {.header = echo};
static const struct rpc_kind streams = {.header = echo, .leave = leave};

static const struct rpc_method methods[] = {
    {"EmptyCall", RPC_ONE, empty_call, NULL, &unary},
    {"UnaryCall", RPC_ONE, unary_call, NULL, &unary},
    {"StreamingOutputCall", RPC_ONE, streaming_output, NULL, &streams},
    {"StreamingInputCall", RPC_MANY, streaming_input, streaming_input_closed, &streams},
    {"FullDuplexCall", RPC_MANY, full_duplex, full_duplex_closed, &streams},
};

static const struct rpc_service service = {"grpc.testing.TestService", sizeof methods / sizeof *methods,
                                           methods};

/* In place of daemon/services.c. */
const struct rpc_service *const rpc_services[] = {
    &rpc__inference_service,
    &rpc__health_service,
    &rpc__reflection_service,
    &rpc__reflection_alpha_service,
    &service,
    NULL,
};
