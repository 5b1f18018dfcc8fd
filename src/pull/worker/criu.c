/* SPDX-License-Identifier: Apache-2.0 */
/* Runs criu(8).
 *
 * What it holds of the container while it dumps, it has to give back itself: parasite code in the
 * processes, TCP sockets in repair mode, the rule that drops the pod's packets. So a dump that is
 * to end early is not killed: its files may not grow any more (RLIMIT_FSIZE 0, SIGXFSZ ignored), it
 * fails to write an image and clears up as after any error. Only where it does not within
 * UNWIND_MS is it killed; the processes are let go by the kernel then, and the rule is in an
 * nftables table of a known name, which we delete.
 *
 * For one container no cgroup is frozen (ptrace stops the processes), so that none can be left
 * frozen. Those of a pod are frozen by us before (checkpoint_pod.c): criu takes hold of the
 * processes by ptrace, thaws the cgroup to have its parasite run in them, and freezes it again
 * before it lets go of them, after an error as well. */
#include "pull/worker/checkpoint.h"

#include "mem.h"
#include "str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { UNWIND_MS = 10 * 1000, LOG_TAIL = 256 * 1024, SAID_MAX = 500 };

#define LOG "dump.log"
#define GIVEN_UP "given-up"
#define ENV_UPPER "CRICKET_CHECKPOINT_UPPER"
#define ENV_WORK "CRICKET_CHECKPOINT_WORK"

void criu_arg(struct criu_args *a, const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;

    if (a->n + 1 == CRIU_ARGS_MAX)
        return;                      /* E2BIG, or nearly */
    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        abort();
    va_end(ap);
    a->v[a->n++] = s;
}

void criu_args_free(struct criu_args *a)
{
    while (a->n)
        free(a->v[--a->n]);
}

static void add_namespace(const struct criu_job *job, const char *name, const char *key,
                          struct criu_args *a)
{
    auto_free char *path = mem_printf("/proc/%d/ns/%s", (int)job->pid, name);
    struct stat st;

    if (criu_same_ns(job->pid, name) || stat(path, &st) < 0)
        return;                      /* criu's own: it does not dump it */
    criu_arg(a, "--external");
    criu_arg(a, "%s[%llu]:%s", name, (unsigned long long)st.st_ino, key);
}

/* Is it process 1 of its PID namespace? */
static bool is_init(pid_t pid)
{
    auto_free char *path = mem_printf("/proc/%d/status", (int)pid), *line = NULL;
    FILE *f = fopen(path, "re");
    size_t cap = 0;
    bool init = false;

    while (f && getline(&line, &cap, f) > 0)
        if (str_starts(line, "NSpid:"))
            init = atoi(strrchr(line, '\t') + 1) == 1;
    if (f)
        fclose(f);
    return init;
}

static int dump_args(const struct criu_job *job, struct criu_args *a, struct err *err)
{
    static const char *const fixed[] = {
        "--images-dir", "checkpoint", "--work-dir", ".", "--log-file", LOG, "-v4",
        "--leave-running", "--tcp-established", "--file-locks", "--ext-unix-sk", "--shell-job",
        "--manage-cgroups=ignore", "--network-lock", "nftables", "--action-script",
    };
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);

    if (len < 0)
        return err_sys(err, "/proc/self/exe");
    self[len] = '\0';

    criu_arg(a, "%s", job->path);
    criu_arg(a, "dump");
    criu_arg(a, "--tree");
    criu_arg(a, "%d", (int)job->pid);
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        criu_arg(a, "%s", fixed[i]);
    criu_arg(a, "%s", self);
    if (job->freezer) {
        criu_arg(a, "--freeze-cgroup");
        criu_arg(a, "%s", job->freezer);
    }
    add_namespace(job, "net", "extRootNetNS", a);
    if (!is_init(job->pid))
        add_namespace(job, "pid", "extRootPidNS", a);
    return criu_add_mounts(job, a, err);
}

/* ---- the process */

static pid_t spawn(const struct criu_job *job, char *const *argv, struct err *err)
{
    pid_t pid = fork();

    if (pid < 0)
        return err_sys(err, "fork");
    if (pid > 0)
        return pid;
    int null = open("/dev/null", O_RDONLY), out = open(CRIU_OUTPUT, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (null < 0 || out < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 ||
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        _exit(126);
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)setenv(ENV_UPPER, job->upper, 1);
    (void)setenv(ENV_WORK, job->work, 1);
    execv(job->path, argv);
    dprintf(2, "Error: %s\n", strerror(errno));
    _exit(127);
}

/* Waits for the end of a child: its exit status, or 128 + signal. */
static int reap(pid_t pid)
{
    int st;

    while (waitpid(pid, &st, 0) < 0)
        if (errno != EINTR)
            return 255;
    return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

/* Lets it fail when the job is given up. */
static int wait_for(const struct criu_job *job, pid_t pid, bool *ret_killed)
{
    struct rlimit none = { 0, 0 };
    auto_fd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p[] = { { pidfd, POLLIN, 0 }, { CHECKPOINT_SOCK, POLLIN | POLLRDHUP, 0 } };

    *ret_killed = false;
    while (pidfd >= 0 && poll(p, 2, -1) < 0 && errno == EINTR)
        ;
    if (pidfd >= 0 && !p[0].revents) {
        fd_close(open(GIVEN_UP, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        (void)prlimit(pid, RLIMIT_FSIZE, &none, NULL);
        if (job->failing)
            job->failing(job->arg);
        while (poll(p, 1, UNWIND_MS) < 0 && errno == EINTR)
            ;
        if (!p[0].revents) {
            (void)kill(pid, SIGKILL);
            *ret_killed = true;
        }
    }
    return reap(pid);
}

/* ---- after a criu that did not clear up */

struct nft_msg {
    struct {
        struct nlmsghdr h;
        struct nfgenmsg g;
    } begin, del;
    struct nlattr attr;
    char name[32];
};

static void nft_header(struct nlmsghdr *h, struct nfgenmsg *g, int type, int family)
{
    h->nlmsg_len = NLMSG_LENGTH(sizeof *g);
    h->nlmsg_type = (uint16_t)type;
    h->nlmsg_flags = NLM_F_REQUEST;
    g->nfgen_family = (uint8_t)family;
    g->version = NFNETLINK_V0;
}

/* The table "inet CRIU-<pid>", where it is; see libnftables' batches and nf_tables(7)'s netlink. */
void criu_unlock_network(int netns, pid_t pid)
{
    struct nft_msg m;
    struct {
        struct nlmsghdr h;
        struct nfgenmsg g;
    } end;
    auto_fd int s = -1;

    memset(&m, 0, sizeof m);
    memset(&end, 0, sizeof end);
    nft_header(&m.begin.h, &m.begin.g, NFNL_MSG_BATCH_BEGIN, AF_UNSPEC);
    m.begin.g.res_id = htons(NFNL_SUBSYS_NFTABLES);
    nft_header(&m.del.h, &m.del.g, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE, NFPROTO_INET);
    m.attr.nla_type = NFTA_TABLE_NAME;
    m.attr.nla_len = (uint16_t)(sizeof m.attr + 1 + (size_t)snprintf(m.name, sizeof m.name,
                                                                      "CRIU-%d", (int)pid));
    m.del.h.nlmsg_len += NLMSG_ALIGN(m.attr.nla_len);
    nft_header(&end.h, &end.g, NFNL_MSG_BATCH_END, AF_UNSPEC);
    end.g.res_id = htons(NFNL_SUBSYS_NFTABLES);
    struct iovec v[] = { { &m, sizeof m.begin + m.del.h.nlmsg_len }, { &end, sizeof end } };
    struct msghdr msg = { .msg_iov = v, .msg_iovlen = 2 };
    if (setns(netns, CLONE_NEWNET) < 0)
        return;
    s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    if (s >= 0)
        (void)sendmsg(s, &msg, 0);   /* done when it returns */
}

/* ---- what it says */

static void add_said(struct str *said, const char *line)
{
    const char *e = strstr(line, "Error"), *text;

    if (!e || strstr(line, "tun: Unable to create tun") || strstr(line, "Dumping FAILED") || strstr(line, "Restoring FAILED"))
        return;                      /* not the reason: also said by a dump that succeeds */
    text = strstr(e, "): ") ? strstr(e, "): ") + 3 : e;
    str_printf(said, "%s%.*s", said->len ? "; " : "", (int)strcspn(text, "\n"), text);
}

/* The errors in what criu wrote, the last ones where there are many. */
static void errors_of(const char *file, struct str *said)
{
    auto_free char *line = NULL;
    FILE *f = fopen(file, "re");
    size_t cap = 0;

    if (!f)
        return;
    if (fseek(f, -LOG_TAIL, SEEK_END) < 0)
        rewind(f);
    while (getline(&line, &cap, f) > 0)
        add_said(said, line);
    fclose(f);
    if (said->len > SAID_MAX)
        str_consume(said, said->len - SAID_MAX);
}

/* A criu that cannot work here at all says so when it is asked. */
int criu_explain(const char *path, const char *log, const char *what, struct err *err)
{
    const struct criu_job job = { .path = path, .upper = "", .work = "" };
    char *const check[] = { (char *)(uintptr_t)path, (char[]){ "check" }, NULL };
    auto_str struct str said = STR_INIT, why = STR_INIT;
    bool killed;

    errors_of(log, &said);
    errors_of(CRIU_OUTPUT, &said);
    (void)unlink(CRIU_OUTPUT);
    pid_t pid = spawn(&job, check, err);
    if (pid < 0)
        return (int)pid;
    if (wait_for(&job, pid, &killed) != 0 && !checkpoint_cancelled()) {
        errors_of(CRIU_OUTPUT, &why);
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "criu '%s' does not work on this machine: %s",
                       path, why.len ? str_c(&why) : str_c(&said));
    }
    return err_set(err, -EIO, "%s: %s", what, said.len ? str_c(&said) : "it says nothing");
}

int criu_there(const char *path, struct err *err)
{
    if (access(path, X_OK) < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "criu '%s': %s", path, strerror(errno));
    return 0;
}

int criu_dump(const struct criu_job *job, struct err *err)
{
    auto_free char *ns = mem_printf("/proc/%d/ns/net", (int)job->pid);
    auto_fd int netns = open(ns, O_RDONLY | O_CLOEXEC);
    struct criu_args a = { .n = 0 };
    bool killed = false;
    int r, status = 0;

    if (netns < 0)
        return err_sys(err, "'%s'", ns);
    r = criu_there(job->path, err);
    if (r == 0)
        r = dump_args(job, &a, err);
    if (r == 0) {
        pid_t pid = spawn(job, a.v, err);

        r = pid < 0 ? (int)pid : 0;
        if (r == 0)
            status = wait_for(job, pid, &killed);
    }
    criu_args_free(&a);
    if (r < 0)
        return r;
    if (job->failing && (status || checkpoint_cancelled()))
        job->failing(job->arg);
    if (status >= 128) {
        criu_unlock_network(netns, job->pid);
        return err_set(err, -EIO, "criu %s by signal %d: established TCP connections of the "
                       "container may stand still",
                       killed ? "did not give up in order and was killed" : "was killed",
                       status - 128);
    }
    if (checkpoint_cancelled())
        return err_set(err, -ECANCELED, "given up while criu was dumping");
    if (!status)
        return 0;
    auto_free char *what = mem_printf("criu dump failed with %d", status);
    return criu_explain(job->path, LOG, what, err);
}

static pid_t script_of;

/* criu gives its scripts no descriptors: the socket is not there. */
static bool script_stop(void)
{
    return getppid() != script_of || access(GIVEN_UP, F_OK) == 0;
}

int criu_script(void)
{
    const char *upper = getenv(ENV_UPPER), *work = getenv(ENV_WORK);
    auto_fd int out = -1;
    struct err err = ERR_INIT;
    int r;

    if (!upper || !work || strcmp(getenv("CRTOOLS_SCRIPT_ACTION"), "post-dump") != 0)
        return 0;
    script_of = getppid();           /* all is dumped, and all still stands */
    if (chdir(work) == 0)
        out = open("rootfs-diff.tar", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    r = out < 0 ? err_sys(&err, "rootfs-diff.tar") : tar_upper(out, upper, script_stop, &err);
    if (r < 0)
        fprintf(stderr, "Error: files of the container: %s\n", err.text);
    return r < 0;
}
