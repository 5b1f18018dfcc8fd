/* SPDX-License-Identifier: Apache-2.0 */
/* A container's configuration against what was checkpointed. What goes on is what criu has in its
 * images: image, command, directory, environment and credentials of the configuration say which
 * process is expected, and must be those of that one (CRI.md 4.24); what confines it is as it was,
 * so it must not be asked for otherwise. The checkpoint's side is spec.dump, which spec_json() has
 * written, so JSON is compared with JSON. */
#include "handlers/restore.h"

#include "handlers/layers.h"
#include "handlers/spec_impl.h"
#include "mem.h"
#include "proc/cdi.h"

#include <string.h>

static int mismatch(struct err *err, const char *field, const char *was, const char *is)
{
    return err_rpc(err, GRPC_FAILED_PRECONDITION, "%s is '%.300s' in the checkpoint, '%.300s' by "
                   "its configuration", field, was, is);
}

static int compare_image(const struct ctr *c, const char *ref, struct err *err)
{
    const struct image *im = image_lookup(c->h, c->rec->image_id);

    for (size_t i = 0; im && i < im->rec->n_repo_digests; i++)
        if (strcmp(im->rec->repo_digests[i], ref) == 0)
            return 0;
    return strcmp(c->rec->image_id, ref) == 0 ? 0 : mismatch(err, "image", ref, c->rec->image_ref);
}

static int compare(const char *field, const json_t *was, const json_t *is, struct err *err)
{
    if (json_equal(was, is))
        return 0;
    auto_free char *a = json_dumps(was, JSON_COMPACT | JSON_ENCODE_ANY);
    auto_free char *b = json_dumps(is, JSON_COMPACT | JSON_ENCODE_ANY);
    return mismatch(err, field, a ? a : "nothing", b ? b : "nothing");
}

/* ---- the environment: in any order, and of no secret more than its name */

static const char *find(const json_t *env, const char *name, size_t n)
{
    const char *s;
    json_t *v;
    size_t i;

    json_array_foreach(env, i, v)
        if ((s = json_string_value(v)) && strncmp(s, name, n) == 0 && s[n] == '=')
            return s + n + 1;
    return NULL;
}

/* HOSTNAME that nobody asks for is the pod's, or the node's. */
static bool is_asked(const struct ctr *c, const char *name, size_t n)
{
    const Cricket__State__ImageConfig *im = c->rec->image_config;

    for (size_t i = 0; i < c->config->n_envs; i++)
        if (strncmp(c->config->envs[i]->key, name, n) == 0 && !c->config->envs[i]->key[n])
            return true;
    for (size_t i = 0; i < im->n_env; i++)
        if (strncmp(im->env[i], name, n) == 0 && im->env[i][n] == '=')
            return true;
    return false;
}

/* Every variable of `a` is in `b`, with the same value. */
static int compare_env(const struct ctr *c, const json_t *a, const json_t *b, const char *missing,
                       struct err *err)
{
    json_t *v;
    size_t i;

    json_array_foreach(a, i, v) {
        const char *s = json_string_value(v) ? json_string_value(v) : "", *other;
        size_t n = strcspn(s, "=");

        if (n == strlen("HOSTNAME") && strncmp(s, "HOSTNAME", n) == 0 && !is_asked(c, s, n))
            continue;
        other = s[n] ? find(b, s, n) : NULL;
        if (!other)
            return err_rpc(err, GRPC_FAILED_PRECONDITION, "env: '%.*s' is not in %s",
                           (int)(n > 200 ? 200 : n), s, missing);
        if (strcmp(other, s + n + 1) != 0)
            return err_rpc(err, GRPC_FAILED_PRECONDITION, "env: '%.*s' is not as in the checkpoint",
                           (int)(n > 200 ? 200 : n), s);
    }
    return 0;
}

/* ---- */

static int check_kind(const struct spec *s, struct err *err)
{
    const char *bad = plan_unrestorable(&s->plan);

    if (!bad && s->userns)
        bad = "in a user namespace";
    if (!bad && s->cdi && s->cdi->n_hooks)
        bad = "with hooks";
    return bad ? err_rpc(err, GRPC_FAILED_PRECONDITION, "a container %s cannot be restored from a "
                         "checkpoint", bad) : 0;
}

int restore_matches(const struct ctr *c, const struct spec *spec, const char *image_ref,
                    const json_t *found, struct err *err)
{
    static const char *const fields[] = { "args", "cwd", "user", "capabilities", "noNewPrivileges",
                                          "terminal" };
    static const char *const linux_fields[] = { "maskedPaths", "readonlyPaths", "devices" };
    static const char seccomp[] = "io.cricket.seccomp";
    const json_t *process = json_object_get(found, "process"), *is, *linux_;
    json_t *all;
    int r = check_kind(spec, err);

    if (r == 0)
        r = compare_image(c, image_ref, err);
    if (r < 0)
        return r;
    all = spec_json(spec, NULL, NULL);
    is = json_object_get(all, "process");
    linux_ = json_object_get(all, "linux");
    for (size_t i = 0; i < ARRAY_LEN(fields) && r == 0; i++)
        r = compare(fields[i], json_object_get(process, fields[i]), json_object_get(is, fields[i]),
                    err);
    for (size_t i = 0; i < ARRAY_LEN(linux_fields) && r == 0; i++)
        r = compare(linux_fields[i], json_object_get(found, linux_fields[i]),
                    json_object_get(linux_, linux_fields[i]), err);
    if (r == 0)
        r = compare("seccomp", json_object_get(json_object_get(found, "annotations"), seccomp),
                    json_object_get(json_object_get(all, "annotations"), seccomp), err);
    if (r == 0)
        r = compare_env(c, json_object_get(process, "env"), json_object_get(is, "env"),
                        "its configuration", err);
    if (r == 0)
        r = compare_env(c, json_object_get(is, "env"), json_object_get(process, "env"),
                        "the checkpoint", err);
    json_decref(all);
    return r;
}
