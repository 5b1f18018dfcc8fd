/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/layers.h"

#include "mem.h"

struct image *image_lookup(struct handlers *h, const char *asked)
{
    struct ref *ref = NULL;
    struct image *im;

    (void)ref_parse(asked, &ref, NULL);    /* an id need not be a name */
    im = images_find(h->images, asked, ref ? ref->normal : NULL);
    ref_free(ref);
    return im;
}

void layers_of_image(struct handlers *h, const struct image *im, uint64_t **ret, size_t *ret_n)
{
    size_t n = im->rec->n_chain_ids;
    uint64_t *v = mem_array(n + 1, sizeof *v);

    for (size_t i = 0; i < n; i++) {
        struct layer *l = images_layer(h->images, im->rec->chain_ids[i]);

        v[i] = l ? l->rec->number : 0;
    }
    *ret = v;
    *ret_n = n;
}

void layer_dirs_of(struct handlers *h, const uint64_t *numbers, size_t n, struct layer_dirs *ret)
{
    ret->v = mem_array(n + 1, sizeof *ret->v);
    ret->n = n;
    for (size_t i = 0; i < n; i++)
        ret->v[n - 1 - i] = mem_printf("%s/l/%llu", h->conf->root, (unsigned long long)numbers[i]);
}

void layer_dirs_deinit(struct layer_dirs *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->v[i]);
    free(d->v);
    d->v = NULL;
    d->n = 0;
}

char *layer_dirs_join(const struct layer_dirs *d)
{
    struct str s = STR_INIT;

    for (size_t i = 0; i < d->n; i++) {
        if (i)
            str_putc(&s, ':');
        str_puts(&s, d->v[i]);
    }
    return str_take(&s);
}
