/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into qemu (run --resctrl): the emulated processor says that it has allocation of cache
 * (11 bits of L3) and of memory bandwidth (AMD's, as the rest of it is), 8 classes each, and
 * monitoring (32 counters), which qemu does not know. So the guest's kernel offers resctrl with all
 * of its rules; its writes to the registers go nowhere, as qemu ignores those it does not know, and
 * counters read 0.
 *
 * The emulation of the instruction CPUID is found by its name in qemu's table of helpers, where the
 * name stands behind the function, and begins with a jump to cpuid() from then on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CBM_BITS = 11, BW_BITS = 11, CLASSES = 8, COUNTERS = 32 };

static void (*real)(void *cpu, uint32_t leaf, uint32_t sub, uint32_t *a, uint32_t *b, uint32_t *c,
                    uint32_t *d);

/* The processor's state begins with its registers: rax, rcx, rdx, rbx. */
static void cpuid(uint64_t *r)
{
    uint32_t leaf = (uint32_t)r[0], sub = (uint32_t)r[1], a, b, c, d;

    real(r, leaf, sub, &a, &b, &c, &d);
    if (leaf == 0 && a < 0x10)
        a = 0x10;
    if (leaf == 7 && sub == 0)
        b |= 1U << 12 | 1U << 15;    /* monitoring, allocation */
    if (leaf == 0xf || leaf == 0x10)
        a = b = c = d = 0;
    if (leaf == 0xf && sub == 0) {
        b = COUNTERS - 1;
        d = 1U << 1;                 /* of L3 */
    } else if (leaf == 0xf && sub == 1) {
        b = 65536;                   /* bytes per unit */
        c = COUNTERS - 1;
        d = 1U << 0 | 1U << 1 | 1U << 2;         /* occupancy, total and local bandwidth */
    } else if (leaf == 0x10 && sub == 0) {
        b = 1U << 1;                 /* L3 */
    } else if (leaf == 0x10 && sub == 1) {
        a = CBM_BITS - 1;
        d = CLASSES - 1;
    }
    if (leaf == 0x80000000 && a < 0x80000020)
        a = 0x80000020;
    if (leaf == 0x80000008)
        b |= 1U << 6;                /* bandwidth */
    if (leaf == 0x80000020) {
        a = sub == 1 ? BW_BITS : 0;
        b = sub == 0 ? 1U << 1 : 0;
        c = 0;
        d = sub == 1 ? CLASSES - 1 : 0;
    }
    r[0] = a;
    r[1] = c;
    r[2] = d;
    r[3] = b;
}

static int patch(uintptr_t at)
{
    unsigned char jmp[14] = { 0xff, 0x25 };      /* jmp *0(%rip) */
    uintptr_t to = (uintptr_t)cpuid, page = (uintptr_t)getpagesize(), from = at & ~(page - 1);
    size_t len = ((at + sizeof jmp + page - 1) & ~(page - 1)) - from;

    memcpy(jmp + 6, &to, sizeof to);
    if (mprotect((void *)from, len, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
        return -1;
    memcpy((void *)at, jmp, sizeof jmp);
    return mprotect((void *)from, len, PROT_READ | PROT_EXEC);
}

/* The program itself comes first. */
static int look(struct dl_phdr_info *i, size_t size, void *found)
{
    uintptr_t low = UINTPTR_MAX, high = 0, v[2];

    (void)size;
    for (int k = 0; k < i->dlpi_phnum; k++) {
        const ElfW(Phdr) *p = &i->dlpi_phdr[k];
        if (p->p_type != PT_LOAD)
            continue;
        if (i->dlpi_addr + p->p_vaddr < low)
            low = i->dlpi_addr + p->p_vaddr;
        if (i->dlpi_addr + p->p_vaddr + p->p_filesz > high)
            high = i->dlpi_addr + p->p_vaddr + p->p_filesz;
    }
    for (int k = 0; k < i->dlpi_phnum; k++) {
        const ElfW(Phdr) *p = &i->dlpi_phdr[k];
        uintptr_t at = i->dlpi_addr + p->p_vaddr, end = at + p->p_filesz;
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_W))
            continue;
        for (at = (at + 7) & ~(uintptr_t)7; at + sizeof v <= end; at += 8) {
            memcpy(v, (void *)at, sizeof v);
            if (v[0] >= low && v[0] < high && v[1] >= low && v[1] < high - 6 &&
                strcmp((const char *)v[1], "cpuid") == 0)
                *(uintptr_t *)found = v[0];
        }
    }
    return 1;
}

__attribute__((constructor)) static void begin(void)
{
    uintptr_t at = 0;
    void *f = dlsym(RTLD_DEFAULT, "cpu_x86_cpuid");

    memcpy(&real, &f, sizeof f);
    if (f)
        (void)dl_iterate_phdr(look, &at);
    if (!at || patch(at) < 0) {
        fprintf(stderr, "cannot: this qemu's CPUID is not found\n");
        _exit(77);
    }
}
