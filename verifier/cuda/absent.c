/* absent.c - in the place of the verifier's twin, in a build without CUDA: no logits lie on a device there. */
#include "verifier/internal.h"

int verifier__cuda_open(struct verifier_cuda **out, int32_t vocab, int32_t jobs_max)
{
    (void) vocab;
    (void) jobs_max;
    *out = NULL;
    return ST_UNSUPPORTED;
}

void verifier__cuda_close(struct verifier_cuda *v)
{
    (void) v;
}

int verifier__cuda_submit(struct verifier_cuda *v, const struct verifier_job *job, int n)
{
    (void) v;
    (void) job;
    (void) n;
    return ST_UNSUPPORTED;
}
