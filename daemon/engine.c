/* engine.c - thread: engine (and, where said, loop).  The thread that owns all sequences, behind two rings.
 *
 *     inbox -> sched -> round -> outbox
 *
 * Messages are read between rounds, so cancel and park act within one.  An event that finds the outbox full stays with its answer,
 * which is left out of rounds until it is sent: the others go on.  With nothing that can be done the thread sleeps on a semaphore,
 * which the loop posts for a message, and for the first event it takes from an outbox that was full.
 *
 * After a fatal status there are no more rounds: what runs or waits, and whatever was on its way, ends with that status. */
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

enum message_kind { MESSAGE_START, MESSAGE_CANCEL, MESSAGE_PARK, MESSAGE_UNPARK, MESSAGE_CLOSE };

struct message {
    int kind;
    uint64_t id;
    int32_t choice;        /* -1: all of id */
    struct answer *answer; /* owns; MESSAGE_START: the answers to one request, linked by `next` */
};

struct engine {
    struct round *round; /* owns */
    struct sched sched;
    struct ring inbox, outbox;
    sem_t awake;
    pthread_t thread;
    int started;
    int waiting_over; /* 1: some that wait may have to end */
    engine_wake_fn wake;
    void *wake_arg;
    struct engine_info info;
    _Atomic int n_live;  /* answers taken and not ended */
    _Atomic int stop;    /* 1: close */
    _Atomic int failed;  /* 0, or the fatal status */
    _Atomic int crowded; /* 1: an event waits for room in the outbox */
    pthread_mutex_t told_lock;
    struct engine_stats told; /* what engine_stats gives */
    struct plan planned;      /* likewise; its sessions are not to be read */
};

/* --- outbox --- */

static int post_event(struct engine *e, struct engine_event *ev)
{
    int st = ring_push(&e->outbox, ev);
    if (st == ST_AGAIN) {
        atomic_store(&e->crowded, 1);
        st = ring_push(&e->outbox, ev); /* room made before the note was left wakes nobody */
    }
    if (st == 1)
        e->wake(e->wake_arg);
    return st < 0 ? st : 0;
}

/* Moves ev to the loop.  ST_AGAIN: no room; it waits with its answer, and the engine will be woken when there is some. */
static int push(struct engine *e, struct answer *a, struct engine_event *ev)
{
    int end = ev->kind == ENGINE_END,
        begin = ev->kind == ENGINE_BEGIN; /* once it has left, ev is the loop's */
    ev->last = end && a->family->n_open == 1;
    int st = post_event(e, ev);
    a->unsent = st ? ev : NULL;
    a->family->n_open -= end && !st;
    a->family->begun |= begin && !st;
    return st;
}

static void flush(struct engine *e)
{
    for (int i = 0; i < e->sched.n_active; i++) {
        struct answer *a = e->sched.active[i];
        if (a->unsent)
            push(e, a, a->unsent);
    }
}

/* --- the end of an answer --- */

static int wants_end(const struct answer *a)
{
    return answer_is_over(a) && !a->unsent && !a->ending;
}

/* Before its END leaves: who has seen that may start another at once. */
static void leave(struct engine *e)
{
    atomic_fetch_sub(&e->n_live, 1);
}

static struct engine_event *make_end(struct engine *e, struct answer *a)
{
    a->ending = 1;
    leave(e);
    return answer_end(a, a->failed);
}

/* Ends what has ended, and lets go of those whose END has left.  Returns how many went. */
static int reap(struct engine *e)
{
    int gone = 0;
    for (int i = 0; i < e->sched.n_active; i++) {
        struct answer *a = e->sched.active[i];
        if (wants_end(a))
            push(e, a, make_end(e, a));
        if (!a->ending || a->unsent)
            continue;
        sched_retire(&e->sched, a);
        answer_free(a);
        i--;
        gone++;
    }
    return gone;
}

/* Those who were cancelled before it was their turn, or whose turn will never come.  A full outbox leaves them for the next time. */
static void reap_waiting(struct engine *e)
{
    struct answer *next;
    for (struct answer *a = e->waiting_over ? e->sched.first : NULL; a; a = next) {
        next = a->next;
        a->failed = a->cancelled ? 0 : atomic_load(&e->failed);
        if (wants_end(a))
            a->unsent = make_end(e, a);
        if (!a->unsent)
            continue;
        if (push(e, a, a->unsent))
            return;
        sched_unlist(&e->sched, a);
        answer_free(a);
    }
    e->waiting_over = atomic_load(&e->failed) != 0;
}

/* --- inbox --- */

static void command(struct engine *e, struct answer *a, int kind)
{
    if (kind == MESSAGE_CANCEL)
        a->cancelled = e->waiting_over = 1;
    else if (kind == MESSAGE_CLOSE)
        a->close = a->state.phase == DRAW_THINKING;
    else
        a->parked = kind == MESSAGE_PARK;
}

static void on_message(struct engine *e, struct message *m)
{
    struct answer *next;
    for (struct answer *a = m->answer; a; a = next) {
        next = a->next;
        sched_add(&e->sched, a);
    }
    const struct answer *found = m->answer ? NULL : sched_find(&e->sched, m->id);
    const struct family *f = found ? found->family : NULL;
    for (int i = 0; f && i < ENGINE_CHOICES_MAX; i++)
        if (f->member[i] && (m->choice < 0 || m->choice == i))
            command(e, f->member[i], m->kind);
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
        if (st || a->family->admitted)
            continue;
        struct engine_event *ev = answer_begin(a);
        a->failed = ev ? 0 : ST_NOMEM;
        a->family->admitted = ev != NULL;
        if (ev)
            push(e, a, ev);
    }
}

/* --- the thread --- */

static int has_work(const struct engine *e)
{
    const struct sched *s = &e->sched;
    for (int i = 0; i < s->n_active; i++)
        if (wants_end(s->active[i]))
            return 1;
    return !atomic_load(&e->failed) && (sched_can_run(s) || sched_can_admit(s));
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

static void fail(struct engine *e, int st)
{
    log_error("the engine stops: %s", status_text(st));
    atomic_store(&e->failed, st);
    for (int i = 0; i < e->sched.n_active; i++)
        if (!answer_is_over(e->sched.active[i]))
            e->sched.active[i]->failed = st;
    e->waiting_over = 1;
    reap_waiting(e);
}

/* Thinking that has taken too long, or of which the client has had enough. */
static void close_thinking(struct engine *e)
{
    uint64_t now = answer_clock_ns();
    for (int i = 0; i < e->sched.n_active; i++) {
        struct answer *a = e->sched.active[i];
        if (!a->seq || a->unsent || answer_is_over(a) || !answer_must_close(a, now))
            continue;
        struct engine_event *ev = answer_close(a);
        a->failed = ev ? round_text_grew(e->round, a) : ST_NOMEM;
        if (ev)
            push(e, a, ev);
    }
}

static void advance(struct engine *e)
{
    do
        admit(e);
    while (reap(e));
    close_thinking(e);
    int st = sched_round(&e->sched);
    if (st)
        fail(e, st);
    else
        send_round(e);
}

_Static_assert((int) ENGINE_REASONS == (int) PLAN_REASONS, "a figure for each reason");

static void describe_drafting(const struct plan *p, struct engine_drafting *d)
{
    static const int32_t rows[ENGINE_COSTS] = {1, 2, 4, 8, 16, 32, 64};
    d->by_cost = p->by_cost;
    memcpy(d->rows, rows, sizeof rows);
    for (int i = 0; i < ENGINE_COSTS; i++) {
        d->target_ms[i] = cost_at(&p->target, rows[i]) / 1e6;
        d->level_ms[i] = cost_at(&p->level, rows[i]) / 1e6;
    }
    for (int i = 0; i < ENGINE_REASONS; i++)
        d->rounds[i] = p->figures.rounds[i];
    d->overhead_ms = p->overhead_ns[0] / 1e6;
    d->speedup = p->speedup;
    d->probes = p->figures.probes;
    d->levels = p->figures.levels;
    plan_say(p, d->why, sizeof d->why);
}

/* What engine_stats gives from now on. */
static void tell_stats(struct engine *e)
{
    struct engine_stats now = {0}, *s = &now;
    const struct round_figures *f = round_figures(e->round);
    struct round_pages p;
    round_pages(e->round, &p);
    sched_describe(&e->sched, s);
    s->pages_free = p.free - p.cached;
    s->pages_cached = p.cached;
    s->pages_used = p.in_all - p.free;
    s->passes = f->passes;
    s->rows = f->tree_rows + f->prompt_rows;
    s->prompt_rows = f->prompt_rows;
    s->preemptions = f->preemptions;
    memcpy(s->drafted, f->drafted, sizeof s->drafted);
    memcpy(s->accepted, f->accepted, sizeof s->accepted);
    memcpy(s->drafted_at, f->drafted_at, sizeof s->drafted_at);
    memcpy(s->accepted_at, f->accepted_at, sizeof s->accepted_at);
    pthread_mutex_lock(&e->told_lock);
    e->told = *s;
    e->planned = *round_plan(e->round);
    pthread_mutex_unlock(&e->told_lock);
}

void engine_stats(struct engine *e, struct engine_stats *out)
{
    pthread_mutex_lock(&e->told_lock);
    *out = e->told;
    struct plan p = e->planned;
    pthread_mutex_unlock(&e->told_lock);
    describe_drafting(&p, &out->drafting);
}

/* 1: it used the time, and may have more to measure. */
static int measures(struct engine *e)
{
    int st = atomic_load(&e->failed) ? 0 : round_measure(e->round);
    if (st < 0)
        fail(e, st);
    return st > 0;
}

static void *run(void *arg)
{
    struct engine *e = arg;
    round_settle(e->round);
    while (!atomic_load(&e->stop)) {
        if (!has_work(e) && !measures(e))
            while (sem_wait(&e->awake)) /* EINTR */
                ;
        drain_inbox(e);
        flush(e);
        reap_waiting(e);
        if (!atomic_load(&e->failed))
            advance(e);
        reap(e);
        tell_stats(e);
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
    pthread_mutex_init(&e->told_lock, NULL);
    int st = round_open(&e->round, o, err);
    uint32_t in = (uint32_t) (o->sessions_max + o->queue_max) * 4 + INBOX_SPARE;
    if (!st && (sched_init(&e->sched, e->round, o) || ring_init(&e->inbox, in) ||
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
        if (m->answer)
            engine_request_free(answer_undo(m->answer));
        free(m);
    }
    struct engine_event *ev;
    while (e->outbox.slot && (ev = ring_pop(&e->outbox)))
        engine_event_free(ev);
    sched_fini(&e->sched);
    round_close(e->round);
    ring_fini(&e->inbox);
    ring_fini(&e->outbox);
    sem_destroy(&e->awake);
    pthread_mutex_destroy(&e->told_lock);
    free(e);
}

void engine_describe(const struct engine *e, struct engine_info *out)
{
    *out = e->info;
}

static int post(struct engine *e, int kind, uint64_t id, int32_t choice, struct answer *a)
{
    struct message *m = malloc(sizeof *m);
    if (!m)
        return ST_NOMEM;
    *m = (struct message){kind, id, choice, a};
    int st = ring_push(&e->inbox, m);
    if (st == ST_AGAIN)
        free(m);
    else if (st == 1)
        sem_post(&e->awake);
    return st < 0 ? st : 0;
}

int engine_start(struct engine *e, struct engine_request *r)
{
    if (atomic_load(&e->failed))
        return ST_UNAVAILABLE;
    if (r->n < 1 || r->n > ENGINE_CHOICES_MAX || (r->n > 1 && r->n_resume))
        return ST_INPUT;
    if (atomic_load(&e->n_live) + r->n > e->info.sessions_max + e->info.queue_max)
        return ST_LIMIT;
    struct answer *a = answer_new(r);
    if (!a)
        return ST_NOMEM;
    atomic_fetch_add(&e->n_live, r->n);
    int st = post(e, MESSAGE_START, r->id, -1, a);
    if (st) {
        atomic_fetch_sub(&e->n_live, r->n);
        answer_undo(a);
    }
    return st == ST_AGAIN ? ST_LIMIT : st;
}

int engine_cancel(struct engine *e, uint64_t id)
{
    return post(e, MESSAGE_CANCEL, id, -1, NULL);
}

int engine_cancel_choice(struct engine *e, uint64_t id, int32_t choice)
{
    return post(e, MESSAGE_CANCEL, id, choice, NULL);
}

int engine_close_thinking(struct engine *e, uint64_t id)
{
    return post(e, MESSAGE_CLOSE, id, -1, NULL);
}

int engine_park(struct engine *e, uint64_t id)
{
    return post(e, MESSAGE_PARK, id, -1, NULL);
}

int engine_unpark(struct engine *e, uint64_t id)
{
    return post(e, MESSAGE_UNPARK, id, -1, NULL);
}

struct engine_event *engine_next(struct engine *e)
{
    struct engine_event *ev = ring_pop(&e->outbox);
    if (ev && atomic_load(&e->crowded) && atomic_exchange(&e->crowded, 0))
        sem_post(&e->awake);
    return ev;
}
