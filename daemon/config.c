/* config.c - one table of flags: parsing and --help both read it, so neither can forget one. */
#include "daemon/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "core/log.h"
#include "cpu/cpu.h"

enum kind {
    KIND_TEXT,   /* const char * */
    KIND_TREE,   /* int32_t: DAEMON_AUTO, DAEMON_OFF or lo..hi */
    KIND_CHOICE, /* const char *, one of `among` */
    KIND_INT,    /* int32_t, lo..hi */
    KIND_BYTES,  /* int64_t, lo..hi, suffix K, M or G */
    KIND_TIME,   /* int64_t milliseconds, given in seconds, lo..hi milliseconds */
    KIND_LEVEL,  /* int32_t, a log level's name */
    KIND_DEVICE, /* const char *, "auto", "cpu" or "cuda:N" */
    KIND_LISTEN, /* appended to listen[] */
    KIND_RATES,  /* struct synthetic */
    KIND_SWITCH, /* int32_t, 1 when given; takes no value */
};

struct flag {
    const char *name, *arg;
    int kind;
    size_t at; /* offset in struct daemon_config */
    int64_t lo, hi;
    const char *among, *initial, *what;
};

#define AT(field) offsetof(struct daemon_config, field)
#define KIB       (INT64_C(1) << 10)
#define GIB       (INT64_C(1) << 30)
#define HOUR_MS   INT64_C(3600000)
#define QUANTS    "auto|f32|bf16|f16|q8|q4"

/* DESIGN.md section 5: the closing text of the Qwen3 blog's thinking budget. */
#define CLOSE_TEXT                                                                                           \
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "       \
    "directly "                                                                                              \
    "now.\n</think>\n\n"

static const struct flag flags[] = {
    {"--target", "MODEL", KIND_TEXT, AT(target), 0, 0, NULL, NULL,
     "the model that is served (required): a Hugging Face directory, a .gguf file, or synth:SHAPE"},
    {"--draft", "MODEL", KIND_TEXT, AT(draft), 0, 0, NULL, NULL,
     "a small model that guesses for it; without one only --lookup guesses"},
    {"--target-quant", "TYPE", KIND_CHOICE, AT(target_quant), 0, 0, QUANTS, "auto",
     "the target's weights in memory; auto: as stored, FP8 and K-quants as q8"},
    {"--draft-quant", "TYPE", KIND_CHOICE, AT(draft_quant), 0, 0, QUANTS, "auto",
     "the draft's weights in memory; auto: q8, as its rounding cannot reach the text, or stored Q4_0"},
    {"--pack-cache", "DIR", KIND_TEXT, AT(pack_cache), 0, 0, NULL, NULL,
     "keep packed weights in files there, and start from them; who can write there can change what is "
     "served"},
    {"--listen", "WHERE", KIND_LISTEN, 0, 0, 0, NULL, NULL,
     "HOST:PORT or unix:PATH; may be given up to 16 times (default 127.0.0.1:8311)"},
    {"--device", "WHERE", KIND_DEVICE, AT(device), 0, 0, NULL, "auto",
     "where the target runs: cpu, cuda:N, or auto: the first CUDA device, else the CPU; part of the "
     "fingerprint"},
    {"--threads", "N", KIND_INT, AT(threads), 0, CPU_THREADS_MAX, NULL, "0",
     "threads that compute; 0: one a core that this process may use"},
    {"--draft-threads", "N", KIND_INT, AT(draft_threads), -1, CPU_THREADS_MAX - 1, NULL, "-1",
     "of these, kept for the draft where it computes beside the target, which no part of the daemon does "
     "yet: today they take turns on all; -1: a quarter of 4 or more"},
    {"--target-threads", "N", KIND_INT, AT(target_threads), 0, CPU_THREADS_MAX, NULL, "0",
     "of these, the target's meanwhile; 0: all that the draft leaves"},
    {"--pin", "auto|off", KIND_CHOICE, AT(pin), 0, 0, "auto|off", "auto",
     "auto: each thread to a core of its own, unless another daemon's has it"},
    {"--isa", "NAME", KIND_CHOICE, AT(isa), 0, 0, "auto|twin|avx2|avxvnni|avx512|vnni", "auto",
     "instruction set; all give the same text"},
    {"--kv", "TYPE", KIND_CHOICE, AT(kv), 0, 0, "bf16|f32", "bf16",
     "type of keys and values; part of the fingerprint"},
    {"--kv-bytes", "SIZE", KIND_BYTES, AT(kv_bytes), 0, 4096 * GIB, NULL, "0",
     "most memory for the target's keys and values, taken as texts grow; 0: half of what the weights leave, "
     "or what a GPU has left"},
    {"--draft-kv-bytes", "SIZE", KIND_BYTES, AT(draft_kv_bytes), 0, 4096 * GIB, NULL, "0",
     "the same for the draft; 0: an eighth"},
    {"--lookup", "on|off", KIND_CHOICE, AT(lookup), 0, 0, "on|off", "on",
     "guess what followed the last time the same words were said; works without --draft, too"},
    {"--prefix-cache", "on|off", KIND_CHOICE, AT(prefix_cache), 0, 0, "on|off", "on",
     "share the pages of equal prompt beginnings; the text is the same either way"},
    {"--draft-context", "N", KIND_INT, AT(draft_context), 1, 1 << 20, NULL, "1024",
     "most tokens the draft looks back on"},
    {"--speculation", "auto|off|N", KIND_TREE, AT(speculation), 1, 64, NULL, "auto",
     "where a request does not say: as many guesses as pay by measured cost, none, or trees of N nodes, root "
     "included"},
    {"--draft-nodes", "N", KIND_INT, AT(draft_nodes), 1, 64, NULL, "64",
     "most nodes of a tree under --speculation auto, its root included"},
    {"--draft-depth", "N", KIND_INT, AT(draft_depth), 1, 63, NULL, "12",
     "deepest level of a tree that the draft's model guesses"},
    {"--draft-top", "N", KIND_INT, AT(draft_top), 1, 16, NULL, "3", "most children of a node"},
    {"--draft-head", "N", KIND_INT, AT(draft_head), -1, 1 << 20, NULL, "-1",
     "ids that the draft always chooses its guesses from, the first, beside those that texts held of late; "
     "0: all; -1: 32768 of a large "
     "vocabulary, while that pays"},
    {"--synthetic-acceptance", "RATES", KIND_RATES, AT(synthetic), 0, 0, NULL, NULL,
     "for timing random weights alone: the draft model's likeliest guesses are kept by a coin, with these "
     "rates by "
     "depth (.80,.75,.70), all others never.  Answers are then not the target's; every output says so"},
    {"--max-sessions", "N", KIND_INT, AT(max_sessions), 1, 1024, NULL, "64", "answers generated at once"},
    {"--max-queue", "N", KIND_INT, AT(max_queue), 0, 65536, NULL, "256",
     "requests that wait for one; more are refused"},
    {"--max-rows", "N", KIND_INT, AT(max_rows), 64, 65536, NULL, "512", "rows of one pass of the target"},
    {"--ctx", "N", KIND_INT, AT(ctx), 0, 1 << 20, NULL, "0",
     "most tokens of prompt and answer together; 0: the model's own, or what --kv-bytes hold"},
    {"--template", "NAME", KIND_CHOICE, AT(chat_template), 0, 0, "qwen3|thinking-2507|instruct-2507", NULL,
     "chat template, where the checkpoint's is not known"},
    {"--thinking-budget", "N", KIND_INT, AT(thinking_budget), -1, 1 << 20, NULL, "-1",
     "most thinking tokens where a request does not say; -1: no limit, 0: no thinking"},
    {"--thinking-close-text", "TEXT", KIND_TEXT, AT(thinking_close_text), 0, 0, NULL, CLOSE_TEXT,
     "what closes thinking that has used up its budget; must hold </think>; part of the fingerprint"},
    {"--model-name", "NAME", KIND_TEXT, AT(model_name), 0, 0, NULL, NULL,
     "name that is reported (default: the directory's)"},
    {"--max-connections", "N", KIND_INT, AT(max_connections), 1, 65536, NULL, "1024",
     "connections at once; more are closed"},
    {"--max-streams", "N", KIND_INT, AT(max_streams), 1, 4096, NULL, "256",
     "streams at once on a connection"},
    {"--max-message-bytes", "SIZE", KIND_BYTES, AT(max_message_bytes), KIB, GIB, NULL, "4M",
     "largest request message"},
    {"--max-header-bytes", "SIZE", KIND_BYTES, AT(max_header_bytes), KIB, 64 * KIB, NULL, "16K",
     "headers of a request, all together"},
    {"--max-unsent-bytes", "SIZE", KIND_BYTES, AT(max_unsent_bytes), KIB, GIB, NULL, "64K",
     "what may wait for a client on a stream; more and its answer pauses until a quarter is left"},
    {"--drain-timeout", "SECONDS", KIND_TIME, AT(drain_timeout_ms), 0, 24 * HOUR_MS, NULL, "30",
     "how long running answers may go on after SIGTERM or SIGINT"},
    {"--stall-timeout", "SECONDS", KIND_TIME, AT(stall_timeout_ms), 100, 24 * HOUR_MS, NULL, "60",
     "a client that takes none of its waiting bytes for so long is cut off"},
    {"--request-timeout", "SECONDS", KIND_TIME, AT(request_timeout_ms), 100, 24 * HOUR_MS, NULL, "30",
     "how long a handshake, a header block or a request message may take to arrive"},
    {"--keepalive-time", "SECONDS", KIND_TIME, AT(keepalive_ms), 0, 24 * HOUR_MS, NULL, "60",
     "a client that was silent for so long is sent a ping; 0: never"},
    {"--keepalive-timeout", "SECONDS", KIND_TIME, AT(keepalive_timeout_ms), 100, HOUR_MS, NULL, "20",
     "and if nothing comes back in this time, its connection is closed"},
    {"--log-level", "LEVEL", KIND_LEVEL, AT(log_level), 0, 0, "error|warn|info|debug", "info",
     "least urgent lines that are written"},
    {"--ready-fd", "FD", KIND_INT, AT(ready_fd), -1, 1 << 20, NULL, "-1",
     "writes \"ready\\n\" there once it listens, and closes it"},
    {"--version", NULL, KIND_SWITCH, AT(version), 0, 0, NULL, NULL, "prints the version"},
    {"--help", NULL, KIND_SWITCH, AT(help), 0, 0, NULL, NULL, "prints this"},
};

enum { N_FLAGS = sizeof flags / sizeof *flags };

static const struct flag *flag_find(const char *s, size_t n)
{
    for (int i = 0; i < N_FLAGS; i++)
        if (strlen(flags[i].name) == n && memcmp(flags[i].name, s, n) == 0)
            return &flags[i];
    return NULL;
}

static int among(const char *list, const char *value)
{
    size_t n = strlen(value);
    for (const char *p = list; n && p; p = strchr(p, '|'), p += p != NULL)
        if (strncmp(p, value, n) == 0 && (p[n] == '|' || p[n] == 0))
            return 1;
    return 0;
}

/* A whole number with an optional K, M or G.  0, or ST_INPUT. */
static int number(const char *s, int suffix, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    int shift = 0;
    if (suffix && end != s && *end)
        shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (end == s || errno || end[shift != 0] || v > INT64_MAX >> shift || v < INT64_MIN >> shift)
        return ST_INPUT;
    *out = v * (INT64_C(1) << shift);
    return 0;
}

static int seconds(const char *s, int64_t *ms)
{
    char *end;
    double v = strtod(s, &end);
    if (end == s || *end || !(v >= 0 && v <= 1e9))
        return ST_INPUT;
    *ms = (int64_t) (v * 1000 + 0.5);
    return 0;
}

static int set_number(struct daemon_config *c, const struct flag *f, const char *value, struct err *e)
{
    int64_t v;
    int st = f->kind == KIND_TIME ? seconds(value, &v) : number(value, f->kind == KIND_BYTES, &v);
    if (st)
        return err_set(e, ST_INPUT, "%s takes %s, not '%s'", f->name,
                       f->kind == KIND_TIME    ? "a number of seconds"
                       : f->kind == KIND_BYTES ? "a size such as 4096, 64K, 4M or 2G"
                       : f->kind == KIND_TREE  ? "auto, off or a number of nodes"
                                               : "a whole number",
                       value);
    if (v < f->lo || v > f->hi) {
        double unit = f->kind == KIND_TIME ? 1000 : 1;
        return err_set(e, ST_INPUT, "%s must be in %.15g..%.15g, not %s", f->name, (double) f->lo / unit,
                       (double) f->hi / unit, value);
    }
    if (f->kind == KIND_INT || f->kind == KIND_TREE)
        *(int32_t *) ((char *) c + f->at) = (int32_t) v;
    else
        *(int64_t *) ((char *) c + f->at) = v;
    return 0;
}

/* The system's resolver would take 65536 for 0 and -1 for 65535, and libuv would cut a path that is too long. */
static int check_listen(const char *value, struct err *e)
{
    static const char unix_prefix[] = "unix:";
    enum { PATH_BYTES = sizeof(((struct sockaddr_un *) 0)->sun_path) };
    const char *colon = strrchr(value, ':');
    if (!colon || colon == value || !colon[1])
        return err_set(e, ST_INPUT, "--listen takes HOST:PORT or unix:PATH, not '%s'", value);
    if (strncmp(value, unix_prefix, sizeof unix_prefix - 1) == 0)
        return strlen(value + sizeof unix_prefix - 1) < PATH_BYTES
                   ? 0
                   : err_set(e, ST_INPUT, "--listen takes a socket path of at most %d bytes, not '%.200s'",
                             PATH_BYTES - 1, value);
    size_t digits = strspn(colon + 1, "0123456789");
    if (colon[1 + digits] || digits > 5 || atoi(colon + 1) > UINT16_MAX)
        return err_set(e, ST_INPUT, "--listen takes a port in 0..%d, not '%s'", UINT16_MAX, colon + 1);
    return 0;
}

static int set_listen(struct daemon_config *c, const char *value, struct err *e)
{
    int st = check_listen(value, e);
    if (st)
        return st;
    if (c->n_listen == DAEMON_LISTEN_MAX)
        return err_set(e, ST_INPUT, "--listen may be given %d times, no more", DAEMON_LISTEN_MAX);
    c->listen[c->n_listen++] = value;
    return 0;
}

static int is_device(const char *value)
{
    static const char prefix[] = "cuda:";
    const char *digits = value + sizeof prefix - 1;
    if (strcmp(value, "auto") == 0 || strcmp(value, "cpu") == 0)
        return 1;
    return strncmp(value, prefix, sizeof prefix - 1) == 0 && strlen(digits) <= 2 && *digits &&
           strspn(digits, "0123456789") == strlen(digits);
}

static int set(struct daemon_config *c, const struct flag *f, const char *value, struct err *e)
{
    switch (f->kind) {
    case KIND_DEVICE:
        if (!is_device(value))
            return err_set(e, ST_INPUT, "%s must be auto, cpu or cuda:N, not '%s'", f->name, value);
        *(const char **) ((char *) c + f->at) = value;
        return 0;
    case KIND_CHOICE:
    case KIND_LEVEL:
        if (!among(f->among, value))
            return err_set(e, ST_INPUT, "%s must be one of %s, not '%s'", f->name, f->among, value);
        if (f->kind == KIND_LEVEL)
            *(int32_t *) ((char *) c + f->at) = log_parse_level(value);
        else
            *(const char **) ((char *) c + f->at) = value;
        return 0;
    case KIND_TEXT:
        if (!*value)
            return err_set(e, ST_INPUT, "%s must not be empty", f->name);
        *(const char **) ((char *) c + f->at) = value;
        return 0;
    case KIND_LISTEN:
        return set_listen(c, value, e);
    case KIND_TREE:
        if (strcmp(value, "auto") == 0 || strcmp(value, "off") == 0) {
            *(int32_t *) ((char *) c + f->at) = *value == 'a' ? DAEMON_AUTO : DAEMON_OFF;
            return 0;
        }
        return set_number(c, f, value, e);
    case KIND_RATES:
        return synthetic_parse((struct synthetic *) ((char *) c + f->at), value, e);
    case KIND_SWITCH:
        *(int32_t *) ((char *) c + f->at) = 1;
        return 0;
    default:
        return set_number(c, f, value, e);
    }
}

/* argv[*i], as `--flag value` or `--flag=value`. */
static int parse_one(struct daemon_config *c, int argc, char **argv, int *i, struct err *e)
{
    const char *arg = argv[*i], *eq = strchr(arg, '=');
    const struct flag *f = flag_find(arg, eq ? (size_t) (eq - arg) : strlen(arg));
    if (!f)
        return err_set(e, ST_INPUT, "no flag '%s'; outriderd --help lists them", arg);
    if (f->kind == KIND_SWITCH)
        return eq ? err_set(e, ST_INPUT, "%s takes no value", f->name) : set(c, f, NULL, e);
    if (eq)
        return set(c, f, eq + 1, e);
    if (*i + 1 == argc)
        return err_set(e, ST_INPUT, "%s needs a value: %s %s", f->name, f->name, f->arg);
    return set(c, f, argv[++*i], e);
}

int daemon_config_parse(struct daemon_config *c, int argc, char **argv, struct err *e)
{
    *c = (struct daemon_config){0};
    for (int i = 0; i < N_FLAGS; i++) {
        int st = flags[i].initial ? set(c, &flags[i], flags[i].initial, e) : 0;
        if (st)
            return st;
    }
    for (int i = 1; i < argc; i++) {
        int st = parse_one(c, argc, argv, &i, e);
        if (st)
            return st;
    }
    if (c->n_listen == 0)
        c->listen[c->n_listen++] = "127.0.0.1:8311";
    if (!c->target && !c->help && !c->version)
        return err_set(e, ST_INPUT, "--target MODEL is required: the model to serve");
    if (c->synthetic.n && !c->draft)
        return err_set(
            e, ST_INPUT,
            "--synthetic-acceptance needs --draft: its rates are those of a draft model's guesses");
    return 0;
}

void daemon_config_help(FILE *to)
{
    fprintf(to, "usage: outriderd --target MODEL [FLAGS]\n\n"
                "Serves a Qwen3 model over gRPC (outrider.v1.Inference, grpc.health.v1.Health), with "
                "speculative decoding.\n\n");
    for (int i = 0; i < N_FLAGS; i++) {
        const struct flag *f = &flags[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", f->name, f->arg ? " " : "", f->arg ? f->arg : "");
        fprintf(to, "  %-28s%s", left, f->what);
        if (f->among)
            fprintf(to, "; %s", f->among);
        if (f->initial && f->kind != KIND_TEXT)
            fprintf(to, " (default %s)", f->initial);
        fprintf(to, "\n");
    }
    fprintf(to, "\nSizes take the suffixes K, M and G (powers of 1024).\n"
                "SIGTERM or SIGINT drains and then exits with status 0; a second one stops at once, with "
                "status 1.\n");
}
