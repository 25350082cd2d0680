/* logits.h - a borrowed look at rows of logits, wherever they were made.
 *
 * Rows stay where the target computed them: for 16 nodes of a 152k vocabulary that is 10 MB which never crosses a
 * bus.  Only the verifier's answer does. */
#ifndef CORE_LOGITS_H
#define CORE_LOGITS_H

#include <stdint.h>

enum mem { MEM_HOST, MEM_DEVICE };

struct path;
struct queue;

/* Where work on a device goes: its stream, and what is left for the host once that has run (target_wait runs it). */
struct device_queue {
    void *stream;        /* cudaStream_t */
    struct queue *after; /* core/queue.h */
};

struct logits {
    const void *row; /* float32, row i at element i * stride; row i belongs to tree node i */
    int32_t rows;
    int32_t vocab;  /* ids that may be drawn: padding rows of the output layer are not among them */
    int64_t stride; /* elements, >= vocab */
    int32_t mem;    /* enum mem */
    void *
        queue; /* where the rows become ready: struct queue * on the host, struct device_queue * on a device */
    struct path *
        path; /* MEM_DEVICE: where on the device the walk of these rows leaves its path, for target_settle; else NULL */
};

#endif
