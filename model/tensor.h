/* tensor.h - one tensor of a checkpoint, wherever its bytes lie: in a safetensors file, a GGUF file, or memory.
 *
 * Rows are contiguous.  A quantized row is a whole number of blocks, laid out as ggml lays them out (ggml-common.h). */
#ifndef MODEL_TENSOR_H
#define MODEL_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum tensor_type {
    TENSOR_F32,
    TENSOR_BF16,
    TENSOR_F16,
    TENSOR_F8_E4M3, /* `scale` says what a stored value counts */
    TENSOR_Q8_0,    /* blocks of 32 inputs: FP16 d, 32 int8 */
    TENSOR_Q4_0, /* blocks of 32: FP16 d, 16 bytes; input i in the low half of byte i, i + 16 in the high; offset 8 */
    TENSOR_Q4_K, /* blocks of 256, 144 bytes */
    TENSOR_Q6_K, /* blocks of 256, 210 bytes */
    TENSOR_OTHER
};

enum { TENSOR_DIMS_MAX = 8, TENSOR_SCALE_BLOCK = 128 };

struct tensor {
    const char *name; /* borrows from the open model, as all below */
    const char *file; /* base name of the file it lies in */
    int32_t type;     /* enum tensor_type */
    char dtype[12];   /* as the file spells it */
    int32_t n_dims;
    int64_t dim[TENSOR_DIMS_MAX]; /* outermost first */
    const void *data;             /* read-only; not always aligned */
    size_t bytes;
    int32_t
        mapped; /* 1: data lies in a file mapping, whose pages may be dropped and are read again when needed */
    const struct tensor
        *scale; /* F8_E4M3: weight_scale_inv, one factor a block of 128 x 128, (ceil(dim / 128) of
                                 * both), F32 or BF16; else NULL */
};

const char *tensor_type_name(int type);
int tensor_block(int type);          /* inputs a block: 1, 32 or 256; 0: TENSOR_OTHER */
size_t tensor_block_bytes(int type); /* bytes a block; 0: TENSOR_OTHER */

/* The tensor of that name in a list sorted by name (strcmp); NULL: none. */
const struct tensor *tensor_find(const struct tensor *list, int n, const char *name);

#endif
