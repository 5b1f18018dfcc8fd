/* SPDX-License-Identifier: Apache-2.0 */
/* DEL must not come while an ADD still works: what that does afterwards nobody undoes. Nor may it
 * be killed without need: host-local makes a file named as the address and then writes into it
 * whose it is, and a file without an owner is an address that is lost for ever.
 *
 * So plugins of a daemon that is killed go on, and the next one has to know when they are done. It
 * was not their parent, and their names, groups and environments can be changed, or are not there
 * yet in the middle of an execve(2). An open FIFO is handed on by fork and execve without a gap,
 * and closed by an exit only after the last thing that the process could do:
 *
 *      daemon   mkfifo, open read-write ---- plugins inherit it ---- unlink     (cni_call.c)
 *      killed   its own descriptor is closed, theirs are not
 *      next     open read-only: EAGAIN while there is a writer, then EPOLLHUP   (here)
 *
 * See fifo(7), pipe(7). Whoever closes it on purpose means to outlive the call. */
#include "proc/cni_hold.h"

#include "log.h"
#include "mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { KILL_EVERY_MS = 50, KILLS = 200 };

static bool holds(int proc, const char *pid, const struct stat *fifo)
{
    auto_free char *name = mem_printf("%s/fd/%d", pid, CNI_HOLD_FD);
    struct stat st;

    return fstatat(proc, name, &st, 0) == 0 && st.st_dev == fifo->st_dev &&
           st.st_ino == fifo->st_ino;
}

/* Everyone but us, who may have it under any number. */
static void kill_holders(const struct cni_hold *h)
{
    auto_free char *self = mem_printf("%d", (int)getpid());
    DIR *d = opendir("/proc");
    struct dirent *e;
    struct stat fifo;

    while (d && fstat(h->rest, &fifo) == 0 && (e = readdir(d))) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9' || strcmp(e->d_name, self) == 0 ||
            !holds(dirfd(d), e->d_name, &fifo))
            continue;
        auto_fd int pidfd = (int)syscall(SYS_pidfd_open, atoi(e->d_name), 0);

        /* once more: now the number cannot become another's */
        if (pidfd < 0 || !holds(dirfd(d), e->d_name, &fifo))
            continue;
        log_info("op=cni path='%s' pid=%s note='a plugin, or what it has started, does not end', "
                 "killing it", h->path, e->d_name);
        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    }
    if (d)
        closedir(d);
}

/* 0: nobody has it open for writing any more; 1: somebody has. What may have been written is of no
 * interest. */
static int ask(const struct cni_hold *h, struct err *err)
{
    char buf[512];
    ssize_t n;

    while ((n = read(h->rest, buf, sizeof buf)) > 0 || (n < 0 && errno == EINTR))
        ;
    if (n < 0 && errno != EAGAIN)
        return err_sys(err, "read '%s'", h->path);
    return n < 0;
}

static void end_wait(struct cni_hold *h)
{
    ev_io_stop(loop_ev(h->loop), &h->io);
    ev_timer_stop(loop_ev(h->loop), &h->timer);
    h->rest = fd_close(h->rest);
}

static int open_ours(struct cni_hold *h, struct err *err)
{
    h->fd = open(h->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return h->fd < 0 ? err_sys(err, "open '%s'", h->path) : 0;
}

static void on_rest(struct ev_loop *ev, ev_io *w, int revents)
{
    struct cni_hold *h = w->data;
    struct err err = ERR_INIT;
    int r;

    (void)ev;
    (void)revents;
    loop_name(h->loop, "cni hold");
    r = ask(h, &err);
    if (r > 0)
        return;
    end_wait(h);
    if (r == 0)
        r = open_ours(h, &err);
    h->taken(h->arg, r < 0 ? &err : NULL);
}

static void on_late(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct cni_hold *h = w->data;
    struct err err = ERR_INIT;

    (void)ev;
    (void)revents;
    loop_name(h->loop, "cni hold");
    if (h->kills++ < KILLS) {
        kill_holders(h);             /* again and again: one may have started another meanwhile */
        return;
    }
    end_wait(h);
    err_set(&err, -EBUSY, "a plugin of an earlier call does not end ('%s' is open)", h->path);
    h->taken(h->arg, &err);
}

void cni_hold_init(struct cni_hold *h, struct loop *l, const char *dir, const char *id,
                   cni_hold_fn taken, void *arg)
{
    h->loop = l;
    h->path = mem_printf("%s/%s", dir, id);
    h->fd = h->rest = -1;
    h->taken = taken;
    h->arg = arg;
    ev_io_init(&h->io, on_rest, -1, EV_READ);
    ev_timer_init(&h->timer, on_late, 0., 0.);
    h->io.data = h->timer.data = h;
}

int cni_hold_take(struct cni_hold *h, int64_t patience_ms, struct err *err)
{
    struct ev_loop *ev = loop_ev(h->loop);
    int r;

    if (mkfifo(h->path, 0600) < 0 && errno != EEXIST)
        return err_sys(err, "make FIFO '%s'", h->path);
    h->rest = open(h->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (h->rest < 0)
        return err_sys(err, "open '%s'", h->path);
    r = ask(h, err);
    if (r <= 0) {
        h->rest = fd_close(h->rest);
        return r < 0 ? r : open_ours(h, err);
    }
    log_info("op=cni path='%s' note='what was begun before has not ended', waiting for it",
             h->path);
    h->kills = 0;
    ev_io_set(&h->io, h->rest, EV_READ);
    ev_io_start(ev, &h->io);
    ev_now_update(ev);
    ev_timer_set(&h->timer, (double)patience_ms / 1e3, KILL_EVERY_MS / 1e3);
    ev_timer_start(ev, &h->timer);
    return 1;
}

void cni_hold_drop(struct cni_hold *h)
{
    if (!h->path)
        return;
    end_wait(h);
    h->fd = fd_close(h->fd);
}

void cni_hold_end(struct cni_hold *h)
{
    if (h->fd >= 0)
        (void)unlink(h->path);
    cni_hold_drop(h);
}

void cni_hold_deinit(struct cni_hold *h)
{
    cni_hold_drop(h);
    free(h->path);
}
