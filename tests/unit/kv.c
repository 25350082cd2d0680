/* kv.c - pages and slots: where a value goes, how it is rounded, what settling and copying move and leave alone. */
#include "cpu/inside.h"
#include "tests/lib/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

enum { LAYERS = 2, HEADS = 3, DIM = 6, PAGES = 3, SLOTS = 4 };

static const struct model shape = {.config = {.n_layers = LAYERS, .n_kv_heads = HEADS, .head_dim = DIM}};

static struct cpu_kv *kv_new(int type)
{
    struct cpu_kv *kv;
    struct err e = {0};
    if (cpu_kv_open(&kv, &shape, type, PAGES, SLOTS, &e))
        fail_msg("%s", e.text);
    return kv;
}

static float at(const struct cpu_kv *kv, const void *p, int i)
{
    return kv->type == CPU_KV_F32 ? ((const float *) p)[i] : cpu__bf16_to_f32(((const uint16_t *) p)[i]);
}

static float as_kept(int type, float x)
{
    return type == CPU_KV_F32 ? x : cpu__bf16_to_f32(cpu__bf16_from_f32(x));
}

/* A value that names its place, and that BF16 has to round. */
static float mark(int layer, int head, int d, int values)
{
    return 1 + (float) (((layer * HEADS + head) * DIM + d) * 2 + values) * 0.0078127f;
}

static void marks(int layer, int head, float *k, float *v)
{
    for (int d = 0; d < DIM; d++) {
        k[d] = mark(layer, head, d, 0);
        v[d] = mark(layer, head, d, 1);
    }
}

static void check_page(const struct cpu_kv *kv, int page, int pos)
{
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < HEADS; h++)
            for (int d = 0; d < DIM; d++) {
                float k = at(kv, cpu__kv_page_k(kv, page, l, h), d * CPU_PAGE + pos);
                float v = at(kv, cpu__kv_page_v(kv, page, l, h), pos * DIM + d);
                assert_true(k == as_kept(kv->type, mark(l, h, d, 0)) &&
                            v == as_kept(kv->type, mark(l, h, d, 1)));
            }
}

/* How many elements of a page are not zero. */
static size_t filled(const struct cpu_kv *kv, int page)
{
    size_t n = 0, all = kv->page_bytes / kv->element;
    const char *p = kv->page + (size_t) page * kv->page_bytes;
    for (size_t i = 0; i < all; i++)
        n += at(kv, p, (int) i) != 0;
    return n;
}

static void written_and_settled(void **state)
{
    (void) state;
    for (int type = CPU_KV_BF16; type <= CPU_KV_F32; type++) {
        struct cpu_kv *kv = kv_new(type);
        size_t one = (size_t) 2 * LAYERS * HEADS * DIM;
        assert_int_equal(cpu_kv_page_bytes(&shape, type), one * CPU_PAGE * (type == CPU_KV_F32 ? 4 : 2));
        for (int l = 0; l < LAYERS; l++)
            for (int h = 0; h < HEADS; h++) {
                float k[DIM], v[DIM];
                marks(l, h, k, v);
                cpu__kv_put_page(kv, 1, 63, l, h, k, v);
                cpu__kv_put_slot(kv, SLOTS - 1, l, h, k, v);
            }
        check_page(kv, 1, 63);
        cpu_kv_commit(kv, 2, 17, SLOTS - 1);
        check_page(kv, 2, 17);
        assert_int_equal(filled(kv, 0), 0);
        assert_int_equal(filled(kv, 1), one);
        assert_int_equal(filled(kv, 2), one);
        cpu_kv_close(kv);
    }
}

static void copies_the_first_positions(void **state)
{
    (void) state;
    for (int type = CPU_KV_BF16; type <= CPU_KV_F32; type++) {
        struct cpu_kv *kv = kv_new(type);
        for (int pos = 0; pos < 20; pos++)
            for (int l = 0; l < LAYERS; l++)
                for (int h = 0; h < HEADS; h++) {
                    float k[DIM], v[DIM];
                    marks(l, h, k, v);
                    cpu__kv_put_page(kv, 2, pos, l, h, k, v);
                }
        cpu_kv_copy(kv, 0, 2, 13);
        for (int pos = 0; pos < 13; pos++)
            check_page(kv, 0, pos);
        assert_int_equal(filled(kv, 0), (size_t) 13 * 2 * LAYERS * HEADS * DIM);
        cpu_kv_close(kv);
    }
}

static void refuses_no_pages(void **state)
{
    (void) state;
    struct cpu_kv *kv;
    struct err e;
    assert_int_equal(cpu_kv_open(&kv, &shape, CPU_KV_F32, 0, 1, &e), ST_INPUT);
    assert_null(kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(written_and_settled),
                                       cmocka_unit_test(copies_the_first_positions),
                                       cmocka_unit_test(refuses_no_pages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
