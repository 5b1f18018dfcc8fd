/* SPDX-License-Identifier: Apache-2.0 */
/* Makes and ends what the handlers work on. */
#include "handlers/handlers.h"

#include "handlers/objects.h"
#include "mem.h"

int handlers_new(struct loop *l, const struct conf *conf, struct handlers **ret, struct err *err)
{
    struct handlers *h = mem_new(struct handlers);

    (void)err;
    h->loop = l;
    h->conf = conf;
    *ret = h;
    return 0;
}

struct handlers *handlers_free(struct handlers *h)
{
    free(h);
    return NULL;
}
