/* jdoc.c - the strict JSON reader of jdoc.h.
 *
 * Recursive descent over checked UTF-8, nodes into one growing array.  Duplicate keys are refused (Python would silently
 * keep the last), found through a hash set of the object's keys once it closes, whose hash is drawn anew for each.  No globals; one document, one thread. */
#include "model/jdoc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "model/utf8.h"

enum {
    FEW_KEYS = 8,   /* so many are compared pair by pair */
    STEP_BYTES = 7, /* of text hashed at a time: less than HASH_PRIME */
};

#define HASH_PRIME ((UINT64_C(1) << 61) - 1)

struct parser {
    const char *s; /* the text */
    size_t n, i;   /* its length; the next byte */
    size_t used;   /* bytes of doc->decoded */
    int depth;
    struct jdoc *doc;
    struct err *e;
};

static int parse_value(struct parser *p);

static int bad(struct parser *p, const char *expected)
{
    if (p->i >= p->n)
        return err_set(p->e, ST_FORMAT, "the JSON text ends at byte %zu where %s was expected", p->n,
                       expected);
    return err_set(p->e, ST_FORMAT, "malformed JSON at byte %zu: expected %s", p->i, expected);
}

static void skip_space(struct parser *p)
{
    while (p->i < p->n &&
           (p->s[p->i] == ' ' || p->s[p->i] == '\n' || p->s[p->i] == '\r' || p->s[p->i] == '\t'))
        p->i++;
}

static int peek(const struct parser *p)
{
    return p->i < p->n ? (unsigned char) p->s[p->i] : -1;
}

/* Appends a node; its index, or a negative status. */
static int64_t node_add(struct parser *p, int type, const char *text)
{
    struct jdoc *d = p->doc;
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 32;
        struct jnode *node = realloc(d->node, cap * sizeof *node);
        if (!node)
            return err_set(p->e, ST_NOMEM, "out of memory while reading JSON");
        d->node = node;
        d->cap = cap;
    }
    d->node[d->n] = (struct jnode){.text = text, .span = 1, .type = (uint8_t) type};
    return (int64_t) d->n++;
}

static int is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static int digits(struct parser *p)
{
    if (!is_digit(peek(p)))
        return bad(p, "a digit");
    while (is_digit(peek(p)))
        p->i++;
    return 0;
}

static int parse_number(struct parser *p)
{
    size_t start = p->i;
    int st;
    if (peek(p) == '-')
        p->i++;
    if (peek(p) == '0')
        p->i++;
    else if ((st = digits(p)) < 0)
        return st;
    if (peek(p) == '.') {
        p->i++;
        if ((st = digits(p)) < 0)
            return st;
    }
    if (peek(p) == 'e' || peek(p) == 'E') {
        p->i++;
        if (peek(p) == '+' || peek(p) == '-')
            p->i++;
        if ((st = digits(p)) < 0)
            return st;
    }
    int64_t x = node_add(p, JNODE_NUMBER, p->s + start);
    if (x < 0)
        return (int) x;
    p->doc->node[x].bytes = (uint32_t) (p->i - start);
    return 0;
}

static int hex4(struct parser *p, uint32_t *c)
{
    *c = 0;
    for (int k = 0; k < 4; k++, p->i++) {
        int ch = peek(p), low = ch | 0x20;
        if (is_digit(ch))
            *c = *c << 4 | (uint32_t) (ch - '0');
        else if (ch > 0 && low >= 'a' && low <= 'f')
            *c = *c << 4 | (uint32_t) (low - 'a' + 10);
        else
            return bad(p, "four hexadecimal digits");
    }
    return 0;
}

static int parse_unicode(struct parser *p, uint32_t *c)
{
    uint32_t low;
    size_t start = p->i;
    int st = hex4(p, c);
    if (st < 0 || *c < 0xd800 || *c > 0xdfff)
        return st;
    if (*c < 0xdc00 && peek(p) == '\\' && p->i + 1 < p->n && p->s[p->i + 1] == 'u') {
        p->i += 2;
        if ((st = hex4(p, &low)) < 0)
            return st;
        if (low >= 0xdc00 && low <= 0xdfff) {
            *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
            return 0;
        }
    }
    p->i = start;
    return bad(p, "a surrogate pair: half a one is no character");
}

/* The escape after a backslash, decoded to out; its length or a negative status. */
static int parse_escape(struct parser *p, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    uint32_t c;
    int ch = peek(p);
    if (ch == 'u') {
        p->i++;
        int st = parse_unicode(p, &c);
        return st < 0 ? st : utf8_put(c, out);
    }
    const char *at = ch > 0 ? strchr(from, ch) : NULL;
    if (!at)
        return bad(p, "one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u");
    p->i++;
    out[0] = to[at - from];
    return 1;
}

/* The rest of a string whose first `head` bytes (at start) have no escape, decoded to the side. */
static int decode_string(struct parser *p, size_t start, int64_t x)
{
    struct jdoc *d = p->doc;
    /* A decoded string is never longer than its escapes, so one buffer of the text's size holds them all. */
    if (!d->decoded && !(d->decoded = malloc(p->n)))
        return err_set(p->e, ST_NOMEM, "out of memory while reading JSON");
    char *out = d->decoded + p->used;
    size_t n = p->i - start;
    memcpy(out, p->s + start, n);
    for (;;) {
        int ch = peek(p);
        if (ch < 0x20)
            return bad(p, "the end of a string, or an escaped control character");
        p->i++;
        if (ch == '"')
            break;
        if (ch != '\\') {
            out[n++] = (char) ch;
            continue;
        }
        int len = parse_escape(p, out + n);
        if (len < 0)
            return len;
        n += (size_t) len;
    }
    d->node[x].text = out;
    d->node[x].bytes = (uint32_t) n;
    p->used += n;
    return 0;
}

static int parse_string(struct parser *p)
{
    size_t start = ++p->i;
    int64_t x = node_add(p, JNODE_STRING, p->s + start);
    if (x < 0)
        return (int) x;
    while (p->i < p->n && (unsigned char) p->s[p->i] >= 0x20 && p->s[p->i] != '"' && p->s[p->i] != '\\')
        p->i++;
    if (peek(p) != '"')
        return decode_string(p, start, x);
    p->doc->node[x].bytes = (uint32_t) (p->i++ - start);
    return 0;
}

static int parse_word(struct parser *p, const char *word, int type)
{
    size_t n = strlen(word);
    if (p->n - p->i < n || memcmp(p->s + p->i, word, n) != 0)
        return bad(p, "a value");
    int64_t x = node_add(p, type, p->s + p->i);
    if (x < 0)
        return (int) x;
    p->doc->node[x].bytes = (uint32_t) n;
    p->i += n;
    return 0;
}

/* Closes container x at the byte just read. */
static void close_node(struct parser *p, int64_t x, uint32_t n)
{
    struct jnode *c = p->doc->node + x;
    c->n = n;
    c->bytes = (uint32_t) (p->s + p->i - c->text);
    c->span = (uint32_t) (p->doc->n - (size_t) x);
    p->depth--;
}

/* Opens a container; 1 when it is empty and closed already. */
static int open_node(struct parser *p, int type, int end, int64_t *x)
{
    if (++p->depth > JDOC_DEPTH_MAX)
        return err_set(p->e, ST_LIMIT, "JSON is nested deeper than %d levels at byte %zu", JDOC_DEPTH_MAX,
                       p->i);
    *x = node_add(p, type, p->s + p->i);
    if (*x < 0)
        return (int) *x;
    p->i++;
    skip_space(p);
    if (peek(p) != end)
        return 0;
    p->i++;
    close_node(p, *x, 0);
    return 1;
}

static int parse_array(struct parser *p)
{
    int64_t x;
    uint32_t n = 0;
    int st = open_node(p, JNODE_ARRAY, ']', &x);
    if (st != 0)
        return st < 0 ? st : 0;
    for (;;) {
        if ((st = parse_value(p)) < 0)
            return st;
        n++;
        skip_space(p);
        int ch = peek(p);
        if (ch != ',' && ch != ']')
            return bad(p, "',' or ']'");
        p->i++;
        if (ch == ']')
            break;
    }
    close_node(p, x, n);
    return 0;
}

static int same_text(const struct jnode *a, const struct jnode *b)
{
    return a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0;
}

static int twice(struct parser *p, const struct jnode *key)
{
    return err_set(p->e, ST_FORMAT, "the JSON object before byte %zu has the key \"%.*s\" twice", p->i,
                   key->bytes < 80 ? (int) key->bytes : 80, key->text);
}

/* The text as a polynomial at a random point, modulo the prime 2^61 - 1: a request cannot choose keys that collide. */
static uint64_t hash_text(const char *s, size_t n, uint64_t point)
{
    uint64_t h = n;
    for (size_t i = 0; i < n; i += STEP_BYTES) {
        uint64_t word = 0;
        memcpy(&word, s + i, n - i < STEP_BYTES ? n - i : STEP_BYTES);
        unsigned __int128 x = (unsigned __int128) (h + word) * point;
        h = (uint64_t) (x & HASH_PRIME) + (uint64_t) (x >> 61); /* below 2^63, congruent */
        h = (h & HASH_PRIME) + (h >> 61);
    }
    return h % HASH_PRIME;
}

static int check_few(struct parser *p, const struct jnode *o)
{
    const struct jnode *a = jnode_first(o);
    for (uint32_t i = 0; i < o->n; i++, a = jnode_next(a + 1)) {
        const struct jnode *b = jnode_next(a + 1);
        for (uint32_t j = i + 1; j < o->n; j++, b = jnode_next(b + 1))
            if (same_text(a, b))
                return twice(p, b);
    }
    return 0;
}

static int check_many(struct parser *p, const struct jnode *o)
{
    size_t cap = 16;
    uint64_t point;
    if (getrandom(&point, sizeof point, 0) != (ssize_t) sizeof point)
        return err_set(p->e, ST_UNAVAILABLE, "no random number could be had from the system");
    point %= HASH_PRIME;
    while (cap < (size_t) o->n * 2)
        cap *= 2;
    const struct jnode **set = calloc(cap, sizeof *set);
    if (!set)
        return err_set(p->e, ST_NOMEM, "out of memory while reading JSON");
    int st = 0;
    const struct jnode *k = jnode_first(o);
    for (uint32_t i = 0; st == 0 && i < o->n; i++, k = jnode_next(k + 1)) {
        size_t at = hash_text(k->text, k->bytes, point) & (cap - 1);
        while (set[at] && !same_text(set[at], k))
            at = (at + 1) & (cap - 1);
        if (set[at])
            st = twice(p, k);
        set[at] = k;
    }
    free(set);
    return st;
}

static int parse_member(struct parser *p)
{
    skip_space(p);
    if (peek(p) != '"')
        return bad(p, "a key in double quotes");
    int st = parse_string(p);
    if (st < 0)
        return st;
    skip_space(p);
    if (peek(p) != ':')
        return bad(p, "':'");
    p->i++;
    return parse_value(p);
}

static int parse_object(struct parser *p)
{
    int64_t x;
    uint32_t n = 0;
    int st = open_node(p, JNODE_OBJECT, '}', &x);
    if (st != 0)
        return st < 0 ? st : 0;
    for (;;) {
        if ((st = parse_member(p)) < 0)
            return st;
        n++;
        skip_space(p);
        int ch = peek(p);
        if (ch != ',' && ch != '}')
            return bad(p, "',' or '}'");
        p->i++;
        if (ch == '}')
            break;
    }
    close_node(p, x, n);
    const struct jnode *o = p->doc->node + x;
    return n <= FEW_KEYS ? check_few(p, o) : check_many(p, o);
}

static int parse_value(struct parser *p)
{
    skip_space(p);
    switch (peek(p)) {
    case '{':
        return parse_object(p);
    case '[':
        return parse_array(p);
    case '"':
        return parse_string(p);
    case 't':
        return parse_word(p, "true", JNODE_TRUE);
    case 'f':
        return parse_word(p, "false", JNODE_FALSE);
    case 'n':
        return parse_word(p, "null", JNODE_NULL);
    default:
        if (peek(p) == '-' || is_digit(peek(p)))
            return parse_number(p);
        return bad(p, "a value");
    }
}

int jdoc_parse(struct jdoc *d, const char *text, size_t bytes, struct err *e)
{
    *d = (struct jdoc){0};
    if (bytes > JDOC_BYTES_MAX)
        return err_set(e, ST_LIMIT, "%zu bytes of JSON; at most %d are read", bytes, JDOC_BYTES_MAX);
    size_t good = utf8_check(text, bytes);
    if (good < bytes)
        return err_set(e, ST_FORMAT, "the JSON text is not UTF-8 at byte %zu", good);
    struct parser p = {.s = text, .n = bytes, .doc = d, .e = e};
    int st = parse_value(&p);
    if (st == 0) {
        skip_space(&p);
        if (p.i < p.n)
            st = bad(&p, "nothing after the value");
    }
    if (st < 0)
        jdoc_free(d);
    return st;
}

void jdoc_free(struct jdoc *d)
{
    free(d->node);
    free(d->decoded);
    *d = (struct jdoc){0};
}

const struct jnode *jnode_get(const struct jnode *o, const char *key)
{
    if (!o || o->type != JNODE_OBJECT)
        return NULL;
    const struct jnode *k = jnode_first(o);
    for (uint32_t i = 0; i < o->n; i++, k = jnode_next(k + 1))
        if (jnode_is(k, key))
            return k + 1;
    return NULL;
}

int jnode_is(const struct jnode *x, const char *s)
{
    return x && x->type == JNODE_STRING && x->bytes == strlen(s) && memcmp(x->text, s, x->bytes) == 0;
}

const char *jnode_kind(const struct jnode *x)
{
    static const char *const kind[] = {"null",     "false",    "true",     "a number",
                                       "a string", "an array", "an object"};
    return x ? kind[x->type] : "nothing";
}

int jnode_int(const struct jnode *x, int64_t *v)
{
    if (!x || x->type != JNODE_NUMBER || x->bytes > 18)
        return 0;
    int64_t sum = 0;
    uint32_t i = x->text[0] == '-';
    for (; i < x->bytes; i++) {
        if (!is_digit(x->text[i]))
            return 0;
        sum = sum * 10 + (x->text[i] - '0');
    }
    *v = x->text[0] == '-' ? -sum : sum;
    return 1;
}
