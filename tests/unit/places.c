/* places.c - which processors: siblings counted once, nodes one after the other, quotas of both kinds of cgroups, and never two
 * daemons on one processor. */
#include "cpu/places.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/places.XXXXXX";

static void make_dirs(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

__attribute__((format(printf, 1, 3))) static void put(const char *where, const char *text, ...)
{
    char path[PATH_MAX], name[200];
    va_list ap;
    va_start(ap, text);
    vsnprintf(name, sizeof name, where, ap);
    va_end(ap);
    snprintf(path, sizeof path, "%s/%s", root, name);
    make_dirs(path);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void forget(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s/*", root);
    assert_int_equal(system(command), 0);
}

/* Cores 0 .. n - 1, their siblings n .. 2 n - 1, half of them on each of the nodes. */
static void put_machine(int cores, int nodes, int siblings)
{
    for (int i = 0; i < cores * siblings; i++) {
        char list[40];
        int core = i % cores;
        snprintf(list, sizeof list, siblings == 2 ? "%d,%d\n" : "%d\n", core, core + cores);
        put("sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", list, i);
        put("sys/devices/system/cpu/cpu%d/node%d/cpulist", "", i, core * nodes / cores);
    }
}

static cpu_set_t first(int n)
{
    cpu_set_t m;
    CPU_ZERO(&m);
    for (int i = 0; i < n; i++)
        CPU_SET(i, &m);
    return m;
}

static void siblings_come_last(void **state)
{
    (void) state;
    struct cpu__places p;
    cpu_set_t mask = first(16);
    put_machine(8, 2, 2);
    cpu__places_read(&p, root, &mask);
    assert_int_equal(p.room.processors, 16);
    assert_int_equal(p.room.cores, 8);
    assert_int_equal(p.room.nodes, 2);
    assert_int_equal(p.room.quota, INT_MAX);
    for (int i = 0; i < 16; i++)
        assert_int_equal(p.id[i], i);
    CPU_CLR(0, &mask); /* of core 0 its second processor is left */
    CPU_CLR(1, &mask);
    CPU_CLR(9, &mask); /* of core 1 nothing */
    cpu__places_read(&p, root, &mask);
    static const int want[] = {2, 3, 8, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15};
    assert_int_equal(p.room.processors, 13);
    assert_int_equal(p.room.cores, 7);
    for (int i = 0; i < 13; i++)
        assert_int_equal(p.id[i], want[i]);
    forget();
}

static void without_files(void **state)
{
    (void) state;
    struct cpu__places p;
    cpu_set_t mask = first(3);
    cpu__places_read(&p, root, &mask);
    assert_int_equal(p.room.processors, 3);
    assert_int_equal(p.room.cores, 3);
    assert_int_equal(p.room.nodes, 1);
    assert_int_equal(p.room.quota, INT_MAX);
}

static void quotas(void **state)
{
    (void) state;
    static const struct {
        const char *cgroup, *file, *text, *file2, *text2;
        int quota;
    } list[] = {
        {"0::/\n", "cpu.max", "max 100000\n", NULL, NULL, INT_MAX},
        {"0::/\n", "cpu.max", "350000 100000\n", NULL, NULL, 3},
        {"0::/a/b\n", "a/cpu.max", "200000 100000\n", "a/b/cpu.max", "max 100000\n",
         2}, /* of the group above */
        {"0::/a\n", "a/cpu.max", "50000 100000\n", NULL, NULL, 1},
        {"0::/a\n", "cpu.max", "rubbish\n", "a/cpu.max", "\n", INT_MAX},
        {"4:cpuset:/\n3:cpu,cpuacct:/x\n", "cpu/x/cpu.cfs_quota_us", "400000\n", "cpu/x/cpu.cfs_period_us",
         "100000\n", 4},
        {"3:cpu:/x\n", "cpu/x/cpu.cfs_quota_us", "-1\n", "cpu/x/cpu.cfs_period_us", "100000\n", INT_MAX},
        {"3:cpuset:/x\n", "cpu/x/cpu.cfs_quota_us", "100000\n", "cpu/x/cpu.cfs_period_us", "100000\n",
         INT_MAX},
        {"nonsense\n", "cpu.max", "100000 100000\n", NULL, NULL, INT_MAX},
    };
    cpu_set_t mask = first(2);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct cpu__places p;
        put("proc/self/cgroup", list[i].cgroup);
        put("sys/fs/cgroup/%s", list[i].text, list[i].file);
        if (list[i].file2)
            put("sys/fs/cgroup/%s", list[i].text2, list[i].file2);
        cpu__places_read(&p, root, &mask);
        assert_int_equal(p.room.quota, list[i].quota);
        forget();
    }
}

static void memory_limits(void **state)
{
    (void) state;
    static const struct {
        const char *cgroup, *file, *text, *file2, *text2;
        int64_t bytes;
    } list[] = {
        {"0::/\n", "memory.max", "max\n", NULL, NULL, INT64_MAX},
        {"0::/a/b\n", "a/memory.max", "2147483648\n", "a/b/memory.max", "max\n", INT64_C(2) << 30},
        {"0::/a/b\n", "a/memory.max", "2147483648\n", "a/b/memory.max", "1073741824\n", 1 << 30},
        {"0::/a\n", "a/memory.max", "rubbish\n", NULL, NULL, INT64_MAX},
        {"4:memory:/x\n0::/\n", "memory/x/memory.limit_in_bytes", "4096000\n", NULL, NULL, 4096000},
        {"4:memory:/of/the/host\n", "memory/memory.limit_in_bytes", "4096000\n", NULL, NULL,
         4096000}, /* a container sees its own group as the top */
        {"4:cpu:/x\n", "memory/x/memory.limit_in_bytes", "4096000\n", NULL, NULL, INT64_MAX},
    };
    cpu_set_t mask = first(2);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct cpu__places p;
        put("proc/self/cgroup", list[i].cgroup);
        put("sys/fs/cgroup/%s", list[i].text, list[i].file);
        if (list[i].file2)
            put("sys/fs/cgroup/%s", list[i].text2, list[i].file2);
        cpu__places_read(&p, root, &mask);
        assert_int_equal(p.room.bytes, list[i].bytes);
        forget();
    }
}

/* Processors that no machine of the tests has, so that no daemon beside holds them. */
static struct cpu__places far(int n)
{
    struct cpu__places p = {.room = {.processors = n, .cores = n, .nodes = 1}};
    for (int i = 0; i < n; i++)
        p.id[i] = 100000 + (int) getpid() * 10 + i;
    return p;
}

static void one_daemon_a_processor(void **state)
{
    (void) state;
    struct cpu__places p = far(5);
    int a[5], b[5], c[5], fa[5], fb[5], fc[5];
    assert_int_equal(cpu__places_claim(&p, 2, a, fa), 0);
    assert_int_equal(cpu__places_claim(&p, 2, b, fb), 0);
    assert_true(a[0] == p.id[0] && a[1] == p.id[1] && b[0] == p.id[2] && b[1] == p.id[3]);
    assert_int_equal(cpu__places_claim(&p, 2, c, fc), ST_AGAIN); /* one is left, and stays so */
    assert_int_equal(cpu__places_claim(&p, 1, c, fc), 0);
    assert_int_equal(c[0], p.id[4]);
    cpu__places_release(fa, 2);
    cpu__places_release(fc, 1);
    assert_int_equal(cpu__places_claim(&p, 3, c, fc), 0);
    assert_true(c[0] == p.id[0] && c[1] == p.id[1] && c[2] == p.id[4]);
    cpu__places_release(fb, 2);
    cpu__places_release(fc, 3);
    p.room.cores = 2; /* the others are siblings: not for two threads, but for three */
    assert_int_equal(cpu__places_claim(&p, 1, a, fa), 0);
    assert_int_equal(cpu__places_claim(&p, 2, b, fb), ST_AGAIN);
    assert_int_equal(cpu__places_claim(&p, 3, b, fb), 0);
    cpu__places_release(fa, 1);
    cpu__places_release(fb, 3);
}

static int allowed(void)
{
    cpu_set_t m;
    CPU_ZERO(&m);
    assert_int_equal(sched_getaffinity(0, sizeof m, &m), 0);
    return CPU_COUNT(&m);
}

/* A second pinned pool of all cores is none; when the first is closed there is room again; and this thread alone was moved. */
static void pinned_pools(void **state)
{
    (void) state;
    struct cpu_room room;
    struct cpu *a, *b;
    cpu_set_t before;
    sched_getaffinity(0, sizeof before, &before);
    cpu_room(&room);
    assert_int_equal(room.processors, allowed());
    struct cpu_opts o = {.threads = room.cores, .side = room.cores > 1, .pin = 1};
    assert_int_equal(cpu_open(&a, &o, NULL), 0);
    assert_int_equal(cpu_open(&b, &o, NULL), 0);
    assert_false(cpu_pinned(b));
    cpu_home(b);
    assert_int_equal(allowed(), room.processors);
    if (cpu_pinned(a)) { /* a daemon of this machine may have been first */
        cpu_home(a);
        assert_int_equal(allowed(), 1);
        int here = sched_getcpu();
        if (cpu_side(a)) {
            cpu_home(cpu_side(a));
            assert_int_equal(allowed(), 1);
            assert_int_not_equal(sched_getcpu(), here);
        }
    }
    sched_setaffinity(0, sizeof before, &before);
    cpu_close(b);
    cpu_close(a);
    o.side = o.threads;
    struct err e;
    assert_int_equal(cpu_open(&a, &o, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "apart"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(siblings_come_last),
        cmocka_unit_test(without_files),
        cmocka_unit_test(quotas),
        cmocka_unit_test(memory_limits),
        cmocka_unit_test(one_daemon_a_processor),
        cmocka_unit_test(pinned_pools),
    };
    if (!mkdtemp(root))
        return 1;
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    return bad | rmdir(root);
}
