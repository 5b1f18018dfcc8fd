/* SPDX-License-Identifier: Apache-2.0 */
/* restore CRIU DIR ROOT LABEL pod-ipc|host-ipc no-new-privs|"" [must|may TARGET SOURCE]...: a
 * container goes on from DIR/checkpoint, criu's images. Started by cricket-pod in the container's cgroup and the pod's
 * namespaces (pod/restore.c), in a mount namespace where ROOT is the container's root and each
 * SOURCE what its configuration has at TARGET.
 *
 *      1, 2: what it gets as stdout and stderr
 *      3: the last word: "pid <number>", or what failed; nobody at its other end: give up
 *
 * The images say which mounts they want from outside. Each gets the source of the longest target
 * above it; one without is refused, as is a mount of the configuration that the checkpoint does not
 * know ("must"): it would be missing without a word.
 *
 * no_new_privs is set here: criu before 3.18 does not know it, and what it starts inherits it.
 *
 * criu is a sibling of this process, so that its --restore-sibling is one, too; so its exit status is
 * not for us to see. That all went well is said by what it writes last, stats-restore. */
#include "pull/worker/checkpoint.h"

#include "mem.h"
#include "pull/worker/worker.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <linux/sched.h>

#define LOG "restore.log"
#define STATS "stats-restore"
#define PID_FILE "pid"
#define IMAGES "checkpoint"

enum { ARGS = 7 };                   /* before the mounts */

struct source {
    const char *target, *path;
    bool must, used;
};

struct restore {
    const char *criu, *root, *label;
    bool host_ipc, no_new_privs;
    struct source *sources;
    size_t n_sources;
    struct restore_needs needs;
    struct criu_args args;
};

static int report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int report(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vdprintf(CHECKPOINT_SOCK, fmt, ap);
    va_end(ap);
    return 1;
}

/* ---- mounts */

static struct source *source_of(const struct restore *o, const char *key)
{
    struct source *best = NULL;

    for (size_t i = 0; i < o->n_sources; i++)
        if (criu_below(key, o->sources[i].target) &&
            (!best || strlen(o->sources[i].target) >= strlen(best->target)))
            best = &o->sources[i];
    return best;
}

static int add_mount(struct restore *o, const struct restore_mount *m, struct err *err)
{
    struct source *s = source_of(o, m->key);
    struct statvfs fs;

    if (!s)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "the checkpoint has a mount at '%s' that the "
                       "container's configuration does not have", m->point);
    s->used = true;
    auto_free char *path = mem_printf("%s%s", s->path, m->key + strlen(s->target));
    if (statvfs(path, &fs) < 0)
        return err_sys(err, "mount at '%s'", m->point);
    /* criu sets the flags that it had */
    if (s->must && !m->rdonly && (fs.f_flag & ST_RDONLY))
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "the mount at '%s' could be written when the "
                       "checkpoint was made, and is read-only now", m->point);
    criu_arg(&o->args, "--external");
    criu_arg(&o->args, "mnt[%s]:%s", m->key, path);
    return 0;
}

static int add_mounts(struct restore *o, struct err *err)
{
    int r = 0;

    for (size_t i = 0; i < o->needs.n_mounts && r == 0; i++)
        r = add_mount(o, &o->needs.mounts[i], err);
    for (size_t i = 0; i < o->n_sources && r == 0; i++)
        if (o->sources[i].must && !o->sources[i].used)
            r = err_rpc(err, GRPC_FAILED_PRECONDITION, "the container's configuration has a mount "
                        "at '%s' that the checkpoint does not have", o->sources[i].target);
    return r;
}

/* ---- what it inherits */

static int add_stdio(struct restore *o, struct err *err)
{
    for (int i = 0; i < 3; i++) {
        const char *was = o->needs.stdio[i];
        bool pipe = was && str_starts(was, "pipe:[");

        if (i == 0 && pipe)
            return err_rpc(err, GRPC_FAILED_PRECONDITION, "the checkpoint is of a container with "
                           "a stdin");
        if (i > 0 && !pipe)
            return err_rpc(err, GRPC_FAILED_PRECONDITION, "the checkpoint is of a container whose "
                           "%s is '%.200s', not a pipe", i == 1 ? "stdout" : "stderr",
                           was ? was : "");
        if (i == 0)
            continue;
        int fd = fcntl(i, F_DUPFD, 10);
        if (fd < 0)
            return err_sys(err, "stdio");
        criu_arg(&o->args, "--inherit-fd");
        criu_arg(&o->args, "fd[%d]:%s", fd, was);
    }
    return 0;
}

static int add_namespaces(struct restore *o, struct err *err)
{
    int net = open("/proc/self/ns/net", O_RDONLY);

    if (net < 0)
        return err_sys(err, "network namespace");
    if (o->needs.ipc && o->host_ipc)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "the checkpoint has an IPC namespace, and the "
                       "pod has the node's");
    criu_arg(&o->args, "--inherit-fd");
    criu_arg(&o->args, "fd[%d]:extRootNetNS", net);
    for (int i = 0; i < 2; i++) {
        criu_arg(&o->args, "--join-ns");
        criu_arg(&o->args, "%s:%d", i ? "uts" : "ipc", (int)getpid());
    }
    return restore_host_name(IMAGES, err);
}

static int make_args(struct restore *o, struct err *err)
{
    static const char *const fixed[] = {
        "restore", "--images-dir", IMAGES, "--work-dir", ".", "--log-file", LOG, "-v3",
        "--restore-detached", "--restore-sibling", "--pidfile", PID_FILE, "--tcp-established",
        "--file-locks", "--ext-unix-sk", "--shell-job", "--manage-cgroups=ignore",
        "--network-lock", "nftables", "--root",
    };
    int r;

    criu_arg(&o->args, "%s", o->criu);
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        criu_arg(&o->args, "%s", fixed[i]);
    criu_arg(&o->args, "%s", o->root);
    if (o->label[0]) {
        criu_arg(&o->args, "--lsm-profile");
        criu_arg(&o->args, "%s", o->label);
    }
    r = add_stdio(o, err);
    if (r == 0)
        r = add_namespaces(o, err);
    if (r == 0)
        r = add_mounts(o, err);
    if (r == 0 && o->args.n + 1 == CRIU_ARGS_MAX)
        r = err_set(err, -E2BIG, "too many mounts");
    return r;
}

/* ---- the process */

static void become_criu(const struct restore *o) __attribute__((noreturn));
static void become_criu(const struct restore *o)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int out = open(CRIU_OUTPUT, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    if (null < 0 || out < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 ||
        (o->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) || dup2(null, 0) < 0 ||
        dup2(out, 1) < 0 || dup2(out, 2) < 0)
        _exit(126);
    (void)signal(SIGPIPE, SIG_DFL);
    execv(o->criu, o->args.v);
    dprintf(2, "Error: %s\n", strerror(errno));
    _exit(127);
}

static int run(const struct restore *o, struct err *err)
{
    int fd = -1;
    struct clone_args a = {
        .flags = CLONE_PARENT | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&fd
    };
    long pid = syscall(SYS_clone3, &a, sizeof a);

    if (pid == 0)
        become_criu(o);
    if (pid < 0)
        return err_sys(err, "clone");
    auto_fd int pidfd = fd;
    struct pollfd p[] = { { pidfd, POLLIN, 0 }, { CHECKPOINT_SOCK, 0, 0 } };
    while (poll(p, 2, -1) < 0 && errno == EINTR)
        ;
    if (p[0].revents)
        return 0;
    (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    return err_set(err, -ECANCELED, "given up");
}

static int read_pid(struct err *err)
{
    FILE *f = fopen(PID_FILE, "re");
    int pid = 0;

    if (!f || fscanf(f, "%d", &pid) != 1 || pid <= 1)
        pid = err_set(err, -EPROTO, "criu wrote no process number");
    if (f)
        fclose(f);
    return pid;
}

static int carry_out(struct restore *o, struct err *err)
{
    int r = criu_there(o->criu, err);

    if (r == 0)
        r = restore_needs(IMAGES, &o->needs, err);
    if (r == 0)
        r = make_args(o, err);
    if (r == 0)
        r = run(o, err);
    if (r < 0)
        return r;
    if (access(STATS, F_OK) < 0)
        return criu_explain(o->criu, LOG, "criu restore failed", err);
    return read_pid(err);
}

int worker_restore(int argc, char **argv)
{
    struct restore o = { .args.n = 0 };
    struct err err = ERR_INIT;
    int r;

    if (argc < ARGS || (argc - ARGS) % 3) {
        fprintf(stderr, "restore: CRIU DIR ROOT LABEL IPC NNP [must|may TARGET SOURCE]...\n");
        return 2;
    }
    umask(077);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)fcntl(CHECKPOINT_SOCK, F_SETFD, FD_CLOEXEC);
    o.criu = argv[1];
    o.root = argv[3];
    o.label = argv[4];
    o.host_ipc = strcmp(argv[5], "host-ipc") == 0;
    o.no_new_privs = argv[6][0];
    o.n_sources = (size_t)(argc - ARGS) / 3;
    o.sources = mem_array(o.n_sources + 1, sizeof *o.sources);
    for (size_t i = 0; i < o.n_sources; i++) {
        char **v = argv + ARGS + 3 * i;

        o.sources[i] = (struct source){ v[1], v[2], strcmp(v[0], "must") == 0, false };
    }
    r = chdir(argv[2]) < 0 ? err_sys(&err, "directory '%s'", argv[2]) : carry_out(&o, &err);
    r = r < 0 ? report("%s", err.text) : (report("pid %d", r), 0);
    criu_args_free(&o.args);
    restore_needs_deinit(&o.needs);
    free(o.sources);
    return r;
}
