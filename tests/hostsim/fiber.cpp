/* fiber.cpp - one stack a CUDA thread, and the switch between two of them.
 *
 * A stack has an inaccessible page below it.  On x86-64 a switch saves the six registers that a call keeps and costs a few
 * nanoseconds; elsewhere ucontext does, at the price of a system call. */
#include "sim.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__) || defined(HOSTSIM_UCONTEXT)
#include <ucontext.h>
#endif

namespace sim
{

enum { STACK_BYTES = 64 * 1024, GUARD_BYTES = 4096 };

static char *stacks;

static char *stack_base(int number)
{
    const size_t each = STACK_BYTES + GUARD_BYTES;
    if (!stacks) {
        void *p = mmap(NULL, each * THREADS_MAX, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            abort();
        stacks = (char *) p;
        for (int i = 0; i < THREADS_MAX; i++)
            if (mprotect(stacks + each * i, GUARD_BYTES, PROT_NONE))
                abort();
    }
    return stacks + each * number;
}

/* Stacks that begin at one place of their pages would share one set of the cache's lines. */
static int colour(int number)
{
    return number % 21 * 192;
}

bool stack_overflowed(const void *p)
{
    const size_t each = STACK_BYTES + GUARD_BYTES;
    if (!stacks || (const char *) p < stacks || (const char *) p >= stacks + each * THREADS_MAX)
        return false;
    return ((const char *) p - stacks) % each < GUARD_BYTES;
}

#if defined(__x86_64__) && !defined(HOSTSIM_UCONTEXT)

asm(".text\n"
    ".align 16\n"
    ".globl hostsim_switch\n"
    ".hidden hostsim_switch\n"
    ".type hostsim_switch, @function\n"
    "hostsim_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size hostsim_switch, .-hostsim_switch\n");
extern "C" void hostsim_switch(void **from, void *to);

void context_switch(struct context *from, const struct context *to)
{
    hostsim_switch(&from->sp, to->sp);
}

void context_make(struct context *c, int number, void (*entry)(void))
{
    void **top = (void **) (stack_base(number) + GUARD_BYTES + STACK_BYTES - colour(number));
    *--top = NULL; /* as if called: 8 below a multiple of 16 */
    *--top = (void *) entry;
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    c->sp = top;
}

#else

static ucontext_t slots[THREADS_MAX], outside;

void context_switch(struct context *from, const struct context *to)
{
    if (!from->sp)
        from->sp = &outside;
    swapcontext((ucontext_t *) from->sp, (ucontext_t *) to->sp);
}

void context_make(struct context *c, int number, void (*entry)(void))
{
    ucontext_t *u = &slots[number];
    getcontext(u);
    u->uc_stack.ss_sp = stack_base(number) + GUARD_BYTES;
    u->uc_stack.ss_size = STACK_BYTES;
    u->uc_link = NULL;
    makecontext(u, entry, 0);
    c->sp = u;
}

#endif

} // namespace sim
