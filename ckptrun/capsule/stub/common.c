/* What every part of the helper uses: numbers, small files, specifications. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stub.h"

long number(const char *text)
{
    return strtol(text, NULL, 10);
}

int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t done = write(fd, text, strlen(text));
    int error = done < 0 ? -errno : 0;
    close(fd);
    return error;
}

int spec_read(int fd, struct spec *spec)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    char *data = malloc((size_t)st.st_size + 1);
    if (!data)
        return -ENOMEM;
    size_t size = 0;
    while (size < (size_t)st.st_size) {
        ssize_t n = pread(fd, data + size, (size_t)st.st_size - size, (off_t)size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        size += (size_t)n;
    }
    data[size] = 0;
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += data[i] == 0;
    spec->words = calloc(count + 1, sizeof(char *));
    if (!spec->words)
        return -ENOMEM;
    char *at = data;
    for (size_t i = 0; i < count; i++) {
        spec->words[i] = at;
        at += strlen(at) + 1;
    }
    spec->count = count;
    return 0;
}

void spec_free(struct spec *spec)
{
    free(spec->count ? spec->words[0] : NULL);
    free(spec->words);
}

ssize_t receive(int socket, char *line, size_t size, int *fds, int *nfds)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MAX_PASSED)];
        struct cmsghdr align;
    } ancillary;
    struct iovec iov = {line, size - 1};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = ancillary.bytes, .msg_controllen = sizeof ancillary.bytes};
    ssize_t n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
    *nfds = 0;
    if (n < 0)
        return n;
    line[n] = 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        *nfds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), (size_t)*nfds * sizeof(int));
    }
    return n;
}
