/* SPDX-License-Identifier: Apache-2.0 */
/* cricket-worker unpack NUMBER DIGEST SIZE DIFF_ID
 *
 *   0   the compressed bytes, as they arrive          3   socket to the daemon (SOCK_SEQPACKET)
 *   4   the directory of all layers
 *
 * Makes tmp-NUMBER and fills it. When both digests match it says "ready"; the daemon answers
 * "finish LOWER..." (numbers, topmost first) once the layers below are complete. Then implied
 * directories get their looks, the directory its final name, everything goes to the disk by one
 * syncfs, and "done BYTES INODES" ends it. "fail ERRNO TEXT" may come at any time; what was made
 * stays for the daemon to remove. See unpack.h for why there are two processes. */
#include "pull/worker/unpack.h"

#include "mem.h"
#include "pull/worker/worker.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* Behind the daemon: with all processors inflating it was kept from its loop for 80 ms. */
enum { NICE = 5 };

enum { DATA_FD = 0, CONTROL_FD = 3, LAYERS_FD = 4, COMMAND_MAX = 32 * 1024, LOWERS_MAX = 512 };

/* From the child, which is not trusted: lengths are checked, strings ended by the parent. */
struct report {
    int code;
    uint64_t bytes, inodes;
    char diff_id[UNPACK_DIGEST_MAX];
    char text[ERR_TEXT_MAX];
};

struct unpack {
    const char *digest, *diff_id;
    uint64_t size;
    char number[32], tmp[40];
    int layer_fd, implied_fd, data_fd, report_fd;
    pid_t child;
    struct report report;
    bool reported;
};

/* --- the child */

__attribute__((noreturn)) static void child_main(struct unpack *u, int data, int report)
{
    struct report r;
    struct err err = ERR_INIT;
    struct extracted x = { 0, 0 };
    FILE *implied = fdopen(u->implied_fd, "w");
    struct hash *plain = hash_new(u->diff_id);
    struct source *src = source_new(data, plain);

    memset(&r, 0, sizeof r);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setlocale(LC_CTYPE, "C.UTF-8");        /* names in PAX headers are UTF-8 */
    r.code = implied ? jail_enter(u->layer_fd, &err) : err_sys(&err, "fdopen");
    if (r.code == 0)
        r.code = extract_layer(src, implied, &x, &err);
    if (r.code == 0)
        hash_end(plain, r.diff_id);
    r.bytes = x.bytes;
    r.inodes = x.inodes;
    memcpy(r.text, err.text, sizeof r.text);
    (void)!send(report, &r, sizeof r, MSG_NOSIGNAL);
    _exit(r.code ? 1 : 0);
}

/* --- the parent */

static int say(const char *text)
{
    return send(CONTROL_FD, text, strlen(text), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int fail(const struct err *err)
{
    char text[ERR_TEXT_MAX + 32];

    snprintf(text, sizeof text, "fail %d %s", -err->code, err->text);
    (void)say(text);
    return 1;
}

static int start_child(struct unpack *u, struct err *err)
{
    int data[2], report[2];

    if (mkdirat(LAYERS_FD, u->tmp, 0755) < 0)
        return err_sys(err, "mkdir %s", u->tmp);
    u->layer_fd = openat(LAYERS_FD, u->tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (u->layer_fd < 0)
        return err_sys(err, "open %s", u->tmp);
    u->implied_fd = memfd_create("implied", MFD_CLOEXEC);
    if (u->implied_fd < 0)
        return err_sys(err, "memfd_create");
    if (pipe2(data, O_CLOEXEC) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, report) < 0)
        return err_sys(err, "pipe");
    (void)fcntl(data[1], F_SETPIPE_SZ, UNPACK_PIPE);
    u->child = fork();
    if (u->child < 0)
        return err_sys(err, "fork");
    if (u->child == 0) {
        (void)close(data[1]);
        (void)close(report[0]);
        (void)close(CONTROL_FD);
        (void)close(LAYERS_FD);
        (void)close(DATA_FD);
        child_main(u, data[0], report[1]);
    }
    (void)close(data[0]);
    (void)close(report[1]);
    u->data_fd = data[1];
    u->report_fd = report[0];
    return 0;
}

/* The child's last word, or what its death says. */
static void take_report(struct unpack *u)
{
    struct report *r = &u->report;
    int status = 0;
    ssize_t n;

    if (u->reported)
        return;
    u->reported = true;
    do
        n = recv(u->report_fd, r, sizeof *r, 0);
    while (n < 0 && errno == EINTR);
    while (waitpid(u->child, &status, 0) < 0 && errno == EINTR)
        ;
    u->child = -1;
    if (n != (ssize_t)sizeof *r || (r->code == 0 && status != 0)) {
        memset(r, 0, sizeof *r);
        r->code = -EIO;
        if (WIFSIGNALED(status))
            snprintf(r->text, sizeof r->text, "unpacking ended by signal %d (%s)", WTERMSIG(status),
                     sigabbrev_np(WTERMSIG(status)));
        else
            snprintf(r->text, sizeof r->text, "unpacking ended with code %d and no word",
                     WEXITSTATUS(status));
    }
    r->text[sizeof r->text - 1] = '\0';
    r->diff_id[sizeof r->diff_id - 1] = '\0';
}

/* Feeds the child; false when it wants no more. */
static bool feed(struct unpack *u, const char *p, size_t n)
{
    while (n) {
        ssize_t w = write(u->data_fd, p, n);

        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return false;
        p += w;
        n -= (size_t)w;
    }
    return true;
}

/* Reads the layer to its end. A child that gives up because the data are bad does not end it:
 * whether they are what the manifest promised is the better answer. */
static int pump(struct unpack *u, struct err *err)
{
    auto_free char *buf = mem_alloc(UNPACK_BLOCK);
    struct hash *h = hash_new(u->digest);
    char got[UNPACK_DIGEST_MAX];
    uint64_t total = 0;
    bool feeding = true;

    for (;;) {
        ssize_t n = read(DATA_FD, buf, UNPACK_BLOCK);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "read layer");
        if (n == 0)
            break;
        total += (uint64_t)n;
        if (total > u->size)
            return err_set(err, -EBADMSG, "wrong content: more than the %llu bytes of the manifest",
                           (unsigned long long)u->size);
        hash_add(h, buf, (size_t)n);
        if (feeding && !feed(u, buf, (size_t)n)) {
            feeding = false;
            take_report(u);
            if (u->report.code && u->report.code != -EBADMSG && u->report.code != -EIO)
                return err_set(err, u->report.code, "%s", u->report.text);
        }
    }
    u->data_fd = fd_close(u->data_fd);
    hash_end(h, got);
    if (total != u->size)
        return err_set(err, -EBADMSG, "wrong content: %llu bytes instead of %llu",
                       (unsigned long long)total, (unsigned long long)u->size);
    if (strcmp(got, u->digest) != 0)
        return err_set(err, -EBADMSG, "wrong content: its digest is %s", got);
    take_report(u);
    if (u->report.code)
        return err_set(err, u->report.code, "%s", u->report.text);
    if (strcmp(u->report.diff_id, u->diff_id) != 0)
        return err_set(err, -EBADMSG, "wrong content: diff id is %s, the image config says %s",
                       u->report.diff_id, u->diff_id);
    return 0;
}

static int finish(struct unpack *u, char *command, struct err *err)
{
    char *lowers[LOWERS_MAX], *save = NULL;
    size_t n = 0;
    off_t len = lseek(u->implied_fd, 0, SEEK_END);
    const char *list = "";
    int r;

    for (char *w = strtok_r(command, " ", &save); w && n < LOWERS_MAX;
         w = strtok_r(NULL, " ", &save))
        if (w[strspn(w, "0123456789")] == '\0')
            lowers[n++] = w;
    if (len > 0) {
        list = mmap(NULL, (size_t)len, PROT_READ, MAP_PRIVATE, u->implied_fd, 0);
        if (list == MAP_FAILED)
            return err_sys(err, "mmap");
    }
    r = lower_apply(LAYERS_FD, u->layer_fd, list, len > 0 ? (size_t)len : 0, lowers, n, err);
    if (r < 0)
        return r;
    /* Never over another one: who gave out a number twice must not lose a layer by it. */
    if (renameat2(LAYERS_FD, u->tmp, LAYERS_FD, u->number, RENAME_NOREPLACE) < 0 &&
        /* EINVAL: not on this file system */
        (errno != EINVAL || renameat(LAYERS_FD, u->tmp, LAYERS_FD, u->number) < 0))
        return err_sys(err, "rename %s to %s", u->tmp, u->number);
    if (syncfs(LAYERS_FD) < 0)
        return err_sys(err, "syncfs");
    return 0;
}

static int wait_finish(char command[COMMAND_MAX])
{
    ssize_t n;

    do
        n = recv(CONTROL_FD, command, COMMAND_MAX - 1, 0);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        /* the daemon has gone: what was made is collected at its next start */
        return -EPIPE;
    command[n] = '\0';
    return str_starts(command, "finish") ? 0 : -EPROTO;
}

int worker_unpack(int argc, char **argv)
{
    static char command[COMMAND_MAX];
    struct unpack u = {
        .layer_fd = -1, .implied_fd = -1, .data_fd = -1, .report_fd = -1, .child = -1
    };
    struct err err = ERR_INIT;
    char text[128];

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)!nice(NICE);
    umask(0);
    if (argc != 5 || argv[1][strspn(argv[1], "0123456789")] || !argv[1][0] ||
        strlen(argv[1]) > 20) {
        err_set(&err, -EINVAL, "unpack: bad arguments");
        return fail(&err);
    }
    snprintf(u.number, sizeof u.number, "%s", argv[1]);
    snprintf(u.tmp, sizeof u.tmp, "tmp-%s", argv[1]);
    u.digest = argv[2];
    u.size = strtoull(argv[3], NULL, 10);
    u.diff_id = argv[4];
    if (start_child(&u, &err) < 0 || pump(&u, &err) < 0) {
        if (u.child > 0)
            (void)kill(u.child, SIGKILL);
        return fail(&err);
    }
    if (say("ready") < 0 || wait_finish(command) < 0)
        return 1;
    if (finish(&u, command, &err) < 0)
        return fail(&err);
    snprintf(text, sizeof text, "done %llu %llu", (unsigned long long)u.report.bytes,
             (unsigned long long)u.report.inodes);
    return say(text) < 0 ? 1 : 0;
}
