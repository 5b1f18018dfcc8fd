/* SPDX-License-Identifier: Apache-2.0 */
#include "tap.h"

#include "mem.h"
#include "rewrite.h"

static void test_apply(void)
{
    static const struct {
        const char *pattern, *replacement, *in, *out;
    } cases[] = {
        { "^rancher/(.*)", "mirror/rancher-images/$1", "rancher/k3s", "mirror/rancher-images/k3s" },
        { "^rancher/(.*)", "x/$1", "library/rancher/k3s", NULL },
        { "(.*)", "hub/$1", "library/busybox", "hub/library/busybox" },
        { "^", "hub/", "busybox", "hub/busybox" },
        { "$", "-x", "busybox", "busybox-x" },
        { "/", "-", "a/b/c", "a-b-c" },
        { "b*", "-", "abc", "-a-c-" },            /* as Go's ReplaceAllString */
        { "x*", "-", "", "-" },
        { "^a", "b", "aaa", "baa" },
        { "(a)|(b)", "[$1$2]", "ab", "[a][b]" },
        { "([^/]+)/([^/]+)", "${2}0/$1$$", "a/b", "b0/a$" },
        { "[]a]x", "-", "ax]x", "--" },
        { "[[:digit:]]+\\.", "n", "12.x", "nx" },
        { "a.c", "", "abc", "" },
        { "(", "x", "(", NULL },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_free char *got =
            rewrite_apply(cases[i].pattern, cases[i].replacement, cases[i].in);
        struct err err = ERR_INIT;

        ok(cases[i].out ? got && strcmp(got, cases[i].out) == 0 : !got, "'%s' of '%s' is '%s'",
           cases[i].pattern, cases[i].in, got ? got : "(as before)");
        if (cases[i].out)
            ok(rewrite_check(cases[i].pattern, cases[i].replacement, &err) == 0, "accepted: %s",
               err.text);
    }
}

static void test_check(void)
{
    static const struct {
        const char *pattern, *replacement, *why;
    } cases[] = {
        { "(", "", "'(': Unmatched ( or \\(" },
        { "[a", "", "'[a': Unmatched [, [^, [:, [., or [=" },
        { "\\d+", "", "'\\d+': '\\d' is not known to POSIX" },
        { "(a)\\1", "", "'(a)\\1': '\\1' is not known to POSIX" },
        { "[\\.]", "", "'[\\.]': a backslash in brackets" },
        { "(?:a)", "", "'(?:a)': '(?' is not known to POSIX" },
        { "a.*?", "", "'a.*?': '*?' is not known to POSIX" },
        { "(a)", "$2", "'$2' names no group of '(a)'" },
        { "(a)", "x/$1x", "'$1x' names no group of '(a)'" },
        { "(a)", "${1", "'${1' names no group of '(a)'" },
        { "(a)", "$name", "'$name' names no group of '(a)'" },
        { "(a)", "1$", "'$' names no group of '(a)'" },
        { "(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)", "",
          "'(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)' has more than 9 groups" },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;

        ok(rewrite_check(cases[i].pattern, cases[i].replacement, &err) < 0, "'%s' is refused",
           cases[i].pattern);
        is_str(err.text, cases[i].why, "with the reason");
    }
}

int main(void)
{
    test_apply();
    test_check();
    return done_testing();
}
