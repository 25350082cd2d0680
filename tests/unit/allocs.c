/* allocs.c - memory in the engine thread: between admission and the end nothing is allocated but the events that leave, and memory
 * that runs out at any point ends answers with a sentence, never the process, and never without their END.
 *
 * The program is linked with --wrap=malloc and its kin (Makefile), so every allocation of the engine passes here; those of libraries
 * do not. */
#include "core/log.h"
#include "cpu/cpu.h"
#include "daemon/engine.h"
#include "tests/lib/small.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WAIT_SECONDS = 120, N = 3 };

/* --- the wrapper --- */

static pthread_t loop_thread;
static _Atomic int n_allocs;  /* made by other threads than the test's own */
static _Atomic int fail_at;   /* the one that fails; 0: none */
static _Atomic int fail_rest; /* 1: and all after it */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **out, size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);

static int fails(void)
{
    if (pthread_equal(pthread_self(), loop_thread))
        return 0;
    int i = atomic_fetch_add(&n_allocs, 1) + 1, at = atomic_load(&fail_at);
    return at && (i == at || (i > at && atomic_load(&fail_rest)));
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

int __wrap_posix_memalign(void **out, size_t align, size_t n)
{
    return fails() ? ENOMEM : __real_posix_memalign(out, align, n);
}

/* --- an engine --- */

static struct small small;

struct rig {
    struct engine *engine;
    sem_t woken;
    int n_tokens, n_ended, n_failed; /* events; answers that ended; those with ERROR */
};

static void wake(void *arg)
{
    struct rig *r = arg;
    sem_post(&r->woken);
}

static void rig_open(struct rig *r)
{
    struct engine_opts o = {.target = small.model,
                            .draft = small.model,
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
                            .sessions_max = N,
                            .queue_max = 10,
                            .rows_max = 64,
                            .prefix_cache = 1,
                            .hash_rows = 1};
    struct err e;
    *r = (struct rig){0};
    sem_init(&r->woken, 0, 0);
    if (engine_open(&r->engine, &o, wake, r, &e))
        fail_msg("%s", e.text);
}

static void rig_close(struct rig *r)
{
    engine_close(r->engine);
    sem_destroy(&r->woken);
}

static int start(struct rig *r, int id, int n_prompt, int max_tokens)
{
    struct engine_request *q = engine_request_new();
    uint64_t seed = (uint64_t) id + 1;
    assert_non_null(q);
    q->id = (uint64_t) id;
    q->prompt = malloc((size_t) n_prompt * sizeof *q->prompt);
    assert_non_null(q->prompt);
    for (int i = 0; i < n_prompt; i++)
        q->prompt[i] = small_token(&seed);
    q->n_prompt = n_prompt;
    q->draw.top_p = 1;
    q->draw.temperature = (float) (id % 2);
    q->draw.max_tokens = max_tokens;
    int st = engine_start(r->engine, q);
    if (st)
        engine_request_free(q);
    return st;
}

static void take(struct rig *r, struct engine_event *e)
{
    r->n_tokens += e->kind == ENGINE_TOKENS;
    if (e->kind == ENGINE_END) {
        r->n_ended++;
        r->n_failed += e->finish == ENGINE_FINISH_ERROR;
        assert_int_equal(e->status, e->finish == ENGINE_FINISH_ERROR ? ST_NOMEM : 0);
        assert_string_equal(e->text, e->status ? "out of memory" : "");
    }
    engine_event_free(e);
}

static void until_ended(struct rig *r, int n)
{
    while (r->n_ended < n) {
        struct engine_event *e = engine_next(r->engine);
        struct timespec until;
        if (e) {
            take(r, e);
            continue;
        }
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += WAIT_SECONDS;
        if (sem_timedwait(&r->woken, &until))
            fail_msg("an answer ended without its END, or not at all");
    }
}

static int setup(void **state)
{
    (void) state;
    loop_thread = pthread_self();
    log_set_level(LOG_ERROR - 1); /* the engine stops very often here */
    small_open(&small, 4);
    return 0;
}

static int teardown(void **state)
{
    (void) state;
    small_close(&small);
    return 0;
}

/* --- tests --- */

/* Allocations of one answer, but for those of its events: event, ids, phases and hashes of each TOKENS, and its BEGIN. */
static int allocs_of(struct rig *r, int id, int n_prompt, int max_tokens)
{
    int before = atomic_load(&n_allocs), tokens = r->n_tokens, ended = r->n_ended;
    assert_int_equal(start(r, id, n_prompt, max_tokens), 0);
    until_ended(r, ended + 1);
    return atomic_load(&n_allocs) - before - 4 * (r->n_tokens - tokens) - 1;
}

static void rounds_allocate_their_events_only(void **state)
{
    struct rig r;
    (void) state;
    rig_open(&r);
    allocs_of(&r, 1, 300, 200); /* working memory of the passes grows to what they need */
    int admission = allocs_of(&r, 1, 20, 5);
    assert_in_range(admission, 1, 10);
    assert_int_equal(allocs_of(&r, 2, 20, 450), admission); /* however long it is, */
    assert_int_equal(allocs_of(&r, 3, 300, 5), admission);  /* and however much it reads */
    assert_int_equal(allocs_of(&r, 4, 1, 1), admission);
    rig_close(&r);
}

/* One allocation fails, or all from one on. */
static void run_without(int at, int rest, int *failed)
{
    struct rig r;
    rig_open(&r);
    atomic_store(&n_allocs, 0);
    atomic_store(&fail_rest, rest);
    atomic_store(&fail_at, at);
    int started = 0;
    for (int i = 0; i < N + 2; i++)
        started += start(&r, i, 30 + 50 * i, 20) == 0;
    assert_in_range(started, 1, N + 2);
    until_ended(&r, started);
    int st = start(&r, 99, 10, 5);
    assert_true(st == 0 || st == ST_UNAVAILABLE);
    if (st == 0)
        until_ended(&r, started + 1);
    *failed = r.n_failed;
    rig_close(&r);
    atomic_store(&fail_at, 0);
}

static void memory_that_runs_out_ends_answers(void **state)
{
    int spoiled = 0, failed;
    (void) state;
    for (int rest = 0; rest < 2; rest++)
        for (int at = 1; at < 150; at += at < 60 ? 1 : 7) {
            run_without(at, rest, &failed);
            if (rest)
                assert_in_range(failed, 1, N + 3);
            spoiled += failed > 0;
        }
    print_message("answers failed in %d runs\n", spoiled);
    assert_in_range(spoiled, 100, 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rounds_allocate_their_events_only),
                                       cmocka_unit_test(memory_that_runs_out_ends_answers)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
