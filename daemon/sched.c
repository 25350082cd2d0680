/* sched.c - thread: engine.  See sched.h. */
#include "daemon/sched.h"

#include <stdlib.h>
#include <string.h>

int sched_init(struct sched *s, struct round *r, int sessions_max)
{
    size_t n = (size_t) sessions_max;
    *s = (struct sched){.round = r, .sessions_max = sessions_max};
    s->last = &s->first;
    s->active = calloc(n, sizeof *s->active);
    s->chosen = calloc(n, sizeof *s->chosen);
    s->event = calloc(n, sizeof *s->event);
    s->status = calloc(n, sizeof *s->status);
    return s->active && s->chosen && s->event && s->status ? 0 : ST_NOMEM;
}

void sched_fini(struct sched *s)
{
    while (s->n_active > 0) {
        struct answer *a = s->active[0];
        sched_retire(s, a);
        answer_free(a);
    }
    while (s->first) {
        struct answer *a = s->first;
        s->first = a->next;
        answer_free(a);
    }
    free(s->active);
    free(s->chosen);
    free(s->event);
    free(s->status);
}

void sched_add(struct sched *s, struct answer *a)
{
    a->next = NULL;
    *s->last = a;
    s->last = &a->next;
}

void sched_unlist(struct sched *s, struct answer *a)
{
    struct answer **at = &s->first;
    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    if (!a->next)
        s->last = at;
}

struct answer *sched_find(struct sched *s, uint64_t id)
{
    for (int i = 0; i < s->n_active; i++)
        if (s->active[i]->req->id == id)
            return s->active[i];
    for (struct answer *a = s->first; a; a = a->next)
        if (a->req->id == id)
            return a;
    return NULL;
}

/* Takes part in rounds, or will once its last event has left; it may have to be given its pages back first. */
static int goes_on(const struct answer *a)
{
    return a->seq && !a->parked && !answer_is_over(a);
}

static int is_running(const struct answer *a)
{
    return goes_on(a) && !a->evicted;
}

/* The oldest of those who gave way; NULL: none. */
static struct answer *oldest_evicted(const struct sched *s)
{
    for (int i = 0; i < s->n_active; i++)
        if (s->active[i]->evicted && goes_on(s->active[i]))
            return s->active[i];
    return NULL;
}

int sched_can_admit(const struct sched *s)
{
    return s->first && !s->first->ending && s->n_active < s->sessions_max && !oldest_evicted(s);
}

struct answer *sched_admit(struct sched *s, int *st)
{
    struct answer *a = s->first;
    if (!sched_can_admit(s))
        return NULL;
    sched_unlist(s, a);
    a->admitted_ns = answer_clock_ns();
    *st = round_admit(s->round, a);
    s->active[s->n_active++] = a;
    return a;
}

void sched_retire(struct sched *s, struct answer *a)
{
    int i = 0;
    while (s->active[i] != a)
        i++;
    s->n_active--;
    memmove(s->active + i, s->active + i + 1, (size_t) (s->n_active - i) * sizeof *s->active);
    round_dismiss(s->round, a);
}

/* --- pages --- */

/* The oldest that runs, though its last event may not have left yet; NULL: none. */
static struct answer *oldest_running(const struct sched *s)
{
    for (int i = 0; i < s->n_active; i++)
        if (is_running(s->active[i]))
            return s->active[i];
    return NULL;
}

/* The youngest that holds pages, of those that are parked or of the others; NULL: nobody but `spare`. */
static struct answer *holder(const struct sched *s, int parked, const struct answer *spare)
{
    for (int i = s->n_active - 1; i >= 0; i--) {
        struct answer *a = s->active[i];
        if (a != spare && a->seq && !a->evicted && a->parked == parked)
            return a;
    }
    return NULL;
}

static int32_t pages_free(const struct sched *s)
{
    struct round_pages p;
    round_pages(s->round, &p);
    return p.free;
}

/* What its whole text and a tree behind it take. */
static int32_t pages_needed(const struct sched *s, const struct answer *a)
{
    struct round_pages p;
    round_pages(s->round, &p);
    return (a->n_text + TREE_MAX) / p.page + 1;
}

/* What all that are parked hold. */
static int32_t pages_parked(const struct sched *s)
{
    int32_t n = 0;
    for (int i = 0; i < s->n_active; i++)
        if (s->active[i]->parked)
            n += round_holds(s->round, s->active[i]);
    return n;
}

/* 1: a, which gave way, may come back: nobody runs, or it fits beside those that do, in what is free and what parked ones hold.
 * claimed: pages that others, back just now, are still to take. */
static int may_return(const struct sched *s, const struct answer *a, int32_t claimed)
{
    return !oldest_running(s) || pages_needed(s, a) <= pages_free(s) + pages_parked(s) - claimed;
}

/* Those who gave way come back, oldest first. */
static int readmit(struct sched *s)
{
    struct answer *a, *parked;
    int32_t claimed = 0;
    int st = 0;
    while (!st && (a = oldest_evicted(s)) && may_return(s, a, claimed)) {
        int32_t need = pages_needed(s, a);
        while (oldest_running(s) && pages_free(s) < claimed + need && (parked = holder(s, 1, a)))
            round_evict(s->round, parked);
        st = round_readmit(s->round, a);
        claimed += need - round_holds(s->round, a);
    }
    return st;
}

/* --- the round --- */

static int is_ready(const struct answer *a)
{
    return is_running(a) && !a->unsent;
}

int sched_can_run(const struct sched *s)
{
    const struct answer *a = oldest_evicted(s);
    for (int i = 0; i < s->n_active; i++)
        if (is_ready(s->active[i]))
            return 1;
    return a && may_return(s, a, 0);
}

static void choose(struct sched *s)
{
    s->n_chosen = 0;
    for (int i = 0; i < s->n_active; i++)
        if (is_ready(s->active[i]))
            s->chosen[s->n_chosen++] = s->active[i];
}

/* Takes the pages of the youngest that holds any, of one that is parked before all others; never those of the oldest that
 * runs.  0: nobody else holds any. */
static int make_room(struct sched *s)
{
    const struct answer *oldest = oldest_running(s);
    struct answer *v = holder(s, 1, oldest);
    v = v ? v : holder(s, 0, oldest);
    if (v)
        round_evict(s->round, v);
    return v != NULL;
}

int sched_round(struct sched *s)
{
    int st = readmit(s);
    if (st)
        return st;
    do {
        int which = 0;
        choose(s);
        if (s->n_chosen == 0)
            return 0;
        st = round_run(s->round, s->chosen, s->n_chosen, s->event, s->status, &which);
    } while (st == ST_AGAIN && make_room(s));
    return st == ST_AGAIN ? ST_FATAL : st; /* one sequence fits: target_open made sure */
}
