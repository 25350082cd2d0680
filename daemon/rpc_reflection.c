/* rpc_reflection.c - grpc.reflection.v1 and v1alpha: one handler under two names, for their messages are the same bytes. */
#include <stdlib.h>

#include "daemon/rpc_inside.h"
#include "proto/reflect.h"

enum { SERVICES_MAX = 16 };

struct lookup {
    struct proto_reflect reflect;
    const char *service[SERVICES_MAX];
};

static int open_lookup(struct rpc *r)
{
    struct lookup *o = calloc(1, sizeof *o);
    if (!o || reply_start(&r->reply)) {
        free(o);
        return ST_NOMEM;
    }
    o->reflect.files = r->h->loop->served->files;
    o->reflect.service = o->service;
    while (rpc_services[o->reflect.n_services] && o->reflect.n_services < SERVICES_MAX) {
        o->service[o->reflect.n_services] = rpc_services[o->reflect.n_services]->name;
        o->reflect.n_services++;
    }
    r->call = o;
    rpc__is_watch(r);
    return 0;
}

static int encode(const void *answer, struct buf *out)
{
    const struct buf *b = answer;
    return buf_append(out, buf_front(b), buf_len(b));
}

static void message(struct rpc *r, const uint8_t *p, size_t n)
{
    struct arena a;
    struct buf answer = {0};
    struct err e;
    if (!r->call && open_lookup(r)) {
        rpc__give_up(r);
        return;
    }
    struct lookup *o = r->call;
    arena_init(&a, RPC_ARENA_SLACK);
    int st = proto_reflect_answer(&o->reflect, p, n, &a, &answer, &e);
    if (st)
        rpc__finish(r, status_grpc(st), e.text);
    else
        rpc__send(r, encode, &answer);
    buf_free(&answer);
    arena_fini(&a);
}

static void half_closed(struct rpc *r)
{
    if (!r->reply.started && reply_start(&r->reply))
        rpc__give_up(r);
    else
        rpc__finish(r, GRPC_OK, "");
}

static void leave(struct rpc *r)
{
    free(r->call);
}

static const struct rpc_kind lookups = {.leave = leave};

static const struct rpc_method methods[] = {
    {"ServerReflectionInfo", RPC_MANY, message, half_closed, &lookups},
};

const struct rpc_service rpc__reflection_service = {"grpc.reflection.v1.ServerReflection", 1, methods};
const struct rpc_service rpc__reflection_alpha_service = {"grpc.reflection.v1alpha.ServerReflection", 1,
                                                          methods};
