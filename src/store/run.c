/* SPDX-License-Identifier: Apache-2.0 */
/* The run store: LMDB on tmpfs without any sync. A killed daemon leaves it consistent: LMDB writes
 * the pages before the meta page that names them. Nobody else opens it while the daemon lives (the
 * lock in <state> says so), hence no lock file and no reader table. */
#include "store/priv.h"

#include "mem.h"

#include <errno.h>
#include <lmdb.h>
#include <string.h>
#include <sys/stat.h>

enum {
    MAP_FIRST = 4 * 1024 * 1024,
    RELEASE_EVERY = 64,              /* commits */
};
/* tmpfs is memory: far more than any node's sandboxes need */
static const size_t map_max = (size_t)1 << 28;

struct run_store {
    MDB_env *env;
    MDB_dbi dbi;
    char *dir;
    unsigned commits;
};

static int db_fail(struct err *err, int rc, const char *what, const char *path)
{
    return err_set(err, rc > 0 ? -rc : -EIO, "%s '%s': %s", what, path, mdb_strerror(rc));
}

static int open_dbi(struct run_store *r)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(r->env, NULL, 0, &txn);

    if (rc)
        return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &r->dbi);
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

static int open_env(struct run_store *r)
{
    auto_free char *data = mem_printf("%s/data.mdb", r->dir);
    size_t size = MAP_FIRST;
    struct stat st;

    if (stat(data, &st) == 0)
        while (size < (size_t)st.st_size && size < map_max)
            size *= 2;
    int rc = mdb_env_create(&r->env);
    if (!rc)
        rc = mdb_env_set_mapsize(r->env, size);
    if (!rc)
        rc = mdb_env_open(r->env, r->dir, MDB_NOSYNC | MDB_NOLOCK | MDB_NOTLS, 0600);
    if (!rc)
        rc = open_dbi(r);
    if (rc && r->env) {
        mdb_env_close(r->env);
        r->env = NULL;
    }
    return rc;
}

int run_store_open(const char *dir, struct run_store **ret, struct err *err)
{
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_sys(err, "run store '%s'", dir);
    struct run_store *r = mem_new(struct run_store);
    r->dir = mem_strdup(dir);
    int rc = open_env(r);
    if (rc) {
        run_store_close(r);
        return db_fail(err, rc, "run store", dir);
    }
    *ret = r;
    return 0;
}

struct run_store *run_store_close(struct run_store *r)
{
    if (r) {
        if (r->env)
            mdb_env_close(r->env);
        free(r->dir);
        free(r);
    }
    return NULL;
}

static int apply_one(MDB_txn *txn, MDB_dbi dbi, const struct change *x)
{
    char dbkey[STORE_KEY_MAX + 3];
    size_t n = store_rec_key(dbkey, x->table, x->key);
    MDB_val k = { n, dbkey }, v = { x->len + STORE_REC_HEAD, NULL };
    int rc;

    if (x->del) {
        rc = mdb_del(txn, dbi, &k, NULL);
        return rc == MDB_NOTFOUND ? 0 : rc;
    }
    rc = mdb_put(txn, dbi, &k, &v, MDB_RESERVE);
    if (rc)
        return rc;
    uint32_t crc = store_rec_crc(dbkey, n, x->val, x->len);
    memcpy(v.mv_data, &crc, sizeof crc);
    if (x->len)
        memcpy((char *)v.mv_data + STORE_REC_HEAD, x->val, x->len);
    return 0;
}

static int apply_all(struct run_store *r, const struct changes *c)
{
    struct change *x;
    MDB_txn *txn;
    int rc = mdb_txn_begin(r->env, NULL, 0, &txn);

    if (rc)
        return rc;
    list_each(x, &c->all, struct change, all)
        if ((rc = apply_one(txn, r->dbi, x)) != 0)
            break;
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

/* Pages of the map that were looked at count as the daemon's memory: give them back now and then,
 * by mapping the file anew. */
static void release_pages(struct run_store *r)
{
    MDB_envinfo info;

    if (++r->commits % RELEASE_EVERY == 0 && mdb_env_info(r->env, &info) == 0)
        (void)mdb_env_set_mapsize(r->env, info.me_mapsize);
}

/* A commit whose last page could not be written leaves LMDB refusing all others (MDB_PANIC) until
 * the environment is opened anew; nothing that was committed is lost by that. */
static int apply(struct run_store *r, const struct changes *c)
{
    int rc = r->env ? apply_all(r, c) : MDB_PANIC;

    if (rc == 0 || rc == MDB_MAP_FULL)
        return rc;
    if (r->env)
        mdb_env_close(r->env);
    r->env = NULL;
    rc = open_env(r);
    return rc ? rc : apply_all(r, c);
}

int run_store_apply(struct run_store *r, const struct changes *c, struct err *err)
{
    for (;;) {
        int rc = apply(r, c);
        MDB_envinfo info;

        if (r->env)
            release_pages(r);
        if (rc == 0)
            return 0;
        if (rc != MDB_MAP_FULL || mdb_env_info(r->env, &info) || info.me_mapsize >= map_max)
            return db_fail(err, rc, "write to the run store", r->dir);
        rc = mdb_env_set_mapsize(r->env, info.me_mapsize * 2);
        if (rc)
            return db_fail(err, rc, "larger map of the run store", r->dir);
    }
}
