/* SPDX-License-Identifier: Apache-2.0 */
/* Opening: locks, the schema, which boot it is, what to do about damage; then who gets which
 * record. */
#include "store/priv.h"

#include "log.h"
#include "mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

enum {
    LAZY_MS = 1000,
    RETRY_MS = 1000,                 /* a run store that could not be written */
    ORPHAN_MS = 5000,                /* for the exec of a child that outlives a killed daemon */
    PREDECESSOR_MS = 30000,          /* for the last batch of a daemon that was killed */
    FLUSH_MS = 10000,
};

static const char boot_file[] = "/proc/sys/kernel/random/boot_id";

struct store {
    struct loop *loop;
    char *root, *state;
    int root_lock, state_lock;
    struct run_store *run;
    struct changes pending;          /* of this turn, or what could not be written yet */
    struct changes rows;             /* loaded, until store_each() has handed them out */
    struct durable *durable;
    struct ev_timer retry;
    bool run_bad;
};

struct durable *store_durable(struct store *s)
{
    return s->durable;
}

/* --- locks */

static int make_dirs(const char *path, struct err *err)
{
    auto_free char *p = mem_strdup(path);

    for (char *c = p + 1;; c++) {
        char was = *c;

        if (was && was != '/')
            continue;
        *c = '\0';
        if (mkdir(p, 0711) < 0 && errno != EEXIST)
            return err_sys(err, "directory '%s'", p);
        if (!was)
            return 0;
        *c = was;
    }
}

/* A daemon that was killed while it started a child: until that child's exec it has the lock too.
 */
static bool holder_is_dead(int fd)
{
    char pid[24] = "";

    return pread(fd, pid, sizeof pid - 1, 0) > 0 && atoi(pid) > 0 && kill(atoi(pid), 0) < 0 &&
           errno == ESRCH;
}

static int wait_lock(int fd)
{
    int64_t end = clock_mono_ms() + ORPHAN_MS;

    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        struct timespec ms2 = { 0, 2000000 };

        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (!holder_is_dead(fd) || clock_mono_ms() > end)
            return -EWOULDBLOCK;
        nanosleep(&ms2, NULL);
    }
    return 0;
}

static int busy(int fd, const char *dir, const char *lock, struct err *err)
{
    char pid[24] = "";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);

    pid[n > 0 ? strcspn(pid, "\n") : 0] = '\0';
    return err_set(err, -EBUSY, "'%s' is in use by another cricketd (pid %s; lock %s)", dir,
                   pid[0] ? pid : "unknown", lock);
}

/* The file says who has it, and in which boot; *ret_same_boot: the last holder was of this one. */
static int take_lock(const char *dir, const char *boot, int *ret, bool *ret_same_boot,
                     struct err *err)
{
    auto_free char *path = mem_printf("%s/lock", dir);
    auto_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char text[80] = "";

    if (fd < 0)
        return err_sys(err, "lock '%s'", path);
    int r = wait_lock(fd);
    if (r < 0)
        return r == -EWOULDBLOCK ? busy(fd, dir, path, err) : err_code(err, r, "lock '%s'", path);
    (void)!pread(fd, text, sizeof text - 1, 0);
    *ret_same_boot = strstr(text, boot) != NULL;
    int n = snprintf(text, sizeof text, "%d\n%s\n", (int)getpid(), boot);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
        return err_sys(err, "lock '%s'", path);
    *ret = take_fd(&fd);
    return 0;
}

/* The writer of a daemon that was killed may still be at its last batch. */
static int wait_writer(const char *root, struct err *err)
{
    auto_free char *path = mem_printf("%s/store.lock", root);
    auto_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int64_t end = clock_mono_ms() + PREDECESSOR_MS;

    if (fd < 0)
        return err_sys(err, "lock '%s'", path);
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        struct timespec ms20 = { 0, 20000000 };

        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_sys(err, "lock '%s'", path);
        if (clock_mono_ms() > end)
            return err_set(err, -EBUSY, "'%s': a cricket-worker still writes there after %d s",
                           root,
                           PREDECESSOR_MS / 1000);
        nanosleep(&ms20, NULL);
    }
    return 0;
}

/* --- loading */

static int read_boot_id(char buf[static 40], struct err *err)
{
    auto_fd int fd = open(boot_file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, 39);

    if (n <= 0)
        return err_sys(err, "%s", boot_file);
    buf[n] = '\0';
    buf[strcspn(buf, "\n")] = '\0';
    return 0;
}

static bool meta_is(struct changes *rows, const char *key, const char *want)
{
    const struct change *x = changes_find(rows, STORE_META, key);

    return x && x->len == strlen(want) && memcmp(x->val, want, x->len) == 0;
}

static int check_schema(struct changes *rows, const char *dir, struct err *err)
{
    const struct change *x = changes_find(rows, STORE_META, "schema");

    if (!x)
        return 0;
    long v = strtol(x->val, NULL, 10);
    if (v <= STORE_SCHEMA)
        return 0;
    return err_set(err, -EPROTO,
                   "store '%s' was written by a newer cricket (schema %ld, this one knows %d)",
                   dir, v, STORE_SCHEMA);
}

static int set_aside(const char *dir, const struct err *why, struct err *err)
{
    char stamp[32];
    time_t now = time(NULL);
    struct tm tm;
    auto_free char *to = NULL;

    gmtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &tm);
    for (int i = 0;; i++) {
        struct stat st;

        free(to);
        to = i ? mem_printf("%s.damaged-%s.%d", dir, stamp, i) : mem_printf("%s.damaged-%s", dir,
                                                                            stamp);
        if (lstat(to, &st) < 0)
            break;
    }
    if (rename(dir, to) < 0)
        return err_sys(err, "rename of the damaged store '%s'", dir);
    log_error("op=store dir='%s' err='%s', DAMAGED: set aside as '%s'; going on without it", dir,
              why->text,
              to);
    return 0;
}

/* The rows of one store; damaged ones are set aside. */
static int load(const char *worker, const char *dir, struct changes *rows, bool *ret_damaged,
                struct err *err)
{
    struct err why = ERR_INIT;
    enum load_state state;
    int r = store_load(worker, dir, rows, &state, &why);

    if (r < 0) {
        *err = why;
        return err_note(err, "store '%s'", dir);
    }
    *ret_damaged = state == LOAD_DAMAGED;
    return *ret_damaged ? set_aside(dir, &why, err) : check_schema(rows, dir, err);
}

static void remove_run_store(const char *dir)
{
    static const char *const files[] = { "data.mdb", "lock.mdb" };

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        auto_free char *path = mem_printf("%s/%s", dir, files[i]);

        (void)unlink(path);
    }
}

/* What the durable store says of sandboxes and containers is up to a second old when the daemon was
 * killed: the run store of the same boot is right, and the durable one follows it. */
static void reconcile(struct store *s, struct changes *run)
{
    struct change *x;

    list_each(x, &s->rows.all, struct change, all) {
        if ((x->table == STORE_SANDBOX || x->table == STORE_CONTAINER) &&
            !changes_find(run, x->table, x->key)) {
            durable_lazy(s->durable, true, x->table, x->key, NULL, 0);
            changes_drop(&s->rows, x);
        }
    }
    list_each(x, &run->all, struct change, all) {
        const struct change *old = changes_find(&s->rows, x->table, x->key);

        if (x->table == STORE_META || (old && old->len == x->len && memcmp(old->val, x->val,
                                                                           x->len) == 0))
            continue;
        durable_lazy(s->durable, false, x->table, x->key, x->val, x->len);
        changes_set(&s->rows, false, x->table, x->key, x->val, x->len);
    }
}

/* A new run store begins with what the durable one says. */
static void fill_run(struct store *s, const char *boot)
{
    char schema[] = { '0' + STORE_SCHEMA };
    struct change *x;

    changes_set(&s->pending, false, STORE_META, "boot", boot, strlen(boot));
    changes_set(&s->pending, false, STORE_META, "schema", schema, sizeof schema);
    list_each(x, &s->rows.all, struct change, all)
        if (x->table == STORE_SANDBOX || x->table == STORE_CONTAINER)
            changes_set(&s->pending, false, x->table, x->key, x->val, x->len);
}

/* There is no durable store, or no longer: what its copy says is the first that a new one gets. */
static void load_copy(struct store *s)
{
    auto_free char *path = mem_printf("%s/store.copy", s->root);
    struct err err = ERR_INIT;
    struct store_batch *b;
    struct change *x;

    if (store_load_copy(path, &s->rows, &err) < 0) {
        if (err.code != -ENOENT)
            log_error("op=store err='%s', going on without it", err.text);
        return;
    }
    b = store_batch_new(s);
    list_each(x, &s->rows.all, struct change, all)
        store_batch_put(b, x->table, x->key, x->val, x->len);
    log_warn("op=store copy='%s' records=%zu, the store is made again from it", path,
             s->rows.count);
    store_batch_commit(b, NULL, NULL);
}

static bool in_copy(unsigned table)
{
    return table == STORE_IMAGE || table == STORE_LAYER;
}

static bool same_rows(struct changes *a, struct changes *b)
{
    struct change *x;

    list_each(x, &a->all, struct change, all) {
        const struct change *y = changes_find(b, x->table, x->key);

        if (in_copy(x->table) && (!y || y->len != x->len || memcmp(y->val, x->val, x->len) != 0))
            return false;
    }
    return true;
}

/* A writer that was killed between commit and copy left an older copy: layers that it names are
 * deleted at this start, so it must not stay. A change of nothing has it written. */
static void check_copy(struct store *s)
{
    auto_free char *path = mem_printf("%s/store.copy", s->root);
    struct changes copy;
    struct store_batch *b;
    int r;

    changes_init(&copy);
    r = store_load_copy(path, &copy, NULL);
    if (r < 0 || !same_rows(&copy, &s->rows) || !same_rows(&s->rows, &copy)) {
        b = store_batch_new(s);
        store_batch_del(b, STORE_LAYER, "-");
        store_batch_commit(b, NULL, NULL);
    }
    changes_clear(&copy);
}

/* *ret_same_boot comes in as what the lock file says. */
static int open_stores(struct store *s, const struct store_opts *o, const char *boot,
                       bool *ret_same_boot, bool *ret_rebuilt, struct err *err)
{
    auto_free char *run_dir = mem_printf("%s/store", s->state);
    auto_free char *durable_dir = mem_printf("%s/store", s->root);
    struct changes run;
    bool run_damaged = false, usable;

    int r = load(o->worker, durable_dir, &s->rows, ret_rebuilt, err);
    if (r == 0 && s->rows.count)
        check_copy(s);
    else if (r == 0)                 /* no store: each has at least the record of its schema */
        load_copy(s);
    if (r < 0)
        return r;
    changes_init(&run);
    r = load(o->worker, run_dir, &run, &run_damaged, err);
    usable = r == 0 && meta_is(&run, "boot", boot);
    /* A run store lost to damage does not make it another boot: the supervisors still run, and the
     * durable records are a second old at worst. */
    *ret_same_boot = usable || (run_damaged && *ret_same_boot);
    if (usable) {
        reconcile(s, &run);
    } else if (r == 0) {
        remove_run_store(run_dir);
        fill_run(s, boot);
    }
    changes_clear(&run);
    if (r == 0)
        r = run_store_open(run_dir, &s->run, err);
    return r == 0 ? run_store_apply(s->run, &s->pending, err) : r;
}

/* --- the loop's side */

static void settle(void *arg)
{
    struct store *s = arg;
    struct err err = ERR_INIT;

    if (!s->pending.count || ev_is_active(&s->retry))
        return;
    if (run_store_apply(s->run, &s->pending, &err) == 0) {
        changes_clear(&s->pending);
        if (s->run_bad)
            log_info("op=store run='%s/store' healthy=true", s->state);
        s->run_bad = false;
        return;
    }
    if (!s->run_bad)
        log_error("op=store err='%s', trying again every %d ms", err.text, RETRY_MS);
    s->run_bad = true;
    ev_timer_set(&s->retry, RETRY_MS / 1000.0, 0);
    ev_timer_start(loop_ev(s->loop), &s->retry);
}

bool store_commit(struct store *s)
{
    settle(s);
    return !s->pending.count;
}

static void on_retry(struct ev_loop *ev, struct ev_timer *t, int events)
{
    (void)ev, (void)events;
    settle(t->data);
}

int store_open(struct loop *l, const struct store_opts *o, bool *ret_same_boot, bool *ret_rebuilt,
               struct store **ret, struct err *err)
{
    struct store *s = mem_new(struct store);
    bool same = false, rebuilt = false, ignored;
    char boot[40] = "";

    s->loop = l;
    s->root = mem_strdup(o->root);
    s->state = mem_strdup(o->state);
    s->root_lock = s->state_lock = -1;
    changes_init(&s->pending);
    changes_init(&s->rows);
    ev_timer_init(&s->retry, on_retry, 0, 0);
    s->retry.data = s;
    s->durable = durable_new(l, o->root, o->worker, o->lazy_ms > 0 ? o->lazy_ms : LAZY_MS);

    int r = strcmp(o->root, o->state) ? 0 : err_set(err, -EINVAL, "root and state are both '%s'",
                                                    o->root);
    if (r == 0)
        r = make_dirs(o->root, err);
    if (r == 0)
        r = make_dirs(o->state, err);
    if (r == 0)
        r = read_boot_id(boot, err);
    if (r == 0)
        r = take_lock(o->root, boot, &s->root_lock, &ignored, err);
    if (r == 0)
        r = take_lock(o->state, boot, &s->state_lock, &same, err);
    if (r == 0)
        r = wait_writer(o->root, err);
    if (r == 0)
        r = open_stores(s, o, boot, &same, &rebuilt, err);
    if (r < 0) {
        changes_clear(&s->pending);
        s->durable = durable_free(s->durable);       /* nothing of a failed start is written */
        store_close(s);
        return r;
    }
    changes_clear(&s->pending);
    loop_before_reply(l, settle, s);
    *ret_same_boot = same;
    *ret_rebuilt = rebuilt;
    *ret = s;
    return 0;
}

struct store *store_close(struct store *s)
{
    if (!s)
        return NULL;
    ev_timer_stop(loop_ev(s->loop), &s->retry);
    if (s->run)
        settle(s);
    if (s->durable)
        durable_flush(s->durable, FLUSH_MS);
    durable_free(s->durable);
    run_store_close(s->run);
    changes_clear(&s->pending);
    changes_clear(&s->rows);
    fd_close(s->root_lock);
    fd_close(s->state_lock);
    free(s->root);
    free(s->state);
    free(s);
    return NULL;
}

bool store_healthy(const struct store *s)
{
    return !s->run_bad && durable_healthy(s->durable);
}

int store_each(struct store *s, enum store_table t, store_row_fn fn, void *arg, struct err *err)
{
    struct change *x;

    if ((unsigned)t >= STORE_TABLES)
        return err_set(err, -EINVAL, "no table %d in the store", (int)t);
    list_each(x, &s->rows.all, struct change, all) {
        if (x->table == t) {
            fn(arg, x->key, x->val, x->len);
            changes_drop(&s->rows, x);
        }
    }
    return 0;
}

static void change(struct store *s, bool del, enum store_table t, const char *key, const void *val,
                   size_t len)
{
    assert(t == STORE_SANDBOX || t == STORE_CONTAINER);
    changes_set(&s->pending, del, t, key, val, len);
    durable_lazy(s->durable, del, t, key, val, len);
}

void store_put(struct store *s, enum store_table t, const char *key, const void *val, size_t len)
{
    change(s, false, t, key, val, len);
}

void store_del(struct store *s, enum store_table t, const char *key)
{
    change(s, true, t, key, NULL, 0);
}
