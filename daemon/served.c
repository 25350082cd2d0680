/* served.c - opens the text side of a model.
 *
 * The closing text must hold </think>, or thinking could never be closed; it is tokenized here, once. */
#include "daemon/served.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/utf8.h"

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *) a, y = *(const int32_t *) b;
    return (x > y) - (x < y);
}

static void base_name(const char *dir, char *out, size_t cap)
{
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/')
        end--;
    size_t at = end;
    while (at > 0 && dir[at - 1] != '/')
        at--;
    snprintf(out, cap, "%.*s", (int) (end - at), dir + at);
    for (size_t bad; (bad = utf8_check(out, strlen(out))) < strlen(out);)
        out[bad] = '?'; /* a directory's name may be any bytes, what clients are told is UTF-8 */
}

static int names_open(struct served *s, struct err *e)
{
    const struct daemon_config *c = s->config;
    base_name(c->target, s->name, sizeof s->name);
    if (c->draft)
        base_name(c->draft, s->draft_name, sizeof s->draft_name);
    if (!c->model_name)
        return 0;
    size_t n = strlen(c->model_name);
    if (n >= sizeof s->name || utf8_check(c->model_name, n) != n)
        return err_set(e, ST_INPUT, "--model-name takes at most %zu bytes of UTF-8, not '%.200s'",
                       sizeof s->name - 1, c->model_name);
    memcpy(s->name, c->model_name, n + 1);
    return 0;
}

static int think_open(struct served *s, struct err *e)
{
    struct draw_think *t = &s->think;
    const char *text = s->config->thinking_close_text;
    t->open = tokenizer_added(s->tokenizer, "<think>");
    t->close = tokenizer_added(s->tokenizer, "</think>");
    t->tool = tokenizer_added(s->tokenizer, "<tool_call>");
    t->budget = s->config->thinking_budget;
    if (t->open < 0 || t->close < 0) {
        *t = (struct draw_think){.open = -1, .close = -1, .tool = -1, .budget = -1};
        return 0;
    }
    struct tokens ids = {0};
    int st = tokenizer_encode(s->tokenizer, text, strlen(text), TOKENIZER_ADDED, &ids, e);
    t->closer = ids.id;
    t->n_closer = (int32_t) ids.n;
    if (st)
        return st;
    for (size_t i = 0; i < ids.n; i++)
        if (ids.id[i] == t->close)
            return 0;
    return err_set(e, ST_INPUT, "--thinking-close-text must hold </think>, or thinking would never end");
}

static int template_open(struct served *s, struct err *e)
{
    const char *name = s->config->chat_template;
    int which = name ? template_parse(name) : 0;
    int st = name ? 0 : template_detect(s->config->target, &which, e);
    if (st == 0 && which < 0)
        st = err_set(e, ST_INPUT, "--template: no template '%s'", name);
    s->chat_template = which;
    return st;
}

int served_open(struct served **out, const struct daemon_config *c, struct err *e)
{
    struct config model;
    *out = NULL;
    struct served *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, ST_NOMEM, "out of memory");
    s->config = c;
    int st = names_open(s, e);
    if (!st)
        st = config_load(&model, &s->gen, c->target, e);
    if (!st)
        st = tokenizer_open(&s->tokenizer, c->target, e);
    if (!st)
        st = template_open(s, e);
    if (!st)
        st = think_open(s, e);
    if (!st)
        st = proto_files_open(&s->files, e);
    if (!st)
        st = draw_vocab_of(&s->vocab, s->tokenizer, e);
    if (st) {
        served_close(s);
        return st;
    }
    qsort(s->gen.eos, (size_t) s->gen.n_eos, sizeof *s->gen.eos, ascending);
    snprintf(s->tokenizer_hash, sizeof s->tokenizer_hash, "%016" PRIx64, tokenizer_hash(s->tokenizer));
    *out = s;
    return 0;
}

void served_join(struct served *s, struct engine *engine)
{
    s->engine = engine;
    engine_describe(engine, &s->info);
}

void served_close(struct served *s)
{
    if (!s)
        return;
    tokenizer_close(s->tokenizer);
    proto_files_close(s->files);
    draw_vocab_free(s->vocab);
    free((void *) s->think.closer);
    free(s);
}
