/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v2 has no devices controller: a BPF program of type CGROUP_DEVICE is asked at every open
 * and mknod (bpf(2), kernel/cgroup.c and Documentation/bpf/prog_cgroup_device).
 *
 * v1's rules are a list in which later ones add to or take from what earlier ones gave, per access
 * bit. The program goes through them from the last to the first with the bits still in question in
 * a register: an allow rule that fits clears its bits, and none left means yes; a deny rule that
 * fits and has one of them means no; the end means no.
 *
 *      r2 type   r3 bits in question   r4 major   r5 minor   r0 verdict
 *
 * The new program takes the old one's place in one step (BPF_F_REPLACE), found again by its name.
 */
#include "mem.h"
#include "proc/cgroup_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RULES_MAX = 4096, PROGS_MAX = 64 };

static const char prog_name[] = "cricket_dev";

static int bpf(int cmd, union bpf_attr *attr)
{
    return (int)syscall(SYS_bpf, cmd, attr, sizeof *attr);
}

struct prog {
    struct bpf_insn *v;
    size_t n;
};

static void emit(struct prog *p, int code, int dst, int src, int off, int imm)
{
    p->v = mem_grow(p->v, p->n + 1, sizeof *p->v);
    p->v[p->n++] = (struct bpf_insn){ .code = (uint8_t)code,
                                      .dst_reg = (uint8_t)(dst & 15),
                                      .src_reg = (uint8_t)(src & 15),
                                      .off = (int16_t)off,
                                      .imm = imm };
}

static int access_bits(const char access[4])
{
    int bits = 0;

    for (int i = 0; i < 4 && access[i]; i++)
        bits |= access[i] == 'r' ? BPF_DEVCG_ACC_READ :
                access[i] == 'w' ? BPF_DEVCG_ACC_WRITE :
                access[i] == 'm' ? BPF_DEVCG_ACC_MKNOD : 0;
    return bits;
}

/* A jump whose target is known only at the end of the rule. */
static void emit_unless(struct prog *p, int reg, int64_t imm, size_t *fix, size_t *n_fix)
{
    fix[(*n_fix)++] = p->n;
    emit(p, BPF_JMP32 | BPF_JNE | BPF_K, reg, 0, 0, (int)imm);
}

static void emit_rule(struct prog *p, const struct cgroup_device_rule *d)
{
    size_t fix[3], n_fix = 0;
    int bits = access_bits(d->access);

    if (d->type != 'a')
        emit_unless(p, BPF_REG_2, d->type == 'c' ? BPF_DEVCG_DEV_CHAR : BPF_DEVCG_DEV_BLOCK, fix,
                    &n_fix);
    if (d->major >= 0)
        emit_unless(p, BPF_REG_4, d->major, fix, &n_fix);
    if (d->minor >= 0)
        emit_unless(p, BPF_REG_5, d->minor, fix, &n_fix);
    if (d->allow) {
        emit(p, BPF_ALU | BPF_AND | BPF_K, BPF_REG_3, 0, 0, ~bits);
        emit(p, BPF_JMP32 | BPF_JNE | BPF_K, BPF_REG_3, 0, 2, 0);
        emit(p, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1);
        emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    } else {
        emit(p, BPF_JMP32 | BPF_JSET | BPF_K, BPF_REG_3, 0, 1, bits);
        emit(p, BPF_JMP | BPF_JA, 0, 0, 2, 0);
        emit(p, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0);
        emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }
    for (size_t i = 0; i < n_fix; i++)
        p->v[fix[i]].off = (int16_t)(p->n - fix[i] - 1);
}

static void emit_all(struct prog *p, const struct cgroup_device_rule *rules, size_t n)
{
    const int word = BPF_LDX | BPF_MEM | BPF_W;

    if (!rules) {
        emit(p, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1);
        emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        return;
    }
    emit(p, word, BPF_REG_2, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, access_type), 0);
    emit(p, BPF_ALU | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_2, 0, 0);
    emit(p, BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff);
    emit(p, BPF_ALU | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, 16);
    emit(p, word, BPF_REG_4, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, major), 0);
    emit(p, word, BPF_REG_5, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, minor), 0);
    for (size_t i = n; i-- > 0;)
        emit_rule(p, &rules[i]);
    emit(p, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0);
    emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static int load(const struct prog *p)
{
    static const char license[] = "Dual MIT/GPL";
    union bpf_attr a;

    memset(&a, 0, sizeof a);
    a.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    a.insns = (uintptr_t)p->v;
    a.insn_cnt = (uint32_t)p->n;
    a.license = (uintptr_t)license;
    memcpy(a.prog_name, prog_name, sizeof prog_name);
    int fd = bpf(BPF_PROG_LOAD, &a);
    return fd < 0 ? -errno : fd;
}

static bool is_ours(int fd)
{
    struct bpf_prog_info info;
    union bpf_attr a;

    memset(&info, 0, sizeof info);
    memset(&a, 0, sizeof a);
    a.info.bpf_fd = (uint32_t)fd;
    a.info.info_len = sizeof info;
    a.info.info = (uintptr_t)&info;
    return bpf(BPF_OBJ_GET_INFO_BY_FD, &a) == 0 && strcmp(info.name, prog_name) == 0;
}

/* Descriptor of the program that we attached to dir before, -1 if there is none. */
static int find_old(int dir)
{
    uint32_t ids[PROGS_MAX];
    union bpf_attr a;

    memset(&a, 0, sizeof a);
    a.query.target_fd = (uint32_t)dir;
    a.query.attach_type = BPF_CGROUP_DEVICE;
    a.query.prog_ids = (uintptr_t)ids;
    a.query.prog_cnt = PROGS_MAX;
    if (bpf(BPF_PROG_QUERY, &a) < 0)
        return -1;
    for (uint32_t i = 0, n = a.query.prog_cnt; i < n && i < PROGS_MAX; i++) {
        memset(&a, 0, sizeof a);
        a.prog_id = ids[i];
        auto_fd int fd = bpf(BPF_PROG_GET_FD_BY_ID, &a);
        if (fd >= 0 && is_ours(fd))
            return take_fd(&fd);
    }
    return -1;
}

int cgroup2_set_devices(const char *path, const struct cgroup_device_rule *rules, size_t n,
                        struct err *err)
{
    auto_fd int dir = cgroup_open_file(path, "", ".", O_RDONLY | O_DIRECTORY);
    auto_fd int fd = -1, old = -1;
    struct prog p = { NULL, 0 };
    union bpf_attr a;

    if (dir < 0)
        return err_code(err, dir, "cgroup '%s'", path);
    if (n > RULES_MAX)
        return err_rpc(err, GRPC_RESOURCE_EXHAUSTED, "more than %d device rules", RULES_MAX);
    emit_all(&p, rules, n);
    fd = load(&p);
    free(p.v);
    if (fd < 0)
        return err_code(err, fd, "load the BPF program with the device rules of cgroup '%s'", path);
    old = find_old(dir);
    memset(&a, 0, sizeof a);
    a.target_fd = (uint32_t)dir;
    a.attach_bpf_fd = (uint32_t)fd;
    a.attach_type = BPF_CGROUP_DEVICE;
    a.attach_flags = BPF_F_ALLOW_MULTI;
    if (old >= 0) {
        a.attach_flags |= BPF_F_REPLACE;
        a.replace_bpf_fd = (uint32_t)old;
    }
    if (bpf(BPF_PROG_ATTACH, &a) < 0)
        return err_sys(err, "attach the device rules to cgroup '%s'", path);
    return 0;
}
