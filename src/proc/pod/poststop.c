/* SPDX-License-Identifier: Apache-2.0 */
/* poststop hooks: after the end of a container, in a child of the supervisor, so that no daemon is
 * needed. The child works from the launch plan, whose descriptor was kept for it; it is watched by
 * the socket that its notes come over. A container's exit waits for it (ctr.c), a moment; a pod
 * that goes waits too. */
#include "pod.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HURRY_MS = 10000 };           /* what is left for them when the pod goes */

struct job {
    struct job *next;
    struct src status;               /* notes; its end is the end */
    pid_t pid;
    char id[WIRE_ID];
};

static struct job *jobs;
static struct timer hurry;

bool poststop_pid(pid_t pid)
{
    for (const struct job *j = jobs; j; j = j->next)
        if (j->pid == pid)
            return true;
    return false;
}

static void on_hurry(struct timer *t)
{
    (void)t;
    for (const struct job *j = jobs; j; j = j->next)
        (void)kill(j->pid, SIGKILL);
}

void poststop_hurry(void)
{
    if (jobs && !hurry.at_ms)
        timer_set(&hurry, HURRY_MS, on_hurry);
}

static void on_job(struct src *s, uint32_t events)
{
    struct job *j = container_of(s, struct job, status);
    struct launch_msg m;
    struct ctr *c;
    int fd, r = launch_read(s->fd, &m, &fd);

    (void)events;
    if (r == 1)
        talk_note(j->id, m.text);
    if (r == 1 || r == -EAGAIN)
        return;
    fd = s->fd;
    src_del(s);
    close(fd);
    for (struct job **p = &jobs; *p; p = &(*p)->next)
        if (*p == j) {
            *p = j->next;
            break;
        }
    hooks_drop_bundle(j->id);
    c = ctr_find(j->id);
    free(j);
    if (c)
        ctr_drained(c);
    if (pod.stopping)
        main_kick();
}

static void run(int plan_fd, int status) __attribute__((noreturn));
static void run(int plan_fd, int status)
{
    struct launch_msg m = { .pid = LAUNCH_NOTE };
    struct launch l;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    launch_init(&l);
    if (launch_plan(&l, plan_fd, WIRE_PLAN_CTR, m.text, sizeof m.text) == 0)
        hooks_run_poststop(&l, status);
    else
        (void)send(status, &m, sizeof m, MSG_NOSIGNAL);
    _exit(0);
}

bool poststop_start(const char *id, int plan_fd)
{
    struct job *j = calloc(1, sizeof *j);
    int pair[2] = { -1, -1 };
    long pid = -1;

    if (j && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0)
        pid = sys_clone3(0, NULL, -1);
    if (pid == 0)
        run(plan_fd, pair[1]);
    close(pair[1]);
    if (pid < 0 || src_add(&j->status, pair[0], EPOLLIN, on_job) < 0) {
        talk_note(id, "poststop hooks cannot be run: out of processes or memory");
        close(pair[0]);
        free(j);
        hooks_drop_bundle(id);
        return false;
    }
    j->pid = (pid_t)pid;
    snprintf(j->id, sizeof j->id, "%s", id);
    j->next = jobs;
    jobs = j;
    if (pod.stopping)
        poststop_hurry();
    return true;
}

bool poststop_runs(const char *id)
{
    for (const struct job *j = jobs; j; j = j->next)
        if (!id || strcmp(j->id, id) == 0)
            return true;
    return false;
}
