/* SPDX-License-Identifier: Apache-2.0 */
/* Order for a Bearer challenge: with a secret POST to the realm as oauth2 wants it, and where the
 * token server does not know that (400, 401, 404, 405) GET with Basic; without a secret GET.
 * Docker's and most others' servers know one of the two.
 *
 * The realm is named by the registry, which is trusted with the credentials anyway; but a registry
 * asked over TLS may not have them sent over plain HTTP. */
#include "pull/auth.h"

#include "list.h"
#include "log.h"
#include "mem.h"
#include "pull/digest.h"
#include "str.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

enum {
    TOKEN_REPLY_MAX = 1024 * 1024,
    TOKEN_DEFAULT_S = 60,            /* if the server names no life time */
    TOKEN_MARGIN_S = 5,              /* not used any more so shortly before the end */
    CACHE_MAX = 64,
    TOKEN_STALL_MS = 30 * 1000,
    BASIC_LIFE_S = 300,              /* send the password unasked for so long */
};

struct cached {
    struct list link;
    char *key, *header;
    int64_t until_ms;
};

struct auth {
    struct http *http;
    const struct hosts *hosts;
    struct list cache;               /* oldest first */
    size_t n_cache;
};

struct auth_req {
    struct auth *auth;
    struct http_req *http;
    auth_fn fn;
    void *arg;
    char *key, *realm, *service, *scope;
    struct creds creds;
    const struct hosts_config *config;
    bool posted;                     /* the oauth2 form was tried */
    struct str reply;
};

/* --- credentials */

static int decode_auth(const char *b64, char **user, char **password)
{
    size_t n = strlen(b64), pad = 0;
    auto_free unsigned char *out = NULL;
    auto_free char *in = NULL;
    char *colon;
    int len;

    while (n && isspace((unsigned char)b64[n - 1]))
        n--;
    if (!n || n > 64 * 1024)
        return -EINVAL;
    in = mem_alloc(n + 4);
    memcpy(in, b64, n);
    while (n % 4 || !n)              /* the padding may be missing */
        in[n++] = '=';
    for (size_t i = n; i && in[i - 1] == '='; i--)
        pad++;
    if (pad > 2)
        return -EINVAL;
    out = mem_alloc(n / 4 * 3 + 1);
    len = EVP_DecodeBlock(out, (unsigned char *)in, (int)n);
    if (len < 0 || (size_t)len < pad)
        return -EINVAL;
    len -= (int)pad;
    if (memchr(out, '\0', (size_t)len)) /* docker pads with zero bytes */
        len = (int)strlen((char *)out);
    out[len] = '\0';
    colon = strchr((char *)out, ':');
    if (!colon || colon == (char *)out)
        return -EINVAL;
    *user = mem_dup(out, (size_t)(colon - (char *)out));
    *password = mem_strdup(colon + 1);
    return 0;
}

int creds_set(struct creds *c, const char *user, const char *password, const char *auth,
              const char *identity_token, const char *registry_token, struct err *err)
{
    memset(c, 0, sizeof *c);
    if (!str_empty(user)) {
        c->user = mem_strdup(user);
        c->password = mem_strdup(password ? password : "");
    } else if (!str_empty(auth) && str_empty(identity_token)) {
        if (decode_auth(auth, &c->user, &c->password) < 0)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "auth: not base64 of user:password");
    }
    if (!str_empty(identity_token))
        c->identity_token = mem_strdup(identity_token);
    if (!str_empty(registry_token))
        c->registry_token = mem_strdup(registry_token);
    return 0;
}

static void secret_free(char **s)
{
    if (*s)
        explicit_bzero(*s, strlen(*s));
    free(*s);
    *s = NULL;
}

void creds_deinit(struct creds *c)
{
    secret_free(&c->user);
    secret_free(&c->password);
    secret_free(&c->identity_token);
    secret_free(&c->registry_token);
}

bool creds_empty(const struct creds *c)
{
    return !c->user && !c->identity_token && !c->registry_token;
}

static char *basic_header(const struct creds *c)
{
    auto_free char *plain = mem_printf("%s:%s", c->user, c->password);
    size_t n = strlen(plain);
    auto_free unsigned char *b64 = mem_alloc(n / 3 * 4 + 8);

    EVP_EncodeBlock(b64, (unsigned char *)plain, (int)n);
    return mem_printf("Authorization: Basic %s", b64);
}

/* --- challenges */

static bool is_token(char c)
{
    return isalnum((unsigned char)c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* Reads token or "quoted string"; returns where it ends. */
static const char *read_value(const char *s, struct str *out)
{
    if (*s != '"') {
        while (is_token(*s) || *s == '/' || *s == ':' || *s == '=')
            str_putc(out, *s++);
        return s;
    }
    for (s++; *s && *s != '"'; s++) {
        if (*s == '\\' && s[1])
            s++;
        str_putc(out, *s);
    }
    return *s ? s + 1 : s;
}

static void set_param(char **p, const struct str *v)
{
    if (!*p)
        *p = mem_strdup(str_c(v));
}

void challenge_add(struct challenge *c, const char *s)
{
    bool bearer = false;

    while (*s) {
        struct str word = STR_INIT, value = STR_INIT;

        while (*s == ' ' || *s == '\t' || *s == ',')
            s++;
        while (is_token(*s))
            str_putc(&word, *s++);
        if (!word.len) {             /* not a challenge: what follows means nothing */
            str_free(&word);
            return;
        }
        while (*s == ' ' || *s == '\t')
            s++;
        if (*s != '=') {             /* a scheme; otherwise a parameter of the last one */
            bearer = strcasecmp(str_c(&word), "Bearer") == 0;
            c->bearer |= bearer;
            c->basic |= strcasecmp(str_c(&word), "Basic") == 0;
        } else {
            s++;
            while (*s == ' ' || *s == '\t')
                s++;
            s = read_value(s, &value);
            if (bearer && strcasecmp(str_c(&word), "realm") == 0)
                set_param(&c->realm, &value);
            else if (bearer && strcasecmp(str_c(&word), "service") == 0)
                set_param(&c->service, &value);
            else if (bearer && strcasecmp(str_c(&word), "scope") == 0)
                set_param(&c->scope, &value);
            else if (bearer && strcasecmp(str_c(&word), "error") == 0)
                c->stale |= strcmp(str_c(&value), "invalid_token") == 0;
        }
        str_free(&word);
        str_free(&value);
    }
}

void challenge_deinit(struct challenge *c)
{
    free(c->realm);
    free(c->service);
    free(c->scope);
    memset(c, 0, sizeof *c);
}

/* --- the cache */

struct auth *auth_new(struct http *h, const struct hosts *hosts)
{
    struct auth *a = mem_new(struct auth);

    a->http = h;
    a->hosts = hosts;
    list_init(&a->cache);
    return a;
}

static void cached_free(struct auth *a, struct cached *c)
{
    list_del(&c->link);
    a->n_cache--;
    free(c->key);
    secret_free(&c->header);
    free(c);
}

struct auth *auth_free(struct auth *a)
{
    if (!a)
        return NULL;
    while (!list_empty(&a->cache))
        cached_free(a, list_first(&a->cache, struct cached, link));
    free(a);
    return NULL;
}

/* Credentials are part of the key, hashed: one user's token is not another's. */
static char *cache_key(const struct endpoint *e, const char *path, const struct creds *c)
{
    const char *parts[] = { c->user, c->password, c->identity_token, c->registry_token };
    struct digest *d = digest_new("sha256:");
    char hash[DIGEST_MAX];

    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        digest_add(d, parts[i] ? parts[i] : "", parts[i] ? strlen(parts[i]) + 1 : 1);
    digest_end(d, hash);
    digest_free(d);
    return mem_printf("%s %s %s", e->base, path, hash);
}

static struct cached *cache_find(struct auth *a, const char *key)
{
    int64_t now = clock_mono_ms();
    struct cached *c;

    list_each(c, &a->cache, struct cached, link) {
        if (c->until_ms <= now)
            cached_free(a, c);
        else if (strcmp(c->key, key) == 0)
            return c;
    }
    return NULL;
}

static void cache_put(struct auth *a, const char *key, const char *header, int64_t life_s)
{
    struct cached *c = cache_find(a, key);

    if (c)
        cached_free(a, c);
    if (life_s <= TOKEN_MARGIN_S)
        return;
    if (a->n_cache >= CACHE_MAX)
        cached_free(a, list_first(&a->cache, struct cached, link));
    c = mem_new(struct cached);
    c->key = mem_strdup(key);
    c->header = mem_strdup(header);
    c->until_ms = clock_mono_ms() + (life_s - TOKEN_MARGIN_S) * 1000;
    list_add_tail(&a->cache, &c->link);
    a->n_cache++;
}

const char *auth_cached(struct auth *a, const struct endpoint *e, const char *path,
                        const struct creds *c)
{
    auto_free char *key = cache_key(e, path, c);
    struct cached *x = cache_find(a, key);

    return x ? x->header : NULL;
}

void auth_forget(struct auth *a, const struct endpoint *e, const char *path, const struct creds *c)
{
    auto_free char *key = cache_key(e, path, c);
    struct cached *x = cache_find(a, key);

    if (x)
        cached_free(a, x);
}

/* --- asking a token server */

static void auth_req_free(struct auth_req *r)
{
    free(r->key);
    free(r->realm);
    free(r->service);
    free(r->scope);
    creds_deinit(&r->creds);
    if (r->reply.p)
        explicit_bzero(r->reply.p, r->reply.len);
    str_free(&r->reply);
    free(r);
}

void auth_cancel(struct auth_req *r)
{
    if (!r)
        return;
    http_cancel(r->http);
    auth_req_free(r);
}

static void finish(struct auth_req *r, const char *header, const struct err *err,
                   enum http_fault fault)
{
    r->fn(r->arg, header, err, fault);
    auth_req_free(r);
}

static void put_escaped(struct str *s, const char *v)
{
    for (; *v; v++) {
        if (isalnum((unsigned char)*v) || strchr("-._~", *v))
            str_putc(s, *v);
        else
            str_printf(s, "%%%02X", (unsigned char)*v);
    }
}

static void put_param(struct str *s, const char *name, const char *value)
{
    if (!value)
        return;
    str_printf(s, "%s%s=", s->len ? "&" : "", name);
    put_escaped(s, value);
}

static int ask(struct auth_req *r, struct err *err);

static int on_data(void *arg, const void *p, size_t n)
{
    struct auth_req *r = arg;

    if (r->reply.len + n > TOKEN_REPLY_MAX)
        return -EMSGSIZE;
    str_add(&r->reply, p, n);
    return 0;
}

/* The reply's token as a header; NULL if there is none. */
static char *read_token(const struct str *reply, int64_t *life_s)
{
    json_t *j = json_loadb(str_c(reply), reply->len, 0, NULL), *exp;
    const char *t = NULL;
    char *header = NULL;

    if (j)
        t = json_string_value(json_object_get(j, "token"));
    if (j && str_empty(t))
        t = json_string_value(json_object_get(j, "access_token"));
    if (!str_empty(t) && !strpbrk(t, "\r\n"))
        header = mem_printf("Authorization: Bearer %s", t);
    exp = json_object_get(j, "expires_in");
    *life_s = json_is_number(exp) ? (int64_t)json_number_value(exp) : TOKEN_DEFAULT_S;
    if (*life_s < 0 || *life_s > 24 * 3600)
        *life_s = TOKEN_DEFAULT_S;
    json_decref(j);
    return header;
}

static void on_done(void *arg, const struct http_result *res)
{
    struct auth_req *r = arg;
    struct err err = ERR_INIT;
    int status = res->head.status;

    r->http = NULL;
    if (res->fault == HTTP_FINE && status == 200) {
        int64_t life_s;
        char *header = read_token(&r->reply, &life_s);

        if (header) {
            cache_put(r->auth, r->key, header, life_s);
            finish(r, header, NULL, HTTP_FINE);
            secret_free(&header);
            return;
        }
        err_set(&err, -EBADMSG, "token server %s: no token in its reply", r->realm);
    } else if (res->fault == HTTP_FINE && r->posted && r->creds.user &&
               (status == 400 || status == 401 || status == 404 || status == 405)) {
        r->posted = false;
        if (ask(r, &err) == 0)
            return;
    } else if (res->fault == HTTP_FINE && (status == 401 || status == 403 || status == 400)) {
        err_set(&err, -EACCES, "authorization failed: token server %s says %d", r->realm, status);
    } else if (res->fault == HTTP_FINE) {
        err_set(&err, -EIO, "token server %s: HTTP status %d", r->realm, status);
        if (status >= 502 && status <= 504)
            finish(r, NULL, &err, HTTP_UNREACHABLE);
        else
            finish(r, NULL, &err, HTTP_FINE);
        return;
    } else {
        if (res->err)
            err_set(&err, res->err->code, "token server %s: %s", r->realm, res->err->text);
        else
            err_set(&err, -EMSGSIZE, "token server %s: reply longer than %d bytes", r->realm,
                    TOKEN_REPLY_MAX);
        finish(r, NULL, &err, res->fault);
        return;
    }
    finish(r, NULL, &err, HTTP_FINE);
}

static int ask(struct auth_req *r, struct err *err)
{
    auto_str struct str query = STR_INIT, form = STR_INIT;
    auto_free char *url = NULL, *basic = NULL;
    const char *headers[] = { "Accept: application/json", NULL, NULL };
    struct http_spec spec = {
        .headers = headers,
        .stall_ms = TOKEN_STALL_MS,
        .config = r->config,
        .data = on_data,
        .done = on_done,
        .arg = r,
    };
    int q;

    str_reset(&r->reply);
    put_param(&query, "service", r->service);
    put_param(&query, "scope", r->scope);
    if (r->posted) {
        str_puts(&form, str_c(&query));
        put_param(&form, "client_id", "cricket");
        if (r->creds.identity_token) {
            put_param(&form, "grant_type", "refresh_token");
            put_param(&form, "refresh_token", r->creds.identity_token);
        } else {
            put_param(&form, "grant_type", "password");
            put_param(&form, "username", r->creds.user);
            put_param(&form, "password", r->creds.password);
        }
        spec.form = str_c(&form);
        spec.url = r->realm;
    } else {
        if (r->creds.user) {
            basic = basic_header(&r->creds);
            headers[1] = basic;
        }
        url = mem_printf("%s%c%s", r->realm, strchr(r->realm, '?') ? '&' : '?', str_c(&query));
        spec.url = url;
    }
    q = http_start(r->auth->http, &spec, &r->http, err);
    secret_free(&basic);
    if (form.p)
        explicit_bzero(form.p, form.len);
    return q;
}

int auth_start(struct auth *a, const struct endpoint *e, const char *path, const struct creds *c,
               const struct challenge *ch, auth_fn fn, void *arg, char **ret_header,
               struct auth_req **ret, struct err *err)
{
    auto_free char *host = NULL;
    struct auth_req *r;
    int q;

    if (!ch->bearer && !ch->basic)
        return err_set(
            err, -EACCES,
            "authorization failed: %s asks for a scheme that is neither Basic nor Bearer", e->host);
    if (!ch->bearer) {
        auto_free char *key = cache_key(e, path, c);

        if (!c->user)
            return err_set(err, -EACCES,
                           "authorization failed: %s wants a user name and a password", e->host);
        *ret_header = basic_header(c);
        cache_put(a, key, *ret_header, BASIC_LIFE_S);
        return 0;
    }
    host = ch->realm ? url_host(ch->realm) : NULL;
    if (!host)
        return err_set(err, -EACCES, "authorization failed: %s names no usable token server",
                       e->host);
    if (e->tls && str_starts(ch->realm, "http://") && !creds_empty(c))
        return err_set(err, -EACCES,
                       "authorization failed: %s wants the credentials sent over plain HTTP",
                       e->host);
    r = mem_new(struct auth_req);
    r->auth = a;
    r->fn = fn;
    r->arg = arg;
    r->key = cache_key(e, path, c);
    r->realm = mem_strdup(ch->realm);
    r->service = mem_strdup(ch->service);
    r->scope = ch->scope ? mem_strdup(ch->scope) : mem_printf("repository:%s:pull", path);
    r->creds.user = mem_strdup(c->user);
    r->creds.password = mem_strdup(c->password);
    r->creds.identity_token = mem_strdup(c->identity_token);
    r->config = hosts_config_find(a->hosts, host);
    if (!r->config && strcmp(host, e->host) == 0)
        r->config = e->config;
    r->posted = c->user || c->identity_token;
    q = ask(r, err);
    if (q < 0) {
        auth_req_free(r);
        return q;
    }
    *ret = r;
    return 0;
}
