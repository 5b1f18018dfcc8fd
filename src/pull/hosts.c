/* SPDX-License-Identifier: Apache-2.0 */
/* The origin of a domain is the domain itself over HTTPS, with two exceptions: the default domain
 * is served by its registry-1 host, and a loopback registry speaks plain HTTP unless TLS is
 * configured for it. Mirrors go first. A mirror learns from ?ns= which registry is meant, since one
 * mirror may stand for many, and may have the repository under another name (k3s's `rewrite`); the
 * origin never has. */
#include "pull/hosts.h"

#include "mem.h"
#include "pull/ref.h"
#include "rewrite.h"
#include "str.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

bool host_is_loopback(const char *host)
{
    size_t n;

    if (host[0] == '[')
        return str_starts(host, "[::1]") && (host[5] == '\0' || host[5] == ':');
    n = strcspn(host, ":");
    if (n == strlen("localhost") && strncasecmp(host, "localhost", n) == 0)
        return true;
    if (!str_starts(host, "127."))
        return false;
    for (size_t i = 0; i < n; i++)           /* not "127.example.com" */
        if ((host[i] < '0' || host[i] > '9') && host[i] != '.')
            return false;
    return true;
}

char *url_host(const char *url)
{
    const char *p;
    size_t n;

    if (str_starts(url, "http://"))
        p = url + strlen("http://");
    else if (str_starts(url, "https://"))
        p = url + strlen("https://");
    else
        return NULL;
    n = strcspn(p, "/?#");
    if (!n || memchr(p, '@', n))             /* credentials do not belong into a URL */
        return NULL;
    return mem_dup(p, n);
}

static bool config_matches(const struct hosts_config *c, const char *host)
{
    auto_free char *h = NULL;

    if (strcasecmp(c->host, host) == 0)
        return true;
    /* "https://registry.example:5000" is accepted as well */
    h = url_host(c->host);
    return h && strcasecmp(h, host) == 0;
}

const struct hosts_config *hosts_config_find(const struct hosts *h, const char *host)
{
    for (size_t i = 0; h && i < h->n_configs; i++)
        if (config_matches(&h->configs[i], host))
            return &h->configs[i];
    return NULL;
}

static bool config_wants_tls(const struct hosts_config *c)
{
    return c && (c->ca_file || c->cert_file || c->key_file || c->insecure_skip_verify);
}

static int rewrite_path(const struct hosts_mirror *m, const char *path, char **ret, struct err *err)
{
    auto_free char *to = NULL;

    for (char *const *w = m->rewrite; w && *w && !to; w += 2)
        to = rewrite_apply(w[0], w[1], path);
    if (to && !ref_path_ok(to))
        return err_set(err, -EINVAL, "mirrors of '%s': '%s' rewritten is '%.200s', no repository",
                       m->host, path, to);
    *ret = to ? take_ptr(to) : mem_strdup(path);
    return 0;
}

static int add_mirror(const struct hosts *h, const struct hosts_mirror *m, const char *domain,
                      const char *repository, const char *url, struct endpoint *e, struct err *err)
{
    auto_free char *full = NULL;
    const char *path;
    size_t n;
    int r = rewrite_path(m, repository, &e->path, err);

    if (r < 0)
        return r;

    if (strstr(url, "://"))
        full = mem_strdup(url);
    else
        full = mem_printf("%s://%s", host_is_loopback(url) ? "http" : "https", url);
    e->host = url_host(full);
    if (!e->host || strchr(full, '?') || strchr(full, '#'))
        return err_set(err, -EINVAL, "mirror '%s' of '%s': not an http or https URL", url, domain);
    e->tls = str_starts(full, "https://");
    path = strstr(full, "://") + 3 + strlen(e->host);
    n = strlen(full);
    while (n && full[n - 1] == '/' && full + n > path)
        full[--n] = '\0';
    e->base = mem_printf("%s%s", full, *path ? "" : "/v2");
    e->ns = strcmp(e->host, domain) == 0 ? NULL : mem_strdup(domain);
    e->config = hosts_config_find(h, e->host);
    return 0;
}

static void add_origin(const struct hosts *h, const char *domain, struct endpoint *e)
{
    const char *host = strcmp(domain, "docker.io") == 0 ? "registry-1.docker.io" : domain;

    e->host = mem_strdup(host);
    e->config = hosts_config_find(h, host);
    if (!e->config)
        e->config = hosts_config_find(h, domain);
    e->tls = !host_is_loopback(host) || config_wants_tls(e->config);
    e->base = mem_printf("%s://%s/v2", e->tls ? "https" : "http", host);
}

int hosts_endpoints(const struct hosts *h, const char *domain, const char *path,
                    struct endpoint **ret, size_t *ret_n, struct err *err)
{
    const struct hosts_mirror *m = NULL;
    struct endpoint *e;
    size_t n = 0, max = 1;

    for (size_t i = 0; h && i < h->n_mirrors; i++) {
        if (strcmp(h->mirrors[i].host, domain) == 0) {
            m = &h->mirrors[i];
            break;
        }
        if (!m && strcmp(h->mirrors[i].host, "*") == 0)
            m = &h->mirrors[i];
    }
    for (size_t i = 0; m && m->endpoints && m->endpoints[i]; i++)
        max++;
    e = mem_array(max, sizeof *e);
    for (size_t i = 0; m && m->endpoints && m->endpoints[i]; i++) {
        int r = add_mirror(h, m, domain, path, m->endpoints[i], &e[n], err);

        n++;
        if (r < 0) {
            endpoints_free(e, n);
            return r;
        }
    }
    add_origin(h, domain, &e[n]);
    e[n].path = mem_strdup(path);
    for (size_t i = 0; i < n; i++)
        /* listed among its mirrors, where the admin wants it */
        if (strcmp(e[i].base, e[n].base) == 0 && strcmp(e[i].path, path) == 0) {
            free(e[n].base);
            free(e[n].host);
            free(e[n].path);
            memset(&e[n], 0, sizeof e[n]);
            n--;
            break;
        }
    *ret = e;
    *ret_n = n + 1;
    return 0;
}

struct endpoint *endpoints_free(struct endpoint *e, size_t n)
{
    for (size_t i = 0; e && i < n; i++) {
        free(e[i].base);
        free(e[i].host);
        free(e[i].ns);
        free(e[i].path);
    }
    free(e);
    return NULL;
}
