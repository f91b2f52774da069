/* The shim: the main process of a job's container whose sidecar checkpoints it.
 *
 *   ckptrun-shim -- COMMAND...
 *
 * It starts the job root when the sidecar says so, reaps whatever the job leaves, tells of its end until the sidecar has
 * acknowledged it, passes the container's signals on, and ends with the code it is told. It outlives sidecars: it connects
 * again, and holds what the next one goes on with meanwhile. The messages are in docs/design/kubernetes.md.
 * It needs nothing of the image, no privilege and no /proc, and writes nothing but one line where it cannot go on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stub.h"

#define PROTOCOL 1
#define SOCKET "/ckptrun/run/shim.sock"
#define CONNECT_PAUSE 100  /* milliseconds */
#define LONG_WAIT 10000    /* milliseconds without a sidecar, after which that is said */
#define PATIENCE 60        /* seconds for which the end of the job is kept for a sidecar that is not there */
#define FIRST_PID 1000     /* PIDs of the job are past it: a restore has the low ones for ckptrun's own programs */
#define MOST_FORKS 8192    /* a counter that does not pass FIRST_PID by then never will */
#define MAX_KEPT 32
#define CONFIGURATION 78
#define USAGE 64

extern char **environ;

static const int FORWARDED[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT};
#define FORWARDED_COUNT (sizeof FORWARDED / sizeof FORWARDED[0])

static const char *path;
static char version[48] = "unknown";
static char **command;
static int sidecar = -1;   /* the connection */
static int job_started;    /* by this process, or by a sidecar before: somebody has taken the command */
static pid_t root;         /* the job root, while it runs */
static int ended, status;  /* the end of one that nobody has acknowledged */
static pid_t ended_pid;
static int kept[MAX_KEPT], kept_count;
static char *kept_names[MAX_KEPT];
static uint64_t waiting;   /* signals nobody has been told of yet, as bits */

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[1200] = "ckptrun: ";
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + 9, sizeof line - 10, format, args);
    va_end(args);
    size_t size = 9 + (n < (int)sizeof line - 11 ? (size_t)n : sizeof line - 11);
    line[size++] = '\n';
    (void)!write(2, line, size);
}

/* Send one message with descriptors; 0, or -1 if the sidecar is gone. */
static int tell(const int *fds, size_t count, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int tell(const int *fds, size_t count, const char *format, ...)
{
    char line[256];
    union {
        char bytes[CMSG_SPACE(sizeof(int) * (4 + MAX_KEPT))];
        struct cmsghdr align;
    } ancillary;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    struct iovec iov = {line, (size_t)n};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count) {
        msg.msg_control = ancillary.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    ssize_t sent;
    while ((sent = sendmsg(sidecar, &msg, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        ;
    return sent < 0 ? -1 : 0;
}

static int put(int fd, const char *key, const char *value)
{
    const char *words[] = {key, value};
    for (int i = 0; i < 2; i++) {
        size_t left = strlen(words[i]) + 1;
        for (const char *at = words[i]; left;) {
            ssize_t n = write(fd, at, left);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                return -1;
            at += n;
            left -= (size_t)n;
        }
    }
    return 0;
}

/* What the job is and where it is to be started, in an anonymous file. */
static int describe(void)
{
    char cwd[4096];
    int fd = memfd_create("ckptrun-spec", MFD_CLOEXEC);
    int bad = fd < 0 || put(fd, "cwd", getcwd(cwd, sizeof cwd) ? cwd : "/");
    for (char **word = command; !bad && *word; word++)
        bad = put(fd, "arg", *word);
    for (char **variable = environ; !bad && *variable; variable++)
        if (strncmp(*variable, "CKPTRUN_SHIM_", 13))
            bad = put(fd, "env", *variable);
    for (int i = 0; !bad && i < kept_count; i++)
        bad = put(fd, "kept", kept_names[i]);
    if (bad && fd >= 0)
        close(fd);
    return bad ? -1 : fd;
}

static void part(void)
{
    close(sidecar);
    sidecar = -1;
}

/* Tell of every signal that has come; without a sidecar they wait. */
static void tell_signals(void)
{
    for (size_t i = 0; sidecar >= 0 && i < FORWARDED_COUNT; i++)
        if (waiting & (uint64_t)1 << FORWARDED[i] && tell(NULL, 0, "signal %d", FORWARDED[i]) == 0)
            waiting &= ~((uint64_t)1 << FORWARDED[i]);
}

/* Connect and say who we are; 0, or the errno of the failure. */
static int reach(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return error;
    }
    fcntl(fd, F_SETFL, 0);
    sidecar = fd;
    int fds[4 + MAX_KEPT] = {describe(), 0, 1, 2};
    memcpy(fds + 4, kept, sizeof(int) * (size_t)kept_count);
    long running = ended ? -(long)status - 1 : root;
    int bad = fds[0] < 0 || tell(fds, 4 + (size_t)kept_count, "hello %d %s %ld", PROTOCOL, version, running) < 0;
    if (fds[0] >= 0)
        close(fds[0]);
    if (bad)
        part();
    else
        tell_signals();
    return bad ? ECONNRESET : 0;
}

static void forget_kept(void)
{
    for (int i = 0; i < kept_count; i++) {
        close(kept[i]);
        free(kept_names[i]);
    }
    kept_count = 0;
}

/* Take descriptors over under the names of the specification's "keep" words; the others are the caller's. */
static int keep(const struct spec *spec, int *fds, int nfds)
{
    forget_kept();
    for (size_t i = 0; i + 1 < spec->count && kept_count < nfds && kept_count < MAX_KEPT; i += 2) {
        if (strcmp(spec->words[i], "keep"))
            continue;
        kept_names[kept_count] = strdup(spec->words[i + 1]);
        kept[kept_count] = fds[kept_count];
        fds[kept_count] = -1;
        kept_count++;
    }
    return kept_count;
}

/* Have the counter of PIDs pass FIRST_PID: what it stands at shows in the PID of a child. */
static void raise_pids(void)
{
    for (int i = 0; i < MOST_FORKS; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid < 0)
            return;
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        if (pid >= FIRST_PID)
            return;
    }
}

static void start(const char *token, int wanted, int *fds, int nfds)
{
    struct spec spec = {0};
    const char *stage = "spec";
    int pid = wanted >= 0 && nfds > wanted ? spec_read(fds[0], &spec) : -EINVAL;
    if (pid == 0 && root)
        pid = -EBUSY;
    if (pid == 0) {
        raise_pids();
        pid = spawn(&spec, fds + 1, wanted, &stage);
    }
    if (pid > 0) {
        root = pid;
        job_started = 1;
        ended = 0;
        keep(&spec, fds + 1 + wanted, nfds - 1 - wanted);
    }
    if (pid < 0)
        tell(NULL, 0, "failed %s %d %s", token, -pid, stage);
    else
        tell(NULL, 0, "spawned %s %d", token, pid);
    spec_free(&spec);
}

/* One message of the sidecar's; 0 at the end of the connection. */
static int obey(void)
{
    static char line[1200];
    int fds[MAX_PASSED], nfds;
    ssize_t n = receive(sidecar, line, sizeof line, fds, &nfds);
    if (n < 0)
        return errno == EINTR;
    if (n == 0)
        return 0;
    char token[64];
    int wanted, code;
    if (sscanf(line, "start %63s %d", token, &wanted) == 2)
        start(token, wanted, fds, nfds);
    else if (!strcmp(line, "keep") && nfds > 0) {
        struct spec spec = {0};
        if (spec_read(fds[0], &spec) == 0)
            keep(&spec, fds + 1, nfds - 1);
        spec_free(&spec);
    } else if (!strcmp(line, "taken"))
        ended = 0;
    else if (sscanf(line, "end %d", &code) == 1)
        _exit(code);
    else if (!strncmp(line, "refused ", 8)) {
        say("the sidecar does not serve this container: %s", line + 8);
        _exit(CONFIGURATION);
    }
    for (int i = 0; i < nfds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return 1;
}

static void reap(void)
{
    int how;
    pid_t pid;
    while ((pid = waitpid(-1, &how, WNOHANG | __WALL)) > 0) {
        if (pid != root)
            continue;
        root = 0;
        ended = 1;
        ended_pid = pid;
        status = how;
        if (sidecar >= 0)
            tell(NULL, 0, "exit %d %d", pid, how);
    }
}

static int code_of(int how)
{
    return WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
}

static void heed(int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) > 0) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        /* Nothing of the job has begun and nobody is there who could decide: end as anything else would. */
        if (sidecar < 0 && !job_started && !ended && info.ssi_signo != SIGUSR1 && info.ssi_signo != SIGUSR2)
            _exit(128 + (int)info.ssi_signo);
        waiting |= (uint64_t)1 << info.ssi_signo;
    }
    reap();
    tell_signals();
}

/* What was installed, in the file VERSION beside the socket's folder; also whether there is any such volume. */
static void look_around(void)
{
    char folder[sizeof ((struct sockaddr_un *)0)->sun_path + 16];
    struct stat st;
    strcpy(folder, path);
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(folder, '/');
        if (!slash)
            return;
        *slash = 0;
    }
    if (*folder && stat(folder, &st) < 0 && errno == ENOENT) {
        say("%s is not there: mount the volume ckptrun in this container, at %s, read-only", folder, folder);
        _exit(CONFIGURATION);
    }
    strcat(folder, "/VERSION");
    int fd = open(folder, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    char text[sizeof version] = "";
    if (read(fd, text, sizeof text - 1) > 0 && sscanf(text, "%47s", text) == 1)
        strcpy(version, text);
    close(fd);
}

static int prepare(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (size_t i = 0; i < FORWARDED_COUNT; i++)
        sigaddset(&set, FORWARDED[i]);
    sigaddset(&set, SIGPIPE);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGCHLD, SIG_DFL); /* ignored by whoever started us: then nothing could be reaped */
    sigdelset(&set, SIGPIPE);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_DUMPABLE, 0); /* what it keeps for the next sidecar tells of more than the job's files */
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            break;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int shim_main(char **argv)
{
    const char *patience = getenv("CKPTRUN_SHIM_PATIENCE");
    long limit = 1000 * (patience ? number(patience) : PATIENCE);
    int error = 0;
    path = getenv("CKPTRUN_SHIM_SOCKET");
    if (!path || strlen(path) >= sizeof ((struct sockaddr_un *)0)->sun_path)
        path = SOCKET;
    command = argv;
    int signals = prepare();
    if (!*command) {
        say("no command was given: this container's command must be: /ckptrun/bin/ckptrun-shim -- COMMAND [ARGUMENTS]");
        return USAGE;
    }
    if (signals < 0) {
        say("the shim cannot wait for signals: %s", strerror(errno));
        return CONFIGURATION;
    }
    look_around();
    long alone = now();
    for (int said = 0;;) {
        if (sidecar < 0 && (error = reach()) == 0)
            said = 0;
        if (sidecar >= 0)
            alone = now();
        if (sidecar < 0 && !said && !ended && now() - alone > LONG_WAIT) {
            say("no sidecar answers at %s (%s); the job waits for it: see the log of the pod's container ckptrun", path,
                strerror(error));
            said = 1;
        }
        if (sidecar < 0 && ended && now() - alone > limit)
            _exit(code_of(status));
        struct pollfd polls[2] = {{signals, POLLIN, 0}, {sidecar, POLLIN, 0}};
        if (poll(polls, 2, sidecar < 0 ? CONNECT_PAUSE : -1) < 0)
            continue;
        if (polls[0].revents)
            heed(signals);
        if (sidecar >= 0 && polls[1].revents && !obey())
            part();
    }
}
