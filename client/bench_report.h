/* bench_report.h - a benchmark's outcome as text, JSON, one JSON line a request, and a page. */
#ifndef CLIENT_BENCH_REPORT_H
#define CLIENT_BENCH_REPORT_H

#include <stdio.h>

#include "client/bench_figures.h"

/* What was asked for. */
struct bench_plan {
    const char *server;         /* borrowed */
    const char *dataset;        /* borrowed; NULL: synthetic */
    int32_t n_prompt, n_output; /* tokens of a synthetic request */
    int32_t n_requests, n_warmup;
    int32_t n_clients; /* of a closed loop; 0: an open one */
    int32_t n_connections;
    int32_t poisson;
    double rate; /* of an open loop: requests a second */
    uint64_t seed;
    struct bench_slo slo;
};

enum { BENCH_MODES_MAX = 2 };

struct bench_mode {
    char label[16]; /* "auto", "off", "16" */
    Outrider__V1__Speculation speculation;
    struct bench_set set;   /* owns */
    struct bench_figures f; /* of set */
};

struct bench_outcome {
    struct bench_plan plan;
    const Outrider__V1__Model *model; /* borrowed */
    char date[32];                    /* when it began, UTC */
    struct bench_mode mode[BENCH_MODES_MAX];
    size_t n_modes;
    /* n_modes == 2: mode[0] against mode[1], see bench_compare */
    struct bench_ratio tokens_per_s, faster[BENCH_N_COMPARES];
    size_t n_compared, n_differ; /* answers */
    double wall_s, cpu_s;        /* of the measured part; cpu_s: the client's own processor time */
    double waited_s; /* the client was ready to run and had no core; negative: the system does not say */
    struct bench_client client;
    int interrupted;
};

/* Each returns ST_IO or ST_NOMEM with a sentence. */
int bench_report_text(const struct bench_outcome *o, struct err *e); /* to stdout */
int bench_report_json(const struct bench_outcome *o, struct err *e); /* to stdout, one line */
int bench_report_requests(const struct bench_outcome *o, FILE *to, struct err *e);

/* One XHTML page that needs nothing else: no script, no font, no picture from elsewhere (bench_html.c). */
void bench_report_html(const struct bench_outcome *o, FILE *to);

/* "4 clients on 4 connections" or "2.5 requests/s, Poisson, on 8 connections". */
void bench_report_load(const struct bench_plan *p, char *out, size_t cap);

#endif
