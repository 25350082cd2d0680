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
    for (size_t i = 0; i < r->n_messages; i++) {
        const struct proto_message *m = &r->message[i];
        sum += strlen(m->role) + strlen(m->content) + strlen(m->reasoning) + strlen(m->call_id);
        for (size_t j = 0; j < m->n_calls; j++)
            sum += strlen(m->call[j].id) + strlen(m->call[j].name) + strlen(m->call[j].arguments);
    }
    return sum;
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
    int kind = p[0] % 4;
    int st = kind == 0   ? proto_chat_decode(p + 1, n - 1, &a, &r, &e)
             : kind == 1 ? proto_generate_decode(p + 1, n - 1, &a, &r, &e)
             : kind == 2 ? proto_health_decode(p + 1, n - 1, &a, &service, &e)
                         : proto_get_model_decode(p + 1, n - 1, &a, &e);
    if (st && (st != e.status || !e.text[0]))
        abort(); /* a refusal has its sentence */
    if (a.used_bytes > CAP || (st == 0 && kind < 2 && walk(&r) > 2 * n) || strlen(service) > n)
        abort();
    arena_fini(&a);
    return 0;
}
