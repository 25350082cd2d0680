/* engine.c - daemon/engine.h through the real engine on a small random model: cancel, park, limits, bad requests, a
 * full outbox, and the ends.  The test's own thread is the loop.
 *
 * What an answer says is fixed by its request, so every answer here is compared with the one a quiet engine gave. */
#include "daemon/engine.h"

#include "core/tree.h"
#include "cpu/cpu.h"
#include "tests/lib/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EOS = 60, MS = 1000000 };

static int setup(void **state)
{
    (void) state;
    small_open(&rig_small, 4);
    return 0;
}

static int teardown(void **state)
{
    (void) state;
    small_close(&rig_small);
    return 0;
}

/* --- life and limits --- */

static void describes_itself(void **state)
{
    struct rig *r = rig_open(rig_opts(3, 5));
    struct engine_info i;
    (void) state;
    engine_describe(r->engine, &i);
    assert_int_equal(i.ctx_max, SMALL_CTX);
    assert_int_equal(i.vocab, SMALL_VOCAB);
    assert_int_equal(i.sessions_max, 3);
    assert_int_equal(i.queue_max, 5);
    assert_int_equal(i.has_draft, 1);
    assert_true(*i.fingerprint && *i.device);
    rig_close(r);
    engine_close(NULL);
}

static void refuses_options(void **state)
{
    struct engine *e;
    struct err err;
    (void) state;
#define REFUSED(change, st, words)                                                                           \
    do {                                                                                                     \
        struct engine_opts o = rig_opts(4, 4);                                                               \
        change;                                                                                              \
        assert_int_equal(engine_open(&e, &o, NULL, NULL, &err), st);                                         \
        assert_null(e);                                                                                      \
        assert_non_null(strstr(err.text, words));                                                            \
    } while (0)
    REFUSED(o.rows_max = 3, ST_INPUT, "--max-rows 3 must be at least --max-sessions 4");
    REFUSED(o.sessions_max = 0, ST_INPUT, "--max-sessions");
    REFUSED(o.kv_bytes = 1, ST_LIMIT, "--kv-bytes");
    REFUSED(o.draft_kv_bytes = 1, ST_LIMIT, "--draft-kv-bytes");
    REFUSED(o.draft_context = 5, ST_INPUT, "--draft-context");
    REFUSED(o.vocab = SMALL_VOCAB + 10, ST_INPUT, "vocabulary");
}

static void refuses_what_is_over_the_queue(void **state)
{
    struct rig *r = rig_open(rig_opts(2, 3));
    struct engine_request *over = rig_request(9, 10, 5);
    (void) state;
    for (int i = 0; i < 5; i++)
        rig_start(r, rig_request(i, 10, 400));
    assert_int_equal(engine_start(r->engine, over), ST_LIMIT); /* it stays the caller's */
    engine_cancel(r->engine, 1);
    RIG_UNTIL(r, r->seen[1].n_end);
    rig_start(r, over);
    RIG_UNTIL(r, r->n_ended == 6);
    rig_whole(r, 9, 5);
    rig_close(r);
}

/* Who has seen an END may start another at once. */
static void a_place_is_free_with_the_end(void **state)
{
    struct rig *r = rig_open(rig_opts(1, 0));
    (void) state;
    for (int i = 0; i < 300; i++) {
        rig_start(r, rig_request(i, 1, 1));
        while (!r->seen[i].n_end) /* without sleeping: as early as can be */
            rig_take_all(r);
    }
    rig_close(r);
}

static void closes_with_answers_running(void **state)
{
    (void) state;
    for (int wait = 0; wait < 4; wait++) {
        struct rig *r = rig_open(rig_opts(3, 20));
        for (int i = 0; i < 12; i++)
            rig_start(r, rig_request(i, 200, 300));
        if (wait)
            RIG_UNTIL(r, r->seen[0].n_tokens >= wait);
        if (wait == 2) {
            engine_park(r->engine, 1);
            engine_cancel(r->engine, 2);
        }
        rig_close(r);
    }
    rig_close(rig_open(rig_opts(3, 20)));
}

/* --- cancelling --- */

static void cancels_anywhere(void **state)
{
    struct rig *r = rig_open(rig_opts(2, 10));
    (void) state;
    for (int i = 0; i < 5; i++)
        rig_start(r, rig_request(i, 20, 400));
    engine_cancel(r->engine, 4); /* waiting */
    RIG_UNTIL(r, r->seen[4].n_end);
    assert_int_equal(r->seen[4].n_begin + r->seen[4].n_tokens, 0);
    assert_int_equal(r->seen[4].finish, ENGINE_FINISH_CANCELLED);
    assert_int_equal(r->seen[4].figures.n_output, 0);
    RIG_UNTIL(r, r->seen[0].n_tokens >= 2);
    engine_cancel(r->engine, 0); /* running, and twice */
    engine_cancel(r->engine, 0);
    engine_cancel(r->engine, 77); /* unknown */
    engine_park(r->engine, 78);
    engine_unpark(r->engine, 79);
    RIG_UNTIL(r, r->seen[0].n_end);
    assert_int_equal(r->seen[0].finish, ENGINE_FINISH_CANCELLED);
    assert_int_equal(r->seen[0].status, 0);
    assert_int_equal(r->seen[0].figures.n_output, r->seen[0].n);
    assert_in_range(r->seen[0].n, 2, 399);
    engine_park(r->engine, 1); /* parked */
    engine_cancel(r->engine, 1);
    RIG_UNTIL(r, r->seen[1].n_end);
    assert_int_equal(r->seen[1].finish, ENGINE_FINISH_CANCELLED);
    RIG_UNTIL(r, r->n_ended == 5);
    rig_whole(r, 2, 400);
    rig_whole(r, 3, 400);
    engine_cancel(r->engine, 2); /* long gone */
    rig_listen(r, 20);
    rig_same_text(r, 2, rig_request(2, 20, 400));
    rig_close(r);
}

/* --- parking --- */

static void a_parked_answer_is_silent(void **state)
{
    struct rig *r = rig_open(rig_opts(2, 10));
    (void) state;
    rig_start(r, rig_request(0, 30, 300));
    RIG_UNTIL(r, r->seen[0].n_tokens >= 2);
    engine_park(r->engine, 0);
    engine_park(r->engine, 0);
    rig_start(r, rig_request(1, 30, 40)); /* once it has begun, the park has been read */
    RIG_UNTIL(r, r->seen[1].n_begin);
    int heard = r->seen[0].n;
    RIG_UNTIL(r, r->seen[1].n_end);
    rig_listen(r, 50);
    assert_int_equal(r->seen[0].n, heard);
    assert_in_range(heard, 2, 299);
    rig_whole(r, 1, 40);
    engine_unpark(r->engine, 0);
    RIG_UNTIL(r, r->seen[0].n_end);
    rig_whole(r, 0, 300);
    rig_same_text(r, 0, rig_request(0, 30, 300));
    rig_close(r);
}

static void one_may_be_parked_while_it_waits(void **state)
{
    struct rig *r = rig_open(rig_opts(1, 10));
    (void) state;
    rig_start(r, rig_request(0, 30, 60));
    rig_start(r, rig_request(1, 30, 40));
    engine_park(r->engine, 1);
    RIG_UNTIL(r, r->seen[0].n_end);
    rig_listen(r, 30);
    assert_int_equal(r->seen[1].n_tokens, 0);
    engine_unpark(r->engine, 1);
    RIG_UNTIL(r, r->seen[1].n_end);
    rig_whole(r, 1, 40);
    rig_close(r);
}

/* --- figures --- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

static void figures_add_up(void **state)
{
    struct rig *r = rig_open(rig_opts(1, 10));
    (void) state;
    for (int i = 1; i <= 3; i += 2) { /* the second begins like the first */
        struct engine_request *q = rig_request(i, 150, 60);
        q->received_ns = now_ns();
        rig_start(r, q);
    }
    RIG_UNTIL(r, r->n_ended == 2);
    for (int i = 1; i <= 3; i += 2) {
        const struct engine_figures *f = &r->seen[i].figures;
        int drafted = 0, accepted = 0;
        for (int d = 0; d < ENGINE_DEPTH_MAX; d++) {
            drafted += f->drafted_at[d];
            accepted += f->accepted_at[d];
            assert_true(f->accepted_at[d] <= f->drafted_at[d]);
        }
        assert_int_equal(f->n_prompt, 150);
        assert_int_equal(f->n_cached, i == 1 ? 0 : 64);
        assert_int_equal(f->n_output, 60);
        assert_int_equal(f->drafted, drafted);
        assert_int_equal(f->accepted, accepted);
        assert_int_equal(f->passes + f->accepted, 60); /* a pass gives what was accepted and one more */
        assert_int_equal(f->passes, r->seen[i].n_tokens);
        assert_true(f->prefill_ns > 0 && f->decode_ns > 0 && f->queue_ns > 0);
        assert_true(f->first_token_ns > f->queue_ns + f->prefill_ns);
        assert_true(f->first_token_ns < f->queue_ns + f->prefill_ns + f->decode_ns);
        assert_int_equal(f->preempted + f->cut + f->n_thinking, 0);
    }
    assert_true(r->seen[3].figures.queue_ns >
                r->seen[1].figures.decode_ns / 2); /* it had to wait for the first */
    rig_close(r);
}

/* --- nothing to do --- */

static void sleeps_when_nothing_can_be_done(void **state)
{
    struct rig *r = rig_open(rig_opts(2, 10));
    (void) state;
    rig_sleeps();
    rig_start(r, rig_request(0, 30, 400));
    rig_start(r, rig_request(1, 30, 400));
    RIG_UNTIL(r, r->seen[1].n_tokens >= 1);
    engine_park(r->engine, 0);
    engine_park(r->engine, 1);
    rig_listen(r, 30);
    rig_sleeps();
    engine_unpark(r->engine, 0);
    engine_unpark(r->engine, 1);
    rig_sleeps(); /* nobody listens: the outbox is full */
    assert_int_equal(r->n_ended, 0);
    engine_cancel(r->engine, 1); /* its END has to wait, too */
    rig_sleeps();
    RIG_UNTIL(r, r->n_ended == 2); /* and all goes on when somebody does */
    rig_whole(r, 0, 400);
    rig_same_text(r, 0, rig_request(0, 30, 400));
    rig_close(r);
}

/* Waiting ones that are cancelled while the outbox is full hear of it once there is room, in place or as their turn comes. */
static void a_full_outbox_loses_no_end(void **state)
{
    (void) state;
    for (int all = 0; all < 2; all++) {
        struct rig *r = rig_open(rig_opts(1, 40));
        for (int i = 0; i < 40; i++)
            rig_start(r, rig_request(i, 10, 300));
        rig_sleeps();
        for (int i = !all; i < 40; i++)
            engine_cancel(r->engine, (uint64_t) i);
        rig_sleeps();
        engine_park(r->engine, 0);
        RIG_UNTIL(r, r->n_ended >= 39 + all);
        for (int i = !all; i < 40; i++)
            assert_int_equal(r->seen[i].finish, ENGINE_FINISH_CANCELLED);
        engine_unpark(r->engine, 0);
        RIG_UNTIL(r, r->n_ended == 40);
        if (!all)
            rig_whole(r, 0, 300);
        rig_start(r, rig_request(50, 10, 5));
        RIG_UNTIL(r, r->seen[50].n_end);
        rig_close(r);
    }
}

/* --- requests at the edge --- */

static void short_and_long_ones(void **state)
{
    static const struct {
        int n_prompt, max_tokens;
    } known[] = {{1, 1},   {1, 2},  {1, SMALL_CTX - 1},    {SMALL_CTX - 1, 1}, {SMALL_CTX - 5, 5}, {64, 1},
                 {65, 64}, {63, 2}, {128, SMALL_CTX - 128}};
    (void) state;
    for (int nodes = 0; nodes <= 64; nodes += 16) {
        struct rig *r = rig_open(rig_opts(4, 20));
        for (int i = 0; i < 9; i++) {
            struct engine_request *q = rig_request(i, known[i].n_prompt, known[i].max_tokens);
            q->spec = nodes ? ENGINE_SPEC_NODES : ENGINE_SPEC_OFF;
            q->spec_nodes = nodes;
            q->spec_depth = 20;
            rig_start(r, q);
        }
        RIG_UNTIL(r, r->n_ended == 9);
        for (int i = 0; i < 9; i++) {
            rig_whole(r, i, known[i].max_tokens);
            if (nodes == 64)
                rig_same_text(r, i, rig_request(i, known[i].n_prompt, known[i].max_tokens));
        }
        rig_close(r);
    }
}

static void check_error(const struct rig *r, int id, int status)
{
    const struct answer_seen *a = &r->seen[id];
    assert_int_equal(a->finish, ENGINE_FINISH_ERROR);
    assert_int_equal(a->status, status);
    assert_int_equal(a->n, 0);
    assert_true(strlen(a->text) > 10);
}

/* One bad request spoils itself only. */
static void bad_requests_spoil_themselves_only(void **state)
{
    struct rig *r = rig_open(rig_opts(4, 20));
    static const int32_t four[] = {4};
    struct engine_request *q;
    (void) state;
    rig_start(r, rig_request(0, 30, 60));
    rig_start(r, rig_request(1, 100, SMALL_CTX - 99)); /* one token too many */
    rig_start(r, rig_request(2, SMALL_CTX, 1));
    rig_start(r, rig_request(3, SMALL_CTX + 9, 1));
    q = rig_request(4, 30, 20); /* nothing can be drawn */
    q->draw.allowed = rig_copy(four, 1);
    q->draw.banned = rig_copy(four, 1);
    q->draw.n_allowed = q->draw.n_banned = 1;
    rig_start(r, q);
    q = rig_request(5, 30, 20); /* ids that are none */
    q->prompt[7] = SMALL_VOCAB;
    rig_start(r, q);
    q = rig_request(6, 30, 20);
    q->prompt[0] = -1;
    rig_start(r, q);
    q = rig_request(7, 30, 20);
    q->resume = rig_copy(&(int32_t){SMALL_VOCAB + 2}, 1);
    q->n_resume = 1;
    rig_start(r, q);
    q = rig_request(8, 30, 20);
    q->n_prompt = 0;
    rig_start(r, q);
    rig_start(r, rig_request(9, 30, 60));
    RIG_UNTIL(r, r->n_ended == 10);
    for (int i = 1; i < 9; i++)
        check_error(r, i, i == 4 || i == 5 || i == 6 || i == 7 ? ST_INPUT : ST_LIMIT);
    rig_whole(r, 0, 60);
    rig_whole(r, 9, 60);
    rig_same_text(r, 9, rig_request(9, 30, 60));
    rig_close(r);
}

/* A model that computes nonsense ends each answer with its sentence, and the engine lives on. */
static void non_finite_logits_end_the_answer(void **state)
{
    struct small broken;
    (void) state;
    small_open(&broken, 9);
    ((float *) (uintptr_t) broken.model->norm->data)[3] = 0.0f / 0.0f;
    struct engine_opts o = rig_opts(2, 10);
    o.target = broken.model;
    struct rig *r = rig_open(o);
    for (int i = 0; i < 5; i++)
        rig_start(r, rig_request(i, 20, 30));
    RIG_UNTIL(r, r->n_ended == 5);
    for (int i = 0; i < 5; i++)
        check_error(r, i, ST_NONFINITE);
    assert_string_equal(r->seen[0].text, "the target produced non-finite logits");
    rig_close(r);
    small_close(&broken);
}

/* --- resuming --- */

static struct engine_request *resumed(int id, int like, const struct answer_seen *a, int n, int max_tokens)
{
    struct engine_request *q = rig_request(like, 40, max_tokens);
    q->id = (uint64_t) id;
    q->resume = rig_copy(a->tok, n);
    q->n_resume = n;
    return q;
}

static void resumes_anywhere(void **state)
{
    struct rig *r = rig_open(rig_opts(4, 100));
    const struct answer_seen *whole = &r->seen[1];
    (void) state;
    rig_start(r, rig_request(1, 40, 50));
    RIG_UNTIL(r, r->n_ended == 1);
    for (int n = 0; n <= 50; n++)
        rig_start(r, resumed(100 + n, 1, whole, n, 50));
    RIG_UNTIL(r, r->n_ended == 52);
    for (int n = 0; n <= 50; n++) {
        const struct answer_seen *a = &r->seen[100 + n];
        assert_int_equal(a->finish, ENGINE_FINISH_LENGTH);
        assert_int_equal(a->n, 50 - n);
        assert_memory_equal(a->tok, whole->tok + n, (size_t) a->n * sizeof *a->tok);
        assert_int_equal(a->figures.n_output, 50);
    }
    assert_int_equal(r->seen[150].figures.passes, 0); /* it was finished: nothing ran */
    rig_close(r);
}

/* A text that has stopped, and more tokens behind the stop: it ends where it ended. */
static void resuming_stops_at_the_stop(void **state)
{
    struct rig *r = rig_open(rig_opts(4, 10));
    static const int32_t text[] = {3, 4, EOS, 5, 6}, eos[] = {EOS};
    (void) state;
    struct engine_request *q = rig_request(1, 40, 50);
    q->draw.eos = rig_copy(eos, 1);
    q->draw.n_eos = 1;
    q->resume = rig_copy(text, 5);
    q->n_resume = 5;
    rig_start(r, q);
    RIG_UNTIL(r, r->n_ended == 1);
    assert_int_equal(r->seen[1].finish, ENGINE_FINISH_STOP);
    assert_int_equal(r->seen[1].matched, EOS);
    assert_int_equal(r->seen[1].n, 0);
    assert_int_equal(r->seen[1].figures.n_output, 3);
    rig_close(r);
}

/* More readers than a pass has prompt rows to spare, beside trees that take all they may. */
static void many_readers_beside_large_trees(void **state)
{
    enum { RUNNERS = 6, READERS = 400 };
    struct engine_opts o = rig_opts(RUNNERS + READERS, 100);
    o.draft_top = 16;
    struct rig *r = rig_open(o);
    (void) state;
    for (int i = 0; i < RUNNERS; i++) {
        struct engine_request *q = rig_request(i, 30, 250);
        q->spec = ENGINE_SPEC_NODES;
        q->spec_nodes = TREE_MAX;
        q->spec_depth = 20;
        rig_start(r, q);
    }
    RIG_UNTIL(r, r->seen[RUNNERS - 1].n_tokens >= 2);
    for (int i = RUNNERS; i < RUNNERS + READERS; i++) {
        struct engine_request *q = rig_request(i, 20, 1);
        q->spec = ENGINE_SPEC_OFF;
        rig_start(r, q);
    }
    RIG_UNTIL(r, r->n_ended == RUNNERS + READERS);
    for (int i = 0; i < RUNNERS + READERS; i++)
        rig_whole(r, i, i < RUNNERS ? 250 : 1);
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(describes_itself),
                                       cmocka_unit_test(refuses_options),
                                       cmocka_unit_test(refuses_what_is_over_the_queue),
                                       cmocka_unit_test(a_place_is_free_with_the_end),
                                       cmocka_unit_test(closes_with_answers_running),
                                       cmocka_unit_test(cancels_anywhere),
                                       cmocka_unit_test(a_parked_answer_is_silent),
                                       cmocka_unit_test(one_may_be_parked_while_it_waits),
                                       cmocka_unit_test(figures_add_up),
                                       cmocka_unit_test(sleeps_when_nothing_can_be_done),
                                       cmocka_unit_test(a_full_outbox_loses_no_end),
                                       cmocka_unit_test(short_and_long_ones),
                                       cmocka_unit_test(bad_requests_spoil_themselves_only),
                                       cmocka_unit_test(non_finite_logits_end_the_answer),
                                       cmocka_unit_test(resumes_anywhere),
                                       cmocka_unit_test(resuming_stops_at_the_stop),
                                       cmocka_unit_test(many_readers_beside_large_trees)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
