/* child.c - see child.h. */
#include "client/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ARGS_MAX = 64, POLL_MS = 10 };

/* In the child: never returns. */
static void become(const struct child *c, pid_t parent, const char *program, char *const *argv)
{
    setpgid(0, 0); /* Ctrl-C is for the parent, which then ends the child */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int fd = open(c->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0 || getppid() != parent)
        _exit(127);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    execv(program, argv);
    _exit(127);
}

int child_start(struct child *c, const char *program, const char *const *args, struct err *e)
{
    const char *argv[ARGS_MAX + 4] = {program};
    int n = 1;
    *c = (struct child){0};
    for (; *args && n < ARGS_MAX; args++)
        argv[n++] = *args;
    if (*args)
        return err_set(e, ST_LIMIT, "more than %d arguments for %s", ARGS_MAX, program);
    if (access(program, X_OK))
        return err_set(e, ST_NOTFOUND,
                       "%s cannot be run (%s); build it with `make`, or name it with --daemon PATH", program,
                       strerror(errno));
    strcpy(c->dir, "/tmp/outrider-XXXXXX");
    if (!mkdtemp(c->dir)) {
        c->dir[0] = 0;
        return err_set(e, ST_IO, "cannot make a directory below /tmp: %s", strerror(errno));
    }
    snprintf(c->address, sizeof c->address, "unix:%s/socket", c->dir);
    snprintf(c->log, sizeof c->log, "%s/log", c->dir);
    argv[n++] = "--listen";
    argv[n] = c->address;
    pid_t parent = getpid();
    c->pid = fork();
    if (c->pid == 0)
        become(c, parent, program, (char *const *) (uintptr_t) argv);
    if (c->pid > 0)
        return 0;
    c->pid = 0;
    return err_set(e, ST_IO, "cannot start a process: %s", strerror(errno));
}

int child_runs(struct child *c, int *status)
{
    if (c->pid == 0 || waitpid(c->pid, status, WNOHANG) == 0)
        return c->pid != 0;
    c->pid = 0;
    return 0;
}

int child_stop(struct child *c, int ms, struct err *e)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    int status = 0;
    kill(c->pid, SIGTERM);
    for (int waited = 0; child_runs(c, &status); waited += POLL_MS) {
        if (waited >= ms) {
            kill(c->pid, SIGKILL);
            waitpid(c->pid, &status, 0);
            c->pid = 0;
            return err_set(e, ST_DEADLINE, "it had not ended %d ms after SIGTERM and was killed", ms);
        }
        nanosleep(&pause, NULL);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return err_set(e, ST_IO, WIFEXITED(status) ? "it ended with status %d" : "it was ended by signal %d",
                   WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

void child_fini(struct child *c)
{
    if (c->pid) {
        kill(c->pid, SIGKILL);
        waitpid(c->pid, NULL, 0);
        c->pid = 0;
    }
    if (!c->dir[0])
        return;
    unlink(c->log);
    unlink(c->address + 5); /* without "unix:" */
    rmdir(c->dir);
    c->dir[0] = 0;
}
