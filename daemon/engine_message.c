/* engine_message.c - the memory of messages between loop and engine: both sides, and the fake engine, free them here. */
#include "daemon/engine.h"

#include <stdlib.h>

struct engine_request *engine_request_new(void)
{
    struct engine_request *r = calloc(1, sizeof *r);
    if (r)
        r->draw.think.open = r->draw.think.close = r->draw.think.tool = -1;
    return r;
}

void engine_request_free(struct engine_request *r)
{
    if (!r)
        return;
    free(r->prompt);
    free(r->resume);
    free((void *) r->draw.eos);
    free((void *) r->draw.stop);
    free((void *) r->draw.banned);
    free((void *) r->draw.allowed);
    free((void *) r->draw.think.closer);
    free(r);
}

void engine_event_free(struct engine_event *e)
{
    if (!e)
        return;
    free(e->tok);
    free(e->phase);
    free(e->hash);
    free(e);
}
