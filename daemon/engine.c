/* engine.c - thread: engine (and, where said, loop).  The thread that owns all sequences, behind two rings.
 *
 *     inbox -> sched -> round -> outbox
 *
 * Messages are read between rounds, so cancel and park act within one.  An event that finds the outbox full stays with its answer,
 * which is left out of rounds until it is sent: the engine never waits.  With nothing to do the thread sleeps on a semaphore. */
#include "daemon/engine.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/ring.h"
#include "daemon/sched.h"

enum { INBOX_SPARE = 1024, OUTBOX_PER_SESSION = 16 };

enum message_kind { MESSAGE_START, MESSAGE_CANCEL, MESSAGE_PARK, MESSAGE_UNPARK };

struct message {
    int kind;
    uint64_t id;
    struct engine_request *req; /* owns; MESSAGE_START */
};

struct engine {
    struct round *round; /* owns */
    struct sched sched;
    struct ring inbox, outbox;
    sem_t awake;
    pthread_t thread;
    int started;
    engine_wake_fn wake;
    void *wake_arg;
    struct engine_info info;
    _Atomic int n_live; /* answers taken and not ended */
    _Atomic int stop;   /* 1: close; 2: the engine failed */
};

/* --- outbox --- */

static void push(struct engine *e, struct answer *a, struct engine_event *ev)
{
    int st = ring_push(&e->outbox, ev);
    if (st == ST_AGAIN)
        a->unsent = ev;
    else if (st == 1)
        e->wake(e->wake_arg);
}

static void flush(struct engine *e)
{
    for (int i = 0; i < e->sched.n_active; i++) {
        struct answer *a = e->sched.active[i];
        struct engine_event *ev = a->unsent;
        a->unsent = NULL;
        if (ev)
            push(e, a, ev);
    }
}

/* --- the end of an answer --- */

static int wants_end(const struct answer *a)
{
    return !a->unsent && !a->ending && (a->cancelled || a->state.done || a->failed);
}

static void finish(struct engine *e, struct answer *a)
{
    struct engine_event *ev = answer_end(a, a->failed);
    a->ending = 1;
    if (ev)
        push(e, a, ev);
    else
        log_error("out of memory: an answer ends without its last event");
}

/* Ends what has ended, and lets go of those whose END has left.  Returns how many went. */
static int reap(struct engine *e)
{
    int gone = 0;
    for (int i = 0; i < e->sched.n_active; i++) {
        struct answer *a = e->sched.active[i];
        if (wants_end(a))
            finish(e, a);
        if (!a->ending || a->unsent)
            continue;
        sched_retire(&e->sched, a);
        answer_free(a);
        atomic_fetch_sub(&e->n_live, 1);
        i--;
        gone++;
    }
    return gone;
}

/* Those who were cancelled before it was their turn.  A full outbox leaves them for the next time. */
static void reap_waiting(struct engine *e)
{
    struct answer *next;
    for (struct answer *a = e->sched.first; a; a = next) {
        next = a->next;
        struct engine_event *ev = a->cancelled ? answer_end(a, 0) : NULL;
        if (!ev)
            continue;
        int st = ring_push(&e->outbox, ev);
        if (st == ST_AGAIN) {
            engine_event_free(ev);
            return;
        }
        if (st == 1)
            e->wake(e->wake_arg);
        sched_unlist(&e->sched, a);
        answer_free(a);
        atomic_fetch_sub(&e->n_live, 1);
    }
}

/* --- inbox --- */

static void on_start(struct engine *e, struct engine_request *req)
{
    struct answer *a = answer_new(req);
    if (a) {
        sched_add(&e->sched, a);
        return;
    }
    log_error("out of memory: a request of %d tokens is dropped", req->n_prompt);
    struct engine_event *ev = calloc(1, sizeof *ev);
    if (ev) {
        *ev = (struct engine_event){.id = req->id,
                                    .kind = ENGINE_END,
                                    .finish = ENGINE_FINISH_ERROR,
                                    .status = ST_NOMEM,
                                    .matched = -1};
        memcpy(ev->text, "out of memory", sizeof "out of memory");
        if (ring_push(&e->outbox, ev) == 1)
            e->wake(e->wake_arg);
    }
    engine_request_free(req);
    atomic_fetch_sub(&e->n_live, 1);
}

static void on_message(struct engine *e, struct message *m)
{
    struct answer *a = m->kind == MESSAGE_START ? NULL : sched_find(&e->sched, m->id);
    if (m->kind == MESSAGE_START)
        on_start(e, m->req);
    else if (a && m->kind == MESSAGE_CANCEL)
        a->cancelled = 1;
    else if (a)
        a->parked = m->kind == MESSAGE_PARK;
    free(m);
}

static void drain_inbox(struct engine *e)
{
    struct message *m;
    while ((m = ring_pop(&e->inbox)))
        on_message(e, m);
}

static void admit(struct engine *e)
{
    struct answer *a;
    int st = 0;
    while ((a = sched_admit(&e->sched, &st))) {
        a->failed = st;
        struct engine_event *ev = st ? NULL : answer_begin(a);
        if (ev)
            push(e, a, ev);
    }
}

/* --- the thread --- */

static int has_work(const struct engine *e)
{
    const struct sched *s = &e->sched;
    for (int i = 0; i < s->n_active; i++) {
        const struct answer *a = s->active[i];
        if (!a->parked || a->unsent || a->cancelled || a->state.done || a->failed)
            return 1;
    }
    return s->first && s->n_active < s->sessions_max;
}

static void send_round(struct engine *e)
{
    struct sched *s = &e->sched;
    for (int i = 0; i < s->n_chosen; i++) {
        s->chosen[i]->failed = s->status[i];
        if (s->event[i])
            push(e, s->chosen[i], s->event[i]);
    }
    s->n_chosen = 0;
}

static int step(struct engine *e)
{
    drain_inbox(e);
    flush(e);
    reap_waiting(e);
    do
        admit(e);
    while (reap(e));
    int st = sched_round(&e->sched);
    if (!st)
        send_round(e);
    reap(e);
    return st;
}

/* A fatal status: everybody's answer ends with it, and nothing more is taken. */
static void fail_all(struct engine *e, int st)
{
    log_error("the engine stops: %s", status_text(st));
    atomic_store(&e->stop, 2);
    drain_inbox(e);
    for (struct answer *a = e->sched.first; a; a = e->sched.first) {
        struct engine_event *ev = answer_end(a, st);
        sched_unlist(&e->sched, a);
        if (ev && ring_push(&e->outbox, ev) == ST_AGAIN)
            engine_event_free(ev);
        answer_free(a);
    }
    for (int i = 0; i < e->sched.n_active; i++)
        e->sched.active[i]->failed = st;
    reap(e);
    e->wake(e->wake_arg);
}

static void *run(void *arg)
{
    struct engine *e = arg;
    while (!atomic_load(&e->stop)) {
        if (!has_work(e))
            while (sem_wait(&e->awake)) /* EINTR */
                ;
        int st = step(e);
        if (st)
            fail_all(e, st);
    }
    return NULL;
}

/* --- thread: loop --- */

int engine_open(struct engine **out, const struct engine_opts *o, engine_wake_fn wake, void *arg,
                struct err *err)
{
    *out = NULL;
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(err, ST_NOMEM, "out of memory opening the engine");
    e->wake = wake;
    e->wake_arg = arg;
    sem_init(&e->awake, 0, 0);
    int st = round_open(&e->round, o, err);
    uint32_t in = (uint32_t) (o->sessions_max + o->queue_max) * 4 + INBOX_SPARE;
    if (!st && (sched_init(&e->sched, e->round, o->sessions_max) || ring_init(&e->inbox, in) ||
                ring_init(&e->outbox, (uint32_t) o->sessions_max * OUTBOX_PER_SESSION)))
        st = err_set(err, ST_NOMEM, "out of memory for %d sessions", o->sessions_max);
    if (!st) {
        round_describe(e->round, &e->info);
        e->started = pthread_create(&e->thread, NULL, run, e) == 0;
        if (!e->started)
            st = err_set(err, ST_NOMEM, "the engine's thread cannot be started");
    }
    if (st) {
        engine_close(e);
        return st;
    }
    *out = e;
    return 0;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    if (e->started) {
        atomic_store(&e->stop, 1);
        sem_post(&e->awake);
        pthread_join(e->thread, NULL);
    }
    struct message *m;
    while (e->inbox.slot && (m = ring_pop(&e->inbox))) {
        engine_request_free(m->req);
        free(m);
    }
    struct engine_event *ev;
    while (e->outbox.slot && (ev = ring_pop(&e->outbox)))
        engine_event_free(ev);
    if (e->sched.active)
        sched_fini(&e->sched);
    round_close(e->round);
    ring_fini(&e->inbox);
    ring_fini(&e->outbox);
    sem_destroy(&e->awake);
    free(e);
}

void engine_describe(const struct engine *e, struct engine_info *out)
{
    *out = e->info;
}

static int post(struct engine *e, int kind, uint64_t id, struct engine_request *req)
{
    struct message *m = malloc(sizeof *m);
    if (!m)
        return ST_NOMEM;
    *m = (struct message){kind, id, req};
    int st = ring_push(&e->inbox, m);
    if (st == ST_AGAIN)
        free(m);
    else if (st == 1)
        sem_post(&e->awake);
    return st < 0 ? st : 0;
}

int engine_start(struct engine *e, struct engine_request *r)
{
    if (atomic_load(&e->stop))
        return ST_UNAVAILABLE;
    if (atomic_load(&e->n_live) >= e->info.sessions_max + e->info.queue_max)
        return ST_LIMIT;
    atomic_fetch_add(&e->n_live, 1);
    int st = post(e, MESSAGE_START, r->id, r);
    if (st)
        atomic_fetch_sub(&e->n_live, 1);
    return st;
}

int engine_cancel(struct engine *e, uint64_t id)
{
    return post(e, MESSAGE_CANCEL, id, NULL);
}

int engine_park(struct engine *e, uint64_t id)
{
    return post(e, MESSAGE_PARK, id, NULL);
}

int engine_unpark(struct engine *e, uint64_t id)
{
    return post(e, MESSAGE_UNPARK, id, NULL);
}

struct engine_event *engine_next(struct engine *e)
{
    return ring_pop(&e->outbox);
}
