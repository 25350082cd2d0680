/* memory.h - what the weights take in memory, and whether this machine has it.
 *
 * The kernel lends more than there is and later kills whoever asked: a model that cannot fit is refused before it is read,
 * and what the weights leave bounds the pages of keys and values. */
#ifndef DAEMON_MEMORY_H
#define DAEMON_MEMORY_H

#include <stdint.h>

#include "core/status.h"
#include "model/model.h"

struct memory_want {
    const struct model
        *target; /* borrowed for the call, as the next; NULL: in a device's memory, not this machine's */
    const struct model *draft;         /* NULL: none */
    int32_t target_quant, draft_quant; /* enum cpu_quant */
};

/* Bytes of this machine, or of the control group it runs in, if that has less. */
int64_t memory_machine(void);

/* Bytes of m's matrices once packed as `quant`; norms, routers and an embedding of its own are left out: they are small, or
 * stay in the file. */
int64_t memory_weights(const struct model *m, int quant);

/* Bytes that the weights leave of `machine`.  ST_LIMIT: nothing; e names what they take and what would fit. */
int memory_left(const struct memory_want *w, int64_t machine, int64_t *left, struct err *e);

#endif
