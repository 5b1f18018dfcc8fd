/* SPDX-License-Identifier: Apache-2.0 */
/* Capability names and the arithmetic of add, drop and ambient (CRI.md 7.3).
 *
 * The order is what makes requests like "add ALL, drop CHOWN" and "drop ALL, add NET_BIND_SERVICE"
 * both mean what they say: ALL first, in both lists, single names afterwards. Nothing can be added
 * that the daemon itself does not have: the launcher could not give it, and the container would
 * fail to start with a bare EPERM. */
#include "proc/caps.h"

#include "mem.h"

#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>

static const char *const names[] = {
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
    "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
    "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
};

static uint64_t bit(int number)
{
    return UINT64_C(1) << number;
}

uint64_t caps_default(void)
{
    return bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FSETID) | bit(CAP_FOWNER) |
           bit(CAP_MKNOD) | bit(CAP_NET_RAW) | bit(CAP_SETGID) | bit(CAP_SETUID) |
           bit(CAP_SETFCAP) | bit(CAP_SETPCAP) | bit(CAP_NET_BIND_SERVICE) | bit(CAP_SYS_CHROOT) |
           bit(CAP_KILL) | bit(CAP_AUDIT_WRITE);
}

uint64_t caps_own(void)
{
    uint64_t set = 0;

    /* PR_CAPBSET_READ fails with EINVAL above what this kernel knows, capabilities(7) */
    for (int i = 0; i < 64; i++) {
        int r = prctl(PR_CAPBSET_READ, i);

        if (r < 0)
            break;
        if (r > 0)
            set |= bit(i);
    }
    return set;
}

static bool known_here(int number)
{
    return prctl(PR_CAPBSET_READ, number) >= 0;
}

int caps_number(const char *name)
{
    if (strncasecmp(name, "CAP_", 4) == 0)
        name += 4;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcasecmp(name, names[i] + 4) == 0)
            return (int)i;
    return -1;
}

const char *caps_name(int number)
{
    return number >= 0 && (size_t)number < ARRAY_LEN(names) ? names[number] : NULL;
}

static bool is_all(const char *name)
{
    return strcasecmp(name, "ALL") == 0 || strcasecmp(name, "CAP_ALL") == 0;
}

static int number_of(const char *name, const char *what, struct err *err)
{
    int n = caps_number(name);

    if (n < 0)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "unknown capability to %s: '%s'", what, name);
    return n;
}

/* For what is added: the kernel has to know it and the daemon has to have it. */
static int number_to_add(const char *name, const char *what, uint64_t own, struct err *err)
{
    int n = number_of(name, what, err);

    if (n < 0)
        return n;
    if (!known_here(n))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "capability %s: this kernel does not know it",
                       names[n]);
    if (!(own & bit(n)))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "capability %s: the runtime does not have it itself", names[n]);
    return n;
}

int caps_apply(uint64_t base, char *const *add, size_t n_add, char *const *drop, size_t n_drop,
               char *const *ambient, size_t n_ambient, uint64_t *ret_bounding,
               uint64_t *ret_ambient, struct err *err)
{
    uint64_t own = caps_own(), set = base & own, amb = 0;
    int n;

    for (size_t i = 0; i < n_add; i++)
        if (is_all(add[i]))
            set = own;
    for (size_t i = 0; i < n_drop; i++)
        if (is_all(drop[i]))
            set = 0;
    for (size_t i = 0; i < n_add; i++) {
        if (is_all(add[i]))
            continue;
        n = number_to_add(add[i], "add", own, err);
        if (n < 0)
            return n;
        set |= bit(n);
    }
    for (size_t i = 0; i < n_ambient; i++) {
        if (is_all(ambient[i])) {
            amb = own;
            set |= own;
            continue;
        }
        n = number_to_add(ambient[i], "add as ambient", own, err);
        if (n < 0)
            return n;
        amb |= bit(n);
        set |= bit(n);
    }
    for (size_t i = 0; i < n_drop; i++) {
        if (is_all(drop[i]))
            continue;
        n = number_of(drop[i], "drop", err);
        if (n < 0)
            return n;
        set &= ~bit(n);
        amb &= ~bit(n);
    }
    *ret_bounding = set;
    *ret_ambient = amb;
    return 0;
}
