/* http2.c - arbitrary bytes after the client's preface, into a connection without a socket, over the fake engine.
 *
 * The first byte is the size of the slices the rest arrives in.  What the daemon would write is dropped.  After each input
 * every session must end: the engine has let go of all work and nothing of it is left. */
#include <stdlib.h>
#include <unistd.h>

#include "core/log.h"
#include "daemon/h2.h"
#include "daemon/loop.h"
#include "daemon/session.h"

enum { SPINS_MAX = 20000, SPIN_US = 50 }; /* a session that has not ended after a second is lost */

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static struct daemon_config config;
static struct served *served;
static struct loop loop;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void) argc;
    (void) argv;
    static char name[] = "outriderd", flag[] = "--target", dir[] = "assets/tiny/target";
    char *args[] = {name, flag, dir};
    struct err e;
    struct engine *engine;
    setenv("FAKE_ROUND_US", "1", 1);
    log_set_level(LOG_ERROR);
    if (daemon_config_parse(&config, 3, args, &e) || served_open(&served, &config, &e) ||
        loop_init(&loop, &config, served, &e))
        abort();
    struct engine_opts o = {
        .sessions_max = 4, .queue_max = 8, .ctx_max = 256, .vocab = tokenizer_count(served->tokenizer)};
    if (engine_open(&engine, &o, loop_wake, &loop, &e))
        abort();
    served_join(served, engine);
    return 0;
}

static void tick(struct h2 *h)
{
    struct buf out = {0};
    if (h2_send(h, &out, 1 << 16))
        abort();
    buf_free(&out);
    uv_run(&loop.uv, UV_RUN_NOWAIT);
}

static int all_ended(void)
{
    return loop.table.n_free == loop.table.cap && loop.n_calls == 0 && loop.n_work == 0 &&
           loop.buffered_bytes == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    if (n == 0)
        return 0;
    size_t slice = p[0] ? p[0] : n;
    struct h2 *h = h2_new(&loop, NULL);
    if (!h)
        abort();
    h2_recv(h, preface, sizeof preface - 1);
    for (size_t at = 1; at < n; at += slice) {
        h2_recv(h, p + at, n - at < slice ? n - at : slice);
        tick(h);
    }
    for (int i = 0; i < 8 && !h2_done(h); i++)
        tick(h);
    h2_free(h);
    for (int i = 0; !all_ended(); i++) {
        if (i == SPINS_MAX)
            abort();
        uv_run(&loop.uv, UV_RUN_NOWAIT);
        usleep(SPIN_US);
    }
    return 0;
}
