/* reflect.c - see reflect.h.
 *
 * The descriptors are read as plain wire format (field numbers of google/protobuf/descriptor.proto): a file is a name, the names
 * it imports, and a tree of named things.  protobuf-c has no descriptor for descriptor.proto, and none is needed. */
#include "proto/reflect.h"

#include <stdlib.h>
#include <string.h>

#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/wire.h"

extern const uint8_t proto__files[], proto__files_end[];

enum { SYMBOL_BYTES_MAX = 256, CODE_NOT_FOUND = 5, CODE_INVALID = 3 };

enum { SET_FILE = 1, FILE_NAME = 1, FILE_PACKAGE = 2, FILE_DEPENDENCY = 3, ANY_NAME = 1 };

/* What may hold names: which of its fields are things of which kind. */
enum kind { KIND_FILE, KIND_MESSAGE, KIND_ENUM, KIND_SERVICE, KIND_LEAF, KIND_END };

static const struct {
    uint32_t field;
    enum kind child;
} children[][7] = {
    [KIND_FILE] = {{4, KIND_MESSAGE}, {5, KIND_ENUM}, {6, KIND_SERVICE}, {7, KIND_LEAF}, {0, KIND_END}},
    [KIND_MESSAGE] =
        {{2, KIND_LEAF}, {3, KIND_MESSAGE}, {4, KIND_ENUM}, {6, KIND_LEAF}, {8, KIND_LEAF}, {0, KIND_END}},
    [KIND_ENUM] = {{2, KIND_LEAF}, {0, KIND_END}},
    [KIND_SERVICE] = {{2, KIND_LEAF}, {0, KIND_END}},
    [KIND_LEAF] = {{0, KIND_END}},
};

struct symbol {
    struct symbol *next;
    enum kind kind;
    int file;
    char name[]; /* in full: package.Outer.Inner */
};

struct file {
    const uint8_t *p; /* the FileDescriptorProto */
    size_t n;
    char name[SYMBOL_BYTES_MAX];
};

struct proto_files {
    struct arena arena; /* owns the symbols */
    struct symbol *symbols;
    int n;
    struct file file[PROTO_FILES_MAX];
};

/* --- reading descriptors --- */

/* Calls for each field of this number until one fails. */
struct scan {
    const uint8_t *p, *end;
};

/* 1: the next field with this number is in *f; 0: none; ST_WIRE. */
static int next_field(struct scan *s, uint32_t number, struct proto__field *f)
{
    int st;
    while ((st = proto__field_get(&s->p, s->end, f)) > 0)
        if (f->number == number)
            return 1;
    return st;
}

/* A field's text into out, "" where it is absent. */
static int text_of(const uint8_t *p, size_t n, uint32_t number, char out[SYMBOL_BYTES_MAX])
{
    struct scan s = {p, p + n};
    struct proto__field f;
    out[0] = 0;
    int st = next_field(&s, number, &f);
    if (st <= 0)
        return st;
    if (f.n >= SYMBOL_BYTES_MAX)
        return ST_LIMIT;
    memcpy(out, f.p, f.n);
    out[f.n] = 0;
    return 0;
}

static int symbol_add(struct proto_files *o, int file, enum kind kind, const char *name)
{
    size_t n = strlen(name) + 1;
    struct symbol *s = arena_get(&o->arena, sizeof *s + n);
    if (!s)
        return ST_NOMEM;
    s->kind = kind;
    s->file = file;
    memcpy(s->name, name, n);
    s->next = o->symbols;
    o->symbols = s;
    return 0;
}

static int join(const char *scope, const char *name, char out[SYMBOL_BYTES_MAX])
{
    size_t a = strlen(scope), b = strlen(name), dot = a != 0;
    if (a + dot + b >= SYMBOL_BYTES_MAX)
        return ST_LIMIT;
    memcpy(out, scope, a);
    if (dot)
        out[a] = '.';
    memcpy(out + a + dot, name, b + 1);
    return 0;
}

/* The things inside one: `scope` is the name they are known under.  Depth is bounded by what protoc has accepted from our own
 * files. */
static int walk(struct proto_files *o, int file, enum kind kind, const uint8_t *p, size_t n,
                const char *scope)
{
    for (int i = 0; children[kind][i].child != KIND_END; i++) {
        enum kind child = children[kind][i].child;
        struct scan s = {p, p + n};
        struct proto__field f;
        int st;
        while ((st = next_field(&s, children[kind][i].field, &f)) > 0) {
            char name[SYMBOL_BYTES_MAX], full[SYMBOL_BYTES_MAX];
            st = text_of(f.p, f.n, ANY_NAME, name);
            if (!st)
                st = join(scope, name, full);
            if (!st)
                st = symbol_add(o, file, child, full);
            if (!st) /* the values of an enum live beside it, not in it */
                st = walk(o, file, child, f.p, f.n, child == KIND_ENUM ? scope : full);
            if (st)
                return st;
        }
        if (st)
            return st;
    }
    return 0;
}

static int file_add(struct proto_files *o, const uint8_t *p, size_t n)
{
    char package[SYMBOL_BYTES_MAX];
    if (o->n == PROTO_FILES_MAX)
        return ST_LIMIT;
    struct file *f = &o->file[o->n];
    f->p = p;
    f->n = n;
    int st = text_of(p, n, FILE_NAME, f->name);
    if (!st)
        st = text_of(p, n, FILE_PACKAGE, package);
    if (!st)
        st = walk(o, o->n, KIND_FILE, p, n, package);
    o->n++;
    return st;
}

int proto_files_open(struct proto_files **out, struct err *e)
{
    *out = NULL;
    struct proto_files *o = calloc(1, sizeof *o);
    if (!o)
        return err_set(e, ST_NOMEM, "out of memory");
    struct scan s = {proto__files, proto__files_end};
    struct proto__field f;
    int st;
    while ((st = next_field(&s, SET_FILE, &f)) > 0 && (st = file_add(o, f.p, f.n)) == 0)
        ;
    if (st) {
        proto_files_close(o);
        return err_set(e, st, "the embedded descriptors cannot be read: %s; build anew", status_text(st));
    }
    *out = o;
    return 0;
}

void proto_files_close(struct proto_files *f)
{
    if (!f)
        return;
    arena_fini(&f->arena);
    free(f);
}

/* --- answers --- */

static int file_named(const struct proto_files *o, const char *name)
{
    for (int i = 0; i < o->n; i++)
        if (strcmp(o->file[i].name, name) == 0)
            return i;
    return -1;
}

static const struct symbol *symbol_named(const struct proto_files *o, const char *name)
{
    const struct symbol *s = o->symbols;
    while (s && strcmp(s->name, name) != 0)
        s = s->next;
    return s;
}

/* The file and what it imports, bit by bit. */
static uint64_t with_imports(const struct proto_files *o, int file, uint64_t have)
{
    if (file < 0 || have & UINT64_C(1) << file)
        return have;
    have |= UINT64_C(1) << file;
    const struct file *d = &o->file[file];
    struct scan s = {d->p, d->p + d->n};
    struct proto__field f;
    while (next_field(&s, FILE_DEPENDENCY, &f) > 0) {
        char name[SYMBOL_BYTES_MAX] = "";
        if (f.n < sizeof name)
            memcpy(name, f.p, f.n);
        have = with_imports(o, file_named(o, name), have);
    }
    return have;
}

typedef Grpc__Reflection__V1__ServerReflectionResponse response_t;

static int pack_error(response_t *m, int code, const char *text, struct buf *out)
{
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    error.error_code = code;
    error.error_message = proto__str(text);
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    m->error_response = &error;
    return proto__pack(&m->base, out);
}

/* file: -1: not found. */
static int pack_file(struct proto_reflect *s, response_t *m, int file, struct buf *out)
{
    if (file < 0)
        return pack_error(m, CODE_NOT_FOUND, "not found", out);
    Grpc__Reflection__V1__FileDescriptorResponse files = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData data[PROTO_FILES_MAX];
    uint64_t want = with_imports(s->files, file, 0);
    uint64_t give = (want & ~s->sent) | UINT64_C(1) << file; /* what is asked for by name always comes */
    files.file_descriptor_proto = data;
    for (int i = 0; i < s->files->n; i++)
        if (give & UINT64_C(1) << i)
            data[files.n_file_descriptor_proto++] =
                (ProtobufCBinaryData){s->files->file[i].n, (uint8_t *) s->files->file[i].p};
    s->sent |= give;
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    m->file_descriptor_response = &files;
    return proto__pack(&m->base, out);
}

/* No served message has extensions: the answer is empty, or the type is not known. */
static int pack_extensions(const struct proto_reflect *s, response_t *m, const char *type, struct buf *out)
{
    const struct symbol *found = symbol_named(s->files, type);
    if (!found || found->kind != KIND_MESSAGE)
        return pack_error(m, CODE_NOT_FOUND, "no such message type", out);
    Grpc__Reflection__V1__ExtensionNumberResponse none =
        GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
    none.base_type_name = proto__str(type);
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
    m->all_extension_numbers_response = &none;
    return proto__pack(&m->base, out);
}

static int pack_services(const struct proto_reflect *s, response_t *m, struct arena *a, struct buf *out)
{
    Grpc__Reflection__V1__ListServiceResponse list = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse *one = arena_get(a, s->n_services * sizeof *one);
    list.service = arena_get(a, s->n_services * sizeof *list.service);
    if (!one || !list.service)
        return ST_NOMEM;
    for (size_t i = 0; i < s->n_services; i++) {
        grpc__reflection__v1__service_response__init(&one[i]);
        one[i].name = proto__str(s->service[i]);
        list.service[list.n_service++] = &one[i];
    }
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    m->list_services_response = &list;
    return proto__pack(&m->base, out);
}

int proto_reflect_answer(struct proto_reflect *s, const void *p, size_t n, struct arena *a, struct buf *out,
                         struct err *e)
{
    Grpc__Reflection__V1__ServerReflectionRequest *q;
    response_t m = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    int st = proto__unpack(&grpc__reflection__v1__server_reflection_request__descriptor, p, n, a, &q, e);
    if (st)
        return st;
    m.valid_host = q->host;
    m.original_request = q;
    const struct symbol *symbol;
    switch (q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        st = pack_file(s, &m, file_named(s->files, q->file_by_filename), out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        symbol = symbol_named(s->files, q->file_containing_symbol);
        st = pack_file(s, &m, symbol ? symbol->file : -1, out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        st = pack_error(&m, CODE_NOT_FOUND, "no served type has extensions", out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        st = pack_extensions(s, &m, q->all_extension_numbers_of_type, out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        st = pack_services(s, &m, a, out);
        break;
    default:
        st = pack_error(&m, CODE_INVALID, "the request asks for nothing that is known here", out);
        break;
    }
    return st ? err_set(e, ST_NOMEM, "out of memory") : 0;
}
