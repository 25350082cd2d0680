/* reply.c - see reply.h. */
#include "daemon/reply.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>

#include "core/status.h"

static nghttp2_nv nv(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *) name, (uint8_t *) value, strlen(name), strlen(value),
                        NGHTTP2_NV_FLAG_NONE};
}

static void submit_trailers(struct reply *r)
{
    char code[12];
    snprintf(code, sizeof code, "%d", r->status);
    nghttp2_nv v[] = {nv("grpc-status", code), nv("grpc-message", r->message)};
    nghttp2_submit_trailer(r->session, r->stream, v, r->message[0] ? 2 : 1);
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
}

int reply_start(struct reply *r)
{
    nghttp2_nv v[] = {nv(":status", "200"), nv("content-type", "application/grpc"),
                      nv("grpc-accept-encoding", "identity")};
    nghttp2_data_provider data = {.source.ptr = r, .read_callback = on_read};
    if (nghttp2_submit_response(r->session, r->stream, v, sizeof v / sizeof *v, &data))
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

void reply_message_end(struct reply *r, size_t mark)
{
    grpc_prefix_put(r->out.p + r->out.at + mark - GRPC_PREFIX_BYTES, (uint32_t) (buf_len(&r->out) - mark));
    resume(r);
}

void reply_refuse(struct reply *r, const char *http_status, int status, const char *message)
{
    char code[12];
    snprintf(code, sizeof code, "%d", status);
    grpc_message_encode(message, r->message);
    nghttp2_nv v[] = {nv(":status", http_status), nv("content-type", "application/grpc"),
                      nv("grpc-accept-encoding", "identity"), nv("grpc-status", code),
                      nv("grpc-message", r->message)};
    nghttp2_submit_response(r->session, r->stream, v, sizeof v / sizeof *v - !r->message[0], NULL);
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
