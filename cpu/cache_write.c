/* cache_write.c - a file of --pack-cache, written beside the work.  Thread: its own, of the least urgent kind. */
#include "cpu/cache_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"

enum {
    TRIES = 8, /* to lock a name that others rename in the meantime */
    NICE = 10
};

struct cpu__writer {
    pthread_t thread;
    const struct cpu__panels *panels; /* borrows, as the model below */
    const struct model *model;
    struct cpu__cache_head head;
    uint64_t *index; /* owns; (n_items) sources, (n_chunks) sums */
    char path[PATH_MAX], tmp[PATH_MAX];
    _Atomic int stop, done;
    double began;
};

/* --- the file under its other name --- */

/* 1: path still names what fd is: it was not renamed between the two. */
static int is_still(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Open, locked and empty; -1 and errno: EWOULDBLOCK where another daemon is writing it.  What a daemon that was killed left is
 * taken over. */
static int open_locked(const char *path)
{
    int why = EWOULDBLOCK;
    for (int i = 0; i < TRIES; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0)
            return -1;
        int locked = flock(fd, LOCK_EX | LOCK_NB) == 0, still = 0;
        why = locked ? 0 : errno;
        still = is_still(fd, path);
        if (locked && still && ftruncate(fd, 0) == 0)
            return fd;
        why = locked && still ? errno : why;
        close(fd);
        if (still)
            break;
    }
    errno = why ? why : EWOULDBLOCK;
    return -1;
}

/* 0, or errno; ECANCELED: stopped. */
static int put(struct cpu__writer *w, int fd, const void *data, size_t bytes, size_t at)
{
    const char *p = data;
    while (bytes) {
        if (atomic_load(&w->stop))
            return ECANCELED;
        ssize_t n = pwrite(fd, p, bytes < CPU__CACHE_CHUNK ? bytes : CPU__CACHE_CHUNK, (off_t) at);
        if (n < 0 && errno != EINTR)
            return errno;
        n = n < 0 ? 0 : n;
        p += n;
        at += (size_t) n;
        bytes -= (size_t) n;
    }
    return 0;
}

static int is_no_room(int why)
{
    return why == ENOSPC || why == EFBIG || why == EDQUOT;
}

/* The head comes last, though it is the rename that counts. */
static int fill(struct cpu__writer *w, int fd)
{
    struct cpu__cache_head *h = &w->head;
    size_t index = (size_t) (h->n_items + h->n_chunks) * sizeof *w->index;
    int rc = posix_fallocate(fd, 0, (off_t) (h->at + h->bytes)); /* no room is better known at once */
    rc = is_no_room(rc) ? rc : 0;
    for (size_t i = 0; i < h->n_chunks && !rc; i++) {
        size_t at = i * CPU__CACHE_CHUNK,
               n = h->bytes - at < CPU__CACHE_CHUNK ? h->bytes - at : CPU__CACHE_CHUNK;
        w->index[h->n_items + i] = cpu__cache_chunk_sum(w->panels->base, h->bytes, i);
        rc = put(w, fd, w->panels->base + at, n, h->at + at);
    }
    h->index_sum = cpu__sum(w->index, index);
    h->sum = cpu__sum(h, offsetof(struct cpu__cache_head, sum));
    if (!rc)
        rc = put(w, fd, w->index, index, CPU__CACHE_INDEX);
    if (!rc)
        rc = put(w, fd, h, sizeof *h, 0);
    if (!rc)
        cpu__cache_remember(fd, w->model);
    return rc ? rc : fsync(fd) ? errno : 0;
}

static void sync_directory(const char *path)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", path);
    *strrchr(dir, '/') = 0;
    int fd = open(*dir ? dir : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        fsync(fd); /* without it a crash may lose the name, and the next start packs */
    if (fd >= 0)
        close(fd);
}

static void complain(const struct cpu__writer *w, int why)
{
    log_warn("pack cache: %s was not written: %s; served without it, and the next start packs again", w->path,
             is_no_room(why) ? "there is no room for it" : strerror(why));
}

static void write_file(struct cpu__writer *w)
{
    int fd = open_locked(w->tmp);
    if (fd < 0 && errno == EWOULDBLOCK) {
        log_info("pack cache: another daemon is writing %s", w->path);
        return;
    }
    if (fd < 0) {
        complain(w, errno);
        return;
    }
    int rc = fill(w, fd);
    if (!rc && rename(w->tmp, w->path))
        rc = errno;
    if (!rc) {
        sync_directory(w->path);
        log_info("pack cache: %zu MB to %s in %.2f s", (size_t) w->head.bytes / 1000000, w->path,
                 cpu__cache_seconds() - w->began);
    } else {
        unlink(w->tmp);
        if (rc == ECANCELED)
            log_info("pack cache: %s was not finished", w->path);
        else
            complain(w, rc);
    }
    close(fd); /* and with it the lock */
}

static void *work(void *arg)
{
    struct cpu__writer *w = arg;
    setpriority(PRIO_PROCESS, (id_t) gettid(), NICE); /* of this thread: others come first */
    write_file(w);
    atomic_store(&w->done, 1);
    return NULL;
}

int cpu__cache_is_done(const struct cpu__writer *w)
{
    return atomic_load(&w->done);
}

static int start(struct cpu__writer *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

struct cpu__writer *cpu__cache_save(const struct cpu__cache_want *want, const struct cpu__panels *p,
                                    const uint64_t *source)
{
    if (!want->model->stamp)
        return NULL;
    struct cpu__writer *w = calloc(1, sizeof *w);
    struct cpu__cache_head h = cpu__cache_head_of(want);
    if (w) {
        w->head = h;
        w->panels = p;
        w->model = want->model;
        w->began = cpu__cache_seconds();
        w->index = calloc((size_t) (h.n_items + h.n_chunks), sizeof *w->index);
    }
    int rc = !w || !w->index ? ENOMEM : 0;
    if (!rc && (cpu__cache_path(w->path, want, "") || cpu__cache_path(w->tmp, want, ".tmp")))
        rc = ENAMETOOLONG;
    if (!rc && mkdir(want->dir, 0755) && errno != EEXIST)
        rc = errno;
    if (!rc) {
        memcpy(w->index, source, (size_t) want->n * sizeof *source);
        rc = start(w);
    }
    if (!rc)
        return w;
    log_warn("pack cache: nothing is kept in %.300s: %s; served without it", want->dir, strerror(rc));
    free(w ? w->index : NULL);
    free(w);
    return NULL;
}

void cpu__cache_stop(struct cpu__writer *w)
{
    if (!w)
        return;
    atomic_store(&w->stop, 1);
    pthread_join(w->thread, NULL);
    free(w->index);
    free(w);
}
