/* plan.c - see plan.h. */
#include "daemon/plan.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

enum {
    BESIDE_MAX = 64, /* rows of prompts in a pass that is still like one over trees */
    ROWS_MAX = 1024, /* guesses weighed against each other in a round */
    LEVELS_MAX = 16, /* looked ahead before a tree is begun */
    MEASURE = 192,   /* a round in so many has no guesses, to see what it takes */
    NEAR = 16,       /* tokens unread that are part of drafting; more are an investment */
    READ_MAX = 256,  /* of an investment, a round */
    FIRST_TOKENS =
        4, /* of an answer, that wait for no draft: among them is the first with text, behind <think> and a newline */
};

static const double BEGIN_MARGIN =
    0.04; /* of a round's tokens: what a tree must bring where none was drafted before */
static const double TRIM_MARGIN =
    0.02; /* likewise: what guesses that cost no level must bring, as costs are not known better */
static const double PROBE_SHARE = 0.005; /* of the time, for guesses that are not expected to pay */
static const double FADE = 1.0 / 256;    /* of accounts, a round */
static const double OWED = 0.6;          /* of what the floor allows to build up in an account */
static const double BY_CHANCE = 1;       /* standard deviations */
static const double REST_FIRST = 128, REST_MOST = 4096; /* rounds */
static const double SPEEDUP_FOLLOW = 1.0 / 64;
static const double RIGHT_FOLLOW = 1.0 / 128; /* a token expected */
static const double RIGHT_LEAST = 0.3;
static const double DEAR_FOLLOW = 1.0 / 64; /* a round with guesses */
static const double DEAR_MOST = 4;
static const double OVERHEAD_FOLLOW = 0.05;
static const double SAVE_ROUNDS = 2000; /* no more is saved for probes than so many rounds give */
static const double BIAS_FOLLOW = 1.0 / 32;
static const double SPIKE =
    2; /* what a round took beyond so many times what was planned, somebody else held it up */
static const double READ_SLOWDOWN = 0.5; /* of a round, by what the draft reads in it */
static const double WAITED =
    1.02; /* times a round without guesses, while somebody waits for the beginning of an answer */
static const double HOPELESS = 0.3;  /* of a row's cost: a guess worth less is in no tree */
static const double READ_GAIN = 1.5; /* what reading must save, of what it takes */
static const double FIRST_LEN = 128; /* of an answer, before one has ended */

void plan_init(struct plan *p, int32_t rows_max)
{
    *p = (struct plan){
        .speedup = 1, .answer_len = FIRST_LEN, .bias = 1, .right = 1, .dear = 1, .rows_max = rows_max};
    cost_init(&p->target);
    cost_init(&p->level);
}

/* --- who drafts --- */

static double target_ns(const struct plan *p, int32_t rows)
{
    return cost_at(&p->target, p->beside + rows);
}

/* Tokens that the floor and chance explain. */
static double most_behind(const struct plan_account *a)
{
    return OWED * (1 - PLAN_FLOOR) / FADE + BY_CHANCE * sqrt(a->luck);
}

static int is_behind(const struct plan_account *a)
{
    return a->credit < -most_behind(a);
}

static int is_owed(const struct plan_session *s)
{
    return is_behind(s->account);
}

/* As many as run now. */
static struct plan_rest *rest_of(struct plan *p)
{
    int i = 0;
    while (i + 1 < PLAN_RESTS && 1 << i < p->n)
        i++;
    return &p->rest[i];
}

static int rests(struct plan *p)
{
    return p->rounds < rest_of(p)->until;
}

static int someone_is_owed(const struct plan *p)
{
    for (int32_t i = 0; i < p->n; i++)
        if (is_owed(&p->s[i]))
            return 1;
    return 0;
}

/* ns a row, where the target's pass stands now. */
static double row_ns(const struct plan *p)
{
    enum { STEP = 4 };
    return (target_ns(p, p->n_rows + STEP) - target_ns(p, p->n_rows)) / STEP;
}

/* Tokens, for a ns longer that guesses are expected to make the round. */
static double price(const struct plan *p)
{
    return p->worth * p->dear;
}

float plan_floor(const struct plan *p)
{
    enum { STEP = 4 };
    double level = (cost_at(&p->level, 1 + STEP) - cost_at(&p->level, 1)) / STEP;
    return (float) (price(p) * (level + row_ns(p)) / p->right);
}

/* Of a round with guesses, beside its passes, more than of one without. */
static double extra_ns(const struct plan *p)
{
    double more = p->overhead_ns[1] - p->overhead_ns[0];
    return p->overhead_ns[1] > 0 && more > 0 ? more : 0;
}

/* Sessions that draft side by side; of each level, how many of them get there, and how many tokens that gives. */
struct group {
    int32_t n[LEVELS_MAX];
    double kept[LEVELS_MAX];
};

/* n more that each go on with chance hope a level, as long as that is worth a row. */
static void join(const struct plan *p, struct group *g, int32_t n, float hope)
{
    double h = p->right * (double) hope, chance = 1, floor = p->right * (double) plan_floor(p);
    h = h < 1 ? h : 1;
    for (int l = 0; l < LEVELS_MAX && (l == 0 || chance * h > floor); l++) {
        g->n[l] += n;
        g->kept[l] += n * (chance *= h);
    }
}

/* Net gain, in tokens, of the depth that is best for the group, whose first pass takes first_rows. */
static double look_ahead(const struct plan *p, const struct group *g, int32_t first_rows)
{
    double gain = 0, best = 0, ns = cost_at(&p->level, first_rows) + extra_ns(p);
    int32_t rows = p->n_rows;
    for (int l = 0; l < LEVELS_MAX && g->n[l]; l++) {
        gain += g->kept[l];
        rows += g->n[l];
        ns += l && !p->parallel ? cost_at(&p->level, g->n[l]) : 0;
        double net = gain - price(p) * (ns + target_ns(p, rows) - target_ns(p, p->n_rows));
        best = net > best || l == 0 ? net : best;
    }
    return best;
}

static int may_draft(const struct plan_session *s)
{
    return s->mode == PLAN_AUTO && s->depth > 0 && s->nodes > 1 && s->given >= FIRST_TOKENS;
}

/* The session with the most hope that has not been taken yet. */
static struct plan_session *hopeful(const struct plan *p)
{
    struct plan_session *best = NULL;
    for (int32_t i = 0; i < p->n; i++) {
        struct plan_session *s = &p->s[i];
        if (may_draft(s) && !s->draft && s->unread <= NEAR && (!best || s->hope > best->hope))
            best = s;
    }
    return best;
}

/* The k most hopeful for which k is best; returns k. */
static int32_t choose(struct plan *p)
{
    struct plan_session *order[ROWS_MAX], *s;
    struct group g = {0};
    double best = (p->drafted_on ? 0 : BEGIN_MARGIN) * p->n;
    int32_t n = 0, most = 0, rows = 0;
    while (n < ROWS_MAX && (s = hopeful(p))) {
        s->draft = 1;
        order[n++] = s;
        join(p, &g, 1, s->hope);
        rows += s->unread + (p->parallel ? s->depth : 1);
        double net = look_ahead(p, &g, rows);
        if (n == 1 || net > p->best_net)
            p->best_net = net;
        if (net > best) {
            best = net;
            most = n;
        }
    }
    for (int32_t i = most; i < n; i++)
        order[i]->draft = 0;
    return most;
}

/* One that is not expected to gain, asked again after it was left alone for longest, where that has been saved for. */
static void probe(struct plan *p)
{
    struct plan_session *oldest = NULL;
    for (int32_t i = 0; i < p->n; i++) {
        struct plan_session *s = &p->s[i];
        if (may_draft(s) && (!oldest || s->account->probed < oldest->account->probed))
            oldest = s;
    }
    int32_t whole = oldest ? oldest->unread + (p->parallel ? oldest->depth : 1) : 0;
    int32_t rows = whole < READ_MAX ? whole : READ_MAX;
    double ns = cost_at(&p->level, rows);
    if (!rows || p->probe_ns < ns)
        return;
    p->probe_ns -= ns;
    p->figures.probes++;
    if (rows > oldest->unread)
        oldest->draft = 1;
    else
        oldest->read = rows;
}

/* A session whose draft is far behind its text: reading pays where much is still to come and drafting would be worth it. */
static void invest(struct plan *p)
{
    double room = READ_SLOWDOWN * p->off_ns, a_row = cost_at(&p->level, READ_MAX) / READ_MAX;
    int32_t k = 0; /* that would share the draft's passes */
    for (int32_t i = 0; i < p->n; i++)
        k += may_draft(&p->s[i]);
    for (int32_t i = 0; i < p->n && room > 0 && p->worth > 0; i++) {
        struct plan_session *s = &p->s[i];
        if (!may_draft(s) || s->unread <= NEAR || s->read)
            continue;
        double more = p->answer_len - s->given;
        more = more > s->given ? more : s->given; /* who has come far goes far */
        more = more < s->left ? more : s->left;
        struct group g = {0};
        join(p, &g, k, s->hope);
        double saved =
            more * look_ahead(p, &g, p->parallel ? k * s->depth : k) / k / p->worth; /* ns, a token a round */
        if (saved < READ_GAIN * cost_at(&p->level, s->unread))
            continue;
        int32_t rows = a_row > 0 ? (int32_t) (room / a_row) : READ_MAX;
        rows = rows < 8 ? 8 : rows;
        s->read = s->unread < rows ? s->unread : rows;
        room -= s->read * a_row;
    }
}

static int someone_begins(const struct plan *p)
{
    for (int32_t i = 0; i < p->n; i++)
        if (p->s[i].given < FIRST_TOKENS)
            return 1;
    return 0;
}

static void take_fixed(struct plan *p)
{
    for (int32_t i = 0; i < p->n; i++) {
        struct plan_session *s = &p->s[i];
        s->draft = s->mode == PLAN_FIXED && s->depth > 0 && s->nodes > 1;
        s->read = s->draft ? s->unread : 0;
        p->n_rows += s->draft ? s->nodes - 1 : 0;
        p->fixed |= s->mode == PLAN_FIXED;
    }
}

void plan_begin(struct plan *p, struct plan_session *s, int32_t n, int32_t beside, int waiting)
{
    p->s = s;
    p->n = n;
    p->n_rows = n;
    p->beside = beside;
    p->n_draft = 0;
    p->spent_ns = p->foreseen_ns = p->best_net = 0;
    p->passes = p->fixed = 0;
    p->n_levels = 0;
    p->off_ns = p->overhead_ns[0] + target_ns(p, n);
    p->worth = p->off_ns > 0 ? p->speedup * n / p->off_ns : 0;
    for (int32_t i = 0; i < n; i++) {
        s[i].draft = s[i].read = 0;
        s[i].expect = 0;
    }
    take_fixed(p);
    p->reason = p->off_ns <= 0                          ? PLAN_MEASURED
                : !p->fixed && rests(p)                 ? PLAN_RESTED
                : !p->fixed && someone_is_owed(p)       ? PLAN_OWED
                : waiting || someone_begins(p)          ? PLAN_WAITED
                : !p->fixed && p->unmeasured >= MEASURE ? PLAN_MEASURED
                                                        : PLAN_NO_GAIN;
    if (p->reason == PLAN_NO_GAIN && choose(p) == 0)
        probe(p);
    for (int32_t i = 0; i < n; i++) {
        p->n_draft += s[i].draft;
        if (s[i].draft) {
            s[i].read = s[i].unread;
            s[i].account->probed = p->rounds;
        }
    }
    if (p->reason == PLAN_NO_GAIN)
        invest(p);
}

int plan_is_plain(const struct plan *p)
{
    return p->reason == PLAN_MEASURED || p->reason == PLAN_RESTED || p->reason == PLAN_OWED;
}

/* --- how deep --- */

int plan_level(const struct plan *p, int32_t rows, float gain)
{
    return p->right * gain > price(p) * (cost_at(&p->level, rows) + rows * row_ns(p));
}

void plan_note_level(struct plan *p, int32_t rows, int32_t unread, double ns)
{
    p->passes += rows > 0;
    p->spent_ns += ns;
    p->foreseen_ns += cost_at(&p->level, rows);
    p->figures.levels += rows > unread;
    p->n_levels += rows > unread;
    if (rows > 0)
        cost_note(&p->level, rows, ns);
}

/* --- how many nodes --- */

struct guess {
    float alive;
    int32_t session;
};

/* All trees' guesses, likeliest first; the order of equals is that of the trees, so that a parent stands before its children.
 * Returns how many. */
static int32_t line_up(const struct plan *p, struct tree *const *tree, struct guess *g)
{
    int32_t n = 0;
    float least = (float) (HOPELESS * price(p) * row_ns(p));
    for (int32_t i = 0; i < p->n; i++) {
        float alive[TREE_MAX] = {1};
        for (int k = 1; k < tree[i]->n && p->s[i].mode == PLAN_AUTO; k++) {
            alive[k] = alive[tree[i]->parent[k]] * tree[i]->conf[k];
            if (p->right * alive[k] < least || (n == ROWS_MAX && alive[k] <= g[n - 1].alive))
                continue;
            int32_t j = n < ROWS_MAX ? n++ : n - 1; /* the least likely gives way */
            for (; j > 0 && g[j - 1].alive < alive[k]; j--)
                g[j] = g[j - 1];
            g[j] = (struct guess){alive[k], i};
        }
    }
    return n;
}

void plan_trim(struct plan *p, struct tree *const *tree, int32_t *nodes)
{
    struct guess g[ROWS_MAX];
    int32_t rows = 0, best_k = 0, n = line_up(p, tree, g);
    for (int32_t i = 0; i < p->n; i++) {
        nodes[i] = p->s[i].mode == PLAN_FIXED ? tree[i]->n : 1;
        rows += nodes[i];
    }
    double net = 0, best = p->passes ? 0 : TRIM_MARGIN * p->n, base = target_ns(p, rows),
           begun = p->passes ? 0 : extra_ns(p);
    double limit = p->reason == PLAN_WAITED ? WAITED * p->off_ns : 0; /* ns; 0: none */
    n = plan_is_plain(p) ? 0 : n < p->rows_max - rows ? n : p->rows_max - rows;
    for (int32_t k = 0; k < n; k++) {
        net += p->right * g[k].alive;
        p->s[g[k].session].expect += g[k].alive;
        double ns = target_ns(p, rows + k + 1);
        double gain = net - price(p) * (ns - base + begun);
        if (gain > best && (!limit || p->overhead_ns[0] + extra_ns(p) + p->spent_ns + ns <= limit)) {
            best = gain;
            best_k = k + 1;
        }
    }
    p->gain = 0;
    for (int32_t k = 0; k < n; k++)
        if (k < best_k) {
            nodes[g[k].session]++;
            p->gain += g[k].alive;
        } else {
            p->s[g[k].session].expect -= g[k].alive;
        }
    if (best_k && p->reason == PLAN_NO_GAIN)
        p->reason = p->n_draft ? PLAN_DRAFTED : PLAN_LOOKED;
    p->n_rows = rows + best_k;
}

/* --- what came of it --- */

static double follow(double mean, double x, double how_fast)
{
    return mean > 0 ? mean + how_fast * (x - mean) : x;
}

static void settle(struct plan_account *a, double tokens, double expected, double rounds)
{
    double off = tokens - expected;
    a->credit += tokens - rounds - FADE * a->credit;
    a->luck += off * off - FADE * a->luck;
}

static void settle_rest(struct plan *p, struct plan_rest *r, double tokens, double expected, double rounds)
{
    if (rests(p))
        return;
    settle(&r->account, tokens, expected, rounds);
    if (is_behind(&r->account)) {
        r->next = r->next < REST_FIRST ? REST_FIRST : r->next < REST_MOST / 2 ? 2 * r->next : REST_MOST;
        r->until = p->rounds + r->next;
        r->account = (struct plan_account){0};
    } else if (r->account.credit > most_behind(&r->account)) {
        r->next = 0;
    }
}

/* rounds: without guesses, in the same time. */
static void settle_accounts(struct plan *p, double rounds, const int32_t *tokens)
{
    double sum = 0, expected = 0;
    int n = 0;
    for (int32_t i = 0; i < p->n; i++) {
        double expect = 1 + p->right * (double) p->s[i].expect;
        settle(p->s[i].account, tokens[i], expect, rounds);
        if (p->s[i].mode != PLAN_AUTO)
            continue;
        sum += tokens[i];
        expected += expect;
        n++;
    }
    if (n == 0)
        return;
    settle_rest(p, rest_of(p), sum / n, expected / n, rounds);
    p->speedup += SPEEDUP_FOLLOW * (sum / (n * rounds) - p->speedup);
    p->speedup = p->speedup < 1 ? 1 : p->speedup;
    if (p->gain > 0) {
        double weight = RIGHT_FOLLOW * p->gain, share = (sum - n) / p->gain;
        p->right += (weight < 1 ? weight : 1) * (share - p->right);
        p->right = p->right < RIGHT_LEAST       ? RIGHT_LEAST
                   : p->right > 1 / RIGHT_LEAST ? 1 / RIGHT_LEAST
                                                : p->right;
    }
}

/* A round with guesses was to be `planned` longer than one without, and was `longer`. */
static void note_dear(struct plan *p, double planned, double longer)
{
    p->extra_ns[0] += DEAR_FOLLOW * (planned - p->extra_ns[0]);
    p->extra_ns[1] += DEAR_FOLLOW * (longer - p->extra_ns[1]);
    double dear = (p->off_ns * DEAR_FOLLOW + p->extra_ns[1]) / (p->off_ns * DEAR_FOLLOW + p->extra_ns[0]);
    p->dear = dear < 1 / DEAR_MOST ? 1 / DEAR_MOST : dear > DEAR_MOST ? DEAR_MOST : dear;
}

void plan_note(struct plan *p, int32_t rows, double ns, double round_ns, const int32_t *tokens)
{
    if (p->n == 0)
        return;
    int plain = !p->passes && rows == p->n + p->beside;
    double *overhead = &p->overhead_ns[!plain], other = round_ns - ns - p->spent_ns;
    double planned = *overhead + p->foreseen_ns + cost_at(&p->target, rows);
    p->rounds++;
    p->probe_ns += PROBE_SHARE * round_ns;
    p->probe_ns = fmin(p->probe_ns, PROBE_SHARE * SAVE_ROUNDS * p->off_ns);
    p->unmeasured = plain ? 0 : p->unmeasured + 1;
    p->drafted_on = p->reason == PLAN_DRAFTED || (p->reason == PLAN_MEASURED && p->drafted_on);
    p->figures.rounds[p->reason]++;
    if (p->beside <= BESIDE_MAX)
        cost_note(&p->target, rows, ns);
    if (other > 0 && (*overhead <= 0 || other < p->off_ns))
        *overhead = follow(*overhead, other, OVERHEAD_FOLLOW);
    if (p->off_ns <= 0 || p->fixed)
        return; /* what somebody's own wish costs is in nobody's account */
    double spent = planned > 0 && round_ns > SPIKE * planned ? SPIKE * planned : round_ns;
    if (plain)
        p->bias += BIAS_FOLLOW * (spent / p->off_ns - p->bias);
    else if (planned > p->off_ns)
        note_dear(p, planned - p->off_ns, spent / p->bias - p->off_ns);
    settle_accounts(p, spent / (p->off_ns * p->bias), tokens);
}

void plan_note_answer(struct plan *p, int32_t tokens)
{
    p->answer_len += (tokens - p->answer_len) / 16;
}

static double ms(double ns)
{
    return ns / 1e6;
}

void plan_say(const struct plan *p, char *text, size_t bytes)
{
    double token = p->worth > 0 ? ms(1 / p->worth) : 0;
    int rows = p->n_rows - p->n;
    switch (p->n ? p->reason : PLAN_REASONS) {
    case PLAN_DRAFTED:
    case PLAN_LOOKED:
        snprintf(text, bytes,
                 "%d of %d sessions drafted: %d levels in %.2f ms; %d guesses make the target's pass %.2f ms "
                 "longer and are "
                 "worth %.2f tokens of %.2f ms each",
                 p->n_draft, p->n, p->n_levels, ms(p->spent_ns), rows,
                 ms(target_ns(p, p->n_rows) - target_ns(p, p->n)), p->gain, token);
        break;
    case PLAN_NO_GAIN:
        snprintf(text, bytes,
                 "no guesses: the best tree would lose %.2f tokens of %.2f ms; a level takes %.2f ms, a pass "
                 "%.2f ms",
                 -p->best_net, token, ms(cost_at(&p->level, 1)), ms(target_ns(p, p->n)));
        break;
    case PLAN_OWED:
        snprintf(text, bytes,
                 "a session is behind its rate without drafting: no guesses until that is made up for");
        break;
    case PLAN_WAITED:
        snprintf(text, bytes,
                 "somebody waits for the beginning of an answer: no guesses that make a round longer");
        break;
    case PLAN_RESTED:
        snprintf(text, bytes, "guesses were a loss of late, for all together: none for a while");
        break;
    case PLAN_MEASURED:
        snprintf(text, bytes, "a round without guesses, to see what it takes");
        break;
    default:
        snprintf(text, bytes, "nothing runs");
    }
}
