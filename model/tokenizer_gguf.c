/* tokenizer_gguf.c - the tokenizer of a GGUF: tokenizer.ggml.tokens, token_type and merges.
 *
 * Source: gguf-py's vocab.py, llama.cpp's llama-vocab.cpp.  Normal tokens are the vocabulary, control and user-defined ones are
 * added tokens (llama.cpp writes every <|...|> as control, so a few that Hugging Face shows are special here), unused ones are the
 * padding of the output layer.  Refused by name: another model than "gpt2", another pre-tokenizer than "qwen2" (Qwen's pattern; the
 * name is all the file says), tokens of unknown kinds, a BOS or EOS put before or behind every text. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"
#include "model/tokenizer_impl.h"
#include "model/utf8.h"

enum token_type { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5 };

struct load {
    const struct gguf *g;
    struct tokenizer *t;
    const struct gguf_value *tokens, *types, *merges;
    int16_t byte_of[TOKENIZER_ALPHABET];
    struct err *e;
};

static int want(const struct load *l, const char *key, const char *value)
{
    const struct gguf_value *v = gguf_get(l->g, key);
    size_t n = 0;
    const char *s = v ? gguf_string(v, &n) : NULL;
    if (s && n == strlen(value) && memcmp(s, value, n) == 0)
        return 0;
    return err_set(l->e, ST_UNSUPPORTED, "%.200s: %s is %s; this build serves \"%s\" alone", gguf_label(l->g),
                   key,
                   s   ? tokenizer__show(s, n).s
                   : v ? "no string"
                       : "missing",
                   value);
}

static int want_off(const struct load *l, const char *key)
{
    const struct gguf_value *v = gguf_get(l->g, key);
    if (!v || (v->type == GGUF_BOOL && !v->is_array && !v->p[0]))
        return 0;
    return err_set(l->e, ST_UNSUPPORTED, "%.200s: %s is not false; this build serves it off alone",
                   gguf_label(l->g), key);
}

static int get_list(const struct load *l, const char *key, int type, const struct gguf_value **out)
{
    const struct gguf_value *v = *out = gguf_get(l->g, key);
    if (v && v->is_array && v->type == type)
        return 0;
    return err_set(l->e, ST_FORMAT, "%.200s: %s is %s; expected a list of %s", gguf_label(l->g), key,
                   v ? "of another type" : "missing", type == GGUF_STRING ? "strings" : "32-bit integers");
}

static int get_lists(struct load *l)
{
    int st = get_list(l, "tokenizer.ggml.tokens", GGUF_STRING, &l->tokens);
    if (!st)
        st = get_list(l, "tokenizer.ggml.token_type", GGUF_I32, &l->types);
    if (!st)
        st = get_list(l, "tokenizer.ggml.merges", GGUF_STRING, &l->merges);
    if (!st && l->tokens->n != l->types->n)
        st = err_set(l->e, ST_FORMAT,
                     "%.200s: %" PRIu64 " tokens but %" PRIu64 " token types; expected as many",
                     gguf_label(l->g), l->tokens->n, l->types->n);
    if (!st && l->tokens->n > TOKENIZER_IDS_MAX)
        st = err_set(l->e, ST_FORMAT, "%.200s: %" PRIu64 " tokens; expected at most %d", gguf_label(l->g),
                     l->tokens->n, TOKENIZER_IDS_MAX);
    return st;
}

static int type_of(const struct load *l, uint64_t id)
{
    const unsigned char *p = l->types->p + 4 * id;
    return p[1] | p[2] | p[3] ? -1 : p[0];
}

/* Puts the file's name before what the tables said. */
static int say(const struct load *l, int st, const struct err *inner)
{
    return st < 0 ? err_set(l->e, st, "%.200s: %s", gguf_label(l->g), inner->text) : 0;
}

static int add_token(struct load *l, int64_t id, const char *s, size_t n)
{
    char bytes[TOKENIZER_TOKEN_BYTES_MAX];
    struct err inner;
    int k = utf8_check(s, n) == n ? tokenizer__to_bytes(l->byte_of, s, n, bytes) : -1;
    if (k < 0)
        return err_set(l->e, ST_FORMAT,
                       "%.200s: token %" PRId64
                       " (\"%s\") is not written in byte-level BPE's characters, or is longer "
                       "than %d",
                       gguf_label(l->g), id, tokenizer__show(s, n).s, TOKENIZER_TOKEN_BYTES_MAX);
    return say(l, tokenizer__token(l->t, id, bytes, (size_t) k, &inner), &inner);
}

static int load_tokens(struct load *l)
{
    size_t at = 0, n;
    struct err inner;
    for (uint64_t i = 0; i < l->tokens->n; i++) {
        const char *s = gguf_next(l->tokens, &at, &n);
        int type = type_of(l, i), st = 0;
        if (type == TYPE_NORMAL)
            st = add_token(l, (int64_t) i, s, n);
        else if (type != TYPE_CONTROL && type != TYPE_USER && type != TYPE_UNUSED)
            st = err_set(l->e, ST_UNSUPPORTED,
                         "%.200s: token %" PRIu64
                         " (\"%s\") has the type %d; expected 1 (normal), 3 (control), 4 "
                         "(user-defined) or 5 (unused)",
                         gguf_label(l->g), i, tokenizer__show(s, n).s, type);
        if (st)
            return st;
    }
    return say(l, tokenizer__finish_tokens(l->t, &inner), &inner);
}

/* "a b" */
static int add_merge(struct load *l, uint64_t rank, const char *s, size_t n)
{
    char left[TOKENIZER_TOKEN_BYTES_MAX], right[TOKENIZER_TOKEN_BYTES_MAX];
    struct err inner;
    const char *space = n && utf8_check(s, n) == n ? memchr(s, ' ', n) : NULL;
    size_t first = space ? (size_t) (space - s) : 0;
    int x = space ? tokenizer__to_bytes(l->byte_of, s, first, left) : -1;
    int y = space ? tokenizer__to_bytes(l->byte_of, space + 1, n - first - 1, right) : -1;
    if (x <= 0 || y <= 0)
        return err_set(l->e, ST_FORMAT,
                       "%.200s: merge %" PRIu64
                       " is \"%s\"; expected two tokens in byte-level BPE's characters with one "
                       "space between them",
                       gguf_label(l->g), rank, tokenizer__show(s, n).s);
    return say(l, tokenizer__merge(l->t, left, (size_t) x, right, (size_t) y, &inner), &inner);
}

static int load_merges(struct load *l)
{
    size_t at = 0, n;
    for (uint64_t i = 0; i < l->merges->n; i++) {
        const char *s = gguf_next(l->merges, &at, &n);
        int st = add_merge(l, i, s, n);
        if (st)
            return st;
    }
    return 0;
}

static int load_added(struct load *l)
{
    size_t at = 0, n;
    struct err inner;
    for (uint64_t i = 0; i < l->tokens->n; i++) {
        const char *s = gguf_next(l->tokens, &at, &n);
        int type = type_of(l, i), st = 0;
        if (utf8_check(s, n) != n)
            return err_set(l->e, ST_FORMAT, "%.200s: token %" PRIu64 " (\"%s\") is not UTF-8",
                           gguf_label(l->g), i, tokenizer__show(s, n).s);
        if (type == TYPE_CONTROL || type == TYPE_USER)
            st = tokenizer__add(l->t, (int64_t) i, s, n, type == TYPE_CONTROL, &inner);
        if (st)
            return say(l, st, &inner);
    }
    return 0;
}

static int load_all(struct load *l)
{
    struct err inner;
    int st = want(l, "tokenizer.ggml.model", "gpt2");
    if (!st)
        st = want(l, "tokenizer.ggml.pre", "qwen2");
    if (!st)
        st = want_off(l, "tokenizer.ggml.add_bos_token");
    if (!st)
        st = want_off(l, "tokenizer.ggml.add_eos_token");
    if (!st)
        st = get_lists(l);
    if (!st)
        st = load_tokens(l);
    if (!st)
        st = load_merges(l);
    if (!st)
        st = load_added(l);
    return st ? st : say(l, tokenizer__finish(l->t, &inner), &inner);
}

int tokenizer__open_gguf(struct tokenizer **out, const struct gguf *g, struct err *e)
{
    struct load l = {.g = g, .e = e};
    *out = NULL;
    if (!gguf_get(g, "tokenizer.ggml.model") && !gguf_get(g, "tokenizer.ggml.tokens"))
        return err_set(e, ST_NOTFOUND, "%.200s: no tokenizer: the metadata holds no tokenizer.ggml.*",
                       gguf_label(g));
    if (!(l.t = calloc(1, sizeof *l.t)))
        return err_set(e, ST_NOMEM, "out of memory");
    tokenizer__alphabet(l.byte_of);
    int st = load_all(&l);
    if (st)
        tokenizer_close(l.t);
    else
        *out = l.t;
    return st;
}
