/* dial.c - address parsing and connect(2) with a deadline.
 *
 * A name may stand for several addresses: they are tried in the resolver's order, the last failure is the one told. */
#include "client/dial.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HOST_BYTES = 256 }; /* a DNS name has at most 253 characters */

static int bad_address(const char *addr, struct err *e)
{
    return err_set(e, ST_INPUT,
                   "'%s' is no server address; give HOST:PORT, [IPV6]:PORT (1 to 65535) or unix:PATH", addr);
}

static int nobody(const char *addr, int error, struct err *e)
{
    if (error == ECONNREFUSED || error == ENOENT)
        return err_set(e, ST_UNAVAILABLE,
                       "no outriderd listens on %s (%s); start one with `outriderd --target MODEL`, or name "
                       "another with "
                       "--server ADDR",
                       addr, strerror(error));
    return err_set(e, ST_UNAVAILABLE, "cannot connect to %s: %s; is the address right (--server ADDR)?", addr,
                   strerror(error));
}

/* Waits for a non-blocking connect to finish.  0 or an errno. */
static int await_connect(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int n = poll(&p, 1, timeout_ms);
    if (n == 0)
        return ETIMEDOUT;
    if (n < 0)
        return errno;
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    return error;
}

/* A connected socket, or minus an errno. */
static int try_one(int family, const struct sockaddr *sa, socklen_t len, int timeout_ms)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int error = connect(fd, sa, len) == 0 ? 0 : errno;
    if (error == EINPROGRESS)
        error = await_connect(fd, timeout_ms);
    if (error == 0)
        return fd;
    close(fd);
    return -error;
}

static int connect_unix(const char *addr, const char *path, int timeout_ms, struct err *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    if (n == 0)
        return bad_address(addr, e);
    if (n >= sizeof sa.sun_path)
        return err_set(e, ST_INPUT, "the socket path '%s' is longer than the %zu bytes the system takes",
                       path, sizeof sa.sun_path - 1);
    memcpy(sa.sun_path, path, n);
    int fd = try_one(AF_UNIX, (const struct sockaddr *) &sa, sizeof sa, timeout_ms);
    return fd >= 0 ? fd : nobody(addr, -fd, e);
}

/* Splits HOST:PORT at the last colon; the brackets of [V6] are taken off.  0: not of that shape, or no port there is. */
static int split_host(const char *addr, char host[HOST_BYTES], const char **port)
{
    const char *colon = strrchr(addr, ':');
    if (!colon || colon == addr || colon[1] == 0)
        return 0;
    const char *from = addr, *to = colon;
    if (*from == '[' && to[-1] == ']')
        from++, to--;
    else if (memchr(from, ':', (size_t) (to - from)))
        return 0;
    size_t n = (size_t) (to - from), digits = strspn(colon + 1, "0123456789");
    if (n == 0 || n >= HOST_BYTES)
        return 0;
    if (colon[1 + digits] || digits > 5 || atoi(colon + 1) > UINT16_MAX ||
        atoi(colon + 1) == 0) /* getaddrinfo takes 65536 for 0 */
        return 0;
    memcpy(host, from, n);
    host[n] = 0;
    *port = colon + 1;
    return 1;
}

static int connect_tcp(const char *addr, int timeout_ms, struct err *e)
{
    char host[HOST_BYTES];
    const char *port;
    if (!split_host(addr, host, &port))
        return bad_address(addr, e);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list = NULL;
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc)
        return err_set(e, rc == EAI_NONAME ? ST_INPUT : ST_UNAVAILABLE,
                       "the host of '%s' cannot be found (%s); is its name right, and the network up?", addr,
                       gai_strerror(rc));
    int fd = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = try_one(a->ai_family, a->ai_addr, a->ai_addrlen, timeout_ms);
    freeaddrinfo(list);
    if (fd < 0)
        return nobody(addr, -fd, e);
    int on = 1; /* requests are small and answers wait for them */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

int dial_connect(const char *addr, int timeout_ms, struct err *e)
{
    if (strncmp(addr, "unix:", 5) == 0)
        return connect_unix(addr, addr + 5, timeout_ms, e);
    return connect_tcp(addr, timeout_ms, e);
}
