/* cmd_inspect.c - `outrider inspect MODEL`: what a checkpoint is, what it takes, and what is refused and why.
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

#include "cpu/cpu.h"
#include "model/model.h"
#include "model/template.h"
#include "model/tokenizer.h"

struct options {
    const char *dir;
    int json, tensors, help;
};

enum kind {
    KIND_EMBEDDING,
    KIND_ATTENTION,
    KIND_FFN,
    KIND_EXPERTS,
    KIND_ROUTER,
    KIND_NORM,
    KIND_OUTPUT,
    KIND_LEFT_OUT,
    KINDS
};

static const char *const kind_name[KINDS] = {"embedding", "attention", "feed-forward", "experts",
                                             "routers",   "norms",     "output",       "left out"};

enum { FILES_MAX = 4096 }; /* as many shards as model_open takes */

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

/* The kind of every tensor. */
struct kinds {
    const struct model *m;
    unsigned char *of; /* owns; (n_tensors), KIND_LEFT_OUT where nothing uses one */
};

/* A view of a stack counts for the stack, scales for their weights. */
static void mark(struct kinds *k, const struct tensor *t, enum kind kind)
{
    const struct tensor *stored = t ? tensor_find(k->m->tensor, k->m->n_tensors, t->name) : NULL;
    if (stored)
        k->of[stored - k->m->tensor] = (unsigned char) kind;
    if (t && t->scale)
        k->of[t->scale - k->m->tensor] = (unsigned char) kind;
}

static void mark_layer(struct kinds *k, const struct layer_tensors *l)
{
    const struct {
        const struct tensor *t;
        enum kind kind;
    } list[] = {
        {l->q, KIND_ATTENTION}, {l->k, KIND_ATTENTION}, {l->v, KIND_ATTENTION},    {l->o, KIND_ATTENTION},
        {l->gate, KIND_FFN},    {l->up, KIND_FFN},      {l->down, KIND_FFN},       {l->router, KIND_ROUTER},
        {l->q_norm, KIND_NORM}, {l->k_norm, KIND_NORM}, {l->attn_norm, KIND_NORM}, {l->ffn_norm, KIND_NORM},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        mark(k, list[i].t, list[i].kind);
    for (int j = 0; l->router && j < k->m->config.moe.n_experts; j++) {
        mark(k, l->expert[j].gate, KIND_EXPERTS);
        mark(k, l->expert[j].up, KIND_EXPERTS);
        mark(k, l->expert[j].down, KIND_EXPERTS);
    }
}

static int mark_all(struct kinds *k, const struct model *m)
{
    *k = (struct kinds){m, malloc((size_t) m->n_tensors + 1)};
    if (!k->of)
        return ST_NOMEM;
    memset(k->of, KIND_LEFT_OUT, (size_t) m->n_tensors + 1);
    mark(k, m->norm, KIND_NORM);
    mark(k, m->head, KIND_OUTPUT);
    mark(k, m->embed, KIND_EMBEDDING);
    for (int i = 0; i < m->config.n_layers; i++)
        mark_layer(k, &m->layer[i]);
    return 0;
}

static int64_t parameters(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->dim[i];
    return n;
}

static int is_scale(const struct tensor *t)
{
    static const char suffix[] = "_scale_inv";
    size_t n = strlen(t->name), k = sizeof suffix - 1;
    return n > k && strcmp(t->name + n - k, suffix) == 0;
}

/* Scales are bytes of their weights, no parameters. */
static void add_tensor(struct total *k, const struct tensor *t)
{
    k->bytes += (int64_t) t->bytes;
    if (is_scale(t))
        return;
    k->count++;
    k->parameters += parameters(t);
    k->dtype = !k->dtype || strcmp(k->dtype, t->dtype) == 0 ? t->dtype : "mixed";
}

static int count_files(const struct model *m)
{
    const char *seen[FILES_MAX];
    int n = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        int k = n - 1;
        while (k >= 0 && strcmp(seen[k], m->tensor[i].file) != 0)
            k--;
        if (k < 0 && n < FILES_MAX)
            seen[n++] = m->tensor[i].file;
    }
    return n;
}

static int sum_tensors(struct report *r)
{
    struct kinds k;
    int st = mark_all(&k, r->model);
    for (int i = 0; !st && i < r->model->n_tensors; i++)
        add_tensor(&r->kind[k.of[i]], &r->model->tensor[i]);
    r->n_files = count_files(r->model);
    free(k.of);
    return st;
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
    if (sum_tensors(r) != 0)
        r->n_refused += err_set(e, ST_NOMEM, "out of memory") != 0;
}

/* The newest refusal counts where it says something that the others do not. */
static void refuse(struct report *r)
{
    for (int i = 0; i < r->n_refused; i++)
        if (strcmp(r->refused[i].text, r->refused[r->n_refused].text) == 0)
            return;
    r->n_refused++;
}

static void look_at_text(struct report *r)
{
    int st = tokenizer_open(&r->tokenizer, r->dir, &r->refused[r->n_refused]);
    int absent = st == ST_NOTFOUND && !has_file(r->dir, "vocab.json");
    if (st != 0 && !absent)
        refuse(r);
    r->template = CHAT_TEMPLATE_NONE;
    if (template_detect(r->dir, &r->template, &r->refused[r->n_refused]) != 0) {
        r->template = -1;
        refuse(r);
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

/* Those that one row's pass uses: of the experts, the chosen ones. */
static int64_t active_parameters(const struct report *r)
{
    int64_t experts = r->kind[KIND_EXPERTS].parameters, n = r->config.moe.n_experts;
    return all_parameters(r) - experts + (n ? experts / n * r->config.moe.n_used : 0);
}

static int64_t all_bytes(const struct report *r)
{
    int64_t n = 0;
    for (int k = 0; k < KINDS; k++)
        n += r->kind[k].bytes;
    return n;
}

enum precision { F32, BF16, Q8, Q4, PRECISIONS };

static const char *const precision_name[PRECISIONS] = {"f32", "bf16", "q8", "q4"};

/* Packed weights, the output layer included, norms and routers as float.  q8: 32 int8 and one FP16 scale a block; q4: 16
 * bytes and the scale.  The embedding's rows are read from the file as stored. */
static int64_t packed_bytes(const struct report *r, int precision)
{
    static const struct {
        int bytes, weights;
    } block[PRECISIONS] = {{4, 1}, {2, 1}, {34, 32}, {18, 32}};
    int output = r->config.tied ? KIND_EMBEDDING : KIND_OUTPUT;
    int64_t n = r->kind[KIND_ATTENTION].parameters + r->kind[KIND_FFN].parameters +
                r->kind[KIND_EXPERTS].parameters + r->kind[output].parameters;
    return n * block[precision].bytes / block[precision].weights +
           4 * (r->kind[KIND_NORM].parameters + r->kind[KIND_ROUTER].parameters);
}

/* Keys and values of one position, all layers. */
static int64_t kv_bytes(const struct config *c, int precision)
{
    return (int64_t) 2 * c->n_layers * c->n_kv_heads * c->head_dim * (precision == F32 ? 4 : 2);
}

/* What the matrices become in memory where --target-quant does not say. */
static void served_as(const struct model *m, char text[200])
{
    cpu_quant_describe(m, CPU_QUANT_STORED, text, 200);
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

static int expert_layers(const struct config *c)
{
    int n = 0;
    for (int i = 0; i < c->n_layers; i++)
        n += c->moe.layer[i];
    return n;
}

static void text_experts(const struct config *c)
{
    const struct moe *m = &c->moe;
    if (m->n_experts)
        printf("  %-18s%d in %d of %d layers, %d used, %d wide, weights %s\n", "experts", m->n_experts,
               expert_layers(c), c->n_layers, m->n_used, m->ffn,
               m->norm_topk ? "made to sum to 1" : "as they are");
}

static void text_rope(const struct config *c)
{
    const struct yarn *y = &c->yarn;
    printf("  %-18stheta %g\n", "rope", (double) c->rope_theta);
    if (y->factor > 0)
        printf("  %-18sfactor %g over %d positions, attention factor %g, beta %g and %g%s\n", "yarn",
               (double) y->factor, y->original_ctx, (double) y->attention_factor, (double) y->beta_fast,
               (double) y->beta_slow, y->truncate ? "" : ", not truncated");
}

static void text_config(const struct report *r)
{
    const struct config *c = &r->config;
    printf("configuration\n");
    printf("  %-18s%s Qwen3, %s\n", "architecture", c->moe.n_experts ? "MoE" : "dense",
           c->tied ? "output tied to the embedding" : "output of its own");
    printf("  %-18s%d\n", "layers", c->n_layers);
    printf("  %-18s%d\n", "hidden", c->hidden);
    printf("  %-18s%d query, %d key/value, %d wide\n", "heads", c->n_heads, c->n_kv_heads, c->head_dim);
    printf("  %-18s%d\n", "feed-forward", c->ffn);
    text_experts(c);
    printf("  %-18s%d rows\n", "vocabulary", c->vocab);
    printf("  %-18s%d positions\n", "context", c->ctx_max);
    text_rope(c);
    printf("  %-18s%g\n", "rms norm eps", (double) c->rms_eps);
    printf("  %-18s%s%s\n", "dtype", c->dtype[0] ? c->dtype : "each tensor's own",
           c->fp8 ? ", matrices FP8 in blocks of 128 x 128" : "");
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
    text_default("repetition", g->has_repetition_penalty, (double) g->repetition_penalty);
}

static void text_totals(const struct report *r)
{
    printf("tensors             count      parameters           bytes  dtype\n");
    for (int k = 0; k < KINDS; k++)
        if (r->kind[k].count)
            printf("  %-18s%5d %15" PRId64 " %15" PRId64 "  %s\n", kind_name[k], r->kind[k].count,
                   r->kind[k].parameters, r->kind[k].bytes, r->kind[k].dtype);
    printf("  %-18s%5d %15" PRId64 " %15" PRId64 "  in %d file%s\n", "all", r->model->n_tensors,
           all_parameters(r), all_bytes(r), r->n_files, r->n_files == 1 ? "" : "s");
    if (r->config.moe.n_experts)
        printf("  %-18s%5s %15" PRId64 "\n", "used by one row", "", active_parameters(r));
    if (r->kind[KIND_LEFT_OUT].count)
        printf("  left out: not used by this model, and not counted among its parameters\n");
}

static void text_tensors(const struct model *m)
{
    struct show out; /* names come from the file */
    show_init(&out, stdout);
    printf("every tensor\n");
    for (int i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensor[i];
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
    char name[32], kept[200];
    printf("sizes\n");
    print_bytes(r->model->synth ? "written out" : "on disk", all_bytes(r));
    served_as(r->model, kept);
    printf("  %-18s%s\n", "served as", kept);
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
            text_tensors(r->model);
    }
    if (!r->has_config && !r->tokenizer && r->template <= 0)
        return;
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

static json_t *json_experts(const struct config *c)
{
    if (!c->moe.n_experts)
        return json_null();
    return json_pack("{s:i, s:i, s:i, s:b, s:i}", "num_experts", c->moe.n_experts, "num_experts_per_tok",
                     c->moe.n_used, "moe_intermediate_size", c->moe.ffn, "norm_topk_prob", c->moe.norm_topk,
                     "layers", expert_layers(c));
}

static json_t *json_yarn(const struct yarn *y)
{
    if (!(y->factor > 0))
        return json_null();
    return json_pack("{s:s, s:f, s:i, s:f, s:f, s:f, s:b}", "rope_type", "yarn", "factor", (double) y->factor,
                     "original_max_position_embeddings", y->original_ctx, "attention_factor",
                     (double) y->attention_factor, "beta_fast", (double) y->beta_fast, "beta_slow",
                     (double) y->beta_slow, "truncate", y->truncate);
}

static json_t *json_config(const struct config *c)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:s, s:b, s:o, s:o}",
                     "model_type", c->moe.n_experts ? "qwen3_moe" : "qwen3", "num_hidden_layers", c->n_layers,
                     "hidden_size", c->hidden, "num_attention_heads", c->n_heads, "num_key_value_heads",
                     c->n_kv_heads, "head_dim", c->head_dim, "intermediate_size", c->ffn, "vocab_size",
                     c->vocab, "max_position_embeddings", c->ctx_max, "rope_theta", (double) c->rope_theta,
                     "rms_norm_eps", (double) c->rms_eps, "tie_word_embeddings", c->tied, "dtype", c->dtype,
                     "fp8", c->fp8, "rope_scaling", json_yarn(&c->yarn), "experts", json_experts(c));
}

static json_t *json_gen(const struct gen_config *g)
{
    json_t *eos = json_array();
    for (int i = 0; i < g->n_eos; i++)
        json_array_append_new(eos, json_integer(g->eos[i]));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "eos_token_id", eos, "repetition_penalty",
                     g->has_repetition_penalty ? json_real((double) g->repetition_penalty) : json_null(),
                     "temperature", g->has_temperature ? json_real((double) g->temperature) : json_null(),
                     "top_k", g->has_top_k ? json_integer(g->top_k) : json_null(), "top_p",
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

static json_t *json_tensors(const struct model *m)
{
    json_t *all = json_array();
    for (int i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensor[i];
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
    char hash[17], kept[200];
    json_t *packed = json_object();
    for (int p = 0; p < PRECISIONS; p++)
        json_object_set_new(packed, precision_name[p], json_integer(packed_bytes(r, p)));
    snprintf(hash, sizeof hash, "%016" PRIx64, r->model->weights_hash);
    served_as(r->model, kept);
    return json_pack("{s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:o, s:{s:I, s:I}, s:o}", "hash", hash, "served_as",
                     kept, "files", r->n_files, "tensors", r->model->n_tensors, "parameters",
                     (json_int_t) all_parameters(r), "active_parameters", (json_int_t) active_parameters(r),
                     "bytes_on_disk", (json_int_t) all_bytes(r), "bytes_packed", packed, "kv_bytes_per_token",
                     "bf16", (json_int_t) kv_bytes(&r->config, BF16), "f32",
                     (json_int_t) kv_bytes(&r->config, F32), "kinds", json_totals(r));
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
        json_object_set_new(all, "tensors", json_tensors(r->model));
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(7));
    printf("\n");
    json_decref(all);
}

/* --- the command --- */

static void usage(FILE *to)
{
    fprintf(to,
            "usage: outrider inspect MODEL [--json] [--tensors]\n\n"
            "Shows configuration, generation defaults, tensors, sizes, tokenizer and chat template of a\n"
            "Hugging Face checkpoint directory, a .gguf file, or synth:SHAPE.\n\n"
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
        fprintf(stderr, "outrider inspect: no MODEL given; `outrider inspect --help` explains\n");
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
