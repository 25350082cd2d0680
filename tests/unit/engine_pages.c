/* engine_pages.c - daemon/engine.h when pages are short: who gives way, who comes back, and that the words stay the same. */
#include "daemon/engine.h"

#include "cpu/cpu.h"
#include "tests/lib/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <limits.h>
#include <time.h>

enum { MS = 1000000 };

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

/* Room for `pages` pages of the target. */
static struct engine_opts tight(int sessions, int pages)
{
    struct engine_opts o = rig_opts(sessions, 100);
    o.kv_bytes = pages * (int64_t) cpu_kv_page_bytes(rig_small.model, o.kv_type);
    return o;
}

static void preempted_ones_say_the_same(void **state)
{
    struct rig *r = rig_open(tight(6, 12));
    int preempted = 0;
    (void) state;
    for (int i = 0; i < 12; i++)
        rig_start(r, rig_request(i, 100 + 10 * i, 60 + 5 * i));
    RIG_UNTIL(r, r->n_ended == 12);
    for (int i = 0; i < 12; i++) {
        rig_whole(r, i, 60 + 5 * i);
        rig_same_text(r, i, rig_request(i, 100 + 10 * i, 60 + 5 * i));
        preempted += r->seen[i].figures.preempted;
    }
    assert_in_range(preempted, 1, 1000);
    rig_close(r);
}

static struct engine_request *plain_request(int id, int n_prompt, int max_tokens)
{
    struct engine_request *q = rig_request(id, n_prompt, max_tokens);
    q->spec = ENGINE_SPEC_OFF;
    return q;
}

/* How many answers end before the one that gave way, while short ones arrive without end; -1: nobody had to.  The outbox holds 128
 * events: while nobody listens, the engine stands where the second answer has given way and the first still runs. */
static int ends_before_the_evicted(void)
{
    struct rig *r = rig_open(tight(8, 10));
    struct timespec moment = {0, 500 * MS};
    int started = 2;
    rig_start(r, plain_request(0, 200, 115));
    rig_start(r, plain_request(1, 330, 150));
    nanosleep(&moment, NULL);
    while (!r->seen[1].n_end && started < 300) {
        for (; started - r->n_ended < 16; started++)
            rig_start(r, plain_request(started, 70, 20 + started % 5 * 7));
        rig_wait(r);
    }
    int passed = r->n_ended;
    RIG_UNTIL(r, r->n_ended == started);
    rig_whole(r, 1, 150);
    passed = r->seen[1].figures.preempted ? passed : -1;
    rig_close(r);
    return passed;
}

/* Who gave way is not passed by all who come later. */
static void nobody_starves(void **state)
{
    int passed = -1;
    (void) state;
    for (int i = 0; i < 5 && passed < 0;
         i++) /* a machine with other things to do may let the first end too early */
        passed = ends_before_the_evicted();
    print_message("%d answers had ended before\n", passed);
    assert_in_range(passed, 1, 100);
}

/* Pages of a parked answer go to one that can run. */
static void parked_ones_give_way(void **state)
{
    struct rig *r = rig_open(tight(3, 10));
    (void) state;
    for (int i = 0; i < 2; i++) {
        rig_start(r, rig_request(i, 250, 100));
        RIG_UNTIL(r, r->seen[i].n_tokens >= 1);
        engine_park(r->engine, (uint64_t) i);
    }
    rig_start(r, rig_request(2, 400, 100));
    RIG_UNTIL(r, r->seen[2].n_end);
    rig_whole(r, 2, 100);
    assert_int_equal(r->n_ended, 1);
    engine_unpark(r->engine, 0);
    engine_unpark(r->engine, 1);
    RIG_UNTIL(r, r->n_ended == 3);
    assert_true(r->seen[0].figures.preempted + r->seen[1].figures.preempted > 0);
    for (int i = 0; i < 2; i++) {
        rig_whole(r, i, 100);
        rig_same_text(r, i, rig_request(i, 250, 100));
    }
    rig_close(r);
}

/* 1: one that gave way is done before the one that ran on; 0: they may not all have run together. */
static int back_beside_the_runner(void)
{
    struct rig *r = rig_open(tight(3, 8));
    rig_start(r, plain_request(0, 60, 440));
    rig_start(r, plain_request(1, 250, 60));
    rig_start(r, plain_request(2, 250, 30)); /* no room until the second is done */
    RIG_UNTIL(r, r->n_ended == 3);
    int back = r->seen[2].order < r->seen[0].order;
    for (int i = 0; i < 3; i++)
        rig_whole(r, i, (const int[]){440, 60, 30}[i]);
    rig_close(r);
    return back;
}

/* Who gave way is back as soon as there is room, not only when nobody else runs.  On a busy machine they may start far apart. */
static void comes_back_beside_those_that_run(void **state)
{
    int back = 0;
    (void) state;
    for (int i = 0; i < 10 && !back; i++)
        back = back_beside_the_runner();
    assert_true(back);
}

/* 1: one that gave way is back and done before the one that runs, since the eldest was parked; 0: the runner was done too soon. */
static int back_before_the_runner_ends(void)
{
    struct rig *r = rig_open(tight(3, 10));
    struct timespec moment = {0, 200 * MS};
    rig_start(r, plain_request(0, 250, 200));
    rig_start(r, plain_request(1, 200, 300));
    rig_start(r, plain_request(2, 200, 20)); /* no room for it: it gives way */
    nanosleep(&moment, NULL);                /* nobody listens: after 64 events the engine stands */
    rig_take_all(r);
    engine_park(r->engine, 0);
    RIG_UNTIL(r, r->seen[1].n_end);
    int back = r->seen[2].n_end;
    engine_unpark(r->engine, 0);
    RIG_UNTIL(r, r->n_ended == 3);
    rig_whole(r, 0, 200);
    rig_whole(r, 1, 300);
    rig_whole(r, 2, 20);
    rig_close(r);
    return back;
}

static void pages_of_parked_ones_go_to_who_gave_way(void **state)
{
    int back = 0;
    (void) state;
    for (int i = 0; i < 5 && !back; i++)
        back = back_before_the_runner_ends();
    assert_true(back);
}

/* Tokens of the one that runs until the one that gave way is back, since the eldest was parked.  Its pages are used up at 261. */
static int runs_until_the_other_is_back(void)
{
    struct rig *r = rig_open(tight(3, 10));
    rig_start(r, plain_request(0, 250, 250));
    rig_start(r, plain_request(1, 60, 440));
    RIG_UNTIL(r, r->seen[0].n >= 10);
    rig_start(r, plain_request(2, 250, 20)); /* three pages are free, it needs five */
    RIG_UNTIL(r, r->seen[2].n_begin && r->seen[0].n >= 20);
    engine_park(r->engine, 0);
    RIG_UNTIL(r, r->seen[2].n_end || r->seen[1].n_end);
    int ran = r->seen[1].n;
    engine_unpark(r->engine, 0);
    RIG_UNTIL(r, r->n_ended == 3);
    for (int i = 0; i < 3; i++)
        rig_whole(r, i, (const int[]){250, 440, 20}[i]);
    rig_same_text(r, 0, plain_request(0, 250, 250));
    ran = r->seen[2].figures.preempted ? ran : INT_MAX;
    rig_close(r);
    return ran;
}

/* They go at once, not only when the one that runs has used up all others.  On a busy machine the park may come late. */
static void a_parked_answer_does_not_keep_one_out(void **state)
{
    int ran = INT_MAX;
    (void) state;
    for (int i = 0; i < 10 && ran > 200; i++)
        ran = runs_until_the_other_is_back();
    assert_in_range(ran, 1, 200);
}

/* While nobody listens, the one that gave way does not take the pages of its elder, which waits for room in the outbox. */
static void the_eldest_keeps_its_pages_behind_a_full_outbox(void **state)
{
    struct rig *r = rig_open(tight(8, 10));
    (void) state;
    rig_start(r, plain_request(0, 200, 115));
    rig_start(r, plain_request(1, 330, 150));
    rig_sleeps(); /* the outbox is full */
    RIG_UNTIL(r, r->n_ended == 2);
    assert_int_equal(r->seen[0].figures.preempted, 0);
    assert_in_range(r->seen[1].figures.preempted, 1, 100);
    assert_int_equal(r->seen[0].order, 0);
    rig_whole(r, 0, 115);
    rig_whole(r, 1, 150);
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(preempted_ones_say_the_same),
                                       cmocka_unit_test(nobody_starves),
                                       cmocka_unit_test(parked_ones_give_way),
                                       cmocka_unit_test(comes_back_beside_those_that_run),
                                       cmocka_unit_test(pages_of_parked_ones_go_to_who_gave_way),
                                       cmocka_unit_test(a_parked_answer_does_not_keep_one_out),
                                       cmocka_unit_test(the_eldest_keeps_its_pages_behind_a_full_outbox)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
