/* synth.h - a random Qwen3 checkpoint in memory, of any shape: what tests of the pass run on without a file.
 *
 * Weights are drawn from a fixed generator, so a seed names a model on every machine. */
#ifndef TESTS_LIB_SYNTH_H
#define TESTS_LIB_SYNTH_H

#include "model/model.h"

/* The next 64 bits of a generator (xorshift64*; Marsaglia 2003, Vigna 2016). */
uint64_t synth_next(uint64_t *state);
float synth_uniform(uint64_t *state); /* [-1, 1) */

/* The shape is taken from g (tied, experts and YaRN included); type: of the matrices, any but TENSOR_OTHER, whose blocks must
 * divide the widths.  Norms and routers are floats.  Aborts when memory is out. */
struct model *synth_model_new(const struct config *g, int type, uint64_t seed);
/* The same without data: only a GPU's backend opens it, and makes values of its own up (target/cuda/make.cu). */
struct model *synth_model_shape(const struct config *g, int type);
void synth_model_free(struct model *m);

#endif
