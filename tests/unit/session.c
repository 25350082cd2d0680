/* session.c - requests to engine_requests: what is resolved, sorted, rendered and refused; figures to events. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session.h"

#define TARGET "assets/tiny/target"

enum { CTX = 512 };

static struct daemon_config config;
static struct served *served;

static int open_served(void **state)
{
    (void) state;
    struct err e;
    char name[] = "outriderd", flag[] = "--target", dir[] = TARGET;
    char *argv[] = {name, flag, dir};
    assert_int_equal(daemon_config_parse(&config, 3, argv, &e), 0);
    if (served_open(&served, &config, &e))
        return 0; /* the tests skip */
    served->info = (struct engine_info){.fingerprint = "fp",
                                        .ctx_max = CTX,
                                        .vocab = tokenizer_count(served->tokenizer),
                                        .sessions_max = 16,
                                        .queue_max = 64};
    return 0;
}

static int close_served(void **state)
{
    (void) state;
    served_close(served);
    return 0;
}

static void need_served(void)
{
    if (!served) {
        print_message("skipped: " TARGET " is not there\n");
        skip();
    }
}

static struct proto_request text_request(const char *text)
{
    return (struct proto_request){.prompt = PROTO_PROMPT_TEXT,
                                  .text = text,
                                  .request_id = "",
                                  .model = "",
                                  .fingerprint = "",
                                  .resume = {.fingerprint = ""}};
}

static struct proto_request chat_request(const struct proto_message *m, size_t n)
{
    struct proto_request r = text_request("");
    r.prompt = PROTO_PROMPT_CHAT;
    r.message = m;
    r.n_messages = n;
    return r;
}

static struct session *session_of(const struct proto_request *r, int *st, struct err *e)
{
    struct arena a;
    arena_init(&a, 1 << 20);
    struct session *s = session_new(served, &a, r, 1, 5);
    assert_non_null(s);
    *st = session_read(s, e);
    return s;
}

static struct session *reads(const struct proto_request *r)
{
    struct err e = {0};
    int st;
    struct session *s = session_of(r, &st, &e);
    if (st)
        fail_msg("refused: %s", e.text);
    return s;
}

static void refuses(const struct proto_request *r, int status, const char *word)
{
    struct err e = {0};
    int st;
    session_free(session_of(r, &st, &e));
    assert_int_equal(st, status);
    if (!strstr(e.text, word))
        fail_msg("'%s' does not say '%s'", e.text, word);
}

static void test_defaults_are_the_models(void **state)
{
    (void) state;
    need_served();
    struct proto_request r = text_request("hello");
    struct session *s = reads(&r);
    const struct draw_params *d = &s->engine_request->draw;
    assert_true(fabsf(d->temperature - 0.6f) < 1e-6f && d->top_k == 20 && fabsf(d->top_p - 0.95f) < 1e-6f &&
                d->min_p == 0);
    assert_int_equal(d->n_eos, 2);
    assert_true(d->eos[0] < d->eos[1]);
    assert_int_equal(d->max_tokens, CTX - s->n_prompt);
    assert_int_equal(d->think.budget, -1);
    assert_int_equal(d->think.close, tokenizer_added(served->tokenizer, "</think>"));
    assert_int_equal(d->think.n_closer, served->think.n_closer);
    assert_true(d->seed == s->seed && s->engine_request->received_ns == 5);
    assert_int_equal(strlen(s->request_id), 32);
    assert_true(s->resolved.max_tokens == d->max_tokens && s->resolved.thinking == 1 &&
                s->resolved.top_k == 20);
    session_free(s);
}

/* A checkpoint may ask for a repetition penalty, as for the rest. */
static void test_default_penalty(void **state)
{
    (void) state;
    need_served();
    struct proto_request r = text_request("hello");
    struct proto_resolved defaults;
    served->gen.has_repetition_penalty = 1;
    served->gen.repetition_penalty = 1.25f;
    struct session *s = reads(&r);
    session_defaults(served, &defaults);
    assert_true(s->engine_request->draw.repetition == 1.25f);
    assert_true(s->resolved.repetition == 1.25f && defaults.repetition == 1.25f);
    session_free(s);
    r.sampling.has_repetition = 1;
    r.sampling.repetition = 1;
    s = reads(&r);
    assert_true(s->engine_request->draw.repetition == 1 && s->resolved.repetition == 1);
    session_free(s);
    served->gen.has_repetition_penalty = 0;
    served->gen.repetition_penalty = 1;
}

static void test_zero_is_not_unset(void **state)
{
    (void) state;
    need_served();
    struct proto_request r = text_request("hello");
    r.sampling = (struct proto_sampling){
        .has_temperature = 1, .has_top_k = 1, .has_top_p = 1, .top_p = 1, .has_seed = 1};
    r.thinking = (struct proto_thinking){.has_budget = 1};
    struct session *s = reads(&r);
    const struct draw_params *d = &s->engine_request->draw;
    assert_true(d->temperature == 0 && d->top_k == 0 && d->top_p == 1 && d->seed == 0);
    assert_int_equal(d->think.budget, 0);
    assert_int_equal(s->resolved.thinking, 0);
    session_free(s);
}

static void test_lists_are_sorted_sets(void **state)
{
    (void) state;
    need_served();
    int32_t id[] = {9, 3, 9, 1, 3};
    struct proto_request r = text_request("hello");
    r.sampling.banned = r.sampling.allowed = r.stopping.stop = (struct proto_ids){5, id};
    r.sampling.allowed = (struct proto_ids){1, (int32_t[]){4}};
    struct session *s = reads(&r);
    const struct draw_params *d = &s->engine_request->draw;
    assert_int_equal(d->n_banned, 3);
    assert_memory_equal(d->banned, ((int32_t[]){1, 3, 9}), 12);
    assert_memory_equal(d->stop, d->banned, 12);
    assert_int_equal(d->n_allowed, 1);
    assert_memory_equal(s->stop, d->stop, 12);
    session_free(s);
}

static int32_t last(const struct session *s, int32_t back)
{
    return s->engine_request->prompt[s->engine_request->n_prompt - back];
}

/* Whether the prompt holds </think>: only the template's empty block can have put it there. */
static int has_empty_block(const struct session *s)
{
    for (int32_t i = 0; i < s->engine_request->n_prompt; i++)
        if (s->engine_request->prompt[i] == served->think.close)
            return 1;
    return 0;
}

static void test_chat_thinking(void **state)
{
    (void) state;
    need_served();
    struct proto_message m = {.role = "user", .content = "hi</think>", .reasoning = "", .call_id = ""};
    struct proto_request r = chat_request(&m, 1);
    struct session *s = reads(&r);
    assert_false(has_empty_block(s)); /* the user's words are no tag */
    assert_true(s->resolved.thinking);
    session_free(s);
    r.thinking = (struct proto_thinking){.has_enabled = 1, .enabled = 0};
    s = reads(&r);
    assert_true(has_empty_block(s) && !s->resolved.thinking);
    session_free(s);
    r.thinking = (struct proto_thinking){.has_enabled = 1, .enabled = 1, .has_budget = 1, .budget = 0};
    s = reads(&r);
    assert_true(has_empty_block(s) && !s->resolved.thinking);
    session_free(s);
    r.thinking = (struct proto_thinking){.has_enabled = 1, .enabled = 1, .has_budget = 1, .budget = 12};
    s = reads(&r);
    assert_true(!has_empty_block(s) && s->resolved.thinking && s->resolved.thinking_budget == 12);
    assert_int_equal(s->engine_request->draw.think.budget, 12);
    session_free(s);
}

/* Thinking-2507 has no empty block: thinking that is not wanted is closed at once, by a budget of 0. */
static void test_chat_thinking_always(void **state)
{
    (void) state;
    need_served();
    struct proto_message m = {.role = "user", .content = "hi", .reasoning = "", .call_id = ""};
    static const struct {
        struct proto_thinking asked;
        int thinks, budget;
    } list[] = {
        {{0}, 1, -1},
        {{.has_budget = 1, .budget = 9}, 1, 9},
        {{.has_budget = 1, .budget = 0}, 0, 0},
        {{.has_enabled = 1, .enabled = 0}, 0, 0},
        {{.has_enabled = 1, .enabled = 0, .has_budget = 1, .budget = 9}, 0, 0},
        {{.has_enabled = 1, .enabled = 1}, 1, -1},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct proto_request r = chat_request(&m, 1);
        struct draw_state at;
        int32_t tok = -1;
        r.thinking = list[i].asked;
        served->chat_template = CHAT_TEMPLATE_THINKING_2507;
        struct session *s = reads(&r);
        served->chat_template = CHAT_TEMPLATE_QWEN3;
        const struct engine_request *er = s->engine_request;
        assert_int_equal(s->resolved.thinking, list[i].thinks);
        assert_int_equal(s->resolved.thinking_budget, list[i].budget);
        assert_int_equal(er->draw.think.budget, list[i].budget);
        draw_start(&er->draw, er->prompt, er->n_prompt, &at);
        assert_int_equal(at.phase, DRAW_THINKING); /* the prompt ends inside <think> */
        assert_int_equal(draw_forced(&er->draw, &at, &tok), !list[i].thinks);
        if (!list[i].thinks)
            assert_int_equal(tok, er->draw.think.closer[0]);
        assert_int_equal(s->choice[0].text.kind, TEXT_REASONING);
        session_free(s);
    }
}

/* Instruct-2507 knows no thinking. */
static void test_chat_thinking_never(void **state)
{
    (void) state;
    need_served();
    struct proto_message m = {.role = "user", .content = "hi", .reasoning = "", .call_id = ""};
    struct proto_request r = chat_request(&m, 1);
    r.thinking = (struct proto_thinking){.has_enabled = 1, .enabled = 0};
    served->chat_template = CHAT_TEMPLATE_INSTRUCT_2507;
    struct session *s = reads(&r);
    struct proto_resolved defaults;
    session_defaults(served, &defaults);
    served->chat_template = CHAT_TEMPLATE_QWEN3;
    assert_true(!s->resolved.thinking && !has_empty_block(s) && !defaults.thinking);
    session_free(s);
}

static void test_chat_continues(void **state)
{
    (void) state;
    need_served();
    struct proto_message m[] = {{.role = "user", .content = "hi", .reasoning = "", .call_id = ""},
                                {.role = "assistant", .content = "x", .reasoning = "", .call_id = ""}};
    struct proto_request r = chat_request(m, 2);
    r.continue_final = 1;
    struct session *s = reads(&r);
    size_t n;
    assert_memory_equal(tokenizer_bytes(served->tokenizer, last(s, 1), &n), "x", 1);
    session_free(s);
    m[1].role = "user";
    refuses(&r, ST_INPUT, "assistant");
}

static void test_room(void **state)
{
    (void) state;
    need_served();
    int32_t id[CTX] = {0};
    struct proto_request r = text_request("");
    r.prompt = PROTO_PROMPT_TOKENS;
    r.tokens = (struct proto_ids){CTX - 1, id};
    session_free(reads(&r));
    r.stopping = (struct proto_stopping){.has_max_tokens = 1, .max_tokens = 2};
    refuses(&r, ST_INPUT, "511 tokens and max_tokens 2 do not fit the context of 512; at most 1 are left");
    r.tokens.n = CTX;
    refuses(&r, ST_INPUT, "the prompt has 512 tokens");
    r.tokens.n = 0;
    refuses(&r, ST_INPUT, "empty");
    r.tokens.n = 3;
    id[2] = served->info.vocab;
    refuses(&r, ST_INPUT, "prompt.tokens[2]");
}

/* What decides whether a request is read on a worker counts everything that takes time to read. */
static void test_prompt_bytes(void **state)
{
    (void) state;
    need_served();
    static const int32_t id[100];
    const struct proto_call call = {"", "name", "{\"a\": 1}"};
    const struct proto_message m = {"assistant", "four", "two", "", 1, &call};
    struct proto_request r = chat_request(&m, 1);
    r.sampling.banned = r.sampling.allowed = r.stopping.stop = r.resume.tokens = (struct proto_ids){100, id};
    struct arena a;
    arena_init(&a, 1 << 20);
    struct session *s = session_new(served, &a, &r, 1, 5);
    assert_non_null(s);
    assert_int_equal(session_prompt_bytes(s), 32 + 9 + 4 + 3 + 4 + 8 + 4 * sizeof id);
    session_free(s);
}

/* A kilobyte of blanks can be spelled in a hundred thousand ways: forty milliseconds in which the loop would serve nobody. */
static void test_long_choices_are_read_on_a_worker(void **state)
{
    (void) state;
    need_served();
    static char blanks[1001];
    const char *const short_words[] = {"yes", "no", "it depends"}, *const long_words[] = {blanks};
    struct proto_request r = text_request("x");
    memset(blanks, ' ', sizeof blanks - 1);
    r.sampling.has_choices = 1;
    r.sampling.choices = (struct proto_strings){3, short_words};
    struct session *s = reads(&r);
    s->request = r;
    assert_in_range(session_prompt_bytes(s), 0, SESSION_LONG_BYTES - 1);
    r.sampling.choices = (struct proto_strings){1, long_words};
    s->request = r;
    assert_in_range(session_prompt_bytes(s), SESSION_LONG_BYTES, SIZE_MAX);
    session_free(s);
}

static void test_names(void **state)
{
    (void) state;
    need_served();
    struct proto_request r = text_request("x");
    r.model = "target";
    r.fingerprint = "fp";
    session_free(reads(&r));
    r.model = "other";
    refuses(&r, ST_NOTFOUND, "'target' is");
    r.model = "";
    r.fingerprint = "old";
    refuses(&r, ST_PRECONDITION, "'old'");
    r.fingerprint = "fp";
    r.resume = (struct proto_resume){.given = 1, .fingerprint = "old"};
    refuses(&r, ST_PRECONDITION, "'old'");
}

static void test_resume(void **state)
{
    (void) state;
    need_served();
    struct tokens t = {0};
    struct err e;
    assert_int_equal(tokenizer_encode(served->tokenizer, "a\xc3\xa4", 3, 0, &t, &e), 0);
    struct proto_request r = text_request("x");
    r.resume = (struct proto_resume){.given = 1, .tokens = {t.n, t.id}, .fingerprint = "fp"};
    refuses(&r, ST_INPUT, "sampling.seed");
    r.sampling.has_seed = 1;
    struct session *s = reads(&r);
    assert_int_equal(s->engine_request->n_resume, t.n);
    assert_memory_equal(s->engine_request->resume, t.id, t.n * sizeof *t.id);
    session_free(s);
    r.stopping = (struct proto_stopping){.has_max_tokens = 1, .max_tokens = (int32_t) t.n};
    session_free(reads(&r)); /* a whole answer: its end is left to send */
    r.stopping.max_tokens = 1;
    refuses(&r, ST_INPUT, "the answer ends with token 1,");
    r.stopping.has_max_tokens = 0;
    t.id[0] = served->gen.eos[0];
    refuses(&r, ST_INPUT, "ends with token 1,");
    free(t.id);
}

static void test_speculation(void **state)
{
    (void) state;
    need_served();
    struct proto_request r = text_request("x");
    r.speculation = (struct proto_speculation){.mode = PROTO_SPEC_NODES, .nodes = 64, .depth = 63};
    struct session *s = reads(&r);
    assert_true(s->engine_request->spec == ENGINE_SPEC_NODES && s->engine_request->spec_nodes == 64);
    session_free(s);
    r.speculation = (struct proto_speculation){.mode = PROTO_SPEC_OFF, .nodes = 0, .depth = 0};
    s = reads(&r);
    assert_int_equal(s->engine_request->spec, ENGINE_SPEC_OFF);
    session_free(s);
    r.speculation = (struct proto_speculation){.mode = PROTO_SPEC_NODES, .nodes = 65, .depth = 0};
    refuses(&r, ST_INPUT, "nodes");
    r.speculation = (struct proto_speculation){.mode = PROTO_SPEC_AUTO, .nodes = 0, .depth = 64};
    refuses(&r, ST_INPUT, "depth");
    r.speculation = (struct proto_speculation){.mode = 77, .nodes = 0, .depth = 0};
    refuses(&r, ST_INPUT, "mode 77");
}

static void test_synthetic_acceptance(void **state)
{
    static const float rates[] = {0.8f, 0.75f}, others[] = {0.8f, 0.7f};
    (void) state;
    need_served();
    struct proto_request r = text_request("x");
    struct proto_resolved d;
    session_defaults(served, &d);
    assert_int_equal(d.n_synthetic, 0);
    r.speculation.synthetic = rates;
    r.speculation.n_synthetic = 2;
    refuses(&r, ST_PRECONDITION, "not started with --synthetic-acceptance");
    served->info.synthetic = (struct synthetic){2, {0.8f, 0.75f}};
    session_free(reads(&r));
    r.speculation.synthetic = others;
    refuses(&r, ST_PRECONDITION, "other rates of synthetic acceptance than this daemon's (0.8,0.75)");
    r.speculation.n_synthetic = 0; /* it need not ask, it is told */
    struct session *s = reads(&r);
    assert_true(s->resolved.n_synthetic == 2 && s->resolved.synthetic[1] == 0.75f);
    struct engine_event ev = {.kind = ENGINE_END};
    struct proto_end end;
    session_end(s, &ev, PROTO_FINISH_LENGTH, &end);
    assert_int_equal(end.synthetic, 1);
    session_free(s);
    r.resume = (struct proto_resume){.given = 1, .fingerprint = "fp"};
    refuses(&r, ST_PRECONDITION, "none can be continued");
    served->info.synthetic.n = 0;
}

static void test_answers_and_clocks(void **state)
{
    (void) state;
    need_served();
    struct proto_request r = text_request("x y z");
    r.sampling.has_n = 1;
    r.sampling.n = 3;
    r.priority = -4;
    r.thinking.deadline_ms = 1500;
    struct session *s = reads(&r);
    assert_true(s->n == 3 && s->engine_request->n == 3 && s->resolved.n == 3);
    assert_true(s->engine_request->priority == -4 && s->engine_request->client == 1);
    assert_true(s->engine_request->thinking_deadline_ns == UINT64_C(1500000000));
    assert_int_equal(s->engine_request->closed_at, -1);
    session_free(s);
    int32_t given[] = {served->think.open, 6};
    r.resume = (struct proto_resume){
        .given = 1, .tokens = {2, given}, .fingerprint = "", .has_closed = 1, .closed_at = 1, .choice = 2};
    r.sampling.has_seed = 1;
    s = reads(&r);
    assert_true(s->n == 1 && s->first == 2 && s->engine_request->draw.choice == 2);
    assert_int_equal(s->engine_request->closed_at, 1);
    session_free(s);
    r.resume.choice = 3;
    refuses(&r, ST_INPUT, "resume.choice");
    r.resume.choice = 0;
    r.resume.closed_at = 3;
    refuses(&r, ST_INPUT, "closed_at");
    r.resume.closed_at = 0; /* before <think> */
    refuses(&r, ST_INPUT, "resume.closed_at is 0, where no thinking runs");
    r.resume.closed_at = 2; /* it is closed where the stream broke off */
    s = reads(&r);
    assert_int_equal(s->engine_request->closed_at, 2);
    assert_int_equal(s->choice[0].closed_at, 2);
    session_free(s);
    r.resume.closed_at = 0;
    r.sampling.n = 9;
    refuses(&r, ST_INPUT, "sampling.n");
    r.sampling.n = 1;
    r.priority = 101;
    refuses(&r, ST_INPUT, "priority");
    r.priority = 0;
    r.thinking.deadline_ms = -1;
    refuses(&r, ST_INPUT, "deadline_ms");
}

static void test_shape_of_the_draw(void **state)
{
    (void) state;
    need_served();
    struct proto_request r = text_request("x");
    const struct proto_bias bias[] = {{9, 1.5f}, {2, -3}, {5, 0}};
    static const char *const words[] = {"yes", "no"};
    r.sampling.n_bias = 3;
    r.sampling.bias = bias;
    r.sampling.has_frequency = 1;
    r.sampling.frequency = 0.5f;
    r.sampling.has_logprobs = 1;
    r.sampling.logprobs_top = 4;
    r.sampling.has_choices = 1;
    r.sampling.choices = (struct proto_strings){2, words};
    struct session *s = reads(&r);
    const struct draw_params *d = &s->engine_request->draw;
    assert_int_equal(d->n_bias, 3);
    assert_true(d->bias_id[0] == 2 && d->bias_id[1] == 5 && d->bias_id[2] == 9);
    assert_true(d->bias[0] == -3 && d->bias[2] == 1.5f);
    assert_true(d->repetition == 1 && d->presence == 0 && d->frequency == 0.5f);
    assert_true(d->logprobs && d->top_logprobs == 4 && !d->processed && d->constraint);
    assert_true(s->resolved.repetition == 1 && s->resolved.frequency == 0.5f);
    session_free(s);
    r.sampling.choices.n = 0;
    refuses(&r, ST_INPUT, "choice");
    r.sampling.choices.n = 2;
    const int32_t other[] = {served->gen.eos[0] - 1};
    r.sampling.has_seed = 1;
    r.resume = (struct proto_resume){.given = 1, .tokens = {1, other}, .fingerprint = ""};
    refuses(&r, ST_INPUT, "resume.tokens[0] is 895, which the choices do not allow there");
}

/* What the engine says after the token that completes a stop string is neither said nor counted. */
static void test_stop_string_ends_it(void **state)
{
    (void) state;
    need_served();
    static const char *const stop[] = {"b c"};
    struct proto_request r = text_request("x");
    struct text_out out = {0};
    struct tokens t = {0};
    struct err e;
    struct proto_delta delta;
    struct proto_end end;
    r.stopping.stop_string = (struct proto_strings){1, stop};
    struct session *s = reads(&r);
    assert_int_equal(tokenizer_encode(served->tokenizer, "a b c d e", 9, 0, &t, &e), 0);
    struct engine_event ev = {.kind = ENGINE_TOKENS, .n = (int32_t) t.n, .tok = t.id, .closed_at = -1};
    assert_int_equal(session_tokens(s, &ev, &out), 0);
    assert_true(session_stopped(s, 0) && s->drop == 1);
    assert_int_equal(text_out_count(&out), 1);
    session_delta(s, &ev, &out, 0, &delta);
    assert_int_equal(delta.content_bytes, 2);
    assert_memory_equal(delta.content, "a ", 2);
    assert_true(delta.tokens.n < t.n);
    assert_int_equal(session_tokens(s, &ev, &out), 0);
    assert_int_equal(text_out_count(&out), 0);
    struct engine_event last = {.kind = ENGINE_END, .finish = ENGINE_FINISH_CANCELLED, .closed_at = -1};
    last.figures.n_output = (int32_t) t.n;
    session_end(s, &last, PROTO_FINISH_STOP, &end);
    assert_int_equal(end.matched, PROTO_MATCHED_STRING);
    assert_string_equal(end.matched_string, "b c");
    assert_int_equal(end.completion_tokens, delta.tokens.n);
    free(t.id);
    text_out_free(&out);
    session_free(s);
}

static void test_end(void **state)
{
    (void) state;
    need_served();
    struct proto_request r = text_request("x");
    int32_t stop[] = {7};
    r.stopping.stop = (struct proto_ids){1, stop};
    struct session *s = reads(&r);
    struct engine_event ev = {.kind = ENGINE_END, .finish = ENGINE_FINISH_STOP, .matched = 7};
    ev.figures =
        (struct engine_figures){.n_output = 3, .n_thinking = 1, .cut = 1, .queue_ns = 1500000, .drafted = 4};
    ev.figures.drafted_at[0] = 3;
    ev.figures.drafted_at[2] = 1;
    struct proto_end end;
    session_end(s, &ev, PROTO_FINISH_STOP, &end);
    assert_true(end.matched == PROTO_MATCHED_STOP && end.matched_id == 7 && end.thinking_cut &&
                end.seed == s->seed);
    assert_true(end.completion_tokens == 3 && end.reasoning_tokens == 1 && end.queue_ms == 1.5 &&
                end.drafted == 4);
    assert_int_equal(end.drafted_by_depth.n, 3);
    assert_int_equal(end.accepted_by_depth.n, 0);
    ev.matched = served->gen.eos[1];
    session_end(s, &ev, PROTO_FINISH_STOP, &end);
    assert_true(end.matched == PROTO_MATCHED_EOS && end.matched_id == ev.matched);
    session_end(s, &ev, PROTO_FINISH_LENGTH, &end);
    assert_int_equal(end.matched, PROTO_MATCHED_NONE);
    session_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_the_models),
        cmocka_unit_test(test_default_penalty),
        cmocka_unit_test(test_zero_is_not_unset),
        cmocka_unit_test(test_lists_are_sorted_sets),
        cmocka_unit_test(test_chat_thinking),
        cmocka_unit_test(test_chat_thinking_always),
        cmocka_unit_test(test_chat_thinking_never),
        cmocka_unit_test(test_chat_continues),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_prompt_bytes),
        cmocka_unit_test(test_long_choices_are_read_on_a_worker),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_speculation),
        cmocka_unit_test(test_synthetic_acceptance),
        cmocka_unit_test(test_answers_and_clocks),
        cmocka_unit_test(test_shape_of_the_draw),
        cmocka_unit_test(test_stop_string_ends_it),
        cmocka_unit_test(test_end),
    };
    return cmocka_run_group_tests(tests, open_served, close_served);
}
