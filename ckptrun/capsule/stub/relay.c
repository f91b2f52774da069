/* The terminal relay: holds the pty's master inside the dumped tree and copies to and from two pipes.
 *
 * A job may hold /dev/tty and still be dumped because both ends of its terminal are in the tree; the outer ends are
 * pipes, which CRIU can leave external. The suspend key becomes SIGSTOP: the job's group is orphaned, so the kernel
 * would ignore SIGTSTP.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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

/* Take the suspend key out where the job's terminal would act on it, and act; returns what is left. */
static size_t without_suspend(int master, char *data, size_t size)
{
    struct termios mode;
    if (tcgetattr(master, &mode) < 0 || !(mode.c_lflag & ISIG) || mode.c_cc[VSUSP] == _POSIX_VDISABLE)
        return size;
    size_t left = 0;
    for (size_t i = 0; i < size; i++) {
        if ((cc_t)data[i] != mode.c_cc[VSUSP]) {
            data[left++] = data[i];
            continue;
        }
        pid_t group = tcgetpgrp(master);
        if (group > 0)
            kill(-group, SIGSTOP);
    }
    return left;
}

/* Write what the terminal takes now; the rest moves to the front. A job that does not read must not stop its output. */
static size_t offer(int master, char *data, size_t size)
{
    ssize_t n = write(master, data, size);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR) ? size : 0;
    memmove(data, data + n, size - (size_t)n);
    return size - (size_t)n;
}

void relay_main(int master, int in, int out, int sizes)
{
    char buffer[16384], held[4096];
    size_t holding = 0;
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
    struct pollfd polls[3] = {{master, POLLIN, 0}, {in, POLLIN, 0}, {sizes, POLLIN, 0}};
    for (;;) {
        polls[0].events = holding ? POLLIN | POLLOUT : POLLIN;
        polls[1].fd = holding ? -1 : in;
        if (poll(polls, 3, -1) < 0)
            continue;
        if (polls[0].revents & ~POLLOUT) {
            ssize_t n = read(master, buffer, sizeof buffer);
            if (n > 0) {
                if (write_all(out, buffer, (size_t)n) < 0)
                    _exit(0);
            } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
                _exit(0); /* EIO: nobody holds the slave any more */
            }
        }
        if (polls[1].fd >= 0 && polls[1].revents) {
            ssize_t n = read(in, held, sizeof held);
            if (n > 0)
                holding = without_suspend(master, held, (size_t)n);
            else if (n == 0)
                in = -1;
        }
        if (holding)
            holding = offer(master, held, holding);
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
