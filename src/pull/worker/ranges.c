/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel does with a filter at each load – it checks it, compiles it, and asks it about
 * every system call – grows with its length, and a container's every exec loads one. libseccomp
 * compares with each number that a profile names; but neighbours mostly get the same answer, so
 * that a tree over the ranges says the same in a quarter of the instructions. Its shape is the
 * cheapest there is: each instruction costs, and each step on the way to each number's answer does,
 * since the kernel goes it at the load for every number there is. Where single calls stick out of a
 * range, one comparison with each does for two with the ends of ranges.
 *
 * Nothing is known here of profiles: the given filter is asked, as the kernel would, about one
 * number of each range between two that it compares with. Its answer is either an action or "look
 * at the arguments from instruction P on"; the instructions behind all such P are taken over. */
#include "pull/worker/ranges.h"

#include "mem.h"

#include <linux/bpf_common.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum field { NOTHING, ARCH, NR, ARGS, FIELDS };
enum { BOUNDS_MAX = 2 * BPF_MAXINSNS + 2, ARCHES_MAX = 16 };
enum {
    ASKED = 512,                     /* numbers below are those that the kernel asks about */
    INSN_COST = 50,                  /* of compiling an instruction, in steps of such a question */
    BEST_MAX = 256,                  /* of more ranges the upper half goes to a tree of its own */
};

/* instruction's answer: RET, or the load of an argument */
struct range {
    uint32_t first;                  /* number; up to that of the next one */
    size_t at;
};

/* How to tell ranges i to k apart: from `split` on or below; 0: it is one, or all have the answer of
 * the first but for single numbers, and these are compared with. */
struct shape {
    uint32_t cost;
    uint16_t split;
    bool singles;                    /* it could be the latter */
};

struct rewrite {
    const struct sock_filter *f;
    size_t n;
    bool (*seen)[FIELDS];            /* of each instruction: reached with that in the accumulator */
    uint32_t arches[ARCHES_MAX];
    size_t n_arches;
    uint32_t *bounds;                /* where the answer may change */
    size_t n_bounds;
    struct range *ranges;            /* of one architecture */
    size_t n_ranges;
    struct shape (*shape)[BEST_MAX];
    bool *wanted;                    /* of each instruction: looks at arguments, is taken over */
    size_t *moved;                   /* its place in new */
    struct sock_filter new[BPF_MAXINSNS]; /* written from its end, so that all jumps' targets are known */
    size_t at;
    bool full;
};

static bool is_return(const struct sock_filter *i)
{
    return i->code == (BPF_RET | BPF_K);
}

static bool is_jump(const struct sock_filter *i)
{
    return BPF_CLASS(i->code) == BPF_JMP && BPF_SRC(i->code) == BPF_K;
}

/* 0, or the instruction is none that can be followed. */
static int field_of(const struct sock_filter *i, enum field *ret)
{
    if (i->code != (BPF_LD | BPF_W | BPF_ABS))
        return -1;
    *ret = i->k == offsetof(struct seccomp_data, arch) ? ARCH
           : i->k == offsetof(struct seccomp_data, nr) ? NR
                                                       : ARGS;
    return 0;
}

static bool note_bound(struct rewrite *w, uint64_t number)
{
    if (number > UINT32_MAX)
        return true;
    if (w->n_bounds == BOUNDS_MAX)
        return false;
    w->bounds[w->n_bounds++] = (uint32_t)number;
    return true;
}

/* What a comparison tells of the numbers, or of the architectures. */
static bool note_jump(struct rewrite *w, const struct sock_filter *i, enum field in)
{
    unsigned op = BPF_OP(i->code);

    if (op == BPF_JA || in == ARGS)
        return true;
    if (in == ARCH) {
        for (size_t k = 0; k < w->n_arches; k++)
            if (w->arches[k] == i->k)
                return op == BPF_JEQ;
        if (op != BPF_JEQ || w->n_arches == ARCHES_MAX)
            return false;
        w->arches[w->n_arches++] = i->k;
        return true;
    }
    if (in != NR)
        return false;
    switch (op) {
    case BPF_JEQ: return note_bound(w, i->k) && note_bound(w, (uint64_t)i->k + 1);
    case BPF_JGE: return note_bound(w, i->k);
    case BPF_JGT: return note_bound(w, (uint64_t)i->k + 1);
    default: return false;
    }
}

/* Jumps only go forward: one pass over the instructions finds all that can be reached, and with
 * what in the accumulator. */
static bool explore(struct rewrite *w)
{
    w->seen[0][NOTHING] = true;
    for (size_t pc = 0; pc < w->n; pc++) {
        const struct sock_filter *i = &w->f[pc];

        for (enum field in = NOTHING; in < FIELDS; in++) {
            enum field after = in;

            if (!w->seen[pc][in] || is_return(i))
                continue;
            if (is_jump(i)) {
                bool always = BPF_OP(i->code) == BPF_JA;
                size_t yes = pc + 1 + (always ? i->k : i->jt), no = always ? yes : pc + 1 + i->jf;

                if (yes >= w->n || no >= w->n || !note_jump(w, i, in))
                    return false;
                w->seen[yes][in] = w->seen[no][in] = true;
                continue;
            }
            if (field_of(i, &after) < 0 &&
                (in != ARGS || i->code != (BPF_ALU | BPF_AND | BPF_K)))
                return false;
            if (pc + 1 >= w->n)
                return false;
            w->seen[pc + 1][after] = true;
        }
    }
    return true;
}

static bool holds(const struct sock_filter *i, uint32_t a)
{
    switch (BPF_OP(i->code)) {
    case BPF_JEQ: return a == i->k;
    case BPF_JGE: return a >= i->k;
    default: return a > i->k;
    }
}

/* Where a call of that architecture and number gets its answer. */
static size_t ask(const struct rewrite *w, uint32_t arch, uint32_t nr)
{
    enum field in = NOTHING;
    uint32_t a = 0;

    for (size_t pc = 0;;) {
        const struct sock_filter *i = &w->f[pc];

        if (is_return(i) || (field_of(i, &in) == 0 && in == ARGS))
            return pc;
        if (is_jump(i))
            pc += BPF_OP(i->code) == BPF_JA ? i->k : holds(i, a) ? i->jt : i->jf;
        else
            a = in == ARCH ? arch : nr;
        pc++;
    }
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void sort_bounds(struct rewrite *w)
{
    size_t n = 0;

    qsort(w->bounds, w->n_bounds, sizeof *w->bounds, compare);
    for (size_t k = 0; k < w->n_bounds; k++)
        if (k == 0 || w->bounds[k] != w->bounds[n - 1])
            w->bounds[n++] = w->bounds[k];
    w->n_bounds = n;
}

static bool same_answer(const struct rewrite *w, size_t a, size_t b)
{
    return a == b ||
           (is_return(&w->f[a]) && is_return(&w->f[b]) && w->f[a].k == w->f[b].k);
}

static void find_ranges(struct rewrite *w, uint32_t arch)
{
    w->n_ranges = 0;
    for (size_t k = 0; k < w->n_bounds; k++) {
        size_t at = ask(w, arch, w->bounds[k]);

        if (w->n_ranges == 0 || !same_answer(w, at, w->ranges[w->n_ranges - 1].at))
            w->ranges[w->n_ranges++] = (struct range){ w->bounds[k], at };
    }
}

static size_t put(struct rewrite *w, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
    if (w->at == 0)
        w->full = true;
    else
        w->new[--w->at] = (struct sock_filter){ code, jt, jf, k };
    return w->at;
}

/* Where a conditional jump that is written next, or after one more, can go to get there. */
static size_t within_reach(struct rewrite *w, size_t target)
{
    return target - w->at < UINT8_MAX ?
               target :
               put(w, BPF_JMP | BPF_JA, 0, 0, (uint32_t)(target - w->at));
}

static size_t put_answer(struct rewrite *w, size_t at)
{
    const struct sock_filter *i = &w->f[at];

    if (!is_return(i))
        return w->moved[at];
    for (size_t k = w->at; k < BPF_MAXINSNS && k - w->at < UINT8_MAX / 2; k++)
        if (is_return(&w->new[k]) && w->new[k].k == i->k)
            return k;
    return put(w, i->code, 0, 0, i->k);
}

static uint32_t asked(uint32_t number)
{
    return number < ASKED ? number : ASKED;
}

/* Of ranges i to k of r, all shorter pieces being known; last: the number behind range k. */
static struct shape best(const struct rewrite *w, const struct range *r, size_t i, size_t k,
                         uint32_t last)
{
    uint32_t here = asked(last) - asked(r[i].first);
    struct shape s = { .cost = i == k ? 0 : UINT32_MAX, .singles = i == k };

    for (size_t m = i + 1; m <= k; m++) {
        uint32_t cost = INSN_COST + here + w->shape[i][m - 1].cost + w->shape[m][k].cost;

        if (cost < s.cost)
            s = (struct shape){ .cost = cost, .split = (uint16_t)m };
    }
    if (k - i < 2 || !w->shape[i][k - 2].singles || !same_answer(w, r[i].at, r[k].at) ||
        r[k].first - r[k - 1].first != 1)
        return s;
    s.singles = true;
    if ((INSN_COST + here) * (k - i) / 2 <= s.cost) {
        s.cost = (uint32_t)((INSN_COST + here) * (k - i) / 2);
        s.split = 0;
    }
    return s;
}

static size_t put_compare(struct rewrite *w, uint16_t op, uint32_t number, size_t yes, size_t no)
{
    no = within_reach(w, no);
    yes = within_reach(w, yes);
    return put(w, BPF_JMP | op | BPF_K, (uint8_t)(yes - w->at), (uint8_t)(no - w->at), number);
}

static size_t put_shape(struct rewrite *w, const struct range *r, size_t i, size_t k)
{
    size_t m = w->shape[i][k].split, here;

    if (m) {
        size_t high = put_shape(w, r, m, k);

        return put_compare(w, BPF_JGE, r[m].first, high, put_shape(w, r, i, m - 1));
    }
    here = put_answer(w, r[i].at);
    for (m = k; m > i; m -= 2) {
        size_t hit = put_answer(w, r[m - 1].at);

        here = put_compare(w, BPF_JEQ, r[m - 1].first, hit, here);
    }
    return here;
}

/* Returns where it begins. */
static size_t put_tree(struct rewrite *w, const struct range *r, size_t n)
{
    if (n > BEST_MAX) {
        size_t mid = n / 2, high = put_tree(w, r + mid, n - mid);

        return put_compare(w, BPF_JGE, r[mid].first, high, put_tree(w, r, mid));
    }
    for (size_t len = 0; len < n; len++)
        for (size_t i = 0; i + len < n; i++) {
            const struct range *next = &r[i + len + 1];
            bool end = next == w->ranges + w->n_ranges;

            w->shape[i][i + len] = best(w, r, i, i + len, end ? UINT32_MAX : next->first);
        }
    return put_shape(w, r, 0, n - 1);
}

/* Without arch: that of all others, which comes last. */
static void put_arch(struct rewrite *w, const uint32_t *arch, uint32_t any)
{
    size_t behind = w->at, here;

    find_ranges(w, arch ? *arch : any);
    here = put_tree(w, w->ranges, w->n_ranges);
    if (w->n_ranges > 1)
        here = put(w, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
    else if (!arch && here != w->at)
        (void)put(w, BPF_JMP | BPF_JA, 0, 0, (uint32_t)(here - w->at));
    if (!arch)
        return;
    here = within_reach(w, here);
    behind = within_reach(w, behind);
    (void)put(w, BPF_JMP | BPF_JEQ | BPF_K, (uint8_t)(here - w->at), (uint8_t)(behind - w->at),
              *arch);
}

static void want_arguments(struct rewrite *w, uint32_t arch)
{
    find_ranges(w, arch);
    for (size_t k = 0; k < w->n_ranges; k++)
        if (!is_return(&w->f[w->ranges[k].at]))
            w->wanted[w->ranges[k].at] = true;
}

static void want_successors(struct rewrite *w)
{
    for (size_t pc = 0; pc < w->n; pc++) {
        const struct sock_filter *i = &w->f[pc];

        if (!w->wanted[pc] || is_return(i))
            continue;
        if (!is_jump(i))
            w->wanted[pc + 1] = true;
        else if (BPF_OP(i->code) == BPF_JA)
            w->wanted[pc + 1 + i->k] = true;
        else
            w->wanted[pc + 1 + i->jt] = w->wanted[pc + 1 + i->jf] = true;
    }
}

/* In their order, so that what jumped forward still does; distances only shrink. */
static void put_arguments(struct rewrite *w)
{
    for (size_t pc = w->n; pc-- > 0;) {
        const struct sock_filter *i = &w->f[pc];
        const size_t *to = &w->moved[pc + 1];

        if (!w->wanted[pc])
            continue;
        if (!is_jump(i))
            w->moved[pc] = put(w, i->code, 0, 0, i->k);
        else if (BPF_OP(i->code) == BPF_JA)
            w->moved[pc] = put(w, i->code, 0, 0, (uint32_t)(to[i->k] - w->at));
        else
            w->moved[pc] = put(w, i->code, (uint8_t)(to[i->jt] - w->at),
                               (uint8_t)(to[i->jf] - w->at), i->k);
    }
}

static uint32_t other_arch(const struct rewrite *w)
{
    uint32_t any = 0;

    for (size_t k = 0; k < w->n_arches; k++)
        if (w->arches[k] == any) {
            any++;
            k = (size_t)-1;
        }
    return any;
}

static bool make(struct rewrite *w)
{
    uint32_t other;

    if (!note_bound(w, 0) || !explore(w))
        return false;
    sort_bounds(w);
    other = other_arch(w);
    want_arguments(w, other);
    for (size_t k = 0; k < w->n_arches; k++)
        want_arguments(w, w->arches[k]);
    want_successors(w);
    put_arguments(w);
    put_arch(w, NULL, other);
    for (size_t k = w->n_arches; k-- > 0;)
        put_arch(w, &w->arches[k], 0);
    if (w->n_arches)
        (void)put(w, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, arch));
    return !w->full && BPF_MAXINSNS - w->at < w->n;
}

size_t ranges_make(const struct sock_filter *f, size_t n, struct sock_filter *out)
{
    struct rewrite *w;
    size_t len = 0;

    if (n == 0 || n > BPF_MAXINSNS)
        return 0;
    w = mem_new(struct rewrite);
    w->f = f;
    w->n = n;
    w->at = BPF_MAXINSNS;
    w->seen = mem_array(n, sizeof *w->seen);
    w->bounds = mem_array(BOUNDS_MAX, sizeof *w->bounds);
    w->ranges = mem_array(BOUNDS_MAX, sizeof *w->ranges);
    w->shape = mem_array(BEST_MAX, sizeof *w->shape);
    w->wanted = mem_array(n, sizeof *w->wanted);
    w->moved = mem_array(n, sizeof *w->moved);
    if (make(w)) {
        len = BPF_MAXINSNS - w->at;
        memcpy(out, w->new + w->at, len * sizeof *out);
    }
    free(w->seen);
    free(w->bounds);
    free(w->ranges);
    free(w->shape);
    free(w->wanted);
    free(w->moved);
    free(w);
    return len;
}
