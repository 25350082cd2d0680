/* copy.cpp - copies and memset.
 *
 * A copy to the host poisons its pinned destination when it is posted, so that reading before waiting shows.  From pageable memory a copy
 * is staged at once, into pageable memory it waits, as CUDA does. */
#include "runtime.h"

#include <stdio.h>

namespace sim
{

bool is_pinned(const void *p, size_t n)
{
    auto i = pinned.upper_bound((const char *) p);
    if (i == pinned.begin())
        return false;
    --i;
    return (const char *) p + n <= i->first + i->second;
}

static bool is_read_later(const void *p, size_t n)
{
    for (const struct hostsim_stream *s : streams)
        for (const struct op &op : s->queue)
            if (op.host_source && (const char *) op.host_source < (const char *) p + n &&
                (const char *) p < (const char *) op.host_source + op.host_bytes)
                return true;
    return false;
}

static cudaError_t copy_check(const void *dst, const void *src, size_t n, enum cudaMemcpyKind kind, bool *to,
                              bool *from)
{
    char text[400];
    *to = heap_near(dst);
    *from = heap_near(src);
    bool want_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool want_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if ((kind != cudaMemcpyDefault && (want_to != *to || want_from != *from)) ||
        (*to && !heap_contains(dst, n)) || (*from && !heap_contains(src, n))) {
        snprintf(text, sizeof text, "a copy of %zu bytes, kind %d, to %s from %s", n, (int) kind,
                 describe(dst).c_str(), describe(src).c_str());
        return refuse(cudaErrorInvalidValue, text);
    }
    return cudaSuccess;
}

static void count_copy(size_t n, bool to, bool from)
{
    if (to && !from) {
        counters.bytes_to_device += n;
        counters.copies_to_device++;
    } else if (from && !to) {
        counters.bytes_to_host += n;
        counters.copies_to_host++;
        counters.most_to_host = n > counters.most_to_host ? n : counters.most_to_host;
    }
}

static void copy_now(void *dst, const void *src, size_t n, bool to, bool from)
{
    heap_open();
    if (from)
        check_read(src, n);
    memcpy(dst, src, n);
    if (to)
        check_host_wrote(dst, n);
    heap_close();
}

static cudaError_t copy_post(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                             struct hostsim_stream *s)
{
    bool to, from;
    if (!n)
        return cudaSuccess;
    cudaError_t e = copy_check(dst, src, n, kind, &to, &from);
    if (e != cudaSuccess)
        return e;
    count_copy(n, to, from);
    struct op op = {};
    op.run = [=] {
        copy_now(dst, src, n, to, from);
        return cudaSuccess;
    };
    if (to && !from && !is_pinned(src, n)) {
        std::vector<char> staged((const char *) src, (const char *) src + n);
        op.run = [=] {
            copy_now(dst, staged.data(), n, true, false);
            return cudaSuccess;
        };
    } else if (to && !from) {
        op.host_source = src;
        op.host_bytes = n;
    } else if (from && !to && is_pinned(dst, n) && !is_read_later(dst, n)) {
        memset(dst, POISON, n);
    }
    post(s, std::move(op));
    if (from && !to && !is_pinned(dst, n))
        drain(s, ~(uint64_t) 0);
    return give(lost);
}

} // namespace sim

using namespace sim;

extern "C" {

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind, cudaStream_t s)
{
    ENTER("cudaMemcpyAsync");
    return copy_post(dst, src, n, kind, stream_of(s));
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind)
{
    ENTER("cudaMemcpy");
    cudaError_t e = copy_post(dst, src, n, kind, stream_of(0));
    drain(stream_of(0), ~(uint64_t) 0);
    return e != cudaSuccess ? e : give(lost);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t s)
{
    ENTER("cudaMemcpy2DAsync");
    for (size_t i = 0; i < height; i++) {
        cudaError_t e = copy_post((char *) dst + i * dst_pitch, (const char *) src + i * src_pitch, width,
                                  kind, stream_of(s));
        if (e != cudaSuccess)
            return e;
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s)
{
    ENTER("cudaMemsetAsync");
    if (!n)
        return cudaSuccess;
    if (!heap_contains(p, n))
        return refuse(cudaErrorInvalidValue,
                      ("cudaMemset of " + std::to_string(n) + " bytes at " + describe(p)).c_str());
    post(stream_of(s), [=] {
        memset(p, value, n);
        check_host_wrote(p, n);
        return cudaSuccess;
    });
    return cudaSuccess;
}

cudaError_t cudaMemset(void *p, int value, size_t n)
{
    return cudaMemsetAsync(p, value, n, 0);
}
}
