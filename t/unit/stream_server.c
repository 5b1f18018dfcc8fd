/* SPDX-License-Identifier: Apache-2.0 */
/* The server of t/10-stream.t: src/reactor's streaming with plain processes in place of containers.
 *
 * `stream_server ADDRESS` answers a line per command on stdin:
 *   exec|attach FLAGS COMMAND   FLAGS of i o e t (t: tty), or -; a URL
 *                               attach: the end is a success without a code
 *   forward PORT...             a URL
 *   patience T O I              ms for tokens, for opening streams, for idling
 *   counts                      what the handlers were told
 *   quit */
#include "tap.h"

#include "list.h"
#include "mem.h"
#include "reactor/child.h"
#include "reactor/loop.h"
#include "reactor/stream.h"
#include "reactor/stream_int.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static struct loop *loop;
static struct stream_server *server;
static struct str line = STR_INIT;
static int n_begun, n_gone, n_expired, n_exits, n_dials;
static struct session *forward_session;

struct job {
    struct list link;
    enum stream_kind kind;
    char *command;
    bool tty;
    struct session *session;
    struct child *child;
    int pty;                         /* for window sizes */
};

static struct list jobs = LIST_INIT(jobs);
static struct job *forward_job;

static void job_free(struct job *j)
{
    list_del(&j->link);
    fd_close(j->pty);
    free(j->command);
    free(j);
}

static void on_exit_(void *arg, int status)
{
    struct job *j = arg;

    n_exits++;
    if (j->session)
        session_exited(j->session, j->kind == STREAM_ATTACH ? -1 : status);
    job_free(j);
}

static int open_pty(struct job *j, struct child_fd fds[3], struct session *s, int *slave)
{
    int m = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    char name[64];

    if (m < 0 || grantpt(m) < 0 || unlockpt(m) < 0 || ptsname_r(m, name, sizeof name) != 0)
        return -1;
    *slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    for (int i = 0; i < 3; i++)
        fds[i] = (struct child_fd){ *slave, i };
    j->pty = fcntl(m, F_DUPFD_CLOEXEC, 3);
    session_pty(s, m);
    return 3;
}

static void begin(void *arg, struct session *s)
{
    struct job *j = arg;
    struct child_opts o = CHILD_OPTS_INIT;
    struct err err = ERR_INIT;
    struct child_fd map[3];
    int fds[3], slave = -1;
    const char *argv[6] = { "setsid", "-c", "sh", "-c", j->command, NULL };

    n_begun++;
    if (j->kind == STREAM_PORT_FORWARD) {
        j->session = forward_session = s;
        forward_job = j;
        return;
    }
    j->session = s;
    if (strcmp(j->command, "FAIL") == 0) {
        session_fail(s, "no such \xff command \"FAIL\"");
        job_free(j);
        return;
    }
    o.path = j->tty ? "/usr/bin/setsid" : "/bin/sh";
    o.argv = (char *const *)(uintptr_t)(j->tty ? argv : argv + 2);
    o.fds = map;
    o.new_session = true;
    if (j->tty) {
        o.new_session = false;
        o.n_fds = (size_t)open_pty(j, map, s, &slave);
    } else {
        session_fds(s, fds);
        for (int i = 0; i < 3; i++)
            if (fds[i] >= 0)
                map[o.n_fds++] = (struct child_fd){ fds[i], i };
    }
    if (child_spawn(loop, &o, on_exit_, j, &j->child, &err) < 0)
        bail_out("%s", err.text);
    fd_close(slave);
    session_close_fds(s);
}

static void gone(void *arg, struct session *s)
{
    struct job *j = arg;

    n_gone++;
    if (j->session != s)
        abort();
    j->session = NULL;
    if (j->kind == STREAM_PORT_FORWARD) {
        forward_session = NULL;
        job_free(j);
    } else {
        (void)kill(-child_pid(j->child), SIGKILL);
        child_kill(j->child, SIGKILL);
    }
}

static void expired(void *arg)
{
    n_expired++;
    job_free(arg);
}

static void resize(void *arg, struct session *s, uint16_t w, uint16_t h)
{
    struct job *j = arg;
    struct winsize ws = { .ws_col = w, .ws_row = h };

    (void)s;
    (void)ioctl(j->pty, TIOCSWINSZ, &ws);
}

static int dial(void *arg, int family, struct err *err)
{
    (void)arg;
    n_dials++;
    return netns_socket(n_dials % 2 ? "/proc/self/ns/net" : NULL, family, err);
}

static void offer(enum stream_kind kind, const char *flags, const char *rest)
{
    struct stream_offer o = { .kind = kind,
                              .begin = begin,
                              .gone = gone,
                              .expired = expired,
                              .resize = resize,
                              .dial = dial };
    struct job *j = mem_new(struct job);
    struct err err = ERR_INIT;
    int32_t ports[16];
    char *url, *end;

    list_add_tail(&jobs, &j->link);
    j->kind = kind;
    j->pty = -1;
    j->command = mem_strdup(rest);
    j->tty = o.tty = strchr(flags, 't') != NULL;
    o.in = strchr(flags, 'i') != NULL;
    o.out = strchr(flags, 'o') != NULL;
    o.err = strchr(flags, 'e') != NULL;
    o.ports = ports;
    o.arg = j;
    while (kind == STREAM_PORT_FORWARD && *rest && o.n_ports < ARRAY_LEN(ports)) {
        ports[o.n_ports++] = (int32_t)strtol(rest, &end, 10);
        rest = end + strspn(end, " ");
    }
    if (stream_offer(server, &o, &url, &err) < 0) {
        printf("error %d %s\n", err.grpc, err.text);
        job_free(j);
        return;
    }
    puts(url);
    free(url);
}

static void command(char *s)
{
    char *verb = strtok(s, " "), *flags, *rest;

    if (!verb)
        return;
    if (strcmp(verb, "quit") == 0) {
        loop_stop(loop);
    } else if (strcmp(verb, "counts") == 0) {
        int fds = 0;

        for (int fd = 0; fd < 1024; fd++)
            fds += fcntl(fd, F_GETFD) >= 0;
        printf("{\"begun\":%d,\"gone\":%d,\"expired\":%d,\"exits\":%d,\"dials\":%d,\"sessions\":%"
               "zu,\"fds\":%d}\n",
               n_begun, n_gone, n_expired, n_exits, n_dials, stream_sessions(server), fds);
    } else if (strcmp(verb, "patience") == 0) {
        rest = strtok(NULL, "");
        server->patience.token_ms = strtol(rest, &rest, 10);
        server->patience.open_ms = strtol(rest, &rest, 10);
        server->patience.idle_ms = strtol(rest, &rest, 10);
        puts("patient");
    } else if (strcmp(verb, "close") == 0) {     /* the pod stops */
        if (forward_session) {
            session_close(forward_session);
            forward_session = NULL;
            job_free(forward_job);
        }
        puts("closed");
    } else if (strcmp(verb, "forward") == 0) {
        rest = strtok(NULL, "");
        offer(STREAM_PORT_FORWARD, "-", rest ? rest : "");
    } else {
        flags = strtok(NULL, " ");
        rest = strtok(NULL, "");
        offer(strcmp(verb, "attach") == 0 ? STREAM_ATTACH : STREAM_EXEC, flags ? flags : "-",
              rest ? rest : "");
    }
}

static void on_stdin(struct ev_loop *ev, ev_io *w, int revents)
{
    char buf[4096], *nl;
    ssize_t n = read(0, buf, sizeof buf);

    (void)ev;
    (void)w;
    (void)revents;
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        loop_stop(loop);
        return;
    }
    str_add(&line, buf, (size_t)n);
    while ((nl = memchr(line.p, '\n', line.len))) {
        auto_free char *one = mem_dup(line.p, (size_t)(nl - line.p));

        str_consume(&line, (size_t)(nl - line.p) + 1);
        command(one);
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    ev_io io;

    if (argc != 2)
        skip_all("this is the server of t/10-stream.t");
    (void)signal(SIGPIPE, SIG_IGN);
    loop = loop_new(&err);
    if (!loop || stream_listen(loop, argv[1], 0, &server, &err) < 0)
        bail_out("%s", err.text);
    ev_io_init(&io, on_stdin, 0, EV_READ);
    ev_io_start(loop_ev(loop), &io);
    loop_run(loop);
    ev_io_stop(loop_ev(loop), &io);
    server = stream_free(server);
    while (!list_empty(&jobs)) {
        struct job *j = list_first(&jobs, struct job, link);

        if (j->child) { /* the session's end of its stdin is closed: cat ends by itself */
            child_disown(j->child);
            child_kill(j->child, SIGKILL);
        }
        job_free(j);
    }
    loop = loop_free(loop);
    str_free(&line);
    return 0;
}
