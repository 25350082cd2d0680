/* text.c - see text.h for the rules.
 *
 * Only text of one kind ever waits: a tag settles what stands before it.  Ids without text (tags, special tokens) wait
 * for the next text, or for the end. */
#include "daemon/text.h"

#include <string.h>

#include "core/status.h"

void text_out_clear(struct text_out *o)
{
    o->text[0].n = o->text[1].n = o->ids.n = o->delta.n = 0;
}

void text_out_free(struct text_out *o)
{
    buf_free(&o->text[0]);
    buf_free(&o->text[1]);
    buf_free(&o->ids);
    buf_free(&o->delta);
}

size_t text_out_count(const struct text_out *o)
{
    return o->delta.n / sizeof(struct text_delta);
}

struct text_delta text_out_at(const struct text_out *o, size_t i)
{
    struct text_delta d;
    memcpy(&d, o->delta.p + i * sizeof d, sizeof d);
    return d;
}

/* --- what waits --- */

/* Looks at text that has just been added; a match cuts it off where the match begins. */
static void look_for_stop(struct text *t, size_t from)
{
    for (size_t i = from; t->stops && t->kind == TEXT_CONTENT && i < t->wait.n; i++) {
        int which = stop_push(t->stops, &t->stop, t->wait.p[i]);
        if (which < 0)
            continue;
        t->stopped = which;
        t->wait.n = i + 1 - stops_bytes(t->stops, which);
        return;
    }
}

/* 1: the end of what waits may become a stop string.  All of it waits on then: were its first tokens sent, their ids alone would
 * not tell a resumed stream how much of the text was said. */
static int stop_may_come(const struct text *t)
{
#ifdef BREAK_STOP_IN_PART /* the gate must see a half match that is sent before its other half comes */
    return 0;
#endif
    return t->stops && stop_pending(t->stops, &t->stop);
}

static int all_newlines(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != '\n')
            return 0;
    return 1;
}

static int newline_waits(const struct text *t)
{
    return t->wait.n && t->wait.p[t->wait.n - 1] == '\n';
}

/* Appends a token's bytes to what waits, as whole characters; `last` gives up on an unfinished one. */
static int wait_add(struct text *t, const char *p, size_t n, int last)
{
    uint8_t *to = buf_reserve(&t->wait, 3 * (n + 3) + 3);
    if (!to)
        return ST_NOMEM;
    size_t wrote = utf8_hold_push(&t->hold, p, n, last, (char *) to), drop = 0;
    while (t->skip && drop < wrote && to[drop] == '\n')
        drop++;
    if (drop < wrote)
        t->skip = 0;
    memmove(to, to + drop, wrote - drop);
    t->wait.n += wrote - drop;
    look_for_stop(t, t->wait.n - (wrote - drop));
    return 0;
}

/* The delta that text of this kind (or ids alone) goes on with: the newest one, or one more. */
static struct text_delta *delta_get(struct text_out *out, int kind, int has_text)
{
    size_t count = text_out_count(out);
    struct text_delta *newest = count ? (struct text_delta *) (void *) out->delta.p + (count - 1) : NULL;
    if (newest && !(has_text && kind == TEXT_REASONING && newest->n[TEXT_CONTENT]))
        return newest;
    struct text_delta d = {{out->text[0].n, out->text[1].n}, {0, 0}, out->ids.n / sizeof(int32_t), 0};
    if (buf_append(&out->delta, &d, sizeof d))
        return NULL;
    return (struct text_delta *) (void *) out->delta.p + count;
}

/* All text and ids that wait go out. */
static int flush(struct text *t, struct text_out *out)
{
    struct text_delta *d = delta_get(out, t->kind, t->wait.n != 0);
    if (!d || buf_append(&out->text[t->kind], t->wait.p, t->wait.n) ||
        buf_append(&out->ids, t->wait_ids.p, t->wait_ids.n))
        return ST_NOMEM;
    d->n[t->kind] += t->wait.n;
    d->id_n += t->wait_ids.n / sizeof(int32_t);
    t->wait.n = t->wait_ids.n = 0;
    return 0;
}

/* Ids without text wait on. */
static int flush_text(struct text *t, struct text_out *out)
{
    return t->wait.n ? flush(t, out) : 0;
}

/* --- tokens --- */

/* A tag: what stands before it is settled, in its own kind, and goes out with the tag or not at all. */
static int tag(struct text *t, int32_t tok, struct text_out *out)
{
    if (t->hold.n && wait_add(t, "", 0, 1))
        return ST_NOMEM;
    if (t->stopped >= 0)
        return 0;
    if (tok == t->close && t->kind == TEXT_REASONING)
        while (newline_waits(t))
            t->wait.n--;
    if (flush_text(t, out))
        return ST_NOMEM;
    t->kind = tok == t->open ? TEXT_REASONING : TEXT_CONTENT;
    t->skip = tok != t->tool;
    t->stop = (struct stop_state){{0}};
    return 0;
}

static int is_tag(const struct text *t, int32_t tok)
{
    if (!t->chat || tok < 0)
        return 0;
    return tok == t->open || tok == t->close || (tok == t->tool && t->kind == TEXT_REASONING);
}

/* 1: what comes next may change what waits. */
static int unsettled(const struct text *t)
{
    return t->hold.n || stop_may_come(t) || (t->chat && t->kind == TEXT_REASONING && newline_waits(t));
}

static int push_one(struct text *t, int32_t tok, struct text_out *out)
{
    size_t n = 0;
    const char *bytes = tokenizer_bytes(t->tokenizer, tok, &n);
    int st = buf_append(&t->wait_ids, &tok, sizeof tok);
    t->n_taken++;
    if (!st && is_tag(t, tok)) {
        st = tag(t, tok, out);
        if (tok != t->tool)
            n = 0;
    } else if (tokenizer_is_special(t->tokenizer, tok)) {
        n = 0;
    }
    if (!st && n && t->stopped < 0)
        st = wait_add(t, bytes, n, 0);
    if (!st && t->stopped >= 0)
        return flush(t, out);
    return st || unsettled(t) ? st : flush_text(t, out);
}

int text_push(struct text *t, const int32_t *tok, size_t n, struct text_out *out)
{
    int st = 0;
    for (size_t i = 0; i < n && !st && t->stopped < 0; i++)
        st = push_one(t, tok[i], out);
    return st;
}

int text_skip(struct text *t, const int32_t *tok, size_t n, struct text_out *out)
{
    int st = text_push(t, tok, n, out);
    text_out_clear(out);
    t->wait_ids.n = 0; /* the client has them */
    return st;
}

int text_end(struct text *t, int whole, struct text_out *out)
{
    int st = 0;
    if (t->stopped >= 0)
        return 0;
    if (whole && t->hold.n)
        st = wait_add(t, "", 0, 1);
    if (whole && !st)
        st = flush_text(t, out);
    t->wait.n = 0;
    t->hold.n = 0;
    return st || !t->wait_ids.n ? st : flush(t, out);
}

void text_init(struct text *t, const struct tokenizer *tokenizer, const struct draw_think *think, int chat,
               const struct stops *stops, const int32_t *prompt, size_t n_prompt)
{
    *t = (struct text){.tokenizer = tokenizer,
                       .open = think->open,
                       .close = think->close,
                       .tool = think->tool,
                       .chat = chat,
                       .stops = stops,
                       .stopped = -1};
    int fresh = 1; /* nothing but newlines since the tag */
    for (size_t i = n_prompt; chat && i-- > 0;) {
        size_t n;
        if (prompt[i] >= 0 && (prompt[i] == t->open || prompt[i] == t->close)) {
            t->kind = prompt[i] == t->open ? TEXT_REASONING : TEXT_CONTENT;
            t->skip = fresh;
            return;
        }
        const char *p = tokenizer_bytes(tokenizer, prompt[i], &n);
        fresh = fresh && n && all_newlines(p, n);
    }
}

void text_fini(struct text *t)
{
    buf_free(&t->wait);
    buf_free(&t->wait_ids);
}
