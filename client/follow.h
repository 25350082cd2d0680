/* follow.h - an answer, shown as it comes. */
#ifndef CLIENT_FOLLOW_H
#define CLIENT_FOLLOW_H

#include "client/stream.h"
#include "client/show.h"

struct follow {
    struct show *show;  /* borrowed; where text goes; NULL: nowhere */
    int events;         /* 1: every event as a JSON line on stdout */
    size_t break_after; /* tokens; the answer is cancelled at the first event that reaches them; 0: never */
};

/* Pulls a to its end.  0: complete; ST_AGAIN: a watched fd is readable; ST_CANCELLED with an empty sentence: break_after's
 * doing; ST_IO: the output cannot be written; else as stream_next.  In every case but 0 the call has been cancelled. */
int follow_answer(const struct follow *f, struct stream *a, struct err *e);

/* The same in parts, for who has something to do on ST_AGAIN: the call then runs on, and follow_more may be called again.
 * follow_end takes the last status. */
void follow_begin(const struct follow *f);
int follow_more(const struct follow *f, struct stream *a, struct err *e);
void follow_end(const struct follow *f, struct stream *a, int st);

#endif
