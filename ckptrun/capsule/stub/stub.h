/* ckptrun-stub: what the parts of the static helper share.
 *
 * One binary, eight roles, chosen by the first argument (or by CRIU's environment):
 *   capsule  makes the namespaces and leaves `init` behind as their PID 1
 *   root     the root of every dump: starts the job, reaps, forwards signals
 *   relay    (forked by root) copies between the job's pty and two pipes
 *   action   CRIU's --action-script
 *   subreaper  (adopt.c) makes a root that CRIU is restoring a child-subreaper early
 *   hook     (hook.c) becomes a hook
 *   reaper   (reaper.c) PID 1 of a container whose entry point is ckptrun
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
long number(const char *text);

/* Make `path` contain `text`; 0 or -errno. */
int write_text(const char *path, const char *text);

int capsule_main(int control, int spec_fd);
int root_main(int argc, char **argv);
void relay_main(int master, int in, int out, int sizes) __attribute__((noreturn));
int action_main(const char *action);
int subreaper_main(pid_t pid);
/* `parent` is who must still be ours. */
int hook_main(pid_t parent, char **argv);
/* `child` is ckptrun. */
int reaper_main(pid_t child);

/* Take over the events of a fanotify group and the log for them (both are duplicated). */
void watch_begin(int events_fd, int log_fd);
/* What to poll for; -1: nothing is watched. */
int watch_fd(void);
/* Write down what has happened so far. */
void watch_read(void);
/* The same, and begin to note repeated changes anew; 0 or the errno for which the watch was given up. */
int watch_sync(void);

/* Start what `spec` says; `fds` are installed as its "fd" words say. The new PID, or -errno with *stage set. */
int spawn(const struct spec *spec, const int *fds, int nfds, const char **stage);

#endif
