/* tokenizer.c - the tokenizer's tables: filled once from what the files say, then read by any thread.
 *
 * Refuses, naming the token: ids out of range or given twice, two tokens with the same bytes, a byte without a token, merges
 * of unknown tokens or into one, a merge listed twice, added tokens that collide.  Process lifetime; the tables own all they
 * point at. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_impl.h"

struct shown tokenizer__show(const char *p, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    struct shown v;
    size_t k = 0;
    for (size_t i = 0; i < n && i < TOKENIZER_SHOW_BYTES; i++) {
        unsigned char c = (unsigned char) p[i];
        if (c >= 0x20 && c < 0x7f) {
            v.s[k++] = (char) c;
        } else {
            v.s[k++] = '\\';
            v.s[k++] = 'x';
            v.s[k++] = hex[c >> 4];
            v.s[k++] = hex[c & 15];
        }
    }
    strcpy(v.s + k, n > TOKENIZER_SHOW_BYTES ? "..." : "");
    return v;
}

static const char *bytes_of(const struct tokenizer *t, int32_t id)
{
    return t->blob + t->tok[id].at;
}

static struct shown show_id(const struct tokenizer *t, int32_t id)
{
    return tokenizer__show(bytes_of(t, id), t->tok[id].bytes);
}

static int no_memory(struct err *e)
{
    return err_set(e, ST_NOMEM, "out of memory for the tokenizer");
}

/* --- filling --- */

static int blob_add(struct tokenizer *t, const char *p, size_t n, uint32_t *at)
{
    if (n > t->blob_cap - t->blob_bytes) {
        size_t cap = t->blob_cap * 2 + n + 4096;
        char *blob = realloc(t->blob, cap);
        if (!blob)
            return ST_NOMEM;
        t->blob = blob;
        t->blob_cap = cap;
    }
    *at = (uint32_t) t->blob_bytes;
    memcpy(t->blob + t->blob_bytes, p, n);
    t->blob_bytes += n;
    return 0;
}

static int ids_grow(struct tokenizer *t, int32_t n)
{
    if (n <= t->n_ids)
        return 0;
    if (n > t->tok_cap) {
        int32_t cap = t->tok_cap * 2 > n ? t->tok_cap * 2 : n + 256;
        struct tok *tok = realloc(t->tok, (size_t) cap * sizeof *tok);
        if (!tok)
            return ST_NOMEM;
        memset(tok + t->tok_cap, 0, (size_t) (cap - t->tok_cap) * sizeof *tok);
        t->tok = tok;
        t->tok_cap = cap;
    }
    t->n_ids = n;
    return 0;
}

/* Gives id its bytes; an id that has some already is refused. */
static int tok_set(struct tokenizer *t, int64_t id, const char *p, size_t n, int flags, struct err *e)
{
    if (id < 0 || id >= TOKENIZER_IDS_MAX)
        return err_set(e, ST_FORMAT, "token \"%s\" has the id %lld; expected 0 to %d",
                       tokenizer__show(p, n).s, (long long) id, TOKENIZER_IDS_MAX - 1);
    if (n == 0 || n > TOKENIZER_TOKEN_BYTES_MAX)
        return err_set(e, ST_FORMAT, "token %lld (\"%s\") has %zu bytes; expected 1 to %d", (long long) id,
                       tokenizer__show(p, n).s, n, TOKENIZER_TOKEN_BYTES_MAX);
    if (ids_grow(t, (int32_t) id + 1) < 0)
        return no_memory(e);
    struct tok *k = t->tok + id;
    if (k->bytes)
        return err_set(e, ST_FORMAT, "the tokens \"%s\" and \"%s\" have the same id %lld",
                       show_id(t, (int32_t) id).s, tokenizer__show(p, n).s, (long long) id);
    if (blob_add(t, p, n, &k->at) < 0)
        return no_memory(e);
    k->bytes = (uint16_t) n;
    k->flags = (uint8_t) flags;
    return 0;
}

int tokenizer__token(struct tokenizer *t, int64_t id, const char *bytes, size_t n, struct err *e)
{
    return tok_set(t, id, bytes, n, 0, e);
}

static uint32_t word_hash(const char *p, size_t n)
{
    uint64_t h = n, x = 0;
    for (; n >= sizeof x; p += sizeof x, n -= sizeof x) {
        memcpy(&x, p, sizeof x);
        h = (h ^ x) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 32;
    }
    x = 0;
    for (size_t i = 0; i < n; i++)
        x = x << 8 | (unsigned char) p[i];
    h = (h ^ x) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t) (h >> 32);
}

/* Where p is in the table of words, or the empty place it would take. */
static uint32_t word_place(const struct tokenizer *t, const char *p, size_t n)
{
    uint32_t i = word_hash(p, n) & t->word_mask;
    for (; t->word[i] >= 0; i = (i + 1) & t->word_mask) {
        int32_t id = t->word[i];
        if (t->tok[id].bytes == n && memcmp(bytes_of(t, id), p, n) == 0)
            break;
    }
    return i;
}

int32_t tokenizer__find(const struct tokenizer *t, const char *p, size_t n)
{
    return t->word[word_place(t, p, n)];
}

/* A power of two at least twice n, so that probing stays short. */
static uint32_t table_size(int32_t n)
{
    uint32_t size = 64;
    while (size < (uint32_t) n * 2)
        size *= 2;
    return size;
}

int tokenizer__finish_tokens(struct tokenizer *t, struct err *e)
{
    uint32_t size = table_size(t->n_ids);
    t->word_mask = size - 1;
    t->word = malloc(size * sizeof *t->word);
    if (!t->word)
        return no_memory(e);
    memset(t->word, -1, size * sizeof *t->word);
    for (int32_t id = 0; id < t->n_ids; id++) {
        if (!t->tok[id].bytes)
            continue;
        uint32_t i = word_place(t, bytes_of(t, id), t->tok[id].bytes);
        if (t->word[i] >= 0)
            return err_set(e, ST_FORMAT, "the ids %d and %d are the same token \"%s\"", t->word[i], id,
                           show_id(t, id).s);
        t->word[i] = id;
    }
    for (int b = 0; b < 256; b++) {
        char c = (char) b;
        t->byte_id[b] = tokenizer__find(t, &c, 1);
        if (t->byte_id[b] < 0)
            return err_set(e, ST_FORMAT,
                           "the vocabulary has no token for the byte 0x%02x; byte-level BPE needs all 256",
                           b);
    }
    return 0;
}

static int merges_grow(struct tokenizer *t)
{
    if (t->n_merges < t->merge_cap)
        return 0;
    int32_t cap = t->merge_cap ? t->merge_cap * 2 : 1024;
    struct merge *m = realloc(t->merge, (size_t) cap * sizeof *m);
    if (!m)
        return ST_NOMEM;
    t->merge = m;
    t->merge_cap = cap;
    return 0;
}

int tokenizer__merge(struct tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right,
                     struct err *e)
{
    char both[2 * TOKENIZER_TOKEN_BYTES_MAX];
    if (t->n_merges >= TOKENIZER_IDS_MAX)
        return err_set(e, ST_FORMAT, "more than %d merges", TOKENIZER_IDS_MAX);
    if (n_left == 0 || n_right == 0 || n_left + n_right > TOKENIZER_TOKEN_BYTES_MAX)
        return err_set(
            e, ST_FORMAT,
            "merge %d (\"%s\" and \"%s\") makes a token of %zu bytes out of %zu and %zu; at most %d",
            t->n_merges, tokenizer__show(left, n_left).s, tokenizer__show(right, n_right).s, n_left + n_right,
            n_left, n_right, TOKENIZER_TOKEN_BYTES_MAX);
    memcpy(both, left, n_left);
    memcpy(both + n_left, right, n_right);
    struct merge m = {tokenizer__find(t, left, n_left), tokenizer__find(t, right, n_right),
                      tokenizer__find(t, both, n_left + n_right)};
    if (m.left < 0 || m.right < 0 || m.to < 0)
        return err_set(e, ST_FORMAT, "merge %d (\"%s\" and \"%s\"): %s is not in the vocabulary", t->n_merges,
                       tokenizer__show(left, n_left).s, tokenizer__show(right, n_right).s,
                       m.left < 0    ? "the first"
                       : m.right < 0 ? "the second"
                                     : "what they make");
    if (merges_grow(t) < 0)
        return no_memory(e);
    t->merge[t->n_merges++] = m;
    return 0;
}

/* A child of `at` for this byte, made if need be; -1: out of memory. */
static int32_t trie_child(struct tokenizer *t, int32_t at, uint8_t byte)
{
    for (int32_t k = t->trie[at].child; k; k = t->trie[k].sibling)
        if (t->trie[k].byte == byte)
            return k;
    if (t->n_trie == t->trie_cap) {
        int32_t cap = t->trie_cap * 2;
        struct trie_node *trie = realloc(t->trie, (size_t) cap * sizeof *trie);
        if (!trie)
            return -1;
        t->trie = trie;
        t->trie_cap = cap;
    }
    t->trie[t->n_trie] = (struct trie_node){.sibling = t->trie[at].child, .id = -1, .byte = byte};
    t->trie[at].child = t->n_trie;
    return t->n_trie++;
}

static int trie_start(struct tokenizer *t)
{
    if (t->trie)
        return 0;
    t->trie = malloc(256 * sizeof *t->trie);
    if (!t->trie)
        return ST_NOMEM;
    t->trie_cap = 256;
    t->trie[0] = (struct trie_node){.id = -1};
    t->n_trie = 1;
    return 0;
}

static int trie_add(struct tokenizer *t, const char *p, size_t n, int32_t id, struct err *e)
{
    int32_t at = 0;
    if (trie_start(t) < 0)
        return no_memory(e);
    for (size_t i = 0; i < n; i++)
        if ((at = trie_child(t, at, (uint8_t) p[i])) < 0)
            return no_memory(e);
    if (t->trie[at].id >= 0)
        return err_set(e, ST_FORMAT, "the added token \"%s\" is listed twice, with the ids %d and %d",
                       tokenizer__show(p, n).s, t->trie[at].id, id);
    t->trie[at].id = id;
    t->starts[(unsigned char) p[0]] = 1;
    return 0;
}

int tokenizer__add(struct tokenizer *t, int64_t id, const char *bytes, size_t n, int special, struct err *e)
{
    int flags = TOK_ADDED | (special ? TOK_SPECIAL : 0);
    if (t->n_added >= TOKENIZER_ADDED_MAX)
        return err_set(e, ST_FORMAT, "more than %d added tokens", TOKENIZER_ADDED_MAX);
    /* An added token may repeat a token of the vocabulary, under the same id. */
    int32_t base = n > 0 && n <= TOKENIZER_TOKEN_BYTES_MAX ? tokenizer__find(t, bytes, n) : -1;
    if (base >= 0 && base != id)
        return err_set(e, ST_FORMAT, "the added token \"%s\" has the id %lld, but %d in the vocabulary",
                       tokenizer__show(bytes, n).s, (long long) id, base);
    int st = 0;
    if (base >= 0)
        t->tok[base].flags |= (uint8_t) flags;
    else
        st = tok_set(t, id, bytes, n, flags, e);
    if (st == 0)
        st = trie_add(t, bytes, n, (int32_t) id, e);
    t->n_added++;
    return st;
}

static int fill_slots(struct tokenizer *t, struct err *e)
{
    uint32_t size = table_size(t->n_merges);
    t->slot_mask = size - 1;
    t->slot = malloc(size * sizeof *t->slot);
    if (!t->slot)
        return no_memory(e);
    memset(t->slot, -1, size * sizeof *t->slot);
    for (int32_t r = 0; r < t->n_merges; r++) {
        const struct merge *m = t->merge + r;
        if (!tokenizer__slot(t, m->left, m->right, r, m->to))
            return err_set(e, ST_FORMAT, "merge %d (\"%s\" and \"%s\") is listed twice", r,
                           show_id(t, m->left).s, show_id(t, m->right).s);
    }
    return 0;
}

/* Finds the tokens that merging gives whole. */
static int mark_whole(struct tokenizer *t, struct err *e)
{
    int32_t ids[TOKENIZER_TOKEN_BYTES_MAX];
    void *scratch = NULL;
    size_t scratch_bytes = 0, count;
    int st = 0;
    for (int32_t id = 0; st == 0 && id < t->n_ids; id++) {
        struct tok *k = t->tok + id;
        if (!k->bytes || tokenizer__find(t, bytes_of(t, id), k->bytes) != id)
            continue;
        st = tokenizer__merge_bytes(t, &scratch, &scratch_bytes, bytes_of(t, id), k->bytes, ids, &count);
        if (st == 0 && count == 1 && ids[0] == id)
            k->flags |= TOK_WHOLE;
    }
    free(scratch);
    return st < 0 ? no_memory(e) : 0;
}

static uint64_t fnv(uint64_t h, const void *p, size_t n)
{
    const unsigned char *s = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ s[i]) * UINT64_C(0x100000001b3);
    return h;
}

static uint64_t hash_all(const struct tokenizer *t)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (int32_t id = 0; id < t->n_ids; id++) {
        const struct tok *k = t->tok + id;
        int32_t head[3] = {id, k->bytes, k->flags & TOK_ADDED};
        h = fnv(h, head, sizeof head);
        h = fnv(h, bytes_of(t, id), k->bytes);
    }
    return fnv(h, t->merge, (size_t) t->n_merges * sizeof *t->merge);
}

int tokenizer__finish(struct tokenizer *t, struct err *e)
{
    int st = fill_slots(t, e);
    if (st == 0)
        st = mark_whole(t, e);
    if (st == 0)
        st = tokenizer__compile(t, e);
    if (st == 0)
        t->hash = hash_all(t);
    return st;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    free(t->tok);
    free(t->blob);
    free(t->word);
    free(t->merge);
    free(t->slot);
    free(t->trie);
    pcre2_code_free(t->split);
    pcre2_match_context_free(t->limits);
    free(t);
}

/* --- reading --- */

int32_t tokenizer__match_added(const struct tokenizer *t, const char *p, size_t n, size_t *len)
{
    int32_t best = -1, at = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t k = t->trie[at].child;
        while (k && t->trie[k].byte != (uint8_t) p[i])
            k = t->trie[k].sibling;
        if (!k)
            break;
        at = k;
        if (t->trie[at].id >= 0) {
            best = t->trie[at].id;
            *len = i + 1;
        }
    }
    return best;
}

int32_t tokenizer_count(const struct tokenizer *t)
{
    return t->n_ids;
}

int32_t tokenizer_added(const struct tokenizer *t, const char *content)
{
    size_t n = strlen(content), len;
    if (n == 0 || !t->starts[(unsigned char) content[0]])
        return -1;
    int32_t id = tokenizer__match_added(t, content, n, &len);
    return id >= 0 && len == n ? id : -1;
}

int tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_ids && (t->tok[id].flags & TOK_SPECIAL) != 0;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *bytes)
{
    *bytes = id >= 0 && id < t->n_ids ? t->tok[id].bytes : 0;
    return *bytes ? bytes_of(t, id) : NULL;
}

uint64_t tokenizer_hash(const struct tokenizer *t)
{
    return t->hash;
}

static int tokens_differ(const struct tokenizer *a, const struct tokenizer *b, int32_t id)
{
    const struct tok *x = a->tok + id, *y = b->tok + id;
    return x->bytes != y->bytes || memcmp(bytes_of(a, id), bytes_of(b, id), x->bytes) != 0 ||
           (x->flags & TOK_ADDED) != (y->flags & TOK_ADDED);
}

static const char *role(const struct tokenizer *t, int32_t id)
{
    return t->tok[id].bytes == 0          ? "no token"
           : t->tok[id].flags & TOK_ADDED ? "the added token"
                                          : "the token";
}

static int compare_merges(const struct tokenizer *a, const struct tokenizer *b, struct err *e)
{
    int32_t n = a->n_merges < b->n_merges ? a->n_merges : b->n_merges;
    for (int32_t r = 0; r < n; r++) {
        const struct merge *x = a->merge + r, *y = b->merge + r;
        if (x->left != y->left || x->right != y->right)
            return err_set(e, ST_PRECONDITION,
                           "the tokenizers differ: merge %d joins \"%s\" and \"%s\" in one, \"%s\" and "
                           "\"%s\" in the other",
                           r, show_id(a, x->left).s, show_id(a, x->right).s, show_id(b, y->left).s,
                           show_id(b, y->right).s);
    }
    if (a->n_merges != b->n_merges)
        return err_set(e, ST_PRECONDITION, "the tokenizers differ: one has %d merges, the other %d",
                       a->n_merges, b->n_merges);
    return 0;
}

int tokenizer_compare(const struct tokenizer *a, const struct tokenizer *b, struct err *e)
{
    int32_t n = a->n_ids < b->n_ids ? a->n_ids : b->n_ids;
    for (int32_t id = 0; id < n; id++)
        if (tokens_differ(a, b, id))
            return err_set(e, ST_PRECONDITION,
                           "the tokenizers differ: id %d is %s \"%s\" in one, %s \"%s\" in the other", id,
                           role(a, id), show_id(a, id).s, role(b, id), show_id(b, id).s);
    if (a->n_ids != b->n_ids)
        return err_set(e, ST_PRECONDITION, "the tokenizers differ: one has %d ids, the other %d", a->n_ids,
                       b->n_ids);
    return compare_merges(a, b, e);
}
