/*
 * Preloaded into user-mode Linux (board.rs). Linux 6.1 knows 2696 bytes of a processor's extended state and gives a process no more
 * than these back. The machine's kernel takes all of the state or nothing, and on processors with AMX there are 11 KB of it: each
 * process of the board would end with EFAULT, init first. Here the rest is added as it is at rest. Linux 6.13 asks for the size.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Of the standard form of XSAVE: the set of components that are not at rest, and the two of AMX in it, which lie behind 2696. */
enum { COMPONENTS = 512 };
static const uint64_t AMX = UINT64_C(3) << 17;

static long set_all(pid_t pid, struct iovec *given) {
    static unsigned char state[64 * 1024] __attribute__((aligned(64)));
    struct iovec all = {state, sizeof state};
    uint64_t components;

    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all) != 0)
        return -1;
    if (given->iov_len < COMPONENTS + sizeof components || given->iov_len >= all.iov_len)
        return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
    memcpy(state, given->iov_base, given->iov_len);
    memcpy(&components, state + COMPONENTS, sizeof components);
    components &= ~AMX;
    memcpy(state + COMPONENTS, &components, sizeof components);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...) {
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE)
        return set_all(pid, data);
    if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) {
        /* The kernel writes the word, libc returns it. */
        long word;
        return syscall(SYS_ptrace, request, pid, address, &word) == 0 ? word : -1;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
