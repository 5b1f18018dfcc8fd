/* SPDX-License-Identifier: Apache-2.0 */
/* One wish, several tries. A try is: an endpoint, maybe a redirect away from it, with or without an
 * Authorization header. What a response means for the next try:
 *
 *      401            answer the challenge, same endpoint; refused again: next endpoint
 *      3xx            same endpoint, other URL; the header stays behind when the origin changes
 *      403, 404, 5xx, unreachable, TLS    next endpoint
 *      broken or stalled after bytes came    the caller decides (it resumes where it stopped)
 *
 * The last endpoint is the origin (or the layer's own urls): its error is the one told, except that
 * a refusal by a mirror outweighs an origin that cannot be reached. */
#include "pull/registry.h"

#include "list.h"
#include "log.h"
#include "mem.h"
#include "pull/digest.h"
#include "pull/manifest.h"
#include "pull/pull.h"
#include "str.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
    REDIRECTS_MAX = 5,
    ERROR_BODY_MAX = 8 * 1024,
};

struct registry {
    struct loop *loop;
    struct http *http;
    struct auth *auth;
    const struct hosts *hosts;
};

struct repo {
    unsigned refs;
    char *name, *domain;
    struct endpoint *endpoints;
    size_t n;
    struct creds *creds;             /* one per endpoint: what to answer a challenge with */
};

struct reg_get {
    struct registry *reg;
    struct reg_get_spec spec;
    char *what;
    size_t at;                       /* endpoint, or repo->n + index into urls */
    char *url;                       /* of a redirect, else NULL */
    unsigned redirects;
    bool bare;                       /* this try goes to where the header must not go */
    bool authorized, answered;       /* sent a header; answered a challenge of this endpoint */
    char *header;                    /* what the answer was, for the tries at this endpoint */
    struct http_req *http;
    struct auth_req *auth;
    uint64_t skip;                   /* bytes still to read over */
    bool streaming, delivered;       /* 2xx: bytes go to the caller; some did */
    struct str body;                 /* start of an error's body */
    struct err worst;
    enum reg_outcome worst_outcome;
    int64_t worst_wait_ms;
    bool worst_set, all_unreachable;
};

struct registry *registry_new(struct loop *l, const struct hosts *hosts)
{
    struct registry *g = mem_new(struct registry);

    g->loop = l;
    g->hosts = hosts;
    g->http = http_new(l);
    g->auth = auth_new(g->http, hosts);
    return g;
}

struct registry *registry_free(struct registry *g)
{
    if (!g)
        return NULL;
    http_free(g->http);
    auth_free(g->auth);
    free(g);
    return NULL;
}

/* --- repositories */

/* server_address of an AuthConfig: a host, a URL, or the default domain's old index URL. */
static bool address_means(const char *address, const char *domain)
{
    auto_free char *host = url_host(address);
    const char *h = host ? host : address;
    size_t n = strcspn(h, "/");

    if (n == strlen(domain) && strncasecmp(h, domain, n) == 0)
        return true;
    return strcmp(domain, "docker.io") == 0 && n > strlen("docker.io") &&
           strncasecmp(h + n - strlen(".docker.io"), ".docker.io", strlen(".docker.io")) == 0;
}

static int choose_creds(struct repo *r, const struct pull_auth *a, struct err *err)
{
    bool given = a && (!str_empty(a->username) || !str_empty(a->auth) ||
                       !str_empty(a->identity_token) || !str_empty(a->registry_token));

    for (size_t i = 0; i < r->n; i++) {
        const struct endpoint *e = &r->endpoints[i];
        const struct hosts_config *c = e->config;
        bool mine =
            given && (str_empty(a->server_address) || address_means(a->server_address, r->domain) ||
                      address_means(a->server_address, e->host));
        bool configured =
            c && (!str_empty(c->username) || !str_empty(c->auth) || !str_empty(c->identity_token));
        int q = 0;

        /* A mirror with credentials of its own gets those; the request's are meant for the
         * registry. */
        if (mine && !(e->ns && configured))
            q = creds_set(&r->creds[i], a->username, a->password, a->auth, a->identity_token,
                          a->registry_token, err);
        else if (configured)
            q = creds_set(&r->creds[i], c->username, c->password, c->auth, c->identity_token, NULL,
                          err);
        if (q < 0)
            return err_note(err, "credentials for %s", e->host);
    }
    return 0;
}

int repo_new(struct registry *g, const struct ref *ref, const struct pull_auth *auth,
             struct repo **ret, struct err *err)
{
    struct repo *r = mem_new(struct repo);
    int q;

    r->refs = 1;
    r->name = mem_strdup(ref->name);
    r->domain = mem_strdup(ref->domain);
    q = hosts_endpoints(g->hosts, ref->domain, ref->path, &r->endpoints, &r->n, err);
    if (q == 0) {
        r->creds = mem_array(r->n, sizeof *r->creds);
        q = choose_creds(r, auth, err);
    }
    if (q < 0) {
        repo_unref(r);
        return q;
    }
    *ret = r;
    return 0;
}

struct repo *repo_ref(struct repo *r)
{
    r->refs++;
    return r;
}

struct repo *repo_unref(struct repo *r)
{
    if (!r || --r->refs)
        return NULL;
    for (size_t i = 0; r->creds && i < r->n; i++)
        creds_deinit(&r->creds[i]);
    free(r->creds);
    endpoints_free(r->endpoints, r->n);
    free(r->name);
    free(r->domain);
    free(r);
    return NULL;
}

const char *repo_name(const struct repo *r) { return r->name; }

/* --- one GET */

static void get_free(struct reg_get *q)
{
    http_cancel(q->http);
    auth_cancel(q->auth);
    repo_unref(q->spec.repo);
    if (q->header)
        explicit_bzero(q->header, strlen(q->header));
    free(q->header);
    free(q->url);
    free(q->what);
    str_free(&q->body);
    free(q);
}

void reg_get_cancel(struct reg_get *q)
{
    if (q)
        get_free(q);
}

void reg_get_resume(struct reg_get *q)
{
    if (q->http)
        http_resume(q->http);
}

static void finish(struct reg_get *q, enum reg_outcome o, const struct err *err, int64_t wait_ms)
{
    q->spec.done(q->spec.arg, o, err, wait_ms);
    get_free(q);
}

static const struct endpoint *here(const struct reg_get *q)
{
    return q->at < q->spec.repo->n ? &q->spec.repo->endpoints[q->at] : NULL;
}

static const char *host_here(const struct reg_get *q)
{
    return here(q) ? here(q)->host : "its own address";
}

static int attempt(struct reg_get *q, struct err *err);

static void forget_answer(struct reg_get *q)
{
    free(q->header);
    q->header = NULL;
    free(q->url);
    q->url = NULL;
    q->redirects = 0;
    q->bare = q->answered = false;
}

/* This endpoint is no use: the next, or the end. */
static void next(struct reg_get *q, const struct err *err, bool unreachable, enum reg_outcome o,
                 int64_t wait_ms)
{
    struct repo *r = q->spec.repo;
    size_t n_urls = 0;

    while (q->spec.urls && q->spec.urls[n_urls])
        n_urls++;
    if (!q->worst_set || !unreachable) {
        q->worst = *err;
        q->worst_set = true;
        q->worst_outcome = o;
        q->worst_wait_ms = wait_ms;
    }
    q->all_unreachable &= unreachable;
    forget_answer(q);
    while (++q->at < r->n + n_urls) {
        struct err e = ERR_INIT;

        log_debug("op=pull image='%s' step=next-endpoint err='%s'", r->name, err->text);
        if (attempt(q, &e) == 0)
            return;
        q->worst = e;
        q->worst_outcome = REG_FATAL;
        q->all_unreachable = false;
    }
    if (q->all_unreachable) {
        err_note(&q->worst, "RegistryUnavailable");
        /* with any other code the word is not found at the start of the text */
        q->worst.grpc = GRPC_UNKNOWN;
        q->worst_outcome = REG_AGAIN;
    }
    finish(q, q->worst_outcome, &q->worst, q->worst_wait_ms);
}

/* {"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]} -> ": manifest unknown" */
static void describe_body(struct reg_get *q, char *buf, size_t size)
{
    json_t *j = q->body.len ? json_loadb(q->body.p, q->body.len, 0, NULL) : NULL;
    json_t *e = json_array_get(json_object_get(j, "errors"), 0);
    const char *m = json_string_value(json_object_get(e, "message"));
    const char *c = json_string_value(json_object_get(e, "code"));

    buf[0] = '\0';
    if (m || c)
        snprintf(buf, size, " (%.100s%s%.200s)", c ? c : "", c && m ? ": " : "", m ? m : "");
    json_decref(j);
}

static void refuse(struct reg_get *q, const struct http_result *res)
{
    struct repo *r = q->spec.repo;
    int status = res->head.status;
    struct err e = ERR_INIT;
    char why[400];

    describe_body(q, why, sizeof why);
    const char *kind = q->spec.kind == REG_MANIFEST ? "manifest" : "blob";

    if (status == 401 || status == 403) {
        err_set(&e, -EACCES,
                "%s: authorization failed: %s refuses access to %s %s: HTTP status %d%s", r->name,
                host_here(q), kind, q->what, status, why);
        next(q, &e, false, REG_FATAL, -1);
    } else if (status == 404) {
        err_rpc(&e, GRPC_NOT_FOUND, "%s: %s %s not found at %s%s", r->name, kind, q->what,
                host_here(q), why);
        next(q, &e, false, REG_FATAL, -1);
    } else if (status == 429) {
        err_set(&e, -EBUSY, "%s: %s says too many requests (HTTP status 429)%s", r->name,
                host_here(q), why);
        next(q, &e, false, REG_AGAIN, res->retry_after_ms >= 0 ? res->retry_after_ms : 1000);
    } else {
        err_set(&e, -EIO, "%s: %s %s at %s: HTTP status %d%s", r->name, kind, q->what, host_here(q),
                status, why);
        next(q, &e, status >= 502 && status <= 504, status >= 500 ? REG_AGAIN : REG_FATAL,
             res->retry_after_ms);
    }
}

static void on_auth(void *arg, const char *header, const struct err *err, enum http_fault fault)
{
    struct reg_get *q = arg;
    struct err e = ERR_INIT;

    q->auth = NULL;
    if (!header) {
        e = *err;
        err_note(&e, "%s", q->spec.repo->name);
        next(q, &e, fault == HTTP_UNREACHABLE, fault == HTTP_FINE ? REG_FATAL : REG_AGAIN, -1);
        return;
    }
    free(q->header);
    q->header = mem_strdup(header);
    if (attempt(q, &e) < 0)
        next(q, &e, false, REG_FATAL, -1);
}

/* 401: answer it once with what was cached gone, then give up on this endpoint. */
static void challenged(struct reg_get *q, const struct http_result *res)
{
    struct repo *r = q->spec.repo;
    const struct creds *c = &r->creds[q->at];
    struct challenge ch = { 0 };
    struct err e = ERR_INIT;
    const char *h;
    int s;

    auth_forget(q->reg->auth, here(q), here(q)->path, c);
    if (q->answered || (c->registry_token && q->authorized)) {
        q->http = NULL;
        refuse(q, res);
        return;
    }
    for (size_t i = 0; (h = http_header(q->http, "WWW-Authenticate", i)); i++)
        challenge_add(&ch, h);
    q->http = NULL;
    q->answered = true;
    free(q->header);
    q->header = NULL;
    s = auth_start(q->reg->auth, here(q), here(q)->path, c, &ch, on_auth, q, &q->header, &q->auth,
                   &e);
    challenge_deinit(&ch);
    if (s == 0 && q->header)
        s = attempt(q, &e);
    if (s < 0) {
        err_note(&e, "%s", r->name);
        next(q, &e, false, REG_FATAL, -1);
    }
}

static bool same_origin(const char *a, const char *b)
{
    size_t n = strcspn(a + strlen("https://"), "/?#") + strlen("https://");
    size_t m = strcspn(b + strlen("https://"), "/?#") + strlen("https://");

    return n == m && strncasecmp(a, b, n) == 0;
}

static char *endpoint_url(const struct reg_get *q)
{
    const struct endpoint *e = here(q);
    const char *kind = q->spec.kind == REG_MANIFEST ? "manifests" : "blobs";

    if (!e)
        return mem_strdup(q->spec.urls[q->at - q->spec.repo->n]);
    if (e->ns)
        return mem_printf("%s/%s/%s/%s?ns=%s", e->base, e->path, kind, q->what, e->ns);
    return mem_printf("%s/%s/%s/%s", e->base, e->path, kind, q->what);
}

static void redirected(struct reg_get *q, const struct http_result *res)
{
    auto_free char *first = endpoint_url(q), *host = NULL;
    struct err e = ERR_INIT;

    host = res->redirect ? url_host(res->redirect) : NULL;
    if (!host || ++q->redirects > REDIRECTS_MAX) {
        err_set(&e, -EIO, "%s: %s %s", q->spec.repo->name, host_here(q),
                host ? "redirects without end" : "redirects to nowhere usable");
        next(q, &e, false, REG_FATAL, -1);
        return;
    }
    /* What a tag means has no digest to check it by: it does not leave TLS. */
    if (q->spec.kind == REG_MANIFEST && str_starts(first, "https://") &&
        str_starts(res->redirect, "http://")) {
        err_set(&e, -EIO, "%s: %s redirects from https to http", q->spec.repo->name, host_here(q));
        next(q, &e, false, REG_FATAL, -1);
        return;
    }
    q->bare |= !same_origin(first, res->redirect);
    free(q->url);
    q->url = mem_strdup(res->redirect);
    q->http = NULL;
    if (attempt(q, &e) < 0)
        next(q, &e, false, REG_FATAL, -1);
}

static int on_head(void *arg, const struct http_head *h)
{
    struct reg_get *q = arg;
    int64_t total = h->length;

    q->streaming = false;
    if (h->status == 206 && q->spec.offset) {
        if (h->range_start != (int64_t)q->spec.offset)
            return -EPROTO;
        total = h->range_total;
        q->skip = 0;
    } else if (h->status == 200) {
        q->skip = q->spec.offset;
    } else {
        return 0;
    }
    q->streaming = true;
    return q->spec.head ? q->spec.head(q->spec.arg, http_header(q->http, "Content-Type", 0), total)
                        : 0;
}

static int on_data(void *arg, const void *p, size_t n)
{
    struct reg_get *q = arg;
    int r;

    if (!q->streaming) {
        if (q->body.len < ERROR_BODY_MAX)
            str_add(&q->body, p,
                    n < ERROR_BODY_MAX - q->body.len ? n : ERROR_BODY_MAX - q->body.len);
        return 0;
    }
    if (q->skip >= n) {
        q->skip -= n;
        return 0;
    }
    r = q->spec.data(q->spec.arg, (const char *)p + q->skip, n - q->skip);
    if (r != HTTP_PAUSE)
        q->skip = 0;
    q->delivered = true;
    return r;
}

static void on_done(void *arg, const struct http_result *res)
{
    struct reg_get *q = arg;
    struct repo *r = q->spec.repo;
    int status = res->head.status;
    struct err e = ERR_INIT;

    if (res->fault == HTTP_FINE && status == 401 && here(q) && !q->bare) {
        challenged(q, res);
        return;
    }
    q->http = NULL;
    if (res->fault == HTTP_FINE && q->streaming) {
        finish(q, REG_OK, NULL, -1);
    } else if (res->fault == HTTP_FINE && (status == 301 || status == 302 || status == 303 ||
                                           status == 307 || status == 308)) {
        redirected(q, res);
    } else if (res->fault == HTTP_FINE) {
        refuse(q, res);
    } else if (res->fault == HTTP_REFUSED) {
        finish(q, REG_FATAL, NULL, -1);
    } else {
        const char *kind = q->spec.kind == REG_MANIFEST ? "manifest" : "blob";

        err_set(&e, res->err->code, "%s: %s %s from %s: %s", r->name, kind, q->what, host_here(q),
                res->err->text);
        if (q->delivered)
            finish(q, REG_AGAIN, &e, -1);
        else
            next(q, &e, res->fault == HTTP_UNREACHABLE,
                 res->fault == HTTP_TLS ? REG_FATAL : REG_AGAIN, -1);
    }
}

static int attempt(struct reg_get *q, struct err *err)
{
    const struct endpoint *e = here(q);
    auto_free char *url = q->url ? mem_strdup(q->url) : endpoint_url(q), *host = url_host(url),
                   *token = NULL;
    const char *headers[4] = { NULL };
    char range[64];
    size_t n = 0;
    struct http_spec spec = {
        .url = url,
        .headers = headers,
        .buffer = q->spec.buffer,
        .stall_ms = q->spec.stall_ms,
        .head = on_head,
        .data = on_data,
        .done = on_done,
        .arg = q,
    };
    int r;

    if (!host)
        return err_set(err, -EINVAL, "%s: not an http or https URL: '%.200s'", q->spec.repo->name,
                       url);
    spec.config = e && !q->bare ? e->config : hosts_config_find(q->reg->hosts, host);
    headers[n++] = q->spec.kind == REG_MANIFEST ? "Accept: " MANIFEST_ACCEPT : "Accept: */*";
    if (q->spec.offset) {
        snprintf(range, sizeof range, "Range: bytes=%llu-", (unsigned long long)q->spec.offset);
        headers[n++] = range;
    }
    q->authorized = false;
    if (e && !q->bare) {
        const struct creds *c = &q->spec.repo->creds[q->at];
        const char *h = q->header;

        if (!h)
            h = auth_cached(q->reg->auth, e, e->path, c);
        if (!h && c->registry_token && !q->answered) {
            token = mem_printf("Authorization: Bearer %s", c->registry_token);
            h = strpbrk(token, "\r\n") ? NULL : token;
        }
        if (h) {
            headers[n++] = h;
            q->authorized = true;
        }
    }
    str_reset(&q->body);
    q->streaming = false;
    r = http_start(q->reg->http, &spec, &q->http, err);
    if (token)
        explicit_bzero(token, strlen(token));
    return r;
}

int reg_get_start(struct registry *g, const struct reg_get_spec *spec, struct reg_get **ret,
                  struct err *err)
{
    struct reg_get *q = mem_new(struct reg_get);
    int r;

    q->reg = g;
    q->spec = *spec;
    repo_ref(spec->repo);
    q->what = mem_strdup(spec->what);
    q->spec.what = q->what;
    q->all_unreachable = true;
    r = attempt(q, err);
    if (r < 0) {
        get_free(q);
        return r;
    }
    *ret = q;
    return 0;
}
