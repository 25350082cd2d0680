/* inside.h - what the files of verifier/cuda/ share: the plan of a draw at every node, as it lies in memory on both sides. */
#ifndef VERIFIER_CUDA_INSIDE_H
#define VERIFIER_CUDA_INSIDE_H

#include "verifier/internal.h"

/* A list of ids among the plan's integers. */
struct draw_list {
    int32_t at, n;
};

struct draw_job {
    const float *logits; /* device; row of the job's first node */
    struct path *path;   /* device: what target_settle reads */
    int64_t stride;
    double top_p;     /* as draw_params has it, widened */
    int32_t first, n; /* nodes */
    float inv, min_p, repetition, presence, frequency;
    int32_t cold, top_k, cut; /* cut: 1: top_k, top_p or min_p is on */
    int32_t choice;
    uint32_t seed_lo, seed_hi;
    int32_t penalised;       /* 1: past and branch count */
    struct draw_list others; /* of verifier_told */
    struct draw_list banned, eos, stop, allowed, bias, bias_value, past,
        past_output;           /* bias_value: floats' bits */
    int32_t tool, open, blank; /* ids; -1: none */
    int32_t out;               /* byte of the outcome where its path begins */
    int32_t hash, logprob;     /* likewise; -1: not wanted */
    int32_t n_top, processed;
};

enum draw_node_flag {
    NODE_DRAWN = 1, /* a walk may draw here */
    NODE_DONE = 2,  /* the text ends with this node's token */
    NODE_MASK_EOS = 4,
    NODE_MASK_STOP = 8,
    NODE_MASK_TOOL = 16,
    NODE_LISTED = 32, /* nothing but lists can be drawn: `may` with a constraint, else the job's allowed */
    NODE_CONSTRAINED = 64,
    NODE_MAY_EOS = 128,
    NODE_MAY_OPEN = 256,
    NODE_MAY_BLANK = 512,
    NODE_ENDS = 1024,   /* the walk ends with what is drawn here: verifier_told */
    NODE_OTHERS = 2048, /* which is none of the job's others, where anything else can be drawn */
};

struct draw_node {
    int32_t job, parent; /* parent: node of the plan, -1: a root */
    int32_t tok;
    int32_t forced; /* the token that follows without a draw, or -1 */
    uint32_t pos;   /* the noise's k */
    int32_t flags;
    int32_t past; /* times its token is in the text's output */
    int32_t told; /* what the draw says, whatever the logits do; -1: what they do */
    struct draw_list may;
};

/* All a submit knows. */
struct draw_plan {
    struct draw_job *job;   /* owns; (jobs) */
    struct draw_node *node; /* owns; (nodes) */
    int32_t *ints;          /* owns; (n_ints) */
    int32_t jobs, nodes, n_ints;
    int32_t jobs_room, nodes_room, ints_room;
    int32_t cuts; /* 1: some job cuts */
    int32_t hashes, logprobs;
    int32_t path_bytes, out_bytes; /* of the outcome: paths first, then hashes and logprobs */
};

/* Fills p for job[0..n); memory grows and is kept.  ST_NOMEM. */
int verifier__plan(struct draw_plan *p, const struct verifier_job *job, int n);
void verifier__plan_fini(struct draw_plan *p);
/* What came back into the jobs' own places. */
void verifier__unpack(const struct draw_plan *p, const struct verifier_job *job, const char *out);

#endif
