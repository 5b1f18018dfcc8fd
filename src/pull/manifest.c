/* SPDX-License-Identifier: Apache-2.0 */
/* The media type of a document is taken from its own mediaType, else from the Content-Type, else
 * from its members: registries are careless with the header. Layer types are only looked at to
 * refuse what cannot be unpacked; the compression is found out from the bytes. */
#include "pull/manifest.h"

#include "mem.h"
#include "pull/digest.h"
#include "str.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>

/* --- platforms */

static const char *host_variant(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4"))
        return "v4";
    if (__builtin_cpu_supports("x86-64-v3"))
        return "v3";
    if (__builtin_cpu_supports("x86-64-v2"))
        return "v2";
    return "v1";
#else
    return "";
#endif
}

struct platform platform_host(void)
{
    static const struct {
        const char *machine, *arch, *variant;
    } map[] = {
        { "x86_64", "amd64", NULL },
        { "aarch64", "arm64", "v8" },
        { "armv8l", "arm", "v7" },
        { "armv7l", "arm", "v7" },
        { "armv6l", "arm", "v6" },
        { "armv5", "arm", "v5" },
        { "i686", "386", "" },
        { "i586", "386", "" },
        { "i386", "386", "" },
        { "ppc64le", "ppc64le", "" },
        { "s390x", "s390x", "" },
        { "riscv64", "riscv64", "" },
        { "loongarch64", "loong64", "" },
        { "mips64", "mips64le", "" },
    };
    struct utsname u;

    if (uname(&u) == 0)
        for (size_t i = 0; i < ARRAY_LEN(map); i++)
            if (str_starts(u.machine, map[i].machine)) {
                /* a 32-bit daemon on a 64-bit kernel */
                if (sizeof(void *) == 4 && strcmp(map[i].arch, "arm64") == 0)
                    return (struct platform){ "linux", "arm", "v7" };
                if (sizeof(void *) == 4 && strcmp(map[i].arch, "amd64") == 0)
                    return (struct platform){ "linux", "386", "" };
                return (struct platform){ "linux", map[i].arch,
                                          map[i].variant ? map[i].variant : host_variant() };
            }
    return (struct platform){ "linux", "unknown", "" };
}

/* "v7" -> 7; absent is what the architecture means by it. */
static int variant_number(const char *arch, const char *v)
{
    if (v[0] == 'v' && v[1] >= '0' && v[1] <= '9')
        return atoi(v + 1);
    if (v[0])
        return -1;
    if (strcmp(arch, "arm") == 0)
        return 7;
    if (strcmp(arch, "arm64") == 0)
        return 8;
    return strcmp(arch, "amd64") == 0 ? 1 : 0;
}

static const char *arch_name(const char *a)
{
    if (strcasecmp(a, "x86_64") == 0 || strcasecmp(a, "x86-64") == 0)
        return "amd64";
    if (strcasecmp(a, "aarch64") == 0)
        return "arm64";
    if (strcasecmp(a, "armhf") == 0)
        return "arm";
    return strcasecmp(a, "i386") == 0 ? "386" : a;
}

int platform_rank(const struct platform *want, const struct platform *have)
{
    const char *arch = arch_name(have->arch);
    int w = variant_number(want->arch, want->variant), h = variant_number(arch, have->variant);

    if (strcmp(have->os, want->os) != 0 || h < 0)
        return -1;
    if (strcmp(arch, want->arch) == 0)
        return h <= w ? w - h : -1;
    /* the 64-bit processors that also run the 32-bit code of their family */
    if (strcmp(want->arch, "amd64") == 0 && strcmp(arch, "386") == 0)
        return 100;
    if (strcmp(want->arch, "arm64") == 0 && strcmp(arch, "arm") == 0)
        return h <= 8 ? 100 + 8 - h : -1;
    return -1;
}

/* --- reading */

static const char *get_str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

static void strv_free(char **v)
{
    for (size_t i = 0; v && v[i]; i++)
        free(v[i]);
    free(v);
}

static void descriptor_deinit(struct descriptor *d)
{
    free(d->media_type);
    free(d->digest);
    strv_free(d->urls);
}

struct manifest *manifest_free(struct manifest *m)
{
    if (!m)
        return NULL;
    descriptor_deinit(&m->config);
    descriptor_deinit(&m->chosen);
    for (size_t i = 0; i < m->n_layers; i++)
        descriptor_deinit(&m->layers[i]);
    free(m->layers);
    strv_free(m->annotations);
    free(m);
    return NULL;
}

static int read_descriptor(const json_t *o, const char *what, struct descriptor *d, struct err *err)
{
    const json_t *size = json_object_get(o, "size"), *urls = json_object_get(o, "urls");
    const char *digest = get_str(o, "digest");

    if (!json_is_object(o))
        return err_set(err, -EBADMSG, "%s: not an object", what);
    if (!digest_valid(digest))
        return err_set(err, -EBADMSG, "%s: bad digest '%.150s'", what, digest);
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return err_set(err, -EBADMSG, "%s: bad size", what);
    d->media_type = mem_strdup(get_str(o, "mediaType"));
    d->digest = mem_strdup(digest);
    d->size = (uint64_t)json_integer_value(size);
    if (json_is_array(urls) && json_array_size(urls)) {
        size_t n = 0;

        d->urls = mem_array(json_array_size(urls) + 1, sizeof *d->urls);
        for (size_t i = 0; i < json_array_size(urls); i++)
            if (json_is_string(json_array_get(urls, i)))
                d->urls[n++] = mem_strdup(json_string_value(json_array_get(urls, i)));
    }
    return 0;
}

static int check_layer(const struct descriptor *d, size_t i, struct err *err)
{
    const char *t = d->media_type;

    if (strstr(t, "+encrypted"))
        return err_set(err, -EOPNOTSUPP, "layer %zu (%s) is encrypted: not supported", i,
                       d->digest);
    if (!*t || strstr(t, ".tar") || strstr(t, "layer.v1") || strstr(t, "rootfs"))
        return 0;
    return err_set(err, -EOPNOTSUPP, "layer %zu (%s) is no file system layer: media type '%.150s'",
                   i, d->digest, t);
}

static int read_image(const json_t *doc, struct manifest *m, struct err *err)
{
    const json_t *layers = json_object_get(doc, "layers"),
                 *ann = json_object_get(doc, "annotations"), *v;
    const char *key;
    size_t n = 0;
    int r;

    m->kind = MANIFEST_IMAGE;
    r = read_descriptor(json_object_get(doc, "config"), "config", &m->config, err);
    if (r < 0)
        return r;
    if (m->config.size > CONFIG_MAX)
        return err_set(err, -EMSGSIZE, "config: %llu bytes, more than %d",
                       (unsigned long long)m->config.size, CONFIG_MAX);
    if (!json_is_array(layers))
        return err_set(err, -EBADMSG, "no list of layers");
    if (json_array_size(layers) > MANIFEST_LAYERS_MAX)
        return err_set(err, -EMSGSIZE, "%zu layers, more than %d", json_array_size(layers),
                       MANIFEST_LAYERS_MAX);
    m->layers = mem_array(json_array_size(layers), sizeof *m->layers);
    for (size_t i = 0; i < json_array_size(layers); i++) {
        char what[32];

        snprintf(what, sizeof what, "layer %zu", i);
        m->n_layers++;
        r = read_descriptor(json_array_get(layers, i), what, &m->layers[i], err);
        if (r == 0)
            r = check_layer(&m->layers[i], i, err);
        if (r < 0)
            return r;
    }
    if (json_is_object(ann)) {
        m->annotations = mem_array(2 * json_object_size(ann) + 1, sizeof *m->annotations);
        json_object_foreach((json_t *)(uintptr_t)ann, key, v)
            if (json_is_string(v)) {
                m->annotations[n++] = mem_strdup(key);
                m->annotations[n++] = mem_strdup(json_string_value(v));
            }
    }
    return 0;
}

static int read_index(const json_t *doc, const struct platform *want, struct manifest *m,
                      struct err *err)
{
    const json_t *list = json_object_get(doc, "manifests"), *best = NULL;
    int best_rank = -1;

    m->kind = MANIFEST_INDEX;
    if (!json_is_array(list))
        return err_set(err, -EBADMSG, "no list of manifests");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *e = json_array_get(list, i), *p = json_object_get(e, "platform");
        struct platform have = { get_str(p, "os"), get_str(p, "architecture"),
                                 get_str(p, "variant") };
        int rank;

        if (!json_is_object(p) || (!have.os[0] && !have.arch[0]))
            rank = 1000;             /* says nothing: after all that say something */
        else
            rank = platform_rank(want, &have);
        if (rank >= 0 && (best_rank < 0 || rank < best_rank)) {
            best = e;
            best_rank = rank;
        }
    }
    if (!best)
        return err_rpc(err, GRPC_NOT_FOUND, "no match for platform %s/%s%s%s in the index",
                       want->os, want->arch, want->variant[0] ? "/" : "", want->variant);
    return read_descriptor(best, "index entry", &m->chosen, err);
}

static bool is_index(const char *t)
{
    return strstr(t, "manifest.list.v2") || strstr(t, "image.index.v1");
}

static bool is_image(const char *t)
{
    return strstr(t, "distribution.manifest.v2") || strstr(t, "image.manifest.v1");
}

int manifest_parse(const char *json, size_t len, const char *type, const struct platform *want,
                   struct manifest **ret, struct err *err)
{
    json_error_t jerr;
    json_t *doc = json_loadb(json, len, JSON_REJECT_DUPLICATES, &jerr);
    struct manifest *m;
    const char *t;
    int r;

    if (!json_is_object(doc)) {
        json_decref(doc);
        return err_set(err, -EBADMSG, "manifest: %s", doc ? "not an object" : jerr.text);
    }
    t = get_str(doc, "mediaType");
    if (!*t && type)
        t = type;
    m = mem_new(struct manifest);
    /* A document that is both (config and manifests) could be read one way by us and another way by
     * whoever checked it. */
    if (json_object_get(doc, "manifests") &&
        (json_object_get(doc, "layers") || json_object_get(doc, "config")))
        r = err_set(err, -EBADMSG, "manifest: has members of an image and of an index");
    else if (json_object_get(doc, "fsLayers") ||
             json_integer_value(json_object_get(doc, "schemaVersion")) == 1)
        r = err_set(
            err, -EOPNOTSUPP,
            "manifest: Docker schema 1 is not supported; push the image again with a tool of "
                    "today");
    else if (is_index(t) || (!is_image(t) && json_object_get(doc, "manifests")))
        r = read_index(doc, want, m, err);
    else if (is_image(t) || json_object_get(doc, "layers"))
        r = read_image(doc, m, err);
    else
        r = err_set(err, -EBADMSG, "manifest: neither an image nor an index (media type '%.150s')",
                    t);
    json_decref(doc);
    if (r < 0) {
        manifest_free(m);
        return r;
    }
    *ret = m;
    return 0;
}

int image_config_parse(const char *json, size_t len, const struct platform *want,
                       struct image_config **ret, struct err *err)
{
    json_error_t jerr;
    json_t *doc = json_loadb(json, len, 0, &jerr), *ids;
    struct image_config *c = NULL;
    struct platform have;
    int r = 0;

    if (!json_is_object(doc)) {
        json_decref(doc);
        return err_set(err, -EBADMSG, "image config: %s", doc ? "not an object" : jerr.text);
    }
    ids = json_object_get(json_object_get(doc, "rootfs"), "diff_ids");
    have = (struct platform){ get_str(doc, "os"), get_str(doc, "architecture"),
                              get_str(doc, "variant") };
    if (have.os[0] && strcmp(have.os, want->os) != 0)
        r = err_set(err, -EOPNOTSUPP, "image config: made for operating system '%.64s'", have.os);
    else if (!json_is_array(ids) && json_object_get(doc, "rootfs"))
        r = err_set(err, -EBADMSG, "image config: no rootfs.diff_ids");
    c = mem_new(struct image_config);
    c->diff_ids = mem_array(json_array_size(ids) + 1, sizeof *c->diff_ids);
    for (size_t i = 0; r == 0 && i < json_array_size(ids); i++) {
        const char *s = json_string_value(json_array_get(ids, i));

        if (!digest_valid(s))
            r = err_set(err, -EBADMSG, "image config: bad diff id '%.150s'", s ? s : "");
        else
            c->diff_ids[c->n++] = mem_strdup(s);
    }
    json_decref(doc);
    if (r < 0) {
        image_config_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

struct image_config *image_config_free(struct image_config *c)
{
    if (c)
        strv_free(c->diff_ids);
    free(c);
    return NULL;
}
