/* SPDX-License-Identifier: Apache-2.0 */
/* The profile that RuntimeDefault means has to be in the kernel before a container can ask for it,
 * and the kernel takes only what apparmor_parser(8) has compiled. So the daemon has it loaded when
 * it starts, once per boot; a profile of the same name that the administrator has loaded is left as
 * it is. */
#include "handlers/apparmor.h"

#include "conf.h"
#include "mem.h"
#include "reactor/child.h"
#include "str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PARSER_MS = 60000, ANSWER_MAX = 4096 };

int apparmor_is_loaded(const char *name, bool *ret, struct err *err)
{
    static const char list[] = "/sys/kernel/security/apparmor/profiles";
    FILE *f = fopen(list, "re");
    auto_free char *line = NULL;
    size_t cap = 0, n = strlen(name);

    *ret = false;
    if (!f)
        return err_sys(err, "AppArmor profile '%s': %s", name, list);
    while (!*ret && getline(&line, &cap, f) > 0)
        *ret = strncmp(line, name, n) == 0 && str_starts(line + n, " (");
    (void)fclose(f);
    return 0;
}

struct load {
    struct loop *loop;
    struct err *err;
    int result;
};

static void on_loaded(void *arg, const struct run_result *r)
{
    struct load *l = arg;

    if (r->timed_out)
        l->result = err_set(l->err, -ETIMEDOUT, "apparmor_parser: not done in %d s",
                            PARSER_MS / 1000);
    else if (r->status)
        l->result = err_set(l->err, -EINVAL, "apparmor_parser: %.*s (exit code %d)",
                            (int)strcspn(r->errout, "\n"), r->errout, r->status);
    loop_stop(l->loop);
}

int apparmor_load_default(struct loop *loop, struct err *err)
{
    static const char *const paths[] = { "/usr/sbin/apparmor_parser", "/sbin/apparmor_parser" };
    /* from stdin, without the cache in /var: this is compiled once per boot */
    char arg0[] = "apparmor_parser", replace[] = "--replace", no_cache[] = "--skip-cache";
    char *argv[] = { arg0, replace, no_cache, NULL };
    struct child_opts o = CHILD_OPTS_INIT;
    struct load l = { .loop = loop, .err = err };
    struct run *run;
    bool loaded;
    int r = apparmor_is_loaded(CONF_APPARMOR, &loaded, err);

    if (r < 0 || loaded)
        return r;
    for (size_t i = 0; i < ARRAY_LEN(paths) && !o.path; i++)
        if (access(paths[i], X_OK) == 0)
            o.path = paths[i];
    if (!o.path)
        return err_set(err, -ENOENT, "there is no apparmor_parser (Debian: package apparmor)");
    o.argv = argv;
    r = run_start(loop, &o, apparmor_profile, strlen(apparmor_profile), ANSWER_MAX, PARSER_MS,
                  on_loaded, &l, &run, err);
    if (r < 0)
        return r;
    loop_run(loop);
    if (l.result < 0)
        return l.result;
    r = apparmor_is_loaded(CONF_APPARMOR, &loaded, err);
    return r < 0 || loaded ? r : err_set(err, -ENOENT, "apparmor_parser has loaded no profile");
}
