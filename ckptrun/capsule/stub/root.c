/* The job root: the root of every dump.
 *
 * It is part of the job's tree, so whatever it knows travels with the checkpoint. As a child-subreaper it keeps
 * double-forked helpers in the tree; it forwards signals to the job's first process and ends the way that one ends.
 *
 *   ckptrun-stub root MASK ROWS COLS COMMAND...
 * MASK has a bit for each of fd 0, 1, 2 that is the terminal; if it is not zero fds 3, 4, 5 are the relay's input, output
 * and window sizes (4-byte records: rows, columns as 16-bit numbers).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "stub.h"

#define RELAY_DRAIN_TENTHS 20 /* of a second: a background process may hold the terminal for ever */

static pid_t start_relay(int master)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_NAME, "ckptrun-relay");
        relay_main(master, 3, 4, 5);
    }
    return pid;
}

static void run_command(char **argv)
{
    execvp(argv[0], argv);
    int reason = errno;
    dprintf(2, "ckptrun: %s cannot be executed: %s\n", argv[0], strerror(reason));
    _exit(reason == ENOENT || reason == ENOTDIR ? 127 : 126);
}

static pid_t start_job(int mask, const char *slave, char **argv)
{
    pid_t pid = fork();
    if (pid != 0) {
        if (!slave)
            setpgid(pid, pid);
        return pid;
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (slave) {
        setsid();
        int fd = open(slave, O_RDWR);
        if (fd < 0)
            _exit(126);
        ioctl(fd, TIOCSCTTY, 0);
        for (int i = 0; i < 3; i++)
            if (mask & (1 << i))
                dup2(fd, i);
        if (fd > 2)
            close(fd);
        for (int i = 3; i < 6; i++)
            close(i);
    } else {
        setpgid(0, 0);
    }
    run_command(argv);
    return -1;
}

/* End as the job ended, so that whoever waits for the root sees the job's own status. */
static void end_like(int status)
{
    if (WIFSIGNALED(status)) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        int sig = WTERMSIG(status);
        signal(sig, SIG_DFL);
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, sig);
        sigprocmask(SIG_UNBLOCK, &one, NULL);
        kill(getpid(), sig);
        _exit(128 + sig);
    }
    _exit(WEXITSTATUS(status));
}

static void drain_relay(pid_t relay, const sigset_t *set)
{
    struct timespec tenth = {0, 100000000};
    for (int tenths = 0; relay > 0 && tenths < RELAY_DRAIN_TENTHS && waitpid(relay, NULL, WNOHANG) == 0; tenths++)
        sigtimedwait(set, NULL, &tenth);
}

/* Reap everything; 1 when the job's first process has ended, with its status. */
static int reap(pid_t job, int *job_status, int *stopped)
{
    int status, ended = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED)) > 0) {
        if (pid != job)
            continue;
        if (WIFSTOPPED(status) || WIFCONTINUED(status))
            *stopped = WIFSTOPPED(status);
        else {
            *job_status = status;
            ended = 1;
        }
    }
    return ended;
}

/* What a terminal sends goes to the whole foreground group, as it would have there. */
static int from_terminal(int sig)
{
    return sig == SIGINT || sig == SIGQUIT || sig == SIGTSTP || sig == SIGCONT || sig == SIGWINCH;
}

int root_main(int argc, char **argv)
{
    if (argc < 4)
        return 64;
    int mask = (int)number(argv[0]);
    struct winsize size = {.ws_row = (unsigned short)number(argv[1]), .ws_col = (unsigned short)number(argv[2])};
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_NAME, "ckptrun-root");
    setsid();
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);

    int master = -1;
    const char *slave = NULL;
    if (mask) {
        master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 || !(slave = ptsname(master)))
            return 126;
        ioctl(master, TIOCSWINSZ, &size);
    }
    pid_t job = start_job(mask, slave, argv + 3);
    if (job < 0)
        return 126;
    pid_t relay = mask ? start_relay(master) : -1;
    if (mask) {
        close(master);
        for (int i = 3; i < 6; i++)
            close(i);
    }
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    if (null > 2)
        close(null);

    for (;;) {
        int sig = sigwaitinfo(&all, NULL);
        if (sig < 0)
            continue;
        int status = 0, stopped = 0;
        if (sig != SIGCHLD) {
            /* The leader of a terminal's session is in an orphaned group, which ignores SIGTSTP. */
            int passed = sig == SIGTSTP && mask ? SIGSTOP : sig;
            kill(from_terminal(sig) ? -job : job, passed);
            continue;
        }
        if (reap(job, &status, &stopped)) {
            drain_relay(relay, &all);
            end_like(status);
        }
        if (stopped) {
            raise(SIGSTOP); /* init tells the supervisor, which stops too; SIGCONT comes back through here */
            kill(-job, SIGCONT);
        }
    }
}
