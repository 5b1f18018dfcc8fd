/* SPDX-License-Identifier: Apache-2.0 */
/* CheckpointContainer (CRI.md 4.22): a running container as a tar file, and it goes on.
 *
 * A worker does all of it with criu (pull/worker/checkpoint.c). The daemon hands it what it knows
 * of the container, and a socket: the worker's last word comes by it, and to close it is to call
 * the job off, which the worker then undoes. So a daemon that goes away leaves nothing behind.
 * Whoever has to answer in time answers when the worker has ended: then all is as before. */
#include "handlers/rpcs.h"

#include "handlers/exec.h"
#include "handlers/info.h"
#include "handlers/launch.h"
#include "log.h"
#include "mem.h"
#include "reactor/child.h"
#include "reactor/pool.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

enum {
    TIMEOUT_MS = 10 * 60 * 1000,     /* of a request that names none */
    UNDO_MS = 60 * 1000,             /* the worker's, longer than it gives criu */
};

struct checkpoint {
    struct exec_base base;           /* first: ended with the container */
    struct rpc *rpc;                 /* NULL: nobody waits any more */
    struct child *child;
    int sock;
    struct ev_timer timer;
    int64_t timeout_ms, started_ms;
    bool timed_out;
};

/* ---- what the archive says of the container */

static void stamp(json_t *o, const char *key, int64_t ns)
{
    time_t s = ns / 1000000000;
    char date[32], full[64];
    struct tm tm;

    gmtime_r(&s, &tm);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(full, sizeof full, "%s.%09dZ", date, (int)(ns % 1000000000));
    json_object_set_new(o, key, json_string(full));
}

static json_t *config_dump(const struct ctr *c)
{
    const char *runtime = c->sandbox->rec->runtime_handler;
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "id", c->id, "name",
                          c->config->metadata->name, "rootfsImage", c->rec->image_name,
                          "rootfsImageRef", c->rec->image_ref, "rootfsImageName",
                          c->rec->image_name, "runtime", runtime[0] ? runtime : "cricket",
                          "restoredTime", "0001-01-01T00:00:00Z", "restored", 0);

    stamp(o, "createdTime", c->rec->created_at);
    stamp(o, "checkpointedTime", clock_wall_ns());
    return o;
}

/* As containerd keeps it. */
static json_t *status(const struct ctr *c)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:i, s:s, s:s}", "Version", "v1", "Pid",
                     (json_int_t)c->rec->pid, "CreatedAt", (json_int_t)c->rec->created_at,
                     "StartedAt", (json_int_t)c->rec->started_at, "FinishedAt", (json_int_t)0,
                     "ExitCode", 0, "Reason", "", "Message", "");
}

static json_t *status_dump(struct ctr *c)
{
    struct pool *pool = mem_new(struct pool);
    Runtime__V1__ContainerStatus st;
    json_t *o;

    ctr_status_fill(c, &st, pool);
    o = pb_json(&st.base);
    pool_deinit(pool);
    free(pool);
    return o;
}

/* With the names by which tools find the container's pod. */
static json_t *spec_dump(const struct ctr *c, const struct spec *spec)
{
    const Runtime__V1__PodSandboxMetadata *pod = c->sandbox->config->metadata;
    json_t *o = spec_json(spec, c->rec->cgroup_path, c->sandbox->rec->netns);
    json_t *a = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}",
                          "io.kubernetes.cri.container-type", "container",
                          "io.kubernetes.cri.container-name", c->config->metadata->name,
                          "io.kubernetes.cri.image-name", c->rec->image_name,
                          "io.kubernetes.cri.sandbox-id", c->sandbox->id,
                          "io.kubernetes.cri.sandbox-name", pod->name,
                          "io.kubernetes.cri.sandbox-namespace", pod->namespace_,
                          "io.kubernetes.cri.sandbox-uid", pod->uid);

    json_object_update(json_object_get(o, "annotations"), a);
    json_decref(a);
    return o;
}

static void add_file(json_t *files, const char *name, json_t *content)
{
    auto_free char *s = json_dumps(content, JSON_INDENT(2));

    json_object_set_new(files, name, json_string(s ? s : "{}"));
    json_decref(content);
}

/* Mounts whose content is not the container's; the worker adds what it finds below them. */
static json_t *external(const struct plan *p)
{
    json_t *a = json_array();

    for (size_t i = 0; i < p->n_mounts; i++) {
        enum plan_mount_kind kind = p->mounts[i].kind;

        if (kind == PLAN_MOUNT_BIND || kind == PLAN_MOUNT_OVERLAY || kind == PLAN_MOUNT_SHM)
            json_array_append_new(a, json_string(p->mounts[i].target));
    }
    return a;
}

static int make_job(struct ctr *c, const char *location, char **ret, struct err *err)
{
    /* another one than that of a worker which undoes what a daemon before us has begun */
    auto_free char *work = mem_printf("%s/checkpoints/%s-%d", c->h->conf->root, c->id,
                                      (int)getpid());
    struct ctr_input *in = ctr_input_new(c);
    struct spec *spec = NULL;
    json_t *files = json_object(), *j;
    int r = spec_build(&in->in, &spec, err);

    if (r == 0) {
        add_file(files, "config.dump", config_dump(c));
        add_file(files, "spec.dump", spec_dump(c, spec));
        add_file(files, "status", status(c));
        add_file(files, "status.dump", status_dump(c));
        j = json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:o, s:O}", "pid", (json_int_t)c->rec->pid,
                      "criu", c->h->conf->criu, "work", work, "location", location, "upper",
                      in->upper, "log", c->rec->log_path, "external", external(&spec->plan),
                      "files", files);
        *ret = j ? json_dumps(j, JSON_COMPACT) : NULL;
        json_decref(j);
        if (!*ret)    /* a path that is no UTF-8 */
            r = err_rpc(err, GRPC_INVALID_ARGUMENT, "its configuration cannot be written as JSON");
    }
    json_decref(files);
    spec_free(spec);
    ctr_input_free(in);
    return r;
}

/* ---- the worker */

static void destroy(struct checkpoint *k)
{
    list_del(&k->base.l);
    ev_timer_stop(loop_ev(k->base.c->h->loop), &k->timer);
    fd_close(k->sock);
    if (k->child)
        child_disown(k->child);      /* it undoes what it did: the socket is closed */
    if (k->rpc) {
        rpc_on_gone(k->rpc, NULL, NULL);
        rpc_release(k->rpc);
    }
    free(k);
}

static void arm(struct checkpoint *k, int64_t ms)
{
    struct ev_loop *ev = loop_ev(k->base.c->h->loop);

    ev_timer_stop(ev, &k->timer);
    ev_now_update(ev);
    ev_timer_set(&k->timer, (double)ms / 1e3, 0.);
    ev_timer_start(ev, &k->timer);
}

/* The worker is told to give up; its end follows. */
static void call_off(struct checkpoint *k)
{
    (void)shutdown(k->sock, SHUT_WR);
    arm(k, UNDO_MS);
}

static void on_timer(struct ev_loop *ev, struct ev_timer *t, int revents)
{
    struct checkpoint *k = container_of(t, struct checkpoint, timer);

    (void)ev;
    (void)revents;
    loop_name(k->base.c->h->loop, "checkpoint timer");
    if (k->timed_out || !k->rpc) {
        child_kill(k->child, SIGKILL);    /* criu goes with it */
        return;
    }
    k->timed_out = true;
    call_off(k);
}

/* Also before its supervisor has told. */
static bool has_ended(const struct ctr *c)
{
    struct pollfd p = { c->pidfd, POLLIN, 0 };

    return c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || c->pidfd < 0 ||
           poll(&p, 1, 0) > 0;
}

/* The worker's last word into err; 0: the archive is there. */
static int last_word(struct checkpoint *k, int exit_status, struct err *err)
{
    char buf[ERR_TEXT_MAX + 16];
    ssize_t n = recv(k->sock, buf, sizeof buf - 1, MSG_DONTWAIT);
    int grpc = GRPC_INTERNAL, at = 0;

    buf[n < 0 ? 0 : n] = '\0';
    if (n <= 0 || sscanf(buf, "%d %n", &grpc, &at) < 1)
        return err_rpc(err, GRPC_INTERNAL, "cricket-worker ended with %d", exit_status);
    if (grpc == GRPC_OK)
        return 0;
    if (k->timed_out)
        return err_rpc(err, GRPC_DEADLINE_EXCEEDED, "not done after %lld s: %s",
                       (long long)(k->timeout_ms / 1000), buf + at);
    if (has_ended(k->base.c))
        return err_rpc(err, GRPC_UNAVAILABLE, "it has ended: %s", buf + at);
    return err_rpc(err, grpc, "%s", buf + at);
}

static void on_exit_(void *arg, int exit_status)
{
    struct checkpoint *k = arg;
    struct ctr *c = k->base.c;
    Runtime__V1__CheckpointContainerResponse reply =
        RUNTIME__V1__CHECKPOINT_CONTAINER_RESPONSE__INIT;
    struct err err = ERR_INIT;

    k->child = NULL;
    if (last_word(k, exit_status, &err) == 0) {
        log_info("op=checkpoint ctr=%s took_ms=%lld", c->id,
                 (long long)(clock_mono_ms() - k->started_ms));
        if (k->rpc)
            rpc_ok(k->rpc, &reply.base);
    } else {
        err_note(&err, "checkpoint container %s", c->id);
        log_error("op=checkpoint ctr=%s took_ms=%lld err='%s'", c->id,
                  (long long)(clock_mono_ms() - k->started_ms), err.text);
        if (k->rpc)
            rpc_fail_err(k->rpc, &err);
    }
    destroy(k);
}

static int start(struct checkpoint *k, const char *job, struct err *err)
{
    struct ctr *c = k->base.c;
    char name[] = "checkpoint", *argv[] = { c->h->worker_path, name, NULL };
    struct child_opts o = CHILD_OPTS_INIT;
    auto_fd int in = memfd_create("checkpoint", MFD_CLOEXEC), theirs = -1;
    size_t len = strlen(job);
    int pair[2];

    if (in < 0 || pwrite(in, job, len, 0) != (ssize_t)len)
        return err_sys(err, "job for cricket-worker");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_sys(err, "socketpair");
    k->sock = pair[0];
    theirs = pair[1];
    struct child_fd fds[] = { { in, 0 }, { theirs, 3 }, { c->pidfd, 4 } };
    o.path = c->h->worker_path;
    o.argv = argv;
    o.fds = fds;
    o.n_fds = ARRAY_LEN(fds);
    o.new_session = true;
    return child_spawn(c->h->loop, &o, on_exit_, k, &k->child, err);
}

static void on_rpc_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    struct checkpoint *k = arg;

    (void)why;
    rpc_release(rpc);
    k->rpc = NULL;
    if (!k->timed_out)
        call_off(k);
}

/* The container goes away, or the daemon. */
static void on_end(struct exec_base *b)
{
    struct checkpoint *k = container_of(b, struct checkpoint, base);

    if (k->rpc)
        rpc_fail(k->rpc, GRPC_UNAVAILABLE, "checkpoint container %s: it is being removed, or the "
                 "daemon ends", b->c->id);
    destroy(k);
}

/* ---- the request */

static int check(struct ctr *c, const Runtime__V1__CheckpointContainerRequest *q, struct err *err)
{
    struct exec_base *b;

    if (!q->location[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "location is empty");
    if (q->location[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "location '%.200s' is not absolute",
                       q->location);
    if (strlen(q->location) >= PATH_MAX || str_ends(q->location, "/"))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "location '%.200s' is no file name",
                       q->location);
    if (q->timeout < 0 || q->timeout > INT64_MAX / 1000)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "timeout %" PRId64 " is no number of seconds",
                       q->timeout);
    if (!c->h->conf->criu[0])
        return err_rpc(err, GRPC_UNIMPLEMENTED, "it takes criu, which the configuration turns off");
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || c->pidfd < 0 || c->remove)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it is not running (%s)", ctr_state_name(c));
    list_each(b, &c->execs, struct exec_base, l)
        if (b->end == on_end)
            return err_rpc(err, GRPC_FAILED_PRECONDITION, "a checkpoint of it is being made");
    return 0;
}

void handle_checkpoint_container(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__CheckpointContainerRequest *q = (const void *)req;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(ctx, q->container_id, &err);
    auto_free char *job = NULL;
    struct checkpoint *k;
    int r = c ? check(c, q, &err) : err.code;

    if (r == 0)
        r = make_job(c, q->location, &job, &err);
    if (r < 0) {
        if (c)
            err_note(&err, "checkpoint container %s", c->id);
        rpc_fail_err(rpc, &err);
        return;
    }
    k = mem_new(struct checkpoint);
    k->base.c = c;
    k->base.end = on_end;
    list_add_tail(&c->execs, &k->base.l);
    k->sock = -1;
    k->started_ms = clock_mono_ms();
    k->timeout_ms = q->timeout ? q->timeout * 1000 : TIMEOUT_MS;
    ev_timer_init(&k->timer, on_timer, 0., 0.);
    k->rpc = rpc;
    rpc_keep(rpc);
    rpc_on_gone(rpc, on_rpc_gone, k);
    if (start(k, job, &err) < 0) {
        err_note(&err, "checkpoint container %s", c->id);
        rpc_fail_err(rpc, &err);
        destroy(k);
        return;
    }
    arm(k, k->timeout_ms);
}
