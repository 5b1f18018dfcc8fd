/* SPDX-License-Identifier: Apache-2.0 */
/* hostname, hosts and resolv.conf of a pod: what stands in them, and what is refused. */
#include "proc/podfiles.h"
#include "files.h"
#include "mem.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/cricket-podfiles-XXXXXX";

static char *get(const char *name)
{
    auto_free char *path = mem_printf("%s/pod/%s", dir, name);
    char buf[4096];
    size_t n = 0;
    FILE *f = fopen(path, "re");

    if (f) {
        n = fread(buf, 1, sizeof buf, f);
        fclose(f);
    }
    return mem_dup(buf, n);
}

static void file_is(const char *name, const char *want, const char *what)
{
    auto_free char *got = get(name);

    is_str(got, want, "%s", what);
}

int main(void)
{
    char one[] = "10.0.0.10", two[] = "fd00::10", s1[] = "ns.svc.local", s2[] = "svc.local",
         o1[] = "ndots:5", bad[] = "a\nnameserver 6.6.6.6";
    char *servers[] = { one, two, NULL }, *searches[] = { s1, s2, NULL }, *options[] = { o1, NULL },
         *evil[] = { bad, NULL };
    const char *ips[] = { "10.9.8.7", "fd00::7" };
    char node[65] = "";
    struct err err = ERR_INIT;
    struct stat st;

    make_temp(dir);
    put_dir(dir, "pod");
    put_dir(dir, "etc");
    put_dir(dir, "run");
    put_dir(dir, "run/systemd");
    put_dir(dir, "run/systemd/resolve");
    gethostname(node, sizeof node - 1);

    auto_free char *pod = mem_printf("%s/pod", dir);
    struct podfiles f = { .dir = pod,
                          .hostname = "web-0",
                          .ips = ips,
                          .n_ips = 2,
                          .has_dns = true,
                          .servers = servers,
                          .searches = searches,
                          .options = options,
                          .node_root = dir };
    umask(077);
    is_int(podfiles_write(&f, &err), 0, "a pod with everything: %s", err.text);
    file_is("hostname", "web-0\n", "hostname");
    file_is(
        "resolv.conf",
        "search ns.svc.local svc.local\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5\n",
        "resolv.conf: search, nameserver, options");
    file_is(
        "hosts",
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n"
        "fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n10.9.8.7\tweb-0\nfd00::7\tweb-0\n",
        "hosts has the pod's addresses");
    auto_free char *path = mem_printf("%s/resolv.conf", pod);
    ok(stat(path, &st) == 0 && (st.st_mode & 07777) == 0644,
       "readable by everybody in the container, whatever the umask");

    put_file(dir, "etc/resolv.conf", "nameserver 1.2.3.4\n");
    f.servers = f.searches = f.options = NULL;
    is_int(podfiles_write(&f, &err), 0, "an empty dns_config");
    file_is("resolv.conf", "", "an empty dns_config is an empty file");

    f.has_dns = false;
    is_int(podfiles_write(&f, &err), 0, "no dns_config");
    file_is("resolv.conf", "nameserver 1.2.3.4\n", "without a dns_config the node's file");

    put_file(dir, "etc/resolv.conf", "# stub\nnameserver 127.0.0.53\noptions edns0\n");
    put_file(dir, "run/systemd/resolve/resolv.conf", "nameserver 9.9.9.9\nsearch lan\n");
    is_int(podfiles_write(&f, &err), 0, "systemd-resolved on the node");
    file_is("resolv.conf", "nameserver 9.9.9.9\nsearch lan\n",
            "the servers behind systemd-resolved's stub");
    put_file(dir, "etc/hosts", "127.0.0.1 localhost\n10.0.0.1 node\n");
    f.host_net = true;
    f.hostname = "";
    is_int(podfiles_write(&f, &err), 0, "on the host's network");
    file_is("resolv.conf", "# stub\nnameserver 127.0.0.53\noptions edns0\n",
            "on the host's network the stub itself works");
    file_is("hosts", "127.0.0.1 localhost\n10.0.0.1 node\n",
            "on the host's network the node's hosts");
    auto_free char *want = mem_printf("%s\n", node);
    file_is("hostname", want, "without a hostname the node's");
    f.host_net = false;
    put_file(dir, "etc/resolv.conf", "nameserver 127.0.0.53\nnameserver 8.8.8.8\n");
    is_int(podfiles_write(&f, &err), 0, "a stub among others");
    file_is("resolv.conf", "nameserver 127.0.0.53\nnameserver 8.8.8.8\n",
            "a file with other servers is left as it is");
    auto_free char *gone = mem_printf("%s/etc/resolv.conf", dir);
    unlink(gone);
    is_int(podfiles_write(&f, &err), 0, "a node without resolv.conf");
    file_is("resolv.conf", "", "is an empty one in the pod");

    f.has_dns = true;
    f.servers = evil;
    ok(podfiles_write(&f, &err) < 0 && err.grpc == GRPC_INVALID_ARGUMENT,
       "a server with a newline: %s", err.text);
    f.servers = NULL;
    f.options = evil;
    ok(podfiles_write(&f, &err) < 0 && err.grpc == GRPC_INVALID_ARGUMENT,
       "an option with a newline: %s", err.text);
    f.options = NULL;
    f.hostname = bad;
    ok(podfiles_write(&f, &err) < 0 && err.grpc == GRPC_INVALID_ARGUMENT,
       "a hostname with a newline: %s", err.text);
    f.hostname = "a123456789a123456789a123456789a123456789a123456789a123456789a1234";
    ok(podfiles_write(&f, &err) < 0 && err.grpc == GRPC_INVALID_ARGUMENT,
       "a hostname of 65 bytes: %s", err.text);
    file_is("resolv.conf", "", "what is refused changes nothing");
    f.hostname = "a";
    f.dir = "/nonexistent/dir";
    ok(podfiles_write(&f, &err) == -ENOENT && strstr(err.text, "/nonexistent/dir/hostname"),
       "no directory: %s", err.text);

    ok(remove_temp(dir), "cleaned");
    return done_testing();
}
