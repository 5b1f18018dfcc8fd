/* SPDX-License-Identifier: Apache-2.0 */
/* Who a container runs as (CRI.md 7.3), and which signal stops it.
 *
 * run_as_username, else run_as_user, else the image's USER, else root. Groups: Merge takes those
 * that the image's group file gives the user, Strict does not; the primary one and the request's
 * own are in both. */
#include "handlers/spec_impl.h"
#include "mem.h"
#include "proc/lower.h"
#include "str.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <strings.h>

enum { USER_FILE_MAX = 4 * 1024 * 1024 };

static int read_file(const char *const *layers, size_t n, const char *path, char **ret,
                     struct err *err)
{
    struct err why = ERR_INIT;
    int r = lower_read(layers, n, path, USER_FILE_MAX, ret, NULL, &why);

    if (r == -ENOENT || r == -ENOTDIR)
        return 0;
    if (r < 0)
        return err_set(err, r, "%s", why.text);
    return 0;
}

static int compare(const void *a, const void *b)
{
    gid_t x = *(const gid_t *)a, y = *(const gid_t *)b;

    return x < y ? -1 : x > y;
}

static void add_group(struct spec_user *u, gid_t gid)
{
    for (size_t i = 0; i < u->n_groups; i++)
        if (u->groups[i] == gid)
            return;
    u->groups[u->n_groups++] = gid;
}

int spec_resolve_user(const char *const *layers, size_t n_layers, const container_config *c,
                      const char *image_user, struct spec_user *ret, struct err *err)
{
    const container_sec *sec = spec_sec(c);
    auto_free char *passwd = NULL, *group = NULL;
    int64_t gid = sec && sec->run_as_group ? sec->run_as_group->value : -1;
    struct user u = { .uid = 0 };
    int r = read_file(layers, n_layers, "/etc/passwd", &passwd, err);

    if (r == 0)
        r = read_file(layers, n_layers, "/etc/group", &group, err);
    if (r < 0)
        return r;
    if (sec && sec->run_as_username[0])
        r = user_by_name(passwd, group, sec->run_as_username, gid, &u, err);
    else if (sec && sec->run_as_user)
        user_by_uid(passwd, group, (uid_t)sec->run_as_user->value, gid, &u);
    else
        r = user_resolve(passwd, group, str_empty(image_user) ? "0" : image_user, &u, err);
    if (r < 0)
        return r;
    size_t n = sec ? sec->n_supplemental_groups : 0;
    bool strict =
        sec && sec->supplemental_groups_policy == RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict;
    *ret = (struct spec_user){ .uid = u.uid, .gid = u.gid, .home = take_ptr(u.home) };
    ret->groups = mem_array(1 + u.n_groups + n, sizeof *ret->groups);
    add_group(ret, u.gid);
    for (size_t i = 0; i < u.n_groups && !strict; i++)
        add_group(ret, u.groups[i]);
    for (size_t i = 0; i < n; i++)
        add_group(ret, (gid_t)sec->supplemental_groups[i]);
    qsort(ret->groups, ret->n_groups, sizeof *ret->groups, compare);
    user_deinit(&u);
    return 0;
}

void spec_user_deinit(struct spec_user *u)
{
    free(u->groups);
    free(u->home);
    *u = (struct spec_user){ .uid = 0 };
}

/* By the number of the enum: the names without SIG. Two names of one signal: the first is what
 * status shows. */
static const struct {
    const char *name;
    int number;
} signals[] = {
    { "", 0 },           { "ABRT", SIGABRT },     { "ALRM", SIGALRM },
    { "BUS", SIGBUS },   { "CHLD", SIGCHLD },     { "CLD", SIGCHLD },
    { "CONT", SIGCONT }, { "FPE", SIGFPE },       { "HUP", SIGHUP },
    { "ILL", SIGILL },   { "INT", SIGINT },       { "IO", SIGIO },
    { "IOT", SIGABRT },  { "KILL", SIGKILL },     { "PIPE", SIGPIPE },
    { "POLL", SIGIO },   { "PROF", SIGPROF },     { "PWR", SIGPWR },
    { "QUIT", SIGQUIT }, { "SEGV", SIGSEGV },     { "STKFLT", SIGSTKFLT },
    { "STOP", SIGSTOP }, { "SYS", SIGSYS },       { "TERM", SIGTERM },
    { "TRAP", SIGTRAP }, { "TSTP", SIGTSTP },     { "TTIN", SIGTTIN },
    { "TTOU", SIGTTOU }, { "URG", SIGURG },       { "USR1", SIGUSR1 },
    { "USR2", SIGUSR2 }, { "VTALRM", SIGVTALRM }, { "WINCH", SIGWINCH },
    { "XCPU", SIGXCPU }, { "XFSZ", SIGXFSZ },
};

/* 34 and 64, whatever the C library keeps for itself */
enum { RT_MIN = 34, RT_MAX = 64, ENUM_RTMIN = RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMIN };

_Static_assert(ARRAY_LEN(signals) == ENUM_RTMIN, "a name for each signal below RTMIN");
_Static_assert(RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMAX - ENUM_RTMIN == RT_MAX - RT_MIN,
               "the real-time signals");

static int number_of(int e)
{
    return e < ENUM_RTMIN ? signals[e].number : RT_MIN + (e - ENUM_RTMIN);
}

static int enum_of_number(int number)
{
    for (int e = 1; e < ENUM_RTMIN; e++)
        if (signals[e].number == number)
            return e;
    return number >= RT_MIN && number <= RT_MAX ? ENUM_RTMIN + (number - RT_MIN) : 0;
}

/* What an image's StopSignal says: "SIGTERM", "TERM", "15", "SIGRTMIN+3", "RTMAX-1"; 0 for
 * nonsense. */
static int enum_of_name(const char *s)
{
    char *end;
    long n = strtol(s, &end, 10);

    if (*s && !*end)
        return n > 0 && n <= RT_MAX ? enum_of_number((int)n) : 0;
    if (strncasecmp(s, "SIG", 3) == 0)
        s += 3;
    for (int e = 1; e < ENUM_RTMIN; e++)
        if (strcasecmp(s, signals[e].name) == 0)
            return e;
    bool min = strncasecmp(s, "RTMIN", 5) == 0, max = strncasecmp(s, "RTMAX", 5) == 0;
    if (!min && !max)
        return 0;
    if (!s[5])
        return enum_of_number(min ? RT_MIN : RT_MAX);
    if (s[5] != (min ? '+' : '-') || s[6] < '0' || s[6] > '9')
        return 0;
    n = strtol(s + 6, &end, 10);
    if (*end || n > RT_MAX - RT_MIN)
        return 0;
    return enum_of_number((int)(min ? RT_MIN + n : RT_MAX - n));
}

int spec_stop_signal(Runtime__V1__Signal asked, const char *image_signal, int *ret,
                     Runtime__V1__Signal *ret_enum, struct err *err)
{
    int e = (int)asked;

    if (e < 0 || e > RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "unknown stop_signal %d", e);
    if (!e && !str_empty(image_signal))
        e = enum_of_name(image_signal);
    if (!e)
        e = RUNTIME__V1__SIGNAL__SIGNAL_SIGTERM;
    if (ret)
        *ret = number_of(e);
    if (ret_enum)
        *ret_enum = (Runtime__V1__Signal)e;
    return 0;
}
