/* SPDX-License-Identifier: Apache-2.0 */
/* Drives src/pull without the daemon, for t/30-pull*.t. Reads commands from stdin, one per line,
 * and answers on stdout:
 *
 *   pull ID REF [user=U] [password=P] [auth=B64] [identity_token=T] [registry_token=T]
 * [server_address=A] cancel ID | record yes|no | remove N... | tree REL | collect | forget CHAIN |
 * settle | quit
 *
 * An answer begins with the command's ID: "ID ok <json>" or "ID fail <code> <grpc> <text>".
 * `settle` answers when nothing is queued for removal any more. The layers it records live in
 * memory only. Options: --root DIR --worker PATH --stall MS --layers N --transfers N --mirror
 * HOST=URL[,URL] --config HOST:key=value */
#include "drive.h"
#include "list.h"
#include "log.h"
#include "mem.h"
#include "pull/hosts.h"
#include "pull/pull.h"
#include "reactor/loop.h"
#include "str.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct known {
    struct list link;
    char *chain;
    uint64_t number;
    unsigned held;
};

struct job {
    struct list link;
    char *id;
    struct pull *pull;
};

static struct loop *loop;
static struct puller *puller;
static struct list known = LIST_INIT(known), jobs = LIST_INIT(jobs);
static uint64_t last_number;
static bool record = true;

static struct known *known_find(const char *chain)
{
    struct known *k;

    list_each(k, &known, struct known, link)
        if (strcmp(k->chain, chain) == 0)
            return k;
    return NULL;
}

static bool have_layer(void *ctx, const char *chain, uint64_t *ret)
{
    struct known *k = known_find(chain);

    (void)ctx;
    if (!k)
        return false;
    k->held++;
    *ret = k->number;
    return true;
}

static void drop_layer(void *ctx, uint64_t number)
{
    struct known *k;

    (void)ctx;
    list_each(k, &known, struct known, link)
        if (k->number == number)
            k->held--;
}

static uint64_t new_number(void *ctx)
{
    return ++*(uint64_t *)ctx;
}

static bool keep(void *ctx, uint64_t number)
{
    struct known *k;

    (void)ctx;
    list_each(k, &known, struct known, link)
        if (k->number == number)
            return true;
    return false;
}

static void on_done(void *arg, const struct pull_result *r, const struct err *err)
{
    struct job *j = arg;
    json_t *o, *layers;
    char *text;

    if (err) {
        printf("%s fail %d %d %s\n", j->id, -err->code, err->grpc, err->text);
    } else {
        layers = json_array();
        for (size_t i = 0; i < r->n_layers; i++) {
            const struct pull_layer *l = &r->layers[i];

            json_array_append_new(layers, json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:b}", "digest",
                                                    l->digest, "diff_id", l->diff_id, "chain_id",
                                                    l->chain_id, "number", (json_int_t)l->number,
                                                    "blob_size", (json_int_t)l->blob_size, "size",
                                                    (json_int_t)l->size, "inodes",
                                                    (json_int_t)l->inodes, "had", l->had));
            if (record && !known_find(l->chain_id)) {
                struct known *k = mem_new(struct known);

                k->chain = mem_strdup(l->chain_id);
                k->number = l->number;
                list_add_tail(&known, &k->link);
            }
        }
        o = json_pack("{s:s,s:s?,s:s,s:s,s:I,s:o}", "ref", r->ref, "tag", r->tag, "repo_digest",
                      r->repo_digest, "image_id", r->image_id, "size", (json_int_t)r->size,
                      "layers", layers);
        text = json_dumps(o, JSON_COMPACT);
        printf("%s ok %s\n", j->id, text);
        free(text);
        json_decref(o);
    }
    list_del(&j->link);
    free(j->id);
    free(j);
}

static void command_pull(char *rest)
{
    struct pull_auth a = { 0 };
    struct err err = ERR_INIT;
    struct job *j = mem_new(struct job);
    char *save = NULL, *id = strtok_r(rest, " ", &save), *ref = strtok_r(NULL, " ", &save);

    for (char *w; (w = strtok_r(NULL, " ", &save));) {
        char *v = strchr(w, '=');

        if (!v)
            continue;
        *v++ = '\0';
        if (strcmp(w, "user") == 0)
            a.username = v;
        else if (strcmp(w, "password") == 0)
            a.password = v;
        else if (strcmp(w, "auth") == 0)
            a.auth = v;
        else if (strcmp(w, "identity_token") == 0)
            a.identity_token = v;
        else if (strcmp(w, "registry_token") == 0)
            a.registry_token = v;
        else if (strcmp(w, "server_address") == 0)
            a.server_address = v;
    }
    j->id = mem_strdup(id);
    list_add_tail(&jobs, &j->link);
    if (pull_start(puller, ref, &a, on_done, j, &j->pull, &err) < 0)
        on_done(j, NULL, &err);
}

static void command_cancel(const char *id)
{
    struct job *j;

    list_each(j, &jobs, struct job, link)
        if (strcmp(j->id, id) == 0) {
            pull_cancel(j->pull);
            printf("%s cancelled\n", id);
            list_del(&j->link);
            free(j->id);
            free(j);
            return;
        }
    printf("%s unknown\n", id);
}

static void command(char *line)
{
    char *rest = strchr(line, ' ');
    struct known *k;

    if (rest)
        *rest++ = '\0';
    if (strcmp(line, "pull") == 0 && rest) {
        command_pull(rest);
    } else if (strcmp(line, "cancel") == 0 && rest) {
        command_cancel(rest);
    } else if (strcmp(line, "record") == 0 && rest) {
        record = strcmp(rest, "yes") == 0;
        printf("record ok\n");
    } else if (strcmp(line, "remove") == 0 && rest) {
        uint64_t n = strtoull(rest, NULL, 10);

        list_each(k, &known, struct known, link)
            if (k->number == n) {
                list_del(&k->link);
                free(k->chain);
                free(k);
            }
        pull_remove_layers(puller, &n, 1);
        printf("remove ok\n");
    } else if (strcmp(line, "tree") == 0 && rest) {
        pull_remove_tree(puller, rest);
        printf("tree ok\n");
    } else if (strcmp(line, "collect") == 0) {
        pull_collect(puller, keep, NULL);
        printf("collect ok\n");
    } else if (strcmp(line, "held") == 0) {
        unsigned n = 0;

        list_each(k, &known, struct known, link)
            n += k->held;
        printf("held ok %u pulls %zu\n", n, pull_count(puller));
    } else if (strcmp(line, "quit") == 0) {
        loop_stop(loop);
    } else {
        printf("%s unknown\n", line);
    }
}

static struct hosts_mirror mirrors[8];
static struct hosts_config configs[8];
static struct hosts hosts = { mirrors, 0, configs, 0 };

static void add_mirror(char *arg)
{
    struct hosts_mirror *m = &mirrors[hosts.n_mirrors++];
    char **urls = mem_array(8, sizeof *urls), *eq = strchr(arg, '='), *save = NULL;
    size_t n = 0;

    *eq = '\0';
    m->host = arg;
    for (char *u = strtok_r(eq + 1, ",", &save); u && n < 7; u = strtok_r(NULL, ",", &save))
        urls[n++] = u;
    m->endpoints = urls;
}

static void add_config(char *arg)       /* HOST#key=value */
{
    char *key = strchr(arg, '#'), *value;
    struct hosts_config *c = NULL;

    *key++ = '\0';
    value = strchr(key, '=');
    *value++ = '\0';
    for (size_t i = 0; i < hosts.n_configs; i++)
        if (strcmp(configs[i].host, arg) == 0)
            c = &configs[i];
    if (!c) {
        c = &configs[hosts.n_configs++];
        c->host = arg;
    }
    if (strcmp(key, "username") == 0)
        c->username = value;
    else if (strcmp(key, "password") == 0)
        c->password = value;
    else if (strcmp(key, "ca_file") == 0)
        c->ca_file = value;
    else if (strcmp(key, "insecure") == 0)
        c->insecure_skip_verify = true;
}

int main(int argc, char **argv)
{
    struct puller_opts o = { .hosts = &hosts,
                             .have_layer = have_layer,
                             .drop_layer = drop_layer,
                             .new_number = new_number,
                             .ctx = &last_number };
    struct err err = ERR_INIT;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--root") == 0)
            o.root = argv[i + 1];
        else if (strcmp(argv[i], "--worker") == 0)
            o.worker = argv[i + 1];
        else if (strcmp(argv[i], "--stall") == 0)
            o.stall_ms = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--layers") == 0)
            o.max_layers = (unsigned)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--transfers") == 0)
            o.max_transfers = (unsigned)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--mirror") == 0)
            add_mirror(argv[i + 1]);
        else if (strcmp(argv[i], "--config") == 0)
            add_config(argv[i + 1]);
        else if (strcmp(argv[i], "--debug") == 0)
            log_set_level(LOG_LEVEL_DEBUG);
    }
    loop = loop_new(&err);
    if (!loop || puller_new(loop, &o, &puller, &err) < 0) {
        fprintf(stderr, "pulldrive: %s\n", err.text);
        return 1;
    }
    drive(loop, command);
    puller_free(puller);
    loop_free(loop);
    return 0;
}
