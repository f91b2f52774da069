/* What the job does to files: reads a fanotify group and appends the job's own events to a log.
 *
 * init is the reader because the kernel counts an event's PID in the reader's PID namespace, also when the process has
 * ended meanwhile: 0 is somebody outside, a low number ckptrun's own program, anything else the job. Events go into the
 * log as the kernel gave them; what they mean is decided in Python (ckptrun/journal).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include "stub.h"

#define LAST_HELPER_PID 299
#define LOG_LIMIT (256L << 20)
#define SEEN (1u << 16) /* a power of two */
#define CONTENT (FAN_MODIFY | FAN_CLOSE_WRITE | FAN_ATTRIB)

static int events = -1, book = -1, failure;
static uint64_t seen[SEEN];

void watch_begin(int events_fd, int log_fd)
{
    events = fcntl(events_fd, F_DUPFD_CLOEXEC, 3);
    book = fcntl(log_fd, F_DUPFD_CLOEXEC, 3);
    failure = events < 0 || book < 0 ? errno : 0;
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

void watch_read(void)
{
    static char in[1 << 16], out[1 << 16];
    while (!failure) {
        ssize_t n = read(events, in, sizeof in);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                give_up(errno);
            return;
        }
        size_t filled = 0;
        struct fanotify_event_metadata *event = (struct fanotify_event_metadata *)in;
        for (; FAN_EVENT_OK(event, n); event = FAN_EVENT_NEXT(event, n)) {
            int lost = (event->mask & FAN_Q_OVERFLOW) != 0;
            if (!lost && (event->pid <= LAST_HELPER_PID || again(event)))
                continue;
            memcpy(out + filled, event, event->event_len);
            filled += event->event_len;
        }
        if (!filled)
            continue;
        errno = EFBIG;
        if (lseek(book, 0, SEEK_END) > LOG_LIMIT || write(book, out, filled) != (ssize_t)filled)
            give_up(errno);
    }
}

int watch_sync(void)
{
    watch_read();
    memset(seen, 0, sizeof seen);
    return failure;
}
