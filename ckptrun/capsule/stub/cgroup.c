/* Joins another process's cgroups, so that its container's limits hold for what is started from here.
 *
 * With cgroups v1 the kernel lets whoever may write there move between containers; with v2, whose hierarchy is delegated
 * namespace by namespace, it does not, and the caller stays where it is. The hierarchies are reached by mounts that are
 * attached nowhere, since a container's own are read-only.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stub.h"

#define FLAG 0
#define STRING 1
#define CREATE 6
#define CLOSE_ON_EXEC 1

/* A mount of the hierarchy that has these controllers; -1: none can be had. */
static int hierarchy(char *controllers)
{
    int fd = (int)syscall(SYS_fsopen, *controllers ? "cgroup" : "cgroup2", CLOSE_ON_EXEC);
    if (fd < 0)
        return -1;
    char *rest = NULL;
    for (char *one = strtok_r(controllers, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
        if (!strncmp(one, "name=", 5)) {
            syscall(SYS_fsconfig, fd, FLAG, "none", NULL, 0);
            syscall(SYS_fsconfig, fd, STRING, "name", one + 5, 0);
        } else {
            syscall(SYS_fsconfig, fd, FLAG, one, NULL, 0);
        }
    }
    int mounted = -1;
    if (syscall(SYS_fsconfig, fd, CREATE, NULL, NULL, 0) == 0)
        mounted = (int)syscall(SYS_fsmount, fd, CLOSE_ON_EXEC, 0);
    close(fd);
    return mounted;
}

void join_cgroups(pid_t pid)
{
    char path[4200], text[8192];
    snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return;
    text[n] = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *controllers = strchr(line, ':'), *place = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!place || strstr(place, "/.."))
            continue;
        *place = 0;
        place += place[1] == '/' ? 2 : 1;
        snprintf(path, sizeof path, "%s%scgroup.procs", place, *place ? "/" : "");
        int mounted = hierarchy(controllers + 1);
        int file = mounted < 0 ? -1 : openat(mounted, path, O_WRONLY | O_CLOEXEC);
        if (file >= 0) {
            (void)!write(file, "0", 1);
            close(file);
        }
        if (mounted >= 0)
            close(mounted);
    }
}
