/* health.h - what grpc.health.v1 answers (grpc/grpc doc/health-checking.md).
 *
 * One state for the whole daemon, known under "" and "outrider.v1.Inference".  Watch streams are told of a change by
 * rpc.c. */
#ifndef DAEMON_HEALTH_H
#define DAEMON_HEALTH_H

#include "proto/codec.h"

struct health {
    int32_t serving; /* 1: SERVING, 0: NOT_SERVING */
};

/* enum proto_health; PROTO_HEALTH_SERVICE_UNKNOWN for a name that is not served. */
int health_of(const struct health *h, const char *service);

#endif
