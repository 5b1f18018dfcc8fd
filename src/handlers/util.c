/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/rpcs.h"

#include "log.h"
#include "mem.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ProtobufCMessage *pb_dup(const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    auto_free uint8_t *buf = mem_alloc(n);
    ProtobufCMessage *d;

    protobuf_c_message_pack(m, buf);
    d = protobuf_c_message_unpack(m->descriptor, NULL, n, buf);
    if (!d)
        abort();    /* what was packed can be unpacked, short of memory */
    return d;
}

/* Every generated map entry has this shape. */
struct entry {
    ProtobufCMessage base;
    char *key, *value;
};

static int by_key(const void *a, const void *b)
{
    const struct entry *const *x = a, *const *y = b;

    return strcmp((*x)->key, (*y)->key);
}

/* Clients write the entries of a map in any order, Go's in another one each time. */
static void sort_maps(const ProtobufCMessage *m)
{
    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        const char *at = (const char *)m + f->offset;

        if (f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        if (f->label != PROTOBUF_C_LABEL_REPEATED) {
            const ProtobufCMessage *sub = *(const ProtobufCMessage *const *)(const void *)at;

            if (sub)
                sort_maps(sub);
            continue;
        }
        size_t n = *(const size_t *)(const void *)((const char *)m + f->quantifier_offset);
        void **list = *(void **const *)(const void *)at;
        const ProtobufCMessageDescriptor *type = f->descriptor;

        if (n > 1 && str_ends(type->short_name, "Entry") && type->n_fields == 2 &&
            type->fields[0].type == PROTOBUF_C_TYPE_STRING)
            qsort(list, n, sizeof *list, by_key);
        else
            for (size_t k = 0; k < n; k++)
                sort_maps(list[k]);
    }
}

bool pb_same(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    size_t n = protobuf_c_message_get_packed_size(a);

    if (n != protobuf_c_message_get_packed_size(b))
        return false;
    sort_maps(a);
    sort_maps(b);
    auto_free uint8_t *x = mem_alloc(n), *y = mem_alloc(n);
    protobuf_c_message_pack(a, x);
    protobuf_c_message_pack(b, y);
    return memcmp(x, y, n) == 0;
}

int handler_check(struct handlers *h, const char *name, struct err *err)
{
    if (!name[0] || strcmp(name, "cricket") == 0)
        return 0;
    for (const struct conf_runtime *r = h->conf->runtimes; r; r = r->next)
        if (strcmp(r->name, name) == 0)
            return 0;
    return err_rpc(err, GRPC_INVALID_ARGUMENT, "runtime handler '%.100s' is not configured", name);
}

const char *handler_path(struct handlers *h, const char *name)
{
    if (strcmp(name, "cricket") == 0)
        return NULL;
    for (const struct conf_runtime *r = h->conf->runtimes; r; r = r->next)
        if (strcmp(r->name, name) == 0)
            return r->path;
    return NULL;
}

int handler_binary_check(struct handlers *h, const char *name, struct err *err)
{
    const char *path = handler_path(h, name);
    struct stat st;

    if (!path)
        return 0;
    if (stat(path, &st) < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "runtime handler '%.100s': OCI runtime '%s': %s",
                       name, path, strerror(errno));
    if (!S_ISREG(st.st_mode) || access(path, X_OK) < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION,
                       "runtime handler '%.100s': OCI runtime '%s' is no program", name, path);
    return 0;
}

bool labels_match(void *const *selector, size_t n_selector, void *const *labels, size_t n_labels)
{
    for (size_t i = 0; i < n_selector; i++) {
        const struct entry *want = selector[i];
        bool found = false;

        for (size_t k = 0; k < n_labels && !found; k++) {
            const struct entry *have = labels[k];

            found = strcmp(want->key, have->key) == 0 && strcmp(want->value, have->value) == 0;
        }
        if (!found)
            return false;
    }
    return true;
}

void pb_join(struct str *reply, unsigned number, const struct str *part)
{
    size_t n = part->len;

    str_putc(reply, (char)(number << 3 | 2));    /* numbers below 16: one byte */
    for (; n >= 0x80; n >>= 7)
        str_putc(reply, (char)(n | 0x80));
    str_putc(reply, (char)n);
    str_add(reply, part->p, part->len);
}

struct doomed {
    struct handlers *h;
    uint64_t *numbers;
    size_t n;
};

static void on_committed(void *arg, const struct err *err)
{
    struct doomed *d = arg;

    if (err)
        log_error("op=delete layers=%zu err='%s', left for the next start", d->n, err->text);
    else if (d->n && !d->h->ending)
        pull_remove_layers(d->h->puller, d->numbers, d->n);
    free(d->numbers);
    free(d);
}

void commit_and_delete(struct handlers *h, struct store_batch *b, uint64_t *dead, size_t n)
{
    struct doomed *d = mem_new(struct doomed);

    d->h = h;
    d->numbers = dead;
    d->n = n;
    store_batch_commit(b, on_committed, d);
}

/* dead += more; frees more. */
static void append(uint64_t **dead, size_t *n, uint64_t *more, size_t k)
{
    if (k) {
        *dead = mem_grow(*dead, *n + k, sizeof **dead);
        memcpy(*dead + *n, more, k * sizeof *more);
        *n += k;
    }
    free(more);
}

void ctr_drop_layers(struct ctr *c)
{
    struct store_batch *b = store_batch_new(c->h->store);
    uint64_t *dead = NULL, *more;
    size_t n = 0, k;

    more = NULL, k = 0;
    images_layers_drop(c->h->images, c->rec->layers, c->rec->n_layers, b, &more, &k);
    append(&dead, &n, more, k);
    for (size_t i = 0; i < c->rec->n_volume_images; i++) {
        const Cricket__State__VolumeImage *v = c->rec->volume_images[i];

        more = NULL, k = 0;
        images_layers_drop(c->h->images, v->layers, v->n_layers, b, &more, &k);
        append(&dead, &n, more, k);
    }
    commit_and_delete(c->h, b, dead, n);
}
