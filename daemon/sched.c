/* sched.c - thread: engine.  See sched.h. */
#include "daemon/sched.h"

#include <stdlib.h>
#include <string.h>

static const int64_t AGE_NS = 250000000; /* of waiting count as one step of priority: nobody waits for ever */

int sched_init(struct sched *s, struct round *r, const struct engine_opts *o)
{
    size_t n = (size_t) o->sessions_max;
    *s = (struct sched){.round = r,
                        .sessions_max = o->sessions_max,
                        .prompt_rows = o->prompt_rows,
                        .evict_every = o->evict_every};
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

/* --- admission --- */

/* Another of its family is admitted, and not far enough for this one to begin with what it has. */
static int waits_for_family(const struct answer *a)
{
    const struct family *f = a->family;
    int reading = 0;
    if (f->admitted && !f->begun)
        return 1;
    for (int i = 0; i < ENGINE_CHOICES_MAX; i++) {
        const struct answer *other = f->member[i];
        if (!other || !other->seq || other->evicted || answer_is_over(other))
            continue;
        if (round_has_prompt(other))
            return 0;
        reading = 1;
    }
    return reading;
}

static int running_of(const struct sched *s, uint64_t client)
{
    int n = 0;
    for (int i = 0; i < s->n_active; i++)
        n += s->active[i]->req->client == client;
    return n;
}

static int64_t rank(const struct answer *a, uint64_t now)
{
    return a->req->priority + (int64_t) (now - a->req->received_ns) / AGE_NS;
}

/* Whose turn it is; NULL: nobody's. */
static struct answer *next_waiting(const struct sched *s)
{
    uint64_t now = answer_clock_ns();
    struct answer *best = NULL;
    for (struct answer *a = s->first; a; a = a->next) {
        if (a->ending || waits_for_family(a))
            continue;
        int64_t lead = best ? rank(a, now) - rank(best, now) : 1;
        if (lead > 0 || (lead == 0 && a->req->client != best->req->client &&
                         running_of(s, a->req->client) < running_of(s, best->req->client)))
            best = a;
    }
    return best;
}

int sched_can_admit(const struct sched *s)
{
    return s->first && s->n_active < s->sessions_max && !oldest_evicted(s) && next_waiting(s);
}

/* Behind those of its own priority. */
static void activate(struct sched *s, struct answer *a)
{
    int i = s->n_active++;
    for (; i > 0 && s->active[i - 1]->req->priority < a->req->priority; i--)
        s->active[i] = s->active[i - 1];
    s->active[i] = a;
}

struct answer *sched_admit(struct sched *s, int *st)
{
    struct answer *a = sched_can_admit(s) ? next_waiting(s) : NULL;
    if (!a)
        return NULL;
    sched_unlist(s, a);
    a->admitted_ns = answer_clock_ns();
    *st = round_admit(s->round, a);
    activate(s, a);
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

/* Who gives its pages first: for what is over they do nothing any more. */
enum claim { CLAIM_OVER, CLAIM_PARKED, CLAIM_RUNS, CLAIMS };

static enum claim claim_of(const struct answer *a)
{
    return answer_is_over(a) ? CLAIM_OVER : a->parked ? CLAIM_PARKED : CLAIM_RUNS;
}

/* The youngest that holds pages by such a claim; NULL: nobody but `spare`. */
static struct answer *holder(const struct sched *s, enum claim claim, const struct answer *spare)
{
    for (int i = s->n_active - 1; i >= 0; i--) {
        struct answer *a = s->active[i];
        if (a != spare && a->seq && !a->evicted && claim_of(a) == claim)
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
        while (oldest_running(s) && pages_free(s) < claimed + need && (parked = holder(s, CLAIM_PARKED, a)))
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

/* Those that run take part; returns how many. */
static int choose_running(struct sched *s)
{
    s->n_chosen = 0;
    for (int i = 0; i < s->n_active; i++)
        if (is_ready(s->active[i]) && round_unread(s->active[i]) == 0)
            s->chosen[s->n_chosen++] = s->active[i];
    return s->n_chosen;
}

static int is_reader(const struct answer *a)
{
    return is_ready(a) && round_unread(a) > 0;
}

/* Gives a rows to read, at most what it needs; returns what is left. */
static int32_t grant(struct sched *s, struct answer *a, int32_t rows, int32_t left)
{
    int32_t need = round_unread(a);
    a->rows = need < rows ? need : rows;
    if (a->rows)
        s->chosen[s->n_chosen++] = a;
    return left - a->rows;
}

/* Half of the rows for the one with the least left, the rest in the order of the list. */
static int32_t choose_readers(struct sched *s, int32_t rows)
{
    struct answer *least = NULL;
    int32_t left = rows;
    for (int i = 0; i < s->n_active; i++)
        if (is_reader(s->active[i]) && (!least || round_unread(s->active[i]) < round_unread(least)))
            least = s->active[i];
    if (least)
        left = grant(s, least, (rows + 1) / 2, left);
    for (int i = 0; i < s->n_active && left > 0; i++)
        if (s->active[i] != least && is_reader(s->active[i]))
            left = grant(s, s->active[i], left, left);
    if (least && left > 0) { /* nobody else wants them */
        int32_t more = round_unread(least) - least->rows;
        more = more < left ? more : left;
        least->rows += more;
        left -= more;
    }
    return rows - left;
}

static int count_readers(const struct sched *s)
{
    int n = 0;
    for (int i = 0; i < s->n_active; i++)
        n += is_reader(s->active[i]);
    return n;
}

/* Fills s->chosen.  *running: how many of them run; returns the prompt rows beside them. */
static int32_t choose(struct sched *s, int *running)
{
    int32_t rows = ROUND_PROMPT_ROWS;
    int readers = count_readers(s);
    *running = choose_running(s);
    if (*running && readers)
        rows = s->prompt_rows ? s->prompt_rows : pace_rows(&s->pace, readers, *running, ROUND_PROMPT_ROWS);
    round_pace_draft(s->round, rows);
    return choose_readers(s, rows);
}

/* Takes the pages of the youngest that holds any, of one that is over or parked before all others; never those of the oldest
 * that runs.  0: nobody else holds any. */
static int make_room(struct sched *s)
{
    const struct answer *oldest = oldest_running(s);
    struct answer *v = NULL;
    for (enum claim c = CLAIM_OVER; !v && c < CLAIMS; c++)
        v = holder(s, c, oldest);
    if (v)
        round_evict(s->round, v);
    return v != NULL;
}

/* engine_opts.evict_every. */
static void evict_for_a_test(struct sched *s)
{
    if (!s->evict_every || ++s->n_rounds % s->evict_every || !s->n_active)
        return;
    struct answer *a = s->active[s->n_rounds / s->evict_every % s->n_active];
    if (is_running(a))
        round_evict(s->round, a);
}

int sched_round(struct sched *s)
{
    evict_for_a_test(s);
    int running, which, st = readmit(s);
    int32_t rows;
    uint64_t start;
    if (st)
        return st;
    do {
        rows = choose(s, &running);
        start = answer_clock_ns();
        if (s->n_chosen == 0)
            return 0;
        st = round_run(s->round, s->chosen, s->n_chosen, s->event, s->status, &which);
    } while (st == ST_AGAIN && make_room(s));
    if (!st && running)
        pace_note(&s->pace, rows, answer_clock_ns() - start);
    return st == ST_AGAIN ? ST_FATAL : st; /* one sequence fits: target_open made sure */
}

void sched_describe(const struct sched *s, struct engine_stats *out)
{
    out->running = s->n_active;
    out->reading = out->parked = out->evicted = out->waiting = 0;
    for (int i = 0; i < s->n_active; i++) {
        const struct answer *a = s->active[i];
        out->reading += a->seq && round_unread(a) > 0;
        out->parked += a->parked != 0;
        out->evicted += a->evicted != 0;
    }
    for (const struct answer *a = s->first; a; a = a->next)
        out->waiting++;
}
