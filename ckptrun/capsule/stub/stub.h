/* ckptrun-stub: what the parts of the static helper share.
 *
 * One binary, nine roles, chosen by the first argument, its own name, or CRIU's environment:
 *   capsule  makes the namespaces and leaves `init` behind as their PID 1, or enters a container's as their `agent`
 *   root     the root of every dump: starts the job, reaps, forwards signals
 *   relay    (forked by root) copies between the job's pty and two pipes
 *   action   CRIU's --action-script
 *   subreaper  (adopt.c) makes a root that CRIU is restoring a child-subreaper early
 *   hook     (hook.c) becomes a hook
 *   reaper   (reaper.c) PID 1 of a container whose entry point is ckptrun
 *   shim     the main process of a job's container in a pod; also by the name ckptrun-shim
 * Policy lives in Python; this code is mechanical and does what its specification says.
 */
#ifndef CKPTRUN_STUB_H
#define CKPTRUN_STUB_H

#include <stddef.h>
#include <sys/types.h>

/* A specification: NUL-terminated words in a file, read whole into memory. */
struct spec {
    char **words;
    size_t count;
};

int spec_read(int fd, struct spec *spec);
void spec_free(struct spec *spec);
long number(const char *text);

/* Make `path` contain `text`; 0 or -errno. */
int write_text(const char *path, const char *text);

#define MAX_PASSED 64

/* Receive a message, NUL-terminated, and what descriptors came with it; as recvmsg(2) otherwise. */
ssize_t receive(int socket, char *line, size_t size, int *fds, int *nfds);

int capsule_main(int control, int spec_fd);
int root_main(int argc, char **argv);
void relay_main(int master, int in, int out, int sizes) __attribute__((noreturn));
int action_main(const char *action);
int subreaper_main(pid_t pid);
/* `parent` is who must still be ours. */
int hook_main(pid_t parent, char **argv);
/* `child` is ckptrun. */
int reaper_main(pid_t child);
int shim_main(char **argv);

/* Open here what the specification's steps will need elsewhere; the step that failed with errno, or NULL. */
char **take_along(const struct spec *spec);
/* The descriptor for the step at a word; -1: none. */
int taken_along(size_t word);
/* Clone what is mounted at a path, for `put_tree` of the same path. */
int hold(size_t word, const char *path);
/* Mount at a path what was taken along for this step, or held. */
int put_tree(const struct spec *spec, size_t word, const char *path);
/* Enter a process's mount, ipc, net, uts and cgroup namespaces. */
int enter_container(pid_t pid);
/* Become part of a process's cgroups, as far as the kernel allows. */
void join_cgroups(pid_t pid);

/* Take over the events of a fanotify group and the log for them (both are duplicated). What is read and not yet written
 * down lies in the batch, if there is one (64 KiB; -1: none): zeros follow. */
void watch_begin(int events_fd, int log_fd, int batch_fd);
/* Events are those of a container's job: of what is below its shim, and of what is gone, but for the supervisor. */
void watch_below(pid_t shim, pid_t supervisor);
/* Nor are they the job's if they are of a supervisor that has been killed. */
void watch_after(pid_t former);
/* What to poll for; -1: nothing is watched. */
int watch_fd(void);
/* Write down what has happened so far. */
void watch_read(void);
/* The same, and begin to note repeated changes anew; 0 or the errno for which the watch was given up. */
int watch_sync(void);

/* Start what `spec` says; `fds` are installed as its "fd" words say. The new PID, or -errno with *stage set. */
int spawn(const struct spec *spec, const int *fds, int nfds, const char **stage);

#endif
