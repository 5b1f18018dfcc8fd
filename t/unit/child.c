/* SPDX-License-Identifier: Apache-2.0 */
/* src/reactor/child and run: starting programs, their descriptors, signals and ends. */
#include "tap.h"

#include "mem.h"
#include "reactor/child.h"
#include "reactor/loop.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static struct loop *loop;
static int status_seen, n_ends;

static char *const *sh(const char *script)
{
    static const char *v[] = { "sh", "-c", NULL, NULL };

    v[2] = script;
    return (char *const *)(const void *)v;
}

static void on_end(void *arg, int status)
{
    (void)arg;
    status_seen = status;
    n_ends++;
    loop_stop(loop);
}

static int run_status(const struct child_opts *o)
{
    struct child *c;
    struct err err = ERR_INIT;

    status_seen = -1;
    if (child_spawn(loop, o, on_end, NULL, &c, &err) < 0) {
        diag("%s", err.text);
        return -2;
    }
    loop_run(loop);
    return status_seen;
}

static int shell(const char *script)
{
    struct child_opts o = CHILD_OPTS_INIT;

    o.path = "/bin/sh";
    o.argv = sh(script);
    return run_status(&o);
}

static void test_status(void)
{
    struct child_opts o = CHILD_OPTS_INIT;
    struct err err = ERR_INIT;
    struct child *c;

    is_int(shell("exit 7"), 7, "an exit code");
    is_int(shell("kill -9 $$"), 137, "a signal is 128 + its number");
    o.path = "/nonexistent/program";
    o.argv = sh("");
    is_int(child_spawn(loop, &o, on_end, NULL, &c, &err), -ENOENT, "a program that is not there");
    is_str(err.text, "start '/nonexistent/program': exec: No such file or directory",
           "is named, with the step");
    is_int(waitpid(-1, NULL, WNOHANG), -1, "and leaves no zombie");
    is_int(errno, ECHILD, "none at all");
    o.path = "/bin/sh";
    o.cwd_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    is_int(child_spawn(loop, &o, on_end, NULL, &c, &err), -ENOTDIR, "a folder that is none");
    is_str(err.text, "start '/bin/sh': fchdir: Not a directory", "says so");
    close(o.cwd_fd);
}

static void test_fds(void)
{
    struct child_opts o = CHILD_OPTS_INIT;
    int p[2], leak = open("/dev/zero", O_RDONLY);   /* not close-on-exec: somebody forgot */
    char buf[64] = "";
    struct child_fd swap[2];

    if (pipe2(p, O_CLOEXEC) < 0)
        bail_out("pipe");
    /* each onto the other's number */
    swap[0] = (struct child_fd){ p[0], p[1] };
    swap[1] = (struct child_fd){ p[1], p[0] };
    auto_free char *script =
        mem_printf("echo there >&%d; read x <&%d; test \"$x\" = there", p[0], p[1]);
    o.path = "/bin/sh";
    o.argv = sh(script);
    o.fds = swap;
    o.n_fds = 2;
    if (p[0] < 10 && p[1] < 10)      /* what sh can name */
        is_int(run_status(&o), 0, "descriptors may swap places");
    else
        skip("descriptors are too large for sh");
    close(p[0]);
    close(p[1]);

    if (pipe2(p, O_CLOEXEC) < 0)
        bail_out("pipe");
    struct child_fd out = { p[1], 1 };
    o.argv = sh("ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0 >&2 2>/dev/null");
    o.fds = &out;
    o.n_fds = 1;
    struct child_opts ls = CHILD_OPTS_INIT;
    static const char *const ls_argv[] = { "ls", "/proc/self/fd", NULL };
    ls.path = "/bin/ls";
    ls.argv = (char *const *)(const void *)ls_argv;
    ls.fds = &out;
    ls.n_fds = 1;
    is_int(run_status(&ls), 0, "ls of its descriptors");
    ok(read(p[0], buf, sizeof buf - 1) > 0, "which writes");
    is_str(buf, "0\n1\n2\n3\n", "nothing but 0, 1, 2 (and its own folder) got through");
    close(p[0]);
    close(p[1]);
    close(leak);
    is_int(shell("test \"$(readlink /proc/$$/fd/0)\" = /dev/null"), 0,
           "0 is /dev/null unless given");
}

static void test_signals(void)
{
    sigset_t set, old;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, &old);
    is_int(shell("grep -qE '^SigBlk:\\s0+$' /proc/self/status"), 0,
           "no signal is blocked in the child");
    /* but for 32 and 33, libc's own: posix_spawn(3) of glibc ignores them in what it starts (make
     * does) */
    is_int(shell("grep -qE '^SigIgn:\\s0*([01]80000000)?$' /proc/self/status"), 0, "nor ignored");
    sigprocmask(SIG_SETMASK, &old, NULL);
    ok(signal(SIGPIPE, SIG_IGN) == SIG_IGN, "while our own dispositions stay");
}

static void test_exec_fd(void)
{
    struct child_opts o = CHILD_OPTS_INIT;

    o.path = "sh by descriptor";
    o.exec_fd = open("/bin/sh", O_RDONLY | O_CLOEXEC);
    o.argv = sh("exit 5");
    is_int(run_status(&o), 5, "a program given as descriptor");
    close(o.exec_fd);
    o = (struct child_opts)CHILD_OPTS_INIT;
    o.path = "/bin/sh";
    o.argv = sh("test \"$(pwd)\" = /proc && test \"$A\" = b && test -z \"$HOME\"");
    o.cwd_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    static const char *const env[] = { "A=b", "PATH=/usr/bin:/bin", NULL };
    o.envp = (char *const *)(const void *)env;
    is_int(run_status(&o), 0, "its folder and environment");
    close(o.cwd_fd);
}

static void nop(void *arg)
{
    (void)arg;
    loop_stop(loop);
}

static void test_disown(void)
{
    struct child_opts o = CHILD_OPTS_INIT;
    struct child *c;
    struct err err = ERR_INIT;
    struct pidwatch *w;
    int before = n_ends;
    pid_t pid;

    o.path = "/bin/sh";
    o.argv = sh("sleep 100");
    o.new_session = true;
    if (child_spawn(loop, &o, on_end, NULL, &c, &err) < 0)
        bail_out("%s", err.text);
    pid = child_pid(c);
    is_int(getsid(pid), pid, "a session of its own");
    w = pidwatch_new(loop, child_pidfd(c), nop, NULL);
    child_disown(c);
    child_kill(c, SIGKILL);
    loop_run(loop);
    w = pidwatch_free(w);
    ok(!w, "the watch saw its end");
    while (kill(pid, 0) == 0)        /* until it is reaped */
        ev_run(loop_ev(loop), EVRUN_ONCE);
    is_int(n_ends, before, "a disowned child tells nobody, but is reaped");
}

static struct run_result got;
static struct str out = STR_INIT, errs = STR_INIT;

static void on_run(void *arg, const struct run_result *r)
{
    (void)arg;
    got = *r;
    str_reset(&out);
    str_reset(&errs);
    str_add(&out, r->out, r->out_len);
    str_puts(&errs, r->errout);
    loop_stop(loop);
}

static void go(const char *script, const void *in, size_t in_len, size_t max, int64_t ms)
{
    struct child_opts o = CHILD_OPTS_INIT;
    struct err err = ERR_INIT;
    struct run *r;

    o.path = "/bin/sh";
    o.argv = sh(script);
    if (run_start(loop, &o, in, in_len, max, ms, on_run, NULL, &r, &err) < 0)
        bail_out("%s", err.text);
    loop_run(loop);
}

static void test_run(void)
{
    size_t n = 3 * 1024 * 1024;
    auto_free char *in = mem_alloc(n);

    memset(in, 'i', n);
    go("cat; echo oops >&2; exit 3", in, n, 2 * n, 0);
    is_int(got.status, 3, "input, output and status");
    is_mem(out.p, out.len, in, n, "3 MiB there and back");
    is_str(errs.p, "oops\n", "stderr aside");
    go("echo hi", in, n, 100, 0);
    is_int(got.status, 0, "a program that does not read its input");
    is_str(out.p, "hi\n", "does its work");
    go("cat", "", 0, 100, 0);
    is_int(got.status, 0, "no input is an end of file");
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);      /* not every machine's init reaps */
    go("echo $$; sleep 1000 & sleep 1000", NULL, 0, 100, 2000);
    ok(got.timed_out, "the deadline kills");
    is_int(got.status, 137, "by SIGKILL");
    pid_t group = (pid_t)strtol(out.p, NULL, 10);
    while (group > 0 && kill(-group, 0) == 0) {
        (void)waitpid(-group, NULL, WNOHANG);
        usleep(1000);
    }
    ok(group > 0 && errno == ESRCH, "the whole group");
    (void)prctl(PR_SET_CHILD_SUBREAPER, 0);
    go("yes", NULL, 0, 100000, 0);
    is_int(got.status, 255, "too much output is an error");
    is_int(out.len, 100000, "and bounded");
    go("yes >&2 & sleep 0.05; kill $!; echo done", NULL, 0, 100, 0);
    is_str(out.p, "done\n", "a long stderr does not block");
    is_int(errs.len, 4096, "and is cut");
    go("sleep 1000 & echo $!", NULL, 0, 100, 0);
    is_int(got.status, 0, "a grandchild that keeps the pipes open does not hold it up");
    (void)kill((pid_t)strtol(out.p, NULL, 10), SIGKILL);
}

static void test_cancel(void)
{
    struct child_opts o = CHILD_OPTS_INIT;
    struct err err = ERR_INIT;
    struct run *r;

    got.status = -1;
    o.path = "/bin/sh";
    o.argv = sh("sleep 1000");
    if (run_start(loop, &o, "x", 1, 100, 100000, on_run, NULL, &r, &err) < 0)
        bail_out("%s", err.text);
    run_cancel(r);
    while (waitid(P_ALL, 0, NULL, WEXITED | WNOHANG | WNOWAIT) == 0)
        ev_run(loop_ev(loop), EVRUN_ONCE);
    is_int(errno, ECHILD, "a cancelled run is killed and reaped");
    is_int(got.status, -1, "and tells nobody");
}

int main(void)
{
    struct err err = ERR_INIT;

    (void)signal(SIGPIPE, SIG_IGN);  /* as the daemon does */
    loop = loop_new(&err);
    if (!loop)
        bail_out("%s", err.text);
    test_status();
    test_fds();
    test_signals();
    test_exec_fd();
    test_disown();
    test_run();
    test_cancel();
    loop = loop_free(loop);
    str_free(&out);
    str_free(&errs);
    return done_testing();
}
