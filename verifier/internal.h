/* internal.h - what the files of verifier/ share: the specification's open verifier, and its twin on a device.
 *
 * The twin draws at every node of every tree at once, though a walk will visit few of them: what a node's draw depends on besides
 * its logits is fixed by the tokens above it, so the host says all of it beforehand and the walk itself is a few integers. */
#ifndef VERIFIER_INTERNAL_H
#define VERIFIER_INTERNAL_H

#include "verifier/verifier.h"

struct verifier_cuda; /* everything on the device; opened by the first jobs that lie there */

/* ST_UNSUPPORTED in a build without CUDA; ST_NOMEM. */
int verifier__cuda_open(struct verifier_cuda **out, int32_t vocab, int32_t jobs_max);
void verifier__cuda_close(struct verifier_cuda *v); /* NULL is fine */
/* verifier_submit for rows in device memory: job[i].path is PATH_PENDING until target_wait. */
int verifier__cuda_submit(struct verifier_cuda *v, const struct verifier_job *job, int n);

#endif
