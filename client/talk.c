/* talk.c - see talk.h. */
#include "client/talk.h"

#include <stdlib.h>
#include <string.h>

static void message_free(Outrider__V1__Message *m)
{
    if (!m)
        return;
    free(m->role);
    free(m->content);
    free(m->reasoning_content);
    free(m);
}

static Outrider__V1__Message *message_new(const char *role, const char *content, const char *reasoning)
{
    Outrider__V1__Message *m = malloc(sizeof *m);
    if (!m)
        return NULL;
    outrider__v1__message__init(m);
    m->role = strdup(role);
    m->content = strdup(content);
    m->reasoning_content = strdup(reasoning);
    if (m->role && m->content && m->reasoning_content)
        return m;
    message_free(m);
    return NULL;
}

int talk_add(struct talk *t, const char *role, const char *content, const char *reasoning)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 16;
        Outrider__V1__Message **p = realloc(t->message, cap * sizeof(*p));
        if (!p)
            return ST_NOMEM;
        t->message = p;
        t->cap = cap;
    }
    Outrider__V1__Message *m = message_new(role, content, reasoning);
    if (!m)
        return ST_NOMEM;
    t->message[t->n++] = m;
    return 0;
}

void talk_cut(struct talk *t, size_t n)
{
    while (t->n > n)
        message_free(t->message[--t->n]);
}

void talk_fini(struct talk *t)
{
    talk_cut(t, 0);
    free(t->message);
    *t = (struct talk){0};
}
