/* draft.c - what a level of the draft takes by rows, from all of the output layer and from its frequent part.
 *
 *     draft [--model synth:0.6b] [--quant q8] [--threads N] [--head N] [--context N] [--rounds R]
 *
 * One conversation of `context` tokens; levels of 1, 2, 4 and 8 rows, whole, in part, and in part and then widened, by turns; JSON of
 * the medians and the least, milliseconds. */
#include "draft/internal.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SIZES = 4, ROUNDS_MAX = 1000, KINDS = 3 };

static const int sizes[SIZES] = {1, 2, 4, 8};
static const char *const kinds[KINDS] = {"whole", "part", "widened"};
static double took[KINDS][SIZES][ROUNDS_MAX];

static void must(int st, const struct err *e)
{
    if (st) {
        fprintf(stderr, "draft: %s\n", e->text);
        exit(1);
    }
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec * 1e3 + (double) t.tv_nsec * 1e-6;
}

/* What is missing, as the draft believes it, decides whether a level is widened. */
static void believe(struct draft *d, int all_missing)
{
    for (int b = 0; b < CONF_BINS; b++) {
        d->head.trials[b] = 100;
        d->head.misses[b] = all_missing ? 100 : 0;
    }
}

/* A level of `rows` rows: so many sequences' roots, read in one pass. */
static double level(struct draft *d, struct draft_seq **seq, int rows)
{
    static struct tree tree[8];
    struct draw_params draw = {
        .top_p = 1, .repetition = 1, .max_tokens = 9, .seed = 7, .think = {-1, -1, -1, -1, NULL, 0}};
    struct draft_job job[8];
    struct draft_pass did;
    static struct draw_state state = {.matched = -1};
    state.pos = seq[0]->n_tok + 1;
    for (int i = 0; i < rows; i++)
        job[i] = (struct draft_job){.seq = seq[i],
                                    .root = 1000 + i,
                                    .draw = &draw,
                                    .state = &state,
                                    .nodes = 2,
                                    .depth = 1,
                                    .tree = &tree[i]};
    double start = now_ms();
    must(draft_begin(d, job, rows, &did), &(struct err){.text = "a pass failed"});
    start = now_ms() - start;
    if (did.rows != rows) {
        fprintf(stderr, "draft: a level of %d rows read %d\n", rows, did.rows);
        exit(1);
    }
    return start;
}

static int up(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;
    return x < y ? -1 : x > y;
}

static void print_all(int rounds)
{
    printf("{");
    for (int k = 0; k < KINDS; k++) {
        printf("%s\"%s\": {", k ? ", " : "", kinds[k]);
        for (int i = 0; i < SIZES; i++) {
            qsort(took[k][i], (size_t) rounds, sizeof(double), up);
            printf("%s\"%d\": [%.2f, %.2f]", i ? ", " : "", sizes[i], took[k][i][rounds / 2], took[k][i][0]);
        }
        printf("}");
    }
    printf("}\n");
}

static struct draft *open_draft(struct cpu *c, struct cpu_model *w, const struct model *m, int head,
                                int context)
{
    struct draft *d;
    struct err e;
    struct draft_opts o = {.cpu = c,
                           .weights = w,
                           .model = m,
                           .vocab = m->config.vocab,
                           .seqs_max = 8,
                           .context = 2 * context < 2 * CPU_PAGE ? 2 * CPU_PAGE : 2 * context,
                           .text_max = 2 * context,
                           .top = 3,
                           .head = head,
                           .prompt_rows = 64,
                           .kv_bytes = INT64_C(4) << 30};
    must(draft_open(&d, &o, &e), &e);
    return d;
}

static void fill(struct draft *d, struct draft_seq **seq, int context)
{
    static struct tree t;
    static struct draw_state state = {.pos = 1, .matched = -1};
    struct draw_params draw = {.top_p = 1, .repetition = 1, .max_tokens = 9};
    struct draft_pass did;
    for (int i = 0; i < 8; i++) {
        must(draft_seq_new(d, &seq[i]), &(struct err){.text = "no sequence"});
        for (int32_t k = 0; k < context; k++) {
            int32_t tok = k % 20 ? (k * 7919 + i * 31) % 30000 : 30000 + (k * 7919 + i * 31) % 100000;
            must(draft_feed(d, seq[i], &tok, 1), &(struct err){.text = "no room for the text"});
        }
        struct draft_job j = {
            .seq = seq[i], .draw = &draw, .state = &state, .nodes = 1, .read = 1 << 20, .tree = &t};
        while (draft_unread(d, seq[i]))
            must(draft_begin(d, &j, 1, &did), &(struct err){.text = "a pass failed"});
    }
}

/* All levels' guesses in one pass (the weights are not trained for it: its time is the same). */
static void print_parallel(struct cpu *cpu, struct cpu_model *w, struct model *m, int context, int rounds)
{
    static const int depths[] = {4, 8, 12};
    static struct tree tree;
    static struct draw_state state = {.matched = -1};
    struct draw_params draw = {
        .top_p = 1, .repetition = 1, .max_tokens = 99, .seed = 7, .think = {-1, -1, -1, -1, NULL, 0}};
    struct draft_seq *seq[8];
    struct draft_pass did;
    m->config.parallel = 1;
    m->config.pard_token = m->config.vocab - 1;
    struct draft *d = open_draft(cpu, w, m, 0, context);
    fill(d, seq, context);
    state.pos = seq[0]->n_tok + 1;
    for (int i = 0; i < 3; i++) {
        for (int r = 0; r < rounds; r++) {
            struct draft_job j = {.seq = seq[0],
                                  .root = 1000,
                                  .draw = &draw,
                                  .state = &state,
                                  .nodes = 16,
                                  .depth = depths[i],
                                  .tree = &tree};
            double start = now_ms();
            must(draft_begin(d, &j, 1, &did), &(struct err){.text = "a pass failed"});
            took[0][0][r] = now_ms() - start;
        }
        qsort(took[0][0], (size_t) rounds, sizeof(double), up);
        printf("{\"levels in one pass\": %d, \"rows\": %d, \"ms\": [%.2f, %.2f]}\n", depths[i], did.rows,
               took[0][0][rounds / 2], took[0][0][0]);
    }
}

int main(int argc, char **argv)
{
    const char *name = "synth:0.6b", *quant = "q8";
    int threads = 2, head = 32768, context = 128, rounds = 30;
    static const struct option list[] = {{"model", 1, NULL, 'm'},   {"quant", 1, NULL, 'q'},
                                         {"threads", 1, NULL, 't'}, {"head", 1, NULL, 'h'},
                                         {"context", 1, NULL, 'c'}, {"rounds", 1, NULL, 'r'},
                                         {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", list, NULL)) != -1;) {
        int n = optarg ? atoi(optarg) : 0;
        if (c == 'm')
            name = optarg;
        else if (c == 'q')
            quant = optarg;
        else if (c == '?')
            return 2;
        else
            *(c == 't' ? &threads : c == 'h' ? &head : c == 'c' ? &context : &rounds) = n;
    }
    struct model *m;
    struct cpu *cpu;
    struct cpu_model *w;
    struct err e;
    struct draft_seq *seq[2][8];
    rounds = rounds < ROUNDS_MAX ? rounds : ROUNDS_MAX;
    must(model_open(&m, name, &e), &e);
    must(cpu_open(&cpu, &(struct cpu_opts){.threads = threads}, &e), &e);
    must(cpu_model_open(&w, cpu, m, cpu_quant_find(quant), &e), &e);
    struct draft *whole = open_draft(cpu, w, m, 0, context), *part = open_draft(cpu, w, m, head, context);
    fill(whole, seq[0], context);
    fill(part, seq[1], context);
    fprintf(stderr, "%d panels of texts beside %d ids\n", part->head.n_hot, part->head.limit);
    for (int r = -2; r < rounds; r++)
        for (int i = 0; i < SIZES; i++)
            for (int k = 0; k < KINDS; k++) {
                believe(part, k == 2);
                double ms = level(k ? part : whole, seq[k > 0], sizes[i]);
                if (r >= 0)
                    took[k][i][r] = ms;
            }
    print_all(rounds);
    print_parallel(cpu, w, m, context, rounds);
    return 0;
}
