/* status.c - names and sentences of the one status list. */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    int value;
    int grpc;
    const char *name;
    const char *text;
} list[] = {
#define X(name, value, text, grpc) {value, grpc, #name, text},
    STATUS_LIST(X)
#undef X
};

static int find(int st)
{
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].value == st)
            return (int) i;
    return -1;
}

const char *status_name(int st)
{
    int i = find(st);
    return i < 0 ? "ST_?" : list[i].name;
}

const char *status_text(int st)
{
    int i = find(st);
    return i < 0 ? "unknown status" : list[i].text;
}

int status_grpc(int st)
{
    int i = find(st);
    return i < 0 ? 2 : list[i].grpc;
}

int err_set(struct err *e, int st, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        e->status = st;
        vsnprintf(e->text, sizeof e->text, fmt, ap);
        va_end(ap);
    }
    return st;
}
