/* SPDX-License-Identifier: Apache-2.0 */
/* The server of t/10-grpc.t: src/reactor's gRPC with methods that wait, stream, fail and count,
 * which cricketd's own RPCs do only with containers. `grpc_server SOCKET FILE` serves until
 * SIGTERM, then shuts down in order.
 *
 * Messages are borrowed from the CRI: ExecSyncRequest (container_id: text, cmd: words, timeout: a
 * number) and ExecSyncResponse (stdout, stderr: bytes, exit_code). */
#include "tap.h"

#include "list.h"
#include "mem.h"
#include "reactor/grpc.h"
#include "reactor/loop.h"
#include "runtime.pb-c.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>

static struct loop *loop;
static struct grpc_server *server;
static int n_cancelled, n_deadline, n_kept, n_refused, n_drains;
static int record_fd, dirty, recorded;
static size_t max_queued;

#define REQ(rpc, m) ((const Runtime__V1__ExecSyncRequest *)(const void *)(m))

static void answer(struct rpc *rpc, const void *p, size_t n)
{
    Runtime__V1__ExecSyncResponse r;

    runtime__v1__exec_sync_response__init(&r);
    r.stdout.len = n;
    r.stdout.data = mem_dup(p, n);
    rpc_ok(rpc, &r.base);
    free(r.stdout.data);
}

static void echo(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    (void)ctx;
    rpc_ok(rpc, m);
}

/* A reply of `timeout` bytes of stdout. */
static void big(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    size_t n = (size_t)REQ(rpc, m)->timeout;
    char *p = mem_alloc(n);

    (void)ctx;
    memset(p, 'b', n);
    answer(rpc, p, n);
    free(p);
}

static void count_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    (void)arg;
    if (why == RPC_DEADLINE)
        n_deadline++;
    else
        n_cancelled++;
    if (!rpc_is_gone(rpc))
        abort();
    rpc_fail(rpc, GRPC_INTERNAL, "too late, nobody may see this");
    n_kept--;
    rpc_release(rpc);
}

static void never(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    (void)m;
    (void)ctx;
    rpc_keep(rpc);
    n_kept++;
    rpc_on_gone(rpc, count_gone, NULL);
}

struct nap {
    ev_timer timer;
    struct rpc *rpc;
    const Runtime__V1__ExecSyncRequest *req;
};

static void nap_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    struct nap *n = arg;

    ev_timer_stop(loop_ev(loop), &n->timer);
    count_gone(rpc, why, NULL);
}

static void nap_over(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct nap *n = w->data;

    (void)ev;
    (void)revents;
    rpc_on_gone(n->rpc, NULL, NULL);
    /* the request is still there */
    answer(n->rpc, n->req->container_id, strlen(n->req->container_id));
    n_kept--;
    rpc_release(n->rpc);
}

/* Answers the text after `timeout` ms. */
static void nap(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    struct nap *n = rpc_alloc(rpc, sizeof *n);

    (void)ctx;
    n->rpc = rpc;
    n->req = REQ(rpc, m);
    rpc_keep(rpc);
    n_kept++;
    rpc_on_gone(rpc, nap_gone, n);
    ev_timer_init(&n->timer, nap_over, (double)n->req->timeout / 1000, 0.);
    n->timer.data = n;
    ev_timer_start(loop_ev(loop), &n->timer);
}

static void fail(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    (void)ctx;
    rpc_fail(rpc, (int)REQ(rpc, m)->timeout, "%s", REQ(rpc, m)->container_id);
    rpc_fail(rpc, GRPC_INTERNAL, "a second end is ignored");
}

struct stream {
    int64_t next, count;
    size_t size;
    int fail_with;
};

static void stream_more(struct rpc *rpc, void *arg)
{
    struct stream *s = arg;
    Runtime__V1__ExecSyncResponse r;
    char *p = mem_alloc(s->size);
    int n = 0;

    n_drains++;
    runtime__v1__exec_sync_response__init(&r);
    r.stdout.len = s->size;
    r.stdout.data = (uint8_t *)p;
    for (; s->next < s->count; s->next++) {
        r.exit_code = (int32_t)s->next;
        n = rpc_send(rpc, &r.base);
        if (rpc_queued(rpc) > max_queued)
            max_queued = rpc_queued(rpc);
        if (n < 0)
            break;
    }
    free(p);
    if (n == -ENOBUFS)
        n_refused++;
    if (s->next < s->count)
        return;
    if (s->fail_with)
        rpc_fail(rpc, s->fail_with, "after %lld", (long long)s->next);
    else
        rpc_end(rpc);
}

/* `timeout` messages of cmd[0] bytes as fast as the queue lets them; then status cmd[1]. */
static void stream(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    struct stream *s = rpc_alloc(rpc, sizeof *s);
    const Runtime__V1__ExecSyncRequest *req = REQ(rpc, m);

    (void)ctx;
    s->count = req->timeout;
    s->size = req->n_cmd > 0 ? strtoul(req->cmd[0], NULL, 10) : 0;
    s->fail_with = req->n_cmd > 1 ? (int)strtol(req->cmd[1], NULL, 10) : 0;
    rpc_on_drain(rpc, stream_more, s);
    stream_more(rpc, s);
}

/* Headers, then silence. */
static void quiet(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    never(rpc, m, ctx);
    rpc_begin(rpc);
}

/* What the before-reply hook wrote must be in the file when the reply is seen. */
static void record(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    char n[32];

    (void)m;
    (void)ctx;
    snprintf(n, sizeof n, "%d", dirty + 1);
    answer(rpc, n, strlen(n));
    dirty++;                         /* after the reply, in the same turn: still recorded first */
}

static void on_settle(void *arg)
{
    char n[32];

    (void)arg;
    if (recorded == dirty)
        return;
    recorded = dirty;
    snprintf(n, sizeof n, "%-20d", recorded);
    if (pwrite(record_fd, n, 20, 0) != 20)
        abort();
}

static void add_method(const struct grpc_method *m, const struct grpc_method_stats *st, void *arg)
{
    str_printf(arg, "\"%s\":[%llu,%llu,%llu,%llu],", m->name, (unsigned long long)st->calls,
               (unsigned long long)st->failed, (unsigned long long)st->total_us,
               (unsigned long long)st->longest_us);
}

static void counts(struct rpc *rpc, const ProtobufCMessage *m, void *ctx)
{
    auto_str struct str s = STR_INIT;

    (void)m;
    (void)ctx;
    str_puts(&s, "{\"methods\":{");
    grpc_each_method(server, add_method, &s);
    str_puts(&s, "\"\":0},");
    str_printf(
        &s,
        "\"cancelled\":%d,\"deadline\":%d,\"kept\":%d,\"live\":%zu,\"refused\":%d,\"drains\":%d,"
        "\"max_queued\":%zu,\"turns\":%llu,\"service\":\"%s\",\"method\":\"%s\","
        "\"has_deadline\":%d}",
        n_cancelled, n_deadline, n_kept, grpc_live_calls(server), n_refused, n_drains, max_queued,
        (unsigned long long)loop_stats(loop)->turns, rpc_service(rpc), rpc_method(rpc),
        rpc_deadline_ms(rpc) != INT64_MAX);
    answer(rpc, s.p, s.len);
}

#define IN &runtime__v1__exec_sync_request__descriptor
static const struct grpc_method methods[] = {
    { "test.Test", "Echo", &runtime__v1__exec_sync_response__descriptor, echo },
    { "test.Test", "EchoPod", &runtime__v1__run_pod_sandbox_request__descriptor, echo },
    { "test.Test", "Big", IN, big },
    { "test.Test", "Never", IN, never },
    { "test.Test", "Sleep", IN, nap },
    { "test.Test", "Fail", IN, fail },
    { "test.Test", "Stream", IN, stream },
    { "test.Test", "Quiet", IN, quiet },
    { "test.Test", "Record", IN, record },
    { "test.Test", "Counts", IN, counts },
    { 0 },
};

static void on_closed(void *arg)
{
    (void)arg;
    loop_stop(loop);
}

static void on_signal(struct ev_loop *ev, ev_io *w, int revents)
{
    struct signalfd_siginfo si;

    (void)ev;
    (void)revents;
    if (read(w->fd, &si, sizeof si) == (ssize_t)sizeof si)
        grpc_shutdown(server, 10000, on_closed, NULL);
}

int main(int argc, char **argv)
{
    struct grpc_opts o = {
        .mode = 0660, .uid = (uid_t)-1, .gid = (gid_t)-1, .methods = methods, .listen_fd = -1
    };
    struct err err = ERR_INIT;
    sigset_t set;
    ev_io io;
    int sig;

    if (argc != 3)
        skip_all("this is the server of t/10-grpc.t");
    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sig = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    o.socket_path = argv[1];
    record_fd = open(argv[2], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    loop = loop_new(&err);
    if (!loop || record_fd < 0 || grpc_listen(loop, &o, &server, &err) < 0)
        bail_out("%s", err.text);
    loop_before_reply(loop, on_settle, NULL);
    ev_io_init(&io, on_signal, sig, EV_READ);
    ev_io_start(loop_ev(loop), &io);
    puts("ready");
    fflush(stdout);
    loop_run(loop);
    printf("end kept=%d live=%zu\n", n_kept, grpc_live_calls(server));
    ev_io_stop(loop_ev(loop), &io);
    server = grpc_free(server);
    loop = loop_free(loop);
    close(sig);
    close(record_fd);
    return n_kept != 0;
}
