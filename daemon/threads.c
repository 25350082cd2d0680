/* threads.c - see threads.h.
 *
 *     in all      one a physical core, as many as the cgroups allow: a pass is bound by memory or by the multipliers, and two
 *                 threads of one core share both
 *     the draft's a quarter of four or more; below that a core is worth more to the target than what the draft would do on it
 *                 meanwhile, and the two take turns on all of them
 *
 * While only one of the two computes it has all threads either way. */
#include "daemon/threads.h"

#include <string.h>

enum {
    SHARE_MIN = 4, /* threads, of which the draft gets one */
    SIDE_MAX = 8   /* as many as a small model's pass gains from */
};

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t most(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* As many as the machine gives, or what was asked for by name. */
static int32_t in_all(const struct daemon_config *c, const struct cpu_room *room, int32_t side,
                      int side_known)
{
    if (c->threads)
        return c->threads;
    if (c->target_threads && side_known)
        return c->target_threads + side;
    return most(most(least(least(room->cores, room->quota), CPU_THREADS_MAX), 1),
                most(c->target_threads, side + 1));
}

static int32_t share(int32_t all)
{
    return all < SHARE_MIN ? 0 : least(all / SHARE_MIN, SIDE_MAX);
}

/* Not with more threads than cores, or with time that is cut: the scheduler then knows better which processor is free. */
static int32_t pins(const struct daemon_config *c, const struct cpu_room *room, int32_t all)
{
    return strcmp(c->pin, "auto") == 0 && all <= room->cores && room->quota >= room->processors;
}

static int check(const struct daemon_config *c, int32_t all, int32_t side, int side_known, struct err *e)
{
    if (c->draft_threads > 0 && !c->draft)
        return err_set(e, ST_INPUT, "--draft-threads %d, but there is no --draft to have them; leave it out",
                       c->draft_threads);
    if (c->target_threads && side_known && c->target_threads + side != all)
        return err_set(e, ST_INPUT,
                       "--target-threads %d and %d of the draft are not --threads %d; leave one of them out",
                       c->target_threads, side, all);
    if (c->target_threads > all || side >= all)
        return err_set(e, ST_INPUT,
                       "--threads %d are all there are: the target has at most that, the draft fewer", all);
    if (all > CPU_THREADS_MAX)
        return err_set(e, ST_INPUT, "%d threads: at most %d; set --threads", all, CPU_THREADS_MAX);
    return 0;
}

int threads_plan(struct threads *out, const struct daemon_config *c, const struct cpu_room *room,
                 struct err *e)
{
    int known = !c->draft || c->draft_threads >= 0;
    int32_t side = c->draft && known ? c->draft_threads : 0, all = in_all(c, room, side, known);
    int st = check(c, all, side, known, e);
    if (!known)
        side = c->target_threads ? all - c->target_threads : share(all);
    *out = (struct threads){.all = all, .side = side, .pin = pins(c, room, all)};
    return st;
}
