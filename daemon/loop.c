/* loop.c - see loop.h.
 *
 * A tick: sockets are read, engine events are handled, and each connection touched by either is flushed once, before the
 * next poll.  Draining: health says NOT_SERVING, listeners close, every connection gets the first GOAWAY, and the second
 * once its PING has come back or ACK_MS have passed; when the last call has ended, watches end too, connections close
 * and the loop stops. */
#include "daemon/loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/log.h"
#include "daemon/alarm.h"
#include "daemon/conn.h"
#include "daemon/rpc.h"
#include "daemon/session.h"

enum {
    BACKLOG = 511,
    EVENTS_A_TICK = 4096, /* of the engine, before sockets have their turn */
    RETRY_MS = 2,
    ACK_MS = 2000,   /* a client's answer to the drain PING */
    CLOSE_MS = 1000, /* after the drain timeout, for the last bytes to leave */
};

struct listener {
    struct listener *next;
    struct loop *loop;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    int32_t is_tcp;
    char *path; /* owns; of the Unix socket, removed at the end */
};

/* --- engine --- */

void loop_wake(void *arg)
{
    struct loop *l = arg;
    uv_async_send(&l->wake);
}

/* Choices that a stop string has ended. */
static int tell_drop(struct engine *e, struct session *s)
{
    int st = 0;
    for (int32_t i = 0; i < s->n && !st; i++) {
        uint32_t bit = 1u << i;
        if (!(s->drop & ~s->told_drop & bit))
            continue;
        st = engine_cancel_choice(e, s->id, i);
        if (st == 0)
            s->told_drop |= bit;
    }
    return st;
}

static int tell(struct loop *l, struct session *s)
{
    struct engine *e = l->served->engine;
    if (s->told_cancelled)
        return 0;
    if (s->cancelled) {
        int st = engine_cancel(e, s->id);
        s->told_cancelled = st == 0;
        return st;
    }
    int st = tell_drop(e, s);
    if (!st && s->close) {
        st = engine_close_thinking(e, s->id);
        s->close = st != 0;
    }
    if (!st && s->parked != s->told_parked) {
        st = s->parked ? engine_park(e, s->id) : engine_unpark(e, s->id);
        if (st == 0)
            s->told_parked = s->parked;
    }
    return st;
}

static void on_retry(void *arg)
{
    struct loop *l = arg;
    l->retries = 0;
    for (uint32_t i = 0; i < l->table.cap; i++)
        if (l->table.slot[i].session && l->table.slot[i].session->running)
            loop_tell_engine(l, l->table.slot[i].session);
}

void loop_tell_engine(struct loop *l, struct session *s)
{
    if (tell(l, s) == 0 || l->retries)
        return;
    l->retries = 1;
    alarm_set(&l->uv, &l->retry_alarm, RETRY_MS, on_retry, l);
}

static void on_wake(uv_async_t *a)
{
    struct loop *l = a->data;
    for (int i = 0; i < EVENTS_A_TICK; i++) {
        struct engine_event *ev = engine_next(l->served->engine);
        if (!ev)
            return;
        struct session *s = table_find(&l->table, ev->id);
        if (s)
            rpc_engine_event(l, s, ev);
        engine_event_free(ev);
    }
    uv_async_send(a);
}

/* --- drain --- */

static void close_listeners(struct loop *l);

static void drain_conns(struct loop *l, int final)
{
    for (struct conn *c = l->conns, *next; c; c = next) {
        next = c->next;
        conn_drain(c, final);
    }
}

static void on_last_close(void *arg)
{
    struct loop *l = arg;
    while (l->conns)
        conn_close(l->conns);
}

static void on_drain_timeout(void *arg)
{
    struct loop *l = arg;
    log_warn("drain timeout: %d calls are cut off", l->n_calls);
    l->drain = LOOP_CUTTING;
    drain_conns(l, 1);
    rpc_cut(l);
    alarm_set(&l->uv, &l->drain_alarm, CLOSE_MS, on_last_close, l);
}

static void on_ack_timeout(void *arg)
{
    struct loop *l = arg;
    int64_t left = l->config->drain_timeout_ms - ACK_MS;
    drain_conns(l, 1);
    alarm_set(&l->uv, &l->drain_alarm, left > 0 ? (uint64_t) left : 0, on_drain_timeout, l);
}

void loop_drain(struct loop *l)
{
    if (l->drain)
        return;
    log_info("draining: %d calls run", l->n_calls);
    l->drain = LOOP_DRAINING;
    l->health.serving = 0;
    rpc_health_changed(l);
    close_listeners(l);
    drain_conns(l, 0);
    if (l->config->drain_timeout_ms > ACK_MS)
        alarm_set(&l->uv, &l->drain_alarm, ACK_MS, on_ack_timeout, l);
    else
        alarm_set(&l->uv, &l->drain_alarm, (uint64_t) l->config->drain_timeout_ms, on_drain_timeout, l);
}

void loop_fail(struct loop *l)
{
    if (!l->exit_status)
        log_error("the device is lost: no more requests are taken, and the process ends for its supervisor "
                  "to start another");
    l->exit_status = 1;
    loop_drain(l);
}

static void check_drained(struct loop *l)
{
    if (l->n_calls == 0)
        rpc_end_watches(l);
    if (l->n_conns == 0)
        uv_stop(&l->uv);
}

static void on_signal(uv_signal_t *s, int number)
{
    struct loop *l = s->data;
    if (!l->drain) {
        log_info("signal %d", number);
        loop_drain(l);
        return;
    }
    log_warn("signal %d again: stopping at once", number);
    l->exit_status = 1;
    uv_stop(&l->uv);
}

/* --- the tick --- */

static void on_prepare(uv_prepare_t *p)
{
    struct loop *l = p->data;
    if (l->drain)
        check_drained(l);
    struct conn *c = l->touched;
    l->touched = NULL;
    while (c) {
        struct conn *next = c->touched_next;
        c->touched = 0;
        conn_flush(c);
        c = next;
    }
    if (l->touched)
        uv_async_send(&l->wake); /* a flush left more to be sent: the poll must not sleep on it */
}

/* --- listeners --- */

static void on_listener_closed(uv_handle_t *handle)
{
    struct listener *n = handle->data;
    free(n->path);
    free(n);
}

static void close_listeners(struct loop *l)
{
    while (l->listeners) {
        struct listener *n = l->listeners;
        l->listeners = n->next;
        uv_close(&n->u.handle, on_listener_closed); /* uv removes a Unix socket's path itself */
    }
}

static void on_connection(uv_stream_t *stream, int status)
{
    struct listener *n = stream->data;
    if (status < 0)
        log_error("accept: %s", uv_strerror(status));
    else
        conn_accept(n->loop, stream, n->is_tcp);
}

/* A socket left by a daemon that died is removed; one that still answers is not. */
static int remove_stale(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat sb;
    if (lstat(path, &sb) || !S_ISSOCK(sb.st_mode) || strlen(path) >= sizeof a.sun_path)
        return 0;
    memcpy(a.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int answers = fd >= 0 && connect(fd, (struct sockaddr *) &a, sizeof a) == 0;
    int gone = !answers && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return gone ? unlink(path) : 0;
}

static int bind_unix(struct loop *l, struct listener *n, const char *path)
{
    char dir[sizeof(((struct sockaddr_un *) 0)->sun_path)]; /* the flag's own check has made sure it fits */
    remove_stale(path);
    int st = uv_pipe_init(&l->uv, &n->u.pipe, 0);
    n->u.handle.data = n;
    if (!st)
        st = uv_pipe_bind(&n->u.pipe, path);
    /* libuv calls a directory that is not there a lack of permission. */
    const char *slash = strrchr(path, '/');
    snprintf(dir, sizeof dir, "%.*s", slash ? (int) (slash - path) : 0, path);
    return st == UV_EACCES && slash > path && access(dir, F_OK) && errno == ENOENT ? UV_ENOENT : st;
}

/* HOST:PORT; an IPv6 host in brackets. */
static int bind_tcp(struct loop *l, struct listener *n, const char *where)
{
    char host[256];
    const char *colon = strrchr(where, ':');
    size_t len = (size_t) (colon - where);
    int st = uv_tcp_init(&l->uv, &n->u.tcp);
    n->u.handle.data = n;
    n->is_tcp = 1;
    if (st || len >= sizeof host)
        return st ? st : UV_ENAMETOOLONG;
    memcpy(host, where, len);
    host[len] = 0;
    char *name = host;
    if (host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = 0;
        name++;
    }
    uv_getaddrinfo_t req;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    st = uv_getaddrinfo(&l->uv, &req, NULL, name, colon + 1, &hints);
    if (st)
        return st;
    st = uv_tcp_bind(&n->u.tcp, req.addrinfo->ai_addr, 0);
    uv_freeaddrinfo(req.addrinfo);
    return st;
}

static void log_listener(const struct listener *n, const char *where)
{
    struct sockaddr_storage a;
    int len = sizeof a, port = 0;
    if (n->is_tcp && uv_tcp_getsockname(&n->u.tcp, (struct sockaddr *) &a, &len) == 0)
        port = ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *) &a)->sin6_port
                                             : ((struct sockaddr_in *) &a)->sin_port);
    if (n->is_tcp)
        log_info("listening on %.*s:%d", (int) (strrchr(where, ':') - where), where, port);
    else
        log_info("listening on %s", where);
}

/* What to do about it. */
static const char *advice(int st, int is_tcp)
{
    switch (st) {
    case UV_EADDRINUSE:
        return is_tcp ? "another process has that port; stop it, or choose another with --listen"
                      : "another process has that socket, or it is a file; stop it, or choose another with "
                        "--listen";
    case UV_EADDRNOTAVAIL:
        return "it is no address of this machine; 0.0.0.0 or [::] is all it has";
    case UV_EACCES:
        return is_tcp ? "ports below 1024 are root's; choose another with --listen"
                      : "the directory must be writable";
    case UV_ENOENT:
        return "make its directory first";
    case UV_EAI_NONAME:
        return "give an address of this machine, such as 127.0.0.1";
    default:
        return "choose another with --listen";
    }
}

static int listen_one(struct loop *l, const char *where, struct err *e)
{
    static const char unix_prefix[] = "unix:";
    struct listener *n = calloc(1, sizeof *n);
    if (!n)
        return err_set(e, ST_NOMEM, "out of memory");
    n->loop = l;
    int is_unix = strncmp(where, unix_prefix, sizeof unix_prefix - 1) == 0;
    int st = is_unix ? bind_unix(l, n, where + sizeof unix_prefix - 1) : bind_tcp(l, n, where);
    n->next = l->listeners;
    l->listeners = n;
    if (!st)
        st = uv_listen(&n->u.stream, BACKLOG, on_connection);
    if (st)
        return err_set(e, ST_IO, "cannot listen on %s: %s; %s", where, uv_strerror(st), advice(st, !is_unix));
    log_listener(n, where);
    return 0;
}

int loop_probe(struct loop *l, struct err *e)
{
    int st = 0;
    for (int32_t i = 0; i < l->config->n_listen && !st; i++) {
        struct listener n = {.loop = l};
        const char *where = l->config->listen[i];
        if (strncmp(where, "unix:", 5) == 0)
            continue; /* its socket would be in the way of another daemon's, which may be quicker to listen */
        st = bind_tcp(l, &n, where);
        if (!st) {
            struct sockaddr_storage a;
            int len = sizeof a;
            st = uv_tcp_getsockname(&n.u.tcp, (struct sockaddr *) &a,
                                    &len); /* libuv keeps "in use" for later */
        }
        if (st)
            err_set(e, ST_IO, "cannot listen on %s: %s; %s", where, uv_strerror(st), advice(st, 1));
        uv_close(&n.u.handle, NULL);
        uv_run(&l->uv, UV_RUN_NOWAIT);
    }
    return st ? ST_IO : 0;
}

int loop_listen(struct loop *l, struct err *e)
{
    static const int signals[2] = {SIGTERM, SIGINT};
    for (int i = 0; i < 2; i++)
        uv_signal_start(&l->signal[i], on_signal, signals[i]);
    for (int32_t i = 0; i < l->config->n_listen; i++) {
        int st = listen_one(l, l->config->listen[i], e);
        if (st)
            return st;
    }
    return 0;
}

/* --- life --- */

int loop_init(struct loop *l, const struct daemon_config *c, const struct served *served, struct err *e)
{
    memset(l, 0, sizeof *l);
    l->config = c;
    l->served = served;
    l->started_ns = uv_hrtime();
    l->health.serving = 1;
    uint32_t cap = (uint32_t) (c->max_sessions + c->max_queue + LOOP_WORK_MAX);
    if (table_init(&l->table, 2 * cap)) /* as many again may be on their way out of the engine */
        return err_set(e, ST_NOMEM, "out of memory");
    int st = uv_loop_init(&l->uv);
    if (st) {
        table_fini(&l->table);
        return err_set(e, ST_IO, "cannot make an event loop: %s", uv_strerror(st));
    }
    uv_async_init(&l->uv, &l->wake, on_wake);
    uv_prepare_init(&l->uv, &l->prepare);
    uv_prepare_start(&l->prepare, on_prepare);
    l->wake.data = l->prepare.data = l;
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&l->uv, &l->signal[i]);
        l->signal[i].data = l;
    }
    return 0;
}

int loop_run(struct loop *l)
{
    uv_run(&l->uv, UV_RUN_DEFAULT);
    return l->exit_status;
}

static void sessions_free(struct table *t)
{
    for (uint32_t i = 0; i < t->cap; i++)
        if (t->slot[i].session && !t->slot[i].session->reading)
            session_free(t->slot[i].session);
}

void loop_disconnect(struct loop *l)
{
    while (l->conns)
        conn_close(l->conns);
    close_listeners(l);
}

void loop_fini(struct loop *l)
{
    loop_disconnect(l);
    alarm_clear(&l->drain_alarm);
    alarm_clear(&l->retry_alarm);
    uv_close((uv_handle_t *) &l->wake, NULL);
    uv_close((uv_handle_t *) &l->prepare, NULL);
    uv_close((uv_handle_t *) &l->signal[0], NULL);
    uv_close((uv_handle_t *) &l->signal[1], NULL);
    uv_run(&l->uv, UV_RUN_DEFAULT); /* close callbacks, and workers that still read */
    uv_loop_close(&l->uv);
    sessions_free(&l->table);
    table_fini(&l->table);
    text_out_free(&l->text);
}
