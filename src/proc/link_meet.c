/* SPDX-License-Identifier: Apache-2.0 */
/* How a link begins: a supervisor is started and told to make a sandbox, or one that lives is met
 * again. What is said afterwards is link.c's. */
#include "proc/link.h"

#include "mem.h"
#include "proc/flat.h"
#include "proc/link_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static void on_child_exit(void *arg, int status)
{
    struct link *k = arg;

    (void)status; /* the socket says the same, and what was sent last comes before that */
    k->child = NULL;
}

static int make_dirs(const char *path, bool *made, struct err *err)
{
    auto_free char *p = mem_strdup(path);

    for (char *s = p + 1;; s++) {
        if (*s != '/' && *s != '\0')
            continue;
        char c = *s;
        *s = '\0';
        if (mkdir(p, c ? 0711 : 0700) == 0)
            *made = c == '\0';
        else if (errno != EEXIST)
            return err_sys(err, "mkdir '%s'", p);
        if (!c)
            return 0;
        *s = c;
    }
}

static int encode_sandbox(const struct link_sandbox *s, int *ret_fd, struct err *err)
{
    auto_str struct str b = STR_INIT;
    struct wire_sandbox w = { 0 };

    _Static_assert(sizeof(struct wire_idmap) == sizeof(struct link_idmap),
                   "id maps are copied as they are");
    str_add(&b, &w, sizeof w);
    w.id = flat_string(&b, s->id);
    w.state_dir = flat_string(&b, s->state_dir);
    w.hostname = flat_string(&b, s->hostname);
    w.flags = (s->host_net ? WIRE_HOST_NET : 0) | (s->host_ipc ? WIRE_HOST_IPC : 0) |
              (s->shared_pid ? WIRE_SB_SHARED_PID : 0) | (s->userns ? WIRE_SB_USERNS : 0);
    w.shm_size = s->shm_size;
    w.mount_label = flat_string(&b, s->mount_label);
    w.init_label = flat_string(&b, s->init_label);
    w.sysctls = flat_pairs(&b, s->sysctls, s->n_sysctls);
    w.uid_map = flat_array(&b, s->uid_map, s->n_uid_map, sizeof *s->uid_map);
    w.gid_map = flat_array(&b, s->gid_map, s->n_gid_map, sizeof *s->gid_map);
    memcpy(b.p, &w, sizeof w);
    return flat_finish(&b, WIRE_SANDBOX, "cricket-sandbox", ret_fd, err);
}

int link_pod_fd(const char *path, int *ret_fd, struct err *err)
{
    struct mount_attr a = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };
    auto_fd int fd =
        (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    if (fd < 0)
        return err_sys(err, "open '%s'", path);
    if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &a, sizeof a) < 0)
        return err_sys(err, "read-only mount of '%s'", path);
    *ret_fd = take_fd(&fd);
    return 0;
}

int link_spawn(struct loop *l, const struct link_opts *o, const struct link_sandbox *s,
               const struct link_events *ev, link_ready_fn ready, void *arg, struct link **ret,
               struct err *err)
{
    char *argv[] = { (char *)(uintptr_t)"cricket-pod", (char *)(uintptr_t)s->id, NULL };
    char *envp[] = { NULL };
    struct child_opts co = CHILD_OPTS_INIT;
    struct wire_init m = { (uint32_t)o->n_cgroup_join_fds };
    int fds[WIRE_FDS_MAX], pair[2], r;
    auto_fd int file = -1;
    bool made = false;

    if (o->n_cgroup_join_fds > ARRAY_LEN(o->cgroup_join_fds))
        return err_set(err, -EINVAL, "%zu cgroups of the supervisor", o->n_cgroup_join_fds);
    r = encode_sandbox(s, &file, err);
    if (r < 0)
        return r;
    r = make_dirs(s->state_dir, &made, err);
    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return err_sys(err, "socketpair for a supervisor");
    struct link *k = link_new(l, pair[0], s->state_dir, ev);
    struct child_fd cfd = { pair[1], WIRE_LINK_FD };
    k->undo = made;
    co.path = o->pod_path;
    co.exec_fd = o->pod_fd > 0 ? o->pod_fd : -1;
    co.argv = argv;
    co.envp = envp;
    co.fds = &cfd;
    co.n_fds = 1;
    r = child_spawn(l, &co, on_child_exit, k, &k->child, err);
    close(pair[1]);
    if (r == 0) {
        k->pid = child_pid(k->child);
        fds[0] = file;
        for (size_t i = 0; i < o->n_cgroup_join_fds; i++)
            fds[1 + i] = o->cgroup_join_fds[i];
        r = link_send(k, WIRE_INIT, link_serial(k), &m, sizeof m, fds, 1 + o->n_cgroup_join_fds,
                      err);
    }
    if (r < 0) {
        if (k->undo)
            link_undo_dir(k);
        link_free(k);
        return r;
    }
    k->ready = ready;
    k->ready_arg = arg;
    link_watch(k);
    *ret = k;
    return 0;
}

int link_open(struct loop *l, const char *state_dir, const struct link_events *ev,
              void (*on_ctr)(void *arg, const struct link_ctr *c), link_ready_fn ready, void *arg,
              struct link **ret, struct err *err)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct wire_hello m = { WIRE_VERSION };
    struct ucred cred;
    socklen_t len = sizeof cred;
    auto_fd int dir = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0)
        return err_sys(err, "open '%s'", state_dir);
    auto_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(err, "socket");
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/sock",
             dir); /* the path itself may be too long */
    if (connect(fd, (const struct sockaddr *)(const void *)&a, sizeof a) < 0)
        return err_sys(err, "connect to '%s/sock'", state_dir);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return err_sys(err, "credentials of '%s/sock'", state_dir);
    if (cred.uid != geteuid())
        return err_set(err, -EPERM, "'%s/sock' is listened on by user %u", state_dir,
                       (unsigned)cred.uid);
    struct link *k = link_new(l, take_fd(&fd), state_dir, ev);
    k->pid = cred.pid;
    int r = link_send(k, WIRE_HELLO, link_serial(k), &m, sizeof m, NULL, 0, err);
    if (r < 0) {
        link_free(k);
        return r;
    }
    k->on_ctr = on_ctr;
    k->ready = ready;
    k->ready_arg = arg;
    *ret = k;
    return 0;
}
