/* passes.c - see passes.h.  Pages are handed out in a scattered order, so that page i is never simply page i. */
#include "tests/lib/passes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(int st, const struct err *e)
{
    if (st)
        fail_msg("status %d: %s", st, e->text);
}

int passes_twin(void)
{
    struct cpu *c;
    int st = cpu_open(&c, &(struct cpu_opts){.threads = 1, .isa = CPU_ISA_TWIN_FMA}, NULL);
    cpu_close(c);
    return st ? CPU_ISA_TWIN : CPU_ISA_TWIN_FMA;
}

void passes_open(struct passes *p, const struct model *m, struct passes_opts o)
{
    struct err e = {0};
    *p = (struct passes){.model = m, .vocab = m->config.vocab};
    must(cpu_open(&p->cpu, &(struct cpu_opts){.threads = o.threads, .isa = o.isa}, &e), &e);
    must(cpu_model_open(&p->weights, p->cpu, m, o.quant, &e), &e);
    must(cpu_kv_open(&p->kv, m, o.kv_type, PASSES_PAGES, PASSES_SLOTS, &e), &e);
    for (int i = 0; i < PASSES_PAGES; i++)
        p->page[i] = (i * 37 + 11) % PASSES_PAGES;
}

void passes_close(struct passes *p)
{
    cpu_kv_close(p->kv);
    cpu_model_close(p->weights);
    cpu_close(p->cpu);
}

void passes_chunk(struct passes *p, const int32_t *ids, int n, float *logits, int flags)
{
    struct cpu_row *row = calloc((size_t) n, sizeof *row);
    assert_non_null(row);
    for (int i = 0; i < n; i++)
        row[i] = (struct cpu_row){
            .tok = ids[i], .pos = p->len + i, .page = p->page, .slot = -1, .logits = logits ? i : -1};
    assert_int_equal(cpu_forward(p->weights, p->kv, row, n, logits, p->vocab, flags), 0);
    p->len += n;
    free(row);
}

void passes_tree(struct passes *p, const struct tree *t, const int32_t *slot, float *logits)
{
    static struct cpu_row row[TREE_MAX];
    static int32_t tail[TREE_MAX][TREE_MAX];
    for (int i = 0; i < t->n; i++) {
        int at = i;
        for (int d = t->depth[i] - 1; d >= 0; d--) {
            at = t->parent[at];
            tail[i][d] = slot[at];
        }
        row[i] = (struct cpu_row){.tok = t->tok[i],
                                  .pos = p->len + t->depth[i],
                                  .page = p->page,
                                  .n_tail = t->depth[i],
                                  .tail = tail[i],
                                  .slot = slot[i],
                                  .logits = i};
    }
    assert_int_equal(cpu_forward(p->weights, p->kv, row, t->n, logits, p->vocab, 0), 0);
}

void passes_commit(struct passes *p, int32_t slot)
{
    cpu_kv_commit(p->kv, p->page[p->len / CPU_PAGE], p->len % CPU_PAGE, slot);
    p->len++;
}

int passes_argmax(const float *row, int vocab)
{
    int best = 0;
    for (int v = 1; v < vocab; v++)
        if (row[v] > row[best])
            best = v;
    return best;
}

const char *passes_shared(const char *tail)
{
    static char path[4096];
    const char *root = getenv("OUTRIDER_SHARED");
    snprintf(path, sizeof path, "%s/%s", root ? root : "../shared", tail);
    if (access(path, R_OK) == 0)
        return path;
    print_message("skipped: %s is missing (set OUTRIDER_SHARED)\n", path);
    return NULL;
}

char *passes_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot open %s", path);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *p = malloc((size_t) n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, (size_t) n, f), (size_t) n);
    p[n] = 0;
    *bytes = (size_t) n;
    fclose(f);
    return p;
}
