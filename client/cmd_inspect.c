/* cmd_inspect.c - `outrider inspect DIR`: what a checkpoint is, what it takes, and what is refused and why.
 *
 * Offline.  As much is shown as can be read: a directory whose weights are refused still shows its configuration.
 * Every refusal is one sentence on stderr (and in the JSON), and makes the exit status 1. */
#include "client/cmd.h"
#include "client/show.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model.h"
#include "model/template.h"
#include "model/tokenizer.h"

struct options {
    const char *dir;
    int json, tensors, help;
};

enum kind { KIND_EMBEDDING, KIND_ATTENTION, KIND_FFN, KIND_NORM, KIND_OUTPUT, KIND_LEFT_OUT, KINDS };

static const char *const kind_name[KINDS] = {"embedding", "attention", "feed-forward",
                                             "norms",     "output",    "left out"};

struct total {
    int count;
    int64_t parameters, bytes;
    const char *dtype; /* "mixed" when the kind's tensors differ; NULL: none */
};

struct report {
    const char *dir;
    int has_config;
    struct config config;
    struct gen_config gen;
    struct model *model; /* owns; NULL: refused */
    struct total kind[KINDS];
    int n_files;
    struct tokenizer *tokenizer; /* owns; NULL: absent or refused */
    int template;                /* enum chat_template; -1: refused */
    struct err refused[3];       /* of weights, tokenizer, template */
    int n_refused;
};

/* --- gathering --- */

static int has_file(const char *dir, const char *name)
{
    char path[4096];
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int) sizeof path && access(path, F_OK) == 0;
}

static enum kind kind_of(const struct model *m, const struct tensor *t)
{
    if (t == m->embed)
        return KIND_EMBEDDING;
    if (t == m->head)
        return KIND_OUTPUT;
    for (int i = 0; i < m->config.n_layers; i++) {
        const struct layer_tensors *l = &m->layer[i];
        if (t == l->q || t == l->k || t == l->v || t == l->o)
            return KIND_ATTENTION;
        if (t == l->gate || t == l->up || t == l->down)
            return KIND_FFN;
        if (t == l->attn_norm || t == l->ffn_norm || t == l->q_norm || t == l->k_norm)
            return KIND_NORM;
    }
    return t == m->norm ? KIND_NORM : KIND_LEFT_OUT;
}

static int64_t parameters(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->dim[i];
    return n;
}

/* 1: no earlier tensor lies in this one's file. */
static int is_new_file(const struct safetensors *s, int i)
{
    for (int k = 0; k < i; k++)
        if (strcmp(safetensors_at(s, k)->file, safetensors_at(s, i)->file) == 0)
            return 0;
    return 1;
}

static void sum_tensors(struct report *r)
{
    const struct safetensors *s = r->model->tensors;
    for (int i = 0; i < safetensors_count(s); i++) {
        const struct tensor *t = safetensors_at(s, i);
        struct total *k = &r->kind[kind_of(r->model, t)];
        k->count++;
        k->parameters += parameters(t);
        k->bytes += (int64_t) t->bytes;
        k->dtype = !k->dtype || strcmp(k->dtype, t->dtype) == 0 ? t->dtype : "mixed";
        r->n_files += is_new_file(s, i);
    }
}

static void look(struct report *r)
{
    struct err *e = &r->refused[0];
    r->has_config = config_load(&r->config, &r->gen, r->dir, e) == 0;
    if (!r->has_config || model_open(&r->model, r->dir, e) != 0) {
        r->n_refused++;
        return;
    }
    r->config = r->model->config; /* its dtype may be the tensors' */
    sum_tensors(r);
}

static void look_at_text(struct report *r)
{
    if (has_file(r->dir, "tokenizer.json") || has_file(r->dir, "vocab.json"))
        r->n_refused += tokenizer_open(&r->tokenizer, r->dir, &r->refused[r->n_refused]) != 0;
    r->template = CHAT_TEMPLATE_NONE;
    if (template_detect(r->dir, &r->template, &r->refused[r->n_refused]) != 0) {
        r->template = -1;
        r->n_refused++;
    }
}

/* --- sizes --- */

static int64_t all_parameters(const struct report *r)
{
    int64_t n = 0;
    for (int k = 0; k < KIND_LEFT_OUT; k++)
        n += r->kind[k].parameters;
    return n;
}

static int64_t all_bytes(const struct report *r)
{
    int64_t n = 0;
    for (int k = 0; k < KINDS; k++)
        n += r->kind[k].bytes;
    return n;
}

enum precision { F32, BF16, Q8, PRECISIONS };

static const char *const precision_name[PRECISIONS] = {"f32", "bf16", "q8"};

/* Packed weights, the output layer included, norms as float: what a pass over one row reads.  q8: 32 int8 and one FP16
 * scale a block.  The embedding's rows are read from the file as stored. */
static int64_t packed_bytes(const struct report *r, int precision)
{
    static const struct {
        int bytes, weights;
    } block[PRECISIONS] = {{4, 1}, {2, 1}, {34, 32}};
    int output = r->config.tied ? KIND_EMBEDDING : KIND_OUTPUT;
    int64_t n =
        r->kind[KIND_ATTENTION].parameters + r->kind[KIND_FFN].parameters + r->kind[output].parameters;
    return n * block[precision].bytes / block[precision].weights + r->kind[KIND_NORM].parameters * 4;
}

/* Keys and values of one position, all layers. */
static int64_t kv_bytes(const struct config *c, int precision)
{
    return (int64_t) 2 * c->n_layers * c->n_kv_heads * c->head_dim * (precision == F32 ? 4 : 2);
}

/* --- as text --- */

static void print_bytes(const char *name, int64_t n)
{
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    double x = (double) n;
    int u = 0;
    for (; x >= 1000 && u < 4; u++)
        x /= 1000;
    printf("  %-18s%.*f %s (%" PRId64 " bytes)\n", name, u ? 1 : 0, x, unit[u], n);
}

static void text_config(const struct report *r)
{
    const struct config *c = &r->config;
    printf("configuration\n");
    printf("  %-18sdense Qwen3, %s\n", "architecture",
           c->tied ? "output tied to the embedding" : "output of its own");
    printf("  %-18s%d\n", "layers", c->n_layers);
    printf("  %-18s%d\n", "hidden", c->hidden);
    printf("  %-18s%d query, %d key/value, %d wide\n", "heads", c->n_heads, c->n_kv_heads, c->head_dim);
    printf("  %-18s%d\n", "feed-forward", c->ffn);
    printf("  %-18s%d rows\n", "vocabulary", c->vocab);
    printf("  %-18s%d positions\n", "context", c->ctx_max);
    printf("  %-18stheta %g\n", "rope", (double) c->rope_theta);
    printf("  %-18s%g\n", "rms norm eps", (double) c->rms_eps);
    printf("  %-18s%s\n", "dtype", c->dtype[0] ? c->dtype : "not stated");
}

static void text_default(const char *name, int has, double value)
{
    if (has)
        printf("  %-18s%g\n", name, value);
    else
        printf("  %-18sleft open\n", name);
}

static void text_gen(const struct gen_config *g)
{
    printf("generation defaults\n  %-18s", "end of text");
    for (int i = 0; i < g->n_eos; i++)
        printf("%s%d", i ? ", " : "", g->eos[i]);
    printf("%s\n", g->n_eos ? "" : "left open");
    text_default("temperature", g->has_temperature, (double) g->temperature);
    text_default("top_k", g->has_top_k, g->top_k);
    text_default("top_p", g->has_top_p, (double) g->top_p);
    text_default("min_p", g->has_min_p, (double) g->min_p);
}

static void text_totals(const struct report *r)
{
    printf("tensors             count      parameters           bytes  dtype\n");
    for (int k = 0; k < KINDS; k++)
        if (r->kind[k].count)
            printf("  %-18s%5d %15" PRId64 " %15" PRId64 "  %s\n", kind_name[k], r->kind[k].count,
                   r->kind[k].parameters, r->kind[k].bytes, r->kind[k].dtype);
    printf("  %-18s%5d %15" PRId64 " %15" PRId64 "  in %d file%s\n", "all",
           safetensors_count(r->model->tensors), all_parameters(r), all_bytes(r), r->n_files,
           r->n_files == 1 ? "" : "s");
    if (r->kind[KIND_LEFT_OUT].count)
        printf("  left out: not used by this model, and not counted among its parameters\n");
}

static void text_tensors(const struct safetensors *s)
{
    struct show out; /* names come from the file */
    show_init(&out, stdout);
    printf("every tensor\n");
    for (int i = 0; i < safetensors_count(s); i++) {
        const struct tensor *t = safetensors_at(s, i);
        printf("  ");
        show_text(&out, t->name, strlen(t->name), 0);
        printf("  %s [", t->dtype);
        for (int k = 0; k < t->n_dims; k++)
            printf("%s%" PRId64, k ? ", " : "", t->dim[k]);
        printf("]  %zu bytes  %s\n", t->bytes, t->file);
    }
}

static void text_sizes(const struct report *r)
{
    char name[32];
    printf("sizes\n");
    print_bytes("on disk", all_bytes(r));
    for (int p = 0; p < PRECISIONS; p++) {
        snprintf(name, sizeof name, "packed as %s", precision_name[p]);
        print_bytes(name, packed_bytes(r, p));
    }
    print_bytes("KV a token, bf16", kv_bytes(&r->config, BF16));
    print_bytes("KV a token, f32", kv_bytes(&r->config, F32));
    printf("  %-18s%016" PRIx64 "\n", "weights hash", r->model->weights_hash);
}

static void text_report(const struct report *r, const struct options *o)
{
    printf("%s\n", r->dir);
    if (r->has_config) {
        text_config(r);
        text_gen(&r->gen);
    }
    if (r->model) {
        text_totals(r);
        text_sizes(r);
        if (o->tensors)
            text_tensors(r->model->tensors);
    }
    printf("text\n");
    if (r->tokenizer)
        printf("  %-18s%d ids in use\n", "tokenizer", tokenizer_count(r->tokenizer));
    else
        printf("  %-18snone\n", "tokenizer");
    printf("  %-18s%s\n", "chat template", r->template > 0 ? template_name(r->template) : "none");
}

/* --- as JSON --- */

/* Paths need not be UTF-8, JSON must. */
static json_t *json_text(const char *s)
{
    json_t *v = json_string(s);
    char *plain = v ? NULL : strdup(s);
    for (char *p = plain; p && *p; p++)
        if ((unsigned char) *p >= 0x80)
            *p = '?';
    if (!v)
        v = json_string(plain ? plain : "");
    free(plain);
    return v;
}

static json_t *json_config(const struct config *c)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:s}", "model_type",
                     "qwen3", "num_hidden_layers", c->n_layers, "hidden_size", c->hidden,
                     "num_attention_heads", c->n_heads, "num_key_value_heads", c->n_kv_heads, "head_dim",
                     c->head_dim, "intermediate_size", c->ffn, "vocab_size", c->vocab,
                     "max_position_embeddings", c->ctx_max, "rope_theta", (double) c->rope_theta,
                     "rms_norm_eps", (double) c->rms_eps, "tie_word_embeddings", c->tied, "dtype", c->dtype);
}

static json_t *json_gen(const struct gen_config *g)
{
    json_t *eos = json_array();
    for (int i = 0; i < g->n_eos; i++)
        json_array_append_new(eos, json_integer(g->eos[i]));
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "eos_token_id", eos, "temperature",
                     g->has_temperature ? json_real((double) g->temperature) : json_null(), "top_k",
                     g->has_top_k ? json_integer(g->top_k) : json_null(), "top_p",
                     g->has_top_p ? json_real((double) g->top_p) : json_null(), "min_p",
                     g->has_min_p ? json_real((double) g->min_p) : json_null());
}

static json_t *json_totals(const struct report *r)
{
    json_t *all = json_object();
    for (int k = 0; k < KINDS; k++)
        if (r->kind[k].count)
            json_object_set_new(all, kind_name[k],
                                json_pack("{s:i, s:I, s:I, s:s}", "count", r->kind[k].count, "parameters",
                                          (json_int_t) r->kind[k].parameters, "bytes",
                                          (json_int_t) r->kind[k].bytes, "dtype", r->kind[k].dtype));
    return all;
}

static json_t *json_tensors(const struct safetensors *s)
{
    json_t *all = json_array();
    for (int i = 0; i < safetensors_count(s); i++) {
        const struct tensor *t = safetensors_at(s, i);
        json_t *shape = json_array();
        for (int k = 0; k < t->n_dims; k++)
            json_array_append_new(shape, json_integer(t->dim[k]));
        json_array_append_new(all,
                              json_pack("{s:s, s:s, s:o, s:I, s:s}", "name", t->name, "dtype", t->dtype,
                                        "shape", shape, "bytes", (json_int_t) t->bytes, "file", t->file));
    }
    return all;
}

static json_t *json_weights(const struct report *r)
{
    char hash[17];
    json_t *packed = json_object();
    for (int p = 0; p < PRECISIONS; p++)
        json_object_set_new(packed, precision_name[p], json_integer(packed_bytes(r, p)));
    snprintf(hash, sizeof hash, "%016" PRIx64, r->model->weights_hash);
    return json_pack("{s:s, s:i, s:i, s:I, s:I, s:o, s:{s:I, s:I}, s:o}", "hash", hash, "files", r->n_files,
                     "tensors", safetensors_count(r->model->tensors), "parameters",
                     (json_int_t) all_parameters(r), "bytes_on_disk", (json_int_t) all_bytes(r),
                     "bytes_packed", packed, "kv_bytes_per_token", "bf16",
                     (json_int_t) kv_bytes(&r->config, BF16), "f32", (json_int_t) kv_bytes(&r->config, F32),
                     "kinds", json_totals(r));
}

static json_t *json_refused(const struct report *r)
{
    json_t *all = json_array();
    for (int i = 0; i < r->n_refused; i++)
        json_array_append_new(all, json_pack("{s:s, s:o}", "status", status_name(r->refused[i].status),
                                             "text", json_text(r->refused[i].text)));
    return all;
}

/* Parts that could not be read are null. */
static void json_report(const struct report *r, const struct options *o)
{
    json_t *all = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "dir", json_text(r->dir), "config",
        r->has_config ? json_config(&r->config) : json_null(), "generation",
        r->has_config ? json_gen(&r->gen) : json_null(), "weights", r->model ? json_weights(r) : json_null(),
        "tokenizer_ids", r->tokenizer ? json_integer(tokenizer_count(r->tokenizer)) : json_null(),
        "chat_template", r->template > 0 ? json_string(template_name(r->template)) : json_null(), "refused",
        json_refused(r));
    if (r->model && o->tensors)
        json_object_set_new(all, "tensors", json_tensors(r->model->tensors));
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(7));
    printf("\n");
    json_decref(all);
}

/* --- the command --- */

static void usage(FILE *to)
{
    fprintf(to,
            "usage: outrider inspect DIR [--json] [--tensors]\n\n"
            "Shows configuration, generation defaults, tensors, sizes, tokenizer and chat template of a\n"
            "Hugging Face checkpoint directory.\n\n"
            "  --json      one JSON object instead of text\n"
            "  --tensors   every tensor with dtype, shape, bytes and file\n\n"
            "Exit status: 0 it can be served; 1 something is refused (the sentence on stderr says why), or "
            "output failed;\n2 bad usage.\n");
}

static int parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = 1;
        else if (strcmp(argv[i], "--tensors") == 0)
            o->tensors = 1;
        else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            o->help = 1;
        else if (argv[i][0] == '-' || o->dir) {
            fprintf(stderr,
                    "outrider inspect: unexpected argument '%s'; `outrider inspect --help` explains\n",
                    argv[i]);
            return -1;
        } else
            o->dir = argv[i];
    }
    if (!o->dir && !o->help)
        fprintf(stderr, "outrider inspect: no directory given; `outrider inspect --help` explains\n");
    return o->dir || o->help ? 0 : -1;
}

int cmd_inspect(int argc, char **argv)
{
    struct options o = {0};
    if (parse(&o, argc, argv) != 0)
        return EXIT_USAGE;
    if (o.help) {
        usage(stdout);
        return EXIT_DONE;
    }
    struct report r = {.dir = o.dir};
    look(&r);
    look_at_text(&r);
    if (o.json)
        json_report(&r, &o);
    else
        text_report(&r, &o);
    int lost = fflush(stdout) || ferror(stdout);
    if (lost)
        fprintf(stderr, "outrider inspect: cannot write to standard output\n");
    for (int i = 0; i < r.n_refused; i++)
        fprintf(stderr, "outrider inspect: refused: %s\n", r.refused[i].text);
    tokenizer_close(r.tokenizer);
    model_close(r.model);
    return r.n_refused || lost ? EXIT_FAILED : EXIT_DONE;
}
