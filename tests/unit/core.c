/* core.c - arena, buffer, queue, status and log: the small things everybody stands on. */
#include "core/arena.h"
#include "core/buf.h"
#include "core/log.h"
#include "core/queue.h"
#include "core/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* --- arena --- */

static void arena_gives_zeroed_aligned_memory(void **state)
{
    static const size_t sizes[] = {1, 15, 16, 17, 4000, 4096, 4097, 100000, 0, 3};
    struct arena a;
    unsigned char *got[10];
    (void) state;
    arena_init(&a, 0);
    for (int i = 0; i < 10; i++) {
        got[i] = arena_get(&a, sizes[i]);
        assert_non_null(got[i]);
        assert_int_equal((uintptr_t) got[i] % 16, 0);
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(got[i][k], 0);
        memset(got[i], i + 1, sizes[i]);
    }
    for (int i = 0; i < 10; i++) /* nobody wrote over anybody */
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(got[i][k], i + 1);
    arena_fini(&a);
    assert_int_equal(a.used_bytes, 0);
    assert_non_null(arena_get(&a, 8)); /* and it may be used again */
    arena_fini(&a);
}

static void arena_keeps_its_cap(void **state)
{
    struct arena a;
    (void) state;
    arena_init(&a, 1024);
    assert_null(arena_get(&a, 1025));
    assert_null(arena_get(&a, SIZE_MAX));
    assert_null(arena_get(&a, SIZE_MAX - 8));
    assert_non_null(arena_get(&a, 1000)); /* 1008 with its padding */
    assert_null(arena_get(&a, 17));
    assert_non_null(arena_get(&a, 16));
    assert_null(arena_get(&a, 1));
    assert_int_equal(a.used_bytes, 1024);
    arena_fini(&a);
}

static void arena_copies(void **state)
{
    struct arena a;
    (void) state;
    arena_init(&a, 64);
    assert_string_equal(arena_copy(&a, "word", 4), "word");
    assert_string_equal(arena_copy(&a, NULL, 0), "");
    char *with_nul = arena_copy(&a, "a\0b", 3);
    assert_memory_equal(with_nul, "a\0b", 4);
    assert_null(arena_copy(&a, "x", 64));
    assert_null(arena_copy(&a, "x", SIZE_MAX));
    arena_fini(&a);
}

/* --- buffer --- */

static void buf_gives_back_what_it_took(void **state)
{
    struct buf b = {0};
    uint8_t in = 0, expected = 0, out[64];
    (void) state;
    for (int i = 0; i < 3000; i++) { /* more goes in than comes out, then less */
        uint8_t chunk[50];
        size_t n = (size_t) (i * 7 % 50), m = (size_t) (i * (i < 1500 ? 5 : 11) % 64);
        for (size_t k = 0; k < n; k++)
            chunk[k] = in++;
        assert_int_equal(buf_append(&b, chunk, n), 0);
        m = buf_take(&b, out, m);
        for (size_t k = 0; k < m; k++)
            assert_int_equal(out[k], expected++);
    }
    while (buf_len(&b))
        for (size_t k = 0, m = buf_take(&b, out, sizeof out); k < m; k++)
            assert_int_equal(out[k], expected++);
    assert_int_equal(in, expected);
    buf_free(&b);
    assert_null(b.p);
}

static void buf_lets_large_memory_go(void **state)
{
    static uint8_t block[40000];
    struct buf b = {0};
    (void) state;
    assert_int_equal(buf_append(&b, block, sizeof block), 0);
    assert_int_equal(buf_take(&b, block, sizeof block), sizeof block);
    assert_int_equal(b.cap, 0);
    assert_int_equal(buf_take(&b, block, 1), 0);
    assert_null(buf_reserve(&b, SIZE_MAX / 2));
    assert_int_equal(buf_append(&b, block, 100), 0);
    assert_int_equal(buf_take(&b, block, 100), 100);
    assert_in_range(b.cap, 100, 16384); /* small memory stays */
    buf_free(&b);
}

/* --- queue --- */

struct note {
    int *to, *n, value, status;
};

static int take_note(void *arg)
{
    struct note *w = arg;
    w->to[(*w->n)++] = w->value;
    return w->status;
}

static void queue_runs_in_order(void **state)
{
    int seen[8], n = 0;
    struct note w[] = {{seen, &n, 1, 0}, {seen, &n, 2, 0}, {seen, &n, 3, 0}};
    struct queue *q = queue_new(2);
    (void) state;
    assert_non_null(q);
    assert_int_equal(queue_wait(q), 0); /* nothing posted */
    assert_int_equal(queue_post(q, take_note, &w[0]), 0);
    assert_int_equal(queue_post(q, take_note, &w[1]), 0);
    assert_int_equal(queue_post(q, take_note, &w[2]), ST_LIMIT);
    assert_int_equal(n, 0); /* not before somebody waits */
    assert_int_equal(queue_wait(q), 0);
    assert_int_equal(n, 2);
    assert_int_equal(seen[0], 1);
    assert_int_equal(seen[1], 2);
    assert_int_equal(queue_post(q, take_note, &w[2]), 0);
    assert_int_equal(queue_wait(q), 0);
    assert_int_equal(seen[2], 3);
    queue_free(q);
    queue_free(NULL);
}

static void queue_drops_what_follows_a_failure(void **state)
{
    int seen[8], n = 0;
    struct note w[] = {{seen, &n, 1, 0}, {seen, &n, 2, ST_NOMEM}, {seen, &n, 3, 0}};
    struct queue *q = queue_new(3);
    (void) state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(queue_post(q, take_note, &w[i]), 0);
    assert_int_equal(queue_wait(q), ST_NOMEM);
    assert_int_equal(n, 2);
    assert_int_equal(queue_wait(q), 0); /* the rest is gone */
    assert_int_equal(n, 2);
    queue_free(q);
}

/* --- status --- */

static void status_has_a_name_and_a_text(void **state)
{
    (void) state;
    assert_string_equal(status_name(ST_AGAIN), "ST_AGAIN");
    assert_string_equal(status_text(ST_NONFINITE), "the target produced non-finite logits");
    assert_int_equal(status_grpc(ST_INPUT), 3);
    assert_int_equal(status_grpc(0), 0);
    assert_string_equal(status_name(12345), "ST_?");
    assert_string_equal(status_text(12345), "unknown status");
    assert_int_equal(status_grpc(12345), 2);
#define X(name, value, text, grpc)                                                                           \
    assert_string_equal(status_name(value), #name);                                                          \
    assert_in_range(status_grpc(value), 0, 16);
    STATUS_LIST(X)
#undef X
    assert_false(status_is_fatal(ST_WIRE));
    assert_true(status_is_fatal(ST_FATAL) && status_is_fatal(ST_NOMEM) && status_is_fatal(ST_DEVICE));
}

static void err_holds_one_sentence(void **state)
{
    struct err e;
    char text[2000];
    (void) state;
    assert_int_equal(err_set(NULL, ST_IO, "%d", 1), ST_IO);
    assert_int_equal(err_set(&e, ST_INPUT, "n must be %d, not %d", 1, 2), ST_INPUT);
    assert_int_equal(e.status, ST_INPUT);
    assert_string_equal(e.text, "n must be 1, not 2");
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    err_set(&e, ST_INPUT, "%s", text);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
}

/* --- log --- */

/* What log_line writes to stderr. */
static size_t logged(int level, const char *text, char *out, size_t room)
{
    int to[2], kept = dup(STDERR_FILENO);
    assert_int_equal(pipe(to), 0);
    dup2(to[1], STDERR_FILENO);
    close(to[1]);
    log_line(level, "%s", text);
    dup2(kept, STDERR_FILENO);
    close(kept);
    ssize_t n = read(to[0], out, room - 1);
    close(to[0]);
    assert_true(n >= 0);
    out[n] = 0;
    return (size_t) n;
}

static void log_writes_one_line(void **state)
{
    char out[4096], text[3000];
    (void) state;
    assert_true(logged(LOG_WARN, "a fact", out, sizeof out) > 0);
    assert_non_null(strstr(out, "Z warn a fact\n"));
    assert_int_equal(out[4], '-');
    assert_int_equal(out[10], 'T');
    assert_int_equal(logged(LOG_DEBUG, "not at this level", out, sizeof out), 0);
    log_set_level(LOG_ERROR);
    assert_int_equal(logged(LOG_WARN, "nor this", out, sizeof out), 0);
    log_set_level(LOG_DEBUG);
    assert_true(logged(LOG_DEBUG, "now", out, sizeof out) > 0);
    log_set_level(LOG_INFO);
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    size_t n = logged(LOG_ERROR, text, out, sizeof out);
    assert_in_range(n, 500, 1024);
    assert_int_equal(out[n - 1], '\n');
    assert_int_equal(out[n - 2], 'x');
    assert_int_equal(strlen(out), n);
}

static void log_levels_have_names(void **state)
{
    (void) state;
    assert_int_equal(log_parse_level("error"), LOG_ERROR);
    assert_int_equal(log_parse_level("debug"), LOG_DEBUG);
    assert_int_equal(log_parse_level("loud"), -1);
    assert_int_equal(log_parse_level(""), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(arena_gives_zeroed_aligned_memory),
                                       cmocka_unit_test(arena_keeps_its_cap),
                                       cmocka_unit_test(arena_copies),
                                       cmocka_unit_test(buf_gives_back_what_it_took),
                                       cmocka_unit_test(buf_lets_large_memory_go),
                                       cmocka_unit_test(queue_runs_in_order),
                                       cmocka_unit_test(queue_drops_what_follows_a_failure),
                                       cmocka_unit_test(status_has_a_name_and_a_text),
                                       cmocka_unit_test(err_holds_one_sentence),
                                       cmocka_unit_test(log_writes_one_line),
                                       cmocka_unit_test(log_levels_have_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
