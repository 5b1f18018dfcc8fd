/* SPDX-License-Identifier: Apache-2.0 */
/* cricket-worker store: the only process that maps the durable store, so that what waits for a disk
 * or dies of a damaged page is never the daemon.
 *
 *   store write ROOT     batches from descriptor 0, each one LMDB transaction with full sync,
 *                        acknowledged on the same descriptor after the commit. Ends when idle or
 *                        when the daemon is gone; a batch that arrived in full is written even
 *                        then.
 *   store read DIR       all records of a store to descriptor 1, then END. A store that LMDB or a
 *                        checksum calls damaged: FAIL with -EBADMSG. One that makes LMDB crash: no
 *                        END, the daemon sees the signal.
 *
 * ROOT/store.copy has the image and layer records once more, in the form of `store read`: written
 * after each commit that changes them and before its acknowledgement, so it never names a layer
 * that was deleted. From it a store that had to be set aside is made again.
 *
 * ROOT/store.lock is held while writing, so a daemon that starts can wait for its predecessor's
 * last batch. A new store is made as store.new and renamed when it is durable: half-made stores are
 * never seen. */
#include "pull/worker/worker.h"

#include "err.h"
#include "mem.h"
#include "str.h"
#include "store_msg.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    IDLE_MS = 5000,
    MAP_FIRST = 16 * 1024 * 1024,
    ROWS_CHUNK = 64 * 1024,
    COPIED = 1 << 3 | 1 << 4,        /* STORE_IMAGE, STORE_LAYER */
};
/* Some thousand images; a bound against a loop of our own. */
static const size_t map_max = (size_t)1 << 30;

static int db_fail(struct err *err, int rc, const char *what, const char *path)
{
    bool damaged = rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND || rc == MDB_INVALID ||
                   rc == MDB_VERSION_MISMATCH || rc == MDB_PANIC || rc == MDB_INCOMPATIBLE;

    return err_set(err, damaged ? -EBADMSG : rc > 0 ? -rc : -EIO, "%s '%s': %s", what, path,
                   mdb_strerror(rc));
}

static int db_open(const char *dir, unsigned flags, MDB_env **ret, struct err *err)
{
    auto_free char *data = mem_printf("%s/data.mdb", dir);
    size_t size = MAP_FIRST;
    struct stat st;
    MDB_env *env;

    if (stat(data, &st) == 0)
        while (size < (size_t)st.st_size && size < map_max)
            size *= 2;
    int rc = mdb_env_create(&env);
    if (rc)
        return db_fail(err, rc, "store", dir);
    rc = mdb_env_set_mapsize(env, size);
    if (!rc)
        rc = mdb_env_open(env, dir, flags | MDB_NOLOCK | MDB_NOTLS, 0600);
    if (rc) {
        mdb_env_close(env);
        return db_fail(err, rc, "store", dir);
    }
    *ret = env;
    return 0;
}

/* --- read */

static int write_all(int fd, const void *p, size_t n)
{
    const char *c = p;

    while (n) {
        ssize_t k = write(fd, c, n);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        c += k;
        n -= (size_t)k;
    }
    return 0;
}

static int row(const char *dir, const MDB_val *k, const MDB_val *v, unsigned tables,
               struct str *out,
               struct err *err)
{
    const char *dbkey = k->mv_data, *val = v->mv_data;
    uint32_t crc;

    if (k->mv_size < 3 || k->mv_size > STORE_KEY_MAX + 2 || dbkey[1] != '/' ||
        store_rec_table(dbkey[0]) < 0 || v->mv_size < STORE_REC_HEAD)
        return err_set(err, -EBADMSG, "store '%s': a record that is none of ours", dir);
    memcpy(&crc, val, sizeof crc);
    if (crc != store_rec_crc(dbkey, k->mv_size, val + STORE_REC_HEAD, v->mv_size - STORE_REC_HEAD))
        return err_set(err, -EBADMSG, "store '%s': wrong checksum of record '%.*s'", dir,
                       (int)k->mv_size, dbkey);
    if (!(tables & 1u << store_rec_table(dbkey[0])))
        return 0;
    auto_free char *key = mem_dup(dbkey + 2, k->mv_size - 2);
    if (strlen(key) != k->mv_size - 2)
        return err_set(err, -EBADMSG, "store '%s': a NUL byte in a key", dir);
    store_msg_put(out, (unsigned)store_rec_table(dbkey[0]), key, val + STORE_REC_HEAD,
                  v->mv_size - STORE_REC_HEAD);
    return 0;
}

/* LMDB's list of free pages, database 0: no record is there, but each write reads it, and a writer
 * that dies of it would do so for ever. */
static int walk_free(MDB_txn *txn)
{
    uint32_t crc = 0;                /* of no use but that every page is looked at */
    MDB_cursor *cur;
    MDB_val k, v;
    int rc = mdb_cursor_open(txn, 0, &cur);

    if (rc)
        return rc;
    while ((rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0)
        crc = crc32c(crc, v.mv_data, v.mv_size);
    mdb_cursor_close(cur);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int send_chunk(int fd, struct str *out)
{
    store_msg_end(out);
    int r = write_all(fd, out->p, out->len);
    store_msg_begin(out, STORE_MSG_ROWS, 0);
    return r;
}

/* All rows of the tables in the mask, then END. */
static int send_rows(const char *dir, MDB_env *env, unsigned tables, int fd, struct err *err)
{
    auto_str struct str out = STR_INIT;
    MDB_txn *txn;
    MDB_cursor *cur = NULL;
    MDB_dbi dbi;
    MDB_val k, v;
    int r = 0;

    int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc)
        return db_fail(err, rc, "store", dir);
    rc = walk_free(txn);
    if (!rc)
        rc = mdb_dbi_open(txn, NULL, 0, &dbi);
    if (!rc)
        rc = mdb_cursor_open(txn, dbi, &cur);
    store_msg_begin(&out, STORE_MSG_ROWS, 0);
    while (!rc && r == 0 && (rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0) {
        r = row(dir, &k, &v, tables, &out, err);
        if (r == 0 && out.len >= ROWS_CHUNK && (r = send_chunk(fd, &out)) < 0)
            err_code(err, r, "records of the store '%s'", dir);
    }
    if (r == 0 && rc && rc != MDB_NOTFOUND)
        r = db_fail(err, rc, "store", dir);
    if (cur)
        mdb_cursor_close(cur);
    mdb_txn_abort(txn);
    if (r < 0)
        return r;
    r = send_chunk(fd, &out);
    store_msg_begin(&out, STORE_MSG_END, 0);
    store_msg_end(&out);
    if (r == 0)
        r = write_all(fd, out.p, out.len);
    return r < 0 ? err_code(err, r, "records of the store '%s'", dir) : 0;
}

static int store_read(const char *dir)
{
    auto_str struct str out = STR_INIT;
    struct err err = ERR_INIT;
    MDB_env *env;

    auto_free char *data = mem_printf("%s/data.mdb", dir);
    struct stat st;
    int r = 0;

    (void)signal(SIGSEGV, SIG_DFL);  /* a crash must show as one, with sanitizers too */
    (void)signal(SIGBUS, SIG_DFL);
    /* a store is renamed into place when it is complete: without its file it is not just new */
    if (stat(data, &st) < 0 || st.st_size == 0)
        r = err_set(&err, -EBADMSG, "store '%s': there is nothing in it", dir);
    if (r == 0)
        r = db_open(dir, MDB_RDONLY, &env, &err);
    if (r == 0) {
        r = send_rows(dir, env, ~0u, 1, &err);
        mdb_env_close(env);
    }
    if (r == 0)
        return 0;
    store_msg_begin(&out, STORE_MSG_FAIL, 0);
    store_msg_status(&out, r, err.text);
    store_msg_end(&out);
    return write_all(1, out.p, out.len) < 0;
}

/* --- write */

static int fsync_path(const char *path, struct err *err)
{
    auto_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd) < 0)
        return err_sys(err, "sync of '%s'", path);
    return 0;
}

static int db_put(MDB_txn *txn, MDB_dbi dbi, unsigned table, const char *key, const void *val,
                  size_t len)
{
    char dbkey[STORE_KEY_MAX + 3];
    size_t n = store_rec_key(dbkey, table, key);
    uint32_t crc = store_rec_crc(dbkey, n, val, len);
    MDB_val k = { n, dbkey }, v = { len + STORE_REC_HEAD, NULL };

    int rc = mdb_put(txn, dbi, &k, &v, MDB_RESERVE);
    if (rc)
        return rc;
    memcpy(v.mv_data, &crc, sizeof crc);
    if (len)
        memcpy((char *)v.mv_data + STORE_REC_HEAD, val, len);
    return 0;
}

static int db_del(MDB_txn *txn, MDB_dbi dbi, unsigned table, const char *key)
{
    char dbkey[STORE_KEY_MAX + 3];
    MDB_val k = { store_rec_key(dbkey, table, key), dbkey };
    int rc = mdb_del(txn, dbi, &k, NULL);

    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* The whole payload in one transaction; returns LMDB's code, -EBADMSG is 'not a batch'. */
static int apply_once(MDB_env *env, const char *p, size_t n)
{
    struct store_change c;
    MDB_txn *txn;
    MDB_dbi dbi;
    int r = 0;

    int rc = mdb_txn_begin(env, NULL, 0, &txn);
    if (rc)
        return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &dbi);
    while (!rc && (r = store_msg_next(&p, &n, &c)) > 0)
        rc = c.del ? db_del(txn, dbi, c.table, c.key) : db_put(txn, dbi, c.table, c.key, c.val,
                                                               c.len);
    if (rc || r < 0) {
        mdb_txn_abort(txn);
        return rc ? rc : r;
    }
    return mdb_txn_commit(txn);
}

static int apply(MDB_env *env, const char *dir, const char *p, size_t n, struct err *err)
{
    for (;;) {
        int rc = apply_once(env, p, n);
        MDB_envinfo info;

        if (rc == 0)
            return 0;
        if (rc == -EBADMSG)
            return err_set(err, -EINVAL, "store '%s': a batch that does not parse", dir);
        if (rc != MDB_MAP_FULL || mdb_env_info(env, &info) || info.me_mapsize >= map_max)
            return db_fail(err, rc, "write to the store", dir);
        rc = mdb_env_set_mapsize(env, info.me_mapsize * 2);
        if (rc)
            return db_fail(err, rc, "larger map of the store", dir);
    }
}

/* Are there changes to what store.copy has? */
static bool concerns_copy(const char *p, size_t n)
{
    struct store_change c;

    while (store_msg_next(&p, &n, &c) > 0)
        if (COPIED & 1u << c.table)
            return true;
    return false;
}

static int write_copy(const char *root, const char *dir, MDB_env *env, struct err *err)
{
    auto_free char *path = mem_printf("%s/store.copy", root), *tmp = mem_printf("%s.new", path);
    auto_fd int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    int r = fd < 0 ? err_sys(err, "'%s'", tmp) : send_rows(dir, env, COPIED, fd, err);
    if (r == 0 && (fsync(fd) < 0 || rename(tmp, path) < 0))
        r = err_sys(err, "'%s'", path);
    if (r == 0)
        return fsync_path(root, err);
    (void)unlink(tmp);
    (void)unlink(path);              /* an old one would name what is deleted soon */
    return r;
}

static int make_new(const char *root, const char *dir, struct err *err)
{
    static const char schema[] = { '0' + STORE_SCHEMA };
    auto_free char *tmp = mem_printf("%s/store.new", root);
    auto_free char *data = mem_printf("%s/data.mdb", tmp);
    auto_str struct str s = STR_INIT;
    MDB_env *env;

    (void)unlink(data);              /* of one that was not finished */
    if (mkdir(tmp, 0700) < 0 && errno != EEXIST)
        return err_sys(err, "new store '%s'", tmp);
    int r = db_open(tmp, 0, &env, err);
    if (r < 0)
        return r;
    store_msg_put(&s, 0, "schema", schema, sizeof schema);
    r = apply(env, tmp, s.p, s.len, err);
    mdb_env_close(env);
    if (r == 0)
        r = fsync_path(tmp, err);
    if (r == 0 && rename(tmp, dir) < 0)
        r = err_sys(err, "rename of '%s' to '%s'", tmp, dir);
    return r < 0 ? r : fsync_path(root, err);
}

static int open_writer(const char *root, MDB_env **ret, char **ret_dir, struct err *err)
{
    auto_free char *lock = mem_printf("%s/store.lock", root);
    auto_free char *dir = mem_printf("%s/store", root);
    struct stat st;

    /* held until the process ends */
    int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, "lock '%s'", lock);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return err_sys(err, "lock '%s'", lock);
    if (stat(dir, &st) < 0) {
        int r = errno == ENOENT ? make_new(root, dir, err) : err_sys(err, "store '%s'", dir);

        if (r < 0)
            return r;
    }
    int r = db_open(dir, 0, ret, err);
    if (r == 0)
        *ret_dir = take_ptr(dir);
    return r;
}

static void acknowledge(uint64_t seq, int status, const char *text)
{
    auto_str struct str out = STR_INIT;

    store_msg_begin(&out, STORE_MSG_ACK, seq);
    store_msg_status(&out, status, text);
    store_msg_end(&out);
    /* the daemon may be gone; the batch is written */
    (void)send(0, out.p, out.len, MSG_NOSIGNAL);
}

/* 1: there are bytes or the end; 0: idle for long. */
static int wait_input(void)
{
    struct pollfd p = { .fd = 0, .events = POLLIN };
    int n;

    while ((n = poll(&p, 1, IDLE_MS)) < 0 && errno == EINTR)
        ;
    return n != 0;
}

static int store_write(const char *root)
{
    auto_str struct str in = STR_INIT;
    auto_free char *dir = NULL;
    struct err err = ERR_INIT, copy_err = ERR_INIT;
    struct store_msg_head h;
    MDB_env *env = NULL;
    int r = open_writer(root, &env, &dir, &err);

    while (in.len || wait_input()) {
        ssize_t k = recv(0, str_room(&in, ROWS_CHUNK), ROWS_CHUNK, 0);

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            break;
        in.len += (size_t)k;
        int m;
        while ((m = store_msg_head(in.p, in.len, &h)) > 0) {
            if (r == 0)
                r = apply(env, dir, in.p + sizeof h, h.len, &err);
            if (r == 0 && concerns_copy(in.p + sizeof h, h.len) &&
                write_copy(root, dir, env, &copy_err) < 0)
                fprintf(stderr, "cricket-worker: store: no copy: %s\n", copy_err.text);
            acknowledge(h.seq, r, err.text);
            if (r < 0)
                goto out;            /* a fresh process tries again */
            str_consume(&in, sizeof h + h.len);
        }
        if (m < 0) {
            fprintf(stderr, "cricket-worker: store: what the daemon sent is not a batch\n");
            r = -EBADMSG;
            goto out;
        }
    }
out:
    if (env)
        mdb_env_close(env);
    return r < 0;
}

int worker_store(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "read") == 0)
        return store_read(argv[2]);
    if (argc == 3 && strcmp(argv[1], "write") == 0)
        return store_write(argv[2]);
    fprintf(stderr, "usage: cricket-worker store read DIR | write ROOT\n");
    return 2;
}
