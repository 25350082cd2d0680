/* math.h - sin and cos in double, and the rotation tables made of them, the same bits on every machine.
 *
 * libm picks its code by CPU and changes between releases; these are fixed sequences of IEEE operations.  Pure functions. */
#ifndef CPU_MATH_H
#define CPU_MATH_H

#include "model/config.h"

/* |x| <= 2^27 (a float angle of any position a model reaches); error below 3e-16. */
void cpu__math_sincos(double x, double *sine, double *cosine);

/* inv_freq[i] = fl(1 / fl(theta^fl(2i / head_dim))) for i < head_dim / 2: the reference's float steps, the power rounded once.
 * With g->yarn, stretched as transformers' _compute_yarn_parameters does. */
void cpu__rope_freqs(const struct config *g, float *inv_freq);
/* Sine and cosine of the float angle fl(pos) * inv_freq[i], each rounded once, then times `factor`. */
void cpu__rope_angles(const float *inv_freq, int half, int pos, float factor, float *cosines, float *sines);

#endif
