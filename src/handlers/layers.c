/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/layers.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define INIT_LAYER "l/init"
enum { OVERLAY_MAX = 500 };          /* layers, of one mount */

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

int init_layer_make(const struct conf *conf, struct err *err)
{
    static const char *const dirs[] = { "", "/dev", "/etc", "/proc", "/sys" };
    static const char *const files[] = { "hostname", "hosts", "resolv.conf" };

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        auto_free char *p = mem_printf("%s/" INIT_LAYER "%s", conf->root, dirs[i]);

        if ((mkdir(p, 0755) < 0 && errno != EEXIST) || chmod(p, 0755) < 0)
            return err_sys(err, "make directory '%s'", p);
    }
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        auto_free char *p = mem_printf("%s/" INIT_LAYER "/etc/%s", conf->root, files[i]);
        auto_fd int fd = open(p, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);

        if (fd < 0 || fchmod(fd, 0644) < 0)
            return err_sys(err, "make file '%s'", p);
    }
    return 0;
}

void layer_dirs_add_init(struct handlers *h, struct layer_dirs *d)
{
    if (!h->init_layer || d->n >= OVERLAY_MAX)
        return;
    d->v = mem_grow(d->v, d->n + 1, sizeof *d->v);
    d->v[d->n++] = mem_printf("%s/" INIT_LAYER, h->conf->root);
}
