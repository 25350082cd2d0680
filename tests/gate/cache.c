/* cache.c - the pack cache: what is mapped is what would be packed, or it is packed anew.
 *
 * A small checkpoint, its packed file, and everything that may happen to either: spoiled bits, a file cut short, weights changed where
 * no sample lies with every date set back, two daemons at once, a full disk, a directory that is none.  After each the model's panels
 * are those of a model opened without a cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"
#include "cpu/cache_file.h"
#include "tests/lib/checkpoint.h"

#define SOURCE "assets/tiny/draft"

enum { QUANT = CPU_QUANT_Q8, WAIT_SECONDS = 60, WRITERS = 4, LOG_MAX = 8192, OLD_MS = 2100 };

static const char *const files[] = {"config.json", "generation_config.json", "model.safetensors"};

static char *model_dir, *cache_dir;
static struct cpu *cpu;
static char said[LOG_MAX]; /* the log of the last opening */

/* --- files --- */

static void copy(const char *from, const char *to)
{
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char command[600];
        snprintf(command, sizeof command, "cp %s/%s %s/", from, files[i], to);
        assert_int_equal(system(command), 0);
    }
}

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* The one name in the cache directory that ends so; 0: none. */
static int find(const char *suffix, char *path)
{
    DIR *d = opendir(cache_dir);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));) {
        size_t len = strlen(x->d_name), k = strlen(suffix);
        if (len < k || strcmp(x->d_name + len - k, suffix) != 0)
            continue;
        snprintf(path, PATH_MAX, "%s/%s", cache_dir, x->d_name);
        n++;
    }
    closedir(d);
    assert_true(n <= 1);
    return n;
}

static size_t size_of(const char *path)
{
    struct stat s;
    assert_int_equal(stat(path, &s), 0);
    return (size_t) s.st_size;
}

static void flip(const char *path, size_t at, int bit)
{
    unsigned char b;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, (off_t) at), 1);
    b ^= (unsigned char) (1 << bit);
    assert_int_equal(pwrite(fd, &b, 1, (off_t) at), 1);
    close(fd);
}

static void empty_cache(void)
{
    char path[PATH_MAX];
    while (find(".pack", path) || find(".tmp", path))
        assert_int_equal(unlink(path), 0);
}

/* --- openings --- */

struct opened {
    struct model *model;
    struct cpu_model *weights;
};

/* Opens with what is logged on stderr caught; a writer is waited for, as far as it goes. */
static struct opened open_with(struct cpu *c, const char *dir, const char *cache, int quant)
{
    struct opened o;
    struct err e = {0};
    if (model_open(&o.model, dir, &e) || cpu_model_open_cached(&o.weights, c, o.model, quant, cache, &e))
        fail_msg("%s", e.text);
    for (int i = 0; o.weights->writer && !cpu__cache_is_done(o.weights->writer); i++) {
        assert_true(i < WAIT_SECONDS * 100);
        sleep_ms(10);
    }
    return o;
}

static void close_all(struct opened *o)
{
    cpu_model_close(o->weights);
    model_close(o->model);
}

static uint64_t panels_sum(const struct opened *o)
{
    return cpu__sum(o->weights->panels.base, o->weights->panels.bytes);
}

/* Opens through `cache`; returns 1 for panels from a file.  They must be those of an opening without one. */
static int open_through(const char *dir, const char *cache)
{
    FILE *f = tmpfile();
    int keep = dup(STDERR_FILENO);
    assert_non_null(f);
    dup2(fileno(f), STDERR_FILENO);
    struct opened o = open_with(cpu, dir, cache, QUANT);
    int hit = o.weights->writer == NULL;
    uint64_t sum = panels_sum(&o);
    close_all(&o);
    dup2(keep, STDERR_FILENO);
    close(keep);
    rewind(f);
    said[fread(said, 1, sizeof said - 1, f)] = 0;
    fclose(f);
    struct opened plain = open_with(cpu, dir, NULL, QUANT);
    if (sum != panels_sum(&plain))
        fail_msg("panels are not those of the checkpoint; the log: %s", said);
    close_all(&plain);
    return hit && strstr(said, "proved");
}

static void must_say(const char *words)
{
    if (!strstr(said, words))
        fail_msg("the log lacks '%s': %s", words, said);
}

/* A file of the checkpoint as it is, old enough that its dates are trusted. */
static void make_cache(char *path)
{
    empty_cache();
    assert_false(open_through(model_dir, cache_dir));
    must_say("no ");
    must_say(" MB to ");
    assert_int_equal(find(".pack", path), 1);
    assert_true(open_through(model_dir, cache_dir));
}

static int set_up(void **state)
{
    (void) state;
    model_dir = checkpoint_dir_new();
    cache_dir = checkpoint_dir_new();
    copy(SOURCE, model_dir);
    sleep_ms(OLD_MS);
    return cpu_open(&cpu, &(struct cpu_opts){.threads = 2}, NULL);
}

static int tear_down(void **state)
{
    (void) state;
    cpu_close(cpu);
    checkpoint_dir_free(model_dir);
    checkpoint_dir_free(cache_dir);
    return 0;
}

/* --- tests --- */

static void test_found_again(void **state)
{
    char path[PATH_MAX];
    (void) state;
    make_cache(path);
    assert_null(strstr(said, "checkpoint")); /* its dates were enough */
    struct opened other = open_with(cpu, model_dir, cache_dir, CPU_QUANT_BF16);
    assert_non_null(other.weights->writer); /* another file for another precision */
    close_all(&other);
    unlink(path);
    assert_int_equal(find(".pack", path), 1);
    unlink(path);
}

static void test_flipped_bits(void **state)
{
    char path[PATH_MAX];
    (void) state;
    make_cache(path);
    struct cpu__cache_head h;
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, &h, sizeof h, 0), sizeof h);
    close(fd);
    size_t end = size_of(path);
    assert_int_equal(end, h.at + h.bytes);
    size_t at[] = {0,
                   offsetof(struct cpu__cache_head, bytes),
                   sizeof h - 1,
                   CPU__CACHE_INDEX,
                   h.at,
                   h.at + h.bytes / 2,
                   end - 1,
                   CPU__CACHE_INDEX + 8 * h.n_items};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        flip(path, at[i], (int) i % 8);
        if (open_through(model_dir, cache_dir))
            fail_msg("a flipped bit at %zu of %zu was not seen", at[i], end);
        must_say("spoiled");
        must_say("packing anew");
        assert_true(open_through(model_dir, cache_dir));
    }
    flip(path, CPU__CACHE_SLOTS - 1, 0); /* between head and slots lies nothing */
    assert_true(open_through(model_dir, cache_dir));
}

static void test_cut_short(void **state)
{
    char path[PATH_MAX];
    (void) state;
    make_cache(path);
    size_t bytes = size_of(path);
    size_t to[] = {0, 100, CPU__CACHE_INDEX, bytes - 1, bytes + 1, bytes / 2};
    for (size_t i = 0; i < sizeof to / sizeof *to; i++) {
        assert_int_equal(truncate(path, (off_t) to[i]), 0);
        assert_false(open_through(model_dir, cache_dir));
        must_say("bytes, not");
        assert_int_equal(size_of(path), bytes);
        assert_true(open_through(model_dir, cache_dir));
    }
}

/* Where in a tensor of over 64 KB no sample of weights_hash lies. */
static size_t between_samples(void)
{
    struct model *m;
    struct err e;
    size_t at = 0;
    assert_int_equal(model_open(&m, model_dir, &e), 0);
    const struct tensor *t = m->layer[1].gate;
    assert_true(t->bytes > 64 << 10);
    for (int i = 0; i < m->n_tensors; i++)
        if (m->tensor[i].data < t->data)
            at += m->tensor[i].bytes;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/model.safetensors", model_dir);
    uint64_t header;
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, &header, sizeof header, 0), sizeof header);
    close(fd);
    at += 8 + header + t->bytes / 4 + 1;
    model_close(m);
    return at;
}

static uint64_t weights_hash(void)
{
    struct model *m;
    assert_int_equal(model_open(&m, model_dir, NULL), 0);
    uint64_t h = m->weights_hash;
    model_close(m);
    return h;
}

/* One weight of the checkpoint is another; size, name, weights_hash and mtime are what they were. */
static void test_changed_weights(void **state)
{
    char path[PATH_MAX], weights[PATH_MAX];
    struct stat before;
    (void) state;
    make_cache(path);
    uint64_t hash = weights_hash();
    snprintf(weights, sizeof weights, "%s/model.safetensors", model_dir);
    stat(weights, &before);
    for (int i = 0; i < 2; i++) { /* there and back again */
        flip(weights, between_samples(), 5);
        assert_int_equal(utimensat(AT_FDCWD, weights, (struct timespec[]){before.st_atim, before.st_mtim}, 0),
                         0);
        assert_true(weights_hash() == hash);
        assert_false(open_through(model_dir, cache_dir));
        must_say("was packed from other weights");
        assert_true(open_through(model_dir, cache_dir)); /* too young to be trusted by its dates */
        must_say("with the checkpoint");
    }
    sleep_ms(OLD_MS);
    assert_true(open_through(model_dir, cache_dir));
    assert_true(open_through(model_dir, cache_dir));
    assert_null(strstr(said, "checkpoint"));
}

/* The same weights under other dates, or elsewhere, need no packing. */
static void test_touched_and_copied(void **state)
{
    char path[PATH_MAX], weights[PATH_MAX];
    (void) state;
    make_cache(path);
    snprintf(weights, sizeof weights, "%s/model.safetensors", model_dir);
    assert_int_equal(utimensat(AT_FDCWD, weights, NULL, 0), 0);
    assert_true(open_through(model_dir, cache_dir));
    must_say("with the checkpoint");
    char *other = checkpoint_dir_new();
    copy(model_dir, other);
    sleep_ms(OLD_MS);
    assert_true(open_through(other, cache_dir));
    must_say("with the checkpoint");
    assert_true(open_through(other, cache_dir));
    assert_null(strstr(said, "checkpoint"));
    assert_true(open_through(model_dir, cache_dir));
    checkpoint_dir_free(other);
}

static void test_no_directory(void **state)
{
    char path[PATH_MAX];
    (void) state;
    snprintf(path, sizeof path, "%s/config.json/cache", model_dir);
    assert_false(open_through(model_dir, path));
    must_say("Not a directory");
    must_say("served without it");
    assert_false(open_through(model_dir, "/proc/self"));
    must_say("served without it");
    char deep[PATH_MAX + 10];
    memset(deep, 'x', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    assert_false(open_through(model_dir, deep));
    must_say("served without it");
}

/* Where the file should be lies a directory. */
static void test_in_the_way(void **state)
{
    char path[PATH_MAX];
    (void) state;
    make_cache(path);
    unlink(path);
    mkdir(path, 0700);
    assert_false(open_through(model_dir, cache_dir));
    must_say("was not written");
    char tmp[PATH_MAX];
    assert_int_equal(find(".tmp", tmp), 0);
    rmdir(path);
}

static void test_no_room(void **state)
{
    char path[PATH_MAX];
    struct rlimit before, little = {1 << 20, RLIM_INFINITY};
    (void) state;
    empty_cache();
    getrlimit(RLIMIT_FSIZE, &before);
    little.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    assert_false(open_through(model_dir, cache_dir));
    setrlimit(RLIMIT_FSIZE, &before);
    must_say("there is no room for it; served without it");
    assert_int_equal(find(".pack", path) + find(".tmp", path), 0);
}

/* What a killed daemon left is taken over; what a living one is writing is left to it. */
static void test_other_writers(void **state)
{
    char path[PATH_MAX], tmp[PATH_MAX + 8];
    (void) state;
    make_cache(path);
    size_t bytes = size_of(path);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    unlink(path);
    int fd = open(tmp, O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, (off_t) bytes * 3), 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    struct opened o = {0};
    struct err e;
    assert_int_equal(model_open(&o.model, model_dir, &e), 0);
    assert_int_equal(cpu_model_open_cached(&o.weights, cpu, o.model, QUANT, cache_dir, &e), 0);
    assert_non_null(o.weights->writer);
    sleep_ms(100);
    close_all(&o);
    assert_int_equal(find(".pack", path), 0);
    assert_int_equal(size_of(tmp), bytes * 3);
    close(fd); /* killed */
    assert_false(open_through(model_dir, cache_dir));
    assert_int_equal(find(".pack", path), 1);
    assert_int_equal(size_of(path), bytes);
    assert_int_equal(find(".tmp", path), 0);
    assert_true(open_through(model_dir, cache_dir));
}

static void *open_and_close(void *arg)
{
    struct cpu *own;
    uint64_t *sum = arg;
    cpu_open(&own, &(struct cpu_opts){.threads = 1}, NULL);
    struct opened o = open_with(own, model_dir, cache_dir, QUANT);
    *sum = panels_sum(&o);
    close_all(&o);
    cpu_close(own);
    return NULL;
}

static void test_at_once(void **state)
{
    char path[PATH_MAX];
    (void) state;
    for (int round = 0; round < 5; round++) {
        pthread_t thread[WRITERS];
        uint64_t sum[WRITERS];
        empty_cache();
        for (int i = 0; i < WRITERS; i++)
            assert_int_equal(pthread_create(&thread[i], NULL, open_and_close, &sum[i]), 0);
        for (int i = 0; i < WRITERS; i++)
            pthread_join(thread[i], NULL);
        for (int i = 1; i < WRITERS; i++)
            assert_true(sum[i] == sum[0]);
        assert_int_equal(find(".tmp", path), 0);
        assert_int_equal(find(".pack", path), 1);
        assert_true(open_through(model_dir, cache_dir));
    }
}

/* No file, no cache: a model that is made up. */
static void test_made_up(void **state)
{
    struct model *m;
    struct cpu_model *w;
    struct err e;
    char path[PATH_MAX];
    (void) state;
    empty_cache();
    assert_int_equal(model_open(&m, "synth:0.6b:layers=1:dtype=q8", &e), 0);
    assert_int_equal(cpu_model_open_cached(&w, cpu, m, QUANT, cache_dir, &e), 0);
    assert_null(w->writer);
    assert_int_equal(find(".pack", path), 0);
    cpu_model_close(w);
    model_close(m);
}

/* The bytes of panels, by layout and precision: who changes them changes CPU__LAYOUT, or old files would be read as new ones. */
static void pinned_with(struct cpu *c)
{
    static const struct {
        int quant;
        uint64_t sum;
    } pinned[] = {{CPU_QUANT_F32, 0xf0c522bab141e3a7},
                  {CPU_QUANT_BF16, 0xa51b805790c81dcd},
                  {CPU_QUANT_F16, 0x2834774d962edb24},
                  {CPU_QUANT_Q8, 0x50baeb963e7506c1},
                  {CPU_QUANT_Q4, 0x1ed21d13aea08010}};
    enum { N = 40, K = 96 };
    static float values[N * K];
    int others = 0;
    assert_int_equal(CPU__LAYOUT, 1);
    for (int i = 0; i < N * K; i++)
        values[i] = (float) ((i * 7919) % 2003 - 1001) * 0x1p-12f;
    struct tensor t = {
        .name = "t", .file = "f", .type = TENSOR_F32, .n_dims = 2, .dim = {N, K}, .data = values};
    for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++) {
        struct cpu__matrix m;
        struct err e;
        assert_int_equal(cpu__matrix_pack(&m, c, &t, pinned[i].quant, &e), 0);
        uint64_t sum = cpu__sum(m.w, cpu__matrix_bytes(&m));
        if (sum != pinned[i].sum) {
            print_error("%s: 0x%016llx\n", cpu_quant_name(pinned[i].quant), (unsigned long long) sum);
            others++;
        }
        cpu__matrix_free(&m);
    }
    assert_int_equal(others, 0);
}

static void test_layout_is_pinned(void **state)
{
    struct cpu *twin;
    (void) state;
    assert_int_equal(cpu_open(&twin, &(struct cpu_opts){.threads = 1, .isa = CPU_ISA_TWIN}, NULL), 0);
    pinned_with(twin);
    cpu_close(twin);
    pinned_with(cpu);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout_is_pinned), cmocka_unit_test(test_found_again),
        cmocka_unit_test(test_flipped_bits),     cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_changed_weights),  cmocka_unit_test(test_touched_and_copied),
        cmocka_unit_test(test_no_directory),     cmocka_unit_test(test_in_the_way),
        cmocka_unit_test(test_no_room),          cmocka_unit_test(test_other_writers),
        cmocka_unit_test(test_at_once),          cmocka_unit_test(test_made_up),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("gate: pack cache", tests, set_up, tear_down);
}
