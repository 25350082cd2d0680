/* interrupt.h - Ctrl-C as a file descriptor.
 *
 * A handler and a pipe, not signalfd: libraries keep threads of their own, which would take a blocked signal's default. */
#ifndef CLIENT_INTERRUPT_H
#define CLIENT_INTERRUPT_H

/* From here on SIGINT makes the returned fd readable instead of ending the process.  -1: no descriptor to be had, SIGINT stays
 * as it was.  One at a time in a process: a signal handler has no argument. */
int interrupt_open(void);

/* Forgets what came so far.  1: something had. */
int interrupt_take(int fd);

/* SIGINT as it was before. */
void interrupt_close(int fd);

#endif
