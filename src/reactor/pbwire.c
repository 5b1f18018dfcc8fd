/* SPDX-License-Identifier: Apache-2.0 */
/* A walk over the wire format, led by the descriptors that protoc-c generates.
 *
 * libprotobuf-c says "NULL" for anything malformed, does not look at UTF-8, and hands out strings
 * without their length. On the wire each string still has its length and each level its field, so
 * one pass before decoding finds all of that and can name the field; it also keeps what
 * libprotobuf-c cannot parse away from it. */
#include "reactor/pbwire.h"

#include "str.h"
#include "utf8.h"

#include <stdbool.h>
#include <string.h>

enum { DEPTH_MAX = 64 };
enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

struct at {
    const struct at *up;
    const ProtobufCFieldDescriptor *field;
    int depth;
};

static void add_path(struct str *s, const struct at *at)
{
    if (at->up)
        add_path(s, at->up);
    if (at->field) {
        if (s->len)
            str_putc(s, '.');
        str_puts(s, at->field->name);
    }
}

static int bad(const struct at *at, struct err *err, const char *what)
{
    auto_str struct str path = STR_INIT;

    add_path(&path, at);
    if (!path.len)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "malformed request: %s", what);
    return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s: %s", str_c(&path), what);
}

static bool get_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
    uint64_t v = 0;

    for (int shift = 0; shift < 70 && *p < end; shift += 7) {
        uint8_t c = *(*p)++;

        if (shift < 64)
            v |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80)) {
            *ret = v;
            return true;
        }
    }
    return false;
}

static enum wire wire_of(ProtobufCType t)
{
    switch (t) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT: return FIXED32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return FIXED64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE: return BYTES;
    default: return VARINT;
    }
}

static int check_packed(const ProtobufCFieldDescriptor *f, const uint8_t *p, size_t n,
                        const struct at *at, struct err *err)
{
    const uint8_t *end = p + n;
    uint64_t v;

    switch (wire_of(f->type)) {
    case FIXED32: return n % 4 ? bad(at, err, "packed numbers are cut off") : 0;
    case FIXED64: return n % 8 ? bad(at, err, "packed numbers are cut off") : 0;
    default: break;
    }
    while (p < end)
        if (!get_varint(&p, end, &v))
            return bad(at, err, "packed numbers are cut off");
    return 0;
}

static int check_message(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n,
                         const struct at *at, struct err *err);

static int check_bytes(const ProtobufCFieldDescriptor *f, const uint8_t *p, size_t n,
                       const struct at *at, struct err *err)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
        if (!utf8_ok((const char *)p, n))
            return bad(at, err, "not valid UTF-8");
        if (n && memchr(p, 0, n))
            return bad(at, err, "has a NUL byte");
        return 0;
    case PROTOBUF_C_TYPE_BYTES: return 0;
    case PROTOBUF_C_TYPE_MESSAGE:
        if (at->depth > DEPTH_MAX)
            return bad(at, err, "nested too deeply");
        return check_message(f->descriptor, p, n, at, err);
    default:
        if (f->label != PROTOBUF_C_LABEL_REPEATED)
            return bad(at, err, "encoded with the wrong type");
        return check_packed(f, p, n, at, err);
    }
}

static int check_field(const ProtobufCFieldDescriptor *f, enum wire wire, const uint8_t **p,
                       const uint8_t *end, const struct at *at, struct err *err)
{
    uint64_t v;

    if (f && wire != BYTES && wire != wire_of(f->type))
        return bad(at, err, "encoded with the wrong type");
    switch (wire) {
    case VARINT:
        return get_varint(p, end, &v) ? 0 : bad(at, err, "number is cut off");
    case FIXED32:
    case FIXED64:
        v = wire == FIXED32 ? 4 : 8;
        break;
    case BYTES:
        if (!get_varint(p, end, &v))
            return bad(at, err, "length is cut off");
        break;
    default: return bad(at, err, "unknown wire type");
    }
    if (v > (uint64_t)(end - *p))
        return bad(at, err, "is cut off");
    *p += v;
    return f && wire == BYTES ? check_bytes(f, *p - v, (size_t)v, at, err) : 0;
}

static int check_message(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n,
                         const struct at *at, struct err *err)
{
    const uint8_t *end = p + n;
    uint64_t tag;

    while (p < end) {
        struct at here = { at, NULL, at->depth + 1 };
        int r;

        if (!get_varint(&p, end, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
            return bad(at, err, "bad field number");
        here.field = protobuf_c_message_descriptor_get_field(d, (unsigned)(tag >> 3));
        r = check_field(here.field, (enum wire)(tag & 7), &p, end, &here, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int pbwire_check(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n, struct err *err)
{
    const struct at top = { NULL, NULL, 0 };

    return check_message(d, p, n, &top, err);
}
