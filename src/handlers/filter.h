/* SPDX-License-Identifier: Apache-2.0 */
/* List filters: all conditions that are given must hold; a NULL filter lets every visible object
 * through. */
#ifndef CRICKET_FILTER_H
#define CRICKET_FILTER_H

#include "handlers/objects.h"

bool sandbox_filter_match(struct sandbox *s, const Runtime__V1__PodSandboxFilter *f);
bool ctr_filter_match(struct ctr *c, const Runtime__V1__ContainerFilter *f);

#endif
