/* SPDX-License-Identifier: Apache-2.0 */
/* poststop DIR [RUNTIME]: the poststop hooks of a pod whose supervisor was killed and could not run
 * them. What it has left says of which containers: <DIR>/hooks/<id> is the bundle of one with
 * hooks, <DIR>/oci/r/<id> what the OCI runtime keeps of one of its own, which runs the hooks when it
 * deletes that. The bundle goes when its hooks have run, so that they run again if this is cut
 * short.
 *
 * Hooks are programs of the node, and config.json is root's, so nothing is locked up here. A hook
 * that fails is told in the log and the next one runs, as with a supervisor. */
#include "pull/worker/worker.h"

#include "log.h"
#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>

enum { HOOK_S = 60, DELETE_S = 60, GONE_MS = 10000, LOOK_MS = 20, SAID_MAX = 200,
       CONFIG_MAX = 4 << 20 };

/* ---- one program */

struct prog {
    const char *id, *what, *path;
    char **argv, **envp;             /* envp NULL: ours */
    const char *cwd;
    int in;                          /* -1: /dev/null */
    int timeout_s;
    bool own_mounts;
    char said[SAID_MAX + 1];         /* the end of it */
    size_t n_said;
};

/* As the supervisor runs an OCI runtime (pod/oci.c): in a copy of the node's mount namespace, without
 * the second hierarchy of a hybrid host. */
static int own_mounts(void)
{
    static const char unified[] = "/sys/fs/cgroup/unified";
    struct statfs fs;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return -1;
    if (statfs(unified, &fs) == 0 && fs.f_type == 0x63677270 /* cgroup2 */)
        return umount2(unified, MNT_DETACH);
    return 0;
}

static void become(const struct prog *p, int out) __attribute__((noreturn));
static void become(const struct prog *p, int out)
{
    int in = p->in >= 0 ? p->in : open("/dev/null", O_RDONLY | O_CLOEXEC);

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)setsid();
    if ((p->own_mounts && own_mounts() < 0) || chdir(p->cwd) < 0 || dup2(in, 0) < 0 ||
        dup2(out, 1) < 0 || dup2(out, 2) < 0)
        _exit(126);
    (void)execve(p->path, p->argv, p->envp ? p->envp : environ);
    dprintf(2, "exec: %s", strerror(errno));
    _exit(127);
}

static void failed(struct prog *p, const char *how, int number)
{
    while (p->n_said && (p->said[p->n_said - 1] == '\n' || p->said[p->n_said - 1] == ' '))
        p->n_said--;
    p->said[p->n_said] = '\0';
    log_warn("op=poststop ctr=%s err='%s '%.200s': %s %d%s%s', ignoring", p->id, p->what, p->path,
             how, number, p->n_said ? ": " : "", p->said);
}

/* Keeps the end of what it says. False: nothing more will come. */
static bool hear(struct prog *p, int fd)
{
    char buf[1024];
    ssize_t n = read(fd, buf, sizeof buf);

    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    for (ssize_t i = 0; i < n; i++) {
        if (p->n_said == SAID_MAX) {
            memmove(p->said, p->said + 1, SAID_MAX - 1);
            p->n_said--;
        }
        p->said[p->n_said++] = buf[i];
    }
    return true;
}

static int64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* True: it ended in time. */
static bool wait_for(struct prog *p, int pidfd, int out)
{
    struct pollfd f[2] = { { pidfd, POLLIN, 0 }, { out, POLLIN, 0 } };
    int64_t until = now_ms() + (int64_t)p->timeout_s * 1000, left;

    while ((left = until - now_ms()) > 0 && !f[0].revents)
        if (poll(f, 2, (int)left) > 0 && f[1].revents && !hear(p, out))
            f[1].fd = -1;
    while (f[1].fd >= 0 && poll(&f[1], 1, 0) > 0 && hear(p, out))
        ;
    return f[0].revents;
}

static void run(struct prog *p)
{
    int pipes[2], status = 0;

    if (pipe2(pipes, O_CLOEXEC) < 0) {
        failed(p, "pipe: error", errno);
        return;
    }
    pid_t pid = fork();
    if (pid == 0)
        become(p, pipes[1]);
    auto_fd int out = pipes[0], pidfd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
    close(pipes[1]);
    if (pidfd < 0) {
        failed(p, "clone: error", errno);
        return;
    }
    (void)fcntl(out, F_SETFL, O_NONBLOCK);
    bool late = !wait_for(p, pidfd, out);

    if (late)
        (void)kill(-pid, SIGKILL);   /* it leads a session: what it has started goes along */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (late)
        failed(p, "killed, it did not end in seconds:", p->timeout_s);
    else if (WIFSIGNALED(status))
        failed(p, "killed by signal", WTERMSIG(status));
    else if (WEXITSTATUS(status))
        failed(p, "exit status", WEXITSTATUS(status));
}

/* ---- hooks */

static char **strings(const json_t *list, const char *first)
{
    size_t n = json_array_size(list), k = 0;
    char **v = mem_array(n + 2, sizeof *v);

    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));

        if (s)
            v[k++] = mem_strdup(s);
    }
    if (!k && first)
        v[k] = mem_strdup(first);
    return v;
}

static void strings_free(char **v)
{
    for (char **s = v; *s; s++)
        free(*s);
    free(v);
}

/* What a hook reads, in a file of its own. -1: no memory. */
static int state_file(const char *id, const char *bundle, json_t *config)
{
    json_t *o = json_pack("{s:O, s:s, s:s, s:s, s:O}", "ociVersion",
                          json_object_get(config, "ociVersion"), "id", id, "status", "stopped",
                          "bundle", bundle, "annotations", json_object_get(config, "annotations"));
    int fd = memfd_create("state", MFD_CLOEXEC);

    if (fd < 0 || !o || json_dumpfd(o, fd, JSON_COMPACT) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        fd = fd_close(fd);
    json_decref(o);
    return fd;
}

static void run_hook(const char *id, const char *bundle, json_t *config, const json_t *hook)
{
    const char *path = json_string_value(json_object_get(hook, "path"));
    json_int_t limit = json_integer_value(json_object_get(hook, "timeout"));
    auto_fd int in = state_file(id, bundle, config);

    if (!path)
        return;
    struct prog p = {
        .id = id, .what = "hook poststop", .path = path, .cwd = bundle, .in = in,
        .argv = strings(json_object_get(hook, "args"), path),
        .envp = strings(json_object_get(hook, "env"), NULL),
        .timeout_s = limit > 0 && limit < INT_MAX / 1000 ? (int)limit : HOOK_S,
    };
    run(&p);
    strings_free(p.argv);
    strings_free(p.envp);
}

static json_t *read_config(const char *id, const char *path)
{
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    json_error_t e = { .text = "" };
    json_t *j = NULL;

    if (fd < 0 && errno == ENOENT)
        return NULL;
    if (fd < 0 || fstat(fd, &st) < 0)
        snprintf(e.text, sizeof e.text, "%s", strerror(errno));
    else if (st.st_uid != geteuid() || (st.st_mode & 022) || st.st_size > CONFIG_MAX)
        snprintf(e.text, sizeof e.text, "others can write it, or it is too large");
    else
        j = json_loadfd(fd, JSON_REJECT_DUPLICATES, &e);
    if (!j)
        log_warn("op=poststop ctr=%s path='%s' err='%s', its hooks do not run", id, path, e.text);
    return j;
}

static void drop(const char *bundle)
{
    static const char *const names[] = { "config.json", "rootfs", "build" };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        auto_free char *path = mem_printf("%s/%s", bundle, names[i]);

        (void)remove(path);
    }
    (void)rmdir(bundle);
}

static void run_bundle(const char *dir, const char *id, const char *runtime)
{
    auto_free char *bundle = mem_printf("%s/%s", dir, id), *path = mem_printf("%s/config.json", bundle);
    json_t *config = read_config(id, path), *hook;
    size_t i;

    (void)runtime;
    json_array_foreach(json_object_get(json_object_get(config, "hooks"), "poststop"), i, hook)
        run_hook(id, bundle, config, hook);
    json_decref(config);
    drop(bundle);
}

static void run_delete(const char *dir, const char *id, const char *runtime)
{
    char *argv[] = { (char *)(uintptr_t)runtime, (char *)(uintptr_t)"--root",
                     (char *)(uintptr_t)dir, (char *)(uintptr_t)"delete",
                     (char *)(uintptr_t)"--force", (char *)(uintptr_t)id, NULL };
    struct prog p = { .id = id, .what = "delete by", .path = runtime, .cwd = "/", .argv = argv,
                      .in = -1, .timeout_s = DELETE_S, .own_mounts = true };

    if (runtime)
        run(&p);
}

/* ---- the containers */

/* Its cgroup is named by its id; what has no memory any more is dead. */
static bool in_cgroup(const char *pid, const char *id)
{
    auto_free char *exe = mem_printf("/proc/%s/exe", pid), *path = mem_printf("/proc/%s/cgroup", pid);
    char buf[8192];
    auto_fd int fd = readlink(exe, buf, sizeof buf) < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof buf - 1);

    buf[n > 0 ? n : 0] = '\0';
    return strstr(buf, id) != NULL;
}

static bool lives(const char *id)
{
    DIR *d = opendir("/proc");
    struct dirent *e;
    bool found = false;

    while (d && !found && (e = readdir(d)))
        found = e->d_name[0] >= '1' && e->d_name[0] <= '9' && in_cgroup(e->d_name, id);
    if (d)
        closedir(d);
    return found;
}

/* The daemon kills the processes of such a pod as it starts this. */
static void wait_gone(const char *id)
{
    for (int ms = 0; ms < GONE_MS && lives(id); ms += LOOK_MS)
        (void)poll(NULL, 0, LOOK_MS);
}

static void each(const char *pod, const char *sub, const char *runtime,
                 void (*fn)(const char *dir, const char *id, const char *runtime))
{
    auto_free char *dir = mem_printf("%s/%s", pod, sub);
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        if (strchr(e->d_name, '.'))  /* net.*: pod/netdev.c */
            continue;
        wait_gone(e->d_name);
        fn(dir, e->d_name, runtime);
    }
    if (d)
        closedir(d);
}

int worker_poststop(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "poststop: a directory is wanted, and maybe a runtime\n");
        return 2;
    }
    each(argv[1], "hooks", NULL, run_bundle);
    each(argv[1], "oci/r", argc > 2 ? argv[2] : NULL, run_delete);
    return 0;
}
