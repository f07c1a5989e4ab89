/* Lets Debian's User Mode Linux run on processors whose extended register state is larger than it knows.
 *
 * UML hands PTRACE_SETREGSET(NT_X86_XSTATE) a buffer of 2696 bytes (HOST_FP_SIZE in arch/x86/um/user-offsets.c), which
 * ends behind AVX-512 and PKRU. Linux takes nothing but the whole of the state (xstateregs_set, arch/x86/kernel/fpu/
 * regset.c: EFAULT otherwise), which is 11008 bytes where there is AMX: each guest would panic at its first process with
 * "ptrace set fp regs failed, errno = 14". Loaded into the kernel by LD_PRELOAD, this adds what is missing, as state in
 * its initial configuration: no guest uses AMX, which a process must ask for. Elsewhere it changes nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

#define HEADER 512           /* where xstate_bv lies: Intel SDM vol. 1, 13.4 */
#define KNOWN ((1ULL << 10) - 1) /* x87 (bit 0) to PKRU (bit 9): what lies in the first 2696 bytes */

/* Static: a kernel stack of UML is 16 KiB. It has one processor and is not preempted in here. */
static char whole[1 << 16] __attribute__((aligned(64)));
static size_t whole_size;

static long get(long pid, struct iovec *wanted)
{
    struct iovec all = {whole, sizeof(whole)};
    long result = syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all);

    if (result < 0)
        return result;
    whole_size = all.iov_len;
    if (wanted->iov_len > all.iov_len)
        wanted->iov_len = all.iov_len;
    memcpy(wanted->iov_base, whole, wanted->iov_len);
    return 0;
}

static long set(long pid, struct iovec *given)
{
    struct iovec all = {whole, whole_size};
    uint64_t present;

    if (!whole_size || given->iov_len >= whole_size || given->iov_len < HEADER + sizeof(present))
        return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
    memset(whole, 0, whole_size);
    memcpy(whole, given->iov_base, given->iov_len);
    memcpy(&present, whole + HEADER, sizeof(present));
    present &= KNOWN;
    memcpy(whole + HEADER, &present, sizeof(present));
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(int, long, void *, void *);
    va_list rest;
    long pid;
    void *address, *data;

    va_start(rest, request);
    pid = va_arg(rest, long); /* a pid_t, in a register of its own all the same */
    address = va_arg(rest, void *);
    data = va_arg(rest, void *);
    va_end(rest);
    if ((uintptr_t)address == NT_X86_XSTATE && request == PTRACE_GETREGSET)
        return get((int)pid, data);
    if ((uintptr_t)address == NT_X86_XSTATE && request == PTRACE_SETREGSET)
        return set((int)pid, data);
    if (!next)
        next = (long (*)(int, long, void *, void *))dlsym(RTLD_NEXT, "ptrace");
    return next(request, (int)pid, address, data);
}
