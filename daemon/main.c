/* main.c - outriderd: configuration, model, engine, loop; torn down in reverse. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "core/log.h"
#include "daemon/config.h"
#include "daemon/engine.h"
#include "daemon/loop.h"
#include "daemon/served.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static struct engine_opts engine_opts(const struct daemon_config *c)
{
    return (struct engine_opts){
        .target = c->target,
        .draft = c->draft,
        .target_quant = c->target_quant,
        .draft_quant = c->draft_quant,
        .kv = c->kv,
        .isa = c->isa,
        .fingerprint_extra = c->thinking_close_text,
        .threads = c->threads ? c->threads : (int32_t) uv_available_parallelism(),
        .kv_bytes = c->kv_bytes,
        .draft_kv_bytes = c->draft_kv_bytes,
        .draft_context = c->draft_context,
        .draft_nodes = c->draft_nodes,
        .draft_depth = c->draft_depth,
        .draft_top = c->draft_top,
        .sessions_max = c->max_sessions,
        .queue_max = c->max_queue,
        .rows_max = c->max_rows,
        .ctx_max = c->ctx,
    };
}

static void tell_ready(int fd)
{
    static const char word[] = "ready\n";
    if (fd < 0)
        return;
    if (write(fd, word, sizeof word - 1) != (ssize_t) sizeof word - 1)
        log_warn("--ready-fd %d: %s", fd, strerror(errno));
    close(fd);
}

static int serve(const struct daemon_config *c, struct served *served, struct loop *l, struct err *e)
{
    struct engine *engine;
    struct engine_opts o = engine_opts(c);
    if (engine_open(&engine, &o, loop_wake, l, e))
        return EXIT_FAILED;
    served_join(served, engine);
    int status = EXIT_FAILED;
    if (loop_listen(l, e) == 0) {
        log_info("serving %s on %s, context %d, fingerprint %s", served->name, served->info.device,
                 served->info.ctx_max, served->info.fingerprint);
        tell_ready(c->ready_fd);
        status = loop_run(l);
    }
    loop_disconnect(l);
    engine_close(engine);
    return status;
}

static int run(const struct daemon_config *c, struct err *e)
{
    struct served *served;
    struct loop *l = malloc(sizeof *l);
    int status = EXIT_FAILED;
    if (!l) {
        err_set(e, ST_NOMEM, "out of memory");
        return EXIT_FAILED;
    }
    if (served_open(&served, c, e) == 0) {
        if (loop_init(l, c, served, e) == 0) {
            status = serve(c, served, l, e);
            loop_fini(l);
        }
        served_close(served);
    }
    free(l);
    return status;
}

int main(int argc, char **argv)
{
    struct daemon_config c;
    struct err e = {0};
    if (daemon_config_parse(&c, argc, argv, &e)) {
        fprintf(stderr, "outriderd: %s\n", e.text);
        return EXIT_USAGE;
    }
    if (c.help)
        daemon_config_help(stdout);
    else if (c.version)
        printf("outriderd " OUTRIDER_VERSION "\n");
    if (c.help || c.version)
        return EXIT_DONE;
    log_set_level(c.log_level);
    signal(SIGPIPE, SIG_IGN);
    int status = run(&c, &e);
    if (e.status)
        log_error("%s", e.text);
    return status;
}
