/* health.h - grpc.health.v1: does a daemon serve? */
#ifndef CLIENT_HEALTH_H
#define CLIENT_HEALTH_H

#include "core/status.h"

/* Asks once, over a connection of its own.  *serving: 1 or 0.  Failures as grpc_open and grpc_unary. */
int health_ask(const char *addr, const char *service, int timeout_ms, int *serving, struct err *e);

/* Asks again and again until it serves or wait_ms have passed; then what the last asking said. */
int health_wait(const char *addr, const char *service, int timeout_ms, int wait_ms, int *serving,
                struct err *e);

#endif
