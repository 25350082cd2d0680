/* target.c - sequences, pages and the rules of target.h, the same for every backend.
 *
 * A page that more than one sequence holds is whole and is never written again: prefix sharing takes whole pages only, a fork
 * copies the half-filled last one, and a rewind into a shared page copies it.  So writing needs no further check.
 *
 * Thread: the engine thread. */
#include "target/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMERICS_VERSION = 1, ITEMS_MAX = 1024 };

struct target {
    struct target_opts opts;
    struct target_info info;
    struct target_backend backend; /* owns */
    struct pages pages;            /* owns */
    struct target_item *item;      /* owns; (n_items) what was submitted last */
    int32_t n_items;
    const struct path *path; /* of the last target_settle; NULL: none */
};

/* --- open --- */

static const char *kv_names[] = {"bf16", "f32"};

static uint64_t hash_text(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; s && *s; s++)
        h = (h ^ (unsigned char) *s) * 0x100000001b3u;
    return h;
}

static void describe(struct target *t)
{
    const struct target_opts *o = &t->opts;
    snprintf(t->info.fingerprint, sizeof t->info.fingerprint, "n%d-%016" PRIx64 "-%s-kv%s-%s-%08" PRIx64,
             NUMERICS_VERSION, o->model->weights_hash, t->backend.precision, kv_names[o->kv_type],
             t->backend.family, hash_text(o->fingerprint_extra) >> 32);
    snprintf(t->info.device, sizeof t->info.device, "%s", t->backend.device);
}

static int check_opts(const struct target_opts *o, int32_t ctx, int64_t page_bytes, struct err *e)
{
    if (o->rows_max < 1 || o->logits_max < 1)
        return err_set(e, ST_INPUT, "rows_max and logits_max must be at least 1, not %d and %d", o->rows_max,
                       o->logits_max);
    if (o->vocab < 1 || o->vocab > o->model->config.vocab)
        return err_set(e, ST_INPUT, "a vocabulary of %d ids: the model has rows for 1..%d", o->vocab,
                       o->model->config.vocab);
    if (o->kv_bytes < page_bytes)
        return err_set(e, ST_LIMIT,
                       "--kv-bytes %" PRId64 " does not hold one page of %d tokens, %" PRId64 " bytes",
                       o->kv_bytes, TARGET_PAGE, page_bytes);
    if (ctx < 2 || ctx > o->model->config.ctx_max)
        return err_set(e, ST_INPUT,
                       "the context must be in 2..%d tokens, which the model was made for, not %d",
                       o->model->config.ctx_max, ctx);
    int64_t need = (ctx + TARGET_PAGE - 1) / TARGET_PAGE * page_bytes;
    if (o->kv_bytes < need)
        return err_set(e, ST_LIMIT,
                       "one sequence of %d tokens needs %" PRId64 " bytes of KV, and only %" PRId64
                       " are allowed: raise --kv-bytes or lower --ctx",
                       ctx, need, o->kv_bytes);
    return 0;
}

/* A device's memory is asked for where no size is given: what is left of it is for pages. */
static int kv_bytes_of(struct target_opts *o, struct err *e)
{
    int32_t ctx = o->ctx_max ? o->ctx_max : o->model->config.ctx_max;
    if (!o->cuda || o->kv_bytes)
        return 0;
    if (o->rows_max < 1 || o->logits_max < 1 || ctx < 1 || ctx > o->model->config.ctx_max)
        return 0; /* check_opts says it better */
    return target__cuda_room(o, ctx, &o->kv_bytes, e);
}

/* The model's own context, or as much of it as the pages hold. */
static int32_t ctx_that_fits(const struct target_opts *o, int64_t page_bytes)
{
    int64_t room = o->kv_bytes / page_bytes * TARGET_PAGE;
    return room < o->model->config.ctx_max ? (int32_t) room : o->model->config.ctx_max;
}

static int open_backend(struct target *t, struct err *e)
{
    const struct target_opts *o = &t->opts;
    if (o->cuda)
        return target__cuda_open(&t->backend, o, t->info.ctx_max, t->info.pages, e);
    return target__cpu_open(&t->backend, o, t->info.pages, e);
}

int target_open(struct target **out, const struct target_opts *given, struct err *e)
{
    struct target_opts opts = *given, *o = &opts;
    *out = NULL;
    int st = kv_bytes_of(o, e);
    if (st)
        return st;
    int64_t page_bytes = (int64_t) cpu_kv_page_bytes(o->model, o->kv_type);
    int32_t ctx = o->ctx_max ? o->ctx_max : ctx_that_fits(o, page_bytes);
    st = check_opts(o, ctx, page_bytes, e);
    if (st)
        return st;
    int64_t n_pages = o->kv_bytes / page_bytes;
    if (n_pages > INT32_MAX / TARGET_PAGE)
        n_pages = INT32_MAX / TARGET_PAGE;
    struct target *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, ST_NOMEM, "out of memory opening the target");
    t->opts = *o;
    t->info = (struct target_info){.vocab = o->vocab,
                                   .ctx_max = ctx,
                                   .page = TARGET_PAGE,
                                   .rows_max = o->rows_max,
                                   .logits_max = o->logits_max,
                                   .pages = (int32_t) n_pages};
    t->item = calloc(ITEMS_MAX, sizeof *t->item);
    if (!t->item || target__pages_init(&t->pages, (int32_t) n_pages))
        st = err_set(e, ST_NOMEM, "out of memory for %" PRId64 " KV pages", n_pages);
    else
        st = open_backend(t, e);
    if (st) {
        target_close(t);
        return st;
    }
    describe(t);
    *out = t;
    return 0;
}

void target_close(struct target *t)
{
    if (!t)
        return;
    if (t->backend.close)
        t->backend.close(t->backend.self);
    target__pages_fini(&t->pages);
    free(t->item);
    free(t);
}

void target_describe(const struct target *t, struct target_info *out)
{
    *out = t->info;
}

void target_usage(const struct target *t, struct target_usage *out)
{
    out->pages_free = t->pages.n_free;
    out->pages_cached = t->pages.n_idle;
    out->pages_used = t->pages.n - t->pages.n_free - t->pages.n_idle;
}

/* --- sequences --- */

static int32_t pages_for(int64_t tokens)
{
    return (int32_t) ((tokens + TARGET_PAGE - 1) / TARGET_PAGE);
}

/* Room for a whole context at once: a token costs four bytes here and thousands in its page, and nothing is allocated later. */
static struct target_seq *seq_alloc(const struct target *t)
{
    size_t pages = (size_t) pages_for(t->info.ctx_max);
    struct target_seq *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->page = malloc(pages * sizeof *s->page);
    s->serial = malloc(pages * sizeof *s->serial);
    s->tok = malloc(pages * TARGET_PAGE * sizeof *s->tok);
    if (s->page && s->serial && s->tok)
        return s;
    free(s->page);
    free(s->serial);
    free(s->tok);
    free(s);
    return NULL;
}

static void pages_back(struct target *t, struct target_seq *s, int32_t keep)
{
    while (s->n_pages > keep)
        target__page_put(&t->pages, s->page[--s->n_pages]);
    if (s->n_published > keep)
        s->n_published = keep;
}

static uint64_t parent_serial(const struct target_seq *s, int32_t page)
{
    return page ? s->serial[page - 1] : 0;
}

int target_seq_attach(struct target *t, struct target_seq *s, const int32_t *tok, int32_t n, int32_t *cached)
{
    *cached = 0;
    if (s->len)
        return ST_INPUT;
    pages_back(t, s, 0);
    for (int32_t i = 0; t->opts.prefix_cache && (i + 1) * TARGET_PAGE < n; i++) {
        int32_t page = target__page_find(&t->pages, parent_serial(s, i), tok + i * TARGET_PAGE);
        if (page < 0)
            break;
        target__page_ref(&t->pages, page);
        s->page[i] = page;
        s->serial[i] = t->pages.info[page].serial;
        memcpy(s->tok + i * TARGET_PAGE, tok + i * TARGET_PAGE, TARGET_PAGE * sizeof *tok);
        s->n_pages = s->n_published = i + 1;
        s->len = s->n_prompt = (i + 1) * TARGET_PAGE;
    }
    *cached = s->len;
    return 0;
}

int target_seq_new(struct target *t, const int32_t *tok, int32_t n, int32_t adapter, struct target_seq **out,
                   int32_t *cached)
{
    *out = NULL;
    *cached = 0;
    if (n < 1 || n > t->info.ctx_max)
        return ST_LIMIT;
    if (adapter != 0)
        return ST_UNSUPPORTED;
    struct target_seq *s = seq_alloc(t);
    if (!s)
        return ST_NOMEM;
    *out = s;
    return target_seq_attach(t, s, tok, n, cached);
}

int target_seq_fork(struct target *t, const struct target_seq *from, struct target_seq **out)
{
    *out = NULL;
    int32_t whole = from->len / TARGET_PAGE, rest = from->len % TARGET_PAGE;
    if (rest && target__pages_available(&t->pages) < 1)
        return ST_AGAIN;
    struct target_seq *s = seq_alloc(t);
    if (!s)
        return ST_NOMEM;
    for (int32_t i = 0; i < whole; i++) {
        s->page[i] = from->page[i];
        target__page_ref(&t->pages, s->page[i]);
    }
    s->n_pages = whole;
    s->n_published = from->n_published;
    memcpy(s->serial, from->serial, (size_t) from->n_published * sizeof *s->serial);
    if (rest) {
        s->page[whole] = target__page_get(&t->pages);
        s->n_pages++;
        t->backend.page_copy(t->backend.self, s->page[whole], from->page[whole], rest);
    }
    memcpy(s->tok, from->tok, (size_t) from->len * sizeof *s->tok);
    s->len = from->len;
    s->n_prompt = from->n_prompt;
    *out = s;
    return 0;
}

int target_seq_drop(struct target *t, struct target_seq *s)
{
    pages_back(t, s, 0);
    s->len = s->n_prompt = 0;
    return 0;
}

void target_seq_free(struct target *t, struct target_seq *s)
{
    if (!s)
        return;
    pages_back(t, s, 0);
    free(s->page);
    free(s->serial);
    free(s->tok);
    free(s);
}

int32_t target_seq_len(const struct target_seq *s)
{
    return s->len;
}

/* Puts a copy of its first n positions in the place of a page that must stay as it is. */
static int page_renew(struct target *t, struct target_seq *s, int32_t i, int32_t n)
{
    int32_t old = s->page[i], page = target__page_get(&t->pages);
    if (page < 0)
        return ST_AGAIN;
    t->backend.page_copy(t->backend.self, page, old, n);
    target__page_put(&t->pages, old);
    s->page[i] = page;
    return 0;
}

int target_rewind(struct target *t, struct target_seq *s, int32_t len)
{
    if (len < 0 || len > s->len)
        return ST_INPUT;
    int32_t whole = len / TARGET_PAGE, rest = len % TARGET_PAGE;
    if (rest) {
        const struct page_info *cut = &t->pages.info[s->page[whole]];
        if ((cut->refs > 1 || cut->serial) && page_renew(t, s, whole, rest))
            return ST_AGAIN;
    }
    pages_back(t, s, pages_for(len));
    if (s->n_published > whole)
        s->n_published = whole;
    s->len = len;
    s->n_prompt = s->n_prompt < len ? s->n_prompt : len;
    return 0;
}

/* --- one pass --- */

static int32_t tree_depth(const struct tree *tree)
{
    int32_t deepest = 0;
    for (int i = 0; i < tree->n; i++)
        if (tree->depth[i] > deepest)
            deepest = tree->depth[i];
    return deepest;
}

/* The most tokens the item may add to its sequence. */
static int32_t item_grows(const struct target_item *it)
{
    return it->kind == TARGET_TREE ? 1 + tree_depth(it->tree) : it->n;
}

static int item_check(const struct target *t, const struct target_item *it)
{
    if (it->kind == TARGET_TREE)
        return tree_check(it->tree, t->info.vocab);
    if (it->n < 1)
        return ST_INPUT;
    for (int32_t i = 0; i < it->n; i++)
        if (it->tok[i] < 0 || it->tok[i] >= t->opts.model->config.vocab)
            return ST_INPUT;
    return 0;
}

/* Checks rows, ids and room for all items; changes nothing. */
static int pass_check(const struct target *t, const struct target_item *item, int n, int *which)
{
    int64_t rows = 0, logits = 0, pages = 0;
    for (int i = 0; i < n; i++) {
        const struct target_item *it = &item[i];
        *which = i;
        int st = item_check(t, it);
        if (st)
            return st;
        rows += it->kind == TARGET_TREE ? it->tree->n : it->n;
        logits += it->kind == TARGET_TREE ? it->tree->n : it->want_logits != 0;
        int64_t grown = (int64_t) it->seq->len + item_grows(it);
        if (rows > t->info.rows_max || logits > t->info.logits_max || grown > t->info.ctx_max)
            return ST_LIMIT;
        int32_t need = pages_for(grown) - it->seq->n_pages;
        pages += need > 0 ? need : 0;
        if (pages > target__pages_available(&t->pages))
            return ST_AGAIN;
    }
    return 0;
}

static void seq_grow(struct target *t, struct target_seq *s, int32_t len)
{
    while (s->n_pages < pages_for(len))
        s->page[s->n_pages++] = target__page_get(&t->pages);
}

int target_submit(struct target *t, struct target_item *item, int n, int *which)
{
    int dummy;
    which = which ? which : &dummy;
    *which = 0;
    t->n_items = 0;
    t->path = NULL;
    if (n < 1 || n > ITEMS_MAX)
        return ST_LIMIT;
    int st = pass_check(t, item, n, which);
    if (st)
        return st;
    for (int i = 0; i < n; i++)
        seq_grow(t, item[i].seq, item[i].seq->len + item_grows(&item[i]));
    st = t->backend.submit(t->backend.self, item, n);
    if (st)
        return st;
    memcpy(t->item, item, (size_t) n * sizeof *item);
    t->n_items = n;
    return 0;
}

int target_settle(struct target *t, const struct path *path, int n)
{
    if (n != t->n_items)
        return ST_INPUT;
    t->path = path;
    return t->backend.settle(t->backend.self, t->item, path, n);
}

static void publish(struct target *t, struct target_seq *s)
{
    int32_t len =
        t->backend.two_paths ? s->n_prompt : s->len; /* what a prompt's beginning would be read to */
    if (!t->opts.prefix_cache)
        return;
    while ((s->n_published + 1) * TARGET_PAGE <= len) {
        int32_t i = s->n_published++;
        s->serial[i] =
            target__page_publish(&t->pages, s->page[i], parent_serial(s, i), s->tok + i * TARGET_PAGE);
    }
#ifdef BREAK_PAGE_UNFINISHED /* the gate must see a page shared before all its rows were computed */
    int32_t i = s->n_published, rest = s->len % TARGET_PAGE;
    if (rest) {
        for (int32_t j = rest; j < TARGET_PAGE; j++)
            s->tok[i * TARGET_PAGE + j] = -1;
        target__page_publish(&t->pages, s->page[i], parent_serial(s, i), s->tok + i * TARGET_PAGE);
    }
#endif
}

/* Notes what the pass settled; the KV is there already. */
static void item_settled(struct target *t, const struct target_item *it, const struct path *path)
{
    struct target_seq *s = it->seq;
    if (it->kind != TARGET_TREE) {
        memcpy(s->tok + s->len, it->tok, (size_t) it->n * sizeof *it->tok);
        s->n_prompt += it->kind == TARGET_PROMPT && s->n_prompt == s->len ? it->n : 0;
        s->len += it->n;
    } else if (path) {
        s->tok[s->len++] = it->tree->tok[0];
        for (int32_t i = 0; i < path->n; i++)
            s->tok[s->len++] = it->tree->tok[path->node[i]];
    }
    publish(t, s);
}

int target_wait(struct target *t)
{
    int st = t->backend.wait(t->backend.self);
    for (int i = 0; i < t->n_items && !st; i++)
        item_settled(t, &t->item[i], t->path ? &t->path[i] : NULL);
    t->n_items = 0;
    return st;
}
