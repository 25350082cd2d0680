/* served.h - what this daemon serves: facts read at start and never changed.  Any thread may read.  Process lifetime. */
#ifndef DAEMON_SERVED_H
#define DAEMON_SERVED_H

#include "daemon/config.h"
#include "daemon/engine.h"
#include "draw/draw.h"
#include "model/config.h"
#include "model/template.h"
#include "model/tokenizer.h"
#include "proto/reflect.h"

struct served {
    const struct daemon_config *config; /* borrows */
    struct tokenizer *tokenizer;        /* owns */
    struct proto_files *files;          /* owns; for reflection */
    struct draw_vocab *vocab;           /* owns; for constraints */
    struct gen_config gen;              /* its eos ids ascending */
    int32_t chat_template;              /* enum chat_template */
    struct draw_think think;            /* ids, the server's budget, the closing text (owned) */
    struct engine *engine;              /* borrows; NULL before served_join */
    struct engine_info info;            /* likewise */
    char name[256], draft_name[256];    /* UTF-8; draft_name "": none */
    char tokenizer_hash[17];            /* hexadecimal */
};

/* Reads the text side of c->target: tokenizer, template, generation defaults.  On failure *out is NULL and e says why. */
int served_open(struct served **out, const struct daemon_config *c, struct err *e);
void served_close(struct served *s); /* NULL is fine */

/* The engine is open: its limits count from now on. */
void served_join(struct served *s, struct engine *engine);

#endif
