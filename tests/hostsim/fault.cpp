/* fault.cpp - a wild address in a kernel becomes a sentence and a lost device, not a dead process. */
#include "sim.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

namespace sim
{

std::recursive_mutex lock;
std::string fault_text;
int fault_error;

static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
enum { N_SIGNALS = 3, ALT_BYTES = 64 * 1024 };
static struct sigaction before[N_SIGNALS];
static stack_t stack_before;
static pthread_t armed;
static bool is_armed;
static char alt_stack[ALT_BYTES];

std::string describe(const void *p)
{
    char text[64];
    if (stack_overflowed(p))
        return "the guard of the thread's own stack of 64 KB";
    if (heap_near(p))
        return heap_describe(p);
    if (smem_near(p))
        return smem_describe(p);
    snprintf(text, sizeof text, "host address %p", p);
    return text;
}

void fault_set(const std::string &sentence)
{
    fault_text = sentence;
    counters.faults++;
    fprintf(stderr, "hostsim: %s\n", sentence.c_str());
}

static void handler(int number, siginfo_t *info, void *)
{
    if (!is_armed || !now || !pthread_equal(armed, pthread_self())) {
        signal(number, SIG_DFL); /* not a kernel's: happens again, by the default */
        return;
    }
    if (number == SIGFPE)
        hostsim::fault("integer division by zero");
    fault_error = cudaErrorIllegalAddress;
    hostsim::fault("touches %s", describe(info->si_addr).c_str());
}

void fault_arm(void)
{
    struct sigaction a = {};
    stack_t s = {};
    s.ss_sp = alt_stack;
    s.ss_size = sizeof alt_stack;
    sigaltstack(&s, &stack_before);
    a.sa_sigaction = handler;
    a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < N_SIGNALS; i++)
        sigaction(SIGNALS[i], &a, &before[i]);
    armed = pthread_self();
    is_armed = true;
    fault_error = cudaErrorLaunchFailure;
}

void fault_disarm(void)
{
    is_armed = false;
    for (int i = 0; i < N_SIGNALS; i++)
        sigaction(SIGNALS[i], &before[i], NULL);
    sigaltstack(&stack_before, NULL);
}

} // namespace sim
