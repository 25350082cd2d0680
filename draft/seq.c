/* seq.c - what the draft remembers of one conversation.
 *
 * Tokens are noted at once and read later.  KV of settled positions lies in pages, that of guesses in slots until the verdict.
 * A window slides over long texts in whole pages: what lies before it is forgotten, what was never read there is skipped. */
#include "draft/internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    SPARE_TOKENS = 4096
}; /* of a text whose room is kept for another: longer ones would hold much memory for nobody */

static const float LIKELY = 0.15f; /* confidence of a guess that is worth a row */

static void release(struct draft_seq *s)
{
    free(s->tok);
    free(s->page);
    free(s->cand);
    draft__lookup_fini(&s->lookup);
    free(s);
}

static struct draft_seq *make(const struct draft *d)
{
    struct draft_seq *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->tok = malloc((size_t) d->opts.text_max * sizeof *s->tok);
    s->page = calloc((size_t) d->pages_cap + 1, sizeof *s->page);
    s->cand = calloc(CAND_MAX, sizeof *s->cand);
    int st = d->opts.lookup ? draft__lookup_init(&s->lookup, d->opts.text_max) : 0;
    if (!st && s->tok && s->page && s->cand)
        return s;
    release(s);
    return NULL;
}

int draft_seq_new(struct draft *d, struct draft_seq **out)
{
    struct draft_seq *s = d->spare;
    *out = NULL;
    if (d->n_seqs == d->opts.seqs_max)
        return ST_LIMIT;
    if (s)
        d->spare = s->next;
    else
        s = make(d);
    if (!s)
        return ST_NOMEM;
    s->luck = 0.5f;
    s->hope = -1;
    d->n_seqs++;
    *out = s;
    return 0;
}

static void pages_back(struct draft *d, struct draft_seq *s, int32_t keep)
{
    while (s->n_pages > keep)
        d->free_page[d->n_free_pages++] = s->page[--s->n_pages];
}

void draft__slots_back(struct draft *d, struct draft_seq *s)
{
    for (int32_t i = 0; i < s->n_cand; i++)
        if (s->cand[i].slot >= 0)
            d->free_slot[d->n_free_slots++] = s->cand[i].slot;
    s->n_cand = s->n_spine = 0;
}

void draft_seq_free(struct draft *d, struct draft_seq *s)
{
    if (!s)
        return;
    d->n_seqs--;
    if (s->n_tok > SPARE_TOKENS) {
        pages_back(d, s, 0);
        draft__slots_back(d, s);
        release(s);
        return;
    }
    draft_rewind(d, s, 0);
    s->next = d->spare;
    d->spare = s;
}

void draft__seqs_fini(struct draft *d)
{
    for (struct draft_seq *s; (s = d->spare);) {
        d->spare = s->next;
        release(s);
    }
}

int32_t draft_unread(const struct draft *d, const struct draft_seq *s)
{
    int32_t n = s->n_tok - s->n_kv;
    return !d->opts.model ? 0 : n < d->opts.context ? n : d->opts.context;
}

float draft_hope(const struct draft *d, const struct draft_seq *s, int warm)
{
    return !d->opts.model ? 0 : s->hope < 0 ? d->hope[warm] : s->hope;
}

static int note(struct draft *d, struct draft_seq *s, const int32_t *tok, int32_t n)
{
    if (n > d->opts.text_max - s->n_tok)
        return ST_LIMIT;
    memcpy(s->tok + s->n_tok, tok, (size_t) n * sizeof *tok);
    for (int32_t i = 0; i < n; i++, s->n_tok++) {
        draft__head_note(d, tok[i]);
        if (d->opts.lookup)
            draft__lookup_add(&s->lookup, s->tok, s->n_tok);
    }
    return 0;
}

int draft_feed(struct draft *d, struct draft_seq *s, const int32_t *tok, int32_t n)
{
    draft__slots_back(d, s);
    s->root_read = 0;
    return note(d, s, tok, n);
}

int draft__seq_window(struct draft *d, struct draft_seq *s, int32_t pos)
{
    int32_t start = pos + 1 - d->opts.context;
    start = start <= 0 ? 0 : (start + CPU_PAGE - 1) / CPU_PAGE * CPU_PAGE;
    if (start > s->start && start >= s->n_kv) {
        pages_back(d, s, 0);
        s->start = s->n_kv = start;
        s->root_read = 0;
    } else if (start > s->start) {
        int32_t gone = (start - s->start) / CPU_PAGE;
        for (int32_t i = 0; i < gone; i++)
            d->free_page[d->n_free_pages++] = s->page[i];
        memmove(s->page, s->page + gone, (size_t) (s->n_pages - gone) * sizeof *s->page);
        s->n_pages -= gone;
        s->start = start;
    }
    int32_t need = (pos + 1 - s->start + CPU_PAGE - 1) / CPU_PAGE;
    if (need > d->pages_cap || need - s->n_pages > d->n_free_pages)
        return ST_AGAIN;
    while (s->n_pages < need)
        s->page[s->n_pages++] = d->free_page[--d->n_free_pages];
    return 0;
}

/* The guess of the last propose that holds the tree's node; NULL: it came from elsewhere. */
static struct cand *cand_of(struct draft_seq *s, const struct tree *tree, int node)
{
    int32_t ref = tree->ref[node];
    int mine = tree->source[node] == TREE_MODEL || tree->source[node] == TREE_LOOKUP;
    return mine && ref >= 0 && ref < s->n_cand ? &s->cand[ref] : NULL;
}

static int was_read(const struct draft_seq *s, int32_t at)
{
    return at < 0 ? s->root_read : s->cand[at].opened;
}

/* What became of the model's guesses below one that was kept. */
struct verdict {
    int32_t right;      /* the candidate that was said; -1: none */
    int judged, likely; /* 1: there were any; the right one had a chance to be in a tree */
    int warm;
    float best; /* confidence of the likeliest */
};

static struct verdict judge_children(struct draft *d, const struct draft_seq *s, int32_t at, int32_t said)
{
    struct verdict v = {.right = -1};
    for (int32_t i = at + 1; i < s->n_cand; i++) {
        const struct cand *c = &s->cand[i];
        int right = c->tok == said;
        if (c->parent != at)
            continue;
        if (right)
            v.right = i;
        if (!c->ranked)
            continue;
        v.judged = 1;
        v.best = c->conf > v.best ? c->conf : v.best;
        v.warm = c->key.warm;
        v.likely |= right && c->conf >= LIKELY;
        draft__calib_note(&d->calib, c->key, right);
    }
    return v;
}

static void learn_hope(struct draft *d, struct draft_seq *s, int warm, int right)
{
    if (s->hope < 0)
        s->hope = d->hope[warm];
    s->hope += 0.1f * ((float) right - s->hope);
    d->hope[warm] += 0.02f * ((float) right - d->hope[warm]);
}

/* Every node read that was kept has children which were weighed, whether or not the tree had room for them: one was right at most. */
static void learn(struct draft *d, struct draft_seq *s, const struct tree *tree, const struct path *path)
{
    int32_t at = -1;
    for (int32_t i = 0; i <= path->n && was_read(s, at); i++) {
        int32_t said = i < path->n ? tree->tok[path->node[i]] : path->next;
        struct verdict v = judge_children(d, s, at, said);
        if (!v.judged) /* nothing is drawn here */
            return;
        draft__head_judge(d, v.best, said);
        const struct cand *c = at < 0 ? NULL : &s->cand[at];
        draft__child_note(&d->calib, v.warm, c ? c->depth : 0, c ? c->conf : 1, v.likely);
        if (!c)
            learn_hope(d, s, v.warm, v.likely);
        if (v.right < 0)
            return;
        at = v.right;
    }
}

/* What was looked up is judged by what was said, whether or not it had a place in the tree: so a text in which lookup fails costs
 * nothing, and one in which it begins to work again is noticed. */
static void learn_spine(struct draft *d, struct draft_seq *s, const struct tree *tree,
                        const struct path *path)
{
    static const float fade = 0.1f;
    for (int32_t i = 0; i < s->n_spine && i <= path->n; i++) {
        int32_t said = i < path->n ? tree->tok[path->node[i]] : path->next;
        int right = s->cand[i].tok == said;
        draft__spine_note(&d->calib, s->cand[i].spine, right);
        if (i == 0)
            s->luck += fade * ((float) right - s->luck);
        if (!right)
            break;
    }
}

int draft_settle(struct draft *d, struct draft_seq *s, const struct tree *tree, const struct path *path)
{
    learn(d, s, tree, path);
    learn_spine(d, s, tree, path);
    int32_t pos = s->n_tok;
    int st = note(d, s, tree->tok, 1);
    for (int32_t i = 0; i < path->n && !st; i++)
        st = note(d, s, &tree->tok[path->node[i]], 1);
    if (st)
        return st;
    int read = s->root_read && s->n_kv == pos;
    if (read)
        s->n_kv++;
    for (int32_t i = 0; i < path->n && read; i++) {
        struct cand *c = cand_of(s, tree, path->node[i]);
        int32_t at = s->n_kv;
        read = c && c->slot >= 0 && (at - s->start) / CPU_PAGE < s->n_pages;
        if (read) {
            cpu_kv_commit(d->kv, s->page[(at - s->start) / CPU_PAGE], at % CPU_PAGE, c->slot);
            s->n_kv++;
        }
    }
    s->root_read = 0;
    draft__slots_back(d, s);
    return 0;
}

int draft_rewind(struct draft *d, struct draft_seq *s, int32_t len)
{
    if (len < 0 || len > s->n_tok)
        return ST_INPUT;
    draft__slots_back(d, s);
    s->root_read = 0;
    for (; s->n_tok > len; s->n_tok--)
        if (d->opts.lookup)
            draft__lookup_drop(&s->lookup, s->tok, s->n_tok - 1);
    if (len <= s->start) {
        pages_back(d, s, 0);
        s->start = s->n_kv = 0;
    } else if (s->n_kv > len) {
        s->n_kv = len;
        pages_back(d, s, (len - s->start + CPU_PAGE - 1) / CPU_PAGE);
    }
    return 0;
}
