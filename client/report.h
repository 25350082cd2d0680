/* report.h - answers and models as JSON and as the one line of figures below an answer. */
#ifndef CLIENT_REPORT_H
#define CLIENT_REPORT_H

#include <jansson.h>

#include "client/stream.h"
#include "client/show.h"

/* "stop", "length", "cancelled", "deadline"; "none" before the last event. */
const char *report_finish(const struct stream *a);

/* Target tokens a pass of the target gave: what its walk kept and its own next one; 0: no pass. */
double report_tokens_per_pass(const struct stream *a);

/* The dim line: tokens, reasoning tokens, time to first token, tokens/s, tokens per target pass, seed. */
void report_figures(struct show *s, const struct stream *a);

/* 1: text holds the sentence to say wherever an answer or a figure is shown, as guesses are kept by a coin with these rates; 0: they
 * are not. */
int report_synthetic(const float *rate, size_t n, char *text, size_t bytes);
int report_synthetic_of(const Outrider__V1__Resolved *r, char *text,
                        size_t bytes); /* likewise; r may be NULL */
/* It as a line of `outrider COMMAND` on stderr. */
void report_synthetic_warn(const char *command, const struct stream *a);

/* All of an answer, finished or not; seeds are strings, as in protobuf's own JSON (they may exceed 2^53).  NULL: out of
 * memory.  The caller's. */
json_t *report_answer(const struct stream *a);
json_t *report_event(const Outrider__V1__Event *ev);
json_t *report_model(const Outrider__V1__Model *m);
json_t *report_stats(const Outrider__V1__Stats *m);

/* Writes j as one line to stdout, flushes, and frees it.  ST_NOMEM when j is NULL, ST_IO when stdout cannot take it. */
int report_print(json_t *j, struct err *e);

#endif
