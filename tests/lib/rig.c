/* rig.c - see rig.h. */
#include "tests/lib/rig.h"

#include "cpu/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WAIT_SECONDS = 120, MS = 1000000 };

struct small rig_small;

/* --- an engine and what came out of it --- */

static void wake(void *arg)
{
    struct rig *r = arg;
    sem_post(&r->woken);
}

struct engine_opts rig_opts(int sessions, int queue)
{
    return (struct engine_opts){
        .target = rig_small.model,
        .draft = rig_small.model,
        .vocab = SMALL_VOCAB,
        .closing_text = "closing",
        .target_quant = CPU_QUANT_F32,
        .draft_quant = CPU_QUANT_F32,
        .threads = 1,
        .isa = CPU_ISA_AUTO,
        .kv_type = CPU_KV_BF16,
        .kv_bytes = 32 << 20,
        .draft_kv_bytes = 32 << 20,
        .draft_context = SMALL_CTX,
        .draft_nodes = 8,
        .draft_depth = 6,
        .draft_top = 3,
        .sessions_max = sessions,
        .queue_max = queue,
        .rows_max = sessions > 64 ? sessions : 64,
        .prefix_cache = 1,
        .prompt_rows = 256}; /* whole prompts at once: who comes first is then no matter of the clock */
}

struct rig *rig_open(struct engine_opts o)
{
    struct rig *r = calloc(1, sizeof *r);
    struct err e;
    assert_non_null(r);
    sem_init(&r->woken, 0, 0);
    for (int i = 0; i < RIG_IDS; i++)
        r->seen[i].closed_at = -1;
    if (engine_open(&r->engine, &o, wake, r, &e))
        fail_msg("%s", e.text);
    return r;
}

void rig_close(struct rig *r)
{
    engine_close(r->engine);
    sem_destroy(&r->woken);
    free(r);
}

static void take(struct rig *r, struct engine_event *e)
{
    struct answer_seen *a = &r->seen[e->id + (uint64_t) e->choice];
    assert_int_equal(a->n_end, 0); /* END is the last */
    switch (e->kind) {
    case ENGINE_BEGIN:
        assert_int_equal(a->n_begin++ + a->n_tokens, 0); /* BEGIN is the first */
        break;
    case ENGINE_TOKENS:
        assert_int_equal(r->seen[e->id].n_begin, 1);
        assert_in_range(e->n, 1, SMALL_CTX - a->n);
        memcpy(a->tok + a->n, e->tok, (size_t) e->n * sizeof *e->tok);
        memcpy(a->phase + a->n, e->phase, (size_t) e->n);
        a->closed_at = e->closed_at >= 0 ? e->closed_at : a->closed_at;
        a->n += e->n;
        a->n_tokens++;
        break;
    default:
        assert_int_equal(e->kind, ENGINE_END);
        a->n_end = 1;
        a->last = e->last;
        a->finish = e->finish;
        a->status = e->status;
        a->matched = e->matched;
        a->order = r->n_ended++;
        a->figures = e->figures;
        memcpy(a->text, e->text, sizeof a->text);
    }
    engine_event_free(e);
}

static int sleep_until_woken(struct rig *r, int64_t ns)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    ns += until.tv_nsec;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    return sem_timedwait(&r->woken, &until);
}

void rig_take_tokens(struct rig *r, int id, int n)
{
    while (r->seen[id].n < n) {
        struct engine_event *e = engine_next(r->engine);
        if (e)
            take(r, e);
        else
            sleep_until_woken(r, INT64_C(10) * MS);
    }
}

void rig_take_all(struct rig *r)
{
    for (struct engine_event *e = engine_next(r->engine); e; e = engine_next(r->engine))
        take(r, e);
}

void rig_wait(struct rig *r)
{
    rig_take_all(r);
    if (sleep_until_woken(r, WAIT_SECONDS * INT64_C(1000000000)))
        fail_msg("no event in %d seconds", WAIT_SECONDS);
    rig_take_all(r);
}

/* What comes out of the engine within so many milliseconds. */
void rig_listen(struct rig *r, int ms)
{
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += ms / 1000;
    end.tv_nsec += ms % 1000 * MS;
    do {
        sleep_until_woken(r, 5 * MS);
        rig_take_all(r);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
}

/* --- requests --- */

int32_t *rig_copy(const int32_t *p, int n)
{
    int32_t *q = malloc((size_t) (n + 1) * sizeof *q);
    assert_non_null(q);
    if (n)
        memcpy(q, p, (size_t) n * sizeof *q);
    return q;
}

/* Prompts differ by id; half of them begin alike. */
struct engine_request *rig_request(int id, int n_prompt, int max_tokens)
{
    struct engine_request *q = engine_request_new();
    uint64_t seed = (uint64_t) id * 977 + 5;
    assert_non_null(q);
    q->id = (uint64_t) id;
    q->prompt = rig_copy(NULL, 0);
    q->prompt = realloc(q->prompt, (size_t) n_prompt * sizeof *q->prompt);
    assert_non_null(q->prompt);
    for (int i = 0; i < n_prompt; i++)
        q->prompt[i] = id % 2 && i < 100 ? i * 7 % SMALL_VOCAB : small_token(&seed);
    q->n_prompt = n_prompt;
    q->draw.temperature = id % 3 ? 1 : 0;
    q->draw.top_p = 1;
    q->draw.seed = (uint64_t) id;
    q->draw.max_tokens = max_tokens;
    return q;
}

void rig_start(struct rig *r, struct engine_request *q)
{
    assert_int_equal(engine_start(r->engine, q), 0);
}

/* The same request on an engine with nothing else to do and no draft. */
void rig_same_text(const struct rig *r, int id, struct engine_request *q)
{
    const struct answer_seen *got = &r->seen[id];
    struct engine_opts o = rig_opts(1, 1);
    o.draft = NULL;
    o.prefix_cache = 0;
    struct rig *quiet = rig_open(o);
    rig_start(quiet, q);
    RIG_UNTIL(quiet, quiet->seen[id].n_end);
    const struct answer_seen *want = &quiet->seen[id];
    assert_int_equal(got->n, want->n);
    assert_memory_equal(got->tok, want->tok, (size_t) want->n * sizeof *want->tok);
    assert_int_equal(got->finish, want->finish);
    assert_int_equal(got->figures.n_output, want->figures.n_output);
    rig_close(quiet);
}

/* An answer that ended by itself, with all its tokens. */
void rig_whole(const struct rig *r, int id, int n)
{
    const struct answer_seen *a = &r->seen[id];
    assert_int_equal(a->status, 0);
    assert_int_equal(a->finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(a->n, n);
    assert_int_equal(a->figures.n_output, n);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static double spent_in(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * MS};
    double before = cpu_seconds();
    nanosleep(&t, NULL);
    return cpu_seconds() - before;
}

/* No processor time goes by; threads of a library may spin a little longer after their last work. */
void rig_sleeps(void)
{
    for (int i = 0; i < 20; i++)
        if (spent_in(200) < 0.005)
            return;
    fail_msg("the engine keeps a processor busy with nothing to do");
}
