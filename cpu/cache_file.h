/* cache_file.h - the layout of a file of --pack-cache; internal to cache.c, which reads it, and cache_write.c. */
#ifndef CPU_CACHE_FILE_H
#define CPU_CACHE_FILE_H

#include <limits.h>
#include <stdarg.h>

#include "cpu/cache.h"

#define CPU__CACHE_MAGIC 0x316b636170727464u /* "dtrpack1" */

enum {
    CPU__CACHE_SLOTS = 1024, /* offset */
    CPU__CACHE_STAMPS = 8,   /* copies of a checkpoint that take turns */
    CPU__CACHE_INDEX = 4096, /* offset */
    CPU__CACHE_CHUNK = 1 << 20,
    CPU__CACHE_ALIGN = 2 << 20 /* the panels': a huge page's, should the file system have them */
};

struct cpu__cache_head {
    uint64_t magic;
    uint32_t layout, quant;
    uint64_t weights_hash, plan, n_items, n_chunks, at, bytes;
    uint64_t index_sum;
    uint64_t sum; /* of all above */
};

struct cpu__cache_slot {
    uint64_t stamp, sum;
};

struct cpu__cache_head cpu__cache_head_of(const struct cpu__cache_want *w); /* without its sums */
/* DIR/NAME.pack and suffix; path: (PATH_MAX).  ST_INPUT: too long. */
int cpu__cache_path(char *path, const struct cpu__cache_want *w, const char *suffix);
uint64_t cpu__cache_chunk_sum(const char *panels, size_t bytes, size_t i);
/* 1: nobody can have touched its files since they were opened without leaving another ctime. */
int cpu__cache_is_settled(const struct model *m);
void cpu__cache_remember(int fd, const struct model *m);
double cpu__cache_seconds(void);

#endif
