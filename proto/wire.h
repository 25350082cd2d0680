/* wire.h - protobuf's wire format by hand, where protobuf-c falls short.  Shared inside proto/ only.
 *
 * protobuf-c 1.4.1 does not check UTF-8, cuts strings at a NUL, and strlen()s what it packs.  So requests are
 * scanned before they are unpacked, and Delta, whose text may hold a NUL, is written here. */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <protobuf-c/protobuf-c.h>

#include "outrider/v1/inference.pb-c.h"
#include "proto/codec.h"

/* One field of a message. */
struct proto__field {
    uint32_t number;
    int wire;         /* wire type */
    const uint8_t *p; /* bytes and fixed-width numbers: what it holds */
    size_t n;
};

/* The next field of the bytes *p..end, which *p moves over.  1: *f is filled; 0: the end; ST_WIRE. */
int proto__field_get(const uint8_t **p, const uint8_t *end, struct proto__field *f);

/* Walks a message by its descriptor: 0, ST_WIRE (malformed), ST_INPUT (a string with NUL or invalid UTF-8). */
int proto__scan(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n, struct err *e);

/* Offset of the first byte that does not begin or continue a character; n if all is well. */
size_t proto__utf8_bad(const uint8_t *p, size_t n);

/* Scan, then unpack: *out is the message, which lives in a.  As proto__scan, or ST_LIMIT. */
int proto__unpack(const ProtobufCMessageDescriptor *d, const void *p, size_t n, struct arena *a, void *out,
                  struct err *e);
int proto__pack(const ProtobufCMessage *m, struct buf *out);
int proto__too_much(struct err *e); /* ST_LIMIT and its sentence */
char *proto__str(const char *s);    /* for packing; NULL is "" */
int proto__messages_from(size_t n, Outrider__V1__Message *const *from, struct arena *a,
                         struct proto_request *out);
void proto__resolved_to(const struct proto_resolved *r, Outrider__V1__Resolved *m);

/* One field of bytes or text; nothing where n is 0. */
int proto__bytes_encode(int number, const void *p, size_t n, struct buf *out);

/* Event{delta}. */
int proto__delta_encode(const struct proto_delta *d, struct buf *out);

#endif
