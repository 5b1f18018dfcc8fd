/* SPDX-License-Identifier: Apache-2.0 */
/* A launch plan as the OCI runtime-spec would write it, for people: `crictl inspect` shows it as
 * runtimeSpec. */
#include "handlers/spec_impl.h"
#include "mem.h"
#include "proc/caps.h"
#include "str.h"
#include "utf8.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* A JSON string cannot hold what is not UTF-8; an environment value can. */
json_t *spec_json_text(const char *s)
{
    auto_free char *copy = mem_strdup(s ? s : "");

    utf8_clean(copy, strlen(copy));
    return json_string(copy);
}

json_t *spec_json_texts(char *const *v)
{
    json_t *a = json_array();

    for (; v && *v; v++)
        json_array_append_new(a, spec_json_text(*v));
    return a;
}

static json_t *caps(uint64_t set)
{
    json_t *a = json_array();

    for (int i = 0; i < 64; i++)
        if (set >> i & 1 && caps_name(i))
            json_array_append_new(a, json_string(caps_name(i)));
    return a;
}

/* NULL: one that no runtime would know by name */
static const char *rlimit_name(int resource)
{
    static const char *const names[] = {
        [RLIMIT_CPU] = "CPU",         [RLIMIT_FSIZE] = "FSIZE",     [RLIMIT_DATA] = "DATA",
        [RLIMIT_STACK] = "STACK",     [RLIMIT_CORE] = "CORE",       [RLIMIT_RSS] = "RSS",
        [RLIMIT_NPROC] = "NPROC",     [RLIMIT_NOFILE] = "NOFILE",   [RLIMIT_MEMLOCK] = "MEMLOCK",
        [RLIMIT_AS] = "AS",           [RLIMIT_LOCKS] = "LOCKS",     [RLIMIT_NICE] = "NICE",
        [RLIMIT_MSGQUEUE] = "MSGQUEUE", [RLIMIT_RTPRIO] = "RTPRIO", [RLIMIT_RTTIME] = "RTTIME",
        [RLIMIT_SIGPENDING] = "SIGPENDING",
    };

    return resource >= 0 && (size_t)resource < ARRAY_LEN(names) ? names[resource] : NULL;
}

json_t *spec_json_process(const struct plan_process *p)
{
    json_t *o = json_object(), *user = json_object(), *groups = json_array(), *sets = json_object();

    for (size_t i = 0; i < p->n_groups; i++)
        json_array_append_new(groups, json_integer(p->groups[i]));
    json_object_set_new(user, "uid", json_integer(p->uid));
    json_object_set_new(user, "gid", json_integer(p->gid));
    json_object_set_new(user, "additionalGids", groups);
    json_object_set_new(sets, "bounding", caps(p->cap_bounding));
    json_object_set_new(sets, "effective", caps(p->cap_effective));
    json_object_set_new(sets, "permitted", caps(p->cap_permitted));
    json_object_set_new(sets, "inheritable", caps(p->cap_inheritable));
    json_object_set_new(sets, "ambient", caps(p->cap_ambient));
    json_object_set_new(o, "terminal", json_boolean(p->tty));
    json_object_set_new(o, "user", user);
    json_object_set_new(o, "args", spec_json_texts(p->argv));
    json_object_set_new(o, "env", spec_json_texts(p->envp));
    json_object_set_new(o, "cwd", spec_json_text(p->cwd));
    json_object_set_new(o, "capabilities", sets);
    json_object_set_new(o, "noNewPrivileges", json_boolean(p->no_new_privs));
    json_object_set_new(o, "oomScoreAdj", json_integer(p->oom_score_adj));
    if (p->apparmor)
        json_object_set_new(o, "apparmorProfile", spec_json_text(p->apparmor));
    if (p->selinux)
        json_object_set_new(o, "selinuxLabel", spec_json_text(p->selinux));
    if (p->n_rlimits) {
        json_t *limits = json_array();

        for (size_t i = 0; i < p->n_rlimits; i++) {
            const char *name = rlimit_name(p->rlimits[i].resource);
            auto_free char *full = mem_printf("RLIMIT_%s", name ? name : "");

            if (name)
                json_array_append_new(limits, json_pack("{s:s, s:I, s:I}", "type", full, "soft",
                                                        (json_int_t)p->rlimits[i].soft, "hard",
                                                        (json_int_t)p->rlimits[i].hard));
        }
        json_object_set_new(o, "rlimits", limits);
    }
    return o;
}

static json_t *mount_options(const struct plan_mount *m)
{
    static const struct {
        unsigned flag;
        const char *name;
    } names[] = {
        { PLAN_RECURSIVE, "rbind" }, { PLAN_NOSUID, "nosuid" }, { PLAN_NODEV, "nodev" },
        { PLAN_NOEXEC, "noexec" }, { PLAN_RDONLY, "ro" }, { PLAN_RDONLY_REC, "rro" },
        { PLAN_RELATIME, "relatime" }, { PLAN_STRICTATIME, "strictatime" }, { PLAN_IDMAP, "idmap" },
    };
    static const char *const propagation[] = { "rprivate", "rslave", "rshared" };
    json_t *a = json_array();

    if (m->kind == PLAN_MOUNT_BIND && !(m->flags & PLAN_RECURSIVE))
        json_array_append_new(a, json_string("bind"));
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (m->flags & names[i].flag)
            json_array_append_new(a, json_string(names[i].name));
    if (!(m->flags & (PLAN_RDONLY | PLAN_RDONLY_REC)))
        json_array_append_new(a, json_string("rw"));
    if (m->kind == PLAN_MOUNT_BIND)
        json_array_append_new(a, json_string(propagation[m->propagation]));
    for (const char *s = m->data; s && *s; s += strcspn(s, ","), s += *s == ',') {
        auto_free char *one = mem_dup(s, strcspn(s, ","));

        json_array_append_new(a, spec_json_text(one));
    }
    return a;
}

static json_t *mounts(const struct plan *p)
{
    json_t *a = json_array();

    for (size_t i = 0; i < p->n_mounts; i++) {
        const struct plan_mount *m = &p->mounts[i];
        const char *type = m->kind == PLAN_MOUNT_OVERLAY ? "overlay" :
                           m->fstype                     ? m->fstype :
                                                           "bind";
        json_t *o = json_object();

        json_object_set_new(o, "destination", spec_json_text(m->target));
        json_object_set_new(o, "type", spec_json_text(type));
        json_object_set_new(o, "source", spec_json_text(m->source));
        json_object_set_new(o, "options", mount_options(m));
        json_array_append_new(a, o);
    }
    return a;
}

static void add_namespace(json_t *a, const char *type, const char *path)
{
    json_t *o = json_object();

    json_object_set_new(o, "type", json_string(type));
    if (!str_empty(path))
        json_object_set_new(o, "path", spec_json_text(path));
    json_array_append_new(a, o);
}

static json_t *namespaces(const struct plan *p, const char *netns)
{
    json_t *a = json_array();

    add_namespace(a, "mount", NULL);
    if (p->pidns != PLAN_PID_HOST)
        add_namespace(a, "pid", NULL);
    if (!p->host_net)
        add_namespace(a, "network", netns);
    if (!p->host_ipc)
        add_namespace(a, "ipc", NULL);
    if (!p->host_uts)
        add_namespace(a, "uts", NULL);
    if (p->own_cgroupns)
        add_namespace(a, "cgroup", NULL);
    if (!p->host_userns)
        add_namespace(a, "user", NULL);
    return a;
}

static json_t *devices(const struct plan *p)
{
    json_t *a = json_array();

    for (size_t i = 0; i < p->n_devices; i++) {
        const struct plan_device *d = &p->devices[i];
        json_t *o = json_object();

        json_object_set_new(o, "path", spec_json_text(d->path));
        json_object_set_new(o, "type", json_string(S_ISBLK(d->mode)    ? "b" :
                                                    S_ISFIFO(d->mode) ? "p" : "c"));
        json_object_set_new(o, "major", json_integer(d->major));
        json_object_set_new(o, "minor", json_integer(d->minor));
        json_object_set_new(o, "fileMode", json_integer(d->mode & 07777));
        json_object_set_new(o, "uid", json_integer(d->uid));
        json_object_set_new(o, "gid", json_integer(d->gid));
        json_array_append_new(a, o);
    }
    return a;
}

static json_t *device_rules(const struct spec *s)
{
    json_t *a = json_array();

    json_array_append_new(a, json_pack("{s:b, s:s}", "allow", s->device_rules == NULL, "access",
                                       "rwm"));
    for (size_t i = 0; i < s->n_device_rules; i++) {
        const struct cgroup_device_rule *r = &s->device_rules[i];
        json_t *o = json_object();
        char type[2] = { r->type, '\0' };

        json_object_set_new(o, "allow", json_boolean(r->allow));
        json_object_set_new(o, "type", json_string(type));
        if (r->major >= 0)
            json_object_set_new(o, "major", json_integer(r->major));
        if (r->minor >= 0)
            json_object_set_new(o, "minor", json_integer(r->minor));
        json_object_set_new(o, "access", json_string(r->access));
        json_array_append_new(a, o);
    }
    return a;
}

static void set_number(json_t *o, const char *key, int64_t v)
{
    if (v)
        json_object_set_new(o, key, json_integer(v));
}

static json_t *resources(const struct spec *s)
{
    const struct cgroup_limits *l = &s->limits;
    json_t *o = json_object(), *cpu = json_object(), *memory = json_object();

    set_number(cpu, "shares", (int64_t)l->cpu_shares);
    set_number(cpu, "quota", l->cpu_quota);
    set_number(cpu, "period", (int64_t)l->cpu_period);
    if (!str_empty(l->cpuset_cpus))
        json_object_set_new(cpu, "cpus", spec_json_text(l->cpuset_cpus));
    if (!str_empty(l->cpuset_mems))
        json_object_set_new(cpu, "mems", spec_json_text(l->cpuset_mems));
    set_number(memory, "limit", l->memory);
    set_number(memory, "swap", l->memory_swap);
    json_object_set_new(o, "devices", device_rules(s));
    json_object_set_new(o, "cpu", cpu);
    json_object_set_new(o, "memory", memory);
    if (l->pids)
        json_object_set_new(o, "pids", json_pack("{s:I}", "limit", (json_int_t)l->pids));
    if (l->n_hugepages) {
        json_t *a = json_array();

        for (size_t i = 0; i < l->n_hugepages; i++)
            json_array_append_new(a, json_pack("{s:s, s:I}", "pageSize", l->hugepages[i].size,
                                               "limit", (json_int_t)l->hugepages[i].limit));
        json_object_set_new(o, "hugepageLimits", a);
    }
    if (l->n_unified) {
        json_t *u = json_object();

        for (size_t i = 0; i < l->n_unified; i++)
            json_object_set_new(u, l->unified[i].key, spec_json_text(l->unified[i].value));
        json_object_set_new(o, "unified", u);
    }
    return o;
}

static json_t *paths(const char *const *v, size_t n)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, spec_json_text(v[i]));
    return a;
}

static json_t *id_maps(Runtime__V1__IDMapping *const *m, size_t n)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, json_pack("{s:I, s:I, s:I}", "containerID",
                                           (json_int_t)m[i]->container_id, "hostID",
                                           (json_int_t)m[i]->host_id, "size",
                                           (json_int_t)m[i]->length));
    return a;
}

json_t *spec_json(const struct spec *s, const char *cgroup_path, const char *netns)
{
    static const char *const propagation[] = { "private", "slave", "shared" };
    static const char *const seccomp[] = { "unconfined", "runtime/default", "localhost" };
    const struct plan *p = &s->plan;
    json_t *o = json_object(), *linux_ = json_object(), *root = json_object();

    json_object_set_new(root, "path", spec_json_text(p->upper));
    json_object_set_new(root, "readonly", json_boolean(p->rootfs_readonly));
    json_object_set_new(o, "ociVersion", json_string("1.2.0"));
    json_object_set_new(o, "process", spec_json_process(&p->process));
    json_object_set_new(o, "root", root);
    json_object_set_new(o, "mounts", mounts(p));
    if (!str_empty(cgroup_path))
        json_object_set_new(linux_, "cgroupsPath", spec_json_text(cgroup_path));
    json_object_set_new(linux_, "namespaces", namespaces(p, netns));
    if (s->userns) {
        json_object_set_new(linux_, "uidMappings", id_maps(s->userns->uids, s->userns->n_uids));
        json_object_set_new(linux_, "gidMappings", id_maps(s->userns->gids, s->userns->n_gids));
    }
    json_object_set_new(linux_, "resources", resources(s));
    json_object_set_new(linux_, "devices", devices(p));
    json_object_set_new(linux_, "maskedPaths", paths(p->masked, p->n_masked));
    json_object_set_new(linux_, "readonlyPaths", paths(p->readonly, p->n_readonly));
    if (p->mount_label)
        json_object_set_new(linux_, "mountLabel", spec_json_text(p->mount_label));
    json_object_set_new(linux_, "rootfsPropagation",
                        json_string(propagation[p->rootfs_propagation]));
    if (s->cdi && s->cdi->n_netdevs)
        json_object_set_new(linux_, "netDevices", spec_netdevs_json(s->cdi));
    if (s->cdi && s->cdi->rdt)
        json_object_set_new(linux_, "intelRdt", spec_rdt_json(s->cdi->rdt));
    json_object_set_new(o, "linux", linux_);
    if (s->cdi && s->cdi->n_hooks)
        json_object_set_new(o, "hooks", spec_hooks_json(s->cdi));
    json_object_set_new(o, "annotations",
                        json_pack("{s:s}", "io.cricket.seccomp", seccomp[s->seccomp]));
    return o;
}
