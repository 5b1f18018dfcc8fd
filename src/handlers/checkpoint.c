/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints, the part that is the same for a container and for a pod: what a worker is told, and
 * how it is started, heard and called off. */
#include "handlers/checkpoint.h"

#include "config.h"
#include "handlers/info.h"
#include "handlers/launch.h"
#include "mem.h"
#include "proc/cgroup.h"
#include "reactor/pool.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

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

int checkpoint_job(struct ctr *c, json_t **ret, struct err *err)
{
    struct ctr_input *in = ctr_input_new(c);
    struct spec *spec = NULL;
    json_t *files = json_object();
    int r = spec_build(&in->in, &spec, err);

    if (r == 0) {
        add_file(files, "config.dump", config_dump(c));
        add_file(files, "spec.dump", spec_dump(c, spec));
        add_file(files, "status", status(c));
        add_file(files, "status.dump", status_dump(c));
        *ret = json_pack("{s:s, s:I, s:s, s:s, s:o, s:O}", "id", c->id, "pid",
                         (json_int_t)c->rec->pid, "upper", in->upper, "log", c->rec->log_path,
                         "external", external(&spec->plan), "files", files);
        if (!*ret)    /* a path that is no UTF-8 */
            r = err_rpc(err, GRPC_INVALID_ARGUMENT, "its configuration cannot be written as JSON");
    }
    json_decref(files);
    spec_free(spec);
    ctr_input_free(in);
    return r;
}

/* ---- a pod */

static json_t *index_of(const struct sandbox *s, struct ctr *const *v, size_t n)
{
    const Runtime__V1__PodSandboxMetadata *m = s->config->metadata;
    json_t *list = json_array(), *o;

    for (size_t i = 0; i < n; i++) {
        auto_free char *archive = mem_printf("%s.tar", v[i]->id);

        json_array_append_new(list, json_pack("{s:s, s:I, s:s, s:s, s:s, s:s}", "name",
                                              v[i]->config->metadata->name, "attempt",
                                              (json_int_t)v[i]->config->metadata->attempt, "id",
                                              v[i]->id, "image", v[i]->rec->image_name, "imageRef",
                                              v[i]->rec->image_ref, "archive", archive));
    }
    o = json_pack("{s:i, s:s, s:s, s:{s:s, s:s, s:s, s:s, s:I, s:s}, s:o}", "version", 1, "runtime",
                  "cricket", "runtimeVersion", PACKAGE_VERSION, "pod", "id", s->id, "name", m->name,
                  "namespace", m->namespace_, "uid", m->uid, "attempt", (json_int_t)m->attempt,
                  "runtimeHandler", s->rec->runtime_handler, "containers", list);
    if (o)
        stamp(o, "checkpointedTime", clock_wall_ns());
    return o;
}

int pod_checkpoint_job(struct sandbox *s, struct ctr *const *v, size_t n, const char *output,
                       json_t **ret, struct err *err)
{
    json_t *list = json_array(), *index;
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++) {
        auto_free char *freezer = NULL;
        json_t *one = NULL;

        r = cgroup_freezer(v[i]->rec->cgroup_path, &freezer, err);
        if (r == 0)
            r = checkpoint_job(v[i], &one, err);
        if (r < 0) {
            err_note(err, "container %s", v[i]->id);
            break;
        }
        json_object_set_new(one, "freezer", json_string(freezer));
        json_array_append_new(list, one);
    }
    index = r == 0 ? index_of(s, v, n) : NULL;
    auto_free char *text = index ? json_dumps(index, JSON_INDENT(2)) : NULL;
    json_decref(index);
    *ret = text ? json_pack("{s:s, s:s, s:s, s:O}", "criu", s->h->conf->criu, "output", output,
                            "index", text, "containers", list) : NULL;
    json_decref(list);
    if (r == 0 && !*ret)
        r = err_rpc(err, GRPC_INVALID_ARGUMENT, "it cannot be written as JSON");
    return r;
}

json_t *pod_checkpoint_undo_job(const struct sandbox *s)
{
    const Cricket__State__PodCheckpoint *p = s->rec->checkpoint;
    json_t *list = json_array();

    for (size_t i = 0; i < p->n_container_ids; i++) {
        struct ctr *c = ctr_by_id(s->h, p->container_ids[i]);
        auto_free char *freezer = NULL;

        if (c)
            (void)cgroup_freezer(c->rec->cgroup_path, &freezer, NULL);
        json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "id", p->container_ids[i],
                                              "freezer", freezer ? freezer : "", "pid",
                                              (json_int_t)(c ? c->rec->pid : 0)));
    }
    return json_pack("{s:b, s:s, s:s, s:o}", "undo", 1, "output", p->output_path, "netns",
                     s->rec->netns, "containers", list);
}

/* ---- the worker */

bool ctr_has_ended(const struct ctr *c)
{
    struct pollfd p = { c->pidfd, POLLIN, 0 };

    return c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || c->pidfd < 0 ||
           poll(&p, 1, 0) > 0;
}

static void on_timer(struct ev_loop *ev, struct ev_timer *t, int revents)
{
    struct checkpoint_worker *w = container_of(t, struct checkpoint_worker, timer);

    (void)ev;
    (void)revents;
    loop_name(w->h->loop, "checkpoint timer");
    if (w->called_off) {
        child_kill(w->child, SIGKILL);
        return;
    }
    w->timed_out = true;
    checkpoint_worker_call_off(w);
}

void checkpoint_worker_init(struct checkpoint_worker *w, struct handlers *h)
{
    w->h = h;
    w->sock = -1;
    w->started_ms = clock_mono_ms();
    ev_timer_init(&w->timer, on_timer, 0., 0.);
}

void checkpoint_worker_deinit(struct checkpoint_worker *w)
{
    ev_timer_stop(loop_ev(w->h->loop), &w->timer);
    w->sock = fd_close(w->sock);
    if (w->child)
        child_disown(w->child);
    if (w->rpc) {
        rpc_on_gone(w->rpc, NULL, NULL);
        rpc_release(w->rpc);
    }
}

int checkpoint_worker_start(struct checkpoint_worker *w, const char *what, json_t *job,
                            const int *pidfds, size_t n, child_exit_fn on_exit, void *arg,
                            struct err *err)
{
    auto_free char *name = mem_strdup(what), *text = json_dumps(job, JSON_COMPACT);
    char *argv[] = { w->h->worker_path, name, NULL };
    struct child_opts o = CHILD_OPTS_INIT;
    auto_fd int in = memfd_create("checkpoint", MFD_CLOEXEC), theirs = -1;
    auto_free struct child_fd *fds = mem_array(n + 2, sizeof *fds);
    size_t len = text ? strlen(text) : 0;
    int pair[2], r;

    w->sock = fd_close(w->sock);
    if (in < 0 || !text || pwrite(in, text, len, 0) != (ssize_t)len)
        return err_sys(err, "job for cricket-worker");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_sys(err, "socketpair");
    theirs = pair[1];
    fds[0] = (struct child_fd){ in, 0 };
    fds[1] = (struct child_fd){ theirs, 3 };
    for (size_t i = 0; i < n; i++)
        fds[2 + i] = (struct child_fd){ pidfds[i], 4 + (int)i };
    o.path = w->h->worker_path;
    o.argv = argv;
    o.fds = fds;
    o.n_fds = n + 2;
    o.new_session = true;
    r = child_spawn(w->h->loop, &o, on_exit, arg, &w->child, err);
    if (r < 0)
        fd_close(pair[0]);
    else
        w->sock = pair[0];
    return r;
}

void checkpoint_worker_call_off(struct checkpoint_worker *w)
{
    if (w->called_off)
        return;
    w->called_off = true;
    (void)shutdown(w->sock, SHUT_WR);
    loop_timer(w->h->loop, &w->timer, CHECKPOINT_UNDO_MS);
}

static void on_rpc_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    struct checkpoint_worker *w = arg;

    (void)why;
    rpc_release(rpc);
    w->rpc = NULL;
    checkpoint_worker_call_off(w);
}

void checkpoint_worker_serve(struct checkpoint_worker *w, struct rpc *rpc, int64_t timeout_ms)
{
    w->rpc = rpc;
    rpc_keep(rpc);
    rpc_on_gone(rpc, on_rpc_gone, w);
    loop_timer(w->h->loop, &w->timer, timeout_ms);
}

int checkpoint_worker_last_word(const struct checkpoint_worker *w, int exit_status, struct err *err)
{
    char buf[ERR_TEXT_MAX + 16];
    ssize_t n = recv(w->sock, buf, sizeof buf - 1, MSG_DONTWAIT);
    int grpc = GRPC_INTERNAL, at = 0;

    buf[n < 0 ? 0 : n] = '\0';
    if (n <= 0 || sscanf(buf, "%d %n", &grpc, &at) < 1)
        return err_rpc(err, GRPC_INTERNAL, "cricket-worker ended with %d", exit_status);
    return grpc == GRPC_OK ? 0 : err_rpc(err, grpc, "%s", buf + at);
}
