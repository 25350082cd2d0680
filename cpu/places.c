/* places.c - where this process may compute: its affinity mask, which of those processors share a core, what its cgroups allow.
 *
 * Sources: Documentation/admin-guide/cputopology.rst (thread_siblings_list), admin-guide/cgroup-v2.rst (cpu.max), and
 * scheduler/sched-bwc.rst (version 1's quota and period).  What cannot be read limits nothing: a processor without topology is a
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
static int whole(long long quota, long long period)
{
    return quota <= 0 || period <= 0 || quota / period > INT_MAX ? INT_MAX
           : quota < period                                      ? 1
                                                                 : (int) (quota / period);
}

static int quota_v2(const char *dir)
{
    char path[PATH_MAX + 16], line[100];
    long long quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    return read_line(path, line, sizeof line) && sscanf(line, "%lld %lld", &quota, &period) == 2
               ? whole(quota, period)
               : INT_MAX;
}

static int quota_v1(const char *dir)
{
    char path[PATH_MAX + 32], line[100], other[100];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
    if (!read_line(path, line, sizeof line))
        return INT_MAX;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    return read_line(path, other, sizeof other) ? whole(atoll(line), atoll(other)) : INT_MAX;
}

/* The least of a group and of all above it, up to `top` bytes of its path. */
static int quota_up(char *dir, size_t top, int (*of)(const char *dir))
{
    int least = INT_MAX;
    for (;;) {
        int q = of(dir);
        least = q < least ? q : least;
        char *slash = strrchr(dir, '/');
        if (strlen(dir) <= top || !slash)
            return least;
        *slash = 0;
    }
}

/* One line of /proc/self/cgroup: "0::/path", or "4:cpu,cpuacct:/path". */
static int quota_of_line(const char *root, char *line)
{
    char dir[PATH_MAX];
    char *kinds = strchr(line, ':'), *path = kinds ? strchr(kinds + 1, ':') : NULL;
    if (!path)
        return INT_MAX;
    *path++ = 0;
    kinds++;
    path[strcspn(path, "\n")] = 0;
    if (strcmp(path, "/") == 0)
        *path = 0;
    if (!*kinds) {
        int top = snprintf(dir, sizeof dir, "%s/sys/fs/cgroup", root);
        snprintf(dir + top, sizeof dir - (size_t) top, "%s", path);
        return quota_up(dir, (size_t) top, quota_v2);
    }
    for (char *save, *kind = strtok_r(kinds, ",", &save); kind; kind = strtok_r(NULL, ",", &save))
        if (strcmp(kind, "cpu") == 0) {
            int top = snprintf(dir, sizeof dir, "%s/sys/fs/cgroup/cpu", root);
            snprintf(dir + top, sizeof dir - (size_t) top, "%s", path);
            return quota_up(dir, (size_t) top, quota_v1);
        }
    return INT_MAX;
}

static int quota_of(const char *root)
{
    char path[PATH_MAX], line[PATH_MAX];
    int least = INT_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        int q = quota_of_line(root, line);
        least = q < least ? q : least;
    }
    if (f)
        fclose(f);
    return least;
}

/* --- the whole --- */

void cpu__places_read(struct cpu__places *out, const char *root, const cpu_set_t *mask)
{
    struct processor list[CPU__PLACES_MAX];
    int seen[CPU__PLACES_MAX] = {0}, n = 0;
    *out = (struct cpu__places){.room.quota = quota_of(root)};
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
