/* kerns.c - see kerns.h. */
#include "tests/lib/kerns.h"

#include <cpuid.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* clang 14 knows no has_f16c(). */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

int kerns_list(struct kern out[KERNS_MAX])
{
    int n = 0;
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    unsigned a = 0, b, c, d;
    int avxvnni = avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 4);
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    int vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    struct {
        int have;
        const char *name;
        void (*fill)(struct kern *);
    } step[] = {{1, "twin", cpu__kern_twin},          {avx2, "twin-fma", cpu__kern_twin_fma},
                {avx2, "avx2", cpu__kern_avx2},       {avxvnni, "avxvnni", cpu__kern_avxvnni},
                {avx512, "avx512", cpu__kern_avx512}, {vnni, "vnni", cpu__kern_vnni}};
    struct kern k = {0};
    for (size_t i = 0; i < sizeof step / sizeof *step; i++) {
        if (!step[i].have) {
            printf("skip: this machine lacks %s\n", step[i].name);
            continue;
        }
        step[i].fill(&k);
        k.name = step[i].name;
        out[n++] = k;
    }
    return n;
}

uint64_t kerns_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

int kerns_below(uint64_t *state, int n)
{
    return (int) ((kerns_next(state) >> 33) % (uint64_t) n);
}

float kerns_normal(uint64_t *state)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float) (kerns_next(state) >> 40) * 0x1p-24f;
    return (sum - 2) * 1.7320508f;
}

float kerns_wild(uint64_t *state)
{
    float x = kerns_normal(state);
    switch (kerns_below(state, 10)) {
    case 0:
        return 0.0f;
    case 1:
        return -0.0f;
    case 2:
        return x * 0x1p-140f; /* denormal */
    case 3:
        return x * 0x1p-70f;
    case 4:
        return x * 0x1p40f;
    case 5:
        return x * 1000;
    default:
        return x;
    }
}

long kerns_differ(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i])))
            return (long) i;
    return -1;
}

double kerns_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}
