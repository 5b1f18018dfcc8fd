/* SPDX-License-Identifier: Apache-2.0 */
/* A set of changes by (table, key): what a loop turn or a second of lazy records comes down to. A
 * container that changes five times in a turn is one write. */
#include "store/priv.h"

#include "mem.h"

#include <string.h>

void changes_init(struct changes *c)
{
    list_init(&c->all);
    for (size_t i = 0; i < CHANGES_BUCKETS; i++)
        list_init(&c->buckets[i]);
    c->count = 0;
}

static struct list *bucket(struct changes *c, unsigned table, const char *key)
{
    uint32_t h = 2166136261u ^ table;

    for (const char *p = key; *p; p++)
        h = (h ^ (unsigned char)*p) * 16777619u;
    return &c->buckets[(h ^ h >> 16) % CHANGES_BUCKETS];
}

struct change *changes_find(struct changes *c, unsigned table, const char *key)
{
    struct change *x;

    list_each(x, bucket(c, table, key), struct change, bucket)
        if (x->table == table && strcmp(x->key, key) == 0)
            return x;
    return NULL;
}

void changes_drop(struct changes *c, struct change *x)
{
    list_del(&x->all);
    list_del(&x->bucket);
    c->count--;
    free(x->key);
    free(x->val);
    free(x);
}

void changes_clear(struct changes *c)
{
    struct change *x;

    list_each(x, &c->all, struct change, all)
        changes_drop(c, x);
}

void changes_set(struct changes *c, bool del, unsigned table, const char *key, const void *val,
                 size_t len)
{
    struct change *x = changes_find(c, table, key);

    if (!x) {
        x = mem_new(struct change);
        x->table = (uint8_t)table;
        x->key = mem_strdup(key);
        list_add_tail(&c->all, &x->all);
        list_add_tail(bucket(c, table, key), &x->bucket);
        c->count++;
    }
    free(x->val);
    x->del = del;
    x->val = del ? NULL : mem_dup(val, len);
    x->len = del ? 0 : len;
}
