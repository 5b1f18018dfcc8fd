/* SPDX-License-Identifier: Apache-2.0 */
/* Network interfaces of the host that a container brings into its pod (netDevices of CDI 1.1 and of
 * the OCI runtime-spec): moved by rtnetlink, with the name that is wanted there and the permanent
 * global addresses that the kernel drops on the way, and set up. The move takes no time worth
 * mention, but waits for the kernel's lock on all of networking: it is done in the child that
 * drives the launch.
 *
 * Nothing is moved back: when the pod's namespace dies the kernel returns what is hardware and
 * removes the rest. So the next container of the same pod that asks for it finds it moved already:
 * <state_dir>/hooks/net.<name on the host> has its number in the pod. Launches in one pod take turns
 * for that by a lock on the directory; a container of another pod does not find the interface. */
#include "pod.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ADDRS_MAX = 64, ADDR_LEN = 16 };

struct request {
    struct nlmsghdr h;
    union {
        struct ifinfomsg link;
        struct ifaddrmsg addr;
    } u;
    char attrs[256];
};

struct addr {
    struct ifaddrmsg m;
    unsigned char local[ADDR_LEN], address[ADDR_LEN], broadcast[ADDR_LEN];
    uint8_t n_local, n_address, n_broadcast;     /* bytes; 0: none */
};

struct netdev {
    const struct launch *l;
    const char *host;                /* its name there */
    char name[IF_NAMESIZE];          /* in the pod */
    int here, there;                 /* rtnetlink of the host, of the pod */
    struct addr addrs[ADDRS_MAX];
    size_t n_addrs;
};

static void begin(struct request *q, uint16_t type, uint16_t flags, size_t body)
{
    memset(q, 0, sizeof *q);
    q->h.nlmsg_type = type;
    q->h.nlmsg_flags = NLM_F_REQUEST | flags;
    q->h.nlmsg_seq = 1;              /* one socket has one question under way */
    q->h.nlmsg_len = (uint32_t)NLMSG_LENGTH(body);
}

static void add(struct request *q, uint16_t type, const void *p, size_t n)
{
    struct rtattr *a = (void *)((char *)q + NLMSG_ALIGN(q->h.nlmsg_len));

    a->rta_type = type;
    a->rta_len = (unsigned short)RTA_LENGTH(n);
    memcpy(RTA_DATA(a), p, n);
    q->h.nlmsg_len = (uint32_t)(NLMSG_ALIGN(q->h.nlmsg_len) + RTA_ALIGN(a->rta_len));
}

/* Sends it, and calls fn (or NULL) for each message that comes before the end. 0 or -errno. */
static int ask(int fd, const struct request *q, void (*fn)(const struct nlmsghdr *h, void *arg),
               void *arg)
{
    char buf[16384] __attribute__((aligned(NLMSG_ALIGNTO)));

    if (send(fd, q, q->h.nlmsg_len, 0) < 0)
        return -errno;
    for (;;) {
        ssize_t n = recv(fd, buf, sizeof buf, 0);
        struct nlmsghdr *h = (void *)buf;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EPIPE;
        for (; n >= (ssize_t)sizeof *h && h->nlmsg_len >= sizeof *h &&
               n >= (ssize_t)h->nlmsg_len;
             n -= NLMSG_ALIGN(h->nlmsg_len), h = (void *)((char *)h + NLMSG_ALIGN(h->nlmsg_len))) {
            if (h->nlmsg_type == NLMSG_ERROR)
                return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
            if (h->nlmsg_type == NLMSG_DONE)
                return 0;
            if (fn)
                fn(h, arg);
        }
    }
}

static void take_index(const struct nlmsghdr *h, void *arg)
{
    const struct ifinfomsg *i = NLMSG_DATA(h);

    if (h->nlmsg_type == RTM_NEWLINK)
        *(int *)arg = i->ifi_index;
}

/* The interface's number by name (or, NULL, whether that number is there); negative: errno. */
static int find(int fd, const char *name, int index)
{
    struct request q;
    int got = -ENODEV, r;

    begin(&q, RTM_GETLINK, NLM_F_ACK, sizeof q.u.link);
    q.u.link.ifi_index = index;
    if (name)
        add(&q, IFLA_IFNAME, name, strlen(name) + 1);
    r = ask(fd, &q, take_index, &got);
    return r < 0 ? r : got;
}

static uint8_t take_attr(unsigned char to[ADDR_LEN], const struct rtattr *a)
{
    size_t n = RTA_PAYLOAD(a);

    if (n > ADDR_LEN)
        return 0;
    memcpy(to, RTA_DATA(a), n);
    return (uint8_t)n;
}

struct take { struct netdev *d; int index; };

static void take_addr(const struct nlmsghdr *h, void *arg)
{
    const struct take *t = arg;
    const struct ifaddrmsg *m = NLMSG_DATA(h);
    struct netdev *d = t->d;
    int n = (int)IFA_PAYLOAD(h);

    if (h->nlmsg_type != RTM_NEWADDR || (int)m->ifa_index != t->index ||
        !(m->ifa_flags & IFA_F_PERMANENT) || m->ifa_scope != RT_SCOPE_UNIVERSE)
        return;
    if (d->n_addrs == ADDRS_MAX)
        child_fail(d->l, -E2BIG, "network interface '%s': more than %d addresses", d->host,
                   ADDRS_MAX);
    struct addr *a = &d->addrs[d->n_addrs++];
    a->m = *m;
    for (const struct rtattr *x = IFA_RTA(m); RTA_OK(x, n); x = RTA_NEXT(x, n)) {
        if (x->rta_type == IFA_LOCAL)
            a->n_local = take_attr(a->local, x);
        else if (x->rta_type == IFA_ADDRESS)
            a->n_address = take_attr(a->address, x);
        else if (x->rta_type == IFA_BROADCAST)
            a->n_broadcast = take_attr(a->broadcast, x);
    }
}

static void get_addrs(struct netdev *d, int index)
{
    struct take t = { d, index };
    struct request q;
    int r;

    d->n_addrs = 0;
    begin(&q, RTM_GETADDR, NLM_F_DUMP, sizeof q.u.addr);
    r = ask(d->here, &q, take_addr, &t);
    if (r < 0)
        child_fail(d->l, -r, "network interface '%s': its addresses", d->host);
}

static void put_addr(const struct netdev *d, const struct addr *a, int index)
{
    struct request q;

    begin(&q, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sizeof q.u.addr);
    q.u.addr = a->m;
    q.u.addr.ifa_index = (uint32_t)index;
    q.u.addr.ifa_flags = IFA_F_PERMANENT;
    if (a->n_local)
        add(&q, IFA_LOCAL, a->local, a->n_local);
    if (a->n_address)
        add(&q, IFA_ADDRESS, a->address, a->n_address);
    if (a->n_broadcast)
        add(&q, IFA_BROADCAST, a->broadcast, a->n_broadcast);
    int r = ask(d->there, &q, NULL, NULL);
    if (r < 0 && r != -EEXIST)
        child_fail(d->l, -r, "network interface '%s': an address in the pod", d->host);
}

/* "net%d": the first that is free, as the kernel would do it. */
static void choose_name(struct netdev *d, const char *wanted)
{
    const char *at = strstr(wanted, "%d");
    int r = 0;

    for (int i = 0; i < 1000; i++) {
        if (at)
            snprintf(d->name, sizeof d->name, "%.*s%d%s", (int)(at - wanted), wanted, i, at + 2);
        else
            snprintf(d->name, sizeof d->name, "%s", wanted);
        r = find(d->there, d->name, 0);
        if (r == -ENODEV)
            return;
        if (r < 0 || !at)
            break;
    }
    if (r < 0)
        child_fail(d->l, -r, "network interface '%s': look for '%s' in the pod", d->host, d->name);
    child_fail(d->l, -EEXIST, "network interface '%s': the pod has a '%s' already", d->host,
               d->name);
}

static void marker(const struct netdev *d, char *buf, size_t n)
{
    snprintf(buf, n, "hooks/net.%s", d->host);   /* no '/' in a name: the daemon has looked */
}

/* An earlier container has brought it. */
static bool is_moved(const struct netdev *d)
{
    char name[64], num[16];
    int fd;

    marker(d, name, sizeof name);
    fd = openat(pod.state_fd, name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, num, sizeof num - 1);
    if (fd >= 0)
        close(fd);
    num[n > 0 ? n : 0] = '\0';
    return atoi(num) > 0 && find(d->there, NULL, atoi(num)) > 0;
}

static void mark_moved(const struct netdev *d, int index)
{
    char name[64], num[16];
    int n = snprintf(num, sizeof num, "%d", index), fd;

    marker(d, name, sizeof name);
    fd = openat(pod.state_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, num, (size_t)n) != n)
        child_fail(d->l, errno, "write '%s/%s'", pod.state_dir, name);
    close(fd);
}

static void move(struct netdev *d, int index)
{
    struct request q;
    uint32_t ns = (uint32_t)pod.net;
    int r;

    begin(&q, RTM_NEWLINK, NLM_F_ACK, sizeof q.u.link);
    q.u.link.ifi_index = index;
    add(&q, IFLA_NET_NS_FD, &ns, sizeof ns);
    add(&q, IFLA_IFNAME, d->name, strlen(d->name) + 1);
    r = ask(d->here, &q, NULL, NULL);
    if (r < 0)
        child_fail(d->l, -r, "network interface '%s': move it into the pod as '%s'", d->host,
                   d->name);
    index = find(d->there, d->name, 0);
    if (index < 0)
        child_fail(d->l, -index, "network interface '%s': find it in the pod as '%s'", d->host,
                   d->name);
    mark_moved(d, index);
    for (size_t i = 0; i < d->n_addrs; i++)
        put_addr(d, &d->addrs[i], index);
    begin(&q, RTM_NEWLINK, NLM_F_ACK, sizeof q.u.link);
    q.u.link.ifi_index = index;
    q.u.link.ifi_flags = q.u.link.ifi_change = IFF_UP;
    r = ask(d->there, &q, NULL, NULL);
    if (r < 0)
        child_fail(d->l, -r, "network interface '%s': set it up in the pod", d->host);
}

static int open_there(const struct launch *l)
{
    int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), fd;

    if (own < 0 || pod.net < 0 || setns(pod.net, CLONE_NEWNET) < 0)
        child_fail(l, errno, "enter the pod's network namespace");
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0 || setns(own, CLONE_NEWNET) < 0)
        child_fail(l, errno, "rtnetlink in the pod");
    close(own);
    return fd;
}

/* Given back with the descriptor. */
static int take_turn(const struct launch *l)
{
    int fd;

    if (mkdirat(pod.state_fd, "hooks", 0755) < 0 && errno != EEXIST)
        child_fail(l, errno, "mkdir '%s/hooks'", pod.state_dir);
    fd = openat(pod.state_fd, "hooks", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        child_fail(l, errno, "lock '%s/hooks'", pod.state_dir);
    return fd;
}

void netdev_move_all(const struct launch *l)
{
    const struct wire_plan *p = l->plan;
    struct netdev d = { .l = l };
    int turn;

    if (p->file.need < WIRE_NEED_HOOKS || !p->netdevs.count)
        return;
    turn = take_turn(l);
    d.here = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (d.here < 0)
        child_fail(l, errno, "rtnetlink");
    d.there = open_there(l);
    for (uint32_t i = 0; i < p->netdevs.count; i++) {
        const struct wire_pair *w = view_at(l->base, &p->netdevs, i);

        d.host = view_str(l->base, w->key);
        int index = find(d.here, d.host, 0);
        if (index == -ENODEV && is_moved(&d))
            continue;
        if (index < 0)
            child_fail(l, -index, "network interface '%s' of the node", d.host);
        choose_name(&d, view_str(l->base, w->value));
        get_addrs(&d, index);
        move(&d, index);
    }
    close(d.here);
    close(d.there);
    close(turn);
}
