/* Makes another process a child-subreaper, from outside of it.
 *
 *   ckptrun-stub subreaper PID
 *
 * While CRIU restores, short-lived processes stand in for dead session leaders; when they end, whatever they have made
 * goes to the nearest subreaper. CRIU gives the job root that attribute only later, so the daemons of a job would end
 * up under init, outside of the tree, and in no further dump. Hence the root is made to call prctl(2) early, while it waits
 * for an image in a system call: the call is made with that call's own instruction, then everything is put back.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stub.h"

#define SYSTEM_CALL_STOP (SIGTRAP | 0x80)
#define ALL_SIGNALS (~0UL)

/* Kernel-internal results (include/linux/errno.h) of a call that is to be made again. */
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

typedef struct user_regs_struct regs_t;

#if defined(__x86_64__)
#define INSTRUCTION_BYTES 2
#define AT(regs) ((regs).rip)

static int is_system_call(unsigned long code)
{
    return (code & 0xffff) == 0x050f;
}

/* What the kernel does on its way back to user space; after a change of registers it no longer does. */
static void settle(regs_t *regs)
{
    long number = (long)regs->orig_rax, result = (long)regs->rax;
    if (number >= 0 && (result == -ERESTARTSYS || result == -ERESTARTNOINTR || result == -ERESTARTNOHAND)) {
        regs->rax = (unsigned long)number;
        regs->rip -= INSTRUCTION_BYTES;
    } else if (number >= 0 && result == -ERESTART_RESTARTBLOCK) {
        regs->rax = SYS_restart_syscall;
        regs->rip -= INSTRUCTION_BYTES;
    }
    regs->orig_rax = (unsigned long)-1;
}

static void prepare(regs_t *regs)
{
    regs->rax = SYS_prctl;
    regs->rdi = PR_SET_CHILD_SUBREAPER;
    regs->rsi = 1;
}

static long result_of(const regs_t *regs)
{
    return (long)regs->rax;
}
#elif defined(__aarch64__)
#define INSTRUCTION_BYTES 4
#define AT(regs) ((regs).pc)

static int is_system_call(unsigned long code)
{
    return (code & 0xffffffff) == 0xd4000001;
}

static void settle(regs_t *regs)
{
    (void)regs; /* here the kernel has done it before the process stops */
}

static void prepare(regs_t *regs)
{
    regs->regs[8] = SYS_prctl;
    regs->regs[0] = PR_SET_CHILD_SUBREAPER;
    regs->regs[1] = 1;
}

static long result_of(const regs_t *regs)
{
    return (long)regs->regs[0];
}
#endif

static int transfer(int request, pid_t pid, regs_t *regs)
{
    struct iovec area = {regs, sizeof *regs};
    return ptrace(request, pid, (void *)NT_PRSTATUS, &area) < 0 ? -1 : 0;
}

static int stops_with(pid_t pid, int wanted)
{
    int status;
    if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
        return 0;
    return WSTOPSIG(status) == wanted;
}

static unsigned long code_at(pid_t pid, unsigned long address)
{
    return (unsigned long)ptrace(PTRACE_PEEKTEXT, pid, (void *)address, NULL);
}

static int calls_prctl(pid_t pid, regs_t regs)
{
    if (!is_system_call(code_at(pid, AT(regs))))
        AT(regs) -= INSTRUCTION_BYTES;
    if (!is_system_call(code_at(pid, AT(regs))))
        return 0;
    prepare(&regs);
    if (transfer(PTRACE_SETREGSET, pid, &regs) < 0)
        return 0;
    for (int stop = 0; stop < 2; stop++) /* where the call begins, and where it ends */
        if (ptrace(PTRACE_SYSCALL, pid, 0, 0) < 0 || !stops_with(pid, SYSTEM_CALL_STOP))
            return 0;
    return transfer(PTRACE_GETREGSET, pid, &regs) == 0 && result_of(&regs) == 0;
}

int subreaper_main(pid_t pid)
{
    if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) < 0)
        return 1;
    regs_t regs;
    uint64_t mask = 0, all = ALL_SIGNALS;
    int done = 0;
    if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && stops_with(pid, SIGTRAP) &&
        ptrace(PTRACE_GETSIGMASK, pid, sizeof mask, &mask) == 0 && transfer(PTRACE_GETREGSET, pid, &regs) == 0) {
        settle(&regs);
        if (ptrace(PTRACE_SETSIGMASK, pid, sizeof all, &all) == 0) {
            done = calls_prctl(pid, regs);
            done = transfer(PTRACE_SETREGSET, pid, &regs) == 0 && done;
            ptrace(PTRACE_SETSIGMASK, pid, sizeof mask, &mask);
        }
    }
    ptrace(PTRACE_DETACH, pid, 0, 0);
    return done ? 0 : 1;
}
