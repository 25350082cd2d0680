/* safetensors.c - fuzz: the bytes of one model.safetensors.  What is accepted must lie inside the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/read.h"
#include "tests/lib/json_mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t cap);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t cap, unsigned seed);

/* One in four blind; else the header as JSON, padded and with its right length, before as many bytes of data as before. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t cap, unsigned seed)
{
    uint64_t n = 0;
    if (size >= 8)
        memcpy(&n, data, 8);
    if (seed % 4 == 0 || size < 8 || n > size - 8 || cap < size + 8)
        return LLVMFuzzerMutate(data, size, cap);
    size_t tail = size - 8 - n, room = cap - 8 - tail - 8, len = json_mutate(data + 8, n, room, seed);
    if (!len)
        return size;
    for (; len % 8; len++)
        data[8 + len] = ' ';
    for (size_t i = 0; i < tail; i++)
        data[8 + len + i] = (uint8_t) i;
    n = len;
    memcpy(data, &n, 8);
    return 8 + len + tail;
}

static void check(const struct safetensors *s, int i, const uint8_t *data, size_t size)
{
    const struct tensor *all = safetensors_tensors(s), *t = &all[i];
    const uint8_t *p = t->data;
    if (p < data || p > data + size || t->bytes > (size_t) (data + size - p))
        abort();
    if (tensor_find(all, safetensors_count(s), t->name) != t || (i && strcmp(all[i - 1].name, t->name) >= 0))
        abort();
    if (t->scale && (t->type != TENSOR_F8_E4M3 || t->scale < all || t->scale >= all + safetensors_count(s)))
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
