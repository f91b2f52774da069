/* What the job does to files: reads a fanotify group and appends the job's own events to a log.
 *
 * init is the reader because the kernel counts an event's PID in the reader's PID namespace, also when the process has
 * ended meanwhile: 0 is somebody outside, a low number ckptrun's own program, anything else the job. Events go into the
 * log as the kernel gave them; what they mean is decided in Python (ckptrun/journal).
 *
 * The agent of a container has no such numbers: what lives and is not below the shim is somebody else's, and what is gone
 * is taken for the job's, but for supervisors. The agent reads before it reaps, so its own programs are not gone. It can be killed while the
 * job runs on: what it has read and not yet written down then lies in memory that outlives it, the batch.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stub.h"

#define LAST_HELPER_PID 299
#define TRIES 3
#define LOG_LIMIT (256L << 20)
#define SEEN (1u << 16) /* a power of two */
#define CONTENT (FAN_MODIFY | FAN_CLOSE_WRITE | FAN_ATTRIB)

#define BATCH (1u << 16)

static int events = -1, book = -1, failure;
static pid_t above;     /* the shim; 0 in a capsule */
static pid_t others[2]; /* the supervisor, and the one before it that began the watch: they may be gone */
static uint64_t seen[SEEN];
static char mine[BATCH];
static char *in = mine; /* the batch */

void watch_below(pid_t shim, pid_t supervisor)
{
    above = shim;
    others[0] = supervisor;
}

void watch_after(pid_t former)
{
    others[1] = former;
}

/* Whether one that is gone is taken for the job's. */
static int gone(pid_t pid)
{
    return pid != others[0] && pid != others[1];
}

/* A process's parent; 0: it has none here, or is one that has ended, -1: it is gone. */
static pid_t parent_of(pid_t pid)
{
    char path[32], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return -1;
    text[n] = 0;
    char *at = strrchr(text, ')');
    return at && strlen(at) > 4 ? (pid_t)number(at + 4) : -1;
}

/* Whether the job has done it; `pid` is the author as the kernel tells it to this process. */
static int by_the_job(pid_t pid)
{
    if (!above)
        return pid > LAST_HELPER_PID;
    if (pid <= 0)
        return 0;
    for (int tries = 0; tries < TRIES; tries++) { /* a parent may end on the way: its children are another's then */
        pid_t at = parent_of(pid);
        if (at < 0)
            return gone(pid);
        while (at > 0 && at != above)
            at = parent_of(at);
        if (at >= 0)
            return at == above;
    }
    return gone(pid);
}

int watch_fd(void)
{
    return failure ? -1 : events;
}

/* Nobody may go on collecting events for a reader that has given up: the queue has no limit. */
static void give_up(int reason)
{
    failure = reason ? reason : EIO;
    close(events);
    close(book);
}

/* Whether the same change of content or attributes has been written down since the last `watch_sync`. */
static int again(const struct fanotify_event_metadata *event)
{
    if (event->mask & ~(uint64_t)CONTENT)
        return 0;
    uint64_t hash = 14695981039346656037u ^ event->mask;
    const unsigned char *at = (const unsigned char *)event + event->metadata_len;
    for (const unsigned char *end = (const unsigned char *)event + event->event_len; at < end; at++)
        hash = (hash ^ *at) * 1099511628211u;
    uint64_t *slot = &seen[(hash ^ hash >> 32) & (SEEN - 1)];
    if (*slot == hash)
        return 1;
    *slot = hash;
    return 0;
}

/* Write down what of the batch is the job's; `size` bytes of events. */
static void take(ssize_t size)
{
    static char out[BATCH];
    size_t filled = 0;
    struct fanotify_event_metadata *event = (struct fanotify_event_metadata *)in;
    pid_t author = -1;
    int wanted = 0;
    for (ssize_t n = size; FAN_EVENT_OK(event, n); event = FAN_EVENT_NEXT(event, n)) {
        int lost = (event->mask & FAN_Q_OVERFLOW) != 0;
        if (event->pid != author) {
            author = event->pid;
            wanted = by_the_job(author);
        }
        if (!lost && (!wanted || again(event)))
            continue;
        memcpy(out + filled, event, event->event_len);
        filled += event->event_len;
    }
    errno = EFBIG;
    if (filled && (lseek(book, 0, SEEK_END) > LOG_LIMIT || write(book, out, filled) != (ssize_t)filled))
        give_up(errno);
    else if (in != mine)
        memset(in, 0, (size_t)size);
}

/* What another reader has read and not written down, or written down already: twice, it says the same. */
static void take_left(void)
{
    ssize_t size = 0, n = BATCH;
    struct fanotify_event_metadata *event = (struct fanotify_event_metadata *)in;
    for (; FAN_EVENT_OK(event, n); event = FAN_EVENT_NEXT(event, n))
        size += event->event_len;
    take(size);
}

void watch_begin(int events_fd, int log_fd, int batch_fd)
{
    events = fcntl(events_fd, F_DUPFD_CLOEXEC, 3);
    book = fcntl(log_fd, F_DUPFD_CLOEXEC, 3);
    failure = events < 0 || book < 0 ? errno : 0;
    if (batch_fd < 0 || failure)
        return;
    char *shared = mmap(NULL, BATCH, PROT_READ | PROT_WRITE, MAP_SHARED, batch_fd, 0);
    if (shared == MAP_FAILED) {
        failure = errno;
        return;
    }
    in = shared;
    take_left();
}

void watch_read(void)
{
    while (!failure) {
        ssize_t n = read(events, in, BATCH);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                give_up(errno);
            return;
        }
        take(n);
    }
}

int watch_sync(void)
{
    watch_read();
    memset(seen, 0, sizeof seen);
    return failure;
}
