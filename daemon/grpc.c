/* grpc.c - see grpc.h. */
#include "daemon/grpc.h"

#include <string.h>

#include "core/status.h"
#include "model/utf8.h"

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

static size_t percent(char *out, const char *s, size_t n)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char) s[i];
        out[3 * i] = '%';
        out[3 * i + 1] = hex[b >> 4];
        out[3 * i + 2] = hex[b & 15];
    }
    return 3 * n;
}

size_t grpc_message_encode(const char *text, char out[GRPC_MESSAGE_MAX + 1])
{
    static const char unknown[] = "\xef\xbf\xbd"; /* U+FFFD */
    size_t at = 0, left = strlen(text);
    for (int n; left; text += n, left -= (size_t) n) {
        int whole = utf8_step(text, left, &n) == UTF8_WHOLE;
        int plain = n == 1 && *text >= 0x20 && *text <= 0x7e && *text != '%';
        size_t bytes = whole ? (size_t) n : sizeof unknown - 1;
        if (at + (plain ? 1 : 3 * bytes) > GRPC_MESSAGE_MAX)
            break;
        if (plain)
            out[at++] = *text;
        else
            at += percent(out + at, whole ? text : unknown, bytes);
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
