/* SPDX-License-Identifier: Apache-2.0 */
/* src/proc/lower: what overlayfs would show, looked up without it; where a mount is allowed,
 * compared with the kernel's own. */
#include "files.h"

#include "mem.h"
#include "proc/lower.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static char root[] = "/tmp/cricket-lower-XXXXXX";
static const char *layers[3];        /* top first */
static struct err e;

static void link_to(int layer, const char *path, const char *to)
{
    char p[300];

    snprintf(p, sizeof p, "%s/%s", layers[layer], path);
    if (symlink(to, p) < 0)
        bail_out("%s: %s", p, strerror(errno));
}

static void whiteout(int layer, const char *path)
{
    char p[300];

    snprintf(p, sizeof p, "%s/%s", layers[layer], path);
    if (mknod(p, S_IFCHR, makedev(0, 0)) < 0)
        bail_out("%s: %s", p, strerror(errno));
}

static const char *text(const char *path)
{
    static char *s;

    free(s);
    s = NULL;
    err_clear(&e);
    if (lower_read(layers, 3, path, 100, &s, NULL, &e) < 0)
        return strerror(-e.code);
    return s;
}

/* The same through a real overlay mount, in a mount namespace of our own; NULL where that is not
 * allowed. */
static const char *kernel_text(const char *mnt, const char *path)
{
    static char buf[100];
    struct {
        uint64_t flags, mode, resolve;
    } how = { O_RDONLY | O_CLOEXEC, 0, 0x10 /* RESOLVE_IN_ROOT */ };
    int at = open(mnt, O_PATH | O_CLOEXEC);
    int fd = (int)syscall(437 /* openat2 */, at, path, &how, sizeof how);
    ssize_t n;

    if (fd < 0) {
        snprintf(buf, sizeof buf, "%s", strerror(errno));
    } else {
        n = read(fd, buf, sizeof buf - 1);
        buf[n < 0 ? 0 : n] = '\0';
        close(fd);
    }
    close(at);
    return buf;
}

static const struct { const char *path, *want, *what; } cases[] = {
    { "/bottom", "b0", "a file of the lowest layer" },
    { "bottom", "b0", "without a leading slash" },
    { "/both", "top", "the upper one wins" },
    { "/gone", "No such file or directory", "a whiteout hides a file" },
    { "/d/low", "low", "directories are merged" },
    { "/d/high", "high", "from both layers" },
    { "/opaque/low", "No such file or directory", "an opaque directory hides what is below" },
    { "/opaque/high", "high", "but not its own" },
    { "/wasdir/x", "Not a directory", "a file over a directory" },
    { "/wasfile/x", "x", "a directory over a file" },
    { "/again/new", "new", "a directory made anew above a whiteout" },
    { "/again/old", "No such file or directory", "does not bring the old one back" },
    { "/link", "b0", "an absolute link of the top layer into the lowest" },
    { "/d/rel", "b0", "a relative link" },
    { "/out", "b0", "'..' stops at the root" },
    { "/dlink/low", "low", "a link to a directory" },
    { "/dlink/../bottom", "b0", "'..' after a link goes from where it led to" },
    { "/loop", "Too many levels of symbolic links", "a loop of links" },
    { "/d/./../d//high", "high", "dots and double slashes" },
    { "/bottom/", "Not a directory", "a slash after a file" },
};

int main(void)
{
    char p[300], *s, opt[1000];
    size_t n;
    int fd;

    if (geteuid() != 0)
        skip_all("making whiteouts needs root");
    make_temp(root);
    for (int i = 0; i < 3; i++) {
        layers[i] = mem_printf("%s/%d", root, i);
        mkdir(layers[i], 0755);
    }
    put_file(layers[2], "bottom", "b0");
    put_file(layers[2], "both", "low");
    put_file(layers[0], "both", "top");
    put_file(layers[2], "gone", "x");
    whiteout(1, "gone");
    put_dir(layers[2], "d"), put_file(layers[2], "d/low", "low");
    put_dir(layers[0], "d"), put_file(layers[0], "d/high", "high");
    put_dir(layers[2], "opaque"), put_file(layers[2], "opaque/low", "low");
    put_dir(layers[1], "opaque"), put_file(layers[1], "opaque/high", "high");
    snprintf(p, sizeof p, "%s/opaque", layers[1]);
    bool xattr = setxattr(p, "trusted.overlay.opaque", "y", 1, 0) == 0;
    put_dir(layers[2], "wasdir"), put_file(layers[2], "wasdir/x", "x");
    put_file(layers[1], "wasdir", "file");
    put_file(layers[2], "wasfile", "x");
    put_dir(layers[1], "wasfile"), put_file(layers[1], "wasfile/x", "x");
    put_dir(layers[2], "again"), put_file(layers[2], "again/old", "old");
    whiteout(1, "again");
    put_dir(layers[0], "again"), put_file(layers[0], "again/new", "new");
    link_to(0, "link", "/bottom");
    link_to(0, "d/rel", "../bottom");
    link_to(1, "out", "../../../../../bottom");
    link_to(1, "dlink", "d");
    link_to(1, "loop", "loop");

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        diag("no mount namespace: %s", strerror(errno));
    snprintf(p, sizeof p, "%s/mnt", root);
    mkdir(p, 0755);
    snprintf(opt, sizeof opt, "lowerdir=%s:%s:%s", layers[0], layers[1], layers[2]);
    bool mounted = mount("overlay", p, "overlay", 0, opt) == 0;
    if (!mounted)
        diag("no overlay here: %s", strerror(errno));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (!xattr && strstr(cases[i].path, "opaque")) {
            skip("no trusted xattrs on this file system");
            continue;
        }
        is_str(text(cases[i].path), cases[i].want, "%s: %s", cases[i].path, cases[i].what);
        if (mounted)
            is_str(kernel_text(p, cases[i].path), cases[i].want, "%s: so says overlayfs",
                   cases[i].path);
    }
    if (mounted)
        umount2(p, MNT_DETACH);

    text("/gone");
    is_str(e.text, "'/gone' in the image: No such file or directory", "an error names the path");
    err_clear(&e);
    is_int(lower_read(layers, 3, "/bottom", 1, &s, &n, &e), -EFBIG, "larger than allowed");
    is_int(lower_read(layers, 3, "/d", 100, &s, &n, &e), -EISDIR, "a directory is not read");
    is_int(lower_read(layers, 0, "/d", 100, &s, &n, &e), -ENOENT, "no layers, nothing there");
    ok(lower_open(layers, 3, "/dlink", O_PATH | O_DIRECTORY, &fd, &e) == 0 && close(fd) == 0,
       "a directory is opened");
    is_int(lower_open(layers, 3, "/both", O_PATH | O_DIRECTORY, &fd, &e), -ENOTDIR,
           "a file is no directory");
    snprintf(p, sizeof p, "%s/fifo", layers[0]);
    mkfifo(p, 0600);
    is_int(lower_read(layers, 3, "/fifo", 100, &s, &n, &e), -EINVAL,
           "a fifo is refused, not waited for");

    snprintf(p, sizeof p, "rm -rf %s", root);
    if (system(p))
        diag("%s failed", p);
    text("");                        /* frees what the last one left */
    for (int i = 0; i < 3; i++)
        free((void *)(uintptr_t)layers[i]);
    return done_testing();
}
