/* stop.h - stop strings, found byte by byte however the text arrives.
 *
 * The one whose last byte comes first has matched; of several that end at the same byte, the longest.  One matcher state a
 * text; the strings are shared by all texts of a request.  Loop thread, or the worker that reads a session. */
#ifndef DAEMON_STOP_H
#define DAEMON_STOP_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum {
    STOP_STRINGS_MAX = 16, /* each is a matcher of its own: work for every byte of the text */
    STOP_BYTES_MAX = 256,  /* of one: so much text may wait for its end */
};

struct stops;

/* Where each string stands.  Zero: at the beginning. */
struct stop_state {
    uint16_t at[STOP_STRINGS_MAX]; /* bytes of it that the text ends with */
};

/* Copies s[0..n).  n = 0: *out is NULL, and nothing ever matches.  ST_INPUT: too many, an empty one or one too long; ST_NOMEM. */
int stops_new(struct stops **out, const char *const *s, size_t n, struct err *e);
void stops_free(struct stops *w); /* NULL is fine */

const char *stops_word(const struct stops *w, int i);
size_t stops_bytes(const struct stops *w, int i);

/* One more byte of text.  Which string it completes, or -1. */
int stop_push(const struct stops *w, struct stop_state *s, uint8_t byte);

/* Bytes at the end of the text that may be the beginning of a match. */
size_t stop_pending(const struct stops *w, const struct stop_state *s);

#endif
