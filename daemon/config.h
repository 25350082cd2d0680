/* config.h - the daemon's flags as plain values.  Process lifetime; strings borrow from argv. */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/status.h"
#include "core/version.h"
#include "daemon/synthetic.h"

enum { DAEMON_LISTEN_MAX = 16 };
enum { DAEMON_OFF = 0, DAEMON_AUTO = -1 }; /* of speculation */

struct daemon_config {
    /* models */
    const char *target, *draft;             /* directories; draft NULL: none */
    const char *target_quant, *draft_quant; /* "auto", "f32", "bf16", "f16", "q8", "q4" */
    const char *chat_template;              /* NULL: what the target's directory brings */
    const char *pack_cache;                 /* NULL: none */
    const char *model_name;                 /* NULL: the target directory's base name */
    /* engine */
    const char *device;       /* "auto", "cpu", "cuda:N" */
    const char *isa, *kv;     /* "auto", "twin", "avx2", "avxvnni", "avx512", "vnni"; "bf16", "f32" */
    const char *prefix_cache; /* "on", "off" */
    const char *lookup;       /* "on", "off" */
    const char *pin;          /* "auto", "off" */
    int32_t threads;          /* 0: one a core this process may run on */
    int32_t target_threads;   /* 0: those the draft leaves */
    int32_t draft_threads;    /* -1: a share; 0: none of its own */
    int64_t kv_bytes, draft_kv_bytes;
    int32_t speculation;        /* DAEMON_AUTO, DAEMON_OFF, or nodes of a tree */
    struct synthetic synthetic; /* rates by which guesses are kept, for timing alone; n 0: none */
    int32_t draft_context, draft_nodes, draft_depth, draft_top, draft_head;
    int32_t max_sessions, max_queue, max_rows;
    int32_t ctx;             /* 0: the model's own */
    int32_t thinking_budget; /* -1: no limit */
    const char *thinking_close_text;
    /* wire */
    const char *listen[DAEMON_LISTEN_MAX];
    int32_t n_listen;
    int32_t max_connections, max_streams; /* max_streams: a connection */
    int64_t max_message_bytes, max_header_bytes, max_unsent_bytes;
    int64_t drain_timeout_ms, stall_timeout_ms, request_timeout_ms;
    int64_t keepalive_ms, keepalive_timeout_ms; /* keepalive_ms 0: no pings */
    int32_t log_level, ready_fd;                /* ready_fd -1: none */
    int32_t help, version;
};

/* Fills c with defaults, then with argv[1..].  ST_INPUT: a flag that is unknown, lacks its value or is out of range;
 * e names it, what was expected and what was found.  With --help or --version nothing else is asked for. */
int daemon_config_parse(struct daemon_config *c, int argc, char **argv, struct err *e);

/* The text of --help: every flag, its default and its limits. */
void daemon_config_help(FILE *to);

#endif
