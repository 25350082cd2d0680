/* rpc_health.c - grpc.health.v1 (grpc/grpc doc/health-checking.md). */
#include <stdlib.h>
#include <string.h>

#include "daemon/rpc_inside.h"

/* A Watch. */
struct watch {
    int32_t sent;   /* enum proto_health, last sent */
    char service[]; /* its name */
};

static int encode(const void *status, struct buf *out)
{
    return proto_health_encode(*(const int32_t *) status, out);
}

/* 0, and *service in a; otherwise the call has ended. */
static int decode(struct rpc *r, const uint8_t *p, size_t n, struct arena *a, const char **service)
{
    struct err e;
    arena_init(a, RPC_ARENA_SLACK);
    int st = proto_health_decode(p, n, a, service, &e);
    if (st)
        rpc__finish(r, status_grpc(st), e.text);
    return st;
}

static void check(struct rpc *r, const uint8_t *p, size_t n)
{
    struct arena a;
    const char *service;
    if (decode(r, p, n, &a, &service) == 0) {
        int32_t status = health_of(&r->h->loop->health, service);
        if (status == PROTO_HEALTH_SERVICE_UNKNOWN)
            rpc__finish(r, GRPC_NOT_FOUND, "no such service; \"\" and \"outrider.v1.Inference\" are known");
        else
            rpc__answer(r, encode, &status);
    }
    arena_fini(&a);
}

static void tell(struct rpc *r)
{
    struct watch *w = r->call;
    int32_t status = health_of(&r->h->loop->health, w->service);
    if (status == w->sent)
        return;
    w->sent = status;
    rpc__send(r, encode, &status);
}

static void watch(struct rpc *r, const uint8_t *p, size_t n)
{
    struct arena a;
    const char *service;
    if (decode(r, p, n, &a, &service) == 0) {
        size_t bytes = strlen(service) + 1;
        struct watch *w = malloc(sizeof *w + bytes);
        if (!w || reply_start(&r->reply)) {
            free(w);
            rpc__give_up(r);
        } else {
            w->sent = PROTO_HEALTH_UNKNOWN;
            memcpy(w->service, service, bytes);
            r->call = w;
            rpc__is_watch(r);
            tell(r);
        }
    }
    arena_fini(&a);
}

static void leave(struct rpc *r)
{
    free(r->call);
}

static const struct rpc_kind watches = {.leave = leave, .health = tell};

static const struct rpc_method methods[] = {
    {"Check", RPC_ONE, check, NULL, NULL},
    {"Watch", RPC_ONE, watch, NULL, &watches},
};

const struct rpc_service rpc__health_service = {"grpc.health.v1.Health", sizeof methods / sizeof *methods,
                                                methods};
