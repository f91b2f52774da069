/* Starts a program inside the capsule for init: credentials, descriptors, PID, filter, exec. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stub.h"

#define HIGH_FD 100
#define MANY_FDS 1024
#define MAX_GROUPS 256
#define IO_URING_SETUP 425 /* the same number on every architecture */

static char **collect(const struct spec *spec, const char *key)
{
    size_t n = 0;
    char **list = calloc(spec->count + 1, sizeof(char *));
    for (size_t i = 0; list && i + 1 < spec->count; i += 2)
        if (!strcmp(spec->words[i], key))
            list[n++] = spec->words[i + 1];
    return list;
}

static const char *value(const struct spec *spec, const char *key)
{
    for (size_t i = 0; i + 1 < spec->count; i += 2)
        if (!strcmp(spec->words[i], key))
            return spec->words[i + 1];
    return NULL;
}

/* Programs fall back when a ring cannot be had; CRIU cannot dump one. */
static int deny_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IO_URING_SETUP, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* Become uid:gid; with `keep`, every capability stays but for those of `without`, ambient, so that the program started
 * keeps them too. */
static int become(const char *uid, const char *gid, char **groups, int keep, char **without)
{
    gid_t list[MAX_GROUPS];
    size_t n = 0;
    for (; groups[n] && n < MAX_GROUPS; n++)
        list[n] = (gid_t)number(groups[n]);
    if (keep && prctl(PR_SET_KEEPCAPS, 1) < 0)
        return -1;
    gid_t g = (gid_t)number(gid);
    uid_t u = (uid_t)number(uid);
    if (setgroups(n, list) < 0 || syscall(SYS_setresgid, g, g, g) < 0 || syscall(SYS_setresuid, u, u, u) < 0)
        return -1;
    if (!keep)
        return 0;
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &head, data) < 0)
        return -1;
    for (; *without; without++)
        data[number(*without) / 32].permitted &= ~(1u << (number(*without) % 32));
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].inheritable = data[i].permitted;
    if (syscall(SYS_capset, &head, data) < 0)
        return -1;
    for (int cap = 0; cap < 64; cap++)
        if (data[cap / 32].permitted & (1u << (cap % 32)))
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    return 0;
}

/* Nothing that is executed from here on may ever have a capability again. */
static int drop_bounding(void)
{
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            return -1;
    return 0;
}

/* Empty what is left of this process's own; the ambient set follows. */
static int drop_capabilities(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    static const struct __user_cap_data_struct none[2];
    return (int)syscall(SYS_capset, &head, none);
}

static int install(const int *fds, int nfds, char **targets, int error_pipe)
{
    int high[64], highest = 2;
    /* Out of the way of the numbers that are about to be filled. */
    if ((error_pipe = fcntl(error_pipe, F_DUPFD_CLOEXEC, HIGH_FD)) < 0)
        return -1;
    for (int i = 0; i < nfds && targets[i]; i++)
        if ((high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, HIGH_FD)) < 0)
            return -1;
    for (int i = 0; i < nfds && targets[i]; i++) {
        int target = (int)number(targets[i]);
        if (dup2(high[i], target) < 0)
            return -1;
        if (target > highest)
            highest = target;
    }
    /* Everything else goes, but for the pipe that reports a failed exec (close-on-exec already). */
    int moved = dup3(error_pipe, highest + 1, O_CLOEXEC);
    if (moved < 0)
        return -1;
    if (syscall(SYS_close_range, (unsigned)moved + 1, ~0u, 0) < 0) /* an old filter: ours are close-on-exec anyway */
        for (int fd = moved + 1; fd < MANY_FDS; fd++)
            close(fd);
    return moved;
}

static int is_target(char **targets, int fd)
{
    while (*targets && (int)number(*targets) != fd)
        targets++;
    return *targets != NULL;
}

static void child(const struct spec *spec, const int *fds, int nfds, int error_pipe)
{
    const char *stage = "signals";
    setsid(); /* so that a program can be ended together with what it has started */
    char text[96];
    /* Not by the library: it refuses its own signals, which a posix_spawn may have left ignored. All zero is SIG_DFL. */
    static const unsigned long plain[8];
    for (int sig = 1; sig < 65; sig++)
        syscall(SYS_rt_sigaction, sig, plain, NULL, 8);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    char **argv = collect(spec, "arg");
    char **envp = collect(spec, "env");
    char **groups = collect(spec, "group");
    char **without = collect(spec, "without-capability");
    const char *cwd = value(spec, "cwd"), *uid = value(spec, "uid"), *gid = value(spec, "gid");
    const char *umask_value = value(spec, "umask");
    int report;
    char **targets = collect(spec, "fd");
    if (value(spec, "folder")) {
        stage = "cwd";
        int count = 0;
        while (targets[count])
            count++;
        if (count >= nfds || fchdir(fds[count]) < 0) {
            report = error_pipe;
            goto failed;
        }
    }
    stage = "descriptors";
    report = install(fds, nfds, targets, error_pipe);
    if (report < 0) {
        report = error_pipe;
        goto failed;
    }
    for (int fd = 0; fd < 3; fd++) {
        if (!is_target(targets, fd))
            close(fd); /* a shim's own was opened outside of its container, and no dump could look it up */
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            goto failed;
    }
    if (umask_value)
        umask((mode_t)number(umask_value));
    stage = "seccomp";
    if (value(spec, "deny-io-uring") && deny_io_uring() < 0)
        goto failed;
    stage = "credentials";
    int drop = value(spec, "drop-bounding") != NULL;
    if (drop && drop_bounding() < 0)
        goto failed;
    if (uid && become(uid, gid, groups, value(spec, "keep-capabilities") != NULL, without) < 0)
        goto failed;
    if (drop && drop_capabilities() < 0)
        goto failed;
    if (value(spec, "no-new-privs") && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        goto failed;
    stage = "cwd";
    if (cwd && chdir(cwd) < 0)
        goto failed;
    stage = "exec";
    execve(argv[0], argv, envp);
failed:
    snprintf(text, sizeof text, "%d %s", errno, stage);
    (void)!write(report, text, strlen(text));
    _exit(127);
}

int spawn(const struct spec *spec, const int *fds, int nfds, const char **stage)
{
    static char failed_stage[96];
    const char *last_pid = value(spec, "last-pid"), *pid_word = value(spec, "pid");
    int pipes[2];
    *stage = "pipe";
    if (pipe2(pipes, O_CLOEXEC) < 0)
        return -errno;
    if (last_pid) {
        *stage = "last-pid";
        int error = write_text("/proc/sys/kernel/ns_last_pid", last_pid);
        if (error)
            return error;
    }
    pid_t set_tid = pid_word ? (pid_t)number(pid_word) : 0;
    struct clone_args args = {.exit_signal = SIGCHLD};
    if (set_tid) {
        args.set_tid = (uint64_t)(uintptr_t)&set_tid;
        args.set_tid_size = 1;
    }
    *stage = "clone";
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0 && !set_tid && (errno == ENOSYS || errno == EPERM))
        pid = fork(); /* a container's filter refuses what it cannot look into */
    if (pid < 0) {
        int error = errno;
        close(pipes[0]);
        close(pipes[1]);
        return -error;
    }
    if (pid == 0)
        child(spec, fds, nfds, pipes[1]);
    close(pipes[1]);
    ssize_t n = read(pipes[0], failed_stage, sizeof failed_stage - 1);
    close(pipes[0]);
    if (n > 0) {
        failed_stage[n] = 0;
        waitpid((pid_t)pid, NULL, 0);
        char *space = strchr(failed_stage, ' ');
        *stage = space ? space + 1 : "child";
        int error = (int)number(failed_stage);
        return error ? -error : -EIO;
    }
    return (int)pid;
}
