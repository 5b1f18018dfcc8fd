/* SPDX-License-Identifier: Apache-2.0 */
/* What the OCI runtimes of the configuration can do, for Status: `<binary> features` (the
 * runtime-spec's features.md) is asked of each once, when the daemon starts. Nobody waits for the
 * answer: until it has come, and where a runtime has none, it can do nothing special. */
#include "handlers/rpcs.h"

#include "mem.h"
#include "reactor/child.h"

#include <jansson.h>
#include <string.h>

enum { ANSWER_MAX = 1024 * 1024, ANSWER_MS = 10000 };

struct runtime {
    struct list l;
    const struct conf_runtime *conf;
    struct run *run;
    bool rro;
};

static bool lists(const json_t *all, const char *key, const char *name)
{
    json_t *v;
    size_t i;

    json_array_foreach(json_object_get(all, key), i, v)
        if (json_is_string(v) && strcmp(json_string_value(v), name) == 0)
            return true;
    return false;
}

static void on_features(void *arg, const struct run_result *r)
{
    struct runtime *t = arg;
    json_t *all = r->status == 0 ? json_loadb(r->out, r->out_len, 0, NULL) : NULL;

    t->run = NULL;
    t->rro = lists(all, "mountOptions", "rro");
    log_info("op=start runtime='%s' path='%s' features=%s rro=%d", t->conf->name, t->conf->path,
             all ? "told" : "untold", t->rro);
    json_decref(all);
}

void runtimes_probe(struct handlers *h)
{
    for (const struct conf_runtime *c = h->conf->runtimes; c; c = c->next) {
        char features[] = "features";
        char *argv[] = { c->path, features, NULL };
        struct child_opts o = CHILD_OPTS_INIT;
        struct runtime *t;
        struct err err = ERR_INIT;

        if (!c->path)
            continue;
        t = mem_new(struct runtime);
        t->conf = c;
        list_add_tail(&h->runtimes, &t->l);
        o.path = c->path;
        o.argv = argv;
        if (run_start(h->loop, &o, NULL, 0, ANSWER_MAX, ANSWER_MS, on_features, t, &t->run,
                      &err) < 0) {
            t->run = NULL;
            log_warn("op=start runtime='%s' err='%s', its sandboxes will be refused", c->name,
                     err.text);
        }
    }
}

void runtimes_end(struct handlers *h)
{
    struct runtime *t;

    while ((t = list_first(&h->runtimes, struct runtime, l))) {
        if (t->run)
            run_cancel(t->run);
        list_del(&t->l);
        free(t);
    }
}

bool runtime_has_rro(struct handlers *h, const char *name)
{
    struct runtime *t;

    list_each(t, &h->runtimes, struct runtime, l)
        if (strcmp(t->conf->name, name) == 0)
            return t->rro;
    return false;
}
