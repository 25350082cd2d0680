/* codec.c - arbitrary bytes as each kind of request: refused or decoded, within the arena, and every string is whole. */
#include <stdlib.h>
#include <string.h>

#include "proto/codec.h"

enum { CAP = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static size_t walk(const struct proto_request *r)
{
    size_t sum =
        strlen(r->request_id) + strlen(r->model) + strlen(r->fingerprint) + strlen(r->resume.fingerprint);
    if (r->prompt == PROTO_PROMPT_TEXT)
        sum += strlen(r->text);
    for (size_t i = 0; i < r->tokens.n; i++)
        sum += (size_t) (r->tokens.id[i] & 1);
    for (size_t i = 0; i < r->sampling.banned.n; i++)
        sum += (size_t) (r->sampling.banned.id[i] & 1);
    for (size_t i = 0; i < r->n_tools; i++)
        sum += strlen(r->tool[i]);
    for (size_t i = 0; i < r->stopping.stop_string.n; i++)
        sum += strlen(r->stopping.stop_string.s[i]);
    for (size_t i = 0; i < r->sampling.choices.n; i++)
        sum += strlen(r->sampling.choices.s[i]);
    for (size_t i = 0; i < r->sampling.n_bias; i++)
        sum += (size_t) (r->sampling.bias[i].token & 1);
    for (size_t i = 0; i < r->n_messages; i++) {
        const struct proto_message *m = &r->message[i];
        sum += strlen(m->role) + strlen(m->content) + strlen(m->reasoning) + strlen(m->call_id);
        for (size_t j = 0; j < m->n_calls; j++)
            sum += strlen(m->call[j].id) + strlen(m->call[j].name) + strlen(m->call[j].arguments);
    }
    return sum;
}

/* r: nothing, where the message is no request. */
static int decode(int kind, const uint8_t *p, size_t n, struct arena *a, struct proto_request *r,
                  const char **service, struct err *e)
{
    struct proto_tokenize tokenize;
    struct proto_detokenize ids;
    int32_t ms;
    int control, st;
    *r = (struct proto_request){
        .request_id = "", .model = "", .fingerprint = "", .resume = {.fingerprint = ""}};
    switch (kind) {
    case 0:
        return proto_chat_decode(p, n, a, r, e);
    case 1:
        return proto_generate_decode(p, n, a, r, e);
    case 2:
        return proto_health_decode(p, n, a, service, e);
    case 3:
        return proto_get_model_decode(p, n, a, e);
    case 4:
        return proto_control_decode(p, n, a, &control, r, e);
    case 5:
        st = proto_tokenize_decode(p, n, a, &tokenize, e);
        r->n_messages = st ? 0 : tokenize.request.n_messages;
        r->message = st ? NULL : tokenize.request.message;
        return st;
    case 6:
        return proto_detokenize_decode(p, n, a, &ids, e);
    default:
        return proto_watch_stats_decode(p, n, a, &ms, e);
    }
}

/* The first byte chooses what the rest is read as. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct arena a;
    struct proto_request r;
    struct err e = {0};
    const char *service = "";
    if (n == 0)
        return 0;
    arena_init(&a, CAP);
    int st = decode(p[0] % 8, p + 1, n - 1, &a, &r, &service, &e);
    if (st && (st != e.status || !e.text[0]))
        abort(); /* a refusal has its sentence */
    if (a.used_bytes > CAP || (st == 0 && walk(&r) > 2 * n) || strlen(service) > n)
        abort();
    arena_fini(&a);
    return 0;
}
