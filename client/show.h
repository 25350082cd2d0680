/* show.h - what a person or a pipe gets to see.
 *
 * On a terminal, words that come from a model or a server are shown, never obeyed: control characters (C0 but newline and
 * tab, DEL, C1), bidirectional overrides and ill-formed bytes are written out as \x1b or \u202e.  Dimming is used on a
 * terminal alone.  A pipe or file gets the bytes as they are. */
#ifndef CLIENT_SHOW_H
#define CLIENT_SHOW_H

#include <stdio.h>

#include "core/status.h"

struct show {
    FILE *to;        /* borrowed */
    int terminal;    /* 1: escapes and dims */
    int dim;         /* 1: dimmed now */
    int at_line_end; /* 1: nothing stands on the current line */
    int laid_out;    /* 1: answers are set out for a reader, reasoning included; a terminal's default */
    int tags;        /* 1: a pipe gets the reasoning too, between <think> and </think>; else it gets none */
    int part;        /* enum show_part: what of an answer was shown last */
    int fresh;       /* 1: nothing of that part but newlines has come */
};

enum show_part { SHOW_NOTHING, SHOW_REASONING, SHOW_CONTENT };

void show_init(struct show *s, FILE *to);

/* The next piece of an answer.  Laid out, reasoning and content have a blank line between them, and a part's first newlines are
 * left out; else the bytes are as they came.  show_answer begins another answer. */
void show_answer(struct show *s);
void show_delta(struct show *s, const char *reasoning, const char *content);

/* Writes n bytes of foreign text, dimmed or not, and flushes. */
void show_text(struct show *s, const char *p, size_t n, int dim);

/* Ends dimming, and the line if something stands on it. */
void show_break(struct show *s);

/* One line of our own words, dimmed, on a line of its own. */
__attribute__((format(printf, 2, 3))) void show_note(struct show *s, const char *fmt, ...);

/* `outrider COMMAND: sentence` on stderr, made safe if that is a terminal. */
void show_error(const char *command, const struct err *e);

#endif
