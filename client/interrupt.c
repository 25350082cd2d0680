/* interrupt.c - see interrupt.h. */
#include "client/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

static volatile sig_atomic_t wake_fd = -1; /* for the handler, which can be told nothing else */
static struct sigaction before;

static void on_sigint(int sig)
{
    (void) sig;
    int saved = errno;
    uint64_t one = 1;
    ssize_t n = write(wake_fd, &one, sizeof one);
    (void) n; /* an eventfd takes 2^64 - 2 of them */
    errno = saved;
}

int interrupt_open(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -1;
    wake_fd = fd;
    struct sigaction sa = {.sa_handler = on_sigint};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, &before);
    return fd;
}

int interrupt_take(int fd)
{
    uint64_t count = 0;
    return fd >= 0 && read(fd, &count, sizeof count) > 0;
}

void interrupt_close(int fd)
{
    if (fd < 0)
        return;
    sigaction(SIGINT, &before, NULL);
    close(fd);
    wake_fd = -1;
}
