/* cmd_chat.c - `outrider chat`: a conversation.
 *
 * Every question goes over a connection of its own: nobody answers the server's pings while a person thinks, and the
 * conversation is in the request anyway.  Ctrl-C ends an answer, not the chat; what had come of it is kept.
 *
 * While an answer comes the terminal edits lines itself, as between any two commands, so a key is seen with its line: Enter
 * alone closes the thinking, a line with words is the next question. */
#include "client/stream.h"
#include "client/cmd.h"
#include "client/follow.h"
#include "client/interrupt.h"
#include "client/lines.h"
#include "client/options.h"
#include "client/report.h"
#include "client/show.h"
#include "client/talk.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { ARG_BYTES = 256 }; /* of a command's argument: numbers */

static const struct option table[] = {
    OPTIONS_CALL,
    OPTIONS_SAMPLING,
    {0},
};

/* Sums over the answers of this chat, for /stats. */
struct totals {
    int answers, failures;
    int64_t prompt, cached, completion, reasoning; /* tokens */
    int64_t passes, drafted, accepted;
    double decode_ms;
};

struct chat {
    struct options o;
    struct talk talk;
    struct show out;
    struct lines *lines; /* owns */
    struct totals sum;
    int wake;   /* readable after Ctrl-C; -1: none */
    int done;   /* 1: /quit */
    int failed; /* 1: the newest question got no answer */
    int warned; /* answers after which there was a word about what they are worth */
};

static void usage(FILE *to)
{
    fprintf(
        to,
        "usage: outrider chat [OPTIONS]\n\n"
        "Talks with a daemon.  Lines that begin with / are commands; /help lists them.  While an answer "
        "thinks,\n"
        "Enter on an empty line ends the thinking and the answer follows; Ctrl-C ends the answer, Ctrl-D the "
        "chat.\n"
        "From a pipe, every line is a question.\n\n"
        "%s%s"
        "\nExit status: 0 done; 1 the questions cannot be read; 2 bad usage; 3 from a pipe: the last "
        "question was not answered.\n",
        options_help_sampling, options_help_call);
}

/* --- the commands --- */

static int on_think(struct chat *c, const char *arg, struct err *e)
{
    (void) arg, (void) e;
    c->o.thinking.enabled__case = OUTRIDER__V1__THINKING__ENABLED__ENABLED;
    c->o.thinking.enabled = 1;
    show_note(&c->out, "thinking is on");
    return 0;
}

static int on_no_think(struct chat *c, const char *arg, struct err *e)
{
    (void) arg, (void) e;
    c->o.thinking.enabled__case = OUTRIDER__V1__THINKING__ENABLED__ENABLED;
    c->o.thinking.enabled = 0;
    show_note(&c->out, "thinking is off");
    return 0;
}

static int on_budget(struct chat *c, const char *arg, struct err *e)
{
    Outrider__V1__Thinking *t = &c->o.thinking;
    if (!*arg) {
        t->budget__case = OUTRIDER__V1__THINKING__BUDGET___NOT_SET;
        show_note(&c->out, "thinking budget: the server's default");
        return 0;
    }
    int st = options_int(arg, "/budget", -1, INT32_MAX, &t->budget, e);
    if (st)
        return st;
    t->budget__case = OUTRIDER__V1__THINKING__BUDGET__BUDGET;
    if (t->budget < 0)
        show_note(&c->out, "thinking budget: no limit");
    else
        show_note(&c->out, "thinking budget: %d tokens", t->budget);
    return 0;
}

static int on_seed(struct chat *c, const char *arg, struct err *e)
{
    Outrider__V1__Sampling *s = &c->o.sampling;
    if (!*arg) {
        s->seed__case = OUTRIDER__V1__SAMPLING__SEED___NOT_SET;
        show_note(&c->out, "seed: the server picks one for each answer");
        return 0;
    }
    int st = options_u64(arg, "/seed", &s->seed, e);
    if (st)
        return st;
    s->seed__case = OUTRIDER__V1__SAMPLING__SEED__SEED;
    show_note(&c->out, "seed: %" PRIu64, s->seed);
    return 0;
}

static int on_temperature(struct chat *c, const char *arg, struct err *e)
{
    Outrider__V1__Sampling *s = &c->o.sampling;
    if (!*arg) {
        s->temperature__case = OUTRIDER__V1__SAMPLING__TEMPERATURE___NOT_SET;
        show_note(&c->out, "temperature: the model's default");
        return 0;
    }
    int st = options_float(arg, "/temperature", &s->temperature, e);
    if (st)
        return st;
    s->temperature__case = OUTRIDER__V1__SAMPLING__TEMPERATURE__TEMPERATURE;
    show_note(&c->out, "temperature: %g", (double) s->temperature);
    return 0;
}

static int start_talk(struct chat *c)
{
    talk_cut(&c->talk, 0);
    return c->o.system ? talk_add(&c->talk, "system", c->o.system, "") : 0;
}

static int on_reset(struct chat *c, const char *arg, struct err *e)
{
    (void) arg;
    if (start_talk(c))
        return err_set(e, ST_NOMEM, "out of memory for the conversation");
    show_note(&c->out, "the conversation starts anew");
    return 0;
}

static int on_stats(struct chat *c, const char *arg, struct err *e)
{
    (void) arg, (void) e;
    const struct totals *t = &c->sum;
    show_note(&c->out, "answers: %d, without one: %d, messages in the conversation: %zu", t->answers,
              t->failures, c->talk.n);
    show_note(&c->out,
              "tokens: %" PRId64 " read (%" PRId64 " from the cache), %" PRId64 " written, %" PRId64
              " of them reasoning, %.1f tokens/s",
              t->prompt, t->cached, t->completion, t->reasoning,
              t->decode_ms > 0 ? (double) t->completion / t->decode_ms * 1e3 : 0.0);
    show_note(&c->out,
              "speculation: %" PRId64 " passes of the target, %" PRId64 " of %" PRId64
              " guesses kept, %.2f tokens/pass",
              t->passes, t->accepted, t->drafted,
              t->passes ? 1 + (double) t->accepted / (double) t->passes : 0.0);
    return 0;
}

static int on_quit(struct chat *c, const char *arg, struct err *e)
{
    (void) arg, (void) e;
    c->done = 1;
    return 0;
}

static int on_help(struct chat *c, const char *arg, struct err *e);

static const struct {
    const char *name, *arg; /* arg: what --help calls it; NULL: takes none */
    int (*run)(struct chat *c, const char *arg, struct err *e);
    const char *what;
} commands[] = {
    {"/think", NULL, on_think, "let the model think first"},
    {"/no_think", NULL, on_no_think, "answers without thinking"},
    {"/budget", "[N]", on_budget,
     "at most N tokens of thinking (-1: no limit, 0: none, without N: the default)"},
    {"/seed", "[N]", on_seed, "the same seed gives the same answer (without N: a new one each time)"},
    {"/temperature", "[T]", on_temperature, "0: greedy (without T: the model's default)"},
    {"/reset", NULL, on_reset, "forget the conversation"},
    {"/stats", NULL, on_stats, "figures of this chat"},
    {"/help", NULL, on_help, "this list"},
    {"/quit", NULL, on_quit, "the end (Ctrl-D too)"},
};

static int on_help(struct chat *c, const char *arg, struct err *e)
{
    (void) arg, (void) e;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        show_note(&c->out, "%-13s%-4s %s", commands[i].name, commands[i].arg ? commands[i].arg : "",
                  commands[i].what);
    show_note(&c->out, "%-17s %s", "Enter", "while it thinks: that is enough, answer now");
    show_note(&c->out, "%-17s %s", "Ctrl-C", "ends the answer; what had come of it is kept");
    return 0;
}

static int run_command(struct chat *c, const char *line, struct err *e)
{
    char arg[ARG_BYTES];
    size_t n = strcspn(line, " \t");
    snprintf(arg, sizeof arg, "%s", line + n + strspn(line + n, " \t"));
    for (size_t end = strlen(arg); end && strchr(" \t", arg[end - 1]);)
        arg[--end] = 0;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strlen(commands[i].name) != n || strncmp(line, commands[i].name, n) != 0)
            continue;
        if (*arg && !commands[i].arg)
            return err_set(e, ST_INPUT, "%s takes no argument; questions go on a line of their own",
                           commands[i].name);
        return commands[i].run(c, arg, e);
    }
    return err_set(e, ST_INPUT,
                   "no command '%.*s'; /help lists them (a line that begins with a space is a question)",
                   (int) n, line);
}

/* --- a question --- */

static void add_totals(struct totals *t, const struct stream *a)
{
    const Outrider__V1__Usage *u = stream_usage(a);
    const Outrider__V1__SpeculationFigures *f = stream_speculation(a);
    t->answers++;
    t->prompt += u->prompt_tokens;
    t->cached += u->cached_tokens;
    t->completion += u->completion_tokens;
    t->reasoning += u->reasoning_tokens;
    t->passes += f->passes;
    t->drafted += f->drafted;
    t->accepted += f->accepted;
    t->decode_ms += stream_timings(a)->decode_ms;
}

/* What stays of an answer: all of it, or as much as had come; without content the question goes too. */
static int keep_answer(struct chat *c, const struct stream *a, int st, struct err *e)
{
    if (st == 0) {
        add_totals(&c->sum, a);
        report_figures(&c->out, a);
    } else {
        c->sum.failures++;
    }
    if (st == ST_AGAIN)
        show_note(&c->out, "[interrupted%s]", a->answer->content.n ? "" : "; the question is dropped");
    if (a->answer->content.n == 0)
        talk_cut(&c->talk, c->talk.n - 1);
    else if (talk_add(&c->talk, "assistant", words_str(&a->answer->content),
                      words_str(&a->answer->reasoning)))
        return err_set(e, ST_NOMEM, "out of memory for the conversation");
    return st == ST_AGAIN ? 0 : st;
}

/* Takes what was typed: Enter alone closes thinking that shows.  One that comes sooner was meant for the question. */
static int take_keys(struct chat *c, struct stream *a, struct err *e)
{
    if (!lines_ahead(c->lines))
        return 0;
    c->out.at_line_end = 1; /* the terminal showed the Enter */
    return a->answer->reasoning.n && !a->answer->content.n ? stream_stop_thinking(a, e) : 0;
}

/* Shows the answer until it ends; ST_AGAIN: Ctrl-C ended it. */
static int follow(struct chat *c, struct grpc *g, struct stream *a, struct err *e)
{
    const struct follow f = {.show = &c->out};
    int st;
    follow_begin(&f);
    for (;;) {
        grpc_watch(g, c->wake, lines_fd(c->lines));
        st = follow_more(&f, a, e);
        if (st != ST_AGAIN || interrupt_take(c->wake))
            break;
        st = take_keys(c, a, e);
        if (st && st != ST_UNAVAILABLE) /* that one the next event explains */
            break;
    }
    if (st == ST_AGAIN)
        lines_forget(c->lines);
    follow_end(&f, a, st);
    return st;
}

static int ask(struct chat *c, struct grpc *g, struct err *e)
{
    Outrider__V1__ChatRequest r = OUTRIDER__V1__CHAT_REQUEST__INIT;
    r.messages = c->talk.message;
    r.n_messages = c->talk.n;
    options_ask(&c->o, &r);
    struct stream a;
    int st = stream_chat_open(&a, g, &r, c->o.deadline_ms, e);
    if (st == 0)
        st = follow(c, g, &a, e);
    if (!c->warned++)
        report_synthetic_warn("chat", &a);
    st = keep_answer(c, &a, st, e);
    stream_fini(&a);
    return st;
}

static int question(struct chat *c, const char *line, struct err *e)
{
    if (words_check(line, strlen(line)) != strlen(line))
        return err_set(e, ST_INPUT, "the question is not UTF-8");
    if (talk_add(&c->talk, "user", line, ""))
        return err_set(e, ST_NOMEM, "out of memory for the conversation");
    struct grpc *g;
    int st = grpc_open(&g, c->o.server, GRPC_CONNECT_MS, e);
    if (st) {
        talk_cut(&c->talk, c->talk.n - 1);
        c->sum.failures++;
        return st;
    }
    interrupt_take(c->wake);
    lines_ahead(c->lines);
    st = ask(c, g, e);
    grpc_close(g);
    return st;
}

/* --- the chat --- */

static void say_hello(struct chat *c)
{
    if (lines_terminal(c->lines))
        show_note(&c->out,
                  "outrider chat with %s; Enter ends the thinking, Ctrl-C an answer, Ctrl-D the chat; /help "
                  "lists the commands",
                  c->o.server);
}

static int converse(struct chat *c)
{
    const char *line;
    int st;
    while (!c->done && (st = lines_next(c->lines, &line)) != 0) {
        struct err e = {0};
        if (st < 0 && st != ST_INPUT) {
            fprintf(stderr, "outrider chat: cannot read a question: %s\n",
                    st == ST_IO ? strerror(errno) : status_text(st));
            return EXIT_FAILED;
        }
        if (st == ST_INPUT)
            err_set(&e, st, "the question has a NUL byte; text has none");
        else if (!line[strspn(line, " \t")])
            continue;
        else
            st = *line == '/' ? run_command(c, line, &e) : question(c, line, &e);
        c->failed = st != 0;
        if (st)
            show_error("chat", &e);
        if (!c->out.terminal)
            show_break(&c->out);
    }
    return c->failed && !lines_terminal(c->lines) ? EXIT_SERVER : EXIT_DONE;
}

static int chat(struct chat *c)
{
    c->lines = lines_open();
    if (!c->lines || start_talk(c)) {
        fprintf(stderr, "outrider chat: out of memory\n");
        lines_close(c->lines);
        return EXIT_FAILED;
    }
    c->wake = lines_terminal(c->lines) ? interrupt_open() : -1; /* a pipe's reader ends on Ctrl-C */
    say_hello(c);
    int rc = converse(c);
    interrupt_close(c->wake);
    lines_close(c->lines);
    talk_fini(&c->talk);
    return rc;
}

static int check_flags(const struct options *o, const char *word, struct err *e)
{
    if (word)
        return err_set(e, ST_INPUT,
                       "'%s' is too much; questions are typed, or see `outrider generate --help`", word);
    if (o->sampling.n__case && o->sampling.n != 1)
        return err_set(e, ST_INPUT,
                       "a conversation goes on from one answer; leave --n away, or see `outrider generate`");
    if (o->sampling.logprobs || o->logprobs.processed)
        return err_set(e, ST_INPUT,
                       "logprobs are told in JSON; see `outrider generate --json`, or leave --logprobs and "
                       "--processed away");
    return 0;
}

int cmd_chat(int argc, char **argv)
{
    struct chat c = {0};
    struct err e = {0};
    options_init(&c.o);
    show_init(&c.out, stdout);
    int st = options_next(&c.o, argc, argv, table, &e), rc = EXIT_DONE;
    if (st == 0)
        st = check_flags(&c.o, argc > optind ? argv[optind] : NULL, &e);
    if (st == OPTION_HELP) {
        usage(stdout);
    } else if (st) {
        show_error("chat", &e);
        rc = EXIT_USAGE;
    } else {
        rc = chat(&c);
    }
    options_fini(&c.o);
    return rc;
}
