/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles are compiled once: an entry per (content of the profile, capabilities, worker program).
 *
 * The content is what counts, not the path: an edited profile is another one, two paths to one are
 * the same. The worker's own time stamp in the key makes an upgraded one start afresh. While a
 * compilation runs, all who ask for it wait for the same one. Who keeps the key finds the filter by
 * it when the profile is another by then, or gone, also after a restart of the daemon: there is a
 * file in <state>/seccomp/, on tmpfs, for each that some container has, and for no other. */
#include "proc/seccomp.h"

#include "list.h"
#include "log.h"
#include "mem.h"
#include "proc/caps.h"
#include "reactor/child.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    PROFILE_MAX = 1024 * 1024,
    KEY_LEN = 64,
    JSON_MAX = 2 * PROFILE_MAX,
    COMPILE_MS = 30000,
    ENTRIES_MAX = 256,               /* above: what was idle for IDLE_MS goes */
    IDLE_MS = 15 * 60 * 1000,
};

/* What the worker writes (src/pull/worker/seccomp.c), and what is in the files. */
struct head {
    uint32_t magic;
    uint32_t flags;
};
enum { HEAD_MAGIC = 0x31425343 };
enum { BPF_BYTES_MAX = BPF_MAXINSNS * sizeof(struct sock_filter) };

struct waiter {
    struct list in;
    seccomp_fn done;
    void *arg;
};

struct entry {
    struct list in;
    struct seccomp_cache *cache;
    char key[KEY_LEN + 1];
    char *name;                      /* for messages: the path, "RuntimeDefault" */
    void *bpf;                       /* f.bpf; NULL while it is being compiled */
    struct seccomp_filter f;
    bool saved;                      /* there is a good file */
    bool json;                       /* bpf is the text of linux.seccomp; in memory only */
    int64_t used_ms;
    struct run *run;
    struct list waiters;
};

struct seccomp_cache {
    struct loop *loop;
    char *dir, *worker, *default_profile;
    struct list entries;
    size_t n;
};

int seccomp_new(struct loop *l, const struct seccomp_opts *o, struct seccomp_cache **ret,
                struct err *err)
{
    struct seccomp_cache *c = mem_new(struct seccomp_cache);

    c->loop = l;
    c->dir = mem_printf("%s/seccomp", o->state);
    c->worker = mem_strdup(o->worker);
    c->default_profile = mem_strdup(o->default_profile ? o->default_profile : "");
    list_init(&c->entries);
    if (mkdir(c->dir, 0700) < 0 && errno != EEXIST) {
        int r = err_sys(err, "seccomp cache '%s'", c->dir);

        seccomp_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

static void entry_free(struct entry *e)
{
    struct waiter *w;

    if (e->run)
        run_cancel(e->run);
    list_each(w, &e->waiters, struct waiter, in) {
        list_del(&w->in);
        free(w);
    }
    list_del(&e->in);
    e->cache->n--;
    free(e->name);
    free(e->bpf);
    free(e);
}

struct seccomp_cache *seccomp_free(struct seccomp_cache *c)
{
    struct entry *e;

    if (!c)
        return NULL;
    list_each(e, &c->entries, struct entry, in)
        entry_free(e);
    free(c->dir);
    free(c->worker);
    free(c->default_profile);
    free(c);
    return NULL;
}

/* --- key */

static int read_profile(const char *path, struct str *s, struct err *err)
{
    auto_fd int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(err, "seccomp profile '%s'", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "seccomp profile '%s' is not a regular file", path);
    for (;;) {
        ssize_t n = read(fd, str_room(s, 65536), 65536);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "seccomp profile '%s'", path);
        if (n == 0)
            break;
        s->len += (size_t)n;
        s->p[s->len] = '\0';
        if (s->len > PROFILE_MAX)
            return err_set(err, -EFBIG, "seccomp profile '%s' is larger than %d bytes", path,
                           PROFILE_MAX);
    }
    if (!s->len)
        return err_set(err, -EINVAL, "seccomp profile '%s' is empty", path);
    return 0;
}

static int make_key(const struct seccomp_cache *c, const struct str *profile, uint64_t caps,
                    bool json, char key[KEY_LEN + 1], struct err *err)
{
    struct {
        uint64_t caps, size, json;
        int64_t sec, nsec;
    } about;
    unsigned char sum[32];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    struct stat st;
    bool fine;

    memset(&about, 0, sizeof about);
    about.caps = caps;
    about.json = json;
    if (stat(c->worker, &st) == 0) {
        about.size = (uint64_t)st.st_size;
        about.sec = st.st_mtim.tv_sec;
        about.nsec = st.st_mtim.tv_nsec;
    }
    fine = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
           EVP_DigestUpdate(md, &about, sizeof about) == 1 &&
           EVP_DigestUpdate(md, str_c(profile), profile->len) == 1 &&
           EVP_DigestFinal_ex(md, sum, NULL) == 1;
    EVP_MD_CTX_free(md);
    if (!fine)
        return err_set(err, -EIO, "seccomp: no SHA-256");
    for (size_t i = 0; i < sizeof sum; i++)
        snprintf(key + 2 * i, 3, "%02x", sum[i]);
    return 0;
}

static struct entry *lookup(struct seccomp_cache *c, const char *key)
{
    struct entry *e;

    list_each(e, &c->entries, struct entry, in)
        if (strcmp(e->key, key) == 0)
            return e;
    return NULL;
}

/* --- result */

/* Takes a compiled filter as the worker wrote it. */
static int adopt(struct entry *e, const char *p, size_t n)
{
    struct head h;

    if (e->json) {
        if (n == 0)
            return -EBADMSG;
        e->f.len = n;
        e->f.bpf = e->bpf = mem_dup(p, n);
        return 0;
    }
    if (n <= sizeof h || n - sizeof h > BPF_BYTES_MAX ||
        (n - sizeof h) % sizeof(struct sock_filter))
        return -EBADMSG;
    memcpy(&h, p, sizeof h);
    if (h.magic != HEAD_MAGIC ||
        h.flags & ~(SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW))
        return -EBADMSG;
    e->f.key = e->key;
    e->f.flags = h.flags;
    e->f.len = n - sizeof h;
    e->f.bpf = e->bpf = mem_dup(p + sizeof h, e->f.len);
    return 0;
}

static int load_file(struct entry *e)
{
    auto_free char *path = mem_printf("%s/%s", e->cache->dir, e->key);
    char buf[sizeof(struct head) + BPF_BYTES_MAX + 1];
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof buf);
    int r = n < 0 ? -errno : adopt(e, buf, (size_t)n);

    e->saved = r == 0;
    return r;
}

/* A missing or torn file only costs a compilation: a failure is not worth more than a word. */
static void save_file(struct entry *e)
{
    auto_free char *path = mem_printf("%s/%s", e->cache->dir, e->key),
                   *tmp = mem_printf("%s.tmp", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct head h = { HEAD_MAGIC, e->f.flags };
    struct iovec v[] = { { &h, sizeof h }, { e->bpf, e->f.len } };
    bool fine = fd >= 0 && writev(fd, v, 2) == (ssize_t)(sizeof h + e->f.len);

    (void)fd_close(fd);
    e->saved = fine && rename(tmp, path) == 0;
    if (!e->saved) {
        log_debug("op=seccomp file='%s' err='%s', ignoring", path, strerror(errno));
        (void)unlink(tmp);
    }
}

void seccomp_keep(struct seccomp_cache *c, const struct seccomp_filter *f)
{
    struct entry *e = lookup(c, f->key);

    if (e && !e->saved)
        save_file(e);
}

void seccomp_drop(struct seccomp_cache *c, const char *key)
{
    auto_free char *path = mem_printf("%s/%s", c->dir, key);
    struct entry *e = lookup(c, key);

    (void)unlink(path);
    if (e)
        e->saved = false;
}

void seccomp_collect(struct seccomp_cache *c, bool (*used)(void *ctx, const char *key), void *ctx)
{
    DIR *d = opendir(c->dir);
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.' && !used(ctx, e->d_name))
            seccomp_drop(c, e->d_name);
    if (d)
        closedir(d);
}

static void answer(struct entry *e, const struct err *err)
{
    /* a callback may ask again, or cancel the others */
    while (!list_empty(&e->waiters)) {
        struct waiter *w = list_first(&e->waiters, struct waiter, in);
        seccomp_fn done = w->done;
        void *arg = w->arg;

        list_del(&w->in);
        free(w);
        done(arg, err ? NULL : &e->f, err);
    }
}

static void on_compiled(void *arg, const struct run_result *r)
{
    struct entry *e = arg;
    struct err err = ERR_INIT;

    e->run = NULL;
    if (r->status == 0 && adopt(e, r->out, r->out_len) == 0) {
        answer(e, NULL);
        return;
    }
    if (r->timed_out)
        err_set(&err, -ETIMEDOUT, "seccomp profile '%s': not compiled after %d s", e->name,
                COMPILE_MS / 1000);
    else if (r->status == 1 && !str_empty(r->errout))
        err_rpc(&err, GRPC_INVALID_ARGUMENT, "seccomp profile '%s': %.*s", e->name,
                (int)strcspn(r->errout, "\n"), r->errout);
    else
        err_set(&err, -EIO, "seccomp profile '%s': the compiler ended with status %d", e->name,
                r->status);
    /* not to be found any more: who asks next starts afresh */
    list_del(&e->in);
    list_init(&e->in);
    answer(e, &err);
    entry_free(e);
}

static int compile(struct entry *e, const struct str *profile, uint64_t caps, struct err *err)
{
    struct child_opts o = CHILD_OPTS_INIT;
    auto_str struct str names = STR_INIT;

    for (int i = 0; i < 64; i++)
        if (caps >> i & 1 && caps_name(i))
            str_printf(&names, "%s%s", names.len ? "," : "", caps_name(i));
    char job[] = "seccomp", json[] = "json";
    char *argv[] = { e->cache->worker, job, str_take(&names), e->json ? json : NULL, NULL };
    o.path = e->cache->worker;
    o.argv = argv;
    int r =
        run_start(e->cache->loop, &o, str_c(profile), profile->len,
                  e->json ? JSON_MAX : sizeof(struct head) + BPF_BYTES_MAX, COMPILE_MS, on_compiled,
                  e, &e->run, err);
    free(argv[2]);
    return r;
}

static void forget_idle(struct seccomp_cache *c, int64_t now)
{
    struct entry *e;

    list_each(e, &c->entries, struct entry, in)
        if (e->bpf && now - e->used_ms > IDLE_MS)
            entry_free(e);
}

static struct entry *entry_new(struct seccomp_cache *c, const char *key, const char *name)
{
    struct entry *e = mem_new(struct entry);

    if (c->n >= ENTRIES_MAX)
        forget_idle(c, clock_mono_ms());
    e->cache = c;
    memcpy(e->key, key, sizeof e->key);
    e->name = mem_strdup(name);
    list_init(&e->waiters);
    list_add_tail(&c->entries, &e->in);
    c->n++;
    return e;
}

static void get(struct seccomp_cache *c, const char *profile, uint64_t caps, bool json,
                seccomp_fn done, void *arg)
{
    const char *path = profile ? profile : c->default_profile,
               *name = path[0] ? path : "RuntimeDefault";
    auto_str struct str text = STR_INIT;
    int64_t now = clock_mono_ms();
    char key[KEY_LEN + 1];
    struct err err = ERR_INIT;
    struct waiter *w;
    struct entry *e;

    if ((path[0] && read_profile(path, &text, &err) < 0) ||
        make_key(c, &text, caps, json, key, &err) < 0) {
        done(arg, NULL, &err);
        return;
    }
    e = lookup(c, key);
    if (!e) {
        e = entry_new(c, key, name);
        e->json = json;
        if ((json || load_file(e) < 0) && compile(e, &text, caps, &err) < 0) {
            err_note(&err, "seccomp profile '%s'", name);
            entry_free(e);
            done(arg, NULL, &err);
            return;
        }
    }
    e->used_ms = now;
    if (e->bpf) {
        done(arg, &e->f, NULL);
        return;
    }
    w = mem_new(struct waiter);
    w->done = done;
    w->arg = arg;
    list_add_tail(&e->waiters, &w->in);
}

void seccomp_get(struct seccomp_cache *c, const char *profile, uint64_t caps, seccomp_fn done,
                 void *arg)
{
    get(c, profile, caps, false, done, arg);
}

const struct seccomp_filter *seccomp_find(struct seccomp_cache *c, const char *key)
{
    struct entry *e = lookup(c, key);

    if (!e && strlen(key) == KEY_LEN) {
        e = entry_new(c, key, "");   /* never compiled: no message needs the name */
        if (load_file(e) < 0) {
            entry_free(e);
            return NULL;
        }
    }
    if (!e || !e->bpf)
        return NULL;
    e->used_ms = clock_mono_ms();
    return &e->f;
}

void seccomp_get_json(struct seccomp_cache *c, const char *profile, uint64_t caps, seccomp_fn done,
                      void *arg)
{
    get(c, profile, caps, true, done, arg);
}

void seccomp_cancel(struct seccomp_cache *c, void *arg)
{
    struct entry *e;
    struct waiter *w;

    /* the compilation goes on: the next one to ask will want it */
    list_each(e, &c->entries, struct entry, in) {
        struct list *it = e->waiters.next;

        while (it != &e->waiters) {
            w = container_of(it, struct waiter, in);
            it = it->next;
            if (w->arg == arg) {
                list_del(&w->in);
                free(w);
            }
        }
    }
}
