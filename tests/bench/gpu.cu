/* gpu.cu - what one pass of the target costs on a GPU, as JSON; tests/bench/gpu.py makes the table of `make bench-gpu` from it.
 *
 *     gpu --bandwidth [--megabytes N]
 *     gpu --shape 8b [--dtype bf16|fp8|q8] [--rows 1,4,16] [--contexts 1024,4096] [--milliseconds N] [--device N]
 *
 * A pass is that of target.h: trees of up to 64 rows, a sequence each, below `context` settled tokens, the output layer on all rows,
 * weights made up on the device.  Of each number of rows, medians:
 *     round_ms   from target_submit to the return of target_wait, by the host's clock
 *     device_ms  the same work posted while the device is busy with something else, by its own clock: no gap that the host leaves
 * What lies between is the host's gap.  Shapes: those of synth:, tiny and tiny-moe (for the host lane).
 *
 * bytes: of weights that the pass has to read (of experts: as many as independent picks hit, expected) and of keys and values. */
#include "core/cuda/launch.h"
#include "core/cuda/ptx.cuh"

#include <algorithm>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern "C" {
#include "core/tree.h"
#include "cpu/cpu.h"
#include "model/synth.h"
#include "target/target.h"
#include "tests/lib/synth.h"
}

enum { LIST_MAX = 16, PASSES_MAX = 400, SEQS_MAX = 4, READ_THREADS = 256, READ_BLOCKS = 1056 };

struct options {
    const char *shape, *dtype;
    int device, milliseconds, megabytes, bandwidth;
    int rows[LIST_MAX], n_rows, contexts[LIST_MAX], n_contexts;
};

[[noreturn]] static void fail(const char *what, const char *why)
{
    fprintf(stderr, "gpu: %s: %s\n", what, why);
    exit(1);
}

static void must(cudaError_t e, const char *what)
{
    if (e != cudaSuccess)
        fail(what, cudaGetErrorString(e));
}

static void must_be(int status, const char *what)
{
    if (status)
        fail(what, status_text(status));
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec * 1e3 + (double) t.tv_nsec / 1e6;
}

static double median(double *x, int n)
{
    std::sort(x, x + n);
    return x[n / 2];
}

/* --- reading memory: the bandwidth, and what keeps the device busy --- */

struct reader {
    uint4 *p;
    size_t bytes;
    uint32_t *sum;
    cudaEvent_t from, to;
};

/* Formula   sum of all words, so that none is left out
 * Launch    READ_BLOCKS
 * Bytes     16 n
 * Test      itself a measure */
__global__ void __launch_bounds__(READ_THREADS) read_kernel(const uint4 *p, int64_t n, uint32_t *sum)
{
    uint32_t s = 0;
    for (int64_t i = (int64_t) blockIdx.x * READ_THREADS + threadIdx.x; i < n;
         i += (int64_t) gridDim.x * READ_THREADS) {
        uint4 v = ld16(p + i);
        s += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (s == 0xffffffffu)
        atomicAdd(sum, s);
}

static void reader_open(struct reader *r, int megabytes)
{
    r->bytes = (size_t) megabytes << 20;
    must(cudaMalloc(&r->p, r->bytes), "memory to read");
    must(cudaMalloc(&r->sum, sizeof *r->sum), "a sum");
    must(cudaMemset(r->p, 1, r->bytes), "filling it");
    must(cudaMemset(r->sum, 0, sizeof *r->sum), "filling it");
    must(cudaEventCreate(&r->from), "an event");
    must(cudaEventCreate(&r->to), "an event");
}

static void reader_close(struct reader *r)
{
    cudaFree(r->p);
    cudaFree(r->sum);
    cudaEventDestroy(r->from);
    cudaEventDestroy(r->to);
}

static void post_read(const struct reader *r, cudaStream_t s)
{
    int64_t n = (int64_t) (r->bytes / sizeof(uint4));
    int64_t blocks = std::min<int64_t>(READ_BLOCKS, (n + READ_THREADS - 1) / READ_THREADS);
    must(LAUNCH(read_kernel, (unsigned) blocks, READ_THREADS, 0, s, r->p, n, r->sum), "a read");
}

static double between(const struct reader *r)
{
    float ms = 0;
    must(cudaEventSynchronize(r->to), "a wait");
    must(cudaEventElapsedTime(&ms, r->from, r->to), "a time");
    return (double) ms;
}

static double read_ms(const struct reader *r, cudaStream_t s)
{
    must(cudaEventRecord(r->from, s), "an event");
    post_read(r, s);
    must(cudaEventRecord(r->to, s), "an event");
    return between(r);
}

static void bandwidth(const struct options *o)
{
    enum { N = 21 };
    struct reader r;
    struct cudaDeviceProp prop;
    double ms[N];
    must(cudaSetDevice(o->device), "the device");
    must(cudaGetDeviceProperties(&prop, o->device), "the device");
    reader_open(&r, o->megabytes);
    read_ms(&r, 0);
    for (int i = 0; i < N; i++)
        ms[i] = read_ms(&r, 0);
    double mid = median(ms, N);
    printf(
        "{\"card\": \"%s\", \"capability\": %d, \"processors\": %d, \"memory_bytes\": %zu, \"read_gb_s\": ",
        prop.name, prop.major * 10 + prop.minor, prop.multiProcessorCount, prop.totalGlobalMem);
    printf(mid > 0 ? "%.1f}\n" : "null}\n", (double) r.bytes / mid / 1e6);
    reader_close(&r);
}

/* --- a model's shape --- */

static void shape_of(struct config *c, const struct options *o)
{
    struct synth_shape s;
    struct gen_config g;
    struct err e;
    int moe = !strcmp(o->shape, "tiny-moe");
    if (!moe && strcmp(o->shape, "tiny")) {
        if (synth_parse(&s, o->shape, &e))
            fail(o->shape, e.text);
        synth_config(&s, c, &g);
        return;
    }
    *c = {};
    c->n_layers = 2;
    c->hidden = 128;
    c->n_heads = 4;
    c->n_kv_heads = 2;
    c->head_dim = 64;
    c->ffn = 192;
    c->vocab = 301;
    c->ctx_max = 512;
    c->rope_theta = 1e6f;
    c->rms_eps = 1e-6f;
    if (moe) {
        c->moe.n_experts = 6;
        c->moe.n_used = 2;
        c->moe.ffn = 64;
        memset(c->moe.layer, 1, (size_t) c->n_layers);
    }
}

static int type_of(const char *dtype)
{
    return !strcmp(dtype, "fp8") ? TENSOR_F8_E4M3 : !strcmp(dtype, "q8") ? TENSOR_Q8_0 : TENSOR_BF16;
}

/* Bytes of weights and of keys and values that a pass over `rows` rows of `seqs` sequences reads. */
static double bytes_of(const struct config *c, int type, int rows, int seqs, int context)
{
    double a_value = type == TENSOR_F8_E4M3 ? 1 + 4.0 / (8 * 128) : type == TENSOR_Q8_0 ? 34.0 / 32 : 2;
    double heads = (double) (c->n_heads + 2 * c->n_kv_heads) * c->head_dim,
           wide = (double) c->n_heads * c->head_dim;
    double values = (double) c->vocab * c->hidden,
           kv = 2.0 * 2 * c->n_kv_heads * c->head_dim * context * seqs;
    for (int l = 0; l < c->n_layers; l++) {
        double ffn = 3.0 * c->hidden * c->ffn;
        if (c->moe.n_experts && c->moe.layer[l])
            ffn = 3.0 * c->hidden * c->moe.ffn * c->moe.n_experts *
                  (1 - pow(1 - (double) c->moe.n_used / c->moe.n_experts, rows));
        values += c->hidden * heads + wide * c->hidden + ffn;
    }
    return values * a_value + kv * c->n_layers;
}

/* --- passes --- */

struct bench {
    const struct options *o;
    struct config config;
    int type;
    struct model *model;
    struct target *target;
    struct target_seq *seq[SEQS_MAX];
    int seqs, context;
    struct tree tree[SEQS_MAX];
    struct reader reader;
    double busy_reads; /* how many reads keep the device busy for longer than posting a pass takes */
    cudaStream_t stream;
};

static int fill(struct bench *b, int rows, struct target_item *item)
{
    int n = 0;
    for (int left = rows; left > 0; left -= TREE_MAX, n++) {
        struct tree *t = &b->tree[n];
        tree_init(t, 1);
        for (int i = 1; i < (left < TREE_MAX ? left : TREE_MAX); i++)
            tree_add(t, i - 1, i % 7, 0.5f, TREE_ORACLE, -1);
        item[n] = {};
        item[n].seq = b->seq[n];
        item[n].kind = TARGET_TREE;
        item[n].tree = t;
    }
    return n;
}

static void post(struct bench *b, struct target_item *item, int n)
{
    must_be(target_submit(b->target, item, n, NULL), "target_submit");
    b->stream = (cudaStream_t) ((const struct device_queue *) item[0].logits.queue)->stream;
}

static double round_once(struct bench *b, struct target_item *item, int n)
{
    double start = now_ms();
    post(b, item, n);
    must_be(target_wait(b->target), "target_wait");
    return now_ms() - start;
}

/* The device's own time: all of the pass is posted before it begins. */
static double device_once(struct bench *b, struct target_item *item, int n)
{
    for (int i = 0; i < (int) b->busy_reads; i++)
        post_read(&b->reader, b->stream);
    must(cudaEventRecord(b->reader.from, b->stream), "an event");
    post(b, item, n);
    must(cudaEventRecord(b->reader.to, b->stream), "an event");
    must_be(target_wait(b->target), "target_wait");
    return between(&b->reader);
}

struct point {
    int rows, passes;
    double round_ms, device_ms;
};

static struct point measure(struct bench *b, int rows)
{
    static double round[PASSES_MAX], device[PASSES_MAX];
    struct target_item item[SEQS_MAX];
    struct point p = {};
    int n = fill(b, rows, item);
    double once = round_once(b, item, n); /* of this size for the first time */
    once = round_once(b, item, n);
    b->busy_reads = 1 + ceil(once / std::max(read_ms(&b->reader, b->stream), 0.05));
    b->busy_reads = std::min(b->busy_reads, 64.0);
    double until = now_ms() + b->o->milliseconds;
    for (p.passes = 0; p.passes < 3 || (p.passes < PASSES_MAX && now_ms() < until); p.passes++) {
        round[p.passes] = round_once(b, item, n);
        device[p.passes] = device_once(b, item, n);
    }
    p.rows = rows;
    p.round_ms = median(round, p.passes);
    p.device_ms = median(device, p.passes);
    return p;
}

static void read_prompt(struct bench *b, int which)
{
    enum { CHUNK = 256 };
    static int32_t tok[CHUNK];
    int32_t cached, first = 1;
    must_be(target_seq_new(b->target, &first, 1, 0, &b->seq[which], &cached), "target_seq_new");
    for (int at = 0; at < b->context; at += CHUNK) {
        struct target_item it = {};
        it.seq = b->seq[which];
        it.kind = TARGET_PROMPT;
        it.n = std::min<int>(CHUNK, b->context - at);
        it.tok = tok;
        for (int i = 0; i < it.n; i++)
            tok[i] = (at + i) * 31 % 257;
        must_be(target_submit(b->target, &it, 1, NULL), "target_submit");
        must_be(target_wait(b->target), "target_wait");
    }
}

static void world_open(struct bench *b, int seqs, int context)
{
    struct target_opts o = {};
    struct err e = {};
    b->seqs = seqs;
    b->context = context;
    o.cuda = 1 + b->o->device;
    o.model = b->model;
    o.vocab = b->config.vocab;
    o.quant = CPU_QUANT_STORED;
    o.ctx_max = (context + 2 * TREE_MAX + 63) / 64 * 64;
    o.rows_max = 256;
    o.logits_max = seqs * TREE_MAX;
    o.kv_bytes = (int64_t) cpu_kv_page_bytes(b->model, CPU_KV_BF16) * (o.ctx_max / 64 + 1) * seqs;
    if (target_open(&b->target, &o, &e))
        fail(b->o->shape, e.text);
    for (int i = 0; i < seqs; i++)
        read_prompt(b, i);
}

static void world_close(struct bench *b)
{
    for (int i = 0; i < b->seqs; i++)
        target_seq_free(b->target, b->seq[i]);
    target_close(b->target);
}

static void print_point(const struct bench *b, const struct point *p, int first)
{
    int seqs = (p->rows + TREE_MAX - 1) / TREE_MAX;
    printf("%s\n    {\"rows\": %d, \"context\": %d, \"passes\": %d, \"round_ms\": %.4f, \"device_ms\": %.4f, "
           "\"bytes\": %.0f}",
           first ? "" : ",", p->rows, b->context, p->passes, p->round_ms, p->device_ms,
           bytes_of(&b->config, b->type, p->rows, seqs, b->context));
}

/* Every number of rows below the first context; of each other context 1 and 16 rows: what attention costs more. */
static void shape(const struct options *o)
{
    static const int few[] = {1, 16};
    static struct bench b;
    int first = 1;
    b.o = o;
    b.type = type_of(o->dtype);
    shape_of(&b.config, o);
    b.model = synth_model_shape(&b.config, b.type);
    must(cudaSetDevice(o->device), "the device");
    reader_open(&b.reader, o->megabytes);
    printf("{\"shape\": \"%s\", \"dtype\": \"%s\", \"points\": [", o->shape, o->dtype);
    for (int c = 0; c < o->n_contexts; c++) {
        const int *rows = c ? few : o->rows;
        int n = c ? 2 : o->n_rows, most = *std::max_element(rows, rows + n);
        world_open(&b, (most + TREE_MAX - 1) / TREE_MAX, o->contexts[c]);
        for (int i = 0; i < n; i++, first = 0) {
            struct point p = measure(&b, rows[i]);
            print_point(&b, &p, first);
        }
        world_close(&b);
    }
    printf("]}\n");
    reader_close(&b.reader);
    synth_model_free(b.model);
}

static int numbers(const char *s, int most, int *out)
{
    int n = 0;
    char *end;
    for (; *s && n < LIST_MAX; s = *end ? end + 1 : end) {
        long v = strtol(s, &end, 10);
        if (end == s || v < 1 || v > most || (*end && *end != ','))
            fail(s, "expected numbers with commas between, each from 1 to what is possible");
        out[n++] = (int) v;
    }
    return n;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"shape", 1, NULL, 's'},        {"dtype", 1, NULL, 't'},     {"rows", 1, NULL, 'r'},
        {"contexts", 1, NULL, 'c'},     {"device", 1, NULL, 'd'},    {"bandwidth", 0, NULL, 'b'},
        {"milliseconds", 1, NULL, 'm'}, {"megabytes", 1, NULL, 'g'}, {}};
    struct options o = {};
    o.dtype = "bf16";
    o.milliseconds = 400;
    o.megabytes = 1024;
    o.n_rows = numbers("1,4,8,16,32,64,128,256", SEQS_MAX * TREE_MAX, o.rows);
    o.n_contexts = numbers("1024", 1 << 20, o.contexts);
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;)
        if (c == 's')
            o.shape = optarg;
        else if (c == 't')
            o.dtype = optarg;
        else if (c == 'r')
            o.n_rows = numbers(optarg, SEQS_MAX * TREE_MAX, o.rows);
        else if (c == 'c')
            o.n_contexts = numbers(optarg, 1 << 20, o.contexts);
        else if (c == 'd')
            o.device = atoi(optarg);
        else if (c == 'm')
            o.milliseconds = atoi(optarg);
        else if (c == 'g')
            o.megabytes = atoi(optarg);
        else if (c == 'b')
            o.bandwidth = 1;
        else
            return 2;
    if (o.bandwidth)
        bandwidth(&o);
    else if (o.shape)
        shape(&o);
    else
        fail("nothing to do", "give --bandwidth or --shape");
    return 0;
}
