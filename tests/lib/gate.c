/* gate.c - see gate.h. */
#include "tests/lib/gate.h"

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "target/target.h"
#include "tests/lib/synth.h"

enum { ANSWER_SECONDS = 300 };

const struct gate_how gate_hows[] = {
    {"greedy", 0, 1, 0, 0, 64, 0, -1, .seed = 1000},
    {"T 0.6 top_k 20 top_p 0.95", 0.6f, 0.95f, 0, 20, 64, 0, -1, .seed = 2000},
    {"T 1.0", 1, 1, 0, 0, 64, 0, -1, .seed = 3000},
    {"greedy, budget 11", 0, 1, 0, 0, 80, 0, 11, .seed = 4000},
    {"T 1.0 min_p 0.02, budget 7, min_tokens 50", 1, 1, 0.02f, 0, 80, 50, 7, .seed = 5000},
};
const struct gate_how gate_extras[GATE_EXTRAS] = {
    {"greedy, repetition 2", .top_p = 1, .max_tokens = 48, .budget = -1, .seed = 11, .repetition = 2,
     .logprobs = 1},
    {"T 0.8, all penalties and bias", 0.8f, .top_p = 0.95f, .top_k = 20, .max_tokens = 48, .budget = -1,
     .seed = 21, .repetition = 1.1f, .presence = 0.7f, .frequency = 0.5f, .bias = 1, .logprobs = 1},
    {"T 1, presence and frequency, budget 9", 1, .top_p = 1, .max_tokens = 60, .budget = 9, .seed = 31,
     .presence = 1.2f, .frequency = -0.3f, .logprobs = 1},
    {"T 1, bias", 1, .top_p = 1, .max_tokens = 40, .budget = -1, .seed = 41, .bias = 1, .logprobs = 1},
    {"T 1, choice", 1, .top_p = 1, .max_tokens = 90, .budget = 20, .seed = 51, .constrain = 1, .logprobs = 1},
    {"greedy, choice and penalties", .top_p = 1, .max_tokens = 90, .budget = -1, .seed = 61, .constrain = 1,
     .repetition = 1.2f, .presence = 0.4f},
};

const int gate_n_hows = (int) (sizeof gate_hows / sizeof *gate_hows);

const char *const gate_choices[] = {
    "yes", "no", "yes, it is so", "17 and nothing else, as was shown before", "the total", "the sum"};
const int gate_n_choices = (int) (sizeof gate_choices / sizeof *gate_choices);

int gate_scale(int n)
{
    const char *s = getenv("GATE_SCALE");
    int by = s ? atoi(s) : 1;
    n /= by > 0 ? by : 1;
    return n > 3 ? n : 3;
}

int gate_tokens(int n)
{
    const char *s = getenv("GATE_TOKENS");
    int most = s ? atoi(s) : n;
    return most > 0 && most < n ? most : n;
}

static int is_named(const char *list, int n)
{
    char *end;
    for (const char *s = list; *s; s = *end ? end + 1 : end)
        if (strtol(s, &end, 10) == n || end == s)
            return end != s;
    return 0;
}

int gate_how_next(int h, int to)
{
    const char *list = getenv("GATE_HOWS");
    do
        h++;
    while (h < to && list && !is_named(list, h));
    return h;
}

/* $GATE_DEVICE: cuda:N puts the target there (or on the host lane, in a program that is linked with it); none: the CPU. */
static int32_t device(void)
{
    const char *s = getenv("GATE_DEVICE");
    struct err e;
    int32_t cuda = 0;
    if (s && target_device_find(s, &cuda, &e))
        fail_msg("GATE_DEVICE: %s", e.text);
    return cuda;
}

struct engine_opts gate_opts(const struct gate_pair *p)
{
    return (struct engine_opts){.cuda = device(),
                                .target = p->target,
                                .draft = p->draft,
                                .vocab = p->vocab,
                                .closing_text = "closing",
                                .target_quant = CPU_QUANT_Q8,
                                .draft_quant = CPU_QUANT_Q8,
                                .threads = 1,
                                .isa = CPU_ISA_AUTO,
                                .kv_type = CPU_KV_BF16,
                                .kv_bytes = (device() ? 32 : 256) << 20,
                                .draft_kv_bytes = 256 << 20,
                                .draft_context = 1024,
                                .draft_nodes = 16,
                                .draft_depth = 8,
                                .draft_top = 4,
                                .sessions_max = 16,
                                .queue_max = 1024,
                                .rows_max = 256,
                                .hash_rows = 1};
}

/* --- one run --- */

struct gate_engine {
    struct engine *engine;
    sem_t woken;
};

static void wake(void *arg)
{
    struct gate_engine *g = arg;
    sem_post(&g->woken);
}

struct gate_engine *gate_open(const struct engine_opts *o)
{
    struct gate_engine *g = calloc(1, sizeof *g);
    struct err e;
    assert_non_null(g);
    sem_init(&g->woken, 0, 0);
    if (engine_open(&g->engine, o, wake, g, &e))
        fail_msg("the engine does not open: %s", e.text);
    struct engine_info i;
    engine_describe(g->engine, &i);
    if (i.synthetic.n)
        fail_msg("the engine keeps guesses by a coin: its words are not the target's, and prove nothing");
    return g;
}

void gate_close(struct gate_engine *g)
{
    engine_close(g->engine);
    sem_destroy(&g->woken);
    free(g);
}

static int32_t *copy(const int32_t *p, int n)
{
    int32_t *q = malloc((size_t) (n + 1) * sizeof *q);
    assert_non_null(q);
    memcpy(q, p, (size_t) n * sizeof *q);
    return q;
}

/* Ids met in every text, pushed up and down. */
static void add_bias(const struct gate_pair *p, struct draw_params *d)
{
    enum { N = 12 };
    int32_t *id = malloc(N * sizeof *id);
    float *bias = malloc(N * sizeof *bias);
    assert_non_null(id);
    assert_non_null(bias);
    for (int i = 0; i < N; i++) {
        id[i] = 10 + i * (p->vocab / (N + 1));
        bias[i] = (float) (i % 5 - 2) * 1.75f;
    }
    d->bias_id = id;
    d->bias = bias;
    d->n_bias = N;
}

static void add_extras(const struct gate_pair *p, const struct gate_how *how, struct draw_params *d)
{
    size_t bytes[16];
    struct draw_constraint *c;
    struct err e;
    d->repetition = how->repetition > 0 ? how->repetition : 1;
    d->presence = how->presence;
    d->frequency = how->frequency;
    if (how->bias)
        add_bias(p, d);
    d->logprobs = d->processed = how->logprobs;
    d->top_logprobs = how->logprobs ? 5 : 0;
    if (!how->constrain)
        return;
    for (int i = 0; i < gate_n_choices; i++)
        bytes[i] = strlen(gate_choices[i]);
    if (draw_constraint_choice(&c, p->spelled, gate_choices, bytes, gate_n_choices, &e))
        fail_msg("%s: %s", how->name, e.text);
    d->constraint = c;
}

struct engine_request *gate_request_new(const struct gate_pair *p, const struct gate_how *how,
                                        const struct gate_request *g, int i)
{
    struct engine_request *r = engine_request_new();
    assert_non_null(r);
    const struct gate_prompt *prompt = &p->prompt[g->prompt];
    r->n = g->n ? g->n : 1;
    r->draw.choice = g->choice;
    r->id = (uint64_t) (i * r->n);
    r->prompt = copy(prompt->id, prompt->n);
    r->n_prompt = prompt->n;
    r->resume = copy(g->resume ? g->resume : prompt->id, g->n_resume);
    r->n_resume = g->n_resume;
    r->spec = g->spec;
    r->spec_nodes = g->nodes;
    r->spec_depth = g->depth;
    r->draw.temperature = how->temperature;
    r->draw.top_k = how->top_k;
    r->draw.top_p = how->top_p;
    r->draw.min_p = how->min_p;
    r->draw.seed = how->seed + (uint64_t) g->prompt;
    r->draw.choice = g->choice;
    r->draw.max_tokens = gate_tokens(how->max_tokens);
    r->draw.min_tokens = how->min_tokens < r->draw.max_tokens ? how->min_tokens : r->draw.max_tokens;
    r->draw.eos = copy(p->eos, p->n_eos);
    r->draw.n_eos = p->n_eos;
    r->draw.think = p->think;
    r->draw.think.closer = copy(p->think.closer, p->think.n_closer);
    r->draw.think.budget = how->budget;
    add_extras(p, how, &r->draw);
    struct err e;
    if (draw_check(&r->draw, p->vocab, &e))
        fail_msg("%s: %s", how->name, e.text);
    return r;
}

static uint64_t hash_of(const struct draw_logprobs *lp)
{
    const unsigned char *p = (const unsigned char *) lp;
    uint64_t h = 1;
    for (size_t i = 0; i < sizeof *lp; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h | 1;
}

int gate_take(struct gate_result *r, struct engine_event *e)
{
    int end = e->kind == ENGINE_END;
    assert_false(r->ended);
    for (int i = 0; i < e->n; i++) {
        assert_in_range(r->n, 0, GATE_TOKENS_MAX - 1);
        r->tok[r->n] = e->tok[i];
        r->phase[r->n] = e->phase[i];
        r->said[r->n] = e->logprobs ? hash_of(&e->logprobs[i]) : 0;
        r->undrawn += e->logprobs && e->logprobs[i].logprob != e->logprobs[i].logprob;
        r->hash[r->n++] = e->hash ? e->hash[i] : 0;
    }
    if (end) {
        r->ended = 1;
        r->finish = e->finish;
        r->status = e->status;
        r->figures = e->figures;
    }
    engine_event_free(e);
    return end;
}

struct engine *gate_engine(struct gate_engine *g)
{
    return g->engine;
}

void gate_wait(struct gate_engine *g)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ANSWER_SECONDS;
    if (sem_timedwait(&g->woken, &until))
        fail_msg("the engine gave no event in %d seconds", ANSWER_SECONDS);
}

void gate_run_on(struct gate_engine *g, const struct gate_pair *p, const struct gate_how *how,
                 const struct gate_request *req, int n, int at_once, struct gate_result *out)
{
    int started = 0, ended = 0, each = req[0].n ? req[0].n : 1;
    memset(out, 0, (size_t) (n * each) * sizeof *out);
    while (ended < n * each) {
        while (started < n && started * each - ended < at_once) {
            assert_int_equal(engine_start(g->engine, gate_request_new(p, how, &req[started], started)), 0);
            started++;
        }
        struct engine_event *e = engine_next(g->engine);
        if (e)
            ended += gate_take(&out[e->id + (uint64_t) e->choice], e);
        else
            gate_wait(g);
    }
}

void gate_run(const struct engine_opts *o, const struct gate_pair *p, const struct gate_how *how,
              const struct gate_request *req, int n, int at_once, struct gate_result *out)
{
    struct gate_engine *g = gate_open(o);
    gate_run_on(g, p, how, req, n, at_once, out);
    gate_close(g);
}

void gate_same(const char *arm, int i, const struct gate_result *want, const struct gate_result *got,
               int from)
{
    if (got->status)
        fail_msg("%s, request %d: ended with status %d", arm, i, got->status);
    for (int k = 0; k < got->n && from + k < want->n; k++) {
        if (want->tok[from + k] != got->tok[k])
            fail_msg("%s, request %d: token %d is %d, not %d", arm, i, from + k, got->tok[k],
                     want->tok[from + k]);
        if (want->phase[from + k] != got->phase[k])
            fail_msg("%s, request %d: token %d in phase %d, not %d", arm, i, from + k, got->phase[k],
                     want->phase[from + k]);
        if (want->said[from + k] != got->said[k])
            fail_msg("%s, request %d: token %d has other logprobs", arm, i, from + k);
        if (want->hash[from + k] != got->hash[k])
            fail_msg("%s, request %d: token %d was drawn from other logits", arm, i, from + k);
    }
    if (want->n != from + got->n)
        fail_msg("%s, request %d: %d tokens, not %d", arm, i, from + got->n, want->n);
    if (want->finish != got->finish || want->figures.n_output != got->figures.n_output ||
        want->figures.n_thinking != got->figures.n_thinking || want->figures.cut != got->figures.cut)
        fail_msg("%s, request %d: finish %d output %d thinking %d cut %d, not %d %d %d %d", arm, i,
                 got->finish, got->figures.n_output, got->figures.n_thinking, got->figures.cut, want->finish,
                 want->figures.n_output, want->figures.n_thinking, want->figures.cut);
}

/* --- pairs --- */

static struct model *open_model(const char *dir)
{
    struct model *m;
    struct err e;
    if (model_open(&m, dir, &e))
        fail_msg("%s: %s", dir, e.text);
    return m;
}

/* tests/gate/prompts.txt: first line the closing text's ids, then one prompt a line, as ids of the tiny tokenizer. */
static int read_ids(FILE *f, int32_t *id, int most)
{
    char line[8192], *at = line, *end;
    int n = 0;
    if (!fgets(line, sizeof line, f))
        return 0;
    for (long v = strtol(at, &end, 10); end != at; v = strtol(at, &end, 10)) {
        assert_in_range(n, 0, most - 1);
        id[n++] = (int32_t) v;
        at = end;
    }
    return n;
}

enum { PROMPTS_MAX = 64, CLOSER_MAX = 64 };

static void spell_tiny(struct gate_pair *p)
{
    struct tokenizer *t;
    struct err e;
    if (tokenizer_open(&t, "assets/tiny/target", &e) || draw_vocab_of(&p->spelled, t, &e))
        fail_msg("%s", e.text);
    tokenizer_close(t);
}

void gate_tiny(struct gate_pair *p)
{
    static const int32_t endoftext = 896, im_end = 898, open = 903, close = 904, tool = 899;
    *p = (struct gate_pair){.name = "tiny pair", .vocab = 905, .eos = {endoftext, im_end}, .n_eos = 2};
    p->target = open_model("assets/tiny/target");
    p->draft = open_model("assets/tiny/draft");
    p->prompt = calloc(PROMPTS_MAX, sizeof *p->prompt);
    int32_t *closer = calloc(CLOSER_MAX, sizeof *closer);
    FILE *f = fopen("tests/gate/prompts.txt", "r");
    assert_non_null(f);
    assert_non_null(p->prompt);
    p->think = (struct draw_think){open, close, tool, -1, closer, read_ids(f, closer, CLOSER_MAX)};
    while (p->n_prompts < PROMPTS_MAX) {
        struct gate_prompt *q = &p->prompt[p->n_prompts];
        q->n = read_ids(f, q->id, GATE_PROMPT_MAX);
        if (!q->n)
            break;
        p->n_prompts++;
    }
    fclose(f);
    assert_int_equal(p->n_prompts, 40);
    spell_tiny(p);
}

/* Ids below 256 are their byte; the others, but for the few that mean something, two or three letters of the choices. */
static void spell_random(struct gate_pair *p)
{
    enum { VOCAB_MAX = 512 };
    static char text[VOCAB_MAX][4];
    const char *bytes[VOCAB_MAX];
    size_t len[VOCAB_MAX] = {0};
    struct err e;
    for (int v = 0; v < p->vocab; v++) {
        const char *from = gate_choices[v % gate_n_choices];
        bytes[v] = text[v];
        text[v][0] = (char) v;
        len[v] = v < 256 ? 1 : v < 300 ? 2 + (size_t) v % 2 : 0;
        if (v >= 256 && strlen(from) >= len[v])
            memcpy(text[v], from + (size_t) v % (strlen(from) - len[v] + 1), len[v]);
    }
    if (draw_vocab_new(&p->spelled, bytes, len, p->vocab, &e))
        fail_msg("%s", e.text);
}

static struct gate_prompt *random_prompts(int n, int vocab)
{
    uint64_t dice = 77;
    struct gate_prompt *p = calloc((size_t) n, sizeof *p);
    assert_non_null(p);
    for (int i = 0; i < n; i++) {
        p[i].n = 2 + (int) ((synth_next(&dice) >> 40) % 220);
        for (int k = 0; k < p[i].n; k++) /* the first 130 tokens are common to all */
            p[i].id[k] =
                k < 130 ? (k * 37 + 11) % vocab : (int32_t) ((synth_next(&dice) >> 40) % (uint64_t) vocab);
    }
    return p;
}

static const struct config random_shape = {.n_layers = 3,
                                           .hidden = 96,
                                           .n_heads = 6,
                                           .n_kv_heads = 2,
                                           .head_dim = 32,
                                           .ffn = 160,
                                           .vocab = 333,
                                           .ctx_max = 1024,
                                           .rope_theta = 1e6f,
                                           .rms_eps = 1e-6f,
                                           .tied = 0,
                                           .dtype = "float32"};

static void random_pair(struct gate_pair *p, const char *name, const struct config *shape)
{
    int32_t *closer = calloc(3, sizeof *closer);
    assert_non_null(closer);
    closer[0] = 17;
    closer[1] = 302;
    closer[2] = 18;
    struct config g = *shape;
    g.head_dim = device() ? 64 : g.head_dim; /* what its kernels are made for */
    shape = &g;
    *p = (struct gate_pair){
        .name = name, .vocab = 331, .eos = {7}, .n_eos = 1, .n_prompts = 40, .synthetic = 1};
    p->target = synth_model_new(shape, TENSOR_F32, 1);
    p->draft = synth_model_new(shape, TENSOR_F32, 1); /* the target itself: its guesses are accepted */
    p->think = (struct draw_think){301, 302, 303, -1, closer, 3};
    p->prompt = random_prompts(p->n_prompts, p->vocab);
    spell_random(p);
}

void gate_random(struct gate_pair *p)
{
    random_pair(p, "random pair", &random_shape);
}

/* Prompts end shortly before or after a border. */
static void lengthen(struct gate_pair *p, int border)
{
    for (int i = 0; i < p->n_prompts; i++) {
        struct gate_prompt *q = &p->prompt[i];
        int n = border - 64 + (i * 29) % 96;
        for (int k = q->n; k < n; k++)
            q->id[k] = (int32_t) ((uint32_t) (k * k * 31 + i * 7) % (uint32_t) p->vocab);
        q->n = n;
    }
}

void gate_long(struct gate_pair *p, int border)
{
    struct config shape = random_shape;
    shape.ctx_max = GATE_PROMPT_MAX + GATE_TOKENS_MAX;
    random_pair(p, "long texts", &shape);
    lengthen(p, border);
}

void gate_experts(struct gate_pair *p)
{
    struct config shape = random_shape;
    shape.moe = (struct moe){12, 4, 40, 1, {1, 0, 1}};
    shape.yarn = (struct yarn){4, 32, 1, 1.1386294f, 64, 1};
    random_pair(p, "experts", &shape);
}

void gate_pair_free(struct gate_pair *p)
{
    void (*let_go)(struct model *) = p->synthetic ? synth_model_free : model_close;
    let_go((struct model *) p->target);
    let_go((struct model *) p->draft);
    free((void *) p->think.closer);
    free(p->prompt);
    draw_vocab_free(p->spelled);
}
