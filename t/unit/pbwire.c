/* SPDX-License-Identifier: Apache-2.0 */
/* src/reactor/pbwire: what is wrong with an encoded request, and where; src/reactor/pool. */
#include "tap.h"

#include "mem.h"
#include "reactor/pbwire.h"
#include "reactor/pool.h"
#include "runtime.pb-c.h"

#define POD &runtime__v1__run_pod_sandbox_request__descriptor
#define IS(desc, bytes, want, name) check((desc), (bytes), sizeof(bytes) - 1, (want), (name))

static void check(const ProtobufCMessageDescriptor *d, const char *p, size_t n, const char *want,
                  const char *name)
{
    /* a buffer of its own, so that a sanitizer sees every overrun */
    auto_free uint8_t *exact = mem_grow(NULL, n ? n : 1, 1);
    struct err err = ERR_INIT;
    int r;

    memcpy(exact, p, n);
    r = pbwire_check(d, exact, n, &err);
    if (want) {
        is_str(err.text, want, "%s", name);
        is_int(err.grpc, GRPC_INVALID_ARGUMENT, "... is InvalidArgument");
    } else {
        is_str(err.text, "", "%s", name);
        is_int(r, 0, "... is right");
    }
}

/* Every prefix and every flipped bit of a good message: no crash, and whatever passes can be
 * decoded. */
static void test_mutants(void)
{
    static const char good[] = "\x0a\x1b\x0a\x09\x0a\x03"
                               "abc\x12\x02\xc3\xa4\x12\x01h\x32\x0b\x0a\x03key\x12\x04"
                               "v\xc3\xa4l"
                               "\x12\x02rc";
    int passed = 0, decoded = 0;

    IS(POD, good, NULL, "a good message");
    for (size_t n = 0; n < sizeof good; n++) {
        for (int bit = -1; bit < (int)n * 8; bit++) {
            auto_free uint8_t *m = mem_grow(NULL, n + 1, 1);

            memcpy(m, good, n);
            if (bit >= 0)
                m[bit / 8] ^= (uint8_t)(1 << bit % 8);
            m = mem_grow(m, n ? n : 1, 1);
            if (pbwire_check(POD, m, n, NULL) < 0)
                continue;
            passed++;
            ProtobufCMessage *msg = protobuf_c_message_unpack(POD, NULL, n, m);
            if (msg)
                decoded++;
            protobuf_c_message_free_unpacked(msg, NULL);
        }
    }
    ok(passed > 100, "%d mutants pass", passed);
    is_int(decoded, passed, "all that pass are decoded");
}

static void test_pool(void)
{
    struct pool p;

    pool_init(&p, 100000);
    for (int i = 0; i < 100; i++) {
        char *a = pool_alloc(&p, 100);

        if ((uintptr_t)a % 16 || a[0] || a[99])
            ok(false, "aligned and zeroed");
        memset(a, 1, 100);
    }
    ok(pool_try(&p, 50000) != NULL, "within the limit");
    ok(pool_try(&p, 50000) == NULL, "over the limit");
    ok(pool_try(&p, SIZE_MAX) == NULL, "far over the limit");
    pool_deinit(&p);
    ok(p.total == 0, "all given back");
}

int main(void)
{
    IS(POD, "", NULL, "nothing at all");
    IS(POD, "\x0a\x05\x0a\x03\x0a\x01\xff", "config.metadata.name: not valid UTF-8",
       "a bad string deep inside");
    IS(POD, "\x0a\x05\x0a\x03\x0a\x01\x00", "config.metadata.name: has a NUL byte",
       "a string that C would cut");
    IS(POD, "\x0a\x0a\x32\x08\x0a\x03key\x12\x01\x80", "config.labels.value: not valid UTF-8",
       "in the value of a map");
    IS(POD, "\x0a\x08\x32\x06\x0a\x01\xc0\x12\x01v", "config.labels.key: not valid UTF-8",
       "in its key");
    IS(&runtime__v1__exec_sync_request__descriptor,
       "\x12\x01"
       "a\x12\x02\xed\xa0",
       "cmd: not valid UTF-8", "in a repeated string");
    IS(&runtime__v1__exec_sync_response__descriptor, "\x0a\x02\xff\x00", NULL,
       "bytes may be any bytes");
    IS(POD, "\x0a\x05\x0a", "config: is cut off", "a message that is cut off");
    IS(POD, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "config: is cut off",
       "an enormous length");
    IS(POD, "\x08\x01", "config: encoded with the wrong type", "a number where a message belongs");
    IS(&runtime__v1__exec_sync_request__descriptor,
       "\x1a\x01"
       "1",
       "timeout: encoded with the wrong type", "bytes where a number belongs");
    IS(&runtime__v1__exec_sync_request__descriptor, "\x18\x80", "timeout: number is cut off",
       "half a number");
    IS(&runtime__v1__exec_sync_request__descriptor,
       "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "timeout: number is cut off",
       "a number of eleven bytes");
    IS(POD, "\x00\x01", "malformed request: bad field number", "field 0");
    IS(POD, "\x0b", "config: encoded with the wrong type", "a group");
    IS(POD, "\xfa\x3e\x03\xff\xff\xff", NULL, "an unknown field is skipped");
    IS(POD, "\xfb\x3e", "malformed request: unknown wire type", "an unknown group is not");
    test_mutants();
    test_pool();
    return done_testing();
}
