/* wire.c - varints, the scan before unpacking, and Delta.
 *
 * Source: protobuf.dev "Encoding".  The scan's recursion is bounded by the schema, which has no recursive message,
 * and by DEPTH_MAX should one ever slip in. */
#include "proto/wire.h"

#include <string.h>

enum { DEPTH_MAX = 16 };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum {
    EVENT_DELTA = 2,
    DELTA_CHOICE = 1,
    DELTA_CONTENT = 2,
    DELTA_REASONING = 3,
    DELTA_IDS = 4,
    DELTA_LOGPROBS = 5,
    DELTA_CLOSED_AT = 6,
    LOGPROB_LOGPROB = 1,
    LOGPROB_TOP = 2,
    LOGPROB_PROCESSED = 3,
    TOP_TOKEN = 1,
    TOP_LOGPROB = 2,
    TOP_PROCESSED = 3,
}; /* field numbers */

struct reader {
    const uint8_t *p, *end;
};

static int varint_get(struct reader *r, uint64_t *out)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (r->p == r->end)
            return ST_WIRE;
        uint8_t b = *r->p++;
        v |= (uint64_t) (b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *out = v;
            return 0;
        }
    }
    return ST_WIRE;
}

static int take(struct reader *r, size_t n, struct proto__field *f)
{
    if (n > (size_t) (r->end - r->p))
        return ST_WIRE;
    f->p = r->p;
    f->n = n;
    r->p += n;
    return 0;
}

static int field_get(struct reader *r, struct proto__field *f)
{
    if (r->p == r->end)
        return 0;
    uint64_t tag;
    if (varint_get(r, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
        return ST_WIRE;
    *f = (struct proto__field){.number = (uint32_t) (tag >> 3), .wire = (int) (tag & 7)};
    uint64_t n;
    switch (f->wire) {
    case WIRE_VARINT:
        return varint_get(r, &n) ? ST_WIRE : 1;
    case WIRE_64:
        return take(r, 8, f) ? ST_WIRE : 1;
    case WIRE_32:
        return take(r, 4, f) ? ST_WIRE : 1;
    case WIRE_BYTES:
        return varint_get(r, &n) || n > SIZE_MAX || take(r, (size_t) n, f) ? ST_WIRE : 1;
    default:
        return ST_WIRE; /* groups are of proto2 */
    }
}

int proto__field_get(const uint8_t **p, const uint8_t *end, struct proto__field *f)
{
    struct reader r = {*p, end};
    int st = field_get(&r, f);
    *p = r.p;
    return st;
}

/* Length of the character at p, or 0 if none is well formed there (Unicode 15, table 3-7). */
static size_t char_len(const uint8_t *p, size_t n)
{
    uint8_t b = p[0], lo = 0x80, hi = 0xbf;
    size_t len = b < 0x80                 ? 1
                 : b >= 0xc2 && b <= 0xdf ? 2
                 : (b & 0xf0) == 0xe0     ? 3
                 : b >= 0xf0 && b <= 0xf4 ? 4
                                          : 0;
    if (len < 2 || len > n)
        return len > n ? 0 : len;
    if (b == 0xe0)
        lo = 0xa0;
    else if (b == 0xed)
        hi = 0x9f; /* surrogates */
    else if (b == 0xf0)
        lo = 0x90;
    else if (b == 0xf4)
        hi = 0x8f;
    if (p[1] < lo || p[1] > hi)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

size_t proto__utf8_bad(const uint8_t *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        size_t len = char_len(p + i, n - i);
        if (len == 0)
            return i;
        i += len;
    }
    return n;
}

static int string_check(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *fd,
                        const struct proto__field *f, struct err *e)
{
    const uint8_t *nul = f->n ? memchr(f->p, 0, f->n) : NULL;
    if (nul)
        return err_set(e, ST_INPUT, "%s.%s holds a NUL byte at offset %zu; strings must not", d->short_name,
                       fd->name, (size_t) (nul - f->p));
    size_t bad = proto__utf8_bad(f->p, f->n);
    if (bad < f->n)
        return err_set(e, ST_INPUT, "%s.%s is not valid UTF-8 at byte offset %zu (0x%02x)", d->short_name,
                       fd->name, bad, f->p[bad]);
    return 0;
}

static int scan(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n, int depth, struct err *e)
{
    struct reader r = {p, p + n};
    struct proto__field f;
    int got = depth > DEPTH_MAX ? ST_WIRE : 0;
    while (got >= 0 && (got = field_get(&r, &f)) > 0) {
        const ProtobufCFieldDescriptor *fd = protobuf_c_message_descriptor_get_field(d, f.number);
        if (!fd || f.wire != WIRE_BYTES)
            continue;
        int st = 0;
        if (fd->type == PROTOBUF_C_TYPE_STRING)
            st = string_check(d, fd, &f, e);
        else if (fd->type == PROTOBUF_C_TYPE_MESSAGE)
            st = scan(fd->descriptor, f.p, f.n, depth + 1, e);
        if (st)
            return st;
    }
    return got < 0 ? err_set(e, ST_WIRE, "malformed protobuf in %s at byte offset %zu", d->name,
                             (size_t) (r.p - p))
                   : 0;
}

int proto__scan(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n, struct err *e)
{
    return scan(d, p, n, 0, e);
}

/* --- Delta --- */

static size_t varint_size(uint64_t v)
{
    size_t n = 1;
    while (v >>= 7)
        n++;
    return n;
}

static uint8_t *varint_put(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t) (v | 0x80);
    *p++ = (uint8_t) v;
    return p;
}

static uint8_t *bytes_put(uint8_t *p, int number, const void *bytes, size_t n)
{
    p = varint_put(p, (uint64_t) number << 3 | WIRE_BYTES);
    p = varint_put(p, n);
    if (n && bytes)
        memcpy(p, bytes, n);
    return p + (bytes ? n : 0);
}

static size_t bytes_size(size_t n)
{
    return n ? 1 + varint_size(n) + n : 0; /* a field number below 16 takes one byte */
}

int proto__bytes_encode(int number, const void *p, size_t n, struct buf *out)
{
    if (n == 0)
        return 0;
    uint8_t *to = buf_reserve(out, bytes_size(n));
    if (!to)
        return ST_NOMEM;
    out->n = (size_t) (bytes_put(to, number, p, n) - out->p);
    return 0;
}

static size_t int_size(int32_t v)
{
    return varint_size((uint64_t) (int64_t) v);
}

static uint8_t *int_put(uint8_t *p, int number, int32_t v)
{
    p = varint_put(p, (uint64_t) number << 3 | WIRE_VARINT);
    return varint_put(p, (uint64_t) (int64_t) v);
}

static uint8_t *float_put(uint8_t *p, int number, float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    p = varint_put(p, (uint64_t) number << 3 | WIRE_32);
    for (int i = 0; i < 4; i++)
        *p++ = (uint8_t) (bits >> (8 * i));
    return p;
}

enum { FLOAT_BYTES = 5 }; /* tag and value */

/* A proto3 scalar of 0 is left out, but for a oneof's. */
static size_t top_size(const struct proto_logprob *l, int32_t i)
{
    return (l->top[i] ? 1 + int_size(l->top[i]) : 0) + FLOAT_BYTES * (l->has_processed ? 2 : 1);
}

static size_t logprob_size(const struct proto_logprob *l)
{
    size_t n = l->drawn ? FLOAT_BYTES * (l->has_processed ? 2 : 1) : 0;
    for (int32_t i = 0; i < l->n_top; i++)
        n += 1 + varint_size(top_size(l, i)) + top_size(l, i);
    return n;
}

static uint8_t *logprob_put(uint8_t *p, const struct proto_logprob *l)
{
    p = bytes_put(p, DELTA_LOGPROBS, NULL, logprob_size(l));
    if (l->drawn)
        p = float_put(p, LOGPROB_LOGPROB, l->logprob);
    for (int32_t i = 0; i < l->n_top; i++) {
        p = bytes_put(p, LOGPROB_TOP, NULL, top_size(l, i));
        if (l->top[i])
            p = int_put(p, TOP_TOKEN, l->top[i]);
        p = float_put(p, TOP_LOGPROB, l->top_logprob[i]);
        if (l->has_processed)
            p = float_put(p, TOP_PROCESSED, l->top_processed[i]);
    }
    return l->drawn && l->has_processed ? float_put(p, LOGPROB_PROCESSED, l->processed) : p;
}

static size_t delta_size(const struct proto_delta *d, size_t ids)
{
    size_t n = (d->choice ? 1 + int_size(d->choice) : 0) + bytes_size(d->content_bytes) +
               bytes_size(d->reasoning_bytes) + bytes_size(ids) +
               (d->has_closed ? 1 + int_size(d->closed_at) : 0);
    for (size_t i = 0; d->logprob && i < d->tokens.n; i++) {
        size_t one = logprob_size(&d->logprob[i]);
        n += 1 + varint_size(one) + one;
    }
    return n;
}

int proto__delta_encode(const struct proto_delta *d, struct buf *out)
{
    size_t ids = 0;
    for (size_t i = 0; i < d->tokens.n; i++)
        ids += int_size(d->tokens.id[i]);
    size_t body = delta_size(d, ids);
    uint8_t *p = buf_reserve(out, 1 + varint_size(body) + body);
    if (!p)
        return ST_NOMEM;
    p = bytes_put(p, EVENT_DELTA, NULL, body);
    if (d->choice)
        p = int_put(p, DELTA_CHOICE, d->choice);
    if (d->content_bytes)
        p = bytes_put(p, DELTA_CONTENT, d->content, d->content_bytes);
    if (d->reasoning_bytes)
        p = bytes_put(p, DELTA_REASONING, d->reasoning, d->reasoning_bytes);
    if (ids)
        p = bytes_put(p, DELTA_IDS, NULL, ids);
    for (size_t i = 0; i < d->tokens.n; i++)
        p = varint_put(p, (uint64_t) (int64_t) d->tokens.id[i]);
    for (size_t i = 0; d->logprob && i < d->tokens.n; i++)
        p = logprob_put(p, &d->logprob[i]);
    if (d->has_closed)
        p = int_put(p, DELTA_CLOSED_AT, d->closed_at);
    out->n = (size_t) (p - out->p);
    return 0;
}
