/* gguf.c - the container: header, metadata, table of tensors, data.
 *
 * The whole table is read once, in order, by a cursor that never passes the end of the file.  The data must be covered as ggml
 * writes it: tensor after tensor, each at the next multiple of the alignment, nothing left over.
 *
 * Refused: big-endian files and version 1 (by name), lists inside lists, keys or tensors given twice, types of tensors that
 * are not served, parts of a split model (joining them is llama-gguf-split's work).  Owns mapping and names. */
#include "model/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "model/read.h"

enum {
    KEYS_MAX = 4096,           /* of metadata; a Qwen3 has some thirty */
    KEY_BYTES_MAX = 512,       /* the longest in use has 60 */
    TENSORS_MAX = 1 << 16,     /* Qwen3-235B-A22B has 1,131 */
    NAME_BYTES_MAX = 128,      /* ggml holds 64 */
    ALIGN_DEFAULT = 32,        /* general.alignment where the file leaves it open */
    ALIGN_MAX = 1 << 20,       /* a power of two; real files have 32 */
    DIMS_MAX = 4,              /* ggml's own limit */
    ITEM_BYTES_MIN = 8 + 4 + 1 /* the shortest entry of either table: bounds what a count may claim */
};

struct gguf {
    struct model__file file;
    struct arena names;
    struct gguf_value *value; /* owns; (n_values), sorted by key once read */
    int n_values;
    struct tensor *tensor; /* owns; (n_tensors), sorted by name once read */
    int n_tensors;
};

/* Reads forward; `left` bytes are not read yet. */
struct cursor {
    const struct model__file *file;
    const unsigned char *p;
    size_t left;
    struct err *e;
};

static const struct {
    const char *name;
    int type; /* TENSOR_OTHER: known, not served */
} types[] = {
    [0] = {"F32", TENSOR_F32},       [1] = {"F16", TENSOR_F16},        [2] = {"Q4_0", TENSOR_Q4_0},
    [3] = {"Q4_1", TENSOR_OTHER},    [6] = {"Q5_0", TENSOR_OTHER},     [7] = {"Q5_1", TENSOR_OTHER},
    [8] = {"Q8_0", TENSOR_Q8_0},     [9] = {"Q8_1", TENSOR_OTHER},     [10] = {"Q2_K", TENSOR_OTHER},
    [11] = {"Q3_K", TENSOR_OTHER},   [12] = {"Q4_K", TENSOR_Q4_K},     [13] = {"Q5_K", TENSOR_OTHER},
    [14] = {"Q6_K", TENSOR_Q6_K},    [15] = {"Q8_K", TENSOR_OTHER},    [16] = {"IQ2_XXS", TENSOR_OTHER},
    [17] = {"IQ2_XS", TENSOR_OTHER}, [18] = {"IQ3_XXS", TENSOR_OTHER}, [19] = {"IQ1_S", TENSOR_OTHER},
    [20] = {"IQ4_NL", TENSOR_OTHER}, [21] = {"IQ3_S", TENSOR_OTHER},   [22] = {"IQ2_S", TENSOR_OTHER},
    [23] = {"IQ4_XS", TENSOR_OTHER}, [24] = {"I8", TENSOR_OTHER},      [25] = {"I16", TENSOR_OTHER},
    [26] = {"I32", TENSOR_OTHER},    [27] = {"I64", TENSOR_OTHER},     [28] = {"F64", TENSOR_OTHER},
    [29] = {"IQ1_M", TENSOR_OTHER},  [30] = {"BF16", TENSOR_BF16},     [34] = {"TQ1_0", TENSOR_OTHER},
    [35] = {"TQ2_0", TENSOR_OTHER},  [39] = {"MXFP4", TENSOR_OTHER},
};

/* Bytes of a single value; 0: a string or a list, which have a length of their own. */
static const unsigned char value_bytes[] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,  [GGUF_I16] = 2,    [GGUF_U32] = 4,
    [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_STRING] = 0, [GGUF_ARRAY] = 0,
    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* --- bytes --- */

static uint64_t le(const unsigned char *p, int n)
{
    uint64_t x = 0;
    while (n-- > 0)
        x = x << 8 | p[n];
    return x;
}

static int truncated(const struct cursor *c, const char *what)
{
    return err_set(c->e, ST_FORMAT,
                   "%s: truncated: %s does not fit the %zu bytes left of %zu; fetch it again", c->file->label,
                   what, c->left, c->file->bytes);
}

/* n bytes, and past them; NULL: not that many are left. */
static const unsigned char *take(struct cursor *c, uint64_t n)
{
    const unsigned char *p = c->p;
    if (n > c->left)
        return NULL;
    c->p += n;
    c->left -= (size_t) n;
    return p;
}

static int take_int(struct cursor *c, int bytes, const char *what, uint64_t *out)
{
    const unsigned char *p = take(c, (uint64_t) bytes);
    *out = p ? le(p, bytes) : 0;
    return p ? 0 : truncated(c, what);
}

/* A copy with a NUL of a name of 1 to max bytes, without control characters. */
static int take_name(struct cursor *c, struct gguf *g, int max, const char *what, const char **out)
{
    uint64_t n;
    int st = take_int(c, 8, what, &n);
    if (st)
        return st;
    if (n == 0 || n > (uint64_t) max)
        return err_set(c->e, ST_FORMAT, "%s: %s has %" PRIu64 " bytes; expected 1 to %d", c->file->label,
                       what, n, max);
    const unsigned char *p = take(c, n);
    if (!p)
        return truncated(c, what);
    for (uint64_t i = 0; i < n; i++)
        if (p[i] < 0x20 || p[i] == 0x7f)
            return err_set(c->e, ST_FORMAT, "%s: %s holds the byte 0x%02x; expected no control characters",
                           c->file->label, what, p[i]);
    *out = arena_copy(&g->names, p, (size_t) n);
    return *out ? 0 : err_set(c->e, ST_NOMEM, "%s: out of memory", c->file->label);
}

/* --- metadata --- */

static int skip_strings(struct cursor *c, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t len;
        int st = take_int(c, 8, "a string's length", &len);
        if (st)
            return st;
        if (!take(c, len))
            return truncated(c, "a string");
    }
    return 0;
}

static int check_type(const struct cursor *c, const char *key, uint64_t type)
{
    if (type <= GGUF_F64)
        return 0;
    return err_set(c->e, ST_FORMAT, "%s: key '%s' has the type %" PRIu64 "; expected 0 to %d", c->file->label,
                   model__quote(key).s, type, GGUF_F64);
}

static int take_list_head(struct cursor *c, struct gguf_value *v)
{
    uint64_t type;
    int st = take_int(c, 4, "a list's type", &type);
    if (!st)
        st = check_type(c, v->key, type);
    if (!st && type == GGUF_ARRAY)
        st = err_set(c->e, ST_UNSUPPORTED, "%s: key '%s' is a list of lists, which is not served",
                     c->file->label, model__quote(v->key).s);
    v->type = (int) type;
    v->is_array = 1;
    return st ? st : take_int(c, 8, "a list's length", &v->n);
}

static int check_bools(const struct cursor *c, const struct gguf_value *v)
{
    for (uint64_t i = 0; v->type == GGUF_BOOL && i < v->n; i++)
        if (v->p[i] > 1)
            return err_set(c->e, ST_FORMAT, "%s: key '%s' holds the boolean %d; expected 0 or 1",
                           c->file->label, model__quote(v->key).s, v->p[i]);
    return 0;
}

static int take_value(struct cursor *c, struct gguf_value *v)
{
    uint64_t type;
    int st = take_int(c, 4, "a value's type", &type);
    if (!st)
        st = check_type(c, v->key, type);
    if (st)
        return st;
    v->type = (int) type;
    v->n = 1;
    if (v->type == GGUF_ARRAY && (st = take_list_head(c, v)) < 0)
        return st;
    int size = value_bytes[v->type];
    v->p = c->p;
    if (v->type == GGUF_STRING)
        st = skip_strings(c, v->n);
    else if (v->n > c->left / (unsigned) size || !take(c, v->n * (unsigned) size))
        st = truncated(c, model__quote(v->key).s);
    v->bytes = (size_t) (c->p - v->p);
    return st ? st : check_bools(c, v);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct gguf_value *) a)->key, ((const struct gguf_value *) b)->key);
}

static int take_values(struct cursor *c, struct gguf *g, uint64_t n)
{
    if (n > KEYS_MAX || n > c->left / ITEM_BYTES_MIN)
        return err_set(c->e, ST_FORMAT, "%s: claims %" PRIu64 " keys in %zu bytes; expected at most %d",
                       c->file->label, n, c->left, KEYS_MAX);
    g->value = calloc((size_t) n + 1, sizeof *g->value);
    if (!g->value)
        return err_set(c->e, ST_NOMEM, "%s: out of memory", c->file->label);
    for (; g->n_values < (int) n; g->n_values++) {
        struct gguf_value *v = &g->value[g->n_values];
        int st = take_name(c, g, KEY_BYTES_MAX, "a key", &v->key);
        if (!st)
            st = take_value(c, v);
        if (st)
            return st;
    }
    qsort(g->value, (size_t) n, sizeof *g->value, by_key);
    for (int i = 1; i < g->n_values; i++)
        if (strcmp(g->value[i - 1].key, g->value[i].key) == 0)
            return err_set(c->e, ST_FORMAT, "%s: key '%s' is given twice", c->file->label,
                           model__quote(g->value[i].key).s);
    return 0;
}

/* --- tensors --- */

static int bad_tensor(const struct cursor *c, const struct tensor *t, const char *why)
{
    return err_set(c->e, ST_FORMAT, "%s: tensor '%s': %s", c->file->label, model__quote(t->name).s, why);
}

static int take_shape(struct cursor *c, struct tensor *t)
{
    uint64_t n, size, all = 1;
    int st = take_int(c, 4, "a tensor's shape", &n);
    if (st)
        return st;
    if (n < 1 || n > DIMS_MAX)
        return err_set(c->e, ST_FORMAT, "%s: tensor '%s' has %" PRIu64 " dimensions; expected 1 to %d",
                       c->file->label, model__quote(t->name).s, n, DIMS_MAX);
    t->n_dims = (int32_t) n;
    for (int i = t->n_dims - 1; i >= 0; i--) { /* the file lists the innermost first */
        if ((st = take_int(c, 8, "a tensor's shape", &size)) < 0)
            return st;
        t->dim[i] = (int64_t) size;
        if (size == 0 || size > INT64_MAX || __builtin_mul_overflow(all, size, &all) || all > INT64_MAX / 8)
            return bad_tensor(c, t, "its sizes are no product of whole numbers from 1 below 2^60");
    }
    return 0;
}

static int take_type(struct cursor *c, struct tensor *t)
{
    uint64_t type;
    int st = take_int(c, 4, "a tensor's type", &type);
    if (st)
        return st;
    if (type >= sizeof types / sizeof *types || !types[type].name)
        return err_set(c->e, ST_FORMAT, "%s: tensor '%s' has the unknown type %" PRIu64, c->file->label,
                       model__quote(t->name).s, type);
    t->type = types[type].type;
    strcpy(t->dtype, types[type].name);
    if (t->type == TENSOR_OTHER)
        return err_set(
            c->e, ST_UNSUPPORTED,
            "%s: tensor '%s' has the type %s, which is not served; expected F32, F16, BF16, Q8_0, Q4_0, Q4_K "
            "or Q6_K",
            c->file->label, model__quote(t->name).s, t->dtype);
    int64_t row = t->dim[t->n_dims - 1];
    if (row % tensor_block(t->type))
        return err_set(c->e, ST_FORMAT,
                       "%s: tensor '%s' has rows of %" PRId64 " values; %s needs a multiple of %d",
                       c->file->label, model__quote(t->name).s, row, t->dtype, tensor_block(t->type));
    uint64_t all = 1;
    for (int i = 0; i < t->n_dims; i++)
        all *= (uint64_t) t->dim[i];
    uint64_t blocks = all / (unsigned) tensor_block(t->type), bytes;
    if (__builtin_mul_overflow(blocks, (uint64_t) tensor_block_bytes(t->type), &bytes) ||
        bytes > c->file->bytes)
        return bad_tensor(c, t, "it is larger than the file, which is truncated; fetch it again");
    t->bytes = (size_t) bytes;
    return 0;
}

static uint64_t align_up(uint64_t x, uint64_t align)
{
    return (x + align - 1) / align * align;
}

/* *end: where the next one must begin, an offset into the data; the data's place is not known yet. */
static int take_tensor(struct cursor *c, struct gguf *g, uint64_t align, uint64_t *end)
{
    struct tensor *t = &g->tensor[g->n_tensors];
    uint64_t offset;
    int st = take_name(c, g, NAME_BYTES_MAX, "a tensor's name", &t->name);
    if (!st)
        st = take_shape(c, t);
    if (!st)
        st = take_type(c, t);
    if (!st)
        st = take_int(c, 8, "a tensor's offset", &offset);
    if (st)
        return st;
    if (offset != *end)
        return err_set(c->e, ST_FORMAT,
                       "%s: tensor '%s' begins at byte %" PRIu64 " of the data; expected %" PRIu64
                       ", where the one before it ends",
                       c->file->label, model__quote(t->name).s, offset, *end);
    if (offset > c->file->bytes - t->bytes)
        return bad_tensor(c, t, "it ends behind the end of the file, which is truncated; fetch it again");
    t->data = (const unsigned char *) c->file->data + offset; /* place_tensors adds where the data begins */
    t->mapped = c->file->mapped;
    *end = align_up(offset + t->bytes, align);
    g->n_tensors++;
    return 0;
}

static int place_tensors(struct cursor *c, struct gguf *g, uint64_t align, uint64_t end)
{
    uint64_t at = align_up(c->file->bytes - c->left, align), bare = 0;
    for (int i = 0; i < g->n_tensors; i++) {
        struct tensor *t = &g->tensor[i];
        uint64_t offset =
            (uint64_t) ((const unsigned char *) t->data - (const unsigned char *) c->file->data);
        bare = offset + t->bytes;
        if (at > c->file->bytes || bare > c->file->bytes - at)
            return bad_tensor(c, t, "it ends behind the end of the file, which is truncated; fetch it again");
        t->data = (const unsigned char *) c->file->data + at + offset;
    }
    uint64_t data = g->n_tensors ? c->file->bytes - at : 0;
    if (data != bare && data != end)
        return err_set(c->e, ST_FORMAT,
                       "%s: the file holds %" PRIu64 " bytes of data; its tensors end at %" PRIu64,
                       c->file->label, data, bare);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *) a)->name, ((const struct tensor *) b)->name);
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int take_tensors(struct cursor *c, struct gguf *g, uint64_t n, uint64_t align)
{
    uint64_t end = 0;
    int st = 0;
    if (n > TENSORS_MAX || n > c->left / ITEM_BYTES_MIN)
        return err_set(c->e, ST_FORMAT, "%s: claims %" PRIu64 " tensors in %zu bytes; expected at most %d",
                       c->file->label, n, c->left, TENSORS_MAX);
    g->tensor = calloc((size_t) n + 1, sizeof *g->tensor);
    if (!g->tensor)
        return err_set(c->e, ST_NOMEM, "%s: out of memory", c->file->label);
    for (uint64_t i = 0; !st && i < n; i++) {
        g->tensor[i].file = base_of(g->file.label);
        st = take_tensor(c, g, align, &end);
    }
    if (!st)
        st = place_tensors(c, g, align, end);
    if (st)
        return st;
    qsort(g->tensor, (size_t) n, sizeof *g->tensor, by_name);
    for (int i = 1; i < g->n_tensors; i++)
        if (strcmp(g->tensor[i - 1].name, g->tensor[i].name) == 0)
            return bad_tensor(c, &g->tensor[i], "it is listed twice");
    return 0;
}

/* --- the file --- */

static int check_magic(struct cursor *c)
{
    uint64_t version;
    const unsigned char *p = take(c, 4);
    if (!p || memcmp(p, "GGUF", 4) != 0)
        return err_set(c->e, ST_FORMAT, "%s: does not begin with \"GGUF\"; expected a GGUF file",
                       c->file->label);
    int st = take_int(c, 4, "the version", &version);
    if (st)
        return st;
    if (version > 0xffff && (version & 0xffff) == 0)
        return err_set(c->e, ST_UNSUPPORTED,
                       "%s: a big-endian GGUF, which is not served; expected a little-endian one",
                       c->file->label);
    if (version != 2 && version != 3)
        return err_set(c->e, ST_UNSUPPORTED, "%s: GGUF version %" PRIu64 " is not served; expected 2 or 3",
                       c->file->label, version);
    return 0;
}

static int read_align(const struct cursor *c, const struct gguf *g, uint64_t *align)
{
    const struct gguf_value *v = gguf_get(g, "general.alignment");
    int64_t x = ALIGN_DEFAULT;
    if (v && (!gguf_int(v, &x) || x < 8 || x > ALIGN_MAX || (x & (x - 1))))
        return err_set(c->e, ST_FORMAT, "%s: general.alignment is not a power of two from 8 to %d",
                       c->file->label, ALIGN_MAX);
    *align = (uint64_t) x;
    return 0;
}

static int check_split(const struct cursor *c, const struct gguf *g)
{
    int64_t n;
    const struct gguf_value *v = gguf_get(g, "split.count");
    if (!v || (gguf_int(v, &n) && n <= 1))
        return 0;
    return err_set(
        c->e, ST_UNSUPPORTED,
        "%s: one part of a split model, which is not served; join the parts with `llama-gguf-split --merge`",
        c->file->label);
}

static int read_all(struct gguf *g, struct err *e)
{
    struct cursor c = {.file = &g->file, .p = g->file.data, .left = g->file.bytes, .e = e};
    uint64_t n_tensors = 0, n_values = 0, align = ALIGN_DEFAULT;
    int st = check_magic(&c);
    if (!st)
        st = take_int(&c, 8, "the count of tensors", &n_tensors);
    if (!st)
        st = take_int(&c, 8, "the count of keys", &n_values);
    if (!st)
        st = take_values(&c, g, n_values);
    if (!st)
        st = check_split(&c, g);
    if (!st)
        st = read_align(&c, g, &align);
    return st ? st : take_tensors(&c, g, n_tensors, align);
}

static int finish(struct gguf **out, struct gguf *g, int st, struct err *e)
{
    if (!st)
        st = read_all(g, e);
    *out = st ? NULL : g;
    if (st)
        gguf_close(g);
    return st;
}

static struct gguf *new_gguf(struct err *e)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (g)
        arena_init(&g->names, 0);
    else
        err_set(e, ST_NOMEM, "out of memory");
    return g;
}

int gguf_open(struct gguf **out, const char *path, struct err *e)
{
    *out = NULL;
    struct gguf *g = new_gguf(e);
    return g ? finish(out, g, model__file_need(&g->file, NULL, path, e), e) : ST_NOMEM;
}

int gguf__open_bytes(struct gguf **out, const void *p, size_t bytes, struct err *e)
{
    *out = NULL;
    struct gguf *g = new_gguf(e);
    if (!g)
        return ST_NOMEM;
    g->file = (struct model__file){.label = "model.gguf", .data = p, .bytes = bytes};
    return finish(out, g, 0, e);
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    model__file_close(&g->file);
    free(g->value);
    free(g->tensor);
    arena_fini(&g->names);
    free(g);
}

const char *gguf_label(const struct gguf *g)
{
    return g->file.label;
}

int gguf_count(const struct gguf *g)
{
    return g->n_tensors;
}

const struct tensor *gguf_tensors(const struct gguf *g)
{
    return g->tensor;
}

/* --- values --- */

const struct gguf_value *gguf_get(const struct gguf *g, const char *key)
{
    struct gguf_value want = {.key = key};
    return bsearch(&want, g->value, (size_t) g->n_values, sizeof want, by_key);
}

int gguf_int(const struct gguf_value *v, int64_t *out)
{
    if (v->is_array || v->type == GGUF_F32 || v->type == GGUF_F64 || v->type == GGUF_STRING ||
        v->type == GGUF_BOOL)
        return 0;
    int bits = 8 * value_bytes[v->type];
    uint64_t x = le(v->p, value_bytes[v->type]);
    int is_signed = v->type == GGUF_I8 || v->type == GGUF_I16 || v->type == GGUF_I32 || v->type == GGUF_I64;
    if (is_signed && bits < 64 && x >> (bits - 1))
        x |= UINT64_MAX << bits;
    if (!is_signed && x > INT64_MAX)
        return 0;
    *out = (int64_t) x;
    return 1;
}

int gguf_number(const struct gguf_value *v, double *out)
{
    float f;
    if (v->is_array || (v->type != GGUF_F32 && v->type != GGUF_F64))
        return 0;
    if (v->type == GGUF_F64) {
        memcpy(out, v->p, sizeof *out);
        return 1;
    }
    memcpy(&f, v->p, sizeof f);
    *out = (double) f;
    return 1;
}

const char *gguf_next(const struct gguf_value *v, size_t *at, size_t *n)
{
    const unsigned char *p = v->p + *at;
    *n = (size_t) le(p, 8);
    *at += 8 + *n;
    return (const char *) p + 8;
}

const char *gguf_string(const struct gguf_value *v, size_t *n)
{
    size_t at = 0;
    return v->is_array || v->type != GGUF_STRING ? NULL : gguf_next(v, &at, n);
}

const struct model__file *gguf__file(const struct gguf *g)
{
    return &g->file;
}
