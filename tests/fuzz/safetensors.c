/* safetensors.c - fuzz: the bytes of one model.safetensors.  What is accepted must lie inside the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct safetensors *s, int i, const uint8_t *data, size_t size)
{
    const struct tensor *t = safetensors_at(s, i);
    const uint8_t *p = t->data;
    if (p < data || p > data + size || t->bytes > (size_t) (data + size - p))
        abort();
    if (safetensors_find(s, t->name) != t || (i && strcmp(safetensors_at(s, i - 1)->name, t->name) >= 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *s;
    struct err e = {0};
    int st = safetensors__open_bytes(&s, data, size, &e);
    if (st && (s || e.status != st || !strstr(e.text, "model.safetensors")))
        abort();
    for (int i = 0; s && i < safetensors_count(s); i++)
        check(s, i, data, size);
    safetensors_close(s);
    return 0;
}
