/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/worker/worker.h"

#include "mem.h"
#include "pull/worker/checkpoint.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*fn)(int argc, char **argv);
} jobs[] = {
    { "checkpoint", worker_checkpoint },
    { "checkpoint-pod", worker_checkpoint_pod },
    { "measure", worker_measure },
    { "poststop", worker_poststop },
    { "remove", worker_remove },
    { "resctrl", worker_resctrl },
    { "restore", worker_restore },
    { "restore-pod", worker_restore_pod },
    { "seccomp", worker_seccomp },
    { "store", worker_store },
    { "umount", worker_umount },
    { "unpack", worker_unpack },
    { NULL, NULL },
};

int main(int argc, char **argv)
{
    if (argc == 1 && getenv("CRTOOLS_SCRIPT_ACTION"))
        return criu_script();        /* criu names its scripts, and gives them no arguments */
    for (size_t i = 0; argc > 1 && jobs[i].name; i++)
        if (strcmp(argv[1], jobs[i].name) == 0)
            return jobs[i].fn(argc - 1, argv + 1);
    fprintf(stderr, "cricket-worker: started by cricketd, not by hand (unknown job '%s')\n",
            argc > 1 ? argv[1] : "");
    return 2;
}
