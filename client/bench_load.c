/* bench_load.c - see bench_load.h.
 *
 * A turn of the loop is poll, read (all ready connections; the times are taken here), decode, send.  Nothing is printed but the
 * progress line, five times a second.  Not a thread a client: with 256 of them that wake for every chunk a time is as late as the
 * scheduler is, and nothing tells by how much. */
#include "client/bench_load.h"

#include "client/grpc_code.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TICK_NS = 200000000 }; /* the progress line and deadlines are looked after this often */

/* A request that runs. */
struct flight {
    struct stream a;
    struct bench_record *r; /* borrowed */
    struct flight *next;    /* of its link */
};

/* One connection. */
struct link {
    struct grpc *g;        /* owns; NULL: broke and was not needed since */
    struct flight *flying; /* owns */
    int64_t stamp_ns;      /* monotonic: when its newest bytes were read; 0: none in this turn */
};

struct bench_load {
    struct bench_load_config c;
    struct link *link;    /* owns; (c.n_connections) */
    struct pollfd *polls; /* owns; (c.n_connections + 1), the last one for c.wake */
    struct bench_client client;
    const struct bench_wave *w; /* the wave that runs */
    struct bench_set *set;
    int64_t origin_ns;        /* monotonic time of the set's clock 0 */
    int64_t start_ns;         /* of the wave, on the set's clock */
    size_t n_started, n_over; /* of the wave's requests */
    int st;                   /* why no more is sent: ST_AGAIN, ST_UNAVAILABLE, ST_NOMEM; 0: go on */
    struct err why;
};

int64_t bench_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* --- sets --- */

int bench_set_init(struct bench_set *s, size_t n, struct err *e)
{
    *s = (struct bench_set){.n = n, .record = calloc(n ? n : 1, sizeof *s->record)};
    return s->record ? 0 : err_set(e, ST_NOMEM, "out of memory for %zu requests", n);
}

void bench_set_fini(struct bench_set *s)
{
    for (size_t i = 0; i < s->n && s->record; i++) {
        free(s->record[i].chunk);
        free(s->record[i].error);
    }
    free(s->record);
    s->record = NULL;
    s->n = 0;
}

/* --- what came --- */

static void stop(struct bench_load *l, int st, const char *why)
{
    if (l->st == 0)
        l->st = err_set(&l->why, st, "%s", why);
}

/* FNV-1a over the bytes of ids: equal answers have equal hashes. */
static uint64_t hash_ids(uint64_t h, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (int b = 0; b < 32; b += 8)
            h = (h ^ ((uint32_t) ids[i] >> b & 255)) * 0x100000001B3u;
    return h;
}

static void take_delta(struct bench_load *l, struct bench_record *r, const Outrider__V1__Delta *d,
                       int64_t at_ns)
{
    if (d->n_token_ids == 0)
        return;
    if (r->n_chunks == r->cap_chunks) {
        size_t cap = r->cap_chunks ? r->cap_chunks * 2 : 16;
        struct bench_chunk *p = realloc(r->chunk, cap * sizeof *p);
        if (!p) {
            stop(l, ST_NOMEM, "out of memory for the times of chunks");
            return;
        }
        r->chunk = p;
        r->cap_chunks = cap;
    }
    r->chunk[r->n_chunks++] = (struct bench_chunk){.at_ns = at_ns, .n_tokens = (int32_t) d->n_token_ids};
    r->n_tokens += (int64_t) d->n_token_ids;
    r->hash = hash_ids(r->hash, d->token_ids, d->n_token_ids);
    l->c.progress->n_tokens += (int64_t) d->n_token_ids;
}

static void take_event(struct bench_load *l, struct bench_record *r, const Outrider__V1__Event *ev,
                       int64_t at_ns)
{
    if (ev->event_case == OUTRIDER__V1__EVENT__EVENT_DELTA)
        take_delta(l, r, ev->delta, at_ns);
    if (ev->event_case != OUTRIDER__V1__EVENT__EVENT_BEGIN)
        return;
    r->prompt_tokens = ev->begin->prompt_tokens;
    r->cached_tokens = ev->begin->cached_tokens;
}

static void add_depths(struct bench_set *set, const Outrider__V1__SpeculationFigures *f)
{
    size_t n = f->n_drafted_by_depth < BENCH_DEPTHS_MAX ? f->n_drafted_by_depth : BENCH_DEPTHS_MAX;
    for (size_t d = 0; d < n; d++) {
        set->drafted[d] += f->drafted_by_depth[d];
        set->accepted[d] += d < f->n_accepted_by_depth ? f->accepted_by_depth[d] : 0;
    }
    if (set->n_depths < (int32_t) n)
        set->n_depths = (int32_t) n;
}

static void take_end(struct bench_set *set, struct bench_record *r, const struct stream *a)
{
    const Outrider__V1__SpeculationFigures *f = stream_speculation(a);
    r->finish = stream_end(a)->finish;
    r->passes = f->passes;
    r->drafted = f->drafted;
    r->accepted = f->accepted;
    r->preemptions = f->preemptions;
    r->synthetic = f->synthetic;
    if (r->state == BENCH_OK)
        add_depths(set, f);
}

/* gRPC's number for an answer that did not come whole. */
static int code_of(const struct flight *f, int st)
{
    if (st == ST_WIRE)
        return GRPC_INTERNAL;
    if (st < 0)
        return grpc_call_code(f->a.call);
    return stream_end(&f->a)->finish == OUTRIDER__V1__END__FINISH__DEADLINE ? GRPC_DEADLINE : GRPC_CANCELLED;
}

static void settle(struct bench_load *l, struct flight *f, int st, const struct err *e, int64_t at_ns)
{
    struct bench_record *r = f->r;
    r->end_ns = at_ns;
    r->state = st == 0 && stream_is_whole(&f->a) ? BENCH_OK : st == ST_AGAIN ? BENCH_CUT : BENCH_FAILED;
    if (r->state == BENCH_FAILED) {
        r->code = code_of(f, st);
        r->error = strdup(st ? e->text : "the server ended the answer early");
    }
    take_end(l->set, r, &f->a);
    stream_fini(&f->a);
    free(f);
    l->n_over++;
    l->c.progress->done++;
}

/* Hands out what the connection has read.  over: 1 cancels what still runs. */
static void drain(struct bench_load *l, struct link *k, int64_t now_ns, int over)
{
    int64_t at_ns = (k->stamp_ns ? k->stamp_ns : now_ns) - l->origin_ns;
    for (struct flight **at = &k->flying; *at;) {
        struct flight *f = *at;
        const Outrider__V1__Event *ev;
        struct err e;
        int st;
        while ((st = stream_next(&f->a, &ev, &e)) == 1)
            take_event(l, f->r, ev, at_ns);
        if (st == ST_AGAIN && !over) {
            at = &f->next;
            continue;
        }
        *at = f->next;
        settle(l, f, st, &e, at_ns);
    }
}

/* --- what goes --- */

/* A connection that broke, or that the server said goodbye on, is made anew.  One on which others still end is kept for them: a
 * request on it fails, and is counted so.  ST_UNAVAILABLE and its like: the server takes none. */
static int relink(struct bench_load *l, struct link *k)
{
    if (k->g && grpc_takes_calls(k->g))
        return 0;
    if (k->g && !grpc_events(k->g))
        drain(l, k, bench_now_ns(), 0); /* its calls are over, and say so */
    if (k->flying)
        return 0;
    grpc_close(k->g);
    k->g = NULL;
    int st = grpc_open(&k->g, l->c.server, GRPC_CONNECT_MS, &l->why);
    if (st)
        k->g = NULL;
    else
        grpc_no_wait(k->g);
    return st;
}

/* Sends the wave's next request on connection k. */
static void start(struct bench_load *l, struct link *k)
{
    struct flight *f = calloc(1, sizeof *f);
    if (!f) {
        stop(l, ST_NOMEM, "out of memory for a request");
        return;
    }
    l->st = relink(l, k);
    if (l->st) {
        free(f);
        return;
    }
    size_t i = l->n_started++;
    struct bench_record *r = f->r = &l->set->record[l->w->first + i];
    struct err e;
    r->index = l->w->base + l->w->first + i;
    r->hash = 0xCBF29CE484222325u; /* FNV-1a's offset basis */
    r->sent_ns = bench_now_ns() - l->origin_ns;
    r->due_ns = l->w->due_ns ? l->start_ns + l->w->due_ns[i] : r->sent_ns;
    int st = bench_source_send(l->c.source, r->index, l->w->speculation, l->w->max_tokens, k->g, &f->a, &e);
    if (st == 0) {
        f->next = k->flying;
        k->flying = f;
        return;
    }
    r->state = BENCH_FAILED;
    r->code = st == ST_UNAVAILABLE ? GRPC_UNAVAILABLE : GRPC_INTERNAL;
    r->error = strdup(e.text);
    r->end_ns = r->sent_ns;
    free(f);
    l->n_over++;
    l->c.progress->done++;
}

/* The connection that has fewest requests on it, so that one which waits does not hold up the next. */
static struct link *idlest(struct bench_load *l)
{
    struct link *best = NULL;
    size_t fewest = SIZE_MAX;
    for (size_t i = 0; i < l->c.n_connections && fewest; i++) {
        size_t n = 0;
        for (const struct flight *f = l->link[i].flying; f && n < fewest; f = f->next)
            n++;
        if (n < fewest) {
            fewest = n;
            best = &l->link[i];
        }
    }
    return best;
}

/* When the next request may go, on the set's clock: now, later, or not before another ends (INT64_MAX). */
static int64_t next_due(const struct bench_load *l)
{
    if (l->st || l->n_started == l->w->n)
        return INT64_MAX;
    if (l->w->due_ns)
        return l->start_ns + l->w->due_ns[l->n_started];
    return l->n_started - l->n_over < l->w->n_clients ? INT64_MIN : INT64_MAX;
}

static void send_due(struct bench_load *l)
{
    while (next_due(l) <= bench_now_ns() - l->origin_ns)
        start(l, idlest(l));
}

/* --- the loop --- */

static void show_progress(struct bench_load *l, int64_t now_ns)
{
    struct bench_progress *p = l->c.progress;
    if (!p->on || now_ns - p->shown_ns < TICK_NS)
        return;
    double s = (double) (now_ns - p->began_ns) / 1e9;
    p->shown_ns = now_ns;
    fprintf(stderr, "\r\x1b[K%s: %zu of %zu done, %zu running, %.1f tokens/s, %.0f s", p->label, p->done,
            p->total, l->n_started - l->n_over, s > 0 ? (double) p->n_tokens / s : 0, s);
    fflush(stderr);
}

/* Waits for bytes, the next due time or a tick. */
static int wait_ready(struct bench_load *l)
{
    size_t n = l->c.n_connections;
    for (size_t i = 0; i < n; i++) {
        const struct grpc *g = l->link[i].g;
        short events = g ? grpc_events(g) : 0;
        l->polls[i] = (struct pollfd){.fd = events ? grpc_fd(g) : -1, .events = events};
    }
    l->polls[n] = (struct pollfd){.fd = l->c.wake, .events = POLLIN};
    int64_t due = next_due(l), now = bench_now_ns() - l->origin_ns, wait = TICK_NS;
    if (due <= now)
        wait = 0;
    else if (due - now < wait)
        wait = due - now;
    return ppoll(l->polls, n + 1, &(struct timespec){.tv_nsec = wait}, NULL);
}

/* Reads what has come, and only then looks at it. */
static void receive(struct bench_load *l, int n_ready)
{
    for (size_t i = 0; i < l->c.n_connections; i++) {
        l->link[i].stamp_ns = 0;
        if (n_ready > 0 && l->polls[i].revents) {
            grpc_pump(l->link[i].g);
            l->link[i].stamp_ns = bench_now_ns();
        }
    }
    int64_t now = bench_now_ns();
    for (size_t i = 0; i < l->c.n_connections; i++) {
        struct link *k = &l->link[i];
        if (k->stamp_ns || l->c.deadline_ms || (k->g && !grpc_events(k->g)))
            drain(l, k, now, 0);
    }
}

static void cancel_all(struct bench_load *l)
{
    int64_t now = bench_now_ns();
    for (size_t i = 0; i < l->c.n_connections; i++)
        drain(l, &l->link[i], now, 1);
}

static void turn(struct bench_load *l)
{
    int n_ready = wait_ready(l);
    int64_t woke = bench_now_ns();
    receive(l, n_ready);
    if (n_ready > 0 && l->polls[l->c.n_connections].revents)
        stop(l, ST_AGAIN, "interrupted");
    if (l->st == ST_AGAIN || l->st == ST_NOMEM)
        cancel_all(l);
    else
        send_due(l);
    show_progress(l, woke);
    int64_t busy = bench_now_ns() - woke;
    l->client.busy_ns += busy;
    l->client.n_turns++;
    if (busy > l->client.turn_max_ns)
        l->client.turn_max_ns = busy;
}

int bench_load_wave(struct bench_load *l, const struct bench_wave *w, struct bench_set *set, struct err *e)
{
    l->w = w;
    l->set = set;
    l->n_started = l->n_over = 0;
    l->st = 0;
    l->start_ns = set->clock_ns;
    l->origin_ns = bench_now_ns() - l->start_ns;
    send_due(l);
    while (l->n_over < l->n_started || next_due(l) != INT64_MAX)
        turn(l);
    set->clock_ns = bench_now_ns() - l->origin_ns;
    if (l->st)
        *e = l->why;
    return l->st;
}

int bench_load_open(struct bench_load **out, const struct bench_load_config *c, struct err *e)
{
    struct bench_load *l = calloc(1, sizeof *l);
    int st = l ? 0 : ST_NOMEM;
    if (l) {
        l->c = *c;
        l->link = calloc(c->n_connections, sizeof *l->link);
        l->polls = calloc(c->n_connections + 1, sizeof *l->polls);
        st = l->link && l->polls ? 0 : ST_NOMEM;
    }
    if (st)
        err_set(e, st, "out of memory for %zu connections", c->n_connections);
    for (size_t i = 0; st == 0 && i < c->n_connections; i++) {
        st = relink(l, &l->link[i]);
        if (st)
            *e = l->why;
    }
    if (st) {
        bench_load_close(l);
        return st;
    }
    *out = l;
    return 0;
}

void bench_load_close(struct bench_load *l)
{
    if (!l)
        return;
    for (size_t i = 0; l->link && i < l->c.n_connections; i++)
        grpc_close(l->link[i].g);
    free(l->link);
    free(l->polls);
    free(l);
}

struct bench_client bench_load_take_client(struct bench_load *l)
{
    struct bench_client c = l->client;
    l->client = (struct bench_client){0};
    return c;
}
