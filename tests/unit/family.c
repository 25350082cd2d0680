/* family.c - daemon/engine.h: several answers to one prompt, thinking closed from outside, priority and fairness, figures. */
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

enum { OPEN = 50, CLOSE = 51, CLOSER = 3 };

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

static struct engine_request *several(int id, int n_prompt, int max_tokens, int n)
{
    struct engine_request *q = rig_request(id, n_prompt, max_tokens);
    q->n = n;
    q->draw.temperature = 1;
    return q;
}

/* Answer `choice` of request id is what one request with that choice gets. */
static void check_choice(const struct rig *r, int id, int n_prompt, int max_tokens, int choice)
{
    struct rig *moved = calloc(1, sizeof *moved);
    struct engine_request *q = several(id, n_prompt, max_tokens, 1);
    assert_non_null(moved);
    q->draw.choice = choice;
    moved->seen[id] = r->seen[id + choice];
    rig_same_text(moved, id, q);
    free(moved);
}

/* --- several answers --- */

static void each_answer_is_whole_and_its_own(void **state)
{
    struct engine_opts o = rig_opts(4, 40);
    (void) state;
    for (int cached = 0; cached < 2; cached++) {
        o.prefix_cache = cached;
        struct rig *r = rig_open(o);
        rig_start(r, several(0, 200, 40, 8)); /* twice as many as there are sessions */
        rig_start(r, several(10, 1, 40, 3));
        rig_start(r, several(20, 65, 40, 2));
        RIG_UNTIL(r, r->n_ended == 13);
        for (int i = 0; i < 8; i++) {
            rig_whole(r, i, 40);
            check_choice(r, 0, 200, 40, i);
            assert_int_equal(r->seen[i].n_begin, i == 0);
            if (i)
                assert_int_equal(r->seen[i].figures.n_cached, 199); /* nobody read the prompt twice */
        }
        int last = 0;
        for (int i = 0; i < 8; i++)
            last += r->seen[i].last;
        assert_int_equal(last, 1);
        assert_int_not_equal(memcmp(r->seen[0].tok, r->seen[1].tok, 40 * sizeof(int32_t)), 0);
        for (int i = 0; i < 3; i++)
            check_choice(r, 10, 1, 40, i);
        for (int i = 0; i < 2; i++)
            check_choice(r, 20, 65, 40, i);
        rig_close(r);
    }
}

/* One token a round: the engine is then no more than an outbox ahead of the test. */
static struct engine_request *slow(int id, int n)
{
    struct engine_request *q = several(id, 100, 400, n);
    q->spec = ENGINE_SPEC_OFF;
    return q;
}

static void one_answer_is_cancelled_or_all(void **state)
{
    struct rig *r = rig_open(rig_opts(3, 40));
    (void) state;
    rig_start(r, slow(0, 3));
    rig_take_tokens(r, 2, 1);
    rig_start(r, slow(10, 4)); /* waits */
    assert_int_equal(engine_cancel_choice(r->engine, 0, 1), 0);
    RIG_UNTIL(r, r->seen[1].n_end);
    assert_int_equal(r->seen[1].finish, ENGINE_FINISH_CANCELLED);
    assert_int_equal(r->seen[1].last, 0);
    assert_int_equal(engine_cancel_choice(r->engine, 10, 3), 0);
    assert_int_equal(engine_cancel_choice(r->engine, 10, 3), 0);
    assert_int_equal(engine_cancel_choice(r->engine, 10, 7), 0); /* there is none: no mistake */
    RIG_UNTIL(r, r->seen[13].n_end);
    assert_int_equal(engine_cancel(r->engine, 0), 0);
    RIG_UNTIL(r, r->seen[0].n_end && r->seen[2].n_end);
    assert_int_equal(r->seen[0].last + r->seen[2].last, 1);
    RIG_UNTIL(r, r->n_ended == 7);
    for (int i = 10; i < 13; i++)
        rig_whole(r, i, 400);
    rig_close(r);
}

static void families_fit_the_queue_or_are_refused(void **state)
{
    struct rig *r = rig_open(rig_opts(2, 3));
    struct engine_request *six = slow(0, 6), *resumed = several(1, 5, 5, 2), *nine = several(2, 5, 5, 9),
                          *over = rig_request(7, 5, 5);
    (void) state;
    assert_int_equal(engine_start(r->engine, six), ST_LIMIT);
    resumed->resume = rig_copy(resumed->prompt, 1);
    resumed->n_resume = 1;
    assert_int_equal(engine_start(r->engine, resumed), ST_INPUT);
    assert_int_equal(engine_start(r->engine, nine), ST_INPUT);
    six->n = 5;
    rig_start(r, six);
    assert_int_equal(engine_start(r->engine, over), ST_LIMIT);
    RIG_UNTIL(r, r->n_ended == 5);
    engine_request_free(resumed);
    engine_request_free(nine);
    engine_request_free(over);
    rig_close(r);
}

/* With pages for hardly more than one. */
static void shared_pages_run_out(void **state)
{
    struct engine_opts o = rig_opts(4, 10);
    int preempted = 0;
    (void) state;
    o.kv_bytes = 10 * (int64_t) cpu_kv_page_bytes(rig_small.model, o.kv_type);
    o.prefix_cache = 0;
    struct rig *r = rig_open(o);
    rig_start(r, several(0, 250, 150, 4));
    RIG_UNTIL(r, r->n_ended == 4);
    for (int i = 0; i < 4; i++) {
        rig_whole(r, i, 150);
        check_choice(r, 0, 250, 150, i);
        preempted += r->seen[i].figures.preempted;
    }
    assert_in_range(preempted, 1, 10000);
    struct engine_stats s;
    rig_listen(r, 20);
    engine_stats(r->engine, &s);
    assert_int_equal(s.pages_used, 0);
    rig_close(r);
}

/* --- thinking closed from outside --- */

static struct engine_request *thinker(int id, int max_tokens)
{
    static const int32_t closer[CLOSER] = {7, 8, CLOSE}, banned[] = {CLOSE};
    struct engine_request *q = rig_request(id, 20, max_tokens);
    q->spec = ENGINE_SPEC_OFF; /* the engine is then no more than an outbox ahead */
    q->prompt[19] = OPEN;
    q->draw.think = (struct draw_think){OPEN, CLOSE, -1, -1, rig_copy(closer, CLOSER), CLOSER};
    q->draw.banned = rig_copy(banned, 1);
    q->draw.n_banned = 1;
    return q;
}

/* The closing text stands where closed_at says, and what follows is no thinking. */
static void check_closed(const struct answer_seen *a)
{
    int at = a->closed_at;
    assert_in_range(at, 0, a->n - CLOSER - 1);
    assert_int_equal(a->tok[at], 7);
    assert_int_equal(a->tok[at + 1], 8);
    assert_int_equal(a->tok[at + 2], CLOSE);
    int thinking = 0; /* random weights may open it once more */
    for (int i = 0; i < a->n; i++) {
        assert_true(i >= at || a->phase[i] == DRAW_THINKING);
        thinking += a->phase[i] == DRAW_THINKING;
    }
    assert_int_equal(a->figures.n_thinking, thinking);
    assert_int_equal(a->figures.cut, 0);
}

/* The same tokens and closed_at, resumed anywhere, give the same text. */
static void check_resumed(const struct rig *r, int id, int max_tokens)
{
    const struct answer_seen *want = &r->seen[id];
    struct rig *again = rig_open(rig_opts(2, 10));
    int at = want->closed_at, from[] = {at, at + 1, at + 2, at + 3, at + 10};
    for (int i = 0; i < 5; i++) {
        struct engine_request *q = thinker(id, max_tokens);
        int key = 100 + i;
        q->id = (uint64_t) key;
        q->n_resume = from[i];
        q->resume = rig_copy(want->tok, q->n_resume);
        q->closed_at = at;
        int n = q->n_resume;
        rig_start(again, q);
        RIG_UNTIL(again, again->seen[key].n_end);
        assert_int_equal(again->seen[key].n, want->n - n);
        assert_memory_equal(again->seen[key].tok, want->tok + n, (size_t) (want->n - n) * sizeof(int32_t));
    }
    rig_close(again);
}

static void the_client_closes_the_thinking(void **state)
{
    struct rig *r = rig_open(rig_opts(2, 10));
    (void) state;
    rig_start(r, thinker(0, 400));
    rig_start(r, rig_request(1, 20, 300)); /* does not think */
    rig_take_tokens(r, 0, 11);
    assert_int_equal(engine_close_thinking(r->engine, 0), 0);
    assert_int_equal(engine_close_thinking(r->engine, 1), 0);
    assert_int_equal(engine_close_thinking(r->engine, 99), 0);
    RIG_UNTIL(r, r->n_ended == 2);
    rig_whole(r, 0, 400);
    check_closed(&r->seen[0]);
    assert_in_range(r->seen[0].closed_at, 11, 390);
    check_resumed(r, 0, 400);
    assert_int_equal(r->seen[1].closed_at, -1);
    rig_same_text(r, 1, rig_request(1, 20, 300));
    rig_close(r);
}

static void the_clock_closes_the_thinking(void **state)
{
    struct rig *r = rig_open(rig_opts(2, 10));
    (void) state;
    struct engine_request *late = thinker(0, 100), *later = thinker(1, 100);
    late->received_ns = 1; /* long ago: before the first token */
    late->thinking_deadline_ns = 1000;
    later->received_ns = 1;
    later->thinking_deadline_ns = UINT64_MAX - 1;
    rig_start(r, late);
    rig_start(r, later);
    RIG_UNTIL(r, r->n_ended == 2);
    check_closed(&r->seen[0]);
    assert_int_equal(r->seen[0].closed_at, 0);
    check_resumed(r, 0, 100);
    assert_int_equal(r->seen[1].closed_at, -1);
    struct engine_request *only = thinker(2, CLOSER); /* the closing text is all there is room for */
    only->received_ns = 1;
    only->thinking_deadline_ns = 1000;
    rig_start(r, only);
    RIG_UNTIL(r, r->n_ended == 3);
    assert_int_equal(r->seen[2].finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(r->seen[2].n, CLOSER);
    assert_true(r->seen[2].figures.first_token_ns > 0);
    rig_close(r);
}

/* --- who goes first --- */

static void the_highest_priority_goes_first(void **state)
{
    struct rig *r = rig_open(rig_opts(1, 20));
    (void) state;
    rig_start(r, rig_request(0, 20, 300));
    RIG_UNTIL(r, r->seen[0].n_begin);
    for (int i = 1; i <= 5; i++) {
        struct engine_request *q = rig_request(i, 20, 5);
        q->priority = i == 2 ? ENGINE_PRIORITY_MAX : i == 4 ? ENGINE_PRIORITY_MAX - 40 : 0;
        q->received_ns = UINT64_C(1) << 62; /* nobody ages */
        rig_start(r, q);
    }
    RIG_UNTIL(r, r->n_ended == 6);
    static const int order[] = {0, 3, 1, 4, 2, 5};
    for (int i = 0; i < 6; i++)
        assert_int_equal(r->seen[i].order, order[i]);
    rig_close(r);
}

static void waiting_counts_as_priority(void **state)
{
    struct rig *r = rig_open(rig_opts(1, 20));
    (void) state;
    rig_start(r, rig_request(0, 20, 300));
    RIG_UNTIL(r, r->seen[0].n_begin);
    for (int i = 1; i <= 2; i++) {
        struct engine_request *q = rig_request(i, 20, 5);
        q->priority = i == 1 ? ENGINE_PRIORITY_MAX : -ENGINE_PRIORITY_MAX;
        q->received_ns = i == 1 ? UINT64_C(1) << 62 : 1;
        rig_start(r, q);
    }
    RIG_UNTIL(r, r->n_ended == 3);
    assert_true(r->seen[2].order < r->seen[1].order);
    rig_close(r);
}

/* One client has sent many; another's one does not wait for them all. */
static void clients_take_turns(void **state)
{
    struct rig *r = rig_open(rig_opts(2, 40));
    (void) state;
    for (int i = 0; i < 12; i++) {
        struct engine_request *q = rig_request(i, 20, i < 2 ? 200 : 30);
        q->client = i == 11 ? 2 : 1;
        q->received_ns = UINT64_C(1) << 62;
        rig_start(r, q);
    }
    RIG_UNTIL(r, r->n_ended == 12);
    for (int i = 2; i < 11; i++)
        assert_true(r->seen[11].order < r->seen[i].order);
    rig_close(r);
}

/* When pages run out the low priority gives way, though it came first. */
static void priority_keeps_its_pages(void **state)
{
    struct engine_opts o = rig_opts(2, 10);
    (void) state;
    o.kv_bytes = 10 * (int64_t) cpu_kv_page_bytes(rig_small.model, o.kv_type);
    struct rig *r = rig_open(o);
    rig_start(r, rig_request(0, 250, 200));
    RIG_UNTIL(r, r->seen[0].n);
    struct engine_request *q = rig_request(1, 250, 200);
    q->priority = 5;
    rig_start(r, q);
    RIG_UNTIL(r, r->n_ended == 2);
    assert_in_range(r->seen[0].figures.preempted, 1, 1000);
    assert_int_equal(r->seen[1].figures.preempted, 0);
    for (int i = 0; i < 2; i++) {
        rig_whole(r, i, 200);
        rig_same_text(r, i, rig_request(i, 250, 200));
    }
    rig_close(r);
}

/* --- figures --- */

static void figures_add_up(void **state)
{
    struct rig *r = rig_open(rig_opts(4, 20));
    struct engine_stats s;
    int64_t drafted = 0, accepted = 0, passes = 0, prompt = 0, asked = 0, said = 0;
    (void) state;
    for (int i = 0; i < 10; i++)
        rig_start(r, rig_request(i, 50 + i, 20 + i));
    RIG_UNTIL(r, r->n_ended == 10);
    do /* told once the round of the last END is over */
        engine_stats(r->engine, &s);
    while (s.running);
    for (int i = 0; i < 10; i++) {
        drafted += r->seen[i].figures.drafted;
        accepted += r->seen[i].figures.accepted;
        passes += r->seen[i].figures.passes;
        prompt += r->seen[i].figures.n_prompt - r->seen[i].figures.n_cached - 1;
        asked += r->seen[i].figures.n_prompt;
        said += r->seen[i].figures.n_output;
        assert_int_equal(r->seen[i].finish, ENGINE_FINISH_LENGTH);
    }
    assert_int_equal(asked, 10 * 50 + 45);
    assert_int_equal(said, 10 * 20 + 45);
    assert_int_equal(s.drafted[TREE_MODEL] + s.drafted[TREE_LOOKUP], drafted);
    assert_int_equal(s.accepted[TREE_MODEL] + s.accepted[TREE_LOOKUP], accepted);
    assert_int_equal(s.prompt_rows, prompt);
    assert_in_range(s.passes, passes / 4, passes + prompt);
    assert_int_equal(s.rows, s.prompt_rows + passes + drafted);
    int64_t drafted_by_depth = 0, by_depth = 0;
    for (int i = 0; i < ENGINE_DEPTH_MAX; i++) {
        drafted_by_depth += s.drafted_at[i];
        by_depth += s.accepted_at[i];
    }
    assert_int_equal(by_depth, accepted);
    assert_int_equal(drafted_by_depth, drafted);
    assert_int_equal(s.pages_used + s.waiting + s.parked + s.evicted + s.reading, 0);
    rig_close(r);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_answer_is_whole_and_its_own),
        cmocka_unit_test(one_answer_is_cancelled_or_all),
        cmocka_unit_test(families_fit_the_queue_or_are_refused),
        cmocka_unit_test(shared_pages_run_out),
        cmocka_unit_test(the_client_closes_the_thinking),
        cmocka_unit_test(the_clock_closes_the_thinking),
        cmocka_unit_test(the_highest_priority_goes_first),
        cmocka_unit_test(waiting_counts_as_priority),
        cmocka_unit_test(clients_take_turns),
        cmocka_unit_test(priority_keeps_its_pages),
        cmocka_unit_test(figures_add_up),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
