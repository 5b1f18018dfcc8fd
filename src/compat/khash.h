/* SPDX-License-Identifier: Apache-2.0 */
/* Build-time stand-in for the <khash.h> that h2o/http2_internal.h of libh2o
 * 2.2.x includes and that the Debian -dev packages do not ship.  The bridge
 * never looks a stream up in the table, so declarations are enough: the type
 * has to exist, the one inline function of the header that uses it has to
 * compile.  Nothing here is ever executed (kh_get aborts). */
#ifndef CRICKET_COMPAT_KHASH_H
#define CRICKET_COMPAT_KHASH_H
#include <stdint.h>
#include <stdlib.h>

typedef uint32_t khiter_t;
#define khash_t(name) struct crk_khash_##name
#define KHASH_MAP_INIT_INT64(name, valtype)                                    \
    khash_t(name) { khiter_t n_buckets; valtype *vals; };                      \
    static inline khiter_t crk_kh_get_##name(khash_t(name) *h, uint64_t k)     \
    { (void)h; (void)k; abort(); }
#define kh_get(name, h, k) crk_kh_get_##name((h), (k))
#define kh_end(h) ((h)->n_buckets)
#define kh_val(h, x) ((h)->vals[x])
#endif
