/* SPDX-License-Identifier: Apache-2.0 */
/* What statistics keep beside a container. */
#ifndef CRICKET_STATS_HANDLERS_H
#define CRICKET_STATS_HANDLERS_H

struct ctr_stats;

void ctr_stats_free(struct ctr_stats *s);        /* NULL is fine */

#endif
