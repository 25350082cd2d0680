/* options.h - the client's configuration: flags shared by the commands that talk to a daemon, and $OUTRIDER_SERVER, which is
 * read here alone. */
#ifndef CLIENT_OPTIONS_H
#define CLIENT_OPTIONS_H

#include <getopt.h>
#include <stdint.h>

#include "core/status.h"
#include "outrider/v1/inference.pb-c.h"

#define OPTIONS_SERVER_DEFAULT "127.0.0.1:8311"

/* What the flags said; what they left out stays unset, so that the model's own defaults hold. */
struct options {
    const char *server; /* borrowed from argv or the environment */
    const char *system; /* borrowed; NULL: none */
    int deadline_ms;    /* 0: none */
    int32_t priority;
    Outrider__V1__Sampling sampling; /* points to what follows; logit_bias owned */
    Outrider__V1__Logprobs logprobs;
    Outrider__V1__Constraint constraint;
    Outrider__V1__Choices choices;   /* the list is owned, its strings are not */
    Outrider__V1__Stopping stopping; /* stop_token_ids owned; stop likewise a list */
    Outrider__V1__Thinking thinking;
    Outrider__V1__Speculation speculation;
};

/* Values of the shared flags; a command's own start at OPTION_OWN. */
enum option_flag {
    OPTION_SERVER = 256,
    OPTION_DEADLINE,
    OPTION_SYSTEM,
    OPTION_TEMPERATURE,
    OPTION_TOP_K,
    OPTION_TOP_P,
    OPTION_MIN_P,
    OPTION_SEED,
    OPTION_MAX_TOKENS,
    OPTION_MIN_TOKENS,
    OPTION_STOP_TOKEN,
    OPTION_IGNORE_EOS,
    OPTION_THINK,
    OPTION_NO_THINK,
    OPTION_BUDGET,
    OPTION_SPECULATION,
    OPTION_STOP,
    OPTION_N,
    OPTION_LOGPROBS,
    OPTION_PROCESSED,
    OPTION_REPETITION,
    OPTION_PRESENCE,
    OPTION_FREQUENCY,
    OPTION_LOGIT_BIAS,
    OPTION_CHOICES,
    OPTION_THINKING_DEADLINE,
    OPTION_PRIORITY,
    OPTION_HELP,
    OPTION_OWN,
};

/* Rows of a command's option table. */
/* clang-format off: a row a line */
#define OPTIONS_CALL                                                                                         \
    {"server", required_argument, NULL, OPTION_SERVER},                                                      \
        {"deadline", required_argument, NULL, OPTION_DEADLINE},                                              \
    {                                                                                                        \
        "help", no_argument, NULL, OPTION_HELP                                                               \
    }
#define OPTIONS_SAMPLING                                                                                     \
    {"system", required_argument, NULL, OPTION_SYSTEM},                                                      \
        {"temperature", required_argument, NULL, OPTION_TEMPERATURE},                                        \
        {"top-k", required_argument, NULL, OPTION_TOP_K}, {"top-p", required_argument, NULL, OPTION_TOP_P},  \
        {"min-p", required_argument, NULL, OPTION_MIN_P}, {"seed", required_argument, NULL, OPTION_SEED},    \
        {"max-tokens", required_argument, NULL, OPTION_MAX_TOKENS},                                          \
        {"min-tokens", required_argument, NULL, OPTION_MIN_TOKENS},                                          \
        {"stop-token", required_argument, NULL, OPTION_STOP_TOKEN},                                          \
        {"ignore-eos", no_argument, NULL, OPTION_IGNORE_EOS}, {"think", no_argument, NULL, OPTION_THINK},    \
        {"no-think", no_argument, NULL, OPTION_NO_THINK},                                                    \
        {"budget", required_argument, NULL, OPTION_BUDGET}, {"stop", required_argument, NULL, OPTION_STOP},  \
        {"n", required_argument, NULL, OPTION_N}, {"logprobs", required_argument, NULL, OPTION_LOGPROBS},    \
        {"processed", no_argument, NULL, OPTION_PROCESSED},                                                  \
        {"repetition-penalty", required_argument, NULL, OPTION_REPETITION},                                  \
        {"presence-penalty", required_argument, NULL, OPTION_PRESENCE},                                      \
        {"frequency-penalty", required_argument, NULL, OPTION_FREQUENCY},                                    \
        {"logit-bias", required_argument, NULL, OPTION_LOGIT_BIAS},                                          \
        {"choices", required_argument, NULL, OPTION_CHOICES},                                                \
        {"thinking-deadline", required_argument, NULL, OPTION_THINKING_DEADLINE},                            \
        {"priority", required_argument, NULL, OPTION_PRIORITY},                                              \
    {                                                                                                        \
        "speculation", required_argument, NULL, OPTION_SPECULATION                                           \
    }
/* clang-format on */

/* Their paragraphs of --help. */
extern const char options_help_call[], options_help_sampling[], options_help_answers[];

void options_init(struct options *o);
void options_fini(struct options *o);

/* Points the request at what the flags said; o must outlive it. */
void options_ask(struct options *o, Outrider__V1__ChatRequest *r);
/* The same for a request of another kind: makes o->sampling whole. */
void options_point(struct options *o);

/* The next flag: the shared ones are taken into o, a command's own is returned, its argument in optarg.  0: no more, the rest
 * is argv[optind...].  OPTION_HELP is returned too.  ST_INPUT: e says what is wrong. */
int options_next(struct options *o, int argc, char **argv, const struct option *table, struct err *e);

/* The same for a command with none of the shared ones: *flag is the next, also 'h' for -h; 0: no more. */
int options_flag(int argc, char **argv, const struct option *table, int *flag, struct err *e);

/* Strict readers of an argument; `what` names it in e.  ST_INPUT: not a number, or out of [lo, hi]. */
int options_int(const char *arg, const char *what, int64_t lo, int64_t hi, int32_t *out, struct err *e);
int options_u64(const char *arg, const char *what, uint64_t *out, struct err *e);
int options_float(const char *arg, const char *what, float *out, struct err *e);

/* What --speculation takes: auto, off, or a number of nodes. */
int options_speculation(const char *arg, Outrider__V1__Speculation *s, struct err *e);

/* "1,2,3" appended to *ids (malloc'd, owned by the caller). */
int options_ids(const char *arg, const char *what, int32_t **ids, size_t *n, struct err *e);

#endif
