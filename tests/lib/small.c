/* small.c - see small.h. */
#include "tests/lib/small.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/lib/synth.h"

static const struct config shape = {.n_layers = 2,
                                    .hidden = 48,
                                    .n_heads = 4,
                                    .n_kv_heads = 2,
                                    .head_dim = 16,
                                    .ffn = 64,
                                    .vocab = SMALL_VOCAB + 3,
                                    .ctx_max = SMALL_CTX,
                                    .rope_theta = 1e4f,
                                    .rms_eps = 1e-6f,
                                    .tied = 1};

static void must(int st, const struct err *e)
{
    if (st)
        fail_msg("status %d: %s", st, e->text);
}

void small_open(struct small *s, uint64_t seed)
{
    struct err e = {0};
    struct cpu_opts o = {.threads = 1, .isa = CPU_ISA_AUTO};
    s->model = synth_model_new(&shape, TENSOR_F32, seed);
    must(cpu_open(&s->cpu, &o, &e), &e);
    must(cpu_model_open(&s->weights, s->cpu, s->model, CPU_QUANT_F32, &e), &e);
}

void small_close(struct small *s)
{
    cpu_model_close(s->weights);
    cpu_close(s->cpu);
    synth_model_free(s->model);
}

struct target_opts small_target(const struct small *s, int n_pages, int prefix_cache)
{
    return (struct target_opts){.cpu = s->cpu,
                                .weights = s->weights,
                                .model = s->model,
                                .vocab = SMALL_VOCAB,
                                .kv_type = CPU_KV_BF16,
                                .quant = CPU_QUANT_F32,
                                .ctx_max = SMALL_CTX,
                                .rows_max = 600,
                                .logits_max = 200,
                                .kv_bytes = n_pages * (int64_t) cpu_kv_page_bytes(s->model, CPU_KV_BF16),
                                .prefix_cache = prefix_cache};
}

uint32_t small_dice(uint64_t *state, uint32_t n)
{
    return (uint32_t) (synth_next(state) >> 33) % n;
}

int32_t small_token(uint64_t *state)
{
    return (int32_t) small_dice(state, SMALL_VOCAB);
}

void small_tree(struct tree *t, int32_t root, int nodes, int depth, uint64_t *state)
{
    tree_init(t, root);
    for (int i = 1; i < nodes; i++) {
        int parent = (int) small_dice(state, (uint32_t) t->n);
        int32_t tok = small_token(state);
        if (t->depth[parent] < depth && tree_child(t, parent, tok) < 0)
            tree_add(t, parent, tok, 0.5f, TREE_ORACLE, -1);
    }
}

void small_path(const struct tree *t, struct path *p, uint64_t *state)
{
    *p = (struct path){.next = small_token(state)};
    for (int i = 1, at = 0; i < t->n; i++)
        if (t->parent[i] == at && small_dice(state, 3)) {
            p->node[p->n++] = (int16_t) i;
            at = i;
        }
}
