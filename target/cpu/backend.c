/* backend.c - the CPU behind target.h: rows for cpu_forward, logits in host memory, a host queue.
 *
 * A tree's rows lie in slots while they are in flight; a row's ancestors are named oldest first, so attention sums by depth and
 * never by slot.  Slots are handed out against the node order: a sum that followed them would be wrong in every tree, and the gates
 * would see it.  Settling copies the accepted slots into the sequence's pages. */
#include "core/queue.h"
#include "target/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_CAP = 64, LANES = 16 };

struct cpu_target {
    struct cpu_model *weights;
    struct cpu_kv *kv;   /* owns */
    struct queue *queue; /* owns */
    struct cpu_row *row; /* owns; (rows_max) */
    int32_t *tail;       /* owns; (logits_max, TREE_MAX) slots of ancestors */
    float *logits;       /* owns; (logits_max, stride) */
    int64_t stride;
    int32_t vocab, n_rows;
    const struct target_item *item; /* of the pass, borrowed from target.c */
    const struct path *path;
    int32_t n_items;
};

static int run_pass(void *arg)
{
    struct cpu_target *c = arg;
    return cpu_forward(c->weights, c->kv, c->row, c->n_rows, c->logits, c->stride, 0);
}

/* The slot of one node of a tree whose slots begin at `first`. */
static int32_t slot_of(const struct tree *t, int32_t first, int32_t node)
{
    return first + t->n - 1 - node;
}

static int run_settle(void *arg)
{
    struct cpu_target *c = arg;
    int32_t slot = 0;
    for (int i = 0; i < c->n_items; i++) {
        const struct target_item *it = &c->item[i];
        if (it->kind != TARGET_TREE)
            continue;
        const struct path *p = &c->path[i];
        for (int32_t j = -1; j < p->n; j++) {
            int32_t at = it->seq->len + j + 1, node = j < 0 ? 0 : p->node[j];
            cpu_kv_commit(c->kv, it->seq->page[at / TARGET_PAGE], at % TARGET_PAGE,
                          slot_of(it->tree, slot, node));
        }
        slot += it->tree->n;
    }
    return 0;
}

static void add_known(struct cpu_target *c, struct target_item *it, int32_t *n_logits)
{
    for (int32_t i = 0; i < it->n; i++) {
        int last = it->want_logits && i == it->n - 1;
        c->row[c->n_rows++] = (struct cpu_row){.tok = it->tok[i],
                                               .pos = it->seq->len + i,
                                               .page = it->seq->page,
                                               .slot = -1,
                                               .logits = last ? (*n_logits)++ : -1};
    }
}

static void add_tree(struct cpu_target *c, struct target_item *it, int32_t *n_logits, int32_t *n_slots)
{
    const struct tree *t = it->tree;
    int32_t first = *n_slots;
    for (int32_t i = 0; i < t->n; i++) {
        int32_t *tail = c->tail + (int64_t) (first + i) * TREE_MAX;
        int32_t depth = t->depth[i];
        for (int32_t j = i, d = depth - 1; d >= 0; d--) {
            j = t->parent[j];
            tail[d] = slot_of(t, first, j);
        }
        c->row[c->n_rows++] = (struct cpu_row){.tok = t->tok[i],
                                               .pos = it->seq->len + depth,
                                               .page = it->seq->page,
                                               .n_tail = depth,
                                               .tail = tail,
                                               .slot = slot_of(t, first, i),
                                               .logits = (*n_logits)++};
    }
    *n_slots += t->n;
}

static int cpu_submit(void *self, struct target_item *item, int n)
{
    struct cpu_target *c = self;
    int32_t n_logits = 0, n_slots = 0;
    c->n_rows = 0;
    for (int i = 0; i < n; i++) {
        int32_t first = n_logits;
        if (item[i].kind == TARGET_TREE)
            add_tree(c, &item[i], &n_logits, &n_slots);
        else
            add_known(c, &item[i], &n_logits);
        item[i].logits = (struct logits){.row = c->logits + first * c->stride,
                                         .rows = n_logits - first,
                                         .vocab = c->vocab,
                                         .stride = c->stride,
                                         .mem = MEM_HOST,
                                         .queue = c->queue};
    }
    return queue_post(c->queue, run_pass, c);
}

static int cpu_settle(void *self, struct target_item *item, const struct path *path, int n)
{
    struct cpu_target *c = self;
    c->item = item;
    c->path = path;
    c->n_items = n;
    return queue_post(c->queue, run_settle, c);
}

static int cpu_wait(void *self)
{
    struct cpu_target *c = self;
    return queue_wait(c->queue);
}

static void cpu_page_copy(void *self, int32_t to, int32_t from, int32_t n)
{
    struct cpu_target *c = self;
    cpu_kv_copy(c->kv, to, from, n);
}

static void cpu_target_close(void *self)
{
    struct cpu_target *c = self;
    if (!c)
        return;
    cpu_kv_close(c->kv);
    queue_free(c->queue);
    free(c->row);
    free(c->tail);
    free(c->logits);
    free(c);
}

int target__cpu_open(struct target_backend *b, const struct target_opts *o, int32_t n_pages, struct err *e)
{
    struct cpu_target *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, ST_NOMEM, "out of memory opening the CPU target");
    *b = (struct target_backend){
        c, cpu_submit, cpu_settle, cpu_wait, cpu_page_copy, cpu_target_close, .family = "cpu"};
    snprintf(b->precision, sizeof b->precision, "%s", cpu_quant_name(o->quant));
    snprintf(b->device, sizeof b->device, "cpu (%s)", cpu_isa_name(o->cpu));
    c->weights = o->weights;
    c->vocab = o->vocab;
    c->stride = ((int64_t) o->model->config.vocab + LANES - 1) / LANES * LANES;
    c->queue = queue_new(QUEUE_CAP);
    c->row = calloc((size_t) o->rows_max, sizeof *c->row);
    c->tail = calloc((size_t) o->logits_max * TREE_MAX, sizeof *c->tail);
    c->logits = malloc((size_t) o->logits_max * (size_t) c->stride * sizeof *c->logits);
    if (!c->queue || !c->row || !c->tail || !c->logits)
        return err_set(e, ST_NOMEM, "out of memory for the logits of %d rows (%d MB): lower --max-rows",
                       o->logits_max, (int) ((int64_t) o->logits_max * c->stride * 4 >> 20));
    return cpu_kv_open(&c->kv, o->model, o->kv_type, n_pages, o->logits_max, e);
}
