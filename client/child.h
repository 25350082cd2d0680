/* child.h - an outriderd of one's own: started in a temporary directory, listening on a Unix socket there, its log kept. */
#ifndef CLIENT_CHILD_H
#define CLIENT_CHILD_H

#include <sys/types.h>

#include "core/status.h"

struct child {
    pid_t pid;        /* 0: none */
    char dir[64];     /* owns: removed by child_fini; "" none */
    char address[96]; /* unix:DIR/socket */
    char log[96];     /* DIR/log: its standard error and output */
};

/* Runs `program argv...` with `--listen ADDRESS` added; args ends with NULL and does not hold the program's name.  The child dies
 * with its parent.  ST_IO; ST_NOTFOUND: there is no such program. */
int child_start(struct child *c, const char *program, const char *const *args, struct err *e);

/* 1: it runs; 0: it has ended, *status as waitpid gives it. */
int child_runs(struct child *c, int *status);

/* SIGTERM; waits at most ms for it to end with status 0.  ST_DEADLINE: it was killed; ST_IO: it ended otherwise. */
int child_stop(struct child *c, int ms, struct err *e);

/* Kills it if it still runs, removes the directory.  A zeroed child is fine. */
void child_fini(struct child *c);

#endif
