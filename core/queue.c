/* queue.c - a list of pieces of work, run when somebody waits for them. */
#include "core/queue.h"
#include "core/status.h"

#include <stdlib.h>

struct queue {
    int n, cap;
    struct {
        queue_fn fn;
        void *arg;
    } work[];
};

struct queue *queue_new(int cap)
{
    struct queue *q = calloc(1, sizeof *q + (size_t) cap * sizeof q->work[0]);
    if (q)
        q->cap = cap;
    return q;
}

void queue_free(struct queue *q)
{
    free(q);
}

int queue_post(struct queue *q, queue_fn fn, void *arg)
{
    if (q->n == q->cap)
        return ST_LIMIT;
    q->work[q->n].fn = fn;
    q->work[q->n].arg = arg;
    q->n++;
    return 0;
}

int queue_wait(struct queue *q)
{
    int st = 0;
    for (int i = 0; i < q->n && st == 0; i++)
        st = q->work[i].fn(q->work[i].arg);
    q->n = 0;
    return st;
}
