/* reflect.h - what server reflection knows: the served .proto files, embedded at build, and where their symbols are.
 *
 * grpc.reflection.v1 and v1alpha are the same bytes under two names (grpc/grpc doc/server-reflection.md). */
#ifndef PROTO_REFLECT_H
#define PROTO_REFLECT_H

#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/buf.h"
#include "core/status.h"

struct proto_files; /* immutable: any thread may read it */

enum { PROTO_FILES_MAX = 64 }; /* a bit each in proto_reflect.sent */

int proto_files_open(struct proto_files **out, struct err *e);
void proto_files_close(struct proto_files *f); /* NULL is fine */

/* One reflection stream. */
struct proto_reflect {
    const struct proto_files *files; /* borrows */
    const char *const *service;      /* (n_services) what is served; borrows */
    size_t n_services;
    uint64_t sent; /* files the client has: they are not sent again */
};

/* A ServerReflectionRequest in, its ServerReflectionResponse appended to out; what is not found is said in the response.  0; ST_WIRE,
 * ST_INPUT, ST_LIMIT: no such request; ST_NOMEM. */
int proto_reflect_answer(struct proto_reflect *s, const void *p, size_t n, struct arena *a, struct buf *out,
                         struct err *e);

#endif
