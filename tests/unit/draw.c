/* draw.c - masks, cuts and the draw against an obvious slow writing of NUMERICS.md ("The draw"); the draft's ranking by the same
 * dice; refusals at the door. */
#include "core/math.h"
#include "draw/draw.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { V_MAX = 600, DRAWS = 4000, LIST_MAX = 40 };

static uint64_t seed = 20;

static uint32_t dice(uint32_t n)
{
    return (uint32_t) (synth_next(&seed) >> 33) % n;
}

/* --- the slow way --- */

struct entry {
    int32_t id;
    float value; /* l / T; l itself at T = 0 */
};

static int better(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static int in(const int32_t *list, int32_t n, int32_t id)
{
    for (int32_t i = 0; i < n; i++)
        if (list[i] == id)
            return 1;
    return 0;
}

static int masked(const struct draw_params *p, const struct draw_state *s, int32_t v)
{
    int early = s->n_output < p->min_tokens;
    return in(p->banned, p->n_banned, v) || (p->n_allowed && !in(p->allowed, p->n_allowed, v)) ||
           ((early || s->mask_eos) && in(p->eos, p->n_eos, v)) || (early && in(p->stop, p->n_stop, v));
}

static double share(const struct entry *e, const struct entry *best)
{
    return math_exp((double) (e->value - best->value));
}

static int by_id(const void *a, const void *b)
{
    return ((const struct entry *) a)->id - ((const struct entry *) b)->id;
}

static double total_in_order_of_id(const struct entry *e, int n)
{
    struct entry copy[V_MAX];
    double sum = 0;
    memcpy(copy, e, (size_t) n * sizeof *e);
    qsort(copy, (size_t) n, sizeof *copy, by_id);
    for (int i = 0; i < n; i++)
        sum += share(&copy[i], &e[0]);
    return sum;
}

static int slow_top_p(const struct draw_params *p, const struct entry *e, int n)
{
    double total = 0, sum = 0;
    int kept = 0;
    if (p->top_p >= 1)
        return n;
    if (p->top_k > 0)
        for (int i = 0; i < n; i++)
            total += share(&e[i], &e[0]);
    else
        total = total_in_order_of_id(e, n);
    while (kept < n && sum < p->top_p * total)
        sum += share(&e[kept++], &e[0]);
    return kept;
}

/* What masks and cuts leave, best first. */
static int slow_kept(const struct draw_params *p, const struct draw_state *s, const float *l, int vocab,
                     struct entry *e)
{
    int n = 0, m;
    int cold = p->temperature < 1e-3f;
    for (int32_t v = 0; v < vocab; v++)
        if (!masked(p, s, v))
            e[n++] = (struct entry){v, cold ? l[v] : l[v] * (1.0f / p->temperature)};
    qsort(e, (size_t) n, sizeof *e, better);
    if (cold || n == 0)
        return n;
    if (p->top_k > 0 && n > p->top_k)
        n = p->top_k;
    n = slow_top_p(p, e, n);
    for (m = 1; m < n && share(&e[m], &e[0]) >= p->min_p; m++)
        ;
    return m;
}

/* Every outcome with its score, best first. */
static int slow_rank(const struct draw_params *p, const struct draw_state *s, const float *l, int vocab,
                     struct entry *e)
{
    int n = slow_kept(p, s, l, vocab, e);
    for (int i = 0; i < n && p->temperature >= 1e-3f; i++)
        e[i].value += draw_noise(p->seed, (uint32_t) p->choice, (uint32_t) s->pos, (uint32_t) e[i].id);
    qsort(e, (size_t) n, sizeof *e, better);
    return n;
}

/* --- random requests --- */

struct lists {
    int32_t eos[LIST_MAX], stop[LIST_MAX], banned[LIST_MAX], allowed[LIST_MAX];
};

static int32_t random_list(int32_t *list, int most, int vocab)
{
    int32_t n = 0;
    for (int32_t v = (int32_t) dice(8); v < vocab && n < most;
         v += 1 + (int32_t) dice((uint32_t) vocab / 8 + 1))
        list[n++] = v;
    return n;
}

static void random_params(struct draw_params *p, struct draw_state *s, struct lists *x, int vocab)
{
    static const float temperatures[] = {0, 0.0009f, 0.001f, 0.3f, 0.6f, 1, 1, 2, 40};
    static const int32_t top_ks[] = {0, 0, 0, 1, 2, 20, 64, 65, 100, 5000};
    static const float top_ps[] = {1, 1, 1, 0.95f, 0.8f, 0.5f, 1e-6f};
    static const float min_ps[] = {0, 0, 0, 0.02f, 0.3f, 1};
    *p = (struct draw_params){.temperature = temperatures[dice(9)],
                              .top_k = top_ks[dice(10)],
                              .top_p = top_ps[dice(7)],
                              .min_p = min_ps[dice(6)],
                              .seed = synth_next(&seed),
                              .choice = (int32_t) dice(3),
                              .min_tokens = dice(2) ? 0 : 10,
                              .max_tokens = 100,
                              .eos = x->eos,
                              .stop = x->stop,
                              .banned = x->banned,
                              .allowed = x->allowed,
                              .n_eos = random_list(x->eos, 3, vocab),
                              .n_stop = dice(2) ? random_list(x->stop, 3, vocab) : 0,
                              .n_banned = dice(2) ? random_list(x->banned, LIST_MAX, vocab) : 0,
                              .n_allowed = dice(4) ? 0 : random_list(x->allowed, LIST_MAX, vocab)};
    *s = (struct draw_state){
        .pos = dice(4) ? dice(100000) : UINT32_MAX, .n_output = (int32_t) dice(20), .mask_eos = dice(4) == 0};
}

/* Some draws have logits on a coarse grid, so that values tie; some have a few that stand out, so that cuts are short. */
static void random_logits(float *l, int vocab)
{
    int grid = dice(3) == 0, sharp = dice(2) == 0;
    for (int v = 0; v < vocab; v++) {
        float x = 6 * synth_uniform(&seed);
        l[v] = (grid ? rintf(x) : x) + (sharp && dice(40) == 0 ? 8 : 0);
    }
}

static void check_draw(struct draw_scratch *x, int vocab, int *none)
{
    static float l[V_MAX], copy[V_MAX];
    struct entry want[V_MAX];
    struct lists lists;
    struct draw_params p;
    struct draw_state s;
    int32_t tok = -7, ranked[64];
    float score[64], prob[64];
    random_params(&p, &s, &lists, vocab);
    random_logits(l, vocab);
    memcpy(copy, l, sizeof l);
    int n = slow_rank(&p, &s, l, vocab, want), st = draw_pick(&p, &s, NULL, l, vocab, x, &tok);
    int k = 1 + (int) dice(20), m = draw_rank(&p, &s, NULL, l, vocab, x, k, ranked, score, prob);
    assert_memory_equal(l, copy, sizeof l);
    assert_int_equal(m, k < n ? k : n);
    if (n == 0) {
        ++*none;
        assert_int_equal(st, ST_INPUT);
        return;
    }
    assert_int_equal(st, 0);
    if (tok != want[0].id)
        fail_msg("T %g top_k %d top_p %g min_p %g: drew %d, not %d", (double) p.temperature, p.top_k,
                 (double) p.top_p, (double) p.min_p, tok, want[0].id);
    for (int i = 0; i < m; i++) {
        assert_int_equal(ranked[i], want[i].id);
        assert_true(score[i] == want[i].value);
    }
}

static void draws_as_the_slow_way(void **state)
{
    int none = 0;
    (void) state;
    for (int i = 0; i < DRAWS; i++) {
        int vocab = 3 + (int) dice(V_MAX - 3);
        struct draw_scratch *x = draw_scratch_new(vocab);
        assert_non_null(x);
        check_draw(x, vocab, &none);
        draw_scratch_free(x);
    }
    print_message("%d draws, masks left nothing in %d\n", DRAWS, none);
    assert_in_range(none, 1, DRAWS / 4);
}

/* --- single facts --- */

static int pick(const struct draw_params *p, const float *l, int vocab, int32_t *tok)
{
    struct draw_scratch *x = draw_scratch_new(vocab);
    struct draw_state s = {.pos = 5};
    assert_non_null(x);
    int st = draw_pick(p, &s, NULL, l, vocab, x, tok);
    draw_scratch_free(x);
    return st;
}

static void cold_is_the_lowest_of_the_best(void **state)
{
    static const float l[] = {1, 3, 2, 3, 3, -5};
    struct draw_params p = {.top_p = 1, .max_tokens = 1};
    int32_t tok;
    (void) state;
    assert_int_equal(pick(&p, l, 6, &tok), 0);
    assert_int_equal(tok, 1);
    p.temperature = 0.00099f;
    p.seed = 99;
    assert_int_equal(pick(&p, l, 6, &tok), 0);
    assert_int_equal(tok, 1);
    p.banned = (const int32_t[]){1};
    p.n_banned = 1;
    assert_int_equal(pick(&p, l, 6, &tok), 0);
    assert_int_equal(tok, 3);
}

/* One value out of bounds anywhere spoils the row, masked or not; nothing is guessed from it either. */
static void refuses_what_is_not_finite(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0x1p118f};
    static const float temperatures[] = {0, 0.001f, 1};
    enum { N = 37 };
    struct draw_scratch *x = draw_scratch_new(N);
    struct draw_state s = {.pos = 5};
    int32_t banned[N], tok;
    float l[N], score, prob;
    (void) state;
    for (int at = 0; at < N; at++)
        for (size_t i = 0; i < 3 * sizeof bad / sizeof *bad; i++) {
            struct draw_params p = {.temperature = temperatures[i % 3], .top_p = 0.9f, .max_tokens = 1};
            for (int v = 0; v < N; v++)
                l[v] = (float) v;
            l[at] = bad[i / 3];
            assert_int_equal(draw_pick(&p, &s, NULL, l, N, x, &tok), ST_NONFINITE);
            assert_int_equal(draw_rank(&p, &s, NULL, l, N, x, 1, &tok, &score, &prob), 0);
            banned[0] = at;
            p.banned = banned;
            p.n_banned = 1;
            assert_int_equal(draw_pick(&p, &s, NULL, l, N, x, &tok), ST_NONFINITE);
        }
    for (int v = 0; v < N; v++)
        l[v] =
            v % 2 ? 0x1.fffffep117f : -0x1.fffffep117f; /* large, and still a number after any temperature */
    struct draw_params p = {.temperature = 0.001f, .top_p = 0.9f, .max_tokens = 1};
    assert_int_equal(draw_pick(&p, &s, NULL, l, N, x, &tok), 0);
    assert_int_equal(tok % 2, 1);
    draw_scratch_free(x);
}

/* Ids beyond the logits (a draft whose vocabulary is smaller) are masked by nobody's memory. */
static void ids_beyond_the_logits_are_left_alone(void **state)
{
    static const float l[] = {1, 2, 3, 4};
    static const int32_t list[] = {3, 4, 1000000};
    struct draw_params p = {.top_p = 1, .max_tokens = 2, .min_tokens = 2, .banned = list, .n_banned = 3};
    int32_t tok;
    (void) state;
    p.eos = p.stop = list;
    p.n_eos = p.n_stop = 3;
    assert_int_equal(pick(&p, l, 4, &tok), 0);
    assert_int_equal(tok, 2);
    p = (struct draw_params){.top_p = 1, .max_tokens = 2, .allowed = list, .n_allowed = 3};
    assert_int_equal(pick(&p, l, 4, &tok), 0);
    assert_int_equal(tok, 3);
}

/* The most noise there is (word 0, one in 2^32) lifts id 19 to a tie with id 200, which it wins, from so far below that a bound
 * rounded the wrong way would not look at it.  Around 2^25 a float's step is 2 below and 4 above. */
static void the_most_noise_is_not_overlooked(void **state)
{
    enum { N = 300, LOW = 19, HIGH = 200, POS = 61896890 };
    struct draw_params p = {.temperature = 1, .top_p = 1, .max_tokens = 1, .seed = 1};
    struct draw_state s = {.pos = POS};
    struct draw_scratch *x = draw_scratch_new(N);
    float l[N] = {0};
    int32_t tok;
    (void) state;
    assert_non_null(x);
    assert_true(draw_noise(1, 0, POS, LOW) > 22.87f);
    l[HIGH] = 0x1p25f + 4;
    l[LOW] = 0x1p25f - 20;
    assert_true(l[HIGH] + draw_noise(1, 0, POS, HIGH) == l[HIGH]);
    assert_true(l[LOW] + draw_noise(1, 0, POS, LOW) == l[HIGH]);
    assert_int_equal(draw_pick(&p, &s, NULL, l, N, x, &tok), 0);
    assert_int_equal(tok, LOW);
    draw_scratch_free(x);
}

/* Probabilities are the softmax of l / T (T = 1 when cold) before cuts. */
static void rank_gives_probabilities(void **state)
{
    enum { N = 50 };
    static const float temperatures[] = {0, 0.7f, 1.3f};
    struct draw_scratch *x = draw_scratch_new(N);
    (void) state;
    for (int t = 0; t < 3; t++) {
        struct draw_params p = {.temperature = temperatures[t], .top_p = 0.8f, .max_tokens = 1, .seed = 4};
        struct draw_state s = {.pos = 9};
        float l[N], score[8], prob[8];
        int32_t tok[8];
        double sum = 0;
        random_logits(l, N);
        int n = draw_rank(&p, &s, NULL, l, N, x, 8, tok, score, prob);
        float inv = t ? 1 / p.temperature : 1;
        for (int v = 0; v < N; v++)
            sum += exp((double) l[v] * inv);
        assert_in_range(n, 1, 8);
        for (int i = 0; i < n; i++) {
            double q = exp((double) l[tok[i]] * inv) / sum;
            assert_true(fabs(prob[i] - q) < 1e-5);
        }
    }
    draw_scratch_free(x);
}

/* --- refusals --- */

static struct draw_params good(void)
{
    return (struct draw_params){
        .temperature = 1, .top_p = 1, .repetition = 1, .max_tokens = 10, .think = {-1, -1, -1, -1, NULL, 0}};
}

static void refused(const struct draw_params *p, const char *sentence)
{
    struct err e = {0};
    assert_int_equal(draw_check(p, 100, &e), ST_INPUT);
    assert_int_equal(e.status, ST_INPUT);
    assert_string_equal(e.text, sentence);
    assert_int_equal(draw_check(p, 100, NULL), ST_INPUT);
}

#define REFUSED(change, sentence)                                                                            \
    do {                                                                                                     \
        struct draw_params p = good();                                                                       \
        assert_int_equal(draw_check(&p, 100, NULL), 0);                                                      \
        change;                                                                                              \
        refused(&p, sentence);                                                                               \
    } while (0)

static void refuses_values_out_of_range(void **state)
{
    (void) state;
    REFUSED(p.temperature = -0.5f, "temperature must be a finite number >= 0, not -0.5");
    REFUSED(p.temperature = NAN, "temperature must be a finite number >= 0, not nan");
    REFUSED(p.temperature = INFINITY, "temperature must be a finite number >= 0, not inf");
    REFUSED(p.top_k = -1, "top_k must be >= 0 (0: off), not -1");
    REFUSED(p.top_p = 0, "top_p must be above 0 and at most 1, not 0");
    REFUSED(p.top_p = 1.5f, "top_p must be above 0 and at most 1, not 1.5");
    REFUSED(p.top_p = NAN, "top_p must be above 0 and at most 1, not nan");
    REFUSED(p.min_p = -0.25f, "min_p must be in 0..1, not -0.25");
    REFUSED(p.min_p = 2, "min_p must be in 0..1, not 2");
    REFUSED(p.max_tokens = 0, "max_tokens must be at least 1, not 0");
    REFUSED(p.min_tokens = -1, "min_tokens must be in 0..max_tokens (10), not -1");
    REFUSED(p.min_tokens = 11, "min_tokens must be in 0..max_tokens (10), not 11");
    REFUSED(p.think.budget = -2, "thinking budget must be >= 0, or -1 for no limit, not -2");
    REFUSED(p.choice = -1, "choice must be >= 0, not -1");
}

#define LIST(field, ...)                                                                                     \
    (p.field = (const int32_t[]){__VA_ARGS__},                                                               \
     p.n_##field = (int32_t) (sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

static void refuses_ids_out_of_range(void **state)
{
    (void) state;
    REFUSED(LIST(stop, 5, 100), "stop_token_ids: token id 100 is outside the vocabulary, 0..99");
    REFUSED(LIST(stop, -1, 5), "stop_token_ids: token id -1 is outside the vocabulary, 0..99");
    REFUSED(LIST(banned, 5, 101), "banned_token_ids: token id 101 is outside the vocabulary, 0..99");
    REFUSED(LIST(allowed, -3, 5), "allowed_token_ids: token id -3 is outside the vocabulary, 0..99");
    struct draw_params p = good();
    LIST(stop, 0, 99);
    LIST(banned, 0, 99);
    LIST(allowed, 0, 7);
    assert_int_equal(draw_check(&p, 100, NULL), 0);
}

static const char no_token[] = "allowed_token_ids and banned_token_ids leave no token to draw";
static const char ends_only[] = "allowed_token_ids and banned_token_ids leave only ids that end the text, "
                                "which min_tokens or a thinking budget masks; "
                                "allow another id";

static void refuses_masks_that_leave_nothing(void **state)
{
    static int32_t all[100];
    (void) state;
    for (int32_t v = 0; v < 100; v++)
        all[v] = v;
    REFUSED((p.banned = all, p.n_banned = 100), no_token);
    REFUSED((LIST(allowed, 4, 9), LIST(banned, 4, 9, 12)), no_token);
    REFUSED((LIST(allowed, 4, 9), LIST(eos, 4), LIST(stop, 9), p.min_tokens = 1), ends_only);
    struct draw_params p = good();
    p.banned = all + 1;
    p.n_banned = 99;
    assert_int_equal(draw_check(&p, 100, NULL), 0);
    p = good();
    LIST(allowed, 4, 9);
    LIST(eos, 4);
    LIST(stop, 9);
    assert_int_equal(draw_check(&p, 100, NULL), 0);
}

/* After a forced close end-of-text is masked for one draw; the client's own stop ids are not. */
static void a_budget_masks_the_end_of_text_alone(void **state)
{
    static const int32_t closer[] = {7, 8};
    (void) state;
#define THINKS (p.think = (struct draw_think){6, 7, -1, 3, closer, 2})
    REFUSED((LIST(allowed, 4, 9), LIST(eos, 4, 9), THINKS), ends_only);
    struct draw_params p = good();
    LIST(allowed, 4, 9); /* "answer with one of these two, and be done" */
    LIST(stop, 4, 9);
    THINKS;
    assert_int_equal(draw_check(&p, 100, NULL), 0);
    p = good();
    LIST(allowed, 4, 9);
    LIST(eos, 4, 9);
    p.think.budget = 3; /* of a model that does not think: nothing is ever closed */
    assert_int_equal(draw_check(&p, 100, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(draws_as_the_slow_way),
                                       cmocka_unit_test(cold_is_the_lowest_of_the_best),
                                       cmocka_unit_test(refuses_what_is_not_finite),
                                       cmocka_unit_test(ids_beyond_the_logits_are_left_alone),
                                       cmocka_unit_test(the_most_noise_is_not_overlooked),
                                       cmocka_unit_test(rank_gives_probabilities),
                                       cmocka_unit_test(refuses_values_out_of_range),
                                       cmocka_unit_test(refuses_ids_out_of_range),
                                       cmocka_unit_test(refuses_masks_that_leave_nothing),
                                       cmocka_unit_test(a_budget_masks_the_end_of_text_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
