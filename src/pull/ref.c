/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar of references as the distribution project has it, checked by hand in one pass from
 * the left:
 *
 *      [domain /] component [/ component]... [:tag] [@algorithm:hex]
 *
 * What stands before the first slash is a domain only if it looks like one (a dot, a port,
 * "localhost", or an upper-case letter, which no path may have); otherwise the default domain is
 * meant. */
#include "pull/ref.h"

#include "mem.h"
#include "pull/digest.h"
#include "str.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { NAME_MAX_LEN = 255, TAG_MAX_LEN = 128, REF_MAX_LEN = 1024 };

#define DEFAULT_DOMAIN "docker.io"

static bool is_lower(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
static bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
static bool is_alnum(char c) { return is_lower(c) || is_upper(c); }

/* a component: runs of [a-z0-9] joined by one of "." "_" "__" "-"+ */
static bool component_ok(const char *s, size_t n)
{
    size_t i = 0;

    for (;;) {
        size_t run = i;

        while (i < n && is_lower(s[i]))
            i++;
        if (i == run)
            return false;
        if (i == n)
            return true;
        if (s[i] == '.') {
            i++;
        } else if (s[i] == '_') {
            i += i + 1 < n && s[i + 1] == '_' ? 2 : 1;
        } else if (s[i] == '-') {
            while (i < n && s[i] == '-')
                i++;
        } else {
            return false;
        }
    }
}

static bool path_ok(const char *s, size_t n)
{
    while (n) {
        const char *slash = memchr(s, '/', n);
        size_t len = slash ? (size_t)(slash - s) : n;

        if (!component_ok(s, len))
            return false;
        if (!slash)
            return true;
        s += len + 1;
        n -= len + 1;
    }
    return false;
}

bool ref_path_ok(const char *path) { return path_ok(path, strlen(path)); }

/* host labels of letters, digits and inner hyphens, or an IPv6 address in brackets; then an
 * optional port */
static bool domain_ok(const char *s, size_t n)
{
    size_t i = 0;

    if (n && s[0] == '[') {
        for (i = 1; i < n && s[i] != ']'; i++)
            if (!strchr("0123456789abcdefABCDEF:.", s[i]))
                return false;
        if (i == n || i == 1)
            return false;
        i++;
    } else {
        for (;;) {
            size_t label = i;

            while (i < n && (is_alnum(s[i]) || s[i] == '-'))
                i++;
            if (i == label || s[label] == '-' || s[i - 1] == '-')
                return false;
            if (i == n || s[i] != '.')
                break;
            i++;
        }
    }
    if (i == n)
        return true;
    if (s[i++] != ':' || i == n)
        return false;
    for (; i < n; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return true;
}

static bool looks_like_domain(const char *s, size_t n)
{
    if (n == strlen("localhost") && memcmp(s, "localhost", n) == 0)
        return true;
    for (size_t i = 0; i < n; i++)
        if (s[i] == '.' || s[i] == ':' || is_upper(s[i]))
            return true;
    return false;
}

static bool tag_ok(const char *s)
{
    size_t n = strlen(s);

    if (!n || n > TAG_MAX_LEN || (!is_alnum(s[0]) && s[0] != '_'))
        return false;
    for (size_t i = 1; i < n; i++)
        if (!is_alnum(s[i]) && !strchr("_.-", s[i]))
            return false;
    return true;
}

static bool hex_ok(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f')))
            return false;
    return true;
}

struct ref *ref_free(struct ref *r)
{
    if (!r)
        return NULL;
    free(r->domain);
    free(r->path);
    free(r->tag);
    free(r->digest);
    free(r->normal);
    free(r->name);
    free(r);
    return NULL;
}

static int bad(struct err *err, const char *s, const char *why)
{
    return err_rpc(err, GRPC_INVALID_ARGUMENT, "invalid image reference '%.200s': %s", s, why);
}

static void ref_freep(struct ref **r) { ref_free(*r); }

int ref_parse(const char *s, struct ref **ret, struct err *err)
{
    __attribute__((cleanup(ref_freep))) struct ref *r = mem_new(struct ref);
    auto_free char *name = NULL;
    const char *at, *colon, *slash, *domain, *path, *tag = NULL;
    size_t n, domain_len;

    if (str_empty(s))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "image reference is empty");
    if (strlen(s) > REF_MAX_LEN)
        return bad(err, s, "too long");
    at = strchr(s, '@');
    if (at && !digest_valid(at + 1))   /* one that cannot be verified is no use */
        return bad(
            err, s,
            "bad digest (want sha256:, sha384: or sha512: and as many lower-case hex digits)");
    name = mem_dup(s, at ? (size_t)(at - s) : strlen(s));
    colon = strrchr(name, ':');
    if (colon && !strchr(colon, '/')) {     /* behind the last slash: a tag; before it: a port */
        tag = colon + 1;
        if (!tag_ok(tag))
            return bad(err, s, "bad tag");
    }
    n = colon && tag ? (size_t)(colon - name) : strlen(name);
    if (!n)
        return bad(err, s, "no name");
    if (n == 64 && hex_ok(name, 64))
        return bad(err, s, "64 hex digits are an image id, not a name");

    slash = memchr(name, '/', n);
    if (slash && looks_like_domain(name, (size_t)(slash - name))) {
        domain = name;
        domain_len = (size_t)(slash - name);
        path = slash + 1;
        n -= domain_len + 1;
        if (!domain_ok(domain, domain_len))
            return bad(err, s, "bad registry host");
        if (domain_len == strlen("index." DEFAULT_DOMAIN) &&
            memcmp(domain, "index." DEFAULT_DOMAIN, domain_len) == 0) {
            domain = DEFAULT_DOMAIN;
            domain_len = strlen(domain);
        }
    } else {
        domain = DEFAULT_DOMAIN;
        domain_len = strlen(domain);
        path = name;
    }
    if (!path_ok(path, n)) {
        for (size_t i = 0; i < n; i++)
            if (is_upper(path[i]))
                return bad(err, s, "repository name must be lower case");
        return bad(err, s, "bad repository name");
    }
    r->domain = mem_dup(domain, domain_len);
    if (strcmp(r->domain, DEFAULT_DOMAIN) == 0 && !memchr(path, '/', n))
        r->path = mem_printf("library/%.*s", (int)n, path);
    else
        r->path = mem_dup(path, n);
    r->name = mem_printf("%s/%s", r->domain, r->path);
    if (strlen(r->name) > NAME_MAX_LEN)
        return bad(err, s, "name longer than 255 characters");
    if (at) {
        r->digest = mem_strdup(at + 1);     /* a tag beside it says nothing more */
        r->normal = mem_printf("%s@%s", r->name, r->digest);
    } else {
        r->tag = mem_strdup(tag ? tag : "latest");
        r->normal = mem_printf("%s:%s", r->name, r->tag);
    }
    *ret = take_ptr(r);
    return 0;
}
