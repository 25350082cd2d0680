/* pace.c - daemon/pace.h against machines whose rounds last what they are told to. */
#include "daemon/pace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { MOST = 256 };

/* A round lasts base + rows * row nanoseconds.  Returns how many rows n rounds read; the last figure that counts in *slowest: the longest
 * round, in percent of base, after the first 40. */
static long drive(struct pace *p, double base, double row, int n, int *slowest)
{
    long read = 0;
    *slowest = 100;
    for (int i = 0; i < n; i++) {
        int32_t rows = pace_rows(p, 1, 3, MOST);
        double ns = base + rows * row;
        assert_in_range(rows, 0, MOST);
        pace_note(p, rows, (uint64_t) ns);
        read += rows;
        if (i >= 40 && ns / base * 100 > *slowest)
            *slowest = (int) (ns / base * 100);
    }
    return read;
}

static void holds_the_slowdown(void **state)
{
    (void) state;
    for (double row = 1e5; row < 2e7; row *= 2) {
        struct pace p = {0};
        int slowest;
        pace_note(&p, 0, 25000000);
        long read = drive(&p, 25e6, row, 400, &slowest);
        /* four rows are read in any case, however dear */
        assert_in_range(slowest, 100, row * 4 > 15e6 ? (int) (row * 4 / 25e6 * 100) + 101 : 165);
        assert_in_range(read, 4 * 370, MOST * 400);
        if (row * 4 < 10e6) /* and no less than the slowdown allows, but for the rounds that measure */
            assert_true(read >= 0.8 * 400 * (0.6 * 25e6 / row < MOST ? 0.6 * 25e6 / row - 1 : MOST));
    }
}

/* Nothing to compare with: the first round of all measures. */
static void begins_without_a_measure(void **state)
{
    (void) state;
    struct pace p = {0};
    int slowest;
    assert_int_equal(pace_rows(&p, 1, 3, MOST), 0);
    assert_true(drive(&p, 25e6, 1e6, 200, &slowest) >= 4 * 180);
}

/* What a row costs grows with the context; the machine gets slower. */
static void follows_what_changes(void **state)
{
    (void) state;
    struct pace p = {0};
    int slowest;
    pace_note(&p, 0, 25000000);
    for (int i = 0; i < 20; i++) {
        drive(&p, 25e6 * (1 + i % 3), 1e6 * (1 + i), 400, &slowest);
        assert_in_range(slowest, 100, 1e6 * (1 + i) * 4 > 15e6 * (1 + i % 3) ? 450 : 190);
    }
}

/* Ten that read beside one that runs are not kept waiting for its sake. */
static void many_readers_get_more(void **state)
{
    (void) state;
    struct pace p = {.plain_ns = 25e6, .row_ns = 1e6};
    assert_int_equal(pace_rows(&p, 1, 1, MOST), 15);
    assert_int_equal(pace_rows(&p, 1, 10, MOST), 15);
    assert_int_equal(pace_rows(&p, 10, 1, MOST), 150);
    assert_int_equal(pace_rows(&p, 100, 1, MOST), MOST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_the_slowdown),
        cmocka_unit_test(begins_without_a_measure),
        cmocka_unit_test(follows_what_changes),
        cmocka_unit_test(many_readers_get_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
