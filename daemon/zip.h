/* zip.h - gRPC's message compression: gzip and deflate (RFC 1952 and 1950) on zlib, one message at a time.
 *
 * Every message is a context of its own.  What inflates is bounded by the caller's limit while it grows, so that a small
 * message cannot become a large one.  Any thread; nothing is kept between calls. */
#ifndef DAEMON_ZIP_H
#define DAEMON_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/status.h"

enum zip { ZIP_IDENTITY, ZIP_GZIP, ZIP_DEFLATE, ZIP_UNKNOWN };

#define ZIP_ACCEPTED "identity,deflate,gzip" /* of grpc-accept-encoding */

enum {
    ZIP_WORTH_BYTES = 128, /* shorter messages are not tried: headers of the format eat what is won */
};

int zip_parse(const char *name, size_t n);      /* enum zip */
const char *zip_name(int zip);                  /* not of ZIP_UNKNOWN */
uint32_t zip_accepted(const char *s, size_t n); /* a list as of grpc-accept-encoding: bit 1 << zip */

/* Appends at most `most` bytes to out.  0; ST_WIRE: no such stream, or bytes after its end; ST_LIMIT: it holds more;
 * ST_NOMEM.  After a failure out holds what had come. */
int zip_inflate(int zip, const uint8_t *p, size_t n, size_t most, struct buf *out, struct err *e);

/* Appends the message compressed where that makes it shorter.  1: it was; 0: nothing was appended; ST_NOMEM. */
int zip_deflate(int zip, const uint8_t *p, size_t n, struct buf *out);

#endif
