/* safetensors.c - maps the weight files of a directory and checks every header against its file.
 *
 * Like Hugging Face, model.safetensors is preferred where an index lies beside it.  Within a file the tensors must
 * cover the data exactly: no hole, no overlap, nothing left over (the reference reader refuses the same), and each
 * must lie on a multiple of its element's size, so that kernels may read it where it lies.  With shards the index
 * decides: a tensor it lists must lie in the file it names, one it does not list is left out.
 *
 * Refused: anything that does not fit its file, malformed names, shard names that leave the directory, unknown
 * dtypes.  What the tensors mean is model.c's matter.  Immutable after open; owns mappings and names. */
#include "model/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "model/read.h"

#define SAFETENSORS_SINGLE "model.safetensors"
#define SAFETENSORS_INDEX  "model.safetensors.index.json"
#define SCALE_SUFFIX       "_scale_inv"

enum {
    HEAD_BYTES = 8,        /* the little-endian length before the header */
    TENSOR_NAME_MAX = 512, /* bytes of a tensor's name; the longest of Qwen3 has 60 */
    TENSORS_MAX = 1 << 20, /* of all files together; Qwen3-235B-A22B-FP8 has some 73,000 */
    SHARDS_MAX = 4096,     /* mappings held at once; Qwen3-235B-A22B comes in 118 */
};

struct safetensors {
    struct arena names;       /* owns names of tensors and files */
    struct model__file *file; /* owns; (n_files) */
    int n_files;
    struct tensor *tensor; /* owns; (n), sorted by name once open */
    int n, cap;
};

static const struct {
    const char *name;
    int bits; /* of one element */
    int type;
} dtypes[] = {
    {"F32", 32, TENSOR_F32},          {"BF16", 16, TENSOR_BF16},        {"F16", 16, TENSOR_F16},
    {"F8_E4M3", 8, TENSOR_F8_E4M3},   {"F8_E5M2", 8, TENSOR_OTHER},     {"F8_E8M0", 8, TENSOR_OTHER},
    {"F8_E4M3FNUZ", 8, TENSOR_OTHER}, {"F8_E5M2FNUZ", 8, TENSOR_OTHER}, {"F64", 64, TENSOR_OTHER},
    {"I64", 64, TENSOR_OTHER},        {"I32", 32, TENSOR_OTHER},        {"I16", 16, TENSOR_OTHER},
    {"I8", 8, TENSOR_OTHER},          {"U64", 64, TENSOR_OTHER},        {"U32", 32, TENSOR_OTHER},
    {"U16", 16, TENSOR_OTHER},        {"U8", 8, TENSOR_OTHER},          {"BOOL", 8, TENSOR_OTHER},
    {"C64", 64, TENSOR_OTHER},        {"F6_E2M3", 6, TENSOR_OTHER},     {"F6_E3M2", 6, TENSOR_OTHER},
    {"F4", 4, TENSOR_OTHER},
};

/* One file being read: where its data lies, and how to name it. */
struct part {
    const struct model__file *file;
    const char *base;          /* base name; the arena's */
    const unsigned char *data; /* (data_bytes), after the header */
    uint64_t data_bytes;
    uint64_t data_at; /* offset of data in the file */
};

static int read_dtype(struct tensor *t, int *bits, const json_t *v, const struct part *p, struct err *e)
{
    const char *s = json_string_value(v);
    if (!s)
        return err_set(e, ST_FORMAT, "%s: tensor '%s': dtype is %s; expected a string", p->file->label,
                       model__quote(t->name).s, model__show(v).s);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, s) == 0) {
            strcpy(t->dtype, s);
            t->type = dtypes[i].type;
            *bits = dtypes[i].bits;
            return 0;
        }
    return err_set(e, ST_FORMAT, "%s: tensor '%s': unknown dtype '%s'; expected F32, BF16, F16 or F8_E4M3",
                   p->file->label, model__quote(t->name).s, model__quote(s).s);
}

/* Shape into t, and the number of bytes it takes into *bytes. */
static int read_shape(struct tensor *t, int bits, uint64_t *bytes, const json_t *v, const struct part *p,
                      struct err *e)
{
    const char *label = p->file->label;
    size_t n = json_array_size(v);
    if (!json_is_array(v))
        return err_set(e, ST_FORMAT, "%s: tensor '%s': shape is %s; expected an array of sizes", label,
                       model__quote(t->name).s, model__show(v).s);
    if (n > TENSOR_DIMS_MAX)
        return err_set(e, ST_FORMAT, "%s: tensor '%s': shape has %zu sizes; expected at most %d", label,
                       model__quote(t->name).s, n, TENSOR_DIMS_MAX);
    uint64_t all = (uint64_t) bits;
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(v, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return err_set(e, ST_FORMAT,
                           "%s: tensor '%s': size %zu of the shape is %s; expected an integer >= 0", label,
                           model__quote(t->name).s, i, model__show(d).s);
        t->dim[i] = json_integer_value(d);
        if (__builtin_mul_overflow(all, (uint64_t) t->dim[i], &all))
            return err_set(e, ST_FORMAT,
                           "%s: tensor '%s': the shape's product overflows 64 bits at size %zu (%s)", label,
                           model__quote(t->name).s, i, model__show(d).s);
    }
    if (all % 8)
        return err_set(e, ST_FORMAT, "%s: tensor '%s': %" PRIu64 " bits do not fill whole bytes", label,
                       model__quote(t->name).s, all);
    t->n_dims = (int32_t) n;
    *bytes = all / 8;
    return 0;
}

static int read_offsets(struct tensor *t, int bits, uint64_t bytes, const json_t *v, const struct part *p,
                        struct err *e)
{
    const char *label = p->file->label;
    const json_t *b = json_array_get(v, 0), *x = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(x) || json_integer_value(b) < 0 ||
        json_integer_value(x) < json_integer_value(b))
        return err_set(
            e, ST_FORMAT,
            "%s: tensor '%s': bad data_offsets; expected two integers [begin, end], 0 <= begin <= end", label,
            model__quote(t->name).s);
    uint64_t begin = (uint64_t) json_integer_value(b), end = (uint64_t) json_integer_value(x);
    if (end - begin != bytes)
        return err_set(e, ST_FORMAT,
                       "%s: tensor '%s': data_offsets span %" PRIu64
                       " bytes; its shape and dtype %s take %" PRIu64,
                       label, model__quote(t->name).s, end - begin, t->dtype, bytes);
    if (end > p->data_bytes)
        return err_set(e, ST_FORMAT,
                       "%s: tensor '%s' ends at byte %" PRIu64 " of the data, but the file holds %" PRIu64
                       ": it is truncated; fetch it again",
                       label, model__quote(t->name).s, end, p->data_bytes);
    if (bits >= 8 && (p->data_at + begin) % (unsigned) (bits / 8))
        return err_set(e, ST_FORMAT,
                       "%s: tensor '%s' is misaligned: it begins at byte %" PRIu64 " of the file; expected a "
                       "multiple of %d for %s",
                       label, model__quote(t->name).s, p->data_at + begin, bits / 8, t->dtype);
    t->data = p->data + begin;
    t->mapped = p->file->mapped;
    t->bytes = (size_t) bytes;
    return 0;
}

static int check_name(const char *name, const struct part *p, struct err *e)
{
    size_t n = strlen(name);
    int bad = n == 0 || n > TENSOR_NAME_MAX;
    for (const char *c = name; *c; c++)
        bad |= (unsigned char) *c < 0x20 || *c == 0x7f;
    if (bad)
        return err_set(e, ST_FORMAT,
                       "%s: tensor '%s': a name of %zu bytes; expected 1 to %d without control characters",
                       p->file->label, model__quote(name).s, n, TENSOR_NAME_MAX);
    return 0;
}

static struct tensor *push(struct safetensors *s)
{
    if (s->n == s->cap) {
        int cap = s->cap ? s->cap * 2 : 512; /* TENSORS_MAX keeps it far from INT_MAX */
        struct tensor *t = realloc(s->tensor, (size_t) cap * sizeof *t);
        if (!t)
            return NULL;
        s->tensor = t;
        s->cap = cap;
    }
    struct tensor *t = &s->tensor[s->n++];
    *t = (struct tensor){0};
    return t;
}

static int read_tensor(struct safetensors *s, const char *name, const json_t *v, const struct part *p,
                       struct err *e)
{
    int bits = 0;
    uint64_t bytes = 0;
    int st = check_name(name, p, e);
    if (st)
        return st;
    if (!json_is_object(v))
        return err_set(e, ST_FORMAT,
                       "%s: tensor '%s' is %s; expected an object with dtype, shape and data_offsets",
                       p->file->label, model__quote(name).s, model__show(v).s);
    if (s->n == TENSORS_MAX)
        return err_set(e, ST_FORMAT, "%s: tensor '%s' is one too many; expected at most %d", p->file->label,
                       model__quote(name).s, TENSORS_MAX);
    struct tensor *t = push(s);
    if (!t || !(t->name = arena_copy(&s->names, name, strlen(name))))
        return err_set(e, ST_NOMEM, "%s: out of memory for the table of tensors", p->file->label);
    t->file = p->base;
    st = read_dtype(t, &bits, json_object_get(v, "dtype"), p, e);
    if (!st)
        st = read_shape(t, bits, &bytes, json_object_get(v, "shape"), p, e);
    if (!st)
        st = read_offsets(t, bits, bytes, json_object_get(v, "data_offsets"), p, e);
    return st;
}

static int check_metadata(const json_t *v, const struct part *p, struct err *e)
{
    const char *key;
    json_t *item;
    if (!json_is_object(v))
        return err_set(e, ST_FORMAT, "%s: __metadata__ is %s; expected an object of strings", p->file->label,
                       model__show(v).s);
    json_object_foreach((json_t *) v, key, item) if (!json_is_string(item)) return err_set(
        e, ST_FORMAT, "%s: __metadata__ key '%s' is %s; expected a string", p->file->label,
        model__quote(key).s, model__show(item).s);
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const char *) x->data < (const char *) y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The n tensors of one file must cover its data exactly.  Sorts them by place. */
static int check_cover(struct tensor *t, int n, const struct part *p, struct err *e)
{
    const char *label = p->file->label;
    uint64_t at = 0;
    if (n)
        qsort(t, (size_t) n, sizeof *t, by_place);
    for (int i = 0; i < n; i++) {
        uint64_t begin = (uint64_t) ((const unsigned char *) t[i].data - p->data);
        const char *before = i ? t[i - 1].name : "the beginning of the data";
        if (begin < at)
            return err_set(e, ST_FORMAT,
                           "%s: tensor '%s' overlaps '%s': it begins at byte %" PRIu64
                           " of the data; expected %" PRIu64,
                           label, model__quote(t[i].name).s, model__quote(before).s, begin, at);
        if (begin > at)
            return err_set(e, ST_FORMAT,
                           "%s: a hole of %" PRIu64 " bytes before tensor '%s': it begins at byte %" PRIu64
                           " of the data; expected %" PRIu64,
                           label, begin - at, model__quote(t[i].name).s, begin, at);
        at = begin + t[i].bytes;
    }
    if (at != p->data_bytes)
        return err_set(e, ST_FORMAT,
                       "%s: the file holds %" PRIu64 " bytes of data; its tensors end at %" PRIu64, label,
                       p->data_bytes, at);
    return 0;
}

static int read_entries(struct safetensors *s, json_t *header, const struct part *p, struct err *e)
{
    int first = s->n;
    const char *key;
    json_t *v;
    json_object_foreach(header, key, v)
    {
        int st = strcmp(key, "__metadata__") == 0 ? check_metadata(v, p, e) : read_tensor(s, key, v, p, e);
        if (st)
            return st;
    }
    return check_cover(s->tensor ? s->tensor + first : NULL, s->n - first, p, e);
}

static uint64_t le64(const unsigned char *p)
{
    uint64_t x = 0;
    for (int i = 7; i >= 0; i--)
        x = x << 8 | p[i];
    return x;
}

/* Appends the tensors of one file. */
static int read_file(struct safetensors *s, const struct model__file *f, const char *base, struct err *e)
{
    const unsigned char *bytes = f->data;
    if (f->bytes < HEAD_BYTES)
        return err_set(e, ST_FORMAT, "%s: truncated: %zu bytes; expected at least %d", f->label, f->bytes,
                       HEAD_BYTES);
    uint64_t n = le64(bytes);
    if (n > MODEL_JSON_MAX)
        return err_set(e, ST_FORMAT, "%s: the header claims %" PRIu64 " bytes; expected at most %d", f->label,
                       n, MODEL_JSON_MAX);
    if (n > f->bytes - HEAD_BYTES)
        return err_set(e, ST_FORMAT,
                       "%s: truncated: the header claims %" PRIu64
                       " bytes, but the file holds %zu after the length",
                       f->label, n, f->bytes - HEAD_BYTES);
    if (n == 0 || bytes[HEAD_BYTES] != '{')
        return err_set(e, ST_FORMAT, "%s: the header of %" PRIu64 " bytes does not begin with '{'", f->label,
                       n);
    struct part p = {.file = f,
                     .base = base,
                     .data = bytes + HEAD_BYTES + n,
                     .data_bytes = f->bytes - HEAD_BYTES - n,
                     .data_at = HEAD_BYTES + n};
    json_t *header;
    int st = model__json_object(&header, f->label, bytes + HEAD_BYTES, (size_t) n, e);
    if (!st)
        st = read_entries(s, header, &p, e);
    json_decref(header);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *) a)->name, ((const struct tensor *) b)->name);
}

static void sort_by_name(struct safetensors *s)
{
    if (s->n)
        qsort(s->tensor, (size_t) s->n, sizeof *s->tensor, by_name);
}

/* The table stays where it is from here on. */
static void finish(struct safetensors *s)
{
    char name[TENSOR_NAME_MAX + sizeof SCALE_SUFFIX];
    sort_by_name(s);
    for (int i = 0; i < s->n; i++)
        if (s->tensor[i].type == TENSOR_F8_E4M3) {
            snprintf(name, sizeof name, "%s%s", s->tensor[i].name, SCALE_SUFFIX);
            s->tensor[i].scale = tensor_find(s->tensor, s->n, name);
        }
}

/* --- one file --- */

static int open_single(struct safetensors *s, const char *dir, struct err *e)
{
    s->file = calloc(1, sizeof *s->file);
    if (!s->file)
        return err_set(e, ST_NOMEM, "%s: out of memory", dir);
    s->n_files = 1;
    int st = model__file_need(&s->file[0], dir, SAFETENSORS_SINGLE, e);
    return st ? st : read_file(s, &s->file[0], SAFETENSORS_SINGLE, e);
}

/* --- shards --- */

static int check_shard_name(const char *tensor, const json_t *v, const char *label, struct err *e)
{
    const char *s = json_string_value(v), *suffix = ".safetensors";
    size_t n = s ? strlen(s) : 0, k = strlen(suffix);
    int good = n > k && n <= 255 && strcmp(s + n - k, suffix) == 0 && !strchr(s, '/') && !strstr(s, "..") &&
               s[0] != '.';
    for (size_t i = 0; i < n; i++)
        good &= (unsigned char) s[i] >= 0x20 && s[i] != 0x7f;
    if (!good)
        return err_set(
            e, ST_FORMAT,
            "%s: tensor '%s' lies in %s; expected the name of a .safetensors file in the same directory",
            label, model__quote(tensor).s, model__show(v).s);
    return 0;
}

/* Distinct shard names of the map, as keys of *out. */
static int list_shards(json_t **out, json_t *map, const char *label, struct err *e)
{
    const char *tensor;
    json_t *v, *set = json_object();
    int st = set ? 0 : err_set(e, ST_NOMEM, "%s: out of memory", label);
    json_object_foreach(map, tensor, v)
    {
        if (!st)
            st = check_shard_name(tensor, v, label, e);
        if (!st && json_object_set_new(set, json_string_value(v), json_true()) != 0)
            st = err_set(e, ST_NOMEM, "%s: out of memory", label);
    }
    if (!st && json_object_size(set) > SHARDS_MAX)
        st = err_set(e, ST_FORMAT, "%s: names %zu files; expected at most %d", label, json_object_size(set),
                     SHARDS_MAX);
    if (st) {
        json_decref(set);
        return st;
    }
    *out = set;
    return 0;
}

/* Of the tensors from `first` on, all of file f: keeps those the index lists, refuses one it places elsewhere. */
static int keep_listed(struct safetensors *s, int first, const struct model__file *f, const json_t *map,
                       struct err *e)
{
    int n = first;
    for (int i = first; i < s->n; i++) {
        const struct tensor *t = &s->tensor[i];
        const char *listed = json_string_value(json_object_get(map, t->name));
        if (listed && strcmp(listed, t->file) != 0)
            return err_set(e, ST_FORMAT, "%s: tensor '%s' lies here, but %s places it in '%s'", f->label,
                           model__quote(t->name).s, SAFETENSORS_INDEX, model__quote(listed).s);
        if (listed)
            s->tensor[n++] = *t;
    }
    s->n = n;
    return 0;
}

static int open_shard(struct safetensors *s, const char *dir, const char *name, const json_t *map,
                      struct err *e)
{
    struct model__file *f = &s->file[s->n_files];
    const char *base = arena_copy(&s->names, name, strlen(name));
    if (!base)
        return err_set(e, ST_NOMEM, "%s: out of memory", dir);
    if (!model__file_exists(dir, base))
        return err_set(e, ST_IO, "%s/%s: no such file, but %s names it; fetch it again", model__quote(dir).s,
                       base, SAFETENSORS_INDEX);
    int first = s->n, st = model__file_need(f, dir, base, e);
    if (st)
        return st;
    s->n_files++;
    st = read_file(s, f, base, e);
    return st ? st : keep_listed(s, first, f, map, e);
}

static int open_shards(struct safetensors *s, const char *dir, json_t *map, json_t *shards, const char *label,
                       struct err *e)
{
    const char *name;
    json_t *v;
    s->file = calloc(json_object_size(shards) + 1, sizeof *s->file);
    if (!s->file)
        return err_set(e, ST_NOMEM, "%s: out of memory", label);
    json_object_foreach(shards, name, v)
    {
        int st = open_shard(s, dir, name, map, e);
        if (st)
            return st;
    }
    sort_by_name(s);
    json_object_foreach(map, name, v) if (!tensor_find(s->tensor, s->n, name)) return err_set(
        e, ST_FORMAT, "%s: tensor '%s' is listed in '%s', but that file does not hold it", label,
        model__quote(name).s, model__quote(json_string_value(v)).s);
    return 0;
}

static int open_index(struct safetensors *s, const char *dir, struct err *e)
{
    struct model__file f;
    json_t *index = NULL, *shards = NULL;
    int st = model__file_need(&f, dir, SAFETENSORS_INDEX, e);
    if (!st)
        st = model__json_object(&index, f.label, f.data, f.bytes, e);
    json_t *map = json_object_get(index, "weight_map");
    if (!st && !json_is_object(map))
        st = err_set(e, ST_FORMAT, "%s: weight_map is %s; expected an object from tensor to file", f.label,
                     model__show(map).s);
    if (!st)
        st = list_shards(&shards, map, f.label, e);
    if (!st)
        st = open_shards(s, dir, map, shards, f.label, e);
    json_decref(shards);
    json_decref(index);
    model__file_close(&f);
    return st;
}

/* --- the border --- */

static struct safetensors *table_new(void)
{
    struct safetensors *s = calloc(1, sizeof *s);
    if (s)
        arena_init(&s->names, 0);
    return s;
}

int safetensors_open(struct safetensors **out, const char *dir, struct err *e)
{
    *out = NULL;
    struct safetensors *s = table_new();
    if (!s)
        return err_set(e, ST_NOMEM, "%s: out of memory", dir);
    int st;
    if (model__file_exists(dir, SAFETENSORS_SINGLE))
        st = open_single(s, dir, e);
    else if (model__file_exists(dir, SAFETENSORS_INDEX))
        st = open_index(s, dir, e);
    else
        st = err_set(e, ST_IO, "%s: holds neither %s nor %s", model__quote(dir).s, SAFETENSORS_SINGLE,
                     SAFETENSORS_INDEX);
    if (st) {
        safetensors_close(s);
        return st;
    }
    finish(s);
    *out = s;
    return 0;
}

int safetensors__open_bytes(struct safetensors **out, const void *p, size_t bytes, struct err *e)
{
    *out = NULL;
    struct safetensors *s = table_new();
    if (!s || !(s->file = calloc(1, sizeof *s->file))) {
        safetensors_close(s);
        return err_set(e, ST_NOMEM, "out of memory");
    }
    s->n_files = 1;
    s->file[0] = (struct model__file){.label = SAFETENSORS_SINGLE, .data = p, .bytes = bytes};
    int st = read_file(s, &s->file[0], SAFETENSORS_SINGLE, e);
    if (st) {
        safetensors_close(s);
        return st;
    }
    finish(s);
    *out = s;
    return 0;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n_files; i++)
        model__file_close(&s->file[i]);
    free(s->file);
    free(s->tensor);
    arena_fini(&s->names);
    free(s);
}

int safetensors_count(const struct safetensors *s)
{
    return s->n;
}

const struct tensor *safetensors_tensors(const struct safetensors *s)
{
    return s->tensor;
}

int safetensors__n_files(const struct safetensors *s)
{
    return s->n_files;
}

const struct model__file *safetensors__file(const struct safetensors *s, int i)
{
    return &s->file[i];
}
