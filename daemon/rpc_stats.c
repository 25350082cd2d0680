/* rpc_stats.c - GetStats and WatchStats: the loop's own sums and the engine's, as they stand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/tree.h"
#include "daemon/alarm.h"
#include "daemon/plan.h"
#include "daemon/rpc_inside.h"

enum { INTERVAL_MIN_MS = 100, INTERVAL_MAX_MS = 3600000, INTERVAL_MS = 1000 };

struct watch {
    struct rpc *rpc;
    struct alarm *alarm;
    uint64_t interval_ms;
};

static int64_t rss_bytes(void)
{
    long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%*s %lld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static void from_engine(const struct engine_stats *e, struct proto_stats *s)
{
    s->active = e->running;
    s->waiting = e->waiting;
    s->parked = e->parked;
    for (int i = 0; i < ENGINE_SOURCES; i++) {
        s->drafted += (uint64_t) e->drafted[i];
        s->accepted += (uint64_t) e->accepted[i];
    }
    s->drafted_model = (uint64_t) e->drafted[TREE_MODEL];
    s->accepted_model = (uint64_t) e->accepted[TREE_MODEL];
    s->drafted_lookup = (uint64_t) e->drafted[TREE_LOOKUP];
    s->accepted_lookup = (uint64_t) e->accepted[TREE_LOOKUP];
    for (int i = 0; i < PROTO_STATS_DEPTHS && i < ENGINE_DEPTH_MAX; i++) {
        s->drafted_at[i] = (uint64_t) e->drafted_at[i];
        s->accepted_at[i] = (uint64_t) e->accepted_at[i];
    }
    s->rows = (uint64_t) e->rows;
    s->passes = (uint64_t) e->passes;
    s->preemptions = (uint64_t) e->preemptions;
    s->pages_used = e->pages_used;
    s->pages_cached = e->pages_cached;
    s->pages_free = e->pages_free;
}

static void from_drafting(const struct engine_drafting *e, struct proto_drafting *d)
{
    *d = (struct proto_drafting){.n_costs = ENGINE_COSTS,
                                 .overhead_ms = e->overhead_ms,
                                 .speedup = e->speedup,
                                 .drafted = (uint64_t) e->rounds[PLAN_DRAFTED],
                                 .looked_up = (uint64_t) e->rounds[PLAN_LOOKED],
                                 .no_gain = (uint64_t) e->rounds[PLAN_NO_GAIN],
                                 .owed = (uint64_t) e->rounds[PLAN_OWED],
                                 .rested = (uint64_t) e->rounds[PLAN_RESTED],
                                 .measured = (uint64_t) e->rounds[PLAN_MEASURED],
                                 .waited = (uint64_t) e->rounds[PLAN_WAITED],
                                 .probes = (uint64_t) e->probes,
                                 .levels = (uint64_t) e->levels,
                                 .why = e->why};
    memcpy(d->rows, e->rows, sizeof e->rows);
    memcpy(d->target_ms, e->target_ms, sizeof e->target_ms);
    memcpy(d->level_ms, e->level_ms, sizeof e->level_ms);
}

/* One collection, with what it points to. */
struct snapshot {
    struct proto_stats stats;
    struct proto_drafting drafting;
    struct engine_stats engine;
};

static const struct proto_stats *collect(const struct loop *l, struct snapshot *at)
{
    struct proto_stats *s = &at->stats;
    *s = l->sums;
    engine_stats(l->served->engine, &at->engine);
    from_engine(&at->engine, s);
    if (at->engine.drafting.by_cost) {
        from_drafting(&at->engine.drafting, &at->drafting);
        s->drafting = &at->drafting;
    }
    s->n_synthetic = (size_t) l->served->info.synthetic.n;
    s->synthetic = l->served->info.synthetic.rate;
    s->uptime_s = (double) (uv_hrtime() - l->started_ns) / 1e9;
    s->connections = l->n_conns;
    s->streams = l->n_calls;
    s->rss_bytes = rss_bytes();
    return s;
}

static int encode(const void *s, struct buf *out)
{
    return proto_stats_encode(s, out);
}

void rpc__get_stats(struct rpc *r, const uint8_t *p, size_t n)
{
    struct arena a;
    struct err e;
    arena_init(&a, RPC_ARENA_SLACK);
    int st = proto_get_stats_decode(p, n, &a, &e);
    arena_fini(&a);
    if (st) {
        rpc__finish(r, status_grpc(st), e.text);
        return;
    }
    struct snapshot s;
    rpc__answer(r, encode, collect(r->h->loop, &s));
}

/* --- again and again --- */

/* A client that has not read the last one is not sent another. */
static void on_interval(void *arg)
{
    struct watch *w = arg;
    struct rpc *r = w->rpc;
    struct snapshot s;
    alarm_set(&r->h->loop->uv, &w->alarm, w->interval_ms, on_interval, w);
    if (reply_unsent(&r->reply))
        return;
    rpc__send(r, encode, collect(r->h->loop, &s));
}

static void watch(struct rpc *r, uint64_t interval_ms)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w || reply_start(&r->reply)) {
        free(w);
        rpc__give_up(r);
        return;
    }
    w->rpc = r;
    w->interval_ms = interval_ms;
    r->call = w;
    rpc__is_watch(r);
    on_interval(w);
}

void rpc__watch_stats(struct rpc *r, const uint8_t *p, size_t n)
{
    struct arena a;
    struct err e;
    int32_t ms;
    arena_init(&a, RPC_ARENA_SLACK);
    int st = proto_watch_stats_decode(p, n, &a, &ms, &e);
    arena_fini(&a);
    if (!st && ms && (ms < INTERVAL_MIN_MS || ms > INTERVAL_MAX_MS))
        st = err_set(&e, ST_INPUT, "interval_ms must be in %d..%d, or 0 for %d, not %d", INTERVAL_MIN_MS,
                     INTERVAL_MAX_MS, INTERVAL_MS, ms);
    if (st)
        rpc__finish(r, status_grpc(st), e.text);
    else
        watch(r, ms ? (uint64_t) ms : INTERVAL_MS);
}

static void leave(struct rpc *r)
{
    struct watch *w = r->call;
    alarm_clear(&w->alarm);
    free(w);
}

const struct rpc_kind rpc__stats_watches = {.leave = leave};
