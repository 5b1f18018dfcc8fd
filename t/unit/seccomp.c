/* SPDX-License-Identifier: Apache-2.0 */
/* src/proc/seccomp: compiled once, waited for together, found again by another daemon. The real
 * worker compiles; a script that counts stands before it. */
#include "tap.h"

#include "mem.h"
#include "proc/caps.h"
#include "proc/seccomp.h"
#include "reactor/loop.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <signal.h>
#include <sys/stat.h>

static char dir[] = "/tmp/cricket-seccomp-XXXXXX";
static char *state, *worker, *counter;
static struct loop *loop;

struct asked {
    int calls, wanted;
    struct seccomp_filter f;
    struct err err;
};

static int open_answers;

static void on_done(void *arg, const struct seccomp_filter *f, const struct err *err)
{
    struct asked *a = arg;

    a->calls++;
    if (err)
        a->err = *err;
    else
        a->f = *f;
    if (--open_answers == 0)
        loop_stop(loop);
}

static void put(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");

    if (!f)
        bail_out("%s: %s", path, strerror(errno));
    fputs(text, f);
    fclose(f);
    chmod(path, mode);
}

static int runs(void)
{
    struct stat st;

    return stat(counter, &st) == 0 ? (int)st.st_size : 0;
}

static struct seccomp_cache *open_cache(const char *default_profile)
{
    struct seccomp_opts o = { .state = state,
                              .worker = worker,
                              .default_profile = default_profile };
    struct seccomp_cache *c = NULL;
    struct err err = ERR_INIT;

    if (seccomp_new(loop, &o, &c, &err) < 0)
        bail_out("seccomp_new: %s", err.text);
    return c;
}

/* Asks, and runs the loop unless the answer came at once. */
static struct asked ask(struct seccomp_cache *c, const char *profile, uint64_t caps)
{
    static struct asked a;

    memset(&a, 0, sizeof a);
    open_answers = 1;
    seccomp_get(c, profile, caps, on_done, &a);
    if (!a.calls)
        loop_run(loop);
    return a;
}

static int files(void)
{
    auto_free char *path = mem_printf("%s/seccomp", state);
    DIR *d = opendir(path);
    struct dirent *e;
    int n = 0;

    while (d && (e = readdir(d)))
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static bool is_key(void *ctx, const char *key)
{
    return strcmp(ctx, key) == 0;
}

int main(void)
{
    const char *build = getenv("CRICKET_BUILD");
    struct err err = ERR_INIT;
    char cmd[200];

    (void)signal(SIGPIPE, SIG_IGN);  /* as the daemon does: a worker may end before it has read its input */
    if (!mkdtemp(dir))
        bail_out("mkdtemp: %s", strerror(errno));
    loop = loop_new(&err);
    state = mem_printf("%s/state", dir);
    worker = mem_printf("%s/worker", dir);
    counter = mem_printf("%s/count", dir);
    mkdir(state, 0700);
    auto_free char *script = mem_printf("#!/bin/sh\nprintf x >>%s\nexec %s/cricket-worker \"$@\"\n",
                                        counter, build ? build : "build");
    put(worker, script, 0755);
    auto_free char *p1 = mem_printf("%s/p1", dir), *p2 = mem_printf("%s/p2", dir),
                   *bad = mem_printf("%s/bad", dir);
    auto_free char *big = mem_printf("%s/big", dir), *fifo = mem_printf("%s/fifo", dir),
                   *gone = mem_printf("%s/gone", dir);
    static const char text[] =
        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"flags\":[\"SECCOMP_FILTER_FLAG_LOG\"],"
        "\"syscalls\":[{\"names\":[\"chmod\"],\"action\":\"SCMP_ACT_ERRNO\"}]}";
    put(p1, text, 0600);
    put(p2, text, 0600);
    put(bad, "{\"defaultAction\":\"SCMP_ACT_WHAT\"}", 0600);
    put(big, "", 0600);
    if (truncate(big, 10000000) < 0 || mkfifo(fifo, 0600) < 0)
        bail_out("%s", strerror(errno));

    struct seccomp_cache *c = open_cache("");
    struct asked a = ask(c, NULL, caps_default());
    if (!ok(a.f.bpf && a.f.len % sizeof(struct sock_filter) == 0 && a.f.len > 100, "the default profile"))
        diag("%s", a.err.text);
    is_int(runs(), 1, "one compilation");
    const void *bpf = a.f.bpf;
    open_answers = 1;
    memset(&a, 0, sizeof a);
    seccomp_get(c, NULL, caps_default(), on_done, &a);
    ok(a.calls == 1 && a.f.bpf == bpf, "the second time it is there at once");
    a = ask(c, NULL, caps_default() | UINT64_C(1) << 21);
    ok(a.f.bpf && a.f.bpf != bpf, "other capabilities, another filter");
    is_int(runs(), 2, "compiled for itself");

    struct asked b[3];
    memset(b, 0, sizeof b);
    open_answers = 2;
    for (int i = 0; i < 3; i++)
        seccomp_get(c, i == 1 ? p2 : p1, 0, on_done, &b[i]);
    is_int(b[0].calls + b[1].calls + b[2].calls, 0, "three ask while it is being compiled");
    seccomp_cancel(c, &b[2]);
    loop_run(loop);
    ok(b[0].calls == 1 && b[1].calls == 1 && b[0].f.bpf == b[1].f.bpf && b[0].f.bpf,
       "two get the same: one content, two paths");
    is_int(b[2].calls, 0, "who has gone is not called");
    is_int(b[0].f.flags, 2, "flags come along");
    is_int(runs(), 3, "one compilation for all");

    a = ask(c, bad, 0);
    is_str(a.err.text + strlen("seccomp profile '") + strlen(bad),
           "': unknown action 'SCMP_ACT_WHAT'", "a bad one");
    is_int(a.err.grpc, GRPC_INVALID_ARGUMENT, "is the caller's fault");
    int n = runs();
    put(bad, text, 0600);
    a = ask(c, bad, 0);
    ok(a.f.bpf == b[0].f.bpf && runs() == n, "mended: the same content as the other");
    auto_free char *key = mem_strdup(a.f.key);
    const struct seccomp_filter *f = seccomp_find(c, key);
    ok(f && f->bpf == a.f.bpf && f->flags == 2, "found by its key");
    is_int(files(), 0, "what nobody keeps is in no file");
    seccomp_keep(c, f);
    seccomp_keep(c, f);
    is_int(files(), 1, "one file for what is kept");
    ok(!seccomp_find(c, "") && !seccomp_find(c, "0123456789abcdef0123456789abcdef"
                                             "0123456789abcdef0123456789abcdef"),
       "no other key finds anything");
    a = ask(c, big, 0);
    ok(!a.f.bpf && strstr(a.err.text, "larger than 1048576 bytes"), "10 MB: %s", a.err.text);
    a = ask(c, gone, 0);
    ok(!a.f.bpf && strstr(a.err.text, "No such file"), "missing: %s", a.err.text);
    a = ask(c, fifo, 0);
    ok(!a.f.bpf && strstr(a.err.text, "not a regular file"), "a fifo: %s", a.err.text);
    is_int(runs(), n, "none of these was compiled");

    /* somebody still waits when the daemon ends */
    put(p2, "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}", 0600);
    memset(&a, 0, sizeof a);
    seccomp_get(c, p2, 0, on_done, &a);
    c = seccomp_free(c);
    is_int(a.calls, 0, "nobody is called after the end");

    n = runs();
    c = open_cache(p1);
    f = seccomp_find(c, key);
    ok(f && f->bpf && f->flags == 2, "a key finds it in another daemon, without the profile");
    a = ask(c, p1, 0);
    ok(a.f.bpf && a.f.flags == 2, "another daemon on the same state");
    is_int(runs(), n, "finds it compiled");
    a = ask(c, NULL, 0);
    ok(a.f.bpf && a.f.flags == 2 && runs() == n, "a default profile from a file");
    a = ask(c, p1, 1);
    seccomp_keep(c, &a.f);
    n = runs();
    is_int(files(), 2, "another one");
    seccomp_collect(c, is_key, key);
    is_int(files(), 1, "collected, since nobody uses it");
    seccomp_drop(c, key);
    is_int(files(), 0, "dropped");
    a = ask(c, p1, 0);
    ok(a.f.bpf && runs() == n, "both are still in memory");
    seccomp_keep(c, &a.f);
    is_int(files(), 1, "and can be kept again");
    c = seccomp_free(c);
    snprintf(cmd, sizeof cmd, "for f in %s/seccomp/*; do echo torn >$f; done", state);
    is_int(system(cmd), 0, "the files are damaged");
    c = open_cache("");
    ok(!seccomp_find(c, key), "no key finds them");
    a = ask(c, p1, 0);
    ok(a.f.bpf && runs() == n + 1, "they are compiled again");
    put(worker, "#!/bin/sh\nkill -9 $$\n", 0755);
    a = ask(c, p2, 5);
    ok(!a.f.bpf && strstr(a.err.text, "status 137"), "a compiler that dies: %s", a.err.text);
    unlink(worker);
    a = ask(c, p2, 6);
    ok(!a.f.bpf && a.err.text[0], "none there: %s", a.err.text);
    seccomp_free(c);
    loop_free(loop);

    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    if (system(cmd))
        diag("%s failed", cmd);
    free(state);
    free(worker);
    free(counter);
    return done_testing();
}
