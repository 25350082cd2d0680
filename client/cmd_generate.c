/* cmd_generate.c - `outrider generate`: one answer, for scripts.
 *
 * Standard output carries the answer alone: text as it streams (a pipe gets exactly the text, not even a last newline), or JSON.
 * Standard error carries errors, the figures (on a terminal) and, when a stream broke, the flags that continue it. */
#include "client/stream.h"
#include "client/cmd.h"
#include "client/follow.h"
#include "client/interrupt.h"
#include "client/options.h"
#include "client/report.h"
#include "client/show.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PROMPT_MAX = 2 << 20 }; /* bytes; leaves room for the rest in a message of GRPC_MESSAGE_MAX */

enum {
    FLAG_CHAT = OPTION_OWN,
    FLAG_RAW,
    FLAG_JSON,
    FLAG_JSON_STREAM,
    FLAG_BREAK_AFTER,
    FLAG_RESUME_TOKENS,
    FLAG_RESUME_CLOSED,
    FLAG_FINGERPRINT,
    FLAG_PROMPT_TOKENS,
    FLAG_SHOW_THINKING,
    FLAG_STATS,
};

static const struct option table[] = {
    OPTIONS_CALL,
    OPTIONS_SAMPLING,
    {"chat", no_argument, NULL, FLAG_CHAT},
    {"raw", no_argument, NULL, FLAG_RAW},
    {"json", no_argument, NULL, FLAG_JSON},
    {"json-stream", no_argument, NULL, FLAG_JSON_STREAM},
    {"break-after", required_argument, NULL, FLAG_BREAK_AFTER},
    {"resume-tokens", required_argument, NULL, FLAG_RESUME_TOKENS},
    {"resume-closed-at", required_argument, NULL, FLAG_RESUME_CLOSED},
    {"fingerprint", required_argument, NULL, FLAG_FINGERPRINT},
    {"prompt-tokens", required_argument, NULL, FLAG_PROMPT_TOKENS},
    {"show-thinking", no_argument, NULL, FLAG_SHOW_THINKING},
    {"stats", no_argument, NULL, FLAG_STATS},
    {0},
};

struct generate {
    struct options o;
    int raw, json, json_stream, stats;
    int32_t break_after;               /* tokens; 0: never */
    const char *fingerprint;           /* borrowed; NULL: any */
    Outrider__V1__Resume resume;       /* tokens owned */
    Outrider__V1__TokenIds prompt_ids; /* owned */
    struct words prompt;
    struct show out;
    int in_reasoning; /* the newest text shown was reasoning */
};

static void usage(FILE *to)
{
    fprintf(to,
            "usage: outrider generate [OPTIONS] [PROMPT]\n\n"
            "Streams one answer to standard output.  PROMPT `-`, or none: standard input.\n\n"
            "  --chat              the prompt is one user message (the default)\n"
            "  --raw               the prompt is continued as it is; added tokens such as <|im_start|> are "
            "recognised\n"
            "  --prompt-tokens IDS a raw prompt as token ids\n"
            "  --json              one JSON object when done\n"
            "  --json-stream       one JSON object an event, as they come\n"
            "  --show-thinking     the thinking too, between <think> and </think> (a terminal shows it "
            "anyway, dimmed)\n"
            "  --stats             the figures on standard error (a terminal gets them anyway)\n"
            "  --break-after N     cancel once N tokens have come, and say how to continue\n"
            "  --resume-tokens IDS continue an answer after these tokens; give the same prompt, flags and "
            "--seed\n"
            "  --resume-closed-at N  where its thinking was closed, by the clock or by hand\n"
            "  --fingerprint F     refuse to be answered by another target than F\n"
            "%s%s%s"
            "\nExit status: 0 done; 1 output failed or the deadline passed; 2 bad usage; 3 the server cannot "
            "be reached,\n"
            "refused or broke off; 130 interrupted.\n",
            options_help_sampling, options_help_answers, options_help_call);
}

/* --- reading the command line --- */

static int take_own(struct generate *g, int flag, struct err *e)
{
    switch (flag) {
    case FLAG_CHAT:
    case FLAG_RAW:
        g->raw = flag == FLAG_RAW;
        return 0;
    case FLAG_JSON:
        g->json = 1;
        return 0;
    case FLAG_JSON_STREAM:
        g->json_stream = 1;
        return 0;
    case FLAG_SHOW_THINKING:
        g->out.tags = 1;
        return 0;
    case FLAG_STATS:
        g->stats = 1;
        return 0;
    case FLAG_FINGERPRINT:
        g->fingerprint = optarg;
        return 0;
    case FLAG_BREAK_AFTER:
        return options_int(optarg, "--break-after", 1, INT32_MAX, &g->break_after, e);
    case FLAG_RESUME_CLOSED:
        g->resume.closed_at__case = OUTRIDER__V1__RESUME__CLOSED_AT__CLOSED_AT;
        return options_int(optarg, "--resume-closed-at", 0, INT32_MAX, &g->resume.closed_at, e);
    case FLAG_PROMPT_TOKENS:
        g->raw = 1;
        return options_ids(optarg, "--prompt-tokens", &g->prompt_ids.ids, &g->prompt_ids.n_ids, e);
    default:
        return options_ids(optarg, "--resume-tokens", &g->resume.tokens, &g->resume.n_tokens, e);
    }
}

static int check_flags(const struct generate *g, int n_words, struct err *e)
{
    if (n_words > 1)
        return err_set(e, ST_INPUT, "one PROMPT is taken, not %d; quote it", n_words);
    if (n_words && g->prompt_ids.n_ids)
        return err_set(e, ST_INPUT, "give PROMPT or --prompt-tokens, not both");
    if (g->prompt_ids.n_ids && !g->raw)
        return err_set(e, ST_INPUT, "--prompt-tokens is a raw prompt; leave --chat away");
    if (g->raw && g->o.system)
        return err_set(e, ST_INPUT, "--system belongs to a conversation; a raw prompt is continued as it is");
    if (g->o.sampling.n > 1 && !g->json && !g->json_stream)
        return err_set(e, ST_INPUT, "--n %d answers come side by side; add --json or --json-stream",
                       g->o.sampling.n);
    if (g->o.sampling.n > 1 && g->resume.n_tokens)
        return err_set(e, ST_INPUT, "--resume-tokens continues one answer; leave --n away");
    if (g->o.sampling.logprobs && !g->json && !g->json_stream)
        return err_set(e, ST_INPUT, "--logprobs are told in JSON; add --json or --json-stream");
    if (g->o.logprobs.processed && !g->o.sampling.logprobs)
        return err_set(e, ST_INPUT,
                       "--processed is told beside --logprobs N; give that too, 0 for none beside");
    if (g->json && g->json_stream)
        return err_set(e, ST_INPUT, "give --json or --json-stream, not both");
    if (g->resume.n_tokens && !(g->fingerprint && g->o.sampling.seed__case))
        return err_set(e, ST_INPUT,
                       "--resume-tokens needs the --seed and the --fingerprint of the answer it continues");
    return 0;
}

static int read_prompt(struct generate *g, const char *word, struct err *e)
{
    if (g->prompt_ids.n_ids)
        return 0;
    int st;
    if (word && strcmp(word, "-") != 0)
        st = words_add(&g->prompt, word, strlen(word));
    else
        st = words_read(&g->prompt, STDIN_FILENO, PROMPT_MAX);
    if (st == ST_IO)
        return err_set(e, ST_IO, "cannot read the prompt from standard input: %s", strerror(errno));
    if (st == ST_LIMIT || g->prompt.n > PROMPT_MAX)
        return err_set(e, ST_LIMIT, "the prompt is longer than %d bytes", PROMPT_MAX);
    if (st)
        return err_set(e, st, "out of memory for the prompt");
    if (strlen(g->prompt.p) != g->prompt.n)
        return err_set(e, ST_INPUT, "the prompt has a NUL byte at offset %zu; text has none",
                       strlen(g->prompt.p));
    size_t good = words_check(g->prompt.p, g->prompt.n);
    if (good != g->prompt.n)
        return err_set(e, ST_INPUT, "the prompt is not UTF-8: byte %zu", good);
    return 0;
}

static int parse(struct generate *g, int argc, char **argv, struct err *e)
{
    int flag, st = 0;
    while ((flag = options_next(&g->o, argc, argv, table, e)) > 0) {
        if (flag == OPTION_HELP)
            return OPTION_HELP;
        st = take_own(g, flag, e);
        if (st)
            return st;
    }
    if (flag == 0)
        st = check_flags(g, argc - optind, e);
    if (flag < 0 || st)
        return flag < 0 ? flag : st;
    return read_prompt(g, optind < argc ? argv[optind] : NULL, e);
}

/* --- asking --- */

static char *unconst(const char *s)
{
    return (char *) (uintptr_t) s; /* protobuf-c's fields are char *, also where it only reads */
}

static int ask_chat(struct generate *g, struct grpc *conn, struct stream *a, struct err *e)
{
    Outrider__V1__Message system = OUTRIDER__V1__MESSAGE__INIT, user = OUTRIDER__V1__MESSAGE__INIT;
    Outrider__V1__Message *both[2] = {&system, &user};
    Outrider__V1__ChatRequest r = OUTRIDER__V1__CHAT_REQUEST__INIT;
    system.role = unconst("system");
    system.content = unconst(g->o.system);
    user.role = unconst("user");
    user.content = g->prompt.p;
    r.messages = g->o.system ? both : both + 1;
    r.n_messages = g->o.system ? 2 : 1;
    options_ask(&g->o, &r);
    if (g->resume.n_tokens)
        r.resume = &g->resume;
    if (g->fingerprint)
        r.fingerprint = unconst(g->fingerprint);
    return stream_chat(a, conn, &r, g->o.deadline_ms, e);
}

static int ask_raw(struct generate *g, struct grpc *conn, struct stream *a, struct err *e)
{
    Outrider__V1__GenerateRequest r = OUTRIDER__V1__GENERATE_REQUEST__INIT;
    if (g->prompt_ids.n_ids) {
        r.prompt_case = OUTRIDER__V1__GENERATE_REQUEST__PROMPT_TOKENS;
        r.tokens = &g->prompt_ids;
    } else {
        r.prompt_case = OUTRIDER__V1__GENERATE_REQUEST__PROMPT_TEXT;
        r.text = g->prompt.p;
    }
    options_point(&g->o);
    r.sampling = &g->o.sampling;
    r.priority = g->o.priority;
    r.stopping = &g->o.stopping;
    r.thinking = &g->o.thinking;
    r.speculation = &g->o.speculation;
    if (g->resume.n_tokens)
        r.resume = &g->resume;
    if (g->fingerprint)
        r.fingerprint = unconst(g->fingerprint);
    return stream_generate(a, conn, &r, g->o.deadline_ms, e);
}

/* --- showing --- */

/* What is needed to go on where this answer stopped. */
static void say_resume(const struct generate *g, const struct stream *a)
{
    const Outrider__V1__Resolved *r = stream_begin(a)->resolved;
    if (a->answer->n_ids + g->resume.n_tokens == 0 || a->n > 1 || (r && r->n_synthetic_acceptance))
        return;    /* synthetic acceptance: such a text has no continuation */
    struct show s; /* the fingerprint is the server's word */
    show_init(&s, stderr);
    fprintf(stderr, "outrider generate: to continue, add: --seed %" PRIu64 " --fingerprint '",
            stream_begin(a)->seed);
    show_text(&s, stream_begin(a)->fingerprint, strlen(stream_begin(a)->fingerprint), 0);
    fprintf(stderr, "' --resume-tokens ");
    for (size_t i = 0; i < g->resume.n_tokens; i++)
        fprintf(stderr, "%s%d", i ? "," : "", g->resume.tokens[i]);
    for (size_t i = 0; i < a->answer->n_ids; i++)
        fprintf(stderr, "%s%d", i || g->resume.n_tokens ? "," : "", a->answer->ids[i]);
    int32_t closed_at = g->resume.closed_at__case ? g->resume.closed_at : a->answer->closed_at;
    if (closed_at >= 0)
        fprintf(stderr, " --resume-closed-at %d", closed_at);
    fputc('\n', stderr);
}

/* The JSON object of --json, with the error beside what came before it. */
static int print_json(const struct stream *a, int st, const struct err *e, struct err *out)
{
    json_t *j = report_answer(a);
    if (j && st && e->text[0])
        json_object_set_new(j, "error",
                            json_pack("{s:i, s:s}", "code", grpc_call_code(a->call), "message", e->text));
    return report_print(j, out);
}

static int exit_of(const struct stream *a, int st, const struct err *e)
{
    switch (st) {
    case 0:
        return stream_is_whole(a) ? EXIT_DONE : EXIT_FAILED;
    case ST_AGAIN:
        return EXIT_INTERRUPTED;
    case ST_CANCELLED:
        return e->text[0] ? EXIT_SERVER : EXIT_DONE; /* without words: --break-after's doing */
    case ST_IO:
    case ST_DEADLINE:
        return EXIT_FAILED;
    default:
        return EXIT_SERVER;
    }
}

/* Everything after the stream.  Returns the exit status. */
static int finish(struct generate *g, struct stream *a, int st, struct err *e)
{
    struct err io;
    report_synthetic_warn("generate", a);
    if (g->json && print_json(a, st, e, &io)) {
        show_error("generate", &io);
        return EXIT_FAILED;
    }
    if (st == 0 && (g->stats || (isatty(STDERR_FILENO) && !g->json && !g->json_stream))) {
        struct show s;
        show_init(&s, stderr);
        report_figures(&s, a);
    }
    if (st && st != ST_AGAIN && e->text[0])
        show_error("generate", e);
    if (st)
        say_resume(g, a);
    return exit_of(a, st, e);
}

static int run(struct generate *g, struct err *e)
{
    struct grpc *conn;
    int st = grpc_open(&conn, g->o.server, GRPC_CONNECT_MS, e);
    if (st) {
        show_error("generate", e);
        return st == ST_INPUT ? EXIT_USAGE : EXIT_SERVER;
    }
    int wake = interrupt_open();
    grpc_watch(conn, wake, -1);
    struct stream a;
    st = g->raw ? ask_raw(g, conn, &a, e) : ask_chat(g, conn, &a, e);
    int rc = EXIT_SERVER;
    const struct follow f = {
        .show = g->json || g->json_stream ? NULL : &g->out,
        .events = g->json_stream,
        .break_after = (size_t) g->break_after,
    };
    if (st)
        show_error("generate", e);
    else
        rc = finish(g, &a, follow_answer(&f, &a, e), e);
    stream_fini(&a);
    grpc_close(conn);
    interrupt_close(wake);
    return rc;
}

int cmd_generate(int argc, char **argv)
{
    struct generate g = {.resume = OUTRIDER__V1__RESUME__INIT, .prompt_ids = OUTRIDER__V1__TOKEN_IDS__INIT};
    struct err e = {0};
    options_init(&g.o);
    show_init(&g.out, stdout);
    int st = parse(&g, argc, argv, &e), rc = EXIT_DONE;
    if (st == OPTION_HELP) {
        usage(stdout);
    } else if (st) {
        show_error("generate", &e);
        rc = st == ST_INPUT ? EXIT_USAGE : EXIT_FAILED;
    } else {
        g.resume.fingerprint = unconst(g.fingerprint ? g.fingerprint : "");
        rc = run(&g, &e);
    }
    options_fini(&g.o);
    free(g.resume.tokens);
    free(g.prompt_ids.ids);
    free(g.prompt.p);
    return rc;
}
