/* SPDX-License-Identifier: Apache-2.0 */
#include "tap.h"

#include "mem.h"
#include "pull/manifest.h"
#include "str.h"

#include <errno.h>

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DIG "\"sha256:" HEX "\""
#define CONFIG                                                                                     \
    "\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":" DIG       \
    ",\"size\":7}"
#define LAYER(type) "{\"mediaType\":\"" type "\",\"digest\":" DIG ",\"size\":9}"
#define IMAGE(layers) "{\"schemaVersion\":2," CONFIG ",\"layers\":[" layers "]}"
#define GZ LAYER("application/vnd.oci.image.layer.v1.tar+gzip")
#define OCI "application/vnd.oci.image.manifest.v1+json"
#define INDEX "application/vnd.oci.image.index.v1+json"

static const struct platform amd64 = { "linux", "amd64", "v3" };
static struct manifest *m;
static struct err err;

static int parse(const char *json, const char *type, const struct platform *p)
{
    m = manifest_free(m);
    err_clear(&err);
    return manifest_parse(json, strlen(json), type, p, &m, &err);
}

static void test_images(void)
{
    ok(parse(IMAGE(GZ "," GZ), OCI, &amd64) == 0, "an OCI image %s", err.text);
    ok(m->kind == MANIFEST_IMAGE && m->n_layers == 2 && m->layers[1].size == 9 &&
           m->config.size == 7,
       "its parts");
    is_str(m->layers[0].digest, "sha256:" HEX, "digest");
    ok(parse(IMAGE(""), NULL, &amd64) == 0 && m->n_layers == 0,
       "no layers, no types: still an image");
    ok(parse(IMAGE(GZ), "text/plain", &amd64) == 0, "a wrong Content-Type does not matter");
    ok(parse(
           "{\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\"," CONFIG
           ",\"layers\":[" LAYER("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip") "]}",
           NULL, &amd64) == 0,
       "Docker's, with a foreign layer");
    ok(parse("{" CONFIG ",\"layers\":[{\"digest\":" DIG
             ",\"size\":1,\"urls\":[\"https://a\",3,\"https://b\"]}],"
             "\"annotations\":{\"k\":\"v\",\"n\":1}}",
             OCI, &amd64) == 0,
       "urls and annotations");
    is_str(m->layers[0].urls[1], "https://b", "the second url that is a string");
    ok(m->annotations && strcmp(m->annotations[0], "k") == 0 &&
           strcmp(m->annotations[1], "v") == 0 && !m->annotations[2],
       "annotations that are strings");
}

static const struct {
    const char *json, *why;
} bad[] = {
    { "", "" },
    { "[]", "object" },
    { "{", "" },
    { "\xff", "" },
    { "{}", "neither" },
    { "{\"schemaVersion\":1,\"fsLayers\":[]}", "schema 1" },
    { "{" CONFIG "}", "neither" },
    { "{\"mediaType\":\"" OCI "\",\"layers\":[]}", "config" },
    { "{\"mediaType\":\"" OCI "\"," CONFIG "}", "layers" },
    { "{" CONFIG ",\"layers\":{}}", "layers" },
    { "{" CONFIG ",\"layers\":[1]}", "layer 0" },
    { "{" CONFIG ",\"layers\":[{\"digest\":\"sha256:12\",\"size\":1}]}", "bad digest" },
    { "{" CONFIG ",\"layers\":[{\"digest\":" DIG ",\"size\":-1}]}", "bad size" },
    { "{" CONFIG ",\"layers\":[{\"digest\":" DIG ",\"size\":1.5}]}", "bad size" },
    { "{" CONFIG ",\"layers\":[{\"digest\":" DIG "}]}", "bad size" },
    { "{" CONFIG ",\"layers\":[{\"digest\":\"sha256:../../../../../etc/passwd\",\"size\":1}]}",
      "bad digest" },
    { "{\"config\":{\"digest\":" DIG ",\"size\":99999999},\"layers\":[]}", "more than" },
    { IMAGE(LAYER("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")), "encrypted" },
    { IMAGE(LAYER("application/vnd.cncf.helm.chart.content.v1")), "no file system layer" },
    { "{" CONFIG ",\"layers\":[],\"manifests\":[]}", "members of an image and of an index" },
    { "{\"manifests\":{}}", "no list" },
    { "{\"manifests\":[]}", "no match for platform linux/amd64/v3" },
};

static void entry(struct str *s, const char *os, const char *arch, const char *variant, int i)
{
    str_printf(
        s,
        "%s{\"digest\":\"sha256:%064d\",\"size\":1,\"platform\":{\"os\":\"%s\",\"architecture\":\"%s\"",
        s->len > 14 ? "," : "", i, os, arch);
    if (variant)
        str_printf(s, ",\"variant\":\"%s\"", variant);
    str_puts(s, "}}");
}

/* "arm/v6 arm/v7": which one is taken, counted from 1; 0 none */
static int choose(const char *list, struct platform want)
{
    auto_str struct str s = STR_INIT;
    auto_free char *copy = mem_strdup(list);
    char *save = NULL;
    int i = 0;

    str_puts(&s, "{\"manifests\":[");
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        char *v = strchr(w, '/');

        if (v)
            *v++ = '\0';
        if (strcmp(w, "none") == 0)
            str_printf(&s, "%s{\"digest\":\"sha256:%064d\",\"size\":1}", s.len > 14 ? "," : "",
                       ++i);
        else if (strcmp(w, "unknown") == 0)
            entry(&s, "unknown", "unknown", v, ++i);
        else if (strcmp(w, "windows") == 0)
            entry(&s, "windows", "amd64", v, ++i);
        else
            entry(&s, "linux", w, v, ++i);
    }
    str_puts(&s, "]}");
    if (parse(s.p, INDEX, &want) < 0)
        return 0;
    return atoi(m->chosen.digest + strlen("sha256:"));
}

static void test_platforms(void)
{
    const struct platform v1 = { "linux", "amd64", "v1" }, arm7 = { "linux", "arm", "v7" },
                          arm6 = { "linux", "arm", "v6" }, arm64 = { "linux", "arm64", "v8" },
                          x86 = { "linux", "386", "" }, riscv = { "linux", "riscv64", "" };

    ok(choose("arm64/v8 amd64 386", amd64) == 2, "amd64");
    ok(choose("amd64 amd64/v2 amd64/v3 amd64/v4", amd64) == 3, "the best variant that runs");
    ok(choose("amd64/v4 amd64/v3 amd64/v2", v1) == 0, "none that does not run");
    ok(choose("386 arm/v7", amd64) == 1, "386 if there is nothing better");
    ok(choose("386 amd64/v1", amd64) == 2, "but amd64 first");
    ok(choose("none amd64", amd64) == 2, "an entry without platform comes last");
    ok(choose("none", amd64) == 1, "but comes");
    ok(choose("unknown amd64 unknown", amd64) == 2, "attestations are no images");
    ok(choose("unknown windows", amd64) == 0, "nothing fits");
    ok(strstr(err.text, "no match for platform linux/amd64/v3") != NULL,
       "and the error says what was wanted");
    ok(err.grpc == GRPC_NOT_FOUND, "as not found");
    ok(choose("arm/v5 arm/v6 arm/v7", arm7) == 3, "arm v7");
    ok(choose("arm/v5 arm/v6", arm7) == 2, "v6 on v7");
    ok(choose("arm arm/v6", arm6) == 2, "arm without variant is v7, which v6 does not run");
    ok(choose("arm", arm7) == 1, "and v7 does");
    ok(choose("arm64", arm64) == 1, "arm64 without variant is v8");
    ok(choose("arm/v7 arm64/v8", arm64) == 2, "arm64 before arm");
    ok(choose("arm/v6 arm/v7", arm64) == 2, "arm on arm64: the highest");
    ok(choose("arm64/v9 arm64/v8", arm64) == 2, "v9 is too new");
    ok(choose("amd64 386", x86) == 2, "386 does not run amd64");
    ok(choose("amd64 riscv64", riscv) == 2, "riscv64");
    ok(choose("aarch64 x86_64", amd64) == 2, "uname's names are understood");
    struct platform here = platform_host();

    ok(strcmp(here.os, "linux") == 0 && strcmp(here.arch, "unknown") != 0,
       "this machine is linux/%s/%s", here.arch, here.variant);
    ok(platform_rank(&here, &here) == 0, "and suits itself best");
}

static void test_configs(void)
{
    struct image_config *c = NULL;
    static const char *const bad_configs[] = {
        "",
        "[]",
        "{\"rootfs\":{}}",
        "{\"rootfs\":{\"diff_ids\":[1]}}",
        "{\"rootfs\":{\"diff_ids\":[\"sha256:x\"]}}",
        "{\"os\":\"windows\",\"rootfs\":{\"diff_ids\":[]}}",
    };
    const char *s =
        "{\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[" DIG "," DIG "]}}";

    ok(image_config_parse(s, strlen(s), &amd64, &c, &err) == 0 && c->n == 2, "diff ids");
    c = image_config_free(c);
    for (size_t i = 0; i < ARRAY_LEN(bad_configs); i++)
        ok(image_config_parse(bad_configs[i], strlen(bad_configs[i]), &amd64, &c, &err) < 0 && !c,
           "'%s' is refused: %s", bad_configs[i], err.text);
}

static void test_many(void)
{
    auto_str struct str s = STR_INIT;

    str_puts(&s, "{" CONFIG ",\"layers\":[");
    for (int i = 0; i <= MANIFEST_LAYERS_MAX; i++)
        str_printf(&s, "%s%s", i ? "," : "", GZ);
    str_puts(&s, "]}");
    ok(parse(s.p, OCI, &amd64) == -EMSGSIZE, "more layers than overlayfs takes: %s", err.text);
    str_reset(&s);
    for (int i = 0; i < 100000; i++)
        str_putc(&s, '[');
    ok(parse(s.p, OCI, &amd64) < 0, "deep nesting is refused: %s", err.text);
}

int main(void)
{
    test_images();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ok(parse(bad[i].json, NULL, &amd64) < 0 && !m && strstr(err.text, bad[i].why),
           "refused: %.60s: %s", bad[i].json, err.text);
    test_platforms();
    test_configs();
    test_many();
    m = manifest_free(m);
    return done_testing();
}
