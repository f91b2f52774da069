/* PID 1 of a container: it reaps every orphan, passes signals on to ckptrun, and ends with ckptrun's code.
 *
 *   ckptrun-stub reaper PID
 * Started in place of the ckptrun that was PID 1, whose child PID goes on as ckptrun. So an orphan is never a child of
 * the process that waits for its own children, and a signal that PID 1 would ignore does what it does everywhere.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stub.h"

/* What a terminal sends to its whole foreground group has reached ckptrun already. */
static int seen_already(const siginfo_t *info)
{
    int sig = info->si_signo;
    return info->si_code > 0 && (sig == SIGINT || sig == SIGQUIT || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU ||
                                 sig == SIGWINCH);
}

int reaper_main(pid_t child)
{
    prctl(PR_SET_NAME, "ckptrun-reaper");
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    int terminal = isatty(0);
    for (;;) {
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | __WALL)) > 0) {
            if (pid != child)
                continue;
            if (WIFEXITED(status))
                return WEXITSTATUS(status);
            if (WIFSIGNALED(status))
                return 128 + WTERMSIG(status);
            if (terminal)
                kill(child, SIGCONT); /* no shell is there that would wake what Ctrl-Z has stopped */
        }
        if (pid < 0 && errno == ECHILD)
            return 70;
        siginfo_t info;
        if (sigwaitinfo(&all, &info) > 0 && info.si_signo != SIGCHLD && !seen_already(&info))
            kill(child, info.si_signo);
    }
}
