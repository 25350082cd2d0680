/* cmd_bench.c - `outrider bench`: loads a daemon and says what a client sees of it.
 *
 * This file is the command line and the order of things; bench_load.c sends and takes the times, bench_figures.c makes the
 * figures, bench_report.c and bench_html.c say them.  Standard output carries the report, standard error the progress line (on a
 * terminal) and errors. */
#include "client/bench_report.h"
#include "client/cmd.h"
#include "client/interrupt.h"
#include "client/options.h"
#include "client/show.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    DEFAULT_PROMPT = 128, /* tokens of a synthetic request when nothing is said */
    DEFAULT_OUTPUT = 64,
    DEFAULT_PER_CLIENT = 8,        /* requests */
    DEFAULT_OPEN_CONNECTIONS = 16, /* enough that no stream waits for another's bytes */
    OPEN_PAIRS = 5,                /* of --speculation both in an open loop */
    RATE_MAX = 100000,             /* requests a second; far over what one client core sends */
};

enum {
    FLAG_CONCURRENCY = OPTION_OWN,
    FLAG_RATE,
    FLAG_POISSON,
    FLAG_REQUESTS,
    FLAG_DATASET,
    FLAG_SYNTHETIC,
    FLAG_RAW,
    FLAG_WARMUP,
    FLAG_CONNECTIONS,
    FLAG_SPECULATION,
    FLAG_SLO,
    FLAG_JSON,
    FLAG_PER_REQUEST,
    FLAG_HTML,
};

/* --speculation stands here before the shared row of that name: getopt_long takes the first, and this one knows `both`. */
static const struct option table[] = {
    {"concurrency", required_argument, NULL, FLAG_CONCURRENCY},
    {"rate", required_argument, NULL, FLAG_RATE},
    {"poisson", no_argument, NULL, FLAG_POISSON},
    {"requests", required_argument, NULL, FLAG_REQUESTS},
    {"dataset", required_argument, NULL, FLAG_DATASET},
    {"synthetic", required_argument, NULL, FLAG_SYNTHETIC},
    {"raw", no_argument, NULL, FLAG_RAW},
    {"warmup", required_argument, NULL, FLAG_WARMUP},
    {"connections", required_argument, NULL, FLAG_CONNECTIONS},
    {"speculation", required_argument, NULL, FLAG_SPECULATION},
    {"slo", required_argument, NULL, FLAG_SLO},
    {"json", no_argument, NULL, FLAG_JSON},
    {"per-request", required_argument, NULL, FLAG_PER_REQUEST},
    {"html", required_argument, NULL, FLAG_HTML},
    OPTIONS_CALL,
    OPTIONS_SAMPLING,
    {0},
};

struct bench {
    struct options o;
    struct bench_source source;
    struct bench_outcome out;
    struct bench_progress progress;
    struct bench_load *load;    /* owns */
    Outrider__V1__Model *model; /* owns */
    FILE *per_request, *html;   /* own; NULL: not asked for */
    const char *per_request_path, *html_path;
    int json, both;
};

static const char help[] =
    "usage: outrider bench [OPTIONS]\n"
    "\n"
    "Loads a daemon and reports what a client sees: TTFT, TPOT, chunk gaps, end-to-end latency, tokens/s,\n"
    "requests/s, tokens a target pass, acceptance by depth, goodput.\n"
    "\n"
    "load\n"
    "  --concurrency N     N clients, each with one request at a time (1..%d; default 1)\n"
    "  --rate R            instead: R requests a second, whether or not the server keeps up; latency\n"
    "                      counts from the scheduled time\n"
    "  --poisson           with --rate: exponential gaps, made of --seed; otherwise even ones\n"
    "  --requests M        so many requests (default: a dataset's lines, or %d for each client)\n"
    "  --warmup K          K requests before, which are not measured (default 0)\n"
    "  --connections K     spread over K connections (1..%d; default: one a client, or %d with --rate)\n"
    "\n"
    "requests\n"
    "  --synthetic P,O     P prompt tokens drawn by --seed from the served vocabulary, O tokens of\n"
    "                      answer, no end of text (default %d,%d)\n"
    "  --dataset F         JSON lines {\"prompt\": TEXT} or {\"messages\": [{\"role\", \"content\"}, ...]}, "
    "each\n"
    "                      with an optional \"max_tokens\"; from the first line again when too few\n"
    "  --raw               a dataset's prompts are continued as they are, not asked as user messages\n"
    "  --speculation HOW   auto, off, N, or both: blocks of requests with auto and with off in turn, on\n"
    "                      the same requests, and the medians of pairs.  Before a pair its prompts are\n"
    "                      read once (unmeasured), so that a prefix cache favours neither\n"
    "  --seed S            request i is sampled with seed S + i (default 1)\n"
    "\n"
    "report\n"
    "  --slo L:MS,...      limits a good request keeps, of ttft, tpot and e2e: ttft:500,tpot:50; the\n"
    "                      rate of good requests is the goodput\n"
    "  --json              one JSON object on standard output instead of text\n"
    "  --per-request F     one JSON line a request into file F, with the time of every chunk\n"
    "  --html F            a page with plots into file F; it needs no other file\n"
    "\n"
    "TTFT: time to the first chunk with a token.  TPOT: (last chunk - first) / (tokens - 1).  A chunk may\n"
    "carry several tokens; gaps are between chunks.  Percentiles are nearest ranks of complete answers.\n"
    "Ctrl-C cancels what runs and reports what there is.\n"
    "\n"
    "As for `outrider generate` (but --seed and --speculation are those above, --n is 1, and --max-tokens\n"
    "is for lines of a dataset without their own)\n";

static void usage(FILE *to)
{
    fprintf(to, help, BENCH_CLIENTS_MAX, DEFAULT_PER_CLIENT, BENCH_CONNECTIONS_MAX, DEFAULT_OPEN_CONNECTIONS,
            DEFAULT_PROMPT, DEFAULT_OUTPUT);
    fprintf(to,
            "%s%s%s"
            "\nExit status: 0 all requests complete; 1 some failed, or output failed; 2 bad usage; 3 the "
            "server cannot be\nreached, went away or refused every request; 130 interrupted.\n",
            options_help_sampling, options_help_answers, options_help_call);
}

/* --- reading the command line --- */

static int take_synthetic(struct bench_plan *p, const char *arg, struct err *e)
{
    int used = 0;
    if (sscanf(arg, "%d,%d%n", &p->n_prompt, &p->n_output, &used) != 2 || arg[used] || p->n_prompt < 1 ||
        p->n_output < 1 || p->n_prompt > BENCH_SYNTHETIC_MAX || p->n_output > BENCH_SYNTHETIC_MAX)
        return err_set(
            e, ST_INPUT,
            "--synthetic takes two numbers of tokens from 1 to %d, prompt and answer, such as %d,%d, "
            "not '%.60s'",
            BENCH_SYNTHETIC_MAX, DEFAULT_PROMPT, DEFAULT_OUTPUT, arg);
    return 0;
}

static int take_rate(struct bench_plan *p, const char *arg, struct err *e)
{
    float rate;
    if (options_float(arg, "--rate", &rate, e) || !(rate > 0 && rate <= RATE_MAX))
        return err_set(e, ST_INPUT, "--rate takes requests a second, above 0 and at most %d, not '%.60s'",
                       RATE_MAX, arg);
    p->rate = strtod(arg, NULL); /* 0.1 as it is said, not as a float has it */
    return 0;
}

static int take_limit(struct bench_slo *s, const char *name, size_t n, double ms)
{
    const struct {
        const char *name;
        double *to;
    } limits[] = {{"ttft", &s->ttft_ms}, {"tpot", &s->tpot_ms}, {"e2e", &s->e2e_ms}};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (strlen(limits[i].name) == n && strncmp(limits[i].name, name, n) == 0 && *limits[i].to == 0) {
            *limits[i].to = ms;
            return 0;
        }
    return ST_INPUT;
}

static int take_slo(struct bench_slo *s, const char *arg, struct err *e)
{
    const char *p = arg;
    for (;;) {
        size_t n = strcspn(p, ":");
        char *end = NULL;
        double ms = p[n] ? strtod(p + n + 1, &end) : 0;
        if (!(ms > 0 && ms < 1e12) || (*end && *end != ',') || take_limit(s, p, n, ms))
            return err_set(
                e, ST_INPUT,
                "--slo takes limits in ms for ttft, tpot and e2e, each once, such as ttft:500,tpot:50, not "
                "'%.60s'",
                arg);
        if (!*end)
            return 0;
        p = end + 1;
    }
}

static int take_speculation(struct bench *b, const char *arg, struct err *e)
{
    b->both = strcmp(arg, "both") == 0;
    if (b->both || options_speculation(arg, &b->o.speculation, NULL) == 0)
        return 0;
    return err_set(e, ST_INPUT,
                   "--speculation takes auto, off, both or a number of nodes from 1 to 64, not '%.60s'", arg);
}

static int take_count(int flag, struct bench_plan *p, struct err *e)
{
    switch (flag) {
    case FLAG_CONCURRENCY:
        return options_int(optarg, "--concurrency", 1, BENCH_CLIENTS_MAX, &p->n_clients, e);
    case FLAG_REQUESTS:
        return options_int(optarg, "--requests", 1, BENCH_REQUESTS_MAX, &p->n_requests, e);
    case FLAG_WARMUP:
        return options_int(optarg, "--warmup", 0, BENCH_REQUESTS_MAX, &p->n_warmup, e);
    default:
        return options_int(optarg, "--connections", 1, BENCH_CONNECTIONS_MAX, &p->n_connections, e);
    }
}

static int take_own(struct bench *b, int flag, struct err *e)
{
    struct bench_plan *p = &b->out.plan;
    switch (flag) {
    case FLAG_RATE:
        return take_rate(p, optarg, e);
    case FLAG_POISSON:
        p->poisson = 1;
        return 0;
    case FLAG_DATASET:
        p->dataset = optarg;
        return 0;
    case FLAG_SYNTHETIC:
        return take_synthetic(p, optarg, e);
    case FLAG_RAW:
        b->source.raw = 1;
        return 0;
    case FLAG_SPECULATION:
        return take_speculation(b, optarg, e);
    case FLAG_SLO:
        return take_slo(&p->slo, optarg, e);
    case FLAG_JSON:
        b->json = 1;
        return 0;
    case FLAG_PER_REQUEST:
        b->per_request_path = optarg;
        return 0;
    case FLAG_HTML:
        b->html_path = optarg;
        return 0;
    default:
        return take_count(flag, p, e);
    }
}

static int check_flags(const struct bench *b, int n_words, struct err *e)
{
    const struct bench_plan *p = &b->out.plan;
    if (n_words)
        return err_set(e, ST_INPUT,
                       "no argument is taken beside the options; `outrider bench --help` lists them");
    if (p->n_clients && p->rate > 0)
        return err_set(e, ST_INPUT, "give --concurrency (a closed loop) or --rate (an open one), not both");
    if (p->poisson && !(p->rate > 0))
        return err_set(e, ST_INPUT, "--poisson is a manner of --rate; give a rate");
    if (p->dataset && p->n_prompt)
        return err_set(e, ST_INPUT, "give --dataset or --synthetic, not both");
    if (!p->dataset && (b->source.raw || b->o.system))
        return err_set(e, ST_INPUT, "%s goes with --dataset; a synthetic prompt is token ids",
                       b->source.raw ? "--raw" : "--system");
    if (b->o.sampling.n__case && b->o.sampling.n != 1)
        return err_set(e, ST_INPUT,
                       "one answer a request is measured; leave --n away and ask for more requests");
    if (!p->dataset && b->o.stopping.max_tokens__case)
        return err_set(e, ST_INPUT, "--max-tokens goes with --dataset; --synthetic P,O says how many");
    if (b->source.raw && b->o.system)
        return err_set(e, ST_INPUT, "--system belongs to a conversation; a raw prompt is continued as it is");
    return 0;
}

/* What was not said. */
static void fill_in(struct bench *b)
{
    struct bench_plan *p = &b->out.plan;
    if (!p->n_clients && !(p->rate > 0))
        p->n_clients = 1;
    if (!p->dataset && !p->n_prompt) {
        p->n_prompt = DEFAULT_PROMPT;
        p->n_output = DEFAULT_OUTPUT;
    }
    if (!p->n_requests)
        p->n_requests = p->dataset ? (int32_t) b->source.n_lines
                                   : DEFAULT_PER_CLIENT * (p->n_clients ? p->n_clients : DEFAULT_PER_CLIENT);
    if (!p->n_connections) {
        int32_t most = p->n_clients ? BENCH_CONNECTIONS_MAX : DEFAULT_OPEN_CONNECTIONS;
        int32_t wanted = p->n_clients && p->n_clients < p->n_requests ? p->n_clients : p->n_requests;
        p->n_connections = wanted < most ? wanted : most;
    }
    p->server = b->o.server;
    p->seed = b->o.sampling.seed__case ? b->o.sampling.seed : 1;
    options_point(&b->o);
    b->source.o = &b->o;
    b->source.seed = p->seed;
    b->source.n_prompt = p->n_prompt;
    b->source.n_output = p->n_output;
}

static void label_modes(struct bench *b)
{
    struct bench_mode *m = b->out.mode;
    b->out.n_modes = b->both ? 2 : 1;
    m[0].speculation = b->o.speculation;
    outrider__v1__speculation__init(&m[1].speculation);
    m[1].speculation.mode = OUTRIDER__V1__SPECULATION__MODE__OFF;
    snprintf(m[1].label, sizeof m[1].label, "off");
    if (m[0].speculation.mode == OUTRIDER__V1__SPECULATION__MODE__NODES)
        snprintf(m[0].label, sizeof m[0].label, "%d", m[0].speculation.nodes);
    else
        snprintf(m[0].label, sizeof m[0].label, "%s",
                 m[0].speculation.mode == OUTRIDER__V1__SPECULATION__MODE__OFF ? "off" : "auto");
}

static int parse(struct bench *b, int argc, char **argv, struct err *e)
{
    int flag, st = 0;
    while ((flag = options_next(&b->o, argc, argv, table, e)) > 0) {
        if (flag == OPTION_HELP)
            return OPTION_HELP;
        st = take_own(b, flag, e);
        if (st)
            return st;
    }
    if (flag == 0)
        st = check_flags(b, argc - optind, e);
    if (flag == 0 && st == 0 && b->out.plan.dataset)
        st = bench_source_load(&b->source, b->out.plan.dataset, e);
    if (flag < 0 || st)
        return flag < 0 ? flag : st;
    fill_in(b);
    label_modes(b);
    return 0;
}

/* --- before the run --- */

/* Before the run, not after: minutes of measuring are not lost to a mistyped path. */
static int open_file(FILE **out, const char *path, struct err *e)
{
    if (!path)
        return 0;
    *out = fopen(path, "we");
    return *out ? 0 : err_set(e, ST_IO, "cannot write %s: %s", path, strerror(errno));
}

static int close_file(FILE **f, const char *path, struct err *e)
{
    if (!*f)
        return 0;
    int bad = ferror(*f);
    bad |= fclose(*f);
    *f = NULL;
    return bad ? err_set(e, ST_IO, "cannot write %s: %s", path, strerror(errno)) : 0;
}

static int fetch_model(struct bench *b, struct err *e)
{
    struct grpc *g;
    int st = grpc_open(&g, b->o.server, GRPC_CONNECT_MS, e);
    if (st)
        return st;
    Outrider__V1__GetModelRequest r = OUTRIDER__V1__GET_MODEL_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    st = grpc_unary(g, "/outrider.v1.Inference/GetModel", &r.base, GRPC_CONNECT_MS,
                    &outrider__v1__model__descriptor, &m, e);
    b->model = (Outrider__V1__Model *) m;
    b->out.model = b->model;
    grpc_close(g);
    return st;
}

/* Ordinary tokens come before the added ones, whose first is an end of text in every tokenizer of the family; a drawn <think>
 * would change what is measured. */
static int aim_ids(struct bench *b, struct err *e)
{
    const Outrider__V1__Model *m = b->model;
    const struct bench_plan *p = &b->out.plan;
    if (!p->n_prompt)
        return 0;
    b->source.ids_end = m->vocab;
    for (size_t i = 0; m->defaults && i < m->defaults->n_eos_token_ids; i++)
        if (m->defaults->eos_token_ids[i] > 0 && m->defaults->eos_token_ids[i] < b->source.ids_end)
            b->source.ids_end = m->defaults->eos_token_ids[i];
    if (b->source.ids_end < 1)
        return err_set(e, ST_WIRE, "the server says its vocabulary has %d tokens; is it an outriderd?",
                       m->vocab);
    if (p->n_prompt > m->context_max - p->n_output)
        return err_set(
            e, ST_INPUT, "--synthetic %d,%d needs a context of %lld tokens; the model at %s has %d",
            p->n_prompt, p->n_output, (long long) p->n_prompt + p->n_output, b->o.server, m->context_max);
    return 0;
}

static int prepare(struct bench *b, int wake, struct err *e)
{
    const struct bench_load_config c = {
        .server = b->o.server,
        .source = &b->source,
        .progress = &b->progress,
        .n_connections = (size_t) b->out.plan.n_connections,
        .wake = wake,
        .deadline_ms = b->o.deadline_ms,
    };
    time_t now = time(NULL);
    struct tm utc;
    strftime(b->out.date, sizeof b->out.date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    int st = fetch_model(b, e);
    if (st == 0)
        st = aim_ids(b, e);
    if (st == 0)
        st = bench_load_open(&b->load, &c, e);
    for (size_t i = 0; st == 0 && i < b->out.n_modes; i++)
        st = bench_set_init(&b->out.mode[i].set, (size_t) b->out.plan.n_requests, e);
    return st;
}

/* --- the run --- */

static void label_progress(struct bench *b, const char *label, size_t total)
{
    b->progress = (struct bench_progress){
        .on = isatty(STDERR_FILENO), .label = label, .total = total, .began_ns = bench_now_ns()};
}

/* Requests that are not measured: to warm up, or so that a pair finds the same prefix cache. */
static int run_aside(struct bench *b, size_t base, size_t n, int32_t max_tokens, struct err *e)
{
    const struct bench_plan *p = &b->out.plan;
    const struct bench_wave w = {
        .n = n,
        .base = base,
        .n_clients = (size_t) (p->n_clients ? p->n_clients : p->n_connections),
        .speculation = &b->out.mode[0].speculation,
        .max_tokens = max_tokens,
    };
    struct bench_set scratch;
    int st = bench_set_init(&scratch, n, e);
    if (st == 0)
        st = bench_load_wave(b->load, &w, &scratch, e);
    bench_set_fini(&scratch);
    return st;
}

/* Requests [first, first + n) in one mode. */
static int run_block(struct bench *b, struct bench_mode *m, size_t first, size_t n, struct err *e)
{
    const struct bench_plan *p = &b->out.plan;
    int64_t *due_ns = NULL;
    struct bench_wave w = {
        .first = first, .n = n, .n_clients = (size_t) p->n_clients, .speculation = &m->speculation};
    if (!p->n_clients) {
        w.due_ns = due_ns = malloc(n * sizeof *due_ns);
        if (!due_ns)
            return err_set(e, ST_NOMEM, "out of memory for a schedule of %zu requests", n);
        bench_schedule(due_ns, n, p->rate, p->poisson, p->seed, first);
    }
    int st = bench_load_wave(b->load, &w, &m->set, e);
    free(due_ns);
    return st;
}

/* Tokens a second of a block that began at clock began_ns; 0: some answer is not complete. */
static double block_rate(const struct bench_set *s, size_t first, size_t n, int64_t began_ns)
{
    int64_t tokens = 0;
    for (size_t i = first; i < first + n; i++) {
        if (s->record[i].state != BENCH_OK)
            return 0;
        tokens += s->record[i].n_tokens;
    }
    return s->clock_ns > began_ns ? (double) tokens / ((double) (s->clock_ns - began_ns) / 1e9) : 0;
}

/* One pair of blocks; which mode goes first changes from pair to pair, so that what drifts favours neither. */
static int run_pair(struct bench *b, size_t first, size_t n, int swapped, struct bench_list *ratios,
                    struct err *e)
{
    double rate[2] = {0, 0};
    int st = run_aside(b, first, n, 1, e);
    label_progress(b, "auto and off", 2 * (size_t) b->out.plan.n_requests);
    b->progress.done = 2 * first;
    for (size_t k = 0; st == 0 && k < 2; k++) {
        size_t which = k ^ (size_t) swapped;
        struct bench_mode *m = &b->out.mode[which];
        int64_t began_ns = m->set.clock_ns;
        st = run_block(b, m, first, n, e);
        rate[which] = block_rate(&m->set, first, n, began_ns);
    }
    if (st == 0 && rate[0] > 0 && rate[1] > 0 && bench_list_add(ratios, rate[0] / rate[1]))
        st = err_set(e, ST_NOMEM, "out of memory for pairs");
    return st;
}

/* Requests of a block: enough that all clients are busy for most of it, few enough that there are pairs to take a median of. */
static size_t block_size(const struct bench_plan *p)
{
    if (p->n_clients)
        return p->n_clients == 1 ? 1 : 2 * (size_t) p->n_clients;
    return ((size_t) p->n_requests + OPEN_PAIRS - 1) / OPEN_PAIRS;
}

static int run_pairs(struct bench *b, struct err *e)
{
    struct bench_list ratios = {0};
    size_t n = (size_t) b->out.plan.n_requests, size = block_size(&b->out.plan);
    int st = 0, swapped = 0;
    for (size_t first = 0; st == 0 && first < n; first += size, swapped = !swapped)
        st = run_pair(b, first, first + size < n ? size : n - first, swapped, &ratios, e);
    b->out.tokens_per_s = bench_ratio_of(&ratios);
    free(ratios.v);
    return st;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double) (u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double) (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* How long this thread was ready to run and had to wait for a core; negative: the kernel does not keep it. */
static double waited_seconds(void)
{
    unsigned long long waited_ns;
    FILE *f = fopen("/proc/thread-self/schedstat", "re");
    if (!f)
        return -1;
    int n = fscanf(f, "%*u %llu", &waited_ns);
    fclose(f);
    return n == 1 ? (double) waited_ns / 1e9 : -1;
}

static int measure(struct bench *b, struct err *e)
{
    const struct bench_plan *p = &b->out.plan;
    label_progress(b, "warm-up", (size_t) p->n_warmup);
    int st = p->n_warmup ? run_aside(b, (size_t) p->n_requests, (size_t) p->n_warmup, 0, e) : 0;
    if (st)
        return st;
    int64_t began_ns = bench_now_ns();
    double cpu_s = cpu_seconds(), waited_s = waited_seconds();
    bench_load_take_client(b->load); /* the warm-up's */
    label_progress(b, b->out.mode[0].label, (size_t) p->n_requests);
    st = b->both ? run_pairs(b, e) : run_block(b, &b->out.mode[0], 0, (size_t) p->n_requests, e);
    b->out.client = bench_load_take_client(b->load);
    b->out.wall_s = (double) (bench_now_ns() - began_ns) / 1e9;
    b->out.cpu_s = cpu_seconds() - cpu_s;
    b->out.waited_s = waited_s < 0 ? -1 : waited_seconds() - waited_s;
    return st;
}

/* --- after it --- */

static int add_up(struct bench_outcome *o, struct err *e)
{
    int st = 0;
    for (size_t i = 0; st == 0 && i < o->n_modes; i++)
        st = bench_figures_make(&o->mode[i].f, &o->mode[i].set, &o->plan.slo, e);
    for (int by = 0; st == 0 && o->n_modes == 2 && by < BENCH_N_COMPARES; by++)
        st = bench_compare(&o->mode[0].set, &o->mode[1].set, (enum bench_compare) by, &o->faster[by], e);
    if (st == 0 && o->n_modes == 2)
        o->n_compared = bench_compare_answers(&o->mode[0].set, &o->mode[1].set, &o->n_differ);
    return st;
}

static int write_reports(struct bench *b, struct err *e)
{
    int st = b->json ? bench_report_json(&b->out, e) : bench_report_text(&b->out, e);
    if (st == 0 && b->per_request)
        st = bench_report_requests(&b->out, b->per_request, e);
    if (st == 0)
        st = close_file(&b->per_request, b->per_request_path, e);
    if (st == 0 && b->html)
        bench_report_html(&b->out, b->html);
    return st ? st : close_file(&b->html, b->html_path, e);
}

static int exit_of(const struct bench_outcome *o, int st)
{
    size_t n_ok = 0, n_failed = 0;
    for (size_t i = 0; i < o->n_modes; i++) {
        n_ok += o->mode[i].f.n_ok;
        n_failed += o->mode[i].f.n_failed;
    }
    if (o->interrupted)
        return EXIT_INTERRUPTED;
    if (st)
        return st == ST_NOMEM ? EXIT_FAILED : EXIT_SERVER;
    return !n_failed ? EXIT_DONE : n_ok ? EXIT_FAILED : EXIT_SERVER;
}

/* From the run's end to the exit status. */
static int finish(struct bench *b, int st, struct err *e)
{
    struct err io;
    if (b->progress.on)
        fputs("\r\x1b[K", stderr);
    b->out.interrupted = st == ST_AGAIN;
    if (st && st != ST_AGAIN)
        show_error("bench", e);
    if (add_up(&b->out, &io) || write_reports(b, &io)) {
        show_error("bench", &io);
        return EXIT_FAILED;
    }
    return exit_of(&b->out, st);
}

static int run(struct bench *b, struct err *e)
{
    int wake = interrupt_open();
    int st = open_file(&b->per_request, b->per_request_path, e);
    if (st == 0)
        st = open_file(&b->html, b->html_path, e);
    int rc = EXIT_FAILED;
    if (st == 0) {
        st = prepare(b, wake, e);
        rc = st == ST_INPUT ? EXIT_USAGE : st == ST_NOMEM ? EXIT_FAILED : EXIT_SERVER;
    }
    if (st)
        show_error("bench", e);
    else
        rc = finish(b, measure(b, e), e);
    interrupt_close(wake);
    return rc;
}

static void fini(struct bench *b)
{
    if (b->per_request)
        fclose(b->per_request);
    if (b->html)
        fclose(b->html);
    bench_load_close(b->load);
    for (size_t i = 0; i < BENCH_MODES_MAX; i++) {
        bench_figures_fini(&b->out.mode[i].f);
        bench_set_fini(&b->out.mode[i].set);
    }
    if (b->model)
        outrider__v1__model__free_unpacked(b->model, NULL);
    bench_source_fini(&b->source);
    options_fini(&b->o);
}

int cmd_bench(int argc, char **argv)
{
    struct bench b = {0};
    struct err e = {0};
    options_init(&b.o);
    int st = parse(&b, argc, argv, &e), rc = EXIT_DONE;
    if (st == OPTION_HELP) {
        usage(stdout);
    } else if (st) {
        show_error("bench", &e);
        rc = st == ST_INPUT ? EXIT_USAGE : EXIT_FAILED;
    } else {
        rc = run(&b, &e);
    }
    fini(&b);
    return rc;
}
