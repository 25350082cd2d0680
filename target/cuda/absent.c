/* absent.c - in the place of the CUDA backend, in a build without it. */
#include "target/internal.h"

static int absent(struct err *e)
{
    return err_set(e, ST_UNSUPPORTED,
                   "this outriderd was built without CUDA: build it with `make CUDA=1`, which needs nvcc, or "
                   "run with --device cpu");
}

int target__cuda_find(int32_t index, char *name, size_t bytes, struct err *e)
{
    (void) index;
    (void) name;
    (void) bytes;
    return absent(e);
}

int target__cuda_open(struct target_backend *b, const struct target_opts *o, int32_t ctx, int32_t n_pages,
                      struct err *e)
{
    (void) b;
    (void) o;
    (void) ctx;
    (void) n_pages;
    return absent(e);
}

int target__cuda_room(const struct target_opts *o, int32_t ctx, int64_t *bytes, struct err *e)
{
    (void) o;
    (void) ctx;
    (void) bytes;
    return absent(e);
}
