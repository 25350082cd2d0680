/* grpc_code.c - tables of grpc/grpc doc/statuscodes.md, PROTOCOL-HTTP2.md "Errors" and http-grpc-status-mapping.md. */
#include "client/grpc_code.h"

#include "core/status.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int status;
} codes[GRPC_N_CODES] = {
    {"OK", ST_OK},
    {"CANCELLED", ST_CANCELLED},
    {"UNKNOWN", ST_WIRE},
    {"INVALID_ARGUMENT", ST_INPUT},
    {"DEADLINE_EXCEEDED", ST_DEADLINE},
    {"NOT_FOUND", ST_NOTFOUND},
    {"ALREADY_EXISTS", ST_INPUT},
    {"PERMISSION_DENIED", ST_PRECONDITION},
    {"RESOURCE_EXHAUSTED", ST_LIMIT},
    {"FAILED_PRECONDITION", ST_PRECONDITION},
    {"ABORTED", ST_UNAVAILABLE},
    {"OUT_OF_RANGE", ST_INPUT},
    {"UNIMPLEMENTED", ST_UNSUPPORTED},
    {"INTERNAL", ST_WIRE},
    {"UNAVAILABLE", ST_UNAVAILABLE},
    {"DATA_LOSS", ST_WIRE},
    {"UNAUTHENTICATED", ST_PRECONDITION},
};

const char *grpc_code_name(int code)
{
    return codes[code].name;
}

int grpc_code_status(int code)
{
    return codes[code].status;
}

int grpc_code_of_reset(uint32_t reset)
{
    switch (reset) {
    case NGHTTP2_REFUSED_STREAM:
        return GRPC_UNAVAILABLE;
    case NGHTTP2_CANCEL:
        return GRPC_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return GRPC_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY:
        return GRPC_PERMISSION;
    default:
        return GRPC_INTERNAL;
    }
}

int grpc_code_of_http(int http)
{
    switch (http) {
    case 400:
        return GRPC_INTERNAL;
    case 401:
        return GRPC_UNAUTHENTICATED;
    case 403:
        return GRPC_PERMISSION;
    case 404:
        return GRPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return GRPC_UNAVAILABLE;
    default:
        return GRPC_UNKNOWN;
    }
}

void grpc_code_message(const uint8_t *p, size_t n, char *out, size_t cap)
{
    size_t at = 0;
    for (size_t i = 0; i < n && at < cap - 1; i++) {
        char hex[3] = {0};
        unsigned byte = p[i];
        if (byte == '%' && i + 2 < n)
            memcpy(hex, p + i + 1, 2);
        if (strspn(hex, "0123456789abcdefABCDEF") == 2) {
            byte = (unsigned) strtoul(hex, NULL, 16);
            i += 2;
        }
        out[at++] = byte ? (char) byte : '?';
    }
    out[at] = 0;
}
