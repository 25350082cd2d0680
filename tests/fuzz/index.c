/* index.c - fuzz: the bytes of model.safetensors.index.json beside two fixed shards.  What is accepted must be what the shards
 * hold, each tensor in the file it lies in. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/safetensors.h"
#include "tests/lib/checkpoint.h"
#include "tests/lib/json_mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t cap);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t cap, unsigned seed);

static char *dir; /* one for the whole run */

static void end(void)
{
    checkpoint_dir_free(dir);
}

/* In memory where there is such a place: on a disk most of an execution is waiting for it. */
static void begin(void)
{
    static const char entry[] = "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   ";
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
    dir = checkpoint_dir_new();
    atexit(end);
    for (int i = 0; i < 2; i++) {
        char header[128];
        snprintf(header, sizeof header, entry, i ? "b" : "a");
        while (strlen(header) % 8)
            header[strlen(header) - 1] = 0;
        checkpoint_raw(dir, i ? "two.safetensors" : "one.safetensors", header, 8);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t cap, unsigned seed)
{
    size_t n = seed % 4 ? json_mutate(data, size, cap, seed) : 0;
    return n ? n : LLVMFuzzerMutate(data, size, cap);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *s;
    struct err e = {0};
    if (!dir)
        begin();
    checkpoint_write(dir, "model.safetensors.index.json", data, size);
    int st = safetensors_open(&s, dir, &e);
    if (st && (s || e.status != st || !strstr(e.text, ".safetensors")))
        abort();
    for (int i = 0; s && i < safetensors_count(s); i++) {
        const struct tensor *t = &safetensors_tensors(s)[i];
        if (strcmp(t->file, strcmp(t->name, "a") == 0 ? "one.safetensors" : "two.safetensors") != 0 ||
            t->bytes != 8)
            abort();
    }
    safetensors_close(s);
    return 0;
}
