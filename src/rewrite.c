/* SPDX-License-Identifier: Apache-2.0 */
/* regcomp(3) and Go's regexp share a core; beside it the same characters mean something else (\d, a
 * backslash in brackets, (?:...), lazy quantifiers), silently. Such a pattern is an error: an image
 * from another repository than the admin meant would be the result. One difference stays: of several
 * alternatives that match POSIX takes the longest, Go the first. */
#include "rewrite.h"

#include "mem.h"
#include "str.h"

#include <ctype.h>
#include <errno.h>
#include <regex.h>
#include <string.h>

enum { GROUPS_MAX = 9 };

/* Behind a bracket expression that begins at p; NULL with a backslash in it. */
static const char *behind_brackets(const char *p)
{
    p += p[1] == '^' ? 2 : 1;
    if (*p == ']')
        p++;
    for (; *p && *p != ']'; p++) {
        if (*p == '\\')
            return NULL;
        if (*p == '[' && p[1] == ':' && strstr(p + 2, ":]"))
            p = strstr(p + 2, ":]") + 1;
    }
    return *p ? p + 1 : p;
}

static int check_pattern(const char *pattern, struct err *err)
{
    for (const char *p = pattern; *p;) {
        if (*p == '[') {
            p = behind_brackets(p);
            if (!p)
                return err_set(err, -EINVAL, "'%.200s': a backslash in brackets", pattern);
        } else if (*p == '\\') {
            if (isalnum((unsigned char)p[1]))
                return err_set(err, -EINVAL, "'%.200s': '\\%c' is not known to POSIX", pattern,
                               p[1]);
            p += p[1] ? 2 : 1;
        } else if ((*p == '(' && p[1] == '?') || (strchr("*+?}", *p) && p[1] == '?')) {
            return err_set(err, -EINVAL, "'%.200s': '%c?' is not known to POSIX", pattern, *p);
        } else {
            p++;
        }
    }
    return 0;
}

/* The number of the group that p, a '$', names, and its end; -1: none, -2: '$$'. */
static int group(const char *p, const char **end)
{
    bool braces = p[1] == '{';
    size_t n;

    *end = p + 1;
    if (p[1] == '$') {
        *end = p + 2;
        return -2;
    }
    p += braces ? 2 : 1;
    for (n = 0; isalnum((unsigned char)p[n]) || p[n] == '_';)
        n++;
    if (n != 1 || !isdigit((unsigned char)*p) || (braces && p[1] != '}'))
        return -1;
    *end = p + (braces ? 2 : 1);
    return *p - '0';
}

int rewrite_check(const char *pattern, const char *replacement, struct err *err)
{
    regex_t re;
    int r = check_pattern(pattern, err);

    if (r < 0)
        return r;
    r = regcomp(&re, pattern, REG_EXTENDED);
    if (r) {
        char why[100];

        (void)regerror(r, &re, why, sizeof why);
        return err_set(err, -EINVAL, "'%.200s': %s", pattern, why);
    }
    size_t groups = re.re_nsub;
    regfree(&re);
    if (groups > GROUPS_MAX)
        return err_set(err, -EINVAL, "'%.200s' has more than %d groups", pattern, GROUPS_MAX);
    for (const char *p = replacement, *end; (p = strchr(p, '$')); p = end) {
        int g = group(p, &end);

        if (g == -1 || g > (int)groups)
            return err_set(err, -EINVAL, "'%.200s' names no group of '%.200s'", p, pattern);
    }
    return 0;
}

static void expand(struct str *out, const char *replacement, const char *s, const regmatch_t *m)
{
    for (const char *p = replacement; *p;) {
        size_t n = strcspn(p, "$");

        str_add(out, p, n);
        p += n;
        if (!*p)
            return;
        int g = group(p, &p);
        if (g == -2)
            str_putc(out, '$');
        else if (g >= 0 && m[g].rm_so >= 0)
            str_add(out, s + m[g].rm_so, (size_t)(m[g].rm_eo - m[g].rm_so));
    }
}

char *rewrite_apply(const char *pattern, const char *replacement, const char *s)
{
    auto_str struct str out = STR_INIT;
    regmatch_t m[GROUPS_MAX + 1];
    const char *last = NULL;         /* where the match before has ended */
    bool any = false;
    regex_t re;

    if (regcomp(&re, pattern, REG_EXTENDED))
        return NULL;
    for (int flags = 0; regexec(&re, s, ARRAY_LEN(m), m, flags) == 0; flags = REG_NOTBOL) {
        const char *from = s + m[0].rm_so, *to = s + m[0].rm_eo;

        str_add(&out, s, (size_t)(from - s));
        if (to > from || from != last) {          /* else: nothing, right behind another match */
            expand(&out, replacement, s, m);
            any = true;
        }
        s = last = to;
        if (to > from)
            continue;
        if (!*s)
            break;
        str_putc(&out, *s++);
    }
    regfree(&re);
    str_puts(&out, s);
    return any ? str_take(&out) : NULL;
}
