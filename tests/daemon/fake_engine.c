/* fake_engine.c - daemon/engine.h without a model: echoes the prompt, over and over, at a settable pace.
 *
 * Output token k of answer i is prompt[(k + i) mod n]; budget, stops and lengths are those of draw/ (draw_forced, draw_step), so
 * thinking, eos and resume behave as with a real engine.  One thread owns the answers; a mutex stands where the real one has rings.
 *
 * Environment: FAKE_ROUND_US microseconds a round (default 500), FAKE_BURST tokens a round and answer (default 2),
 * FAKE_PREFILL_MS before an answer begins (default 0), FAKE_FAIL_AT fails every answer after so many tokens (default: never),
 * FAKE_CTX the context's size (default 4096), FAKE_OPEN_MS how long engine_open takes, which then says "opening" (default 0). */
#include "daemon/engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct request {
    struct engine_request *req; /* owns */
    int n_left;                 /* answers that have not ended */
    int n_kept;                 /* answers that are still there */
    int began;
};

struct answer {
    struct answer *next;
    struct request *of; /* shared; the last answer frees it */
    int choice;
    struct draw_state state;
    int active, parked, cancelled, close;
    uint64_t admitted_ns, first_ns;
    struct engine_figures figures;
};

struct pending {
    struct pending *next;
    struct engine_event *event; /* owns */
};

struct engine {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int stop;
    struct answer *answers; /* all taken, oldest first */
    struct pending *out_first, **out_last;
    int n_answers, n_active;
    int64_t n_rounds;
    engine_wake_fn wake;
    void *wake_arg;
    struct engine_info info;
    int round_us, burst, prefill_ms, fail_at, fail_status;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

static int setting(const char *name, int otherwise)
{
    const char *s = getenv(name);
    return s ? atoi(s) : otherwise;
}

static void emit(struct engine *e, struct engine_event *ev)
{
    struct pending *p = calloc(1, sizeof *p);
    if (!p)
        abort();
    p->event = ev;
    int was_empty = e->out_first == NULL;
    *e->out_last = p;
    e->out_last = &p->next;
    if (was_empty)
        e->wake(e->wake_arg);
}

static struct engine_event *event_new(const struct answer *a, int kind)
{
    struct engine_event *ev = calloc(1, sizeof *ev);
    if (!ev)
        abort();
    ev->id = a->of->req->id;
    ev->kind = kind;
    ev->choice = a->choice;
    ev->matched = -1;
    ev->closed_at = -1;
    ev->figures = a->figures;
    return ev;
}

static void end(struct engine *e, struct answer *a, int finish)
{
    struct engine_event *ev = event_new(a, ENGINE_END);
    ev->finish = finish;
    ev->last = --a->of->n_left == 0;
    ev->matched = a->state.matched;
    if (finish == ENGINE_FINISH_ERROR) {
        ev->status = e->fail_status;
        snprintf(ev->text, sizeof ev->text, "%s", status_text(e->fail_status));
    }
    ev->figures.n_output = a->state.n_output;
    ev->figures.n_thinking = a->state.n_thinking;
    ev->figures.cut = a->state.cut;
    ev->figures.decode_ns = a->first_ns ? now_ns() - a->first_ns : 0;
    emit(e, ev);
}

/* 1: the clock or the client closes the thinking now. */
static int closes(struct answer *a)
{
    const struct engine_request *r = a->of->req;
    uint64_t after = r->thinking_deadline_ns;
    int due = a->close || (after && now_ns() - r->received_ns >= after);
    a->close = 0;
    return due && a->state.closed_at < 0 && draw_close(&r->draw, &a->state);
}

/* A burst of tokens; 1: the answer is over. */
static int speak(struct engine *e, struct answer *a)
{
    const struct draw_params *d = &a->of->req->draw;
    struct engine_event *ev = event_new(a, ENGINE_TOKENS);
    ev->tok = calloc((size_t) e->burst, sizeof *ev->tok);
    ev->phase = calloc((size_t) e->burst, 1);
    if (!ev->tok || !ev->phase)
        abort();
    int closed = closes(a);
    while (ev->n < e->burst && !a->state.done && a->state.n_output != e->fail_at) {
        int32_t tok;
        if (!draw_forced(d, &a->state, &tok))
            tok = a->of->req->prompt[(a->state.n_output + a->of->req->draw.choice + a->choice) %
                                     a->of->req->n_prompt];
        ev->phase[ev->n] = a->state.phase;
        ev->tok[ev->n++] = tok;
        draw_step(d, &a->state, tok);
    }
    ev->closed_at = closed ? a->state.closed_at : -1;
    if (!a->first_ns) {
        a->first_ns = now_ns();
        a->figures.first_token_ns = a->first_ns - a->of->req->received_ns;
    }
    if (ev->n) {
        a->figures.passes++;
        a->figures.drafted += ev->n;
        a->figures.accepted += ev->n - 1;
        a->figures.drafted_at[0] += ev->n;
        a->figures.accepted_at[0] += ev->n - 1;
    }
    if (ev->n)
        emit(e, ev);
    else
        engine_event_free(ev);
    if (a->state.n_output == e->fail_at)
        end(e, a, ENGINE_FINISH_ERROR);
    else if (a->state.done)
        end(e, a, a->state.done == DRAW_STOP ? ENGINE_FINISH_STOP : ENGINE_FINISH_LENGTH);
    return a->state.done || a->state.n_output == e->fail_at;
}

static int step(struct engine *e, struct answer *a)
{
    if (a->cancelled) {
        end(e, a, ENGINE_FINISH_CANCELLED);
        return 1;
    }
    if (!a->active && e->n_active < e->info.sessions_max) {
        a->active = 1;
        e->n_active++;
        a->admitted_ns = now_ns();
        a->figures.queue_ns = a->admitted_ns - a->of->req->received_ns;
    }
    if (!a->active || a->parked || now_ns() - a->admitted_ns < (uint64_t) e->prefill_ms * 1000000u)
        return 0;
    if (!a->of->began) {
        a->of->began = 1;
        emit(e, event_new(a, ENGINE_BEGIN));
        return 0;
    }
    return speak(e, a);
}

static void drop(struct engine *e, struct answer **at)
{
    struct answer *a = *at;
    *at = a->next;
    e->n_answers--;
    e->n_active -= a->active;
    if (--a->of->n_kept == 0) {
        engine_request_free(a->of->req);
        free(a->of);
    }
    free(a);
}

static int has_work(const struct engine *e)
{
    for (const struct answer *a = e->answers; a; a = a->next)
        if (!a->parked || a->cancelled)
            return 1;
    return 0;
}

static void *run(void *arg)
{
    struct engine *e = arg;
    struct timespec pause = {e->round_us / 1000000, e->round_us % 1000000 * 1000L};
    pthread_mutex_lock(&e->mutex);
    while (!e->stop) {
        if (!has_work(e)) {
            pthread_cond_wait(&e->changed, &e->mutex);
            continue;
        }
        e->n_rounds++;
        for (struct answer **at = &e->answers; *at;)
            if (step(e, *at))
                drop(e, at);
            else
                at = &(*at)->next;
        pthread_mutex_unlock(&e->mutex);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&e->mutex);
    }
    pthread_mutex_unlock(&e->mutex);
    return NULL;
}

int engine_open(struct engine **out, const struct engine_opts *o, engine_wake_fn wake, void *arg,
                struct err *err)
{
    struct engine *e = calloc(1, sizeof *e);
    *out = NULL;
    if (!e)
        return err_set(err, ST_NOMEM, "out of memory");
    int open_ms = setting("FAKE_OPEN_MS", 0);
    if (open_ms) {
        fprintf(stderr, "opening\n");
        nanosleep(&(struct timespec){open_ms / 1000, open_ms % 1000 * 1000000L}, NULL);
    }
    e->wake = wake;
    e->wake_arg = arg;
    e->out_last = &e->out_first;
    e->round_us = setting("FAKE_ROUND_US", 500);
    e->burst = setting("FAKE_BURST", 2);
    e->prefill_ms = setting("FAKE_PREFILL_MS", 0);
    e->fail_at = setting("FAKE_FAIL_AT", -1);
    e->fail_status = setting("FAKE_FAIL_STATUS", ST_NONFINITE);
    e->info = (struct engine_info){.ctx_max = o->ctx_max ? o->ctx_max : setting("FAKE_CTX", 4096),
                                   .vocab = o->vocab,
                                   .sessions_max = o->sessions_max,
                                   .queue_max = o->queue_max};
    snprintf(e->info.fingerprint, sizeof e->info.fingerprint, "fake-1");
    snprintf(e->info.device, sizeof e->info.device, "fake");
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->changed, NULL);
    if (pthread_create(&e->thread, NULL, run, e)) {
        free(e);
        return err_set(err, ST_NOMEM, "no thread");
    }
    *out = e;
    return 0;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    pthread_mutex_lock(&e->mutex);
    e->stop = 1;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->mutex);
    pthread_join(e->thread, NULL);
    while (e->answers)
        drop(e, &e->answers);
    for (struct engine_event *ev; (ev = engine_next(e));)
        engine_event_free(ev);
    pthread_mutex_destroy(&e->mutex);
    pthread_cond_destroy(&e->changed);
    free(e);
}

void engine_describe(const struct engine *e, struct engine_info *out)
{
    *out = e->info;
}

/* One of a request's answers, at the end of the list. */
static void add(struct engine *e, struct answer *a, struct request *of, int choice)
{
    const struct engine_request *r = of->req;
    struct answer **last = &e->answers;
    a->of = of;
    a->choice = choice;
    a->figures.n_prompt = r->n_prompt;
    draw_start(&r->draw, r->prompt, r->n_prompt, &a->state);
    for (int32_t i = 0; i < r->n_resume; i++) {
        if (i == r->closed_at)
            draw_close(&r->draw, &a->state);
        draw_step(&r->draw, &a->state, r->resume[i]);
    }
    while (*last)
        last = &(*last)->next;
    *last = a;
    e->n_answers++;
}

int engine_start(struct engine *e, struct engine_request *r)
{
    struct request *of = calloc(1, sizeof *of);
    if (!of)
        abort();
    *of = (struct request){.req = r, .n_left = r->n, .n_kept = r->n};
    pthread_mutex_lock(&e->mutex);
    int full = e->n_answers + r->n > e->info.sessions_max + e->info.queue_max;
    for (int i = 0; !full && i < r->n; i++) {
        struct answer *a = calloc(1, sizeof *a);
        if (!a)
            abort();
        add(e, a, of, i);
    }
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->mutex);
    if (full)
        free(of);
    return full ? ST_LIMIT : 0;
}

enum change { CANCEL, CLOSE, PARK, UNPARK };

/* choice: -1: all. */
static int change(struct engine *e, uint64_t id, int choice, enum change what)
{
    pthread_mutex_lock(&e->mutex);
    for (struct answer *a = e->answers; a; a = a->next)
        if (a->of->req->id == id && (choice < 0 || a->choice == choice)) {
            a->cancelled |= what == CANCEL;
            a->close |= what == CLOSE;
            if (what >= PARK)
                a->parked = what == PARK;
        }
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->mutex);
    return 0;
}

int engine_cancel(struct engine *e, uint64_t id)
{
    return change(e, id, -1, CANCEL);
}

int engine_cancel_choice(struct engine *e, uint64_t id, int32_t choice)
{
    return change(e, id, choice, CANCEL);
}

int engine_close_thinking(struct engine *e, uint64_t id)
{
    return change(e, id, -1, CLOSE);
}

void engine_stats(struct engine *e, struct engine_stats *out)
{
    *out = (struct engine_stats){.pages_free = 7, .pages_used = 3};
    pthread_mutex_lock(&e->mutex);
    out->running = e->n_active;
    out->waiting = e->n_answers - e->n_active;
    for (const struct answer *a = e->answers; a; a = a->next)
        out->parked += a->parked;
    out->passes = out->rows = e->n_rounds;
    pthread_mutex_unlock(&e->mutex);
}

int engine_park(struct engine *e, uint64_t id)
{
    return change(e, id, -1, PARK);
}

int engine_unpark(struct engine *e, uint64_t id)
{
    return change(e, id, -1, UNPARK);
}

struct engine_event *engine_next(struct engine *e)
{
    pthread_mutex_lock(&e->mutex);
    struct pending *p = e->out_first;
    struct engine_event *ev = p ? p->event : NULL;
    if (p) {
        e->out_first = p->next;
        if (!p->next)
            e->out_last = &e->out_first;
    }
    pthread_mutex_unlock(&e->mutex);
    free(p);
    return ev;
}
