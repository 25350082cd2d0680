/* ptx.cuh - every instruction that C++ cannot say, each an inline function with two bodies: PTX, and the host lane's.
 *
 * The host lane's body is the specification: the fragment layouts below are those of the PTX ISA, and one test compares both
 * on a device.  Layout of a warp's registers, g = lane / 4, t = lane % 4, a pair of bf16 a register, the lower column (or row,
 * for B) in the low half:
 *
 *   mma.m16n8k16   A 16x16 row-major     a[0]: row g,   k 2t..  a[1]: row g+8, k 2t..  a[2]: row g, k 2t+8..  a[3]: row g+8, k 2t+8..
 *                  B 16x8  "col"         b[0]: k 2t.., column g        b[1]: k 2t+8.., column g
 *                  C, D 16x8 float       d[0], d[1]: row g, columns 2t, 2t+1      d[2], d[3]: row g+8, likewise
 *   ldmatrix.x4    matrix i: its row r is the 16 bytes that lane 8i+r points at; register i of a lane: row g, elements 2t, 2t+1
 *           .trans                       register i of a lane: rows 2t, 2t+1 of column g
 *
 * All warp functions are for whole warps: every lane of the warp calls them. */
#ifndef CORE_CUDA_PTX_CUH
#define CORE_CUDA_PTX_CUH

#include <cuda_runtime.h>

#include <stdint.h>

#define DEVICE      static __device__ __forceinline__
#define HOST_DEVICE static __host__ __device__ __forceinline__

/* --- element types --- */

struct __align__(2) bf16
{
    uint16_t bits;
};

struct e4m3 {
    uint8_t bits;
};

HOST_DEVICE uint32_t float_bits(float x)
{
    union {
        float f;
        uint32_t u;
    } v;
    v.f = x;
    return v.u;
}

HOST_DEVICE float bits_float(uint32_t u)
{
    union {
        uint32_t u;
        float f;
    } v;
    v.u = u;
    return v.f;
}

HOST_DEVICE float bf16_to_float(bf16 x)
{
    return bits_float((uint32_t) x.bits << 16);
}

/* Round to nearest even in integers; a NaN stays one. */
HOST_DEVICE bf16 float_to_bf16(float x)
{
    uint32_t u = float_bits(x);
    bf16 r;
    if ((u & 0x7fffffffu) > 0x7f800000u)
        r.bits = (uint16_t) ((u >> 16) | 0x40u);
    else
        r.bits = (uint16_t) ((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
    return r;
}

/* Two bf16 in a register: lo in bits 0..15. */
HOST_DEVICE uint32_t bf16x2_pack(bf16 lo, bf16 hi)
{
    return (uint32_t) lo.bits | (uint32_t) hi.bits << 16;
}

HOST_DEVICE uint32_t bf16x2_from_floats(float lo, float hi)
{
    return bf16x2_pack(float_to_bf16(lo), float_to_bf16(hi));
}

HOST_DEVICE float bf16x2_lo(uint32_t x)
{
    return bits_float(x << 16);
}

HOST_DEVICE float bf16x2_hi(uint32_t x)
{
    return bits_float(x & 0xffff0000u);
}

/* Exact, subnormals too: exponent and mantissa moved into place, then the difference of the biases, 2^120.  S.1111.111 is NaN. */
HOST_DEVICE float e4m3_to_float(e4m3 x)
{
    uint32_t m = x.bits & 0x7fu, s = (uint32_t) (x.bits & 0x80u) << 24;
    if (m == 0x7fu)
        return bits_float(s | 0x7fc00000u);
    return bits_float(s | m << 20) * bits_float(0x7b800000u);
}

/* Four e4m3 (byte 0 first) to four bf16 in two registers, exactly.  NaN is not kept: it becomes 480, as in all fast
 * converters; weights are checked for it when they are packed. */
DEVICE void e4m3x4_to_bf16x4(uint32_t x, uint32_t out[2])
{
    uint32_t lo = (x & 0xffu) | (x & 0xff00u) << 8, hi = (x >> 16 & 0xffu) | (x >> 8 & 0xff0000u);
    lo = (lo & 0x00800080u) << 8 | (lo & 0x007f007fu) << 4;
    hi = (hi & 0x00800080u) << 8 | (hi & 0x007f007fu) << 4;
#ifdef HOSTSIM
    const float scale = bits_float(0x7b800000u);
    out[0] = bf16x2_from_floats(bf16x2_lo(lo) * scale, bf16x2_hi(lo) * scale);
    out[1] = bf16x2_from_floats(bf16x2_lo(hi) * scale, bf16x2_hi(hi) * scale);
#else
    const uint32_t scale = 0x7b807b80u, minus_zero = 0x80008000u;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out[0]) : "r"(lo), "r"(scale), "r"(minus_zero));
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out[1]) : "r"(hi), "r"(scale), "r"(minus_zero));
#endif
}

/* --- who am I --- */

DEVICE int lane_id(void)
{
    return (int) ((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31);
}

DEVICE int warp_id(void)
{
    return (int) ((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) >> 5);
}

/* --- tensor cores --- */

/* d += a b, float accumulators. */
DEVICE void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#ifdef HOSTSIM
    hostsim::mma_m16n8k16_bf16(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

DEVICE uint32_t smem_address(const void *p)
{
#ifdef HOSTSIM
    return (uint32_t) (uintptr_t) p;
#else
    return (uint32_t) __cvta_generic_to_shared(p);
#endif
}

/* row: shared memory, 16 bytes aligned; lane l gives row l % 8 of matrix l / 8. */
DEVICE void ldmatrix_x4(uint32_t r[4], const void *row)
{
#ifdef HOSTSIM
    hostsim::ldmatrix(r, row, 4, 0);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_address(row))
                 : "memory");
#endif
}

DEVICE void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
#ifdef HOSTSIM
    hostsim::ldmatrix(r, row, 4, 1);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_address(row))
                 : "memory");
#endif
}

/* Two matrices; lanes 16..31 give valid addresses that are not read. */
DEVICE void ldmatrix_x2(uint32_t r[2], const void *row)
{
#ifdef HOSTSIM
    hostsim::ldmatrix(r, row, 2, 0);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(smem_address(row))
                 : "memory");
#endif
}

DEVICE void ldmatrix_x2_trans(uint32_t r[2], const void *row)
{
#ifdef HOSTSIM
    hostsim::ldmatrix(r, row, 2, 1);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(smem_address(row))
                 : "memory");
#endif
}

/* --- asynchronous copies: global to shared, 16 bytes, both aligned; there after cp_async_wait and a barrier --- */

DEVICE void cp_async16(void *smem, const void *global)
{
#ifdef HOSTSIM
    hostsim::cp_async(smem, global, 16, 16);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_address(smem)), "l"(global)
                 : "memory");
#endif
}

/* The first `bytes` (0..16) from global, zeros behind them; with 0 bytes `global` is not read but stays a valid pointer. */
DEVICE void cp_async16_zfill(void *smem, const void *global, int bytes)
{
#ifdef HOSTSIM
    hostsim::cp_async(smem, global, 16, bytes);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(smem)), "l"(global),
                 "r"(bytes)
                 : "memory");
#endif
}

/* For bytes read once (weights): out of the second-level cache first. */
DEVICE void cp_async16_evict_first(void *smem, const void *global)
{
#ifdef HOSTSIM
    hostsim::cp_async(smem, global, 16, 16);
#else
    asm volatile(
        "{ .reg .b64 policy;\n"
        "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
        "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, policy; }" ::"r"(smem_address(smem)),
        "l"(global)
        : "memory");
#endif
}

DEVICE void cp_async_commit(void)
{
#ifdef HOSTSIM
    hostsim::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most N of this thread's newest groups are under way. */
template <int N> DEVICE void cp_async_wait(void)
{
#ifdef HOSTSIM
    hostsim::cp_async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* --- loads and stores of 16 bytes, aligned --- */

DEVICE uint4 ld16(const void *p)
{
#ifdef HOSTSIM
    hostsim::check_access(p, 16, "a 16-byte load");
#endif
    return *(const uint4 *) p;
}

DEVICE void st16(void *p, uint4 v)
{
#ifdef HOSTSIM
    hostsim::check_access(p, 16, "a 16-byte store");
#endif
    *(uint4 *) p = v;
}

/* Memory that no one writes while the kernel runs. */
DEVICE uint4 ld16_nc(const void *p)
{
#ifdef HOSTSIM
    return ld16(p);
#else
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
#endif
}

/* The same for bytes read once: not kept in the first-level cache, first out of the second. */
DEVICE uint4 ld16_nc_evict_first(const void *p)
{
#ifdef HOSTSIM
    return ld16(p);
#else
    uint4 v;
    asm volatile("{ .reg .b64 policy;\n"
                 "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
                 "ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], policy; }"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
#endif
}

/* --- whole-warp exchange --- */

#define WARP_ALL 0xffffffffu

/* Sum over the warp: a butterfly 16, 8, 4, 2, 1; the same bits in every lane. */
DEVICE float warp_sum(float x)
{
    for (int i = 16; i > 0; i >>= 1)
        x += __shfl_xor_sync(WARP_ALL, x, i);
    return x;
}

DEVICE float warp_max(float x)
{
    for (int i = 16; i > 0; i >>= 1)
        x = fmaxf(x, __shfl_xor_sync(WARP_ALL, x, i));
    return x;
}

/* --- barriers for a part of a block: id 1..15, n threads, a multiple of 32 --- */

DEVICE void bar_sync(int id, int n)
{
#ifdef HOSTSIM
    hostsim::bar_sync(id, n);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
#endif
}

/* --- flags between device and host --- */

DEVICE uint32_t ld_acquire_sys(const uint32_t *p)
{
#ifdef HOSTSIM
    return hostsim::load_acquire(p);
#else
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
#endif
}

DEVICE void st_release_sys(uint32_t *p, uint32_t v)
{
#ifdef HOSTSIM
    hostsim::store_release(p, v);
#else
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}

/* --- reserved: overlap of dependent kernels (sm_90) --- */

DEVICE void griddep_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE void griddep_launch(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
