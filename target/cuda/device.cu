/* device.cu - one device: memory that it owns as a whole, copies, one stream, and the first error, which stays.
 *
 * Nothing here runs before --device asks for it: the runtime is linked statically and looks for the driver itself, so a machine
 * without one is told so in a sentence.  A pass is posted without a check a line: failures are noted, the first one comes out of
 * cuda__dev_wait, and after it the device's context is lost (target.h: ST_DEVICE is fatal). */
#include "core/cuda/launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "core/log.h"
#include "target/cuda/inside.h"
}

enum { CAPABILITY_MIN = 80, ALLOCATIONS_MAX = 64 };

struct cuda_dev {
    int index;
    cudaStream_t stream;
    void *device[ALLOCATIONS_MAX], *pinned[ALLOCATIONS_MAX]; /* own */
    int n_device, n_pinned;
    int error;          /* cudaError_t; the first that was noted */
    const char *failed; /* what it was noted of */
    int logged;
};

static int no_device(struct err *e, int32_t index, int n)
{
    return err_set(e, ST_UNSUPPORTED,
                   "there is no CUDA device %d: this machine has %d, counted from 0; --device cpu needs none",
                   index, n);
}

extern "C" int cuda__find(int32_t index, struct cuda_found *out, struct err *e)
{
    int n = 0;
    size_t free_bytes = 0, bytes = 0;
    struct cudaDeviceProp p;
    cudaError_t st = cudaGetDeviceCount(&n);
    memset(out, 0, sizeof *out);
    cudaGetLastError();
    if (st == cudaErrorInsufficientDriver)
        return err_set(
            e, ST_UNSUPPORTED,
            "no CUDA driver, or one too old for this build's toolkit (%s); install the driver of the "
            "card, or run with --device cpu",
            cudaGetErrorString(st));
    if (st || index >= n)
        return no_device(e, index, st ? 0 : n);
    CUDA_TRY(e, cudaGetDeviceProperties(&p, index));
    out->capability = p.major * 10 + p.minor;
    out->processors = p.multiProcessorCount;
    snprintf(out->name, sizeof out->name, "%.*s", (int) sizeof out->name - 1, p.name);
    if (out->capability < CAPABILITY_MIN)
        return err_set(
            e, ST_UNSUPPORTED,
            "CUDA device %d, %s, has compute capability %d.%d: %d.%d is the least these kernels need", index,
            p.name, p.major, p.minor, CAPABILITY_MIN / 10, CAPABILITY_MIN % 10);
    CUDA_TRY(e, cudaSetDevice(index));
    CUDA_TRY(e, cudaMemGetInfo(&free_bytes, &bytes));
    out->free = (int64_t) free_bytes;
    out->bytes = (int64_t) bytes;
    return 0;
}

extern "C" int cuda__dev_open(struct cuda_dev **out, int32_t index, struct err *e)
{
    struct cuda_dev *d = (struct cuda_dev *) calloc(1, sizeof *d);
    *out = NULL;
    if (!d)
        return err_set(e, ST_NOMEM, "out of memory opening CUDA device %d", index);
    int st = cuda_status(cudaSetDevice(index), "cudaSetDevice", e);
    if (!st)
        st = cuda_status(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking),
                         "cudaStreamCreateWithFlags", e);
    if (st) {
        free(d);
        return st;
    }
    d->index = index;
    *out = d;
    return 0;
}

extern "C" void cuda__dev_use(struct cuda_dev *d)
{
    cuda__note(d, cudaSetDevice(d->index), "choosing the device");
}

extern "C" void cuda__dev_close(struct cuda_dev *d)
{
    if (!d)
        return;
    for (int i = 0; i < d->n_device; i++)
        cudaFree(d->device[i]);
    for (int i = 0; i < d->n_pinned; i++)
        cudaFreeHost(d->pinned[i]);
    cudaStreamDestroy(d->stream);
    free(d);
}

extern "C" void *cuda__dev_stream(struct cuda_dev *d)
{
    return d->stream;
}

extern "C" void *cuda__alloc(struct cuda_dev *d, const char *what, size_t bytes, struct err *e)
{
    void *p = NULL;
    size_t free_bytes = 0, all = 0;
    cudaMemGetInfo(&free_bytes, &all);
    if (d->n_device == ALLOCATIONS_MAX || cudaMalloc(&p, bytes) != cudaSuccess) {
        cudaGetLastError();
        err_set(e, ST_NOMEM, "%s: %zu bytes of device memory needed, %zu free of %zu", what, bytes,
                free_bytes, all);
        return NULL;
    }
    d->device[d->n_device++] = p;
    cudaError_t st = cudaMemsetAsync(p, 0, bytes, d->stream);
    if (st == cudaSuccess)
        st = cudaStreamSynchronize(d->stream);
    return cuda_status(st, what, e) ? NULL : p;
}

extern "C" void *cuda__alloc_host(struct cuda_dev *d, const char *what, size_t bytes, struct err *e)
{
    void *p = NULL;
    if (d->n_pinned == ALLOCATIONS_MAX || cudaMallocHost(&p, bytes) != cudaSuccess) {
        cudaGetLastError();
        err_set(e, ST_NOMEM, "%s: no %zu bytes of pinned memory", what, bytes);
        return NULL;
    }
    d->pinned[d->n_pinned++] = p;
    memset(p, 0, bytes);
    return p;
}

extern "C" int cuda__put(struct cuda_dev *d, void *to, const void *from, size_t bytes, struct err *e)
{
    CUDA_TRY(e, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, d->stream));
    CUDA_TRY(e, cudaStreamSynchronize(d->stream));
    return 0;
}

extern "C" int cuda__get(struct cuda_dev *d, void *to, const void *from, size_t bytes, struct err *e)
{
    CUDA_TRY(e, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, d->stream));
    CUDA_TRY(e, cudaStreamSynchronize(d->stream));
    return 0;
}

extern "C" void cuda__note(struct cuda_dev *d, int error, const char *what)
{
    if (error == cudaSuccess || d->error)
        return;
    d->error = error;
    d->failed = what;
}

extern "C" void cuda__post(struct cuda_dev *d, void *to, const void *from, size_t bytes)
{
    cuda__note(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, d->stream),
               "a copy to the device");
}

extern "C" int cuda__dev_wait(struct cuda_dev *d)
{
    struct err e;
    cuda__note(d, cudaStreamSynchronize(d->stream), "a pass");
    int st = cuda_status((cudaError_t) d->error, d->failed, &e);
    if (st && !d->logged)
        log_error("CUDA: %s", e.text);
    d->logged = st != 0;
    return st ? ST_DEVICE : 0;
}
