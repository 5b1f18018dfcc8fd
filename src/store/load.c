/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a store at start: `cricket-worker store read` maps it and sends its records through a
 * pipe. LMDB trusts its pages; one bad block can make it crash, and then a child dies here and not
 * each daemon at each start. Blocks until the child has ended. */
#include "store/priv.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

static int spawn_reader(const char *worker, const char *dir, int out, pid_t *ret, struct err *err)
{
    auto_free char *arg_dir = mem_strdup(dir), *arg0 = mem_strdup(worker);
    char job[] = "store", mode[] = "read";
    char *argv[] = { arg0, job, mode, arg_dir, NULL };
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none;

    sigemptyset(&none);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, out, 1);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    int r = posix_spawn(ret, worker, &fa, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&fa);
    return r ? err_code(err, -r, "start of '%s'", worker) : 0;
}

static int take_rows(const char *p, size_t n, struct changes *rows, struct err *err)
{
    struct store_change c;
    int r;

    while ((r = store_msg_next(&p, &n, &c)) > 0)
        changes_set(rows, false, c.table, c.key, c.val, c.len);
    return r < 0 ? err_set(err, -EIO, "what its reader says does not parse") : 0;
}

/* 1: END came; 0: the pipe ended without; the reader's own error as -EBADMSG or what it was. */
static int read_frames(int fd, struct changes *rows, struct err *err)
{
    auto_str struct str in = STR_INIT;
    struct store_msg_head h;

    for (;;) {
        ssize_t k = read(fd, str_room(&in, 65536), 65536);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_sys(err, "read from its reader");
        if (k == 0)
            return 0;
        in.len += (size_t)k;
        int m;
        while ((m = store_msg_head(in.p, in.len, &h)) > 0) {
            const char *p = in.p + sizeof h;
            int32_t status;
            int r = 0;

            if (h.kind == STORE_MSG_END)
                return 1;
            if (h.kind == STORE_MSG_FAIL && h.len >= sizeof status) {
                memcpy(&status, p, sizeof status);
                return err_set(err, status < 0 ? status : -EIO, "%.*s",
                               (int)(h.len - sizeof status),
                               p + sizeof status);
            }
            if (h.kind == STORE_MSG_ROWS)
                r = take_rows(p, h.len, rows, err);
            if (r < 0)
                return r;
            str_consume(&in, sizeof h + h.len);
        }
        if (m < 0)
            return err_set(err, -EIO, "what its reader says does not parse");
    }
}

int store_load_copy(const char *path, struct changes *rows, struct err *err)
{
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return err_sys(err, "'%s'", path);
    int r = read_frames(fd, rows, err);
    if (r == 1)
        return 0;
    changes_clear(rows);
    return r < 0 ? err_note(err, "'%s'", path) : err_set(err, -EBADMSG, "'%s' is cut off", path);
}

static bool is_crash(int status)
{
    int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;

    return sig == SIGSEGV || sig == SIGBUS || sig == SIGABRT || sig == SIGFPE || sig == SIGILL;
}

int store_load(const char *worker, const char *dir, struct changes *rows, enum load_state *ret,
               struct err *err)
{
    struct stat st;
    int fds[2], status = 0;
    pid_t pid;

    if (stat(dir, &st) < 0) {
        if (errno != ENOENT)
            return err_sys(err, "store '%s'", dir);
        *ret = LOAD_ABSENT;
        return 0;
    }
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_sys(err, "pipe");
    auto_fd int in = fds[0];
    int r = spawn_reader(worker, dir, fds[1], &pid, err);
    close(fds[1]);
    if (r < 0)
        return r;
    r = read_frames(in, rows, err);
    in = fd_close(in);               /* a reader that still writes ends */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *ret = LOAD_OK;
    if (r == 1)
        return 0;
    changes_clear(rows);
    if (r == 0 && is_crash(status))
        r = err_set(err, -EBADMSG, "store '%s': its reader crashed (signal %d)", dir,
                    WTERMSIG(status));
    else if (r == 0)
        r = err_set(err, -EIO, "store '%s': its reader ended early (status 0x%x)", dir,
                    (unsigned)status);
    if (r == -EBADMSG) {
        *ret = LOAD_DAMAGED;
        return 0;
    }
    return r;
}
