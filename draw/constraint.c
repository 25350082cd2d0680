/* constraint.c - thread: any that builds one (a request's, at the door).  A choice among strings as an automaton over tokens.
 *
 * The strings become a trie of bytes; a state is a node of it.  From each node the vocabulary, sorted by bytes, is narrowed along
 * the trie's branches: every id whose bytes lie wholly on a branch is an edge.  So every tokenization of a string is a path, and no
 * other text is.  Edges to nodes from which no tokens reach an end are dropped.  A trie with the strings' own tokenization as
 * edges was dropped: the model may choose another, and masking it would shift the odds between strings. */
#include "draw/internal.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"

/* --- the vocabulary --- */

struct spelling {
    uint64_t first; /* its first eight bytes, the very first highest: what nearly every comparison needs */
    const char *bytes;
    uint32_t len;
    int32_t id;
};

struct draw_vocab {
    char *text;           /* owns; all bytes */
    struct spelling *tok; /* owns; (n) by bytes, shorter first, then by id */
    int32_t n;
    int32_t blank; /* the id of "\n\n"; -1: none */
};

static int by_bytes(const void *a, const void *b)
{
    const struct spelling *x = a, *y = b;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    size_t n = x->len < y->len ? x->len : y->len;
    int c = memcmp(x->bytes, y->bytes, n);
    if (c)
        return c;
    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint64_t first_of(const char *bytes, size_t len)
{
    uint64_t x = 0;
    for (size_t i = 0; i < sizeof x; i++)
        x = x << 8 | (i < len ? (uint8_t) bytes[i] : 0);
    return x;
}

static void copy_spellings(struct draw_vocab *v, const char *const *bytes, const size_t *len, int32_t n)
{
    char *at = v->text;
    v->blank = -1;
    for (int32_t i = 0; i < n; i++) {
        if (!len[i])
            continue;
        memcpy(at, bytes[i], len[i]);
        v->tok[v->n++] = (struct spelling){first_of(at, len[i]), at, (uint32_t) len[i], i};
        at += len[i];
        if (v->blank < 0 && len[i] == 2 && memcmp(bytes[i], "\n\n", 2) == 0)
            v->blank = i;
    }
}

int draw_vocab_new(struct draw_vocab **out, const char *const *bytes, const size_t *len, int32_t n,
                   struct err *e)
{
    size_t total = 0;
    struct draw_vocab *v = calloc(1, sizeof *v);
    *out = NULL;
    for (int32_t i = 0; i < n; i++)
        total += len[i];
    if (v) {
        v->text = malloc(total + 1);
        v->tok = calloc((size_t) n + 1, sizeof *v->tok);
    }
    if (!v || !v->text || !v->tok) {
        draw_vocab_free(v);
        return err_set(e, ST_NOMEM, "out of memory sorting a vocabulary of %d ids", n);
    }
    copy_spellings(v, bytes, len, n);
    qsort(v->tok, (size_t) v->n, sizeof *v->tok, by_bytes);
    *out = v;
    return 0;
}

int draw_vocab_of(struct draw_vocab **out, const struct tokenizer *t, struct err *e)
{
    int32_t n = tokenizer_count(t);
    const char **bytes = calloc((size_t) n, sizeof *bytes);
    size_t *len = calloc((size_t) n, sizeof *len);
    int st = bytes && len ? 0 : err_set(e, ST_NOMEM, "out of memory sorting a vocabulary of %d ids", n);
    *out = NULL;
    for (int32_t i = 0; i < n && !st; i++) {
        char content[64];
        bytes[i] = tokenizer_bytes(t, i, &len[i]);
        if (bytes[i] && len[i] < sizeof content) { /* added tokens are short words of the template */
            memcpy(content, bytes[i], len[i]);
            content[len[i]] = 0;
            if (tokenizer_added(t, content) == i)
                len[i] = 0;
        }
    }
    if (!st)
        st = draw_vocab_new(out, bytes, len, n, e);
    free(bytes);
    free(len);
    return st;
}

void draw_vocab_free(struct draw_vocab *v)
{
    if (!v)
        return;
    free(v->text);
    free(v->tok);
    free(v);
}

/* --- the automaton --- */

struct draw_constraint {
    int32_t n_states;
    int32_t *first;    /* owns; (n_states + 1) where a state's edges begin */
    int32_t *tok, *to; /* own; edges, a state's by ascending token */
    uint8_t *complete; /* owns; (n_states) */
    int32_t blank;
};

void draw_constraint_free(struct draw_constraint *c)
{
    if (!c)
        return;
    free(c->first);
    free(c->tok);
    free(c->to);
    free(c->complete);
    free(c);
}

void draw_constraint_allowed(const struct draw_constraint *c, int32_t state, struct draw_allowed *out)
{
    *out = (struct draw_allowed){0};
    if (state < 0)
        return;
    *out = (struct draw_allowed){c->tok + c->first[state], c->first[state + 1] - c->first[state],
                                 c->complete[state]};
}

int32_t draw_constraint_step(const struct draw_constraint *c, int32_t state, int32_t tok)
{
    struct draw_allowed a;
    draw_constraint_allowed(c, state, &a);
    int32_t i = draw__at(a.tok, a.n, tok);
    return i < 0 ? -1 : c->to[c->first[state] + i];
}

int draw_constraint_needs_end(const struct draw_constraint *c)
{
    for (int32_t s = 0; s < c->n_states; s++)
        if (c->complete[s] && c->first[s + 1] > c->first[s])
            return 1;
    return 0;
}

int32_t draw_constraint_blank(const struct draw_constraint *c)
{
    return c->blank;
}

/* --- building one --- */

struct trie_node {
    int32_t child, next; /* first child; next sibling; 0: none */
    unsigned char byte;
    uint8_t complete, dead; /* dead: no tokens lead from here to an end */
    uint8_t reached;
};

struct edge {
    int32_t from, tok, to;
};

struct builder {
    const struct draw_vocab *v;
    struct trie_node *node; /* (n); a child's index is above its parent's */
    struct edge *edge;      /* (n_edges, of cap) */
    struct pending {
        int32_t node, lo, hi, depth; /* ids [lo, hi) begin with the bytes that lead to node */
    } * todo;
    int32_t n, n_edges, cap;
};

static int32_t child_of(struct builder *b, int32_t at, unsigned char byte)
{
    for (int32_t c = b->node[at].child; c; c = b->node[c].next)
        if (b->node[c].byte == byte)
            return c;
    b->node[b->n] = (struct trie_node){.next = b->node[at].child, .byte = byte};
    return b->node[at].child = b->n++;
}

static int32_t add_string(struct builder *b, const char *text, size_t bytes)
{
    int32_t at = 0;
    for (size_t i = 0; i < bytes; i++)
        at = child_of(b, at, (unsigned char) text[i]);
    b->node[at].complete = 1;
    return at;
}

static int32_t end_of(struct builder *b, const char *text, size_t bytes)
{
    return add_string(b, text, bytes); /* walks what is there */
}

/* The first of [lo, hi) whose byte at depth is at least `byte`; those that end there come first. */
static int32_t lower(const struct draw_vocab *v, int32_t lo, int32_t hi, int32_t depth, int byte)
{
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        const struct spelling *s = &v->tok[mid];
        int at = s->len > (size_t) depth ? (unsigned char) s->bytes[depth] : -1;
        if (at < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int add_edge(struct builder *b, int32_t from, int32_t tok, int32_t to)
{
    if (b->n_edges == b->cap) {
        int32_t cap = b->cap ? 2 * b->cap : 256;
        struct edge *e = cap <= DRAW_EDGES_MAX ? realloc(b->edge, (size_t) cap * sizeof *e) : NULL;
        if (!e)
            return cap <= DRAW_EDGES_MAX ? ST_NOMEM : ST_LIMIT;
        b->edge = e;
        b->cap = cap;
    }
    b->edge[b->n_edges++] = (struct edge){from, tok, to};
    return 0;
}

/* Every id that is spelled on the way down from `from`. */
static int add_edges(struct builder *b, int32_t from)
{
    int32_t n = 0;
    int st = 0;
    b->todo[n++] = (struct pending){from, 0, b->v->n, 0};
    while (n > 0 && !st) {
        struct pending p = b->todo[--n];
        for (int32_t c = b->node[p.node].child; c && !st; c = b->node[c].next) {
            int32_t lo = lower(b->v, p.lo, p.hi, p.depth, b->node[c].byte);
            int32_t hi = lower(b->v, lo, p.hi, p.depth, b->node[c].byte + 1);
            for (int32_t i = lo; i < hi && !st && b->v->tok[i].len == (size_t) p.depth + 1; i++)
                st = b->node[c].dead ? 0 : add_edge(b, from, b->v->tok[i].id, c);
            if (lo < hi)
                b->todo[n++] = (struct pending){c, lo, hi, p.depth + 1};
        }
    }
    return st;
}

static int by_state(const void *a, const void *b)
{
    const struct edge *x = a, *y = b;
    return x->from != y->from ? (x->from < y->from ? -1 : 1) : (x->tok > y->tok) - (x->tok < y->tok);
}

/* Deepest nodes first: by then what their edges lead to is known. */
static int connect(struct builder *b)
{
    int st = 0;
    for (int32_t s = b->n - 1; s >= 0 && !st; s--) {
        int32_t before = b->n_edges;
        st = add_edges(b, s);
        b->node[s].dead = !b->node[s].complete && b->n_edges == before;
    }
    if (b->n_edges)
        qsort(b->edge, (size_t) b->n_edges, sizeof *b->edge, by_state);
    b->node[0].reached = 1;
    for (int32_t i = 0; i < b->n_edges; i++) /* by ascending state, and edges lead upward */
        b->node[b->edge[i].to].reached |= b->node[b->edge[i].from].reached;
    return st;
}

static struct draw_constraint *finish(const struct builder *b)
{
    struct draw_constraint *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->n_states = b->n;
    c->blank = b->v->blank;
    c->first = calloc((size_t) b->n + 1, sizeof *c->first);
    c->tok = calloc((size_t) b->n_edges + 1, sizeof *c->tok);
    c->to = calloc((size_t) b->n_edges + 1, sizeof *c->to);
    c->complete = calloc((size_t) b->n, 1);
    if (!c->first || !c->tok || !c->to || !c->complete) {
        draw_constraint_free(c);
        return NULL;
    }
    for (int32_t i = 0; i < b->n_edges; i++) {
        c->first[b->edge[i].from + 1]++;
        c->tok[i] = b->edge[i].tok;
        c->to[i] = b->edge[i].to;
    }
    for (int32_t s = 0; s < b->n; s++) {
        c->first[s + 1] += c->first[s];
        c->complete[s] = b->node[s].complete;
    }
    return c;
}

static int check_choices(const size_t *bytes, int32_t n, size_t *total, struct err *e)
{
    if (n < 1 || n > DRAW_CHOICES_MAX)
        return err_set(e, ST_INPUT, "choices: between 1 and %d strings, not %d", DRAW_CHOICES_MAX, n);
    *total = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!bytes[i])
            return err_set(e, ST_INPUT, "choices: string %d is empty; each must have at least one character",
                           i);
        *total += bytes[i];
        if (bytes[i] > DRAW_CHOICE_BYTES_MAX || *total > DRAW_CHOICE_BYTES_MAX)
            return err_set(e, ST_INPUT, "choices: at most %d bytes in all, string %d goes beyond them",
                           DRAW_CHOICE_BYTES_MAX, i);
    }
    return 0;
}

static int build(struct draw_constraint **out, struct builder *b, const char *const *text,
                 const size_t *bytes, int32_t n, struct err *e)
{
    for (int32_t i = 0; i < n; i++)
        add_string(b, text[i], bytes[i]);
    int st = connect(b);
    if (st == ST_LIMIT)
        return err_set(e, ST_INPUT, "choices: they can be spelled in more ways than the %d steps kept",
                       DRAW_EDGES_MAX);
    for (int32_t i = 0; i < n && !st; i++)
        if (!b->node[end_of(b, text[i], bytes[i])].reached)
            return err_set(e, ST_INPUT, "choices: no tokens of this vocabulary spell string %d", i);
    *out = st ? NULL : finish(b);
    return *out ? 0 : err_set(e, ST_NOMEM, "out of memory for %d choices", n);
}

int draw_constraint_choice(struct draw_constraint **out, const struct draw_vocab *v, const char *const *text,
                           const size_t *bytes, int32_t n, struct err *e)
{
    struct builder b = {.v = v, .n = 1};
    size_t total = 0;
    *out = NULL;
    int st = check_choices(bytes, n, &total, e);
    if (st)
        return st;
    b.node = calloc(total + 1, sizeof *b.node);
    b.todo = calloc(total + 1, sizeof *b.todo);
    if (b.node && b.todo)
        st = build(out, &b, text, bytes, n, e);
    else
        st = err_set(e, ST_NOMEM, "out of memory for %d choices", n);
    free(b.node);
    free(b.todo);
    free(b.edge);
    return st;
}
