/* ring.c - order, fullness, counters that wrap, and two threads: nothing is lost, and no wake-up is missed. */
#include "core/ring.h"
#include "core/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <time.h>

enum { ITEMS = 200000, WAIT_SECONDS = 30 };

static int item[8];

static void first_in_first_out(void **state)
{
    struct ring r;
    (void) state;
    assert_int_equal(ring_init(&r, 4), 0);
    assert_null(ring_pop(&r));
    assert_int_equal(ring_push(&r, &item[0]), 1); /* was empty: wake */
    assert_int_equal(ring_push(&r, &item[1]), 0);
    assert_int_equal(ring_push(&r, &item[2]), 0);
    assert_int_equal(ring_push(&r, &item[3]), 0);
    assert_int_equal(ring_push(&r, &item[4]), ST_AGAIN);
    for (int i = 0; i < 4; i++)
        assert_ptr_equal(ring_pop(&r), &item[i]);
    assert_null(ring_pop(&r));
    assert_int_equal(ring_push(&r, &item[4]), 1);
    ring_fini(&r);
}

static void rounds_its_size_up(void **state)
{
    static const uint32_t asked[] = {0, 1, 2, 3, 5, 1000}, got[] = {2, 2, 2, 4, 8, 1024};
    (void) state;
    for (int i = 0; i < 6; i++) {
        struct ring r;
        assert_int_equal(ring_init(&r, asked[i]), 0);
        assert_int_equal(r.cap, got[i]);
        for (uint32_t k = 0; k < got[i]; k++)
            assert_int_equal(ring_push(&r, item), k == 0);
        assert_int_equal(ring_push(&r, item), ST_AGAIN);
        ring_fini(&r);
    }
}

static void refuses_what_no_power_of_two_holds(void **state)
{
    struct ring r;
    (void) state;
    assert_int_equal(ring_init(&r, UINT32_MAX), ST_NOMEM);
    ring_fini(&r);
}

/* Head and tail count on past 2^32. */
static void counters_wrap(void **state)
{
    struct ring r;
    (void) state;
    assert_int_equal(ring_init(&r, 4), 0);
    atomic_store(&r.head, UINT32_MAX - 1);
    atomic_store(&r.tail, UINT32_MAX - 1);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++)
            assert_int_equal(ring_push(&r, &item[i]), i == 0);
        assert_int_equal(ring_push(&r, &item[4]), ST_AGAIN);
        for (int i = 0; i < 4; i++)
            assert_ptr_equal(ring_pop(&r), &item[i]);
        assert_null(ring_pop(&r));
    }
    ring_fini(&r);
}

/* --- two threads --- */

struct road {
    struct ring ring;
    sem_t awake;
    uintptr_t seen; /* highest number that came through */
    int in_order, missed;
};

static int sleep_until_woken(struct road *d)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_SECONDS;
    return sem_timedwait(&d->awake, &until);
}

/* Sleeps whenever the ring is empty, so a wake-up that is missed is noticed. */
static void *consumer(void *arg)
{
    struct road *d = arg;
    while (d->seen < ITEMS) {
        void *p = ring_pop(&d->ring);
        if (!p) {
            if (sleep_until_woken(d)) {
                d->missed = 1;
                return NULL;
            }
            continue;
        }
        d->in_order &= (uintptr_t) p == d->seen + 1;
        d->seen = (uintptr_t) p;
    }
    return NULL;
}

static void two_threads(void **state)
{
    struct road d = {.in_order = 1};
    pthread_t t;
    (void) state;
    assert_int_equal(ring_init(&d.ring, 8), 0);
    sem_init(&d.awake, 0, 0);
    assert_int_equal(pthread_create(&t, NULL, consumer, &d), 0);
    for (uintptr_t i = 1; i <= ITEMS; i++) {
        int st;
        while ((st = ring_push(&d.ring, (void *) i)) == ST_AGAIN)
            sched_yield();
        if (st == 1)
            sem_post(&d.awake);
    }
    pthread_join(t, NULL);
    assert_false(d.missed);
    assert_true(d.in_order);
    assert_int_equal(d.seen, ITEMS);
    assert_null(ring_pop(&d.ring));
    sem_destroy(&d.awake);
    ring_fini(&d.ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(first_in_first_out),
                                       cmocka_unit_test(rounds_its_size_up),
                                       cmocka_unit_test(refuses_what_no_power_of_two_holds),
                                       cmocka_unit_test(counters_wrap), cmocka_unit_test(two_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
