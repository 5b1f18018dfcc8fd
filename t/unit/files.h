/* SPDX-License-Identifier: Apache-2.0 */
/* Directories, files and programs of the C tests: what cannot be made ends the test. */
#ifndef CRICKET_UNIT_FILES_H
#define CRICKET_UNIT_FILES_H

#include "mem.h"
#include "tap.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/stat.h>

/* path: "/tmp/cricket-NAME-XXXXXX" */
__attribute__((unused)) static void make_temp(char *path)
{
    if (!mkdtemp(path))
        bail_out("cannot make %s: %s", path, strerror(errno));
}

__attribute__((unused)) static bool remove_temp(const char *path)
{
    auto_free char *cmd = mem_printf("rm -rf '%s'", path);

    return system(cmd) == 0;
}

__attribute__((unused)) static void put_dir(const char *where, const char *name)
{
    auto_free char *path = mem_printf("%s/%s", where, name);

    if (mkdir(path, 0755) < 0)
        bail_out("cannot make %s: %s", path, strerror(errno));
}

__attribute__((unused)) static void put_file(const char *where, const char *name, const char *text)
{
    auto_free char *path = mem_printf("%s/%s", where, name);
    FILE *f = fopen(path, "we");

    if (!f || fputs(text, f) < 0 || fclose(f) != 0)
        bail_out("cannot write %s: %s", path, strerror(errno));
}

/* Of this build, as that of the test itself (argv[0]). */
__attribute__((unused)) static char *program(const char *name, const char *self)
{
    const char *build = getenv("CRICKET_BUILD"), *slash = strrchr(self, '/');

    return build ? mem_printf("%s/%s", build, name)
                 : mem_printf("%.*s/../../%s", (int)(slash - self), self, name);
}

#endif
