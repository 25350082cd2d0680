/* conn.c - see conn.h. */
#include "daemon/conn.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/log.h"
#include "daemon/alarm.h"
#include "daemon/h2.h"
#include "daemon/loop.h"

enum {
    KEEPALIVE_S = 60,        /* idle seconds before TCP asks whether the peer is alive */
    USER_TIMEOUT_MS = 30000, /* sent data may stay unacknowledged for so long */
    LINGER_MS = 2000,        /* a refused HTTP/1 client may take so long to read why */
    WRITES_A_TICK = 4,       /* full buffers to one connection before the others have their turn */
    PREFACE_BYTES = 24,
};

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static const char http1_answer[] =
    "HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: "
    "close\r\n\r\n"
    "outriderd speaks gRPC here: HTTP/2 with prior knowledge (h2c), no TLS\n";

/* --- life --- */

static void on_closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;
    buf_free(&c->out);
    free(c);
}

static void untouch(struct conn *c)
{
    for (struct conn **p = &c->loop->touched; *p; p = &(*p)->touched_next)
        if (*p == c) {
            *p = c->touched_next;
            break;
        }
    c->touched = 0;
}

void conn_close(struct conn *c)
{
    struct loop *l = c->loop;
    if (c->closing)
        return;
    c->closing = 1;
    h2_free(c->h2);
    c->h2 = NULL;
    if (c->touched)
        untouch(c);
    alarm_clear(&c->hello_alarm);
    alarm_clear(&c->stall_alarm);
    alarm_clear(&c->alive_alarm);
    if (c->prev)
        c->prev->next = c->next;
    else
        l->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    l->n_conns--;
    uv_close(&c->u.handle, on_closed);
}

void conn_touch(struct conn *c)
{
    if (c->touched || c->closing)
        return;
    c->touched = 1;
    c->touched_next = c->loop->touched;
    c->loop->touched = c;
}

void conn_drain(struct conn *c, int final)
{
    if (c->h2)
        h2_drain(c->h2, final);
    else
        conn_close(c); /* nothing was asked yet */
}

/* --- out --- */

static void on_stall(void *arg)
{
    struct conn *c = arg;
    size_t left = uv_stream_get_write_queue_size(&c->u.stream);
    if (left < c->left_bytes) { /* some was taken */
        c->left_bytes = left;
        alarm_set(&c->loop->uv, &c->stall_alarm, (uint64_t) c->loop->config->stall_timeout_ms, on_stall, c);
        return;
    }
    log_warn("a client took nothing for %lld ms; its connection is closed",
             (long long) c->loop->config->stall_timeout_ms);
    conn_close(c);
}

static void on_written(uv_write_t *w, int status)
{
    struct conn *c = w->data;
    c->writing = 0;
    alarm_clear(&c->stall_alarm);
    c->out.at = c->out.n = 0;
    if (status < 0)
        conn_close(c);
    else
        conn_touch(c);
}

/* What the socket takes at once, then the rest behind uv_write.  0; 1: the rest is under way; UV_E*. */
static int write_out(struct conn *c)
{
    uv_buf_t b = uv_buf_init((char *) c->out.p + c->out.at, (unsigned) buf_len(&c->out));
    int n = uv_try_write(&c->u.stream, &b, 1);
    if (n < 0 && n != UV_EAGAIN)
        return n;
    c->out.at += n > 0 ? (size_t) n : 0;
    if (buf_len(&c->out) == 0) {
        c->out.at = c->out.n = 0;
        return 0;
    }
    b = uv_buf_init((char *) c->out.p + c->out.at, (unsigned) buf_len(&c->out));
    c->write.data = c;
    n = uv_write(&c->write, &c->u.stream, &b, 1, on_written);
    if (n < 0)
        return n;
    c->writing = 1;
    c->left_bytes = buf_len(&c->out);
    alarm_set(&c->loop->uv, &c->stall_alarm, (uint64_t) c->loop->config->stall_timeout_ms, on_stall, c);
    return 1;
}

void conn_flush(struct conn *c)
{
    if (c->closing || c->writing || !c->h2)
        return;
    for (int i = 0; i < WRITES_A_TICK; i++) {
        if (h2_send(c->h2, &c->out, CONN_OUT_BYTES)) {
            conn_close(c);
            return;
        }
        size_t gathered = buf_len(&c->out);
        int st = gathered ? write_out(c) : 0;
        if (st < 0 || (st == 0 && h2_done(c->h2)) || (gathered == 0 && c->h2->broken)) {
            conn_close(c);
            return;
        }
        if (st || gathered < CONN_OUT_BYTES)
            return;
    }
    conn_touch(c);
}

/* --- in --- */

static void on_hello_timeout(void *arg)
{
    conn_close(arg);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void) status;
    (void) req; /* the peer's end of stream, or the linger alarm, closes */
}

/* HTTP/1 is told what is spoken here; what it still sends is dropped, so that the answer is not lost to a reset. */
static void refuse_http1(struct conn *c)
{
    c->lingering = 1;
    uv_buf_t b = uv_buf_init((char *) http1_answer, sizeof http1_answer - 1);
    if (uv_try_write(&c->u.stream, &b, 1) < 0 || uv_shutdown(&c->shutdown, &c->u.stream, on_shutdown) < 0) {
        conn_close(c);
        return;
    }
    alarm_set(&c->loop->uv, &c->hello_alarm, LINGER_MS, on_hello_timeout, c);
}

static void on_alive(void *arg);

static void watch_alive(struct conn *c, int64_t ms)
{
    if (c->loop->config->keepalive_ms)
        alarm_set(&c->loop->uv, &c->alive_alarm, ms > 0 ? (uint64_t) ms : 0, on_alive, c);
}

/* A peer that has said nothing for long is asked whether it is there; one that does not answer is not. */
static void on_alive(void *arg)
{
    struct conn *c = arg;
    const struct daemon_config *g = c->loop->config;
    int64_t quiet = (int64_t) (uv_now(&c->loop->uv) - c->heard_ms);
    if (c->asked) {
        log_info("a connection was closed: its ping was not answered (--keepalive-timeout)");
        conn_close(c);
    } else if (quiet < g->keepalive_ms) {
        watch_alive(c, g->keepalive_ms - quiet);
    } else {
        c->asked = 1;
        h2_ping(c->h2);
        watch_alive(c, g->keepalive_timeout_ms);
    }
}

static void heard(struct conn *c)
{
    c->heard_ms = uv_now(&c->loop->uv);
    if (!c->asked)
        return;
    c->asked = 0;
    watch_alive(c, c->loop->config->keepalive_ms);
}

static void h2_start(struct conn *c, const char *p, size_t n)
{
    c->h2 = h2_new(c->loop, c);
    if (!c->h2) {
        conn_close(c);
        return;
    }
    watch_alive(c, c->loop->config->keepalive_ms);
    h2_recv(c->h2, preface, PREFACE_BYTES);
    if (n)
        h2_recv(c->h2, p, n);
    if (c->loop->drain)
        h2_drain(c->h2, 0);
}

/* Compares with the preface as it comes, however it is cut. */
static void sniff(struct conn *c, const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && c->n_preface < PREFACE_BYTES && p[i] == preface[c->n_preface]) {
        c->n_preface++;
        i++;
    }
    if (c->n_preface == PREFACE_BYTES)
        h2_start(c, p + i, n - i);
    else if (i == n)
        return;
    else if (c->n_preface > 0 || (p[0] >= 'A' && p[0] <= 'Z'))
        refuse_http1(c);
    else
        conn_close(c);
}

static void on_alloc(uv_handle_t *handle, size_t want, uv_buf_t *b)
{
    (void) want;
    struct conn *c = handle->data;
    *b = uv_buf_init(c->loop->read_buffer, sizeof c->loop->read_buffer);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct conn *c = stream->data;
    if (n < 0) {
        conn_close(c);
        return;
    }
    if (c->closing || c->lingering || n == 0)
        return;
    heard(c);
    if (!c->h2)
        sniff(c, b->base, (size_t) n);
    else
        h2_recv(c->h2, b->base, (size_t) n);
    if (c->h2 && c->h2->greeted)
        alarm_clear(&c->hello_alarm);
}

static void set_tcp(struct conn *c)
{
    uv_os_fd_t fd;
    int64_t stall = c->loop->config->stall_timeout_ms; /* a window of zero counts as unacknowledged, too */
    int ms = stall > USER_TIMEOUT_MS ? (int) stall : USER_TIMEOUT_MS;
    uv_tcp_nodelay(&c->u.tcp, 1);
    uv_tcp_keepalive(&c->u.tcp, 1, KEEPALIVE_S);
    if (uv_fileno(&c->u.handle, &fd) == 0)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
}

void conn_accept(struct loop *l, uv_stream_t *listener, int is_tcp)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
        log_error("a connection was refused: out of memory");
        return;
    }
    c->loop = l;
    int st = is_tcp ? uv_tcp_init(&l->uv, &c->u.tcp) : uv_pipe_init(&l->uv, &c->u.pipe, 0);
    if (st) {
        log_error("a connection was refused: %s", uv_strerror(st));
        free(c);
        return;
    }
    c->u.handle.data = c;
    c->next = l->conns;
    if (l->conns)
        l->conns->prev = c;
    l->conns = c;
    l->n_conns++;
    if (uv_accept(listener, &c->u.stream) || uv_read_start(&c->u.stream, on_alloc, on_read)) {
        conn_close(c);
        return;
    }
    if (l->n_conns > l->config->max_connections) {
        log_warn("a connection was closed: %d are open (--max-connections)", l->config->max_connections);
        conn_close(c);
        return;
    }
    if (is_tcp)
        set_tcp(c);
    alarm_set(&l->uv, &c->hello_alarm, (uint64_t) l->config->request_timeout_ms, on_hello_timeout, c);
}
