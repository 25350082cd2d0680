/* lost.cu - what only the host lane can count or do.  A round brings back one piece of at most 4 KB.  A device that fails while it serves: every stream ends with the device's status, none hangs, what was said until then is
 * true, and another engine of the same fingerprint goes on from there word for word. */
#include "core/cuda/launch.h"
#include "tests/hostsim/test/lane.h"

#include <stdlib.h>
#include <string.h>

extern "C" {
#include "tests/lib/gate.h"
}

#ifdef HOSTSIM

enum { N = 3 };

static struct gate_pair pair;
static struct gate_result want[N], got[N], rest[N];

static void requests(struct gate_request *q, int spec)
{
    for (int i = 0; i < N; i++) {
        q[i] = {};
        q[i].prompt = i;
        q[i].spec = spec;
        q[i].nodes = 8;
        q[i].depth = 4;
    }
}

/* Fails at the k-th kernel from now; returns how many streams it cut off. */
static int run_lost(const struct engine_opts *o, const struct gate_how *how, int kernel)
{
    struct gate_request q[N];
    int lost = 0;
    requests(q, ENGINE_SPEC_NODES);
    struct gate_engine *g = gate_open(o);
    hostsim_inject("kernel", kernel, cudaErrorLaunchFailure);
    gate_run_on(g, &pair, how, q, N, N, got);
    gate_close(g);
    hostsim_clear();
    for (int i = 0; i < N; i++) {
        assert_int_equal(got[i].ended, 1);
        assert_true(got[i].status == 0 || got[i].status == ST_DEVICE);
        assert_in_range(got[i].n, 0, want[i].n);
        assert_memory_equal(got[i].tok, want[i].tok, (size_t) got[i].n * sizeof *got[i].tok);
        lost += got[i].status == ST_DEVICE;
    }
    return lost;
}

static void resume(const struct engine_opts *o, const struct gate_how *how)
{
    struct gate_request q[N];
    requests(q, ENGINE_SPEC_NODES);
    for (int i = 0; i < N; i++) {
        q[i].resume = got[i].tok;
        q[i].n_resume = got[i].status ? got[i].n : 0;
    }
    gate_run(o, &pair, how, q, N, N, rest);
    for (int i = 0; i < N; i++)
        gate_same("resumed elsewhere", i, &want[i], &rest[i], q[i].n_resume);
}

static void test_lost_device(void **)
{
    static const int kernels[] = {40, 400};
    gate_random(&pair);
    const struct engine_opts o = gate_opts(&pair);
    const struct gate_how *how = &gate_hows[1];
    struct gate_request q[N];
    int lost = 0;
    requests(q, ENGINE_SPEC_OFF);
    gate_run(&o, &pair, how, q, N, 1, want);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        lost += run_lost(&o, how, kernels[i]);
        resume(&o, how);
    }
    printf("  %d streams were cut off\n", lost);
    assert_true(lost >= N);
    gate_pair_free(&pair);
}

/* Without logprobs and hashes, a round brings back its paths and nothing else. */
static void test_little_comes_back(void **)
{
    enum { CLIENTS = 16, OUT_MAX = 4096 };
    struct gate_request q[CLIENTS];
    static struct gate_result out[CLIENTS];
    struct hostsim_figures before, after;
    struct engine_stats stats;
    gate_random(&pair);
    struct engine_opts o = gate_opts(&pair);
    o.hash_rows = 0;
    for (int i = 0; i < CLIENTS; i++) {
        q[i] = {};
        q[i].prompt = i;
        q[i].spec = ENGINE_SPEC_NODES;
        q[i].nodes = 4;
        q[i].depth = 3;
    }
    struct gate_engine *g = gate_open(&o);
    hostsim_counters(&before);
    gate_run_on(g, &pair, &gate_hows[1], q, CLIENTS, CLIENTS, out);
    hostsim_counters(&after);
    engine_stats(gate_engine(g), &stats);
    gate_close(g);
    uint64_t copies = after.copies_to_host - before.copies_to_host;
    printf("  %llu passes, %llu copies to the host, %llu bytes the largest\n",
           (unsigned long long) stats.passes, (unsigned long long) copies, after.most_to_host);
    assert_in_range(copies, 1, stats.passes);
    assert_in_range(after.most_to_host, 1, OUT_MAX);
    gate_pair_free(&pair);
}

int main(int argc, char **argv)
{
    setenv("GATE_DEVICE", "cuda:0", 1);
    setenv("GATE_TOKENS", "8", 0);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_little_comes_back),
                                       cmocka_unit_test(test_lost_device)};
    return cmocka_run_group_tests_name("CUDA: a lost device", tests, NULL, NULL);
}

#else

int main(void)
{
    printf("skip lost_device: only the host lane fails on demand\n");
    return 0;
}

#endif
