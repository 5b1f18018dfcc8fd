/* SPDX-License-Identifier: Apache-2.0 */
/* What takes a walk, for statistics; one line in, one line out, until end of file.
 *
 *      measure trees       stdin: NAME                 stdout: NAME BYTES INODES
 *                          3: the directory that has them
 *      measure fds         stdin: KEY PID PID ...      stdout: KEY DESCRIPTORS SOCKETS
 *
 * trees: disk blocks below NAME (a path of plain directories), hard links once, nothing beyond the
 * file system. The container goes on writing meanwhile and may mean harm: that directory is the
 * worker's whole world (jail.c), names are never joined into paths, symbolic links never followed,
 * and depth costs memory only (24 bytes a level): the first OPEN_LEVELS directories of the way stay
 * open, further down only the last one does, and the way back up is ".." - checked to be the
 * directory that we came from, or that branch is given up. */
#include "mem.h"
#include "pull/worker/unpack.h"
#include "pull/worker/worker.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    ROOT_FD = 3,
    OPEN_LEVELS = 256,
    LINKS_MAX = 1000000,             /* files with several names that are remembered */
    IOPRIO_IDLE = 3 << 13,
};

struct level {
    DIR *d;                          /* NULL: closed, go on at pos */
    long pos;
    ino_t ino;
};

struct walk {
    struct level *v;
    size_t n, cap;
    dev_t dev;
    void *links;                     /* tsearch(3) tree of inode numbers */
    size_t n_links;
    uint64_t bytes, inodes;
};

static int link_cmp(const void *a, const void *b)
{
    ino_t x = *(const ino_t *)a, y = *(const ino_t *)b;

    return x < y ? -1 : x > y;
}

/* The first time that this inode is met? */
static bool first_time(struct walk *w, ino_t ino)
{
    ino_t *key, **found;

    if (tfind(&ino, &w->links, link_cmp))
        return false;
    if (w->n_links == LINKS_MAX)
        return true;
    key = mem_dup(&ino, sizeof ino);
    found = tsearch(key, &w->links, link_cmp);
    if (!found)
        abort();
    w->n_links++;
    return true;
}

static void count(struct walk *w, const struct stat *st)
{
    if (!S_ISDIR(st->st_mode) && st->st_nlink > 1 && !first_time(w, st->st_ino))
        return;
    w->bytes += (uint64_t)st->st_blocks * 512;
    w->inodes++;
}

/* Takes over fd. */
static void push(struct walk *w, int fd, ino_t ino)
{
    DIR *d = fdopendir(fd);

    if (!d) {
        fd_close(fd);
        return;
    }
    if (w->n > OPEN_LEVELS) {
        struct level *up = &w->v[w->n - 1];

        up->pos = telldir(up->d);
        closedir(up->d);
        up->d = NULL;
    }
    if (w->n == w->cap) {
        w->cap = w->cap ? w->cap * 2 : 64;
        w->v = mem_grow(w->v, w->cap, sizeof *w->v);
    }
    w->v[w->n++] = (struct level){ .d = d, .ino = ino };
}

static void pop(struct walk *w)
{
    struct level *down = &w->v[w->n - 1], *up = w->n > 1 ? down - 1 : NULL;
    struct stat st;

    if (up && !up->d) {
        int fd = openat(dirfd(down->d), "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == w->dev && st.st_ino == up->ino)
            up->d = fdopendir(fd);
        if (up->d)
            seekdir(up->d, up->pos);
        else if (fd >= 0)
            fd_close(fd);
    }
    closedir(down->d);
    w->n--;
    while (w->n &&
           !w->v[w->n - 1].d) /* moved away meanwhile: on from where something is still open */
        w->n--;
}

static void enter(struct walk *w, int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || (w->n && st.st_dev != w->dev)) {
        fd_close(fd);
        return;
    }
    w->dev = st.st_dev;
    count(w, &st);
    push(w, fd, st.st_ino);
}

static void walk_tree(struct walk *w, int dir, const char *name)
{
    enter(w, dir, name);
    while (w->n) {
        DIR *d = w->v[w->n - 1].d;
        struct dirent *e = readdir(d);
        struct stat st;

        if (!e) {
            pop(w);
            continue;
        }
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;                                /* gone already */
        if (S_ISDIR(st.st_mode))
            enter(w, dirfd(d), e->d_name);
        else if (st.st_dev == w->dev)
            count(w, &st);
    }
}

static void measure_tree(char *name)
{
    auto_free char *copy = mem_strdup(name);
    struct walk w = { 0 };
    char *save = NULL, *part = strtok_r(copy, "/", &save), *next;
    auto_fd int dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    for (; dir >= 0 && part && (next = strtok_r(NULL, "/", &save)); part = next) {
        int fd = openat(dir, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        fd_close(dir);
        dir = fd;
    }
    if (dir >= 0 && part)
        walk_tree(&w, dir, part);
    printf("%s %" PRIu64 " %" PRIu64 "\n", name, w.bytes, w.inodes);
    free(w.v);
    tdestroy(w.links, free);
}

static void add_fds(const char *pid, uint64_t *fds, uint64_t *sockets)
{
    auto_free char *path = mem_printf("/proc/%ld/fd", strtol(pid, NULL, 10));
    DIR *d = opendir(path);
    struct dirent *e;
    char to[16];

    if (!d)
        return;                                      /* gone already */
    while ((e = readdir(d))) {
        ssize_t n;

        if (e->d_name[0] == '.')
            continue;
        n = readlinkat(dirfd(d), e->d_name, to, sizeof to - 1);
        if (n < 0)
            continue;
        to[n] = '\0';
        (*fds)++;
        *sockets += str_starts(to, "socket:");
    }
    closedir(d);
}

static void measure_fds(char *line)
{
    uint64_t fds = 0, sockets = 0;
    char *save = NULL, *key = strtok_r(line, " ", &save);

    for (char *pid; key && (pid = strtok_r(NULL, " ", &save));)
        add_fds(pid, &fds, &sockets);
    printf("%s %" PRIu64 " %" PRIu64 "\n", key ? key : "", fds, sockets);
}

int worker_measure(int argc, char **argv)
{
    void (*job)(char *) = NULL;
    auto_free char *line = NULL;
    struct err err = ERR_INIT;
    size_t cap = 0;
    ssize_t n;

    if (argc == 2 && strcmp(argv[1], "trees") == 0)
        job = measure_tree;
    else if (argc == 2 && strcmp(argv[1], "fds") == 0)
        job = measure_fds;
    if (!job) {
        fprintf(stderr, "measure: 'trees' or 'fds' is wanted\n");
        return 2;
    }
    if (job == measure_tree) {                       /* nobody waits for it */
        (void)setpriority(PRIO_PROCESS, 0, 19);
        (void)syscall(SYS_ioprio_set, 1 /* process */, 0, IOPRIO_IDLE);
        if (jail_enter(ROOT_FD, &err) < 0) {
            fprintf(stderr, "measure: %s\n", err.text);
            return 1;
        }
    }
    while ((n = getline(&line, &cap, stdin)) > 0) {
        if (line[n - 1] == '\n')
            line[n - 1] = '\0';
        job(line);
    }
    _exit(ferror(stdout) || fflush(stdout) ? 1
                                           : 0); /* nothing that is done at exit fits the jail */
}
