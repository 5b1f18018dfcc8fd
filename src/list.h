/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked ring: a struct list is a head or a link inside an object. A link that is
 * in no list points at itself, so removing twice does no harm. */
#ifndef CRICKET_LIST_H
#define CRICKET_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev, *next;
};

#define LIST_INIT(l) { &(l), &(l) }

#define container_of(ptr, type, member) \
    ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void list_init(struct list *l) { l->prev = l->next = l; }

static inline bool list_empty(const struct list *l) { return l->next == l; }

static inline void list_add_tail(struct list *head, struct list *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

static inline void list_del(struct list *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    list_init(l);
}

#define list_first(head, type, member) \
    (list_empty(head) ? NULL : container_of((head)->next, type, member))

/* The body may remove the current object, no other. */
#define list_each(pos, head, type, member) \
    for (struct list *it_ = (head)->next, *nx_ = it_->next; \
         it_ != (head) && ((pos) = container_of(it_, type, member), 1); it_ = nx_, nx_ = it_->next)

#endif
