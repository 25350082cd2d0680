/* h2.c - see h2.h.  Source of the limits: facts on CVE-2023-44487 (rapid reset), CVE-2025-8671 (MadeYouReset) and the ping,
 * settings and empty-frame floods of 2019. */
#include "daemon/h2.h"

#include <nghttp2/nghttp2.h>
#include <string.h>
#include <stdlib.h>

#include "core/log.h"
#include "core/status.h"
#include "daemon/conn.h"
#include "daemon/loop.h"
#include "daemon/rpc.h"

enum {
    WINDOW_MS = 10000,     /* in which events are counted, pings apart */
    PING_WINDOW_MS = 5000, /* keepalives of real clients are at least so far apart, with or without calls */
    CANCELS_MAX = 1000,  /* calls cancelled before their end left: a client may drop all it has, not churn */
    INVALID_MAX = 100,   /* frames that break the rules of a stream: each makes us send a reset */
    PINGS_MAX = 20,      /* while we send nothing; who sends more is no keepalive */
    OUTBOUND_MAX = 4096, /* queued frames, DATA apart */
    OUTBOUND_ACK_MAX = 256, /* queued answers to PING and SETTINGS */
    RESET_BURST = 5000, /* nghttp2's token bucket counts finished streams too, and some clients reset all */
    RESET_RATE = 500,   /* a second */
    STREAM_WINDOW = 256 * 1024,
    CONNECTION_WINDOW = 1024 * 1024,
};

/* What our keepalive pings carry; the drain's carries zeros. */
static const uint8_t alive[8] = {'a', 'l', 'i', 'v', 'e', '?', 0, 0};

static int count(struct h2 *h, struct h2_count *c, uint32_t most, uint64_t window_ms)
{
    uint64_t now = uv_now(&h->loop->uv);
    if (now - c->since_ms > window_ms)
        *c = (struct h2_count){now, 0};
    return ++c->n > most;
}

void h2_calm(struct h2 *h, const char *why)
{
    if (h->broken)
        return;
    log_warn("connection closed: %s", why);
    nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h->session),
                          NGHTTP2_ENHANCE_YOUR_CALM, (const uint8_t *) why, strlen(why));
    h->broken = 1;
    h2_touch(h);
}

void h2_count_cancel(struct h2 *h)
{
    if (count(h, &h->cancels, CANCELS_MAX, WINDOW_MS))
        h2_calm(h, "too_many_cancels");
}

void h2_ping(struct h2 *h)
{
    nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, alive);
    h2_touch(h);
}

void h2_touch(struct h2 *h)
{
    if (h->conn)
        conn_touch(h->conn);
}

/* --- nghttp2's callbacks --- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct rpc *r = rpc_new(h, frame->hd.stream_id);
    if (!r)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, r);
    return 0;
}

static struct rpc *rpc_of(nghttp2_session *session, int32_t stream)
{
    return nghttp2_session_get_stream_user_data(session, stream);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t n_name,
                     const uint8_t *value, size_t n_value, uint8_t flags, void *user)
{
    (void) flags;
    (void) user;
    struct rpc *r = rpc_of(session, frame->hd.stream_id);
    if (r && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        rpc_header(r, (const char *) name, n_name, (const char *) value, n_value);
    return 0;
}

static void on_ping(struct h2 *h, const nghttp2_frame *frame)
{
    if (frame->hd.flags & NGHTTP2_FLAG_ACK) {
        if (h->drain == 1 && memcmp(frame->ping.opaque_data, alive, sizeof alive) != 0)
            h2_drain(h, 1); /* all that was under way when the notice went out has arrived */
    } else if (count(h, &h->pings, PINGS_MAX, PING_WINDOW_MS)) {
        h2_calm(h, "too_many_pings");
    }
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h = user;
    struct rpc *r = frame->hd.stream_id ? rpc_of(session, frame->hd.stream_id) : NULL;
    switch (frame->hd.type) {
    case NGHTTP2_SETTINGS:
        h->greeted = 1;
        break;
    case NGHTTP2_PING:
        on_ping(h, frame);
        break;
    case NGHTTP2_HEADERS:
        if (r && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
            rpc_headers_done(r);
        /* fall through */
    case NGHTTP2_DATA:
        if (r && frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
            rpc_half_closed(r);
        break;
    default:
        break;
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *p, size_t n,
                   void *user)
{
    (void) flags;
    (void) user;
    struct rpc *r = rpc_of(session, stream);
    if (r)
        rpc_data(r, p, n);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user)
{
    (void) code;
    (void) user;
    struct rpc *r = rpc_of(session, stream);
    if (r)
        rpc_closed(r);
    nghttp2_session_set_stream_user_data(session, stream, NULL);
    return 0;
}

/* A stream we have ended while the client still sends: it may stop (RFC 9113 section 8.1). */
static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h = user;
    int type = frame->hd.type;
    if (type == NGHTTP2_HEADERS || type == NGHTTP2_DATA) {
        h->pings.n = 0;
        struct rpc *r = rpc_of(session, frame->hd.stream_id);
        if (r && frame->hd.flags & NGHTTP2_FLAG_END_STREAM && !rpc_end_sent(r))
            nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    } else if (type == NGHTTP2_GOAWAY && h->drain == 1) {
        nghttp2_submit_ping(session, NGHTTP2_FLAG_NONE, NULL);
    }
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int code, void *user)
{
    (void) session;
    struct h2 *h = user;
    log_debug("invalid frame of type %d: %s", frame->hd.type, nghttp2_strerror(code));
    if (count(h, &h->invalid, INVALID_MAX, WINDOW_MS))
        h2_calm(h, "too_many_invalid_frames");
    return 0;
}

/* --- life --- */

static int session_open(struct h2 *h)
{
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *opt = NULL;
    int st = nghttp2_session_callbacks_new(&cb);
    if (!st)
        st = nghttp2_option_new(&opt);
    if (!st) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
        nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
        nghttp2_option_set_no_closed_streams(opt, 1);
        nghttp2_option_set_max_outbound_ack(opt, OUTBOUND_ACK_MAX);
        nghttp2_option_set_stream_reset_rate_limit(opt, RESET_BURST, RESET_RATE);
        st = nghttp2_session_server_new2(&h->session, cb, h, opt);
    }
    nghttp2_option_del(opt);
    nghttp2_session_callbacks_del(cb);
    return st;
}

struct h2 *h2_new(struct loop *l, struct conn *c)
{
    struct h2 *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->loop = l;
    h->conn = c;
    h->client = ++l->clients;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t) l->config->max_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t) l->config->max_header_bytes},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    if (session_open(h) ||
        nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings,
                                sizeof settings / sizeof *settings) ||
        nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW)) {
        h2_free(h);
        return NULL;
    }
    return h;
}

void h2_free(struct h2 *h)
{
    if (!h)
        return;
    h->broken = 1;
    while (h->rpcs)
        rpc_closed(h->rpcs);
    nghttp2_session_del(h->session);
    free(h);
}

/* --- bytes --- */

void h2_recv(struct h2 *h, const void *p, size_t n)
{
    if (h->broken)
        return;
    ssize_t used = nghttp2_session_mem_recv(h->session, p, n);
    if (used < 0) {
        log_debug("connection closed: %s", nghttp2_strerror((int) used));
        nghttp2_session_terminate_session(h->session, NGHTTP2_PROTOCOL_ERROR);
        h->broken = 1;
    }
    if (nghttp2_session_get_outbound_queue_size(h->session) > OUTBOUND_MAX)
        h2_calm(h, "too_many_frames_wait");
    h2_touch(h);
}

int h2_send(struct h2 *h, struct buf *out, size_t most)
{
    while (buf_len(out) < most) {
        const uint8_t *p;
        ssize_t n = nghttp2_session_mem_send(h->session, &p);
        if (n < 0 || (n > 0 && buf_append(out, p, (size_t) n)))
            return ST_NOMEM;
        if (n == 0)
            break;
    }
    rpc_sent(h);
    return 0;
}

int h2_done(const struct h2 *h)
{
    if (h->broken)
        return !nghttp2_session_want_write(h->session);
    return !nghttp2_session_want_read(h->session) && !nghttp2_session_want_write(h->session);
}

void h2_drain(struct h2 *h, int final)
{
    if (h->drain >= 1 + final)
        return;
    h->drain = 1 + final;
    if (final) {
        nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(h->session), NGHTTP2_NO_ERROR, NULL, 0);
    } else {
        nghttp2_submit_shutdown_notice(h->session); /* its PING follows in on_frame_send: PINGs overtake */
    }
    h2_touch(h);
}
