/* grpc.h - the words of gRPC over HTTP/2 as pure functions (grpc/grpc doc/PROTOCOL-HTTP2.md). */
#ifndef DAEMON_GRPC_H
#define DAEMON_GRPC_H

#include <stddef.h>
#include <stdint.h>

enum grpc_code {
    GRPC_OK = 0,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
};

enum { GRPC_PREFIX_BYTES = 5 }; /* compressed flag, then the message's length, big-endian */

/* grpc-message is cut here: peers limit trailers to 8 KiB, and a sentence needs no more. */
enum { GRPC_MESSAGE_MAX = 1024 };

/* grpc-timeout: 1 to 8 digits and a unit of H M S m u n.  0 and *ns (saturating), or ST_INPUT. */
int grpc_timeout_parse(const char *s, size_t n, uint64_t *ns);

/* Percent-encodes text for grpc-message, NUL-terminated; cut before a character that does not fit.  Bytes that are no UTF-8, such as
 * half a character where a sentence quotes the beginning of a client's word, become U+FFFD.  Returns its length. */
size_t grpc_message_encode(const char *text, char out[GRPC_MESSAGE_MAX + 1]);

/* 1: application/grpc or application/grpc+proto, parameters allowed. */
int grpc_content_type_ok(const char *s, size_t n);

void grpc_prefix_put(uint8_t out[GRPC_PREFIX_BYTES], int compressed, uint32_t bytes);
uint32_t grpc_prefix_bytes(const uint8_t prefix[GRPC_PREFIX_BYTES]);

#endif
