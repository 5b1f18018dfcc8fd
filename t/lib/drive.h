/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs for scripts have in common: commands are lines on stdin, until that ends. */
#ifndef CRICKET_TEST_DRIVE_H
#define CRICKET_TEST_DRIVE_H

#include "reactor/loop.h"
#include "str.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct drive {
    struct ev_io io;
    struct loop *loop;
    struct str input;
    void (*on_line)(char *line);
};

static void drive_on_input(struct ev_loop *ev, struct ev_io *w, int revents)
{
    struct drive *d = w->data;
    ssize_t n = read(w->fd, str_room(&d->input, 65536), 65536);
    char *end;

    (void)revents;
    if (n <= 0) {
        ev_io_stop(ev, w);
        loop_stop(d->loop);
        return;
    }
    d->input.len += (size_t)n;
    while ((end = memchr(d->input.p, '\n', d->input.len))) {
        *end = '\0';
        d->on_line(d->input.p);
        str_consume(&d->input, (size_t)(end - d->input.p) + 1);
    }
}

/* Runs the loop. */
static void drive(struct loop *loop, void (*on_line)(char *line))
{
    struct drive d = { .loop = loop, .input = STR_INIT, .on_line = on_line };

    ev_io_init(&d.io, drive_on_input, 0, EV_READ);
    d.io.data = &d;
    ev_io_start(loop_ev(loop), &d.io);
    loop_run(loop);
    ev_io_stop(loop_ev(loop), &d.io);
    str_free(&d.input);
}

/* A command as JSON. */
__attribute__((unused)) static json_t *drive_json(const char *line)
{
    json_error_t where;
    json_t *o = json_loads(line, 0, &where);

    if (!o) {
        fprintf(stderr, "bad line: %s\n", where.text);
        abort();
    }
    return o;
}

/* An answer, which is consumed. */
__attribute__((unused)) static void say(json_t *o)
{
    char *s = json_dumps(o, JSON_COMPACT);

    puts(s);
    fflush(stdout);
    free(s);
    json_decref(o);
}

#endif
