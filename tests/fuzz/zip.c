/* zip.c - arbitrary bytes as a compressed message: what comes out is bounded; and compressed by us, they come back whole.
 *
 * The first byte chooses the format, the second the limit. */
#include <stdlib.h>
#include <string.h>

#include "daemon/zip.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct buf out = {0}, small = {0};
    struct err e = {0};
    if (n < 2)
        return 0;
    int zip = p[0] & 1 ? ZIP_GZIP : ZIP_DEFLATE;
    size_t most = (size_t) p[1] << 8;
    int st = zip_inflate(zip, p + 2, n - 2, most, &out, &e);
    if (buf_len(&out) > most || (st && (st != e.status || !e.text[0])))
        abort();
    buf_free(&out);
    if (zip_deflate(zip, p + 2, n - 2, &small) == 1) {
        if (zip_inflate(zip, buf_front(&small), buf_len(&small), n - 2, &out, &e) || buf_len(&out) != n - 2 ||
            memcmp(buf_front(&out), p + 2, n - 2) != 0)
            abort();
    }
    zip_accepted((const char *) p, n);
    buf_free(&small);
    buf_free(&out);
    return 0;
}
