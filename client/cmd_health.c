/* cmd_health.c - `outrider health`: for people, scripts and a container's health check. */
#include "client/cmd.h"
#include "client/health.h"
#include "client/grpc.h"
#include "client/options.h"
#include "client/show.h"

enum { FLAG_WAIT = OPTION_OWN, FLAG_SERVICE };

enum { WAIT_S_MAX = 86400 };

static const struct option table[] = {
    OPTIONS_CALL,
    {"wait", required_argument, NULL, FLAG_WAIT},
    {"service", required_argument, NULL, FLAG_SERVICE},
    {0},
};

static void usage(FILE *to)
{
    fprintf(to,
            "usage: outrider health [OPTIONS]\n\n"
            "Asks a daemon whether it serves (grpc.health.v1).\n\n"
            "  --wait SECONDS      keep asking for that long until it does\n"
            "  --service NAME      one service (default: the whole daemon)\n"
            "%s"
            "\nAn answer is waited for 5 seconds, or --deadline.\n"
            "\nExit status: 0 serving; 1 output failed; 2 bad usage; 3 not serving, or cannot be reached.\n",
            options_help_call);
}

static int parse(struct options *o, int argc, char **argv, int32_t *wait_s, const char **service,
                 struct err *e)
{
    int flag, st = 0;
    while ((flag = options_next(o, argc, argv, table, e)) > 0 && flag != OPTION_HELP && st == 0) {
        if (flag == FLAG_SERVICE)
            *service = optarg;
        else
            st = options_int(optarg, "--wait", 0, WAIT_S_MAX, wait_s, e);
    }
    if (st == 0 && flag == 0 && optind < argc)
        st = err_set(e, ST_INPUT, "'%s' is too much; `outrider health --help` explains the command",
                     argv[optind]);
    return st ? st : flag;
}

int cmd_health(int argc, char **argv)
{
    struct options o;
    struct err e = {0};
    int32_t wait_s = 0;
    const char *service = "";
    options_init(&o);
    int st = parse(&o, argc, argv, &wait_s, &service, &e);
    if (st == OPTION_HELP) {
        usage(stdout);
        return EXIT_DONE;
    }
    if (st) {
        show_error("health", &e);
        return EXIT_USAGE;
    }
    int serving;
    int ask_ms = o.deadline_ms ? o.deadline_ms : GRPC_CONNECT_MS;
    st = health_wait(o.server, service, ask_ms, wait_s * 1000, &serving, &e);
    if (st) {
        show_error("health", &e);
        return st == ST_INPUT ? EXIT_USAGE : EXIT_SERVER;
    }
    puts(serving ? "SERVING" : "NOT_SERVING");
    return serving ? EXIT_DONE : EXIT_SERVER;
}
