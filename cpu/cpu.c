/* cpu.c - what this machine can do: the kernel table by cpuid, and its threads. */
#include "cpu/inside.h"
#include "cpu/places.h"

#include <cblas.h>
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

static const char *const isa_names[] = {"auto", "twin", "avx2", "avxvnni", "avx512", "vnni", "twin-fma"};

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
    case CPU_ISA_TWIN_FMA:
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
    int best = isa == CPU_ISA_TWIN_FMA ? CPU_ISA_TWIN : isa;
    cpu__kern_twin(k);
    if (isa == CPU_ISA_TWIN_FMA)
        cpu__kern_twin_fma(k);
    if (best >= CPU_ISA_AVX2)
        cpu__kern_avx2(k);
    if (isa == CPU_ISA_AVXVNNI)
        cpu__kern_avxvnni(k);
    if (best >= CPU_ISA_AVX512)
        cpu__kern_avx512(k);
    if (best >= CPU_ISA_VNNI)
        cpu__kern_vnni(k);
    k->name = isa_names[isa];
}

int cpu_isa_find(const char *name)
{
    for (int i = 0; i <= CPU_ISA_TWIN_FMA; i++)
        if (strcmp(name, isa_names[i]) == 0)
            return i;
    return -1;
}

int cpu_blas_fits(const struct cpu *c)
{
    static const char *const known[] = {"Haswell",  "Zen",        "Excavator",
                                        "SkylakeX", "Cooperlake", "SapphireRapids"}; /* those with AVX2 */
    const char *name = openblas_get_corename();
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i]) == 0)
            return 1;
    if (c->isa < CPU_ISA_AVX2 || c->isa == CPU_ISA_TWIN_FMA)
        return 1;
    log_info("OpenBLAS takes this processor for a %s and is not used for it; OPENBLAS_CORETYPE=%s in the "
             "environment makes it fit",
             name, c->isa >= CPU_ISA_AVX512 ? "SkylakeX" : "Haswell");
    return 0;
}

static int open_side(struct cpu *c, int place, struct err *e)
{
    c->side = malloc(sizeof *c->side);
    if (!c->side)
        return err_set(e, ST_NOMEM, "no memory for the CPU backend");
    *c->side = (struct cpu){.pool = cpu__pool_side(c->pool), .kern = c->kern, .isa = c->isa, .place = place};
    return 0;
}

/* place: (threads).  1: they are all ours. */
static int claim_places(struct cpu *c, int threads, int *place)
{
    struct cpu__places here;
    cpu__places_here(&here);
    c->claim = malloc((size_t) threads * sizeof *c->claim);
    if (!c->claim || cpu__places_claim(&here, threads, place, c->claim))
        return 0;
    c->n_claims = threads;
    return 1;
}

static int open_pool(struct cpu *c, const struct cpu_opts *o, struct err *e)
{
    int place[CPU_THREADS_MAX], pinned = o->pin && claim_places(c, o->threads, place);
    struct cpu__pool_opts p = {o->threads, o->side, pinned ? place : NULL};
    c->place = pinned ? place[0] : -1;
    int st = cpu__pool_open(&c->pool, &p, e);
    return st || !o->side ? st : open_side(c, pinned ? place[o->threads - 1] : -1, e);
}

static int check(const struct cpu_opts *o, struct err *e)
{
    if (o->threads < 1 || o->threads > CPU_THREADS_MAX)
        return err_set(e, ST_INPUT, "%d threads: expected 1 to %d", o->threads, CPU_THREADS_MAX);
    if (o->side < 0 || o->side >= o->threads)
        return err_set(e, ST_INPUT, "%d of %d threads apart: expected 0 to %d", o->side, o->threads,
                       o->threads - 1);
    if (o->isa < CPU_ISA_AUTO || o->isa > CPU_ISA_TWIN_FMA)
        return err_set(e, ST_INPUT, "instruction set %d: expected 0 to %d", o->isa, CPU_ISA_TWIN_FMA);
    return 0;
}

int cpu_open(struct cpu **out, const struct cpu_opts *o, struct err *e)
{
    *out = NULL;
    int st = check(o, e);
    if (st)
        return st;
    int best = best_isa(), isa = o->isa == CPU_ISA_AUTO ? best : o->isa;
    if (!has_isa(isa))
        return err_set(e, ST_UNSUPPORTED, "this machine has no %s, its best is %s; use that or auto",
                       isa_names[isa], isa_names[best]);
    struct cpu *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, ST_NOMEM, "no memory for the CPU backend");
    fill(&c->kern, isa);
    c->isa = isa;
    st = open_pool(c, o, e);
    if (st) {
        cpu_close(c);
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
    cpu__places_release(c->claim, c->n_claims);
    free(c->claim);
    free(c->side);
    free(c);
}

struct cpu *cpu_side(struct cpu *c)
{
    return c->side;
}

void cpu_apart(struct cpu *c, int apart)
{
    cpu__pool_apart(c->pool, apart);
}

int cpu_pinned(const struct cpu *c)
{
    return c->place >= 0;
}

void cpu_home(const struct cpu *c)
{
    if (c->place >= 0)
        cpu__pool_pin_caller(c->place);
}

const char *cpu_isa_name(const struct cpu *c)
{
    return c->kern.name;
}
