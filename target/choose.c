/* choose.c - what --device says: which backend, and why. */
#include <stdlib.h>
#include <string.h>

#include "target/internal.h"

static const char cuda_prefix[] = "cuda:";

/* The number behind "cuda:"; -1: there is none. */
static int32_t number_of(const char *name)
{
    char *end;
    if (strncmp(name, cuda_prefix, sizeof cuda_prefix - 1) != 0)
        return -1;
    const char *digits = name + sizeof cuda_prefix - 1;
    long n = strtol(digits, &end, 10);
    return *digits >= '0' && *digits <= '9' && !*end && n < 1024 ? (int32_t) n : -1;
}

int target_device_find(const char *name, int32_t *cuda, struct err *why)
{
    char found[64];
    int automatic = strcmp(name, "auto") == 0;
    *cuda = 0;
    if (strcmp(name, "cpu") == 0)
        return err_set(why, 0, "--device cpu asks for it");
    if (!automatic && number_of(name) < 0)
        return err_set(why, ST_INPUT, "--device takes auto, cpu or cuda:N, not '%s'", name);
    int32_t index = automatic ? 0 : number_of(name);
    int st = target__cuda_find(index, found, sizeof found, why);
    if (st)
        return automatic ? 0 : st;
    *cuda = index + 1;
    return err_set(why, 0, automatic ? "--device auto found %s" : "--device asks for it: %s", found);
}
