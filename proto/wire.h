/* wire.h - protobuf's wire format by hand, where protobuf-c falls short.  Shared inside proto/ only.
 *
 * protobuf-c 1.4.1 does not check UTF-8, cuts strings at a NUL, and strlen()s what it packs.  So requests are
 * scanned before they are unpacked, and Delta, whose text may hold a NUL, is written here. */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <protobuf-c/protobuf-c.h>

#include "proto/codec.h"

/* Walks a message by its descriptor: 0, ST_WIRE (malformed), ST_INPUT (a string with NUL or invalid UTF-8). */
int proto__scan(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n, struct err *e);

/* Offset of the first byte that does not begin or continue a character; n if all is well. */
size_t proto__utf8_bad(const uint8_t *p, size_t n);

/* Event{delta}. */
int proto__delta_encode(const struct proto_delta *d, struct buf *out);

#endif
