/* gate.h - what the equality gates share: prompts, requests, whole runs through the real engine, and their comparison.
 *
 * A run is: open an engine with some options, start requests (so many at once), collect every event until each has ended.  Two runs
 * are equal when ids, the phase each id was in, finish, and the hash of every row of logits that an id was drawn from are equal:
 * a text alone would hide a wrong last bit for weeks. */
#ifndef TESTS_LIB_GATE_H
#define TESTS_LIB_GATE_H

#include "daemon/engine.h"

enum { GATE_TOKENS_MAX = 512, GATE_PROMPT_MAX = 2304 };

/* Sampling of one arm; the seed of request i is seed + i. */
struct gate_how {
    const char *name;
    float temperature, top_p, min_p;
    int top_k, max_tokens, min_tokens;
    int budget; /* thinking; -1: none */
    uint64_t seed;
    float repetition; /* 0: off, as below */
    float presence, frequency;
    int bias;      /* 1: a few ids get a logit_bias */
    int logprobs;  /* 1: with top_logprobs 5 and the processed ones */
    int constrain; /* 1: a choice among strings */
};

struct gate_prompt {
    int n;
    int32_t id[GATE_PROMPT_MAX];
};

/* A pair of models and what the requests need to know of its vocabulary. */
struct gate_pair {
    const char *name;
    const struct model *target, *draft;
    int vocab;
    int32_t eos[2];
    int n_eos;
    struct draw_think think; /* but for the budget */
    struct gate_prompt *prompt;
    int n_prompts;
    struct draw_vocab *spelled; /* owns; what ids spell, for constraints */
    int synthetic;              /* made in memory */
};

struct gate_result {
    int n, ended, finish, status;
    int32_t tok[GATE_TOKENS_MAX];
    uint8_t phase[GATE_TOKENS_MAX];
    uint64_t hash[GATE_TOKENS_MAX];
    uint64_t said[GATE_TOKENS_MAX]; /* hash of a token's logprobs; 0: none came */
    int undrawn;                    /* tokens whose logprobs are absent */
    struct engine_figures figures;
};

/* Options the arms start from: one thread, best kernels, no cache, drafting as the requests say. */
struct engine_opts gate_opts(const struct gate_pair *p);

struct gate_request {
    int prompt;             /* index */
    int spec, nodes, depth; /* as engine_request's */
    const int32_t *resume;  /* borrowed */
    int n_resume;
    int n, choice; /* answers, 0: one; the first one's choice */
};

/* Runs req[0..n), `at_once` at a time, into out; answer j of request i is out[i * (answers of a request) + j].  Fails the test when the engine does not open or does not answer. */
void gate_run(const struct engine_opts *o, const struct gate_pair *p, const struct gate_how *how,
              const struct gate_request *req, int n, int at_once, struct gate_result *out);

/* The same on an engine that is open already (to keep its caches). */
struct gate_engine;
struct gate_engine *gate_open(const struct engine_opts *o);
void gate_close(struct gate_engine *g);
void gate_run_on(struct gate_engine *g, const struct gate_pair *p, const struct gate_how *how,
                 const struct gate_request *req, int n, int at_once, struct gate_result *out);

/* The same in pieces: the engine; the request of g, whose id is i times its answers; one event, which is freed, into the answer it is
 * of (1: it was its last); sleep until something comes. */
struct engine *gate_engine(struct gate_engine *g);
struct engine_request *gate_request_new(const struct gate_pair *p, const struct gate_how *how,
                                        const struct gate_request *g, int i);
int gate_take(struct gate_result *r, struct engine_event *e);
void gate_wait(struct gate_engine *g);

/* Fails with the first difference (arm, request, position); `from`: tokens of want that were given to got as resume. */
void gate_same(const char *arm, int i, const struct gate_result *want, const struct gate_result *got,
               int from);

/* The tiny pair of assets/tiny, with prompts of tests/gate/prompts.txt. */
void gate_tiny(struct gate_pair *p);
/* A random dense pair of other shapes (heads * head_dim != hidden, an odd vocabulary, untied), made in memory. */
void gate_random(struct gate_pair *p);
/* The same with experts in two of three layers, and YaRN. */
void gate_experts(struct gate_pair *p);
/* The random pair with prompts that end within 64 tokens of a border: their texts lie across it. */
void gate_long(struct gate_pair *p, int border);
void gate_pair_free(struct gate_pair *p);

/* n, or fewer where GATE_SCALE says that this build is slow (sanitizers): n / GATE_SCALE, at least 3. */
int gate_scale(int n);

/* n tokens, or GATE_TOKENS where that is fewer. */
int gate_tokens(int n);

/* The strings of `constrain`: some are the beginning of others. */
extern const char *const gate_choices[];
extern const int gate_n_choices;

/* Samplings of the whole draw: penalties, bias, logprobs, constraints. */
enum { GATE_EXTRAS = 6 };
extern const struct gate_how gate_extras[GATE_EXTRAS];

extern const struct gate_how gate_hows[];
extern const int gate_n_hows;

/* The next sampling after h and before `to` that GATE_HOWS ("1,6": numbers, gate_extras behind gate_hows; unset: all) names; `to` when
 * there is none. */
int gate_how_next(int h, int to);
#define EACH_HOW(h)                                                                                          \
    for (int h = gate_how_next(-1, gate_n_hows); h < gate_n_hows; h = gate_how_next(h, gate_n_hows))
#define EACH_HOW_AND_EXTRA(h)                                                                                \
    for (int h = gate_how_next(-1, gate_n_hows + GATE_EXTRAS); h < gate_n_hows + GATE_EXTRAS;                \
         h = gate_how_next(h, gate_n_hows + GATE_EXTRAS))
/* h: of gate_extras */
#define EACH_EXTRA(h)                                                                                        \
    for (int h = gate_how_next(gate_n_hows - 1, gate_n_hows + GATE_EXTRAS) - gate_n_hows; h < GATE_EXTRAS;   \
         h = gate_how_next(h + gate_n_hows, gate_n_hows + GATE_EXTRAS) - gate_n_hows)

#endif
