/* internal.h - what the files of draft/ share. */
#ifndef DRAFT_INTERNAL_H
#define DRAFT_INTERNAL_H

#include "cpu/cpu.h"
#include "draft/draft.h"

enum {
    CAND_MAX = 1024, /* guesses one sequence weighs in a round: 64 expansions of 16 children */
    DEPTH_BINS = 4,  /* 1, 2, 3 and 4, deeper */
    RANK_BINS = 4,   /* best, second, third, the rest */
    GAP_BINS = 24,
    CONF_BINS = 5,
    TOP_MAX = 16,
};

/* --- calib.c: how often a guess like this one was kept --- */

/* What the model said of a looked-up guess. */
enum spine_verdict { SPINE_UNSEEN, SPINE_BEST, SPINE_RANKED, SPINE_MISSED, SPINE_VERDICTS };
enum { SPINE_BINS = 10, LUCK_BINS = 4 };

struct calib {
    double spine_hits[SPINE_VERDICTS][LUCK_BINS][SPINE_BINS],
        spine_trials[SPINE_VERDICTS][LUCK_BINS][SPINE_BINS];
    /* [cold, warm]; halved now and then, so that old text fades */
    double hits[2][DEPTH_BINS][RANK_BINS][GAP_BINS], trials[2][DEPTH_BINS][RANK_BINS][GAP_BINS];
    /* That a guess read has a child which is kept, if it is kept itself: by its depth and confidence. */
    double child_hits[2][DEPTH_BINS][CONF_BINS], child_trials[2][DEPTH_BINS][CONF_BINS];
};

/* Where a guess falls: cold by its probability, warm by its rank and the gap between perturbed scores (at T > 0 the chance that
 * a child matches is not q(child)). */
struct calib_key {
    uint8_t warm, depth, rank, gap;
};

/* A looked-up guess: by the model's verdict, how lookup has fared in this text of late, and the length of the match before it. */
struct spine_key {
    uint8_t verdict, luck, len;
};

struct spine_key draft__spine_key(int verdict, float luck, int32_t match);
float draft__spine_conf(const struct calib *c, struct spine_key k);
void draft__spine_note(struct calib *c, struct spine_key k, int kept);

void draft__calib_init(struct calib *c);
struct calib_key draft__calib_key(int warm, int depth, int rank, const float *score, const float *prob,
                                  int n);
float draft__calib_conf(const struct calib *c, struct calib_key k);
void draft__calib_note(struct calib *c, struct calib_key k, int kept);

/* depth, conf: of the guess; 0 and 1: the root. */
int draft__conf_bin(float conf); /* of CONF_BINS */
float draft__child_conf(const struct calib *c, int warm, int depth, float conf);
void draft__child_note(struct calib *c, int warm, int depth, float conf, int kept);

/* --- lookup.c: where the text's end was said before --- */

enum { LOOKUP_GRAMS = 3 };

struct lookup {
    int32_t *head[LOOKUP_GRAMS]; /* own; (mask + 1) newest position with this hash + 1; 0: none */
    int32_t *prev[LOOKUP_GRAMS]; /* own; (room) the one before it, likewise */
    uint32_t mask;
};

int draft__lookup_init(struct lookup *u, int32_t room); /* ST_NOMEM: fini is still due */
void draft__lookup_fini(struct lookup *u);
/* Notes that tok[pos] is there, positions ascending by one; drop takes the newest back. */
void draft__lookup_add(struct lookup *u, const int32_t *tok, int32_t pos);
void draft__lookup_drop(struct lookup *u, const int32_t *tok, int32_t pos);
/* What may follow tok[0..n) and root, at most `most` tokens: returns how many; *len: tokens that matched before them. */
int32_t draft__lookup_find(const struct lookup *u, const int32_t *tok, int32_t n, int32_t root, int32_t most,
                           int32_t *guess, int32_t *len);

/* --- head.c: which rows of the output layer a guess is chosen from --- */

enum {
    HEAD_HOT =
        512, /* panels beyond the limit that are kept: an eighth of a pass over Qwen3's output layer at most is theirs */
    HEAD_RANGES = HEAD_HOT + 2
};

struct head {
    int32_t limit;     /* ids below it are always computed; 0: all are, and nothing below is read */
    int32_t tail;      /* as are those from here on */
    int by_experience; /* 1: only while it pays */
    uint32_t *seen;    /* owns; (panels) when an id of the panel was noted last; 0: it is not computed */
    uint32_t clock;
    int32_t hot[HEAD_HOT]; /* panels between limit and tail that are computed */
    int n_hot, stale;      /* stale: the ranges are not those of hot */
    struct cpu_range part[HEAD_RANGES], rest[HEAD_RANGES]; /* what is computed, what is not */
    int n_part, n_rest;
    int32_t absent;  /* ids of rest */
    int32_t n_clear; /* rows of logits which lack rest */
    double misses[CONF_BINS],
        trials[CONF_BINS]; /* tokens said that were not computed, by the best guess's confidence */
};

int draft__head_init(struct draft *d); /* ST_NOMEM: fini is still due */
void draft__head_fini(struct draft *d);
void draft__head_note(struct draft *d, int32_t tok); /* a text holds it */
/* 1: the next pass is to compute part of the output layer alone. */
int draft__head_narrow(struct draft *d);
/* Logits of n rows of the last pass; part first, then those that are worth the rest.  ST_NOMEM. */
int draft__head_part(struct draft *d, const struct cpu_head_row *row, int n);
int draft__head_rest(struct draft *d, const struct cpu_head_row *row, int n);
/* The first n rows of logits lack the rest again. */
void draft__head_clear(struct draft *d, int n);
/* Whether the rest is worth its time to n guesses, alive so likely, of whose children the likeliest has conf. */
int draft__head_widens(const struct draft *d, const float *alive, const float *conf, int n);
/* said came after a guess whose likeliest child had conf. */
void draft__head_judge(struct draft *d, float conf, int32_t said);

/* --- seq.c: one conversation's tokens and KV --- */

struct cand {
    int32_t tok, parent;     /* parent: index of a candidate; -1: the root */
    int32_t depth, slot;     /* slot: where its KV lies; -1: not read */
    float conf, alive;       /* P(kept | parent kept); product from the root */
    struct calib_key key;    /* of the model's guesses */
    int8_t opened;           /* 1: its children were weighed */
    int8_t ranked;           /* 1: the model's guess (it may have been looked up, too) */
    struct spine_key spine;  /* of the first n_spine, a chain from the root that lookup made */
    struct draw_state state; /* after this token */
};

struct draft_seq {
    int32_t *tok; /* owns; (text_max) noted settled tokens */
    int32_t n_tok;
    int32_t start, n_kv; /* positions start .. n_kv - 1 are in pages; start is a multiple of CPU_PAGE */
    int32_t *page;       /* owns; (pages_cap) page[i] holds start + i * CPU_PAGE ... */
    int32_t n_pages;
    int32_t root_read;    /* 1: the root's KV lies in the pages, at position n_tok */
    struct lookup lookup; /* owns; empty where lookup is off */
    float luck;           /* of late, the share of first guesses by lookup that were right */
    float hope;           /* likewise of the model's; below 0: it has not guessed yet */
    int32_t n_spine;
    int32_t n_cand;
    struct cand *cand;      /* owns; (CAND_MAX) of the last propose */
    struct draft_seq *next; /* while it is a spare one */
};

/* What the model says of a node's children. */
struct ranked {
    int32_t n, tok[TOP_MAX]; /* n: 0: nothing is drawn after it */
    float score[TOP_MAX], prob[TOP_MAX];
};

struct draft {
    struct draft_opts opts;
    struct cpu_kv *kv;  /* owns */
    int32_t *free_page; /* owns; (n_pages) */
    int32_t n_free_pages, n_pages;
    int32_t *free_slot; /* owns; (n_slots) */
    int32_t n_free_slots, n_slots;
    int32_t n_seqs, pages_cap; /* pages_cap: most pages a sequence holds */
    struct draft_seq *spare;   /* owns; empty, for those to come: their memory is warm */
    struct calib calib;
    float hope[2];                /* of all sequences: [cold, warm] */
    struct draw_scratch *scratch; /* owns */
    struct cpu_row *row;          /* owns; (rows_cap) */
    int32_t *tail;                /* owns; (LEVEL_ROWS, TREE_MAX) */
    struct level_row *level;      /* owns; (LEVEL_ROWS) whose logits these are */
    float *logits;                /* owns; (LEVEL_ROWS, stride) */
    struct ranked *ranked;        /* owns; (LEVEL_ROWS) */
    struct head head;
    int64_t stride;
    int32_t rows_cap;
    int32_t
        parallel; /* 1: all levels' guesses come of one pass, and its levels are those of one job after another's */
    int32_t n_offered; /* rows of the level that was offered and not read */
    int32_t width;     /* most guesses of one job in a level */
};

/* Drops what lies before the window of a row at pos and makes room for positions up to pos.  ST_AGAIN: no page. */
int draft__seq_window(struct draft *d, struct draft_seq *s, int32_t pos);
void draft__seqs_fini(struct draft *d); /* the spare ones */
void draft__slots_back(struct draft *d, struct draft_seq *s);

#endif
