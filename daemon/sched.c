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

int sched_is_ready(const struct answer *a)
{
    return a->seq && !a->parked && !a->unsent && !answer_is_over(a);
}

int sched_can_admit(const struct sched *s)
{
    for (int i = 0; i < s->n_active; i++)
        if (s->active[i]->evicted && sched_is_ready(s->active[i]))
            return 0;
    return s->first && !s->first->ending && s->n_active < s->sessions_max;
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

static struct answer *victim(const struct sched *s, const struct answer *spare)
{
    struct answer *a = holder(s, 1, spare);
    return a ? a : holder(s, 0, spare);
}

static int32_t pages_left(const struct sched *s, int32_t reserved)
{
    struct round_pages p;
    round_pages(s->round, &p);
    return p.free - reserved;
}

static int32_t pages_needed(const struct sched *s, const struct answer *a)
{
    struct round_pages p;
    round_pages(s->round, &p);
    return (a->n_text + TREE_MAX) / p.page + 1;
}

static int n_running(const struct sched *s)
{
    int n = 0;
    for (int i = 0; i < s->n_active; i++)
        n += sched_is_ready(s->active[i]) && !s->active[i]->evicted;
    return n;
}

/* Those who gave way come back, oldest first, where their whole text fits beside those that run, or when nobody else runs. */
static int readmit(struct sched *s)
{
    int32_t reserved = 0;
    int running = n_running(s), st = 0;
    for (int i = 0; i < s->n_active && !st; i++) {
        struct answer *a = s->active[i], *parked;
        if (!a->evicted || !sched_is_ready(a))
            continue;
        int32_t need = pages_needed(s, a);
        while (need > pages_left(s, reserved) && (parked = holder(s, 1, a)))
            round_evict(s->round, parked);
        if (running && need > pages_left(s, reserved))
            break;
        st = round_readmit(s->round, a);
        reserved += need;
        running++;
    }
    return st;
}

/* --- the round --- */

static void choose(struct sched *s)
{
    s->n_chosen = 0;
    for (int i = 0; i < s->n_active; i++)
        if (sched_is_ready(s->active[i]) && !s->active[i]->evicted)
            s->chosen[s->n_chosen++] = s->active[i];
}

int sched_round(struct sched *s)
{
    int st = readmit(s);
    if (st)
        return st;
    for (;;) {
        int which = 0;
        choose(s);
        if (s->n_chosen == 0)
            return 0;
        st = round_run(s->round, s->chosen, s->n_chosen, s->event, s->status, &which);
        if (st != ST_AGAIN)
            return st;
        struct answer *v = victim(s, s->chosen[0]); /* the oldest always goes on */
        if (!v)
            return ST_FATAL; /* one sequence fits: target_open made sure */
        round_evict(s->round, v);
    }
}
