/* interrupt.h - Ctrl-C as a file descriptor.
 *
 * A handler and a pipe, not signalfd: libraries keep threads of their own, which would take a blocked signal's default. */
#ifndef CLIENT_INTERRUPT_H
#define CLIENT_INTERRUPT_H

/* From here on SIGINT makes the returned fd readable instead of ending the process.  -1: no descriptor to be had, SIGINT stays
 * as it was.  One at a time in a process: a signal handler has no argument. */
int interrupt_open(void);

/* SIGINT as it was before.  1: one had come. */
int interrupt_close(int fd);

#endif
