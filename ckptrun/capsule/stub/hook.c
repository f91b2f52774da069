/* The start of a hook: a process that heeds every signal, though ckptrun blocks them, and does not outlive ckptrun. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "stub.h"

int hook_main(pid_t parent, char **argv)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
        return 70;
    execvp(argv[0], argv);
    int error = errno;
    fprintf(stderr, "%s cannot be started: %s%s\n", argv[0], strerror(error),
            error == ENOEXEC ? " (a script begins with #! and its interpreter)" : "");
    return error == ENOENT ? 127 : 126;
}
