/* queue.h - a host command queue: work in order, the CPU's counterpart of a CUDA stream.
 *
 * The target posts its forward pass, the verifier its walk, the target its settling: each finds the results of the
 * one before it, though nobody waited in between.  The CPU target hands its queue out in struct logits; on a GPU
 * that pointer is the device's stream instead, so round.c reads the same for both.
 *
 * Today posted work runs inside queue_wait, on the caller's thread.  One thread posts and waits. */
#ifndef CORE_QUEUE_H
#define CORE_QUEUE_H

struct queue;

/* Work: returns 0 or a negative status.  After a failure the rest of the queue is dropped unrun. */
typedef int (*queue_fn)(void *arg);

struct queue *queue_new(int cap); /* NULL: out of memory.  cap: most pieces of work between two waits */
void queue_free(struct queue *q); /* NULL is fine */

/* Appends work; arg must live until queue_wait returns.  ST_LIMIT when cap is reached. */
int queue_post(struct queue *q, queue_fn fn, void *arg);

/* Runs what was posted, in order.  0, or the status of the first piece that failed. */
int queue_wait(struct queue *q);

#endif
