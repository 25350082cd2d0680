/* memory.c - what weights take, and the sentence for a machine that has less. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "cpu/cpu.h"
#include "daemon/memory.h"
#include "tests/lib/checkpoint.h"

/* Qwen3-0.6B's shape, one layer: q and o 1024 x 2048, k and v 1024 x 1024, the feed-forward 3 x 1024 x 3072, and the
 * embedding, which is the output layer too. */
enum { WEIGHTS = 2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072 + 151936 * 1024 };

static struct model *open_model(const char *name)
{
    struct model *m;
    struct err e = {0};
    if (model_open(&m, name, &e))
        fail_msg("%s", e.text);
    return m;
}

static void weights_are_counted(void **state)
{
    (void) state;
    struct model *m = open_model("synth:0.6b:layers=1");
    assert_int_equal(memory_weights(m, CPU_QUANT_F32), (int64_t) WEIGHTS * 4);
    assert_int_equal(memory_weights(m, CPU_QUANT_F16), (int64_t) WEIGHTS * 2);
    assert_int_equal(memory_weights(m, CPU_QUANT_STORED), (int64_t) WEIGHTS * 2);
    assert_int_equal(memory_weights(m, CPU_QUANT_Q8), (int64_t) WEIGHTS / 32 * 34);
    assert_int_equal(memory_weights(m, CPU_QUANT_Q4), (int64_t) WEIGHTS / 32 * 18);
    model_close(m);
    m = open_model("synth:8b:layers=1"); /* an embedding of its own is read from where it is stored */
    assert_true(memory_weights(m, CPU_QUANT_BF16) < 2 * (int64_t) (151936 * 4096 + 200000000));
    model_close(m);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void) state;
    struct model *m = open_model("synth:0.6b:layers=1");
    struct err e = {0};
    int64_t left;
    struct memory_want w = {.target = m, .target_quant = CPU_QUANT_BF16};
    assert_int_equal(memory_left(&w, (int64_t) WEIGHTS * 2 + 7, &left, &e), 0);
    assert_int_equal(left, 7);
    assert_int_equal(memory_left(&w, (int64_t) WEIGHTS * 2, &left, &e), ST_LIMIT);
    assert_null(checkpoint_lacks(
        &e, "target's weights take 0.3 GB in memory|has 0.3 GB|--target-quant q8 takes 0.2 GB"));
    w.draft = m;
    w.draft_quant = CPU_QUANT_Q8;
    assert_int_equal(memory_left(&w, (int64_t) WEIGHTS * 2, &left, &e), ST_LIMIT);
    assert_null(checkpoint_lacks(&e, "and the draft's 0.2 GB|--target-quant q4 takes 0.1 GB"));
    assert_int_equal(memory_left(&w, WEIGHTS, &left, &e), ST_LIMIT);
    assert_null(checkpoint_lacks(&e, "choose a smaller model"));
    w.target = NULL; /* on a GPU */
    assert_int_equal(memory_left(&w, (int64_t) WEIGHTS / 32 * 34 + 5, &left, &e), 0);
    assert_int_equal(left, 5);
    assert_int_equal(memory_left(&w, WEIGHTS, &left, &e), ST_LIMIT);
    assert_null(checkpoint_lacks(&e, "the draft's weights take 0.2 GB|choose a smaller draft, or none"));
    model_close(m);
}

static void the_machine_has_memory(void **state)
{
    (void) state;
    assert_true(memory_machine() > INT64_C(64) << 20 && memory_machine() < INT64_C(1) << 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_counted),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(the_machine_has_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
