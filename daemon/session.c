/* session.c - see session.h.  The request is checked in the order a reader would: which model, which target, which
 * parameters, then the prompt, then whether both fit the context. */
#include "daemon/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/tree.h"

/* --- life --- */

static void make_request_id(char *out)
{
    uint8_t r[16];
    if (getrandom(r, sizeof r, 0) != (ssize_t) sizeof r)
        memset(r, 0, sizeof r);
    for (size_t i = 0; i < sizeof r; i++)
        snprintf(out + 2 * i, 3, "%02x", r[i]);
}

struct session *session_new(const struct served *served, struct arena *a, const struct proto_request *r,
                            uint64_t received_ns)
{
    struct session *s = calloc(1, sizeof *s);
    struct engine_request *er = engine_request_new();
    if (!s || !er) {
        free(s);
        engine_request_free(er);
        arena_fini(a);
        return NULL;
    }
    s->served = served;
    s->arena = *a;
    *a = (struct arena){0};
    s->request = *r;
    s->engine_request = er;
    er->received_ns = received_ns;
    s->is_chat = r->prompt == PROTO_PROMPT_CHAT;
    return s;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    engine_request_free(s->engine_request);
    arena_fini(&s->arena);
    text_fini(&s->text);
    free(s->stop);
    free(s);
}

size_t session_prompt_bytes(const struct session *s)
{
    const struct proto_request *r = &s->request;
    size_t n = 0;
    if (r->prompt == PROTO_PROMPT_TEXT)
        return strlen(r->text);
    for (size_t i = 0; i < r->n_messages; i++)
        n += strlen(r->message[i].content) + strlen(r->message[i].reasoning);
    for (size_t i = 0; i < r->n_tools; i++)
        n += strlen(r->tool[i]);
    return n;
}

/* --- names --- */

static int check_names(struct session *s, struct err *e)
{
    const struct proto_request *r = &s->request;
    const char *own = s->served->info.fingerprint;
    if (*r->model && strcmp(r->model, s->served->name) != 0)
        return err_set(e, ST_NOTFOUND, "model '%.200s' is not served here; '%s' is", r->model,
                       s->served->name);
    const char *theirs = *r->fingerprint ? r->fingerprint : r->resume.fingerprint;
    if (*r->fingerprint && r->resume.given && *r->resume.fingerprint && strcmp(r->fingerprint, own) == 0)
        theirs = r->resume.fingerprint;
    if (*theirs && strcmp(theirs, own) != 0)
        return err_set(e, ST_PRECONDITION,
                       "the request wants fingerprint '%.100s', this target has '%s': its text would differ",
                       theirs, own);
    if (strlen(r->request_id) > SESSION_REQUEST_ID_MAX)
        return err_set(e, ST_INPUT, "request_id has %zu bytes, the limit is %d", strlen(r->request_id),
                       SESSION_REQUEST_ID_MAX);
    if (*r->request_id)
        snprintf(s->request_id, sizeof s->request_id, "%s", r->request_id);
    else
        make_request_id(s->request_id);
    return 0;
}

/* --- parameters --- */

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *) a, y = *(const int32_t *) b;
    return (x > y) - (x < y);
}

/* A sorted copy without repetitions; NULL where the list is empty. */
static int ids_copy(const int32_t *id, size_t n, const int32_t **out, int32_t *n_out, struct err *e)
{
    *n_out = 0;
    if (n == 0)
        return 0;
    int32_t *to = malloc(n * sizeof *to);
    if (!to)
        return err_set(e, ST_NOMEM, "out of memory");
    memcpy(to, id, n * sizeof *to);
    qsort(to, n, sizeof *to, ascending);
    for (size_t i = 0; i < n; i++)
        if (*n_out == 0 || to[*n_out - 1] != to[i])
            to[(*n_out)++] = to[i];
    *out = to;
    return 0;
}

void session_defaults(const struct served *served, struct proto_resolved *out)
{
    const struct gen_config *g = &served->gen;
    int thinks = served->think.open >= 0 && served->think.budget != 0 &&
                 template_thinking(served->chat_template) != TEMPLATE_THINKS_NEVER;
    *out = (struct proto_resolved){.temperature = g->has_temperature ? g->temperature : 1,
                                   .top_k = g->has_top_k ? g->top_k : 0,
                                   .top_p = g->has_top_p ? g->top_p : 1,
                                   .min_p = g->has_min_p ? g->min_p : 0,
                                   .max_tokens = served->info.ctx_max,
                                   .thinking = thinks,
                                   .thinking_budget = served->think.budget,
                                   .eos = {(size_t) g->n_eos, g->eos}};
}

static int resolve_sampling(struct session *s, struct err *e)
{
    const struct proto_sampling *r = &s->request.sampling;
    struct draw_params *d = &s->engine_request->draw;
    session_defaults(s->served, &s->resolved);
    d->temperature = r->has_temperature ? r->temperature : s->resolved.temperature;
    d->top_k = r->has_top_k ? r->top_k : s->resolved.top_k;
    d->top_p = r->has_top_p ? r->top_p : s->resolved.top_p;
    d->min_p = r->has_min_p ? r->min_p : s->resolved.min_p;
    d->min_tokens = r->has_min_tokens ? r->min_tokens : 0;
    d->seed = r->seed;
    if (!r->has_seed && getrandom(&d->seed, sizeof d->seed, 0) != (ssize_t) sizeof d->seed)
        return err_set(e, ST_UNAVAILABLE, "no random seed could be had from the system; give sampling.seed");
    s->seed = d->seed;
    int st = ids_copy(r->banned.id, r->banned.n, &d->banned, &d->n_banned, e);
    if (!st)
        st = ids_copy(r->allowed.id, r->allowed.n, &d->allowed, &d->n_allowed, e);
    return st;
}

static int resolve_stopping(struct session *s, struct err *e)
{
    const struct proto_stopping *r = &s->request.stopping;
    const struct gen_config *g = &s->served->gen;
    struct draw_params *d = &s->engine_request->draw;
    const int32_t *own = NULL;
    d->ignore_eos = r->ignore_eos;
    int st = ids_copy(g->eos, (size_t) g->n_eos, &d->eos, &d->n_eos, e);
    if (!st)
        st = ids_copy(r->stop.id, r->stop.n, &d->stop, &d->n_stop, e);
    if (!st)
        st = ids_copy(d->stop, (size_t) d->n_stop, &own, &s->n_stop, e);
    s->stop = (int32_t *) own;
    return st;
}

/* Unset: the server's default.  0 turns thinking off: by the template's empty block, or, where every answer starts inside <think>,
 * by the closing text at once. */
static int resolve_thinking(struct session *s, struct err *e)
{
    const struct proto_thinking *r = &s->request.thinking;
    const struct draw_think *own = &s->served->think;
    struct draw_think *t = &s->engine_request->draw.think;
    if (r->has_enabled && !s->is_chat)
        return err_set(
            e, ST_INPUT,
            "thinking.enabled is for Chat: it chooses the template's form; Generate takes the prompt as is");
    int32_t budget = r->has_budget ? r->budget : own->budget;
    int thinks = s->is_chat ? template_thinking(s->served->chat_template) : TEMPLATE_THINKS_AS_ASKED;
    s->resolved.thinking =
        own->open >= 0 && thinks != TEMPLATE_THINKS_NEVER && budget != 0 && !(r->has_enabled && !r->enabled);
    if (thinks == TEMPLATE_THINKS_ALWAYS && r->has_enabled && !r->enabled && budget >= -1)
        budget = 0;
    s->resolved.thinking_budget = budget;
    t->budget = budget; /* draw_check judges it, also where the model cannot think */
    if (own->open < 0)
        return 0;
    t->open = own->open;
    t->close = own->close;
    t->tool = own->tool;
    int32_t *closer = malloc((size_t) own->n_closer * sizeof *closer);
    if (!closer)
        return err_set(e, ST_NOMEM, "out of memory");
    memcpy(closer, own->closer, (size_t) own->n_closer * sizeof *closer);
    t->closer = closer;
    t->n_closer = own->n_closer;
    return 0;
}

static int resolve_speculation(struct session *s, struct err *e)
{
    const struct proto_speculation *r = &s->request.speculation;
    struct engine_request *er = s->engine_request;
    if (r->mode < PROTO_SPEC_AUTO || r->mode > PROTO_SPEC_NODES)
        return err_set(e, ST_INPUT,
                       "speculation.mode %d is unknown; AUTO (0), OFF (1) and NODES (2) are known", r->mode);
    if (r->mode == PROTO_SPEC_NODES && (r->nodes < 1 || r->nodes > TREE_MAX))
        return err_set(e, ST_INPUT, "speculation.nodes must be in 1..%d, not %d", TREE_MAX, r->nodes);
    if (r->depth < 0 || r->depth >= TREE_MAX)
        return err_set(e, ST_INPUT, "speculation.depth must be in 0..%d, not %d", TREE_MAX - 1, r->depth);
    er->spec = r->mode == PROTO_SPEC_OFF     ? ENGINE_SPEC_OFF
               : r->mode == PROTO_SPEC_NODES ? ENGINE_SPEC_NODES
                                             : ENGINE_SPEC_AUTO;
    er->spec_nodes = r->nodes;
    er->spec_depth = r->depth;
    return 0;
}

/* --- prompt --- */

static int chat_messages(struct session *s, struct chat_message *to, struct err *e)
{
    const struct proto_request *r = &s->request;
    for (size_t i = 0; i < r->n_messages; i++) {
        const struct proto_message *f = &r->message[i];
        struct chat_call *call = arena_get(&s->arena, f->n_calls * sizeof *call);
        if (!call)
            return err_set(e, ST_LIMIT, "the conversation needs too much memory");
        for (size_t j = 0; j < f->n_calls; j++) {
            call[j].name = f->call[j].name;
            call[j].arguments = *f->call[j].arguments ? f->call[j].arguments : "{}";
        }
        /* Absent and "" are one in proto3; the template takes "" reasoning for "there is some, and it is empty". */
        to[i] =
            (struct chat_message){f->role, f->content, *f->reasoning ? f->reasoning : NULL, f->n_calls, call};
    }
    return 0;
}

static int read_chat(struct session *s, struct tokens *out, struct err *e)
{
    const struct proto_request *r = &s->request;
    if (s->served->chat_template == CHAT_TEMPLATE_NONE)
        return err_set(e, ST_PRECONDITION,
                       "this model has no chat template; use Generate, or start outriderd with --template");
    if (r->n_messages == 0)
        return err_set(e, ST_INPUT, "messages is empty; at least one is needed");
    struct chat_message *message = arena_get(&s->arena, r->n_messages * sizeof *message);
    if (!message)
        return err_set(e, ST_LIMIT, "the conversation needs too much memory");
    int st = chat_messages(s, message, e);
    if (st)
        return st;
    struct chat c = {.n_messages = r->n_messages,
                     .message = message,
                     .n_tools = r->n_tools,
                     .tool = r->tool,
                     .enable_thinking = s->served->think.open < 0 ? -1
                                        : !s->resolved.thinking   ? 0
                                        : r->thinking.has_enabled ? 1
                                                                  : -1,
                     .add_generation_prompt = !r->continue_final,
                     .continue_final = r->continue_final};
    struct pieces p = {0};
    st = template_render(s->served->chat_template, &c, &s->arena, &p, e);
    return st ? st : tokenizer_encode_pieces(s->served->tokenizer, p.p, p.n, out, e);
}

static int check_ids(const char *name, const int32_t *id, size_t n, int32_t vocab, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= vocab)
            return err_set(e, ST_INPUT, "%s[%zu] is %d; ids of this model are 0..%d", name, i, id[i],
                           vocab - 1);
    return 0;
}

static int copy_ids(const struct proto_ids *from, int32_t **to, int32_t *n, struct err *e)
{
    *to = malloc((from->n + 1) * sizeof **to);
    if (!*to || from->n > INT32_MAX)
        return err_set(e, ST_NOMEM, "out of memory");
    if (from->n)
        memcpy(*to, from->id, from->n * sizeof **to);
    *n = (int32_t) from->n;
    return 0;
}

static int read_prompt(struct session *s, struct err *e)
{
    const struct proto_request *r = &s->request;
    struct engine_request *er = s->engine_request;
    struct tokens t = {0};
    int st;
    if (r->prompt == PROTO_PROMPT_TOKENS) {
        st = check_ids("prompt.tokens", r->tokens.id, r->tokens.n, s->served->info.vocab, e);
        return st ? st : copy_ids(&r->tokens, &er->prompt, &er->n_prompt, e);
    }
    if (r->prompt == PROTO_PROMPT_NONE)
        return err_set(e, ST_INPUT, "prompt is not set; give text or tokens");
    st = s->is_chat
             ? read_chat(s, &t, e)
             : tokenizer_encode(s->served->tokenizer, r->text, strlen(r->text), TOKENIZER_ADDED, &t, e);
    er->prompt = t.id;
    er->n_prompt = (int32_t) t.n;
    return st;
}

/* --- what fits --- */

static int check_room(struct session *s, struct err *e)
{
    struct engine_request *er = s->engine_request;
    const struct proto_stopping *r = &s->request.stopping;
    int32_t ctx = s->served->info.ctx_max, room = ctx - er->n_prompt;
    if (er->n_prompt < 1)
        return err_set(e, ST_INPUT, "the prompt is empty; at least one token is needed");
    if (room < 1)
        return err_set(e, ST_INPUT,
                       "the prompt has %d tokens; the context holds %d, prompt and answer together",
                       er->n_prompt, ctx);
    if (r->has_max_tokens && r->max_tokens > room)
        return err_set(
            e, ST_INPUT,
            "a prompt of %d tokens and max_tokens %d do not fit the context of %d; at most %d are left",
            er->n_prompt, r->max_tokens, ctx, room);
    er->draw.max_tokens = r->has_max_tokens ? r->max_tokens : room;
    s->n_prompt = er->n_prompt;
    return 0;
}

/* Resumed tokens must be a beginning of an answer, or a whole one: then its End is all that is left to send. */
static int read_resume(struct session *s, struct err *e)
{
    const struct proto_resume *r = &s->request.resume;
    struct engine_request *er = s->engine_request;
    if (!r->given)
        return 0;
    if (!s->request.sampling.has_seed)
        return err_set(e, ST_INPUT,
                       "resume needs sampling.seed: the one the first event of the broken stream reported");
    int st = check_ids("resume.tokens", r->tokens.id, r->tokens.n, s->served->info.vocab, e);
    if (!st)
        st = copy_ids(&r->tokens, &er->resume, &er->n_resume, e);
    if (st)
        return st;
    struct draw_state state;
    draw_start(&er->draw, er->prompt, er->n_prompt, &state);
    for (int32_t i = 0; i < er->n_resume; i++) {
        if (state.done)
            return err_set(e, ST_INPUT, "resume.tokens: the answer ends with token %d, and %d are given", i,
                           er->n_resume);
        draw_step(&er->draw, &state, er->resume[i]);
    }
    return 0;
}

static int start_text(struct session *s, struct err *e)
{
    const struct engine_request *er = s->engine_request;
    struct text_out nothing = {0};
    text_init(&s->text, s->served->tokenizer, &s->served->think, s->is_chat, er->prompt,
              (size_t) er->n_prompt);
    int st = text_skip(&s->text, er->resume, (size_t) er->n_resume, &nothing);
    text_out_free(&nothing);
    return st ? err_set(e, st, "out of memory") : 0;
}

static void report(struct session *s)
{
    const struct draw_params *d = &s->engine_request->draw;
    struct proto_resolved *r = &s->resolved;
    r->temperature = d->temperature;
    r->top_k = d->top_k;
    r->top_p = d->top_p;
    r->min_p = d->min_p;
    r->min_tokens = d->min_tokens;
    r->max_tokens = d->max_tokens;
}

int session_read(struct session *s, struct err *e)
{
    int st = check_names(s, e);
    if (!st)
        st = resolve_sampling(s, e);
    if (!st)
        st = resolve_stopping(s, e);
    if (!st)
        st = resolve_thinking(s, e);
    if (!st)
        st = resolve_speculation(s, e);
    if (!st)
        st = read_prompt(s, e);
    if (!st)
        st = check_room(s, e);
    if (!st)
        st = draw_check(&s->engine_request->draw, s->served->info.vocab, e);
    if (!st)
        st = read_resume(s, e);
    if (!st)
        st = start_text(s, e);
    if (st)
        return st;
    report(s);
    arena_fini(&s->arena);
    s->request = (struct proto_request){0};
    return 0;
}

/* --- events --- */

void session_begin(const struct session *s, const struct engine_event *ev, struct proto_begin *out)
{
    *out = (struct proto_begin){.request_id = s->request_id,
                                .fingerprint = s->served->info.fingerprint,
                                .seed = s->seed,
                                .prompt_tokens = s->n_prompt,
                                .cached_tokens = ev->figures.n_cached,
                                .resolved = s->resolved};
}

int session_tokens(struct session *s, const struct engine_event *ev, struct text_out *out)
{
    text_out_clear(out);
    if (ev->kind == ENGINE_TOKENS)
        return text_push(&s->text, ev->tok, (size_t) ev->n, out);
    int whole = ev->finish == ENGINE_FINISH_STOP || ev->finish == ENGINE_FINISH_LENGTH;
    return text_end(&s->text, whole, out);
}

static int has(const int32_t *list, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return 1;
    return 0;
}

/* Entries up to the deepest that is not 0. */
static struct proto_ids by_depth(const int32_t *at)
{
    size_t n = ENGINE_DEPTH_MAX;
    while (n && at[n - 1] == 0)
        n--;
    return (struct proto_ids){n, at};
}

void session_end(const struct session *s, const struct engine_event *ev, int finish, struct proto_end *out)
{
    const struct engine_figures *f = &ev->figures;
    *out = (struct proto_end){.finish = finish,
                              .thinking_cut = f->cut,
                              .prompt_tokens = s->n_prompt,
                              .completion_tokens = f->n_output,
                              .reasoning_tokens = f->n_thinking,
                              .cached_tokens = f->n_cached,
                              .queue_ms = (double) f->queue_ns / 1e6,
                              .prefill_ms = (double) f->prefill_ns / 1e6,
                              .decode_ms = (double) f->decode_ns / 1e6,
                              .first_token_ms = (double) f->first_token_ns / 1e6,
                              .passes = f->passes,
                              .drafted = f->drafted,
                              .accepted = f->accepted,
                              .preemptions = f->preempted,
                              .drafted_by_depth = by_depth(f->drafted_at),
                              .accepted_by_depth = by_depth(f->accepted_at),
                              .seed = s->seed};
    if (finish != PROTO_FINISH_STOP)
        return;
    out->matched_id = ev->matched;
    out->matched = has(s->stop, (size_t) s->n_stop, ev->matched)                         ? PROTO_MATCHED_STOP
                   : has(s->served->gen.eos, (size_t) s->served->gen.n_eos, ev->matched) ? PROTO_MATCHED_EOS
                                                                                         : PROTO_MATCHED_NONE;
}
