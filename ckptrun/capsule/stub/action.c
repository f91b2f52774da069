/* CRIU's action script.
 *
 * post-dump: the tree is still stopped. Ask the supervisor whether every byte has been read and the file journal is
 * complete, and wait for its word: CRIU thaws when this program ends, and pages in a pipe are the job's live pages.
 * No word within the deadline, or a supervisor that is gone, fails the dump, which leaves the job running.
 * pre-resume: restored tasks are about to run; set the PID counter above every one of theirs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "stub.h"

static int ask(const char *action)
{
    const char *path = getenv("CKPTRUN_ACTION_SOCKET"), *limit = getenv("CKPTRUN_ACTION_MILLISECONDS");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || !limit || strlen(path) >= sizeof address.sun_path)
        return 1;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return 1;
    /* In one piece: the answer may come, and the other end close, as soon as a first part has arrived. */
    if (send(fd, action, strlen(action), MSG_NOSIGNAL) < 0)
        return 1;
    struct pollfd wait = {fd, POLLIN, 0};
    char answer = 'n';
    if (poll(&wait, 1, (int)number(limit)) != 1 || read(fd, &answer, 1) != 1)
        return 1;
    return answer == 'y' ? 0 : 1;
}

int action_main(const char *action)
{
    if (!strcmp(action, "post-dump"))
        return ask(action);
    if (!strcmp(action, "pre-resume")) {
        const char *last = getenv("CKPTRUN_LAST_PID");
        return last && write_text("/proc/sys/kernel/ns_last_pid", last) ? 1 : 0;
    }
    return 0;
}
