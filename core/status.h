/* status.h - one list of failures for the whole house.
 *
 * 0 is success.  Codes above ST_FATAL spoil one request, one file or one connection.  ST_FATAL and below
 * spoil the engine: the only call still legal on the object is its close().  The last column is the gRPC
 * status a client sees (grpc/grpc doc/statuscodes.md). */
#ifndef CORE_STATUS_H
#define CORE_STATUS_H

#include <stddef.h>

#define STATUS_LIST(X)                                                                                       \
    X(ST_OK, 0, "ok", 0)                                                                                     \
    X(ST_AGAIN, -1, "not now; nothing was changed", 14)                                                      \
    X(ST_CANCELLED, -2, "cancelled by the client", 1)                                                        \
    X(ST_INPUT, -3, "invalid argument", 3)                                                                   \
    X(ST_LIMIT, -4, "over a configured limit", 8)                                                            \
    X(ST_IO, -5, "read or write failed", 14)                                                                 \
    X(ST_FORMAT, -6, "malformed file", 9)                                                                    \
    X(ST_UNSUPPORTED, -7, "not supported", 12)                                                               \
    X(ST_NOTFOUND, -8, "not found", 5)                                                                       \
    X(ST_DEADLINE, -9, "deadline exceeded", 4)                                                               \
    X(ST_PRECONDITION, -10, "failed precondition", 9)                                                        \
    X(ST_UNAVAILABLE, -11, "unavailable", 14)                                                                \
    X(ST_NONFINITE, -12, "the target produced non-finite logits", 13)                                        \
    X(ST_WIRE, -13, "malformed message", 13)                                                                 \
    X(ST_FATAL, -100, "the engine cannot continue", 14)                                                      \
    X(ST_NOMEM, -101, "out of memory", 14)                                                                   \
    X(ST_DEVICE, -102, "device error; its context is lost", 14)

enum status {
#define X(name, value, text, grpc) name = value,
    STATUS_LIST(X)
#undef X
};

/* One human sentence beside a status; cold paths only.  Says what was wrong, what was expected, what to do. */
struct err {
    int status;
    char text[496];
};

const char *status_name(int st); /* "ST_INPUT"; "ST_?" for an unknown code.  Static storage. */
const char *status_text(int st);
int status_grpc(int st); /* gRPC status code, 0..16 */

static inline int status_is_fatal(int st)
{
    return st <= ST_FATAL;
}

/* Fills *e (which may be NULL) and returns st, so that `return err_set(e, ST_INPUT, ...)` reads well. */
__attribute__((format(printf, 3, 4))) int err_set(struct err *e, int st, const char *fmt, ...);

#endif
