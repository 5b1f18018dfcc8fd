/* SPDX-License-Identifier: Apache-2.0 */
/* libcurl on libev. curl says which sockets it waits for and when it wants to be woken; each of
 * these is one watcher. Results are collected after curl has returned, never from inside its
 * callbacks, so that `done` may start and cancel requests freely.
 *
 * Resolving a name does not block: Debian's libcurl has the threaded resolver (checked when it is
 * loaded), and QUICK_EXIT keeps curl from waiting for such a thread when a request is dropped.
 * HTTP/1.1 only: with HTTP/2 a paused layer would be buffered by curl, many megabytes each, instead
 * of by the sender. An idle client owns nothing: connections and TLS caches go after a while. */
#include "pull/http.h"

#include "config.h"
#include "list.h"
#include "log.h"
#include "mem.h"
#include "pull/curl_lib.h"
#include "str.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

enum {
    IDLE_MS = 5 * 1000,              /* keep connections for so long after the last request */
    CONNECT_MS = 30 * 1000,
    CONNECTIONS_KEPT = 8,
    HTTP_REQ_MAGIC = 0x68747271,
};

struct http_sock {
    struct ev_io io;
    struct list link;
};

struct http {
    struct loop *loop;
    struct ev_loop *ev;
    CURLM *multi;                    /* NULL while idle */
    struct ev_timer timer, idle;
    struct list reqs, socks;
    bool inside;                     /* curl is on the stack */
};

struct http_req {
    unsigned magic;
    struct http *http;
    struct list link;
    CURL *easy;
    struct curl_slist *headers;
    struct http_spec spec;
    struct http_head head;
    struct ev_timer stall;
    int64_t last_ms;                 /* when the last byte came or the pause ended */
    bool paused, head_seen, refused, stalled;
    char errbuf[CURL_ERROR_SIZE];
};

static void collect(struct http *h);

static void on_socket(struct ev_loop *ev, struct ev_io *w, int revents)
{
    struct http *h = w->data;
    int mask =
        (revents & EV_READ ? CURL_CSELECT_IN : 0) | (revents & EV_WRITE ? CURL_CSELECT_OUT : 0);
    int running;

    (void)ev;
    loop_name(h->loop, "http");
    h->inside = true;
    curl_multi_socket_action(h->multi, w->fd, mask, &running);   /* may free w */
    h->inside = false;
    collect(h);
}

static void on_timer(struct ev_loop *ev, struct ev_timer *w, int revents)
{
    struct http *h = w->data;
    int running;

    (void)ev;
    (void)revents;
    if (!h->multi)
        return;
    loop_name(h->loop, "http");
    h->inside = true;
    curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    h->inside = false;
    collect(h);
}

static int socket_cb(CURL *easy, curl_socket_t fd, int what, void *arg, void *sockp)
{
    struct http *h = arg;
    struct http_sock *s = sockp;
    int events = (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            ev_io_stop(h->ev, &s->io);
            list_del(&s->link);
            free(s);
            curl_multi_assign(h->multi, fd, NULL);
        }
        return 0;
    }
    if (!s) {
        s = mem_new(struct http_sock);
        list_add_tail(&h->socks, &s->link);
        ev_init(&s->io, on_socket);
        s->io.data = h;
        curl_multi_assign(h->multi, fd, s);
    }
    ev_io_stop(h->ev, &s->io);
    ev_io_set(&s->io, fd, events);
    ev_io_start(h->ev, &s->io);
    return 0;
}

static int timer_cb(CURLM *m, long ms, void *arg)
{
    struct http *h = arg;

    (void)m;
    ev_timer_stop(h->ev, &h->timer);
    if (ms >= 0) {
        ev_now_update(h->ev);        /* curl counts from now, libev from the start of the turn */
        ev_timer_set(&h->timer, (double)ms / 1000, 0);
        ev_timer_start(h->ev, &h->timer);
    }
    return 0;
}

static void close_multi(struct http *h)
{
    if (!h->multi)
        return;
    ev_timer_stop(h->ev, &h->timer);
    curl_multi_cleanup(h->multi);    /* closes kept connections: socket_cb with REMOVE */
    h->multi = NULL;
    assert(list_empty(&h->socks));
}

static void on_idle(struct ev_loop *ev, struct ev_timer *w, int revents)
{
    struct http *h = w->data;

    (void)ev;
    (void)revents;
    if (list_empty(&h->reqs)) {
        close_multi(h);
        mem_trim();
    }
}

struct http *http_new(struct loop *l)
{
    struct http *h;

    h = mem_new(struct http);
    h->loop = l;
    h->ev = loop_ev(l);
    list_init(&h->reqs);
    list_init(&h->socks);
    ev_init(&h->timer, on_timer);
    h->timer.data = h;
    ev_init(&h->idle, on_idle);
    h->idle.data = h;
    return h;
}

struct http *http_free(struct http *h)
{
    if (!h)
        return NULL;
    while (!list_empty(&h->reqs))
        http_cancel(list_first(&h->reqs, struct http_req, link));
    close_multi(h);
    ev_timer_stop(h->ev, &h->idle);
    free(h);
    return NULL;
}

static void req_free(struct http_req *r)
{
    struct http *h = r->http;

    ev_timer_stop(h->ev, &r->stall);
    list_del(&r->link);
    if (r->easy) {
        curl_multi_remove_handle(h->multi, r->easy);
        curl_easy_cleanup(r->easy);
    }
    curl_slist_free_all(r->headers);
    r->magic = 0;
    free(r);
    if (list_empty(&h->reqs)) {
        ev_timer_stop(h->ev, &h->idle);
        ev_timer_set(&h->idle, IDLE_MS / 1000.0, 0);
        ev_timer_start(h->ev, &h->idle);
    }
}

const char *http_header(struct http_req *r, const char *name, size_t index)
{
    struct curl_header *h;

    if (!r->easy || curl_easy_header(r->easy, name, index, CURLH_HEADER, -1, &h) != CURLHE_OK)
        return NULL;
    return h->value;
}

/* "bytes 100-999/1000" */
static void parse_range(struct http_req *r)
{
    const char *s = http_header(r, "Content-Range", 0);
    char *end;

    r->head.range_start = r->head.range_total = -1;
    if (!s || !str_starts(s, "bytes ") || s[6] < '0' || s[6] > '9')
        return;
    r->head.range_start = strtoll(s + 6, &end, 10);
    s = strchr(end, '/');
    if (s && s[1] >= '0' && s[1] <= '9')
        r->head.range_total = strtoll(s + 1, NULL, 10);
}

/* Called before the first byte of body and, for a response without one, at the end. */
static bool see_head(struct http_req *r)
{
    long status = 0;
    curl_off_t len = -1;

    if (r->head_seen)
        return !r->refused;
    r->head_seen = true;
    curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(r->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &len);
    r->head.status = (int)status;
    r->head.length = len;
    parse_range(r);
    if (status && r->spec.head && r->spec.head(r->spec.arg, &r->head) < 0)
        r->refused = true;
    return !r->refused;
}

static size_t data_cb(char *p, size_t size, size_t n, void *arg)
{
    struct http_req *r = arg;
    int q;

    assert(r->magic == HTTP_REQ_MAGIC);
    n *= size;
    r->last_ms = clock_mono_ms();
    if (!see_head(r))
        return n + 1;                /* anything but n and PAUSE ends the transfer */
    q = r->spec.data(r->spec.arg, p, n);
    if (q < 0) {
        r->refused = true;
        return n + 1;
    }
    r->paused = q == HTTP_PAUSE;
    return r->paused ? CURL_WRITEFUNC_PAUSE : n;
}

void http_resume(struct http_req *r)
{
    bool inside = r->http->inside;

    if (!r->paused)
        return;
    r->paused = false;
    r->last_ms = clock_mono_ms();
    r->http->inside = true;
    curl_easy_pause(r->easy, CURLPAUSE_CONT);    /* results are collected when its timer fires */
    r->http->inside = inside;
}

void http_cancel(struct http_req *r)
{
    if (!r)
        return;
    assert(!r->http->inside);
    req_free(r);
}

static int64_t retry_after(struct http_req *r)
{
    const char *s = http_header(r, "Retry-After", 0);
    time_t t;

    if (!s)
        return -1;
    if (*s >= '0' && *s <= '9' && strlen(s) < 10 && strspn(s, "0123456789") == strlen(s))
        return strtoll(s, NULL, 10) * 1000;
    t = curl_getdate(s, NULL);
    if (t < 0)
        return -1;
    return t > time(NULL) ? (int64_t)(t - time(NULL)) * 1000 : 0;
}

static enum http_fault fault_of(const struct http_req *r, CURLcode c)
{
    if (r->refused)
        return HTTP_REFUSED;
    if (r->stalled)
        return HTTP_STALLED;
    switch (c) {
    case CURLE_OK:
        return HTTP_FINE;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
        return HTTP_UNREACHABLE;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CIPHER:
    case CURLE_USE_SSL_FAILED:
        return HTTP_TLS;
    default:
        return HTTP_DROPPED;
    }
}

static void finish(struct http_req *r, CURLcode c)
{
    struct http_result res = { .retry_after_ms = -1 };
    struct err err = ERR_INIT;
    char *redirect = NULL;

    see_head(r);
    res.fault = fault_of(r, c);
    res.head = r->head;
    if (res.fault == HTTP_STALLED)
        err_set(&err, -ETIMEDOUT, "no byte for %lld ms", (long long)r->spec.stall_ms);
    else if (res.fault != HTTP_FINE && res.fault != HTTP_REFUSED)
        err_set(&err, -EIO, "%s", r->errbuf[0] ? r->errbuf : curl_easy_strerror(c));
    if (err.code)
        res.err = &err;
    curl_easy_getinfo(r->easy, CURLINFO_REDIRECT_URL, &redirect);
    res.redirect = redirect;
    res.retry_after_ms = retry_after(r);
    r->spec.done(r->spec.arg, &res);
    req_free(r);
}

/* Hands out what curl has finished. The callbacks may start and cancel other requests. */
static void collect(struct http *h)
{
    CURLMsg *m;
    int left;

    while (h->multi && (m = curl_multi_info_read(h->multi, &left))) {
        struct http_req *r = NULL;

        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &r);
        assert(r && r->magic == HTTP_REQ_MAGIC);
        finish(r, m->data.result);
    }
}

static void on_stall(struct ev_loop *ev, struct ev_timer *w, int revents)
{
    struct http_req *r = w->data;
    int64_t idle = clock_mono_ms() - r->last_ms;

    (void)revents;
    if (r->paused)
        idle = 0;
    if (idle >= r->spec.stall_ms) {
        r->stalled = true;
        finish(r, CURLE_OPERATION_TIMEDOUT);
        return;
    }
    ev_timer_stop(ev, w);
    ev_timer_set(w, (double)(r->spec.stall_ms - idle) / 1000, 0);
    ev_timer_start(ev, w);
}

static void set_tls(CURL *e, const struct hosts_config *c, const char *host)
{
    /* The system's certificates by their hashed directory, where libcurl was built with one: only
     * those needed are read, while the bundle file would be parsed whole, on the loop. A host's own
     * CA file adds to them. */
    if ((c && c->ca_file) || curl_version_info(CURLVERSION_NOW)->capath)
        curl_easy_setopt(e, CURLOPT_CAINFO, c && c->ca_file ? c->ca_file : NULL);
    curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (c && c->cert_file)
        curl_easy_setopt(e, CURLOPT_SSLCERT, c->cert_file);
    if (c && (c->key_file || c->cert_file))
        curl_easy_setopt(e, CURLOPT_SSLKEY, c->key_file ? c->key_file : c->cert_file);
    if (c && c->insecure_skip_verify) {
        curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (host_is_loopback(host))
        curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
}

static int open_multi(struct http *h, struct err *err)
{
    int r;

    if (h->multi)
        return 0;
    loop_name(h->loop, "loading libcurl");
    r = curl_lib_load(err);
    if (r < 0)
        return r;
    h->multi = curl_multi_init();
    if (!h->multi)
        return err_set(err, -ENOMEM, "curl_multi_init failed");
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, socket_cb);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, timer_cb);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_KEPT);
    return 0;
}

int http_start(struct http *h, const struct http_spec *spec, struct http_req **ret, struct err *err)
{
    auto_free char *host = url_host(spec->url);
    struct http_req *r;
    CURL *e;
    int q;

    if (!host)
        return err_set(err, -EINVAL, "not an http or https URL: '%.200s'", spec->url);
    q = open_multi(h, err);
    if (q < 0)
        return q;
    e = curl_easy_init();
    if (!e)
        return err_set(err, -ENOMEM, "curl_easy_init failed");
    r = mem_new(struct http_req);
    r->magic = HTTP_REQ_MAGIC;
    r->http = h;
    r->spec = *spec;
    r->easy = e;
    r->head.length = r->head.range_start = r->head.range_total = -1;
    list_add_tail(&h->reqs, &r->link);
    ev_timer_stop(h->ev, &h->idle);
    ev_init(&r->stall, on_stall);
    r->stall.data = r;

    for (size_t i = 0; spec->headers && spec->headers[i]; i++)
        r->headers = curl_slist_append(r->headers, spec->headers[i]);
    curl_easy_setopt(e, CURLOPT_URL, spec->url);
    curl_easy_setopt(e, CURLOPT_PRIVATE, r);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, r->errbuf);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, data_cb);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, r->headers);
    curl_easy_setopt(e, CURLOPT_USERAGENT, PACKAGE_NAME "/" PACKAGE_VERSION);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    if (spec->buffer)
        curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long)spec->buffer);
    if (spec->head_only)
        curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
    if (spec->form)
        curl_easy_setopt(e, CURLOPT_COPYPOSTFIELDS, spec->form);
    set_tls(e, spec->config, host);

    r->last_ms = clock_mono_ms();
    if (spec->stall_ms > 0) {
        ev_timer_set(&r->stall, (double)spec->stall_ms / 1000, 0);
        ev_timer_start(h->ev, &r->stall);
    }
    if (curl_multi_add_handle(h->multi, e) != CURLM_OK) {
        curl_easy_cleanup(e);
        r->easy = NULL;
        req_free(r);
        return err_set(err, -EIO, "curl_multi_add_handle failed");
    }
    /* only ours may be used later: these belong to the caller */
    r->spec.url = r->spec.form = NULL;
    r->spec.headers = NULL;
    *ret = r;
    return 0;
}
