/* pinned.c - numerics, version 1, to the bit: hashes of ids and of every settled row's logits, in tests/gate/pinned.txt.
 *
 * gcc, clang, the sanitizer builds and every kernel table must reproduce them on any x86-64 machine.  A change of that file is a
 * new numerics version (NUMERICS_VERSION in target/target.c).  `pinned --write` prints the file. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "tests/lib/gate.h"
#include "tests/lib/passes.h"

enum { PROMPTS = 4, HOWS = 3, LINES_MAX = 128, LINE_BYTES = 160 };

static const char *const isa_names[] = {"twin", "avx2", "avxvnni", "avx512", "vnni"};
static const int quants[] = {CPU_QUANT_F32, CPU_QUANT_BF16, CPU_QUANT_Q8};
static const char *const quant_names[] = {"f32", "bf16", "q8"};

static char (*line)[LINE_BYTES];
static int n_lines;

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0xff51afd7ed558ccdu;
    return h ^ h >> 32;
}

static void pin(const struct gate_pair *p, const char *quant, const struct gate_how *how, int prompt,
                const struct gate_result *r)
{
    uint64_t ids = 1, rows = 1;
    for (int i = 0; i < r->n; i++) {
        ids = mix(ids, (uint64_t) r->tok[i]);
        rows = mix(rows, r->hash[i]);
    }
    assert_in_range(n_lines, 0, LINES_MAX - 1);
    snprintf(line[n_lines++], LINE_BYTES,
             "%s | %s | %s | prompt %d | %d tokens | ids %016" PRIx64 " | rows %016" PRIx64, p->name, quant,
             how->name, prompt, r->n, ids, rows);
}

static void run_pair(const struct gate_pair *p, int isa, int threads)
{
    struct gate_request req[PROMPTS];
    struct gate_result *got = calloc(PROMPTS, sizeof *got);
    assert_non_null(got);
    for (int i = 0; i < PROMPTS; i++)
        req[i] = (struct gate_request){.prompt = i * 3, .spec = ENGINE_SPEC_NODES, .nodes = 6, .depth = 4};
    for (int q = 0; q < 3; q++)
        for (int h = 0; h < HOWS; h++) {
            struct engine_opts o = gate_opts(p);
            struct gate_how how = gate_hows[h];
            o.target_quant = quants[q];
            o.isa = isa;
            o.threads = threads;
            how.max_tokens = 24;
            gate_run(&o, p, &how, req, PROMPTS, 2, got);
            for (int i = 0; i < PROMPTS; i++)
                pin(p, quant_names[q], &how, req[i].prompt, &got[i]);
        }
    free(got);
}

static void run_all(int isa, int threads)
{
    struct gate_pair p;
    n_lines = 0;
    gate_random(&p);
    run_pair(&p, isa, threads);
    gate_pair_free(&p);
    gate_tiny(&p);
    run_pair(&p, isa, threads);
    gate_pair_free(&p);
}

static void compare(const char *isa)
{
    char want[LINE_BYTES + 2];
    FILE *f = fopen("tests/gate/pinned.txt", "r");
    assert_non_null(f);
    for (int i = 0; i < n_lines; i++) {
        assert_non_null(fgets(want, sizeof want, f));
        want[strcspn(want, "\n")] = 0;
        if (strcmp(want, line[i]))
            fail_msg("%s: line %d of tests/gate/pinned.txt is\n  %s\nnot\n  %s", isa, i + 1, want, line[i]);
    }
    assert_null(fgets(want, sizeof want, f));
    fclose(f);
    print_message("  %s: %d lines reproduced\n", isa, n_lines);
}

static int has_isa(int isa)
{
    struct cpu *c;
    struct cpu_opts o = {.threads = 1, .isa = isa};
    int st = cpu_open(&c, &o, NULL);
    if (!st)
        cpu_close(c);
    return st == 0;
}

static void test_every_table(void **state)
{
    (void) state;
    const int isas[] = {passes_twin(), CPU_ISA_AVX2, CPU_ISA_AVXVNNI, CPU_ISA_AVX512, CPU_ISA_VNNI};
    for (int i = 0; i < 5; i++) {
        if (!has_isa(isas[i])) {
            print_message("  %s: this machine lacks it\n", isa_names[i]);
            continue;
        }
        run_all(isas[i], 1 + i % 2);
        compare(isa_names[i]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_table)};
    line = calloc(LINES_MAX, sizeof *line);
    int failed = 0;
    if (argc > 1 && strcmp(argv[1], "--write") == 0) {
        run_all(CPU_ISA_TWIN, 1);
        for (int i = 0; i < n_lines; i++)
            puts(line[i]);
    } else {
        failed = cmocka_run_group_tests_name("gate: pinned numerics", tests, NULL, NULL);
    }
    free(line);
    return failed;
}
