/* SPDX-License-Identifier: Apache-2.0 */
/* Launch plans: what plan_encode() wrote, the supervisor's check finds again; and no change of a
 * byte makes the check (or what reads after it) leave the file. */
#include "mem.h"
#include "proc/link.h"
#include "proc/plan.h"
#include "proc/pod/view.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char *argv1[] = { (char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
                         (char *)(uintptr_t) "exit 3", NULL };
static char *envp1[] = { (char *)(uintptr_t)"PATH=/bin", (char *)(uintptr_t)"EMPTY=", NULL };

static void fill(struct plan *p)
{
    static const gid_t groups[] = { 5, 6, 4000000000U };
    static const struct plan_rlimit limits[] = { { RLIMIT_NOFILE, 1024, 4096 },
                                                 { RLIMIT_CORE, 0, UINT64_MAX } };
    static const uint64_t bpf[] = { 0x7fff000000000006 };
    static const struct plan_mount mounts[] = {
        { .kind = PLAN_MOUNT_FS,
          .fstype = "proc",
          .source = "proc",
          .target = "/proc",
          .flags = PLAN_NOSUID },
        { .kind = PLAN_MOUNT_BIND,
          .flags = PLAN_RECURSIVE | PLAN_RDONLY_REC,
          .propagation = PLAN_SLAVE,
          .source = "/srv",
          .target = "/data",
          .label = "x" },
    };
    static const struct plan_device devices[] = {
        { "/dev/null", "/dev/full", S_IFCHR | 0666, 1, 3, 1, 2 }
    };
    static const struct plan_pair links[] = { { "/dev/fd", "/proc/self/fd" } };
    static const char *const masked[] = { "/proc/kcore", "/proc/keys" };

    memset(p, 0, sizeof *p);
    p->id = "c1";
    p->lower = "/l/2:/l/1";
    p->upper = "/c/1/up";
    p->work = "/c/1/work";
    p->log_path = "/var/log/x.log";
    p->process = (struct plan_process){ .argv = argv1,
                                        .envp = envp1,
                                        .cwd = "/w",
                                        .uid = 1000,
                                        .gid = 1001,
                                        .groups = groups,
                                        .n_groups = 3,
                                        .rlimits = limits,
                                        .n_rlimits = 2,
                                        .seccomp = bpf,
                                        .seccomp_len = sizeof bpf,
                                        .tty = true,
                                        .set_oom_score_adj = true,
                                        .oom_score_adj = -998,
                                        .cap_bounding = 0xa80425fb };
    p->mounts = mounts;
    p->n_mounts = 2;
    p->devices = devices;
    p->n_devices = 1;
    p->symlinks = links;
    p->n_symlinks = 1;
    p->masked = masked;
    p->n_masked = 2;
    p->pidns = PLAN_PID_OWN;
    p->rootfs_readonly = true;
    p->log_line_max = 16384;
}

static const char *string_at(void *base, const struct wire_arr *a, uint32_t i)
{
    uint64_t off;

    memcpy(&off, view_at(base, a, i), sizeof off);
    return off ? (const char *)base + off : NULL;
}

static void round_trip(void *base)
{
    struct wire_plan *w = base;

    is_str(view_str(base, w->id), "c1", "id");
    is_str(view_str(base, w->lower), "/l/2:/l/1", "layers");
    is_str(view_str(base, w->log_path), "/var/log/x.log", "log");
    ok(w->mount_label == 0 && w->process.apparmor == 0, "what is absent is absent");
    ok(w->process.argv.count == 3 && w->process.envp.count == 2, "argv and envp are counted");
    is_str(string_at(base, &w->process.argv, 2), "exit 3", "argv[2]");
    ok(!string_at(base, &w->process.argv, 3), "argv ends with NULL");
    is_str(string_at(base, &w->process.envp, 1), "EMPTY=", "envp[1]");
    ok(*(uint32_t *)view_at(base, &w->process.groups, 2) == 4000000000U, "groups");
    struct wire_rlimit *r = view_at(base, &w->process.rlimits, 1);
    ok(r->resource == RLIMIT_CORE && r->hard == UINT64_MAX, "rlimits");
    ok(w->process.flags == (WIRE_TTY | WIRE_SET_OOM) && w->process.oom_score_adj == -998, "flags");
    struct wire_mount *m = view_at(base, &w->mounts, 1);
    ok(m->flags == (WIRE_M_RECURSIVE | WIRE_M_RDONLY_REC) && m->propagation == WIRE_SLAVE &&
           m->fd == -1,
       "mount flags");
    is_str(view_str(base, m->target), "/data", "mount target");
    struct wire_device *d = view_at(base, &w->devices, 0);
    ok(d->major == 1 && d->minor == 3 && d->gid == 2 && d->mode == (S_IFCHR | 0666), "device");
    is_str(view_str(base, d->source), "/dev/full", "and what it is on the host");
    is_str(string_at(base, &w->masked, 1), "/proc/keys", "masked");
    ok(w->readonly.count == 0, "no read-only paths");
    ok(w->pidns == WIRE_PID_OWN && w->flags == WIRE_ROOT_RDONLY, "plan flags");
}

/* What the launcher does with a checked plan: reads every string to its end. */
static size_t walk(void *base)
{
    struct wire_plan *w = base;
    const struct wire_arr *const lists[] = { &w->process.argv, &w->process.envp, &w->masked,
                                             &w->readonly };
    size_t n = strlen(view_str(base, w->id)) + strlen(view_str(base, w->lower));

    for (size_t k = 0; k < ARRAY_LEN(lists); k++)
        for (uint32_t i = 0; i < lists[k]->count; i++)
            n += strlen(string_at(base, lists[k], i));
    for (uint32_t i = 0; i < w->mounts.count; i++) {
        struct wire_mount *m = view_at(base, &w->mounts, i);
        n +=
            strlen(view_str(base, m->target)) + (m->source ? strlen(view_str(base, m->source)) : 0);
    }
    for (uint32_t i = 0; i < w->process.rlimits.count; i++)
        n += ((struct wire_rlimit *)view_at(base, &w->process.rlimits, i))->soft & 1;
    for (uint32_t i = 0; w->file.need >= WIRE_NEED_HOOKS && i < w->hooks.count; i++) {
        struct wire_hook *h = view_at(base, &w->hooks, i);
        n += strlen(view_str(base, h->path)) + strlen(view_str(base, w->config));
        for (uint32_t k = 0; k < h->argv.count; k++)
            n += strlen(string_at(base, &h->argv, k));
        for (uint32_t k = 0; k < h->envp.count; k++)
            n += strlen(string_at(base, &h->envp, k));
    }
    for (uint32_t i = 0; w->file.need >= WIRE_NEED_HOOKS && i < w->netdevs.count; i++) {
        struct wire_pair *d = view_at(base, &w->netdevs, i);
        n += strlen(view_str(base, d->key)) + strlen(view_str(base, d->value));
    }
    if (w->file.need >= WIRE_NEED_RDT && w->rdt_group)
        n += strlen(view_str(base, w->rdt_group));
    if (w->file.need >= WIRE_NEED_RDT && w->rdt_schemata)
        n += strlen(view_str(base, w->rdt_schemata));
    if (w->file.need >= WIRE_NEED_RESTORE && w->restore)
        n += strlen(view_str(base, w->restore_worker));
    for (uint32_t i = 0; i < w->process.seccomp.count; i++)
        n += ((unsigned char *)view_at(base, &w->process.seccomp, i))[7] & 1;
    return n;
}

static void hostile(const void *good, size_t len)
{
    static const uint32_t values[] = { 0, 1, 7, 8, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff8 };
    size_t refused = 0, taken = 0, sum = 0;

    /* every 32-bit word of the file gets every nasty value; a heap block of the exact size shows
     * reads past it (ASan) */
    for (size_t at = 0; at + 4 <= len; at += 4)
        for (size_t v = 0; v < ARRAY_LEN(values) + 2; v++) {
            uint32_t x = v < ARRAY_LEN(values)    ? values[v]
                         : v == ARRAY_LEN(values) ? (uint32_t)len
                                                  : (uint32_t)len - 1;
            char *p = mem_dup(good, len);
            char *exact = malloc(len);
            memcpy(p + at, &x, 4);
            memcpy(exact, p, len);
            free(p);
            if (view_check(exact, len, WIRE_PLAN_CTR))
                refused++;
            else {
                taken++;
                sum += walk(exact);
            }
            free(exact);
        }
    ok(refused > 100, "%zu of %zu changed plans are refused", refused, refused + taken);
    ok(sum > 0, "and the others can be read to their ends");
    size_t cut = 0;
    for (size_t n = 0; n < len; n++) {
        char *exact = malloc(n + 1);
        memcpy(exact, good, n);
        cut += view_check(exact, n, WIRE_PLAN_CTR) != NULL;
        free(exact);
    }
    ok(cut == len, "no shortened plan is taken");
}

static void refusals(void *base, size_t len)
{
    struct wire_plan *w = base;
    struct wire_file f = w->file;

    is_str(view_check(base, len, WIRE_SANDBOX), "kind", "another kind of file");
    w->file.need = WIRE_VERSION + 1;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "version: made for a newer cricket-pod",
           "a plan that asks for more than we know");
    w->file = f;
    w->oci_path = (wire_str)len;     /* not looked at by whom it does not concern */
    ok(!view_check(base, len, WIRE_PLAN_CTR), "a plan for the native launcher names no runtime");
    w->file.need = WIRE_NEED_OCI;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "runtime", "one for a runtime names it inside");
    w->oci_path = w->id;
    w->oci_json = 0;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "runtime", "and has its configuration");
    w->oci_json = w->id;
    ok(!view_check(base, len, WIRE_PLAN_CTR), "then it is good");
    w->oci_path = w->oci_json = 0;
    w->file = f;
    w->process.argv.count++;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "argv", "a count that is too high");
    w->process.argv.count--;
    w->mounts.size = 8;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "mounts", "elements that are too small");
    w->mounts.size = sizeof(struct wire_mount);
    ok(!view_check(base, len, WIRE_PLAN_CTR), "and as it was it is good");
}

static void with_hooks(struct plan *p)
{
    static const struct plan_hook hooks[] = {
        { PLAN_HOOK_CREATE_RUNTIME, "/bin/hook", argv1, envp1, 1500 },
        { PLAN_HOOK_POSTSTOP, "/bin/other", argv1, envp1 + 2, 60000 },
    };
    static const struct plan_pair netdevs[] = { { "eth1", "net1" } };
    struct err e = ERR_INIT;
    const char *why = NULL;
    void *base;
    size_t len;
    int fd = -1;

    p->hooks = hooks;
    p->n_hooks = ARRAY_LEN(hooks);
    p->netdevs = netdevs;
    p->n_netdevs = 1;
    p->bundle = "/b";
    p->config = "{}";
    p->state = "{\"id\":\"c1\"";
    ok(plan_encode(p, &fd, &e) == 0, "a plan with hooks is encoded");
    ok(view_map(fd, WIRE_PLAN_CTR, &base, &len, &why) == 0, "and mapped: %s", why ? why : "good");
    struct wire_plan *w = base;
    struct wire_hook *h = view_at(base, &w->hooks, 0);
    struct wire_pair *d = view_at(base, &w->netdevs, 0);
    is_int(w->file.need, WIRE_NEED_HOOKS, "no older cricket-pod takes it");
    is_int(h->kind, WIRE_HOOK_CREATE_RUNTIME, "a hook");
    is_int(h->timeout_ms, 1500, "its timeout");
    is_str(view_str(base, h->path), "/bin/hook", "its path");
    is_str(string_at(base, &h->argv, 2), "exit 3", "its arguments");
    is_str(string_at(base, &h->envp, 0), "PATH=/bin", "its environment");
    is_int(((struct wire_hook *)view_at(base, &w->hooks, 1))->envp.count, 0, "none of another's");
    is_str(view_str(base, w->config), "{}", "config.json");
    is_str(view_str(base, d->value), "net1", "a network interface");
    h->timeout_ms = 0;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "hook", "a hook without an end");
    h->timeout_ms = 1500;
    w->state = 0;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "bundle", "hooks without a state");
    w->state = w->id;
    hostile(base, len);
    munmap(base, len);
    close(fd);
}

static void with_rdt(struct plan *p)
{
    static const struct plan_rdt rdt = { "gold", "L3:0=f\n", NULL, true, false, true };
    struct err e = ERR_INIT;
    const char *why = NULL;
    void *base;
    size_t len;
    int fd = -1;

    p->rdt = &rdt;
    ok(plan_encode(p, &fd, &e) == 0, "a plan with a place in resctrl is encoded");
    ok(view_map(fd, WIRE_PLAN_CTR, &base, &len, &why) == 0, "and mapped: %s", why ? why : "good");
    struct wire_plan *w = base;
    is_int(w->file.need, WIRE_NEED_RDT, "no older cricket-pod takes it");
    is_int(w->rdt_flags, WIRE_RDT | WIRE_RDT_MON | WIRE_RDT_MBM, "what is wanted");
    is_str(view_str(base, w->rdt_group), "gold", "the group");
    is_str(view_str(base, w->rdt_schema), "L3:0=f\n", "its schema");
    ok(!w->rdt_schemata, "and no more than that");
    w->rdt_schemata = (wire_str)len;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "resctrl", "schemata from outside");
    w->rdt_schemata = 0;
    hostile(base, len);
    munmap(base, len);
    close(fd);
}

static bool refused(const struct plan *p, struct err *e)
{
    int fd = -1;

    return plan_encode(p, &fd, e) < 0 && fd < 0 && e->grpc == GRPC_FAILED_PRECONDITION;
}

static void with_restore(struct plan *p)
{
    static const struct plan_restore from = { "/c/1/restore", "/usr/sbin/criu", "/lib/worker" };
    static const struct plan_hook hook = { PLAN_HOOK_POSTSTOP, "/h", argv1, envp1, 1 };
    struct err e = ERR_INIT;
    const char *why = NULL;
    void *base;
    size_t len;
    int fd = -1;

    p->restore = &from;
    ok(refused(p, &e), "not with a terminal: %s", e.text);
    p->process.tty = false;
    p->process.stdin_open = true;
    ok(refused(p, &e), "nor with a stdin: %s", e.text);
    p->process.stdin_open = false;
    p->process.oci_path = "/usr/bin/runc";
    ok(refused(p, &e), "nor by an OCI runtime: %s", e.text);
    p->process.oci_path = NULL;
    p->pidns = PLAN_PID_POD;
    ok(refused(p, &e), "nor in the pod's PID namespace: %s", e.text);
    p->pidns = PLAN_PID_OWN;
    p->hooks = &hook;
    p->n_hooks = 1;
    ok(refused(p, &e), "nor with hooks: %s", e.text);
    p->n_hooks = 0;
    ok(plan_encode(p, &fd, &e) == 0, "a plan to restore is encoded");
    ok(view_map(fd, WIRE_PLAN_CTR, &base, &len, &why) == 0, "and mapped: %s", why ? why : "good");
    struct wire_plan *w = base;
    is_int(w->file.need, WIRE_NEED_RESTORE, "no older cricket-pod takes it");
    is_str(view_str(base, w->restore), "/c/1/restore", "from where");
    is_str(view_str(base, w->restore_criu), "/usr/sbin/criu", "by what");
    is_str(view_str(base, w->restore_worker), "/lib/worker", "and by whom");
    w->restore_worker = 0;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "restore", "half of it");
    w->restore_worker = (wire_str)len;
    is_str(view_check(base, len, WIRE_PLAN_CTR), "restore", "a name from outside");
    w->restore_worker = w->restore;
    hostile(base, len);
    munmap(base, len);
    close(fd);
}

int main(void)
{
    struct plan p;
    struct err e = ERR_INIT;
    const char *why = NULL;
    void *base;
    size_t len;
    int fd = -1;

    fill(&p);
    ok(plan_encode(&p, &fd, &e) == 0, "a plan is encoded");
    ok(view_map(fd, WIRE_PLAN_CTR, &base, &len, &why) == 0, "and mapped: %s", why ? why : "good");
    char *copy = mem_dup(base, len);
    round_trip(base);
    refusals(base, len);
    hostile(copy, len);
    free(copy);
    munmap(base, len);
    ok(write(fd, "x", 1) < 0 && errno == EPERM, "nobody writes to it any more");
    close(fd);

    with_hooks(&p);
    fill(&p);
    with_rdt(&p);
    fill(&p);
    with_restore(&p);
    fill(&p);
    fd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ok(ftruncate(fd, 4096) == 0 && view_map(fd, WIRE_PLAN_CTR, &base, &len, &why) == -EPERM,
       "a file that is not sealed");
    close(fd);

    struct str s = STR_INIT;
    ok(plan_encode_exec(&p.process, "c1", &s, &e) == 0, "an exec is encoded");
    why = view_check(s.p, s.len, WIRE_PLAN_EXEC);
    ok(!why, "and found good: %s", why ? why : "good");
    is_str(view_check(s.p, s.len, WIRE_PLAN_CTR), "kind", "but it is no container");
    str_free(&s);

    static char *none[] = { NULL };
    p.process.argv = none;
    ok(plan_encode(&p, &fd, &e) == -EINVAL, "no command, no plan: %s", e.text);
    p.process.argv = argv1;
    p.process.seccomp_len = 7;
    ok(plan_encode(&p, &fd, &e) == -EINVAL, "half a filter instruction: %s", e.text);
    return done_testing();
}
