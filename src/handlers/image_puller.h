/* SPDX-License-Identifier: Apache-2.0 */
/* Between the puller, which knows registries and directories, and the images, which know records:
 * the configuration's hosts, and which layers are there and held. */
#ifndef CRICKET_IMAGE_PULLER_H
#define CRICKET_IMAGE_PULLER_H

#include "handlers/objects.h"

/* Makes h->hosts and h->puller. Needs h->conf, h->loop, h->images, h->worker_path. */
int image_puller_new(struct handlers *h, struct err *err);
/* Ends running pulls (their calls are answered) and frees both. Before the store closes. */
void image_puller_free(struct handlers *h);

/* The record of an image that was pulled, and of each of its layers. Freed by free_unpacked. */
Cricket__State__Image *image_record(const struct pull_result *r, const char *runtime_handler,
                                    struct err *err);
Cricket__State__Layer *layer_record(const struct pull_layer *l);

#endif
