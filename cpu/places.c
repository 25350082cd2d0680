/* places.c - where this process may compute: its affinity mask, which of those processors share a core, what its cgroups allow.
 *
 * Sources: Documentation/admin-guide/cputopology.rst (thread_siblings_list), admin-guide/cgroup-v2.rst (cpu.max, memory.max),
 * scheduler/sched-bwc.rst and admin-guide/cgroup-v1/memory.rst (version 1's).  What cannot be read limits nothing: a processor without topology is a
 * core of its own, on node 0. */
#include "cpu/places.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct processor {
    int id, core, node; /* core: its lowest sibling's id */
    int rank;           /* how many of its core's are listed before it */
};

/* The first line of a file, or 0. */
static int read_line(const char *path, char *line, int bytes)
{
    FILE *f = fopen(path, "re");
    int ok = f && fgets(line, bytes, f) != NULL;
    if (f)
        fclose(f);
    return ok;
}

static int core_of(const char *root, int id)
{
    char path[PATH_MAX], line[4096];
    snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", root, id);
    return read_line(path, line, sizeof line) && line[0] >= '0' && line[0] <= '9' ? atoi(line) : id;
}

/* A processor's directory holds a link to its node. */
static int node_of(const char *root, int id)
{
    char path[PATH_MAX];
    int node = 0;
    snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d", root, id);
    DIR *d = opendir(path);
    for (struct dirent *x; d && (x = readdir(d));)
        if (sscanf(x->d_name, "node%d", &node) == 1)
            break;
    if (d)
        closedir(d);
    return node;
}

static int by_rank_node_id(const void *a, const void *b)
{
    const struct processor *x = a, *y = b;
    return x->rank != y->rank ? x->rank - y->rank : x->node != y->node ? x->node - y->node : x->id - y->id;
}

/* --- cgroups --- */

/* "200000 100000", "max 100000", or version 1's two numbers: whole processors, at least 1. */
static int64_t whole(long long quota, long long period)
{
    return quota <= 0 || period <= 0 ? INT64_MAX : quota < period ? 1 : quota / period;
}

static int64_t quota_v2(const char *dir)
{
    char path[PATH_MAX + 16], line[100];
    long long quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    return read_line(path, line, sizeof line) && sscanf(line, "%lld %lld", &quota, &period) == 2
               ? whole(quota, period)
               : INT64_MAX;
}

static int64_t quota_v1(const char *dir)
{
    char path[PATH_MAX + 32], line[100], other[100];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
    if (!read_line(path, line, sizeof line))
        return INT64_MAX;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    return read_line(path, other, sizeof other) ? whole(atoll(line), atoll(other)) : INT64_MAX;
}

/* A number of bytes, or "max". */
static int64_t bytes_in(const char *dir, const char *name)
{
    char path[PATH_MAX + 32], line[100];
    long long bytes;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return read_line(path, line, sizeof line) && sscanf(line, "%lld", &bytes) == 1 && bytes >= 0 ? bytes
                                                                                                 : INT64_MAX;
}

static int64_t bytes_v2(const char *dir)
{
    return bytes_in(dir, "memory.max");
}

static int64_t bytes_v1(const char *dir)
{
    return bytes_in(dir, "memory.limit_in_bytes");
}

/* What groups limit. */
static const struct limit {
    const char *kind; /* version 1's name for it */
    int64_t (*v1)(const char *dir), (*v2)(const char *dir);
} processors = {"cpu", quota_v1, quota_v2}, memory = {"memory", bytes_v1, bytes_v2};

/* The least of the group `path` below `top` and of all groups above it. */
static int64_t limit_up(const char *top, const char *path, int64_t (*of)(const char *dir))
{
    char dir[2 * PATH_MAX];
    int64_t least = INT64_MAX;
    snprintf(dir, sizeof dir, "%s%s", top, path);
    for (;;) {
        int64_t x = of(dir);
        least = x < least ? x : least;
        char *slash = strrchr(dir, '/');
        if (strlen(dir) <= strlen(top) || !slash)
            return least;
        *slash = 0;
    }
}

/* One line of /proc/self/cgroup: "0::/path", or "4:cpu,cpuacct:/path". */
static int64_t limit_of_line(const char *root, char *line, const struct limit *l)
{
    char top[PATH_MAX];
    char *kinds = strchr(line, ':'), *path = kinds ? strchr(kinds + 1, ':') : NULL;
    if (!path)
        return INT64_MAX;
    *path++ = 0;
    kinds++;
    path[strcspn(path, "\n")] = 0;
    if (strcmp(path, "/") == 0)
        *path = 0;
    if (!*kinds) {
        snprintf(top, sizeof top, "%s/sys/fs/cgroup", root);
        return limit_up(top, path, l->v2);
    }
    for (char *save, *kind = strtok_r(kinds, ",", &save); kind; kind = strtok_r(NULL, ",", &save))
        if (strcmp(kind, l->kind) == 0) {
            snprintf(top, sizeof top, "%s/sys/fs/cgroup/%s", root, kind);
            return limit_up(top, path, l->v1);
        }
    return INT64_MAX;
}

static int64_t limit_of(const char *root, const struct limit *l)
{
    char path[PATH_MAX], line[PATH_MAX];
    int64_t least = INT64_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        int64_t x = limit_of_line(root, line, l);
        least = x < least ? x : least;
    }
    if (f)
        fclose(f);
    return least;
}

static int quota_of(const char *root)
{
    int64_t quota = limit_of(root, &processors);
    return quota < INT_MAX ? (int) quota : INT_MAX;
}

/* --- the whole --- */

void cpu__places_read(struct cpu__places *out, const char *root, const cpu_set_t *mask)
{
    struct processor list[CPU__PLACES_MAX];
    int seen[CPU__PLACES_MAX] = {0}, n = 0;
    *out = (struct cpu__places){.room = {.quota = quota_of(root), .bytes = limit_of(root, &memory)}};
    for (int id = 0; id < CPU__PLACES_MAX; id++) {
        if (!CPU_ISSET(id, mask))
            continue;
        int core = core_of(root, id);
        core = core < CPU__PLACES_MAX ? core : id;
        list[n++] = (struct processor){id, core, node_of(root, id), seen[core]++};
        out->room.cores += list[n - 1].rank == 0;
    }
    qsort(list, (size_t) n, sizeof *list, by_rank_node_id);
    out->room.processors = n;
    for (int i = 0; i < n; i++) {
        out->id[i] = list[i].id;
        out->room.nodes += i == 0 || (i < out->room.cores && list[i].node != list[i - 1].node);
    }
}

void cpu__places_here(struct cpu__places *out)
{
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) || CPU_COUNT(&mask) == 0) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        for (int i = 0; i < n && i < CPU__PLACES_MAX; i++)
            CPU_SET(i, &mask);
    }
    cpu__places_read(out, "", &mask);
}

void cpu_room(struct cpu_room *out)
{
    struct cpu__places p;
    cpu__places_here(&p);
    *out = p.room;
}

/* --- claims --- */

/* A name of the abstract kind is this machine's (network namespace's), needs no file, and goes with the process. */
static int claim(int id)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int n = snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "outrider-processor-%d", id);
    socklen_t bytes = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + (size_t) n);
    if (fd >= 0 && bind(fd, (struct sockaddr *) &a, bytes)) {
        close(fd);
        return -1;
    }
    return fd;
}

int cpu__places_claim(const struct cpu__places *p, int n, int *place, int *fd)
{
    int got = 0, among = n <= p->room.cores ? p->room.cores : p->room.processors;
    for (int i = 0; i < among && got < n; i++) {
        fd[got] = claim(p->id[i]);
        if (fd[got] >= 0)
            place[got++] = p->id[i];
    }
    if (got == n)
        return 0;
    cpu__places_release(fd, got);
    return ST_AGAIN;
}

void cpu__places_release(const int *fd, int n)
{
    for (int i = 0; i < n; i++)
        close(fd[i]);
}
