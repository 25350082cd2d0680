/* cache.h - the panels of a model: in memory, or in a file of --pack-cache that an earlier start wrote.
 *
 * A cache can be wrong in two ways, and either would change words:
 *
 *   - it was packed from other weights.  Its name holds weights_hash, which samples every tensor; that misses a change between the
 *     samples.  So it also keeps a sum of every byte that was packed.  To take that of the checkpoint at each start would mean to
 *     read it all; it is left out only where the system itself says that no file of the checkpoint was touched: device, inode, size,
 *     mtime and ctime (which no tool can set back) are those of a start that had packed or summed it.  A file whose ctime was less
 *     than two seconds old when it was opened might change again within the clock's tick, and is summed the next time.
 *   - its own bytes were spoiled.  Every byte of it is summed, by all threads, at each start: what was mapped is what was packed.
 *
 * The file is made under another name, synced, and renamed; a lock on that name lets one daemon at a time write it.  It is
 * written beside the work, from panels that no longer change.  Whatever fails here costs time, never service: one line says so.
 *
 * Thread: the caller of cpu_model_open; the writer is a thread of its own. */
#ifndef CPU_CACHE_H
#define CPU_CACHE_H

#include "cpu/inside.h"

/* What a panel's bytes mean (kern.h).  Another layout, or another rounding (pack.c), is another number; tests/unit/cache.c pins
 * the bytes of each.  No instruction set has a layout of its own. */
enum { CPU__LAYOUT = 1 };

/* What a file has to hold to be of use. */
struct cpu__cache_want {
    const char *dir;
    const struct model *model;
    const struct cpu__item *item; /* (n) */
    int n;
    size_t bytes; /* of the panels, all together */
    int quant;
};

struct cpu__writer;

/* 1: out is mapped and proved; 0: there is none to be used, and the log says why. */
int cpu__cache_load(struct cpu__panels *out, struct cpu *c, const struct cpu__cache_want *w);
/* Begins to write p; source: (w->n) sums of what was packed.  Borrows p, w's model and items until stop.  NULL: it cannot. */
struct cpu__writer *cpu__cache_save(const struct cpu__cache_want *w, const struct cpu__panels *p,
                                    const uint64_t *source);
int cpu__cache_is_done(const struct cpu__writer *w); /* 1: it has written the file, or said why not */
/* Gives up what is not written by now; a file that is being synced is waited for.  NULL is fine. */
void cpu__cache_stop(struct cpu__writer *w);

#endif
