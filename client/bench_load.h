/* bench_load.h - the load generator: sends requests on a schedule, or one after another for each client, and notes when what
 * came.
 *
 * One thread, one loop over non-blocking connections.  A chunk's time is taken right after the read that brought its bytes, for
 * all connections that were ready before anything is decoded or sent; what the client may add to a time is its longest turn, and
 * what it waits for a core, which are both reported.  Connections are opened before the first request, so that no latency has a connect in it. */
#ifndef CLIENT_BENCH_LOAD_H
#define CLIENT_BENCH_LOAD_H

#include "client/bench_source.h"

enum {
    BENCH_CLIENTS_MAX =
        4096, /* open streams of a closed loop; descriptors and a poll over them set the limit */
    BENCH_CONNECTIONS_MAX = 1000, /* under the 1024 descriptors a process usually has */
    BENCH_REQUESTS_MAX = 1 << 20, /* a record each */
    BENCH_DEPTHS_MAX = 64,        /* levels of a tree of at most 64 nodes */
};

/* Some tokens that came at once. */
struct bench_chunk {
    int64_t at_ns; /* on the set's clock */
    int32_t n_tokens;
};

enum bench_state {
    BENCH_NOT_SENT, /* interrupted, or the server gone, before its turn */
    BENCH_OK,       /* complete: stopped by itself or at its length */
    BENCH_FAILED,   /* code and error say how */
    BENCH_CUT,      /* interrupted while it ran */
};

/* What became of one request.  Times are ns on the set's clock. */
struct bench_record {
    enum bench_state state;
    size_t index;              /* of the request in the source */
    int64_t due_ns;            /* scheduled; in a closed loop sent_ns */
    int64_t sent_ns, end_ns;   /* handed to the connection; known to be over */
    struct bench_chunk *chunk; /* owns; (n_chunks), cap_chunks allocated: those that carry tokens */
    size_t n_chunks, cap_chunks;
    int64_t n_tokens; /* received */
    uint64_t hash;    /* of the token ids received */
    int32_t prompt_tokens, cached_tokens;
    int32_t passes, drafted, accepted, preemptions;
    int32_t synthetic; /* 1: guesses were kept by a coin */
    Outrider__V1__End__Finish finish;
    int code;    /* gRPC status */
    char *error; /* owns; NULL: none */
};

/* The records of one speculation mode.  Its clock runs only while its waves do. */
struct bench_set {
    struct bench_record *record; /* owns; (n) */
    size_t n;
    int64_t clock_ns;
    int32_t n_depths;
    int64_t drafted[BENCH_DEPTHS_MAX],
        accepted[BENCH_DEPTHS_MAX]; /* (n_depths) sums over complete requests */
};

int bench_set_init(struct bench_set *s, size_t n, struct err *e); /* ST_NOMEM */
void bench_set_fini(struct bench_set *s);

/* The line on a terminal while it runs. */
struct bench_progress {
    int on;
    const char *label;  /* borrowed: "warm-up", "auto" ... */
    size_t total, done; /* requests of all waves with this label */
    int64_t n_tokens, began_ns, shown_ns;
};

struct bench_load_config {
    const char *server;                /* borrowed */
    const struct bench_source *source; /* borrowed */
    struct bench_progress *progress;   /* borrowed */
    size_t n_connections;
    int wake;        /* readable: stop; -1: none */
    int deadline_ms; /* of a request; 0: none */
};

/* Requests [first, first + n) of a set. */
struct bench_wave {
    size_t first, n;
    size_t base;           /* record i is request base + i of the source */
    const int64_t *due_ns; /* borrowed; (n) from the wave's start; NULL: a closed loop */
    size_t n_clients;      /* of a closed loop */
    const Outrider__V1__Speculation *speculation; /* borrowed */
    int32_t max_tokens;                           /* 0: as asked */
};

/* What the loop cost itself. */
struct bench_client {
    int64_t busy_ns, turn_max_ns; /* out of poll(2): all turns, the longest */
    int64_t n_turns;
};

struct bench_load;

/* Connects.  Failures as grpc_open; ST_NOMEM. */
int bench_load_open(struct bench_load **out, const struct bench_load_config *c, struct err *e);
void bench_load_close(struct bench_load *l); /* NULL is fine */

/* Runs a wave to its end and fills its records.  A request that fails is a record, not a failure.  ST_AGAIN: interrupted, what
 * ran was cancelled; ST_UNAVAILABLE: a connection broke and the server takes no other, the rest was not sent; ST_NOMEM. */
int bench_load_wave(struct bench_load *l, const struct bench_wave *w, struct bench_set *set, struct err *e);

/* What was added up since the last call. */
struct bench_client bench_load_take_client(struct bench_load *l);

int64_t bench_now_ns(void); /* monotonic */

#endif
