/* kv.c - keys and values: pages of CPU_PAGE settled positions, slots of one in-flight row.
 *
 * A page lies in one piece, all layers together, because pages are what is copied, shared and counted; keys are d-major
 * in it (lane = key) and values row-major (lane = d), which makes NUMERICS.md's attention order natural for vectors.
 * Memory is mapped zeroed and taken by the system bit by bit as it is written. */
#include "cpu/inside.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t element_bytes(int type)
{
    return type == CPU_KV_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* Elements of K (or of V) of one layer, a position. */
static size_t width(const struct cpu_kv *kv)
{
    return (size_t) kv->n_kv_heads * (size_t) kv->head_dim;
}

size_t cpu_kv_page_bytes(const struct model *m, int type)
{
    const struct config *g = &m->config;
    return 2 * (size_t) g->n_layers * (size_t) g->n_kv_heads * (size_t) g->head_dim * CPU_PAGE *
           element_bytes(type);
}

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes,
            MADV_HUGEPAGE); /* a wish: attention streams whole pages, and small ones cost it the TLB */
    return p;
}

int cpu_kv_open(struct cpu_kv **out, const struct model *m, int type, int n_pages, int n_slots, struct err *e)
{
    *out = NULL;
    if (n_pages < 1 || n_slots < 0)
        return err_set(e, ST_INPUT, "a KV cache of %d pages and %d slots: at least one page is needed",
                       n_pages, n_slots);
    struct cpu_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return err_set(e, ST_NOMEM, "no memory for a KV cache");
    kv->type = type;
    kv->stored = type;
#ifdef BREAK_KEYS_UNROUNDED /* slots keep what was not rounded yet; pages and commits round */
    kv->stored = CPU_KV_F32;
#endif
    kv->n_pages = n_pages;
    kv->n_slots = n_slots;
    kv->n_layers = m->config.n_layers;
    kv->n_kv_heads = m->config.n_kv_heads;
    kv->head_dim = m->config.head_dim;
    kv->element = element_bytes(kv->stored);
    kv->page_bytes = cpu_kv_page_bytes(m, kv->stored);
    kv->slot_bytes = kv->page_bytes / CPU_PAGE;
    kv->page = map((size_t) n_pages * kv->page_bytes);
    kv->slot = map((size_t) (n_slots + 1) * kv->slot_bytes);
    if (!kv->page || !kv->slot) {
        cpu_kv_close(kv);
        return err_set(e, ST_NOMEM, "cannot map %d KV pages of %zu bytes and %d slots; ask for fewer",
                       n_pages, cpu_kv_page_bytes(m, type), n_slots);
    }
    *out = kv;
    return 0;
}

void cpu_kv_close(struct cpu_kv *kv)
{
    if (!kv)
        return;
    if (kv->page)
        munmap(kv->page, (size_t) kv->n_pages * kv->page_bytes);
    if (kv->slot)
        munmap(kv->slot, (size_t) (kv->n_slots + 1) * kv->slot_bytes);
    free(kv);
}

static void *in_page(const struct cpu_kv *kv, int page, int layer, int head, int values)
{
    size_t part = width(kv) * CPU_PAGE, at = (2 * (size_t) layer + (size_t) values) * part;
    at += (size_t) head * (size_t) kv->head_dim * CPU_PAGE;
    return kv->page + (size_t) page * kv->page_bytes + at * kv->element;
}

static void *in_slot(const struct cpu_kv *kv, int slot, int layer, int head, int values)
{
    size_t at = (2 * (size_t) layer + (size_t) values) * width(kv) + (size_t) head * (size_t) kv->head_dim;
    return kv->slot + (size_t) slot * kv->slot_bytes + at * kv->element;
}

void *cpu__kv_page_k(const struct cpu_kv *kv, int page, int layer, int head)
{
    return in_page(kv, page, layer, head, 0);
}

void *cpu__kv_page_v(const struct cpu_kv *kv, int page, int layer, int head)
{
    return in_page(kv, page, layer, head, 1);
}

void *cpu__kv_slot_k(const struct cpu_kv *kv, int slot, int layer, int head)
{
    return in_slot(kv, slot, layer, head, 0);
}

void *cpu__kv_slot_v(const struct cpu_kv *kv, int slot, int layer, int head)
{
    return in_slot(kv, slot, layer, head, 1);
}

/* The value as memory holds it once rounded. */
static float rounded(const struct cpu_kv *kv, float x)
{
    return kv->type == CPU_KV_BF16 ? cpu__bf16_to_f32(cpu__bf16_from_f32(x)) : x;
}

/* Writes n values, `step` elements apart; side by side they become vectors. */
static void put_bf16(uint16_t *to, int step, const float *x, int n)
{
    if (step == 1)
        for (int i = 0; i < n; i++)
            to[i] = cpu__bf16_from_f32(x[i]);
    else
        for (int i = 0; i < n; i++)
            to[i * step] = cpu__bf16_from_f32(x[i]);
}

static void put(const struct cpu_kv *kv, void *to, int step, const float *x, int n)
{
    if (kv->stored == CPU_KV_F32)
        for (int i = 0; i < n; i++)
            ((float *) to)[i * step] = rounded(kv, x[i]);
    else
        put_bf16(to, step, x, n);
}

void cpu__kv_put_page(struct cpu_kv *kv, int page, int at, int layer, int head, const float *k,
                      const float *v)
{
    char *pk = cpu__kv_page_k(kv, page, layer, head), *pv = cpu__kv_page_v(kv, page, layer, head);
    put(kv, pk + (size_t) at * kv->element, CPU_PAGE, k, kv->head_dim);
    put(kv, pv + (size_t) at * (size_t) kv->head_dim * kv->element, 1, v, kv->head_dim);
}

void cpu__kv_put_slot(struct cpu_kv *kv, int slot, int layer, int head, const float *k, const float *v)
{
    void *sk = cpu__kv_slot_k(kv, slot, layer, head), *sv = cpu__kv_slot_v(kv, slot, layer, head);
#ifdef BREAK_KEYS_UNROUNDED
    memcpy(sk, k, (size_t) kv->head_dim * sizeof *k);
    memcpy(sv, v, (size_t) kv->head_dim * sizeof *v);
    return;
#endif
    put(kv, sk, 1, k, kv->head_dim);
    put(kv, sv, 1, v, kv->head_dim);
}

/* Slots hold rounded values: settling copies bits. */
static void commit_head(struct cpu_kv *kv, int page, int at, int slot, int layer, int head)
{
    const char *sk = cpu__kv_slot_k(kv, slot, layer, head), *sv = cpu__kv_slot_v(kv, slot, layer, head);
#ifdef BREAK_KEYS_UNROUNDED
    cpu__kv_put_page(kv, page, at, layer, head, (const float *) sk, (const float *) sv);
    return;
#endif
    size_t el = kv->element, hd = (size_t) kv->head_dim;
    char *pk = cpu__kv_page_k(kv, page, layer, head), *pv = cpu__kv_page_v(kv, page, layer, head);
    for (size_t d = 0; d < hd; d++)
        memcpy(pk + (d * CPU_PAGE + (size_t) at) * el, sk + d * el, el);
    memcpy(pv + (size_t) at * hd * el, sv, hd * el);
}

void cpu_kv_commit(struct cpu_kv *kv, int page, int at, int slot)
{
    for (int l = 0; l < kv->n_layers; l++)
        for (int h = 0; h < kv->n_kv_heads; h++)
            commit_head(kv, page, at, slot, l, h);
}

void cpu_kv_copy(struct cpu_kv *kv, int to, int from, int n)
{
    size_t el = kv->element, hd = (size_t) kv->head_dim;
    for (int l = 0; l < kv->n_layers; l++)
        for (int h = 0; h < kv->n_kv_heads; h++) {
            char *k = cpu__kv_page_k(kv, to, l, h);
            const char *from_k = cpu__kv_page_k(kv, from, l, h);
            for (size_t d = 0; d < hd; d++)
                memcpy(k + d * CPU_PAGE * el, from_k + d * CPU_PAGE * el, (size_t) n * el);
            memcpy(cpu__kv_page_v(kv, to, l, h), cpu__kv_page_v(kv, from, l, h), (size_t) n * hd * el);
        }
}
