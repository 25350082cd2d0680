/* codec.c - requests from bytes, answers to bytes: against what protobuf-c packs and unpacks, and against bytes by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpc/health/v1/health.pb-c.h"
#include "outrider/v1/inference.pb-c.h"
#include "proto/codec.h"

struct packed {
    uint8_t *p; /* owns */
    size_t n;
};

/* protobuf-c's structs are not const; packing only reads. */
static char *str(const char *s)
{
    return (char *) s;
}

static struct packed pack(const void *m)
{
    struct packed k = {malloc(protobuf_c_message_get_packed_size(m) + 1), 0};
    k.n = protobuf_c_message_pack(m, k.p);
    return k;
}

static struct arena arena_of(size_t cap)
{
    struct arena a;
    arena_init(&a, cap);
    return a;
}

static void test_chat_round_trip(void **state)
{
    (void) state;
    Outrider__V1__ToolCall call = OUTRIDER__V1__TOOL_CALL__INIT;
    call.id = str("c1");
    call.name = str("add");
    call.arguments_json = str("{\"a\":1}");
    Outrider__V1__ToolCall *calls[] = {&call};
    Outrider__V1__Message m1 = OUTRIDER__V1__MESSAGE__INIT, m2 = OUTRIDER__V1__MESSAGE__INIT;
    m1.role = str("user");
    m1.content = str("Räksmörgås");
    m2.role = str("assistant");
    m2.reasoning_content = str("hm");
    m2.n_tool_calls = 1;
    m2.tool_calls = calls;
    Outrider__V1__Message *messages[] = {&m1, &m2};
    char *tools[] = {str("{\"type\":\"function\"}")};
    Outrider__V1__ChatRequest r = OUTRIDER__V1__CHAT_REQUEST__INIT;
    r.n_messages = 2;
    r.messages = messages;
    r.n_tools_json = 1;
    r.tools_json = tools;
    r.continue_final_message = 1;
    r.request_id = str("me");
    struct packed k = pack(&r);
    struct arena a = arena_of(0);
    struct proto_request q;
    struct err e;
    assert_int_equal(proto_chat_decode(k.p, k.n, &a, &q, &e), 0);
    assert_int_equal(q.prompt, PROTO_PROMPT_CHAT);
    assert_int_equal(q.n_messages, 2);
    assert_string_equal(q.message[0].content, "Räksmörgås");
    assert_string_equal(q.message[0].reasoning, "");
    assert_string_equal(q.message[1].reasoning, "hm");
    assert_int_equal(q.message[1].n_calls, 1);
    assert_string_equal(q.message[1].call[0].name, "add");
    assert_string_equal(q.message[1].call[0].arguments, "{\"a\":1}");
    assert_string_equal(q.tool[0], tools[0]);
    assert_true(q.continue_final && !q.resume.given);
    assert_string_equal(q.request_id, "me");
    assert_string_equal(q.model, "");
    assert_string_equal(q.resume.fingerprint, "");
    arena_fini(&a);
    free(k.p);
}

static void test_generate_presence(void **state)
{
    (void) state;
    int32_t ids[] = {5, -1, 1 << 30}, given[] = {7};
    Outrider__V1__TokenIds tokens = OUTRIDER__V1__TOKEN_IDS__INIT;
    tokens.n_ids = 3;
    tokens.ids = ids;
    Outrider__V1__Sampling s = OUTRIDER__V1__SAMPLING__INIT;
    s.temperature__case = OUTRIDER__V1__SAMPLING__TEMPERATURE__TEMPERATURE;
    s.seed__case = OUTRIDER__V1__SAMPLING__SEED__SEED;
    s.seed = UINT64_MAX;
    Outrider__V1__Resume resume = OUTRIDER__V1__RESUME__INIT;
    resume.n_tokens = 1;
    resume.tokens = given;
    resume.fingerprint = str("f");
    Outrider__V1__GenerateRequest r = OUTRIDER__V1__GENERATE_REQUEST__INIT;
    r.prompt_case = OUTRIDER__V1__GENERATE_REQUEST__PROMPT_TOKENS;
    r.tokens = &tokens;
    r.sampling = &s;
    r.resume = &resume;
    struct packed k = pack(&r);
    struct arena a = arena_of(0);
    struct proto_request q;
    struct err e;
    assert_int_equal(proto_generate_decode(k.p, k.n, &a, &q, &e), 0);
    assert_int_equal(q.prompt, PROTO_PROMPT_TOKENS);
    assert_int_equal(q.tokens.n, 3);
    assert_memory_equal(q.tokens.id, ids, sizeof ids);
    assert_true(q.sampling.has_temperature && q.sampling.has_seed);
    assert_true(q.sampling.temperature == 0 && q.sampling.seed == UINT64_MAX);
    assert_true(!q.sampling.has_top_k && !q.sampling.has_top_p && !q.sampling.has_min_p &&
                !q.sampling.has_min_tokens);
    assert_true(!q.stopping.has_max_tokens && !q.thinking.has_budget && !q.thinking.has_enabled);
    assert_true(q.resume.given && q.resume.tokens.n == 1 && q.resume.tokens.id[0] == 7);
    assert_string_equal(q.resume.fingerprint, "f");
    assert_int_equal(proto_generate_decode("", 0, &a, &q, &e), 0);
    assert_int_equal(q.prompt, PROTO_PROMPT_NONE);
    arena_fini(&a);
    free(k.p);
}

struct bad {
    const char *bytes;
    size_t n;
    int status;
    const char *says;
};

static void test_bad_bytes(void **state)
{
    (void) state;
    static const struct bad list[] = {
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11, ST_WIRE, "malformed"},
        {"\x0a\x05"
         "abc",
         5, ST_WIRE, "malformed"}, /* a length past the end */
        {"\x0a", 1, ST_WIRE, "malformed"},
        {"\x02\x00", 2, ST_WIRE, "malformed"},         /* field number 0 */
        {"\x0b\x0c", 2, ST_WIRE, "malformed"},         /* a group */
        {"\x08\x01", 2, ST_WIRE, "malformed"},         /* text as a number */
        {"\x1a\x02\x08\x01", 4, ST_WIRE, "malformed"}, /* sampling.temperature as a number */
        {"\x0a\x03"
         "a\0b",
         5, ST_INPUT, "GenerateRequest.text holds a NUL byte at offset 1"},
        {"\x0a\x03"
         "a\xff"
         "b",
         5, ST_INPUT, "GenerateRequest.text is not valid UTF-8 at byte offset 1 (0xff)"},
        {"\x0a\x02"
         "a\xc3",
         4, ST_INPUT, "offset 1"},                             /* cut */
        {"\x0a\x03\xed\xa0\x80", 5, ST_INPUT, "offset 0"},     /* a surrogate */
        {"\x0a\x03\xe0\x80\x80", 5, ST_INPUT, "offset 0"},     /* overlong */
        {"\x0a\x04\xf4\x90\x80\x80", 6, ST_INPUT, "offset 0"}, /* above U+10FFFF */
        {"\x3a\x04\x12\x02"
         "a\x80",
         6, ST_INPUT, "Resume.fingerprint"}, /* within a message */
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct arena a = arena_of(0);
        struct proto_request q;
        struct err e = {0};
        assert_int_equal(proto_generate_decode(list[i].bytes, list[i].n, &a, &q, &e), list[i].status);
        assert_int_equal(e.status, list[i].status);
        if (!strstr(e.text, list[i].says))
            fail_msg("case %zu says '%s', not '%s'", i, e.text, list[i].says);
        arena_fini(&a);
    }
}

static void test_good_bytes(void **state)
{
    (void) state;
    /* An unknown field of each kind, then text twice: the last one counts. */
    static const char bytes[] = "\xa8\x06\x07"
                                "\xa2\x06\x02\xff\xff"
                                "\xa1\x06"
                                "12345678"
                                "\xa5\x06"
                                "1234"
                                "\x0a\x01"
                                "x"
                                "\x0a\x0b\xf4\x8f\xbf\xbf\xef\xbf\xbf\xc2\x80"
                                "ab";
    struct arena a = arena_of(0);
    struct proto_request q;
    struct err e;
    assert_int_equal(proto_generate_decode(bytes, sizeof bytes - 1, &a, &q, &e), 0);
    assert_string_equal(q.text, "\xf4\x8f\xbf\xbf\xef\xbf\xbf\xc2\x80"
                                "ab");
    arena_fini(&a);
}

static void test_memory_is_bounded(void **state)
{
    (void) state;
    enum { N = 10000 };
    uint8_t *bytes = malloc(2 * N); /* empty messages: two bytes on the wire, dozens in memory */
    for (int i = 0; i < N; i++)
        memcpy(bytes + 2 * i, "\x0a\0", 2);
    struct arena a = arena_of(4 * 2 * N);
    struct proto_request q;
    struct err e;
    assert_int_equal(proto_chat_decode(bytes, 2 * N, &a, &q, &e), ST_LIMIT);
    assert_true(a.used_bytes <= 4 * 2 * N);
    arena_fini(&a);
    a = arena_of(0);
    assert_int_equal(proto_chat_decode(bytes, 2 * N, &a, &q, &e), 0);
    assert_int_equal(q.n_messages, N);
    assert_string_equal(q.message[N - 1].role, "");
    arena_fini(&a);
    free(bytes);
}

static Outrider__V1__Event *encoded(const struct proto_event *ev)
{
    struct buf b = {0};
    assert_int_equal(buf_append(&b, "xx", 2), 0); /* encoding appends */
    assert_int_equal(proto_event_encode(ev, &b), 0);
    assert_memory_equal(b.p, "xx", 2);
    Outrider__V1__Event *m = outrider__v1__event__unpack(NULL, b.n - 2, b.p + 2);
    assert_non_null(m);
    buf_free(&b);
    return m;
}

static void test_begin(void **state)
{
    (void) state;
    int32_t eos[] = {3, 9};
    struct proto_event ev = {.kind = PROTO_EVENT_BEGIN};
    ev.u.begin = (struct proto_begin){.request_id = "r",
                                      .fingerprint = "f",
                                      .seed = UINT64_MAX,
                                      .prompt_tokens = 12,
                                      .cached_tokens = 4,
                                      .resolved = {.temperature = 0.5f,
                                                   .top_k = 20,
                                                   .top_p = 0.9f,
                                                   .min_p = 0.1f,
                                                   .min_tokens = 1,
                                                   .max_tokens = 77,
                                                   .thinking = 1,
                                                   .thinking_budget = -1,
                                                   .eos = {2, eos}}};
    Outrider__V1__Event *m = encoded(&ev);
    assert_int_equal(m->event_case, OUTRIDER__V1__EVENT__EVENT_BEGIN);
    assert_string_equal(m->begin->request_id, "r");
    assert_true(m->begin->seed == UINT64_MAX && m->begin->prompt_tokens == 12 &&
                m->begin->cached_tokens == 4);
    const Outrider__V1__Resolved *r = m->begin->resolved;
    assert_true(r->temperature == 0.5f && r->top_k == 20 && r->top_p == 0.9f && r->min_p == 0.1f);
    assert_true(r->min_tokens == 1 && r->max_tokens == 77 && r->thinking && r->thinking_budget == -1);
    assert_true(r->n_eos_token_ids == 2 && r->eos_token_ids[1] == 9);
    outrider__v1__event__free_unpacked(m, NULL);
}

static void test_delta(void **state)
{
    (void) state;
    int32_t ids[] = {0, 127, 128, 151668, INT32_MAX};
    struct proto_event ev = {.kind = PROTO_EVENT_DELTA};
    ev.u.delta = (struct proto_delta){.choice = 2,
                                      .content = "Räk",
                                      .content_bytes = 4,
                                      .reasoning = "hm",
                                      .reasoning_bytes = 2,
                                      .tokens = {5, ids}};
    Outrider__V1__Event *m = encoded(&ev);
    assert_int_equal(m->event_case, OUTRIDER__V1__EVENT__EVENT_DELTA);
    assert_int_equal(m->delta->choice, 2);
    assert_string_equal(m->delta->content, "Räk");
    assert_string_equal(m->delta->reasoning, "hm");
    assert_int_equal(m->delta->n_token_ids, 5);
    assert_memory_equal(m->delta->token_ids, ids, sizeof ids);
    outrider__v1__event__free_unpacked(m, NULL);
    /* A delta with nothing in it, and text of three lengths around a longer varint. */
    ev.u.delta = (struct proto_delta){0};
    m = encoded(&ev);
    assert_int_equal(m->event_case, OUTRIDER__V1__EVENT__EVENT_DELTA);
    outrider__v1__event__free_unpacked(m, NULL);
    static char text[20000];
    memset(text, 'x', sizeof text);
    for (size_t n = 120; n < sizeof text; n = n < 130 ? n + 1 : n * 5) {
        ev.u.delta = (struct proto_delta){.content = text, .content_bytes = n};
        m = encoded(&ev);
        assert_int_equal(strlen(m->delta->content), n);
        outrider__v1__event__free_unpacked(m, NULL);
    }
}

static void test_delta_logprobs(void **state)
{
    (void) state;
    int32_t ids[] = {4, 5};
    struct proto_logprob l[2] = {{.drawn = 1,
                                  .has_processed = 1,
                                  .logprob = -0.5f,
                                  .processed = -0.25f,
                                  .n_top = 2,
                                  .top = {4, 151668},
                                  .top_logprob = {-0.5f, -3},
                                  .top_processed = {-0.25f, -INFINITY}},
                                 {.drawn = 0}};
    struct proto_event ev = {.kind = PROTO_EVENT_DELTA};
    ev.u.delta = (struct proto_delta){.tokens = {2, ids}, .logprob = l, .has_closed = 1, .closed_at = 0};
    Outrider__V1__Event *m = encoded(&ev);
    assert_int_equal(m->delta->n_logprobs, 2);
    const Outrider__V1__TokenLogprob *one = m->delta->logprobs[0];
    assert_true(one->logprob__case && one->logprob == -0.5f && one->processed__case &&
                one->processed == -0.25f);
    assert_int_equal(one->n_top, 2);
    assert_int_equal(one->top[1]->token, 151668);
    assert_true(one->top[1]->logprob == -3 && one->top[1]->processed == -INFINITY);
    assert_true(!m->delta->logprobs[1]->logprob__case && m->delta->logprobs[1]->n_top == 0);
    assert_true(m->delta->closed_at__case && m->delta->closed_at == 0);
    outrider__v1__event__free_unpacked(m, NULL);
}

static void test_stop_string_end(void **state)
{
    (void) state;
    struct proto_event ev = {.kind = PROTO_EVENT_END};
    ev.u.end = (struct proto_end){.choice = 3,
                                  .finish = PROTO_FINISH_STOP,
                                  .matched = PROTO_MATCHED_STRING,
                                  .matched_string = "\n\n",
                                  .has_closed = 1,
                                  .closed_at = 7};
    Outrider__V1__Event *m = encoded(&ev);
    assert_int_equal(m->end->choice, 3);
    assert_int_equal(m->end->matched_case, OUTRIDER__V1__END__MATCHED_STOP_STRING);
    assert_string_equal(m->end->stop_string, "\n\n");
    assert_true(m->end->closed_at__case && m->end->closed_at == 7);
    outrider__v1__event__free_unpacked(m, NULL);
}

static void test_delta_may_say_nul(void **state)
{
    (void) state;
    struct buf b = {0};
    struct proto_event ev = {.kind = PROTO_EVENT_DELTA};
    ev.u.delta = (struct proto_delta){.content = "a\0b", .content_bytes = 3};
    assert_int_equal(proto_event_encode(&ev, &b), 0);
    assert_int_equal(b.n, 7);
    assert_memory_equal(b.p,
                        "\x12\x05\x12\x03"
                        "a\0b",
                        7);
    buf_free(&b);
}

static void test_end(void **state)
{
    (void) state;
    int32_t drafted[] = {5, 3}, accepted[] = {4};
    struct proto_event ev = {.kind = PROTO_EVENT_END};
    ev.u.end = (struct proto_end){.finish = PROTO_FINISH_STOP,
                                  .matched = PROTO_MATCHED_EOS,
                                  .matched_id = 42,
                                  .thinking_cut = 1,
                                  .prompt_tokens = 1,
                                  .completion_tokens = 2,
                                  .reasoning_tokens = 3,
                                  .cached_tokens = 4,
                                  .queue_ms = 0.5,
                                  .prefill_ms = 1.5,
                                  .decode_ms = 2.5,
                                  .first_token_ms = 3.5,
                                  .passes = 6,
                                  .drafted = 8,
                                  .accepted = 4,
                                  .preemptions = 1,
                                  .synthetic = 1,
                                  .drafted_by_depth = {2, drafted},
                                  .accepted_by_depth = {1, accepted},
                                  .seed = 99};
    Outrider__V1__Event *m = encoded(&ev);
    const Outrider__V1__End *n = m->end;
    assert_int_equal(m->event_case, OUTRIDER__V1__EVENT__EVENT_END);
    assert_int_equal(n->finish, OUTRIDER__V1__END__FINISH__STOP);
    assert_int_equal(n->matched_case, OUTRIDER__V1__END__MATCHED_EOS_TOKEN_ID);
    assert_true(n->eos_token_id == 42 && n->thinking_cut && n->seed == 99);
    assert_true(n->usage->prompt_tokens == 1 && n->usage->completion_tokens == 2 &&
                n->usage->reasoning_tokens == 3 && n->usage->cached_tokens == 4);
    assert_true(n->timings->queue_ms == 0.5 && n->timings->prefill_ms == 1.5 &&
                n->timings->decode_ms == 2.5 && n->timings->first_token_ms == 3.5);
    assert_true(n->speculation->passes == 6 && n->speculation->drafted == 8 &&
                n->speculation->accepted == 4 && n->speculation->preemptions == 1 &&
                n->speculation->synthetic && n->speculation->n_drafted_by_depth == 2 &&
                n->speculation->drafted_by_depth[1] == 3 && n->speculation->accepted_by_depth[0] == 4);
    outrider__v1__event__free_unpacked(m, NULL);
    ev.u.end.matched = PROTO_MATCHED_STOP;
    m = encoded(&ev);
    assert_int_equal(m->end->matched_case, OUTRIDER__V1__END__MATCHED_STOP_TOKEN_ID);
    assert_int_equal(m->end->stop_token_id, 42);
    outrider__v1__event__free_unpacked(m, NULL);
}

static void test_model_and_health(void **state)
{
    (void) state;
    struct buf b = {0};
    struct proto_model f = {.name = "n",
                            .fingerprint = "f",
                            .device = "d",
                            .version = "v",
                            .draft = "",
                            .template_name = "t",
                            .tokenizer_hash = "h",
                            .context_max = 1,
                            .vocab = 2,
                            .sessions_max = 3,
                            .queue_max = 4};
    assert_int_equal(proto_model_encode(&f, &b), 0);
    Outrider__V1__Model *m = outrider__v1__model__unpack(NULL, b.n, b.p);
    assert_non_null(m);
    assert_string_equal(m->template_, "t");
    assert_true(m->context_max == 1 && m->vocab == 2 && m->sessions_max == 3 && m->queue_max == 4);
    outrider__v1__model__free_unpacked(m, NULL);
    b.n = 0;
    assert_int_equal(proto_health_encode(PROTO_HEALTH_NOT_SERVING, &b), 0);
    assert_int_equal(b.n, 2);
    assert_memory_equal(b.p, "\x08\x02", 2);
    buf_free(&b);
    struct arena a = arena_of(0);
    struct err e;
    const char *service;
    assert_int_equal(proto_health_decode("", 0, &a, &service, &e), 0);
    assert_string_equal(service, "");
    assert_int_equal(proto_health_decode("\x0a\x01z", 3, &a, &service, &e), 0);
    assert_string_equal(service, "z");
    assert_int_equal(proto_health_decode("\x0a\x01\0", 3, &a, &service, &e), ST_INPUT);
    assert_int_equal(proto_get_model_decode("", 0, &a, &e), 0);
    assert_int_equal(proto_get_model_decode("\x0a", 1, &a, &e), ST_WIRE);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_round_trip),
        cmocka_unit_test(test_generate_presence),
        cmocka_unit_test(test_bad_bytes),
        cmocka_unit_test(test_good_bytes),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_begin),
        cmocka_unit_test(test_delta),
        cmocka_unit_test(test_delta_logprobs),
        cmocka_unit_test(test_stop_string_end),
        cmocka_unit_test(test_delta_may_say_nul),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_model_and_health),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
