/* cmd_stats.c - `outrider stats`: what a daemon is doing and has done; with --watch again and again. */
#include "client/cmd.h"
#include "client/grpc.h"
#include "client/interrupt.h"
#include "client/options.h"
#include "client/report.h"
#include "client/show.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { FLAG_JSON = OPTION_OWN, FLAG_WATCH };

enum { INTERVAL_MAX_S = 3600 };

static const struct option table[] = {
    OPTIONS_CALL,
    {"json", no_argument, NULL, FLAG_JSON},
    {"watch", optional_argument, NULL, FLAG_WATCH},
    {0},
};

struct stats {
    struct options o;
    int json;
    int32_t interval_ms; /* 0: once */
    Outrider__V1__Stats *before;
};

static void usage(FILE *to)
{
    fprintf(
        to,
        "usage: outrider stats [OPTIONS]\n\n"
        "Shows what a daemon is doing and has done: answers, tokens, drafts, pages, connections.\n\n"
        "  --watch[=SECONDS]   a line every second, or every so many, until Ctrl-C\n"
        "  --json              as JSON, an object a line\n"
        "%s"
        "\nExit status: 0 done; 1 output failed; 2 bad usage; 3 the server cannot be reached or refused.\n",
        options_help_call);
}

static int parse(struct stats *s, int argc, char **argv, struct err *e)
{
    int flag, st = 0;
    int32_t seconds = 1;
    while (st == 0 && (flag = options_next(&s->o, argc, argv, table, e)) > 0) {
        if (flag == OPTION_HELP)
            return flag;
        if (flag == FLAG_JSON)
            s->json = 1;
        else if (optarg)
            st = options_int(optarg, "--watch", 1, INTERVAL_MAX_S, &seconds, e);
        if (flag == FLAG_WATCH)
            s->interval_ms = seconds * 1000;
    }
    if (st == 0 && flag == 0 && optind < argc)
        st = err_set(e, ST_INPUT, "'%s' is too much; an interval is written --watch=%s", argv[optind],
                     s->interval_ms && atoi(argv[optind]) > 0 ? argv[optind] : "SECONDS");
    return st ? st : flag;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double) part / (double) whole : 0;
}

static void print_costs(const char *name, Outrider__V1__PassCost *const *cost, size_t n)
{
    printf("%-12s", name);
    for (size_t i = 0; i < n; i++)
        printf("%s%d: %.3g", i ? ", " : "ms by rows: ", cost[i]->rows, cost[i]->ms);
    printf("%s\n", n ? "" : "not measured yet");
}

static void print_drafting(const Outrider__V1__Drafting *d)
{
    printf("%-12s%.2f times the tokens of late; rounds: %" PRIu64 " drafted, %" PRIu64 " looked up, %" PRIu64
           " no gain, %" PRIu64 " owed, %" PRIu64 " rested, %" PRIu64 " measured, %" PRIu64
           " waited; %" PRIu64 " probes, %" PRIu64 " levels\n",
           "drafting", d->speedup, d->rounds_drafted, d->rounds_looked_up, d->rounds_no_gain, d->rounds_owed,
           d->rounds_rested, d->rounds_measured, d->rounds_waited, d->probes, d->levels);
    print_costs("target", d->target, d->n_target);
    print_costs("draft", d->level, d->n_level);
    printf("%-12s%.3g ms a round beside its passes\n", "overhead", d->overhead_ms);
    printf("%-12s%s\n", "why", d->why);
}

static void print_whole(const Outrider__V1__Stats *m)
{
    static const Outrider__V1__RequestCounts none = OUTRIDER__V1__REQUEST_COUNTS__INIT;
    const Outrider__V1__RequestCounts *r = m->requests ? m->requests : &none;
    char synthetic[512];
    if (report_synthetic(m->synthetic_acceptance, m->n_synthetic_acceptance, synthetic, sizeof synthetic))
        puts(synthetic);
    printf("%-12s%.0f s, %.1f MB, %d connections, %d calls\n", "up", m->uptime_s, (double) m->rss_bytes / 1e6,
           m->connections, m->streams);
    printf("%-12s%d running, %d waiting, %d parked\n", "answers", m->sessions_active, m->sessions_waiting,
           m->sessions_parked);
    printf("%-12s%" PRIu64 " received; ended: %" PRIu64 " stop, %" PRIu64 " length, %" PRIu64
           " cancelled, %" PRIu64 " deadline, %" PRIu64 " failed; %" PRIu64 " refused\n",
           "requests", r->received, r->stop, r->length, r->cancelled, r->deadline, r->failed, r->refused);
    printf("%-12s%" PRIu64 " of prompts (%" PRIu64 " cached), %" PRIu64 " of output\n", "tokens",
           m->prompt_tokens, m->cached_tokens, m->output_tokens);
    printf("%-12s%" PRIu64 " of %" PRIu64 " accepted (%.1f%%); model %.1f%%, lookup %.1f%%\n", "drafts",
           m->accepted_tokens, m->drafted_tokens, percent(m->accepted_tokens, m->drafted_tokens),
           percent(m->accepted_by_model, m->drafted_by_model),
           percent(m->accepted_by_lookup, m->drafted_by_lookup));
    if (m->n_drafted_by_depth)
        printf("%-12s", "by depth");
    for (size_t i = 0; i < m->n_drafted_by_depth; i++)
        printf("%.1f%%%s",
               percent(i < m->n_accepted_by_depth ? m->accepted_by_depth[i] : 0, m->drafted_by_depth[i]),
               i + 1 < m->n_drafted_by_depth ? " " : "\n");
    printf("%-12s%" PRIu64 " of the target, %.2f rows each; %" PRIu64 " preemptions\n", "passes", m->passes,
           m->passes ? (double) m->rows / (double) m->passes : 0, m->preemptions);
    printf("%-12s%" PRId64 " used, %" PRId64 " cached, %" PRId64 " free\n", "pages", m->pages_used,
           m->pages_cached, m->pages_free);
    if (m->drafting)
        print_drafting(m->drafting);
}

/* A line of what happened since the one before. */
static void print_line(const struct stats *s, const Outrider__V1__Stats *m)
{
    static const Outrider__V1__Stats none = OUTRIDER__V1__STATS__INIT;
    const Outrider__V1__Stats *b = s->before ? s->before : &none;
    double seconds = m->uptime_s - b->uptime_s;
    printf("%s", m->n_synthetic_acceptance ? "SYNTHETIC ACCEPTANCE: " : "");
    printf("%d running, %d waiting, %d parked; %.1f tokens/s out, %.1f in; %.1f%% of drafts accepted; pages "
           "%" PRId64 " used, %" PRId64 " cached, %" PRId64 " free; %.1f MB\n",
           m->sessions_active, m->sessions_waiting, m->sessions_parked,
           seconds > 0 ? (double) (m->output_tokens - b->output_tokens) / seconds : 0,
           seconds > 0 ? (double) (m->prompt_tokens - b->prompt_tokens) / seconds : 0,
           percent(m->accepted_tokens - b->accepted_tokens, m->drafted_tokens - b->drafted_tokens),
           m->pages_used, m->pages_cached, m->pages_free, (double) m->rss_bytes / 1e6);
}

/* Takes m over. */
static int show(struct stats *s, Outrider__V1__Stats *m, struct err *e)
{
    int st = 0;
    if (s->json)
        st = report_print(report_stats(m), e);
    else if (!s->interval_ms)
        print_whole(m);
    else if (s->before)
        print_line(s, m);
    if (!st && (fflush(stdout) || ferror(stdout)))
        st = err_set(e, ST_IO, "cannot write to standard output");
    if (s->before)
        outrider__v1__stats__free_unpacked(s->before, NULL);
    s->before = m;
    return st;
}

static int once(struct stats *s, struct grpc *g, struct err *e)
{
    const Outrider__V1__GetStatsRequest r = OUTRIDER__V1__GET_STATS_REQUEST__INIT;
    ProtobufCMessage *m;
    int st = grpc_unary(g, "/outrider.v1.Inference/GetStats", &r.base, s->o.deadline_ms,
                        &outrider__v1__stats__descriptor, &m, e);
    return st ? st : show(s, (Outrider__V1__Stats *) m, e);
}

static int watch(struct stats *s, struct grpc *g, struct err *e)
{
    Outrider__V1__WatchStatsRequest r = OUTRIDER__V1__WATCH_STATS_REQUEST__INIT;
    struct grpc_call *call = NULL;
    ProtobufCMessage *m;
    int wake = interrupt_open();
    r.interval_ms = s->interval_ms;
    grpc_watch(g, wake, -1);
    int st = grpc_call_start(g, "/outrider.v1.Inference/WatchStats", &r.base, s->o.deadline_ms, &call, e);
    while (!st && (st = grpc_call_next(call, &outrider__v1__stats__descriptor, &m, e)) == 1)
        st = show(s, (Outrider__V1__Stats *) m, e);
    grpc_call_free(call);
    grpc_watch(g, -1, -1);
    interrupt_close(wake);
    return st == ST_AGAIN ? 0 : st;
}

static int run(struct stats *s, struct err *e)
{
    struct grpc *g;
    int st = grpc_open(&g, s->o.server, GRPC_CONNECT_MS, e);
    if (st)
        return st;
    st = s->interval_ms ? watch(s, g, e) : once(s, g, e);
    grpc_close(g);
    if (s->before)
        outrider__v1__stats__free_unpacked(s->before, NULL);
    return st;
}

int cmd_stats(int argc, char **argv)
{
    struct stats s = {0};
    struct err e = {0};
    options_init(&s.o);
    int st = parse(&s, argc, argv, &e);
    if (st == OPTION_HELP) {
        usage(stdout);
        return EXIT_DONE;
    }
    if (st) {
        show_error("stats", &e);
        return EXIT_USAGE;
    }
    st = run(&s, &e);
    if (st)
        show_error("stats", &e);
    return st == 0 ? EXIT_DONE : st == ST_INPUT ? EXIT_USAGE : st == ST_IO ? EXIT_FAILED : EXIT_SERVER;
}
