/* SPDX-License-Identifier: Apache-2.0 */
/* src/proc/user: passwd and group of an image, also broken ones. */
#include "tap.h"

#include "mem.h"
#include "proc/lower.h"
#include "str.h"

static const char passwd[] =
    "# comment\n"
    "root:x:0:0:root:/root:/bin/sh\n"
    "broken\n"
    "neg:x:-5:0::/:\n"
    "big:x:99999999999:0::/:\n"
    "www:x:33:44:Web:/var/www:/bin/sh\r\n"
    "1000:x:77:78::/home/digits:\n"
    "nohome:x:50:51\n"
    "last:x:60:61::/home/last:/bin/sh";
static const char group[] =
    "root:x:0:\nwww:x:44:\nextra:x:500:root,www\nmore:x:501:wwwx,www\ntwice:x:500:www\n"
    "own:x:44:www\nbad:x:y:www\nshort:x\ntail:x:502:www";

static struct user u;
static struct err e;

static const char *who(const char *spec)
{
    static char buf[400];
    size_t n;

    err_clear(&e);
    if (user_resolve(passwd, group, spec, &u, &e) < 0)
        return e.text;
    n = (size_t)snprintf(buf, sizeof buf, "%u:%u %s %s", u.uid, u.gid, u.home,
                         u.name ? u.name : "-");
    for (size_t i = 0; i < u.n_groups; i++)
        n += (size_t)snprintf(buf + n, sizeof buf - n, " %u", u.groups[i]);
    user_deinit(&u);
    return buf;
}

int main(void)
{
    is_str(who(""), "0:0 /root root 500", "nobody named: root, with its groups");
    is_str(who("www"), "33:44 /var/www www 500 501 502",
           "by name; each group once, the primary one not again");
    is_str(who("33"), "33:44 /var/www www 500 501 502", "by number, the same");
    is_str(who("1000"), "77:78 /home/digits 1000", "a name made of digits wins over the number");
    is_str(who("4321"), "4321:0 / -", "a number that passwd does not know");
    is_str(who("4321:9"), "4321:9 / -", "with a group number");
    is_str(who("www:extra"), "33:500 /var/www www 501 44 502", "with a group name");
    is_str(who("33:0"), "33:0 /var/www www 500 501 44 502",
           "the own group is a supplementary one then");
    is_str(who(":7"), "0:7 /root root 500", "only a group");
    is_str(who("nohome"), "50:51 / nohome", "a short line will do");
    is_str(who("last"), "60:61 /home/last last", "the last line without an end");
    is_str(who("nope"), "unable to find user nope: no matching entries in passwd file",
           "an unknown name");
    is_int(e.grpc, GRPC_INVALID_ARGUMENT, "is the caller's fault");
    is_str(who("www:nope"), "unable to find group nope: no matching entries in group file",
           "an unknown group");
    is_str(who("neg"), "unable to find user neg: no matching entries in passwd file",
           "a negative uid is no line");
    is_str(who("big"), "unable to find user big: no matching entries in passwd file",
           "nor one that is too big");
    is_str(who("2147483647"), "2147483647:0 / -", "the largest uid");
    ok(str_starts(who("2147483648"), "unable to find user"), "and beyond");
    ok(user_resolve(NULL, NULL, "5", &u, &e) == 0 && u.uid == 5,
       "an image without passwd: numbers work");
    user_deinit(&u);
    ok(user_resolve(NULL, NULL, "www", &u, &e) < 0, "names do not");
    user_by_uid(passwd, group, 1000, -1, &u);
    ok(u.uid == 1000 && !u.name, "a uid is never taken for a name");
    user_deinit(&u);
    user_by_uid(passwd, group, 33, 500, &u);
    ok(u.gid == 500 && u.n_groups == 3, "a uid with another primary group");
    user_deinit(&u);
    ok(user_by_name(passwd, group, "www:extra", -1, &u, &e) < 0, "a user name has no group in it");
    ok(user_by_name(passwd, group, "5", -1, &u, &e) < 0,
       "a number that is not in passwd is no user name");
    return done_testing();
}
