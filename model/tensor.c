/* tensor.c - see tensor.h. */
#include "model/tensor.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int block, bytes;
} types[] = {
    [TENSOR_F32] = {"F32", 1, 4},       [TENSOR_BF16] = {"BF16", 1, 2},
    [TENSOR_F16] = {"F16", 1, 2},       [TENSOR_F8_E4M3] = {"F8_E4M3", 1, 1},
    [TENSOR_Q8_0] = {"Q8_0", 32, 34},   [TENSOR_Q4_0] = {"Q4_0", 32, 18},
    [TENSOR_Q4_K] = {"Q4_K", 256, 144}, [TENSOR_Q6_K] = {"Q6_K", 256, 210},
    [TENSOR_OTHER] = {"other", 0, 0},
};

const char *tensor_type_name(int type)
{
    return types[type].name;
}

int tensor_block(int type)
{
    return types[type].block;
}

size_t tensor_block_bytes(int type)
{
    return (size_t) types[type].bytes;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *) a)->name, ((const struct tensor *) b)->name);
}

const struct tensor *tensor_find(const struct tensor *list, int n, const char *name)
{
    struct tensor key = {.name = name};
    return n ? bsearch(&key, list, (size_t) n, sizeof key, by_name) : NULL;
}
