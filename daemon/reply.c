/* reply.c - see reply.h. */
#include "daemon/reply.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "daemon/zip.h"

enum { FIELDS_MAX = 16 }; /* headers or trailers of an answer; more are not sent */

static nghttp2_nv nv(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *) name, (uint8_t *) value, strlen(name), strlen(value),
                        NGHTTP2_NV_FLAG_NONE};
}

/* Fields as they go out; what they point to is borrowed. */
struct fields {
    nghttp2_nv v[FIELDS_MAX];
    size_t n;
};

static void field(struct fields *f, const char *name, const char *value)
{
    if (f->n < FIELDS_MAX)
        f->v[f->n++] = nv(name, value);
}

static void fields_extra(struct fields *f, const struct buf *b)
{
    const char *p = (const char *) buf_front(b), *end = p + buf_len(b);
    while (p < end) {
        const char *value = p + strlen(p) + 1;
        field(f, p, value);
        p = value + strlen(value) + 1;
    }
}

static void fields_status(struct fields *f, const char *code, const char *message)
{
    field(f, "grpc-status", code);
    if (*message)
        field(f, "grpc-message", message);
}

static void submit_trailers(struct reply *r)
{
    char code[12];
    struct fields f = {.n = 0};
    snprintf(code, sizeof code, "%d", r->status);
    fields_status(&f, code, r->message);
    fields_extra(&f, &r->extra[REPLY_TRAILER]);
    nghttp2_submit_trailer(r->session, r->stream, f.v, f.n);
}

static ssize_t on_read(nghttp2_session *session, int32_t stream, uint8_t *to, size_t room, uint32_t *flags,
                       nghttp2_data_source *source, void *user)
{
    (void) session;
    (void) stream;
    (void) user;
    struct reply *r = source->ptr;
    size_t n = buf_take(&r->out, to, room);
    r->taken += n;
    if (reply_unsent(r) == 0 && r->finished) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (r->status >= 0) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            submit_trailers(r);
        }
        return (ssize_t) n;
    }
    if (n)
        return (ssize_t) n;
    r->deferred = 1;
    return NGHTTP2_ERR_DEFERRED;
}

static void resume(struct reply *r)
{
    if (r->deferred)
        nghttp2_session_resume_data(r->session, r->stream);
    r->deferred = 0;
}

void reply_init(struct reply *r, nghttp2_session *session, int32_t stream)
{
    *r = (struct reply){.session = session, .stream = stream};
}

void reply_fini(struct reply *r)
{
    buf_free(&r->out);
    buf_free(&r->extra[0]);
    buf_free(&r->extra[1]);
}

int reply_add(struct reply *r, enum reply_extra where, const char *name, const char *value, size_t n)
{
    struct buf *b = &r->extra[where];
    size_t name_bytes = strlen(name) + 1;
    uint8_t *to = buf_reserve(b, name_bytes + n + 1);
    if (!to)
        return ST_NOMEM;
    memcpy(to, name, name_bytes);
    memcpy(to + name_bytes, value, n);
    to[name_bytes + n] = 0;
    b->n += name_bytes + n + 1;
    return 0;
}

int reply_start(struct reply *r)
{
    struct fields f = {.n = 0};
    field(&f, ":status", "200");
    field(&f, "content-type", "application/grpc");
    field(&f, "grpc-accept-encoding", ZIP_ACCEPTED);
    if (r->encoding != ZIP_IDENTITY)
        field(&f, "grpc-encoding", zip_name(r->encoding));
    fields_extra(&f, &r->extra[REPLY_HEADER]);
    nghttp2_data_provider data = {.source.ptr = r, .read_callback = on_read};
    if (nghttp2_submit_response(r->session, r->stream, f.v, f.n, &data))
        return ST_NOMEM;
    r->started = 1;
    return 0;
}

int reply_message_begin(struct reply *r, size_t *mark)
{
    static const uint8_t room[GRPC_PREFIX_BYTES];
    int st = buf_append(&r->out, room, sizeof room);
    *mark = buf_len(&r->out);
    return st;
}

/* Compresses the message from `mark` on in its place.  1: it is shorter now; 0: left as it was; ST_NOMEM. */
static int squeeze(struct reply *r, size_t mark)
{
    struct buf small = {0};
    size_t n = buf_len(&r->out) - mark;
    uint8_t *message = r->out.p + r->out.at + mark;
    int st = r->squeeze == ZIP_IDENTITY ? 0 : zip_deflate(r->squeeze, message, n, &small);
    if (st == 1) {
        memcpy(message, small.p, buf_len(&small));
        r->out.n -= n - buf_len(&small);
    }
    buf_free(&small);
    return st;
}

int reply_message_end(struct reply *r, size_t mark)
{
    int st = squeeze(r, mark);
    if (st < 0)
        return st;
    grpc_prefix_put(r->out.p + r->out.at + mark - GRPC_PREFIX_BYTES, st,
                    (uint32_t) (buf_len(&r->out) - mark));
    resume(r);
    return 0;
}

void reply_refuse(struct reply *r, const char *http_status, int status, const char *message)
{
    char code[12];
    snprintf(code, sizeof code, "%d", status);
    grpc_message_encode(message, r->message);
    struct fields f = {.n = 0};
    field(&f, ":status", http_status);
    field(&f, "content-type", "application/grpc");
    field(&f, "grpc-accept-encoding", ZIP_ACCEPTED);
    fields_extra(&f, &r->extra[REPLY_HEADER]);
    fields_status(&f, code, r->message);
    fields_extra(&f, &r->extra[REPLY_TRAILER]);
    nghttp2_submit_response(r->session, r->stream, f.v, f.n, NULL);
    r->started = r->finished = 1;
}

void reply_finish(struct reply *r, int status, const char *message)
{
    if (r->finished)
        return;
    if (!r->started) {
        reply_refuse(r, "200", status, message);
        return;
    }
    r->status = status;
    grpc_message_encode(message, r->message);
    r->finished = 1;
    resume(r);
}

void reply_plain(struct reply *r, const char *http_status, const char *text)
{
    nghttp2_nv v[] = {nv(":status", http_status), nv("content-type", "text/plain; charset=utf-8")};
    nghttp2_data_provider data = {.source.ptr = r, .read_callback = on_read};
    r->status = -1; /* no trailers */
    r->started = r->finished = 1;
    if (buf_append(&r->out, text, strlen(text)) ||
        nghttp2_submit_response(r->session, r->stream, v, 2, &data))
        reply_abort(r);
}

void reply_abort(struct reply *r)
{
    nghttp2_submit_rst_stream(r->session, NGHTTP2_FLAG_NONE, r->stream, NGHTTP2_CANCEL);
    r->started = r->finished = r->sent = 1;
}
