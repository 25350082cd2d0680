/* target.c - target.h on a small random model: sequences, pages and the prefix cache; and the promise under them, that the logits
 * behind a text are the same bits however the text came to be settled. */
#include "target/internal.h"
#include "tests/lib/small.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

enum { PAGES = 20, SEQS = 5, STEPS = 700, ROOT = 3 };

static struct small small;
static struct target *fresh; /* no cache, pages enough; every text is computed anew there */
static uint64_t seed = 1;

static struct target *open_with(struct target_opts o)
{
    struct target *t;
    struct err e = {0};
    if (target_open(&t, &o, &e))
        fail_msg("%s", e.text);
    return t;
}

static int setup(void **state)
{
    (void) state;
    small_open(&small, 4);
    fresh = open_with(small_target(&small, SMALL_CTX / TARGET_PAGE, 0));
    return 0;
}

static int teardown(void **state)
{
    (void) state;
    target_close(fresh);
    small_close(&small);
    return 0;
}

/* --- one sequence and the text it should hold --- */

struct text {
    struct target_seq *seq;
    int32_t tok[SMALL_CTX + 64];
    int n;
};

static void random_text(struct text *x, int n)
{
    x->n = n;
    for (int i = 0; i < n; i++)
        x->tok[i] = small_token(&seed);
}

static struct target_item prompt_item(const struct text *x, int from, int n)
{
    return (struct target_item){.seq = x->seq, .kind = TARGET_PROMPT, .tok = x->tok + from, .n = n};
}

static void settle_prompt(struct target *t, struct text *x, int n)
{
    struct target_item it = prompt_item(x, target_seq_len(x->seq), n);
    assert_int_equal(target_submit(t, &it, 1, NULL), 0);
    assert_int_equal(target_wait(t), 0);
}

/* The sequence of all of x, computed where it is not cached.  Returns how much was. */
static int begin(struct target *t, struct text *x)
{
    int32_t cached;
    assert_int_equal(target_seq_new(t, x->tok, x->n, 0, &x->seq, &cached), 0);
    assert_int_equal(target_seq_len(x->seq), cached);
    if (cached < x->n)
        settle_prompt(t, x, x->n - cached);
    return cached;
}

static void end(struct target *t, struct text *x)
{
    target_seq_free(t, x->seq);
    x->seq = NULL;
}

/* --- logits behind a text --- */

static void copy_row(const struct target_item *it, int row, float *out)
{
    const struct logits *l = &it->logits;
    assert_int_equal(l->vocab, SMALL_VOCAB);
    assert_int_equal(l->mem, MEM_HOST);
    assert_in_range(row, 0, l->rows - 1);
    memcpy(out, (const float *) l->row + row * l->stride, SMALL_VOCAB * sizeof *out);
}

/* Of a root behind what is settled; nothing is settled by it. */
static void logits_behind(struct target *t, struct target_seq *s, int32_t root, float *out)
{
    struct tree tree;
    tree_init(&tree, root);
    struct target_item it = {.seq = s, .kind = TARGET_TREE, .tree = &tree};
    int32_t len = target_seq_len(s);
    assert_int_equal(target_submit(t, &it, 1, NULL), 0);
    assert_int_equal(target_wait(t), 0);
    assert_int_equal(target_seq_len(s), len);
    copy_row(&it, 0, out);
}

static void logits_of(const int32_t *tok, int n, int32_t root, float *out)
{
    struct text x = {.n = n};
    int32_t cached;
    memcpy(x.tok, tok, (size_t) n * sizeof *tok);
    x.tok[n] = root;
    assert_int_equal(target_seq_new(fresh, x.tok, n + 1, 0, &x.seq, &cached), 0);
    assert_int_equal(cached, 0);
    if (n)
        settle_prompt(fresh, &x, n);
    logits_behind(fresh, x.seq, root, out);
    end(fresh, &x);
}

static void same_bits(const float *got, const float *want, const char *what)
{
    if (memcmp(got, want, SMALL_VOCAB * sizeof *got))
        fail_msg("%s: the logits differ from those of a fresh prefill", what);
}

static void check_text(struct target *t, const struct text *x, const char *what)
{
    float got[SMALL_VOCAB], want[SMALL_VOCAB];
    assert_int_equal(target_seq_len(x->seq), x->n);
    assert_memory_equal(x->seq->tok, x->tok, (size_t) x->n * sizeof *x->tok);
    if (x->n == SMALL_CTX)
        return;
    logits_of(x->tok, x->n, ROOT, want);
    logits_behind(t, x->seq, ROOT, got);
    same_bits(got, want, what);
}

/* --- pages --- */

static struct target_usage usage(struct target *t)
{
    struct target_usage u;
    target_usage(t, &u);
    return u;
}

static void check_pages(struct target *t, const struct text *x, int n)
{
    struct target_info info;
    uint8_t held[PAGES + SMALL_CTX] = {0};
    int used = 0;
    target_describe(t, &info);
    for (int i = 0; i < n; i++)
        for (int k = 0; x[i].seq && k < x[i].seq->n_pages; k++)
            used += held[x[i].seq->page[k]]++ == 0;
    struct target_usage u = usage(t);
    assert_int_equal(u.pages_used, used);
    assert_int_equal(u.pages_free + u.pages_cached + u.pages_used, info.pages);
}

static void nobody_holds_anything(struct target *t)
{
    assert_int_equal(usage(t).pages_used, 0);
    target_close(t);
}

/* --- opening --- */

static void describes_itself(void **state)
{
    struct target_opts o = small_target(&small, 9, 1);
    struct target_info a, b;
    (void) state;
    o.fingerprint_extra = "one closing text";
    struct target *t = open_with(o);
    target_describe(t, &a);
    assert_int_equal(a.vocab, SMALL_VOCAB);
    assert_int_equal(a.ctx_max, SMALL_CTX);
    assert_int_equal(a.page, TARGET_PAGE);
    assert_int_equal(a.pages, 9);
    assert_int_equal(usage(t).pages_free, 9);
    assert_non_null(strstr(a.device, "cpu"));
    target_close(t);
    o.fingerprint_extra = "another";
    t = open_with(o);
    target_describe(t, &b);
    assert_string_not_equal(a.fingerprint, b.fingerprint);
    target_close(t);
    target_close(NULL);
}

static void refuses_options(void **state)
{
    struct target_opts good = small_target(&small, 9, 1);
    struct err e;
    struct target *t;
    (void) state;
#define REFUSED(change, st, words)                                                                           \
    do {                                                                                                     \
        struct target_opts o = good;                                                                         \
        change;                                                                                              \
        assert_int_equal(target_open(&t, &o, &e), st);                                                       \
        assert_null(t);                                                                                      \
        assert_non_null(strstr(e.text, words));                                                              \
    } while (0)
    REFUSED(o.rows_max = 0, ST_INPUT, "rows_max");
    REFUSED(o.logits_max = 0, ST_INPUT, "logits_max");
    REFUSED(o.ctx_max = SMALL_CTX + 1, ST_INPUT, "the context must be in 2..512");
    REFUSED(o.ctx_max = 1, ST_INPUT, "the context must be in 2..512");
    REFUSED(o.kv_bytes = 0, ST_LIMIT, "one page");
    REFUSED((o.kv_bytes /= 2), ST_LIMIT, "--kv-bytes");
    REFUSED(o.vocab = SMALL_VOCAB + 4, ST_INPUT, "vocabulary");
    REFUSED(o.vocab = 0, ST_INPUT, "vocabulary");
    struct target_opts o = good; /* open: as much context as there are pages for */
    o.ctx_max = 0;
    o.kv_bytes = o.kv_bytes / 9 * 2;
    struct target_info info;
    t = open_with(o);
    target_describe(t, &info);
    assert_int_equal(info.ctx_max, 2 * TARGET_PAGE);
    target_close(t);
}

/* --- limits of a pass --- */

static void again_changes_nothing_and_names_which(void **state)
{
    struct target_opts o = small_target(&small, 4, 0);
    o.ctx_max = 4 * TARGET_PAGE;
    struct target *t = open_with(o);
    struct text x[3] = {0};
    int which = -1;
    (void) state;
    for (int i = 0; i < 3; i++)
        random_text(&x[i], i == 2 ? 130 : 60);
    begin(t, &x[0]);
    begin(t, &x[1]);
    int32_t cached;
    assert_int_equal(target_seq_new(t, x[2].tok, 130, 0, &x[2].seq, &cached), 0);
    struct tree tree;
    tree_init(&tree, ROOT);
    struct target_item it[] = {{.seq = x[0].seq, .kind = TARGET_TREE, .tree = &tree},
                               prompt_item(&x[2], 0, 130),
                               {.seq = x[1].seq, .kind = TARGET_TREE, .tree = &tree}};
    struct target_usage before = usage(t);
    assert_int_equal(target_submit(t, it, 3, &which), ST_AGAIN);
    assert_int_equal(which, 1);
    assert_int_equal(target_submit(t, it, 3, NULL), ST_AGAIN);
    struct target_usage after = usage(t);
    assert_memory_equal(&before, &after, sizeof after);
    assert_int_equal(target_wait(t), 0); /* nothing was posted */
    assert_int_equal(target_seq_len(x[2].seq), 0);
    check_pages(t, x, 3);
    assert_int_equal(target_seq_drop(t, x[1].seq), 0); /* one gives way, and it fits */
    assert_int_equal(target_submit(t, it, 2, &which), 0);
    assert_int_equal(target_wait(t), 0);
    check_text(t, &x[2], "after room was made");
    check_text(t, &x[0], "beside it");
    for (int i = 0; i < 3; i++)
        end(t, &x[i]);
    nobody_holds_anything(t);
}

static void refuses_what_is_over_a_limit(void **state)
{
    struct target_opts o = small_target(&small, 20, 0);
    o.rows_max = 100;
    o.logits_max = 40;
    o.ctx_max = 150;
    struct target *t = open_with(o);
    struct text x[2] = {0};
    struct tree a, b;
    int which = -1;
    (void) state;
    random_text(&x[0], 90);
    random_text(&x[1], 90);
    begin(t, &x[0]);
    begin(t, &x[1]);
    struct target_usage before = usage(t);
    small_tree(&a, ROOT, 30, 20, &seed);
    small_tree(&b, ROOT, 30, 20, &seed);
    struct target_item trees[] = {{.seq = x[0].seq, .kind = TARGET_TREE, .tree = &a},
                                  {.seq = x[1].seq, .kind = TARGET_TREE, .tree = &b}};
    assert_true(a.n + b.n > 40 && a.n <= 40);
    assert_int_equal(target_submit(t, trees, 2, &which), ST_LIMIT); /* logits_max */
    assert_int_equal(which, 1);
    struct target_item rows[] = {prompt_item(&x[0], 0, 55), prompt_item(&x[1], 0, 46)};
    assert_int_equal(target_submit(t, rows, 2, &which), ST_LIMIT); /* rows_max */
    assert_int_equal(which, 1);
    rows[0] = prompt_item(&x[0], 0, 61);
    assert_int_equal(target_submit(t, rows, 1, &which), ST_LIMIT); /* ctx_max, by one */
    assert_int_equal(which, 0);
    struct target_usage after = usage(t);
    assert_memory_equal(&before, &after, sizeof after);
    assert_int_equal(target_submit(t, rows, 0, &which), ST_LIMIT);
    int32_t cached;
    struct target_seq *s;
    assert_int_equal(target_seq_new(t, x[0].tok, 151, 0, &s, &cached), ST_LIMIT);
    assert_null(s);
    assert_int_equal(target_seq_new(t, x[0].tok, 0, 0, &s, &cached), ST_LIMIT);
    assert_int_equal(target_seq_new(t, x[0].tok, 5, 1, &s, &cached), ST_UNSUPPORTED);
    end(t, &x[0]);
    end(t, &x[1]);
    nobody_holds_anything(t);
}

static void the_context_is_filled_to_its_last_token(void **state)
{
    struct target *t = open_with(small_target(&small, 20, 1));
    struct text x = {0};
    struct tree tree;
    struct path path = {0};
    float got[SMALL_VOCAB], want[SMALL_VOCAB];
    (void) state;
    random_text(&x, SMALL_CTX - 2);
    begin(t, &x);
    tree_init(&tree, 9);
    tree_add(&tree, 0, 8, 1, TREE_ORACLE, -1); /* the last position */
    struct target_item it = {.seq = x.seq, .kind = TARGET_TREE, .tree = &tree};
    assert_int_equal(target_submit(t, &it, 1, NULL), 0);
    path.n = 1;
    path.node[0] = 1;
    assert_int_equal(target_settle(t, &path, 1), 0);
    assert_int_equal(target_wait(t), 0);
    assert_int_equal(target_seq_len(x.seq), SMALL_CTX);
    copy_row(&it, 1, got);
    x.tok[x.n++] = 9;
    logits_of(x.tok, x.n, 8, want);
    same_bits(got, want, "at the last position");
    x.tok[x.n++] = 8;
    assert_int_equal(target_submit(t, &it, 1, NULL), ST_LIMIT);
    assert_int_equal(target_rewind(t, x.seq, SMALL_CTX - 1), 0);
    x.n--;
    check_text(t, &x, "one step back from the end");
    end(t, &x);
    nobody_holds_anything(t);
}

static void refuses_bad_items(void **state)
{
    struct target *t = open_with(small_target(&small, 20, 0));
    struct text x = {0};
    struct tree tree;
    int which = 0;
    (void) state;
    random_text(&x, 10);
    begin(t, &x);
    tree_init(&tree, ROOT);
    struct target_item it = {.seq = x.seq, .kind = TARGET_TREE, .tree = &tree};
    tree.tok[0] = SMALL_VOCAB; /* a padding row of the output layer */
    assert_int_equal(target_submit(t, &it, 1, &which), ST_INPUT);
    tree.tok[0] = -1;
    assert_int_equal(target_submit(t, &it, 1, &which), ST_INPUT);
    it = prompt_item(&x, 0, 0);
    assert_int_equal(target_submit(t, &it, 1, &which), ST_INPUT);
    x.tok[3] = SMALL_VOCAB + 3;
    it = prompt_item(&x, 0, 10);
    assert_int_equal(target_submit(t, &it, 1, &which), ST_INPUT);
    assert_int_equal(target_settle(t, NULL, 1), ST_INPUT); /* nothing was submitted */
    assert_int_equal(target_rewind(t, x.seq, 11), ST_INPUT);
    assert_int_equal(target_rewind(t, x.seq, -1), ST_INPUT);
    int32_t cached;
    assert_int_equal(target_seq_attach(t, x.seq, x.tok, 10, &cached), ST_INPUT); /* it holds something */
    end(t, &x);
    nobody_holds_anything(t);
}

/* --- prefix cache --- */

static void whole_pages_are_found_again(void **state)
{
    static const struct {
        int n, cached;
    } known[] = {{1, 0}, {64, 0}, {65, 64}, {128, 64}, {129, 128}, {192, 128}, {193, 192}, {300, 192}};
    struct target *t = open_with(small_target(&small, PAGES, 1));
    struct text x = {0}, y = {0};
    (void) state;
    random_text(&x, 200);
    assert_int_equal(begin(t, &x), 0);
    for (int held = 1; held >= 0; held--) {
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            random_text(&y, known[i].n);
            memcpy(y.tok, x.tok, (size_t) (known[i].n < 200 ? known[i].n : 200) * sizeof *y.tok);
            assert_int_equal(begin(t, &y), known[i].cached);
            check_text(t, &y, "on cached pages");
            end(t, &y);
        }
        random_text(&y, 200);
        memcpy(y.tok, x.tok, 127 * sizeof *y.tok); /* the second page differs in its last token */
        y.tok[127] = (x.tok[127] + 1 + held) % SMALL_VOCAB;
        assert_int_equal(begin(t, &y), 64);
        end(t, &y);
        if (held)
            end(t, &x); /* and all of it again where nobody holds the first */
    }
    assert_true(usage(t).pages_cached > 0);
    nobody_holds_anything(t);
}

static void without_the_cache_nothing_is_found(void **state)
{
    struct target *t = open_with(small_target(&small, PAGES, 0));
    struct text x = {0}, y;
    (void) state;
    random_text(&x, 200);
    begin(t, &x);
    y = x;
    assert_int_equal(begin(t, &y), 0);
    end(t, &x);
    end(t, &y);
    assert_int_equal(usage(t).pages_cached, 0);
    nobody_holds_anything(t);
}

static void the_longest_unused_text_is_evicted(void **state)
{
    struct target *t =
        open_with(small_target(&small, 8, 1)); /* 8 pages; each text takes 3, of which 2 are whole */
    struct text x[4];
    struct target_info info;
    (void) state;
    target_describe(t, &info);
    assert_int_equal(info.pages, 8);
    for (int i = 0; i < 3; i++) {
        random_text(&x[i], 140);
        assert_int_equal(begin(t, &x[i]), 0);
        end(t, &x[i]);
    }
    assert_int_equal(usage(t).pages_cached, 6);
    assert_int_equal(begin(t, &x[0]), 128); /* used again */
    end(t, &x[0]);
    random_text(&x[3], 200); /* takes 4: two free ones, and the two of x[1] */
    assert_int_equal(begin(t, &x[3]), 0);
    end(t, &x[3]);
    assert_int_equal(begin(t, &x[0]), 128);
    check_text(t, &x[0], "kept");
    end(t, &x[0]);
    assert_int_equal(begin(t, &x[2]), 128);
    end(t, &x[2]);
    assert_int_equal(begin(t, &x[1]), 0);
    check_text(t, &x[1], "computed again");
    end(t, &x[1]);
    nobody_holds_anything(t);
}

/* Whoever cuts a page that is published, or that another holds, goes on in a copy. */
static void a_published_page_is_never_rewritten(void **state)
{
    (void) state;
    for (int shared = 0; shared < 2; shared++)
        for (int len = 1; len < 200; len += 21) {
            struct target *t = open_with(small_target(&small, PAGES, 1));
            struct text x = {0}, other = {0}, again;
            random_text(&x, 200);
            again = x;
            begin(t, &x);
            if (shared) {
                other = x;
                assert_int_equal(begin(t, &other), 192);
            }
            assert_int_equal(target_rewind(t, x.seq, len), 0);
            x.n = len;
            check_text(t, &x, "rewound");
            for (; x.n < 230; x.n++)
                x.tok[x.n] = small_token(&seed);
            settle_prompt(t, &x, x.n - len);
            check_text(t, &x, "rewound and gone on");
            assert_int_equal(begin(t, &again), 192);
            check_text(t, &again, "the text that was cut off");
            end(t, &x);
            end(t, &again);
            if (shared)
                end(t, &other);
            nobody_holds_anything(t);
        }
}

static void rewinding_needs_a_page_and_says_so(void **state)
{
    struct target_opts o = small_target(&small, 4, 1);
    o.ctx_max = 200;
    struct target *t = open_with(o);
    struct text x = {0}, other;
    (void) state;
    random_text(&x, 190);
    begin(t, &x);
    other = x;
    assert_int_equal(begin(t, &other), 128); /* 4 pages: two shared, one each */
    struct target_usage before = usage(t), after;
    assert_int_equal(target_rewind(t, x.seq, 100), ST_AGAIN);
    after = usage(t);
    assert_memory_equal(&before, &after, sizeof after);
    check_text(t, &x, "a rewind that did not happen");
    assert_int_equal(target_rewind(t, x.seq, 128), 0); /* at a border nothing is copied */
    x.n = 128;
    check_text(t, &x, "rewound to a border");
    check_text(t, &other, "its neighbour");
    end(t, &x);
    end(t, &other);
    nobody_holds_anything(t);
}

/* --- forks --- */

static void a_fork_is_a_second_sequence(void **state)
{
    static const int lens[] = {1, 63, 64, 65, 128, 150};
    (void) state;
    for (int cache = 0; cache < 2; cache++)
        for (int i = 0; i < 6; i++) {
            struct target *t = open_with(small_target(&small, PAGES, cache));
            struct text x[2] = {0};
            random_text(&x[0], lens[i]);
            begin(t, &x[0]);
            x[1] = x[0];
            assert_int_equal(target_seq_fork(t, x[0].seq, &x[1].seq), 0);
            check_pages(t, x, 2);
            for (int step = 0; step < 3; step++) { /* they go different ways in one pass */
                struct target_item it[2];
                for (int k = 0; k < 2; k++) {
                    for (int j = 0; j < 33; j++)
                        x[k].tok[x[k].n + j] = small_token(&seed);
                    it[k] = prompt_item(&x[k], x[k].n, 33);
                    x[k].n += 33;
                }
                assert_int_equal(target_submit(t, it, 2, NULL), 0);
                assert_int_equal(target_wait(t), 0);
                check_pages(t, x, 2);
            }
            check_text(t, &x[0], "the first");
            check_text(t, &x[1], "the fork");
            end(t, &x[0]);
            check_text(t, &x[1], "the fork alone");
            end(t, &x[1]);
            nobody_holds_anything(t);
        }
}

/* Whole pages that a fork shares are not in the cache here; who cuts one goes on in a copy all the same. */
static void a_fork_may_cut_a_shared_page(void **state)
{
    (void) state;
    for (int who = 0; who < 2; who++) {
        struct target *t = open_with(small_target(&small, PAGES, 0));
        struct text x[2] = {0};
        random_text(&x[0], 150);
        begin(t, &x[0]);
        x[1] = x[0];
        assert_int_equal(target_seq_fork(t, x[0].seq, &x[1].seq), 0);
        assert_int_equal(target_rewind(t, x[who].seq, 100), 0);
        for (x[who].n = 100; x[who].n < 170; x[who].n++)
            x[who].tok[x[who].n] = small_token(&seed);
        settle_prompt(t, &x[who], 70);
        check_pages(t, x, 2);
        check_text(t, &x[0], "the first");
        check_text(t, &x[1], "the fork");
        end(t, &x[0]);
        end(t, &x[1]);
        nobody_holds_anything(t);
    }
}

static void a_fork_without_a_page_is_refused(void **state)
{
    struct target_opts o = small_target(&small, 2, 0);
    o.ctx_max = 128;
    struct target *t = open_with(o);
    struct text x = {0};
    struct target_seq *s;
    (void) state;
    random_text(&x, 100);
    begin(t, &x);
    assert_int_equal(target_seq_fork(t, x.seq, &s), ST_AGAIN);
    assert_null(s);
    assert_int_equal(target_rewind(t, x.seq, 64), 0);
    assert_int_equal(target_seq_fork(t, x.seq, &s), 0); /* a whole page is shared */
    assert_int_equal(usage(t).pages_used, 1);
    target_seq_free(t, s);
    end(t, &x);
    nobody_holds_anything(t);
}

/* A tree that nobody settled leaves nothing behind but room that was taken for it. */
static void what_is_not_settled_is_forgotten(void **state)
{
    struct target *t = open_with(small_target(&small, PAGES, 1));
    struct text x = {0}, y = {0};
    int32_t cached;
    (void) state;
    random_text(&x, 100);
    begin(t, &x);
    y = x;
    end(t, &x);
    assert_int_equal(target_seq_new(t, y.tok, 1, 0, &y.seq, &cached), 0); /* empty, with a page of its own */
    y.n = 0;
    check_text(t, &y, "an unsettled root");
    assert_int_equal(target_seq_attach(t, y.seq, x.tok, 100, &cached), 0);
    assert_int_equal(cached, 64);
    y.n = 64;
    check_pages(t, &y, 1);
    check_text(t, &y, "attached in its place");
    end(t, &y);
    nobody_holds_anything(t);
}

/* --- everything at once --- */

struct world {
    struct target *t;
    struct text x[SEQS];
    int again, compared;
};

static struct text *any(struct world *w)
{
    return &w->x[small_dice(&seed, SEQS)];
}

/* A text that begins like another one, as much of it as was cached. */
static void renew(struct world *w, struct text *x)
{
    const struct text *from = any(w);
    struct text next;
    int32_t cached;
    random_text(&next, 1 + (int) small_dice(&seed, 300));
    int same = (int) small_dice(&seed, (uint32_t) next.n);
    same = same < from->n ? same : from->n;
    memcpy(next.tok, from->tok, (size_t) same * sizeof *next.tok);
    if (x->seq && small_dice(&seed, 2)) {
        assert_int_equal(target_seq_drop(w->t, x->seq), 0);
        assert_int_equal(target_seq_len(x->seq), 0);
        assert_int_equal(target_seq_attach(w->t, x->seq, next.tok, next.n, &cached), 0);
        next.seq = x->seq;
    } else {
        if (x->seq)
            end(w->t, x);
        assert_int_equal(target_seq_new(w->t, next.tok, next.n, 0, &next.seq, &cached), 0);
    }
    assert_true(cached % TARGET_PAGE == 0 && cached < next.n);
    next.n = cached;
    *x = next;
}

static void fork_one(struct world *w, struct text *x)
{
    struct text *from = any(w), copy = *from;
    if (from == x)
        return;
    int st = target_seq_fork(w->t, from->seq, &copy.seq);
    w->again += st == ST_AGAIN;
    if (st) {
        assert_int_equal(st, ST_AGAIN);
        return;
    }
    end(w->t, x);
    *x = copy;
}

static void rewind_one(struct world *w, struct text *x)
{
    int len = (int) small_dice(&seed, (uint32_t) x->n + 1);
    int st = target_rewind(w->t, x->seq, len);
    w->again += st == ST_AGAIN;
    if (st)
        assert_int_equal(st, ST_AGAIN);
    else
        x->n = len;
}

struct batch {
    struct text *x[SEQS];
    struct target_item it[SEQS];
    struct tree tree[SEQS];
    struct path path[SEQS];
    int32_t tok[SEQS][80];
    int n;
};

static void add_item(struct batch *b, struct text *x)
{
    int i = b->n, kind = (int) small_dice(&seed, 3), n = 1 + (int) small_dice(&seed, 80);
    if (x->n + 80 > SMALL_CTX)
        return;
    for (int k = 0; k < n; k++)
        b->tok[i][k] = small_token(&seed);
    small_tree(&b->tree[i], b->tok[i][0], 1 + (int) small_dice(&seed, 40), 30, &seed);
    small_path(&b->tree[i], &b->path[i], &seed);
    b->it[i] = (struct target_item){.seq = x->seq,
                                    .kind = kind,
                                    .n = n,
                                    .tok = b->tok[i],
                                    .tree = &b->tree[i],
                                    .want_logits = kind == TARGET_KNOWN && small_dice(&seed, 2)};
    b->x[b->n++] = x;
}

/* The text above one row of an item, and its token. */
static int32_t above_row(const struct batch *b, int i, int row, struct text *out)
{
    const struct tree *t = &b->tree[i];
    *out = *b->x[i];
    if (b->it[i].kind == TARGET_KNOWN) {
        memcpy(out->tok + out->n, b->tok[i], (size_t) b->it[i].n * sizeof *out->tok);
        out->n += b->it[i].n - 1;
        return b->tok[i][b->it[i].n - 1];
    }
    for (int node = t->parent[row]; node >= 0; node = t->parent[node])
        out->tok[out->n + t->depth[node]] = t->tok[node];
    out->n += t->depth[row];
    return t->tok[row];
}

/* One row of logits of the pass, any. */
static void check_row(struct world *w, const struct batch *b)
{
    int i = (int) small_dice(&seed, (uint32_t) b->n), rows = b->it[i].logits.rows;
    float got[SMALL_VOCAB], want[SMALL_VOCAB];
    struct text above;
    assert_int_equal(rows, b->it[i].kind == TARGET_TREE ? b->tree[i].n : b->it[i].want_logits);
    if (rows == 0)
        return;
    int row = (int) small_dice(&seed, (uint32_t) rows);
    int32_t root = above_row(b, i, row, &above);
    copy_row(&b->it[i], row, got);
    logits_of(above.tok, above.n, root, want);
    same_bits(got, want, "a row of a pass");
    w->compared++;
}

static void note_settled(struct batch *b)
{
    for (int i = 0; i < b->n; i++) {
        struct text *x = b->x[i];
        const struct tree *t = &b->tree[i];
        if (b->it[i].kind != TARGET_TREE) {
            memcpy(x->tok + x->n, b->tok[i], (size_t) b->it[i].n * sizeof *x->tok);
            x->n += b->it[i].n;
            continue;
        }
        x->tok[x->n++] = t->tok[0];
        for (int k = 0; k < b->path[i].n; k++)
            x->tok[x->n++] = t->tok[b->path[i].node[k]];
    }
}

static void one_pass(struct world *w)
{
    static struct batch b;
    struct target_usage before = usage(w->t), after;
    int which = -1;
    b.n = 0;
    for (int i = 0; i < SEQS; i++)
        if (small_dice(&seed, 2))
            add_item(&b, &w->x[i]);
    if (b.n == 0)
        return;
    int st = target_submit(w->t, b.it, b.n, &which);
    if (st == ST_AGAIN) {
        after = usage(w->t);
        assert_memory_equal(&before, &after, sizeof after);
        assert_in_range(which, 0, b.n - 1);
        w->again++;
        renew(w, any(w));
        return;
    }
    assert_int_equal(st, 0);
    assert_int_equal(target_settle(w->t, b.path, b.n), 0);
    assert_int_equal(target_wait(w->t), 0);
    check_row(w, &b);
    note_settled(&b);
}

static void wander(int prefix_cache, int steps)
{
    struct world w = {.t = open_with(small_target(&small, PAGES, prefix_cache))};
    for (int i = 0; i < SEQS; i++)
        renew(&w, &w.x[i]);
    for (int step = 0; step < steps; step++) {
        uint32_t what = small_dice(&seed, 10);
        if (what == 0)
            rewind_one(&w, any(&w));
        else if (what == 1)
            renew(&w, any(&w));
        else if (what == 2)
            fork_one(&w, any(&w));
        else
            one_pass(&w);
        check_pages(w.t, w.x, SEQS);
        if (step % 4 == 0 && usage(w.t).pages_free + usage(w.t).pages_cached > 0)
            check_text(w.t, any(&w), "after a random step");
    }
    print_message("%d rows compared, %d times out of pages\n", w.compared, w.again);
    assert_in_range(w.compared, steps / 5, steps);
    assert_in_range(w.again, steps / 100, steps);
    for (int i = 0; i < SEQS; i++)
        end(w.t, &w.x[i]);
    nobody_holds_anything(w.t);
}

static void any_road_gives_the_same_bits(void **state)
{
    (void) state;
    seed = 2025;
    wander(1, STEPS);
    wander(0, STEPS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(describes_itself),
                                       cmocka_unit_test(refuses_options),
                                       cmocka_unit_test(again_changes_nothing_and_names_which),
                                       cmocka_unit_test(refuses_what_is_over_a_limit),
                                       cmocka_unit_test(the_context_is_filled_to_its_last_token),
                                       cmocka_unit_test(refuses_bad_items),
                                       cmocka_unit_test(whole_pages_are_found_again),
                                       cmocka_unit_test(without_the_cache_nothing_is_found),
                                       cmocka_unit_test(the_longest_unused_text_is_evicted),
                                       cmocka_unit_test(a_published_page_is_never_rewritten),
                                       cmocka_unit_test(rewinding_needs_a_page_and_says_so),
                                       cmocka_unit_test(a_fork_is_a_second_sequence),
                                       cmocka_unit_test(a_fork_may_cut_a_shared_page),
                                       cmocka_unit_test(a_fork_without_a_page_is_refused),
                                       cmocka_unit_test(what_is_not_settled_is_forgotten),
                                       cmocka_unit_test(any_road_gives_the_same_bits)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
