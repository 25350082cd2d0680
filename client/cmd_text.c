/* cmd_text.c - `outrider tokenize | detokenize | render`: text, ids and chats, offline; a model's weights are not needed.
 *
 * Two forms: for people (an argument or all of stdin in, plain text out) and --jsonl (one JSON object a line in and out).  A
 * bad line gives {"error": ..., "line": N} in its place, the next one is read, and the exit status says so at the end.
 * Every line is written out before the next is read, so that a program can talk to the command through pipes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/options.h"
#include "model/jdoc.h"
#include "model/template.h"
#include "model/tokenizer.h"

enum { DECODE_CHUNK = 256 }; /* bytes of a token decoded at a time */

struct job {
    const char *name, *dir, *help;
    int jsonl, allow_special, skip_special, with_ids;
    int which;           /* chat template; -1: the checkpoint's */
    struct tokenizer *t; /* owns; NULL where the command needs none */
    int (*line)(const struct job *j, const char *p, size_t n, struct jout *out, struct err *e);
};

static const char help_tokenize[] =
    "usage: outrider tokenize --model DIR [OPTIONS] [TEXT...]\n\n"
    "Text to token ids; several words are one text, a space between.  Without TEXT all of stdin is one text, "
    "its last newline included.\n\n"
    "  --model DIR      directory with tokenizer.json, or vocab.json and merges.txt; or a .gguf file\n"
    "  --allow-special  recognise added tokens (<|im_end|>, <think>, ...) in the text, as Hugging Face "
    "does;\n"
    "                   without it they are plain text\n"
    "  --jsonl          {\"text\": \"...\"} a line on stdin, {\"ids\": [...]} a line on stdout\n";

static const char help_detokenize[] =
    "usage: outrider detokenize --model DIR [OPTIONS] [ID...]\n\n"
    "Token ids to text.  Without IDs they are read from stdin, separated by spaces, commas or newlines.  "
    "Bytes that are no\n"
    "UTF-8 become U+FFFD.\n\n"
    "  --model DIR            directory with tokenizer.json, or vocab.json and merges.txt; or a .gguf file\n"
    "  --skip-special-tokens  leave out special tokens (<|im_end|>, ...)\n"
    "  --jsonl                {\"ids\": [...]} a line on stdin, {\"text\": \"...\"} a line on stdout\n";

static const char help_render[] =
    "usage: outrider render --model DIR [OPTIONS] [TEXT...]\n\n"
    "A chat through the model's chat template.  TEXT is one message of the user, to be answered; without it "
    "stdin holds one\n"
    "JSON object: messages, tools, enable_thinking, add_generation_prompt.\n\n"
    "  --model DIR      directory with tokenizer_config.json or chat_template.jinja; or a .gguf file\n"
    "  --template NAME  this template instead of the model's: qwen3, thinking-2507 or instruct-2507\n"
    "  --ids            the token ids too\n"
    "  --jsonl          one such object a line on stdin, {\"text\": \"...\"} a line on stdout\n";

/* --- one line of each command --- */

static void put_ids(struct jout *out, const struct tokens *ids, const char *between)
{
    for (size_t i = 0; i < ids->n; i++) {
        if (i)
            jout_str(out, between);
        jout_int(out, ids->id[i]);
    }
}

static int parse_line(struct jdoc *d, const char *p, size_t n, struct err *e)
{
    int st = jdoc_parse(d, p, n, e);
    if (st < 0 || d->node->type == JNODE_OBJECT)
        return st;
    st = err_set(e, ST_INPUT, "the line is %s; expected a JSON object", jnode_kind(d->node));
    jdoc_free(d);
    return st;
}

static int tokenize(const struct job *j, const char *p, size_t n, struct tokens *ids, struct err *e)
{
    return tokenizer_encode(j->t, p, n, j->allow_special ? TOKENIZER_ADDED : 0, ids, e);
}

static int line_tokenize(const struct job *j, const char *p, size_t n, struct jout *out, struct err *e)
{
    struct jdoc d;
    struct tokens ids = {0};
    int st = parse_line(&d, p, n, e);
    if (st < 0)
        return st;
    const struct jnode *text = jnode_get(d.node, "text");
    if (!text || text->type != JNODE_STRING)
        st = err_set(e, ST_INPUT, "text is %s; expected a string", jnode_kind(text));
    else
        st = tokenize(j, text->text, text->bytes, &ids, e);
    if (st == 0) {
        jout_str(out, "{\"ids\": [");
        put_ids(out, &ids, ", ");
        jout_str(out, "]}");
    }
    free(ids.id);
    jdoc_free(&d);
    return st;
}

static void put_bytes(struct jout *out, struct utf8_hold *hold, const char *p, size_t n, int last)
{
    char text[3 * (DECODE_CHUNK + 3) + 3];
    do {
        size_t k = n < DECODE_CHUNK ? n : DECODE_CHUNK;
        jout_add(out, text, utf8_hold_push(hold, p, k, last && k == n, text));
        p += k;
        n -= k;
    } while (n);
}

/* Appends one token's bytes; the id comes from outside. */
static int detokenize(const struct job *j, struct utf8_hold *hold, int64_t id, struct jout *text,
                      struct err *e)
{
    size_t n;
    const char *p = id >= 0 && id <= INT32_MAX ? tokenizer_bytes(j->t, (int32_t) id, &n) : NULL;
    if (!p)
        return err_set(e, ST_INPUT, "%lld is not the id of a token; expected 0 to %d", (long long) id,
                       tokenizer_count(j->t) - 1);
    if (!j->skip_special || !tokenizer_is_special(j->t, (int32_t) id))
        put_bytes(text, hold, p, n, 0);
    return 0;
}

static int line_detokenize(const struct job *j, const char *p, size_t n, struct jout *out, struct err *e)
{
    struct jdoc d;
    struct jout text = {0};
    struct utf8_hold hold = {0};
    int st = parse_line(&d, p, n, e);
    if (st < 0)
        return st;
    const struct jnode *ids = jnode_get(d.node, "ids");
    if (!ids || ids->type != JNODE_ARRAY)
        st = err_set(e, ST_INPUT, "ids is %s; expected an array", jnode_kind(ids));
    const struct jnode *x = st == 0 ? jnode_first(ids) : NULL;
    for (uint32_t i = 0; st == 0 && i < ids->n; i++, x = jnode_next(x)) {
        int64_t id;
        st = jnode_int(x, &id) ? detokenize(j, &hold, id, &text, e)
                               : err_set(e, ST_INPUT, "ids[%u] is no integer in range", i);
    }
    put_bytes(&text, &hold, "", 0, 1);
    if (st == 0) {
        jout_str(out, "{\"text\": ");
        jout_quote(out, text.p, text.n);
        jout_str(out, "}");
    }
    jout_free(&text);
    jdoc_free(&d);
    return st < 0 ? st : text.status;
}

static int render(const struct job *j, const struct chat *c, struct arena *a, struct jout *text,
                  struct tokens *ids, struct err *e)
{
    struct pieces p;
    int st = template_render(j->which, c, a, &p, e);
    if (st < 0)
        return st;
    for (size_t i = 0; i < p.n; i++)
        jout_add(text, p.p[i].text, p.p[i].bytes);
    return j->with_ids ? tokenizer_encode_pieces(j->t, p.p, p.n, ids, e) : 0;
}

static void put_rendered(const struct job *j, struct jout *out, const struct jout *text,
                         const struct tokens *ids)
{
    if (!j->jsonl) {
        jout_add(out, text->p, text->n);
        if (j->with_ids) {
            jout_str(out, "\n");
            put_ids(out, ids, " ");
        }
        return;
    }
    jout_str(out, "{\"text\": ");
    jout_quote(out, text->p, text->n);
    if (j->with_ids) {
        jout_str(out, ", \"ids\": [");
        put_ids(out, ids, ", ");
        jout_str(out, "]");
    }
    jout_str(out, "}");
}

/* `json` NULL: one message of the user, p. */
static int render_any(const struct job *j, int is_json, const char *p, size_t n, struct jout *out,
                      struct err *e)
{
    struct chat_message m = {.role = "user", .content = p};
    struct chat c = {.n_messages = 1, .message = &m, .enable_thinking = -1, .add_generation_prompt = 1};
    struct jout text = {0};
    struct tokens ids = {0};
    struct arena a;
    arena_init(&a, 0);
    int st = is_json ? template_from_json(p, n, &a, &c, e) : 0;
    if (st == 0)
        st = render(j, &c, &a, &text, &ids, e);
    if (st == 0)
        put_rendered(j, out, &text, &ids);
    arena_fini(&a);
    jout_free(&text);
    free(ids.id);
    return st;
}

static int line_render(const struct job *j, const char *p, size_t n, struct jout *out, struct err *e)
{
    return render_any(j, 1, p, n, out, e);
}

/* --- the two forms --- */

static int complain(const struct job *j, const char *why)
{
    fprintf(stderr, "outrider %s: %s\n", j->name, why);
    return EXIT_FAILED;
}

/* Writes what a line gave, or its error; 1 when that could not be done. */
static int put_line(struct jout *out)
{
    jout_str(out, "\n");
    return out->status < 0 || fwrite(out->p, 1, out->n, stdout) != out->n || fflush(stdout) != 0;
}

static void put_error(struct jout *out, const struct err *e, size_t number)
{
    out->n = 0;
    jout_str(out, "{\"error\": ");
    jout_quote(out, e->text, strlen(e->text));
    jout_str(out, ", \"line\": ");
    jout_int(out, (int64_t) number);
    jout_str(out, "}");
}

static int run_lines(const struct job *j)
{
    char *line = NULL;
    size_t cap = 0, number = 0;
    ssize_t n;
    int status = EXIT_DONE, lost = 0;
    while (!lost && (n = getline(&line, &cap, stdin)) >= 0) {
        struct jout out = {0};
        struct err e = {0};
        number++;
        if (j->line(j, line, (size_t) n, &out, &e) < 0) {
            put_error(&out, &e, number);
            status = EXIT_FAILED;
        }
        lost = put_line(&out);
        jout_free(&out);
    }
    free(line);
    if (lost)
        return complain(j, "stdout cannot be written");
    return ferror(stdin) ? complain(j, strerror(errno)) : status;
}

static int read_stdin(struct jout *in)
{
    char buf[1 << 16];
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, stdin)) > 0)
        jout_add(in, buf, n);
    jout_add(in, "", 1); /* NUL, which is not counted */
    if (in->n)
        in->n--;
    return ferror(stdin) || in->status < 0;
}

static int detokenize_words(const struct job *j, char *words, struct jout *out, struct err *e)
{
    struct utf8_hold hold = {0};
    int st = 0;
    for (char *save, *w = strtok_r(words, " \t\r\n,", &save); st == 0 && w;
         w = strtok_r(NULL, " \t\r\n,", &save)) {
        char *end;
        errno = 0;
        long long id = strtoll(w, &end, 10);
        if (*end || errno)
            st = err_set(e, ST_INPUT, "\"%.40s\" is no token id; expected a number", w);
        else
            st = detokenize(j, &hold, id, out, e);
    }
    put_bytes(out, &hold, "", 0, 1);
    return st;
}

/* in: the arguments joined with spaces, or all of stdin. */
static int run_plain(const struct job *j, struct jout *in, int from_stdin)
{
    struct jout out = {0};
    struct tokens ids = {0};
    struct err e = {0};
    int st;
    if (j->line == line_tokenize) {
        st = tokenize(j, in->p, in->n, &ids, &e);
        put_ids(&out, &ids, " ");
    } else if (j->line == line_detokenize) {
        st = detokenize_words(j, in->p, &out, &e);
    } else {
        st = render_any(j, from_stdin, in->p, in->n, &out, &e);
    }
    free(ids.id);
    if (st < 0)
        complain(j, e.text);
    else if (put_line(&out))
        st = complain(j, "stdout cannot be written");
    jout_free(&out);
    return st == 0 ? EXIT_DONE : EXIT_FAILED;
}

/* --- options --- */

static int usage_error(const struct job *j, const char *why)
{
    fprintf(stderr, "outrider %s: %s\n\n%s", j->name, why, j->help);
    return EXIT_USAGE;
}

/* One option taken; EXIT_DONE, or EXIT_USAGE. */
static int take_option(struct job *j, int c)
{
    switch (c) {
    case 'm':
        j->dir = optarg;
        return EXIT_DONE;
    case 'j':
        j->jsonl = 1;
        return EXIT_DONE;
    case 'a':
        j->allow_special = 1;
        return EXIT_DONE;
    case 's':
        j->skip_special = 1;
        return EXIT_DONE;
    case 'i':
        j->with_ids = 1;
        return EXIT_DONE;
    default:
        j->which = template_parse(optarg);
        return j->which < 0
                   ? usage_error(j, "no such template; expected qwen3, thinking-2507 or instruct-2507")
                   : EXIT_DONE;
    }
}

/* Opens what the command needs; EXIT_DONE or EXIT_FAILED. */
static int open_all(struct job *j)
{
    struct err e = {0};
    if (strncmp(j->dir, "synth:", 6) != 0 && access(j->dir, F_OK) != 0) {
        fprintf(stderr,
                "outrider %s: --model %s: %s; expected a directory with tokenizer.json (or vocab.json and "
                "merges.txt), a .gguf file or synth:SHAPE\n",
                j->name, j->dir, strerror(errno));
        return EXIT_FAILED;
    }
    if (j->line == line_render && j->which < 0 && template_detect(j->dir, &j->which, &e) < 0)
        return complain(j, e.text);
    if ((j->line != line_render || j->with_ids) && tokenizer_open(&j->t, j->dir, &e) < 0)
        return complain(j, e.text);
    return EXIT_DONE;
}

static int run_job(const struct job *j, int n_words, char **words)
{
    struct jout in = {0};
    int status;
    if (j->jsonl)
        return n_words ? usage_error(j, "with --jsonl the input comes from stdin alone") : run_lines(j);
    for (int i = 0; i < n_words; i++) {
        jout_str(&in, i ? " " : "");
        jout_str(&in, words[i]);
    }
    if (n_words == 0 ? read_stdin(&in) : (jout_add(&in, "", 1), in.n--, in.status < 0))
        status = complain(j, "the input cannot be read");
    else
        status = run_plain(j, &in, n_words == 0);
    jout_free(&in);
    return status;
}

static int run(struct job *j, int argc, char **argv, const struct option *options)
{
    struct err e = {0};
    int c, st, status;
    while ((st = options_flag(argc, argv, options, &c, &e)) == 0 && c) {
        if (c == 'h') {
            fputs(j->help, stdout);
            return EXIT_DONE;
        }
        if ((status = take_option(j, c)) != EXIT_DONE)
            return status;
    }
    if (st)
        return usage_error(j, e.text);
    if (!j->dir)
        return usage_error(j, "--model DIR is missing");
    status = open_all(j);
    if (status == EXIT_DONE)
        status = run_job(j, argc - optind, argv + optind);
    tokenizer_close(j->t);
    return status;
}

int cmd_tokenize(int argc, char **argv)
{
    static const struct option options[] = {{"model", required_argument, NULL, 'm'},
                                            {"jsonl", no_argument, NULL, 'j'},
                                            {"allow-special", no_argument, NULL, 'a'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct job j = {.name = "tokenize", .help = help_tokenize, .line = line_tokenize};
    return run(&j, argc, argv, options);
}

int cmd_detokenize(int argc, char **argv)
{
    static const struct option options[] = {{"model", required_argument, NULL, 'm'},
                                            {"jsonl", no_argument, NULL, 'j'},
                                            {"skip-special-tokens", no_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct job j = {.name = "detokenize", .help = help_detokenize, .line = line_detokenize};
    return run(&j, argc, argv, options);
}

int cmd_render(int argc, char **argv)
{
    static const struct option options[] = {
        {"model", required_argument, NULL, 'm'}, {"template", required_argument, NULL, 't'},
        {"jsonl", no_argument, NULL, 'j'},       {"ids", no_argument, NULL, 'i'},
        {"help", no_argument, NULL, 'h'},        {0}};
    struct job j = {.name = "render", .help = help_render, .line = line_render, .which = -1};
    return run(&j, argc, argv, options);
}
