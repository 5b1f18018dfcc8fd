/* SPDX-License-Identifier: Apache-2.0 */
/* cricketd: options, configuration, wiring; the one file that knows every folder.
 *
 *   configuration -> loop -> handlers (store, recovery) -> socket -> "ready" -> loop ... SIGTERM ->
 *   no new connections, calls in flight finish -> handlers end -> exit
 *
 * The socket opens last: a client that can connect finds everything recovered. With socket
 * activation clients wait in the socket's queue meanwhile, over restarts too. Containers never
 * notice: they belong to their supervisors. */
#include "config.h"

#include "conf.h"
#include "handlers/handlers.h"
#include "log.h"
#include "mem.h"
#include "reactor/grpc.h"
#include "reactor/loop.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

enum {
    FIRST_FD = 3,                    /* sd_listen_fds(3) */
    SLICE_NS = 100 * 1000,           /* the shortest that the kernel knows */
};

struct daemon {
    struct loop *loop;
    struct conf *conf;
    struct handlers *handlers;
    struct grpc_server *grpc;
    int signals;
    ev_io signals_io;
    bool stopping;
};

/* sd_notify(3): one datagram to $NOTIFY_SOCKET. Nobody listens: nothing to do. */
static void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    auto_fd int fd = -1;
    size_t n;

    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof un.sun_path)
        return;
    n = strlen(path);
    memcpy(un.sun_path, path, n);
    if (path[0] == '@')
        un.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 ||
        sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&un,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
        log_warn("op=notify state='%s' err='%s', ignoring", state, strerror(errno));
}

/* The socket that the service manager holds open for us, or -1. */
static int activated(struct err *err)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    int n = -1;

    if (pid && fds && strtol(pid, NULL, 10) == getpid())
        n = (int)strtol(fds, NULL, 10);
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
    if (n <= 0)
        return -1;
    for (int i = 0; i < n; i++)
        (void)fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC);
    if (n > 1)
        return err_set(err, -EINVAL, "the service manager handed over %d sockets, one is expected",
                       n);
    return FIRST_FD;
}

static int make_parent(const char *path, struct err *err)
{
    auto_free char *p = mem_strdup(path);

    for (char *s = strchr(p + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = '\0';
        if (mkdir(p, 0711) < 0 && errno != EEXIST)
            return err_sys(err, "socket '%s': directory '%s'", path, p);
        *s = '/';
    }
    return 0;
}

static void on_closed(void *arg)
{
    struct daemon *d = arg;

    loop_stop(d->loop);
}

static void on_signal(struct ev_loop *ev, ev_io *w, int revents)
{
    struct daemon *d = w->data;
    struct signalfd_siginfo si;

    (void)ev;
    (void)revents;
    while (read(d->signals, &si, sizeof si) == (ssize_t)sizeof si) {
        const char *name = sigabbrev_np((int)si.ssi_signo);

        if (si.ssi_signo == SIGHUP) {
            log_info(
                "op=signal signal=HUP note='the configuration is read at start only, ignoring'");
            continue;
        }
        log_info("op=stop signal=%s calls=%zu", name ? name : "?", grpc_live_calls(d->grpc));
        if (d->stopping) {           /* asked twice: now */
            loop_stop(d->loop);
            continue;
        }
        d->stopping = true;
        notify("STOPPING=1");
        grpc_shutdown(d->grpc, d->conf->shutdown_ms, on_closed, d);
    }
}

static int watch_signals(struct daemon *d, struct err *err)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return err_sys(err, "signals");
    d->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (d->signals < 0)
        return err_sys(err, "signals");
    return 0;
}

static int serve(struct daemon *d, struct err *err)
{
    struct grpc_opts o = { .socket_path = d->conf->listen,
                           .mode = d->conf->socket_mode,
                           .uid = d->conf->socket_uid,
                           .gid = d->conf->socket_gid };
    int r;

    r = watch_signals(d, err);
    if (r < 0)
        return r;
    o.listen_fd = activated(err);
    if (o.listen_fd < -1)
        return o.listen_fd;
    d->loop = loop_new(err);
    if (!d->loop)
        return err->code;
    r = handlers_new(d->loop, d->conf, &d->handlers, err);
    if (r < 0)
        return r;
    if (o.listen_fd < 0)
        r = make_parent(d->conf->listen, err);
    if (r < 0)
        return r;
    o.methods = handlers_methods(d->handlers);
    o.ctx = d->handlers;
    r = grpc_listen(d->loop, &o, &d->grpc, err);
    if (r < 0)
        return r;
    ev_io_init(&d->signals_io, on_signal, d->signals, EV_READ);
    d->signals_io.data = d;
    ev_io_start(loop_ev(d->loop), &d->signals_io);
    log_info("op=ready version=%s listen='%s' root='%s' state='%s'", PACKAGE_VERSION,
             o.listen_fd < 0 ? d->conf->listen : "(activated)", d->conf->root, d->conf->state);
    mem_trim();                      /* start-up is over */
    notify("READY=1");
    loop_run(d->loop);
    ev_io_stop(loop_ev(d->loop), &d->signals_io);
    return 0;
}

/* sched_setattr(2); glibc does not have it, and the kernel's header is not for use beside glibc's. */
struct sched_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* Its turns are short, so it asks for short slices: since Linux 6.12 who does that need not wait for
 * the next tick while layers are unpacked. No larger share, and nothing for what it starts; so not
 * where somebody has given it a priority, which would not be handed on then. */
static void short_slices(void)
{
    struct sched_attr a;

    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) < 0 || a.policy != SCHED_NORMAL ||
        a.nice < 0)
        return;
    a.size = sizeof a;
    a.flags = SCHED_FLAG_RESET_ON_FORK;
    a.runtime = SLICE_NS;
    (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

static int run(struct conf *conf)
{
    struct daemon d = { .conf = conf, .signals = -1 };
    struct err err = ERR_INIT;
    int r;

    (void)umask(0022);
    short_slices();
    log_set_level(conf->log_level);
    r = serve(&d, &err);
    if (r < 0)
        log_error("op=start err='%s'", err.text);
    d.grpc = grpc_free(d.grpc);
    d.handlers = handlers_free(d.handlers);
    d.loop = loop_free(d.loop);
    fd_close(d.signals);
    if (r == 0)
        log_info("op=exit");
    return r < 0 ? 1 : 0;
}

static void usage(FILE *f)
{
    fputs("usage: cricketd [--config FILE] [--config-dir DIR] [--root DIR] [--state DIR]\n"
          "                [--listen unix://PATH] [--log-level error|warn|info|debug]\n"
          "                [--check-config] [--version] [--help]\n",
          f);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "config", required_argument, NULL, 'c' }, { "config-dir", required_argument, NULL, 'd' },
        { "root", required_argument, NULL, 'r' },   { "state", required_argument, NULL, 's' },
        { "listen", required_argument, NULL, 'l' }, { "log-level", required_argument, NULL, 'L' },
        { "check-config", no_argument, NULL, 'C' }, { "version", no_argument, NULL, 'V' },
        { "help", no_argument, NULL, 'h' },         { NULL, 0, NULL, 0 },
    };
    struct conf_args args = { NULL };
    struct conf *conf = NULL;
    struct err err = ERR_INIT;
    bool check = false;
    int o, r;

    mem_init();
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (o) {
        case 'c': args.file = optarg; break;
        case 'd': args.dir = optarg; break;
        case 'r': args.root = optarg; break;
        case 's': args.state = optarg; break;
        case 'l': args.listen = optarg; break;
        case 'L': args.log_level = optarg; break;
        case 'C': check = true; break;
        case 'V': puts("cricketd " PACKAGE_VERSION); return 0;
        case 'h': usage(stdout); return 0;
        default: usage(stderr); return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "cricketd: unexpected argument '%s'\n", argv[optind]);
        usage(stderr);
        return 2;
    }
    if (conf_load(&args, &conf, &err) < 0) {
        fprintf(stderr, "cricketd: %s\n", err.text);
        return 1;
    }
    if (check)
        puts("cricketd: the configuration is valid");
    r = check ? 0 : run(conf);
    conf_free(conf);
    return r;
}
