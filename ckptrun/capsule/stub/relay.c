/* The terminal relay: holds the pty's master inside the dumped tree and copies to and from two pipes.
 *
 * A job may hold /dev/tty and still be dumped because both ends of its terminal are in the tree; the outer ends are
 * pipes, which CRIU can leave external. Ctrl-Z is passed to the root as SIGTSTP: the job's group is orphaned, so the
 * kernel would ignore it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "stub.h"

static int write_all(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Keys to the job, but for the suspend key where the job's terminal would act on it. */
static void keys(int master, const char *data, size_t size)
{
    struct termios mode;
    size_t from = 0;
    if (tcgetattr(master, &mode) == 0 && (mode.c_lflag & ISIG))
        for (size_t i = 0; i < size; i++)
            if ((cc_t)data[i] == mode.c_cc[VSUSP]) {
                pid_t group = tcgetpgrp(master);
                write_all(master, data + from, i - from);
                from = i + 1;
                if (group > 0)
                    kill(-group, SIGSTOP);
            }
    write_all(master, data + from, size - from);
}

void relay_main(int master, int in, int out, int sizes)
{
    char buffer[16384];
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    struct pollfd polls[3] = {{master, POLLIN, 0}, {in, POLLIN, 0}, {sizes, POLLIN, 0}};
    for (;;) {
        if (poll(polls, 3, -1) < 0)
            continue;
        if (polls[0].revents) {
            ssize_t n = read(master, buffer, sizeof buffer);
            if (n > 0) {
                if (out >= 0 && write_all(out, buffer, (size_t)n) < 0)
                    _exit(0);
            } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
                _exit(0); /* EIO: nobody holds the slave any more */
            }
        }
        if (polls[1].revents) {
            ssize_t n = read(in, buffer, sizeof buffer);
            if (n > 0)
                keys(master, buffer, (size_t)n);
            else if (n == 0)
                polls[1].fd = -1;
        }
        if (polls[2].revents) {
            unsigned short record[2];
            ssize_t n = read(sizes, record, sizeof record);
            if (n == (ssize_t)sizeof record) {
                struct winsize size = {.ws_row = record[0], .ws_col = record[1]};
                ioctl(master, TIOCSWINSZ, &size);
            } else if (n == 0) {
                polls[2].fd = -1;
            }
        }
    }
}
