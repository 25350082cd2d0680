/* health.c - see health.h. */
#include "daemon/health.h"

#include <string.h>

int health_of(const struct health *h, const char *service)
{
    if (*service && strcmp(service, "outrider.v1.Inference") != 0)
        return PROTO_HEALTH_SERVICE_UNKNOWN;
    return h->serving ? PROTO_HEALTH_SERVING : PROTO_HEALTH_NOT_SERVING;
}
