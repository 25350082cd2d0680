/* main.c - outriderd: configuration, model, engine, loop; torn down in reverse. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "cpu/cpu.h"
#include "daemon/config.h"
#include "daemon/engine.h"
#include "daemon/loop.h"
#include "daemon/memory.h"
#include "daemon/served.h"
#include "daemon/threads.h"
#include "model/model.h"
#include "target/target.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct models {
    struct model *target, *draft; /* own; draft NULL: none */
};

/* The position of word in list, which ends with NULL; the flag's own check has made sure it is there. */
static int32_t index_of(const char *word, const char *const *list)
{
    int32_t i = 0;
    while (list[i] && strcmp(list[i], word) != 0)
        i++;
    return i;
}

/* A GPU keeps FP8, too: there the backend looks at each matrix itself. */
static int32_t target_quant(const char *word, const struct model *m, int32_t cuda)
{
    if (strcmp(word, "auto") != 0)
        return cpu_quant_find(word);
    return cuda ? CPU_QUANT_STORED : cpu_quant_stored(m);
}

/* A draft's rounding cannot reach the text, so memory decides: at most 8 bits a weight. */
static int32_t draft_quant(const char *word, const struct model *m)
{
    if (strcmp(word, "auto") != 0)
        return cpu_quant_find(word);
    return m && m->layer[0].q->type == TENSOR_Q4_0 ? cpu_quant_stored(m) : CPU_QUANT_Q8;
}

static void log_weights(const char *who, const struct model *m, int32_t quant)
{
    char text[200];
    cpu_quant_describe(m, quant, text, sizeof text);
    log_info("%s's matrices in memory: %s", who, text);
}

static void log_threads(const struct threads *t, const struct cpu_room *r)
{
    char quota[40] = "";
    if (r->quota < r->processors)
        snprintf(quota, sizeof quota, ", of which time for %d", r->quota);
    log_info("%d threads on %d cores (%d processors%s), %d of them the draft's where it computes beside the "
             "target",
             t->all, r->cores, r->processors, quota, t->side);
}

/* By experience, a draw of random weights would be taken for a token that the part left out had hidden. */
static int32_t draft_head(const struct daemon_config *c)
{
    return c->synthetic.n && c->draft_head < 0 ? 0 : c->draft_head;
}

/* left: bytes of memory beside the weights.  Pages are mapped, not touched: a limit costs nothing until texts reach it. */
static struct engine_opts engine_opts(const struct daemon_config *c, const struct models *m,
                                      const struct memory_want *w, int64_t left, const struct served *s,
                                      const struct threads *t, int32_t cuda)
{
    static const char *const isas[] = {"auto", "twin", "avx2", "avxvnni", "avx512", "vnni", NULL};
    static const char *const kvs[] = {"bf16", "f32", NULL};
    return (struct engine_opts){
        .target = m->target,
        .draft = m->draft,
        .vocab = tokenizer_count(s->tokenizer),
        .closing_text = c->thinking_close_text,
        .cuda = cuda,
        .target_quant = w->target_quant,
        .draft_quant = w->draft_quant,
        .threads = t->all,
        .side_threads = t->side,
        .pin = t->pin,
        .isa = index_of(c->isa, isas),
        .pack_cache = c->pack_cache,
        .kv_type = index_of(c->kv, kvs),
        .kv_bytes = c->kv_bytes || cuda ? c->kv_bytes : left / 2,
        .draft_kv_bytes = c->draft_kv_bytes ? c->draft_kv_bytes : left / 8,
        .draft_context = c->draft_context,
        .draft_nodes = c->speculation == DAEMON_AUTO  ? c->draft_nodes
                       : c->speculation == DAEMON_OFF ? 1
                                                      : c->speculation,
        .cost_model = c->speculation == DAEMON_AUTO,
        .draft_depth = c->draft_depth,
        .draft_top = c->draft_top,
        .draft_head = draft_head(c),
        .sessions_max = c->max_sessions,
        .queue_max = c->max_queue,
        .rows_max = c->max_rows,
        .ctx_max = c->ctx,
        .synthetic = c->synthetic,
        .lookup = strcmp(c->lookup, "on") == 0,
        .prefix_cache = strcmp(c->prefix_cache, "on") == 0,
    };
}

/* Draft and target must speak of the same ids. */
static int models_open(struct models *m, const struct daemon_config *c, const struct served *s, struct err *e)
{
    struct tokenizer *other = NULL;
    struct err why;
    *m = (struct models){0};
    int st = model_open(&m->target, c->target, e);
    if (st || !c->draft)
        return st;
    st = model_open(&m->draft, c->draft, e);
    if (!st)
        st = tokenizer_open(&other, c->draft, e);
    if (!st && tokenizer_compare(s->tokenizer, other, &why))
        st = err_set(e, ST_PRECONDITION,
                     "the draft %s cannot guess for the target: a draft must share its tokenizer, and %s",
                     c->draft, why.text);
    tokenizer_close(other);
    return st;
}

static void models_close(struct models *m)
{
    model_close(m->draft);
    model_close(m->target);
}

/* A file or a client's socket that took the number of a closed stderr would be sent the log. */
static void hold_stdio(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            return;
}

static void tell_ready(int fd)
{
    static const char word[] = "ready\n";
    if (fd < 0)
        return;
    if (write(fd, word, sizeof word - 1) != (ssize_t) sizeof word - 1)
        log_warn("--ready-fd %d: %s", fd, strerror(errno));
    close(fd);
    hold_stdio();
}

static void warn_of_synthetic(const struct synthetic *s)
{
    char rates[SYNTHETIC_TEXT];
    synthetic_say(s, rates, sizeof rates);
    if (s->n)
        log_warn("synthetic acceptance %s: guesses are kept by a coin, and answers are not the target's; for "
                 "timing alone",
                 rates);
}

/* 0, with *status to exit with, or a negative status and e, as the two below. */
static int serve_with(const struct daemon_config *c, struct served *served, const struct models *m,
                      struct loop *l, int *status, struct err *e)
{
    struct engine *engine;
    struct cpu_room room;
    struct threads t;
    int64_t left;
    int32_t cuda;
    int st = target_device_find(c->device, &cuda, e);
    if (st)
        return st;
    log_info("the target runs on %s: %s", cuda ? "a GPU" : "the CPU", e->text);
    const struct memory_want w = {cuda ? NULL : m->target, m->draft,
                                  target_quant(c->target_quant, m->target, cuda),
                                  draft_quant(c->draft_quant, m->draft)};
    cpu_room(&room);
    st = threads_plan(&t, c, &room, e);
    if (!st)
        st = loop_probe(l, e);
    if (!st)
        st = memory_left(&w, memory_machine(), &left, e);
    if (st)
        return st;
    struct engine_opts o = engine_opts(c, m, &w, left, served, &t, cuda);
    warn_of_synthetic(&c->synthetic);
    log_threads(&t, &room);
    if (!cuda)
        log_weights("target", m->target, o.target_quant);
    if (m->draft)
        log_weights("draft", m->draft, o.draft_quant);
    st = engine_open(&engine, &o, loop_wake, l, e);
    if (st)
        return st;
    served_join(served, engine);
    st = loop_listen(l, e);
    if (!st) {
        log_info("serving %s on %s, context %d, fingerprint %s", served->name, served->info.device,
                 served->info.ctx_max, served->info.fingerprint);
        tell_ready(c->ready_fd);
        *status = loop_run(l);
    }
    loop_disconnect(l);
    engine_close(engine);
    return st;
}

static int serve(const struct daemon_config *c, struct served *served, int *status, struct err *e)
{
    struct models m = {0};
    struct loop *l = malloc(sizeof *l);
    int st = l ? models_open(&m, c, served, e) : err_set(e, ST_NOMEM, "out of memory");
    if (!st && (st = loop_init(l, c, served, e)) == 0) {
        st = serve_with(c, served, &m, l, status, e);
        loop_fini(l);
    }
    models_close(&m);
    free(l);
    return st;
}

static int run(const struct daemon_config *c, int *status, struct err *e)
{
    struct served *served;
    int st = served_open(&served, c, e);
    if (!st)
        st = serve(c, served, status, e);
    served_close(served);
    return st;
}

int main(int argc, char **argv)
{
    struct daemon_config c;
    struct err e = {0};
    hold_stdio();
    int st = daemon_config_parse(&c, argc, argv, &e);
    if (!st && c.ready_fd >= 0 && fcntl(c.ready_fd, F_GETFD) < 0)
        st = err_set(&e, ST_INPUT, "--ready-fd %d is not open; give a descriptor that outriderd inherits",
                     c.ready_fd);
    if (st) {
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
    int status = EXIT_FAILED;
    if (run(&c, &status, &e))
        log_error("%s", e.text);
    return status;
}
