/* SPDX-License-Identifier: Apache-2.0 */
/* The tree is built from libyaml's events, not with its document loader: events come one at a time,
 * so that the bounds of ynode.h stop a hostile file before it has cost anything. */
#include "ynode.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

struct ynode *ynode_free(struct ynode *n)
{
    while (n) {
        struct ynode *next = n->next;

        ynode_free(n->first);
        free(n->key);
        free(n->text);
        free(n);
        n = next;
    }
    return NULL;
}

const struct ynode *ynode_get(const struct ynode *map, const char *key)
{
    if (!map || map->kind != YNODE_MAP)
        return NULL;
    for (const struct ynode *c = map->first; c; c = c->next)
        if (strcmp(c->key, key) == 0)
            return c;
    return NULL;
}

size_t ynode_count(const struct ynode *n)
{
    size_t k = 0;

    for (const struct ynode *c = n->first; c; c = c->next)
        k++;
    return k;
}

const char *ynode_kind_name(enum ynode_kind k)
{
    static const char *const names[] = { "empty", "a single value", "a map", "a list" };

    return names[k];
}

/* One open collection; `key` is set between a map's key and its value. */
struct level {
    struct ynode *node;
    struct ynode **tail;
    char *key;
    unsigned key_line;
};

struct build {
    const char *name;
    struct ynode *root;
    struct level stack[YNODE_DEPTH_MAX];
    size_t depth, count;
    unsigned documents;
    struct err *err;
};

#define build_fail(b, line, fmt, ...) \
    err_set((b)->err, -EINVAL, "%s:%u: " fmt, (b)->name, line, ##__VA_ARGS__)

static int build_text(struct build *b, const yaml_event_t *e, unsigned line, char **ret)
{
    const char *v = (const char *)e->data.scalar.value;

    if (memchr(v, 0, e->data.scalar.length))
        return build_fail(b, line, "a NUL byte in a value");
    *ret = mem_dup(v, e->data.scalar.length);
    return 0;
}

static bool is_null(const struct ynode *n)
{
    return !n->quoted && (!n->text[0] || strcmp(n->text, "~") == 0 || strcmp(n->text,
                                                                             "null") == 0 ||
                          strcmp(n->text, "Null") == 0 || strcmp(n->text, "NULL") == 0);
}

/* Takes over n. */
static int build_add(struct build *b, struct ynode *n)
{
    struct level *l = b->depth ? &b->stack[b->depth - 1] : NULL;

    if (l && l->node->kind == YNODE_MAP) {
        n->key = take_ptr(l->key);
        n->line = l->key_line;
    }
    if (l) {
        *l->tail = n;
        l->tail = &n->next;
    } else {
        b->root = n;
    }
    if (++b->count > YNODE_COUNT_MAX)
        return build_fail(b, n->line, "more than %d values", YNODE_COUNT_MAX);
    return 0;
}

static bool wants_key(const struct build *b)
{
    const struct level *l = b->depth ? &b->stack[b->depth - 1] : NULL;

    return l && l->node->kind == YNODE_MAP && !l->key;
}

static int build_key(struct build *b, const yaml_event_t *e, unsigned line)
{
    struct level *l = &b->stack[b->depth - 1];
    auto_free char *key = NULL;
    int r = build_text(b, e, line, &key);

    if (r < 0)
        return r;
    if (!key[0])
        return build_fail(b, line, "an empty key");
    const struct ynode *old = ynode_get(l->node, key);
    if (old)
        return build_fail(b, line, "key '%.80s' is already on line %u", key, old->line);
    l->key = take_ptr(key);
    l->key_line = line;
    return 0;
}

static int build_scalar(struct build *b, const yaml_event_t *e, unsigned line)
{
    if (e->data.scalar.tag)
        return build_fail(b, line, "tag '%.80s': tags are not supported", e->data.scalar.tag);
    if (wants_key(b))
        return build_key(b, e, line);

    struct ynode *n = mem_new(struct ynode);
    n->line = line;
    n->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    int r = build_text(b, e, line, &n->text);
    if (r < 0) {
        ynode_free(n);
        return r;
    }
    n->kind = is_null(n) ? YNODE_NULL : YNODE_SCALAR;
    return build_add(b, n);
}

static int build_open(struct build *b, enum ynode_kind kind, const yaml_char_t *tag, unsigned line)
{
    if (tag)
        return build_fail(b, line, "tag '%.80s': tags are not supported", tag);
    if (wants_key(b))
        return build_fail(b, line, "a key must be a single value");
    if (b->depth == YNODE_DEPTH_MAX)
        return build_fail(b, line, "nested deeper than %d levels", YNODE_DEPTH_MAX);
    struct ynode *n = mem_new(struct ynode);
    n->kind = kind;
    n->line = line;
    int r = build_add(b, n);
    struct level *l = &b->stack[b->depth++];
    *l = (struct level){ n, &n->first, NULL, 0 };
    return r;
}

static int build_event(struct build *b, const yaml_event_t *e)
{
    unsigned line = (unsigned)e->start_mark.line + 1;

    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        return b->documents++ ? build_fail(b, line, "a second document") : 0;
    case YAML_ALIAS_EVENT:
        return build_fail(b, line, "alias '*%.80s': aliases are not supported",
                          e->data.alias.anchor);
    case YAML_SCALAR_EVENT:
        return build_scalar(b, e, line);
    case YAML_MAPPING_START_EVENT:
        return build_open(b, YNODE_MAP, e->data.mapping_start.tag, line);
    case YAML_SEQUENCE_START_EVENT:
        return build_open(b, YNODE_LIST, e->data.sequence_start.tag, line);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        b->depth--;
        return 0;
    default:
        return 0;
    }
}

/* A byte that cannot be in a text has an offset, what does not parse has a line. */
static int build_syntax(struct build *b, const yaml_parser_t *p, const char *text, size_t n)
{
    unsigned line = (unsigned)p->problem_mark.line + 1;
    const char *why = p->problem ? p->problem : "out of memory";

    if (p->error != YAML_READER_ERROR)
        return build_fail(b, line, "not valid YAML: %s", why);
    for (size_t i = line = 0; i < n && i < p->problem_offset; i++)
        line += text[i] == '\n';
    return build_fail(b, line + 1, "not a text file: %s", why);
}

static int build_run(struct build *b, yaml_parser_t *p, const char *text, size_t n)
{
    for (;;) {
        yaml_event_t e;

        if (!yaml_parser_parse(p, &e))
            return build_syntax(b, p, text, n);
        bool end = e.type == YAML_STREAM_END_EVENT;
        int r = build_event(b, &e);
        yaml_event_delete(&e);
        if (r < 0 || end)
            return r;
    }
}

int ynode_parse(const char *name, const void *p, size_t n, struct ynode **ret, struct err *err)
{
    struct build b = { .name = name, .err = err };
    yaml_parser_t parser;

    if (n > YNODE_FILE_MAX)
        return err_set(err, -EFBIG, "%s: larger than %d KiB", name, YNODE_FILE_MAX / 1024);
    if (n == 0) {
        *ret = mem_new(struct ynode);
        (*ret)->line = 1;
        return 0;
    }
    if (!yaml_parser_initialize(&parser))
        return err_set(err, -ENOMEM, "%s: out of memory", name);
    yaml_parser_set_input_string(&parser, p, n);
    int r = build_run(&b, &parser, p, n);
    yaml_parser_delete(&parser);
    for (size_t i = 0; i < b.depth; i++)
        free(b.stack[i].key);
    if (r < 0) {
        ynode_free(b.root);
        return r;
    }
    if (!b.root) {
        b.root = mem_new(struct ynode);
        b.root->line = 1;
    }
    *ret = b.root;
    return 0;
}

int ynode_load(const char *path, struct ynode **ret, struct err *err)
{
    auto_free char *buf = NULL;
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    size_t n = 0, cap = 0;

    if (fd < 0)
        return err_sys(err, "%s", path);
    for (;;) {
        if (n == cap) {
            cap = cap ? cap * 4 : 16 * 1024;
            buf = mem_grow(buf, cap, 1);
        }
        ssize_t k = read(fd, buf + n, cap - n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_sys(err, "%s", path);
        if (k == 0)
            break;
        n += (size_t)k;
        if (n > YNODE_FILE_MAX)
            return err_set(err, -EFBIG, "%s: larger than %d KiB", path, YNODE_FILE_MAX / 1024);
    }
    return ynode_parse(path, buf, n, ret, err);
}
