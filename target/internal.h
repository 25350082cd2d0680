/* internal.h - what the files of target/ share: pages, sequences, and the border to a backend. */
#ifndef TARGET_INTERNAL_H
#define TARGET_INTERNAL_H

#include "cpu/cpu.h"
#include "target/target.h"

enum { TARGET_PAGE = CPU_PAGE };

/* --- pages.c: who holds which page, and which whole pages hold which tokens --- */

struct page_info {
    int32_t refs;         /* sequences that hold it */
    int32_t newer, older; /* neighbours in the list of cached pages nobody holds; -1: end */
    int32_t chain;        /* next page of the same hash bucket; -1: end */
    uint64_t serial;      /* names its contents, 0: not published */
    uint64_t parent;      /* serial of the page before it, 0: it is the first */
    int32_t tok[TARGET_PAGE];
};

struct pages {
    int32_t n, n_free, n_idle; /* in all; on the free list; published and held by nobody */
    int32_t *free_list;        /* owns; (n) */
    struct page_info *info;    /* owns; (n) */
    int32_t *bucket;           /* owns; (n_buckets), a power of two */
    int32_t n_buckets;
    int32_t newest, oldest; /* of the idle ones */
    uint64_t serial;        /* last one given */
};

int target__pages_init(struct pages *p, int32_t n);
void target__pages_fini(struct pages *p);

int32_t target__pages_available(const struct pages *p); /* how many target__page_get can give */
int32_t
target__page_get(struct pages *p); /* a page with one reference; -1: none.  Evicts the oldest idle one */
void target__page_ref(struct pages *p, int32_t page);
void target__page_put(struct pages *p, int32_t page);

/* Says that `page`, behind the page whose serial is `parent`, is whole and holds tok[0..TARGET_PAGE).  Returns the serial under
 * which such contents are known: another page's, if one was there first. */
uint64_t target__page_publish(struct pages *p, int32_t page, uint64_t parent, const int32_t *tok);

/* The published page behind `parent` that holds tok; -1: none.  Takes no reference. */
int32_t target__page_find(const struct pages *p, uint64_t parent, const int32_t *tok);

/* --- sequences --- */

struct target_seq {
    int32_t len;      /* settled tokens */
    int32_t n_prompt; /* of these, at the front, read as prompt, by this sequence or whose pages it shares */
    int32_t n_pages;  /* pages held: those of len, and perhaps some taken for a tree that was kept in part */
    int32_t n_published; /* whole pages at the front that have a serial */
    int32_t *page;       /* owns; (pages of a whole context) */
    uint64_t *serial;    /* owns; (likewise) names of the published pages' contents, for the chain */
    int32_t *tok;        /* owns; (likewise, TARGET_PAGE each) settled tokens */
};

/* --- the border to a backend: what differs between the CPU and a GPU --- */

struct target_backend {
    void *self;
    /* Posts one forward pass; fills each item's logits view. */
    int (*submit)(void *self, struct target_item *item, int n);
    /* Posts the copying of accepted rows into pages; path is read when it runs. */
    int (*settle)(void *self, struct target_item *item, const struct path *path, int n);
    int (*wait)(void *self);
    void (*page_copy)(void *self, int32_t to, int32_t from, int32_t n); /* first n positions */
    void (*close)(void *self);
    int two_paths;      /* 1: a prompt's rows have other bits than the same tokens known or in a tree */
    char precision[16]; /* of the weights, for the fingerprint, as the next */
    char family[24];    /* kernel family */
    char device[64];    /* where it runs, for people */
};

int target__cpu_open(struct target_backend *b, const struct target_opts *o, int32_t n_pages, struct err *e);

/* What there is of that number, for people.  ST_UNSUPPORTED and a sentence: nothing these kernels run on. */
int target__cuda_find(int32_t index, char *name, size_t bytes, struct err *e);
/* ctx: tokens of the longest sequence.  Without CUDA in the build, or a driver, or the device: ST_UNSUPPORTED and a sentence. */
int target__cuda_open(struct target_backend *b, const struct target_opts *o, int32_t ctx, int32_t n_pages,
                      struct err *e);
/* Bytes the device has for pages once everything else is there, for sequences of ctx tokens. */
int target__cuda_room(const struct target_opts *o, int32_t ctx, int64_t *bytes, struct err *e);

#endif
