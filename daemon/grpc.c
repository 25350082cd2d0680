/* grpc.c - see grpc.h. */
#include "daemon/grpc.h"

#include <string.h>

#include "core/status.h"

int grpc_timeout_parse(const char *s, size_t n, uint64_t *ns)
{
    static const struct {
        char unit;
        uint64_t ns;
    } units[] = {
        {'H', UINT64_C(3600000000000)},
        {'M', UINT64_C(60000000000)},
        {'S', 1000000000},
        {'m', 1000000},
        {'u', 1000},
        {'n', 1},
    };
    uint64_t v = 0;
    if (n < 2 || n > 9)
        return ST_INPUT;
    for (size_t i = 0; i + 1 < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return ST_INPUT;
        v = v * 10 + (uint64_t) (s[i] - '0');
    }
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (units[i].unit == s[n - 1]) {
            *ns = v > INT64_MAX / units[i].ns ? INT64_MAX : v * units[i].ns;
            return 0;
        }
    return ST_INPUT;
}

/* Bytes of the character at s; a stray byte is one of its own. */
static size_t char_bytes(const char *s)
{
    unsigned char b = (unsigned char) *s;
    size_t n = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc0 ? 2 : 1;
    for (size_t i = 1; i < n; i++)
        if (((unsigned char) s[i] & 0xc0) != 0x80)
            return 1;
    return n;
}

size_t grpc_message_encode(const char *text, char out[GRPC_MESSAGE_MAX + 1])
{
    static const char hex[] = "0123456789ABCDEF";
    size_t at = 0;
    while (*text) {
        size_t n = char_bytes(text);
        int plain = n == 1 && *text >= 0x20 && *text <= 0x7e && *text != '%';
        if (at + (plain ? 1 : 3 * n) > GRPC_MESSAGE_MAX)
            break;
        for (; n; n--, text++) {
            unsigned char b = (unsigned char) *text;
            if (!plain) {
                out[at++] = '%';
                out[at++] = hex[b >> 4];
            }
            out[at++] = plain ? *text : hex[b & 15];
        }
    }
    out[at] = 0;
    return at;
}

int grpc_content_type_ok(const char *s, size_t n)
{
    static const char type[] = "application/grpc", proto[] = "+proto";
    size_t len = sizeof type - 1;
    if (n < len || memcmp(s, type, len) != 0)
        return 0;
    s += len;
    n -= len;
    if (n >= sizeof proto - 1 && memcmp(s, proto, sizeof proto - 1) == 0) {
        s += sizeof proto - 1;
        n -= sizeof proto - 1;
    }
    return n == 0 || *s == ';' || *s == ' ';
}

void grpc_prefix_put(uint8_t out[GRPC_PREFIX_BYTES], int compressed, uint32_t bytes)
{
    out[0] = compressed != 0;
    for (int i = 0; i < 4; i++)
        out[1 + i] = (uint8_t) (bytes >> (24 - 8 * i));
}

uint32_t grpc_prefix_bytes(const uint8_t prefix[GRPC_PREFIX_BYTES])
{
    return (uint32_t) prefix[1] << 24 | (uint32_t) prefix[2] << 16 | (uint32_t) prefix[3] << 8 | prefix[4];
}
