/* SPDX-License-Identifier: Apache-2.0 */
/* Ownership by scope: auto_free, auto_fd and auto_str give back what they hold on every return,
 * take_ptr() and take_fd() hand it over instead. Running out of memory is not survivable for the
 * daemon (its state is on disk and the supervisors go on), so the allocators abort rather than
 * return NULL; sizes that a client or a registry chooses are bounded before they get here. */
#ifndef CRICKET_MEM_H
#define CRICKET_MEM_H

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

void *mem_alloc(size_t n);                       /* zeroed */
void *mem_array(size_t n, size_t size);          /* zeroed, overflow checked */
void *mem_grow(void *p, size_t n, size_t size); /* realloc, overflow checked; new part not zeroed */
void *mem_dup(const void *p, size_t n);          /* copy with a NUL byte behind it */
char *mem_strdup(const char *s);                 /* NULL stays NULL */
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Once, at the start: large buffers are given back to the kernel when they are freed. malloc's own
 * idea is to keep as much as the largest buffer so far. And no huge pages: where they are given to
 * everybody, as by Debian's kernels, khugepaged makes 2 MiB out of the few pages that mem_trim() has
 * left. Children inherit that; cricket-pod takes it back. mallopt(3), PR_SET_THP_DISABLE. */
void mem_init(void);

/* Gives back what an idle process does not need: free heap pages to the kernel, and the clean pages
 * of programs and libraries (text, read-only data) to the page cache, where they are found again at
 * the next use or reclaimed on a machine that is short of memory. After start-up and after a pull
 * most of them have been used for the last time. About a millisecond. madvise(2), malloc_trim(3).
 */
void mem_trim(void);

#define mem_new(type) ((type *)mem_alloc(sizeof(type)))

static inline void mem_freep(void *p)
{
    void **pp = p;

    free(*pp);
    *pp = NULL;
}

static inline void mem_closep(const int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

/* Closes fd if it is one; returns -1, to be stored in its place. */
static inline int fd_close(int fd)
{
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static inline int take_fd(int *fd)
{
    int r = *fd;

    *fd = -1;
    return r;
}

#define auto_free __attribute__((cleanup(mem_freep)))
#define auto_fd __attribute__((cleanup(mem_closep)))

/* Gives away what a scope owned. */
#define take_ptr(p) \
    __extension__({ \
        __typeof__(p) taken_ = (p); \
        (p) = NULL; \
        taken_; \
    })

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
