/* dial.h - from an address to a connected socket: `HOST:PORT`, `[V6]:PORT` or `unix:PATH`. */
#ifndef CLIENT_DIAL_H
#define CLIENT_DIAL_H

#include "core/status.h"

/* A connected non-blocking socket, the caller's to close.  ST_INPUT: addr is not an address (e says what one looks like);
 * ST_UNAVAILABLE: nobody answers there within timeout_ms (e says how to start a daemon). */
int dial_connect(const char *addr, int timeout_ms, struct err *e);

#endif
