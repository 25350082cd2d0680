/* bench_figures.h - from records to figures.  Pure: no clock, no socket.
 *
 *   TTFT       first chunk that carries tokens, less the time due
 *   TPOT       (last chunk - first chunk) / (tokens - 1), of answers with two tokens or more
 *   chunk gap  between consecutive chunks of an answer, all answers together
 *   e2e        last chunk less the time due
 *
 * The time due is when the schedule said (open loop: a client that sends late, or a server that makes it wait, does not make
 * its own latency shorter) or when the request was sent (closed loop).  Latencies are of complete answers; tokens count
 * whenever they came. */
#ifndef CLIENT_BENCH_FIGURES_H
#define CLIENT_BENCH_FIGURES_H

#include "client/bench_load.h"
#include "client/bench_stats.h"
#include "client/grpc_code.h"

/* Limits that a good request keeps, in ms; 0: none. */
struct bench_slo {
    double ttft_ms, tpot_ms, e2e_ms;
};

enum bench_latency { BENCH_TTFT, BENCH_TPOT, BENCH_GAP, BENCH_E2E, BENCH_LATE, BENCH_N_LATENCIES };

extern const char *const bench_latency_name[BENCH_N_LATENCIES]; /* "ttft_ms" ... of JSON */

enum { BENCH_BINS = 60 }; /* of tokens over time, at most */

struct bench_figures {
    double seconds;
    size_t n_ok, n_failed, n_cut, n_not_sent;
    size_t n_code[GRPC_N_CODES]; /* of the failed */
    size_t n_stop, n_length;     /* of the complete */
    const char *error;           /* borrowed from a record: the first one's sentence; NULL: none */
    int64_t prompt_tokens, cached_tokens, output_tokens, n_chunks;
    int64_t passes, drafted, accepted, preemptions;  /* of the complete */
    struct bench_list latency[BENCH_N_LATENCIES];    /* own; ms, ascending; BENCH_LATE: sent after due */
    struct bench_summary summary[BENCH_N_LATENCIES]; /* of them */
    size_t n_good;                                   /* complete within the SLO */
    double bin_s;                                    /* width of a bin */
    size_t n_bins;                                   /* at least 1; the last one reaches to the end */
    double bin_tokens[BENCH_BINS];                   /* (n_bins) tokens received in each */
    int32_t n_depths;
    const int64_t *drafted_by_depth, *accepted_by_depth; /* borrowed from the set; (n_depths) */
};

/* ms of a complete answer; a negative number: it has none (no token, or only one). */
double bench_ttft_ms(const struct bench_record *r);
double bench_tpot_ms(const struct bench_record *r);
double bench_e2e_ms(const struct bench_record *r);

/* Borrows from set until it is freed.  bench_figures_fini in any case.  ST_NOMEM. */
int bench_figures_make(struct bench_figures *f, const struct bench_set *set, const struct bench_slo *slo,
                       struct err *e);
void bench_figures_fini(struct bench_figures *f);

double bench_tokens_per_s(const struct bench_figures *f);
double bench_requests_per_s(const struct bench_figures *f);  /* complete ones */
double bench_tokens_per_pass(const struct bench_figures *f); /* 0: no pass */

/* The same requests in two modes. */
struct bench_ratio {
    size_t n; /* pairs */
    double median, min, max;
};

/* Median, least and greatest of l, which it sorts. */
struct bench_ratio bench_ratio_of(struct bench_list *l);

enum bench_compare { BENCH_BY_TTFT, BENCH_BY_TPOT, BENCH_BY_E2E, BENCH_N_COMPARES };

/* off's time over on's, request by request, where both answers are complete: above 1, `on` is faster.  ST_NOMEM. */
int bench_compare(const struct bench_set *on, const struct bench_set *off, enum bench_compare by,
                  struct bench_ratio *out, struct err *e);

/* Requests complete in both, and of these the ones whose token ids are not the same. */
size_t bench_compare_answers(const struct bench_set *on, const struct bench_set *off, size_t *n_differ);

#endif
