/* SPDX-License-Identifier: Apache-2.0 */
/* reg_fetch(): a manifest or a config, whole in memory, hashed as it arrives, verified, tried again
 * when the connection breaks or the registry asks us to wait. */
#include "pull/registry.h"

#include "log.h"
#include "mem.h"
#include "pull/digest.h"
#include "str.h"

#include <errno.h>
#include <string.h>

enum {
    TRIES = 4,
    RETRY_MS = 300,                  /* doubled each time */
    WAIT_MAX_MS = 60 * 1000,         /* a longer Retry-After is told to the client instead */
};

struct reg_fetch {
    struct registry *reg;
    struct loop *loop;
    struct repo *repo;
    enum reg_kind kind;
    char *what, *digest, *type;
    size_t max;
    int64_t stall_ms;
    reg_fetch_fn fn;
    void *arg;
    struct reg_get *get;
    struct digest *hash;
    struct str doc;
    struct err err;                  /* why we refused the bytes */
    struct ev_timer retry;
    int tries;
};

static void fetch_free(struct reg_fetch *f)
{
    reg_get_cancel(f->get);
    ev_timer_stop(loop_ev(f->loop), &f->retry);
    digest_free(f->hash);
    str_free(&f->doc);
    repo_unref(f->repo);
    free(f->what);
    free(f->digest);
    free(f->type);
    free(f);
}

void reg_fetch_cancel(struct reg_fetch *f)
{
    if (f)
        fetch_free(f);
}

static void fail(struct reg_fetch *f, const struct err *err)
{
    f->fn(f->arg, NULL, 0, NULL, NULL, err);
    fetch_free(f);
}

static int on_head(void *arg, const char *type, int64_t total)
{
    struct reg_fetch *f = arg;

    str_reset(&f->doc);
    digest_free(f->hash);
    f->hash = digest_new(f->digest ? f->digest : "sha256:");
    free(f->type);
    f->type = NULL;
    if (type) {
        f->type = mem_strdup(type);
        f->type[strcspn(f->type, "; \t")] = '\0';
    }
    if (total > (int64_t)f->max)
        return err_set(&f->err, -EMSGSIZE, "%s: %s: %lld bytes, more than %zu", repo_name(f->repo),
                       f->what, (long long)total, f->max);
    return 0;
}

static int on_data(void *arg, const void *p, size_t n)
{
    struct reg_fetch *f = arg;

    if (f->doc.len + n > f->max)
        return err_set(&f->err, -EMSGSIZE, "%s: %s: more than %zu bytes", repo_name(f->repo),
                       f->what, f->max);
    digest_add(f->hash, p, n);
    str_add(&f->doc, p, n);
    return 0;
}

static void on_done(void *arg, enum reg_outcome o, const struct err *err, int64_t wait_ms)
{
    struct reg_fetch *f = arg;
    char got[DIGEST_MAX];

    f->get = NULL;
    if (o == REG_AGAIN &&
        strncmp(err->text, "RegistryUnavailable", strlen("RegistryUnavailable")) != 0 &&
        ++f->tries < TRIES && wait_ms <= WAIT_MAX_MS) {
        int64_t ms = wait_ms > 0 ? wait_ms : RETRY_MS << f->tries;

        log_debug("op=pull image='%s' step=retry wait_ms=%lld err='%s'", repo_name(f->repo),
                  (long long)ms, err->text);
        ev_timer_set(&f->retry, (double)ms / 1000, 0);
        ev_timer_start(loop_ev(f->loop), &f->retry);
        return;
    }
    if (o != REG_OK) {
        fail(f, err ? err : &f->err);
        return;
    }
    if (!f->hash)                    /* not one byte came */
        f->hash = digest_new(f->digest ? f->digest : "sha256:");
    digest_end(f->hash, got);
    f->hash = digest_free(f->hash);
    if (f->digest && strcmp(got, f->digest) != 0) {
        err_set(&f->err, -EBADMSG, "%s: %s: wrong content: its digest is %s", repo_name(f->repo),
                f->what, got);
        fail(f, &f->err);
        return;
    }
    f->fn(f->arg, str_c(&f->doc), f->doc.len, f->type, got, NULL);
    fetch_free(f);
}

static int start(struct reg_fetch *f, struct err *err)
{
    struct reg_get_spec spec = {
        .repo = f->repo,
        .kind = f->kind,
        .what = f->what,
        .stall_ms = f->stall_ms,
        .head = on_head,
        .data = on_data,
        .done = on_done,
        .arg = f,
    };

    return reg_get_start(f->reg, &spec, &f->get, err);
}

static void on_retry(struct ev_loop *ev, struct ev_timer *w, int revents)
{
    struct reg_fetch *f = w->data;

    (void)ev;
    (void)revents;
    if (start(f, &f->err) < 0)
        fail(f, &f->err);
}

int reg_fetch_start(struct registry *g, struct loop *l, struct repo *repo, enum reg_kind kind,
                    const char *what, const char *digest, size_t max, int64_t stall_ms,
                    reg_fetch_fn fn, void *arg, struct reg_fetch **ret, struct err *err)
{
    struct reg_fetch *f = mem_new(struct reg_fetch);
    int r;

    f->reg = g;
    f->loop = l;
    f->repo = repo_ref(repo);
    f->kind = kind;
    f->what = mem_strdup(what);
    f->digest = mem_strdup(digest);
    f->max = max;
    f->stall_ms = stall_ms;
    f->fn = fn;
    f->arg = arg;
    ev_init(&f->retry, on_retry);
    f->retry.data = f;
    r = start(f, err);
    if (r < 0) {
        fetch_free(f);
        return r;
    }
    *ret = f;
    return 0;
}
