/* pace.h - how many prompt tokens a round may read beside running answers.
 *
 * A pass that reads a long prompt takes long, and everybody who runs waits for it.  So the reading is rationed: a round with prompt
 * rows may last 1.6 times a round without; more when there are more that read than that run, who would otherwise be let in one by one.
 * Both kinds are measured as the daemon runs, and now and then a round reads nothing so that the measure stays fresh.  What is chosen here cannot change a word: how a prompt is cut into chunks never shows in the logits
 * (NUMERICS.md, "Prompt and output").
 *
 * Thread: engine.  Plain data, no clock of its own. */
#ifndef DAEMON_PACE_H
#define DAEMON_PACE_H

#include <stdint.h>

struct pace {
    double plain_ns; /* a round that reads nothing; 0: not measured yet */
    double row_ns;   /* what one more prompt row costs; likewise */
    int32_t reading; /* rounds that read since the last that did not */
};

/* Prompt rows for the next round, in which so many read and so many run (1 at least of both), at most `most`; 0: this round is to
 * measure. */
int32_t pace_rows(struct pace *p, int readers, int running, int32_t most);

/* The round before had prompt_rows and took ns.  Only of rounds in which somebody ran. */
void pace_note(struct pace *p, int32_t prompt_rows, uint64_t ns);

#endif
