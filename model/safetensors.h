/* safetensors.h - tensors of a Hugging Face directory, memory-mapped and checked before use.
 *
 * Source: huggingface/safetensors README "Format": u64 little-endian header length, JSON header, data.  Single file
 * (model.safetensors) or sharded (model.safetensors.index.json).  Every offset, shape and dtype is checked against
 * the file before a byte of it is used.
 *
 * A tensor X whose scales are stored beside it as X_scale_inv (FP8) points at them; whether they fit is model.c's matter. */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "model/tensor.h"

struct safetensors;

/* Maps model.safetensors, or, without it, every file its index names; tensors the index does not list are left out.
 * ST_IO, ST_FORMAT, ST_NOMEM; *out is NULL on failure and e names file, tensor, expected and found. */
int safetensors_open(struct safetensors **out, const char *dir, struct err *e);
void safetensors_close(struct safetensors *s); /* NULL is fine */

int safetensors_count(const struct safetensors *s);
const struct tensor *
safetensors_tensors(const struct safetensors *s); /* (safetensors_count), sorted by name */

#endif
