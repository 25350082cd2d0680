/* tokenizer_load.c - a tokenizer's files read: tokenizer.json, or vocab.json + merges.txt + tokenizer_config.json.
 *
 * Source: Hugging Face tokenizers' serialization; GPT-2's byte-to-character table (every byte has a visible character of
 * its own: the printable ones of Latin-1 stand for themselves, the other 68 for U+0100 and up).
 *
 * What this build does is fixed: NFC, Qwen's pattern, byte-level BPE.  A file that asks for anything else is refused with
 * the setting's name.  `truncation` and `padding` are not looked at: transformers resets them on every call. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/read.h"
#include "model/source.h"
#include "model/synth.h"
#include "model/tokenizer_impl.h"
#include "model/utf8.h"

struct load {
    struct tokenizer *t;
    const char *label;                   /* the file being read */
    const struct jnode *added;           /* tokenizer.json's list, or NULL */
    int16_t byte_of[TOKENIZER_ALPHABET]; /* code point -> byte, -1 */
    struct err *e;
};

static int is_visible(int b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

void tokenizer__alphabet(int16_t byte_of[TOKENIZER_ALPHABET])
{
    int extra = 256;
    memset(byte_of, -1, TOKENIZER_ALPHABET * sizeof *byte_of);
    for (int b = 0; b < 256; b++)
        byte_of[is_visible(b) ? b : extra++] = (int16_t) b;
}

__attribute__((format(printf, 3, 4))) static int refuse(const struct load *l, int st, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(l->e, st, "%.200s: %s", l->label, text);
}

/* Puts the file's name before what a table said. */
static int refuse_at(const struct load *l, int st, const struct err *inner)
{
    return err_set(l->e, st, "%.200s: %s", l->label, inner->text);
}

static int parse_file(const struct load *l, struct jdoc *d, struct vocab_text f)
{
    struct err inner;
    int st = jdoc_parse(d, f.p, f.n, &inner);
    if (st < 0)
        return refuse_at(l, st, &inner);
    if (d->node[0].type == JNODE_OBJECT)
        return 0;
    st = refuse(l, ST_FORMAT, "the file holds %s; expected a JSON object", jnode_kind(d->node));
    jdoc_free(d);
    return st;
}

int tokenizer__to_bytes(const int16_t byte_of[TOKENIZER_ALPHABET], const char *p, size_t n, char *out)
{
    int k = 0;
    for (size_t i = 0; i < n;) {
        int len;
        uint32_t c = utf8_get(p + i, &len);
        if (c >= TOKENIZER_ALPHABET || byte_of[c] < 0 || k == TOKENIZER_TOKEN_BYTES_MAX)
            return -1;
        out[k++] = (char) byte_of[c];
        i += (size_t) len;
    }
    return k;
}

/* --- vocabulary --- */

static int is_added(const struct load *l, const struct jnode *token)
{
    if (!l->added)
        return 0;
    const struct jnode *a = jnode_first(l->added);
    for (uint32_t i = 0; i < l->added->n; i++, a = jnode_next(a)) {
        const struct jnode *c = jnode_get(a, "content");
        if (c && c->type == JNODE_STRING && c->bytes == token->bytes &&
            memcmp(c->text, token->text, c->bytes) == 0)
            return 1;
    }
    return 0;
}

static int load_vocab(const struct load *l, const struct jnode *vocab)
{
    char bytes[TOKENIZER_TOKEN_BYTES_MAX];
    struct err inner;
    const struct jnode *k = jnode_first(vocab);
    for (uint32_t i = 0; i < vocab->n; i++, k = jnode_next(k + 1)) {
        int64_t id;
        if (!jnode_int(k + 1, &id))
            return refuse(l, ST_FORMAT, "the id of token \"%s\" is %s; expected an integer",
                          tokenizer__show(k->text, k->bytes).s, jnode_kind(k + 1));
        int n = tokenizer__to_bytes(l->byte_of, k->text, k->bytes, bytes);
        if (n < 0 && is_added(l, k))
            continue;
        if (n < 0)
            return refuse(
                l, ST_FORMAT,
                "token %lld (\"%s\") is not written in byte-level BPE's characters, or is longer than %d",
                (long long) id, tokenizer__show(k->text, k->bytes).s, TOKENIZER_TOKEN_BYTES_MAX);
        int st = tokenizer__token(l->t, id, bytes, (size_t) n, &inner);
        if (st < 0)
            return refuse_at(l, st, &inner);
    }
    int st = tokenizer__finish_tokens(l->t, &inner);
    return st < 0 ? refuse_at(l, st, &inner) : 0;
}

/* --- merges --- */

static int add_merge(const struct load *l, uint32_t rank, const char *a, size_t n_a, const char *b,
                     size_t n_b)
{
    char left[TOKENIZER_TOKEN_BYTES_MAX], right[TOKENIZER_TOKEN_BYTES_MAX];
    struct err inner;
    int x = tokenizer__to_bytes(l->byte_of, a, n_a, left), y = tokenizer__to_bytes(l->byte_of, b, n_b, right);
    if (x <= 0 || y <= 0)
        return refuse(l, ST_FORMAT,
                      "merge %u: \"%s\" and \"%s\" must be two tokens in byte-level BPE's characters", rank,
                      tokenizer__show(a, n_a).s, tokenizer__show(b, n_b).s);
    int st = tokenizer__merge(l->t, left, (size_t) x, right, (size_t) y, &inner);
    return st < 0 ? refuse_at(l, st, &inner) : 0;
}

/* "a b" */
static int add_line(const struct load *l, uint32_t rank, const char *p, size_t n)
{
    const char *space = n ? memchr(p, ' ', n) : NULL;
    if (!space || memchr(space + 1, ' ', n - (size_t) (space + 1 - p)))
        return refuse(l, ST_FORMAT, "merge %u is \"%s\"; expected two tokens with one space between them",
                      rank, tokenizer__show(p, n).s);
    size_t left = (size_t) (space - p);
    return add_merge(l, rank, p, left, space + 1, n - left - 1);
}

static int load_merges(const struct load *l, const struct jnode *merges)
{
    const struct jnode *m = jnode_first(merges);
    for (uint32_t i = 0; i < merges->n; i++, m = jnode_next(m)) {
        int st;
        const struct jnode *a = m + 1, *b = m + 2;
        if (m->type == JNODE_STRING)
            st = add_line(l, i, m->text, m->bytes);
        else if (m->type == JNODE_ARRAY && m->n == 2 && a->type == JNODE_STRING && b->type == JNODE_STRING)
            st = add_merge(l, i, a->text, a->bytes, b->text, b->bytes);
        else
            return refuse(l, ST_FORMAT, "merge %u is %s; expected \"a b\" or [\"a\", \"b\"]", i,
                          jnode_kind(m));
        if (st < 0)
            return st;
    }
    return 0;
}

static int load_merges_txt(const struct load *l, struct vocab_text f)
{
    size_t good = utf8_check(f.p, f.n), i = 0;
    uint32_t rank = 0;
    if (good < f.n)
        return refuse(l, ST_FORMAT, "not UTF-8 at byte %zu", good);
    if (f.n >= 8 && memcmp(f.p, "#version", 8) == 0)
        while (i < f.n && f.p[i] != '\n')
            i++;
    while (i < f.n) {
        const char *end = memchr(f.p + i, '\n', f.n - i);
        size_t next = end ? (size_t) (end - f.p) + 1 : f.n, n = next - i - (end != NULL);
        if (n && f.p[i + n - 1] == '\r')
            n--;
        int st = n ? add_line(l, rank++, f.p + i, n) : 0;
        if (st < 0)
            return st;
        i = next;
    }
    return 0;
}

/* --- added tokens --- */

static int flag_of(const struct jnode *a, const char *name)
{
    const struct jnode *x = jnode_get(a, name);
    return x && x->type == JNODE_TRUE;
}

static int add_added(const struct load *l, int64_t id, const struct jnode *a)
{
    static const char *const unserved[] = {"lstrip", "rstrip", "single_word", "normalized"};
    struct err inner;
    const struct jnode *content = jnode_get(a, "content");
    if (!content || content->type != JNODE_STRING)
        return refuse(l, ST_FORMAT, "the content of added token %lld is %s; expected a string",
                      (long long) id, jnode_kind(content));
    for (size_t i = 0; i < sizeof unserved / sizeof *unserved; i++)
        if (flag_of(a, unserved[i]))
            return refuse(l, ST_UNSUPPORTED, "added token %lld (\"%s\") has %s: true; only false is served",
                          (long long) id, tokenizer__show(content->text, content->bytes).s, unserved[i]);
    int st = tokenizer__add(l->t, id, content->text, content->bytes, flag_of(a, "special"), &inner);
    return st < 0 ? refuse_at(l, st, &inner) : 0;
}

static int load_added(const struct load *l)
{
    const struct jnode *a = jnode_first(l->added);
    for (uint32_t i = 0; i < l->added->n; i++, a = jnode_next(a)) {
        int64_t id;
        if (!jnode_int(jnode_get(a, "id"), &id))
            return refuse(l, ST_FORMAT, "added_tokens[%u] has no integer id", i);
        int st = add_added(l, id, a);
        if (st < 0)
            return st;
    }
    return 0;
}

/* tokenizer_config.json's added_tokens_decoder: {"151643": {...}, ...} */
static int load_decoder(const struct load *l, const struct jnode *o)
{
    const struct jnode *k = jnode_first(o);
    for (uint32_t i = 0; i < o->n; i++, k = jnode_next(k + 1)) {
        struct jnode number = *k;
        int64_t id;
        number.type = JNODE_NUMBER;
        if (k->bytes == 0 || !jnode_int(&number, &id))
            return refuse(l, ST_FORMAT, "added_tokens_decoder has the key \"%s\"; expected an id",
                          tokenizer__show(k->text, k->bytes).s);
        int st = add_added(l, id, k + 1);
        if (st < 0)
            return st;
    }
    return 0;
}

/* --- settings --- */

static struct shown show_node(const struct jnode *x)
{
    return x ? tokenizer__show(x->text, x->bytes) : tokenizer__show("missing", 7);
}

static int want(const struct load *l, const struct jnode *x, const char *name, const char *value)
{
    if (jnode_is(x, value))
        return 0;
    return refuse(l, ST_UNSUPPORTED, "%s is %s; this build serves \"%s\" alone", name, show_node(x).s, value);
}

/* Absent, null, false and "" all mean off. */
static int want_off(const struct load *l, const struct jnode *x, const char *name)
{
    if (!x || x->type == JNODE_NULL || x->type == JNODE_FALSE || jnode_is(x, ""))
        return 0;
    return refuse(l, ST_UNSUPPORTED, "%s is %s; this build serves it off alone", name, show_node(x).s);
}

static int check_pre_tokenizer(const struct load *l, const struct jnode *pre)
{
    const struct jnode *list = jnode_get(pre, "pretokenizers");
    int st = want(l, jnode_get(pre, "type"), "pre_tokenizer.type", "Sequence");
    if (st < 0)
        return st;
    if (!list || list->type != JNODE_ARRAY || list->n != 2)
        return refuse(l, ST_UNSUPPORTED,
                      "pre_tokenizer.pretokenizers must be two steps: Split, then ByteLevel");
    const struct jnode *split = jnode_first(list), *level = jnode_next(split);
    if ((st = want(l, jnode_get(split, "type"), "the first pre-tokenizer", "Split")) < 0 ||
        (st = want(l, jnode_get(split, "behavior"), "Split.behavior", "Isolated")) < 0 ||
        (st = want_off(l, jnode_get(split, "invert"), "Split.invert")) < 0 ||
        (st = want(l, jnode_get(jnode_get(split, "pattern"), "Regex"), "Split.pattern.Regex",
                   tokenizer__pattern)) < 0 ||
        (st = want(l, jnode_get(level, "type"), "the second pre-tokenizer", "ByteLevel")) < 0 ||
        (st = want_off(l, jnode_get(level, "add_prefix_space"), "ByteLevel.add_prefix_space")) < 0)
        return st;
    const struct jnode *regex = jnode_get(level, "use_regex");
    if (!regex || regex->type != JNODE_FALSE)
        return refuse(l, ST_UNSUPPORTED, "ByteLevel.use_regex must be false: Split does the splitting");
    return 0;
}

static int check_model(const struct load *l, const struct jnode *model)
{
    static const char *const off[] = {
        "dropout",       "unk_token",    "continuing_subword_prefix", "end_of_word_suffix",
        "byte_fallback", "ignore_merges"};
    int st = want(l, jnode_get(model, "type"), "model.type", "BPE");
    for (size_t i = 0; st == 0 && i < sizeof off / sizeof *off; i++) {
        char name[48];
        snprintf(name, sizeof name, "model.%s", off[i]);
        st = want_off(l, jnode_get(model, off[i]), name);
    }
    return st;
}

static int check_settings(const struct load *l, const struct jnode *root)
{
    const struct jnode *post = jnode_get(root, "post_processor");
    int st;
    if ((st = check_model(l, jnode_get(root, "model"))) < 0 ||
        (st = want(l, jnode_get(jnode_get(root, "normalizer"), "type"), "normalizer.type", "NFC")) < 0 ||
        (st = check_pre_tokenizer(l, jnode_get(root, "pre_tokenizer"))) < 0 ||
        (st = want(l, jnode_get(jnode_get(root, "decoder"), "type"), "decoder.type", "ByteLevel")) < 0)
        return st;
    if (post && post->type != JNODE_NULL)
        return want(l, jnode_get(post, "type"), "post_processor.type", "ByteLevel");
    return 0;
}

static int load_json(struct load *l, const struct jnode *root)
{
    const struct jnode *model = jnode_get(root, "model");
    const struct jnode *vocab = jnode_get(model, "vocab"), *merges = jnode_get(model, "merges");
    struct err inner;
    int st = check_settings(l, root);
    if (st < 0)
        return st;
    if (!vocab || vocab->type != JNODE_OBJECT)
        return refuse(l, ST_FORMAT, "model.vocab is %s; expected an object", jnode_kind(vocab));
    if (!merges || merges->type != JNODE_ARRAY)
        return refuse(l, ST_FORMAT, "model.merges is %s; expected an array", jnode_kind(merges));
    l->added = jnode_get(root, "added_tokens");
    if (l->added && l->added->type == JNODE_NULL)
        l->added = NULL;
    if (l->added && l->added->type != JNODE_ARRAY)
        return refuse(l, ST_FORMAT, "added_tokens is %s; expected an array", jnode_kind(l->added));
    if ((st = load_vocab(l, vocab)) < 0 || (st = load_merges(l, merges)) < 0)
        return st;
    if (l->added && (st = load_added(l)) < 0)
        return st;
    st = tokenizer__finish(l->t, &inner);
    return st < 0 ? refuse_at(l, st, &inner) : 0;
}

static int load_start(struct load *l, const char *label, struct err *e)
{
    *l = (struct load){.label = label, .e = e, .t = calloc(1, sizeof *l->t)};
    tokenizer__alphabet(l->byte_of);
    return l->t ? 0 : refuse(l, ST_NOMEM, "out of memory");
}

static int load_end(struct load *l, int st, struct tokenizer **out)
{
    if (st < 0)
        tokenizer_close(l->t);
    else
        *out = l->t;
    return st;
}

int tokenizer__open_json(struct tokenizer **out, struct vocab_text json, struct err *e)
{
    struct load l;
    struct jdoc d;
    *out = NULL;
    int st = load_start(&l, json.label, e);
    if (st < 0)
        return st;
    st = parse_file(&l, &d, json);
    if (st == 0) {
        st = load_json(&l, d.node);
        jdoc_free(&d);
    }
    return load_end(&l, st, out);
}

static int check_class(const struct load *l, const struct jnode *config)
{
    const struct jnode *c = jnode_get(config, "tokenizer_class");
    if (!c || jnode_is(c, "Qwen2Tokenizer") || jnode_is(c, "Qwen2TokenizerFast"))
        return 0;
    return refuse(l, ST_UNSUPPORTED,
                  "tokenizer_class is %s; vocab.json and merges.txt are served for Qwen2Tokenizer alone",
                  show_node(c).s);
}

static int load_config(struct load *l, struct vocab_text config)
{
    struct jdoc d;
    l->label = config.label;
    int st = parse_file(l, &d, config);
    if (st < 0)
        return st;
    const struct jnode *decoder = jnode_get(d.node, "added_tokens_decoder");
    st = check_class(l, d.node);
    if (st == 0 && decoder && decoder->type != JNODE_OBJECT)
        st = refuse(l, ST_FORMAT, "added_tokens_decoder is %s; expected an object", jnode_kind(decoder));
    if (st == 0 && decoder)
        st = load_decoder(l, decoder);
    jdoc_free(&d);
    return st;
}

static int load_three(struct load *l, struct vocab_text vocab, struct vocab_text merges,
                      struct vocab_text config)
{
    struct jdoc d;
    struct err inner;
    int st = parse_file(l, &d, vocab);
    if (st < 0)
        return st;
    st = load_vocab(l, d.node);
    jdoc_free(&d);
    l->label = merges.label;
    if (st < 0 || (st = load_merges_txt(l, merges)) < 0)
        return st;
    if (config.p && (st = load_config(l, config)) < 0)
        return st;
    l->label = vocab.label;
    st = tokenizer__finish(l->t, &inner);
    return st < 0 ? refuse_at(l, st, &inner) : 0;
}

int tokenizer__open_vocab(struct tokenizer **out, struct vocab_text vocab, struct vocab_text merges,
                          struct vocab_text config, struct err *e)
{
    struct load l;
    *out = NULL;
    int st = load_start(&l, vocab.label, e);
    return st < 0 ? st : load_end(&l, load_three(&l, vocab, merges, config), out);
}

/* --- files --- */

static struct vocab_text text_of(const struct model__file *f)
{
    return (struct vocab_text){f->label, f->data, f->bytes};
}

static int open_three(struct tokenizer **out, const char *dir, struct err *e)
{
    struct model__file vocab = {0}, merges = {0}, config = {0};
    int st = model__file_open(&vocab, dir, "vocab.json", e);
    if (st == ST_NOTFOUND)
        return err_set(e, st, "%.200s: no tokenizer: expected tokenizer.json, or vocab.json and merges.txt",
                       dir);
    if (st == 0)
        st = model__file_open(&merges, dir, "merges.txt", e);
    if (st == 0)
        st = model__file_open(&config, dir, "tokenizer_config.json", e);
    if (st == 0 || (st == ST_NOTFOUND && merges.data))
        st = tokenizer__open_vocab(out, text_of(&vocab), text_of(&merges), text_of(&config), e);
    model__file_close(&config);
    model__file_close(&merges);
    model__file_close(&vocab);
    return st;
}

static int open_dir(struct tokenizer **out, const char *dir, struct err *e)
{
    struct model__file f;
    int st = model__file_open(&f, dir, "tokenizer.json", e);
    if (st == ST_NOTFOUND)
        return open_three(out, dir, e);
    if (st < 0)
        return st;
    st = tokenizer__open_json(out, text_of(&f), e);
    model__file_close(&f);
    return st;
}

static int open_gguf(struct tokenizer **out, const char *path, struct err *e)
{
    struct gguf *g;
    int st = gguf_open(&g, path, e);
    if (st == 0)
        st = tokenizer__open_gguf(out, g, e);
    gguf_close(g);
    return st;
}

int tokenizer_open(struct tokenizer **out, const char *name, struct err *e)
{
    struct source s;
    struct synth_shape shape;
    *out = NULL;
    int st = source_find(&s, name, e);
    if (st < 0)
        return st;
    if (s.kind == SOURCE_SYNTH)
        return (st = synth_parse(&shape, s.path, e)) < 0 ? st : synth_tokenizer(out, e);
    return s.kind == SOURCE_GGUF ? open_gguf(out, s.path, e) : open_dir(out, s.path, e);
}
