/* jdoc.c - any bytes as JSON: refused with a sentence, or written out in a form that reads back as itself. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/jdoc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct jdoc d, again;
    struct jout first = {0}, second = {0};
    struct err e = {0};
    int st = jdoc_parse(&d, (const char *) data, size, &e);
    if (st < 0) {
        if (e.status != st || !e.text[0] || d.node)
            abort();
        return 0;
    }
    jout_node(&first, d.node);
    st = jdoc_parse(&again, first.p, first.n, &e);
    /* 1e999 is written as Infinity, as Python does, which is no JSON. */
    if (st < 0 && !memmem(first.p, first.n, "Infinity", 8))
        abort();
    if (st == 0) {
        jout_node(&second, again.node);
        if (again.n != d.n || first.n != second.n || memcmp(first.p, second.p, first.n) != 0)
            abort();
        jdoc_free(&again);
    }
    jout_free(&first);
    jout_free(&second);
    jdoc_free(&d);
    return 0;
}
