/* reflect.c - arbitrary bytes as a request of server reflection: refused or answered, and no file twice unless asked for. */
#include <stdlib.h>

#include "proto/reflect.h"

enum { CAP = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static struct proto_files *files;
    static const char *const services[] = {"outrider.v1.Inference"};
    struct err e = {0};
    if (!files && proto_files_open(&files, &e))
        abort();
    struct proto_reflect s = {.files = files, .service = services, .n_services = 1};
    for (int i = 0; i < 2; i++) {
        struct arena a;
        struct buf out = {0};
        arena_init(&a, CAP);
        int st = proto_reflect_answer(&s, p, n, &a, &out, &e);
        if (st ? st != e.status || !e.text[0] : buf_len(&out) == 0)
            abort();
        buf_free(&out);
        arena_fini(&a);
    }
    return 0;
}
