/* SPDX-License-Identifier: Apache-2.0 */
/* What a sandbox or a container says of itself: status messages and encoded list entries (CRI.md
 * 8).
 *
 * A filled message borrows: strings and sub-messages belong to the object, new shells to the pool.
 * The maps of labels and annotations are lent across message types: protobuf-c packs an entry by
 * its own descriptor, and every string map has the same wire form. */
#include "handlers/objects.h"
#include "mem.h"
#include "reactor/pool.h"

#include <string.h>

#define lend_map(dst, src, name) \
    do { \
        (dst)->n_##name = (src)->n_##name; \
        (dst)->name = (void *)(src)->name; \
    } while (0)

bool sandbox_is_ready(const struct sandbox *s)
{
    return s->rec->state == CRICKET__STATE__SANDBOX__STATE__READY &&
           (s->link || s->meeting);
}

const Runtime__V1__NamespaceOption *sandbox_namespaces(const struct sandbox *s)
{
    const Runtime__V1__LinuxPodSandboxConfig *l = s->config->linux;

    return l && l->security_context ? l->security_context->namespace_options : NULL;
}

bool sandbox_host_network(const struct sandbox *s)
{
    const Runtime__V1__NamespaceOption *n = sandbox_namespaces(s);

    return n && n->network == RUNTIME__V1__NAMESPACE_MODE__NODE;
}

static Runtime__V1__PodSandboxState sandbox_state(const struct sandbox *s)
{
    return sandbox_is_ready(s) ? RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY
                               : RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY;
}

Runtime__V1__ContainerState ctr_state(const struct ctr *c)
{
    switch (c->rec->state) {
    case CRICKET__STATE__CONTAINER__STATE__RUNNING:
        return RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
    case CRICKET__STATE__CONTAINER__STATE__EXITED:
        return RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED;
    case CRICKET__STATE__CONTAINER__STATE__REMOVING:
        return c->rec->finished_at ? RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED
                                   : RUNTIME__V1__CONTAINER_STATE__CONTAINER_CREATED;
    default:
        return RUNTIME__V1__CONTAINER_STATE__CONTAINER_CREATED;
    }
}

static void pack_into(struct str *s, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);

    str_reset(s);
    s->len += protobuf_c_message_pack(m, (uint8_t *)str_room(s, n));
}

const struct str *sandbox_listed(struct sandbox *s)
{
    Runtime__V1__PodSandbox p = RUNTIME__V1__POD_SANDBOX__INIT;

    if (s->listed.len)
        return &s->listed;
    p.id = s->id;
    p.metadata = s->config->metadata;
    p.state = sandbox_state(s);
    p.created_at = s->rec->created_at;
    lend_map(&p, s->config, labels);
    lend_map(&p, s->config, annotations);
    p.runtime_handler = s->rec->runtime_handler;
    pack_into(&s->listed, &p.base);
    return &s->listed;
}

const struct str *ctr_listed(struct ctr *c)
{
    Runtime__V1__Container m = RUNTIME__V1__CONTAINER__INIT;

    if (c->listed.len)
        return &c->listed;
    m.id = c->id;
    m.pod_sandbox_id = c->sandbox->id;
    m.metadata = c->config->metadata;
    m.image = c->config->image;
    m.image_ref = c->rec->image_id;
    m.image_id = c->rec->image_id;
    m.state = ctr_state(c);
    m.created_at = c->rec->created_at;
    lend_map(&m, c->config, labels);
    lend_map(&m, c->config, annotations);
    pack_into(&c->listed, &m.base);
    return &c->listed;
}

#define pool_msg(pool, type, init) \
    __extension__({ \
        type *m_ = pool_alloc(pool, sizeof(type)); \
        init(m_); \
        m_; \
    })

static Runtime__V1__PodSandboxNetworkStatus *network_status(struct sandbox *s, struct pool *pool)
{
    Runtime__V1__PodSandboxNetworkStatus *n =
        pool_msg(pool, Runtime__V1__PodSandboxNetworkStatus,
                 runtime__v1__pod_sandbox_network_status__init);

    if (!s->rec->n_ips)
        return n;
    n->ip = s->rec->ips[0];
    n->n_additional_ips = s->rec->n_ips - 1;
    n->additional_ips = pool_alloc(pool, s->rec->n_ips * sizeof(void *));
    for (size_t i = 1; i < s->rec->n_ips; i++) {
        Runtime__V1__PodIP *ip = pool_msg(pool, Runtime__V1__PodIP, runtime__v1__pod_ip__init);

        ip->ip = s->rec->ips[i];
        n->additional_ips[i - 1] = ip;
    }
    return n;
}

void sandbox_status_fill(struct sandbox *s, Runtime__V1__PodSandboxStatus *st, struct pool *pool)
{
    const Runtime__V1__NamespaceOption *ns = sandbox_namespaces(s);

    runtime__v1__pod_sandbox_status__init(st);
    st->id = s->id;
    st->metadata = s->config->metadata;
    st->state = sandbox_state(s);
    st->created_at = s->rec->created_at;
    st->network = network_status(s, pool);
    st->linux = pool_msg(pool, Runtime__V1__LinuxPodSandboxStatus,
                         runtime__v1__linux_pod_sandbox_status__init);
    st->linux->namespaces = pool_msg(pool, Runtime__V1__Namespace, runtime__v1__namespace__init);
    if (ns)    /* verbatim: kubelet compares it with the pod's spec */
        st->linux->namespaces->options = s->config->linux->security_context->namespace_options;
    else
        st->linux->namespaces->options = pool_msg(pool, Runtime__V1__NamespaceOption,
                                                  runtime__v1__namespace_option__init);
    lend_map(st, s->config, labels);
    lend_map(st, s->config, annotations);
    st->runtime_handler = s->rec->runtime_handler;
}

/* The request's mounts; what an image volume resolved to is added. */
static void fill_mounts(struct ctr *c, Runtime__V1__ContainerStatus *st, struct pool *pool)
{
    st->n_mounts = c->config->n_mounts;
    st->mounts = c->config->mounts;
    if (!c->rec->n_volume_images)
        return;
    st->mounts = pool_alloc(pool, st->n_mounts * sizeof(void *));
    for (size_t i = 0; i < st->n_mounts; i++) {
        st->mounts[i] = c->config->mounts[i];
        for (size_t k = 0; k < c->rec->n_volume_images; k++) {
            const Cricket__State__VolumeImage *v = c->rec->volume_images[k];
            Runtime__V1__Mount *m;

            if (!st->mounts[i]->image ||
                strcmp(v->container_path, st->mounts[i]->container_path) != 0)
                continue;
            m = pool_alloc(pool, sizeof *m);
            *m = *st->mounts[i];
            m->image = pool_alloc(pool, sizeof *m->image);
            *m->image = *st->mounts[i]->image;
            m->image->image_ref = v->image_id;
            st->mounts[i] = m;
            break;
        }
    }
}

void ctr_status_fill(struct ctr *c, Runtime__V1__ContainerStatus *st, struct pool *pool)
{
    runtime__v1__container_status__init(st);
    st->id = c->id;
    st->metadata = c->config->metadata;
    st->state = ctr_state(c);
    st->created_at = c->rec->created_at;
    st->started_at = c->rec->started_at;
    st->finished_at = c->rec->finished_at;
    st->exit_code = c->rec->exit_code;
    st->reason = c->rec->reason;
    st->message = c->rec->message;
    st->image = pool_msg(pool, Runtime__V1__ImageSpec, runtime__v1__image_spec__init);
    st->image->image = c->rec->image_name;
    if (c->config->image) {
        st->image->user_specified_image = c->config->image->user_specified_image;
        lend_map(st->image, c->config->image, annotations);
    }
    st->image_ref = c->rec->image_ref;
    st->image_id = c->rec->image_id;
    lend_map(st, c->config, labels);
    lend_map(st, c->config, annotations);
    fill_mounts(c, st, pool);
    st->log_path = c->rec->log_path;
    st->resources =
        pool_msg(pool, Runtime__V1__ContainerResources, runtime__v1__container_resources__init);
    st->resources->linux = c->resources;
    st->user = pool_msg(pool, Runtime__V1__ContainerUser, runtime__v1__container_user__init);
    st->user->linux =
        pool_msg(pool, Runtime__V1__LinuxContainerUser, runtime__v1__linux_container_user__init);
    st->user->linux->uid = c->rec->uid;
    st->user->linux->gid = c->rec->gid;
    st->user->linux->n_supplemental_groups = c->rec->n_groups;
    st->user->linux->supplemental_groups = c->rec->groups;
    st->stop_signal = (Runtime__V1__Signal)c->rec->stop_signal;
}
