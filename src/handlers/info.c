/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/info.h"
#include "reactor/pool.h"

#include "utf8.h"

#include <string.h>
#include <unistd.h>

static const char *const secret[] = { "password", "auth", "identity_token", "registry_token" };

static bool is_secret(const char *name)
{
    for (size_t i = 0; i < sizeof secret / sizeof *secret; i++)
        if (strcmp(name, secret[i]) == 0)
            return true;
    return false;
}

static json_t *bytes_json(const void *p, size_t n)
{
    json_t *j = json_stringn(p, n);    /* NULL when it is not UTF-8 */
    char *copy;

    if (j)
        return j;
    copy = n ? malloc(n) : NULL;
    if (!copy)
        return json_string("");
    memcpy(copy, p, n);
    utf8_clean(copy, n);
    j = json_stringn(copy, n);
    free(copy);
    return j ? j : json_string("");
}

static json_t *value_json(const ProtobufCFieldDescriptor *f, const void *p)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING: {
        const char *s = *(char *const *)p;

        return s && s[0] ? bytes_json(s, strlen(s)) : NULL;
    }
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *b = p;

        return b->len ? bytes_json(b->data, b->len) : NULL;
    }
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *m = *(ProtobufCMessage *const *)p;

        return m ? pb_json(m) : NULL;
    }
    case PROTOBUF_C_TYPE_BOOL:
        return *(const protobuf_c_boolean *)p ? json_true() : NULL;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
        return *(const int64_t *)p ? json_integer(*(const int64_t *)p) : NULL;
    case PROTOBUF_C_TYPE_UINT32:
        return *(const uint32_t *)p ? json_integer(*(const uint32_t *)p) : NULL;
    case PROTOBUF_C_TYPE_DOUBLE:
        return json_real(*(const double *)p);
    case PROTOBUF_C_TYPE_ENUM: {
        int v = *(const int *)p;

        return v ? json_integer(v) : NULL;
    }
    default:
        return *(const int32_t *)p ? json_integer(*(const int32_t *)p) : NULL;
    }
}

static size_t value_size(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    default:
        return 4;
    }
}

/* A map is a repeated message of (key = 1, value = 2) whose name ends with Entry. */
static bool is_map(const ProtobufCFieldDescriptor *f)
{
    const ProtobufCMessageDescriptor *d = f->descriptor;
    size_t n;

    if (f->label != PROTOBUF_C_LABEL_REPEATED || f->type != PROTOBUF_C_TYPE_MESSAGE)
        return false;
    n = strlen(d->short_name);
    return n > 5 && strcmp(d->short_name + n - 5, "Entry") == 0 && d->n_fields == 2;
}

static json_t *repeated_json(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    size_t n = *(const size_t *)((const char *)m + f->quantifier_offset), size = value_size(f);
    const char *v = *(char *const *)((const char *)m + f->offset);
    json_t *j;

    if (!n)
        return NULL;
    if (is_map(f)) {
        j = json_object();
        for (size_t i = 0; i < n; i++) {
            struct {
                ProtobufCMessage base;
                char *key, *value;
            } const *e = ((void *const *)v)[i];

            json_object_set_new(j, e->key, bytes_json(e->value, strlen(e->value)));
        }
        return j;
    }
    j = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *x = value_json(f, v + i * size);

        if (!x)
            x = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES
                    ? json_string("")
                    : json_integer(0);
        json_array_append_new(j, x);
    }
    return j;
}

json_t *pb_json(const ProtobufCMessage *m)
{
    json_t *j = json_object();

    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        json_t *x;

        if (is_secret(f->name))
            continue;
        if (f->label == PROTOBUF_C_LABEL_REPEATED)
            x = repeated_json(m, f);
        else
            x = value_json(f, (const char *)m + f->offset);
        if (x)
            json_object_set_new(j, f->name, x);
    }
    return j;
}

void *info_entry(struct pool *pool, const ProtobufCMessageDescriptor *type, const char *key,
                 char *value)
{
    struct {
        ProtobufCMessage base;
        char *key, *value;
    } *e = pool_alloc(pool, sizeof *e > type->sizeof_message ? sizeof *e : type->sizeof_message);

    type->message_init((ProtobufCMessage *)e);
    e->key = pool_strdup(pool, key);
    e->value = value;
    return e;
}

char *info_dump(struct pool *pool, json_t *j)
{
    char *s = json_dumps(j, JSON_COMPACT), *r;

    r = pool_strdup(pool, s ? s : "{}");
    free(s);
    json_decref(j);
    return r;
}
