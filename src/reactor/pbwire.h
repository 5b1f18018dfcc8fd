/* SPDX-License-Identifier: Apache-2.0 */
/* Looks over an encoded protobuf message before it is decoded, and says what is wrong and where. */
#ifndef CRICKET_PBWIRE_H
#define CRICKET_PBWIRE_H

#include "err.h"

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

/* 0, or a negative errno with grpc INVALID_ARGUMENT and the path of the field
 * ("config.labels.value"): truncated or contradictory encoding; a string that is not UTF-8; a
 * string with a NUL byte, which a C string would silently cut. Unknown fields are skipped. */
int pbwire_check(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n, struct err *err);

#endif
