/* lane.h - what tests of CUDA sources share: cmocka in C++, and a loop over the schedules (on a GPU: once). */
#ifndef HOSTSIM_TEST_LANE_H
#define HOSTSIM_TEST_LANE_H

#include <cuda_runtime.h>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
}

#include <stdio.h>

#ifdef __SANITIZE_THREAD__
/* The checked build: what orders two accesses is a barrier, not who came first. */
static const char *const SCHEDULES[] = {"forward", "reverse", "random:1"};
#elif defined(HOSTSIM)
static const char *const SCHEDULES[] = {"forward",  "reverse",  "random:1", "random:2", "random:3",
                                        "random:4", "random:5", "random:6", "random:7", "random:8"};
#endif
#ifdef HOSTSIM
#define LANE_SCHEDULE(i) hostsim_schedule(SCHEDULES[i])
#else
static const char *const SCHEDULES[] = {"device"};
#define LANE_SCHEDULE(i) ((void) (i), 0)
#endif
enum { N_SCHEDULES = sizeof SCHEDULES / sizeof SCHEDULES[0] };

#define EACH_SCHEDULE                                                                                        \
    for (int schedule_ = 0; schedule_ < N_SCHEDULES && !LANE_SCHEDULE(schedule_); schedule_++)

#define must(call) must_((call), #call, __FILE__, __LINE__)

static inline void must_(cudaError_t e, const char *what, const char *file, int line)
{
    if (e == cudaSuccess)
        return;
    printf("%s: %s (%s)\n", what, cudaGetErrorString(e), cudaGetErrorName(e));
    _fail(file, line);
}

#endif
