/* memory.c - see memory.h. */
#include "daemon/memory.h"

#include <stdio.h>
#include <uv.h>

#include "cpu/cpu.h"

#define GB 1e9

int64_t memory_machine(void)
{
    struct cpu_room room;
    int64_t all = (int64_t) uv_get_total_memory();
    cpu_room(&room);
    return room.bytes < all ? room.bytes : all;
}

/* Bytes that 32 weights take. */
static int64_t block_bytes(int quant)
{
    switch (quant) {
    case CPU_QUANT_F32:
        return 128;
    case CPU_QUANT_Q8:
        return 34;
    case CPU_QUANT_Q4:
        return 18;
    default:
        return 64;
    }
}

static int is_packed(const struct model *m, const struct tensor *t)
{
    return t->n_dims > 1 && !model_leaves_out(m, t) && (t != m->embed || m->embed == m->head);
}

int64_t memory_weights(const struct model *m, int quant)
{
    int64_t bytes = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensor[i];
        int64_t n = 1;
        for (int d = 0; d < t->n_dims; d++)
            n *= t->dim[d];
        if (is_packed(m, t))
            bytes += n / 32 * block_bytes(quant == CPU_QUANT_STORED ? cpu_quant_of(t->type) : quant);
    }
    return bytes;
}

/* What to do about it: the least rounding that fits, if any does. */
static void advise(const struct memory_want *w, int64_t draft, int64_t machine, char *text, size_t cap)
{
    static const int quants[] = {CPU_QUANT_BF16, CPU_QUANT_Q8, CPU_QUANT_Q4};
    for (size_t i = 0; i < sizeof quants / sizeof *quants; i++) {
        int64_t bytes = memory_weights(w->target, quants[i]);
        if (bytes + draft < machine) {
            const char *name = cpu_quant_name(quants[i]);
            snprintf(text, cap, "--target-quant %s takes %.1f GB", name, (double) bytes / GB);
            return;
        }
    }
    snprintf(text, cap, "choose a smaller model");
}

/* There is too little for both, or for the draft alone where the target has memory of its own. */
static int refuse(const struct memory_want *w, int64_t target, int64_t draft, int64_t machine, struct err *e)
{
    char advice[100], beside[60] = "";
    if (!w->target)
        return err_set(
            e, ST_LIMIT,
            "the draft's weights take %.1f GB in memory, this machine has %.1f GB; choose a smaller "
            "draft, or none",
            (double) draft / GB, (double) machine / GB);
    advise(w, draft, machine, advice, sizeof advice);
    if (draft)
        snprintf(beside, sizeof beside, " and the draft's %.1f GB", (double) draft / GB);
    return err_set(e, ST_LIMIT, "the target's weights take %.1f GB%s in memory, this machine has %.1f GB; %s",
                   (double) target / GB, beside, (double) machine / GB, advice);
}

int memory_left(const struct memory_want *w, int64_t machine, int64_t *left, struct err *e)
{
    int64_t target = w->target ? memory_weights(w->target, w->target_quant) : 0;
    int64_t draft = w->draft ? memory_weights(w->draft, w->draft_quant) : 0;
    *left = machine - target - draft;
    return *left > 0 ? 0 : refuse(w, target, draft, machine, e);
}
