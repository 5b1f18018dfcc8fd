/* SPDX-License-Identifier: Apache-2.0 */
#include "tap.h"

#include "pull/ref.h"

#define D64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define A50 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define A250 A50 A50 A50 A50 A50

static const struct {
    const char *in, *normal;
} good[] = {
    { "busybox", "docker.io/library/busybox:latest" },
    { "busybox:1.29", "docker.io/library/busybox:1.29" },
    { "user/app:1", "docker.io/user/app:1" },
    { "docker.io/busybox", "docker.io/library/busybox:latest" },
    { "docker.io/user/app", "docker.io/user/app:latest" },
    { "index.docker.io/busybox", "docker.io/library/busybox:latest" },
    { "index.docker.io/user/app:2", "docker.io/user/app:2" },
    { "localhost/app", "localhost/app:latest" },
    { "localhost:5000/app", "localhost:5000/app:latest" },
    { "localhost:5000", "docker.io/library/localhost:5000" }, /* a tag, as everybody reads it */
    { "127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x" },
    { "[::1]:5000/app", "[::1]:5000/app:latest" },
    { "[fe80::1]/app:1", "[fe80::1]/app:1" },
    { "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9" },
    /* no path has upper case: a host */
    { "Registry/app", "Registry/app:latest" },
    { "reg.example.com:443/a/b@sha256:" D64, "reg.example.com:443/a/b@sha256:" D64 },
    { "busybox:1@sha256:" D64, "docker.io/library/busybox@sha256:" D64 },
    { "busybox@sha512:" D64 D64, "docker.io/library/busybox@sha512:" D64 D64 },
    { "x/a.b_c__d-e---f", "docker.io/x/a.b_c__d-e---f:latest" },
    { "a:_tag.-X", "docker.io/library/a:_tag.-X" },
    { "cafe", "docker.io/library/cafe:latest" },
    { "a.b/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
      "a.b/" D64 ":latest" },
};

static const char *const bad[] = {
    "",
    ":tag",
    "@sha256:" D64,
    "a:",
    "a@",
    "a@sha256:"
    "abc",
    "a@sha256:" D64 "0",
    "a@md5:" D64,
    "a@SHA256:" D64,
    "a@sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
    D64,
    "a b",
    "a//b",
    "/a",
    "a/",
    "a/-b",
    "a/b-",
    "a/b..c",
    "a/b___c",
    "a/b._c",
    "x/App",
    "App",
    "a:t@g",
    "a:-t",
    "a:.t",
    "a\n",
    "a:t/b",
    "a.b_c/g",
    "host..x/a",
    "-host.x/a",
    "host-.x/a",
    "host:/a",
    "host:12x/a",
    "[::1/a",
    "[]/a",
    "[xyz]/a",
    "a:b:c",
    "a@sha256:" D64 "@sha256:" D64,
    "../a",
    "a/../b",
    "a?b",
    "a#b",
    "\xff"
    "a",
    "http://host.x/a",
    "a:" A50 A50 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    A250 "/bcdefg",
};

int main(void)
{
    struct ref *r = NULL;
    struct err err = ERR_INIT;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int q = ref_parse(good[i].in, &r, &err);

        if (!ok(q == 0, "'%s' is a reference", good[i].in)) {
            diag("%s", err.text);
            continue;
        }
        is_str(r->normal, good[i].normal, "and its normal form");
        struct ref *again = NULL;

        ok(ref_parse(r->normal, &again, &err) == 0 && strcmp(again->normal, r->normal) == 0,
           "which is its own normal form");
        ok(!r->tag == !!r->digest, "a tag or a digest, not both");
        ref_free(again);
        r = ref_free(r);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err_clear(&err);
        ok(ref_parse(bad[i], &r, &err) < 0 && !r && err.grpc == GRPC_INVALID_ARGUMENT,
           "'%s' is none", bad[i]);
        ok(!bad[i][0] || strstr(err.text, "'") != NULL, "and the text quotes it");
    }
    ok(ref_parse(NULL, &r, &err) < 0, "NULL is none");
    ok(ref_parse("busybox:1@sha256:" D64, &r, &err) == 0, "tag and digest");
    is_str(r->domain, "docker.io", "domain");
    is_str(r->path, "library/busybox", "path");
    is_str(r->name, "docker.io/library/busybox", "name");
    is_str(r->digest, "sha256:" D64, "digest");
    ok(r->tag == NULL, "the tag is dropped");
    ref_free(r);
    return done_testing();
}
