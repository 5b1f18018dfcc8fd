/* SPDX-License-Identifier: Apache-2.0 */
/* From a seccomp profile to libseccomp's filter.
 *
 * Profiles come in two shapes: the runtime-spec's linux.seccomp, and Docker's, where a rule may
 * depend on capabilities, architecture and kernel (includes, excludes) and archMap names the
 * architectures. What a profile says and this does not know is an error that names it; system calls
 * that libseccomp does not know are left out, since a profile is for many kernels. */
#include "pull/worker/seccomp_compile.h"

#include "mem.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

enum { RULES_MAX = 65536 };          /* calls times conditions */

/* --- what a name means */

static const struct {
    const char *name;
    uint32_t token;
    const char *go;                  /* NULL: never the native one, or not told apart */
} arches[] = {
    { "SCMP_ARCH_X86_64", SCMP_ARCH_X86_64, "amd64" },
    { "SCMP_ARCH_X86", SCMP_ARCH_X86, "x86" },
    { "SCMP_ARCH_X32", SCMP_ARCH_X32, "x32" },
    { "SCMP_ARCH_ARM", SCMP_ARCH_ARM, "arm" },
    { "SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64, "arm64" },
    { "SCMP_ARCH_MIPS", SCMP_ARCH_MIPS, "mips" },
    { "SCMP_ARCH_MIPS64", SCMP_ARCH_MIPS64, "mips64" },
    { "SCMP_ARCH_MIPS64N32", SCMP_ARCH_MIPS64N32, "mips64n32" },
    { "SCMP_ARCH_MIPSEL", SCMP_ARCH_MIPSEL, "mipsel" },
    { "SCMP_ARCH_MIPSEL64", SCMP_ARCH_MIPSEL64, "mipsel64" },
    { "SCMP_ARCH_MIPSEL64N32", SCMP_ARCH_MIPSEL64N32, "mipsel64n32" },
    { "SCMP_ARCH_PPC", SCMP_ARCH_PPC, "ppc" },
    { "SCMP_ARCH_PPC64", SCMP_ARCH_PPC64, "ppc64" },
    { "SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE, "ppc64le" },
    { "SCMP_ARCH_S390", SCMP_ARCH_S390, "s390" },
    { "SCMP_ARCH_S390X", SCMP_ARCH_S390X, "s390x" },
    { "SCMP_ARCH_PARISC", SCMP_ARCH_PARISC, "parisc" },
    { "SCMP_ARCH_PARISC64", SCMP_ARCH_PARISC64, "parisc64" },
    { "SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64, "riscv64" },
};

const char *compile_arch_name(uint32_t token)
{
    for (size_t i = 0; i < ARRAY_LEN(arches); i++)
        if (arches[i].token == token)
            return arches[i].name;
    return NULL;
}

static uint32_t arch_token(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(arches); i++)
        if (strcmp(arches[i].name, name) == 0)
            return arches[i].token;
    return 0;
}

static const struct {
    const char *name;
    uint32_t action;
    bool number;                     /* takes errnoRet */
} actions[] = {
    { "SCMP_ACT_KILL", SCMP_ACT_KILL, false },
    { "SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD, false },
    { "SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS, false },
    { "SCMP_ACT_TRAP", SCMP_ACT_TRAP, false },
    { "SCMP_ACT_ERRNO", SCMP_ACT_ERRNO(0), true },
    { "SCMP_ACT_TRACE", SCMP_ACT_TRACE(0), true },
    { "SCMP_ACT_ALLOW", SCMP_ACT_ALLOW, false },
    { "SCMP_ACT_LOG", SCMP_ACT_LOG, false },
};

static int get_action(const json_t *name, const json_t *number, uint32_t *ret, struct err *err)
{
    const char *s = json_string_value(name);
    json_int_t n = EPERM;

    if (!s)
        return err_set(err, -EINVAL, "an action is missing or no string");
    if (number && !json_is_null(number)) {
        n = json_integer_value(number);
        if (!json_is_integer(number) || n < 0 || n > 4095)
            return err_set(err, -EINVAL, "errnoRet of action '%.64s' is no error number", s);
    }
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        if (strcmp(actions[i].name, s) != 0)
            continue;
        if (!actions[i].number && number && !json_is_null(number))
            return err_set(err, -EINVAL, "errnoRet does not go with action '%s'", s);
        *ret = actions[i].action | (actions[i].number ? (uint32_t)n : 0);
        return 0;
    }
    if (strcmp(s, "SCMP_ACT_NOTIFY") == 0)
        return err_set(err, -EOPNOTSUPP,
                       "action 'SCMP_ACT_NOTIFY' is not supported: there is no listener");
    return err_set(err, -EINVAL, "unknown action '%.64s'", s);
}

static int get_operator(const char *s, enum scmp_compare *ret)
{
    static const struct {
        const char *name;
        enum scmp_compare op;
    } ops[] = {
        { "SCMP_CMP_NE", SCMP_CMP_NE },
        { "SCMP_CMP_LT", SCMP_CMP_LT },
        { "SCMP_CMP_LE", SCMP_CMP_LE },
        { "SCMP_CMP_EQ", SCMP_CMP_EQ },
        { "SCMP_CMP_GE", SCMP_CMP_GE },
        { "SCMP_CMP_GT", SCMP_CMP_GT },
        { "SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ },
    };

    for (size_t i = 0; s && i < ARRAY_LEN(ops); i++) {
        if (strcmp(ops[i].name, s) == 0) {
            *ret = ops[i].op;
            return 0;
        }
    }
    return -EINVAL;
}

/* A number of 64 bits; JSON has it as a signed one, or as a real above that. */
static int get_u64(const json_t *v, uint64_t *ret)
{
    *ret = 0;
    if (!v || json_is_null(v))
        return 0;
    if (json_is_integer(v))
        *ret = (uint64_t)json_integer_value(v);
    else if (json_is_real(v) && json_real_value(v) >= 0 &&
             json_real_value(v) <= 18446744073709551615.0)
        *ret = (uint64_t)json_real_value(v);
    else
        return -EINVAL;
    return 0;
}

/* --- conditions of a rule (Docker's form) */

static bool has_cap(const char *list, const char *name)
{
    size_t n = strlen(name);

    for (const char *s = list; *s; s += strcspn(s, ","), s += *s == ',')
        if (strncmp(s, name, n) == 0 && (s[n] == ',' || !s[n]))
            return true;
    return false;
}

static bool kernel_at_least(const struct compiler *c, const char *s)
{
    int major = 0, minor = 0;

    if (sscanf(s, "%d.%d", &major, &minor) < 1)
        return false;
    return c->kernel[0] > major || (c->kernel[0] == major && c->kernel[1] >= minor);
}

static bool names_arch(const struct compiler *c, const json_t *list)
{
    size_t i;
    json_t *v;

    json_array_foreach(list, i, v)
        if (json_is_string(v) && strcmp(json_string_value(v), c->arch) == 0)
            return true;
    return false;
}

bool compile_wants(const struct compiler *c, const json_t *rule)
{
    const json_t *in = json_object_get(rule, "includes"), *ex = json_object_get(rule, "excludes");
    const json_t *min;
    size_t i;
    json_t *v;

    json_array_foreach(json_object_get(ex, "caps"), i, v)
        if (json_is_string(v) && has_cap(c->caps, json_string_value(v)))
            return false;
    json_array_foreach(json_object_get(in, "caps"), i, v)
        if (!json_is_string(v) || !has_cap(c->caps, json_string_value(v)))
            return false;
    if (names_arch(c, json_object_get(ex, "arches")))
        return false;
    if (json_array_size(json_object_get(in, "arches")) &&
        !names_arch(c, json_object_get(in, "arches")))
        return false;
    min = json_object_get(ex, "minKernel");
    if (json_is_string(min) && json_string_value(min)[0] &&
        kernel_at_least(c, json_string_value(min)))
        return false;
    min = json_object_get(in, "minKernel");
    return !json_is_string(min) || !json_string_value(min)[0] ||
           kernel_at_least(c, json_string_value(min));
}

/* --- rules */

static int get_args(const json_t *rule, struct scmp_arg_cmp *ret, size_t *n, const char *call,
                    struct err *err)
{
    size_t i;
    json_t *v;

    *n = 0;
    json_array_foreach(json_object_get(rule, "args"), i, v) {
        const json_t *index = json_object_get(v, "index");
        enum scmp_compare op;
        uint64_t a, b;

        if (i >= 6)
            return err_set(err, -EINVAL, "'%.64s': more than 6 conditions", call);
        if (!json_is_integer(index) || json_integer_value(index) < 0 ||
            json_integer_value(index) > 5)
            return err_set(err, -EINVAL, "'%.64s': index of an argument is not 0 to 5", call);
        if (get_operator(json_string_value(json_object_get(v, "op")), &op) < 0)
            return err_set(err, -EINVAL, "'%.64s': unknown operator", call);
        if (get_u64(json_object_get(v, "value"), &a) < 0 ||
            get_u64(json_object_get(v, "valueTwo"), &b) < 0)
            return err_set(err, -EINVAL, "'%.64s': value of an argument is no number", call);
        ret[(*n)++] = SCMP_CMP64((unsigned)json_integer_value(index), op, a, b);
    }
    return 0;
}

/* libseccomp takes one condition per argument and all have to hold. Two for the same argument: any
 * of them. */
static bool index_twice(const struct scmp_arg_cmp *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++)
            if (a[i].arg == a[k].arg)
                return true;
    return false;
}

static int add_call(struct compiler *c, const char *name, uint32_t action,
                    const struct scmp_arg_cmp *args, size_t n)
{
    int nr = seccomp_syscall_resolve_name(name), r = 0;

    if (nr == __NR_SCMP_ERROR || action == c->default_action)
        return 0; /* a call of another architecture or of the future; nothing to say */
    if (++c->n_rules > RULES_MAX)
        return err_set(c->err, -E2BIG, "more than %d rules", RULES_MAX);
    if (index_twice(args, n))
        for (size_t i = 0; i < n && r == 0; i++)
            r = seccomp_rule_add_array(c->ctx, action, nr, 1, &args[i]);
    else
        r = seccomp_rule_add_array(c->ctx, action, nr, (unsigned)n, args);
    /* the same rule twice is no mistake worth a failing container */
    return r == 0 || r == -EEXIST ? 0 : err_code(c->err, r, "rule for '%.64s'", name);
}

static void note_number(struct compiler *c, const char *name)
{
    for (size_t i = 0; i < c->n_arches; i++) {
        int nr = seccomp_syscall_resolve_name_arch(c->arches[i], name);

        if (nr > c->newest[i])
            c->newest[i] = nr;
    }
}

static int add_rule(struct compiler *c, const json_t *rule)
{
    const json_t *names = json_object_get(rule, "names"), *one = json_object_get(rule, "name");
    const char *first = json_string_value(one);
    struct scmp_arg_cmp args[6];
    bool wanted;
    uint32_t action;
    size_t n, i;
    json_t *v;
    int r = get_action(json_object_get(rule, "action"), json_object_get(rule, "errnoRet"), &action,
                       c->err);

    if (r < 0)
        return r;
    if (!json_is_object(rule) || (!json_is_array(names) && !first))
        return err_set(c->err, -EINVAL, "a rule without names");
    if (first && json_array_size(names))
        return err_set(c->err, -EINVAL, "a rule with both name and names ('%.64s')", first);
    if (!first)
        first = json_string_value(json_array_get(names, 0));
    r = get_args(rule, args, &n, first ? first : "", c->err);
    if (r < 0)
        return r;
    wanted = compile_wants(c, rule);
    if (json_is_string(one)) {
        note_number(c, first);
        return wanted ? add_call(c, first, action, args, n) : 0;
    }
    json_array_foreach(names, i, v) {
        if (!json_is_string(v))
            return err_set(c->err, -EINVAL, "a name of a system call is no string");
        note_number(c, json_string_value(v));
        if (wanted)
            r = add_call(c, json_string_value(v), action, args, n);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- the profile as a whole */

static int add_arch(struct compiler *c, const json_t *name)
{
    const char *s = json_string_value(name);
    uint32_t token = s ? arch_token(s) : 0;
    int r;

    if (!token)
        return err_set(c->err, -EINVAL, "unknown architecture '%.64s'", s ? s : "");
    for (size_t i = 0; i < c->n_arches; i++)
        if (c->arches[i] == token)
            return 0;
    if (c->n_arches == COMPILE_ARCHES_MAX)
        return err_set(c->err, -E2BIG, "more than %d architectures", COMPILE_ARCHES_MAX);
    r = seccomp_arch_add(c->ctx, token);
    if (r == -EDOM)
        return 0;                    /* the other byte order: this machine will never run it */
    if (r < 0 && r != -EEXIST)
        return err_code(c->err, r, "architecture '%s'", s);
    c->arches[c->n_arches] = token;
    c->newest[c->n_arches++] = -1;
    return 0;
}

static int add_arches(struct compiler *c, const json_t *profile)
{
    const json_t *list = json_object_get(profile, "architectures"),
                 *map = json_object_get(profile, "archMap");
    uint32_t native = seccomp_arch_native();
    size_t i, k;
    json_t *v, *w;
    int r = 0;

    c->arches[0] = native;
    c->newest[0] = -1;
    c->n_arches = 1;
    if (json_array_size(list) && json_array_size(map))
        return err_set(c->err, -EINVAL, "both architectures and archMap are given");
    json_array_foreach(list, i, v) {
        r = add_arch(c, v);
        if (r < 0)
            return r;
    }
    json_array_foreach(map, i, v) {
        const char *name = json_string_value(json_object_get(v, "architecture"));

        if (!name || arch_token(name) != native)
            continue;
        json_array_foreach(json_object_get(v, "subArchitectures"), k, w) {
            r = add_arch(c, w);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int add_flags(struct compiler *c, const json_t *profile)
{
    size_t i;
    json_t *v;

    json_array_foreach(json_object_get(profile, "flags"), i, v) {
        const char *s = json_string_value(v);

        if (s && strcmp(s, "SECCOMP_FILTER_FLAG_LOG") == 0)
            c->flags |= SECCOMP_FILTER_FLAG_LOG;
        else if (s && strcmp(s, "SECCOMP_FILTER_FLAG_SPEC_ALLOW") == 0)
            c->flags |= SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        else if (!s || strcmp(s, "SECCOMP_FILTER_FLAG_TSYNC") !=
                           0) /* there is one thread: nothing to do */
            return err_set(c->err, -EINVAL, "flag '%.64s' is not supported", s ? s : "");
    }
    return 0;
}

static int refuse(const json_t *profile, const char *key, struct err *err)
{
    const json_t *v = json_object_get(profile, key);

    if (v && !json_is_null(v) && !(json_is_string(v) && !json_string_value(v)[0]))
        return err_set(err, -EOPNOTSUPP, "%s is not supported: there is no listener", key);
    return 0;
}

int compile_init(struct compiler *c, const char *caps, struct err *err)
{
    struct utsname u;

    *c = (struct compiler){ .caps = caps, .err = err };
    if (uname(&u) < 0 || sscanf(u.release, "%d.%d", &c->kernel[0], &c->kernel[1]) < 1)
        return err_set(err, -EIO, "unknown kernel release");
    for (size_t i = 0; i < ARRAY_LEN(arches); i++)
        if (arches[i].token == seccomp_arch_native())
            snprintf(c->arch, sizeof c->arch, "%s", arches[i].go);
    return 0;
}

int compile_profile(struct compiler *c, const json_t *profile)
{
    const json_t *rules = json_object_get(profile, "syscalls");
    size_t i;
    json_t *v;
    int r;

    if (!json_is_object(profile))
        return err_set(c->err, -EINVAL, "not a JSON object");
    r = refuse(profile, "listenerPath", c->err);
    if (r == 0)
        r = refuse(profile, "listenerMetadata", c->err);
    if (r == 0)
        r = get_action(json_object_get(profile, "defaultAction"),
                       json_object_get(profile, "defaultErrnoRet"), &c->default_action, c->err);
    if (r < 0)
        return r;
    c->ctx = seccomp_init(c->default_action);
    if (!c->ctx)
        return err_set(c->err, -EINVAL, "libseccomp does not take the default action");
    r = add_arches(c, profile);
    if (r == 0)
        r = add_flags(c, profile);
    if (r == 0 && rules && !json_is_array(rules) && !json_is_null(rules))
        return err_set(c->err, -EINVAL, "syscalls is no array");
    json_array_foreach(rules, i, v) {
        if (r == 0)
            r = add_rule(c, v);
    }
    if (r == 0)
        r = seccomp_attr_set(c->ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) < 0 ?
                err_set(c->err, -EIO, "binary tree") :
                0;
    return r;
}

void compile_deinit(struct compiler *c)
{
    if (c->ctx)
        seccomp_release(c->ctx);
}
