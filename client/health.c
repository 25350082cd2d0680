/* health.c - see health.h. */
#include "client/health.h"

#include "client/grpc.h"
#include "grpc/health/v1/health.pb-c.h"

#include <stdint.h>
#include <time.h>

enum { ASK_AGAIN_MS = 50 }; /* short beside a daemon's start, long beside one question */

int health_ask(const char *addr, const char *service, int timeout_ms, int *serving, struct err *e)
{
    *serving = 0;
    struct grpc *g;
    int st = grpc_open(&g, addr, timeout_ms, e);
    if (st)
        return st;
    Grpc__Health__V1__HealthCheckRequest r = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    r.service = (char *) (uintptr_t) service; /* only read */
    ProtobufCMessage *m = NULL;
    st = grpc_unary(g, "/grpc.health.v1.Health/Check", &r.base, timeout_ms,
                    &grpc__health__v1__health_check_response__descriptor, &m, e);
    if (st == 0) {
        *serving = ((const Grpc__Health__V1__HealthCheckResponse *) m)->status ==
                   GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
        protobuf_c_message_free_unpacked(m, NULL);
    }
    grpc_close(g);
    return st;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int health_wait(const char *addr, const char *service, int timeout_ms, int wait_ms, int *serving,
                struct err *e)
{
    const struct timespec pause = {.tv_nsec = ASK_AGAIN_MS * 1000000L};
    int64_t until = now_ms() + wait_ms;
    for (;;) {
        int st = health_ask(addr, service, timeout_ms, serving, e);
        if ((st == 0 && *serving) || st == ST_INPUT || now_ms() >= until)
            return st;
        nanosleep(&pause, NULL);
    }
}
