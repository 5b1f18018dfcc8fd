/* SPDX-License-Identifier: Apache-2.0 */
/* What all implementations of mux.h share: the list of channels. Few at a time (five, or two per
 * forwarded connection), so looking one up is a walk; the newest is asked for most. */
#include "reactor/mux.h"

#include "mem.h"

void mux_init(struct mux *m, const struct mux_ops *ops, const struct mux_user *user,
              const struct transport *out)
{
    m->ops = ops;
    m->user = *user;
    m->out = *out;
    list_init(&m->chans);
}

void mux_deinit(struct mux *m)
{
    while (!list_empty(&m->chans))
        chan_free(list_first(&m->chans, struct chan, link));
}

struct chan *chan_new(struct mux *m, uint32_t id)
{
    struct chan *c = mem_new(struct chan);

    c->mux = m;
    c->id = id;
    c->kind = CHAN_UNKNOWN;
    list_add_tail(&m->chans, &c->link);
    m->n_chans++;
    return c;
}

struct chan *chan_find(struct mux *m, uint32_t id)
{
    for (struct list *l = m->chans.prev; l != &m->chans; l = l->prev) {
        struct chan *c = container_of(l, struct chan, link);

        if (c->id == id)
            return c;
    }
    return NULL;
}

void chan_free(struct chan *c)
{
    list_del(&c->link);
    c->mux->n_chans--;
    free(c);
}
