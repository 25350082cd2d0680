/* threads.c - how many threads, and whose: from 1 to 64 cores, with flags and without. */
#include "daemon/threads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <limits.h>
#include <string.h>

static int plan(struct threads *t, int cores, int siblings, int quota, int draft, int all, int target,
                int side, struct err *e)
{
    struct cpu_room room = {.processors = cores * siblings, .cores = cores, .nodes = 1, .quota = quota};
    struct daemon_config c = {.draft = draft ? "d" : NULL,
                              .pin = "auto",
                              .threads = all,
                              .target_threads = target,
                              .draft_threads = side};
    return threads_plan(t, &c, &room, e);
}

static void by_the_machine(void **state)
{
    (void) state;
    static const struct {
        int cores, siblings, quota, all, side, pin;
    } list[] = {
        {1, 1, INT_MAX, 1, 0, 1},   {1, 2, INT_MAX, 1, 0, 1},     {2, 1, INT_MAX, 2, 0, 1},
        {3, 1, INT_MAX, 3, 0, 1},   {4, 1, INT_MAX, 4, 1, 1},     {8, 2, INT_MAX, 8, 2, 1},
        {16, 2, INT_MAX, 16, 4, 1}, {64, 2, INT_MAX, 64, 8, 1},   {64, 2, 4, 4, 1, 0},
        {8, 1, 1, 1, 0, 0},         {512, 1, INT_MAX, 256, 8, 1}, /* the pool's limit */
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        for (int draft = 0; draft < 2; draft++) {
            struct threads t;
            assert_int_equal(plan(&t, list[i].cores, list[i].siblings, list[i].quota, draft, 0, 0, -1, NULL),
                             0);
            assert_int_equal(t.all, list[i].all);
            assert_int_equal(t.side, draft ? list[i].side : 0);
            assert_int_equal(t.pin, list[i].pin);
        }
}

static void by_flags(void **state)
{
    (void) state;
    static const struct {
        int draft, all, target, side;
        int want_all, want_side;
    } list[] = {
        {1, 6, 0, -1, 6, 1}, {1, 2, 0, 1, 2, 1},  {1, 0, 1, 1, 2, 1},  {1, 0, 12, 12, 24, 12},
        {1, 0, 5, -1, 8, 3}, {1, 0, 9, -1, 9, 0}, {1, 0, 0, 3, 8, 3},  {1, 0, 0, 9, 10, 9},
        {1, 0, 5, 0, 5, 0},  {1, 4, 4, 0, 4, 0},  {1, 4, 3, -1, 4, 1}, {0, 0, 5, -1, 5, 0},
        {0, 3, 3, 0, 3, 0},  {0, 0, 0, 0, 8, 0},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct threads t;
        struct err e = {0};
        if (plan(&t, 8, 1, INT_MAX, list[i].draft, list[i].all, list[i].target, list[i].side, &e))
            fail_msg("%zu: %s", i, e.text);
        assert_int_equal(t.all, list[i].want_all);
        assert_int_equal(t.side, list[i].want_side);
        assert_int_equal(t.pin, t.all <= 8);
    }
}

static void contradictions(void **state)
{
    (void) state;
    static const struct {
        int draft, all, target, side;
        const char *says;
    } list[] = {
        {0, 0, 0, 2, "--draft-threads 2, but there is no --draft"},
        {1, 4, 3, 2, "--target-threads 3 and 2 of the draft are not --threads 4"},
        {0, 4, 3, -1, "--target-threads 3 and 0 of the draft are not --threads 4"},
        {1, 4, 5, -1, "--threads 4 are all there are"},
        {1, 4, 0, 4, "--threads 4 are all there are"},
        {1, 0, 200, 200, "400 threads: at most 256"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct threads t;
        struct err e = {0};
        assert_int_equal(
            plan(&t, 8, 1, INT_MAX, list[i].draft, list[i].all, list[i].target, list[i].side, &e), ST_INPUT);
        if (!strstr(e.text, list[i].says))
            fail_msg("'%s', not '%s'", e.text, list[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_the_machine), cmocka_unit_test(by_flags),
                                       cmocka_unit_test(contradictions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
