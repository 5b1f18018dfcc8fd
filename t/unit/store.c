/* SPDX-License-Identifier: Apache-2.0 */
/* src/store/{store,load,run,durable,changes}.c with the real writer: what is acknowledged survives
 * kill -9, what is damaged is set aside, nobody else gets in. */
#include "files.h"

#include "mem.h"
#include "reactor/loop.h"
#include "store/priv.h"
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char base[] = "/tmp/cricket-store-XXXXXX";
static char *worker;

struct fixture {
    char *root, *state;
    struct loop *loop;
    struct store *store;
    bool same_boot, rebuilt;
    struct err err;
    int left;                        /* batches not yet done */
    int failed;
};

static struct fixture fix(const char *name)
{
    struct fixture f = { .root = mem_printf("%s/%s/root", base, name),
                         .state = mem_printf("%s/%s/state", base, name) };

    return f;
}

static int start_with(struct fixture *f, const char *program, int64_t lazy_ms)
{
    struct store_opts o = { f->root, f->state, program, lazy_ms };

    f->loop = loop_new(&f->err);
    err_clear(&f->err);
    return store_open(f->loop, &o, &f->same_boot, &f->rebuilt, &f->store, &f->err);
}

static int start(struct fixture *f)
{
    return start_with(f, worker, 20);
}

static void stop(struct fixture *f)
{
    f->store = store_close(f->store);
    f->loop = loop_free(f->loop);
}

static void unfix(struct fixture *f)
{
    free(f->root);
    free(f->state);
}

static void on_done(void *arg, const struct err *err)
{
    struct fixture *f = arg;

    f->left--;
    if (err) {
        f->failed++;
        f->err = *err;
    }
    if (f->left == 0)
        loop_stop(f->loop);
}

static void image(struct fixture *f, const char *key, const void *val, size_t len)
{
    struct store_batch *b = store_batch_new(f->store);

    store_batch_put(b, STORE_IMAGE, key, val, len);
    f->left++;
    store_batch_commit(b, on_done, f);
}

static void run(struct fixture *f)
{
    if (f->left)
        loop_run(f->loop);
}

/* --- what a store says */
static struct str seen;

static void on_row(void *arg, const char *key, const void *val, size_t len)
{
    (void)arg;
    str_printf(&seen, "%s=%.*s;", key, (int)len, (const char *)val);
}

static const char *rows(struct fixture *f, enum store_table t)
{
    str_reset(&seen);
    store_each(f->store, t, on_row, NULL, &f->err);
    return str_c(&seen);
}

static size_t n_rows;
static size_t bytes_rows;

static void count_row(void *arg, const char *key, const void *val, size_t len)
{
    (void)arg, (void)key, (void)val;
    n_rows++;
    bytes_rows += len;
}

static char *set_aside(struct fixture *f)
{
    auto_free char *up = mem_strdup(f->root);
    DIR *d = opendir(up);
    char *found = NULL;

    for (struct dirent *e; d && (e = readdir(d));)
        if (str_starts(e->d_name, "store.damaged-") && !found)
            found = mem_strdup(e->d_name);
    if (d)
        closedir(d);
    return found;
}

/* tmpfs forgets */
static void next_boot(struct fixture *f)
{
    auto_free char *cmd = mem_printf("rm -rf %s", f->state);

    if (system(cmd) != 0)
        abort();
}

static void test_round(void)
{
    struct fixture f = fix("round");

    if (!ok(start(&f) == 0, "a new store: %s", f.err.text))
        return;
    ok(!f.same_boot && !f.rebuilt, "is neither of this boot nor rebuilt");
    is_str(rows(&f, STORE_CONTAINER), "", "is empty");
    store_put(f.store, STORE_CONTAINER, "c1", "one", 3);
    store_put(f.store, STORE_CONTAINER, "c1", "two", 3);
    store_put(f.store, STORE_SANDBOX, "s1", "", 0);
    store_put(f.store, STORE_CONTAINER, "c2", "x", 1);
    store_del(f.store, STORE_CONTAINER, "c2");
    image(&f, "i1", "img", 3);
    image(&f, "i2", "img", 3);
    struct store_batch *b = store_batch_new(f.store);
    store_batch_del(b, STORE_IMAGE, "i2");
    store_batch_del(b, STORE_IMAGE, "never");
    store_batch_put(b, STORE_LAYER, "l1", "lay", 3);
    f.left++;
    store_batch_commit(b, on_done, &f);
    is_int(f.left, 3, "commit does not call back from inside");
    run(&f);
    is_int(f.failed, 0, "three batches are on disk");
    ok(store_healthy(f.store), "healthy");
    store_batch_free(store_batch_new(f.store));
    stop(&f);

    is_int(start(&f), 0, "again");
    ok(f.same_boot && !f.rebuilt, "of this boot");
    is_str(rows(&f, STORE_CONTAINER), "c1=two;", "the last put counts, what was deleted is gone");
    is_str(rows(&f, STORE_SANDBOX), "s1=;", "an empty record is one");
    is_str(rows(&f, STORE_IMAGE), "i1=img;", "images");
    is_str(rows(&f, STORE_LAYER), "l1=lay;", "layers");
    is_str(rows(&f, STORE_LAYER), "", "rows are handed out once");
    stop(&f);

    next_boot(&f);
    is_int(start(&f), 0, "after a boot");
    ok(!f.same_boot, "not of this boot");
    is_str(rows(&f, STORE_CONTAINER), "c1=two;", "records come from the durable store");
    stop(&f);
    is_int(start(&f), 0, "a second start in this boot");
    ok(f.same_boot, "is of this boot");
    is_str(rows(&f, STORE_CONTAINER), "c1=two;", "and has the records");
    stop(&f);

    struct changes c;
    struct run_store *r;
    changes_init(&c);
    changes_set(&c, false, STORE_META, "boot", "another", 7);
    auto_free char *run_dir = mem_printf("%s/store", f.state);
    if (run_store_open(run_dir, &r, &f.err) == 0) {
        run_store_apply(r, &c, &f.err);
        run_store_close(r);
    }
    changes_clear(&c);
    is_int(start(&f), 0, "a state directory that outlived its boot");
    ok(!f.same_boot, "is told by the boot id");
    is_str(rows(&f, STORE_CONTAINER), "c1=two;", "the durable store is used");
    stop(&f);
    unfix(&f);
}

static void test_locks(void)
{
    struct fixture f = fix("locks"), g = fix("locks");
    auto_free char *want = mem_printf("'%s' is in use by another cricketd (pid %d; lock %s/lock)",
                                      f.root,
                                      (int)getpid(), f.root);

    is_int(start(&f), 0, "one daemon");
    is_int(start(&g), -EBUSY, "a second one of the same root is refused");
    is_str(g.err.text, want, "with the holder's pid");
    loop_free(g.loop);
    free(g.root);
    g.root = mem_printf("%s/locks/other", base);
    is_int(start(&g), -EBUSY, "and one of the same state");
    ok(strstr(g.err.text, "state"), "names it: %s", g.err.text);
    loop_free(g.loop);
    free(g.root);
    g.root = mem_strdup(g.state);
    is_int(start(&g), -EINVAL, "root and state must differ");
    loop_free(g.loop);
    stop(&f);
    is_int(start(&f), 0, "the lock ends with its holder");
    stop(&f);
    unfix(&f);
    unfix(&g);
}

static void test_schema(void)
{
    struct fixture f = fix("schema");
    auto_free char *dir = mem_printf("%s/store", f.root);
    struct changes c;
    struct run_store *r;

    is_int(start(&f), 0, "a store");
    image(&f, "a", "b", 1);
    run(&f);
    stop(&f);
    changes_init(&c);
    changes_set(&c, false, STORE_META, "schema", "2", 1);
    ok(run_store_open(dir, &r, &f.err) == 0 && run_store_apply(r, &c, &f.err) == 0, "made newer");
    run_store_close(r);
    changes_clear(&c);
    is_int(start(&f), -EPROTO, "a newer schema is refused");
    ok(strstr(f.err.text, "newer cricket (schema 2, this one knows 1)"), "%s", f.err.text);
    loop_free(f.loop);
    auto_free char *aside = set_aside(&f);
    ok(!aside, "and left where it is");
    unfix(&f);
}

/* --- damage */

static void damage(const char *path, off_t at, const void *p, size_t n)
{
    auto_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || pwrite(fd, p, n, at) != (ssize_t)n)
        abort();
}

/* kept: what the copy knows */
static void expect_set_aside(struct fixture *f, const char *what, const char *kept)
{
    is_int(start(f), 0, "%s: the daemon starts", what);
    ok(f->rebuilt, "%s: is told that the store is new", what);
    auto_free char *aside = set_aside(f);
    ok(aside, "%s: set aside", what);
    is_str(rows(f, STORE_IMAGE), kept, "%s: the copy is believed", what);
    image(f, "a", "b", 1);
    run(f);
    is_int(f->failed, 0, "%s: a new store is written", what);
    stop(f);
    auto_free char *cmd = mem_printf("rm -rf %s/store.damaged-*", f->root);
    if (system(cmd) != 0)
        abort();
}

static void test_damage(void)
{
    struct fixture f = fix("damage");
    auto_free char *data = mem_printf("%s/store/data.mdb", f.root);
    auto_free char *copy = mem_printf("%s/store.copy", f.root);
    static const char one[] = "sha256:0123=some image record, long enough;";
    static const char both[] = "a=b;sha256:0123=some image record, long enough;";
    char zeros[8192] = "", junk[8192];
    struct stat st;

    srand(7);
    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = (char)rand();
    is_int(start(&f), 0, "a store");
    image(&f, "sha256:0123", "some image record, long enough", 30);
    run(&f);
    stop(&f);

    /* one flipped bit in a value */
    auto_fd int fd = open(data, O_RDWR | O_CLOEXEC);
    auto_free char *all = mem_alloc(1 << 20);
    ssize_t n = pread(fd, all, 1 << 20, 0);
    char *hit = memmem(all, (size_t)n, "long enough", 11);
    for (char *h = hit; h; h = memmem(h + 1, (size_t)(all + n - h - 1), "long enough", 11))
        damage(data, h - all, "Long", 4);
    ok(hit, "a record to damage");
    expect_set_aside(&f, "a flipped bit", one);
    damage(data, 0, junk, sizeof junk);
    expect_set_aside(&f, "both meta pages overwritten", both);
    damage(data, 0, zeros, sizeof zeros);
    expect_set_aside(&f, "both meta pages zero", both);
    if (stat(data, &st) < 0 || truncate(data, 0) < 0)
        abort();
    expect_set_aside(&f, "an empty file", both);
    if (truncate(data, 8192) < 0)
        abort();
    expect_set_aside(&f, "a file cut behind the meta pages", both);
    if (unlink(data) < 0)
        abort();
    expect_set_aside(&f, "no file in the directory", both);
    damage(copy, 100, "xxxx", 4);
    is_int(start(&f), 0, "a damaged copy");
    stop(&f);
    damage(data, 0, zeros, sizeof zeros);
    expect_set_aside(&f, "... has been made again", both);
    auto_free char *cmd = mem_printf("rm -rf %s/store", f.root);
    if (system(cmd) != 0)
        abort();
    is_int(start(&f), 0, "no store");
    is_str(rows(&f, STORE_IMAGE), both, "is made again as well");
    stop(&f);
    damage(data, 0, zeros, sizeof zeros);
    damage(copy, 100, "xxxx", 4);
    expect_set_aside(&f, "store and copy damaged", "");

    /* anything anywhere: the daemon lives, and knows what it knew */
    int odd = 0, aside_count = 0;
    for (int i = 0; i < 60; i++) {
        is_int(start(&f), 0, "start %d", i);
        image(&f, "a", "b", 1);
        run(&f);
        stop(&f);
        if (stat(data, &st) < 0)
            abort();
        off_t at = 8192 + rand() % (st.st_size - 8192 - 64) / 64 * 64;
        damage(data, i % 3 ? at : at % 4096 + 8192, junk + rand() % 4096,
               i % 2 ? 4096 : (size_t)(1 + rand() % 63));
        if (start(&f) < 0) {
            odd++;
            diag("%s", f.err.text);
            loop_free(f.loop);
            break;
        }
        const char *is = rows(&f, STORE_IMAGE);
        odd += strcmp(is, "a=b;") != 0;
        aside_count += f.rebuilt;
        stop(&f);
    }
    is_int(odd, 0, "60 random damages: never a wrong record");
    ok(aside_count > 0, "%d of them set aside", aside_count);
    unfix(&f);
}

/* --- a writer in trouble */

static char *script(const char *name, const char *text)
{
    char *path = mem_printf("%s/%s", base, name);
    FILE *fp = fopen(path, "we");

    fprintf(fp, "#!/bin/sh\n%s\nexec %s \"$@\"\n", text, worker);
    fclose(fp);
    chmod(path, 0755);
    return path;
}

static void test_writer(void)
{
    struct fixture f = fix("writer");
    auto_free char *dies = script("dies", "t=$(dirname \"$0\")/tries; if [ \"$2\" = write ]; then "
                                  "echo >>$t; [ $(wc -l <$t) -gt 2 ] || kill -9 $$; fi");
    auto_free char *never = script("never", "[ \"$2\" = read ] || exit 7");

    is_int(start_with(&f, dies, 20), 0, "a writer that dies twice");
    image(&f, "i", "v", 1);
    image(&f, "j", "w", 1);
    run(&f);
    is_int(f.failed, 0, "the batches arrive nevertheless");
    ok(store_healthy(f.store), "healthy");
    stop(&f);
    is_int(start_with(&f, never, 20), 0, "one that never works");
    is_str(rows(&f, STORE_IMAGE), "i=v;j=w;", "what was written is there");
    image(&f, "k", "x", 1);
    run(&f);
    is_int(f.failed, 1, "its batch fails");
    is_str(f.err.text, "the durable writer exited with 7 5 times over the same batch",
           "and says why");
    ok(!store_healthy(f.store), "not healthy");
    store_put(f.store, STORE_CONTAINER, "late", "v", 1);
    stop(&f);
    f.failed = 0;
    is_int(start(&f), 0, "a good one again");
    is_str(rows(&f, STORE_CONTAINER), "late=v;",
           "the run store kept what the durable one could not");
    image(&f, "k", "x", 1);
    run(&f);
    stop(&f);
    next_boot(&f);
    is_int(start(&f), 0, "next boot");
    is_str(rows(&f, STORE_CONTAINER), "late=v;", "the durable store has caught up");
    stop(&f);
    is_int(start_with(&f, "/nonexistent/worker", 20), -ENOENT, "no worker, no start");
    ok(strstr(f.err.text, "/nonexistent/worker"), "%s", f.err.text);
    loop_free(f.loop);
    unfix(&f);
}

/* Whoever waits when the store is closed is told. */
static void test_close(void)
{
    struct fixture f = fix("close");
    auto_free char *never = script("none", "[ \"$2\" = read ] || exit 7");

    is_int(start(&f), 0, "a store that is closed with batches under way");
    image(&f, "a", "1", 1);
    image(&f, "b", "2", 1);
    image(&f, "", "3", 1);
    stop(&f);
    is_int(f.left, 0, "everybody is told");
    is_int(f.failed, 1, "of what was written, and of what was refused");
    ok(strstr(f.err.text, "a key that is none"), "%s", f.err.text);
    f.failed = 0;
    is_int(start_with(&f, never, 20), 0, "with a writer that never works");
    is_str(rows(&f, STORE_IMAGE), "a=1;b=2;", "it was written before");
    image(&f, "c", "3", 1);
    image(&f, "d", "4", 1);
    stop(&f);
    is_int(f.left, 0, "everybody is told");
    is_int(f.failed, 2, "that it was not written");
    is_str(f.err.text, "store: closed before it was written", "in the queue, too");
    unfix(&f);
}

static void test_large(void)
{
    struct fixture f = fix("large");
    size_t n = 5 * 1024 * 1024;
    auto_free char *big = mem_alloc(n);

    memset(big, 'x', n);
    is_int(start(&f), 0, "a store");
    for (int i = 0; i < 8; i++) {
        char key[16];

        snprintf(key, sizeof key, "i%d", i);
        image(&f, key, big, n);
    }
    for (int i = 0; i < 3; i++) {
        char key[16];

        snprintf(key, sizeof key, "c%d", i);
        store_put(f.store, STORE_CONTAINER, key, big, n);
    }
    auto_free char *huge = mem_alloc((size_t)61 << 20);
    image(&f, "huge", huge, (size_t)61 << 20);
    run(&f);
    is_int(f.failed, 1, "a batch over the bound is refused");
    ok(strstr(f.err.text, "a batch over 60 MiB"), "%s", f.err.text);
    ok(store_healthy(f.store), "the maps have grown");
    stop(&f);
    is_int(start(&f), 0, "again");
    n_rows = bytes_rows = 0;
    store_each(f.store, STORE_IMAGE, count_row, NULL, &f.err);
    store_each(f.store, STORE_CONTAINER, count_row, NULL, &f.err);
    is_int(n_rows, 11, "all records");
    is_int(bytes_rows, 11 * n, "whole");
    stop(&f);
    unfix(&f);
}

/* --- kill -9: a process writes numbers and says which are safe */

static int report_fd;
static int64_t counter;

static void next_round(void *arg, const struct err *err)
{
    struct fixture *f = arg;
    char val[32], key[16];
    int n;

    if (err)
        _exit(3);
    /* the image of this round is on disk, and the container with it in the run store */
    if (counter && write(report_fd, &counter, sizeof counter) != sizeof counter)
        _exit(4);
    counter++;
    n = snprintf(val, sizeof val, "%lld", (long long)counter);
    snprintf(key, sizeof key, "k%d", (int)(counter % 7));
    store_put(f->store, STORE_CONTAINER, "last", val, (size_t)n);
    store_put(f->store, STORE_CONTAINER, key, val, (size_t)n);
    struct store_batch *b = store_batch_new(f->store);
    store_batch_put(b, STORE_IMAGE, "last", val, (size_t)n);
    store_batch_put(b, STORE_LAYER, "last", val, (size_t)n);
    store_batch_commit(b, next_round, f);
}

static long long value_of(struct fixture *f, enum store_table t, const char *key)
{
    auto_free char *want = mem_printf("%s=", key);
    const char *p = strstr(rows(f, t), want);

    return p ? atoll(p + strlen(want)) : 0;
}

static void test_kill(void)
{
    struct fixture f = fix("kill");
    long long floor_ = 0;
    int bad = 0;

    for (int i = 0; i < 25; i++) {
        int p[2];

        if (pipe2(p, O_CLOEXEC) < 0)
            abort();
        pid_t pid = fork();
        if (pid == 0) {
            report_fd = p[1];
            counter = floor_;
            if (start(&f) < 0) {
                fprintf(stderr, "# child: %s\n", f.err.text);
                _exit(2);
            }
            next_round(&f, NULL);
            loop_run(f.loop);
            _exit(5);
        }
        close(p[1]);
        int64_t v = 0;
        for (int k = 0; k <= i * 2 && read(p[0], &v, sizeof v) == sizeof v; k++)
            ;
        usleep((useconds_t)(i * 97 % 900));   /* any point between two reports */
        kill(pid, SIGKILL);
        for (int64_t w; read(p[0], &w, sizeof w) == sizeof w;)
            v = w;
        close(p[0]);
        int status;
        waitpid(pid, &status, 0);
        if (!WIFSIGNALED(status))
            bad++;
        if (start(&f) < 0) {
            bad++;
            diag("%s", f.err.text);
            loop_free(f.loop);
            break;
        }
        long long img = value_of(&f, STORE_IMAGE, "last"), lay = value_of(&f, STORE_LAYER, "last");
        long long ctr = value_of(&f, STORE_CONTAINER, "last");
        if (img < v || img != lay || ctr < v || ctr > img + 1 || !f.same_boot || f.rebuilt ||
            v <= floor_) {
            bad++;
            diag("round %d: acknowledged %lld, image %lld, layer %lld, container %lld", i,
                 (long long)v, img,
                 lay, ctr);
        }
        floor_ = ctr > img ? ctr : img;
        stop(&f);
    }
    is_int(bad, 0, "25 kills: whatever was acknowledged is there, batches are whole");
    ok(floor_ > 25, "%lld rounds", floor_);
    unfix(&f);
}

/* --- a full disk */

static void fill(const char *dir, bool full)
{
    auto_free char *path = mem_printf("%s/ballast", dir);
    auto_free char *mb = mem_alloc(1 << 16);

    if (!full) {
        unlink(path);
        return;
    }
    auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, mb, 1 << 16) > 0)
        ;
    while (write(fd, mb, 512) > 0)
        ;
}

static void test_full(void)
{
    struct fixture f = fix("full");
    auto_free char *up = mem_printf("%s/full", base);
    auto_free char *big = mem_alloc(1 << 18);

    mkdir(up, 0700);
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", up, "tmpfs", 0, "size=2m") < 0) {
        ok(1, "a full disk = SKIP needs root to mount a small one");
        unfix(&f);
        return;
    }
    is_int(start(&f), 0, "a store on a small disk");
    image(&f, "a", "1", 1);
    run(&f);
    is_int(f.failed, 0, "works");
    fill(up, true);
    image(&f, "b", big, 1 << 18);
    run(&f);
    is_int(f.failed, 1, "a full disk fails the batch");
    ok(strstr(f.err.text, "No space left"), "with the reason: %s", f.err.text);
    ok(!store_healthy(f.store), "not healthy");
    store_put(f.store, STORE_CONTAINER, "c", big, 1 << 18);
    loop_settle(f.loop);
    ok(!store_healthy(f.store), "the run store is full as well");
    fill(up, false);
    f.failed = 0;
    image(&f, "b", "2", 1);
    run(&f);
    is_int(f.failed, 0, "room again: written");
    stop(&f);
    is_int(start(&f), 0, "again");
    is_str(rows(&f, STORE_IMAGE), "a=1;b=2;", "nothing of the failed batch");
    n_rows = bytes_rows = 0;
    store_each(f.store, STORE_CONTAINER, count_row, NULL, &f.err);
    is_int(bytes_rows, 1 << 18, "the run store wrote what it kept");
    stop(&f);
    umount2(up, MNT_DETACH);
    unfix(&f);
}

int main(int argc, char **argv)
{
    (void)argc;
    make_temp(base);
    worker = program("cricket-worker", argv[0]);
    test_round();
    test_locks();
    test_schema();
    test_damage();
    test_writer();
    test_close();
    test_large();
    test_kill();
    test_full();
    if (!remove_temp(base))
        diag("%s is left", base);
    str_free(&seen);
    free(worker);
    return done_testing();
}
