/* cmd_model.c - `outrider model`: what a daemon serves. */
#include "client/cmd.h"
#include "client/grpc.h"
#include "client/options.h"
#include "client/report.h"
#include "client/show.h"

#include <string.h>

enum { FLAG_JSON = OPTION_OWN };

static const struct option table[] = {
    OPTIONS_CALL,
    {"json", no_argument, NULL, FLAG_JSON},
    {0},
};

static void usage(FILE *to)
{
    fprintf(
        to,
        "usage: outrider model [OPTIONS]\n\n"
        "Shows what a daemon serves: model, fingerprint, limits, defaults.\n\n"
        "  --json              as one JSON object\n"
        "%s"
        "\nExit status: 0 done; 1 output failed; 2 bad usage; 3 the server cannot be reached or refused.\n",
        options_help_call);
}

static void row(struct show *s, const char *name, const char *value)
{
    fprintf(s->to, "%-14s", name);
    show_text(s, value, strlen(value), 0);
    fputc('\n', s->to);
}

static void print_defaults(const Outrider__V1__Resolved *r)
{
    printf("%-14stemperature %g, top_k %d, top_p %g, min_p %g, max_tokens %d, thinking %s, budget ",
           "defaults", (double) r->temperature, r->top_k, (double) r->top_p, (double) r->min_p, r->max_tokens,
           r->thinking ? "on" : "off");
    if (r->thinking_budget < 0)
        puts("none");
    else
        printf("%d\n", r->thinking_budget);
}

static int print(const Outrider__V1__Model *m, struct err *e)
{
    struct show s;
    char synthetic[512];
    show_init(&s, stdout);
    if (report_synthetic_of(m->defaults, synthetic, sizeof synthetic))
        puts(synthetic);
    row(&s, "name", m->name);
    row(&s, "draft", m->draft[0] ? m->draft : "none");
    row(&s, "fingerprint", m->fingerprint);
    row(&s, "device", m->device);
    row(&s, "template", m->template_);
    row(&s, "tokenizer", m->tokenizer_hash);
    printf("%-14s%d tokens, vocabulary of %d\n", "context", m->context_max, m->vocab);
    printf("%-14s%d at once, %d more may wait\n", "sessions", m->sessions_max, m->queue_max);
    if (m->defaults)
        print_defaults(m->defaults);
    row(&s, "version", m->version);
    if (fflush(stdout) || ferror(stdout))
        return err_set(e, ST_IO, "cannot write to standard output");
    return 0;
}

static int fetch(const struct options *o, Outrider__V1__Model **out, struct err *e)
{
    struct grpc *g;
    int st = grpc_open(&g, o->server, GRPC_CONNECT_MS, e);
    if (st)
        return st;
    Outrider__V1__GetModelRequest r = OUTRIDER__V1__GET_MODEL_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    st = grpc_unary(g, "/outrider.v1.Inference/GetModel", &r.base, o->deadline_ms,
                    &outrider__v1__model__descriptor, &m, e);
    *out = (Outrider__V1__Model *) m;
    grpc_close(g);
    return st;
}

static int parse(struct options *o, int argc, char **argv, int *json, struct err *e)
{
    int flag;
    while ((flag = options_next(o, argc, argv, table, e)) > 0 && flag != OPTION_HELP)
        *json = 1;
    if (flag == 0 && optind < argc)
        return err_set(e, ST_INPUT, "'%s' is too much; `outrider model --help` explains the command",
                       argv[optind]);
    return flag;
}

int cmd_model(int argc, char **argv)
{
    struct options o;
    struct err e = {0};
    int json = 0;
    options_init(&o);
    int st = parse(&o, argc, argv, &json, &e);
    if (st == OPTION_HELP) {
        usage(stdout);
        return EXIT_DONE;
    }
    if (st) {
        show_error("model", &e);
        return EXIT_USAGE;
    }
    Outrider__V1__Model *m;
    st = fetch(&o, &m, &e);
    if (st) {
        show_error("model", &e);
        return st == ST_INPUT ? EXIT_USAGE : EXIT_SERVER;
    }
    if (json)
        st = report_print(report_model(m), &e);
    else
        st = print(m, &e);
    outrider__v1__model__free_unpacked(m, NULL);
    if (st)
        show_error("model", &e);
    return st ? EXIT_FAILED : EXIT_DONE;
}
