/* SPDX-License-Identifier: Apache-2.0 */
/* hostname, hosts and resolv.conf of a pod (CRI.md 6.1).
 *
 * resolv.conf: with a dns_config exactly what it says, in the order search, nameserver, options,
 * and nothing else; without one the node's file. Where systemd-resolved runs, the node's file names
 * a stub on 127.0.0.53 that no other network namespace can reach: pods with a network of their own
 * then get the list of the real servers that resolved keeps beside it, as kubelet's --resolv-conf
 * would be set there.
 *
 * hosts: the node's on the host's network; else localhost and the pod's own addresses, as kubelet
 * writes it. */
#include "proc/podfiles.h"

#include "mem.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    NODE_FILE_MAX = 1024 * 1024,
    NAME_MAX_LEN = 64,               /* of sethostname(2) */
};

static int check_value(const char *what, const char *v, struct err *err)
{
    if (strpbrk(v, "\r\n"))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s: a value must not contain a newline", what);
    return 0;
}

static int check_values(const char *what, char *const *v, struct err *err)
{
    for (size_t i = 0; v && v[i]; i++) {
        int r = check_value(what, v[i], err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int write_file(const struct podfiles *f, const char *name, const struct str *s,
                      struct err *err)
{
    auto_free char *path = mem_printf("%s/%s", f->dir, name);
    auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

    if (fd < 0)
        return err_sys(err, "pod file '%s'", path);
    if (fchmod(fd, 0644) < 0)                     /* whatever the umask is */
        return err_sys(err, "pod file '%s': mode", path);
    if ((f->uid || f->gid) && fchown(fd, f->uid, f->gid) < 0)
        return err_sys(err, "pod file '%s': owner", path);
    for (size_t off = 0; off < s->len;) {
        ssize_t n = write(fd, s->p + off, s->len - off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "pod file '%s': write", path);
        off += (size_t)n;
    }
    return 0;
}

/* A file of the node; -ENOENT leaves s empty. */
static int read_node_file(const struct podfiles *f, const char *name, struct str *s,
                          struct err *err)
{
    auto_free char *path = mem_printf("%s/%s", f->node_root ? f->node_root : "", name);
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    str_reset(s);
    if (fd < 0)
        return err_sys(err, "the node's '%s'", path);
    for (;;) {
        ssize_t n = read(fd, str_room(s, 4096), 4096);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "the node's '%s'", path);
        if (n == 0)
            return 0;
        s->len += (size_t)n;
        s->p[s->len] = '\0';
        if (s->len > NODE_FILE_MAX)
            return err_set(err, -EFBIG, "the node's '%s': more than %d bytes", path, NODE_FILE_MAX);
    }
}

/* The next `nameserver` of a resolv.conf from *p on: its address in (*ret, n), or false at the end.
 */
static bool next_nameserver(const char **p, const char **ret, size_t *ret_len)
{
    for (const char *line = *p; *line;) {
        size_t n = strcspn(line, "\n");
        const char *next = line + n + (line[n] == '\n');

        if (n > 10 && strncmp(line, "nameserver", 10) == 0 && strchr(" \t", line[10])) {
            const char *a = line + 10 + strspn(line + 10, " \t");

            *ret = a;
            *ret_len = strcspn(a, " \t\r\n#;");
            *p = next;
            return true;
        }
        line = next;
    }
    return false;
}

/* True when the only server is systemd-resolved's stub. */
static bool is_stub(const char *resolv)
{
    const char *a;
    size_t n, seen = 0;

    while (next_nameserver(&resolv, &a, &n)) {
        if (n != strlen("127.0.0.53") || memcmp(a, "127.0.0.53", n) != 0)
            return false;
        seen++;
    }
    return seen > 0;
}

static int fill_resolv(const struct podfiles *f, struct str *s, struct err *err)
{
    if (f->has_dns) {
        if (f->searches && f->searches[0]) {
            str_puts(s, "search");
            for (size_t i = 0; f->searches[i]; i++)
                str_printf(s, " %s", f->searches[i]);
            str_putc(s, '\n');
        }
        for (size_t i = 0; f->servers && f->servers[i]; i++)
            str_printf(s, "nameserver %s\n", f->servers[i]);
        if (f->options && f->options[0]) {
            str_puts(s, "options");
            for (size_t i = 0; f->options[i]; i++)
                str_printf(s, " %s", f->options[i]);
            str_putc(s, '\n');
        }
        return 0;
    }

    int r = read_node_file(f, "etc/resolv.conf", s, err);
    if (r < 0 && r != -ENOENT)
        return r;
    if (r == 0 && !f->host_net && is_stub(str_c(s))) {
        auto_str struct str real = STR_INIT;

        if (read_node_file(f, "run/systemd/resolve/resolv.conf", &real, NULL) == 0) {
            str_reset(s);
            str_add(s, str_c(&real), real.len);
        }
    }
    return 0;
}

static int fill_hosts(const struct podfiles *f, const char *hostname, struct str *s,
                      struct err *err)
{
    if (f->host_net) {
        int r = read_node_file(f, "etc/hosts", s, err);

        return r == -ENOENT ? 0 : r;
    }
    str_puts(s, "127.0.0.1\tlocalhost\n"
                "::1\tlocalhost ip6-localhost ip6-loopback\n"
                "fe00::0\tip6-localnet\n"
                "fe00::0\tip6-mcastprefix\n"
                "fe00::1\tip6-allnodes\n"
                "fe00::2\tip6-allrouters\n");
    for (size_t i = 0; i < f->n_ips; i++)
        str_printf(s, "%s\t%s\n", f->ips[i], hostname);
    return 0;
}

int podfiles_write(const struct podfiles *f, struct err *err)
{
    auto_str struct str s = STR_INIT;
    char node[NAME_MAX_LEN + 1] = "";
    const char *hostname = f->hostname;
    int r;

    if (str_empty(hostname)) {
        if (gethostname(node, sizeof node - 1) < 0)
            return err_sys(err, "the node's host name");
        hostname = node;
    }
    if (strlen(hostname) > NAME_MAX_LEN)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "hostname '%s' is longer than %d bytes",
                       hostname, NAME_MAX_LEN);
    r = check_value("hostname", hostname, err);
    if (r == 0 && f->has_dns) {
        r = check_values("dns_config.searches", f->searches, err);
        if (r == 0)
            r = check_values("dns_config.servers", f->servers, err);
        if (r == 0)
            r = check_values("dns_config.options", f->options, err);
    }
    if (r < 0)
        return r;

    str_printf(&s, "%s\n", hostname);
    r = write_file(f, "hostname", &s, err);
    if (r < 0)
        return r;

    str_reset(&s);
    r = fill_hosts(f, hostname, &s, err);
    if (r == 0)
        r = write_file(f, "hosts", &s, err);
    if (r < 0)
        return r;

    str_reset(&s);
    r = fill_resolv(f, &s, err);
    return r < 0 ? r : write_file(f, "resolv.conf", &s, err);
}
