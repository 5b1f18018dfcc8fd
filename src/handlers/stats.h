/* SPDX-License-Identifier: Apache-2.0 */
/* What statistics keep beside a container or a sandbox, and the measuring of writable layers in the
 * background. */
#ifndef CRICKET_STATS_HANDLERS_H
#define CRICKET_STATS_HANDLERS_H

#include "handlers/objects.h"
#include "list.h"

struct pool;
struct stats;

struct ctr_stats {
    bool has_sample, has_rate;
    int64_t sample_at_ns;            /* of the newer sample that the rate was made of */
    uint64_t sample_cpu_ns;
    uint64_t nano_cores;
    /* the writable layer; of containers only */
    bool asked;                      /* in the queue, or being measured */
    bool walked;                     /* by the worker that runs now */
    bool measured;
    int64_t measured_at_ns;          /* wall clock, for the reply */
    int64_t measured_mono_ms;
    uint64_t bytes, inodes;
};

void ctr_stats_free(struct ctr_stats *s);        /* NULL is fine */
/* Made on first use. */
struct ctr_stats *ctr_stats_get(struct ctr_stats **s);

/* At handlers_free(): ends what runs in the background. Returns NULL. */
struct stats_state *stats_state_free(struct stats_state *st);

/* --- measure.c: a walk per container at most every MEASURE_TTL_MS, by one worker at a time, only
 * when somebody asks */
enum { MEASURE_TTL_MS = 10000 };

/* Queues the container when its numbers are old; measure_start() lets the worker begin. */
void measure_want(struct ctr *c);
void measure_start(struct handlers *h);
/* Called each time that a worker has ended. In the list until list_del(). */
struct measure_wait {
    struct list link;
    void (*cb)(void *arg);
    void *arg;
};
void measure_wait(struct handlers *h, struct measure_wait *w, void (*cb)(void *arg), void *arg);

/* --- stats.c */
/* Was cgroup_parent given? Else the parent is shared with other pods, and a pod is the sum of its
 * containers. */
bool sandbox_has_own_cgroup(const struct sandbox *s);
/* Writable layer, or NULL while it was never measured. */
Runtime__V1__FilesystemUsage *stats_layer(struct ctr *c, struct pool *pool);

#endif
