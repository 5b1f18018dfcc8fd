/* SPDX-License-Identifier: Apache-2.0 */
/* Binding a unix socket without races: the parent directory is locked (flock(2) on the directory
 * itself, nothing is left behind) while we look whether somebody lives there, remove a stale socket
 * and bind, so two daemons that start at once cannot remove each other's socket. The socket's inode
 * gets mode 0600 before bind(2), which the file inherits; owner and then mode are set afterwards:
 * at no moment is it more open than asked for. */
#include "reactor/listen.h"

#include "log.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { BACKLOG = 128, ACCEPT_AT_ONCE = 16 };

static int lock_parent(const char *path, struct err *err)
{
    auto_free char *dir = mem_strdup(path);
    char *slash = strrchr(dir, '/');
    int fd;

    if (slash)
        slash[slash == dir] = '\0';
    fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, "socket '%s': directory", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int r = err_sys(err, "socket '%s': another daemon is starting there", path);

        close(fd);
        return r;
    }
    return fd;
}

/* 0: the path is free now. */
static int clear_path(const struct sockaddr_un *un, struct err *err)
{
    auto_fd int fd = -1;
    struct stat st;

    if (lstat(un->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(err, "socket '%s'", un->sun_path);
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, -EEXIST, "socket '%s': there is something that is not a socket",
                       un->sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(err, "socket '%s'", un->sun_path);
    if (connect(fd, (const struct sockaddr *)un, sizeof *un) == 0 || errno == EAGAIN)
        return err_set(err, -EADDRINUSE, "socket '%s': a daemon is listening there already",
                       un->sun_path);
    if (errno != ECONNREFUSED && errno != ENOENT)
        return err_sys(err, "socket '%s': connect", un->sun_path);
    if (unlink(un->sun_path) < 0 && errno != ENOENT)
        return err_sys(err, "socket '%s': stale, but cannot be removed", un->sun_path);
    return 0;
}

int listen_unix(const char *path, mode_t mode, uid_t uid, gid_t gid, struct err *err)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    auto_fd int dir = -1;
    auto_fd int fd = -1;
    int r;

    if (strlen(path) >= sizeof un.sun_path)
        return err_set(err, -ENAMETOOLONG, "socket '%s': longer than %zu bytes", path,
                       sizeof un.sun_path - 1);
    memcpy(un.sun_path, path, strlen(path) + 1);
    dir = lock_parent(path, err);
    if (dir < 0)
        return dir;
    r = clear_path(&un, err);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(err, "socket '%s'", path);
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&un, sizeof un) < 0)
        return err_sys(err, "socket '%s': bind", path);
    if (((uid != (uid_t)-1 || gid != (gid_t)-1) && lchown(path, uid, gid) < 0) ||
        chmod(path, mode) < 0 || listen(fd, BACKLOG) < 0) {
        r = err_sys(err, "socket '%s': owner and mode", path);
        (void)unlink(path);
        return r;
    }
    return take_fd(&fd);
}

int listen_tcp(const char *address, int port, struct err *err)
{
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE };
    struct addrinfo *ai;
    auto_fd int fd = -1;
    char service[16];
    int on = 1, r;

    snprintf(service, sizeof service, "%d", port);
    r = getaddrinfo(address, service, &hints, &ai); /* numeric: does not block */
    if (r != 0)
        return err_set(err, -EINVAL, "listen on '%s' port %d: %s", address, port, gai_strerror(r));
    fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
        r = err_sys(err, "listen on '%s' port %d", address, port);
    freeaddrinfo(ai);
    return r < 0 ? r : take_fd(&fd);
}

int listen_adopt(int fd, struct err *err)
{
    int v = 0, type = 0;
    socklen_t n = sizeof v;

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &v, &n) < 0)
        return err_sys(err, "socket from the service manager (descriptor %d)", fd);
    n = sizeof type;
    (void)getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n);
    if (!v || type != SOCK_STREAM)
        return err_set(err, -EINVAL,
                       "descriptor %d from the service manager is not a listening stream socket",
                       fd);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return err_sys(err, "socket from the service manager (descriptor %d)", fd);
    return 0;
}

struct listener {
    struct loop *loop;
    int fd;
    ev_io io;
    ev_timer again;
    void (*cb)(void *arg, int fd);
    void *arg;
};

static void on_readable(struct ev_loop *ev, ev_io *w, int revents)
{
    struct listener *l = w->data;
    int on = 1;

    (void)revents;
    for (int i = 0; i < ACCEPT_AT_ONCE; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            /* unix: refused, fine */
            (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            l->cb(l->arg, fd);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_error("op=accept err='%s', accepting again in a second", strerror(errno));
            ev_io_stop(ev, &l->io);
            ev_timer_set(&l->again, 1., 0.);
            ev_timer_start(ev, &l->again);
        }
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

static void on_again(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct listener *l = w->data;

    (void)revents;
    ev_io_start(ev, &l->io);
}

struct listener *listener_new(struct loop *l, int fd, void (*cb)(void *arg, int fd), void *arg)
{
    struct listener *s = mem_new(struct listener);

    s->loop = l;
    s->fd = fd;
    s->cb = cb;
    s->arg = arg;
    ev_io_init(&s->io, on_readable, fd, EV_READ);
    ev_timer_init(&s->again, on_again, 1., 0.);
    s->io.data = s->again.data = s;
    ev_io_start(loop_ev(l), &s->io);
    return s;
}

struct listener *listener_free(struct listener *l)
{
    if (!l)
        return NULL;
    ev_io_stop(loop_ev(l->loop), &l->io);
    ev_timer_stop(loop_ev(l->loop), &l->again);
    fd_close(l->fd);
    free(l);
    return NULL;
}
