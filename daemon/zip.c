/* zip.c - see zip.h. */
#include "daemon/zip.h"

#include <string.h>
#include <zlib.h>

enum {
    WINDOW_BITS = 15,
    GZIP_BITS = 16,     /* added to the window's: zlib's word for the gzip format */
    MEMORY_LEVEL = 8,   /* zlib's own default */
    STEP_BYTES = 16384, /* inflated at once: what a bomb may cost over the limit */
    LEVEL = 1,          /* tokens are small and many: fast before small */
};

static const char *const names[] = {
    [ZIP_IDENTITY] = "identity", [ZIP_GZIP] = "gzip", [ZIP_DEFLATE] = "deflate"};

int zip_parse(const char *name, size_t n)
{
    for (int i = 0; i < ZIP_UNKNOWN; i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0)
            return i;
    return ZIP_UNKNOWN;
}

const char *zip_name(int zip)
{
    return names[zip];
}

uint32_t zip_accepted(const char *s, size_t n)
{
    uint32_t got = 0;
    for (size_t at = 0; at < n;) {
        const char *comma = memchr(s + at, ',', n - at);
        size_t end = comma ? (size_t) (comma - s) : n, last = end;
        while (at < last && s[at] == ' ')
            at++;
        while (last > at && s[last - 1] == ' ')
            last--;
        int zip = zip_parse(s + at, last - at);
        if (zip != ZIP_UNKNOWN)
            got |= 1u << zip;
        at = end + 1;
    }
    return got;
}

static int window_of(int zip)
{
    return zip == ZIP_GZIP ? WINDOW_BITS + GZIP_BITS : WINDOW_BITS;
}

/* 0: to go on, 1: the stream's end, or as zip_inflate. */
static int inflate_step(z_stream *z, size_t room, struct buf *out, struct err *e)
{
    size_t step = room < STEP_BYTES ? room + 1 : STEP_BYTES; /* one byte more tells "full" from "too much" */
    uint8_t *to = buf_reserve(out, step);
    if (!to)
        return err_set(e, ST_NOMEM, "out of memory for a compressed message");
    z->next_out = to;
    z->avail_out = (uInt) step;
    int st = inflate(z, Z_NO_FLUSH);
    size_t got = step - z->avail_out;
    if (got > room)
        return err_set(e, ST_LIMIT, "over the limit");
    out->n += got;
    if (st == Z_STREAM_END)
        return z->avail_in ? err_set(e, ST_WIRE, "bytes follow the end of the compressed message") : 1;
    if (st == Z_MEM_ERROR)
        return err_set(e, ST_NOMEM, "out of memory for a compressed message");
    if (st != Z_OK)
        return err_set(e, ST_WIRE, "the compressed message is %s",
                       st == Z_BUF_ERROR ? "cut short" : "malformed");
    return 0;
}

int zip_inflate(int zip, const uint8_t *p, size_t n, size_t most, struct buf *out, struct err *e)
{
    z_stream z = {0};
    if (n == 0)
        return 0;
    if (inflateInit2(&z, window_of(zip)) != Z_OK)
        return err_set(e, ST_NOMEM, "out of memory for a compressed message");
    z.next_in = (Bytef *) p; /* zlib only reads it */
    z.avail_in = (uInt) n;
    size_t before = buf_len(out);
    int st = 0;
    while (st == 0)
        st = inflate_step(&z, most - (buf_len(out) - before), out, e);
    inflateEnd(&z);
    if (st == ST_LIMIT)
        err_set(e, ST_LIMIT, "the message holds more than %zu bytes once decompressed (--max-message-bytes)",
                most);
    return st < 0 ? st : 0;
}

int zip_deflate(int zip, const uint8_t *p, size_t n, struct buf *out)
{
    z_stream z = {0};
    if (n < ZIP_WORTH_BYTES)
        return 0;
    if (deflateInit2(&z, LEVEL, Z_DEFLATED, window_of(zip), MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
        return ST_NOMEM;
    uint8_t *to = buf_reserve(out, n);
    z.next_in = (Bytef *) p; /* zlib only reads it */
    z.avail_in = (uInt) n;
    z.next_out = to;
    z.avail_out = (uInt) (n - 1); /* not shorter: not worth it */
    int st = to ? deflate(&z, Z_FINISH) : Z_MEM_ERROR;
    size_t got = z.total_out;
    deflateEnd(&z);
    if (!to)
        return ST_NOMEM;
    if (st != Z_STREAM_END)
        return 0;
    out->n += got;
    return 1;
}
