/* cache.c - a file of --pack-cache, read and proved.  See cache.h for what is trusted and why; cache_write.c writes it.
 *
 *     0       struct cpu__cache_head
 *     1024    CPU__CACHE_STAMPS slots: checkpoints, as the system names their files, whose bytes are known to be the ones that were packed
 *     4096    sum of each matrix's source; sum of each CPU__CACHE_CHUNK of the panels
 *     then, at a multiple of CPU__CACHE_ALIGN, the panels as they lie in memory */
#include "cpu/cache_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"

#define CACHE_RACY_NS INT64_C(2000000000) /* the coarsest clock of a file system in use: FAT's two seconds */

double cpu__cache_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

/* --- what the file must be --- */

static uint64_t plan_of(const struct cpu__cache_want *w)
{
    uint64_t h = 0;
    for (int i = 0; i < w->n; i++) {
        const struct cpu__item *x = &w->item[i];
        uint64_t v[] = {h,
                        x->at,
                        (uint64_t) x->m->quant,
                        (uint64_t) x->m->n,
                        (uint64_t) x->m->k,
                        x->m->panel_bytes,
                        (uint64_t) x->t->type,
                        cpu__sum(x->t->name, strlen(x->t->name))};
        h = cpu__sum(v, sizeof v);
    }
    return h;
}

struct cpu__cache_head cpu__cache_head_of(const struct cpu__cache_want *w)
{
    struct cpu__cache_head h = {.magic = CPU__CACHE_MAGIC,
                                .layout = CPU__LAYOUT,
                                .quant = (uint32_t) w->quant,
                                .weights_hash = w->model->weights_hash,
                                .plan = plan_of(w),
                                .n_items = (uint64_t) w->n,
                                .n_chunks = (w->bytes + CPU__CACHE_CHUNK - 1) / CPU__CACHE_CHUNK,
                                .bytes = w->bytes};
    size_t index = (size_t) (h.n_items + h.n_chunks) * sizeof(uint64_t);
    h.at = (CPU__CACHE_INDEX + index + CPU__CACHE_ALIGN - 1) / CPU__CACHE_ALIGN * CPU__CACHE_ALIGN;
    return h;
}

/* The fields that cpu__cache_head_of fills. */
static int same_head(const struct cpu__cache_head *a, const struct cpu__cache_head *b)
{
    return memcmp(a, b, offsetof(struct cpu__cache_head, index_sum)) == 0;
}

int cpu__cache_path(char *path, const struct cpu__cache_want *w, const char *suffix)
{
    struct cpu__cache_head h = cpu__cache_head_of(w);
    uint64_t key[] = {h.weights_hash, h.plan, h.layout, h.quant};
    int n = snprintf(path, PATH_MAX, "%s/%016llx.pack%s", w->dir,
                     (unsigned long long) cpu__sum(key, sizeof key), suffix);
    return n < PATH_MAX ? 0 : ST_INPUT;
}

/* --- reading one --- */

struct reading {
    const struct cpu__cache_want *want;
    struct cpu *cpu;
    char path[PATH_MAX];
    char *map;
    size_t map_bytes;
    const struct cpu__cache_head *head; /* in the mapping, as the two below */
    const uint64_t *source, *chunk;
    _Atomic int spoiled; /* chunks whose sum is another */
};

/* Once, by whoever gives up. */
__attribute__((format(printf, 2, 3))) static int refuse(const struct reading *r, const char *why, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, why);
    vsnprintf(text, sizeof text, why, ap);
    va_end(ap);
    log_warn("pack cache: %s %s; packing anew", r->path, text);
    return 0;
}

/* 1: mapped, and as long as it must be. */
static int map_file(struct reading *r)
{
    struct cpu__cache_head want = cpu__cache_head_of(r->want);
    struct stat s;
    int fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        log_info("pack cache: no %s yet; packing", r->path);
        return 0;
    }
    if (fd < 0)
        return refuse(r, "cannot be read: %s", strerror(errno));
    size_t bytes = want.at + want.bytes;
    int ok = fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && (size_t) s.st_size == bytes;
    void *map = ok ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    int why = errno;
    close(fd);
    if (!ok)
        return refuse(r, "has %lld bytes, not %zu", (long long) s.st_size, bytes);
    if (map == MAP_FAILED)
        return refuse(r, "cannot be mapped: %s", strerror(why));
    r->map = map;
    r->map_bytes = bytes;
    return 1;
}

static int check_head(struct reading *r)
{
    struct cpu__cache_head want = cpu__cache_head_of(r->want);
    r->head = (const struct cpu__cache_head *) r->map;
    r->source = (const uint64_t *) (r->map + CPU__CACHE_INDEX);
    r->chunk = r->source + want.n_items;
    if (r->head->sum != cpu__sum(r->head, offsetof(struct cpu__cache_head, sum)))
        return refuse(r, "has a spoiled head");
    if (!same_head(r->head, &want))
        return refuse(r, "is of another model or another layout");
    if (r->head->index_sum !=
        cpu__sum(r->source, (size_t) (want.n_items + want.n_chunks) * sizeof *r->source))
        return refuse(r, "has a spoiled index");
    return 1;
}

uint64_t cpu__cache_chunk_sum(const char *panels, size_t bytes, size_t i)
{
    size_t at = i * CPU__CACHE_CHUNK;
    return cpu__sum(panels + at, bytes - at < CPU__CACHE_CHUNK ? bytes - at : CPU__CACHE_CHUNK);
}

static void prove_thread(void *arg, int thread)
{
    struct reading *r = arg;
    (void) thread;
#ifdef BREAK_CACHE_UNPROVED /* what was mapped is believed */
    return;
#endif
    for (int i; (i = cpu__pool_claim(r->cpu->pool)) < (int) r->head->n_chunks;)
        if (cpu__cache_chunk_sum(r->map + r->head->at, r->head->bytes, (size_t) i) != r->chunk[i])
            atomic_fetch_add(&r->spoiled, 1);
}

static int check_panels(struct reading *r)
{
    cpu__pool_run(r->cpu->pool, prove_thread, r);
    return r->spoiled ? refuse(r, "is spoiled in %d of %d parts", (int) r->spoiled, (int) r->head->n_chunks)
                      : 1;
}

/* --- is the checkpoint the one that was packed? --- */

int cpu__cache_is_settled(const struct model *m)
{
    return m->stamp && m->changed_ns + CACHE_RACY_NS < m->opened_ns;
}

static struct cpu__cache_slot slot_of(const struct model *m)
{
    struct cpu__cache_slot s = {.stamp = m->stamp};
    s.sum = cpu__sum(&s.stamp, sizeof s.stamp);
    return s;
}

static size_t slot_at(uint64_t stamp)
{
    return CPU__CACHE_SLOTS + (size_t) (stamp % CPU__CACHE_STAMPS) * sizeof(struct cpu__cache_slot);
}

static int is_known(const struct reading *r)
{
    struct cpu__cache_slot slot, mine = slot_of(r->want->model);
#ifdef BREAK_CACHE_BY_SAMPLE /* the name, with its hash of samples, is enough */
    return 1;
#endif
    memcpy(&slot, r->map + slot_at(mine.stamp), sizeof slot);
    return cpu__cache_is_settled(r->want->model) && memcmp(&slot, &mine, sizeof slot) == 0;
}

/* So that the next start need not sum the checkpoint.  A slot that is half written is no slot. */
void cpu__cache_remember(int fd, const struct model *m)
{
    struct cpu__cache_slot slot = slot_of(m);
    if (cpu__cache_is_settled(m) && pwrite(fd, &slot, sizeof slot, (off_t) slot_at(slot.stamp)) < 0)
        log_debug("pack cache: the checkpoint's stamp is not kept: %s", strerror(errno));
}

static void remember(const struct reading *r)
{
    int fd = open(r->path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        cpu__cache_remember(fd, r->want->model);
    if (fd >= 0)
        close(fd);
}

/* 1: it is. */
static int check_source(struct reading *r, int *summed)
{
    *summed = !is_known(r);
    if (!*summed)
        return 1;
    for (int i = 0; i < r->want->n; i++) {
        const struct cpu__item *x = &r->want->item[i];
        uint64_t sum;
        if (cpu__matrix_source(x->m, r->cpu, x->t, &sum))
            return refuse(r, "cannot be compared with the checkpoint: no memory");
        if (sum != r->source[i])
            return refuse(r, "was packed from other weights (%s)", x->t->name);
    }
    remember(r);
    return 1;
}

int cpu__cache_load(struct cpu__panels *out, struct cpu *c, const struct cpu__cache_want *w)
{
    struct reading r = {.want = w, .cpu = c};
    double began = cpu__cache_seconds();
    int summed;
    if (!w->model->stamp) {
        log_info("pack cache: not for %s, which lies in no file", w->model->dir);
        return 0;
    }
    if (cpu__cache_path(r.path, w, ""))
        return 0; /* cpu__cache_save says so */
    int ok = map_file(&r) && check_head(&r) && check_source(&r, &summed) && check_panels(&r);
    if (!ok) {
        if (r.map)
            munmap(r.map, r.map_bytes);
        return 0;
    }
    *out = (struct cpu__panels){r.map + r.head->at, w->bytes, r.map, r.map_bytes};
    log_info("pack cache: %zu MB from %s, proved in %.2f s%s", w->bytes / 1000000, r.path,
             cpu__cache_seconds() - began,
             summed ? " with the checkpoint, whose files are not the ones last seen" : "");
    return 1;
}
