/* cpu.c - what this machine can do: the kernel table by cpuid, and its threads. */
#include "cpu/inside.h"

#include <cblas.h>
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 256 }; /* more than any socket has; the barrier counts on all of them being runnable */

static const char *const isa_names[] = {"auto", "twin", "avx2", "avxvnni", "avx512", "vnni"};

static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* Leaf 7, subleaf 1; neither compiler's __builtin_cpu_supports knows it by name. */
static int has_avxvnni(void)
{
    enum { BIT_AVXVNNI = 1 << 4 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BIT_AVXVNNI);
}

/* __builtin_cpu_supports also asks whether the system saves the registers. */
static int has_isa(int isa)
{
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
    case CPU_ISA_AVX2:
        return avx2;
    case CPU_ISA_AVXVNNI:
        return avx2 && has_avxvnni();
    case CPU_ISA_AVX512:
        return avx512;
    case CPU_ISA_VNNI:
        return avx512 && __builtin_cpu_supports("avx512vnni");
    default:
        return 1;
    }
}

static int best_isa(void)
{
    int isa = CPU_ISA_VNNI;
    while (!has_isa(isa))
        isa--;
    return isa;
}

static void fill(struct kern *k, int isa)
{
    cpu__kern_twin(k);
    if (isa >= CPU_ISA_AVX2)
        cpu__kern_avx2(k);
    if (isa == CPU_ISA_AVXVNNI)
        cpu__kern_avxvnni(k);
    if (isa >= CPU_ISA_AVX512)
        cpu__kern_avx512(k);
    if (isa >= CPU_ISA_VNNI)
        cpu__kern_vnni(k);
    k->name = isa_names[isa];
}

int cpu_isa_find(const char *name)
{
    for (int i = 0; i <= CPU_ISA_VNNI; i++)
        if (strcmp(name, isa_names[i]) == 0)
            return i;
    return -1;
}

int cpu_open(struct cpu **out, const struct cpu_opts *o, struct err *e)
{
    *out = NULL;
    if (o->threads < 1 || o->threads > THREADS_MAX)
        return err_set(e, ST_INPUT, "%d threads: expected 1 to %d", o->threads, THREADS_MAX);
    if (o->isa < CPU_ISA_AUTO || o->isa > CPU_ISA_VNNI)
        return err_set(e, ST_INPUT, "instruction set %d: expected 0 to %d", o->isa, CPU_ISA_VNNI);
    int best = best_isa(), isa = o->isa == CPU_ISA_AUTO ? best : o->isa;
    if (!has_isa(isa))
        return err_set(e, ST_UNSUPPORTED, "this machine has no %s, its best is %s; use that or auto",
                       isa_names[isa], isa_names[best]);
    struct cpu *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, ST_NOMEM, "no memory for the CPU backend");
    fill(&c->kern, isa);
    int st = cpu__pool_open(&c->pool, o->threads, e);
    if (st) {
        free(c);
        return st;
    }
    openblas_set_num_threads(
        1); /* every thread of our pool calls a serial sgemm; OpenBLAS's own must not spin beside */
    *out = c;
    return 0;
}

void cpu_close(struct cpu *c)
{
    if (!c)
        return;
    cpu__pool_close(c->pool);
    free(c);
}

const char *cpu_isa_name(const struct cpu *c)
{
    return c->kern.name;
}
