/* SPDX-License-Identifier: Apache-2.0 */
#include "mem.h"

#include "log.h"

#include <link.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static void *check(void *p, size_t n)
{
    if (!p && n) {
        log_error("op=alloc size=%zu err='out of memory'", n);
        abort();
    }
    return p;
}

void *mem_alloc(size_t n)
{
    return check(calloc(1, n ? n : 1), n);
}

void *mem_array(size_t n, size_t size)
{
    return check(calloc(n ? n : 1, size), n);
}

void *mem_grow(void *p, size_t n, size_t size)
{
    return check(reallocarray(p, n ? n : 1, size), n);
}

void *mem_dup(const void *p, size_t n)
{
    char *d = check(malloc(n + 1), n + 1);

    if (n)
        memcpy(d, p, n);
    d[n] = '\0';
    return d;
}

char *mem_strdup(const char *s)
{
    return s ? mem_dup(s, strlen(s)) : NULL;
}

char *mem_printf(const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;

    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        s = NULL;
    va_end(ap);
    return check(s, 1);
}

/* Segments that are never written hold nothing that is not in the file: relocations go to writable
 * ones. */
static int drop_clean(struct dl_phdr_info *info, size_t size, void *page)
{
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t mask = *(const uintptr_t *)page - 1;

        if (p->p_type != PT_LOAD || p->p_flags & PF_W || !info->dlpi_addr)
            continue;
        uintptr_t from = (info->dlpi_addr + p->p_vaddr) & ~mask;
        uintptr_t to = (info->dlpi_addr + p->p_vaddr + p->p_filesz + mask) & ~mask;

        (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
    return 0;
}

void mem_init(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 256 * 1024);
    (void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
}

void mem_trim(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

    malloc_trim(0);
    dl_iterate_phdr(drop_clean, &page);
}
