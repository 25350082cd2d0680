/* rpc_model.c - GetModel, Tokenize, Detokenize: questions that need no engine.
 *
 * Text is tokenized on a worker: megabytes of it would stop the loop for a second. */
#include <stdlib.h>
#include <string.h>

#include "daemon/rpc_inside.h"

static void arena_for(struct rpc *r, struct arena *a)
{
    arena_init(a, (size_t) r->h->loop->config->max_message_bytes * RPC_ARENA_TIMES + RPC_ARENA_SLACK);
}

static int encode_model(const void *m, struct buf *out)
{
    return proto_model_encode(m, out);
}

void rpc__get_model(struct rpc *r, const uint8_t *p, size_t n)
{
    const struct served *v = r->h->loop->served;
    struct arena a;
    struct err e;
    arena_init(&a, RPC_ARENA_SLACK);
    int st = proto_get_model_decode(p, n, &a, &e);
    arena_fini(&a);
    if (st) {
        rpc__finish(r, status_grpc(st), e.text);
        return;
    }
    struct proto_model m = {
        .name = v->name,
        .fingerprint = v->info.fingerprint,
        .device = v->info.device,
        .version = OUTRIDER_VERSION,
        .draft = v->draft_name,
        .template_name = template_name(v->chat_template),
        .tokenizer_hash = v->tokenizer_hash,
        .context_max = v->info.ctx_max,
        .vocab = v->info.vocab,
        .sessions_max = v->info.sessions_max,
        .queue_max = v->info.queue_max,
    };
    session_defaults(v, &m.defaults);
    rpc__answer(r, encode_model, &m);
}

/* --- tokens --- */

static int encode_tokens(const void *ids, struct buf *out)
{
    return proto_tokens_encode(ids, out);
}

static int tokenize(const struct served *v, const struct proto_tokenize *q, struct arena *a,
                    struct tokens *out, struct err *e)
{
    const struct proto_request *r = &q->request;
    if (r->prompt == PROTO_PROMPT_CHAT)
        return session_render(v, r, q->enable_thinking, q->add_generation_prompt, a, out, e);
    if (r->prompt == PROTO_PROMPT_TEXT)
        return tokenizer_encode(v->tokenizer, r->text, strlen(r->text),
                                q->allow_special ? TOKENIZER_ADDED : 0, out, e);
    return err_set(e, ST_INPUT, "nothing to tokenize; give text or chat");
}

struct work {
    uv_work_t uv;
    struct loop *loop;
    struct rpc *rpc; /* NULL once that is gone */
    struct arena arena;
    struct proto_tokenize request; /* lives in arena */
    struct tokens out;
    struct err err;
    int status;
};

static void on_work(uv_work_t *u)
{
    struct work *w = u->data;
    w->status = tokenize(w->loop->served, &w->request, &w->arena, &w->out, &w->err);
}

static void work_free(struct work *w)
{
    free(w->out.id);
    arena_fini(&w->arena);
    free(w);
}

static void on_worked(uv_work_t *u, int cancelled)
{
    struct work *w = u->data;
    struct rpc *r = w->rpc;
    struct proto_ids ids = {w->out.n, w->out.id};
    w->loop->n_work--;
    if (r) {
        r->call = NULL;
        if (cancelled || w->status)
            rpc__finish(r, status_grpc(cancelled ? ST_CANCELLED : w->status), w->err.text);
        else
            rpc__answer(r, encode_tokens, &ids);
    }
    work_free(w);
}

void rpc__tokenize(struct rpc *r, const uint8_t *p, size_t n)
{
    struct loop *l = r->h->loop;
    struct work *w = l->n_work < LOOP_WORK_MAX ? calloc(1, sizeof *w) : NULL;
    if (!w) {
        rpc__finish(r, GRPC_RESOURCE_EXHAUSTED,
                    "too many texts are being tokenized at once; try again later");
        return;
    }
    arena_for(r, &w->arena);
    int st = proto_tokenize_decode(p, n, &w->arena, &w->request, &w->err);
    if (st) {
        rpc__finish(r, status_grpc(st), w->err.text);
        work_free(w);
        return;
    }
    w->uv.data = w;
    w->loop = l;
    w->rpc = r;
    r->call = w;
    l->n_work++;
    uv_queue_work(&l->uv, &w->uv, on_work, on_worked); /* fails only without a callback */
}

static void leave(struct rpc *r)
{
    struct work *w = r->call;
    w->rpc = NULL;
    uv_cancel((uv_req_t *) &w->uv); /* fails if it runs already: then it finds no call at its end */
}

const struct rpc_kind rpc__tokenizing = {.leave = leave};

/* --- text --- */

static int encode_text(const void *text, struct buf *out)
{
    const struct buf *b = text;
    return proto_text_encode((const char *) buf_front(b), buf_len(b), out);
}

static int detokenize(const struct served *v, const struct proto_detokenize *q, size_t most, struct buf *out,
                      struct err *e)
{
    struct utf8_hold hold = {0};
    for (size_t i = 0; i <= q->ids.n; i++) {
        size_t n = 0;
        int last = i == q->ids.n;
        if (!last && (q->ids.id[i] < 0 || q->ids.id[i] >= v->info.vocab))
            return err_set(e, ST_INPUT, "ids[%zu] is %d; ids of this model are 0..%d", i, q->ids.id[i],
                           v->info.vocab - 1);
        const char *bytes = last ? "" : tokenizer_bytes(v->tokenizer, q->ids.id[i], &n);
        if (!last && q->skip_special && tokenizer_is_special(v->tokenizer, q->ids.id[i]))
            n = 0;
        uint8_t *to = buf_reserve(out, 3 * (n + 3) + 3);
        if (!to)
            return err_set(e, ST_NOMEM, "out of memory");
        out->n += utf8_hold_push(&hold, bytes, n, last, (char *) to);
        if (buf_len(out) > most)
            return err_set(e, ST_LIMIT,
                           "the text has more than %zu bytes (--max-message-bytes); ask in parts", most);
    }
    return 0;
}

void rpc__detokenize(struct rpc *r, const uint8_t *p, size_t n)
{
    struct arena a;
    struct proto_detokenize q;
    struct buf text = {0};
    struct err e;
    arena_for(r, &a);
    int st = proto_detokenize_decode(p, n, &a, &q, &e);
    if (!st)
        st = detokenize(r->h->loop->served, &q, (size_t) r->h->loop->config->max_message_bytes, &text, &e);
    if (st)
        rpc__finish(r, status_grpc(st), e.text);
    else
        rpc__answer(r, encode_text, &text);
    buf_free(&text);
    arena_fini(&a);
}
