/* vector_types.h - CUDA's small vectors and dim3, with CUDA's alignments. */
#ifndef HOSTSIM_VECTOR_TYPES_H
#define HOSTSIM_VECTOR_TYPES_H

#define HOSTSIM_VECTORS(X)                                                                                   \
    X(char, signed char, 1)                                                                                  \
    X(uchar, unsigned char, 1)                                                                               \
    X(short, short, 2)                                                                                       \
    X(ushort, unsigned short, 2)                                                                             \
    X(int, int, 4)                                                                                           \
    X(uint, unsigned int, 4)                                                                                 \
    X(float, float, 4)                                                                                       \
    X(longlong, long long, 8)                                                                                \
    X(ulonglong, unsigned long long, 8)                                                                      \
    X(double, double, 8)

#define HOSTSIM_VECTOR(name, type, size)                                                                     \
    struct alignas(2 * size) name##2                                                                         \
    {                                                                                                        \
        type x, y;                                                                                           \
    };                                                                                                       \
    struct name##3                                                                                           \
    {                                                                                                        \
        type x, y, z;                                                                                        \
    };                                                                                                       \
    struct alignas(4 * size > 16 ? 16 : 4 * size) name##4                                                    \
    {                                                                                                        \
        type x, y, z, w;                                                                                     \
    };                                                                                                       \
    static inline name##2 make_##name##2(type x, type y)                                                     \
    {                                                                                                        \
        return {x, y};                                                                                       \
    }                                                                                                        \
    static inline name##3 make_##name##3(type x, type y, type z)                                             \
    {                                                                                                        \
        return {x, y, z};                                                                                    \
    }                                                                                                        \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                                     \
    {                                                                                                        \
        return {x, y, z, w};                                                                                 \
    }
HOSTSIM_VECTORS(HOSTSIM_VECTOR)
#undef HOSTSIM_VECTOR
#undef HOSTSIM_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

#endif
