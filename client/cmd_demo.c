/* cmd_demo.c - `outrider demo`: a daemon with the tiny pair, seen working.
 *
 * It starts outriderd in a temporary directory and asks it over gRPC what the README promises: thinking, a budget that closes it,
 * no thinking, sums that are right, and one seed giving one text with drafting on, off and across a resume.  Every step checks
 * what it shows; the exit status is 0 only if all of them held and the daemon ended cleanly. */
#include "client/child.h"
#include "client/cmd.h"
#include "client/follow.h"
#include "client/health.h"
#include "client/interrupt.h"
#include "client/options.h"
#include "client/report.h"
#include "client/words.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What the daemon writes where a budget cuts the thinking (DESIGN.md section 5), without the newlines and </think> around it. */
#define CLOSING                                                                                              \
    "Considering the limited time by the user, I have to give the solution based on the thinking directly "  \
    "now."

enum {
    START_MS =
        60000, /* the tiny pair loads in well under a second; a sanitizer build on a busy machine does not */
    STOP_MS = 20000,
    ASK_MS = 2000,
    ANSWER_MS = 120000,
    RETRY_MS = 50,
    LOG_MAX = 1 << 20,
    BUDGET = 12,      /* tokens: cuts the sum of step 1 in its first line */
    BREAK_AFTER = 10, /* tokens */
    DRAFT_NODES = 8,
    CHECK_BYTES = 512,
};

enum { FLAG_DAEMON = OPTION_OWN, FLAG_TARGET, FLAG_DRAFT };

static const struct option table[] = {
    {"daemon", required_argument, NULL, FLAG_DAEMON},
    {"target", required_argument, NULL, FLAG_TARGET},
    {"draft", required_argument, NULL, FLAG_DRAFT},
    {"help", no_argument, NULL, OPTION_HELP},
    {0},
};

struct demo {
    const char *program, *target, *draft; /* borrowed */
    char paths[3][PATH_MAX];              /* room for their defaults */
    const char *const *more;              /* borrowed: arguments for the daemon, NULL at the end */
    struct child child;
    struct grpc *conn; /* owns */
    struct show out;
    int wake;     /* readable after Ctrl-C */
    int failures; /* checks that did not hold */
};

/* One question; what is zero is left to the daemon. */
struct question {
    const char *prompt;
    int think;         /* 1: on, 0: off */
    int budget;        /* tokens; 0: unset */
    float temperature; /* always sent; 0: greedy */
    uint64_t seed;
    int mode, nodes;            /* of Speculation */
    size_t break_after;         /* tokens; 0: to the end */
    const struct stream *after; /* resumed after this one; NULL: from the start */
};

static void usage(FILE *to)
{
    fprintf(
        to,
        "usage: outrider demo [OPTIONS] [-- DAEMON-OPTIONS]\n\n"
        "Starts outriderd with the tiny pair and checks, over gRPC, what it promises: thinking and its "
        "budget,\n"
        "right sums, and one text for one seed, with drafting on, off, and across a resume.\n\n"
        "  --daemon PATH       the daemon (default: outriderd beside this program)\n"
        "  --target MODEL      its model (default: assets/tiny/target)\n"
        "  --draft MODEL       its draft (default: assets/tiny/draft)\n"
        "  --help              this text\n"
        "\nExit status: 0 everything held; 1 something did not; 2 bad usage; 3 the daemon did not start;\n"
        "130 interrupted.\n");
}

/* --- saying and checking --- */

__attribute__((format(printf, 2, 3))) static void say(struct demo *d, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    show_break(&d->out);
    vfprintf(d->out.to, fmt, ap);
    fflush(d->out.to);
    va_end(ap);
}

/* Prints whether `what` held; what came, if it did not. */
__attribute__((format(printf, 4, 5))) static void check(struct demo *d, int held, const char *what,
                                                        const char *fmt, ...)
{
    char got[CHECK_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(got, sizeof got, fmt, ap);
    va_end(ap);
    if (held) {
        say(d, "  ok    %s\n", what);
        return;
    }
    d->failures++;
    say(d, "  FAIL  expected: %s; came: ", what);
    show_text(&d->out, got, strlen(got), 0);
    show_break(&d->out);
}

/* The content without the newlines that follow </think>. */
static const char *content_of(const struct stream *a)
{
    const char *s = words_str(&a->answer->content);
    return s + strspn(s, "\n");
}

static void check_answer(struct demo *d, const struct stream *a, const char *want)
{
    char what[CHECK_BYTES];
    snprintf(what, sizeof what, "the answer is \"%s\"", want);
    check(d, strcmp(content_of(a), want) == 0, what, "\"%s\"", content_of(a));
    check(d, stream_end(a)->finish == OUTRIDER__V1__END__FINISH__STOP, "it ended by itself", "%s",
          report_finish(a));
}

/* --- asking --- */

static void fill(const struct question *q, struct options *o, Outrider__V1__Resume *resume)
{
    o->sampling.temperature__case = OUTRIDER__V1__SAMPLING__TEMPERATURE__TEMPERATURE;
    o->sampling.temperature = q->temperature;
    o->sampling.seed__case = OUTRIDER__V1__SAMPLING__SEED__SEED;
    o->sampling.seed = q->seed;
    o->thinking.enabled__case = OUTRIDER__V1__THINKING__ENABLED__ENABLED;
    o->thinking.enabled = q->think;
    o->speculation.mode = (Outrider__V1__Speculation__Mode) q->mode;
    o->speculation.nodes = q->nodes;
    if (q->budget) {
        o->thinking.budget__case = OUTRIDER__V1__THINKING__BUDGET__BUDGET;
        o->thinking.budget = q->budget;
    }
    if (q->after) {
        resume->tokens = q->after->answer->ids;
        resume->n_tokens = q->after->answer->n_ids;
        resume->fingerprint = stream_begin(q->after)->fingerprint;
    }
}

/* Asks and shows.  0; ST_AGAIN: Ctrl-C; else a failure that was told and counted.  stream_fini(a) in any case. */
static int ask(struct demo *d, const struct question *q, struct stream *a)
{
    struct options o;
    struct err e = {0};
    Outrider__V1__Resume resume = OUTRIDER__V1__RESUME__INIT;
    Outrider__V1__Message user = OUTRIDER__V1__MESSAGE__INIT, *users = &user;
    Outrider__V1__ChatRequest r = OUTRIDER__V1__CHAT_REQUEST__INIT;
    options_init(&o);
    fill(q, &o, &resume);
    options_ask(&o, &r);
    user.role = (char *) (uintptr_t) "user"; /* protobuf-c only reads them */
    user.content = (char *) (uintptr_t) q->prompt;
    r.messages = &users;
    r.n_messages = 1;
    r.resume = q->after ? &resume : NULL;
    const struct follow f = {.show = &d->out, .break_after = q->break_after};
    int st = stream_chat(a, d->conn, &r, ANSWER_MS, &e);
    if (st == 0)
        st = follow_answer(&f, a, &e);
    show_break(&d->out);
    if (st == ST_CANCELLED && q->break_after && !e.text[0])
        return 0;
    if (st == 0)
        report_figures(&d->out, a);
    else if (st != ST_AGAIN)
        check(d, 0, "an answer", "%s", e.text);
    return st;
}

/* How many tokens a text is, by the daemon's own count. */
static int count_tokens(struct demo *d, const char *text, int32_t *n)
{
    struct err e = {0};
    struct stream a;
    Outrider__V1__Stopping stopping = OUTRIDER__V1__STOPPING__INIT;
    Outrider__V1__GenerateRequest r = OUTRIDER__V1__GENERATE_REQUEST__INIT;
    stopping.max_tokens__case = OUTRIDER__V1__STOPPING__MAX_TOKENS__MAX_TOKENS;
    stopping.max_tokens = 1;
    r.stopping = &stopping;
    r.prompt_case = OUTRIDER__V1__GENERATE_REQUEST__PROMPT_TEXT;
    r.text = (char *) (uintptr_t) text;
    int st = stream_generate(&a, d->conn, &r, ANSWER_MS, &e);
    const struct follow f = {0};
    if (st == 0)
        st = follow_answer(&f, &a, &e);
    *n = stream_begin(&a)->prompt_tokens;
    stream_fini(&a);
    if (st && st != ST_AGAIN)
        check(d, 0, "a count of the closing text's tokens", "%s", e.text);
    return st;
}

/* --- the steps --- */

static int step_sum(struct demo *d, const char *prompt, const char *want, struct stream *a)
{
    const struct question q = {.prompt = prompt, .think = 1};
    say(d, "\n1. A sum, with thinking: %s\n", prompt);
    int st = ask(d, &q, a);
    if (st)
        return st;
    check_answer(d, a, want);
    check(d, stream_usage(a)->reasoning_tokens > BUDGET, "it thought for more than 12 tokens", "%d",
          stream_usage(a)->reasoning_tokens);
    return 0;
}

/* As much of the reasoning as stands before the closing text; -1: it is not there. */
static ptrdiff_t before_closing(const struct stream *a)
{
    const char *s = words_str(&a->answer->reasoning), *at = strstr(s, CLOSING);
    while (at && at > s && at[-1] == '\n')
        at--;
    return at ? at - s : -1;
}

static int step_budget(struct demo *d, const char *prompt, const struct stream *whole)
{
    const struct question q = {.prompt = prompt, .think = 1, .budget = BUDGET};
    struct stream a;
    int32_t n_closing;
    say(d, "\n2. The same, with a thinking budget of %d tokens\n", BUDGET);
    int st = ask(d, &q, &a);
    if (st == 0)
        st = count_tokens(d, "\n\n" CLOSING "\n</think>\n\n", &n_closing);
    if (st == 0) {
        int32_t n = stream_usage(&a)->reasoning_tokens;
        ptrdiff_t own = before_closing(&a);
        check(d, stream_end(&a)->thinking_cut, "the budget cut the thinking", "it did not");
        check(d, n > 0 && n <= BUDGET + n_closing, "no more reasoning than the budget and the closing text",
              "%d tokens", n);
        check(d, own > 0, "the closing text ends the thinking", "%s", words_str(&a.answer->reasoning));
        check(d,
              own > 0 && strncmp(words_str(&a.answer->reasoning), words_str(&whole->answer->reasoning),
                                 (size_t) own) == 0,
              "up to there it thought as in step 1", "%.*s", (int) own, words_str(&a.answer->reasoning));
        check(d, *content_of(&a) != 0, "it answered all the same", "nothing");
    }
    stream_fini(&a);
    return st;
}

static int step_off(struct demo *d)
{
    const char *word = "ladder";
    char prompt[64], want[64];
    size_t n = strlen(word);
    snprintf(prompt, sizeof prompt, "Reverse the word %s.", word);
    for (size_t i = 0; i < n; i++)
        want[i] = word[n - 1 - i];
    snprintf(want + n, sizeof want - n, ".");
    const struct question q = {.prompt = prompt};
    struct stream a;
    say(d, "\n3. Thinking off: %s\n", prompt);
    int st = ask(d, &q, &a);
    if (st == 0) {
        check_answer(d, &a, want);
        check(d, stream_usage(&a)->reasoning_tokens == 0 && a.answer->reasoning.n == 0, "no reasoning at all",
              "%d tokens: %s", stream_usage(&a)->reasoning_tokens, words_str(&a.answer->reasoning));
    }
    stream_fini(&a);
    return st;
}

static int step_equation(struct demo *d)
{
    const int m = 2, x = 17, c = 4;
    char prompt[64], want[64];
    snprintf(prompt, sizeof prompt, "Solve %dy + %d = %d.", m, c, m * x + c);
    snprintf(want, sizeof want, "y = %d.", x);
    const struct question q = {.prompt = prompt, .think = 1};
    struct stream a;
    say(d, "\n4. An equation, with thinking: %s\n", prompt);
    int st = ask(d, &q, &a);
    if (st == 0)
        check_answer(d, &a, want);
    stream_fini(&a);
    return st;
}

/* Are the answers the same, b's second part being c (NULL: it is whole)? */
static void check_same(struct demo *d, const char *what, const struct stream *a, const struct stream *b,
                       const struct stream *c)
{
    static const struct stream nothing;
    c = c ? c : &nothing;
    struct words content = {0}, reasoning = {0};
    if (words_add(&content, words_str(&b->answer->content), b->answer->content.n) ||
        words_add(&content, words_str(&c->answer->content), c->answer->content.n) ||
        words_add(&reasoning, words_str(&b->answer->reasoning), b->answer->reasoning.n) ||
        words_add(&reasoning, words_str(&c->answer->reasoning), c->answer->reasoning.n)) {
        check(d, 0, what, "out of memory");
    } else {
        int ids = a->answer->n_ids == b->answer->n_ids + c->answer->n_ids &&
                  memcmp(a->answer->ids, b->answer->ids, b->answer->n_ids * sizeof *a->answer->ids) == 0 &&
                  (c->answer->n_ids == 0 || memcmp(a->answer->ids + b->answer->n_ids, c->answer->ids,
                                                   c->answer->n_ids * sizeof *a->answer->ids) == 0);
        int text = strcmp(words_str(&a->answer->content), content.p) == 0 &&
                   strcmp(words_str(&a->answer->reasoning), reasoning.p) == 0;
        check(d, ids && text, what, "%zu and %zu ids, %s; text %s: %s%s", a->answer->n_ids,
              b->answer->n_ids + c->answer->n_ids, ids ? "equal" : "different", text ? "equal" : "different",
              reasoning.p, content.p);
    }
    free(content.p);
    free(reasoning.p);
}

static int same_seed(struct demo *d, struct stream a[4])
{
    struct question q = {.prompt = "What is 44 times 4?", .think = 1, .temperature = 1, .seed = 20250429};
    say(d, "\n5. Temperature 1, seed %" PRIu64 ", drafting on: %s\n", q.seed, q.prompt);
    q.mode = OUTRIDER__V1__SPECULATION__MODE__NODES;
    q.nodes = DRAFT_NODES;
    int st = ask(d, &q, &a[0]);
    if (st)
        return st;
    say(d, "\n   The same with drafting off\n");
    q.mode = OUTRIDER__V1__SPECULATION__MODE__OFF;
    q.nodes = 0;
    st = ask(d, &q, &a[1]);
    if (st)
        return st;
    say(d, "\n   The same, broken off after %d tokens\n", BREAK_AFTER);
    q.mode = OUTRIDER__V1__SPECULATION__MODE__AUTO;
    q.break_after = BREAK_AFTER;
    st = ask(d, &q, &a[2]);
    if (st)
        return st;
    say(d, "   ... and resumed\n");
    q.break_after = 0;
    q.after = &a[2];
    return ask(d, &q, &a[3]);
}

static int step_same(struct demo *d)
{
    struct stream a[4] = {0};
    int st = same_seed(d, a);
    if (st == 0) {
        check(d, stream_speculation(&a[0])->accepted > 0, "with drafting, guesses were kept", "%d of %d",
              stream_speculation(&a[0])->accepted, stream_speculation(&a[0])->drafted);
        check(d, stream_speculation(&a[1])->drafted == 0, "without drafting, nothing was guessed",
              "%d guesses", stream_speculation(&a[1])->drafted);
        check(d, a[2].answer->n_ids >= BREAK_AFTER && a[2].answer->n_ids < a[0].answer->n_ids,
              "the broken stream was cut short", "%zu of %zu tokens", a[2].answer->n_ids, a[0].answer->n_ids);
        check_same(d, "drafting on and off: identical text and token ids", &a[0], &a[1], NULL);
        check_same(d, "broken and resumed: identical text and token ids", &a[0], &a[2], &a[3]);
    }
    for (int i = 0; i < 4; i++)
        stream_fini(&a[i]);
    return st;
}

static int steps(struct demo *d)
{
    const int a = 626, b = 807;
    char prompt[64], want[64];
    snprintf(prompt, sizeof prompt, "What is the sum of %d and %d?", a, b);
    snprintf(want, sizeof want, "%d + %d = %d.", a, b, a + b);
    struct stream whole;
    int st = step_sum(d, prompt, want, &whole);
    if (st == 0)
        st = step_budget(d, prompt, &whole);
    stream_fini(&whole);
    if (st == 0)
        st = step_off(d);
    if (st == 0)
        st = step_equation(d);
    if (st == 0)
        st = step_same(d);
    return st;
}

/* --- the daemon --- */

/* Waits until it serves.  ST_AGAIN: Ctrl-C. */
static int await(struct demo *d, struct err *e)
{
    const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000L};
    for (int waited = 0; waited < START_MS; waited += RETRY_MS) {
        int serving, status = 0;
        if (!child_runs(&d->child, &status))
            return err_set(e, ST_UNAVAILABLE, "the daemon ended before it served (%s %d)",
                           WIFEXITED(status) ? "status" : "signal",
                           WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        if (interrupt_take(d->wake))
            return err_set(e, ST_AGAIN, "interrupted");
        if (health_ask(d->child.address, "", ASK_MS, &serving, e) == 0 && serving)
            return 0;
        nanosleep(&pause, NULL);
    }
    return err_set(e, ST_UNAVAILABLE, "the daemon did not serve within %d s", START_MS / 1000);
}

static void show_log(const struct demo *d)
{
    struct words log = {0};
    struct show s;
    int fd = open(d->child.log, O_RDONLY | O_CLOEXEC);
    int st = fd < 0 ? ST_IO : words_read(&log, fd, LOG_MAX);
    if (fd >= 0)
        close(fd);
    show_init(&s, stderr);
    fprintf(stderr, "--- the daemon's log%s ---\n",
            st == ST_LIMIT ? " (its beginning)"
            : st           ? " (unreadable)"
                           : "");
    show_text(&s, words_str(&log), log.n, 0);
    show_break(&s);
    free(log.p);
}

/* With a daemon that serves: the steps, then its end. */
static int perform(struct demo *d, struct err *e)
{
    int st = grpc_open(&d->conn, d->child.address, GRPC_CONNECT_MS, e);
    if (st)
        return st;
    grpc_watch(d->conn, d->wake, -1);
    st = steps(d);
    grpc_close(d->conn);
    if (st == ST_AGAIN)
        return err_set(e, ST_AGAIN, "interrupted");
    say(d, "\n6. SIGTERM to the daemon\n");
    struct err stop = {0};
    check(d, child_stop(&d->child, STOP_MS, &stop) == 0, "it ends with status 0", "%s", stop.text);
    return 0;
}

static int run(struct demo *d)
{
    const char *args[64] = {"--target", d->target, "--draft", d->draft};
    struct err e = {0};
    size_t n = 4;
    for (; d->more && d->more[n - 4] && n < sizeof args / sizeof *args - 1; n++)
        args[n] = d->more[n - 4];
    int st = child_start(&d->child, d->program, args, &e);
    if (st == 0) {
        say(d, "outriderd --target %s --draft %s --listen %s\n", d->target, d->draft, d->child.address);
        st = await(d, &e);
    }
    if (st == 0)
        st = perform(d, &e);
    if (st && st != ST_AGAIN)
        show_error("demo", &e);
    if (d->child.dir[0] && st != ST_AGAIN && (st || d->failures))
        show_log(d);
    child_fini(&d->child);
    if (st)
        return st == ST_AGAIN ? EXIT_INTERRUPTED : EXIT_SERVER;
    say(d, d->failures ? "\n%d checks did not hold.\n" : "\nEverything held.\n", d->failures);
    return d->failures ? EXIT_FAILED : EXIT_DONE;
}

/* The tiny pair: below the working directory, or below the checkout this program was built in. */
static const char *asset(const char *name, const char *here, char room[PATH_MAX])
{
    snprintf(room, PATH_MAX, "assets/tiny/%s", name);
    if (access(room, F_OK))
        snprintf(room, PATH_MAX, "%.3000s/../../assets/tiny/%s", here, name);
    return room;
}

static void defaults(struct demo *d)
{
    char here[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", here, sizeof here - 1);
    here[n > 0 ? n : 0] = 0;
    char *slash = strrchr(here, '/');
    if (slash)
        *slash = 0;
    snprintf(d->paths[0], PATH_MAX, "%.3000s/outriderd", here);
    d->program = d->paths[0];
    d->target = asset("target", here, d->paths[1]);
    d->draft = asset("draft", here, d->paths[2]);
}

int cmd_demo(int argc, char **argv)
{
    struct demo d = {0};
    struct options unused;
    struct err e = {0};
    int flag;
    options_init(&unused);
    show_init(&d.out, stdout);
    d.out.laid_out = 1;
    defaults(&d);
    while ((flag = options_next(&unused, argc, argv, table, &e)) > 0) {
        if (flag == OPTION_HELP) {
            usage(stdout);
            return EXIT_DONE;
        }
        *(flag == FLAG_DAEMON ? &d.program : flag == FLAG_TARGET ? &d.target : &d.draft) = optarg;
    }
    if (flag < 0) {
        show_error("demo", &e);
        return EXIT_USAGE;
    }
    d.more = (const char *const *) argv + optind;
    d.wake = interrupt_open();
    int rc = run(&d);
    interrupt_close(d.wake);
    return rc;
}
