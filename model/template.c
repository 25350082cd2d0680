/* template.c - Qwen3's chat templates, rendered to pieces.
 *
 * Source: chat_template.jinja of Qwen/Qwen3-0.6B, rule by rule; Jinja's tests on absent values are spelt out in C.  Those of 2507 are
 * the same but for the head of the answer (Thinking) and for thinking in earlier turns, which Instruct does not know.  Refuses
 * what Jinja would stumble over (no messages, a first system message without content) and what it would drop in silence
 * (unknown roles).
 *
 * Trust: only the template's own words recognise added tokens.  All that came from outside, including what the model said
 * in earlier turns, is plain text, whatever it looks like.  Pure functions; pieces live in the caller's arena. */
#include "model/template.h"

#include <string.h>

#include "model/jdoc.h"

static const char think_open[] = "<think>", think_close[] = "</think>";

static const char tools_head[] = "# Tools\n\nYou may call one or more functions to assist with the user "
                                 "query.\n\nYou are provided with function "
                                 "signatures within <tools></tools> XML tags:\n<tools>";
static const char tools_tail[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
    "<args-json-object>}\n</tool_call><|im_end|>\n";

struct slice {
    const char *p;
    size_t n;
};

struct render {
    int which; /* enum chat_template */
    const struct chat *c;
    struct arena *a;
    struct pieces *out;
    struct err *e;
};

static int no_memory(struct render *r)
{
    return err_set(r->e, ST_NOMEM, "the rendered chat does not fit the request's memory");
}

static int emit(struct render *r, const char *p, size_t n, int added)
{
    struct pieces *out = r->out;
    if (n == 0)
        return 0;
    if (out->n == out->cap) {
        size_t cap = out->cap ? out->cap * 2 : 32;
        struct piece *q = arena_get(r->a, cap * sizeof *q);
        if (!q)
            return no_memory(r);
        if (out->n)
            memcpy(q, out->p, out->n * sizeof *q);
        out->p = q;
        out->cap = cap;
    }
    out->p[out->n++] = (struct piece){p, n, added};
    return 0;
}

/* The template's own words: string constants, which outlive every piece. */
static int word(struct render *r, const char *s)
{
    return emit(r, s, strlen(s), 1);
}

static int text(struct render *r, struct slice s)
{
    return emit(r, s.p, s.n, 0);
}

static struct slice slice_of(const char *s)
{
    return (struct slice){s, s ? strlen(s) : 0};
}

static struct slice strip_left(struct slice s)
{
    while (s.n && s.p[0] == '\n') {
        s.p++;
        s.n--;
    }
    return s;
}

static struct slice strip_right(struct slice s)
{
    while (s.n && s.p[s.n - 1] == '\n')
        s.n--;
    return s;
}

static const char *find_first(struct slice s, const char *what)
{
    return s.n ? memmem(s.p, s.n, what, strlen(what)) : NULL;
}

static const char *find_last(struct slice s, const char *what)
{
    const char *last = NULL;
    size_t n = strlen(what);
    for (const char *p; (p = find_first(s, what));) {
        last = p;
        s.n -= (size_t) (p + n - s.p);
        s.p = p + n;
    }
    return last;
}

/* The part of s behind p, which lies in it. */
static struct slice after(struct slice s, const char *p)
{
    return (struct slice){p, s.n - (size_t) (p - s.p)};
}

static int role_is(const struct chat_message *m, const char *role)
{
    return m->role && strcmp(m->role, role) == 0;
}

/* Jinja's tojson. */
static int json(struct render *r, const struct jnode *x)
{
    struct jout o = {0};
    jout_node(&o, x);
    char *p = o.status == 0 ? arena_copy(r->a, o.p, o.n) : NULL;
    size_t n = o.n;
    jout_free(&o);
    return p ? emit(r, p, n, 0) : no_memory(r);
}

/* JSON text to tojson; `object`: nothing but an object will do.  i, j name it in a sentence. */
static int json_text(struct render *r, const char *s, int object, const char *what, size_t i)
{
    struct jdoc d;
    struct err inner;
    int st = jdoc_parse(&d, s ? s : "", s ? strlen(s) : 0, &inner);
    if (st < 0)
        return err_set(r->e, st == ST_NOMEM ? st : ST_INPUT, "%s %zu: %s", what, i, inner.text);
    if (object && d.node[0].type != JNODE_OBJECT)
        st = err_set(r->e, ST_INPUT, "%s %zu is %s; expected a JSON object", what, i, jnode_kind(d.node));
    else
        st = json(r, d.node);
    jdoc_free(&d);
    return st;
}

/* The system message and the tools. */
static int render_head(struct render *r)
{
    const struct chat *c = r->c;
    const struct chat_message *first = c->message;
    int system = role_is(first, "system"), st;
    if (system && !first->content)
        return err_set(r->e, ST_INPUT, "message 0: a system message needs content");
    if (c->n_tools == 0) {
        if (!system)
            return 0;
        if ((st = word(r, "<|im_start|>system\n")) < 0 || (st = text(r, slice_of(first->content))) < 0)
            return st;
        return word(r, "<|im_end|>\n");
    }
    if ((st = word(r, "<|im_start|>system\n")) < 0)
        return st;
    if (system && ((st = text(r, slice_of(first->content))) < 0 || (st = word(r, "\n\n")) < 0))
        return st;
    if ((st = word(r, tools_head)) < 0)
        return st;
    for (size_t i = 0; i < c->n_tools; i++)
        if ((st = word(r, "\n")) < 0 || (st = json_text(r, c->tool[i], 1, "tool", i)) < 0)
            return st;
    return word(r, tools_tail);
}

static int starts_with(struct slice s, const char *what)
{
    size_t n = strlen(what);
    return s.n >= n && memcmp(s.p, what, n) == 0;
}

static int ends_with(struct slice s, const char *what)
{
    size_t n = strlen(what);
    return s.n >= n && memcmp(s.p + s.n - n, what, n) == 0;
}

/* Index of the last thing a user asked: turns after it keep their thinking. */
static size_t last_query(const struct chat *c)
{
    for (size_t i = c->n_messages; i-- > 0;) {
        const struct chat_message *m = c->message + i;
        struct slice s = slice_of(m->content);
        if (role_is(m, "user") && m->content &&
            !(starts_with(s, "<tool_response>") && ends_with(s, "</tool_response>")))
            return i;
    }
    return c->n_messages - 1;
}

static int render_plain(struct render *r, const char *head, const struct chat_message *m)
{
    int st;
    if ((st = word(r, head)) < 0 || (st = text(r, slice_of(m->content))) < 0)
        return st;
    return word(r, "<|im_end|>\n");
}

/* Thinking that stands inside the content: out of it, and the content without it. */
static void split_thinking(struct slice *content, struct slice *reasoning)
{
    const char *close = find_first(*content, think_close);
    if (!close)
        return;
    struct slice head = strip_right((struct slice){content->p, (size_t) (close - content->p)});
    const char *open = find_last(head, think_open);
    *reasoning = strip_left(open ? after(head, open + strlen(think_open)) : head);
    *content = strip_left(after(*content, find_last(*content, think_close) + strlen(think_close)));
}

static int render_call(struct render *r, const struct chat_call *call, size_t i)
{
    int st;
    if (!call->name)
        return err_set(r->e, ST_INPUT, "tool call %zu has no name", i);
    if (!call->arguments)
        return err_set(r->e, ST_INPUT, "tool call %zu (\"%.80s\") has no arguments", i, call->name);
    if ((st = word(r, "<tool_call>\n{\"name\": \"")) < 0 || (st = text(r, slice_of(call->name))) < 0 ||
        (st = word(r, "\", \"arguments\": ")) < 0)
        return st;
    st = call->arguments_is_string ? text(r, slice_of(call->arguments))
                                   : json_text(r, call->arguments, 0, "arguments of tool call", i);
    return st < 0 ? st : word(r, "}\n</tool_call>");
}

static int render_assistant(struct render *r, size_t i, size_t query)
{
    const struct chat_message *m = r->c->message + i;
    int last = i + 1 == r->c->n_messages, st;
    struct slice content = slice_of(m->content), reasoning = slice_of(m->reasoning);
    int thinks = r->which != CHAT_TEMPLATE_INSTRUCT_2507;
    if (thinks && !m->reasoning)
        split_thinking(&content, &reasoning);
    if (thinks && i > query && (last || reasoning.n)) {
        if ((st = word(r, "<|im_start|>assistant\n<think>\n")) < 0 ||
            (st = text(r, strip_left(strip_right(reasoning)))) < 0 || (st = word(r, "\n</think>\n\n")) < 0 ||
            (st = text(r, strip_left(content))) < 0)
            return st;
    } else if ((st = word(r, "<|im_start|>assistant\n")) < 0 || (st = text(r, content)) < 0) {
        return st;
    }
    for (size_t k = 0; k < m->n_calls; k++)
        if (((k > 0 || content.n) && (st = word(r, "\n")) < 0) || (st = render_call(r, m->call + k, k)) < 0)
            return st;
    return last && r->c->continue_final ? 0 : word(r, "<|im_end|>\n");
}

/* Neighbouring tool messages share one user turn. */
static int render_tool(struct render *r, size_t i)
{
    const struct chat *c = r->c;
    const struct chat_message *m = c->message + i;
    int st;
    if ((i == 0 || !role_is(m - 1, "tool")) && (st = word(r, "<|im_start|>user")) < 0)
        return st;
    if ((st = word(r, "\n<tool_response>\n")) < 0 || (st = text(r, slice_of(m->content))) < 0 ||
        (st = word(r, "\n</tool_response>")) < 0)
        return st;
    return i + 1 == c->n_messages || !role_is(m + 1, "tool") ? word(r, "<|im_end|>\n") : 0;
}

static int render_message(struct render *r, size_t i, size_t query)
{
    const struct chat_message *m = r->c->message + i;
    if (role_is(m, "user"))
        return render_plain(r, "<|im_start|>user\n", m);
    if (role_is(m, "system"))
        return i == 0 ? 0 : render_plain(r, "<|im_start|>system\n", m);
    if (role_is(m, "assistant"))
        return render_assistant(r, i, query);
    if (role_is(m, "tool"))
        return render_tool(r, i);
    return err_set(r->e, ST_INPUT,
                   "message %zu has the role \"%.40s\"; expected system, user, assistant or tool", i,
                   m->role ? m->role : "");
}

static int check_continue(struct render *r)
{
    const struct chat_message *last = r->c->message + r->c->n_messages - 1;
    if (!r->c->continue_final)
        return 0;
    if (r->c->add_generation_prompt)
        return err_set(r->e, ST_INPUT,
                       "either a new answer is asked for or the last message is continued, not both");
    if (!role_is(last, "assistant") || last->n_calls)
        return err_set(r->e, ST_INPUT,
                       "only a last message of the assistant, without tool calls, can be continued");
    return 0;
}

/* What the template itself says of thinking at the head of the answer. */
static const char *answer_head(const struct render *r)
{
    if (r->which == CHAT_TEMPLATE_THINKING_2507)
        return "<think>\n";
    return r->which == CHAT_TEMPLATE_QWEN3 && r->c->enable_thinking == 0 ? "<think>\n\n</think>\n\n" : "";
}

static int render_all(struct render *r)
{
    const struct chat *c = r->c;
    if (c->n_messages == 0)
        return err_set(r->e, ST_INPUT, "the chat has no messages; expected at least one");
    int st = check_continue(r);
    if (st < 0 || (st = render_head(r)) < 0)
        return st;
    size_t query = last_query(c);
    for (size_t i = 0; i < c->n_messages; i++)
        if ((st = render_message(r, i, query)) < 0)
            return st;
    if (c->add_generation_prompt && (st = word(r, "<|im_start|>assistant\n")) < 0)
        return st;
    return c->add_generation_prompt ? word(r, answer_head(r)) : 0;
}

int template_render(int which, const struct chat *c, struct arena *a, struct pieces *out, struct err *e)
{
    struct render r = {which, c, a, out, e};
    *out = (struct pieces){0};
    if (which == CHAT_TEMPLATE_NONE)
        return err_set(
            e, ST_UNSUPPORTED,
            "this model brings no chat template; choose one with --template qwen3, thinking-2507 or "
            "instruct-2507");
    return render_all(&r);
}

/* --- names --- */

static const struct {
    const char *name;
    int thinking;
} templates[] = {
    [CHAT_TEMPLATE_NONE] = {"none", TEMPLATE_THINKS_AS_ASKED},
    [CHAT_TEMPLATE_QWEN3] = {"qwen3", TEMPLATE_THINKS_AS_ASKED},
    [CHAT_TEMPLATE_THINKING_2507] = {"thinking-2507", TEMPLATE_THINKS_ALWAYS},
    [CHAT_TEMPLATE_INSTRUCT_2507] = {"instruct-2507", TEMPLATE_THINKS_NEVER},
};

int template_parse(const char *name)
{
    for (int i = CHAT_TEMPLATE_QWEN3; i <= CHAT_TEMPLATE_INSTRUCT_2507; i++)
        if (strcmp(name, templates[i].name) == 0)
            return i;
    return -1;
}

const char *template_name(int which)
{
    return templates[which].name;
}

int template_thinking(int which)
{
    return templates[which].thinking;
}
