/* builtins.h - the CUDA builtins that kernels may use, for the host lane. */
#ifndef HOSTSIM_BUILTINS_H
#define HOSTSIM_BUILTINS_H

#include <math.h>
#include <string.h>

#include "hostsim.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__
#define __shared__                                                                                           \
    static_assert(false, "static shared memory is declared by SMEM(type, name, dims): launch.h");

static const int warpSize = 32;

/* --- barriers and fences --- */

#define __syncthreads()        ((void) hostsim::block_sync(hostsim::VOTE_NONE, 0))
#define __syncthreads_count(p) hostsim::block_sync(hostsim::VOTE_COUNT, (p) != 0)
#define __syncthreads_and(p)   hostsim::block_sync(hostsim::VOTE_AND, (p) != 0)
#define __syncthreads_or(p)    hostsim::block_sync(hostsim::VOTE_OR, (p) != 0)
#define __threadfence()        hostsim::fence_note()
#define __threadfence_block()  ((void) 0)
#define __threadfence_system() hostsim::fence_note()
#define __trap()               hostsim::fault("__trap()")
#define __nanosleep(ns)        ((void) (ns))

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    hostsim::warp_sync(mask);
}

/* --- warp exchange --- */

namespace hostsim
{
template <typename T> static inline T shuffle(enum warp_shuffle kind, unsigned mask, T v, int lane, int width)
{
    static_assert(sizeof(T) <= 8, "shuffles take at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    bits = warp_shuffle(kind, mask, bits, lane, width);
    memcpy(&v, &bits, sizeof v);
    return v;
}
template <typename T> static inline uint64_t bits_of(T v)
{
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    return bits;
}
} // namespace hostsim

template <typename T> static inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32)
{
    return hostsim::shuffle(hostsim::SHUFFLE_IDX, mask, v, lane, width);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32)
{
    return hostsim::shuffle(hostsim::SHUFFLE_UP, mask, v, (int) delta, width);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32)
{
    return hostsim::shuffle(hostsim::SHUFFLE_DOWN, mask, v, (int) delta, width);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32)
{
    return hostsim::shuffle(hostsim::SHUFFLE_XOR, mask, v, lanes, width);
}
static inline unsigned __ballot_sync(unsigned mask, int p)
{
    return hostsim::warp_ballot(mask, p);
}
static inline int __any_sync(unsigned mask, int p)
{
    return hostsim::warp_ballot(mask, p) != 0;
}
static inline int __all_sync(unsigned mask, int p)
{
    return hostsim::warp_ballot(mask, !p) == 0;
}
template <typename T> static inline unsigned __match_any_sync(unsigned mask, T v)
{
    return hostsim::warp_match(mask, hostsim::bits_of(v));
}
static inline unsigned __activemask(void)
{
    return hostsim::active_mask();
}

#define HOSTSIM_REDUCE(name, kind, type)                                                                     \
    static inline type name(unsigned mask, type v)                                                           \
    {                                                                                                        \
        return (type) hostsim::warp_reduce(hostsim::kind, mask, (int64_t) v);                                \
    }
HOSTSIM_REDUCE(__reduce_add_sync, REDUCE_ADD, int)
HOSTSIM_REDUCE(__reduce_add_sync, REDUCE_ADD, unsigned)
HOSTSIM_REDUCE(__reduce_min_sync, REDUCE_MIN, int)
HOSTSIM_REDUCE(__reduce_min_sync, REDUCE_MIN, unsigned)
HOSTSIM_REDUCE(__reduce_max_sync, REDUCE_MAX, int)
HOSTSIM_REDUCE(__reduce_max_sync, REDUCE_MAX, unsigned)
HOSTSIM_REDUCE(__reduce_and_sync, REDUCE_AND, unsigned)
HOSTSIM_REDUCE(__reduce_or_sync, REDUCE_OR, unsigned)
HOSTSIM_REDUCE(__reduce_xor_sync, REDUCE_XOR, unsigned)
#undef HOSTSIM_REDUCE

/* --- atomics: integers only; a float sum in arrival order has no place in an exact engine --- */

/* Told to the race check as one atomic access, not as a read and a write. */
#define HOSTSIM_UNCHECKED __attribute__((no_sanitize("thread"), noinline))

#define HOSTSIM_ATOMIC(name, expression)                                                                     \
    template <typename T, typename V> HOSTSIM_UNCHECKED static T name(T *p, V value)                         \
    {                                                                                                        \
        static_assert((T) 1 / 2 == 0, "float atomics add in the order of arrival");                          \
        hostsim::atomic_note(p, sizeof *p);                                                                  \
        T v = (T) value, old = *(volatile T *) p;                                                            \
        *(volatile T *) p = (expression);                                                                    \
        return old;                                                                                          \
    }
HOSTSIM_ATOMIC(atomicAdd, (T) (old + v))
HOSTSIM_ATOMIC(atomicSub, (T) (old - v))
HOSTSIM_ATOMIC(atomicExch, v)
HOSTSIM_ATOMIC(atomicMin, old < v ? old : v)
HOSTSIM_ATOMIC(atomicMax, old > v ? old : v)
HOSTSIM_ATOMIC(atomicAnd, (T) (old &v))
HOSTSIM_ATOMIC(atomicOr, (T) (old | v))
HOSTSIM_ATOMIC(atomicXor, (T) (old ^ v))
HOSTSIM_ATOMIC(atomicInc, old >= v ? 0 : (T) (old + 1))
HOSTSIM_ATOMIC(atomicDec, old == 0 || old > v ? v : (T) (old - 1))
#undef HOSTSIM_ATOMIC

template <typename T> HOSTSIM_UNCHECKED static T atomicCAS(T *p, T expected, T v)
{
    hostsim::atomic_note(p, sizeof *p);
    T old = *(volatile T *) p;
    *(volatile T *) p = old == expected ? v : old;
    return old;
}

/* --- loads with a cache hint, bits, arithmetic --- */

template <typename T> static inline T __ldg(const T *p)
{
    hostsim::check_access(p, alignof(T), "__ldg");
    return *p;
}
template <typename T> static inline T __ldcs(const T *p)
{
    hostsim::check_access(p, alignof(T), "__ldcs");
    return *p;
}
template <typename T> static inline T __ldcg(const T *p)
{
    hostsim::check_access(p, alignof(T), "__ldcg");
    return *p;
}
template <typename T> static inline void __stcs(T *p, T v)
{
    hostsim::check_access(p, alignof(T), "__stcs");
    *p = v;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned) x) : 32;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long) x) : 64;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned) ((unsigned long long) a * b >> 32);
}
static inline unsigned __float_as_uint(float x)
{
    return (unsigned) hostsim::bits_of(x);
}
static inline int __float_as_int(float x)
{
    return (int) hostsim::bits_of(x);
}
static inline float __uint_as_float(unsigned u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline float __int_as_float(int u)
{
    return __uint_as_float((unsigned) u);
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    unsigned long long both = (unsigned long long) b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned) (both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline float __frcp_rn(float a)
{
    return 1.0f / a;
}
static inline int __float2int_rn(float x)
{
    return (int) rintf(x);
}

#define HOSTSIM_MIN_MAX(type)                                                                                \
    static inline type min(type a, type b)                                                                   \
    {                                                                                                        \
        return a < b ? a : b;                                                                                \
    }                                                                                                        \
    static inline type max(type a, type b)                                                                   \
    {                                                                                                        \
        return a > b ? a : b;                                                                                \
    }
HOSTSIM_MIN_MAX(int)
HOSTSIM_MIN_MAX(unsigned)
HOSTSIM_MIN_MAX(long)
HOSTSIM_MIN_MAX(unsigned long)
HOSTSIM_MIN_MAX(long long)
HOSTSIM_MIN_MAX(unsigned long long)
#undef HOSTSIM_MIN_MAX
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}

#endif
