/* SPDX-License-Identifier: Apache-2.0 */
/* Of criu's images the little that one has to know to restore them: which mounts come from outside,
 * where stdio went; and the host name in them becomes the pod's.
 *
 * An image is two magic numbers, then messages of protocol buffers, each behind its length (criu's
 * images/mnt.proto, images/utsns.proto). */
#include "pull/worker/checkpoint.h"

#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum {
    IMAGE_MAX = 16 << 20,
    HEADER = 8,
    MNT_FLAGS = 5, MNT_ROOT = 6, MNT_POINT = 7, MNT_EXT = 13, MNT_EXT_KEY = 18,
    UTS_NODE = 1, UTS_DOMAIN = 2,
};

static int read_image(const char *images, const char *name, struct str *ret, struct err *err)
{
    auto_free char *path = mem_printf("%s/%s", images, name);
    auto_fd int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(err, "image '%s'", name);
    if (!S_ISREG(st.st_mode) || st.st_size < HEADER || st.st_size > IMAGE_MAX)
        return err_set(err, -EINVAL, "image '%s' is none", name);
    for (ssize_t n; (n = read(fd, str_room(ret, 65536), 65536)) != 0; ret->len += (size_t)n)
        if (n < 0 || ret->len > IMAGE_MAX)
            return err_set(err, -EIO, "image '%s' cannot be read", name);
    return 0;
}

/* ---- protocol buffers */

struct field {
    unsigned number;
    uint64_t value;
    const unsigned char *bytes;      /* NULL: it is a number */
    size_t len;
};

static bool varint(const unsigned char **p, const unsigned char *end, uint64_t *ret)
{
    *ret = 0;
    for (unsigned shift = 0; *p < end && shift < 64; shift += 7) {
        unsigned char c = *(*p)++;

        *ret |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80))
            return true;
    }
    return false;
}

static bool next_field(const unsigned char **p, const unsigned char *end, struct field *f)
{
    uint64_t tag, n = 0;

    if (!varint(p, end, &tag))
        return false;
    *f = (struct field){ .number = (unsigned)(tag >> 3) };
    switch (tag & 7) {
    case 0:
        return varint(p, end, &f->value);
    case 1:
        n = 8;
        break;
    case 2:
        if (!varint(p, end, &n))
            return false;
        break;
    case 5:
        n = 4;
        break;
    default:
        return false;
    }
    if (n > (uint64_t)(end - *p))
        return false;
    f->bytes = *p;
    f->len = (size_t)n;
    *p += n;
    return true;
}

static char *text_of(const struct field *f)
{
    return f->bytes ? mem_dup(f->bytes, f->len) : NULL;
}

/* ---- mounts */

static bool take_mount(struct restore_needs *n, const unsigned char *p, const unsigned char *end)
{
    struct restore_mount m = { .key = NULL };
    auto_free char *root = NULL;
    struct field f;
    bool old = false;                /* the key is where the root would be */
    bool whole = true;

    while (p < end && (whole = next_field(&p, end, &f))) {
        if (f.number == MNT_FLAGS)
            m.rdonly = f.value & MS_RDONLY;
        else if (f.number == MNT_EXT)
            old = f.value;
        else if (f.number == MNT_ROOT && !root)
            root = text_of(&f);
        else if (f.number == MNT_POINT && !m.point)
            m.point = text_of(&f);
        else if (f.number == MNT_EXT_KEY && !m.key)
            m.key = text_of(&f);
    }
    if (old && !m.key)
        m.key = take_ptr(root);
    if (!whole || !m.key || !m.point) {
        free(m.key);
        free(m.point);
        return whole;
    }
    n->mounts = mem_grow(n->mounts, n->n_mounts + 1, sizeof m);
    n->mounts[n->n_mounts++] = m;
    return true;
}

static int take_mounts(const char *images, const char *name, struct restore_needs *n,
                       struct err *err)
{
    auto_str struct str s = STR_INIT;
    uint32_t size;
    int r = read_image(images, name, &s, err);

    for (size_t at = HEADER; r == 0 && at < s.len; at += size) {
        const unsigned char *p = (const unsigned char *)s.p + at + sizeof size;

        if (s.len - at < sizeof size)
            return err_set(err, -EINVAL, "image '%s' is cut short", name);
        memcpy(&size, s.p + at, sizeof size);
        at += sizeof size;
        if (size > s.len - at || !take_mount(n, p, p + size))
            return err_set(err, -EINVAL, "image '%s' is damaged", name);
    }
    return r;
}

static int take_stdio(const char *images, struct restore_needs *n, struct err *err)
{
    auto_free char *path = mem_printf("%s/descriptors.json", images);
    json_error_t why;
    json_t *list = json_load_file(path, 0, &why);

    if (!list)
        return err_set(err, -EINVAL, "descriptors.json: %s", why.text);
    for (size_t i = 0; i < 3; i++)
        n->stdio[i] = mem_strdup(json_string_value(json_array_get(list, i)));
    json_decref(list);
    return 0;
}

int restore_needs(const char *images, struct restore_needs *ret, struct err *err)
{
    DIR *d = opendir(images);
    struct dirent *e;
    int r = 0;

    *ret = (struct restore_needs){ .mounts = NULL };
    if (!d)
        return err_sys(err, "'%s'", images);
    while (r == 0 && (e = readdir(d))) {
        if (str_starts(e->d_name, "mountpoints-"))
            r = take_mounts(images, e->d_name, ret, err);
        else if (str_starts(e->d_name, "ipcns-var-"))
            ret->ipc = true;
    }
    closedir(d);
    return r < 0 ? r : take_stdio(images, ret, err);
}

void restore_needs_deinit(struct restore_needs *n)
{
    for (size_t i = 0; i < n->n_mounts; i++) {
        free(n->mounts[i].key);
        free(n->mounts[i].point);
    }
    free(n->mounts);
    for (size_t i = 0; i < 3; i++)
        free(n->stdio[i]);
    *n = (struct restore_needs){ .mounts = NULL };
}

/* ---- the host name */

static void put_text(struct str *s, unsigned number, const char *z)
{
    str_putc(s, (char)(number << 3 | 2));
    str_putc(s, (char)strlen(z));    /* 64 bytes at most */
    str_puts(s, z);
}

/* criu would set the name that the old pod had, in the namespace that the new one has. */
static int rename_host(const char *images, const char *name, struct err *err)
{
    char node[HOST_NAME_MAX + 2] = "", domain[HOST_NAME_MAX + 2] = "";
    auto_free char *path = mem_printf("%s/%s", images, name);
    auto_str struct str s = STR_INIT, m = STR_INIT;
    uint32_t size;
    int r = read_image(images, name, &s, err);

    if (r < 0)
        return r;
    if (gethostname(node, sizeof node - 1) < 0 || getdomainname(domain, sizeof domain - 1) < 0)
        return err_sys(err, "the pod's host name");
    put_text(&m, UTS_NODE, node);
    put_text(&m, UTS_DOMAIN, domain);
    size = (uint32_t)m.len;
    s.len = HEADER;
    str_add(&s, &size, sizeof size);
    str_add(&s, m.p, m.len);
    auto_fd int fd = open(path, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || write(fd, s.p, s.len) != (ssize_t)s.len)
        return err_sys(err, "image '%s'", name);
    return 0;
}

int restore_host_name(const char *images, struct err *err)
{
    DIR *d = opendir(images);
    struct dirent *e;
    int r = 0;

    if (!d)
        return err_sys(err, "'%s'", images);
    while (r == 0 && (e = readdir(d)))
        if (str_starts(e->d_name, "utsns-"))
            r = rename_host(images, e->d_name, err);
    closedir(d);
    return r;
}
