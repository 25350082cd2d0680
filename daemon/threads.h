/* threads.h - how many threads compute, and whose they are. */
#ifndef DAEMON_THREADS_H
#define DAEMON_THREADS_H

#include "cpu/cpu.h"
#include "daemon/config.h"

struct threads {
    int32_t all;
    int32_t side; /* of these, the draft's own while the target computes; 0: the two take turns */
    int32_t pin;  /* 1: to processors, where they are free */
};

/* From the flags, and where they leave it open from what this machine has.  ST_INPUT: flags that contradict each other. */
int threads_plan(struct threads *out, const struct daemon_config *c, const struct cpu_room *room,
                 struct err *e);

#endif
