/* SPDX-License-Identifier: Apache-2.0 */
/* The check that comes before everything else is believed. The daemon is trusted to mean well, not
 * to be of the same version or free of bugs: a bad offset must be an error text, not a dead
 * supervisor with a pod's worth of containers. */
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct view {
    const char *base;
    size_t len;
};

static bool str_ok(const struct view *v, wire_str off)
{
    return off < v->len;             /* the last byte of the file is 0 */
}

/* extra: elements behind the counted ones */
static bool arr_ok(const struct view *v, const struct wire_arr *a, size_t size, size_t extra)
{
    if (a->count == 0 && a->off == 0 && extra == 0)
        return true;
    return a->off % 8 == 0 && a->off >= sizeof(struct wire_file) && a->size >= size &&
           a->size <= 4096 && a->size % 4 == 0 && a->off <= v->len &&
           ((uint64_t)a->count + extra) * a->size <= v->len - a->off;
}

/* Copies, so that nothing hangs on the alignment of what a file claims. */
static void get(const struct view *v, const struct wire_arr *a, uint32_t i, void *to, size_t n)
{
    memcpy(to, v->base + a->off + (size_t)a->size * i, n);
}

static bool strings_ok(const struct view *v, const struct wire_arr *a, bool terminated)
{
    uint64_t off;

    if (!arr_ok(v, a, sizeof off, terminated ? 1 : 0))
        return false;
    if (a->count && a->size != sizeof off)
        return false;
    for (uint32_t i = 0; i < a->count; i++) {
        get(v, a, i, &off, sizeof off);
        if (off == 0 || off >= v->len)
            return false;
    }
    if (terminated) {
        if (a->size != sizeof off)
            return false;
        get(v, a, a->count, &off, sizeof off);
        if (off != 0)
            return false;
    }
    return true;
}

static const char *check_process(const struct view *v, const struct wire_process *p)
{
    if (p->argv.count == 0 || !strings_ok(v, &p->argv, true))
        return "argv";
    if (!strings_ok(v, &p->envp, true))
        return "envp";
    if (!arr_ok(v, &p->groups, sizeof(uint32_t), 0) ||
        (p->groups.count && p->groups.size != sizeof(uint32_t)) || p->groups.count > 65536)
        return "groups";
    if (!arr_ok(v, &p->rlimits, sizeof(struct wire_rlimit), 0))
        return "rlimits";
    if (!arr_ok(v, &p->seccomp, 8, 0) || p->seccomp.count > 4096 ||
        (p->seccomp.count && p->seccomp.size != 8))
        return "seccomp";
    if (!str_ok(v, p->cwd) || !str_ok(v, p->apparmor) || !str_ok(v, p->selinux))
        return "process strings";
    return NULL;
}

static const char *check_ctr(const struct view *v, const struct wire_plan *p)
{
    struct wire_mount m;
    struct wire_device d;
    struct wire_pair s;

    if (!str_ok(v, p->lower) || !str_ok(v, p->upper) || !str_ok(v, p->work) ||
        !str_ok(v, p->log_path) || !str_ok(v, p->mount_label) || !p->lower || !p->upper || !p->work)
        return "root paths";
    if (!arr_ok(v, &p->mounts, sizeof m, 0))
        return "mounts";
    for (uint32_t i = 0; i < p->mounts.count; i++) {
        get(v, &p->mounts, i, &m, sizeof m);
        if (!str_ok(v, m.source) || !str_ok(v, m.target) || !m.target || !str_ok(v, m.fstype) ||
            !str_ok(v, m.data) || !str_ok(v, m.lower) || !str_ok(v, m.label))
            return "mount strings";
    }
    if (!arr_ok(v, &p->devices, sizeof d, 0))
        return "devices";
    for (uint32_t i = 0; i < p->devices.count; i++) {
        get(v, &p->devices, i, &d, sizeof d);
        if (!str_ok(v, d.path) || !d.path || !str_ok(v, d.source))
            return "device path";
    }
    if (!arr_ok(v, &p->symlinks, sizeof s, 0))
        return "symlinks";
    for (uint32_t i = 0; i < p->symlinks.count; i++) {
        get(v, &p->symlinks, i, &s, sizeof s);
        if (!str_ok(v, s.key) || !s.key || !str_ok(v, s.value) || !s.value)
            return "symlink strings";
    }
    if (!strings_ok(v, &p->masked, false) || !strings_ok(v, &p->readonly, false))
        return "masked paths";
    return NULL;
}

static const char *check_hooks(const struct view *v, const struct wire_plan *p)
{
    struct wire_hook h;
    struct wire_pair d;

    if (!arr_ok(v, &p->hooks, sizeof h, 0))
        return "hooks";
    if (p->hooks.count && (!p->bundle || !p->config || !p->state || !str_ok(v, p->bundle) ||
                           !str_ok(v, p->config) || !str_ok(v, p->state)))
        return "bundle";
    for (uint32_t i = 0; i < p->hooks.count; i++) {
        get(v, &p->hooks, i, &h, sizeof h);
        if (h.kind > WIRE_HOOK_POSTSTOP || !h.timeout_ms || !h.path || !str_ok(v, h.path) ||
            !h.argv.count || !strings_ok(v, &h.argv, true) || !strings_ok(v, &h.envp, true))
            return "hook";
    }
    if (!arr_ok(v, &p->netdevs, sizeof d, 0))
        return "network interfaces";
    for (uint32_t i = 0; i < p->netdevs.count; i++) {
        get(v, &p->netdevs, i, &d, sizeof d);
        if (!str_ok(v, d.key) || !d.key || !str_ok(v, d.value) || !d.value)
            return "network interface";
    }
    return NULL;
}

/* The part behind the first version's, as far as it is there. */
static const char *check_later(const struct view *v, const struct wire_plan *p)
{
    bool hooks = p->file.need >= WIRE_NEED_HOOKS, rdt = p->file.need >= WIRE_NEED_RDT;
    bool restore = p->file.need >= WIRE_NEED_RESTORE;
    size_t body = restore ? sizeof *p
                  : rdt   ? offsetof(struct wire_plan, restore)
                  : hooks ? offsetof(struct wire_plan, rdt_flags)
                          : offsetof(struct wire_plan, bundle);

    if (p->file.need < WIRE_NEED_OCI)
        return NULL;
    if (v->len < body ||
        !str_ok(v, p->oci_path) || !str_ok(v, p->oci_json) || !p->oci_path != !p->oci_json ||
        (!hooks && !p->oci_path))
        return "runtime";
    if (rdt && (!str_ok(v, p->rdt_group) || !str_ok(v, p->rdt_schema) ||
                !str_ok(v, p->rdt_schemata)))
        return "resctrl";
    if (restore && (!str_ok(v, p->restore) || !str_ok(v, p->restore_criu) ||
                    !str_ok(v, p->restore_worker) || !p->restore != !p->restore_criu ||
                    !p->restore != !p->restore_worker))
        return "restore";
    return hooks ? check_hooks(v, p) : NULL;
}

static const char *check_sandbox(const struct view *v, const struct wire_sandbox *s)
{
    struct wire_pair p;

    if (!str_ok(v, s->id) || !s->id || !str_ok(v, s->state_dir) || !s->state_dir ||
        !str_ok(v, s->hostname) || !str_ok(v, s->mount_label) || !str_ok(v, s->init_label))
        return "strings";
    if (!arr_ok(v, &s->sysctls, sizeof p, 0))
        return "sysctls";
    for (uint32_t i = 0; i < s->sysctls.count; i++) {
        get(v, &s->sysctls, i, &p, sizeof p);
        if (!str_ok(v, p.key) || !p.key || !str_ok(v, p.value) || !p.value)
            return "sysctl strings";
    }
    if (!arr_ok(v, &s->uid_map, sizeof(struct wire_idmap), 0) ||
        !arr_ok(v, &s->gid_map, sizeof(struct wire_idmap), 0))
        return "id maps";
    return NULL;
}

const char *view_check(const void *base, size_t len, enum wire_kind kind)
{
    struct view v = { base, len };
    struct wire_file f;
    size_t body = kind == WIRE_SANDBOX ? sizeof(struct wire_sandbox)
                                       : offsetof(struct wire_plan, oci_path);

    if (len < sizeof f || len > WIRE_FILE_MAX)
        return "length";
    memcpy(&f, base, sizeof f);
    if (f.magic != WIRE_MAGIC)
        return "magic";
    if (f.kind != (uint32_t)kind)
        return "kind";
    if (f.need > WIRE_VERSION)
        return "version: made for a newer cricket-pod";
    if (f.total != len || len < body || v.base[len - 1] != '\0')
        return "length";
    if (kind == WIRE_SANDBOX)
        return check_sandbox(&v, base);
    const struct wire_plan *p = base;
    if (!str_ok(&v, p->id) || !p->id)
        return "id";
    const char *bad = check_later(&v, p);
    if (!bad)
        bad = check_process(&v, &p->process);
    if (bad || kind == WIRE_PLAN_EXEC)
        return bad;
    return check_ctr(&v, p);
}

int view_map(int fd, enum wire_kind kind, void **ret, size_t *ret_len, const char **why)
{
    const int need = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || (seals & need) != need) {
        *why = "not sealed";
        return -EPERM;
    }
    if (fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > WIRE_FILE_MAX) {
        *why = "length";
        return -EINVAL;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        *why = "mmap";
        return -errno;
    }
    *why = view_check(p, (size_t)st.st_size, kind);
    if (*why) {
        munmap(p, (size_t)st.st_size);
        return -EINVAL;
    }
    *ret = p;
    *ret_len = (size_t)st.st_size;
    return 0;
}
