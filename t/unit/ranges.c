/* SPDX-License-Identifier: Apache-2.0 */
/* src/pull/worker/ranges: the shorter filter answers as the one that libseccomp made, for every number that
 * any of the two compares with and its neighbours, with arguments at and around what they are compared with. */
#include "tap.h"

#include "pull/worker/ranges.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf_common.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

/* As the kernel's interpreter; 0xdeadbeef: it left the program. */
static uint32_t run(const struct sock_filter *f, size_t n, const struct seccomp_data *d)
{
    uint32_t a = 0;

    for (size_t pc = 0; pc < n; pc++) {
        const struct sock_filter *i = &f[pc];

        switch (i->code) {
        case BPF_LD | BPF_W | BPF_ABS: memcpy(&a, (const char *)d + i->k, 4); break;
        case BPF_ALU | BPF_AND | BPF_K: a &= i->k; break;
        case BPF_JMP | BPF_JA: pc += i->k; break;
        case BPF_JMP | BPF_JEQ | BPF_K: pc += a == i->k ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JGE | BPF_K: pc += a >= i->k ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JGT | BPF_K: pc += a > i->k ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JSET | BPF_K: pc += a & i->k ? i->jt : i->jf; break;
        case BPF_RET | BPF_K: return i->k;
        default: return 0xdeadbeef;
        }
    }
    return 0xdeadbeef;
}

static struct sock_filter from[BPF_MAXINSNS], to[BPF_MAXINSNS];
static size_t n_from, n_to;
static uint32_t consts[4 * BPF_MAXINSNS];
static size_t n_consts;

static void collect(void)
{
    n_consts = 0;
    for (size_t k = 0; k < n_from; k++)
        if (BPF_CLASS(from[k].code) == BPF_JMP && BPF_OP(from[k].code) != BPF_JA)
            for (int d = -1; d <= 1; d++)
                consts[n_consts++] = from[k].k + (uint32_t)d;
    consts[n_consts++] = 0;
    consts[n_consts++] = UINT32_MAX;
}

static size_t differ(void)
{
    static const uint32_t arch[] = { AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, AUDIT_ARCH_AARCH64, 0,
                                     UINT32_MAX };
    uint32_t seed = 1;
    size_t bad = 0;

    for (size_t a = 0; a < sizeof arch / sizeof *arch; a++)
        for (size_t k = 0; k < n_consts; k++)
            for (int round = 0; round < 24; round++) {
                struct seccomp_data d = { .nr = (int)consts[k], .arch = arch[a] };

                for (int i = 0; round && i < 6; i++) {
                    seed = seed * 1103515245 + 12345;
                    uint32_t low = consts[(seed >> 8) % n_consts];
                    seed = seed * 1103515245 + 12345;
                    d.args[i] = (uint64_t)(seed & 0x10000 ? consts[(seed >> 8) % n_consts] : 0) << 32 | low;
                }
                uint32_t x = run(from, n_from, &d), y = run(to, n_to, &d);
                if (x != y && bad++ < 3)
                    diag("arch %x nr %d: %x, was %x", d.arch, d.nr, y, x);
                if (x == 0xdeadbeef)
                    bad++;
            }
    return bad;
}

static void check(scmp_filter_ctx ctx, int optimize, const char *what)
{
    int fd = memfd_create("bpf", MFD_CLOEXEC);
    ssize_t len;

    (void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, (uint32_t)optimize);
    if (fd < 0 || seccomp_export_bpf(ctx, fd) < 0 || (len = pread(fd, from, sizeof from, 0)) < 0)
        bail_out("%s: %s", what, strerror(errno));
    close(fd);
    n_from = (size_t)len / sizeof *from;
    n_to = ranges_make(from, n_from, to);
    if (!ok(n_to > 0, "%s: %zu instructions are now %zu", what, n_from, n_to))
        return;
    collect();
    size_t bad = differ();
    ok(bad == 0, "%s: the same answers (%zu are not)", what, bad);
}

/* Most calls get an answer of their own, one in step does not; some by their arguments, in the ways that profiles use. */
static scmp_filter_ctx profile(uint32_t otherwise, int step, bool args)
{
    scmp_filter_ctx ctx = seccomp_init(otherwise);

    if (!ctx || (seccomp_arch_native() == SCMP_ARCH_X86_64 &&
                 (seccomp_arch_add(ctx, SCMP_ARCH_X86) < 0 || seccomp_arch_add(ctx, SCMP_ARCH_X32) < 0)))
        bail_out("seccomp_init");
    for (int nr = 0; nr < 450; nr++)
        if (nr % step && nr != SCMP_SYS(personality) && nr != SCMP_SYS(clone) && nr != SCMP_SYS(socket))
            (void)seccomp_rule_add(ctx, nr % 29 ? SCMP_ACT_ALLOW : SCMP_ACT_LOG, nr, 0);
    if (!args)
        return ctx;
    for (uint64_t v = 0; v < 40; v += 8)
        (void)seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(personality), 1, SCMP_A0(SCMP_CMP_EQ, v, 0));
    (void)seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                           SCMP_A0(SCMP_CMP_MASKED_EQ, 0x7e020000, 0));
    (void)seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2, SCMP_A0(SCMP_CMP_LT, 40, 0),
                           SCMP_A2(SCMP_CMP_GE, 0x123456789abULL, 0));
    (void)seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, 40, 0));
    return ctx;
}

static void refused(const char *what, const struct sock_filter *f, size_t n)
{
    ok(ranges_make(f, n, to) == 0, "left alone: %s", what);
}

int main(void)
{
    const uint16_t ld = BPF_LD | BPF_W | BPF_ABS, jeq = BPF_JMP | BPF_JEQ | BPF_K;
    const uint32_t nr = offsetof(struct seccomp_data, nr);

    for (int step = 5; step <= 15; step += 5)
        for (int args = 0; args < 2; args++)
            for (int optimize = 1; optimize <= 2; optimize++) {
                char what[100];
                scmp_filter_ctx ctx = profile(SCMP_ACT_ERRNO(EPERM), step, args);

                snprintf(what, sizeof what, "%s, all but 1 of %d calls, %s", optimize == 2 ? "tree" : "chain", step,
                         args ? "some by their arguments" : "no arguments");
                check(ctx, optimize, what);
                seccomp_release(ctx);
            }
    scmp_filter_ctx deny = profile(SCMP_ACT_KILL_PROCESS, 7, true);
    check(deny, 2, "kill is the default");
    seccomp_release(deny);
    scmp_filter_ctx single = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    for (int k = 0; single && k < 300; k++)
        if (k % 10 != 5)
            (void)seccomp_rule_add(single, SCMP_ACT_ALLOW, k, 0);
    check(single, 2, "30 single calls are not allowed");
    ok(n_to < 55, "each is compared with, not with where it begins and ends");
    seccomp_release(single);

    const struct sock_filter set[] = { BPF_STMT(ld, nr), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 0, 1),
                                       BPF_STMT(BPF_RET | BPF_K, 1), BPF_STMT(BPF_RET | BPF_K, 2) };
    refused("bits of the number", set, 4);
    const struct sock_filter and[] = { BPF_STMT(ld, nr), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 1),
                                       BPF_JUMP(jeq, 1, 0, 1), BPF_STMT(BPF_RET | BPF_K, 1),
                                       BPF_STMT(BPF_RET | BPF_K, 2) };
    refused("arithmetic with the number", and, 5);
    const struct sock_filter out[] = { BPF_STMT(ld, nr), BPF_JUMP(jeq, 1, 0, 200), BPF_STMT(BPF_RET | BPF_K, 1) };
    refused("a jump out of the program", out, 3);
    const struct sock_filter tiny[] = { BPF_STMT(BPF_RET | BPF_K, 1) };
    refused("what is short already", tiny, 1);
    refused("nothing", tiny, 0);
    return done_testing();
}
