/* template_json.c - a chat read from JSON in Hugging Face's (and OpenAI's) shapes.
 *
 * Refuses, naming the place: wrong types, characters NUL (texts are NUL-terminated from here on), content that is a list of
 * parts, which the template would print as nothing.  Keys it does not know are left alone: requests carry many.  Numbers
 * stay as they were written.  Everything lives in the caller's arena. */
#include <stdio.h>
#include <string.h>

#include "model/jdoc.h"
#include "model/template.h"

struct reader {
    struct arena *a;
    struct err *e;
    char where[64]; /* the place being read, for sentences: "messages[2]" */
};

static int no_memory(struct reader *r)
{
    return err_set(r->e, ST_NOMEM, "the chat does not fit the request's memory");
}

static int refuse(struct reader *r, const char *key, const struct jnode *x, const char *expected)
{
    return err_set(r->e, ST_INPUT, "%s%s%s is %s; expected %s", r->where, r->where[0] && key[0] ? "." : "",
                   key, jnode_kind(x), expected);
}

static int is_null(const struct jnode *x)
{
    return !x || x->type == JNODE_NULL;
}

static int copy(struct reader *r, const struct jnode *x, const char **out)
{
    *out = arena_copy(r->a, x->text, x->bytes);
    return *out ? 0 : no_memory(r);
}

/* A string; absent or null leaves *out NULL. */
static int read_string(struct reader *r, const struct jnode *o, const char *key, const char **out)
{
    const struct jnode *x = jnode_get(o, key);
    *out = NULL;
    if (is_null(x))
        return 0;
    if (x->type != JNODE_STRING)
        return refuse(r, key, x, "a string");
    if (memchr(x->text, '\0', x->bytes))
        return err_set(r->e, ST_INPUT, "%s.%s contains the character NUL, which is not served", r->where,
                       key);
    return copy(r, x, out);
}

/* An array of objects, or nothing.  *n = 0 for absent, null and empty. */
static int read_array(struct reader *r, const struct jnode *o, const char *key, const struct jnode **first,
                      size_t *n)
{
    const struct jnode *x = jnode_get(o, key);
    *n = 0;
    if (is_null(x))
        return 0;
    if (x->type != JNODE_ARRAY)
        return refuse(r, key, x, "an array");
    *first = jnode_first(x);
    *n = x->n;
    return 0;
}

static int read_bool(struct reader *r, const struct jnode *o, const char *key, int32_t absent, int32_t *out)
{
    const struct jnode *x = jnode_get(o, key);
    *out = absent;
    if (is_null(x))
        return 0;
    if (x->type != JNODE_TRUE && x->type != JNODE_FALSE)
        return refuse(r, key, x, "true or false");
    *out = x->type == JNODE_TRUE;
    return 0;
}

/* {"name", "arguments"}, or the same under "function". */
static int read_call(struct reader *r, const struct jnode *x, struct chat_call *call)
{
    const struct jnode *f = jnode_get(x, "function");
    if (x->type != JNODE_OBJECT)
        return refuse(r, "tool_calls", x, "objects");
    if (!is_null(f) && f->type != JNODE_OBJECT)
        return refuse(r, "tool_calls.function", f, "an object");
    if (!is_null(f) && f->n > 0)
        x = f;
    int st = read_string(r, x, "name", &call->name);
    if (st < 0)
        return st;
    const struct jnode *arguments = jnode_get(x, "arguments");
    if (!call->name || !arguments)
        return err_set(r->e, ST_INPUT, "%s has a tool call without %s", r->where,
                       call->name ? "arguments" : "a name");
    call->arguments_is_string = arguments->type == JNODE_STRING;
    return call->arguments_is_string ? read_string(r, x, "arguments", &call->arguments)
                                     : copy(r, arguments, &call->arguments);
}

static int read_message(struct reader *r, const struct jnode *x, struct chat_message *m)
{
    const struct jnode *item = NULL;
    int st;
    if (x->type != JNODE_OBJECT)
        return refuse(r, "", x, "an object");
    if ((st = read_string(r, x, "role", &m->role)) < 0 ||
        (st = read_string(r, x, "content", &m->content)) < 0 ||
        (st = read_string(r, x, "reasoning_content", &m->reasoning)) < 0 ||
        (st = read_array(r, x, "tool_calls", &item, &m->n_calls)) < 0)
        return st;
    if (!m->role)
        return err_set(r->e, ST_INPUT, "%s has no role", r->where);
    struct chat_call *call = arena_get(r->a, m->n_calls * sizeof *call);
    if (!call)
        return no_memory(r);
    for (size_t i = 0; st == 0 && i < m->n_calls; i++, item = jnode_next(item))
        st = read_call(r, item, call + i);
    m->call = call;
    return st;
}

static int read_messages(struct reader *r, const struct jnode *root, struct chat *c)
{
    const struct jnode *item = NULL;
    int st = read_array(r, root, "messages", &item, &c->n_messages);
    if (st < 0)
        return st;
    struct chat_message *m = arena_get(r->a, c->n_messages * sizeof *m);
    if (!m)
        return no_memory(r);
    c->message = m;
    for (size_t i = 0; st == 0 && i < c->n_messages; i++, item = jnode_next(item)) {
        snprintf(r->where, sizeof r->where, "messages[%zu]", i);
        st = read_message(r, item, m + i);
    }
    r->where[0] = '\0';
    return st;
}

static int read_tools(struct reader *r, const struct jnode *root, struct chat *c)
{
    const struct jnode *item = NULL;
    int st = read_array(r, root, "tools", &item, &c->n_tools);
    if (st < 0)
        return st;
    const char **tool = arena_get(r->a, c->n_tools * sizeof *tool);
    if (!tool)
        return no_memory(r);
    c->tool = tool;
    for (size_t i = 0; st == 0 && i < c->n_tools; i++, item = jnode_next(item)) {
        snprintf(r->where, sizeof r->where, "tools[%zu]", i);
        st = item->type == JNODE_OBJECT ? copy(r, item, tool + i) : refuse(r, "", item, "an object");
    }
    r->where[0] = '\0';
    return st;
}

static int read_chat(struct reader *r, const struct jnode *root, struct chat *c)
{
    int st;
    if (root->type != JNODE_OBJECT)
        return err_set(r->e, ST_INPUT, "the chat is %s; expected a JSON object", jnode_kind(root));
    if (!jnode_get(root, "messages"))
        return err_set(r->e, ST_INPUT, "the chat has no \"messages\"");
    if ((st = read_messages(r, root, c)) < 0 || (st = read_tools(r, root, c)) < 0 ||
        (st = read_bool(r, root, "enable_thinking", -1, &c->enable_thinking)) < 0 ||
        (st = read_bool(r, root, "add_generation_prompt", 0, &c->add_generation_prompt)) < 0)
        return st;
    return read_bool(r, root, "continue_final_message", 0, &c->continue_final);
}

int template_from_json(const char *json, size_t bytes, struct arena *a, struct chat *out, struct err *e)
{
    struct reader r = {.a = a, .e = e};
    struct jdoc d;
    struct err inner;
    *out = (struct chat){0};
    int st = jdoc_parse(&d, json, bytes, &inner);
    if (st < 0)
        return err_set(e, st == ST_NOMEM ? st : ST_INPUT, "%s", inner.text);
    st = read_chat(&r, d.node, out);
    jdoc_free(&d);
    return st;
}
