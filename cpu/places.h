/* places.h - which processors this process may compute on, and which of them no other daemon computes on.  Any thread. */
#ifndef CPU_PLACES_H
#define CPU_PLACES_H

#include <sched.h>

#include "cpu/cpu.h"

enum { CPU__PLACES_MAX = CPU_SETSIZE };

/* In the order in which threads take them: one of each core, node by node, then their siblings likewise. */
struct cpu__places {
    struct cpu_room room;
    int id[CPU__PLACES_MAX]; /* (room.processors) */
};

void cpu__places_here(struct cpu__places *out);
/* The same of a mask and of the files below root ("": this machine's). */
void cpu__places_read(struct cpu__places *out, const char *root, const cpu_set_t *mask);

/* The first n that nobody has claimed, cores of their own where n cores there are; the claims end with the process or with
 * cpu__places_release.  place, fd: (n).  ST_AGAIN: fewer are free; nothing is claimed then. */
int cpu__places_claim(const struct cpu__places *p, int n, int *place, int *fd);
void cpu__places_release(const int *fd, int n);

#endif
