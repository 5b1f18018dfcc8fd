/* SPDX-License-Identifier: Apache-2.0 */
/* seccomp CAPS: a profile in JSON on stdin (nothing: the built-in one) -> BPF on stdout.
 *
 * CAPS are the container's, "CAP_KILL,CAP_CHOWN,...": a rule may depend on them. libseccomp does
 * the work (seccomp_compile.c), as a binary tree, which ranges.c then writes shorter: it loads six
 * times faster than a chain.
 *
 * In front of its filter stands one thing that libseccomp cannot say: where the default answer is
 * an error, a system call with a higher number than any that the profile names gets ENOSYS. The
 * profile's author did not know it, and C libraries fall back on ENOSYS where EPERM makes them give
 * up.
 *
 * Output: struct head, then struct sock_filter[]. With a second argument, "json": linux.seccomp of
 * the runtime-spec, the same rules with their dependencies resolved, for an OCI runtime. Errors:
 * one line on stderr, exit 1. */
#include "pull/worker/worker.h"

#include "err.h"
#include "mem.h"
#include "pull/worker/ranges.h"
#include "pull/worker/seccomp_compile.h"
#include "pull/worker/seccomp_profile.h"
#include "str.h"

#include <errno.h>
#include <grp.h>
#include <jansson.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "config.h"

enum {
    PROFILE_MAX = 1024 * 1024,
    NOBODY = 65534,
};

/* The same in src/proc/seccomp.c, which reads it. */
struct head {
    uint32_t magic;                  /* "CSB1" */
    uint32_t flags;                  /* SECCOMP_FILTER_FLAG_* */
};
enum { HEAD_MAGIC = 0x31425343 };

/* --- BPF */

/* if arch: if number > newest: ENOSYS. x32 has its own bit in the number and the architecture of
 * x86_64. */
static size_t unknown_calls(const struct compiler *c, struct sock_filter *f)
{
    const uint16_t ld = BPF_LD | BPF_W | BPF_ABS, ret = BPF_RET | BPF_K;
    const uint32_t x32_bit = 0x40000000;
    size_t n = 0;

    if ((c->default_action & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_ERRNO)
        return 0;
    for (size_t i = 0; i < c->n_arches; i++) {
        uint32_t arch = c->arches[i];

        if (c->newest[i] < 0 || arch == SCMP_ARCH_X32)
            continue;
        f[n++] = (struct sock_filter)BPF_STMT(ld, offsetof(struct seccomp_data, arch));
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arch, 0, 4);
        f[n++] = (struct sock_filter)BPF_STMT(ld, offsetof(struct seccomp_data, nr));
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, x32_bit, 2, 0);
        f[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)c->newest[i], 0, 1);
        f[n++] = (struct sock_filter)BPF_STMT(ret, SECCOMP_RET_ERRNO | ENOSYS);
    }
    return n;
}

static int put(int fd, const void *p, size_t n)
{
    const char *s = p;

    while (n) {
        ssize_t k = write(fd, s, n);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        s += k;
        n -= (size_t)k;
    }
    return 0;
}

static int emit(const struct compiler *c, int out, struct err *err)
{
    struct head head = { HEAD_MAGIC, c->flags };
    struct sock_filter f[COMPILE_ARCHES_MAX * 6 + BPF_MAXINSNS], ranges[BPF_MAXINSNS];
    size_t n = unknown_calls(c, f), room = (BPF_MAXINSNS + 1 - n) * sizeof *f, len = 0;
    auto_fd int fd = memfd_create("bpf", MFD_CLOEXEC);
    int r;

    if (fd < 0)
        return err_sys(err, "memfd_create");
    r = seccomp_export_bpf(c->ctx, fd);
    if (r < 0)
        return err_code(err, r, "make the filter");
    while (len < room) {
        ssize_t k = pread(fd, (char *)(f + n) + len, room - len, (off_t)len);

        if (k < 0)
            return err_sys(err, "read the filter");
        if (k == 0)
            break;
        len += (size_t)k;
    }
    n += len / sizeof *f;
    if (n > BPF_MAXINSNS)
        return err_set(err, -E2BIG, "the filter has more than %d instructions", BPF_MAXINSNS);
    len = ranges_make(f, n, ranges);
    r = put(out, &head, sizeof head);
    if (r == 0)
        r = len ? put(out, ranges, len * sizeof *f) : put(out, f, n * sizeof *f);
    return r < 0 ? err_code(err, r, "write the filter") : 0;
}

/* --- for another runtime */

static json_t *plain_rule(const json_t *rule)
{
    static const char *const same[] = { "action", "errnoRet", "args" };
    const json_t *one = json_object_get(rule, "name");
    json_t *o = json_object(), *names = json_object_get(rule, "names");

    json_object_set_new(o, "names",
                        json_is_string(one) ? json_pack("[O]", one) : json_incref(names));
    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        json_t *v = json_object_get(rule, same[i]);

        if (v && !json_is_null(v))
            json_object_set(o, same[i], v);
    }
    return o;
}

/* The profile has been compiled, so every part of it is what it should be. */
static int emit_json(const struct compiler *c, const json_t *profile, int out, struct err *err)
{
    json_t *o = json_object(), *list = json_array(), *rules = json_array(), *flags = json_array();
    json_t *v;
    size_t i;

    json_object_set(o, "defaultAction", json_object_get(profile, "defaultAction"));
    v = json_object_get(profile, "defaultErrnoRet");
    if (v && !json_is_null(v))
        json_object_set(o, "defaultErrnoRet", v);
    for (i = 0; i < c->n_arches; i++) {
        const char *name = compile_arch_name(c->arches[i]);

        if (name)
            json_array_append_new(list, json_string(name));
    }
    json_object_set_new(o, "architectures", list);
    json_array_foreach(json_object_get(profile, "flags"), i, v)
        json_array_append(flags, v);
    if (json_array_size(flags))
        json_object_set(o, "flags", flags);
    json_decref(flags);
    json_array_foreach(json_object_get(profile, "syscalls"), i, v)
        if (compile_wants(c, v))
            json_array_append_new(rules, plain_rule(v));
    json_object_set_new(o, "syscalls", rules);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    if (!text)
        return err_set(err, -ENOMEM, "write the profile");
    int r = put(out, text, strlen(text));
    free(text);
    return r < 0 ? err_code(err, r, "write the profile") : 0;
}

/* --- the job */

/* Parsing and computing: memory, the three descriptors, and what libseccomp asks the kernel about
 * itself. */
static int few_calls(struct err *err)
{
    static const int calls[] = {
        SCMP_SYS(read),         SCMP_SYS(pread64),       SCMP_SYS(write),
        SCMP_SYS(writev),       SCMP_SYS(close),         SCMP_SYS(lseek),
        SCMP_SYS(_llseek),      SCMP_SYS(fstat),         SCMP_SYS(fstat64),
        SCMP_SYS(newfstatat),   SCMP_SYS(statx),         SCMP_SYS(memfd_create),
        SCMP_SYS(brk),          SCMP_SYS(mmap),          SCMP_SYS(mmap2),
        SCMP_SYS(munmap),       SCMP_SYS(mremap),        SCMP_SYS(mprotect),
        SCMP_SYS(madvise),      SCMP_SYS(futex),         SCMP_SYS(getrandom),
        SCMP_SYS(gettimeofday), SCMP_SYS(clock_gettime), SCMP_SYS(getpid),
        SCMP_SYS(uname),        SCMP_SYS(prctl),         SCMP_SYS(seccomp),
        SCMP_SYS(rt_sigreturn), SCMP_SYS(exit),          SCMP_SYS(exit_group),
    };
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r = ctx ? 0 : -ENOMEM;

    for (size_t i = 0; i < ARRAY_LEN(calls) && r == 0; i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
    if (r == 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    return r < 0 ? err_code(err, r, "lock the compiler up") : 0;
}

/* What parses somebody's file needs no rights, no other file and not much of anything. */
static int lock_up(struct err *err)
{
    const struct rlimit none = { 0, 0 }, cpu = { 20, 20 };
#ifndef SANITIZE
    const struct rlimit memory = { 256 << 20, 256 << 20 };

    (void)setrlimit(RLIMIT_AS, &memory);
#endif
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)setrlimit(RLIMIT_CPU, &cpu);
    (void)prctl(PR_SET_DUMPABLE, 0);
    if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
                           setresuid(NOBODY, NOBODY, NOBODY) < 0))
        return err_sys(err, "give up root");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_sys(err, "no_new_privs");
#ifdef SANITIZE
    (void)few_calls;                 /* the sanitizers need many more */
    return 0;
#else
    return few_calls(err);
#endif
}

static int read_profile(struct str *s, struct err *err)
{
    for (;;) {
        ssize_t n = read(STDIN_FILENO, str_room(s, 65536), 65536);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "read");
        if (n == 0)
            return 0;
        s->len += (size_t)n;
        s->p[s->len] = '\0';
        if (s->len > PROFILE_MAX)
            return err_set(err, -EFBIG, "larger than %d bytes", PROFILE_MAX);
    }
}

static int job(const char *caps, bool as_json, struct err *err)
{
    auto_str struct str s = STR_INIT;
    struct compiler c;
    json_error_t where;
    json_t *profile;
    int r = read_profile(&s, err);

    if (r == 0)
        r = compile_init(&c, caps, err);
    if (r < 0)
        return r;
    if (s.len)
        profile = json_loadb(s.p, s.len, JSON_REJECT_DUPLICATES, &where);
    else
        profile = json_loads(seccomp_profile, 0, &where);
    if (!profile)
        return err_set(err, -EINVAL, "line %d: %s", where.line, where.text);
    r = compile_profile(&c, profile);
    if (r == 0)
        r = as_json ? emit_json(&c, profile, STDOUT_FILENO, err) : emit(&c, STDOUT_FILENO, err);
    compile_deinit(&c);
    json_decref(profile);
    return r;
}

int worker_seccomp(int argc, char **argv)
{
    struct err err = ERR_INIT;

    if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "json") != 0)) {
        fprintf(stderr, "seccomp: the capabilities are wanted, and maybe 'json'\n");
        return 2;
    }
    if (lock_up(&err) < 0 || job(argv[1], argc == 3, &err) < 0) {
        err_clean(&err);
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    return 0;
}
