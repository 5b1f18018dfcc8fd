/* SPDX-License-Identifier: Apache-2.0 */
/* src/proc/caps: the order of ALL, single adds and drops. */
#include "tap.h"

#include "mem.h"
#include "proc/caps.h"

#include <linux/capability.h>

static uint64_t bounding, ambient;
static struct err e;

static int apply(const char *const *add, const char *const *drop, const char *const *amb)
{
    size_t n[3] = { 0, 0, 0 };
    const char *const *l[3] = { add, drop, amb };
    char *v[3][8];

    for (int i = 0; i < 3; i++)
        for (; l[i] && l[i][n[i]]; n[i]++)
            v[i][n[i]] = mem_strdup(l[i][n[i]]);
    err_clear(&e);
    bounding = ambient = 0;
    int r = caps_apply(caps_default(), v[0], n[0], v[1], n[1], v[2], n[2], &bounding, &ambient, &e);
    for (int i = 0; i < 3; i++)
        for (size_t k = 0; k < n[i]; k++)
            free(v[i][k]);
    return r;
}

#define L(...) (const char *const[]){ __VA_ARGS__, NULL }
#define BIT(c) (UINT64_C(1) << (c))

int main(void)
{
    uint64_t own = caps_own(), dflt = caps_default() & own;

    is_int(caps_number("NET_ADMIN"), CAP_NET_ADMIN, "a name without CAP_");
    is_int(caps_number("cap_sys_chroot"), CAP_SYS_CHROOT, "case does not matter");
    is_int(caps_number("NOPE"), -1, "an unknown name");
    is_str(caps_name(CAP_LAST_CAP), "CAP_CHECKPOINT_RESTORE", "the last one has a name");
    ok(!caps_name(CAP_LAST_CAP + 1) && !caps_name(-1), "beyond it there is none");
    for (int i = 0; i <= CAP_LAST_CAP; i++)
        if (caps_number(caps_name(i)) != i)
            ok(false, "name %d is found again", i);
    is_int(__builtin_popcountll(caps_default()), 14, "14 capabilities by default");

    ok(apply(NULL, NULL, NULL) == 0 && bounding == dflt && ambient == 0,
       "nothing asked: the default set");
    ok(apply(L("all"), L("CHOWN"), NULL) == 0 && bounding == (own & ~BIT(CAP_CHOWN)),
       "add ALL, drop CHOWN");
    ok(apply(L("NET_BIND_SERVICE"), L("ALL"), NULL) == 0 &&
           bounding == (BIT(CAP_NET_BIND_SERVICE) & own),
       "drop ALL, add one");
    ok(apply(L("ALL"), L("ALL"), NULL) == 0 && bounding == 0, "add ALL, drop ALL: none");
    ok(apply(L("KILL"), L("KILL"), NULL) == 0 && !(bounding & BIT(CAP_KILL)),
       "a single drop comes last");
    ok(apply(NULL, L("ALL"), L("NET_RAW")) == 0 && bounding == BIT(CAP_NET_RAW) &&
           ambient == BIT(CAP_NET_RAW),
       "an ambient one is in the bounding set as well");
    ok(apply(NULL, L("NET_RAW"), L("NET_RAW")) == 0 && !(ambient & BIT(CAP_NET_RAW)),
       "dropped from ambient too");

    ok(apply(L("BOGUS"), NULL, NULL) < 0 && e.grpc == GRPC_INVALID_ARGUMENT,
       "unknown to add: refused");
    is_str(e.text, "unknown capability to add: 'BOGUS'", "by name");
    ok(apply(NULL, L("BOGUS"), NULL) < 0 && e.grpc == GRPC_INVALID_ARGUMENT,
       "unknown to drop: refused");
    if (own != BIT(CAP_LAST_CAP + 1) - 1) {
        int lost = __builtin_ctzll(~own);

        ok(apply(L(caps_name(lost)), NULL, NULL) < 0 && e.grpc == GRPC_INVALID_ARGUMENT,
           "%s cannot be given by who does not have it", caps_name(lost));
        ok(apply(NULL, L(caps_name(lost)), NULL) == 0, "but dropped");
    } else {
        skip("this process has every capability");
    }
    return done_testing();
}
