/* The capsule: fresh namespaces with `init` as PID 1.
 *
 * The caller (the supervisor's main thread) becomes init's parent (CLONE_PARENT), so that its death is told to init by
 * PDEATHSIG; the end of the control socket says the same. init then kills everything in the capsule, writes down what
 * the job had still done to files, and ends; if init is killed the kernel kills everything.
 * An agent is the same without namespaces of its own: it enters a container's, and ends only what it has started itself.
 * Both obey one-line commands on the control socket and report what they reap:
 *   in   "spawn TOKEN" with [spec, fds...] attached; "kill PID SIGNAL"; "watch TOKEN" with [events, log]; "sync TOKEN"
 *   out  "init PID", "ready", "spawned TOKEN PID", "failed TOKEN ERRNO STAGE", "synced TOKEN ERRNO", "exit PID STATUS",
 *        "stop PID"
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stub.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#define MAX_OWN 64
#define WATCH_PAUSE 10 /* milliseconds in which the kernel may merge events before they are read */

static int control = -1;
static int is_agent;
static pid_t parent;          /* the supervisor; 0 when it is outside of this PID namespace */
static pid_t own[MAX_OWN];    /* what an agent has started */

static void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void report(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    while (send(control, line, (size_t)n, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

static int fail(const char *what, const char *detail)
{
    report("failed 0 %d %s %s", errno, what, detail);
    return 1;
}

static int copy_file(int in, const char *to, mode_t mode)
{
    char buffer[65536];
    if (in < 0)
        return -1;
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0)
        return is_agent && errno == EEXIST ? 0 : -1; /* an earlier one's; the name says what is in it */
    ssize_t n;
    while ((n = read(in, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, (size_t)n) != n)
            return -1;
    if (n < 0 || fchmod(out, mode) < 0)
        return -1;
    close(in);
    close(out);
    return 0;
}

/* Give away an empty folder; root without CHOWN makes it anew as whoever shall have it. */
static int give(const char *path, uid_t uid, gid_t gid)
{
    struct stat now;
    if (chown(path, uid, gid) == 0)
        return 0;
    if (errno != EPERM || stat(path, &now) < 0 || rmdir(path) < 0)
        return -1;
    setfsgid(gid);
    setfsuid(uid);
    int made = mkdir(path, 0700) < 0 ? -1 : chmod(path, now.st_mode & 07777);
    setfsuid(geteuid());
    setfsgid(getegid());
    return made;
}

/* Namespaces of the caller itself, before the clone. */
static int enter(const struct spec *spec)
{
    char text[128];
    pid_t container = 0;
    char **lacking = take_along(spec);
    if (lacking)
        return fail(lacking[0], lacking[1]);
    for (size_t i = 0; i < spec->count; i++) {
        char **w = spec->words + i;
        if (!strcmp(w[0], "userns")) {
            if (unshare(CLONE_NEWUSER) < 0)
                return fail("userns", "unshare");
            snprintf(text, sizeof text, "0 %s 1", w[1]);
            if ((errno = -write_text("/proc/self/uid_map", text)))
                return fail("userns", "uid_map");
            if ((errno = -write_text("/proc/self/setgroups", "deny")))
                return fail("userns", "setgroups");
            snprintf(text, sizeof text, "0 %s 1", w[2]);
            if ((errno = -write_text("/proc/self/gid_map", text)))
                return fail("userns", "gid_map");
        } else if (!strcmp(w[0], "clock")) {
            if (unshare(CLONE_NEWTIME) < 0)
                return fail("timens", "unshare");
            snprintf(text, sizeof text, "monotonic %s %s\nboottime %s %s\n", w[1], w[2], w[3], w[4]);
            if ((errno = -write_text("/proc/self/timens_offsets", text)))
                return fail("timens", "offsets");
        } else if (!strcmp(w[0], "enter")) {
            if (enter_container((pid_t)number(w[1])) < 0)
                return fail("namespaces of process", w[1]);
            container = (pid_t)number(w[1]);
        } else if (!strcmp(w[0], "cgroups")) {
            join_cgroups((pid_t)number(w[1]));
        } else if (!strcmp(w[0], "outer")) {
            is_agent = 1;
            watch_below(container, getppid()); /* a capsule's init tells the job by its PIDs */
        }
    }
    return 0;
}

/* The capsule's own view of the file system, step by step as the specification lists it. */
static int furnish(const struct spec *spec)
{
    for (size_t i = 0; i < spec->count; i++) {
        char **w = spec->words + i;
        int bad = 0;
        if (!strcmp(w[0], "mount"))
            bad = mount(w[1], w[2], w[3], (unsigned long)number(w[4]), *w[5] ? w[5] : NULL);
        else if (!strcmp(w[0], "mkdir"))
            bad = mkdir(w[1], (mode_t)number(w[2])) < 0 || chmod(w[1], (mode_t)number(w[2])) < 0;
        else if (!strcmp(w[0], "chown"))
            bad = give(w[1], (uid_t)number(w[2]), (gid_t)number(w[3]));
        else if (!strcmp(w[0], "copy"))
            bad = copy_file(taken_along(i), w[2], (mode_t)number(w[3]));
        else if (!strcmp(w[0], "tree"))
            bad = put_tree(spec, i, w[2]);
        else if (!strcmp(w[0], "hold"))
            bad = hold(i, w[1]);
        else if (!strcmp(w[0], "put"))
            bad = put_tree(spec, i, w[1]);
        else if (!strcmp(w[0], "detach"))
            bad = umount2(w[1], MNT_DETACH);
        else
            continue;
        if (bad)
            return fail(w[0], !strcmp(w[0], "mount") || !strcmp(w[0], "tree") ? w[2] : w[1]);
    }
    return 0;
}

static void command_spawn(const char *token, const int *fds, int nfds)
{
    struct spec spec = {0};
    const char *stage = "spec";
    int pid = nfds > 0 ? spec_read(fds[0], &spec) : -EINVAL;
    if (pid == 0)
        pid = spawn(&spec, fds + 1, nfds - 1, &stage);
    spec_free(&spec);
    for (int i = 0; pid > 0 && i < MAX_OWN; i++)
        if (!own[i]) {
            own[i] = pid;
            break;
        }
    if (pid < 0)
        report("failed %s %d %s", token, -pid, stage);
    else
        report("spawned %s %d", token, pid);
}

/* One command from the supervisor; 0 at the end of the socket. */
static int obey(void)
{
    char line[256];
    int fds[MAX_PASSED], nfds;
    ssize_t n = receive(control, line, sizeof line, fds, &nfds);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    if (n == 0)
        return 0;
    char token[64];
    int pid, sig, former = 0;
    if (sscanf(line, "spawn %63s", token) == 1)
        command_spawn(token, fds, nfds);
    else if (sscanf(line, "kill %d %d", &pid, &sig) == 2)
        kill(pid, sig);
    else if (sscanf(line, "watch %63s %d", token, &former) >= 1 && nfds >= 2) {
        watch_after(former);
        watch_begin(fds[0], fds[1], nfds > 2 ? fds[2] : -1);
        report("synced %s %d", token, watch_sync());
    } else if (sscanf(line, "sync %63s", token) == 1)
        report("synced %s %d", token, watch_sync());
    for (int i = 0; i < nfds; i++)
        close(fds[i]);
    return 1;
}

static void reap(void)
{
    int status;
    pid_t pid;
    if (is_agent)
        watch_read();
    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | __WALL)) > 0) {
        if (WIFSTOPPED(status)) {
            report("stop %d", pid);
            continue;
        }
        for (int i = 0; i < MAX_OWN; i++)
            if (own[i] == pid)
                own[i] = 0;
        report("exit %d %d", pid, status);
    }
}

/* Whether the supervisor has died, of what the signals say; a process in here could send the same one. */
static int orphaned(int signals)
{
    struct signalfd_siginfo info;
    int dead = 0;
    while (read(signals, &info, sizeof info) > 0)
        dead |= info.ssi_signo == SIGTERM && (pid_t)info.ssi_pid == parent;
    return dead;
}

/* Everything in the capsule, or that the agent has started, ends; the log of what the job did to files is completed. */
static int finish(void)
{
    if (!is_agent)
        kill(-1, SIGKILL);
    for (int i = 0; is_agent && i < MAX_OWN; i++)
        if (own[i])
            kill(-own[i], SIGKILL);
    while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR)
        ;
    watch_read();
    return 0;
}

static int init_main(const struct spec *spec)
{
    prctl(PR_SET_NAME, is_agent ? "ckptrun-agent" : "ckptrun-init");
    parent = getppid();
    setsid();
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigaddset(&child, SIGTERM);
    int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (!is_agent && mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return fail("mount", "private");
    if (furnish(spec))
        return 1;
    /* What was opened outside could not be looked up in here, and what init holds its children inherit. */
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++)
        if (null < 0 || dup2(null, fd) < 0)
            return fail("open", "/dev/null");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    report("ready");
    for (int pause = 0;;) {
        struct pollfd polls[3] = {{control, POLLIN, 0}, {signals, POLLIN, 0}, {pause ? -1 : watch_fd(), POLLIN, 0}};
        if (poll(polls, 3, pause ? WATCH_PAUSE : -1) < 0 && errno != EINTR)
            return 1;
        pause = polls[2].revents != 0;
        if (pause)
            watch_read();
        if (polls[1].revents) {
            if (orphaned(signals))
                return finish();
            reap();
        }
        if (polls[0].revents && !obey())
            return finish();
    }
}

int capsule_main(int control_fd, int spec_fd)
{
    struct spec spec;
    control = control_fd;
    fcntl(control, F_SETFD, FD_CLOEXEC);
    if ((errno = -spec_read(spec_fd, &spec)))
        return fail("spec", "read");
    close(spec_fd);
    if (enter(&spec))
        return 1;
    unsigned long flags = CLONE_PARENT | SIGCHLD | (is_agent ? 0 : CLONE_NEWPID | CLONE_NEWNS);
    long pid = syscall(SYS_clone, flags, 0, 0, 0, 0);
    if (pid < 0)
        return fail("clone", "namespaces");
    if (pid == 0)
        _exit(init_main(&spec));
    report("init %ld", pid);
    return 0;
}
