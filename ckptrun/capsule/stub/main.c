/* The helper's entry point: find the role, hand over. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stub.h"

int main(int argc, char **argv)
{
    const char *action = getenv("CRTOOLS_SCRIPT_ACTION");
    if (action)
        return action_main(action);
    if (argc >= 4 && !strcmp(argv[1], "capsule"))
        return capsule_main((int)number(argv[2]), (int)number(argv[3]));
    if (argc >= 3 && !strcmp(argv[1], "root"))
        return root_main(argc - 2, argv + 2);
    if (argc == 3 && !strcmp(argv[1], "subreaper"))
        return subreaper_main((pid_t)number(argv[2]));
    if (argc >= 4 && !strcmp(argv[1], "hook"))
        return hook_main((pid_t)number(argv[2]), argv + 3);
    if (argc == 3 && !strcmp(argv[1], "reaper"))
        return reaper_main((pid_t)number(argv[2]));
    const char *slash = strrchr(argv[0], '/');
    int by_name = !strcmp(slash ? slash + 1 : argv[0], "ckptrun-shim");
    if (by_name || (argc >= 2 && !strcmp(argv[1], "shim"))) {
        char **command = argv + (by_name ? 1 : 2);
        return shim_main(*command && !strcmp(*command, "--") ? command + 1 : command);
    }
    static const char usage[] = "ckptrun-stub is started by ckptrun, not by hand\n";
    (void)!write(2, usage, sizeof usage - 1);
    return 64;
}
