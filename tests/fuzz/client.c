/* client.c - fuzz: what a server sends to the client, from its first byte to its end.  Whatever it is, one answer is read without a
 * fault, and it comes to an end: complete only with a Begin and an End, its text always UTF-8. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/report.h"
#include "client/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 65536 }; /* fits a socket's buffer: the "server" writes it all before anyone reads */

static void check(int ok)
{
    if (!ok)
        abort();
}

static void read_answer(struct grpc *g)
{
    struct err e = {0};
    struct stream a;
    Outrider__V1__ChatRequest r = OUTRIDER__V1__CHAT_REQUEST__INIT;
    const Outrider__V1__Event *ev;
    int st = stream_chat(&a, g, &r, 0, &e);
    while (st == 0 && (st = stream_next(&a, &ev, &e)) == 1) {
        json_t *j = report_event(ev);
        json_decref(j);
        st = 0;
    }
    check(st != 1 && st != ST_AGAIN);
    check(words_check(words_str(&a.answer->content), a.answer->content.n) == a.answer->content.n);
    if (st == 0)
        check(a.begin && a.answer->end);
    else
        check(e.text[0] != 0);
    json_decref(report_answer(&a));
    stream_fini(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int pair[2];
    struct grpc *g;
    if (size > INPUT_MAX || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair))
        return 0;
    ssize_t n = size ? write(pair[1], data, size) : 0;
    check(n == (ssize_t) size);
    shutdown(pair[1], SHUT_WR);
    check(grpc_attach(&g, pair[0], "fuzz", NULL) == 0);
    read_answer(g);
    grpc_close(g);
    close(pair[1]);
    return 0;
}
