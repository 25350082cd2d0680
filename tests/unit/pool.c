/* pool.c - every piece is taken once, barriers hold, an idle pool sleeps, and the float environment is plain. */
#include "cpu/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xmmintrin.h>

enum { PIECES = 1000, STEPS = 50, THREADS = 4 };

struct count {
    struct cpu__pool *pool;
    int taken[STEPS][PIECES]; /* by how many threads */
    int late;                 /* a piece of the step before was not done yet */
    unsigned mxcsr[THREADS];
};

static void count_pieces(void *arg, int thread)
{
    struct count *c = arg;
    c->mxcsr[thread] = _mm_getcsr();
    for (int s = 0; s < STEPS; s++) {
        for (int i; (i = cpu__pool_claim(c->pool)) < PIECES;) {
            c->taken[s][i]++;
            if (s && c->taken[s - 1][(i * 7) % PIECES] != 1)
                c->late = 1;
        }
        cpu__pool_sync(c->pool);
    }
}

static void pieces_are_taken_once(void **state)
{
    (void) state;
    static struct count c;
    for (int n = 1; n <= THREADS; n++) {
        memset(&c, 0, sizeof c);
        assert_int_equal(cpu__pool_open(&c.pool, &(struct cpu__pool_opts){.threads = n}, NULL), 0);
        assert_int_equal(cpu__pool_threads(c.pool), n);
        cpu__pool_run(c.pool, count_pieces, &c);
        for (int s = 0; s < STEPS; s++)
            for (int i = 0; i < PIECES; i++)
                assert_int_equal(c.taken[s][i], 1);
        assert_false(c.late);
        cpu__pool_close(c.pool);
    }
}

static void floats_are_plain(void **state)
{
    (void) state;
    static struct count c;
    unsigned before = _mm_getcsr();
    assert_int_equal(cpu__pool_open(&c.pool, &(struct cpu__pool_opts){.threads = THREADS}, NULL), 0);
    _mm_setcsr(before | 0x8040 | 0x6000); /* FTZ, DAZ, toward zero: what a library might leave */
    cpu__pool_run(c.pool, count_pieces, &c);
    for (int t = 0; t < THREADS; t++)
        assert_int_equal(c.mxcsr[t] & 0xffc0, 0x1f80);
    cpu__pool_close(c.pool);
    _mm_setcsr(before);
}

static void nothing(void *arg, int thread)
{
    _Atomic int *runs = arg;
    (void) thread;
    atomic_fetch_add(runs, 1);
}

static void idle_uses_no_cpu(void **state)
{
    (void) state;
    struct cpu__pool *p;
    struct timespec a, b;
    _Atomic int runs = 0;
    assert_int_equal(cpu__pool_open(&p, &(struct cpu__pool_opts){.threads = THREADS}, NULL), 0);
    cpu__pool_run(p, nothing, &runs);
    usleep(400000); /* past any spinning; OpenBLAS, linked in, spins for 0.1 s after it is loaded */
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    usleep(200000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double used_ms = (double) (b.tv_sec - a.tv_sec) * 1e3 + (double) (b.tv_nsec - a.tv_nsec) / 1e6;
    assert_true(used_ms < 10);
    cpu__pool_run(p, nothing, &runs); /* parked threads wake */
    assert_int_equal(runs, 2 * THREADS);
    cpu__pool_close(p);
}

/* Some jobs find the workers spinning, some parked, some on their way into the futex. */
static void jobs_at_odd_times(void **state)
{
    (void) state;
    struct cpu__pool *p;
    _Atomic int runs = 0;
    assert_int_equal(cpu__pool_open(&p, &(struct cpu__pool_opts){.threads = 3}, NULL), 0);
    for (int i = 0; i < 2000; i++) {
        cpu__pool_run(p, nothing, &runs);
        if (i % 8 == 0)
            usleep((useconds_t) (i % 100));
        assert_int_equal(runs, 3 * (i + 1));
    }
    cpu__pool_close(p);
}

/* --- two callers --- */

enum { SIDE_RUNS = 3000 };

struct caller {
    struct cpu__pool *pool;
    struct count count;
    int bad; /* a piece that was not taken once, or a thread's number beyond the pool's */
};

static void count_few(void *arg, int thread)
{
    struct caller *c = arg;
    if (thread >= cpu__pool_threads(c->pool))
        c->bad = 1;
    for (int i; (i = cpu__pool_claim(c->pool)) < THREADS;)
        c->count.taken[0][i]++;
    cpu__pool_sync(c->pool);
}

static void *run_often(void *arg)
{
    struct caller *c = arg;
    for (int r = 1; r <= SIDE_RUNS; r++) {
        cpu__pool_run(c->pool, count_few, c);
        for (int i = 0; i < THREADS; i++)
            c->bad |= c->count.taken[0][i] != r;
    }
    return NULL;
}

static void two_callers(void **state)
{
    (void) state;
    for (int n = 2; n <= THREADS; n++)
        for (int side = 1; side < n; side++) {
            static struct caller a, b;
            struct cpu__pool_opts o = {.threads = n, .side = side};
            pthread_t other;
            memset(&a, 0, sizeof a);
            memset(&b, 0, sizeof b);
            assert_int_equal(cpu__pool_open(&a.pool, &o, NULL), 0);
            b.pool = cpu__pool_side(a.pool);
            assert_int_equal(cpu__pool_threads(a.pool), n);
            assert_int_equal(cpu__pool_threads(b.pool), n);
            a.count.pool = a.pool;
            cpu__pool_run(a.pool, count_pieces, &a.count);
            memset(&a.count, 0, sizeof a.count);
            b.count.pool = b.pool;
            cpu__pool_run(b.pool, count_pieces, &b.count);
            memset(&b.count, 0, sizeof b.count);
            cpu__pool_apart(a.pool, 1);
            assert_int_equal(cpu__pool_threads(a.pool), n - side);
            assert_int_equal(cpu__pool_threads(b.pool), side);
            assert_int_equal(pthread_create(&other, NULL, run_often, &b), 0);
            run_often(&a);
            pthread_join(other, NULL);
            cpu__pool_apart(a.pool, 0);
            assert_false(a.bad || b.bad);
            _Atomic int runs = 0;
            cpu__pool_run(b.pool, nothing, &runs);
            cpu__pool_run(a.pool, nothing, &runs);
            assert_int_equal(runs, 2 * n);
            cpu__pool_close(a.pool);
        }
    struct cpu__pool *alone;
    assert_int_equal(cpu__pool_open(&alone, &(struct cpu__pool_opts){.threads = 2}, NULL), 0);
    assert_null(cpu__pool_side(alone));
    cpu__pool_close(alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces_are_taken_once),
                                       cmocka_unit_test(floats_are_plain), cmocka_unit_test(idle_uses_no_cpu),
                                       cmocka_unit_test(jobs_at_odd_times), cmocka_unit_test(two_callers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
