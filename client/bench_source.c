/* bench_source.c - see bench_source.h.  Refuses lines that are not what the header says, and messages with members that would
 * be lost (tool calls): a benchmark must not ask something else than its dataset. */
#include "client/bench_source.h"

#include "client/bench_stats.h"
#include "client/talk.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct bench_line {
    char *prompt;       /* owns; NULL: talk holds messages */
    struct talk talk;   /* owns */
    int32_t max_tokens; /* 0: unset */
};

static char *unconst(const char *s)
{
    return (char *) (uintptr_t) s; /* protobuf-c's fields are char *, also where it only reads */
}

/* --- reading a dataset --- */

struct place {
    const char *path;
    size_t line; /* from 1 */
};

static int bad_line(const struct place *at, const char *what, struct err *e)
{
    return err_set(e, ST_INPUT,
                   "%s line %zu: %s; a line is {\"prompt\": \"...\"} or {\"messages\": [{\"role\": \"user\", "
                   "\"content\": \"...\"}]}, with an optional \"max_tokens\"",
                   at->path, at->line, what);
}

static int add_message(struct bench_line *l, json_t *m, const struct place *at, struct err *e)
{
    const char *role = json_string_value(json_object_get(m, "role"));
    const char *content = json_string_value(json_object_get(m, "content"));
    json_t *reasoning = json_object_get(m, "reasoning_content");
    if (!role || !content || (reasoning && !json_is_string(reasoning)))
        return bad_line(at, "a message lacks a \"role\" or a \"content\" that is a string", e);
    if (json_object_size(m) != (reasoning ? 3 : 2))
        return bad_line(at, "a message has more than \"role\", \"content\" and \"reasoning_content\"", e);
    if (talk_add(&l->talk, role, content, reasoning ? json_string_value(reasoning) : ""))
        return err_set(e, ST_NOMEM, "out of memory for %s", at->path);
    return 0;
}

static int take_messages(struct bench_line *l, json_t *list, const struct place *at, struct err *e)
{
    if (json_array_size(list) == 0)
        return bad_line(at, "\"messages\" is not a list with a message", e);
    size_t i;
    json_t *m;
    json_array_foreach(list, i, m)
    {
        int st = add_message(l, m, at, e);
        if (st)
            return st;
    }
    return 0;
}

static int take_object(struct bench_line *l, json_t *j, int raw, const struct place *at, struct err *e)
{
    json_t *prompt = json_object_get(j, "prompt"), *messages = json_object_get(j, "messages");
    json_t *max = json_object_get(j, "max_tokens");
    if (!json_is_object(j) || !prompt == !messages)
        return bad_line(at, "it is no object with one of \"prompt\" and \"messages\"", e);
    if (max && !(json_is_integer(max) && json_integer_value(max) > 0 && json_integer_value(max) <= INT32_MAX))
        return bad_line(at, "\"max_tokens\" is no whole number above 0", e);
    l->max_tokens = max ? (int32_t) json_integer_value(max) : 0;
    if (messages && raw)
        return bad_line(at, "\"messages\" cannot be continued --raw", e);
    if (messages)
        return take_messages(l, messages, at, e);
    if (!json_is_string(prompt))
        return bad_line(at, "\"prompt\" is not a string", e);
    l->prompt = strdup(json_string_value(prompt));
    return l->prompt ? 0 : err_set(e, ST_NOMEM, "out of memory for %s", at->path);
}

static int take_line(struct bench_source *s, const char *text, size_t n, const struct place *at,
                     struct err *e)
{
    json_error_t why;
    char what[JSON_ERROR_TEXT_LENGTH + 32];
    if (strspn(text, " \t\r\n") == n)
        return 0;
    if (n > BENCH_LINE_BYTES_MAX || s->n_lines == BENCH_LINES_MAX)
        return err_set(e, ST_LIMIT, "%s line %zu: at most %d lines of at most %d bytes are taken", at->path,
                       at->line, BENCH_LINES_MAX, BENCH_LINE_BYTES_MAX);
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!j) {
        snprintf(what, sizeof what, "it is not JSON (%s)", why.text);
        return bad_line(at, what, e);
    }
    /* doubled whenever the number of lines is a power of two */
    struct bench_line *grown = s->line;
    if ((s->n_lines & (s->n_lines - 1)) == 0)
        grown = realloc(s->line, (s->n_lines ? s->n_lines * 2 : 1) * sizeof *grown);
    int st = grown ? 0 : err_set(e, ST_NOMEM, "out of memory for %s", at->path);
    if (grown) {
        s->line = grown;
        s->line[s->n_lines] = (struct bench_line){0};
        st = take_object(&s->line[s->n_lines++], j, s->raw, at, e);
    }
    json_decref(j);
    return st;
}

int bench_source_load(struct bench_source *s, const char *path, struct err *e)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set(e, ST_IO, "cannot read the dataset %s: %s", path, strerror(errno));
    struct place at = {.path = path};
    char *text = NULL;
    size_t cap = 0;
    ssize_t n;
    int st = 0;
    while (st == 0 && (n = getline(&text, &cap, f)) >= 0) {
        at.line++;
        st = take_line(s, text, (size_t) n, &at, e);
    }
    if (st == 0 && ferror(f))
        st = err_set(e, ST_IO, "cannot read the dataset %s: %s", path, strerror(errno));
    if (st == 0 && s->n_lines == 0)
        st = err_set(e, ST_INPUT, "the dataset %s has no lines", path);
    free(text);
    fclose(f);
    return st;
}

void bench_source_fini(struct bench_source *s)
{
    for (size_t i = 0; i < s->n_lines; i++) {
        free(s->line[i].prompt);
        talk_fini(&s->line[i].talk);
    }
    free(s->line);
    s->line = NULL;
    s->n_lines = 0;
}

/* --- asking --- */

/* What both kinds of request have in common; copies of the flags, made this request's own. */
struct terms {
    Outrider__V1__Sampling sampling;
    Outrider__V1__Stopping stopping;
    Outrider__V1__Thinking thinking;
    Outrider__V1__Speculation speculation;
};

static void terms_init(struct terms *t, const struct bench_source *s, size_t i,
                       const Outrider__V1__Speculation *speculation, int32_t max_tokens)
{
    t->sampling = s->o->sampling;
    t->stopping = s->o->stopping;
    t->thinking = s->o->thinking;
    t->speculation = *speculation;
    t->sampling.seed__case = OUTRIDER__V1__SAMPLING__SEED__SEED;
    t->sampling.seed = s->seed + i;
    if (max_tokens == 0 && s->n_lines)
        max_tokens = s->line[i % s->n_lines].max_tokens;
    if (max_tokens == 0)
        max_tokens = s->n_output;
    if (s->n_prompt)
        t->stopping.ignore_eos = 1;
    if (max_tokens) {
        t->stopping.max_tokens__case = OUTRIDER__V1__STOPPING__MAX_TOKENS__MAX_TOKENS;
        t->stopping.max_tokens = max_tokens;
    }
}

static int send_raw(Outrider__V1__GenerateRequest *r, struct terms *t, const struct options *o,
                    struct grpc *g, struct stream *a, struct err *e)
{
    r->priority = o->priority;
    r->sampling = &t->sampling;
    r->stopping = &t->stopping;
    r->thinking = &t->thinking;
    r->speculation = &t->speculation;
    return stream_generate(a, g, r, o->deadline_ms, e);
}

static int send_synthetic(const struct bench_source *s, size_t i, struct terms *t, struct grpc *g,
                          struct stream *a, struct err *e)
{
    Outrider__V1__GenerateRequest r = OUTRIDER__V1__GENERATE_REQUEST__INIT;
    Outrider__V1__TokenIds ids = OUTRIDER__V1__TOKEN_IDS__INIT;
    ids.n_ids = (size_t) s->n_prompt;
    ids.ids = malloc(ids.n_ids * sizeof *ids.ids);
    if (!ids.ids)
        return err_set(e, ST_NOMEM, "out of memory for a prompt of %d tokens", s->n_prompt);
    for (size_t k = 0; k < ids.n_ids; k++)
        ids.ids[k] = (int32_t) (bench_random(s->seed, BENCH_STREAM_TOKEN, (uint64_t) i << 32 | k) %
                                (uint64_t) s->ids_end);
    r.prompt_case = OUTRIDER__V1__GENERATE_REQUEST__PROMPT_TOKENS;
    r.tokens = &ids;
    int st = send_raw(&r, t, s->o, g, a, e);
    free(ids.ids);
    return st;
}

static int send_chat(const struct bench_source *s, const struct bench_line *l, struct terms *t,
                     struct grpc *g, struct stream *a, struct err *e)
{
    Outrider__V1__ChatRequest r = OUTRIDER__V1__CHAT_REQUEST__INIT;
    Outrider__V1__Message system = OUTRIDER__V1__MESSAGE__INIT, user = OUTRIDER__V1__MESSAGE__INIT;
    Outrider__V1__Message **list = malloc((l->talk.n + 2) * sizeof(*list));
    if (!list)
        return err_set(e, ST_NOMEM, "out of memory for a conversation");
    system.role = unconst("system");
    system.content = unconst(s->o->system);
    user.role = unconst("user");
    user.content = l->prompt;
    r.messages = list;
    if (s->o->system)
        list[r.n_messages++] = &system;
    if (l->prompt)
        list[r.n_messages++] = &user;
    for (size_t k = 0; k < l->talk.n; k++)
        list[r.n_messages++] = l->talk.message[k];
    r.priority = s->o->priority;
    r.sampling = &t->sampling;
    r.stopping = &t->stopping;
    r.thinking = &t->thinking;
    r.speculation = &t->speculation;
    int st = stream_chat(a, g, &r, s->o->deadline_ms, e);
    free(list);
    return st;
}

int bench_source_send(const struct bench_source *s, size_t i, const Outrider__V1__Speculation *speculation,
                      int32_t max_tokens, struct grpc *g, struct stream *a, struct err *e)
{
    struct terms t;
    *a = (struct stream){0};
    terms_init(&t, s, i, speculation, max_tokens);
    if (s->n_prompt)
        return send_synthetic(s, i, &t, g, a, e);
    const struct bench_line *l = &s->line[i % s->n_lines];
    if (!s->raw)
        return send_chat(s, l, &t, g, a, e);
    Outrider__V1__GenerateRequest r = OUTRIDER__V1__GENERATE_REQUEST__INIT;
    r.prompt_case = OUTRIDER__V1__GENERATE_REQUEST__PROMPT_TEXT;
    r.text = l->prompt;
    return send_raw(&r, &t, s->o, g, a, e);
}
