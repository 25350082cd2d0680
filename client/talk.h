/* talk.h - a conversation: the messages so far, ready to be sent again with the next question. */
#ifndef CLIENT_TALK_H
#define CLIENT_TALK_H

#include <stddef.h>

#include "core/status.h"
#include "outrider/v1/inference.pb-c.h"

/* Zero-initialise. */
struct talk {
    Outrider__V1__Message **message; /* owns; (n), and what they point to */
    size_t n, cap;
};

/* Adds a message; the words are copied.  reasoning may be "".  ST_NOMEM: nothing is added. */
int talk_add(struct talk *t, const char *role, const char *content, const char *reasoning);

/* Forgets all but the first n messages. */
void talk_cut(struct talk *t, size_t n);
void talk_fini(struct talk *t);

#endif
