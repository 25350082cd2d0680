/* pages.c - reference counts and the prefix cache, without a model: random users against an obvious bookkeeping, and the order in
 * which pages that nobody holds go. */
#include "target/internal.h"
#include "tests/lib/small.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

enum { N = 24, USERS = 6, HELD_MAX = 8, KINDS = 3, STEPS = 20000 };

static int32_t words[KINDS + 1][TARGET_PAGE]; /* contents a page may have */

static void fill_words(void)
{
    for (int k = 0; k <= KINDS; k++)
        for (int i = 0; i < TARGET_PAGE; i++)
            words[k][i] = i == TARGET_PAGE - 1 ? k : i; /* alike but for the last token */
}

/* Everything that must hold at any time. */
static void check_books(const struct pages *p, const int *refs)
{
    int free_pages = 0, idle = 0, in_buckets = 0, published = 0;
    uint8_t seen[N] = {0};
    for (int i = 0; i < p->n_free; i++) {
        int32_t page = p->free_list[i];
        assert_int_equal(seen[page]++, 0);
        assert_int_equal(refs[page], 0);
        assert_true(p->info[page].serial == 0);
        free_pages++;
    }
    for (int32_t page = p->oldest, before = -1; page >= 0; before = page, page = p->info[page].newer) {
        assert_int_equal(p->info[page].older, before);
        assert_int_equal(seen[page]++, 0);
        assert_int_equal(refs[page], 0);
        assert_true(p->info[page].serial != 0);
        if (p->info[page].newer < 0)
            assert_int_equal(p->newest, page);
        idle++;
    }
    for (int32_t i = 0; i < p->n_buckets; i++)
        for (int32_t page = p->bucket[i]; page >= 0; page = p->info[page].chain)
            in_buckets++;
    for (int i = 0; i < N; i++) {
        assert_int_equal(p->info[i].refs, refs[i]);
        assert_int_equal(seen[i], refs[i] == 0);
        published += p->info[i].serial != 0;
    }
    assert_int_equal(in_buckets, published);
    assert_int_equal(p->n_idle, idle);
    assert_int_equal(target__pages_available(p), free_pages + idle);
}

struct user {
    int n;
    int32_t page[HELD_MAX];
    uint64_t serial[HELD_MAX];
};

/* Goes on by one page with contents k: a cached one, or a new one that is then published. */
static void grow(struct pages *p, struct user *u, int k, int *refs)
{
    uint64_t parent = u->n ? u->serial[u->n - 1] : 0;
    int32_t page = target__page_find(p, parent, words[k]);
    if (page >= 0) {
        assert_memory_equal(p->info[page].tok, words[k], sizeof words[k]);
        target__page_ref(p, page);
        u->serial[u->n] = p->info[page].serial;
    } else if (target__pages_available(p) == 0) {
        assert_int_equal(target__page_get(p), -1);
        return;
    } else {
        page = target__page_get(p);
        assert_int_equal(refs[page], 0);
        u->serial[u->n] = target__page_publish(p, page, parent, words[k]);
        assert_int_equal(target__page_find(p, parent, words[k]), page);
    }
    refs[page]++;
    u->page[u->n++] = page;
}

static void books_are_kept(void **state)
{
    struct pages p;
    struct user user[USERS] = {0};
    int refs[N] = {0};
    uint64_t dice = 8;
    (void) state;
    fill_words();
    assert_int_equal(target__pages_init(&p, N), 0);
    check_books(&p, refs);
    for (int step = 0; step < STEPS; step++) {
        struct user *u = &user[small_dice(&dice, USERS)];
        if (small_dice(&dice, 3) && u->n < HELD_MAX)
            grow(&p, u, (int) small_dice(&dice, KINDS), refs);
        else
            for (int keep = (int) small_dice(&dice, HELD_MAX); u->n > keep;) {
                int32_t page = u->page[--u->n];
                refs[page]--;
                target__page_put(&p, page);
            }
        check_books(&p, refs);
    }
    target__pages_fini(&p);
}

static void the_longest_unused_goes_first(void **state)
{
    struct pages p;
    int32_t page[4];
    (void) state;
    fill_words();
    assert_int_equal(target__pages_init(&p, 4), 0);
    for (int k = 0; k < 4; k++) {
        page[k] = target__page_get(&p);
        assert_true(target__page_publish(&p, page[k], 0, words[k]) != 0);
    }
    assert_int_equal(target__page_get(&p), -1);
    for (int k = 0; k < 4; k++)
        target__page_put(&p, page[k]);
    target__page_ref(&p, page[0]); /* used again: now the newest */
    target__page_put(&p, page[0]);
    for (int i = 0; i < 4; i++) {
        int k = (i + 1) % 4;
        assert_int_equal(target__page_find(&p, 0, words[k]), page[k]);
        assert_int_equal(target__page_get(&p), page[k]);
        assert_int_equal(target__page_find(&p, 0, words[k]), -1);
    }
    assert_int_equal(target__page_get(&p), -1);
    target__pages_fini(&p);
}

/* Contents that are known already keep the first page's name; the second stays a private copy. */
static void the_first_of_two_alike_is_known(void **state)
{
    struct pages p;
    (void) state;
    fill_words();
    assert_int_equal(target__pages_init(&p, 3), 0);
    int32_t a = target__page_get(&p), b = target__page_get(&p);
    uint64_t serial = target__page_publish(&p, a, 0, words[0]);
    assert_true(target__page_publish(&p, b, 0, words[0]) == serial);
    assert_int_equal(target__page_find(&p, 0, words[0]), a);
    assert_int_equal(target__page_find(&p, serial, words[0]),
                     -1); /* the same words elsewhere are another page */
    target__page_put(&p, b);
    assert_int_equal(p.n_free, 2); /* it was not in the cache */
    target__page_put(&p, a);
    assert_int_equal(p.n_idle, 1);
    target__pages_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(books_are_kept),
                                       cmocka_unit_test(the_longest_unused_goes_first),
                                       cmocka_unit_test(the_first_of_two_alike_is_known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
