/* grpc_code.h - gRPC's status codes: their names, what the house calls them, and which one a broken call counts as. */
#ifndef CLIENT_GRPC_CODE_H
#define CLIENT_GRPC_CODE_H

#include <stddef.h>
#include <stdint.h>

/* Those that the client itself gives; the rest it only passes on. */
enum grpc_code {
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_DEADLINE = 4,
    GRPC_PERMISSION = 7,
    GRPC_EXHAUSTED = 8,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_UNAUTHENTICATED = 16,
    GRPC_N_CODES = 17,
};

const char *grpc_code_name(int code); /* 0 <= code < GRPC_N_CODES, as below */
int grpc_code_status(int code);       /* enum status */

/* A stream that was reset without a grpc-status: by its HTTP/2 error code. */
int grpc_code_of_reset(uint32_t reset);
/* An HTTP answer without a grpc-status: by its :status. */
int grpc_code_of_http(int http);

/* Percent-decodes a grpc-message, cut to cap - 1 bytes; what is no %XX stays as it is, as gRPC asks. */
void grpc_code_message(const uint8_t *p, size_t n, char *out, size_t cap);

#endif
