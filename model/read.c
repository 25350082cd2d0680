/* read.c - files mapped read-only, and JSON parsed strictly. */
#include "model/read.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Names come from outside; a sentence must not carry control sequences to a terminal. */
static void tame(char *s)
{
    for (; *s; s++)
        if ((unsigned char) *s < 0x20 || *s == 0x7f)
            *s = '?';
}

struct model__text model__quote(const char *s)
{
    struct model__text t;
    size_t n = strlen(s), keep = n < sizeof t.s - 4 ? n : sizeof t.s - 4;
    while (keep < n && keep > 0 && ((unsigned char) s[keep] & 0xc0) == 0x80)
        keep--; /* not inside a UTF-8 character */
    memcpy(t.s, s, keep);
    memcpy(t.s + keep, "...", 4);
    if (keep == n)
        t.s[n] = 0;
    tame(t.s);
    return t;
}

struct model__text model__show(const json_t *v)
{
    if (!v)
        return model__quote("missing");
    if (json_is_object(v))
        return model__quote("an object");
    if (json_is_array(v))
        return model__quote("an array");
    char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    struct model__text t = model__quote(s ? s : "?");
    free(s);
    return t;
}

static int join(char path[PATH_MAX], const char *dir, const char *name)
{
    return snprintf(path, PATH_MAX, "%s%s%s", dir ? dir : "", dir ? "/" : "", name);
}

static void label_set(struct model__file *f, const char *dir, const char *name)
{
    char path[PATH_MAX];
    int n = join(path, dir, name);
    size_t len = n < (int) sizeof path ? (size_t) n : sizeof path - 1, room = sizeof f->label - 1;
    size_t cut = len > room ? len - room : 0;
    while (cut && cut < len - 3 && ((unsigned char) path[cut + 3] & 0xc0) == 0x80)
        cut++; /* what follows the "..." is whole UTF-8 */
    memcpy(f->label, path + cut, len - cut);
    f->label[len - cut] = 0;
    if (cut)
        memcpy(f->label, "...", 3);
    tame(f->label);
}

static int64_t ns(struct timespec t)
{
    return (int64_t) t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct model__stamp stamp_of(const struct stat *s)
{
    return (struct model__stamp){(uint64_t) s->st_dev, (uint64_t) s->st_ino, (uint64_t) s->st_size,
                                 ns(s->st_mtim), ns(s->st_ctim)};
}

static int map_fd(struct model__file *f, int fd, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_set(e, ST_IO, "%s: %s", f->label, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(e, ST_IO, "%s: not a regular file", f->label);
    if (st.st_size == 0)
        return err_set(e, ST_FORMAT, "%s: the file is empty", f->label);
    void *p = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_set(e, ST_IO, "%s: cannot map its %lld bytes: %s", f->label, (long long) st.st_size,
                       strerror(errno));
    f->data = p;
    f->bytes = (size_t) st.st_size;
    f->mapped = 1;
    f->stamp = stamp_of(&st);
    return 0;
}

static int open_as(struct model__file *f, const char *dir, const char *name, int missing, struct err *e)
{
    char path[PATH_MAX];
    *f = (struct model__file){0};
    label_set(f, dir, name);
    if (join(path, dir, name) >= (int) sizeof path)
        return err_set(e, ST_IO, "%s: the path is longer than %d bytes", f->label, PATH_MAX - 1);
    /* O_NONBLOCK: a FIFO must not hold us up before we have seen what it is. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(e, errno == ENOENT ? missing : ST_IO, "%s: %s", f->label, strerror(errno));
    int st = map_fd(f, fd, e);
    close(fd);
    return st;
}

int model__file_open(struct model__file *f, const char *dir, const char *name, struct err *e)
{
    return open_as(f, dir, name, ST_NOTFOUND, e);
}

int model__file_need(struct model__file *f, const char *dir, const char *name, struct err *e)
{
    return open_as(f, dir, name, ST_IO, e);
}

void model__file_close(struct model__file *f)
{
    if (f->mapped)
        munmap((void *) f->data, f->bytes);
    *f = (struct model__file){0};
}

int model__file_exists(const char *dir, const char *name)
{
    char path[PATH_MAX];
    struct stat st;
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int) sizeof path && lstat(path, &st) == 0;
}

int model__json_object(json_t **out, const char *label, const void *text, size_t bytes, struct err *e)
{
    json_error_t je;
    *out = NULL;
    if (bytes > MODEL_JSON_MAX)
        return err_set(e, ST_FORMAT, "%s: %zu bytes of JSON; expected at most %d", label, bytes,
                       MODEL_JSON_MAX);
    json_t *v = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &je);
    if (!v)
        return err_set(e, ST_FORMAT, "%s: malformed JSON at line %d, column %d: %s", label, je.line,
                       je.column, model__quote(je.text).s);
    if (!json_is_object(v)) {
        json_decref(v);
        return err_set(e, ST_FORMAT, "%s: the JSON text is an array; expected an object", label);
    }
    *out = v;
    return 0;
}
