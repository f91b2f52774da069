/* Another container's namespaces: entering them, and what must be taken along from here.
 *
 * Paths of ours mean nothing there, so files that are to be copied are opened, and folders that are to be bound are
 * cloned, before the entry.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stub.h"

#define OPEN_TREE_CLONE 1
#define MOVE_MOUNT_F_EMPTY_PATH 4

static int *held; /* by the place of the word in the specification; -1: nothing */

static int clone_tree(const char *path)
{
    return (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | O_CLOEXEC);
}

char **take_along(const struct spec *spec)
{
    if (!(held = malloc((spec->count + 1) * sizeof *held)))
        return spec->words;
    for (size_t i = 0; i < spec->count; i++) {
        char **w = spec->words + i;
        int tree = !strcmp(w[0], "tree");
        held[i] = -1;
        if (!tree && strcmp(w[0], "copy"))
            continue;
        if ((held[i] = tree ? clone_tree(w[1]) : open(w[1], O_RDONLY | O_CLOEXEC)) < 0)
            return w;
    }
    return NULL;
}

int taken_along(size_t word)
{
    return held[word];
}

int hold(size_t word, const char *path)
{
    return (held[word] = clone_tree(path)) < 0 ? -1 : 0;
}

int put_tree(const struct spec *spec, size_t word, const char *path)
{
    int fd = held[word];
    for (size_t i = 0; fd < 0 && i < word; i++)
        if (!strcmp(spec->words[i], "hold") && !strcmp(spec->words[i + 1], path))
            fd = held[i];
    if (syscall(SYS_move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return -1;
    close(fd);
    return 0;
}

int enter_container(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return -1;
    int bad = setns(fd, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWCGROUP);
    int error = errno;
    close(fd);
    errno = error;
    return bad;
}
