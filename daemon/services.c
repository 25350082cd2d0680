/* services.c - all that the daemon serves.  The test build brings a table of its own in its place. */
#include "daemon/rpc_inside.h"

const struct rpc_service *const rpc_services[] = {
    &rpc__inference_service,
    &rpc__health_service,
    &rpc__reflection_service,
    &rpc__reflection_alpha_service,
    NULL,
};
