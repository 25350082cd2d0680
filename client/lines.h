/* lines.h - lines from a person, with editing and history (libedit), or from a pipe. */
#ifndef CLIENT_LINES_H
#define CLIENT_LINES_H

#include "core/status.h"

struct lines;

/* On a terminal: emacs keys, arrows and history, ~/.editrc; Ctrl-C clears the line, Ctrl-D on an empty one ends. */
struct lines *lines_open(void); /* NULL: out of memory */
void lines_close(struct lines *l);

int lines_terminal(const struct lines *l); /* 1: a person types */

/* What is typed while no line is asked for, on a terminal that still edits lines itself.  lines_fd: readable once a line of it
 * is there; -1: nothing to watch.  lines_ahead takes what is there: 1: an Enter alone, which is used up; 0: else, and what it
 * took is typed again at the next lines_next.  lines_forget: or is not. */
int lines_fd(const struct lines *l);
int lines_ahead(struct lines *l);
void lines_forget(struct lines *l);

/* The next line without its newline, borrowed until the next call.  1: a line; 0: no more; ST_INPUT: it
 * has a NUL byte, and is passed over; ST_NOMEM, ST_IO. */
int lines_next(struct lines *l, const char **line);

#endif
