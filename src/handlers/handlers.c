/* SPDX-License-Identifier: Apache-2.0 */
/* Makes and ends what the handlers work on, in the order in which one needs the other. */
#include "handlers/handlers.h"

#include "handlers/apparmor.h"
#include "handlers/checkpoint.h"
#include "handlers/ctr_op.h"
#include "handlers/image_puller.h"
#include "handlers/layers.h"
#include "handlers/objects.h"
#include "handlers/recover.h"
#include "handlers/rpcs.h"
#include "handlers/sandbox_net.h"
#include "handlers/sandbox_op.h"
#include "handlers/selinux.h"
#include "handlers/stats.h"
#include "mem.h"
#include "proc/cgroup.h"
#include "proc/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static int make_dir(const char *base, const char *name, mode_t mode, struct err *err)
{
    auto_free char *p = mem_printf("%s%s%s", base, name[0] ? "/" : "", name);

    for (char *q = p + 1;; q++) {
        char c = *q;

        if (c != '/' && c)
            continue;
        *q = '\0';
        if (mkdir(p, c ? 0755 : mode) < 0 && errno != EEXIST)
            return err_sys(err, "make directory '%s'", p);
        *q = c;
        if (!c)
            return 0;
    }
}

/* Subdirectories of it have nothing to do with each other: ext4 gives each another block group
 * (chattr(1), T). In one group a new inode is looked for past all that were removed there in the
 * last minutes, which after a large image took longer than all else of a start. */
static void spread_dirs(const char *base, const char *name)
{
    auto_free char *p = mem_printf("%s/%s", base, name);
    auto_fd int fd = open(p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int flags;

    if (fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && !(flags & FS_TOPDIR_FL)) {
        flags |= FS_TOPDIR_FL;
        (void)ioctl(fd, FS_IOC_SETFLAGS, &flags);    /* other file systems do not have it */
    }
}

static int make_dirs(const struct conf *c, struct err *err)
{
    int r = make_dir(c->root, "", 0700, err);

    if (r >= 0)
        r = make_dir(c->root, "l", 0700, err);
    if (r >= 0)
        r = make_dir(c->root, "containers", 0700, err);
    if (r >= 0)
        spread_dirs(c->root, "containers");
    if (r >= 0)
        r = make_dir(c->root, "checkpoints", 0700, err);
    if (r >= 0)
        r = make_dir(c->state, "", 0711, err);
    if (r >= 0)
        r = make_dir(c->state, "pods", 0711, err);   /* hooks in a user namespace pass through */
    if (r >= 0)
        r = make_dir(c->state, "cni", 0700, err);
    return r;
}

static void set_init_layer(struct handlers *h)
{
    struct err err = ERR_INIT;

    h->init_layer = init_layer_make(h->conf, &err) >= 0;
    if (!h->init_layer)
        log_warn("op=start err='%s', containers start slower without it", err.text);
}

/* The supervisor's program on a read-only mount that nobody else has: PID 1 of a shared PID
 * namespace shows it to containers as /proc/1/exe, and nothing can write through that
 * (mount_setattr(2), Linux 5.12; else the plain file). */
static int open_pod(const char *path)
{
    struct mount_attr a = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    if (fd >= 0 && syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &a, sizeof a) < 0)
        fd = fd_close(fd);
    if (fd < 0)
        log_warn("op=start path='%s' err='%s', without a read-only mount", path, strerror(errno));
    return fd;
}

static int open_programs(struct handlers *h, struct err *err)
{
    h->pod_path = mem_printf("%s/cricket-pod", h->conf->libexec_dir);
    h->worker_path = mem_printf("%s/cricket-worker", h->conf->libexec_dir);
    if (access(h->pod_path, X_OK) < 0)
        return err_sys(err, "supervisor program '%s'", h->pod_path);
    if (access(h->worker_path, X_OK) < 0)
        return err_sys(err, "worker program '%s'", h->worker_path);
    h->link_opts.pod_path = h->pod_path;
    h->link_opts.pod_fd = open_pod(h->pod_path);
    return 0;
}

static void set_selinux(struct handlers *h)
{
    if (!h->conf->selinux)
        return;
    h->node.selinux = selinux_probe(&h->selinux_process, &h->selinux_file);
    h->node.selinux_process = h->selinux_process;
    h->node.selinux_file = h->selinux_file;
    if (h->node.selinux && !h->selinux_process)
        log_warn("op=start err='the SELinux policy names no contexts for containers', they have no "
                 "labels");
}

/* Status says it, RunPodSandbox refuses with the reason. */
static void probe_userns(struct handlers *h)
{
    struct err err = ERR_INIT;

    h->node.userns = userns_probe(h->conf->root, "l", "containers", &err) == 0;
    if (h->node.userns)
        return;
    h->no_userns = mem_strdup(err.text);
    h->node.no_userns = h->no_userns;
    log_info("op=start note='no user namespaces' err='%s'", err.text);
}

/* Without its profile RuntimeDefault is refused, and who asks for nothing is not confined. */
static void set_apparmor(struct handlers *h)
{
    struct err err = ERR_INIT;

    if (strcmp(h->conf->apparmor_profile, "unconfined") != 0)
        h->node.apparmor_default = h->conf->apparmor_profile;
    if (!h->node.apparmor || strcmp(h->conf->apparmor_profile, CONF_APPARMOR) != 0)
        return;
    if (apparmor_load_default(h->loop, &err) < 0)
        log_warn("op=start profile=%s err='%s', containers that ask for no AppArmor profile are "
                 "unconfined", CONF_APPARMOR, err.text);
}

static void read_boot_id(struct handlers *h)
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    if (f && fgets(h->boot_id, sizeof h->boot_id, f))
        h->boot_id[strcspn(h->boot_id, "\n")] = '\0';
    if (f)
        fclose(f);
}

static int open_all(struct handlers *h, bool *same_boot, struct err *err)
{
    const struct conf *c = h->conf;
    struct store_opts so = {
        .root = c->root, .state = c->state, .worker = h->worker_path, .lazy_ms = 1000
    };
    struct seccomp_opts sc = { .state = c->state, .worker = h->worker_path,
                               .default_profile = c->seccomp_profile };
    auto_free char *holds = mem_printf("%s/cni", c->state);
    struct cni_opts co = { .conf_dirs = c->cni_conf_dirs, .bin_dirs = c->cni_bin_dirs,
                           .timeout_ms = c->cni_timeout_ms, .hold_dir = holds };
    bool rebuilt = false;
    int r = cgroup_init(err);

    if (r >= 0)
        r = store_open(h->loop, &so, same_boot, &rebuilt, &h->store, err);
    if (r < 0)
        return r;
    loop_before_reply(h->loop, ctr_acks_flush, h);    /* behind the store's own hook */
    h->images = images_new(h->store);
    images_set_pinned(h->images, c->pinned_images);
    r = images_load(h->images, err);
    if (r >= 0)
        r = seccomp_new(h->loop, &sc, &h->seccomp, err);
    if (r >= 0)
        r = cni_new(h->loop, &co, &h->cni, err);
    if (r >= 0)
        r = image_puller_new(h, err);
    if (r >= 0 && rebuilt)
        log_error(
            "op=start err='the durable store was damaged and has been set aside': images that its copy does not "
            "have need to be pulled again");
    return r;
}

int handlers_new(struct loop *l, const struct conf *conf, struct handlers **ret, struct err *err)
{
    struct handlers *h = mem_new(struct handlers);
    bool same_boot = false;
    int r;

    h->loop = l;
    h->conf = conf;
    h->link_opts.pod_fd = -1;
    list_init(&h->acks);
    list_init(&h->subscribers);
    list_init(&h->pulls);
    list_init(&h->sweeps);
    list_init(&h->pod_checkpoints);
    list_init(&h->runtimes);
    read_boot_id(h);
    spec_node_init(&h->node);
    h->node.cdi_dirs = (const char *const *)conf->cdi_spec_dirs;
    h->node.create_missing_host_paths = conf->create_missing_host_paths;
    h->node.systemd_cgroups = conf->cgroup_driver == CONF_SYSTEMD;
    h->node.image_volumes = true;
    if (h->node.systemd_cgroups)
        r = err_set(err, -ENOTSUP,
                    "cgroup_driver 'systemd' is not supported by this version: use 'cgroupfs'");
    else
        r = make_dirs(conf, err);
    if (r >= 0)
        r = open_programs(h, err);
    if (r >= 0)
        set_init_layer(h);
    if (r >= 0)
        set_selinux(h);
    if (r >= 0)
        set_apparmor(h);
    if (r >= 0)
        probe_userns(h);
    if (r >= 0)
        r = open_all(h, &same_boot, err);
    if (r >= 0)
        r = recover_load(h, err);
    if (r >= 0)
        r = recover_run(h, same_boot, err);
    if (r >= 0)
        r = stream_listen(l, conf->stream_address, conf->stream_port, &h->stream, err);
    if (r < 0) {
        handlers_free(h);
        return r;
    }
    stream_patience(h->stream, conf->stream_wait_ms, conf->stream_idle_ms);
    net_check_all(h);
    runtimes_probe(h);
    *ret = h;
    return 0;
}

/* What is under way stays as it is on record: the next start finishes it. Nothing may go on by
 * itself from here on, since what its steps need is about to go. */
static void drop_ops(struct handlers *h)
{
    struct sandbox *s;
    struct ctr *c;

    ctr_each(h, i, c) {
        if (c->create)
            ctr_create_drop(c->create);
        if (c->start)
            ctr_start_drop(c->start);
        if (c->stop)
            ctr_stop_drop(c->stop);
        if (c->remove)
            ctr_stop_drop(c->remove);
    }
    sandbox_each(h, i, s) {
        if (s->run)
            sandbox_op_drop(s->run);
        if (s->stop)
            sandbox_op_drop(s->stop);
        if (s->remove)
            sandbox_op_drop(s->remove);
        if (s->poststop)
            sandbox_op_drop(s->poststop);
    }
}

struct handlers *handlers_free(struct handlers *h)
{
    struct sandbox *s;
    struct ctr *c;

    if (!h)
        return NULL;
    h->ending = true;
    ctr_each(h, i, c)
        ctr_end_execs(c);
    sandbox_each(h, i, s)
        sandbox_end_forwards(s);
    pod_checkpoints_end(h);
    drop_ops(h);
    h->stream = h->stream ? stream_free(h->stream) : NULL;
    image_puller_free(h);
    h->cni = cni_free(h->cni);
    net_check_end(h);
    runtimes_end(h);
    h->seccomp = seccomp_free(h->seccomp);
    h->stats = stats_state_free(h->stats);
    ctr_sweeps_end(h);
    if (h->store)
        loop_settle(h->loop);
    while (h->sandboxes.n)
        sandbox_free(h->sandboxes.v[h->sandboxes.n - 1]);
    h->store = h->store ? store_close(h->store) : NULL;      /* tells who waits for a record */
    h->images = h->images ? images_free(h->images) : NULL;
    fd_close(h->link_opts.pod_fd);
    free(h->sandboxes.v);
    free(h->ctrs.v);
    free(h->pod_path);
    free(h->worker_path);
    free(h->no_userns);
    free(h->selinux_process);
    free(h->selinux_file);
    free(h);
    return NULL;
}
