/* cmd_synth.c - `outrider synth --like SHAPE DIR`: a checkpoint of a real model's shape with random weights.
 *
 * Offline.  For latency work without a download; the daemon needs no files for it (`--target synth:8b`).  Refuses a directory
 * that holds a checkpoint already. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cmd.h"
#include "client/options.h"
#include "model/model.h"

struct wanted {
    const char *like, *layers, *dtype, *seed, *dir;
};

static const char help[] =
    "usage: outrider synth --like SHAPE [OPTIONS] DIR\n\n"
    "Writes a checkpoint of exactly that shape with random weights into DIR: speed and memory are those of "
    "the real\n"
    "model, answers are noise.  The daemon serves the same weights without files: outriderd --target "
    "synth:SHAPE.\n\n"
    "  --like SHAPE   0.6b, 1.7b, 4b, 8b, 14b, 32b, 30b-a3b or 235b-a22b\n"
    "  --layers N     so many layers instead of the shape's own\n"
    "  --dtype TYPE   bf16 (default), fp8 (blocks of 128 x 128): safetensors; q8: a GGUF in Q8_0\n"
    "  --seed S       other weights (default 0)\n";

static int usage_error(const char *why)
{
    fprintf(stderr, "outrider synth: %s\n\n%s", why, help);
    return EXIT_USAGE;
}

/* The options as the words of a name: "8b:layers=4:dtype=q8:seed=1". */
static void words_of(const struct wanted *o, char *out, size_t cap)
{
    snprintf(out, cap, "%s%s%s%s%s%s%s", o->like, o->layers ? ":layers=" : "", o->layers ? o->layers : "",
             o->dtype ? ":dtype=" : "", o->dtype ? o->dtype : "", o->seed ? ":seed=" : "",
             o->seed ? o->seed : "");
}

static int report(const char *dir)
{
    struct model *m;
    struct err e = {0};
    uint64_t bytes = 0;
    if (model_open(&m, dir, &e) < 0) {
        fprintf(stderr, "outrider synth: what was written does not open: %s\n", e.text);
        return EXIT_FAILED;
    }
    for (int i = 0; i < m->n_tensors; i++)
        bytes += m->tensor[i].bytes;
    printf("%s: %d layers, %d tensors, %" PRIu64 " bytes, weights hash %016" PRIx64 "\n", dir,
           m->config.n_layers, m->n_tensors, bytes, m->weights_hash);
    model_close(m);
    return EXIT_DONE;
}

static int write_all(const struct wanted *o)
{
    char words[256];
    struct synth_shape shape;
    struct err e = {0};
    words_of(o, words, sizeof words);
    int st = synth_parse(&shape, words, &e);
    if (!st)
        st = synth_write(&shape, o->dir, &e);
    if (!st)
        return report(o->dir);
    fprintf(stderr, "outrider synth: %s\n", e.text);
    return st == ST_INPUT ? EXIT_USAGE : EXIT_FAILED;
}

/* In the words of the flags; the shape's own reader speaks of synth:SHAPE. */
static int check(const struct wanted *o, struct err *e)
{
    int32_t layers;
    uint64_t seed;
    int st = o->layers ? options_int(o->layers, "--layers", 1, CONFIG_LAYERS_MAX, &layers, e) : 0;
    if (!st && o->seed)
        st = options_u64(o->seed, "--seed", &seed, e);
    if (!st && o->dtype && strcmp(o->dtype, "bf16") && strcmp(o->dtype, "q8") && strcmp(o->dtype, "fp8"))
        st = err_set(e, ST_INPUT, "--dtype takes bf16, fp8 or q8, not '%s'", o->dtype);
    return st;
}

int cmd_synth(int argc, char **argv)
{
    static const struct option options[] = {
        {"like", required_argument, NULL, 'k'},  {"layers", required_argument, NULL, 'l'},
        {"dtype", required_argument, NULL, 'd'}, {"seed", required_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},        {0}};
    struct wanted o = {0};
    struct err e = {0};
    int c, st;
    while ((st = options_flag(argc, argv, options, &c, &e)) == 0 && c) {
        const char **to = c == 'k' ? &o.like : c == 'l' ? &o.layers : c == 'd' ? &o.dtype : &o.seed;
        if (c == 'h') {
            fputs(help, stdout);
            return EXIT_DONE;
        }
        *to = optarg;
    }
    if (st)
        return usage_error(e.text);
    if (!o.like || argc - optind != 1)
        return usage_error(o.like ? "expected one DIR" : "--like SHAPE is missing");
    if (check(&o, &e))
        return usage_error(e.text);
    o.dir = argv[optind];
    return write_all(&o);
}
