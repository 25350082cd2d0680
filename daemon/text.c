/* text.c - see text.h for the rules.
 *
 * Only text of one kind ever waits: a tag settles what stands before it.  Ids without text (tags, special tokens) wait
 * for the next text, or for the end. */
#include "daemon/text.h"

#include <string.h>

#include "core/status.h"

void text_out_clear(struct text_out *o)
{
    o->text.n = o->text.at = o->ids.n = o->ids.at = o->delta.n = o->delta.at = 0;
}

void text_out_free(struct text_out *o)
{
    buf_free(&o->text);
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

/* Bytes of what waits that stand whatever follows: all but newlines that may yet turn out to stand before </think>. */
static size_t wait_settled(const struct text *t)
{
    size_t n = t->wait.n;
    while (t->chat && t->kind == TEXT_REASONING && n && t->wait.p[n - 1] == '\n')
        n--;
    return n;
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
    return 0;
}

/* Everything that waits becomes a delta, or the end of the newest one of the same kind.  Without text, ids wait on. */
static int wait_flush(struct text *t, struct text_out *out)
{
    if (!t->wait.n)
        return 0;
    size_t n_ids = t->wait_ids.n / sizeof(int32_t), count = text_out_count(out);
    struct text_delta d = {t->kind, out->text.n, t->wait.n, out->ids.n / sizeof(int32_t), n_ids};
    if (buf_append(&out->text, t->wait.p, t->wait.n) || buf_append(&out->ids, t->wait_ids.p, t->wait_ids.n))
        return ST_NOMEM;
    t->wait.n = t->wait_ids.n = 0;
    if (count && text_out_at(out, count - 1).kind == t->kind) {
        struct text_delta newest = text_out_at(out, count - 1);
        newest.text_n += d.text_n;
        newest.id_n += d.id_n;
        memcpy(out->delta.p + (count - 1) * sizeof newest, &newest, sizeof newest);
        return 0;
    }
    return buf_append(&out->delta, &d, sizeof d);
}

/* --- tokens --- */

/* A tag: what stands before it is settled, in its own kind.  Its id goes with that text: no stream can break between them and
 * hold ids whose text it lacks.  (Not <tool_call>'s, which has a text of its own.) */
static int tag(struct text *t, int32_t tok, struct text_out *out)
{
    if (t->hold.n && wait_add(t, "", 0, 1))
        return ST_NOMEM;
    if (tok == t->close && t->kind == TEXT_REASONING)
        t->wait.n = wait_settled(t);
    if ((tok != t->tool && buf_append(&t->wait_ids, &tok, sizeof tok)) || wait_flush(t, out))
        return ST_NOMEM;
    t->kind = tok == t->open ? TEXT_REASONING : TEXT_CONTENT;
    t->skip = tok != t->tool;
    return 0;
}

static int is_tag(const struct text *t, int32_t tok)
{
    if (!t->chat || tok < 0)
        return 0;
    return tok == t->open || tok == t->close || (tok == t->tool && t->kind == TEXT_REASONING);
}

static int push_one(struct text *t, int32_t tok, struct text_out *out)
{
    size_t n = 0;
    const char *bytes = tokenizer_bytes(t->tokenizer, tok, &n);
    int st = 0;
    if (is_tag(t, tok)) {
        st = tag(t, tok, out);
        if (tok != t->tool)
            return st;
    } else if (tokenizer_is_special(t->tokenizer, tok)) {
        n = 0;
    }
    if (!st && n)
        st = wait_add(t, bytes, n, 0);
    if (!st)
        st = buf_append(&t->wait_ids, &tok, sizeof tok);
    if (!st && t->hold.n == 0 && !(t->chat && t->kind == TEXT_REASONING && newline_waits(t)))
        st = wait_flush(t, out);
    return st;
}

int text_push(struct text *t, const int32_t *tok, size_t n, struct text_out *out)
{
    int st = 0;
    for (size_t i = 0; i < n && !st; i++)
        st = push_one(t, tok[i], out);
    return st;
}

int text_skip(struct text *t, const int32_t *tok, size_t n, struct text_out *out)
{
    int st = text_push(t, tok, n, out);
    size_t given = wait_settled(t);
    text_out_clear(out);
    t->wait_ids.n = 0; /* the client has them, and what stands of their text */
    if (given) {
        t->wait.n -= given;
        memmove(t->wait.p, t->wait.p + given, t->wait.n);
    }
    return st;
}

/* Ids that wait without text go with the newest delta, or alone. */
static int ids_flush(struct text *t, struct text_out *out)
{
    size_t n_ids = t->wait_ids.n / sizeof(int32_t), count = text_out_count(out);
    struct text_delta d = {t->kind, out->text.n, 0, out->ids.n / sizeof(int32_t), n_ids};
    if (!n_ids)
        return 0;
    if (buf_append(&out->ids, t->wait_ids.p, t->wait_ids.n))
        return ST_NOMEM;
    t->wait_ids.n = 0;
    if (count == 0)
        return buf_append(&out->delta, &d, sizeof d);
    struct text_delta newest = text_out_at(out, count - 1);
    newest.id_n += n_ids;
    memcpy(out->delta.p + (count - 1) * sizeof newest, &newest, sizeof newest);
    return 0;
}

int text_end(struct text *t, int whole, struct text_out *out)
{
    int st = 0;
    if (whole && t->hold.n)
        st = wait_add(t, "", 0, 1);
    if (!whole)
        t->wait.n = wait_settled(t);
    if (!st)
        st = wait_flush(t, out);
    t->wait.n = 0;
    t->hold.n = 0;
    return st ? st : ids_flush(t, out);
}

void text_init(struct text *t, const struct tokenizer *tokenizer, const struct draw_think *think, int chat,
               const int32_t *prompt, size_t n_prompt)
{
    *t = (struct text){.tokenizer = tokenizer,
                       .open = think->open,
                       .close = think->close,
                       .tool = think->tool,
                       .chat = chat};
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
