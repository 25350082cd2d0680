/* options.c - see options.h.  Ranges are the server's to judge (it knows the model); here a number must be a number. */
#include "client/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEADLINE_S_MAX = 86400 }; /* a day: keeps milliseconds in an int and in grpc-timeout's 8 digits */

const char options_help_call[] =
    "  --server ADDR       HOST:PORT or unix:PATH (default: $OUTRIDER_SERVER, or " OPTIONS_SERVER_DEFAULT
    ")\n"
    "  --deadline SECONDS  give up after that long (default: never)\n"
    "  --help              this text\n";

const char options_help_sampling[] =
    "  --system TEXT       a system message before the conversation\n"
    "  --temperature T     0: greedy (unset, as all of these: the model's own default)\n"
    "  --top-k K           keep the K likeliest (0: off)\n"
    "  --top-p P           keep the likeliest that sum up to P (1: off)\n"
    "  --min-p P           keep what is at least P times the likeliest (0: off)\n"
    "  --seed N            the same seed gives the same answer (unset: the server picks one and it is "
    "shown)\n"
    "  --max-tokens N      longest answer\n"
    "  --min-tokens N      shortest answer\n"
    "  --stop-token IDS    ids that end the answer, comma-separated; may be repeated\n"
    "  --ignore-eos        do not stop at the end of text\n"
    "  --think, --no-think let the model think first, or not\n"
    "  --budget N          at most N tokens of thinking (-1: no limit, 0: none)\n"
    "  --thinking-deadline SECONDS  close the thinking after that long\n"
    "  --stop TEXT         end the answer before TEXT; may be repeated\n"
    "  --repetition-penalty P, --presence-penalty P, --frequency-penalty P\n"
    "  --logit-bias ID:B   add B to the logit of token ID; may be repeated\n"
    "  --choices TEXT      the answer is one of these; may be repeated\n"
    "  --priority N        -100..100: higher goes first where requests wait\n"
    "  --speculation HOW   auto, off, or N: trees of N nodes (1..64); the text is the same\n";

const char options_help_answers[] =
    "  --n N               so many answers to one prompt (with --json or --json-stream)\n"
    "  --logprobs N        logprobs of the tokens and of the N likeliest beside each (likewise)\n"
    "  --processed         and those after penalties, masks, temperature and cuts\n";

void options_init(struct options *o)
{
    const char *server = getenv("OUTRIDER_SERVER");
    *o = (struct options){
        .server = server && *server ? server : OPTIONS_SERVER_DEFAULT,
        .sampling = OUTRIDER__V1__SAMPLING__INIT,
        .stopping = OUTRIDER__V1__STOPPING__INIT,
        .thinking = OUTRIDER__V1__THINKING__INIT,
        .speculation = OUTRIDER__V1__SPECULATION__INIT,
        .logprobs = OUTRIDER__V1__LOGPROBS__INIT,
        .constraint = OUTRIDER__V1__CONSTRAINT__INIT,
        .choices = OUTRIDER__V1__CHOICES__INIT,
    };
}

void options_fini(struct options *o)
{
    for (size_t i = 0; i < o->sampling.n_logit_bias; i++)
        free(o->sampling.logit_bias[i]);
    free(o->sampling.logit_bias);
    free(o->choices.choice);
    free(o->stopping.stop);
    free(o->stopping.stop_token_ids);
}

void options_point(struct options *o)
{
    if (o->choices.n_choice) {
        o->constraint.kind_case = OUTRIDER__V1__CONSTRAINT__KIND_CHOICES;
        o->constraint.choices = &o->choices;
        o->sampling.constraint = &o->constraint;
    }
    if (o->sampling.logprobs)
        o->sampling.logprobs = &o->logprobs;
}

void options_ask(struct options *o, Outrider__V1__ChatRequest *r)
{
    options_point(o);
    r->priority = o->priority;
    r->sampling = &o->sampling;
    r->stopping = &o->stopping;
    r->thinking = &o->thinking;
    r->speculation = &o->speculation;
}

int options_int(const char *arg, const char *what, int64_t lo, int64_t hi, int32_t *out, struct err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(arg, &end, 10);
    if (end == arg || *end || errno || v < lo || v > hi)
        return err_set(e, ST_INPUT, "%s takes a whole number from %lld to %lld, not '%s'", what,
                       (long long) lo, (long long) hi, arg);
    *out = (int32_t) v;
    return 0;
}

int options_u64(const char *arg, const char *what, uint64_t *out, struct err *e)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(arg, &end, 10);
    if (*arg < '0' || *arg > '9' || *end || errno)
        return err_set(e, ST_INPUT, "%s takes a whole number from 0 to 18446744073709551615, not '%s'", what,
                       arg);
    *out = v;
    return 0;
}

int options_float(const char *arg, const char *what, float *out, struct err *e)
{
    char *end;
    float v = strtof(arg, &end);
    if (end == arg || *end || !isfinite(v))
        return err_set(e, ST_INPUT, "%s takes a number, not '%s'", what, arg);
    *out = v;
    return 0;
}

int options_ids(const char *arg, const char *what, int32_t **ids, size_t *n, struct err *e)
{
    for (const char *p = arg;;) {
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || errno || v < 0 || v > INT32_MAX)
            return err_set(e, ST_INPUT,
                           "%s takes token ids with commas between, such as 3,14,15, not '%.60s'", what, arg);
        int32_t *grown = realloc(*ids, (*n + 1) * sizeof **ids);
        if (!grown)
            return err_set(e, ST_NOMEM, "out of memory for token ids");
        *ids = grown;
        grown[(*n)++] = (int32_t) v;
        if (!*end)
            return 0;
        p = end + 1;
    }
}

/* One more of a flag that may be repeated. */
static int take_text(char ***list, size_t *n, const char *arg, struct err *e)
{
    char **grown = realloc(*list, (*n + 1) * sizeof *grown);
    if (!grown)
        return err_set(e, ST_NOMEM, "out of memory for options");
    *list = grown;
    grown[(*n)++] = (char *) (uintptr_t) arg; /* protobuf-c's fields are char *, also where it only reads */
    return 0;
}

static int take_bias(Outrider__V1__Sampling *s, const char *arg, struct err *e)
{
    char *end;
    errno = 0;
    long id = strtol(arg, &end, 10);
    float bias;
    if (end == arg || *end != ':' || errno || id < 0 || id > INT32_MAX ||
        options_float(end + 1, "--logit-bias", &bias, NULL))
        return err_set(e, ST_INPUT, "--logit-bias takes a token id and a number, such as 42:-1.5, not '%s'",
                       arg);
    Outrider__V1__LogitBias *one = malloc(sizeof *one);
    Outrider__V1__LogitBias **grown = realloc(s->logit_bias, (s->n_logit_bias + 1) * sizeof(*grown));
    if (grown)
        s->logit_bias = grown;
    if (!one || !grown) {
        free(one);
        return err_set(e, ST_NOMEM, "out of memory for options");
    }
    outrider__v1__logit_bias__init(one);
    one->token = (int32_t) id;
    one->bias = bias;
    s->logit_bias[s->n_logit_bias++] = one;
    return 0;
}

int options_speculation(const char *arg, Outrider__V1__Speculation *s, struct err *e)
{
    if (strcmp(arg, "auto") == 0) {
        s->mode = OUTRIDER__V1__SPECULATION__MODE__AUTO;
        return 0;
    }
    if (strcmp(arg, "off") == 0) {
        s->mode = OUTRIDER__V1__SPECULATION__MODE__OFF;
        return 0;
    }
    s->mode = OUTRIDER__V1__SPECULATION__MODE__NODES;
    if (options_int(arg, "--speculation", 1, 64, &s->nodes, NULL))
        return err_set(e, ST_INPUT,
                       "--speculation takes auto, off or a number of nodes from 1 to 64, not '%s'", arg);
    return 0;
}

static int take_seconds(const char *arg, const char *what, int32_t *ms, struct err *e)
{
    float s;
    int st = options_float(arg, what, &s, e);
    if (st)
        return st;
    if (!(s > 0 && s <= DEADLINE_S_MAX))
        return err_set(e, ST_INPUT, "%s takes seconds from 0.001 to %d, not '%s'", what, DEADLINE_S_MAX, arg);
    *ms = s < 0.001f ? 1 : (int32_t) (s * 1000);
    return 0;
}

/* Flags of Sampling.  1: taken. */
static int take_sampling(struct options *o, int flag, const char *arg, struct err *e)
{
    Outrider__V1__Sampling *s = &o->sampling;
    int st;
    switch (flag) {
    case OPTION_TEMPERATURE:
        s->temperature__case = OUTRIDER__V1__SAMPLING__TEMPERATURE__TEMPERATURE;
        st = options_float(arg, "--temperature", &s->temperature, e);
        break;
    case OPTION_TOP_K:
        s->top_k__case = OUTRIDER__V1__SAMPLING__TOP_K__TOP_K;
        st = options_int(arg, "--top-k", INT32_MIN, INT32_MAX, &s->top_k, e);
        break;
    case OPTION_TOP_P:
        s->top_p__case = OUTRIDER__V1__SAMPLING__TOP_P__TOP_P;
        st = options_float(arg, "--top-p", &s->top_p, e);
        break;
    case OPTION_MIN_P:
        s->min_p__case = OUTRIDER__V1__SAMPLING__MIN_P__MIN_P;
        st = options_float(arg, "--min-p", &s->min_p, e);
        break;
    case OPTION_SEED:
        s->seed__case = OUTRIDER__V1__SAMPLING__SEED__SEED;
        st = options_u64(arg, "--seed", &s->seed, e);
        break;
    case OPTION_MIN_TOKENS:
        s->min_tokens__case = OUTRIDER__V1__SAMPLING__MIN_TOKENS__MIN_TOKENS;
        st = options_int(arg, "--min-tokens", INT32_MIN, INT32_MAX, &s->min_tokens, e);
        break;
    default:
        return 0;
    }
    return st ? st : 1;
}

/* What shapes the draw beyond the cuts, and how many are wanted.  1: taken. */
static int take_shape(struct options *o, int flag, const char *arg, struct err *e)
{
    Outrider__V1__Sampling *s = &o->sampling;
    int st = 0;
    switch (flag) {
    case OPTION_REPETITION:
        s->repetition_penalty__case = OUTRIDER__V1__SAMPLING__REPETITION_PENALTY__REPETITION_PENALTY;
        st = options_float(arg, "--repetition-penalty", &s->repetition_penalty, e);
        break;
    case OPTION_PRESENCE:
        s->presence_penalty__case = OUTRIDER__V1__SAMPLING__PRESENCE_PENALTY__PRESENCE_PENALTY;
        st = options_float(arg, "--presence-penalty", &s->presence_penalty, e);
        break;
    case OPTION_FREQUENCY:
        s->frequency_penalty__case = OUTRIDER__V1__SAMPLING__FREQUENCY_PENALTY__FREQUENCY_PENALTY;
        st = options_float(arg, "--frequency-penalty", &s->frequency_penalty, e);
        break;
    case OPTION_LOGIT_BIAS:
        st = take_bias(s, arg, e);
        break;
    case OPTION_N:
        s->n__case = OUTRIDER__V1__SAMPLING__N__N;
        st = options_int(arg, "--n", 1, 8, &s->n, e);
        break;
    case OPTION_LOGPROBS:
        s->logprobs = &o->logprobs;
        st = options_int(arg, "--logprobs", 0, 20, &o->logprobs.top, e);
        break;
    case OPTION_PROCESSED:
        o->logprobs.processed = 1;
        break;
    case OPTION_CHOICES:
        st = take_text(&o->choices.choice, &o->choices.n_choice, arg, e);
        break;
    case OPTION_STOP:
        st = take_text(&o->stopping.stop, &o->stopping.n_stop, arg, e);
        break;
    default:
        return 0;
    }
    return st ? st : 1;
}

/* The other shared flags.  1: taken. */
static int take_other(struct options *o, int flag, const char *arg, struct err *e)
{
    int st = 0;
    switch (flag) {
    case OPTION_SERVER:
        o->server = arg;
        break;
    case OPTION_SYSTEM:
        o->system = arg;
        break;
    case OPTION_DEADLINE:
        st = take_seconds(arg, "--deadline", &o->deadline_ms, e);
        break;
    case OPTION_MAX_TOKENS:
        o->stopping.max_tokens__case = OUTRIDER__V1__STOPPING__MAX_TOKENS__MAX_TOKENS;
        st = options_int(arg, "--max-tokens", INT32_MIN, INT32_MAX, &o->stopping.max_tokens, e);
        break;
    case OPTION_STOP_TOKEN:
        st = options_ids(arg, "--stop-token", &o->stopping.stop_token_ids, &o->stopping.n_stop_token_ids, e);
        break;
    case OPTION_IGNORE_EOS:
        o->stopping.ignore_eos = 1;
        break;
    case OPTION_THINK:
    case OPTION_NO_THINK:
        o->thinking.enabled__case = OUTRIDER__V1__THINKING__ENABLED__ENABLED;
        o->thinking.enabled = flag == OPTION_THINK;
        break;
    case OPTION_BUDGET:
        o->thinking.budget__case = OUTRIDER__V1__THINKING__BUDGET__BUDGET;
        st = options_int(arg, "--budget", -1, INT32_MAX, &o->thinking.budget, e);
        break;
    case OPTION_THINKING_DEADLINE:
        o->thinking.deadline_ms__case = OUTRIDER__V1__THINKING__DEADLINE_MS__DEADLINE_MS;
        st = take_seconds(arg, "--thinking-deadline", &o->thinking.deadline_ms, e);
        break;
    case OPTION_PRIORITY:
        st = options_int(arg, "--priority", -100, 100, &o->priority, e);
        break;
    case OPTION_SPECULATION:
        st = options_speculation(arg, &o->speculation, e);
        break;
    default:
        return 0;
    }
    return st ? st : 1;
}

int options_flag(int argc, char **argv, const struct option *table, int *flag, struct err *e)
{
    int at = optind;
    opterr = 0;
    *flag = getopt_long(argc, argv, ":h", table, NULL);
    if (*flag == ':')
        return err_set(e, ST_INPUT, "%s needs an argument; `outrider %s --help` explains it",
                       argv[optind - 1], argv[0]);
    if (*flag == '?') {
        const char *word = argv[optind > at ? optind - 1 : at];
        int known = strncmp(word, "--", 2) == 0 && optopt;
        return known ? err_set(e, ST_INPUT, "%.*s takes no argument; `outrider %s --help` explains it",
                               (int) strcspn(word, "="), word, argv[0])
                     : err_set(e, ST_INPUT, "unknown or ambiguous option %s; `outrider %s --help` lists them",
                               word, argv[0]);
    }
    if (*flag == -1)
        *flag = 0;
    return 0;
}

int options_next(struct options *o, int argc, char **argv, const struct option *table, struct err *e)
{
    for (;;) {
        int flag, st = options_flag(argc, argv, table, &flag, e);
        if (st || flag == 0)
            return st;
        if (flag == 'h')
            return OPTION_HELP;
        st = take_sampling(o, flag, optarg, e);
        if (st == 0)
            st = take_shape(o, flag, optarg, e);
        if (st == 0)
            st = take_other(o, flag, optarg, e);
        if (st <= 0)
            return st < 0 ? st : flag;
    }
}
