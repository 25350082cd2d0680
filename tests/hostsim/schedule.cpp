/* schedule.cpp - who goes next: lowest first, highest first, or by a seed. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

namespace sim
{

static enum order order;
static uint64_t state;
static char name[48];

static int schedule_set(const char *word)
{
    char *end;
    uint64_t seed = 0;
    if (!strcmp(word, "forward")) {
        order = FORWARD;
    } else if (!strcmp(word, "reverse")) {
        order = REVERSE;
    } else if (!strncmp(word, "random:", 7) && word[7] && (seed = strtoull(word + 7, &end, 10), !*end)) {
        order = RANDOM;
    } else {
        return -1;
    }
    state = seed * 0x9e3779b97f4a7c15u + 0x1234567;
    snprintf(name, sizeof name, "%s", word);
    return 0;
}

static void schedule_default(void)
{
    const char *word = getenv("HOSTSIM_SCHED");
    if (name[0])
        return;
    if (schedule_set(word ? word : "forward")) {
        fprintf(stderr, "hostsim: HOSTSIM_SCHED is \"%s\"; it must be forward, reverse or random:SEED\n",
                word);
        exit(2);
    }
}

enum order schedule_order(void)
{
    schedule_default();
    return order;
}

/* splitmix64 */
uint32_t schedule_random(uint32_t n)
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (uint32_t) ((z >> 32) * n >> 32);
}

} // namespace sim

extern "C" int hostsim_schedule(const char *word)
{
    std::lock_guard<std::recursive_mutex> guard(sim::lock);
    return sim::schedule_set(word);
}

extern "C" const char *hostsim_schedule_name(void)
{
    sim::schedule_default();
    return sim::name;
}
