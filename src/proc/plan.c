/* SPDX-License-Identifier: Apache-2.0 */
/* plan.h's structs to one flat file (pod/wire.h): the body first, then whatever it names, each
 * array at a multiple of 8, last a NUL byte. Built in a growing buffer, so offsets are the only
 * references; then written to a memfd in one go and sealed, so that what the supervisor checked is
 * what it uses. */
#include "proc/plan.h"

#include "proc/flat.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

_Static_assert((int)PLAN_MOUNT_CGROUP == WIRE_MOUNT_CGROUP &&
                   (int)PLAN_MOUNT_SHM == WIRE_MOUNT_SHM &&
                   (int)PLAN_CREATE_SOURCE == WIRE_M_CREATE_SOURCE &&
                   (int)PLAN_IDMAP == WIRE_M_IDMAP && (int)PLAN_SHARED == WIRE_SHARED &&
                   (int)PLAN_PID_TARGET == WIRE_PID_TARGET &&
                   (int)PLAN_HOOK_POSTSTOP == WIRE_HOOK_POSTSTOP,
               "plan.h and pod/wire.h number alike");

uint32_t flat_put(struct str *s, const void *p, size_t n)
{
    static const char zeros[8];
    uint32_t off;

    str_add(s, zeros, (8 - s->len % 8) % 8);
    off = (uint32_t)s->len;
    str_add(s, p, n);
    return off;
}

wire_str flat_string(struct str *s, const char *z)
{
    wire_str off = (wire_str)s->len;

    if (!z)
        return 0;
    str_add(s, z, strlen(z) + 1);
    return off;
}

struct wire_arr flat_array(struct str *s, const void *p, size_t n, size_t size)
{
    struct wire_arr a = { 0, (uint32_t)n, (uint32_t)size };

    if (n)
        a.off = flat_put(s, p, n * size);
    return a;
}

/* n strings; with the 0 behind them that execve wants */
static struct wire_arr put_strings(struct str *s, const char *const *v, size_t n, bool terminated)
{
    auto_free uint64_t *offs = mem_array(n + 1, sizeof *offs);
    struct wire_arr a = { 0, (uint32_t)n, sizeof *offs };

    if (n == 0 && !terminated)
        return a;
    for (size_t i = 0; i < n; i++)
        offs[i] = flat_string(s, v[i]);
    a.off = flat_put(s, offs, (n + (terminated ? 1 : 0)) * sizeof *offs);
    return a;
}

static size_t count(char *const *v)
{
    size_t n = 0;

    while (v && v[n])
        n++;
    return n;
}

int flat_end(struct str *s, enum wire_kind kind, struct err *err)
{
    struct wire_file f;

    memcpy(&f, s->p, sizeof f);
    f = (struct wire_file){ WIRE_MAGIC, (uint32_t)kind, f.need ? f.need : 1, 0 };
    str_putc(s, '\0');
    if (s->len > WIRE_FILE_MAX)
        return err_set(err, -E2BIG, "launch plan of %zu bytes", s->len);
    f.total = (uint32_t)s->len;
    memcpy(s->p, &f, sizeof f);
    return 0;
}

int flat_memfd(const void *p, size_t len, const char *name, int *ret_fd, struct err *err)
{
    auto_fd int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return err_sys(err, "memfd for a launch plan");
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)p + done, len - done);
        if (n < 0)
            return err_sys(err, "launch plan of %zu bytes", len);
        done += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        return err_sys(err, "sealing a launch plan");
    *ret_fd = take_fd(&fd);
    return 0;
}

int flat_finish(struct str *s, enum wire_kind kind, const char *name, int *ret_fd, struct err *err)
{
    int r = flat_end(s, kind, err);

    return r < 0 ? r : flat_memfd(s->p, s->len, name, ret_fd, err);
}

static int put_process(struct str *s, const struct plan_process *p, struct wire_process *w,
                       struct err *err)
{
    size_t argc = count(p->argv);
    auto_free uint32_t *groups = mem_array(p->n_groups + 1, sizeof *groups);
    auto_free struct wire_rlimit *limits = mem_array(p->n_rlimits + 1, sizeof *limits);

    if (argc == 0)
        return err_set(err, -EINVAL, "launch plan without a command");
    if (p->seccomp_len % 8)
        return err_set(err, -EINVAL, "seccomp filter of %zu bytes", p->seccomp_len);
    w->argv = put_strings(s, (const char *const *)p->argv, argc, true);
    w->envp = put_strings(s, (const char *const *)p->envp, count(p->envp), true);
    for (size_t i = 0; i < p->n_groups; i++)
        groups[i] = p->groups[i];
    w->groups = flat_array(s, groups, p->n_groups, sizeof *groups);
    for (size_t i = 0; i < p->n_rlimits; i++) {
        limits[i].resource = (uint32_t)p->rlimits[i].resource;
        limits[i].soft = p->rlimits[i].soft;
        limits[i].hard = p->rlimits[i].hard;
    }
    w->rlimits = flat_array(s, limits, p->n_rlimits, sizeof *limits);
    w->seccomp = flat_array(s, p->seccomp, p->seccomp ? p->seccomp_len / 8 : 0, 8);
    w->seccomp_flags = p->seccomp_flags;
    w->cwd = flat_string(s, p->cwd);
    w->apparmor = flat_string(s, p->apparmor);
    w->selinux = flat_string(s, p->selinux);
    w->uid = p->uid;
    w->gid = p->gid;
    w->oom_score_adj = p->oom_score_adj;
    w->flags = (p->no_new_privs ? WIRE_NO_NEW_PRIVS : 0) | (p->tty ? WIRE_TTY : 0) |
               (p->stdin_open ? WIRE_STDIN : 0) | (p->stdin_once ? WIRE_STDIN_ONCE : 0) |
               (p->set_oom_score_adj ? WIRE_SET_OOM : 0);
    w->cap_bounding = p->cap_bounding;
    w->cap_effective = p->cap_effective;
    w->cap_permitted = p->cap_permitted;
    w->cap_inheritable = p->cap_inheritable;
    w->cap_ambient = p->cap_ambient;
    return 0;
}

static void put_oci(struct str *s, const struct plan_process *p, struct wire_plan *w)
{
    if (!p->oci_path)
        return;
    w->file.need = WIRE_NEED_OCI;
    w->oci_path = flat_string(s, p->oci_path);
    w->oci_json = flat_string(s, p->oci_json);
}

static struct wire_arr put_mounts(struct str *s, const struct plan_mount *m, size_t n)
{
    auto_free struct wire_mount *w = mem_array(n + 1, sizeof *w);

    for (size_t i = 0; i < n; i++) {
        w[i].kind = (uint32_t)m[i].kind;
        w[i].flags = m[i].flags;
        w[i].propagation = (uint32_t)m[i].propagation;
        w[i].source = flat_string(s, m[i].source);
        w[i].target = flat_string(s, m[i].target);
        w[i].fstype = flat_string(s, m[i].fstype);
        w[i].data = flat_string(s, m[i].data);
        w[i].lower = flat_string(s, m[i].lower);
        w[i].label = flat_string(s, m[i].label);
        w[i].fd = -1;
    }
    return flat_array(s, w, n, sizeof *w);
}

static struct wire_arr put_devices(struct str *s, const struct plan_device *d, size_t n)
{
    auto_free struct wire_device *w = mem_array(n + 1, sizeof *w);

    for (size_t i = 0; i < n; i++) {
        w[i].path = flat_string(s, d[i].path);
        w[i].source = flat_string(s, d[i].source);
        w[i].mode = d[i].mode;
        w[i].major = d[i].major;
        w[i].minor = d[i].minor;
        w[i].uid = d[i].uid;
        w[i].gid = d[i].gid;
        w[i].fd = -1;
    }
    return flat_array(s, w, n, sizeof *w);
}

static struct wire_arr put_pairs(struct str *s, const struct plan_pair *p, size_t n)
{
    auto_free struct wire_pair *w = mem_array(n + 1, sizeof *w);

    for (size_t i = 0; i < n; i++) {
        w[i].key = flat_string(s, p[i].key);
        w[i].value = flat_string(s, p[i].value);
    }
    return flat_array(s, w, n, sizeof *w);
}

static void put_hooks(struct str *s, const struct plan *p, struct wire_plan *w)
{
    auto_free struct wire_hook *v = mem_array(p->n_hooks + 1, sizeof *v);

    if (!p->n_hooks && !p->n_netdevs)
        return;
    w->file.need = WIRE_NEED_HOOKS;
    for (size_t i = 0; i < p->n_hooks; i++) {
        const struct plan_hook *h = &p->hooks[i];

        v[i].kind = (uint32_t)h->kind;
        v[i].timeout_ms = h->timeout_ms;
        v[i].path = flat_string(s, h->path);
        v[i].argv = put_strings(s, (const char *const *)h->argv, count(h->argv), true);
        v[i].envp = put_strings(s, (const char *const *)h->envp, count(h->envp), true);
    }
    w->hooks = flat_array(s, v, p->n_hooks, sizeof *v);
    w->netdevs = put_pairs(s, p->netdevs, p->n_netdevs);
    w->bundle = flat_string(s, p->bundle);
    w->config = flat_string(s, p->config);
    w->state = flat_string(s, p->state);
}

static void put_rdt(struct str *s, const struct plan_rdt *r, struct wire_plan *w)
{
    if (!r)
        return;
    w->file.need = WIRE_NEED_RDT;
    w->rdt_flags = WIRE_RDT | (r->monitor ? WIRE_RDT_MON : 0) | (r->need_cmt ? WIRE_RDT_CMT : 0) |
                   (r->need_mbm ? WIRE_RDT_MBM : 0);
    w->rdt_group = flat_string(s, r->group);
    w->rdt_schema = flat_string(s, r->schema);
    w->rdt_schemata = flat_string(s, r->schemata);
}

const char *plan_unrestorable(const struct plan *p)
{
    return p->process.oci_path        ? "by an OCI runtime"
           : p->process.tty           ? "with a terminal"
           : p->process.stdin_open    ? "with a stdin that is kept open"
           : p->pidns != PLAN_PID_OWN ? "without a PID namespace of its own"
           : p->n_hooks               ? "with hooks"
                                      : NULL;
}

static int put_restore(struct str *s, const struct plan *p, struct wire_plan *w, struct err *err)
{
    const struct plan_restore *r = p->restore;
    const char *bad = plan_unrestorable(p);

    if (!r)
        return 0;
    if (!r->dir || !r->criu || !r->worker)
        return err_set(err, -EINVAL, "launch plan: restored from nowhere");
    if (bad)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "a container %s cannot be restored from a "
                       "checkpoint", bad);
    w->file.need = WIRE_NEED_RESTORE;
    w->restore = flat_string(s, r->dir);
    w->restore_criu = flat_string(s, r->criu);
    w->restore_worker = flat_string(s, r->worker);
    return 0;
}

struct wire_arr flat_pairs(struct str *s, const struct plan_pair *p, size_t n)
{
    return put_pairs(s, p, n);
}

char *plan_oci_bundle(const char *pod_dir, bool userns)
{
    return userns ? mem_strdup(WIRE_OCI_USERNS) : mem_printf("%s/oci/b", pod_dir);
}

int plan_encode(const struct plan *p, int *ret_fd, struct err *err)
{
    auto_str struct str s = STR_INIT;
    struct wire_plan w = { 0 };

    if (!p->id || !p->lower || !p->upper || !p->work)
        return err_set(err, -EINVAL, "launch plan without id or root");
    str_add(&s, &w, sizeof w);
    int r = put_process(&s, &p->process, &w.process, err);
    if (r < 0)
        return r;
    put_oci(&s, &p->process, &w);
    w.id = flat_string(&s, p->id);
    w.lower = flat_string(&s, p->lower);
    w.upper = flat_string(&s, p->upper);
    w.work = flat_string(&s, p->work);
    w.log_path = flat_string(&s, str_empty(p->log_path) ? NULL : p->log_path);
    w.mount_label = flat_string(&s, p->mount_label);
    w.flags = (p->rootfs_readonly ? WIRE_ROOT_RDONLY : 0) | (p->host_net ? WIRE_HOST_NET : 0) |
              (p->host_ipc ? WIRE_HOST_IPC : 0) | (p->host_uts ? WIRE_HOST_UTS : 0) |
              (p->own_cgroupns ? WIRE_OWN_CGROUPNS : 0) | (p->host_userns ? WIRE_HOST_USERNS : 0);
    w.pidns = (uint32_t)p->pidns;
    w.root_propagation = (uint32_t)p->rootfs_propagation;
    w.log_line_max = p->log_line_max;
    w.mounts = put_mounts(&s, p->mounts, p->n_mounts);
    w.devices = put_devices(&s, p->devices, p->n_devices);
    w.symlinks = put_pairs(&s, p->symlinks, p->n_symlinks);
    w.masked = put_strings(&s, p->masked, p->n_masked, false);
    w.readonly = put_strings(&s, p->readonly, p->n_readonly, false);
    put_hooks(&s, p, &w);
    put_rdt(&s, p->rdt, &w);
    r = put_restore(&s, p, &w, err);
    if (r < 0)
        return r;
    memcpy(s.p, &w, sizeof w);
    return flat_finish(&s, WIRE_PLAN_CTR, "cricket-plan", ret_fd, err);
}

int plan_encode_exec(const struct plan_process *p, const char *ctr_id, struct str *ret,
                     struct err *err)
{
    auto_str struct str s = STR_INIT;
    struct wire_plan w = { 0 };

    str_add(&s, &w, sizeof w);
    int r = put_process(&s, p, &w.process, err);
    if (r < 0)
        return r;
    put_oci(&s, p, &w);
    w.id = flat_string(&s, ctr_id);
    memcpy(s.p, &w, sizeof w);
    r = flat_end(&s, WIRE_PLAN_EXEC, err);
    if (r < 0)
        return r;
    *ret = s;
    s = (struct str)STR_INIT;
    return 0;
}
